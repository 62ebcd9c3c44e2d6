"""The figures of chapter 01, its overlay explorer and its quiz show what they are given."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mtl_utils import plots, widgets
from mtl_utils.data.duplicates import rms_differences
from mtl_utils.data.fov import FieldOfView
from mtl_utils.data.splits import TASK_PARTS, split
from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESIONS
from mtl_utils.plots import exploring

LABEL = "synthetic set"


@pytest.fixture
def with_masks(synthetic_copy) -> list[int]:
    return [position for position in range(len(synthetic_copy)) if synthetic_copy.has_mask(position)]


def title(figure: Figure) -> str:
    """Everything that stands as a title in a figure."""
    return " ".join([figure.get_suptitle(), *(ax.get_title() for ax in figure.axes)])


def test_grade_balance_draws_shares_and_says_numbers() -> None:
    counts = pd.DataFrame({"train": [6, 1, 2, 0, 1], "test": [1, 1, 1, 1, 0]}, index=GRADES)
    figure = plots.grade_balance(counts, LABEL)
    (ax,) = figure.axes
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([60, 10, 20, 0, 10, 25, 25, 25, 25, 0])
    assert [text.get_text() for text in ax.texts] == ["6", "1", "2", "0", "1", "1", "1", "1", "1", "0"]
    assert LABEL in title(figure)


def test_grades_in_order_has_a_tick_for_each_photograph_at_its_place() -> None:
    figure = plots.grades_in_order({"train": [3, 0, 0, 4], "test": pd.Series([1, 2], dtype="Int64")}, LABEL)
    found = {}
    for ax in figure.axes:
        for row in ax.collections:
            for place in row.get_positions():
                found[ax.get_xlabel().split()[-2], int(place)] = int(row.get_lineoffset())
    assert found == {
        ("training", 1): 3,
        ("training", 2): 0,
        ("training", 3): 0,
        ("training", 4): 4,
        ("testing", 1): 1,
        ("testing", 2): 2,
    }
    assert LABEL in title(figure)


def test_photographs_by_grade_shows_each_in_the_column_of_its_grade(synthetic_copy) -> None:
    grades = synthetic_copy.grades
    rows = {grade: np.flatnonzero(grades == grade)[: 1 + grade % 2].tolist() for grade in GRADES}
    figure = plots.photographs_by_grade(synthetic_copy, rows, LABEL)
    shown = [ax.images[0].get_array() if ax.images else None for ax in figure.axes]
    for place, picture in enumerate(shown):
        line, grade = divmod(place, len(GRADES))
        if line < len(rows[grade]):
            assert np.array_equal(picture, synthetic_copy.image(rows[grade][line]))
        else:
            assert picture is None
    assert "3 · severe" in title(figure) and LABEL in title(figure)


def test_photograph_with_masks_shows_each_mask_in_its_own_frame(synthetic_copy, with_masks) -> None:
    image, masks = synthetic_copy.image(with_masks[0]), synthetic_copy.mask(with_masks[0])
    figure = plots.photograph_with_masks(image, masks, LABEL)
    frames = {ax.get_title(): ax.images[0].get_array() for ax in figure.axes}
    assert np.array_equal(frames["photograph"], image)
    assert np.array_equal(frames["its five masks, laid over it"], plots.overlay(image, masks))
    disc = np.asarray(frames["optic disc"]).any(axis=2)
    assert (disc >= masks[4].astype(bool)).all() and disc.sum() < 2 * masks[4].sum()


def test_box_of_the_field_of_view_stands_where_it_was_found() -> None:
    photograph = np.zeros((100, 200, 3), np.uint8)
    photograph[10:90, 50:150] = (180, 90, 40)
    figure = plots.cropped_to_field_of_view(photograph, FieldOfView(10, 50, 90, 150), LABEL)
    left, right = figure.axes
    assert left.patches[0].get_bbox().extents.tolist() == [50, 10, 150, 90]
    assert left.images[0].get_extent() == [0, 200, 100, 0]
    assert right.get_title() == "cut to the field of view: 100 x 100"


def test_sizes_and_numbers_of_lesions_are_those_of_the_table() -> None:
    photographs, kinds = ["a"] * 5 + ["b"] * 5, [*LESIONS, *LESIONS]
    lesions = pd.DataFrame({"photograph": photographs, "lesion": kinds, "diameter": np.arange(1.0, 11)})
    lesions = pd.concat([lesions, lesions.assign(photograph="b")])  # a has one of each, b three
    figure = plots.lesion_sizes(lesions, LABEL)
    left, right = figure.axes
    assert left.get_xscale() == right.get_xscale() == "log"
    numbers = [np.sort(points.get_offsets()[:, 0]) for points in right.collections]
    assert np.allclose(numbers, [[1, 3]] * len(LESIONS))
    assert left.get_yticklabels()[0].get_text() == "microaneurysms (MA)"


def test_window_of_a_shrunken_picture_covers_the_box() -> None:
    picture = np.arange(16).reshape(4, 4)
    # 4 pixels stand for 100: each for 25. From 30 to 60 that is the second and the third.
    part, extent = exploring._window(picture, 100, (30, 0, 60, 25))
    assert part.tolist() == [[4], [8]]
    assert extent == (0, 25, 75, 25)  # left, right, bottom, top


def test_shrunken_crop_draws_the_mask_of_each_size() -> None:
    square = np.full((128, 128, 3), 90, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[62:66, 62:66] = True  # 4 x 4 pixels: one at 32 px (a quarter of four there), none at 16 px
    figure = plots.shrunken_crop(square, mask, (48, 48, 80, 80), [64, 16], "MA", LABEL)
    below = figure.axes[3:]
    marked = [int((ax.images[1].get_array()[..., 3] > 0).sum()) for ax in below]
    assert marked == [16, 4, 0]
    assert all((*ax.get_xlim(), *ax.get_ylim()) == (48, 80, 80, 48) for ax in figure.axes)
    assert "microaneurysms" in title(figure) and "full size, 128 px" in title(figure)


def test_survival_curve_has_a_line_for_each_lesion() -> None:
    survival = pd.DataFrame({lesion: [0.1 * i, 1] for i, lesion in enumerate(LESIONS)}, index=[64, 256])
    (ax,) = plots.survival_curve(survival, LABEL).axes
    assert np.allclose([line.get_ydata() for line in ax.lines], [[10 * i, 100] for i in range(len(LESIONS))])
    assert all(line.get_xdata().tolist() == [64, 256] for line in ax.lines)


def test_thumbnail_pairs_tell_the_same_difference_as_the_library() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)
    figure = plots.thumbnail_pairs([("a pair", left, right)], LABEL, gain=2)
    assert f"RMS {rms_differences(np.stack([left, right]))[0, 1]:.2f}" in title(figure)
    drawn = figure.axes[2].images[0].get_array()
    assert np.array_equal(drawn, np.clip(2 * np.abs(left - right), 0, 255).astype(np.uint8))


def test_nearest_differences_count_every_file_and_name_the_gap() -> None:
    nearest = np.array([0.0, 0.0, 0.5, 0.5, 8.0, 9.0, 10.0])
    (ax,) = plots.nearest_differences(nearest, 2.0, LABEL).axes
    assert sum(bar.get_height() for group in ax.containers for bar in group) == len(nearest)
    names = ax.get_legend_handles_labels()[1]
    assert {"it shows the same photograph: 4 files", "nothing from 0.5 to 8.0"} <= set(names)


def test_nearest_differences_without_twins_has_no_gap() -> None:
    (ax,) = plots.nearest_differences(np.array([8.0, 8.0, 9.0]), 2.0, LABEL).axes
    assert not any("nothing" in name for name in ax.get_legend_handles_labels()[1])


def test_lesions_by_grade_puts_zero_on_the_dotted_line() -> None:
    shares = pd.DataFrame({"grade": [2, 2, 2, 4], **{lesion: [0.0, 0.01, 0.02, 0.04] for lesion in LESIONS}})
    figure = plots.lesions_by_grade(shares, LABEL)
    assert len(figure.axes) == len(DISEASE_LESIONS)
    for ax in figure.axes:
        (floor,) = set(ax.lines[0].get_ydata())
        drawn = [points.get_offsets()[:, 1] for points in ax.collections[::2]]
        assert floor == pytest.approx(1 / 3)  # a third of the smallest share that is drawn
        assert np.allclose(drawn[0], [floor, 1, 2]) and np.allclose(drawn[1], [4])
        medians = [bar.get_segments()[0][0, 1] for bar in ax.collections[1::2]]
        assert medians == pytest.approx([1, 4])


def test_protocol_bars_hold_every_photograph_once(synthetic_copy) -> None:
    splits = {protocol: split(synthetic_copy.table, protocol) for protocol in ("paper", "clean")}
    figure = plots.protocol_bars(splits, LABEL)
    for ax, (task, part) in zip(figure.axes, TASK_PARTS.items(), strict=True):
        for line, chosen in enumerate(splits.values()):
            bars = [bar for bar in ax.patches if round(bar.get_y() + bar.get_height() / 2) == line]
            assert sum(bar.get_width() for bar in bars) == (synthetic_copy.table.part == part).sum()
            widths = [bar.get_width() for bar in bars]
            assert widths[0] == len(chosen.rows("train", task))
            assert widths[2] == len(chosen.rows("test", task))
            assert widths[3] == (chosen.dropped.part == part).sum()
        assert sum(bar.get_hatch() is not None for bar in ax.patches) == 1


def test_side_by_side_keeps_the_order() -> None:
    pictures = {name: np.full((4, 4, 3), value, np.uint8) for name, value in (("dark", 10), ("light", 200))}
    figure = plots.side_by_side(pictures, "two")
    assert [ax.get_title() for ax in figure.axes] == ["dark", "light"]
    assert [int(ax.images[0].get_array().max()) for ax in figure.axes] == [10, 200]


def test_pairs_of_photographs_stand_one_above_the_other(synthetic_copy) -> None:
    first, second = np.flatnonzero(synthetic_copy.grades >= 0)[:4].reshape(2, 2).tolist()
    figure = plots.pairs_of_photographs(synthetic_copy, [first, second], "pairs")
    shown = [ax.images[0].get_array() for ax in figure.axes]
    for picture, position in zip(shown, (first[0], second[0], first[1], second[1]), strict=True):
        assert np.array_equal(picture, synthetic_copy.image(position))
    row = synthetic_copy.table.loc[first[1]]
    assert figure.axes[2].get_title() == f"{row['name']}: grade {row.grade}"


# The overlay explorer


def test_without_a_reader_the_explorer_is_a_figure(synthetic_copy, with_masks) -> None:
    assert not widgets.is_live()
    widgets.overlay_explorer(synthetic_copy, with_masks, LABEL)
    (number,) = plt.get_fignums()
    figure = plt.figure(number)
    assert len(figure.axes) == 3 * 4 and LABEL in title(figure)
    assert np.array_equal(figure.axes[0].images[0].get_array(), synthetic_copy.image(with_masks[0]))
    everything = plots.overlay(synthetic_copy.image(with_masks[0]), synthetic_copy.mask(with_masks[0]))
    assert np.array_equal(figure.axes[3].images[0].get_array(), everything)


def picture_of(html: ipywidgets.HTML) -> np.ndarray:
    png = base64.b64decode(html.value.split("base64,")[1].split('"')[0])
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_with_a_reader_the_explorer_follows_its_controls(synthetic_copy, with_masks, monkeypatch) -> None:
    asked = {"content": {"allow_stdin": True}}
    monkeypatch.setattr(widgets, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: asked))
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    widgets.overlay_explorer(synthetic_copy, with_masks, LABEL)
    assert plt.get_fignums() == []
    controls, html = shown[0].children
    photograph, opacity, *ticks = controls.children
    image, masks = synthetic_copy.image(with_masks[1]), synthetic_copy.mask(with_masks[1])

    photograph.value, opacity.value = with_masks[1], 0.8
    assert np.array_equal(picture_of(html), plots.overlay(image, masks, fill=0.8))
    for tick in ticks[:4]:
        tick.value = False
    assert np.array_equal(picture_of(html), plots.overlay(image, {"OD": masks[4]}, fill=0.8))
    assert "marked: OD" in html.value
    ticks[4].value = False
    assert np.array_equal(picture_of(html), image) and "marked: nothing" in html.value


# The quiz


def test_the_numeric_question_of_the_quiz_is_answered_by_its_own_numbers() -> None:
    (question,) = (question for question in widgets.read_quiz("01") if question["type"] == "numeric")
    assert all(number in question["question"] for number in ("3400", "17", "256"))
    (right,) = (answer["range"] for answer in question["answers"] if answer.get("correct"))
    assert right[0] <= 17 * 256 / 3400 < right[1]
