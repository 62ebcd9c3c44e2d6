"""Chapter 00's figures show what they say."""

from __future__ import annotations

import socket
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mtl_utils import plots
from mtl_utils.data.fov import FieldOfView
from mtl_utils.lesions import GRADE_NAMES, LESION_COLOURS, LESIONS
from mtl_utils.predict import Prediction, save_prediction
from mtl_utils.training import Config

SIDE = 60
PHOTOGRAPH = np.full((SIDE, SIDE, 3), (240, 228, 66), np.uint8)  # as yellow as the marks of hard exudates


def squares() -> dict[str, np.ndarray]:
    """One square for each lesion, none touching another."""
    masks = {lesion: np.zeros((SIDE, SIDE), np.float32) for lesion in LESIONS}
    for place, mask in enumerate(masks.values()):
        mask[5:15, 12 * place : 12 * place + 8] = 1
    return masks


@pytest.fixture
def prediction() -> Prediction:
    chances = np.array([0.1, 0.1, 0.6, 0.1, 0.1])
    return Prediction(PHOTOGRAPH, FieldOfView(0, 0, SIDE, SIDE), Config("test"), chances, squares())


def pictures(figure: Figure) -> dict[str, np.ndarray]:
    return {ax.get_title(): ax.images[0].get_array() for ax in figure.axes if ax.images}


def coloured(picture: np.ndarray) -> np.ndarray:
    return np.ptp(picture.astype(int), axis=2) > 3


def test_all_colour_in_a_marked_picture_is_marks(prediction: Prediction) -> None:
    masks = squares()
    shown = pictures(plots.truth_and_prediction(prediction, "title", {"EX": masks["EX"] > 0}, grade=2))
    assert set(shown) == {"the photograph", "the truth", "what the network marks"}
    np.testing.assert_array_equal(shown["the photograph"], PHOTOGRAPH)
    np.testing.assert_array_equal(coloured(shown["the truth"]), masks["EX"] > 0)
    everything = np.any(list(masks.values()), axis=0)
    np.testing.assert_array_equal(coloured(shown["what the network marks"]), everything)
    outline = shown["what the network marks"][5, 24]
    np.testing.assert_allclose(outline, 255 * np.array(to_rgb(LESION_COLOURS["EX"])), atol=1)
    plt.close("all")


def test_bars_are_the_probabilities_and_name_the_true_grade(prediction: Prediction) -> None:
    for grade in (None, 3):
        figure = plots.truth_and_prediction(prediction, "title", grade=grade)
        (bars,) = (ax for ax in figure.axes if ax.patches)
        assert [patch.get_width() for patch in bars.patches] == prediction.probabilities.tolist()
        names = [label.get_text() for label in bars.get_yticklabels()]
        assert [name.split("\n")[0][2:] for name in names] == list(GRADE_NAMES)
        assert [place for place, name in enumerate(names) if "true grade" in name] == (
            [] if grade is None else [3]
        )
        darkest = min(range(5), key=lambda place: sum(bars.patches[place].get_facecolor()[:3]))
        assert darkest == prediction.grade
    plt.close("all")


def test_the_first_figure_names_grade_and_data() -> None:
    figure = plots.photograph_and_truth(PHOTOGRAPH, np.stack(list(squares().values())), 4, "synthetic set")
    assert "grade 4: proliferative (synthetic set)" in figure.get_suptitle()
    plt.close("all")


def test_saved_pictures_are_shown_under_their_names(prediction: Prediction, tmp_path: Path) -> None:
    shown = pictures(plots.saved_prediction(save_prediction(prediction, "eye", tmp_path)))
    assert set(shown) == {path.name for path in tmp_path.glob("*.png")}
    np.testing.assert_array_equal(shown["eye_SE.png"], squares()["SE"] * 255)
    plt.close("all")


def test_the_real_retina_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes inside scikit-image's wheel; chapter 00 shows it."""

    def refuse(*_: object) -> None:
        raise OSError("a download was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    import skimage.data

    assert skimage.data.retina().shape == (1411, 1411, 3)
    assert skimage.data.chelsea().shape[2] == 3
