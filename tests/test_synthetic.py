"""The synthetic set: the official layout, labels that follow from what is drawn, and IDRiD's traps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mtl_utils.data.idrid import (
    LABEL_FILES,
    LABEL_FOLDER,
    PART_FOLDERS,
    read_idrid,
    read_mask,
    read_photograph,
)
from mtl_utils.data.synthetic import MARKER, write_synthetic
from mtl_utils.data.synthetic_eye import draw_eye
from mtl_utils.data.synthetic_findings import SEVERE_PER_QUADRANT, Plan, dme_risk, icdr_grade
from mtl_utils.errors import MTLError
from mtl_utils.lesions import GRADES, LESIONS

SIZE, N_A, N_B = 128, (6, 3), (20, 10)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    return write_synthetic(folder, SIZE, n_a=N_A, n_b=N_B, progress=False)


@pytest.fixture(scope="module")
def table(root: Path) -> pd.DataFrame:
    """The whole set as the course's one reader sees it, with the number of the eye that each file shows."""
    read = read_idrid(root)
    return read.assign(eye=read.photo.map(json.loads((root / MARKER).read_text())["eyes"]))


def fingerprints(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_reader_finds_every_photograph_and_label(table):
    counts = table.groupby(["part", "split"]).size()
    assert counts.to_dict() == {("A", "train"): 6, ("A", "test"): 3, ("B", "train"): 20, ("B", "test"): 10}
    grades = table[table.part == "B"].groupby(["split", "grade"]).size()
    assert all(grades["train", grade] >= 2 and grades["test", grade] >= 1 for grade in GRADES)
    assert table[table.part == "A"].grade.isna().all()
    assert (table.dme[table.grade == 0] == 0).all()


def test_names_and_csv_are_as_published(root, table):
    part_a = table[table.part == "A"]
    # Part A counts on through the test split.
    assert part_a.name.tolist() == [f"IDRiD_{i:02d}" for i in range(1, 10)]
    csv = (root / PART_FOLDERS["B"] / LABEL_FOLDER / LABEL_FILES["train"]).read_bytes().split(b"\r\n")
    assert csv[0] == b"Image name,Retinopathy grade,Risk of macular edema ,,,,,,,,,"
    assert csv[1].startswith(b"IDRiD_001,") and csv[1].endswith(b",,,,,,,,,")
    csv = (root / PART_FOLDERS["B"] / LABEL_FOLDER / LABEL_FILES["test"]).read_bytes().split(b"\r\n")
    assert csv[0] == b"Image name,Retinopathy grade,Risk of macular edema "


def test_masks_fit_their_photographs_and_lie_in_the_field_of_view(table):
    part_a = table[table.part == "A"]
    assert part_a[["MA", "EX", "OD"]].notna().all(axis=None)
    assert part_a.SE.isna().any() and part_a.SE.notna().any() and part_a.HE.isna().sum() == 1
    modes = set()
    for row in part_a.itertuples():
        photograph = read_photograph(row.image)
        assert photograph.shape == (SIZE, 193, 3)  # 4288 : 2848
        lit = (photograph.max(axis=2) > 15).astype(np.uint8)
        lit = cv2.dilate(lit, np.ones((5, 5))) > 0  # JPEG frays the rim
        for path in part_a.loc[row.Index, list(LESIONS)].dropna():
            mask = read_mask(path)
            assert mask.shape == photograph.shape[:2]
            assert mask.any() and not (mask & ~lit).any(), path
            with Image.open(path) as image:
                modes.add(image.mode)
    assert modes == {"P", "RGBA"}


def test_lesions_cover_about_as_much_as_in_idrid():
    """Share of positive pixels in IDRiD's masks, in percent: 0.11, 1.0, 0.8, 0.4 where present, 1.8."""
    eyes = [
        draw_eye(Plan(grade, all_kinds=True, soft_exudates=True), 256, np.random.default_rng([5, i]))
        for i, grade in enumerate([2, 3, 2, 4, 2, 3, 2, 2, 3, 2, 3, 2])
    ]
    share = {lesion: 100 * np.mean([eye.masks[lesion].mean() for eye in eyes]) for lesion in LESIONS}
    for lesion, (low, high) in {
        "MA": (0.05, 0.3), "HE": (0.3, 1.5), "EX": (0.4, 1.8), "SE": (0.15, 0.9), "OD": (1.4, 2.0)
    }.items():  # fmt: skip
        assert low < share[lesion] < high, (lesion, share)
    lightness = [eye.image.astype(float).mean(axis=2) for eye in eyes]
    for lesion, brighter in {"HE": False, "EX": True, "SE": True, "OD": True}.items():
        lit_by_eye = zip(eyes, lightness, strict=True)
        inside = np.mean([light[eye.masks[lesion]].mean() for eye, light in lit_by_eye])
        around = np.mean([light[light > 15].mean() for light in lightness])
        assert (inside > around) == brighter, lesion


def test_a_microaneurysm_is_at_least_two_pixels_wide():
    eye = draw_eye(Plan(1), 192, np.random.default_rng(3))
    _, _, stats, _ = cv2.connectedComponentsWithStats(eye.masks["MA"].astype(np.uint8))
    assert len(stats) > 1 and stats[1:, cv2.CC_STAT_AREA].min() >= 2


@pytest.mark.parametrize("grade", GRADES)
def test_the_grade_follows_from_what_is_drawn(grade):
    for seed in range(4):
        eye = draw_eye(Plan(grade), 64, np.random.default_rng([grade, seed]))
        found = eye.findings
        drawn = {lesion: len(outlines) for lesion, outlines in found.outlines.items()}
        assert eye.grade == grade
        assert eye.dme == dme_risk(found.exudate_distances)
        assert (sum(drawn[lesion] for lesion in LESIONS[:4]) == 0) == (grade == 0)
        if grade == 1:
            assert drawn["MA"] > 0 == drawn["HE"] + drawn["EX"] + drawn["SE"]
        assert (min(found.haemorrhages) >= SEVERE_PER_QUADRANT) == (grade == 3) or grade == 4
        assert (found.neovascularisation or found.preretinal) == (grade == 4)


def test_the_rule_by_hand():
    assert [icdr_grade(0), icdr_grade(1)] == [0, 1]
    assert icdr_grade(0, soft_exudates=1) == icdr_grade(0, (0, 1, 0, 0)) == 2
    assert icdr_grade(50, (40, 40, 40, SEVERE_PER_QUADRANT - 1), 300, 5) == 2
    assert icdr_grade(50, (SEVERE_PER_QUADRANT,) * 4) == 3
    assert icdr_grade(0, neovascularisation=True) == icdr_grade(0, preretinal=True) == 4
    assert [dme_risk(np.array(d)) for d in ([], [1.01], [1.0], [3.0, 0.2])] == [0, 1, 2, 2]


def test_part_b_is_labelled_by_the_rule_except_where_it_says(root, table):
    """Files of one eye have one grade, apart from the conflicts that the note lists."""
    conflicts = json.loads((root / MARKER).read_text())["labels_that_conflict"]
    part_b = table[table.part == "B"]
    agreeing = part_b[~part_b.photo.isin(conflicts)].groupby("eye").grade.nunique()
    assert len(conflicts) == 2 and (agreeing == 1).all()
    for key in conflicts:
        row = part_b.set_index("photo").loc[key]
        twins = part_b[(part_b.eye == row.eye) & (part_b.photo != key)]
        assert len(twins) == 1 and twins.grade.item() != row.grade
        assert Path(twins.image.item()).read_bytes() == Path(row.image).read_bytes()


def test_parts_overlap_and_leak_as_in_idrid(table):
    part_a, part_b = table[table.part == "A"], table[table.part == "B"]
    both = part_a.merge(part_b, on="eye", suffixes=("_a", "_b"))
    pairs = both.groupby(["split_a", "split_b"]).size().to_dict()
    assert pairs == {("train", "train"): 5, ("test", "train"): 1, ("train", "test"): 1}
    assert both.grade_b.isin([2, 3, 4]).all()
    for row in both.itertuples():  # re-encoded, but the same picture
        first, again = (read_photograph(path).astype(float) for path in (row.image_a, row.image_b))
        assert Path(row.image_a).read_bytes() != Path(row.image_b).read_bytes()
        assert np.abs(first - again).mean() < 3
    twins = part_b.groupby("eye").split.agg(list)
    assert sorted(map(sorted, twins[twins.map(len) == 2])) == [["test", "train"], ["train", "train"]]


def test_same_seed_same_bytes_and_another_seed_other_eyes(root, tmp_path):
    again = write_synthetic(tmp_path / "again", SIZE, n_a=N_A, n_b=N_B, progress=False)
    assert fingerprints(again) == fingerprints(root)
    other = write_synthetic(tmp_path / "other", SIZE, seed=1, n_a=(1, 1), n_b=(1, 1), progress=False)
    photographs = {name: digest for name, digest in fingerprints(other).items() if name.endswith(".jpg")}
    assert len(photographs) == 4 and not set(photographs.values()) & set(fingerprints(root).values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"]  # nothing is left beside


def test_a_set_that_is_there_is_kept(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_synthetic(root, SIZE, n_a=N_A, n_b=N_B, progress=False) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_errors_name_the_folder_and_the_remedy(root, tmp_path):
    with pytest.raises(MTLError, match=r"other settings.*[Dd]elete"):
        write_synthetic(root, SIZE, seed=7, n_a=N_A, n_b=N_B, progress=False)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(MTLError, match="another folder") as error:
        write_synthetic(tmp_path, SIZE, progress=False)
    assert str(tmp_path) in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(MTLError, match="size=8"):
        write_synthetic(tmp_path / "small", size=8, progress=False)
    assert not (tmp_path / "small").exists()


def test_the_folder_where_one_stands_can_be_filled(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    root = write_synthetic(".", 64, n_a=(1, 1), n_b=(1, 1), progress=False)
    assert root == tmp_path / "empty" and (root / "synthetic.json").exists()


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mtl_utils.data.synthetic._write_labels", fail)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", 64, n_a=(1, 1), n_b=(1, 1), progress=False)
    assert not any(tmp_path.iterdir())
