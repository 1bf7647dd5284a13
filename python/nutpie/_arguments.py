"""Checks of arguments that several functions have in common, and what the machine has to offer."""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["available_cores", "choice", "flag", "whole_number"]


def whole_number(name: str, value: Any, *, least: int = 0, bits: int = 32) -> int:
    """Return a whole number from ``least`` to below ``2**bits``, as an int.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If it is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number = int(value)
    if not least <= number < 2**bits:
        raise ValueError(f"{name} must be at least {least} and below 2**{bits}, not {number}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return a truth value, as a bool.

    Raises
    ------
    TypeError
        If it is none: a string such as "False" would mean the opposite of what it says.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Check that a value is among those there are.

    Raises
    ------
    ValueError
        If it is not, listing them.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not available; choose from {', '.join(map(repr, allowed))}")


def available_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
