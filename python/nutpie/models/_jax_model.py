"""What the models have in common whose densities are functions of JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from nutpie.models._jax_batch import BatchedDensity, BatchedFunction, Dtype
from nutpie.models._layout import Block
from nutpie.models._names import unknown_name
from nutpie.models._values import gradient_not_finite, uniform_start
from nutpie.models.base import BatchDensity, CompiledModel, DrawContext, PointwiseDensity, Variable

__all__ = ["JaxFunctions", "JaxModel", "checked_dims"]

Group = Literal["log_likelihood", "log_prior"]


@dataclass(frozen=True)
class JaxFunctions:
    """The functions of a model, each of one point of shape (n_dim,).

    Parameters
    ----------
    logp_and_gradient
        Log density and its gradient.
    expand
        Variables of the result by name; takes the seed of the draw, too, if ``with_seeds``.
    terms
        By group, log densities of single observations or variables, by name.
    dtype
        What is computed in.
    with_seeds
        Whether ``expand`` draws random numbers.
    """

    logp_and_gradient: Callable[[Any], tuple[Any, Any]]
    expand: Callable[..., dict[str, Any]]
    terms: Mapping[Group, Callable[[Any], dict[str, Any]]] = field(default_factory=dict)
    dtype: Dtype = "float64"
    with_seeds: bool = False


class JaxModel(CompiledModel):
    """A model whose density is a function of JAX.

    Parameters
    ----------
    functions
        What it computes.
    blocks
        Where each variable lies in an unconstrained point.
    dims
        Names of dimensions by name of a variable; also of terms and data.
    coords
        Coordinate values by dimension.
    """

    def __init__(
        self,
        functions: JaxFunctions,
        blocks: Sequence[Block],
        dims: Mapping[str, Any] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> None:
        self._functions = functions
        self._blocks = list(blocks)
        self._batch = BatchedDensity(functions.logp_and_gradient, self.n_dim, functions.dtype)
        self._expand = BatchedFunction(functions.expand, self.n_dim, functions.dtype, with_seeds=functions.with_seeds)
        self._coords = {name: np.asarray(values) for name, values in (coords or {}).items()}
        shapes = {name: shape for name, (shape, _) in self._expand.results.items()}
        self._dims = checked_dims(dims or {}, self._named_shapes(shapes), self._coords)

    def _named_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes of all that may be given dimensions, from those of the variables of the result."""
        return shapes

    @property
    def n_dim(self) -> int:
        """Number of unconstrained parameters."""
        return self._blocks[-1].stop if self._blocks else 0

    @cached_property
    def variables(self) -> Sequence[Variable]:
        """The variables that a result holds, in order."""
        return _described(self._expand, self._dims)

    @property
    def coords(self) -> Mapping[str, Any]:
        """Coordinate values by dimension name, of the dimensions that have some."""
        return self._coords

    @cached_property
    def unconstrained_names(self) -> Sequence[str]:
        """One name for each unconstrained parameter, such as ``beta_0``."""
        return [name for block in self._blocks for name in block.parameter_names()]

    @property
    def unconstrained_variables(self) -> Sequence[Variable]:
        """The unconstrained values of the free variables."""
        shapes = {v.name: v for v in self.variables}
        double = np.dtype(np.float64)

        def dims(block: Block) -> tuple[str, ...]:
            same = block.name in shapes and shapes[block.name].shape == block.shape
            return shapes[block.name].dims if same else ()

        return [Variable(block.value_name, block.shape, double, dims(block)) for block in self._blocks]

    @property
    def free_variables(self) -> Sequence[str]:
        """Names of the free variables, in the order of the unconstrained parameters."""
        return [block.name for block in self._blocks]

    def density(self) -> BatchDensity:
        """Return the log density and its gradient, at many points at once."""
        return self.density_for(1)

    def density_for(self, chains: int) -> BatchDensity:
        """Return the same for a run of so many chains."""
        return BatchDensity(self._batch.for_run(chains=chains), program=self._batch.program())

    def jax_logp(self) -> Callable[[Any], Any]:
        """Return the log density as a function of JAX of a point of shape (n_dim,).

        Or of a tuple of its parts, a flat array for each free variable: derivatives by some of them then cost nothing
        where the others alone matter, which JAX cannot know of slices of one array.
        """
        return lambda point: self._functions.logp_and_gradient(point)[0]

    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the variables of the result from unconstrained draws of shape (n, n_dim)."""
        return self.expand_draws(draws, DrawContext.of_no_run(len(draws)))

    def expand_draws(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables of the result; random numbers depend on the draw."""
        return self._expand(self._checked_draws(draws), context.seeds32() if self._functions.with_seeds else None)

    @cached_property
    def _terms(self) -> dict[Group, BatchedFunction]:
        return {
            group: BatchedFunction(function, self.n_dim, self._functions.dtype)
            for group, function in self._functions.terms.items()
        }

    def pointwise(self, group: Group) -> PointwiseDensity:
        """Terms of the log density: of each observation (``log_likelihood``), or of the variables (``log_prior``)."""
        if group not in self._terms:
            return super().pointwise(group)
        function = self._terms[group]
        if not function.results:
            kind = "observed" if group == "log_likelihood" else "free"
            raise ValueError(f"{group}=True needs {kind} variables, and the model has none: leave it out")
        return PointwiseDensity(_described(function, self._dims), lambda draws: function(np.ascontiguousarray(draws)))

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a random start on the unconstrained scale, of shape (n_dim,): uniform from -2 to 2."""
        return uniform_start(seed, self.n_dim)

    def explain_point(self, point: np.ndarray) -> str:
        """Say in words where the log density or its gradient is not finite at ``point``, naming variables."""
        point = np.ascontiguousarray(point, dtype=np.float64)
        described = super().explain_point(point)
        lines = [described] if described else []
        try:
            logp, gradient = self.density().evaluate(point)
        except Exception as error:
            return "; ".join([*lines, f"evaluating the log density raises {type(error).__name__}: {error}"])
        if not np.isfinite(logp):
            lines += self._explain_terms(point) or [f"the log density is {logp}"]
        lines += gradient_not_finite(gradient, self.unconstrained_names)
        return "; ".join(lines) if len(lines) < 2 else "\n".join(f"- {line}" for line in lines)

    def _explain_terms(self, point: np.ndarray) -> list[str]:
        """Write a sentence for each term of the log density that is not finite."""
        lines = []
        for function in self._terms.values():
            for name, values in function(point[None]).items():
                bad = np.argwhere(~np.isfinite(values[0]))
                if len(bad):
                    where = f" at {bad[0].tolist()}" if values.ndim > 1 else ""
                    lines.append(f"the log density of {name!r} is {values[0][tuple(bad[0])]}{where}")
        return lines

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.n_dim} unconstrained parameters, {len(self.variables)} variables>"


def _described(function: BatchedFunction, dims: Mapping[str, tuple[str, ...]]) -> list[Variable]:
    found = []
    for name, (shape, kind) in function.results.items():
        named = dims.get(name, ())
        # A term has the leading dimensions of its variable: all but those of an event.
        found.append(Variable(name, shape, kind, named[: len(shape)] if len(named) >= len(shape) else ()))
    return found


def checked_dims(
    dims: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], coords: Mapping[str, np.ndarray]
) -> dict[str, tuple[str, ...]]:
    """Bring names of dimensions to one form, and check them and the coordinates.

    Raises
    ------
    ValueError
        For a variable that does not exist, a wrong number of names, and coordinates of the wrong length.
    """
    named = {name: (given,) if isinstance(given, str) else tuple(given) for name, given in dims.items()}
    for name, given in named.items():
        if name not in shapes:
            raise ValueError("dims: " + unknown_name(name, shapes, "variable"))
        if len(given) != len(shapes[name]):
            raise ValueError(f"dims: {name!r} has shape {shapes[name]}, and the names of its dimensions are {given}")
        for dim, length in zip(given, shapes[name], strict=True):
            if dim in coords and coords[dim].shape != (length,):
                raise ValueError(
                    f"coords: {dim!r} has values of shape {coords[dim].shape}, but is {length} long in {name!r}"
                )
    used = {dim for given in named.values() for dim in given}
    for dim in coords:
        if dim not in used:
            raise ValueError("coords: " + unknown_name(dim, used, "dimension"))
    return named
