"""A line that says what is being compiled, and for how long."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

__all__ = ["progress_line"]

#: Seconds after which a line is written: what takes less needs no line.
SHORT = 0.5


@contextlib.contextmanager
def progress_line(text: str, *, show: bool, stream: TextIO | None = None) -> Iterator[None]:
    """Show a text and the seconds since, while a block runs.

    On a terminal the line is updated in place and goes at the end; elsewhere there is a line at the start and one at
    the end.
    """
    out = stream or sys.stderr
    if not show or out is None:
        yield
        return
    began = time.perf_counter()
    done = threading.Event()
    terminal = out.isatty()

    def seconds() -> float:
        return time.perf_counter() - began

    def watch() -> None:
        pause = SHORT
        while not done.wait(pause):
            if not terminal:
                _write(out, f"nutpie: {text} ...\n")
                return
            _write(out, f"\r\x1b[2Knutpie: {text} ... {seconds():.0f} s")
            pause = 1.0

    thread = threading.Thread(target=watch, name="nutpie-compiling", daemon=True)
    thread.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        done.set()
        thread.join()
        if seconds() > SHORT:
            end = "\r\x1b[2K" if terminal else f"nutpie: {'failed' if failed else 'done'} after {seconds():.1f} s\n"
            _write(out, end)


def _write(out: TextIO, text: str) -> None:
    # A stream that has been closed is no reason to fail.
    with contextlib.suppress(OSError, ValueError):
        out.write(text)
        out.flush()
