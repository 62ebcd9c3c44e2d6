"""A photograph of any size comes back graded and with masks of its own size, and bad ones are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from mtl_utils import predict
from mtl_utils.cli import main
from mtl_utils.data.augment import resize_recipe
from mtl_utils.data.dataset import FundusDataset
from mtl_utils.data.fov import crop_square, field_of_view
from mtl_utils.data.idrid import read_photograph
from mtl_utils.data.prepare import prepare, shrink
from mtl_utils.errors import DataError, MTLError
from mtl_utils.lesions import GRADE_NAMES, LESIONS
from mtl_utils.training import Config, load_model


def photograph(
    height: int = 150, width: int = 230, radius: int = 60, centre: tuple[int, int] = (110, 80)
) -> np.ndarray:
    """A plain round retina, orange on black, with a bright disc left of its centre (x, y)."""
    image = np.zeros((height, width, 3), np.uint8)
    cv2.circle(image, centre, radius, (190, 90, 40), -1)
    cv2.circle(image, (centre[0] - 30, centre[1]), 10, (255, 240, 200), -1)
    return image


def config(**changes) -> Config:
    return Config(
        "test", encoder_weights=None, grading_size=64, segmentation_size=96, crop_size=64, **changes
    )


class FakeNetwork(nn.Module):
    """Marks what is bright in the picture that it is given, as every lesion; its grade is always 2."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        self.sizes = sizes
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor, tasks: tuple[str, ...]) -> dict[str, torch.Tensor]:
        (task,) = tasks
        assert (
            image.shape == (1, 3, self.sizes[task], self.sizes[task])
            and image.min() >= 0
            and image.max() <= 1
        )
        if task == "grading":
            return {task: torch.tensor([[0.0, 1.0, 5.0, 2.0, 1.0]])}
        bright = (image[:, 2] > 0.5).float() * 20 - 10
        return {task: bright[:, None].repeat(1, len(LESIONS), 1, 1)}


FAKE = FakeNetwork({"grading": 64, "segmentation": 96})


# Where masks land


@pytest.mark.parametrize(
    ("height", "width", "radius", "centre"),
    [
        (150, 230, 60, (110, 80)),  # the whole circle, off the centre
        (100, 230, 70, (120, 50)),  # cut at top and bottom, as by IDRiD's camera
        (230, 120, 75, (60, 130)),  # cut at both sides
        (60, 50, 22, (25, 30)),  # smaller than the network's pictures
    ],
)
def test_a_mask_lands_where_the_thing_is(
    height: int, width: int, radius: int, centre: tuple[int, int]
) -> None:
    image = photograph(height, width, radius, centre)
    if radius < 30:
        image = cv2.circle(np.zeros_like(image), centre, radius, (190, 90, 40), -1)
        cv2.circle(image, (centre[0] - 8, centre[1]), 5, (255, 240, 200), -1)
    truth = image[..., 2] > 128
    prediction = predict.predict_photograph(FAKE, config(), image)
    assert set(prediction.masks) == set(LESIONS)
    for mask in prediction.masks.values():
        assert mask.shape == (height, width) and mask.dtype == np.float32
        marked = mask >= 0.5
        assert 2 * (marked & truth).sum() / (marked.sum() + truth.sum()) > 0.9
        here, there = (np.argwhere(area).mean(axis=0) for area in (marked, truth))
        assert np.abs(here - there).max() < 1.0


def test_nothing_is_marked_outside_the_field_of_view() -> None:
    image = photograph()
    prediction = predict.predict_photograph(AllLesion(), config(tasks=("segmentation",)), image)
    fov = prediction.fov
    inside = np.zeros(image.shape[:2], bool)
    inside[fov.top : fov.bottom, fov.left : fov.right] = True
    assert 0 < inside.mean() < 1
    for mask in prediction.masks.values():
        assert (mask[inside] > 0.99).all() and (mask[~inside] == 0).all()


class AllLesion(FakeNetwork):
    def __init__(self):
        super().__init__({"segmentation": 96})

    def forward(self, image: torch.Tensor, tasks: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {"segmentation": torch.full((1, len(LESIONS), *image.shape[2:]), 9.0)}


def test_grade_and_probabilities_are_the_networks() -> None:
    prediction = predict.predict_photograph(FAKE, config(), photograph())
    logits = np.array([0.0, 1.0, 5.0, 2.0, 1.0])
    np.testing.assert_allclose(prediction.probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)
    assert prediction.grade == 2
    assert prediction.summary().startswith("grade 2 (moderate), probability 0.9")


def test_a_photograph_takes_the_way_of_the_training_photographs(
    smoke_checkpoint: Path, synthetic_root: Path
) -> None:
    """The network sees what it sees in `evaluate`: same pixels, so the same outputs."""
    network, run = load_model(smoke_checkpoint)
    copy = prepare(synthetic_root, run.copy_size, progress=False)
    row = int(np.flatnonzero(copy.table.part == "A")[0])
    prediction = predict.predict_photograph(network, run, read_photograph(copy.table.image[row]))
    logits = {}
    for task, size in (("grading", run.grading_size), ("segmentation", run.segmentation_size)):
        sample = FundusDataset(copy, [row], resize_recipe(size))[0]
        with torch.inference_mode():
            logits[task] = network(sample["image"][None], tasks=(task,))[task][0]
    np.testing.assert_allclose(prediction.probabilities, logits["grading"].softmax(0).numpy(), atol=1e-5)
    for lesion, seen in zip(LESIONS, logits["segmentation"].sigmoid().numpy(), strict=True):
        back = shrink(crop_square(prediction.masks[lesion], prediction.fov), len(seen))
        assert np.corrcoef(back[8:-8, 8:-8].ravel(), seen[8:-8, 8:-8].ravel())[0, 1] > 0.95


# Networks of one task


@pytest.mark.parametrize("task", ["grading", "segmentation"])
def test_a_network_of_one_task_gives_what_it_has(task: str, tmp_path: Path) -> None:
    prediction = predict.predict_photograph(FAKE, config(tasks=(task,)), photograph())
    about = json.loads(predict.save_prediction(prediction, "eye", tmp_path).read_text())
    written = {path.name for path in tmp_path.iterdir()}
    masks = {f"eye_{lesion}.png" for lesion in LESIONS}
    if task == "grading":
        assert prediction.masks == {} and written == {"eye.json"} and about["grade"] == 2
    else:
        assert prediction.grade is None and "grade" not in about
        assert written == {"eye.json", "eye_overlay.png", *masks}


def test_a_network_that_marks_groups_gives_each_lesion_its_groups_mask(tmp_path: Path) -> None:
    class RedEverywhere(FakeNetwork):
        def forward(self, image: torch.Tensor, tasks: tuple[str, ...]) -> dict[str, torch.Tensor]:
            # Background, red, yellow, disc, outside: e^logit are 1, 6, 1, 1, 1, so red has probability 0.6.
            logits = torch.tensor([0.0, np.log(6), 0, 0, 0]).view(1, 5, 1, 1)
            return {"segmentation": logits.expand(1, 5, *image.shape[2:])}

    red_yellow = config(system="mtunet-c", tasks=("segmentation",), label_space="red-yellow")
    prediction = predict.predict_photograph(RedEverywhere({}), red_yellow, photograph())
    assert list(prediction.masks) == ["red", "yellow", "disc"]
    assert prediction.summary().startswith("marked: red ")
    middle = {lesion: mask[80, 110] for lesion, mask in prediction.lesion_masks().items()}
    assert middle == pytest.approx({"MA": 0.6, "HE": 0.6, "EX": 0.1, "SE": 0.1, "OD": 0.1}, abs=1e-6)
    about = json.loads(predict.save_prediction(prediction, "eye", tmp_path).read_text())
    assert about["label_space"] == {
        "name": "red-yellow",
        "groups": {"red": ["MA", "HE"], "yellow": ["EX", "SE"], "disc": ["OD"]},
    }
    with Image.open(tmp_path / "eye_MA.png") as picture:
        assert np.array(picture)[80, 110] == round(0.6 * 255)


# Files


def test_saved_files_tell_the_whole_prediction(tmp_path: Path) -> None:
    image = photograph()
    prediction = predict.predict_photograph(FAKE, config(), image)
    path = predict.save_prediction(prediction, "eye", tmp_path / "new" / "folder", photograph="a/eye.jpg")
    about = json.loads(path.read_text())
    assert about["grade"] == 2 and about["grade_name"] == GRADE_NAMES[2] == "moderate"
    assert about["probabilities"] == prediction.probabilities.tolist()
    assert about["size"] == {"width": 230, "height": 150}
    assert about["photograph"] == "a/eye.jpg" and about["encoder_name"] == "efficientnet-b0"
    assert "Not a medical device" in about["note"]
    for lesion in LESIONS:
        with Image.open(path.parent / about["files"][lesion]) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.array(picture), np.round(prediction.masks[lesion] * 255))
    with Image.open(path.parent / about["files"]["overlay"]) as picture:
        shown = np.array(picture)
    assert shown.shape == image.shape
    untouched = cv2.dilate((image[..., 2] > 100).astype(np.uint8), np.ones((15, 15))) == 0
    np.testing.assert_array_equal(shown[untouched], image[untouched])  # colours are not swapped
    assert (shown != image).any()


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = predict.predict_photograph(FAKE, config(), photograph())
    before = predict.save_prediction(prediction, "eye", tmp_path).read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if "OD" in path.name:
            write(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        predict.save_prediction(prediction, "eye", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "eye.json").read_bytes() == before
    Image.open(tmp_path / "eye_OD.png").load()


def test_an_answer_that_is_not_a_number_is_no_grade() -> None:
    """Its largest probability would be the first: grade 0, a healthy eye."""

    def lost(image: torch.Tensor, tasks: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {tasks[0]: torch.full((1, 5), torch.nan)}

    network = nn.Module()
    network.weight, network.forward = FAKE.weight, lost
    with pytest.raises(DataError, match="not a number"):
        predict.predict_photograph(network, config(tasks=("grading",)), photograph())


def test_names_of_output_files() -> None:
    assert predict.output_names(["a/left.jpg", "b/right.png"]) == ["left", "right"]
    assert predict.output_names(["a/left.jpg", "b/Left.jpg"]) == ["a_left", "b_Left"]
    for same in (["a/left.jpg", "a/left.png"], ["a/left.jpg", "b/left.jpg", "a_left.jpg"]):
        with pytest.raises(MTLError, match=r"left\.jpg .*would write the same files"):
            predict.output_names(same)


# Pictures of all kinds


def saved(folder: Path, name: str, image: Image.Image, **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_pictures_that_hold_the_same_eye_are_read_alike(tmp_path: Path) -> None:
    image = photograph()
    upright = Image.fromarray(image)
    sixteen = tmp_path / "sixteen.png"
    cv2.imwrite(str(sixteen), image[..., ::-1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a viewer turns the picture by a quarter, clockwise
    paths = [
        saved(tmp_path, "plain.png", upright),
        saved(tmp_path, "alpha.png", upright.convert("RGBA")),
        saved(tmp_path, "palette.png", upright.quantize(16)),
        saved(tmp_path, "turned.tif", upright.transpose(Image.Transpose.ROTATE_90), exif=exif),
        sixteen,
    ]
    for path in paths:
        found = predict.open_photograph(path)
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found.astype(int), image.astype(int), atol=12, err_msg=path.name)


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    image = photograph()
    grey = Image.fromarray(image).convert("L")
    truncated = saved(
        tmp_path,
        "truncated.jpg",
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)),
    )
    truncated.write_bytes(truncated.read_bytes()[:2000])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    bad = {
        tmp_path / "missing.jpg": "does not exist",
        truncated: "cannot be read",
        text: "is no picture",
        tmp_path: "is a folder",
        saved(tmp_path, "grey.jpg", grey): "grey picture",
        saved(tmp_path, "grey16.png", Image.fromarray(np.asarray(grey, np.uint16) * 257)): "grey picture",
        saved(tmp_path, "grey_rgb.jpg", grey.convert("RGB")): "grey picture",
    }
    for path, message in bad.items():
        with pytest.raises(DataError, match=message) as caught:
            predict.open_photograph(path)
        assert str(path) in str(caught.value)


# The command


def mtl_predict(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command's exit status; its output is left to `capsys`."""
    monkeypatch.setattr("sys.argv", ["mtl", "predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_the_command_does_the_good_ones_and_names_the_bad_ones(
    smoke_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    good = [
        saved(tmp_path / "one", "left.jpg", Image.fromarray(photograph())),
        saved(tmp_path / "two", "left.jpg", ImageOps.mirror(Image.fromarray(photograph()))),
        saved(tmp_path, "right.png", Image.fromarray(photograph(90, 120, 40, (60, 45)))),
    ]
    black = saved(tmp_path, "black.png", Image.new("RGB", (80, 60)))
    missing = tmp_path / "missing.jpg"
    out = tmp_path / "out"
    options = ("--checkpoint", smoke_checkpoint, "--out", out)
    assert mtl_predict(monkeypatch, good[0], black, missing, *good[1:], *options) == 2
    shown = capsys.readouterr()
    assert "2 of 5 photographs" in shown.err
    assert [shown.err.count(str(path)) for path in (black, missing)] == [1, 1]
    assert len(shown.out.splitlines()) == len(good)
    assert {path.stem for path in out.glob("*.json")} == {"one_left", "two_left", "right"}
    about = json.loads((out / "right.json").read_text())
    assert about["checkpoint"]["config"]["name"] == "shared-lambda-0.1"
    assert about["checkpoint"]["sha256"] == hashlib.sha256(smoke_checkpoint.read_bytes()).hexdigest()
    assert sum(about["probabilities"]) == pytest.approx(1)
    for lesion in LESIONS:
        assert Image.open(out / f"right_{lesion}.png").size == (120, 90)
    assert mtl_predict(monkeypatch, *good, *options) == 0


def test_a_prediction_of_another_photograph_is_not_overwritten(
    smoke_checkpoint: Path, tmp_path: Path
) -> None:
    """Also not in a later run, which knows only its own photographs."""
    first, second = (tmp_path / folder / "left.png" for folder in ("one", "two"))
    for path, image in ((first, photograph()), (second, photograph()[:, ::-1])):
        path.parent.mkdir()
        Image.fromarray(image).save(path)
    out = tmp_path / "out"
    (written,) = predict.predict_files([first], smoke_checkpoint, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match=r"left\.json is of .*one.left\.png, not of .*two.left\.png"):
        list(predict.predict_files([second], smoke_checkpoint, out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    Image.fromarray(photograph(200, 200, 80, (100, 100))).save(first)  # a better picture of the same name
    list(predict.predict_files([first], smoke_checkpoint, out))
    assert json.loads(written.json.read_text())["size"] == {"width": 200, "height": 200}
    written.json.write_text("notes of my own")
    with pytest.raises(DataError, match=r"left\.json is there and no prediction"):
        list(predict.predict_files([first], smoke_checkpoint, out))


def test_one_name_in_two_folders_is_two_photographs(
    smoke_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means something else in another folder."""
    for folder, image in (("one", photograph()), ("two", photograph()[:, ::-1])):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "left.png")
    monkeypatch.chdir(tmp_path / "one")
    list(predict.predict_files(["left.png"], smoke_checkpoint, tmp_path / "out"))
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(DataError, match=r"left\.json is of .*one.left\.png, not of .*two.left\.png"):
        list(predict.predict_files(["left.png"], smoke_checkpoint, tmp_path / "out"))


def test_a_mask_beside_a_prediction_without_masks_is_not_overwritten(
    smoke_checkpoint: Path, tmp_path: Path
) -> None:
    image, config = photograph(), Config("any")
    path = saved(tmp_path, "eye.png", Image.fromarray(image))
    graded = predict.Prediction(image, field_of_view(image), config, probabilities=np.full(5, 0.2))
    facts = {"photograph": str(path), "photograph_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    predict.save_prediction(graded, "eye", tmp_path, **facts)
    (tmp_path / "eye_MA.png").write_bytes(b"drawn by hand")
    with pytest.raises(DataError, match=r"eye_MA\.png is there: nothing was overwritten"):
        list(predict.predict_files([path], smoke_checkpoint, tmp_path))
    assert (tmp_path / "eye_MA.png").read_bytes() == b"drawn by hand"


def test_a_name_that_is_too_long_and_a_strip_do_not_stop_the_others(
    smoke_checkpoint: Path, tmp_path: Path
) -> None:
    long = saved(tmp_path, f"{'x' * 240}.png", Image.fromarray(photograph()))
    strip = saved(tmp_path, "strip.png", Image.new("RGB", (40_000, 40), (150, 80, 40)))
    good = saved(tmp_path, "eye.png", Image.fromarray(photograph()))
    found = predict.predict_files([long, strip, good], smoke_checkpoint, tmp_path / "out")
    assert next(found).photograph == good
    with pytest.raises(DataError, match="2 of 3 photographs") as raised:
        next(found)
    assert "too long. Rename it." in str(raised.value) and "what is lit is a strip" in str(raised.value)


def test_pictures_that_are_no_prediction_are_not_overwritten(smoke_checkpoint: Path, tmp_path: Path) -> None:
    """As somebody's own mask beside the photograph."""
    Image.fromarray(photograph()).save(tmp_path / "eye.png")
    (tmp_path / "eye_MA.png").write_bytes(b"drawn by hand")
    with pytest.raises(DataError, match=r"eye_MA\.png is there: nothing was overwritten"):
        list(predict.predict_files([tmp_path / "eye.png"], smoke_checkpoint, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eye.png", "eye_MA.png"]
    assert (tmp_path / "eye_MA.png").read_bytes() == b"drawn by hand"


def test_masks_of_an_earlier_network_do_not_stay(tmp_path: Path) -> None:
    image = photograph()
    fov = field_of_view(image)
    config = Config("any")
    mask = np.zeros(image.shape[:2], np.float32)
    drawn = predict.Prediction(image, fov, config, masks=dict.fromkeys(config.space.marked, mask))
    graded = predict.Prediction(image, fov, config, probabilities=np.full(5, 0.2))
    (tmp_path / "eye_notes.png").write_bytes(b"mine")
    predict.save_prediction(drawn, "eye", tmp_path)
    assert (tmp_path / "eye_MA.png").exists() and (tmp_path / "eye_overlay.png").exists()
    predict.save_prediction(graded, "eye", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eye.json", "eye_notes.png"]


def test_the_command_needs_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = saved(tmp_path, "eye.png", Image.fromarray(photograph()))
    nothing, out = tmp_path / "none.ckpt", tmp_path / "out"
    assert mtl_predict(monkeypatch, picture, "--checkpoint", nothing, "--out", out) == 2
    assert str(nothing) in capsys.readouterr().err and not out.exists()


class LeftQuarter(FakeNetwork):
    """How bright is the left quarter of what it sees?"""

    def forward(self, image: torch.Tensor, tasks: tuple[str, ...]) -> dict[str, torch.Tensor]:
        left = 9 * image[..., : image.shape[-1] // 4].mean().view(1, 1)
        return {"grading": torch.cat([left, torch.zeros(1, 4)], dim=1)}


def test_a_photograph_is_predicted_with_the_mirror_images_and_turns_of_its_run() -> None:
    def logit(picture: np.ndarray, **settings: bool) -> float:
        run = config(tasks=("grading",), **settings)
        found = predict.predict_photograph(LeftQuarter({}), run, picture).probabilities
        return np.log(found[0] / found[1])

    image = photograph()
    image[:, 100:180] //= 4
    plain, mirrored = logit(image), logit(image[:, ::-1])
    flipped, turned = logit(image, flips=True), logit(image, flips=True, turns=True)
    sides = (logit(np.rot90(image)) + logit(np.rot90(image, -1))) / 2
    assert abs(plain - mirrored) > 0.5 and abs(flipped - sides) > 0.1
    assert flipped == pytest.approx((plain + mirrored) / 2, abs=0.01)
    assert turned == pytest.approx((flipped + sides) / 2, abs=0.01)


def test_what_is_below_one_half_is_not_marked(tmp_path: Path) -> None:
    image = photograph()
    mask = np.full(image.shape[:2], 0.4, np.float32)
    found = predict.Prediction(image, field_of_view(image), config(), masks=dict.fromkeys(LESIONS, mask))
    assert found.summary() == "marked: nothing"
    predict.save_prediction(found, "eye", tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "eye_overlay.png")), image)
