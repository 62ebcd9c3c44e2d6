"""Figures of chapter 00, start here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mtl_utils.lesions import GRADE_NAMES, LESIONS
from mtl_utils.plots.common import grid, lesion_legend, overlay, show_picture

if TYPE_CHECKING:  # predict.py stands to the right of this room, and draws with it; torch starts slowly
    from mtl_utils.predict import Prediction


def _for_the_screen(array: np.ndarray, longest: int = 720) -> np.ndarray:
    """Shrunk: to lay masks over twelve million pixels takes seconds, and shows no more."""
    scale = longest / max(array.shape[:2])
    return cv2.resize(array, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else array


def _marked(image: np.ndarray, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Masks over the photograph in grey: exudates are yellow themselves, and all colour shall be marks."""
    grey = cv2.cvtColor(_for_the_screen(image), cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    small = {lesion: _for_the_screen(np.asarray(mask, np.float32)) for lesion, mask in masks.items()}
    return overlay(grey, small, fill=0.7)


def photograph_and_truth(image: np.ndarray, masks: np.ndarray, grade: int, label: str) -> Figure:
    """A photograph, and in grey the same with its masks (5, H, W) laid over it."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.6), layout="constrained")
    show_picture(axes[0], image, "the photograph")
    show_picture(axes[1], _marked(image, dict(zip(LESIONS, masks, strict=True))), "what is marked in it")
    figure.suptitle(f"One eye, grade {grade}: {GRADE_NAMES[grade]} ({label})")
    lesion_legend(figure)
    return figure


def _grade_bars(ax: Axes, probabilities: np.ndarray, grade: int | None) -> None:
    """How probable each grade is, the most probable one dark; the true grade, where it is known, named."""
    chosen = int(probabilities.argmax())
    colours = ["#1f4e79" if grade_here == chosen else "#a9c1d9" for grade_here in range(len(GRADE_NAMES))]
    bars = ax.barh(range(len(GRADE_NAMES)), probabilities, color=colours)
    ax.bar_label(bars, [f"{probability:.0%}" for probability in probabilities], padding=3, fontsize=9)
    names = [f"{number} {name}" for number, name in enumerate(GRADE_NAMES)]
    if grade is not None:
        names[grade] += "\n(true grade)"
    ax.set_yticks(range(len(GRADE_NAMES)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, max(0.5, 1.2 * float(probabilities.max())))
    ax.set_xticks([])
    ax.set_title("the network's grade", fontsize=10)
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def truth_and_prediction(
    prediction: Prediction,
    title: str,
    truth: Mapping[str, np.ndarray] | None = None,
    grade: int | None = None,
) -> Figure:
    """A photograph, what a network marks in it, how probable it finds each grade; the truth, where known.

    Args:
        prediction: of a network that does both tasks.
        title: of the figure; names the data.
        truth: lesion -> bool (H, W).
        grade: the true one.
    """
    rows = (
        [["photograph", "prediction", "grades"]]
        if truth is None
        else [["photograph", "grades"], ["truth", "prediction"]]
    )
    figure = plt.figure(figsize=(10.5, 3.9) if truth is None else (8.4, 6.4), layout="constrained")
    axes = figure.subplot_mosaic(rows, width_ratios=(1.2, 1.2, 0.9) if truth is None else (1, 1))
    show_picture(axes["photograph"], _for_the_screen(prediction.photograph), "the photograph")
    show_picture(
        axes["prediction"], _marked(prediction.photograph, prediction.masks), "what the network marks"
    )
    if truth is not None:
        show_picture(axes["truth"], _marked(prediction.photograph, truth), "the truth")
    _grade_bars(axes["grades"], prediction.probabilities, grade)
    figure.suptitle(title)
    lesion_legend(figure)
    return figure


def saved_prediction(path: Path) -> Figure:
    """The pictures that `predict.save_prediction` wrote beside its JSON file, each under its file's name."""
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    figure, axes = grid(2, 3, side=2.8)
    for ax, key in zip(axes.flat, ("overlay", *LESIONS), strict=True):
        with Image.open(path.parent / files[key]) as picture:
            show_picture(
                ax, _for_the_screen(np.array(picture), 400), files[key], cmap="gray", vmin=0, vmax=255
            )
    figure.suptitle(f"The pictures beside {path.name}; white: probability 1")
    return figure
