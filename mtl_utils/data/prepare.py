"""The working copy: full-size files -> small pictures that load in no time.

Decoding one 4288 x 2848 photograph and its five masks takes most of a second, longer than a training step. So
it is done once: each photograph is cropped to its field of view, padded to a square, shrunk, and appended to
one flat file that is then memory-mapped. Photographs are stored in the table's order, so a killed run goes on
after the last whole one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from mtl_utils.data.duplicates import link_photographs, thumbnails
from mtl_utils.data.fov import crop_square, field_of_view
from mtl_utils.data.idrid import read_mask, read_photograph
from mtl_utils.data.layout import typed
from mtl_utils.data.sets import (
    GRADED_PREFIX,
    IDRID,
    LAYOUTS,
    MASKED_PREFIX,
    layout_of,
    read_graded,
    read_masked,
    read_set,
    with_graded,
    with_masked,
)
from mtl_utils.errors import DataError, MTLError
from mtl_utils.lesions import LESION_NAMES, LESIONS
from mtl_utils.runtime import cache_dir, is_synthetic, usable_cores

FORMAT = 1  # raise when the files below change their meaning
PHOTOGRAPHS, MASKS, ABOUT = "photographs.u8", "masks.u8", "about.json"
UNFINISHED = ".part"  # how the name of a folder ends until its copy is whole
_BITS = (1 << np.arange(len(LESIONS), dtype=np.uint8)).reshape(-1, 1, 1)


def lesion_bit(lesion: str) -> int:
    """The bit of a lesion in a byte of `WorkingCopy.packed_mask`."""
    return 1 << LESIONS.index(lesion)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Bits (H, W) -> uint8 0/1 (5, H, W), channels in the order of `LESIONS`."""
    return ((packed[None] & _BITS) > 0).astype(np.uint8)


def fingerprint(table: pd.DataFrame) -> str:
    """Sixteen hex digits that change when any photograph, mask or label of a data set changes.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for row in table.itertuples():
        digest.update(
            f"{row.part}/{row.split}/{row.name}/{row.grade}/{row.dme}".encode(errors="surrogateescape")
        )
        for column in ("image", *LESIONS):
            path = getattr(row, column)
            try:
                digest.update(Path(path).read_bytes() if pd.notna(path) else b"-")
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}). Copy it again.") from error
    return digest.hexdigest()[:16]


def shrink(square: np.ndarray, size: int) -> np.ndarray:
    """Area-average a square picture to (size, size); of a mask, pixels set by half or more stay set."""
    if square.dtype == bool:
        return shrink(square.astype(np.uint8) * 255, size) >= 128
    return cv2.resize(
        square, (size, size), interpolation=cv2.INTER_AREA if size < len(square) else cv2.INTER_CUBIC
    )


def prepare_row(row, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """One photograph, uint8 (size, size, 3), and in part A its masks as bits of one byte, uint8 (size, size).

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
                raise DataError(
                    f"{path} is {mask.shape}, its photograph {row.image} is {photograph.shape[:2]}. Copy "
                    "both from one archive."
                )
            packed |= shrink(crop_square(mask, fov), size).astype(np.uint8) << bit
    return picture, packed


@dataclass(frozen=True)
class WorkingCopy:
    """Small square pictures of a whole data set, memory-mapped.

    Attributes:
        folder: where it lies.
        table: as from `read_set`, with `photo` linked: equal photographs share it. Position i of the table
            is picture i.
        size: side of the pictures, in pixels.
        fingerprint: of the full-size files that it was made from.
        synthetic: made from drawn photographs.
        sets: names in `sets.LAYOUTS` of the sets with masks: the main one, then the further one, if any.
    """

    folder: Path
    table: pd.DataFrame
    size: int
    fingerprint: str
    synthetic: bool
    photographs: np.ndarray
    packed_masks: np.ndarray
    mask_positions: np.ndarray
    sets: tuple[str, ...] = (IDRID,)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def label(self) -> str:
        """How records name the data: 'IDRiD', 'synthetic set', 'IDRiD + DiaRetDB1', 'IDRiD + graded set'."""
        main, *masked = self.sets
        graded = ["graded set"] if self.table.name.str.startswith(GRADED_PREFIX).any() else []
        return " + ".join(["synthetic set" if self.synthetic else main, *masked, *graded])

    def unknown_lesions(self, rows: Sequence[int] | None = None) -> tuple[str, ...]:
        """The lesions that the authors of some photograph with masks did not draw, in the order of `LESIONS`.

        Their channel of `mask` is 0 there, and that does not mean that there are none.

        Args:
            rows: positions in the table; None: all.
        """
        table = self.table if rows is None else self.table.iloc[rows]
        further = table.name[table.part == "A"].str.startswith(MASKED_PREFIX)
        used = {self.sets[int(place)] for place in further.unique()}
        return tuple(name for name in LESIONS if any(name not in LAYOUTS[one].drawn for one in used))

    def require_lesions(self, needed: Collection[str], rows: Sequence[int] | None = None) -> None:
        """Refuse to be used where a needed lesion is unknown.

        Args:
            needed: lesions, such as those of a label space's groups.
            rows: positions in the table that are to be used; None: all.

        Raises:
            MTLError: some of these photographs have masks without one of them.
        """
        missing = [LESION_NAMES[name] for name in self.unknown_lesions(rows) if name in needed]
        if missing:
            raise MTLError(
                f"{self.label}: not all photographs with masks say where the {' and the '.join(missing)} is. "
                "Take the label space 'fused' or 'separate', which leave it out, or IDRiD, which has it."
            )

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
        return unpack(self.packed_mask(position))

    def packed_mask(self, position: int) -> np.ndarray:
        """The same as bits of one byte, uint8 (size, size): see `lesion_bit`.

        Raises:
            DataError: nobody drew the lesions of this photograph.
        """
        if not self.has_mask(position):
            row = self.table.iloc[position]
            raise DataError(f"{row.part} {row.split} {row['name']} has no masks: part B is graded only")
        return self.packed_masks[self.mask_positions[position]]

    @classmethod
    def open(cls, folder: str | Path) -> WorkingCopy:
        """Open a finished working copy.

        Raises:
            DataError: there is none in `folder`, or it is damaged, or another version of the course made it.
        """
        folder = Path(folder).expanduser()
        if folder.name.endswith(UNFINISHED) or not (folder / ABOUT).exists():
            raise DataError(f"{folder} holds no finished working copy. Make one with 'mtl data prepare'.")
        remedy = f"Delete {folder} and prepare again."
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{folder / ABOUT} is damaged ({error}). {remedy}") from error
        if about.get("format") != FORMAT:
            raise DataError(f"{folder} was made by another version of the course. {remedy}")
        table = typed(pd.DataFrame(about["table"]))
        size, with_mask = about["size"], (table.part == "A").to_numpy()
        shapes = {PHOTOGRAPHS: (len(table), size, size, 3), MASKS: (int(with_mask.sum()), size, size)}
        for name, shape in shapes.items():
            length, expected = _length(folder / name), int(np.prod(shape))
            if length != expected:
                raise DataError(f"{folder / name} has {length} bytes instead of {expected}. {remedy}")
        return cls(
            folder, table, size, about["fingerprint"], about["synthetic"],
            photographs=_mapped(folder / PHOTOGRAPHS, shapes[PHOTOGRAPHS]),
            packed_masks=_mapped(folder / MASKS, shapes[MASKS]),
            mask_positions=np.where(with_mask, np.cumsum(with_mask) - 1, -1),
            sets=tuple(about.get("sets", (IDRID,))),  # copies made before other sets were read do not say
        )  # fmt: skip


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A file as an array that is read where it is looked at. An empty file, as of masks where all photographs
    are graded only, cannot be mapped.
    """
    return np.memmap(path, np.uint8, "r", shape=shape) if np.prod(shape) else np.zeros(shape, np.uint8)


def _length(path: Path) -> int:
    """Bytes in a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _rows_done(part: Path, table: pd.DataFrame, size: int) -> int:
    """How many photographs of an interrupted run are whole, masks included; what is not is cut off."""
    picture_bytes, mask_bytes = size * size * 3, size * size
    masks_until = np.concatenate(
        [[0], (table.part == "A").cumsum()]
    )  # masks of the first 0, 1, 2, ... photographs
    done = min(_length(part / PHOTOGRAPHS) // picture_bytes, len(table))
    while masks_until[done] > _length(part / MASKS) // mask_bytes:
        done -= 1
    for name, length in ((PHOTOGRAPHS, done * picture_bytes), (MASKS, masks_until[done] * mask_bytes)):
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
    graded: str | Path | None = None,
    masked: str | Path | None = None,
) -> WorkingCopy:
    """Make the working copy of a data set, or open it where it is already made.

    Args:
        root: a folder that `read_set` reads: IDRiD, DDR or DiaRetDB1.
        size: side of the square pictures, in pixels.
        out: where to put it; None: in the cache, under the data's fingerprint.
        workers: photographs prepared at a time; None: one per core.
        progress: show a bar.
        graded: a folder that `read_graded` reads; its photographs are added for training.
        masked: a folder that `read_masked` reads; its photographs are added for training.

    A run that was killed goes on where it stopped and ends with the same bytes. Until it is whole, the copy
    lies in a folder `....part`, which nothing reads.

    Raises:
        DataError: the data set is not whole, a file cannot be read, `size` is not sensible, or the disk is
            full.
    """
    if not 16 <= size <= 4096:
        raise DataError(f"size is {size} px: give a side between 16 and 4096")
    table, sets = read_set(root), [layout_of(root).name]
    if masked is not None:
        table = with_masked(table, read_masked(masked))
        sets.append(layout_of(masked).name)
    if graded is not None:
        table = with_graded(table, read_graded(graded))
    synthetic = any(is_synthetic(folder) for folder in (root, masked, graded) if folder is not None)
    mark = fingerprint(table)
    out = Path(out).expanduser().resolve() if out else cache_dir() / f"working-copy-{mark}-{size}-v{FORMAT}"
    part = out.with_name(f"{out.name}.{mark}-{size}-v{FORMAT}{UNFINISHED}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            part.with_suffix(".lock")
        ):  # two notebooks that start together: the second waits, then opens
            about = {
                "format": FORMAT,
                "size": size,
                "fingerprint": mark,
                "synthetic": synthetic,
                "sets": sets,
            }
            return _prepare(table, about, out, part, workers or usable_cores(), progress)
    except OSError as error:
        free = shutil.disk_usage(next(path for path in out.parents if path.exists())).free / 1e6
        raise DataError(
            f"cannot write {part}: {error.strerror or error} ({free:.0f} MB free on that disk). "
            "Make room, or give another folder; run again to go on."
        ) from error


def _prepare(
    table: pd.DataFrame, about: dict, out: Path, part: Path, workers: int, progress: bool
) -> WorkingCopy:
    size = about["size"]
    if (out / ABOUT).exists():
        copy = WorkingCopy.open(out)
        if (copy.fingerprint, copy.size) != (about["fingerprint"], size):
            raise DataError(
                f"{out} is the working copy of other data or another size. Give another folder, or delete it."
            )
        return copy
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is no working copy: nothing was written. Give another folder.")

    part.mkdir(exist_ok=True)
    linked = link_photographs(table, thumbnails(table.image, progress=progress))
    if any(LAYOUTS[name].empty_masks for name in about["sets"]):
        linked = _drawn_only(linked, workers, progress)
    done = _rows_done(part, table, size)
    rows = _prepared(table.iloc[done:], size, workers)
    bar = tqdm(rows, total=len(table), initial=done, desc=f"working copy {size} px", disable=not progress)
    with open(part / PHOTOGRAPHS, "ab") as pictures, open(part / MASKS, "ab") as masks:
        for picture, packed in bar:
            if packed is not None:
                masks.write(packed.tobytes())
                masks.flush()  # a kill then costs the photographs at work, not a buffer full
            pictures.write(picture.tobytes())
            pictures.flush()
    _write_about(part / ABOUT, linked, about)
    if out.exists():
        out.rmdir()
    part.rename(out)
    return WorkingCopy.open(out)


def _drawn_only(table: pd.DataFrame, workers: int, progress: bool) -> pd.DataFrame:
    """A mask file in which nothing is drawn becomes None, as where there is no file: no such lesion.

    Looked up at full size, since in a small copy a lesion of few pixels is gone.
    """
    table = table.copy()
    places = [(row, lesion) for lesion in LESIONS for row in table.index[table[lesion].notna()]]
    with ThreadPoolExecutor(workers) as pool:
        drawn = pool.map(lambda place: read_mask(table.at[place]).any(), places)
        for place, some in zip(places, tqdm(drawn, "masks", len(places), disable=not progress), strict=True):
            if not some:
                table.at[place] = None
    return table


def _write_about(path: Path, linked: pd.DataFrame, about: dict) -> None:
    table = linked.astype(object).where(linked.notna(), None).to_dict(orient="list")
    path.write_text(json.dumps({**about, "table": table}, indent=1, default=int), encoding="utf-8")


class ReadingTimes(NamedTuple):
    """Median seconds to read one photograph with its five masks."""

    full_size: float
    working_copy: float

    @property
    def ratio(self) -> float:
        """How many times faster the working copy is."""
        return self.full_size / self.working_copy


def reading_times(copy: WorkingCopy, table: pd.DataFrame, n: int = 5) -> ReadingTimes:
    """Measure what the working copy saves: the first `n` photographs with masks, read from both.

    Args:
        copy: a working copy.
        table: from `read_set`, of the full-size files that `copy` was made from.
        n: how many photographs.
    """
    seconds = []
    for position in np.flatnonzero(table.part == "A")[:n]:
        row = table.iloc[position]
        start = time.perf_counter()
        for picture in (
            read_photograph(row.image),
            *(read_mask(row[name]) for name in LESIONS if pd.notna(row[name])),
        ):
            cv2.resize(picture.astype(np.uint8), (copy.size, copy.size), interpolation=cv2.INTER_AREA)
        middle = time.perf_counter()
        copy.image(position).copy()  # a memory map is read only where it is used
        copy.mask(position)
        seconds.append((middle - start, time.perf_counter() - middle))
    return ReadingTimes(*np.median(seconds, axis=0).tolist())
