"""DeepMT-DR trained in small: two stages and what passes between them, a kill, its record, mtl predict."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mtl, save_photograph
from PIL import Image
from torch import nn

from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.records import load_records, make_record, write_record
from mtl_utils.runtime import STATUS
from mtl_utils.training import (
    CrossValidation,
    FitResult,
    MultiTaskModule,
    first_config,
    fit,
    load_config,
    load_model,
)
from mtl_utils.training.checkpoints import config_from, load_state, network_state
from mtl_utils.training.hierarchy import HierarchyModule


def small(**changes):
    """Two steps in each of two epochs of each stage."""
    return experiment("deepmt-dr", "smoke", steps_per_epoch=2, **changes)


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return network_state(load_state(checkpoint))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run(synthetic_copy, tmp_path_factory) -> FitResult:
    """Both stages, undisturbed."""
    return fit(small(), synthetic_copy, tmp_path_factory.mktemp("deepmt"), progress=False)


@pytest.fixture(scope="module")
def record(run, synthetic_copy, tmp_path_factory) -> dict:
    """As it comes back from its file, which has nothing in it that JSON does not know."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    path = write_record(make_record(run, synthetic_copy), tmp_path_factory.mktemp("record"))
    return json.loads(path.read_text(), parse_constant=refuse)


# --- two stages ---------------------------------------------------------------------------------------------


def test_both_stages_are_trained(run):
    config = load_config(run.first)
    assert run.first == run.folder / "first" / "last.ckpt"
    assert config == first_config(run.config) and config.hierarchy.stage == 1
    assert "train/cls_aware_loss" not in load_state(run.first)["history"][0]
    assert {"train/cls_aware_loss", "train/lesions_by_evidence_loss"} <= set(run.history)
    seconds = sum(row["seconds"] for row in load_state(run.first)["history"])
    assert run.seconds == pytest.approx(seconds + run.history.seconds.sum())
    before, after = weights_of(run.first), weights_of(run.checkpoint())
    for subnet in ("isr.", "lesions.", "grading."):
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(subnet))


def test_stage_2_begins_with_stage_1s_weights(run, synthetic_copy, tmp_path, monkeypatch):
    started = []

    def keep(self) -> None:
        started.append({name: value.cpu().clone() for name, value in self.network.state_dict().items()})

    monkeypatch.setattr(HierarchyModule, "on_train_start", keep)
    # Frozen, and with a threshold of its own: the first stage is the same.
    hierarchy = replace(run.config.hierarchy, frozen=("isr", "segmentation"), threshold=0.4, temperature=0.2)
    config = replace(run.config, hierarchy=hierarchy, epochs=1)
    other = fit(config, synthetic_copy, tmp_path, progress=False, first=run.first)
    assert other.first == run.first and not (tmp_path / "first").exists()
    before, after = weights_of(run.first), weights_of(other.checkpoint())
    (begun,) = started
    assert same(begun, before)
    stays = [name for name in before if not name.startswith("grading.")]
    assert all(torch.equal(before[name], after[name]) for name in stays)
    assert not torch.equal(before["grading.head.weight"], after["grading.head.weight"])


def test_a_first_stage_made_alone_gives_the_same_run(run, synthetic_copy, tmp_path):
    alone = fit(first_config(run.config), synthetic_copy, tmp_path / "one", progress=False)
    assert alone.first is None and same(weights_of(alone.checkpoint()), weights_of(run.first))
    again = fit(run.config, synthetic_copy, tmp_path / "two", progress=False, first=alone.checkpoint())
    assert same(weights_of(again.checkpoint()), weights_of(run.checkpoint()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"isr_channels": 16}, r"it differs in: hierarchy\.isr_channels \(8, now 16\)$"),
        (
            {"seg_aware": False, "scale": 2},
            r"in: hierarchy\.scale \(4, .*\), hierarchy\.seg_aware \(True, .*\)$",
        ),
        ({"first_learning_rate": 0.1}, r"in: hierarchy\.first_learning_rate \(.*\), learning_rate \(.*\)$"),
    ],
)
def test_a_first_stage_that_does_not_fit_is_refused(run, synthetic_copy, tmp_path, changes, said):
    config = replace(run.config, hierarchy=replace(run.config.hierarchy, **changes))
    with pytest.raises(MTLError, match=said):
        fit(config, synthetic_copy, tmp_path, progress=False, first=run.first)


def test_a_first_stage_that_was_stopped_is_refused(run, synthetic_copy, tmp_path):
    state = torch.load(run.first, weights_only=True)
    state["history"] = state["history"][:-1]
    torch.save(state, tmp_path / "stopped.ckpt")
    epochs = len(state["history"])
    with pytest.raises(MTLError, match=rf"holds {epochs} of {epochs + 1} epochs"):
        fit(run.config, synthetic_copy, tmp_path / "run", progress=False, first=tmp_path / "stopped.ckpt")


def test_only_a_first_stage_of_the_same_data_comes_first(run, synthetic_copy, tmp_path):
    with pytest.raises(MTLError, match=r"deepmt-dr; it differs in: .*hierarchy\.stage"):
        fit(run.config, synthetic_copy, tmp_path, progress=False, first=run.checkpoint())
    with pytest.raises(MTLError, match=r"deepmt-dr-first has no network that comes before"):
        fit(first_config(run.config), synthetic_copy, tmp_path, progress=False, first=run.first)
    with pytest.raises(MTLError, match="other data"):
        other = replace(synthetic_copy, fingerprint="of other photographs")
        fit(run.config, other, tmp_path, progress=False, first=run.first)
    with pytest.raises(MTLError, match="no checkpoint"):
        fit(run.config, synthetic_copy, tmp_path, progress=False, first=tmp_path / "nothing.ckpt")
    assert not list(tmp_path.iterdir())


class PowerCut(Exception):
    pass


def test_killed_in_either_stage_it_ends_with_the_same_weights(run, synthetic_copy, tmp_path, monkeypatch):
    step = HierarchyModule.training_step
    for stage in (1, 2):

        def until_dark(self, batch, batch_idx, stage=stage):
            if (self.config.hierarchy.stage, self.current_epoch, batch_idx) == (stage, 1, 1):
                raise PowerCut
            return step(self, batch, batch_idx)

        monkeypatch.setattr(HierarchyModule, "training_step", until_dark)
        with pytest.raises(PowerCut):
            fit(run.config, synthetic_copy, tmp_path, resume=True, progress=False)
        torch.manual_seed(99)  # no state of the process survives a kill
        np.random.seed(99)
    assert (tmp_path / "last.ckpt").exists()
    monkeypatch.setattr(HierarchyModule, "training_step", step)
    resumed = fit(run.config, synthetic_copy, tmp_path, resume=True, progress=False)
    assert resumed.history.drop(columns="seconds").equals(run.history.drop(columns="seconds"))
    assert same(weights_of(resumed.checkpoint()), weights_of(run.checkpoint()))
    assert same(weights_of(resumed.first), weights_of(run.first))


def test_a_checkpoint_knows_its_hierarchy(run):
    network, config = load_model(run.checkpoint(), device="cpu")
    assert config == run.config and network.hierarchy == config.hierarchy and not network.training
    settings = replace(config.hierarchy, frozen=("isr", "segmentation"), threshold=0.25)
    state = {"config": asdict(replace(config, hierarchy=settings))}
    state["config"]["hierarchy"]["frozen"] = list(settings.frozen)  # as some file formats give it back
    back = config_from(state)
    assert back.hierarchy == settings and back.hierarchy.frozen == ("isr", "segmentation")
    assert hash(back) == hash(replace(config, hierarchy=settings))


# --- the optimizer ------------------------------------------------------------------------------------------


def stepped(optimizer: torch.optim.Optimizer, layer: nn.Linear, steps: int = 5) -> torch.Tensor:
    for number in range(steps):
        optimizer.zero_grad()
        layer(torch.full((1, 3), float(number))).square().sum().backward()
        optimizer.step()
    return layer.weight.detach()


def test_adamw_without_decay_is_adam():
    config = experiment("grading-only", "smoke")
    layers = [nn.Linear(3, 2), nn.Linear(3, 2)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours = MultiTaskModule(config, layers[0]).configure_optimizers()["optimizer"]
    assert ours.param_groups[0]["weight_decay"] == 0
    theirs = torch.optim.Adam(layers[1].parameters(), config.learning_rate)
    assert torch.equal(stepped(ours, layers[0]), stepped(theirs, layers[1]))


def test_deepmt_drs_decay_stands_beside_the_gradient():
    config, layer = small(), nn.Linear(3, 2)
    assert config.hierarchy.weight_decay == 1e-4
    config = replace(config, hierarchy=replace(config.hierarchy, weight_decay=0.1))
    optimizer = MultiTaskModule(config, layer).configure_optimizers()["optimizer"]
    before = layer.weight.detach().clone()
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = before * (1 - config.learning_rate * config.hierarchy.weight_decay)
    assert torch.allclose(layer.weight, shrunk, rtol=0, atol=1e-6)  # Adam's own decay would move it by 1e-3
    assert not torch.equal(layer.weight, before)


# --- the record ---------------------------------------------------------------------------------------------


def test_a_record_has_the_figures_of_all_three_tasks(record, run, synthetic_copy):
    for name in ("isr/psnr", "isr/ssim", "isr/gain/psnr", "evidence/auc/background"):
        assert record[f"{name}/low"] <= record[name] <= record[f"{name}/high"]
    assert 0 <= record["segmentation/auc/MA"] <= 1 and 0 <= record["grading/weighted_precision"] <= 1
    gain = record["isr/psnr"] - record["isr/bicubic/psnr"]
    assert record["isr/gain/psnr"] == pytest.approx(gain, abs=0.02)  # four digits
    assert list(record["gmsv_costs"]) == ["forward and backward", "gmsv"]
    assert record["gmsv_costs"]["gmsv"]["seconds"] > 0
    if STATUS.exists() and not torch.cuda.is_available():  # reads Linux's own numbers
        assert all(0.001 < step["peak_memory_gib"] < 2 for step in record["gmsv_costs"].values())
    assert [row["epoch"] for row in record["first_history"]] == [0, 1]
    assert record["config"]["hierarchy"]["stage"] == 2 and record["checkpoint"] == "last (epoch 2)"
    parts = run.config.parts(synthetic_copy.table)
    graded, masked = (len(parts.rows("test", task)) for task in ("grading", "segmentation"))
    assert {task: numbers["test"] for task, numbers in record["photographs"].items()} == {
        "grading": graded,
        "segmentation": masked,
        "isr": graded,
    }


def test_a_record_has_a_row_for_each_photograph_and_task(record):
    rows = record["per_photograph"]
    for task, numbers in record["photographs"].items():
        assert sum(row["task"] == task for row in rows) == numbers["test"] > 0
    restored = [row for row in rows if row["task"] == "isr"]
    assert np.mean([row["psnr"] for row in restored]) == pytest.approx(record["isr/psnr"], abs=0.01)
    assert {row["name"] for row in restored} == {row["name"] for row in rows if row["task"] == "grading"}
    seen = [row["background"] for row in record["evidence_per_photograph"]]
    assert len(seen) == record["photographs"]["segmentation"]["test"]
    assert np.mean(seen) == pytest.approx(record["evidence/auc/background"], abs=1e-3)


def test_of_several_folds_a_record_is_made_without_evidence(run, synthetic_copy, tmp_path):
    hierarchy = replace(run.config.hierarchy, first_epochs=1)
    config = replace(
        run.config, protocol="clean-folds", epochs=1, steps_per_epoch=1, hierarchy=hierarchy, profile="smoke"
    )
    folds = [
        fit(replace(config, fold=fold), synthetic_copy, tmp_path / str(fold), progress=False)
        for fold in (0, 1)
    ]
    found = make_record(CrossValidation(config, tuple(folds)), synthetic_copy)
    write_record(found, tmp_path)
    (loaded,) = load_records(tmp_path)
    assert loaded["protocol"] == "clean-folds" and {row["fold"] for row in loaded["history"]} == {0, 1}
    assert {"isr/psnr", "segmentation/auc/mean", "grading/accuracy"} <= set(loaded)
    assert not {key for key in loaded if key.startswith(("evidence", "gmsv", "first"))}
    # Each photograph with masks stands in one fold alone.
    drawn = [row["name"] for row in loaded["per_photograph"] if row["task"] == "segmentation"]
    assert len(drawn) == len(set(drawn)) == loaded["photographs"]["segmentation"]["test"]


# --- the command --------------------------------------------------------------------------------------------


def test_mtl_predict_writes_the_restored_photograph(run, tmp_path, capsys, monkeypatch):
    eye = save_photograph(tmp_path / "eye.png", seed=5, width=120, height=90)
    words = ("predict", eye, "--checkpoint", run.checkpoint(), "--out", tmp_path / "out")
    status, printed, _ = mtl(capsys, monkeypatch, *words)
    assert status == 0 and "restored at 64 px" in printed
    with Image.open(tmp_path / "out" / "eye_restored.png") as picture:
        assert picture.size == (64, 64) and np.asarray(picture).std() > 10
    with Image.open(tmp_path / "out" / "eye_MA.png") as mask:
        assert mask.size == (120, 90)
    about = json.loads((tmp_path / "out" / "eye.json").read_text())
    assert about["files"]["restored"] == "eye_restored.png" and about["grade"] in range(5)
    assert about["label_space"]["name"] == "four-lesions"
