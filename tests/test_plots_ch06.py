"""The figures of chapter 06 show what they are given, read back from the drawing."""

from __future__ import annotations

import numpy as np
import pandas as pd
from helpers import texts, titles

from mtl_utils import plots

GREY = np.full((16, 16, 3), 90, np.uint8)
COLUMNS = [f"p{grade}" for grade in range(5)]


# Stage 1


def test_a_heat_map_that_is_ruled_out_is_crossed_out_and_says_why() -> None:
    masks = np.zeros((5, 16, 16), np.uint8)
    masks[0, 2:5, 2:5] = 1  # lesions and no disc
    why = ["the drawn lesions, sits on the disc", "misses the lesions", "", "", ""]
    columns = {"probability": 0.2, "lesion_auc": 0.61, "disc_auc": np.nan, "why": why}
    heat = np.random.default_rng(0).random((5, 16, 16))
    figure = plots.heat_maps(GREY, masks, heat, pd.DataFrame(columns, index=range(5)), "IDRiD")
    photograph, *panels = figure.axes[:6]
    assert [len(ax.lines) for ax in panels] == [2, 2, 0, 0, 0]
    assert texts(figure) == [
        "ruled out: the drawn lesions\nsits on the disc",
        "ruled out: misses the lesions",
    ]
    assert panels[3].get_title() == "grade 3, probability 0.20\nAUC: lesions 0.61, no disc"
    assert np.allclose(panels[3].images[1].get_array(), heat[3])
    assert (photograph.images[0].get_array() != 90).any() and "IDRiD" in figure.get_suptitle()


def test_thresholds_are_drawn_with_the_values_in_use() -> None:
    table = pd.DataFrame(
        {"accuracy": [0.4, 0.5], "qwk": [np.nan, 0.1], "changed": [0.0, 0.3]}, index=[0.2, 0.8]
    )
    figure = plots.threshold_effects({"a": table, "b": table}, {"a": 0.5, "b": 0.9}, "IDRiD")
    for ax, value in zip(figure.axes, (0.5, 0.9), strict=True):
        chosen, _, accuracy, qwk, changed = ax.lines
        assert list(chosen.get_xdata()) == [value, value]
        assert list(accuracy.get_ydata()) == [0.4, 0.5] and list(changed.get_ydata()) == [0, 0.3]
        assert np.isnan(qwk.get_ydata()[0])


# Stage 2


def test_a_closing_shows_what_it_adds() -> None:
    lesions = np.zeros((5, 16, 16), np.uint8)
    lesions[0, 4, 4] = lesions[2, 4, 6] = 1
    union = lesions[:4].max(axis=0)
    closed = union.copy()
    closed[4, 5] = 1
    figure = plots.fused_steps(GREY, lesions, union, closed, "IDRiD")
    assert titles(figure) == ["four lesions", "union: 2 pixels", "closed: 3 pixels"]
    joined, final = (np.asarray(ax.images[0].get_array()) for ax in figure.axes[1:])
    assert joined[4, 4:7].tolist() == [1, 0, 1] and final[4, 4:7].tolist() == [1, 2, 1]


def test_focal_curves_stand_beside_the_first_one() -> None:
    chance = np.array([0.5, 0.9])
    curves = {f"gamma {g}": -((1 - chance) ** g) * np.log(chance) for g in (0, 2)}
    left, right = plots.focal_curves(chance, curves).axes
    assert np.allclose(left.lines[1].get_ydata(), curves["gamma 2"])
    assert np.allclose(right.lines[1].get_ydata(), [0.25, 0.01])


def test_the_look_ahead_has_an_arrow_for_each_label_and_a_tangent() -> None:
    axis = np.linspace(0, 1, 4)
    line = pd.DataFrame({"loss": [0.5, 0.3]}, index=pd.Index([0.0, 1.0], name="share"))
    ahead = {0: (0.1, 0.1), 4: (0.9, 0.8)}
    figure = plots.look_ahead_steps(axis, np.add.outer(axis, axis), (0.5, 0.5), ahead, line, (0.5, 0.4, -0.2))
    left, right = figure.axes[:2]
    assert [text.get_text().strip() for text in left.texts if text.get_text()] == ["0", "4"]
    tangent = right.lines[1]
    assert np.allclose(tangent.get_xdata(), [0.2, 0.8]) and np.allclose(tangent.get_ydata(), [0.46, 0.34])


def test_labels_move_in_a_panel_for_each_photograph() -> None:
    rows = [(0, 7, [0.8, 0.2, 0, 0, 0]), (1, 7, [0.1, 0.9, 0, 0, 0]), (0, 8, [0, 0, 1, 0, 0])]
    labels = pd.DataFrame([dict(zip(COLUMNS, p, strict=True), epoch=e, row=r) for e, r, p in rows])
    figure = plots.moving_labels(labels, {7: "seven"}, "IDRiD")
    (ax,) = figure.axes
    assert ax.get_title() == "seven"
    assert [line.get_ydata().tolist() for line in ax.lines[:2]] == [[0.8, 0.1], [0.2, 0.9]]
    assert len({line.get_linestyle() for line in ax.lines}) >= 4  # grades are told apart without colour


def test_the_entropy_of_the_mean_label_is_computed() -> None:
    table = pd.DataFrame([[0.2] * 5, [1, 0, 0, 0, 0]], columns=COLUMNS)
    figure = plots.mean_labels({"one": table, "two": table}, "IDRiD")
    assert titles(figure) == ["one", "two", "entropy of the mean label"]
    assert np.allclose(figure.axes[-1].lines[0].get_ydata(), [np.log(5), 0])


# Results


def test_every_papers_score_is_written_out() -> None:
    table = pd.DataFrame({"paper": ["A", "B"], "score": ["Dice", "AUPR"], "value": [0.25, 0.75]})
    figure = plots.papers_scores(table, "IDRiD")
    assert texts(figure) == ["0.250", "0.750"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A: Dice", "B: AUPR"]


def test_an_ablation_has_the_papers_numbers_and_a_dot_per_seed() -> None:
    printed = pd.DataFrame({"mDice": [95.0, 96.0], "Dice": [np.nan, np.nan]}, index=["x", "y"])
    runs = pd.DataFrame({"experiment": ["y", "y"], "mDice": [80.0, 81.0], "Dice": [60.0, 62.0]})
    names = {"x": "first", "y": "second"}
    figure = plots.ablation_dots(printed, runs, names, "IDRiD")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["first", "second"]
    assert left.lines[0].get_xdata().tolist() == [95.0] and left.lines[3].get_xdata().tolist() == [80.0, 81.0]
    assert right.lines[3].get_xdata().tolist() == [60.0, 62.0]
    assert "no recorded run of ours yet" in texts(
        plots.ablation_dots(printed, pd.DataFrame(), names, "IDRiD")
    )
