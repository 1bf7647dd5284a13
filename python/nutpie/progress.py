"""Progress of a run, shown while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["ProgressBar"]


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

    def update(self, progress: Sequence[dict[str, Any]]) -> None:
        """Show the state of the chains, as `nutpie._lib.Control.progress` gives it."""
        if self._bar.disable:
            return
        finished = sum(p["finished_draws"] for p in progress)
        if finished:
            self._bar.set_postfix_str(_postfix(progress, finished), refresh=False)
        self._bar.update(finished - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _postfix(progress: Sequence[dict[str, Any]], finished: int) -> str:
    steps = sum(p["total_num_steps"] for p in progress)
    running = [p["step_size"] for p in progress if p["finished_draws"]]
    low, high = min(running), max(running)
    step = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g}-{high:.2g}"
    return (
        f"divergences {sum(p['divergences'] for p in progress)}, step size {step}, "
        f"gradients/draw {steps / finished:.1f}"
    )
