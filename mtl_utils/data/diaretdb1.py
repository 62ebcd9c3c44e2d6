"""DiaRetDB1 (Kauppi et al., British Machine Vision Conference 2007): what four experts marked, each alone.

89 photographs, 28 for training and 61 for testing. Two versions were published. V2.1 has one XML file per
photograph and expert, with circles, ellipses and polygons. V1.1 has the experts' mean as grey pictures. Both
become masks at a stated agreement of the experts, drawn once into the cache, and `read_diaretdb1` gives the
table of `read_idrid`. Only some experts marked the optic disc: here it is unknown, not absent.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image

from mtl_utils.data.diaretdb1_regions import AGREEMENT, TOUCH, Shape, consensus, read_annotation
from mtl_utils.data.idrid import open_picture, read_mask_values
from mtl_utils.data.layout import (
    IMAGE_SUFFIXES,
    as_table,
    existing_folder,
    files_by_stem,
    find_folder,
    folders,
    whole,
)
from mtl_utils.errors import DataError, MTLError
from mtl_utils.runtime import cache_dir

DIARETDB1 = "DiaRetDB1"
SPLITS = ("train", "test")
PHOTOGRAPH_SUFFIXES = (*IMAGE_SUFFIXES, ".ppm")  # its README says PPM, the files are PNG

MASK_FOLDERS = {"MA": "redsmalldots", "HE": "hemorrhages", "EX": "hardexudates", "SE": "softexudates"}
FULL_GREY = 252
"""The grey level in V1.1 where all four experts are sure, 63 for each. Its documentation does not say so;
those who have read the pictures report it as the brightest."""

MASKS_VERSION = 1  # raise when the same files shall give other masks


# --- the two versions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Version:
    """Where a version keeps its files, and what is in them.

    Attributes:
        lists: split -> list of photographs.
        photographs: folder.
        sources: the words of a list's line -> the files with the photograph's ground truth, each with a key.
        read: reads one of these files; gets the photograph's height and width as well.
        fuse: what was read (by key), height and width, agreement -> masks by lesion.
    """

    lists: dict[str, Path]
    photographs: Path
    sources: Callable[[list[str]], dict[str, Path]]
    read: Callable[[Path, Shape], Any]
    fuse: Callable[[dict[str, Any], Shape, float], dict[str, np.ndarray]]


def _v21_base(root: Path) -> Path | None:
    """The folder with the lists: `root` itself, or at most two levels below."""
    level = [root]
    for _ in range(3):
        for folder in level:
            if any(folder.glob("ddb1_v02_01_*.txt")):
                return folder
        level = [below for folder in level for below in folders(folder)]
    return None


def _v21(root: Path) -> _Version | None:
    """V2.1: the lists lie beside the folders images and groundtruth; a line names photograph and XML."""
    base = _v21_base(root)
    if base is None:
        return None
    return _Version(
        lists={split: _v21_list(base, split) for split in SPLITS},
        photographs=base / "images",
        sources=lambda words: {word: base / word for word in words[1:]},
        read=lambda path, shape: read_annotation(path),
        fuse=lambda read, shape, agreement: consensus(list(read.values()), shape, agreement),
    )


def _v21_list(base: Path, split: str) -> Path:
    # Both lists name the same markings; the plain files do not point to a server of 2007.
    names = (f"ddb1_v02_01_{split}_plain.txt", f"ddb1_v02_01_{split}.txt")
    return next((base / name for name in names if (base / name).exists()), base / names[0])


def _v11(root: Path) -> _Version | None:
    """V1.1: one folder of grey pictures per lesion; a line of a list names the photograph."""
    truth = find_folder(root, "ddb1_groundtruth", depth=4)
    if truth is None:
        return None
    return _Version(
        lists={split: next(root.rglob(f"{split}set.txt"), root / f"{split}set.txt") for split in SPLITS},
        photographs=truth.with_name("ddb1_fundusimages"),
        sources=lambda words: {lesion: truth / name / words[0] for lesion, name in MASK_FOLDERS.items()},
        read=_read_grey,
        fuse=lambda read, shape, agreement: {
            lesion: grey >= agreement * FULL_GREY - TOUCH for lesion, grey in read.items()
        },
    )


def _read_grey(path: Path, shape: Shape) -> np.ndarray:
    grey = read_mask_values(path)
    if grey.shape != shape:
        sizes = [f"{width} x {height}" for height, width in (grey.shape, shape)]
        raise DataError(f"{path}: {sizes[0]} pixels, its photograph {sizes[1]}. Copy both from one archive.")
    return grey


# --- the table ----------------------------------------------------------------------------------------------


def _drawn(
    version: _Version, sources: dict[str, Path], shape: Shape, agreement: float
) -> dict[str, np.ndarray]:
    """Masks by lesion.

    Raises:
        DataError: `problems` has a line for each file that is wrong.
    """
    read, wrong = {}, []
    for key, path in sources.items():
        try:
            read[key] = version.read(path, shape)
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("ground truth that cannot be used:", wrong)
    return version.fuse(read, shape, agreement)


def _masks(
    version: _Version, photograph: Path, sources: dict[str, Path], agreement: float
) -> dict[str, Path]:
    """Lesion -> mask file in the cache, for the lesions that are there. The masks of a photograph are drawn
    once; their folder appears whole or not at all.

    Raises:
        DataError: the photograph cannot be opened, or `problems` has a line for each file with ground truth
            that is missing or wrong.
    """
    missing = [path for path in sources.values() if not path.exists()]
    if missing:
        raise DataError(
            "ground truth is missing:", [f"{path}: missing. Unpack the archive again." for path in missing]
        )
    with open_picture(photograph) as picture:
        shape = (picture.height, picture.width)
    key = hashlib.sha256(repr((MASKS_VERSION, shape, agreement)).encode())
    for path in sources.values():
        key.update(hashlib.sha256(path.read_bytes()).digest())
    folder = cache_dir() / "diaretdb1-masks" / f"{photograph.stem}-{key.hexdigest()[:16]}"
    if not folder.exists():
        masks = _drawn(version, sources, shape, agreement)
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for lesion, mask in masks.items():
            if mask.any():
                Image.fromarray(mask).save(part / f"{lesion}.png")
        part.rename(folder)
    return {path.stem: path for path in folder.glob("*.png")}


def _lines(path: Path, problems: list[str]) -> list[tuple[str, list[str]]]:
    """Place and words of each line of a list that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not a readable list ({error}). Unpack the archive again.")
        return []
    return [(f"{path}, line {number}", line.split()) for number, line in enumerate(lines, 1) if line.strip()]


def holds_diaretdb1(root: Path) -> bool:
    """Is DiaRetDB1, V2.1 or V1.1, in this folder or some folders deeper?"""
    return bool(_v21(root) or _v11(root))


def scan_diaretdb1(root: str | Path, agreement: float = AGREEMENT) -> tuple[pd.DataFrame, list[str]]:
    """As `read_diaretdb1`, but what is wrong is listed, one line per problem, instead of stopping there.

    Raises:
        DataError: `root` is no folder.
        MTLError: `agreement` is not above 0 and at most 1.
    """
    if not 0 < agreement <= 1:
        raise MTLError(f"agreement is {agreement}: give a share of the experts above 0 and at most 1")
    root = existing_folder(root, "ddb1_v02_01_train_plain.txt, images and groundtruth")
    version = _v21(root) or _v11(root)
    if version is None:
        return as_table([]), [f"{root}: no DiaRetDB1 there. Unpack its archive there."]
    rows, problems = {}, []
    photographs = files_by_stem(version.photographs, PHOTOGRAPH_SUFFIXES, problems)
    if not photographs:
        return as_table([]), [f"{version.photographs}: no photographs there. Unpack the archive again."]
    with FileLock(cache_dir() / "diaretdb1-masks.lock"):
        for split, path in version.lists.items():
            for place, words in _lines(path, problems):
                name, sources = Path(words[0]).stem, version.sources(words)
                if name not in photographs:
                    problems.append(f"{place}: {name} has no photograph. Copy it again, or delete the row.")
                elif name in rows:
                    problems.append(f"{place}: {name} is listed twice. Keep one row.")
                elif not sources:
                    problems.append(f"{place}: names no file with ground truth. Copy the list again.")
                else:
                    rows[name] = {"part": "A", "split": split, "name": name, "image": photographs[name]}
                    try:
                        rows[name] |= _masks(version, photographs[name], sources, agreement)
                    except DataError as error:  # of the photograph itself whoever reads it will complain
                        problems += error.problems
    problems += [
        f"{path}: a photograph that no list names. Add it to a list, or delete the file."
        for name, path in photographs.items()
        if name not in rows
    ]
    return as_table(list(rows.values())), problems


def read_diaretdb1(root: str | Path, agreement: float = AGREEMENT) -> pd.DataFrame:
    """One row per photograph of DiaRetDB1, all of part 'A'.

    Args:
        root: the folder that holds V2.1 ('ddb1_v02_01': lists, images, groundtruth) or V1.1
            ('diaretdb1_v_1_1': resources/images/ddb1_groundtruth and so on).
        agreement: least mean confidence of the experts, above 0 and at most 1.

    Returns:
        The table of `read_idrid`, with the official splits 'train' and 'test'. The mask paths lead to
        two-valued pictures in the cache; None where the experts do not agree on any pixel. `OD` is always
        None: the disc is unknown, see `sets.LAYOUTS`.

    Raises:
        DataError: anything is missing or wrong; `problems` has a line per file.
        MTLError: `agreement` is not above 0 and at most 1.
    """
    return whole(root, DIARETDB1, *scan_diaretdb1(root, agreement))
