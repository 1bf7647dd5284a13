"""The keywords of the sampler: declared in the Rust core, checked and documented here."""

from __future__ import annotations

import difflib
import inspect
import numbers
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from nutpie import _lib

__all__ = ["Setting", "declared", "document", "resolve"]


class Setting(NamedTuple):
    """Declaration of a keyword."""

    name: str
    default: int | float
    min: float
    max: float
    doc: str

    @property
    def type(self) -> type:
        """The type of its values."""
        return type(self.default)


def declared() -> dict[str, Setting]:
    """Return all settings of the sampler by name, with default, bounds and documentation."""
    return {s[0]: Setting(*s) for s in _lib.settings()}


def resolve(given: Mapping[str, Any], *, other_keywords: Iterable[str] = ()) -> dict[str, int | float]:
    """Check settings that a user gave.

    Parameters
    ----------
    given
        Values by name.
    other_keywords
        Further keywords that the caller knows, to suggest when a name is mistyped.

    Returns
    -------
    dict
        The values with the types that the core wants.

    Raises
    ------
    TypeError
        For an unknown name, with the nearest one, and for a value that is not a number of the right type.
    ValueError
        For a value out of bounds.
    """
    known = declared()
    return {name: _checked(known, name, value, other_keywords) for name, value in given.items()}


def _checked(known: Mapping[str, Setting], name: str, value: Any, other_keywords: Iterable[str]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *other_keywords], n=1, cutoff=0.0)
        raise TypeError(f"sample() has no keyword {name!r}; did you mean {near[0]!r}?")
    setting = known[name]
    wanted = numbers.Integral if setting.type is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted):
        kind = "a whole number" if setting.type is int else "a number"
        raise TypeError(f"{name} must be {kind}, not {value!r}")
    if not setting.min <= float(value) <= setting.max:
        raise ValueError(f"{name} must be between {setting.min:g} and {setting.max:g}, not {value!r}")
    return setting.type(value)


def document(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put the declared settings into signature and docstring of a function that takes them as ``**settings``."""
    signature = inspect.signature(function)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    own = [
        inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=s.default, annotation=s.type.__name__)
        for s in declared().values()
    ]
    function.__signature__ = signature.replace(parameters=[*fixed, *own])  # type: ignore[attr-defined]
    lines = [f"{s.name} : {s.type.__name__}, default {s.default:g}\n{_wrapped(s.doc)}" for s in declared().values()]
    text = inspect.cleandoc(function.__doc__ or "")
    function.__doc__ = text.replace(
        "**settings\n    Settings of the sampler, listed by `nutpie.settings`.", "\n".join(lines)
    )
    return function


def _wrapped(text: str) -> str:
    return textwrap.indent("\n".join(textwrap.wrap(text, 100)), "    ")
