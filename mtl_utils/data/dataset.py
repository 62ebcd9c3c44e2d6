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

from mtl_utils.data.fov import inside_field_of_view
from mtl_utils.data.patches import LesionCrops
from mtl_utils.data.prepare import WorkingCopy, unpack
from mtl_utils.label_spaces import LESION_SPACE, LabelSpace

UNKNOWN_GRADE = -1


class FundusDataset(Dataset):
    """Photographs of a working copy with whatever labels they have.

    Args:
        copy: the working copy.
        rows: positions in its table, as from `Split.rows`.
        transform: from `data.augment`; None gives the pictures as they are.
        seed: of the augmentation; a trainer gives another one each epoch. Sample i depends on `seed` and i
            alone, not on the order or the process in which it is drawn.
        space: what the channels of the masks mean.
        crops: which part of a photograph with masks the transform gets; None: all of it.

    Each sample is a dict:
        image: float32 (3, H, W), RGB in [0, 1].
        grade: int64, 0-4, or -1 where unknown.
        mask: float32 (classes, H, W), 0 or 1, channels as in `space.classes`; zeros where unknown.
        has_mask: bool, were the lesions of this photograph drawn?
        row: int64, position in the table.
    """

    def __init__(
        self,
        copy: WorkingCopy,
        rows: Sequence[int],
        transform: A.Compose | None = None,
        seed: int = 0,
        space: LabelSpace = LESION_SPACE,
        crops: LesionCrops | None = None,
    ):
        self.copy = copy
        self.rows = np.asarray(rows, dtype=int)
        self.transform = transform
        self.seed = seed
        self.space = space
        self.crops = crops

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = int(self.rows[index])
        picture = {"image": self.copy.image(row)}
        has_mask = bool(self.copy.has_mask(row))
        if has_mask:
            if self.crops:  # cut first: the masks of a large photograph take long to unpack
                packed = self.copy.packed_mask(row)
                window = self.crops.window(packed, np.random.default_rng([self.seed, index, 1]))
                picture["image"], lesions = picture["image"][window], unpack(packed[window])
            else:
                lesions = self.copy.mask(row)
            layers = [*self.space.group(lesions)]
            if self.space.has_outside:
                # Where a turned picture is filled with black this is filled with 0, and so is 'outside'.
                layers.append(inside_field_of_view(picture["image"]))
            picture["mask"] = np.stack(layers, axis=-1)
        if self.transform is not None:
            # albumentations keeps random generators of its own, which no global seed reaches. Its
            # `set_random_seed` would give each transform the same numbers: who is flipped would also be
            # turned left. With `set_random_state` they take turns at one generator.
            own = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
            self.transform.set_random_state(np.random.default_rng(own), random.Random(own))
            picture = self.transform(**picture)
        if has_mask:
            layers, groups = np.moveaxis(picture["mask"], -1, 0), len(self.space.marked)
            mask = self.space.target(layers[:groups], *layers[groups:])
        else:
            mask = np.zeros((len(self.space.classes), *picture["image"].shape[:2]))
        return {
            "image": torch.from_numpy(np.moveaxis(picture["image"], -1, 0).astype(np.float32) / 255),
            "grade": torch.tensor(self.copy.grades[row]),
            "mask": torch.from_numpy(mask.astype(np.float32)),
            "has_mask": torch.tensor(has_mask),
            "row": torch.tensor(row),
        }
