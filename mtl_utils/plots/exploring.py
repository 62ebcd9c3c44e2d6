"""Figures of chapter 01, exploring IDRiD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from mtl_utils.data.fov import FieldOfView, crop_square
from mtl_utils.data.prepare import WorkingCopy, shrink
from mtl_utils.data.splits import TASK_PARTS, Split
from mtl_utils.lesions import DISEASE_LESIONS, GRADE_NAMES, GRADES, LESION_COLOURS, LESION_NAMES, LESIONS
from mtl_utils.plots.common import grid, lesion_legend, overlay, show_picture

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


def grades_in_order(grades: Mapping[str, Sequence[int]], label: str) -> Figure:
    """A tick for each photograph, at its place in the list and in the row of its grade; `grades`: by split,
    in the order of the list.
    """
    figure, axes = plt.subplots(
        len(grades), 1, figsize=(8.2, 1.9 * len(grades)), layout="constrained", squeeze=False
    )
    for ax, (split, values) in zip(axes.flat, grades.items(), strict=True):
        values = np.asarray(values)
        ticks = [np.flatnonzero(values == grade) + 1 for grade in GRADES]
        ax.eventplot(ticks, lineoffsets=list(GRADES), linelengths=0.8, colors=ROLE_COLOURS[split])
        ax.set_yticks(GRADES)
        ax.set(xlabel=f"place in the list of the {split}ing photographs", ylabel="grade")
        ax.set_xlim(0, len(values) + 1)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Grades of part B in the order of the list ({label})")
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


def pairs_of_photographs(copy: WorkingCopy, pairs: Sequence[Sequence[int]], title: str) -> Figure:
    """Each pair one above the other, under names and grades; `pairs`: positions in the working copy."""
    figure, axes = grid(2, len(pairs), side=2.7)
    for line, positions in zip(axes, zip(*pairs, strict=True), strict=True):
        for ax, position in zip(line, positions, strict=True):
            row = copy.table.loc[position]
            show_picture(ax, copy.image(position), f"{row['name']}: grade {row.grade}")
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
