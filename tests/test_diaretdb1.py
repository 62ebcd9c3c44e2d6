"""DiaRetDB1 on made folders in both published layouts: regions, consensus, bad input, and what is made."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import mtl, remove, save_photograph
from PIL import Image

from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.diaretdb1 import DIARETDB1, MASK_FOLDERS, read_diaretdb1, scan_diaretdb1
from mtl_utils.data.diaretdb1_regions import AGREEMENT, FINDINGS, Region, consensus, read_annotation
from mtl_utils.data.idrid import read_idrid, read_mask
from mtl_utils.data.layout import COLUMNS
from mtl_utils.data.prepare import prepare
from mtl_utils.data.sets import layout_of, read_graded
from mtl_utils.data.splits import split
from mtl_utils.errors import DataError, MTLError
from mtl_utils.lesions import DISEASE_LESIONS, LESIONS

WIDTH, HEIGHT = 90, 72
NAMES = {"train": ["diaretdb1_image001", "diaretdb1_image003"], "test": ["diaretdb1_image002"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test: the masks are drawn anew."""
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def circle(x: float, y: float, radius: float) -> str:
    return (
        f"<circleregion><centroid><coords2d>{x},{y}</coords2d></centroid>"
        f'<radius direction="x">{radius}</radius></circleregion>'
    )


def ellipse(x: float, y: float, along_x: float, along_y: float, angle: float) -> str:
    return (
        f"<ellipseregion><centroid><coords2d>{x},{y}</coords2d></centroid>"
        f'<radius direction="x">{along_x}</radius><radius direction="y">{along_y}</radius>'
        f"<angle>{angle}</angle></ellipseregion>"
    )


def polygon(*points: tuple[float, float]) -> str:
    # The published polygons have their centroid first, and end where they begin.
    corners = "".join(f"<coords2d>{x},{y}</coords2d>" for x, y in (*points, points[0]))
    return f"<polygonregion><centroid><coords2d>0,0</coords2d></centroid>{corners}</polygonregion>"


def marking(region: str, finding: str = "Haemorrhages", confidence: str = "High") -> str:
    return (
        f"<marking>{region}<representativepoint><coords2d>1,1</coords2d></representativepoint>"
        f"<confidencelevel>{confidence}</confidencelevel><markingtype>{finding}</markingtype></marking>\n"
    )


def save_annotation(path: Path, *markings: str) -> Path:
    """As published: the plain form has no address in its second line, the other one has."""
    doctype = "" if "_plain" in path.name else ' SYSTEM "http://www.example.invalid/imgannotool.dtd"'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0" standalone="no"?>\n<!DOCTYPE imgannotool{doctype}>\n<imgannotooldata>\n'
        f"<header><creator>Iiris</creator></header>\n<markinglist>\n{''.join(markings)}</markinglist>\n"
        "</imgannotooldata>\n"
    )
    return path


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    """V2.1: three experts of four see the haemorrhage of the first photograph, two its soft exudate."""
    root = tmp_path / "ddb1_v02_01"
    seed = 0
    for split_, names in NAMES.items():
        for form in ("", "_plain"):
            lines = [
                f"images/{name}.png " + " ".join(f"groundtruth/{name}_0{i}{form}.xml" for i in (1, 2, 3, 4))
                for name in names
            ]
            (root / f"ddb1_v02_01_{split_}{form}.txt").parent.mkdir(exist_ok=True)
            (root / f"ddb1_v02_01_{split_}{form}.txt").write_text("\n".join(lines) + "\n")
        for name in names:
            seed += 1
            save_photograph(root / "images" / f"{name}.png", seed, WIDTH, HEIGHT)
            for expert in (1, 2, 3, 4):
                markings = [marking(circle(45, 36, 30), "Disc")]
                if name.endswith("001") and expert < 4:
                    markings.append(marking(circle(40, 30, 10)))
                if name.endswith("001") and expert < 3:
                    markings.append(marking(circle(60, 40, 5), "Soft_exudates"))
                if name.endswith("002"):
                    markings.append(marking(ellipse(45, 36, 8, 4, 30), "Hard_exudates", "Medium"))
                for form in ("", "_plain"):
                    save_annotation(root / "groundtruth" / f"{name}_0{expert}{form}.xml", *markings)
    return root


@pytest.fixture
def v11(tmp_path: Path) -> Path:
    """V1.1: grey levels 63, 126, 189 and 252 for one to four experts."""
    root = tmp_path / "diaretdb1_v_1_1"
    images = root / "resources" / "images"
    for split_, names in {"train": ["image001", "image003"], "test": ["image002"]}.items():
        folder = root / "resources" / f"{split_}datasets"
        folder.mkdir(parents=True)
        (folder / f"{split_}set.txt").write_text("".join(f"{name}.png\n" for name in names))
        for name in names:
            save_photograph(images / "ddb1_fundusimages" / f"{name}.png", int(name[-1]), WIDTH, HEIGHT)
            for lesion in MASK_FOLDERS:
                save_grey(images, lesion, name, {"image001": [63, 126, 189, 252]}.get(name, []))
    return root


def save_grey(images: Path, lesion: str, name: str, levels: list[int], width: int = WIDTH) -> Path:
    """Ten pixels of each grey level."""
    grey = np.zeros((HEIGHT, width), np.uint8)
    for row, level in enumerate(levels):
        grey[30 + row, 30:40] = level
    path = images / "ddb1_groundtruth" / MASK_FOLDERS[lesion] / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)
    return path


# --- regions, by hand ---------------------------------------------------------------------------------------


def region_of(tmp_path: Path, region: str) -> Region:
    (read,) = read_annotation(save_annotation(tmp_path / "x_01_plain.xml", marking(region)))
    return read


def pixels(mask: np.ndarray) -> list[str]:
    return ["".join(".#"[int(pixel)] for pixel in row) for row in mask]


@pytest.mark.parametrize(
    ("region", "drawn"),
    [
        (circle(3, 2, 2), ["...#...", "..###..", ".#####.", "..###..", "...#..."]),
        (circle(0, 0, 1), ["##.....", "#......", ".......", ".......", "......."]),
        (circle(5, 1, 0), [".......", ".....#.", ".......", ".......", "......."]),
        (circle(50, 50, 3), 5 * ["......."]),
        (polygon((1, 1), (4, 1), (4, 3), (1, 3)), [".......", ".####..", ".####..", ".####..", "......."]),
        (polygon((-2, 0), (2, 0), (-2, 4)), ["###....", "##.....", "#......", ".......", "......."]),
        (ellipse(3, 2, 3, 1, 0), [".......", "...#...", "#######", "...#...", "......."]),
        (ellipse(3, 2, 1, 2, 180), ["...#...", "...#...", "..###..", "...#...", "...#..."]),
        # Counter-clockwise as one sees it: at 45 degrees the long axis rises to the right.
        (ellipse(3, 2, 2.9, 0.1, 45), [".....#.", "....#..", "...#...", "..#....", ".#....."]),
    ],
)
def test_regions_become_pixels(tmp_path, region, drawn):
    assert pixels(region_of(tmp_path, region).mask((5, 7))) == drawn


def test_a_circle_of_the_smallest_published_radius_has_81_pixels(tmp_path):
    # Rows of 1, 7, 9, 9, 9, 11, 9, 9, 9, 7 and 1 pixels: x^2 + y^2 <= 25.
    assert region_of(tmp_path, circle(10, 10, 5)).mask((20, 20)).sum() == 81


@pytest.mark.parametrize(
    ("confidences", "seen"),
    [
        (["High", "High", "High"], True),  # 3 / 4
        (["High", "High", "Medium", "Low"], True),  # (1 + 1 + 0.75 + 0.25) / 4 = 0.75
        (["Medium", "Medium", "Medium", "Medium"], True),
        (["High", "High", "Medium"], False),  # 2.75 / 4
        (["High", "High", "Low", "Low"], False),  # 2.5 / 4
    ],
)
def test_the_experts_mean_confidence_decides(confidences, seen):
    words = {"High": 1.0, "Medium": 0.75, "Low": 0.25}
    point = np.array([[2.0, 2.0]])
    experts = [[Region("HE", words[word], point, (1, 1))] for word in confidences]
    masks = consensus(experts + [[]] * (4 - len(experts)), (5, 5))
    assert tuple(masks) == DISEASE_LESIONS and AGREEMENT == 0.75
    assert masks["HE"].sum() == (5 if seen else 0) and not masks["MA"].any()


def test_an_expert_s_surest_region_counts_and_regions_of_one_expert_do_not_add_up():
    x, y = np.array([[1.0, 1.0]]), np.array([[2.0, 1.0]])
    expert = [Region("EX", 1.0, x, (0, 0)), Region("EX", 0.25, x, (0, 0)), Region("EX", 0.25, y, (0, 0))]
    assert pixels(consensus([expert], (3, 4), 1.0)["EX"]) == ["....", ".#..", "...."]
    assert pixels(consensus([expert, []], (3, 4), 0.5)["EX"]) == ["....", ".#..", "...."]
    assert pixels(consensus([expert, expert], (3, 4), 0.25)["EX"]) == ["....", ".##.", "...."]


# --- the table ----------------------------------------------------------------------------------------------


def test_v21_as_published(v21, synthetic_root, cache):
    table = read_diaretdb1(v21)
    assert tuple(table.columns) == COLUMNS
    pd.testing.assert_series_equal(table.dtypes, read_idrid(synthetic_root).dtypes)
    assert table.split.tolist() == ["train", "train", "test"] and set(table.part) == {"A"}
    assert table.name.tolist() == NAMES["train"] + NAMES["test"] and table.photo.is_unique
    first, second, third = table.to_dict("records")
    assert [lesion for lesion in LESIONS if first[lesion]] == ["HE"]  # of the soft exudate 2 of 4 are sure
    assert second["HE"] is None and [lesion for lesion in LESIONS if third[lesion]] == ["EX"]
    mask = read_mask(first["HE"])
    assert mask.shape == (HEIGHT, WIDTH) and mask.sum() == 317  # x^2 + y^2 <= 100
    assert mask[30, 50] and not mask[30, 51] and Path(first["HE"]).is_relative_to(cache)
    assert table.grade.isna().all() and table.OD.isna().all()


def test_another_agreement_gives_other_masks(v21):
    loose = read_diaretdb1(v21, agreement=0.5)
    assert read_mask(loose.SE[0]).sum() == 81 and read_diaretdb1(v21).SE[0] is None
    for agreement in (0, 1.1, -1):
        with pytest.raises(MTLError, match="above 0 and at most 1"):
            read_diaretdb1(v21, agreement)


def test_masks_are_drawn_once_and_whole(v21, monkeypatch, cache):
    table = read_diaretdb1(v21)
    changed = {path: os.stat(path).st_mtime_ns for path in cache.rglob("*.png")}

    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mtl_utils.data.diaretdb1.consensus", fails)
    pd.testing.assert_frame_equal(read_diaretdb1(v21), table)
    assert {path: os.stat(path).st_mtime_ns for path in cache.rglob("*.png")} == changed

    # A run that is stopped while it writes leaves nothing that looks whole.
    shutil.rmtree(cache / "diaretdb1-masks")
    monkeypatch.undo()
    monkeypatch.setenv("MTL_CACHE", str(cache))
    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(KeyboardInterrupt):
        read_diaretdb1(v21)
    assert all(path.name.endswith(".part") for path in (cache / "diaretdb1-masks").iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("MTL_CACHE", str(cache))
    pd.testing.assert_frame_equal(read_diaretdb1(v21), table)


def test_the_lists_that_are_not_plain_do_as_well(v21):
    before = read_diaretdb1(v21)
    for path in [*v21.glob("*_plain.txt"), *v21.glob("groundtruth/*_plain.xml")]:
        path.unlink()
    after = read_diaretdb1(v21)
    assert (read_mask(after.HE[0]) == read_mask(before.HE[0])).all()
    assert after[[*LESIONS]].notna().equals(before[[*LESIONS]].notna())


def test_v11_as_published(v11):
    table = read_diaretdb1(v11)
    assert table.name.tolist() == ["image001", "image003", "image002"]
    assert table.split.tolist() == ["train", "train", "test"]
    empty, full = 12 * ".", "." + 10 * "#" + "."
    for lesion in DISEASE_LESIONS:
        mask = read_mask(table[lesion][0])[29:35, 29:41]
        assert pixels(mask) == [empty, empty, empty, full, full, empty]  # from 189 on
        assert table[lesion][1:].isna().all()
    assert read_mask(read_diaretdb1(v11, agreement=0.5).MA[0]).sum() == 30
    assert read_mask(read_diaretdb1(v11, agreement=1).MA[0]).sum() == 10


@pytest.mark.parametrize("version", ["v21", "v11"])
def test_the_layout_is_recognised_from_outside_too(request, version):
    root = request.getfixturevalue(version)
    assert layout_of(root).name == layout_of(root.parent).name == DIARETDB1
    pd.testing.assert_frame_equal(read_diaretdb1(root.parent), read_diaretdb1(root))
    with pytest.raises(DataError, match=r"\(DiaRetDB1\) has no grades.*--masked"):
        read_graded(root)


# --- what can be wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (marking(circle(1, 1, 1), "Drusen"), "markingtype is 'Drusen', expected one of Red_small_dots, "),
        (marking(circle(1, 1, 1), ""), "markingtype is ''"),
        (
            marking(circle(1, 1, 1), confidence="Sure"),
            "confidencelevel is 'Sure', expected one of High, Medium, Low",
        ),
        (marking(circle(1, 1, "big")), "radius x is 'big', expected a number"),
        (marking(circle(1, 1, "nan")), "radius x is 'nan', expected a number"),
        (marking(circle(1, 1, -2)), "expected none below 0"),
        (marking(circle(1, "", 2)), "y is '', expected a number"),
        (marking(ellipse(1, 1, 2, 2, "left")), "angle is 'left'"),
        (marking(ellipse(1, 1, 2, 2, 0).replace('"y"', '"z"')), "radius y is None"),
        (marking(circle(1, 1, 2).replace("1,1", "1")), "coords2d is '1', expected 'x,y'"),
        (marking("<polygonregion></polygonregion>"), "polygonregion has no coords2d"),
        (marking("<squareregion/>"), "no circleregion, ellipseregion or polygonregion"),
    ],
)
def test_a_wrong_marking_is_named_with_its_place(tmp_path, changed, message):
    path = save_annotation(tmp_path / "x_01_plain.xml", marking(circle(9, 9, 2)), changed)
    with pytest.raises(DataError) as raised:
        read_annotation(path)
    assert str(raised.value).startswith(f"{path}, marking 2: ") and message in str(raised.value)
    assert "Copy the published file again" in str(raised.value)


def test_all_findings_of_the_published_files_are_known(tmp_path):
    others = ["Disc", "Fundus_area", "IRMA", "Neovascularisation"]
    path = tmp_path / "x_01_plain.xml"
    regions = read_annotation(
        save_annotation(path, *(marking(circle(1, 1, 2), name) for name in [*FINDINGS, *others]))
    )
    assert [region.lesion for region in regions] == ["MA", "HE", "EX", "SE"]
    assert read_annotation(save_annotation(path)) == []


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def move(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


LIST, TRUTH = "ddb1_v02_01_train_plain.txt", "groundtruth/diaretdb1_image001_02_plain.xml"

# Each breaks a copy of V2.1 and returns what the report must say.
BREAKS = {
    "truncated photograph": lambda root: [cut(root / "images/diaretdb1_image001.png"), "half copied"],
    "XML that is not well-formed": lambda root: [cut(root / TRUTH), "not a readable XML file"],
    "two of them": lambda root: [
        cut(root / TRUTH),
        cut(root / TRUTH.replace("_02_", "_03_")),
        "not a readable XML file",
    ],
    "XML of something else": lambda root: [write(root / TRUTH, "<svg/>"), "has no 'markinglist'"],
    "XML missing": lambda root: [remove(root / TRUTH), "missing"],
    "list missing": lambda root: [
        remove(root / "ddb1_v02_01_train.txt") and remove(root / LIST),
        "not a readable list",
        root / "images/diaretdb1_image001.png",
        "a photograph that no list names",
    ],
    "list row without its photograph": lambda root: [
        root / LIST,
        "line 1: diaretdb1_image001 has no photograph",
        move(root / "images/diaretdb1_image001.png", "diaretdb1_image009.png"),
        "a photograph that no list names",
    ],
    "photograph twice in the lists": lambda root: [
        shutil.copy(root / LIST, root / "ddb1_v02_01_test_plain.txt"),
        "line 2: diaretdb1_image003 is listed twice",
    ],
    "list without ground truth": lambda root: [
        write(root / LIST, "images/diaretdb1_image001.png\n"),
        "line 1: names no file with ground truth",
    ],
    "no photographs": lambda root: [remove(root / "images"), "no photographs there"],
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_copy_exits_2_and_names_the_file(v21, capsys, monkeypatch, break_it):
    words = break_it(v21)
    code, out, err = mtl(capsys, monkeypatch, "data", "check", v21)
    problems = out.split("Problems (")[1]
    assert [word for word in map(str, words) if word not in problems] == []
    assert code == 2 and "not a whole DiaRetDB1" in err and "Traceback" not in out + err


GREY = "resources/images/ddb1_groundtruth/hardexudates/image001.png"

GREY_BREAKS = {
    "mask of another size": lambda root: [
        save_grey(root / "resources/images", "EX", "image001", [252], width=80),
        "80 x 72 pixels, its photograph 90 x 72",
    ],
    "truncated mask": lambda root: [cut(root / GREY), "half copied"],
    "mask missing": lambda root: [remove(root / GREY), "missing"],
    "list missing": lambda root: [
        remove(root / "resources/testdatasets/testset.txt").name,
        "not a readable list",
    ],
}


@pytest.mark.parametrize("break_it", GREY_BREAKS.values(), ids=GREY_BREAKS.keys())
def test_a_broken_copy_of_v11_is_named(v11, break_it):
    words = break_it(v11)
    text = "\n".join(scan_diaretdb1(v11)[1])
    assert [word for word in map(str, words) if word not in text] == []
    with pytest.raises(DataError, match="not a whole DiaRetDB1"):
        read_diaretdb1(v11)


def test_nothing_of_diaretdb1(tmp_path):
    (problem,) = scan_diaretdb1(tmp_path)[1]
    assert problem.startswith(f"{tmp_path}: no DiaRetDB1 there")
    with pytest.raises(DataError, match="is not a folder"):
        read_diaretdb1(tmp_path / "nowhere")


# --- check, working copy, samples ---------------------------------------------------------------------------


def test_check_counts_what_is_there(v21, capsys, monkeypatch):
    shutil.copy(v21 / "images/diaretdb1_image001.png", v21 / "images/diaretdb1_image002.png")
    code, out, err = mtl(capsys, monkeypatch, "data", "check", v21)
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        f"DiaRetDB1: {v21}",
        "",
        "training/testing photographs 2/1",
        "training masks of MA/HE/EX/SE 0/1/0/0",
        "testing masks of MA/HE/EX/SE 0/0/1/0",
        "",
        "The same photograph in several files (pictures compared):",
        "duplicate pairs 1",
        "across the splits 1",
        "with different labels 0",
        "",
        "Every file was read to its end. No problem found.",
    ]


def test_the_working_copy_and_its_samples(v21, tmp_path, capsys, monkeypatch):
    out = tmp_path / "copy"
    code, said, _ = mtl(capsys, monkeypatch, "data", "prepare", v21, "--size", 34, "--out", out)
    assert code == 0 and "3 photographs" in said
    copy = prepare(v21, 34, out, progress=False)
    assert copy.label == "DiaRetDB1" and copy.unknown_lesions() == ("OD",)
    parts = split(copy.table, "paper")
    assert parts.counts().segmentation.tolist() == [2, 1, 1]
    sample = FundusDataset(copy, parts.rows("train", "segmentation"))[0]
    # The field of view is about 68 pixels wide, so that a side is shrunk to its half.
    assert sample["has_mask"] and sample["mask"][LESIONS.index("HE")].sum() == pytest.approx(
        317 / 4, rel=0.15
    )
    assert sample["mask"].sum(dim=(1, 2))[[0, 2, 3, 4]].tolist() == [0, 0, 0, 0]


def test_a_further_set_for_idrid(v21, synthetic_root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "copy"
    words = [synthetic_root, "--size", 32, "--out", out, "--masked", v21]
    code, _, err = mtl(capsys, monkeypatch, "data", "prepare", *words)
    assert (code, err) == (0, "")
    copy = prepare(synthetic_root, 32, out, progress=False, masked=v21)
    assert copy.label == "synthetic set + DiaRetDB1" and copy.sets == ("IDRiD", DIARETDB1)
    alone = prepare(synthetic_root, 32, progress=False)
    assert copy.fingerprint != alone.fingerprint and alone.label == "synthetic set"
    added = copy.table.tail(3)
    assert added.name.tolist() == [
        "masked-train-diaretdb1_image001",
        "masked-train-diaretdb1_image003",
        "masked-test-diaretdb1_image002",
    ]
    assert set(added.split) == {"train"} and copy.has_mask(len(copy) - 1)
    with pytest.raises(MTLError, match=r"synthetic set \+ DiaRetDB1: .* optic disc"):
        copy.require_lesions(LESIONS)


def test_graded_sets_are_no_sets_with_masks(synthetic_root, tmp_path, capsys, monkeypatch):
    own = tmp_path / "own"
    save_photograph(own / "a.png", 1, WIDTH, HEIGHT)
    write(own / "grades.csv", "image,grade\na,0\n")
    for words in ([own], [synthetic_root, "--masked", own]):
        words += ["--size", 32, "--out", tmp_path / "copy"]
        code, _, err = mtl(capsys, monkeypatch, "data", "prepare", *words)
        assert code == 2 and err.startswith(f"mtl: {own} (graded folder) has no masks. ")
    assert not (tmp_path / "copy").exists()
