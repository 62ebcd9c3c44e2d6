"""The shared-encoder report (Sandu, 'Multi-Task Vision Model for Disease Grading and Lesion Segmentation',
2025).

A U-Net whose encoder serves two tasks: the decoder draws five masks, and a small head on the deepest features
grades the disease. One class is the multi-task network and both single-task baselines.
"""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import ClassificationHead, SegmentationHead

from mtl_utils.encoders import create_encoder
from mtl_utils.label_spaces import LESION_SPACE
from mtl_utils.lesions import GRADES, LESIONS
from mtl_utils.systems.base import TASKS, FundusNetwork, start_at_prior

DECODER_CHANNELS = (256, 128, 64, 32, 16)
LESION_PRIOR = 0.01


class SharedEncoder(FundusNetwork):
    """U-Net with a grading head on its deepest features (the report's Figure 1).

    Args:
        encoder_name: any encoder of segmentation-models-pytorch; the report's is EfficientNet-B0.
        encoder_weights: see `encoders.create_encoder`.
        tasks: 'grading', 'segmentation' or both. Parts of no task are not built.
        dropout: before the grading head's linear layer; 0.2 in the report's public configuration.
        decoder_channels: of the five decoder blocks, deepest first.

    Raises:
        MTLError: unknown task, or what `create_encoder` raises.

    >>> network = SharedEncoder("resnet18", encoder_weights=None)
    >>> logits = network(torch.rand(2, 3, 64, 64))
    >>> tuple(logits["grading"].shape), tuple(logits["segmentation"].shape)
    ((2, 5), (2, 5, 64, 64))
    """

    def __init__(
        self,
        encoder_name: str = "efficientnet-b0",
        encoder_weights: str | None = "imagenet",
        tasks: Sequence[str] = TASKS,
        dropout: float = 0.2,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
    ):
        super().__init__(create_encoder(encoder_name, encoder_weights, depth=len(decoder_channels)), tasks)
        channels = self.encoder.out_channels
        if "grading" in tasks:
            self.grading_head = ClassificationHead(channels[-1], len(GRADES), pooling="avg", dropout=dropout)
        if "segmentation" in tasks:
            self.decoder = smp.decoders.unet.decoder.UnetDecoder(
                channels, decoder_channels, n_blocks=len(decoder_channels)
            )
            self.segmentation_head = SegmentationHead(decoder_channels[-1], len(LESIONS), kernel_size=3)
            # Not in the report: almost no pixel is a lesion, so each starts at that guess, not at one half.
            start_at_prior(self.segmentation_head[0], LESION_SPACE, dict.fromkeys(LESIONS, LESION_PRIOR))
        self.to(memory_format=torch.channels_last)  # two to four times faster on a CPU, and faster on a GPU
