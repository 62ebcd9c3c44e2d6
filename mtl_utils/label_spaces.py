"""What the channels of a segmentation mean, and how one meaning turns into another.

IDRiD draws five things: MA, HE, EX, SE and the disc. MTUnet (Foo et al., 2020) puts them into groups, red
lesions and yellow lesions, and gives each pixel one class; PLDMLT (Liu and Huang, 2023) fuses the four
lesions into one. This is the only place that knows how the groups and the lesions belong together; datasets,
losses, metrics, predictions and figures ask here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
import torch
from skimage.morphology import disk

from mtl_utils.errors import MTLError
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS

BACKGROUND, OUTSIDE = "background", "outside"


def close_gaps(mask: np.ndarray, radius: int) -> np.ndarray:
    """Morphological closing with a disc: what it cannot reach between the marks is marked as well. A gap of
    up to twice the radius between long edges closes; between two single pixels the disc slips through.

    Args:
        mask: (H, W), uint8 or float32. Its border counts as one more edge.
        radius: of the disc, in pixels; 0 changes nothing.

    >>> close_gaps(np.array([[1, 0, 1, 0, 0, 0, 0]], np.uint8), radius=1).tolist()
    [[1, 1, 1, 0, 0, 0, 0]]
    """
    if radius == 0:
        return mask
    # OpenCV's own ellipse of radius 2 is wider than it is high.
    return cv2.morphologyEx(np.ascontiguousarray(mask), cv2.MORPH_CLOSE, disk(radius))


@dataclass(frozen=True)
class LabelSpace:
    """The meaning of a segmentation's channels.

    Attributes:
        name: as in `Config.label_space`.
        groups: what is marked -> the lesions that belong to it, in channel order.
        disease: the groups that are signs of the disease: means over lesions are taken over these.
        classes: the network's channels in order; where they are exclusive, the rest of the picture has
            classes of its own.
        exclusive: each pixel has one class (softmax); else each channel is a question of its own (sigmoid).
        priority: where two groups cover one pixel of exclusive classes, the later name wins.
        closing: radius of the disc that closes gaps within a group (`close_gaps`), as a share of the
            picture's side.
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]
    disease: tuple[str, ...]
    classes: tuple[str, ...]
    exclusive: bool
    priority: tuple[str, ...] = ()
    closing: float = 0.0

    @property
    def marked(self) -> tuple[str, ...]:
        """What metrics and figures speak of: the groups, without background and outside."""
        return tuple(self.groups)

    @property
    def has_rest(self) -> bool:
        """Has the rest of the picture a class of its own, the background?"""
        return BACKGROUND in self.classes

    @property
    def has_outside(self) -> bool:
        """Has what lies outside of the field of view a class of its own?"""
        return OUTSIDE in self.classes

    def group(self, lesions: np.ndarray) -> np.ndarray:
        """(5, H, W) lesions, masks or probabilities -> (groups, H, W): the largest of each group's members,
        with gaps closed where the space says so.
        """
        channels = [[LESIONS.index(lesion) for lesion in members] for members in self.groups.values()]
        radius = ceil(self.closing * lesions.shape[-1])
        return np.stack([close_gaps(lesions[members].max(axis=0), radius) for members in channels])

    def lesions(self, marked: np.ndarray) -> np.ndarray:
        """The way back, (groups, ...) -> (5, ...): each lesion gets what its group has.

        What was put together cannot be taken apart: a red pixel comes back as MA and as HE. What no group has
        (in some spaces the disc) comes back as 0. Without a closing, `group(lesions(x))` is x again.
        """
        owner = {lesion: place for place, members in enumerate(self.groups.values()) for lesion in members}
        nothing = np.zeros_like(marked[0])
        return np.stack([marked[owner[lesion]] if lesion in owner else nothing for lesion in LESIONS])

    def target(
        self,
        marked: np.ndarray,
        inside: np.ndarray | None = None,
        priority: Sequence[str] | None = None,
    ) -> np.ndarray:
        """What the network shall answer, one channel per class.

        Args:
            marked: 0 or 1, (groups, H, W).
            inside: 0 or 1, (H, W): the field of view; needed where what lies outside is a class of its own
                (`has_outside`). A marked pixel is never 'outside'.
            priority: which group wins a pixel that several cover, the last is the strongest; None: the
                space's own.

        Returns:
            0 or 1, (classes, H, W). With `has_rest` each pixel has exactly one 1; else it is `marked`.
        """
        if not self.has_rest:
            return marked
        chosen = np.full(marked.shape[1:], self.classes.index(BACKGROUND))
        if self.has_outside:
            chosen[inside == 0] = self.classes.index(OUTSIDE)
        for name in self.priority if priority is None else priority:
            chosen[marked[self.marked.index(name)] > 0] = self.classes.index(name)
        return (chosen == np.arange(len(self.classes)).reshape(-1, 1, 1)).astype(marked.dtype)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes, ...) -> probabilities of the classes, in float32."""
        return logits.float().softmax(dim=1) if self.exclusive else logits.float().sigmoid()

    def of_marked(self, channels: torch.Tensor) -> torch.Tensor:
        """The channels (B, classes, ...) that metrics look at: (B, groups, ...)."""
        if self.classes == self.marked:
            return channels
        return channels[:, [self.classes.index(name) for name in self.marked]]


LESION_SPACE = LabelSpace(
    "lesions", {lesion: (lesion,) for lesion in LESIONS}, DISEASE_LESIONS, LESIONS, exclusive=False
)
"""Each lesion a question of its own: the shared-encoder report."""

RED_YELLOW = LabelSpace(
    "red-yellow",
    {"red": ("MA", "HE"), "yellow": ("EX", "SE"), "disc": ("OD",)},
    disease=("red", "yellow"),
    classes=(BACKGROUND, "red", "yellow", "disc", OUTSIDE),
    exclusive=True,
    priority=("disc", "yellow", "red"),  # lesions lie on the disc, and red ones are small
)
"""MTUnet's five classes. Its text says 'DR classes' and lists none; its figures show red and yellow lesions
and the disc. Background, and what lies outside the field of view, make the five."""

RED_YELLOW_SIGMOID = replace(RED_YELLOW, name="red-yellow-sigmoid", exclusive=False)
"""The same classes with a sigmoid each: what MTUnet replaced by its softmax, to compare."""

FUSED = LabelSpace(
    "fused",
    {"lesion": DISEASE_LESIONS},
    disease=("lesion",),
    classes=(BACKGROUND, "lesion"),
    exclusive=True,
    priority=("lesion",),
    closing=1 / 512,
)
"""PLDMLT's two classes: its section 4.1 fuses the four lesions with 'morphological methods'. Which, it does
not say; ours is the union, closed with a disc of two pixels' radius at 1024 px, the paper's size."""

SEPARATE = LabelSpace(
    "separate",
    {lesion: (lesion,) for lesion in DISEASE_LESIONS},
    disease=DISEASE_LESIONS,
    classes=(BACKGROUND, *DISEASE_LESIONS),
    exclusive=True,
    priority=("SE", "EX", "HE", "MA"),  # the smaller a lesion, the less it can spare a pixel
)
"""The four lesions as exclusive classes, for PLDMLT without fusing, and for data whose disc nobody drew."""

FOUR_LESIONS = LabelSpace(
    "four-lesions",
    {lesion: (lesion,) for lesion in DISEASE_LESIONS},
    disease=DISEASE_LESIONS,
    classes=DISEASE_LESIONS,
    exclusive=False,
)
"""DeepMT-DR's four maps, a question each; the disc is not asked for."""

LABEL_SPACES = {
    space.name: space
    for space in (LESION_SPACE, RED_YELLOW, RED_YELLOW_SIGMOID, FUSED, SEPARATE, FOUR_LESIONS)
}


def label_space(name: str) -> LabelSpace:
    """A label space by its name.

    Raises:
        MTLError: no such space.

    >>> label_space("red-yellow").classes
    ('background', 'red', 'yellow', 'disc', 'outside')
    """
    if name not in LABEL_SPACES:
        raise MTLError(f"no label space {name!r}. There are: {', '.join(LABEL_SPACES)}.")
    return LABEL_SPACES[name]
