"""Augmentation: the recipe of each paper, behind one module, since albumentations 2.0.8 is its last release
under MIT.
"""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for a newer version over the network

import albumentations as A
import cv2

from mtl_utils.errors import MTLError


def _blur() -> A.BasicTransform:
    return A.GaussianBlur(blur_limit=(3, 5), p=0.25)


def _rotate(limit: float = 15) -> A.BasicTransform:
    # Black, as outside of the field of view.
    return A.Rotate(limit=limit, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=0, p=1.0)


def report_recipe(task: str, image_size: int, crop_size: int | None = None) -> A.Compose:
    """The shared-encoder report's augmentation (its author's public configuration; the text prints no
    settings).

    Grading: random resized crop (0.8-1.0 of the area), horizontal flip 0.5, vertical flip 0.2, rotation +-15
    degrees, blur 0.25, colour jitter 0.25. Segmentation: random crop, horizontal flip 0.5, rotation +-15
    degrees, blur 0.25, brightness and contrast +-10 % with probability 0.25. Strength of jitter and blur is
    printed nowhere; we take albumentations' usual small ones.

    Args:
        task: 'grading' or 'segmentation'.
        image_size: side of the square picture, in pixels.
        crop_size: side of segmentation's random crop; None: no crop.

    Raises:
        MTLError: unknown task.
    """
    if task not in ("grading", "segmentation"):
        raise MTLError(f"no recipe for task {task!r}. There are: grading, segmentation.")
    if task == "grading":
        return A.Compose([
            A.RandomResizedCrop(size=(image_size, image_size), scale=(0.8, 1.0), ratio=(0.9, 1.1), p=1.0),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.2),
            _rotate(),
            _blur(),
            A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, p=0.25),
        ])  # fmt: skip
    # Rotated before it is cropped, so that the crop holds no black corners that no photograph has.
    return A.Compose([
        _resize(image_size),
        _rotate(),
        *crop_only(crop_size),
        A.HorizontalFlip(p=0.5),
        _blur(),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.25),
    ])  # fmt: skip


def mtunet_recipe(
    image_size: int,
    crop_size: int | None = None,
    rotation: float = 20.0,
    shift: float = 0.1,
    shear: float = 10.0,
    zoom: float = 0.1,
    channel_shift: int = 20,
) -> A.Compose:
    """MTUnet's augmentation (section Semi-Supervised Training), the same for both tasks: rotation, width and
    height shifts, shear, zoom, both flips, channel shifts.

    The paper names the kinds, for its first network, and prints no strength; ours are usual ones, for all
    networks, rivals included.

    Args:
        image_size: side of the square picture, in pixels.
        crop_size: side of a random crop from it; None or the same size: the whole picture, as in the paper.
        rotation, shear: at the most, in degrees to either side.
        shift, zoom: at the most, as shares of the side and of the size.
        channel_shift: at the most, in grey levels, drawn for each channel.
    """
    return A.Compose([
        _resize(image_size),
        A.Affine(
            rotate=(-rotation, rotation),
            translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
            shear={"x": (-shear, shear), "y": (-shear, shear)},
            scale=(1 - zoom, 1 + zoom),
            p=1.0,
        ),  # filled with black, as outside of the field of view
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.RGBShift(*[(-channel_shift, channel_shift)] * 3, p=0.5),
        *crop_only(crop_size),
    ])  # fmt: skip


def pldmlt_recipe(
    image_size: int, rotation: float = 30.0, area: tuple[float, float] = (0.8, 1.0)
) -> A.Compose:
    """PLDMLT's augmentation (section 4.1, Data Enhancement), the same for both tasks: cropping, rotation,
    flips.

    The paper names the kinds and prints no strength; ours are usual ones. A crop keeps most of the
    photograph, since the grade is that of the whole.

    Args:
        image_size: side of the square picture, in pixels.
        rotation: at the most, in degrees to either side.
        area: smallest and largest share of the photograph that a crop keeps.
    """
    return A.Compose([
        A.RandomResizedCrop(
            size=(image_size, image_size),
            scale=area,
            ratio=(0.9, 1.1),
            interpolation=cv2.INTER_AREA,
            mask_interpolation=cv2.INTER_AREA,
            p=1.0,
        ),
        _rotate(rotation),
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
    ])  # fmt: skip


def deepmt_dr_recipe(image_size: int, crop_size: int | None = None) -> A.Compose:
    """Augmentation for DeepMT-DR, the same for all tasks: quarter turns, flips, crops. Its paper tells of
    none. Nothing here blurs or resamples: what super-resolution shall restore must stay sharp.

    Args:
        image_size: side of the square picture, in pixels.
        crop_size: side of a random crop from it; None: the whole picture.
    """
    return A.Compose(
        [_resize(image_size), A.RandomRotate90(p=1.0), A.HorizontalFlip(p=0.5), *crop_only(crop_size)]
    )


def lesions_recipe(crop_size: int) -> A.Compose:
    """This course's own, for windows cut out of large photographs (`data.patches`): a crop of most of the
    window at up to 1.4 times its scale, quarter turns, flips, strong colours, a little blur. Eyes differ more
    in colour than in anything else.

    Args:
        crop_size: side of what the network gets, in pixels.
    """
    return A.Compose([
        A.RandomResizedCrop(
            size=(crop_size, crop_size),
            scale=(0.5, 1.0),
            ratio=(0.9, 1.1),
            interpolation=cv2.INTER_LINEAR,
            # Not INTER_NEAREST: OpenCV's rounds down, and masks would lie half a pixel beside the picture.
            mask_interpolation=cv2.INTER_LINEAR,
            p=1.0,
        ),
        A.RandomRotate90(p=1.0),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.03, p=0.8),
        A.GaussianBlur(blur_limit=(3, 5), p=0.1),
    ])  # fmt: skip


RECIPES = ("report", "mtunet", "pldmlt", "deepmt-dr", "lesions")


def training_recipe(name: str, task: str, image_size: int, crop_size: int | None) -> A.Compose:
    """The augmentation of one paper for one task, by name.

    Args:
        name: one of `RECIPES`.
        task: 'grading' or 'segmentation'.
        image_size: side of the square picture, in pixels.
        crop_size: side of segmentation's random crop, in pixels, where the recipe has one.

    Raises:
        MTLError: unknown recipe or task.
    """
    if name not in RECIPES:
        raise MTLError(f"no augmentation recipe {name!r}. There are: {', '.join(RECIPES)}.")
    if name == "mtunet":
        return mtunet_recipe(image_size, crop_size)
    if name == "pldmlt":
        return pldmlt_recipe(image_size)
    if name == "lesions":
        return lesions_recipe(crop_size)
    if name == "deepmt-dr":
        return deepmt_dr_recipe(image_size, crop_size)
    return report_recipe(task, image_size, crop_size)


def resize_recipe(image_size: int, crop_size: int | None = None) -> A.Compose:
    """No augmentation: resize, and a random crop where the network learns from crops."""
    return A.Compose([_resize(image_size), *crop_only(crop_size)])


def crop_only(crop_size: int | None) -> list[A.BasicTransform]:
    """A random square crop, or nothing."""
    return [A.RandomCrop(height=crop_size, width=crop_size, p=1.0)] if crop_size else []


def _resize(image_size: int) -> A.BasicTransform:
    return A.Resize(
        height=image_size,
        width=image_size,
        interpolation=cv2.INTER_AREA,
        mask_interpolation=cv2.INTER_AREA,
        p=1.0,
    )
