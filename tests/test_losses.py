"""Losses against numbers worked by hand, and gradients of missing labels."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import scipy.special
import torch

from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import FUSED, RED_YELLOW, RED_YELLOW_SIGMOID
from mtl_utils.losses import (
    categorical_focal_loss,
    focal_task_loss,
    focal_terms,
    grading_loss,
    segmentation_loss,
    softmax_bce,
    task_loss,
    weighted_sum,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def test_grading_loss_by_hand():
    # Photograph 0: logits (2, 0, 0, 0, 0), grade 0: -ln(e^2 / (e^2 + 4)). Photograph 1: all equal: ln 5. Mean
    # of both.
    logits = torch.tensor([[2.0, 0, 0, 0, 0], [1.0, 1, 1, 1, 1]])
    expected = (-log(exp(2) / (exp(2) + 4)) + log(5)) / 2
    assert grading_loss(logits, torch.tensor([0, 4])).item() == pytest.approx(expected, rel=1e-6)


def test_segmentation_loss_by_hand():
    # Two pixels in one channel: logit 0 on a lesion: ln 2; logit ln 3 (probability 3/4) off a lesion: ln 4.
    logits = torch.tensor([0.0, log(3.0)]).reshape(1, 1, 1, 2)
    mask = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    loss = segmentation_loss(logits, mask, torch.tensor([True]))
    assert loss.item() == pytest.approx((log(2) + log(4)) / 2, rel=1e-6)


def test_equation_1_by_hand():
    # lambda 0.1: 0.1 * 1.5 + 0.02 = 0.17. A single task stays as it is.
    both = {"grading": torch.tensor(1.5), "segmentation": torch.tensor(0.02)}
    assert weighted_sum(both, 0.1).item() == pytest.approx(0.17)
    assert weighted_sum({"grading": torch.tensor(1.5)}, 0.1).item() == pytest.approx(1.5)


def test_missing_labels_give_no_gradient():
    logits = torch.randn(3, 5, requires_grad=True)
    grading_loss(logits, torch.tensor([2, -1, 0])).backward()
    assert logits.grad[1].abs().max() == 0
    assert logits.grad[[0, 2]].abs().max() > 0

    masks = torch.randn(2, 5, 4, 4, requires_grad=True)
    segmentation_loss(masks, torch.ones(2, 5, 4, 4), torch.tensor([False, True])).backward()
    assert masks.grad[0].abs().max() == 0
    assert masks.grad[1].abs().max() > 0


@pytest.mark.parametrize("known", [False, True])
def test_a_batch_without_any_label_costs_nothing(known):
    logits = torch.randn(2, 5, requires_grad=True)
    loss = grading_loss(logits, torch.tensor([-1, 3 if known else -1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert (loss.item() > 0) == known
    assert (logits.grad.abs().max().item() > 0) == known


# ------------------------------------------------------------------------------------------------ MTUnet
# Two pixels. e^logit 1, 2, 3, 4, 10 makes S = 0.05, 0.1, 0.15, 0.2, 0.5, and the truth is the last class;
# e^logit 4, 1, 1, 1, 1 makes S = 0.5, 0.125 (four times), and the truth is the second class.
PIXELS = torch.tensor([[1.0, 2, 3, 4, 10], [4.0, 1, 1, 1, 1]]).log().T.reshape(1, 5, 1, 2)
TRUTH = torch.tensor([[0.0, 0, 0, 0, 1], [0.0, 1, 0, 0, 0]]).T.reshape(1, 5, 1, 2)
FIRST_PIXEL = -(log(0.95) + log(0.9) + log(0.85) + log(0.8) + log(0.5))
SECOND_PIXEL = -(log(0.5) + log(0.125) + 3 * log(0.875))


def test_mtunet_equation_1_by_hand():
    whole = FIRST_PIXEL + SECOND_PIXEL
    assert softmax_bce(PIXELS, TRUTH, "sum").item() == pytest.approx(whole, rel=1e-6)
    assert softmax_bce(PIXELS, TRUTH, "mean").item() == pytest.approx(whole / 10, rel=1e-6)
    # A second photograph at S = 1/5 everywhere; over photographs it is a mean in both cases.
    even = 2 * (log(5) + 4 * log(5 / 4))
    two = torch.cat([PIXELS, torch.zeros_like(PIXELS)]), torch.cat([TRUTH, TRUTH])
    assert softmax_bce(*two, "sum").item() == pytest.approx((whole + even) / 2, rel=1e-6)
    assert softmax_bce(*two, "mean").item() == pytest.approx((whole + even) / 20, rel=1e-6)


def test_mtunet_equation_1_agrees_with_numpy_and_torch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 6, 7, generator=generator)
    classes = torch.randint(0, 5, (2, 6, 7), generator=generator)
    target = torch.nn.functional.one_hot(classes, 5).permute(0, 3, 1, 2).float()
    shares = scipy.special.softmax(logits.double().numpy(), axis=1)
    truth = target.numpy()
    expected = -(truth * np.log(shares) + (1 - truth) * np.log1p(-shares)).sum() / 2
    assert softmax_bce(logits, target, "sum").item() == pytest.approx(expected, rel=1e-5)
    by_torch = torch.nn.BCELoss()(torch.from_numpy(shares), target.double()).item()
    assert softmax_bce(logits, target).item() == pytest.approx(by_torch, rel=1e-5)


def test_logits_that_are_too_sure_give_finite_loss_and_gradient():
    logits = torch.full((1, 5, 1, 2), -1000.0)
    logits[0, 0] = 1000.0  # both pixels: class 0 for certain; true for the first, false for the second
    logits.requires_grad_()
    target = torch.zeros(1, 5, 1, 2)
    target[0, 0, 0, 0] = target[0, 1, 0, 1] = 1
    loss = softmax_bce(logits, target, "sum")
    loss.backward()
    # Of the wrong pixel two classes stand at 1e-7 from their worst: 2 x 7 ln 10. (1 - 1e-7 has no exact
    # float32, hence the tolerance.)
    assert loss.item() == pytest.approx(14 * log(10), rel=0.01)
    assert torch.isfinite(logits.grad).all()


def test_a_wrong_class_that_is_not_too_sure_is_pulled_the_right_way():
    logits = torch.zeros(1, 5, 1, 1, requires_grad=True)
    softmax_bce(logits, torch.tensor([0.0, 1, 0, 0, 0]).view(1, 5, 1, 1)).backward()
    gradient = logits.grad.flatten()
    assert gradient[1] < 0 and (gradient[[0, 2, 3, 4]] > 0).all()


def test_mtunet_equation_2_and_3_by_hand():
    # P = 0.05, 0.1, 0.15, 0.2, 0.5 and the grade is 2: -ln 0.15
    grades = torch.tensor([[1.0, 2, 3, 4, 10]]).log()
    batch = {"grade": torch.tensor([2]), "mask": TRUTH, "has_mask": torch.tensor([True])}
    losses = {
        "grading": task_loss("grading", grades, batch, RED_YELLOW),
        "segmentation": task_loss("segmentation", PIXELS, batch, RED_YELLOW),
    }
    assert losses["grading"].item() == pytest.approx(-log(0.15), rel=1e-6)
    lesions = (FIRST_PIXEL + SECOND_PIXEL) / 10
    for alpha in (1.0, 0.5):
        expected = lesions - alpha * log(0.15)
        assert weighted_sum(losses, alpha).item() == pytest.approx(expected, rel=1e-6)


def test_exclusive_classes_leave_out_photographs_without_masks():
    logits = torch.cat([torch.randn(1, 5, 1, 2), PIXELS]).requires_grad_()
    target = torch.cat([torch.zeros_like(TRUTH), TRUTH])
    loss = segmentation_loss(logits, target, torch.tensor([False, True]), RED_YELLOW)
    assert loss.item() == pytest.approx((FIRST_PIXEL + SECOND_PIXEL) / 10, rel=1e-6)
    loss.backward()
    assert logits.grad[0].abs().max() == 0 and logits.grad[1].abs().max() > 0
    nothing = segmentation_loss(logits, target, torch.tensor([False, False]), RED_YELLOW)
    assert nothing.item() == 0 and nothing.requires_grad


def test_the_same_classes_with_a_sigmoid_each():
    # sigmoid of ln x is x / (1 + x); first pixel x = 1, 2, 3, 4, 10, second x = 4, 1, 1, 1, 1
    first = log(2) + log(3) + log(4) + log(5) - log(10 / 11)
    second = log(5) + 4 * log(2)
    loss = segmentation_loss(PIXELS, TRUTH, torch.tensor([True]), RED_YELLOW_SIGMOID)
    assert loss.item() == pytest.approx((first + second) / 10, rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_exclusive_classes_in_mixed_precision(device):
    logits, target = PIXELS.to(device).bfloat16().requires_grad_(), TRUTH.to(device)
    with torch.autocast(device, torch.bfloat16):
        loss = segmentation_loss(logits, target, torch.tensor([True], device=device), RED_YELLOW)
    loss.backward()
    assert loss.item() == pytest.approx((FIRST_PIXEL + SECOND_PIXEL) / 10, rel=0.02)
    assert torch.isfinite(logits.grad).all()


# ------------------------------------------------------------------------------------------------ PLDMLT
# With e^logit 1, 2, 3, 4, 10 the softmax is 0.05, 0.1, 0.15, 0.2, 0.5.
SHARES = torch.tensor([[0.05, 0.1, 0.15, 0.2, 0.5]])
LOGITS = torch.tensor([[1.0, 2, 3, 4, 10]]).log()
FOCAL = (0.25, 2.0)


def one_hot(*classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 5).float()


def test_pldmlt_equation_2_by_hand():
    for true, expected in ((4, 0.25 * 0.5**2 * log(2)), (1, 0.25 * 0.9**2 * log(10))):
        assert categorical_focal_loss(LOGITS, one_hot(true)).item() == pytest.approx(expected, rel=1e-6)
    soft = torch.tensor([[0.0, 0, 0.25, 0.75, 0]])
    expected = 0.5 * -(0.25 * 0.85**3 * log(0.15) + 0.75 * 0.8**3 * log(0.2))
    assert categorical_focal_loss(LOGITS, soft, 0.5, 3.0).item() == pytest.approx(expected, rel=1e-6)
    expected = [(1 - share) ** 2 * log(share) for share in SHARES[0].tolist()]
    assert focal_terms(LOGITS)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_is_a_mean_over_photographs_and_pixels():
    # The first pixel has probability 0.5 for its class, the second 0.125.
    hand = 0.25 * (0.5**2 * log(2) + 0.875**2 * log(8))
    assert categorical_focal_loss(PIXELS, TRUTH).item() == pytest.approx(hand / 2, rel=1e-6)
    even = 0.25 * 0.8**2 * log(5)
    two = torch.cat([PIXELS, torch.zeros_like(PIXELS)]), torch.cat([TRUTH, TRUTH])
    assert categorical_focal_loss(*two).item() == pytest.approx((hand / 2 + even) / 2, rel=1e-6)


def test_the_focal_loss_without_gamma_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 5, 4, 6, generator=generator)
    soft = torch.randn(3, 5, 4, 6, generator=generator).softmax(dim=1)
    for target in (soft, torch.nn.functional.one_hot(soft.argmax(1), 5).permute(0, 3, 1, 2).float()):
        expected = 0.7 * torch.nn.functional.cross_entropy(logits, target)
        assert torch.allclose(categorical_focal_loss(logits, target, 0.7, 0.0), expected, rtol=1e-6)


def test_the_gradient_of_the_focal_loss_by_hand():
    # Of - alpha (1-p)^2 ln p by z_k: alpha p (2 (1-p) ln p - (1-p)^2 / p) (1 or 0 - p_k). Here p = 0.5.
    logits = LOGITS.clone().requires_grad_()
    categorical_focal_loss(logits, one_hot(4)).backward()
    slope = 0.25 * 0.5 * (2 * 0.5 * log(0.5) - 0.5**2 / 0.5)
    expected = [slope * (is_class - share) for is_class, share in zip((0, 0, 0, 0, 1), SHARES[0].tolist())]
    assert logits.grad[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_leaves_out_what_is_not_known():
    logits = LOGITS.repeat(3, 1).requires_grad_()
    loss = focal_task_loss("grading", logits, {"grade": torch.tensor([-1, 4, 1])}, FOCAL)
    expected = 0.25 * (0.5**2 * log(2) + 0.9**2 * log(10)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad[0].abs().max() == 0 and logits.grad[1:].abs().amax(1).min() > 0

    maps = torch.cat([5 * PIXELS, PIXELS]).requires_grad_()
    batch = {"mask": torch.cat([0 * TRUTH, TRUTH]), "has_mask": torch.tensor([False, True])}
    loss = focal_task_loss("segmentation", maps, batch, FOCAL)
    assert loss.item() == pytest.approx(0.25 * (0.5**2 * log(2) + 0.875**2 * log(8)) / 2, rel=1e-6)
    loss.backward()
    assert maps.grad[0].abs().max() == 0 and maps.grad[1].abs().max() > 0


def test_the_focal_loss_of_nothing_is_zero():
    batch = {"grade": torch.tensor([-1]), "mask": TRUTH, "has_mask": torch.tensor([False])}
    for task, logits in (("grading", LOGITS.clone()), ("segmentation", PIXELS.clone())):
        loss = focal_task_loss(task, logits.requires_grad_(), batch, FOCAL)
        loss.backward()
        assert loss.item() == 0 and logits.grad.abs().max() == 0


def test_task_loss_takes_the_focal_loss_where_it_is_asked_to():
    batch = {"grade": torch.tensor([4]), "mask": TRUTH, "has_mask": torch.tensor([True])}
    for task, logits in (("grading", LOGITS), ("segmentation", PIXELS)):
        focal = task_loss(task, logits, batch, FUSED, FOCAL)
        assert focal.item() == focal_task_loss(task, logits, batch, FOCAL).item()
        assert focal.item() != pytest.approx(task_loss(task, logits, batch, RED_YELLOW).item(), rel=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_the_focal_loss_of_too_sure_logits_and_in_mixed_precision(device):
    sure = torch.tensor([[1000.0, -1000, 0, 0, 0]], device=device, requires_grad=True)
    for true in (0, 1):
        loss = categorical_focal_loss(sure, one_hot(true).to(device))
        loss.backward()
        assert loss.item() == pytest.approx((0, 0.25 * 2000)[true])
        assert torch.isfinite(sure.grad).all()
    with torch.autocast(device, torch.bfloat16):
        loss = categorical_focal_loss(LOGITS.to(device).bfloat16(), one_hot(1).to(device))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.25 * 0.9**2 * log(10), rel=0.02)


def test_what_a_loss_cannot_be_is_refused():
    with pytest.raises(MTLError, match="no reduction 'none'"):
        softmax_bce(PIXELS, TRUTH, "none")
    with pytest.raises(MTLError, match="no mask_loss 'dice'"):
        segmentation_loss(PIXELS, TRUTH, torch.tensor([True]), mask_loss="dice")


def test_restoring_is_learned_by_the_absolute_difference():
    batch = {"image": torch.zeros(1, 3, 2, 2)}
    restored = torch.zeros(1, 3, 2, 2)
    restored[0, 0, 0, 0], restored[0, 1, 1, 1] = 0.6, -0.6
    assert task_loss("isr", restored, batch).item() == pytest.approx(2 * 0.6 / 12)


def test_grade_0_is_a_label_for_the_focal_loss():
    logits = torch.tensor([[2.0, 0, 0, 0, 0], [0.0, 1, 0, 0, 0]])
    expected = categorical_focal_loss(logits[:1], torch.tensor([[1.0, 0, 0, 0, 0]]), *FOCAL).item()
    batch = {"grade": torch.tensor([0, -1])}
    assert focal_task_loss("grading", logits, batch, FOCAL).item() == expected > 0
