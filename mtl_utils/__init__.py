"""Multi-task learning for diabetic retinopathy: the library behind the course.

A photograph takes this way through the rooms:
data -> losses -> systems -> metrics -> training -> records -> plots, widgets.
"""

from __future__ import annotations

from mtl_utils.runtime import setup

__version__ = "0.1.0"
__all__ = ["__version__", "setup"]
