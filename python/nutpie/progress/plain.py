"""Lines of text, for logs and pipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from nutpie.progress.chain import ChainProgress
from nutpie.progress.summary import Summary, Tracker, cells, duration, phase_counts

__all__ = ["PlainDisplay"]

#: A run that is shorter than this many seconds gets one line, at its end.
SHORT_RUN = 1.0

#: Seconds between two lines, at least and at most. Between these, a line comes with each tenth of the draws.
LINE_INTERVALS = (5.0, 120.0)


class PlainDisplay:
    """A line at the start, with each tenth of the draws but not more often than `LINE_INTERVALS` says, and at the end.

    Parameters
    ----------
    stream
        Where to write.
    clock
        Returns seconds.
    """

    interval = 0.2

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] | None = None) -> None:
        self._stream = stream
        self._tracker = Tracker() if clock is None else Tracker(clock)
        self._last_line: float | None = None
        self._last_tenth = 0

    def update(self, chains: Sequence[ChainProgress]) -> None:
        """Write a line if one is due."""
        summary = self._tracker.summary(chains)
        elapsed, tenth = summary.elapsed, int(10 * summary.total.fraction)
        if self._last_line is None:
            if elapsed < SHORT_RUN:
                return
            self._write(f"{_chains(len(chains))} with {chains[0].total_draws} draws each, warm-up included")
        else:
            since = elapsed - self._last_line
            if since < LINE_INTERVALS[0] or (tenth == self._last_tenth and since < LINE_INTERVALS[1]):
                return
            self._write(_line(summary))
        self._last_line, self._last_tenth = elapsed, tenth

    def close(self, chains: Sequence[ChainProgress]) -> None:
        """Write a line with the totals."""
        summary = self._tracker.summary(chains, closed=True)
        self._write(f"{summary.total.phase} after {duration(summary.elapsed, digits=1)}: {_line(summary)}")

    def _write(self, text: str) -> None:
        self._stream.write(f"nutpie: {text}\n")
        self._stream.flush()


def _chains(n: int) -> str:
    return f"{n} chain{'s' if n > 1 else ''}"


def _line(summary: Summary) -> str:
    total = summary.total
    text = cells(total)
    parts = [f"{int(100 * total.fraction)} % ({text['draws']} draws of {_chains(len(summary.chains))})"]
    if not total.ended:
        parts.append(phase_counts(summary.chains))
    parts.append(f"{total.divergences} divergence{'' if total.divergences == 1 else 's'}")
    if text["step size"]:
        parts.append(f"step size {text['step size']}")
    if text["grad/draw"]:
        parts.append(f"{text['grad/draw']} gradients per draw")
    if text["draws/s"]:
        parts.append(f"{text['draws/s']} draws/s")
    if text["time"] and not total.ended:
        parts.append(text["time"])
    return ", ".join(parts)
