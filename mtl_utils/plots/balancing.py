"""Figures of chapter 09, balancing the tasks."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from mtl_utils.plots.common import PLAIN, TASK_COLOURS, open_frame

BALANCING_NAMES = {
    "sum": "plain sum",
    "fixed": "fixed λ",
    "equal": "λ = 1",
    "uncertainty": "uncertainty weighting",
    "gradnorm": "GradNorm",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "upgrad": "UPGrad",
    "grading": "grade alone",
    "segmentation": "masks alone",
}
BALANCING_STYLES = {
    "fixed": (PLAIN, "o", ":"),
    "equal": ("#000000", "s", "-"),
    "uncertainty": ("#0072B2", "^", "-"),
    "gradnorm": ("#56B4E9", "v", "--"),
    "pcgrad": ("#D55E00", "D", "-"),
    "cagrad": ("#CC79A7", "P", "--"),
    "upgrad": ("#E69F00", "X", "-."),
}
"""Colour, mark and line of each method, the same in every figure."""
_PENDING = "no recorded run of ours yet"

# ---------------------------------------------------------------- two arrows


def gradient_plane(gradients: np.ndarray, combined: Mapping[str, np.ndarray]) -> Figure:
    """Two gradients as arrows, the directions that harm neither task, and what each method steps along.

    Args:
        gradients: (2, 2), a row for grading and one for segmentation.
        combined: method -> the direction (2,) that it takes. It is drawn with one length for all, since an
            optimizer like Adam takes steps of one length; under it stands what each task gains from it.
    """
    gradients = np.asarray(gradients, float)
    longest = np.linalg.norm(gradients, axis=1).max()
    figure, axes = plt.subplots(
        1, len(combined), figsize=(2.5 * len(combined), 3.5), layout="constrained", squeeze=False
    )
    for ax, (name, direction) in zip(axes[0], combined.items(), strict=True):
        direction = np.asarray(direction, float)
        length = np.linalg.norm(direction)
        unit = direction / length if length else direction
        _fair_cone(ax, gradients, 1.25 * longest)
        for gradient, task in zip(gradients, ("grading", "segmentation"), strict=True):
            _vector(ax, gradient, TASK_COLOURS[task])
        _vector(ax, longest * unit, TASK_COLOURS["both"], width=3.2)
        gains = gradients @ unit
        ax.set_title(BALANCING_NAMES.get(name, name), fontsize=11)
        ax.set_xlabel(f"grade {gains[0]:+.2f}\nmasks {gains[1]:+.2f}", fontsize=10)
        ax.set(xlim=(-1.3 * longest, 1.3 * longest), ylim=(-1.3 * longest, 1.3 * longest), aspect="equal")
        ax.set(xticks=[], yticks=[])
    handles = [
        plt.Line2D([], [], color=TASK_COLOURS[key], linewidth=3, label=text)
        for key, text in (
            ("grading", "gradient of the grade"),
            ("segmentation", "gradient of the masks"),
            ("both", "step (its direction)"),
        )
    ]
    handles.append(Polygon([(0, 0)], facecolor="#DDDDDD", label="harms neither task"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9.5)
    return figure


def _vector(ax: Axes, end: np.ndarray, colour: str, width: float = 2.2) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, (0, 0), arrowprops={**look, "color": colour, "linewidth": width})


def _fair_cone(ax: Axes, gradients: np.ndarray, radius: float) -> None:
    """All directions that make an angle of at most 90 degrees with both gradients."""
    angles = np.linspace(0, 2 * np.pi, 721)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fair = (directions @ gradients.T >= 0).all(axis=1)
    if fair.any():
        order = np.roll(np.arange(len(angles)), -int(np.flatnonzero(~fair).max(initial=-1)) - 1)
        inside = radius * directions[order[fair[order]]]
        ax.add_patch(Polygon([(0, 0), *inside], closed=True, facecolor="#DDDDDD", edgecolor="none", zorder=0))


# ---------------------------------------------------------------- conflict, stage by stage


def stage_gradients(tables: pd.DataFrame, own: pd.DataFrame, label: str) -> Figure:
    """How long each task's gradient is in each stage of the encoder, and how the two lie to each other.

    Args:
        tables: rows of `balancing.gradient_conflict` of several batches.
        own: the same of two batches of one task each: stage, task and cosine; what a cosine can be at best.
        label: names the data in the title.
    """
    stages = list(dict.fromkeys(tables.stage))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.0), layout="constrained", sharey=True)
    places = np.arange(len(stages))
    for shift, task in ((-0.19, "grading"), (0.19, "segmentation")):
        median = tables.groupby("stage")[f"norm/{task}"].median().reindex(stages)
        left.barh(places + shift, median, 0.36, color=TASK_COLOURS[task])
    left.set_xscale("log")
    left.set(xlabel="length of the gradient, median (log)", title="how long")
    for task, mark in (("grading", "o"), ("segmentation", "s")):
        mean = own[own.task == task].groupby("stage").cosine.mean().reindex(stages)
        right.plot(
            mean,
            places,
            mark,
            color=TASK_COLOURS[task],
            fillstyle="none",
            markersize=8,
            label=f"{task}, two batches",
        )
    for stage, rows in tables.groupby("stage"):
        place = np.full(len(rows), stages.index(stage))
        name = "grading and segmentation" if stage == stages[0] else None
        right.plot(rows.cosine, place, "|", color=TASK_COLOURS["both"], markersize=13, mew=2, label=name)
    right.axvline(0, color="black", linewidth=1)
    right.set(xlim=(-1.05, 1.05), xlabel="cosine of the angle", title="in which direction")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    left.set_yticks(places, stages)
    left.invert_yaxis()
    open_frame(left, right)
    figure.suptitle(f"The tasks' gradients, stage by stage ({label})")
    return figure


def conflict_map(conflicts: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """The cosine between the tasks' gradients, for each stage and while training goes on.

    Args:
        conflicts: name of a run -> rows of `load_conflicts`: stage, step, cosine; of several seeds, which are
            averaged. Empty where nobody recorded it.
        label: names the data in the title.
    """
    width = max(3.4 * len(conflicts), 5.6)
    figure, axes = plt.subplots(
        1, len(conflicts), figsize=(width, 3.9), layout="constrained", squeeze=False, sharey=False
    )
    drawn = None
    for ax, (name, rows) in zip(axes[0], conflicts.items(), strict=True):
        ax.set_title(name, fontsize=11)
        if rows.empty:
            ax.text(0.5, 0.5, _PENDING, ha="center", va="center", color=PLAIN, transform=ax.transAxes)
            ax.set_axis_off()
            continue
        table = rows.pivot_table(index="stage", columns="step", values="cosine", sort=False)
        table = table[sorted(table.columns)]
        ax.set_facecolor("#999999")  # not measured; white would be a right angle
        drawn = ax.imshow(table, cmap="PuOr", vmin=-0.5, vmax=0.5, aspect="auto")
        ax.set_yticks(range(len(table)), table.index)
        chosen = np.unique(
            np.linspace(0, len(table.columns) - 1, min(6, len(table.columns))).round().astype(int)
        )
        ax.set_xticks(chosen, table.columns[chosen])
        ax.set_xlabel("step")
    if drawn is not None:
        figure.colorbar(drawn, ax=axes, label="cosine (−: conflict)", extend="both")
    figure.suptitle(f"Conflict while the network learns ({label})")
    return figure


# ---------------------------------------------------------------- weights and costs


def weight_ratios(histories: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """How many times as much the masks' gradient counts as the grade's, epoch by epoch.

    Args:
        histories: method (a key of `BALANCING_STYLES`) -> history with train/weight/grading and
            train/weight/segmentation; empty where nobody recorded it.
        label: names the data in the title.
    """
    figure, ax = plt.subplots(figsize=(8.2, 4.2), layout="constrained")
    ax.axhline(1, color="black", linewidth=1)
    for name, history in histories.items():
        if history.empty:
            continue
        colour, mark, line = BALANCING_STYLES[name]
        ratio = history["train/weight/segmentation"] / history["train/weight/grading"]
        ax.plot(history.epoch + 1, ratio, mark + line, color=colour, linewidth=2, label=BALANCING_NAMES[name])
    if not ax.get_legend_handles_labels()[0]:
        ax.text(0.5, 0.5, _PENDING, ha="center", va="center", color=PLAIN, transform=ax.transAxes)
    else:
        ax.set_yscale("log")
        figure.legend(loc="outside right center", frameon=False, fontsize=9.5)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch", ylabel="weight of masks / weight of grade (log)")
    ax.set_title(f"Whose gradient counts how much ({label})", fontsize=11)
    open_frame(ax)
    return figure


def cost_bars(costs: pd.DataFrame, assumed: Mapping[str, float], label: str) -> Figure:
    """What a step costs, beside a step on the plain sum of both losses.

    Args:
        costs: from `balancing_costs`.
        assumed: kind -> what the experiments take it to be (`STEP_COST`); a tick.
        label: names device and size in the title.
    """
    figure, ax = plt.subplots(figsize=(7.2, 0.9 + 0.42 * len(costs)), layout="constrained")
    for place, (kind, times) in enumerate(costs.times.items()):
        ax.barh(place, times, color=TASK_COLOURS.get(kind, TASK_COLOURS["both"]), alpha=0.85)
        ax.text(max(times, assumed[kind]) + 0.05, place, f"{times:.2f}", va="center", fontsize=10)
        ax.plot(assumed[kind], place, "|", color="black", markersize=18, mew=2)
    ax.plot([], [], "|", color="black", markersize=12, mew=2, label="taken for the experiments")
    ax.set_yticks(range(len(costs)), [BALANCING_NAMES[kind] for kind in costs.index])
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set(xlabel="times a plain step", title=f"What a step costs ({label})")
    ax.legend(frameon=False, fontsize=9.5, loc="lower right")
    open_frame(ax)
    return figure


# ---------------------------------------------------------------- recorded runs


def _run_name(experiment: str) -> str:
    """What an experiment is called beside others: its fixed lambda is the report's."""
    name = experiment.removeprefix("balance-")
    return "λ = 0.1" if name == "fixed" else BALANCING_NAMES[name]


def gain_forest(table: pd.DataFrame, runs: pd.DataFrame, columns: Mapping[str, str], title: str) -> Figure:
    """What each way to balance brought against the single-task runs, with 95 % intervals over seeds.

    Args:
        table: from `gains.balancing_table`; the rows to show.
        runs: from `gains.run_gains`: a dot for each seed.
        columns: column of both tables -> title of its panel.
        title: of the figure.
    """
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(3.5 * len(columns), 1.5 + 0.42 * len(table)),
        layout="constrained",
        sharey=True,
    )
    for ax, (column, name) in zip(np.atleast_1d(axes), columns.items(), strict=True):
        ax.axvline(0, color="black", linewidth=1)
        for place, (experiment, row) in enumerate(table.iterrows()):
            colour, mark, _ = BALANCING_STYLES[experiment.removeprefix("balance-")]
            own = runs[runs.experiment == experiment][column]
            ax.plot(own, np.full(len(own), place), "|", color=colour, markersize=9, alpha=0.7)
            if np.isfinite(row[f"{column} low"]):
                ax.hlines(place, row[f"{column} low"], row[f"{column} high"], color=colour, linewidth=2.5)
            if np.isfinite(row[column]):
                ax.plot(row[column], place, mark, color=colour, markersize=8)
            elif ax is np.atleast_1d(axes)[0]:
                ax.annotate(
                    "pending", (0.02, place), xycoords=("axes fraction", "data"), va="center", color=PLAIN
                )
        ax.set_title(name, fontsize=11)
        ax.set_xlabel("percent")
        open_frame(ax)
        if not len(runs):
            ax.set_xticks([])
    names = [_run_name(name) for name in table.index]
    np.atleast_1d(axes)[0].set_yticks(range(len(table)), names)
    np.atleast_1d(axes)[0].set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(title)
    return figure
