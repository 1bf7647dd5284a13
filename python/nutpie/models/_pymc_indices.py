"""Arrays of indices in a log density: in bounds, before compiled code relies on it.

PyTensor 2 checks them at each evaluation. PyTensor 3.3 does not, and an index out of bounds makes its compiled code
read memory of something else, or write to it when it computes a gradient. So those that depend on data are checked once
for each set of data, and those that depend on parameters get a check in the graph. The inner graphs of loops
(``pytensor.scan``) are not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor import subtensor
from pytensor.tensor.type import DenseTensorType
from pytensor.tensor.type_other import NoneTypeT

__all__ = ["IndexChecks", "guard_indices"]

# Versions of PyTensor have different classes for the special cases of advanced indexing.
_READS = tuple(vars(subtensor)[n] for n in ("AdvancedSubtensor", "AdvancedSubtensor1") if n in vars(subtensor))
_WRITES = tuple(vars(subtensor)[n] for n in ("AdvancedIncSubtensor", "AdvancedIncSubtensor1") if n in vars(subtensor))

_OUT_OF_BOUNDS = "an index that depends on parameters is out of bounds"


@dataclass(frozen=True)
class _Lookup:
    """An array of indices: the input at ``position`` of ``node``, for an axis of length ``length``."""

    node: Apply
    position: int
    index: Any
    length: Any


def _lookups(outputs: Sequence[Any]) -> Iterator[_Lookup]:
    """Find the arrays of integers among the indices of a graph."""
    for node in dict.fromkeys(variable.owner for variable in ancestors(outputs) if variable.owner is not None):
        if isinstance(node.op, _READS + _WRITES):
            first = 1 if isinstance(node.op, _READS) else 2
            yield from _lookups_of(node, first)


def _lookups_of(node: Apply, first: int) -> Iterator[_Lookup]:
    entries: Sequence[Any] = node.inputs[first:]
    if hasattr(node.op, "idx_list"):
        entries = subtensor.indices_from_subtensor(entries, node.op.idx_list)
    shape, axis = pt.shape(node.inputs[0]), 0
    for entry in entries:
        kind = getattr(entry, "type", None)
        if isinstance(kind, NoneTypeT) or entry is None:
            continue  # a new axis
        if isinstance(kind, DenseTensorType) and kind.dtype == "bool":
            axis += kind.ndim
            continue
        if isinstance(kind, DenseTensorType):
            yield _Lookup(node, node.inputs.index(entry, first), entry, shape[axis])
        axis += 1


def _depends(variable: Any, inputs: Sequence[Any]) -> bool:
    return not set(inputs).isdisjoint(ancestors([variable]))


def guard_indices(output: Any, parameters: Sequence[Any]) -> Any:
    """Add a check that raises `IndexError` to each array of indices which depends on parameters."""
    if not any(_depends(lookup.index, parameters) for lookup in _lookups([output])):
        return output
    fgraph = FunctionGraph(outputs=clone_replace([output]), clone=False)
    check = CheckAndRaise(IndexError, _OUT_OF_BOUNDS)
    for lookup in list(_lookups(fgraph.outputs)):
        if _depends(lookup.index, parameters):
            inside = (lookup.index >= -lookup.length) & (lookup.index < lookup.length)
            checked: Any = check(lookup.index, pt.all(inside))
            fgraph.change_node_input(lookup.node, lookup.position, checked)
    return fgraph.outputs[0]


class IndexChecks:
    """The arrays of indices in a graph that depend on data.

    Parameters
    ----------
    output
        The graph, as a function of ``x`` and shared variables.
    x
        The vector of parameters.
    shared
        The shared variables whose values each call gets.
    """

    def __init__(self, output: Any, x: Any, shared: Sequence[SharedVariable]) -> None:
        found = [lookup for lookup in _lookups([output]) if not _depends(lookup.index, [x])]
        self._names = [_data_names(lookup.index) for lookup in found]
        self._function = None
        if found:
            from nutpie.models._pymc_graph import compile_python

            outputs = [variable for lookup in found for variable in (lookup.index, lookup.length)]
            self._function = compile_python([x], outputs, shared)

    def check(self, point: np.ndarray, data: Sequence[np.ndarray]) -> None:
        """Raise `IndexError` if an index is out of bounds; lengths that depend on parameters are those at ``point``."""
        if self._function is None:
            return
        try:
            results = [np.asarray(value) for value in self._function(point, *data)]
        except IndexError:
            raise
        except Exception:  # the sampler will meet it, too, and explain it
            return
        for names, index, length in zip(self._names, results[::2], results[1::2], strict=True):
            bad = index[(index < -length) | (index >= length)]
            if bad.size:
                source = f"the values of {', '.join(map(repr, names))}" if names else "the constant indices"
                raise IndexError(
                    f"index {bad[0]} is out of bounds for an axis of length {length}: correct {source} "
                    f"(an index counts from 0)"
                )


def _data_names(index: Any) -> list[str]:
    return sorted({str(v.name) for v in graph_inputs([index]) if isinstance(v, SharedVariable) and v.name})
