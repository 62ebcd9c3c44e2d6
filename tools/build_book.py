"""Build the book and check what came out: `make book`.

Four things that `jupyter-book build` does not do by itself:

- it executes one chapter after the other: here they are executed before it, two at a time, and it finds their
  outputs kept;
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
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import yaml
from check_book import chapters, check_book
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]
DEPENDS_ON = ("mtl_utils", "book/results", "constraints.txt")
SETTINGS = ("MTL_PROFILE", "MTL_DATA")
MOST_AT_ONCE = 2  # a chapter took up to 2.9 GiB on 2026-11-28, and README asks for 8


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


def execute_chapters(root: Path, kept: Path) -> list[str]:
    """Execute the chapters that have no outputs in `kept`, two at a time; returns what failed."""
    cache = get_cache(kept)
    paths = [str(path) for name in chapters(root) if (path := root / f"{name}.ipynb").exists()]
    for path in paths:
        cache.add_nb_to_project(path)
    without = {record.uri for record in cache.list_unexecuted()}
    # The long ones come late in the course: they begin, so that no core is left alone with one at the end.
    waiting = [path for path in reversed(paths) if path in without]
    if not waiting:
        return []
    cores = os.cpu_count() or 1
    workers = min(len(waiting), cores, MOST_AT_ONCE)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // workers))
    timeout = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["execute"]["timeout"]
    with ProcessPoolExecutor(workers) as pool:
        done = pool.map(partial(_execute, kept, timeout), waiting)
        failures = list(tqdm(done, "chapters", len(waiting)))
    return [f"{path}: {failure}" for path, failure in zip(waiting, failures) if failure]


def _execute(kept: Path, timeout: int, path: str) -> str:
    """Execute one chapter and keep its outputs; returns the traceback of a cell that failed, else ''."""
    cache = get_cache(kept)
    result = load_executor("local-serial", cache).run_and_cache(filter_uris=[path], timeout=timeout)
    if result.succeeded:
        return ""
    return cache.get_project_record(path).traceback or "could not be executed; the reason stands above"


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
    os.environ.pop("MPLBACKEND", None)
    if failures := execute_chapters(root, build / ".jupyter_cache"):
        return failures
    code = subprocess.run([*command, "--all", "-W", "-n", "--keep-going"]).returncode
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
