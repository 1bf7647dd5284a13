"""Functions of JAX over many points at once, in double precision whatever JAX does elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from nutpie._arguments import choice

__all__ = ["BatchedDensity", "BatchedFunction", "Dtype", "precision", "require"]

Dtype = Literal["float64", "float32"]

#: How many more rows than asked for a compiled function may compute, as a factor, before another one is compiled.
#: A round has fewer points when chains have ended, and compiling takes longer than rows that are not needed.
MOST_PADDING = 4

#: Bytes of results of a call that `BatchedFunction` aims to stay below.
RESULT_MEMORY = 16 * 2**20

#: Most rows of a call of a `BatchedFunction`.
MOST_ROWS = 512


def require(what: str, extra: str, *modules: str) -> None:
    """Raise an ImportError that says what to install, if one of the modules is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'{what} needs {" and ".join(missing)}, not installed here: run pip install "nutpie[{extra}]"'
        )


def precision(dtype: Dtype) -> contextlib.AbstractContextManager[Any]:
    """Let JAX compute in double precision inside of the context, in this thread, if that is what is wanted."""
    choice("dtype", dtype, ("float64", "float32"))
    if dtype == "float32":
        return contextlib.nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


class BatchedDensity:
    """A log density and its gradient at many points in one call.

    Parameters
    ----------
    function
        From a point of shape (n_dim,) to the log density and its gradient.
    n_dim
        Number of parameters.
    dtype
        What it computes in.
    """

    def __init__(self, function: Callable[[Any], tuple[Any, Any]], n_dim: int, dtype: Dtype) -> None:
        import jax

        self._function = jax.jit(jax.vmap(function))
        self._n_dim = n_dim
        self._dtype = dtype
        self._widths: list[int] = []

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities of shape (k,) and gradients of shape (k, n_dim) at points of shape (k, n_dim)."""
        rows = len(points)
        points = _padded(points.astype(self._dtype, copy=False), self._width(rows))
        with precision(self._dtype):
            logp, gradient = self._function(points)
            return np.asarray(logp)[:rows], np.asarray(gradient)[:rows]

    def _width(self, rows: int) -> int:
        """Return the number of rows of the call: one that was compiled before, where that is not far from it."""
        for width in self._widths:
            if rows <= width <= MOST_PADDING * rows:
                return width
        self._widths = sorted({*self._widths, rows})
        return rows


class BatchedFunction:
    """Variables by name at many points.

    Parameters
    ----------
    function
        From a point of shape (n_dim,), and the seed of a draw if it takes one, to a dict of arrays.
    n_dim
        Number of parameters.
    dtype
        What it computes in.
    with_seeds
        Whether it takes a seed.
    """

    def __init__(
        self, function: Callable[..., dict[str, Any]], n_dim: int, dtype: Dtype, *, with_seeds: bool = False
    ) -> None:
        import jax

        arguments = [jax.ShapeDtypeStruct((n_dim,), dtype)]
        if with_seeds:
            arguments.append(jax.ShapeDtypeStruct((), np.uint32))
        with precision(dtype):
            results = jax.eval_shape(function, *arguments)
        self.results = {
            name: (tuple(value.shape), np.dtype(value.dtype)) for name, value in results.items()
        }
        self._function = jax.jit(jax.vmap(function))
        self._dtype = dtype
        self._with_seeds = with_seeds
        row = sum(math.prod(shape) * kind.itemsize for shape, kind in self.results.values()) + 8 * n_dim
        self._most_rows = max(1, min(MOST_ROWS, RESULT_MEMORY // max(row, 1)))

    def __call__(self, points: np.ndarray, seeds: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Arrays of shape (n, ...) for points of shape (n, n_dim)."""
        points = points.astype(self._dtype, copy=False)
        if self._with_seeds and seeds is None:
            raise ValueError("a function that draws random numbers needs a seed for each point")
        arguments = [points] if seeds is None or not self._with_seeds else [points, np.asarray(seeds, np.uint32)]
        parts = [
            self._call([argument[i : i + self._most_rows] for argument in arguments])
            for i in range(0, len(points), self._most_rows)
        ]
        return {
            name: np.concatenate([part[name] for part in parts] or [np.empty((0, *shape), kind)])
            for name, (shape, kind) in self.results.items()
        }

    def _call(self, arguments: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(arguments[0])
        # Few widths, so that few are compiled: 8, 64, 512.
        width = min(self._most_rows, 8 ** max(1, math.ceil(math.log(rows, 8) - 1e-9)))
        with precision(self._dtype):
            results = self._function(*(_padded(argument, width) for argument in arguments))
            return {name: np.asarray(value)[:rows] for name, value in results.items()}


def _padded(array: np.ndarray, width: int) -> np.ndarray:
    """Append copies of the first row."""
    missing = width - len(array)
    return np.concatenate([array, np.broadcast_to(array[0], (missing, *array.shape[1:]))]) if missing else array
