"""Is a copy of IDRiD whole, and what is in it? Every file is opened and read to its end, and nothing stops at
the first problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mtl_utils.data.duplicates import conflicting, link_photographs, pairs_between, thumbnail
from mtl_utils.data.fov import field_of_view
from mtl_utils.data.idrid import DME_RISKS, SPLIT_FOLDERS, open_picture, read_mask_values, scan_idrid
from mtl_utils.errors import DataError
from mtl_utils.lesions import GRADES, LESIONS
from mtl_utils.runtime import is_synthetic

SPLITS = tuple(SPLIT_FOLDERS)
MASK_VALUES = 2  # a mask tells lesion from no lesion

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Report:
    """What `check_idrid` found. Every number is counted on this copy.

    Attributes:
        root: the folder that was checked.
        synthetic: it was drawn by this course.
        table: a row for every photograph that is there, as from `scan_idrid`; equal photographs share
            `photo`.
        problems: one line for each thing that is wrong, naming the file and what to do. Empty: the copy is
            whole.
    """

    root: Path
    synthetic: bool
    table: pd.DataFrame
    problems: list[str]

    def photographs(self) -> pd.DataFrame:
        """Number of photographs: rows 'A' and 'B', columns 'train' and 'test'."""
        return _counts(self.table, "part", ("A", "B"))

    def masks(self) -> pd.DataFrame:
        """Number of masks: rows by lesion, columns 'train' and 'test'."""
        drawn = self.table.melt("split", list(LESIONS), var_name="lesion").dropna(subset="value")
        return _counts(drawn, "lesion", LESIONS)

    def grades(self) -> pd.DataFrame:
        """Number of photographs of part B: rows by grade, columns 'train' and 'test'."""
        return _counts(self.table[self.table.part == "B"], "grade", GRADES)

    def dme_risks(self) -> pd.DataFrame:
        """Number of photographs of part B: rows by risk of macular oedema, columns 'train' and 'test'."""
        return _counts(self.table[self.table.part == "B"], "dme", DME_RISKS)

    def in_both_parts(self) -> pd.DataFrame:
        """Number of photographs that are in part A and in part B: rows by split in A, columns by split in B.

        Photographs are counted, not pairs of files: one that part B holds twice in one split counts once.
        """
        pairs = pairs_between(self.table, "A", "B").drop_duplicates(["photo", "split_left", "split_right"])
        counts = pd.crosstab(pairs.split_left, pairs.split_right)
        return counts.reindex(index=SPLITS, columns=SPLITS, fill_value=0).astype(int)

    def duplicate_pairs(self, part: str) -> pd.DataFrame:
        """Pairs of files inside part 'A' or 'B' that show one photograph, from `pairs_between`."""
        return pairs_between(self.table, part, part)

    def text(self) -> str:
        """The report for people: a few lines of plain words and numbers, then the problems."""
        kind = "SYNTHETIC set, drawn by this course, in the layout of IDRiD" if self.synthetic else "IDRiD"
        lines = [
            f"{kind}: {self.root}",
            "",
            *(f"{left:<54}{right}".rstrip() for left, right in self._lines()),
        ]
        if self.problems:
            return "\n".join(
                [*lines, "", f"Problems ({len(self.problems)}):", *(f"  - {line}" for line in self.problems)]
            )
        return "\n".join([*lines, "", "Every file was read to its end. No problem found."])

    def _lines(self) -> Iterable[tuple[str, str]]:
        photographs, masks, grades, dme = self.photographs(), self.masks(), self.grades(), self.dme_risks()
        yield "part A (masks), training/testing photographs", _slashed(photographs.loc["A"])
        for split in SPLITS:
            yield f"  {split}ing masks of {'/'.join(LESIONS)}", _slashed(masks[split])
        yield "part B (grades), training/testing photographs", _slashed(photographs.loc["B"])
        for split in SPLITS:
            yield f"  {split}ing photographs of grade 0/1/2/3/4", _slashed(grades[split])
        for split in SPLITS:
            yield f"  {split}ing photographs of DME risk 0/1/2", _slashed(dme[split])
        yield from self._same_photograph()

    def _same_photograph(self) -> Iterable[tuple[str, str]]:
        both = self.in_both_parts()
        number = pairs_between(self.table, "A", "B").photo.nunique()
        leaks = f"{both.loc['test', 'train']} + {both.loc['train', 'test']}"
        yield "", ""
        yield "The same photograph in several files (pictures compared):", ""
        yield "  photographs in both parts", str(number)
        yield "    across the splits (testing in A + testing in B)", leaks
        for part in ("A", "B"):
            pairs = self.duplicate_pairs(part)
            if len(pairs) or part == "B":
                yield f"  duplicate pairs inside part {part}", str(len(pairs))
                yield "    across the splits", str((pairs.split_left != pairs.split_right).sum())
                yield "    with different labels", str(conflicting(pairs).sum())


def _counts(table: pd.DataFrame, column: str, values: Iterable) -> pd.DataFrame:
    """How often each value stands in a column, by split."""
    known = table.dropna(subset=column)
    counts = known.groupby([column, "split"]).size().unstack(fill_value=0)
    return counts.reindex(index=list(values), columns=SPLITS, fill_value=0).fillna(0).astype(int)


def _slashed(numbers: Iterable[int]) -> str:
    return "/".join(map(str, numbers))


def _in_threads(
    work: Callable[[Item], Result], items: list[Item], title: str, progress: bool
) -> list[Result | DataError]:
    """`work` on every item, in order; where it raises a DataError the error stands in its place."""

    def guarded(item: Item) -> Result | DataError:
        try:
            return work(item)
        except DataError as error:
            return error

    # Pillow and OpenCV let go of the interpreter lock while they work, so threads use every core.
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(guarded, items), total=len(items), desc=title, disable=not progress))


def _checked_thumbnail(path: str) -> np.ndarray:
    thumb = thumbnail(path)
    try:
        field_of_view(thumb.astype(np.uint8))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return thumb


def _check_mask(paths: tuple[str, str | None]) -> None:
    """Read one mask whole, and compare its size with its photograph's, where that could be read.

    Raises:
        DataError: the mask cannot be read, has another size, is no two-valued picture, or shows nothing.
    """
    path, photograph = paths
    values = read_mask_values(path)
    # calcHist works without a copy; numpy's unique would sort twelve million pixels.
    present = int(np.count_nonzero(cv2.calcHist([values], [0], None, [256], [0, 256])))
    if present > MASK_VALUES:
        raise DataError(
            f"{path}: holds {present} values, a mask has {MASK_VALUES}: a photograph, or saved with loss. "
            "Copy it again from the published archive."
        )
    if present == 1:
        drawn = "the whole picture is lesion" if values.flat[0] else "nothing is drawn in it"
        raise DataError(f"{path}: {drawn}. Copy it again; where there is no such lesion there is no file.")
    if photograph is None:
        return
    with open_picture(photograph) as image:
        width, height = image.size
    if values.shape != (height, width):
        raise DataError(
            f"{path}: {values.shape[1]} x {values.shape[0]} pixels, its photograph {Path(photograph).name} "
            f"{width} x {height}. Copy both from one archive."
        )


def check_idrid(root: str | Path, progress: bool = True) -> Report:
    """Read every file of one copy of IDRiD and report what is there, what is wrong, and what is there twice.

    Looked for: missing parts, folders and files, labels out of range, rows without photographs and
    photographs without rows, files that cannot be read to their end, photographs without a field of view,
    masks of another size than their photograph or that are no masks, and the same photograph in several
    files. It takes a quarter of a minute for IDRiD on two cores.

    Args:
        root: the folder that holds 'A. Segmentation' and 'B. Disease Grading'.
        progress: show bars on stderr.

    Raises:
        DataError: `root` is no folder. Everything else is told in the report.
    """
    table, problems = scan_idrid(root)
    thumbs = _in_threads(_checked_thumbnail, table.image.tolist(), "photographs", progress)
    bad = np.array([isinstance(thumb, DataError) for thumb in thumbs], dtype=bool)
    masks = [
        (row[lesion], None if unreadable else row["image"])
        for row, unreadable in zip(table.to_dict("records"), bad)
        for lesion in LESIONS
        if row[lesion] is not None
    ]
    results = _in_threads(_check_mask, masks, "masks", progress)
    problems += [str(found) for found in (*thumbs, *results) if isinstance(found, DataError)]
    return Report(Path(root), is_synthetic(root), _linked(table, thumbs, bad), problems)


def _linked(table: pd.DataFrame, thumbs: list[np.ndarray | DataError], bad: np.ndarray) -> pd.DataFrame:
    """The table with `photo` shared by equal photographs; one that could not be read equals none."""
    if bad.all():
        return table
    readable = link_photographs(
        table[~bad], np.stack([thumb for thumb in thumbs if isinstance(thumb, np.ndarray)])
    )
    linked = table.copy()
    linked.loc[~bad, "photo"] = readable.photo
    return linked
