"""A table in a terminal, redrawn in place.

The cursor stays visible and the terminal in its usual mode, so there is nothing to restore when the process is killed.
What others print meanwhile goes above the table: while it is shown, ``sys.stdout`` and ``sys.stderr`` are stand-ins
that wipe the table away before they write.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TextIO

from nutpie.progress.chain import ChainProgress
from nutpie.progress.display import has_blocks, is_terminal
from nutpie.progress.summary import Tracker
from nutpie.progress.table import Style, text_table

__all__ = ["TerminalDisplay"]

#: Most chains that are shown, in high terminals too.
MAX_CHAINS = 20

#: Lines around those of the chains: heading, "more chains", total and the one of the cursor.
_OTHER_LINES = 4


class TerminalDisplay:
    """A table with a line for each chain.

    Parameters
    ----------
    stream
        The terminal.
    size
        Returns columns and lines; by default it asks the terminal each time, because it may be resized.
    color
        Whether to use colours; by default unless the environment variable ``NO_COLOR`` is set.
    """

    interval = 0.1

    #: Displays that are on screen. Two tables cannot share a terminal.
    _shown: ClassVar[list[TerminalDisplay]] = []

    def __init__(
        self,
        stream: TextIO,
        *,
        size: Callable[[], tuple[int, int]] | None = None,
        color: bool | None = None,
    ) -> None:
        self._stream = stream
        self._size = size or (lambda: _terminal_size(stream))
        self._style = Style(color=not os.environ.get("NO_COLOR") if color is None else color, blocks=has_blocks(stream))
        self._tracker = Tracker()
        self._lock = threading.RLock()
        self._lengths: list[int] = []  # of the lines on screen
        self._line_open = False  # whether somebody printed a line without its end
        self._stand_ins: dict[str, _StandIn] = {}
        self._active = False

    @classmethod
    def in_use(cls, stream: TextIO) -> bool:
        """Whether another table is shown in this terminal."""
        return any(d._stream is stream or isinstance(stream, _StandIn) for d in cls._shown)

    def update(self, chains: Sequence[ChainProgress]) -> None:
        """Draw the table anew."""
        if not self._active:
            self._begin()
        try:
            self._draw(chains, closed=False)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # after which there are further updates
                self._end()
            raise

    def close(self, chains: Sequence[ChainProgress]) -> None:
        """Draw the table a last time."""
        try:
            self._draw(chains, closed=True)
        finally:
            self._end()

    def _begin(self) -> None:
        self._active = True
        self._shown.append(self)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _StandIn) and is_terminal(stream):
                self._stand_ins[name] = _StandIn(stream, self)
                setattr(sys, name, self._stand_ins[name])

    def _end(self) -> None:
        self._lengths = []
        self._active = False
        if self in self._shown:
            self._shown.remove(self)
        for name, stand_in in self._stand_ins.items():
            # Another one may have taken the place meanwhile; then ours just passes everything on.
            if getattr(sys, name) is stand_in:
                setattr(sys, name, stand_in.stream)
        self._stand_ins = {}

    def _draw(self, chains: Sequence[ChainProgress], *, closed: bool) -> None:
        columns, height = self._size()
        limit = max(0, min(MAX_CHAINS, height - _OTHER_LINES))
        summary = self._tracker.summary(chains, closed=closed)
        # One column stays free, because some terminals wrap after the last one.
        lines = text_table(summary, self._style, width=max(1, columns - 1), limit=limit)
        with self._lock:
            begin = "\n" if self._line_open else self._to_top(columns)
            self._line_open = False
            self._stream.write(begin + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
            self._stream.flush()
            self._lengths = [min(columns - 1, _visible_length(line)) for line in lines]

    def _to_top(self, columns: int) -> str:
        """Move the cursor to where the table begins. Lines wrap when a terminal has become narrower."""
        n_lines = sum(max(1, -(-length // max(1, columns))) for length in self._lengths)
        return f"\r\x1b[{n_lines}A" if n_lines else ""

    def print_above(self, stream: TextIO, text: str) -> int:
        """Write text of somebody else; the next update draws the table below it."""
        with self._lock:
            if self._lengths and text:
                self._stream.write(self._to_top(self._size()[0]) + "\x1b[J")
                self._stream.flush()
                self._lengths = []
            written = stream.write(text)
            if text and self._active:
                stream.flush()
                self._line_open = not text.endswith("\n")
            return written


class _StandIn:
    """Stands in for ``sys.stdout`` or ``sys.stderr`` while a table is shown."""

    def __init__(self, stream: TextIO, display: TerminalDisplay) -> None:
        self.stream = stream
        self._display = display

    def write(self, text: str) -> int:
        return self._display.print_above(self.stream, text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _visible_length(line: str) -> int:
    length, in_escape = 0, False
    for character in line:
        if in_escape:
            in_escape = character != "m"
        elif character == "\x1b":
            in_escape = True
        else:
            length += 1
    return length


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        columns = lines = 0
    if columns and lines:
        return columns, lines
    return shutil.get_terminal_size()
