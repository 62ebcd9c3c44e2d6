"""DiaRetDB1 (Kauppi et al., British Machine Vision Conference 2007): what four experts marked, each alone.

89 photographs, 28 for training and 61 for testing. Two versions were published. V2.1 has one XML file per
photograph and expert, with circles, ellipses and polygons. V1.1 has the experts' mean as grey pictures. Both
become masks at a stated agreement of the experts, drawn once into the cache, and `read_diaretdb1` gives the
table of `read_idrid`. Only some experts marked the optic disc: here it is unknown, not absent.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image
from skimage import draw

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
from mtl_utils.lesions import DISEASE_LESIONS
from mtl_utils.runtime import cache_dir

DIARETDB1 = "DiaRetDB1"
SPLITS = ("train", "test")
PHOTOGRAPH_SUFFIXES = (*IMAGE_SUFFIXES, ".ppm")  # its README says PPM, the files are PNG

AGREEMENT = 0.75
"""The experts' mean confidence from which a pixel is lesion: the set's own protocol (`evalconfidence` in its
evaluation toolkit)."""

CONFIDENCES = {"High": 1.0, "Medium": 0.75, "Low": 0.25}
"""How much a region counts. The files say these words only; the numbers are our reading, see the tests."""

FINDINGS = {"Red_small_dots": "MA", "Haemorrhages": "HE", "Hard_exudates": "EX", "Soft_exudates": "SE"}
OTHER_FINDINGS = ("Disc", "Fundus_area", "IRMA", "Neovascularisation")
"""Marked by some experts as well; not read."""

MASK_FOLDERS = {"MA": "redsmalldots", "HE": "hemorrhages", "EX": "hardexudates", "SE": "softexudates"}
FULL_GREY = 252
"""The grey level in V1.1 where all four experts are sure: 63 for each."""

MASKS_VERSION = 1  # raise when the same files shall give other masks
Shape = tuple[int, int]  # height and width, in pixels
TOUCH = 1e-6  # so that a pixel whose centre lies on the edge belongs to the region


# --- regions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """What one expert marked.

    Attributes:
        lesion: one of MA, HE, EX, SE.
        confidence: 0-1, one of `CONFIDENCES`.
        points: x and y in pixels, float (N, 2): corners of a polygon, or the one centre.
        radii: of a circle or an ellipse, along x and y, in pixels; None: a polygon.
        angle: of the ellipse, in degrees, counter-clockwise as one sees it.
    """

    lesion: str
    confidence: float
    points: np.ndarray
    radii: tuple[float, float] | None = None
    angle: float = 0.0

    def mask(self, shape: Shape) -> np.ndarray:
        """The pixels whose centres lie in the region or on its edge, bool (H, W)."""
        inside = np.zeros(shape, bool)
        x, y = self.points.T
        if self.radii is None:
            inside[draw.polygon(y, x, shape)] = True
        else:
            along_x, along_y = self.radii
            rotation = math.radians(self.angle)
            pixels = draw.ellipse(y[0], x[0], along_y + TOUCH, along_x + TOUCH, shape, rotation)
            inside[pixels] = True
        return inside


def _number(text: str | None, what: str) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} is {text!r}, expected a number")
    return number


def _point(element: ElementTree.Element | None) -> tuple[float, float]:
    text = element.text if element is not None else None
    numbers = (text or "").split(",")
    if len(numbers) != 2:
        raise ValueError(f"coords2d is {text!r}, expected 'x,y'")
    return _number(numbers[0], "x"), _number(numbers[1], "y")


def _choice(marking: ElementTree.Element, tag: str, allowed: tuple[str, ...]) -> str:
    text = (marking.findtext(tag) or "").strip()
    if text not in allowed:
        raise ValueError(f"{tag} is {text!r}, expected one of {', '.join(allowed)}")
    return text


def _region(marking: ElementTree.Element) -> Region | None:
    """The region of one marking; None where it marks no lesion of ours.

    Raises:
        ValueError: it is not as the format says.
    """
    finding = _choice(marking, "markingtype", (*FINDINGS, *OTHER_FINDINGS))
    if finding in OTHER_FINDINGS:
        return None
    confidence = CONFIDENCES[_choice(marking, "confidencelevel", tuple(CONFIDENCES))]
    polygon = marking.find("polygonregion")
    if polygon is not None:
        points = [_point(element) for element in polygon.findall("coords2d")]
        if not points:
            raise ValueError("polygonregion has no coords2d")
        return Region(FINDINGS[finding], confidence, np.array(points))
    for tag, directions in (("circleregion", "xx"), ("ellipseregion", "xy")):
        region = marking.find(tag)
        if region is not None:
            found = {radius.get("direction"): radius.text for radius in region.findall("radius")}
            radii = tuple(_number(found.get(axis), f"radius {axis}") for axis in directions)
            if min(radii) < 0:
                raise ValueError(f"{tag} has radii {radii}, expected none below 0")
            angle = _number(region.findtext("angle", "0"), "angle")
            centre = np.array([_point(region.find("centroid/coords2d"))])
            return Region(FINDINGS[finding], confidence, centre, radii, angle)
    raise ValueError("no circleregion, ellipseregion or polygonregion")


def read_annotation(path: str | Path) -> list[Region]:
    """What one expert marked in one photograph, the four lesions only.

    Raises:
        DataError: the file is missing, no well-formed XML, or a marking in it is not as the format says.
    """
    try:
        markings = ElementTree.parse(path).getroot().find("markinglist")
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path} is not a readable XML file ({error}). Copy it again.") from error
    if markings is None:
        raise DataError(f"{path} has no 'markinglist': no annotation of DiaRetDB1. Copy it again.")
    regions = []
    for number, marking in enumerate(markings.findall("marking"), 1):
        try:
            regions.append(_region(marking))
        except ValueError as error:
            raise DataError(f"{path}, marking {number}: {error}. Copy the published file again.") from error
    return [region for region in regions if region is not None]


def consensus(
    experts: list[list[Region]], shape: Shape, agreement: float = AGREEMENT
) -> dict[str, np.ndarray]:
    """The pixels that the experts agree on.

    An expert's confidence in a pixel is that of his or her surest region there, 0 without one. The mean over
    the experts counts.

    Args:
        experts: from `read_annotation`, one list per expert.
        shape: height and width of the photograph, in pixels.
        agreement: least mean confidence of a lesion's pixel, above 0 and at most 1.

    Returns:
        Lesion (MA, HE, EX, SE) -> bool (H, W).
    """
    masks = {}
    for lesion in DISEASE_LESIONS:
        total = np.zeros(shape, np.float32)
        for regions in experts:
            sure = np.zeros(shape, np.float32)
            for region in sorted(regions, key=lambda region: region.confidence):
                if region.lesion == lesion:
                    sure[region.mask(shape)] = region.confidence
            total += sure
        masks[lesion] = total >= agreement * len(experts) - TOUCH
    return masks


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
    photographs = files_by_stem(version.photographs, PHOTOGRAPH_SUFFIXES)
    if not photographs:
        return as_table([]), [f"{version.photographs}: no photographs there. Unpack the archive again."]
    rows, problems = {}, []
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
