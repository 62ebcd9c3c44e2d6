"""DeepMT-DR (Wang, Xu, Zhang, Jiang and Li, 'Deep Multi-Task Learning for Diabetic Retinopathy Grading in
Fundus Images', AAAI 2021).

Three tasks in a hierarchy. A small photograph is made four times larger (image super-resolution, ISR), its
lesions are marked, and from the large photograph and the marks it is graded. Information flows back as well:
where the grade looks (`explain.gmsv`) and where lesions are tells the super-resolution what matters. This
module has the three subnets and the network that they make; `deepmt_dr_losses` has Eqs 3 to 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from math import log2

import torch
from torch import nn
from torch.nn import functional as F

from mtl_utils.encoders import create_encoder
from mtl_utils.errors import MTLError
from mtl_utils.explain import VISUALISATIONS, evidence
from mtl_utils.lesions import DISEASE_LESIONS, GRADES
from mtl_utils.systems.deepmt_dr_losses import STAGE_ONE, STAGE_TWO, ISRWeights

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
        first = self.first(image.contiguous(memory_format=torch.channels_last))
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
    """Convolutions of 3, 5 and 7 pixels side by side, put together, beside a straight connection: a simple
    form of the module that the paper takes from Khened et al., 2019.

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
        skips, x = [], (image - 0.5).contiguous(memory_format=torch.channels_last)
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
            first the network sees the photograph alone. The paper does not tell the first weights of its
            ResNet-18; ours are ImageNet's.
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
        """The encoder's feature maps, from full size to 1/32: (B, channels, H / 2^level, W / 2^level).

        Args:
            image: RGB in [0, 1], (B, 3, H, W).
            lesions: probabilities (B, maps, H, W); None where the subnet has no lesion maps.

        Raises:
            MTLError: no `lesions` for a subnet that needs them.
        """
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


# ------------------------------------------------------------------------------------------- the hierarchy

ENLARGEMENTS = ("isr", "srcnn", "bicubic", "none")


@dataclass(frozen=True)
class Hierarchy:
    """What makes a run one of DeepMT-DR's; defaults are the published system's second stage.

    Attributes:
        scale: the photograph's side over that of the small one that the system sees; 4 in the paper.
        enlarge: how the small photograph becomes large again: 'isr', 'srcnn', 'bicubic' (ISR removed), or
            'none', where the grade is given from the small one (Figure 2 a).
        frozen: subnets that the second stage leaves as the first one made them, 'isr' or 'segmentation'
            ('trained independently' in Figure 5).
        seg_aware, cls_aware: Eqs 3 and 4 on or off (Figure 5 c).
        visualisation: of the grade's evidence in Eqs 4 and 8; one of `explain.VISUALISATIONS` (Table 5).
        threshold, temperature: phi_vis, and the width of its step (`soft_threshold`).
        plus_one: Eq. 9 with + 1 (`distance_weighted_loss`).
        stage: 1: each subnet learns without feedback from the grade. 2: all three, from a network that has
            had stage 1.
        first_epochs, first_learning_rate: of stage 1, which runs before stage 2.
        weight_decay: the paper has one and does not print it; ours is AdamW's, beside the gradient.
        isr_channels, lesion_width: see `ISRSubnet` and `LesionSubnet`.

    Raises:
        MTLError: an unknown way to enlarge, stage, frozen subnet or visualisation.
    """

    scale: int = 4
    enlarge: str = "isr"
    frozen: tuple[str, ...] = ()
    seg_aware: bool = True
    cls_aware: bool = True
    visualisation: str = "gmsv"
    threshold: float = 0.5
    temperature: float = 0.1
    plus_one: bool = True
    stage: int = 2
    first_epochs: int = 50
    first_learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    isr_channels: int = 48
    lesion_width: int = 16

    def __post_init__(self):
        if self.enlarge not in ENLARGEMENTS:
            raise MTLError(f"no way {self.enlarge!r} to enlarge. There are: {', '.join(ENLARGEMENTS)}.")
        if self.stage not in (1, 2):
            raise MTLError(f"DeepMT-DR has stages 1 and 2; stage is {self.stage}")
        if not set(self.frozen) <= {"isr", "segmentation"}:
            raise MTLError(f"frozen is {self.frozen}; give 'isr', 'segmentation', both or none")
        if self.visualisation not in VISUALISATIONS:
            raise MTLError(
                f"no visualisation {self.visualisation!r}. There are: {', '.join(VISUALISATIONS)}."
            )

    @property
    def weights(self) -> ISRWeights:
        """The lambdas of Eq. 10 in this stage (Table 1); 0 for what is off."""
        table = STAGE_ONE if self.stage == 1 else STAGE_TWO
        return replace(table, sa=table.sa if self.seg_aware else 0.0, ca=table.ca if self.cls_aware else 0.0)

    def first_stage(self) -> Hierarchy:
        """Stage 1, as it comes before this stage 2. What only stage 2 has is as published, so that runs which
        differ in nothing else share their first stage.
        """
        later = ("frozen", "cls_aware", "visualisation", "threshold", "temperature")
        published = {field.name: field.default for field in fields(Hierarchy) if field.name in later}
        return replace(self, stage=1, **published)


def reduce(photograph: torch.Tensor, scale: int) -> torch.Tensor:
    """The small photograph that the system sees, (B, 3, H, W) -> (B, 3, H / scale, W / scale), in [0, 1]:
    bicubic, with the large photograph smoothed first as in MATLAB's `imresize`, which is the custom in
    super-resolution. The paper says 'downsampled'.
    """
    if scale == 1:
        return photograph
    small = F.interpolate(
        photograph, scale_factor=1 / scale, mode="bicubic", align_corners=False, antialias=True
    )
    return small.clamp(0, 1)


@contextmanager
def asked(*subnets: nn.Module) -> Iterator[None]:
    """Subnets that give an answer and do not learn from it: no gradient reaches their weights (it passes
    through to what they are shown), and batch normalisation uses its running averages.
    """
    learning = [parameter for subnet in subnets for parameter in subnet.parameters()]
    learning = [parameter for parameter in learning if parameter.requires_grad]
    modes = [(module, module.training) for subnet in subnets for module in subnet.modules()]
    for subnet in subnets:
        subnet.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


class DeepMTDR(nn.Module):
    """The three subnets, one on top of the other. It is shown the large photograph, as every system of the
    course, and begins by making it small: what it knows is the small one.

    Args:
        encoder_name, encoder_weights: of the grading subnet.
        tasks: 'grading', 'segmentation', 'isr'; without 'segmentation' the grading subnet sees no lesion maps
            (Figure 5 b).
        hierarchy: the settings.

    Attributes:
        isr: `ISRSubnet` or `SRCNN`; None where nothing is learned to enlarge.
        lesions: `LesionSubnet` or None.
        grading: `GradingSubnet` or None.

    Raises:
        MTLError: a task that is none, or settings that do not fit the tasks.

    >>> network = DeepMTDR("resnet18", None, ("grading", "segmentation", "isr"))
    >>> {task: tuple(answer.shape) for task, answer in network.eval()(torch.rand(1, 3, 64, 64)).items()}
    {'isr': (1, 3, 64, 64), 'segmentation': (1, 4, 64, 64), 'grading': (1, 5)}
    """

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: str | None,
        tasks: Sequence[str],
        hierarchy: Hierarchy = Hierarchy(),
    ):
        super().__init__()
        learned = hierarchy.enlarge in ("isr", "srcnn")
        if not tasks or not set(tasks) <= {"grading", "segmentation", "isr"}:
            raise MTLError(f"tasks are {tuple(tasks)}; give some of grading, segmentation, isr")
        if ("isr" in tasks) != learned or (hierarchy.enlarge == "none" and tuple(tasks) != ("grading",)):
            raise MTLError(
                f"the tasks {', '.join(tasks)} do not fit enlarge={hierarchy.enlarge!r}: the task 'isr' goes "
                "with 'isr' and 'srcnn', and 'none' goes with grading alone"
            )
        self.tasks, self.hierarchy = tuple(tasks), hierarchy
        if not learned:
            self.isr = None
        elif hierarchy.enlarge == "srcnn":
            self.isr = SRCNN(hierarchy.scale)
        else:
            self.isr = ISRSubnet(hierarchy.scale, hierarchy.isr_channels)
        self.lesions = LesionSubnet(hierarchy.lesion_width) if "segmentation" in tasks else None
        self.grading = None
        if "grading" in tasks:
            maps = len(DISEASE_LESIONS) if self.lesions else 0
            self.grading = GradingSubnet(encoder_name, encoder_weights, maps)

    def small(self, photograph: torch.Tensor) -> torch.Tensor:
        """What the system sees of a photograph: `reduce`."""
        return reduce(photograph, self.hierarchy.scale)

    def enlarged(self, small: torch.Tensor) -> torch.Tensor:
        """The small photograph, made large again as `Hierarchy.enlarge` says."""
        if self.isr is not None:
            return self.isr(small).float()
        if self.hierarchy.enlarge == "none" or self.hierarchy.scale == 1:
            return small
        return bicubic(small, self.hierarchy.scale).clamp(0, 1)

    def maps(self, picture: torch.Tensor) -> torch.Tensor | None:
        """Lesion probabilities of a large picture, (B, 4, H, W); None without a lesion subnet."""
        return None if self.lesions is None else self.lesions(picture).float().sigmoid()

    def evidence(self, picture: torch.Tensor, create_graph: bool = False) -> torch.Tensor:
        """Where does the grade of a large picture come from? V in [0, 1], (B, 1, H, W), by
        `Hierarchy.visualisation`. The lesion maps beside the picture are taken as given.
        """
        with asked(*(subnet for subnet in (self.lesions, self.grading) if subnet is not None)):
            with torch.no_grad():
                maps = self.maps(picture)
            return evidence(
                self.hierarchy.visualisation,
                lambda shown: self.grading(shown, maps),
                picture,
                self.grading.feature_layers,
                size=picture.shape[-2:],
                create_graph=create_graph,
            )

    def forward(self, image: torch.Tensor, tasks: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Answers to some tasks, from the small photograph alone.

        Args:
            image: the large photograph, RGB in [0, 1], (B, 3, H, W); H and W divide by 16 and by the scale.
            tasks: which answers are wanted; None: all.

        Returns:
            'isr': RGB, (B, 3, H, W); 'segmentation': logits (B, 4, H, W); 'grading': logits (B, 5).
        """
        wanted = self.tasks if tasks is None else tasks
        answers = {"isr": self.enlarged(self.small(image))}
        maps = None
        if self.lesions is not None and {"segmentation", "grading"} & set(wanted):
            answers["segmentation"] = self.lesions(answers["isr"])
            maps = answers["segmentation"].float().sigmoid()
        if "grading" in wanted:
            answers["grading"] = self.grading(answers["isr"], maps)
        return {task: answer for task, answer in answers.items() if task in wanted}
