"""Draw one synthetic fundus photograph and its masks.

Light is drawn as absorption: every structure adds to the logarithm of the colour, so that a haemorrhage over
a vessel is darker than either, and a dark exposure darkens all alike. Colours were read off IDRiD. Units as
in `synthetic_findings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d

from mtl_utils.data.synthetic_findings import (
    FOV_CENTRE,
    FOV_RADIUS,
    FOV_WIDTH,
    Anatomy,
    Findings,
    Plan,
    blobs,
    dme_risk,
    draw_findings,
)
from mtl_utils.lesions import LESIONS

ASPECT = 4288 / 2848
FOV_LEFT = 0.0955  # the circle stands left of the middle
_TEETH = np.array(
    [[1.06, 1.09, 1.123, 1.124, 1.146, 1.143, 1.1], [0.16, 0.163, 0.172, 0.2, 0.207, 0.232, 0.27]]
).T
_CANVAS = 1024  # vessels and lesions are drawn at least this high, then averaged down: thin lines stay thin
_SHIFT = 4  # OpenCV draws at 1/16 of a pixel

# Natural logarithm of the gain in red, green, blue, read off IDRiD (lesion against the retina beside it).
_GAIN = {
    "vein": (-0.34, -0.88, -0.55),
    "artery": (-0.12, -0.58, -0.45),
    "MA": (-0.28, -0.66, -0.35),
    "HE": (-0.33, -0.85, -0.50),
    "EX": (0.37, 0.94, 0.50),
    "SE": (0.24, 0.50, 0.80),
    "OD": (0.31, 0.47, 0.55),
    "cup": (0.10, 0.20, 0.70),
    "macula": (-0.20, -0.40, -0.35),
    "choroid": (0.05, 0.16, 0.15),
    "sheen": (0.10, 0.26, 0.55),
}


@dataclass(frozen=True)
class SyntheticEye:
    """A photograph uint8 (H, W, 3), a mask bool (H, W) for each of `LESIONS`, grade 0-4, DME risk 0-2."""

    image: np.ndarray
    masks: dict[str, np.ndarray]
    grade: int
    dme: int
    findings: Findings


@dataclass(frozen=True)
class _Vessel:
    points: np.ndarray
    widths: np.ndarray
    vein: bool


def _wiggle(rng: np.random.Generator, points: np.ndarray, amount: float) -> np.ndarray:
    """Bend a line softly: vessels are never as straight as splines."""
    noise = gaussian_filter1d(rng.standard_normal(points.shape), 3.0, axis=0, mode="nearest")
    return points + amount * noise * np.linspace(0, 1, len(points))[:, None] ** 0.5


def _along(control: np.ndarray, count: int = 60) -> np.ndarray:
    steps = np.r_[0, np.cumsum(np.hypot(*np.diff(control, axis=0).T))]
    return make_interp_spline(steps, control, k=3)(np.linspace(0, steps[-1], count))


def _trunks(rng: np.random.Generator, eye: Anatomy) -> list[_Vessel]:
    """The four arcades, an artery and a vein each, and fine vessels straight to nose and macula."""
    span, trunks = eye.fovea[0] - eye.disc[0], []
    # Way points from the disc, in units of its distance to the fovea: to the temple (x) and up or down (y).
    temporal = np.array(
        [[-0.02, 0.02, 0.2, 0.62, 1.1, 1.6, 2.2, 2.9], [0.02, 0.2, 0.5, 0.78, 0.76, 0.6, 0.5, 0.45]]
    ).T
    nasal = np.array([[-0.02, -0.07, -0.22, -0.42, -0.6], [0.02, 0.2, 0.5, 0.9, 1.3]]).T
    for side in (-1, 1):
        reach = rng.uniform(0.92, 1.12)
        for control, width in ((temporal * reach, 0.0155), (nasal, 0.0095)):
            outer = rng.random() < 0.5
            for vein in (True, False):
                # Vein and artery share an arcade but keep apart: one of them, either, swings wider.
                swing = rng.uniform(0.86, 0.98) if vein == outer else rng.uniform(1.0, 1.14)
                jitter = rng.normal(0, 0.05, control.shape) * np.linspace(0.35, 1.5, len(control))[:, None]
                way = control * swing + jitter + (rng.normal(-0.02, 0.03), 0)
                line = _wiggle(rng, eye.disc + span * _along(way) * (1, side), 0.018)
                widest = width * rng.uniform(0.85, 1.1) * (1.0 if vein else 0.66)
                trunks.append(_Vessel(line, widest * np.linspace(1, 0.4, len(line)), vein))
    for _ in range(rng.integers(7, 11)):
        to_macula = rng.random() < 0.35
        angle = rng.normal(0, 0.45) if to_macula else np.pi + rng.normal(0, 0.75)
        length = (0.55 if to_macula else 0.9) * span * rng.uniform(0.6, 1.0)
        start = eye.disc - (0.02 * span, 0)
        line = _branch_line(rng, start, angle, rng.normal(0, 0.4), length)
        widths = rng.uniform(0.003, 0.0065) * np.linspace(1, 0.4, len(line))
        trunks.append(_Vessel(line, widths, bool(rng.random() < 0.5)))
    return trunks


def _branch_line(
    rng: np.random.Generator, start: np.ndarray, angle: float, bend: float, length: float
) -> np.ndarray:
    count = max(8, int(length * 90))
    wandering = gaussian_filter1d(rng.normal(0, 0.9, count), 3.0, mode="nearest")
    headings = angle + bend * np.linspace(0, 1, count) + wandering
    steps = length / count * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return start + np.cumsum(steps, axis=0) - steps[0]


def _grow(rng: np.random.Generator, parent: _Vessel, generation: int) -> list[_Vessel]:
    """Branches of one vessel: they leave at 35 to 70 degrees, to either side in turn, thinner than it."""
    count, children, side = len(parent.points), [], rng.choice([-1, 1])
    arc = np.hypot(*np.diff(parent.points, axis=0).T).sum()
    for place in np.sort(rng.uniform(0.12, 0.92, rng.poisson((11, 9, 7)[generation - 1] * arc))):
        at = int(place * (count - 1))
        width = parent.widths[at] * rng.uniform(0.3, 0.62)
        if width < 0.0009:
            continue
        ahead = parent.points[min(at + 2, count - 1)] - parent.points[max(at - 2, 0)]
        side, angle = -side, rng.uniform(0.6, 1.2)
        length = rng.uniform(0.12, 0.38) * 0.65 ** (generation - 1)
        heading, bend = np.arctan2(ahead[1], ahead[0]) + side * angle, -side * angle * rng.uniform(-0.1, 0.8)
        line = _branch_line(rng, parent.points[at], heading, bend, length)
        child = _Vessel(line, width * np.linspace(1, 0.35, len(line)), parent.vein)
        children += [child, *(_grow(rng, child, generation + 1) if generation < 3 else [])]
    return children


def _around_fovea(points: np.ndarray, eye: Anatomy) -> np.ndarray:
    """No vessel crosses the fovea: push points away from it, smoothly, so that lines curve around it."""
    away = points - eye.fovea
    distance = np.hypot(*away.T)[:, None] + 1e-6
    return eye.fovea + away / distance * np.sqrt(distance**2 + 0.06**2)


def _vessel_tree(rng: np.random.Generator, eye: Anatomy) -> list[_Vessel]:
    trunks = _trunks(rng, eye)
    tree = [vessel for trunk in trunks for vessel in (trunk, *_grow(rng, trunk, 1))]
    return [replace(vessel, points=_around_fovea(vessel.points, eye)) for vessel in tree]


def _new_vessels(rng: np.random.Generator, eye: Anatomy) -> list[_Vessel]:
    """A fan of fine curly vessels, on the disc or at an arcade."""
    at_disc = rng.random() < 0.4
    beside_arcade = eye.fovea + np.array(
        [rng.uniform(-0.2, 0.3), rng.choice([-1, 1]) * rng.uniform(0.22, 0.34)]
    )
    centre = eye.disc if at_disc else beside_arcade
    lines = []
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(22, 34)):
        start = centre + rng.normal(0, 0.02, 2)
        curl = rng.choice([-1, 1]) * rng.uniform(1.5, 5.0)
        line = _branch_line(rng, start, angle, curl, rng.uniform(0.07, 0.17))
        lines.append(_Vessel(line, np.full(len(line), 0.0032), vein=True))
    return lines


class _Canvas:
    """The field of view at one size: pixel coordinates, smooth noise, and anti-aliased lines and shapes."""

    def __init__(self, size: int):
        self.scale = max(1, -(-_CANVAS // size))
        self.shape = (size, round(FOV_WIDTH * size))
        rows, columns = (np.arange(n, dtype=np.float32) + 0.5 for n in self.shape)
        self.x, self.y = np.meshgrid(columns / size, rows / size)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        return np.round(points * (self.shape[0] * self.scale) * 2**_SHIFT).astype(np.int32)

    def _blank(self) -> np.ndarray:
        return np.zeros((self.shape[0] * self.scale, self.shape[1] * self.scale), np.uint8)

    def _averaged(self, large: np.ndarray) -> np.ndarray:
        return cv2.resize(large, self.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    def fill(self, outlines: Sequence[np.ndarray]) -> np.ndarray:
        """Share of each pixel, 0-1 float32, that lies within any of the outlines."""
        large = self._blank()
        for outline in outlines:
            cv2.fillPoly(large, [self._pixels(outline)], 255, cv2.LINE_AA, _SHIFT)
        return self._averaged(large)

    def lines(self, vessels: Sequence[_Vessel]) -> np.ndarray:
        """Blood in each pixel, 0-1 float32: less along the middle of a vessel, where its wall reflects."""
        large, height = self._blank(), self.shape[0] * self.scale
        for vessel in sorted(vessels, key=lambda v: v.widths[0]):
            pixels, piece = self._pixels(vessel.points), 5
            for strength, share in ((200, 1.0), (245, 0.6), (170, 0.2)):
                if share < 1 and vessel.widths[0] * height < 5:
                    break
                for start in range(0, len(pixels) - 1, piece):
                    width = vessel.widths[start]
                    # Thin vessels hold less blood and are paler.
                    blood = strength * float(np.clip(width / 0.006, 0.4, 1.0))
                    thickness = max(1, round(width * height * share))
                    section = pixels[start : start + piece + 1]
                    cv2.polylines(large, [section], False, blood, thickness, cv2.LINE_AA, _SHIFT)
        return self._averaged(large)

    def noise(self, rng: np.random.Generator, cell: float) -> np.ndarray:
        """Smooth noise of about unit variance whose bumps are `cell` wide."""
        grid = rng.standard_normal((int(1 / cell) + 3, int(FOV_WIDTH / cell) + 3)).astype(np.float32)
        return 1.4 * cv2.resize(grid, self.shape[::-1], interpolation=cv2.INTER_CUBIC)

    def blur(self, field: np.ndarray, sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(field, (0, 0), max(sigma * self.shape[0], 0.2))

    def spot(self, centre: np.ndarray, sigma: float) -> np.ndarray:
        return np.exp(((self.x - float(centre[0])) ** 2 + (self.y - float(centre[1])) ** 2) / (-2 * sigma**2))


def _tissue(rng: np.random.Generator, canvas: _Canvas, eye: Anatomy) -> dict[str, np.ndarray]:
    """How much of each tissue lies in each pixel: choroid, sheen of the nerve fibres, macula."""
    coarse, fine = canvas.noise(rng, 0.09), canvas.noise(rng, 0.022)
    # Choroidal vessels shine through as a net of soft bands: ridges of noise.
    ridges = 0.6 - np.abs(canvas.noise(rng, 0.05)) - 0.5 * np.abs(canvas.noise(rng, 0.03))
    choroid = rng.uniform(0.12, 0.32) * coarse + rng.uniform(0.05, 0.16) * fine
    choroid += 0.6 * rng.random() ** 4 * ridges
    dx, dy = canvas.x - np.float32(eye.disc[0]), canvas.y - np.float32(eye.disc[1])
    radius = np.sqrt(dx * dx + dy * dy)
    # Nerve fibres: fine bright streaks that leave the disc and bend with the arcades.
    angle = np.arctan2(dy, dx - np.float32(0.25) * dy * dy)
    streaks = gaussian_filter1d(rng.standard_normal(900), 1.5, mode="wrap").astype(np.float32) * 2
    streaks = streaks[((angle / (2 * np.pi) + 0.5) * 899).astype(np.int32)]
    veil = np.exp(-(((radius - 0.17) / 0.16) ** 2)) * np.abs(np.sin(angle)) ** 0.7
    halo = np.exp(-np.maximum(radius - eye.radii[1], 0) / 0.05)
    sheen = rng.uniform(0.0, 1.0) ** 1.5 * veil * (1 + 0.22 * streaks) + rng.uniform(0.1, 0.5) * halo
    macula = rng.uniform(0.5, 1.1) * canvas.spot(eye.fovea, rng.uniform(0.07, 0.11))
    macula += rng.uniform(0.3, 1.0) * canvas.spot(eye.fovea, rng.uniform(0.018, 0.03))
    return {"choroid": choroid, "sheen": sheen.astype(np.float32), "macula": macula}


def _structures(
    rng: np.random.Generator, canvas: _Canvas, eye: Anatomy, found: Findings, cover: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Disc, cup, vessels and the four lesions: how much of each lies in each pixel, about 0-1."""
    tree = _vessel_tree(rng, eye)
    new_vessels = _new_vessels(rng, eye) if found.neovascularisation else []
    grain = 0.8 + 0.13 * canvas.noise(rng, 0.012)
    exudate = canvas.blur(cover["EX"], 0.0008)
    uncovered = 1 - 0.8 * exudate  # vessels hardly shine through an exudate
    cup_centre = eye.disc[None] + (0.12 * eye.radii[0], 0)
    cup = blobs(rng, cup_centre, eye.diameter * rng.uniform(0.35, 0.6), 0.9, rough=0.03, points=40)
    veins, arteries = ([vessel for vessel in tree if vessel.vein == vein] for vein in (True, False))
    depth = rng.uniform(0.6, 0.95)
    vessels = {"vein": canvas.lines(veins + new_vessels), "artery": canvas.lines(arteries)}
    temporal = np.clip(0.85 + 0.3 * (canvas.x - float(eye.disc[0])) / float(eye.radii[0]), 0.45, 1.1)
    return {
        **{kind: canvas.blur(blood, 0.0009) * uncovered * depth for kind, blood in vessels.items()},
        "OD": rng.uniform(0.9, 1.25) * canvas.blur(cover["OD"], 0.004) * temporal,
        "cup": rng.uniform(0.3, 1.1) * canvas.blur(canvas.fill(cup), 0.012),
        "MA": canvas.blur(cover["MA"], 0.0011) * rng.uniform(0.75, 1.1),
        "HE": canvas.blur(cover["HE"], 0.0022) * grain * rng.uniform(0.7, 1.05),
        "EX": exudate * (0.95 + 0.1 * canvas.noise(rng, 0.02)) * rng.uniform(0.85, 1.1),
        "SE": cover["SE"] * (0.5 + 0.5 * grain) * rng.uniform(0.9, 1.25),
    }


def _light(rng: np.random.Generator, canvas: _Canvas) -> np.ndarray:
    """Logarithm of the illumination: brighter to one side, darker to the rim, uneven."""
    dx, dy = (canvas.x - FOV_CENTRE[0]) / FOV_RADIUS, (canvas.y - FOV_CENTRE[1]) / FOV_RADIUS
    rim = dx * dx + dy * dy
    tilt, fall, edge = rng.normal(0, 0.10, 2), rng.uniform(0.1, 0.35), rng.uniform(0.0, 0.15)
    light = tilt[0] * dx + tilt[1] * dy - fall * rim - edge * rim**4 + 0.07 * canvas.noise(rng, 0.35)
    return light.astype(np.float32)


def _expose(rng: np.random.Generator, canvas: _Canvas, log_colour: np.ndarray) -> np.ndarray:
    """Camera: exposure and tint, a veil of stray light, blur and sensor noise."""
    # Most photographs are orange, some pink.
    blue = rng.uniform(0.03, 0.14) if rng.random() < 0.78 else rng.uniform(0.14, 0.36)
    tint = rng.uniform(148, 225) * np.array([1.0, rng.uniform(0.36, 0.54), blue])
    image = np.exp(log_colour) * tint.astype(np.float32)
    stray = np.clip(rng.uniform(-0.05, 0.05) + 0.06 * canvas.noise(rng, 0.4), 0, 0.2)[..., None]
    image += stray * (np.float32([190, 142, 86]) - image)
    image[..., 2] = np.minimum(image[..., 2], 0.8 * image[..., 1])  # nothing in an eye is blue
    image /= np.sqrt(np.sqrt(1 + np.square(np.square(image / 255))))  # sensors saturate softly
    image = canvas.blur(image, rng.uniform(0.0003, 0.0016))
    noise = rng.uniform(0.8, 2.2) * rng.standard_normal(image.shape, np.float32)
    return image + canvas.blur(noise, 0.4 / canvas.shape[0])


def _stop(canvas: _Canvas) -> np.ndarray:
    """The camera's round stop, 0-1 float32: a circle with two teeth at the upper right, in both eyes."""
    turn = np.linspace(0, 2 * np.pi, 720)
    circle = FOV_CENTRE + FOV_RADIUS * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return canvas.fill([circle, _TEETH])


def _frame(field: np.ndarray, size: int) -> np.ndarray:
    """Put the field of view into the black frame of the photograph."""
    whole = np.zeros((size, round(ASPECT * size), *field.shape[2:]), field.dtype)
    left = round(FOV_LEFT * size)
    whole[:, left : left + field.shape[1]] = field
    return whole


def draw_eye(plan: Plan, size: int, rng: np.random.Generator) -> SyntheticEye:
    """Draw one photograph, `size` pixels high and 1.506 times as wide."""
    eye, mirror = Anatomy.draw(rng), rng.choice([1, -1])
    found = draw_findings(rng, plan, eye, pixel=1 / size)
    canvas = _Canvas(size)
    cover = {lesion: canvas.fill(found.outlines[lesion]) for lesion in LESIONS}
    # Cotton wool has no edge: its mask ends where it has faded by half.
    cover["SE"] = canvas.blur(cover["SE"], 0.006)
    parts = {**_tissue(rng, canvas, eye), **_structures(rng, canvas, eye, found, cover)}
    light = _light(rng, canvas)
    channels = [sum((_GAIN[name][i] * part for name, part in parts.items()), light) for i in range(3)]
    stop = _stop(canvas)
    image = np.clip(_expose(rng, canvas, cv2.merge(channels))[:, ::mirror] * stop[..., None], 0, 255).astype(
        np.uint8
    )
    masks = {lesion: _frame((cover[lesion][:, ::mirror] >= 0.5) & (stop >= 0.5), size) for lesion in LESIONS}
    return SyntheticEye(_frame(image, size), masks, found.grade, dme_risk(found.exudate_distances), found)
