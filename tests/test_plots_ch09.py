"""The figures of chapter 09 show what they are given, read back from the drawing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import texts, titles
from matplotlib.patches import Polygon
from matplotlib.path import Path

from mtl_utils import plots
from mtl_utils.gains import BALANCED, GAIN, SINGLES, balancing_table, run_gains
from mtl_utils.plots.balancing import BALANCING_STYLES
from mtl_utils.widgets import two_gradients


def ends(ax) -> np.ndarray:
    """Where the arrows of a panel end."""
    return np.array([text.xy for text in ax.texts])


@pytest.mark.parametrize("angle", [60.0, 130.0, 180.0])
def test_arrows_are_the_gradients_and_the_step_has_one_length(angle: float) -> None:
    gradients = two_gradients(angle, 2.0)
    assert np.linalg.norm(gradients, axis=1) == pytest.approx([2, 1])
    combined = {"sum": gradients.sum(axis=0), "pcgrad": np.array([0.0, 5.0])}
    figure = plots.gradient_plane(gradients, combined)
    assert titles(figure) == ["plain sum", "PCGrad"]
    for ax, direction in zip(figure.axes, combined.values(), strict=True):
        first, second, step = ends(ax)
        assert np.allclose([first, second], gradients)
        assert np.allclose(step, 2 * direction / np.linalg.norm(direction))
    assert figure.axes[1].get_xlabel() == f"grade +0.00\nmasks {np.sin(np.radians(angle)):+.2f}"


@pytest.mark.parametrize(("first", "second"), [((2, 0), (-1, 1)), ((1, 1), (1, -1)), ((-1, 0.2), (0.5, 0.4))])
def test_the_grey_part_harms_neither_task(first: tuple, second: tuple) -> None:
    gradients = np.array([first, second], float)
    ax = plots.gradient_plane(gradients, {"sum": gradients.sum(axis=0)}).axes[0]
    (cone,) = (patch for patch in ax.patches if isinstance(patch, Polygon))
    angles = np.radians(np.arange(2.5, 360, 5))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inside = Path(cone.get_xy()).contains_points(0.9 * directions)
    assert np.array_equal(inside, (directions @ gradients.T > 0).all(axis=1))


def conflict_rows() -> pd.DataFrame:
    """Three batches."""
    rows = [
        {"stage": stage, "norm/grading": 10.0 + place, "norm/segmentation": 0.1, "cosine": cosine}
        for place, stage in enumerate(("stem", "block 1", "whole encoder"))
        for cosine in (-0.5, 0.25, 0.1)
    ]
    return pd.DataFrame(rows)


def test_stages_have_both_lengths_and_all_cosines() -> None:
    own = pd.DataFrame(
        {
            "stage": ["stem", "stem", "block 1"],
            "task": ["grading", "grading", "segmentation"],
            "cosine": [0.2, 0.4, 0.9],
        }
    )
    left, right = plots.stage_gradients(conflict_rows(), own, "IDRiD").axes
    assert [bar.get_width() for bar in left.patches] == [10, 11, 12, 0.1, 0.1, 0.1]
    assert [label.get_text() for label in left.get_yticklabels()] == ["stem", "block 1", "whole encoder"]
    of_grading, of_masks, *crosses = right.lines
    assert of_grading.get_xdata()[0] == pytest.approx(0.3) and np.isnan(of_grading.get_xdata()[1:]).all()
    assert of_masks.get_xdata()[1] == 0.9
    for line in crosses[:3]:
        assert line.get_xdata().tolist() == [-0.5, 0.25, 0.1]


def test_the_map_of_conflict_has_stages_down_and_steps_across() -> None:
    rows = pd.DataFrame(
        [
            {"stage": stage, "step": step, "cosine": place - step / 100, "seed": seed}
            for place, stage in enumerate(("stem", "block 1"))
            for step in (0, 20, 40)
            for seed in (0, 1)
        ]
    )
    figure = plots.conflict_map({"one": rows, "two": rows.iloc[:0]}, "IDRiD")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(shown, [[0, -0.2, -0.4], [1, 0.8, 0.6]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["stem", "block 1"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "20", "40"]
    assert texts(figure) == ["no recorded run of ours yet"]


def test_weights_are_shown_as_their_ratio() -> None:
    history = pd.DataFrame(
        {"epoch": [0, 1], "train/weight/grading": [0.5, 0.25], "train/weight/segmentation": [1.0, 2.0]}
    )
    (ax,) = plots.weight_ratios({"pcgrad": history, "gradnorm": history.iloc[:0]}, "IDRiD").axes
    line = ax.lines[1]
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == [2, 8]
    assert len(ax.lines) == 2 and ax.get_yscale() == "log"
    assert texts(plots.weight_ratios({"pcgrad": history.iloc[:0]}, "IDRiD")) == [
        "no recorded run of ours yet"
    ]


def test_costs_stand_beside_what_was_taken_for_them() -> None:
    costs = pd.DataFrame({"times": {"fixed": 1.0, "pcgrad": 1.7, "grading": 0.4}})
    (ax,) = plots.cost_bars(costs, {"fixed": 1.0, "pcgrad": 1.8, "grading": 0.35}, "CPU").axes
    assert [bar.get_width() for bar in ax.patches] == [1.0, 1.7, 0.4]
    assert [line.get_xdata()[0] for line in ax.lines[:3]] == [1.0, 1.8, 0.35]
    assert texts(ax.figure) == ["1.00", "1.70", "0.40"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["fixed λ", "PCGrad", "grade alone"]


def record(name: str, seed: int, qwk: float | None = None, aupr: float | None = None) -> dict:
    basis = {"profile": "cpu", "protocol": "clean", "data": "IDRiD", "split": "test", "encoder_name": "e"}
    metrics = {"grading/qwk": qwk, "segmentation/aupr/mean": aupr}
    found = {key: value for key, value in metrics.items() if value is not None}
    return {"experiment": name, "seed": seed, "seconds": 60.0, **basis, **found}


def test_every_method_has_a_line_with_its_seeds_or_is_pending() -> None:
    runs = [record("balance-grading", seed, qwk=0.5) for seed in (0, 1)]
    runs += [record("balance-masks", seed, aupr=0.2) for seed in (0, 1)]
    runs += [record("balance-pcgrad", 0, 0.55, 0.2), record("balance-pcgrad", 1, 0.5, 0.24)]  # 5 and 10 %
    table = balancing_table(runs).drop(index=[*SINGLES.values()])
    figure = plots.gain_forest(table, run_gains(runs), {GAIN: "both", "grading": "grade"}, "IDRiD")
    left, right = figure.axes
    assert len(texts(figure)) == len(BALANCED) - 1 and set(texts(figure)) == {"pending"}
    place = list(table.index).index("balance-pcgrad")
    seeds, mean = (line for line in left.lines if len(line.get_ydata()) and set(line.get_ydata()) == {place})
    assert sorted(seeds.get_xdata()) == pytest.approx([5, 10]) and mean.get_xdata() == pytest.approx([7.5])
    (interval,) = left.collections
    low, high = interval.get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((7.5 - 2.5 * 12.7062, 7.5 + 2.5 * 12.7062), rel=1e-4)
    assert len(right.collections) == 1


def test_each_method_has_a_look_of_its_own() -> None:
    assert {f"balance-{name}" for name in BALANCING_STYLES} == set(BALANCED)
    assert len(set(BALANCING_STYLES.values())) == len({style[:1] for style in BALANCING_STYLES.values()}) == 7
