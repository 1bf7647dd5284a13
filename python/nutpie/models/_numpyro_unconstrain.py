"""Unconstrained points from values of the variables of a NumPyro model, and from its prior."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nutpie.models._jax_batch import Dtype, precision, trace
from nutpie.models._layout import Block, split_point
from nutpie.models._names import unknown_name
from nutpie.models._numpyro_sites import Sites
from nutpie.models._values import value_of_shape

__all__ = ["Unconstrain"]

#: Difference, relative to 1 and the size of the value, between a value and what comes back from its unconstrained
#: value, up to which it counts as in the support.
TOLERANCE = 1e-5


class Unconstrain:
    """Puts values of variables into an unconstrained point, with the transforms of NumPyro.

    The support of a variable may depend on other variables. So all variables are brought to the constrained scale, the
    given ones replaced, and brought back; those that are not given keep their unconstrained values. This is repeated
    until the given ones stay, which each time is true of at least one variable more.

    Parameters
    ----------
    call
        The model and its arguments.
    blocks
        Layout of the unconstrained parameters.
    sites
        The sites of the model.
    dtype
        What the model is computed in.
    """

    def __init__(
        self,
        call: tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]],
        blocks: Sequence[Block],
        sites: Sites,
        dtype: Dtype,
    ) -> None:
        self._call = call
        self._blocks = {block.name: block for block in blocks}
        self._by_value_name = {block.value_name: block for block in blocks}
        self._sites = sites
        self._latent = {site.name: site for site in sites.latent}
        self._dtype = dtype
        self._n_dim = blocks[-1].stop if blocks else 0

    def __call__(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        """Replace the part of ``base`` that ``values`` give, by the name of a variable or of an unconstrained one."""
        point = base.copy()
        given: dict[str, np.ndarray] = {}
        seen: set[str] = set()
        for key, value in values.items():
            name = str(key)
            block = self._blocks.get(name) or self._by_value_name.get(name)
            if block is None:
                raise ValueError(self._not_latent(name))
            if block.name in seen:
                raise ValueError(f"both {block.name!r} and {block.value_name!r} are given, which are the same variable")
            seen.add(block.name)
            if name in self._blocks:
                given[name] = value_of_shape(name, value, self._latent[name].shape)
            else:
                point[block.start : block.stop] = value_of_shape(name, value, block.shape).ravel()
        for _ in range(len(self._blocks) + 1 if given else 0):
            current = self._constrained(point)
            if all(np.allclose(current[name], value, rtol=1e-12, atol=1e-12) for name, value in given.items()):
                break
            found = self._unconstrained({**current, **given})
            for name in given:
                block = self._blocks[name]
                point[block.start : block.stop] = np.asarray(found[name], dtype=np.float64).ravel()
        self._check(given, point)
        return point

    def _check(self, given: Mapping[str, np.ndarray], point: np.ndarray) -> None:
        if not given:
            return
        back = self._constrained(point)
        for name, value in given.items():
            block = self._blocks[name]
            inside = np.isfinite(point[block.start : block.stop]).all()
            if not (inside and np.allclose(back[name], value, rtol=TOLERANCE, atol=TOLERANCE)):
                raise ValueError(
                    f"the value of {name!r} is outside the support of its distribution, "
                    f"{self._latent[name].distribution}"
                )

    def _not_latent(self, name: str) -> str:
        kinds = (
            ([site.name for site in self._sites.observed], "is observed"),
            (self._sites.deterministic, "is deterministic, and follows from the latent variables"),
        )
        for names, what in kinds:
            if name in names:
                return f"{name!r} {what}; only latent variables have a start: {', '.join(map(repr, self._blocks))}"
        return unknown_name(name, [*self._blocks, *self._by_value_name], "latent variable")

    def random_point(self, strategy: Any, seed: Sequence[int]) -> np.ndarray:
        """Draw a start by a strategy of ``from_numpyro``."""
        word = np.random.SeedSequence(list(seed)).generate_state(1, np.uint32)[0]
        with precision(self._dtype):
            found = self._prior(strategy)(word)
            parts = [np.asarray(found[name], dtype=np.float64).ravel() for name in self._blocks]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _constrained(self, point: np.ndarray) -> dict[str, np.ndarray]:
        with precision(self._dtype):
            found = self._constrain(point.astype(self._dtype))
            return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}

    def _unconstrained(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with precision(self._dtype):
            arrays = {name: np.asarray(value, dtype=self._dtype) for name, value in values.items()}
            found: dict[str, np.ndarray] = self._transform(arrays)
            return found

    @functools.cached_property
    def _constrain(self) -> Callable[[Any], dict[str, Any]]:
        import jax
        from numpyro.infer.util import constrain_fn

        blocks = list(self._blocks.values())

        def constrain(point: Any) -> dict[str, Any]:
            parts = zip(blocks, split_point(point, blocks), strict=True)
            found: dict[str, Any] = constrain_fn(*self._call, {block.name: part for block, part in parts})
            return found

        return self._compiled(constrain, jax.ShapeDtypeStruct((self._n_dim,), self._dtype))

    @functools.cached_property
    def _transform(self) -> Callable[[Any], dict[str, Any]]:
        import jax
        from numpyro import handlers

        model, args, kwargs = self._call

        def transform(values: dict[str, Any]) -> dict[str, Any]:
            trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)
            return self._inverted(trace)

        shapes = {site.name: jax.ShapeDtypeStruct(site.shape, self._dtype) for site in self._sites.latent}
        return self._compiled(transform, shapes)

    @functools.cache  # noqa: B019 (as many as there are models)
    def _prior(self, strategy: Any) -> Callable[[Any], dict[str, Any]]:
        import jax
        from numpyro import handlers, infer

        model, args, kwargs = self._call
        rule = infer.init_to_median if strategy == "median" else strategy

        def draw(word: Any) -> dict[str, Any]:
            seeded = handlers.seed(model, jax.random.key(word))
            if rule != "prior":
                seeded = handlers.substitute(seeded, substitute_fn=rule if _is_bound(rule) else rule())
            return self._inverted(handlers.trace(seeded).get_trace(*args, **kwargs))

        return self._compiled(draw, jax.ShapeDtypeStruct((), np.uint32))

    def _compiled(self, function: Callable[[Any], Any], argument: Any) -> Callable[[Any], dict[str, Any]]:
        import jax

        traced, constants = trace(function, self._dtype, argument)
        compiled = jax.jit(traced)
        return lambda given: compiled(constants, given)

    def _inverted(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        from numpyro.distributions import biject_to

        return {name: biject_to(trace[name]["fn"].support).inv(trace[name]["value"]) for name in self._blocks}


def _is_bound(rule: Any) -> bool:
    """Whether a strategy of NumPyro has its arguments already: these are functions that return a `partial`."""
    return isinstance(rule, functools.partial)
