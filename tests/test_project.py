"""The project's own files agree with one another; the course's address can be put in and taken out again."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import publish_url
import pytest
import yaml
from needs import installed_needs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [*PYPROJECT["project"]["dependencies"], *EXTRAS["book"], *EXTRAS["test"]]
WANTED_BY_CLIENT = {
    "albumentations", "ipywidgets", "jupyter-book", "jupyterlab", "matplotlib", "pytest-notebook", "seaborn",
    "segmentation-models-pytorch", "torch",
}  # fmt: skip
CHOSEN_BY_TORCH = re.compile(r"nvidia-|cuda-|triton")
ADDRESS = "https://github.com/someone/dr-course"


def pip_lines() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    return next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None for pin in pins)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_environment_yml_agrees_with_pyproject() -> None:
    lines = pip_lines()
    options = [line for line in lines if line.startswith("-")]
    assert options == ["--constraint constraints.txt", "--editable ."]
    assert sorted(set(lines) - set(options)) == sorted(REQUIREMENTS)
    assert {canonicalize_name(Requirement(line).name) for line in REQUIREMENTS} >= WANTED_BY_CLIENT


def test_constraints_pin_everything_and_keep_to_the_ranges() -> None:
    pins = constraints()
    for line in REQUIREMENTS:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), (
            line
        )
    unpinned = {name for name in installed_needs(REQUIREMENTS) - set(pins) if not CHOSEN_BY_TORCH.match(name)}
    assert not unpinned


def test_every_folder_of_the_library_is_packaged() -> None:
    folders = {path.parent for path in (ROOT / "mtl_utils").rglob("*") if path.suffix in {".py", ".json"}}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert names | {"mtl_utils.results"} == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PYPROJECT["project"]["version"]


def test_the_command_mtl_has_an_entry_point() -> None:
    module, _, function = PYPROJECT["project"]["scripts"]["mtl"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("target", ["book", "test", "lab", "clean", "publish-url URL="])
def test_make_knows_the_target(target: str) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs make")
    done = subprocess.run([make, "--dry-run", *target.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["ruff", "check"], ["codespell_lib"]], ids=["ruff", "codespell"])
def test_the_source_is_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# The course's address


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the address is written into, in a folder of its own."""
    for name in ("_config.yml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
    )
    publish_url.publish("", tmp_path)
    return tmp_path


def texts(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_the_address_reaches_every_text_and_leaves_no_trace_when_taken_out(copy: Path) -> None:
    before = texts(copy)
    publish_url.publish("https://github.com/another/place", copy)
    publish_url.publish(f"{ADDRESS}.git/", copy)
    published = texts(copy)
    assert published.keys() == before.keys()
    for name, text in published.items():
        assert ADDRESS.removeprefix("https://") in text, name
        assert "another/place" not in text, name
        assert publish_url.BADGE_WAITS not in text, name
    config = yaml.safe_load(published["_config.yml"])
    assert config["repository"]["url"] == ADDRESS
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert yaml.safe_load(published["CITATION.cff"])["repository-code"] == ADDRESS
    publish_url.publish("", copy)
    assert texts(copy) == before


@pytest.mark.parametrize(
    "url", ["github.com/someone/course", "https://gitlab.com/someone/course", "https://github.com/someone"]
)
def test_an_address_that_colab_cannot_open_is_refused(
    url: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = texts(copy)
    with pytest.raises(ValueError, match="OWNER/REPOSITORY"):
        publish_url.publish(url, copy)
    assert texts(copy) == before
    assert publish_url.main([url]) == 2
    assert url in capsys.readouterr().err


def test_the_badge_opens_the_chapter_on_colab() -> None:
    line = publish_url.badge_line(ADDRESS, "02_grading.ipynb")
    assert line.endswith(
        "(https://colab.research.google.com/github/someone/dr-course/blob/main/notebooks/02_grading.ipynb)"
    )


def test_install_cell_does_nothing_where_the_library_is() -> None:
    exec(publish_url.install_cell(""), {})  # it would end with SystemExit if it looked for a source


@pytest.mark.parametrize(
    ("url", "given", "source"),
    [
        ("", "lib.whl", "lib.whl"),
        (ADDRESS, "", f"git+{ADDRESS}"),
        (ADDRESS, "lib.whl", "lib.whl"),
        ("", "", None),
    ],
)
def test_install_cell_chooses_its_source(
    url: str, given: str, source: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setenv("MTL_SOURCE", given)
    if source is None:
        with pytest.raises(SystemExit, match="MTL_SOURCE"):
            exec(publish_url.install_cell(url), {})
        assert commands == []
    else:
        exec(publish_url.install_cell(url), {})
        (command,) = commands
        assert command[-1] == source
        kept = Path(command[command.index("-c") + 1]).read_text(encoding="utf-8").split()
        assert kept == [
            f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "torchvision", "numpy")
        ]
