"""What a named run is, and what all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtl_utils.encoders import BUNDLED_ENCODER
from mtl_utils.training import Config

BUNDLED = {"encoder_name": BUNDLED_ENCODER, "encoder_weights": "bundled"}

REPORT = "shared-encoder report"
MTUNET = "MTUnet"
PLDMLT_PAPER = "PLDMLT"
DEEPMT_DR = "DeepMT-DR"
COURSE = "this course"
"""In place of a paper: a comparison that none of the four texts has."""


@dataclass(frozen=True)
class Experiment:
    """A named run.

    Attributes:
        config: at the paper's own settings.
        paper: which of the four texts, or `COURSE`.
        table: where the paper shows it; '-' where its text only mentions it.
        about: one line for `mtl experiments`.
        needs: the parts of IDRiD that it reads.
        own_encoder: the encoder is the point: no profile puts another in its place. Offline, where the hub's
            weights are out of reach, give `encoder_weights`.
        changes: profile -> settings in which this run differs from the others of its paper; of a lesson
            under '... lesson'.
        family: whose sizes it has (a key of `SIZES`); '': its paper's.
    """

    config: Config
    paper: str
    table: str
    about: str
    needs: str = "IDRiD A and B"
    own_encoder: bool = False
    changes: Mapping[str, dict] = field(default_factory=dict)
    family: str = ""


def square(side: int) -> dict[str, int]:
    """One size for all pictures, without crops."""
    return {"grading_size": side, "segmentation_size": side, "crop_size": side}


# What `mtl train --profile P` changes of the papers' settings. With fewer epochs the learning rate falls
# faster, so that it still comes down before the end.
SMOKE = {
    **BUNDLED,
    "grading_size": 64,
    "segmentation_size": 96,
    "crop_size": 64,
    "batch_size": 4,
    "epochs": 2,
    "rounds": 1,
    "steps_per_epoch": 2,
}
