"""A look-alike of IDRiD, drawn by the computer, in the official layout: one reader serves both.

It is for learning the tools and for tests, on any machine, without a download. Its grades follow from its
lesions by rule (`synthetic_findings.icdr_grade`), so both tasks can be learned and help each other. It is no
evidence about real eyes.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mtl_utils.data.idrid import (
    IMAGE_FOLDER,
    LABEL_FILES,
    LABEL_FOLDER,
    LESION_FOLDERS,
    MASK_FOLDER,
    PART_FOLDERS,
    SPLIT_FOLDERS,
)
from mtl_utils.data.synthetic_eye import SyntheticEye, draw_eye
from mtl_utils.data.synthetic_findings import Plan
from mtl_utils.errors import MTLError
from mtl_utils.lesions import GRADES

VERSION = 1  # raise it when the drawing changes: sets of another version are not taken for this one
MARKER = "synthetic.json"
SMALLEST_SIZE, LARGEST_SIZE = 64, 4096

# How often each grade comes in IDRiD: part B's two splits, and those photographs of part A that part B
# grades.
_GRADE_WEIGHTS = {"train": (134, 20, 136, 74, 49), "test": (34, 5, 32, 19, 13), "A": (0, 0, 37, 15, 8)}


@dataclass
class _File:
    """One photograph of the layout. `label`: its grade in the CSV, where that shall conflict with the eye."""

    part: str
    split: str
    name: str
    grade: int
    eye: int | None = None
    label: int | None = None

    @property
    def key(self) -> str:
        return f"{self.part}-{self.split}-{self.name}"


@dataclass
class _Set:
    """Every eye to draw, and every file that shows one."""

    files: list[_File]
    eyes: list[Plan] = field(default_factory=list)

    def select(self, part: str, split: str) -> list[_File]:
        return [file for file in self.files if (file.part, file.split) == (part, split)]

    def take(self, split: str, grade: int) -> _File | None:
        """A file of part B that shows no eye yet."""
        return next(
            (file for file in self.select("B", split) if file.grade == grade and file.eye is None), None
        )

    def show_new(self, file: _File, plan: Plan) -> None:
        self.eyes.append(plan)
        file.eye = len(self.eyes) - 1


def _grades(n: int, weights: Sequence[int], least: int = 0) -> list[int]:
    """`n` grades in the given proportions, at least `least` of each kind that has a weight, where `n` allows.

    >>> _grades(12, (134, 20, 136, 74, 49), least=2)
    [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    """
    share = n * np.array(weights) / sum(weights)
    counts = np.floor(share).astype(int)
    counts[np.argsort(counts - share, kind="stable")[: n - counts.sum()]] += 1
    if n >= least * np.count_nonzero(weights):
        while (rare := (counts < least) & (share > 0)).any():
            counts[np.argmax(counts)] -= 1
            counts[np.argmax(rare)] += 1
    return [grade for grade, count in zip(GRADES, counts, strict=True) for _ in range(count)]


def _files(rng: np.random.Generator, n_a: tuple[int, int], n_b: tuple[int, int]) -> list[_File]:
    """The files of the layout, named and graded. Part A's numbers run on through both splits, as in IDRiD."""
    grades_a = rng.permutation(_grades(sum(n_a), _GRADE_WEIGHTS["A"])).tolist()
    files = [
        _File("A", "train" if i < n_a[0] else "test", f"IDRiD_{i + 1:02d}", grade)
        for i, grade in enumerate(grades_a)
    ]
    for split, n, least in (("train", n_b[0], 2), ("test", n_b[1], 1)):
        grades = rng.permutation(_grades(n, _GRADE_WEIGHTS[split], least)).tolist()
        files += [_File("B", split, f"IDRiD_{i + 1:03d}", grade) for i, grade in enumerate(grades)]
    return files


def _duplicate(layout: _Set, count: int) -> None:
    """Part B shows some eyes twice: one across the split, then in turn with conflicting and equal grades."""
    for i in range(count):
        split, shown, labelled = ("test", 0, 2) if i == 0 else ("train", 2, 0 if i % 2 else 2)
        source = layout.take("train", shown)
        if source is None:
            return
        layout.show_new(source, Plan(shown))
        if copy := layout.take(split, labelled):
            copy.eye, copy.label = source.eye, labelled if labelled != shown else None


def _part_a(layout: _Set) -> None:
    """Part A always has MA and EX; half of it has no soft exudates, one photograph no haemorrhages."""
    bloodless = next((file for file in layout.select("A", "train") if file.grade == 2), None)
    for split in SPLIT_FOLDERS:
        for i, file in enumerate(layout.select("A", split)):
            plan = Plan(
                file.grade, all_kinds=True, haemorrhages=file is not bloodless, soft_exudates=i % 2 == 0
            )
            layout.show_new(file, plan)


def _share(layout: _Set, rng: np.random.Generator) -> None:
    """Show three in four photographs of part A in part B too, a few of them across the split."""
    train, test = (
        rng.permutation(np.array(layout.select("A", split), dtype=object)) for split in SPLIT_FOLDERS
    )
    leaking = round(len(test) / 4)
    both = max(round(0.75 * (len(train) + len(test))) - leaking - 1, 0)
    for files, split, wanted in ((test, "train", leaking), (train, "test", 1), (train, "train", both)):
        for file in files:
            used = file.eye in {other.eye for other in layout.files if other.part == "B"}
            place = None if used or wanted == 0 else layout.take(split, file.grade)
            if place is not None:
                place.eye, wanted = file.eye, wanted - 1


def _plan_set(seed: int, n_a: tuple[int, int], n_b: tuple[int, int]) -> _Set:
    rng = np.random.default_rng([seed, 0])  # the eyes draw from [seed, 1], [seed, 2], ...
    layout = _Set(_files(rng, n_a, n_b))
    _duplicate(layout, max(2, round(sum(n_b) / 55)))
    _part_a(layout)
    _share(layout, rng)
    for file in layout.files:
        if file.eye is None:
            layout.show_new(file, Plan(file.grade))
    return layout


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _write_mask(path: Path, mask: np.ndarray, rgba: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if rgba:
        image = Image.fromarray(
            np.stack([mask * 255, mask * 0, mask * 0, mask * 0 + 255], axis=2).astype(np.uint8)
        )
    else:
        image = Image.fromarray(mask.astype(np.uint8))
        image.putpalette([0, 0, 0, 255, 0, 0])  # 0 black, 1 red; turns the picture into one of mode P
    image.save(path, compression="tiff_adobe_deflate")


def _write_eye(root: Path, eye: SyntheticEye, files: list[_File], rgba: bool) -> None:
    """Write the photograph to each of its files, and its masks to the one in part A."""
    first = _jpeg(Image.fromarray(eye.image), quality=92)
    # IDRiD's part B holds part A's photographs re-encoded, and its own duplicates byte for byte.
    again = _jpeg(Image.open(io.BytesIO(first)), quality=90) if files[0].part == "A" else first
    for file in files:
        path = root / PART_FOLDERS[file.part] / IMAGE_FOLDER / SPLIT_FOLDERS[file.split] / f"{file.name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(first if file is files[0] else again)
        if file.part == "A":
            masks = root / PART_FOLDERS["A"] / MASK_FOLDER / SPLIT_FOLDERS[file.split]
            for lesion, mask in eye.masks.items():
                if mask.any():
                    name = f"{file.name}_{lesion}.tif"
                    _write_mask(masks / LESION_FOLDERS[lesion] / name, mask, rgba and lesion == "EX")


def _write_labels(root: Path, split: str, rows: list[tuple[str, int, int]]) -> None:
    """IDRiD's CSV with its quirks: a header that ends in a space, nine empty columns in training, CRLF."""
    empty = "," * 9 if split == "train" else ""
    lines = [
        "Image name,Retinopathy grade,Risk of macular edema ",
        *(f"{name},{grade},{dme}" for name, grade, dme in rows),
    ]
    path = root / PART_FOLDERS["B"] / LABEL_FOLDER / LABEL_FILES[split]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}{empty}\r\n" for line in lines), encoding="utf-8", newline="")


def _draw_set(root: Path, layout: _Set, parameters: dict, progress: bool) -> None:
    labels: dict[str, tuple[int, int]] = {}
    last_of_a = layout.select("A", "test")[-1]
    for index, plan in enumerate(
        tqdm(layout.eyes, desc="drawing synthetic photographs", disable=not progress)
    ):
        eye = draw_eye(plan, parameters["size"], np.random.default_rng([parameters["seed"], index + 1]))
        files = [file for file in layout.files if file.eye == index]
        _write_eye(root, eye, files, rgba=last_of_a in files)
        for file in files:
            grade = eye.grade if file.label is None else file.label
            labels[file.key] = grade, eye.dme if grade else 0
    for split in SPLIT_FOLDERS:
        _write_labels(root, split, [(file.name, *labels[file.key]) for file in layout.select("B", split)])
    note = {
        "source": "synthetic: drawn by mtl_utils.data.synthetic, no photograph of an eye",
        "parameters": parameters,
        "eyes": {file.key: file.eye for file in layout.files},
        "labels_that_conflict": [file.key for file in layout.files if file.label is not None],
    }
    (root / MARKER).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def _is_there(root: Path, parameters: dict) -> bool:
    """Is this very set at `root`? False if nothing is; an error if anything else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        raise MTLError(
            f"{root} exists and is not a synthetic set. Nothing was written: give another folder."
        ) from None
    if found != parameters:
        raise MTLError(
            f"{root} holds a synthetic set drawn with other settings ({found}; asked for {parameters}). "
            "Delete that folder or give another one."
        )
    return True


def write_synthetic(
    root: str | Path,
    size: int = 512,
    seed: int = 0,
    n_a: tuple[int, int] = (24, 12),
    n_b: tuple[int, int] = (120, 40),
    progress: bool = True,
) -> Path:
    """Draw a look-alike IDRiD in the official layout, or keep the one that is there with the same settings.

    Like the real set, it has traps. Three in four photographs of part A are also in part B, re-encoded (where
    part B has room for their grades): most are training in both, a quarter of part A's test photographs are
    TRAINING in part B, and one of part A's training is test in part B. Part B shows a few eyes twice, byte
    for byte, one of them across the split, some with conflicting grades. Half of part A lacks soft exudates
    and one photograph haemorrhages: no file then. The last exudate mask of part A is RGBA, the others are
    palette pictures. The file `synthetic.json` at the root says that the set is synthetic, which eye each
    file shows, and which labels conflict with what is drawn.

    The same arguments give the same bytes, with the same versions of the libraries. The set is drawn beside
    `root` and renamed at the end: a `root` that exists is whole. A photograph takes about 0.1 s at 512
    pixels on one core.

    Args:
        root: folder to write; made with its parents.
        size: height of the photographs in pixels, at least 64; they are 1.506 times as wide.
        seed: another seed, other eyes.
        n_a: photographs in part A's training and test split.
        n_b: the same for part B; from (10, 5) on every grade is there, in training twice.
        progress: show a progress bar.

    Returns:
        `root`.

    Raises:
        MTLError: `root` holds something else, or a number is too small.
    """
    root = Path(root).expanduser().resolve()
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE or seed < 0 or min(*n_a, *n_b) < 1:
        raise MTLError(
            f"a synthetic set needs a size from {SMALLEST_SIZE} to {LARGEST_SIZE}, seed >= 0 and a "
            f"photograph in each split; got size={size}, seed={seed}, n_a={tuple(n_a)}, n_b={tuple(n_b)}"
        )
    parameters = {"version": VERSION, "size": size, "seed": seed, "n_a": list(n_a), "n_b": list(n_b)}
    if _is_there(root, parameters):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as beside:
        drawn = Path(beside) / "set"
        drawn.mkdir()
        _draw_set(drawn, _plan_set(seed, tuple(n_a), tuple(n_b)), parameters, progress)
        if not _is_there(root, parameters):  # another process may have been faster
            if root.exists():
                root.rmdir()
            os.replace(drawn, root)
    return root
