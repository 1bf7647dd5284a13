"""This package or nutpie 0.16, whichever the environment has, on a C callback."""

import itertools
import time

import numpy as np
from callback import CountedCallback, is_this_package, make_model, plain_options

import nutpie
from runners import Run, Settings


def prepare(workload, settings):
    sample = Sampler(workload)
    return lambda seed: sample(seed, settings, save_warmup=True)


class Sampler:
    """A density compiled once, to be sampled with any settings."""

    def __init__(self, workload):
        self.workload = workload
        self._logp = workload.numba_logp()
        self._callback = CountedCallback(self._logp, workload.dim)
        # Imports and other first-time work stay out of the time of the first seed.
        self(0, Settings(chains=1, draws=5, tune=5), save_warmup=True)

    def starts(self, seed, chains):
        """Starts of the workload; in place of those where the density is not finite, others."""
        starts = self.workload.starts(seed, chains)
        rng = np.random.default_rng([9001, seed])
        grad = np.empty(self.workload.dim)
        for start in starts:
            for _ in range(1000):
                if np.isfinite(self._logp(start, grad)) and np.isfinite(grad).all():
                    break
                start[:] = rng.uniform(-2, 2, len(start))
            else:
                raise RuntimeError(f"{self.workload.name} has no start with a finite density and gradient")
        return starts

    def __call__(self, seed, settings, *, save_warmup):
        starts = self.starts(seed, settings.chains)
        # With cores=1 the peer asks for one start after the other. It asks again after a bad start, hence the cycle.
        queue = itertools.cycle(starts)
        model = make_model(self._callback, next_start=lambda: next(queue))
        arguments = {"draws": settings.draws, "chains": settings.chains, "cores": 1, "save_warmup": save_warmup}
        if settings.tune is not None:
            arguments["tune"] = settings.tune
        if is_this_package():
            arguments["init"] = starts
        arguments |= settings.options | plain_options()
        self._callback.take_calls()
        begin = time.process_time()
        result = nutpie.sample(model, seed=seed, progress_bar=False, **arguments)
        cpu_seconds = time.process_time() - begin
        calls = self._callback.take_calls()
        sampling = int(result.sample_stats["n_steps"].values.sum())
        if is_this_package():
            _check_count(result, calls, settings.chains)
        # Gradients of searches for a step size belong to the warm-up.
        return Run(
            draws=result.posterior["x"].values,
            warmup_gradients=calls - sampling,
            sampling_gradients=sampling,
            divergences=int(result.sample_stats["diverging"].values.sum()),
            cpu_seconds=cpu_seconds,
            tune=int(result.posterior.attrs.get("tuning_steps", settings.tune or 0)),
        )


def _check_count(result, calls, chains):
    """The package reports its gradients itself; it leaves out only the look at each start before sampling."""
    reported = int(result.posterior.attrs["n_gradients"])
    if not reported <= calls <= reported + chains:
        raise RuntimeError(f"the package reports {reported} gradients, but the callback had {calls} calls")
