"""From a record to the command that makes its run again: the same settings, and the same figures."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from conftest import ROOT
from helpers import mtl

from mtl_utils import cli
from mtl_utils.data import prepare
from mtl_utils.errors import MTLError
from mtl_utils.experiments import experiment
from mtl_utils.records import load_records, results_folder, write_record
from mtl_utils.rerun import changed_settings, command, commit, filled
from mtl_utils.training import Config, flat_settings

MEASURED = ("seconds", "peak_memory_gib", "date", "code", "judged_by")


def record(name: str = "unet", profile: str = "cpu", **changes) -> dict:
    config = asdict(experiment(name, profile)) | changes.pop("config", {})
    basis = {
        "schema": 1, "experiment": name, "profile": profile, "protocol": config["protocol"], "split": "test",
        "seed": 0, "data": "IDRiD", "device": "CPU, 4 threads", "code": "0.1.0 (0123456789ab)",
        "config": config,
    }  # fmt: skip
    return {**basis, **changes}


def parsed(monkeypatch: pytest.MonkeyPatch, line: str) -> Config:
    """The configuration that `mtl train` takes from a command line; nothing is trained."""

    class Enough(Exception):
        pass

    taken = []

    def take(name: str, profile: str | None = None, **overrides) -> Config:
        taken.append(experiment(name, profile, **overrides))
        return taken[-1]

    def stop(*_, **__):
        raise Enough

    words = [word for word in shlex.split(line, comments=True) if not word.startswith(("OMP_", "MTL_DATA="))]
    assert words[0] == "mtl"
    with monkeypatch.context() as patch:
        patch.setattr("mtl_utils.experiments.experiment", take)
        patch.setattr(prepare, "prepare", stop)
        if "--profile gpu" in line:  # refused where there is none
            patch.setattr("mtl_utils.runtime.default_device", lambda: "cuda")
            patch.setattr("mtl_utils.runtime.device_name", lambda device: "a GPU")
        with pytest.raises(Enough):
            typer.main.get_command(cli.app).main(words[1:], standalone_mode=False)
    return taken[-1]  # a lesion network, which the run builds on, is asked for before it


def rounded(config: dict) -> dict:
    """As a record holds it."""
    return json.loads(json.dumps(config), parse_float=lambda number: float(f"{float(number):.4g}"))


@pytest.mark.parametrize("path", sorted(results_folder().glob("*.json")), ids=lambda path: path.stem)
def test_the_command_of_each_recorded_run_takes_its_settings(monkeypatch, path):
    made = json.loads(path.read_text())
    then, today = (
        flat_settings(rounded(each)) for each in (filled(made), asdict(parsed(monkeypatch, command(made))))
    )
    changed = {
        key: (then.get(key), today.get(key)) for key in then | today if then.get(key) != today.get(key)
    }
    # Where the experiment has changed since, the command says in what, and which commit made the run.
    assert {key: tuple(map(rounded, pair)) for key, pair in changed_settings(made).items()} == changed
    assert ("made with other settings" in command(made)) == bool(changed)
    assert not changed or commit(made) in command(made)


ON_IDRID = "OMP_NUM_THREADS=4 mtl train unet --data path/to/IDRiD --profile cpu --seed 0"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ON_IDRID),
        (
            {"seed": 3, "config": {"seed": 3}, "device": "NVIDIA H100"},
            "mtl train unet --data path/to/IDRiD --profile cpu --seed 3",
        ),
        ({"data": "synthetic set"}, "OMP_NUM_THREADS=4 MTL_DATA= mtl train unet --profile cpu --seed 0"),
        (
            {"data": "IDRiD + DiaRetDB1 + graded set", "config": {"protocol": "paper"}},
            "OMP_NUM_THREADS=4 mtl train unet --data path/to/IDRiD --masked path/to/DiaRetDB1 "
            "--graded path/to/graded --profile cpu --seed 0 --protocol paper",
        ),
        (
            {"data": "DDR", "config": {"encoder_name": "resnet18", "encoder_weights": None}},
            "OMP_NUM_THREADS=4 mtl train unet --data path/to/DDR --profile cpu --seed 0 "
            "--encoder resnet18 --weights none",
        ),
        ({"devices": 2, "nodes": 3}, f"{ON_IDRID} --devices 2 --nodes 3"),
        ({"config": {"encoder_weights": "my files/w.pt"}}, f"{ON_IDRID} --weights 'my files/w.pt'"),
        (
            {"config": {"epochs": 99, "batch_size": 2}},
            f"{ON_IDRID}  # made with other settings, by commit 0123456789ab: batch_size 2 (today 4), "
            "epochs 99 (today 6)",
        ),
    ],
)
def test_commands_by_hand(changes, said):
    assert command(record(**changes)) == said


def test_a_gpu_profile_on_a_cpu_needs_leave():
    assert command(record(profile="gpu")).endswith("--profile gpu --seed 0 --on-cpu")
    assert "--on-cpu" not in command(record(profile="gpu", device="NVIDIA H100"))


def test_a_setting_of_a_part_is_named_by_both_and_a_younger_one_had_its_default():
    made = record("deepmt-dr")
    del made["config"]["hierarchy"]["plus_one"], made["config"]["focal"]
    assert changed_settings(made) == {}
    made["config"]["hierarchy"]["scale"] = 8
    assert changed_settings(made) == {"hierarchy.scale": (8, 4)}


def test_an_experiment_that_is_gone_is_named_with_its_commit():
    made = record(experiment="gone")
    assert "no experiment 'gone'" in command(made) and "0123456789ab" in command(made)
    with pytest.raises(MTLError, match="gone"):
        changed_settings(made)


def test_a_record_is_made_again_with_the_code_that_judged_it():
    assert commit(record()) == "0123456789ab"
    assert commit(record(judged_by="0.1.0 (ba9876543210)")) == "ba9876543210"


def test_a_run_made_again_from_mtl_results_alone_gives_the_same_figures(tmp_path, capsys, monkeypatch):
    """A small run is recorded; its command is taken from `mtl results --json` and run in another folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(line: str, folder: Path) -> dict:
        """The record that a command line leaves."""
        folder.mkdir()
        shell = ["bash", "-c", line]
        ended = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        (made,) = load_records(next((folder / "runs").iterdir()))
        return made

    made = run("mtl train shared-lambda-0.1 --profile smoke --seed 1 --protocol paper", tmp_path / "one")
    write_record(made, tmp_path / "recorded")
    results = ("results", "--folder", tmp_path / "recorded")
    (shown,) = json.loads(mtl(capsys, monkeypatch, *results, "--json")[1])
    assert shown["command"].startswith("OMP_NUM_THREADS=1 MTL_DATA= mtl train shared-lambda-0.1 ")
    assert shown["command"] in mtl(capsys, monkeypatch, *results)[1]

    again = run(shown["command"], tmp_path / "two")
    assert made["grading/qwk"] is not None and made["segmentation/dice/mean"] is not None
    assert without_times(made) == without_times(again)


def without_times(made: dict) -> dict:
    """What must be the same to the last digit. Date, code and memory belong to the machine."""
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in made["history"]]
    left = {key: value for key, value in made.items() if key not in MEASURED}
    return {**left, "history": history}
