"""Balancing: each method against two gradients worked out by hand, conflict by hand on a tiny network, and
runs that resume as if nothing had happened.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from mtl_utils.balancing import (
    BALANCINGS,
    CAGRAD_C,
    FIXED,
    WHOLE,
    GradNorm,
    create_balance,
    gradient_conflict,
    gradnorm_gradient,
    last_layer_lengths,
    stage_of,
)
from mtl_utils.errors import MTLError
from mtl_utils.experiments import COURSE, EXPERIMENTS, experiment
from mtl_utils.experiments.course import BALANCE, STEP_COST
from mtl_utils.gains import (
    BALANCED,
    FEW,
    GAIN,
    SINGLES,
    balancing_table,
    run_gains,
    seed_interval,
    seeds_needed,
)
from mtl_utils.records import load_records, make_record, write_record
from mtl_utils.systems.pldmlt import LabelUpdate
from mtl_utils.systems.shared_encoder import SharedEncoder
from mtl_utils.training import (
    FundusData,
    balancing_costs,
    fit,
    load_conflicts,
    load_model,
    precision,
)
from mtl_utils.training.balanced import BalancedModule
from mtl_utils.training.config import Config


class Plane(nn.Module):
    """Two weights that are shared, and one of each task's own. The gradients by the shared weights are
    `first` and `second`, those by its own weight 5 and 7.
    """

    def __init__(self, first: tuple[float, float], second: tuple[float, float]):
        super().__init__()
        self.encoder = nn.Linear(2, 1, bias=False)
        self.own = nn.Parameter(torch.ones(2))
        self.gradients = torch.tensor([first, second])

    def losses(self) -> dict[str, torch.Tensor]:
        first, second = self.gradients @ self.encoder.weight[0]
        return {"grading": first + 5 * self.own[0], "segmentation": second + 7 * self.own[1]}


def step(name: str, first: tuple[float, float], second: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The gradient that a method gives the shared weights, and the tasks' weights in it."""
    plane = Plane(first, second)
    weights = create_balance(name).backward(plane.losses(), plane)
    return plane.encoder.weight.grad[0].numpy(), np.array([*weights.values()])


FIRST, SECOND = (1.0, 0.0), (-1.0, 2.0)  # inner product -1: they are in conflict
ALONG = (1.0, 1.0)  # inner product with FIRST: 1


def test_pcgrad_projects_each_gradient_off_the_other() -> None:
    # g1 - (g1.g2 / |g2|^2) g2 = (1, 0) + 1/5 (-1, 2) = (0.8, 0.4); g2 + 1/1 (1, 0) = (0, 2). Their sum:
    gradient, weights = step("pcgrad", FIRST, SECOND)
    assert gradient == pytest.approx([0.8, 2.4], abs=1e-5)
    assert weights == pytest.approx([2.0, 1.2], abs=1e-5)
    gradient, weights = step("pcgrad", FIRST, ALONG)  # no conflict: the plain sum
    assert gradient == pytest.approx([2.0, 1.0], abs=1e-5)
    assert weights == pytest.approx([1.0, 1.0])


def test_upgrad_takes_the_mean_of_both_projections_onto_the_dual_cone() -> None:
    # With two tasks the projection onto the cone of all d with g1.d >= 0 and g2.d >= 0 is PCGrad's, and the
    # mean in place of the sum: half of it.
    gradient, _ = step("upgrad", FIRST, SECOND)
    assert gradient == pytest.approx([0.4, 1.2], abs=2e-3)  # the solver is exact to about 1e-4
    gradient, _ = step("upgrad", FIRST, ALONG)
    assert gradient == pytest.approx([1.0, 0.5], abs=2e-3)


@pytest.mark.parametrize("second", [SECOND, ALONG, (-3.0, 0.5)])
def test_cagrad_maximises_the_worst_gain_within_its_ball(second: tuple[float, float]) -> None:
    """Against the paper's primal problem (Eq. 2): the largest min_i g_i.d with |d - g0| <= c |g0|."""
    gradients = np.array([FIRST, second])
    g0 = gradients.mean(axis=0)
    radius = CAGRAD_C * np.linalg.norm(g0)
    angles = np.linspace(0, 2 * math.pi, 200_001)
    on_the_ball = g0 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    best = on_the_ball[(on_the_ball @ gradients.T).min(axis=1).argmax()]
    gradient, _ = step("cagrad", FIRST, second)
    assert gradient == pytest.approx(best, abs=3e-3)
    # The same by its dual, on the simplex of two weights.
    dual = minimize(
        lambda w: (
            (w[0] * gradients[0] + (1 - w[0]) * gradients[1]) @ g0
            + radius * np.linalg.norm(w[0] * gradients[0] + (1 - w[0]) * gradients[1])
        ),
        x0=[0.5],
        bounds=[(0, 1)],
    ).x[0]
    mixed = dual * gradients[0] + (1 - dual) * gradients[1]
    assert gradient == pytest.approx(g0 + radius * mixed / np.linalg.norm(mixed), abs=3e-3)


@pytest.mark.parametrize("ratio", [300.0, 30_000.0])
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_a_short_gradient_is_not_lost(ratio: float, size: float) -> None:
    """Grade and masks differ as much as this; asked directly, torchjd 0.18 overlooks the short one."""
    long, short = (ratio * size, 0.0), (-0.6 * size, 0.8 * size)
    # PCGrad by hand: long + 0.6 ratio short, along (0.64, 0.48); short + 0.6 (1, 0), along (0, 0.8).
    expected = size * np.array([0.64 * ratio, 0.48 * ratio + 0.8])
    for name, factor in (("pcgrad", 1.0), ("upgrad", 0.5)):
        gradient, weights = step(name, long, short)
        assert gradient == pytest.approx(factor * expected, rel=2e-3), name
        assert weights == pytest.approx(factor * np.array([1 + 0.6 / ratio, 1 + 0.6 * ratio]), rel=2e-3), name
    # CAGrad: the mean is nearly half of the long one, and in all of the ball the short one gains least. So
    # the step leaves the mean along the short one, by half of the mean's length.
    mean = np.add(long, short) / 2
    expected = mean + CAGRAD_C * np.linalg.norm(mean) * np.array([-0.6, 0.8])
    gradient, _ = step("cagrad", long, short)
    assert gradient == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad"])
def test_what_a_task_has_for_itself_gets_its_own_gradient(name: str) -> None:
    plane = Plane(FIRST, SECOND)
    create_balance(name).backward(plane.losses(), plane)
    assert plane.own.grad.tolist() == [5.0, 7.0]
    assert getattr(plane.encoder.weight, "jac", None) is None  # or the next step would add to it


def test_uncertainty_weighs_by_half_the_inverse_variance() -> None:
    plane = Plane(FIRST, SECOND)
    balance = create_balance("uncertainty")
    with torch.no_grad():
        balance.scalarizer.log_var.copy_(torch.tensor([0.0, math.log(4.0)]))
    losses = plane.losses()
    values = [loss.item() for loss in losses.values()]
    weights = balance.backward(losses, plane)
    assert weights == pytest.approx({"grading": 0.5, "segmentation": 0.125})
    assert plane.encoder.weight.grad[0].tolist() == pytest.approx([0.5 - 0.125, 0.25])
    assert plane.own.grad.tolist() == pytest.approx([2.5, 0.875])
    # d/ds_i of 1/2 exp(-s_i) L_i + 1/2 s_i
    expected = [0.5 - weight * value for weight, value in zip((0.5, 0.125), values, strict=True)]
    assert balance.scalarizer.log_var.grad.tolist() == pytest.approx(expected)


def test_uncertainty_ends_where_the_weight_is_half_the_inverse_loss() -> None:
    balance = create_balance("uncertainty")
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weights = balance.backward({"a": torch.tensor(2.0), "b": torch.tensor(0.1)}, None)
        optimizer.step()
    assert weights == pytest.approx({"a": 0.25, "b": 5.0}, rel=1e-3)


def test_gradnorms_gradient_by_hand() -> None:
    # G = (1.5 * 2, 0.5 * 4) = (3, 2), mean 2.5. Remaining (0.9, 0.3), mean 0.6: r = (1.5, 0.5).
    # alpha 1: targets 3.75 and 1.25. G1 is too short, G2 too long: -|g1| and +|g2|.
    given = torch.tensor([1.5, 0.5]), torch.tensor([2.0, 4.0]), torch.tensor([0.9, 0.3])
    assert gradnorm_gradient(*given, alpha=1.0).tolist() == [-2.0, 4.0]
    # alpha 0: every task the mean, 2.5. Now it is the other way round.
    assert gradnorm_gradient(*given, alpha=0.0).tolist() == [2.0, -4.0]


class Layer(nn.Module):
    """A shared convolution with the weight 3, and two tasks that multiply what it gives by 2 and by -0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
        nn.init.constant_(self.encoder[0].weight, 3.0)

    def losses(self) -> dict[str, torch.Tensor]:
        shared = self.encoder(torch.ones(1, 1, 1, 1)).squeeze()
        return {"grading": 2 * shared, "segmentation": 4 - 0.5 * shared}


def test_gradnorm_measures_at_the_last_shared_layer_and_keeps_its_sum() -> None:
    layer, balance = Layer(), GradNorm(2)
    assert last_layer_lengths(layer.losses(), layer.encoder).tolist() == [2.0, 0.5]
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.1)
    assert balance.backward(layer.losses(), layer) == {"grading": 1.0, "segmentation": 1.0}
    assert layer.encoder[0].weight.grad.item() == pytest.approx(1.5)  # 2 - 0.5
    assert balance.first.tolist() == [6.0, 2.5]
    # G = (2, 0.5), both targets 1.25: the long one down by 0.1 * 2, the short one up by 0.1 * 0.5.
    optimizer.step()
    assert balance.weights.tolist() == pytest.approx([0.8, 1.05])
    balance.after_step()
    assert balance.weights.tolist() == pytest.approx([2 * 0.8 / 1.85, 2 * 1.05 / 1.85])


def test_gradnorm_makes_the_gradients_equally_long_where_no_task_lags_behind() -> None:
    layer, balance = Layer(), GradNorm(2)
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        weights = balance.backward(layer.losses(), layer)
        optimizer.step()
        balance.after_step()
    assert weights["grading"] * 2 == pytest.approx(weights["segmentation"] * 0.5, rel=0.1)
    assert sum(weights.values()) == pytest.approx(2.0)


def test_conflict_by_hand() -> None:
    """Two stages of one weight, and one that nothing uses."""
    encoder = nn.ModuleDict({"conv": nn.Linear(1, 1, bias=False), "layer1": nn.ModuleList([nn.Linear(1, 1)])})
    encoder["unused"] = nn.Linear(3, 3)
    first, second = encoder["conv"].weight, encoder["layer1"][0]
    losses = {
        "grading": (3 * first + second.weight + 2 * second.bias).squeeze(),
        "segmentation": (-2 * first + 2 * second.weight - second.bias).squeeze(),
    }
    table = gradient_conflict(losses, encoder).set_index("stage")
    # By hand: stem 3 and -2; layer1 (1, 2) and (2, -1), at right angles; whole (3, 1, 2).(-2, 2, -1) = -6.
    assert list(table.index) == ["stem", "layer1", WHOLE]
    assert list(table.parameters) == [1, 2, 3]
    assert table["norm/grading"].tolist() == pytest.approx([3, math.sqrt(5), math.sqrt(14)])
    assert table["norm/segmentation"].tolist() == pytest.approx([2, math.sqrt(5), 3])
    assert table.cosine.tolist() == pytest.approx([-1, 0, -6 / (3 * math.sqrt(14))])
    sum(losses.values()).backward()  # the graph is still whole
    assert first.grad.item() == 1.0


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("model.conv_stem.weight", "stem"),
        ("model.blocks.6.0.conv_pwl.weight", "block 7"),
        ("_blocks.11._bn1.bias", "block 12"),
        ("layer4.1.conv2.weight", "layer4"),
        ("features.denseblock2.denselayer1.conv1.weight", "denseblock2"),
    ],
)
def test_stages_have_names(name: str, stage: str) -> None:
    assert stage_of(name) == stage


# In training


def smoke(name: str, **settings) -> Config:
    return experiment(f"balance-{name}", "smoke", **settings)


@pytest.fixture(scope="module")
def batch(synthetic_copy) -> dict:
    config = smoke("equal")
    data = FundusData(config, synthetic_copy, config.parts(synthetic_copy.table))
    return {task: next(iter(data._train_loader(task, 0))) for task in config.tasks}


@pytest.mark.parametrize("name", ["pcgrad", "gradnorm"])
@pytest.mark.parametrize("one_pass", [True, False])
def test_a_step_is_the_weighted_sum_of_the_tasks_gradients(name: str, one_pass: bool, batch: dict) -> None:
    """In a whole network, against torch's own gradients, with one encoder pass or two."""
    torch.manual_seed(0)
    config = smoke(name, one_pass=one_pass, encoder_weights=None)
    module = BalancedModule(config, SharedEncoder("resnet18", None, dropout=0.0).eval())
    if name == "gradnorm":
        with torch.no_grad():
            module.balance.weights.copy_(torch.tensor([0.25, 1.75]))
    named = dict(module.network.named_parameters())
    plain = {
        task: torch.autograd.grad(loss, [*named.values()], allow_unused=True, retain_graph=True)
        for task, loss in module.losses(batch).items()
    }
    module._train_losses.append({})
    module.backward(None)
    weights = {task: module._train_losses[-1][f"weight/{task}"].item() for task in config.tasks}
    for place, (weight, parameter) in enumerate(named.items()):
        shared = weight.startswith("encoder.")
        factors = weights if shared or name == "gradnorm" else dict.fromkeys(weights, 1.0)
        parts = [factors[task] * plain[task][place] for task in plain if plain[task][place] is not None]
        if not parts:
            assert parameter.grad is None
            continue
        assert torch.allclose(parameter.grad, sum(parts), rtol=1e-3, atol=1e-6), weight


def weights_of(result, which: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(result.checkpoint(which), weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def runs(synthetic_copy, tmp_path_factory) -> dict:
    """Two smoke epochs of three ways to balance."""
    return {
        name: fit(smoke(name), synthetic_copy, tmp_path_factory.mktemp(name), progress=False)
        for name in ("equal", "gradnorm", "uncertainty")
    }


def test_measuring_conflict_changes_no_weight(runs: dict, synthetic_copy, tmp_path) -> None:
    measured = runs["equal"]
    assert measured.config.conflict_every == 20
    often = fit(replace(measured.config, conflict_every=3), synthetic_copy, tmp_path / "3", progress=False)
    never = fit(replace(measured.config, conflict_every=0), synthetic_copy, tmp_path / "0", progress=False)
    assert same(weights_of(measured), weights_of(never))
    assert same(weights_of(often), weights_of(never))
    assert often.history.drop(columns="seconds").equals(never.history.drop(columns="seconds"))
    conflicts = load_conflicts(often.checkpoint())
    assert sorted(conflicts.step.unique()) == [0, 3]  # of two epochs with three steps each
    assert conflicts.cosine.between(-1.001, 1.001).all()
    assert conflicts[conflicts.step == 0].stage.tolist() == [
        "stem",
        *(f"block {n}" for n in range(1, 8)),
        WHOLE,
    ]
    with pytest.raises(MTLError, match="conflict_every"):
        load_conflicts(never.checkpoint())


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty"])
def test_learned_weights_move_and_are_in_history_and_checkpoint(name: str, runs: dict) -> None:
    run = runs[name]
    history = run.history[["train/weight/grading", "train/weight/segmentation"]]
    start = {"gradnorm": 1.0, "uncertainty": 0.5}[name]
    assert (history.iloc[-1] - start).abs().min() > 0.01
    if name == "gradnorm":
        assert history.sum(axis=1).tolist() == pytest.approx([2.0, 2.0])
    assert not same(weights_of(run), weights_of(runs["equal"]))
    _, config = load_model(run.checkpoint(), device="cpu")
    assert config == run.config
    assert {key for key in weights_of(run) if not key.startswith("network.")} == {
        "gradnorm": {"balance.weights", "balance.first"},
        "uncertainty": {"balance.scalarizer.log_var"},
    }[name]


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty"])
def test_a_stopped_run_resumes_to_the_same_weights(
    name: str, runs: dict, synthetic_copy, tmp_path, monkeypatch
) -> None:
    class Stopped(Exception):
        pass

    step = BalancedModule.training_step

    def until_stopped(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 1:
            raise Stopped
        return step(self, batch, batch_idx)

    config = runs[name].config
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(BalancedModule, "training_step", until_stopped)
        fit(config, synthetic_copy, tmp_path, progress=False)
    resumed = fit(config, synthetic_copy, tmp_path, resume=True, progress=False)
    assert same(weights_of(resumed), weights_of(runs[name]))
    assert resumed.history.drop(columns="seconds").equals(runs[name].history.drop(columns="seconds"))
    assert load_conflicts(resumed.checkpoint()).equals(load_conflicts(runs[name].checkpoint()))


def test_a_record_has_conflicts_and_costs(runs: dict, synthetic_copy, tmp_path) -> None:
    write_record(make_record(runs["gradnorm"], synthetic_copy), tmp_path)
    (record,) = load_records(tmp_path)
    assert record["paper"] == COURSE
    assert record["conflicts"]["stage"][-1] == WHOLE
    assert len(record["conflicts"]["cosine"]) == len(load_conflicts(runs["gradnorm"].checkpoint()))
    assert set(record["balancing_costs"]) == {FIXED, "gradnorm"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"balancing": "magic"}, "no balancing 'magic'"),
        ({"balancing": "pcgrad", "tasks": ("grading",)}, "both tasks"),
        ({"balancing": "pcgrad", "system": "mtunet-a"}, "shared-encoder or mtunet-c"),
        ({"conflict_every": 5, "system": "unet", "tasks": ("segmentation",)}, "both tasks"),
        ({"conflict_every": -1}, "below 0"),
        ({"balancing": "upgrad", "lambda_cls": 0.1}, "set it to 1"),
    ],
)
def test_what_cannot_be_balanced_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(MTLError, match=said):
        Config("x", **{"lambda_cls": 1.0, "one_pass": False, **settings})


def test_label_update_and_hierarchy_are_refused() -> None:
    for name in ("pldmlt", "deepmt-dr"):
        with pytest.raises(MTLError, match="both tasks"):
            experiment(name, "smoke", balancing="pcgrad", lambda_cls=1.0)
    assert isinstance(EXPERIMENTS["pldmlt"].config.label_update, LabelUpdate)


def test_several_processes_are_refused() -> None:
    module = BalancedModule(smoke("gradnorm", encoder_weights=None), SharedEncoder("resnet18", None))
    module._trainer = SimpleNamespace(world_size=2)
    with pytest.raises(MTLError, match="one process"):
        module.on_fit_start()


def test_float16_never_meets_gradients_of_each_task(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert precision("shared-encoder") == "16-mixed"
    assert precision("pldmlt") == precision("findings") == "32-true"
    assert precision("shared-encoder", smoke("pcgrad").own_backward) == "32-true"


# The comparison


def test_every_balancing_has_its_run_and_all_have_equal_time() -> None:
    courses = {name: entry.config for name, entry in EXPERIMENTS.items() if entry.family == BALANCE}
    assert {config.balancing for config in courses.values()} == set(BALANCINGS)
    assert set(courses) == {*BALANCED, *SINGLES.values(), *FEW}
    assert [len(courses[name].tasks) for name in SINGLES.values()] == [1, 1]
    for profile in ("cpu", "gpu"):
        configs = {name: experiment(name, profile) for name in courses}
        for name, config in configs.items():
            kind = config.tasks[0] if len(config.tasks) == 1 else config.balancing
            time = config.epochs * config.steps_per_epoch * STEP_COST[kind]
            plain = configs["balance-equal"].epochs * configs["balance-equal"].steps_per_epoch
            assert time == pytest.approx(plain, rel=0.06), name
        # In all else they are alike.
        free = (
            "name",
            "tasks",
            "balancing",
            "lambda_cls",
            "steps_per_epoch",
            "conflict_every",
            "one_pass",
            "few_masks",
        )
        alike = [
            replace(config, **{key: getattr(configs["balance-equal"], key) for key in free})
            for config in configs.values()
        ]
        assert set(alike) == {configs["balance-equal"]}


def test_few_masks_are_chosen_by_the_seed_and_change_nothing_else(synthetic_copy) -> None:
    table = synthetic_copy.table
    whole, few, other = (
        smoke(name, seed=seed).parts(table)
        for name, seed in (("uncertainty", 0), ("uncertainty-few", 0), ("uncertainty-few", 1))
    )
    alone = smoke("masks-few").parts(table)
    kept = few.rows("train", "segmentation")
    assert len(kept) == 2 and set(kept) < set(whole.rows("train", "segmentation"))
    assert list(kept) == list(alone.rows("train", "segmentation"))  # the single task has the same
    assert len(other.rows("train", "segmentation")) == 2
    for role, task in (("train", "grading"), ("val", "segmentation"), ("test", "segmentation")):
        assert list(few.rows(role, task)) == list(whole.rows(role, task))
    left_out = few.dropped[few.dropped.reason.str.contains("few")]
    assert len(left_out) == len(whole.rows("train", "segmentation")) - 2
    with pytest.raises(MTLError, match="999 asked for"):
        smoke("masks-few", few_masks=999).parts(table)


def test_costs_name_every_kind() -> None:
    table = balancing_costs(smoke("equal"), ["grading", "pcgrad"], repeats=1, memory=False)
    assert list(table.index) == [FIXED, "grading", "pcgrad"]
    assert (table.seconds > 0).all()
    assert table.times["fixed"] == 1
    assert table.times.tolist() == pytest.approx((table.seconds / table.seconds["fixed"]).tolist())


def record(name: str, seed: int, **metrics) -> dict:
    basis = {"profile": "cpu", "protocol": "clean", "data": "IDRiD", "split": "test", "encoder_name": "e"}
    return {"experiment": f"balance-{name}", "seed": seed, "seconds": 300.0, **basis, **metrics}


def grades(qwk: float) -> dict:
    return {"grading/qwk": qwk, "grading/accuracy": 0.5}


def masks(aupr: float) -> dict:
    return {"segmentation/aupr/mean": aupr, "segmentation/dice/mean": 0.25}


RUNS = [
    *(record("grading", seed, **grades(0.5)) for seed in (0, 1, 2)),
    *(record("masks", seed, **masks(0.4)) for seed in (0, 1)),
    record("pcgrad", 0, **grades(0.6), **masks(0.4)),  # +20 and 0 %: 10
    record("pcgrad", 1, **grades(0.5), **masks(0.3)),  # 0 and -25 %: -12.5
    record("pcgrad", 2, **grades(0.9), **masks(0.9)),  # seed 2 has no masks alone
    record("fixed", 0, **grades(0.5), **masks(0.5)),  # 0 and 25 %
]


def test_gains_are_against_the_single_task_runs_of_the_same_seed() -> None:
    gains = run_gains(RUNS)
    assert gains.experiment.tolist() == ["balance-pcgrad"] * 2 + ["balance-fixed"]
    assert gains[GAIN].tolist() == pytest.approx([10, -12.5, 12.5])
    assert gains.grading.tolist() == pytest.approx([20, 0, 0])
    assert run_gains([]).empty


def test_the_table_tells_means_intervals_and_what_is_pending() -> None:
    table = balancing_table(RUNS)
    assert list(table.index) == [*SINGLES.values(), *BALANCED]
    pcgrad = table.loc["balance-pcgrad"]
    assert (pcgrad.status, pcgrad.seeds, pcgrad.minutes) == ("recorded", 3, 5.0)
    assert pcgrad[GAIN] == pytest.approx(-1.25)
    # Two gains, 22.5 apart: standard error 11.25; t(0.975) with one degree of freedom is 12.706.
    assert pcgrad[f"{GAIN} high"] - pcgrad[GAIN] == pytest.approx(11.25 * 12.7062, rel=1e-4)
    assert pcgrad["QWK"] == pytest.approx((0.6 + 0.5 + 0.9) / 3)
    fixed = table.loc["balance-fixed"]
    assert fixed[GAIN] == pytest.approx(12.5)
    assert np.isnan(fixed[f"{GAIN} low"])  # one seed has no interval
    pending = table[table.status == "pending"]
    assert set(pending.index) == {
        "balance-equal",
        *(f"balance-{name}" for name in ("uncertainty", "gradnorm", "cagrad", "upgrad")),
    }
    assert pending.select_dtypes("number").drop(columns="seeds").isna().all(axis=None)
    assert np.isnan(table.loc["balance-grading", GAIN])  # a task alone has no gain


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 199), (0.5, 34), (0.8, 15), (-1.0, 10)])
def test_seeds_needed_are_those_of_tables_of_the_paired_t_test(effect, needed) -> None:
    assert seeds_needed(3 * effect, 3) == needed
    for nothing in ((0, 3), (effect, 0)):
        with pytest.raises(MTLError, match="no number of seeds"):
            seeds_needed(*nothing)


def test_an_interval_over_seeds_needs_two() -> None:
    assert seed_interval([3.0])[0] == 3.0
    assert np.isnan(seed_interval([3.0])[1:]).all()


def test_gradnorm_pulls_along_what_lags_behind_its_first_loss():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    balance, network = GradNorm(2, alpha=1.5), SimpleNamespace(encoder=conv)
    weight = conv.weight.sum()
    balance.backward({"a": 4 * weight, "b": 2 * weight}, network)
    weight = conv.weight.sum()
    balance.backward({"a": 2 * weight, "b": 2 * weight}, network)
    # Both lengths 2; of a's loss half is left, of b's all: r = 2/3 and 4/3, targets 2 r^1.5 = 1.09 and 3.08.
    assert balance.weights.grad.tolist() == [2, -2]


def test_gradnorm_ends_no_task():
    balance = GradNorm(2)
    with torch.no_grad():
        balance.weights.copy_(torch.tensor([-1.0, 3.0]))
    balance.after_step()
    assert balance.weights.tolist() == pytest.approx([0.001 * 2 / 3.001, 3 * 2 / 3.001])


def test_a_gain_is_against_runs_of_the_same_setting():
    own = {"seed": 0, "data": "IDRiD", "split": "test", "protocol": "clean", "profile": "cpu",
           "encoder_name": "e", "grading/qwk": 0.5, "segmentation/aupr/mean": 0.2}  # fmt: skip
    multi = own | {"experiment": "balance-equal", "grading/qwk": 0.6, "segmentation/aupr/mean": 0.3}
    singles = [own | {"experiment": name} for name in ("balance-grading", "balance-masks")]
    (row,) = run_gains([multi, *singles]).to_dict("records")
    assert row["Delta_MTL (%)"] == pytest.approx((20 + 50) / 2)
    for key in ("seed", "data", "split", "protocol", "profile", "encoder_name"):
        assert run_gains([multi, *(each | {key: "another"} for each in singles)]).empty, key
