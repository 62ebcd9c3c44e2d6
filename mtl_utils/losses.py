"""Losses that more than one system needs, by the equations of the papers. Missing labels are masked out."""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from mtl_utils.data.dataset import UNKNOWN_GRADE
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import LESION_SPACE, LabelSpace


def grading_loss(logits: torch.Tensor, grade: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the photographs whose grade is known; zero where none is (MTUnet's Eq. 2).

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


MASK_LOSSES = ("bce", "bce+dice")
"""Losses of masks whose classes do not exclude each other: binary cross-entropy, and with the Dice loss added
(after Milletari et al., V-Net, 2016; theirs has squares in the denominator, that of
segmentation-models-pytorch has not), which weighs a small lesion's pixels like a large one's."""


def segmentation_loss(
    logits: torch.Tensor,
    mask: torch.Tensor,
    has_mask: torch.Tensor,
    space: LabelSpace = LESION_SPACE,
    mask_loss: str = "bce",
) -> torch.Tensor:
    """Binary cross-entropy over every pixel and channel of the photographs that have masks; zero where none
    has.

    Args:
        logits: (B, classes, H, W).
        mask: 0 or 1, (B, classes, H, W).
        has_mask: bool (B,).
        space: meaning of the channels; exclusive classes are scored after a softmax (`softmax_bce`).
        mask_loss: of classes that do not exclude each other, one of `MASK_LOSSES`. The Dice loss is
            segmentation-models-pytorch's: a class over the batch; a class that the batch lacks counts as 0.

    Raises:
        MTLError: an unknown `mask_loss`.
    """
    if mask_loss not in MASK_LOSSES:
        raise MTLError(f"no mask_loss {mask_loss!r}. There are: {', '.join(MASK_LOSSES)}.")
    if not has_mask.any():
        return logits.sum() * 0.0
    loss = softmax_bce if space.exclusive else F.binary_cross_entropy_with_logits
    logits, mask = logits[has_mask].float(), mask[has_mask]
    total = loss(logits, mask)
    if mask_loss == "bce+dice":
        total = total + smp.losses.DiceLoss("multilabel", from_logits=True)(logits, mask)
    return total


SMALLEST = 1e-7
"""Probabilities stay this far from 0 and 1 before a logarithm, as in Keras, with which MTUnet was made."""


def softmax_bce(logits: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """MTUnet's Eq. 1: binary cross-entropy of each class, over softmax outputs S and one-hot truth Y.

    L_B(S, Y) = - sum_ijk [ Y_ijk log S_ijk + (1 - Y_ijk) log(1 - S_ijk) ]

    Compared with plain cross-entropy the second term also asks each wrong class to be improbable.

    Args:
        logits: (B, classes, H, W).
        target: 0 or 1, the same shape, one 1 per pixel.
        reduction: 'sum' over pixels and classes, averaged over photographs, is the equation as printed.
            'mean' also divides by the number of pixels and classes, as Keras does. The two differ by a factor
            of 1.3 million at 512 px, and with it the meaning of alpha in Eq. 3; the paper does not say which.

    Raises:
        MTLError: another `reduction`.

    >>> logits = torch.zeros(1, 5, 1, 1)  # each class has probability 1/5
    >>> target = torch.tensor([1.0, 0, 0, 0, 0]).view(1, 5, 1, 1)
    >>> round(softmax_bce(logits, target, "sum").item(), 4)  # -ln(1/5) - 4 ln(4/5)
    2.502
    """
    if reduction not in ("sum", "mean"):
        raise MTLError(f"no reduction {reduction!r}. There are: sum, mean.")
    probabilities = logits.softmax(dim=1).clamp(SMALLEST, 1 - SMALLEST)
    # Written out: autocast on a GPU forbids torch's own binary cross-entropy of probabilities.
    entropies = -(target * probabilities.log() + (1 - target) * (1 - probabilities).log())
    per_photograph = entropies.flatten(1)
    return (per_photograph.sum(1) if reduction == "sum" else per_photograph.mean(1)).mean()


def categorical_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """PLDMLT's Eq. 2, the categorical focal loss (Lin et al., 2020): what is already right counts little.

    L(y, y') = - alpha sum_c y_c (1 - y'_c)^gamma log y'_c, averaged over photographs and pixels. The equation
    as printed lacks the target y: without it there would be nothing to learn from.

    Args:
        logits: (B, classes, ...); y' is their softmax.
        target: the same shape, the probabilities of the true classes: 0 and 1, or soft labels that sum to 1.
        alpha: weight of the whole; 0.25 in the paper.
        gamma: 0 gives alpha times the cross-entropy; 2 in the paper.

    >>> logits = torch.zeros(1, 5)  # each class has probability 1/5
    >>> target = torch.tensor([[0.0, 0, 1, 0, 0]])
    >>> round(categorical_focal_loss(logits, target).item(), 4)  # 0.25 * (4/5)^2 * ln 5
    0.2575
    """
    return -alpha * (target * focal_terms(logits, gamma)).sum(dim=1).mean()


def focal_terms(logits: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """(1 - y'_c)^gamma log y'_c of every class, (B, classes, ...), in float32 or finer."""
    log_probabilities = (logits.float() if logits.dtype != torch.float64 else logits).log_softmax(dim=1)
    return (1 - log_probabilities.exp()) ** gamma * log_probabilities


Focal = tuple[float, float]
"""alpha and gamma of the categorical focal loss."""


def focal_task_loss(
    task: str, logits: torch.Tensor, batch: dict[str, torch.Tensor], focal: Focal
) -> torch.Tensor:
    """Eq. 2 for one task, over the photographs of a batch that have its label; zero where none has."""
    if task == "grading":
        labelled = batch["grade"] != UNKNOWN_GRADE
        target = F.one_hot(batch["grade"].clamp(min=0), logits.shape[1]).to(logits.dtype)
    else:
        labelled, target = batch["has_mask"], batch["mask"]
    if not labelled.any():
        return logits.sum() * 0.0
    return categorical_focal_loss(logits[labelled], target[labelled], *focal)


def task_loss(
    task: str,
    logits: torch.Tensor,
    batch: dict[str, torch.Tensor],
    space: LabelSpace = LESION_SPACE,
    focal: Focal | None = None,
    mask_loss: str = "bce",
) -> torch.Tensor:
    """The loss of one task on one batch of `data.dataset.FundusDataset`.

    Args:
        task: 'grading', 'segmentation' or 'isr'.
        logits: of that task; of 'isr' the restored photographs.
        batch: its photographs and labels.
        space: meaning of the masks' channels.
        focal: categorical focal loss with these alpha and gamma, which needs exclusive classes; None:
            cross-entropy of the grades, binary cross-entropy of the masks.
        mask_loss: see `segmentation_loss`.
    """
    if task == "isr":
        return F.l1_loss(logits.float(), batch["image"])
    if focal is not None:
        return focal_task_loss(task, logits, batch, focal)
    if task == "grading":
        return grading_loss(logits, batch["grade"])
    return segmentation_loss(logits, batch["mask"], batch["has_mask"], space, mask_loss)


def weighted_sum(losses: dict[str, torch.Tensor], lambda_cls: float) -> torch.Tensor:
    """The report's Eq. 1: L_total = lambda * L_classification + L_segmentation, over the tasks that there
    are. MTUnet's Eq. 3 (L_M = L_B + alpha * L_C) and PLDMLT's (L = L_S + beta * L_C) are the same.

    With a single task there is nothing to weigh: the loss is that task's own.
    """
    if len(losses) == 1:
        return next(iter(losses.values()))
    return sum(lambda_cls * loss if task == "grading" else loss for task, loss in losses.items())
