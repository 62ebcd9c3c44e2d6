"""The figures of chapter 05 show what they are given, read back from the drawing."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mtl_utils import plots
from mtl_utils.label_spaces import RED_YELLOW
from mtl_utils.lesions import GROUP_COLOURS
from mtl_utils.systems.mtunet import MTUnet, MTUnetTwoStep

GROUPS = RED_YELLOW.marked


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def image() -> np.ndarray:
    return np.full((32, 32, 3), 90, np.uint8)


def words(figure: Figure) -> str:
    """All that is written inside the axes, in titles and in legends."""
    texts = [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title, *ax.get_yticklabels())]
    legends = [legend for legend in (*figure.legends, *(ax.get_legend() for ax in figure.axes)) if legend]
    texts += [text.get_text() for legend in legends for text in legend.get_texts()]
    return "\n".join([*texts, figure.get_suptitle()])


def test_label_gap_says_the_sums() -> None:
    counts = pd.DataFrame({"train": [54, 413], "test": [27, 103]}, index=["masks", "a grade"])
    said = words(plots.label_gap(counts, "IDRiD"))
    assert "54 + 27 = 81" in said and "413 + 103 = 516" in said and "IDRiD" in said


def test_balanced_grades_has_a_panel_for_each_way() -> None:
    counts = pd.DataFrame({"as they are": [5, 1], "equal": [1, 1]})
    figure = plots.balanced_grades(counts, "synthetic set")
    heights = [[bar.get_height() for bar in ax.patches] for ax in figure.axes]
    assert heights == [[5, 1], [1, 1]]
    assert "6 photographs" in words(figure) and "2 photographs" in words(figure)


def test_the_class_map_has_each_classs_colour(image: np.ndarray) -> None:
    classes = np.zeros((32, 32), int)
    classes[0, 0] = RED_YELLOW.classes.index("red")
    lesions = np.zeros((5, 32, 32), np.uint8)
    figure = plots.label_space_steps(image, lesions, classes, RED_YELLOW.classes, "IDRiD")
    drawn = figure.axes[2].images[0].get_array()
    assert np.allclose(drawn[0, 0], to_rgb(GROUP_COLOURS["red"]))
    assert not np.allclose(drawn[0, 1], drawn[0, 0])
    assert all(name in words(figure) for name in RED_YELLOW.classes)


def test_answers_per_pixel_counts_none_and_several(image: np.ndarray) -> None:
    counts = np.ones((4, 5), int)
    counts[0] = 0  # 5 of 20 pixels
    counts[1, :2] = 2  # 2 of 20
    figure = plots.answers_per_pixel([image, image], {"sigmoid": [counts, counts]}, "IDRiD")
    assert "none 25.0%, several 10.0%" in words(figure)


@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_variants_are_drawn_with_their_measured_shapes(variant: str) -> None:
    channels = {"decoder_channels": (32, 16, 16, 8, 8)}
    if variant == "B":
        network = MTUnetTwoStep("resnet18", None, **channels)
    else:
        network = MTUnet("resnet18", None, variant=variant, **channels)
    network.train()
    parts = [name for name, module in network.named_children() if any(True for _ in module.parameters())]
    reached = {part: {"grading", "segmentation"} for part in parts}
    reached["decoder"] = set()
    figure = plots.draw_variants({f"variant {variant}": network}, {f"variant {variant}": reached}, 64)
    said = words(figure)
    # ResNet-18 by its paper: 64, 64, 128, 256 and 512 channels at 1/2 to 1/32.
    assert all(f"{c}\n{s} × {s}" in said for c, s in ((64, 32), (64, 16), (128, 8), (256, 4), (512, 2)))
    assert all(f"{c}\n{s} × {s}" in said for c, s in ((32, 4), (16, 8), (16, 16), (8, 32), (8, 64)))
    assert "masks\n5 classes" in said and "grade\n5 classes" in said
    assert ("3 masks\n64 × 64" in said) == (variant == "B")
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    assert sum(box.get_linestyle() == "--" for box in boxes) == 5  # the decoder, which no task reaches
    assert network.training


def test_pixel_loss_and_upsampling() -> None:
    chance = np.array([0.5, 1.0])
    figure = plots.pixel_loss(chance, {"one": chance, "two": 2 * chance})
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[0.5, 1.0], [1.0, 2.0]]
    large = np.arange(16.0).reshape(4, 4)
    figure = plots.upsampling_steps(np.ones((2, 2)), {"stamp": large})
    assert "stamp\n4 × 4" in words(figure) and "15.0" in words(figure)


def test_made_masks_stand_beside_the_true_ones(image: np.ndarray) -> None:
    made, truth = ({name: np.zeros((32, 32)) for name in GROUPS} for _ in range(2))
    truth["disc"][:16] = 1
    figure = plots.made_beside_truth([image], [truth], [made], ["disc 0.00"], "IDRiD")
    photograph, true, guess = (ax.images[0].get_array() for ax in figure.axes)
    assert np.array_equal(photograph, guess) and not np.array_equal(photograph, true)
    assert "disc 0.00" in words(figure)


def test_a_sheet_shows_every_photograph(image: np.ndarray) -> None:
    figure = plots.sheet_with_masks([image] * 7, [{}] * 7, [f"grade {i}" for i in range(7)], "made (IDRiD)")
    assert len([ax for ax in figure.axes if ax.images]) == 7
    assert all(f"grade {i}" in words(figure) for i in range(7))


def test_erased_marks_are_those_of_grade_0() -> None:
    table = pd.DataFrame({"grade": [0, 0, 3], "red": [0.01, 0.02, 0.1], "yellow": [0.0, 0.01, 0.2]})
    figure = plots.erased_shares(table, "IDRiD")
    red = {
        c.get_label(): c.get_offsets()[:, 1].tolist()
        for c in figure.axes[0].collections
        if len(c.get_offsets())
    }
    assert red["kept"] == pytest.approx([10.0]) and red["erased"] == pytest.approx([1.0, 2.0])


def test_confidence_thresholds_draw_what_is_kept_and_its_dice() -> None:
    table = pd.DataFrame(
        {f"{kind}/{g}": [1.0, 0.5] for kind in ("kept", "dice") for g in GROUPS}, index=[0, 0.5]
    )
    figure = plots.confidence_thresholds(table, "IDRiD")
    assert all(line.get_ydata().tolist() == [1.0, 0.5] for ax in figure.axes for line in ax.lines)
    assert len(figure.axes[0].lines) == len(GROUPS)


def test_paired_intervals_mark_what_is_sure() -> None:
    rows = {
        "difference": [0.1, 0.0],
        "low": [0.05, -0.1],
        "high": [0.15, 0.1],
        "p": [0.01, 1.0],
        "seeds": [3, 3],
    }
    table = pd.DataFrame(rows, index=["x", "y"])
    figure = plots.paired_intervals(table, {"x": "first", "y": "second", "z": "absent"}, "a minus b")
    colours = [text.get_color() for text in figure.axes[0].texts]
    assert colours == [plots.TRAINING, plots.PLAIN]
    assert "+0.100  [+0.050, +0.150]  p = 0.01" in words(figure) and "absent" not in words(figure)
