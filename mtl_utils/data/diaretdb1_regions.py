"""What DiaRetDB1's experts marked (V2.1): regions in XML files, their pixels, and the experts' consensus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from skimage import draw

from mtl_utils.errors import DataError
from mtl_utils.lesions import DISEASE_LESIONS

AGREEMENT = 0.75
"""The experts' mean confidence from which a pixel is lesion: the set's own protocol (`evalconfidence` in its
evaluation toolkit)."""

CONFIDENCES = {"High": 1.0, "Medium": 0.75, "Low": 0.25}
"""How much a region counts. The files have the words only; the numbers are our choice."""

FINDINGS = {"Red_small_dots": "MA", "Haemorrhages": "HE", "Hard_exudates": "EX", "Soft_exudates": "SE"}
OTHER_FINDINGS = ("Disc", "Fundus_area", "IRMA", "Neovascularisation")
"""Marked by some experts as well; not read."""

Shape = tuple[int, int]  # height and width, in pixels
TOUCH = 1e-6  # so that a pixel whose centre lies on the edge belongs to the region


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
