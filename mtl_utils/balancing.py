"""Balancing two tasks that share an encoder: what each of them may move, and where they pull apart.

Two kinds of methods. Some weigh the *losses*: a fixed lambda, uncertainty weighting, GradNorm. Others weigh
the *gradients*: PCGrad, CAGrad, UPGrad, which come from torchjd. With two tasks all end in the same form, one
step along w_1 g_1 + w_2 g_2, where g_i is the gradient of task i by the shared weights. So each tells its two
weights, and they can be laid side by side.

Adam divides a factor of the whole gradient out again. So only the ratio of the weights says something: that
PCGrad adds up where UPGrad takes the mean makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd
import torch
from torch import nn
from torchjd import autojac
from torchjd.aggregation import (
    Aggregator,
    CAGradWeighting,
    GramianWeightedAggregator,
    PCGradWeighting,
    Sum,
    UPGradWeighting,
    Weighting,
)
from torchjd.linalg import QuadprogProjector
from torchjd.scalarization import UW

from mtl_utils.errors import MTLError
from mtl_utils.systems.base import FundusNetwork

FIXED = "fixed"
BALANCINGS = (FIXED, "uncertainty", "gradnorm", "pcgrad", "cagrad", "upgrad")
WEIGHT_LEARNING_RATE = 0.025
"""Of the learned weights of GradNorm and uncertainty weighting. The network's own rate would hardly move them
in some hundred steps."""
GRADNORM_ALPHA = 1.5
CAGRAD_C = 0.5
"""CAGrad's radius, in the middle of [0, 1), where the paper's convergence theorem holds."""
WHOLE = "whole encoder"
"""Name of the last row of `gradient_conflict`."""

Losses = Mapping[str, torch.Tensor]
"""Task -> its loss, each with its graph."""


class Balance(nn.Module):
    """One way to take a step for several tasks. Its parameters, if it has any, learn beside the network's."""

    def backward(self, losses: Losses, network: FundusNetwork) -> dict[str, float]:
        """Fill `.grad` of all parameters in place of `loss.backward()`; returns the weight of each task's
        gradient in the step of the shared encoder.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """What follows a step of the optimizer."""


class Uncertainty(Balance):
    """Uncertainty weighting (Kendall, Gal and Cipolla, CVPR 2018): sum_i 1/2 exp(-s_i) L_i + 1/2 s_i.

    s_i = log sigma_i^2 is learned, and starts at 0. This is torchjd's form, the paper's Eq. 7. For a
    cross-entropy the paper has exp(-s_i) L_i + 1/2 s_i (its Eq. 10): the same with s_i shifted by ln 2. In
    both, the sum is lowest where the weight of L_i is 1 / (2 L_i): a small loss gets a large weight.
    """

    def __init__(self, tasks: int):
        super().__init__()
        self.scalarizer = UW(tasks)

    def backward(self, losses: Losses, network: FundusNetwork) -> dict[str, float]:
        self.scalarizer(torch.stack([*losses.values()])).backward()
        return dict(zip(losses, (0.5 * (-self.scalarizer.log_var.detach()).exp()).tolist(), strict=True))


class GradNorm(Balance):
    """GradNorm (Chen et al., ICML 2018): weights w_i, with the sum T, that learn to make the weighted
    gradients of all tasks equally long, and those of tasks that lag behind a little longer.

    The length is that of the gradient by the last shared layer, here the encoder's last convolution.

    Args:
        tasks: their number T.
        alpha: how strongly a task that lags behind is pulled along; 1.5 in the paper's first experiments.
    """

    def __init__(self, tasks: int, alpha: float = GRADNORM_ALPHA):
        super().__init__()
        self.alpha = alpha
        self.weights = nn.Parameter(torch.ones(tasks))
        self.register_buffer("first", torch.zeros(tasks))  # L_i(0); zeros: not seen yet

    def backward(self, losses: Losses, network: FundusNetwork) -> dict[str, float]:
        values, weights = torch.stack([*losses.values()]), self.weights.detach()
        if not self.first.any():
            self.first.copy_(values.detach())
        lengths = last_layer_lengths(losses, network.encoder)
        (weights * values).sum().backward()
        remaining = values.detach() / self.first
        self.weights.grad = gradnorm_gradient(weights, lengths, remaining, self.alpha)
        return dict(zip(losses, weights.tolist(), strict=True))

    @torch.no_grad()
    def after_step(self) -> None:
        self.weights.clamp_(min=1e-3)  # a weight of 0 would be the end of a task
        self.weights.mul_(len(self.weights) / self.weights.sum())


def gradnorm_gradient(
    weights: torch.Tensor, norms: torch.Tensor, remaining: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Gradient of GradNorm's own loss by the weights (its Eq. 2).

    L_grad = sum_i | G_i - mean(G) r_i^alpha |, with G_i = w_i |g_i|, r_i = (L_i / L_i(0)) / their mean. The
    target, mean(G) r_i^alpha, is taken as a constant.

    Args:
        weights: w_i, (T,).
        norms: |g_i|, lengths of the gradients of the unweighted losses, (T,).
        remaining: L_i / L_i(0), the part of each loss that is still there, (T,).
        alpha: see `GradNorm`.

    >>> gradnorm_gradient(torch.ones(2), torch.tensor([4.0, 2.0]), torch.tensor([0.5, 0.5]), 1.5)
    tensor([ 4., -2.])
    """
    lengths = weights * norms
    target = lengths.mean() * (remaining / remaining.mean()) ** alpha
    return norms * (lengths - target).sign()


class Projected(Balance):
    """A method of torchjd that combines the tasks' gradients by the shared encoder. What belongs to one task
    alone gets that task's gradient as it is.

    `mtl_backward` would ask for the shared features. A U-Net has several, and the deeper ones are made of the
    others, so that their gradients would be counted twice. We differentiate each loss by all weights.
    """

    def __init__(self, aggregator: Aggregator):
        super().__init__()
        self.aggregator = aggregator

    def backward(self, losses: Losses, network: FundusNetwork) -> dict[str, float]:
        # One loss after the other: all at once, with vmap, does not work in bfloat16 (torch 2.15).
        autojac.backward([*losses.values()], parallel_chunk_size=1)
        encoder = set(network.encoder.parameters())
        moved = [weight for weight in network.parameters() if getattr(weight, "jac", None) is not None]
        autojac.jac_to_grad([weight for weight in moved if weight not in encoder], Sum())
        weights = autojac.jac_to_grad([weight for weight in moved if weight in encoder], self.aggregator)
        return dict(zip(losses, weights.tolist(), strict=True))


class Careful(Weighting):
    """A weighting of torchjd that is asked in float64, about gradients of about length 1.

    Asked directly, torchjd (0.18) takes a Gramian with a trace below 1e-4 for zero, and solves in float32,
    where the square of a gradient that is a thousand times shorter is lost. A factor that all gradients share
    changes the weights of none of the methods.
    """

    def __init__(self, weighting: Weighting):
        super().__init__()
        self.weighting = weighting

    def forward(self, gramian: torch.Tensor) -> torch.Tensor:
        exact = gramian.double()
        return self.weighting(exact / exact.trace().clamp(min=1e-300)).to(gramian.dtype)


class LengthFreeProjector(QuadprogProjector):
    """The projection of UPGrad, solved for gradients of one length.

    torchjd adds 1e-4 of all squared lengths to the Gramian. Where one gradient is a hundred times as long as
    the other, as ours are, that is as much as the short one has, and its conflict goes unseen.
    """

    def __call__(self, U: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        lengths = G.diagonal().clamp(min=1e-60).sqrt()
        return super().__call__(U * lengths, G / torch.outer(lengths, lengths)) / lengths


_WEIGHTINGS = {
    "pcgrad": PCGradWeighting,
    "cagrad": lambda: CAGradWeighting(c=CAGRAD_C, norm_eps=1e-6),
    "upgrad": lambda: UPGradWeighting(projector=LengthFreeProjector()),
}
AGGREGATED = tuple(_WEIGHTINGS)
"""The methods of torchjd.

PCGrad: Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020. CAGrad: Liu et al., Conflict-Averse
Gradient Descent for Multi-Task Learning, NeurIPS 2021. UPGrad: Quinton and Rey, Jacobian Descent for
Multi-Objective Optimization, 2024.
"""


def create_aggregator(name: str) -> GramianWeightedAggregator:
    """A method of `AGGREGATED`, for torchjd: (T, n) -> (n,)."""
    return GramianWeightedAggregator(Careful(_WEIGHTINGS[name]()))


def combined_gradients(gradients: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a plain sum and each of `AGGREGATED` makes of the gradients of T tasks.

    Args:
        gradients: (T, n), a row per task.

    Returns:
        'sum', 'pcgrad', 'cagrad', 'upgrad' -> (n,).

    >>> combined_gradients(torch.tensor([[1.0, 0.0], [-1.0, 2.0]]))["pcgrad"]
    tensor([0.8000, 2.4000])
    """
    return {"sum": gradients.sum(dim=0)} | {name: create_aggregator(name)(gradients) for name in AGGREGATED}


def create_balance(name: str, tasks: int = 2) -> Balance | None:
    """A method of `BALANCINGS` for so many tasks; None for 'fixed', which needs nothing of all this."""
    if name == FIXED:
        return None
    if name in AGGREGATED:
        return Projected(create_aggregator(name))
    return {"uncertainty": Uncertainty, "gradnorm": GradNorm}[name](tasks)


def last_layer_lengths(losses: Losses, encoder: nn.Module) -> torch.Tensor:
    """Lengths (T,) of the gradients of T losses by the weights of the last convolution that they share."""
    for weight in reversed([*encoder.parameters()]):
        if weight.ndim == 4 and weight.requires_grad:
            gradients = [
                torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)[0]
                for loss in losses.values()
            ]
            if all(gradient is not None for gradient in gradients):  # some encoders carry an unused layer
                return torch.stack([gradient.norm() for gradient in gradients])
    raise MTLError("the tasks share no convolution of the encoder: GradNorm has nothing to measure")


def gradient_conflict(losses: Losses, encoder: nn.Module) -> pd.DataFrame:
    """How long the gradients of two tasks are in each stage of a shared encoder, and the angle between them.

    The graph of the losses stays whole: a step can follow.

    Args:
        losses: of two tasks, from the same step: `MultiTaskModule.losses(batch)`.
        encoder: whose weights both tasks move.

    Returns:
        A row per stage from the first to the last, then one of the `WHOLE`: stage, parameters (their
        number), norm/TASK of each task, cosine (-1: they pull against each other, 0: at right angles, 1: the
        same way; not a number where a gradient is 0).
    """
    named = [(stage_of(name), weight) for name, weight in encoder.named_parameters() if weight.requires_grad]
    weights = [weight for _, weight in named]
    gradients = {
        task: torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        for task, loss in losses.items()
    }
    rows = []
    for stage in [*dict.fromkeys(stage for stage, _ in named), WHOLE]:
        places = [place for place, (name, _) in enumerate(named) if stage in (name, WHOLE)]
        places = [place for place in places if any(of[place] is not None for of in gradients.values())]
        if not places:  # a layer that the network does not use
            continue
        first, second = (
            torch.cat([_flat(of[place], weights[place]) for place in places]) for of in gradients.values()
        )
        lengths = dict(zip((f"norm/{task}" for task in losses), (first.norm(), second.norm()), strict=True))
        cosine = first @ second / (first.norm() * second.norm())
        number = sum(weights[place].numel() for place in places)
        rows.append(
            {"stage": stage, "parameters": number}
            | {name: value.item() for name, value in lengths.items()}
            | {"cosine": cosine.item()}
        )
    return pd.DataFrame(rows)


def _flat(gradient: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    return (torch.zeros_like(weight) if gradient is None else gradient).flatten().double()


def stage_of(parameter: str) -> str:
    """The stage of an encoder that a parameter belongs to, from its name: 'block 3', 'layer2', or 'stem' for
    what comes before.

    >>> stage_of("model.blocks.2.0.conv_pw.weight"), stage_of("layer2.0.conv1.weight"), stage_of("bn1.bias")
    ('block 3', 'layer2', 'stem')
    """
    name = parameter.removeprefix("model.")
    if block := re.match(r"_?(?:blocks|features)\.(\d+)\.", name):
        return f"block {int(block[1]) + 1}"
    named = re.match(r"(?:features\.)?((?:layer|stage|denseblock)_?\d+)\.", name)
    return named[1] if named else "stem"
