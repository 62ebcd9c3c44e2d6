"""IDRiD, the Indian Diabetic Retinopathy Image Dataset (Porwal et al., Data 3(3):25, 2018), as published.

Part A has masks of four lesions and of the optic disc, part B has grades. Both come as folders of JPEG photographs,
TIFF masks and two CSV files. `read_idrid` turns them into one table with one row per photograph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from mtl_utils.errors import DataError
from mtl_utils.lesions import GRADES, LESIONS

COLUMNS = ("part", "split", "name", "photo", "image", "grade", "dme", *LESIONS)

PART_FOLDERS = {"A": "A. Segmentation", "B": "B. Disease Grading"}
IMAGE_FOLDER = "1. Original Images"
MASK_FOLDER = "2. All Segmentation Groundtruths"
LABEL_FOLDER = "2. Groundtruths"
SPLIT_FOLDERS = {"train": "a. Training Set", "test": "b. Testing Set"}
LESION_FOLDERS = {
    "MA": "1. Microaneurysms",
    "HE": "2. Haemorrhages",
    "EX": "3. Hard Exudates",
    "SE": "4. Soft Exudates",
    "OD": "5. Optic Disc",
}
LABEL_FILES = {
    "train": "a. IDRiD_Disease Grading_Training Labels.csv",
    "test": "b. IDRiD_Disease Grading_Testing Labels.csv",
}
DME_RISKS = (0, 1, 2)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".tif", ".tiff", ".png")


def _plain(name: str) -> str:
    """A folder name without numbering, spaces and case: 'A. Segmentation', 'a_segmentation' and 'Segmentation' are one."""
    name = re.sub(r"^\s*([a-zA-Z]|\d+)\s*[._)-]\s*", "", name.strip())
    return re.sub(r"[^a-z]", "", name.lower())


@dataclass
class _Layout:
    """Finds the folders of one copy, whatever small changes unzipping tools and mirrors made to their names."""

    root: Path

    def child(self, parent: Path, *wanted: str) -> Path | None:
        """The folder or file in `parent` whose plain name starts like one of `wanted`; the exact name comes first."""
        for name in wanted:
            if (parent / name).exists():
                return parent / name
        if not parent.is_dir():
            return None
        plain_wanted = [_plain(name) for name in wanted]
        for entry in sorted(parent.iterdir()):
            plain = _plain(entry.name)
            if any(plain.startswith(name) for name in plain_wanted):
                return entry
        return None

    def part(self, part: str) -> Path | None:
        # Zip tools often add one more folder of the same name around a part: look one level deeper as well.
        names = {"A": ("A. Segmentation",), "B": ("B. Disease Grading", "Disease_Grading")}[part]
        for parent in (self.root, *sorted(path for path in self.root.iterdir() if path.is_dir())):
            folder = self.child(parent, *names)
            if folder and folder.is_dir():
                inner = self.child(folder, *names)
                return inner if inner and inner.is_dir() else folder
        return None

    def photographs(self, part_folder: Path, split: str) -> Path | None:
        images = self.child(part_folder, IMAGE_FOLDER, "Images")
        return self.child(images, SPLIT_FOLDERS[split], f"{split}ing", split) if images else None

    def masks(self, part_folder: Path, split: str, lesion: str) -> Path | None:
        masks = self.child(part_folder, MASK_FOLDER, "Segmentation Groundtruths", "Groundtruths", "Masks")
        split_folder = self.child(masks, SPLIT_FOLDERS[split], f"{split}ing", split) if masks else None
        return self.child(split_folder, LESION_FOLDERS[lesion]) if split_folder else None

    def labels(self, part_folder: Path, split: str) -> Path | None:
        folder = self.child(part_folder, LABEL_FOLDER, "Labels")
        if folder is None:
            return None
        if (folder / LABEL_FILES[split]).exists():
            return folder / LABEL_FILES[split]
        found = [path for path in sorted(folder.glob("*.csv")) if split in path.stem.lower()]
        return found[0] if found else None


def _files(folder: Path | None, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Stem -> path, without the hidden files ('._IDRiD_01.jpg') that some zip tools leave behind."""
    if folder is None:
        return {}
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes)
    return {path.stem: path for path in files if not path.name.startswith(".")}


def read_labels(path: Path) -> pd.DataFrame:
    """Read one of part B's CSV files.

    The published training CSV has nine empty columns, and a header that ends in a space; both are tolerated.

    Returns:
        Columns `name` (str), `grade` (0-4) and `dme` (0-2), one row per photograph.

    Raises:
        DataError: a column is missing, a label is not a whole number in its range, or a name comes twice.
    """
    try:
        raw = pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV file ({error}). Copy it again from the published archive.") from error
    raw.columns = [str(column).strip().lower() for column in raw.columns]
    columns = {}
    for key, start in (("name", "image"), ("grade", "retinopathy"), ("dme", "risk")):
        found = [column for column in raw.columns if column.startswith(start)]
        if not found:
            raise DataError(
                f"{path} has no column '{start}...' (its columns: {', '.join(raw.columns)}). "
                "Expected: Image name, Retinopathy grade, Risk of macular edema."
            )
        columns[key] = raw[found[0]].str.strip()
    table = pd.DataFrame(columns).dropna(how="all")
    problems = [f"{path}: {name} stands there twice" for name in table.name[table.name.duplicated()]]
    for key, allowed in (("grade", GRADES), ("dme", DME_RISKS)):
        numbers = pd.to_numeric(table[key], errors="coerce")
        for name, given in table.loc[~numbers.isin(allowed), ["name", key]].itertuples(index=False):
            problems.append(f"{path}: {name} has {key} {given!r}, expected one of {', '.join(map(str, allowed))}")
        table[key] = numbers.where(numbers.isin(allowed)).astype("Int64")
    if problems:
        raise DataError(f"{path.name} holds labels that IDRiD does not have", problems)
    return table.reset_index(drop=True)


def _part_a(layout: _Layout, folder: Path, problems: list[str]) -> list[dict]:
    rows = []
    for split in SPLIT_FOLDERS:
        photographs = _files(layout.photographs(folder, split), IMAGE_SUFFIXES)
        if not photographs:
            problems.append(f"{folder / IMAGE_FOLDER / SPLIT_FOLDERS[split]}: no photographs there")
        masks = {lesion: _files(layout.masks(folder, split, lesion), MASK_SUFFIXES) for lesion in LESIONS}
        for lesion, files in masks.items():
            if photographs and not files:
                problems.append(f"{folder}: no {split} masks in a folder '{LESION_FOLDERS[lesion]}'")
            for stem, path in files.items():
                if stem.removesuffix(f"_{lesion}") not in photographs:
                    problems.append(f"{path}: a mask without its photograph")
        for name, path in photographs.items():
            # A missing file means: no lesion of that kind in this photograph.
            mask_paths = {lesion: masks[lesion].get(f"{name}_{lesion}") for lesion in LESIONS}
            rows.append({"part": "A", "split": split, "name": name, "image": path, **mask_paths})
    return rows


def _part_b(layout: _Layout, folder: Path, problems: list[str]) -> list[dict]:
    rows = []
    for split in SPLIT_FOLDERS:
        photographs = _files(layout.photographs(folder, split), IMAGE_SUFFIXES)
        label_path = layout.labels(folder, split)
        if label_path is None:
            problems.append(f"{folder / LABEL_FOLDER / LABEL_FILES[split]}: missing")
            continue
        try:
            labels = read_labels(label_path)
        except DataError as error:
            problems.extend(error.problems or [str(error)])
            continue
        for name in sorted(set(photographs) - set(labels.name)):
            problems.append(f"{photographs[name]}: a photograph without a row in {label_path.name}")
        for row in labels.itertuples():
            if row.name not in photographs:
                problems.append(f"{label_path}: {row.name} has no photograph")
            else:
                rows.append({"part": "B", "split": split, "name": row.name, "image": photographs[row.name],
                             "grade": row.grade, "dme": row.dme})
    return rows


def scan_idrid(root: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """Read the layout and the labels of one copy of IDRiD, and list what is wrong instead of stopping at it.

    Returns:
        The table of `read_idrid` with the rows that are whole, and one line per problem, each naming its file.

    Raises:
        DataError: `root` is no folder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that holds '{PART_FOLDERS['A']}' and '{PART_FOLDERS['B']}'.")
    layout, rows, problems = _Layout(root), [], []
    for part, read in (("A", _part_a), ("B", _part_b)):
        folder = layout.part(part)
        if folder is None:
            problems.append(f"{root / PART_FOLDERS[part]}: part {part} is absent")
        else:
            rows += read(layout, folder, problems)
    table = pd.DataFrame(rows, columns=[column for column in COLUMNS if column != "photo"])
    table.insert(3, "photo", table.part + "-" + table.split + "-" + table.name)
    for column in ("image", *LESIONS):
        table[column] = [str(path) if isinstance(path, Path) else None for path in table[column]]
    table[["grade", "dme"]] = table[["grade", "dme"]].astype("Int64")
    return table, problems


def read_idrid(root: str | Path) -> pd.DataFrame:
    """One row per photograph of an IDRiD folder, in the official layout or a common variant of its folder names.

    Args:
        root: the folder that holds 'A. Segmentation' and 'B. Disease Grading'.

    Returns:
        Table with `COLUMNS`: part ('A' or 'B'), split ('train' or 'test'), name ('IDRiD_01'), photo (identity; one of its own
        per file here, `duplicates.link_photographs` finds equal ones), image (path), grade (0-4) and dme (0-2), missing in
        part A, and one mask path per lesion, None where there is no such lesion (part A) or nothing is known (part B).

    Raises:
        DataError: anything is missing or out of range; `problems` has a line per file.
    """
    table, problems = scan_idrid(root)
    if problems:
        raise DataError(f"{root} is not a whole IDRiD ('mtl data check' says the same):", problems)
    return table


def _open(path: str | Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode in ("1", "L", "P", "RGBA", "RGB") else image.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}): damaged or half copied. Copy it again.") from error


def read_photograph(path: str | Path) -> np.ndarray:
    """A photograph as RGB, uint8 (H, W, 3).

    Raises:
        DataError: the file is missing, truncated or no picture.
    """
    pixels = _open(path)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_mask(path: str | Path) -> np.ndarray:
    """A mask as bool (H, W).

    IDRiD's masks are palette pictures with values 0 and 1, except `IDRiD_81_EX.tif`, which is RGBA: its first channel counts.

    Raises:
        DataError: the file is missing, truncated or no picture.
    """
    pixels = _open(path)
    return (pixels if pixels.ndim == 2 else pixels[..., 0]) > 0
