"""Writing checkpoints, whole or not at all, and reading them, always with `weights_only=True`: data, never
code.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from mtl_utils.encoders import why_not_loaded
from mtl_utils.errors import MTLError
from mtl_utils.files import write_whole
from mtl_utils.lesions import GRADES
from mtl_utils.runtime import default_device
from mtl_utils.systems.deepmt_dr import Hierarchy
from mtl_utils.systems.pldmlt import LabelUpdate
from mtl_utils.training.config import Config, build_network


def run_folder(folder: str | Path) -> Path:
    """A run's folder, made where it is not there. Asked before the training, not after its first epoch.

    Raises:
        MTLError: it cannot be written, or Lightning would take its name for an address ('::').
    """
    folder = Path(folder).expanduser()
    if "::" in str(folder):
        raise MTLError(f"{folder}: a run's folder has no '::' in its name. Give another.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MTLError(f"{folder} cannot be written ({error.strerror}). Give another folder.") from error
    return folder


def write_state(state: dict, path: str | Path) -> None:
    """Write a checkpoint beside its place and move it there: a kill or a full disk leaves the earlier one.

    Raises:
        MTLError: it cannot be written.
    """
    content = io.BytesIO()
    torch.save(state, content)  # not into the file: torch would say nothing of a full disk
    try:
        write_whole({Path(path): content.getbuffer()})
    except OSError as error:
        raise MTLError(
            f"{path} cannot be written ({error.strerror}). Make room; with --resume the run goes on after "
            "its last whole epoch."
        ) from error


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's own way leads over the system's folder for temporary files. From another disk a file cannot
    be moved: it is copied, over the good one.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_state(checkpoint, path)


def load_state(checkpoint: str | Path) -> dict:
    """The parts of a checkpoint that the course reads: config, state_dict, history, data_fingerprint, code,
    trained_on (device and precision); of a run with pseudo grades also pseudo_digest and labels, of one that
    measured conflict its conflicts, of one in several processes how many.

    Raises:
        MTLError: no such file, or it is damaged.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise MTLError(f"no checkpoint {path}. Train one with 'mtl train', or check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        parts = {key: state[key] for key in ("state_dict", "history", "data_fingerprint")}
        others = ("code", "trained_on", "pseudo_digest", "labels", "conflicts", "processes")
        parts |= {key: state.get(key) for key in others}
        return {"config": state["hyper_parameters"]["config"], **parts}
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        raise MTLError(
            f"{path} is no checkpoint of this course, or it is damaged ({why_not_loaded(error)}). Give "
            "another; a run whose checkpoint is damaged begins anew in another folder (--out)."
        ) from error


def network_state(state: dict) -> dict[str, torch.Tensor]:
    """The multi-task network's own weights, without those of a label-update network."""
    own = "network."
    return {key.removeprefix(own): value for key, value in state["state_dict"].items() if key.startswith(own)}


def config_from(state: dict) -> Config:
    """The configuration in what `load_state` gave.

    Raises:
        MTLError: there is none that this version of the course understands.
    """
    try:
        return _config(state["config"])
    except MTLError:
        raise
    except Exception as error:  # a file of anybody can hold anything
        raise MTLError(
            f"the checkpoint's settings are none of this version of the course: {error}"
        ) from error


_PARTS = {"label_update": LabelUpdate, "hierarchy": Hierarchy, "lesion_network": Config}


def _config(kept: dict, kind: type = Config) -> Config | LabelUpdate | Hierarchy:
    """As `asdict` wrote it; what the course no longer has is left out."""
    settings = {}
    for name in {field.name for field in fields(kind)} & kept.keys():
        value = kept[name]
        if isinstance(value, dict):
            value = _config(value, _PARTS[name])
        settings[name] = tuple(value) if isinstance(value, list) else value
    return kind(**settings)


def load_config(checkpoint: str | Path) -> Config:
    """The configuration that a checkpoint was trained with.

    Raises:
        MTLError: no such file, or it is damaged.
    """
    return config_from(load_state(checkpoint))


def load_history(checkpoint: str | Path) -> pd.DataFrame:
    """The epochs that a checkpoint has learned: see `FitResult.history`.

    Raises:
        MTLError: no such file, or it is damaged.
    """
    return pd.DataFrame(load_state(checkpoint)["history"])


def load_labels(checkpoint: str | Path) -> pd.DataFrame:
    """How PLDMLT's labels moved: a row per photograph and update, with `epoch`, `row` (position in the
    working copy's table) and `p0` to `p4`. Epoch 0 has the pseudo grades as they began.

    Raises:
        MTLError: no such file, it is damaged, or its run had no label update.
    """
    updates = load_state(checkpoint)["labels"]
    if updates is None:
        raise MTLError(f"{checkpoint} is of a run without a label update")
    frames = [
        pd.DataFrame(update["labels"], columns=[f"p{grade}" for grade in GRADES]).assign(
            epoch=update["epoch"], row=update["rows"]
        )
        for update in updates
    ]
    return pd.concat(frames, ignore_index=True)


def load_conflicts(checkpoint: str | Path) -> pd.DataFrame:
    """How the tasks' gradients met in training: the rows of `balancing.gradient_conflict` for each step at
    which they were measured, `step`.

    Raises:
        MTLError: no such file, it is damaged, or its run measured none (`Config.conflict_every`).
    """
    conflicts = load_state(checkpoint)["conflicts"]
    if not conflicts:
        raise MTLError(f"{checkpoint} is of a run that measured no conflict: set conflict_every")
    return pd.DataFrame(conflicts)


def load_model(checkpoint: str | Path, device: str | None = None) -> tuple[nn.Module, Config]:
    """A trained network in evaluation mode, and its configuration. Loads with `weights_only=True`: data,
    never code.

    Raises:
        MTLError: no such file, it is damaged, or its weights do not fit its settings.
    """
    state = load_state(checkpoint)
    config = config_from(state)
    network = build_network(replace(config, encoder_weights=None))
    try:
        network.load_state_dict(network_state(state))
    except RuntimeError as error:
        raise MTLError(
            f"{checkpoint}: its weights do not fit its settings; was it made by another version of the "
            f"course? {str(error)[:300]}"
        ) from error
    return network.to(device or default_device()).eval(), config
