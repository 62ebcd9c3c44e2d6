"""The book builds without a warning, its pages hold together, and what could hide a fault does not."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from build_book import build_book, forget_stale_outputs, outputs_key
from check_book import (
    ROOT,
    broken_links,
    chapters,
    check_book,
    images_without_alt,
    loaded_from_elsewhere,
    not_executed,
)
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ALT = "A line that rises from left to right."
TOC = """
format: jb-book
root: index
parts:
  - caption: One
    chapters:
      - file: chapter
"""
PAGE = """# Small

## An anchor

[here](#an-anchor), $x^2$ and {cite:p}`porwal2018idrid`

```{bibliography}
```
"""


@pytest.mark.skipif("MTL_BOOK_FOLLOWS" in os.environ, reason="'make book' follows and builds the whole book")
def test_the_whole_book_builds_and_is_right(tmp_path: Path) -> None:
    """Every page, every chapter executed in the smoke profile, warnings as errors; the pages checked."""
    assert build_book(ROOT, tmp_path) == []
    assert all((tmp_path / "_build" / "html" / f"{name}.html").is_file() for name in chapters())


def test_each_page_of_the_book_folder_is_in_the_toc() -> None:
    pages = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert pages == {name for name in chapters() if name.startswith("book/")}


def test_each_term_of_the_glossary_is_linked() -> None:
    """From a chapter or a page, or from another term; what nothing links explains what nobody uses."""
    glossary = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for name in chapters() for path in ROOT.glob(f"{name}.*")]
    linked = {name for text in texts for name in re.findall(r"glossary\.md#([\w-]+)", text)}
    linked |= set(re.findall(r"\]\(#([\w-]+)\)", glossary))
    terms = re.findall(r"^### (.+)$", glossary, re.MULTILINE)
    names = [re.sub(r"[^\w -]", "", term.lower()).strip().replace(" ", "-") for term in terms]
    assert len(names) > 100 and set(names) <= linked, set(names) - linked


# A book of one page and one chapter, with the course's own settings


@pytest.fixture
def small_book(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copytree(ROOT / "book", tmp_path / "book")
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "index.md").write_text(PAGE)
    write_chapter(tmp_path, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    return tmp_path


def write_chapter(root: Path, source: str) -> None:
    title = new_markdown_cell("# Chapter", id="title")
    figure = new_code_cell(source, id="figure", metadata={"mystnb": {"image": {"alt": ALT}}})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    chapter = new_notebook(cells=[title, figure], metadata={"kernelspec": kernel})
    nbformat.write(chapter, root / "chapter.ipynb")


def test_a_small_book_builds(small_book: Path) -> None:
    assert build_book(small_book, small_book) == []
    page = (small_book / "_build" / "html" / "index.html").read_text(encoding="utf-8")
    assert "<msup>" in page, "equations are drawn by the browser"


def test_a_chapter_is_executed_once(small_book: Path) -> None:
    """Sphinx finds its outputs kept, and so does a second build."""
    runs = small_book / "runs.txt"
    write_chapter(
        small_book,
        f"import matplotlib.pyplot as plt\nprint('run', file=open({str(runs)!r}, 'a'))\nplt.plot([1, 2]);",
    )
    for _ in range(2):
        assert build_book(small_book, small_book) == []
    assert runs.read_text() == "run\n"


def test_a_second_build_says_the_warning_again(small_book: Path) -> None:
    with (small_book / "index.md").open("a") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    for _ in range(2):
        (problem,) = build_book(small_book, small_book)
        assert "exit status" in problem


def test_a_failing_cell_stops_the_build(small_book: Path) -> None:
    write_chapter(small_book, "1 / 0")
    (problem,) = build_book(small_book, small_book)
    assert "chapter.ipynb" in problem and "ZeroDivisionError" in problem


# What decides whether kept outputs are used again


def test_kept_outputs_are_dropped_when_library_or_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "mtl_utils" / "metrics.py"
    module.parent.mkdir()
    module.write_text("x = 1")
    build, kept = tmp_path / "_build", tmp_path / "_build" / ".jupyter_cache" / "outputs"

    def rebuild() -> bool:
        """Whether outputs from before are still there when a build begins."""
        forget_stale_outputs(build, outputs_key(tmp_path))
        still_there = kept.exists()
        kept.mkdir(parents=True, exist_ok=True)
        return still_there

    assert not rebuild()
    assert rebuild()
    module.write_text("x = 2")
    assert not rebuild()
    assert rebuild()
    monkeypatch.setenv("MTL_PROFILE", "gpu")
    assert not rebuild()
    assert rebuild()


# The checker finds what it is there to find


def page(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


def test_broken_links_and_anchors_are_found(tmp_path: Path) -> None:
    here, there = tmp_path / "here.html", tmp_path / "there.html"
    for path in (here, there):
        path.touch()
    links = ["there.html#a", "there.html#b", "gone.html", "#c", "https://x.org"]
    pages = {here: page("".join(f'<a href="{link}"></a>' for link in links)), there: page('<p id="a"></p>')}
    found = broken_links(here, pages[here], pages)
    assert [problem.split()[3].rstrip(",") for problem in found] == ["there.html#b", "gone.html", "#c"]


def test_pictures_without_alt_text_are_found() -> None:
    good = f'<img src="a.png" alt="{ALT}">'
    assert images_without_alt(page(good)) == []
    for bad in ('<img src="a.png">', '<img src="a.png" alt=" ">', '<img src="x/a.png" alt="x/a.png">'):
        assert len(images_without_alt(page(good + bad))) == 1


def test_scripts_of_other_sites_are_found() -> None:
    html = '<script src="_static/a.js"></script><script src="https://cdn.example/a.js"></script>'
    assert loaded_from_elsewhere(page(html)) == ["needs https://cdn.example/a.js"]


def test_a_chapter_that_was_not_executed_is_found() -> None:
    chapter = new_notebook(cells=[new_code_cell("draw()", metadata={"mystnb": {"image": {"alt": ALT}}})])
    assert len(not_executed(chapter, page("<p>text</p>"))) == 2
    assert not_executed(chapter, page(f'<div class="cell_output"><img src="a.png" alt="{ALT}"></div>')) == []
    trace = f'<div class="cell_output"><img src="a.png" alt="{ALT}">Traceback (most recent call last)</div>'
    assert not_executed(chapter, page(trace)) == ["an output holds a traceback"]


def test_a_page_that_is_missing_is_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>alone</p>")
    assert set(check_book(tmp_path)) == {f"{name}: no page" for name in chapters()}
