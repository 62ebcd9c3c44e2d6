"""DDR on a made folder in the published layout: what is read, what can be wrong, and what is made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import mtl, remove, save_photograph
from PIL import Image

from mtl_utils import records
from mtl_utils.data.check import check
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.ddr import DDR, count_ungradable, read_ddr, scan_ddr, scan_list
from mtl_utils.data.idrid import read_idrid
from mtl_utils.data.layout import COLUMNS
from mtl_utils.data.prepare import prepare
from mtl_utils.data.sets import layout_of, read_graded, read_masked, with_masked
from mtl_utils.data.splits import CHOOSES, LEAK, split
from mtl_utils.errors import DataError, MTLError
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS
from mtl_utils.runtime import Runtime

SIZE = 72
GRADES = {"train": [0, 0, 1, 5, 2, 4], "valid": [0, 3], "test": [1, 5, 5]}
FIRST = {"train": 100, "valid": 200, "test": 300}
DRAWN = {"train": 3, "valid": 2, "test": 2}


def save_mask(path: Path, box: tuple[slice, slice] | None, size: int = SIZE) -> Path:
    values = np.zeros((size, size), np.uint8)
    if box:
        values[box] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


BOX = (slice(20, 40), slice(30, 50))


@pytest.fixture
def ddr(tmp_path: Path) -> Path:
    """DDR as published: each split has photographs with grades and others with four masks, SE empty."""
    root = tmp_path / "DDR-dataset"
    for split_, grades in GRADES.items():
        names = [f"007-{FIRST[split_] + place:04d}-000.jpg" for place in range(len(grades))]
        for place, name in enumerate(names):
            save_photograph(root / "DR_grading" / split_ / name, FIRST[split_] + place)
        lines = [f"{name} {grade}\n" for name, grade in zip(names, grades)]
        (root / "DR_grading" / f"{split_}.txt").write_text("".join(lines))
    for split_, number in DRAWN.items():
        folder = root / "lesion_segmentation" / split_
        for place in range(number):
            name = f"007-{FIRST[split_] + 50 + place}-100"
            save_photograph(folder / "image" / f"{name}.jpg", FIRST[split_] + 50 + place)
            for lesion in DISEASE_LESIONS:
                labels = "segmentation label" if split_ == "valid" else "label"
                save_mask(folder / labels / lesion / f"{name}.tif", None if lesion == "SE" else BOX)
    return root


# --- the table ----------------------------------------------------------------------------------------------


def test_ddr_as_published(ddr, synthetic_root):
    table = read_ddr(ddr)
    assert tuple(table.columns) == COLUMNS
    pd.testing.assert_series_equal(table.dtypes, read_idrid(synthetic_root).dtypes)
    masked, graded = table[table.part == "A"], table[table.part == "B"]
    assert masked.split.tolist() == 3 * ["train"] + 2 * ["val"] + 2 * ["test"]
    assert masked[[*DISEASE_LESIONS]].notna().all(axis=None)
    assert masked.SE.iloc[3].endswith("valid/segmentation label/SE/007-250-100.tif")
    assert graded.split.tolist() == 5 * ["train"] + 2 * ["val"] + ["test"]
    assert graded.grade.tolist() == [0, 0, 1, 2, 4, 0, 3, 1]  # without grade 5
    assert graded[[*LESIONS, "dme"]].isna().all(axis=None) and table.OD.isna().all()
    assert count_ungradable(ddr) == {"train": 1, "val": 0, "test": 2}
    assert table.photo.is_unique and all(Path(path).exists() for path in table.image)


@pytest.mark.parametrize(("absent", "part"), [("DR_grading", "A"), ("lesion_segmentation", "B")])
def test_either_half_may_be_absent(ddr, absent, part):
    remove(ddr / absent)
    assert set(read_ddr(ddr).part) == {part} and layout_of(ddr).name == DDR
    assert sum(count_ungradable(ddr).values()) == (0 if part == "A" else 3)


def test_the_archive_s_own_folder_around_it_is_no_obstacle(ddr):
    assert layout_of(ddr.parent).name == DDR
    pd.testing.assert_frame_equal(read_ddr(ddr.parent), read_ddr(ddr))
    for half in ("lesion_segmentation", "DR_grading"):
        assert layout_of(ddr / half).name == DDR
    part = {"A": read_masked(ddr / "lesion_segmentation"), "B": read_graded(ddr)}
    assert {name: set(table.part) for name, table in part.items()} == {"A": {"A"}, "B": {"B"}}


# --- what can be wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ("\xff\xfe0", "not a readable list"),
        ("a.jpg 0\nb.jpg\n", "line 2: 'b.jpg', expected a photograph and its grade"),
        ("a.jpg,0\n", "line 1: 'a.jpg,0', expected a photograph and its grade"),
        ("a.jpg 0 1\n", "line 1: 'a.jpg 0 1', expected"),
        ("a.jpg 6\n", "line 1: a has grade '6', expected 0 to 4, or 5 for ungradable"),
        ("a.jpg mild\n", "line 1: a has grade 'mild'"),
        ("a.jpg 0\n\na.jpg 1\n", "line 3: a stands there twice, with different grades"),
    ],
)
def test_a_wrong_list_is_named_once(tmp_path, content, message):
    path = tmp_path / "train.txt"
    path.write_bytes(content.encode("latin-1"))
    try:
        _, (problem,) = scan_list(path)
    except DataError as error:
        problem = str(error)
    assert problem.startswith(str(path)) and message in problem


def test_a_list_may_say_the_same_twice(tmp_path):
    (tmp_path / "x.txt").write_text("a.jpg 0\nb.jpg   5\n\na.jpg 0\n")
    table, problems = scan_list(tmp_path / "x.txt")
    assert table.to_numpy().tolist() == [["a", 0], ["b", 5]] and problems == []


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def edit(path: Path, old: str, new: str) -> Path:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return path


TRAIN, VALID = "lesion_segmentation/train", "lesion_segmentation/valid"

# Each breaks a copy and returns what the report must say.
BREAKS = {
    "truncated photograph": lambda root: [cut(root / f"{TRAIN}/image/007-150-100.jpg"), "half copied"],
    "truncated mask": lambda root: [cut(root / f"{TRAIN}/label/MA/007-150-100.tif"), "half copied"],
    "mask of another size": lambda root: [
        save_mask(root / f"{TRAIN}/label/MA/007-150-100.tif", BOX, 60),
        "60 x 60 pixels, its photograph 007-150-100.jpg 72 x 72",
    ],
    "full mask": lambda root: [
        save_mask(root / f"{TRAIN}/label/MA/007-150-100.tif", (slice(None), slice(None))),
        "the whole picture is lesion",
    ],
    "photograph as mask": lambda root: [
        save_photograph(root / f"{TRAIN}/label/EX/007-150-100.tif", 3),
        "values, a mask has 2",
    ],
    "mask without its photograph": lambda root: [
        remove(root / f"{TRAIN}/image/007-150-100.jpg").stem,
        root / f"{TRAIN}/label/HE/007-150-100.tif",
        "a mask without its photograph",
    ],
    "no masks of a lesion": lambda root: [
        remove(root / f"{VALID}/segmentation label/HE"),
        "no masks there",
    ],
    "no label folder": lambda root: [
        remove(root / f"{VALID}/segmentation label").with_name("label") / "EX",
        "no masks there",
    ],
    "no photographs of a split": lambda root: [remove(root / "DR_grading/valid"), "no photographs there"],
    "no list": lambda root: [remove(root / "DR_grading/test.txt"), "not a readable list"],
    "grade of 7": lambda root: [
        edit(root / "DR_grading/train.txt", "007-0104-000.jpg 2", "007-0104-000.jpg 7"),
        "line 5: 007-0104-000 has grade '7'",
    ],
    "row without its photograph": lambda root: [
        remove(root / "DR_grading/train/007-0104-000.jpg").stem,
        root / "DR_grading/train.txt",
        "has no photograph",
    ],
    "photograph without a row": lambda root: [
        save_photograph(root / "DR_grading/test/new.jpg", 7),
        "a photograph without a row in test.txt",
    ],
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_copy_exits_2_and_names_the_file(ddr, capsys, monkeypatch, break_it):
    words = break_it(ddr)
    code, out, err = mtl(capsys, monkeypatch, "data", "check", ddr)
    problems = out.split("Problems (")[1]
    assert [word for word in map(str, words) if word not in problems] == []
    assert code == 2 and "not a whole DDR" in err and "Traceback" not in out + err


def test_nothing_of_ddr(tmp_path):
    (problem,) = scan_ddr(tmp_path)[1]
    assert problem.startswith(f"{tmp_path}: lesion_segmentation and DR_grading absent")
    with pytest.raises(DataError, match="is not a folder"):
        read_ddr(tmp_path / "nowhere")


# --- mtl data check -----------------------------------------------------------------------------------------


def test_check_counts_splits_lesions_grades_and_photographs_that_are_there_twice(ddr, capsys, monkeypatch):
    shutil.copy(ddr / "DR_grading/train/007-0101-000.jpg", ddr / f"{VALID}/image/007-250-100.jpg")
    code, out, err = mtl(capsys, monkeypatch, "data", "check", ddr)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        f"DDR: {ddr}",
        "",
        "part A (masks), training/validation/testing photographs 3/2/2",
        "training masks of MA/HE/EX/SE 3/3/3/0",
        "validation masks of MA/HE/EX/SE 2/2/2/0",
        "testing masks of MA/HE/EX/SE 2/2/2/0",
        "part B (grades), training/validation/testing photographs 5/2/1",
        "training photographs of grade 0/1/2/3/4 2/1/1/0/1",
        "validation photographs of grade 0/1/2/3/4 1/0/0/1/0",
        "testing photographs of grade 0/1/2/3/4 0/1/0/0/0",
        "training/validation/testing photographs left out as ungradable 1/0/2",
        "",
        "The same photograph in several files (pictures compared):",
        "photographs in both parts 1",
        "across the splits 1",
        "duplicate pairs inside part B 0",
        "across the splits 0",
        "with different labels 0",
        "",
        "Every file was read to its end. No problem found.",
    ]


def test_check_of_one_half(ddr):
    remove(ddr / "DR_grading")
    report = check(ddr, progress=False)
    assert report.problems == [] and report.photographs().loc["B"].sum() == 0
    assert report.masks().loc["SE"].sum() == 0 and report.table.SE.isna().all()


# --- working copy, splits, samples --------------------------------------------------------------------------


def test_the_working_copy_and_its_samples(ddr, tmp_path):
    copy = prepare(ddr, 32, tmp_path / "copy", progress=False)
    assert copy.label == "DDR" and copy.sets == (DDR,) and not copy.synthetic
    assert (tmp_path / "copy" / "masks.u8").stat().st_size == 7 * 32 * 32
    parts = split(copy.table)
    assert parts.counts().to_dict() == {
        "grading": {"train": 5, "val": 2, "test": 1},
        "segmentation": {"train": 3, "val": 2, "test": 2},
    }
    sample = FundusDataset(copy, parts.rows("val", "segmentation"))[1]
    assert sample["has_mask"] and sample["grade"] == -1
    # The lesion covers 20 x 20 of the 68 x 68 pixels that the field of view takes, here shrunk to 32 x 32.
    areas = sample["mask"].sum(dim=(1, 2)).tolist()
    assert areas[:3] == pytest.approx(3 * [(20 * 32 / 68) ** 2], rel=0.2) and areas[3:] == [0, 0]
    assert FundusDataset(copy, parts.rows("test", "grading"))[0]["grade"] == 1


def test_the_disc_is_unknown_where_masks_are_used(ddr, synthetic_copy, tmp_path):
    copy = prepare(ddr, 32, tmp_path / "copy", progress=False)
    assert copy.unknown_lesions() == ("OD",) and synthetic_copy.unknown_lesions() == ()
    parts = split(copy.table)
    assert copy.unknown_lesions(parts.rows("train", "grading")) == ()
    synthetic_copy.require_lesions(LESIONS)
    copy.require_lesions(DISEASE_LESIONS)
    copy.require_lesions(LESIONS, parts.rows("train", "grading"))
    with pytest.raises(MTLError, match=r"^DDR: .* the optic disc .*'fused' or 'separate'"):
        copy.require_lesions(LESIONS)


def test_masks_of_a_further_set_are_for_training(ddr, synthetic_root, tmp_path):
    idrid = read_idrid(synthetic_root)
    both = with_masked(idrid, read_masked(ddr))
    pd.testing.assert_frame_equal(both.head(len(idrid)), idrid)
    added = both.tail(7)
    assert set(added.split) == {"train"} and set(added.part) == {"A"} and both.photo.is_unique
    assert added.name.tolist()[2:4] == ["masked-train-007-152-100", "masked-val-007-250-100"]

    copy = prepare(synthetic_root, 32, tmp_path / "copy", progress=False, masked=ddr, graded=ddr)
    assert copy.label == "synthetic set + DDR + graded set" and len(copy) == len(idrid) + 7 + 8
    parts = split(copy.table, "paper")
    for role, unknown in (("train", ("OD",)), ("test", ())):
        assert copy.unknown_lesions(parts.rows(role, "segmentation")) == unknown
    assert parts.counts().loc["train"].to_dict() == {"grading": 20 + 8, "segmentation": 6 + 7}


def test_a_mask_in_which_nothing_is_drawn_is_no_lesion(ddr, tmp_path):
    """Not even where the small copy shows none of it: a dot of one pixel is a lesion."""
    labels = ddr / "lesion_segmentation" / "train" / "label"
    save_mask(labels / "MA" / "007-150-100.tif", (slice(25, 26), slice(25, 26)))
    copy = prepare(ddr, 32, tmp_path / "copy", progress=False)
    drawn = copy.table[copy.table.part == "A"]
    assert drawn.SE.isna().all() and drawn[["MA", "HE", "EX"]].notna().all(axis=None)
    assert not copy.mask(int(drawn.index[drawn.name == "007-150-100"][0]))[LESIONS.index("MA")].any()
    assert copy.fingerprint == prepare(ddr, 32, tmp_path / "copy", progress=False).fingerprint


@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_official_validation_photographs_validate(ddr, protocol):
    table = read_ddr(ddr)
    parts = split(table, protocol)
    assert parts.dropped.empty and parts.roles.tolist() == table.split.tolist()
    for task, part in (("grading", "B"), ("segmentation", "A")):
        official = np.flatnonzero((table.part == part) & (table.split == "val"))
        assert parts.rows("val", task).tolist() == official.tolist()


def test_the_clean_protocol_keeps_validation_and_test_photographs_apart(ddr):
    table = read_ddr(ddr)
    photo = table.photo.to_numpy(object).copy()
    place = {name: row for row, name in enumerate(table.name)}
    photo[place["007-0100-000"]] = photo[place["007-350-100"]]  # graded for training, tested with masks
    photo[place["007-0101-000"]] = photo[place["007-250-100"]]  # graded for training, validates with masks
    photo[place["007-251-100"]] = photo[place["007-0300-000"]]  # validates with masks, tested for its grade
    parts = split(table.assign(photo=photo))
    assert parts.dropped[["name", "reason"]].to_numpy().tolist() == [
        ["007-251-100", LEAK],
        ["007-0100-000", LEAK],
        ["007-0101-000", CHOOSES],
    ]


def test_a_set_with_masks_only_is_split(ddr):
    masked = read_masked(ddr)
    parts = split(masked.assign(split=masked.split.replace("val", "train")))
    assert parts.counts().segmentation.to_dict() == {"train": 4, "val": 1, "test": 2}
    assert parts.counts().grading.sum() == 0


# --- DeepMT-DR ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("further", [False, True], ids=["DDR", "with a graded set"])
def test_deepmt_dr_learns_from_ddr(ddr, synthetic_root, tmp_path, capsys, monkeypatch, further):
    monkeypatch.setattr(records, "gmsv_costs", lambda *_: pd.DataFrame())  # slow, and the same on any data
    words = ["train", "deepmt-dr", "--profile", "smoke", "--out", tmp_path / "run"]
    words += ["--data", synthetic_root, "--graded", ddr] if further else ["--data", ddr]
    status, printed, _ = mtl(capsys, monkeypatch, *words)
    assert status == 0 and "isr/bicubic/psnr" in printed
    (record,) = records.load_records(tmp_path / "run")
    assert record["data"] == ("synthetic set + graded set" if further else "DDR")
    numbers = {task: number["train"] for task, number in record["photographs"].items()}
    assert numbers["isr"] == numbers["grading"]
    if further:
        assert numbers["grading"] > 8 and numbers["segmentation"] > 0
    else:
        assert numbers == {"grading": 5, "segmentation": 3, "isr": 5}
        # One lesion was drawn nowhere: what cannot be measured is left out.
        assert {"segmentation/auc/MA", "evidence/auc/MA"} <= set(record)
        assert not {"segmentation/auc/SE", "evidence/auc/SE"} & set(record)
        assert [row["name"] for row in record["evidence_per_photograph"]] == [
            "007-350-100",
            "007-351-100",
        ]


def test_half_of_ddr_is_enough_without_the_lesion_subnet(ddr, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(records, "gmsv_costs", lambda *_: pd.DataFrame())
    remove(ddr / "lesion_segmentation")
    words = ("--profile", "smoke", "--data", ddr, "--out", tmp_path / "run")
    status, _, _ = mtl(capsys, monkeypatch, "train", "deepmt-lesions-removed", *words)
    (record,) = records.load_records(tmp_path / "run")
    assert status == 0 and record["evidence_per_photograph"] == [] and record["isr/psnr"] > 0
    assert not any(
        name.startswith("evidence/") for name in record
    )  # nobody drew what it could be held against


def test_figures_name_the_set_that_they_are_drawn_from(ddr):
    assert Runtime("smoke", 0, "cpu", ddr, False, ddr.parent).label == DDR
    assert Runtime("smoke", 0, "cpu", ddr, True, ddr.parent).label == "synthetic set"
    with pytest.raises(DataError, match="no layout"):
        _ = Runtime("smoke", 0, "cpu", ddr / "DR_grading" / "train", False, ddr).label
