"""The data of a PyMC model: a snapshot of its shared variables, and how it is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from nutpie.models._names import unknown_name

__all__ = ["ModelData"]


@dataclass(frozen=True)
class ModelData:
    """Values of the shared variables of a model and its coordinates at one moment.

    Parameters
    ----------
    values
        By the container of a shared variable: those made by ``pm.Data``, and the lengths of dimensions. Not by the
        variable itself, because PyMC clones variables when it builds graphs; the clones have the same container.
    coords
        Coordinate values by dimension, without the dimensions that have none.
    containers
        The shared variables that a user may replace, by name.
    dims
        Dimension names of each of ``containers``.
    dim_lengths
        The shared variables that hold the length of a dimension, by dimension. The other dimensions have a length
        which is fixed, or follows from a container.
    """

    values: Mapping[Any, np.ndarray]
    coords: Mapping[str, Any]
    containers: Mapping[str, SharedVariable]
    dims: Mapping[str, tuple[str | None, ...]]
    dim_lengths: Mapping[str, SharedVariable]

    @classmethod
    def of_model(cls, model: Any, shared: Sequence[SharedVariable]) -> ModelData:
        """Take the values that the model has now; later changes of the model have no effect on them."""
        containers = {str(v.name): v for v in model.data_vars if isinstance(v, SharedVariable)}
        lengths = {name: v for name, v in model.dim_lengths.items() if isinstance(v, SharedVariable)}
        every = dict.fromkeys([*shared, *containers.values(), *lengths.values()])
        values = {variable.container: np.asarray(variable.get_value(borrow=True)) for variable in every}
        coords = {name: np.asarray(c) for name, c in model.coords.items() if c is not None}
        dims = {name: tuple(model.named_vars_to_dims.get(name, ())) for name in containers}
        return cls(values, coords, containers, dims, lengths)

    def arrays(self, shared: Sequence[SharedVariable]) -> list[np.ndarray]:
        """Take the values of the given shared variables."""
        return [self.values[variable.container] for variable in shared]

    def replaced(self, updates: Mapping[str, Any], coords: Mapping[str, Any] | None) -> ModelData:
        """Copy with other values for some containers.

        Raises
        ------
        ValueError
            For a name which is no data variable of the model, a value of the wrong rank or dtype, or lengths of
            dimensions that do not agree.
        """
        values = dict(self.values)
        for name, value in updates.items():
            if name not in self.containers:
                raise ValueError(unknown_name(name, self.containers, "data variable"))
            values[self.containers[name].container] = _checked(name, value, self.containers[name].type)
        new = replace(self, values=values)
        lengths = new._dim_lengths()
        for dim, variable in self.dim_lengths.items():
            if dim in lengths:
                values[variable.container] = np.asarray(lengths[dim], dtype=variable.type.dtype)
        return replace(new, coords=self._new_coords(lengths, coords or {}))

    def _dim_lengths(self) -> dict[str, int]:
        """Length of each dimension that a container has; an error where two containers differ."""
        lengths: dict[str, tuple[int, str]] = {}
        for name, variable in self.containers.items():
            for dim, length in zip(self.dims[name], self.values[variable.container].shape, strict=False):
                if dim is None:
                    continue
                known, other = lengths.setdefault(dim, (length, name))
                if known != length:
                    raise ValueError(
                        f"dimension {dim!r} has length {known} in {other!r} but {length} in {name!r}: "
                        "pass new data of the same length for both"
                    )
        return {dim: length for dim, (length, _) in lengths.items()}

    def _new_coords(self, lengths: Mapping[str, int], updates: Mapping[str, Any]) -> dict[str, np.ndarray]:
        known_dims = {*self.coords, *self.dim_lengths, *lengths}
        for dim in updates:
            if dim not in known_dims:
                raise ValueError(unknown_name(dim, known_dims, "dimension"))
        coords = {**self.coords, **{dim: np.asarray(value) for dim, value in updates.items()}}
        for dim, length in lengths.items():
            if dim in coords and len(coords[dim]) != length:
                raise ValueError(
                    f"dimension {dim!r} has length {length} with the new data but {len(coords[dim])} coordinate "
                    f"values: pass new ones as coords={{{dim!r}: ...}}"
                )
        fixed = {dim for dim in updates if dim not in lengths}
        for dim in fixed & set(self.coords):
            if len(coords[dim]) != len(self.coords[dim]):
                raise ValueError(
                    f"no data variable has dimension {dim!r}, so its length {len(self.coords[dim])} is fixed"
                )
        return coords


def _checked(name: str, value: Any, wanted: Any) -> np.ndarray:
    """Convert the value to an array of the dtype and rank of the variable."""
    array = np.asarray(value)
    dtype = np.dtype(wanted.dtype)
    if array.ndim != wanted.ndim:
        raise ValueError(f"new data for {name!r} have {array.ndim} dimensions, {wanted.ndim} are needed")
    for axis, (length, fixed) in enumerate(zip(array.shape, wanted.shape, strict=True)):
        if fixed is not None and length != fixed:
            raise ValueError(f"axis {axis} of {name!r} has a fixed length of {fixed}; the new data have {length}")
    if array.dtype == dtype:
        return np.array(array)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise ValueError(f"new data for {name!r} have dtype {array.dtype}, {dtype} is needed")
    if np.can_cast(array.dtype, dtype, "same_kind"):
        converted = array.astype(dtype)
        # Integers of 64 bits are what NumPy and pandas make by default, so narrower ones have to be accepted.
        if dtype.kind in "iu" and not np.array_equal(converted, array):
            raise ValueError(f"new data for {name!r} do not fit into dtype {dtype}")
        return converted
    raise ValueError(f"new data for {name!r} have dtype {array.dtype}, {dtype} is needed: convert them with .astype")
