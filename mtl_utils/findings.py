"""What a lesion network finds in a photograph, in a few numbers that a grade can be read from."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

THRESHOLDS = (0.05, 0.2, 0.5, 0.8)
"""A pixel counts from these probabilities on. A weak network's finds are faint; they tell as well."""
QUARTER_THRESHOLD = 0.2
QUARTER_PIXELS = 4
"""A quarter of the photograph shows a lesion if more pixels than these reach `QUARTER_THRESHOLD`."""


def finding_names(lesions: Sequence[str]) -> list[str]:
    """Names of the numbers that `findings` gives, in their order.

    >>> finding_names(["MA"])[:4]
    ['MA peak', 'MA expected area', 'MA area at 0.05', 'MA spots at 0.05']
    """
    measures = ("area", "spots", "largest spot")
    by_threshold = [f"{measure} at {threshold}" for threshold in THRESHOLDS for measure in measures]
    return [
        f"{lesion} {name}"
        for lesion in lesions
        for name in ("peak", "expected area", *by_threshold, "quarters")
    ]


def findings(probabilities: np.ndarray) -> np.ndarray:
    """How much of each lesion is where, and how surely?

    The grades of diabetic retinopathy ask for such things: any microaneurysm, many haemorrhages, in how many
    quarters of the retina (Wilkinson et al., Ophthalmology 2003). Quarters are those of the picture, since
    nobody says where the fovea is.

    Args:
        probabilities: of each lesion, float (lesions, H, W) in [0, 1].

    Returns:
        float32 (lesions * 15,), named by `finding_names`. For each lesion: highest probability; expected
        area; for each of `THRESHOLDS` the area, the number of spots (pixels that touch, also by a corner) and
        the area of the largest; and in how many quarters it is found, 0-4. Areas are in thousandths of the
        picture.

    >>> picture = np.zeros((1, 10, 10))
    >>> picture[0, :2, :3] = 0.6
    >>> dict(zip(finding_names(["EX"]), findings(picture).tolist()))["EX area at 0.5"]
    60.0
    """
    return np.concatenate([_of_one(np.ascontiguousarray(each, np.float32)) for each in probabilities])


def _of_one(probability: np.ndarray) -> np.ndarray:
    found = [probability.max(), 1000 * probability.mean()]
    for threshold in THRESHOLDS:
        _, _, stats, _ = cv2.connectedComponentsWithStats((probability >= threshold).astype(np.uint8))
        areas = 1000 / probability.size * stats[1:, cv2.CC_STAT_AREA]  # the first is what lies around
        found += [areas.sum(), len(areas), areas.max(initial=0)]
    rows, columns = (side // 2 for side in probability.shape)
    marked = probability >= QUARTER_THRESHOLD
    halves = (marked[:rows], marked[rows:])
    quarters = [part for half in halves for part in (half[:, :columns], half[:, columns:])]
    found.append(sum(part.sum() > QUARTER_PIXELS for part in quarters))
    return np.array(found, np.float32)
