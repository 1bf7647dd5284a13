"""Values that a user gives for a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["not_finite", "value_of_shape"]

#: Names that a message lists at most.
_MOST_LISTED = 5


def value_of_shape(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert a value to finite numbers of exactly this shape; a ValueError names the variable and what is wanted."""
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise ValueError(f"the value of {name!r} must be real numbers of shape {shape}, not {value!r}")
    if array.shape != tuple(shape):
        raise ValueError(f"the value of {name!r} has shape {array.shape}, {tuple(shape)} is needed")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = f" at {bad[0].tolist()}" if array.ndim else ""
        raise ValueError(f"the value of {name!r} is {array[tuple(bad[0])]}{where}, finite numbers are needed")
    return array


def not_finite(logp: float, gradient: np.ndarray, names: Sequence[str]) -> str:
    """Say in words what of a log density and its gradient is not finite; nothing if all is."""
    lines = [] if np.isfinite(logp) else [f"the log density is {logp}"]
    bad = [name for name, ok in zip(names, np.isfinite(gradient), strict=True) if not ok]
    if bad:
        more = f" and {len(bad) - _MOST_LISTED} more" if len(bad) > _MOST_LISTED else ""
        lines.append(f"the gradient is not finite for {', '.join(bad[:_MOST_LISTED])}{more}")
    return "; ".join(lines)
