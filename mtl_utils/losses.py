"""Losses that more than one system needs, by the equations of the papers. Missing labels are masked out."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mtl_utils.data.dataset import UNKNOWN_GRADE


def grading_loss(logits: torch.Tensor, grade: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the photographs whose grade is known; zero where none is.

    Args:
        logits: (B, 5).
        grade: int64 (B,), -1 where unknown.

    >>> logits = torch.zeros(2, 5)
    >>> grading_loss(logits, torch.tensor([3, -1])).item()  # ln 5
    1.6094379425048828
    """
    known = grade != UNKNOWN_GRADE
    if not known.any():
        return logits.sum() * 0.0  # keeps the graph whole: a mean over nothing would be NaN
    return F.cross_entropy(logits[known].float(), grade[known])


def segmentation_loss(logits: torch.Tensor, mask: torch.Tensor, has_mask: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over every pixel and channel of the photographs that have masks; zero where none
    has.

    Args:
        logits: (B, 5, H, W).
        mask: 0 or 1, (B, 5, H, W).
        has_mask: bool (B,).
    """
    if not has_mask.any():
        return logits.sum() * 0.0
    return F.binary_cross_entropy_with_logits(logits[has_mask].float(), mask[has_mask])


def task_loss(task: str, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of one task on one batch of `data.dataset.FundusDataset`."""
    if task == "grading":
        return grading_loss(logits, batch["grade"])
    return segmentation_loss(logits, batch["mask"], batch["has_mask"])


def weighted_sum(losses: dict[str, torch.Tensor], lambda_cls: float) -> torch.Tensor:
    """The report's Eq. 1: L_total = lambda * L_classification + L_segmentation, over the tasks that there
    are.

    With a single task there is nothing to weigh: the loss is that task's own.
    """
    if len(losses) == 1:
        return next(iter(losses.values()))
    return lambda_cls * losses["grading"] + losses["segmentation"]
