"""Figures of chapter 04, one encoder and two tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from mtl_utils.plots.common import (
    PLAIN,
    TASK_COLOURS,
    TRAINING,
    VALIDATION,
    count_parameters,
    lesion_legend,
    measured_shapes,
    open_frame,
    overlay,
    show_picture,
)

if TYPE_CHECKING:  # torch starts slowly
    from mtl_utils.systems.shared_encoder import SharedEncoder


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
    shapes = measured_shapes(network, size)
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
    open_frame(ax)
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
        open_frame(below)
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
    open_frame(ax)
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
    open_frame(ax)
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
        open_frame(ax)
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
        gap: a published difference, in percentage points; a grey band.
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
    open_frame(ax)
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
    open_frame(ax)
    return figure
