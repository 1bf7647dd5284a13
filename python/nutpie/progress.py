"""Progress of a run, shown while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ChainProgress", "ProgressBar"]


@dataclass(frozen=True)
class ChainProgress:
    """How far one chain is.

    Parameters
    ----------
    finished_draws
        Finished draws, warm-up included.
    total_draws
        All draws that it is to make, warm-up included.
    divergences
        Number of divergent draws after warm-up.
    divergent_draws
        Indices of all divergent draws, warm-up included.
    tuning
        Whether the latest draw belongs to the warm-up.
    started
        Whether it has begun.
    latest_num_steps
        Leapfrog steps of the latest draw, each with one gradient.
    total_num_steps
        Leapfrog steps so far.
    step_size
        Step size of the latest draw.
    runtime_ms
        Milliseconds since it began, or that it took.
    """

    finished_draws: int
    total_draws: int
    divergences: int
    divergent_draws: Sequence[int]
    tuning: bool
    started: bool
    latest_num_steps: int
    total_num_steps: int
    step_size: float
    runtime_ms: int

    @property
    def num_steps(self) -> int:
        """Another name of ``latest_num_steps``."""
        return self.latest_num_steps

    @classmethod
    def from_core(cls, values: Mapping[str, Any], total_draws: int) -> ChainProgress:
        """Take what `nutpie._lib.Control.progress` says of a chain."""
        return cls(total_draws=total_draws, **values)


class ProgressBar:
    """One bar for all chains: draws, speed, divergences, step size and gradients per draw.

    Parameters
    ----------
    chains
        Number of chains.
    draws_per_chain
        Draws of each, warm-up included.
    enabled
        Whether to show anything.
    """

    def __init__(self, chains: int, draws_per_chain: int, *, enabled: bool) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(
            total=chains * draws_per_chain,
            disable=not enabled,
            desc=f"Sampling {chains} chain{'s' if chains > 1 else ''}",
            unit="draw",
            dynamic_ncols=True,
            mininterval=0.2,
        )

    def update(self, progress: Sequence[ChainProgress]) -> None:
        """Show the state of the chains."""
        if self._bar.disable:
            return
        finished = sum(p.finished_draws for p in progress)
        if finished:
            self._bar.set_postfix_str(_postfix(progress, finished), refresh=False)
        self._bar.update(finished - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _postfix(progress: Sequence[ChainProgress], finished: int) -> str:
    steps = sum(p.total_num_steps for p in progress)
    running = [p.step_size for p in progress if p.finished_draws]
    low, high = min(running), max(running)
    step = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g}-{high:.2g}"
    return (
        f"divergences {sum(p.divergences for p in progress)}, step size {step}, gradients/draw {steps / finished:.1f}"
    )
