"""From the progress of chains to what a display shows of them.

While a chain runs, its speed and its gradients per draw are those of the last seconds, because they change during
warm-up; at its end they are those of the whole run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nutpie.progress.chain import ChainProgress

__all__ = ["COLUMNS", "Row", "Summary", "Tracker", "cells", "duration", "phase_counts"]

Phase = Literal["waiting", "warm-up", "sampling", "done", "stopped"]

#: Seconds over which the speed is averaged.
SPEED_WINDOW = 5.0

#: Columns of a table by the names that `cells` uses, and their headings.
COLUMNS = {
    "chain": "Chain",
    "draws": "Draws",
    "phase": "Phase",
    "divergences": "Divergences",
    "step size": "Step size",
    "grad/draw": "Gradients per draw",
    "draws/s": "Draws per second",
    "time": "Time",
}


@dataclass(frozen=True)
class Row:
    """One line of a display: a chain, or all of them together."""

    label: str
    phase: Phase
    finished: int
    total: int
    #: Those of the total that belong to the warm-up.
    tune: int
    divergences: int
    #: Smallest and largest step size in use.
    step_sizes: tuple[float, float] | None
    gradients_per_draw: float | None
    draws_per_second: float | None
    #: Seconds that it took if it ended, that are left otherwise.
    seconds: float | None

    @property
    def ended(self) -> bool:
        """Whether it will make no more draws."""
        return self.phase in ("done", "stopped")

    @property
    def fraction(self) -> float:
        """Share of the draws that are made."""
        return self.finished / self.total if self.total else float(self.ended)


@dataclass(frozen=True)
class Summary:
    """All lines of a display."""

    chains: list[Row]
    total: Row
    #: Seconds since the display began.
    elapsed: float


@dataclass
class _Recent:
    """Discounted sums over the last seconds of a chain."""

    draws: float = 0.0
    steps: float = 0.0
    seconds: float = 0.0
    finished: int = 0
    total_steps: int = 0
    runtime: float = 0.0

    def add(self, chain: ChainProgress) -> None:
        runtime = chain.runtime_ms / 1000
        passed = runtime - self.runtime
        if passed <= 0:
            return
        keep = math.exp(-passed / SPEED_WINDOW)
        self.seconds = keep * self.seconds + passed
        self.draws = keep * self.draws + chain.finished_draws - self.finished
        self.steps = keep * self.steps + chain.total_num_steps - self.total_steps
        self.finished, self.total_steps, self.runtime = chain.finished_draws, chain.total_num_steps, runtime


@dataclass
class Tracker:
    """Remembers enough of the earlier progress to know the speed now.

    Parameters
    ----------
    clock
        Returns seconds.
    started
        What it returned when the run began; when `summary` is called first, by default.
    """

    clock: Callable[[], float] = time.perf_counter
    started: float | None = None
    _recent: list[_Recent] = field(default_factory=list)

    def summary(self, chains: Sequence[ChainProgress], *, closed: bool = False) -> Summary:
        """Take the latest progress; `closed` says that the run is over."""
        now = self.clock()
        if self.started is None:
            self.started = now
        self._recent = self._recent or [_Recent() for _ in chains]
        rows = []
        for i, (chain, recent) in enumerate(zip(chains, self._recent, strict=True)):
            recent.add(chain)
            rows.append(_chain_row(str(i), chain, recent, closed))
        elapsed = now - self.started
        return Summary(rows, _total_row(rows, chains, elapsed, closed), elapsed)


def _phase(chain: ChainProgress, closed: bool) -> Phase:
    if chain.finished_draws >= chain.total_draws and (chain.started or closed):
        return "done"
    if closed:
        return "stopped"
    if not chain.started:
        return "waiting"
    return "warm-up" if chain.tuning else "sampling"


def _chain_row(label: str, chain: ChainProgress, recent: _Recent, closed: bool) -> Row:
    phase = _phase(chain, closed)
    finished, runtime = chain.finished_draws, chain.runtime_ms / 1000
    ended = phase in ("done", "stopped")
    if ended:
        gradients, speed = _ratio(chain.total_num_steps, finished), _ratio(finished, runtime)
        seconds = runtime if chain.started else None
    else:
        gradients, speed = _ratio(recent.steps, recent.draws), _ratio(recent.draws, recent.seconds)
        seconds = _ratio(chain.total_draws - finished, speed)
    return Row(
        label=label,
        phase=phase,
        finished=finished,
        total=chain.total_draws,
        tune=chain.total_tune,
        divergences=chain.divergences,
        step_sizes=(chain.step_size, chain.step_size) if finished else None,
        gradients_per_draw=gradients,
        draws_per_second=speed,
        seconds=seconds,
    )


def _total_row(rows: Sequence[Row], chains: Sequence[ChainProgress], elapsed: float, closed: bool) -> Row:
    finished, total = sum(r.finished for r in rows), sum(r.total for r in rows)
    steps = [s for r in rows if r.step_sizes for s in r.step_sizes]
    running = [r for r in rows if not r.ended and r.draws_per_second]
    gradients: float | None
    speed: float | None
    seconds: float | None
    if not running:
        gradients = _ratio(sum(c.total_num_steps for c in chains), finished)
        speed = _ratio(finished, elapsed)
        seconds = elapsed if all(r.ended for r in rows) else None
    else:
        speed = sum(r.draws_per_second or 0.0 for r in running)
        gradients = sum((r.gradients_per_draw or 0.0) * (r.draws_per_second or 0.0) for r in running) / speed
        # The slowest chain, or all of them in turn if some are waiting for a core.
        seconds = max((total - finished) / speed, *(r.seconds or 0.0 for r in running))
    phases: list[Phase] = ["warm-up", "sampling", "waiting", "stopped"]
    phase: Phase = next((p for p in phases if any(r.phase == p for r in rows)), "done")
    return Row(
        label="all",
        phase=phase,
        finished=finished,
        total=total,
        tune=sum(c.total_tune for c in chains),
        divergences=sum(r.divergences for r in rows),
        step_sizes=(min(steps), max(steps)) if steps else None,
        gradients_per_draw=gradients,
        draws_per_second=speed,
        seconds=seconds,
    )


def _ratio(numerator: float, denominator: float | None) -> float | None:
    return numerator / denominator if numerator and denominator else None


def cells(row: Row) -> dict[str, str]:
    """Text of each column of `COLUMNS`."""
    return {
        "chain": row.label,
        "draws": f"{row.finished}/{row.total}",
        "phase": row.phase,
        "divergences": str(row.divergences),
        "step size": _step_size(row.step_sizes),
        "grad/draw": _number(row.gradients_per_draw),
        "draws/s": _number(row.draws_per_second),
        "time": _time(row),
    }


def _step_size(sizes: tuple[float, float] | None) -> str:
    if sizes is None:
        return ""
    low, high = (f"{s:.2g}" for s in sizes)
    return f"{sizes[0]:.3g}" if low == high else f"{low}-{high}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"


def _time(row: Row) -> str:
    if row.seconds is None:
        return ""
    return duration(row.seconds, digits=1) if row.ended else f"{duration(row.seconds)} left"


def duration(seconds: float, *, digits: int = 0) -> str:
    """Write a time: seconds with some digits when it is below a minute, and up to days when it is long."""
    if seconds < 59.5:
        return f"{seconds:.{digits}f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def phase_counts(rows: Sequence[Row]) -> str:
    """How many chains are where, as in ``3 done, 1 sampling``."""
    phases: list[Phase] = ["done", "stopped", "sampling", "warm-up", "waiting"]
    counts = {p: sum(r.phase == p for r in rows) for p in phases}
    return ", ".join(f"{n} {p}" for p, n in counts.items() if n)
