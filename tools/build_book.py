"""Build the book and check what came out: `make book`.

Three things that `jupyter-book build` does not do by itself:

- it keeps the outputs of executed chapters until a chapter's own code changes, and sees no change of the
  library: here the kept outputs are dropped when anything changes that they depend on (`outputs_key`);
- it says a warning only when it reads a page for the first time, so a second `-W` build would succeed: here
  every page is read anew (`--all`; the kept outputs make that quick);
- it can end well without an index page: here `check_book` looks at the pages.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from check_book import check_book

ROOT = Path(__file__).resolve().parents[1]
DEPENDS_ON = ("mtl_utils", "book/results", "constraints.txt")
SETTINGS = ("MTL_PROFILE", "MTL_DATA")


def outputs_key(root: Path = ROOT) -> str:
    """A digest of what outputs depend on beside a chapter's code: library, records, versions, settings."""
    digest = hashlib.sha256()
    for name in DEPENDS_ON:
        top = root / name
        for path in sorted(top.rglob("*") if top.is_dir() else [top]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name in SETTINGS:
        digest.update(f"{name}={os.environ.get(name, '')}".encode())
    return digest.hexdigest()


def forget_stale_outputs(build: Path, key: str) -> None:
    """Remove the kept outputs of chapters unless they were made under the same key."""
    noted = build / "outputs-key"
    if not noted.exists() or noted.read_text() != key:
        shutil.rmtree(build / ".jupyter_cache", ignore_errors=True)
        build.mkdir(parents=True, exist_ok=True)
        noted.write_text(key)


def build_book(root: Path, out: Path) -> list[str]:
    """Build the book of `root` into `out/_build/html`; returns what is wrong with it, `[]` if nothing."""
    build = out / "_build"
    forget_stale_outputs(build, outputs_key(root))
    shutil.rmtree(build / "html", ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(root),
        "--path-output",
        str(out),
    ]
    # A reader's own MPLBACKEND would keep the figures out of the chapters.
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    code = subprocess.run([*command, "--all", "-W", "-n", "--keep-going"], env=environment).returncode
    if code != 0:
        return [f"jupyter-book ended with exit status {code}; the reason stands above"]
    if not (build / "html" / "index.html").is_file():
        return [f"jupyter-book wrote no {build / 'html' / 'index.html'}"]
    return check_book(build / "html", root)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the book and check its pages.")
    parser.add_argument(
        "--out", type=Path, default=ROOT, help="folder that gets _build/ (default: the repository)"
    )
    out = parser.parse_args().out.resolve()
    os.environ.setdefault("MTL_PROFILE", "cpu")
    problems = build_book(ROOT, out)
    if problems:
        print("The book is not right:", *problems, sep="\n- ", file=sys.stderr)
        return 1
    print(f"The book is ready: {out / '_build' / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
