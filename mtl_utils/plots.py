"""Every figure of the course. Functions draw into a new figure and return it; the notebook shows what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mtl_utils.lesions import LESION_COLOURS, LESION_NAMES, LESIONS

# ---------------------------------------------------------------- what all figures share


def overlay(image: np.ndarray, masks: np.ndarray | Mapping[str, np.ndarray], threshold: float = 0.5, fill: float = 0.45) -> np.ndarray:
    """Lay masks over a photograph, each lesion in its colour with a firm outline.

    Args:
        image: RGB, uint8 (H, W, 3).
        masks: 0-1 values, (5, H, W) in the order of `LESIONS`, or a dict lesion -> (H, W).
        threshold: a pixel belongs to the lesion from this value on.
        fill: opacity of the inside.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    masks = masks if isinstance(masks, Mapping) else dict(zip(LESIONS, masks, strict=True))
    shown = image.astype(np.float32)
    width = max(1, round(max(image.shape) / 500))
    for lesion in ("OD", "SE", "EX", "HE", "MA"):  # the smallest last, so that nothing covers it
        if lesion not in masks:
            continue
        mask = (np.asarray(masks[lesion]) >= threshold).astype(np.uint8)
        colour = 255 * np.array(to_rgb(LESION_COLOURS[lesion]), np.float32)
        shown = np.where(mask[..., None] > 0, (1 - fill) * shown + fill * colour, shown)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        shown = cv2.drawContours(np.ascontiguousarray(shown), outlines, -1, colour.tolist(), width)
    return shown.round().astype(np.uint8)


def show_picture(axes: Axes, image: np.ndarray, title: str = "", **imshow) -> None:
    """A picture without ticks."""
    axes.imshow(image, **imshow)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def lesion_legend(figure: Figure, lesions: Sequence[str] = LESIONS) -> None:
    """Name the lesions' colours below a figure."""
    patches = [Patch(color=LESION_COLOURS[lesion], label=f"{LESION_NAMES[lesion]} ({lesion})") for lesion in lesions]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def grid(rows: int, columns: int, side: float = 2.6) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns picture frames; axes always come as a 2-D array."""
    return plt.subplots(rows, columns, figsize=(side * columns, side * rows), layout="constrained", squeeze=False)
