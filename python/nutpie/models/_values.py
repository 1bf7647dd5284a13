"""Values that a user gives for a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["gradient_not_finite", "not_finite", "uniform_start", "value_of_shape"]

#: Names that a message lists at most.
_MOST_LISTED = 5

#: Random starts are uniform between minus and plus this on the unconstrained scale, as in Stan and NumPyro.
_RADIUS = 2.0


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
    return "; ".join(lines + gradient_not_finite(gradient, names))


def gradient_not_finite(gradient: np.ndarray, names: Sequence[str]) -> list[str]:
    """Say in a sentence where a gradient is not finite; no sentence if it is."""
    bad = [name for name, ok in zip(names, np.isfinite(gradient), strict=True) if not ok]
    if not bad:
        return []
    more = f" and {len(bad) - _MOST_LISTED} more" if len(bad) > _MOST_LISTED else ""
    return [f"the gradient is not finite for {', '.join(bad[:_MOST_LISTED])}{more}"]


def uniform_start(seed: Sequence[int], n_dim: int) -> np.ndarray:
    """Draw a start of shape (n_dim,), uniform from -2 to 2."""
    return np.random.default_rng(list(seed)).uniform(-_RADIUS, _RADIUS, n_dim)
