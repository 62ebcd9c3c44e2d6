"""The reader of IDRiD: the official layout, its quirks, and the variants that mirrors make of it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mtl_utils.data.idrid import (
    IMAGE_FOLDER,
    LABEL_FILES,
    LABEL_FOLDER,
    MASK_FOLDER,
    PART_FOLDERS,
    SPLIT_FOLDERS,
    read_idrid,
    read_mask,
    read_mask_values,
    read_photograph,
    scan_idrid,
    scan_labels,
)
from mtl_utils.data.layout import COLUMNS
from mtl_utils.errors import DataError
from mtl_utils.lesions import LESIONS

A, B = PART_FOLDERS.values()


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the small synthetic set that a test may change."""
    return shutil.copytree(synthetic_root, tmp_path / "set")


def without_folders(table: pd.DataFrame) -> pd.DataFrame:
    """The table with file names instead of paths, to compare two copies."""
    return table.assign(
        **{name: table[name].map(lambda path: path and Path(path).name) for name in ("image", *LESIONS)}
    )


# --- the official layout ------------------------------------------------------------------------------------


def test_the_table_has_one_row_per_photograph(synthetic_root):
    table = read_idrid(synthetic_root)
    assert tuple(table.columns) == COLUMNS
    assert table.photo.is_unique
    assert len(table) == len(list(synthetic_root.rglob("*.jpg")))
    assert table[list(LESIONS)].notna().to_numpy().sum() == len(list(synthetic_root.rglob("*.tif")))
    assert table.loc[table.part == "B", list(LESIONS)].isna().all(axis=None)
    for row in table.itertuples():
        assert Path(row.image).stem == row.name
        for lesion in LESIONS:
            assert getattr(row, lesion) is None or Path(getattr(row, lesion)).stem == f"{row.name}_{lesion}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_labels_are_those_of_the_csv(synthetic_root, split):
    with open(synthetic_root / B / LABEL_FOLDER / LABEL_FILES[split], newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][2] == "Risk of macular edema "  # the published header ends in a space
    table = read_idrid(synthetic_root).query("part == 'B' and split == @split")
    assert table[["name", "grade", "dme"]].astype(str).to_numpy().tolist() == [row[:3] for row in rows[1:]]


# --- variants -----------------------------------------------------------------------------------------------


def rename(root: Path, *steps: tuple[str, str]) -> Path:
    for old, new in steps:
        (root / old).rename(root / new)
    return root


def lower_case_without_numbers(root: Path) -> Path:
    for folder in sorted(
        (path for path in root.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)
    ):
        folder.rename(folder.with_name(folder.name.split(". ")[1].lower().replace(" ", "_")))
    return root


def doubled(root: Path) -> Path:
    """What a zip tool makes of it that unpacks each archive into a folder of its name."""
    for part in (A, B):
        (root / part).rename(root / "moved")
        (root / part).mkdir()
        (root / "moved").rename(root / part / part)
    return root


def one_folder_deeper(root: Path) -> Path:
    """And a Mac's archive leaves hidden look-alikes of everything."""
    (root / "idrid").mkdir()
    for part in (A, B):
        shutil.copytree(root / part, root / "__MACOSX" / part)
        (root / part).rename(root / "idrid" / part)
    return root


def hidden_files(root: Path) -> Path:
    for path in list(root.rglob("*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    return rename(root, (f"{A}/{IMAGE_FOLDER}", f"{A}/Original Images"))


VARIANTS = {
    "underscores": lambda root: rename(root, (A, "A_Segmentation"), (B, "B_Disease_Grading")),
    "no punctuation": lambda root: rename(root, (A, "A Segmentation"), (B, "B Disease Grading")),
    "short names": lambda root: rename(
        root,
        (f"{A}/{IMAGE_FOLDER}/{SPLIT_FOLDERS['train']}", f"{A}/{IMAGE_FOLDER}/train"),
        (f"{A}/{IMAGE_FOLDER}/{SPLIT_FOLDERS['test']}", f"{A}/{IMAGE_FOLDER}/test"),
        (f"{A}/{IMAGE_FOLDER}", f"{A}/Images"),
        (
            f"{A}/{MASK_FOLDER}/{SPLIT_FOLDERS['train']}/2. Haemorrhages",
            f"{A}/{MASK_FOLDER}/{SPLIT_FOLDERS['train']}/HE",
        ),
        (
            f"{A}/{MASK_FOLDER}/{SPLIT_FOLDERS['test']}/2. Haemorrhages",
            f"{A}/{MASK_FOLDER}/{SPLIT_FOLDERS['test']}/Hemorrhages",
        ),
        (f"{A}/{MASK_FOLDER}", f"{A}/Masks"),
        (f"{B}/{LABEL_FOLDER}/{LABEL_FILES['test']}", f"{B}/{LABEL_FOLDER}/test.csv"),
        (f"{B}/{LABEL_FOLDER}", f"{B}/Labels"),
    ),
    "lower case": lower_case_without_numbers,
    "doubled": doubled,
    "one folder deeper": one_folder_deeper,
    "hidden files": hidden_files,
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_of_the_layout_read_the_same(synthetic_root, root, variant):
    changed = read_idrid(variant(root))
    pd.testing.assert_frame_equal(without_folders(changed), without_folders(read_idrid(synthetic_root)))


# --- labels -------------------------------------------------------------------------------------------------


def test_odd_but_right_csvs_are_read(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(
        "\ufeff image NAME ,retinopathy grade,other,Risk of edema \r\n IDRiD_001 , 2.0,x, 1\r\n,,,\r\n",
        "utf-8",
    )
    table, problems = scan_labels(path)
    assert problems == []
    assert table.to_numpy().tolist() == [["IDRiD_001", 2, 1]]


@pytest.mark.parametrize("value", ["7", "-1", "1.5", "", "high"])
def test_a_wrong_label_is_named_and_the_others_are_kept(tmp_path, value):
    path = tmp_path / "train.csv"
    path.write_text(
        f"Image name,Retinopathy grade,Risk of macular edema\nIDRiD_001,{value},1\nIDRiD_002,3,2\n"
    )
    table, (problem,) = scan_labels(path)
    assert str(path) in problem and "IDRiD_001" in problem and "grade" in problem
    assert table.grade.isna().tolist() == [True, False]
    assert table.dme.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable CSV"),
        (b"\xff\xfe\x00I\x00m", "not a readable CSV"),
        (b"Image name,Risk of macular edema\nIDRiD_001,1\n", "retinopathy"),
        (b"Image name;Retinopathy grade;Risk of macular edema\nIDRiD_001;1;1\n", "retinopathy"),
    ],
    ids=["empty", "UTF-16", "no grade column", "semicolons"],
)
def test_what_is_no_label_file_gives_a_clear_message(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        scan_labels(path)
    assert str(path) in str(raised.value)


def test_scan_keeps_every_photograph_and_read_refuses(root):
    path = root / B / LABEL_FOLDER / LABEL_FILES["train"]
    path.write_text(path.read_text().replace("IDRiD_003,", "IDRiD_099,", 1))
    table, problems = scan_idrid(root)
    assert len(table) == len(list(root.rglob("*.jpg")))
    assert table.grade.isna().sum() == 9 + 1  # part A, and the photograph that lost its row
    assert any("IDRiD_099" in problem for problem in problems) and any(
        "IDRiD_003.jpg" in problem for problem in problems
    )
    with pytest.raises(DataError) as raised:
        read_idrid(root)
    assert raised.value.problems == problems


@pytest.mark.parametrize("name", ["missing", "idrid.zip"])
def test_a_root_that_is_no_folder(tmp_path, name):
    (tmp_path / "idrid.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack it first" if name.endswith("zip") else "not a folder"):
        read_idrid(tmp_path / name)


def test_an_empty_folder_lacks_both_parts(tmp_path):
    with pytest.raises(DataError) as raised:
        read_idrid(tmp_path)
    assert [f"part {part} is absent" in problem for part, problem in zip("AB", raised.value.problems)] == [
        True,
        True,
    ]


# --- pictures -----------------------------------------------------------------------------------------------

DRAWN = np.array([[0, 1, 0], [1, 1, 0]], bool)


def mask_picture(mode: str) -> Image.Image:
    if mode == "P":
        picture = Image.fromarray(DRAWN.astype(np.uint8))
        picture.putpalette([0, 0, 0, 255, 0, 0])
        return picture
    if mode == "RGBA":  # red where drawn, opaque everywhere: only the first channel tells
        channels = [DRAWN * 255, DRAWN * 0, DRAWN * 0, DRAWN * 0 + 255]
        return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))
    return Image.fromarray((DRAWN * 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_masks_of_every_mode(tmp_path, mode):
    mask_picture(mode).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == bool and mask.tolist() == DRAWN.tolist()
    assert read_mask_values(tmp_path / "mask.png").dtype == np.uint8


def test_the_synthetic_set_has_idrid_s_rgba_mask(synthetic_root):
    modes = []
    for path in sorted(synthetic_root.rglob("*.tif")):
        with Image.open(path) as image:
            modes.append(image.mode)
        assert read_mask(path).any()
    assert modes.count("RGBA") == 1 and modes.count("P") == len(modes) - 1


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_photographs_of_every_mode_come_as_rgb(tmp_path, mode):
    colour = (102, 102, 102)  # a grey that every mode, and the palette of the web, can hold
    path = tmp_path / ("photograph.jpg" if mode == "CMYK" else "photograph.png")
    Image.new("RGB", (5, 4), colour).convert(mode).save(path)
    photograph = read_photograph(path)
    assert photograph.shape == (4, 5, 3) and photograph.dtype == np.uint8
    assert np.abs(photograph.astype(int) - colour).max() <= 2


@pytest.mark.parametrize("read", [read_photograph, read_mask])
def test_unreadable_files_are_named(tmp_path, read):
    for content, message in (
        (None, "does not exist"),
        (b"", "no picture"),
        (b"no picture at all", "no picture"),
    ):
        path = tmp_path / "file.jpg"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message) as raised:
            read(path)
        assert str(path) in str(raised.value)
