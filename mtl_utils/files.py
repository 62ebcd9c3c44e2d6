"""Files that are whole, or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Write files beside their places, and move them there, in their order, when all are written: a kill or a
    full disk leaves what was there before.

    Args:
        contents: path -> all that the file shall hold.

    Raises:
        OSError: one cannot be written; it names the file, and none was replaced.
    """
    halves = {path: path.with_name(f".{path.name}.part") for path in contents}
    try:
        for path, half in halves.items():
            try:
                half.write_bytes(contents[path])
            except OSError as error:  # of a full disk Python does not say which file it was
                raise OSError(error.errno, error.strerror, str(path)) from error
        for path, half in halves.items():
            half.replace(path)
    finally:
        for half in halves.values():
            half.unlink(missing_ok=True)
