"""Encoder weights: the bundled ones are checked by what they see, the hub by what is said when it does not
answer.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import skimage.data
import timm
import torch
from torch.nn import functional as F

from mtl_utils import encoders
from mtl_utils.encoders import (
    BUNDLED_ENCODER,
    BUNDLED_PACKAGES,
    SECOND_BUNDLED_ENCODER,
    bundled_classifier_state,
    create_encoder,
)
from mtl_utils.errors import HubError, MTLError
from mtl_utils.systems.baselines import LesionBaseline
from mtl_utils.systems.shared_encoder import SharedEncoder

PICTURES = {"chelsea": 285, "coffee": 967}  # ImageNet's 'Egyptian cat' and 'espresso'


def centre(name: str, side: int = 224) -> torch.Tensor:
    """The middle of one of scikit-image's pictures, float (1, 3, side, side) in [0, 1]."""
    pixels = torch.from_numpy(np.moveaxis(getattr(skimage.data, name)().astype(np.float32) / 255, -1, 0))[
        None
    ]
    short = min(pixels.shape[-2:])
    top, left = (pixels.shape[-2] - short) // 2, (pixels.shape[-1] - short) // 2
    return F.interpolate(
        pixels[..., top : top + short, left : left + short], size=side, mode="bicubic", antialias=True
    ).clamp(0, 1)


@pytest.fixture(scope="module", params=BUNDLED_PACKAGES)
def bundled(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module]:
    """A bundled encoder's name, and the whole classifier of its package."""
    network = timm.create_model(request.param.removeprefix("tu-"))
    network.load_state_dict(bundled_classifier_state(list(network.state_dict()), request.param))
    return request.param, network.eval()


def test_the_two_bundled_encoders_differ():
    assert (BUNDLED_ENCODER, SECOND_BUNDLED_ENCODER) == (
        "tu-tf_efficientnet_lite0",
        "tu-tf_efficientnet_lite1",
    )
    sizes = [
        sum(map(torch.numel, create_encoder(name, None).network.parameters())) for name in BUNDLED_PACKAGES
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_bundled_weights_name_two_known_pictures(bundled, name):
    _, classifier = bundled
    assert classifier((centre(name) - 0.5) / 0.5).argmax().item() == PICTURES[name]


@torch.no_grad()
def test_bundled_encoder_sees_what_the_classifier_sees(bundled):
    encoder_name, classifier = bundled
    encoder = create_encoder(encoder_name, "bundled")
    assert (encoder.mean, encoder.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    picture = (centre("chelsea") - 0.5) / 0.5
    deepest = classifier.blocks(
        classifier.bn1(classifier.conv_stem(picture))
    )  # what comes before the classifier's head
    assert torch.allclose(encoder.network.eval()(picture)[-1], deepest, atol=1e-4)


def test_bundled_weights_fit_two_encoders_only():
    with pytest.raises(MTLError, match=r"lite0 and tu-tf_efficientnet_lite1 only.*resnet18"):
        create_encoder("resnet18", "bundled")


@pytest.mark.parametrize("encoder_name", ["efficientnet-b0", "tu-resnet18"])
def test_a_hub_out_of_reach_is_said_within_seconds(monkeypatch, tmp_path, encoder_name):
    monkeypatch.setattr(encoders.hub, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(encoders.hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(HubError, match="bundled"):
        create_encoder(encoder_name, "imagenet")
    assert time.monotonic() - started < 20
    assert not encoders.hub.HF_HUB_OFFLINE  # the switch is put back


def test_weights_from_a_file(tmp_path):
    trained = create_encoder("resnet18", None).network
    torch.save(trained.state_dict(), tmp_path / "encoder.pt")
    loaded = create_encoder("resnet18", tmp_path / "encoder.pt").network
    assert all(
        torch.equal(a, b)
        for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_weights_from_a_checkpoint_of_the_course(smoke_checkpoint):
    made = create_encoder(BUNDLED_ENCODER, smoke_checkpoint)
    encoder = made.network
    saved = torch.load(smoke_checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(
        encoder.state_dict()["model.conv_stem.weight"], saved["network.encoder.model.conv_stem.weight"]
    )
    assert made.mean == made.std == (0.5, 0.5, 0.5)


def test_a_checkpoint_brings_the_normalisation_that_it_was_trained_with(tmp_path):
    shared = SharedEncoder("resnet18", None)
    shared.mean.fill_(0.25)
    torch.save({"state_dict": {f"network.{k}": v for k, v in shared.state_dict().items()}}, tmp_path / "x")
    assert create_encoder("resnet18", tmp_path / "x").mean == (0.25, 0.25, 0.25)
    assert create_encoder("resnet18", None).mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no weights file"),
        (b"half a file", "cannot be loaded|can be loaded"),
        ({"a": torch.zeros(1)}, "not those of"),
        (torch.zeros(1), "holds no weights by name"),
    ],
)
def test_wrong_weights_files(tmp_path, content, said):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(MTLError, match=said):
        create_encoder("resnet18", path)


def test_an_unknown_encoder_is_named():
    with pytest.raises(MTLError, match="efficientnet-z9"):
        create_encoder("efficientnet-z9", None)


def depthwise_layers(network: torch.nn.Module) -> list[torch.nn.Conv2d]:
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    return [layer for layer in convolutions if layer.groups == layer.in_channels > 1]


@pytest.mark.parametrize("copied", [False, True])
def test_depthwise_convolutions_keep_their_precision_under_autocast(copied):
    network = create_encoder(BUNDLED_ENCODER, None).network
    network = copy.deepcopy(network) if copied else network
    layer = depthwise_layers(network)[3]
    features = torch.rand(1, layer.in_channels, 16, 16).bfloat16()
    exact = layer(features.float()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(features), exact)  # the weights are not rounded, the result is
        layer.weight.data.zero_()
        assert not layer(features).any()  # a copy asks its own weights
        plain = torch.nn.Conv2d(2, 2, 1)
        assert plain(features[:, :2]).dtype == layer(features).dtype == torch.bfloat16


def test_depthwise_convolutions_in_double_precision():
    layer = depthwise_layers(create_encoder(BUNDLED_ENCODER, None).network.double())[0]
    assert layer(torch.rand(1, layer.in_channels, 8, 8).double()).dtype == torch.float64


def test_baselines_have_such_depthwise_convolutions():
    network = LesionBaseline("unet", BUNDLED_ENCODER, None).encoder
    assert all("forward" in vars(layer) for layer in depthwise_layers(network))


@pytest.mark.parametrize("name", ["tu-hf_hub:a/b", "tu-local-dir:/etc", "tu-../../etc/passwd", "tu-test_vit"])
def test_what_is_no_encoder_is_refused_at_once(name):
    with pytest.raises(MTLError, match="encoder"):
        create_encoder(name, None)


def test_a_transformer_that_takes_one_size_only_is_refused():
    """Both are marked by timm as such; one of them takes other sizes all the same."""
    with pytest.raises(MTLError, match=r"swin_tiny.* takes pictures of 224 x 224 only"):
        create_encoder("tu-swin_tiny_patch4_window7_224", None)
    assert create_encoder("tu-twins_svt_small", None).network.training


@pytest.mark.parametrize("state", [{1: torch.zeros(2)}, {"state_dict": None}, [1]])
def test_a_file_without_names_of_weights_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(MTLError, match=r"weights\.pt holds no weights by name"):
        create_encoder("resnet18", str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("address", ["foo", "http://[::1"])
def test_an_address_that_is_none_is_a_hub_out_of_reach(monkeypatch, address):
    monkeypatch.setattr(encoders.hub, "ENDPOINT", address)
    assert not encoders._hub_answers()
