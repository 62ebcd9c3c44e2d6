"""Label spaces: groups, classes and the way back, against a mask that is small enough to read."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import (
    FOUR_LESIONS,
    FUSED,
    LABEL_SPACES,
    LESION_SPACE,
    RED_YELLOW,
    RED_YELLOW_SIGMOID,
    SEPARATE,
    close_gaps,
    label_space,
)
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS

MA = [[1, 0, 0, 0], [0, 0, 0, 0]]
HE = [[0, 1, 0, 0], [0, 0, 0, 0]]
EX = [[0, 1, 1, 0], [0, 0, 0, 0]]
SE = [[0, 0, 0, 0], [1, 0, 0, 0]]
OD = [[0, 0, 1, 0], [1, 1, 0, 0]]
TINY = np.array([MA, HE, EX, SE, OD], np.uint8)

RED = [[1, 1, 0, 0], [0, 0, 0, 0]]
YELLOW = [[0, 1, 1, 0], [1, 0, 0, 0]]
DISC = [[0, 0, 1, 0], [1, 1, 0, 0]]
GROUPED = np.array([RED, YELLOW, DISC], np.uint8)

# Three marked pixels lie inside, two (yellow and disc) outside of the field of view.
INSIDE = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], np.uint8)
BACKGROUND, IS_RED, IS_YELLOW, IS_DISC, OUTSIDE = range(5)
CLASSES = np.array([[IS_RED, IS_RED, IS_YELLOW, BACKGROUND], [IS_YELLOW, IS_DISC, OUTSIDE, OUTSIDE]])


def masks(groups: int, dtype=np.uint8):
    values = st.floats(0, 1, width=32) if dtype == np.float32 else st.integers(0, 1)
    return arrays(dtype, (groups, 3, 4), elements=values)


def test_lesions_go_into_groups():
    assert np.array_equal(RED_YELLOW.group(TINY), GROUPED)
    # of probabilities the larger one: 0.3 MA and 0.8 HE are 0.8 red
    pixel = np.array([0.3, 0.8, 0.6, 0.1, 0.2], np.float32).reshape(5, 1, 1)
    assert np.allclose(RED_YELLOW.group(pixel).ravel(), [0.8, 0.6, 0.2])
    assert np.array_equal(LESION_SPACE.group(TINY), TINY)


def test_groups_go_back_to_lesions():
    expected = np.array([RED, RED, YELLOW, YELLOW, DISC], np.uint8)
    assert np.array_equal(RED_YELLOW.lesions(GROUPED), expected)
    assert np.array_equal(LESION_SPACE.lesions(TINY), TINY)


@pytest.mark.parametrize("space", LABEL_SPACES.values(), ids=lambda space: space.name)
@given(st.data())
def test_there_and_back_is_the_same(space, data):
    marked = data.draw(masks(len(space.marked), data.draw(st.sampled_from([np.uint8, np.float32]))))
    back = space.group(space.lesions(marked))
    if space.closing:  # adds to what is marked, and a second time adds nothing
        assert (back >= marked).all()
        marked = back
    assert np.array_equal(space.group(space.lesions(marked)), marked)
    assert back.dtype == marked.dtype


def test_each_pixel_gets_the_class_worked_by_hand():
    target = RED_YELLOW.target(GROUPED, INSIDE)
    assert target.dtype == np.uint8
    assert np.array_equal(target.argmax(axis=0), CLASSES)
    assert (target.sum(axis=0) == 1).all()
    assert np.array_equal(RED_YELLOW_SIGMOID.target(GROUPED, INSIDE), target)
    assert np.array_equal(LESION_SPACE.target(TINY), TINY)  # questions of their own overlap


def test_the_last_of_the_priority_wins():
    # pixel (0, 1) is red and yellow, (0, 2) and (1, 0) are yellow and disc
    classes = RED_YELLOW.target(GROUPED, INSIDE, priority=("red", "yellow", "disc")).argmax(axis=0)
    expected = [[IS_RED, IS_YELLOW, IS_DISC, BACKGROUND], [IS_DISC, IS_DISC, OUTSIDE, OUTSIDE]]
    assert classes.tolist() == expected


@given(masks(3), arrays(np.uint8, (3, 4), elements=st.integers(0, 1)))
def test_one_class_for_any_mask(marked, inside):
    target = RED_YELLOW.target(marked, inside)
    assert (target.sum(axis=0) == 1).all()
    anything = marked.any(axis=0)
    assert not target[[BACKGROUND, OUTSIDE]][:, anything].any()
    assert np.array_equal(target[IS_RED], marked[0])  # the strongest loses nothing
    assert np.array_equal(target[OUTSIDE] > 0, ~anything & (inside == 0))


def test_probabilities_by_hand():
    # e^logit is 1, 2, 3, 4, 10: together 20
    logits = torch.tensor([1.0, 2, 3, 4, 10]).log().view(1, 5, 1, 1)
    assert RED_YELLOW.probabilities(logits).flatten().tolist() == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.5])
    # a sigmoid each: x / (1 + x)
    alone = [1 / 2, 2 / 3, 3 / 4, 4 / 5, 10 / 11]
    for space in (RED_YELLOW_SIGMOID, LESION_SPACE):
        assert space.probabilities(logits).flatten().tolist() == pytest.approx(alone)
    half = torch.tensor([0.0, log(3), 0, 0, 0], dtype=torch.bfloat16).view(1, 5, 1, 1)
    assert RED_YELLOW.probabilities(half).dtype == torch.float32


def test_of_marked_leaves_out_the_rest():
    channels = torch.arange(10.0).view(2, 5, 1, 1)
    assert RED_YELLOW.of_marked(channels).flatten().tolist() == [1, 2, 3, 6, 7, 8]
    assert torch.equal(LESION_SPACE.of_marked(channels), channels)


def test_spaces_are_found_by_name():
    assert set(LABEL_SPACES) == {
        "lesions",
        "red-yellow",
        "red-yellow-sigmoid",
        "fused",
        "separate",
        "four-lesions",
    }
    for name, space in LABEL_SPACES.items():
        assert label_space(name) is space
        assert space.name == name
        assert set(space.marked) <= set(space.classes)
        without_disc = [group for group, members in space.groups.items() if members != ("OD",)]
        assert list(space.disease) == without_disc
        members = DISEASE_LESIONS if space in (FUSED, SEPARATE, FOUR_LESIONS) else LESIONS
        assert sorted(sum(space.groups.values(), ())) == sorted(members)
        # who wins a pixel is said of every group, where pixels have one class
        assert sorted(space.priority) == (sorted(space.marked) if space.has_rest else [])
    assert [name for name, space in LABEL_SPACES.items() if not space.has_rest] == ["lesions", "four-lesions"]
    with_outside = [name for name, space in LABEL_SPACES.items() if space.has_outside]
    assert with_outside == ["red-yellow", "red-yellow-sigmoid"]
    with pytest.raises(MTLError, match=r"'blue'.*red-yellow-sigmoid"):
        label_space("blue")


# ------------------------------------------------------------------------------------------------ PLDMLT
def picture(text: str) -> np.ndarray:
    """'X' is marked."""
    return np.array([[mark == "X" for mark in line] for line in text.split()], np.uint8)


BARS = """
.........
.X.X..X.X
.X.X..X..
.X.X..X.X
.........
"""
# With radius 1 the disc is a cross. Into each gap, of one pixel and of two, it dips one pixel deep, from
# above and from below, and gets no further. The gap to the left border is no other.
CLOSED = """
.........
.X.X..X.X
XXXXXXXXX
.X.X..X.X
.........
"""


def test_gaps_close_as_worked_by_hand():
    assert np.array_equal(close_gaps(picture(BARS), 1), picture(CLOSED))
    assert np.array_equal(close_gaps(picture(BARS), 0), picture(BARS))
    alone = picture("..... .X.X. .....")
    assert np.array_equal(close_gaps(alone, 1), alone)


def disc(radius: int) -> np.ndarray:
    reach = np.arange(-radius, radius + 1)
    return np.hypot(*np.meshgrid(reach, reach)) <= radius


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
def test_closing_agrees_with_scipy(radius):
    inner = (np.random.default_rng(radius).random((40, 50)) < 0.4 / (radius + 1)).astype(np.uint8)
    wide = np.pad(inner, 2 * radius)  # far enough from the border, which scipy treats in another way
    expected = ndimage.binary_closing(wide, disc(radius))
    assert (expected != wide).sum() > 10
    assert np.array_equal(close_gaps(wide, radius), expected)
    # A closing is a dilation and an erosion; to the latter the border is one more edge of a mark.
    grown = ndimage.binary_dilation(inner, disc(radius))
    expected = ndimage.binary_erosion(grown, disc(radius), border_value=1)
    assert np.array_equal(close_gaps(inner, radius), expected)
    # no direction comes before another
    assert np.array_equal(close_gaps(inner.T, radius), expected.T)


@given(st.data())
def test_probabilities_are_closed_as_their_masks(data):
    values = data.draw(arrays(np.float32, (6, 7), elements=st.sampled_from([0.1, 0.3, 0.5, 0.7])))
    closed = close_gaps(values, 1)
    for threshold in (0.2, 0.4, 0.6):
        mask = (values > threshold).astype(np.uint8)
        assert np.array_equal(closed > threshold, close_gaps(mask, 1))


def test_fused_lesions_by_hand():
    # The bars are of four kinds, and the gap between two kinds closes; the disc is not asked.
    bars = picture(BARS)
    lesions = np.zeros((5, *bars.shape), np.uint8)
    for lesion, columns in (("MA", [1]), ("EX", [3]), ("SE", [6]), ("HE", [8])):
        lesions[LESIONS.index(lesion)][:, columns] = bars[:, columns]
    lesions[LESIONS.index("OD")][4] = 1
    fused = FUSED.group(lesions)
    assert np.array_equal(fused, picture(CLOSED)[None])
    target = FUSED.target(fused)
    assert np.array_equal(target, [1 - fused[0], fused[0]])


def test_the_closing_grows_with_the_picture():
    # At the paper's 1024 px two long edges grow together over four pixels, at 512 px over two.
    for side, closes in ((1024, 4), (512, 2), (513, 4)):
        for gap in (closes, closes + 1):
            lesions = np.zeros((5, side, side), np.uint8)
            lesions[0, 20:40, 10:20] = lesions[2, 20:40, 20 + gap : 40] = 1
            assert FUSED.group(lesions)[0, 30, 10:40].all() == (gap == closes)


def test_separate_lesions_by_hand():
    # pixel by pixel MA, HE over EX, EX, nothing; SE, nothing, nothing, nothing. The disc is background.
    marked = SEPARATE.group(TINY)
    assert np.array_equal(marked, TINY[:4])
    assert SEPARATE.target(marked).argmax(axis=0).tolist() == [[1, 2, 3, 0], [4, 0, 0, 0]]
    # each pair on one pixel: the smaller lesion wins
    smaller_first = ["MA", "HE", "EX", "SE"]
    for strong, weak in ((a, b) for i, a in enumerate(smaller_first) for b in smaller_first[i + 1 :]):
        pixel = np.array([name in (strong, weak) for name in SEPARATE.marked], np.uint8).reshape(4, 1, 1)
        assert SEPARATE.classes[SEPARATE.target(pixel).ravel().argmax()] == strong


@pytest.mark.parametrize("space", [FUSED, SEPARATE], ids=lambda space: space.name)
@given(st.data())
def test_one_class_for_any_mask_without_an_outside(space, data):
    marked = data.draw(masks(len(space.marked)))
    assume(marked.any())
    target = space.target(marked)
    assert (target.sum(axis=0) == 1).all()
    assert np.array_equal(target[0] == 0, marked.any(axis=0))
    strongest = space.priority[-1]
    assert np.array_equal(target[space.classes.index(strongest)], marked[space.marked.index(strongest)])


def test_the_way_back_from_fused_lesions():
    once = np.array([[[0.2, 0.7]]], np.float32)
    back = FUSED.lesions(once)
    assert np.array_equal(back, np.concatenate([once] * 4 + [0 * once]))
    assert np.array_equal(SEPARATE.lesions(TINY[:4]), [*TINY[:4], 0 * TINY[4]])


# --------------------------------------------------------------------------------------------- DeepMT-DR
def test_four_lesions_are_questions_of_their_own():
    marked = FOUR_LESIONS.group(TINY)
    assert np.array_equal(marked, TINY[:4])  # nobody asks for the disc
    target = FOUR_LESIONS.target(marked, INSIDE)
    assert np.array_equal(target, TINY[:4]) and target[:, 0, 1].tolist() == [0, 1, 1, 0]  # they overlap
    assert FOUR_LESIONS.classes == FOUR_LESIONS.marked == FOUR_LESIONS.disease == ("MA", "HE", "EX", "SE")
    logits = torch.tensor([0.0, log(3), -log(3), log(9)]).view(1, 4, 1, 1)
    assert FOUR_LESIONS.probabilities(logits).flatten().tolist() == pytest.approx([0.5, 0.75, 0.25, 0.9])
    assert torch.equal(FOUR_LESIONS.of_marked(logits), logits)
    assert np.array_equal(FOUR_LESIONS.lesions(marked), [*TINY[:4], 0 * TINY[4]])
    assert not FOUR_LESIONS.has_rest and not FOUR_LESIONS.has_outside
