"""Tables of the documentation that are made from declarations, so that they cannot become stale."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from nutpie import _lib, settings, trace

#: What is code in the advice on a keyword.
CODE = re.compile(r"\w+=(?:\.\.\.|\w+|'\w+')|\w+\(\)")

#: Names of adaptations in their documentation.
QUOTED = re.compile(r"'(\w+)'")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _statistics() -> str:
    return _statistics_of("nuts")


def _statistics_of_mams() -> str:
    return _statistics_of("mams")


def _statistics_of_walnuts() -> str:
    return _statistics_of("walnuts")


def _statistics_of(kernel: str) -> str:
    other = {name: alias for alias, name in trace.ALIASES.items()}
    rows = []
    for name, dtype, doc, _ in _lib.statistics(kernel):
        names = f"`{name}`, also `{other[name]}`" if name in other else f"`{name}`"
        rows.append((names, dtype, doc))
    return _table(("statistic", "dtype", "meaning"), rows)


def _settings() -> str:
    rows = [
        (f"`{s.name}`", settings.shown_default(s), _range(s), _with_code(s.doc)) for s in settings.declared().values()
    ]
    return _table(("setting", "default", "range", "meaning"), rows)


def _uses() -> str:
    """Which settings have an effect with which adaptations."""
    names = [name for name, *_ in _lib.adaptations()]
    by_use: dict[tuple[str, ...], list[str]] = {}
    for name in settings.declared():
        by_use.setdefault(tuple(settings.ONLY_WITH.get(name, names)), []).append(name)
    rows = [
        (_codes(uses) if len(uses) < len(names) else "all", _codes(wanted))
        for uses, wanted in sorted(by_use.items(), key=lambda item: -len(item[0]))
    ]
    return _table(("adaptation", "settings"), rows)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _with_code(text: str) -> str:
    return QUOTED.sub(r"`\g<1>`", text)


def _adaptations() -> str:
    rows = [(f"`{name}`", str(tune), _with_code(doc)) for name, tune, doc in _lib.adaptations()]
    return _table(("`adaptation=`", "`tune` by default", "what it does"), rows)


def _samplers() -> str:
    rows = [(f"`{name}`", _with_code(doc), _codes(own)) for name, doc, own in _lib.samplers()]
    return _table(("`sampler=`", "what it does", "settings of its own"), rows)


def _range(setting: settings.Setting) -> str:
    if setting.type is bool:
        return "True or False"
    if setting.choices:
        return _codes(setting.choices)
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
    "uses": _uses,
    "adaptations": _adaptations,
    "samplers": _samplers,
    "statistics_of_mams": _statistics_of_mams,
    "statistics_of_walnuts": _statistics_of_walnuts,
    "other_names": _other_names,
}
