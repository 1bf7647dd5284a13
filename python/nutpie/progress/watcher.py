"""Tells displays and callbacks how a run goes on."""

from __future__ import annotations

import enum
import logging
import math
import numbers
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from nutpie.progress.chain import ChainProgress
from nutpie.progress.display import Display

__all__ = ["STOP", "Callback", "Stop", "Watcher"]

#: Most seconds between looks at the run, which is also how long an interrupt may wait.
WATCH_INTERVAL = 0.1

#: Largest share of a core that may go into showing the progress.
DISPLAY_SHARE = 0.005


class Stop(enum.Enum):
    """Type of `STOP`."""

    STOP = "stop"

    def __repr__(self) -> str:
        return "nutpie.STOP"


#: What a progress callback returns to end the run and keep its draws.
STOP: Final = Stop.STOP

#: A progress callback.
Callback = Callable[[list[ChainProgress]], object]


class Watcher:
    """Shows the progress and calls the user's function; belongs to the thread that waits for the run.

    That thread calls `start`, then `poll` again and again, and in any case `finish`.

    Parameters
    ----------
    read
        Returns the progress of each chain. Called only when somebody wants to know.
    display
        Where to show the progress.
    callback
        Called with the progress of all chains.
    rate
        Milliseconds between calls of the callback.

    Attributes
    ----------
    interval : float
        Seconds to wait between calls of `poll`.
    stop_requested : bool
        Whether the callback returned `STOP`.
    error : BaseException or None
        What the callback raised. It stops the run, and whoever owns the run raises it when the draws are safe.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[ChainProgress]],
        display: Display | None = None,
        callback: Callback | None = None,
        rate: float = 100,
    ) -> None:
        check_callback(callback, rate)
        self._read = read
        self._display = display
        self._callback = callback
        self._callback_interval = rate / 1000
        # A little less, so that a look at the run that comes a moment early is not lost.
        self._interval_of_display = 0.9 * display.interval if display is not None else 0.0
        self._next_display = 0.0
        self._next_call = 0.0
        self.interval = WATCH_INTERVAL if callback is None else min(WATCH_INTERVAL, self._callback_interval)
        self.stop_requested = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """Show the display, from the thread of the user, before the chains begin."""
        now = time.monotonic()
        self._next_call = now + self._callback_interval
        if self._display is not None:
            self._show(self._display.update, self._read())
            self._next_display = now + self._interval_of_display

    def poll(self) -> bool:
        """Do what is due.

        Returns
        -------
        bool
            Whether the run should stop.
        """
        now = time.monotonic()
        show = self._display is not None and now >= self._next_display
        call = self._callback is not None and self.error is None and now >= self._next_call
        if show or call:
            before = time.thread_time()  # of the processor: waiting for a slow terminal holds no chain up
            chains = self._read()
            if self._display is not None and show:
                self._show(self._display.update, chains)
                pause = max(self._interval_of_display, (time.thread_time() - before) / DISPLAY_SHARE)
                self._next_display = now + pause
            if call:
                self._call(chains)
                # From when it was due, so that calls do not drift; but after a slow one there is a pause.
                self._next_call += self._callback_interval
                if self._next_call < time.monotonic():
                    self._next_call = time.monotonic() + self._callback_interval
        return self.stop_requested or self.error is not None

    def finish(self) -> None:
        """Show the last state and call the callback a last time, after the chains ended."""
        chains = self._read()
        display, self._display = self._display, None
        try:
            if display is not None:
                self._show(display.close, chains)
            if self._callback is not None and self.error is None:
                self._call(chains)
        except KeyboardInterrupt as error:  # the run cannot be stopped any more; the draws come with the exception
            self.error = error

    def _show(self, action: Callable[[Sequence[ChainProgress]], Any], chains: Sequence[ChainProgress]) -> None:
        """Update the display. If that fails, as when a terminal is closed, the run goes on without it."""
        try:
            action(chains)
        except Exception as error:
            self._display = None
            if not isinstance(error, OSError | ValueError):  # which mean that the stream is gone
                logging.getLogger("nutpie").warning("the progress display failed and is off", exc_info=True)

    def _call(self, chains: Sequence[ChainProgress]) -> None:
        assert self._callback is not None
        try:
            answer = self._callback(list(chains))
        except KeyboardInterrupt:  # meant for the run
            raise
        except BaseException as error:
            self.error = error
        else:
            self.stop_requested |= answer is STOP


def check_callback(callback: object, rate: object) -> None:
    """Refuse what cannot be a callback or its rate.

    Raises
    ------
    TypeError
        If the callback cannot be called, or the rate is not a number.
    ValueError
        If the rate is not positive and finite.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"progress_callback must be a function of a list of ChainProgress, not {callback!r}")
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(f"progress_rate must be a number of milliseconds, not {rate!r}")
    if not 0 < float(rate) < math.inf:
        raise ValueError(f"progress_rate must be a positive number of milliseconds, not {rate!r}")
