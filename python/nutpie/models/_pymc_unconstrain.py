"""Unconstrained points from values of the variables of a PyMC model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors

from nutpie.models._layout import Block, split_point
from nutpie.models._names import unknown_name
from nutpie.models._pymc_data import ModelData
from nutpie.models._pymc_graph import compile_python, data_inputs, stored_variables, value_variables
from nutpie.models._values import value_of_shape

__all__ = ["Unconstrain"]

#: Difference, relative to the largest element, between a value and what comes back from its unconstrained value, up to
#: which it counts as in the support. Simplexes and sums of zero are often given with the digits of single precision.
ROUND_TRIP_TOLERANCE = 1e-5

#: What the value of a variable must be, by name of its transform in PyMC.
_SUPPORTS = {
    "log": "positive",
    "log_exp_m1": "positive",
    "logodds": "between 0 and 1",
    "simplex": "positive and sum to 1 along the last axis",
    "sumto1": "between 0 and 1 and sum to less than 1",
    "ordered": "in increasing order along the last axis",
    "circular": "between -pi and pi",
    "cholesky-cov-packed": "the rows of a lower triangle one after the other, with a positive diagonal",
    "cholesky-cov": "a symmetric positive definite matrix",
    "cholesky_corr": "the lower Cholesky factor of a correlation matrix",
    "zerosum": "such that the sum along each constrained axis is zero",
}


class Unconstrain:
    """Puts values of variables into an unconstrained point, with the transforms of a PyMC model.

    Parameters
    ----------
    model
        The PyMC model.
    blocks
        Layout of the unconstrained parameters.
    """

    def __init__(self, model: Any, blocks: Sequence[Block]) -> None:
        self._model = model
        self._blocks = {block.name: block for block in blocks}
        self._by_value_name = {block.value_name: block for block in blocks}
        # A variable has more ancestors than any of those that it depends on.
        self._ordered = sorted(self._blocks, key=lambda name: len(set(ancestors([model[name]]))))
        self._values = value_variables(model, blocks)
        self._backward = self._compiled([], stored_variables(model, list(self._blocks)))
        # By the names that are given, as the graph differs with them.
        self._forward: dict[tuple[str, ...], Callable[..., list[np.ndarray]]] = {}
        self._lock = threading.Lock()

    def __call__(self, values: Mapping[Any, Any], base: np.ndarray, data: ModelData) -> np.ndarray:
        """Replace the part of ``base`` that ``values`` give, by the name of a variable or of a value variable."""
        point = base.copy()
        given = self._given(values)
        for block, value, is_constrained in given:
            if not is_constrained:
                point[block.start : block.stop] = value_of_shape(block.value_name, value, block.shape).ravel()
        constrained = {block.name: value for block, value, is_constrained in given if is_constrained}
        if not constrained:
            return point
        shapes = {name: value.shape for name, value in self._constrained(point, data).items()}
        wanted = {}
        for name, value in constrained.items():
            try:
                wanted[name] = value_of_shape(name, value, shapes[name])
            except ValueError as error:
                support = self._support(name, point, data)
                raise ValueError(f"{error}; {name!r} must be {support}" if support else str(error)) from None
        found = self._program(tuple(wanted))([*wanted.values()], point, data)
        for name, value in zip(wanted, found, strict=True):
            block = self._blocks[name]
            point[block.start : block.stop] = np.asarray(value, dtype=np.float64).ravel()
        self._check_support(wanted, point, data)
        return point

    def _given(self, values: Mapping[Any, Any]) -> list[tuple[Block, Any, bool]]:
        """Find the block of each value, and whether the value is on the scale of the variable.

        Variables come after those that they depend on.
        """
        found: dict[str, tuple[Block, Any, bool]] = {}
        for key, value in values.items():
            name = key if isinstance(key, str) else str(getattr(key, "name", key))
            block = self._blocks.get(name) or self._by_value_name.get(name)
            if block is None:
                raise ValueError(self._not_free(name))
            if block.name in found:
                raise ValueError(f"both {block.name!r} and {block.value_name!r} are given, which are the same variable")
            found[block.name] = (block, value, name in self._blocks)
        return [found[name] for name in self._ordered if name in found]

    def _not_free(self, name: str) -> str:
        kinds = (
            (self._model.observed_RVs, "is observed"),
            (self._model.deterministics, "is a deterministic, which follows from the free variables"),
            (self._model.potentials, "is a potential"),
            (self._model.data_vars, "is data"),
        )
        for variables, what in kinds:
            if name in (variable.name for variable in variables):
                return f"{name!r} {what}; only free variables have a start: {', '.join(map(repr, self._blocks))}"
        return unknown_name(name, [*self._blocks, *self._by_value_name], "free variable")

    def _compiled(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Callable[..., list[np.ndarray]]:
        """Compile ``(inputs, point, data) -> outputs``, for graphs of ``inputs`` and the value variables."""
        shared = data_inputs(outputs)
        function = compile_python([*inputs, *self._values], outputs, shared)
        dtypes = [variable.type.dtype for variable in (*inputs, *self._values)]
        blocks = list(self._blocks.values())

        def run(given: Sequence[np.ndarray], point: np.ndarray, data: ModelData) -> list[np.ndarray]:
            arrays = [a.astype(t) for a, t in zip([*given, *split_point(point, blocks)], dtypes, strict=True)]
            with np.errstate(all="ignore"):
                return [np.asarray(value) for value in function(*arrays, *data.arrays(shared))]

        return run

    def _constrained(self, point: np.ndarray, data: ModelData) -> dict[str, np.ndarray]:
        return dict(zip(self._blocks, self._backward([], point, data), strict=True))

    def _program(self, names: tuple[str, ...]) -> Callable[..., list[np.ndarray]]:
        with self._lock:
            if names not in self._forward:
                self._forward[names] = self._make_program(names)
            return self._forward[names]

    def _make_program(self, names: Sequence[str]) -> Callable[..., list[np.ndarray]]:
        """Compile the unconstrained values of ``names``, in which parents come before what depends on them."""
        inputs: list[Any] = []
        outputs: list[Any] = []
        replaced: dict[Any, Any] = {}
        for name in names:
            variable = self._model[name]
            transform = self._model.rvs_to_transforms[variable]
            value = variable.type(name=name)
            inputs.append(value)
            forward = value if transform is None else transform.forward(value, *variable.owner.inputs)
            # The parents of the variable are functions of their own unconstrained values, which may be given as well.
            graph = self._model.replace_rvs_by_values([forward])
            unconstrained: Any = clone_replace(graph, replaced, rebuild_strict=False)[0]
            old = self._model.rvs_to_values[variable]
            replaced[old] = old.type.filter_variable(unconstrained)
            outputs.append(pt.as_tensor(unconstrained, allow_xtensor_conversion=True))
        return self._compiled(inputs, outputs)

    def _check_support(self, wanted: Mapping[str, np.ndarray], point: np.ndarray, data: ModelData) -> None:
        """Refuse values that the transform does not reach: what comes back from the point is something else."""
        back = self._constrained(point, data)
        for name, value in wanted.items():
            block = self._blocks[name]
            scale = np.abs(value).max(initial=0.0)
            same = np.abs(back[name] - value) <= ROUND_TRIP_TOLERANCE * scale
            if np.isfinite(point[block.start : block.stop]).all() and same.all():
                continue
            raise ValueError(
                f"the value of {name!r} is outside its support: it must be {self._support(name, point, data)}, "
                f"but is {_short(value)}"
            )

    def _support(self, name: str, point: np.ndarray, data: ModelData) -> str:
        """Say what the values of a variable must be; nothing if they may be any."""
        transform = self._model.rvs_to_transforms[self._model[name]]
        if transform is None:
            return ""
        return self._support_of(name, transform, point, data)

    def _support_of(self, name: str, transform: Any, point: np.ndarray, data: ModelData) -> str:
        if hasattr(transform, "transform_list"):
            parts = [self._support_of(name, part, point, data) for part in transform.transform_list]
            return " and ".join(parts)
        if transform.name == "interval":
            return self._interval(name, transform, point, data)
        return _SUPPORTS.get(transform.name, f"in the range of the transform {transform.name!r}")

    def _interval(self, name: str, transform: Any, point: np.ndarray, data: ModelData) -> str:
        # PyMC's transforms of labelled tensors hold the bounds themselves, the others compute them.
        if hasattr(transform, "args_fn"):
            bounds = transform.args_fn(*self._model[name].owner.inputs)
        else:
            bounds = (transform.lower, transform.upper)
        ends = [
            pt.as_tensor(end if bound is None else bound, allow_xtensor_conversion=True)
            for bound, end in zip(bounds, (-np.inf, np.inf), strict=True)
        ]
        graphs = self._model.replace_rvs_by_values(ends)
        values = self._compiled([], graphs)([], point, data)
        lower, upper = (
            _short(value.flat[0] if value.size and (value == value.flat[0]).all() else value) for value in values
        )
        return f"between {lower} and {upper}"


def _short(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"{value[()]:.6g}"
    return np.array2string(value, precision=4, threshold=20, edgeitems=4).replace("\n", "")
