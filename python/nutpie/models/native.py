"""Log densities that are C functions with the interface of ``nutpie.h``."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nutpie._arguments import flag, whole_number
from nutpie.models._c_functions import CExpander, address_of, data_address, is_c_function, load_symbol
from nutpie.models._function_checks import check_entry
from nutpie.models._function_expand import Expander
from nutpie.models._function_model import FunctionModel, Parts, start_at
from nutpie.models._function_variables import DEFAULT_NAME, checked_coords, element_names, variables_of_shapes
from nutpie.models.base import Density, Variable
from nutpie.models.function import describe

__all__ = ["from_cfunc", "from_library"]


def from_cfunc(
    function: Any,
    dim: int,
    *,
    user_data: Any = None,
    variables: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str] | str] | None = None,
    coords: Mapping[str, Any] | None = None,
    expand: Any = None,
    initial_point: Any = None,
    thread_safe: bool = True,
    keep_alive: Any = None,
    check: bool = True,
) -> FunctionModel:
    """Make a model of a C function that computes a log density and its gradient.

    The function has the type ``nutpie_logp_fn`` of the header ``nutpie.h``, which `nutpie.include_dir` finds. Chains
    call it without Python and its lock, on as many threads as `nutpie.sample` has cores.

    Parameters
    ----------
    function : int, ctypes function or numba cfunc
        The function, or its address.
    dim : int
        Number of parameters.
    user_data : optional
        What the function gets as its last argument: None for a null pointer, an address, a C-contiguous array, whose
        numbers it then points to, or an object or pointer of `ctypes`. It is kept alive, and must not change while
        chains run.
    variables : dict, optional
        Shape of each variable of the result by name, such as ``{"mu": (), "theta": (8,)}``. Without `expand` they are
        the parts of the point, in order; the default is one variable ``x`` of shape (dim,). With an `expand` in C they
        are what it writes, in this order and each in the order of C; with one in Python they need not be given.
    dims : dict, optional
        Names of dimensions by name of a variable, such as ``{"theta": ["school"]}``.
    coords : dict, optional
        Coordinate values by name of a dimension.
    expand : optional
        Computes the variables of the result from a draw: a C function of the type ``nutpie_expand_fn``, in one of the
        forms of `function` and with the same `user_data`, or a Python function of a point of shape (dim,) that returns
        a dict of arrays.
    initial_point : array of shape (dim,) or callable, optional
        Where chains start if `nutpie.sample` is not told: a point, or a function that takes a `numpy.random.Generator`
        and returns one. The default is uniform from -2 to 2.
    thread_safe : bool, default True
        Whether the function can be called by several threads at once. With False one thread runs all chains.
    keep_alive : optional
        Whatever must not be garbage-collected while the model exists. `function`, `user_data` and `expand` are kept
        anyway.
    check : bool, default True
        Whether to check the function at a random start: that it depends on the point alone, and the gradient, by
        differences (`nutpie.check_gradient`).

    Returns
    -------
    FunctionModel
        For `nutpie.sample`.

    Raises
    ------
    TypeError, ValueError
        If something does not fit, naming what; with ``check=True`` also if the gradient is wrong.
    RuntimeError
        If the function reports a fatal error when it is checked.

    Examples
    --------
    >>> @numba.cfunc("int64(uint64, CPointer(double), CPointer(double), CPointer(double), voidptr)")
    ... def normal(dim, x, grad, logp, user_data):
    ...     logp[0] = 0.0
    ...     for i in range(dim):
    ...         logp[0] -= 0.5 * x[i] ** 2
    ...         grad[i] = -x[i]
    ...     return 0
    >>> model = nutpie.from_cfunc(normal, 3)
    """
    dim = whole_number("dim", dim, least=1)
    address, data = address_of(function, "the log density"), data_address(user_data)
    kept = (function, user_data, expand, keep_alive)
    start = start_at(dim, initial_point)
    expander: Expander
    names: list[str] | None
    if expand is None or (callable(expand) and not is_c_function(expand)):
        described, expander, names = describe(dim, variables, dims, coords, expand, start, batched=False)
    else:
        if variables is None:
            raise ValueError("an expand function in C needs the shapes of the variables that it writes: give variables")
        described = variables_of_shapes(variables, dims, coords)
        expander = CExpander(address_of(expand, "expand"), data, described, kept)
        names = element_names([Variable(DEFAULT_NAME, (dim,), np.dtype(np.float64))])
    parts = Parts(
        lambda: Density(address, data, keep_alive=kept),
        described,
        checked_coords(coords, described),
        expander,
        start,
        names,
        flag("thread_safe", thread_safe),
    )
    model = FunctionModel(dim, parts)
    if flag("check", check):
        check_entry(model, "the log density")
    return model


def from_library(
    path: str | os.PathLike[str], symbol: str, dim: int, *, expand: Any = None, **options: Any
) -> FunctionModel:
    """Make a model of a log density in a shared library, compiled from C, C++, Rust or another language.

    Parameters
    ----------
    path : path
        The library, such as ``density.so``.
    symbol : str
        Name of the function in it, of the type ``nutpie_logp_fn`` of the header ``nutpie.h``.
    dim : int
        Number of parameters.
    expand : str, optional
        Name of a function in it of the type ``nutpie_expand_fn``, which computes the variables of the result; or as of
        `nutpie.from_cfunc`.
    **options
        As of `nutpie.from_cfunc`.

    Returns
    -------
    FunctionModel
        For `nutpie.sample`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is no library for this machine.
    ValueError
        If it has no function of this name; and as of `nutpie.from_cfunc`.

    Examples
    --------
    >>> model = nutpie.from_library("density.so", "logp", 10, variables={"mu": (), "log_tau": (), "theta": (8,)})
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no library {os.fspath(path)!r}")
    library = ctypes.CDLL(str(file.resolve()))
    if isinstance(expand, str):
        expand = load_symbol(library, expand)
    options["keep_alive"] = (library, options.get("keep_alive"))
    return from_cfunc(load_symbol(library, symbol), dim, expand=expand, **options)
