"""The named runs of this course's own questions: the fair comparison, the best lesions and grades, and how to
balance two tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mtl_utils.balancing import BALANCINGS, FIXED
from mtl_utils.encoders import SECOND_BUNDLED_ENCODER
from mtl_utils.experiments.base import BUNDLED, COURSE, SMOKE, Experiment, square
from mtl_utils.systems.base import TASKS
from mtl_utils.systems.deepmt_dr import Hierarchy
from mtl_utils.systems.pldmlt import LabelUpdate
from mtl_utils.training import LAST, Config

FAIR, LESIONS, GRADES, FINDINGS, BALANCE = "fair comparison", "lesions", "grades", "findings", "balancing"
"""Families of runs, which have their sizes in common."""

# ---------------------------------------- the four systems side by side
_FAIR_BASE = Config(
    "fair-shared",
    recipe="pldmlt",
    **BUNDLED,
    dropout=0.0,
    **square(384),
    batch_size=16,
    one_pass=True,
    epochs=10,
    lr_gamma=0.7,
    patience=10,
    chosen=LAST,
)
"""What all systems of the fair comparison have in common: encoder, photographs, augmentation, steps, learning
rate, and that the last checkpoint counts. Only losses and wiring are a system's own."""

_FAIR_SIZES = {
    "smoke": {**SMOKE, **square(64)},
    "cpu": {**square(256), "batch_size": 4, "epochs": 4, "steps_per_epoch": 40, "lr_gamma": 0.6},
    "gpu": {},
    "paper": {},
}


def _fair(name: str, about: str, needs: str = "IDRiD A and B", **settings) -> Experiment:
    changes = settings.pop("changes", {})
    config = replace(_FAIR_BASE, name=name, **settings)
    return Experiment(config, COURSE, FAIR, about, needs, family=FAIR, changes=changes)


# ---------------------------------------- the best lesions
_LESIONS_BASE = Config(
    "lesions-step-1",
    system="unet",
    label_space="four-lesions",
    tasks=("segmentation",),
    **BUNDLED,
    segmentation_size=1440,
    crop_size=512,
    batch_size=16,
    epochs=60,
    lr_gamma=0.93,
    patience=60,
    chosen=LAST,
)
_LESIONS_SIZES = {
    "smoke": {**SMOKE, "segmentation_size": 128},
    "cpu": {"segmentation_size": 1024, "crop_size": 256, "batch_size": 4, "epochs": 10, "lr_gamma": 0.7},
    "gpu": {},
    "paper": {},
}
_SHARP = {"recipe": "lesions", "lesion_crops": 0.5}
_BEST = {**_SHARP, "mask_loss": "bce+dice", "ema": 0.99}
_LONGER = {
    **_BEST,
    "ema": 0.999,
    "flips": True,
    "rounds": 8,
    "changes": {"cpu": {"lr_gamma": 0.8}, "gpu": {"epochs": 20, "rounds": 24, "lr_gamma": 0.8}},
}


def _lesions(name: str, about: str, changes: Mapping[str, dict] | None = None, **settings) -> Experiment:
    config = replace(_LESIONS_BASE, name=name, **settings)
    return Experiment(config, COURSE, LESIONS, about, "IDRiD A", family=LESIONS, changes=changes or {})


# ---------------------------------------- the best grades
_GRADES_BASE = Config(
    "grade-lite0",
    tasks=("grading",),
    **BUNDLED,
    **square(512),
    batch_size=16,
    epochs=24,
    learning_rate=5e-4,
    lr_gamma=0.87,
    patience=24,
    chosen=LAST,
    ema=0.99,
    flips=True,
)
_GRADES_SIZES = {
    "smoke": {**SMOKE, **square(64)},
    "cpu": {**square(256), "batch_size": 8, "epochs": 8, "lr_gamma": 0.7},
    "gpu": {},
    "paper": {},
}


def _grades(name: str, about: str, needs: str = "IDRiD B", **settings) -> Experiment:
    """A candidate for the best grades: validation chooses among them."""
    config = replace(_GRADES_BASE, name=name, **settings)
    return Experiment(config, COURSE, GRADES, about, needs, family=GRADES, own_encoder=True)


# ---------------------------------------- grades from findings
_BEST_LESIONS = _lesions("lesions-best", "+ mean over mirror images", **_BEST, flips=True)
_FINDINGS_SIZES = {
    profile: {"grading_size": sizes.get("segmentation_size", _LESIONS_BASE.segmentation_size)}
    for profile, sizes in _LESIONS_SIZES.items()
}
"""The lesion network sees the photographs at the size that it learned from."""
_FROM_FINDINGS = Config(
    "grade-from-findings",
    system="findings",
    lesion_network=_BEST_LESIONS.config,
    tasks=("grading",),
    **BUNDLED,
    grading_size=_LESIONS_BASE.segmentation_size,
    batch_size=1,
    epochs=1,
    augment=False,
    chosen=LAST,
)

# ---------------------------------------- balancing (chapter 09)
STEP_COST = {
    FIXED: 1.0,
    "uncertainty": 1.0,
    "gradnorm": 1.1,
    "pcgrad": 1.75,
    "cagrad": 1.75,
    "upgrad": 1.75,
    "grading": 0.3,
    "segmentation": 0.65,
}
"""What a step takes, of each way to balance and of each task alone, beside a step on the sum of both losses
(`training.balancing_costs`, at the size of the profile `cpu` on one core). Every run of chapter 09 takes so
many steps that all have the same time: the dearer a step, the fewer."""
FEW_MASKS = 11
"""A quarter of the photographs with masks that the protocol 'clean' leaves to learn from on IDRiD."""
_PLAIN_STEPS = {
    "smoke": 4,
    "cpu": 24,
    "gpu": 20,
    "paper": 40,
    "smoke lesson": 4,
    "cpu lesson": 10,
    "gpu lesson": 20,
}
"""Steps of an epoch on the sum of both losses. An epoch has no more steps than there are photographs for, and
a grade alone, the cheapest, gets more than three times as many: that is why epochs are short and many."""

BALANCING_TITLES = {
    "uncertainty": "uncertainty weighting",
    "gradnorm": "GradNorm",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "upgrad": "UPGrad",
}
assert {FIXED, *BALANCING_TITLES} == set(BALANCINGS)


def _balance(name: str, about: str, costs: str = FIXED, **settings) -> Experiment:
    """Chapter 09: all runs alike but for what the name says, and with equal time. `costs`: a key of
    `STEP_COST`.
    """
    multi = len(settings.get("tasks", TASKS)) > 1
    basis = {
        "lambda_cls": 1.0,
        "conflict_every": 20 if multi else 0,
        "one_pass": multi,
        "patience": 50,
        "chosen": LAST,
    }
    changes = {
        profile: {"steps_per_epoch": round(steps / STEP_COST[costs])}
        for profile, steps in _PLAIN_STEPS.items()
    }
    if settings.get("few_masks"):  # the set of the tests has hardly more
        for profile in ("smoke", "smoke lesson"):
            changes[profile] |= {"few_masks": 2}
    needs = {"grading": "IDRiD B", "segmentation": "IDRiD A"}.get(costs, "IDRiD A and B")
    config = Config(f"balance-{name}", **{**basis, **settings})
    return Experiment(config, COURSE, "Chapter 09", about, needs, family=BALANCE, changes=changes)


RUNS = (
    _fair("fair-grading", "grades alone", "IDRiD B", tasks=("grading",)),
    _fair("fair-masks", "masks alone", "IDRiD A", tasks=("segmentation",)),
    _fair("fair-shared", "the shared-encoder report's system, lambda 0.1"),
    _fair(
        "fair-mtunet",
        "MTUnet's variant C, true labels only",
        system="mtunet-c",
        label_space="separate",
        lambda_cls=1.0,
    ),
    _fair(
        "fair-mtunet-semi",
        "MTUnet with made masks and grades",
        system="mtunet-c",
        label_space="separate",
        lambda_cls=1.0,
        first_tasks=TASKS,
    ),
    _fair(
        "fair-pldmlt",
        "PLDMLT: pseudo grades of the photographs with masks, label-update network",
        system="pldmlt",
        label_space="separate",
        lambda_cls=0.8,
        focal=(0.25, 2.0),
        pseudo_grades=True,
        label_update=LabelUpdate(every=1, steps=8, step_size=1e-3, learning_rate=1e-3),
        changes={"smoke": {"label_update": {"steps": 2}}},
    ),
    _fair(
        "fair-deepmt-dr",
        "DeepMT-DR: both stages together as long as the others",
        system="deepmt-dr",
        label_space="four-lesions",
        tasks=("grading", "segmentation", "isr"),
        lambda_cls=1.0,
        epochs=5,
        learning_rate=5e-5,
        hierarchy=Hierarchy(first_epochs=5, first_learning_rate=1e-3, isr_channels=32, lesion_width=12),
        changes={
            "smoke": {
                "epochs": 1,
                "hierarchy": {"first_epochs": 1, "isr_channels": 8, "lesion_width": 6},
            },
            "cpu": {"epochs": 2, "hierarchy": {"first_epochs": 2}},
        },
    ),
    _lesions(
        "lesions-step-1",
        "whole photographs, small",
        {"smoke": square(64), "cpu": {"segmentation_size": 256}},
        segmentation_size=512,
    ),
    _lesions("lesions-step-2", "+ sharp: crops from large photographs", recipe="lesions"),
    _lesions("lesions-step-3", "+ half of the crops around a lesion", **_SHARP),
    _lesions("lesions-step-4", "+ Dice in the loss", **_SHARP, mask_loss="bce+dice"),
    _lesions("lesions-step-5", "+ average of the weights (EMA)", **_BEST),
    _BEST_LESIONS,
    _lesions(
        "lesions-long",
        "+ learned four times as long",
        {"gpu": {"epochs": 20, "rounds": 12, "lr_gamma": 0.8}},  # sixty validations would take longer
        **_BEST,
        flips=True,
        rounds=4,
    ),
    _lesions(
        "lesions-longer",
        "+ twice as long again; the rate falls more slowly, the weights' mean is longer",
        **_LONGER,
    ),
    _lesions("lesions-turned", "+ mean over quarter turns too", **_LONGER, turns=True),
    _lesions("lesions-mean", "+ mean of two networks", **_LONGER, turns=True, members=2),
    _grades("grade-lite0", "candidate: EfficientNet-Lite0"),
    _grades("grade-lite1", "candidate: EfficientNet-Lite1", encoder_name=SECOND_BUNDLED_ENCODER),
    _grades(
        "grade-with-lesions",
        "candidate: EfficientNet-Lite0 that also draws the lesions",
        "IDRiD A and B",
        tasks=TASKS,
        one_pass=True,
        lambda_cls=0.5,
        mask_loss="bce+dice",
    ),
    Experiment(
        _FROM_FINDINGS,
        COURSE,
        GRADES,
        "candidate: a random forest on what the best lesion network finds, and a support vector machine on "
        "ImageNet features",
        family=FINDINGS,
    ),
    _balance("grading", "single task, the same time: grade", "grading", tasks=("grading",)),
    _balance("masks", "single task, the same time: masks", "segmentation", tasks=("segmentation",)),
    _balance("fixed", "both tasks, lambda 0.1 (the report's choice)", lambda_cls=0.1),
    _balance("equal", "both tasks, lambda 1: both losses as they are"),
    *(
        _balance(name, f"both tasks, {title}", name, balancing=name)
        for name, title in BALANCING_TITLES.items()
    ),
    _balance(
        "masks-few",
        f"single task, few masks: {FEW_MASKS} photographs",
        "segmentation",
        tasks=("segmentation",),
        few_masks=FEW_MASKS,
    ),
    _balance(
        "uncertainty-few",
        f"both tasks, uncertainty weighting, few masks: {FEW_MASKS} photographs",
        "uncertainty",
        balancing="uncertainty",
        few_masks=FEW_MASKS,
    ),
)

_BALANCE_SIZES = {
    "smoke": SMOKE,
    "cpu": {
        **BUNDLED,
        "grading_size": 256,
        "segmentation_size": 512,
        "crop_size": 256,
        "batch_size": 4,
        "epochs": 14,
        "lr_gamma": 0.82,
    },
    "gpu": {
        "grading_size": 384,
        "segmentation_size": 768,
        "crop_size": 384,
        "epochs": 20,
        "lr_gamma": 0.87,
    },
    "paper": {"grading_size": 512, "segmentation_size": 1024, "crop_size": 512},
}

SIZES = {
    FAIR: _FAIR_SIZES,
    LESIONS: _LESIONS_SIZES,
    GRADES: _GRADES_SIZES,
    FINDINGS: _FINDINGS_SIZES,
    BALANCE: _BALANCE_SIZES,
}
LESSON_SIZES = {
    **SIZES,
    BALANCE: {
        **_BALANCE_SIZES,
        "cpu": {
            **_BALANCE_SIZES["cpu"],
            "grading_size": 128,
            "segmentation_size": 256,
            "crop_size": 128,
            "epochs": 3,
            "lr_gamma": 0.6,
        },
        "gpu": {**_BALANCE_SIZES["gpu"], "epochs": 8, "lr_gamma": 0.7},
    },
}
