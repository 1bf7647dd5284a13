"""Packages that a front end needs."""

from __future__ import annotations

import importlib.util

__all__ = ["require"]


def require(who: str, extra: str, *modules: str) -> None:
    """Raise an ImportError that says what to install, if one of the modules is missing.

    Parameters
    ----------
    who
        The beginning of the message, such as ``from_jax() needs``.
    extra
        The extra of this package that brings the modules.
    *modules
        Names of modules.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'{who} {" and ".join(missing)}, not installed here: run pip install "nutpie[{extra}]"')
