"""Write the course's public address wherever it is needed: `make publish-url URL=https://github.com/OWNER/REPOSITORY`.

The address is kept in one place, `repository: url:` of `_config.yml`; every other text that shows it is made from there by the
functions below. Running it again, with another address or with an empty one, is safe: texts are replaced, never added twice.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
GITHUB = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")

BADGE_WAITS = "*An “Open in Colab” button stands here once the course has a public address.*"
BADGE_LINE = re.compile(rf"^(?:{re.escape(BADGE_WAITS)}|\[!\[Open in Colab\]\(.*)$", re.MULTILINE)
README_BLOCK = re.compile(r"(?<=<!-- address -->\n).*?(?=\n<!-- /address -->)", re.DOTALL)

INSTALL_TITLE = "#@title Install the course library (does nothing where it is already installed)"
INSTALL_METADATA = {"cellView": "form", "tags": ["hide-input"]}
INSTALL_CELL = (
    INSTALL_TITLE
    + """
import importlib.metadata, importlib.util, os, pathlib, subprocess, sys, tempfile

REPOSITORY = "{url}"  # written by `make publish-url URL=...`

if importlib.util.find_spec("mtl_utils") is None:
    source = os.environ.get("MTL_SOURCE") or (REPOSITORY and f"git+{{REPOSITORY}}")
    if not source:
        raise SystemExit(
            "This notebook does not know yet where the course library is.\\n"
            "Student: upload the file mtl_utils-....whl that your teacher gave you, run\\n"
            "    import os; os.environ['MTL_SOURCE'] = 'mtl_utils-....whl'\\n"
            "(with the file's own name) in a new cell above this one, then run this cell again.\\n"
            "Teacher: `make publish-url URL=https://github.com/OWNER/REPOSITORY` writes the address here."
        )
    # torch, torchvision and numpy stay exactly as they are: pip may not exchange them for other versions.
    here = {{d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}}
    pins = [f"{{name}}=={{here[name]}}" for name in ("torch", "torchvision", "numpy") if name in here]
    kept = pathlib.Path(tempfile.mkdtemp(), "kept.txt")
    kept.write_text("\\n".join(pins))
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", str(kept), source], check=True)
    importlib.invalidate_caches()
""".rstrip("\n")
)


def clean_url(url: str) -> str:
    """The address without `.git` and a trailing slash; `""` stays empty. Raises ValueError where Colab could not open it.

    >>> clean_url("https://github.com/someone/dr-course.git/")
    'https://github.com/someone/dr-course'
    """
    url = url.strip().rstrip("/").removesuffix(".git")
    if url and not GITHUB.fullmatch(url):
        raise ValueError(
            f"{url!r} is not of the form https://github.com/OWNER/REPOSITORY (Colab opens notebooks from GitHub)"
        )
    return url


def read_url(root: Path = ROOT) -> str:
    """The address that `_config.yml` holds, `""` while there is none."""
    match = re.search(
        r'^repository:\n  url: "(.*)"', (root / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    if match is None:
        raise ValueError('_config.yml: no `repository:` with a line `  url: "..."` right below it')
    return match[1]


def badge_line(url: str, notebook: str) -> str:
    """The line of a notebook's first cell that holds its Colab badge; `notebook` is the file's name, as `02_grading.ipynb`."""
    if not url:
        return BADGE_WAITS
    target = f"https://colab.research.google.com/github/{url.removeprefix('https://github.com/')}/blob/main/notebooks/{notebook}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def install_cell(url: str) -> str:
    """The source of every notebook's install cell."""
    return INSTALL_CELL.format(url=url)


def readme_block(url: str) -> str:
    """What the README says between its two `address` comments."""
    clone = f"git clone {url}.git course" if url else "git clone ADDRESS-OF-THE-COURSE course"
    return (
        f"{badge_line(url, '00_start_here.ipynb')}\n\n```bash\n{clone}\ncd course\nmake book\nmake test\n```"
    )


def publish_config(text: str, url: str) -> str:
    text = re.sub(r'(?m)(?<=^repository:\n)  url: ".*"', f'  url: "{url}"', text)
    text = re.sub(
        r'(?m)^  colab_url: ".*"',
        f'  colab_url: "{"https://colab.research.google.com" if url else ""}"',
        text,
    )
    return re.sub(
        r"(?m)^  use_repository_button: \w+", f"  use_repository_button: {str(bool(url)).lower()}", text
    )


def publish_readme(text: str, url: str) -> str:
    return README_BLOCK.sub(lambda _: readme_block(url), text)


def publish_citation(text: str, url: str) -> str:
    """`repository-code` may not be empty in a CITATION.cff, so the line goes when the address goes."""
    text = re.sub(r"(?m)^repository-code: .*\n", "", text)
    return text + (f'repository-code: "{url}"\n' if url else "")


def publish_notebook(path: Path, url: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    first = notebook.cells[0]
    first.source, badges = BADGE_LINE.subn(lambda _: badge_line(url, path.name), first.source)
    installs = [cell for cell in notebook.cells if cell.source.startswith(INSTALL_TITLE)]
    if badges != 1 or len(installs) != 1:
        raise ValueError(
            f"{path.name}: {badges} badge line(s) in the first cell and {len(installs)} install cell(s); one of each is needed"
        )
    installs[0].source = install_cell(url)
    write(path, nbformat.writes(notebook) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file at once, so that an interrupted run leaves no half-written one."""
    if path.read_text(encoding="utf-8") != text:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def publish(url: str, root: Path = ROOT) -> None:
    """Write `url` into `_config.yml`, README, CITATION.cff and every notebook of the course at `root`."""
    url = clean_url(url)
    for name, edit in (
        ("_config.yml", publish_config),
        ("README.md", publish_readme),
        ("CITATION.cff", publish_citation),
    ):
        write(root / name, edit((root / name).read_text(encoding="utf-8"), url))
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        publish_notebook(notebook, url)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: publish_url.py URL   (an empty URL takes the address out again)", file=sys.stderr)
        return 2
    try:
        publish(arguments[0])
    except ValueError as error:
        print(f"publish-url: {error}", file=sys.stderr)
        return 2
    print(f"The course's address is now {read_url() or 'empty'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
