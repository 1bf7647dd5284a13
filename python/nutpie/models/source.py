"""Log densities in source, which a GPU compiles and evaluates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nutpie import _lib
from nutpie._arguments import whole_number
from nutpie.models._function_model import FunctionModel
from nutpie.models.function import from_logp

__all__ = ["from_source"]


def from_source(
    source: str | Path,
    dim: int,
    *,
    data: Any = (),
    device: str = "opencl",
    variables: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str] | str] | None = None,
    coords: Mapping[str, Any] | None = None,
    expand: Callable[[np.ndarray], Mapping[str, Any]] | None = None,
    initial_point: Any = None,
    check: bool = True,
) -> FunctionModel:
    """Make a model of a log density in the common subset of CUDA C and OpenCL C.

    With ``nutpie.sample(model, device="cuda")`` or ``"opencl"`` the device compiles the source and evaluates the log
    density where the chains are: nothing but numbers for each chain comes to the host. The source defines::

        FUNCTION double logp_grad(i64 dim, GLOBAL const real *x, GLOBAL real *grad, GLOBAL const double *data,
                                  LOCAL double *room)

    All ``GROUP`` items of a work group call it together for one chain. Each writes its part of the gradient, by custom
    the coordinates ``ITEM``, ``ITEM + GROUP`` and so on, and returns its part of the log density; the parts are added
    up. ``real`` is the type of the device's arrays, ``double`` or ``float``. ``sum_items(room, v, n)`` replaces each of
    ``n`` numbers, at most 4, by its sum over the items, all of which must call it. ``BARRIER()`` makes items wait for
    each other. A log density that is NaN counts as a divergence.

    Parameters
    ----------
    source : str or pathlib.Path
        The source, or the path of a file with it.
    dim : int
        Number of parameters.
    data : array_like, default ()
        Numbers that the function gets as ``data``, flat and in double precision.
    device : str, default "opencl"
        The device that checks the function and looks for starting points: ``"opencl"``, ``"cuda"``, or one of several
        such as ``"cuda:1"``. It also evaluates points of chains of the CPU, if `nutpie.sample` is not told otherwise.
    variables, dims, coords
        As of `nutpie.from_logp`.
    expand : callable, optional
        Takes draws of shape (n, dim) on the host and returns a dict of variables for the result.
    initial_point : array of shape (dim,) or callable, optional
        As of `nutpie.from_logp`.
    check : bool, default True
        Whether to compile the function and check its gradient at a random start (`nutpie.check_gradient`).

    Returns
    -------
    FunctionModel
        For `nutpie.sample`.

    Raises
    ------
    TypeError, ValueError
        If something does not fit, naming what; for a device that is not there; with ``check=True`` also if the gradient
        is wrong.
    RuntimeError
        If the source does not compile, with the messages of the compiler.

    Examples
    --------
    >>> source = '''
    ... FUNCTION double logp_grad(i64 dim, GLOBAL const real *x, GLOBAL real *grad, GLOBAL const double *data,
    ...                           LOCAL double *room) {
    ...     double logp = 0;
    ...     for (i64 i = ITEM; i < dim; i += GROUP) {
    ...         grad[i] = -x[i] / data[i];
    ...         logp -= 0.5 * x[i] * x[i] / data[i];
    ...     }
    ...     return logp;
    ... }'''
    >>> model = nutpie.from_source(source, 3, data=[1.0, 4.0, 9.0])
    >>> idata = nutpie.sample(model, device="opencl", seed=1)
    """
    dim = whole_number("dim", dim, least=1)
    text = source.read_text() if isinstance(source, Path) else source
    if not isinstance(text, str) or "logp_grad" not in text:
        raise ValueError("source must define a function logp_grad")
    if not isinstance(device, str) or device.partition(":")[0] not in ("opencl", "cuda"):
        raise ValueError(f"device={device!r}: a source is compiled by 'opencl' or 'cuda'")
    _lib.check_device(device, False)
    function = _lib.SourceFunction(text, dim, np.ascontiguousarray(data, dtype=np.float64).ravel(), device)
    return from_logp(
        function,
        dim,
        batched=True,
        variables=variables,
        dims=dims,
        coords=coords,
        expand=expand,
        initial_point=initial_point,
        check=check,
    )
