"""The figures of chapter 07 show what they are given, read back from the drawing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import texts, titles
from matplotlib.figure import Figure

from mtl_utils import plots
from mtl_utils.systems.deepmt_dr import DeepMTDR, Hierarchy

GREY = np.full((16, 16, 3), 90, np.uint8)


def shown(figure: Figure, panel: int) -> np.ndarray:
    """The picture in a panel."""
    return np.asarray(figure.axes[panel].images[0].get_array())


# Resolution


def test_a_fading_dot_is_shown_as_stored_and_enlarged() -> None:
    stored = {scale: np.full((16 // scale, 16 // scale, 3), scale, np.uint8) for scale in (1, 4)}
    enlarged = {scale: np.full((16, 16, 3), 100 + scale, np.uint8) for scale in (1, 4)}
    outline = np.zeros((16, 16), bool)
    outline[4:8, 4:8] = True
    figure = plots.fading_dot(stored, enlarged, outline, {1: 20.0, 4: 3.04}, "IDRiD")
    assert titles(figure) == ["full size", "1/4 of the side", "contrast 20.0", "contrast 3.0"]
    assert shown(figure, 1).shape == (4, 4, 3) and (shown(figure, 3) == 104).all()
    assert not figure.axes[0].collections and figure.axes[2].collections


def test_what_does_not_count_is_left_out_of_the_errors() -> None:
    error = np.arange(256.0).reshape(16, 16)
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    figure = plots.rim_of_errors(GREY, error, inside, "IDRiD")
    assert np.allclose(shown(figure, 1), error)
    counted = figure.axes[2].images[0].get_array()
    assert np.allclose(np.ma.filled(counted, np.nan)[inside], error[inside])
    assert np.ma.getmaskarray(np.ma.masked_invalid(counted))[~inside].all()


def test_the_zoom_cuts_the_same_place_out_of_each() -> None:
    pictures = {
        name: np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8) for i, name in enumerate("abc")
    }
    figure = plots.zoom_sheet(pictures, (2, 5, 8), "IDRiD")
    assert titles(figure)[:4] == ["a", "b", "c", "where it lies"]
    for panel, picture in enumerate(pictures.values()):
        assert np.array_equal(shown(figure, panel), picture[2:10, 5:13])
    assert np.array_equal(shown(figure, 3), pictures["c"])
    (frame,) = figure.axes[3].patches
    assert (frame.get_x(), frame.get_y(), frame.get_width()) == (5, 2, 8)


# The hierarchy


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_hierarchy_is_drawn_from_the_network(device: str) -> None:
    settings = Hierarchy(isr_channels=8, lesion_width=6)
    with torch.device(device):
        network = DeepMTDR("resnet18", None, ("grading", "segmentation", "isr"), settings)
    shapes = plots.hierarchy_shapes(network, 64)
    assert (
        shapes["small"] == (3, 16, 16) and shapes["isr"] == (3, 64, 64) and shapes["lesions"] == (4, 64, 64)
    )
    assert shapes["features"] == (512, 2, 2) and shapes["vector"] == (512 * 21,) and shapes["grading"] == (5,)
    assert network.training
    written = " ".join(texts(plots.draw_hierarchy(network, 64)))
    for module in (network.isr, network.lesions, network.grading):
        assert f"{plots.count_parameters(module):,} parameters" in written
    for word in ("3 × 16 × 16", "4 × 64 × 64", "5 extraction", "2 up-scaling", "9 multi-scale", "SAL", "CAL"):
        assert word in written


# Evidence


def test_levels_come_from_the_last_to_the_first() -> None:
    own = [np.full((8 // 2**level,) * 2, float(level)) for level in range(3)]
    running = [each + 10 for each in own]
    lesions = np.zeros((16, 16), bool)
    lesions[2:6, 8:12] = True
    figure = plots.gmsv_levels(own, running, [0.5, -0.25, 9.0], lesions, "IDRiD")
    assert [shown(figure, panel)[0, 0] for panel in range(6)] == [2, 1, 0, 12, 11, 10]
    assert "9" not in figure.axes[0].get_title()  # the last layer is taken as it is
    assert "-0.25" in figure.axes[1].get_title() and "0.5" in figure.axes[2].get_title()
    # The outline lies where the lesion does: rows 1 to 3, columns 4 to 6 of the 8 x 8 map.
    points = np.concatenate([path.vertices for path in figure.axes[5].collections[0].get_paths()])
    assert np.allclose(points.mean(axis=0), (4.5, 1.5), atol=0.6)


def test_each_method_has_its_map_and_its_auc() -> None:
    maps = {"gmsv": np.eye(16), "smoothgrad": np.zeros((16, 16))}
    figure = plots.evidence_beside(GREY, np.eye(16) > 0, maps, {"gmsv": 1.0, "smoothgrad": 0.5}, "IDRiD")
    assert titles(figure) == ["photograph", "GMSV\nAUC 1.00", "SmoothGrad\nAUC 0.50"]
    assert np.array_equal(shown(figure, 1), np.eye(16))


# Losses


def test_each_loss_has_its_map_and_its_number() -> None:
    panels = {"one": (np.eye(16), 0.0625), "two": (np.zeros((16, 16)), 0.0)}
    figure = plots.loss_maps(panels, GREY, "IDRiD")
    assert titles(figure)[:3] == ["super-resolved\n", "one\n0.0625", "two\n0"]
    assert np.array_equal(shown(figure, 1), np.eye(16))


def test_thresholds_stand_beside_their_slopes() -> None:
    values = np.array([0.0, 0.5, 1.0])
    steps, slopes = {"hard": values > 0.4, "soft": values}, {"hard": 0 * values, "soft": 0 * values + 1}
    left, right = plots.threshold_steps(values, steps, slopes).axes
    assert [line.get_label() for line in left.lines] == ["hard", "soft"]
    assert list(right.lines[1].get_ydata()) == [1, 1, 1]
    assert len({line.get_linestyle() for line in left.lines}) == 2


def test_every_pair_of_grades_has_its_weight_written_in() -> None:
    table = np.arange(25.0).reshape(5, 5) / 25
    figure = plots.pair_weights({"as printed": table})
    assert texts(figure)[:3] == ["0", ".04", ".08"] and len(texts(figure)) == 25
    assert np.array_equal(shown(figure, 0), table)


def test_pulls_are_drawn_term_by_term() -> None:
    norms = pd.DataFrame({"value": [0.5, 0.1], "gradient": [2.0, 30.0]}, index=["image", "CAL"])
    left, right = plots.gradient_bars(norms, "IDRiD").axes
    assert [bar.get_width() for bar in left.patches] == [0.5, 0.1]
    assert [bar.get_width() for bar in right.patches] == [2, 30]
    assert [label.get_text() for label in left.get_yticklabels()] == ["image", "CAL"]


def test_both_stages_stand_behind_each_other() -> None:
    first = pd.DataFrame({"train/image_loss": [0.3, 0.2]})
    second = pd.DataFrame({"train/image_loss": [0.1], "train/cls_aware_loss": [2.0]})
    (ax,) = plots.two_stages(first, second, "IDRiD").axes
    image, aware, border = ax.lines
    assert image.get_ydata().tolist() == [0.3, 0.2, 0.1] and border.get_xdata() == [2.5, 2.5]
    assert np.isnan(aware.get_ydata()[:2]).all() and aware.get_ydata()[2] == 2
    assert [text.get_text().strip() for text in ax.texts] == ["stage 1", "stage 2"]


# Recorded runs


def test_task_correlation_has_a_dot_for_each_run() -> None:
    grades = pd.DataFrame({"divisor": [8, 1, 1], "value": [0.3, 0.5, 0.7]})
    evidence = pd.DataFrame({"MA": [0.6, 0.7], "background": [0.4, np.nan]})
    nothing = pd.DataFrame(columns=["divisor", "value"])
    figure = plots.task_correlation(grades, nothing, evidence)
    left, middle, right = figure.axes
    dots, mean = left.lines
    assert np.allclose(dots.get_data(), [[0, 3, 3], [0.3, 0.5, 0.7]])
    assert np.allclose(mean.get_data(), [[0, 3], [0.3, 0.6]])
    assert [text.get_text() for text in middle.texts] == ["no recorded run of ours yet"] and not right.texts
    assert [line.get_ydata().tolist() for line in right.lines[1:]] == [[0.6, 0.7], [0.4]]
    assert [label.get_text() for label in right.get_xticklabels()] == ["MA", "HE", "EX", "SE", "BG"]
    empty = plots.task_correlation(nothing, nothing, pd.DataFrame())
    assert texts(empty) == ["no recorded run of ours yet"] * 3
