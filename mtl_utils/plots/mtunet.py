"""Figures of chapter 05, MTUnet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from mtl_utils.lesions import GRADES, GROUP_COLOURS, GROUP_NAMES
from mtl_utils.plots.common import (
    PLAIN,
    TASK_COLOURS,
    TRAINING,
    VALIDATION,
    count_parameters,
    curve_style,
    lesion_legend,
    measured_shapes,
    open_frame,
    overlay,
    p_text,
    show_picture,
)

if TYPE_CHECKING:  # torch starts slowly
    from mtl_utils.systems.mtunet import MTUnet

CLASS_COLOURS = {"background": "#D9D9D9", **GROUP_COLOURS, "outside": "#222222"}
"""Colours of MTUnet's five classes."""

PALE = "#A6C8E0"

# ---------------------------------------------------------------- the data


def label_gap(counts: pd.DataFrame, label: str) -> Figure:
    """How many photographs have masks, and how many a grade. `counts`: rows the label, columns the split."""
    figure, ax = plt.subplots(figsize=(8.6, 1.0 + 0.55 * len(counts)), layout="constrained")
    start = np.zeros(len(counts))
    for split, colour in zip(counts, (TRAINING, PALE), strict=True):
        bars = ax.barh(counts.index, counts[split], left=start, color=colour, label=f"official {split}")
        start += counts[split].to_numpy()
        if counts[split].min() > 0.06 * counts.sum(axis=1).max():  # there is room inside
            ax.bar_label(bars, label_type="center", color="white" if colour == TRAINING else "black")
    texts = [" + ".join(map(str, row)) + f" = {sum(row)}" for row in counts.to_numpy().tolist()]
    for line, (end, text) in enumerate(zip(start, texts, strict=True)):
        ax.text(end, line, f"  {text}", va="center")
    ax.invert_yaxis()
    ax.margins(x=0.22)
    ax.set(xlabel="photographs", title=f"Labels are unevenly shared out ({label})")
    ax.legend(frameon=False, loc="upper right", fontsize=9)
    open_frame(ax)
    return figure


def balanced_grades(counts: pd.DataFrame, label: str) -> Figure:
    """Photographs of each grade under several ways to draw them.

    Args:
        counts: grades x ways; a column's total stands in its title.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(1, len(counts.columns), figsize=(8.6, 3.0), layout="constrained", sharey=True)
    for ax, way in zip(axes, counts, strict=True):
        bars = ax.bar(counts.index, counts[way], color=TRAINING)
        ax.bar_label(bars, fontsize=9)
        ax.set(xlabel="grade", xticks=list(counts.index))
        ax.set_title(f"{way}\n{counts[way].sum()} photographs", fontsize=10)
        ax.margins(y=0.15)
        open_frame(ax)
    figure.suptitle(f"Grades in training ({label})")
    return figure


# ---------------------------------------------------------------- label spaces


def class_picture(classes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A class map, int (H, W), as a picture RGB in [0, 1]; `names` are the classes in channel order."""
    return np.array([to_rgb(CLASS_COLOURS[name]) for name in names])[classes]


def label_space_steps(
    image: np.ndarray, lesions: np.ndarray, classes: np.ndarray, names: Sequence[str], label: str
) -> Figure:
    """One photograph, its five masks, and the map of classes made from them.

    Args:
        image: RGB, uint8 (H, W, 3).
        lesions: 0 or 1, (5, H, W).
        classes: int (H, W).
        names: of the classes, in channel order.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.7), layout="constrained")
    show_picture(axes[0], image, "photograph")
    show_picture(axes[1], overlay(image, lesions), "five yes-or-no masks")
    show_picture(axes[2], class_picture(classes, names), "one class for each pixel")
    lesion_legend(figure)
    axes[2].legend(
        handles=[Patch(facecolor=CLASS_COLOURS[name], edgecolor="#333333", label=name) for name in names],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(f"From lesions to classes ({label})")
    return figure


def answers_per_pixel(
    images: Sequence[np.ndarray], counts: Mapping[str, Sequence[np.ndarray]], label: str
) -> Figure:
    """In how many classes each pixel is at the same time.

    Args:
        images: RGB, uint8 (H, W, 3).
        counts: name of a network -> for each image the number of classes that it says yes to, int (H, W).
        label: names the data in the title.
    """
    colours = ("#CC79A7", "#D9D9D9", "#0072B2")
    figure, axes = plt.subplots(
        1 + len(counts),
        len(images),
        figsize=(7.8, 2.6 * (1 + len(counts))),
        layout="constrained",
        squeeze=False,
    )
    for ax, image in zip(axes[0], images, strict=True):
        show_picture(ax, image, "photograph")
    for line, (name, maps) in zip(axes[1:], counts.items(), strict=True):
        for ax, values in zip(line, maps, strict=True):
            title = f"{name}\nnone {(values == 0).mean():.1%}, several {(values > 1).mean():.1%}"
            shown = np.minimum(values, 2)
            show_picture(
                ax, shown, title, cmap=ListedColormap(colours), vmin=0, vmax=2, interpolation="nearest"
            )
    patches = [
        Patch(facecolor=colour, edgecolor="#333333", label=text)
        for colour, text in zip(colours, ("in no class", "in one class", "in several classes"), strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"How many classes does a pixel get? ({label})")
    return figure


# ---------------------------------------------------------------- the variants


def _box(ax: Axes, place: tuple[float, float], text: str, colour: str, frozen: bool = False) -> None:
    """A box of a panel's grid, whose columns and rows are 1 apart."""
    x, y = place
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": (*to_rgb(colour), 0.14)}
    edge = {"edgecolor": colour, "linewidth": 1.6, "linestyle": "--" if frozen else "-"}
    ax.add_patch(FancyBboxPatch((x - 0.4, y - 0.34), 0.8, 0.68, **style, **edge))
    ax.text(x, y, text, ha="center", va="center", fontsize=8, linespacing=1.1)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style="-") -> None:
    """From edge to edge of two boxes of the grid."""
    (x0, y0), (x1, y1) = start, end
    across, up = np.sign(x1 - x0), np.sign(y1 - y0)
    if across and up:  # leaves by the side, arrives from below or above
        start, end = (x0 + 0.4 * across, y0 + 0.1 * up), (x1 - 0.1 * across, y1 - 0.34 * up)
    elif across:
        start, end = (x0 + 0.4 * across, y0), (x1 - 0.4 * across, y1)
    else:
        start, end = (x0, y0 + 0.34 * up), (x1, y1 - 0.34 * up)
    look = {"arrowstyle": "-|>", "mutation_scale": 10, "shrinkA": 0, "shrinkB": 0, "linestyle": style}
    ax.annotate("", end, start, arrowprops={**look, "color": colour, "linewidth": 1.4})


def draw_variants(
    networks: Mapping[str, MTUnet], reached: Mapping[str, Mapping[str, Collection[str]]], size: int
) -> Figure:
    """Where the grade leaves: variants side by side, each drawn from its network as it was measured.

    Args:
        networks: name -> network with both tasks.
        reached: name -> part of the network ('encoder', 'decoder', ...) -> tasks whose gradient arrives
            there. It decides the colours; a part that none reaches is frozen, and dashed.
        size: side of the input in pixels, a multiple of 32.
    """
    columns = {name: 3 if hasattr(network, "grader") else 2 for name, network in networks.items()}
    figure, axes = plt.subplots(
        1, len(networks), figsize=(9.4, 6.2), width_ratios=list(columns.values()), layout="constrained"
    )
    for ax, (name, network) in zip(np.atleast_1d(axes), networks.items(), strict=True):
        _draw_variant(ax, network, reached[name], size)
        ax.set_title(f"{name}\n{count_parameters(network) / 1e6:.1f} million parameters", fontsize=10)
        ax.set(xlim=(-0.5, columns[name] - 0.5), ylim=(-5.5, 1.5))
        ax.set_axis_off()
    texts = {"both tasks": "both", "the grade": "grading", "the masks": "segmentation"}
    patches = [
        Patch(facecolor=(*to_rgb(TASK_COLOURS[task]), 0.14), edgecolor=TASK_COLOURS[task], label=text)
        for text, task in texts.items()
    ]
    patches.append(
        Patch(facecolor=(*to_rgb(PLAIN), 0.14), edgecolor=PLAIN, linestyle="--", label="nobody (frozen)")
    )
    title = "learns from"
    figure.legend(handles=patches, title=title, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_variant(ax: Axes, network: MTUnet, reached: Mapping[str, Collection[str]], size: int) -> None:
    """One panel of `draw_variants`: column 0 the encoder, 1 the decoder, 2 the second network."""
    look = {}
    for part, tasks in reached.items():
        colour = TASK_COLOURS["both" if len(tasks) == 2 else next(iter(tasks))] if tasks else PLAIN
        look[part] = (colour, not tasks)
    shapes = measured_shapes(network, size)
    deepest = len(shapes["encoder"]) - 1
    for level, (channels, side) in enumerate(shapes["encoder"]):
        own = level or channels > 3  # VGG has features at full size, other encoders only the picture itself
        text = f"{channels}\n{side} × {side}"
        text = text if level else f"photograph\n{text}"
        _box(ax, (0, -level), text, *(look["encoder"] if own else (PLAIN, False)))
        if level:
            _arrow(ax, (0, 1 - level), (0, -level), look["encoder"][0])
    for block, (channels, side) in enumerate(shapes["decoder"]):
        y = block + 1 - deepest
        _box(ax, (1, y), f"{channels}\n{side} × {side}", *look["decoder"])
        _arrow(ax, (1, y - 1) if block else (0, -deepest), (1, y), look["decoder"][0])
        _arrow(ax, (0, y), (1, y), look["decoder"][0], ":")
    classes = len(network.space.classes)
    _box(ax, (1, 1), f"masks\n{classes} classes", *look["segmentation_head"])
    _arrow(ax, (1, 0), (1, 1), look["segmentation_head"][0])
    grade, start = ("grade\n5 classes", look["grading_head"]), (0, -deepest)
    if shapes["grader"]:
        end = (1, -deepest)
        _box(ax, (2, 0), f"{len(network.space.marked)} masks\n{size} × {size}", *look["grader"])
        _arrow(ax, (1, 1), (2, 0), look["grader"][0])
        for level, (channels, side) in enumerate(shapes["grader"][1:], 1):
            _box(ax, (2, -level), f"{channels}\n{side} × {side}", *look["grader"])
            _arrow(ax, (2, 1 - level), (2, -level), look["grader"][0])
        start = (2, -deepest)
    elif network.variant == "A":
        start, end = (1, 0), (0, 1)
    else:
        end = (1, -deepest)
    _box(ax, end, grade[0], *grade[1])
    _arrow(ax, start, end, grade[1][0])


# ---------------------------------------------------------------- losses and layers


def pixel_loss(chance: np.ndarray, losses: Mapping[str, np.ndarray]) -> Figure:
    """The loss of one pixel against the probability of its true class; `losses`: name -> values."""
    figure, ax = plt.subplots(figsize=(6.6, 3.9), layout="constrained")
    for (name, values), colour, style in zip(
        losses.items(), (PLAIN, TRAINING, VALIDATION), ("--", "-", "-"), strict=False
    ):
        ax.plot(chance, values, style, color=colour, linewidth=2.2, label=name)
    ax.set(xlabel="probability of the true class", ylabel="loss of the pixel", xlim=(0, 1), ylim=(0, None))
    ax.set_title("One pixel, five classes, after a softmax", fontsize=11)
    ax.legend(frameon=False, fontsize=9.5)
    ax.grid(alpha=0.25)
    open_frame(ax)
    return figure


def upsampling_steps(small: np.ndarray, large: Mapping[str, np.ndarray]) -> Figure:
    """A small map, and what each way of doubling its side makes of it. `large`: name -> (2H, 2W)."""
    figure, axes = plt.subplots(1, 1 + len(large), figsize=(8.6, 3.1), layout="constrained")
    edge = max(abs(values).max() for values in (small, *large.values()))
    for ax, (name, values) in zip(axes, {"before": small, **large}.items(), strict=True):
        title = f"{name}\n{values.shape[0]} × {values.shape[1]}"
        show_picture(ax, values, title, cmap="PuOr", vmin=-edge, vmax=edge, interpolation="nearest")
        for (row, column), value in np.ndenumerate(values):
            dark = abs(value) > 0.6 * edge
            text = f"{value:.1f}".replace("-0.0", "0.0")
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if dark else "black",
            )
    return figure


# ---------------------------------------------------------------- made labels


def made_beside_truth(
    images: Sequence[np.ndarray],
    truths: Sequence[Mapping[str, np.ndarray]],
    made: Sequence[Mapping[str, np.ndarray]],
    titles: Sequence[str],
    label: str,
) -> Figure:
    """A row per photograph: as it is, with the doctors' masks, with those that a network made.

    Args:
        images: RGB, uint8 (H, W, 3).
        truths, made: group -> mask (H, W).
        titles: of the made masks.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(
        len(images), 3, figsize=(8.6, 0.8 + 2.95 * len(images)), layout="constrained", squeeze=False
    )
    for line, image, truth, mask, title in zip(axes, images, truths, made, titles, strict=True):
        show_picture(line[0], image, "photograph")
        show_picture(line[1], overlay(image, truth), "true masks")
        show_picture(line[2], overlay(image, mask), title)
    lesion_legend(figure, list(GROUP_NAMES))
    figure.suptitle(f"Made masks beside the truth ({label})")
    return figure


def sheet_with_masks(
    images: Sequence[np.ndarray],
    masks: Sequence[Mapping[str, np.ndarray]],
    titles: Sequence[str],
    title: str,
    columns: int = 5,
) -> Figure:
    """Photographs in rows with masks of groups laid over them.

    Args:
        images: RGB, uint8 (H, W, 3).
        masks: group -> mask (H, W); an empty dict shows the photograph alone.
        titles: one per photograph.
        title: of the figure; names the data.
        columns: photographs in a row.
    """
    rows = -(-len(images) // columns)
    size = (8.6, 0.7 + rows * (8.6 / columns + 0.42))
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, mask, name in zip(axes.flat, images, masks, titles, strict=False):
        show_picture(ax, overlay(image, mask), name)
    lesion_legend(figure, list(GROUP_NAMES))
    figure.suptitle(title)
    return figure


def erased_shares(table: pd.DataFrame, label: str) -> Figure:
    """What a network marked as disease, by grade; grade 0 is what the rule erases.

    Args:
        table: as `pseudo.erased`: grade, and a share of pixels (0-1) for each group. A dot per photograph.
        label: names the data in the title.
    """
    groups = [group for group in GROUP_NAMES if group in table]
    figure, axes = plt.subplots(1, len(groups), figsize=(8.6, 3.4), layout="constrained", squeeze=False)
    rng = np.random.default_rng(0)
    for ax, group in zip(axes[0], groups, strict=True):
        across = table.grade + rng.uniform(-0.22, 0.22, len(table))
        kept = table.grade > 0
        look = {"color": GROUP_COLOURS[group], "edgecolor": "#333333", "linewidth": 0.5, "s": 26}
        ax.scatter(across[kept], 100 * table[group][kept], **look, label="kept")
        gone = {"marker": "x", "color": "black", "linewidth": 1.1, "s": 26}
        ax.scatter(across[~kept], 100 * table[group][~kept], **gone, label="erased")
        means = 100 * table.groupby("grade")[group].mean()
        ax.hlines(means, means.index - 0.32, means.index + 0.32, color="black", linewidth=2, label="mean")
        ax.set(xticks=list(GRADES), xlabel="grade", ylim=(-0.04 * 100 * max(table[group].max(), 1e-4), None))
        ax.set_title(GROUP_NAMES[group], fontsize=10.5)
        open_frame(ax)
    axes[0, 0].set_ylabel("marked pixels, %")
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
    figure.suptitle(f"What the first network marks as disease ({label})")
    return figure


def confidence_thresholds(table: pd.DataFrame, label: str) -> Figure:
    """What a smallest confidence costs and brings.

    Args:
        table: index the smallest confidence; columns `kept/GROUP` (share of the marked pixels that stay),
            `right/GROUP` (share of these that are right; NaN where none is left) and `dice/GROUP`.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.6), layout="constrained", sharey=True)
    panels = {"kept": "marks that are kept", "right": "of these, right", "dice": "Dice of what is kept"}
    marks = dict(zip(GROUP_NAMES, "osD", strict=True))
    for ax, (kind, title) in zip(axes, panels.items(), strict=True):
        for group, name in GROUP_NAMES.items():
            values = table[f"{kind}/{group}"]
            ax.plot(table.index, values, marks[group] + "-", label=name, **curve_style(group))
        ax.set(xlabel="smallest confidence of a mark", ylim=(-0.03, 1.03))
        ax.set_title(title, fontsize=10.5)
        ax.grid(alpha=0.25)
        open_frame(ax)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(f"Made masks of photographs whose truth is known ({label})")
    return figure


def paired_intervals(table: pd.DataFrame, names: Mapping[str, str], title: str) -> Figure:
    """Differences between two experiments with their 95 % intervals over the seeds.

    Args:
        table: as `records.paired_difference`: difference, low, high, p and seeds for each metric.
        names: metric -> its name in the figure; a metric that the table lacks is left out.
        title: of the figure; says what is compared, and on what data.

    A table without any of these gives an empty figure that says so.
    """
    shown = table.loc[[metric for metric in names if metric in table.index]]
    if shown.empty:
        figure, ax = plt.subplots(figsize=(8.6, 1.2), layout="constrained")
        ax.text(0.5, 0.5, "no recorded runs of both with two seeds yet", ha="center", va="center")
        ax.set_title(title, fontsize=11)
        ax.set_axis_off()
        return figure
    figure, ax = plt.subplots(figsize=(8.6, 1.4 + 0.42 * len(shown)), layout="constrained")
    ax.axvline(0, color="black", linewidth=1.2)
    for line, row in enumerate(shown.itertuples()):
        sure = row.low > 0 or row.high < 0
        colour = TRAINING if sure else PLAIN
        ax.plot([row.low, row.high], [line, line], color=colour, linewidth=3)
        ax.plot(row.difference, line, "o", color=colour, markersize=7)
        text = f"{row.difference:+.3f}  [{row.low:+.3f}, {row.high:+.3f}]  {p_text(row.p)}"
        beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
        ax.annotate(text, (1.01, line), color=colour, **beside)
    ax.set_yticks(range(len(shown)), [names[metric] for metric in shown.index])
    ax.set(ylim=(len(shown) - 0.5, -0.5), xlabel=f"difference (mean of {int(shown.seeds.max())} seeds)")
    ax.set_title(title, fontsize=11)
    ax.grid(axis="x", alpha=0.3)
    open_frame(ax)
    return figure
