"""The working copy: full-size files -> small pictures that load in no time.

Decoding one 4288 x 2848 photograph and its five masks takes most of a second, longer than a training step. So it is done
once: each photograph is cropped to its field of view, padded to a square, shrunk, and appended to one flat file that is then
memory-mapped. Photographs are stored in the table's order, so a killed run goes on after the last whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from mtl_utils.data.duplicates import link_photographs, thumbnails
from mtl_utils.data.fov import crop_square, field_of_view
from mtl_utils.data.idrid import read_idrid, read_mask, read_photograph
from mtl_utils.errors import DataError
from mtl_utils.lesions import LESIONS
from mtl_utils.runtime import cache_dir, is_synthetic

FORMAT = 1  # raise when the files below change their meaning
PHOTOGRAPHS, MASKS, ABOUT = "photographs.u8", "masks.u8", "about.json"
_BITS = (1 << np.arange(len(LESIONS), dtype=np.uint8)).reshape(-1, 1, 1)


def fingerprint(table: pd.DataFrame) -> str:
    """Sixteen hex digits that change when any photograph, mask or label of a data set changes."""
    digest = hashlib.sha256()
    for row in table.itertuples():
        digest.update(f"{row.part}/{row.split}/{row.name}/{row.grade}/{row.dme}".encode())
        for column in ("image", *LESIONS):
            path = getattr(row, column)
            digest.update(Path(path).read_bytes() if pd.notna(path) else b"-")
    return digest.hexdigest()[:16]


def shrink(square: np.ndarray, size: int) -> np.ndarray:
    """Area-average a square picture to (size, size); a pixel of a mask stays set where at least half of its area is."""
    if square.dtype == bool:
        return shrink(square.astype(np.uint8) * 255, size) >= 128
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if size < len(square) else cv2.INTER_CUBIC)


def prepare_row(row, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """One photograph and, in part A, its five masks as the bits of one byte: uint8 (size, size, 3) and (size, size).

    Raises:
        DataError: a file cannot be read, or a mask has another size than its photograph.
    """
    photograph = read_photograph(row.image)
    try:
        fov = field_of_view(photograph)
    except DataError as error:
        raise DataError(f"{row.image}: {error}") from error
    picture = shrink(crop_square(photograph, fov), size)
    if row.part != "A":
        return picture, None
    packed = np.zeros((size, size), np.uint8)
    for bit, lesion in enumerate(LESIONS):
        path = getattr(row, lesion)
        if pd.notna(path):
            mask = read_mask(path)
            if mask.shape != photograph.shape[:2]:
                raise DataError(f"{path} is {mask.shape}, its photograph {row.image} is {photograph.shape[:2]}")
            packed |= shrink(crop_square(mask, fov), size).astype(np.uint8) << bit
    return picture, packed


@dataclass(frozen=True)
class WorkingCopy:
    """Small square pictures of a whole data set, memory-mapped.

    Attributes:
        folder: where it lies.
        table: as from `read_idrid`, with `photo` linked: equal photographs share it. Position i of the table is picture i.
        size: side of the pictures, in pixels.
        fingerprint: of the full-size files that it was made from.
        synthetic: made from drawn photographs.
    """

    folder: Path
    table: pd.DataFrame
    size: int
    fingerprint: str
    synthetic: bool
    photographs: np.ndarray
    packed_masks: np.ndarray
    mask_positions: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def grades(self) -> np.ndarray:
        """int64 (N,), -1 where unknown."""
        return self.table.grade.fillna(-1).to_numpy(np.int64)

    def image(self, position: int) -> np.ndarray:
        """RGB, uint8 (size, size, 3)."""
        return np.asarray(self.photographs[position])

    def has_mask(self, position: int) -> bool:
        """Were the lesions of this photograph drawn (part A)?"""
        return self.mask_positions[position] >= 0

    def mask(self, position: int) -> np.ndarray:
        """uint8 0/1 (5, size, size), channels in the order of `LESIONS`.

        Raises:
            DataError: nobody drew the lesions of this photograph.
        """
        if not self.has_mask(position):
            row = self.table.iloc[position]
            raise DataError(f"{row.part} {row.split} {row['name']} has no masks: part B of IDRiD is graded only")
        return ((self.packed_masks[self.mask_positions[position]][None] & _BITS) > 0).astype(np.uint8)

    @classmethod
    def open(cls, folder: str | Path) -> WorkingCopy:
        """Open a finished working copy.

        Raises:
            DataError: there is none in `folder`, or its files do not have the length that it should.
        """
        folder = Path(folder)
        if not (folder / ABOUT).exists():
            raise DataError(f"{folder} holds no finished working copy. Make one with 'mtl data prepare'.")
        about = json.loads((folder / ABOUT).read_text())
        table = pd.DataFrame(about["table"])
        table[["grade", "dme"]] = table[["grade", "dme"]].astype("Int64")
        size, with_mask = about["size"], (table.part == "A").to_numpy()
        shapes = {PHOTOGRAPHS: (len(table), size, size, 3), MASKS: (int(with_mask.sum()), size, size)}
        for name, shape in shapes.items():
            if (folder / name).stat().st_size != np.prod(shape):
                raise DataError(f"{folder / name} has not the length it should: delete {folder} and prepare again")
        return cls(
            folder, table, size, about["fingerprint"], about["synthetic"],
            photographs=np.memmap(folder / PHOTOGRAPHS, np.uint8, "r", shape=shapes[PHOTOGRAPHS]),
            packed_masks=np.memmap(folder / MASKS, np.uint8, "r", shape=shapes[MASKS]),
            mask_positions=np.where(with_mask, np.cumsum(with_mask) - 1, -1),
        )  # fmt: skip


def _whole_rows(path: Path, row_bytes: int) -> int:
    return path.stat().st_size // row_bytes if path.exists() else 0


def _rows_done(part: Path, table: pd.DataFrame, size: int) -> int:
    """How many photographs of an interrupted run are whole, masks included; the rest of the files is cut off."""
    done = min(_whole_rows(part / PHOTOGRAPHS, size * size * 3), len(table))
    masks_before = (table.part == "A").cumsum().to_numpy()
    masks = _whole_rows(part / MASKS, size * size)
    while done and masks_before[done - 1] > masks:
        done -= 1
    for name, length in ((PHOTOGRAPHS, done * size * size * 3), (MASKS, (masks_before[done - 1] if done else 0) * size * size)):
        with open(part / name, "ab") as file:
            file.truncate(length)
    return done


def _prepared(table: pd.DataFrame, size: int, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Prepare rows on all cores, in order, with only a few full-size photographs in memory at a time."""
    # Pillow and OpenCV let go of the interpreter lock while they work.
    rows = list(table.itertuples())
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(rows), 2 * workers):
            yield from pool.map(lambda row: prepare_row(row, size), rows[start : start + 2 * workers])


def prepare(
    root: str | Path,
    size: int = 512,
    out: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> WorkingCopy:
    """Make the working copy of a data set, or open it where it is already made.

    Args:
        root: a folder that `read_idrid` reads.
        size: side of the square pictures, in pixels.
        out: where to put it; None: in the cache, under the data's fingerprint.
        workers: photographs prepared at a time; None: one per core.
        progress: show a bar.

    A run that was killed goes on where it stopped and ends with the same bytes. Until it is whole, the copy lies in a folder
    `....part`, which nothing reads.

    Raises:
        DataError: the data set is not whole, a file cannot be read, `size` is not sensible, or the disk is full.
    """
    if not 16 <= size <= 4096:
        raise DataError(f"size is {size} px: give a side between 16 and 4096")
    table = read_idrid(root)
    mark = fingerprint(table)
    out = Path(out) if out else cache_dir() / f"working-copy-{mark}-{size}-v{FORMAT}"
    part = out.with_name(f"{out.name}-{mark}-{size}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")):  # two notebooks that start together: the second waits, then opens
            return _prepare(table, mark, is_synthetic(root), size, out, part, workers or os.cpu_count() or 1, progress)
    except OSError as error:
        free = shutil.disk_usage(next(path for path in out.parents if path.exists())).free / 1e6
        raise DataError(f"cannot write {part}: {error.strerror or error} ({free:.0f} MB free). Run again to go on.") from error


def _prepare(
    table: pd.DataFrame, mark: str, synthetic: bool, size: int, out: Path, part: Path, workers: int, progress: bool
) -> WorkingCopy:
    if (out / ABOUT).exists():
        copy = WorkingCopy.open(out)
        if (copy.fingerprint, copy.size) != (mark, size):
            raise DataError(f"{out} is the working copy of other data or another size. Give another folder, or delete it.")
        return copy
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} exists and is no working copy: nothing was written. Give another folder.")

    part.mkdir(exist_ok=True)
    linked = link_photographs(table, thumbnails(table.image, progress=progress))
    done = _rows_done(part, table, size)
    with open(part / PHOTOGRAPHS, "ab", buffering=0) as pictures, open(part / MASKS, "ab", buffering=0) as masks:
        rows = _prepared(table.iloc[done:], size, workers)
        for picture, packed in tqdm(rows, total=len(table), initial=done, desc=f"working copy {size} px", disable=not progress):
            if packed is not None:
                masks.write(packed.tobytes())
            pictures.write(picture.tobytes())
    _write_about(part / ABOUT, linked, synthetic, size, mark)
    if out.exists():
        out.rmdir()
    part.rename(out)
    return WorkingCopy.open(out)


def _write_about(path: Path, linked: pd.DataFrame, synthetic: bool, size: int, mark: str) -> None:
    table = linked.astype(object).where(linked.notna(), None)
    about = {
        "format": FORMAT,
        "size": size,
        "fingerprint": mark,
        "synthetic": synthetic,
        "table": table.to_dict(orient="list"),
    }
    path.write_text(json.dumps(about, indent=1, default=int))
