"""Every figure of the course. Functions draw into a new figure and return it; the notebook shows what it
gets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from mtl_utils.data.fov import FieldOfView, crop_square
from mtl_utils.data.prepare import WorkingCopy, shrink
from mtl_utils.data.splits import TASK_PARTS, Split
from mtl_utils.lesions import DISEASE_LESIONS, GRADE_NAMES, LESION_COLOURS, LESION_NAMES, LESIONS

if TYPE_CHECKING:  # predict.py stands to the right of this room, and draws with it; torch starts slowly
    from torch import nn

    from mtl_utils.predict import Prediction
    from mtl_utils.systems.shared_encoder import SharedEncoder

# ---------------------------------------------------------------- what all figures share


def overlay(
    image: np.ndarray,
    masks: np.ndarray | Mapping[str, np.ndarray],
    threshold: float = 0.5,
    fill: float = 0.45,
) -> np.ndarray:
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
    patches = [
        Patch(color=LESION_COLOURS[lesion], label=f"{LESION_NAMES[lesion]} ({lesion})") for lesion in lesions
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def grid(rows: int, columns: int, side: float = 2.6) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns picture frames; axes always come as a 2-D array."""
    size = (side * columns, side * rows)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


# ---------------------------------------------------------------- chapter 00: start here


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


# ---------------------------------------------------------------- chapter 01: exploring IDRiD

ROLE_COLOURS = {"train": "#0072B2", "val": "#56B4E9", "test": "#E69F00", "dropped": "#BBBBBB"}


def photographs_by_grade(copy: WorkingCopy, rows: Mapping[int, Sequence[int]], label: str) -> Figure:
    """Photographs of each grade, a column per grade; `rows` gives the positions to show, by grade."""
    figure, axes = grid(max(map(len, rows.values())), len(rows), side=1.9)
    for ax in axes.flat:
        ax.set_axis_off()
    for column, (grade, positions) in zip(axes.T, rows.items(), strict=True):
        for ax, position in zip(column, positions, strict=False):
            show_picture(ax, copy.image(position))
        column[0].set_title(f"{grade} · {GRADE_NAMES[grade]}", fontsize=10)
    figure.suptitle(f"Photographs of each grade ({label})")
    return figure


def grade_balance(counts: pd.DataFrame, label: str) -> Figure:
    """Share of each grade in each split, its number of photographs on the bar; `counts`: grades x splits."""
    figure, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    for place, split in zip((-0.2, 0.2), counts, strict=True):
        share = 100 * counts[split] / counts[split].sum()
        bars = ax.bar(
            np.arange(len(counts)) + place, share, 0.38, color=ROLE_COLOURS[split], label=f"{split}ing"
        )
        ax.bar_label(bars, labels=counts[split].astype(str), fontsize=9)
    ax.set_xticks(np.arange(len(counts)), [f"{grade}\n{GRADE_NAMES[grade]}" for grade in counts.index])
    ax.set(ylabel="share of the split, %", title=f"Grades in part B, with numbers of photographs ({label})")
    ax.margins(y=0.12)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def photograph_with_masks(image: np.ndarray, masks: np.ndarray, label: str) -> Figure:
    """A photograph, its masks laid over it, and the five masks (drawn thicker, so that dots can be seen)."""
    figure = plt.figure(figsize=(8.4, 6.3), layout="constrained")
    axes = figure.subplot_mosaic(
        [["photograph"] * 5 + ["overlay"] * 5, [name for name in LESIONS for _ in range(2)]],
        height_ratios=(2.4, 1),
    )
    show_picture(axes["photograph"], image, "photograph")
    show_picture(axes["overlay"], overlay(image, masks), "its five masks, laid over it")
    for lesion, mask in zip(LESIONS, masks, strict=True):
        thick = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
        picture = thick[..., None] * np.array(to_rgb(LESION_COLOURS[lesion]))
        show_picture(axes[lesion], picture, LESION_NAMES[lesion])
    figure.suptitle(f"One photograph of part A ({label})")
    return figure


def overlay_sheet(copy: WorkingCopy, rows: Sequence[int], label: str) -> Figure:
    """Photographs beside overlays of red lesions, bright lesions, everything: the explorer, static."""
    groups = {
        "photograph": (),
        "red: MA, HE": ("MA", "HE"),
        "bright: EX, SE": ("EX", "SE"),
        "all, with the disc": LESIONS,
    }
    figure, axes = grid(len(rows), len(groups), side=2.2)
    for line, position in zip(axes, rows, strict=True):
        masks = dict(zip(LESIONS, copy.mask(position), strict=True))
        for ax, group in zip(line, groups.values(), strict=True):
            show_picture(ax, overlay(copy.image(position), {lesion: masks[lesion] for lesion in group}))
    for ax, title in zip(axes[0], groups, strict=True):
        ax.set_title(title, fontsize=10)
    lesion_legend(figure)
    figure.suptitle(f"Overlays ({label})")
    return figure


def cropped_to_field_of_view(photograph: np.ndarray, fov: FieldOfView, label: str) -> Figure:
    """A whole photograph with the box of its field of view, and the square that is cut out of it."""
    square = crop_square(photograph, fov)
    (rows, columns), side = photograph.shape[:2], len(square)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, 3.7), width_ratios=(columns / rows, 1), layout="constrained"
    )
    scale = min(1, 600 / rows)  # twelve million pixels would take matplotlib seconds
    small = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    show_picture(left, small, f"the file: {columns} x {rows} pixels", extent=(0, columns, rows, 0))
    small = cv2.resize(square, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    show_picture(right, small, f"cut to the field of view: {side} x {side}")
    width, height = fov.right - fov.left, fov.bottom - fov.top
    left.add_patch(
        Rectangle(
            (fov.left, fov.top), width, height, fill=False, edgecolor="#E69F00", linewidth=2, clip_on=False
        )
    )
    figure.suptitle(f"The field of view ({label})")
    return figure


def lesion_sizes(lesions: pd.DataFrame, label: str) -> Figure:
    """How large lesions are (left, log axis) and how many a photograph has (right).

    Args:
        lesions: one row per lesion: photograph, lesion, diameter (pixels of the full-size photograph).
        label: names the data in the title.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained", sharey=True)
    kinds = {
        "y": "lesion",
        "order": LESIONS,
        "hue": "lesion",
        "hue_order": LESIONS,
        "palette": LESION_COLOURS,
        "legend": False,
    }
    sns.boxenplot(
        lesions,
        x="diameter",
        ax=left,
        log_scale=True,
        linewidth=0.8,
        line_kws={"color": "black"},
        flier_kws={"s": 6},
        **kinds,
    )
    left.set(xlabel="diameter in the full-size photograph, pixels (log)", ylabel="")
    left.set_yticks(range(len(LESIONS)), [f"{LESION_NAMES[lesion]} ({lesion})" for lesion in LESIONS])
    numbers = lesions.groupby(["photograph", "lesion"]).size().rename("number").reset_index()
    sns.stripplot(
        numbers,
        x="number",
        ax=right,
        log_scale=True,
        size=6,
        linewidth=0.6,
        edgecolor="black",
        jitter=0.15,
        **kinds,
    )
    right.set(xlabel="number in one photograph (log)", ylabel="")
    for ax in (left, right):
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Size and number of lesions ({label})")
    return figure


def _window(
    picture: np.ndarray, side: int, box: tuple[float, float, float, float]
) -> tuple[np.ndarray, tuple]:
    """The part of a shrunken picture that covers `box`, and its `extent` for imshow.

    Both are in pixels of a picture `side` wide, so that windows from different sizes lie over each other.
    """
    scale = len(picture) / side
    top, left = (max(int(np.floor(edge * scale)), 0) for edge in box[:2])
    bottom, right = (min(int(np.ceil(edge * scale)), len(picture)) for edge in box[2:])
    return picture[top:bottom, left:right], (left / scale, right / scale, bottom / scale, top / scale)


def shrunken_crop(
    square: np.ndarray,
    mask: np.ndarray,
    box: tuple[float, float, float, float],
    sizes: Sequence[int],
    lesion: str,
    label: str,
) -> Figure:
    """One place of a photograph at several sizes, each as it is stored: above plain, below with its mask.

    A white line is the outline of the full-size mask.

    Args:
        square: RGB, uint8 (S, S, 3).
        mask: bool (S, S).
        box: the place: top, left, bottom, right, in pixels of `square`.
        sizes: sides to shrink to; the full size comes first by itself.
        lesion: which lesion `mask` shows; gives the colour.
        label: names the data in the title.
    """
    side = len(square)
    figure, axes = grid(2, 1 + len(sizes), side=2.15)
    for column, size in zip(axes.T, (side, *sizes), strict=True):
        picture, extent = _window(square if size == side else shrink(square, size), side, box)
        marked, _ = _window(mask if size == side else shrink(mask, size), side, box)
        colour = np.zeros((*marked.shape, 4))
        colour[marked] = (*to_rgb(LESION_COLOURS[lesion]), 0.75)
        show_picture(column[0], picture, f"{'full size, ' if size == side else ''}{size} px", extent=extent)
        show_picture(column[1], picture, extent=extent)
        column[1].imshow(colour, extent=extent, interpolation="nearest")
        true_mask, true_extent = _window(mask, side, box)
        column[1].contour(true_mask, [0.5], extent=true_extent, origin="upper", colors="white", linewidths=1)
        for ax in column:
            ax.set(xlim=(box[1], box[3]), ylim=(box[2], box[0]))
    figure.suptitle(f"One place at several sizes; below with the mask of {LESION_NAMES[lesion]} ({label})")
    return figure


def survival_curve(survival: pd.DataFrame, label: str) -> Figure:
    """Share of the lesions that are left in a shrunken mask; `survival`: sides in pixels x lesions, 0-1."""
    figure, ax = plt.subplots(figsize=(8.4, 3.6), layout="constrained")
    edge = [withStroke(linewidth=3.5, foreground="#333333")]  # yellow on white needs an edge
    for lesion, marker in zip(LESIONS, "osD^v", strict=True):
        ax.plot(
            survival.index,
            100 * survival[lesion],
            marker=marker,
            markersize=7,
            markeredgecolor="#333333",
            linewidth=2.5,
            color=LESION_COLOURS[lesion],
            label=f"{LESION_NAMES[lesion]} ({lesion})",
            path_effects=edge,
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(survival.index, survival.index)
    ax.set(xlabel="side of the shrunken photograph, pixels", ylabel="lesions still there, %", ylim=(-4, 104))
    ax.set_title(f"What is left of the lesions in a smaller picture ({label})")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def thumbnail_pairs(
    pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], label: str, gain: float = 10
) -> Figure:
    """Pairs of thumbnails and their difference; each is (title, left, right), float (H, W, 3), 0-255."""
    figure, axes = plt.subplots(
        len(pairs), 3, figsize=(8.2, 2.2 * len(pairs)), layout="constrained", squeeze=False
    )
    for line, (title, left, right) in zip(axes, pairs, strict=True):
        rms = np.sqrt(np.mean((left - right) ** 2))
        show_picture(line[0], left.astype(np.uint8), title)
        show_picture(line[1], right.astype(np.uint8))
        difference = np.clip(gain * np.abs(left - right), 0, 255).astype(np.uint8)
        show_picture(line[2], difference, f"difference x {gain:g}; RMS {rms:.2f}")
    figure.suptitle(f"Thumbnails, two by two ({label})")
    return figure


def nearest_differences(nearest: np.ndarray, same_below: float, label: str) -> Figure:
    """Histogram of the difference between each file's thumbnail and the one most like it, on a log axis."""
    floor = 0.05
    shown = np.clip(nearest, floor, None)
    bins = np.geomspace(floor, shown.max() * 1.05, 50)
    figure, ax = plt.subplots(figsize=(7.8, 3.6), layout="constrained")
    same = nearest < same_below
    for chosen, colour, name in (
        (same, "#D55E00", "the same photograph"),
        (~same, "#0072B2", "another photograph"),
    ):
        ax.hist(shown[chosen], bins, color=colour, label=f"it shows {name}: {chosen.sum()} files")
    if same.any() and not same.all():
        low, high = max(nearest[same].max(), floor), nearest[~same].min()
        ax.axvspan(
            low, high, color="#BBBBBB", alpha=0.35, linewidth=0, label=f"nothing from {low:.1f} to {high:.1f}"
        )
    ax.axvline(same_below, color="black", linestyle="--", label=f"threshold of the library: {same_below:g}")
    ax.set_xscale("log")
    ticks = [floor, 0.1, 0.3, 1, 3, 10, 30]
    ax.set_xticks(ticks, ["0", *(f"{tick:g}" for tick in ticks[1:])], minor=False)
    ax.set_xticks([], minor=True)
    ax.set(xlabel="RMS difference to the most similar file, grey levels of 255 (log)", ylabel="files")
    ax.set_title(f"How alike is the most similar other file? ({label})")
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    ax.margins(y=0.35)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def lesions_by_grade(shares: pd.DataFrame, label: str) -> Figure:
    """Each photograph's share of lesion pixels by grade, a panel per lesion; a bar marks the median.

    Args:
        shares: one row per photograph: grade, and the share of pixels, 0-1, in a column per lesion.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(
        1, len(DISEASE_LESIONS), figsize=(8.6, 3.4), layout="constrained", sharey=True
    )
    percent = 100 * shares[list(DISEASE_LESIONS)]
    floor = percent[percent > 0].min().min() / 3  # zero has no place on a log axis
    rng = np.random.default_rng(0)
    grades = sorted(shares.grade.unique())
    for ax, lesion in zip(axes, DISEASE_LESIONS, strict=True):
        for place, grade in enumerate(grades):
            values = percent[lesion][shares.grade == grade].clip(lower=floor)
            ax.scatter(
                place + rng.uniform(-0.18, 0.18, len(values)),
                values,
                s=26,
                color=LESION_COLOURS[lesion],
                edgecolor="#333333",
                linewidth=0.6,
            )
            ax.hlines(values.median(), place - 0.32, place + 0.32, color="black", linewidth=2)
        ax.axhline(floor, color="#999999", linewidth=0.8, linestyle=":")
        ax.set_yscale("log")
        ax.set_xticks(range(len(grades)), grades)
        ax.set(xlabel="grade", title=LESION_NAMES[lesion], xlim=(-0.5, len(grades) - 0.5))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of pixels, % (log; dotted: 0)")
    figure.suptitle(f"Lesions of photographs whose grade is known ({label})")
    return figure


def side_by_side(pictures: Mapping[str, np.ndarray], title: str) -> Figure:
    """Pictures in a row, each under its own title."""
    figure, axes = grid(1, len(pictures), side=2.8)
    for ax, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        show_picture(ax, picture, name)
    figure.suptitle(title)
    return figure


def protocol_bars(splits: Mapping[str, Split], label: str) -> Figure:
    """What each protocol does with the photographs of each task, as stacked bars; `splits`: by protocol."""
    figure, axes = plt.subplots(len(TASK_PARTS), 1, figsize=(8, 3.6), layout="constrained")
    for ax, (task, part) in zip(axes, TASK_PARTS.items(), strict=True):
        for line, (protocol, split) in enumerate(splits.items()):
            left = 0
            for role, colour in ROLE_COLOURS.items():
                number = int(((split.roles == role) & (split.tasks == task)).sum())
                hatch = "//" if (protocol, role) == ("paper", "test") else None  # it validates, too
                bar = ax.barh(line, number, left=left, color=colour, edgecolor="white", hatch=hatch)
                box = (
                    {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
                    if number
                    else None
                )
                ax.bar_label(bar, [number or ""], label_type="center", fontsize=9, bbox=box)
                left += number
        ax.set_yticks(range(len(splits)), list(splits))
        ax.invert_yaxis()
        ax.set_title(f"{task} (part {part})", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("photographs")
    names = {"train": "training", "val": "validation", "test": "test", "dropped": "left out"}
    patches = [Patch(facecolor=colour, label=names[role]) for role, colour in ROLE_COLOURS.items()]
    label_both = "test and validation in one"
    patches.insert(3, Patch(facecolor=ROLE_COLOURS["test"], edgecolor="white", hatch="//", label=label_both))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    figure.suptitle(f"The two protocols ({label})")
    return figure


# ---------------------------------------------------------------- chapter 02: grading

TRAINING, VALIDATION, PLAIN = "#0072B2", "#D55E00", "#666666"
_EDGE = [withStroke(linewidth=3.6, foreground="#333333")]  # yellow on white needs an edge


def _open_frame(*axes: Axes) -> None:
    """No lines above and on the right."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)


def grades_by_role(counts: pd.DataFrame, majority: int, label: str) -> Figure:
    """Photographs of each grade, a panel per role; grade `majority` is dark. `counts`: grades x roles."""
    figure, axes = plt.subplots(1, len(counts.columns), figsize=(8.6, 2.9), layout="constrained")
    for ax, role in zip(axes, counts, strict=True):
        numbers = counts[role].to_numpy()
        colours = [TRAINING if grade == majority else "#A6C8E0" for grade in counts.index]
        bars = ax.bar(counts.index, numbers, color=colours)
        ax.bar_label(bars, [f"{number}\n{number / numbers.sum():.0%}" for number in numbers], fontsize=8)
        ax.set(title=f"{role}: {numbers.sum()} photographs", xlabel="grade", yticks=[])
        ax.set_xticks(counts.index)
        ax.margins(y=0.2)
        ax.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(f"Grades in part B ({label}); dark: the most frequent in training")
    return figure


def encoder_levels(
    image: np.ndarray, features: Sequence[np.ndarray], probabilities: np.ndarray, label: str
) -> Figure:
    """One photograph on its way through a grading network: levels of the encoder, means, probabilities.

    Args:
        image: RGB, uint8 (H, W, 3).
        features: of the encoder, from half size on, each (C, h, w); shown is the mean strength over channels.
        probabilities: of the grades, (5,).
        label: names the data in the title.
    """
    columns = (len(features) + 4) // 2
    figure, axes = plt.subplots(2, columns, figsize=(8.6, 5.4), layout="constrained")
    first, *levels, vector, bars = axes.flat
    show_picture(first, image, f"photograph\n{image.shape[0]} × {image.shape[1]}, 3 channels")
    for ax, (number, feature) in zip(levels, enumerate(features, 1), strict=False):
        channels, height, width = feature.shape
        title = f"level {number}\n{height} × {width}, {channels} channels"
        show_picture(ax, np.abs(feature).mean(axis=0), title, cmap="magma", interpolation="nearest")
    for ax in levels[len(features) :]:
        ax.set_axis_off()
    pooled = features[-1].mean(axis=(1, 2))
    strip = np.pad(pooled, (0, -len(pooled) % 16), constant_values=np.nan).reshape(16, -1)
    title = f"mean of each channel\n{len(pooled)} numbers"
    show_picture(vector, strip, title, cmap="magma", interpolation="nearest", aspect="auto")
    bars.bar(range(len(probabilities)), probabilities, color=TRAINING)
    bars.set(title="softmax of 5 logits", xlabel="grade", ylim=(0, 1), xticks=range(len(probabilities)))
    bars.title.set_fontsize(10)
    _open_frame(bars)
    figure.suptitle(f"From a photograph to five probabilities ({label})")
    return figure


def contact_sheet(
    pictures: Sequence[np.ndarray], titles: Sequence[str], title: str, columns: int = 6
) -> Figure:
    """Pictures in rows, each with a short title of its own."""
    rows = -(-len(pictures) // columns)
    size = (8.6, 0.4 + rows * (8.6 / columns + 0.28))  # room for the titles
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, picture, name in zip(axes.flat, pictures, titles, strict=False):
        show_picture(ax, picture, name)
    figure.suptitle(title)
    return figure


def learning_curves(
    history: pd.DataFrame,
    panels: Mapping[str, Mapping[str, str]],
    label: str,
    best: Mapping[str, int] | None = None,
    levels: Mapping[str, tuple[str, float]] | None = None,
    log: Sequence[str] = (),
    shares: Sequence[str] = (),
) -> Figure:
    """What happened from epoch to epoch, a panel per kind of number.

    Args:
        history: one row per epoch, as from `training.fit`.
        panels: title -> columns of `history` -> their names. A column that is not there is left out.
        label: names the data in the title.
        best: name -> epoch (as in `history.epoch`) of a checkpoint; a vertical line.
        levels: title of a panel -> (name, value) of a horizontal line.
        log: titles of panels with a logarithmic axis.
        shares: titles of panels whose axis goes from 0 to 1.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 4.3), layout="constrained", squeeze=False)
    for ax, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for column, name in columns.items():
            if column in history:
                ax.plot(history.epoch + 1, history[column], "o-", label=name, markersize=4, **_line(column))
        if levels and title in levels:
            name, value = levels[title]
            ax.axhline(value, color=PLAIN, linestyle="--", linewidth=1.2, label=name)
        for (name, epoch), style in zip((best or {}).items(), (":", "-."), strict=False):
            text = f"{name}: epoch {epoch + 1}"
            ax.axvline(epoch + 1, color="black", linestyle=style, linewidth=1.2, label=text)
        ax.set(title=title, xlabel="epoch", yscale="log" if title in log else "linear")
        if title in shares:
            ax.set_ylim(0, 1)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
        ax.grid(alpha=0.25)
        _open_frame(ax)
    figure.suptitle(f"Learning curves ({label})")
    return figure


def _line(column: str) -> dict:
    """Look of a curve: a lesion in its colour; else training and validation apart."""
    lesion = column.rsplit("/", 1)[-1]
    if lesion in LESIONS:
        return {"color": LESION_COLOURS[lesion], "linewidth": 2.2, "path_effects": _EDGE}
    return {"color": TRAINING if column.startswith("train/") else VALIDATION, "linewidth": 2}


def forest(
    results: Mapping[str, Mapping[str, float]],
    names: Mapping[str, str],
    title: str,
    baseline: tuple[str, Mapping[str, float]] | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A forest plot: each metric a line, its value a dot, its 95 % interval a bar, its numbers on the right.

    Args:
        results: name -> flat metrics of up to three runs; intervals are `metric/low` and `metric/high`.
        names: metric -> its name in the figure, from top to bottom. A metric that a run lacks is left out.
        title: of the figure; names the data.
        baseline: its name, and metric -> value; hollow diamonds.
        limits: of the axis; None: 0 to 1, further where a value lies below 0.
    """
    height = 1.3 + len(names) * max(0.34, 0.27 * len(results))
    figure, ax = plt.subplots(figsize=(8.6, height), layout="constrained")
    values = [run[key] for run in results.values() for key in run if key.removesuffix("/low") in names]
    low, high = limits or (min(0.0, *values) - 0.02, 1.02)
    styles = zip((TRAINING, VALIDATION, "#007A5A"), "os^", strict=True)
    for place, ((run_name, run), (colour, marker)) in enumerate(zip(results.items(), styles, strict=False)):
        shift = 0.26 * (place - (len(results) - 1) / 2)
        lines = [line + shift for line, metric in enumerate(names) if metric in run]
        found = [metric for metric in names if metric in run]
        ax.plot(
            [run[metric] for metric in found], lines, marker, color=colour, markersize=6.5, label=run_name
        )
        for line, metric in zip(lines, found, strict=True):
            text = f"{run[metric]:.2f}"
            if f"{metric}/low" in run:
                ends = [run[f"{metric}/low"], run[f"{metric}/high"]]
                ax.plot(ends, [line, line], color=colour, linewidth=2.2, alpha=0.75)
                text += "  [{:.2f}, {:.2f}]".format(*ends)
            beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8.5}
            ax.annotate(text, (1.01, line), color=colour, **beside)
    if baseline:
        name, values = baseline
        lines = [line for line, metric in enumerate(names) if metric in values]
        points = [values[metric] for metric in names if metric in values]
        ax.plot(points, lines, "D", color="black", markerfacecolor="none", markersize=8, label=name)
    ax.set_yticks(range(len(names)), names.values())
    ax.set(xlim=(low, high), ylim=(len(names) - 0.5, -0.5), title=title)
    ax.grid(axis="x", alpha=0.3)
    handles, texts = ax.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False, fontsize=9)
    _open_frame(ax)
    return figure


def _number_table(ax: Axes, shade: np.ndarray, texts: np.ndarray, title: str, cmap: str = "Blues") -> None:
    """A 5 x 5 table: cells shaded from 0 to 1, a text in each."""
    ax.imshow(np.nan_to_num(shade), cmap=cmap, vmin=0, vmax=1)
    for (row, column), text in np.ndenumerate(texts):
        dark = np.nan_to_num(shade[row, column]) > 0.55
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    ax.set_xticks(range(shade.shape[1]))
    ax.set_yticks(range(shade.shape[0]))
    ax.set_xlabel("predicted grade")
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel("true grade")
    ax.set_title(title, fontsize=10)


def confusion_matrices(matrices: Mapping[str, np.ndarray], title: str) -> Figure:
    """Confusion matrices, rows the true grade: in each cell the count and its share of the row."""
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(4.5 * len(matrices), 4.6), layout="constrained", squeeze=False
    )
    for ax, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        matrix = np.asarray(matrix)
        totals = matrix.sum(axis=1, keepdims=True)
        share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
        texts = np.array(
            [f"{n}\n{p:.0%}" if n else "0" for n, p in zip(matrix.flat, share.flat, strict=True)]
        )
        _number_table(ax, share, texts.reshape(matrix.shape), name)
    figure.suptitle(title)
    return figure


def kappa_example(matrices: Mapping[str, np.ndarray], cost: np.ndarray) -> Figure:
    """Confusion matrices of counts beside the cost that quadratic weighted kappa gives to each cell."""
    figure, axes = plt.subplots(1, len(matrices) + 1, figsize=(8.6, 3.5), layout="constrained")
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=False):
        _number_table(ax, matrix / matrix.max(), matrix.astype(str), name)
    title = "cost of one photograph\n(distance squared)"
    _number_table(axes[-1], cost / cost.max(), cost.astype(str), title, "Oranges")
    figure.suptitle("Two graders, 50 invented photographs")
    return figure


def graded_photographs(
    images: Sequence[np.ndarray], grades: Sequence[int], probabilities: np.ndarray, label: str
) -> Figure:
    """Photographs, each above what the network says: a bar per grade, the true grade's in orange."""
    figure, axes = plt.subplots(
        2, len(images), figsize=(8.6, 3.7), height_ratios=(1.5, 1), layout="constrained", sharey="row"
    )
    for (above, below), image, grade, values in zip(axes.T, images, grades, probabilities, strict=True):
        show_picture(above, image, f"true {grade}\npredicted {values.argmax()}")
        colours = [VALIDATION if k == grade else "#A6C8E0" for k in range(len(values))]
        below.bar(range(len(values)), values, color=colours)
        below.set(ylim=(0, 1), xticks=range(len(values)))
        _open_frame(below)
    axes[1, 0].set_ylabel("probability")
    figure.supxlabel("grade (orange: the true one)", fontsize=9)
    figure.suptitle(f"Test photographs and their five probabilities ({label})")
    return figure


def accuracy_intervals(accuracies: Mapping[str, np.ndarray], n: int, accuracy: float) -> Figure:
    """How sure an accuracy is: its bootstrap draws, and half of a 95 % interval for n photographs.

    Args:
        accuracies: name of a model -> its accuracy in many bootstrap draws, 0-1.
        n: photographs in the test split; a dot on the right.
        accuracy: at which the interval on the right is computed (normal approximation).
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.6, 3.6), layout="constrained", width_ratios=(1.4, 1)
    )
    bins = np.arange(0.5, n + 1) / n
    for place, ((name, values), colour) in enumerate(
        zip(accuracies.items(), (TRAINING, VALIDATION), strict=False)
    ):
        left.hist(values, bins, color=colour, alpha=0.45, density=True, label=name)
        height = -0.4 * (place + 1)
        left.plot(np.percentile(values, [2.5, 97.5]), [height, height], color=colour, linewidth=4)
    shown = np.percentile(np.concatenate(list(accuracies.values())), [0.05, 99.95])
    left.set(xlim=shown, yticks=[], xlabel="accuracy in a bootstrap draw")
    left.set_ylim(-0.4 * (len(accuracies) + 1), 1.3 * left.get_ylim()[1])
    left.set_title(f"{n} photographs; bars below: 95 % of the draws", fontsize=10)
    left.legend(frameon=False, fontsize=9, loc="upper left")
    sizes = np.geomspace(30, 30_000, 100)
    half = 100 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / np.array([*sizes, n]))
    right.plot(sizes, half[:-1], color=PLAIN)
    right.plot(n, half[-1], "o", color=VALIDATION)
    right.annotate(f"  {n} photographs: ± {half[-1]:.1f}", (n, half[-1]), fontsize=9, va="bottom")
    right.set(xscale="log", yscale="log", xlabel="photographs in the test split (log)")
    right.set_title("half of a 95 % interval, percentage points (log)", fontsize=10)
    ticks = [0.5, 1, 2, 5, 10, 20]
    right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_yticks([], minor=True)
    right.set_xticks([100, 1000, 10_000], ["100", "1 000", "10 000"])
    right.grid(alpha=0.3)
    _open_frame(left, right)
    return figure


# ---------------------------------------------------------------- chapter 03: segmentation


def pixel_shares(shares: Mapping[str, float], label: str) -> Figure:
    """Share of the pixels that each lesion marks, 0-1, on a log axis; the rest is background."""
    figure, ax = plt.subplots(figsize=(8.6, 2.9), layout="constrained")
    names = [f"{LESION_NAMES[lesion]} ({lesion})" for lesion in shares]
    percent = [100 * share for share in shares.values()]
    colours = [LESION_COLOURS[lesion] for lesion in shares]
    bars = ax.barh(names, percent, color=colours, edgecolor="#333333", linewidth=0.8)
    ax.bar_label(bars, [f" {share:.2f} %, one pixel in {100 / share:,.0f}" for share in percent], fontsize=9)
    ax.axvline(100, color="black", linewidth=1)
    ax.set(xscale="log", xlim=(min(percent) / 3, 130), xlabel="share of all pixels, % (log)")
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1, 10, 100) if tick > min(percent) / 3]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.invert_yaxis()
    ax.set_title(f"Pixels of the training masks ({label})")
    _open_frame(ax)
    return figure


def unet(encoder: Sequence[tuple[int, int]], decoder: Sequence[tuple[int, int]], title: str) -> Figure:
    """A U-Net as it is: a box for each level of the encoder and each block of the decoder.

    Args:
        encoder: (channels, side in pixels) from the photograph down to the deepest features.
        decoder: the same of each decoder block, from the deepest up; one for each halving.
        title: of the figure.
    """
    figure, ax = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    deepest = len(encoder) - 1
    left = [(level, -level, *shape) for level, shape in enumerate(encoder)]
    right = [(deepest + step, step - deepest, *shape) for step, shape in enumerate(decoder, 1)]
    for (x, y, channels, side), colour in (
        *((box, "#CCE3F2") for box in left),
        *((box, "#FBE0CC") for box in right),
    ):
        ax.add_patch(Rectangle((x - 0.44, y - 0.3), 0.88, 0.6, facecolor=colour, edgecolor="#333333"))
        ax.text(x, y, f"{side} × {side}\n{channels} ch.", ha="center", va="center", fontsize=7.5)
    path = {"arrowstyle": "-|>", "color": "#333333", "shrinkA": 0, "shrinkB": 0}
    for start, stop in pairwise([*left, *right]):
        up = 0.3 if stop[1] > start[1] else -0.3
        ax.annotate("", (stop[0], stop[1] - up), (start[0], start[1] + up), arrowprops=path)
    for box in left[1:-1]:
        partner = next(other for other in right if other[1] == box[1])
        dashed = {**path, "linestyle": "--", "color": TRAINING}
        ax.annotate("", (partner[0] - 0.44, box[1]), (box[0] + 0.44, box[1]), arrowprops=dashed)
    middle = (left[1][0] + right[-2][0]) / 2
    ax.text(middle, -0.93, "skip connections", ha="center", color=TRAINING, fontsize=9)
    ax.text(1.1, -3.2, "encoder:\nhalf the side\nat each step", ha="center", fontsize=9)
    ax.text(right[-1][0] - 1.1, -3.2, "decoder:\ntwice the side\nat each step", ha="center", fontsize=9)
    end = right[-1][0]
    for place, lesion in enumerate(LESIONS):  # the five masks as leaves, one behind the other
        corner = (end + 0.85 + 0.12 * place, 0.1 - 0.12 * place)
        ax.add_patch(Rectangle(corner, 0.55, 0.42, facecolor=LESION_COLOURS[lesion], edgecolor="#333333"))
    ax.annotate("", (end + 0.82, 0), (end + 0.44, 0), arrowprops=path)
    ax.text(
        end + 1.4, -0.75, f"5 masks\n{decoder[-1][1]} × {decoder[-1][1]}", ha="center", va="top", fontsize=8
    )
    ax.set(xlim=(-0.6, end + 2.0), ylim=(-deepest - 0.45, 0.7), title=title)
    ax.set_axis_off()
    return figure


def cross_entropy_curves(share: float, prior: float) -> Figure:
    """Binary cross-entropy of one pixel against its logit, and of all pixels if each gets one answer.

    Args:
        share: of the pixels that belong to a lesion, 0-1.
        prior: the probability with which the network starts.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    logit = np.linspace(-6, 6, 200)
    left.plot(logit, np.log1p(np.exp(-logit)), color=VALIDATION, linewidth=2.2, label="lesion (1)")
    left.plot(logit, np.log1p(np.exp(logit)), color=TRAINING, linewidth=2.2, label="no lesion (0)")
    left.plot(0, np.log(2), "ko")
    left.annotate("ln 2", (0, np.log(2)), xytext=(0, 9), textcoords="offset points", ha="center")
    left.set(xlabel="logit", ylabel="loss of one pixel", title="one pixel")
    left.legend(frameon=False, fontsize=9, loc="upper center")
    chance = np.geomspace(1e-4, 0.9, 400)
    loss = -share * np.log(chance) - (1 - share) * np.log1p(-chance)
    right.plot(chance, loss, color=PLAIN, linewidth=2.2)
    for place, name, marker, colour in (
        (share, "share of lesion pixels", "o", VALIDATION),
        (prior, "start of our network", "s", TRAINING),
        (0.5, "no opinion", "D", "black"),
    ):
        value = -share * np.log(place) - (1 - share) * np.log1p(-place)
        text = f"{name}, {100 * place:.2g} %: loss {value:.4f}"
        right.plot(place, value, marker, color=colour, markersize=8, label=text)
    right.set(xscale="log", yscale="log", xlabel="the same probability for every pixel (log)")
    right.set(ylabel="mean loss (log)", title="all pixels")
    right.legend(frameon=False, fontsize=8.5, loc="upper left")
    _open_frame(left, right)
    return figure


def masks_beside_truth(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    titles: Sequence[str],
    label: str,
) -> Figure:
    """A row per photograph: as it is, with its true masks, with the predicted ones; masks are (5, H, W)."""
    figure, axes = plt.subplots(
        len(images), 3, figsize=(8.6, 0.7 + 2.75 * len(images)), layout="constrained", squeeze=False
    )
    for line, image, truth, prediction, title in zip(axes, images, truths, predictions, titles, strict=True):
        show_picture(line[0], image, title)
        show_picture(line[1], overlay(image, truth), "true masks")
        show_picture(line[2], overlay(image, prediction), "predicted masks")
    lesion_legend(figure)
    figure.suptitle(f"Masks of test photographs ({label})")
    return figure


def probability_maps(truth: np.ndarray, probabilities: np.ndarray, label: str) -> Figure:
    """For each lesion the true mask and, below, each pixel's probability; both (5, H, W)."""
    figure, axes = plt.subplots(2, len(LESIONS), figsize=(8.6, 3.9), layout="constrained")
    scale = PowerNorm(0.5, 0, 1)  # half of the colours for what is below 0.25
    for column, lesion, mask, chance in zip(axes.T, LESIONS, truth, probabilities, strict=True):
        show_picture(column[0], mask, LESION_NAMES[lesion], cmap="gray", vmin=0, vmax=1)
        show_picture(column[1], chance, f"highest: {chance.max():.2f}", cmap="magma", norm=scale)
    bar = figure.colorbar(axes[1, 0].images[0], ax=axes[1], shrink=0.9, label="probability")
    bar.set_ticks([0, 0.1, 0.25, 0.5, 1])
    figure.suptitle(f"True mask (above) and probability (below) of one test photograph ({label})")
    return figure


HIT, FALSE_ALARM, MISSED = "#009E73", "#E69F00", "#56B4E9"


def overlap(truth: np.ndarray, prediction: np.ndarray) -> Figure:
    """Two small masks and what each of their pixels counts as; both bool (H, W)."""
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.9), layout="constrained")
    truth, prediction = truth.astype(bool), prediction.astype(bool)
    kinds = {
        "TP": (truth & prediction, HIT),
        "FP": (~truth & prediction, FALSE_ALARM),
        "FN": (truth & ~prediction, MISSED),
    }
    counted = np.ones((*truth.shape, 3))
    for mask, colour in kinds.values():
        counted[mask] = to_rgb(colour)
    show_picture(axes[0], ~truth, f"truth: {truth.sum()} pixels", cmap="gray", vmin=-0.6, vmax=1)
    show_picture(
        axes[1], ~prediction, f"prediction: {prediction.sum()} pixels", cmap="gray", vmin=-0.6, vmax=1
    )
    title = ", ".join(f"{mask.sum()} {name}" for name, (mask, _) in kinds.items())
    show_picture(axes[2], counted, title)
    for name, (mask, _) in kinds.items():
        for row, column in np.argwhere(mask):
            axes[2].text(column, row, name, ha="center", va="center", fontsize=8)
    height, width = truth.shape
    for ax in axes:
        ax.hlines(np.arange(height + 1) - 0.5, -0.5, width - 0.5, color="#BBBBBB", linewidth=0.6)
        ax.vlines(np.arange(width + 1) - 0.5, -0.5, height - 0.5, color="#BBBBBB", linewidth=0.6)
    return figure


def precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], areas: Mapping[str, float], label: str
) -> Figure:
    """Precision against recall; `curves`: lesion -> (precision, recall), `areas`: lesion -> AUPR."""
    figure, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    for lesion, (precision, recall) in curves.items():
        name = f"{LESION_NAMES[lesion]}: {areas[lesion]:.2f}"
        ax.step(recall, precision, where="post", label=name, **_line(lesion))
    ax.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=f"Precision and recall, pooled test pixels ({label})"
    )
    ax.set(
        xlabel="recall: share of the lesion that is found", ylabel="precision: share of marks that are right"
    )
    ax.legend(title="area (AUPR)", frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.grid(alpha=0.25)
    _open_frame(ax)
    return figure


def dice_by_threshold(dice: pd.DataFrame, label: str) -> Figure:
    """Dice against the threshold; the best of each lesion is ringed. `dice`: thresholds x lesions."""
    figure, ax = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
    ax.axvline(0.5, color=PLAIN, linestyle="--", linewidth=1.2, label="0.5")
    for lesion in dice:
        ax.plot(dice.index, dice[lesion], label=LESION_NAMES[lesion], **_line(lesion))
        best = dice[lesion].idxmax()
        ax.plot(
            best, dice.loc[best, lesion], "o", markersize=9, markerfacecolor="none", markeredgecolor="black"
        )
    ax.set(xlabel="threshold", ylabel="Dice, pooled", xlim=(0, 1), ylim=(-0.02, 1))
    ax.set_title(f"Dice of the validation photographs ({label})\nringed: the best threshold")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.grid(alpha=0.25)
    _open_frame(ax)
    return figure


def measures_of_networks(values: pd.DataFrame, title: str) -> Figure:
    """What each measure says of each network, as groups of bars; `values`: networks x measures, 0-1."""
    figure, ax = plt.subplots(figsize=(8.6, 3.7), layout="constrained")
    width = 0.8 / len(values.columns)
    for place, (measure, colour) in enumerate(zip(values, (TRAINING, "#A6C8E0", VALIDATION), strict=False)):
        bars = ax.bar(
            np.arange(len(values)) + place * width, values[measure], width, color=colour, label=measure
        )
        ax.bar_label(bars, fmt="%.2f", fontsize=9)
    ax.set_xticks(np.arange(len(values)) + width * (len(values.columns) - 1) / 2, values.index)
    ax.set(ylim=(0, 1.12), yticks=[0, 0.5, 1], title=title)
    ax.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    _open_frame(ax)
    return figure


# ---------------------------------------------------------------- chapter 04: one encoder, two tasks

TASK_COLOURS = {"grading": TRAINING, "segmentation": VALIDATION, "both": "#007A5A"}


def _shapes(network: SharedEncoder, size: int) -> dict[str, list[tuple[int, int]]]:
    """(channels, side) of every encoder level and decoder block, read while one black picture passes."""
    import torch

    passed: list[tuple[int, int]] = []
    blocks = network.decoder.blocks if "segmentation" in network.tasks else ()
    hooks = [block.register_forward_hook(lambda *call: passed.append(call[2].shape[1:3])) for block in blocks]
    training, device = network.training, network.mean.device
    try:
        with torch.inference_mode():
            levels = network.eval().features(torch.zeros(1, 3, size, size, device=device))
            network.heads(levels, network.tasks)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return {"encoder": [tuple(level.shape[1:3]) for level in levels], "decoder": [tuple(p) for p in passed]}


def count_parameters(module: nn.Module) -> int:
    """How many numbers a part of a network learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def _box(ax: Axes, x: float, y: float, width: float, text: str, colour: str, weight: str = "normal") -> None:
    """A round box around (x, y), BOX high; `width` is half of its width."""
    style = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": (*to_rgb(colour), 0.14)}
    corner = (x - width, y - BOX / 2)
    ax.add_patch(FancyBboxPatch(corner, 2 * width, BOX, edgecolor=colour, linewidth=1.8, **style))
    ax.text(x, y, text, ha="center", va="center", fontsize=10.5, weight=weight, linespacing=1.15)


def _arrow(ax: Axes, start: Sequence[float], end: Sequence[float], colour: str, style: str = "-") -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0, "linestyle": style}
    ax.annotate("", end, start, arrowprops={**look, "color": colour, "linewidth": 1.8})


BOX, LEFT, RIGHT = 0.72, 2.45, 7.55  # height of a box; middle of the encoder's and of the decoder's column


def _place(level: int, side: int) -> tuple[float, float]:
    """Height and half width of a box: deeper ones stand lower and are narrower."""
    return -1.12 * level, 1.0 + 0.16 * np.log2(side)


def draw_shared_encoder(network: SharedEncoder, size: int) -> Figure:
    """The architecture, drawn from the network itself: each box is a layer's output as it was measured.

    Args:
        network: with one task or both.
        size: side of its input in pixels, a multiple of 32.
    """
    shapes = _shapes(network, size)
    both = len(network.tasks) == 2
    shared = TASK_COLOURS["both" if both else network.tasks[0]]
    parts = {"encoder, shared" if both else "encoder": (network.encoder, shared)}
    figure, ax = plt.subplots(figsize=(5.6, 7.2), layout="constrained")
    for level, (channels, side) in enumerate(shapes["encoder"]):
        y, width = _place(level, side)
        text = f"{channels} channels\n{side} × {side}" if level else f"photograph\n3 × {side} × {side}"
        _box(ax, LEFT, y, width, text, shared if level else PLAIN)
        if level:
            _arrow(ax, (LEFT, y + 1.12 - BOX / 2), (LEFT, y + BOX / 2), shared)
    deepest = (LEFT + width, y)
    if "segmentation" in network.tasks:
        _draw_decoder(ax, shapes["decoder"], deepest)
        head = network.segmentation_head
        text = f"segmentation head\n{head[0].out_channels} masks {size} × {size}"
        colour = TASK_COLOURS["segmentation"]
        _box(ax, RIGHT, 1.2, _place(0, size)[1], text, colour, "bold")
        _arrow(ax, (RIGHT, BOX / 2), (RIGHT, 1.2 - BOX / 2), colour)
        parts |= {"decoder": (network.decoder, colour), "segmentation head": (head, colour)}
    if "grading" in network.tasks:
        colour = TASK_COLOURS["grading"]
        _box(ax, RIGHT, y - 0.3, 2.2, f"grading head\n{channels} means, 5 grades", colour, "bold")
        _arrow(ax, (deepest[0], y - 0.2), (RIGHT - 2.2, y - 0.3), colour)
        parts["grading head"] = (network.grading_head, colour)
    ax.set(xlim=(0, 10), ylim=(y - 0.9, 1.8))
    ax.set_axis_off()
    handles = [Patch(facecolor=(*to_rgb(colour), 0.14), edgecolor=colour) for _, colour in parts.values()]
    names = [f"{name}: {count_parameters(part):,} parameters" for name, (part, _) in parts.items()]
    figure.legend(handles, names, loc="outside lower center", frameon=False, fontsize=10.5)
    return figure


def _draw_decoder(ax: Axes, blocks: Sequence[tuple[int, int]], deepest: tuple[float, float]) -> None:
    """The decoder's blocks, the deepest first; `deepest` is the right edge of the encoder's last box."""
    colour = TASK_COLOURS["segmentation"]
    for block, (channels, side) in enumerate(blocks):
        level = len(blocks) - 1 - block
        y, width = _place(level, side)
        _box(ax, RIGHT, y, width, f"{channels} channels\n{side} × {side}", colour)
        if block:
            _arrow(ax, (RIGHT, y - 1.12 + BOX / 2), (RIGHT, y - BOX / 2), colour)
        else:
            _arrow(ax, (deepest[0], deepest[1] + 0.2), (RIGHT - width / 2, y - BOX / 2), colour)
        if level:  # an encoder box of the same level is as wide
            _arrow(ax, (LEFT + width, y), (RIGHT - width, y), colour, "--")
    ax.text((LEFT + RIGHT) / 2, -1.0, "skip", ha="center", fontsize=10, color=colour)


def parameter_bars(networks: Mapping[str, Mapping[str, int]]) -> Figure:
    """What is stored for each way to have both tasks. `networks`: name -> part -> number of parameters."""
    figure, ax = plt.subplots(figsize=(7, 1.1 + 0.75 * len(networks)), layout="constrained")
    longest = max(sum(parts.values()) for parts in networks.values())
    for line, parts in enumerate(networks.values()):
        start = 0.0
        for part, number in parts.items():
            colour = TASK_COLOURS[next((task for task in TASK_COLOURS if task in part), "both")]
            ax.barh(line, number / 1e6, left=start, color=colour, edgecolor="white", linewidth=1.5)
            if number > 0.08 * longest:  # there is room for a name
                look = {"ha": "center", "va": "center", "color": "white", "fontsize": 10}
                ax.text(start + number / 2e6, line, part.split(",")[0], **look)
            start += number / 1e6
        ax.text(start, line, f"  {start:.2f}", va="center", fontsize=10)
    ax.set_yticks(range(len(networks)), networks)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set(xlabel="parameters in millions", title="Two networks, or one with two heads")
    _open_frame(ax)
    return figure


def partial_labels(
    images: Sequence[np.ndarray],
    grades: Sequence[int],
    masks: Sequence[np.ndarray | None],
    pulls: Mapping[str, np.ndarray],
    label: str,
) -> Figure:
    """A batch in which labels are missing, and how hard each photograph pulls on each output.

    Args:
        images: RGB, uint8 (H, W, 3).
        grades: -1 where unknown.
        masks: (5, H, W), None where unknown.
        pulls: task -> length of the loss's gradient at the task's logits, a number per photograph.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(
        2, len(images), figsize=(8.6, 2.8), height_ratios=(1.45, 1), layout="constrained", sharey="row"
    )
    strongest = {task: values.max() for task, values in pulls.items()}
    for place, ((above, below), image, grade, mask) in enumerate(
        zip(axes.T, images, grades, masks, strict=True)
    ):
        known = f"grade {grade}" if grade >= 0 else "no grade"
        drawn = "no masks" if mask is None else "masks"
        show_picture(above, image if mask is None else overlay(image, mask), f"{known}\n{drawn}")
        for line, (task, values) in enumerate(pulls.items()):
            share = values[place] / strongest[task]
            below.barh(line, share, color=TASK_COLOURS[task])
            at, colour = (0.06, "white") if share > 0.55 else (share + 0.05, "black")
            below.text(at, line, f"{1000 * values[place]:.2g}", color=colour, va="center", fontsize=9.5)
        below.set(xlim=(0, 1), xticks=[], yticks=range(len(pulls)))
        below.set_yticklabels(pulls)
        below.set_ylim(len(pulls) - 0.4, -0.6)
        _open_frame(below)
    axes[1, 0].set_ylabel("gradient\n× 1000")
    figure.suptitle(f"One batch with missing labels ({label})")
    return figure


def batch_statistics(grading: np.ndarray, segmentation: np.ndarray, label: str) -> Figure:
    """Mean of each channel in each task's batch, as batch normalisation meets it.

    Args:
        grading, segmentation: distance of the batch's mean from the mean of both batches, in standard
            deviations of the channel, (channels,).
        label: names the data in the title.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    order = np.argsort(grading)
    places = np.arange(len(order))
    ax.vlines(places, grading[order], segmentation[order], color=PLAIN, linewidth=1.2, alpha=0.6)
    for name, values, look, task in (
        ("a pass of graded photographs", grading, "o", "grading"),
        ("a pass of crops with masks", segmentation, "s", "segmentation"),
    ):
        ax.plot(places, values[order], look, color=TASK_COLOURS[task], markersize=5, label=name)
    ax.axhline(0, color="black", linewidth=2, label="one pass of both")
    ax.set(xlabel=f"{len(order)} channels, sorted", xticks=[])
    ax.set_ylabel("mean of the batch\n(standard deviations)")
    ax.set_title(f"What batch normalisation subtracts ({label})", fontsize=11)
    figure.legend(frameon=False, fontsize=10, loc="outside lower center", ncols=2)
    _open_frame(ax)
    return figure


def encoder_pull(
    grading: np.ndarray, segmentation: np.ndarray, lambdas: Sequence[float], label: str
) -> Figure:
    """How hard each task pulls on the shared encoder, for several values of lambda.

    Args:
        grading: length of the grading loss's gradient in the encoder's parameters, a number per batch.
        segmentation: the same of the segmentation loss.
        lambdas: weights of the grading loss.
        label: names the data in the title.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for place, weight in enumerate(lambdas):
        for shift, values, task in ((-0.2, weight * grading, "grading"), (0.2, segmentation, "segmentation")):
            bar = np.median(values)
            name = {"grading": "λ × grading", "segmentation": "segmentation"}[task] if not place else None
            ax.bar(place + shift, bar, 0.38, color=TASK_COLOURS[task], label=name)
            ax.plot(
                np.full(len(values), place + shift), values, "o", color="black", markersize=3.5, alpha=0.7
            )
        ratio = weight * np.median(grading) / np.median(segmentation)
        top = max((weight * grading).max(), segmentation.max())
        rounded = float(f"{ratio:.2g}")
        text = f"{rounded:,.0f} times" if rounded >= 10 else f"{rounded:g} times"
        ax.annotate(
            text, (place, top), (0, 7), textcoords="offset points", ha="center", fontsize=11, weight="bold"
        )
    ax.set_yscale("log")
    lowest = min(min(lambdas) * grading.min(), segmentation.min())
    ax.set_ylim(lowest / 4, ax.get_ylim()[1] * 4)
    ax.set_xticks(range(len(lambdas)), [f"λ = {weight:g}" for weight in lambdas], fontsize=11)
    ax.set_ylabel("length of the gradient (log)")
    ax.set_title(f"Pull on the shared encoder, {len(grading)} batches ({label})", fontsize=11)
    ax.legend(frameon=False, loc="upper left", fontsize=10)
    _open_frame(ax)
    return figure


def compare_histories(
    histories: Mapping[str, tuple[str, pd.DataFrame]], panels: Mapping[str, str], label: str
) -> Figure:
    """Learning curves of several runs in the same panels.

    Args:
        histories: name of a run -> its tasks (a key of `TASK_COLOURS`) and its history from `fit`.
        panels: title of a panel -> column of the histories. A run without the column is left out.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 3.9), layout="constrained", squeeze=False)
    for ax, (title, column) in zip(axes[0], panels.items(), strict=True):
        for name, (task, history) in histories.items():
            if column in history:
                look = {"color": TASK_COLOURS[task], "linewidth": 2, "markersize": 4}
                ax.plot(
                    history.epoch + 1, history[column], "s-" if task == "both" else "o-", label=name, **look
                )
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize=9)
        ax.grid(alpha=0.25)
        _open_frame(ax)
    figure.suptitle(f"Validation losses of the three runs ({label})")
    return figure


def networks_beside_truth(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str],
    label: str,
) -> Figure:
    """Photographs in rows: as they are, with the doctors' masks, and with each network's.

    Args:
        images: RGB, uint8 (H, W, 3).
        truths: (5, H, W) each.
        predictions: name of a network -> probabilities (5, H, W) of each photograph.
        titles: one per photograph.
        label: names the data in the title.
    """
    columns = 2 + len(predictions)
    size = (8.6, 0.9 + len(images) * (8.6 / columns + 0.35))
    figure, axes = plt.subplots(len(images), columns, figsize=size, layout="constrained", squeeze=False)
    for row, (image, truth, title) in enumerate(zip(images, truths, titles, strict=True)):
        show_picture(axes[row, 0], image, title)
        shown = {"truth": truth, **{name: masks[row] for name, masks in predictions.items()}}
        for ax, (name, masks) in zip(axes[row, 1:], shown.items(), strict=True):
            show_picture(ax, overlay(image, masks), "" if row else name)
    figure.suptitle(f"Predicted masks beside the truth ({label})")
    lesion_legend(figure)
    return figure


def best_of_checkpoints(
    numbers: np.ndarray, draws: Mapping[str, np.ndarray], true: float, n: int, gap: float
) -> Figure:
    """What the best of several checkpoints scores, although all of them are equally good.

    Args:
        numbers: of checkpoints to choose from, (K,).
        draws: name of a scenario -> the best accuracy in each simulated test, (simulations, K); drawn is the
            mean.
        true: accuracy of every checkpoint on photographs without end.
        n: photographs in the test split.
        gap: a published difference, in percentage points; an arrow.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for (name, values), colour in zip(draws.items(), (VALIDATION, TRAINING), strict=False):
        ax.plot(numbers, 100 * values.mean(axis=0), color=colour, linewidth=2.4, label=name)
    ax.axhline(
        100 * true, color="black", linestyle="--", linewidth=1.4, label=f"true accuracy, {100 * true:.1f} %"
    )
    ax.axhspan(100 * true, 100 * true + gap, color=PLAIN, alpha=0.25, linewidth=0, label=f"{gap:.2f} points")
    ax.set(xlabel="checkpoints to choose from", ylabel=f"accuracy of the best, % of {n} photographs")
    ax.set_xlim(numbers[0], numbers[-1])
    ax.set_title("Simulation: the best of several equal checkpoints", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    ax.grid(alpha=0.25)
    _open_frame(ax)
    return figure


def difference_intervals(
    disagreements: np.ndarray, low: np.ndarray, high: np.ndarray, p_values: np.ndarray, observed: float
) -> Figure:
    """How sure a difference of two accuracies is: it depends on how often the two networks disagree.

    Args:
        disagreements: photographs that exactly one of the networks has right, (K,).
        low, high: 95 % interval of the difference for each, in percentage points.
        p_values: of the exact sign test, (K,).
        observed: the difference, in percentage points.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    ax.axhline(0, color="black", linewidth=1.2)
    ax.axhline(
        observed, color=VALIDATION, linestyle="--", linewidth=1.2, label=f"observed: {observed:.2f} points"
    )
    places = np.arange(len(disagreements))
    ax.vlines(places, low, high, color=TRAINING, linewidth=5, label="95 % interval")
    ax.plot(places, np.full(len(places), observed), "o", color=VALIDATION)
    for place, top, p in zip(places, high, p_values, strict=True):
        ax.annotate(
            f"p = {p:.2f}", (place, top), (0, 5), textcoords="offset points", ha="center", fontsize=10
        )
    ax.set_xticks(places, disagreements)
    ax.set(xlabel="photographs that only one of the two has right", ylabel="difference, percentage points")
    ax.set(xlim=(-0.5, len(places) - 0.5), ylim=(low.min() - 2, high.max() + 4))
    ax.set_title("Multi-task minus single task: how sure?", fontsize=11)
    ax.legend(frameon=False, fontsize=10, loc="lower left")
    _open_frame(ax)
    return figure
