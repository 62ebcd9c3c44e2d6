"""The figures of chapter 08 show what they are given, read back from the drawing; the threshold explorer
follows its controls.
"""

from __future__ import annotations

import base64
from types import SimpleNamespace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from helpers import texts, titles
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mtl_utils import plots, widgets
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS

GREY = np.full((16, 16, 3), 120, np.uint8)
PENDING = "no recorded run yet"


def shown(figure: Figure, panel: int) -> np.ndarray:
    return np.asarray(figure.axes[panel].images[0].get_array())


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def colour(name: str) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in to_rgb(name))


# Grades


def test_each_cell_has_its_count_and_its_interval() -> None:
    counts = np.zeros((5, 5))
    counts[2, 2], counts[2, 0] = 3, 1
    low, high = np.where(counts > 0, counts - 1, 0), np.where(counts > 0, counts + 2, 0)
    figure = plots.confusion_with_intervals({"one": (counts, low, high), "two": (counts, low, high)}, "IDRiD")
    written = texts(figure)
    assert written.count("0") == 2 * 23 and written.count("3") == written.count("2–5") == 2
    assert written.count("0–3") == 2
    assert shown(figure, 0)[2, 2] == 0.75 and shown(figure, 0)[0].max() == 0  # no photograph: no share
    assert figure.axes[0].get_yticklabels()[2].get_text() == "2\n(of 4)"
    assert texts(plots.confusion_with_intervals({}, "IDRiD")) == [PENDING]


def test_mistakes_are_stacked_to_the_whole() -> None:
    table = pd.DataFrame({"too mild": [0.25], "right": [0.7], "too severe": [0.05]}, index=["a"])
    figure = plots.mistake_shares(table, "IDRiD")
    bars = figure.axes[0].patches
    assert np.allclose([bar.get_width() for bar in bars], [25, 70, 5])
    assert np.allclose([bar.get_x() for bar in bars], [0, 25, 95])
    empty = plots.mistake_shares(pd.DataFrame(columns=["too mild", "right", "too severe"]), "IDRiD")
    assert PENDING in texts(empty)


def test_wrong_grades_stand_beside_their_photographs() -> None:
    table = pd.DataFrame({lesion: [1, 5, 40] for lesion in DISEASE_LESIONS})
    table = table.assign(grade=[2, 3, 3], predicted=[-1, 3, 1])
    figure = plots.counts_by_grade(table, "IDRiD")
    learned, right, *wrong = (points.get_offsets() for points in figure.axes[0].collections)
    assert [len(each) for each in (learned, right, *wrong)] == [1, 1, 0, 1, 0, 0, 0]  # it said grade 1
    assert (learned[0][1], right[0][1], wrong[1][0][1]) == (1, 5, 40)
    assert abs(wrong[1][0][0] - 3) <= 0.25


# Calibration


def test_reliability_has_a_point_for_each_bin() -> None:
    bins = pd.DataFrame({"confidence": [0.4, 0.9], "right": [0.5, 0.7], "photographs": [4, 12]})
    figure = plots.reliability_curves({"before": bins, "after": bins}, "IDRiD")
    assert titles(figure) == ["before", "after"] and texts(figure) == ["4", "12"] * 2
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[0.4, 0.5], [0.9, 0.7]]


def test_observed_errors_stand_in_the_histogram() -> None:
    chance = {"now": np.linspace(0.05, 0.15, 101), "then": np.linspace(0.1, 0.2, 101)}
    figure = plots.errors_by_chance(chance, {"now": 0.2, "then": 0.1}, "IDRiD")
    assert titles(figure)[:2] == ["now", "then"]
    for ax, places in zip(figure.axes, ([0.145, 0.2], [0.195, 0.1]), strict=True):
        assert np.allclose([line.get_xdata()[0] for line in ax.lines], places)
        assert sum(bar.get_height() for bar in ax.patches) == 101


def test_each_run_is_a_point_in_the_panel_of_its_photographs() -> None:
    table = pd.DataFrame({"accuracy": [-0.1, 0.02], "QWK": [0.05, 0.01]})
    figure = plots.changes_by_rule({"validation": table, "test": table.head(1)}, "IDRiD")
    assert titles(figure)[:2] == ["validation, 2 runs", "test, 1 runs"]
    left, right = (ax.collections[0].get_offsets() for ax in figure.axes)
    assert np.allclose(left, [[-0.1, 0.05], [0.02, 0.01]]) and len(right) == 1


def test_the_ensemble_stands_in_the_row_of_its_members() -> None:
    scores = {
        "one": pd.DataFrame({"accuracy": [0.5, 0.6, 0.7], "QWK": [0.1, 0.2, 0.3]}),
        "two": pd.DataFrame({"accuracy": [0.4, 0.3], "QWK": [0.5, 0.6]}),
    }
    figure = plots.members_and_ensemble(scores, "IDRiD")
    _, crosses, dot = figure.axes[1].lines[:3]
    assert crosses.get_xdata().tolist() == [0.1, 0.2] and crosses.get_marker() == "x"
    assert list(dot.get_xdata()) == [0.3] and dot.get_marker() == "o"
    assert list(figure.axes[0].lines[4].get_ydata()) == [1]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one", "two"]
    assert PENDING in texts(plots.members_and_ensemble({}, "IDRiD"))


# Heat


def test_heat_stands_below_its_photograph() -> None:
    masks = np.stack([square(2, 2, 4)] * 5)
    heats = [np.eye(16), np.zeros((16, 16))]
    figure = plots.heat_beside_lesions([GREY] * 2, [masks, 0 * masks], heats, ["a", "b"], "IDRiD")
    assert titles(figure)[:2] == ["a", "b"]
    for panel, heat in zip((2, 3), heats, strict=True):
        assert np.array_equal(figure.axes[panel].images[1].get_array(), heat)
    assert figure.axes[2].collections and not figure.axes[3].collections  # no lesion: no outline


def test_own_and_swapped_are_joined() -> None:
    figure = plots.own_and_swapped([0.8, 0.6], [0.5, 0.6], "IDRiD")
    pairs = [line.get_ydata() for line in figure.axes[0].lines[:2]]
    assert [list(pair) for pair in pairs] == [[0.8, 0.5], [0.6, 0.6]]
    assert texts(figure) == ["mean 0.70", "mean 0.55", "chance"]


# Lesions


def test_every_run_has_its_curve() -> None:
    one = (np.array([0.1, 1.0]), np.array([1.0, 0.0]))
    curves = {"MA": {"masks alone": [one, one], "PLDMLT": [one]}, "EX": {}}
    figure = plots.precision_recall_of_systems(curves, {"MA": 0.02}, "IDRiD")
    assert len(figure.axes[0].lines) == 4 and len(figure.axes[1].lines) == 1
    assert figure.axes[0].lines[0].get_ydata()[0] == 0.02
    colours = [line.get_color() for line in figure.axes[0].lines[1:]]
    assert colours[0] == colours[1] != colours[2]
    assert [text.get_text() for text in figure.legends[0].texts] == ["masks alone", "PLDMLT", "guessing"]
    empty = plots.precision_recall_of_systems({lesion: {} for lesion in DISEASE_LESIONS}, {}, "IDRiD")
    assert texts(empty) == [PENDING] * 4


def test_the_same_answers_through_few_and_many_thresholds() -> None:
    fine = np.array([0.1, 0.4, 0.8, 1.0]), np.array([1.0, 0.7, 0.5, 0.2])  # from the lowest threshold up
    few = np.array([0.1, 0.8]), np.array([1.0, 0.5])
    figure = plots.curves_through_thresholds({"a": {"all": fine, "tenths": few}}, "HE")
    line, marked = figure.axes[0].lines
    assert line.get_marker() == "None" and marked.get_marker() != "None"
    assert marked.get_xdata(orig=True).tolist() == [0, 0.5, 1] and marked.get_drawstyle() == "steps-pre"
    assert marked.get_ydata(orig=True).tolist() == [0.8, 0.8, 0.1]  # each step as high as its right end
    assert [text.get_text() for text in figure.legends[0].texts] == ["all", "tenths"]
    assert texts(plots.curves_through_thresholds({}, "HE")) == [PENDING]


def test_size_is_shown_by_photograph_and_by_lesion() -> None:
    photographs = pd.DataFrame({"lesion": ["MA", "EX", "EX"], "area": [3, 40, 90], "dice": [0.1, 0.5, 0.7]})
    bins = pd.DataFrame({"area": [2.0, 50], "recall": [0.2, 0.8], "recall_low": [0.1, 0.6],
                         "recall_high": [0.3, 1.0]})  # fmt: skip
    left, right = plots.size_effects(photographs, {"EX": bins, "SE": bins[:0]}, "IDRiD").axes
    assert left.lines[2].get_xydata().tolist() == [[40, 0.5], [90, 0.7]]
    (line,) = right.lines
    assert line.get_ydata().tolist() == [0.2, 0.8]
    ends = [segment[:, 1].tolist() for segment in right.collections[0].get_segments()]
    assert ends == [[0.1, 0.3], [0.6, 1.0]]


# Hits, misses, false alarms


def test_verdicts_have_three_colours() -> None:
    truth, marked = square(0, 0, 4), square(2, 2, 4)
    picture = plots.verdicts(GREY, truth, marked)
    for which, name in (
        (truth & marked, plots.HIT),
        (truth & ~marked, plots.MISSED),
        (~truth & marked, plots.FALSE_ALARM),
    ):
        assert which.any() and (picture[which] == colour(name)).all()
    assert (picture[~truth & ~marked] == 90).all()


def test_a_lesion_marked_as_another_one_is_missed() -> None:
    truth, marked = np.zeros((2, 2, 16, 16), bool)
    truth[0], marked[1] = square(0, 0, 4), square(0, 0, 4)
    assert (plots.verdicts(GREY, truth, marked)[:4, :4] == colour(plots.MISSED)).all()


def five(**masks: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(masks.get(lesion, np.zeros((16, 16), bool))) for lesion in LESIONS])


def test_cases_leave_the_disc_out() -> None:
    truth, marked = five(EX=square(0, 0, 4)), five(EX=square(0, 0, 4), OD=square(8, 8, 4))
    figure = plots.case_sheet({"best": (GREY, truth, marked)}, "By a rule", "IDRiD")
    below = shown(figure, 1)
    assert titles(figure)[0] == "best" and (below[:4, :4] == colour(plots.HIT)).all()
    assert (below[8:12, 8:12] == 90).all()


CHANCES = np.linspace(0, 1, 256).reshape(16, 16)
EXAMPLES = {
    "first": (GREY, {"EX": CHANCES > 0.5, "MA": square(0, 0, 4)}, {"EX": CHANCES, "MA": 1 - CHANCES}),
    "second": (
        GREY + 40,
        {"EX": np.zeros((16, 16), bool), "MA": square(4, 4, 4)},
        {"EX": CHANCES, "MA": CHANCES},
    ),
}  # fmt: skip


def test_without_a_reader_thresholds_stand_side_by_side() -> None:
    plt.close("all")
    widgets.threshold_explorer(EXAMPLES, "IDRiD", "EX", (0.5, 0.75))
    figure = plt.figure(plt.get_fignums()[-1])
    assert titles(figure)[0] == "first" and titles(figure)[1] == "from 0.5 on: Dice 1.00"
    assert titles(figure)[2].startswith("from 0.75 on: Dice 0.6")  # 64 of 128 pixels: 2/3
    assert titles(figure)[4:] == ["from 0.5 on: none to find", "from 0.75 on: none to find"]
    truth = EXAMPLES["first"][1]["EX"]
    assert (shown(figure, 1)[truth] == colour(plots.HIT)).all()


def test_with_a_reader_the_threshold_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"content": {"allow_stdin": True}}
    monkeypatch.setattr(widgets, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: asked))
    displayed = []
    monkeypatch.setattr(widgets, "display", displayed.append)
    widgets.threshold_explorer(EXAMPLES, "IDRiD")
    controls, html = displayed[0].children
    photograph, kind, threshold = controls.children

    def judged() -> np.ndarray:
        tag = BeautifulSoup(html.value, "html.parser").find_all("img")[1]
        assert photograph.value in tag["alt"] and "IDRiD" in tag["alt"]
        file = base64.b64decode(tag["src"].split("base64,")[1])
        return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def expect(name: str, lesion: str, limit: float) -> None:
        image, truths, chances = EXAMPLES[name]
        assert np.array_equal(judged(), plots.verdicts(image, truths[lesion], chances[lesion] >= limit))

    expect("first", "EX", 0.5)
    assert "Dice 1.000" in html.value
    threshold.value = 0.75
    expect("first", "EX", 0.75)
    assert "Dice 0.667" in html.value and "missed 64" in html.value
    kind.value = "MA"
    expect("first", "MA", 0.75)
    photograph.value, kind.value = "second", "EX"
    expect("second", "EX", 0.75)
    assert "nothing to find" in html.value


# Systems


def test_ranks_go_from_the_best_down() -> None:
    values = pd.DataFrame({"x": [0.5, 0.7], "y": [0.9, 0.8]}, index=["MTUnet", "PLDMLT"])
    figure = plots.ranks(values, "IDRiD")
    first, second = figure.axes[0].lines
    assert list(first.get_ydata()) == [2, 1] and list(second.get_ydata()) == [1, 2]
    assert {"0.500", "0.700", "0.900", "0.800"} <= set(texts(figure))
    assert PENDING in texts(plots.ranks(pd.DataFrame(), "IDRiD"))


def test_differences_have_intervals_and_a_cross_for_each_seed() -> None:
    table = pd.DataFrame(
        {"difference": [0.1, -0.2], "low": [0.05, -0.5], "high": [0.15, 0.1]}, index=["a", "b"]
    )
    figure = plots.system_differences(table, {"a": [0.08, 0.12]}, "IDRiD")
    sure, dot, crosses, unsure = figure.axes[0].lines[1:5]
    assert list(sure.get_xdata()) == [0.05, 0.15] and list(dot.get_xdata()) == [0.1]
    assert list(crosses.get_xdata()) == [0.08, 0.12] and list(unsure.get_xdata()) == [-0.5, 0.1]
    assert sure.get_color() != unsure.get_color()
    assert PENDING in texts(plots.system_differences(pd.DataFrame(), {}, "IDRiD"))


def test_steps_have_intervals_or_are_pending() -> None:
    nothing = float("nan")
    sure, unsure = (0.5, 0.4, 0.6), (0.1, -0.1, 0.2)
    columns, steps = ["value", "low", "high"], ["first", "second"]
    panels = {
        "MA": pd.DataFrame([sure, unsure], steps, columns),
        "mean": pd.DataFrame([[nothing] * 3, sure], steps, columns),
    }
    figure = plots.steps_by_lesion(panels, "IDRiD", "AUPR", {"MA": [0.7]})
    left, right = figure.axes
    _, mark, *first = left.lines
    assert list(mark.get_xdata()) == [0.7, 0.7]
    assert list(first[0].get_xdata()) == [0.4, 0.6] and list(first[1].get_xdata()) == [0.5]
    assert first[1].get_markerfacecolor() == first[1].get_color() != first[3].get_markerfacecolor()
    assert [label.get_text() for label in left.get_yticklabels()] == steps
    assert titles(figure) == ["microaneurysms", "mean"]
    assert texts(figure) == ["0.500", "0.100", "pending", "0.500"] and len(right.lines) == 3


def test_who_alone_is_right() -> None:
    counts = pd.DataFrame({"only_one": [8, 1], "only_other": [2, 6], "p": [0.109, 0.125]}, index=["a", "b"])
    figure = plots.one_right(counts, "IDRiD")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [8, 1, -2, -6]
    assert "p = 0.109" in texts(figure)
    small = plots.one_right(counts.assign(p=1e-9), "IDRiD")
    assert texts(small).count("p < 0.001") == 2 and PENDING in texts(plots.one_right(pd.DataFrame(), "IDRiD"))


def test_gains_are_parted_by_what_was_seen() -> None:
    gain = pd.Series({"a": 0.3, "b": 0.1, "c": 0.0})
    effect = {"gain_seen": 0.3, "gain_unseen": 0.05, "gain_seen/low": 0.2, "gain_seen/high": 0.4}
    figure = plots.leak_gains({"Dice": gain}, {"Dice": ["a", "z"]}, {"Dice": effect}, "IDRiD")
    (ax,) = figure.axes
    points = [list(line.get_ydata()) for line in ax.lines[1:]]
    assert points == [[0.3], [0.3], [0.1, 0.0], [0.05]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["seen in training\n(1)", "not seen\n(2)"]
    assert ax.collections[0].get_segments()[0][:, 1].tolist() == [0.2, 0.4]
    assert texts(plots.leak_gains({}, {}, {}, "IDRiD")) == [PENDING]
