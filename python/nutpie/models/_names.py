"""Messages about names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["unknown_name"]


def unknown_name(name: str, known: Iterable[str], what: str) -> str:
    """Say that there is no ``what`` of this name, and which existing name is nearest."""
    names = sorted(str(k) for k in known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if nearest:
        return f"there is no {what} {name!r}; did you mean {nearest[0]!r}?"
    listed = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return f"there is no {what} {name!r}; there " + (f"are {listed}" if names else "are none")
