"""Training and judging, on Lightning: one module, one data module, `fit` and `evaluate`.

A run's folder holds `last.ckpt` (to go on after a kill), the two best checkpoints, and nothing that is half
written: Lightning writes each checkpoint beside its place and moves it there.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from mtl_utils.data.augment import resize_recipe, training_recipe
from mtl_utils.data.dataset import UNKNOWN_GRADE, FundusDataset
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.splits import ROLES, Split, balanced_rows, split
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import LESION_SPACE, LabelSpace, label_space
from mtl_utils.losses import task_loss, weighted_sum
from mtl_utils.metrics import SegmentationMetrics, confusion, grading_metrics
from mtl_utils.pseudo import LabelStore, WithMadeLabels, file_digest, make_labels
from mtl_utils.runtime import default_device, seed_everything
from mtl_utils.systems.base import TASKS, FundusNetwork
from mtl_utils.systems.baselines import ARCHITECTURES, DILATED, LesionBaseline
from mtl_utils.systems.mtunet import MTUnet, MTUnetTwoStep
from mtl_utils.systems.shared_encoder import DECODER_CHANNELS, SharedEncoder

# Its lines about hardware would fill every notebook.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

LAST, BEST_LOSS, BEST_ACCURACY = "last", "best-loss", "best-accuracy"
BOOTSTRAP_RESAMPLES = 1000
EVALUATION_BATCH = 4
MADE_SHARE = 0.5
"""Share of segmentation's training photographs with a made mask, where there are such: else the few true
masks would hardly be seen any more."""

SYSTEMS = ("shared-encoder", "mtunet-a", "mtunet-b", "mtunet-c", *ARCHITECTURES)
FIRST = "first"
"""Folder, inside a run's, of the network that is trained before: see `Config.first_tasks`."""
LABELS = "made-labels"
"""Folder, inside a run's, of the labels that the first network made."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run. Defaults are the shared-encoder report's public configuration.

    Attributes:
        name: of the experiment.
        system: one of `SYSTEMS`.
        label_space: what the masks' channels mean; one of `label_spaces.LABEL_SPACES`.
        tasks: 'grading', 'segmentation' or both.
        lambda_cls: lambda of the report's Eq. 1, alpha of MTUnet's Eq. 3; used where there are two tasks.
        augment: augmentation, or resizing only.
        recipe: whose augmentation; one of `augment.RECIPES`.
        balanced: every grade equally often in training, as MTUnet's paper has it.
        first_tasks: tasks of a network that is trained before, with otherwise the same settings. It is step
            one of MTUnet's variant B; for every other system it makes labels for the photographs of the
            training split that lack one.
        encoder_name, encoder_weights: see `encoders.create_encoder`.
        dropout: before the grading head.
        decoder_channels: of the decoder's blocks, the deepest first (shared-encoder and MTUnet).
        upsampling: of MTUnet's decoder; see `systems.mtunet.MirrorBlock`.
        grading_size: side of graded pictures, in pixels.
        segmentation_size: side of segmented pictures; crops of `crop_size` are learned from, whole pictures
            judged.
        batch_size: photographs of each task in a step.
        one_pass: the photographs of both tasks go through the encoder together; False: a pass per task, as in
            the report.
        epochs: at the most; an epoch takes as many samples of each task as the larger task has photographs.
        steps_per_epoch: cap on an epoch's steps, for lessons; None: no cap.
        learning_rate, lr_gamma: Adam's, and its factor per epoch (ExponentialLR).
        patience: epochs without a lower validation loss until training stops.
        chosen: the checkpoint that counts: 'best-accuracy', 'best-loss' or 'last'.
        protocol: see `data.splits`.
        seed: rules weights, split, order, augmentation and dropout.
        profile: the profile that the sizes came from.
    """

    name: str
    system: str = "shared-encoder"
    label_space: str = LESION_SPACE.name
    tasks: tuple[str, ...] = TASKS
    lambda_cls: float = 0.1
    augment: bool = True
    recipe: str = "report"
    balanced: bool = False
    first_tasks: tuple[str, ...] = ()
    encoder_name: str = "efficientnet-b0"
    encoder_weights: str | None = "imagenet"
    dropout: float = 0.2
    decoder_channels: tuple[int, ...] = DECODER_CHANNELS
    upsampling: str = "transposed"
    grading_size: int = 256
    segmentation_size: int = 512
    crop_size: int = 256
    batch_size: int = 8
    one_pass: bool = False
    epochs: int = 50
    steps_per_epoch: int | None = None
    learning_rate: float = 1e-3
    lr_gamma: float = 0.95
    patience: int = 10
    chosen: str = BEST_ACCURACY
    protocol: str = "clean"
    seed: int = 0
    profile: str = "paper"

    def __post_init__(self):
        if self.system not in SYSTEMS:
            raise MTLError(f"no system {self.system!r}. There are: {', '.join(SYSTEMS)}.")
        if self.system == "mtunet-b" and (self.first_tasks, self.tasks) != (("segmentation",), TASKS):
            raise MTLError(f"{self.name}: variant B of MTUnet has both tasks, and first_tasks segmentation")
        for side in (self.grading_size, self.segmentation_size, self.crop_size):
            if side < 32 or side % 32:
                raise MTLError(
                    f"picture side {side} px: the networks halve it five times, so give a multiple of 32"
                )
        if self.crop_size > self.segmentation_size:
            raise MTLError(
                f"crop_size {self.crop_size} is larger than segmentation_size {self.segmentation_size}"
            )
        if self.one_pass and self.grading_size != self.crop_size:
            raise MTLError(
                f"one_pass needs pictures of one size: grading_size {self.grading_size}, "
                f"crop_size {self.crop_size}"
            )

    @property
    def copy_size(self) -> int:
        """Side of the working copy that this run reads."""
        return max(
            self.grading_size if "grading" in self.tasks else 0,
            self.segmentation_size if "segmentation" in self.tasks else 0,
        )

    @property
    def space(self) -> LabelSpace:
        """What the masks' channels mean."""
        return label_space(self.label_space)


def build_network(config: Config) -> FundusNetwork:
    """The network of a run, with its encoder's weights loaded."""
    encoder = (config.encoder_name, config.encoder_weights)
    if config.system == "shared-encoder":
        return SharedEncoder(*encoder, config.tasks, config.dropout, config.decoder_channels)
    if config.system in ARCHITECTURES:
        return LesionBaseline(config.system, *encoder, config.space)
    settings = {
        "space": config.space,
        "dropout": config.dropout,
        "decoder_channels": config.decoder_channels,
        "upsampling": config.upsampling,
    }
    if config.system == "mtunet-b":
        return MTUnetTwoStep(*encoder, **settings)
    return MTUnet(*encoder, config.tasks, variant=config.system[-1].upper(), **settings)


def first_config(config: Config) -> Config:
    """The run that comes before a run with `first_tasks`: see `Config.first_tasks`."""
    system = "mtunet-c" if config.system == "mtunet-b" else config.system
    name = f"{config.name}-{FIRST}"
    return replace(config, name=name, system=system, tasks=config.first_tasks, first_tasks=())


class Scores:
    """Collects predictions batch by batch and turns them into metrics, losses and a table per photograph."""

    def __init__(self, tasks: tuple[str, ...], space: LabelSpace = LESION_SPACE):
        self.space = space
        self.losses: dict[str, list[tuple[float, int]]] = {task: [] for task in tasks}
        self.grades: list[torch.Tensor] = []
        self.probabilities: list[torch.Tensor] = []
        self.rows: dict[str, list[int]] = {task: [] for task in tasks}
        self.segmentation = SegmentationMetrics(space=space)

    def update(self, task: str, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        """Add one batch, all of whose photographs have the task's label."""
        self.losses[task].append((task_loss(task, logits, batch, self.space).item(), len(logits)))
        self.rows[task] += batch["row"].tolist()
        if task == "grading":
            self.grades.append(batch["grade"].cpu())
            self.probabilities.append(logits.double().softmax(dim=1).cpu())
        else:
            probabilities = self.space.probabilities(logits)
            self.segmentation.update(*map(self.space.of_marked, (probabilities, batch["mask"])))

    def loss(self, task: str) -> float:
        """Mean loss over photographs."""
        values, counts = zip(*self.losses[task], strict=True)
        return float(np.average(values, weights=counts))

    def compute(self, n_bootstrap: int = 0, seed: int = 0) -> dict[str, float]:
        """Flat metrics of every task that was seen."""
        metrics = {f"{task}/loss": self.loss(task) for task, seen in self.losses.items() if seen}
        if self.grades:
            metrics |= grading_metrics(
                torch.cat(self.grades).numpy(), torch.cat(self.probabilities).numpy(), n_bootstrap, seed
            )
        if self.rows.get("segmentation"):
            metrics |= self.segmentation.compute(n_bootstrap, seed)
        return metrics

    def confusion(self) -> list[list[int]] | None:
        """Confusion matrix, rows the true grade; None without grading."""
        if not self.grades:
            return None
        return confusion(
            torch.cat(self.grades).numpy(), torch.cat(self.probabilities).argmax(1).numpy()
        ).tolist()

    def per_photograph(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row per photograph and task: name, task, and its grade and probabilities, or its Dice per
        lesion.
        """
        parts = []
        if self.grades:
            names = table.iloc[self.rows["grading"]].name.to_numpy()
            columns = {
                f"p{grade}": column for grade, column in enumerate(torch.cat(self.probabilities).numpy().T)
            }
            parts.append(
                pd.DataFrame(
                    {"name": names, "task": "grading", "grade": torch.cat(self.grades).numpy(), **columns}
                )
            )
        if self.rows.get("segmentation"):
            names = table.iloc[self.rows["segmentation"]].name.to_numpy()
            dice = self.segmentation.per_photograph().reset_index(drop=True)
            parts.append(dice.assign(name=names, task="segmentation"))
        return pd.concat(parts, ignore_index=True)


Batches = dict[str, dict[str, torch.Tensor]]
"""Task -> batch, as a loader gives it."""


class MultiTaskModule(L.LightningModule):
    """Trains a network on one batch of each task per step; validates and tests with `Scores`."""

    def __init__(self, config: Config, network: torch.nn.Module, data_fingerprint: str | None = None):
        super().__init__()
        self.config = config
        self.network = network
        self.data_fingerprint = data_fingerprint
        self.history: list[dict[str, float]] = []
        self.scores = Scores(config.tasks, config.space)
        self._train_losses: list[dict[str, float]] = []
        self.save_hyperparameters({"config": asdict(config)})

    def training_step(self, batch: Batches, batch_idx: int) -> torch.Tensor:
        # Dropout draws from torch's global generator, from which loaders draw as well, and a resumed run
        # makes one loader more. Seeded per step, it repeats an undisturbed run.
        torch.manual_seed(derived_seed(self.config.seed, self.current_epoch, batch_idx))
        logits = self._one_pass(batch) if self.config.one_pass else self._pass_per_task(batch)
        losses = {task: task_loss(task, logits[task], batch[task], self.config.space) for task in batch}
        total = weighted_sum(losses, self.config.lambda_cls)
        self._train_losses.append(
            {"loss": total.detach(), **{f"{task}_loss": loss.detach() for task, loss in losses.items()}}
        )
        return total

    def _pass_per_task(self, batch: Batches) -> dict[str, torch.Tensor]:
        """The report's way: the tasks' photographs differ, so the encoder runs once for each task."""
        return {task: self.network(part["image"], tasks=(task,))[task] for task, part in batch.items()}

    def _one_pass(self, batch: Batches) -> dict[str, torch.Tensor]:
        """All photographs go through the encoder together, and each task's head takes its own.

        Batch normalisation is why. Whole photographs and crops have different statistics. With a pass per
        task it learns with each task's own, but keeps one running average of both, which fits neither when
        the network is judged.
        """
        sizes = [len(part["image"]) for part in batch.values()]
        features = self.network.features(torch.cat([part["image"] for part in batch.values()]))
        by_task = zip(*(level.split(sizes) for level in features), strict=True)
        return {
            task: self.network.heads(own, (task,))[task] for task, own in zip(batch, by_task, strict=True)
        }

    def on_train_epoch_start(self) -> None:
        self._train_losses = []
        self._started = time.monotonic()

    def _evaluation_step(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> None:
        task = self.config.tasks[dataloader_idx]
        self.scores.update(task, self.network(batch["image"], tasks=(task,))[task], batch)

    def on_validation_epoch_start(self) -> None:
        if not all(torch.isfinite(step["loss"]) for step in self._train_losses):
            raise MTLError(
                f"{self.config.name}: the loss is not a number in epoch {self.current_epoch + 1}. The "
                "checkpoints of earlier epochs are whole. Train anew with a lower learning_rate."
            )
        self.scores = Scores(self.config.tasks, self.config.space)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(
        self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluation_step(batch, dataloader_idx)

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluation_step(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        losses = {task: torch.tensor(self.scores.loss(task)) for task in self.config.tasks}
        metrics = self.scores.compute()
        monitored = {"val/loss": float(weighted_sum(losses, self.config.lambda_cls))}
        if "grading" in self.config.tasks:
            monitored["val/accuracy"] = metrics["grading/accuracy"]
        if "segmentation" in self.config.tasks:
            monitored["val/dice"] = metrics.get("segmentation/dice/mean", 0.0)
        self.log_dict(monitored)
        train = {
            f"train/{key}": float(np.mean([step[key].item() for step in self._train_losses]))
            for key in self._train_losses[0]
        }
        row = {
            "epoch": self.current_epoch,
            **train,
            **monitored,
            **{f"val/{name}": value for name, value in metrics.items()},
        }
        self.history.append({**row, "seconds": time.monotonic() - self._started})

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["history"] = self.history
        checkpoint["data_fingerprint"] = self.data_fingerprint

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history = list(checkpoint["history"])

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=self.config.lr_gamma),
        }


def derived_seed(seed: int, *place: int) -> int:
    """A seed of its own for each place (epoch, step) of each run."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])


class FundusData(L.LightningDataModule):
    """The loaders of a run. Those of training are built anew each epoch, so that order and augmentation
    follow from seed and epoch.

    Args:
        role: what is judged, 'test' or 'val'.
        labels: made labels; they are learned from, and never judged with. Grading then draws from all
            training photographs; of segmentation's photographs a share of `MADE_SHARE` have a made mask.
    """

    def __init__(
        self,
        config: Config,
        copy: WorkingCopy,
        parts: Split,
        role: str = "test",
        labels: LabelStore | None = None,
    ):
        super().__init__()
        self.config, self.copy, self.parts, self.role = config, copy, parts, role
        self.learned_from = WithMadeLabels(copy, labels) if labels else copy

    def train_dataloader(self) -> CombinedLoader:
        seed = derived_seed(self.config.seed, self.trainer.current_epoch)
        return CombinedLoader(
            {task: self._train_loader(task, seed) for task in self.config.tasks}, "max_size_cycle"
        )

    def val_dataloader(self) -> list[DataLoader]:
        return [self.evaluation_loader(task, "val") for task in self.config.tasks]

    def test_dataloader(self) -> list[DataLoader]:
        return [self.evaluation_loader(task, self.role) for task in self.config.tasks]

    def _size(self, task: str) -> int:
        return self.config.grading_size if task == "grading" else self.config.segmentation_size

    def _train_loader(self, task: str, seed: int) -> DataLoader:
        config, size = self.config, self._size(task)
        crop = config.crop_size if task == "segmentation" else None
        transform = (
            training_recipe(config.recipe, task, size, crop) if config.augment else resize_recipe(size, crop)
        )
        rows = self._training_rows(task, np.random.default_rng(seed))
        dataset = FundusDataset(self.learned_from, rows, transform, seed, config.space)
        return DataLoader(
            dataset,
            batch_size=config.batch_size,
            # A last batch of one photograph would upset batch normalisation.
            drop_last=len(dataset) > config.batch_size,
            num_workers=workers(),
        )

    def _training_rows(self, task: str, rng: np.random.Generator) -> np.ndarray:
        """The photographs of an epoch in their order.

        IDRiD has eight graded photographs for each one with masks. An epoch is as long as the larger task in
        every run, and photographs with masks come back, each time augmented anew: the single-task and the
        multi-task network take equally many steps, so none wins by having trained longer.
        """
        graded, drawn = (self.parts.rows("train", each) for each in TASKS)
        longest = max(len(graded), len(drawn))
        rows = graded if task == "grading" else drawn
        made = self._rows_with_made_labels(task, drawn if task == "grading" else graded)
        if len(made) and task == "segmentation":
            rows = np.resize(rows, longest - round(MADE_SHARE * longest))
            made = np.resize(rng.permutation(made), longest - len(rows))
        rows = np.concatenate([rows, made])
        if task == "grading" and self.config.balanced:
            rows = balanced_rows(rows, self.learned_from.grades, longest, rng)
        # Shuffled here and not by the loader: its order would depend on how often it was asked for one, and
        # Lightning asks once more when it resumes.
        return rng.permutation(np.resize(rows, longest))

    def _rows_with_made_labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Those of the other task's photographs to which a network gave this task's label."""
        source = self.learned_from
        if source is self.copy:
            return rows[:0]
        labelled = (
            source.grades[rows] != UNKNOWN_GRADE if task == "grading" else [*map(source.has_mask, rows)]
        )
        return rows[np.array(labelled, bool)]

    def evaluation_loader(self, task: str, role: str) -> DataLoader:
        """Whole photographs in the table's order."""
        rows, transform = self.parts.rows(role, task), resize_recipe(self._size(task))
        dataset = FundusDataset(self.copy, rows, transform, space=self.config.space)
        return DataLoader(dataset, batch_size=EVALUATION_BATCH, num_workers=workers())


def workers() -> int:
    """Loader processes: on a GPU machine the CPU is free to load; on a CPU the network needs it, and the
    working copy is quick.
    """
    import os

    return min(8, os.cpu_count() or 1) if torch.cuda.is_available() else 0


def precision(system: str) -> str:
    """bfloat16 where the hardware computes in it: twice as fast at the same accuracy; else float16 on a GPU,
    float32 on a CPU.

    The DeepLabs always take float32 on a CPU: there the gradient of their dilated depthwise convolutions is
    now and then not a number in bfloat16 (torch 2.15).
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    fast = torch.cpu.get_capabilities().get("avx512_bf16") and system not in DILATED
    return "bf16-mixed" if fast else "32-true"


class EpochLines(Callback):
    """One plain line per epoch: readable in a log, a notebook and a built book alike."""

    def on_validation_end(self, trainer: L.Trainer, module: MultiTaskModule) -> None:
        row = module.history[-1]
        shown = {
            key: row[key] for key in ("train/loss", "val/loss", "val/accuracy", "val/dice") if key in row
        }
        text = "  ".join(f"{key} {value:.3f}" for key, value in shown.items())
        print(
            f"epoch {row['epoch'] + 1:>2}/{trainer.max_epochs}  {text}  ({row['seconds']:.0f} s)", flush=True
        )


@dataclass(frozen=True)
class FitResult:
    """What `fit` leaves.

    Attributes:
        folder: the run's folder.
        config: the run's.
        history: one row per epoch: train/loss, val/loss, val/accuracy, every metric as val/..., seconds.
        seconds: training time, all sittings of a resumed run together, the first network's included.
        first: checkpoint of the network that came before, where there is one (`Config.first_tasks`).
        labels: what that network labelled, where it did.
    """

    folder: Path
    config: Config
    history: pd.DataFrame
    seconds: float
    first: Path | None = None
    labels: LabelStore | None = None

    def checkpoint(self, which: str | None = None) -> Path:
        """Path of 'best-accuracy', 'best-loss' or 'last'; None: the one that counts, `Config.chosen`."""
        return self.folder / f"{which or self.config.chosen}.ckpt"


def _trainer(config: Config, **settings) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if default_device() == "cuda" else "cpu",
        devices=1,
        precision=precision(config.system),
        deterministic="warn",
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **settings,
    )


def _quiet() -> warnings.catch_warnings:
    """Lightning advises more loader processes (we have reasons for none) and reminds of shuffling; neither
    helps a student.
    """
    quiet = warnings.catch_warnings()
    quiet.__enter__()
    for text in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*Checkpoint directory.*",
        ".*isinstance.*LeafSpec.*",
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
) -> FitResult:
    """Train one run, and before it the network that it builds on, where there is one.

    Args:
        config: the run.
        copy: working copy with pictures of at least `config.copy_size`.
        folder: takes the checkpoints.
        resume: go on from `folder`'s last epoch; the result is that of an undisturbed run.
        progress: print a line per epoch, and show a bar on a terminal.
        first: checkpoint of the network that comes before (`Config.first_tasks`), trained earlier with the
            settings of `first_config`; None: train it in `folder`/first.

    Raises:
        MTLError: `folder` already holds a run and `resume` is not set, or its run has another configuration
            or learned from other data, or `first` does not fit.
    """
    folder = Path(folder)
    last = folder / f"{LAST}.ckpt"
    earlier = _earlier_epochs(last, config, copy, resume)
    if first is not None and not config.first_tasks:
        raise MTLError(f"{config.name} has no network that comes before: leave out {first}")
    parts = split(copy.table, config.protocol, config.seed)
    labels, before = None, 0.0
    if config.first_tasks:
        first, before = _first_network(config, copy, folder, resume, progress, first)
        if config.system != "mtunet-b":
            labels = _made_labels(first, config, copy, parts, folder / LABELS, progress)
    if _finished(earlier, config):
        return FitResult(folder, config, earlier, before + float(earlier.seconds.sum()), first, labels)
    seed_everything(config.seed)
    network = build_network(config)
    if config.system == "mtunet-b":
        network.load_step_one(_network_state(_load(first)))
    module = MultiTaskModule(config, network, copy.fingerprint)
    data = FundusData(config, copy, parts, labels=labels)
    second = "val/accuracy" if "grading" in config.tasks else "val/dice"
    keep = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
    callbacks = [
        EarlyStopping("val/loss", patience=config.patience),
        ModelCheckpoint(filename=BEST_LOSS, monitor="val/loss", **keep),
        ModelCheckpoint(filename=BEST_ACCURACY, monitor=second, mode="max", **keep),
        ModelCheckpoint(filename=LAST, **keep),
    ]
    bar = progress and sys.stderr.isatty()
    callbacks += ([EpochLines()] if progress else []) + ([TQDMProgressBar(leave=False)] if bar else [])
    quiet = _quiet()
    try:
        trainer = _trainer(
            config,
            max_epochs=config.epochs,
            limit_train_batches=config.steps_per_epoch or 1.0,
            reload_dataloaders_every_n_epochs=1,
            callbacks=callbacks,
            enable_progress_bar=bar,
            enable_checkpointing=True,
        )
        trainer.fit(
            module, datamodule=data, ckpt_path=str(last) if last.exists() else None, weights_only=True
        )
    finally:
        quiet.__exit__(None, None, None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    history = pd.DataFrame(module.history)
    return FitResult(folder, config, history, before + float(history.seconds.sum()), first, labels)


def _earlier_epochs(last: Path, config: Config, copy: WorkingCopy, resume: bool) -> pd.DataFrame:
    """History of the run that this one goes on with; empty where it begins anew."""
    if not last.exists():
        return pd.DataFrame()
    if not resume:
        raise MTLError(
            f"{last.parent} already holds a run. Go on with it (--resume), or give another folder (--out)."
        )
    state = _load(last)
    if _config_from(state) != config:
        raise MTLError(
            f"the run in {last.parent} has another configuration: resume it with the same arguments, "
            "or use another folder."
        )
    _same_data(state, copy, last)
    return pd.DataFrame(state["history"])


def _same_data(state: dict, copy: WorkingCopy, checkpoint: str | Path) -> None:
    if state["data_fingerprint"] != copy.fingerprint:
        raise MTLError(f"{checkpoint} learned from other data. Give the same --data, or another folder.")


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
        result = fit(wanted, copy, folder / FIRST, resume=resume, progress=progress)
        return result.checkpoint(), result.seconds
    state = _load(first)
    given = _config_from(state)
    _same_data(state, copy, first)
    if replace(given, name=wanted.name) != wanted:
        differing = [
            field.name
            for field in fields(Config)
            if field.name != "name" and getattr(given, field.name) != getattr(wanted, field.name)
        ]
        raise MTLError(f"{first} does not fit {config.name}; it differs in: {', '.join(differing)}")
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


def _load(checkpoint: str | Path) -> dict:
    """The parts of a checkpoint that the course reads: config, state_dict, history, data_fingerprint."""
    path = Path(checkpoint)
    if not path.is_file():
        raise MTLError(f"no checkpoint {path}. Train one with 'mtl train', or check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        parts = {key: state[key] for key in ("state_dict", "history", "data_fingerprint")}
        return {"config": state["hyper_parameters"]["config"], **parts}
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        raise MTLError(f"{path} is no checkpoint of this course, or it is damaged: {error}") from error


def _network_state(state: dict) -> dict[str, torch.Tensor]:
    return {key.removeprefix("network."): value for key, value in state["state_dict"].items()}


def _config_from(state: dict) -> Config:
    known = {field.name for field in fields(Config)}
    settings = {
        key: tuple(value) if isinstance(value, list) else value for key, value in state["config"].items()
    }
    return Config(**{key: value for key, value in settings.items() if key in known})


def load_config(checkpoint: str | Path) -> Config:
    """The configuration that a checkpoint was trained with.

    Raises:
        MTLError: no such file, or it is damaged.
    """
    return _config_from(_load(checkpoint))


def load_history(checkpoint: str | Path) -> pd.DataFrame:
    """The epochs that a checkpoint has learned: see `FitResult.history`.

    Raises:
        MTLError: no such file, or it is damaged.
    """
    return pd.DataFrame(_load(checkpoint)["history"])


def load_model(checkpoint: str | Path, device: str | None = None) -> tuple[FundusNetwork, Config]:
    """A trained network in evaluation mode, and its configuration. Loads with `weights_only=True`: data,
    never code.

    Raises:
        MTLError: no such file, or it is damaged.
    """
    state = _load(checkpoint)
    config = _config_from(state)
    network = build_network(replace(config, encoder_weights=None))
    network.load_state_dict(_network_state(state))
    return network.to(device or default_device()).eval(), config


def evaluate(checkpoint: str | Path, copy: WorkingCopy, role: str = "test") -> Scores:
    """Judge a checkpoint on the 'test' or 'val' photographs of its own protocol and seed."""
    network, config = load_model(checkpoint)
    module = MultiTaskModule(config, network)
    data = FundusData(config, copy, split(copy.table, config.protocol, config.seed), role)
    quiet = _quiet()
    try:
        _trainer(config, enable_progress_bar=False, enable_checkpointing=False).test(
            module, datamodule=data, verbose=False
        )
    finally:
        quiet.__exit__(None, None, None)
    return module.scores
