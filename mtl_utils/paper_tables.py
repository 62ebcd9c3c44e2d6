"""The tables of the papers as data, to lay our recorded runs beside them (`records.beside`).

All tables of the four texts, and those of their figures whose bars we measure; then what others published on
IDRiD. Figures that show photographs only (the report's 3, PLDMLT's 6 and 7, MTUnet's 6, DeepMT-DR's 4) are
not here, nor is the report's Figure 2, a confusion matrix that its text does not have in numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtl_utils.experiments import COURSE, DEEPMT_DR, EXPERIMENTS, MTUNET, PLDMLT_PAPER, REPORT
from mtl_utils.experiments.course import LESIONS

PUBLISHED = "IDRiD"
"""In place of a paper: what others published on IDRiD."""
NO_PAPER = "-"
"""In place of a paper: recorded runs that stand in no table."""

Value = float | tuple[float, float] | None


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper as data.

    Attributes:
        paper: which of the four texts, or `PUBLISHED`, or `COURSE` (a question of our own), or `NO_PAPER`.
        caption: what the table shows, and what ours has in its place.
        protocol: how the printed figures were judged: on which photographs, and what chose the checkpoint;
            empty where none is printed.
        columns: the table's own columns: title -> our metric, or the path of another key of a record, as
            'config/learning_rate'; '' where our records have none.
        rows: experiment, or for a method that the course does not have another key, whose row is printed
            only -> (the paper's own row name, values in the order of `columns`: a number, mean and
            standard deviation, or None where it prints none).
        percent: columns that the paper prints in percent.
        also: experiment -> further runs of ours that belong below its row.
        ours: runs of ours that belong below the whole table and to no row of it.
        protocols: experiment -> the protocol of those of its runs that stand here; else those of any.
        private: judged on photographs that nobody else has, so that no run of ours can stand beside.
        on_ddr: on the data set DDR; every other table is on IDRiD. None: on any.
    """

    paper: str
    caption: str
    protocol: str
    columns: dict[str, str]
    rows: dict[str, tuple[str, tuple[Value, ...]]]
    percent: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ours: tuple[str, ...] = ()
    protocols: Mapping[str, str] = field(default_factory=dict)
    private: bool = False
    on_ddr: bool | None = False

    @property
    def source(self) -> str:
        """What stands before a printed row: 'paper' or 'published'."""
        return "published" if self.paper == PUBLISHED else "paper"

    @property
    def full_caption(self) -> str:
        """The caption, and the protocol of the printed rows."""
        return (
            f"{self.caption} Protocol of the printed rows: {self.protocol}" if self.protocol else self.caption
        )

    def experiments(self) -> tuple[str, ...]:
        """The runs of ours that stand in this table, recorded or not."""
        if self.private:
            return ()
        below = [(name, *self.also.get(name, ())) for name in self.rows if name in EXPERIMENTS]
        return tuple(dict.fromkeys(each for names in (*below, self.ours) for each in names))


_GRADE_COLUMNS = {
    "No DR": "grading/auc/0",
    "Mild": "grading/auc/1",
    "Moderate": "grading/auc/2",
    "Severe": "grading/auc/3",
    "Proliferative": "grading/auc/4",
}

_FUSED_COLUMNS = {
    "mDice (%)": "segmentation/with_background/dice/lesion",
    "mIoU (%)": "segmentation/with_background/iou/lesion",
    "Right pixels (%)": "segmentation/pixel_accuracy/lesion",
    "Dice of the lesions alone (%)": "segmentation/dice/lesion",
}
_ACCURACY_COLUMN = {"Accuracy (%)": "grading/accuracy"}

_WEIGHTED_COLUMNS = {
    "Accuracy (%)": "grading/accuracy",
    "Precision (%)": "grading/weighted_precision",
    "F1 (%)": "grading/weighted_f1",
    "Kappa (%)": "grading/kappa",
    "Quadratic weighted kappa (%)": "grading/qwk",
}
_LESION_AUPR = {
    "MA": "segmentation/aupr/MA",
    "HE": "segmentation/aupr/HE",
    "SE": "segmentation/aupr/SE",
    "EX": "segmentation/aupr/EX",
    "mean": "segmentation/aupr/mean",
    "mean IoU": "segmentation/iou/mean",
}
_LESION_COLUMNS = {
    f"{lesion} {title}": f"segmentation/{metric}/{lesion}"
    for lesion in ("MA", "HE", "EX", "SE")
    for title, metric in (("AUC", "auc"), ("AP", "aupr"))
}


_DDR_PROTOCOL = (
    "The default split of DDR; hyper-parameters were tuned on its validation part. Which epoch counts the "
    "paper does not say."
)
_FOLDS_PROTOCOL = (
    "Five folds; whether the fold that is judged also chose the checkpoint the paper does not say. Ours "
    "(clean-folds): it did not, and the last checkpoint counts."
)
_FOUR_SETS = "learned from four data sets"


def _figure(
    caption: str, bars: dict[str, str], title: str = "Accuracy (%)", metric: str = "grading/accuracy"
) -> PaperTable:
    """A figure of DeepMT-DR's paper, which prints no numbers: `bars` are experiment -> the paper's name."""
    rows = {name: (shown, (None,)) for name, shown in bars.items()}
    return PaperTable(DEEPMT_DR, caption, _DDR_PROTOCOL, {title: metric}, rows, percent=(title,))


def _at_scales(name: str) -> dict[str, str]:
    """The four resolutions of Figure 2, the smallest first."""
    return {f"{name}-at-1-{scale}": f"{1024 // scale} x {1024 // scale}" for scale in (8, 4, 2, 1)}


_FAIR_RUNS = tuple(name for name in EXPERIMENTS if name.startswith("fair-"))
_OWN_PROTOCOLS = {
    "shared-lambda-0.1": "paper",
    "fair-shared": "paper",
    "mtunet-c-semi": "paper",
    "pldmlt": "clean-folds",
    "deepmt-dr": "paper",
}
"""Each system as its paper has it, in our reading where its print cannot be followed, with the protocol that
comes nearest to the paper's."""


PAPER_TABLES: dict[str, PaperTable] = {
    "Shared-encoder report, Table 1": PaperTable(
        REPORT,
        "How many photographs of IDRiD are learned from and judged. Under the protocol clean ours take a "
        "validation part from training, and leave out photographs that stand in a test split as well; under "
        "paper the test photographs are the validation, too.",
        "IDRiD's official split; no validation part.",
        {
            f"{task}: {use}": f"photographs/{name}/{part}"
            for task, name in (("Masks", "segmentation"), ("Grades", "grading"))
            for use, part in (("train", "train"), ("validation", "val"), ("test", "test"))
        },
        {"shared-lambda-0.1": ("IDRiD", (54, None, 27, 413, None, 103))},
        also={"shared-lambda-0.1": ("segmentation-only", "grading-only")},
    ),
    "Shared-encoder report, Table 2": PaperTable(
        REPORT,
        "Classification, segmentation and multi-task models. The Dice is the report's own, of lesions and "
        "disc together.",
        "Its 'validation' is IDRiD's official test split, which also chose the checkpoint (our protocol "
        "paper).",
        {
            "Classification loss": "grading/loss",
            "Segmentation loss": "segmentation/loss",
            "Accuracy": "grading/accuracy",
            "Dice score": "segmentation/report_dice",
        },
        {
            "grading-only": ("Classification Only", (1.4005, None, 60.19, None)),
            "segmentation-only": ("Segmentation Only", (None, 0.0261, None, 0.6806)),
            "shared-lambda-0.1": ("Multitask", (1.5739, 0.0178, 62.14, 0.7029)),
        },
        percent=("Accuracy",),
    ),
    "MTUnet, Table 1": PaperTable(
        MTUNET,
        "The three variants. The paper's learned from 9,570 graded photographs of Kaggle's set with made "
        "masks. Ours learn from IDRiD alone, and those of A and B from true labels only: `mtunet-c` is to be "
        "compared with them. We read its Dice as the mean of red and yellow lesions, pooled, its ROC as the "
        "mean area over the five grades.",
        "Fifty epochs. Which photographs judged the variants the paper does not say, nor which epoch counts.",
        {"Dice (%)": "segmentation/dice/mean", "ROC (%)": "grading/auc/mean"},
        {
            "mtunet-a": ("Variant A", (55.37, 86.27)),
            "mtunet-b": ("Variant B", (73.89, 82.05)),
            "mtunet-c-semi": ("Variant C", (76.12, 89.45)),
        },
        percent=("Dice (%)", "ROC (%)"),
        also={"mtunet-c-semi": ("mtunet-c",)},
    ),
    "MTUnet, Table 2": PaperTable(
        MTUNET,
        "Dice of the lesions: mean of three runs ± what we read as their standard deviation. The paper's "
        "networks learned from part A's 54 training photographs; its MTUnet also from grades that were made "
        "for them. Ours of MTUnet learn from part B's graded photographs as well, `mtunet-c-semi` also from "
        "masks made for them. Whether its Dice is pooled or a mean over photographs the paper does not say; "
        "ours is pooled.",
        "IDRiD's official split: 27 test photographs of part A. What chose the checkpoint the paper does not "
        "say.",
        {"Red lesions": "segmentation/dice/red", "Yellow lesions": "segmentation/dice/yellow"},
        {
            "unet": ("UNet", ((62.25, 7.646), (76.03, 1.415))),
            "linknet": ("LinkNet", ((73.56, 1.026), (83.54, 0.19))),
            "fpn": ("Feature Pyramid", ((72.66, 0.541), (77.28, 0.429))),
            "deeplabv3": ("DeepLabv3", ((56.73, 1.217), (72.01, 1.661))),
            "mtunet-c-semi": ("MTUNet", ((75.15, 0.778), (84.27, 0.456))),
        },
        percent=("Red lesions", "Yellow lesions"),
        also={"mtunet-c-semi": ("mtunet-c", "mtunet-initial")},
    ),
    "MTUnet, Table 3": PaperTable(
        MTUNET,
        "Grades, area under the ROC curve of each against the rest; over what the ± is taken the paper does "
        "not say (of its Table 2: three runs). The paper's networks learned from Kaggle's set; ours learn "
        "from IDRiD's training photographs and are judged on its 103 test photographs.",
        "413 photographs of IDRiD, as many as its training split has; no network learned their grades. If "
        "they are that split, 42 of them are among the photographs whose masks were learned from. What chose "
        "the checkpoint the paper does not say.",
        _GRADE_COLUMNS,
        {
            "nasnet": (
                "NASNet",
                ((93.00, 0.784), (79.07, 3.881), (71.75, 5.342), (72.63, 4.239), (83.95, 4.729)),
            ),
            "densenet-201": (
                "DenseNet-201",
                ((62.25, 13.49), (38.64, 5.872), (40.49, 5.590), (36.98, 6.060), (36.83, 12.78)),
            ),
            "resnext-101": (
                "ResNeXt-101",
                ((92.09, 3.223), (79.28, 4.391), (67.22, 2.499), (72.26, 9.102), (66.62, 4.879)),
            ),
            "inception-resnet-v2": (
                "InceptionResNetV2",
                ((94.86, 3.286), (77.92, 10.03), (67.91, 13.00), (75.74, 5.868), (67.17, 14.09)),
            ),
            "mtunet-c-semi": (
                "MTUnet",
                ((99.00, 0.330), (89.94, 2.093), (84.13, 3.011), (82.86, 3.110), (87.20, 2.859)),
            ),
        },
        percent=tuple(_GRADE_COLUMNS),
        also={"mtunet-c-semi": ("mtunet-c", "mtunet-grading")},
    ),
    "MTUnet, Table 4": PaperTable(
        MTUNET,
        "As Table 3, judged on SiDRP14-15: 71,896 photographs of the Singapore National Diabetic Retinopathy "
        "Screening Program, which are private. So there are no runs of ours.",
        "As Table 3, on SiDRP14-15.",
        _GRADE_COLUMNS,
        {
            "nasnet": (
                "NASNet",
                ((61.37, 0.569), (47.14, 1.547), (59.81, 3.224), (81.88, 8.410), (87.64, 0.538)),
            ),
            "densenet-201": (
                "DenseNet-201",
                ((51.00, 3.190), (48.11, 2.053), (43.44, 9.126), (57.47, 16.385), (66.33, 14.374)),
            ),
            "resnext-101": (
                "ResNeXt-101",
                ((55.55, 3.921), (52.10, 1.461), (58.69, 4.049), (75.59, 12.481), (42.76, 5.103)),
            ),
            "inception-resnet-v2": (
                "InceptionResNetV2",
                ((66.79, 4.272), (46.84, 5.985), (59.16, 10.337), (83.23, 7.013), (83.52, 2.653)),
            ),
            "mtunet-c-semi": (
                "MTUnet",
                ((78.56, 0.122), (58.44, 0.606), (84.75, 1.875), (97.77, 0.745), (98.11, 0.867)),
            ),
        },
        percent=tuple(_GRADE_COLUMNS),
        private=True,
    ),
    "PLDMLT, Table 1, segmentation": PaperTable(
        PLDMLT_PAPER,
        "Fused lesions. The paper's networks learned from IDRiD's part A and DiaRetDB1, ours from part A "
        "alone. Which mean its mDice and mIoU are the paper does not say; without the background they could "
        "not be this high. Ours are the means of lesion and background; beside them two scores that the "
        "paper does not have. Its MTUnet is the semi-supervised one; ours is variant C with the photographs, "
        "pseudo grades and focal loss of PLDMLT.",
        _FOLDS_PROTOCOL,
        _FUSED_COLUMNS,
        {
            "fused-unet": ("UNet", (91.859, 86.216, None, None)),
            "fused-linknet": ("LinkNet", (95.145, 91.950, None, None)),
            "fused-deeplabv3plus": ("DeepLabv3+", (95.732, 91.813, None, None)),
            "fused-fpn": ("FPN", (95.897, 87.101, None, None)),
            "fused-mtunet": ("MTUnet", (96.181, 93.562, None, None)),
            "pldmlt": ("Ours", (96.949, 94.164, None, None)),
        },
        percent=tuple(_FUSED_COLUMNS),
    ),
    "PLDMLT, Table 1, grading": PaperTable(
        PLDMLT_PAPER,
        "Accuracy of the grade. Ours: for PLDMLT and MTUnet on the photographs of part A whose grade part B "
        "tells, for the others on part B's official test split. These four are MTUnet's baselines (512 px, "
        "its recipe); the paper has 1024 px for all methods.",
        "Which photographs judged it, and by whose grades, the paper does not say.",
        _ACCURACY_COLUMN,
        {
            "nasnet": ("NASNet", (50.74,)),
            "densenet-201": ("DenseNet-201", (48.98,)),
            "resnext-50": ("ResNeXt-50", (53.01,)),
            "resnext-101": ("ResNeXt-101", (57.83,)),
            "fused-mtunet": ("MTUnet", (60.75,)),
            "pldmlt": ("Ours", (57.69,)),
        },
        percent=tuple(_ACCURACY_COLUMN),
        also={"pldmlt": ("pldmlt-two-tasks",)},
    ),
    "PLDMLT, Table 2, segmentation": PaperTable(
        PLDMLT_PAPER,
        "As Table 1, on DDR (the same experiments with `--data DDR`). In all six rows IoU is Dice / (2 - "
        "Dice), as of one Dice and not of a mean of unlike ones: perhaps of all pixels of both classes "
        "together, which is the share of right pixels (chapter 06).",
        _FOLDS_PROTOCOL,
        _FUSED_COLUMNS,
        {
            "fused-unet": ("UNet", (95.612, 91.591, None, None)),
            "fused-linknet": ("LinkNet", (97.346, 94.829, None, None)),
            "fused-deeplabv3plus": ("DeepLabv3+", (96.244, 92.760, None, None)),
            "fused-fpn": ("FPN", (98.258, 96.577, None, None)),
            "fused-mtunet": ("MTUnet", (98.961, 97.942, None, None)),
            "pldmlt-ddr": ("Ours", (98.897, 97.820, None, None)),
        },
        percent=tuple(_FUSED_COLUMNS),
        on_ddr=True,
    ),
    "PLDMLT, Table 2, grading": PaperTable(
        PLDMLT_PAPER,
        "As Table 1, on DDR. Of stage 1 the paper names IDRiD's part B only; ours learns the grades of DDR.",
        "Which photographs judged it, and by whose grades, the paper does not say.",
        _ACCURACY_COLUMN,
        {
            "nasnet": ("NASNet", (76.59,)),
            "densenet-201": ("DenseNet-201", (74.25,)),
            "resnext-50": ("ResNeXt-50", (81.39,)),
            "resnext-101": ("ResNeXt-101", (82.12,)),
            "fused-mtunet": ("MTUnet", (84.59,)),
            "pldmlt-ddr": ("Ours", (81.98,)),
        },
        percent=tuple(_ACCURACY_COLUMN),
        on_ddr=True,
    ),
    "PLDMLT, Table 3": PaperTable(
        PLDMLT_PAPER,
        "Ablation: masks only (L_S); with pseudo grades (L_C); with the label-update network; with another "
        "weight than 1 for the grades. The paper names neither the data nor the weight: 96.94 fits Table 1's "
        "96.949, so IDRiD with DiaRetDB1 and 0.8, but its mIoU is 94.06 here and 94.164 there. In our runs "
        "the label update learns from the entropy term; the look-ahead has next to no weight (chapter 06).",
        _FOLDS_PROTOCOL,
        _FUSED_COLUMNS,
        {
            "pldmlt-masks": ("L_S", (94.96, 91.02, None, None)),
            "pldmlt-two-tasks": ("L_S, L_C", (94.64, 89.83, None, None)),
            "pldmlt-update": ("L_S, L_C, Upd-Net", (95.05, 90.48, None, None)),
            "pldmlt": ("L_S, L_C, Upd-Net, Weight", (96.94, 94.06, None, None)),
        },
        percent=tuple(_FUSED_COLUMNS),
        also={"pldmlt": ("pldmlt-printed", "pldmlt-first-order")},
    ),
    "DeepMT-DR, Table 1": PaperTable(
        DEEPMT_DR,
        "Settings of the two training stages, no results. The lambdas of ours are the paper's own "
        "(`systems.deepmt_dr_losses.STAGE_ONE`, `STAGE_TWO`), and therefore not in a record; the profile cpu "
        "learns at another rate in stage I.",
        "Tuned on the validation part of DDR.",
        {
            "I: learning rate": "config/hierarchy/first_learning_rate",
            "I: lambda img": "",
            "I: lambda tv": "",
            "I: lambda sa": "",
            "II: learning rate": "config/learning_rate",
            "II: phi vis": "config/hierarchy/threshold",
            "II: lambda img": "",
            "II: lambda tv": "",
            "II: lambda sa": "",
            "II: lambda ca": "",
        },
        {"deepmt-dr": ("Ours", (1e-4, 1, 1e-6, 10, 5e-5, 0.5, 1, 1e-6, 1, 10))},
    ),
    "DeepMT-DR, Table 2, DDR": PaperTable(
        DEEPMT_DR,
        "Grades: mean and standard deviation, in the paper on DDR, ours on IDRiD. Which average of precision "
        "and F1 it prints the paper does not say. The recall weighted by the grades' frequency is the "
        "accuracy, and that its three figures are near each other speaks for weighted means: ours are those. "
        "In 11 of the 14 rows of both halves kappa is too high beside the accuracy to be the unweighted one "
        "that the paper cites; ours is unweighted, and the weighted one stands beside. The text names a "
        "seventh method, Zhou, that the table does not have.",
        _DDR_PROTOCOL,
        _WEIGHTED_COLUMNS,
        {
            "deepmt-dr": ("Ours", ((82.5, 0.8), (82.2, 0.5), (81.8, 0.6), (77.8, 0.8), None)),
            "CKML": ("CKML", ((77.5, 0.6), (80.0, 0.7), (77.0, 0.6), (73.3, 0.4), None)),
            "VNXK": ("VNXK", ((78.3, 0.8), (81.6, 1.2), (78.2, 0.7), (74.7, 0.6), None)),
            "M-Net": ("M-Net", ((78.9, 0.5), (80.1, 0.8), (78.4, 0.3), (74.2, 0.5), None)),
            "AFN": ("AFN", ((79.2, 0.4), (80.6, 0.6), (78.7, 1.0), (74.9, 0.3), None)),
            "MMCNN": ("MMCNN", ((79.5, 0.3), (81.6, 0.8), (79.4, 0.4), (75.7, 0.8), None)),
            "Adly": ("Adly", ((78.6, 0.5), (81.2, 0.7), (78.3, 1.1), (73.9, 0.4), None)),
        },
        percent=tuple(_WEIGHTED_COLUMNS),
    ),
    "DeepMT-DR, Table 2, EyePACS": PaperTable(
        DEEPMT_DR,
        "As the half on DDR, on EyePACS, which has grades and no masks. There are no runs of ours.",
        _DDR_PROTOCOL.replace("DDR", "EyePACS"),
        _WEIGHTED_COLUMNS,
        {
            "Ours": ("Ours", ((85.7, 0.7), (86.0, 0.8), (83.9, 0.5), (83.7, 0.6), None)),
            "CKML": ("CKML", ((81.1, 0.6), (81.3, 0.4), (80.7, 0.5), (80.1, 0.5), None)),
            "VNXK": ("VNXK", ((81.8, 0.7), (82.1, 0.5), (80.8, 0.6), (80.6, 0.3), None)),
            "M-Net": ("M-Net", ((81.8, 0.6), (82.7, 0.4), (82.5, 0.6), (81.3, 0.4), None)),
            "AFN": ("AFN", ((82.8, 0.5), (83.3, 0.2), (82.2, 0.5), (81.8, 0.7), None)),
            "MMCNN": ("MMCNN", ((83.1, 0.6), (83.7, 0.2), (82.9, 0.7), (82.6, 0.8), None)),
            "Adly": ("Adly", ((81.3, 0.6), (82.3, 0.4), (81.6, 0.4), (80.9, 0.5), None)),
        },
        percent=tuple(_WEIGHTED_COLUMNS),
    ),
    "DeepMT-DR, Table 3": PaperTable(
        DEEPMT_DR,
        "Super-resolution by 4, in the paper on DDR, ours on IDRiD. What the paper measures over it does not "
        "say, and it prints no value of bicubic; ours are measured inside the field of view without its rim.",
        _DDR_PROTOCOL,
        {"PSNR (dB)": "isr/psnr", "SSIM": "isr/ssim", "bicubic PSNR (dB)": "isr/bicubic/psnr"},
        {
            "deepmt-dr": ("Ours", (39.7, 0.883, None)),
            "srcnn": ("SRCNN", (36.8, 0.772, None)),
            "Retinal-SRGAN": ("Retinal-SRGAN", (38.1, 0.836, None)),
            "MDRN": ("MDRN", (38.9, 0.856, None)),
        },
        also={"deepmt-dr": ("isr",)},
    ),
    "DeepMT-DR, Table 4": PaperTable(
        DEEPMT_DR,
        "Lesions: area under the ROC curve and average precision, in the paper on DDR, ours on IDRiD. "
        "Whether they are pooled or means over photographs the paper does not say; ours are pooled. The "
        "paper's HM is our HE, and its HE, the hard exudates, our EX. Our U-Net learns by cross-entropy, the "
        "lesion subnet by equation 7.",
        _DDR_PROTOCOL,
        _LESION_COLUMNS,
        {
            "lesions-unet": ("U-Net", (95.7, 45.5, 95.3, 49.4, 96.5, 65.5, 97.2, 58.4)),
            "DRU-Net": ("DRU-Net", (98.1, 49.3, 95.8, 50.4, 98.1, 67.0, 98.5, 62.8)),
            "HGN": ("HGN", (97.4, 48.1, 96.1, 51.8, 98.4, 67.7, 98.6, 63.1)),
            "CE-Net": ("CE-Net", (97.6, 48.5, 96.4, 52.3, 98.2, 67.6, 99.4, 65.2)),
            "deepmt-dr": ("Ours", (98.7, 50.1, 97.1, 55.4, 99.0, 71.8, 99.2, 64.7)),
        },
        percent=tuple(_LESION_COLUMNS),
    ),
    "DeepMT-DR, Table 5": PaperTable(
        DEEPMT_DR,
        "Ablation: other visualisations in place of GMSV, in the paper on DDR, ours on IDRiD.",
        _DDR_PROTOCOL,
        _ACCURACY_COLUMN,
        {
            "deepmt-guided-backprop": ("GBP", (81.4,)),
            "deepmt-grad-cam": ("Grad-CAM", (81.5,)),
            "deepmt-smoothgrad": ("SmoothBP", (81.7,)),
            "deepmt-dr": ("Ours", (82.5,)),
        },
        percent=tuple(_ACCURACY_COLUMN),
    ),
    "DeepMT-DR, Figure 5 a": _figure(
        "Ablation of super-resolution, in the paper on DDR, ours on IDRiD. What the others see without it "
        "the paper does not say; ours see the bicubic enlargement. The figure prints no numbers.",
        {
            "deepmt-isr-removed": "ISR removed",
            "deepmt-isr-independent": "ISR trained independently",
            "deepmt-dr": "three tasks together",
        },
    ),
    "DeepMT-DR, Figure 5 b": _figure(
        "Ablation of lesion segmentation, in the paper on DDR, ours on IDRiD. The figure prints no numbers.",
        {
            "deepmt-lesions-removed": "lesions removed",
            "deepmt-lesions-independent": "lesions trained independently",
            "deepmt-dr": "three tasks together",
        },
    ),
    "DeepMT-DR, Figure 5 c": _figure(
        "Ablation of the task-aware losses (SAL: segmentation-aware, CAL: classification-aware), in the "
        "paper on DDR, ours on IDRiD. The figure prints no numbers.",
        {
            "deepmt-not-aware": "neither",
            "deepmt-seg-aware": "SAL",
            "deepmt-cls-aware": "CAL",
            "deepmt-dr": "SAL and CAL",
        },
    ),
    "DeepMT-DR, Figure 2 a": _figure(
        "Accuracy of the grade at four resolutions, in the paper of two known networks on DDR, ours of the "
        "grading subnet on IDRiD, from 1/8 of the side to all of it. The figure prints no numbers.",
        _at_scales("grade"),
    ),
    "DeepMT-DR, Figure 2 b": _figure(
        "Mean average precision of the lesions at four resolutions, in the paper on DDR, ours on IDRiD from "
        "1/8 of the side to all of it. The figure prints no numbers.",
        _at_scales("lesions"),
        "mAP (%)",
        "segmentation/aupr/mean",
    ),
    "DeepMT-DR, Figure 2 c": PaperTable(
        DEEPMT_DR,
        "Area under the ROC curve of the grading subnet's evidence map against what was drawn: four lesions, "
        "and the background. In the paper on DDR, ours on IDRiD: the subnet alone, then in the whole system. "
        "The paper's HM is our HE, and its HE our EX. The figure prints no numbers.",
        _DDR_PROTOCOL,
        {name: f"evidence/auc/{name}" for name in ("MA", "HE", "SE", "EX", "background")},
        {"grade-at-1-1": ("DR grading network", (None,) * 5)},
        also={"grade-at-1-1": ("deepmt-dr",)},
    ),
    "This course: the four systems side by side": PaperTable(
        COURSE,
        "The fair comparison: same encoder (EfficientNet-Lite0), same whole photographs, augmentation, "
        "learning rate and number of steps, clean protocol, last checkpoint. What differs is what makes a "
        "system: its wiring, its losses, its made or pseudo labels. DeepMT-DR halves the steps between its "
        "two stages, has a lesion subnet without that encoder, and keeps its own learning rate there. "
        "PLDMLT grades with pseudo grades of the photographs with masks, all of them ill: it has never seen "
        "a healthy eye, and its label update learns from the entropy term, not the look-ahead (chapter 06).",
        "",
        {
            "Accuracy": "grading/accuracy",
            "Weighted kappa": "grading/qwk",
            "mean AUC": "grading/auc/mean",
            "MA": "segmentation/aupr/MA",
            "HE": "segmentation/aupr/HE",
            "SE": "segmentation/aupr/SE",
            "EX": "segmentation/aupr/EX",
            "mean AUPR": "segmentation/aupr/mean",
            "mean Dice": "segmentation/dice/mean",
        },
        {},
        ours=_FAIR_RUNS,
        protocols=dict.fromkeys(_FAIR_RUNS, "clean"),
    ),
    "This course: each system in its paper's own protocol": PaperTable(
        COURSE,
        "Each system with its paper's recipe, in our reading where its print cannot be followed: "
        "`shared-lambda-0.1` is the shared-encoder report's, `mtunet-c-semi` MTUnet's, `pldmlt` PLDMLT's, "
        "`deepmt-dr` DeepMT-DR's; sizes and steps are those of the run. `fair-shared` is the report's system "
        "with the recipe of the fair comparison; chapter 08 takes it to measure the leak. The protocols "
        "differ: under `paper` the official test photographs also validate, and some were seen in training "
        "with the other task's label; under `clean-folds` every photograph of part A is judged once, by a "
        "network that did not see it, and only those are graded whose grade part B tells. What is drawn "
        "differs as well: five classes in the report, red and yellow lesions in MTUnet, all lesions as one "
        "in PLDMLT, four lesions in DeepMT-DR. So no number of this table may be compared with one of the "
        "clean table above, nor with another row.",
        "",
        {
            "Accuracy": "grading/accuracy",
            "Weighted kappa": "grading/qwk",
            "mean AUC": "grading/auc/mean",
            "mean Dice": "segmentation/dice/mean",
            "mean AUPR": "segmentation/aupr/mean",
            "graded photographs judged": "photographs/grading/test",
            "masks judged": "photographs/segmentation/test",
        },
        {},
        ours=tuple(_OWN_PROTOCOLS),
        protocols=_OWN_PROTOCOLS,
        on_ddr=None,
    ),
    "This course: the way to the best lesions": PaperTable(
        COURSE,
        "Each row adds one step to the row above it; all else stays. Step 2 also varies colours and sizes "
        "more strongly; `lesions-long` takes four times as many steps as the others, `lesions-longer` eight "
        "times as many, with a learning rate that falls more slowly and a longer mean of the weights; "
        "`lesions-turned` learns as it does, and its mean takes in quarter turns of the photograph; "
        "`lesions-mean` is the mean of two such networks, which learned with different seeds. The "
        "second row of `lesions-best` is the same recipe, larger, on a GPU. A row of protocol `paper` "
        "learned from all 54 photographs with masks in place of 43. Runs of before 28 November 2026 (from "
        "`lesions-long` on, and the GPU's) learned from masks that lay half a pixel beside the picture.",
        "",
        _LESION_AUPR,
        {},
        ours=tuple(name for name, each in EXPERIMENTS.items() if each.family == LESIONS),
    ),
    "This course: how to balance two tasks": PaperTable(
        COURSE,
        "One encoder, and the same time for every run, so that a method with dear steps takes fewer. The two "
        "single tasks have that time each. Chapter 09 compares run with run of the same seed.",
        "",
        {
            "Accuracy": "grading/accuracy",
            "Weighted kappa": "grading/qwk",
            "mean AUPR": "segmentation/aupr/mean",
            "mean Dice": "segmentation/dice/mean",
            "EX": "segmentation/aupr/EX",
        },
        {},
        ours=tuple(name for name in EXPERIMENTS if name.startswith("balance-")),
    ),
    "IDRiD, lesions: what others published": PaperTable(
        PUBLISHED,
        "Area under the precision-recall curve (AUPR) of each lesion, pooled over all pixels of the test "
        "photographs, and the mean over the four. The challenge's row has the best entry of each lesion: no "
        "single method. M2MRF takes 11 thresholds for the curve and sees 1440 x 960 px, HRDecoder "
        "2880 x 1920 px. Our rows of protocol `paper` learned from all 54 training photographs, and their "
        "last epoch counts: no test photograph chose anything. `clean` keeps eight for validation and leaves "
        "out three that part B's test split shows again.",
        "IDRiD's official split: 27 test photographs of part A. What chose the checkpoint differs from paper "
        "to paper, and most do not say.",
        _LESION_AUPR,
        {
            "challenge": ("challenge, best of each lesion", (0.502, 0.680, 0.700, 0.885, None, None)),
            "l-seg": ("L-Seg", (0.463, 0.637, 0.711, 0.795, 0.652, None)),
            "local-global": ("Local-Global U-Nets", (0.525, 0.703, 0.679, 0.889, 0.699, None)),
            "pbda": ("PBDA", (0.534, 0.715, 0.731, 0.864, 0.711, None)),
            "m2mrf": ("M2MRF", (None, None, None, None, 0.676, 0.502)),
            "hrdecoder": ("HRDecoder", (None, None, None, None, 0.713, 0.522)),
        },
        ours=(
            "lesions-best",
            "lesions-long",
            "lesions-longer",
            "lesions-turned",
            "lesions-mean",
            "lesions-unet",
        ),
    ),
    "IDRiD, grades: what others published": PaperTable(
        PUBLISHED,
        "Grades on IDRiD. The challenge counts a photograph as right where the grade of retinopathy and that "
        "of macular edema (DME) both are; ours learn no DME. Of the models that learned from four data sets "
        "together the lowest and the highest kappa stand here.",
        "IDRiD's official split: 103 test photographs of part B. What chose the checkpoint differs from "
        "paper to paper.",
        {
            "Accuracy, grade and DME": "",
            "Accuracy, grade": "grading/accuracy",
            "Quadratic weighted kappa": "grading/qwk",
        },
        {
            "challenge": ("challenge, winner", (0.631, None, None)),
            "four-sets-lowest": (f"{_FOUR_SETS}, lowest", (None, None, 0.751)),
            "four-sets-highest": (f"{_FOUR_SETS}, highest", (None, None, 0.781)),
        },
        ours=(
            "grade-from-findings",
            "grade-lite0",
            "grade-lite1",
            "grade-with-lesions",
            "grading-only",
            "shared-lambda-0.1",
        ),
    ),
}
