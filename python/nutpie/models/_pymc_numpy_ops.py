"""Elementwise operations that PyTensor's interpreter runs one Python call an element, done by NumPy on whole arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from pytensor.compile.mode import FAST_COMPILE, Mode
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.scalar import basic as scalar
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import log1mexp, softplus

__all__ = ["interpreted_mode"]

#: After all of PyTensor's own rewrites, which may introduce such operations.
_LAST = 200.0


def _clip(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.where(x < low, low, np.where(x > high, high, x))


def _log1mexp(x: np.ndarray) -> np.ndarray:
    return np.where(x < -np.log(2.0), np.log1p(-np.exp(x)), np.log(-np.expm1(x)))


_FUNCTIONS: dict[type, Callable[..., np.ndarray]] = {
    scalar.Add: lambda *x: functools.reduce(np.add, x),
    scalar.Mul: lambda *x: functools.reduce(np.multiply, x),
    scalar.Clip: _clip,
    scalar.Cast: lambda x: x,  # the result is cast in any case
    scalar.Identity: lambda x: x,
    scalar.Second: lambda x, y: np.broadcast_to(y, np.broadcast_shapes(np.shape(x), np.shape(y))),
    type(softplus.scalar_op): lambda x: np.logaddexp(0.0, x),
    type(log1mexp.scalar_op): _log1mexp,
}


class _NumpyElemwise(Op):
    """One of `_FUNCTIONS`, in the place of an ``Elemwise``."""

    __props__ = ("scalar_op",)

    def __init__(self, scalar_op: Any) -> None:
        self.scalar_op = scalar_op

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        out = node.outputs[0].type
        with np.errstate(all="ignore"):
            # Of the dtype of the result from the start, as PyTensor computes it.
            args = [np.asarray(x) for x in inputs]
            if isinstance(self.scalar_op, scalar.Add | scalar.Mul):
                args = [x.astype(out.dtype, copy=False) for x in args]
            value = _FUNCTIONS[type(self.scalar_op)](*args)
        # A copy, because results must not share memory with inputs.
        output_storage[0][0] = np.array(value, dtype=out.dtype)


@node_rewriter([Elemwise])
def _use_numpy(fgraph: Any, node: Any) -> Any:
    op = node.op.scalar_op
    if type(op) not in _FUNCTIONS or node.op.inplace_pattern or node.outputs[0].type.dtype.startswith("complex"):
        return False
    if isinstance(op, scalar.Add | scalar.Mul) and len(node.inputs) == 2:
        return False  # a NumPy ufunc already
    return Apply(_NumpyElemwise(op), node.inputs, [node.outputs[0].type()]).outputs


@functools.cache
def interpreted_mode() -> Mode:
    """PyTensor's mode without any compiler, for graphs with large arrays."""
    rewriter = dfs_rewriter(_use_numpy)
    rewriter.name = "nutpie_numpy_elemwise"
    return FAST_COMPILE.register((rewriter, _LAST))
