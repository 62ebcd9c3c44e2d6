"""What a synthetic eye has: disc and macula, lesions, and the labels that follow from these by rule.

Lengths are in units of the picture's height, x to the right and y down, within the bounding box of the field
of view of a LEFT eye (the disc on the left); right eyes are the mirror image.

Sizes and counts of lesions were measured on IDRiD's part A: connected components of the masks of every sixth
training photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter1d

from mtl_utils.lesions import LESIONS

FOV_RADIUS, FOV_WIDTH = 0.60, 1.20  # IDRiD's camera: the circle is cut at top and bottom
FOV_CENTRE = np.array([FOV_WIDTH / 2, 0.5])

SEVERE_PER_QUADRANT = 5
"""Haemorrhages in each quadrant around the fovea that make a retinopathy severe here, see `icdr_grade`."""


@dataclass(frozen=True)
class Plan:
    """What a photograph shall show. `grade` is aimed at; the label is `icdr_grade` of what was drawn.

    Args:
        grade: 0-4.
        all_kinds: microaneurysms and hard exudates are certain, as in IDRiD's part A.
        haemorrhages: False leaves them out (grade 2 only).
        soft_exudates: True, False, or None for chance.
    """

    grade: int
    all_kinds: bool = False
    haemorrhages: bool = True
    soft_exudates: bool | None = None


@dataclass
class Findings:
    """The lesions of one eye: outlines (points, 2) by lesion, and what the two rules need to know."""

    outlines: dict[str, list[np.ndarray]] = field(default_factory=lambda: {lesion: [] for lesion in LESIONS})
    haemorrhages: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    neovascularisation: bool = False
    preretinal: bool = False
    exudate_distances: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def grade(self) -> int:
        """The label: `icdr_grade` of what was drawn."""
        count = {lesion: len(outlines) for lesion, outlines in self.outlines.items()}
        return icdr_grade(
            count["MA"], self.haemorrhages, count["EX"], count["SE"], self.neovascularisation, self.preretinal
        )


def icdr_grade(
    microaneurysms: int,
    haemorrhages: Sequence[int] = (0, 0, 0, 0),
    hard_exudates: int = 0,
    soft_exudates: int = 0,
    neovascularisation: bool = False,
    preretinal: bool = False,
) -> int:
    """Grade of the International Clinical Diabetic Retinopathy scale (Wilkinson, Ophthalmology 110(9), 2003).

    The scale calls a retinopathy severe with more than 20 haemorrhages in EACH of the four quadrants, venous
    beading in two, or IRMA in one (the 4-2-1 rule), counted over the wide field of an examination. One
    50-degree photograph shows less, and we draw neither beading nor IRMA: here `SEVERE_PER_QUADRANT`
    haemorrhages in each quadrant around the fovea are severe.

    Args:
        microaneurysms, hard_exudates, soft_exudates: how many.
        haemorrhages: how many in each of the four quadrants.
        neovascularisation, preretinal: new vessels, or a preretinal haemorrhage.

    >>> icdr_grade(0), icdr_grade(3), icdr_grade(3, hard_exudates=10)
    (0, 1, 2)
    >>> icdr_grade(9, haemorrhages=(30, 6, 5, 4)), icdr_grade(9, haemorrhages=(6, 6, 5, 5))
    (2, 3)
    >>> icdr_grade(9, haemorrhages=(6, 6, 5, 5), preretinal=True)
    4
    """
    if neovascularisation or preretinal:
        return 4
    if min(haemorrhages) >= SEVERE_PER_QUADRANT:
        return 3
    if sum(haemorrhages) or hard_exudates or soft_exudates:
        return 2
    return int(microaneurysms > 0)


def dme_risk(distances: np.ndarray) -> int:
    """IDRiD's risk of macular oedema: 0 no hard exudate, 1 all beyond one disc diameter, 2 any within.

    Args:
        distances: of each hard exudate to the fovea, in disc diameters.

    >>> dme_risk(np.array([])), dme_risk(np.array([1.4, 2.0])), dme_risk(np.array([1.4, 0.6]))
    (0, 1, 2)
    """
    return 0 if len(distances) == 0 else 1 + int(np.min(distances) <= 1.0)


@dataclass(frozen=True)
class Anatomy:
    """Where things are in one eye."""

    disc: np.ndarray
    radii: np.ndarray
    fovea: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        disc = FOV_CENTRE + np.array([rng.uniform(-0.46, -0.32), rng.uniform(-0.08, 0.03)])
        radius = rng.uniform(0.087, 0.096)
        # Discs are slightly higher than wide; the fovea lies 2.5 disc diameters to the temple and lower.
        fovea = disc + np.array([rng.uniform(0.42, 0.48), rng.uniform(0.01, 0.06)])
        return cls(disc, radius * np.array([rng.uniform(0.90, 0.98), 1.0]), fovea)

    @property
    def diameter(self) -> float:
        return 2 * float(self.radii.mean())

    def on_retina(self, points: np.ndarray, margin: float = 0.03) -> np.ndarray:
        """True where (n, 2) points lie in the picture, in the field of view, and off the disc."""
        inside = np.hypot(*(points - FOV_CENTRE).T) < FOV_RADIUS - margin
        inside &= np.abs(points[:, 1] - 0.5) < 0.5 - margin
        return inside & (np.hypot(*((points - self.disc) / self.radii).T) > 1.2)

    def quadrant(self, points: np.ndarray) -> np.ndarray:
        """0-3: which quadrant around the fovea (n, 2) points lie in."""
        return (points[:, 0] > self.fovea[0]) * 2 + (points[:, 1] > self.fovea[1])


def blobs(
    rng: np.random.Generator,
    centres: np.ndarray,
    diameters: np.ndarray | float,
    stretch: np.ndarray | float = 1.0,
    angles: np.ndarray | float = 0.0,
    rough: float = 0.1,
    points: int = 26,
) -> np.ndarray:
    """Outlines (n, points, 2) of spots with uneven edges; `stretch` is long axis over short axis."""
    n, turn = len(centres), np.linspace(0, 2 * np.pi, points, endpoint=False)
    waves = np.arange(2, 7)
    amplitude = rough * rng.standard_normal((n, len(waves), 1)) / np.sqrt(waves)[None, :, None]
    phase = rng.uniform(0, 2 * np.pi, (n, len(waves), 1))
    radius = np.maximum(1 + (amplitude * np.cos(waves[None, :, None] * turn + phase)).sum(axis=1), 0.3)
    radius *= np.broadcast_to(diameters, n)[:, None] / 2
    root, angles = np.sqrt(np.broadcast_to(stretch, n))[:, None], np.broadcast_to(angles, n)[:, None]
    # A point is its offset along the spot's long axis and across it.
    along, across = radius * np.cos(turn) * root, radius * np.sin(turn) / root
    x = along * np.cos(angles) - across * np.sin(angles)
    y = along * np.sin(angles) + across * np.cos(angles)
    return np.asarray(centres)[:, None, :] + np.stack([x, y], axis=2)


def _rays(angles: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 2) in the given directions, in radians."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _sizes(
    rng: np.random.Generator, n: int, median: float, spread: float, low: float, high: float
) -> np.ndarray:
    return np.clip(median * np.exp(spread * rng.standard_normal(n)), low, high)


def _places(rng: np.random.Generator, eye: Anatomy, count: int = 3000) -> np.ndarray:
    """Random places on the retina outside the fovea."""
    points = rng.uniform((0, 0), (FOV_WIDTH, 1), (count, 2))
    return points[eye.on_retina(points) & (np.hypot(*(points - eye.fovea).T) > 0.04)]


def _microaneurysms(rng: np.random.Generator, n: int, eye: Anatomy, pixel: float) -> np.ndarray:
    """Small round dots.

    IDRiD's median diameter is 0.0059 of the height, its smallest 0.003. Ours is 0.007 in the masks at 512
    pixels, and never under two pixels at any size: the smallest would vanish from a small picture. (Outlines
    are a little smaller than their masks: anti-aliased edges add to them.)
    """
    diameters = np.maximum(_sizes(rng, n, 0.0060, 0.25, 0.0040, 0.0105), 1.7 * pixel)
    return blobs(rng, _places(rng, eye)[:n], diameters, rng.uniform(1, 1.2, n), rough=0.06)


def _haemorrhage_counts(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """How many in each quadrant, so that the rule gives the planned grade."""
    if plan.grade < 2 or not plan.haemorrhages:
        return np.zeros(4, int)
    if plan.grade == 3:
        return SEVERE_PER_QUADRANT + rng.poisson(3, 4)
    total = 1 + int(rng.gamma(1.6, 7.0))
    counts = rng.multinomial(min(total, 45), rng.dirichlet([1.5] * 4))
    if plan.grade == 2:
        spared = rng.integers(4)
        counts[spared] = min(counts[spared], SEVERE_PER_QUADRANT - 1 - rng.integers(3))
    return counts


def _haemorrhages(rng: np.random.Generator, counts: np.ndarray, eye: Anatomy) -> list[np.ndarray]:
    """Dots and blots, deep in the retina, and flames, which follow the nerve fibres away from the disc."""
    places = _places(rng, eye)
    quadrant = eye.quadrant(places)
    centres = np.concatenate([places[quadrant == q][:count] for q, count in enumerate(counts)])
    n = len(centres)
    flame = rng.random(n) < 0.25
    diameters = _sizes(rng, n, 0.0150, 0.75, 0.006, 0.10)
    fibres = np.arctan2(*(centres - eye.disc).T[::-1]) + rng.normal(0, 0.25, n)
    stretch, angles = rng.uniform(1, 1.7, n), rng.uniform(0, np.pi, n)
    outlines = list(blobs(rng, centres[~flame], diameters[~flame], stretch[~flame], angles[~flame], 0.17))
    for centre, size, angle in zip(centres[flame], diameters[flame], fibres[flame], strict=True):
        strands = centre + rng.normal(0, 0.25 * size, (4, 2))
        turned = angle + rng.normal(0, 0.12, 4)
        widths = size * rng.uniform(0.5, 0.9, 4)
        outlines += list(blobs(rng, strands, widths, rng.uniform(3, 7, 4), turned, 0.2))
    return outlines


def _preretinal(rng: np.random.Generator, eye: Anatomy) -> np.ndarray:
    """A boat: blood between retina and vitreous settles, flat above and round below."""
    centre = eye.fovea + np.array([rng.uniform(-0.12, 0.15), rng.choice([-1, 1]) * rng.uniform(0.2, 0.28)])
    half, depth = rng.uniform(0.06, 0.12), rng.uniform(0.05, 0.10)
    turn = np.linspace(0, np.pi, 24)
    hull = centre + _rays(turn) * (half, depth)
    return hull + gaussian_filter1d(rng.normal(0, 0.008, hull.shape), 2.0, axis=0)


def _exudate_group(rng: np.random.Generator, eye: Anatomy, near_fovea: bool) -> tuple[np.ndarray, np.ndarray]:
    """One group, places (n, 2) and diameters (n,): a cluster, a ring (circinate), or the rays of a star."""
    distance = rng.uniform(0.06, 0.13) if near_fovea else rng.uniform(0.22, 0.45)
    centre = eye.fovea + distance * _rays(rng.uniform(0, 2 * np.pi))
    n = int(_sizes(rng, 1, 46, 0.8, 6, 200)[0])
    kind, turn = rng.choice(["cluster", "ring", "star"], p=[0.5, 0.35, 0.15]), rng.uniform(0, 2 * np.pi, n)
    if kind == "cluster":
        points = centre + rng.normal(0, rng.uniform(0.018, 0.06, 2), (n, 2))
    elif kind == "ring":  # often open to one side
        radius = rng.uniform(0.05, 0.11) + rng.normal(0, 0.011, (n, 1))
        points = centre + radius * _rays(rng.uniform(0, 2 * np.pi) + turn * rng.uniform(0.5, 1.0))
    else:
        rays = np.round(turn * 2.2) / 2.2 + rng.normal(0, 0.04, n)
        points = eye.fovea + distance * rng.uniform(0.5, 1.5, (n, 1)) * _rays(rays)
    # The deposits of one group are alike in size.
    return points, _sizes(rng, n, rng.uniform(0.0040, 0.0075), 0.6, 0.0022, 0.036)


def _hard_exudates(
    rng: np.random.Generator, eye: Anatomy, near_fovea: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Outlines, and distances (n,) to the fovea in disc diameters: some within one, or all outside."""
    groups = [
        _exudate_group(rng, eye, near_fovea and (i == 0 or rng.random() < 0.5))
        for i in range(rng.integers(1, 8))
    ]
    points, sizes = (np.concatenate(part) for part in zip(*groups, strict=True))
    distance = np.hypot(*(points - eye.fovea).T)
    keep = eye.on_retina(points, 0.01) & (distance > (0.015 if near_fovea else 1.1 * eye.diameter))
    if not keep.any():  # all fell outside the picture
        return _hard_exudates(rng, eye, near_fovea)
    n = keep.sum()
    stretch, angles = rng.uniform(1, 2.2, n), rng.uniform(0, np.pi, n)
    outlines = blobs(rng, points[keep], sizes[keep], stretch, angles, 0.16, points=18)
    return list(outlines), distance[keep] / eye.diameter


def _soft_exudates(rng: np.random.Generator, eye: Anatomy) -> list[np.ndarray]:
    """Cotton wool: pale swellings of nerve fibres outside the macula, each of several soft puffs."""
    places = _places(rng, eye)
    places = places[np.hypot(*(places - eye.fovea).T) > 0.15][: 1 + min(rng.poisson(2.2), 8)]
    puffs = []
    for centre, size in zip(places, _sizes(rng, len(places), 0.040, 0.35, 0.02, 0.075), strict=True):
        angle = np.arctan2(*(centre - eye.disc)[::-1]) + np.pi / 2 + rng.normal(0, 0.3)
        where = centre + rng.normal(0, 0.25, (4, 1)) * size * _rays(angle)
        puffs.extend(blobs(rng, where, size * rng.uniform(0.6, 1.0, 4), rng.uniform(1, 1.6, 4), angle, 0.15))
    return puffs


def draw_findings(rng: np.random.Generator, plan: Plan, eye: Anatomy, pixel: float) -> Findings:
    """Draw lots for the lesions that a plan asks for.

    Args:
        pixel: one pixel of the picture, in units of its height.
    """
    found = Findings()
    stretch = eye.radii[0] / eye.radii[1]
    found.outlines["OD"] = list(blobs(rng, eye.disc[None], eye.diameter, stretch, rough=0.008, points=60))
    if plan.grade > 0:
        typical, fewest, most = (36, 3, 125) if plan.grade > 1 else (7, 2, 16)
        count = int(_sizes(rng, 1, typical, 0.7, fewest, most)[0])
        found.outlines["MA"] = list(_microaneurysms(rng, count, eye, pixel))
    if plan.grade < 2:
        return found
    counts = _haemorrhage_counts(rng, plan)
    found.haemorrhages, found.outlines["HE"] = counts.tolist(), _haemorrhages(rng, counts, eye)
    if plan.grade == 4:
        found.preretinal = bool(rng.random() < 0.4)
        found.neovascularisation = not found.preretinal or bool(rng.random() < 0.6)
        if found.preretinal:
            found.outlines["HE"].append(_preretinal(rng, eye))
    # In IDRiD three in four of the grades 2-4 have exudates near the fovea, one in seven only elsewhere. They
    # are certain where nothing else would make a 2.
    if plan.all_kinds or not plan.haemorrhages or rng.random() < 0.9:
        near = bool(rng.random() < 0.85)
        found.outlines["EX"], found.exudate_distances = _hard_exudates(rng, eye, near)
    if plan.soft_exudates if plan.soft_exudates is not None else rng.random() < 0.3:
        found.outlines["SE"] = _soft_exudates(rng, eye)
    return found
