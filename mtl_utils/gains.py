"""What did learning both tasks together bring? Recorded runs of chapter 09 beside the single-task runs of the
same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
import pandas as pd
from scipy import stats

from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS
from mtl_utils.experiments.course import BALANCE
from mtl_utils.metrics import delta_mtl
from mtl_utils.systems.base import TASKS

SINGLES = {"grading": "balance-grading", "segmentation": "balance-masks"}
"""Task -> the experiment that learns it alone."""
BALANCED = tuple(
    name
    for name, entry in EXPERIMENTS.items()
    if entry.family == BALANCE and set(entry.config.tasks) == set(TASKS) and not entry.config.few_masks
)
"""The experiments of chapter 09 that learn both tasks from all labels."""
FEW = ("balance-masks-few", "balance-uncertainty-few")
"""Masks alone and both tasks, from few masks."""
GAIN_METRICS = {"grading": "grading/qwk", "segmentation": "segmentation/aupr/mean"}
"""The one metric of each task that Delta_MTL is made of: neither depends on a threshold at one half."""
SHOWN_METRICS = {
    "accuracy": "grading/accuracy",
    "QWK": "grading/qwk",
    "Dice": "segmentation/dice/mean",
    "AUPR": "segmentation/aupr/mean",
}
GAIN = "Delta_MTL (%)"


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of the mean over seeds (Student's t); without an interval, as two NaN, for
    a single value.

    >>> [round(value, 3) for value in seed_interval([1.0, 2.0, 3.0])]  # 2 -+ 4.303 / sqrt(3)
    [2.0, -0.484, 4.484]
    """
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(mean - half), float(mean + half)


def seeds_needed(effect: float, spread: float) -> int:
    """How many seeds until `seed_interval` leaves out 0 in four of five studies?

    Args:
        effect: the true mean, not 0.
        spread: standard deviation over seeds, above 0, in the same unit.

    Raises:
        MTLError: an effect or a spread of 0.

    >>> seeds_needed(5, 10)  # half a standard deviation: 34, as in tables of the paired t-test
    34
    """
    if not effect or spread <= 0:
        raise MTLError(f"an effect of {effect} with a spread of {spread}: no number of seeds is the answer")

    def seen(n: int) -> float:
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, abs(effect) / spread * np.sqrt(n))

    return next(n for n in count(2) if seen(n) >= 0.8)


def run_gains(records: Sequence[dict], metrics: Mapping[str, str] = GAIN_METRICS) -> pd.DataFrame:
    """Delta_MTL (`metrics.delta_mtl`) of each recorded multi-task run, against the single-task runs of the
    same seed, data, split, protocol, profile and encoder.

    Args:
        records: from `records.load_records`.
        metrics: task -> the metric that counts for it.

    Returns:
        A row per run that has both partners: experiment, seed, the relative change of each task and
        `GAIN`, in percent. Empty where there is none. A seed whose single-task value is not above 0 is left
        out, which favours the single task.
    """
    singles = {
        (task, _setting(run)): run
        for task, name in SINGLES.items()
        for run in records
        if run["experiment"] == name
    }
    rows = []
    for run in records:
        alone = {task: singles.get((task, _setting(run))) for task in TASKS}
        if run["experiment"] not in BALANCED or None in alone.values():
            continue
        single = {task: alone[task].get(metric) for task, metric in metrics.items()}
        multi = {task: run.get(metric) for task, metric in metrics.items()}
        if any(not value or value <= 0 for value in single.values()) or None in multi.values():
            continue  # a network that learned nothing is no measure
        changes = {task: delta_mtl({task: multi[task]}, {task: single[task]}) for task in metrics}
        row = {
            "experiment": run["experiment"],
            "seed": run["seed"],
            **changes,
            GAIN: delta_mtl(multi, single),
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=["experiment", "seed", *metrics, GAIN])


def balancing_table(records: Sequence[dict], metrics: Mapping[str, str] = GAIN_METRICS) -> pd.DataFrame:
    """All runs of chapter 09, each with the mean over its seeds and the 95 % interval of that mean.

    Args:
        records: from `records.load_records`; of one profile and one data set.
        metrics: see `run_gains`.

    Returns:
        A row per experiment, the single tasks first: title, status ('recorded' or 'pending'), seeds (their
        number), minutes, and for each of `SHOWN_METRICS`, each task's change in percent and `GAIN` the mean
        under its name and the interval as 'NAME low' and 'NAME high'. What nobody recorded is not a number.
    """
    gains = run_gains(records, metrics)
    table = []
    for name in (*SINGLES.values(), *BALANCED):
        runs = [run for run in records if run["experiment"] == name]
        row: dict[str, object] = {
            "experiment": name,
            "title": EXPERIMENTS[name].about,
            "status": "recorded" if runs else "pending",
            "seeds": len(runs),
            "minutes": np.mean([run["seconds"] / 60 for run in runs]) if runs else np.nan,
        }
        own = gains[gains.experiment == name]
        found = {
            title: [run[metric] for run in runs if run.get(metric) is not None]
            for title, metric in SHOWN_METRICS.items()
        } | {column: own[column].tolist() for column in (*metrics, GAIN)}
        for title, values in found.items():
            cells = seed_interval(values) if values else (np.nan,) * 3
            row |= dict(zip((title, f"{title} low", f"{title} high"), cells, strict=True))
        table.append(row)
    return pd.DataFrame(table).set_index("experiment")


def _setting(run: dict) -> tuple:
    return tuple(run.get(key) for key in ("seed", "data", "split", "protocol", "profile", "encoder_name"))
