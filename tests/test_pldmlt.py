"""PLDMLT: the look-ahead against a literal Algorithm 1, stage 1 by hand, and its runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import import_module
from math import log
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import UNKNOWN_GRADE, FundusDataset
from mtl_utils.data.fov import inside_field_of_view
from mtl_utils.data.splits import FOLDS
from mtl_utils.encoders import BUNDLED_ENCODER, SECOND_BUNDLED_ENCODER, create_encoder
from mtl_utils.errors import DataError, MTLError
from mtl_utils.experiments import CLASSIFIERS, EXPERIMENTS, experiment
from mtl_utils.explain import agreement, grad_cam
from mtl_utils.label_spaces import FUSED, SEPARATE
from mtl_utils.lesions import DISEASE_LESIONS, GRADES, LESIONS
from mtl_utils.losses import categorical_focal_loss
from mtl_utils.pseudo import file_digest, known_grades
from mtl_utils.pseudo_grades import (
    FILE,
    MEDICAL_RULES,
    HeatMapRules,
    PseudoGrades,
    Rule,
    make_pseudo_grades,
    measure,
)
from mtl_utils.systems.mtunet import MTUnet
from mtl_utils.systems.pldmlt import (
    DRAWING,
    HIERARCHIES,
    OBJECTIVES,
    PLDMLT,
    LabelUpdate,
    LabelUpdateNetwork,
    hierarchy_mask,
    look_ahead,
    mask_softmax,
    meta_gradient,
    negative_entropy,
    stage_two_loss,
)
from mtl_utils.systems.shared_encoder import SharedEncoder
from mtl_utils.training import (
    FitResult,
    FundusData,
    MultiTaskModule,
    build_network,
    cross_validate,
    fit,
    label_update,
    load_config,
    load_labels,
    load_model,
    stage_one,
)

FOCAL = (0.25, 2.0)
BETA = 0.8
SMALL = (32, 16, 8, 8, 8)
ALL = torch.ones(1, 5, dtype=torch.bool)
DENSE = 3  # place of the dense layer in a grading head


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---------------------------------------------------------------------------------------------- equation 4
# e^logit is 1, 2, 3, 4, 10.
LOGITS = torch.tensor([[1.0, 2, 3, 4, 10]]).log()


def test_mask_softmax_by_hand():
    mask = torch.tensor([[True, False, True, False, True]])
    labels = mask_softmax(LOGITS, mask)[0]
    assert labels.tolist() == pytest.approx([1 / 14, 0, 3 / 14, 0, 10 / 14])
    assert labels[1] == labels[3] == 0
    # As printed the forbidden ones have exp(0) = 1 each: 1 + 1 + 3 + 1 + 10 = 16.
    printed = mask_softmax(LOGITS, mask, as_printed=True)[0]
    assert printed.tolist() == pytest.approx([1 / 16, 1 / 16, 3 / 16, 1 / 16, 10 / 16])
    everything = [1 / 20, 2 / 20, 3 / 20, 4 / 20, 10 / 20]
    for as_printed in (False, True):
        assert mask_softmax(LOGITS, ALL, as_printed)[0].tolist() == pytest.approx(everything)


def test_a_forbidden_grade_learns_nothing():
    logits = LOGITS.clone().requires_grad_()
    mask_softmax(logits, torch.tensor([[False, True, True, True, False]]))[0, 2].backward()
    # of p = 3/9: p (1 - p), and - p q for the others
    assert logits.grad[0].tolist() == pytest.approx([0, -6 / 81, 18 / 81, -12 / 81, 0])


def test_the_three_hierarchies():
    grade = torch.tensor([0, 2, 4])
    plausible = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    expected = {
        "all": [[1] * 5] * 3,
        "neighbours": [[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]],
        "plausible": [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
    }
    assert set(expected) == set(HIERARCHIES)
    for hierarchy, mask in expected.items():
        found = hierarchy_mask(grade, plausible, hierarchy)
        assert (found.dtype, found.int().tolist()) == (torch.bool, mask)


@torch.no_grad()
def test_labels_start_at_the_pseudo_grades():
    grade = torch.tensor([0, 3, 2])
    plausible = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool)
    expected = {
        "all": [[0.8, 0.05, 0.05, 0.05, 0.05], [0.05, 0.05, 0.05, 0.8, 0.05], [0.05, 0.05, 0.8, 0.05, 0.05]],
        "neighbours": [[0.8, 0.2, 0, 0, 0], [0, 0, 0.1, 0.8, 0.1], [0, 0.1, 0.8, 0.1, 0]],
        "plausible": [[1, 0, 0, 0, 0], [0, 0.1, 0.1, 0.8, 0], [0, 0, 0.8, 0.1, 0.1]],
    }
    image = random(3, 3, 64, 64)
    for hierarchy, labels in expected.items():
        network = LabelUpdateNetwork("resnet18", None, hierarchy, start=0.8)
        found = network(image, grade, plausible)
        assert torch.allclose(found, torch.tensor(labels, dtype=torch.float32), atol=1e-6)
    # what the network says is added to the logarithms: three times as much for grade 1
    network.network.grading_head[DENSE].bias[1] = log(3)
    found = network(image, grade, plausible)[1]
    assert found.tolist() == pytest.approx([0, 0.3 / 1.2, 0.1 / 1.2, 0.8 / 1.2, 0], abs=1e-6)


def test_negative_entropy_by_hand():
    rows = torch.tensor([[0.5, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0]], requires_grad=True)  # mean 3/4, 1/4
    value = negative_entropy(rows)
    assert value.item() == pytest.approx(0.75 * log(0.75) + 0.25 * log(0.25))
    value.backward()
    assert torch.isfinite(rows.grad).all()
    # (log m + 1) / 2 for each of the two rows
    for row in rows.grad:
        assert row[:2].tolist() == pytest.approx([(log(0.75) + 1) / 2, (log(0.25) + 1) / 2])
    assert negative_entropy(torch.eye(5)[[3, 3, 3]]).item() == 0
    assert negative_entropy(torch.full((2, 5), 0.2)).item() == pytest.approx(-log(5))


# --------------------------------------------------------------------------------------------- the network
def test_shapes_and_parts_of_the_network():
    for space in (FUSED, SEPARATE):
        network = PLDMLT("resnet18", None, space=space, decoder_channels=SMALL).eval()
        with torch.no_grad():
            logits = network(random(2, 3, 64, 96))
        assert logits["grading"].shape == (2, 5)
        assert logits["segmentation"].shape == (2, len(space.classes), 64, 96)
        assert set(network(random(1, 3, 64, 64), ("grading",))) == {"grading"}
    grader = PLDMLT("resnet18", None, tasks=("grading",))
    assert not hasattr(grader, "decoder") and not hasattr(grader, "segmentation_head")
    masks = PLDMLT("resnet18", None, tasks=("segmentation",), decoder_channels=SMALL)
    assert not hasattr(masks, "grading_head")
    with pytest.raises(MTLError, match="painting"):
        PLDMLT("resnet18", None, tasks=("painting",))


@torch.no_grad()
def test_the_grade_is_an_average_over_the_deepest_features():
    network = PLDMLT("resnet18", None, decoder_channels=SMALL).eval()
    image = random(2, 3, 64, 64)
    mean = network.features(image)[-1].mean(dim=(2, 3))
    dense = network.grading_head[DENSE]
    assert torch.allclose(network(image)["grading"], mean @ dense.weight.T + dense.bias, atol=1e-5)


@torch.no_grad()
def test_the_first_guess_of_the_masks_is_the_prior():
    for space, shares in (
        (FUSED, [0.7, 0.02]),
        (SEPARATE, [0.7, 0.001, 0.008, 0.008, 0.003]),
    ):
        network = PLDMLT("resnet18", None, space=space, decoder_channels=SMALL)
        guess = space.probabilities(network.segmentation_head(torch.zeros(1, 8, 1, 1))).flatten()
        assert guess.tolist() == pytest.approx([share / sum(shares) for share in shares], rel=1e-5)


def test_what_the_grade_does_not_reach_is_what_draws():
    network = PLDMLT("resnet18", None, decoder_channels=SMALL)
    parameters = dict(network.named_parameters())
    loss = network(random(2, 3, 64, 64))["grading"].square().sum()
    reached = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, reached, strict=True):
        assert (gradient is None) == name.startswith(DRAWING), name


# ------------------------------------------------------------------------------------------ the look-ahead
class Toy(nn.Module):
    """Both tasks in miniature, with the parts' names as in the real network."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())
        self.unused = nn.Linear(2, 2)  # as encoders of the library have
        self.grading_head = nn.Linear(4, 5)
        self.decoder = nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3))
        self.segmentation_head = nn.Conv2d(3, 2, 1)

    def forward(self, image, tasks=("grading", "segmentation")):
        features = self.encoder(image)
        logits = {}
        if "grading" in tasks:
            logits["grading"] = self.grading_head(features.mean((2, 3)))
        if "segmentation" in tasks:
            logits["segmentation"] = self.segmentation_head(self.decoder(features))
        return logits


class ToyUpdater(nn.Module):
    def __init__(self):
        super().__init__()
        self.normed, self.dense, self.unused = nn.BatchNorm1d(3), nn.Linear(3, 5), nn.Linear(1, 1)

    def forward(self, image, grade, plausible):
        return mask_softmax(self.dense(self.normed(image.mean((2, 3)))), plausible)


@pytest.fixture
def toys() -> tuple[Toy, ToyUpdater, dict[str, torch.Tensor]]:
    """Networks in float64, and a batch of four photographs, of which the last has no masks."""
    torch.manual_seed(0)
    marked = (random(4, 6, 6, seed=1) > 0.7).double()
    mask = torch.stack([1 - marked, marked], dim=1)
    mask[3] = 0
    batch = {
        "image": random(4, 3, 6, 6, seed=2, dtype=torch.float64),
        "mask": mask,
        "has_mask": torch.tensor([True, True, True, False]),
        "grade": torch.tensor([2, 3, 4, 0]),
        "plausible": torch.tensor([[0, 1, 1, 1, 1], [1] * 5, [0, 0, 0, 1, 1], [1] * 5]).bool(),
    }
    return Toy().double(), ToyUpdater().double(), batch


def focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Equation 2, written once more."""
    alpha, gamma = FOCAL
    shares = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return (-alpha * target * (1 - shares) ** gamma * shares.log()).sum(dim=1).mean()


def algorithm_1(network, updater, batch, settings: LabelUpdate) -> torch.Tensor:
    """Lines 18 to 21 to the letter, with the whole graph of the step retained."""

    def answers(parameters):
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        return functional_call(network, (parameters, buffers), (batch["image"],))

    def drawn(logits):
        return focal(logits["segmentation"][batch["has_mask"]], batch["mask"][batch["has_mask"]])

    theta = dict(network.named_parameters())
    labels = updater(batch["image"], batch["grade"], batch["plausible"])
    logits = answers(theta)
    loss = drawn(logits) + BETA * focal(logits["grading"], labels)
    slopes = torch.autograd.grad(loss, theta.values(), create_graph=True, allow_unused=True)
    ahead = {
        name: value if slope is None else value - settings.step_size * slope
        for (name, value), slope in zip(theta.items(), slopes, strict=True)
    }
    logits = answers(ahead)
    if settings.objective == "printed":
        return focal(logits["grading"], labels)
    mean = labels.mean(dim=0)
    return drawn(logits) + settings.entropy_weight * torch.xlogy(mean, mean).sum()


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


# A long step and little entropy: what is compared is the way through the step.
LONG_STEP = LabelUpdate(step_size=5, entropy_weight=0.01)


def gradient_of(toys, **settings) -> torch.Tensor:
    return flat(meta_gradient(*toys, replace(LONG_STEP, **settings), BETA, FOCAL)[1])


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_meta_gradient_is_that_of_algorithm_1(toys, objective):
    network, updater, batch = toys
    settings = replace(LONG_STEP, objective=objective)
    value = algorithm_1(network, updater, batch, settings)
    literal = flat(torch.autograd.grad(value, list(updater.parameters()), materialize_grads=True))
    found, gradients = meta_gradient(network, updater, batch, settings, BETA, FOCAL)
    assert found.item() == pytest.approx(value.item(), rel=1e-12)
    assert not found.requires_grad
    assert [gradient.shape for gradient in gradients] == [p.shape for p in updater.parameters()]
    assert distance(flat(gradients), literal) < 1e-10
    assert 0 < distance(gradient_of(toys, objective=objective, order="first"), literal) < 1e-3
    # The step matters: without it the gradient is another one.
    assert distance(gradient_of(toys, objective=objective, step_size=0), literal) > 0.01


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_meta_gradient_is_that_of_finite_differences(toys, objective):
    network, updater, batch = toys
    settings = replace(LONG_STEP, objective=objective)
    parameters = list(updater.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach().clone()

    def value(place: torch.Tensor) -> float:
        nn.utils.vector_to_parameters(place, parameters)
        return algorithm_1(network, updater, batch, settings).item()

    units = 1e-5 * torch.eye(len(start), dtype=torch.float64)
    differences = torch.tensor([(value(start + unit) - value(start - unit)) / 2e-5 for unit in units])
    nn.utils.vector_to_parameters(start, parameters)
    assert distance(gradient_of(toys, objective=objective), differences.double()) < 1e-6


@pytest.mark.parametrize("order", ["second", "first"])
def test_an_imagined_step_leaves_no_trace(toys, order):
    network, updater, batch = toys
    before, parameters = copied(network), {name: p.clone() for name, p in updater.named_parameters()}
    expected = ToyUpdater().double()
    expected.load_state_dict(updater.state_dict())
    expected(batch["image"], batch["grade"], batch["plausible"])
    meta_gradient(network, updater, batch, LabelUpdate(step_size=0.5, order=order), BETA, FOCAL)
    assert same(copied(network), before)
    assert same(dict(updater.named_parameters()), parameters)
    # The label-update network itself was asked once: its running averages have moved by one step.
    assert same(copied(updater), copied(expected))
    assert updater.normed.num_batches_tracked == 1
    assert all(p.grad is None for part in (network, updater) for p in part.parameters())


def test_without_a_step_the_primary_objective_says_nothing(toys):
    network, _, batch = toys
    settings = LabelUpdate(step_size=0, entropy_weight=0)
    for order in ("second", "first"):
        objective, gradients = meta_gradient(*toys, replace(settings, order=order), BETA, FOCAL)
        assert flat(gradients).abs().max() == 0
        known = batch["has_mask"]
        drawn = focal(network(batch["image"])["segmentation"][known], batch["mask"][known])
        assert objective.item() == pytest.approx(drawn.item(), rel=1e-12)
    # The printed objective sees the labels themselves.
    printed = replace(settings, objective="printed")
    assert flat(meta_gradient(*toys, printed, BETA, FOCAL)[1]).abs().max() > 1e-3


def test_the_step_itself(toys):
    network, updater, batch = toys
    labels = updater(batch["image"], batch["grade"], batch["plausible"]).detach()
    known, logits = batch["has_mask"], network(batch["image"])
    drawn, graded = stage_two_loss(logits, batch, labels, BETA, FOCAL)
    assert drawn.item() == pytest.approx(
        focal(logits["segmentation"][known], batch["mask"][known]).item(), rel=1e-12
    )
    assert graded.item() == pytest.approx(0.8 * focal(logits["grading"], labels).item(), rel=1e-12)
    (drawn + graded).backward()
    ahead = look_ahead(network, batch, labels, 0.5, BETA, FOCAL)
    assert set(ahead) == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        step = 0 if parameter.grad is None else 0.5 * parameter.grad
        assert torch.allclose(ahead[name], parameter - step, rtol=1e-12)
        # What draws takes the step, and does not enter the direction in which the slope is asked.
        assert ahead[name].requires_grad != name.startswith(DRAWING), name
        assert ahead[name].grad_fn is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_real_networks_agree_with_algorithm_1(objective):
    torch.manual_seed(0)
    network = PLDMLT("resnet18", None, decoder_channels=SMALL).double()
    updater = LabelUpdateNetwork("resnet18", None, "plausible").double()
    marked = (random(3, 32, 32) > 0.9).double()
    batch = {
        "image": random(3, 3, 32, 32, dtype=torch.float64),
        "mask": torch.stack([1 - marked, marked], dim=1),
        "has_mask": torch.ones(3, dtype=torch.bool),
        "grade": torch.tensor([2, 3, 0]),
        "plausible": torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).bool(),
    }
    settings = LabelUpdate(objective=objective, step_size=0.1, hierarchy="plausible")
    # In training mode both times; the running averages, which change, are not asked.
    value = algorithm_1(network, updater, batch, settings)
    literal = torch.autograd.grad(value, list(updater.parameters()))
    objective, gradients = meta_gradient(network, updater, batch, settings, BETA, FOCAL)
    assert objective.item() == pytest.approx(value.item(), rel=1e-6)
    assert distance(flat(gradients), flat(literal)) < 1e-5  # labels are in float32


# ------------------------------------------------------------------------------------------------ collapse
class Labels(nn.Module):
    """The freest label-update network: a row of its own for each photograph."""

    def __init__(self, grades: list[int]):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(grades), 5))
        self.prior = torch.where(F.one_hot(torch.tensor(grades), 5).bool(), 0.8, 0.05).log()

    def forward(self, image, grade, plausible):
        return mask_softmax(self.logits + self.prior, plausible)


def after_updates(objective: str, grades: list[int]) -> torch.Tensor:
    """Labels after a hundred updates, in which a network takes ten steps that leans towards grade 3."""
    torch.manual_seed(0)
    network, updater = Toy(), Labels(grades)
    with torch.no_grad():
        network.grading_head.bias[3] += 1.0
    marked = (random(len(grades), 6, 6) > 0.7).float()
    batch = {
        "image": random(len(grades), 3, 6, 6, seed=1),
        "mask": torch.stack([1 - marked, marked], dim=1),
        "has_mask": torch.ones(len(grades), dtype=torch.bool),
        "grade": torch.tensor(grades),
        "plausible": ALL.expand(len(grades), 5),
    }
    settings = LabelUpdate(objective=objective, step_size=0.05)
    optimizer = torch.optim.Adam(updater.parameters(), lr=0.1)
    steps = torch.optim.SGD(network.parameters(), lr=0.05)
    for number in range(100):
        if number % 10 == 0:
            labels = updater(batch["image"], batch["grade"], batch["plausible"]).detach()
            steps.zero_grad()
            sum(stage_two_loss(network(batch["image"]), batch, labels, BETA, FOCAL)).backward()
            steps.step()
        _, gradients = meta_gradient(network, updater, batch, settings, BETA, FOCAL)
        for parameter, gradient in zip(updater.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return updater(batch["image"], batch["grade"], batch["plausible"])


def test_with_the_objective_as_printed_the_labels_collapse():
    for grades in ([0, 1, 2, 3, 4] * 2, [4, 4, 2, 2, 2, 1, 1, 0, 0, 3]):
        begun = torch.where(F.one_hot(torch.tensor(grades), 5).bool(), 0.8, 0.05)
        printed, primary = (after_updates(objective, grades) for objective in ("printed", "primary"))
        # As printed all photographs end in the grade that the network leans to, whatever theirs was.
        assert printed.argmax(dim=1).tolist() == [3] * 10
        assert -negative_entropy(printed) < 0.5 * -negative_entropy(begun)
        # With the primary task's loss and the entropy term they keep apart.
        assert -negative_entropy(primary) > 0.95 * log(5)
        assert len(set(primary.argmax(dim=1).tolist())) == 5


# ------------------------------------------------------------------------------------------------- stage 1
@pytest.mark.parametrize(
    ("lesions", "grades"),
    [
        ("", [0]),
        ("MA", [1]),
        ("HE", [2]),
        ("EX", [2]),
        ("SE", [2]),
        ("MA HE", [2]),
        ("EX SE", [2]),
        ("MA HE EX", [2, 3, 4]),
        ("HE EX SE", [2, 3, 4]),
        ("MA HE EX SE", [2, 3, 4]),
    ],
)
def test_the_medical_rules(lesions, grades):
    assert [grade for grade in GRADES if MEDICAL_RULES[grade].allows(lesions.split())] == grades


def pseudo_table(*photographs: tuple[str, list[float], list[float], list[float]]) -> PseudoGrades:
    """Of each photograph its lesions, probabilities, and agreements with lesions and disc."""
    lines = [
        {"row": 10 + 2 * number, "name": f"IDRiD_{number:02d}", "lesions": lesions, "classifier": 0}
        | {f"p{grade}": value for grade, value in enumerate(probabilities)}
        | {f"lesion_auc{grade}": value for grade, value in enumerate(lesion)}
        | {f"disc_auc{grade}": value for grade, value in enumerate(disc)}
        for number, (lesions, probabilities, lesion, disc) in enumerate(photographs)
    ]
    return PseudoGrades(pd.DataFrame(lines), {"data_fingerprint": "made up", "makers": ["one", "two"]})


NONE = [float("nan")] * 5
FOUND = pseudo_table(
    # Grade 2's heat map misses the lesions, grade 3's sits on the disc; 0.9 is not yet there.
    ("MA HE EX", [0.1, 0.1, 0.5, 0.2, 0.1], [0.9, 0.9, 0.4, 0.6, 0.7], [0.1, 0.1, 0.1, 0.95, 0.9]),
    # The one grade that the lesions allow has a bad heat map: then the heat maps are not asked.
    ("MA", [0.9, 0.1, 0, 0, 0], [0.9, 0.49, 0.9, 0.9, 0.9], NONE),
    # Nothing is drawn, nothing can be hit.
    ("", [0.1, 0.2, 0.3, 0.2, 0.2], NONE, [0.1] * 5),
    # All equally probable, all heat maps at chance, and no disc.
    ("HE EX SE", [0.2] * 5, [0.5] * 5, NONE),
)


def test_plausible_and_adjusted_grades_by_hand():
    assert FOUND.initial.tolist() == [2, 0, 2, 0]
    assert FOUND.plausible.astype(int).tolist() == [
        [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip
    assert FOUND.adjusted.tolist() == [4, 1, 0, 2]  # of equally probable ones the lowest

    by_heat = replace(FOUND, rules=None)
    assert by_heat.plausible.astype(int).tolist() == [
        [1, 1, 0, 0, 1], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1],
    ]  # fmt: skip
    assert by_heat.adjusted.tolist() == [0, 0, 2, 0]

    by_lesions = replace(FOUND, heat_maps=None)
    assert by_lesions.plausible.astype(int).tolist() == [
        [0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip
    assert by_lesions.adjusted.tolist() == [2, 1, 0, 2]

    untouched = replace(FOUND, rules=None, heat_maps=None)
    assert untouched.plausible.all()
    assert untouched.adjusted.tolist() == FOUND.initial.tolist() == untouched.initial.tolist()


def test_the_thresholds_of_the_heat_maps():
    for limits, left in (
        (HeatMapRules(min_lesion_auc=0.4), [2, 4]),
        (HeatMapRules(max_disc_auc=0.95), [3, 4]),
        (HeatMapRules(max_disc_auc=0.85), [2, 3, 4]),  # none of the three passes: not asked
        (HeatMapRules(0, 1), [2, 3, 4]),
    ):
        assert np.flatnonzero(replace(FOUND, heat_maps=limits).plausible[0]).tolist() == left


def test_pseudo_grades_by_row():
    grades, plausible = FOUND.by_row(18)
    assert grades.tolist() == [-1] * 10 + [4, -1, 1, -1, 0, -1, 2, -1]
    assert plausible[10].tolist() == [False] * 4 + [True]
    assert plausible[[*range(10), 11, 13, 15, 17]].all()


def test_rules_that_leave_no_grade_are_not_asked():
    rules = dict.fromkeys(GRADES, Rule(most=0))
    one = replace(pseudo_table(("MA", [0.1, 0.2, 0.4, 0.2, 0.1], [0.9] * 5, [0.1] * 5)), rules=rules)
    assert one.plausible.all() and one.adjusted.tolist() == [2]


def test_pseudo_grades_there_and_back(tmp_path):
    path = FOUND.write(tmp_path)
    back = PseudoGrades.open(path)
    pd.testing.assert_frame_equal(back.table, FOUND.table)
    assert (back.about, back.digest) == (FOUND.about, FOUND.digest)
    assert np.array_equal(back.plausible, FOUND.plausible)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    no_disc = replace(FOUND, table=FOUND.table.iloc[[1, 3]].reset_index(drop=True))
    assert PseudoGrades.open(no_disc.write(tmp_path)).digest == no_disc.digest


def test_the_digest_tells_apart_what_a_run_would_see():
    heat, disc = [0.9] * 5, [0.1] * 5
    one = pseudo_table(("HE EX SE", [0, 0, 0.2, 0.2, 0.6], heat, disc))
    assert replace(one, heat_maps=None).digest == one.digest  # rules out nothing
    others = (
        replace(one, about=one.about | {"makers": ["one", "three"]}),
        replace(one, table=one.table.assign(row=11)),
        replace(one, table=one.table.assign(p2=0.7)),  # another grade, the same ones plausible
        replace(one, rules=None),  # the same grade, more of them plausible
    )
    assert len({made.digest for made in (one, *others)}) == 5


def test_a_half_written_file_is_never_read(tmp_path, monkeypatch):
    path = FOUND.write(tmp_path)
    whole = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        replace(FOUND, table=FOUND.table.iloc[:1]).write(tmp_path)
    assert path.read_bytes() == whole


def without(*keys: str) -> bytes:
    table = FOUND.table.astype(object).where(FOUND.table.notna(), None).to_dict(orient="list")
    whole = {**FOUND.about, "table": table}
    for key in keys:
        (whole if key in whole else table).pop(key)
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"\xff\xfe", without()[:-200], b'{"table": {"p0": [1], "p1": [1, 2]}}',
        *[without(key) for key in ("makers", "data_fingerprint", "table", "row", "lesions", "p3")],
        *[without(key) for key in ("lesion_auc0", "disc_auc4")],
        without().replace(b'"row": [10', b'"row": ["ten"'),
        without().replace(b'"p0": [0.1', b'"p0": ["much"'),
    ],
)  # fmt: skip
def test_damaged_pseudo_grades_are_said(tmp_path, content):
    path = tmp_path / FILE
    path.write_bytes(without())
    assert PseudoGrades.open(path).digest == FOUND.digest
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{FILE} holds no pseudo grades, or is damaged.*delete it"):
        PseudoGrades.open(path)


def test_without_a_known_grade_nothing_is_measured():
    assert measure(FOUND, np.full(int(FOUND.rows.max()) + 1, UNKNOWN_GRADE)).empty


def test_missing_pseudo_grades_are_said(tmp_path):
    with pytest.raises(DataError, match=rf"no pseudo grades .*{FILE}.*mtl train pldmlt"):
        PseudoGrades.open(tmp_path / FILE)


def test_agreement_by_hand():
    heat = np.array([[0.9, 0.8, 0.1], [0.5, 0.5, 0.0]])
    mask = np.array([[1, 0, 0], [1, 0, 0]], bool)
    inside = np.ones((2, 3), bool)
    # Of 2 x 4 pairs 0.9 wins four; 0.5 wins over 0.1 and 0.0, is level with 0.5, and loses against 0.8.
    assert agreement(heat, mask, inside) == pytest.approx((4 + 2 + 0.5) / 8)
    assert agreement(-heat, mask, inside) == pytest.approx(1.5 / 8)
    assert agreement(np.zeros((2, 3)), mask, inside) == 0.5
    inside[0, 1] = False  # without 0.8: (3 + 2 + 0.5) / 6
    assert agreement(heat, mask, inside) == pytest.approx(5.5 / 6)
    only_marked = mask.copy()
    for nothing_to_tell in ((mask, only_marked), (mask, ~mask), (0 * mask == 1, inside)):
        assert np.isnan(agreement(heat, *nothing_to_tell))


def scaled(heat: np.ndarray) -> np.ndarray:
    """Smallest to 0, largest to 1."""
    heat = heat - heat.min()
    return heat / heat.max() if heat.max() > 0 else heat


def test_grad_cam_by_autograd():
    """Equation 1: ReLU of the channels' sum, each weighed with its mean derivative; then scaled, made large
    (bilinear), and scaled again, as pytorch-grad-cam does.
    """
    torch.manual_seed(0)
    network = SharedEncoder("resnet18", None, ("grading",)).eval()
    image = random(2, 3, 128, 128)
    maps = grad_cam(network, image)
    assert (maps.shape, maps.dtype) == ((2, 5, 128, 128), np.float32)
    *earlier, last = network.features(image)
    last = last.detach().requires_grad_()
    scores = network.heads([*earlier, last], ("grading",))["grading"]
    for grade in GRADES:
        (slope,) = torch.autograd.grad(scores[:, grade].sum(), last, retain_graph=True)
        weighed = (slope.mean(dim=(2, 3), keepdim=True) * last).sum(dim=1).relu().detach().numpy()
        for photograph in range(2):
            expected = scaled(cv2.resize(scaled(weighed[photograph]), (128, 128)))
            assert np.allclose(maps[photograph, grade], expected, atol=1e-4)
    assert np.array_equal(grad_cam(network, image, [3, 1]), maps[:, [3, 1]])
    assert all(parameter.grad is None for parameter in network.parameters())


@torch.no_grad()
def test_grad_cam_of_a_grade_that_nothing_speaks_for():
    network = SharedEncoder("resnet18", None, ("grading",)).eval()
    network.grading_head[DENSE].weight[2] = -1.0  # features are never below 0
    with torch.enable_grad():
        maps = grad_cam(network, random(1, 3, 64, 64))
    assert maps[0, 2].max() == 0 and maps.max() == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------------------------------- stage 1, the run
@pytest.fixture(scope="module")
def stage_one_run(synthetic_copy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage-one")
    configs = [experiment(name, "smoke", epochs=1) for name in CLASSIFIERS]
    return configs, folder, stage_one(configs, synthetic_copy, folder, progress=False)


@pytest.fixture(scope="module")
def pseudo(stage_one_run) -> PseudoGrades:
    return stage_one_run[-1]


def checkpoints(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.ckpt")}


def test_stage_one_grades_all_photographs_of_part_a(stage_one_run, synthetic_copy):
    _, folder, found = stage_one_run
    table = synthetic_copy.table
    assert found.rows.tolist() == np.flatnonzero(table.part == "A").tolist()
    assert found.table["name"].tolist() == table["name"].iloc[found.rows].tolist()
    for row, lesions in zip(found.rows, found.table.lesions, strict=True):
        drawn = synthetic_copy.mask(row).any(axis=(1, 2))
        assert lesions.split() == [name for name in DISEASE_LESIONS if drawn[LESIONS.index(name)]]
    assert PseudoGrades.open(folder / FILE).digest == found.digest
    made_by = [file_digest(folder / f"classifier-{number}" / "last.ckpt") for number in (1, 2)]
    assert found.about == {
        "data_fingerprint": synthetic_copy.fingerprint,
        "makers": made_by,
        "seed": 0,
        "profile": "smoke",
    }
    found.require(seed=0, profile="smoke")
    with pytest.raises(MTLError, match="of seed 0, and this run has seed 1"):
        found.require(seed=1, profile="smoke")


def test_the_more_confident_classifier_names_the_grade(stage_one_run, synthetic_copy):
    configs, folder, found = stage_one_run
    answers = []
    for number, config in enumerate(configs, start=1):
        network, _ = load_model(folder / f"classifier-{number}" / "last.ckpt", device="cpu")
        data = FundusDataset(synthetic_copy, found.rows, resize_recipe(config.grading_size))
        with torch.no_grad():
            images = torch.stack([sample["image"] for sample in data])
            answers.append(network(images)["grading"].softmax(dim=1))
    answers = torch.stack(answers)
    sure = answers.amax(dim=2).argmax(dim=0)
    assert found.table.classifier.tolist() == sure.tolist()
    expected = answers[sure, torch.arange(len(sure))]
    assert np.allclose(found.probabilities, expected, atol=1e-5)


def test_heat_maps_are_compared_with_the_masks(synthetic_copy):
    torch.manual_seed(0)
    timid, sure = (SharedEncoder("resnet18", None, ("grading",)).eval() for _ in range(2))
    with torch.no_grad():
        timid.grading_head[DENSE].weight.zero_()
        sure.grading_head[DENSE].weight.mul_(20)
    row = int(np.flatnonzero(synthetic_copy.table.part == "A")[0])
    found = make_pseudo_grades([timid, sure], [32, 64], synthetic_copy, [row], ["a", "b"], progress=False)
    (line,) = found.table.to_dict(orient="records")
    assert (line["classifier"], line["row"]) == (1, row)
    (sample,) = FundusDataset(synthetic_copy, [row], resize_recipe(64))
    maps = grad_cam(sure, sample["image"][None])[0]
    # From 128 px to 64: a pixel is marked where one of its four is.
    masks = synthetic_copy.mask(row).reshape(5, 64, 2, 64, 2).max(axis=(2, 4)).astype(bool)
    small = cv2.resize(synthetic_copy.image(row), (64, 64), interpolation=cv2.INTER_AREA)
    inside = inside_field_of_view(small) > 0
    for name, mask in (("lesion", masks[[LESIONS.index(x) for x in DISEASE_LESIONS]].any(axis=0)),
                       ("disc", masks[LESIONS.index("OD")])):  # fmt: skip
        assert (mask & inside).any()
        for grade in GRADES:
            hot, cold = maps[grade][mask & inside], maps[grade][~mask & inside]
            expected = mannwhitneyu(hot, cold).statistic / (len(hot) * len(cold))
            assert line[f"{name}_auc{grade}"] == pytest.approx(expected, abs=1e-6)


def test_stage_one_is_not_done_twice(stage_one_run, synthetic_copy, monkeypatch):
    configs, folder, found = stage_one_run
    before = checkpoints(folder)
    assert len(before) == 6

    def nobody_asks(*_, **__):
        raise AssertionError("made once more")

    with monkeypatch.context() as patched:
        room = import_module("mtl_utils.training.stage_one")  # the function has the same name
        patched.setattr(room, "make_pseudo_grades", nobody_asks)
        again = stage_one(configs, synthetic_copy, folder, resume=True, progress=False)
    assert again.digest == found.digest
    assert checkpoints(folder) == before
    with pytest.raises(MTLError, match="--resume"):
        stage_one(configs, synthetic_copy, folder, progress=False)
    # grades of other classifiers are made anew
    replace(found, about=found.about | {"makers": ["others", "too"]}).write(folder)
    anew = stage_one(configs, synthetic_copy, folder, resume=True, progress=False)
    assert anew.digest == PseudoGrades.open(folder / FILE).digest == found.digest


@pytest.mark.parametrize("wrong", [{"protocol": "clean"}, {"tasks": ("grading", "segmentation")}])
def test_a_classifier_that_would_see_part_a_is_refused(synthetic_copy, tmp_path, wrong):
    configs = [experiment(CLASSIFIERS[0], "smoke"), experiment(CLASSIFIERS[1], "smoke", **wrong)]
    with pytest.raises(MTLError, match=r"pldmlt-classifier-2.*clean-folds"):
        stage_one(configs, synthetic_copy, tmp_path, progress=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_never_see_part_a(name, synthetic_copy):
    config, table = experiment(name, "smoke"), synthetic_copy.table
    in_part_a = set(table.photo[table.part == "A"])
    for seed in range(3):
        config = replace(config, seed=seed)
        data = FundusData(config, synthetic_copy, config.parts(table))
        loaders = [data._train_loader("grading", epoch) for epoch in range(3)] + data.val_dataloader()
        for loader in loaders:
            seen = table.iloc[loader.dataset.rows]
            assert len(seen) and set(seen.part) == {"B"}
            assert not set(seen.photo) & in_part_a


# ---------------------------------------------------------------------------------------- stage 2, the run
@pytest.fixture(scope="module")
def undisturbed(synthetic_copy, pseudo, tmp_path_factory) -> FitResult:
    """Three smoke epochs, with a label update of two steps before the second and the third."""
    config = experiment("pldmlt", "smoke", epochs=3, steps_per_epoch=2)
    return fit(config, synthetic_copy, tmp_path_factory.mktemp("pldmlt"), progress=False, pseudo=pseudo)


def test_labels_are_written_down_with_each_update(undisturbed, synthetic_copy, pseudo):
    labels = load_labels(undisturbed.checkpoint())
    rows = undisturbed.config.parts(synthetic_copy.table).rows("train", "segmentation")
    assert labels.groupby("epoch").row.apply(list).to_dict() == dict.fromkeys(range(3), rows.tolist())
    columns = [f"p{grade}" for grade in GRADES]
    assert np.allclose(labels[columns].sum(axis=1), 1, atol=1e-5)
    begun, *updated = (part[columns].to_numpy() for _, part in labels.groupby("epoch"))
    grades = pseudo.by_row(len(synthetic_copy))[0][rows]
    assert np.allclose(begun, np.where(np.eye(5)[grades], 0.8, 0.05), atol=1e-6)
    assert np.abs(updated[0] - begun).max() > 1e-5 and np.abs(updated[1] - updated[0]).max() > 1e-5
    state = torch.load(undisturbed.checkpoint(), weights_only=True)
    objectives = [update["objective"] for update in state["labels"]]
    assert objectives[0] is None and all(np.isfinite(objectives[1:]))


def test_the_best_checkpoint_has_the_labels_of_its_own_epoch(undisturbed):
    for which in ("best-loss", "best-accuracy", "last"):
        state = torch.load(undisturbed.checkpoint(which), weights_only=True)
        assert [update["epoch"] for update in state["labels"]] == list(range(state["epoch"] + 1))


class Killed(Exception):
    """In place of a real signal; the one in test_training.py is real."""


def test_a_run_killed_twice_resumes_to_the_same_labels(
    undisturbed, synthetic_copy, pseudo, tmp_path, monkeypatch
):
    """In the second epoch, whose labels are new and not yet in a checkpoint; then in the update after it."""
    step, move = MultiTaskModule.training_step, label_update.meta_gradient
    moved = []

    def until_killed(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 1):
            raise Killed
        return step(self, batch, batch_idx)

    def moves_until_killed(*arguments):
        moved.append(None)
        if len(moved) == 4:  # the last step of the second update
            raise Killed
        return move(*arguments)

    def go_on(resume: bool) -> FitResult:
        torch.manual_seed(1234)  # nothing may rest on what the global generators say
        np.random.seed(1234)
        config = undisturbed.config
        return fit(config, synthetic_copy, tmp_path, resume=resume, progress=False, pseudo=pseudo)

    for name, owner, function in (
        ("training_step", MultiTaskModule, until_killed),
        ("meta_gradient", label_update, moves_until_killed),
    ):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(owner, name, function)
            go_on(resume=owner is label_update)
    assert len(moved) == 4
    resumed = go_on(resume=True)
    one, other = undisturbed.history, resumed.history
    assert len(one) == 3 and one.drop(columns="seconds").equals(other.drop(columns="seconds"))
    labels = [load_labels(run.checkpoint()) for run in (undisturbed, resumed)]
    pd.testing.assert_frame_equal(*labels, check_exact=True)
    one, other = (torch.load(run.checkpoint(), weights_only=True) for run in (undisturbed, resumed))
    assert same(one["state_dict"], other["state_dict"])
    assert {name.split(".")[0] for name in one["state_dict"]} == {"network", "updater"}


def test_no_layer_is_left_out_at_random_where_labels_are_updated(undisturbed, pseudo):
    """As smp's EfficientNets do in training: the passes of an update would be of several networks."""
    config = replace(undisturbed.config, encoder_name="efficientnet-b0", encoder_weights=None)
    network = build_network(config).train()
    images = torch.rand(2, 3, 64, 64)
    one, other = (network(images)["grading"] for _ in range(2))
    assert not torch.equal(one, other)
    label_update.LabelUpdateModule(config, network, "", pseudo)
    one, other = (network(images)["grading"] for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_another_seed_gives_other_labels(undisturbed, synthetic_copy, pseudo, tmp_path):
    config = replace(undisturbed.config, seed=1, epochs=1)
    other = fit(config, synthetic_copy, tmp_path, progress=False, pseudo=pseudo)
    assert other.history["train/loss"][0] != undisturbed.history["train/loss"][0]
    assert set(load_labels(other.checkpoint()).row) != set(load_labels(undisturbed.checkpoint()).row)


def test_a_run_goes_on_with_its_own_pseudo_grades_only(undisturbed, synthetic_copy, pseudo):
    before = checkpoints(undisturbed.folder)
    others = (
        replace(pseudo, about=pseudo.about | {"makers": ["others", "too"]}),
        replace(pseudo, rules=None, heat_maps=None),
    )
    for other in others:
        with pytest.raises(MTLError, match="other pseudo grades"):
            fit(
                undisturbed.config,
                synthetic_copy,
                undisturbed.folder,
                resume=True,
                progress=False,
                pseudo=other,
            )
    again = fit(
        undisturbed.config, synthetic_copy, undisturbed.folder, resume=True, progress=False, pseudo=pseudo
    )
    assert again.pseudo is pseudo
    assert again.history.drop(columns="seconds").equals(undisturbed.history.drop(columns="seconds"))
    assert checkpoints(undisturbed.folder) == before


def test_pseudo_grades_that_do_not_fit(synthetic_copy, pseudo, tmp_path):
    foreign = replace(pseudo, about=pseudo.about | {"data_fingerprint": "of other photographs"})
    for name, given, said in (
        ("pldmlt", None, "pldmlt learns from pseudo grades: give those"),
        ("pldmlt", foreign, "are of other data"),
        ("pldmlt-masks", pseudo, "pldmlt-masks does not learn from pseudo grades"),
    ):
        with pytest.raises(MTLError, match=said):
            fit(experiment(name, "smoke"), synthetic_copy, tmp_path, progress=False, pseudo=given)
    assert not [*tmp_path.iterdir()]


def test_which_photographs_stage_two_sees(undisturbed, synthetic_copy, pseudo):
    config, known = undisturbed.config, known_grades(synthetic_copy.table)
    parts = config.parts(synthetic_copy.table)
    train, val, test = (parts.rows(role, "segmentation") for role in ("train", "val", "test"))
    # Grade 1 for all, which no photograph of part A truly has: so it is seen who gave a grade.
    pseudo = replace(pseudo, table=pseudo.table.assign(p1=2.0), rules=None, heat_maps=None)
    assert 1 not in known[pseudo.rows]
    data = FundusData(config, synthetic_copy, parts, pseudo=pseudo)
    learned = data._train_loader("segmentation", 0).dataset
    assert set(learned.rows) == set(train)
    assert all(sample["grade"] == 1 and sample["has_mask"] for sample in learned)
    judged, drawn = data.val_dataloader()
    assert judged.dataset.rows.tolist() == drawn.dataset.rows.tolist() == val.tolist()
    assert {sample["grade"].item() for sample in judged.dataset} == {1}
    # What is judged with are true grades, of those photographs that have one.
    judged, drawn = data.test_dataloader()
    assert drawn.dataset.rows.tolist() == test.tolist()
    assert judged.dataset.rows.tolist() == [row for row in test if known[row] >= 0]
    assert [sample["grade"].item() for sample in judged.dataset] == known[judged.dataset.rows].tolist()
    # each once for the label update, in the table's order or shuffled
    in_order, shuffled = (data.label_loader(seed).dataset.rows.tolist() for seed in (None, 3))
    assert in_order == train.tolist() == sorted(shuffled)
    assert any(data.label_loader(seed).dataset.rows.tolist() != in_order for seed in range(5))


def test_stage_two_learns_its_soft_labels(undisturbed, synthetic_copy, pseudo):
    """The grading loss of one batch, with labels that start at 0.8 and 0.05 whatever the photograph."""
    config = undisturbed.config
    network, _ = load_model(undisturbed.checkpoint(), device="cpu")
    module = label_update.LabelUpdateModule(config, network, synthetic_copy.fingerprint, pseudo).eval()
    data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table), pseudo=pseudo)
    batch = next(iter(data.label_loader(None)))
    with torch.no_grad():
        losses = module.losses({"segmentation": batch})
        logits = network(batch["image"])
    soft = torch.where(F.one_hot(batch["grade"], 5).bool(), 0.8, 0.05)
    expected = categorical_focal_loss(logits["grading"], soft, *config.focal)
    assert losses["grading"].item() == pytest.approx(expected.item(), rel=1e-5)
    drawn = categorical_focal_loss(logits["segmentation"], batch["mask"], *config.focal)
    assert losses["segmentation"].item() == pytest.approx(drawn.item(), rel=1e-5)


def test_the_optimizer_of_stage_two_leaves_the_label_update_network_alone(undisturbed, pseudo):
    network, config = load_model(undisturbed.checkpoint(), device="cpu")
    module = label_update.LabelUpdateModule(config, network, "", pseudo)
    optimizer = module.configure_optimizers()["optimizer"]

    def learned(one: torch.optim.Optimizer) -> set[int]:
        return {id(parameter) for group in one.param_groups for parameter in group["params"]}

    assert learned(optimizer) == {id(parameter) for parameter in network.parameters()}
    assert learned(module.label_optimizer) == {id(parameter) for parameter in module.updater.parameters()}


def test_a_checkpoint_gives_back_network_configuration_and_encoder(undisturbed):
    network, config = load_model(undisturbed.checkpoint(), device="cpu")
    assert config == undisturbed.config == load_config(undisturbed.checkpoint())
    assert isinstance(config.label_update, LabelUpdate)
    assert isinstance(network, PLDMLT) and not network.training
    saved = torch.load(undisturbed.checkpoint(), weights_only=True)["state_dict"]
    own, other = "network.encoder.model.conv_stem.weight", "updater.network.encoder.model.conv_stem.weight"
    assert not torch.equal(saved[own], saved[other])
    encoder = create_encoder(BUNDLED_ENCODER, undisturbed.checkpoint()).network
    assert same(encoder.state_dict(), network.encoder.state_dict())
    assert torch.equal(encoder.state_dict()["model.conv_stem.weight"], saved[own])


def test_a_run_without_an_update_has_no_labels(smoke_checkpoint):
    with pytest.raises(MTLError, match="without a label update"):
        load_labels(smoke_checkpoint)


def test_a_run_with_pseudo_grades_that_stay(synthetic_copy, pseudo, tmp_path):
    config = experiment("fused-mtunet", "smoke", epochs=1, steps_per_epoch=1)
    run = fit(config, synthetic_copy, tmp_path, progress=False, pseudo=pseudo)
    assert isinstance(load_model(run.checkpoint())[0], MTUnet)
    with pytest.raises(MTLError, match="without a label update"):
        load_labels(run.checkpoint())
    with pytest.raises(MTLError, match="other pseudo grades"):
        other = replace(pseudo, heat_maps=None, rules=None)
        fit(config, synthetic_copy, tmp_path, resume=True, progress=False, pseudo=other)


def test_cross_validation_judges_each_photograph_once(synthetic_copy, pseudo, tmp_path):
    config = experiment("pldmlt", "smoke", epochs=1, steps_per_epoch=1)
    result = cross_validate(config, synthetic_copy, tmp_path, progress=False, pseudo=pseudo)
    assert [run.config for run in result.folds] == [replace(config, fold=fold) for fold in range(FOLDS)]
    assert result.config == config
    assert result.history.fold.tolist() == list(range(FOLDS))
    assert result.seconds == pytest.approx(result.history.seconds.sum())
    scores, known = result.scores(synthetic_copy), known_grades(synthetic_copy.table)
    part_a = np.flatnonzero(synthetic_copy.table.part == "A")
    assert sorted(scores.rows["segmentation"]) == part_a.tolist()
    assert sorted(scores.rows["grading"]) == [row for row in part_a if known[row] >= 0]
    judged = torch.cat(scores.grades).tolist()
    assert judged == known[scores.rows["grading"]].tolist()
    # Each by the network of the fold that left it out.
    by_fold = [run.config.parts(synthetic_copy.table).rows("test", "segmentation") for run in result.folds]
    assert scores.rows["segmentation"] == np.concatenate(by_fold).tolist()
    for rows, run in zip(by_fold, result.folds, strict=True):
        assert not set(rows) & set(load_labels(run.checkpoint()).row)
    again = cross_validate(config, synthetic_copy, tmp_path, resume=True, progress=False, pseudo=pseudo)
    assert again.history.equals(result.history)
    with pytest.raises(MTLError, match="clean-folds"):
        cross_validate(replace(config, protocol="clean"), synthetic_copy, tmp_path, pseudo=pseudo)


# ------------------------------------------------------------------------------------------ configurations
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"objective": "secondary"}, "no objective 'secondary'. There are: primary, printed"),
        ({"order": "third"}, "no order 'third'"),
        ({"hierarchy": "siblings"}, "no hierarchy 'siblings'"),
        ({"start": 1.0}, "start is 1.0"),
        ({"start": 0.1}, "start is 0.1"),
    ],
)
def test_label_updates_that_cannot_be(wrong, said):
    with pytest.raises(MTLError, match=said):
        LabelUpdate(**wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("pldmlt", {"pseudo_grades": False}, "a label update needs"),
        ("pldmlt", {"focal": None}, "a label update needs"),
        ("pldmlt", {"tasks": ("grading",)}, "a label update needs"),
        ("pldmlt", {"system": "mtunet-a"}, "a label update needs"),
        ("pldmlt", {"crop_size": 32}, "whole photographs"),
        ("pldmlt", {"first_tasks": ("segmentation",)}, "no first_tasks"),
        ("pldmlt", {"label_space": "lesions"}, "exclusive classes; lesions has none"),
        ("pldmlt", {"label_space": "red-yellow-sigmoid"}, "exclusive classes"),
    ],
)
def test_configurations_that_cannot_be(name, wrong, said):
    with pytest.raises(MTLError, match=said):
        experiment(name, "smoke", **wrong)


PLDMLTS = {name: entry.config for name, entry in EXPERIMENTS.items() if entry.paper == "PLDMLT"}


def test_the_papers_settings():
    for name, config in PLDMLTS.items():
        assert config.protocol == "clean-folds", name
        if name in CLASSIFIERS:
            continue
        assert (config.focal, config.learning_rate, config.segmentation_size) == (FOCAL, 5e-5, 1024), name
        assert config.label_space == ("separate" if name == "pldmlt-separate" else "fused")
        learns_grades = "grading" in config.tasks
        assert config.pseudo_grades == learns_grades
    betas = {name: config.lambda_cls for name, config in PLDMLTS.items() if config.label_update}
    assert betas == {
        "pldmlt": 0.8, "pldmlt-update": 1.0, "pldmlt-printed": 0.8, "pldmlt-first-order": 0.8,
        "pldmlt-separate": 0.8, "pldmlt-ddr": 0.95,
    }  # fmt: skip


def test_the_rows_of_table_3():
    rows = [
        (config.tasks, config.label_update is not None, config.lambda_cls)
        for config in map(PLDMLTS.get, ("pldmlt-masks", "pldmlt-two-tasks", "pldmlt-update", "pldmlt"))
    ]
    both = ("grading", "segmentation")
    assert [row[:2] for row in rows] == [
        (("segmentation",), False), (both, False), (both, True), (both, True),
    ]  # fmt: skip
    assert [row[2] for row in rows[1:]] == [1.0, 1.0, 0.8]
    # The two readings of Algorithm 1 differ from the run itself in one setting each.
    own = asdict(PLDMLTS["pldmlt"].label_update)
    for name, setting in (("pldmlt-printed", "objective"), ("pldmlt-first-order", "order")):
        other = asdict(PLDMLTS[name].label_update)
        assert {key for key in own if own[key] != other[key]} == {setting}


def test_profiles_change_the_sizes_of_an_update_and_not_its_meaning():
    for profile in ("smoke", "cpu", "gpu"):
        for lesson in (False, True):
            printed = experiment("pldmlt-printed", profile, lesson).label_update
            assert (printed.objective, printed.order) == ("printed", "second")
            assert printed.every < 100
            assert experiment("pldmlt-two-tasks", profile, lesson).label_update is None
    for profile in ("smoke", "cpu"):
        for lesson in (False, True):
            encoders = [experiment(name, profile, lesson).encoder_name for name in CLASSIFIERS]
            assert encoders == [BUNDLED_ENCODER, SECOND_BUNDLED_ENCODER]
    assert [experiment(name, "paper").encoder_name for name in CLASSIFIERS] == [
        "tu-resnext50_32x4d", "resnext101_32x8d",
    ]  # fmt: skip


def test_labels_are_updated_every_so_many_epochs(monkeypatch):
    config = experiment("pldmlt", "smoke")
    config = replace(config, label_update=replace(config.label_update, every=3))
    module = label_update.LabelUpdateModule(config, nn.Linear(1, 1), "", FOUND)
    updated = []
    monkeypatch.setattr(module, "_update_labels", lambda: updated.append(module.current_epoch))
    monkeypatch.setattr(module, "_write_down_labels", lambda objective: module.labels.append({}))
    for epoch in range(8):
        module._trainer = SimpleNamespace(current_epoch=epoch)
        module.on_train_epoch_start()
    assert updated == [3, 6]


def test_a_network_in_training_is_asked_in_evaluation_mode():
    torch.manual_seed(0)
    network = SharedEncoder("resnet18", None, ("grading",), dropout=0.0).eval()
    image = torch.rand(2, 3, 64, 64)
    expected = grad_cam(network, image)
    network.train()
    assert np.array_equal(grad_cam(network, image), expected)
