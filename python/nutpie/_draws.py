"""The numbers that the core gives for a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nutpie import _lib

__all__ = ["Block", "ChainDraws"]


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
    start
        Where it started, of shape (n_dim,).
    warmup
        How many of the draws, from the first on, belong to the warm-up.
    blocks
        The draws in order. `nutpie.trace.build_result` takes them out of the list one by one, so that no more than a
        block is in memory twice.
    n_gradients
        Gradients taken, also by searches for a step size.
    divergences
        (index of the draw, whether it belongs to the warm-up, energy, energy error, points) of each divergence; the
        points are position, momentum and gradient before the step that diverged and the position after it, empty if
        they were not kept.
    tune
        Draws of the warm-up, kept or not.
    made
        Draws that the chain has made, warm-up included, kept or not.
    report
        What the core says of the warm-up, once the chain is done.
    """

    chain: int
    start: np.ndarray
    warmup: int
    blocks: list[Block]
    n_gradients: int
    divergences: Sequence[tuple[int, bool, float, float, Sequence[np.ndarray]]] = ()
    tune: int = 0
    made: int = 0
    report: Mapping[str, Any] | None = None

    @classmethod
    def from_core(cls, chain: int, start: np.ndarray, trace: dict[str, Any]) -> ChainDraws:
        """Take the arrays out of what `nutpie._lib.sample` gives for a chain."""
        n_dim = len(start)
        columns = (n_dim, len(_lib.statistics()), n_dim, n_dim)
        blocks, parts = [], trace.pop("blocks")
        # One by one out of the list, so that nothing else refers to the arrays.
        for draws, arrays in (parts.pop(0) for _ in range(len(parts))):
            rows: list[Any] = [
                a.reshape(draws, n) if a.size == draws * n else None for a, n in zip(arrays, columns, strict=True)
            ]
            blocks.append(Block(*rows))
        return cls(
            chain,
            start,
            trace["warmup"],
            blocks,
            trace["n_gradients"],
            trace["divergences"],
            tune=trace["tune"],
            made=trace["made"],
            report=trace.get("warmup_report"),
        )

    @property
    def n_draws(self) -> int:
        """Draws that are still in ``blocks``."""
        return sum(map(len, self.blocks))
