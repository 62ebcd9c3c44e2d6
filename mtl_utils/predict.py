"""A photograph in, a grade and masks out: any fundus photograph, at its own size, with a trained network."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from errno import ENAMETOOLONG
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.fov import FieldOfView, crop_square, field_of_view, uncrop
from mtl_utils.data.idrid import in_colour, open_picture
from mtl_utils.data.prepare import shrink
from mtl_utils.errors import DataError, MTLError
from mtl_utils.files import write_whole
from mtl_utils.lesions import GRADE_NAMES, LESIONS
from mtl_utils.plots import overlay
from mtl_utils.pseudo import file_digest
from mtl_utils.systems.base import judged_logits
from mtl_utils.training import Config, load_model
from mtl_utils.training.checkpoints import run_folder

MARKED = 0.5
"""From this probability on a pixel counts as marked."""

NOTE = "For learning only. Not a medical device: do not use this to make decisions about a person's health."

# A retina's channels differ by half of its brightness, those of a grey picture by the rounding of JPEG.
_LEAST_COLOUR = 0.05


@dataclass(frozen=True)
class Prediction:
    """What a network says about one photograph of height H and width W.

    Attributes:
        photograph: RGB, uint8 (H, W, 3), as it was given.
        fov: where the lit part was found.
        config: of the network.
        probabilities: of the grades 0-4, float64 (5,), sum 1; None from a network that does not grade.
        masks: what the network marks (a lesion, or a group as 'red'; `LabelSpace.marked`) -> probability of
            each pixel, float32 (H, W) in [0, 1], 0 outside the field of view's box; empty from a network that
            does not segment.
        restored: what super-resolution made of the small version of the field of view's square, uint8
            (side, side, 3), at the size that the network works at; None from a network without that task.
    """

    photograph: np.ndarray
    fov: FieldOfView
    config: Config
    probabilities: np.ndarray | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    restored: np.ndarray | None = None

    @property
    def grade(self) -> int | None:
        """The most probable grade; None from a network that does not grade."""
        return None if self.probabilities is None else int(self.probabilities.argmax())

    def lesion_masks(self) -> dict[str, np.ndarray]:
        """lesion -> probability of each pixel, whatever the network marks: each lesion has what its group
        has (`LabelSpace.lesions`).
        """
        if not self.masks:
            return {}
        masks = self.config.space.lesions(np.stack(list(self.masks.values())))
        return dict(zip(LESIONS, masks, strict=True))

    def summary(self) -> str:
        """One line for people: the grade, and how much of the photograph is marked as each lesion."""
        parts = []
        if self.probabilities is not None:
            name, probability = GRADE_NAMES[self.grade], self.probabilities.max()
            parts.append(f"grade {self.grade} ({name}), probability {probability:.2f}")
        if self.masks:
            shares = {lesion: (mask >= MARKED).mean() for lesion, mask in self.masks.items()}
            marked = ", ".join(f"{lesion} {share:.2%}" for lesion, share in shares.items() if share)
            parts.append(f"marked: {marked or 'nothing'}")
        if self.restored is not None:
            parts.append(f"restored at {len(self.restored)} px")
        return "; ".join(parts)


def open_photograph(path: str | Path) -> np.ndarray:
    """Read a colour photograph upright, as a viewer shows it: RGB, uint8 (H, W, 3).

    Raises:
        DataError: the file is missing, a folder, damaged, no picture, or has no colour. The message names it.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the photographs in it, as in '{path / '*.jpg'}'")
    with open_picture(path) as image:
        photograph = np.array(in_colour(image, path))
    sample = photograph[::4, ::4]
    if np.ptp(sample, axis=2).mean() < _LEAST_COLOUR * sample.max(axis=2).mean():
        raise DataError(
            f"{path} is a grey picture. The course's networks know colour photographs only: give that one."
        )
    return photograph


@torch.inference_mode()
def predict_photograph(network: nn.Module, config: Config, image: np.ndarray) -> Prediction:
    """Grade a photograph, and mark its lesions at its own size.

    It takes the way that the training photographs took: cut to the field of view, padded to a square, shrunk
    to the working copy's size and from there to each task's. The masks go the same way back.

    Args:
        network: in evaluation mode, as from `training.load_model`.
        config: its configuration, from the same call.
        image: RGB, uint8 (H, W, 3).

    Raises:
        DataError: no field of view in the picture, not an RGB photograph, or the network's answer is not a
            number.
    """
    fov = field_of_view(image)
    square = shrink(crop_square(image, fov), config.copy_size)
    logits = {task: _forward(network, task, square, config).cpu() for task in config.tasks}
    if not all(torch.isfinite(answer).all() for answer in logits.values()):
        raise DataError("the network's answer is not a number: its checkpoint is damaged. Give another.")
    found = {}
    if "grading" in logits:
        found["probabilities"] = logits["grading"].double().softmax(dim=0).numpy()
    if "segmentation" in logits:
        space = config.space
        marked = space.of_marked(space.probabilities(logits["segmentation"][None]))[0].numpy()
        at_own_size = _at_own_size(marked, fov, image.shape[:2])
        found["masks"] = dict(zip(space.marked, at_own_size, strict=True))
    if "isr" in logits:
        picture = logits["isr"].clamp(0, 1).permute(1, 2, 0).numpy()
        found["restored"] = np.rint(picture * 255).astype(np.uint8)
    return Prediction(image, fov, config, **found)


def _forward(network: nn.Module, task: str, square: np.ndarray, config: Config) -> torch.Tensor:
    picture = resize_recipe(config.size(task))(image=square)["image"]
    batch = torch.from_numpy(np.moveaxis(picture, -1, 0).astype(np.float32) / 255)[None]
    batch = batch.to(next(network.parameters()).device)
    return judged_logits(network, batch, task, config.flips, config.turns)[0].float()


def _at_own_size(masks: np.ndarray, fov: FieldOfView, shape: tuple[int, int]) -> list[np.ndarray]:
    side = (fov.side, fov.side)
    method = cv2.INTER_AREA if fov.side < masks.shape[-1] else cv2.INTER_LINEAR
    return [uncrop(cv2.resize(mask, side, interpolation=method), fov, shape) for mask in masks]


def checkpoint_facts(checkpoint: str | Path, config: Config) -> dict[str, object]:
    """What a saved prediction tells about its checkpoint: the file's name and digest, the configuration."""
    return {"file": Path(checkpoint).name, "sha256": file_digest(checkpoint), "config": asdict(config)}


def save_prediction(prediction: Prediction, name: str, out: str | Path, **facts: object) -> Path:
    """Write a prediction as files: NAME.json; NAME_MA.png and so on, 8-bit probabilities (0-255 for 0-1) at
    the photograph's own size; NAME_overlay.png, the photograph with what was marked (probability `MARKED`).
    A network with super-resolution, as DeepMT-DR, also gives NAME_restored.png: `Prediction.restored`.
    A network that marks groups, as MTUnet, gives each lesion its group's picture; the JSON tells the groups.

    All files come whole or none does. Files of the same names are replaced; pictures of an earlier prediction
    of this name that the new one lacks are deleted.

    Args:
        name: how the files' names begin.
        out: folder, made where it is missing.
        **facts: more to write into the JSON, as `photograph="a/eye.jpg"`.

    Returns:
        The path of the JSON file.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    masks = prediction.lesion_masks()
    pictures = {lesion: (mask * 255).round().astype(np.uint8) for lesion, mask in masks.items()}
    if prediction.masks:
        shown = overlay(prediction.photograph, prediction.masks, MARKED)
        pictures["overlay"] = cv2.cvtColor(shown, cv2.COLOR_RGB2BGR)  # OpenCV's order
    if prediction.restored is not None:
        pictures["restored"] = cv2.cvtColor(prediction.restored, cv2.COLOR_RGB2BGR)
    files = {key: out / f"{name}_{key}.png" for key in pictures}
    contents = {files[key]: cv2.imencode(".png", picture)[1].tobytes() for key, picture in pictures.items()}
    about = _about(prediction) | facts | {"files": {key: path.name for key, path in files.items()}}
    path = out / f"{name}.json"
    earlier = _earlier_files(path)
    write_whole({**contents, path: (json.dumps(about, indent=1) + "\n").encode()})
    for old in earlier - set(files.values()):
        old.unlink(missing_ok=True)
    return path


def _possible_files(path: Path) -> set[Path]:
    """The pictures that a prediction may have beside its JSON file, `path`."""
    return {path.with_name(f"{path.stem}_{key}.png") for key in (*LESIONS, "overlay", "restored")}


def _earlier_files(path: Path) -> set[Path]:
    """The pictures of an earlier prediction; none where `path` is not there, or is no prediction."""
    try:
        named = set(json.loads(path.read_text(encoding="utf-8"))["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {file for file in _possible_files(path) if file.name in named}


def _about(prediction: Prediction) -> dict[str, object]:
    height, width = prediction.photograph.shape[:2]
    about: dict[str, object] = {
        "note": NOTE,
        "size": {"width": width, "height": height},
        "field_of_view": asdict(prediction.fov),
        "encoder_name": prediction.config.encoder_name,
    }
    if prediction.masks:
        space = prediction.config.space
        about["label_space"] = {"name": space.name, "groups": dict(space.groups)}
    if prediction.probabilities is not None:
        about["grade"] = prediction.grade
        about["grade_name"] = GRADE_NAMES[prediction.grade]
        about["probabilities"] = prediction.probabilities.tolist()
    return about


class Written(NamedTuple):
    """One photograph of `predict_files`."""

    photograph: Path
    prediction: Prediction
    json: Path


def predict_files(
    photographs: Sequence[str | Path], checkpoint: str | Path, out: str | Path, progress: bool = False
) -> Iterator[Written]:
    """Predict photographs one after another; save each prediction under a name of its own (`output_names`).

    A photograph that cannot be predicted does not stop the others: the errors come together, at the end.

    Raises:
        MTLError: no such checkpoint, or it is damaged, two photographs would write the same files, or `out`
            cannot be written. Nothing was done then.
        DataError: at the end; a line for each photograph that could not be predicted, and why.
    """
    paths, names = [Path(photograph) for photograph in photographs], output_names(photographs)
    checkpoint = Path(checkpoint).expanduser()
    network, config = load_model(checkpoint)
    about, out = checkpoint_facts(checkpoint, config), run_folder(out)
    problems = []
    for path, name in tqdm(zip(paths, names, strict=True), "photographs", len(paths), disable=not progress):
        try:
            prediction = _predict_file(network, config, path)
            # In full: 'left.jpg' would be another eye in another folder.
            facts = {"photograph": str(path.resolve()), "photograph_sha256": file_digest(path)}
            facts["checkpoint"] = about
            _check_place(out / f"{name}.json", facts)
            written = save_prediction(prediction, name, out, **facts)
        except DataError as error:
            problems.append(str(error))
        except OSError as error:
            if error.errno != ENAMETOOLONG:  # a full disk stops all
                raise
            problems.append(f"{path}: the names of its files would be too long. Rename it.")
        else:
            yield Written(path, prediction, written)
    if problems:
        raise DataError(f"{len(problems)} of {len(names)} photographs could not be predicted:", problems)


def _predict_file(network: nn.Module, config: Config, path: Path) -> Prediction:
    image = open_photograph(path)
    try:
        return predict_photograph(network, config, image)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_place(path: Path, facts: dict[str, object]) -> None:
    """A prediction replaces an earlier one of the same photograph, and nothing else."""
    if path.exists():
        _check_earlier(path, facts)
    foreign = sorted(str(file) for file in _possible_files(path) - _earlier_files(path) if file.exists())
    if foreign:
        raise DataError(f"{foreign[0]} is there: nothing was overwritten. Give another --out.")


def _check_earlier(path: Path, facts: dict[str, object]) -> None:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        same = any(there[key] == facts[key] for key in ("photograph", "photograph_sha256"))
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} is there and no prediction: nothing was overwritten. Give another --out."
        ) from None
    if not same:
        photographs = f"{there['photograph']}, not of {facts['photograph']}"
        raise DataError(f"{path} is of {photographs}: nothing was overwritten. Give another --out.")


def output_names(photographs: Sequence[str | Path]) -> list[str]:
    """A name for each photograph's files: its own; where several have the same, with its folder's before it.

    Raises:
        MTLError: even so two would get the same name.

    >>> output_names(["visit1/left.jpg", "visit2/left.jpg", "visit2/right.jpg"])
    ['visit1_left', 'visit2_left', 'right']
    """
    paths = [Path(photograph) for photograph in photographs]
    stems = [path.stem.casefold() for path in paths]  # some file systems do not tell 'Left' from 'left'
    names = [
        path.stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}_{path.stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
    takers = defaultdict(list)
    for name, path in zip(names, paths, strict=True):
        takers[name.casefold()].append(str(path))
    for same in takers.values():
        if len(same) > 1:
            raise MTLError(
                f"{' and '.join(same)} would write the same files. "
                "Predict them one at a time, each with an --out of its own."
            )
    return names
