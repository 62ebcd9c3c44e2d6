"""What the readers of all data sets share: folders as zip tools leave them, CSV files, the table."""

from __future__ import annotations

import csv
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from mtl_utils.errors import DataError
from mtl_utils.lesions import LESIONS

COLUMNS = ("part", "split", "name", "photo", "image", "grade", "dme", *LESIONS)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".tif", ".tiff", ".png")


def existing_folder(root: str | Path, holds: str) -> Path:
    """`root` as a path.

    Raises:
        DataError: it is no folder; the message says what the folder `holds`.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file; if it is an archive, unpack it first" if root.is_file() else "is not a folder"
        raise DataError(f"{root} {what}. Give the folder that holds {holds}.")
    return root


def folders(parent: Path) -> list[Path]:
    """The folders in `parent`, without the hidden ones and the '__MACOSX' that zip tools leave behind."""
    return [
        path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith((".", "__"))
    ]


def find_folder(root: Path, name: str, depth: int = 2) -> Path | None:
    """The folder called `name`, in any case: `root` itself, or at most `depth` levels below; None: not there.

    Zip tools often put a folder into another one of the same name: then it is the inner one.
    """
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            if folder.name.lower() == name.lower():
                return folder / folder.name if (folder / folder.name).is_dir() else folder
        level = [below for folder in level for below in folders(folder)]
    return None


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of some kinds, without the hidden ones ('._IDRiD_01.jpg') that some zip tools leave behind."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes)
    return [path for path in files if not path.name.startswith(".")]


def composed(name: str) -> str:
    """The name with each accent and its letter as one sign (Unicode NFC): names that look alike are equal."""
    return unicodedata.normalize("NFC", name)


def by_stem(files: Sequence[Path], problems: list[str]) -> dict[str, Path]:
    """Stem -> path. Where two have one, the first counts, and `problems` gets a line.

    A Mac writes accents as signs of their own; the stems have them composed, as `composed` makes them.
    """
    found: dict[str, Path] = {}
    for path in files:
        other = found.setdefault(composed(path.stem), path)
        if other != path:
            problems.append(f"{path}: {other} has the same name. Keep one of them, or rename one.")
    return found


def files_by_stem(folder: Path | None, suffixes: tuple[str, ...], problems: list[str]) -> dict[str, Path]:
    """`by_stem` of the files in a folder; empty where there is no such folder."""
    return by_stem(files_in(folder, suffixes), problems) if folder is not None and folder.is_dir() else {}


def read_csv(path: Path, remedy: str) -> pd.DataFrame:
    """All cells as text (NaN where empty), and the column names in lower case without spaces around them.

    Row i stands on line i + 2 of the file: empty lines are kept.

    Raises:
        DataError: this is no CSV file, or a row has more cells than the header; the message ends with
            `remedy`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of what `_no_surplus` asks
            raw = pd.read_csv(
                path,
                dtype=str,
                index_col=False,
                skipinitialspace=True,
                skip_blank_lines=False,
                keep_default_na=False,  # a photograph may be called 'NA'
                na_values=[""],
            )
        _no_surplus(path, len(raw.columns))
    except (OSError, ValueError, csv.Error, pd.errors.ParserError) as error:
        raise DataError(f"{path} is not a readable CSV file ({error}). {remedy}") from error
    raw.columns = [str(column).strip().lower() for column in raw.columns]
    return raw


def _no_surplus(path: Path, columns: int) -> None:
    """pandas drops the cells of a row that the header has no name for."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        for row in (lines := csv.reader(file)):
            if any(cell.strip() for cell in row[columns:]):
                raise ValueError(f"line {lines.line_num} has more cells than the header")


def whole_numbers(texts: pd.Series, allowed: Sequence[int]) -> pd.Series:
    """The numbers (Int64) that stand in a column of text; missing where it is none of `allowed`.

    >>> whole_numbers(pd.Series(["3", "2.0", "1.5", "high"]), range(5)).tolist()
    [3, 2, <NA>, <NA>]
    """
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.where(numbers.isin(allowed)).astype("Int64")


def match_labels(
    path: Path,
    scan: Callable[[Path], tuple[pd.DataFrame, list[str]]],
    photographs: dict[str, Path],
    problems: list[str],
) -> pd.DataFrame:
    """Name and labels of every photograph that is there, in the CSV's order; missing where it is silent.

    Args:
        path: the CSV file.
        scan: reads it; gives a table with the column `name`, and what is wrong.
        photographs: name -> file.
        problems: gets a line for all that is wrong.
    """
    try:
        labels, wrong = scan(path)
    except DataError as error:
        problems.append(str(error))
        return pd.DataFrame({"name": list(photographs)})
    problems += wrong
    for name in labels.name[~labels.name.isin(photographs)]:
        problems.append(
            f"{path}: {name} has no photograph (.jpg, .jpeg, .png). Copy it again, or delete the row."
        )
    labelled = set(labels.name)
    unlabelled = [name for name in photographs if name not in labelled]
    for name in unlabelled:
        problems.append(
            f"{photographs[name]}: a photograph without a row in {path.name}. Add it, or delete the file."
        )
    there = labels[labels.name.isin(photographs)].astype(object)
    return pd.concat([there, pd.DataFrame({"name": unlabelled}, dtype=object)])


def whole(root: str | Path, name: str, table: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """The table that a scan gave.

    Raises:
        DataError: the scan found `problems`.
    """
    if problems:
        raise DataError(f"{root} is not a whole {name} ('mtl data check' says the same):", problems)
    return table


def as_table(rows: Sequence[dict]) -> pd.DataFrame:
    """The table of `read_idrid` from rows that may lack columns; each gets an identity of its own."""
    table = pd.DataFrame(rows, columns=[column for column in COLUMNS if column != "photo"])
    table.insert(COLUMNS.index("photo"), "photo", table.part + "-" + table.split + "-" + table.name)
    return typed(table)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the column types that `read_idrid` promises, whatever pandas made of it."""
    table = table.astype({"grade": "Int64", "dme": "Int64"})
    for column in ("image", *LESIONS):
        paths = [str(path) if pd.notna(path) else None for path in table[column]]
        table[column] = pd.Series(paths, index=table.index, dtype=object)
    return table
