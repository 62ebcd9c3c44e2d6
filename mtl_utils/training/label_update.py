"""PLDMLT's stage 2 for Lightning: a multi-task network whose pseudo grades move while it learns."""

from __future__ import annotations

import sys
from itertools import chain, count, islice

import numpy as np
import torch
from tqdm.auto import tqdm

from mtl_utils.errors import MTLError
from mtl_utils.losses import categorical_focal_loss, task_loss
from mtl_utils.pseudo_grades import PseudoGrades
from mtl_utils.systems.pldmlt import Batch, LabelUpdateNetwork, meta_gradient
from mtl_utils.training.config import Config
from mtl_utils.training.loaders import derived_seed
from mtl_utils.training.module import Batches, MultiTaskModule


class LabelUpdateModule(MultiTaskModule):
    """Algorithm 1, stage 2. Every `LabelUpdate.every` epochs of the multi-task network, before the next one
    begins, the label-update network takes `LabelUpdate.steps` steps (lines 15 to 22).

    Attributes:
        labels: what the labels were, at the beginning and after each update: a dict each with `epoch`, `rows`
            (positions in the working copy's table), `labels`, a list of five probabilities per row, and
            `objective`, the update's mean objective (None at the beginning).
    """

    def __init__(self, config: Config, network: torch.nn.Module, data_fingerprint: str, pseudo: PseudoGrades):
        super().__init__(config, network, data_fingerprint, pseudo)
        settings = config.label_update
        for layer in network.modules():
            # smp's EfficientNets leave out layers at random. An update's passes must be of one network.
            if hasattr(layer, "_drop_connect_rate"):
                layer._drop_connect_rate = 0.0
        self.updater = LabelUpdateNetwork(
            config.encoder_name, config.encoder_weights, settings.hierarchy, settings.start
        )
        _, self.plausible = pseudo.by_row(int(pseudo.rows.max()) + 1)
        self.labels: list[dict] = []
        self._optimizer_state: dict | None = None

    def configure_optimizers(self) -> dict:
        self.label_optimizer = torch.optim.Adam(
            self.updater.parameters(), lr=self.config.label_update.learning_rate
        )
        if self._optimizer_state is not None:
            self.label_optimizer.load_state_dict(self._optimizer_state)
        return super().configure_optimizers()

    def _with_plausible(self, batch: Batch) -> Batch:
        plausible = torch.from_numpy(self.plausible[batch["row"].cpu().numpy()])
        return batch | {"plausible": plausible.to(self.device)}

    def _new_labels(self, batch: Batch) -> torch.Tensor:
        """Soft grades as they are now, (B, 5). Asked as it will be judged: with its running averages."""
        self.updater.eval()
        with torch.no_grad():
            return self.updater(batch["image"], batch["grade"], batch["plausible"])

    def losses(self, batch: Batches) -> dict[str, torch.Tensor]:
        both, config = self._with_plausible(batch["segmentation"]), self.config
        labels = self._new_labels(both)
        logits = self.network(both["image"])
        drawn = task_loss("segmentation", logits["segmentation"], both, config.space, config.focal)
        return {
            "grading": categorical_focal_loss(logits["grading"], labels, *config.focal),
            "segmentation": drawn,
        }

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if not self.labels:
            self._write_down_labels(objective=None)
        elif self.current_epoch % self.config.label_update.every == 0:
            self._write_down_labels(self._update_labels())

    def _update_labels(self) -> float:
        """Lines 15 to 22; returns the mean objective."""
        config, settings, epoch = self.config, self.config.label_update, self.current_epoch
        data = self.trainer.datamodule
        loaders = (data.label_loader(derived_seed(config.seed, epoch, again)) for again in count())
        batches = islice(chain.from_iterable(loaders), settings.steps)
        quiet = not sys.stderr.isatty()
        self.updater.train()
        objectives = []
        for number, batch in enumerate(tqdm(batches, "labels", settings.steps, leave=False, disable=quiet)):
            torch.manual_seed(derived_seed(config.seed, epoch, number))
            batch = self._with_plausible(self.transfer_batch_to_device(batch, self.device, 0))
            with self.trainer.precision_plugin.forward_context():
                objective, gradients = meta_gradient(
                    self.network, self.updater, batch, settings, config.lambda_cls, config.focal
                )
            if not torch.isfinite(objective):
                raise MTLError(
                    f"{config.name}: the objective of the label update is not a number in epoch {epoch + 1}"
                )
            objectives.append(objective.item())
            for parameter, gradient in zip(self.updater.parameters(), gradients, strict=True):
                parameter.grad = gradient
            self.label_optimizer.step()
        return float(np.mean(objectives))

    @torch.no_grad()
    def _write_down_labels(self, objective: float | None) -> None:
        rows, labels = [], []
        for batch in self.trainer.datamodule.label_loader(seed=None):
            batch = self._with_plausible(self.transfer_batch_to_device(batch, self.device, 0))
            rows += batch["row"].tolist()
            labels.append(self._new_labels(batch).float().cpu())
        self.labels.append(
            {
                "epoch": self.current_epoch,
                "objective": objective,
                "rows": rows,
                "labels": torch.cat(labels).tolist(),
            }
        )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["labels"] = self.labels
        checkpoint["label_optimizer"] = self.label_optimizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.labels = list(checkpoint["labels"])
        self._optimizer_state = checkpoint["label_optimizer"]
