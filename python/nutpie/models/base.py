"""What every front end hands to the sampler: one density callback plus the description of its variables."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nutpie import _lib

if TYPE_CHECKING:
    from nutpie.models._jax_batch import JaxProgram

__all__ = ["BatchDensity", "CompiledModel", "Density", "DrawContext", "PointwiseDensity", "Variable"]

#: Return codes of a density callback; the same numbers as in ``nutpie.h``.
OK = 0
RECOVERABLE = 1
FATAL = -1
BAD_DIMENSION = -2
PYTHON_EXCEPTION = -3

#: ``int64 logp(uint64 dim, const double *x, double *grad, double *logp, void *user_data)``. A ``PyDLL`` prototype, so
#: that a Python exception left behind by the callback is raised by the call.
LogpPrototype = ctypes.PYFUNCTYPE(
    ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)


@dataclass(frozen=True)
class Density:
    """Address of a C function with the ABI of ``nutpie.h``, and its data.

    Parameters
    ----------
    address
        Address of ``int64 logp(uint64 dim, const double *x, double *grad, double *logp, void *user_data)``.
    user_data
        Passed through to the function as its last argument.
    keep_alive
        Whatever must not be garbage-collected while the function can still be called.
    messages
        Returns the messages of recoverable errors so far, each once with how often it came; kept in the result.
    """

    address: int
    user_data: int = 0
    keep_alive: Any = field(default=None, repr=False)
    messages: Callable[[], Sequence[tuple[str, int]]] | None = field(default=None, repr=False)

    def evaluate(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return log density and gradient at a point of shape (n_dim,); NaN where there is a recoverable error."""
        return _lib.evaluate(self.address, self.user_data, np.ascontiguousarray(point, dtype=np.float64))

    def seconds(self, points: np.ndarray, num_evals: int, cores: int) -> list[tuple[float, ...]]:
        """Time evaluations at the one row of ``points``, on each of ``cores`` threads at once."""
        (point,) = points
        return _lib.benchmark_logp(self.address, self.user_data, point, num_evals, cores)

    def grouping(self, chains: int, cores: int) -> tuple[int, int]:
        """Return the number of threads to use, and that of chains that share a call."""
        return min(cores, chains), 1


@dataclass(frozen=True)
class BatchDensity:
    """A Python function that evaluates many points in one call.

    The chains of a run advance together: one call evaluates the next point of each of them, so that the interpreter is
    paid once for all. They do not wait for each other's trajectories. Draws are the same as with one chain at a time if
    the function computes each row by itself.

    Parameters
    ----------
    function
        Takes a C-contiguous float64 array of shape (k, n_dim), which is its own to keep, and returns a pair: log
        densities of shape (k,) and gradients of shape (k, n_dim), as anything that ``numpy.asarray`` understands. Where
        a log density is NaN or a gradient is not finite, the step counts as a divergence. An exception ends the run and
        reaches the user with its traceback; the draws so far are kept. But after an ``ArithmeticError``, a
        ``numpy.linalg.LinAlgError`` or an exception whose attribute ``is_recoverable`` is true each row is tried alone,
        and those that raise it again count as divergences.
    width
        Number of rows of every call, if it is to be the same always, so that a function that is compiled for a shape is
        compiled once: missing rows repeat another, and more chains than that are evaluated in several calls. By default
        a call has as many rows as chains are running.
    lockstep
        Whether chains share calls. False runs one chain after the other.
    releases_gil
        Whether the function spends most of its time without the lock of the interpreter, so that several threads are
        faster than one. Then each thread runs an equal share of the chains; otherwise one thread runs all.
    messages
        As of `Density`.
    program
        The same as a function of JAX, for ``device="jax"``.
    """

    function: Callable[[np.ndarray], tuple[Any, Any]]
    width: int | None = None
    lockstep: bool = True
    releases_gil: bool = False
    messages: Callable[[], Sequence[tuple[str, int]]] | None = field(default=None, repr=False)
    program: JaxProgram | None = field(default=None, repr=False)

    def evaluate(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return log density and gradient at a point of shape (n_dim,); NaN where there is a recoverable error."""
        logp, gradient = self.evaluate_rows(np.asarray(point)[None])
        return float(logp[0]), gradient[0]

    def evaluate_rows(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log densities (k,) and gradients (k, n_dim) at points of shape (k, n_dim)."""
        return _lib.evaluate_batch(self.function, self.width, np.ascontiguousarray(points, dtype=np.float64))

    def seconds(self, points: np.ndarray, num_evals: int, cores: int) -> list[tuple[float, ...]]:
        """Time evaluations of all rows of ``points``, on each of ``cores`` threads at once."""
        return _lib.benchmark_batch(self.function, self.width, points, num_evals, cores)

    def grouping(self, chains: int, cores: int) -> tuple[int, int]:
        """Return the number of threads to use, and that of chains that share a call."""
        threads = min(cores, chains) if self.releases_gil else 1
        return threads, -(-chains // threads) if self.lockstep else 1


@dataclass(frozen=True)
class Variable:
    """A variable of the result.

    Parameters
    ----------
    name
        Its name in the result.
    shape
        Shape of one draw.
    dtype
        Dtype of one draw.
    dims
        Names of its dimensions, without chain and draw; empty when it has none of its own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...] = ()


@dataclass(frozen=True)
class DrawContext:
    """Which draws of a run are expanded.

    Parameters
    ----------
    seed
        Seed of the run.
    chain
        Index of the chain.
    numbers
        Number of each draw within the warm-up or after it.
    warmup
        Whether the draws belong to the warm-up, or are starts.
    report
        Takes a message, and at how many draws something could not be computed because of it.
    """

    seed: int
    chain: int
    numbers: np.ndarray
    warmup: bool
    report: Callable[[str, int], None] = lambda _text, _count: None

    @classmethod
    def of_no_run(cls, count: int) -> DrawContext:
        """Return that of draws that belong to no run."""
        return cls(seed=0, chain=0, numbers=np.arange(count), warmup=False)

    def seeds32(self) -> np.ndarray:
        """Return a seed of 32 bits for each draw.

        Within a run they differ for up to 256 chains of up to 2**24 draws each: they are an invertible function of
        chain and number, which depends on the seed of the run. The mixing function is the finaliser of MurmurHash3.
        """
        key = np.random.SeedSequence(self.seed).generate_state(2, np.uint32)
        mixed = (np.asarray(self.numbers, dtype=np.uint32) << np.uint32(8)) ^ np.uint32(self.chain % 2**32)
        for word in key:
            mixed = mixed ^ word
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
                mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
            mixed = mixed ^ (mixed >> np.uint32(16))
        return mixed


@dataclass(frozen=True)
class PointwiseDensity:
    """Terms of the log density for each draw.

    Parameters
    ----------
    variables
        One for each variable of the model that has a term.
    compute
        From unconstrained draws of shape (n, n_dim) to an array for each of ``variables``, whose shape is n followed
        by the variable's.
    """

    variables: Sequence[Variable]
    compute: Callable[[np.ndarray], dict[str, np.ndarray]]


class CompiledModel(ABC):
    """A model that is ready to be sampled.

    A front end subclasses this once; the sampler uses nothing else of it.
    """

    @property
    @abstractmethod
    def n_dim(self) -> int:
        """Number of unconstrained parameters."""

    @property
    @abstractmethod
    def variables(self) -> Sequence[Variable]:
        """The variables that a result holds, in order."""

    @property
    def warmup_variables(self) -> Sequence[Variable]:
        """Those of ``variables`` that are computed for draws of the warm-up, and for starts, too."""
        return self.variables

    @property
    @abstractmethod
    def coords(self) -> Mapping[str, Any]:
        """Coordinate values by dimension name."""

    @property
    @abstractmethod
    def unconstrained_names(self) -> Sequence[str]:
        """One name for each unconstrained parameter, such as ``mu`` or ``sigma_log___0``."""

    @property
    def unconstrained_variables(self) -> Sequence[Variable]:
        """The variables whose values, one after the other, are an unconstrained point."""
        return [Variable("unconstrained", (self.n_dim,), np.dtype(np.float64), ("unconstrained_parameter",))]

    @abstractmethod
    def density(self) -> Density | BatchDensity:
        """Return the callback: a C function, or a Python function of many points.

        The former must be safe to call from several threads at once, unless `usable_cores` says otherwise; the latter
        only if it says that it releases the lock of the interpreter.
        """

    def density_for(self, chains: int) -> Density | BatchDensity:
        """Return what `density` returns, for a run of so many chains: some compile for a number of them."""
        del chains
        return self.density()

    @abstractmethod
    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the variables of the result from unconstrained draws.

        Parameters
        ----------
        draws
            Array of shape (n, n_dim).

        Returns
        -------
        dict
            For each of ``variables`` an array whose shape is n followed by the variable's.
        """

    def expand_draws(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables of the result where it is known which draws of a run these are.

        Parameters
        ----------
        draws
            Array of shape (n, n_dim).
        context
            Which they are. A front end that draws random numbers takes them from it.

        Returns
        -------
        dict
            As of `expand`; for draws of the warm-up at least those of ``warmup_variables``.
        """
        del context
        return self.expand(draws)

    @abstractmethod
    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a random start on the unconstrained scale, of shape (n_dim,).

        Parameters
        ----------
        seed
            Entropy for ``numpy.random.default_rng``; the same seed gives the same point.
        """

    @property
    def free_variables(self) -> Sequence[str]:
        """Names of the variables, on their own scale, whose values together determine a point; see `unconstrain`."""
        return ()

    def unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        """Replace a part of an unconstrained point by values given by name.

        What a transform depends on, such as bounds that are variables themselves, is taken from ``values`` where it is
        given there, and from ``base`` elsewhere.

        Parameters
        ----------
        values : dict
            By name of a free variable, its value on its own scale and of its shape; or by name of an unconstrained
            variable where there are some, as in ``unconstrained_variables``, its unconstrained value. PyMC's variables
            do as keys, too.
        base : array of shape (n_dim,)
            The point that supplies the rest.

        Returns
        -------
        array of shape (n_dim,)
            A new array.

        Raises
        ------
        TypeError
            If the front end only takes unconstrained arrays.
        ValueError
            For a name that is not of a free variable, a wrong shape, or a value outside the support of the variable.

        Examples
        --------
        >>> compiled.unconstrain({"sigma": 2.0}, compiled.initial_point([0]))
        """
        base = np.array(base, dtype=np.float64)
        if base.shape != (self.n_dim,):
            raise ValueError(f"base has shape {base.shape}, ({self.n_dim},) is needed")
        return self._unconstrain(values, base)

    def _unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        """Do what `unconstrain` says; ``base`` is a copy of its own, of the right shape."""
        del values, base
        raise TypeError(
            f"{type(self).__name__} takes starts only as arrays of {self.n_dim} unconstrained numbers, not by the "
            "names of variables"
        )

    def _checked_draws(self, draws: np.ndarray) -> np.ndarray:
        """Return draws as a C-contiguous array of doubles; a ValueError if their shape is not (n, n_dim)."""
        draws = np.ascontiguousarray(draws, dtype=np.float64)
        if draws.ndim != 2 or draws.shape[1] != self.n_dim:
            raise ValueError(f"draws have shape {draws.shape}, (n, {self.n_dim}) is needed")
        return draws

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one draw of each variable."""
        return {v.name: v.shape for v in self.variables}

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names of each variable that has some."""
        return {v.name: v.dims for v in self.variables if v.dims}

    def data_groups(self) -> dict[str, dict[str, np.ndarray]]:
        """Return groups such as ``observed_data`` and ``constant_data``: for each the arrays by name."""
        return {}

    def data_dims(self) -> dict[str, tuple[str, ...]]:
        """Return dimension names of the arrays of ``data_groups``, where they have some."""
        return {}

    def pointwise(self, group: Literal["log_likelihood", "log_prior"]) -> PointwiseDensity:
        """Return the terms of the log density that a group of the result holds.

        Parameters
        ----------
        group
            ``"log_likelihood"`` for the log density of each observation, ``"log_prior"`` for those of the free
            variables.

        Raises
        ------
        NotImplementedError
            If the front end cannot take the log density apart.
        ValueError
            If the model has no variables of that kind.
        """
        raise NotImplementedError(
            f"{group}=True is not available for a {type(self).__name__}, whose log density has no known terms: leave "
            "it out, or compute the values from the draws of the result"
        )

    def usable_cores(self, cores: int, chains: int) -> int:
        """Return on how many of ``cores`` threads the density may be called at once."""
        del chains
        return cores

    def attributes(self) -> dict[str, str]:
        """Return what the attributes of a result say of the model."""
        return {}

    def complete(self, groups: dict[str, Any]) -> dict[str, Any]:
        """Add to the groups of a result what only the model can say, once all others are there.

        Parameters
        ----------
        groups
            Datasets by name of the group.

        Returns
        -------
        dict
            The groups of the result, in order.
        """
        return groups

    def benchmark_logp(
        self, point: np.ndarray | None = None, num_evals: int = 10, cores: int = 1, chains: int = 1
    ) -> Any:
        """Time the log density with its gradient, called from compiled code as the sampler does.

        Parameters
        ----------
        point : array of shape (n_dim,), optional
            Where to evaluate; the default is a start with seed 0.
        num_evals : int, default 10
            Number of timed evaluations.
        cores : int, default 1
            Number of threads that evaluate at the same time.
        chains : int, default 1
            Number of points in a call, for models whose density is a Python function of many points.

        Returns
        -------
        pandas.DataFrame or dict
            Columns ``core`` and ``time_us``: microseconds of each call. A dict of arrays if pandas is not installed.
        """
        at = self.initial_point((0,)) if point is None else np.ascontiguousarray(point, dtype=np.float64)
        if at.shape != (self.n_dim,):
            raise ValueError(f"point has shape {at.shape}, ({self.n_dim},) is needed")
        density = self.density()
        if chains != 1 and isinstance(density, Density):
            raise ValueError(f"chains={chains} has no meaning for a density of one point: use cores")
        points = np.ascontiguousarray(np.broadcast_to(at, (chains, self.n_dim)), dtype=np.float64)
        times = 1e6 * np.asarray(density.seconds(points, num_evals, cores), dtype=np.float64).reshape(cores, -1)
        table = {"core": np.repeat(np.arange(cores), times.shape[1]), "time_us": times.ravel()}
        try:
            import pandas as pd
        except ImportError:
            return table
        return pd.DataFrame(table)

    def explain_point(self, point: np.ndarray) -> str:
        """Say in words where the log density or its gradient is not finite at ``point``, naming variables."""
        names = np.asarray(self.unconstrained_names)
        bad = ~np.isfinite(point)
        if bad.any():
            return f"the start itself is not finite in {', '.join(names[bad][:5])}"
        return ""
