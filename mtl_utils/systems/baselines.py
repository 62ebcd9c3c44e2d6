"""The networks that the papers compare with, through the same data, losses and metrics.

For lesions (MTUnet's Table 2): U-Net, LinkNet, FPN, DeepLabv3 and DeepLabv3+ of segmentation-models-pytorch.
For grades (Table 3) no class is needed: `SharedEncoder` with the task 'grading' is an encoder, its pooling
and a dense layer; the encoder's name makes it a DenseNet-201 or a NASNet.
"""

from __future__ import annotations

from collections.abc import Mapping

import segmentation_models_pytorch as smp
import torch
from torch import nn

from mtl_utils.encoders import create_encoder, depthwise_in_full_precision
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import RED_YELLOW, LabelSpace
from mtl_utils.systems.base import CLASS_PRIOR, FundusNetwork, start_at_prior

DILATED = ("deeplabv3", "deeplabv3plus")
"""These widen their encoder's convolutions (dilation) where others halve the picture."""

ARCHITECTURES = ("unet", "linknet", "fpn", *DILATED)


class LesionBaseline(FundusNetwork):
    """A segmentation network of segmentation-models-pytorch, at that library's own settings.

    Args:
        architecture: one of `ARCHITECTURES`.
        encoder_name, encoder_weights: see `encoders.create_encoder`.
        space: meaning of the segmentation's channels.
        class_prior: as in `MTUnet`, so that no network starts with an advantage.

    Raises:
        MTLError: unknown architecture, or an encoder that it cannot have, or what `create_encoder` raises.

    >>> network = LesionBaseline("linknet", "resnet18", encoder_weights=None)
    >>> tuple(network(torch.rand(2, 3, 64, 64))["segmentation"].shape)
    (2, 5, 64, 64)
    """

    def __init__(
        self,
        architecture: str,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        space: LabelSpace = RED_YELLOW,
        class_prior: Mapping[str, float] = CLASS_PRIOR,
    ):
        if architecture not in ARCHITECTURES:
            raise MTLError(f"no architecture {architecture!r}. There are: {', '.join(ARCHITECTURES)}.")
        encoder = create_encoder(encoder_name, encoder_weights)
        try:
            model = smp.create_model(
                architecture, encoder_name=encoder_name, encoder_weights=None, classes=len(space.classes)
            )
        except ValueError as error:
            raise MTLError(f"{architecture} cannot have the encoder {encoder_name}: {error}") from error
        # The DeepLabs widen their encoder's strides, so each architecture builds its own; weights are ours.
        model.encoder.load_state_dict(encoder.network.state_dict())
        own = depthwise_in_full_precision(model.encoder)
        super().__init__(type(encoder)(own, encoder.mean, encoder.std), ("segmentation",))
        self.space = space
        self.decoder, self.segmentation_head = model.decoder, model.segmentation_head
        last = [layer for layer in self.segmentation_head.modules() if isinstance(layer, nn.Conv2d)][-1]
        start_at_prior(last, space, class_prior)
        self.to(memory_format=torch.channels_last)
