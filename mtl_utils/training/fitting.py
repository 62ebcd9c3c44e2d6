"""`fit` trains a run, `evaluate` judges it: Lightning does the loop.

A run's folder holds `last.ckpt` (to go on after a kill), the two best checkpoints (a third as large because
they hold no state of the optimizer; whole with `Config.ema`), and none that is half written: each is written
beside its place and moved there. A run of several networks has a folder for each, `member-0` and so on; its
own checkpoints hold the finished ones together.
"""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    TQDMProgressBar,
    WeightAveraging,
)
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import ROLES, Split
from mtl_utils.errors import MTLError
from mtl_utils.pseudo import LabelStore, file_digest, make_labels
from mtl_utils.pseudo_grades import PseudoGrades
from mtl_utils.runtime import default_device, seed_everything
from mtl_utils.systems.baselines import DILATED
from mtl_utils.training.balanced import BalancedModule
from mtl_utils.training.checkpoints import (
    WholeCheckpoints,
    config_from,
    load_model,
    load_state,
    network_state,
    run_folder,
    write_state,
)
from mtl_utils.training.config import (
    BEST_ACCURACY,
    BEST_LOSS,
    FIRST,
    LAST,
    Config,
    build_network,
    first_config,
    flat_settings,
)
from mtl_utils.training.distributed import check_processes, end_together, rank, trainer_settings
from mtl_utils.training.findings import FindingsModule
from mtl_utils.training.hierarchy import HierarchyModule
from mtl_utils.training.label_update import LabelUpdateModule
from mtl_utils.training.loaders import FundusData
from mtl_utils.training.module import MultiTaskModule
from mtl_utils.training.scores import Scores

# Its lines about hardware would fill every notebook.
for _part in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_part).setLevel(logging.WARNING)

LABELS = "made-labels"
"""Folder, inside a run's, of the labels that the first network made."""


def precision(system: str, own_backward: bool = False) -> str:
    """bfloat16 where the hardware computes in it: twice as fast at the same accuracy; else float16 on a GPU,
    float32 on a CPU.

    The DeepLabs always take float32 on a CPU: there the gradient of their dilated depthwise convolutions is
    now and then not a number in bfloat16 (torch 2.15). `own_backward`: see `Config`.
    """
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed"
        # Gradients of each task, and those of a label update, are taken without Lightning: the scaling that
        # float16 needs does not reach them. The grader from findings has no gradient, and that scaling would
        # stop it.
        return "32-true" if system in ("pldmlt", "findings") or own_backward else "16-mixed"
    # Older versions of torch do not say what the processor has.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") and system not in DILATED
    return "bf16-mixed" if fast else "32-true"


class EpochLines(Callback):
    """One plain line per epoch: readable in a log, a notebook and a built book alike."""

    def on_validation_end(self, trainer: L.Trainer, module: MultiTaskModule) -> None:
        row = module.history[-1]
        shown = {
            key: row[key]
            for key in ("train/loss", "val/loss", "val/accuracy", "val/dice", "val/psnr")
            if key in row
        }
        text = "  ".join(f"{key} {value:.3f}" for key, value in shown.items())
        print(
            f"epoch {row['epoch'] + 1:>2}/{trainer.max_epochs}  {text}  ({row['seconds']:.0f} s)", flush=True
        )


class BestCheckpoint(ModelCheckpoint):
    """Knows its files again where the run's folder was moved. Lightning would forget which is best, and take
    the next epoch for it.
    """

    def load_state_dict(self, state_dict: dict) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {key: here(state_dict[key]) for key in paths if key in state_dict}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})


@dataclass(frozen=True)
class FitResult:
    """What `fit` leaves.

    Attributes:
        folder: the run's folder.
        config: the run's.
        history: one row per epoch: train/loss, val/loss, val/accuracy, every metric as val/..., seconds. Of
            several networks their mean, and the sum of their seconds.
        seconds: training time, all sittings of a resumed run together, the first network's included.
        first: checkpoint of the network that came before, where there is one (`Config.builds_on_first`).
        labels: what that network labelled, where it did.
        pseudo: the pseudo grades that it learned from, where it did.
        devices, nodes: processes of each machine, and machines.
    """

    folder: Path
    config: Config
    history: pd.DataFrame
    seconds: float
    first: Path | None = None
    labels: LabelStore | None = None
    pseudo: PseudoGrades | None = None
    devices: int = 1
    nodes: int = 1

    def checkpoint(self, which: str | None = None) -> Path:
        """Path of 'best-accuracy', 'best-loss' or 'last'; None: the one that counts, `Config.chosen`."""
        return self.folder / f"{which or self.config.chosen}.ckpt"

    def scores(self, copy: WorkingCopy, which: str | None = None, role: str = "test") -> Scores:
        """A checkpoint judged: `evaluate`."""
        return evaluate(self.checkpoint(which), copy, role)


def _trainer(config: Config, devices: int = 1, nodes: int = 1, **settings) -> L.Trainer:
    # With deterministic algorithms torch also fills each new tensor with NaN, to show who reads what nobody
    # wrote: half of all kernels of a step on a GPU.
    torch.utils.deterministic.fill_uninitialized_memory = False
    settings |= trainer_settings(devices, nodes)
    settings["plugins"] = [WholeCheckpoints(), *settings.get("plugins", ())]
    return L.Trainer(
        accelerator="gpu" if default_device() == "cuda" else "cpu",
        precision=precision(config.system, config.own_backward),
        deterministic="warn",
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **settings,
    )


def _quiet() -> warnings.catch_warnings:
    """Lightning advises more loader processes (we have reasons for none) and reminds of shuffling; neither
    helps a student. DDP's argument has another name in newer versions of torch.
    """
    quiet = warnings.catch_warnings()
    quiet.__enter__()
    for text in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*Checkpoint directory.*",
        ".*isinstance.*LeafSpec.*",
        ".*broadcast_buffers.*",
    ):
        warnings.filterwarnings("ignore", text)
    return quiet


def fit(
    config: Config,
    copy: WorkingCopy,
    folder: str | Path,
    resume: bool = False,
    progress: bool = True,
    first: str | Path | None = None,
    pseudo: PseudoGrades | None = None,
    devices: int = 1,
    nodes: int = 1,
) -> FitResult:
    """Train one run, and before it the network that it builds on, where there is one.

    Args:
        config: the run.
        copy: working copy with pictures of at least `config.copy_size`.
        folder: takes the checkpoints.
        resume: go on from `folder`'s last epoch; the result is that of an undisturbed run.
        progress: print a line per epoch, and show a bar on a terminal.
        first: checkpoint of the network that comes before (`Config.builds_on_first`), trained earlier with
            the settings of `first_config`; None: train it in `folder`/first.
        pseudo: from `stage_one`, where the run learns from pseudo grades (`Config.pseudo_grades`).
        devices: processes on each machine: GPUs, or without one shares of its CPU. Each takes its share of
            every step's `Config.batch_size` photographs. With more than one, Lightning starts the script
            anew for each, and all of them return the same.
        nodes: machines; srun or torchrun has started the processes.

    Raises:
        MTLError: `folder` already holds a run and `resume` is not set, or its run has another configuration
            or learned from other data, or is a cross-validation; `first` or `pseudo` does not fit; the run
            cannot be shared out (`distributed.check_processes`); `folder` cannot be written.
    """
    folder = Path(folder).expanduser()
    last = folder / f"{LAST}.ckpt"
    if (folder / "fold-0").exists():
        raise MTLError(f"{folder} holds a cross-validation: give another folder (--out)")
    _pseudo_fits(config, copy, pseudo)
    parts = config.parts(copy.table)
    check_processes(config, parts, devices, nodes)
    progress = progress and rank(devices * nodes) == 0
    earlier = _earlier_epochs(last, config, copy, pseudo, resume, devices * nodes)
    if first is not None and not config.builds_on_first:
        raise MTLError(f"{config.name} has no network that comes before: leave out {first}")
    _data_fits(config, copy, parts)
    if config.members > 1:
        if not earlier.empty:  # joined last, so all are there
            return FitResult(folder, config, earlier, float(earlier.seconds.sum()))
        return _fit_members(config, copy, folder, resume, progress)
    labels, before = None, 0.0
    if config.builds_on_first:
        first, before = _first_network(config, copy, folder, resume, progress, first)
        if config.first_tasks and config.system != "mtunet-b":
            labels = _made_labels(first, config, copy, parts, folder / LABELS, progress)
    if _finished(earlier, config):
        seconds = before + float(earlier.seconds.sum())
        return FitResult(folder, config, earlier, seconds, first, labels, pseudo, devices, nodes)
    run_folder(folder)
    seed_everything(config.draws_seed)
    network = build_network(config)
    if config.system == "mtunet-b":
        network.load_step_one(network_state(load_state(first)))
    elif config.hierarchy and first:
        network.load_state_dict(network_state(load_state(first)))
    elif config.lesion_network:
        network.lesion_network.load_state_dict(network_state(load_state(first)))
    module = _module(config, network, copy, pseudo)
    data = FundusData(config, copy, parts, labels=labels, pseudo=pseudo)
    keep = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
    # Lightning writes the average of the weights into whole checkpoints only.
    best = {**keep, "save_weights_only": config.ema is None}
    callbacks = [
        EarlyStopping("val/loss", patience=config.patience),
        BestCheckpoint(filename=BEST_LOSS, monitor="val/loss", **best),
        BestCheckpoint(filename=BEST_ACCURACY, monitor=config.monitored, mode="max", **best),
        ModelCheckpoint(filename=LAST, **keep),
    ]
    if config.ema is not None:
        callbacks.append(WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(config.ema)))
    bar = progress and sys.stderr.isatty()
    callbacks += ([EpochLines()] if progress else []) + ([TQDMProgressBar(leave=False)] if bar else [])
    quiet = _quiet()
    try:
        trainer = _trainer(
            config,
            devices,
            nodes,
            max_epochs=config.epochs,
            limit_train_batches=config.steps_per_epoch or 1.0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=callbacks,
            enable_progress_bar=bar,
            enable_checkpointing=True,
        )
        with end_together(trainer):
            trainer.fit(
                module, datamodule=data, ckpt_path=str(last) if last.exists() else None, weights_only=True
            )
    except SystemExit as ended:
        if ended.code != 1:
            raise
        raise KeyboardInterrupt from None  # Lightning makes of Ctrl-C an exit with status 1, without a word
    finally:
        quiet.__exit__(None, None, None)
    history = pd.DataFrame(module.history)
    seconds = before + float(history.seconds.sum())
    return FitResult(folder, config, history, seconds, first, labels, pseudo, devices, nodes)


def _fit_members(config: Config, copy: WorkingCopy, folder: Path, resume: bool, progress: bool) -> FitResult:
    """Train each member in a folder of its own; then the run's checkpoints hold all of them, and its history
    their mean, epoch by epoch.
    """
    runs = []
    for number in range(config.members):
        if progress:
            print(f"network {number + 1} of {config.members}", flush=True)
        at = folder / f"member-{number}"
        runs.append(fit(config.member(number), copy, at, resume, progress))
    epochs = pd.concat([run.history for run in runs]).groupby("epoch", as_index=False)
    history = epochs.mean().assign(seconds=epochs.seconds.sum().seconds)
    for which in (BEST_LOSS, BEST_ACCURACY, LAST):
        states = [load_state(run.checkpoint(which)) for run in runs]
        _join(states, config, history, folder / f"{which}.ckpt")
    return FitResult(folder, config, history, sum(run.seconds for run in runs))


def _join(states: list[dict], config: Config, history: pd.DataFrame, path: Path) -> None:
    """Write the members' checkpoints as one, whole or not at all."""
    weights = {
        f"network.members.{number}.{name}": value
        for number, state in enumerate(states)
        for name, value in network_state(state).items()
    }
    joined = {
        "state_dict": weights,
        "hyper_parameters": {"config": asdict(config)},
        "history": history.to_dict(orient="records"),
        "data_fingerprint": states[0]["data_fingerprint"],
        "code": list(dict.fromkeys(version for state in states for version in state["code"] or ())),
        "trained_on": [on for state in states for on in state["trained_on"] or ()],
    }
    write_state(joined, path)


def _module(
    config: Config, network: nn.Module, copy: WorkingCopy, pseudo: PseudoGrades | None
) -> MultiTaskModule:
    kinds = (
        (LabelUpdateModule, config.label_update),
        (FindingsModule, config.lesion_network),
        (HierarchyModule, config.hierarchy),
        (BalancedModule, config.own_backward),
        (MultiTaskModule, True),
    )
    kind = next(kind for kind, wanted in kinds if wanted)
    return kind(config, network, copy.fingerprint, pseudo)


def _data_fits(config: Config, copy: WorkingCopy, parts: Split) -> None:
    """Are there photographs for each task, and did somebody draw what the masks shall show?"""
    for task in config.tasks:
        missing = "masks" if task == "segmentation" else "a grade"
        rows = parts.rows("train", config.photographs_of(task))
        if not len(rows):
            raise MTLError(f"{config.name}: {copy.label} has no photographs with {missing} to learn from")
        for role, use in (("val", "validate on"), ("test", "be judged on")):
            if not len(parts.rows(role, config.judged_on(task))):
                raise MTLError(
                    f"{config.name}: {copy.label} has no photographs with {missing} to {use} under the "
                    f"protocol {config.protocol!r}. Photographs given with --graded or --masked are learned "
                    "from only: give a main data set (--data) that has both."
                )
        if task == "segmentation":
            copy.require_lesions({lesion for group in config.space.groups.values() for lesion in group}, rows)


def _pseudo_fits(config: Config, copy: WorkingCopy, pseudo: PseudoGrades | None) -> None:
    if config.pseudo_grades and pseudo is None:
        raise MTLError(f"{config.name} learns from pseudo grades: give those of `stage_one`")
    if pseudo is not None and not config.pseudo_grades:
        raise MTLError(f"{config.name} does not learn from pseudo grades: leave them out")
    if pseudo is not None and pseudo.about["data_fingerprint"] != copy.fingerprint:
        raise MTLError(f"the pseudo grades for {config.name} are of other data: run stage 1 on this data")


def _earlier_epochs(
    last: Path, config: Config, copy: WorkingCopy, pseudo: PseudoGrades | None, resume: bool, processes: int
) -> pd.DataFrame:
    """History of the run that this one goes on with; empty where it begins anew."""
    if not last.exists():
        kept = [name for name in (BEST_ACCURACY, BEST_LOSS) if (last.parent / f"{name}.ckpt").exists()]
        if kept and not resume:
            raise MTLError(
                f"{last.parent} holds {kept[0]}.ckpt of an earlier run: nothing was overwritten. Give "
                "another folder (--out)."
            )
        return pd.DataFrame()
    if not resume:
        raise MTLError(
            f"{last.parent} already holds a run. Go on with it (--resume), or give another folder (--out)."
        )
    state = load_state(last)
    if differing := _differing(config_from(state), config):
        raise MTLError(
            f"the run in {last.parent} differs in: {', '.join(differing)}. Resume it with the arguments, and "
            "the version of the course, that it began with, or use another folder."
        )
    _same_data(state, copy, last)
    if state["pseudo_digest"] != (pseudo and pseudo.digest):
        raise MTLError(f"{last} learned from other pseudo grades. Give the same, or another folder.")
    if (began := state["processes"] or 1) != processes:
        raise MTLError(
            f"the run in {last.parent} began with {began} process(es), and now there are {processes}: resume "
            "it with the same --devices times --nodes, or use another folder."
        )
    return pd.DataFrame(state["history"])


def _same_data(state: dict, copy: WorkingCopy, checkpoint: str | Path) -> None:
    if state["data_fingerprint"] != copy.fingerprint:
        raise MTLError(f"{checkpoint} learned from other data. Give the same --data, or another folder.")


def _differing(there: Config, wanted: Config) -> list[str]:
    """The settings in which two configurations differ, as 'seed (0, now 1)'."""
    before, now = flat_settings(asdict(there)), flat_settings(asdict(wanted))
    pairs = {key: (before.get(key), now.get(key)) for key in [*now, *before]}
    return [f"{key} ({old}, now {new})" for key, (old, new) in pairs.items() if old != new]


def _finished(history: pd.DataFrame, config: Config) -> bool:
    """Has this run had its epochs, or was it stopped early? Resumed, Lightning would train one more."""
    if history.empty:
        return False
    waited = len(history) - 1 - int(history["val/loss"].argmin())
    return len(history) >= config.epochs or waited >= config.patience


def _first_network(
    config: Config, copy: WorkingCopy, folder: Path, resume: bool, progress: bool, first: str | Path | None
) -> tuple[Path, float]:
    """Checkpoint of the network that comes before, and the seconds that it learned: trained now, or given."""
    wanted = first_config(config)
    if first is None:
        if (folder / f"{LAST}.ckpt").exists() and not (folder / FIRST).exists():
            raise MTLError(f"the run in {folder} began with a first network that was given: use --first")
        result = fit(wanted, copy, folder / FIRST, resume=resume, progress=progress)
        return result.checkpoint(), result.seconds
    state = load_state(first)
    given = config_from(state)
    _same_data(state, copy, first)
    if differing := _differing(replace(given, name=wanted.name), wanted):
        raise MTLError(f"{first} does not fit {config.name}; it differs in: {', '.join(differing)}")
    if wanted.chosen == LAST and not _finished(pd.DataFrame(state["history"]), wanted):
        raise MTLError(
            f"{first} holds {len(state['history'])} of {wanted.epochs} epochs, and the last is wanted: give "
            f"{LAST}.ckpt of that run. If that is the one, finish the run first (--resume)."
        )
    return Path(first), sum(row["seconds"] for row in state["history"])


def _made_labels(
    first: Path, config: Config, copy: WorkingCopy, parts: Split, folder: Path, progress: bool
) -> LabelStore:
    """Labels of the training photographs, and of part A's others, whose true masks tell how good they are."""
    network, _ = load_model(first)
    labelled = [parts.rows("train", "grading"), *(parts.rows(role, "segmentation") for role in ROLES)]
    rows = np.unique(np.concatenate(labelled))
    return make_labels(
        network,
        config.space,
        copy,
        rows,
        config.segmentation_size,
        folder,
        maker=file_digest(first),
        progress=progress and sys.stderr.isatty(),
    )


def evaluate(checkpoint: str | Path, copy: WorkingCopy, role: str = "test") -> Scores:
    """Judge a checkpoint on the 'test' or 'val' photographs of its own protocol and seed."""
    network, config = load_model(checkpoint)
    module = MultiTaskModule(config, network)
    data = FundusData(config, copy, config.parts(copy.table), role)
    quiet = _quiet()
    try:
        _trainer(config, enable_progress_bar=False, enable_checkpointing=False).test(
            module, datamodule=data, verbose=False
        )
    finally:
        quiet.__exit__(None, None, None)
    return module.scores
