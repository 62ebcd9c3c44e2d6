"""What a reader can click on in a notebook; in the built book, where no kernel is live, it still shows."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping, Sequence
from importlib.resources import files

import cv2
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display
from IPython.utils.capture import capture_output
from jupyterquiz import display_quiz
from matplotlib.figure import Figure

from mtl_utils.analysis import dice
from mtl_utils.data.prepare import WorkingCopy
from mtl_utils.errors import MTLError
from mtl_utils.lesions import LESION_NAMES, LESIONS
from mtl_utils.plots import gradient_plane, overlay, overlay_sheet, threshold_sheet, verdicts, zoom_sheet

# ---------------------------------------------------------------- quizzes

# White on these, and these on white, have a contrast of at least 4.5 : 1.
QUIZ_COLOURS = {
    "--jq-multiple-choice-bg": "#1f4e79",
    "--jq-many-choice-bg": "#5b3a8c",
    "--jq-numeric-bg": "#1f4e79",
    "--jq-numeric-input-bg": "#ffffff",
    "--jq-numeric-input-label": "#101010",
    "--jq-correct-color": "#00734f",
    "--jq-incorrect-color": "#b3261e",
    "--jq-text-color": "#ffffff",
}

# The package writes for slides: smaller, for a page, and readable on a dark one.
QUIZ_STYLE = """<style>
.Quiz { font-size: 1rem; line-height: 1.35; }
.Quiz .Feedback { font-size: 1rem; text-align: left; padding: 0 .6rem; }
.Quiz .Feedback.correct, .Quiz .Feedback.incorrect { background: #fff; border-radius: 6px; padding: .5rem; }
.Quiz .MCButton { font-size: 1rem; line-height: 1.3; }
.Quiz .MCButton:focus-within { outline: 3px solid #d55e00; }
.Quiz .MCButton input { position: absolute; opacity: 0; }
.Quiz input.Input-text { color: #101010; border: 1px solid #767676; }
.quiz-text { max-width: 600px; margin: 1rem auto; }
</style>"""


def read_quiz(chapter: str) -> list[dict]:
    """The questions of a chapter, as jupyterquiz wants them.

    Args:
        chapter: two digits, as '02'.

    Raises:
        MTLError: this chapter has no quiz.
    """
    folder = files("mtl_utils") / "quizzes"
    path = folder / f"{chapter}.json"
    if not path.is_file():
        there = sorted(
            file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")
        )
        raise MTLError(f"no quiz for chapter {chapter!r}. There are: {', '.join(there)}.")
    return json.loads(path.read_text(encoding="utf-8"))


def _right(answer: dict) -> bool:
    return answer.get("correct", False)


def _value(answer: dict) -> str:
    """An answer in words: its text, its number, or its range."""
    if "range" in answer:
        low, high = answer["range"]
        return f"from {low} to below {high}"
    return str(answer.get("answer", answer.get("value", "")))


def quiz_text(questions: list[dict]) -> str:
    """The questions with their right answers as HTML, folded away: for a browser that runs no scripts, for
    print, and for everyone who would rather read.

    >>> answers = [{"value": 2, "correct": True, "feedback": "Yes."}]
    >>> print(quiz_text([{"question": "1 + 1?", "type": "numeric", "answers": answers}]))
    <details class="quiz-text"><summary>The questions and their answers as text</summary><ol>
    <li>1 + 1?<br><strong>2</strong>: Yes.</li>
    </ol></details>
    """
    items = []
    for question in questions:
        right = (answer for answer in question["answers"] if _right(answer))
        lines = [
            question["question"],
            *(
                f"<strong>{str(_value(answer)).rstrip('.')}</strong>: {answer['feedback']}"
                for answer in right
            ),
        ]
        items.append(f"<li>{'<br>'.join(lines)}</li>\n")
    summary = "<summary>The questions and their answers as text</summary>"
    return f'<details class="quiz-text">{summary}<ol>\n{"".join(items)}</ol></details>'


def quiz(chapter: str) -> None:
    """Show the quiz of a chapter; its questions are in `mtl_utils/quizzes/NN.json`.

    It works without a kernel and without a network: jupyterquiz puts its script into the output itself.
    Below it stand the questions and answers as text.

    Args:
        chapter: two digits, as '02'.

    Raises:
        MTLError: this chapter has no quiz.
    """
    questions = read_quiz(chapter)
    # jupyterquiz draws its element's id from Python's generator. `setup` seeds that: of two notebooks open in
    # one JupyterLab page, both would draw the same id, and one would show the other's quiz.
    state = random.getstate()
    random.seed(f"quiz of chapter {chapter}")
    try:
        with capture_output() as captured:
            display_quiz(questions, colors=QUIZ_COLOURS)
    finally:
        random.setstate(state)
    frame, script = captured.outputs
    html = frame.data["text/html"]
    html += "</div>" * (html.count("<div") - html.count("</div"))  # jupyterquiz leaves its element open
    display(HTML(html + QUIZ_STYLE + quiz_text(questions)))
    script.display()


# ---------------------------------------------------------------- chapter 01: the overlay explorer


def is_live() -> bool:
    """Is somebody there to move a slider?

    A cell that a person runs may ask for input. nbclient, which executes the notebooks for the book and for
    the tests, forbids it.
    """
    request = getattr(get_ipython(), "get_parent", dict)()
    return request.get("content", {}).get("allow_stdin", False)


def _image_tag(pixels: np.ndarray, alt: str, width: int, style: str = "") -> str:
    """RGB, uint8 (H, W, 3), as an HTML image that holds its own bytes."""
    png = base64.b64encode(cv2.imencode(".png", pixels[..., ::-1])[1]).decode()
    style = style and f' style="{style}"'
    return f'<img src="data:image/png;base64,{png}" alt="{alt}" width="{width}"{style}>'


def overlay_explorer(copy: WorkingCopy, rows: Sequence[int], label: str) -> None:
    """Choose a photograph, lesions and an opacity, and see the masks over the photograph.

    Args:
        copy: the working copy.
        rows: positions of photographs with masks, at least one.
        label: names the data, as `Runtime.label`.
    """
    if not is_live():
        overlay_sheet(copy, rows[:3], label)
        return
    titles = copy.table.iloc[rows][["split", "name"]].agg(" ".join, axis=1)
    photograph = widgets.Dropdown(options=list(zip(titles, rows)), description="photograph")
    ticks = {name: widgets.Checkbox(True, description=LESION_NAMES[name], indent=False) for name in LESIONS}
    opacity = widgets.FloatSlider(0.45, min=0, max=1, step=0.05, description="opacity")
    picture = widgets.HTML()

    def draw(*_) -> None:
        masks = dict(zip(LESIONS, copy.mask(photograph.value), strict=True))
        shown = {name: masks[name] for name, tick in ticks.items() if tick.value}
        pixels = overlay(copy.image(photograph.value), shown, fill=opacity.value)
        alt = f"{photograph.label} ({label}), marked: {', '.join(shown) or 'nothing'}"
        picture.value = _image_tag(pixels, alt, 512)

    for control in (photograph, opacity, *ticks.values()):
        control.observe(draw, "value")
    draw()
    display(widgets.HBox([widgets.VBox([photograph, opacity, *ticks.values()]), picture]))


# ---------------------------------------------------------------- chapter 07: the zoom


def zoom_explorer(
    photographs: Mapping[str, Mapping[str, np.ndarray]], box: tuple[int, int, int], label: str
) -> None:
    """Move one square place over several versions of a photograph, and see each as it is, pixel by pixel.

    Args:
        photographs: name -> version ('bicubic', ..) -> RGB, uint8 (H, W, 3), all of one size; the last
            version is the original.
        box: top, left and side of the place at first, in pixels; of the first photograph.
        label: names the data, as `Runtime.label`.
    """
    first = next(iter(photographs.values()))
    if not is_live():
        zoom_sheet(first, box, label)
        return
    top, left, side = box
    height, width = next(iter(first.values())).shape[:2]
    sides = sorted({side, *(each for each in (16, 32, 64, 128) if each <= min(height, width))})
    photograph = widgets.Dropdown(options=list(photographs), description="photograph")
    size = widgets.Dropdown(options=sides, value=side, description="side, px")
    down = widgets.IntSlider(top, min=0, max=height - 1, description="down")
    across = widgets.IntSlider(left, min=0, max=width - 1, description="across")
    shown = widgets.HTML()

    def draw(*_) -> None:
        tags = []
        for name, pixels in photographs[photograph.value].items():
            start = [
                min(slider.value, pixels.shape[axis] - size.value)
                for axis, slider in enumerate((down, across))
            ]
            place = pixels[start[0] : start[0] + size.value, start[1] : start[1] + size.value]
            image = _image_tag(
                place, f"{name}, {photograph.value} ({label})", 220, "image-rendering: pixelated"
            )
            tags.append(f'<figure style="margin: 4px">{image}<figcaption>{name}</figcaption></figure>')
        shown.value = f'<div style="display: flex; flex-wrap: wrap">{"".join(tags)}</div>'

    for control in (photograph, size, down, across):
        control.observe(draw, "value")
    draw()
    display(widgets.VBox([widgets.HBox([photograph, size]), widgets.HBox([down, across]), shown]))


# ---------------------------------------------------------------- chapter 08: the threshold


def threshold_explorer(
    examples: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    label: str,
    lesion: str = "EX",
    thresholds: Sequence[float] = (0.2, 0.5, 0.8),
) -> None:
    """Choose a photograph, a lesion and a threshold, and see what is found, missed and a false alarm.

    Args:
        examples: name -> photograph (RGB, uint8 (H, W, 3)), lesion -> true mask (H, W), lesion -> probability
            (H, W); all have the same lesions.
        label: names the data, as `Runtime.label`.
        lesion: which one is shown at first.
        thresholds: those of the static figure, where no kernel is live.
    """
    if not is_live():
        threshold_sheet(examples, lesion, thresholds, label)
        return
    lesions = list(next(iter(examples.values()))[1])
    names = [(LESION_NAMES.get(each, each), each) for each in lesions]
    photograph = widgets.Dropdown(options=list(examples), description="photograph")
    kind = widgets.Dropdown(options=names, value=lesion, description="lesion")
    threshold = widgets.FloatSlider(0.5, min=0.01, max=0.99, step=0.01, description="threshold")
    shown = widgets.HTML()

    def draw(*_) -> None:
        image, truths, chances = examples[photograph.value]
        truth, marked = truths[kind.value] > 0, chances[kind.value] >= threshold.value
        score = dice(truth, marked)
        text = f"Dice {score:.3f}" if np.isfinite(score) else "nothing to find"
        counts = {
            "found": truth & marked,
            "missed": truth & ~marked,
            "false alarm": ~truth & marked,
        }
        numbers = ", ".join(f"{name} {mask.sum():,}" for name, mask in counts.items())
        alt = f"{photograph.value} ({label}), {kind.label} from {threshold.value:g} on: {text}; {numbers}"
        plain = _image_tag(overlay(image, {kind.value: truth}, fill=0), "the true outlines", 400)
        judged = _image_tag(verdicts(image, truth, marked), alt, 400)
        legend = "green: found, blue: missed, orange: false alarm"
        shown.value = f"<p>{text}; pixels: {numbers} ({legend})</p>{plain} {judged}"

    for control in (photograph, kind, threshold):
        control.observe(draw, "value")
    draw()
    display(widgets.VBox([widgets.HBox([photograph, kind, threshold]), shown]))


# ---------------------------------------------------------------- chapter 09: two gradients


def two_gradients(angle: float, ratio: float) -> np.ndarray:
    """Gradients of two tasks in a plane, (2, 2): the first `ratio` times as long as the second, which has
    length 1, and `angle` degrees apart.
    """
    turn = np.radians(angle)
    return np.array([[ratio, 0.0], [np.cos(turn), np.sin(turn)]])


def conflict_explorer(angle: float = 130, ratio: float = 2) -> None:
    """Turn two gradients against each other, make one of them longer, and see where each method steps.

    Args:
        angle: between the two at first, in degrees.
        ratio: of their lengths at first, grade to masks.
    """

    import torch  # both start slowly, and the other chapters need neither for their widgets

    from mtl_utils.balancing import combined_gradients

    def figure(angle: float, ratio: float) -> Figure:
        gradients = two_gradients(angle, ratio)
        combined = combined_gradients(torch.from_numpy(gradients))
        return gradient_plane(gradients, {name: each.numpy() for name, each in combined.items()})

    if not is_live():
        figure(angle, ratio)
        return
    turn = widgets.IntSlider(int(angle), min=0, max=180, step=5, description="angle")
    length = widgets.FloatLogSlider(ratio, base=10, min=-1, max=1, step=0.05, description="grade / masks")
    picture = widgets.HTML()

    def draw(*_) -> None:
        drawn = figure(turn.value, length.value)
        drawn.canvas.draw()
        pixels = np.asarray(drawn.canvas.buffer_rgba())[..., :3]
        plt.close(drawn)
        alt = f"two gradients, {turn.value} degrees apart, the first {length.value:.2f} times as long"
        picture.value = _image_tag(np.ascontiguousarray(pixels), alt, 900)

    for control in (turn, length):
        control.observe(draw, "value")
    draw()
    display(widgets.VBox([widgets.HBox([turn, length]), picture]))
