"""Variables of models that are given as functions: names, shapes, dims and coords."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nutpie._arguments import whole_number
from nutpie.models._names import unknown_name
from nutpie.models.base import Variable

__all__ = ["checked_coords", "element_names", "parts_of_point", "variables_of_shapes"]

#: Name of the one variable of a model whose variables were not named.
DEFAULT_NAME = "x"

#: Dimensions that every variable has already.
_TAKEN = ("chain", "draw")


def variables_of_shapes(
    shapes: Mapping[str, Any],
    dims: Mapping[str, Sequence[str] | str] | None,
    coords: Mapping[str, Any] | None,
    dtypes: Mapping[str, Any] | None = None,
) -> list[Variable]:
    """Describe variables.

    Parameters
    ----------
    shapes
        Shape of each variable by name; a whole number is a vector of this length.
    dims
        Names of dimensions by name of a variable; one that has none gets names made from its own.
    coords
        Coordinate values by name of a dimension; where there are some, their number is checked.
    dtypes
        Dtype by name, double precision where there is none.

    Raises
    ------
    TypeError
        For names that are not strings, or shapes that are not whole numbers.
    ValueError
        For dims of a variable that does not exist, another number of dims than the shape has, or coords of another
        length.
    """
    dims, coords, dtypes = dict(dims or {}), coords or {}, dtypes or {}
    for name in dims:
        if name not in shapes:
            raise ValueError(f"dims: {unknown_name(name, shapes, 'variable')}")
    found = []
    for name, shape in shapes.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"names of variables must be strings that are not empty, not {name!r}")
        if name in _TAKEN:
            raise ValueError(f"a variable cannot be named {name!r}: every variable has a dimension of this name")
        sizes = _checked_shape(name, shape)
        own = _checked_dims(name, sizes, dims.get(name, ()), coords)
        found.append(Variable(name, sizes, np.dtype(dtypes.get(name, np.float64)), own))
    return found


def _checked_shape(name: str, shape: Any) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    return tuple(whole_number(f"the shape of {name!r}", size) for size in sizes)


def _checked_dims(
    name: str, shape: tuple[int, ...], dims: Sequence[str] | str, coords: Mapping[str, Any]
) -> tuple[str, ...]:
    own = (dims,) if isinstance(dims, str) else tuple(dims)
    if not own:
        return ()
    if len(own) != len(shape):
        raise ValueError(f"dims of {name!r} are {own}, but its shape is {shape}: one name for each dimension is needed")
    for dim, size in zip(own, shape, strict=True):
        if not isinstance(dim, str) or dim in _TAKEN:
            raise ValueError(f"dims of {name!r}: {dim!r} cannot be the name of a dimension")
        if dim in coords and len(coords[dim]) != size:
            raise ValueError(f"coords of {dim!r} have {len(coords[dim])} values, but {name!r} has {size} there")
    return own


def checked_coords(coords: Mapping[str, Any] | None, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
    """Return coordinate values as arrays; a ValueError names coords of a dimension that no variable has."""
    known = {dim for variable in variables for dim in variable.dims}
    for dim in coords or {}:
        if dim not in known:
            raise ValueError(f"coords: {unknown_name(dim, known, 'dimension')}")
    return {dim: np.asarray(values) for dim, values in (coords or {}).items()}


def parts_of_point(variables: Mapping[str, Any] | None, dim: int) -> Mapping[str, Any]:
    """Return the shapes of the variables that a point consists of; a ValueError if they do not fill it."""
    shapes = {DEFAULT_NAME: (dim,)} if variables is None else variables
    described = variables_of_shapes(shapes, None, None)
    total = sum(math.prod(v.shape) for v in described)
    if total != dim:
        listed = ", ".join(f"{v.name} {v.shape}" for v in described)
        raise ValueError(
            f"the variables ({listed}) have {total} elements, but the density has {dim} parameters: give shapes that "
            "add up to it, or a function `expand` that computes the variables"
        )
    return shapes


def element_names(variables: Sequence[Variable]) -> list[str]:
    """Name each element, such as ``mu`` or ``theta_3``."""
    return [
        "_".join([variable.name, *map(str, index)]) for variable in variables for index in np.ndindex(*variable.shape)
    ]
