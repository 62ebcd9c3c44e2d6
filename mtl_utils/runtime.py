"""Where and how the course runs: profile, device, seed and data, told in one banner that opens every
notebook.
"""

# torch takes seconds to start, so the functions that need it import it: `mtl --help` and `mtl data` never do.
from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock

from mtl_utils.errors import MTLError

STATUS = Path("/proc/self/status")
PROFILES = ("smoke", "cpu", "gpu", "paper")
BANNER_PACKAGES = ("torch", "segmentation-models-pytorch", "lightning", "albumentations", "numpy")

# The look-alike that stands in for IDRiD where MTL_DATA is not set: picture height and numbers of photographs
# (train, test).
SYNTHETIC_SETS = {
    "smoke": {"size": 192, "n_a": (8, 4), "n_b": (24, 12)},
    "cpu": {"size": 512, "n_a": (24, 12), "n_b": (120, 40)},
}


@dataclass(frozen=True)
class Runtime:
    """What `setup` found.

    Attributes:
        profile: one of `PROFILES`; how much work the notebooks do.
        seed: the one seed that rules everything.
        device: 'cuda' or 'cpu'.
        data: folder in IDRiD's layout.
        synthetic: True where `data` was drawn by `mtl_utils.data.synthetic`.
        cache: folder for working copies and checkpoints.
    """

    profile: str
    seed: int
    device: str
    data: Path
    synthetic: bool
    cache: Path

    @property
    def label(self) -> str:
        """How figures name the data: 'synthetic set', or the set that `MTL_DATA` holds, as 'IDRiD'.

        Raises:
            DataError: it holds no set that the course knows.
        """
        from mtl_utils.data.sets import layout_of  # imports what takes a while

        return "synthetic set" if self.synthetic else layout_of(self.data).name


def is_synthetic(root: str | Path) -> bool:
    """Was this folder drawn by `mtl data synthetic`? Its marker file says so."""
    root = Path(root).expanduser()
    # The reader looks one folder deep as well.
    return any((folder / "synthetic.json").exists() for folder in (root, *root.glob("*/")))


def cache_dir() -> Path:
    """The folder for everything that can be made again: `MTL_CACHE`, or `~/.cache/mtl_utils`.

    Raises:
        MTLError: it cannot be made.
    """
    folder = Path(os.environ.get("MTL_CACHE") or Path.home() / ".cache" / "mtl_utils").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MTLError(
            f"the cache {folder} cannot be made ({error.strerror}). Name another folder in MTL_CACHE."
        ) from error
    return folder


def code_version() -> str:
    """The git commit of the library, with '+changes' where files differ from it; the package version outside
    a checkout. A job that runs from an export without git is told its commit in `MTL_COMMIT`.
    """
    from mtl_utils import __version__

    if told := os.environ.get("MTL_COMMIT"):
        return f"{__version__} ({told})"
    library = Path(__file__).parent
    git = ["git", "-C", str(library)]
    try:
        # Installed into an environment inside of somebody's repository, the library is not part of it.
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", str(library)], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} ({commit}{'+changes' if changed.strip() else ''})"


def usable_cores() -> int:
    """Those that this process may use: a job of a cluster, or one of several runs (taskset), has not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> str:
    """'cuda' where torch sees a GPU, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_profile(profile: str | None) -> str:
    """The profile's name; None means `MTL_PROFILE`, and without that 'gpu' where there is one and 'cpu'
    elsewhere.

    Raises:
        MTLError: no such profile.
    """
    profile = profile or os.environ.get("MTL_PROFILE") or ("gpu" if default_device() == "cuda" else "cpu")
    if profile not in PROFILES:
        raise MTLError(f"no profile {profile!r} (argument or MTL_PROFILE). There are: {', '.join(PROFILES)}.")
    return profile


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch. Augmentation has a seed of its own, derived from the same number
    (`data.dataset`).
    """
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def data_folder(profile: str, progress: bool = True) -> Path:
    """`MTL_DATA`, or the synthetic set of this profile, drawn once into the cache.

    Raises:
        MTLError: `MTL_DATA` names no folder.
    """
    given = os.environ.get("MTL_DATA")
    if given:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise MTLError(
                f"MTL_DATA names {folder.absolute()}, which is no folder. "
                "Set it to your IDRiD, or unset it for synthetic data."
            )
        return folder
    # Drawing needs scikit-image: imported only when it is asked for.
    from mtl_utils.data.synthetic import VERSION, write_synthetic

    settings = SYNTHETIC_SETS["smoke" if profile == "smoke" else "cpu"]
    folder = cache_dir() / f"synthetic-{settings['size']}-v{VERSION}"
    with FileLock(f"{folder}.lock"):  # two notebooks that start together draw it once
        return write_synthetic(folder, **settings, seed=0, progress=progress)


def setup(profile: str | None = None, seed: int = 0) -> Runtime:
    """The first call of every notebook: seed everything, find the data, print what is used.

    Args:
        profile: 'smoke' (tests), 'cpu' (a laptop), 'gpu' (Colab) or 'paper'; None takes `MTL_PROFILE`, else
            what fits the machine.
        seed: rules initial weights, splits, order and augmentation.

    Raises:
        MTLError: unknown profile, a seed that is none, or `MTL_DATA` is no folder.
    """
    profile = check_profile(profile)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise MTLError(f"seed is {seed!r}: give a whole number from 0 to 2**32 - 1")
    seed_everything(seed)
    data = data_folder(profile, progress=False)
    runtime = Runtime(profile, seed, default_device(), data, is_synthetic(data), cache_dir())
    print(_banner(runtime))
    return runtime


def package_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in BANNER_PACKAGES}}


def device_name(device: str) -> str:
    """'NVIDIA ...' for a GPU, else the number of CPU threads in use."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def peak_memory() -> float | None:
    """Peak memory of this process so far in GiB: of the GPU where there is one, else of main memory (None
    where the system does not tell).
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if STATUS.exists():  # Linux: the number below would be inherited from the process that started this one
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def reset_peak_memory() -> bool:
    """Let `peak_memory` begin anew from what is in use now. Returns whether that is possible here: on a GPU
    and on Linux.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _banner(runtime: Runtime) -> str:
    kind = "SYNTHETIC photographs, drawn by this course" if runtime.synthetic else "photographs from MTL_DATA"
    # The folder's own name is enough: a full path would put the reader's home folder into the published book.
    lines = {
        "profile": f"{runtime.profile}, seed {runtime.seed}",
        "device": device_name(runtime.device),
        "data": f"{kind} ({runtime.data.name})",
        "versions": ", ".join(f"{name} {number}" for name, number in package_versions().items()),
    }
    return "\n".join(f"{key:9} {value}" for key, value in lines.items())
