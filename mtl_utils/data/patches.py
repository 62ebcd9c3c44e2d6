"""Where to cut a training picture out of a large photograph: anywhere, or around a lesion.

At full sharpness a photograph is too large for a training step, and most of it shows no lesion: of random
cuts many have nothing to teach. So a share of the cuts is placed on a pixel of a lesion, each kind of lesion
as often as the next, since hard exudates have thirty times the pixels that microaneurysms have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtl_utils.data.prepare import lesion_bit
from mtl_utils.lesions import DISEASE_LESIONS


@dataclass(frozen=True)
class LesionCrops:
    """Chooses square windows.

    Attributes:
        side: of a window, in pixels of the picture.
        share: of the windows of a photograph with lesions that are placed on a pixel of one, 0 to 1; the
            others lie anywhere.
    """

    side: int
    share: float

    def window(self, packed: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of one window, which lies wholly inside the picture.

        Args:
            packed: the masks of a photograph as bits of one byte, uint8 (H, W), H and W at least `side`
                (`WorkingCopy.packed_mask`).
            rng: draws.

        >>> packed = np.zeros((64, 64), np.uint8); packed[40, 50] = lesion_bit("HE")
        >>> rows, columns = LesionCrops(16, share=1.0).window(packed, np.random.default_rng(0))
        >>> rows.start <= 40 < rows.stop and columns.start <= 50 < columns.stop
        True
        """
        last = np.array(packed.shape) - self.side
        corner = rng.integers(0, last + 1)
        there = np.bitwise_or.reduce(packed, axis=None)
        kinds = [bit for bit in map(lesion_bit, DISEASE_LESIONS) if there & bit]
        if kinds and rng.random() < self.share:
            pixels = np.flatnonzero(packed & kinds[rng.integers(len(kinds))])
            place = np.array(np.unravel_index(pixels[rng.integers(len(pixels))], packed.shape))
            # Not always in the middle: the network would learn that lesions lie there.
            corner = np.clip(place - rng.integers(0, self.side, size=2), 0, last)
        top, left = map(int, corner)
        return slice(top, top + self.side), slice(left, left + self.side)
