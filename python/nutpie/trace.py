"""From the numbers of a run to an ArviZ object."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib
from nutpie._messages import Failures
from nutpie.models.base import DrawContext, Variable

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel, PointwiseDensity

__all__ = ["Block", "ChainDraws", "RunInfo", "build_result"]

#: Names under which ArviZ looks for statistics, beside the sampler's own.
ALIASES = {
    "acceptance_rate": "mean_tree_accept",
    "tree_depth": "depth",
    "reached_max_treedepth": "maxdepth_reached",
    "lp": "logp",
}

#: Dimension of vectors on the unconstrained scale; its coordinates are the names of the parameters.
PARAMETER = "unconstrained_parameter"

#: Statistics that are vectors, by what the core is told to keep: name, attribute of `Block`, and what it is.
VECTOR_STATISTICS = {
    "gradient": ("gradient", "gradients", "Gradient of the unconstrained log density at the draw."),
    "metric": ("mass_matrix_inv", "metrics", "Diagonal of the inverse mass matrix after the draw."),
}

#: Vectors of the group `divergences`, in the order in which the core gives them.
DIVERGENCE_POINTS = {
    "start": "Position where the step that diverged started.",
    "momentum": "Momentum where the step that diverged started.",
    "gradient": "Gradient of the log density where the step that diverged started.",
    "end": "Position where the step that diverged ended.",
}

#: Prefix of the names of groups of the warm-up.
WARMUP = "warmup_"

#: Bytes of the unconstrained draws and of the variables that are computed from them in one go.
CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Block:
    """Consecutive draws of one chain.

    Parameters
    ----------
    positions
        Unconstrained draws, of shape (draws, n_dim).
    stats
        Statistics, of shape (draws, n_statistics), in the order of `nutpie._lib.statistics`.
    gradients
        Gradients of the unconstrained log density, of shape (draws, n_dim), if they were kept.
    metrics
        Diagonals of the inverse mass matrix, of shape (draws, n_dim), if they were kept.
    """

    positions: np.ndarray
    stats: np.ndarray
    gradients: np.ndarray | None = None
    metrics: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.stats)

    def part(self, low: int, high: int) -> Block:
        """Return some of the draws."""
        arrays = (self.positions, self.stats, self.gradients, self.metrics)
        return Block(*(None if array is None else array[low:high] for array in arrays))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ChainDraws:
    """The draws of one chain.

    Parameters
    ----------
    chain
        Index of the chain.
    warmup
        How many of the draws, from the first on, belong to the warm-up.
    blocks
        The draws in order. `build_result` takes them out of the list one by one, so that no more than a block is in
        memory twice.
    n_gradients
        Gradients taken, also by searches for a step size.
    divergences
        (index of the draw, whether it belongs to the warm-up, energy, energy error, points) of each divergence; the
        points are position, momentum and gradient before the step that diverged and the position after it, empty if
        they were not kept.
    """

    chain: int
    warmup: int
    blocks: list[Block]
    n_gradients: int
    divergences: Sequence[tuple[int, bool, float, float, Sequence[np.ndarray]]] = ()

    @classmethod
    def from_core(cls, chain: int, trace: dict[str, Any], n_dim: int) -> ChainDraws:
        """Take the arrays out of what `nutpie._lib.sample` gives for a chain."""
        columns = (n_dim, len(_lib.statistics()), n_dim, n_dim)
        blocks, parts = [], trace.pop("blocks")
        # One by one out of the list, so that nothing else refers to the arrays.
        for draws, arrays in (parts.pop(0) for _ in range(len(parts))):
            rows: list[Any] = [
                a.reshape(draws, n) if a.size == draws * n else None for a, n in zip(arrays, columns, strict=True)
            ]
            blocks.append(Block(*rows))
        return cls(chain, trace["warmup"], blocks, trace["n_gradients"], trace["divergences"])

    @property
    def n_draws(self) -> int:
        """Draws that are still in ``blocks``."""
        return sum(map(len, self.blocks))

    def without(self, taken: int) -> ChainDraws:
        """Return the chain as if the draws that were taken out of ``blocks`` had not been made."""
        return dataclasses.replace(self, warmup=max(self.warmup - taken, 0))


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run besides its draws."""

    seed: int
    tune: int
    draws: int
    settings: Mapping[str, Any]
    keep: Mapping[str, int | bool]
    seconds: float
    starts: np.ndarray
    messages: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class _Source:
    """Where a group of the result comes from.

    Parameters
    ----------
    group
        Name of the group, without the prefix of the warm-up.
    variables
        What it holds.
    of
        From some draws of a block, their chain and the number of the first of them in the group to an array for each of
        ``variables``.
    prefixes
        Of the groups of this name that there are: the empty one, and that of the warm-up.
    descriptions
        Attribute ``description`` by variable.
    aliases
        Further names of variables: new name to the name among ``variables``.
    """

    group: str
    variables: Sequence[Variable]
    of: Callable[[Block, int, int], Mapping[str, np.ndarray]]
    prefixes: Sequence[str] = ("", WARMUP)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """The draws that a group holds: a range of the same length from several chains.

    Parameters
    ----------
    prefix
        Of the names of its groups.
    first
        First draw of the range, by chain.
    length
        Draws of each chain.
    """

    prefix: str
    first: Mapping[int, int]
    length: int


def build_result(
    model: CompiledModel,
    chains: Sequence[ChainDraws],
    info: RunInfo,
    pointwise: Mapping[str, PointwiseDensity] | None = None,
) -> Any:
    """Build the result of a run.

    Parameters
    ----------
    model
        Gives the variables, their coordinates and the data.
    chains
        The draws, which this function takes out of the lists: afterwards they are empty.
    info
        What goes into the attributes.
    pointwise
        Terms of the log density by group, as from `CompiledModel.pointwise`; computed for the draws after warm-up.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The first with ArviZ 0.x, the second with later ones.

    Raises
    ------
    Exception
        What the model raises when variables are computed from draws. Its attribute ``partial_trace`` has the draws on
        the unconstrained scale.
    """
    attrs = _attributes(chains, info) | model.attributes()
    divergences = _divergences(model, chains, info)
    made = [chain.n_draws for chain in chains]
    failures = Failures()
    try:
        groups = _draw_groups(model, chains, info, _sources(model, info, pointwise or {}, failures))
        groups["initial_points"] = _initial_points(model, info, failures)
    except Exception as error:
        left = [c.without(n - c.n_draws) for c, n in zip(chains, made, strict=True)]
        plain = _draw_groups(model, left, info, [_statistics_source(model, info), _unconstrained_source(model)])
        with contextlib.suppress(AttributeError, TypeError):
            error.partial_trace = _assemble(plain)  # type: ignore[attr-defined]
        error.add_note(
            "nutpie: the model could not compute its variables from the draws, which are, on the unconstrained scale, "
            "in the attribute `partial_trace` of this exception"
        )
        raise
    groups = {name: group.assign_attrs(attrs) for name, group in groups.items()}
    if divergences is not None:
        groups["divergences"] = divergences.assign_attrs(attrs)
    if info.messages or failures:
        groups["messages"] = failures.table(info.messages).assign_attrs(attrs)
        failures.warn()
    for name, arrays in model.data_groups().items():
        if arrays:
            groups[name] = _data_group(model, arrays).assign_attrs(attrs)
    return _assemble(groups)


def _draw_groups(
    model: CompiledModel, chains: Sequence[ChainDraws], info: RunInfo, sources: Sequence[_Source]
) -> dict[str, Any]:
    tables = [
        _Table(source, part)
        for part in _parts(chains, save_warmup=bool(info.keep["warmup"]))
        for source in sources
        if part.prefix in source.prefixes
    ]
    for chain in chains:
        _fill(tables, chain)
    return {table.name: table.dataset(model) for table in tables}


def _sources(
    model: CompiledModel, info: RunInfo, pointwise: Mapping[str, PointwiseDensity], failures: Failures
) -> list[_Source]:
    """List the groups that are computed from draws. A further column of the store is a variable of one of them."""
    sources = [
        _expanded_source(model, info, failures, ""),
        _expanded_source(model, info, failures, WARMUP),
        _statistics_source(model, info),
        *(_pointwise_source(group, density) for group, density in pointwise.items()),
    ]
    if info.keep.get("unconstrained"):
        sources.append(_unconstrained_source(model))
    return sources


def _expanded_source(model: CompiledModel, info: RunInfo, failures: Failures, prefix: str) -> _Source:
    """Return the variables of the model; messages of what could not be computed go to ``failures``."""
    thin = int(info.keep.get("thin", 1))

    def expand(block: Block, chain: int, first: int) -> Mapping[str, np.ndarray]:
        numbers = thin * np.arange(first, first + len(block))
        context = DrawContext(info.seed, chain, numbers, prefix == WARMUP, failures.report)
        return model.expand_draws(block.positions, context)

    variables = model.warmup_variables if prefix == WARMUP else model.variables
    return _Source("posterior", variables, expand, prefixes=(prefix,))


def _unconstrained_source(model: CompiledModel) -> _Source:
    variables = model.unconstrained_variables
    return _Source("unconstrained_posterior", variables, lambda block, *_: _split(block.positions, variables))


def _statistics_source(model: CompiledModel, info: RunInfo) -> _Source:
    statistics = _lib.statistics()
    variables = [Variable(name, (), np.dtype(dtype)) for name, dtype, _ in statistics]
    descriptions = {name: doc for name, _, doc in statistics}
    for kept, (name, _, doc) in VECTOR_STATISTICS.items():
        if info.keep.get(kept):
            variables.append(Variable(name, (model.n_dim,), np.dtype(np.float64), (PARAMETER,)))
            descriptions[name] = doc

    def values(block: Block, *_: int) -> dict[str, np.ndarray]:
        found = {name: block.stats[:, column] for column, (name, _, _) in enumerate(statistics)}
        return found | {name: getattr(block, field) for name, field, _ in VECTOR_STATISTICS.values()}

    return _Source("sample_stats", variables, values, descriptions=descriptions, aliases=ALIASES)


def _split(positions: np.ndarray, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
    """Cut unconstrained points into the variables whose values lie one after the other in them."""
    found, start = {}, 0
    for v in variables:
        stop = start + math.prod(v.shape)
        found[v.name] = positions[:, start:stop].reshape(len(positions), *v.shape)
        start = stop
    return found


def _pointwise_source(group: str, density: PointwiseDensity) -> _Source:
    return _Source(group, density.variables, lambda block, *_: density.compute(block.positions), prefixes=("",))


def _parts(chains: Sequence[ChainDraws], *, save_warmup: bool) -> list[_Part]:
    ends = {c.chain: c.n_draws for c in chains}
    warmup = {c.chain: c.warmup for c in chains}
    parts = [_rectangle("", warmup, ends)]
    if save_warmup:
        parts.append(_rectangle(WARMUP, dict.fromkeys(warmup, 0), warmup))
    return parts


def _rectangle(prefix: str, first: Mapping[int, int], end: Mapping[int, int]) -> _Part:
    """Cut the chains of an interrupted run to one length, such that the most draws remain.

    A chain that had hardly begun is left out rather than the others cut down to its length.
    """
    lengths = {chain: end[chain] - first[chain] for chain in first}
    best = max(lengths.values(), key=lambda n: n * sum(m >= n for m in lengths.values()), default=0)
    return _Part(prefix, {chain: first[chain] for chain, n in lengths.items() if n >= best}, best)


class _Table:
    """The arrays of a group while they are filled."""

    def __init__(self, source: _Source, part: _Part) -> None:
        self._source = source
        self._part = part
        self._rows = {chain: row for row, chain in enumerate(part.first)}
        shape = (len(part.first), part.length)
        # Pages of memory are taken when they are written to, so that this costs nothing yet.
        self._values = {v.name: np.empty((*shape, *v.shape), v.dtype) for v in source.variables}

    @property
    def name(self) -> str:
        return self._part.prefix + self._source.group

    def fill(self, chain: int, at: int, block: Block) -> None:
        """Take what belongs to this group from a block which starts at draw ``at`` of its chain."""
        if chain not in self._rows:
            return
        offset = self._part.first[chain] - at
        start, stop = max(offset, 0), min(offset + self._part.length, len(block))
        draw_bytes = 8 * block.positions.shape[1] + sum(
            v.dtype.itemsize * math.prod(v.shape) for v in self._source.variables
        )
        step = max(1, CHUNK_BYTES // max(draw_bytes, 1))
        for low in range(start, stop, step):
            high = min(low + step, stop)
            found = self._source.of(block.part(low, high), chain, low - offset)
            for name, values in self._values.items():
                values[self._rows[chain], low - offset : high - offset] = found[name]

    def dataset(self, model: CompiledModel) -> Any:
        import xarray as xr

        variables: dict[str, Any] = {
            v.name: (("chain", "draw", *_dims(v.name, v.shape, v.dims)), self._values[v.name])
            for v in self._source.variables
        }
        coords = {"chain": np.array(list(self._rows), dtype=np.int64), "draw": np.arange(self._part.length)}
        coords |= _used_coords(model, variables)
        for name, text in self._source.descriptions.items():
            variables[name] = (*variables[name], {"description": text})
        for alias, name in self._source.aliases.items():
            variables[alias] = variables[name]
        return xr.Dataset(variables, coords=coords)


def _fill(tables: Sequence[_Table], chain: ChainDraws) -> None:
    at = 0
    while chain.blocks:
        block = chain.blocks[0]
        for table in tables:
            table.fill(chain.chain, at, block)
        at += len(block)
        # Not before: the model may have raised an exception.
        del chain.blocks[0], block


def _dims(name: str, shape: Sequence[int], dims: Sequence[str]) -> tuple[str, ...]:
    return tuple(dims) or tuple(f"{name}_dim_{i}" for i in range(len(shape)))


def _used_coords(model: CompiledModel, variables: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> dict[str, Any]:
    """Return coordinates of all dimensions: the model's where it has some, numbers elsewhere."""
    coords: dict[str, Any] = {}
    for dims, values in variables.values():
        for dim, length in zip(dims, values.shape, strict=True):
            if dim in ("chain", "draw"):
                continue
            given = model.unconstrained_names if dim == PARAMETER else model.coords.get(dim)
            coords[dim] = np.arange(length) if given is None else np.asarray(given)
    return coords


def _divergences(model: CompiledModel, chains: Sequence[ChainDraws], info: RunInfo) -> Any | None:
    """Return a table of all divergences, of draws that are not kept too; None if there were none."""
    import xarray as xr

    rows = [(c.chain, *row) for c in chains for row in c.divergences]
    if not rows:
        return None
    chain, draw, tuning, energy, error, points = zip(*rows, strict=True)
    tuned = np.array(tuning)
    columns = {
        "chain": (np.array(chain, dtype=np.int64), "Index of the chain."),
        "draw": (np.array(draw) - np.where(tuned, 0, info.tune), "Index of the draw within the warm-up or after it."),
        "tuning": (tuned, "Whether the draw belongs to the warm-up."),
        "energy": (np.array(energy), "Energy where the step that diverged ended."),
        "energy_error": (np.array(error), "That less the energy at the start of the trajectory."),
        "message": (np.array([_divergence_message(e) for e in error]), "What made the step a divergence."),
    }
    variables: dict[str, Any] = {n: (("divergence",), v, {"description": doc}) for n, (v, doc) in columns.items()}
    if info.keep.get("divergences"):
        for index, (name, doc) in enumerate(DIVERGENCE_POINTS.items()):
            vectors = np.stack([p[index] for p in points])
            variables[name] = (("divergence", PARAMETER), vectors, {"description": doc})
    coords = {"divergence": np.arange(len(rows))}
    if info.keep.get("divergences"):
        coords[PARAMETER] = np.asarray(model.unconstrained_names)
    return xr.Dataset(variables, coords=coords)


def _divergence_message(energy_error: float) -> str:
    if np.isfinite(energy_error):
        return f"the energy rose by {energy_error:.4g}, more than max_energy_error"
    return "the log density, its gradient or the position was not finite, or the model reported a recoverable error"


def _initial_points(model: CompiledModel, info: RunInfo, failures: Failures) -> Any:
    """Return where the chains started: the variables of the posterior, and the unconstrained point."""
    import xarray as xr

    numbers = np.arange(len(info.starts))
    values = model.expand_draws(info.starts, DrawContext(info.seed, 0, numbers, warmup=True, report=failures.report))
    variables: dict[str, Any] = {
        v.name: (("chain", *_dims(v.name, v.shape, v.dims)), values[v.name]) for v in model.warmup_variables
    }
    # Not under its bare name if the model has a variable of that name.
    name = "unconstrained" if "unconstrained" not in values else "unconstrained__"
    variables[name] = (("chain", PARAMETER), info.starts)
    return xr.Dataset(variables, coords={"chain": np.arange(len(info.starts))} | _used_coords(model, variables))


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
    settings["thin"] = info.keep.get("thin", 1)
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
