"""What the whole test run shares: its environment, the small synthetic set, and the way to real photographs.

The environment is set while this file is imported, before torch or the library: then the xdist workers and
the notebooks' kernels, which inherit it, all see the same.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]

# Two workers on two cores: a second thread in each would only wait for the other worker.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

# Only tests that ask for `real_idrid` may see real photographs; the others run on the synthetic set.
if os.environ.get("MTL_DATA"):
    os.environ["MTL_TEST_IDRID"] = os.path.abspath(os.environ["MTL_DATA"])
os.environ.pop("MTL_DATA", None)
os.environ["MTL_PROFILE"] = "smoke"
os.environ.pop("MPLBACKEND", None)  # it would keep figures out of the notebooks
matplotlib.use("agg")

# One cache for this run, shared by its workers (they inherit the name), and never the reader's own.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["MTL_CACHE"] = tempfile.mkdtemp(prefix="mtl-tests-")

SLOWEST_FIRST = ("test_book.py", "test_colab.py", "test_notebooks.py", "test_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no worker is left alone with one at the end."""
    rank = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True)
def close_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every figure of a test of plots can be drawn, and none is left open."""
    yield
    if request.path.name.startswith("test_plots"):
        import matplotlib.pyplot as plt

        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
        plt.close("all")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["MTL_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_folder() -> Iterator[Path]:
    """A folder that all workers of this run see."""
    folder = Path(os.environ["MTL_CACHE"]) / "shared-by-tests"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@pytest.fixture(scope="session")
def synthetic_root(shared_folder: Path) -> Path:
    """A small synthetic IDRiD in the official layout: part A 6 + 3, part B 20 + 10. Copy it to change it."""
    from mtl_utils.data.synthetic import write_synthetic

    root = shared_folder / "synthetic"
    with FileLock(shared_folder / "synthetic.lock"):
        if not root.exists():
            # Drawn beside and then renamed: a worker that dies half-way leaves nothing that looks finished.
            partial = shared_folder / "synthetic-partial"
            write_synthetic(partial, size=192, n_a=(6, 3), n_b=(20, 10), progress=False)
            os.replace(partial, root)
    return root


@pytest.fixture(scope="session")
def synthetic_copy(synthetic_root: Path, shared_folder: Path):
    """The working copy of `synthetic_root` at 128 px."""
    from mtl_utils.data.prepare import prepare

    with FileLock(shared_folder / "copy.lock"):
        return prepare(synthetic_root, size=128, out=shared_folder / "copy-128", progress=False)


@pytest.fixture(scope="session")
def smoke_checkpoint(synthetic_copy, shared_folder: Path) -> Path:
    """A checkpoint of the multi-task network after two tiny epochs: it runs, and knows next to nothing."""
    from mtl_utils.experiments import experiment
    from mtl_utils.training import fit

    folder = shared_folder / "smoke-run"
    with FileLock(shared_folder / "smoke-run.lock"):
        result = fit(
            experiment("shared-lambda-0.1", "smoke"), synthetic_copy, folder, resume=True, progress=False
        )
    return result.checkpoint("last")


@pytest.fixture(scope="session")
def real_idrid() -> Path:
    """The real IDRiD that `MTL_DATA` named when the run was started."""
    path = os.environ.get("MTL_TEST_IDRID")
    if not path:
        pytest.skip("needs the real IDRiD: start the tests with MTL_DATA=<folder of IDRiD>")
    return Path(path)
