"""MTUnet: shapes, the paper's numbers, what each loss teaches, its runs, and what it is compared with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.splits import ROLES, split
from mtl_utils.encoders import BUNDLED_ENCODER, create_encoder
from mtl_utils.errors import DataError, MTLError
from mtl_utils.experiments import EXPERIMENTS, experiment
from mtl_utils.label_spaces import RED_YELLOW, RED_YELLOW_SIGMOID
from mtl_utils.pseudo import file_digest
from mtl_utils.systems.base import CLASS_PRIOR, FundusNetwork, start_at_prior
from mtl_utils.systems.baselines import ARCHITECTURES, LesionBaseline
from mtl_utils.systems.mtunet import (
    CONVOLUTIONS,
    DECODER_CHANNELS,
    MirrorDecoder,
    MTUnet,
    MTUnetTwoStep,
    grading_head,
    he_normal,
)
from mtl_utils.systems.shared_encoder import SharedEncoder
from mtl_utils.training import (
    LABELS,
    FundusData,
    MultiTaskModule,
    Scores,
    build_network,
    evaluate,
    fit,
    load_model,
)
from mtl_utils.training.config import FIRST, first_config

SMALL = (32, 32, 16, 16, 8)
VARIANTS = "ABC"


def variant_of(letter: str, encoder_name: str = "resnet18", **settings) -> FundusNetwork:
    settings = {"decoder_channels": SMALL, **settings}
    if letter == "B":
        return MTUnetTwoStep(encoder_name, None, **settings)
    return MTUnet(encoder_name, None, variant=letter, **settings)


def photographs(number: int = 2, side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(seed))


def batch_of(grades: list[int]) -> dict[str, torch.Tensor]:
    """Made-up photographs with both labels, as a loader gives them."""
    classes = torch.randint(0, 5, (len(grades), 64, 64), generator=torch.Generator().manual_seed(1))
    return {
        "image": photographs(len(grades)),
        "grade": torch.tensor(grades),
        "mask": nn.functional.one_hot(classes, 5).permute(0, 3, 1, 2).float(),
        "has_mask": torch.ones(len(grades), dtype=torch.bool),
    }


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("letter", VARIANTS)
@torch.no_grad()
def test_shapes_at_three_sizes(letter):
    network = variant_of(letter).eval()
    for side in (128, 256, 512):
        logits = network(photographs(1, side))
        assert set(logits) == {"grading", "segmentation"}
        assert logits["grading"].shape == (1, 5)
        assert logits["segmentation"].shape == (1, 5, side, side)
        assert all(torch.isfinite(values).all() for values in logits.values())


@pytest.mark.parametrize("encoder_name", ["vgg16", "resnet18", "densenet121", BUNDLED_ENCODER])
@pytest.mark.parametrize("letter", VARIANTS)
@torch.no_grad()
def test_shapes_of_four_encoders(letter, encoder_name):
    logits = variant_of(letter, encoder_name).eval()(photographs(1, 128))
    assert logits["grading"].shape == (1, 5)
    assert logits["segmentation"].shape == (1, 5, 128, 128)


def test_a_network_gives_what_it_was_built_for():
    for letter in "AC":
        for task in ("grading", "segmentation"):
            network = variant_of(letter, tasks=(task,)).eval()
            assert set(network(photographs(1))) == {task}
        both = variant_of(letter).eval()
        assert set(both(photographs(1), tasks=("grading",))) == {"grading"}
    # C without masks has no decoder; A cannot grade without one
    assert not hasattr(variant_of("C", tasks=("grading",)), "decoder")
    assert hasattr(variant_of("A", tasks=("grading",)), "decoder")
    for wrong, said in (
        ({"variant": "B"}, "MTUnetTwoStep"),
        ({"upsampling": "nearest"}, "bilinear"),
        ({"tasks": ()}, "tasks"),
        ({"tasks": ("painting",)}, "painting"),
    ):
        with pytest.raises(MTLError, match=said):
            MTUnet("resnet18", None, **wrong)


# -------------------------------------------------------------------------------- the numbers of Figure 5
def convolution(inputs: int, outputs: int, side: int = 3) -> int:
    """Parameters of a convolution with a bias."""
    return inputs * outputs * side**2 + outputs


@pytest.fixture(scope="module")
def mtunet() -> MTUnet:
    """The paper's own network."""
    return MTUnet("vgg16", None).eval()


def test_parameters_of_variant_c_by_arithmetic(mtunet):
    vgg = (
        convolution(3, 64) + convolution(64, 64)
        + convolution(64, 128) + convolution(128, 128)
        + convolution(128, 256) + 2 * convolution(256, 256)
        + convolution(256, 512) + 2 * convolution(512, 512)
        + 3 * convolution(512, 512)
    )  # fmt: skip
    # A transposed 2 x 2 convolution has as many parameters as a 2 x 2 convolution. Then the first 3 x 3
    # convolution reads what came up beside the skip.
    decoder = (
        convolution(512, 512, 2) + convolution(512 + 512, 512) + 2 * convolution(512, 512)
        + convolution(512, 512, 2) + convolution(512 + 512, 512) + 2 * convolution(512, 512)
        + convolution(512, 256, 2) + convolution(256 + 256, 256) + 2 * convolution(256, 256)
        + convolution(256, 128, 2) + convolution(128 + 128, 128) + convolution(128, 128)
        + convolution(128, 64, 2) + convolution(64 + 64, 64) + convolution(64, 64)
    )  # fmt: skip
    segmentation_head, dense = convolution(64, 5, 1), 512 * 5 + 5
    assert (vgg, decoder, segmentation_head, dense) == (14_714_688, 24_577_600, 325, 2_565)

    parts = (mtunet.encoder, mtunet.decoder, mtunet.segmentation_head, mtunet.grading_head)
    assert tuple(map(count, parts)) == (vgg, decoder, segmentation_head, dense)
    assert count(mtunet) == vgg + decoder + segmentation_head + dense == 39_295_178


def test_the_decoder_mirrors_vgg16(mtunet):
    blocks, convolutions = [], []
    for layer in mtunet.encoder.features:
        if isinstance(layer, nn.Conv2d):
            convolutions.append(layer.out_channels)
        elif isinstance(layer, nn.MaxPool2d):
            blocks.append(convolutions)
            convolutions = []
    assert tuple(len(block) for block in blocks[::-1]) == CONVOLUTIONS == (3, 3, 3, 2, 2)
    assert tuple(block[-1] for block in blocks[::-1]) == DECODER_CHANNELS

    for block, number, channels in zip(mtunet.decoder.blocks, (3, 3, 3, 2, 2), (512, 512, 256, 128, 64)):
        layers = list(block.convolutions)
        assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU] * number
        assert {layer.out_channels for layer in layers[::2]} == {channels}
        assert {layer.kernel_size for layer in layers[::2]} == {(3, 3)}
        assert (type(block.up), block.up.kernel_size, block.up.stride) == (nn.ConvTranspose2d, (2, 2), (2, 2))


@torch.no_grad()
def test_two_ways_up():
    features = [torch.rand(1, 4, 64 // 2**level, 64 // 2**level) for level in range(6)]
    for upsampling, learned in (("transposed", nn.ConvTranspose2d), ("bilinear", nn.Upsample)):
        decoder = MirrorDecoder([4] * 6, SMALL, upsampling)
        assert decoder(features).shape == (1, 8, 64, 64)
        ways = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d | nn.Upsample)]
        assert [type(way) for way in ways] == [learned] * 5
    # bilinear: what a constant map becomes is constant; the skip of each level goes in unchanged
    block = MirrorDecoder([4] * 6, SMALL, "bilinear").blocks[0]
    came_up = block.up(torch.full((1, 4, 2, 2), 3.0))
    assert came_up.shape == (1, 32, 4, 4)
    assert torch.allclose(came_up, came_up[..., :1, :1].expand_as(came_up), atol=1e-5)


@torch.no_grad()
def test_every_skip_is_used():
    decoder = MTUnet("resnet18", None, tasks=("segmentation",), decoder_channels=SMALL).decoder
    channels = (3, 64, 64, 128, 256, 512)
    features = [torch.rand(1, number, 64 >> level, 64 >> level) for level, number in enumerate(channels)]
    whole = decoder(features)
    for level in range(6):
        other = [feature.clone() for feature in features]
        other[level] += 1
        assert not torch.allclose(decoder(other), whole), level


def test_he_normal_statistics():
    torch.manual_seed(0)
    network = MTUnet("resnet18", None, tasks=("segmentation",), decoder_channels=(256, 128, 64, 64, 64))
    seen = 0
    for block in network.decoder.blocks:
        for layer in block.convolutions[::2]:
            expected = sqrt(2 / (layer.in_channels * 9))
            # the spread of a sample of n numbers is off by 1 / sqrt(2 n): below 0.5 % from 20,000 on
            assert layer.weight.numel() > 20_000
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
            assert layer.weight.mean().item() == pytest.approx(0, abs=4 * expected / sqrt(20_000))
            seen += 1
        assert all(part.bias.abs().max() == 0 for part in (block.up, *block.convolutions[::2]))
    assert seen == sum(CONVOLUTIONS)
    layer = nn.Conv2d(64, 64, 5)
    nn.init.ones_(layer.bias)
    he_normal(nn.Sequential(layer))
    assert layer.weight.std().item() == pytest.approx(sqrt(2 / (64 * 25)), rel=0.02)
    assert layer.bias.abs().max() == 0


def test_he_normal_of_a_transposed_convolution_is_that_of_keras():
    # Keras keeps its kernel as (2, 2, filters, inputs) and takes the last axis but one, times 2 x 2, for the
    # number of inputs: of 256 -> 64 channels 64 * 4.
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(256, 64, kernel_size=2, stride=2)
    he_normal(layer)
    assert layer.weight.std().item() == pytest.approx(sqrt(2 / (64 * 4)), rel=0.02)


def test_the_first_guess_is_the_prior():
    assert sum(CLASS_PRIOR[name] for name in RED_YELLOW.classes) == pytest.approx(1)
    shares = [0.7, 0.01, 0.01, 0.02, 0.26]  # background, red, yellow, disc, outside
    for space in (RED_YELLOW, RED_YELLOW_SIGMOID):
        network = MTUnet("resnet18", None, decoder_channels=SMALL, space=space)
        guess = space.probabilities(network.segmentation_head(torch.zeros(1, 8, 2, 2)))
        for class_, share in enumerate(shares):
            assert guess[0, class_].flatten().tolist() == pytest.approx([share] * 4, rel=1e-5)
    layer = nn.Conv2d(3, 5, 1)
    own = {"background": 0.5, "red": 0.2, "yellow": 0.15, "disc": 0.1, "outside": 0.05}
    start_at_prior(layer, RED_YELLOW, own)
    assert layer(torch.zeros(1, 3, 1, 1)).softmax(1).flatten().tolist() == pytest.approx(
        [0.5, 0.2, 0.15, 0.1, 0.05]
    )


@torch.no_grad()
def test_vggs_last_pooling_makes_no_difference(mtunet):
    encoder = mtunet.encoder
    layers = list(encoder.features)
    assert isinstance(layers[-1], nn.MaxPool2d)
    before = nn.Sequential(*layers[:-1])(photographs())
    after = encoder(photographs())[-1]
    assert (before.shape, after.shape) == ((2, 512, 4, 4), (2, 512, 2, 2))
    head = grading_head(512, 0.0)
    assert torch.equal(head(before), head(after))
    assert torch.equal(head[0](after).flatten(1), after.flatten(2).max(dim=2).values)


# --------------------------------------------------------------------------------- what each loss teaches
def learns(module: nn.Module) -> bool:
    gradients = [parameter.grad for parameter in module.parameters()]
    return any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("letter", "AC")
def test_grading_teaches_the_encoder_and_in_variant_a_the_decoder(letter):
    network = variant_of(letter)
    nn.functional.cross_entropy(network(photographs())["grading"], torch.tensor([1, 4])).backward()
    assert learns(network.encoder) and learns(network.grading_head)
    assert learns(network.decoder) == (letter == "A")
    assert not learns(network.segmentation_head)


@pytest.mark.parametrize("letter", "AC")
def test_segmentation_teaches_encoder_and_decoder(letter):
    network = variant_of(letter)
    network(photographs())["segmentation"].square().mean().backward()
    assert learns(network.encoder) and learns(network.decoder) and learns(network.segmentation_head)
    assert not learns(network.grading_head)


# ---------------------------------------------------------------------------------------------- variant B
@pytest.fixture(scope="module")
def step_one() -> MTUnet:
    torch.manual_seed(1)
    network = MTUnet("resnet18", None, tasks=("segmentation",), decoder_channels=SMALL)
    with torch.no_grad():
        network.train()(photographs(4))  # moves the batch statistics away from 0 and 1
        # As a trained network, it tells photographs apart.
        network.segmentation_head.weight.normal_(std=1)
    return network.eval()


def two_step(step_one: MTUnet) -> MTUnetTwoStep:
    network = MTUnetTwoStep("resnet18", None, decoder_channels=SMALL)
    network.load_step_one(step_one.state_dict())
    return network


def test_step_one_does_not_move_while_step_two_learns(step_one):
    config = replace(experiment("mtunet-b", "smoke"), learning_rate=0.1)
    module = MultiTaskModule(config, two_step(step_one)).train()
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    for name, value in step_one.state_dict().items():
        assert torch.equal(before[name], value), name
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step({"grading": batch_of([0, 3, 2]), "segmentation": batch_of([1, 4, 4])}, 0).backward()
    optimizer.step()
    after = module.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("grader.", "grading_head.")) for name in moved)
    # The second network does learn, its batch statistics among it.
    assert {"grader.conv1.weight", "grader.bn1.running_mean", "grading_head.3.weight"} <= moved
    # Judging and going on, as a trainer does, must not thaw it.
    module.eval()
    module.train()
    module.network(photographs(3, seed=5))
    assert all(
        torch.equal(module.network.state_dict()[name], value) for name, value in step_one.state_dict().items()
    )


class Said(nn.Module):
    """In place of the last layer: the same masks for every photograph."""

    def __init__(self, masks: torch.Tensor):
        super().__init__()
        self.masks = masks

    def forward(self, decoded: torch.Tensor) -> torch.Tensor:
        return self.masks.expand(len(decoded), -1, -1, -1)


@torch.no_grad()
def test_step_two_sees_the_masks_only(step_one):
    network = two_step(step_one).eval()
    one, other = (network(photographs(1, seed=seed))["grading"] for seed in (3, 4))
    assert not torch.allclose(one, other)  # other masks, another grade
    masks = torch.randn(2, 5, 64, 64, generator=torch.Generator().manual_seed(2))
    network.segmentation_head = Said(masks[:1])
    one, other = (network(photographs(1, seed=seed))["grading"] for seed in (3, 4))
    assert torch.equal(one, other)
    # What it sees are the probabilities of red, yellow and disc, normalised as a picture.
    seen = masks[:1].softmax(dim=1)[:, 1:4]
    by_hand = network.grading_head(network.grader((seen - network.mean) / network.std)[-1])
    assert torch.allclose(one, by_hand, atol=1e-5)
    network.segmentation_head = Said(masks[1:])
    assert not torch.allclose(network(photographs(1, seed=3))["grading"], one)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"tasks": ("grading", "segmentation")}, "grading_head"),
        ({"tasks": ("grading",)}, "decoder"),
        ({"tasks": ("segmentation",), "decoder_channels": (64, 32, 16, 16, 8)}, "size mismatch"),
    ],
)
def test_step_one_of_another_kind_is_refused(other, said):
    network = MTUnetTwoStep("resnet18", None, decoder_channels=SMALL)
    state = MTUnet("resnet18", None, **{"decoder_channels": SMALL, **other}).state_dict()
    with pytest.raises(MTLError, match=f"(?s)step one of variant B.*{said}"):
        network.load_step_one(state)


# -------------------------------------------------------------------------------------------- baselines
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder_name", ["resnet18", BUNDLED_ENCODER])
def test_lesion_baselines(architecture, encoder_name, tmp_path):
    """Shapes, first guess, and that the encoder's weights are those that were asked for."""
    torch.manual_seed(0)
    wanted = create_encoder(encoder_name, "bundled" if encoder_name == BUNDLED_ENCODER else None)
    weights = tmp_path / "encoder.pt"
    torch.save(wanted.network.state_dict(), weights)
    network = LesionBaseline(architecture, encoder_name, weights).eval()
    state = network.encoder.state_dict()
    assert set(state) == set(wanted.network.state_dict())
    assert all(torch.equal(state[name], value) for name, value in wanted.network.state_dict().items())
    assert network.mean.flatten().tolist() == pytest.approx(list(wanted.mean))
    with torch.no_grad():
        logits = network(photographs(1, 96))
    assert set(logits) == {"segmentation"}
    assert logits["segmentation"].shape == (1, 5, 96, 96)
    last = [layer for layer in network.segmentation_head.modules() if isinstance(layer, nn.Conv2d)][-1]
    assert last.bias.softmax(0).tolist() == pytest.approx([0.7, 0.01, 0.01, 0.02, 0.26], rel=1e-5)


def test_the_baselines_are_the_architectures_of_their_names():
    decoders = {name: type(LesionBaseline(name, "resnet18", None).decoder).__name__ for name in ARCHITECTURES}
    assert decoders == {
        "unet": "UnetDecoder",
        "linknet": "LinknetDecoder",
        "fpn": "FPNDecoder",
        "deeplabv3": "DeepLabV3Decoder",
        "deeplabv3plus": "DeepLabV3PlusDecoder",
    }
    with pytest.raises(MTLError, match=r"'pyramid'.*linknet"):
        LesionBaseline("pyramid", "resnet18", None)
    with pytest.raises(MTLError, match="deeplabv3 cannot have the encoder vgg16"):
        LesionBaseline("deeplabv3", "vgg16", None)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_lesion_baseline_can_have_the_encoder_that_its_run_names(name):
    config = replace(experiment(name, "paper"), encoder_weights=None)
    assert isinstance(build_network(config), LesionBaseline)


# ------------------------------------------------------------------------------ judging exclusive classes
def test_scores_of_exclusive_classes_by_hand():
    # Eight pixels; the network is sure of: red red red background yellow disc outside outside. The truth is
    # red background red red yellow disc outside outside.
    said = torch.tensor([1, 1, 1, 0, 2, 3, 4, 4])
    true = torch.tensor([1, 0, 1, 1, 2, 3, 4, 4])
    # e^logit 36 against four ones: 36 / 40 = 0.9 for what it says, 0.025 for each other class
    logits = log(36) * nn.functional.one_hot(said, 5).T.reshape(1, 5, 2, 4).float()
    mask = nn.functional.one_hot(true, 5).T.reshape(1, 5, 2, 4).float()
    scores = Scores(("segmentation",), RED_YELLOW)
    batch = {"mask": mask, "has_mask": torch.tensor([True]), "row": torch.tensor([7])}
    scores.update("segmentation", logits, batch)
    result = scores.compute()
    assert result["segmentation/dice/red"] == pytest.approx(2 * 2 / (3 + 3))
    assert result["segmentation/dice/yellow"] == result["segmentation/dice/disc"] == 1
    assert result["segmentation/dice/mean"] == pytest.approx((2 / 3 + 1) / 2)
    # six right pixels: -ln 0.9 - 4 ln 0.975; two wrong: -ln 0.1 - ln 0.025 - 3 ln 0.975; over 8 x 5 values
    right, wrong = -log(0.9) - 4 * log(0.975), -log(0.1) - log(0.025) - 3 * log(0.975)
    assert result["segmentation/loss"] == pytest.approx((6 * right + 2 * wrong) / 40, rel=1e-5)


# ------------------------------------------------------------------------------------------- experiments
GRADING_BASELINES = {
    "nasnet": "tu-nasnetalarge",
    "densenet-201": "densenet201",
    "resnext-101": "resnext101_32x8d",
    "inception-resnet-v2": "inceptionresnetv2",
    "resnext-50": "tu-resnext50_32x4d",  # of PLDMLT's tables
}
MTUNETS = {name: entry for name, entry in EXPERIMENTS.items() if entry.paper == "MTUnet"}


@pytest.mark.parametrize("name", MTUNETS)
def test_the_papers_settings(name):
    config = experiment(name, "paper")
    assert (config.grading_size, config.segmentation_size, config.crop_size) == (512, 512, 512)
    assert (config.learning_rate, config.lr_gamma, config.epochs) == (1e-5, 1.0, 50)
    assert config.steps_per_epoch is None
    assert config.patience >= config.epochs  # it tells of no early stopping
    assert (config.lambda_cls, config.balanced, config.recipe) == (1.0, True, "mtunet")
    assert (config.protocol, config.label_space, config.encoder_weights) == (
        "paper", "red-yellow", "imagenet",
    )  # fmt: skip
    if config.system.startswith("mtunet"):
        assert config.encoder_name == "vgg16"
        assert config.decoder_channels == (512, 512, 256, 128, 64)
        assert (config.upsampling, config.dropout) == ("transposed", 0.0)
        assert config.one_pass == (name != "mtunet-b")  # the two steps of B see different pictures


def test_the_runs_of_the_papers_tables():
    systems = {name: (entry.config.system, entry.config.tasks) for name, entry in MTUNETS.items()}
    both, masks, grades = ("grading", "segmentation"), ("segmentation",), ("grading",)
    assert systems == {
        "mtunet-a": ("mtunet-a", both),
        "mtunet-b": ("mtunet-b", both),
        "mtunet-c": ("mtunet-c", both),
        "mtunet-c-semi": ("mtunet-c", both),
        "mtunet-initial": ("mtunet-c", masks),
        "mtunet-grading": ("mtunet-c", grades),
        **{name: (name, masks) for name in ("unet", "linknet", "fpn", "deeplabv3", "deeplabv3plus")},
        **dict.fromkeys(GRADING_BASELINES, ("shared-encoder", grades)),
    }
    firsts = {name: entry.config.first_tasks for name, entry in MTUNETS.items() if entry.config.first_tasks}
    assert firsts == {"mtunet-b": masks, "mtunet-c-semi": both}
    assert {name for name, entry in MTUNETS.items() if entry.table == "Table 2"} == {
        "unet", "linknet", "fpn", "deeplabv3",
    }  # fmt: skip
    table_3 = {name for name, entry in MTUNETS.items() if entry.table == "Table 3"}
    assert table_3 == set(GRADING_BASELINES) - {"resnext-50"}


def test_an_encoder_that_is_the_point_stays_in_every_profile():
    own = {name: entry for name, entry in MTUNETS.items() if entry.own_encoder}
    for profile in ("smoke", "cpu", "gpu", "paper"):
        assert {name: experiment(name, profile).encoder_name for name in own} == GRADING_BASELINES
        names = GRADING_BASELINES.values()
        assert {experiment(name, profile).encoder_weights for name in own} == {"imagenet"}
        assert {experiment(name, profile, lesson=True).encoder_name for name in own} == set(names)
    for name in set(MTUNETS) - set(own):
        small = experiment(name, "cpu")
        assert (small.encoder_name, small.encoder_weights) == (BUNDLED_ENCODER, "bundled")


@pytest.mark.parametrize("name", sorted(name for name, entry in MTUNETS.items() if not entry.own_encoder))
def test_a_named_run_builds_its_network(name):
    config = experiment(name, "smoke", encoder_name="resnet18", encoder_weights=None)
    network = build_network(config)
    expected = MTUnetTwoStep if name == "mtunet-b" else LesionBaseline if name in ARCHITECTURES else MTUnet
    assert type(network) is expected
    assert (network.tasks, network.space) == (config.tasks, RED_YELLOW)
    if expected is MTUnet:
        assert network.variant == ("A" if name == "mtunet-a" else "C")


def test_grading_baselines_have_no_decoder():
    network = build_network(
        experiment("densenet-201", "smoke", encoder_name="resnet18", encoder_weights=None)
    )
    assert type(network) is SharedEncoder
    assert not hasattr(network, "decoder")


def test_nonsense_is_refused():
    for wrong, said in (
        ({"system": "mtunet-d"}, "mtunet-d"),
        ({"system": "mtunet-b"}, "variant B"),
        ({"label_space": "blue"}, "blue"),
    ):
        with pytest.raises(MTLError, match=said):
            build_network(
                experiment("mtunet-c", "smoke", encoder_name="resnet18", encoder_weights=None, **wrong)
            )


# ------------------------------------------------------------------------------------------------- runs
@pytest.fixture(scope="module")
def semi(synthetic_copy, tmp_path_factory):
    """One step of the first network, its labels, and one step of the second."""
    config = experiment("mtunet-c-semi", "smoke", epochs=1, steps_per_epoch=1)
    return fit(config, synthetic_copy, tmp_path_factory.mktemp("semi"), progress=False)


def weights_of(checkpoint) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def test_a_semi_supervised_run_leaves_its_first_network_and_labels(semi, synthetic_copy):
    assert semi.first == semi.folder / FIRST / "last.ckpt"
    assert semi.first.is_file() and semi.checkpoint() == semi.folder / "last.ckpt"
    assert len(semi.history) == 1
    network, config = load_model(semi.first, device="cpu")
    assert config == first_config(semi.config)
    assert (config.name, config.tasks, config.first_tasks) == ("mtunet-c-semi-first", semi.config.tasks, ())

    store, parts = semi.labels, split(synthetic_copy.table)
    assert store.folder == semi.folder / LABELS
    assert (store.about["maker"], store.space) == (file_digest(semi.first), RED_YELLOW)
    graded = set(parts.rows("train", "grading"))
    masked = {row for role in ROLES for row in parts.rows(role, "segmentation")}
    assert set(store.about["rows"]) == graded | masked
    # what the store says of one photograph is what the first network says of it
    row = int(parts.rows("train", "grading")[0])
    place = store.places[row]
    sample = FundusDataset(synthetic_copy, [row], resize_recipe(64))[0]
    with torch.no_grad():
        answer = network(sample["image"][None])
    # Next to each other in a batch, sums are rounded otherwise: a pixel between two classes may change.
    assert (answer["segmentation"].argmax(1)[0].numpy() == store.classes[place]).mean() > 0.99
    assert answer["grading"].softmax(1)[0].tolist() == pytest.approx(
        store.grade_probabilities[place].tolist(), abs=1e-4
    )


def test_made_labels_are_learned_from_and_never_judged_with(semi, synthetic_copy):
    parts = split(synthetic_copy.table)
    data = FundusData(semi.config, synthetic_copy, parts, labels=semi.labels)
    for task in ("grading", "segmentation"):
        for batch in data._train_loader(task, 0):
            assert batch["has_mask"].all() and (batch["grade"] >= 0).all()
            assert (batch["mask"].sum(1) == 1).all()
    without = FundusData(semi.config, synthetic_copy, parts)._train_loader("grading", 0)
    assert not any(batch["has_mask"].any() for batch in without)
    for role in ("val", "test"):
        assert not any(batch["has_mask"].any() for batch in data.evaluation_loader("grading", role))
        grades = [batch["grade"] for batch in data.evaluation_loader("segmentation", role)]
        assert (torch.cat(grades) == -1).all()


def test_half_of_the_masks_and_all_grades_are_drawn_from_made_labels_too(semi, synthetic_copy):
    parts = split(synthetic_copy.table)
    graded, drawn = (set(parts.rows("train", task)) for task in ("grading", "segmentation"))
    longest = max(len(graded), len(drawn))
    data = FundusData(semi.config, synthetic_copy, parts, labels=semi.labels)
    masks = data._training_rows("segmentation", np.random.default_rng(0)).tolist()
    assert len(masks) == longest
    made = [row for row in masks if row in graded]
    assert len(made) == round(longest / 2) and len(set(made)) == len(made)
    true = np.bincount([row for row in masks if row in drawn], minlength=len(synthetic_copy))[sorted(drawn)]
    assert true.sum() == longest - len(made) and np.ptp(true) <= 1  # each as often as the next
    # As often each grade that a photograph of either part has, true or made.
    rows = data._training_rows("grading", np.random.default_rng(0))
    assert len(rows) == longest and set(rows) <= graded | drawn
    grades = synthetic_copy.grades.copy()
    for row in drawn:
        grades[row] = semi.labels.grade(row)
    occurring = set(grades[sorted(graded | drawn)])
    counts = np.bincount(grades[rows], minlength=5)
    each = -(-longest // len(occurring))
    assert set(np.flatnonzero(counts)) == occurring and counts.max() == each
    assert sum(each - count for count in counts[sorted(occurring)]) == each * len(occurring) - longest
    # Without made labels each task has its own photographs only.
    plain = FundusData(semi.config, synthetic_copy, parts)
    assert set(plain._training_rows("segmentation", np.random.default_rng(0))) == drawn
    assert set(plain._training_rows("grading", np.random.default_rng(0))) <= graded


def test_a_first_network_serves_again(semi, synthetic_copy, tmp_path):
    again = fit(semi.config, synthetic_copy, tmp_path, progress=False, first=semi.first)
    with pytest.raises(MTLError, match="began with a first network that was given: use --first"):
        fit(semi.config, synthetic_copy, tmp_path, progress=False, resume=True)
    assert again.first == semi.first and not (tmp_path / FIRST).exists()
    for name in ("classes.u8", "confidence.u8", "grades.f32"):
        assert (tmp_path / LABELS / name).read_bytes() == (semi.labels.folder / name).read_bytes()
    one, other = weights_of(semi.checkpoint()), weights_of(again.checkpoint())
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again.seconds > again.history.seconds.sum()  # the first one's time counts as well


def test_a_first_network_that_does_not_fit_is_refused(semi, synthetic_copy, tmp_path):
    for changed, said in (
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"learning_rate": 0.5, "upsampling": "bilinear"}, r"upsampling \(.*\), learning_rate \(.*\)"),
    ):
        with pytest.raises(MTLError, match=f"differs in: {said}$"):
            fit(replace(semi.config, **changed), synthetic_copy, tmp_path, progress=False, first=semi.first)
    step_two = semi.checkpoint()
    with pytest.raises(MTLError, match="first_tasks"):
        fit(semi.config, synthetic_copy, tmp_path, progress=False, first=step_two)
    other = replace(synthetic_copy, fingerprint="of other photographs")
    with pytest.raises(MTLError, match="other data"):
        fit(semi.config, other, tmp_path, progress=False, first=semi.first)
    with pytest.raises(MTLError, match="mtunet-c-semi-first has no network that comes before"):
        fit(first_config(semi.config), synthetic_copy, tmp_path, progress=False, first=semi.first)
    with pytest.raises(MTLError, match="no checkpoint"):
        fit(semi.config, synthetic_copy, tmp_path, progress=False, first=tmp_path / "none.ckpt")
    assert not (tmp_path / "last.ckpt").exists() and not (tmp_path / LABELS).exists()


def test_a_run_killed_between_its_two_networks_goes_on(semi, synthetic_copy, tmp_path):
    first = fit(first_config(semi.config), synthetic_copy, tmp_path / FIRST, progress=False)
    before = first.checkpoint().read_bytes()
    with pytest.raises(MTLError, match="--resume"):
        fit(semi.config, synthetic_copy, tmp_path, progress=False)
    resumed = fit(semi.config, synthetic_copy, tmp_path, resume=True, progress=False)
    assert first.checkpoint().read_bytes() == before
    one, other = weights_of(semi.checkpoint()), weights_of(resumed.checkpoint())
    assert all(torch.equal(one[name], other[name]) for name in one)
    finished = fit(semi.config, synthetic_copy, tmp_path, resume=True, progress=False)
    assert finished.history.equals(resumed.history) and finished.labels.about == resumed.labels.about


def test_labels_of_another_first_network_are_not_taken_over(semi, synthetic_copy, tmp_path):
    """The first network was trained anew, and its old labels are still in the folder."""
    shutil.copytree(semi.labels.folder, tmp_path / LABELS)
    about = tmp_path / LABELS / "about.json"
    about.write_text(json.dumps({**semi.labels.about, "maker": "0" * 64}))
    with pytest.raises(DataError, match="differ in: maker"):
        fit(semi.config, synthetic_copy, tmp_path, progress=False, first=semi.first)


def test_variant_b_keeps_the_first_network_as_it_was(synthetic_copy, tmp_path):
    config = experiment("mtunet-b", "smoke", epochs=1, steps_per_epoch=1)
    result = fit(config, synthetic_copy, tmp_path, progress=False)
    assert result.labels is None and not (tmp_path / LABELS).exists()
    first, whole = weights_of(result.first), weights_of(result.checkpoint())
    assert {name.split(".")[1] for name in first} == {
        "mean",
        "std",
        "encoder",
        "decoder",
        "segmentation_head",
    }
    assert all(torch.equal(whole[name], value) for name, value in first.items())
    network, loaded = load_model(result.checkpoint(), device="cpu")
    assert loaded == config and type(network) is MTUnetTwoStep
    # both judge masks alike, since they are the same masks
    masks = [evaluate(path, synthetic_copy).compute() for path in (result.first, result.checkpoint())]
    for name, value in masks[0].items():
        assert masks[1][name] == pytest.approx(value), name
    assert "grading/accuracy" in masks[1] and "grading/accuracy" not in masks[0]
