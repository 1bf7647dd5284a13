"""Say in words which part of a PyMC model is not finite at a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.traversal import ancestors

from nutpie.models._layout import Block, split_point
from nutpie.models._pymc_graph import compile_python, stored_variables, value_variables

__all__ = ["FactorReport"]

_MOST_LISTED = 5


class FactorReport:
    """Evaluates each factor of the joint log density by itself.

    Parameters
    ----------
    model
        The PyMC model.
    blocks
        Layout of the unconstrained parameters.
    shared
        The shared variables whose values each call gets.
    """

    def __init__(self, model: Any, blocks: Sequence[Block], shared: Sequence[SharedVariable]) -> None:
        factors = [*model.basic_RVs, *model.potentials]
        free = [model[block.name] for block in blocks]
        self._blocks = blocks
        self._labels = [(f.name, _kind(model, f)) for f in factors]
        self._parents = [_parents(factor, free) for factor in factors]
        outputs = [*model.logp(factors, sum=False), *stored_variables(model, [block.name for block in blocks])]
        self._function = compile_python(value_variables(model, blocks), outputs, shared)

    def lines(self, point: np.ndarray, data: Sequence[np.ndarray]) -> list[str]:
        """Write a sentence for each factor whose log density is not finite at the point."""
        with np.errstate(all="ignore"):
            results = [np.asarray(r) for r in self._function(*split_point(point, self._blocks), *data)]
        terms = results[: len(self._labels)]
        values = {b.name: v for b, v in zip(self._blocks, results[len(self._labels) :], strict=True)}
        found = []
        for (name, kind), parents, term in zip(self._labels, self._parents, terms, strict=True):
            bad = np.flatnonzero(~np.isfinite(term.ravel()))
            if not bad.size:
                continue
            where = f" in {bad.size} of {term.size} terms, first in number {bad[0]}" if term.size > 1 else ""
            found.append(
                f"log density of {name!r} ({kind}) is {term.ravel()[bad[0]]}{where}" + _describe(name, parents, values)
            )
        return found


def _kind(model: Any, factor: Any) -> str:
    if factor in model.free_RVs:
        return "free variable"
    return "observed" if factor in model.observed_RVs else "potential"


def _parents(factor: Any, free: Sequence[Any]) -> list[str]:
    reached = set(ancestors([factor]))
    return [variable.name for variable in free if variable in reached]


def _describe(name: str, parents: Sequence[str], values: dict[str, np.ndarray]) -> str:
    """List the values that a factor depends on, the suspicious ones if there are some."""
    strange = [p for p in parents if not np.isfinite(values[p]).all() or (values[p] == 0).any()]
    listed = (strange or list(parents))[:_MOST_LISTED]
    described = [f"{p!r} = {_short(values[p])}" for p in listed]
    return f"; value of {', '.join(described)}" if described else ""


def _short(value: np.ndarray) -> str:
    if value.ndim == 0:
        return str(value[()])
    strange = np.flatnonzero(~np.isfinite(value.ravel()) | (value.ravel() == 0))
    if strange.size:
        index = ", ".join(str(i) for i in np.unravel_index(strange[0], value.shape))
        return f"an array with {value.ravel()[strange[0]]} at [{index}]"
    return f"an array in [{value.min():.4g}, {value.max():.4g}]"
