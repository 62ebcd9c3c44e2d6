"""Equal photographs are found by their looks: on hand-made thumbnails, and on eyes that are known."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import retina

from mtl_utils.data.duplicates import (
    SAME_BELOW,
    conflicting,
    link_photographs,
    pairs_between,
    rms_differences,
    same_pairs,
    thumbnail,
    thumbnails,
)
from mtl_utils.data.idrid import read_idrid, read_photograph
from mtl_utils.errors import DataError


def small_table(*rows: tuple[str, str, str, int | None]) -> pd.DataFrame:
    """Part, split, photo and grade; the names are a, b, c, ..."""
    table = pd.DataFrame(rows, columns=["part", "split", "photo", "grade"]).astype({"grade": "Int64"})
    return table.assign(name=list("abcdefgh"[: len(rows)]), dme=pd.array([0] * len(rows), "Int64"))


def test_rms_differences_by_hand():
    thumbs = np.zeros((3, 2, 2, 3), np.float32)
    thumbs[1] = 4.0
    thumbs[2, 0] = 2.0  # half of the pixels: sqrt((4 + 0) / 2)
    expected = [[0, 4, 2**0.5], [4, 0, ((4 + 16) / 2) ** 0.5], [2**0.5, 10**0.5, 0]]
    assert rms_differences(thumbs) == pytest.approx(np.array(expected))


def test_rms_differences_of_equal_pictures_stay_near_zero():
    thumbs = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    assert (
        rms_differences(np.concatenate([thumbs, thumbs])).max() < 1e-3
    )  # no cancellation below the square root


def test_link_photographs_by_hand():
    # 0 and 2 are alike, 2 and 3 too, so all three are one photograph though 0 and 3 differ by more.
    thumbs = np.array([0.0, 50.0, 0.9 * SAME_BELOW, 1.8 * SAME_BELOW, 53.0])[:, None, None, None] * np.ones(
        (1, 4, 6, 3)
    )
    table = small_table(*[("B", "train", f"B-{i}", 0) for i in range(5)])
    linked = link_photographs(table, thumbs)
    assert linked.photo.tolist() == ["B-0", "B-1", "B-0", "B-0", "B-4"]
    assert table.photo.tolist() == [f"B-{i}" for i in range(5)]  # the table that was given stays as it was


@pytest.mark.parametrize("same_below", [0.01, 1.0, 2.0, 20.0, 60.0])
def test_pairs_found_block_by_block_are_those_of_all_differences(monkeypatch, same_below):
    monkeypatch.setattr("mtl_utils.data.duplicates.BLOCK", 7)
    rng = np.random.default_rng(0)
    eyes = cv2.resize(rng.uniform(0, 255, (8, 9, 60)).astype(np.float32), (96, 64)).reshape(64, 96, 3, 20)
    thumbs = np.moveaxis(eyes, 3, 0)[rng.integers(0, 20, 40)] + rng.normal(0, 1, (40, 64, 96, 3))
    thumbs[5] = np.nan  # could not be read: equals none, not even itself
    expected = np.argwhere(np.triu(rms_differences(thumbs) < same_below, 1))
    assert sorted(same_pairs(thumbs, same_below).tolist()) == expected.tolist()
    assert (len(expected) > 0) == (same_below > 1)


def test_pairs_between_by_hand():
    linked = small_table(
        ("A", "train", "p", None), ("A", "test", "q", None), ("B", "train", "p", 1),
        ("B", "test", "p", 2), ("B", "train", "r", 3), ("B", "train", "r", 3),
    )  # fmt: skip
    across = pairs_between(linked, "A", "B")
    assert across[["name_left", "name_right"]].to_numpy().tolist() == [["a", "c"], ["a", "d"]]
    inside = pairs_between(linked, "B", "B")
    assert inside[["name_left", "name_right"]].to_numpy().tolist() == [["c", "d"], ["e", "f"]]
    assert conflicting(inside).tolist() == [True, False]
    assert conflicting(across).tolist() == [False, False]  # part A has no grade that could differ
    assert pairs_between(linked, "A", "A").empty


@pytest.mark.parametrize(("scale", "quality"), [(1.0, 60), (1 / 3, 90), (1.5, 80)])
def test_a_photograph_that_was_scaled_and_saved_again_is_the_same(tmp_path, scale, quality):
    photograph = Image.fromarray(retina())
    size = round(photograph.width * scale), round(photograph.height * scale)
    photograph.save(tmp_path / "0.jpg", quality=95)
    photograph.resize(size, Image.Resampling.LANCZOS).save(tmp_path / "1.jpg", quality=quality)
    photograph.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(
        tmp_path / "2.jpg", quality=95
    )  # much alike, not the same
    differences = rms_differences(thumbnails(sorted(tmp_path.iterdir()), progress=False))
    assert differences[0, 1] < SAME_BELOW < differences[0, 2]


@pytest.mark.parametrize("light", [1.0, 0.3, 0.1])
def test_dark_photographs_are_not_all_the_same(tmp_path, light):
    dark = Image.fromarray((retina() * light).astype(np.uint8))
    dark.save(tmp_path / "0.png")
    dark.save(tmp_path / "1.jpg", quality=90)
    dark.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / "2.png")
    differences = rms_differences(thumbnails(sorted(tmp_path.iterdir()), progress=False))
    assert differences[0, 1] < SAME_BELOW < differences[0, 2]


def test_a_turned_photograph_is_found(tmp_path):
    upright, exif = Image.fromarray(retina()), Image.Exif()
    exif[0x0112] = 6  # a viewer turns the picture by a quarter, clockwise
    upright.save(tmp_path / "0.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=exif)
    assert same_pairs(thumbnails(sorted(tmp_path.iterdir()), progress=False)).tolist() == [[0, 1]]
    assert np.array_equal(*(read_photograph(path) for path in sorted(tmp_path.iterdir())))


def test_a_thumbnail_is_the_area_average_of_the_photograph(synthetic_root):
    path = read_idrid(synthetic_root).image[0]
    expected = cv2.resize(read_photograph(path).astype(np.float32), (96, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail(path) - expected).mean() < 1.0


def test_the_synthetic_set_s_equal_eyes_are_found_and_no_others(synthetic_root):
    table = read_idrid(synthetic_root)
    linked = link_photographs(table, thumbnails(table.image, progress=False))
    eyes = table.photo.map(json.loads((synthetic_root / "synthetic.json").read_text())["eyes"])
    found = [linked.photo[i] == linked.photo[j] for i, j in combinations(table.index, 2)]
    true = [eyes[i] == eyes[j] for i, j in combinations(table.index, 2)]
    assert sum(true) > 4
    assert found == true


@pytest.mark.parametrize("kept", [0, 1000, 0.5])
def test_a_truncated_photograph_is_named(synthetic_root, tmp_path, kept):
    content = Path(read_idrid(synthetic_root).image[0]).read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(DataError, match="damaged or half copied") as raised:
        thumbnails([path], progress=False)
    assert str(path) in str(raised.value)
