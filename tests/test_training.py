"""Training: same seed, same numbers; a killed run goes on as if nothing had happened; damaged files are
never taken for whole.
"""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mtl_utils import __version__, cli
from mtl_utils.data.splits import split
from mtl_utils.errors import MTLError
from mtl_utils.experiments import EXPERIMENTS, experiment
from mtl_utils.records import load_records, make_record, write_record
from mtl_utils.runtime import device_name
from mtl_utils.systems.shared_encoder import SharedEncoder
from mtl_utils.training import (
    BEST_LOSS,
    Config,
    FundusData,
    MultiTaskModule,
    Scores,
    evaluate,
    fit,
    fitting,
    folds,
    load_config,
    load_model,
    precision,
)
from mtl_utils.training.checkpoints import WholeCheckpoints, load_state, run_folder, write_state
from mtl_utils.training.fitting import BestCheckpoint


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def same_history(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    return a.drop(columns="seconds").equals(b.drop(columns="seconds"))


LONGER = {"epochs": 3, "steps_per_epoch": 4}  # in which the best epoch by loss is not the best by accuracy


@pytest.fixture(scope="module")
def undisturbed(synthetic_copy, tmp_path_factory):
    """Three smoke epochs of the multi-task network, in one go."""
    config = experiment("shared-lambda-0.1", "smoke", **LONGER)
    return fit(config, synthetic_copy, tmp_path_factory.mktemp("undisturbed"), progress=False)


def test_two_smoke_runs_give_identical_metrics(undisturbed, synthetic_copy, tmp_path):
    again = fit(undisturbed.config, synthetic_copy, tmp_path, progress=False)
    assert same_history(undisturbed.history, again.history)
    first, second = (evaluate(run.checkpoint(), synthetic_copy).compute(20) for run in (undisturbed, again))
    assert first == second


def test_another_seed_gives_other_numbers(undisturbed, synthetic_copy, tmp_path):
    other = fit(replace(undisturbed.config, seed=1, epochs=1), synthetic_copy, tmp_path, progress=False)
    assert other.history["train/loss"][0] != undisturbed.history["train/loss"][0]


def ended_in_the_second_epoch(sent: str, call: str) -> subprocess.CompletedProcess:
    """A process that trains by `call`, and in its second epoch sends itself a real signal, as 'SIGKILL'."""
    code = f"""
        import os, signal, sys
        from mtl_utils.cli import main
        from mtl_utils.data.prepare import WorkingCopy
        from mtl_utils.experiments import experiment
        from mtl_utils.training import MultiTaskModule, fit

        step = MultiTaskModule.training_step
        def until_told(self, batch, batch_idx):
            if self.current_epoch == 1 and batch_idx == 1:
                os.kill(os.getpid(), signal.{sent})
            return step(self, batch, batch_idx)
        MultiTaskModule.training_step = until_told
        {call}
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_killed_run_resumes_to_the_same_weights(undisturbed, synthetic_copy, tmp_path):
    """No global state survives a SIGKILL, and the run's folder is moved."""
    begun, moved = tmp_path / "begun", tmp_path / "elsewhere" / "moved"
    copy = f"WorkingCopy.open({str(synthetic_copy.folder)!r})"
    config = f'experiment("shared-lambda-0.1", "smoke", **{LONGER})'
    killed = ended_in_the_second_epoch("SIGKILL", f"fit({config}, {copy}, {str(begun)!r}, progress=False)")
    assert killed.returncode == -signal.SIGKILL
    moved.parent.mkdir()
    begun.rename(moved)
    resumed = fit(undisturbed.config, synthetic_copy, moved, resume=True, progress=False)
    assert same_history(undisturbed.history, resumed.history)
    for which in ("last", "best-loss", "best-accuracy"):
        one, other = weights_of(undisturbed.checkpoint(which)), weights_of(resumed.checkpoint(which))
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_told_to_end_does_not_end_as_if_all_had_gone_well(sent, synthetic_root, tmp_path):
    """By SIGTERM, as from kill, scancel or docker stop; by SIGINT, as from Ctrl-C."""
    words = ["train", "grading-only", "--profile", "smoke", "--data", str(synthetic_root)]
    words += ["--out", str(tmp_path / "run")]
    told = ended_in_the_second_epoch(sent, f"sys.argv = ['mtl', *{words}]; main()")
    assert told.returncode == 128 + signal.Signals[sent]
    assert f"mtl: ended by {sent}" in told.stderr and "--resume" in told.stderr
    assert "Traceback" not in told.stderr and not list((tmp_path / "run").glob("*.json"))


def test_the_best_checkpoint_stays_the_best_where_the_folder_was_moved(tmp_path):
    there, here = (BestCheckpoint(tmp_path / name, monitor="val/loss") for name in ("there", "here"))
    path = str(tmp_path / "there" / "best.ckpt")
    there.best_k_models, there.best_model_path, there.kth_best_model_path = {path: 0.1}, path, path
    there.best_model_score = there.kth_value = torch.tensor(0.1)
    here.load_state_dict(there.state_dict())
    assert here.best_k_models == {str(tmp_path / "here" / "best.ckpt"): 0.1}
    assert here.best_model_path == here.kth_best_model_path == str(tmp_path / "here" / "best.ckpt")
    assert here.best_model_score == 0.1


def test_a_checkpoint_tells_the_code_and_the_device_that_made_it(
    undisturbed, synthetic_copy, tmp_path, monkeypatch
):
    monkeypatch.setenv("MTL_COMMIT", "aaaa")
    monkeypatch.setattr("mtl_utils.training.module.device_name", lambda device: "CPU, 7 threads")
    fit(replace(undisturbed.config, epochs=1), synthetic_copy, tmp_path, progress=False)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    last["hyper_parameters"]["config"]["epochs"] = 2
    torch.save(last, tmp_path / "last.ckpt")
    monkeypatch.setenv("MTL_COMMIT", "bbbb")
    resumed = fit(
        replace(undisturbed.config, epochs=2), synthetic_copy, tmp_path, resume=True, progress=False
    )
    monkeypatch.setenv("MTL_COMMIT", "cccc")  # what is judged later was made by the two
    made = make_record(resumed, synthetic_copy)
    assert made["code"] == f"{__version__} (aaaa), {__version__} (bbbb)"
    assert made["device"] == "CPU, 7 threads" != device_name("cpu")


def test_a_checkpoint_is_judged_once_though_it_has_two_names(undisturbed, synthetic_copy, monkeypatch):
    judged = []

    def noting(checkpoint, copy, role):
        judged.append((checkpoint.stem, role))
        return evaluate(checkpoint, copy, role)

    monkeypatch.setattr(fitting, "evaluate", noting)
    one, other = (weights_of(undisturbed.checkpoint(which)) for which in ("best-accuracy", "best-loss"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    record = make_record(undisturbed, synthetic_copy)
    assert judged == [("best-accuracy", "test"), ("best-loss", "test"), ("best-accuracy", "val")]
    scores = evaluate(undisturbed.checkpoint("best-loss"), synthetic_copy).compute()
    assert record["other_checkpoint"]["segmentation/loss"] == pytest.approx(scores["segmentation/loss"])

    judged.clear()
    chosen = replace(undisturbed, config=replace(undisturbed.config, chosen="best-loss"))
    record = make_record(chosen, synthetic_copy)
    assert judged == [("best-loss", "test"), ("best-loss", "val")]
    assert record["other_checkpoint"]["segmentation/loss"] == record["segmentation/loss"]


def test_photographs_to_validate_and_judge_are_needed(synthetic_copy, tmp_path):
    """As where all graded photographs came with --graded, which are for training."""
    table = synthetic_copy.table.copy()
    table.loc[table.part == "B", "split"] = "train"
    graded = replace(synthetic_copy, table=table)
    for protocol, use in (("clean", "be judged on"), ("paper", "validate on")):
        config = experiment("grading-only", "smoke", protocol=protocol)
        with pytest.raises(MTLError, match=f"no photographs with a grade to {use} .*'{protocol}'"):
            fit(config, graded, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_run_is_not_overwritten(undisturbed, synthetic_copy):
    before = undisturbed.checkpoint("last").read_bytes()
    with pytest.raises(MTLError, match="--resume"):
        fit(undisturbed.config, synthetic_copy, undisturbed.folder, progress=False)
    with pytest.raises(MTLError, match=r"differs in: seed \(0, now 9\)\. Resume it with the arguments"):
        fit(
            replace(undisturbed.config, seed=9),
            synthetic_copy,
            undisturbed.folder,
            resume=True,
            progress=False,
        )
    assert undisturbed.checkpoint("last").read_bytes() == before


def test_the_two_best_checkpoints_are_the_best_of_the_history(undisturbed):
    history = undisturbed.history
    for which, column, best in (
        (BEST_LOSS, "val/loss", "argmin"),
        ("best-accuracy", "val/accuracy", "argmax"),
    ):
        epoch = torch.load(undisturbed.checkpoint(which), weights_only=True)["epoch"]
        assert epoch == getattr(history[column].to_numpy(), best)()


def test_a_finished_run_is_not_trained_further(undisturbed, synthetic_copy):
    before = undisturbed.checkpoint("last").read_bytes()
    again = fit(undisturbed.config, synthetic_copy, undisturbed.folder, resume=True, progress=False)
    assert same_history(undisturbed.history, again.history)
    assert undisturbed.checkpoint("last").read_bytes() == before


def test_a_loss_that_is_no_number_stops_the_run(synthetic_copy, tmp_path):
    # Weights that grow without bound: infinite after a few steps, and infinity minus infinity is no number.
    config = experiment("grading-only", "smoke", learning_rate=1e30)
    with pytest.raises(MTLError, match="not a number in epoch 1"):
        fit(config, synthetic_copy, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a matter of processors")
def test_the_deeplabs_take_float32_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert (precision("shared-encoder"), precision("unet")) == ("bf16-mixed", "bf16-mixed")
    assert precision("deeplabv3") == precision("deeplabv3plus") == "32-true"


def test_a_run_goes_on_with_its_own_data_only(undisturbed, synthetic_copy):
    other = replace(synthetic_copy, fingerprint="of other photographs")
    with pytest.raises(MTLError, match="other data"):
        fit(undisturbed.config, other, undisturbed.folder, resume=True, progress=False)


def test_early_stopping_waits_for_its_patience(synthetic_copy, tmp_path):
    # A learning rate of zero never lowers the loss after the first epoch (batch norm statistics still move it
    # up or down a little, so patience counts from the best epoch).
    config = experiment("grading-only", "smoke", epochs=12, patience=2, learning_rate=0.0, steps_per_epoch=1)
    history = fit(config, synthetic_copy, tmp_path, progress=False).history
    best = int(history["val/loss"].argmin())
    assert len(history) == min(12, best + 1 + 2)
    assert same_history(history, fit(config, synthetic_copy, tmp_path, resume=True, progress=False).history)


def test_the_best_checkpoint_of_a_run_without_its_last_is_not_overwritten(
    undisturbed, synthetic_copy, tmp_path
):
    """`last.ckpt` is the largest: it is the one that people delete."""
    best = tmp_path / "best-loss.ckpt"
    best.write_bytes(undisturbed.checkpoint("best-loss").read_bytes())
    before = best.read_bytes()
    with pytest.raises(MTLError, match=r"holds best-loss\.ckpt of an earlier run: nothing was overwritten"):
        fit(undisturbed.config, synthetic_copy, tmp_path, progress=False)
    assert best.read_bytes() == before and list(tmp_path.iterdir()) == [best]


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"steps_per_epoch": 0}, {"rounds": 0}, {"patience": -1}, {"tasks": ()}]
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(MTLError, match=r"is below 1|one task at least"):
        Config("impossible", **changes)


def test_a_torch_that_tells_nothing_of_the_processor_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fitting.precision("shared-encoder") == "32-true"


def test_an_unsafe_file_is_named_without_torchs_advice_to_load_it(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Path("/")}, path)
    with pytest.raises(
        MTLError, match=r"evil\.ckpt is no checkpoint of this course, or it is damaged"
    ) as told:
        load_state(path)
    assert "weights_only" not in str(told.value) and "holds more than numbers" in str(told.value)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_state({"epoch": 1}, path)

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(MTLError, match=r"last\.ckpt cannot be written \(No space left.*--resume"):
            write_state({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


def test_lightning_writes_checkpoints_beside_their_place(undisturbed, synthetic_copy, tmp_path):
    """And not in the system's folder for temporary files, which may be another disk."""
    trainer = fitting._trainer(load_config(undisturbed.checkpoint()))
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)
    trainer.strategy.checkpoint_io.save_checkpoint({"epoch": 1}, tmp_path / "run" / "last.ckpt")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/run", "a::b"):
        with pytest.raises(MTLError, match=folder):
            run_folder(tmp_path / folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("~/run") == tmp_path / "run"


def test_a_run_and_a_cross_validation_do_not_share_a_folder(undisturbed, synthetic_copy, tmp_path):
    config = replace(undisturbed.config, protocol="clean-folds")
    with pytest.raises(MTLError, match="a run without folds"):
        folds.cross_validate(config, synthetic_copy, undisturbed.folder, resume=True)
    (tmp_path / "fold-0").mkdir()
    with pytest.raises(MTLError, match="holds a cross-validation"):
        fit(undisturbed.config, synthetic_copy, tmp_path, resume=True)


def test_a_finished_run_may_lie_where_nothing_can_be_written(undisturbed, synthetic_copy, monkeypatch):
    def refused(folder):
        raise MTLError(f"{folder} cannot be written")

    monkeypatch.setattr(fitting, "run_folder", refused)
    again = fit(undisturbed.config, synthetic_copy, undisturbed.folder, resume=True, progress=False)
    assert again.history.equals(undisturbed.history)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state["hyper_parameters"].update(config=[1]), "none of this version"),
        (lambda state: state["hyper_parameters"]["config"].pop("name"), "none of this version"),
        (lambda state: state["hyper_parameters"]["config"].update(dropout={}), "none of this version"),
        (lambda state: state["state_dict"].popitem(), "its weights do not fit its settings"),
    ],
)
def test_a_whole_file_that_does_not_fit_is_refused(undisturbed, tmp_path, change, said):
    state = torch.load(undisturbed.checkpoint(), weights_only=True)
    change(state)
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(MTLError, match=said):
        load_model(tmp_path / "other.ckpt")


def test_damaged_checkpoints_are_refused(undisturbed, tmp_path):
    half = tmp_path / "half.ckpt"
    half.write_bytes(undisturbed.checkpoint("last").read_bytes()[:100_000])
    for path, said in ((half, "damaged"), (tmp_path / "none.ckpt", "no checkpoint")):
        with pytest.raises(MTLError, match=said):
            load_model(path)


def test_a_checkpoint_knows_its_configuration(undisturbed):
    network, config = load_model(undisturbed.checkpoint("last"), device="cpu")
    assert config == undisturbed.config == load_config(undisturbed.checkpoint("last"))
    assert not network.training


@pytest.mark.parametrize("name", ["grading-only", "segmentation-only"])
def test_single_task_runs(name, synthetic_copy, tmp_path):
    result = fit(experiment(name, "smoke", epochs=1), synthetic_copy, tmp_path / "run", progress=False)
    task = name.removesuffix("-only")
    record = make_record(result, synthetic_copy)
    write_record(record, tmp_path)
    (loaded,) = load_records(tmp_path)
    assert {key.split("/")[0] for key in loaded if "/" in key} == {task}
    assert (loaded["experiment"], loaded["protocol"], loaded["data"]) == (name, "clean", "synthetic set")
    assert loaded["photographs"][task]["test"] == {"grading": 10, "segmentation": 3}[task]
    if task == "grading":
        assert np.sum(loaded["confusion"]) == 10
        right = np.trace(loaded["confusion"]) / 10
        assert loaded["grading/accuracy"] == pytest.approx(right)


def test_scores_agree_with_a_plain_loop(undisturbed, synthetic_copy):
    """`evaluate` against the most naive way to the same accuracy and pooled Dice, in float32 as `Scores`
    sees it.
    """
    network, config = load_model(undisturbed.checkpoint(), device="cpu")
    data = FundusData(config, synthetic_copy, split(synthetic_copy.table))
    scores = Scores(config.tasks)
    right, total, both, sizes = 0, 0, 0.0, 0.0
    with torch.no_grad():
        for batch in data.evaluation_loader("grading", "test"):
            logits = network(batch["image"])["grading"]
            scores.update("grading", logits, batch)
            right, total = right + (logits.argmax(1) == batch["grade"]).sum().item(), total + len(logits)
        for batch in data.evaluation_loader("segmentation", "test"):
            logits = network(batch["image"])["segmentation"]
            scores.update("segmentation", logits, batch)
            predicted, true = logits[:, 4] > 0, batch["mask"][:, 4] > 0
            both, sizes = (
                both + (predicted & true).sum().item(),
                sizes + predicted.sum().item() + true.sum().item(),
            )
    metrics = scores.compute()
    assert metrics["grading/accuracy"] == pytest.approx(right / total)
    assert metrics["segmentation/dice/OD"] == pytest.approx(2 * both / sizes)


def test_the_named_runs_of_the_report():
    lambdas = {
        name: entry.config.lambda_cls for name, entry in EXPERIMENTS.items() if name.startswith("shared")
    }
    assert lambdas == {
        "shared-lambda-0.1": 0.1,
        "shared-lambda-1": 1.0,
        "shared-lambda-10": 10.0,
        "shared-lambda-0.1-noaug": 0.1,
        "shared-lambda-1-noaug": 1.0,
        "shared-lambda-0.1-twopass": 0.1,
    }
    paper = experiment("shared-lambda-0.1", "paper")
    assert (paper.encoder_name, paper.epochs, paper.patience, paper.protocol) == (
        "efficientnet-b0",
        50,
        10,
        "paper",
    )
    for wrong in (
        {"name": "nothing"},
        {"name": "grading-only", "lambda": 1},
        {"name": "grading-only", "grading_size": 100},
    ):
        with pytest.raises(MTLError):
            experiment(profile="smoke", **wrong)


def test_one_class_three_networks():
    both = SharedEncoder("resnet18", None)
    grading, segmentation = (
        SharedEncoder("resnet18", None, ("grading",)),
        SharedEncoder("resnet18", None, ("segmentation",)),
    )

    def parameters(network: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    # The shared encoder is counted once: both = grading + segmentation - encoder.
    assert parameters(both) == parameters(grading) + parameters(segmentation) - parameters(both.encoder)
    assert set(grading(torch.rand(1, 3, 64, 64))) == {"grading"}
    with pytest.raises(MTLError):
        SharedEncoder("resnet18", None, ())


@pytest.mark.parametrize(
    "encoder_name", ["resnet18", "vgg16_bn", "efficientnet-b0", "tu-tf_efficientnet_lite0"]
)
@pytest.mark.parametrize("size", [64, 160])
def test_any_encoder_any_size(encoder_name, size):
    network = SharedEncoder(encoder_name, None).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 3, size, size))
    assert logits["grading"].shape == (2, 5)
    assert logits["segmentation"].shape == (2, 5, size, size)


def mtl(monkeypatch, *arguments: str) -> int:
    """The command in this process: exit status as the shell would see it."""
    monkeypatch.setattr(sys, "argv", ["mtl", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_mtl_train_leaves_a_record(monkeypatch, tmp_path, capsys):
    assert mtl(monkeypatch, "train", "grading-only", "--profile", "smoke", "--out", str(tmp_path)) == 0
    (record,) = load_records(tmp_path)
    assert record["seconds"] > 0
    assert f"{record['grading/accuracy']:.3f}" in capsys.readouterr().out
    assert mtl(monkeypatch, "results", "--folder", str(tmp_path), "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["grading/accuracy"] == record["grading/accuracy"]
    assert told["config/learning_rate"] == record["config"]["learning_rate"]
    assert mtl(monkeypatch, "train", "grading-only", "--profile", "smoke", "--out", str(tmp_path)) == 2
    assert "--resume" in capsys.readouterr().err


def test_mtl_train_makes_both_stages_and_all_folds_of_pldmlt(monkeypatch, tmp_path):
    monkeypatch.setattr(folds, "FOLDS", 2)  # that all five judge each photograph once, another test says
    run = ("train", "pldmlt-two-tasks", "--profile", "smoke", "--out")
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert mtl(monkeypatch, *run, str(whole)) == 0
    (record,) = load_records(whole)
    assert {row["fold"] for row in record["history"]} == {0, 1}
    grades = record["pseudo_grades"]
    known = [row for row in grades["per_photograph"] if row["known"] >= 0]
    for step, kind in (("before", "initial"), ("both", "adjusted")):
        right = sum(row[kind] == row["known"] for row in known) / len(known)
        assert grades["measured"][step]["accuracy"] == pytest.approx(right, abs=1e-4)
    assert np.trace(grades["confusion_after"]) == sum(row["adjusted"] == row["known"] for row in known)
    # With a stage 1 that is there already the run is the same.
    assert mtl(monkeypatch, *run, str(again), "--first", str(whole / "first" / "pseudo-grades.json")) == 0
    (second,) = load_records(again)
    times = ("seconds", "peak_memory_gib", "history")
    assert {k: v for k, v in record.items() if k not in times} == {
        k: v for k, v in second.items() if k not in times
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "everything"), "shared-lambda-0.1"),
        (("train", "pldmlt", "--profile", "smoke", "--first", "nowhere"), "no pseudo grades nowhere"),
        (("train", "fused-unet", "--profile", "smoke", "--first", "nowhere"), "leave out nowhere"),
        (("train", "grading-only", "--data", "nowhere", "--profile", "smoke"), "nowhere"),
        (("train", "grading-only", "--profile", "turbo"), "turbo"),
        (("train", "grading-only", "--profile", "smoke", "--encoder", "resnet18"), "bundled"),
        pytest.param(
            ("train", "grading-only", "--profile", "gpu"),
            "--profile cpu",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason="asked back only where there is no GPU"
            ),
        ),
    ],
)
def test_mtl_train_refuses_nonsense(monkeypatch, tmp_path, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert mtl(monkeypatch, *arguments) == 2
    assert said in capsys.readouterr().err


def test_the_experiments_are_listed(monkeypatch, capsys):
    assert mtl(monkeypatch, "experiments") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in EXPERIMENTS)


def test_one_pass_gives_each_task_its_own_photographs():
    # Without batch statistics (evaluation mode) the two ways to run the encoder must agree.
    config = experiment("shared-lambda-0.1", "smoke")
    module = MultiTaskModule(config, SharedEncoder("resnet18", None)).eval()
    batch = {task: {"image": torch.rand(2 + place, 3, 64, 64)} for place, task in enumerate(config.tasks)}
    with torch.no_grad():
        together, apart = module._one_pass(batch), module._pass_per_task(batch)
    for place, task in enumerate(config.tasks):
        assert len(together[task]) == 2 + place
        assert torch.allclose(together[task], apart[task], atol=1e-5)
    with pytest.raises(MTLError, match="one_pass"):
        experiment("shared-lambda-0.1", "smoke", crop_size=32)


def test_single_task_and_multi_task_runs_take_equally_many_steps(synthetic_copy):
    parts = split(synthetic_copy.table)
    data = FundusData(experiment("shared-lambda-0.1", "smoke"), synthetic_copy, parts)
    graded = len(parts.rows("train", "grading"))
    assert graded > len(parts.rows("train", "segmentation"))
    assert [len(data._train_loader(task, 0)) for task in data.config.tasks] == [graded // 4] * 2


def test_the_report_grades_from_the_mean_and_expects_few_lesions():
    network = SharedEncoder("resnet18", None).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pooled = network.features(image)[-1].mean(dim=(2, 3))
        dense = next(layer for layer in network.grading_head.modules() if isinstance(layer, nn.Linear))
        assert torch.allclose(network(image)["grading"], dense(pooled), atol=1e-5)
    bias = network.segmentation_head[0].bias
    assert bias.tolist() == pytest.approx([log(0.01 / 0.99)] * 5)
    assert [m.p for m in network.grading_head.modules() if isinstance(m, nn.Dropout)] == [0.2]
