"""A run under way."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib
from nutpie.progress import Callback, ChainProgress, Display, Watcher

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel, Density

__all__ = ["Run"]


class Run:
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

    def execute(self, display: Display | None = None, callback: Callback | None = None, rate: float = 100) -> None:
        """Run to the end, or until an interrupt or the callback stops it."""
        watcher = Watcher(self.progress, display, callback, rate)
        try:
            watcher.start()
            self._watch(watcher)
        finally:
            watcher.finish()
        self._error = self._error or watcher.error

    def _watch(self, watcher: Watcher) -> None:
        thread = threading.Thread(target=self._work, name="nutpie", daemon=True)
        started = time.perf_counter()
        with _blas_threads(self._counts["cores"], self._counts["chains"]):
            thread.start()
            # Not `thread.join`: when an interrupt hits it, Python 3.11 takes the thread for finished.
            while not self._done.is_set():
                try:
                    self._done.wait(watcher.interval)
                    if watcher.poll():
                        self._control.stop()
                except KeyboardInterrupt:
                    self._interrupted = True
                    self._control.stop()
        self._seconds = time.perf_counter() - started

    def progress(self) -> list[ChainProgress]:
        """How far each chain is."""
        total = self._counts["tune"] + self._counts["draws"]
        return [ChainProgress.from_core(values, total) for values in self._control.progress()]

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
        """Build the result, or raise what ended the run."""
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
