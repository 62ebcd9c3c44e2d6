"""MTUnet (Foo, Hsu, Lee, Lim and Wong, 'Multi-Task Learning for Diabetic Retinopathy Grading and Lesion
Segmentation', AAAI 2020).

A U-Net with VGG-16 as its encoder, and a decoder that mirrors VGG-16. Each pixel gets one class of
`label_spaces.RED_YELLOW`. The paper compares three places from which to grade:

- variant A (Figure 2): the end of the decoder;
- variant B (Figure 3): the finished mask, by a second network that is trained after the first;
- variant C (Figures 4 and 5): the end of the encoder. It wins in Table 1, and is what 'MTUnet' means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from segmentation_models_pytorch.base import ClassificationHead
from torch import nn

from mtl_utils.encoders import create_encoder
from mtl_utils.errors import MTLError
from mtl_utils.label_spaces import RED_YELLOW, LabelSpace
from mtl_utils.lesions import GRADES
from mtl_utils.systems.base import CLASS_PRIOR, TASKS, FundusNetwork, he_normal, segmentation_head

DECODER_CHANNELS = (512, 512, 256, 128, 64)
"""VGG-16's five blocks have 64, 128, 256, 512 and 512 channels: mirrored, the deepest first."""

CONVOLUTIONS = (3, 3, 3, 2, 2)
"""VGG-16's blocks have 2, 2, 3, 3 and 3 convolutions: mirrored."""

UPSAMPLING = ("transposed", "bilinear")


class MirrorBlock(nn.Module):
    """One block of the decoder: twice the side, the encoder's skip beside it, then convolutions with ReLU.

    Args:
        in_channels, skip_channels, out_channels: of what comes from below, of the skip, of the result.
        convolutions: how many.
        upsampling: 'transposed' (2 x 2, stride 2: learned) or 'bilinear' (fixed, then a 1 x 1 convolution to
            the same number of channels).

    Raises:
        MTLError: an unknown `upsampling`.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, convolutions: int, upsampling: str
    ):
        super().__init__()
        if upsampling not in UPSAMPLING:
            raise MTLError(f"no upsampling {upsampling!r}. There are: {', '.join(UPSAMPLING)}.")
        if upsampling == "transposed":
            self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        else:
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(in_channels, out_channels, 1)
            )
        layers: list[nn.Module] = []
        for number in range(convolutions):
            channels = out_channels + skip_channels if number == 0 else out_channels
            layers += [nn.Conv2d(channels, out_channels, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.convolutions(torch.cat([self.up(below), skip], dim=1))


class MirrorDecoder(nn.Module):
    """VGG-16 upside down (section Decoder Section, Figure 5), for the feature maps of any encoder.

    VGG-16 hands over a skip before each of its five poolings, the first at full size. An encoder that has no
    features at full size hands over the picture itself.

    Args:
        encoder_channels: of the six feature maps, from full size to 1/32.
        decoder_channels: of the five blocks, the deepest first.
        upsampling: see `MirrorBlock`.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        upsampling: str = "transposed",
    ):
        super().__init__()
        *skips, deepest = encoder_channels
        inputs = [deepest, *decoder_channels[:-1]]
        self.blocks = nn.ModuleList(
            MirrorBlock(*channels, number, upsampling)
            for *channels, number in zip(inputs, skips[::-1], decoder_channels, CONVOLUTIONS, strict=True)
        )

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Six feature maps, from full size to 1/32 -> (B, decoder_channels[-1], H, W)."""
        *skips, below = features
        for block, skip in zip(self.blocks, skips[::-1], strict=True):
            below = block(below, skip)
        return below


class MTUnet(FundusNetwork):
    """Variants A and C, and, with one task, the single-task networks of the same shape.

    Args:
        encoder_name: any encoder of segmentation-models-pytorch; the paper's is 'vgg16'.
        encoder_weights: see `encoders.create_encoder`.
        tasks: 'grading', 'segmentation' or both.
        variant: 'A' grades from the decoder's last feature map, 'C' from the encoder's.
        space: meaning of the segmentation's channels.
        dropout: before the dense layer; the paper has none.
        decoder_channels: of the five decoder blocks, the deepest first.
        upsampling: 'transposed', as in the paper, or 'bilinear'.
        class_prior: the shares with which the last biases start (`start_at_prior`); the paper has none.

    Raises:
        MTLError: unknown variant, task or upsampling, or what `create_encoder` raises.

    >>> network = MTUnet("resnet18", encoder_weights=None)
    >>> logits = network(torch.rand(2, 3, 64, 64))
    >>> tuple(logits["grading"].shape), tuple(logits["segmentation"].shape)
    ((2, 5), (2, 5, 64, 64))
    """

    def __init__(
        self,
        encoder_name: str = "vgg16",
        encoder_weights: str | None = "imagenet",
        tasks: Sequence[str] = TASKS,
        variant: str = "C",
        space: LabelSpace = RED_YELLOW,
        dropout: float = 0.0,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        upsampling: str = "transposed",
        class_prior: Mapping[str, float] = CLASS_PRIOR,
    ):
        if variant not in ("A", "C"):
            raise MTLError(f"variant {variant!r} of MTUnet is not A or C; B is the class MTUnetTwoStep")
        super().__init__(create_encoder(encoder_name, encoder_weights, depth=len(decoder_channels)), tasks)
        self.variant, self.space = variant, space
        channels = self.encoder.out_channels
        if "segmentation" in tasks or variant == "A":
            self.decoder = MirrorDecoder(channels, decoder_channels, upsampling)
            he_normal(self.decoder)
        if "segmentation" in tasks:
            self.segmentation_head = segmentation_head(decoder_channels[-1], space, class_prior)
        if "grading" in tasks:
            graded = decoder_channels[-1] if variant == "A" else channels[-1]
            self.grading_head = grading_head(graded, dropout)
        self.to(memory_format=torch.channels_last)

    def heads(self, features: Sequence[torch.Tensor], tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        """Logits of some tasks from `features`: what comes after the shared part."""
        logits = {}
        if "segmentation" in tasks or self.variant == "A":
            decoded = self.decoder(features)
        if "grading" in tasks:
            logits["grading"] = self.grading_head(decoded if self.variant == "A" else features[-1])
        if "segmentation" in tasks:
            logits["segmentation"] = self.segmentation_head(decoded)
        return logits


def grading_head(channels: int, dropout: float) -> nn.Module:
    """Global maximum pooling and a dense layer: variant C's (section Encoder Section). Of variant A's the
    paper says nothing; it takes the same.

    VGG-16's last pooling makes no difference: the maximum of local maxima is the maximum.
    """
    return ClassificationHead(channels, len(GRADES), pooling="max", dropout=dropout)


class MTUnetTwoStep(MTUnet):
    """Variant B: the finished mask is the input of a second network, which grades.

    Step one is trained alone, as `MTUnet(tasks=("segmentation",))`; `load_step_one` takes its weights and
    freezes them. Step two sees no photograph: only the probabilities of red, yellow and disc, as the three
    channels of a picture. The paper does not describe the second network; ours has the same encoder and head
    as variant C.

    Args and errors: as of `MTUnet`, for both tasks. The masks start at the usual prior.

    >>> network = MTUnetTwoStep("resnet18", encoder_weights=None)
    >>> tuple(network(torch.rand(2, 3, 64, 64))["grading"].shape)
    (2, 5)
    """

    STEP_ONE = ("encoder", "decoder", "segmentation_head")

    def __init__(
        self,
        encoder_name: str = "vgg16",
        encoder_weights: str | None = "imagenet",
        space: LabelSpace = RED_YELLOW,
        dropout: float = 0.0,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        upsampling: str = "transposed",
    ):
        super().__init__(
            encoder_name,
            encoder_weights,
            tasks=("segmentation",),
            space=space,
            decoder_channels=decoder_channels,
            upsampling=upsampling,
        )
        self.tasks = TASKS
        self.grader = create_encoder(encoder_name, encoder_weights).network
        self.grading_head = grading_head(self.grader.out_channels[-1], dropout)
        self.to(memory_format=torch.channels_last)

    def heads(self, features: Sequence[torch.Tensor], tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        masks = self.segmentation_head(self.decoder(features))
        logits = {}
        if "grading" in tasks:
            picture = self.space.of_marked(self.space.probabilities(masks))
            logits["grading"] = self.grading_head(self.grader((picture - self.mean) / self.std)[-1])
        if "segmentation" in tasks:
            logits["segmentation"] = masks
        return logits

    def load_step_one(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over a trained first network (its state dict), and freeze it.

        Raises:
            MTLError: these are not the weights of such a network.
        """
        own = {name for name in self.state_dict() if not name.startswith(("grader.", "grading_head."))}
        if set(state) != own:
            odd = sorted(set(state) ^ own)[0]
            raise MTLError(f"step one of variant B needs a network that only segments; at odds: {odd}")
        try:
            self.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise MTLError(f"step one of variant B: {str(error)[:300]}") from error
        for name in self.STEP_ONE:
            getattr(self, name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> MTUnetTwoStep:
        """A frozen step one stays as it was judged: its batch statistics move no more."""
        super().train(mode)
        if not next(self.segmentation_head.parameters()).requires_grad:
            for name in self.STEP_ONE:
                getattr(self, name).eval()
        return self
