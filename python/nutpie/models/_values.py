"""Values that a user gives for a variable."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["value_of_shape"]


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
