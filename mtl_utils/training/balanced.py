"""Steps that balance the tasks, and measure where their gradients pull apart, for Lightning."""

from __future__ import annotations

import torch

from mtl_utils.balancing import WEIGHT_LEARNING_RATE, create_balance, gradient_conflict
from mtl_utils.errors import MTLError
from mtl_utils.training.config import Config
from mtl_utils.training.module import Batches, MultiTaskModule


class BalancedModule(MultiTaskModule):
    """A `MultiTaskModule` whose backward pass belongs to `Config.balancing`, and which measures the conflict
    of the tasks every `Config.conflict_every` steps.

    Attributes:
        conflicts: rows of `gradient_conflict`, each with its `step`, the number of steps before it.
    """

    def __init__(self, config: Config, network: torch.nn.Module, *args: object):
        super().__init__(config, network, *args)
        self.balance = create_balance(config.balancing, len(config.tasks))
        self.conflicts: list[dict] = []

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:  # what the processes share goes through loss.backward() alone
            raise MTLError(f"{self.config.name} takes gradients task by task: train it in one process")

    def losses(self, batch: Batches) -> dict[str, torch.Tensor]:
        self._of_this_step = super().losses(batch)
        return self._of_this_step

    def backward(self, loss: torch.Tensor, *args: object, **kwargs: object) -> None:
        losses, self._of_this_step = self._of_this_step, {}
        every = self.config.conflict_every
        if every and self.global_step % every == 0:
            table = gradient_conflict(losses, self.network.encoder).assign(step=self.global_step)
            self.conflicts += table.to_dict(orient="records")
        if self.balance is None:
            super().backward(loss, *args, **kwargs)
            return
        weights = self.balance.backward(losses, self.network)
        self._train_losses[-1] |= {f"weight/{task}": torch.tensor(each) for task, each in weights.items()}

    def on_train_batch_end(self, *args: object) -> None:
        if self.balance is not None:
            self.balance.after_step()

    def parameter_groups(self) -> list[dict]:
        learned = [] if self.balance is None else [*self.balance.parameters()]
        own = {"params": learned, "lr": WEIGHT_LEARNING_RATE}
        return super().parameter_groups() + ([own] if learned else [])

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["conflicts"] = self.conflicts

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.conflicts = list(checkpoint["conflicts"])
