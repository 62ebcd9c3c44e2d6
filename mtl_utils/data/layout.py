"""What the readers of all data sets share: folders as zip tools leave them, CSV files, the table."""

from __future__ import annotations

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


def files_by_stem(folder: Path | None, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Stem -> path, without the hidden files ('._IDRiD_01.jpg') that some zip tools leave behind.

    Empty where there is no such folder.
    """
    if folder is None or not folder.is_dir():
        return {}
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes)
    return {path.stem: path for path in files if not path.name.startswith(".")}


def read_csv(path: Path, remedy: str) -> pd.DataFrame:
    """All cells as text (NaN where empty), and the column names in lower case without spaces around them.

    Row i stands on line i + 2 of the file: empty lines are kept.

    Raises:
        DataError: this is no CSV file; the message ends with `remedy`.
    """
    try:
        raw = pd.read_csv(path, dtype=str, index_col=False, skipinitialspace=True, skip_blank_lines=False)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV file ({error}). {remedy}") from error
    raw.columns = [str(column).strip().lower() for column in raw.columns]
    return raw


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
        problems.append(f"{path}: {name} has no photograph. Copy the photograph again, or delete the row.")
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
