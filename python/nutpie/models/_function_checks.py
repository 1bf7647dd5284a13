"""What is checked of a density that a user wrote, before anything is sampled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nutpie import _lib
from nutpie._caller import levels_inside
from nutpie.gradient import check_gradient, usable_start
from nutpie.models.base import BatchDensity, CompiledModel

__all__ = ["check_device_output", "check_entry", "check_output"]

#: Relative difference that two evaluations of the same point may have.
SAME = 1e-6


def check_output(function: Callable[[np.ndarray], Any], points: np.ndarray, what: str) -> None:
    """Call a Python log density once and look at what it returns.

    Parameters
    ----------
    function
        The function.
    points
        A point of shape (n_dim,), or points of shape (k, n_dim).
    what
        Its name in messages.

    Raises
    ------
    TypeError
        If it does not return a pair, or of a dtype that is no real number.
    ValueError
        If the shapes are others.
    """
    result = function(points.copy())
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"{what} must return a pair (logp, grad), not {_short(result)}")
    for name, value, shape in zip(("logp", "grad"), result, (points.shape[:-1], points.shape), strict=True):
        array = np.asarray(value)
        if array.dtype.kind not in "buif":
            raise TypeError(f"{what} returned {name} of dtype {array.dtype}, real numbers are needed")
        if array.shape != shape:
            raise ValueError(f"{what} returned {name} of shape {array.shape}, {shape} is needed")
        if array.dtype.kind == "f" and array.dtype.itemsize < 8:
            _warn_of_precision(what, name, array.dtype)


def check_device_output(function: Callable[[Any], Any], points: np.ndarray, device: str, what: str) -> None:
    """Call a log density of arrays of a device once and look at what it returns.

    Parameters
    ----------
    function
        The function.
    points
        Points of shape (k, n_dim), on the host.
    device
        Name of the device.
    what
        Its name in messages.

    Raises
    ------
    TypeError, ValueError
        As of `check_output`.
    Exception
        Whatever the function raises.
    """
    results, errors = [], []

    def keep(x: Any) -> Any:
        try:
            results.append(function(x))
        except Exception as error:
            errors.append(error)
            raise
        return results[-1]

    _lib.DeviceFunction(keep, points.shape[1], len(points), device)(points)
    if errors:
        # One that counts as a divergence in a run.
        raise errors[0]
    for name, value in zip(("logp", "grad"), results[0], strict=True):
        dtype = str(getattr(value, "dtype", "")).rpartition(".")[2]
        if dtype in ("float32", "float16", "bfloat16"):
            _warn_of_precision(what, name, dtype)


def _warn_of_precision(what: str, name: str, dtype: Any) -> None:
    warnings.warn(
        f"{what} returns {name} in single precision ({dtype}): long trajectories lose accuracy and step "
        'sizes get smaller. Compute in float64; with JAX, jax.config.update("jax_enable_x64", True).',
        stacklevel=levels_inside() + 1,
    )


def check_entry(model: CompiledModel, what: str) -> None:
    """Check a new model: that its log density is a function of the point alone, and the gradient that of it.

    Where no start with a finite density is found, nothing is checked; `nutpie.sample` explains that.

    Raises
    ------
    ValueError
        If something is wrong, naming the parameter, both values and what to do.
    """
    density = model.density()
    point = usable_start(model, density, seed=0)
    if point is None or not model.n_dim:
        return
    first, second = (density.evaluate(point)[0] for _ in range(2))
    if not np.isclose(first, second, rtol=SAME, atol=SAME):
        raise ValueError(
            f"{what} returned {first:.10g} and then {second:.10g} for the same point: it must depend on nothing else. "
            "Draw no random numbers in it, and keep nothing from call to call; or pass check=False"
        )
    if isinstance(density, BatchDensity):
        _check_rows(density, point, first, what)
    found = check_gradient(model, point)
    if not found.ok:
        raise ValueError(f"{found}. Correct {what}, or pass check=False to sample all the same")


def _check_rows(density: BatchDensity, point: np.ndarray, logp: float, what: str) -> None:
    """Check that rows do not depend on each other."""
    other = point + 0.01 * np.cos(np.arange(len(point)))
    together = density.evaluate_rows(np.stack([point, other]))[0]
    apart = np.array([logp, density.evaluate(other)[0]])
    if not np.allclose(together, apart, rtol=SAME, atol=SAME, equal_nan=True):
        raise ValueError(
            f"{what} returned {together.tolist()} for two points in one call, but {apart.tolist()} for each by itself: "
            "each row of its argument is a point of its own, so sums go along the last axis only; or pass check=False"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:60] + '...'}"
