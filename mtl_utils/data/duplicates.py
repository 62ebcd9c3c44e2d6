"""Which files show the same photograph? Found by comparing thumbnails, on any copy of IDRiD.

IDRiD's two parts overlap, and part B holds some photographs twice. Files of the same photograph are rarely
equal byte for byte: they were re-encoded, sometimes scaled. Their thumbnails still differ by hardly more than
JPEG noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from mtl_utils.data.idrid import open_picture

THUMBNAIL_SIZE = (96, 64)
"""Width and height in pixels."""

SAME_BELOW = 2.0
"""Two thumbnails whose RMS difference is below this (in grey levels, 0-255) show the same photograph.

On IDRiD equal pairs reach 1.2, and the most alike pair of different photographs stands at 4.6 (chapter 01
draws it)."""


def thumbnail(path: str | Path) -> np.ndarray:
    """A photograph shrunk to float32 (64, 96, 3), 0-255.

    The JPEG is decoded at an eighth of its size or so, which is fast but still reads the file to its end.

    Raises:
        DataError: the file is missing, truncated or no picture.
    """
    with open_picture(path) as image:
        image.draft("RGB", (4 * THUMBNAIL_SIZE[0], 4 * THUMBNAIL_SIZE[1]))
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return cv2.resize(pixels, THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)


def thumbnails(paths: Sequence[str | Path], progress: bool = True) -> np.ndarray:
    """Thumbnails of many photographs, float32 (N, 64, 96, 3).

    Raises:
        DataError: a file is missing, truncated or no picture.
    """
    # Pillow lets go of the interpreter lock while it decodes, so threads are enough to use every core.
    with ThreadPoolExecutor() as pool:
        shrunk = list(
            tqdm(
                pool.map(thumbnail, paths),
                total=len(paths),
                desc="comparing photographs",
                disable=not progress,
            )
        )
    return np.stack(shrunk)


def rms_differences(thumbs: np.ndarray) -> np.ndarray:
    """Root mean square difference between each two thumbnails, float (N, N), in grey levels.

    >>> thumbs = np.stack([np.zeros((64, 96, 3)), np.full((64, 96, 3), 3.0)])
    >>> rms_differences(thumbs).round(6).tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float64)
    squares = (flat**2).sum(axis=1)
    mean_square = (squares[:, None] + squares[None, :] - 2 * flat @ flat.T) / flat.shape[1]
    return np.sqrt(np.clip(mean_square, 0, None))


def link_photographs(table: pd.DataFrame, thumbs: np.ndarray, same_below: float = SAME_BELOW) -> pd.DataFrame:
    """Give all files of one photograph the same value of `photo`: the first file's own.

    Args:
        table: from `read_idrid`, N rows.
        thumbs: from `thumbnails(table.image)`.
        same_below: see `SAME_BELOW`.
    """
    _, group = connected_components(rms_differences(thumbs) < same_below, directed=False)
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
