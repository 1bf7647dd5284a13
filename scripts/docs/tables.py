"""Tables of the documentation that are made from declarations, so that they cannot become stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nutpie import _lib, settings, trace


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _statistics() -> str:
    other = {name: alias for alias, name in trace.ALIASES.items()}
    rows = []
    for name, dtype, doc in _lib.statistics():
        names = f"`{name}`, also `{other[name]}`" if name in other else f"`{name}`"
        rows.append((names, dtype, doc))
    return _table(("statistic", "dtype", "meaning"), rows)


def _settings() -> str:
    rows = [(f"`{s.name}`", f"{s.default:g}", f"{s.min:g} to {s.max:g}", s.doc) for s in settings.declared().values()]
    return _table(("setting", "default", "range", "meaning"), rows)


def _other_names() -> str:
    return _table(("keyword", "here"), [(f"`{name}`", _sentence(text)) for name, text in settings.OTHER_NAMES.items()])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


#: Functions that make a table, by the name in the page's placeholder, ``<!-- table: NAME -->``.
TABLES: dict[str, Callable[[], str]] = {
    "statistics": _statistics,
    "settings": _settings,
    "other_names": _other_names,
}
