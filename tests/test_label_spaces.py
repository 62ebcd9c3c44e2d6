"""Label spaces: groups, classes and the way back, against a mask that is small enough to read."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import (
    LABEL_SPACES,
    LESION_SPACE,
    RED_YELLOW,
    RED_YELLOW_SIGMOID,
    label_space,
)
from mtl_utils.lesions import LESIONS

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
    assert np.array_equal(space.group(space.lesions(marked)), marked)


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
    assert set(LABEL_SPACES) == {"lesions", "red-yellow", "red-yellow-sigmoid"}
    for name, space in LABEL_SPACES.items():
        assert label_space(name) is space
        assert space.name == name
        assert set(space.disease) < set(space.marked) <= set(space.classes)
        assert sorted(sum(space.groups.values(), ())) == sorted(LESIONS)
    assert [space.has_rest for space in (LESION_SPACE, RED_YELLOW, RED_YELLOW_SIGMOID)] == [False, True, True]
    with pytest.raises(MTLError, match=r"'blue'.*red-yellow-sigmoid"):
        label_space("blue")
