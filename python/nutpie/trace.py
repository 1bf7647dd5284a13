"""From the numbers of a run to an ArviZ object."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel

__all__ = ["ChainDraws", "RunInfo", "build_result"]

#: Names under which ArviZ looks for statistics, beside the sampler's own.
ALIASES = {
    "acceptance_rate": "mean_tree_accept",
    "tree_depth": "depth",
    "reached_max_treedepth": "maxdepth_reached",
    "lp": "logp",
}

#: Unconstrained draws that are expanded in one go.
EXPAND_CHUNK = 1000


@dataclass(frozen=True)
class ChainDraws:
    """The draws of one chain.

    Parameters
    ----------
    chain
        Index of the chain.
    warmup
        How many of the draws, from the first on, belong to the warm-up.
    positions
        Unconstrained draws, of shape (draws, n_dim).
    stats
        Statistics, of shape (draws, n_statistics), in the order of `nutpie._lib.statistics`.
    n_gradients
        Gradients taken, also by searches for a step size.
    """

    chain: int
    warmup: int
    positions: np.ndarray
    stats: np.ndarray
    n_gradients: int


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run besides its draws."""

    seed: int
    tune: int
    draws: int
    settings: Mapping[str, Any]
    seconds: float
    save_warmup: bool


@dataclass(frozen=True)
class _Part:
    """The same slice of several chains: all of one length."""

    chains: list[int]
    positions: list[np.ndarray]
    stats: list[np.ndarray]

    @property
    def length(self) -> int:
        return len(self.positions[0]) if self.positions else 0


def build_result(model: CompiledModel, chains: Sequence[ChainDraws], info: RunInfo) -> Any:
    """Build the result of a run.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The first with ArviZ 0.x, the second with later ones.
    """
    parts = {"": _rectangle(chains, [c.positions[c.warmup :] for c in chains], [c.stats[c.warmup :] for c in chains])}
    if info.save_warmup:
        warmup = [c.warmup for c in chains]
        parts["warmup_"] = _rectangle(
            chains,
            [c.positions[:w] for c, w in zip(chains, warmup, strict=True)],
            [c.stats[:w] for c, w in zip(chains, warmup, strict=True)],
        )
    attrs = _attributes(chains, info)
    groups: dict[str, Any] = {}
    for prefix, part in parts.items():
        groups[f"{prefix}posterior"] = _posterior(model, part).assign_attrs(attrs)
        groups[f"{prefix}sample_stats"] = _sample_stats(part).assign_attrs(attrs)
    for name, arrays in model.data_groups().items():
        if arrays:
            groups[name] = _data_group(model, arrays).assign_attrs(attrs)
    return _assemble(groups)


def _rectangle(chains: Sequence[ChainDraws], positions: list[np.ndarray], stats: list[np.ndarray]) -> _Part:
    """Cut the chains of an interrupted run to one length, such that the most draws remain.

    A chain that had hardly begun is left out rather than the others cut down to its length.
    """
    lengths = [len(p) for p in positions]
    best = max(lengths, key=lambda n: n * sum(m >= n for m in lengths), default=0)
    kept = [i for i, n in enumerate(lengths) if n >= best]
    return _Part([chains[i].chain for i in kept], [positions[i][:best] for i in kept], [stats[i][:best] for i in kept])


def _index_coords(part: _Part) -> dict[str, np.ndarray]:
    return {"chain": np.asarray(part.chains, dtype=np.int64), "draw": np.arange(part.length)}


def _posterior(model: CompiledModel, part: _Part) -> Any:
    import xarray as xr

    values = {v.name: np.empty((len(part.chains), part.length, *v.shape), dtype=v.dtype) for v in model.variables}
    for chain, positions in enumerate(part.positions):
        for start in range(0, part.length, EXPAND_CHUNK):
            chunk = slice(start, min(start + EXPAND_CHUNK, part.length))
            for name, array in model.expand(positions[chunk]).items():
                values[name][chain, chunk] = array
    variables = {v.name: (("chain", "draw", *_dims(v.name, v.shape, v.dims)), values[v.name]) for v in model.variables}
    coords = _index_coords(part) | _used_coords(model, variables)
    return xr.Dataset(variables, coords=coords)


def _dims(name: str, shape: Sequence[int], dims: Sequence[str]) -> tuple[str, ...]:
    return tuple(dims) or tuple(f"{name}_dim_{i}" for i in range(len(shape)))


def _used_coords(model: CompiledModel, variables: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> dict[str, Any]:
    """Return coordinates of all dimensions: the model's where it has some, numbers elsewhere."""
    coords: dict[str, Any] = {}
    for dims, values in variables.values():
        for dim, length in zip(dims, values.shape, strict=True):
            if dim in ("chain", "draw"):
                continue
            given = model.coords.get(dim)
            coords[dim] = np.arange(length) if given is None else np.asarray(given)
    return coords


def _sample_stats(part: _Part) -> Any:
    import xarray as xr

    variables: dict[str, Any] = {}
    stacked = np.stack(part.stats) if part.stats else np.empty((0, 0, len(_lib.statistics())))
    for column, (name, dtype, doc) in enumerate(_lib.statistics()):
        values = stacked[:, :, column].astype(dtype)
        variables[name] = (("chain", "draw"), values, {"description": doc})
    for alias, name in ALIASES.items():
        variables[alias] = variables[name]
    return xr.Dataset(variables, coords=_index_coords(part))


def _data_group(model: CompiledModel, arrays: Mapping[str, np.ndarray]) -> Any:
    import xarray as xr

    known = model.data_dims()
    variables = {
        name: (_dims(name, np.shape(values), known.get(name, ())), np.asarray(values))
        for name, values in arrays.items()
    }
    return xr.Dataset(variables, coords=_used_coords(model, variables))


def _attributes(chains: Sequence[ChainDraws], info: RunInfo) -> dict[str, Any]:
    settings = {"num_tune": info.tune, "num_draws": info.draws, "num_chains": len(chains), "seed": info.seed}
    description = {"sampler": "nuts", "adaptation": "diag", "settings": {**settings, **info.settings}}
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "arviz_version": importlib.metadata.version("arviz"),
        "inference_library": "nutpie",
        "inference_library_version": _lib.__version__,
        "inference_library_settings": json.dumps(description),
        "sampling_time": info.seconds,
        "tuning_steps": info.tune,
        "n_gradients": sum(c.n_gradients for c in chains),
    }


def _assemble(groups: dict[str, Any]) -> Any:
    import arviz

    # Not `hasattr`: ArviZ 1 has no class of this name, but answers to it with xarray's DataTree and a warning.
    if "InferenceData" in vars(arviz):
        from nutpie._inference_data import InferenceData

        return InferenceData(**groups)
    import xarray as xr

    return xr.DataTree.from_dict(groups)
