"""What is known of a chain while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ChainProgress"]


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
    total_tune
        All warm-up draws that it is to make. It grows when the warm-up is extended.
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
    total_tune: int = 0

    @property
    def num_steps(self) -> int:
        """Another name of ``latest_num_steps``."""
        return self.latest_num_steps

    @classmethod
    def from_core(cls, values: Mapping[str, Any], tune: int, draws: int) -> ChainProgress:
        """Take what `nutpie._lib.Control.progress` says of a chain that was planned to make so many draws."""
        # A chain that has not begun does not know its plan.
        tune = values["tune"] or tune
        others = {name: v for name, v in values.items() if name != "tune"}
        return cls(total_draws=tune + draws, total_tune=tune, **others)
