"""PSNR and SSIM inside the field of view, against hand-worked numbers and torchmetrics."""

from __future__ import annotations

from math import exp

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from mtl_utils.errors import MTLError
from mtl_utils.image_quality import compare, psnr, ssim


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


RADIUS = 40


@pytest.fixture
def eye() -> tuple[np.ndarray, np.ndarray]:
    """A disc of 0.6 on black, and how far each pixel is from its middle."""
    lit = cv2.circle(np.zeros((96, 96), np.uint8), (48, 48), RADIUS, 1, -1)
    distance = np.hypot(*np.ogrid[-48:48, -48:48])
    return np.repeat(0.6 * lit[..., None], 3, axis=2), distance


def test_a_constant_difference_and_the_gain_by_hand(eye):
    original, distance = eye
    found = compare(original + 0.01, original + 0.1, original, rim=8)
    # 10 log10 of 1 / 0.01^2 and of 1 / 0.1^2
    expected = {"psnr": 40, "bicubic/psnr": 20, "gain/psnr": 20, "with_rim/psnr": 40}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["with_rim/bicubic/psnr"] == pytest.approx(20)
    assert found["gain/ssim"] == pytest.approx(found["ssim"] - found["bicubic/ssim"])
    assert 0 < found["bicubic/ssim"] < found["ssim"] < 1
    within = distance <= RADIUS - 12  # the rim is left out of SSIM as well
    assert found["ssim"] == pytest.approx(ssim(original + 0.01, original, within), abs=2e-3)
    assert len(found) == 8


def test_what_is_wrong_in_the_rim_only_is_left_out(eye):
    original, distance = eye
    wrong = (distance > RADIUS - 5) & (original[..., 0] > 0)
    restored = original - 0.5 * wrong[..., None]
    found = compare(restored, original + 0.1, original, rim=8)
    assert found["psnr"] == float("inf")
    share = wrong.sum() / (original[..., 0] > 0).sum()
    assert found["with_rim/psnr"] == pytest.approx(-10 * np.log10(0.25 * share), abs=0.1)
    # The rim is as wide as it is said to be: one pixel less, and the error's inner edge counts.
    assert compare(restored, original, original, rim=6)["psnr"] == float("inf")
    assert compare(restored, original, original, rim=4)["psnr"] < 40


def test_black_does_not_count_and_the_pictures_border_is_no_rim(eye):
    original, distance = eye
    outside = np.repeat((distance > RADIUS + 1)[..., None], 3, axis=2)
    assert compare(original + outside, original, original, rim=8)["with_rim/psnr"] == float("inf")
    whole = np.full((48, 48, 3), 0.6)
    restored = whole.copy()
    restored[0, 0] += 0.1  # in the corner of a picture without black: one of 2304 pixels
    found = compare(restored, whole, whole, rim=8)
    assert found["psnr"] == found["with_rim/psnr"] == pytest.approx(-10 * np.log10(0.01 / 2304))


def test_a_rim_that_leaves_nothing_is_refused(eye):
    original, _ = eye
    with pytest.raises(MTLError, match=r" 0 pixels"):
        compare(original, original, original, rim=RADIUS + 2)
    with pytest.raises(MTLError, match="one size"):
        compare(original[1:], original, original, rim=8)


def test_ssim_has_windows_of_sigma_1_5_by_hand():
    # One white pixel against black. There the window's weight is g^2, and mean and mean square are g^2 too;
    # the other picture's are 0.
    white = np.zeros((21, 21, 3))
    white[10, 10] = 1
    there = white[..., 0] == 1
    g = 1 / (1 + 2 * sum(exp(-(k**2) / 4.5) for k in range(1, 6)))
    mean, c1, c2 = g**2, 1e-4, 9e-4
    expected = c1 * c2 / ((mean**2 + c1) * (mean - mean**2 + c2))
    assert ssim(np.zeros_like(white), white, there) == pytest.approx(expected, rel=1e-3)


def test_ssim_of_what_would_be_saved():
    white = np.ones((16, 16, 3))
    white[:, ::2] = 0.5
    assert ssim(white + 0.5 * (white == 1), white, np.ones((16, 16), bool)) == pytest.approx(1)
