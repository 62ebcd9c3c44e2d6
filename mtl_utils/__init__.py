"""Multi-task learning for diabetic retinopathy: the library behind the course.

A photograph takes this way through the rooms:
files -> data -> systems -> losses, metrics -> training -> records -> plots.
"""

from __future__ import annotations

from mtl_utils.runtime import setup

__version__ = "0.1.0"
__all__ = ["__version__", "setup"]
