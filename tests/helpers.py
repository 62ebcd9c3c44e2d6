"""What several test files need."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mtl_utils.cli import main


def mtl(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    """Run the command in this process: exit status, stdout, stderr."""
    monkeypatch.setattr("sys.argv", ["mtl", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return (stop.value.code or 0, *capsys.readouterr())


def save_photograph(path: Path, seed: int, width: int = 72, height: int = 72) -> Path:
    """A bright disc with patches of its own, so that no two seeds look alike."""
    patches = np.random.default_rng(seed).integers(90, 255, (6, 6, 3), np.uint8)
    picture = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    disc = cv2.circle(np.zeros((height, width, 1), np.uint8), (width // 2, height // 2), 34, 1, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture * disc.reshape(height, width, 1)).save(path)
    return path


def remove(path: Path) -> Path:
    """A file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path


def texts(figure: Figure) -> list[str]:
    """All that is written inside the axes of a figure."""
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]
