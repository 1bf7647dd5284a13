"""A model that is made of functions: a log density with its gradient, and perhaps one that computes variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nutpie.models._function_expand import Expander, Split
from nutpie.models._function_variables import element_names
from nutpie.models._names import unknown_name
from nutpie.models._values import not_finite, uniform_start, value_of_shape
from nutpie.models.base import BatchDensity, CompiledModel, Density, DrawContext, Variable

__all__ = ["FunctionModel", "Start", "start_at"]

#: Draws a start from a seed.
Start = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Parts:
    """What a function model consists of.

    Parameters
    ----------
    density
        Makes the density of a run.
    variables
        The variables of the result.
    coords
        Coordinate values by name of a dimension.
    expand
        Computes the variables from draws.
    start
        Draws a start.
    names
        Names of the unconstrained parameters; None for those of the elements of the variables.
    thread_safe
        Whether a C function can be called by several threads at once.
    """

    density: Callable[[], Density | BatchDensity]
    variables: Sequence[Variable]
    coords: Mapping[str, np.ndarray]
    expand: Expander
    start: Start
    names: Sequence[str] | None = None
    thread_safe: bool = True


class FunctionModel(CompiledModel):
    """A model made by `nutpie.from_logp`, `nutpie.from_pyfunc`, `nutpie.from_cfunc` or `nutpie.from_library`.

    Where the variables are parts of the unconstrained point, starts can be given by their names.
    """

    def __init__(self, n_dim: int, parts: Parts) -> None:
        self._n_dim = n_dim
        self._parts = parts

    @property
    def n_dim(self) -> int:
        """Number of unconstrained parameters."""
        return self._n_dim

    @property
    def variables(self) -> Sequence[Variable]:
        """The variables that a result holds."""
        return self._parts.variables

    @property
    def coords(self) -> Mapping[str, Any]:
        """Coordinate values by dimension name."""
        return self._parts.coords

    @property
    def unconstrained_names(self) -> Sequence[str]:
        """One name for each unconstrained parameter, such as ``mu`` or ``theta_3``."""
        return element_names(self.variables) if self._parts.names is None else self._parts.names

    @property
    def unconstrained_variables(self) -> Sequence[Variable]:
        """The variables, where they are parts of the point; otherwise the whole point."""
        return self.variables if self._is_split else super().unconstrained_variables

    @property
    def _is_split(self) -> bool:
        return isinstance(self._parts.expand, Split)

    def density(self) -> Density | BatchDensity:
        """Return the callback."""
        return self._parts.density()

    def usable_cores(self, cores: int, chains: int) -> int:
        """One, if the function cannot be called by several threads at once."""
        del chains
        return cores if self._parts.thread_safe else 1

    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the variables of the result from unconstrained draws of shape (n, n_dim)."""
        return self.expand_draws(draws, DrawContext.of_no_run(len(draws)))

    def expand_draws(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables of the result where it is known which draws of a run these are."""
        return self._parts.expand(self._checked_draws(draws), context)

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a start on the unconstrained scale, of shape (n_dim,)."""
        point = np.array(self._parts.start(seed), dtype=np.float64)
        if point.shape != (self.n_dim,):
            raise ValueError(f"the initial point has shape {point.shape}, ({self.n_dim},) is needed")
        return point

    @property
    def free_variables(self) -> Sequence[str]:
        """Names of the variables, where they are parts of the point."""
        return [v.name for v in self.variables] if self._is_split else ()

    def _unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        expand = self._parts.expand
        if not isinstance(expand, Split):
            raise TypeError(
                f"this model computes its variables by a function of its own (expand), so that it takes starts only as "
                f"arrays of {self.n_dim} unconstrained numbers, not by the names of variables"
            )
        shapes = self.shapes
        for name, value in values.items():
            if name not in shapes:
                raise ValueError(unknown_name(name, shapes, "variable"))
            base[expand.parts[name]] = value_of_shape(name, value, shapes[name]).ravel()
        return base

    def explain_point(self, point: np.ndarray) -> str:
        """Say in words where the log density or its gradient is not finite at ``point``."""
        described = super().explain_point(point)
        return described or not_finite(*self.density().evaluate(point), self.unconstrained_names)


def start_at(n_dim: int, initial_point: Any) -> Start:
    """Turn what a user gave for the start into a function of a seed.

    Parameters
    ----------
    n_dim
        Number of parameters.
    initial_point
        None for uniforms between -2 and 2, an array of shape (n_dim,), or a function that takes a
        `numpy.random.Generator` and returns one.
    """
    if initial_point is None:
        return lambda seed: uniform_start(seed, n_dim)
    if callable(initial_point):
        return lambda seed: initial_point(np.random.default_rng(list(seed)))
    point = np.array(initial_point, dtype=np.float64)
    if point.shape != (n_dim,):
        raise ValueError(f"initial_point has shape {point.shape}, ({n_dim},) is needed")
    return lambda _seed: point
