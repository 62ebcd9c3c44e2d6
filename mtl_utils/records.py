"""What a run leaves behind: one small JSON file of numbers, and the papers' tables to put it beside.

A record holds what is needed to run it again (configuration, versions, data fingerprint, protocol, seed,
device) and what came out (metrics with intervals, confusion matrix, curves, per-photograph values). It holds
no picture and no weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import Split
from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS, MTUNET, REPORT
from mtl_utils.pseudo import compare_with_truth, made_grades
from mtl_utils.runtime import default_device, device_name, package_versions
from mtl_utils.training import (
    BEST_ACCURACY,
    BEST_LOSS,
    LAST,
    FitResult,
    evaluate,
    load_history,
    precision,
)

SCHEMA = 1
BOOTSTRAP_RESAMPLES = 1000
_HERE = Path(__file__).parent


def results_folder() -> Path:
    """Where the recorded runs lie: in the repository's book, or in the installed wheel."""
    in_wheel = _HERE / "results"
    return in_wheel if in_wheel.is_dir() else _HERE.parent / "book" / "results"


def code_version() -> str:
    """The git commit of the library, with '+changes' where files differ from it; the package version outside
    a checkout.
    """
    from mtl_utils import __version__

    git = ["git", "-C", str(_HERE)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", str(_HERE)], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} ({commit}{'+changes' if changed.strip() else ''})"


def peak_memory() -> float | None:
    """Peak memory of this process so far in GiB: of the GPU where there is one, else of main memory (None on
    Windows).
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def make_record(result: FitResult, copy: WorkingCopy, role: str = "test") -> dict:
    """Judge a run's checkpoints and describe the run.

    The headline figures are those of the checkpoint that counts (`Config.chosen`): for the report the one
    with the best validation accuracy (with no grading: the best validation Dice), for MTUnet the last. The
    one with the lowest validation loss stands beside it under `other_checkpoint`. Of a run whose first
    network made labels, `made` tells how good those are where the truth was held back from it.

    Returns:
        A dict that `json.dump` takes; metrics lie flat in it under the names of `mtl_utils.metrics`.
    """
    config = result.config
    chosen, other = (evaluate(result.checkpoint(which), copy, role) for which in (config.chosen, BEST_LOSS))
    parts = config.parts(copy.table)
    return {
        "schema": SCHEMA,
        "experiment": config.name,
        "paper": EXPERIMENTS[config.name].paper,
        "profile": config.profile,
        "protocol": config.protocol,
        "split": role,
        "data": copy.label,
        "data_fingerprint": copy.fingerprint,
        "photographs": {
            task: {use: len(parts.rows(use, task)) for use in ("train", "val", "test")}
            for task in config.tasks
        },
        "seed": config.seed,
        "encoder_name": config.encoder_name,
        "encoder_weights": str(config.encoder_weights),
        "device": device_name(default_device()),
        "precision": precision(config.system),
        "seconds": round(result.seconds, 1),
        "epochs": len(result.history),
        "peak_memory_gib": peak_memory(),
        "date": date.today().isoformat(),
        "code": code_version(),
        "versions": package_versions(),
        "config": asdict(config),
        "checkpoint": _checkpoint_name(result, config.chosen),
        "bootstrap_resamples": BOOTSTRAP_RESAMPLES,
        **chosen.compute(BOOTSTRAP_RESAMPLES, config.seed),
        "confusion": chosen.confusion(),
        "other_checkpoint": {
            "checkpoint": _checkpoint_name(result, BEST_LOSS),
            **other.compute(),
            "confusion": other.confusion(),
        },
        "made": _made(result, copy, parts, role),
        "history": result.history.to_dict(orient="records"),
        "first_history": load_history(result.first).to_dict(orient="records") if result.first else None,
        "per_photograph": chosen.per_photograph(copy.table).to_dict(orient="records"),
    }


def _checkpoint_name(result: FitResult, which: str) -> str:
    history = result.history
    best = "val/accuracy" if "grading" in result.config.tasks else "val/dice"
    epochs = {
        LAST: len(history),
        BEST_LOSS: 1 + int(history["val/loss"].argmin()),
        BEST_ACCURACY: 1 + int(history[best].argmax()),
    }
    return f"{which} (epoch {epochs[which]})"


def _made(result: FitResult, copy: WorkingCopy, parts: Split, role: str) -> dict | None:
    """How good are the made labels of the photographs of part A whose truth the maker never saw?"""
    if result.labels is None:
        return None
    rows = parts.rows(role, "segmentation")
    masks = compare_with_truth(result.labels, copy, rows, n_bootstrap=BOOTSTRAP_RESAMPLES)
    return masks | {"grades": made_grades(result.labels, copy, rows).to_dict(orient="records")}


def _rounded(value: object) -> object:
    """Four significant digits are more than any test split can tell apart; NaN, which JSON lacks, becomes
    null.
    """
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def record_name(record: dict) -> str:
    """File name of a record."""
    return f"{record['experiment']}-{record['profile']}-seed{record['seed']}.json"


def write_record(record: dict, folder: str | Path) -> Path:
    """Write a record, whole or not at all. Returns its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / record_name(record)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(_rounded(record), indent=1, default=lambda value: value.item()) + "\n")
    os.replace(half, path)
    return path


def load_records(folder: str | Path | None = None) -> list[dict]:
    """All records of a folder, by file name; None: those that come with the course.

    Raises:
        MTLError: a file is no record.
    """
    records = []
    for path in sorted(Path(folder or results_folder()).glob("*.json")):
        try:
            record = json.loads(path.read_text())
            record["experiment"], record["schema"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise MTLError(
                f"{path} is no record of this course ({error}). Delete it, or run 'mtl train' again."
            ) from error
        records.append(record)
    return records


Value = float | tuple[float, float] | None


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper as data.

    Attributes:
        paper: which of the four texts.
        caption: what the table shows, and under which protocol.
        columns: the table's own columns: title -> our metric.
        rows: experiment -> (the paper's own row name, values in the order of `columns`: a number, mean and
            standard deviation, or None where it prints none).
        percent: columns that the paper prints in percent.
        also: experiment -> further runs of ours that belong below its row.
        private: judged on photographs that nobody else has, so that no run of ours can stand beside.
    """

    paper: str
    caption: str
    columns: dict[str, str]
    rows: dict[str, tuple[str, tuple[Value, ...]]]
    percent: tuple[str, ...] = ()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    private: bool = False


_GRADE_COLUMNS = {
    "No DR": "grading/auc/0",
    "Mild": "grading/auc/1",
    "Moderate": "grading/auc/2",
    "Severe": "grading/auc/3",
    "Proliferative": "grading/auc/4",
}

PAPER_TABLES: dict[str, PaperTable] = {
    "Shared-encoder report, Table 2": PaperTable(
        REPORT,
        "Classification, segmentation and multi-task models; its 'validation' is IDRiD's official test "
        "split, which also chose the checkpoint (protocol paper).",
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
        "masks; which photographs judged them it does not say. Ours learn from IDRiD alone; we read its Dice "
        "as the mean of red and yellow lesions, its ROC as the mean area over the five grades.",
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
        "Lesions on IDRiD's 27 test photographs of part A: mean and standard deviation of three runs. The "
        "networks learned from the 54 training photographs; MTUnet also from grades that were made for them.",
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
        "Grades, area under the ROC curve of each against the rest: mean and standard deviation of three "
        "runs. The paper's networks learned from Kaggle's set and were judged on 413 photographs of IDRiD; "
        "ours learn from IDRiD's training photographs and are judged on its 103 test photographs.",
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
}


def beside(records: list[dict], table: str) -> pd.DataFrame:
    """A paper's table with our recorded runs below each of its rows. A run that nobody made yet shows as
    pending.

    Args:
        records: from `load_records`.
        table: a key of `PAPER_TABLES`.

    Raises:
        MTLError: no such table.
    """
    if table not in PAPER_TABLES:
        raise MTLError(f"no table {table!r}. There are: {', '.join(PAPER_TABLES)}.")
    paper = PAPER_TABLES[table]
    rows = []
    for name, (title, values) in paper.rows.items():
        printed = dict(zip(paper.columns, map(_shown, values), strict=True))
        rows.append({"run": f"paper: {title}", "protocol": "paper", **printed})
        for each in () if paper.private else (name, *paper.also.get(name, ())):
            alike: dict[tuple, list[dict]] = {}
            for record in records:
                if record["experiment"] == each:
                    alike.setdefault(_setting(record), []).append(record)
            rows += [_our_row(runs, paper) for runs in alike.values()] or [
                {"run": f"ours: {each}", "protocol": "pending"}
            ]
    return pd.DataFrame(rows).set_index("run")


def _setting(record: dict) -> tuple:
    """What two runs must have in common to be averaged over their seeds."""
    seedless = {key: value for key, value in record["config"].items() if key != "seed"}
    return record["data"], record["split"], json.dumps(seedless, sort_keys=True)


def _shown(value: Value) -> float | str | None:
    """A number stays one; mean and standard deviation become text."""
    return f"{value[0]:.2f} ± {value[1]:.2f}" if isinstance(value, tuple) else value


def _our_row(runs: list[dict], paper: PaperTable) -> dict:
    """One row for runs that differ in their seeds only."""
    values = {}
    for title, metric in paper.columns.items():
        found = [
            run[metric] * (100 if title in paper.percent else 1)
            for run in runs
            if run.get(metric) is not None
        ]
        if found:
            values[title] = found[0] if len(found) == 1 else _shown((np.mean(found), np.std(found, ddof=1)))
    first = runs[0]
    size = first["config"]["grading_size"], first["config"]["segmentation_size"]
    return {
        "run": f"ours: {first['experiment']}",
        "protocol": first["protocol"],
        **values,
        "data": first["data"],
        "encoder": first["encoder_name"],
        "px (grade, masks)": f"{size[0]}, {size[1]}",
        "seed": ", ".join(str(run["seed"]) for run in runs),
        "epochs": first["epochs"],
        "device": first["device"],
        "minutes": round(sum(run["seconds"] for run in runs) / len(runs) / 60, 1),
        "date": max(run["date"] for run in runs),
    }


def paired_difference(records: list[dict], one: str, other: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Is one experiment better than another? Runs with the same seed (and data, split, protocol and profile)
    are compared, as in MTUnet's paper.

    Args:
        records: from `load_records`.
        one, other: names of experiments.
        metrics: flat names.

    Returns:
        A row per metric: mean of each, the mean `difference` (one minus other), its 95 % interval `low` to
        `high` and the `p` of the paired t-test, and `seeds`, how many pairs there are. Empty with fewer than
        two pairs.

    >>> runs = [("a", 0, 0.5), ("a", 1, 0.7), ("b", 0, 0.4), ("b", 1, 0.5)]
    >>> records = [{"experiment": name, "seed": seed, "x": value} for name, seed, value in runs]
    >>> table = paired_difference(records, "a", "b", ["x"])
    >>> table.difference.round(3).item(), table.p.round(3).item()  # differences 0.1 and 0.2: t = 3
    (0.15, 0.205)
    """
    alike = ("seed", "data", "split", "protocol", "profile")
    runs = {
        name: {tuple(map(run.get, alike)): run for run in records if run["experiment"] == name}
        for name in (one, other)
    }
    pairs = [pair for pair in runs[one] if pair in runs[other]]
    if len(pairs) < 2:
        return pd.DataFrame()
    rows = {}
    for metric in metrics:
        values = [np.array([runs[name][pair][metric] for pair in pairs]) for name in (one, other)]
        test = stats.ttest_rel(*values)
        low, high = test.confidence_interval(0.95)
        means = dict(zip((one, other), map(np.mean, values), strict=True))
        rows[metric] = means | {
            "difference": np.mean(values[0] - values[1]),
            "low": low,
            "high": high,
            "p": test.pvalue,
            "seeds": len(pairs),
        }
    return pd.DataFrame(rows).T
