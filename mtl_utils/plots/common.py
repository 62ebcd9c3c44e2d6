"""What the figures of several chapters share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from mtl_utils.lesions import (
    FUSED_COLOURS,
    FUSED_NAMES,
    GROUP_COLOURS,
    GROUP_NAMES,
    LESION_COLOURS,
    LESION_NAMES,
    LESIONS,
)

if TYPE_CHECKING:  # predict.py stands to the right of this room, and draws with it; torch starts slowly
    from torch import nn

    from mtl_utils.systems.base import FundusNetwork

COLOURS = LESION_COLOURS | GROUP_COLOURS | FUSED_COLOURS
NAMES = {lesion: f"{name} ({lesion})" for lesion, name in LESION_NAMES.items()} | GROUP_NAMES | FUSED_NAMES
# So that nothing covers it.
_SMALLEST_LAST = ("OD", "lesion", "disc", "SE", "EX", "yellow", "HE", "red", "MA")


def overlay(
    image: np.ndarray,
    masks: np.ndarray | Mapping[str, np.ndarray],
    threshold: float = 0.5,
    fill: float = 0.45,
) -> np.ndarray:
    """Lay masks over a photograph, each lesion in its colour with a firm outline.

    Args:
        image: RGB, uint8 (H, W, 3).
        masks: 0-1 values, (5, H, W) in the order of `LESIONS`, or a dict: lesion or group ('red') -> (H, W).
        threshold: a pixel is marked from this value on.
        fill: opacity of the inside.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    masks = masks if isinstance(masks, Mapping) else dict(zip(LESIONS, masks, strict=True))
    shown = image.astype(np.float32)
    width = max(1, round(max(image.shape) / 500))
    for lesion in sorted(masks, key=_SMALLEST_LAST.index):
        mask = (np.asarray(masks[lesion]) >= threshold).astype(np.uint8)
        colour = 255 * np.array(to_rgb(COLOURS[lesion]), np.float32)
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
    """Name the colours of lesions or groups below a figure."""
    patches = [Patch(color=COLOURS[lesion], label=NAMES[lesion]) for lesion in lesions]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def grid(rows: int, columns: int, side: float = 2.6) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns picture frames; axes always come as a 2-D array."""
    size = (side * columns, side * rows)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


TRAINING, VALIDATION, PLAIN = "#0072B2", "#D55E00", "#666666"
TASK_COLOURS = {"grading": TRAINING, "segmentation": VALIDATION, "both": "#007A5A"}
EDGE = [withStroke(linewidth=3.6, foreground="#333333")]  # yellow on white needs an edge


def open_frame(*axes: Axes) -> None:
    """No lines above and on the right."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)


def p_text(p: float) -> str:
    """A p-value as it is written: never as 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def curve_style(column: str) -> dict:
    """Look of a curve: a lesion or group in its colour; else training and validation apart."""
    lesion = column.rsplit("/", 1)[-1]
    if lesion in COLOURS:
        return {"color": COLOURS[lesion], "linewidth": 2.2, "path_effects": EDGE}
    return {"color": TRAINING if column.startswith("train/") else VALIDATION, "linewidth": 2}


def count_parameters(module: nn.Module) -> int:
    """How many numbers a part of a network learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def measured_shapes(network: FundusNetwork, size: int) -> dict[str, list[tuple[int, int]]]:
    """(channels, side) of what passes in a network, read while one black picture of side `size` does.

    Returns:
        'encoder': every level; 'decoder': every block, empty where there is none; 'grader': every level of
        MTUnet-B's second encoder, empty in others.
    """
    import torch

    passed: dict[str, list[tuple[int, int]]] = {"decoder": [], "grader": []}

    def note(kind: str):
        def hook(module, inputs, output) -> None:
            levels = output if isinstance(output, list) else [output]
            passed[kind] += [tuple(level.shape[1:3]) for level in levels]

        return hook

    parts = [("decoder", block) for block in network.decoder.blocks] if hasattr(network, "decoder") else []
    parts += [("grader", network.grader)] if hasattr(network, "grader") else []
    hooks = [part.register_forward_hook(note(kind)) for kind, part in parts]
    training = network.training
    try:
        with torch.inference_mode():
            levels = network.eval().features(torch.zeros(1, 3, size, size, device=network.mean.device))
            network.heads(levels, network.tasks)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return {"encoder": [tuple(level.shape[1:3]) for level in levels], **passed}
