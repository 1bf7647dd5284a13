"""From draws to the variables of a result, by functions of users."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nutpie.models.base import DrawContext, Variable

__all__ = ["Expander", "PointExpander", "RowsExpander", "Split", "shapes_and_dtypes"]

#: Computes variables from draws of shape (n, n_dim).
Expander = Callable[[np.ndarray, DrawContext], dict[str, np.ndarray]]


class Split:
    """The variables are parts of the point, one after the other.

    Parameters
    ----------
    variables
        The variables, in order.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.parts: dict[str, slice] = {}
        self._variables = variables
        start = 0
        for variable in variables:
            stop = start + math.prod(variable.shape)
            self.parts[variable.name] = slice(start, stop)
            start = stop

    def __call__(self, draws: np.ndarray, _context: DrawContext) -> dict[str, np.ndarray]:
        """Cut points of shape (n, n_dim)."""
        n = len(draws)
        return {v.name: np.array(draws[:, self.parts[v.name]]).reshape(n, *v.shape) for v in self._variables}


class PointExpander:
    """A function of one point, called for each draw in order.

    Parameters
    ----------
    make
        Makes the function for some draws of a run; it returns a mapping from names to values.
    variables
        What it has to return.
    """

    def __init__(
        self, make: Callable[[DrawContext], Callable[[np.ndarray], Any]], variables: Sequence[Variable]
    ) -> None:
        self._make = make
        self._variables = variables

    def __call__(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables of each draw."""
        function = self._make(context)
        found = {v.name: np.empty((len(draws), *v.shape), v.dtype) for v in self._variables}
        for row, draw in enumerate(draws):
            # A copy, which the function may change or keep.
            values = returned(function(draw.copy()), self._variables)
            for variable in self._variables:
                found[variable.name][row] = checked(values[variable.name], variable, variable.shape)
        return found


class RowsExpander:
    """A function of all draws at once.

    Parameters
    ----------
    function
        Takes an array of shape (n, n_dim) and returns a mapping from names to values whose first dimension is n.
    variables
        What it has to return.
    """

    def __init__(self, function: Callable[[np.ndarray], Any], variables: Sequence[Variable]) -> None:
        self._function = function
        self._variables = variables

    def __call__(self, draws: np.ndarray, _context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables of the draws."""
        if not len(draws):
            return {v.name: np.empty((0, *v.shape), v.dtype) for v in self._variables}
        values = returned(self._function(np.array(draws)), self._variables)
        return {v.name: np.array(checked(values[v.name], v, (len(draws), *v.shape)), v.dtype) for v in self._variables}


def returned(values: Any, variables: Sequence[Variable]) -> Mapping[str, Any]:
    """Check that a function returned a mapping with the variables; a TypeError or ValueError says what it did."""
    if not isinstance(values, Mapping):
        raise TypeError(f"expand must return a dict of values by name of a variable, not {type(values).__name__}")
    missing = [v.name for v in variables if v.name not in values]
    if missing:
        raise ValueError(f"expand did not return {', '.join(map(repr, missing))}; it returned {sorted(values)}")
    return values


def checked(value: Any, variable: Variable, shape: tuple[int, ...]) -> np.ndarray:
    """Return a value as an array of this shape; a ValueError names the variable."""
    array = np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"expand returned {variable.name!r} of shape {array.shape}, {shape} is needed")
    if not np.can_cast(array.dtype, variable.dtype, "same_kind"):
        raise TypeError(f"expand returned {variable.name!r} of dtype {array.dtype}, {variable.dtype} is needed")
    return array


def shapes_and_dtypes(values: Any, *, rows: bool) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype]]:
    """Read off what a function returned for one point; with ``rows`` values have a first dimension of length one."""
    arrays = {name: np.asarray(value) for name, value in returned(values, ()).items()}
    if not arrays:
        raise ValueError("expand returned no variables")
    for name, array in arrays.items():
        if array.dtype.kind not in "buifc":
            raise TypeError(f"expand returned {name!r} of dtype {array.dtype}, numbers are needed")
        if rows and array.shape[:1] != (1,):
            raise ValueError(
                f"expand returned {name!r} of shape {array.shape} for one draw; the first dimension must be that of "
                "the draws, as batched=True says"
            )
    shapes = {name: array.shape[1:] if rows else array.shape for name, array in arrays.items()}
    return shapes, {name: array.dtype for name, array in arrays.items()}
