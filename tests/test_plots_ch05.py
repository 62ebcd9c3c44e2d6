"""The figures of chapter 05 show what they are given, read back from the drawing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from helpers import texts, titles
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mtl_utils import plots
from mtl_utils.label_spaces import RED_YELLOW
from mtl_utils.systems.mtunet import MTUnet, MTUnetTwoStep

BOTH = {"grading", "segmentation"}
PARTS = ("encoder", "decoder", "segmentation_head", "grading_head")
GREY = np.full((16, 16, 3), 90, np.uint8)


# The architecture


def drawn(network: MTUnet, **reached: set[str]) -> Figure:
    parts = dict.fromkeys(PARTS, BOTH) | reached
    return plots.draw_variants({"X": network}, {"X": parts}, 64)


def test_variant_c_shows_the_measured_shapes_of_vgg_16() -> None:
    figure = drawn(MTUnet("vgg16", encoder_weights=None))
    boxes = texts(figure)
    # Figure 5 of the paper at 64 in place of 512 px: five halvings, 64 to 512 channels, and back.
    encoder = [
        "photograph\n64\n64 × 64",
        "128\n32 × 32",
        "256\n16 × 16",
        "512\n8 × 8",
        "512\n4 × 4",
        "512\n2 × 2",
    ]
    decoder = ["512\n4 × 4", "512\n8 × 8", "256\n16 × 16", "128\n32 × 32", "64\n64 × 64"]
    assert [text for text in boxes if "×" in text] == [*encoder, *decoder]
    assert titles(figure) == ["X\n39.3 million parameters"]


def test_drawing_works_without_numbers_and_leaves_the_network_as_it_was() -> None:
    with torch.device("meta"):
        network = MTUnet("resnet18", encoder_weights=None).train()
    drawn(network)
    assert network.training and not any(module._forward_hooks for module in network.modules())


def test_the_grade_leaves_where_the_variant_says() -> None:
    def place_of_grade(network: MTUnet) -> list[float]:
        ax = drawn(network, grader={"grading"}).axes[0]
        return next(list(text.get_position()) for text in ax.texts if text.get_text().startswith("grade"))

    settings = {"encoder_name": "resnet18", "encoder_weights": None}
    assert place_of_grade(MTUnet(**settings, variant="A")) == [0, 1]  # beside the masks, at the top
    assert place_of_grade(MTUnet(**settings)) == [1, -5]  # beside the encoder's deepest level


def test_variant_b_is_drawn_with_its_second_network_and_its_frozen_parts_dashed() -> None:
    network = MTUnetTwoStep("resnet18", encoder_weights=None)
    frozen = {part: set() for part in ("encoder", "decoder", "segmentation_head")}
    figure = drawn(network, **frozen, grader={"grading"}, grading_head={"grading"})
    assert "3 masks\n64 × 64" in texts(figure)
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    # encoder 5, decoder 5, masks: dashed; photograph, second network 1 + 5, grade: not
    assert [box.get_linestyle() for box in boxes].count("--") == 11
    assert len(boxes) == 11 + 8


def test_colours_say_which_task_teaches_a_part() -> None:
    figure = drawn(
        MTUnet("resnet18", encoder_weights=None), decoder={"segmentation"}, grading_head={"grading"}
    )
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    edges = [box.get_edgecolor()[:3] for box in boxes]
    assert edges.count(to_rgb(plots.TASK_COLOURS["segmentation"])) == 5
    assert edges.count(to_rgb(plots.TASK_COLOURS["grading"])) == 1
    assert edges.count(to_rgb(plots.TASK_COLOURS["both"])) == 5 + 1  # the encoder, and here the masks' head


# Data, classes, losses


def test_label_gap_and_balanced_grades_write_their_numbers() -> None:
    counts = pd.DataFrame({"train": [54, 413], "test": [27, 103]}, index=["masks", "grade"])
    figure = plots.label_gap(counts, "IDRiD")
    assert {"  54 + 27 = 81", "  413 + 103 = 516"} <= {*texts(figure)}
    assert [bar.get_width() for bar in figure.axes[0].patches] == [54, 413, 27, 103]
    ways = pd.DataFrame({"as they are": [3, 1], "balanced": [2, 2]})
    assert titles(plots.balanced_grades(ways, "IDRiD")) == [
        "as they are\n4 photographs",
        "balanced\n4 photographs",
    ]


def test_a_class_picture_has_each_class_in_its_colour() -> None:
    classes = np.array([[0, 1], [3, 4]])
    picture = plots.class_picture(classes, RED_YELLOW.classes)
    names = np.array(RED_YELLOW.classes)[classes]
    assert all(
        np.allclose(picture[place], to_rgb(plots.CLASS_COLOURS[name]))
        for place, name in np.ndenumerate(names)
    )
    figure = plots.label_space_steps(
        GREY, np.zeros((5, 16, 16)), np.zeros((16, 16), int), names.flat, "IDRiD"
    )
    assert "IDRiD" in figure.get_suptitle() and len(figure.axes) == 3


def test_answers_per_pixel_counts_none_and_several() -> None:
    counts = {"sigmoid": [np.array([[0, 1], [2, 3]])]}
    figure = plots.answers_per_pixel([GREY], counts, "IDRiD")
    assert titles(figure)[1] == "sigmoid\nnone 25.0%, several 50.0%"
    assert figure.axes[1].images[0].get_array().tolist() == [[0, 1], [2, 2]]


def test_curves_and_maps_are_drawn_as_given() -> None:
    chance = np.array([0.2, 0.8])
    lines = plots.pixel_loss(chance, {"a": -np.log(chance), "b": -2 * np.log(chance)}).axes[0].lines
    assert np.allclose(lines[1].get_ydata(), 2 * lines[0].get_ydata())
    figure = plots.upsampling_steps(np.array([[1.0, -0.5]]), {"twice": np.ones((2, 4))})
    assert texts(figure)[:2] == ["1.0", "-0.5"] and titles(figure) == ["before\n1 × 2", "twice\n2 × 4"]


# Made labels


def test_masks_lie_over_the_photographs_and_nothing_lies_over_the_first_column() -> None:
    mask = np.zeros((16, 16))
    mask[4:8, 4:8] = 1
    empty = {"red": 0 * mask, "yellow": 0 * mask, "disc": 0 * mask}
    figure = plots.made_beside_truth([GREY], [empty | {"yellow": mask}], [empty], ["Dice 0"], "IDRiD")
    photograph, truth, made = (ax.images[0].get_array() for ax in figure.axes)
    assert (photograph == 90).all() and (truth != 90).any() and (made == 90).all()
    sheet = plots.sheet_with_masks([GREY] * 2, [{"disc": mask}, {}], ["a", "b"], "sheet", columns=2)
    left, right = (ax.images[0].get_array() for ax in sheet.axes)
    assert (left != 90).any() and (right == 90).all()


def test_erased_marks_are_those_of_grade_0() -> None:
    table = pd.DataFrame({"row": [1, 2, 3], "grade": [0, 0, 3], "red": [0.1, 0, 0.2], "yellow": [0, 0, 0.3]})
    ax = plots.erased_shares(table, "IDRiD").axes[0]
    kept, gone = (dots.get_offsets() for dots in ax.collections[:2])
    assert [dots.get_label() for dots in ax.collections[:2]] == ["kept", "erased"]
    assert np.allclose(kept[:, 1], [20]) and np.allclose(gone[:, 1], [10, 0])
    means = [segment[0, 1] for segment in ax.collections[2].get_segments()]
    assert np.allclose(means, [5, 20])


def test_confidence_has_a_panel_for_each_kind_of_number() -> None:
    groups = ("red", "yellow", "disc")
    panels = {"kept": [1.0, 0.4], "right": [0.5, 0.9], "dice": [0.2, 0.1]}
    columns = {f"{kind}/{group}": values for kind, values in panels.items() for group in groups}
    figure = plots.confidence_thresholds(pd.DataFrame(columns, index=[0.0, 0.9]), "IDRiD")
    for ax, values in zip(figure.axes, panels.values(), strict=True):
        assert [line.get_ydata().tolist() for line in ax.lines] == [values] * 3


def test_intervals_on_one_side_of_zero_look_different() -> None:
    columns = {"difference": [0.1, 0.02], "low": [0.05, -0.1], "high": [0.15, 0.14], "p": [0.01, 0.6]}
    table = pd.DataFrame(columns | {"seeds": [3, 3]}, index=["x", "y"])
    figure = plots.paired_intervals(table, {"y": "second", "x": "first", "z": "not there"}, "a minus b")
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["second", "first"]
    _, unsure, _, sure, _ = ax.lines
    assert list(unsure.get_xdata()) == [-0.1, 0.14] and list(sure.get_xdata()) == [0.05, 0.15]
    assert unsure.get_color() != sure.get_color()
    assert any("+0.100  [+0.050, +0.150]  p = 0.01" in text for text in texts(figure))


def test_a_comparison_without_records_says_so() -> None:
    assert "no recorded runs" in texts(plots.paired_intervals(pd.DataFrame(), {}, "a minus b"))[0]
