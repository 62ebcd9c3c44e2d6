"""Chapter 00 on a stand-in for Colab: a machine that has torch and its friends, but not this repository.

The stand-in is a new virtual environment. What Colab already has is linked into it from the environment of
the tests, so that nothing big is downloaded; what the library needs beyond that comes from the package index.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from needs import installed_needs

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / "notebooks" / "00_start_here.ipynb"
COLAB_HAS = (
    "albumentations", "ipykernel", "ipywidgets", "matplotlib", "numpy", "opencv-python-headless", "pandas",
    "pillow", "scikit-image", "scikit-learn", "seaborn", "timm", "torch", "torchvision", "tqdm", "typer",
)  # fmt: skip
STATE = """
import importlib.metadata, json, os, numpy, torch
versions = [importlib.metadata.version(name) for name in ("torch", "numpy")]
print("STATE", json.dumps([versions, os.path.realpath(torch.__file__), os.path.realpath(numpy.__file__)]))
"""
LIBRARY = """
import mtl_utils, segmentation_models_pytorch
print("LIBRARY", json.dumps([mtl_utils.__file__, segmentation_models_pytorch.__file__]))
"""


def link(names: set[str], site_packages: Path) -> None:
    """Link the installed files of `names` into another environment, folder by folder."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        here = Path(str(distribution.locate_file("")))
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site_packages / top).exists():
                (site_packages / top).symlink_to(here / top)


def build_wheel(python: Path, folder: Path) -> Path:
    """The wheel of this repository, built from a copy: a build in the tree would pick up old files."""
    source = folder / "source"
    shutil.copytree(ROOT / "mtl_utils", source / "mtl_utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "results", source / "book" / "results")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source], check=True)
    (wheel,) = folder.glob("mtl_utils-*.whl")
    return wheel


def index_answers(python: Path, folder: Path) -> bool:
    download = [python, "-m", "pip", "download", "-q", "--no-deps", "--retries", "0", "-d", folder / "probe"]
    return subprocess.run([*download, "jupyterquiz"], capture_output=True).returncode == 0


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Python of the stand-in, which also is the kernel named `colab`."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    link(installed_needs(COLAB_HAS), site_packages)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": command, "display_name": "Colab", "language": "python"}
    (tmp_path / "jupyter" / "kernels" / "colab").mkdir(parents=True)
    (tmp_path / "jupyter" / "kernels" / "colab" / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return python


def printed(cell: nbformat.NotebookNode, label: str) -> object:
    text = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    return json.loads(text.split(label, 1)[1])


def test_chapter_runs_on_colab_and_leaves_torch_and_numpy_alone(
    colab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not index_answers(colab, tmp_path):
        pytest.skip("the package index is out of reach; the library needs packages that Colab does not have")
    monkeypatch.setenv("MTL_SOURCE", str(build_wheel(colab, tmp_path)))
    notebook = nbformat.read(CHAPTER, as_version=4)
    before, after, library = new_code_cell(STATE), new_code_cell(STATE), new_code_cell(LIBRARY)
    notebook.cells = [before, *notebook.cells, after, library]
    content = tmp_path / "content"
    content.mkdir()
    resources = {"metadata": {"path": str(content)}}
    NotebookClient(notebook, kernel_name="colab", timeout=300, resources=resources).execute()
    assert printed(before, "STATE") == printed(after, "STATE")
    inside = str(tmp_path / "venv")
    assert all(path.startswith(inside) for path in printed(library, "LIBRARY"))
