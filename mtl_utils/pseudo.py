"""Labels that a network made: masks for photographs that have only a grade, grades for those with masks only.

MTUnet's semi-supervised process (Foo et al., 2020, Figure 7): a first network learns from the few photographs
with masks; it labels those without; where the grade is 0, its red and yellow is erased; a second network
learns from what was made. Ours, since the paper does not say: the first network learns the grades that there
are as well (it is to make grades too, as for the paper's Table 2), and the second learns from true and made
labels. `make_labels` fills a store, `WithMadeLabels` puts the store's labels beside the true ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import UNKNOWN_GRADE, FundusDataset
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.errors import DataError
from mtl_utils.files import write_whole
from mtl_utils.label_spaces import LabelSpace, label_space
from mtl_utils.lesions import GRADES
from mtl_utils.metrics import SegmentationMetrics
from mtl_utils.systems.base import FundusNetwork

ABOUT, CLASSES, CONFIDENCE, GRADING = "about.json", "classes.u8", "confidence.u8", "grades.f32"
BATCH = 4


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hex: what says which network made a store."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class LabelStore:
    """Made labels of some photographs of one working copy, memory-mapped.

    Attributes:
        folder: where it lies.
        about: who made it: 'maker' (digest of the checkpoint), 'data_fingerprint', 'label_space', 'size',
            'rows', 'tasks'.
        classes: most probable class of each pixel, uint8 (N, size, size); None where the maker does not
            segment.
        confidence: its probability, 0-255 for 0-1, uint8 (N, size, size); None likewise.
        grade_probabilities: float32 (N, 5); None where the maker does not grade.
    """

    folder: Path
    about: dict
    classes: np.ndarray | None
    confidence: np.ndarray | None
    grade_probabilities: np.ndarray | None

    @property
    def space(self) -> LabelSpace:
        """Meaning of the classes."""
        return label_space(self.about["label_space"])

    @cached_property
    def places(self) -> dict[int, int]:
        """Position in the working copy's table -> position in the store."""
        return {row: place for place, row in enumerate(self.about["rows"])}

    def marked(self, row: int, grade: int = UNKNOWN_GRADE, min_confidence: float = 0.0) -> np.ndarray:
        """The made mask of one photograph, 0 or 1, uint8 (groups, size, size).

        Args:
            row: position in the working copy's table.
            grade: the photograph's grade, where it is known. With grade 0 the signs of the disease are
                erased: an eye without retinopathy has none (the paper's rule; the disc stays).
            min_confidence: pixels that the maker was less sure of are not marked.

        Raises:
            DataError: the store has no mask of this photograph.
        """
        if self.classes is None or row not in self.places:
            raise DataError(f"{self.folder} holds no made mask of row {row} of the working copy")
        place, space = self.places[row], self.space
        sure = self.confidence[place] >= round(255 * min_confidence)
        masks = np.stack([sure & (self.classes[place] == space.classes.index(name)) for name in space.marked])
        if grade == 0:
            masks[[name in space.disease for name in space.marked]] = False
        return masks.astype(np.uint8)

    def grade(self, row: int) -> int:
        """The most probable grade of one photograph.

        Raises:
            DataError: the store has no grade of this photograph.
        """
        if self.grade_probabilities is None or row not in self.places:
            raise DataError(f"{self.folder} holds no made grade of row {row} of the working copy")
        return int(self.grade_probabilities[self.places[row]].argmax())

    @classmethod
    def open(cls, folder: str | Path) -> LabelStore:
        """Open a finished store.

        Raises:
            DataError: there is none, it is not finished, or it is damaged.
        """
        folder = Path(folder)
        remedy = f"Delete {folder} and make it again."
        if not (folder / ABOUT).exists():
            raise DataError(f"{folder} holds no store of made labels")
        about = _read_about(folder)
        for name, shape, kind in _files(about):
            found = (folder / name).stat().st_size if (folder / name).exists() else 0
            if found < int(np.prod(shape)) * kind().nbytes:
                raise DataError(f"{folder / name} has {found} bytes: the store is not finished. {remedy}")
        arrays = {
            name: np.memmap(folder / name, kind, "r", shape=shape) for name, shape, kind in _files(about)
        }
        return cls(folder, about, *(arrays.get(name) for name in (CLASSES, CONFIDENCE, GRADING)))


def _read_about(folder: Path) -> dict:
    """What a store says of itself.

    Raises:
        DataError: it is damaged.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        _files(about)  # needs what every store has
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete {folder} and make it again.") from error
    return about


def _files(about: dict) -> list[tuple[str, tuple[int, ...], type]]:
    """The files of a store: name, shape, kind of number."""
    number, size = len(about["rows"]), about["size"]
    files = []
    if "segmentation" in about["tasks"]:
        files += [(name, (number, size, size), np.uint8) for name in (CLASSES, CONFIDENCE)]
    if "grading" in about["tasks"]:
        files.append((GRADING, (number, len(GRADES)), np.float32))
    return files


def _done(folder: Path, about: dict) -> int:
    """How many photographs of an interrupted run are whole; what is not is cut off."""
    lengths = {name: int(np.prod(shape[1:])) * kind().nbytes for name, shape, kind in _files(about)}
    found = {name: (folder / name).stat().st_size if (folder / name).exists() else 0 for name in lengths}
    done = min(found[name] // length for name, length in lengths.items())
    for name, length in lengths.items():
        with open(folder / name, "ab") as file:
            file.truncate(done * length)
    return done


@torch.inference_mode()
def make_labels(
    network: FundusNetwork,
    space: LabelSpace,
    copy: WorkingCopy,
    rows: Sequence[int],
    size: int,
    folder: str | Path,
    maker: str,
    progress: bool = True,
) -> LabelStore:
    """Let a network label photographs, and keep what it says. A stopped run goes on where it was.

    Args:
        network: in evaluation mode.
        space: meaning of its masks.
        copy: the working copy.
        rows: positions in its table.
        size: side of the pictures that the network sees, and of the masks, in pixels.
        folder: takes the store.
        maker: what the network is known by, as `file_digest` of its checkpoint.
        progress: show a bar.

    Raises:
        DataError: `folder` holds labels of another network, other photographs or another size.
    """
    folder, rows = Path(folder), [int(row) for row in rows]
    about = {
        "maker": maker,
        "data_fingerprint": copy.fingerprint,
        "label_space": space.name,
        "size": size,
        "tasks": list(network.tasks),
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _claim(folder, about)
        done = _done(folder, about)
        device = next(network.parameters()).device
        data = DataLoader(FundusDataset(copy, rows[done:], resize_recipe(size)), batch_size=BATCH)
        with tqdm(total=len(rows), initial=done, desc="made labels", disable=not progress) as bar:
            for batch in data:
                for name, content in _answers(network(batch["image"].to(device)), space).items():
                    with open(folder / name, "ab") as file:
                        file.write(content.cpu().numpy().tobytes())
                bar.update(len(batch["image"]))
    return LabelStore.open(folder)


def _claim(folder: Path, about: dict) -> None:
    """Write who makes the labels of this folder, or see that it is the same who began."""
    path = folder / ABOUT
    if path.exists():
        there = _read_about(folder)
        differing = [key for key in about if there.get(key) != about[key]]
        if differing:
            raise DataError(
                f"{folder} holds labels that differ in: {', '.join(differing)}. "
                "Give another folder, or delete it."
            )
        return
    write_whole({path: json.dumps(about).encode()})


def _answers(logits: dict[str, torch.Tensor], space: LabelSpace) -> dict[str, torch.Tensor]:
    """What is kept of a batch: file name -> numbers."""
    kept = {}
    if "segmentation" in logits:
        best, chosen = space.probabilities(logits["segmentation"]).max(dim=1)
        kept |= {CLASSES: chosen.to(torch.uint8), CONFIDENCE: (255 * best).round().to(torch.uint8)}
    if "grading" in logits:
        kept[GRADING] = logits["grading"].float().softmax(dim=1)
    return kept


class WithMadeLabels:
    """A working copy in which photographs that lack a label have the made one: to learn from, never to judge.

    It is asked like a `WorkingCopy`. A true label always comes first; a made mask respects a true grade: 0
    erases.

    Args:
        copy: the working copy.
        store: made labels of some of its photographs.
    """

    def __init__(self, copy: WorkingCopy, store: LabelStore):
        self.copy, self.store = copy, store

    def image(self, row: int) -> np.ndarray:
        """RGB, uint8 (size, size, 3)."""
        return self.copy.image(row)

    @cached_property
    def grades(self) -> np.ndarray:
        """int64 (N,): true, else made, else -1."""
        grades = self.copy.grades.copy()
        if self.store.grade_probabilities is not None:
            for row in self.store.places:
                if grades[row] == UNKNOWN_GRADE:
                    grades[row] = self.store.grade(row)
        return grades

    def has_mask(self, row: int) -> bool:
        """Is there a mask, true or made?"""
        return self.copy.has_mask(row) or (self.store.classes is not None and row in self.store.places)

    def mask(self, row: int) -> np.ndarray:
        """uint8 0/1 (5, size, size), channels as in `LESIONS`; a made one by way of `LabelSpace.lesions`."""
        if self.copy.has_mask(row):
            return self.copy.mask(row)
        made = self.store.marked(row, self.copy.grades[row])
        return self.store.space.lesions(_to_side(made, self.copy.size))


def _to_side(masks: np.ndarray, size: int) -> np.ndarray:
    """Nearest neighbour: classes have no values in between."""
    places = (np.arange(size) * masks.shape[-1]) // size
    return masks[:, places][:, :, places]


def true_masks(store: LabelStore, copy: WorkingCopy, rows: Sequence[int]) -> np.ndarray:
    """True masks as the store would hold them, to lay beside `LabelStore.marked`.

    Returns:
        0 or 1, float32 (N, groups, size, size).
    """
    data = FundusDataset(copy, rows, resize_recipe(store.about["size"]), space=store.space)
    return store.space.of_marked(torch.stack([sample["mask"] for sample in data])).numpy()


def compare_with_truth(
    store: LabelStore,
    copy: WorkingCopy,
    rows: Sequence[int],
    min_confidence: float = 0.0,
    n_bootstrap: int = 0,
) -> dict[str, float]:
    """How good are made masks? Of photographs whose true masks the maker never saw.

    Args:
        store: made labels.
        copy: the working copy, with true masks of `rows`.
        rows: positions in its table.
        min_confidence: see `LabelStore.marked`.
        n_bootstrap: draws for the intervals.

    Returns:
        As `SegmentationMetrics.compute`, in the store's label space; its AUPR is that of a yes or no.
    """
    metrics = SegmentationMetrics(space=store.space)
    made = np.stack([store.marked(int(row), min_confidence=min_confidence) for row in rows])
    metrics.update(made.astype(np.float32), true_masks(store, copy, rows))
    return metrics.compute(n_bootstrap)


def by_confidence(
    store: LabelStore, copy: WorkingCopy, rows: Sequence[int], levels: Sequence[float]
) -> pd.DataFrame:
    """What would a threshold do? Made masks of which only the sure marks are kept, beside the true ones.

    Args:
        store, copy, rows: as in `compare_with_truth`.
        levels: smallest confidences (`LabelStore.marked`), 0-1.

    Returns:
        A row per level; for each group `kept/GROUP`, the share of all made marks that are kept;
        `right/GROUP`, the share of these that are right; `dice/GROUP`, pooled. NaN: a share of nothing.
    """
    truth = true_masks(store, copy, rows).astype(bool)

    def areas(level: float) -> tuple[np.ndarray, np.ndarray]:
        made = np.stack([store.marked(int(row), min_confidence=level) for row in rows]).astype(bool)
        return made.sum((0, 2, 3)), (made & truth).sum((0, 2, 3))

    everything, _ = areas(0.0)
    lines = []
    with np.errstate(invalid="ignore"):
        for level in levels:
            kept, right = areas(level)
            shares = {
                "kept": kept / everything,
                "right": right / kept,
                "dice": 2 * right / (kept + truth.sum((0, 2, 3))),
            }
            lines.append(
                {
                    f"{kind}/{group}": value
                    for kind, values in shares.items()
                    for group, value in zip(store.space.marked, values, strict=True)
                }
            )
    return pd.DataFrame(lines, index=list(levels))


def erased(store: LabelStore, copy: WorkingCopy, rows: Sequence[int]) -> pd.DataFrame:
    """What does erasing take away? Share of each photograph's pixels that the maker marked as disease.

    Returns:
        One row per photograph: row, grade, and a share of pixels (0-1) for each group of the disease.
    """
    shares = [store.marked(int(row)).mean(axis=(1, 2)) for row in rows]
    table = pd.DataFrame(shares, columns=list(store.space.marked))[list(store.space.disease)]
    table.insert(0, "row", list(rows))
    table.insert(1, "grade", copy.grades[list(rows)])
    return table


def known_grades(table: pd.DataFrame) -> np.ndarray:
    """The grade of every photograph of which any file has one, int64 (N,); -1 where none has, or where two
    files of one photograph contradict each other.

    Of IDRiD's part A, published without grades, 60 of 81 photographs stand in part B as well; 59 have a known
    grade, since one of them, IDRiD_69, has two there.

    Args:
        table: with `photo` linked, as in a working copy.
    """
    graded = table[table.grade.notna()].groupby("photo").grade
    known = graded.first()[graded.nunique() == 1]
    return table.photo.map(known).fillna(UNKNOWN_GRADE).to_numpy(np.int64)


class WithGrades:
    """A working copy with other grades.

    It is asked like a `WorkingCopy`.

    Args:
        copy: the working copy.
        grades: int64 (N,), -1 where unknown.
    """

    def __init__(self, copy: WorkingCopy, grades: np.ndarray):
        self.copy, self.grades = copy, grades
        self.image, self.mask, self.has_mask = copy.image, copy.mask, copy.has_mask


def made_grades(store: LabelStore, copy: WorkingCopy, rows: Sequence[int]) -> pd.DataFrame:
    """Made grades beside the true ones, of photographs of part A that stand in part B as well.

    Args:
        store: made labels.
        copy: the working copy, whose table knows which photographs are the same.
        rows: positions in its table, of part A.

    Returns:
        One row per photograph whose grade is known: row, true grade, made grade, its probability. Empty where
        the maker does not grade, or no grade is known.
    """
    known, found = known_grades(copy.table), []
    if store.grade_probabilities is not None:
        for row in map(int, rows):
            if known[row] != UNKNOWN_GRADE:
                made = store.grade(row)
                sure = float(store.grade_probabilities[store.places[row], made])
                found.append((row, int(known[row]), made, sure))
    return pd.DataFrame(found, columns=["row", "grade", "made", "probability"])
