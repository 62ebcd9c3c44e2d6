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
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import split
from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS, REPORT
from mtl_utils.runtime import data_label, default_device, device_name, package_versions
from mtl_utils.training import BEST_ACCURACY, BEST_LOSS, BOOTSTRAP_RESAMPLES, FitResult, evaluate, precision

SCHEMA = 1
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
    """Judge a run's two best checkpoints and describe the run.

    The headline figures are those of the checkpoint with the best validation accuracy, as in the report (with
    no grading: the best validation Dice); the one with the lowest validation loss stands beside it under
        `other_checkpoint`.

    Returns:
        A dict that `json.dump` takes; metrics lie flat in it under the names of `mtl_utils.metrics`.
    """
    config = result.config
    chosen, other = (evaluate(result.checkpoint(which), copy, role) for which in (BEST_ACCURACY, BEST_LOSS))
    parts = split(copy.table, config.protocol, config.seed)
    monitor = "val/accuracy" if "grading" in config.tasks else "val/dice"
    return {
        "schema": SCHEMA,
        "experiment": config.name,
        "paper": EXPERIMENTS[config.name].paper,
        "profile": config.profile,
        "protocol": config.protocol,
        "split": role,
        "data": data_label(copy.synthetic),
        "data_fingerprint": copy.fingerprint,
        "photographs": {
            task: {use: len(parts.rows(use, task)) for use in ("train", "val", "test")}
            for task in config.tasks
        },
        "seed": config.seed,
        "encoder_name": config.encoder_name,
        "encoder_weights": str(config.encoder_weights),
        "device": device_name(default_device()),
        "precision": precision(),
        "seconds": round(result.seconds, 1),
        "epochs": len(result.history),
        "peak_memory_gib": peak_memory(),
        "date": date.today().isoformat(),
        "code": code_version(),
        "versions": package_versions(),
        "config": asdict(config),
        "checkpoint": f"{BEST_ACCURACY} (epoch {1 + int(result.history[monitor].argmax())})",
        "bootstrap_resamples": BOOTSTRAP_RESAMPLES,
        **chosen.compute(BOOTSTRAP_RESAMPLES, config.seed),
        "confusion": chosen.confusion(),
        "other_checkpoint": {
            "checkpoint": f"{BEST_LOSS} (epoch {1 + int(result.history['val/loss'].argmin())})",
            **other.compute(),
            "confusion": other.confusion(),
        },
        "history": result.history.to_dict(orient="records"),
        "per_photograph": chosen.per_photograph(copy.table).to_dict(orient="records"),
    }


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


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper as data.

    Attributes:
        paper: which of the four texts.
        caption: what the table shows, and under which protocol.
        columns: the table's own columns: title -> our metric.
        rows: experiment -> (the paper's own row name, values in the order of `columns`; None where it prints
            none).
        percent: columns that the paper prints in percent.
    """

    paper: str
    caption: str
    columns: dict[str, str]
    rows: dict[str, tuple[str, tuple[float | None, ...]]]
    percent: tuple[str, ...] = ()


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
        rows.append(
            {
                "run": f"{title} ({table})",
                "protocol": "paper",
                **dict(zip(paper.columns, values, strict=True)),
            }
        )
        ours = [record for record in records if record["experiment"] == name]
        rows += [_our_row(record, paper) for record in ours] or [
            {"run": f"ours: {name}", "protocol": "pending"}
        ]
    return pd.DataFrame(rows).set_index("run")


def _our_row(record: dict, paper: PaperTable) -> dict:
    values = {
        title: record[metric] * (100 if title in paper.percent else 1)
        for title, metric in paper.columns.items()
        if record.get(metric) is not None
    }
    size = record["config"]["grading_size"], record["config"]["segmentation_size"]
    return {
        "run": f"ours: {record['experiment']}",
        "protocol": record["protocol"],
        **values,
        "data": record["data"],
        "encoder": record["encoder_name"],
        "px (grade, masks)": f"{size[0]}, {size[1]}",
        "seed": record["seed"],
        "epochs": record["epochs"],
        "device": record["device"],
        "minutes": round(record["seconds"] / 60, 1),
        "date": record["date"],
    }
