"""DDR, a Chinese set with grades and with masks (Li et al., Information Sciences 501, 2019), as published.

One half, DR_grading, has 13,673 photographs and a list of grades for each split; the other,
lesion_segmentation, has 757 photographs and masks of four lesions. Either half may be absent. `read_ddr`
gives the table of `read_idrid`. Nobody drew the optic disc in DDR: there it is unknown, not absent.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mtl_utils.data.layout import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    as_table,
    existing_folder,
    files_by_stem,
    find_folder,
    match_labels,
    whole,
)
from mtl_utils.errors import DataError
from mtl_utils.lesions import DISEASE_LESIONS, GRADES

DDR = "DDR"
HALVES = {"A": "lesion_segmentation", "B": "DR_grading"}
SPLIT_FOLDERS = {"train": "train", "val": "valid", "test": "test"}
LABEL_FOLDERS = ("label", "segmentation label")
"""Where the masks of a split lie; the second is the name in 'valid'."""

UNGRADABLE = 5
"""The grade of a photograph that nobody could grade. It is left out of the table."""

LISTED = {str(grade): grade for grade in (*GRADES, UNGRADABLE)}
"""What may stand in a list -> the grade."""


def scan_list(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read one list of grades, 'name.jpg grade' on each line, and list what is wrong in it.

    Returns:
        Columns `name` (without suffix) and `grade` (0-5, missing where it is wrong), one row per photograph;
        and one line per problem.

    Raises:
        DataError: the list cannot be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable list ({error}). Unpack DDR again.") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DataError(f"{path} has no rows. Unpack DDR again.")
    labels: dict[str, int | None] = {}
    problems = []
    for number, words in rows:
        where = f"{path}, line {number}"
        if len(words) != 2:
            problems.append(
                f"{where}: {' '.join(words)!r}, expected a photograph and its grade. Copy the list again."
            )
            continue
        name, grade = Path(words[0]).stem, LISTED.get(words[1])
        if grade is None:
            expected = f"expected 0 to {GRADES[-1]}, or {UNGRADABLE} for ungradable"
            problems.append(f"{where}: {name} has grade {words[1]!r}, {expected}. Copy the list again.")
        if labels.setdefault(name, grade) != grade:
            problems.append(f"{where}: {name} stands there twice, with different grades. Keep the right row.")
    table = pd.DataFrame({"name": list(labels), "grade": pd.array(list(labels.values()), dtype="Int64")})
    return table, problems


def _grading(folder: Path, problems: list[str]) -> list[dict]:
    rows = []
    for split, name in SPLIT_FOLDERS.items():
        photographs = files_by_stem(folder / name, IMAGE_SUFFIXES, problems)
        if not photographs:
            problems.append(f"{folder / name}: no photographs there. Unpack DDR again.")
            continue
        labels = match_labels(folder / f"{name}.txt", scan_list, photographs, problems)
        labels = labels.reindex(columns=["name", "grade"])
        for row in labels[labels.grade.ne(UNGRADABLE).fillna(True)].to_dict("records"):
            rows.append({"part": "B", "split": split, "image": photographs[row["name"]], **row})
    return rows


def _segmentation(folder: Path, problems: list[str]) -> list[dict]:
    rows = []
    for split, name in SPLIT_FOLDERS.items():
        photographs = files_by_stem(folder / name / "image", IMAGE_SUFFIXES, problems)
        if not photographs:
            problems.append(f"{folder / name / 'image'}: no photographs there. Unpack DDR again.")
            continue
        there = (folder / name / label for label in LABEL_FOLDERS if (folder / name / label).is_dir())
        labels = next(there, folder / name / LABEL_FOLDERS[0])
        masks = {
            lesion: files_by_stem(labels / lesion, MASK_SUFFIXES, problems) for lesion in DISEASE_LESIONS
        }
        for lesion, files in masks.items():
            if not files:
                problems.append(f"{labels / lesion}: no masks there. Unpack DDR again.")
            problems += [
                f"{path}: a mask without its photograph. Copy that again, or delete the mask."
                for stem, path in files.items()
                if stem not in photographs
            ]
        for stem, path in photographs.items():
            own = {lesion: files.get(stem) for lesion, files in masks.items()}
            rows.append({"part": "A", "split": split, "name": stem, "image": path, **own})
    return rows


def _half(root: Path, part: str) -> Path | None:
    return find_folder(root, HALVES[part])


def holds_ddr(root: Path) -> bool:
    """Is one half of DDR in this folder, or up to two folders deeper?"""
    return any(_half(root, part) for part in HALVES)


def scan_ddr(root: str | Path, parts: str = "AB") -> tuple[pd.DataFrame, list[str]]:
    """As `read_ddr`, but what is wrong is listed, one line per problem, instead of stopping there.

    Args:
        root: the folder that holds one half or both.
        parts: 'A' (masks), 'B' (grades) or both; of both, one may be absent.

    Raises:
        DataError: `root` is no folder.
    """
    root = existing_folder(root, " or ".join(f"'{name}'" for name in HALVES.values()))
    read = {"A": _segmentation, "B": _grading}
    halves = {part: folder for part in parts if (folder := _half(root, part))}
    rows, problems = [], []
    if not halves:
        names = " and ".join(HALVES[part] for part in parts)
        problems.append(f"{root}: {names} absent. Unpack DDR there, or give the folder that holds it.")
    for part, folder in halves.items():
        rows += read[part](folder, problems)
    return as_table(rows), problems


def read_ddr(root: str | Path) -> pd.DataFrame:
    """One row per photograph of DDR: part 'A' with masks, part 'B' with a grade.

    Args:
        root: the folder that holds 'DR_grading', 'lesion_segmentation' or both ('DDR-dataset' in the
            published archive).

    Returns:
        The table of `read_idrid`, with the official splits 'train', 'val' and 'test'. Photographs that nobody
        could grade are left out. DDR has a mask file for each lesion of each photograph: where there is no
        such lesion, nothing is drawn in it. A file that is missing means the same. `OD` is always None: the
        disc is unknown, see `sets.LAYOUTS`.

    Raises:
        DataError: anything is missing or out of range; `problems` has a line per file.
    """
    return whole(root, DDR, *scan_ddr(root))


def count_ungradable(root: str | Path) -> dict[str, int]:
    """Split -> photographs with the grade `UNGRADABLE`, which `read_ddr` leaves out; empty without that half.

    A list that cannot be read counts none; `scan_ddr` names it.
    """
    folder = _half(Path(root).expanduser(), "B")
    if folder is None:
        return {}
    counts = dict.fromkeys(SPLIT_FOLDERS, 0)
    for split, name in SPLIT_FOLDERS.items():
        try:
            table, _ = scan_list(folder / f"{name}.txt")
        except DataError:
            continue
        counts[split] = int((table.grade == UNGRADABLE).sum())
    return counts
