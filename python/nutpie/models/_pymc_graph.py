"""Graphs of a PyMC model: the log density with its gradient, and the variables of the result.

Every graph takes the shared variables of the model as explicit inputs, so that none of the compiled functions refers to
the model's own data.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytensor.tensor as pt
from pymc.pytensorf import compile as pymc_compile
from pytensor.compile.ops import ViewOp
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace, vectorize_graph
from pytensor.graph.rewriting.utils import rewrite_graph
from pytensor.graph.traversal import applys_between, graph_inputs
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.type import DenseTensorType

from nutpie.models._layout import Block, layout_of, split_point
from nutpie.models._pymc_indices import IndexChecks, guard_indices
from nutpie.models._pymc_numpy_ops import interpreted_mode

__all__ = [
    "REWRITES",
    "ExpandFunction",
    "as_type_of",
    "compile_python",
    "data_inputs",
    "frozen_other_inputs",
    "layout",
    "logp_and_gradient",
    "stored_variables",
    "value_variables",
    "without_views",
]

#: Constants with more elements than this become inputs of the log density. As inputs they do not enter the key of the
#: on-disk cache, so that the same model with other observations is not compiled again, and numba need not write them
#: into the code. Smaller ones stay, because the shapes among them let the compiler do better.
LARGEST_INLINE_CONSTANT = 16

#: Rewrites of PyTensor that do not depend on how a graph is to be compiled. The first keeps track of shapes. Without it
#: the others hardly come to an end where "0 / x is 0" asks for the shape of what it replaces and so brings it back, as
#: with a Dirichlet distribution of several rows.
REWRITES = ("ShapeOpt", "canonicalize", "stabilize")

#: Bytes of intermediate results that `ExpandFunction` aims to stay below.
EXPAND_MEMORY = 16 * 2**20


def layout(model: Any, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Block]:
    """Place the free variables one after the other, given the shapes of their unconstrained values."""
    return layout_of(names, [model.rvs_to_values[model[name]].name for name in names], shapes)


def as_type_of(old: Any, new: Any) -> Any:
    """Give ``new`` the kind of type that ``old`` has, such as a labelled tensor."""
    return old.type.filter_variable(new) if not isinstance(old.type, DenseTensorType) else new.astype(old.type.dtype)


def data_inputs(outputs: Sequence[Any]) -> list[SharedVariable]:
    """Find the tensors among the shared variables that ``outputs`` depend on, each once, in a fixed order."""
    found: dict[SharedVariable, None] = {}
    for variable in graph_inputs(outputs):
        if isinstance(variable, SharedVariable) and isinstance(variable.type, DenseTensorType):
            found[variable] = None
    return list(found)


def _without_shared(outputs: Sequence[Any], shared: Sequence[SharedVariable]) -> tuple[list[Any], list[Any]]:
    inputs = [variable.type(name=variable.name) for variable in shared]
    replacements: dict[Any, Any] = dict(zip(shared, inputs, strict=True))
    return clone_replace(list(outputs), replacements, rebuild_strict=False), inputs


def compile_python(inputs: Sequence[Any], outputs: Sequence[Any], shared: Sequence[SharedVariable]) -> Any:
    """Compile a function ``(*inputs, *shared) -> outputs`` that PyTensor interprets: quick to make, slower to call."""
    outputs, data = _without_shared(outputs, shared)
    return pymc_compile([*inputs, *data], outputs, mode=interpreted_mode(), on_unused_input="ignore")


def value_variables(model: Any, blocks: Sequence[Block]) -> list[Any]:
    """Look up the value variables, in the order of the unconstrained parameters."""
    # By name: a frozen copy of the model may list its variables in another order.
    return [model.rvs_to_values[model[block.name]] for block in blocks]


def frozen_other_inputs(outputs: Sequence[Any]) -> list[Any]:
    """Turn shared variables that are no dense tensors, such as sparse matrices, into constants."""
    others: dict[Any, Any] = {
        variable: variable.type.make_constant(variable.get_value())
        for variable in graph_inputs(outputs)
        if isinstance(variable, SharedVariable) and not isinstance(variable.type, DenseTensorType | RandomType)
    }
    return clone_replace(list(outputs), others) if others else list(outputs)


def logp_and_gradient(
    model: Any, blocks: Sequence[Block], *, mode: Literal["NUMBA", "JAX"], with_gradient: bool = True
) -> tuple[Any, list[SharedVariable], list[np.ndarray], IndexChecks]:
    """Compile the log density and its gradient with numba or JAX.

    Returns
    -------
    jit_fn
        Numba dispatcher ``(x, *data, *constants) -> (logp, gradient)``, without the gradient if it is not wanted; or
        function of JAX of the same, but with the value of each block in the place of x.
    shared
        The shared variables whose values are ``data``.
    constants
        Values of ``constants``.
    indices
        What has to be checked before ``jit_fn`` is called with other data.
    """
    values = value_variables(model, blocks)
    logp: Any = pt.as_tensor(model.logp(), allow_xtensor_conversion=True).astype("float64")
    if mode == "NUMBA":  # JAX cannot raise exceptions, and takes the nearest element that there is
        logp = guard_indices(logp, values)
    results = frozen_other_inputs([logp, _gradient(logp, values)] if with_gradient else [logp])

    def with_values(parts: Sequence[Any]) -> list[Any]:
        taken = {value: as_type_of(value, part) for value, part in zip(values, parts, strict=True)}
        return clone_replace(results, taken, rebuild_strict=False)

    x = pt.vector("x", shape=(blocks[-1].stop if blocks else 0,), dtype="float64")
    inputs: list[Any] = [x]
    outputs = with_values(split_point(x, blocks))
    shared = data_inputs(outputs)
    indices = IndexChecks(outputs[0], x, shared)
    if mode == "JAX":
        # Derivatives by some of the values then cost nothing where the others alone matter, which JAX cannot know of
        # slices of one array.
        inputs = [pt.tensor(block.value_name, shape=block.shape, dtype="float64") for block in blocks]
        outputs = with_values(inputs)
    outputs, data = _without_shared(outputs, shared)
    # Folds what depends on constants only, before these are made inputs.
    folded: Any = rewrite_graph(outputs, include=REWRITES)
    outputs, constants, constant_inputs = _constants_as_inputs(folded)
    with model:
        # PyMC's compile rather than PyTensor's: in the context of the model it turns the checks of parameters into
        # densities of zero, or drops them if the model has check_bounds=False.
        function = pymc_compile([*inputs, *data, *constant_inputs], outputs, mode=mode, on_unused_input="ignore")
    return function.vm.jit_fn, shared, constants, indices


def _gradient(logp: Any, values: Sequence[Any]) -> Any:
    gradients: Any = pt.grad(logp, values, disconnected_inputs="ignore", return_disconnected="zero")
    flat = [pt.as_tensor(g, allow_xtensor_conversion=True).astype("float64").ravel() for g in gradients]
    return pt.concatenate(flat) if flat else pt.zeros(0)


def _constants_as_inputs(outputs: list[Any]) -> tuple[list[Any], list[np.ndarray], list[Any]]:
    large: dict[Any, Any] = {
        variable: variable.type(name=f"constant_{i}")
        for i, variable in enumerate(graph_inputs(outputs))
        if isinstance(variable, Constant)
        and isinstance(variable.type, DenseTensorType)
        and variable.data.size > LARGEST_INLINE_CONSTANT
    }
    if not large:
        return outputs, [], []
    outputs = clone_replace(outputs, large, rebuild_strict=False)
    return outputs, [np.asarray(variable.data) for variable in large], list(large.values())


def stored_variables(model: Any, names: Sequence[str]) -> list[Any]:
    """Free variables and deterministics on the constrained scale, as functions of the value variables."""
    replaced = model.replace_rvs_by_values([model[name] for name in names])
    return without_views([pt.as_tensor(variable, allow_xtensor_conversion=True) for variable in replaced])


def without_views(outputs: Sequence[Any]) -> list[Any]:
    """Drop the identity that each deterministic is wrapped in: vectorised, it would be a Python loop over the draws."""
    fgraph = FunctionGraph(outputs=clone_replace(list(outputs)), clone=False)
    for node in fgraph.toposort():
        if isinstance(node.op, ViewOp) and node.inputs[0].type == node.outputs[0].type:
            fgraph.replace(node.outputs[0], node.inputs[0])
    return list(fgraph.outputs)


class ExpandFunction:
    """Computes the variables of the result for many draws at once.

    Variables that PyTensor can vectorise share one graph; the others are computed draw by draw. Nothing is compiled to
    machine code.

    Parameters
    ----------
    model
        The PyMC model.
    blocks
        Layout of the unconstrained parameters.
    variables
        What to compute, by name, as functions of the value variables.

    Attributes
    ----------
    shared
        The shared variables whose values each call gets.
    """

    def __init__(self, model: Any, blocks: Sequence[Block], variables: Mapping[str, Any]) -> None:
        values = value_variables(model, blocks)
        names, outputs = list(variables), list(variables.values())
        self.shared = shared = data_inputs(outputs)
        x = pt.matrix("draws", shape=(None, blocks[-1].stop if blocks else 0), dtype="float64")
        batches = {
            value: _batch(value, x[:, block.start : block.stop], block)
            for value, block in zip(values, blocks, strict=True)
        }
        self._blocks = blocks
        batched, looped = _vectorize(outputs, batches)
        self._batched = {names[i]: out.type.ndim > outputs[i].type.ndim for i, out in batched.items()}
        self._looped = [names[i] for i in looped]
        self._run_batched = self._run_looped = None
        if batched:
            self._run_batched = compile_python([x], list(batched.values()), shared)
        if looped:
            self._run_looped = compile_python(values, [outputs[i] for i in looped], shared)
        self._graphs = list(batched.values())
        self._row_bytes: dict[Hashable, int] = {}

    def __call__(self, draws: np.ndarray, data: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of shape (n, ...) for draws of shape (n, n_dim)."""
        rows = max(1, int(EXPAND_MEMORY // max(self._bytes_per_row(data), 8 * draws.shape[1], 1)))
        with np.errstate(all="ignore"):
            parts = [self._chunk(draws[i : i + rows], data) for i in range(0, max(len(draws), 1), rows)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _bytes_per_row(self, data: Sequence[np.ndarray]) -> int:
        # A scalar may be the length of something.
        shapes = tuple(array.shape if array.ndim else array.item() for array in data)
        if shapes not in self._row_bytes:
            self._row_bytes[shapes] = _bytes_per_row(self._graphs, self.shared, data)
        return self._row_bytes[shapes]

    def _chunk(self, draws: np.ndarray, data: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        if self._run_batched is not None:
            results = self._run_batched(draws, *data)
            for (name, has_rows), value in zip(self._batched.items(), results, strict=True):
                value = np.asarray(value)
                # A variable which depends on data only is the same in each draw.
                found[name] = value if has_rows else np.repeat(value[None], len(draws), axis=0)
        if self._run_looped is not None:
            rows = [self._run_looped(*split_point(draw, self._blocks), *data) for draw in draws]
            for i, name in enumerate(self._looped):
                found[name] = np.stack([np.asarray(row[i]) for row in rows])
        return found


def _batch(value: Any, columns: Any, block: Block) -> Any:
    batch = columns.reshape((columns.shape[0], *block.shape)).astype(value.type.dtype)
    return pt.specify_shape(batch, (None, *block.shape))


def _vectorize(outputs: Sequence[Any], batches: Mapping[Any, Any]) -> tuple[dict[int, Any], list[int]]:
    """Vectorised graphs by position, and the positions of the outputs for which that is not possible."""
    dense = all(isinstance(value.type, DenseTensorType) for value in batches)
    random = [i for i, out in enumerate(outputs) if _is_random(out)]
    candidates = [i for i in range(len(outputs)) if dense and i not in random]
    if batches:
        try:
            graphs = vectorize_graph([outputs[i] for i in candidates], batches)
            return dict(zip(candidates, graphs, strict=True)), sorted(set(range(len(outputs))) - set(candidates))
        except Exception:  # an operation without a rule; find out below which variables it concerns
            pass
    batched, looped = {}, [i for i in range(len(outputs)) if i not in candidates]
    for i in candidates:
        try:
            batched[i] = vectorize_graph([outputs[i]], batches)[0] if batches else outputs[i]
        except Exception:
            looped.append(i)
    return batched, sorted(looped)


def _is_random(output: Any) -> bool:
    """Whether it draws random numbers, which must differ from draw to draw."""
    return any(isinstance(variable.type, RandomType) for variable in graph_inputs([output]))


def _bytes_per_row(graphs: Sequence[Any], shared: Sequence[SharedVariable], data: Sequence[np.ndarray]) -> int:
    """Add up what one draw needs for the results of all operations, as far as shapes follow from those of the data."""
    typed: dict[Any, Any] = {
        variable: pt.tensor(shape=array.shape, dtype=variable.type.dtype) if array.ndim else pt.constant(array)
        for variable, array in zip(shared, data, strict=True)
    }
    known = clone_replace(list(graphs), typed, rebuild_strict=False)
    shapes = [getattr(variable.type, "shape", None) for node in applys_between([], known) for variable in node.outputs]
    # The length that stays unknown is the number of draws.
    return sum(8 * math.prod(n or 1 for n in shape[1:]) for shape in shapes if shape and shape[0] is None)
