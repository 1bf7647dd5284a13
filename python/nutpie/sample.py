"""`sample`: from a compiled model to a result."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib
from nutpie.settings import document, resolve

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel, Density

__all__ = ["sample"]

#: Random starts that are tried for each chain before giving up.
START_TRIES = 100

#: Seconds between looks at the progress of a run, which is also how long an interrupt may wait.
WATCH_INTERVAL = 0.1

_KEYWORDS = ("draws", "tune", "chains", "cores", "seed", "init", "save_warmup", "progress_bar")


@document
def sample(
    compiled_model: CompiledModel,
    *,
    draws: int = 1000,
    tune: int | None = None,
    chains: int = 4,
    cores: int | None = None,
    seed: int | None = None,
    init: Any = None,
    save_warmup: bool = True,
    progress_bar: bool = True,
    **settings: Any,
) -> Any:
    """Sample from the posterior distribution of a compiled model with the no-U-turn sampler.

    During warm-up a diagonal metric is estimated from draws and gradients by the Fisher divergence (Seyboldt, Carlson
    and Carpenter 2025), and the step size by dual averaging (Hoffman and Gelman 2014). Draws depend on the seed, the
    model and the settings, not on the number of cores.

    Parameters
    ----------
    compiled_model : CompiledModel
        What `nutpie.compile_pymc_model` returns.
    draws : int, default 1000
        Draws of each chain after warm-up. May be 0.
    tune : int, optional
        Warm-up draws of each chain; 400 by default. With 0 the metric comes from the first gradient and the step size
        from a short search.
    chains : int, default 4
        Number of chains.
    cores : int, optional
        Number of threads that run chains; by default as many as the process may use. There may be more chains than
        cores.
    seed : int, optional
        Seed of all random numbers, from 0 to 2**64 - 1. Random by default, and kept in the result.
    init : array_like, optional
        Start on the unconstrained scale: of shape (n_dim,) for all chains or (chains, n_dim). The default is the
        model's own random start.
    save_warmup : bool, default True
        Whether the result has the warm-up draws, in groups of their own.
    progress_bar : bool, default True
        Whether to show the progress.
    **settings
        Settings of the sampler, listed by `nutpie.settings`.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        Groups ``posterior`` and ``sample_stats``, both also with prefix ``warmup_``, and the model's data; the type is
        that of the installed ArviZ. After an interrupt (Ctrl-C) it holds the draws so far.

    Raises
    ------
    TypeError
        For a keyword that does not exist, naming the nearest, or a value of the wrong type.
    ValueError
        For a value out of bounds, or when no start with a finite log density and gradient is found, naming the
        variables.
    Exception
        Any exception of the model's code arrives as it is; the draws so far are in its attribute ``partial_trace``.

    Examples
    --------
    >>> idata = nutpie.sample(compiled, draws=500, seed=1)
    >>> idata.posterior["mu"].mean()
    """
    options = resolve(settings, other_keywords=_KEYWORDS)
    counts = _counts(draws=draws, tune=400 if tune is None else tune, chains=chains, cores=cores)
    seed = _seed(seed)
    density = compiled_model.density()
    starts = _starts(compiled_model, density, init, seed, counts["chains"])
    run = _Run(density, starts, options, seed, counts, save_warmup=bool(save_warmup))
    run.execute(progress_bar=bool(progress_bar))
    return run.result(compiled_model)


def _counts(*, draws: int, tune: int, chains: int, cores: int | None) -> dict[str, int]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = {"draws": draws, "tune": tune, "chains": chains, "cores": available if cores is None else cores}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        least = 1 if name in ("chains", "cores") else 0
        if not least <= value < 2**32:
            raise ValueError(f"{name} must be at least {least} and below 2**32, not {value}")
    return {name: int(value) for name, value in counts.items()}


def _seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(64)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be a whole number or None, not {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, not {seed}")
    return int(seed)


def _starts(model: CompiledModel, density: Density, init: Any, seed: int, chains: int) -> np.ndarray:
    """Return initial points of all chains, of shape (chains, n_dim), each with a finite log density and gradient."""
    if init is None:
        return np.stack([_random_start(model, density, seed, chain) for chain in range(chains)])
    starts = np.array(init, dtype=np.float64)
    if starts.shape not in ((model.n_dim,), (chains, model.n_dim)):
        raise ValueError(
            f"init must have shape ({model.n_dim},) or ({chains}, {model.n_dim}), not {starts.shape}: "
            "one number for each unconstrained parameter"
        )
    starts = np.ascontiguousarray(np.broadcast_to(starts, (chains, model.n_dim)))
    for chain, start in enumerate(starts):
        if not _is_finite(density, start):
            raise ValueError(_bad_start(model, start, f"chain {chain} cannot start at the given point"))
    return starts


def _random_start(model: CompiledModel, density: Density, seed: int, chain: int) -> np.ndarray:
    point = np.empty(0)
    for attempt in range(START_TRIES):
        point = np.ascontiguousarray(model.initial_point((seed, chain, attempt)), dtype=np.float64)
        if _is_finite(density, point):
            return point
    raise ValueError(_bad_start(model, point, f"no start found for chain {chain} in {START_TRIES} tries"))


def _is_finite(density: Density, point: np.ndarray) -> bool:
    logp, grad = _lib.evaluate(density.address, density.user_data, point)
    return bool(np.isfinite(logp) and np.isfinite(grad).all())


def _bad_start(model: CompiledModel, point: np.ndarray, what: str) -> str:
    explanation = model.explain_point(point) or "the log density or its gradient is not finite there"
    return f"{what}: {explanation}"


class _Run:
    """A run on a thread of its own, so that this one can watch it."""

    def __init__(
        self,
        density: Density,
        starts: np.ndarray,
        options: dict[str, int | float],
        seed: int,
        counts: dict[str, int],
        *,
        save_warmup: bool,
    ) -> None:
        self._density = density
        self._starts = starts
        self._options = options
        self._seed = seed
        self._counts = counts
        self._save_warmup = save_warmup
        self._control = _lib.Control(counts["chains"])
        self._chains: list[Any] = []
        self._error: BaseException | None = None
        self._seconds = 0.0
        self._done = threading.Event()
        self._interrupted = False

    def execute(self, *, progress_bar: bool) -> None:
        from nutpie.progress import ProgressBar

        thread = threading.Thread(target=self._work, name="nutpie", daemon=True)
        bar = ProgressBar(self._counts["chains"], self._counts["tune"] + self._counts["draws"], enabled=progress_bar)
        started = time.perf_counter()
        with _blas_threads(self._counts["cores"], self._counts["chains"]):
            thread.start()
            # Not `thread.join`: when an interrupt hits it, Python 3.11 takes the thread for finished.
            while not self._done.is_set():
                try:
                    self._done.wait(WATCH_INTERVAL)
                    bar.update(self._control.progress())
                except KeyboardInterrupt:
                    self._interrupted = True
                    self._control.stop()
        bar.update(self._control.progress())
        bar.close()
        self._seconds = time.perf_counter() - started

    def _work(self) -> None:
        try:
            self._chains, self._error = _lib.sample(
                self._control,
                self._density.address,
                self._density.user_data,
                self._starts,
                self._options,
                seed=self._seed,
                tune=self._counts["tune"],
                draws=self._counts["draws"],
                save_warmup=self._save_warmup,
                cores=self._counts["cores"],
            )
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def result(self, model: CompiledModel) -> Any:
        from nutpie.trace import ChainDraws, RunInfo, build_result

        if self._error is not None and not self._chains:
            raise self._error
        n_stats = len(_lib.statistics())
        chains = [
            ChainDraws(
                chain=i,
                warmup=warmup,
                positions=positions.reshape(stats.size // n_stats, model.n_dim),
                stats=stats.reshape(-1, n_stats),
                n_gradients=n_gradients,
            )
            for i, (warmup, positions, stats, n_gradients) in enumerate(self._chains)
        ]
        info = RunInfo(
            seed=self._seed,
            tune=self._counts["tune"],
            draws=self._counts["draws"],
            settings=self._options,
            seconds=self._seconds,
            save_warmup=self._save_warmup,
        )
        result = build_result(model, chains, info)
        if self._error is not None:
            with contextlib.suppress(AttributeError, TypeError):
                self._error.partial_trace = result  # type: ignore[attr-defined]
            self._error.add_note("nutpie: the draws so far are in the attribute `partial_trace` of this exception")
            raise self._error
        if self._interrupted:
            made = [len(c.stats) - c.warmup for c in chains]
            warnings.warn(
                f"sampling was interrupted; draws after warm-up by chain: {made}. Chains are cut to a common length.",
                stacklevel=3,
            )
        return result


@contextlib.contextmanager
def _blas_threads(cores: int, chains: int) -> Iterator[None]:
    """Share the cores among the chains that run at once, where the model calls a BLAS with threads of its own."""
    if min(cores, chains) == 1:
        yield
        return
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(limits=max(1, cores // min(cores, chains)), user_api="blas"):
        yield
