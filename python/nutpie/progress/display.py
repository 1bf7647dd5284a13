"""Where the progress is shown: the contract of a display and the choice among them."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from nutpie.progress.chain import ChainProgress

__all__ = ["KINDS", "Display", "make_display"]

#: Names that `make_display` takes.
KINDS = ("terminal", "notebook", "marimo", "plain")


class Display(Protocol):
    """Something that shows the progress. One thread at a time calls it."""

    #: Seconds between two updates; more often is a waste.
    interval: float

    def update(self, chains: Sequence[ChainProgress]) -> None:
        """Show the state of the chains. The first call comes before they begin, from the thread of the user."""

    def close(self, chains: Sequence[ChainProgress]) -> None:
        """Show the last state, and leave it on screen. Chains that are not at their end were stopped."""


def make_display(enabled: bool | str, *, background: bool = False) -> Display | None:
    """Choose how to show the progress.

    Parameters
    ----------
    enabled
        False for nothing, True for what fits to where Python runs, or one of `KINDS`.
    background
        Whether the user may type at a prompt while the run goes on. A table that is redrawn would be in the way there.

    Returns
    -------
    Display or None
        None when there is nothing to show, or nowhere to show it.

    Raises
    ------
    ValueError
        For a name that is not one of `KINDS`.
    """
    kind = enabled if isinstance(enabled, str) else _kind_of_environment(background) if enabled else "none"
    match kind:
        case "terminal":
            from nutpie.progress.terminal import TerminalDisplay

            return TerminalDisplay(sys.stderr)
        case "notebook":
            from nutpie.progress.notebook import NotebookDisplay

            return NotebookDisplay()
        case "marimo":
            from nutpie.progress.marimo import MarimoDisplay

            return MarimoDisplay()
        case "plain":
            from nutpie.progress.plain import PlainDisplay

            return PlainDisplay(sys.stderr)
        case "none":
            return None
    raise ValueError(f"progress_bar must be True, False or one of {', '.join(map(repr, KINDS))}, not {enabled!r}")


def _kind_of_environment(background: bool) -> str:
    """Name the display for where Python runs. A front end is in use only if it has been imported already."""
    marimo = sys.modules.get("marimo")
    if marimo is not None and marimo.running_in_notebook():
        return "marimo"
    if _has_jupyter_front_end():
        return "notebook"
    if sys.stderr is None:  # as under pythonw
        return "none"
    if not is_terminal(sys.stderr):
        return "plain"
    if background and (hasattr(sys, "ps1") or _ipython() is not None):
        return "none"
    from nutpie.progress.terminal import TerminalDisplay

    return "plain" if TerminalDisplay.in_use(sys.stderr) else "terminal"


def _ipython() -> Any:
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def _has_jupyter_front_end() -> bool:
    """Whether a kernel sends output to Jupyter, VS Code, Colab or Databricks, rather than IPython in a terminal."""
    shell = _ipython()
    if shell is None:
        return False
    return getattr(shell, "kernel", None) is not None or "DATABRICKS_RUNTIME_VERSION" in os.environ


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream goes to a terminal in which the cursor can be moved."""
    try:
        if not stream.isatty():
            return False
    except (AttributeError, ValueError):  # not a real stream, or closed
        return False
    if os.name == "nt":  # the old console shows the control sequences as they are
        return "WT_SESSION" in os.environ or "TERM" in os.environ
    return os.environ.get("TERM", "dumb") not in ("", "dumb")


def has_blocks(stream: TextIO) -> bool:
    """Whether the encoding of a stream has the block characters of the bars."""
    try:
        codecs.encode("▒█·", getattr(stream, "encoding", None) or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
