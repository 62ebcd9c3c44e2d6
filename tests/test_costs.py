"""What steps cost beside a plain one: measured, so only what must hold on any machine is asserted."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mtl_utils.encoders import BUNDLED_ENCODER
from mtl_utils.runtime import STATUS
from mtl_utils.training import costs, gmsv_costs
from mtl_utils.training.costs import GMSV_KINDS, _costs


def test_gmsv_costs_at_most_one_and_a_half_steps(monkeypatch):
    # The memory is measured in processes of their own, for a record in `test_deepmt_runs.py`.
    monkeypatch.setattr(costs, "_costs", partial(_costs, memory=False))
    found = gmsv_costs(BUNDLED_ENCODER, "bundled", size=96, batch_size=2, repeats=4)
    assert tuple(found.index) == GMSV_KINDS
    assert (found["seconds"] > 0).all()
    assert found["times"].tolist() == pytest.approx([1, found["seconds"].iloc[1] / found["seconds"].iloc[0]])
    assert 0 < found.loc["gmsv", "times"] <= 1.5


SIDE = {"small": 1024, "large": 4096}  # of square matrices of ones


def ones() -> dict:
    return {name: lambda side=side: torch.ones(side, side).sum() for name, side in SIDE.items()}


@pytest.mark.skipif(not STATUS.exists() or torch.cuda.is_available(), reason="reads Linux's own numbers")
def test_each_step_has_its_own_time_and_memory():
    found = _costs(ones, repeats=5)
    assert list(found["times"]) == pytest.approx([1, found.seconds.large / found.seconds.small])
    assert found.times.large > 4  # 16 times as many numbers
    assert found.peak_memory_gib.large == pytest.approx(4096**2 * 4 / 2**30, rel=0.25)
    assert found.peak_memory_gib.small < found.peak_memory_gib.large / 2
