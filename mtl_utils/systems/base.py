"""What all systems share: a normalised picture goes into an encoder, and heads answer the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mtl_utils.encoders import Encoder
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import LabelSpace

TASKS = ("grading", "segmentation")

CLASS_PRIOR = {
    "background": 0.7,
    "red": 0.01,
    "yellow": 0.01,
    "disc": 0.02,
    "outside": 0.26,
    "lesion": 0.02,
    "MA": 0.001,
    "HE": 0.008,
    "EX": 0.008,
    "SE": 0.003,
}
"""Share of a square picture's pixels that each class of the exclusive label spaces has, roughly."""


class FundusNetwork(nn.Module):
    """An encoder and what grows on it: a `grading_head` on its deepest features, a `decoder` and a
    `segmentation_head`, as far as the tasks need them. Where it is otherwise a network has its own `heads`.

    Args:
        encoder: from `encoders.create_encoder`.
        tasks: 'grading', 'segmentation' or both.

    Raises:
        MTLError: unknown task, or none.
    """

    def __init__(self, encoder: Encoder, tasks: Sequence[str]):
        super().__init__()
        if not tasks or not set(tasks) <= set(TASKS):
            raise MTLError(f"tasks are {tuple(tasks)}; give one or both of {', '.join(TASKS)}")
        self.tasks = tuple(tasks)
        # Every encoder wants the normalisation that it was trained with; inside the network, and its
        # checkpoints, nobody forgets it.
        self.register_buffer("mean", torch.tensor(encoder.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.std).view(1, 3, 1, 1))
        self.encoder = encoder.network

    def forward(self, image: torch.Tensor, tasks: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Logits of each task.

        Args:
            image: RGB in [0, 1], float (B, 3, H, W); H and W divide by 32.
            tasks: which outputs are wanted; None: all that the network has.

        Returns:
            'grading': (B, 5); 'segmentation': (B, classes, H, W), channels as in the network's label space.
        """
        return self.heads(self.features(image), self.tasks if tasks is None else tasks)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The encoder's feature maps, from full size to 1/32, of RGB pictures (B, 3, H, W) in [0, 1]."""
        return self.encoder(((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last))

    def heads(self, features: Sequence[torch.Tensor], tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        """Logits of some tasks from `features`: what comes after the shared part."""
        logits = {}
        if "grading" in tasks:
            logits["grading"] = self.grading_head(features[-1])
        if "segmentation" in tasks:
            logits["segmentation"] = self.segmentation_head(self.decoder(features))
        return logits


class MeanOfNetworks(nn.Module):
    """Finished networks that answer together: the mean of their logits. Networks that differ by their seed
    alone make different mistakes, and these shrink in the mean.

    Args:
        members: of one kind.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor, tasks: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """As `FundusNetwork.forward`."""
        answers = [member(image, tasks=tasks) for member in self.members]
        return {task: sum(answer[task].float() for answer in answers) / len(answers) for task in answers[0]}


def judged_logits(
    network: nn.Module, image: torch.Tensor, task: str, flips: bool = False, turns: bool = False
) -> torch.Tensor:
    """Logits of one task, or their mean over several views of a photograph, masks turned back. An eye and its
    mirror image have the same lesions, but a network answers them a little differently.

    Args:
        network: called as `network(image, tasks=(task,))`.
        image: RGB in [0, 1], float (B, 3, H, W).
        task: one of the network's.
        flips: the photograph and its three mirror images, four passes in place of one.
        turns: these views as they are and after a quarter turn: twice as many passes. With `flips` that is
            every way in which a square can lie.
    """
    if turns:
        turned = judged_logits(network, image.rot90(1, (-2, -1)), task, flips)
        turned = turned.rot90(-1, (-2, -1)) if turned.ndim == 4 else turned
        return (judged_logits(network, image, task, flips) + turned) / 2
    if not flips:
        return network(image, tasks=(task,))[task]

    def answer(axes: tuple[int, ...]) -> torch.Tensor:
        logits = network(image.flip(axes), tasks=(task,))[task].float()  # a mean of bfloat16 is coarse
        return logits.flip(axes) if logits.ndim == 4 else logits

    return sum(map(answer, ((), (-1,), (-2,), (-2, -1)))) / 4


def start_at_prior(layer: nn.Conv2d, space: LabelSpace, class_prior: Mapping[str, float]) -> None:
    """Set the biases of the last layer so that, where the features say nothing, it guesses these shares.

    Else the first epochs do nothing but unlearn that a fifth of the retina, or half of it, is a lesion (Lin
    et al., Focal Loss for Dense Object Detection, 4.1).
    """
    shares = torch.tensor([class_prior[name] for name in space.classes])
    with torch.no_grad():
        layer.bias.copy_(shares.log() if space.exclusive else shares.logit())


def he_normal(module: nn.Module) -> None:
    """He's normal initialisation of all convolutions in a module; biases start at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # For a transposed convolution torch counts the output channels times the kernel as 'fan_in', and
            # so does Keras, which the papers used.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def segmentation_head(channels: int, space: LabelSpace, class_prior: Mapping[str, float]) -> nn.Module:
    """A 1 x 1 convolution to the classes, which starts at `class_prior`."""
    head = nn.Conv2d(channels, len(space.classes), kernel_size=1)
    nn.init.normal_(head.weight, std=0.01)  # with He's rule it would be sure of things before it learned any
    start_at_prior(head, space, class_prior)
    return head
