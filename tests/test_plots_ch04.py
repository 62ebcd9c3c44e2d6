"""The figures of chapter 04 show what they are given, read back from the drawing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mtl_utils import plots
from mtl_utils.encoders import BUNDLED_ENCODER
from mtl_utils.systems.shared_encoder import TASKS, SharedEncoder


@pytest.fixture(scope="module")
def network() -> SharedEncoder:
    return SharedEncoder("resnet18", encoder_weights=None).train()


def words(figure: Figure) -> list[str]:
    inside = [text.get_text() for ax in figure.axes for text in ax.texts]
    legends = [legend for legend in (*figure.legends, *(ax.get_legend() for ax in figure.axes)) if legend]
    return inside + [text.get_text() for legend in legends for text in legend.get_texts()]


# The architecture


def test_the_drawing_shows_the_measured_shapes_of_encoder_and_decoder(network: SharedEncoder) -> None:
    figure = plots.draw_shared_encoder(network, 64)
    boxes = [text for text in words(figure) if "channels" in text]
    # ResNet-18 by its paper has 64, 64, 128, 256, 512 channels at 1/2 to 1/32; our decoder 256 down to 16.
    assert boxes == [
        *(f"{c} channels\n{s} × {s}" for c, s in ((64, 32), (64, 16), (128, 8), (256, 4), (512, 2))),
        *(f"{c} channels\n{s} × {s}" for c, s in ((256, 4), (128, 8), (64, 16), (32, 32), (16, 64))),
    ]
    shown = words(figure)
    assert {
        "photograph\n3 × 64 × 64",
        "segmentation head\n5 masks 64 × 64",
        "grading head\n512 means, 5 grades",
    } <= {*shown}
    assert f"encoder, shared: {plots.count_parameters(network.encoder):,} parameters" in shown
    assert "grading head: 2,565 parameters" in shown  # 5 x 512 weights and 5 constants


def test_drawing_leaves_the_network_as_it_was(network: SharedEncoder) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plots.draw_shared_encoder(network, 64)
    assert network.training
    assert all(
        torch.equal(before[name], value) for name, value in network.state_dict().items()
    )  # no running mean moved
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("task", "boxes"), [("grading", 7), ("segmentation", 12)])
def test_a_single_task_network_is_drawn_without_the_other_head(task: str, boxes: int) -> None:
    figure = plots.draw_shared_encoder(SharedEncoder(BUNDLED_ENCODER, None, tasks=(task,)), 32)
    other = next(each for each in TASKS if each != task)
    assert sum(isinstance(patch, FancyBboxPatch) for patch in figure.axes[0].patches) == boxes
    assert not any(other in text or "shared" in text for text in words(figure))


def test_nothing_in_the_drawing_lies_outside_it(network: SharedEncoder) -> None:
    figure = plots.draw_shared_encoder(network, 512)
    figure.draw_without_rendering()
    frame = figure.axes[0].get_window_extent()
    for patch in figure.axes[0].patches:
        box = patch.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_parameter_bars_end_at_the_sum() -> None:
    figure = plots.parameter_bars(
        {"two": {"encoder, grading": 3_000_000, "head": 5}, "one": {"encoder, shared": 1_500_000}}
    )
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert np.allclose(ends, [3.0, 3.000005, 1.5])
    assert "  3.00" in words(figure) and "  1.50" in words(figure)


# The loss


def test_partial_labels_shows_no_bar_where_the_gradient_is_zero() -> None:
    images, mask = [np.zeros((8, 8, 3), np.uint8)] * 2, np.zeros((5, 8, 8))
    pulls = {"grading": np.array([0.02, 0.0]), "segmentation": np.array([0.0, 0.004])}
    figure = plots.partial_labels(images, [3, -1], [None, mask], pulls, "synthetic set")
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title() for ax in above] == ["grade 3\nno masks", "no grade\nmasks"]
    assert [[bar.get_width() for bar in ax.patches] for ax in below] == [[1.0, 0.0], [0.0, 1.0]]
    assert [[text.get_text() for text in ax.texts] for ax in below] == [["20", "0"], ["0", "4"]]
    assert "synthetic set" in figure.get_suptitle()


def test_batch_statistics_sorts_both_tasks_alike() -> None:
    figure = plots.batch_statistics(np.array([0.3, -0.1, 0.2]), np.array([-0.3, 0.1, -0.2]), "IDRiD")
    circles, squares, zero = figure.axes[0].lines
    assert circles.get_ydata().tolist() == [-0.1, 0.2, 0.3]
    assert squares.get_ydata().tolist() == [0.1, -0.2, -0.3]
    assert (np.array(zero.get_ydata()) == 0).all()


def test_encoder_pull_multiplies_grading_alone_by_lambda() -> None:
    figure = plots.encoder_pull(
        np.array([10.0, 30.0, 20.0]), np.array([0.5, 0.4, 0.6]), (0.1, 1, 10), "IDRiD"
    )
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert np.allclose(heights, [2, 0.5, 20, 0.5, 200, 0.5])  # medians, lambda on the first of each pair
    assert [text for text in words(figure) if "times" in text] == ["4 times", "40 times", "400 times"]


# The comparison


def test_histories_are_drawn_only_where_a_run_has_the_task() -> None:
    alone = pd.DataFrame({"epoch": [0, 1], "val/grading/loss": [2.0, 1.0]})
    both = alone.assign(**{"val/segmentation/loss": [0.2, 0.1]})
    runs = {"alone": ("grading", alone), "multi": ("both", both)}
    panels = {"classification": "val/grading/loss", "segmentation": "val/segmentation/loss"}
    left, right = plots.compare_histories(runs, panels, "IDRiD").axes
    assert [line.get_label() for line in left.lines] == ["alone", "multi"]
    assert [line.get_label() for line in right.lines] == ["multi"]
    assert right.lines[0].get_xydata().tolist() == [[1, 0.2], [2, 0.1]]


def test_networks_beside_truth_has_a_column_per_network() -> None:
    image, truth = np.full((16, 16, 3), 90, np.uint8), np.zeros((5, 16, 16))
    truth[2, 4:8, 4:8] = 1
    predictions = {"alone": [truth, truth], "multi": [0 * truth, truth]}
    figure = plots.networks_beside_truth([image] * 2, [truth] * 2, predictions, ["best", "worst"], "IDRiD")
    pictures = np.array([ax.images[0].get_array() for ax in figure.axes]).reshape(2, 4, 16, 16, 3)
    assert (pictures[:, 0] == 90).all() and (pictures[0, 3] == 90).all()  # nothing was predicted there
    assert (pictures[:, 1] == pictures[:, 2]).all() and (pictures[0, 1] != 90).any()
    assert [ax.get_title() for ax in figure.axes] == ["best", "truth", "alone", "multi", "worst", "", "", ""]


# What a table hides


def test_best_of_checkpoints_draws_the_mean_in_percent() -> None:
    draws = {"all": np.array([[0.5, 0.6], [0.7, 0.8]])}
    ax = plots.best_of_checkpoints(np.array([1, 2]), draws, 0.6, 103, 1.94).axes[0]
    assert np.allclose(ax.lines[0].get_xydata(), [[1, 60], [2, 70]])
    assert np.allclose(ax.lines[1].get_ydata(), 60)  # the true accuracy


def test_difference_intervals_reach_from_low_to_high() -> None:
    low, high = np.array([0.0, -4.0]), np.array([5.0, 8.0])
    figure = plots.difference_intervals(np.array([2, 10]), low, high, np.array([0.5, 0.754]), 1.94)
    ax = figure.axes[0]
    segments = np.array(ax.collections[0].get_segments())
    assert np.allclose(segments[:, :, 1], np.stack([low, high], axis=1))
    assert [text for text in words(figure) if text.startswith("p =")] == ["p = 0.50", "p = 0.75"]
    assert ax.get_ylim()[0] < -4 and ax.get_ylim()[1] > 8
