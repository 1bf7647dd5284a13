"""Whose line a warning names."""

from __future__ import annotations

import os
import sys

__all__ = ["levels_inside"]


def levels_inside() -> int:
    """Return how many calls inside this package lie between the caller of this function and its user."""
    package = os.path.dirname(__file__) + os.sep
    frame, levels = sys._getframe(1), 0
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, levels = frame.f_back, levels + 1
    return levels
