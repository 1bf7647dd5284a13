"""Log densities that are Python functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from nutpie import _lib
from nutpie._arguments import flag, whole_number
from nutpie.models._function_checks import check_device_output, check_entry, check_output
from nutpie.models._function_expand import Expander, PointExpander, RowsExpander, Split, shapes_and_dtypes
from nutpie.models._function_model import FunctionModel, Parts, Start, start_at
from nutpie.models._function_variables import (
    DEFAULT_NAME,
    checked_coords,
    element_names,
    parts_of_point,
    variables_of_shapes,
)
from nutpie.models._names import unknown_name
from nutpie.models.base import BatchDensity, DrawContext, Variable

__all__ = ["PyFuncModel", "from_logp", "from_pyfunc"]

#: Kinds of devices whose memory other libraries can work on.
SHARED = ("cpu", "cuda")


def from_logp(
    function: Callable[..., Any],
    dim: int,
    *,
    batched: bool = False,
    variables: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str] | str] | None = None,
    coords: Mapping[str, Any] | None = None,
    expand: Callable[[np.ndarray], Mapping[str, Any]] | None = None,
    initial_point: Any = None,
    width: int | None = None,
    lockstep: bool = True,
    releases_gil: bool = False,
    device: str | None = None,
    check: bool = True,
) -> FunctionModel:
    """Make a model of a Python function that returns a log density and its gradient.

    The chains of a run advance together, and with ``batched=True`` one call of the function evaluates a point of each;
    that is where Python, NumPy, JAX or PyTorch gain most. Draws are the same as with one chain at a time.

    Parameters
    ----------
    function : callable
        Takes a point, a float64 array of shape (dim,) on the unconstrained scale, and returns a pair: the log density,
        up to a constant, and its gradient of shape (dim,). With ``batched=True`` it takes points of shape (k, dim) and
        returns log densities of shape (k,) and gradients of shape (k, dim). A log density that is NaN, or a gradient
        that is not finite, counts as a divergence, and so does an ``ArithmeticError``, a ``numpy.linalg.LinAlgError``
        or an exception whose attribute ``is_recoverable`` is true. Any other exception ends the run and arrives with
        its traceback; the draws so far are in its attribute ``partial_trace``.
    dim : int
        Number of parameters.
    batched : bool, default False
        Whether the function, and `expand`, take many points at once.
    variables : dict, optional
        Shape of each variable of the result by name, such as ``{"mu": (), "theta": (8,)}``. Without `expand` they are
        the parts of the point, in order; the default is one variable ``x`` of shape (dim,). With `expand` they are what
        it returns, and need not be given.
    dims : dict, optional
        Names of dimensions by name of a variable, such as ``{"theta": ["school"]}``.
    coords : dict, optional
        Coordinate values by name of a dimension.
    expand : callable, optional
        Takes a point, or with ``batched=True`` draws of shape (n, dim), and returns a dict of variables for the result:
        values on another scale, derived quantities, predictions. It is called for draws, after the run.
    initial_point : array of shape (dim,) or callable, optional
        Where chains start if `nutpie.sample` is not told: a point, or a function that takes a `numpy.random.Generator`
        and returns one. The default is uniform from -2 to 2.
    width : int, optional
        With ``batched=True``, number of rows of every call, for functions that are compiled for a shape; missing rows
        repeat another, and more chains than that take several calls. By default a call has as many rows as chains run.
    lockstep : bool, default True
        Whether chains advance together. False runs one chain after the other.
    releases_gil : bool, default False
        Whether the function can be called by several threads at once, and spends most of its time without the lock of
        the interpreter. Then `nutpie.sample` uses its `cores`, each with an equal share of the chains.
    device : {"cpu", "cuda"}, optional
        With ``batched=True``, the device that the function works on; ``"cuda:1"`` is one of several. It gets the points
        as an object that other libraries make an array of without a copy, by DLPack (``jax.dlpack.from_dlpack(x)``,
        ``torch.from_dlpack(x)``, ``cupy.from_dlpack(x)``) or by the CUDA array interface, and may return arrays of that
        library. The points must not be written. With ``nutpie.sample(model, device="cuda")`` nothing but log densities
        comes to the host then. Chains may be elsewhere all the same: then points and gradients are copied. With
        ``device_dtype="float32"`` the points are in single precision. By default the function gets NumPy's arrays.
    check : bool, default True
        Whether to check the function at a random start: types and shapes of what it returns, that it depends on the
        point alone and not on other rows, and the gradient, by differences (`nutpie.check_gradient`).

    Returns
    -------
    FunctionModel
        For `nutpie.sample`.

    Raises
    ------
    TypeError, ValueError
        If something does not fit, naming what; with ``check=True`` also if the gradient is wrong.
    Exception
        Whatever the function raises when it is checked.

    Examples
    --------
    >>> def logp(x):
    ...     return -0.5 * x @ x, -x
    >>> model = nutpie.from_logp(logp, 3)
    >>> idata = nutpie.sample(model, seed=1)
    """
    dim = whole_number("dim", dim, least=1)
    _callable("function", function)
    batched, check = flag("batched", batched), flag("check", check)
    if width is not None and not batched:
        raise ValueError("width is the number of rows of a call; it has no effect without batched=True")
    width = None if width is None else whole_number("width", width, least=1)
    where = None if device is None else _shared_device(device, batched=batched)
    evaluate = function if batched else _Rows(function)
    density = BatchDensity(
        evaluate if where is None else _lib.DeviceFunction(function, dim, width, where),
        width if where is None else None,
        lockstep=flag("lockstep", lockstep),
        releases_gil=flag("releases_gil", releases_gil),
    )
    start = start_at(dim, initial_point)
    described, expander, names = describe(dim, variables, dims, coords, expand, start, batched=batched)
    parts = Parts(lambda: density, described, checked_coords(coords, described), expander, start, names)
    model = FunctionModel(dim, parts)
    if check:
        point = model.initial_point((0, 0, 0))
        points = np.stack([point] * (width or 2)) if batched else point
        if where is None:
            check_output(function, points, "the log density")
        else:
            check_device_output(function, points, where, "the log density")
        check_entry(model, "the log density")
    return model


def _shared_device(device: Any, *, batched: bool) -> str:
    """Check the name of a device that a function is to work on."""
    if not batched:
        raise ValueError(f"device={device!r} needs batched=True: the points of all chains are one array")
    if not isinstance(device, str) or device.partition(":")[0] not in SHARED:
        raise ValueError(
            f"device={device!r}: the memory that other libraries work on is that of 'cpu' or 'cuda'. Chains may be on "
            "any device, whatever this one is"
        )
    _lib.check_device(device, False)
    return device


def describe(
    dim: int,
    variables: Mapping[str, Any] | None,
    dims: Mapping[str, Sequence[str] | str] | None,
    coords: Mapping[str, Any] | None,
    expand: Callable[[np.ndarray], Mapping[str, Any]] | None,
    start: Start,
    *,
    batched: bool,
) -> tuple[list[Variable], Expander, list[str] | None]:
    """Find the variables of a model, what computes them, and the names of the parameters if they are not theirs."""
    if expand is None:
        described = variables_of_shapes(parts_of_point(variables, dim), dims, coords)
        return described, Split(described), None
    function = _callable("expand", expand)
    dtypes = None
    if variables is None:
        point = np.array(start((0, 0, 0)), dtype=np.float64)
        variables, dtypes = shapes_and_dtypes(function(point[None] if batched else point), rows=batched)
    described = variables_of_shapes(variables, dims, coords, dtypes)
    expander = RowsExpander(function, described) if batched else PointExpander(lambda _context: function, described)
    return described, expander, element_names([Variable(DEFAULT_NAME, (dim,), np.dtype(np.float64))])


def from_pyfunc(
    ndim: int,
    make_logp_fn: Callable[[], Callable[..., Any]],
    make_expand_fn: Callable[[int, int, int], Callable[..., Mapping[str, Any]]],
    expanded_dtypes: Sequence[Any],
    expanded_shapes: Sequence[Sequence[int]],
    expanded_names: Sequence[str],
    *,
    initial_mean: Any = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str] | str] | None = None,
    shared_data: Mapping[str, Any] | None = None,
    make_initial_point_fn: Callable[[int], Any] | None = None,
    raise_logp_error: bool = True,
    check: bool = True,
) -> PyFuncModel:
    """Make a model of functions that make a log density and an expand function.

    The signature is that of the older package's ``nutpie.compiled_pyfunc.from_pyfunc``. New code is shorter with
    `nutpie.from_logp`.

    Parameters
    ----------
    ndim : int
        Number of parameters.
    make_logp_fn : callable
        Called without arguments by each thread that samples; returns a function of a point of shape (ndim,) and of the
        shared data by keyword, which returns the log density and its gradient, as of `nutpie.from_logp`.
    make_expand_fn : callable
        Called with two seeds below 2**32 and the index of a chain; returns a function of a point and of the shared data
        by keyword, which returns a dict of arrays. It is called for each draw of the chain, in order.
    expanded_dtypes, expanded_shapes, expanded_names : list
        Dtype, shape and name of each variable that it returns.
    initial_mean : array of shape (ndim,), optional
        Starts are uniform within 1 of it. By default they are uniform from -2 to 2.
    coords, dims : dict, optional
        Coordinate values by name of a dimension, and names of dimensions by name of a variable.
    shared_data : dict, optional
        Passed to both functions by keyword; `PyFuncModel.with_data` replaces them.
    make_initial_point_fn : callable, optional
        Takes a seed below 2**32 and returns a start of shape (ndim,).
    raise_logp_error : bool, default True
        Whether an exception of the log density ends the run, with the exceptions that `nutpie.from_logp` names. With
        False every exception counts as a divergence.
    check : bool, default True
        As of `nutpie.from_logp`.

    Returns
    -------
    PyFuncModel
        For `nutpie.sample`.

    Raises
    ------
    TypeError, ValueError
        If something does not fit, naming what; with ``check=True`` also if the gradient is wrong.
    """
    ndim = whole_number("ndim", ndim, least=1)
    for name, function in (("make_logp_fn", make_logp_fn), ("make_expand_fn", make_expand_fn)):
        _callable(name, function)
    if not len(expanded_names) == len(expanded_shapes) == len(expanded_dtypes):
        raise ValueError(
            f"expanded_names, expanded_shapes and expanded_dtypes must have the same length, not "
            f"{len(expanded_names)}, {len(expanded_shapes)} and {len(expanded_dtypes)}"
        )
    shapes = dict(zip(expanded_names, expanded_shapes, strict=True))
    dtypes = dict(zip(expanded_names, expanded_dtypes, strict=True))
    if len(shapes) != len(expanded_names):
        raise ValueError(f"expanded_names has a name twice: {list(expanded_names)}")
    described = variables_of_shapes(shapes, dims, coords, dtypes)
    functions = _Functions(make_logp_fn, make_expand_fn, flag("raise_logp_error", raise_logp_error))
    start = _start_of_pyfunc(ndim, initial_mean, make_initial_point_fn)
    model = PyFuncModel(ndim, functions, described, checked_coords(coords, described), start, dict(shared_data or {}))
    if flag("check", check):
        point = model.initial_point((0, 0, 0))
        if raise_logp_error:
            check_output(partial(make_logp_fn(), **model.shared_data), point, "the log density")
        check_entry(model, "the log density")
    return model


class _Functions:
    """The functions of a user that a `PyFuncModel` calls."""

    def __init__(self, make_logp: Callable[..., Any], make_expand: Callable[..., Any], raise_errors: bool) -> None:
        self.make_logp = make_logp
        self.make_expand = make_expand
        self.raise_errors = raise_errors


class PyFuncModel(FunctionModel):
    """A model made by `nutpie.from_pyfunc`, whose data can be replaced."""

    def __init__(
        self,
        n_dim: int,
        functions: _Functions,
        variables: Sequence[Variable],
        coords: Mapping[str, np.ndarray],
        start: Start,
        shared_data: dict[str, Any],
    ) -> None:
        self._functions = functions
        self.shared_data = shared_data
        names = element_names([Variable(DEFAULT_NAME, (n_dim,), np.dtype(np.float64))])
        expander = PointExpander(self._make_expand, variables)
        super().__init__(n_dim, Parts(self._make_density, variables, coords, expander, start, names))

    def with_data(self, **updates: Any) -> PyFuncModel:
        """Return the same model with other data.

        Parameters
        ----------
        **updates
            New values of some of the shared data, by name.

        Raises
        ------
        ValueError
            For a name that is not among the shared data.
        """
        for name in updates:
            if name not in self.shared_data:
                raise ValueError(unknown_name(name, self.shared_data, "shared data"))
        parts = self._parts
        return PyFuncModel(
            self.n_dim, self._functions, parts.variables, parts.coords, parts.start, self.shared_data | updates
        )

    def _make_density(self) -> BatchDensity:
        make = self._functions.make_logp
        own = threading.local()

        def logp(point: np.ndarray) -> Any:
            if not hasattr(own, "function"):
                own.function = partial(make(), **self.shared_data)
            return own.function(point)

        return BatchDensity(_Rows(logp, self._functions.raise_errors))

    def _make_expand(self, context: DrawContext) -> Callable[[np.ndarray], Any]:
        # Draws of the warm-up and those after it are expanded apart, so each have seeds of their own.
        entropy = np.random.SeedSequence((context.seed, context.chain, int(context.warmup)))
        first, second = map(int, entropy.generate_state(2, np.uint32))
        return partial(self._functions.make_expand(first, second, context.chain), **self.shared_data)


class _Rows:
    """Evaluates a function of one point at each row."""

    def __init__(self, function: Callable[[np.ndarray], Any], raise_errors: bool = True) -> None:
        self._function = function
        self._raise_errors = raise_errors

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logp, grad = np.empty(len(points)), np.empty_like(points)
        for row, point in enumerate(points):
            try:
                value, gradient = self._function(point)
            except Exception:
                if self._raise_errors:
                    raise
                logp[row] = grad[row] = np.nan
                continue
            logp[row], grad[row] = value, gradient
        return logp, grad


def _start_of_pyfunc(ndim: int, mean: Any, make: Callable[[int], Any] | None) -> Start:
    if mean is not None and make is not None:
        raise ValueError("give initial_mean or make_initial_point_fn, not both")
    if make is not None:
        _callable("make_initial_point_fn", make)
        return lambda seed: make(int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint32)[0]))
    if mean is None:
        return start_at(ndim, None)
    center = np.array(mean, dtype=np.float64)
    if center.shape != (ndim,):
        raise ValueError(f"initial_mean has shape {center.shape}, ({ndim},) is needed")
    return lambda seed: center + np.random.default_rng(list(seed)).uniform(-1.0, 1.0, ndim)


def _callable(name: str, function: Any) -> Any:
    if not callable(function):
        raise TypeError(f"{name} must be a function, not {type(function).__name__}")
    return function
