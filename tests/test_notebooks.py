"""Every chapter runs from its first cell to its last in the smoke profile, and has a chapter's shape."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import publish_url
import pytest
from check_book import ROOT, chapters
from nbformat import NotebookNode
from pytest_notebook.nb_regression import NBRegressionFixture

CHAPTERS = [ROOT / f"{name}.ipynb" for name in chapters() if name.startswith("notebooks/")]
LINK = re.compile(r"\]\(([^)\s]+)\)")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_chapter
def test_chapter_runs(path: Path, nb_regression: NBRegressionFixture) -> None:
    cells = code_cells(nb_regression.check(path).nb_final)
    # pytest-notebook raises where a cell fails; the counts show that each cell was executed, none left out.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.output_type != "stream" for cell in cells for output in cell.outputs)


def test_no_chapter_is_left_out_of_the_book() -> None:
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == CHAPTERS


@each_chapter
def test_chapter_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(cell.execution_count is None and not cell.outputs for cell in code_cells(notebook))


@each_chapter
def test_chapter_begins_with_title_badge_and_install_cell(path: Path) -> None:
    url, notebook = publish_url.read_url(), read(path)
    first = notebook.cells[0].source.splitlines()
    assert first[0].startswith("# ")
    assert first.count(publish_url.badge_line(url, path.name)) == 1
    code = code_cells(notebook)
    assert code[0].source == publish_url.install_cell(url)
    assert not any(cell.source.startswith(publish_url.INSTALL_TITLE) for cell in code[1:])
    assert dict(code[0].metadata) == publish_url.INSTALL_METADATA
    assert "setup(" in code[1].source


@each_chapter
def test_chapter_asserts_and_has_exercises_with_solutions_and_a_quiz(path: Path) -> None:
    code = code_cells(read(path))
    solutions = [cell for cell in code if cell.source.startswith("#@title Solution")]
    assert 2 <= len(solutions) <= 4
    assert all("hide-cell" in cell.metadata.get("tags", []) for cell in solutions)
    assert all(cell.metadata.get("cellView") == "form" for cell in solutions)
    assert any(re.search(r"^\s*assert ", cell.source, re.MULTILINE) for cell in code if cell not in solutions)
    assert any("quiz" in cell.source for cell in code)


@each_chapter
def test_chapter_is_plain_markdown(path: Path) -> None:
    """Colab shows directives and roles as raw text."""
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"^\s*(:::|```+\s*\{)|\{[a-z:]+\}`", cell.source, re.MULTILINE), cell.source


@each_chapter
def test_links_of_a_chapter_lead_to_files(path: Path) -> None:
    for cell in read(path).cells:
        for link in LINK.findall(cell.source) if cell.cell_type == "markdown" else []:
            if not link.startswith(("http:", "https:", "#")):
                assert (path.parent / link.partition("#")[0]).is_file(), link
