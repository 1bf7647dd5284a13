"""Where chains start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel, Density

__all__ = ["starting_points"]

#: Random starts that are tried for each chain before giving up.
START_TRIES = 100


def starting_points(model: CompiledModel, density: Density, init: Any, seed: int, chains: int) -> np.ndarray:
    """Return initial points of all chains, of shape (chains, n_dim), each with a finite log density and gradient."""
    if init is None:
        return np.stack([_random_start(model, density, seed, chain) for chain in range(chains)])
    starts = np.array(init, dtype=np.float64)
    if starts.shape not in ((model.n_dim,), (chains, model.n_dim)):
        raise ValueError(
            f"init must have shape ({model.n_dim},) or ({chains}, {model.n_dim}), not {starts.shape}: "
            "one number for each unconstrained parameter"
        )
    starts = np.ascontiguousarray(np.broadcast_to(starts, (chains, model.n_dim)))
    for chain, start in enumerate(starts):
        if not _is_finite(density, start):
            raise ValueError(_bad_start(model, start, f"chain {chain} cannot start at the given point"))
    return starts


def _random_start(model: CompiledModel, density: Density, seed: int, chain: int) -> np.ndarray:
    point = np.empty(0)
    for attempt in range(START_TRIES):
        point = np.ascontiguousarray(model.initial_point((seed, chain, attempt)), dtype=np.float64)
        if _is_finite(density, point):
            return point
    raise ValueError(_bad_start(model, point, f"no start found for chain {chain} in {START_TRIES} tries"))


def _is_finite(density: Density, point: np.ndarray) -> bool:
    logp, grad = _lib.evaluate(density.address, density.user_data, point)
    return bool(np.isfinite(logp) and np.isfinite(grad).all())


def _bad_start(model: CompiledModel, point: np.ndarray, what: str) -> str:
    explanation = model.explain_point(point) or "the log density or its gradient is not finite there"
    return f"{what}: {explanation}"
