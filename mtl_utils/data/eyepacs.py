"""Graded sets beside IDRiD: EyePACS in the layout of its Kaggle competition, and any folder with a CSV.

MTUnet learns its grades from EyePACS (1,914 photographs per grade) and is judged on IDRiD and
on a private set, SiDRP (section Performance Study). A set without masks gives the same table as part B of
IDRiD.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mtl_utils.data.idrid import SPLIT_FOLDERS
from mtl_utils.data.layout import (
    IMAGE_SUFFIXES,
    as_table,
    by_stem,
    composed,
    existing_folder,
    files_in,
    folders,
    match_labels,
    read_csv,
    whole,
    whole_numbers,
)
from mtl_utils.errors import DataError
from mtl_utils.lesions import GRADES

EYEPACS, FOLDER = "EyePACS set", "graded folder"
SPLITS = tuple(SPLIT_FOLDERS)

LABEL_FILES = {"train": "trainLabels.csv", "test": "retinopathy_solution.csv"}
PHOTOGRAPH_FOLDERS = {
    split: (split, f"{split}_images", f"resized_{split}", f"{split}_resized", f"resized_{split}_cropped")
    for split in SPLITS
}
"""Names of the folders at Kaggle and in well-known smaller copies, in lower case; the first that is there."""

# Headers are compared without case, spaces, digits and signs: 'Image ID' and 'image_id' are one.
COLUMN_NAMES = {
    "image": ("image", "imageid", "imagename", "idcode", "filename"),
    "grade": ("grade", "level", "diagnosis", "retinopathygrade", "drgrade"),
}


# --- files --------------------------------------------------------------------------------------------------


def _all_photographs(folder: Path) -> list[Path]:
    """The photographs in a folder and in all folders below it."""
    below = [path for inner in folders(folder) for path in _all_photographs(inner)]
    return files_in(folder, IMAGE_SUFFIXES) + below


def _photograph_name(given: str) -> str:
    """The name in a CSV without folders and suffix: 'left/10.JPG' is '10', and '10.5' stays '10.5'."""
    path = Path(given.replace("\\", "/"))
    return composed(path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name)


# --- labels -------------------------------------------------------------------------------------------------


def _column(raw: pd.DataFrame, path: Path, wanted: str) -> pd.Series:
    found = [column for column in raw.columns if re.sub(r"[^a-z]", "", column) in COLUMN_NAMES[wanted]]
    if len(found) != 1:
        number = "more than one column" if found else "no column"
        raise DataError(
            f"{path} has {number} for the {wanted} (its columns: {', '.join(raw.columns)}). "
            "Expected: one column image and one column grade, with a comma between them."
        )
    return raw[found[0]].str.strip()


def scan_grades(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a CSV file of photographs and grades, and list the rows that are wrong instead of stopping there.

    Headers may be any of `COLUMN_NAMES`. A column `split` may say train or test; other columns are ignored.
    An image may stand there with or without folder and suffix. A row that comes twice with the same labels
    counts once.

    Returns:
        Columns `name` (str), `grade` (0-4, missing where it is wrong) and `split` ('train' or 'test'; 'train'
        where the CSV has no such column), one row per photograph; and one line per problem.

    Raises:
        DataError: this is no CSV file, it is empty, or a column is missing or there twice.
    """
    raw = read_csv(path, "Save it as a CSV file in UTF-8, with the columns image and grade.")
    table = pd.DataFrame({wanted: _column(raw, path, wanted) for wanted in COLUMN_NAMES})
    if sum(bool(re.fullmatch(r"split(\.\d+)?", column)) for column in raw.columns) > 1:  # pandas numbers them
        raise DataError(f"{path} has more than one column split. Delete all of them but one.")
    table["split"] = raw["split"].str.strip().str.lower() if "split" in raw else "train"
    table = table.dropna(subset=["image", "grade"], how="all")
    if table.empty:
        raise DataError(f"{path} has no rows. Write one row per photograph: its image and its grade.")
    grades = whole_numbers(table.grade, GRADES).astype(object)
    grades = grades.where(grades.notna(), None)

    labels: dict[str, tuple[int | None, str]] = {}
    problems = []
    for (index, image, given, split), grade in zip(table.fillna("").itertuples(name=None), grades):
        where = f"{path}, line {index + 2}"  # the header stands on line 1
        if not image:
            problems.append(f"{where}: no image. Write its name, or delete the row.")
            continue
        if grade is None:
            expected = f"expected one of {', '.join(map(str, GRADES))}"
            problems.append(
                f"{where}: {image} has grade {given!r}, {expected}. Correct it, or delete row and photograph."
            )
        if split not in SPLITS:
            problems.append(f"{where}: {image} has split {split!r}, expected {' or '.join(SPLITS)}.")
            split = "train"
        name = _photograph_name(image)
        if labels.setdefault(name, (grade, split)) != (grade, split):
            problems.append(f"{where}: {name} stands there twice, with different labels. Keep the right row.")
    rows = [(name, grade, split) for name, (grade, split) in labels.items()]
    return pd.DataFrame(rows, columns=["name", "grade", "split"]).astype({"grade": "Int64"}), problems


def _graded_rows(path: Path, folder: Path, problems: list[str], split: str | None = None) -> list[dict]:
    """Rows for the photographs at or below a folder, with the grades of a CSV file.

    Args:
        split: of all of them; None: the CSV's column says it.
    """
    photographs = by_stem(_all_photographs(folder), problems)
    if not photographs:
        problems.append(f"{folder}: no photographs there ({', '.join(IMAGE_SUFFIXES)}). Copy them into it.")
        return []
    labels = match_labels(path, scan_grades, photographs, problems).reindex(
        columns=["name", "grade", "split"]
    )
    labels["split"] = split or labels.split.astype(object).fillna("train")
    return [{"part": "B", "image": photographs[row["name"]], **row} for row in labels.to_dict("records")]


# --- layouts ------------------------------------------------------------------------------------------------


def _label_file(root: Path, split: str) -> Path | None:
    wanted = LABEL_FILES[split].lower()
    return next((path for path in sorted(root.iterdir()) if path.name.lower() == wanted), None)


def _photograph_folder(root: Path, split: str) -> Path | None:
    there = {folder.name.lower(): folder for folder in folders(root)}
    return next((there[name] for name in PHOTOGRAPH_FOLDERS[split] if name in there), None)


def scan_eyepacs(root: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """As `read_eyepacs`, but what is wrong is listed, one line per problem, instead of stopping there.

    Raises:
        DataError: `root` is no folder.
    """
    root = existing_folder(root, f"{LABEL_FILES['train']} and the folder train")
    rows, problems = [], []
    for split in SPLITS:
        path, folder = _label_file(root, split), _photograph_folder(root, split)
        if split == "test" and path is None and folder is None:
            continue  # many copies hold the training photographs only
        if path is None:
            problems.append(
                f"{root / LABEL_FILES[split]}: missing. Copy it there from the competition's page, "
                f"or take away the folder of {split}ing photographs."
            )
        elif folder is None:
            problems.append(
                f"{root / split}: missing. Unpack the {split}ing photographs there, or take away {path.name}."
            )
        else:
            rows += _graded_rows(path, folder, problems, split)
    return as_table(rows), problems


def _csv_files(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.iterdir())
        if path.suffix.lower() == ".csv" and not path.name.startswith(".")
    ]


def scan_graded_folder(root: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """As `read_graded_folder`, but what is wrong is listed, one line per problem, instead of stopping there.

    Raises:
        DataError: `root` is no folder.
    """
    root = existing_folder(root, "photographs and one CSV file with the columns image and grade")
    rows, problems = [], []
    csvs = _csv_files(root)
    if not csvs:
        problems.append(f"{root}: no CSV file there. Write one with the columns image and grade.")
    elif len(csvs) > 1:
        names = ", ".join(path.name for path in csvs)
        problems.append(f"{root}: several CSV files ({names}). Keep only the one with the grades there.")
    else:
        rows = _graded_rows(csvs[0], root, problems)
    return as_table(rows), problems


def holds_eyepacs(root: Path) -> bool:
    """Is one of EyePACS's CSV files in this folder?"""
    return any(_label_file(root, split) for split in SPLITS)


def holds_graded_folder(root: Path) -> bool:
    """Is a CSV file in this folder?"""
    return bool(_csv_files(root))


def read_eyepacs(root: str | Path) -> pd.DataFrame:
    """One row per photograph of EyePACS, in the layout of Kaggle's 'diabetic-retinopathy-detection'.

    Args:
        root: the folder that holds trainLabels.csv (image, level) and the folder train. The testing
            photographs may be there too: retinopathy_solution.csv and the folder test. For other names of
            these folders see `PHOTOGRAPH_FOLDERS`.

    Returns:
        A table like that of `read_idrid`: part 'B', grade 0-4, no dme and no masks.

    Raises:
        DataError: anything is missing or out of range; `problems` has a line for each.
    """
    return whole(root, EYEPACS, *scan_eyepacs(root))


def read_graded_folder(root: str | Path) -> pd.DataFrame:
    """One row per photograph of a folder of one's own.

    Args:
        root: a folder with one CSV file (see `scan_grades`); the photographs lie beside it or in folders
            below.

    Returns:
        A table like that of `read_idrid`: part 'B', grade 0-4, no dme and no masks; split 'train' where the
        CSV names none.

    Raises:
        DataError: anything is missing or out of range; `problems` has a line for each.
    """
    return whole(root, FOLDER, *scan_graded_folder(root))
