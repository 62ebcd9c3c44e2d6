"""The figures of chapters 02 and 03 show the numbers they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import texts
from matplotlib.colors import to_hex

from mtl_utils import plots
from mtl_utils.lesions import LESION_COLOURS, LESION_NAMES, LESIONS
from mtl_utils.widgets import read_quiz

PICTURE = np.full((8, 8, 3), 90, np.uint8)


# Chapter 02


def test_grades_by_role_marks_the_majority_in_every_panel() -> None:
    counts = pd.DataFrame({"train": [5, 1, 9, 2, 3], "val": [2, 0, 1, 1, 1], "test": [4, 1, 3, 2, 0]})
    figure = plots.grades_by_role(counts, 2, "synthetic set")
    assert [ax.get_title() for ax in figure.axes] == [
        "train: 20 photographs",
        "val: 5 photographs",
        "test: 10 photographs",
    ]
    for ax, role in zip(figure.axes, counts, strict=True):
        assert [bar.get_height() for bar in ax.patches] == counts[role].tolist()
        dark = [to_hex(bar.get_facecolor()) == plots.TRAINING.lower() for bar in ax.patches]
        assert dark == [False, False, True, False, False]
    assert "synthetic set" in figure.get_suptitle()


def test_encoder_levels_shows_mean_strength_and_channel_means() -> None:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(4, 4, 4)), rng.normal(size=(6, 2, 2)), rng.normal(size=(20, 1, 1))]
    figure = plots.encoder_levels(PICTURE, features, np.array([0.1, 0.2, 0.3, 0.4, 0.0]), "synthetic set")
    shown = [np.ma.filled(ax.images[0].get_array(), np.nan) for ax in figure.axes if ax.images]
    for picture, feature in zip(shown[1:4], features, strict=True):
        assert np.allclose(picture, np.abs(feature).mean(axis=0))
    strip = shown[4].ravel()
    assert np.allclose(strip[:20], features[-1].mean(axis=(1, 2))) and np.isnan(strip[20:]).all()
    bars = next(ax for ax in figure.axes if ax.patches)
    assert [bar.get_height() for bar in bars.patches] == [0.1, 0.2, 0.3, 0.4, 0.0]


def test_contact_sheet_leaves_no_empty_frame() -> None:
    figure = plots.contact_sheet([PICTURE] * 4, list("abcd"), "sheet", columns=3)
    assert len(figure.axes) == 6
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", "d", "", ""]
    assert not any(ax.axison for ax in figure.axes)


def test_learning_curves_leave_out_missing_columns() -> None:
    history = pd.DataFrame(
        {"epoch": [0, 1], "train/loss": [2.0, 1.0], "val/segmentation/dice/EX": [0.1, 0.4]}
    )
    panels = {
        "loss": {"train/loss": "training", "val/loss": "validation"},
        "Dice": {"val/segmentation/dice/EX": "EX", "val/segmentation/dice/SE": "SE"},
    }
    figure = plots.learning_curves(
        history, panels, "IDRiD", {"best": 1}, {"loss": ("even guess", 1.6)}, ["loss"], ["Dice"]
    )
    loss, dice = figure.axes
    assert loss.get_legend_handles_labels()[1] == ["training", "even guess", "best: epoch 2"]
    assert dice.get_legend_handles_labels()[1] == ["EX", "best: epoch 2"]
    assert loss.lines[0].get_xdata().tolist() == [1, 2]
    assert loss.get_yscale() == "log" and dice.get_ylim() == (0, 1)
    assert dice.lines[0].get_color() == LESION_COLOURS["EX"]


def test_forest_places_values_intervals_and_baseline() -> None:
    one = {"a": 0.5, "a/low": 0.3, "a/high": 0.6, "b": 0.2}
    two = {"a": 0.7, "b": -0.1, "b/low": -0.4, "b/high": 0.2}
    figure = plots.forest(
        {"one": one, "two": two}, {"a": "A", "b": "B", "c": "C"}, "t", ("guess", {"b": 0.0})
    )
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines["one"].get_xdata()) == [0.5, 0.2] and list(lines["two"].get_xdata()) == [0.7, -0.1]
    assert list(lines["guess"].get_xdata()) == [0.0] and list(lines["guess"].get_ydata()) == [1]
    bars = [
        list(line.get_xdata())
        for line in ax.lines
        if len(line.get_xdata()) == 2 and line.get_marker() == "None"
    ]
    assert bars == [[0.3, 0.6], [-0.4, 0.2]]
    assert texts(figure) == ["0.50  [0.30, 0.60]", "0.20", "0.70", "-0.10  [-0.40, 0.20]"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B", "C"]
    assert ax.get_xlim()[0] < -0.4, "an interval below 0 is cut off"


def test_confusion_matrices_write_counts_and_row_shares() -> None:
    matrix = np.zeros((5, 5), int)
    matrix[0, :2] = [3, 1]
    matrix[4, 4] = 2
    figure = plots.confusion_matrices({"left": matrix, "right": matrix.T}, "both")
    left, right = figure.axes
    assert [text.get_text() for text in left.texts][:2] == ["3\n75%", "1\n25%"]
    assert [text.get_text() for text in left.texts][-1] == "2\n100%"
    assert left.images[0].get_array()[2].tolist() == [0] * 5, "a grade without photographs has no share"
    assert right.get_title() == "right"


def test_kappa_example_shows_the_cost() -> None:
    cost = np.subtract.outer(range(5), range(5)) ** 2
    figure = plots.kappa_example({"near": np.eye(5, dtype=int)}, cost)
    assert texts(figure)[-25:] == cost.astype(str).ravel().tolist()


def test_graded_photographs_colour_the_true_grade() -> None:
    figure = plots.graded_photographs([PICTURE] * 2, [1, 4], np.eye(5)[[0, 4]], "synthetic set")
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title() for ax in above] == ["true 1\npredicted 0", "true 4\npredicted 4"]
    for ax, grade in zip(below, (1, 4), strict=True):
        orange = [to_hex(bar.get_facecolor()) == plots.VALIDATION.lower() for bar in ax.patches]
        assert orange == [k == grade for k in range(5)]


def test_accuracy_intervals_mark_the_half_width() -> None:
    draws = np.random.default_rng(0).binomial(103, 0.6, 2000) / 103
    figure = plots.accuracy_intervals({"one": draws, "two": draws}, 103, 0.6)
    left, right = figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [np.percentile(draws, [2.5, 97.5]).tolist()] * 2
    dot = right.lines[1]
    assert dot.get_xdata()[0] == 103
    assert dot.get_ydata()[0] == pytest.approx(100 * 1.96 * (0.6 * 0.4 / 103) ** 0.5)


# Chapter 03


def test_pixel_shares_write_the_percentages() -> None:
    figure = plots.pixel_shares({"MA": 0.001, "OD": 0.02}, "IDRiD")
    assert texts(figure) == [" 0.10 %, one pixel in 1,000", " 2.00 %, one pixel in 50"]
    colours = [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches]
    assert colours == [LESION_COLOURS["MA"].lower(), LESION_COLOURS["OD"].lower()]


def test_unet_has_a_box_for_every_level_and_block() -> None:
    encoder, decoder = [(3, 32), (8, 16), (16, 8), (32, 4)], [(16, 8), (8, 16), (4, 32)]
    written = texts(plots.unet(encoder, decoder, "U-Net"))
    for channels, side in (*encoder, *decoder):
        assert f"{side} × {side}\n{channels} ch." in written
    assert "5 masks\n32 × 32" in written
    arrows = written.count("")  # an arrow is an annotation without a text
    assert arrows == 6 + 2 + 1  # down and up, two skip connections, to the masks


def test_cross_entropy_curves_are_lowest_at_the_share() -> None:
    figure = plots.cross_entropy_curves(share=0.02, prior=0.01)
    curve, share, start, half = figure.axes[1].lines
    lowest = curve.get_xdata()[curve.get_ydata().argmin()]
    assert lowest == pytest.approx(0.02, rel=0.05)
    assert share.get_ydata()[0] == pytest.approx(-0.02 * np.log(0.02) - 0.98 * np.log(0.98))
    assert start.get_xdata()[0] == 0.01
    assert half.get_ydata()[0] == pytest.approx(np.log(2))


def test_masks_beside_truth_and_probability_maps() -> None:
    truth, prediction = np.zeros((2, 5, 8, 8))
    truth[2, :4] = 1
    prediction[2, 4:] = 0.7
    figure = plots.masks_beside_truth(
        [PICTURE] * 2, [truth] * 2, [prediction] * 2, ["a", "b"], "synthetic set"
    )
    pictures = [ax.images[0].get_array() for ax in figure.axes]
    assert len(pictures) == 6
    assert (pictures[1][:3] != 90).any() and (pictures[1][5:] == 90).all()
    assert (pictures[2][:3] == 90).all() and (pictures[2][5:] != 90).any()
    maps = plots.probability_maps(truth, prediction, "synthetic set")
    titles = [ax.get_title() for ax in maps.axes]
    assert titles[:5] == [LESION_NAMES[lesion] for lesion in LESIONS]
    assert titles[7] == "highest: 0.70"


def test_overlap_counts_the_three_cases() -> None:
    truth, prediction = np.zeros((2, 6, 8), int)
    truth[1:4, 1:5] = 1
    prediction[2:4, 2:6] = 1
    figure = plots.overlap(truth, prediction)
    assert figure.axes[2].get_title() == "6 TP, 2 FP, 6 FN"
    written = texts(figure)
    assert [written.count(name) for name in ("TP", "FP", "FN")] == [6, 2, 6]
    cells = figure.axes[2].images[0].get_array()
    assert to_hex(cells[3, 3]) == plots.HIT.lower() and to_hex(cells[0, 0]) == "#ffffff"


def test_precision_recall_names_the_areas() -> None:
    curve = (np.array([0.5, 1.0, 1.0]), np.array([1.0, 0.5, 0.0]))
    figure = plots.precision_recall({"EX": curve, "OD": curve}, {"EX": 0.75, "OD": 0.9}, "IDRiD")
    assert figure.axes[0].get_legend_handles_labels()[1] == ["hard exudates: 0.75", "optic disc: 0.90"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1.0, 0.5, 0.0]


def test_dice_by_threshold_rings_the_best() -> None:
    dice = pd.DataFrame({"EX": [0.2, 0.6, 0.5], "MA": [0.0, 0.1, 0.3]}, index=[0.25, 0.5, 0.75])
    (ax,) = plots.dice_by_threshold(dice, "IDRiD").axes
    rings = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"]
    assert rings == [(0.5, 0.6), (0.75, 0.3)]


def test_measures_of_networks_has_a_bar_for_each_number() -> None:
    values = pd.DataFrame({"one": [0.1, 0.2], "two": [0.3, 0.4]}, index=["a", "b"])
    (ax,) = plots.measures_of_networks(values, "t").axes
    assert [bar.get_height() for bar in ax.patches] == [0.1, 0.2, 0.3, 0.4]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


# The quizzes


@pytest.mark.parametrize("chapter", ["02", "03"])
def test_each_question_has_one_right_answer_and_feedback_for_all(chapter: str) -> None:
    for question in read_quiz(chapter):
        assert sum(answer.get("correct", False) for answer in question["answers"]) == 1, question["question"]
        assert all(answer["feedback"] for answer in question["answers"])
