"""IDRiD, the Indian Diabetic Retinopathy Image Dataset (Porwal et al., Data 3(3):25, 2018), as published.

Part A has masks of four lesions and of the optic disc, part B has grades. Both come as folders of JPEG
photographs, TIFF masks and two CSV files. `read_idrid` turns them into one table with one row per photograph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from mtl_utils.data.layout import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    as_table,
    existing_folder,
    files_by_stem,
    folders,
    match_labels,
    read_csv,
    whole,
    whole_numbers,
)
from mtl_utils.errors import DataError
from mtl_utils.lesions import GRADES, LESIONS

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


def _plain(name: str) -> str:
    """A folder name without numbering, spaces and case: 'A. Segmentation' and 'a_segmentation' are one."""
    name = re.sub(r"^\s*([a-zA-Z]|\d+)[\s._)-]+", "", name.strip())
    return re.sub(r"[^a-z]", "", name.lower())


@dataclass
class _Layout:
    """Finds the folders of one copy, whatever small changes zip tools and mirrors made to their names."""

    root: Path

    def child(self, parent: Path, *wanted: str) -> Path | None:
        """The folder in `parent` whose plain name starts like one of `wanted`; the exact name comes first."""
        for name in wanted:
            if (parent / name).is_dir():
                return parent / name
        plain_wanted = tuple(_plain(name) for name in wanted)
        found = (folder for folder in folders(parent) if _plain(folder.name).startswith(plain_wanted))
        return next(found, None)

    def parts(self, part: str) -> list[Path]:
        """The folders that hold this part: in the root, or, where it has none, in the folders below it."""
        # Zip tools often add one more folder of the same name around a part: look one level deeper as well.
        names = {"A": ("A. Segmentation",), "B": ("B. Disease Grading", "Disease_Grading")}[part]
        for parents in ((self.root,), folders(self.root)):
            if found := [folder for parent in parents if (folder := self.child(parent, *names))]:
                return [self.child(folder, *names) or folder for folder in found]
        return []

    def photographs(self, part_folder: Path, split: str) -> Path | None:
        images = self.child(part_folder, IMAGE_FOLDER, "Images")
        return self.child(images, SPLIT_FOLDERS[split], f"{split}ing", split) if images else None

    def masks(self, part_folder: Path, split: str, lesion: str) -> Path | None:
        masks = self.child(part_folder, MASK_FOLDER, "Segmentation Groundtruths", "Groundtruths", "Masks")
        split_folder = self.child(masks, SPLIT_FOLDERS[split], f"{split}ing", split) if masks else None
        return self.child(split_folder, LESION_FOLDERS[lesion], lesion) if split_folder else None

    def labels(self, part_folder: Path, split: str) -> Path | None:
        folder = self.child(part_folder, LABEL_FOLDER, "Labels")
        if folder is None:
            return None
        if (folder / LABEL_FILES[split]).exists():
            return folder / LABEL_FILES[split]
        found = [path for path in sorted(folder.glob("*.csv")) if split in path.stem.lower()]
        return found[0] if found else None


def scan_labels(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read one of part B's CSV files, and list the rows that are wrong instead of stopping at them.

    The published training CSV has nine empty columns, and a header that ends in a space; both are tolerated.

    Returns:
        Columns `name` (str), `grade` (0-4) and `dme` (0-2), missing where the label is wrong, one row per
        photograph; and one line per problem: a label that is not a whole number in its range, or a name that
        comes twice.

    Raises:
        DataError: this is no CSV file, or a column is missing.
    """
    raw = read_csv(path, "Copy it again from the published archive.")
    columns = {}
    for key, start in (("name", "image"), ("grade", "retinopathy"), ("dme", "risk")):
        found = [column for column in raw.columns if column.startswith(start)]
        if not found:
            raise DataError(
                f"{path} has no column '{start}...' (its columns: {', '.join(raw.columns)}). "
                "Expected: Image name, Retinopathy grade, Risk of macular edema, with commas between them."
            )
        columns[key] = raw[found[0]].str.strip()
    table = pd.DataFrame(columns).dropna(how="all")
    problems = [
        f"{path}: line {row + 2} has no image name. Copy the published file again."
        for row in table.index[table.name.isna()]
    ]
    table = table.dropna(subset="name")
    problems += [
        f"{path}: {name} stands there twice. Keep one row." for name in table.name[table.name.duplicated()]
    ]
    for key, allowed in (("grade", GRADES), ("dme", DME_RISKS)):
        numbers = whole_numbers(table[key], allowed)
        for name, given in table.loc[numbers.isna(), ["name", key]].itertuples(index=False):
            expected = f"expected one of {', '.join(map(str, allowed))}"
            problems.append(f"{path}: {name} has {key} {given!r}, {expected}. Copy the published file again.")
        table[key] = numbers
    return table.drop_duplicates("name").reset_index(drop=True), problems


def _no_photographs(folder: Path, split: str) -> str:
    where = folder / IMAGE_FOLDER / SPLIT_FOLDERS[split]
    return f"{where}: no photographs there (.jpg, .jpeg, .png). Unpack the archive of this part again."


def _part_a(layout: _Layout, folder: Path, problems: list[str]) -> list[dict]:
    rows = []
    for split in SPLIT_FOLDERS:
        photographs = files_by_stem(layout.photographs(folder, split), IMAGE_SUFFIXES, problems)
        if not photographs:
            problems.append(_no_photographs(folder, split))
        masks = {
            lesion: files_by_stem(layout.masks(folder, split, lesion), MASK_SUFFIXES, problems)
            for lesion in LESIONS
        }
        for lesion, files in masks.items():
            if photographs and not files:
                where = folder / MASK_FOLDER / SPLIT_FOLDERS[split] / LESION_FOLDERS[lesion]
                problems.append(f"{where}: no masks there. Unpack the archive of part A again.")
            for stem, path in files.items():
                if not stem.endswith(f"_{lesion}"):
                    problems.append(f"{path}: the name of a mask there ends in _{lesion}. Rename it.")
                elif stem.removesuffix(f"_{lesion}") not in photographs:
                    problems.append(
                        f"{path}: a mask without its photograph. Copy that again, or delete the mask."
                    )
        for name, path in photographs.items():
            # A missing file means: no lesion of that kind in this photograph.
            mask_paths = {lesion: masks[lesion].get(f"{name}_{lesion}") for lesion in LESIONS}
            rows.append({"part": "A", "split": split, "name": name, "image": path, **mask_paths})
    return rows


def _part_b(layout: _Layout, folder: Path, problems: list[str]) -> list[dict]:
    rows = []
    for split in SPLIT_FOLDERS:
        photographs = files_by_stem(layout.photographs(folder, split), IMAGE_SUFFIXES, problems)
        if not photographs:
            problems.append(_no_photographs(folder, split))
            continue
        path = layout.labels(folder, split)
        if path is None:
            problems.append(
                f"{folder / LABEL_FOLDER / LABEL_FILES[split]}: missing. Unpack the archive of part B again."
            )
            labels = pd.DataFrame({"name": list(photographs)})
        else:
            labels = match_labels(path, scan_labels, photographs, problems)
        for row in labels.to_dict("records"):
            rows.append({"part": "B", "split": split, "image": photographs[row["name"]], **row})
    return rows


def holds_idrid(root: Path) -> bool:
    """Is part A or part B of IDRiD in this folder, or one folder deeper?"""
    return any(_Layout(root).parts(part) for part in PART_FOLDERS)


def scan_idrid(root: str | Path, parts: str = "AB") -> tuple[pd.DataFrame, list[str]]:
    """Read the layout and the labels of one copy of IDRiD, and list what is wrong instead of stopping at it.

    Args:
        root: the folder that holds 'A. Segmentation' and 'B. Disease Grading'.
        parts: which of them to read.

    Returns:
        The table of `read_idrid`, a row for every photograph that is there, and one line per problem, each
        naming its file.

    Raises:
        DataError: `root` is no folder.
    """
    root = existing_folder(root, f"'{PART_FOLDERS['A']}' and '{PART_FOLDERS['B']}'")
    layout, rows, problems = _Layout(root), [], []
    read = {"A": _part_a, "B": _part_b}
    for part in parts:
        found = layout.parts(part)
        if not found:
            problems.append(
                f"{root / PART_FOLDERS[part]}: part {part} is absent. "
                "Unpack its archive there, or give the folder that holds it."
            )
        elif len(found) > 1:
            problems.append(f"{found[0]}: {found[1]} holds part {part} as well. Give the folder of one set.")
        else:
            rows += read[part](layout, found[0], problems)
    return as_table(rows), problems


def read_idrid(root: str | Path) -> pd.DataFrame:
    """One row per photograph of IDRiD, in the official layout or a common variant of its folder names.

    Args:
        root: the folder that holds 'A. Segmentation' and 'B. Disease Grading'.

    Returns:
        Table with `COLUMNS`: part ('A' or 'B'), split ('train' or 'test'), name ('IDRiD_01'), photo
        (identity; one of its own per file here, `duplicates.link_photographs` finds equal ones), image
        (path), grade (0-4) and dme (0-2), missing in part A, and one mask path per lesion, None where there
        is no such lesion (part A) or nothing is known (part B).

    Raises:
        DataError: anything is missing or out of range; `problems` has a line per file.
    """
    return whole(root, "IDRiD", *scan_idrid(root))


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture file; whatever goes wrong, here or while its pixels are decoded, becomes a DataError."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG" and _ends_in_a_hole(path):
                raise ValueError("zeros in the place of its end")
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read: change its permissions.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no picture: damaged or half copied. Copy it again.") from error
    except Exception as error:  # a decoder that meets damaged bytes can raise almost anything
        raise DataError(
            f"{path} cannot be read as a picture ({error}): damaged or half copied. Copy it again."
        ) from error


def in_colour(image: Image.Image, path: str | Path) -> Image.Image:
    """The picture in RGB, upright: cameras note in the file how they were held.

    Raises:
        DataError: it is grey with more than 8 bits: Pillow would cut its numbers off at 255.
    """
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path} is a grey picture of more than 8 bits. Save it as an 8-bit colour picture.")
    return ImageOps.exif_transpose(image).convert("RGB")


_HOLE = bytes(512)


def _ends_in_a_hole(path: str | Path) -> bool:
    """Is this JPEG file one that a download made at its full length and did not fill? Its decoder would take
    the zeros for grey.
    """
    content = Path(path).read_bytes()
    return content.endswith(_HOLE) and not content.rstrip(b"\0").endswith(b"\xff\xd9")


def read_photograph(path: str | Path) -> np.ndarray:
    """A photograph as RGB, uint8 (H, W, 3).

    Raises:
        DataError: the file is missing, truncated, no picture, or grey with more than 8 bits.
    """
    with open_picture(path) as image:
        return np.array(in_colour(image, path))


def read_mask_values(path: str | Path) -> np.ndarray:
    """The values that stand in a mask file, uint8 (H, W).

    IDRiD's masks are palette pictures with values 0 and 1, except `IDRiD_81_EX.tif`, which is RGBA: its first
    channel counts.

    Raises:
        DataError: the file is missing, truncated or no picture.
    """
    with open_picture(path) as image:
        pixels = np.asarray(image if image.mode in ("1", "L", "P", "RGB", "RGBA") else image.convert("RGB"))
    return np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 0], dtype=np.uint8)


def read_mask(path: str | Path) -> np.ndarray:
    """A mask as bool (H, W): True where the lesion is drawn. Raises as `read_mask_values` does."""
    return read_mask_values(path) > 0
