"""Predictions, collected batch by batch, become metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from mtl_utils.image_quality import compare
from mtl_utils.label_spaces import LESION_SPACE, LabelSpace
from mtl_utils.losses import Focal, task_loss
from mtl_utils.metrics import SegmentationMetrics, confusion, grading_metrics, mean_metrics
from mtl_utils.systems.deepmt_dr import bicubic, reduce


class Scores:
    """Collects predictions batch by batch and turns them into metrics, losses and a table per photograph."""

    def __init__(
        self,
        tasks: tuple[str, ...],
        space: LabelSpace = LESION_SPACE,
        focal: Focal | None = None,
        scale: int | None = None,
        mask_loss: str = "bce",
    ):
        self.space, self.focal, self.scale, self.mask_loss = space, focal, scale, mask_loss
        self.losses: dict[str, list[tuple[float, int]]] = {task: [] for task in tasks}
        self.grades: list[torch.Tensor] = []
        self.probabilities: list[torch.Tensor] = []
        self.rows: dict[str, list[int]] = {task: [] for task in tasks}
        self.segmentation = SegmentationMetrics(space=space)
        self.restorations: list[dict[str, float]] = []

    def update(self, task: str, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        """Add one batch, all of whose photographs have the task's label."""
        loss = task_loss(task, logits, batch, self.space, self.focal, self.mask_loss)
        self.losses[task].append((loss.item(), len(logits)))
        self.rows[task] += batch["row"].tolist()
        if task == "grading":
            self.grades.append(batch["grade"].cpu())
            self.probabilities.append(logits.double().softmax(dim=1).cpu())
        elif task == "isr":
            simple = bicubic(reduce(batch["image"], self.scale), self.scale)
            pictures = (
                each.float().cpu().permute(0, 2, 3, 1).numpy() for each in (logits, simple, batch["image"])
            )
            self.restorations += [compare(*each, rim=2 * self.scale) for each in zip(*pictures, strict=True)]
        else:
            probabilities = self.space.probabilities(logits)
            self.segmentation.update(*map(self.space.of_marked, (probabilities, batch["mask"])))

    def merge(self, other: Scores) -> Scores:
        """Append the photographs of another fold; returns self."""
        for task, rows in other.rows.items():
            self.losses[task] += other.losses[task]
            self.rows[task] += rows
        self.grades += other.grades
        self.probabilities += other.probabilities
        self.restorations += other.restorations
        self.segmentation.merge(other.segmentation)
        return self

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
        if self.restorations:
            metrics |= mean_metrics(pd.DataFrame(self.restorations), "isr", n_bootstrap, seed)
        return metrics

    def confusion(self) -> list[list[int]] | None:
        """Confusion matrix, rows the true grade; None without grading."""
        if not self.grades:
            return None
        return confusion(
            torch.cat(self.grades).numpy(), torch.cat(self.probabilities).argmax(1).numpy()
        ).tolist()

    def per_photograph(self, table: pd.DataFrame) -> pd.DataFrame:
        """One row per photograph and task: name, task, and its grade and probabilities, its Dice per
        lesion, or how well it was restored.
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
        if self.restorations:
            names = table.iloc[self.rows["isr"]].name.to_numpy()
            parts.append(pd.DataFrame(self.restorations).assign(name=names, task="isr"))
        return pd.concat(parts, ignore_index=True)
