"""PLDMLT (Liu and Huang, 'PLDMLT: Multi-Task Learning of Diabetic Retinopathy Using the Pixel-Level Labeled
Fundus Images', Computers, Materials & Continua 76(2), 2023).

Photographs with masks have no grade, so two classifiers give them one (stage 1: `mtl_utils.pseudo_grades`).
In stage 2 a U-Net learns masks and grades together, while a second network, the label-update network, moves
the grades. It learns by looking ahead: which labels would have made the U-Net's next step a better one? That
is meta auxiliary learning (Liu, Davison and Johns, NeurIPS 2019), the scheme that the paper cites.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import ClassificationHead
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F

from mtl_utils.encoders import create_encoder
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import FUSED, LabelSpace
from mtl_utils.lesions import GRADES
from mtl_utils.losses import Focal, categorical_focal_loss, focal_task_loss, focal_terms
from mtl_utils.systems.base import CLASS_PRIOR, TASKS, FundusNetwork, he_normal, segmentation_head
from mtl_utils.systems.shared_encoder import DECODER_CHANNELS

Batch = dict[str, torch.Tensor]


class PLDMLT(FundusNetwork):
    """The multi-task network of Figure 4: a U-Net, and at the end of its encoder a pooling and a dense layer.

    Args:
        encoder_name: any encoder of segmentation-models-pytorch; the paper's is 'vgg16'.
        encoder_weights: see `encoders.create_encoder`.
        tasks: 'grading', 'segmentation' or both.
        space: meaning of the segmentation's channels; the paper's is `label_spaces.FUSED`.
        dropout: before the dense layer; the paper has none.
        decoder_channels: of the five decoder blocks, the deepest first; not in the paper.
        class_prior: the shares with which the last biases start (`start_at_prior`); the paper has none.

    Raises:
        MTLError: unknown task, or what `create_encoder` raises.

    >>> network = PLDMLT("resnet18", encoder_weights=None)
    >>> logits = network(torch.rand(2, 3, 64, 64))
    >>> tuple(logits["grading"].shape), tuple(logits["segmentation"].shape)
    ((2, 5), (2, 2, 64, 64))
    """

    def __init__(
        self,
        encoder_name: str = "vgg16",
        encoder_weights: str | None = "imagenet",
        tasks: Sequence[str] = TASKS,
        space: LabelSpace = FUSED,
        dropout: float = 0.0,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        class_prior: Mapping[str, float] = CLASS_PRIOR,
    ):
        super().__init__(create_encoder(encoder_name, encoder_weights, depth=len(decoder_channels)), tasks)
        channels = self.encoder.out_channels
        if "grading" in tasks:
            self.grading_head = ClassificationHead(channels[-1], len(GRADES), pooling="avg", dropout=dropout)
        if "segmentation" in tasks:
            self.decoder = smp.decoders.unet.decoder.UnetDecoder(
                channels, decoder_channels, n_blocks=len(decoder_channels)
            )
            he_normal(self.decoder)
            self.segmentation_head = segmentation_head(decoder_channels[-1], space, class_prior)
        self.to(memory_format=torch.channels_last)


HIERARCHIES = ("all", "neighbours", "plausible")
OBJECTIVES = ("primary", "printed")
ORDERS = ("second", "first")


@dataclass(frozen=True)
class LabelUpdate:
    """How labels are moved. The paper gives the scheme (Algorithm 1) and few of its settings.

    Attributes:
        objective: what the label-update network minimises after the look-ahead. 'primary': the loss of the
            segmentation, with `entropy_weight` against collapse, as in the scheme that the paper cites.
            'printed': line 21 of Algorithm 1, the grading loss on its own labels. With 'primary' and the step
            sizes of the named runs the entropy term pulls far harder than the look-ahead, and is all that is
            learned from (chapter 06 measures it).
        order: of the gradient through the look-ahead: 'second' (exact) or 'first' (`meta_gradient`).
        hierarchy: which grades a label may move to. 'all' five, as section 3.3.2 says; 'neighbours', one up
            or down from the pseudo grade; 'plausible', those that stage 1 did not rule out.
        entropy_weight: of the entropy term; 0.2 in the cited scheme's code.
        start: the probability of the pseudo grade in a label before anything is learned; the other allowed
            grades share the rest.
        step_size: epsilon, of the look-ahead.
        learning_rate: theta with a hook, of the label-update network (Adam).
        every: epochs of the multi-task network between two updates; 100 in the paper. Ours are as long as the
            larger part (`Config.epochs`): on IDRiD at batch 4 about 72 steps, where the photographs with
            masks pass in 13.
        steps: batches of each update. The paper's '100 epochs' fetch one batch each, by the letter 100
            batches; as passes over IDRiD's photographs they would be over a thousand. 1000 is ours.

    Raises:
        MTLError: an unknown objective, order or hierarchy; `start` outside of [0.2, 1).
    """

    objective: str = "primary"
    order: str = "second"
    hierarchy: str = "all"
    entropy_weight: float = 0.2
    start: float = 0.8
    step_size: float = 5e-5
    learning_rate: float = 5e-5
    every: int = 100
    steps: int = 1000

    def __post_init__(self):
        for name, allowed in (("objective", OBJECTIVES), ("order", ORDERS), ("hierarchy", HIERARCHIES)):
            if getattr(self, name) not in allowed:
                raise MTLError(
                    f"label update: no {name} {getattr(self, name)!r}. There are: {', '.join(allowed)}."
                )
        if not 1 / len(GRADES) <= self.start < 1:
            raise MTLError(f"label update: start is {self.start}; give a probability from 0.2 to below 1")


def hierarchy_mask(grade: torch.Tensor, plausible: torch.Tensor, hierarchy: str) -> torch.Tensor:
    """M = B(y, psi) of Eq. 4: which grades the label of each photograph may move to.

    Args:
        grade: the pseudo grades, int64 (B,).
        plausible: which grades stage 1 did not rule out, bool (B, 5).
        hierarchy: one of `HIERARCHIES`.

    Returns:
        bool (B, 5). The pseudo grade itself is always allowed.

    >>> hierarchy_mask(torch.tensor([3]), torch.ones(1, 5, dtype=torch.bool), "neighbours").int().tolist()
    [[0, 0, 1, 1, 1]]
    """
    own = F.one_hot(grade, len(GRADES)).bool()
    if hierarchy == "all":
        return torch.ones_like(own)
    if hierarchy == "plausible":
        return plausible | own
    levels = torch.arange(len(GRADES), device=grade.device)
    return (levels[None] - grade[:, None]).abs() <= 1


def mask_softmax(logits: torch.Tensor, mask: torch.Tensor, as_printed: bool = False) -> torch.Tensor:
    """Eq. 4, Mask-SoftMax: a softmax over the grades that the hierarchy allows.

    Printed is exp(M * y) / sum exp(M * y). There a forbidden grade keeps the weight exp(0) = 1, and with it a
    probability; the code of the scheme that the paper cites multiplies the exponentials by M, and a forbidden
    grade has probability 0. The second is the default.

    Args:
        logits: (B, 5).
        mask: M, bool (B, 5), with at least one True in each row.
        as_printed: the equation to the letter.

    >>> logits, mask = torch.zeros(1, 5), torch.tensor([[False, False, True, True, False]])
    >>> mask_softmax(logits, mask).tolist()
    [[0.0, 0.0, 0.5, 0.5, 0.0]]
    >>> mask_softmax(logits, mask, as_printed=True)[0, 0].item()  # all exponents are 0: the mask does nothing
    0.20000000298023224
    """
    if as_printed:
        return (logits * mask).softmax(dim=1)
    return logits.masked_fill(~mask, -torch.inf).softmax(dim=1)


class LabelUpdateNetwork(nn.Module):
    """Figure 5: an encoder and a dense layer that give each photograph a soft grade, u(x, y, psi).

    The paper gives no layers. Ours are those of the multi-task network up to its grade. Nor does it say how
    the pseudo grade enters, besides the mask: ours adds what the network says to the logarithm of a label
    that has `start` at the pseudo grade. The dense layer starts at zero, so the labels start at the pseudo
    grades.

    Args:
        encoder_name, encoder_weights: see `encoders.create_encoder`.
        hierarchy, start: see `LabelUpdate`.
    """

    def __init__(
        self,
        encoder_name: str = "vgg16",
        encoder_weights: str | None = "imagenet",
        hierarchy: str = "all",
        start: float = 0.8,
    ):
        super().__init__()
        self.network = PLDMLT(encoder_name, encoder_weights, tasks=("grading",))
        self.hierarchy, self.start = hierarchy, start
        for parameter in self.network.grading_head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: torch.Tensor, grade: torch.Tensor, plausible: torch.Tensor) -> torch.Tensor:
        """New labels.

        Args:
            image: RGB in [0, 1], float (B, 3, H, W).
            grade: pseudo grades, int64 (B,).
            plausible: bool (B, 5), see `hierarchy_mask`.

        Returns:
            (B, 5), each row sums to 1; 0 where the hierarchy allows nothing.
        """
        mask = hierarchy_mask(grade, plausible, self.hierarchy)
        own = F.one_hot(grade, len(GRADES)).bool()
        others = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        prior = torch.where(own, self.start, (1 - self.start) / others)
        return mask_softmax(self.network(image)["grading"].float() + prior.log(), mask)


def negative_entropy(labels: torch.Tensor) -> torch.Tensor:
    """sum_k m_k log m_k of the mean label m of a batch: lowest where all grades are equally common.

    Minimised beside the primary task's loss, it keeps the label-update network from giving every photograph
    the same grade (Liu, Davison and Johns, 2019, section 3.4).

    Args:
        labels: (B, 5), each row sums to 1.

    >>> round(negative_entropy(torch.eye(5)).item(), 4)  # -ln 5: five photographs, five grades
    -1.6094
    """
    mean = labels.mean(dim=0)
    smallest = torch.finfo(mean.dtype).tiny  # a forbidden grade has the mean 0, and log 0 no derivative
    return (mean * mean.clamp(min=smallest).log()).sum()


Parameters = dict[str, torch.Tensor]
DRAWING = ("decoder.", "segmentation_head.")
"""Parameters that L_C does not reach. What is only looked for in the others is not computed for these."""


def stage_two_loss(
    logits: Mapping[str, torch.Tensor], batch: Batch, labels: torch.Tensor, beta: float, focal: Focal
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two terms of Eq. 3: L_S, and beta L_C with soft labels (B, 5)."""
    drawn = focal_task_loss("segmentation", logits["segmentation"], batch, focal)
    return drawn, beta * categorical_focal_loss(logits["grading"], labels, *focal)


def look_ahead(
    network: nn.Module, batch: Batch, labels: torch.Tensor, step_size: float, beta: float, focal: Focal
) -> Parameters:
    """Line 20 of Algorithm 1, with Eq. 3's beta, which it leaves out:
    theta* = theta - epsilon grad(L_S + beta L_C).

    The network itself is left alone. No graph leads back from theta*.
    """
    parameters = dict(network.named_parameters())
    loss = sum(stage_two_loss(_call(network, parameters, batch), batch, labels, beta, focal))
    # Some encoders bring layers that nobody asks, as 'efficientnet-b0': their gradient is zero.
    gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return {
        name: (value - step_size * gradient).detach().requires_grad_(not name.startswith(DRAWING))
        for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _call(
    network: nn.Module, parameters: Parameters, batch: Batch, tasks: Sequence[str] = TASKS
) -> dict[str, torch.Tensor]:
    """The network's answers with other parameters. The running averages of batch normalisation are copies:
    a step that is only imagined leaves no trace.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return functional_call(network, (parameters, buffers), (batch["image"], tasks))


def objective_ahead(
    network: nn.Module,
    ahead: Parameters,
    batch: Batch,
    labels: torch.Tensor,
    settings: LabelUpdate,
    focal: Focal,
) -> torch.Tensor:
    """What the label-update network minimises, with the multi-task network at theta*."""
    if settings.objective == "printed":
        grading = _call(network, ahead, batch, ("grading",))["grading"]
        return categorical_focal_loss(grading, labels, *focal)
    drawn = _call(network, ahead, batch, ("segmentation",))["segmentation"]
    primary = focal_task_loss("segmentation", drawn, batch, focal)
    return primary + settings.entropy_weight * negative_entropy(labels)


def meta_gradient(
    network: nn.Module,
    updater: nn.Module,
    batch: Batch,
    settings: LabelUpdate,
    beta: float,
    focal: Focal,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Line 21 of Algorithm 1: the objective at theta*, and its gradient for the label-update network.

    The labels y steer the step to theta*, so the gradient goes through that step, which is itself a gradient:
    a second derivative. Written out, with v the objective's gradient at theta*, it is

    - epsilon d/dy (v . grad_theta beta L_C)

    L_C is linear in y. So all that is needed of the second derivative is, for each grade, the slope of its
    term of L_C along v, and the graph of the step need not be kept:

    - Second order: the slope exactly, by one pass of forward-mode differentiation.
    - First order: the slope as a difference of two forward passes, at theta + h v and theta - h v (Liu,
      Simonyan and Yang, DARTS, 2019, Eq. 8, h = 0.01 / |v|).

    To leave the second derivative out, as some first-order methods do, would leave nothing: the primary
    objective depends on the labels through the step alone.

    Args:
        network: called as network(image, tasks), gives logits; in training mode.
        updater: called as updater(image, grade, plausible), gives labels (B, 5).
        batch: image, mask, has_mask, grade (the pseudo grades) and plausible.
        settings: objective, order, step size, entropy weight.
        beta: of Eq. 3.
        focal: alpha and gamma of Eq. 2.

    Returns:
        The objective, detached, and a gradient for each of the updater's parameters.
    """
    labels = updater(batch["image"], batch["grade"], batch["plausible"])
    ahead = look_ahead(network, batch, labels.detach(), settings.step_size, beta, focal)
    objective = objective_ahead(network, ahead, batch, labels, settings, focal)
    graded = [name for name in ahead if not name.startswith(DRAWING)]
    given = torch.autograd.grad(
        objective, [ahead[name] for name in graded], retain_graph=True, allow_unused=True
    )
    along = {name: value for name, value in zip(graded, given, strict=True) if value is not None}
    slope = _exact_slopes if settings.order == "second" else _slopes_by_difference
    # In float32: in bfloat16 the difference would be nothing but rounding, and forward mode takes longer.
    with torch.no_grad(), torch.autocast(batch["image"].device.type, enabled=False):
        slopes = slope(network, batch, along, focal[1])
    # L_C has the factor - alpha, the step - epsilon: together a plus.
    through_step = settings.step_size * beta * focal[0] * (labels * slopes).sum(dim=1).mean()
    gradients = torch.autograd.grad(
        objective + through_step, tuple(updater.parameters()), materialize_grads=True
    )
    return objective.detach(), gradients


def _exact_slopes(network: nn.Module, batch: Batch, along: Parameters, gamma: float) -> torch.Tensor:
    """Derivative of each grade's term of L_C at theta along a direction, (B, 5)."""
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    with forward_ad.dual_level(), warnings.catch_warnings():
        # What torch uses inside, it warns of itself.
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)
        dual = {name: forward_ad.make_dual(parameters[name], value) for name, value in along.items()}
        logits = _call(network, parameters | dual, batch, ("grading",))["grading"]
        return forward_ad.unpack_dual(focal_terms(logits, gamma)).tangent


def _slopes_by_difference(network: nn.Module, batch: Batch, along: Parameters, gamma: float) -> torch.Tensor:
    """As `_exact_slopes`, from two nearby values."""
    norm = torch.stack([value.norm() for value in along.values()]).norm()
    width = 0.01 / norm.clamp(min=1e-12)
    parameters = dict(network.named_parameters())

    def terms(distance: torch.Tensor) -> torch.Tensor:
        moved = {name: parameters[name] + distance * value for name, value in along.items()}
        return focal_terms(_call(network, parameters | moved, batch, ("grading",))["grading"], gamma)

    return (terms(width) - terms(-width)) / (2 * width)
