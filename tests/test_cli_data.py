"""The command `mtl data ...` as a reader meets it, in a process of its own."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtl_utils.cli import main
from mtl_utils.data.idrid import read_idrid
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.data.synthetic import MARKER, write_synthetic
from mtl_utils.errors import DataError, MTLError

MTL = [sys.executable, "-m", "mtl_utils"]


def mtl(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([*MTL, *map(str, words)], capture_output=True, text=True, timeout=120)


def test_help_is_quick_and_loads_no_heavy_library():
    code = (
        "import sys\nfrom mtl_utils.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "data" in run.stdout
    assert not {"torch", "pandas", "cv2", "sklearn", "lightning"} & set(run.stdout.split("\n")[-2].split())


def test_a_set_is_drawn(tmp_path, monkeypatch, capsys):
    few = functools.partial(write_synthetic, n_a=(2, 1), n_b=(10, 5))
    monkeypatch.setattr("mtl_utils.data.synthetic.write_synthetic", few)
    monkeypatch.setattr(
        "sys.argv", ["mtl", "data", "synthetic", str(tmp_path / "set"), "--size", "64", "--seed", "3"]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and str(tmp_path / "set") in capsys.readouterr().out
    assert len(read_idrid(tmp_path / "set")) == 18
    assert json.loads((tmp_path / "set" / MARKER).read_text())["parameters"]["seed"] == 3


def test_a_set_is_checked_and_prepared(synthetic_root, tmp_path):
    checked = mtl("data", "check", synthetic_root)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("SYNTHETIC") and "No problem found" in checked.stdout

    out = tmp_path / "copy"
    prepared = mtl("data", "prepare", synthetic_root, "--size", 48, "--out", out)
    assert (prepared.returncode, prepared.stderr) == (0, "") and str(out) in prepared.stdout
    assert len(WorkingCopy.open(out)) == 39


def test_problems_give_status_2_and_no_traceback(synthetic_root, tmp_path):
    root = shutil.copytree(synthetic_root, tmp_path / "root")
    masks = sorted(root.rglob("*_EX.tif"))
    for path in masks[:3]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checked = mtl("data", "check", root)
    assert checked.returncode == 2
    assert all(str(path) in checked.stdout for path in masks[:3])
    assert "3 problem(s)" in checked.stderr
    prepared = mtl("data", "prepare", root, "--size", 48, "--out", tmp_path / "copy")
    assert prepared.returncode == 2 and str(masks[0]) in prepared.stderr
    assert (
        "Traceback" not in checked.stderr + prepared.stderr
        and "Warning" not in checked.stderr + prepared.stderr
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "prepare", "x"], "--size"),
        (["data", "prepare", "x", "--size", "many"], "valid integer"),
        (["data", "clean", "x"], "clean"),
        (["data", "synthetic", "x", "--size", "1"], "a size from 64 to 4096"),
        (["data", "synthetic", "x", "--size", "200000"], "a size from 64 to 4096"),
        (["data", "prepare", "nowhere", "--size", "64"], "nowhere is not a folder"),
    ],
)
def test_wrong_words_give_status_2_and_a_clear_message(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mtl", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MTLError("no such run"), 2, "mtl: no such run\n"),
        (
            DataError("broken", ["a.jpg: half", "b.jpg: gone"]),
            2,
            "mtl: broken\n  - a.jpg: half\n  - b.jpg: gone\n",
        ),
        (OSError(28, "No space left on device", "x/y.jpg"), 2, "mtl: x/y.jpg: No space left on device\n"),
        (
            KeyboardInterrupt(),
            130,
            "mtl: ended by SIGINT. With --resume a run goes on after its last epoch.\n",
        ),
    ],
)
def test_errors_become_one_message(monkeypatch, capsys, error, code, message):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("mtl_utils.data.check.check", fails)
    monkeypatch.setattr("sys.argv", ["mtl", "data", "check", "x"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code, capsys.readouterr().err) == (code, message)


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("mtl_utils.data.check.check", lambda *args, **kwargs: 1 / 0)
    monkeypatch.setattr("sys.argv", ["mtl", "data", "check", "x"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_name_of_odd_bytes_is_printed_and_no_traceback(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xe9cole")  # Latin-1 on a disk whose names are UTF-8
    run = mtl("data", "check", folder)
    assert run.returncode == 2 and r"\udce9cole" in run.stderr and "Traceback" not in run.stderr


def test_ctrl_c_stops_with_status_130_and_the_next_run_goes_on(synthetic_root, tmp_path):
    out = tmp_path / "copy"
    command = [*MTL, "data", "prepare", str(synthetic_root), "--size", "2048", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while not any(file.stat().st_size for file in tmp_path.glob("copy*.part/photographs.u8")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert not out.exists()
    assert len(list(Path(tmp_path).glob("copy*.part"))) == 1
