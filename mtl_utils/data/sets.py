"""Which data set lies in a folder, and what reads it: the one list of all layouts that the course knows.

Also: how a further set is added to the one that a network is judged with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mtl_utils.data.ddr import DDR, count_ungradable, holds_ddr, scan_ddr
from mtl_utils.data.diaretdb1 import DIARETDB1, holds_diaretdb1, scan_diaretdb1
from mtl_utils.data.eyepacs import (
    EYEPACS,
    FOLDER,
    holds_eyepacs,
    holds_graded_folder,
    scan_eyepacs,
    scan_graded_folder,
)
from mtl_utils.data.idrid import holds_idrid, scan_idrid
from mtl_utils.data.layout import as_table, existing_folder, whole
from mtl_utils.errors import DataError
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS

IDRID = "IDRiD"


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        name: of the data set, in reports and records.
        parts: what it has: 'A' masks, 'B' grades, or both.
        drawn: the lesions that its authors drew. For another one a mask of None does not mean 'absent'.
        holds: is it in this folder?
        scan: (folder, parts) -> the table of `read_idrid`, and one line per problem.
        looks: for people: what its folder looks like.
        empty_masks: a mask file in which nothing is drawn says that there is no such lesion.
        left_out: folder -> split -> photographs that the table leaves out, since nobody could grade them.
    """

    name: str
    parts: str
    drawn: tuple[str, ...]
    holds: Callable[[Path], bool]
    scan: Callable[[str | Path, str], tuple[pd.DataFrame, list[str]]]
    looks: str
    empty_masks: bool = False
    left_out: Callable[[str | Path], dict[str, int]] = lambda root: {}


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            EYEPACS, "B", (), holds_eyepacs, lambda root, parts: scan_eyepacs(root),
            "EyePACS: trainLabels.csv and the folder train, as at Kaggle",
        ),
        Layout(
            DDR, "AB", DISEASE_LESIONS, holds_ddr, scan_ddr,
            "DDR: the folders DR_grading and lesion_segmentation, or one of them",
            empty_masks=True, left_out=count_ungradable,
        ),
        Layout(
            IDRID, "AB", LESIONS, holds_idrid, scan_idrid,
            "IDRiD: the folders 'A. Segmentation' and 'B. Disease Grading'",
        ),
        Layout(
            DIARETDB1, "A", DISEASE_LESIONS, holds_diaretdb1, lambda root, parts: scan_diaretdb1(root),
            "DiaRetDB1: ddb1_v02_01_train_plain.txt, images and groundtruth",
        ),
        Layout(
            FOLDER, "B", (), holds_graded_folder, lambda root, parts: scan_graded_folder(root),
            "a folder of your own: photographs, and one CSV file with the columns image and grade",
        ),
    )
}  # fmt: skip
"""By name, in the order in which a folder is compared with them. IDRiD's reader does not mind other names of
folders, and would take DDR's 'segmentation label' for its own: DDR comes first."""

LACKS = {
    "A": "has no masks. Give IDRiD, DDR or DiaRetDB1 here, and this set as the graded one (--graded).",
    "B": "has no grades. Give it as the set with masks (--masked).",
}

GRADED_PREFIX, MASKED_PREFIX = "graded-", "masked-"
"""How the names of a further set's photographs begin."""


def layout_of(root: str | Path) -> Layout:
    """Which layout a folder has.

    Raises:
        DataError: `root` is no folder, or has none of them.
    """
    root = existing_folder(root, "a data set")
    for layout in LAYOUTS.values():
        if layout.holds(root):
            return layout
    raise DataError(
        f"{root} has no layout that the course knows. There are:",
        [layout.looks for layout in LAYOUTS.values()],
    )


def _read(root: str | Path, needed: str, parts: str) -> pd.DataFrame:
    """Those of `parts` that the layout has, of which it must have the `needed` one."""
    layout = layout_of(root)
    if needed not in layout.parts:
        raise DataError(f"{root} ({layout.name}) {LACKS[needed]}")
    there = "".join(part for part in layout.parts if part in parts)
    return whole(root, layout.name, *layout.scan(root, there))


def read_set(root: str | Path) -> pd.DataFrame:
    """All photographs of a set that has masks: IDRiD, DDR or DiaRetDB1.

    Raises:
        DataError: no such layout, anything is missing or out of range, or the set has grades only.
    """
    return _read(root, "A", "AB")


def read_graded(root: str | Path) -> pd.DataFrame:
    """The graded photographs of a folder in any layout that has grades; of IDRiD and DDR part B.

    Raises:
        DataError: no such layout, anything is missing or out of range, or the set has no grades.
    """
    return _read(root, "B", "B")


def read_masked(root: str | Path) -> pd.DataFrame:
    """The photographs with masks of a folder in any layout that has them: part A of IDRiD, DDR or DiaRetDB1.

    Raises:
        DataError: no such layout, anything is missing or out of range, or the set has no masks.
    """
    return _read(root, "A", "A")


def _with(table: pd.DataFrame, further: pd.DataFrame, prefix: str) -> pd.DataFrame:
    names = prefix + further.split + "-" + further.name
    further = further.assign(split="train", name=names)
    return as_table([*table.to_dict("records"), *further.to_dict("records")])


def with_graded(table: pd.DataFrame, graded: pd.DataFrame) -> pd.DataFrame:
    """A table with the graded photographs of a further set, all of them for training.

    That is MTUnet's way: it learns from Kaggle's training and test photographs together.

    Args:
        table: from `read_set`.
        graded: from `read_graded`. Its names become 'graded-train-10_left' and so on, since both sets may
            have a photograph of one name.
    """
    return _with(table, graded, GRADED_PREFIX)


def with_masked(table: pd.DataFrame, masked: pd.DataFrame) -> pd.DataFrame:
    """A table with the masks of a further set, all of them for training, as PLDMLT adds DiaRetDB1 to IDRiD.

    Args:
        table: from `read_set`.
        masked: from `read_masked`. Its names become 'masked-train-diaretdb1_image001' and so on.
    """
    return _with(table, masked, MASKED_PREFIX)
