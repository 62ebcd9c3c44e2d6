"""Made labels: a network whose answers are painted into its pictures, so that each stored number is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.duplicates import link_photographs, thumbnails
from mtl_utils.data.idrid import read_idrid
from mtl_utils.encoders import Encoder
from mtl_utils.errors import DataError
from mtl_utils.label_spaces import RED_YELLOW
from mtl_utils.lesions import LESIONS
from mtl_utils.pseudo import (
    ABOUT,
    CLASSES,
    CONFIDENCE,
    GRADING,
    LabelStore,
    WithGrades,
    WithMadeLabels,
    by_confidence,
    compare_with_truth,
    erased,
    file_digest,
    known_grades,
    made_grades,
    make_labels,
    true_masks,
)
from mtl_utils.systems.base import FundusNetwork

SIDE = 8
BACKGROUND, RED, YELLOW, DISC, OUTSIDE = range(5)
FILES = (CLASSES, CONFIDENCE, GRADING)
# Photographs 0 and 4 have true masks and no grade, the others a grade and no masks.
GRADES = [-1, 0, 2, 0, -1, 3]
MADE_GRADES = [4, 1, 2, 3, 0, 0]
ROWS = [5, 1, 2, 0, 3, 4]


def painted(row: int) -> np.ndarray:
    """The classes that the network reads off photograph `row`: 1 row of red, 2 of yellow, 3 of disc, each one
    column wider from photograph to photograph, and a column outside.
    """
    classes = np.full((SIDE, SIDE), BACKGROUND)
    classes[:1, : row + 1] = RED
    classes[2:4, : row + 1] = YELLOW
    classes[5:, : row + 1] = DISC
    classes[:, 7] = OUTSIDE
    return classes


def unsure() -> np.ndarray:
    """Where it is only 60 % sure: the leftmost column and the last row. Elsewhere 80 %."""
    places = np.zeros((SIDE, SIDE), bool)
    places[:, 0] = places[-1] = True
    return places


@dataclass
class Album:
    """A working copy of six painted photographs: class in the red channel, sureness in the green one, grade
    in the blue one.
    """

    size: int = SIDE
    fingerprint: str = "six paintings"
    true_classes: dict[int, np.ndarray] = field(default_factory=lambda: {0: painted(3), 4: painted(1)})

    def __post_init__(self):
        self.grades = np.array(GRADES)

    def image(self, row: int) -> np.ndarray:
        sure = np.where(unsure(), 100, 200)
        picture = np.stack([50 * painted(row), sure, np.full_like(sure, 50 * MADE_GRADES[row])], axis=-1)
        return np.kron(picture, np.ones((self.size // SIDE, self.size // SIDE, 1))).astype(np.uint8)

    def has_mask(self, row: int) -> bool:
        return row in self.true_classes

    def mask(self, row: int) -> np.ndarray:
        """Red is drawn as HE, yellow as EX."""
        masks = np.zeros((5, self.size, self.size), np.uint8)
        for lesion, class_ in (("HE", RED), ("EX", YELLOW), ("OD", DISC)):
            drawn = self.true_classes[row] == class_
            masks[LESIONS.index(lesion)] = np.kron(drawn, np.ones((self.size // SIDE,) * 2))
        return masks


class Reader(FundusNetwork):
    """Says what is painted. e^logit is 16 (or 6 where unsure) against four ones: 16/20 = 0.8, 6/10 = 0.6."""

    def __init__(self, tasks=("grading", "segmentation"), killed_at: int | None = None):
        super().__init__(Encoder(nn.Identity(), (0.0,) * 3, (1.0,) * 3), tasks)
        self.nothing = nn.Parameter(torch.zeros(1))  # the maker asks a parameter for the device
        self.killed_at, self.batches, self.seen = killed_at, 0, 0
        self.eval()

    def heads(self, features, tasks):
        if self.batches == self.killed_at:
            raise KeyboardInterrupt
        self.batches, self.seen = self.batches + 1, self.seen + len(features)
        class_, sure, grade = (255 * features).round().long().unbind(dim=1)
        logits = nn.functional.one_hot(class_ // 50, 5) * torch.where(sure > 150, log(16), log(6))[..., None]
        answers = {
            "grading": nn.functional.one_hot(grade[:, 0, 0] // 50, 5) * log(16),
            "segmentation": logits.permute(0, 3, 1, 2),
        }
        return {task: answers[task] for task in tasks}


def label(folder: Path, network: Reader | None = None, copy: Album | None = None, **changed) -> LabelStore:
    settings = {"rows": ROWS, "size": SIDE, "maker": "the reader", **changed}
    return make_labels(
        network or Reader(), RED_YELLOW, copy or Album(), folder=folder, progress=False, **settings
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> LabelStore:
    return label(tmp_path_factory.mktemp("made") / "store")


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (ABOUT, *FILES)}


# ------------------------------------------------------------------------------------------------- values
def test_the_store_holds_what_the_network_said(store):
    assert store.space is RED_YELLOW
    assert store.about["rows"] == ROWS
    assert store.about["data_fingerprint"] == "six paintings"
    assert store.places == {5: 0, 1: 1, 2: 2, 0: 3, 3: 4, 4: 5}
    for place, row in enumerate(ROWS):
        assert np.array_equal(store.classes[place], painted(row))
        assert np.array_equal(store.confidence[place], np.where(unsure(), 153, 204))  # 0.6 and 0.8 of 255
        expected = [0.8 if grade == MADE_GRADES[row] else 0.05 for grade in range(5)]
        assert store.grade_probabilities[place].tolist() == pytest.approx(expected)
        assert store.grade(row) == MADE_GRADES[row]
    assert (store.classes.dtype, store.confidence.dtype) == (np.uint8, np.uint8)
    assert (store.folder / CLASSES).stat().st_size == 6 * 64
    assert (store.folder / GRADING).stat().st_size == 6 * 5 * 4


def test_a_made_mask(store):
    red, yellow, disc = store.marked(2)
    assert np.array_equal(red, painted(2) == RED)
    assert np.array_equal(yellow, painted(2) == YELLOW)
    assert np.array_equal(disc, painted(2) == DISC)
    assert (red.sum(), yellow.sum(), disc.sum()) == (3, 6, 9)
    assert red.dtype == np.uint8


@pytest.mark.parametrize("grade", [-1, 0, 1, 4])
def test_grade_zero_erases_red_and_yellow_but_not_the_disc(store, grade):
    sizes = store.marked(2, grade=grade).sum(axis=(1, 2)).tolist()
    assert sizes == ([0, 0, 9] if grade == 0 else [3, 6, 9])


@pytest.mark.parametrize(
    ("threshold", "sizes"),
    [
        (0.6, [3, 6, 9]),  # as sure as that is sure enough
        (0.61, [2, 4, 4]),  # without the first column and, of the disc's three rows, the last
        (0.8, [2, 4, 4]),
        (0.81, [0, 0, 0]),
    ],
)
def test_pixels_that_the_network_was_less_sure_of_are_not_marked(store, threshold, sizes):
    assert store.marked(2, min_confidence=threshold).sum(axis=(1, 2)).tolist() == sizes


def test_a_store_says_what_it_does_not_hold(tmp_path):
    few = label(tmp_path / "few", rows=[2])
    for ask in (few.marked, few.grade):
        with pytest.raises(DataError, match="row 3"):
            ask(3)
    masks = label(tmp_path / "masks", Reader(("segmentation",)))
    assert masks.grade_probabilities is None and not (tmp_path / "masks" / GRADING).exists()
    assert masks.marked(2).any()
    with pytest.raises(DataError, match="no made grade of row 2"):
        masks.grade(2)
    grades = label(tmp_path / "grades", Reader(("grading",)))
    assert grades.classes is None and grades.grade(0) == 4
    with pytest.raises(DataError, match="no made mask of row 2"):
        grades.marked(2)


# ------------------------------------------------------------------------------------------- interruptions
@pytest.mark.parametrize(("killed_at", "done"), [(0, 0), (1, 4)])
def test_a_stopped_run_goes_on(store, tmp_path, killed_at, done):
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path, Reader(killed_at=killed_at))
    with pytest.raises(DataError, match="not finished"):
        LabelStore.open(tmp_path)
    network = Reader()
    label(tmp_path, network)
    assert network.seen == len(ROWS) - done  # what was labelled is not computed again
    assert content(tmp_path) == content(store.folder)


@pytest.mark.parametrize(
    ("lengths", "done"),
    [
        ({CLASSES: 2 * 64 + 30}, 2),  # killed in the middle of a photograph
        ({CLASSES: 5 * 64, CONFIDENCE: 3 * 64 + 1, GRADING: 3 * 20 + 19}, 3),
        ({GRADING: 1 * 20 + 3}, 1),
        ({CONFIDENCE: 0}, 0),
    ],
)
def test_half_written_files_are_cut_and_finished(store, tmp_path, lengths, done):
    label(tmp_path)
    for name, length in lengths.items():
        with open(tmp_path / name, "ab") as file:
            file.truncate(length)
    for name in lengths:
        assert (tmp_path / name).stat().st_size == lengths[name]
    network = Reader()
    label(tmp_path, network)
    assert network.seen == len(ROWS) - done
    assert content(tmp_path) == content(store.folder)


def test_a_finished_store_is_opened_without_the_network(store, tmp_path):
    label(tmp_path)
    before = content(tmp_path)
    label(tmp_path, Reader(killed_at=0))
    assert content(tmp_path) == before


# ------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"maker": "another"}, "maker"),
        ({"rows": ROWS[:-1]}, "rows"),
        ({"rows": ROWS[::-1]}, "rows"),
        ({"size": 32}, "size"),
        ({"copy": Album(fingerprint="other paintings")}, "data_fingerprint"),
        ({"network": Reader(("segmentation",))}, "tasks"),
        ({"maker": "another", "size": 32}, "maker, size"),
    ],
)
def test_a_store_of_something_else_is_refused_and_kept(store, changed, said):
    before = content(store.folder)
    with pytest.raises(DataError, match=f"differ in: {said}\\.") as error:
        label(store.folder, **changed)
    assert str(store.folder) in str(error.value) and "another folder" in str(error.value)
    assert content(store.folder) == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("missing", [1, 64, "all"])
def test_an_unfinished_store_is_not_opened(tmp_path, name, missing):
    label(tmp_path)
    if missing == "all":
        (tmp_path / name).unlink()
    else:
        with open(tmp_path / name, "ab") as file:
            file.truncate((tmp_path / name).stat().st_size - missing)
    with pytest.raises(DataError, match=f"(?s){name}.*not finished.*Delete"):
        LabelStore.open(tmp_path)


@pytest.mark.parametrize(
    "text", ["", '{"maker": "the rea', "\x00\x00", "{}", "[]", '{"rows": [1], "tasks": []}']
)
def test_a_damaged_about_is_said(tmp_path, text):
    label(tmp_path)
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(DataError, match=r"about\.json is damaged.*Delete"):
        LabelStore.open(tmp_path)
    with pytest.raises(DataError, match=r"about\.json is damaged.*Delete"):
        label(tmp_path)


def test_a_folder_without_a_store_is_said(tmp_path):
    with pytest.raises(DataError, match="no store"):
        LabelStore.open(tmp_path / "nowhere")


def test_the_digest_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the first example of FIPS 180-4
    assert file_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


# -------------------------------------------------------------------------------- beside the true labels
def test_a_true_label_comes_first(store):
    album = Album()
    both = WithMadeLabels(album, store)
    # The true grades, also where the network says otherwise (1, 3, 5); made ones for part A only (0 and 4).
    assert both.grades.tolist() == [4, 0, 2, 0, 0, 3]
    assert album.grades.tolist() == GRADES  # the copy itself is as it was
    assert all(both.has_mask(row) for row in range(6))
    assert np.array_equal(both.image(2), album.image(2))
    for row in (0, 4):  # true masks, though the network painted others
        assert np.array_equal(both.mask(row), album.mask(row))
        assert not np.array_equal(both.mask(row)[LESIONS.index("HE")], painted(row) == RED)
    # Made: red is MA as well as HE, yellow EX as well as SE.
    expected = np.stack([painted(2) == class_ for class_ in (RED, RED, YELLOW, YELLOW, DISC)])
    assert np.array_equal(both.mask(2), expected)
    # A true grade 0 erases all but the disc (1 and 3); a made grade 0 stands beside a true mask (4).
    for row in (1, 3):
        assert both.mask(row).sum(axis=(1, 2)).tolist() == [0, 0, 0, 0, 3 * (row + 1)]
    assert both.mask(4)[LESIONS.index("HE")].sum() == 2


def test_a_store_of_some_photographs_or_of_one_task(tmp_path):
    some = WithMadeLabels(Album(), label(tmp_path / "some", rows=[2, 0]))
    assert [some.has_mask(row) for row in range(6)] == [True, False, True, False, True, False]
    assert some.grades.tolist() == [4, 0, 2, 0, -1, 3]
    masks = WithMadeLabels(Album(), label(tmp_path / "masks", Reader(("segmentation",))))
    assert masks.grades.tolist() == GRADES and masks.has_mask(2)
    grades = WithMadeLabels(Album(), label(tmp_path / "grades", Reader(("grading",))))
    assert grades.grades.tolist() == [4, 0, 2, 0, 0, 3]
    assert [grades.has_mask(row) for row in range(6)] == [True, False, False, False, True, False]


def test_made_masks_grow_to_the_working_copys_size(store):
    large = WithMadeLabels(Album(size=3 * SIDE), store)
    mask = large.mask(2)
    assert mask.shape == (5, 24, 24)
    assert np.array_equal(mask[LESIONS.index("OD")], np.kron(painted(2) == DISC, np.ones((3, 3))))


def test_a_dataset_learns_from_made_labels(store):
    both = WithMadeLabels(Album(), store)
    sample, healthy = FundusDataset(both, [2, 1], resize_recipe(SIDE), space=RED_YELLOW)
    assert sample["has_mask"] and sample["grade"] == 2
    # The picture is lit everywhere, so what the network called 'outside' is background here.
    expected = np.where(painted(2) == OUTSIDE, BACKGROUND, painted(2))
    assert np.array_equal(sample["mask"].argmax(0).numpy(), expected)
    assert healthy["mask"][[RED, YELLOW]].sum() == 0 and healthy["mask"][DISC].sum() == 6


# ------------------------------------------------------------------------------------------- how good?
def test_made_masks_that_are_true_score_one(tmp_path):
    album = Album(true_classes={row: painted(row) for row in (0, 4)})
    scores = compare_with_truth(label(tmp_path, copy=album), album, [0, 4])
    for kind in ("dice", "iou", "aupr", "image/dice"):
        for name in ("red", "yellow", "disc", "mean", "mean_with_disc"):
            assert scores[f"segmentation/{kind}/{name}"] == 1


def test_made_masks_against_others_by_hand(store):
    # Photograph 0 is said to have 1 red, 2 yellow and 3 disc pixels, and has 4, 8 and 12, those among them;
    # photograph 4 is said to have 5, 10 and 15, and has 2, 4 and 6 of these.
    scores = compare_with_truth(store, Album(), np.array([0, 4]))
    for name in ("red", "yellow", "disc"):
        # pooled, in units of a group's column: 1 + 2 hits, 1 + 5 said, 4 + 2 true
        assert scores[f"segmentation/dice/{name}"] == pytest.approx(2 * 3 / (6 + 6))
        assert scores[f"segmentation/iou/{name}"] == pytest.approx(3 / 9)
        assert scores[f"segmentation/image/dice/{name}"] == pytest.approx((2 / 5 + 4 / 7) / 2)
    # Without the unsure first column nothing of photograph 0 is left, and of 4: red 4 said, 1 of them true.
    sure = compare_with_truth(store, Album(), [0, 4], min_confidence=0.7)
    assert sure["segmentation/dice/red"] == pytest.approx(2 * 1 / (4 + 6))
    interval = compare_with_truth(store, Album(), [0, 4], n_bootstrap=50)
    low, high = (interval[f"segmentation/dice/red/{end}"] for end in ("low", "high"))
    assert low == pytest.approx(2 / 5) and high == pytest.approx(4 / 7)  # one photograph twice, or the other


def test_true_masks_lie_beside_the_made_ones(store):
    truth = true_masks(store, Album(), [4, 0])
    assert truth.shape == (2, 3, SIDE, SIDE)
    for place, painting in enumerate((painted(1), painted(3))):
        assert np.array_equal(truth[place], [painting == group for group in (RED, YELLOW, DISC)])


def test_what_a_threshold_does_by_hand(store):
    table = by_confidence(store, Album(), [0, 4], (0.0, 0.7, 0.9))
    # Red: 1 + 5 marks, of which 1 + 2 are right; 4 + 2 are true. From 0.7 on the unsure first column goes:
    # 0 + 4 marks, of which 1 is right. From 0.9 on nothing is left.
    assert table["kept/red"].tolist() == pytest.approx([1, 4 / 6, 0])
    assert table["right/red"].tolist() == pytest.approx([3 / 6, 1 / 4, np.nan], nan_ok=True)
    assert table["dice/red"].tolist() == pytest.approx([2 * 3 / (6 + 6), 2 * 1 / (4 + 6), 0])
    for level in table.index:  # the two ways to judge a threshold agree
        scores = compare_with_truth(store, Album(), [0, 4], min_confidence=level)
        for name in ("red", "yellow", "disc"):
            assert table[f"dice/{name}"][level] == pytest.approx(scores[f"segmentation/dice/{name}"])


def test_what_erasing_takes_away(store):
    table = erased(store, Album(), [3, 2, 0])
    assert list(table.columns) == ["row", "grade", "red", "yellow"]
    assert table.row.tolist() == [3, 2, 0] and table.grade.tolist() == [0, 2, -1]
    assert table.red.tolist() == pytest.approx([4 / 64, 3 / 64, 1 / 64])
    assert table.yellow.tolist() == pytest.approx([8 / 64, 6 / 64, 2 / 64])


def test_made_grades_beside_the_true_ones(store, tmp_path):
    album = Album()
    grades = pd.array([None, 0, 2, 0, None, 3], dtype="Int64")
    # Photograph 0 stands in part B as 2, photograph 4 as 1.
    album.table = pd.DataFrame({"photo": ["p", "q", "p", "r", "q", "s"], "grade": grades})
    table = made_grades(store, album, [0, 4])
    assert list(table.columns) == ["row", "grade", "made", "probability"]
    assert table[["row", "grade", "made"]].to_numpy().tolist() == [[0, 2, 4], [4, 0, 0]]
    assert table.probability.tolist() == pytest.approx([0.8, 0.8])
    # Two files of one photograph with grades 0 and 3: which is true, nobody knows.
    album.table = pd.DataFrame({"photo": ["p", "q", "p", "q", "q", "q"], "grade": grades})
    assert made_grades(store, album, [0, 4]).row.tolist() == [0]
    masks_only = label(tmp_path, Reader(("segmentation",)))
    assert made_grades(masks_only, album, [0, 4]).empty


# ------------------------------------------------------------------------------------------- known grades
def test_known_grades_by_hand():
    rows = [
        ("once", None), ("once", 3),  # part A's photograph, and part B's of the same eye
        ("alone", None),
        ("contradicted", 2), ("contradicted", None), ("contradicted", 4),
        ("twice", 0), ("twice", 0), ("twice", None),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["photo", "grade"]).astype({"grade": "Int64"})
    known = known_grades(table)
    assert known.tolist() == [3, 3, -1, -1, -1, -1, 0, 0, 0]
    assert known.dtype == np.int64


def test_known_grades_of_the_synthetic_set(synthetic_copy):
    table, known = synthetic_copy.table, known_grades(synthetic_copy.table)
    for row, photo in enumerate(table.photo):
        said = set(table.grade[table.photo == photo].dropna())
        assert known[row] == (said.pop() if len(said) == 1 else -1)
    assert ((table.part == "A") & (known >= 0)).sum() > 0


def test_the_known_grades_of_real_photographs_with_masks(real_idrid):
    table = read_idrid(real_idrid)
    table = link_photographs(table, thumbnails(table.image, progress=False))
    part_a = table.part == "A"
    known = known_grades(table)[part_a]
    in_part_b = table[part_a].photo.isin(table.photo[~part_a]).to_numpy()
    assert (len(known), in_part_b.sum(), (known >= 0).sum()) == (81, 60, 59)
    # One of the 60 stands in part B twice, as grade 4 (IDRiD_028) and as grade 3 (IDRiD_327).
    assert table[part_a]["name"][in_part_b & (known < 0)].tolist() == ["IDRiD_69"]
    assert set(known[known >= 0]) == {2, 3, 4}


def test_a_copy_with_other_grades_shows_the_same_pictures():
    album = Album()
    other = WithGrades(album, np.array([4, 4, 4, 4, 4, -1]))
    one, changed = (FundusDataset(copy, range(6), resize_recipe(SIDE)) for copy in (album, other))
    for before, after in zip(one, changed, strict=True):
        assert torch.equal(before["image"], after["image"]) and torch.equal(before["mask"], after["mask"])
        assert before["has_mask"] == after["has_mask"]
    assert [sample["grade"].item() for sample in changed] == [4, 4, 4, 4, 4, -1]
    assert [sample["grade"].item() for sample in one] == GRADES
