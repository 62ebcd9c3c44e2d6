"""The working copy: what is in it, and that no kill, no full disk and no second process can spoil it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mtl_utils.data import prepare as module
from mtl_utils.data.fov import field_of_view
from mtl_utils.data.idrid import read_idrid, read_photograph
from mtl_utils.data.prepare import (
    ABOUT,
    MASKS,
    PHOTOGRAPHS,
    WorkingCopy,
    fingerprint,
    prepare,
    reading_times,
    shrink,
)
from mtl_utils.errors import DataError
from mtl_utils.lesions import LESIONS

SIZE = 64


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    return prepare(synthetic_root, SIZE, tmp_path_factory.mktemp("undisturbed") / "copy", progress=False)


@pytest.fixture
def copy(undisturbed: WorkingCopy, tmp_path: Path) -> Path:
    """The finished copy's files, to spoil."""
    return shutil.copytree(undisturbed.folder, tmp_path / "copy")


# --- what stands in it --------------------------------------------------------------------------------------


def test_shrink_a_picture_by_hand():
    picture = np.array([[0, 4, 10, 10], [8, 4, 10, 10], [1, 1, 0, 0], [1, 1, 0, 100]], np.uint8)
    assert shrink(picture, 2).tolist() == [[4, 10], [1, 25]]


def test_shrink_a_mask_keeps_a_pixel_from_half_of_its_area_on():
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1]], bool)
    small = shrink(mask, 2)
    assert small.dtype == bool
    assert small.tolist() == [[True, False], [True, True]]


def test_shrink_enlarges_small_pictures():
    assert shrink(np.full((3, 3, 3), 7, np.uint8), 6).tolist() == np.full((6, 6, 3), 7).tolist()


def drawn_idrid(tmp_path: Path) -> pd.DataFrame:
    """One photograph, lit from column 10 to 49 of 60 and in all 40 rows, with an MA and an OD mask."""
    photograph = np.zeros((40, 60, 3), np.uint8)
    photograph[:, 10:50] = (200, 100, 50)
    masks = {"MA": np.zeros((40, 60), np.uint8), "OD": np.zeros((40, 60), np.uint8)}
    masks["MA"][0:2, 10:12] = 255  # the top left pixel of the copy
    masks["OD"][38:40, 10:50] = 255  # its bottom row
    masks["OD"][0:2, 10:12] = 255
    cv2.imwrite(str(tmp_path / "x.png"), photograph[..., ::-1])
    for name, mask in masks.items():
        cv2.imwrite(str(tmp_path / f"x_{name}.png"), mask)
    paths = {name: str(tmp_path / f"x_{name}.png") if name in masks else None for name in LESIONS}
    return pd.DataFrame([{"part": "A", "image": str(tmp_path / "x.png"), **paths}])


def test_packed_masks_by_hand(tmp_path):
    row = next(drawn_idrid(tmp_path).itertuples())
    picture, packed = module.prepare_row(row, 20)
    assert picture.shape == (20, 20, 3) and (picture == (200, 100, 50)).all()
    expected = np.zeros((20, 20), int)
    expected[19] = 1 << LESIONS.index("OD")
    expected[0, 0] = (1 << LESIONS.index("MA")) | (1 << LESIONS.index("OD"))
    assert packed.tolist() == expected.tolist()


def test_a_mask_of_another_size_is_named(tmp_path):
    table = drawn_idrid(tmp_path)
    cv2.imwrite(table.MA[0], np.eye(7, dtype=np.uint8))
    with pytest.raises(DataError, match=r"x_MA\.png"):
        module.prepare_row(next(table.itertuples()), 20)


def test_a_black_photograph_is_named(tmp_path):
    table = drawn_idrid(tmp_path)
    cv2.imwrite(table.image[0], np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(DataError, match=r"x\.png: no field of view"):
        module.prepare_row(next(table.itertuples()), 20)


def test_the_copy_holds_every_row_in_order(undisturbed, synthetic_root):
    table = read_idrid(synthetic_root)
    assert len(undisturbed) == len(table) and undisturbed.size == SIZE and undisturbed.synthetic
    unlinked = [column for column in table.columns if column != "photo"]
    pd.testing.assert_frame_equal(undisturbed.table[unlinked], table[unlinked])
    assert undisturbed.table.photo.nunique() < table.photo.nunique()
    for i, row in enumerate(table.itertuples()):
        image = undisturbed.image(i)
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
        assert undisturbed.has_mask(i) == (row.part == "A")


def cut_and_shrunk(path: str, box: tuple[int, int, int, int]) -> np.ndarray:
    """The same with Pillow alone: cut out (black outside) and averaged over each new pixel's area."""
    image = Image.open(path)
    image = image.getchannel(0) if image.mode == "RGBA" else image
    if image.mode != "RGB":
        image = Image.fromarray((np.asarray(image) > 0).astype(np.uint8) * 255)
    return np.asarray(image.crop(box).resize((SIZE, SIZE), Image.Resampling.BOX)).astype(float)


def test_pictures_and_masks_are_cut_and_shrunk_alike(undisturbed):
    for i, row in enumerate(undisturbed.table.head(9).itertuples()):
        fov = field_of_view(read_photograph(row.image))
        top, left = fov.top - fov.offset[0], fov.left - fov.offset[1]
        box = (left, top, left + fov.side, top + fov.side)
        assert np.abs(undisturbed.image(i) - cut_and_shrunk(row.image, box)).mean() < 1
        mask = undisturbed.mask(i)
        assert mask.shape == (5, SIZE, SIZE) and mask.dtype == np.uint8 and mask[4].any()
        for channel, lesion in zip(mask, LESIONS):
            path = getattr(row, lesion)
            expected = cut_and_shrunk(path, box) >= 128 if path else np.zeros((SIZE, SIZE), bool)
            assert (
                channel != expected
            ).mean() < 0.003  # pixels that are drawn by almost exactly one half may differ


def test_a_graded_photograph_has_no_mask(undisturbed):
    position = int(np.flatnonzero(undisturbed.table.part == "B")[0])
    with pytest.raises(DataError, match="has no masks"):
        undisturbed.mask(position)


def test_the_copy_cannot_be_written_to(undisturbed):
    with pytest.raises(ValueError, match="read-only"):
        undisturbed.image(0)[:] = 0


def test_the_fingerprint_follows_the_data_and_not_its_place(synthetic_root, tmp_path, undisturbed):
    moved = shutil.copytree(synthetic_root, tmp_path / "moved")
    assert fingerprint(read_idrid(moved)) == undisturbed.fingerprint
    table = read_idrid(moved)
    shutil.copy(table.image[3], table.image[4])
    assert fingerprint(table) != undisturbed.fingerprint
    relabelled = read_idrid(synthetic_root)
    relabelled.loc[len(relabelled) - 1, "dme"] = (relabelled.dme.iloc[-1] + 1) % 3
    assert fingerprint(relabelled) != undisturbed.fingerprint


# --- killed and run again -----------------------------------------------------------------------------------

# Runs in a process of its own, and stands still for ever once `stop` photographs are done.
STUCK_RUN = """
import sys, threading
from mtl_utils.data import prepare as module
root, out, size, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
real, started = module.prepare_row, []
def prepare_row(row, size):
    started.append(row)
    if len(started) > stop:
        threading.Event().wait()
    return real(row, size)
module.prepare_row = prepare_row
module.prepare(root, size, out, workers=1, progress=False)
"""


def wait_until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def unfinished(out: Path) -> Path | None:
    return next(out.parent.glob(f"{out.name}*.part"), None)


def kill_after(root: Path, out: Path, photographs: int) -> Path:
    """Start a run, kill it when so many photographs are written, return what it left."""

    def written() -> bool:
        part = unfinished(out)
        file = part / PHOTOGRAPHS if part else None
        return bool(file and file.exists() and file.stat().st_size >= photographs * SIZE * SIZE * 3)

    process = subprocess.Popen(
        [sys.executable, "-c", STUCK_RUN, str(root), str(out), str(SIZE), str(photographs)]
    )
    try:
        wait_until(written)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    return unfinished(out)


@pytest.mark.parametrize("photographs", [3, 21], ids=["in part A", "in part B"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    synthetic_root, undisturbed, tmp_path, photographs, monkeypatch
):
    out = tmp_path / "copy"
    part = kill_after(synthetic_root, out, photographs)
    assert (part / PHOTOGRAPHS).stat().st_size == photographs * SIZE * SIZE * 3
    with pytest.raises(DataError, match="no finished working copy"):
        WorkingCopy.open(part)
    with pytest.raises(DataError, match="no finished working copy"):
        WorkingCopy.open(out)

    done = []
    real = module.prepare_row
    monkeypatch.setattr(module, "prepare_row", lambda row, size: done.append(row) or real(row, size))
    prepare(synthetic_root, SIZE, out, progress=False)
    assert len(done) == len(undisturbed) - photographs  # what was there was not made again
    assert contents(out) == contents(undisturbed.folder)
    assert unfinished(out) is None


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [
        (2.5, 2.0),
        (2.5, 3.0),
        (2.0, 2.7),
        (3.0, 1.0),
        (0.0, 0.5),
        (0.0, 0.0),
        (12.3, 9.0),
        (39.0, 9.0),
        (45.0, 20.0),
    ],
)
def test_any_half_written_rest_ends_with_the_same_bytes(
    synthetic_root, undisturbed, tmp_path, pictures, masks
):
    out = tmp_path / "copy"
    part = out.with_name(f"{out.name}.{undisturbed.fingerprint}-{SIZE}-v{module.FORMAT}.part")
    part.mkdir()
    for name, share, row_bytes in ((PHOTOGRAPHS, pictures, SIZE * SIZE * 3), (MASKS, masks, SIZE * SIZE)):
        whole = (undisturbed.folder / name).read_bytes() + bytes(10 * row_bytes)
        (part / name).write_bytes(whole[: int(share * row_bytes)])
    (part / ABOUT).write_text('{"format"')  # cut off as well
    prepare(synthetic_root, SIZE, out, progress=False)
    assert contents(out) == contents(undisturbed.folder)


def test_a_second_run_opens_what_is_there(synthetic_root, undisturbed, monkeypatch):
    monkeypatch.setattr(module, "prepare_row", None)  # nothing is made again
    assert contents(prepare(synthetic_root, SIZE, undisturbed.folder, progress=False).folder) == contents(
        undisturbed.folder
    )


def test_a_second_process_waits_for_the_first_and_opens_its_copy(synthetic_root, undisturbed, tmp_path):
    out = tmp_path / "copy"
    # Both are slow and say what they make: without the lock both would make photographs.
    code = """
import sys, time
from mtl_utils.data import prepare as module
real = module.prepare_row
def prepare_row(row, size):
    print(row.photo, flush=True)
    time.sleep(0.03)
    return real(row, size)
module.prepare_row = prepare_row
copy = module.prepare(sys.argv[1], int(sys.argv[3]), sys.argv[2], workers=1, progress=False)
print("opened", len(copy), file=sys.stderr)
"""
    command = [sys.executable, "-c", code, str(synthetic_root), str(out), str(SIZE)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in both]
    assert [err.strip() for _, err in results] == [f"opened {len(undisturbed)}"] * 2
    made = [out.split() for out, _ in results]
    assert sorted(map(len, made)) == [0, len(undisturbed)]
    assert contents(out) == contents(undisturbed.folder)


def test_ctrl_c_leaves_a_copy_that_goes_on(synthetic_root, undisturbed, tmp_path, monkeypatch):
    out, real, made = tmp_path / "copy", module.prepare_row, []

    def interrupted(row, size):
        made.append(row)
        if len(made) == 5:
            raise KeyboardInterrupt
        return real(row, size)

    monkeypatch.setattr(module, "prepare_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(synthetic_root, SIZE, out, workers=1, progress=False)
    monkeypatch.setattr(module, "prepare_row", real)
    prepare(synthetic_root, SIZE, out, progress=False)
    assert contents(out) == contents(undisturbed.folder)


# --- what can go wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PHOTOGRAPHS, MASKS])
@pytest.mark.parametrize("missing", [1, None])
def test_a_truncated_copy_is_not_opened(copy, name, missing):
    path = copy / name
    if missing:
        os.truncate(path, path.stat().st_size - missing)
    else:
        path.unlink()
    with pytest.raises(DataError, match="prepare again") as raised:
        WorkingCopy.open(copy)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], "damaged"),
        (lambda text: json.dumps(json.loads(text) | {"format": module.FORMAT + 1}), "another version"),
    ],
    ids=["half a file", "another format"],
)
def test_a_damaged_description_is_not_opened(copy, change, message):
    (copy / ABOUT).write_text(change((copy / ABOUT).read_text()))
    with pytest.raises(DataError, match=f"{message}.*\n?.*prepare again"):
        WorkingCopy.open(copy)


# The limit on a file's size stands for the end of the disk: writing stops in the middle of a photograph.
FULL_DISK_RUN = """
import resource, sys
from mtl_utils.errors import DataError
from mtl_utils.data.prepare import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    prepare(sys.argv[1], int(sys.argv[3]), sys.argv[2], progress=False)
except DataError as error:
    print(error)
"""


def test_a_full_disk_gives_one_clear_message_and_the_next_run_goes_on(synthetic_root, undisturbed, tmp_path):
    out = tmp_path / "copy"
    limit = int(6.5 * SIZE * SIZE * 3)
    command = [sys.executable, "-c", FULL_DISK_RUN, str(synthetic_root), str(out), str(SIZE), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"cannot write {tmp_path}") and run.stdout.count("\n") == 1
    assert "MB free" in run.stdout and "run again to go on" in run.stdout
    assert not out.exists() and unfinished(out) is not None
    prepare(synthetic_root, SIZE, out, progress=False)
    assert contents(out) == contents(undisturbed.folder)


@pytest.mark.parametrize("size", [0, -5, 15, 4097])
def test_a_size_that_makes_no_sense(synthetic_root, tmp_path, size):
    with pytest.raises(DataError, match=f"size is {size} px: give a side between 16 and 4096"):
        prepare(synthetic_root, size, tmp_path / "copy", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_left_alone(synthetic_root, tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    file.write_text("precious")
    for out in (folder, file):
        with pytest.raises(DataError, match="is no working copy: nothing was written"):
            prepare(synthetic_root, SIZE, out, progress=False)
    assert (folder / "thesis.tex").read_text() == file.read_text() == "precious"
    assert unfinished(folder) is None and unfinished(file) is None


def test_a_copy_of_other_data_or_another_size_is_left_alone(synthetic_root, copy, tmp_path):
    before = contents(copy)
    other = shutil.copytree(synthetic_root, tmp_path / "other")
    table = read_idrid(other)
    shutil.copy(table.image[0], table.image[1])
    for root, size in ((synthetic_root, SIZE + 16), (other, SIZE)):
        with pytest.raises(DataError, match="other data or another size"):
            prepare(root, size, copy, progress=False)
    assert contents(copy) == before


def test_a_broken_data_set_is_not_prepared(synthetic_root, tmp_path):
    root = shutil.copytree(synthetic_root, tmp_path / "root")
    path = Path(read_idrid(root).image.iloc[-1])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="half copied") as raised:
        prepare(root, SIZE, tmp_path / "copy", progress=False)
    assert str(path) in str(raised.value)
    assert not (tmp_path / "copy").exists()


def test_a_copy_that_does_not_name_its_sets_is_idrid(synthetic_root, tmp_path):
    """Copies from before other sets with masks were read."""
    folder = prepare(synthetic_root, SIZE, tmp_path / "copy", progress=False).folder
    about = json.loads((folder / "about.json").read_text())
    assert about.pop("sets") == ["IDRiD"]
    (folder / "about.json").write_text(json.dumps(about | {"synthetic": False}))
    old = WorkingCopy.open(folder)
    assert old.label == "IDRiD" and old.unknown_lesions() == ()


def test_without_a_folder_the_copy_goes_to_the_cache(synthetic_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_CACHE", str(tmp_path))
    copy = prepare(synthetic_root, SIZE, progress=False)
    assert copy.folder.parent == tmp_path and copy.fingerprint in copy.folder.name
    assert copy.folder != prepare(synthetic_root, SIZE + 16, progress=False).folder


def test_the_folder_at_hand_may_become_the_copy(synthetic_root, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert prepare(synthetic_root, SIZE, ".", progress=False).folder == here
    assert len(WorkingCopy.open(here).table) == len(read_idrid(synthetic_root))


# --- how fast it is -----------------------------------------------------------------------------------------


@pytest.fixture
def few_real_photographs(real_idrid: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pd.DataFrame]:
    table = read_idrid(real_idrid)
    few = pd.concat([table[table.part == "A"].head(5), table[table.part == "B"].head(2)]).reset_index(
        drop=True
    )
    monkeypatch.setattr(module, "read_set", lambda root: few)
    return few


def test_reading_real_photographs_is_forty_times_faster(real_idrid, few_real_photographs, tmp_path):
    copy = prepare(real_idrid, 512, tmp_path / "copy", progress=False)
    times = reading_times(copy, few_real_photographs)
    print(f"{times.full_size:.3f} s and {times.working_copy:.5f} s: {times.ratio:.0f} times faster")
    assert times.ratio >= 40
    # It is still the same photograph: the disc is bright, exudates are brighter than what surrounds them.
    for i in range(5):
        image, mask = copy.image(i).mean(2), copy.mask(i)
        assert image[mask[4] > 0].mean() > 1.2 * image[image > 20].mean()


def test_reading_times_measures_both_ways(synthetic_root, undisturbed):
    times = reading_times(undisturbed, read_idrid(synthetic_root), n=3)
    assert times.full_size > times.working_copy > 0
    assert times.ratio == pytest.approx(times.full_size / times.working_copy)
