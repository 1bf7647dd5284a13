"""A table in the output of a marimo cell."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nutpie.progress.chain import ChainProgress

if TYPE_CHECKING:
    from nutpie.progress.summary import Summary

__all__ = ["MarimoDisplay", "create_replace"]


class MarimoDisplay:
    """The output of the cell that called `sample`, replaced a few times a second."""

    interval = 0.3

    def __init__(self) -> None:
        from nutpie.progress.summary import Tracker  # here, because `nutpie.sample` imports this module

        self._tracker = Tracker()
        self._replace = create_replace()

    def update(self, chains: Sequence[ChainProgress]) -> None:
        """Replace the table."""
        self._show(self._tracker.summary(chains))

    def close(self, chains: Sequence[ChainProgress]) -> None:
        """Replace the table a last time."""
        self._show(self._tracker.summary(chains, closed=True))

    def _show(self, summary: Summary) -> None:
        from nutpie.progress.notebook import html_table

        if self._replace is not None:
            self._replace(sys.modules["marimo"].Html(html_table(summary)))


def create_replace() -> Callable[[object], None] | None:
    """Return a ``marimo.output.replace`` for the cell that runs now.

    That of marimo writes to the cell that runs in the calling thread, and in other threads than marimo's own it does
    nothing. The one returned writes to this cell from any thread, also when other cells run meanwhile. PyMC asks for it
    as ``nutpie.sample._mo_create_replace``.

    Returns
    -------
    callable or None
        Function of the new output; None outside of a marimo notebook.
    """
    marimo = sys.modules.get("marimo")
    if marimo is None or not marimo.running_in_notebook():
        return None
    try:
        from marimo._runtime.context import get_context

        context: Any = copy.copy(get_context())  # the original goes on to the next cell
        install = context.install
    except (ImportError, AttributeError):  # not public, so another version may not have it
        replace: Callable[[object], None] = marimo.output.replace
        return replace

    def replace_from_any_thread(value: object) -> None:
        with install():
            marimo.output.replace(value)

    return replace_from_any_thread
