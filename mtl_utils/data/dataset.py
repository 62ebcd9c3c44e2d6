"""One torch Dataset for all tasks. A sample may lack its grade or its masks; it says so, and the losses
leave the gap out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import albumentations as A
import numpy as np
import torch
from torch.utils.data import Dataset

from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.lesions import LESIONS

UNKNOWN_GRADE = -1


class FundusDataset(Dataset):
    """Photographs of a working copy with whatever labels they have.

    Args:
        copy: the working copy.
        rows: positions in its table, as from `Split.rows`.
        transform: from `data.augment`; None gives the pictures as they are.
        seed: of the augmentation; a trainer gives another one each epoch. Sample i depends on `seed` and i
            alone, not on the order or the process in which it is drawn.

    Each sample is a dict:
        image: float32 (3, H, W), RGB in [0, 1].
        grade: int64, 0-4, or -1 where unknown.
        mask: float32 (5, H, W), 0 or 1, channels as in `LESIONS`; zeros where unknown.
        has_mask: bool, were the lesions of this photograph drawn?
        row: int64, position in the table.
    """

    def __init__(
        self, copy: WorkingCopy, rows: Sequence[int], transform: A.Compose | None = None, seed: int = 0
    ):
        self.copy = copy
        self.rows = np.asarray(rows, dtype=int)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = int(self.rows[index])
        picture = {"image": self.copy.image(row)}
        if self.copy.has_mask(row):
            picture["mask"] = np.moveaxis(self.copy.mask(row), 0, -1)
        if self.transform is not None:
            # albumentations keeps random generators of its own, which no global seed reaches. Its
            # `set_random_seed` would give each transform the same numbers: who is flipped would also be
            # turned left. With `set_random_state` they take turns at one generator.
            own = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
            self.transform.set_random_state(np.random.default_rng(own), random.Random(own))
            picture = self.transform(**picture)
        height, width = picture["image"].shape[:2]
        mask = picture.get("mask", np.zeros((height, width, len(LESIONS)), np.uint8))
        grade = self.copy.grades[row]
        return {
            "image": torch.from_numpy(np.moveaxis(picture["image"], -1, 0).astype(np.float32) / 255),
            "grade": torch.tensor(grade),
            "mask": torch.from_numpy(np.moveaxis(mask, -1, 0).astype(np.float32)),
            "has_mask": torch.tensor(bool(self.copy.has_mask(row))),
            "row": torch.tensor(row),
        }
