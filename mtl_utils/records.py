"""What a run leaves behind: one small JSON file of numbers, and the papers' tables to put it beside.

A record holds what is needed to run it again (configuration, versions, data fingerprint, protocol, seed,
device) and what came out (metrics with intervals, confusion matrix, curves, per-photograph values). It holds
no picture and no weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from mtl_utils.analysis import PROBABILITIES, graded, paired_bootstrap
from mtl_utils.balancing import FIXED
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import split
from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS, experiment
from mtl_utils.files import write_whole
from mtl_utils.metrics import SegmentationMetrics, confusion, grading_values
from mtl_utils.paper_tables import PAPER_TABLES, PaperTable, Value
from mtl_utils.pseudo import compare_with_truth, known_grades, made_grades
from mtl_utils.pseudo_grades import measure
from mtl_utils.rerun import filled
from mtl_utils.runtime import code_version, default_device, device_name, package_versions, peak_memory
from mtl_utils.training import (
    BEST_ACCURACY,
    BEST_LOSS,
    LAST,
    Config,
    CrossValidation,
    FitResult,
    Scores,
    balancing_costs,
    evidence_metrics,
    evidence_scores,
    gmsv_costs,
    load_conflicts,
    load_history,
    load_labels,
    load_model,
    load_state,
    precision,
    update_costs,
)
from mtl_utils.training.checkpoints import network_state

SCHEMA = 1
BOOTSTRAP_RESAMPLES = 1000
_HERE = Path(__file__).parent


def results_folder() -> Path:
    """Where the recorded runs lie: in the repository's book, or in the installed wheel."""
    in_wheel = _HERE / "results"
    return in_wheel if in_wheel.is_dir() else _HERE.parent / "book" / "results"


def make_record(result: FitResult | CrossValidation, copy: WorkingCopy) -> dict:
    """Judge a run's checkpoints and describe the run.

    The headline figures are those of the checkpoint that counts (`Config.chosen`): for the report the one
    with the best validation accuracy (with no grading: the best validation Dice), for MTUnet the last. The
    one with the lowest validation loss stands beside it under `other_checkpoint`. Of a run whose first
    network made labels, `made` tells how good those are where the truth was held back from it; of a run with
    pseudo grades, `pseudo_grades` tells the same of these. `evidence/auc/..` tells where DeepMT-DR's grading
    subnet looks, `gmsv_costs` what the map costs. `conflicts` are a run's measured conflicts of gradients,
    `balancing_costs` what its step costs beside a plain one. After a cross-validation the figures are those
    of all folds together. Of a run in several processes (`devices` on each of `nodes` machines) the first
    one makes the record: `device` and `peak_memory_gib` are its own.

    Returns:
        A dict that `json.dump` takes; metrics lie flat in it under the names of `mtl_utils.metrics`.
    """
    config = result.config
    code, device, precisions = _trained_with(result)
    chosen = result.scores(copy)
    other = chosen if _same_network(result, config.chosen, BEST_LOSS) else result.scores(copy, BEST_LOSS)
    return {
        "schema": SCHEMA,
        "experiment": config.name,
        "paper": EXPERIMENTS[config.name].paper,
        "profile": config.profile,
        "protocol": config.protocol,
        "split": "test",
        "data": copy.label,
        "data_fingerprint": copy.fingerprint,
        "photographs": _numbers(config, copy, chosen),
        "seed": config.seed,
        "encoder_name": config.encoder_name,
        "encoder_weights": str(config.encoder_weights),
        "device": device,
        "devices": result.devices,
        "nodes": result.nodes,
        "precision": precisions,
        "seconds": round(result.seconds, 1),
        "epochs": len(result.history),
        "peak_memory_gib": peak_memory(),
        "date": date.today().isoformat(),
        "code": code,
        "judged_by": code_version(),
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
        **_to_score_again(result, copy, chosen),
        **_labels_made(result, copy),
        **_evidence(result, copy),
        **_balancing(result),
        "history": result.history.to_dict(orient="records"),
        "per_photograph": chosen.per_photograph(copy.table).to_dict(orient="records"),
    }


def _trained_with(result: FitResult | CrossValidation) -> tuple[str, str, str]:
    """Code, device and precision that trained the run, not those that judge it; of one that was resumed with
    others all of them.
    """
    runs = result.folds if isinstance(result, CrossValidation) else (result,)
    states = [load_state(run.checkpoint(LAST)) for run in runs]
    code = [version for state in states for version in state["code"] or (code_version(),)]
    config = result.config
    here = device_name(default_device()), precision(config.system, config.own_backward)
    devices, precisions = zip(*(on for state in states for on in state["trained_on"] or (here,)), strict=True)
    return tuple(", ".join(dict.fromkeys(each)) for each in (code, devices, precisions))


def _same_network(result: FitResult | CrossValidation, one: str, other: str) -> bool:
    """Do two checkpoints hold the same weights? Then it is enough to judge one."""
    if one == other or isinstance(result, CrossValidation):
        return one == other
    weights, others = (network_state(load_state(result.checkpoint(which))) for which in (one, other))
    return all(
        torch.equal(value, others[name])
        for name, value in weights.items()
        if isinstance(value, torch.Tensor)  # `FindingsGrader` has a dict besides
    )


def _to_score_again(
    result: FitResult | CrossValidation, copy: WorkingCopy, scores: Scores
) -> dict[str, object]:
    """What a later analysis needs besides the metrics: `pixel_counts` (`segmentation_scores`); `validation`,
    the same checkpoint's metrics and grades on the photographs that may choose between runs; `leaked`, per
    task the names of judged photographs that the run, or a network before it, saw in training.
    """
    config, found = result.config, {}
    if scores.rows.get("segmentation"):
        found["pixel_counts"] = scores.segmentation.pack()
    if isinstance(result, FitResult):
        chooses = result.scores(copy, config.chosen, "val")
        rows = chooses.per_photograph(copy.table)
        graded = rows[rows.task == "grading"].dropna(axis="columns", how="all")
        found["validation"] = {**chooses.compute(), "per_photograph": graded.to_dict(orient="records")}
        learned = copy.table.photo.iloc[_learned_from(config, copy.table)]
        found["leaked"] = {
            task: copy.table.name.iloc[rows][copy.table.photo.iloc[rows].isin(learned)].tolist()
            for task, rows in scores.rows.items()
        }
    return found


def _learned_from(config: Config, table: pd.DataFrame) -> np.ndarray:
    """Positions in the table of the photographs that a run saw in training, or a network before it."""
    tasks = {config.photographs_of(task) for task in (*config.tasks, *config.first_tasks)}
    if config.lesion_network:
        tasks.add("segmentation")
    parts = config.parts(table)
    seen = [parts.rows("train", task) for task in tasks]
    if config.pseudo_grades:  # stage 1 has a protocol of its own
        seen.append(split(table, "clean-folds", config.seed).rows("train", "grading"))
    return np.unique(np.concatenate(seen))


def segmentation_scores(record: dict) -> SegmentationMetrics | None:
    """The masks of a record, to be scored again: at other thresholds, as curves, over some photographs only.
    None where the run has no masks, or the record is older than its `pixel_counts`.
    """
    return SegmentationMetrics.unpack(record["pixel_counts"]) if "pixel_counts" in record else None


def aupr_is_a_bound(record: dict) -> bool:
    """Is the AUPR of a record's masks too low? Until 27 November 2026 the scores of pixels were parted in
    thousandths (`metrics.score_edges`). Of a network that learned by Dice that lost up to .06 of a lesion's
    AUPR, of one that learned by cross-entropy at most .003 (two networks, on validation photographs).
    """
    config, counts = filled(record), record.get("pixel_counts", {})
    return "steps" not in counts and (config["mask_loss"] != "bce" or config["system"] == "deepmt-dr")


def _numbers(config: Config, copy: WorkingCopy, scores: Scores) -> dict[str, dict[str, int]]:
    """How many photographs each task had for training and validation (of several folds: in the first), and
    how many it was judged on.
    """
    parts = config.parts(copy.table)

    def number(use: str, task: str) -> int:
        place = config.photographs_of(task) if use == "train" else config.judged_on(task)
        return len(parts.rows(use, place))

    return {
        task: {"train": number("train", task), "val": number("val", task), "test": len(scores.rows[task])}
        for task in config.tasks
    }


def _checkpoint_name(result: FitResult | CrossValidation, which: str) -> str:
    history = result.history
    if "fold" in history:
        return f"{which} of each fold"
    if result.config.members > 1:
        return f"{which} of each network"
    epochs = {
        LAST: len(history),
        BEST_LOSS: 1 + int(history["val/loss"].argmin()),
        BEST_ACCURACY: 1 + int(history[result.config.monitored].argmax()),
    }
    return f"{which} (epoch {epochs[which]})"


def _labels_made(result: FitResult | CrossValidation, copy: WorkingCopy) -> dict:
    """How good are the labels that networks made, where the truth was held back from them?"""
    if result.pseudo is not None:
        return {"pseudo_grades": _pseudo_grades(result, copy)}
    if isinstance(result, CrossValidation) or result.first is None:
        return {}
    earlier = {"first_history": load_history(result.first).to_dict(orient="records")}
    if result.labels is None:
        return earlier
    rows = result.config.parts(copy.table).rows("test", "segmentation")
    masks = compare_with_truth(result.labels, copy, rows, n_bootstrap=BOOTSTRAP_RESAMPLES)
    grades = made_grades(result.labels, copy, rows).to_dict(orient="records")
    return {"made": masks | {"grades": grades}, **earlier}


def _evidence(result: FitResult | CrossValidation, copy: WorkingCopy) -> dict:
    """Of DeepMT-DR's grading subnet: where it looks, and what it costs to ask."""
    config = result.config
    if not config.hierarchy or "grading" not in config.tasks or isinstance(result, CrossValidation):
        return {}
    scores = evidence_scores(load_model(result.checkpoint())[0], config, copy)
    settings = (config.encoder_name, config.encoder_weights, config.grading_size, config.batch_size)
    return {
        **evidence_metrics(scores, BOOTSTRAP_RESAMPLES, config.seed),
        "evidence_per_photograph": scores.to_dict(orient="records"),
        "gmsv_costs": gmsv_costs(*settings).to_dict(orient="index"),
    }


def _balancing(result: FitResult | CrossValidation) -> dict:
    """Where the tasks' gradients pulled apart, and what a step of the run's kind costs."""
    config, found = result.config, {}
    if config.conflict_every and not isinstance(result, CrossValidation):
        found["conflicts"] = load_conflicts(result.checkpoint(LAST)).to_dict(orient="list")
    if config.balancing != FIXED:
        costs = balancing_costs(config, [config.balancing], memory=False)
        found["balancing_costs"] = costs.to_dict(orient="index")
    return found


def _pseudo_grades(result: FitResult | CrossValidation, copy: WorkingCopy) -> dict:
    """PLDMLT's stage 1 measured, and where the label update took its grades."""
    known, pseudo, config = known_grades(copy.table), result.pseudo, result.config
    table = pseudo.table.assign(known=known[pseudo.rows], initial=pseudo.initial, adjusted=pseudo.adjusted)
    measured = measure(pseudo, known, BOOTSTRAP_RESAMPLES, config.seed)
    found = {
        "measured": measured.to_dict(orient="index"),
        "confusion_before": _confusion_with_known(known, pseudo.rows, pseudo.initial),
        "confusion_after": _confusion_with_known(known, pseudo.rows, pseudo.adjusted),
        "per_photograph": table.to_dict(orient="records"),
    }
    if config.label_update:
        found["update_costs"] = update_costs(config).to_dict(orient="index")
        runs = result.folds if isinstance(result, CrossValidation) else (result,)
        moved = [load_labels(run.checkpoint(LAST)).assign(fold=run.config.fold) for run in runs]
        found["labels"] = pd.concat(moved).to_dict(orient="list")
    return found


def _confusion_with_known(known: np.ndarray, rows: np.ndarray, grades: np.ndarray) -> list[list[int]] | None:
    """None where no photograph's true grade is known."""
    judged = known[rows] >= 0
    return confusion(known[rows][judged], grades[judged]).tolist() if judged.any() else None


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
    """File name of a record, with the protocol where it is not the experiment's own."""
    own = experiment(record["experiment"], record["profile"]).protocol
    protocol = "" if record["protocol"] == own else f"-{record['protocol']}"
    return f"{record['experiment']}-{record['profile']}{protocol}-seed{record['seed']}.json"


def write_record(record: dict, folder: str | Path) -> Path:
    """Write a record, whole or not at all. Returns its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / record_name(record)
    text = json.dumps(_rounded(record), indent=1, default=lambda value: value.item()) + "\n"
    write_whole({path: text.encode()})
    return path


_ALWAYS = (
    "experiment", "profile", "protocol", "split", "data", "seed", "config", "code", "date", "device",
    "encoder_name", "epochs", "seconds",
)  # fmt: skip


_SETTINGS = "tasks", "grading_size", "segmentation_size"


def load_records(folder: str | Path | None = None) -> list[dict]:
    """All records of a folder, by file name; None: those that come with the course.

    Raises:
        MTLError: no such folder, it has no records, or a file is no record.
    """
    folder = Path(folder or results_folder()).expanduser()
    if not folder.is_dir():
        raise MTLError(f"no folder {folder}: give the one that holds the records")
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise MTLError(f"no records in {folder}: those of a run lie in the run's own folder")
    records = []
    for path in paths:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {record['schema']}, expected {SCHEMA}")
            if missing := [key for key in _ALWAYS if key not in record]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            if not (isinstance(record["experiment"], str) and isinstance(record["config"], dict)):
                raise ValueError("its experiment or its config is of another kind")
            if missing := [key for key in _SETTINGS if key not in record["config"]]:
                raise ValueError(f"its config lacks {', '.join(missing)}")
            figures = (key for key in record if key.startswith(("grading/", "segmentation/", "isr/")))
            for key in ("seed", "epochs", "seconds", *figures):
                if not isinstance(record[key], int | float | None):
                    raise ValueError(f"{key} is no number")
        except (ValueError, KeyError, TypeError) as error:  # ValueError: no JSON, or no text at all
            raise MTLError(
                f"{path} is no record of this course ({error}). Give a folder that holds records alone; if "
                "it is a damaged record, run 'mtl train' again."
            ) from error
        records.append(record)
    return records


def runs_of(records: list[dict], experiments: Collection[str]) -> dict[str, list[dict]]:
    """Experiment -> its runs of the protocol 'clean' on IDRiD's test photographs, by seed. All are of one
    profile, that of most runs, since runs of two profiles learned in different ways; experiments without a
    run are left out.
    """
    alike = {"data": "IDRiD", "split": "test", "protocol": "clean"}
    runs = [run for run in records if run["experiment"] in experiments and alike.items() <= run.items()]
    profiles = [run["profile"] for run in runs]
    most = max(("gpu", "cpu", "paper"), key=profiles.count)  # of equally many runs, the first
    found = {
        name: [run for run in runs if (run["experiment"], run["profile"]) == (name, most)]
        for name in experiments
    }
    return {name: sorted(own, key=lambda run: run["seed"]) for name, own in found.items() if own}


def compare_runs(one: list[dict], other: list[dict], task: str, seed: int = 0) -> pd.DataFrame:
    """Is one system better than another on the same photographs? `analysis.paired_bootstrap` of two
    experiments' recorded runs, over the seeds that both have.

    Args:
        one, other: records, as from `runs_of`.
        task: 'grading', or 'segmentation' of records that have `pixel_counts`.
        seed: of the draws.

    Returns:
        As `analysis.paired_bootstrap`, with 1000 draws. Of masks `one`, `other` and `difference` are the
        records' own figures: `pixel_counts` are coarser, and AUPR loses what lies between them, most where a
        network is sure of everything. The intervals are those of the counts, moved by `shift`, as far as the
        difference was off.

    Raises:
        MTLError: there is no seed that both have, or they were not judged on the same photographs.
    """
    common = {run["seed"] for run in one} & {run["seed"] for run in other}
    if not common:
        raise MTLError("nothing to compare: there is no seed that both experiments have")
    pair = [[run for run in runs if run["seed"] in common] for runs in (one, other)]
    seen = [_judged_photographs(run, task) for runs in pair for run in runs]
    if any(photographs != seen[0] for photographs in seen):
        raise MTLError("these runs were not judged on the same photographs")
    values = []
    for runs in pair:
        if task == "grading":
            tables = [graded(run["per_photograph"]) for run in runs]
            values.append([grading_values(t.grade, t[PROBABILITIES].to_numpy()) for t in tables])
        else:
            values.append([segmentation_scores(run).values() for run in runs])
    found = paired_bootstrap(*values, len(seen[0]), BOOTSTRAP_RESAMPLES, seed)
    return found if task == "grading" else _moved_to_records(found, *pair)


def _judged_photographs(run: dict, task: str) -> list[str]:
    return [row["name"] for row in run["per_photograph"] if row["task"] == task]


def _moved_to_records(found: pd.DataFrame, one: list[dict], other: list[dict]) -> pd.DataFrame:
    own = [pd.DataFrame(runs)[found.index].astype(float).mean() for runs in (one, other)]
    moved = found.assign(one=own[0], other=own[1], shift=own[0] - own[1] - found.difference)
    for column in ("difference", "low", "high"):
        moved[column] += moved["shift"]
    return moved


def ladder(
    steps: Mapping[str, dict | None], metrics: Collection[str], seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What each step of a ladder reaches, and what it adds to the step before.

    Args:
        steps: name -> record of a run with masks, judged on the same photographs as all others, the lowest
            step first; None where it is not recorded.
        metrics: of masks, as 'segmentation/aupr/mean'.
        seed: of the bootstrap's draws.

    Returns:
        Metric -> a row per step: `value` and its 95 % interval `low` to `high`, as recorded; `added`,
        `added_low` to `added_high` and `shift` as from `compare_runs`. NaN where nothing is recorded.
    """
    gains = {
        upper: compare_runs([steps[upper]], [steps[lower]], "segmentation", seed)
        for lower, upper in pairwise(steps)
        if steps[lower] and steps[upper]
    }

    def row(name: str, metric: str) -> dict[str, float]:
        run = steps[name] or {}
        found = {"value": run.get(metric), "low": run.get(f"{metric}/low"), "high": run.get(f"{metric}/high")}
        gain = gains[name].loc[metric] if name in gains else {}
        added = {"added": "difference", "added_low": "low", "added_high": "high", "shift": "shift"}
        return found | {column: gain.get(key) for column, key in added.items()}

    return {
        metric: pd.DataFrame({name: row(name, metric) for name in steps}).T.astype(float)
        for metric in metrics
    }


@dataclass(frozen=True)
class Row:
    """A row of a paper's table, or of ours below it.

    Attributes:
        run: 'paper: U-Net' or 'ours: unet'.
        values: by the table's columns, in its units; what nobody printed or measured is None or missing.
        runs: our records, which differ in their seeds only; none in the paper's rows and in pending ones.
        pending: nobody has made this run yet.
    """

    run: str
    values: dict[str, Value]
    runs: tuple[dict, ...] = ()
    pending: bool = False


def rows_of(records: list[dict], paper: PaperTable) -> list[Row]:
    """A table's printed rows, each with our recorded runs below it. A row whose key is no experiment is
    printed only.
    """
    rows = []
    for name, (title, values) in paper.rows.items():
        rows.append(Row(f"{paper.source}: {title}", dict(zip(paper.columns, values, strict=True))))
        if name in EXPERIMENTS and not paper.private:
            for each in (name, *paper.also.get(name, ())):
                rows += _our_rows(records, each, paper)
    for each in paper.ours:
        rows += _our_rows(records, each, paper)
    return rows


def _our_rows(records: list[dict], experiment: str, paper: PaperTable) -> list[Row]:
    alike: dict[tuple, list[dict]] = {}
    for record in records:
        stands = paper.protocols.get(experiment) in (None, record["protocol"])
        if record["experiment"] == experiment and stands and paper.on_ddr in (None, "DDR" in record["data"]):
            alike.setdefault(_setting(record), []).append(record)
    title = f"ours: {experiment}"
    found = [Row(title, _our_values(runs, paper), tuple(runs)) for runs in alike.values()]
    return found or [Row(title, {}, pending=True)]


def beside(records: list[dict], table: str) -> pd.DataFrame:
    """A paper's table with our recorded runs below each of its rows. A run that nobody made yet shows as
    pending.

    Args:
        records: from `load_records`.
        table: a key of `PAPER_TABLES`.

    Raises:
        MTLError: no such table.
    """
    paper = paper_table(table)
    rows = []
    for row in rows_of(records, paper):
        protocol = row.runs[0]["protocol"] if row.runs else "pending" if row.pending else paper.source
        values = {title: _shown(value) for title, value in row.values.items()}
        rows.append({"run": row.run, "protocol": protocol, **values, **(about(row.runs) if row.runs else {})})
    return pd.DataFrame(rows).set_index("run")


def paper_table(table: str) -> PaperTable:
    """The table of that name.

    Raises:
        MTLError: no such table.
    """
    if table not in PAPER_TABLES:
        raise MTLError(f"no table {table!r}. There are: {', '.join(PAPER_TABLES)}.")
    return PAPER_TABLES[table]


def _setting(record: dict) -> tuple:
    """What two runs must have in common to be averaged over their seeds."""
    seedless = {key: value for key, value in filled(record).items() if key != "seed"}
    return record["data"], record["split"], json.dumps(seedless, sort_keys=True)


def _shown(value: Value) -> float | str | None:
    """A number stays one; mean and standard deviation become text."""
    return f"{value[0]:.2f} ± {value[1]:.2f}" if isinstance(value, tuple) else value


def _entry(record: dict, path: str) -> float | None:
    """A metric by its name, or another key of a record by its path, as 'config/learning_rate'."""
    if path in record:
        return record[path]
    found: object = record
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _our_values(runs: list[dict], paper: PaperTable) -> dict[str, Value]:
    """The figure of a single run, or the mean and standard deviation of several."""
    values: dict[str, Value] = {}
    for title, metric in paper.columns.items():
        found = [_entry(run, metric) for run in runs]
        found = [each * (100 if title in paper.percent else 1) for each in found if each is not None]
        if found:
            values[title] = found[0]
        if len(found) > 1 and not metric.startswith(("config/", "photographs/")):
            values[title] = float(np.mean(found)), float(np.std(found, ddof=1))
    return values


def about(runs: tuple[dict, ...]) -> dict:
    """How runs that differ in their seeds only were made."""
    first = runs[0]
    return {
        "data": first["data"],
        "encoder": first["encoder_name"],
        "px (grade, masks)": _sizes(first["config"]),
        "seed": ", ".join(str(run["seed"]) for run in runs),
        "epochs": first["epochs"],
        "device": first["device"],
        "minutes": round(sum(run["seconds"] for run in runs) / len(runs) / 60, 1),
        "date": max(run["date"] for run in runs),
    }


def _sizes(config: dict) -> str:
    """Sides of the pictures, as '256, 512'; '-' for a task that the run has not."""
    grading, masks = "grading" in config["tasks"], {"segmentation", "isr"} & {*config["tasks"]}
    sizes = (config["grading_size"] if grading else "-", config["segmentation_size"] if masks else "-")
    if config.get("lesion_network"):  # it learned masks first
        sizes = (sizes[0], config["lesion_network"]["segmentation_size"])
    return "{}, {}".format(*sizes)


def paired_difference(records: list[dict], one: str, other: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Is one experiment better than another? Runs with the same seed are compared, as in MTUnet's paper. All
    are of one kind (data, split, protocol, profile, encoder): that of most pairs, of equally many the first.

    Args:
        records: from `load_records`.
        one, other: names of experiments.
        metrics: flat names.

    Returns:
        A row per metric: mean of each, the mean `difference` (one minus other), its 95 % interval `low` to
        `high` and the `p` of the paired t-test, and `seeds`, how many pairs there are. Metrics that one of
        these runs lacks are left out. Empty with fewer than two pairs.

    >>> runs = [("a", 0, 0.5), ("a", 1, 0.7), ("b", 0, 0.4), ("b", 1, 0.5)]
    >>> records = [{"experiment": name, "seed": seed, "x": value} for name, seed, value in runs]
    >>> table = paired_difference(records, "a", "b", ["x"])
    >>> table.difference.round(3).item(), table.p.round(3).item()  # differences 0.1 and 0.2: t = 3
    (0.15, 0.205)
    """
    alike = ("seed", "data", "split", "protocol", "profile", "encoder_name")
    runs = {
        name: {tuple(map(run.get, alike)): run for run in records if run["experiment"] == name}
        for name in (one, other)
    }
    pairs = [pair for pair in runs[one] if pair in runs[other]]
    kinds = [pair[1:] for pair in pairs]
    most = max(kinds, key=kinds.count, default=None)
    pairs = [pair for pair in pairs if pair[1:] == most]
    if len(pairs) < 2:
        return pd.DataFrame()
    rows = {}
    for metric in metrics:
        values = [np.array([runs[name][pair].get(metric) for pair in pairs]) for name in (one, other)]
        if None in [*values[0], *values[1]]:
            continue
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
