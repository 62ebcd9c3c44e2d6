"""The errors that a reader of the course can meet. Each message says what is wrong, where, and what to do
about it.
"""

from __future__ import annotations

from collections.abc import Sequence


class MTLError(Exception):
    """Something the reader can put right. The command `mtl` prints the message and exits with status 2."""


class DataError(MTLError):
    """A data set is not as its layout says.

    Args:
        message: one line for the whole.
        problems: one line per file that is missing, damaged or out of range.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()):
        self.problems = list(problems)
        super().__init__("\n".join([message, *(f"  - {problem}" for problem in self.problems)]))


class HubError(MTLError):
    """Pretrained weights were asked from a hub that cannot be reached."""
