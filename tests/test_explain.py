"""The four visualisations that DeepMT-DR compares, against pytorch-grad-cam, loops written out, finite
differences and numbers worked by hand; and how well a map agrees with lesions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
from torch import nn
from torch.nn import functional as F

from mtl_utils.encoders import BUNDLED_ENCODER
from mtl_utils.errors import MTLError
from mtl_utils.explain import VISUALISATIONS, evidence, evidence_agreement, gmsv, positive_score
from mtl_utils.systems.deepmt_dr import GradingSubnet, ISRSubnet, bicubic
from mtl_utils.systems.deepmt_dr_losses import classification_aware_loss


class SmallNetwork(nn.Module):
    """Three convolutions with ReLU; `inplace` and `bounded` as in the bundled encoders. `shape` comes last:
    without it the derivative of a ReLU network does not depend on the picture.
    """

    def __init__(self, inplace: bool = False, bounded: bool = False, shape: nn.Module | None = None):
        super().__init__()
        relu = nn.ReLU6 if bounded else nn.ReLU
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), relu(inplace))
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, padding=1), relu(inplace))
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), relu(inplace))
        self.head, self.shape = nn.Linear(8, 5), shape or nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.third(self.second(self.first(image)))
        return self.shape(self.head(features.mean((2, 3))))

    @property
    def layers(self) -> list[nn.Module]:
        return [self.first, self.second, self.third]


@pytest.fixture
def network() -> SmallNetwork:
    torch.manual_seed(1)
    return SmallNetwork().eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(2))


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """(B, H, W) -> (B, 1, H, W) in [0, 1]."""
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - lowest) / (highest - lowest))[:, None]


# --- against other implementations --------------------------------------------------------------------------


def test_grad_cam_is_pytorch_grad_cams(network, image):
    with torch.no_grad():  # what speaks against the score is cut off, so some of it must be there
        mean = network.third(network.second(network.first(image))).mean((0, 2, 3))
        network.head.weight.copy_(torch.tensor([1.0, -1] * 4) / (mean + 0.01))
    with GradCAM(network, [network.third]) as cam:
        expected = cam(image, [lambda logits: logits[1:].sum()] * len(image))
    found = evidence("grad-cam", network, image, network.layers)
    assert 0.05 < (found == 0).float().mean() < 0.9
    assert np.allclose(found[:, 0], expected, atol=1e-4)


class PositiveScore(nn.Module):
    """Logits with one column, the positive score: pytorch-grad-cam's class differentiates one logit."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return positive_score(self.network(image))[:, None]


@pytest.mark.parametrize("inplace", [False, True])
def test_guided_back_propagation_is_pytorch_grad_cams(inplace, image):
    torch.manual_seed(1)
    network = SmallNetwork(inplace).eval()
    found = evidence("guided-backprop", network, image, [])
    theirs = GuidedBackpropReLUModel(PositiveScore(network))
    gradients = [theirs(picture[None].clone(), target_category=0) for picture in image]
    expected = torch.tensor(np.abs(np.stack(gradients)).sum(axis=-1))
    assert torch.allclose(found, scaled(expected), atol=1e-5)


def test_guided_back_propagation_by_hand():
    # y = relu(2 a) + relu(3 b) - relu(4 c) + relu(-5 d), each of one pixel: the third comes with a negative
    # gradient, and the fourth is not active.
    weights = torch.tensor([2.0, 3, 4, -5]).view(1, 1, 1, 4)
    signs = torch.tensor([1.0, 1, -1, 1]).view(1, 1, 1, 4)

    def forward(picture: torch.Tensor) -> torch.Tensor:
        score = (signs * (weights * picture).relu()).sum(dim=(1, 2, 3))
        return F.pad(score[:, None], (1, 3))

    found = evidence("guided-backprop", forward, torch.ones(1, 1, 1, 4), [])
    assert found.flatten().tolist() == pytest.approx([2 / 3, 1, 0, 0])


@pytest.mark.parametrize("inplace", [False, True])
def test_relu6_passes_back_what_relu_does_below_6(inplace, image):
    networks = []
    for bounded in (False, True):
        torch.manual_seed(1)
        networks.append(SmallNetwork(inplace, bounded).eval())
    plain, bounded = (evidence("guided-backprop", network, image, []) for network in networks)
    assert torch.equal(plain, bounded)
    unguided = evidence("smoothgrad", networks[1], image, [], copies=1, noise=0)
    assert not torch.allclose(bounded, unguided, atol=0.05)


def test_guided_back_propagation_needs_a_relu(image):
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for picture in (image, image.requires_grad_().relu()):  # what made the photograph does not count
        with pytest.raises(MTLError, match="has none"):
            evidence("guided-backprop", network, picture, [], create_graph=True)


def test_smoothgrad_is_the_mean_over_noisy_copies(network, image):
    torch.manual_seed(5)
    found = evidence("smoothgrad", network, image, [], copies=3, noise=0.2)
    torch.manual_seed(5)
    total = torch.zeros(2, 16, 20)
    for _ in range(3):
        noisy = (image + 0.2 * torch.randn(image.shape)).requires_grad_()
        network(noisy)[:, 1:].sum().backward()
        total += noisy.grad.abs().sum(dim=1) / 3
    assert torch.allclose(found, scaled(total), atol=1e-5)


def test_smoothgrad_without_noise_is_the_plain_gradient(network, image):
    one, many = (evidence("smoothgrad", network, image, [], copies=copies, noise=0) for copies in (1, 4))
    assert torch.allclose(one, many, atol=1e-6)


def test_gmsv_as_a_kind_is_gmsv(network, image):
    found = evidence("gmsv", network, image, network.layers)
    assert torch.equal(found, gmsv(lambda: network(image), network.layers))  # the first layer has full size


# --- what all have in common --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VISUALISATIONS)
def test_every_map_has_the_same_form(kind, network, image):
    found = evidence(kind, network, image, network.layers, size=(24, 12))
    assert found.shape == (2, 1, 24, 12) and not found.requires_grad
    assert found.amin((1, 2, 3)).tolist() == [0, 0] and found.amax((1, 2, 3)).tolist() == [1, 1]
    assert evidence(kind, network, image, network.layers).shape == (2, 1, 16, 20)


@pytest.mark.parametrize("kind", VISUALISATIONS)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_changed(kind, training, network, image):
    network.train(training)
    before = {name: value.clone() for name, value in network.named_parameters()}
    picture = image.clone().requires_grad_()
    evidence(kind, network, picture, network.layers, create_graph=True)
    with torch.no_grad():
        evidence(kind, network, image, network.layers)
    assert picture.grad is None and not image.requires_grad
    assert network.training == training
    for name, parameter in network.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, before[name])
    for module in network.modules():
        hooks = module._forward_hooks, module._forward_pre_hooks
        assert not any((*hooks, module._backward_hooks, module._backward_pre_hooks))


def test_no_hook_stays_when_a_network_fails(network, image):
    def broken(picture: torch.Tensor) -> torch.Tensor:
        network(picture)
        raise ValueError("broken")

    for kind in VISUALISATIONS:
        with pytest.raises(ValueError, match="broken"):
            evidence(kind, broken, image, network.layers)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_loss_on_a_guided_map_goes_back_unguided(network, image):
    """The hooks are off the graph as well: the photograph's own gradient is what it is without a map."""
    picture = image.clone().requires_grad_()
    kept = []

    def forward(moving: torch.Tensor) -> torch.Tensor:
        kept.append(network(moving))
        return kept[-1]

    evidence("guided-backprop", forward, picture, [], create_graph=True)
    kept[0].square().sum().backward()
    again = image.clone().requires_grad_()
    network(again).square().sum().backward()
    assert torch.equal(picture.grad, again.grad)


@pytest.mark.parametrize("kind", VISUALISATIONS)
def test_a_map_can_be_differentiated(kind):
    torch.manual_seed(3)
    network = SmallNetwork(shape=nn.Tanh()).double().eval()
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def map_of(picture: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(4)
        return evidence(kind, network, picture, network.layers, create_graph=True, copies=2)

    assert torch.autograd.gradcheck(map_of, image)
    (gradient,) = torch.autograd.grad(map_of(image).square().sum(), image)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("kind", VISUALISATIONS)
def test_a_flat_map_is_zero(kind, network, image):
    nn.init.zeros_(network.head.weight)
    assert (evidence(kind, network, image, network.layers) == 0).all()


def test_an_unknown_kind_is_named(network, image):
    with pytest.raises(MTLError, match=r"'grad_cam'.*gmsv, guided-backprop, grad-cam, smoothgrad"):
        evidence("grad_cam", network, image, network.layers)


# --- the grading subnet -------------------------------------------------------------------------------------


@pytest.fixture(params=[("resnet18", None), (BUNDLED_ENCODER, "bundled")], ids=lambda p: p[0])
def grading(request) -> GradingSubnet:
    torch.manual_seed(0)
    return GradingSubnet(*request.param).eval()


def test_all_feature_maps_pass_through_feature_layers(grading):
    image, lesions = torch.rand(1, 3, 64, 96), torch.rand(1, 4, 64, 96)
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *call: seen.append(call[-1])) for layer in grading.feature_layers
    ]
    features = grading.features(image, lesions)
    for hook in hooks:
        hook.remove()
    assert [found.shape[-2:] for found in seen] == [(64 // n, 96 // n) for n in (2, 4, 8, 16, 32)]
    assert all(found is passed for found, passed in zip(seen, features[1:], strict=True))
    assert not any(name.startswith("feature_layers") for name in grading.state_dict())


def taught(kind: str, grading: GradingSubnet, last: nn.Module) -> float:
    """The largest gradient that the classification-aware loss gives to the super-resolution."""
    torch.manual_seed(0)
    isr, small, lesions = ISRSubnet(channels=8), torch.rand(2, 3, 16, 16), torch.rand(2, 4, 64, 64)

    def draw(picture: torch.Tensor, create_graph: bool) -> torch.Tensor:
        layers = grading.feature_layers
        return evidence(kind, lambda x: last(grading(x, lesions)), picture, layers, create_graph=create_graph)

    maps = draw(isr(small), True), draw(torch.rand(2, 3, 64, 64), False)
    assert [tuple(found.shape) for found in maps] == [(2, 1, 64, 64)] * 2
    classification_aware_loss(*maps).backward()
    grading.zero_grad()
    reached = isr.last.weight.grad
    assert reached.isfinite().all()
    return reached.abs().max().item()


@pytest.mark.parametrize("kind", VISUALISATIONS)
def test_every_visualisation_teaches_the_super_resolution_in_training(kind, grading):
    assert taught(kind, grading.train(), nn.Identity()) > 0


def test_the_derivative_of_a_piecewise_linear_network_teaches_nothing(grading):
    found = {kind: taught(kind, grading, nn.Identity()) for kind in VISUALISATIONS}
    assert found["gmsv"] > 0 and found["grad-cam"] > 0
    assert found["guided-backprop"] == found["smoothgrad"] == 0
    for kind in ("guided-backprop", "smoothgrad"):
        assert taught(kind, grading, nn.Softmax(dim=1)) > 0


@pytest.mark.parametrize("kind", VISUALISATIONS)
def test_frozen_weights_are_no_hindrance(kind, grading):
    lesions, image = torch.rand(1, 4, 64, 64), bicubic(torch.rand(1, 3, 16, 16), 4)

    def draw() -> torch.Tensor:
        torch.manual_seed(0)
        return evidence(kind, lambda picture: grading(picture, lesions), image, grading.feature_layers)

    free = draw()
    grading.requires_grad_(False)
    assert torch.allclose(draw(), free, atol=1e-5) and free.std() > 0


# --- Figure 2 c ---------------------------------------------------------------------------------------------


def test_evidence_agreement_by_hand():
    heat = np.array([[0.9, 0.8, 0.6], [0.4, 0.2, 0.0]])
    masks = np.zeros((4, 2, 3), bool)
    masks[0, 0, 0] = True  # MA: hotter than all others
    masks[1, 0, 2] = masks[1, 1, 1] = True  # HE: 0.6 beats 0.4 and 0.0, 0.2 beats 0.0
    masks[3, 0, 0] = masks[3, 1, 0] = True  # SE, partly on the MA: 0.9 beats four, 0.4 beats two
    found = evidence_agreement(heat, masks, np.ones((2, 3), bool))
    # Background: 0.8 and 0.0 against 0.9, 0.6, 0.4 and 0.2; 0.8 beats three.
    expected = {"MA": 1.0, "HE": 3 / 8, "SE": 6 / 8, "background": 3 / 8}
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)  # no EX: the photograph shows none


def test_evidence_agreement_looks_inside_only():
    heat = np.array([[0.9, 0.8, 0.6], [0.4, 0.2, 0.0]])
    masks = np.zeros((4, 2, 3), bool)
    masks[0, 0, 0] = masks[2, 0, 1] = True
    inside = np.array([[False, True, True], [True, True, True]])
    # The MA lies outside and is not there; the EX is hotter than all that is left.
    assert evidence_agreement(heat, masks, inside) == {"EX": 1.0, "background": 0.0}


def test_evidence_agreement_without_lesions_has_nothing_to_say():
    assert evidence_agreement(np.ones((2, 2)), np.zeros((4, 2, 2), bool), np.ones((2, 2), bool)) == {}


def test_the_background_is_what_the_lesions_leave():
    random = np.random.default_rng(0)
    heat, masks = random.random((20, 20)), random.random((4, 20, 20)) > 0.9
    inside = random.random((20, 20)) > 0.2
    found = evidence_agreement(heat, masks, inside)
    together = evidence_agreement(heat, masks.any(axis=0)[None] * np.ones((4, 1, 1), bool), inside)["MA"]
    assert found["background"] == pytest.approx(1 - together)
    flat = evidence_agreement(np.zeros((20, 20)), masks, inside)
    assert set(flat.values()) == {0.5}
