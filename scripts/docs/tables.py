"""Tables of the documentation that are made from declarations, so that they cannot become stale."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from nutpie import _lib, settings, trace

#: What is code in the advice on a keyword.
CODE = re.compile(r"\w+=(?:\.\.\.|\w+)|\w+\(\)")


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
    rows = [(f"`{s.name}`", f"{s.default:g}", _range(s), s.doc) for s in settings.declared().values()]
    return _table(("setting", "default", "range", "meaning"), rows)


def _range(setting: settings.Setting) -> str:
    if setting.max >= 1e9:
        return f"{setting.min:g} or more"
    return f"{setting.min:g} to {setting.max:g}"


def _other_names() -> str:
    rows = [(f"`{name}`", CODE.sub(r"`\g<0>`", text)) for name, text in settings.OTHER_NAMES.items()]
    return _table(("keyword", "here"), rows)


#: Functions that make a table, by the name in the page's placeholder, ``<!-- table: NAME -->``.
TABLES: dict[str, Callable[[], str]] = {
    "statistics": _statistics,
    "settings": _settings,
    "other_names": _other_names,
}
