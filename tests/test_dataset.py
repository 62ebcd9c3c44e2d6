"""Samples: shapes and ranges, missing labels said; augmentation repeats by seed, its choices independent."""

from __future__ import annotations

import albumentations as A
import numpy as np
import pytest
import torch

from mtl_utils.data.augment import report_recipe
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.errors import MTLError


class OnePicture:
    """A working copy of one picture with a mark in a corner, so that flips can be read off it."""

    grades = np.array([2])

    def image(self, position: int) -> np.ndarray:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[0, 0] = 255
        return picture

    def has_mask(self, position: int) -> bool:
        return False


def test_all_four_flips_come_as_often_as_their_probabilities_say():
    transform = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.2)])
    dataset = FundusDataset(OnePicture(), [0] * 1000, transform)
    corners = {"none": (0, 0), "horizontal": (0, 7), "vertical": (7, 0), "both": (7, 7)}
    seen = {
        name: sum(dataset[index]["image"][0][corner].item() == 1 for index in range(1000))
        for name, corner in corners.items()
    }
    # 1000 x 0.4, 0.4, 0.1 and 0.1; four standard deviations are 62 and 38.
    for name, expected, slack in (
        ("none", 400, 62),
        ("horizontal", 400, 62),
        ("vertical", 100, 38),
        ("both", 100, 38),
    ):
        assert abs(seen[name] - expected) <= slack, seen


def test_a_sample_says_what_is_known(synthetic_copy):
    part_a, part_b = (synthetic_copy.table.index[synthetic_copy.table.part == part][0] for part in "AB")
    masked, graded = FundusDataset(synthetic_copy, [part_a, part_b])
    assert masked["image"].shape == (3, 128, 128)
    assert 0 <= masked["image"].min() < masked["image"].max() <= 1
    assert (masked["grade"].item(), masked["has_mask"].item()) == (-1, True)
    assert torch.equal(masked["mask"], torch.from_numpy(synthetic_copy.mask(part_a)).float())
    assert graded["grade"].item() == synthetic_copy.table.grade[part_b]
    assert not graded["has_mask"]
    assert graded["mask"].abs().sum() == 0


@pytest.mark.parametrize("task", ["grading", "segmentation"])
def test_augmentation_repeats_by_seed_whatever_the_order(synthetic_copy, task):
    recipe = report_recipe(task, True, 96, 64 if task == "segmentation" else None)
    first, second = (FundusDataset(synthetic_copy, [0, 1, 2], recipe, seed=5) for _ in range(2))
    forwards = [first[index] for index in (0, 1, 2)]
    backwards = [second[index] for index in (2, 1, 0)][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])
    assert not torch.equal(
        forwards[0]["image"], FundusDataset(synthetic_copy, [0], recipe, seed=6)[0]["image"]
    )
    assert set(forwards[0]["mask"].unique().tolist()) <= {0.0, 1.0}


def test_an_unknown_task_is_named():
    with pytest.raises(MTLError, match="painting"):
        report_recipe("painting", True, 64)
