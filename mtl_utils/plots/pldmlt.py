"""Figures of chapter 06, PLDMLT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy.stats import entropy

from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESIONS
from mtl_utils.plots.common import (
    COLOURS,
    NAMES,
    PLAIN,
    TASK_COLOURS,
    TRAINING,
    VALIDATION,
    lesion_legend,
    open_frame,
    overlay,
    show_picture,
)

GRADE_STYLES = tuple(
    zip(("#56B4E9", "#009E73", "#E69F00", "#D55E00", "#000000"), (":", "-.", "--", "-", "-"), strict=True)
)
"""Colour and line of each grade: colour-blind safe, and told apart without colour."""

_ON_WHITE = [withStroke(linewidth=4.5, foreground="white")]
_ON_DARK = [withStroke(linewidth=3.2, foreground="black")]
_PAPER = {"marker": "D", "color": "black", "markerfacecolor": "none", "linestyle": "none", "markersize": 8}

# ---------------------------------------------------------------- stage 1


def heat_maps(
    image: np.ndarray,
    masks: np.ndarray,
    heat: np.ndarray,
    table: pd.DataFrame,
    label: str,
) -> Figure:
    """What each grade looks at: a photograph with its masks, and the heat maps of all five grades.

    Args:
        image: RGB, uint8 (H, W, 3).
        masks: 0 or 1, (5, H, W) in the order of `LESIONS`.
        heat: (5, H, W), each from 0 to 1.
        table: a row per grade: probability, lesion_auc, disc_auc, and `why` it is ruled out ('' where it is
            not: several reasons are parted by commas).
        label: names the data in the title.
    """
    figure, axes = plt.subplots(2, 3, figsize=(8.6, 7.0), layout="constrained")
    first, *panels = axes.flat
    show_picture(first, overlay(image, masks), "photograph and masks\n")
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    lesions = masks[[LESIONS.index(lesion) for lesion in DISEASE_LESIONS]].max(axis=0)
    disc = masks[LESIONS.index("OD")]
    side = image.shape[0]
    for ax, (grade, row) in zip(panels, table.iterrows(), strict=True):
        title = f"grade {grade}, probability {row.probability:.2f}\n"
        title += f"AUC: lesions {row.lesion_auc:.2f}, "
        title += f"disc {row.disc_auc:.2f}" if np.isfinite(row.disc_auc) else "no disc"
        show_picture(ax, grey, title)
        shown = ax.imshow(heat[grade], cmap="inferno", vmin=0, vmax=1, alpha=0.6)
        for mask, colour, width in ((lesions, "#56B4E9", 0.8), (disc, "#00E0A0", 1.8)):
            if mask.any():
                ax.contour(mask, levels=[0.5], colors=colour, linewidths=width)
        if row.why:
            edges = (-0.5, side - 0.5)
            for line in (edges, edges[::-1]):
                ax.plot(edges, line, color="white", linewidth=1.6, path_effects=_ON_DARK)
            ax.set(xlim=edges, ylim=edges[::-1])
            where = {"ha": "center", "va": "bottom", "transform": ax.transAxes}
            text = f"ruled out: {row.why.replace(', ', chr(10))}"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
            ax.text(0.5, 0.02, text, fontsize=8.5, bbox=box, **where)
    figure.colorbar(shown, ax=axes[:, -1], label="heat", shrink=0.6)
    lesion_legend(figure)
    figure.suptitle(f"Heat maps of five grades; thin lines: lesions, thick: disc ({label})")
    return figure


def threshold_effects(panels: Mapping[str, pd.DataFrame], chosen: Mapping[str, float], title: str) -> Figure:
    """How good pseudo grades are when a threshold of the heat maps moves.

    Args:
        panels: name of a threshold -> index its values, columns `accuracy`, `qwk` (NaN where it is not
            defined) and `changed`, the share of photographs whose grade the heat maps change.
        chosen: name of a threshold -> the value in use, a vertical line.
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 3.9), layout="constrained", sharey=True)
    looks = {
        "accuracy": ("accuracy", TRAINING, "o-"),
        "qwk": ("QWK", VALIDATION, "s--"),
        "changed": ("share changed", PLAIN, "^:"),
    }
    for ax, (name, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        ax.axvline(chosen[name], color="black", linewidth=1)
        ax.axhline(0, color="black", linewidth=0.6)
        for column, (text, colour, style) in looks.items():
            ax.plot(table.index, table[column], style, color=colour, markersize=5, label=text)
        ax.set(xlabel=name)
        ax.grid(alpha=0.25)
        open_frame(ax)
    handles, texts = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color="black", linewidth=1))
    figure.legend(handles, [*texts, "in use"], loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    return figure


# ---------------------------------------------------------------- stage 2


def fused_steps(
    image: np.ndarray, lesions: np.ndarray, union: np.ndarray, closed: np.ndarray, title: str
) -> Figure:
    """Four lesions, their union, and what a closing adds.

    Args:
        image: RGB, uint8 (H, W, 3).
        lesions: 0 or 1, (5, H, W) in the order of `LESIONS`; the disc is not drawn.
        union, closed: 0 or 1, (H, W).
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.8), layout="constrained")
    show_picture(axes[0], overlay(image, dict(zip(DISEASE_LESIONS, lesions, strict=False))), "four lesions")
    colours = ListedColormap(("#222222", "#FFFFFF", VALIDATION))
    added = np.where(union > 0, 1, np.where(closed > 0, 2, 0))
    look = {"cmap": colours, "vmin": 0, "vmax": 2, "interpolation": "nearest"}
    for ax, values, name in ((axes[1], np.where(union > 0, 1, 0), "union"), (axes[2], added, "closed")):
        show_picture(ax, values, f"{name}: {int((values > 0).sum()):,} pixels", **look)
    patches = [
        Patch(facecolor=colour, edgecolor="#333333", label=text)
        for colour, text in (("#FFFFFF", "in the union"), (VALIDATION, "added by the closing"))
    ]
    patches += [Patch(color=COLOURS[lesion], label=NAMES[lesion]) for lesion in DISEASE_LESIONS]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def focal_curves(chance: np.ndarray, curves: Mapping[str, np.ndarray]) -> Figure:
    """The focal loss of one pixel, and its weight compared with a pixel that is guessed.

    Args:
        chance: probability of the true class, (N,).
        curves: name -> loss, (N,); the first is the one that the others are compared with.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    looks = zip(("#000000", "#009E73", TRAINING, VALIDATION), ("--", "-.", "-", ":"), strict=True)
    plain = next(iter(curves.values()))
    for (name, values), (colour, style) in zip(curves.items(), looks, strict=False):
        left.plot(chance, values, style, color=colour, linewidth=2.2, label=name)
        right.plot(chance, values / plain, style, color=colour, linewidth=2.2)
    left.set(ylabel="loss", ylim=(0, None), title="loss of one pixel")
    right.set(ylabel="share of it", yscale="log", ylim=(1e-4, 2), title=f"compared with {next(iter(curves))}")
    for ax in (left, right):
        ax.set(xlabel="probability of the true class", xlim=(0, 1))
        ax.title.set_fontsize(10.5)
        ax.grid(alpha=0.25)
    left.legend(frameon=False, fontsize=9.5)
    open_frame(left, right)
    return figure


def look_ahead_steps(
    axis: np.ndarray,
    loss: np.ndarray,
    theta: Sequence[float],
    ahead: Mapping[int, Sequence[float]],
    line: pd.DataFrame,
    slope: tuple[float, float, float],
) -> Figure:
    """The look-ahead of a network with two shared weights, of the red and of the yellow colour.

    Args:
        axis: values of both weights, (N,).
        loss: of the primary task, (N, N); rows are the second weight.
        theta: the two weights now.
        ahead: grade that a label says -> the weights after the imagined step.
        line: index the share of the second grade in a label that lies between two grades, column `loss`: of
            the primary task after the step.
        slope: share, loss and derivative where the label stands; the derivative is drawn as a tangent.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.2, 4.4), layout="constrained", width_ratios=(1.2, 1)
    )
    filled = left.contourf(axis, axis, loss, levels=18, cmap="Greys")
    figure.colorbar(filled, ax=left, label="loss of the masks")
    for grade, (x, y) in ahead.items():
        colour = GRADE_STYLES[grade][0]
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "mutation_scale": 14}
        left.annotate("", (x, y), tuple(theta), arrowprops=arrow)
        look = {"color": colour, "fontsize": 13, "weight": "bold", "path_effects": _ON_WHITE}
        above = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
        left.annotate(str(grade), (x, y), (0, 6), **above, **look)
    left.plot(*theta, "o", color="black", markersize=8, path_effects=_ON_WHITE)
    left.set(xlabel="weight of red", ylabel="weight of yellow")
    left.set_title("one step from the dot, for each label", fontsize=10.5)
    share, value, derivative = slope
    right.plot(line.index, line.loss, color=TASK_COLOURS["segmentation"], linewidth=2.4)
    reach = np.array([max(0, share - 0.3), min(1, share + 0.3)])
    right.plot(reach, value + derivative * (reach - share), "--", color="black", label="meta-gradient")
    right.plot(share, value, "o", color="black", markersize=8)
    right.set(xlabel=line.index.name, ylabel="loss of the masks after the step")
    right.set_title("the same, for labels in between", fontsize=10.5)
    right.legend(frameon=False)
    right.grid(alpha=0.25)
    open_frame(right)
    return figure


def moving_labels(labels: pd.DataFrame, titles: Mapping[int, str], title: str) -> Figure:
    """How the labels of some photographs move: a panel each, a line for each grade.

    Args:
        labels: as `training.load_labels`: epoch, row, p0 .. p4.
        titles: row -> what stands above its panel; only these rows are drawn.
        title: of the figure; names the data.
    """
    columns = min(4, len(titles))
    rows = -(-len(titles) // columns)
    size = (8.8, 0.9 + 2.1 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for ax in list(axes.flat)[len(titles) :]:
        ax.set_axis_off()
    for ax, (row, text) in zip(axes.flat, titles.items(), strict=False):
        own = labels[labels.row == row].sort_values("epoch")
        _grade_lines(ax, own.epoch, own[[f"p{grade}" for grade in GRADES]].to_numpy())
        ax.set_title(text, fontsize=9)
        ax.set(ylim=(-0.02, 1.02))
        open_frame(ax)
    _grade_legend(figure)
    for ax in axes[-1]:
        ax.set_xlabel("updated before epoch", fontsize=9)
    figure.supylabel("probability in the label", fontsize=10)
    figure.suptitle(title)
    return figure


def mean_labels(runs: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """The mean label of all photographs over the updates, a panel for each run, and its entropy.

    Args:
        runs: name -> index the number of updates, columns p0 .. p4.
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(
        1, len(runs) + 1, figsize=(9.2, 3.8), layout="constrained", width_ratios=[1] * len(runs) + [1.35]
    )
    *panels, last = axes
    for ax, (name, table) in zip(panels, runs.items(), strict=True):
        _grade_lines(ax, table.index, table.to_numpy())
        ax.set(ylim=(-0.02, 1.02), xlabel="updates")
        ax.set_title(name, fontsize=9.5)
        open_frame(ax)
        ax.sharey(panels[0])
    panels[0].set_ylabel("mean label")
    looks = zip((TRAINING, VALIDATION, "#000000"), ("o-", "s--", "^:"), strict=True)
    for (name, table), (colour, style) in zip(runs.items(), looks, strict=False):
        last.plot(
            table.index,
            entropy(table, axis=1),
            style,
            color=colour,
            markersize=5,
            label=name.replace("\n", " "),
        )
    last.axhline(np.log(len(GRADES)), color=PLAIN, linewidth=1)
    last.text(0, np.log(len(GRADES)), "all five alike", va="bottom", fontsize=8.5, color=PLAIN)
    last.set(ylim=(-0.03, 1.75), xlabel="updates")
    last.set_title("entropy of the mean label", fontsize=9.5)
    last.legend(frameon=False, fontsize=8.5, loc="lower left")
    open_frame(last)
    _grade_legend(figure)
    figure.suptitle(title)
    return figure


def _grade_lines(ax: Axes, across: Sequence[float], values: np.ndarray) -> None:
    """A line for each grade. `values`: (N, 5)."""
    for grade, (colour, style) in zip(GRADES, GRADE_STYLES, strict=True):
        width = 3.2 if grade == 4 else 1.9
        ax.plot(across, values[:, grade], style, color=colour, linewidth=width, marker=".", markersize=4)


def _grade_legend(figure: Figure) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            linestyle=style,
            linewidth=3.2 if grade == 4 else 1.9,
            label=f"grade {grade}",
        )
        for grade, (colour, style) in zip(GRADES, GRADE_STYLES, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


# ---------------------------------------------------------------- results


def papers_scores(table: pd.DataFrame, title: str) -> Figure:
    """One prediction under every paper's score. `table`: as `metrics.every_papers_score`."""
    figure, ax = plt.subplots(figsize=(9.2, 1.3 + 0.36 * len(table)), layout="constrained")
    papers = list(dict.fromkeys(table.paper))
    marks = dict(zip(papers, "osD^vP", strict=False))
    colours = dict(zip(papers, (TRAINING, "#CC79A7", VALIDATION, "#009E73", "#000000"), strict=False))
    for line, row in enumerate(table.itertuples()):
        ax.plot([0, row.value], [line, line], color="#CCCCCC", linewidth=1.5, zorder=1)
        ax.plot(row.value, line, marks[row.paper], color=colours[row.paper], markersize=9)
        ax.annotate(f"{row.value:.3f}", (1.01, line), xycoords=("axes fraction", "data"), va="center")
    ax.set_yticks(
        range(len(table)), [f"{row.paper}: {row.score}" for row in table.itertuples()], fontsize=8.5
    )
    ax.set(xlim=(0, 1.02), ylim=(len(table) - 0.5, -0.5), xlabel="value")
    ax.grid(axis="x", alpha=0.3)
    open_frame(ax)
    figure.suptitle(title)
    return figure


def ablation_dots(printed: pd.DataFrame, runs: pd.DataFrame, names: Mapping[str, str], title: str) -> Figure:
    """An ablation: for each score a panel, for each row what the paper prints and a dot for each of our runs.

    Args:
        printed: index the experiment, columns the scores, in percent; NaN where the paper prints none.
        runs: the same columns, and `experiment`; a row per run. May be empty.
        names: experiment -> what stands beside its row.
        title: of the figure; says which data ours are of.
    """
    figure, axes = plt.subplots(
        1, len(printed.columns), figsize=(9.2, 1.9 + 0.45 * len(names)), layout="constrained", sharey=True
    )
    for ax, score in zip(np.atleast_1d(axes), printed, strict=True):
        for line, experiment in enumerate(names):
            ax.plot(
                printed[score].get(experiment, np.nan),
                line,
                label="the paper" if not line else None,
                **_PAPER,
            )
            own = runs.loc[runs.experiment == experiment, score] if len(runs) else []
            shift = np.linspace(-0.14, 0.14, len(own)) if len(own) > 1 else np.zeros(len(own))
            ax.plot(
                own,
                line + shift,
                "o",
                color=TRAINING,
                alpha=0.8,
                label="ours, a dot per seed" if not line else None,
            )
        ax.set_title(score, fontsize=10)
        ax.locator_params(axis="x", nbins=3)
        ax.tick_params(axis="x", labelsize=8)
        if not any(np.isfinite(np.asarray(line.get_xdata(), float)).any() for line in ax.lines):
            ax.set_xticks([])
        ax.grid(alpha=0.3)
        open_frame(ax)
        ax.set_ylim(len(names) - 0.5, -0.5)
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(names)), list(names.values()))
    if not len(runs):
        first.text(
            0.5, 0.03, "no recorded run of ours yet", transform=first.transAxes, ha="center", fontsize=9
        )
    handles, texts = first.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    return figure
