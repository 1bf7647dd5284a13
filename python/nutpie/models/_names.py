"""Messages about names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["chosen_names", "unknown_name"]


def unknown_name(name: str, known: Iterable[str], what: str) -> str:
    """Say that there is no ``what`` of this name, and which existing name is nearest."""
    names = sorted(str(k) for k in known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if nearest:
        return f"there is no {what} {name!r}; did you mean {nearest[0]!r}?"
    listed = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    return f"there is no {what} {name!r}; there " + (f"are {listed}" if names else "are none")


def chosen_names(var_names: Sequence[Any] | str | None, known: Sequence[str], what: str) -> list[str]:
    """Return those of the known names that ``var_names`` has, in their own order; all if it is None.

    A name may also be an object that has one, such as a variable of PyMC. A ValueError names one that is not known.
    """
    if var_names is None:
        return list(known)
    wanted = [var_names] if isinstance(var_names, str) else [getattr(v, "name", v) for v in var_names]
    for name in wanted:
        if name not in known:
            raise ValueError("var_names: " + unknown_name(name, known, what))
    return [name for name in known if name in wanted]
