"""Graded sets on made folders: EyePACS's layout, a folder with a CSV, and what adding one to IDRiD gives."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import mtl, remove, save_photograph
from PIL import Image

from mtl_utils.data.check import check
from mtl_utils.data.eyepacs import (
    PHOTOGRAPH_FOLDERS,
    read_eyepacs,
    read_graded_folder,
    scan_eyepacs,
    scan_graded_folder,
    scan_grades,
)
from mtl_utils.data.idrid import read_idrid
from mtl_utils.data.layout import COLUMNS
from mtl_utils.data.prepare import fingerprint, prepare
from mtl_utils.data.sets import layout_of, read_graded, with_graded
from mtl_utils.data.splits import LEAK, balanced_rows, split
from mtl_utils.errors import DataError
from mtl_utils.lesions import LESIONS

TRAIN_GRADES = [0, 0, 0, 1, 2, 2, 3, 4]
TEST_GRADES = [0, 1, 4]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def eyepacs(tmp_path: Path) -> Path:
    """EyePACS as published, with eight photographs for training and three for testing."""
    root = tmp_path / "eyepacs"
    for folder, grades, first in (("train", TRAIN_GRADES, 10), ("test", TEST_GRADES, 90)):
        for number in range(first, first + len(grades)):
            save_photograph(root / folder / f"{number}_left.jpeg", number)
    write(root / "trainLabels.csv", "image,level", *rows(TRAIN_GRADES, 10))
    write(
        root / "retinopathy_solution.csv",
        "image,level,Usage",
        *(f"{row},Public" for row in rows(TEST_GRADES, 90)),
    )
    return root


def rows(grades: list[int], first: int) -> list[str]:
    return [f"{number}_left,{grade}" for number, grade in enumerate(grades, first)]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of one's own: three photographs, one of them in a folder below, and a CSV."""
    root = tmp_path / "own"
    for number, name in enumerate(("a.jpg", "b.png", "clinic/c.JPEG")):
        save_photograph(root / name, number)
    write(root / "grades.csv", "image,grade", "a,0", "b.png,4", "clinic/c.JPEG,2")
    return root


def test_a_name_is_the_same_however_its_accents_are_written(own: Path) -> None:
    """A Mac's file system takes a letter and its accent apart; a spreadsheet writes one sign."""
    (own / "a.jpg").rename(own / unicodedata.normalize("NFD", "müller.jpg"))
    write(own / "grades.csv", "image,grade", unicodedata.normalize("NFC", "müller,3"), "b,4", "c,2")
    table = read_graded_folder(own)
    assert table.set_index("name").grade[unicodedata.normalize("NFC", "müller")] == 3


# --- layouts ------------------------------------------------------------------------------------------------


def test_eyepacs_as_published(eyepacs, synthetic_root):
    table = read_eyepacs(eyepacs)
    assert tuple(table.columns) == COLUMNS
    pd.testing.assert_series_equal(table.dtypes, read_idrid(synthetic_root).dtypes)
    assert table.split.tolist() == ["train"] * 8 + ["test"] * 3
    assert table.grade.tolist() == TRAIN_GRADES + TEST_GRADES
    assert set(table.part) == {"B"} and table.photo.is_unique
    assert table[["dme", *LESIONS]].isna().all(axis=None)
    assert all(Path(row.image).stem == row.name and Path(row.image).exists() for row in table.itertuples())


def test_eyepacs_without_its_test_set(eyepacs):
    shutil.rmtree(eyepacs / "test")
    (eyepacs / "retinopathy_solution.csv").unlink()
    assert read_eyepacs(eyepacs).grade.tolist() == TRAIN_GRADES


@pytest.mark.parametrize("place", range(1, len(PHOTOGRAPH_FOLDERS["train"])))
def test_variants_of_eyepacs_read_the_same(eyepacs, place):
    before = read_eyepacs(eyepacs)
    for name in ("train", "test"):
        # Kaggle's smaller copies have a folder of the same name around the photographs.
        new = eyepacs / PHOTOGRAPH_FOLDERS[name][place].title()
        (eyepacs / name).rename(eyepacs / "moved")
        new.mkdir()
        (eyepacs / "moved").rename(new / new.name)
    for path in sorted((new / new.name).iterdir()):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    (new / new.name / "._90_left.png").write_bytes(b"\0\5\26\7")
    (eyepacs / "trainLabels.csv").rename(eyepacs / "trainlabels.CSV")
    changed = read_eyepacs(eyepacs)
    assert changed.image.str.endswith(".png").sum() == 3
    pd.testing.assert_frame_equal(changed.drop(columns="image"), before.drop(columns="image"))


def test_a_folder_of_ones_own(own):
    table = read_graded_folder(own)
    assert table[["name", "grade", "split"]].to_numpy().tolist() == [
        ["a", 0, "train"],
        ["b", 4, "train"],
        ["c", 2, "train"],
    ]
    assert [Path(path).relative_to(own).as_posix() for path in table.image] == [
        "a.jpg",
        "b.png",
        "clinic/c.JPEG",
    ]


def test_a_folder_of_ones_own_may_have_splits(own):
    write(own / "grades.csv", "Split ,IMAGE,Grade,remark", "Test,a,0,x", "train,b,1,", "train,c,2,", "")
    assert read_graded_folder(own).split.tolist() == ["test", "train", "train"]


@pytest.mark.parametrize("image", ["image", "Image ID", "image_id", "id_code", "FileName", "Image name"])
@pytest.mark.parametrize("grade", ["grade", "Level", "diagnosis", " Retinopathy grade "])
def test_header_variants(tmp_path, image, grade):
    path = write(tmp_path / "x.csv", f"\ufeff{image},other,{grade}", " 10.5 ,x, 3", "", "left\\b.JPG,,4.0")
    table, problems = scan_grades(path)
    assert problems == []
    assert table.to_numpy().tolist() == [["10.5", 3, "train"], ["b", 4, "train"]]


def test_the_same_row_twice_counts_once(own):
    write(own / "grades.csv", "image,grade", "a,0", "a.jpg,0.0", "b,1", "c,2")
    assert read_graded_folder(own).name.tolist() == ["a", "b", "c"]


def test_the_layout_is_recognised(eyepacs, own, synthetic_root):
    assert [layout_of(root).name for root in (eyepacs, own, synthetic_root)] == [
        "EyePACS set",
        "graded folder",
        "IDRiD",
    ]
    pd.testing.assert_frame_equal(read_graded(eyepacs), read_eyepacs(eyepacs))
    pd.testing.assert_frame_equal(read_graded(own), read_graded_folder(own))
    part_b = read_idrid(synthetic_root).query("part == 'B'").reset_index(drop=True)
    pd.testing.assert_frame_equal(read_graded(synthetic_root), part_b)


def test_part_b_of_idrid_alone_is_a_graded_set(synthetic_root, tmp_path):
    root = tmp_path / "idrid"
    shutil.copytree(synthetic_root / "B. Disease Grading", root / "B. Disease Grading")
    assert len(read_graded(root)) == 30


@pytest.mark.parametrize("read", [read_graded, read_eyepacs, read_graded_folder, check])
def test_a_root_that_is_no_folder(tmp_path, read):
    (tmp_path / "train.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="unpack it first"):
        read(tmp_path / "train.zip")


def test_an_unknown_layout_says_which_there_are(tmp_path, capsys, monkeypatch):
    save_photograph(tmp_path / "a.jpg", 0)
    with pytest.raises(DataError, match="no layout that the course knows") as raised:
        read_graded(tmp_path)
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "EyePACS",
        "DDR",
        "IDRiD",
        "DiaRetDB1",
        "a folder of your own",
    ]
    code, out, err = mtl(capsys, monkeypatch, "data", "check", tmp_path)
    assert (code, out, err) == (2, "", f"mtl: {raised.value}\n")


# --- what can be wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable CSV"),
        ("\xff\xfe\x00I\x00m", "not a readable CSV"),  # UTF-16
        ("image,grade\n,\n\n", "has no rows"),
        ("eye,grade\na,0", "no column for the image (its columns: eye, grade)"),
        ("image,stage\na,0", "no column for the grade (its columns: image, stage)"),
        ("image,grade,diagnosis\na,0,1", "more than one column for the grade"),
        ("image,grade,Split,split\na,0,train,test", "more than one column split"),
        ("image,grade,split,split\na,0,train,test", "more than one column split"),
        ("image,grade\na,1,0\nb,4\nc,2", "line 2 has more cells than the header"),
        ("image,grade\na,1\nb,4,0\nc,2", "Expected 2 fields in line 3, saw 3"),
        ("image;grade\na;0", "with a comma between them"),
        ("image,grade\nb,4\nc,2\na,5", "line 4: a has grade '5', expected one of 0, 1, 2, 3, 4"),
        ("image,grade\nb,4\nc,2\na,-1", "line 4: a has grade '-1'"),
        ("image,grade\nb,4\nc,2\na,1.5", "line 4: a has grade '1.5'"),
        ("image,grade\nb,4\n\nc,2\na,mild", "line 5: a has grade 'mild'"),
        ("image,grade\na,\nb,4\nc,2", "line 2: a has grade ''"),
        ("image,grade\na,1\nb,4\nc,2\n,3", "line 5: no image"),
        ("image,grade\na,1\nb,4\nc,2\na.jpg,3", "line 5: a stands there twice, with different labels"),
        ("image,grade,split\na,1,val\nb,4,train\nc,2,test", "line 2: a has split 'val', expected train or"),
        ("image,grade\na,1\nb,4\nc,2\nd,3", "d has no photograph"),
    ],
)
def test_a_wrong_csv_is_named_once(own, content, message):
    path = own / "grades.csv"
    path.write_bytes(content.encode("latin-1"))
    table, (problem,) = scan_graded_folder(own)
    assert problem.startswith(str(path)) and message in problem
    assert len(table) == 3  # check opens every photograph all the same
    with pytest.raises(DataError, match="not a whole graded folder") as raised:
        read_graded_folder(own)
    assert raised.value.problems == [problem]


def test_wrong_photographs_of_a_folder_are_named_once_each(own):
    listed = save_photograph(own / "clinic" / "d.jpg", 8)
    twin = save_photograph(own / "clinic" / "a.png", 9)
    remove(own / "b.png")
    _, problems = scan_graded_folder(own)
    assert len(problems) == 3
    for problem, words in zip(
        problems,
        [(twin, own / "a.jpg", "the same name"), ("b has no photograph",), (listed, "without a row")],
    ):
        assert all(str(word) in problem for word in words)


def test_a_folder_without_its_csv_with_several_or_without_photographs(own):
    write(own / "other.csv", "image,grade")
    assert "several CSV files (grades.csv, other.csv)" in str(scan_graded_folder(own)[1])
    remove(own / "other.csv")
    for name in ("a.jpg", "b.png", "clinic"):
        remove(own / name)
    (problem,) = scan_graded_folder(own)[1]
    assert problem.startswith(f"{own}: no photographs there")
    remove(own / "grades.csv")
    (problem,) = scan_graded_folder(own)[1]
    assert problem.startswith(f"{own}: no CSV file there")


@pytest.mark.parametrize("missing", ["trainLabels.csv", "train", "retinopathy_solution.csv", "test"])
def test_a_missing_half_of_eyepacs_is_one_problem(eyepacs, missing):
    path = remove(eyepacs / missing)
    table, (problem,) = scan_eyepacs(eyepacs)
    assert problem.startswith(f"{path}: missing")
    assert len(table) == (3 if "rain" in missing else 8)
    with pytest.raises(DataError, match="not a whole EyePACS set"):
        read_graded(eyepacs)


# --- mtl data check -----------------------------------------------------------------------------------------


def test_check_tells_grades_and_photographs_that_are_there_twice(eyepacs, capsys, monkeypatch):
    shutil.copy(eyepacs / "train" / "11_left.jpeg", eyepacs / "train" / "10_left.jpeg")  # both of grade 0
    shutil.copy(eyepacs / "train" / "17_left.jpeg", eyepacs / "test" / "90_left.jpeg")  # of grade 4 and 0
    code, out, err = mtl(capsys, monkeypatch, "data", "check", eyepacs)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        f"EyePACS set: {eyepacs}",
        "",
        "training/testing photographs 8/3",
        "training photographs of grade 0/1/2/3/4 3/1/2/1/1",
        "testing photographs of grade 0/1/2/3/4 1/1/0/0/1",
        "",
        "The same photograph in several files (pictures compared):",
        "duplicate pairs 2",
        "across the splits 1",
        "with different labels 1",
        "",
        "Every file was read to its end. No problem found.",
    ]


def test_check_of_a_folder_names_all_that_is_wrong(own, capsys, monkeypatch):
    cut = own / "a.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    black = own / "b.png"
    Image.new("RGB", (72, 72)).save(black)
    extra = save_photograph(own / "d.png", 7)
    write(own / "grades.csv", "image,grade", "a,0", "b,4", "c,7")
    code, out, err = mtl(capsys, monkeypatch, "data", "check", own)
    assert code == 2 and err == f"mtl: {own} is not a whole graded folder: 4 problem(s), listed above.\n"
    problems = out.split("Problems (4):")[1]
    for words in (
        "line 4: c has grade '7'",
        f"{extra}: a photograph without",
        str(cut),
        f"{black}: no field",
    ):
        assert words in problems
    assert "Traceback" not in out + err
    report = check(own, progress=False)
    assert report.table.photo.is_unique and report.grades().train.tolist() == [1, 0, 0, 0, 1]


# --- added to IDRiD -----------------------------------------------------------------------------------------


def test_all_of_a_further_set_is_for_training_under_names_of_its_own(synthetic_root, eyepacs):
    idrid, graded = read_idrid(synthetic_root), read_graded(eyepacs)
    both = with_graded(idrid, graded)
    pd.testing.assert_frame_equal(both.head(len(idrid)), idrid)
    added = both.tail(len(graded))
    assert set(added.split) == {"train"} and set(added.part) == {"B"} and both.photo.is_unique
    assert added.name.tolist()[::10] == ["graded-train-10_left", "graded-test-92_left"]
    assert added.grade.tolist() == graded.grade.tolist() and added.image.tolist() == graded.image.tolist()
    # Part B of IDRiD has one name in both splits: still no two rows are called the same.
    assert with_graded(idrid, read_graded(synthetic_root)).photo.is_unique


def test_the_working_copy_holds_both_sets_and_goes_on_after_a_kill(
    synthetic_root, eyepacs, tmp_path, monkeypatch, capsys
):
    idrid = read_idrid(synthetic_root)
    tested = idrid.query("part == 'B' and split == 'test'").iloc[0]
    shutil.copy(tested.image, eyepacs / "train" / "10_left.jpeg")
    out = tmp_path / "copy"
    code, said, err = mtl(
        capsys,
        monkeypatch,
        "data",
        "prepare",
        synthetic_root,
        "--size",
        32,
        "--out",
        out,
        "--graded",
        eyepacs,
    )
    assert (code, err) == (0, "") and "50 photographs" in said
    copy = prepare(synthetic_root, 32, out, progress=False, graded=eyepacs)  # opens what is there
    assert len(copy) == len(idrid) + 11 and copy.label == "synthetic set + graded set"
    assert copy.image(len(copy) - 1).mean() > 30 and not copy.has_mask(len(copy) - 1)

    # The photograph that IDRiD is judged with is found by its looks; the clean protocol takes it away.
    parts = split(copy.table, "clean")
    leaked = parts.dropped[parts.dropped.name == "graded-train-10_left"]
    assert leaked.reason.tolist() == [LEAK]
    assert "graded-train-10_left" in set(
        copy.table.name.iloc[split(copy.table, "paper").rows("train", "grading")]
    )

    rows = split(copy.table, "paper").rows("train", "grading")
    assert len(rows) == 20 + 11
    chosen = balanced_rows(rows, copy.grades)
    counts = np.bincount(copy.grades[chosen], minlength=5)
    assert len(set(counts)) == 1 and counts[0] == np.bincount(copy.grades[rows], minlength=5).min()

    # A run that was killed after 41 photographs, two of them of the further set, ends with the same bytes.
    unfinished = tmp_path / f"other.{copy.fingerprint}-32-v1.part"
    unfinished.mkdir()
    whole = (out / "photographs.u8").read_bytes()
    (unfinished / "photographs.u8").write_bytes(whole[: 41 * 32 * 32 * 3 + 5])
    shutil.copy(out / "masks.u8", unfinished)
    again = prepare(synthetic_root, 32, tmp_path / "other", progress=False, graded=eyepacs)
    assert (again.folder / "photographs.u8").read_bytes() == whole and not unfinished.exists()


def test_the_fingerprint_covers_both_sets(synthetic_root, eyepacs):
    idrid = read_idrid(synthetic_root)
    before = fingerprint(with_graded(idrid, read_graded(eyepacs)))
    assert before != fingerprint(idrid)
    csv = eyepacs / "trainLabels.csv"
    csv.write_text(csv.read_text().replace("10_left,0", "10_left,1"))
    relabelled = fingerprint(with_graded(idrid, read_graded(eyepacs)))
    save_photograph(eyepacs / "test" / "90_left.jpeg", 1000)
    assert len({before, relabelled, fingerprint(with_graded(idrid, read_graded(eyepacs)))}) == 3


def test_a_broken_further_set_is_not_prepared(synthetic_root, eyepacs, tmp_path, capsys, monkeypatch):
    missing = remove(eyepacs / "train" / "10_left.jpeg")
    words = ["--size", 32, "--out", tmp_path / "copy", "--graded", eyepacs]
    code, _, err = mtl(capsys, monkeypatch, "data", "prepare", synthetic_root, *words)
    assert code == 2 and f"{missing.stem} has no photograph" in err and "Traceback" not in err
    assert not (tmp_path / "copy").exists()


def test_train_takes_further_sets(synthetic_root, eyepacs, tmp_path, capsys, monkeypatch):
    def asked(root, size, progress, graded, masked):
        raise DataError(f"prepare {root} with {graded} and {masked}")

    monkeypatch.setattr("mtl_utils.data.prepare.prepare", asked)
    further = ["--graded", eyepacs, "--masked", synthetic_root]
    words = ["mtunet-grading", "--data", synthetic_root, *further, "--profile", "smoke"]
    code, _, err = mtl(capsys, monkeypatch, "train", *words)
    assert (code, err) == (2, f"mtl: prepare {synthetic_root} with {eyepacs} and {synthetic_root}\n")


def test_a_photograph_may_be_called_na_and_empty_cells_are_no_surplus(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_text("image,grade\nNA,1,,\nnull,2\n")
    table, problems = scan_grades(path)
    assert (table.name.tolist(), table.grade.tolist(), problems) == (["NA", "null"], [1, 2], [])
