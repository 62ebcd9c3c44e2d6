"""Look at the pages of a built book as a reader's browser would: `python tools/check_book.py _build/html`."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
Pages = dict[Path, BeautifulSoup]


def chapters(root: Path = ROOT) -> list[str]:
    """The files of `_toc.yml` in reading order, without their suffix, as `notebooks/02_grading`."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def check_book(html: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with the pages below `html`, one line each; `[]` if nothing."""
    html = html.resolve()
    # Below _static the theme keeps templates, which are no pages.
    files = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.relative_to(html).parts]
    pages: Pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in files}
    problems = [f"{name}: no page" for name in chapters(root) if html / f"{name}.html" not in pages]
    for path, page in pages.items():
        found = [*broken_links(path, page, pages), *images_without_alt(page), *loaded_from_elsewhere(page)]
        problems += [f"{path.relative_to(html)}: {problem}" for problem in found]
    for name in chapters(root):
        notebook, page = root / f"{name}.ipynb", pages.get(html / f"{name}.html")
        if notebook.exists() and page is not None:
            problems += [
                f"{name}: {problem}" for problem in not_executed(nbformat.read(notebook, as_version=4), page)
            ]
    return problems


def broken_links(path: Path, page: BeautifulSoup, pages: Pages) -> list[str]:
    """Links and pictures of a page that lead to no file, or to no anchor, of the book."""
    problems = []
    for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
        for element in page.find_all(tag, attrs={attribute: True}):
            link = urlsplit(element[attribute])
            if link.scheme or link.netloc:
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            if not target.is_file():
                problems.append(f"{tag} leads to {element[attribute]}, which is not there")
            elif link.fragment and target in pages and not has_anchor(pages[target], unquote(link.fragment)):
                problems.append(f"{tag} leads to {element[attribute]}, which has no such anchor")
    return problems


def has_anchor(page: BeautifulSoup, name: str) -> bool:
    return page.find(id=name) is not None or page.find("a", attrs={"name": name}) is not None


def images_without_alt(page: BeautifulSoup) -> list[str]:
    """Pictures that say nothing to who cannot see them (Sphinx may put the file's name for an alt text)."""
    return [
        f"picture without alt text: {image.get('src', '')[:60]}"
        for image in page.find_all("img")
        if not image.get("alt", "").strip() or image["alt"].strip() in image.get("src", "")
    ]


def loaded_from_elsewhere(page: BeautifulSoup) -> list[str]:
    """Scripts and style sheets that need another site."""
    sources = [s["src"] for s in page.find_all("script", src=True)] + [
        s["href"] for s in page.find_all("link", rel="stylesheet")
    ]
    return [f"needs {source}" for source in sources if urlsplit(source).netloc]


def not_executed(notebook: nbformat.NotebookNode, page: BeautifulSoup) -> list[str]:
    """What shows that a chapter was not executed to its end: no output, an error, a figure missing."""
    problems = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = page.select("div.cell_output")
    if code and not shown:
        problems.append("no cell has an output")
    problems += [
        "an output holds a traceback"
        for output in shown
        if "Traceback (most recent call last)" in output.get_text()
    ]
    alts = {image.get("alt") for image in page.select("div.cell_output img")}
    for cell in code:
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        if alt and alt not in alts:
            problems.append(f"no picture for the alt text {alt[:60]!r}")
    return problems


def main(arguments: list[str]) -> int:
    problems = check_book(Path(arguments[0]) if arguments else ROOT / "_build" / "html")
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
