"""The three split protocols: what they promise, by hand, on the synthetic set and on the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtl_utils.data.duplicates import link_photographs, thumbnails
from mtl_utils.data.idrid import read_idrid
from mtl_utils.data.splits import (
    CHOOSES,
    CONFLICT,
    FOLDS,
    IN_PART_A,
    LEAK,
    PROTOCOLS,
    REPEAT,
    ROLES,
    TASK_PARTS,
    Split,
    balanced_rows,
    split,
    with_few,
)
from mtl_utils.errors import MTLError
from mtl_utils.lesions import DISEASE_LESIONS


@pytest.fixture(scope="module")
def synthetic_table(synthetic_root: Path) -> pd.DataFrame:
    table = read_idrid(synthetic_root)
    return link_photographs(table, thumbnails(table.image, progress=False))


@pytest.fixture(scope="module")
def real_table(real_idrid: Path) -> pd.DataFrame:
    table = read_idrid(real_idrid)
    return link_photographs(table, thumbnails(table.image, progress=False))


@pytest.fixture(params=["synthetic_table", "real_table"])
def table(request: pytest.FixtureRequest) -> pd.DataFrame:
    return request.getfixturevalue(request.param)


def photos(table: pd.DataFrame, roles: str | tuple[str, ...], seed: int = 0) -> set[str]:
    """The photographs that have one of these roles in any task, under the clean protocol."""
    made = split(table, seed=seed)
    roles = (roles,) if isinstance(roles, str) else roles
    return {
        photo for role in roles for task in TASK_PARTS for photo in table.photo.iloc[made.rows(role, task)]
    }


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_clean_has_no_photograph_on_two_sides_of_any_task(table, seed):
    train, val, test = (photos(table, role, seed) for role in ROLES)
    assert train and val and test
    assert not train & val and not train & test and not val & test


def test_clean_keeps_the_official_test_splits_whole(table):
    made = split(table)
    for task, part in TASK_PARTS.items():
        official = np.flatnonzero((table.part == part) & (table.split == "test"))
        assert made.rows("test", task).tolist() == official.tolist()


def test_every_photograph_has_one_role_or_a_reason(table):
    made = split(table)
    rows = np.concatenate([made.rows(role, task) for role in ROLES for task in TASK_PARTS])
    assert len(rows) == len(set(rows)) == len(table) - len(made.dropped)
    dropped = table.iloc[sorted(set(range(len(table))) - set(rows))]
    keys = ["part", "split", "name"]
    assert made.dropped[keys].to_numpy().tolist() == dropped[keys].to_numpy().tolist()
    assert set(made.dropped.split) == {"train"}
    assert set(made.dropped.reason) <= {LEAK, CONFLICT, REPEAT}


def test_the_reasons_hold(table):
    dropped = split(table).dropped.merge(table, on=["part", "split", "name"])
    for row in dropped.itertuples():
        same = table[(table.photo == row.photo) & (table.name != row.name)]
        inside = same[(same.part == row.part) & (same.split == "train")]
        if row.reason == LEAK:
            assert (table[table.photo == row.photo].split == "test").any()
        elif row.reason == CONFLICT:
            assert ((inside.grade != row.grade) | (inside.dme != row.dme)).any()
        else:
            assert (inside.grade == row.grade).all() and (inside.dme == row.dme).all()


def test_no_photograph_is_learned_with_two_labels_or_twice(table):
    made = split(table)
    for task in TASK_PARTS:
        learned = table.iloc[np.concatenate([made.rows("train", task), made.rows("val", task)])]
        assert learned.photo.is_unique


def test_the_seed_decides_and_nothing_else(table):
    first, again, other = split(table, seed=3), split(table, seed=3), split(table, seed=4)
    assert np.array_equal(first.roles, again.roles)
    assert not np.array_equal(first.roles, other.roles)
    assert np.array_equal(first.roles == "test", other.roles == "test")
    pd.testing.assert_frame_equal(first.dropped, other.dropped)


def test_validation_holds_every_grade_in_proportion(real_table):
    made = split(real_table)
    counts = {
        role: real_table.grade.iloc[made.rows(role, "grading")].value_counts().sort_index()
        for role in ("train", "val")
    }
    share = counts["val"] / (counts["train"] + counts["val"])
    assert share.between(0.10, 0.25).all()
    assert 7 <= len(made.rows("val", "segmentation")) <= 10


def test_the_real_numbers(real_table):
    """By hand from the known pairs.

    15 of part A's test are in part B's training, two of them twice (A62, A69), and one of part B's test is:
    18 leaks in B. That leaves three of the five pairs inside part B's training: two conflict, one repeats.
    """
    made = split(real_table)
    counts = made.dropped.groupby(["part", "reason"]).size().to_dict()
    assert counts == {("A", LEAK): 3, ("B", LEAK): 15 + 1 + 2, ("B", CONFLICT): 4, ("B", REPEAT): 1}
    assert made.counts().loc["test"].to_dict() == {"grading": 103, "segmentation": 27}
    assert made.counts().loc[["train", "val"]].sum().to_dict() == {
        "grading": 413 - 23,
        "segmentation": 54 - 3,
    }


def test_paper_is_the_official_split_as_printed(table):
    made = split(table, "paper")
    assert made.dropped.empty
    for task, part in TASK_PARTS.items():
        for role, printed in (("train", "train"), ("val", "test"), ("test", "test")):
            official = np.flatnonzero((table.part == part) & (table.split == printed))
            assert made.rows(role, task).tolist() == official.tolist()


def test_paper_s_numbers_on_the_real_set(real_table):
    assert split(real_table, "paper").counts().to_dict() == {
        "grading": {"train": 413, "val": 103, "test": 103},
        "segmentation": {"train": 54, "val": 27, "test": 27},
    }


def test_clean_by_hand():
    rows = [("B", "train", f"B-{i}", i % 5, 0) for i in range(20)]
    rows += [("A", "train", f"A-{i}", None, None) for i in range(4)]
    rows += [
        ("B", "train", "leak-in-b", 1, 0), ("A", "test", "leak-in-b", None, None),
        ("A", "train", "leak-in-a", None, None), ("B", "test", "leak-in-a", 1, 0),
        ("B", "train", "grades-differ", 1, 0), ("B", "train", "grades-differ", 2, 0),
        ("B", "train", "risks-differ", 2, 0), ("B", "train", "risks-differ", 2, 1),
        ("B", "train", "twice", 3, 0), ("B", "train", "twice", 3, 0),
        ("A", "train", "in both", None, None), ("B", "train", "in both", 4, 0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["part", "split", "photo", "grade", "dme"]).astype(
        {"grade": "Int64", "dme": "Int64"}
    )
    table["name"] = [f"IDRiD_{i:02d}" for i in range(len(table))]
    dropped = split(table).dropped.merge(table, on=["part", "split", "name"])
    assert sorted(zip(dropped.photo, dropped.reason)) == sorted(
        [("leak-in-b", LEAK), ("leak-in-a", LEAK), ("twice", REPEAT)]
        + 2 * [("grades-differ", CONFLICT), ("risks-differ", CONFLICT)]
    )


def test_what_is_carved_for_one_task_is_not_learned_for_the_other():
    """Part A with an official validation split, part B without one, and all photographs of A graded in B."""
    rows = [("A", split_, f"photo {i}", None) for i, split_ in enumerate(10 * ["train"] + 2 * ["val"])]
    rows += [("B", "train", f"photo {i}", i % 5) for i in range(30)]
    table = pd.DataFrame(rows, columns=["part", "split", "photo", "grade"]).astype({"grade": "Int64"})
    table["dme"] = pd.array([pd.NA] * len(table), dtype="Int64")
    table["name"] = [f"{i:02d}" for i in range(len(table))]
    met = 0
    for seed in range(5):
        parts = split(table, seed=seed)
        learned, carved = (set(table.photo[parts.roles == role]) for role in ("train", "val"))
        assert not learned & carved
        shared = table[(table.part == "A") & (table.split == "train") & table.photo.isin(carved)]
        left_out = parts.dropped[parts.dropped.part == "A"]
        assert left_out.name.tolist() == shared.name.tolist() and set(left_out.reason) <= {CHOOSES}
        met += len(shared)
    assert met


def test_wrong_names_give_a_clear_message(synthetic_table):
    with pytest.raises(MTLError, match=r"no protocol 'dirty'.*clean, paper, clean-folds"):
        split(synthetic_table, "dirty")
    for protocol in PROTOCOLS:
        made = split(synthetic_table, protocol)
        with pytest.raises(MTLError, match="Roles: train, val, test"):
            made.rows("training", "grading")
        with pytest.raises(MTLError, match="tasks: grading, segmentation"):
            made.rows("train", "classification")


def test_too_few_photographs_for_a_validation_split():
    table = pd.DataFrame(
        {"part": ["B"], "split": ["train"], "name": ["x"], "photo": ["x"], "grade": [1], "dme": [0]}
    )
    with pytest.raises(MTLError, match="too few photographs"):
        split(table.astype({"grade": "Int64", "dme": "Int64"}))


def test_a_few_photographs_of_each_grade_are_split_too():
    names = [f"photo-{number}" for number in range(20)]
    columns = {"part": "B", "split": "train", "name": names, "photo": names, "grade": [0, 1, 2, 3, 4] * 4}
    table = pd.DataFrame(columns).assign(dme=0).astype({"grade": "Int64", "dme": "Int64"})
    roles = split(table).roles
    assert 1 <= (roles == "val").sum() <= 5 and {*roles} == {"train", "val"}


# ------------------------------------------------------------------------------------------------- folds
def folds(table: pd.DataFrame, seed: int = 0) -> list[Split]:
    return [split(table, "clean-folds", seed, fold) for fold in range(FOLDS)]


@pytest.mark.parametrize("seed", [0, 3])
def test_each_photograph_of_part_a_is_judged_once(table, seed):
    judged = np.concatenate([made.rows("test", "segmentation") for made in folds(table, seed)])
    assert sorted(judged) == np.flatnonzero(table.part == "A").tolist()
    sizes = [len(made.rows("test", "segmentation")) for made in folds(table, seed)]
    assert max(sizes) - min(sizes) <= 2


def test_a_fold_has_no_photograph_on_two_sides(table):
    for made in folds(table):
        sides = [
            {photo for task in TASK_PARTS for photo in table.photo.iloc[made.rows(role, task)]}
            for role in ROLES
        ]
        assert all(sides) and sum(map(len, sides)) == len(set.union(*sides))
        for task in TASK_PARTS:
            assert len(made.rows("train", task)) and len(made.rows("val", task))


def test_part_b_shows_nothing_of_part_a(table):
    twins = (table.part == "B") & table.photo.isin(table.photo[table.part == "A"])
    assert twins.any()
    for made in folds(table):
        assert set(made.roles[twins]) == {"dropped"}
        reasons = made.dropped.reason == IN_PART_A
        names = table[twins][["part", "split", "name"]].to_numpy().tolist()
        assert made.dropped[reasons][["part", "split", "name"]].to_numpy().tolist() == names
        # of the others part B's official test split is whole
        official = (table.part == "B") & (table.split == "test") & ~twins
        assert made.rows("test", "grading").tolist() == np.flatnonzero(official).tolist()


def test_the_real_folds(real_table):
    """By hand: 60 photographs of part A stand in part B, two of them twice. The other pairs are those of
    `test_the_real_numbers`.
    """
    for made in folds(real_table):
        counts = made.dropped.groupby(["part", "reason"]).size().to_dict()
        assert counts == {("B", IN_PART_A): 62, ("B", LEAK): 1, ("B", CONFLICT): 4, ("B", REPEAT): 1}
        assert len(made.rows("test", "segmentation")) in (16, 17)
        assert len(made.rows("test", "grading")) == 103 - 3
        # soft exudates are the rarest: 40 photographs, a fifth of them in each fold
        soft = real_table.SE.iloc[made.rows("test", "segmentation")].notna().sum()
        assert 6 <= soft <= 10


def test_the_seed_decides_on_the_folds(table):
    def judged(seed: int) -> list[list[int]]:
        return [made.rows("test", "segmentation").tolist() for made in folds(table, seed)]

    assert judged(3) == judged(3)
    assert sorted(judged(3)) != sorted(judged(4))


def part_a(photos: list[str], lesions: list[str]) -> pd.DataFrame:
    """A table of photographs with masks, and ten of part B."""
    rows = [
        ("A", "train", photo, None, *("drawn" if lesion in kinds else None for lesion in DISEASE_LESIONS))
        for photo, kinds in zip(photos, lesions, strict=True)
    ]
    rows += [("B", "train", f"b{number}", number % 5, *[None] * 4) for number in range(10)]
    table = pd.DataFrame(rows, columns=["part", "split", "photo", "grade", *DISEASE_LESIONS])
    return table.assign(
        name=table.index.astype(str),
        dme=pd.array([0] * len(table), "Int64"),
        grade=table.grade.astype("Int64"),
    )


def test_files_of_one_photograph_fall_together():
    photos = [f"a{number // 2}" for number in range(20)]  # each photograph twice
    made = part_a(photos, ["MA HE"] * 20)
    seen = set()
    for each in folds(made):
        judged = each.rows("test", "segmentation")
        names = [photos[row] for row in judged]
        assert sorted(names) == sorted(2 * [*set(names)])
        seen |= set(names)
    assert seen == set(photos)


def test_each_fold_has_its_share_of_a_lesion():
    made = part_a([f"a{number}" for number in range(25)], ["SE"] * 5 + ["MA EX"] * 20)
    for each in folds(made):
        judged = each.rows("test", "segmentation")
        assert ((judged < 5).sum(), len(judged)) == (1, 5)


def test_mixtures_of_lesions_may_all_be_rare():
    made = part_a([f"a{number}" for number in range(6)], ["MA", "HE", "EX", "SE", "MA HE", "MA EX"])
    judged = np.concatenate([each.rows("test", "segmentation") for each in folds(made)])
    assert sorted(judged) == [0, 1, 2, 3, 4, 5]


def test_folds_that_cannot_be():
    enough = part_a([f"a{number}" for number in range(10)], ["MA"] * 10)
    for fold in (-1, 5):
        with pytest.raises(MTLError, match=f"no fold {fold}: there are 5, 0 to 4"):
            split(enough, "clean-folds", fold=fold)
    few = part_a(["a1", "a2", "a3", "a4", "a4"], ["MA"] * 5)
    with pytest.raises(MTLError, match="4 photographs with masks: too few for 5 folds"):
        split(few, "clean-folds")


def test_the_older_protocols_are_what_they_were(synthetic_table):
    """The roles of version f066791, from before there were folds. Recorded runs rest on them."""
    made = split(synthetic_table)
    assert np.flatnonzero(made.roles == "val").tolist() == [3, 16, 17, 24]
    assert np.flatnonzero(made.roles == "dropped").tolist() == [0, 10, 11, 12, 14]


def test_the_older_protocols_are_what_they_were_on_the_real_set(real_table):
    roles = " ".join(split(real_table).roles)
    assert hashlib.sha256(roles.encode()).hexdigest().startswith("f01734e917d43cd1")


# Rows 1-11 are to be balanced: six of grade 0, two of grade 1, three of grade 3. Rows 0 and 12 are others'.
GRADES = np.array([1, 0, 0, 3, 0, 1, 0, 3, 0, 1, 3, 0, 1])
ROWS = np.arange(1, 12)


def times(rows: np.ndarray, grade: int) -> list[int]:
    """How often each photograph of a grade was taken, the most often first."""
    counts = np.bincount(rows, minlength=len(GRADES))[ROWS[GRADES[ROWS] == grade]]
    return sorted(counts.tolist(), reverse=True)


def test_balanced_rows_take_the_number_of_the_rarest_grade():
    chosen = balanced_rows(ROWS, GRADES)
    assert np.bincount(GRADES[chosen]).tolist() == [2, 2, 0, 2]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(ROWS)
    assert {5, 9} <= set(chosen)  # both of the rarest grade


@pytest.mark.parametrize(
    ("total", "taken"),
    [
        # each grade 3: of grade 1's two photographs one comes twice
        (9, ([1, 1, 1, 0, 0, 0], [2, 1], [1, 1, 1])),
        # 10 / 3 is rounded up to 4
        (10, ([1, 1, 1, 1, 0, 0], [2, 2], [2, 1, 1])),
        # each grade 10: six photographs in turn, two in turn, three in turn
        (30, ([2, 2, 2, 2, 1, 1], [5, 5], [4, 3, 3])),
    ],
)
def test_balanced_rows_of_a_wanted_number_repeat_evenly(total, taken):
    chosen = balanced_rows(ROWS, GRADES, total, np.random.default_rng(3))
    assert set(chosen) <= set(ROWS)
    assert tuple(times(chosen, grade) for grade in (0, 1, 3)) == taken


def test_balanced_rows_follow_their_generator():
    again = [balanced_rows(ROWS, GRADES, rng=np.random.default_rng(seed)) for seed in (1, 1, *range(2, 8))]
    assert np.array_equal(again[0], again[1])
    assert np.array_equal(balanced_rows(ROWS, GRADES), balanced_rows(ROWS, GRADES))
    assert len({tuple(sorted(rows)) for rows in again}) > 1


def test_few_are_drawn_by_the_seed():
    table = pd.DataFrame({"part": "A", "split": "train", "name": [f"{n:02d}" for n in range(20)]})
    parts = Split("clean", np.full(20, "train", object), np.full(20, "segmentation", object),
                  pd.DataFrame(columns=["part", "split", "name", "reason"]))  # fmt: skip
    few = (with_few(parts, table, "segmentation", 5, seed) for seed in (0, 1, 2, 0))
    kept = [tuple(each.rows("train", "segmentation")) for each in few]
    assert len(set(kept)) == 3 and kept[0] == kept[3] and all(len(set(each)) == 5 for each in kept)
