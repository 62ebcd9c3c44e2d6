"""The field of view: the round, lit part of a fundus photograph, found to cut the black border off."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtl_utils.errors import DataError

_WORK_SIDE = 512  # the field of view is a large thing: a small picture is enough to find it
_SMALLEST_SHARE = 0.05
BLACK = 12.0
"""What is darker (0-255) shows no eye."""
_STRIP = 10  # so many times as long as wide is no eye


@dataclass(frozen=True)
class FieldOfView:
    """Bounding box of the lit part, in pixels: rows top..bottom-1 and columns left..right-1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def side(self) -> int:
        """Side of the square that holds the box, in pixels."""
        return max(self.bottom - self.top, self.right - self.left)

    @property
    def offset(self) -> tuple[int, int]:
        """Rows and columns that the square adds above and to the left of the box."""
        return (self.side - (self.bottom - self.top)) // 2, (self.side - (self.right - self.left)) // 2


def field_of_view(image: np.ndarray) -> FieldOfView:
    """Find the lit part of a fundus photograph.

    The brightest channel is thresholded at a share of the photograph's own brightness, so that dark exposures
    work too; the largest connected piece wins, so that a caption or a time stamp in a corner does not count.

    Args:
        image: RGB, uint8 (H, W, 3).

    Raises:
        DataError: nothing in the photograph is lit, or only a strip.

    >>> photograph = np.zeros((100, 200, 3), np.uint8)
    >>> photograph[10:90, 50:150] = (180, 90, 40)
    >>> field_of_view(photograph)
    FieldOfView(top=10, left=50, bottom=90, right=150)
    """
    lit = _lit_piece(image)
    down, across = (image.shape[axis] / lit.shape[axis] for axis in (0, 1))
    left, top, box_width, box_height = cv2.boundingRect(lit)
    short, long = sorted((box_width * across, box_height * down))
    if long > _STRIP * short:  # its square would take all memory
        raise DataError("no field of view found: what is lit is a strip. Is it a fundus photograph?")
    return FieldOfView(
        top=int(np.floor(top * down)),
        left=int(np.floor(left * across)),
        bottom=int(min(image.shape[0], np.ceil((top + box_height) * down))),
        right=int(min(image.shape[1], np.ceil((left + box_width) * across))),
    )


def _lit_piece(image: np.ndarray) -> np.ndarray:
    """The largest lit piece as 0 or 1, uint8, in a picture shrunk to `_WORK_SIDE` at the most.

    Raises:
        DataError: as `field_of_view`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"expected an RGB photograph, uint8 (H, W, 3); got {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    scale = min(1.0, _WORK_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    red, green, blue = cv2.split(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    light = cv2.max(cv2.max(red, green), blue)  # numpy's max over three values takes ten times as long
    threshold = max(BLACK, 0.15 * float(np.percentile(light, 95)))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (light > threshold).astype(np.uint8), connectivity=4
    )
    areas = stats[1:, cv2.CC_STAT_AREA]
    if len(areas) == 0 or areas.max() < _SMALLEST_SHARE * light.size:
        raise DataError("no field of view found: the picture is (almost) black. Is it a fundus photograph?")
    return (labels == 1 + areas.argmax()).astype(np.uint8)


def inside_field_of_view(image: np.ndarray) -> np.ndarray:
    """Which pixels show the eye: 0 or 1, uint8 (H, W), from an RGB photograph, uint8 (H, W, 3).

    The convex hull of the lit part, since a dark vessel or bleeding at the edge belongs to it.

    Raises:
        DataError: as `field_of_view`.
    """
    lit = _lit_piece(image)
    outline, *_ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]  # it is one piece
    hull = cv2.convexHull(outline)  # of its outline, not of all its pixels: the same, and quick
    filled = cv2.fillConvexPoly(np.zeros_like(lit), hull, 1)
    return cv2.resize(filled, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def crop_square(array: np.ndarray, fov: FieldOfView) -> np.ndarray:
    """Cut (H, W) or (H, W, C) to the field of view, and pad it to a square: a circle stays a circle."""
    rows, columns = fov.offset
    square = np.zeros((fov.side, fov.side, *array.shape[2:]), array.dtype)
    box = array[fov.top : fov.bottom, fov.left : fov.right]
    square[rows : rows + box.shape[0], columns : columns + box.shape[1]] = box
    return square


def uncrop(square: np.ndarray, fov: FieldOfView, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `crop_square`: back to the photograph's own (H, W), zero outside the field of view."""
    rows, columns = fov.offset
    height, width = fov.bottom - fov.top, fov.right - fov.left
    whole = np.zeros((*shape, *square.shape[2:]), square.dtype)
    whole[fov.top : fov.bottom, fov.left : fov.right] = square[
        rows : rows + height, columns : columns + width
    ]
    return whole
