"""What a model says while it is sampled: errors after which sampling goes on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nutpie._caller import levels_inside

__all__ = ["Failures"]


class Failures:
    """Messages of draws at which the model could not compute its variables, and at how many draws each came."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def report(self, text: str, count: int) -> None:
        """Count a message."""
        self._counts[text] = self._counts.get(text, 0) + count

    def warn(self) -> None:
        """Warn once, if there were some."""
        if not self._counts:
            return
        text, count = next(iter(self._counts.items()))
        more = len(self._counts) - 1
        others = f"; {more} other message{'s are' if more > 1 else ' is'} in the group 'messages'" if more else ""
        warnings.warn(
            f"variables of the model are NaN at {sum(self._counts.values())} draws, because computing them failed: "
            f"{text} (at {count} draws{others})",
            stacklevel=levels_inside() + 1,
        )

    def table(self, of_density: Sequence[tuple[str, int]]) -> Any:
        """Return the group ``messages``, with those of the log density as well."""
        import xarray as xr

        rows = [("log density", *row) for row in of_density] + [("variables", *row) for row in self._counts.items()]
        sources, texts, counts = zip(*rows, strict=True)
        columns = {
            "source": (np.array(sources), "What was computed: the log density, or the variables of the result."),
            "text": (np.array(texts), "The message; those that differ in numbers only are represented by the first."),
            "count": (np.array(counts, dtype=np.int64), "How often it came; the warm-up is included."),
        }
        variables = {name: (("message",), values, {"description": doc}) for name, (values, doc) in columns.items()}
        return xr.Dataset(variables, coords={"message": np.arange(len(rows))})
