"""Figures of chapter 03, segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mtl_utils.lesions import LESION_COLOURS, LESION_NAMES, LESIONS
from mtl_utils.plots.common import (
    PLAIN,
    TRAINING,
    VALIDATION,
    curve_style,
    lesion_legend,
    open_frame,
    overlay,
    show_picture,
)


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
    open_frame(ax)
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
        (share, "share of marked pixels", "o", VALIDATION),
        (prior, "start of our network", "s", TRAINING),
        (0.5, "no opinion", "D", "black"),
    ):
        value = -share * np.log(place) - (1 - share) * np.log1p(-place)
        text = f"{name}, {100 * place:.2g} %: loss {value:.4f}"
        right.plot(place, value, marker, color=colour, markersize=8, label=text)
    right.set(xscale="log", yscale="log", xlabel="the same probability for every pixel (log)")
    right.set(ylabel="mean loss (log)", title="all pixels")
    right.legend(frameon=False, fontsize=8.5, loc="upper left")
    open_frame(left, right)
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
        ax.step(recall, precision, where="post", label=name, **curve_style(lesion))
    ax.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=f"Precision and recall, pooled test pixels ({label})"
    )
    ax.set(
        xlabel="recall: share of the lesion that is found", ylabel="precision: share of marks that are right"
    )
    ax.legend(title="area (AUPR)", frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.grid(alpha=0.25)
    open_frame(ax)
    return figure


def dice_by_threshold(dice: pd.DataFrame, label: str) -> Figure:
    """Dice against the threshold; the best is ringed, if the lesion is found at all.

    `dice`: thresholds x lesions.
    """
    figure, ax = plt.subplots(figsize=(7.6, 3.9), layout="constrained")
    ax.axvline(0.5, color=PLAIN, linestyle="--", linewidth=1.2, label="0.5")
    for lesion in dice:
        ax.plot(dice.index, dice[lesion], label=LESION_NAMES[lesion], **curve_style(lesion))
        if dice[lesion].max() > 0:
            best = dice[lesion].idxmax()
            ring = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": "black"}
            ax.plot(best, dice.loc[best, lesion], "o", **ring)
    ax.set(xlabel="threshold", ylabel="Dice, pooled", xlim=(0, 1), ylim=(-0.02, 1))
    ax.set_title(f"Dice of the validation photographs ({label})\nringed: the best threshold")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.grid(alpha=0.25)
    open_frame(ax)
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
    open_frame(ax)
    return figure
