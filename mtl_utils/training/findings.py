"""How the grader from findings learns: it looks at each photograph once."""

from __future__ import annotations

import torch

from mtl_utils.training.module import Batches, MultiTaskModule


class FindingsModule(MultiTaskModule):
    """One epoch: describe each training photograph as it is, then fit the classifiers. No loss, no
    gradient.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.automatic_optimization = False
        self._described: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch: Batches, batch_idx: int) -> None:
        self.network.eval()  # Lightning has set it to training, where batch normalisation would learn
        photographs = batch["grading"]
        described = self.network.describe(photographs["image"])
        self._described.append({**described, "grade": photographs["grade"].cpu()})
        self.optimizers().step()

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        if self._described:
            joined = {key: torch.cat([each[key] for each in self._described]) for key in self._described[0]}
            self.network.learn(joined, joined.pop("grade"))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # It moves nothing, since nothing has a gradient. But Lightning counts the steps of an optimizer, and
        # keeps no checkpoint of a run without steps.
        return torch.optim.SGD(self.network.parameters())
