"""DeepMT-DR's subnets, Eqs 1 to 10 and GMSV, against numbers worked by hand and independent libraries."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtl_utils.errors import MTLError
from mtl_utils.explain import gmsv, positive_score
from mtl_utils.systems.deepmt_dr import (
    SRCNN,
    GradingSubnet,
    ISRSubnet,
    LesionSubnet,
    SpatialPyramidPooling,
    bicubic,
)
from mtl_utils.systems.deepmt_dr_losses import (
    STAGE_ONE,
    STAGE_TWO,
    ISRWeights,
    classification_aware_loss,
    distance_weighted_loss,
    evidence_lesion_loss,
    image_loss,
    isr_loss,
    lesion_dice_loss,
    segmentation_aware_loss,
    soft_threshold,
    total_variation_loss,
)

# --- the subnets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_super_resolution_begins_with_bicubic(scale):
    image = torch.rand(2, 3, 12, 16)
    assert torch.equal(ISRSubnet(scale)(image), bicubic(image, scale))


def test_super_resolution_has_the_papers_layers():
    network = ISRSubnet()
    assert (len(network.extraction), len(network.upscaling)) == (5, 2)
    with pytest.raises(MTLError, match="scale is 3"):
        ISRSubnet(scale=3)


def test_super_resolution_and_srcnn_learn():
    torch.manual_seed(0)
    sharp = torch.rand(2, 3, 32, 32)
    small = F.interpolate(sharp, scale_factor=0.25, mode="area")
    for network in (ISRSubnet(channels=16), SRCNN()):
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        losses = []
        for _ in range(25):
            loss = image_loss(network(small), sharp)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.98 * losses[0]


def test_the_lesion_subnet_has_nine_modules():
    network = LesionSubnet(width=6)
    assert len(network.down) + 1 + len(network.up) == 9
    assert network(torch.rand(1, 3, 32, 48)).shape == (1, 4, 32, 48)


def test_spatial_pyramid_pooling_takes_any_size():
    pooling = SpatialPyramidPooling((1, 2, 4))
    assert pooling.length(3) == 63
    for size in ((4, 4), (7, 9), (16, 5)):
        features = torch.rand(2, 3, *size)
        vector = pooling(features)
        assert vector.shape == (2, 63)
        assert torch.equal(vector[:, :3], features.amax(dim=(2, 3)))


def test_the_grading_subnet_takes_any_size_and_starts_with_the_photograph_alone():
    network = GradingSubnet("resnet18", encoder_weights=None).eval()
    for side in (64, 96, 128):
        image = torch.rand(1, 3, side, side)
        with torch.no_grad():
            with_lesions, without = (
                network(image, maps) for maps in (torch.rand(1, 4, side, side), torch.zeros(1, 4, side, side))
            )
        assert with_lesions.shape == (1, 5)
        assert torch.equal(with_lesions, without)
    with pytest.raises(MTLError, match="4 lesion maps"):
        network(image)
    assert GradingSubnet("resnet18", None, maps=0)(image).shape == (1, 5)


# --- the equations ------------------------------------------------------------------------------------------


def test_eq_3_and_eq_5_are_means():
    a, b = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
    assert segmentation_aware_loss(a, b).item() == pytest.approx((0.25 + 1) / 2)
    assert image_loss(a, b).item() == pytest.approx((0.5 + 1) / 2)


def test_eq_4_is_zero_for_the_same_places_and_has_a_gradient():
    here, there = torch.tensor([[[[0.9, 0.1]]]]), torch.tensor([[[[0.1, 0.9]]]])
    assert classification_aware_loss(here, here).item() == 0
    low, high = 1 / (1 + np.exp(4)), 1 / (1 + np.exp(-4))  # (0.1 - 0.5) / 0.1 = -4
    assert classification_aware_loss(here, there).item() == pytest.approx((high - low) ** 2)
    assert classification_aware_loss(here, there, temperature=0).item() == 1
    moving = here.clone().requires_grad_()
    classification_aware_loss(moving, there).backward()
    assert (moving.grad != 0).all()
    assert not soft_threshold(moving, temperature=0).requires_grad


def test_eq_6_by_hand():
    picture = torch.zeros(2, 3, 2, 3)
    picture[0, 1] = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    # Across: 1 + 4 + 0 + 0; down: 0 + 1 + 9; the second picture is flat.
    assert total_variation_loss(picture).item() == pytest.approx((5 + 10) / 2)


def test_eq_7_by_hand_and_where_there_is_nothing():
    lesions, masks = torch.zeros(2, 1, 4, 1, 4)
    masks[0, 0, 0] = torch.tensor([1.0, 1, 0, 0])
    lesions[0, 0, 0] = torch.tensor([1.0, 0.5, 0.5, 0])
    lesions[0, 2, 0, 3] = 1.0  # marked, and not there
    # One ratio over all maps: 2 * (1 + 0.5) / (1 + 0.5 + 0.5 + 1 + 2).
    assert lesion_dice_loss(lesions, masks).item() == pytest.approx(1 - 3 / 5, abs=1e-5)
    assert lesion_dice_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).item() == 0


def test_eq_8_compares_the_union():
    lesions = torch.zeros(1, 4, 1, 3)
    lesions[0, :, 0] = torch.tensor([[0.2, 0, 0], [0.8, 0, 0], [0, 0.4, 0], [0, 0.1, 0.6]])
    evidence = torch.tensor([[[[0.9, 0.6, 0.3]]]], requires_grad=True)
    loss = evidence_lesion_loss(lesions.requires_grad_(), evidence)
    assert loss.item() == pytest.approx((0.2**2 + 0.6**2 + 0.6**2) / 3)
    loss.backward()
    assert evidence.grad is None  # the evidence teaches, and does not learn


def test_eq_9_by_hand_and_its_zero_weight():
    logits = torch.zeros(2, 5)
    logits[0, 3], logits[1, 1] = log(4), log(4)  # probabilities 1/2 and four times 1/8
    grade = torch.tensor([1, 1])
    # l = 1: sum |i - l| + 1 over i is 2 + 1 + 2 + 3 + 4 = 12. Distances are 2 and 0.
    printed = distance_weighted_loss(logits, grade, plus_one=False).item()
    assert printed == pytest.approx((2 / 12 * log(8) + 0) / 2)
    ours = distance_weighted_loss(logits, grade).item()
    assert ours == pytest.approx((3 / 12 * log(8) + 1 / 12 * log(2)) / 2)


def test_eq_9_as_printed_teaches_nothing_from_what_is_right():
    logits = torch.tensor([[0.0, 0, 1, 0, 0]], requires_grad=True)
    distance_weighted_loss(logits, torch.tensor([2]), plus_one=False).backward()
    assert (logits.grad == 0).all()
    distance_weighted_loss(logits, torch.tensor([2])).backward()
    assert (logits.grad != 0).all()


def test_eq_10_has_table_1s_weights():
    restored, original = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    one, two = torch.tensor(0.1), torch.tensor(0.2)
    assert isr_loss(restored, original, one, two).item() == pytest.approx(0.5 + 10 * 0.1)
    assert isr_loss(restored, original, one, two, STAGE_TWO).item() == pytest.approx(0.5 + 0.1 + 10 * 0.2)
    assert ISRWeights(1.0, 1e-6, 10.0, 0.0) == STAGE_ONE


# --- GMSV ---------------------------------------------------------------------------------------------------


def toy() -> tuple[nn.Module, nn.Module, nn.Module]:
    """Two layers that only multiply: level 1 has two channels (x and 2 x), level 2 one, of half the side
    (three times the mean of the first channel, minus that of the second); the logits are (0, s, 0, 0, 0) with
    s its mean.
    """
    first = nn.Conv2d(1, 2, 1, bias=False)
    second = nn.Conv2d(2, 1, 2, stride=2, bias=False)
    head = nn.Linear(1, 5, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        second.weight.copy_(torch.tensor([0.75, -0.25]).view(1, 2, 1, 1).expand(1, 2, 2, 2))
        head.weight.copy_(torch.tensor([0.0, 1, 0, 0, 0]).view(5, 1))
    return first, second, head


def test_gmsv_by_hand():
    first, second, head = toy()
    image = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4.0]]).view(1, 1, 4, 4)
    found = gmsv(lambda: head(second(first(image)).mean((2, 3))), [first, second])
    # Level 2: F = 3 * mean(x) - mean(2 x) = mean(x): 0.25, 0, 0, 1. y is the mean of four: dy/dF = 1/4 each,
    # so w = 1/4 and V2 = 0.0625, 0, 0, 0.25.
    level_2 = torch.tensor([[0.0625, 0], [0, 0.25]]).view(1, 1, 2, 2)
    # Level 1: dy/dF is 0.75 / 4 and -0.25 / 4 everywhere, V1 = (0.1875 - 2 * 0.0625) x = 0.0625 x; the sum of
    # the weights is 0.125.
    expected = F.interpolate(level_2, (4, 4), mode="bilinear") + 0.125 * 0.0625 * image
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert torch.allclose(found, expected, atol=1e-6)
    assert (found.min(), found.max()) == (0, 1)


def test_gmsv_of_one_layer_is_grad_cam_without_its_relu():
    first, second, head = toy()
    image = torch.rand(2, 1, 4, 4)
    found = gmsv(lambda: head(second(first(image)).mean((2, 3))), [second])
    features = second(first(image)).detach()
    lowest, highest = features.amin((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)
    assert torch.allclose(found, (features - lowest) / (highest - lowest), atol=1e-6)


def test_gmsv_changes_nothing():
    network = GradingSubnet("resnet18", None, maps=0).eval()
    image = torch.rand(2, 3, 64, 64)
    layers = [network.encoder.layer1, network.encoder.layer2, network.encoder.layer3, network.encoder.layer4]
    before = network(image)
    found = gmsv(lambda: network(image), layers, size=(64, 64))
    assert found.shape == (2, 1, 64, 64) and not found.requires_grad
    assert torch.equal(network(image), before)
    assert all(not layer._forward_hooks for layer in layers)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_gmsv_can_be_differentiated():
    first, second, head = toy()
    second = nn.Sequential(second, nn.Tanh())  # else the derivative would not depend on the picture
    image = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    for module in (first, second, head):
        module.double()

    def map_of(picture: torch.Tensor) -> torch.Tensor:
        return gmsv(lambda: head(second(first(picture)).mean((2, 3))), [first, second], create_graph=True)

    assert torch.autograd.gradcheck(map_of, image)


def test_a_flat_map_is_zero():
    first, second, head = toy()
    image = torch.zeros(1, 1, 4, 4)
    assert (gmsv(lambda: head(second(first(image)).mean((2, 3))), [first, second]) == 0).all()


def test_the_positive_score_is_that_of_grades_1_to_4():
    assert positive_score(torch.tensor([[100.0, 1, 2, 3, 4]])).tolist() == [10]


# --- where gradients go -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subnets():
    torch.manual_seed(0)
    isr, lesion, grading = ISRSubnet(channels=8), LesionSubnet(width=6), GradingSubnet("resnet18", None)
    # What starts at zero lets no gradient through in its first step.
    nn.init.normal_(isr.last.weight, std=0.01)
    nn.init.normal_(grading.encoder.conv1.weight, std=0.05)
    return isr, lesion.eval(), grading.eval()


def reached(loss: torch.Tensor, subnets) -> list[bool]:
    """Which subnets does a loss teach?"""
    for subnet in subnets:
        subnet.zero_grad()
    loss.backward()
    return [
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in subnet.parameters()) for subnet in subnets
    ]


def test_every_loss_teaches_the_subnets_that_it_should(subnets):
    isr, lesion, grading = subnets
    small, large = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    restored = isr(small)
    masks = (torch.rand(1, 4, 64, 64) > 0.9).float()

    def evidence(picture: torch.Tensor, create_graph: bool) -> torch.Tensor:
        layers = [grading.encoder.layer1, grading.encoder.layer2]
        maps = lesion(picture).sigmoid().detach()
        return gmsv(lambda: grading(picture, maps), layers, size=(64, 64), create_graph=create_graph)

    assert reached(image_loss(restored, large), subnets) == [True, False, False]
    assert reached(total_variation_loss(isr(small)), subnets) == [True, False, False]
    frozen = lesion(large).sigmoid().detach()
    assert reached(segmentation_aware_loss(lesion(isr(small)).sigmoid(), frozen), subnets)[0]
    assert reached(lesion_dice_loss(lesion(large).sigmoid(), masks), subnets) == [False, True, False]
    aware = classification_aware_loss(evidence(isr(small), True), evidence(large, False))
    assert reached(aware, subnets)[0]
    unlabelled = evidence_lesion_loss(lesion(large).sigmoid(), evidence(large, False))
    assert reached(unlabelled, subnets) == [False, True, False]
    graded = distance_weighted_loss(grading(isr(small), lesion(isr(small)).sigmoid()), torch.tensor([3]))
    assert reached(graded, subnets) == [True, True, True]
