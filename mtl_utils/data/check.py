"""Is a copy of a data set whole, and what is in it? Every file is opened and read to its end, and nothing
stops at the first problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd
from PIL import ImageOps
from tqdm.auto import tqdm

from mtl_utils.data.duplicates import (
    conflicting,
    empty_thumbnails,
    link_photographs,
    pairs_between,
    thumbnail,
)
from mtl_utils.data.fov import field_of_view
from mtl_utils.data.idrid import DME_RISKS, open_picture, read_mask_values
from mtl_utils.data.sets import IDRID, LAYOUTS, layout_of
from mtl_utils.errors import DataError
from mtl_utils.lesions import GRADES, LESIONS
from mtl_utils.runtime import is_synthetic

SPLIT_WORDS = {"train": "training", "val": "validation", "test": "testing"}
MASK_VALUES = 2  # a mask tells lesion from no lesion

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Report:
    """What `check` found. Every number is counted on this copy.

    Attributes:
        root: the folder that was checked.
        synthetic: it was drawn by this course.
        table: a row for every photograph that is there, as from `scan_idrid`; equal photographs share
            `photo`.
        problems: one line for each thing that is wrong, naming the file and what to do. Empty: the copy is
            whole.
        layout: one of `sets.LAYOUTS`.
        ungradable: split -> photographs that are left out because nobody could grade them (DDR).
    """

    root: Path
    synthetic: bool
    table: pd.DataFrame
    problems: list[str]
    layout: str = IDRID
    ungradable: dict[str, int] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """'train', 'test', and 'val' between them where the set has an official validation split."""
        validated = (self.table.split == "val").any()
        return tuple(split for split in SPLIT_WORDS if split != "val" or validated)

    def photographs(self) -> pd.DataFrame:
        """Number of photographs: rows 'A' and 'B', columns by split."""
        return self._counts(self.table, "part", ("A", "B"))

    def masks(self) -> pd.DataFrame:
        """Number of masks in which something is drawn: rows by lesion, columns by split."""
        drawn = self.table.melt("split", list(LESIONS), var_name="lesion").dropna(subset="value")
        return self._counts(drawn, "lesion", LESIONS)

    def grades(self) -> pd.DataFrame:
        """Number of photographs of part B: rows by grade, columns by split."""
        return self._counts(self.table[self.table.part == "B"], "grade", GRADES)

    def dme_risks(self) -> pd.DataFrame:
        """Number of photographs of part B: rows by risk of macular oedema, columns by split."""
        return self._counts(self.table[self.table.part == "B"], "dme", DME_RISKS)

    def _counts(self, table: pd.DataFrame, column: str, values: Iterable) -> pd.DataFrame:
        """How often each value stands in a column, by split."""
        known = table.dropna(subset=column)
        counts = known.groupby([column, "split"]).size().unstack(fill_value=0)
        return counts.reindex(index=list(values), columns=self.splits, fill_value=0).fillna(0).astype(int)

    def in_both_parts(self) -> pd.DataFrame:
        """Number of photographs that are in part A and in part B: rows by split in A, columns by split in B.

        Photographs are counted, not pairs of files: one that part B holds twice in one split counts once.
        """
        pairs = pairs_between(self.table, "A", "B").drop_duplicates(["photo", "split_left", "split_right"])
        counts = pd.crosstab(pairs.split_left, pairs.split_right)
        return counts.reindex(index=self.splits, columns=self.splits, fill_value=0).astype(int)

    def duplicate_pairs(self, part: str) -> pd.DataFrame:
        """Pairs of files inside part 'A' or 'B' that show one photograph, from `pairs_between`."""
        return pairs_between(self.table, part, part)

    def text(self) -> str:
        """The report for people: a few lines of plain words and numbers, then the problems."""
        kind = self.layout
        if self.synthetic:
            kind = f"SYNTHETIC set, drawn by this course, in the layout of {self.layout}"
        counted = list(self._lines())
        width = max(54, *(len(left) + 2 for left, right in counted if right))
        lines = [
            f"{kind}: {self.root}",
            "",
            *(f"{left:<{width}}{right}".rstrip() for left, right in counted),
        ]
        if self.problems:
            return "\n".join(
                [*lines, "", f"Problems ({len(self.problems)}):", *(f"  - {line}" for line in self.problems)]
            )
        return "\n".join([*lines, "", "Every file was read to its end. No problem found."])

    def _lines(self) -> Iterable[tuple[str, str]]:
        layout = LAYOUTS[self.layout]
        photographs, splits = self.photographs(), "/".join(SPLIT_WORDS[split] for split in self.splits)
        both = layout.parts == "AB"
        if "A" in layout.parts:
            yield f"{'part A (masks), ' if both else ''}{splits} photographs", _slashed(photographs.loc["A"])
            yield from self._by_split(f"masks of {'/'.join(layout.drawn)}", self.masks().loc[[*layout.drawn]])
        if "B" in layout.parts:
            yield f"{'part B (grades), ' if both else ''}{splits} photographs", _slashed(photographs.loc["B"])
            yield from self._by_split("photographs of grade 0/1/2/3/4", self.grades())
        if self.layout == IDRID:
            yield from self._by_split("photographs of DME risk 0/1/2", self.dme_risks())
        if self.ungradable:
            yield (
                f"  {splits} photographs left out as ungradable",
                _slashed(self.ungradable[split] for split in self.splits),
            )
        yield "", ""
        yield "The same photograph in several files (pictures compared):", ""
        if both:
            yield from self._in_both_parts()
            yield from self._duplicates("A", "  duplicate pairs inside part A", only_if_any=True)
            yield from self._duplicates("B", "  duplicate pairs inside part B")
        else:
            yield from self._duplicates(layout.parts, "  duplicate pairs")

    def _by_split(self, title: str, counts: pd.DataFrame) -> Iterable[tuple[str, str]]:
        for split in self.splits:
            yield f"  {SPLIT_WORDS[split]} {title}", _slashed(counts[split])

    def _in_both_parts(self) -> Iterable[tuple[str, str]]:
        both = self.in_both_parts()
        number = pairs_between(self.table, "A", "B").photo.nunique()
        yield "  photographs in both parts", str(number)
        if "val" in self.splits:
            yield "    across the splits", str(both.to_numpy().sum() - np.trace(both))
        else:
            leaks = f"{both.loc['test', 'train']} + {both.loc['train', 'test']}"
            yield "    across the splits (testing in A + testing in B)", leaks

    def _duplicates(self, part: str, title: str, only_if_any: bool = False) -> Iterable[tuple[str, str]]:
        pairs = self.duplicate_pairs(part)
        if len(pairs) or not only_if_any:
            yield title, str(len(pairs))
            yield "    across the splits", str((pairs.split_left != pairs.split_right).sum())
            yield "    with different labels", str(conflicting(pairs).sum())


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


def _check_mask(path: str, photograph: str | None, may_be_empty: bool) -> bool:
    """Is something drawn in a mask? It is read whole, and its size compared with its photograph's, where that
    could be read.

    Raises:
        DataError: the mask cannot be read, has another size, is no two-valued picture, is lesion all over, or
            shows nothing although it may not.
    """
    values = read_mask_values(path)
    # calcHist works without a copy; numpy's unique would sort twelve million pixels.
    present = int(np.count_nonzero(cv2.calcHist([values], [0], None, [256], [0, 256])))
    if present > MASK_VALUES:
        raise DataError(
            f"{path}: holds {present} values, a mask has {MASK_VALUES}: a photograph, or saved with loss. "
            "Copy it again from the published archive."
        )
    empty = present == 1 and not values.flat[0]
    if present == 1 and not (empty and may_be_empty):
        drawn = "nothing is drawn in it" if empty else "the whole picture is lesion"
        raise DataError(f"{path}: {drawn}. Copy it again; where there is no such lesion there is no file.")
    if photograph is None:
        return not empty
    with open_picture(photograph) as image:
        width, height = ImageOps.exif_transpose(image).size
    if values.shape != (height, width):
        raise DataError(
            f"{path}: {values.shape[1]} x {values.shape[0]} pixels, its photograph {Path(photograph).name} "
            f"{width} x {height}. Copy both from one archive."
        )
    return not empty


def check(root: str | Path, progress: bool = True) -> Report:
    """Read every file of a data set and report what is there, what is wrong, and what is there twice.

    Looked for: missing parts, folders and files, labels out of range, rows without photographs and
    photographs without rows, files that cannot be read to their end, photographs without a field of view,
    masks of another size than their photograph or that are no masks, and the same photograph in several
    files. It takes a quarter of a minute for IDRiD on two cores.

    Args:
        root: a folder in any layout of `sets.LAYOUTS`.
        progress: show bars on stderr.

    Raises:
        DataError: `root` is no folder, or has no such layout. Everything else is told in the report.
    """
    layout = layout_of(root)
    table, problems = layout.scan(root, layout.parts)
    thumbs = empty_thumbnails(len(table))

    def check_photograph(position: int) -> None:
        thumbs[position] = _checked_thumbnail(table.image[position])

    photographs = _in_threads(check_photograph, list(table.index), "photographs", progress)
    unreadable = {row for row, result in enumerate(photographs) if isinstance(result, DataError)}

    def check_mask(place: tuple[int, str]) -> bool:
        row, lesion = place
        photograph = None if row in unreadable else table.image[row]
        return _check_mask(table.at[row, lesion], photograph, layout.empty_masks)

    masks = [(row, lesion) for row in table.index for lesion in LESIONS if table.at[row, lesion] is not None]
    drawn = _in_threads(check_mask, masks, "masks", progress and bool(masks))
    problems = problems + [str(found) for found in (*photographs, *drawn) if isinstance(found, DataError)]
    for (row, lesion), something in zip(masks, drawn):
        if something is False:
            table.loc[row, lesion] = None
    linked = table if table.empty else link_photographs(table, thumbs)
    return Report(Path(root), is_synthetic(root), linked, problems, layout.name, layout.left_out(root))
