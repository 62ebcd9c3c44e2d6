"""How near does a restored picture come to the original? PSNR and SSIM inside the field of view.

A quarter of a square fundus picture is black, and black is easy to restore. So only the field of view counts:
the paper (DeepMT-DR, Table 3) does not say what its figures are taken over.
"""

from __future__ import annotations

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.morphology import disk

from mtl_utils.data.fov import inside_field_of_view
from mtl_utils.errors import MTLError


def psnr(restored: np.ndarray, original: np.ndarray, inside: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10 (1 / mean square error), by scikit-image.

    Args:
        restored, original: RGB in [0, 1], float (H, W, 3). What lies outside of the range is clipped, as it
            would be in a file.
        inside: bool (H, W), the pixels that count.

    Returns:
        dB; infinite where nothing differs.

    >>> psnr(np.full((2, 2, 3), 0.6), np.full((2, 2, 3), 0.5), np.ones((2, 2), bool)).__round__(3)
    20.0
    """
    _check(restored, original, inside)
    with np.errstate(divide="ignore"):  # equal pictures
        return float(peak_signal_noise_ratio(original[inside], np.clip(restored, 0, 1)[inside], data_range=1))


def ssim(restored: np.ndarray, original: np.ndarray, inside: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004; scikit-image, Gaussian windows with sigma 1.5), the mean of
    its map over the field of view: 1 for equal pictures.

    Args: as `psnr`.
    """
    _check(restored, original, inside)
    _, similarity = structural_similarity(
        np.clip(restored, 0, 1).astype(np.float32),  # half the time of float64, and equal to five digits
        original.astype(np.float32),
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(similarity[inside].mean())


def without_rim(inside: np.ndarray, rim: int) -> np.ndarray:
    """A field of view without its rim, bool (H, W).

    Args:
        inside: 0 or 1, uint8 (H, W), from `data.fov.inside_field_of_view`.
        rim: width of what is left out, in pixels.
    """
    # What lies beyond the picture's own border is not black: only the edge inside of it is a rim.
    return cv2.erode(inside, disk(rim), borderValue=1).astype(bool)


def compare(restored: np.ndarray, simple: np.ndarray, original: np.ndarray, rim: int) -> dict[str, float]:
    """One restored photograph beside its bicubic enlargement.

    The rim of the field of view, where light falls to black within a pixel or two, is left out: on IDRiD at
    512 px bicubic loses 5 dB there, and a network that learns where the light ends gains three times as many
    dB with the rim as without it (record `isr`). That is of use to nobody.

    Args:
        restored, simple, original: RGB in [0, 1], float (H, W, 3); `simple` is the bicubic enlargement.
        rim: width of what is left out at the edge of the field of view, in pixels.

    Returns:
        `psnr`, `ssim`, of the bicubic one `bicubic/psnr`, `bicubic/ssim`, the differences `gain/psnr`,
        `gain/ssim`, and with the rim `with_rim/psnr`, `with_rim/bicubic/psnr`.

    Raises:
        MTLError: the sizes differ, or the rim is all that there is.
    """
    whole = inside_field_of_view(np.rint(original * 255).astype(np.uint8))
    inside = without_rim(whole, rim)
    found = {}
    for name, picture in (("", restored), ("bicubic/", simple)):
        found[f"{name}psnr"] = psnr(picture, original, inside)
        found[f"{name}ssim"] = ssim(picture, original, inside)
        found[f"with_rim/{name}psnr"] = psnr(picture, original, whole.astype(bool))
    for kind in ("psnr", "ssim"):
        found[f"gain/{kind}"] = found[kind] - found[f"bicubic/{kind}"]
    return found


def _check(restored: np.ndarray, original: np.ndarray, inside: np.ndarray) -> None:
    if restored.shape != original.shape or original.shape[:2] != inside.shape or not inside.any():
        raise MTLError(
            f"pictures of {restored.shape} and {original.shape} with a field of view of {inside.shape}, "
            f"{int(np.sum(inside))} pixels: give two RGB pictures of one size, and some pixels that count"
        )
