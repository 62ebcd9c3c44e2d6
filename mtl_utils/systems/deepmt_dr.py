"""DeepMT-DR (Wang, Xu, Zhang, Jiang and Li, 'Deep Multi-Task Learning for Diabetic Retinopathy Grading in
Fundus Images', AAAI 2021).

Three tasks in a hierarchy. A small photograph is made four times larger (image super-resolution, ISR), its
lesions are marked, and from the large photograph and the marks it is graded. Information flows back as well:
where the grade looks (`explain.gmsv`) and where lesions are tells the super-resolution what matters. This
module has the three subnets and the losses, Eqs 3 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
from torch import nn
from torch.nn import functional as F

from mtl_utils.encoders import create_encoder
from mtl_utils.errors import MTLError
from mtl_utils.lesions import DISEASE_LESIONS, GRADES

# ------------------------------------------------------------------------------------ super-resolution


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a straight connection, without batch normalisation, which blurs contrasts
    in super-resolution (Lim et al., EDSR, 2017).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ISRSubnet(nn.Module):
    """Super-resolution: feature extraction layers, then up-scaling layers of factor 2 (section 'ISR Subnet').

    The paper gives the numbers of layers and nothing of their inside. Ours are residual blocks and pixel
    shuffling, and the network adds what it finds to the bicubic enlargement, where it begins.

    Args:
        scale: 2, 4 or 8; the paper's is 4.
        channels: of all feature maps.
        layers: feature extraction layers; 5 in the paper.

    Raises:
        MTLError: `scale` is not a power of 2 above 1.

    >>> ISRSubnet()(torch.rand(1, 3, 16, 24)).shape
    torch.Size([1, 3, 64, 96])
    """

    def __init__(self, scale: int = 4, channels: int = 48, layers: int = 5):
        super().__init__()
        if scale < 2 or scale & (scale - 1):
            raise MTLError(f"scale is {scale}: each up-scaling layer doubles the side, so give 2, 4 or 8")
        self.scale = scale
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.extraction = nn.Sequential(*(ResidualBlock(channels) for _ in range(layers)))
        self.upscaling = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))
                for _ in range(int(log2(scale)))
            )
        )
        self.last = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """RGB in [0, 1], (B, 3, H, W) -> (B, 3, scale H, scale W), about in [0, 1]."""
        first = self.first(image)
        details = self.last(self.upscaling(first + self.extraction(first)))
        return bicubic(image, self.scale) + details


def bicubic(image: torch.Tensor, scale: int) -> torch.Tensor:
    """The enlargement that every super-resolution has to beat, (B, 3, H, W) -> (B, 3, scale H, scale W)."""
    return F.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False)


class SRCNN(nn.Module):
    """The first network for super-resolution (Dong et al., 2014), to compare with: bicubic, then three
    convolutions of 9, 5 and 5 pixels.

    >>> SRCNN()(torch.rand(1, 3, 16, 24)).shape
    torch.Size([1, 3, 64, 96])
    """

    def __init__(self, scale: int = 4):
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(
            nn.Conv2d(3, 64, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 3, 5, padding=2),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """RGB in [0, 1], (B, 3, H, W) -> (B, 3, scale H, scale W)."""
        return self.body(bicubic(image, self.scale))


# ---------------------------------------------------------------------------------------------- lesions


class MultiScaleResidual(nn.Module):
    """Convolutions of 3, 5 and 7 pixels side by side, put together, beside a straight connection (Khened et
    al., 2019, which the paper cites for its module without drawing it).

    Args:
        in_channels, out_channels: of what comes in and goes out.
    """

    SIZES = (3, 5, 7)

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        shares = [out_channels // len(self.SIZES)] * len(self.SIZES)
        shares[0] += out_channels - sum(shares)
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, share, size, padding=size // 2, bias=False)
            for share, size in zip(shares, self.SIZES, strict=True)
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.mix = nn.Conv2d(out_channels, out_channels, 1)
        self.straight = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scales = torch.cat([branch(x) for branch in self.branches], dim=1)
        return F.relu(self.straight(x) + self.mix(F.relu(self.norm(scales))))


class LesionSubnet(nn.Module):
    """A U-Net of nine multi-scale residual modules: four down, one at the bottom, four up (section 'Lesion
    Segmentation Subnet').

    Args:
        width: channels at full size; each level below has twice as many. Not in the paper.
        lesions: number of maps; 4 in the paper: MA, HE, EX and SE.

    >>> LesionSubnet(width=6)(torch.rand(1, 3, 32, 48)).shape
    torch.Size([1, 4, 32, 48])
    """

    def __init__(self, width: int = 16, lesions: int = len(DISEASE_LESIONS)):
        super().__init__()
        channels = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            MultiScaleResidual(before, after) for before, after in zip([3, *channels[:3]], channels[:4])
        )
        self.bottom = MultiScaleResidual(channels[3], channels[4])
        self.up = nn.ModuleList(
            MultiScaleResidual(below + own, own) for below, own in zip(channels[:0:-1], channels[3::-1])
        )
        self.last = nn.Conv2d(width, lesions, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """RGB in [0, 1], (B, 3, H, W) -> logits (B, 4, H, W). H and W divide by 16."""
        skips, x = [], image - 0.5
        for module in self.down:
            skips.append(module(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for module, skip in zip(self.up, reversed(skips), strict=True):
            x = module(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return self.last(x)


# ---------------------------------------------------------------------------------------------- grading


class SpatialPyramidPooling(nn.Module):
    """Feature maps of any size -> one vector of a fixed length (He et al., 2015): the maxima of a grid of 1 x
    1, 2 x 2 and 4 x 4 fields.

    Args:
        levels: sides of the grids; the paper names none.

    >>> SpatialPyramidPooling((1, 2))(torch.arange(16.0).view(1, 1, 4, 4)).tolist()
    [[15.0, 5.0, 7.0, 13.0, 15.0]]
    """

    def __init__(self, levels: Sequence[int] = (1, 2, 4)):
        super().__init__()
        self.levels = tuple(levels)

    def length(self, channels: int) -> int:
        """Of the vector."""
        return channels * sum(level**2 for level in self.levels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, `length(C)`), grid by grid."""
        return torch.cat([F.adaptive_max_pool2d(features, level).flatten(1) for level in self.levels], dim=1)


class GradingSubnet(nn.Module):
    """The grade, from the super-resolved photograph and the lesion maps (section 'DR Grading Subnet').

    Args:
        encoder_name: the paper's is 'resnet18'.
        encoder_weights: see `encoders.create_encoder`. The weights for the lesion maps start at zero: at
            first the network sees the photograph alone.
        maps: number of lesion maps; 0: the photograph alone (Figure 5 b).
        levels: see `SpatialPyramidPooling`.

    Attributes:
        feature_layers: through each passes one feature map unchanged, from 1/2 to 1/32 of the size: where
            `explain.evidence` can listen, whatever the encoder.

    >>> network = GradingSubnet("resnet18", encoder_weights=None)
    >>> network(torch.rand(2, 3, 64, 96), torch.rand(2, 4, 64, 96)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        encoder_name: str = "resnet18",
        encoder_weights: str | None = "imagenet",
        maps: int = len(DISEASE_LESIONS),
        levels: Sequence[int] = (1, 2, 4),
    ):
        super().__init__()
        encoder = create_encoder(encoder_name, encoder_weights)
        self.register_buffer("mean", torch.tensor(encoder.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(encoder.std).view(1, 3, 1, 1))
        self.encoder, self.maps = encoder.network, maps
        if maps:
            first = next(layer for layer in self.encoder.modules() if isinstance(layer, nn.Conv2d))
            with torch.no_grad():
                more = torch.zeros(first.out_channels, maps, *first.kernel_size)
                first.weight = nn.Parameter(torch.cat([first.weight, more], dim=1))
            first.in_channels += maps
        self.feature_layers = nn.ModuleList(nn.Identity() for _ in self.encoder.out_channels[1:])
        self.pooling = SpatialPyramidPooling(levels)
        self.head = nn.Linear(self.pooling.length(self.encoder.out_channels[-1]), len(GRADES))

    def features(self, image: torch.Tensor, lesions: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The encoder's feature maps, from full size to 1/32."""
        picture = (image - self.mean) / self.std
        if self.maps:
            if lesions is None:
                raise MTLError(f"the grading subnet needs {self.maps} lesion maps beside the photograph")
            picture = torch.cat([picture, lesions], dim=1)
        # Past smp's own check of the number of channels, which knows of three.
        full, *maps = self.encoder(picture)
        return [full, *(layer(features) for layer, features in zip(self.feature_layers, maps, strict=True))]

    def forward(self, image: torch.Tensor, lesions: torch.Tensor | None = None) -> torch.Tensor:
        """RGB in [0, 1], (B, 3, H, W), and lesion probabilities (B, 4, H, W) -> logits (B, 5)."""
        return self.head(self.pooling(self.features(image, lesions)[-1]))


# ------------------------------------------------------------------------------------------------ losses


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
    """Eq. 5: mean absolute difference between the super-resolved and the true picture."""
    return F.l1_loss(restored, original)


def total_variation_loss(restored: torch.Tensor) -> torch.Tensor:
    """Eq. 6: squared differences between neighbours, summed over pixels and channels, averaged over pictures.

    A sum, as printed: with it Table 1's weight of 1e-6 is as small as it has to be.

    >>> total_variation_loss(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])).item()  # 1 + 9 across, 0 + 4 down
    14.0
    """
    across = (restored[..., :, 1:] - restored[..., :, :-1]).square().flatten(1).sum(dim=1)
    down = (restored[..., 1:, :] - restored[..., :-1, :]).square().flatten(1).sum(dim=1)
    return (across + down).mean()


SMOOTH = 1e-6


def lesion_dice_loss(lesions: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Eq. 7: 1 - 2 |S^ o S| / (|S^| + |S|), each lesion of the batch for itself, then their mean.

    Args:
        lesions: probabilities (B, 4, H, W).
        masks: 0 or 1, the same shape.
    """
    both = (lesions * masks).sum(dim=(0, 2, 3))
    sizes = lesions.sum(dim=(0, 2, 3)) + masks.sum(dim=(0, 2, 3))
    return (1 - (2 * both + SMOOTH) / (sizes + SMOOTH)).mean()


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


def isr_loss(
    restored: torch.Tensor,
    original: torch.Tensor,
    seg_aware: torch.Tensor,
    cls_aware: torch.Tensor,
    weights: ISRWeights = STAGE_ONE,
) -> torch.Tensor:
    """Eq. 10: the four losses of the super-resolution, weighted.

    Args:
        restored, original: RGB in [0, 1], (B, 3, H, W).
        seg_aware, cls_aware: Eqs 3 and 4.
        weights: the lambdas.
    """
    return (
        weights.img * image_loss(restored, original)
        + weights.tv * total_variation_loss(restored)
        + weights.sa * seg_aware
        + weights.ca * cls_aware
    )
