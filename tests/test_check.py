"""`check`: the counts, and the ways in which a copy can be broken. Each problem names its file."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import mtl, remove
from PIL import Image

from mtl_utils.data.check import Report, check
from mtl_utils.data.duplicates import conflicting, pairs_between
from mtl_utils.data.idrid import (
    IMAGE_FOLDER,
    LABEL_FILES,
    LABEL_FOLDER,
    LESION_FOLDERS,
    MASK_FOLDER,
    PART_FOLDERS,
    SPLIT_FOLDERS,
)
from mtl_utils.lesions import LESIONS

A, B = PART_FOLDERS.values()
TRAIN = SPLIT_FOLDERS["train"]


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the small synthetic set to break."""
    return shutil.copytree(synthetic_root, tmp_path / "set")


@pytest.fixture(scope="module")
def report(synthetic_root: Path) -> Report:
    return check(synthetic_root, progress=False)


# --- a whole copy -------------------------------------------------------------------------------------------


def test_counts_of_the_synthetic_set(report, synthetic_root):
    assert report.problems == []
    assert report.photographs().to_numpy().tolist() == [[6, 3], [20, 10]]
    for split in SPLIT_FOLDERS:
        folder = synthetic_root / A / MASK_FOLDER / SPLIT_FOLDERS[split]
        assert report.masks()[split].to_dict() == {
            name: len(list((folder / LESION_FOLDERS[name]).iterdir())) for name in LESIONS
        }
        labels = pd.read_csv(synthetic_root / B / LABEL_FOLDER / LABEL_FILES[split])
        assert (
            report.grades()[split].to_dict()
            == labels["Retinopathy grade"].value_counts().reindex(range(5)).to_dict()
        )
        assert report.dme_risks()[split].sum() == len(labels)


def test_equal_photographs_are_counted_as_they_were_drawn(report, synthetic_root):
    note = json.loads((synthetic_root / "synthetic.json").read_text())
    eyes = {tuple(key.split("-")): eye for key, eye in note["eyes"].items()}
    shown = {
        (part, split): {eye for (p, s, _), eye in eyes.items() if (p, s) == (part, split)}
        for part in "AB"
        for split in SPLIT_FOLDERS
    }
    both = report.in_both_parts()
    for in_a in SPLIT_FOLDERS:
        for in_b in SPLIT_FOLDERS:
            assert both.loc[in_a, in_b] == len(shown["A", in_a] & shown["B", in_b])
    twice = [
        eye
        for eye, times in Counter(eye for (part, *_), eye in eyes.items() if part == "B").items()
        if times == 2
    ]
    pairs = report.duplicate_pairs("B")
    assert len(pairs) == len(twice) >= 2
    assert conflicting(pairs).sum() == len(note["labels_that_conflict"]) >= 1
    assert report.duplicate_pairs("A").empty


def test_the_report_is_readable_and_says_that_the_set_is_synthetic(report):
    text = report.text()
    assert text.startswith("SYNTHETIC set")
    for numbers in (
        "6/3",
        "20/10",
        "/".join(map(str, report.grades().train)),
        "/".join(map(str, report.masks().test)),
    ):
        assert numbers in text
    assert "No problem found" in text
    assert all(len(line) < 100 for line in text.splitlines()[1:])


def test_a_photograph_that_part_b_holds_twice_counts_once():
    columns = ["part", "split", "name", "photo", "grade", "dme"]
    rows = [
        ("A", "test", "IDRiD_62", "p", None, None),
        ("B", "train", "IDRiD_073", "p", 2, 1),
        ("B", "train", "IDRiD_375", "p", 2, 1),
    ]
    table = pd.DataFrame(rows, columns=columns).astype({"grade": "Int64", "dme": "Int64"})
    report = Report(Path("x"), False, table.assign(**dict.fromkeys(LESIONS)), [])
    assert report.in_both_parts().loc["test"].tolist() == [1, 0]
    assert len(report.duplicate_pairs("B")) == 1
    assert re.search(r"photographs in both parts +1\n", report.text())


# --- broken copies ------------------------------------------------------------------------------------------


def photograph(root: Path, part: str, name: str) -> Path:
    return root / part / IMAGE_FOLDER / TRAIN / f"{name}.jpg"


def mask(root: Path, name: str, lesion: str) -> Path:
    return root / A / MASK_FOLDER / TRAIN / LESION_FOLDERS[lesion] / f"{name}_{lesion}.tif"


def labels(root: Path) -> Path:
    return root / B / LABEL_FOLDER / LABEL_FILES["train"]


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def save_mask(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def edit_labels(root: Path, old: str, new: str) -> Path:
    text = labels(root).read_bytes().decode()
    assert old in text
    labels(root).write_bytes(text.replace(old, new, 1).encode())
    return labels(root)


def grade_of_seven(root: Path) -> tuple[Path, str]:
    path = labels(root)
    lines = path.read_text().splitlines()
    name, _, rest = lines[5].split(",", 2)
    lines[5] = f"{name},7,{rest}"
    path.write_text("\n".join(lines))
    return path, name


def unlink(path: Path) -> Path:
    path.unlink()
    return path


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def save_deep(path: Path) -> Path:
    """A photograph becomes a PNG of one channel and 16 bits."""
    grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path, format="PNG")
    return path


def second_set(root: Path) -> Path:
    """The copy goes one folder deeper, and another one beside it."""
    there = root / "one"
    there.mkdir()
    for part in (A, B):
        (root / part).rename(there / part)
    shutil.copytree(there / B, root / "two" / B)
    return there / B


# Each breaks a copy and returns what the report must say.
BREAKS = {
    "truncated JPEG": lambda root: [cut(photograph(root, B, "IDRiD_004")), "half copied"],
    "JPEG short of its last bytes": lambda root: [cut(photograph(root, A, "IDRiD_02"), 0.97), "half copied"],
    "empty JPEG": lambda root: [cut(photograph(root, B, "IDRiD_004"), 0), "half copied"],
    "black photograph": lambda root: [
        save_mask(photograph(root, B, "IDRiD_004"), np.zeros((192, 289))),
        "no field of view",
    ],
    "truncated mask": lambda root: [cut(mask(root, "IDRiD_02", "EX")), "half copied"],
    "mask short of its last bytes": lambda root: [cut(mask(root, "IDRiD_02", "EX"), 0.9), "half copied"],
    "mask of another size": lambda root: [
        save_mask(mask(root, "IDRiD_01", "MA"), np.eye(100, 50)),
        "50 x 100 pixels",
        "IDRiD_01.jpg 289 x 192",
    ],
    "empty mask": lambda root: [
        save_mask(mask(root, "IDRiD_01", "OD"), np.zeros((192, 289))),
        "nothing is drawn",
    ],
    "full mask": lambda root: [save_mask(mask(root, "IDRiD_01", "OD"), np.ones((192, 289))), "whole picture"],
    "photograph as mask": lambda root: [
        save_mask(mask(root, "IDRiD_01", "EX"), np.arange(192 * 289).reshape(192, 289) % 200),
        "holds 200 values",
    ],
    "grade of 7": lambda root: [*grade_of_seven(root), "grade '7'", "expected one of 0, 1, 2, 3, 4"],
    "CSV row without its image": lambda root: [
        unlink(photograph(root, B, "IDRiD_007")).stem,
        labels(root),
        "has no photograph",
    ],
    "image without a CSV row": lambda root: [
        edit_labels(root, "IDRiD_007,", "IDRiD_777,"),
        photograph(root, B, "IDRiD_007"),
        "without a row",
        "IDRiD_777",
    ],
    "name twice": lambda root: [
        edit_labels(root, "IDRiD_007,", "IDRiD_008,"),
        "IDRiD_008 stands there twice",
    ],
    "mask without its photograph": lambda root: [
        unlink(photograph(root, A, "IDRiD_03")).stem,
        mask(root, "IDRiD_03", "OD"),
    ],
    "mask without its lesion's name": lambda root: [
        mask(root, "IDRiD_01", "EX").rename(mask(root, "IDRiD_01", "EX").with_name("IDRiD_01.tif")),
        "ends in _EX",
    ],
    "CSV row without a name": lambda root: [
        edit_labels(root, "IDRiD_007,", ","),
        "line 8 has no image name",
    ],
    "grey photograph of 16 bits": lambda root: [
        save_deep(photograph(root, B, "IDRiD_004")),
        "more than 8 bits",
    ],
    "two sets side by side": lambda root: [second_set(root), root / "two" / B, "holds part B as well"],
    "part A absent": lambda root: [remove(root / A), "part A is absent"],
    "part B absent": lambda root: [remove(root / B), "part B is absent"],
    "a mask folder absent": lambda root: [remove(mask(root, "IDRiD_01", "SE").parent), "no masks there"],
    "a photograph folder absent": lambda root: [
        remove(photograph(root, B, "x").parent),
        "no photographs there",
    ],
    "CSV absent": lambda root: [unlink(labels(root)), "missing"],
    "empty CSV": lambda root: [write(labels(root), ""), "not a readable CSV"],
    "CSV with odd columns": lambda root: [write(labels(root), "a,b\n1,2\n"), "no column 'image...'"],
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_copy_exits_2_and_names_the_file(root, capsys, monkeypatch, break_it):
    words = break_it(root)
    code, out, err = mtl(capsys, monkeypatch, "data", "check", root)
    assert code == 2
    problems = out.split("Problems (")[1]
    assert [word for word in map(str, words) if word not in problems] == []
    assert "not a whole IDRiD" in err and "Traceback" not in out + err


def test_nothing_is_lost_when_many_things_are_wrong(root):
    compatible = (
        "truncated JPEG", "JPEG short of its last bytes", "truncated mask", "mask of another size",
        "empty mask", "photograph as mask", "grade of 7", "CSV row without its image",
        "mask without its photograph",
    )  # fmt: skip
    words = [str(word) for name in compatible for word in BREAKS[name](root)]
    report = check(root, progress=False)
    text = "\n".join(report.problems)
    assert [word for word in words if word not in text] == []
    assert len(report.problems) == len(set(report.problems))
    # What is left is still counted: one photograph of each part is gone, the truncated ones are there.
    assert report.photographs().train.tolist() == [5, 19]
    assert report.grades().train.sum() == 18


def test_a_whole_copy_exits_0(root, capsys, monkeypatch):
    code, out, err = mtl(capsys, monkeypatch, "data", "check", root)
    assert (code, err) == (0, "")
    assert "No problem found" in out


@pytest.mark.parametrize(("name", "message"), [("nowhere", "not a folder"), ("idrid.zip", "unpack it first")])
def test_a_path_that_is_no_folder_exits_2(tmp_path, capsys, monkeypatch, name, message):
    (tmp_path / "idrid.zip").write_bytes(b"PK\3\4")
    code, out, err = mtl(capsys, monkeypatch, "data", "check", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith(f"mtl: {tmp_path / name}") and message in err and err.count("\n") == 1


def test_a_synthetic_set_one_folder_deeper_is_still_called_synthetic(root):
    assert check(root.parent, progress=False).synthetic


# --- the real IDRiD -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_report(real_idrid: Path) -> Report:
    start, cpu = time.perf_counter(), time.process_time()
    report = check(real_idrid, progress=False)
    print(f"check: {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU time")
    return report


def test_counts_of_the_real_idrid(real_report):
    assert real_report.problems == [] and not real_report.synthetic
    assert real_report.photographs().to_numpy().tolist() == [[54, 27], [413, 103]]
    assert real_report.grades().to_numpy().T.tolist() == [[134, 20, 136, 74, 49], [34, 5, 32, 19, 13]]
    assert real_report.masks().to_numpy().T.tolist() == [[54, 53, 54, 26, 54], [27, 27, 27, 14, 27]]
    assert real_report.in_both_parts().to_numpy().tolist() == [[42, 3], [15, 0]]
    text = real_report.text()
    for numbers in (
        "54/27",
        "413/103",
        "134/20/136/74/49",
        "34/5/32/19/13",
        "54/53/54/26/54",
        "27/27/27/14/27",
        "15 + 3",
    ):
        assert numbers in text


def facts(real_idrid: Path, name: str) -> pd.DataFrame:
    path = real_idrid.parent / "facts" / name
    if not path.exists():
        pytest.skip(f"needs {path.parent.name}/{name} beside the data")
    return pd.read_csv(path)


def test_the_pairs_inside_part_b_are_the_known_ones(real_report, real_idrid):
    known = facts(real_idrid, "grading_exact_duplicates.csv")
    pairs = real_report.duplicate_pairs("B")
    found = {
        frozenset([(row.split_left, row.name_left), (row.split_right, row.name_right)])
        for row in pairs.itertuples()
    }
    assert found == {
        frozenset([(row.split_a, row.name_a), (row.split_b, row.name_b)]) for row in known.itertuples()
    }
    differ = (known.grade_a != known.grade_b) | (known.dme_a != known.dme_b)
    assert conflicting(pairs).sum() == differ.sum() == 4
    assert (pairs.split_left != pairs.split_right).sum() == (known.split_a != known.split_b).sum() == 1


def test_the_photographs_in_both_parts_are_the_known_ones(real_report, real_idrid):
    known = facts(real_idrid, "segmentation_to_grading_match.csv")
    wanted = {
        ((row.seg_split, row.seg_name), (row.grading_split, row.grading_name)) for row in known.itertuples()
    }
    pairs = pairs_between(real_report.table, "A", "B")
    found = {
        ((row.split_left, row.name_left), (row.split_right, row.name_right)) for row in pairs.itertuples()
    }
    # The list names one file of part B per photograph; where part B holds it twice we find both.
    twice = real_report.duplicate_pairs("B")
    other = {}
    for row in twice.itertuples():
        left, right = (row.split_left, row.name_left), (row.split_right, row.name_right)
        other |= {left: right, right: left}
    assert found == wanted | {(in_a, other[in_b]) for in_a, in_b in wanted if in_b in other}
    assert pairs.photo.nunique() == len(known) == 60


def test_two_photographs_of_one_name_are_named(root):
    first = photograph(root, A, "IDRiD_01")
    Image.open(photograph(root, A, "IDRiD_02")).save(first.with_suffix(".png"))
    (problem,) = check(root, progress=False).problems
    assert problem.startswith(f"{first.with_suffix('.png')}: {first} has the same name")


def test_a_download_of_full_length_that_was_not_filled_is_named(root):
    path = photograph(root, B, "IDRiD_001")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    (problem,) = check(root, progress=False).problems
    assert str(path) in problem and "zeros in the place of its end" in problem
    path.write_bytes(content + bytes(4096))  # whole, and padded to a block of the disk
    assert check(root, progress=False).problems == []
