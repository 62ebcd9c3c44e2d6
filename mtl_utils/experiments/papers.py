"""The named runs of the four papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mtl_utils.encoders import SECOND_BUNDLED_ENCODER
from mtl_utils.experiments.base import (
    BUNDLED,
    DEEPMT_DR,
    MTUNET,
    PLDMLT_PAPER,
    REPORT,
    SMOKE,
    Experiment,
    square,
)
from mtl_utils.explain import VISUALISATIONS
from mtl_utils.systems import mtunet
from mtl_utils.systems.base import TASKS
from mtl_utils.systems.deepmt_dr import Hierarchy
from mtl_utils.systems.pldmlt import LabelUpdate
from mtl_utils.systems.shared_encoder import DECODER_CHANNELS
from mtl_utils.training import LAST, Config

_MTUNET_BASE = Config(
    "mtunet-c",
    system="mtunet-c",
    label_space="red-yellow",
    lambda_cls=1.0,
    recipe="mtunet",
    balanced=True,
    encoder_name="vgg16",
    dropout=0.0,
    decoder_channels=mtunet.DECODER_CHANNELS,
    grading_size=512,
    segmentation_size=512,
    crop_size=512,
    one_pass=True,
    learning_rate=1e-5,
    lr_gamma=1.0,
    patience=50,
    chosen=LAST,
)
"""MTUnet's own settings: 512 px, Adam 1e-5, alpha 1, and the 50 epochs of its Table 1, which alone are told.
It tells of no choice of a checkpoint, so the last one counts."""

_CLASSIFIER_BASE = Config(
    "pldmlt-classifier-1",
    tasks=("grading",),
    recipe="pldmlt",
    balanced=True,
    encoder_name="tu-resnext50_32x4d",
    dropout=0.0,
    **square(512),
    learning_rate=5e-5,
    lr_gamma=1.0,
    epochs=25,
    patience=25,
    chosen=LAST,
    protocol="clean-folds",
)
"""PLDMLT's stage 1. Its text names the networks and, for all methods that it compares, 1024 px; nothing of
how the classifiers were trained."""

_CLASSIFIER_CPU = {**square(256), "epochs": 8, "lr_gamma": 0.7, "steps_per_epoch": None}

CLASSIFIERS = ("pldmlt-classifier-1", "pldmlt-classifier-2")
"""Those that give photographs with masks their grades, before a run with pseudo grades."""

_PLDMLT_BASE = Config(
    "pldmlt",
    system="pldmlt",
    label_space="fused",
    lambda_cls=0.8,
    focal=(0.25, 2.0),
    recipe="pldmlt",
    pseudo_grades=True,
    label_update=LabelUpdate(),
    encoder_name="vgg16",
    dropout=0.0,
    **square(1024),
    batch_size=4,
    learning_rate=5e-5,
    lr_gamma=1.0,
    epochs=200,
    patience=200,
    chosen=LAST,
    protocol="clean-folds",
)
"""PLDMLT's own settings: 1024 px, Adam 5e-5, alpha 0.25, gamma 2, beta 0.8. Neither batch size nor number of
rounds is printed. Epochs are as long as the larger part, so on IDRiD these take five times as many steps as
epochs over the photographs with masks would."""


_DEEPMT_BASE = Config(
    "deepmt-dr",
    system="deepmt-dr",
    label_space="four-lesions",
    tasks=("grading", "segmentation", "isr"),
    lambda_cls=1.0,
    recipe="deepmt-dr",
    hierarchy=Hierarchy(),
    encoder_name="resnet18",
    dropout=0.0,
    **square(1024),
    batch_size=4,
    learning_rate=5e-5,
    lr_gamma=1.0,
    epochs=50,
    patience=50,
    chosen=LAST,
)
"""DeepMT-DR's own settings: 256 px made 1024 px, Adam with 1e-4 and 5e-5. Batch size and epochs are not
printed."""

_ALONE_CPU = {
    **square(384),
    "crop_size": 192,
    "epochs": 4,
    "learning_rate": 1e-3,
    "lr_gamma": 0.5,
}
"""A single subnet takes less time, and can see larger pictures than the whole system."""


def _report(name: str, table: str, about: str, needs: str = "IDRiD A and B", **settings) -> Experiment:
    return Experiment(Config(name, **settings), REPORT, table, about, needs)


def _mtunet(
    name: str,
    table: str,
    about: str,
    needs: str = "IDRiD A and B",
    own_encoder: bool = False,
    changes: Mapping[str, dict] | None = None,
    **settings,
) -> Experiment:
    config = replace(_MTUNET_BASE, name=name, **settings)
    return Experiment(config, MTUNET, table, about, needs, own_encoder, changes or {})


def _lesion_baseline(architecture: str, title: str, table: str = "Table 2", **settings) -> Experiment:
    return _mtunet(
        architecture,
        table,
        f"baseline for lesions: {title}",
        "IDRiD A",
        system=architecture,
        tasks=("segmentation",),
        **settings,
    )


def _pldmlt(name: str, table: str, about: str, needs: str = "IDRiD A and B", **settings) -> Experiment:
    return Experiment(replace(_PLDMLT_BASE, name=name, **settings), PLDMLT_PAPER, table, about, needs)


def _deepmt(
    name: str,
    table: str,
    about: str,
    needs: str = "IDRiD A and B",
    changes: Mapping[str, dict] | None = None,
    hierarchy: Mapping[str, object] | None = None,
    **settings,
) -> Experiment:
    """`hierarchy`: settings of `Hierarchy` in which the run differs."""
    own = replace(_DEEPMT_BASE.hierarchy, **(hierarchy or {}))
    config = replace(_DEEPMT_BASE, name=name, hierarchy=own, **settings)
    return Experiment(config, DEEPMT_DR, table, about, needs, changes=changes or {})


def _super_resolution(name: str, about: str, enlarge: str, epochs: int) -> Experiment:
    cpu = {"segmentation_size": 512, "crop_size": 192, "steps_per_epoch": None, "learning_rate": 1e-3}
    return _deepmt(
        name,
        "Table 3",
        about,
        "IDRiD B",
        changes={"cpu": {**cpu, "epochs": epochs, "lr_gamma": 0.03 ** (1 / epochs)}},
        hierarchy={"stage": 1, "enlarge": enlarge},
        tasks=("isr",),
    )


def _deepmt_unet() -> Experiment:
    config = replace(
        _DEEPMT_BASE, name="lesions-unet", system="unet", tasks=("segmentation",), hierarchy=None
    )
    about = "baseline for lesions: U-Net, from the large photographs"
    return Experiment(config, DEEPMT_DR, "Table 4", about, "IDRiD A", changes={"cpu": _ALONE_CPU})


def _at_scale(task: str, scale: int) -> Experiment:
    """Task correlation: one subnet at one resolution (Figures 2 a, b)."""
    grading = task == "grading"
    return _deepmt(
        f"{'grade' if grading else 'lesions'}-at-1-{scale}",
        "Figure 2 a" if grading else "Figure 2 b",
        f"{'grade' if grading else 'lesions'} of photographs with 1/{scale} of the side",
        "IDRiD B" if grading else "IDRiD A",
        changes={"cpu": _ALONE_CPU},
        hierarchy={"stage": 1, "scale": scale, "enlarge": "none" if grading else "bicubic"},
        tasks=(task,),
    )


def _fused_baseline(architecture: str, title: str, encoder_name: str) -> Experiment:
    return _pldmlt(
        f"fused-{architecture}",
        "Tables 1, 2",
        f"baseline for fused lesions: {title}",
        "IDRiD A",
        system=architecture,
        tasks=("segmentation",),
        pseudo_grades=False,
        label_update=None,
        encoder_name=encoder_name,
    )


def _grading_baseline(name: str, encoder_name: str, table: str = "Table 3") -> Experiment:
    return _mtunet(
        name,
        table,
        f"baseline for grades: encoder {encoder_name}",
        "IDRiD B",
        own_encoder=True,
        system="shared-encoder",
        tasks=("grading",),
        encoder_name=encoder_name,
        decoder_channels=DECODER_CHANNELS,
    )


RUNS = (
    _report("grading-only", "Table 2", "single task: grade", "IDRiD B", tasks=("grading",)),
    _report("segmentation-only", "Table 2", "single task: masks", "IDRiD A", tasks=("segmentation",)),
    _report("shared-lambda-0.1", "Table 2", "both tasks, lambda 0.1 (the report's choice)", one_pass=True),
    _report("shared-lambda-1", "-", "both tasks, lambda 1", lambda_cls=1.0, one_pass=True),
    _report("shared-lambda-10", "-", "both tasks, lambda 10", lambda_cls=10.0, one_pass=True),
    _report("shared-lambda-0.1-noaug", "-", "lambda 0.1 without augmentation", augment=False, one_pass=True),
    _report(
        "shared-lambda-1-noaug",
        "-",
        "lambda 1 without augmentation",
        lambda_cls=1.0,
        augment=False,
        one_pass=True,
    ),
    _report("shared-lambda-0.1-twopass", "-", "lambda 0.1, an encoder pass for each task, as the report"),
    _mtunet("mtunet-a", "Table 1", "variant A: grades from the end of the decoder", system="mtunet-a"),
    _mtunet(
        "mtunet-b",
        "Table 1",
        "variant B: a second network grades the finished mask",
        # Step two sees masks only, and step one must draw them at the size at which it learned to.
        changes={"cpu": {"grading_size": 512}, "cpu lesson": {"grading_size": 192}},
        system="mtunet-b",
        first_tasks=("segmentation",),
        one_pass=False,
    ),
    _mtunet("mtunet-c", "Tables 1-3", "variant C: grades from the encoder; true labels only"),
    _mtunet(
        "mtunet-c-semi",
        "Tables 1-3",
        "variant C with made masks and grades: MTUnet as we read it",
        first_tasks=TASKS,
    ),
    _mtunet("mtunet-initial", "-", "the first network of B: masks only", "IDRiD A", tasks=("segmentation",)),
    _mtunet("mtunet-grading", "-", "C without its decoder: grades only", "IDRiD B", tasks=("grading",)),
    _lesion_baseline("unet", "U-Net"),
    _lesion_baseline("linknet", "LinkNet"),
    _lesion_baseline("fpn", "FPN"),
    # smp widens the strides of a DeepLab's encoder, and cannot do so with VGG's.
    _lesion_baseline("deeplabv3", "DeepLabv3", encoder_name="resnet50"),
    _lesion_baseline("deeplabv3plus", "DeepLabv3+", "-", encoder_name="resnet50"),
    _grading_baseline("nasnet", "tu-nasnetalarge"),
    _grading_baseline("densenet-201", "densenet201"),
    _grading_baseline("resnext-101", "resnext101_32x8d"),
    _grading_baseline("inception-resnet-v2", "inceptionresnetv2"),
    _grading_baseline("resnext-50", "tu-resnext50_32x4d", table="-"),  # PLDMLT's Tables 1, 2
    Experiment(
        _CLASSIFIER_BASE,
        PLDMLT_PAPER,
        "Figure 3",
        "stage 1: the first classifier, of photographs outside part A",
        "IDRiD A and B",
        changes={"cpu": _CLASSIFIER_CPU},
    ),
    Experiment(
        replace(_CLASSIFIER_BASE, name="pldmlt-classifier-2", encoder_name="resnext101_32x8d"),
        PLDMLT_PAPER,
        "Figure 3",
        "stage 1: the second classifier",
        "IDRiD A and B",
        changes={
            "cpu": {**_CLASSIFIER_CPU, "encoder_name": SECOND_BUNDLED_ENCODER},
            **{
                profile: {"encoder_name": SECOND_BUNDLED_ENCODER}
                for profile in ("smoke", "smoke lesson", "cpu lesson")
            },
        },
    ),
    _pldmlt("pldmlt", "Tables 1, 3", "stage 2: both tasks, label-update network, beta 0.8"),
    _pldmlt(
        "pldmlt-masks",
        "Table 3",
        "ablation, L_S: masks only",
        "IDRiD A",
        tasks=("segmentation",),
        pseudo_grades=False,
        label_update=None,
    ),
    _pldmlt(
        "pldmlt-two-tasks", "Table 3", "ablation, + L_C: pseudo grades", lambda_cls=1.0, label_update=None
    ),
    _pldmlt("pldmlt-update", "Table 3", "ablation, + label-update network, beta 1", lambda_cls=1.0),
    _pldmlt(
        "pldmlt-printed",
        "-",
        "label update with the objective as printed (Algorithm 1, line 21)",
        label_update=LabelUpdate(objective="printed"),
    ),
    _pldmlt(
        "pldmlt-first-order",
        "-",
        "label update with the first-order gradient",
        label_update=LabelUpdate(order="first"),
    ),
    _pldmlt("pldmlt-separate", "-", "the four lesions apart, not fused", label_space="separate"),
    _pldmlt("pldmlt-ddr", "Table 2", "stage 2 on DDR: beta 0.95", "DDR (--data)", lambda_cls=0.95),
    _pldmlt(
        "fused-mtunet",
        "Tables 1, 2",
        "MTUnet's variant C on fused lesions and pseudo grades",
        system="mtunet-c",
        decoder_channels=mtunet.DECODER_CHANNELS,
        label_update=None,
        lambda_cls=1.0,
    ),
    _fused_baseline("unet", "U-Net", "vgg16"),
    _fused_baseline("linknet", "LinkNet", "resnet18"),
    _fused_baseline("deeplabv3plus", "DeepLabv3+", "resnet50"),
    _fused_baseline("fpn", "FPN", "resnet50"),  # Table 1 has "ResNet", and no depth
    _deepmt("deepmt-dr", "Tables 2-5", "the whole system: all three subnets, both stages"),
    _deepmt(
        "deepmt-isr-removed",
        "Figure 5 a",
        "ablation: bicubic in place of the ISR subnet, no task-aware losses",
        tasks=("grading", "segmentation"),
        hierarchy={"enlarge": "bicubic"},
    ),
    _deepmt(
        "deepmt-isr-independent",
        "Figure 5 a",
        "ablation: the ISR subnet stays as stage 1 made it",
        hierarchy={"frozen": ("isr",)},
    ),
    _deepmt(
        "deepmt-lesions-removed",
        "Figure 5 b",
        "ablation: no lesion subnet, no segmentation-aware loss",
        "IDRiD B",
        tasks=("grading", "isr"),
    ),
    _deepmt(
        "deepmt-lesions-independent",
        "Figure 5 b",
        "ablation: the lesion subnet stays as stage 1 made it",
        hierarchy={"frozen": ("segmentation",)},
    ),
    _deepmt(
        "deepmt-not-aware",
        "Figure 5 c",
        "ablation: neither task-aware loss",
        hierarchy={"seg_aware": False, "cls_aware": False},
    ),
    _deepmt(
        "deepmt-seg-aware",
        "Figure 5 c",
        "ablation: the segmentation-aware loss alone",
        hierarchy={"cls_aware": False},
    ),
    _deepmt(
        "deepmt-cls-aware",
        "Figure 5 c",
        "ablation: the classification-aware loss alone",
        hierarchy={"seg_aware": False},
    ),
    *(
        _deepmt(f"deepmt-{kind}", "Table 5", f"{kind} in place of GMSV", hierarchy={"visualisation": kind})
        for kind in VISUALISATIONS
        if kind != "gmsv"
    ),
    _deepmt(
        "deepmt-eq-9-as-printed",
        "-",
        "Eq. 9 without + 1: what is right has no weight",
        hierarchy={"plus_one": False},
    ),
    _super_resolution("isr", "the ISR subnet alone", "isr", epochs=20),
    # A step of SRCNN, which works at full size, takes three times as long: about the same time in all.
    _super_resolution("srcnn", "baseline for super-resolution: SRCNN", "srcnn", epochs=12),
    _deepmt_unet(),
    *(_at_scale(task, scale) for task in ("grading", "segmentation") for scale in (1, 2, 4, 8)),
)
"""All of them, in the order of the papers."""

SIZES: dict[str, dict[str, dict]] = {
    REPORT: {
        "smoke": SMOKE,
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
    },
    MTUNET: {
        "smoke": {
            **SMOKE,
            **square(64),
            "decoder_channels": DECODER_CHANNELS,
            "learning_rate": 1e-3,
            "lr_gamma": 0.7,
        },
        # Whole photographs at 512 px take too long on a CPU, and from whole ones at 256 px LinkNet had
        # learned no lesion after 320 steps: so masks are learned from crops, as in the report.
        "cpu": {
            **BUNDLED,
            "decoder_channels": DECODER_CHANNELS,
            "grading_size": 256,
            "segmentation_size": 512,
            "crop_size": 256,
            "batch_size": 4,
            "epochs": 6,
            "learning_rate": 2e-3,
            "lr_gamma": 0.8,
        },
        "gpu": {"learning_rate": 1e-4, "lr_gamma": 0.9, "epochs": 25},
        "paper": {"protocol": "paper"},
    },
    DEEPMT_DR: {
        "smoke": {
            **SMOKE,
            **square(64),
            "learning_rate": 1e-3,
            "lr_gamma": 0.7,
            "hierarchy": {
                "first_epochs": 2,
                "first_learning_rate": 1e-3,
                "isr_channels": 8,
                "lesion_width": 6,
            },
        },
        "cpu": {
            **BUNDLED,
            **square(192),
            "crop_size": 96,
            "epochs": 2,
            "steps_per_epoch": 40,
            # The paper's own: with ten times as much Eq. 4 tore the super-resolution apart.
            "learning_rate": 5e-5,
            "lr_gamma": 0.5,
            "hierarchy": {
                "first_epochs": 4,
                "first_learning_rate": 1e-3,
                "isr_channels": 32,
                "lesion_width": 12,
            },
        },
        "gpu": {  # 1024 px would not fit into the 15 GiB of a T4 (counted, not tried)
            **square(768),
            "learning_rate": 1e-4,
            "epochs": 15,
            "hierarchy": {"first_epochs": 15},
        },
        "paper": {"protocol": "paper"},
    },
    PLDMLT_PAPER: {
        "smoke": {
            **SMOKE,
            **square(64),
            "decoder_channels": DECODER_CHANNELS,
            "learning_rate": 1e-3,
            "lr_gamma": 0.7,
            "label_update": {"every": 1, "steps": 2, "step_size": 1e-3, "learning_rate": 1e-3},
        },
        "cpu": {
            **BUNDLED,
            **square(192),
            "decoder_channels": DECODER_CHANNELS,
            "epochs": 4,
            "steps_per_epoch": 48,
            "learning_rate": 1e-3,
            "lr_gamma": 0.6,
            "label_update": {"every": 1, "steps": 6, "step_size": 1e-3, "learning_rate": 1e-3},
        },
        "gpu": {
            **square(512),
            "learning_rate": 1e-4,
            "lr_gamma": 0.95,
            "epochs": 25,
            "label_update": {"every": 5, "steps": 60, "step_size": 1e-4, "learning_rate": 1e-4},
        },
        "paper": {},
    },
}

# A chapter trains live, while the reader waits: smaller again.
LESSON_SIZES: dict[str, dict[str, dict]] = {
    REPORT: {
        **SIZES[REPORT],
        "cpu": {
            **BUNDLED,
            "grading_size": 192,
            "segmentation_size": 384,
            "crop_size": 192,
            "epochs": 5,
            "lr_gamma": 0.7,
            "steps_per_epoch": 14,
        },
        "gpu": {**SIZES[REPORT]["gpu"], "epochs": 8, "lr_gamma": 0.7},
    },
    MTUNET: {
        **SIZES[MTUNET],
        # Wide at the end and narrow before: so it draws the disc and yellow lesions after some 100 steps.
        "cpu": {
            **SIZES[MTUNET]["cpu"],
            "grading_size": 96,
            "segmentation_size": 192,
            "crop_size": 96,
            "decoder_channels": (128, 64, 64, 32, 32),
            "epochs": 4,
            "lr_gamma": 0.9,
            "steps_per_epoch": 28,
        },
        "gpu": {**SIZES[MTUNET]["gpu"], **square(384), "epochs": 8, "lr_gamma": 0.7},
    },
    DEEPMT_DR: {
        **SIZES[DEEPMT_DR],
        "cpu": {
            **SIZES[DEEPMT_DR]["cpu"],
            **square(128),
            "epochs": 2,
            "steps_per_epoch": 5,
            "hierarchy": {**SIZES[DEEPMT_DR]["cpu"]["hierarchy"], "first_epochs": 3},
        },
        "gpu": {
            **SIZES[DEEPMT_DR]["gpu"],
            **square(512),
            "batch_size": 8,
            "epochs": 4,
            "hierarchy": {"first_epochs": 4},
        },
    },
    PLDMLT_PAPER: {
        **SIZES[PLDMLT_PAPER],
        "cpu": {
            **SIZES[PLDMLT_PAPER]["cpu"],
            **square(128),
            "epochs": 3,
            "steps_per_epoch": 10,
            # A step of the label update takes as long as three of the network's (its records).
            "label_update": {**SIZES[PLDMLT_PAPER]["cpu"]["label_update"], "steps": 5},
        },
        "gpu": {**SIZES[PLDMLT_PAPER]["gpu"], **square(384), "epochs": 8},
    },
}
