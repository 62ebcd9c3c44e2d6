"""Which files show the same photograph? Found by comparing thumbnails, on any set of photographs.

IDRiD's two parts overlap, and part B holds some photographs twice. Files of the same photograph are rarely
equal byte for byte: they were re-encoded, sometimes scaled. Their thumbnails still differ by hardly more than
JPEG noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from mtl_utils.data.fov import BLACK
from mtl_utils.data.idrid import in_colour, open_picture

THUMBNAIL_SIZE = (96, 64)
"""Width and height in pixels."""

SAME_BELOW = 2.0
"""Two thumbnails whose RMS difference is below this (in grey levels, 0-255) show the same photograph.

On IDRiD equal pairs reach 1.2, and the most alike pair of different photographs stands at 4.6 (chapter 01
draws it)."""

DARK = 100
"""Thumbnails darker than this (the 95th percentile of each pixel's brightest channel) are brightened to it:
any two dark photographs would be the same, else. No photograph of IDRiD is so dark."""

BLOCK = 1024
"""So many thumbnails are compared with so many others at a time: each with each at once would take N x N
numbers, 10 GB for the 35,126 training photographs of EyePACS."""

COARSE = 8
"""Side of the squares, in pixels, that thumbnails are averaged over for a first comparison."""


def thumbnail(path: str | Path) -> np.ndarray:
    """A photograph shrunk to float32 (64, 96, 3), 0-255, a dark one brightened (`DARK`).

    The JPEG is decoded at an eighth of its size or so, which is fast but still reads the file to its end.

    Raises:
        DataError: as `read_photograph` raises it.
    """
    with open_picture(path) as image:
        image.draft("RGB", (4 * THUMBNAIL_SIZE[0], 4 * THUMBNAIL_SIZE[1]))
        pixels = np.asarray(in_colour(image, path), dtype=np.float32)
    shrunk = cv2.resize(pixels, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
    return shrunk * (DARK / np.clip(np.percentile(shrunk.max(axis=2), 95), BLACK, DARK))


def empty_thumbnails(number: int) -> np.ndarray:
    """Room for thumbnails, float16 (N, 64, 96, 3), all NaN: a photograph that cannot be read equals none.

    Half precision errs by less than 0.07 grey levels, and takes 37 KB for each photograph.
    """
    return np.full((number, THUMBNAIL_SIZE[1], THUMBNAIL_SIZE[0], 3), np.nan, np.float16)


def thumbnails(paths: Sequence[str | Path], progress: bool = True) -> np.ndarray:
    """Thumbnails of many photographs, float16 (N, 64, 96, 3).

    Raises:
        DataError: a file is missing, truncated or no picture.
    """
    shrunk = empty_thumbnails(len(paths))
    # Pillow lets go of the interpreter lock while it decodes, so threads are enough to use every core.
    with ThreadPoolExecutor() as pool:
        bar = tqdm(
            pool.map(thumbnail, paths),
            total=len(paths),
            desc="comparing photographs",
            disable=not progress,
        )
        for place, thumb in enumerate(bar):
            shrunk[place] = thumb
    return shrunk


def rms_differences(thumbs: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """RMS difference between each thumbnail and each of the others, in grey levels, float (N, M).

    Args:
        thumbs: (N, H, W, 3).
        others: (M, H, W, 3); None: `thumbs` again.

    >>> thumbs = np.stack([np.zeros((64, 96, 3)), np.full((64, 96, 3), 3.0)])
    >>> rms_differences(thumbs).round(6).tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    values = math.prod(thumbs.shape[1:])
    left = thumbs.reshape(len(thumbs), values).astype(np.float64)
    right = left if others is None else others.reshape(len(others), values).astype(np.float64)
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    mean_square = (squares - 2 * left @ right.T) / values
    return np.sqrt(np.clip(mean_square, 0, None))


def _coarse(thumb: np.ndarray) -> np.ndarray:
    """Means over squares of `COARSE` pixels, float32 (H / 8, W / 8, 3)."""
    height, width = (max(1, side // COARSE) for side in thumb.shape[:2])
    return cv2.resize(thumb.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)


def same_pairs(thumbs: np.ndarray, same_below: float = SAME_BELOW) -> np.ndarray:
    """Pairs (i, j), i < j, of thumbnails that differ by less than `same_below`, int (K, 2).

    The means over squares of pixels never differ by more (RMS) than the pixels themselves. So coarse
    thumbnails, with a 64th of the numbers, are compared first, and only where they are alike the pixels
    decide. The answer is the same as if all pixels had been compared.
    """
    coarse = np.array([_coarse(thumb) for thumb in thumbs])
    found = []
    for left in range(0, len(thumbs), BLOCK):
        for right in range(left, len(thumbs), BLOCK):
            alike = rms_differences(coarse[left : left + BLOCK], coarse[right : right + BLOCK]) < same_below
            i, j = (np.flatnonzero(alike.any(axis=axis)) for axis in (1, 0))
            same = np.argwhere(rms_differences(thumbs[left + i], thumbs[right + j]) < same_below)
            found.append(np.stack([left + i[same[:, 0]], right + j[same[:, 1]]], axis=1))
    pairs = np.concatenate(found)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def link_photographs(table: pd.DataFrame, thumbs: np.ndarray, same_below: float = SAME_BELOW) -> pd.DataFrame:
    """Give all files of one photograph the same value of `photo`: the first file's own.

    Args:
        table: from `read_idrid`, N rows.
        thumbs: from `thumbnails(table.image)`.
        same_below: see `SAME_BELOW`.
    """
    first, second = same_pairs(thumbs, same_below).T
    pairs = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(table), len(table)))
    _, group = connected_components(pairs, directed=False)
    linked = table.copy()
    linked["photo"] = table.groupby(group).photo.transform("first").to_numpy()
    return linked


def pairs_between(linked: pd.DataFrame, left: str, right: str) -> pd.DataFrame:
    """All pairs of files of one photograph, one from part `left` and one from part `right` ('A' or 'B').

    Returns:
        One row per pair: photo, and split, name, grade, dme of both files with the suffixes `_left` and
        `_right`.
    """
    columns = ["photo", "split", "name", "grade", "dme"]
    first = linked.loc[linked.part == left, columns].reset_index()
    second = linked.loc[linked.part == right, columns].reset_index()
    pairs = first.merge(second, on="photo", suffixes=("_left", "_right"))
    if left == right:
        pairs = pairs[pairs.index_left < pairs.index_right]
    return pairs.drop(columns=["index_left", "index_right"]).reset_index(drop=True)


def conflicting(pairs: pd.DataFrame) -> np.ndarray:
    """Bool (N,): do the two files of a pair (from `pairs_between`) differ in a label that both have?"""
    differs = pairs.grade_left.ne(pairs.grade_right).fillna(False) | pairs.dme_left.ne(
        pairs.dme_right
    ).fillna(False)
    return differs.to_numpy(bool)
