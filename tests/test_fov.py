"""The field of view: found in the dark and beside captions, cut out and put back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from mtl_utils.data.fov import FieldOfView, crop_square, field_of_view, inside_field_of_view, uncrop
from mtl_utils.errors import DataError


def disc(
    height: int, width: int, centre: tuple[float, float], radius: float, colour=(180, 90, 40)
) -> np.ndarray:
    """A photograph of one lit circle."""
    rows, columns = np.ogrid[:height, :width]
    photograph = np.zeros((height, width, 3), np.uint8)
    photograph[np.hypot(rows - centre[0], columns - centre[1]) <= radius] = colour
    return photograph


def box(fov: FieldOfView) -> tuple[int, int, int, int]:
    return fov.top, fov.left, fov.bottom, fov.right


def test_a_circle_wider_than_the_picture_is_found_like_idrid_s():
    fov = field_of_view(disc(190, 286, (95, 140), 115))
    assert box(fov) == (0, 140 - 115, 190, 140 + 115 + 1)
    assert fov.side == 231


@pytest.mark.parametrize("colour", [(255, 200, 150), (60, 20, 10), (25, 8, 4)])
def test_dark_exposures_work_too(colour):
    assert box(field_of_view(disc(200, 300, (100, 150), 80, colour))) == (20, 70, 181, 231)


def test_a_caption_in_a_corner_and_noise_in_the_black_do_not_count():
    photograph = disc(400, 600, (200, 300), 150)
    photograph[5:20, 5:120] = 255
    photograph += np.random.default_rng(0).integers(0, 8, photograph.shape, dtype=np.uint8)
    assert box(field_of_view(photograph)) == pytest.approx((50, 150, 351, 451), abs=2)


def test_a_large_photograph_is_found_to_within_a_few_pixels():
    found = box(field_of_view(disc(1424, 2144, (700, 1000), 600)))
    assert found == pytest.approx((100, 400, 1301, 1601), abs=2144 / 512)


def test_a_real_photograph():
    fov = field_of_view(data.retina())
    assert 1300 < fov.side <= 1411


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((50, 60, 3), np.uint8), "almost"),
        (np.full((50, 60), 200, np.uint8), "RGB"),
        (np.ones((50, 60, 3), np.float32), "float32"),
    ],
)
def test_what_is_no_photograph_gives_a_clear_message(picture, message):
    with pytest.raises(DataError, match=message):
        field_of_view(picture)


def test_what_lies_inside_is_the_disc_that_was_drawn():
    photograph = disc(100, 120, (50, 60), 40)
    rows, columns = np.ogrid[:100, :120]
    distance = np.hypot(rows - 50, columns - 60)
    inside = inside_field_of_view(photograph)
    assert (inside.dtype, inside.shape) == (np.uint8, (100, 120))
    assert set(np.unique(inside)) == {0, 1}
    # The hull goes straight over the steps of the drawn rim, and takes pixels that it only cuts.
    assert (inside[distance <= 40] == 1).all()
    assert (inside[distance > 41] == 0).all()


def test_a_dark_vessel_at_the_edge_is_still_inside():
    photograph = disc(100, 120, (50, 60), 40)
    photograph[30:34, 24:60] = 0  # from the rim at the left into the eye
    assert (inside_field_of_view(photograph)[30:34, 28:60] == 1).all()


def test_a_caption_is_not_inside_and_a_large_photograph_keeps_its_size():
    photograph = disc(600, 1100, (300, 500), 250)
    photograph[5:20, 900:1000] = 255
    rows, columns = np.ogrid[:600, :1100]
    distance = np.hypot(rows - 300, columns - 500)
    inside = inside_field_of_view(photograph)
    assert inside.shape == (600, 1100)
    # found at 512 px of 1100: a step of 2.15 pixels, and one more for the hull
    assert (inside[distance < 250 - 4] == 1).all()
    assert (inside[distance > 250 + 4] == 0).all()


def test_a_black_picture_has_no_inside():
    with pytest.raises(DataError, match="almost"):
        inside_field_of_view(np.zeros((50, 60, 3), np.uint8))


def test_crop_square_by_hand():
    array = np.arange(1, 13).reshape(3, 4)
    square = crop_square(array, FieldOfView(top=1, left=0, bottom=2, right=3))
    assert square.tolist() == [[0, 0, 0], [5, 6, 7], [0, 0, 0]]


@given(st.data())
def test_uncrop_is_the_inverse_of_crop_square(draw):
    height, width = draw.draw(st.integers(2, 40)), draw.draw(st.integers(2, 40))
    top, left = draw.draw(st.integers(0, height - 1)), draw.draw(st.integers(0, width - 1))
    bottom, right = draw.draw(st.integers(top + 1, height)), draw.draw(st.integers(left + 1, width))
    fov = FieldOfView(top, left, bottom, right)
    array = np.random.default_rng(0).random((height, width, 2))
    square = crop_square(array, fov)
    assert square.shape == (fov.side, fov.side, 2)
    expected = np.zeros_like(array)
    expected[top:bottom, left:right] = array[top:bottom, left:right]
    assert np.array_equal(uncrop(square, fov, (height, width)), expected)


def test_a_dim_rim_is_lit_and_a_grey_background_is_not():
    rows, columns = np.ogrid[:200, :300]
    distance = np.hypot(rows - 100, columns - 150)
    photograph = np.full((200, 300, 3), 20, np.uint8)  # brighter than 12, and not a sixth of the eye
    photograph[distance <= 80] = 45  # a quarter of the eye's light
    photograph[distance <= 60] = 180
    fov = field_of_view(photograph)
    assert (fov.top, fov.left, fov.bottom, fov.right) == (20, 70, 181, 231)
