"""Functions of JAX over many points at once, in double precision whatever JAX does elsewhere."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from nutpie.models._jax_cost import work
from nutpie.models._jax_rows import one_by_one, over_rows

__all__ = [
    "DTYPES",
    "BatchedDensity",
    "BatchedFunction",
    "Dtype",
    "JaxProgram",
    "precision",
    "prompt_device",
    "sequential_options",
    "shape_of",
    "trace",
    "traced_in",
    "width_for",
]

Dtype = Literal["float64", "float32"]

#: What a density may be computed in.
DTYPES = ("float64", "float32")

T = TypeVar("T")

#: Steps between the numbers of rows that a density is compiled for, and the number below which there are none. A round
#: has fewer points when chains have ended, and compiling takes longer than some rows that are not needed.
WIDTH_FACTOR = 4
SMALL_WIDTH = 8

#: Most numbers of an array that is a constant of compiled code.
SMALL_CONSTANT = 2**16

#: Numbers that a call computes at most if one thread does it all: to share a call of less takes longer than it saves.
SINGLE_WORK = 2**20

#: Bytes of results of a call that `BatchedFunction` aims to stay below.
RESULT_MEMORY = 16 * 2**20

#: Most rows of a call of a `BatchedFunction`.
MOST_ROWS = 512


def precision(dtype: Dtype) -> contextlib.AbstractContextManager[Any]:
    """Let JAX compute in double precision inside of the context, in this thread, if that is what is wanted."""
    if dtype == "float32":
        return contextlib.nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    older: contextlib.AbstractContextManager[Any] = importlib.import_module("jax.experimental").enable_x64()
    return older


def trace(function: Callable[..., Any], dtype: Dtype, *arguments: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Let JAX read a function of Python once.

    Its large arrays, such as data, become arguments: compiled code does not repeat them, and does not take long to
    compile. Small ones stay constants, with which the compiler can compute what depends on nothing else: whether
    observations are in the support of their distribution, say. No trace refers to the arrays of the user. (While one
    does, JAX 0.10 takes them to be of the precision of that trace, also in other functions.)

    Parameters
    ----------
    function
        The function.
    dtype
        What it computes in.
    *arguments
        Shapes and dtypes of its arguments.

    Returns
    -------
    callable
        Takes the large constants, then the arguments.
    list
        The large constants.
    """
    import jax
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

    program, result = traced_in(dtype, lambda: jax.make_jaxpr(_once(function), return_shape=True)(*arguments))
    structure, jaxpr = jax.tree_util.tree_structure(result), program.jaxpr
    is_small = [_is_small(c) for c in program.consts]
    marked = list(zip(program.consts, is_small, strict=True))
    small = [np.array(c) for c, here in marked if here]
    large = [np.array(c) if isinstance(c, np.ndarray) else c for c, here in marked if not here]

    def call(constants: Sequence[Any], *arguments: Any) -> Any:
        given, kept = iter(constants), iter(small)
        every = [next(kept) if here else next(given) for here in is_small]
        flat = jax.tree_util.tree_leaves(arguments)
        return jax.tree_util.tree_unflatten(structure, jaxpr_as_fun(ClosedJaxpr(jaxpr, every))(*flat))

    return call, large


def _is_small(constant: Any) -> bool:
    """Whether it is an array that compiled code may well repeat."""
    import jax

    is_array = isinstance(constant, (np.ndarray, jax.Array)) and not jax.dtypes.issubdtype(
        constant.dtype, jax.dtypes.extended
    )
    return is_array and constant.size <= SMALL_CONSTANT


def shape_of(function: Callable[..., Any], dtype: Dtype, *arguments: Any) -> Any:
    """Return shapes and dtypes of what a function returns."""
    import jax

    return traced_in(dtype, lambda: jax.eval_shape(_once(function), *arguments))


def traced_in(dtype: Dtype, trace: Callable[[], T]) -> T:
    """Call what traces functions of the user, in a precision."""
    import jax

    with precision(dtype):
        try:
            return trace()
        except TypeError:
            # An array of the user may be of the precision of an older trace that refers to it; see `trace`.
            jax.clear_caches()
            return trace()


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as another object: JAX keeps traces as long as the function lives that it traced."""
    return lambda *arguments: function(*arguments)


def _on_device(arrays: Sequence[Any], dtype: Dtype, device: Any = None) -> list[Any]:
    import jax

    with precision(dtype):
        return [jax.device_put(array, device) for array in arrays]


@functools.cache
def prompt_device(*, single: bool) -> Any:
    """Return a CPU device on which a call is made by the thread that asks for it; None where JAX has no such thing.

    The CPU device of JAX hands each call over to another thread, and parts of it to more. That takes longer than the
    gradient of a small model. JAX has a setting for the first, which has no effect once anything was computed, and an
    environment variable for the second. Nothing else depends on the device: where it cannot be had, that of JAX does.

    Parameters
    ----------
    single
        Whether the calling thread does all of it.
    """
    import jax

    if jax.default_backend() != "cpu":
        return None
    try:
        clients = importlib.import_module("jax._src.lib").xla_client
        with _environment("PJRT_NPROC", "1") if single else contextlib.nullcontext():
            device = clients.make_cpu_client(asynchronous=False).local_devices()[0]
        on_it = jax.jit(lambda x: x + 1)(jax.device_put(np.ones(2, np.float32), device))
        return device if np.array_equal(np.asarray(on_it), [2.0, 2.0]) else None
    except Exception:  # No part of JAX's public interface, so anything may go wrong there.
        return None


@functools.cache
def sequential_options() -> dict[str, Any]:
    """Return options of the compiler with which the parts of a call are made one after the other.

    Otherwise the thread that makes a call hands parts of it over even if there is only one other thread. Empty where
    JAX does not know them.
    """
    import jax

    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(np.ones(2, np.float32)).block_until_ready()
    except Exception:  # They are no part of JAX's public interface either.
        return {}
    return options


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@dataclass(frozen=True)
class JaxProgram:
    """A log density and its gradient at many points, for devices that JAX's arrays live on.

    Parameters
    ----------
    function
        From points of shape (k, n_dim), constants and data to log densities and gradients.
    constants, data
        Its other arguments.
    dtype
        What it computes in.
    compiled
        What was made of it, by name; kept as long as the model.
    """

    function: Callable[[Any, Sequence[Any], Sequence[Any]], tuple[Any, Any]]
    constants: Sequence[Any]
    data: Sequence[Any]
    dtype: Dtype
    compiled: dict[str, Any]

    def on(self, device: Any) -> tuple[list[Any], list[Any]]:
        """Return constants and data on a device."""
        return _on_device(self.constants, self.dtype, device), _on_device(self.data, self.dtype, device)

    def on_arrays(self) -> Callable[[Any], tuple[Any, Any]]:
        """Return a function of an object that has an array of points by DLPack, on whatever device that is.

        It is one call of a compiled function, and nothing is copied. Gradients are of the precision of the points.
        """
        import jax

        def every(points: Any, constants: Sequence[Any], data: Sequence[Any]) -> tuple[Any, Any]:
            logp, gradient = self.function(points.astype(self.dtype), constants, data)
            return logp, gradient.astype(points.dtype)

        function = self.compiled.setdefault("on_arrays", jax.jit(every))
        held: dict[Any, tuple[list[Any], list[Any]]] = {}

        def evaluate(x: Any) -> tuple[Any, Any]:
            with precision(self.dtype):
                points = jax.dlpack.from_dlpack(x)
                (device,) = points.devices()
                if device not in held:
                    held[device] = self.on(device)
                logp, gradient = function(points, *held[device])
                return logp, gradient

        return evaluate


class BatchedDensity:
    """A log density and its gradient at many points in one call.

    Parameters
    ----------
    function
        From a point of shape (n_dim,), and perhaps arrays of data, to the log density and its gradient.
    n_dim
        Number of parameters.
    dtype
        What it computes in.
    data
        Arrays of data with the shapes that they will have.
    """

    def __init__(
        self, function: Callable[..., tuple[Any, Any]], n_dim: int, dtype: Dtype, data: Sequence[np.ndarray] = ()
    ) -> None:
        import jax

        def every(
            points: Any, constants: Sequence[Any], data: Sequence[Any], *, single: bool = False
        ) -> tuple[Any, Any]:
            logp, gradient = over_rows(lambda point: traced(constants, point, *data), single=single)(points)
            return logp, gradient

        arguments = [jax.ShapeDtypeStruct((n_dim,), dtype), *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data)]
        traced, self._constants = trace(function, dtype, *arguments)
        program = traced_in(dtype, lambda: jax.make_jaxpr(traced)(self._constants, *arguments)).jaxpr
        # Several threads would have to compute points one after the other, which takes longer than one takes.
        self._most_single = sys.maxsize if one_by_one(program) else SINGLE_WORK // max(work(program), 1)
        self._every = every
        self._placed: dict[Any, tuple[Callable[..., Any], list[Any]]] = {}
        self._compiled: dict[str, Any] = {}
        self._dtype = dtype

    def for_run(
        self, data: Sequence[np.ndarray] = (), *, chains: int = 1
    ) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Return a function from points of shape (k, n_dim) to log densities (k,) and gradients (k, n_dim).

        The number of rows of a call depends on the number of chains and on what this function was called with before,
        and on nothing else: in the last digit the result depends on it, and runs should be repeatable.
        """
        most = chains
        single = chains <= self._most_single
        device = prompt_device(single=single)
        function, constants = self._on(device, single and device is not None)
        held = _on_device(data, self._dtype, device)

        def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal most
            rows = len(points)
            most = max(most, rows)
            points = _padded(points.astype(self._dtype, copy=False), width_for(rows, most))
            with precision(self._dtype):
                logp, gradient = function(points, constants, held)
                return np.asarray(logp)[:rows], np.asarray(gradient)[:rows]

        return evaluate

    def _on(self, device: Any, single: bool) -> tuple[Callable[..., Any], list[Any]]:
        """Return the function that is compiled for a device, perhaps of a single thread, and the constants there."""
        import jax

        if device not in self._placed:
            where: dict[str, Any] = (
                {} if device is None else {"in_shardings": jax.sharding.SingleDeviceSharding(device)}
            )
            if single and (options := sequential_options()):
                where["compiler_options"] = options
            constants = _on_device(self._constants, self._dtype, device)
            self._placed[device] = jax.jit(functools.partial(self._every, single=single), **where), constants
        return self._placed[device]

    def program(self, data: Sequence[np.ndarray] = ()) -> JaxProgram:
        """Return what a device of JAX needs."""
        return JaxProgram(self._every, self._constants, data, self._dtype, self._compiled)


def width_for(rows: int, most: int) -> int:
    """Choose the smallest of ``most`` and its parts by `WIDTH_FACTOR` that has at least ``rows``."""
    width = most
    while width > SMALL_WIDTH and width // WIDTH_FACTOR >= rows:
        width //= WIDTH_FACTOR
    return width


class BatchedFunction:
    """Variables by name at many points.

    Parameters
    ----------
    function
        From a point of shape (n_dim,), and the seed of a draw if it takes one, to a dict of arrays.
    n_dim
        Number of parameters.
    dtype
        What it computes in.
    with_seeds
        Whether it takes a seed.
    """

    def __init__(
        self, function: Callable[..., dict[str, Any]], n_dim: int, dtype: Dtype, *, with_seeds: bool = False
    ) -> None:
        import jax

        arguments = [jax.ShapeDtypeStruct((n_dim,), dtype)]
        if with_seeds:
            arguments.append(jax.ShapeDtypeStruct((), np.uint32))
        order: list[str] = []

        def ordered(*arguments: Any) -> dict[str, Any]:
            found = function(*arguments)
            order[:] = found
            return found

        results = shape_of(ordered, dtype, *arguments)
        # JAX sorts the keys of dicts.
        self.results = {name: (tuple(results[name].shape), np.dtype(results[name].dtype)) for name in order}
        traced, constants = trace(function, dtype, *arguments)
        self._constants = _on_device(constants, dtype)
        self._function = jax.jit(
            lambda constants, *arguments: over_rows(lambda *row: traced(constants, *row))(*arguments)
        )
        self._dtype = dtype
        self._with_seeds = with_seeds
        row = sum(math.prod(shape) * kind.itemsize for shape, kind in self.results.values()) + 8 * n_dim
        self._most_rows = max(1, min(MOST_ROWS, RESULT_MEMORY // max(row, 1)))

    def __call__(self, points: np.ndarray, seeds: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Arrays of shape (n, ...) for points of shape (n, n_dim)."""
        points = points.astype(self._dtype, copy=False)
        if self._with_seeds and seeds is None:
            raise ValueError("a function that draws random numbers needs a seed for each point")
        arguments = [points] if seeds is None or not self._with_seeds else [points, np.asarray(seeds, np.uint32)]
        parts = [
            self._call([argument[i : i + self._most_rows] for argument in arguments])
            for i in range(0, len(points), self._most_rows)
        ]
        return {
            name: np.concatenate([part[name] for part in parts] or [np.empty((0, *shape), kind)])
            for name, (shape, kind) in self.results.items()
        }

    def _call(self, arguments: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(arguments[0])
        # Few widths, so that few are compiled: 8, 64, 512.
        width = min(self._most_rows, 8 ** max(1, math.ceil(math.log(rows, 8) - 1e-9)))
        with precision(self._dtype):
            results = self._function(self._constants, *(_padded(argument, width) for argument in arguments))
            return {name: np.asarray(value)[:rows] for name, value in results.items()}


def _padded(array: np.ndarray, width: int) -> np.ndarray:
    """Append copies of the first row."""
    missing = width - len(array)
    return np.concatenate([array, np.broadcast_to(array[0], (missing, *array.shape[1:]))]) if missing else array
