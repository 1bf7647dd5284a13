"""A pytree of parameters as a flat vector of unconstrained numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nutpie.models._jax_batch import Dtype, precision, shape_of
from nutpie.models._jax_transforms import make_transform
from nutpie.models._layout import layout_of, split_point
from nutpie.models._names import unknown_name
from nutpie.models._values import value_of_shape

__all__ = ["ParameterTree", "named_leaves"]

#: Difference, relative to 1 and the size of the value, between a value and what comes back from its unconstrained
#: value, up to which it counts as in the support.
ROUND_TRIP_TOLERANCE = 1e-5

#: Name of the only variable where the pytree is an array.
BARE = "x"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by the names of their paths, such as ``group.sd`` or ``weights.0``; ``x`` if the tree is a leaf itself.

    Raises
    ------
    ValueError
        If two paths have the same name.
    """
    import jax

    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = ".".join(_key_name(key) for key in path) or BARE
        if name in found:
            raise ValueError(f"two parts of the pytree would both be named {name!r}: rename one of them")
        found[name] = leaf
    return found


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


class ParameterTree:
    """Maps vectors of unconstrained numbers to a pytree of parameters.

    Parameters
    ----------
    example
        A pytree with leaves of the right shapes.
    transforms
        By name of a leaf, what `make_transform` takes.
    dtype
        What is computed in.

    Attributes
    ----------
    shapes
        Shape of each leaf by name.
    blocks
        Where each leaf lies in the vector.
    """

    def __init__(self, example: Any, transforms: Mapping[str, Any], dtype: Dtype) -> None:
        import jax

        leaves = named_leaves(example)
        if not leaves:
            raise ValueError("the example has no arrays, and so there is nothing to sample")
        for name, leaf in leaves.items():
            _check_leaf(name, leaf)
        for name in transforms:
            if name not in leaves:
                raise ValueError("transforms: " + unknown_name(name, leaves, "variable"))
        self.shapes = {name: tuple(np.shape(leaf)) for name, leaf in leaves.items()}
        self._structure = jax.tree_util.tree_structure(example)
        self._transforms = {name: make_transform(name, given) for name, given in transforms.items()}
        self._dtype = dtype
        unconstrained = [self._unconstrained_shape(name) for name in leaves]
        value_names = [
            f"{name}_{self._transforms[name].name}__" if name in self._transforms else name for name in leaves
        ]
        self.blocks = layout_of(list(leaves), value_names, unconstrained)
        self.n_dim = self.blocks[-1].stop

    def _unconstrained_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the unconstrained value of a leaf; a ValueError if its transform does not fit."""
        import jax

        shape = self.shapes[name]
        transform = self._transforms.get(name)
        if transform is None:
            return shape
        if transform.name in ("simplex", "ordered") and not shape:
            raise ValueError(f"the transform of {name!r} is {transform.name!r}, which is for arrays, not for a number")
        found = shape
        if transform.inverse is not None:
            found = tuple(shape_of(transform.inverse, self._dtype, jax.ShapeDtypeStruct(shape, self._dtype)).shape)
        result = tuple(shape_of(transform.forward, self._dtype, jax.ShapeDtypeStruct(found, self._dtype)).shape)
        if result != shape:
            raise ValueError(
                f"the transform of {name!r} makes an array of shape {result} from one of shape {found}, but "
                f"{name!r} has shape {shape}"
                + ("" if transform.inverse else ": give its inverse as well, which says what it starts from")
            )
        return found

    def constrain(self, point: Any) -> tuple[Any, Any]:
        """Return the pytree at a point of shape (n_dim,), and the logarithm of the Jacobian determinant.

        The point may be a tuple of its parts, a flat array for each leaf.
        """
        import jax
        import jax.numpy as jnp

        log_det = jnp.zeros((), jnp.result_type(*jax.tree_util.tree_leaves(point)))
        leaves = []
        for block, value in zip(self.blocks, split_point(point, self.blocks), strict=True):
            transform = self._transforms.get(block.name)
            if transform is not None:
                log_det = log_det + jnp.sum(transform.log_det(value))
                value = transform.forward(value)
            leaves.append(value)
        return jax.tree_util.tree_unflatten(self._structure, leaves), log_det

    def leaves(self, point: Any) -> dict[str, Any]:
        """Leaves by name at a point of shape (n_dim,)."""
        return named_leaves(self.constrain(point)[0])

    def unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        """Replace a part of a point by values of leaves; see `CompiledModel.unconstrain`."""
        point = base.copy()
        by_name = {block.name: block for block in self.blocks}
        by_value_name = {block.value_name: block for block in self.blocks}
        seen: set[str] = set()
        for name, value in _flat(values):
            block = by_name.get(name) or by_value_name.get(name)
            if block is None:
                raise ValueError(unknown_name(name, [*by_name, *by_value_name], "variable"))
            if block.name in seen:
                raise ValueError(f"{block.name!r} is given twice, also as {block.value_name!r}")
            seen.add(block.name)
            if name in by_name:
                found = self._unconstrained_value(name, value_of_shape(name, value, self.shapes[name]))
            else:
                found = value_of_shape(name, value, block.shape)
            point[block.start : block.stop] = found.ravel()
        return point

    def _unconstrained_value(self, name: str, value: np.ndarray) -> np.ndarray:
        transform = self._transforms.get(name)
        if transform is None:
            return value
        if transform.inverse is None:
            block = next(block for block in self.blocks if block.name == name)
            raise ValueError(
                f"the transform of {name!r} has no inverse: give the unconstrained value, as {block.value_name!r}, or "
                "the inverse as the third function of the transform"
            )
        with precision("float64"):
            found = np.asarray(transform.inverse(value), dtype=np.float64)
            back = np.asarray(transform.forward(found))
        if not np.isfinite(found).all() or not np.allclose(
            back, value, rtol=ROUND_TRIP_TOLERANCE, atol=ROUND_TRIP_TOLERANCE
        ):
            raise ValueError(f"the value of {name!r} is outside its support: it must be {transform.support}")
        return found


def _check_leaf(name: str, leaf: Any) -> None:
    kind = getattr(leaf, "dtype", None)
    kind = np.asarray(leaf).dtype if kind is None else np.dtype(kind)
    if kind.kind in "biu":
        raise ValueError(
            f"{name!r} is of type {kind} in the example, and discrete parameters cannot be sampled with NUTS: if it is "
            "continuous, write it as a float, such as 0.0"
        )
    if kind.kind != "f" and kind.name != "bfloat16":
        raise ValueError(f"{name!r} is of type {kind} in the example; parameters are real numbers")


def _flat(values: Mapping[str, Any], prefix: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """Names and values, where nested dicts make names such as ``group.sd``."""
    found = []
    for key, value in values.items():
        path = (*prefix, str(key))
        found += _flat(value, path) if isinstance(value, Mapping) else [(".".join(path), value)]
    return found
