"""C functions that users bring along: their addresses, their data, and calls of them from Python."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nutpie.models._function_expand import Split
from nutpie.models.base import OK, DrawContext, Variable

__all__ = ["CExpander", "address_of", "data_address", "is_c_function", "load_symbol"]

#: Number of arguments of a log density, and of an expand function, after ``nutpie.h``.
N_ARGUMENTS = 5

_ExpandPrototype = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)

#: What all functions of `ctypes` are.
_CFunction: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]


def address_of(function: Any, what: str) -> int:
    """Return the address of a C function.

    Parameters
    ----------
    function
        An address, a function of `ctypes`, or one compiled by ``numba.cfunc``.
    what
        Its name in messages.

    Raises
    ------
    TypeError
        If it is none of these, or its type is known and wrong.
    ValueError
        If the address is null.
    """
    address: Any = function
    if hasattr(function, "address") and hasattr(function, "ctypes"):
        _check_type(function.ctypes, what)
        address = function.address
    elif isinstance(function, _CFunction):
        _check_type(function, what)
        address = ctypes.cast(function, ctypes.c_void_p).value
    elif isinstance(function, bool) or not isinstance(function, int | np.integer):
        kind = type(function).__name__
        hint = "; for a Python function use nutpie.from_logp" if callable(function) else ""
        raise TypeError(
            f"{what} must be an address, a function of ctypes or one compiled by numba.cfunc, not {kind}{hint}"
        )
    if not address:
        raise ValueError(f"the address of {what} is null")
    return int(address)


def is_c_function(function: Any) -> bool:
    """Whether `address_of` takes something that is no bare address."""
    return isinstance(function, _CFunction) or (hasattr(function, "address") and hasattr(function, "ctypes"))


def _check_type(function: Any, what: str) -> None:
    """Compare the number and size of arguments and the type of the result, where they were declared."""
    declared, result = getattr(function, "argtypes", None), getattr(function, "restype", None)
    if declared is None:
        return
    sizes = [ctypes.sizeof(argument) for argument in declared]
    if sizes != [8] * N_ARGUMENTS or result is None or ctypes.sizeof(result) != 8:
        names = ", ".join(argument.__name__ for argument in declared)
        raise TypeError(
            f"{what} has the type {getattr(result, '__name__', 'void')} ({names}), but nutpie.h wants int64 with five "
            "arguments of 64 bits: uint64, pointer, pointer, pointer, pointer (for an expand function uint64, uint64, "
            "pointer, pointer, pointer)"
        )


def data_address(data: Any) -> int:
    """Return the address that a C function gets as its ``user_data``.

    Parameters
    ----------
    data
        None for a null pointer, an address, a C-contiguous array, or an object or pointer of `ctypes`.
    """
    if data is None:
        return 0
    if isinstance(data, int | np.integer) and not isinstance(data, bool):
        return int(data)
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise ValueError("user_data is an array that is not C-contiguous: pass numpy.ascontiguousarray(...) of it")
        return int(data.ctypes.data)
    if isinstance(data, ctypes.c_void_p | ctypes._Pointer | _CFunction):
        return ctypes.cast(data, ctypes.c_void_p).value or 0
    try:
        return ctypes.addressof(data)
    except TypeError:
        raise TypeError(
            f"user_data must be None, an address, an array or an object of ctypes, not {type(data).__name__}"
        ) from None


def load_symbol(library: Any, symbol: str) -> Any:
    """Return a function of a library; a ValueError if it has none of this name."""
    try:
        return getattr(library, symbol)
    except AttributeError:
        raise ValueError(
            f"the library {os.fspath(library._name)!r} has no function {symbol!r}: it must be exported "
            'under this name, in C++ with extern "C", in Rust with #[no_mangle] pub extern "C"'
        ) from None


class CExpander:
    """A C function that computes the variables of one draw, all in double precision and one after the other.

    Parameters
    ----------
    address
        Address of the function.
    data
        Its ``user_data``.
    variables
        What it writes, in order.
    keep_alive
        Whatever must not be garbage-collected before.
    """

    def __init__(self, address: int, data: int, variables: Sequence[Variable], keep_alive: Any) -> None:
        self._function: Callable[..., int] = _ExpandPrototype(address)
        self._data = data or None
        self._split = Split(variables)
        self._size = max((part.stop for part in self._split.parts.values()), default=0)
        self._keep_alive = keep_alive

    def __call__(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables; NaN where the function reports a recoverable error."""
        (n, dim), values = draws.shape, np.zeros((len(draws), self._size))
        failed: dict[int, int] = {}
        for row in range(n):
            code = self._function(dim, self._size, draws[row].ctypes.data, values[row].ctypes.data, self._data)
            if code < 0:
                raise RuntimeError(f"the expand function returned the fatal code {code}")
            if code != OK:
                values[row] = np.nan
                failed[code] = failed.get(code, 0) + 1
        for code, count in failed.items():
            context.report(f"the expand function returned the code {code}", count)
        return self._split(values, context)
