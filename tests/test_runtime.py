"""The first call of every chapter, and what it says to a reader who gave it something else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mtl_utils import setup
from mtl_utils.errors import MTLError


@pytest.fixture
def synthetic_data(synthetic_root, monkeypatch):
    monkeypatch.setenv("MTL_DATA", str(synthetic_root))
    return synthetic_root


def test_the_seed_rules_python_numpy_and_torch(synthetic_data, capsys):
    def draw(seed: int) -> tuple[float, float, float]:
        runtime = setup("smoke", seed)
        assert (runtime.seed, runtime.data, runtime.synthetic) == (seed, synthetic_data, True)
        assert runtime.label == "synthetic set"
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    first, second, other = draw(1), draw(1), draw(2)
    assert first == second
    assert all(a != b for a, b in zip(first, other))
    assert "smoke" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "one"])
def test_a_seed_that_is_none_is_refused(synthetic_data, seed):
    with pytest.raises(MTLError, match="give a whole number from 0 to"):
        setup("smoke", seed)


def test_an_unknown_profile_is_refused(synthetic_data, monkeypatch):
    monkeypatch.setenv("MTL_PROFILE", "laptop")
    with pytest.raises(MTLError, match=r"no profile 'laptop'.*MTL_PROFILE.*smoke"):
        setup()


def test_a_cache_that_cannot_be_made_is_named(synthetic_data, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(MTLError, match=r"cache .*file cannot be made \(.*MTL_CACHE"):
        setup("smoke")


def test_data_that_are_no_folder_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MTL_DATA", str(tmp_path / "gone"))
    with pytest.raises(MTLError, match=r"gone, which is no folder"):
        setup("smoke")
