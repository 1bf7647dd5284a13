"""A run under way: the thread that samples, and the handle that watches and steers it."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib
from nutpie._caller import levels_inside
from nutpie.diagnose import warn_if_needed
from nutpie.progress import ChainProgress, Watcher

if TYPE_CHECKING:
    from nutpie.metric import Metric
    from nutpie.models.base import BatchDensity, CompiledModel, Density, PointwiseDensity
    from nutpie.plan import Plan

__all__ = ["SamplingRun"]

#: Seconds that the interpreter waits at its end for runs that nobody has waited for.
EXIT_PATIENCE = 10.0


class _Job:
    """What the sampling thread works on.

    It does not know the handle, so that a handle which nobody holds any more can end its run.
    """

    def __init__(
        self, density: Density | BatchDensity, starts: np.ndarray, plan: Plan, metrics: Sequence[Metric | None]
    ) -> None:
        self.control = _lib.Control(plan.chains)
        self.done = threading.Event()
        self.watched = threading.Event()
        self.watched_by = 0
        self.chains: list[dict[str, Any]] = []
        self.shared: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.began = time.perf_counter()
        self.plan = plan
        self._density = density
        self._starts = starts
        self._metrics = metrics

    def work(self) -> None:
        plan = self.plan
        try:
            devices = plan.devices
            on_host = devices.on_host
            threads, per_block = (
                self._density.grouping(plan.chains, plan.cores) if on_host else devices.grouping(plan.chains)
            )
            with _blas_threads.shared(plan.cores, threads):
                self.chains, self.shared, self.error = _lib.sample(
                    self.control,
                    devices.density(self._density, self._starts.shape[1], plan.chains),
                    self._starts,
                    dict(plan.settings),
                    sampler=plan.sampler,
                    adaptation=plan.adaptation,
                    seed=plan.seed,
                    tune=plan.tune,
                    extend=plan.extend,
                    draws=plan.draws,
                    keep=dict(plan.keep),
                    cores=threads,
                    per_block=per_block,
                    metrics=[None if metric is None else metric.core for metric in self._metrics],
                    devices=devices.for_core(plan.chains),
                    single=devices.dtype == "float32",
                )
        except BaseException as error:
            self.error = error
        finally:
            self.seconds = time.perf_counter() - self.began
            self.done.set()

    def elapsed(self) -> float:
        """Return the seconds since the run began, or that it took."""
        return self.seconds or time.perf_counter() - self.began

    def messages(self) -> Sequence[tuple[str, int]]:
        return self._density.messages() if self._density.messages is not None else ()

    def progress(self) -> list[ChainProgress]:
        return [ChainProgress.from_core(values, self.plan.tune, self.plan.draws) for values in self.control.progress()]

    def watch(self, watcher: Watcher, on_interrupt: Callable[[], None]) -> None:
        """Show the progress until the end of the run; for one thread, that of the user or one of its own."""
        self.watched_by = threading.get_ident()
        try:
            # Not `thread.join`: when an interrupt hits it, Python 3.11 takes the thread for finished.
            while not self.done.is_set():
                try:
                    self.done.wait(watcher.interval)
                    if watcher.poll():
                        self.control.stop()
                except KeyboardInterrupt:
                    on_interrupt()
            watcher.finish()
        finally:
            self.error = self.error or watcher.error
            self.watched.set()

    def over(self) -> threading.Event:
        """Return what to wait for: the end of the chains and of all that looks after them."""
        # A progress callback must not wait for itself.
        return self.done if threading.get_ident() == self.watched_by else self.watched


_jobs: weakref.WeakSet[_Job] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Let no thread sample while the interpreter goes away."""
    deadline = time.monotonic() + EXIT_PATIENCE
    jobs = [job for job in _jobs if not job.done.is_set()]
    for job in jobs:
        job.control.stop()
    for job in jobs:
        job.done.wait(max(0.0, deadline - time.monotonic()))


# A forked process has none of the threads, and nothing to wait for.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_jobs.clear)


class SamplingRun:
    """A run that goes on in the background; made by ``nutpie.sample(..., blocking=False)``.

    All methods can be called from any thread. A run whose handle is no longer referred to is stopped. In a process that
    was forked from the one that started the run the handle is of no use, and says so.
    """

    def __init__(
        self,
        model: CompiledModel,
        density: Density | BatchDensity,
        starts: np.ndarray,
        plan: Plan,
        metrics: Sequence[Metric | None],
        pointwise: Mapping[str, PointwiseDensity],
        show: Callable[[Callable[[], list[ChainProgress]]], Watcher],
        *,
        check: bool,
    ) -> None:
        self._model = model
        self._starts = starts
        self._pointwise = pointwise
        self._check = check
        self._job = _Job(density, starts, plan, metrics)
        self._watcher = show(self._job.progress)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._result: Any = None
        self._raised: BaseException | None = None
        self._stopped = ""
        _jobs.add(self._job)
        weakref.finalize(self, self._job.control.stop).atexit = False
        self._watcher.start()
        threading.Thread(target=self._job.work, name="nutpie", daemon=True).start()

    def _wait_here(self) -> Any:
        """Look after the run in this thread and return its result; after an interrupt, that of the draws so far."""
        self._job.watch(self._watcher, lambda: self._stop("interrupted"))
        return self.wait()

    def _in_background(self) -> SamplingRun:
        """Look after the run in a thread of its own."""
        # Which does not refer to the handle either.
        work = (self._watcher, self._job.control.stop)
        threading.Thread(target=self._job.watch, args=work, name="nutpie-progress", daemon=True).start()
        return self

    def wait(self, *, timeout: float | None = None) -> Any:
        """Wait for the end of the run and return its result.

        An interrupt (Ctrl-C) ends the waiting, not the run. If the run is over and its variables are being computed, it
        ends that, and brings the draws in its attribute ``partial_trace``.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most. The default is to wait without end.

        Returns
        -------
        arviz.InferenceData or xarray.DataTree
            As of `nutpie.sample`; the same object at each call.

        Raises
        ------
        TimeoutError
            If the run is not done in time. It goes on.
        RuntimeError
            If the run was cancelled.
        Exception
            An exception of the model's code; the draws so far are in its attribute ``partial_trace``, as of
            `nutpie.sample`.
        """
        self._check_process()
        if not self._job.over().wait(timeout):
            raise TimeoutError(f"the run is not done after {timeout:g} s; it goes on")
        with self._lock:
            if self._raised is None and self._result is None:
                try:
                    self._result = self._finish()
                except BaseException as error:
                    self._raised = error
            if self._raised is not None:
                raise self._raised
            return self._result

    def pause(self) -> None:
        """Let the chains rest after the leapfrog steps under way, until `resume` is called."""
        self._check_process()
        self._job.control.pause()

    def resume(self) -> None:
        """Let paused chains go on. The draws are the same as without the pause."""
        self._check_process()
        self._job.control.resume()

    def inspect(self) -> Any:
        """Return the draws so far, as a result of the same form as at the end, while the run goes on.

        Chains are cut to a common length.
        """
        self._check_process()
        if not self._job.done.is_set():
            traces = self._job.control.traces()
            # A run that ended in between has given its draws away.
            if not self._job.done.is_set():
                return self._build(traces)
        return self.wait()

    def abort(self) -> Any:
        """Stop the run and return the draws so far."""
        self._check_process()
        self._stop("aborted")
        return self.wait()

    def cancel(self) -> None:
        """Stop the run and drop its draws."""
        self._check_process()
        self._stop("cancelled")
        self._job.over().wait()
        with self._lock:
            if self._result is None and self._raised is None:
                self._raised = RuntimeError("the run was cancelled; it has no result")
                self._job.chains = []

    @property
    def is_finished(self) -> bool:
        """Whether the run is over, for whatever reason."""
        return self._job.done.is_set()

    @property
    def is_paused(self) -> bool:
        """Whether the run was asked to rest."""
        return self._job.control.paused and not self.is_finished

    def progress(self) -> list[ChainProgress]:
        """How far each chain is."""
        return self._job.progress()

    def _stop(self, why: str) -> None:
        if not self._job.done.is_set():
            self._stopped = self._stopped or why
            self._job.control.stop()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this run belongs to process {self._process}, from which this one was forked; use the handle there"
            )

    def _finish(self) -> Any:
        from nutpie.trace import attach

        job = self._job
        if job.error is not None and not job.chains:
            raise job.error
        chains, job.chains = job.chains, []
        lengths = [sum(draws for draws, _ in chain["blocks"]) - chain["warmup"] for chain in chains]
        try:
            result = self._build(chains)
        except Exception as error:
            if job.error is None:
                raise
            result = getattr(error, "partial_trace", None)
        if job.error is not None:
            if result is not None:
                attach(job.error, result, "the draws so far are in the attribute `partial_trace` of this exception")
            raise job.error
        if self._stopped:
            warnings.warn(
                f"sampling was {self._stopped}; draws after warm-up by chain: {lengths}. "
                "Chains are cut to a common length.",
                stacklevel=levels_inside() + 1,
            )
        elif self._check and all(chain.finished_draws == chain.total_draws for chain in job.progress()):
            warn_if_needed(result)
        return result

    def _build(self, traces: list[dict[str, Any]]) -> Any:
        """Build a result from the draws of the core, which are taken out of the list."""
        from nutpie.trace import ChainDraws, build_result

        progress = self._job.progress()
        chains: list[ChainDraws] = []
        # Nothing else may refer to the arrays, so that building the result can free them one by one.
        while traces:
            trace, chain = traces.pop(0), len(chains)
            trace.setdefault("n_gradients", progress[chain].total_num_steps)
            trace["tune"], trace["made"] = progress[chain].total_tune, progress[chain].finished_draws
            chains.append(ChainDraws.from_core(chain, self._starts[chain], trace))
            del trace
        job = self._job
        return build_result(
            self._model,
            chains,
            job.plan,
            job.elapsed(),
            pointwise=self._pointwise,
            shared=job.shared,
            messages=job.messages(),
        )

    def _state(self) -> str:
        if not self.is_finished:
            return "paused" if self.is_paused else "running"
        return "failed" if self._job.error is not None else self._stopped or "finished"

    def __repr__(self) -> str:
        chains = self.progress()
        finished, total = sum(c.finished_draws for c in chains), sum(c.total_draws for c in chains)
        divergences = sum(c.divergences for c in chains)
        return (
            f"<nutpie run, {self._state()}: {len(chains)} chain{'s' if len(chains) > 1 else ''}, "
            f"{finished} of {total} draws, {divergences} divergences>"
        )

    def _repr_html_(self) -> str:
        from nutpie.progress.notebook import html_table
        from nutpie.progress.summary import Tracker

        tracker = Tracker(clock=self._job.elapsed, started=0.0)
        return html_table(tracker.summary(self.progress(), closed=self.is_finished), f"nutpie run, {self._state()}")


class _BlasThreads:
    """Limits the threads of the BLAS, of which there is one for the whole process, while there are runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._limit = contextlib.ExitStack()

    @contextlib.contextmanager
    def shared(self, cores: int, at_once: int) -> Iterator[None]:
        """Share the cores among the threads of a run, where the model calls a BLAS with threads of its own."""
        if at_once == 1:
            yield
            return
        with self._lock:
            # Of runs at the same time the first decides; each restoring what it found would leave the limit of another.
            if not self._runs:
                with contextlib.suppress(ImportError):
                    from threadpoolctl import threadpool_limits

                    self._limit.enter_context(threadpool_limits(limits=max(1, cores // at_once), user_api="blas"))
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self._limit.close()


_blas_threads = _BlasThreads()
