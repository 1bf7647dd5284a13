"""Starts for the chains, from the support points or the priors of a PyMC model."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from nutpie.models._names import unknown_name
from nutpie.models._pymc_graph import compile_python, data_inputs

__all__ = ["InitialPoints"]

STRATEGIES = ("support_point", "prior")


class InitialPoints:
    """Unconstrained starting values of the free variables.

    The graph is interpreted by Python, since it runs a handful of times only. Jitter is added by NumPy, so that starts
    which are fixed but for the jitter evaluate the graph once.

    Parameters
    ----------
    model
        The PyMC model.
    names
        Free variables, in the order of the unconstrained parameters.
    overrides
        Values on the constrained scale, or strategies, by name of a variable.
    jitter
        Names of the variables that get U(-1, 1) added.
    default_strategy
        For the variables without a value: ``"support_point"`` or ``"prior"``.
    """

    def __init__(
        self, model: Any, names: Sequence[str], overrides: Mapping[str, Any], jitter: set[str], default_strategy: str
    ) -> None:
        from pymc.initial_point import make_initial_point_expression
        from pymc.pytensorf import find_rng_nodes, replace_rng_nodes

        free = [model[name] for name in names]
        strategies = {**model.rvs_to_initial_values, **_overrides_by_variable(model, names, overrides)}
        expressions = make_initial_point_expression(
            free_rvs=free,
            rvs_to_transforms=model.rvs_to_transforms,
            initval_strategies=strategies,
            default_strategy=default_strategy,
            return_transformed=True,
        )
        # The model keeps its own random number generators.
        expressions = replace_rng_nodes(expressions) if expressions else []
        self.shared: list[SharedVariable] = data_inputs(expressions)
        self._function = compile_python([], expressions, self.shared)
        self._rngs = find_rng_nodes(self._function.maker.fgraph.outputs)
        self._names = list(names)
        self._jitter = frozenset(jitter)
        self._lock = threading.Lock()

    def values(self, data: Sequence[np.ndarray], seed: Sequence[int]) -> list[np.ndarray]:
        """Unconstrained value of each free variable, without jitter."""
        from pymc.pytensorf import reseed_rngs

        with self._lock:
            if self._rngs:
                reseed_rngs(self._rngs, np.random.SeedSequence(list(seed)).generate_state(4).tolist())
            return [np.asarray(value, dtype=np.float64) for value in self._function(*data)]

    @property
    def is_random(self) -> bool:
        """Whether the point depends on the seed even without jitter."""
        return bool(self._rngs)

    def jittered(self, values: Sequence[np.ndarray], seed: Sequence[int]) -> np.ndarray:
        """One flat vector, with jitter where it was asked for."""
        rng = np.random.default_rng(list(seed))
        parts = []
        for name, value in zip(self._names, values, strict=True):
            # Drawn for each variable, so that the set of jittered ones does not change the jitter of the others.
            noise = rng.uniform(-1.0, 1.0, size=value.shape)
            parts.append((value + noise if name in self._jitter else value).ravel())
        return np.concatenate(parts) if parts else np.zeros(0)


def _overrides_by_variable(model: Any, names: Sequence[str], overrides: Mapping[str, Any]) -> dict[Any, Any]:
    """Key the starts by random variable, and bring those of value variables to the constrained scale."""
    by_value_name = {model.rvs_to_values[model[name]].name: name for name in names}
    found: dict[Any, Any] = {}
    for key, value in overrides.items():
        name = key if isinstance(key, str) else getattr(key, "name", None)
        if isinstance(value, str) and value not in STRATEGIES:
            raise ValueError(f"initial point of {name!r}: {value!r} is none of {', '.join(map(repr, STRATEGIES))}")
        if name in names:
            found[model[name]] = value
        elif name in by_value_name:
            variable = model[by_value_name[name]]
            transform = model.rvs_to_transforms[variable]
            found[variable] = transform.backward(value, *variable.owner.inputs) if transform is not None else value
        else:
            raise ValueError("initial_points: " + unknown_name(str(name), [*names, *by_value_name], "free variable"))
    return found
