"""Figures of chapter 02, grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtl_utils.plots.common import PLAIN, TRAINING, VALIDATION, curve_style, open_frame, show_picture


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
    open_frame(bars)
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
                ax.plot(
                    history.epoch + 1, history[column], "o-", label=name, markersize=4, **curve_style(column)
                )
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
        open_frame(ax)
    figure.suptitle(f"Learning curves ({label})")
    return figure


def forest(
    results: Mapping[str, Mapping[str, float]],
    names: Mapping[str, str],
    title: str,
    baseline: tuple[str, Mapping[str, float]] | None = None,
) -> Figure:
    """A forest plot: each metric a line, its value a dot, its 95 % interval a bar, its numbers on the right.

    Args:
        results: name -> flat metrics of up to three runs; intervals are `metric/low` and `metric/high`.
        names: metric -> its name in the figure, from top to bottom. A metric that a run lacks is left out.
        title: of the figure; names the data.
        baseline: its name, and metric -> value; hollow diamonds.
    """
    height = 1.3 + len(names) * max(0.34, 0.27 * len(results))
    figure, ax = plt.subplots(figsize=(8.6, height), layout="constrained")
    values = [run[key] for run in results.values() for key in run if key.removesuffix("/low") in names]
    low, high = min(0.0, *values) - 0.02, 1.02
    for place, (run_name, run) in enumerate(results.items()):
        colour, marker = ((TRAINING, "o"), (VALIDATION, "s"), ("#007A5A", "^"))[place]
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
    open_frame(ax)
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
        open_frame(below)
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
    open_frame(left, right)
    return figure
