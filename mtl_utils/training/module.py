"""One step of learning, and judging with `Scores`, for Lightning."""

from __future__ import annotations

import time
from dataclasses import asdict

import lightning as L
import numpy as np
import torch

from mtl_utils.errors import MTLError
from mtl_utils.losses import task_loss, weighted_sum
from mtl_utils.pseudo_grades import PseudoGrades
from mtl_utils.runtime import code_version, default_device, device_name
from mtl_utils.systems.base import judged_logits
from mtl_utils.training.config import Config
from mtl_utils.training.distributed import average_statistics, begin_together, mean_losses, together
from mtl_utils.training.loaders import derived_seed
from mtl_utils.training.scores import Scores

Batches = dict[str, dict[str, torch.Tensor]]
"""Task -> batch, as a loader gives it."""


class MultiTaskModule(L.LightningModule):
    """Trains a network on one batch of each task per step; validates and tests with `Scores`."""

    def __init__(
        self,
        config: Config,
        network: torch.nn.Module,
        data_fingerprint: str | None = None,
        pseudo: PseudoGrades | None = None,
    ):
        super().__init__()
        self.config = config
        self.network = network
        self.data_fingerprint = data_fingerprint
        self.pseudo_digest = pseudo and pseudo.digest
        self.history: list[dict[str, float]] = []
        self.code: list[str] = []
        self.trained_on: list[list[str]] = []
        self.scores = self._new_scores()
        self._train_losses: list[dict[str, float]] = []
        self.save_hyperparameters({"config": asdict(config)})

    def _new_scores(self) -> Scores:
        config = self.config
        scale = config.hierarchy and config.hierarchy.scale
        return Scores(config.tasks, config.space, config.focal, scale, config.mask_loss)

    def _loss(self, task: str, logits: torch.Tensor, photographs: dict[str, torch.Tensor]) -> torch.Tensor:
        config = self.config
        return task_loss(task, logits, photographs, config.space, config.focal, config.mask_loss)

    def training_step(self, batch: Batches, batch_idx: int) -> torch.Tensor:
        # Dropout draws from torch's global generator, from which loaders draw as well, and a resumed run
        # makes one loader more. Seeded per step, it repeats an undisturbed run. Of several processes each
        # draws for its own photographs.
        rank = (self.global_rank,) if self.global_rank else ()
        torch.manual_seed(derived_seed(self.config.draws_seed, self.current_epoch, batch_idx, *rank))
        losses = self.losses(batch)
        total = weighted_sum(losses, self.config.lambda_cls)
        self._train_losses.append(
            {"loss": total.detach(), **{f"{task}_loss": loss.detach() for task, loss in losses.items()}}
        )
        return total

    def losses(self, batch: Batches) -> dict[str, torch.Tensor]:
        config = self.config
        if config.pseudo_grades:  # every photograph has both labels
            both = batch["segmentation"]
            logits = self.network(both["image"], config.tasks)
            return {task: self._loss(task, logits[task], both) for task in config.tasks}
        logits = self._one_pass(batch) if config.one_pass else self._pass_per_task(batch)
        return {task: self._loss(task, logits[task], batch[task]) for task in batch}

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

    def on_train_start(self) -> None:
        self.code = list(dict.fromkeys([*self.code, code_version()]))
        here = [device_name(default_device()), self.trainer.precision]
        if here not in self.trained_on:
            self.trained_on.append(here)
        if self.trainer.world_size > 1:
            begin_together(len(self.history))

    def on_train_epoch_start(self) -> None:
        self._train_losses = []
        self._started = time.monotonic()

    def _evaluation_step(
        self, batch: dict[str, torch.Tensor], dataloader_idx: int, flips: bool = False, turns: bool = False
    ) -> None:
        task = self.config.tasks[dataloader_idx]
        logits = judged_logits(self.network, batch["image"], task, flips, turns)
        self.scores.update(task, logits, batch)

    def on_validation_epoch_start(self) -> None:
        if self.trainer.world_size > 1:
            self._train_losses = mean_losses(self._train_losses)
            average_statistics(self.network)
        if not all(torch.isfinite(step["loss"]) for step in self._train_losses):
            raise MTLError(
                f"{self.config.name}: the loss is not a number in epoch {self.current_epoch + 1}. The "
                "checkpoints of earlier epochs are whole. Train anew with a lower learning_rate."
            )
        self.scores = self._new_scores()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(
        self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluation_step(batch, dataloader_idx)  # one pass is enough to follow an epoch

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluation_step(batch, dataloader_idx, self.config.flips, self.config.turns)

    def on_validation_epoch_end(self) -> None:
        several = self.trainer.world_size > 1
        if several:
            self.scores = together(self.scores)
        losses = {task: torch.tensor(self.scores.loss(task)) for task in self.config.tasks}
        metrics = self.scores.compute()
        monitored = {"val/loss": float(weighted_sum(losses, self.config.lambda_cls))}
        if "grading" in self.config.tasks:
            monitored["val/accuracy"] = metrics["grading/accuracy"]
        if "segmentation" in self.config.tasks:
            monitored["val/dice"] = metrics.get("segmentation/dice/mean", 0.0)
        if "isr" in self.config.tasks:
            monitored["val/psnr"] = metrics["isr/psnr"]
        self.log_dict(monitored, sync_dist=several)  # they are the same: this says so
        # A loss that not every batch has is the mean over those that have it.
        names = dict.fromkeys(key for step in self._train_losses for key in step)
        train = {
            f"train/{key}": float(np.mean([step[key].item() for step in self._train_losses if key in step]))
            for key in names
        }
        row = {
            "epoch": self.current_epoch,
            **train,
            **monitored,
            **{f"val/{name}": value for name, value in metrics.items()},
        }
        self.history.append({**row, "seconds": time.monotonic() - self._started})

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["history"], checkpoint["code"] = self.history, self.code
        checkpoint["trained_on"] = self.trained_on
        checkpoint["data_fingerprint"] = self.data_fingerprint
        checkpoint["pseudo_digest"] = self.pseudo_digest
        if self.trainer.world_size > 1:
            checkpoint["processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.history = list(checkpoint["history"])
        self.code = list(checkpoint.get("code", ()))
        self.trained_on = list(checkpoint.get("trained_on", ()))

    def parameter_groups(self) -> list[dict]:
        """What the optimizer moves, with settings of its own where they differ from the network's."""
        return [{"params": self.network.parameters()}]

    def configure_optimizers(self) -> dict:
        decay = self.config.hierarchy.weight_decay if self.config.hierarchy else 0.0
        # Without decay AdamW is Adam. With it, decay added to the gradient (Adam's own way) would outweigh
        # the small gradients of super-resolution: it then learned nothing in 2,000 steps.
        optimizer = torch.optim.AdamW(
            self.parameter_groups(), lr=self.config.learning_rate, weight_decay=decay
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=self.config.lr_gamma),
        }
