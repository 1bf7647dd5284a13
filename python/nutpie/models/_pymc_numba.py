"""The log density of a PyMC model, compiled with numba."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nutpie.models._layout import Block
from nutpie.models._numba_bridge import ArrayTable, build_callback
from nutpie.models._pymc_graph import logp_and_gradient
from nutpie.models.base import Density

__all__ = ["NumbaLogp"]


class NumbaLogp:
    """A C callback for any values of the shared variables.

    Parameters
    ----------
    model
        The PyMC model.
    blocks
        Layout of the unconstrained parameters.
    example
        Takes shared variables and returns their values, which later ones agree with in rank and dtype.

    Attributes
    ----------
    shared
        The shared variables whose values a density needs.
    indices
        What has to be checked of these values first.
    callback
        The callback, whose user data are a table of the values.
    """

    def __init__(
        self, model: Any, blocks: Sequence[Block], example: Callable[[Sequence[Any]], Sequence[np.ndarray]]
    ) -> None:
        jit_fn, self.shared, self._constants, self.indices = logp_and_gradient(model, blocks, mode="NUMBA")
        kinds = [(a.dtype, a.ndim) for a in (*example(self.shared), *self._constants)]
        self.callback = build_callback(jit_fn, blocks[-1].stop if blocks else 0, kinds)

    def with_values(self, values: Sequence[np.ndarray]) -> Callable[[int], Density]:
        """Return what makes densities for a number of chains, with these values of the shared variables."""
        table = ArrayTable([*values, *self._constants])
        density = Density(self.callback.address, table.address, (self, table))
        return lambda _chains: density
