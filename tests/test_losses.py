"""Losses against numbers worked by hand, and gradients of missing labels."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from mtl_utils.losses import grading_loss, segmentation_loss, weighted_sum


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
