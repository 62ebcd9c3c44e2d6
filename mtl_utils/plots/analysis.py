"""Figures of chapter 08, confusion matrices and qualitative analysis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mtl_utils.analysis import dice
from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESION_COLOURS, LESION_NAMES
from mtl_utils.plots.common import (
    EDGE,
    PLAIN,
    TASK_COLOURS,
    TRAINING,
    VALIDATION,
    grid,
    lesion_legend,
    open_frame,
    overlay,
    p_text,
    show_picture,
)
from mtl_utils.plots.segmentation import FALSE_ALARM, HIT, MISSED

LOOKS = tuple(
    zip((TRAINING, VALIDATION, "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00"), "os^DvPX", strict=True)
)
"""Colours and markers of what stands side by side: colour-blind safe, and told apart without colour."""
SYSTEM_LOOKS = {
    "grades alone": (TRAINING, "o", ":"),
    "masks alone": (VALIDATION, "s", "-"),
    "shared encoder": (TASK_COLOURS["both"], "^", "--"),
    "MTUnet": ("#E69F00", "D", "-."),
    "MTUnet, made labels": ("#CC79A7", "v", ":"),
    "PLDMLT": ("#000000", "P", "-"),
    "DeepMT-DR": ("#56B4E9", "X", "--"),
}
"""Colour, marker and line of each system of the fair comparison. The first three as in all chapters."""
PENDING = "no recorded run yet"


def _say_pending(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, PENDING, ha="center", va="center", transform=ax.transAxes)


# ------------------------------------------------------------------------------------------------ grades
def confusion_with_intervals(
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str
) -> Figure:
    """Confusion matrices, rows the true grade: in each cell the count and below it its 95 % interval.

    Args:
        matrices: name -> counts, low, high, each (5, 5), as from `metrics.confusion_interval`. May be empty.
        title: of the figure; names the data.
    """
    columns = max(1, len(matrices))
    figure, axes = plt.subplots(
        1, columns, figsize=(max(5.4, 3.2 * columns), 3.6), layout="constrained", squeeze=False
    )
    for ax, (name, (counts, low, high)) in zip(axes[0], matrices.items(), strict=False):
        totals = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.55 else "black"
            place = {"ha": "center", "color": colour}
            if high[row, column] > 0:
                ax.text(column, row, f"{count:g}", va="bottom", fontsize=11, **place)
                ends = f"{low[row, column]:.0f}–{high[row, column]:.0f}"
                ax.text(column, row + 0.06, ends, va="top", fontsize=8.5, **place)
            else:
                ax.text(column, row, "0", va="center", fontsize=9, **place)
        ax.set_xticks(GRADES)
        ax.set_yticks(GRADES, [f"{grade}\n(of {total:g})" for grade, total in zip(GRADES, totals[:, 0])])
        ax.set_xlabel("predicted grade")
        ax.set_title(name, fontsize=10)
    axes[0, 0].set_ylabel("true grade")
    if not matrices:
        _say_pending(axes[0, 0])
    figure.suptitle(title)
    return figure


def mistake_shares(table: pd.DataFrame, title: str) -> Figure:
    """How many photographs each system grades too mildly, right and too severely, as stacked bars.

    Args:
        table: a row per system; columns `too mild`, `right`, `too severe`: shares, 0-1. May be empty.
        title: of the figure; names the data.
    """
    figure, ax = plt.subplots(figsize=(8.6, 1.5 + 0.42 * max(1, len(table))), layout="constrained")
    left = np.zeros(len(table))
    for kind, colour in (("too mild", MISSED), ("right", HIT), ("too severe", FALSE_ALARM)):
        values = 100 * table[kind].to_numpy(float) if len(table) else left
        bars = ax.barh(range(len(table)), values, left=left, color=colour, edgecolor="white", label=kind)
        ax.bar_label(bars, [f"{v:.0f}" if v >= 4 else "" for v in values], label_type="center", fontsize=9)
        left = left + values
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlim=(0, 100), xlabel="share of the photographs, %", title=title)
    ax.title.set_fontsize(11)
    ax.invert_yaxis()
    if not len(table):
        _say_pending(ax)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    open_frame(ax)
    return figure


def counts_by_grade(table: pd.DataFrame, label: str) -> Figure:
    """How many lesions photographs of each grade have, and which of them were graded wrongly.

    Args:
        table: a row per photograph: `grade`, a number in a column for each of `DISEASE_LESIONS`, and
            `predicted`, the grade that the network gave; -1 where it was not asked.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(1, len(DISEASE_LESIONS), figsize=(8.8, 4.0), layout="constrained")
    rng = np.random.default_rng(0)
    place = table.grade.to_numpy(float) + rng.uniform(-0.25, 0.25, len(table))
    asked, wrong = table.predicted >= 0, (table.predicted >= 0) & (table.predicted != table.grade)
    for ax, lesion in zip(axes, DISEASE_LESIONS, strict=True):
        values = table[lesion].to_numpy(float)
        for which, look in (
            (~asked, {"facecolors": "none", "edgecolors": PLAIN, "marker": "o"}),
            (asked & ~wrong, {"color": HIT, "marker": "o"}),
            *(
                (wrong & (table.predicted == said), {"color": VALIDATION, "marker": f"${said}$"})
                for said in GRADES
            ),
        ):
            ax.scatter(place[which], values[which], s=44, linewidth=0.8, **look)
        ax.set_yscale("symlog", linthresh=1)
        ax.set_ylim(-0.3, max(2, table[lesion].max()) * 2)
        ticks = [tick for tick in (0, 1, 10, 100, 1000) if tick <= max(2, table[lesion].max()) * 2]
        ax.set_yticks(ticks, ticks)
        ax.set_yticks([], minor=True)
        ax.set_xticks(sorted(table.grade.unique()))
        ax.set(xlabel="true grade", title=LESION_NAMES[lesion])
        ax.set_xlim(table.grade.min() - 0.5, table.grade.max() + 0.5)
        open_frame(ax)
    axes[0].set_ylabel("lesions in the photograph")
    handles = [
        plt.Line2D([], [], marker="o", color="none", markerfacecolor="none", markeredgecolor=PLAIN),
        plt.Line2D([], [], marker="o", color="none", markerfacecolor=HIT, markeredgecolor=HIT),
        plt.Line2D(
            [], [], marker="$2$", color="none", markerfacecolor=VALIDATION, markeredgecolor=VALIDATION
        ),
    ]
    names = ("learned from", "not seen: right", "not seen: wrong, the number is what it said")
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"Lesions of photographs whose grade is known ({label})")
    return figure


# ------------------------------------------------------------------------------------------- calibration
def reliability_curves(curves: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Confidence against the share that is right, with the number of photographs at each point.

    Args:
        curves: name -> `analysis.reliability_bins`.
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.3 * len(curves), 4.2), layout="constrained", squeeze=False, sharey=True
    )
    for ax, (name, bins), (colour, marker) in zip(axes[0], curves.items(), LOOKS, strict=False):
        ax.plot([0, 1], [0, 1], color=PLAIN, linestyle="--", linewidth=1.2)
        ax.vlines(bins.confidence, bins.right, bins.confidence, color=colour, linewidth=1.2, alpha=0.7)
        ax.plot(bins.confidence, bins.right, f"{marker}-", color=colour, linewidth=2, markersize=8)
        for row in bins.itertuples():
            above = row.right >= row.confidence
            offset, side = ((0, 9), "bottom") if above else ((0, -9), "top")
            look = {"textcoords": "offset points", "ha": "center", "va": side, "fontsize": 9}
            ax.annotate(str(row.photographs), (row.confidence, row.right), offset, **look)
        ax.set(xlim=(0, 1.03), ylim=(-0.09, 1.1), xlabel="mean confidence of a bin")
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.25)
        open_frame(ax)
    axes[0, 0].set_ylabel("share that is right")
    figure.suptitle(title)
    return figure


def errors_by_chance(chance: Mapping[str, np.ndarray], observed: Mapping[str, float], title: str) -> Figure:
    """Expected calibration errors that networks as sure as the observed ones would get by chance if they were
    calibrated, and the observed errors: a panel each.

    Args:
        chance: name -> as from `analysis.calibrated_errors`.
        observed: name -> error; a vertical line in the panel of that name.
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(
        len(chance),
        1,
        figsize=(7.4, 2.1 * len(chance) + 0.6),
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    for ax, (name, errors), (colour, _) in zip(axes[:, 0], chance.items(), LOOKS, strict=False):
        ax.hist(errors, 30, color="#BBBBBB", label="calibrated, by chance")
        edge = np.percentile(errors, 95)
        ax.axvline(edge, color=PLAIN, linestyle=":", linewidth=1.6, label="95 % of these are below")
        ax.axvline(observed[name], color=colour, linewidth=2.4, label=f"observed: {observed[name]:.3f}")
        ax.set(yticks=[], xlim=(0, None))
        ax.set_title(name, fontsize=10)
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[-1, 0].set_xlabel("expected calibration error")
    figure.suptitle(title, fontsize=11)
    return figure


def changes_by_rule(changes: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """What another rule to name a grade does to accuracy and kappa: a point per run, a panel per kind of
    photographs.

    Args:
        changes: name of a panel -> a row per run, columns `accuracy` and `QWK`, the changes. May be empty.
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(
        1, len(changes), figsize=(4.2 * len(changes), 4.2), layout="constrained", sharex=True, sharey=True
    )
    for ax, (name, table), (colour, marker) in zip(np.atleast_1d(axes), changes.items(), LOOKS, strict=False):
        for line in (ax.axhline, ax.axvline):
            line(0, color=PLAIN, linewidth=1)
        ax.scatter(table.accuracy, table.QWK, s=36, color=colour, marker=marker, alpha=0.6, edgecolors="none")
        ax.set(xlabel="change of the accuracy", title=f"{name}, {len(table)} runs")
        ax.grid(color="#EEEEEE")
        ax.set_axisbelow(True)
        open_frame(ax)
    np.atleast_1d(axes)[0].set_ylabel("change of the quadratic weighted kappa")
    figure.suptitle(title)
    return figure


def members_and_ensemble(scores: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """A row for each system: crosses for its networks alone, a dot for their ensemble; a panel per score.

    Args:
        scores: system -> a row per network, the ensemble last; the same columns, the scores, in each. May be
            empty.
        title: of the figure; names the data.
    """
    names = list(next(iter(scores.values()))) if scores else [""]
    figure, axes = plt.subplots(
        1, len(names), figsize=(10.5, 1.6 + 0.3 * max(3, len(scores))), layout="constrained", sharey=True
    )
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        for line, table in enumerate(scores.values()):
            *alone, together = table[name]
            ax.plot(
                [min(table[name]), max(table[name])], [line, line], color="#DDDDDD", linewidth=2, zorder=0
            )
            ax.plot(alone, [line] * len(alone), "x", color=VALIDATION, markersize=6)
            ax.plot(together, line, "o", color=TRAINING, markersize=7)
        ax.set(xlabel=name, ylim=(max(1, len(scores)) - 0.4, -0.6))
        ax.grid(axis="x", alpha=0.3)
        open_frame(ax)
        if not scores:
            _say_pending(ax)
    np.atleast_1d(axes)[0].set_yticks(range(len(scores)), scores)
    figure.suptitle(title, fontsize=11)
    return figure


# ----------------------------------------------------------------------------------------- heat on lesions
def heat_beside_lesions(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    heats: Sequence[np.ndarray],
    titles: Sequence[str],
    label: str,
) -> Figure:
    """Photographs with their true lesions (above), and what the grade looks at (below), with the outline of
    the lesions.

    Args:
        images: RGB, uint8 (H, W, 3).
        masks: 0 or 1, (5, H, W).
        heats: (H, W), from 0 to 1.
        titles: one per photograph.
        label: names the data in the title.
    """
    figure, axes = grid(2, len(images), side=2.7)
    for (above, below), image, mask, heat, title in zip(axes.T, images, masks, heats, titles, strict=True):
        lesions = dict(zip(DISEASE_LESIONS, mask, strict=False))
        show_picture(above, overlay(image, lesions), title)
        show_picture(below, _grey(image))
        shown = below.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
        union = mask[: len(DISEASE_LESIONS)].max(axis=0)
        if union.any():
            below.contour(union, levels=[0.5], colors="#56B4E9", linewidths=0.9)
    figure.colorbar(shown, ax=axes[1], label="heat", shrink=0.7)
    lesion_legend(figure, DISEASE_LESIONS)
    figure.suptitle(f"What the grade looks at; thin lines: true lesions ({label})")
    return figure


def own_and_swapped(own: Sequence[float], swapped: Sequence[float], label: str) -> Figure:
    """How well heat maps point at the lesions of their own photograph, and at those of other photographs.

    Args:
        own: AUC per photograph.
        swapped: mean AUC of the same heat map with the lesions of the others, in the same order.
        label: names the data in the title.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for pair in zip(own, swapped, strict=True):
        ax.plot([0, 1], pair, color="#BBBBBB", linewidth=1, zorder=1)
    for place, values, (colour, marker) in zip((0, 1), (own, swapped), LOOKS, strict=False):
        ax.plot(np.full(len(values), place), values, marker, color=colour, markersize=6, alpha=0.8)
        ax.hlines(np.mean(values), place - 0.22, place + 0.22, color=colour, linewidth=3)
        text = f"mean {np.mean(values):.2f}"
        ax.annotate(text, (place + (0.25 if place else -0.25), np.mean(values)), va="center",
                    ha="left" if place else "right")  # fmt: skip
    ax.axhline(0.5, color="black", linestyle="--", linewidth=1)
    ax.text(0.5, 0.5, "chance", ha="center", va="bottom", fontsize=9)
    ax.set_xticks([0, 1], ["its own lesions", "the lesions of\nother photographs"])
    ax.set(xlim=(-0.75, 1.75), ylim=(0, 1.02), ylabel="AUC of heat against lesions")
    ax.set_title(f"Does the grade look at the lesions? ({label})", fontsize=11)
    open_frame(ax)
    return figure


# ---------------------------------------------------------------------------------------------- lesions
def precision_recall_of_systems(
    curves: Mapping[str, Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]],
    shares: Mapping[str, float],
    title: str,
) -> Figure:
    """Precision against recall, a panel per lesion, a thin line per run.

    Args:
        curves: lesion -> system (a key of `SYSTEM_LOOKS`) -> (precision, recall) of each of its runs.
        shares: lesion -> share of the pixels that belong to it: the precision of guessing.
        title: of the figure; names the data.
    """
    figure, axes = plt.subplots(1, len(curves), figsize=(9.2, 3.7), layout="constrained", sharey=True)
    systems = list(dict.fromkeys(system for found in curves.values() for system in found))
    looks = {system: dict(zip(("color", "linestyle"), SYSTEM_LOOKS[system][::2])) for system in systems}
    for ax, (lesion, found) in zip(np.atleast_1d(axes), curves.items(), strict=True):
        ax.axhline(shares.get(lesion, np.nan), color=PLAIN, linewidth=1)
        for system, runs in found.items():
            for place, (precision, recall) in enumerate(runs):
                name = system if not place else None
                ax.step(recall, precision, where="post", linewidth=1.6, label=name, **looks[system])
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", title=LESION_NAMES[lesion])
        ax.title.set_fontsize(10.5)
        ax.grid(alpha=0.25)
        open_frame(ax)
    np.atleast_1d(axes)[0].set_ylabel("precision")
    if not systems:
        for ax in np.atleast_1d(axes):
            _say_pending(ax)
    handles = [plt.Line2D([], [], linewidth=2, **looks[system]) for system in systems]
    handles.append(plt.Line2D([], [], color=PLAIN, linewidth=1))
    ncols = min(4, len(handles))
    figure.legend(handles, [*systems, "guessing"], loc="outside lower center", ncols=ncols, frameon=False)
    figure.suptitle(title)
    return figure


def curves_through_thresholds(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], title: str
) -> Figure:
    """The same answers as precision-recall curves through more and fewer thresholds, a panel per network.

    Args:
        panels: network -> which thresholds -> (precision, recall) from the lowest threshold up; those of the
            first are drawn as a thin line alone, the others with a mark at each threshold.
        title: of the figure; names the lesion and the data.
    """
    figure, axes = plt.subplots(
        1, max(1, len(panels)), figsize=(9.2, 4.1), layout="constrained", sharey=True, squeeze=False
    )
    for ax, (name, curves) in zip(axes[0], panels.items(), strict=False):
        for place, (which, (precision, recall)) in enumerate(curves.items()):
            colour, marker = LOOKS[place]
            look = {"linewidth": 1.2, "color": PLAIN} if not place else {"color": colour, "marker": marker}
            # From the highest threshold down: a step has the precision of its right end, as in the sum. Where
            # the line begins there is no threshold and no mark.
            right, height = recall[::-1], precision[::-1]
            points = [0, *right], [height[0], *height]
            ax.step(*points, where="pre", markersize=5, markevery=slice(1, None), label=which, **look)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="recall", title=name)
        ax.grid(alpha=0.25)
        open_frame(ax)
    if not panels:
        _say_pending(axes[0, 0])
    else:
        axes[0, 0].set_ylabel("precision")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title)
    return figure


def size_effects(photographs: pd.DataFrame, sizes: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """Dice of a photograph against the area of its lesions, and recall of single lesions against theirs.

    Args:
        photographs: a row per photograph and lesion: `lesion`, `area` in pixels, `dice`.
        sizes: lesion -> `analysis.recall_by_size`.
        label: names the data in the title.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 4.2), layout="constrained")
    for (lesion, marker), shift in zip(
        zip(DISEASE_LESIONS, "os^D", strict=True), (0.94, 0.98, 1.02, 1.06), strict=True
    ):
        look = {"color": LESION_COLOURS[lesion], "marker": marker, "markeredgecolor": "#333333"}
        own = photographs[photographs.lesion == lesion]
        left.plot(own.area, own.dice, linestyle="none", markersize=7, label=LESION_NAMES[lesion], **look)
        if lesion in sizes and len(sizes[lesion]):
            bins = sizes[lesion]
            across = bins.area * shift
            ends = bins[["recall_low", "recall_high"]].to_numpy(float).T
            right.vlines(across, *ends, color="#333333", linewidth=1)
            right.plot(across, bins.recall, linewidth=2, markersize=7, path_effects=EDGE, **look)
    for ax in (left, right):
        ax.set(xscale="log", ylim=(-0.03, 1.03))
        ax.grid(alpha=0.25)
        open_frame(ax)
    left.set(xlabel="true pixels in the photograph (log)", ylabel="Dice", title="photograph by photograph")
    right.set(xlabel="pixels of the lesion (log)", ylabel="mean recall", title="lesion by lesion")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"What size does ({label})")
    return figure


# ------------------------------------------------------------------------------- hits, misses, false alarms
def _grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)


def verdicts(image: np.ndarray, truth: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """A photograph in grey, with what was found (green), missed (blue) and marked by mistake (orange).

    Args:
        image: RGB, uint8 (H, W, 3).
        truth, marked: bool, (H, W) or several kinds (K, H, W). Each kind counts on its own: a haemorrhage
            that is marked as a microaneurysm is missed.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    shown = (0.75 * _grey(image)).astype(np.uint8)
    true, found = (np.reshape(masks, (-1, *image.shape[:2])) > 0 for masks in (truth, marked))
    for which, colour in (
        (found.any(axis=0), FALSE_ALARM),
        (true.any(axis=0), MISSED),
        ((true & found).any(axis=0), HIT),
    ):
        shown[which] = np.round(255 * np.array(to_rgb(colour)))
    return shown


VERDICTS = {"found": HIT, "missed": MISSED, "false alarm": FALSE_ALARM}


def _legend(figure: Figure, *rows: Mapping[str, str]) -> None:
    """Name -> colour, a row of patches each; matplotlib fills a legend column by column."""
    longest = max(map(len, rows))
    filled = [[*row.items(), *[("", "none")] * (longest - len(row))] for row in rows]
    patches = [
        Patch(color=colour, label=name) for column in zip(*filled, strict=True) for name, colour in column
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=longest, frameon=False, fontsize=9)


def threshold_sheet(
    examples: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    lesion: str,
    thresholds: Sequence[float],
    label: str,
) -> Figure:
    """One kind of lesion in several photographs, marked at several thresholds: the explorer, static.

    Args:
        examples: name -> photograph (RGB, uint8 (H, W, 3)), lesion -> true mask, lesion -> probability.
        lesion: which one is shown.
        thresholds: a column each.
        label: names the data in the title.
    """
    figure, axes = grid(len(examples), 1 + len(thresholds), side=2.3)
    for line, (name, (image, truths, chances)) in zip(axes, examples.items(), strict=True):
        show_picture(line[0], overlay(image, {lesion: truths[lesion]}), name)
        for ax, threshold in zip(line[1:], thresholds, strict=True):
            marked = chances[lesion] >= threshold
            score = dice(truths[lesion], marked)
            text = f"Dice {score:.2f}" if np.isfinite(score) else "none to find"
            show_picture(ax, verdicts(image, truths[lesion], marked), f"from {threshold:g} on: {text}")
    _legend(figure, VERDICTS)
    figure.suptitle(f"{LESION_NAMES[lesion]} at several thresholds ({label})")
    return figure


def case_sheet(
    cases: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], rule: str, label: str
) -> Figure:
    """Cases chosen by a rule, a column each: the photograph with the true lesions, and what became of them.

    Args:
        cases: title -> photograph (RGB, uint8 (H, W, 3)), true masks (5, H, W), marked ones (5, H, W).
        rule: how they were chosen.
        label: names the data in the title.
    """
    figure, axes = grid(2, len(cases), side=2.9)
    for (above, below), (title, (image, truth, marked)) in zip(axes.T, cases.items(), strict=True):
        lesions = slice(0, len(DISEASE_LESIONS))
        show_picture(above, overlay(image, dict(zip(DISEASE_LESIONS, truth, strict=False))), title)
        show_picture(below, verdicts(image, truth[lesions], marked[lesions]))
    above = {LESION_NAMES[lesion]: LESION_COLOURS[lesion] for lesion in DISEASE_LESIONS}
    _legend(figure, {"above:": "none"} | above, {"below:": "none"} | VERDICTS)
    figure.suptitle(f"{rule} ({label})")
    return figure


# ---------------------------------------------------------------------------------------------- systems
def ranks(values: pd.DataFrame, title: str) -> Figure:
    """How each score ranks systems, a line per system. `values`: systems (keys of `SYSTEM_LOOKS`) x scores,
    higher is better.
    """
    places = values.rank(ascending=False, method="min")
    figure, ax = plt.subplots(figsize=(9.2, 1.9 + 0.5 * max(2, len(values))), layout="constrained")
    for system, line in places.iterrows():
        colour, marker, _ = SYSTEM_LOOKS[system]
        across = np.arange(len(line))
        ax.plot(across, line, f"{marker}-", color=colour, linewidth=2.4, markersize=9)
        ax.annotate(
            f"{system}  ", (0, line.iloc[0]), ha="right", va="center", xytext=(-6, 0),
            textcoords="offset points",
        )  # fmt: skip
        for x, place, value in zip(across, line, values.loc[system], strict=True):
            ax.annotate(
                f"{value:.3f}", (x, place), (0, 8), textcoords="offset points", ha="center", fontsize=8.5
            )
    ax.set_xticks(range(len(values.columns)), values.columns)
    ax.set_yticks(range(1, len(values) + 1))
    ax.set(xlim=(-0.2, len(values.columns) - 0.7), ylim=(len(values) + 0.5, 0.4), title=title)
    ax.title.set_fontsize(11)
    ax.set_ylabel("rank")
    if not len(values):
        _say_pending(ax)
    open_frame(ax)
    ax.spines["left"].set_visible(False)
    ax.yaxis.set_label_position("right")
    ax.yaxis.tick_right()
    return figure


def system_differences(table: pd.DataFrame, runs: Mapping[str, Sequence[float]], title: str) -> Figure:
    """By how much systems differ from a reference: 95 % intervals over photographs, and a cross per seed.

    Args:
        table: index the system; `difference`, `low`, `high`. May be empty.
        runs: system -> difference of each pair of runs with the same seed.
        title: of the figure; says what is compared, and on what data.
    """
    figure, ax = plt.subplots(figsize=(8.6, 1.6 + 0.45 * max(1, len(table))), layout="constrained")
    ax.axvline(0, color="black", linewidth=1.2)
    for line, (system, row) in enumerate(table.iterrows()):
        sure = row.low > 0 or row.high < 0
        colour = TRAINING if sure else PLAIN
        ax.plot([row.low, row.high], [line, line], color=colour, linewidth=3)
        ax.plot(row.difference, line, "o", color=colour, markersize=8)
        own = runs.get(system, ())
        ax.plot(own, np.full(len(own), line + 0.28), "x", color=VALIDATION, markersize=6)
        text = f"{row.difference:+.3f}  [{row.low:+.3f}, {row.high:+.3f}]"
        beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
        ax.annotate(text, (1.01, line), color=colour, **beside)
    ax.set_yticks(range(len(table)), table.index)
    ax.set(ylim=(max(1, len(table)) - 0.4, -0.6), xlabel="difference; crosses: single seeds", title=title)
    ax.title.set_fontsize(11)
    if not len(table):
        _say_pending(ax)
    ax.grid(axis="x", alpha=0.3)
    open_frame(ax)
    return figure


def steps_by_lesion(
    panels: Mapping[str, pd.DataFrame], title: str, xlabel: str, marks: Mapping[str, Collection[float]] = {}
) -> Figure:
    """What each step of a ladder reaches, or adds, for each kind of lesion and for their mean.

    Args:
        panels: lesion, or 'mean' -> a row per step, the first on top: `value`, and its 95 % interval `low`
            to `high`; NaN where the step is not recorded. All panels have the same steps.
        title: of the figure; names the data.
        xlabel: what is shown.
        marks: lesion, or 'mean' -> values to compare with, each a thin dashed line.
    """
    steps = list(next(iter(panels.values())).index)
    size = (10.4, 1.9 + 0.45 * len(steps))
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", sharex=True, sharey=True)
    free = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no line crosses a number
    for ax, (name, table) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        ax.axvline(0, color="black", linewidth=1)
        for mark in marks.get(name, ()):
            ax.axvline(mark, color=PLAIN, linestyle="--", linewidth=1)
        colour = LESION_COLOURS.get(name, PLAIN)
        for line, row in enumerate(table.itertuples()):
            look = {"color": colour, "path_effects": EDGE}
            if np.isfinite(row.value):
                ax.plot([row.low, row.high], [line, line], linewidth=2.4, **look)
                # Filled where the interval leaves zero out: told apart without colour.
                inside = {} if row.low > 0 or row.high < 0 else {"markerfacecolor": "white"}
                ax.plot(row.value, line, "o", color=colour, markeredgecolor="#333333", markersize=8, **inside)
                text = {"ha": "center", "va": "bottom", "fontsize": 8.5, "textcoords": "offset points"}
                ax.annotate(f"{row.value:z.3f}", (row.value, line), (0, 6), bbox=free, **text)
            else:
                place = {"transform": ax.get_yaxis_transform(), "ha": "center", "va": "center", "fontsize": 9}
                ax.text(0.5, line, "pending", color=PLAIN, bbox=free, **place)
        ax.set_title(LESION_NAMES.get(name, name), fontsize=10.5)
        ax.margins(x=0.15)  # room for the numbers
        ax.grid(axis="x", alpha=0.25)
        open_frame(ax)
    np.atleast_1d(axes)[0].set(yticks=range(len(steps)), yticklabels=steps, ylim=(len(steps) - 0.5, -0.7))
    figure.supxlabel(xlabel, fontsize=10)
    figure.suptitle(title)
    return figure


def one_right(counts: pd.DataFrame, title: str) -> Figure:
    """McNemar's photographs: to the right those that only a system has right, to the left only its rival.

    Args:
        counts: index the system; `only_one`, `only_other`, `p`. May be empty.
        title: of the figure; names the rival and the data.
    """
    figure, ax = plt.subplots(figsize=(8.6, 1.6 + 0.36 * max(1, len(counts))), layout="constrained")
    lines = np.arange(len(counts))
    if len(counts):
        ax.barh(lines, counts.only_one, color=TRAINING, label="only this system is right")
        ax.barh(lines, -counts.only_other, color=VALIDATION, label="only the other is right")
        for line, row in zip(lines, counts.itertuples(), strict=True):
            ax.text(row.only_one, line, f" {row.only_one}", va="center", fontsize=9)
            ax.text(-row.only_other, line, f"{row.only_other} ", va="center", ha="right", fontsize=9)
            beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
            ax.annotate(p_text(row.p), (1.01, line), **beside)
        edge = 1.25 * max(1, counts[["only_one", "only_other"]].to_numpy().max())
        ax.set_xlim(-edge, edge)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    else:
        _say_pending(ax)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(lines, counts.index)
    ax.set(ylim=(max(1, len(counts)) - 0.5, -0.5), xticks=[], title=title)
    ax.title.set_fontsize(11)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def leak_gains(
    gains: Mapping[str, pd.Series],
    leaked: Mapping[str, Collection[str]],
    effects: Mapping[str, Mapping],
    title: str,
) -> Figure:
    """What the protocol `paper` gains on each test photograph: those that were seen in training, and others.

    Args:
        gains: score -> gain of each photograph (index the names).
        leaked: score -> names of those that were seen.
        effects: score -> as from `analysis.leak_effect`.
        title: of the figure; names the data. Without scores the figure says that runs are pending.
    """
    columns = max(1, len(gains))
    figure, axes = plt.subplots(
        1, columns, figsize=(max(5.4, 3.3 * columns), 4.0), layout="constrained", squeeze=False
    )
    rng = np.random.default_rng(0)
    for ax, (score, gain) in zip(axes[0], gains.items(), strict=False):
        ax.axhline(0, color="black", linewidth=1)
        seen = gain.index.isin(list(leaked[score]))
        for place, which, kind, (colour, marker) in zip(
            (0, 1), (seen, ~seen), ("seen", "unseen"), (LOOKS[1], LOOKS[0]), strict=True
        ):
            values = gain[which].to_numpy(float)
            ax.plot(place + rng.uniform(-0.16, 0.16, len(values)), values, marker, color=colour, alpha=0.5)
            effect = effects[score]
            if f"gain_{kind}" in effect:
                ends = [effect.get(f"gain_{kind}/{end}", np.nan) for end in ("low", "high")]
                ax.vlines(place + 0.28, *ends, color=colour, linewidth=3)
                ax.plot(place + 0.28, effect[f"gain_{kind}"], marker, color=colour, markersize=10)
        numbers = [int(seen.sum()), int((~seen).sum())]
        ax.set_xticks([0, 1], [f"seen in training\n({numbers[0]})", f"not seen\n({numbers[1]})"])
        ax.set(xlim=(-0.5, 1.6), ylabel="paper minus clean")
        ax.set_title(score, fontsize=10.5)
        open_frame(ax)
    if not gains:
        _say_pending(axes[0, 0])
    figure.suptitle(title)
    return figure
