"""Groups of the result that have chains and draws: arrays that are filled from blocks of draws.

A block is freed when all groups have taken what they need of it, so that the draws and the result together take hardly
more memory than the result. That is why a draw whose variables cannot be computed goes elsewhere at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie._draws import Block, ChainDraws
from nutpie.models.base import Variable

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel

__all__ = ["PARAMETER", "WARMUP", "Source", "draw_groups", "own_dims", "used_coords"]

#: Dimension of vectors on the unconstrained scale; its coordinates are the names of the parameters.
PARAMETER = "unconstrained_parameter"

#: Prefix of the names of groups of the warm-up.
WARMUP = "warmup_"

#: Bytes of the unconstrained draws and of the variables that are computed from them in one go.
CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Source:
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
    copied
        Whether ``of`` computes nothing, so that it is quick and cannot fail.
    instead
        What to keep of draws from which this group cannot be computed.
    """

    group: str
    variables: Sequence[Variable]
    of: Callable[[Block, int, int], Mapping[str, np.ndarray]]
    prefixes: Sequence[str] = ("", WARMUP)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    copied: bool = False
    instead: Source | None = None


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


def draw_groups(
    model: CompiledModel, chains: Sequence[ChainDraws], sources: Sequence[Source], *, save_warmup: bool
) -> tuple[dict[str, Any], BaseException | None]:
    """Make groups from draws.

    Parameters
    ----------
    model
        Gives coordinates.
    chains
        The draws, which are taken out of the lists.
    sources
        What to make of them.
    save_warmup
        Whether to make groups for the warm-up, too.

    Returns
    -------
    groups : dict
        Datasets by name. If one cannot be computed from all draws, it has NaN, or not even a chain, where draws are
        missing; the others are complete.
    error : BaseException or None
        The first exception for which a group is not complete.
    """
    tables = [
        _Table(source, part)
        for part in _parts(chains, save_warmup=save_warmup)
        for source in sources
        if part.prefix in source.prefixes
    ]
    for chain in chains:
        _fill(tables, chain)
    groups = {name: group for table in tables for name, group in table.datasets(model)}
    return groups, next((table.error for table in tables if table.error is not None), None)


def _fill(tables: Sequence[_Table], chain: ChainDraws) -> None:
    at = 0
    while chain.blocks:
        block = chain.blocks.pop(0)
        for table in tables:
            table.fill(chain.chain, at, block)
            if table.error is not None and not isinstance(table.error, Exception):
                # An interrupt: whoever it comes from does not want to wait for the rest.
                for other in tables:
                    other.give_up(table.error)
        at += len(block)


def _parts(chains: Sequence[ChainDraws], *, save_warmup: bool) -> list[_Part]:
    ends = {c.chain: c.n_draws for c in chains}
    warmup = {c.chain: c.warmup for c in chains}
    parts = [_rectangle("", warmup, ends)]
    if save_warmup:
        # Of chains that warmed up by themselves some may have needed longer. None is left out because of that.
        shortest = min((c.tune for c in chains), default=0)
        common = max((c.warmup for c in chains if c.tune == shortest), default=0)
        ends = {chain: min(end, common) for chain, end in warmup.items()}
        parts.append(_rectangle(WARMUP, dict.fromkeys(warmup, 0), ends))
    return parts


def _rectangle(prefix: str, first: Mapping[int, int], end: Mapping[int, int]) -> _Part:
    """Cut the chains of an interrupted run to one length, such that the most draws remain.

    A chain that had hardly begun is left out rather than the others cut down to its length.
    """
    lengths = {chain: end[chain] - first[chain] for chain in first}
    best = max(lengths.values(), key=lambda n: n * sum(m >= n for m in lengths.values()), default=0)
    return _Part(prefix, {chain: first[chain] for chain, n in lengths.items() if n >= best}, best)


class _Table:
    """The arrays of a group while they are filled.

    Attributes
    ----------
    error : BaseException or None
        Why the group is not complete. From then on draws go to the group that takes its place, if there is one.
    """

    def __init__(self, source: Source, part: _Part) -> None:
        self.error: BaseException | None = None
        self._source = source
        self._part = part
        self._instead = None if source.instead is None else _Table(source.instead, part)
        self._rows = {chain: row for row, chain in enumerate(part.first)}
        shape = (len(part.first), part.length)
        # Pages of memory are taken when they are written to, so that this costs nothing yet.
        self._values = {v.name: np.empty((*shape, *v.shape), v.dtype) for v in source.variables}
        self._filled = np.zeros(shape, bool)

    def fill(self, chain: int, at: int, block: Block) -> None:
        """Take what belongs to this group from a block which starts at draw ``at`` of its chain."""
        if self.error is None:
            try:
                self._take(chain, at, block)
            except BaseException as error:
                self.error = error
        if self.error is not None and self._instead is not None:
            self._instead.fill(chain, at, block)

    def give_up(self, error: BaseException) -> None:
        """Compute nothing more."""
        if not self._source.copied:
            self.error = self.error or error

    def _take(self, chain: int, at: int, block: Block) -> None:
        if chain not in self._rows:
            return
        row = self._rows[chain]
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
                values[row, low - offset : high - offset] = found[name]
            self._filled[row, low - offset : high - offset] = True

    def datasets(self, model: CompiledModel) -> Iterable[tuple[str, Any]]:
        """Return the group with its name, and that which took its place from some draw on."""
        if self._filled.all() or self._filled.any():
            yield self._part.prefix + self._source.group, self._dataset(model)
        if self.error is not None and self._instead is not None:
            yield from self._instead.datasets(model)

    def _dataset(self, model: CompiledModel) -> Any:
        import xarray as xr

        rows, draws, arrays = self._there()
        variables: dict[str, Any] = {
            v.name: (("chain", "draw", *own_dims(v.name, v.shape, v.dims)), arrays[v.name])
            for v in self._source.variables
        }
        chains = np.array(list(self._rows), dtype=np.int64)[rows]
        coords = {"chain": chains, "draw": np.arange(self._part.length)[draws]} | used_coords(model, variables)
        for name, text in self._source.descriptions.items():
            variables[name] = (*variables[name], {"description": text})
        for alias, name in self._source.aliases.items():
            variables[alias] = variables[name]
        return xr.Dataset(variables, coords=coords)

    def _there(self) -> tuple[slice, slice, Mapping[str, np.ndarray]]:
        """Return the range of chains, that of draws, and the arrays, without chains and draws that were not filled.

        Memory that was not touched so far is not to be, so NaN are written only where some of a range are missing.
        """
        if self._filled.all():
            return slice(None), slice(None), self._values
        there = [np.flatnonzero(self._filled.any(axis=axis)) for axis in (1, 0)]
        rows, draws = (slice(int(indices[0]), int(indices[-1]) + 1) for indices in there)
        missing = ~self._filled[rows, draws]
        return rows, draws, {n: _masked(values[rows, draws], missing) for n, values in self._values.items()}


def _masked(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Put NaN where draws are missing; whole numbers, among which there is none, become real ones."""
    if values.dtype.kind not in "fc":
        values = values.astype(np.float64)
    values[missing] = np.nan
    return values


def own_dims(name: str, shape: Sequence[int], dims: Sequence[str]) -> tuple[str, ...]:
    """Return names of the dimensions of a variable: those given, or made from its name."""
    return tuple(dims) or tuple(f"{name}_dim_{i}" for i in range(len(shape)))


def used_coords(model: CompiledModel, variables: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> dict[str, Any]:
    """Return coordinates of all dimensions: the model's where it has some, numbers elsewhere."""
    coords: dict[str, Any] = {}
    for dims, values in variables.values():
        for dim, length in zip(dims, values.shape, strict=True):
            if dim in ("chain", "draw"):
                continue
            given = model.unconstrained_names if dim == PARAMETER else model.coords.get(dim)
            coords[dim] = np.arange(length) if given is None else np.asarray(given)
    return coords
