"""The log density of a PyMC model, compiled with JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from nutpie.models._jax_batch import BatchedDensity
from nutpie.models._layout import Block, split_point
from nutpie.models._pymc_graph import logp_and_gradient
from nutpie.models.base import BatchDensity

__all__ = ["JaxLogp"]


class JaxLogp:
    """A log density with its gradient at many points at once, for any values of the shared variables.

    Parameters
    ----------
    model
        The PyMC model.
    blocks
        Layout of the unconstrained parameters.
    gradient_backend
        What differentiates.

    Attributes
    ----------
    shared
        The shared variables whose values a density needs.
    indices
        What has to be checked of these values first.
    """

    def __init__(self, model: Any, blocks: Sequence[Block], gradient_backend: Literal["pytensor", "jax"]) -> None:
        function, self.shared, self._constants, self.indices = logp_and_gradient(
            model, blocks, mode="JAX", with_gradient=gradient_backend == "pytensor"
        )
        self._function = lambda point, *rest: function(*split_point(point, blocks), *rest)
        self._differentiate = gradient_backend == "jax"
        self._n_dim = blocks[-1].stop if blocks else 0
        # By lengths and numbers, which may be lengths of something: JAX has to know them when it compiles.
        self._compiled: dict[tuple[Any, ...], BatchedDensity] = {}

    def with_values(self, values: Sequence[np.ndarray]) -> Callable[[int], BatchDensity]:
        """Return what makes densities for a number of chains, with these values of the shared variables."""
        arrays = [*values, *self._constants]
        data = [array for array in arrays if array.ndim]
        key = tuple((array.dtype.str, array.shape or array.item()) for array in arrays)
        if key not in self._compiled:
            self._compiled[key] = BatchedDensity(self._with_numbers(arrays), self._n_dim, "float64", data)
        batch = self._compiled[key]
        return lambda chains: BatchDensity(batch.for_run(data, chains=chains), program=batch.program(data))

    def logp(self, values: Sequence[np.ndarray]) -> Callable[[Any], Any]:
        """Return the log density at one point as a function of JAX, with these values of the shared variables.

        The point may be a tuple of its parts, a flat array for each free variable.
        """
        return lambda point: self._function(point, *values, *self._constants)[0]

    def _with_numbers(self, example: Sequence[np.ndarray]) -> Callable[..., tuple[Any, Any]]:
        """Return the density as a function of the point and of those arrays that are no single numbers."""
        import jax

        def evaluate(point: Any, *arrays: Any) -> Any:
            rest = iter(arrays)
            return self._function(point, *(next(rest) if array.ndim else array for array in example))

        def logp(point: Any, *arrays: Any) -> Any:
            return evaluate(point, *arrays)[0]

        if self._differentiate:
            return jax.value_and_grad(logp)
        return lambda point, *arrays: tuple(evaluate(point, *arrays))
