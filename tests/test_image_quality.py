"""PSNR and SSIM inside the field of view, against hand-worked numbers and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from mtl_utils.errors import MTLError
from mtl_utils.image_quality import psnr, ssim


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    original = rng.random((48, 40, 3))
    return np.clip(original + 0.1 * rng.standard_normal(original.shape), 0, 1), original


def test_psnr_by_hand_inside_only():
    original, restored = np.zeros((2, 2, 3, 3))
    restored[0, 0] = 0.5  # one of two pixels that count is off by a half: mean square error 1/8
    restored[1] = 1.0  # outside
    inside = np.array([[True, True, False], [False, False, False]])
    assert psnr(restored, original, inside) == pytest.approx(-10 * np.log10(1 / 8))
    assert psnr(original, original, inside) == float("inf")


def test_what_is_out_of_range_counts_as_it_would_be_saved():
    original = np.ones((2, 2, 3))
    assert psnr(original + 0.5, original, np.ones((2, 2), bool)) == float("inf")


def test_whole_pictures_agree_with_torchmetrics(pictures):
    restored, original = pictures
    everywhere = np.ones(original.shape[:2], bool)
    tensors = [torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in pictures]
    assert psnr(restored, original, everywhere) == pytest.approx(
        peak_signal_noise_ratio(*tensors, data_range=1.0).item()
    )
    # torchmetrics leaves the border out, where a window does not fit: 5 pixels.
    inner = np.zeros_like(everywhere)
    inner[5:-5, 5:-5] = True
    theirs = structural_similarity_index_measure(*tensors, data_range=1.0).item()
    assert ssim(restored, original, inner) == pytest.approx(theirs, abs=2e-3)
    assert ssim(original, original, everywhere) == pytest.approx(1)


def test_pictures_that_do_not_match_are_refused(pictures):
    restored, original = pictures
    with pytest.raises(MTLError, match="one size"):
        psnr(restored[1:], original, np.ones(original.shape[:2], bool))
    with pytest.raises(MTLError, match="0 pixels"):
        ssim(restored, original, np.zeros(original.shape[:2], bool))
