"""Progress of a run, shown while it goes on.

`make_display` chooses where; a `Watcher`, driven by the thread that waits for the run, tells the display and the user's
callback. A display gets the `ChainProgress` of all chains and no more.
"""

from __future__ import annotations

from nutpie.progress.chain import ChainProgress
from nutpie.progress.display import Display, make_display
from nutpie.progress.watcher import STOP, Callback, Watcher

__all__ = ["STOP", "Callback", "ChainProgress", "Display", "Watcher", "make_display"]
