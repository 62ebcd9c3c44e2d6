"""What steps cost beside a plain one: measured, so only what must hold on any machine is asserted."""

from __future__ import annotations

import pytest
import torch

from mtl_utils.encoders import BUNDLED_ENCODER
from mtl_utils.runtime import STATUS
from mtl_utils.training import gmsv_costs
from mtl_utils.training.costs import GMSV_KINDS, _costs


def test_gmsv_costs_at_most_one_and_a_half_steps():
    costs = gmsv_costs(BUNDLED_ENCODER, "bundled", size=96, batch_size=2, repeats=4)
    assert tuple(costs.index) == GMSV_KINDS
    assert (costs["seconds"] > 0).all()
    assert costs["times"].tolist() == pytest.approx([1, costs["seconds"].iloc[1] / costs["seconds"].iloc[0]])
    assert 0 < costs.loc["gmsv", "times"] <= 1.5
    if STATUS.exists() and not torch.cuda.is_available():
        assert costs["peak_memory_gib"].between(0.001, 2).all()


SIDE = {"small": 1024, "large": 4096}  # of square matrices of ones


def ones() -> dict:
    return {name: lambda side=side: torch.ones(side, side).sum() for name, side in SIDE.items()}


@pytest.mark.skipif(not STATUS.exists() or torch.cuda.is_available(), reason="reads Linux's own numbers")
def test_each_step_has_its_own_time_and_memory():
    costs = _costs(ones, repeats=5)
    assert list(costs["times"]) == pytest.approx([1, costs.seconds.large / costs.seconds.small])
    assert costs.times.large > 4  # 16 times as many numbers
    assert costs.peak_memory_gib.large == pytest.approx(4096**2 * 4 / 2**30, rel=0.25)
    assert costs.peak_memory_gib.small < costs.peak_memory_gib.large / 2
