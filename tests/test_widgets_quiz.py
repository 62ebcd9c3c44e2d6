"""Every quiz is whole, and shows in a page without a kernel, without a network and without scripts; the zoom
of chapter 07 follows its controls.
"""

from __future__ import annotations

import base64
import re
from importlib.resources import files
from types import SimpleNamespace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from mtl_utils import widgets
from mtl_utils.errors import MTLError
from mtl_utils.widgets import quiz_text, read_quiz

CHAPTERS = sorted(path.name.removesuffix(".json") for path in (files("mtl_utils") / "quizzes").iterdir())
KINDS = ("multiple_choice", "many_choice", "numeric")

each_quiz = pytest.mark.parametrize("chapter", CHAPTERS)


@each_quiz
def test_a_quiz_is_whole(chapter: str) -> None:
    questions = read_quiz(chapter)
    assert len(questions) >= 3
    for question in questions:
        assert question["question"] and question["type"] in KINDS, question
        answers = question["answers"]
        right = sum(answer.get("correct", False) for answer in answers)
        assert len(answers) >= 2 and right >= 1, question["question"]
        assert right == 1 or question["type"] != "multiple_choice", question["question"]
        assert all(answer["feedback"] for answer in answers), question["question"]
        if question["type"] == "numeric":
            for answer in answers:
                # jupyterquiz rounds first, and asks then whether the number is below the end.
                if "range" in answer and answer["correct"]:
                    low, high = answer["range"]
                    given = np.linspace(low, high, 100, endpoint=False)
                    rounded = [float(f"{each:.{question.get('precision', 15)}g}") for each in given]
                    inside = [low <= each < high for each in rounded]
                    assert np.mean(inside) > 0.9, question["question"]
        else:
            assert all(answer["answer"] for answer in answers), question["question"]


@each_quiz
def test_a_quiz_needs_nothing_that_the_book_has_not(chapter: str) -> None:
    """No TeX (no page loads MathJax), no Markdown (jupyterquiz reads HTML), no pictures from elsewhere."""
    for question in read_quiz(chapter):
        answers = [
            text for answer in question["answers"] for text in answer.values() if isinstance(text, str)
        ]
        for text in (question["question"], *answers):
            assert not re.search(r"\$|\\\(|\]\(|\*\*|`|<img|https?:", text), text


@each_quiz
def test_questions_and_right_answers_are_there_as_text(chapter: str) -> None:
    questions = read_quiz(chapter)
    page = BeautifulSoup(quiz_text(questions), "html.parser")
    items = page.select("details > ol > li")
    assert len(items) == len(questions)
    for item, question in zip(items, questions, strict=True):
        right = [answer for answer in question["answers"] if answer.get("correct")]
        assert len(item.find_all("strong")) >= len(right)
        for answer in right:
            assert BeautifulSoup(answer["feedback"], "html.parser").get_text() in item.get_text()


def test_an_unknown_chapter_is_refused() -> None:
    with pytest.raises(MTLError, match=r"no quiz for chapter 'x1'.*00"):
        read_quiz("x1")


def test_what_a_notebook_shows() -> None:
    """Two outputs: the frame with the text, closed, and the script; ids differ from chapter to chapter."""
    source = "import random; from mtl_utils.widgets import quiz; random.seed(0); quiz('{}'); random.random()"
    again = new_code_cell("random.seed(0); random.random()")
    chapters = (CHAPTERS * 2)[:2]
    notebook = new_notebook(cells=[*(new_code_cell(source.format(chapter)) for chapter in chapters), again])
    NotebookClient(notebook).execute()
    ids = []
    for cell in notebook.cells[:-1]:
        frame, script, drawn = cell.outputs
        html, javascript = frame.data["text/html"], script.data["application/javascript"]
        assert html.count("<div") == html.count("</div")
        page = BeautifulSoup(html, "html.parser")
        ids.append(page.div["id"])
        assert page.find("details") is not None and page.find(src=True) is None
        assert ids[-1] in javascript and read_quiz(chapters[0])[0]["type"] in javascript
        # The lesson's own random numbers stay what they would be without a quiz.
        assert drawn.data["text/plain"] == notebook.cells[-1].outputs[0].data["text/plain"]
    assert len(set(ids)) == len(set(chapters))


# ---------------------------------------------------------------- chapter 07: the zoom

VERSIONS = ("bicubic", "original")
ZOOMED = {
    name: {
        version: np.random.default_rng(seed + 10 * place).integers(0, 255, (40, 40, 3), np.uint8)
        for place, version in enumerate(VERSIONS)
    }
    for seed, name in enumerate(("first", "second"))
}


def test_without_a_reader_the_zoom_is_a_figure() -> None:
    plt.close("all")
    widgets.zoom_explorer(ZOOMED, (4, 8, 16), "IDRiD")
    (number,) = plt.get_fignums()
    panels = plt.figure(number).axes
    for panel, version in zip(panels, VERSIONS, strict=False):
        assert np.array_equal(panel.images[0].get_array(), ZOOMED["first"][version][4:20, 8:24])
    plt.close("all")


def pictures_of(html: str) -> list[np.ndarray]:
    tags = BeautifulSoup(html, "html.parser").find_all("img")
    files_ = (base64.b64decode(tag["src"].split("base64,")[1]) for tag in tags)
    return [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for file in files_]


def test_with_a_reader_the_zoom_follows_its_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"content": {"allow_stdin": True}}
    monkeypatch.setattr(widgets, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: asked))
    displayed = []
    monkeypatch.setattr(widgets, "display", displayed.append)
    widgets.zoom_explorer(ZOOMED, (4, 8, 16), "IDRiD")
    choices, sliders, shown = displayed[0].children
    (photograph, size), (down, across) = choices.children, sliders.children

    def expect(name: str, top: int, left: int, side: int) -> None:
        found = pictures_of(shown.value)
        assert len(found) == len(VERSIONS)
        for picture, version in zip(found, VERSIONS, strict=True):
            assert np.array_equal(picture, ZOOMED[name][version][top : top + side, left : left + side])

    expect("first", 4, 8, 16)
    photograph.value, down.value = "second", 10
    expect("second", 10, 8, 16)
    size.value = 32
    across.value = 39  # the place stays inside the picture
    expect("second", 8, 8, 32)
    page = BeautifulSoup(shown.value, "html.parser")
    assert [caption.get_text() for caption in page.find_all("figcaption")] == list(VERSIONS)
    assert all("second" in tag["alt"] and "IDRiD" in tag["alt"] for tag in page.find_all("img"))


# ---------------------------------------------------------------- chapter 09: two gradients


def test_without_a_reader_the_two_gradients_are_a_figure() -> None:
    plt.close("all")
    widgets.conflict_explorer(angle=90, ratio=3)
    (number,) = plt.get_fignums()
    panels = plt.figure(number).axes
    assert [panel.get_title() for panel in panels] == ["plain sum", "PCGrad", "CAGrad", "UPGrad"]
    first, second, _ = (text.xy for text in panels[0].texts)
    assert np.allclose([first, second], [(3, 0), (0, 1)])
    plt.close("all")


def test_with_a_reader_the_two_gradients_follow_the_sliders(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"content": {"allow_stdin": True}}
    monkeypatch.setattr(widgets, "get_ipython", lambda: SimpleNamespace(get_parent=lambda: asked))
    displayed, drawn = [], []
    monkeypatch.setattr(widgets, "display", displayed.append)
    plane = widgets.gradient_plane
    monkeypatch.setattr(widgets, "gradient_plane", lambda *given: (drawn.append(given[0]), plane(*given))[1])
    widgets.conflict_explorer(angle=90, ratio=3)
    controls, shown = displayed[0].children
    angle, ratio = controls.children
    before = shown.value
    angle.value = 150
    ratio.value = 0.5
    assert np.allclose(drawn[-1], widgets.two_gradients(150, 0.5), atol=1e-6)
    assert shown.value != before and len(pictures_of(shown.value)) == 1
    assert "150 degrees apart" in shown.value
    assert not plt.get_fignums()  # no figure is left open
