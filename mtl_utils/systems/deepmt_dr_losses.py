"""DeepMT-DR's losses, Eqs 3 to 10 (Wang et al., AAAI 2021): the second half of `systems.deepmt_dr`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


def segmentation_aware_loss(lesions_sr: torch.Tensor, lesions_hr: torch.Tensor) -> torch.Tensor:
    """Eq. 3: mean square difference between the lesions found in the super-resolved and in the true picture.

    Args:
        lesions_sr, lesions_hr: probabilities (B, 4, H, W).
    """
    return F.mse_loss(lesions_sr, lesions_hr)


def soft_threshold(evidence: torch.Tensor, threshold: float = 0.5, temperature: float = 0.1) -> torch.Tensor:
    """Where an evidence map is above phi_vis, with a slope that a gradient can follow.

    Args:
        evidence: V in [0, 1].
        threshold: phi_vis; 0.5 in the paper (Table 1).
        temperature: width of the step; 0 is the hard threshold as printed, which passes no gradient.

    >>> soft_threshold(torch.tensor([0.4, 0.5, 0.6]))
    tensor([0.2689, 0.5000, 0.7311])
    """
    if temperature == 0:
        return (evidence > threshold).to(evidence.dtype)
    return torch.sigmoid((evidence - threshold) / temperature)


def classification_aware_loss(
    evidence_sr: torch.Tensor, evidence_hr: torch.Tensor, threshold: float = 0.5, temperature: float = 0.1
) -> torch.Tensor:
    """Eq. 4: does the grade look at the same places in the super-resolved and in the true picture?

    Printed is the norm of the two masks side by side, which only measures how large they are. We read it as
    their difference, and the threshold as a soft one: a hard one has no gradient.

    Args:
        evidence_sr, evidence_hr: V in [0, 1], (B, 1, H, W), from `explain.gmsv`.
        threshold, temperature: see `soft_threshold`.
    """
    masks = (soft_threshold(evidence, threshold, temperature) for evidence in (evidence_sr, evidence_hr))
    return F.mse_loss(*masks)


def image_loss(restored: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Eq. 5: mean absolute difference between the super-resolved and the true picture.

    Printed is a norm, which would be the sum; with a mean the picture's size does not change the weights.

    Args:
        restored, original: RGB in [0, 1], (B, 3, H, W).
    """
    return F.l1_loss(restored, original)


def total_variation_loss(restored: torch.Tensor) -> torch.Tensor:
    """Eq. 6: squared differences between neighbours, summed over pixels and channels, averaged over pictures.

    A sum, as printed: with it Table 1's weight of 1e-6 is as small as it has to be.

    Args:
        restored: RGB in [0, 1], (B, 3, H, W).

    >>> total_variation_loss(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])).item()  # 1 + 9 across, 0 + 4 down
    14.0
    """
    across = (restored[..., :, 1:] - restored[..., :, :-1]).square().flatten(1).sum(dim=1)
    down = (restored[..., 1:, :] - restored[..., :-1, :]).square().flatten(1).sum(dim=1)
    return (across + down).mean()


SMOOTH = 1e-6


def lesion_dice_loss(lesions: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Eq. 7: 1 - 2 |S^ o S| / (|S^| + |S|), one ratio over the four maps of all pictures of the batch.

    So large lesions weigh more than small ones. (The paper cites Fidon et al. 2017 for it, whose Wasserstein
    Dice is another formula.)

    Args:
        lesions: probabilities (B, 4, H, W).
        masks: 0 or 1, the same shape.

    >>> lesions_found, marked = torch.zeros(2, 1, 4, 1, 2)
    >>> lesions_found[0, 0], marked[0, 0] = 1, 1  # one kind of lesion found, of two pixels
    >>> marked[0, 1, 0, 0] = 1  # and one of another kind missed
    >>> round(lesion_dice_loss(lesions_found, marked).item(), 4)  # 1 - 2 * 2 / (2 + 3)
    0.2
    """
    both = (lesions * masks).sum()
    return 1 - (2 * both + SMOOTH) / (lesions.sum() + masks.sum() + SMOOTH)


def evidence_lesion_loss(
    lesions: torch.Tensor, evidence: torch.Tensor, threshold: float = 0.5
) -> torch.Tensor:
    """Eq. 8: photographs without masks learn from where the grade looks.

    Four lesion maps are compared with one mask: we take their union, the largest of the four.

    Args:
        lesions: probabilities (B, 4, H, W).
        evidence: V in [0, 1], (B, 1, H, W), of the true picture.
        threshold: phi_vis.
    """
    mask = soft_threshold(evidence.detach(), threshold, temperature=0)
    return F.mse_loss(lesions.amax(dim=1, keepdim=True), mask)


def distance_weighted_loss(logits: torch.Tensor, grade: torch.Tensor, plus_one: bool = True) -> torch.Tensor:
    """Eq. 9: cross-entropy, in which a grade counts the more the farther off the prediction is.

    Printed, the weight is |l^ - l| / sum_i (|i - l| + 1), with l^ the most probable grade: a correct
    prediction has weight 0 and teaches nothing. The +1 of the denominator suggests the same above.

    Args:
        logits: (B, 5).
        grade: l, int64 (B,).
        plus_one: |l^ - l| + 1 above the line; False: as printed.

    >>> logits = torch.tensor([[0.0, 0, 9, 0, 0]])
    >>> distance_weighted_loss(logits, torch.tensor([2]), plus_one=False).item()
    0.0
    """
    levels = torch.arange(logits.shape[1], device=grade.device)
    distance = (logits.argmax(dim=1) - grade).abs() + int(plus_one)
    total = ((levels[None] - grade[:, None]).abs() + 1).sum(dim=1)
    return (distance / total * F.cross_entropy(logits, grade, reduction="none")).mean()


@dataclass(frozen=True)
class ISRWeights:
    """The lambdas of Eq. 10; defaults are Table 1's of the first stage.

    Attributes:
        img, tv, sa, ca: of Eqs 5, 6, 3 and 4.
    """

    img: float = 1.0
    tv: float = 1e-6
    sa: float = 10.0
    ca: float = 0.0


STAGE_ONE, STAGE_TWO = ISRWeights(), ISRWeights(sa=1.0, ca=10.0)
"""Table 1. In the first stage the grading subnet is not trained yet, and there is no classification-aware
loss."""


def isr_terms(
    restored: torch.Tensor,
    original: torch.Tensor,
    seg_aware: torch.Tensor | None = None,
    cls_aware: torch.Tensor | None = None,
    weights: ISRWeights = STAGE_ONE,
) -> dict[str, torch.Tensor]:
    """The terms of Eq. 10, each with its lambda: `image`, `smooth`, and `seg_aware` and `cls_aware` where
    there are such.

    Args:
        restored, original: RGB in [0, 1], (B, 3, H, W).
        seg_aware, cls_aware: Eqs 3 and 4.
        weights: the lambdas.
    """
    terms = {
        "image": weights.img * image_loss(restored, original),
        "smooth": weights.tv * total_variation_loss(restored),
    }
    if seg_aware is not None:
        terms["seg_aware"] = weights.sa * seg_aware
    if cls_aware is not None:
        terms["cls_aware"] = weights.ca * cls_aware
    return terms


def isr_loss(
    restored: torch.Tensor,
    original: torch.Tensor,
    seg_aware: torch.Tensor,
    cls_aware: torch.Tensor,
    weights: ISRWeights = STAGE_ONE,
) -> torch.Tensor:
    """Eq. 10: the sum of `isr_terms`.

    Args:
        restored, original: RGB in [0, 1], (B, 3, H, W).
        seg_aware, cls_aware: Eqs 3 and 4.
        weights: the lambdas.
    """
    return sum(isr_terms(restored, original, seg_aware, cls_aware, weights).values())
