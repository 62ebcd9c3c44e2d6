"""Figures of chapter 07, DeepMT-DR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from mtl_utils.lesions import DISEASE_LESIONS, LESION_COLOURS
from mtl_utils.plots.common import (
    EDGE,
    PLAIN,
    TASK_COLOURS,
    TRAINING,
    VALIDATION,
    count_parameters,
    grid,
    open_frame,
    show_picture,
)

if TYPE_CHECKING:  # torch starts slowly
    from mtl_utils.systems.deepmt_dr import DeepMTDR

SUBNET_COLOURS = {"isr": "#CC79A7", "lesions": TASK_COLOURS["segmentation"], "grading": TRAINING}
"""Yellow, orange and blue in the paper's Figure 3. Its yellow, dark enough to be read on white, would be an
orange to the colour-blind; so it is pink here.
"""

_CONTOUR = {"levels": [0.5], "colors": "#56B4E9", "linewidths": 0.9}

# ---------------------------------------------------------------- resolution


def fading_dot(
    stored: Mapping[int, np.ndarray],
    enlarged: Mapping[int, np.ndarray],
    outline: np.ndarray,
    contrast: Mapping[int, float],
    label: str,
) -> Figure:
    """One microaneurysm at several resolutions: above as stored, below made large again.

    Args:
        stored: divisor of the side -> RGB, uint8, the place cut out of the small photograph.
        enlarged: the same, bicubic, at the full size (H, W, 3).
        outline: bool (H, W), the drawn microaneurysm.
        contrast: divisor -> grey levels between the dot and what surrounds it.
        label: names the data in the title.
    """
    figure, axes = grid(2, len(stored), side=2.25)
    for column, scale in zip(axes.T, stored, strict=True):
        title = "full size" if scale == 1 else f"1/{scale} of the side"
        show_picture(column[0], stored[scale], title, interpolation="nearest")
        show_picture(column[1], enlarged[scale], f"contrast {contrast[scale]:.1f}", interpolation="nearest")
        column[1].contour(outline, **(_CONTOUR | {"colors": "white"}))
    figure.suptitle(f"One microaneurysm: as stored, and made large again, with its outline ({label})")
    return figure


def rim_of_errors(original: np.ndarray, error: np.ndarray, inside: np.ndarray, label: str) -> Figure:
    """Where a restored photograph is wrong, and which pixels count.

    Args:
        original: RGB, uint8 (H, W, 3).
        error: (H, W), mean absolute difference of the channels in grey levels.
        inside: bool (H, W), what counts: the field of view without its rim.
        label: names the data in the title.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.0, 3.5), layout="constrained")
    show_picture(left, original, "original")
    left.contour(inside, **(_CONTOUR | {"colors": "white"}))
    highest = float(np.percentile(error, 99.5))
    show_picture(middle, error, "error of bicubic", cmap="inferno", vmin=0, vmax=highest)
    shown = right.imshow(np.where(inside, error, np.nan), cmap="inferno", vmin=0, vmax=highest)
    right.set_title("what counts: without the rim", fontsize=10)
    right.set_axis_off()
    figure.colorbar(shown, ax=[middle, right], label="grey levels", shrink=0.8)
    figure.suptitle(f"The largest errors sit where light falls to black ({label})")
    return figure


def zoom_sheet(pictures: Mapping[str, np.ndarray], box: tuple[int, int, int], label: str) -> Figure:
    """The same square place of several pictures, large, and where it lies in the last one.

    Args:
        pictures: name -> RGB, uint8, all of one size.
        box: top, left and side of the place, in pixels.
        label: names the data in the title.
    """
    top, left, side = box
    figure, axes = grid(2, (len(pictures) + 2) // 2, side=2.7)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        show_picture(ax, picture[top : top + side, left : left + side], name, interpolation="nearest")
    whole = axes.flat[len(pictures)]
    show_picture(whole, list(pictures.values())[-1], "where it lies")
    whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="white", linewidth=1.8))
    figure.suptitle(f"One place of {side} x {side} px ({label})")
    return figure


# ---------------------------------------------------------------- the hierarchy


def _box(ax: Axes, place: tuple[float, float], size: tuple[float, float], text: str, colour: str) -> None:
    """A round box around `place`."""
    (x, y), (width, height) = place, size
    style = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": (*to_rgb(colour), 0.13)}
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, edgecolor=colour, linewidth=1.8, **style))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, linespacing=1.3)


def _arrow(
    ax: Axes, start: tuple, end: tuple, colour: str = "#333333", bend: float = 0, line: str = "-"
) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.8}
    look |= {"color": colour, "linestyle": line, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", end, start, arrowprops=look)


def hierarchy_shapes(network: DeepMTDR, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what the three subnets hand on, without the batch, read while one picture of side `size`
    passes; 'small' is what the network sees, 'features' the deepest feature map, 'vector' what the pooling
    makes of it.
    """
    import torch

    device = next(network.parameters()).device
    training = network.training
    try:
        with torch.inference_mode():
            photograph = torch.zeros(1, 3, size, size, device=device)
            small = network.eval().small(photograph)
            large = network.enlarged(small)
            maps = network.maps(large)
            features = network.grading.features(large, maps)[-1]
            vector = network.grading.pooling(features)
            found = {"small": small, "isr": large, "lesions": maps, "features": features, "vector": vector}
            found["grading"] = network.grading.head(vector)
    finally:
        network.train(training)
    return {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}


def draw_hierarchy(network: DeepMTDR, size: int) -> Figure:
    """The three subnets with what they hand on, and the two ways back, drawn from the network itself.

    Args:
        network: with all three subnets; may lie on torch's device `meta`.
        size: side of the large photograph, in pixels.
    """
    shapes = {name: " × ".join(map(str, shape)) for name, shape in hierarchy_shapes(network, size).items()}
    isr, lesions, grading = network.isr, network.lesions, network.grading
    modules = len(lesions.down) + 1 + len(lesions.up)
    texts = {
        "isr": f"ISR subnet, low level\n{len(isr.extraction)} extraction layers, "
        f"{len(isr.upscaling)} up-scaling layers",
        "lesions": f"lesion subnet, middle level\nU-Net of {modules} multi-scale modules",
        "grading": f"grading subnet, high level\nfeatures {shapes['features']}, pooled to {shapes['vector']}",
    }
    figure, ax = plt.subplots(figsize=(8.8, 7.6), layout="constrained")
    middle, width, heights = 4.2, 4.6, {"isr": 6.2, "lesions": 3.7, "grading": 1.2}
    _box(ax, (middle, 8.2), (3.2, 0.8), f"small photograph\n{shapes['small']}", PLAIN)
    _arrow(ax, (middle, 7.8), (middle, heights["isr"] + 0.6))
    for name, module in (("isr", isr), ("lesions", lesions), ("grading", grading)):
        text = f"{texts[name]}\n{count_parameters(module):,} parameters"
        _box(ax, (middle, heights[name]), (width, 1.2), text, SUBNET_COLOURS[name])
    for upper, lower, text in (
        ("isr", "lesions", f"large photograph\n{shapes['isr']}"),
        ("lesions", "grading", f"four lesion maps\n{shapes['lesions']}"),
    ):
        _arrow(ax, (middle, heights[upper] - 0.6), (middle, heights[lower] + 0.6))
        ax.text(middle + 0.15, (heights[upper] + heights[lower]) / 2, text, va="center", fontsize=9)
    left = middle - width / 2
    _arrow(ax, (left, heights["isr"] - 0.25), (left, heights["grading"] + 0.3), bend=0.42)
    ax.text(0.55, 3.7, "large\nphoto-\ngraph", ha="center", va="center", fontsize=9)
    _arrow(ax, (middle, heights["grading"] - 0.6), (middle, -0.1))
    _box(ax, (middle, -0.45), (3.2, 0.7), f"grade: {shapes['grading']} logits", PLAIN)
    _ways_back(ax, middle + width / 2, heights)
    ax.set(xlim=(0, 10.7), ylim=(-0.95, 8.75))
    ax.set_axis_off()
    return figure


def _ways_back(ax: Axes, right: float, heights: Mapping[str, float]) -> None:
    """The dashed arrows from lesions and grade to the super-resolution."""
    for name, end, text, x in (
        ("lesions", -0.3, "SAL, Eq. 3:\nare the same\nlesions found?", 7.0),
        ("grading", 0.25, "CAL, Eq. 4:\ndoes the grade\nlook at the\nsame places?", 9.0),
    ):
        colour, top = SUBNET_COLOURS[name], heights["isr"] + end
        ax.plot([right, x, x], [heights[name], heights[name], top], "--", color=colour, linewidth=1.8)
        _arrow(ax, (x, top), (right, top), colour, line="--")
        ax.text(x + 0.12, (heights[name] + top) / 2, text, color=colour, va="center", fontsize=9.5)


# ---------------------------------------------------------------- evidence


def gmsv_levels(
    own: Sequence[np.ndarray],
    running: Sequence[np.ndarray],
    importance: Sequence[float],
    lesions: np.ndarray,
    label: str,
) -> Figure:
    """GMSV level by level, the last layer first: each layer's own map, and the sum so far.

    Args:
        own: (h, w) of each layer, from the first to the last.
        running: (h, w), in the same order: the sum when this layer has been added.
        importance: w^j of each layer; the last one's is not used.
        lesions: bool (H, W), outlined in the last panel.
        label: names the data in the title.
    """
    figure, axes = grid(2, len(own), side=2.05)
    for column, level in zip(axes.T, range(len(own))[::-1], strict=True):
        size = own[level].shape[0]
        note = "" if level == len(own) - 1 else f"\n$w^{level + 1}$ = {importance[level]:.2g}"
        show_picture(column[0], own[level], f"$V^{level + 1}$, {size} × {size}{note}", cmap="inferno")
        show_picture(column[1], running[level], "sum so far", cmap="inferno")
    if lesions.any():
        scale = running[0].shape[0] / lesions.shape[0]
        rows, columns = ((np.arange(length) + 0.5) * scale - 0.5 for length in lesions.shape)
        axes[1, -1].contour(columns, rows, lesions, **_CONTOUR)
    figure.suptitle(f"From the last layer (left) to the first; each panel in its own range ({label})")
    return figure


VISUALISATION_NAMES = {
    "gmsv": "GMSV",
    "guided-backprop": "guided backprop",
    "grad-cam": "Grad-CAM",
    "smoothgrad": "SmoothGrad",
}


def evidence_beside(
    image: np.ndarray,
    lesions: np.ndarray,
    maps: Mapping[str, np.ndarray],
    scores: Mapping[str, float],
    label: str,
) -> Figure:
    """Evidence maps of several methods beside the photograph, with the outlines of all lesions.

    Args:
        image: RGB, uint8 (H, W, 3).
        lesions: bool (H, W).
        maps: method, as in `explain.VISUALISATIONS` -> (H, W), 0 to 1.
        scores: method -> AUC against the lesions.
        label: names the data in the title.
    """
    figure, axes = plt.subplots(1, 1 + len(maps), figsize=(10.4, 2.9), layout="constrained")
    show_picture(axes[0], image, "photograph")
    for ax, (name, heat) in zip(axes[1:], maps.items(), strict=True):
        show_picture(
            ax,
            heat,
            f"{VISUALISATION_NAMES[name]}\nAUC {scores[name]:.2f}",
            cmap="inferno",
            vmin=0,
            vmax=1,
        )
    if lesions.any():
        for ax in axes:
            ax.contour(lesions, **_CONTOUR)
    figure.suptitle(f"What the grade rests on, by four methods; lines: lesions ({label})")
    return figure


# ---------------------------------------------------------------- losses


def loss_maps(panels: Mapping[str, tuple[np.ndarray, float]], image: np.ndarray, label: str) -> Figure:
    """Where each loss looks. `panels`: title -> its map (H, W) and its number; `image`: RGB, uint8."""
    columns = (len(panels) + 2) // 2
    figure, axes = grid(2, columns, side=2.9)
    for ax in axes.flat:
        ax.set_axis_off()
    show_picture(axes.flat[0], image, "super-resolved\n")
    for ax, (title, (values, number)) in zip(axes.flat[1:], panels.items(), strict=False):
        highest = float(np.percentile(values, 99.7)) or 1.0
        show_picture(ax, values, f"{title}\n{number:.3g}", cmap="inferno", vmin=0, vmax=highest)
    figure.suptitle(f"Where each loss looks: bright is dear; each panel in its own range ({label})")
    return figure


def threshold_steps(
    values: np.ndarray, steps: Mapping[str, np.ndarray], slopes: Mapping[str, np.ndarray]
) -> Figure:
    """A hard and some soft thresholds, and their slopes.

    Args:
        values: of the evidence, 0 to 1.
        steps: name -> the threshold's output.
        slopes: name -> its derivative, by autograd.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    looks = zip(("black", TRAINING, VALIDATION, "#009E73"), ("-", "--", "-.", ":"), strict=True)
    for (name, output), (colour, line) in zip(steps.items(), looks, strict=False):
        look = {"color": colour, "linestyle": line, "linewidth": 2, "label": name}
        axes[0].plot(values, output, **look)
        axes[1].plot(values, slopes[name], **look)
    axes[0].set(title="threshold", xlabel="evidence V", ylabel="counts as above")
    axes[1].set(title="its gradient", xlabel="evidence V")
    axes[0].legend(frameon=False, fontsize=9)
    for ax in axes:
        ax.grid(alpha=0.25)
    open_frame(*axes)
    return figure


def pair_weights(tables: Mapping[str, np.ndarray]) -> Figure:
    """Weights per pair of true and predicted grade. `tables`: title -> (5, 5), rows the true grade."""
    figure, axes = plt.subplots(1, len(tables), figsize=(4.3 * len(tables), 3.9), layout="constrained")
    highest = max(table.max() for table in tables.values())
    for ax, (title, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        ax.imshow(table, cmap="cividis", vmin=0, vmax=highest)
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value < 0.55 * highest else "black"
            ax.text(column, row, f"{value:.2f}".lstrip("0") if value else "0", ha="center", va="center",
                    color=colour, fontsize=10)  # fmt: skip
        ax.set_title(title, fontsize=11)
        ax.set(xlabel="predicted grade", ylabel="true grade", xticks=range(5), yticks=range(5))
    return figure


def gradient_bars(norms: pd.DataFrame, label: str) -> Figure:
    """How large each term of a loss is, and how hard it pulls. `norms`: terms x ('value', 'gradient')."""
    figure, axes = plt.subplots(
        1, 2, figsize=(8.8, 0.9 + 0.55 * len(norms)), layout="constrained", sharey=True
    )
    titles = {"value": "its value", "gradient": "its pull on the ISR weights"}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        bars = ax.barh(norms.index, norms[column], color=SUBNET_COLOURS["isr"])
        ax.bar_label(bars, [f" {value:.3g}" for value in norms[column]], fontsize=9)
        ax.set(title=title)
        ax.margins(x=0.25)
        open_frame(ax)
    axes[0].invert_yaxis()
    figure.suptitle(f"The four terms of Eq. 10, weighted, on one photograph ({label})")
    return figure


LOSS_NAMES = {
    "image": "Eq. 5, image",
    "smooth": "Eq. 6, smoothness",
    "seg_aware": "Eq. 3, SAL",
    "cls_aware": "Eq. 4, CAL",
    "lesions": "Eq. 7, lesions",
    "lesions_by_evidence": "Eq. 8, lesions by evidence",
    "grading": "Eq. 9, grade",
}
_LOSS_LOOKS = {
    "image": (SUBNET_COLOURS["isr"], "o-"),
    "smooth": (SUBNET_COLOURS["isr"], "s:"),
    "seg_aware": (SUBNET_COLOURS["isr"], "^--"),
    "cls_aware": (SUBNET_COLOURS["isr"], "D-."),
    "lesions": (SUBNET_COLOURS["lesions"], "v-"),
    "lesions_by_evidence": (SUBNET_COLOURS["lesions"], "P:"),
    "grading": (SUBNET_COLOURS["grading"], "X-"),
}


def two_stages(first: pd.DataFrame, second: pd.DataFrame, label: str) -> Figure:
    """The training losses by name, stage 1 and then stage 2; the colour is that of the subnet that learns.

    Args:
        first, second: histories, a row per epoch, with columns `train/NAME_loss`.
        label: names the data in the title.
    """
    figure, ax = plt.subplots(figsize=(8.8, 4.6), layout="constrained")
    history = pd.concat([first, second], ignore_index=True)
    for name, (colour, line) in _LOSS_LOOKS.items():
        if f"train/{name}_loss" in history:
            values = history[f"train/{name}_loss"]
            ax.plot(history.index + 1, values, line, color=colour, markersize=5, label=LOSS_NAMES[name])
    ax.axvline(len(first) + 0.5, color=PLAIN, linestyle="--", linewidth=1.2)
    where = {"transform": ax.get_xaxis_transform(), "fontsize": 10, "color": PLAIN, "va": "bottom"}
    ax.text(len(first) + 0.45, 1.0, "stage 1 ", ha="right", **where)
    ax.text(len(first) + 0.55, 1.0, " stage 2", ha="left", **where)
    ax.set(yscale="log", xlabel="epoch", ylabel="loss in training, weighted")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.grid(alpha=0.25)
    open_frame(ax)
    figure.suptitle(f"All losses of both stages ({label})")
    return figure


# ---------------------------------------------------------------- recorded runs

EVIDENCE_REGIONS = (*DISEASE_LESIONS, "background")


def task_correlation(grades: pd.DataFrame, lesions: pd.DataFrame, evidence: pd.DataFrame) -> Figure:
    """The paper's Figure 2 from recorded runs: a dot for each run, where there are any.

    Args:
        grades: `divisor` (of the side) and `value` (accuracy) of each run.
        lesions: the same, mean AUPR of the lesions.
        evidence: a row per run; columns of `EVIDENCE_REGIONS`, AUC of the evidence map.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.8, 3.7), layout="constrained")
    titles = ("(a) accuracy of the grade", "(b) mean AUPR of the lesions")
    for ax, title, runs in zip(axes, titles, (grades, lesions), strict=False):
        ax.set(title=title, xlabel="side of the input", xticks=range(4))
        ax.set_xticklabels(["1/8", "1/4", "1/2", "full"])
        ax.set_xlim(-0.4, 3.4)
        if len(runs):
            place = 3 - np.log2(runs.divisor)
            ax.plot(place, runs.value, "o", color=TRAINING, alpha=0.8)
            mean = runs.value.groupby(place.to_numpy()).mean()
            ax.plot(mean.index, mean, "-", color=TRAINING, alpha=0.6)
        else:
            _pending(ax)
    _evidence_dots(axes[2], evidence)
    for ax in axes:
        ax.title.set_fontsize(10.5)
        ax.grid(alpha=0.25)
    open_frame(*axes)
    return figure


def _evidence_dots(ax: Axes, evidence: pd.DataFrame) -> None:
    ax.axhline(0.5, color=PLAIN, linestyle="--", linewidth=1.2)
    names = ["BG" if region == "background" else region for region in EVIDENCE_REGIONS]
    ax.set(title="(c) AUC of the evidence map", xticks=range(len(names)), xlim=(-0.5, len(names) - 0.5))
    ax.set_xticklabels(names)
    if not len(evidence):
        _pending(ax)
    for place, region in enumerate(EVIDENCE_REGIONS):
        if region in evidence:
            values = evidence[region].dropna()
            shift = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(len(values))
            colour = LESION_COLOURS.get(region, PLAIN)
            ax.plot(place + shift, values, "o", color=colour, path_effects=EDGE, markersize=6)


def _pending(ax: Axes) -> None:
    where = {"transform": ax.transAxes, "ha": "center", "va": "center", "fontsize": 9}
    ax.text(0.5, 0.66, "no recorded run of ours yet", **where)
