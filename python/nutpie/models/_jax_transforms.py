"""Transforms from unconstrained numbers to the support of a variable, with the logarithm of their Jacobian.

With a transform ``y = f(x)``, a density ``p`` of ``y`` becomes the density ``p(f(x)) |det df/dx|`` of ``x``. A simplex
is made by breaking a stick, an ordered vector by adding up positive steps, as in the Stan Reference Manual.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nutpie._arguments import choice

__all__ = ["TRANSFORMS", "Transform", "make_transform"]


@dataclass(frozen=True)
class Transform:
    """A transform of one variable.

    Parameters
    ----------
    name
        Its name, as in ``sigma_positive__``.
    forward
        From an unconstrained array to the variable.
    log_det
        From an unconstrained array to the logarithm of the absolute Jacobian determinant, or to an array whose sum
        that is.
    inverse
        From the variable to an unconstrained array; None if it is not known.
    support
        What a value of the variable must be.
    """

    name: str
    forward: Callable[[Any], Any]
    log_det: Callable[[Any], Any]
    inverse: Callable[[Any], Any] | None
    support: str


def _positive() -> Transform:
    import jax.numpy as jnp

    return Transform("positive", jnp.exp, lambda x: x, jnp.log, "positive")


def _unit_interval() -> Transform:
    import jax

    def log_det(x: Any) -> Any:
        return jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x)

    return Transform("unit_interval", jax.nn.sigmoid, log_det, jax.scipy.special.logit, "between 0 and 1")


def _simplex() -> Transform:
    """Break pieces off a stick of length 1: a share of the rest each time, equal pieces where all numbers are 0."""
    import jax
    import jax.numpy as jnp

    def parts(x: Any) -> tuple[Any, Any, Any]:
        shifted = x - jnp.log(jnp.arange(x.shape[-1], 0, -1, dtype=x.dtype))
        taken, left = jax.nn.log_sigmoid(shifted), jax.nn.log_sigmoid(-shifted)
        before = jnp.cumsum(left, axis=-1) - left
        return taken, left, before

    def forward(x: Any) -> Any:
        taken, left, before = parts(x)
        return jnp.exp(jnp.concatenate([taken + before, jnp.sum(left, axis=-1, keepdims=True)], axis=-1))

    def log_det(x: Any) -> Any:
        return sum(parts(x))

    def inverse(y: Any) -> Any:
        rest = jnp.cumsum(y[..., ::-1], axis=-1)[..., ::-1][..., 1:]
        return jnp.log(y[..., :-1]) - jnp.log(rest) + jnp.log(jnp.arange(y.shape[-1] - 1, 0, -1, dtype=y.dtype))

    return Transform("simplex", forward, log_det, inverse, "positive and sum to 1 along the last axis")


def _ordered() -> Transform:
    import jax.numpy as jnp

    def forward(x: Any) -> Any:
        return jnp.cumsum(jnp.concatenate([x[..., :1], jnp.exp(x[..., 1:])], axis=-1), axis=-1)

    def inverse(y: Any) -> Any:
        return jnp.concatenate([y[..., :1], jnp.log(jnp.diff(y, axis=-1))], axis=-1)

    return Transform("ordered", forward, lambda x: x[..., 1:], inverse, "in increasing order along the last axis")


def _above(lower: float) -> Transform:
    import jax.numpy as jnp

    return Transform(
        "interval", lambda x: lower + jnp.exp(x), lambda x: x, lambda y: jnp.log(y - lower), f"above {lower:g}"
    )


def _below(upper: float) -> Transform:
    import jax.numpy as jnp

    return Transform(
        "interval", lambda x: upper - jnp.exp(x), lambda x: x, lambda y: jnp.log(upper - y), f"below {upper:g}"
    )


def _between(lower: float, upper: float) -> Transform:
    import jax.numpy as jnp

    unit, width = _unit_interval(), upper - lower
    return Transform(
        "interval",
        lambda x: lower + width * unit.forward(x),
        lambda x: unit.log_det(x) + np.log(width),
        lambda y: jnp.log(y - lower) - jnp.log(upper - y),
        f"between {lower:g} and {upper:g}",
    )


#: The transforms that have a name.
TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "positive": _positive,
    "unit_interval": _unit_interval,
    "simplex": _simplex,
    "ordered": _ordered,
}

_FORMS = (
    f"one of {', '.join(map(repr, TRANSFORMS))}, a pair of bounds such as (0, 10) or (None, 0), or a tuple of "
    "functions (forward, log_det) or (forward, log_det, inverse)"
)


def make_transform(name: str, given: Any) -> Transform:
    """Make the transform of the variable ``name`` from what a user says of it.

    Raises
    ------
    TypeError
        If it is of no known form.
    ValueError
        For an unknown name, and bounds that are not finite or not in order.
    """
    what = f"the transform of {name!r}"
    if isinstance(given, Transform):
        return given
    if isinstance(given, str):
        choice(what, given, tuple(TRANSFORMS))
        return TRANSFORMS[given]()
    if isinstance(given, tuple | list) and len(given) in (2, 3) and all(map(callable, given)):
        forward, log_det, inverse = (*given, None)[:3]
        return Transform("transformed", forward, log_det, inverse, "in the range of its transform")
    if isinstance(given, tuple | list) and len(given) == 2 and all(_is_bound(bound) for bound in given):
        lower, upper = (None if bound is None else float(bound) for bound in given)
        ordered = lower is None or upper is None or lower < upper
        if not ordered or not np.isfinite([bound for bound in (lower, upper) if bound is not None]).all():
            raise ValueError(f"{what} has the bounds {given[0]} and {given[1]}: they must be finite and in order")
        if lower is not None:
            return _above(lower) if upper is None else _between(lower, upper)
        if upper is not None:
            return _below(upper)
    raise TypeError(f"{what} must be {_FORMS}, not {given!r}")


def _is_bound(bound: Any) -> bool:
    return bound is None or (isinstance(bound, numbers.Real) and not isinstance(bound, bool))
