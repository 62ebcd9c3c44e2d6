"""Samples: shapes and ranges, missing labels said; augmentation repeats by seed, its choices independent."""

from __future__ import annotations

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from mtl_utils.data.augment import (
    RECIPES,
    deepmt_dr_recipe,
    lesions_recipe,
    mtunet_recipe,
    pldmlt_recipe,
    report_recipe,
    resize_recipe,
    training_recipe,
)
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import FOUR_LESIONS, FUSED, LESION_SPACE, RED_YELLOW, RED_YELLOW_SIGMOID, SEPARATE
from mtl_utils.lesions import LESIONS


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
    recipe = report_recipe(task, 96, 64 if task == "segmentation" else None)
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
        report_recipe("painting", 64)


class OneEye:
    """A working copy of one drawn photograph: an eye of radius 28 in a black picture of 64 px. On it a
    bleeding, blue so that the picture itself says where it lies, exudates beside it, and a disc below both.
    """

    grades = np.array([3])
    eye, bleeding = (180, 90, 40), (0, 0, 200)
    places = {  # noqa: RUF012 - rows and columns
        "HE": (slice(20, 32), slice(16, 28)),
        "EX": (slice(20, 32), slice(24, 40)),
        "OD": (slice(28, 44), slice(20, 44)),
    }

    def __init__(self):
        rows, columns = np.ogrid[:64, :64]
        self.distance = np.hypot(rows - 31.5, columns - 31.5)

    def image(self, row: int) -> np.ndarray:
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[self.distance <= 28] = self.eye
        picture[self.places["HE"]] = self.bleeding
        return picture

    def has_mask(self, row: int) -> bool:
        return True

    def mask(self, row: int) -> np.ndarray:
        masks = np.zeros((5, 64, 64), np.uint8)
        for lesion, place in self.places.items():
            masks[LESIONS.index(lesion)][place] = 1
        return masks


@pytest.mark.parametrize("space", [RED_YELLOW, RED_YELLOW_SIGMOID], ids=lambda space: space.name)
def test_each_pixel_of_a_photograph_has_its_class(space):
    eye = OneEye()
    (sample,) = FundusDataset(eye, [0], space=space)
    assert (sample["mask"].shape, sample["mask"].dtype) == ((5, 64, 64), torch.float32)
    assert (sample["mask"].sum(dim=0) == 1).all()
    classes = sample["mask"].argmax(dim=0).numpy()
    expected = np.where(eye.distance <= 28, 0, 4)
    expected[28:44, 20:44] = 3
    expected[20:32, 24:40] = 2  # exudates lie on the disc,
    expected[20:32, 16:28] = 1  # and the bleeding on both
    rim = (eye.distance > 28) & (eye.distance <= 29)  # the hull may go either way there
    assert np.array_equal(classes[~rim], expected[~rim])
    # with the lesions as questions of their own they overlap, and there is no rest
    (lesions,) = FundusDataset(eye, [0], space=LESION_SPACE)
    assert lesions["mask"].sum(dim=(1, 2)).tolist() == [0, 12 * 12, 12 * 16, 0, 16 * 24]


def surely(pixels: np.ndarray) -> np.ndarray:
    """Without the border pixels, which an interpolation may give to either side."""
    return cv2.erode(pixels.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1).astype(bool)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "lesions"])  # which wants windows
def test_masks_move_with_the_picture_and_what_is_black_is_outside(recipe):
    # Without what changes colours, by which the test reads the picture.
    transform = mtunet_recipe(64, channel_shift=0) if recipe == "mtunet" else A.Compose(
        [step for step in training_recipe(recipe, "segmentation", 64, None) if "Bright" not in str(step)]
    )  # fmt: skip
    dataset = FundusDataset(OneEye(), [0] * 24, transform, space=RED_YELLOW)
    centres = set()
    for sample in dataset:
        red, green, blue = (255 * sample["image"]).numpy()
        classes = sample["mask"].argmax(dim=0).numpy()
        assert (sample["mask"].sum(dim=0) == 1).all()
        black, bleeding = surely((red + green + blue) < 1), surely(blue > 190)
        eye = surely((red > 170) & (blue < 50))
        assert (classes[black] == 4).all() and (classes[bleeding] == 1).all()
        assert not np.isin(classes[eye], [1, 4]).any()
        assert black.any() and bleeding.any() and eye.any()
        centres.add(tuple(np.argwhere(classes == 1).mean(axis=0).round().astype(int)))
    assert len(centres) >= 8  # they do move


class TwoMarks(OneEye):
    """Exudates two pixels beside the bleeding."""

    places = {**OneEye.places, "EX": (slice(20, 32), slice(30, 40))}  # noqa: RUF012


def test_fused_and_separate_lesions_of_a_photograph():
    (fused,) = FundusDataset(TwoMarks(), [0], space=FUSED)
    assert (fused["mask"].shape, fused["mask"].dtype) == ((2, 64, 64), torch.float32)
    expected = np.zeros((64, 64), int)
    expected[20:32, 16:28] = expected[20:32, 30:40] = 1
    expected[21:31, 28:30] = 1  # the gap closes up to its last pixel; the disc is background
    assert np.array_equal(fused["mask"].argmax(dim=0), expected)

    (separate,) = FundusDataset(OneEye(), [0], space=SEPARATE)
    assert separate["mask"].shape == (5, 64, 64)
    expected = np.zeros((64, 64), int)
    expected[20:32, 24:40] = SEPARATE.classes.index("EX")
    expected[20:32, 16:28] = SEPARATE.classes.index("HE")  # the smaller kind, above
    assert np.array_equal(separate["mask"].argmax(dim=0), expected)
    for sample in (fused, separate):
        assert (sample["mask"].sum(dim=0) == 1).all()


@pytest.mark.parametrize("space", [FUSED, SEPARATE], ids=lambda space: space.name)
def test_one_class_per_pixel_of_real_marks_after_augmentation(synthetic_copy, space):
    rows = synthetic_copy.table.index[synthetic_copy.table.part == "A"]
    dataset = FundusDataset(synthetic_copy, rows, pldmlt_recipe(64), space=space)
    masks = torch.stack([sample["mask"] for sample in dataset])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.sum(dim=1) == 1).all()
    assert 0 < masks[:, 1:].mean() < 0.2


def test_pldmlts_augmentation_repeats_by_seed(synthetic_copy):
    one, other, another = (
        FundusDataset(synthetic_copy, [0, 1], pldmlt_recipe(96), seed=seed, space=FUSED) for seed in (5, 5, 6)
    )
    for index in (0, 1):
        for key in ("image", "mask"):
            assert torch.equal(one[index][key], other[index][key])
        assert not torch.equal(one[index]["image"], another[index]["image"])
    assert (one[0]["image"].shape, one[0]["mask"].shape) == ((3, 96, 96), (2, 96, 96))


def test_pldmlts_crops_keep_most_of_the_photograph():
    # The corner pixels of a white picture: without rotation no crop brings black into it, and what a crop
    # leaves out is a fifth at the most, read off a ramp from 0 to 255.
    class Ramp(OneEye):
        def image(self, row: int) -> np.ndarray:
            return np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)

    shares = []
    for sample in FundusDataset(Ramp(), [0] * 40, pldmlt_recipe(64, rotation=0)):
        ramp = sample["image"][0, 32]
        shares.append(abs(ramp[-1] - ramp[0]).item())
    # a side of sqrt(0.8 / 1.1) to 1; the ramp loses a grey level or two at either end
    assert 0.85 - 0.03 <= min(shares) < 0.93 and max(shares) > 0.95


def test_mtunets_augmentation_repeats_by_seed(synthetic_copy):
    one, other, another = (
        FundusDataset(synthetic_copy, [0, 1], mtunet_recipe(96), seed=seed, space=RED_YELLOW)
        for seed in (5, 5, 6)
    )
    for index in (0, 1):
        for key in ("image", "mask"):
            assert torch.equal(one[index][key], other[index][key])
        assert not torch.equal(one[index]["image"], another[index]["image"])
    assert one[0]["image"].shape == (3, 96, 96)
    (crop,) = FundusDataset(synthetic_copy, [0], mtunet_recipe(96, 32), space=RED_YELLOW)
    assert crop["image"].shape[1:] == crop["mask"].shape[1:] == (32, 32)


def test_mtunets_channels_are_shifted_each_for_itself():
    still = {"rotation": 0, "shift": 0, "shear": 0, "zoom": 0}
    dataset = FundusDataset(OneEye(), [0] * 40, mtunet_recipe(64, **still, channel_shift=20))
    middle = np.array([(255 * sample["image"][:, 50, 32]).round().numpy() for sample in dataset])
    shifts = middle - OneEye.eye
    assert np.abs(shifts).max() <= 20
    moved = (shifts != 0).any(axis=1)
    assert 8 <= moved.sum() <= 32  # half of 40; four standard deviations are 12.6
    assert len(np.unique(shifts[moved], axis=0)) > 4
    assert (np.ptp(shifts[moved], axis=1) > 0).any()


class Speckled(OneEye):
    """No pixel of the picture is like another, and the marks follow from it."""

    def image(self, row: int) -> np.ndarray:
        return np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)

    def mask(self, row: int) -> np.ndarray:
        return np.stack([*(self.image(row) > 128).transpose(2, 0, 1)] + 2 * [np.ones((64, 64))])


def eight_versions(sample: dict[str, torch.Tensor]) -> list[np.ndarray]:
    """A picture above its masks, turned and mirrored in every way, (7, H, W)."""
    layers = torch.cat([sample["image"], sample["mask"]]).numpy()
    turned = [np.rot90(layers, quarters, axes=(1, 2)) for quarters in range(4)]
    return [*turned, *(version[:, :, ::-1] for version in turned)]


def test_deepmt_drs_pictures_are_turned_and_mirrored_and_nothing_else():
    (still,) = FundusDataset(Speckled(), [0], resize_recipe(32), space=FOUR_LESIONS)
    versions, seen = eight_versions(still), set()
    for sample in FundusDataset(Speckled(), [0] * 60, deepmt_dr_recipe(32), space=FOUR_LESIONS):
        layers = torch.cat([sample["image"], sample["mask"]]).numpy()
        (which,) = (number for number, version in enumerate(versions) if np.array_equal(layers, version))
        seen.add(which)
    assert seen == set(range(8))


def test_deepmt_drs_crops_have_the_pictures_own_pixels():
    (still,) = FundusDataset(Speckled(), [0], resize_recipe(64), space=FOUR_LESIONS)
    windows = [sliding_window_view(version, (24, 24), axis=(1, 2)) for version in eight_versions(still)]
    places = set()
    for sample in FundusDataset(Speckled(), [0] * 12, deepmt_dr_recipe(64, 24), space=FOUR_LESIONS):
        crop = torch.cat([sample["image"], sample["mask"]]).numpy()
        corner = [(each[..., 0, 0] == crop[:, None, None, 0, 0]).all(axis=0) for each in windows]
        found = [
            (number, *place)
            for number, candidates in enumerate(corner)
            for place in np.argwhere(candidates)
            if np.array_equal(windows[number][:, *place], crop)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 8


class OneSpot(OneEye):
    """A bright spot that is a lesion."""

    spot = (np.hypot(*(np.mgrid[:64, :64] - 32)) <= 3).astype(np.uint8)

    def image(self, row: int) -> np.ndarray:
        return np.repeat(255 * self.spot[..., None], 3, axis=2)

    def mask(self, row: int) -> np.ndarray:
        return np.stack([self.spot] * len(LESIONS))


@pytest.mark.parametrize("name", RECIPES)
def test_masks_lie_on_the_picture(name):
    crop = None if name == "pldmlt" else 48
    drawn = FundusDataset(OneSpot(), [0] * 200, training_recipe(name, "segmentation", 64, crop))
    offsets = []
    for sample in drawn:
        bright, mask = ((sample[key][0] > 0.5).nonzero().float() for key in ("image", "mask"))
        if len(bright) and bright.min() > 2 and bright.max() < len(sample["mask"][0]) - 3:
            offsets.append((mask.mean(0) - bright.mean(0)).norm())
    assert len(offsets) > 100
    assert np.mean(offsets) < 0.3  # half a pixel down and to the right would be 0.7


def test_recipes_are_found_by_name():
    for task in ("grading", "segmentation"):
        for crop, last in ((None, []), (32, ["RandomCrop"])):
            steps = [type(step).__name__ for step in training_recipe("mtunet", task, 64, crop)]
            assert steps == ["Resize", "Affine", "HorizontalFlip", "VerticalFlip", "RGBShift", *last]
        steps = [type(step).__name__ for step in training_recipe("pldmlt", task, 64, None)]
        assert steps == ["RandomResizedCrop", "Rotate", "HorizontalFlip", "VerticalFlip"]
        steps = [type(step).__name__ for step in training_recipe("deepmt-dr", task, 64, 32)]
        assert steps == ["Resize", "RandomRotate90", "HorizontalFlip", "RandomCrop"]
    names = [type(step).__name__ for step in training_recipe("report", "segmentation", 64, 32)]
    assert "RandomCrop" in names and "Affine" not in names
    with pytest.raises(MTLError, match=r"'watercolour'.*report, mtunet, pldmlt"):
        training_recipe("watercolour", "grading", 64, None)


def test_the_reports_augmentation_has_its_public_settings():
    crop, flip, upside, turn, blur, colour = report_recipe("grading", 64)
    assert tuple(crop.scale) == (0.8, 1.0) and tuple(turn.limit) == (-15, 15)
    assert [each.p for each in (flip, upside, turn, blur, colour)] == [0.5, 0.2, 1, 0.25, 0.25]
    _, turn, crop, flip, blur, light = report_recipe("segmentation", 64, 32)
    assert tuple(turn.limit) == (-15, 15) and (crop.height, crop.width) == (32, 32)
    assert [each.p for each in (turn, flip, blur, light)] == [1, 0.5, 0.25, 0.25]
    assert tuple(light.brightness_limit) == tuple(light.contrast_limit) == (-0.1, 0.1)


def test_the_courses_own_augmentation_has_strong_colours_and_half_of_the_window():
    crop, turn, flip, colour, blur = lesions_recipe(32)
    assert tuple(crop.scale) == (0.5, 1.0)
    assert [each.p for each in (turn, flip, colour, blur)] == [1, 0.5, 0.8, 0.1]
