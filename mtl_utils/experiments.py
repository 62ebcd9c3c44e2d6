"""The named runs of the papers: name -> configuration, at the size of each profile."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtl_utils.encoders import BUNDLED_ENCODER
from mtl_utils.errors import MTLError
from mtl_utils.runtime import check_profile
from mtl_utils.training import Config


@dataclass(frozen=True)
class Experiment:
    """A named run.

    Attributes:
        config: at the paper's own settings.
        paper: which of the four texts.
        table: where the paper shows it; '-' where its text only mentions it.
        about: one line for `mtl experiments`.
        needs: the parts of IDRiD that it reads.
    """

    config: Config
    paper: str
    table: str
    about: str
    needs: str = "IDRiD A and B"


REPORT = "shared-encoder report"

EXPERIMENTS: dict[str, Experiment] = {
    experiment.config.name: experiment
    for experiment in (
        Experiment(
            Config("grading-only", tasks=("grading",)), REPORT, "Table 2", "single task: grade", "IDRiD B"
        ),
        Experiment(
            Config("segmentation-only", tasks=("segmentation",)),
            REPORT,
            "Table 2",
            "single task: masks",
            "IDRiD A",
        ),
        Experiment(
            Config("shared-lambda-0.1", one_pass=True),
            REPORT,
            "Table 2",
            "both tasks, lambda 0.1 (the report's choice)",
        ),
        Experiment(
            Config("shared-lambda-1", lambda_cls=1.0, one_pass=True), REPORT, "-", "both tasks, lambda 1"
        ),
        Experiment(
            Config("shared-lambda-10", lambda_cls=10.0, one_pass=True), REPORT, "-", "both tasks, lambda 10"
        ),
        Experiment(
            Config("shared-lambda-0.1-noaug", augment=False, one_pass=True),
            REPORT,
            "-",
            "lambda 0.1 without augmentation",
        ),
        Experiment(
            Config("shared-lambda-1-noaug", lambda_cls=1.0, augment=False, one_pass=True),
            REPORT,
            "-",
            "lambda 1 without augmentation",
        ),
        Experiment(
            Config("shared-lambda-0.1-twopass"),
            REPORT,
            "-",
            "lambda 0.1, the encoder runs once per task, as in the report",
        ),
    )
}

BUNDLED = {"encoder_name": BUNDLED_ENCODER, "encoder_weights": "bundled"}

# What `mtl train --profile P` changes of the paper's settings. With fewer epochs the learning rate falls
# faster, so that it still comes down before the end.
SIZES: dict[str, dict] = {
    "smoke": {
        **BUNDLED,
        "grading_size": 64,
        "segmentation_size": 96,
        "crop_size": 64,
        "batch_size": 4,
        "epochs": 2,
        "steps_per_epoch": 4,
    },
    "cpu": {
        **BUNDLED,
        "grading_size": 320,
        "segmentation_size": 640,
        "crop_size": 320,
        "epochs": 8,
        "lr_gamma": 0.7,
    },
    "gpu": {"epochs": 25, "lr_gamma": 0.9},
    "paper": {"protocol": "paper", "one_pass": False},
}

# A chapter trains live, while the reader waits: smaller again.
LESSON_SIZES: dict[str, dict] = {
    "smoke": SIZES["smoke"],
    "cpu": {
        **BUNDLED,
        "grading_size": 192,
        "segmentation_size": 384,
        "crop_size": 192,
        "epochs": 5,
        "lr_gamma": 0.7,
        "steps_per_epoch": 14,
    },
    "gpu": {**SIZES["gpu"], "epochs": 8, "lr_gamma": 0.7},
    "paper": SIZES["paper"],
}


def experiment(name: str, profile: str | None = None, lesson: bool = False, **overrides) -> Config:
    """The configuration of a named run.

    Args:
        name: one of `EXPERIMENTS`.
        profile: decides the size; None: see `runtime.check_profile`.
        lesson: the smaller size at which a chapter trains live.
        **overrides: any field of `Config`.

    Raises:
        MTLError: no such experiment, profile or field.

    >>> experiment("shared-lambda-1", profile="paper").lambda_cls
    1.0
    """
    if name not in EXPERIMENTS:
        raise MTLError(f"no experiment {name!r}. There are: {', '.join(EXPERIMENTS)}.")
    profile = check_profile(profile)
    sizes = (LESSON_SIZES if lesson else SIZES)[profile]
    try:
        return replace(EXPERIMENTS[name].config, **{**sizes, "profile": profile, **overrides})
    except TypeError as error:
        raise MTLError(f"experiment {name}: {error}") from error
