"""This package or nutpie 0.16, whichever the environment has, on a C callback."""

import itertools
import time

from callback import CountedCallback, is_this_package, make_model, plain_options

import nutpie
from runners import Run


def prepare(workload, settings):
    callback = CountedCallback(workload.numba_logp(), workload.dim)
    # Imports and other first-time work stay out of the time of the first seed.
    nutpie.sample(make_model(callback), draws=5, tune=5, chains=1, cores=1, seed=0, progress_bar=False)

    def run(seed):
        starts = workload.starts(seed, settings.chains)
        # With cores=1 the peer asks for one start after the other. It asks again after a bad start, hence the cycle.
        queue = itertools.cycle(starts)
        model = make_model(callback, next_start=lambda: next(queue))
        arguments = {"draws": settings.draws, "tune": settings.tune, "chains": settings.chains, "cores": 1}
        if is_this_package():
            arguments["init"] = starts
        callback.take_calls()
        begin = time.process_time()
        result = nutpie.sample(model, seed=seed, progress_bar=False, save_warmup=True, **plain_options(), **arguments)
        cpu_seconds = time.process_time() - begin
        calls = callback.take_calls()
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
        )

    return run


def _check_count(result, calls, chains):
    """The package reports its gradients itself; it leaves out only the look at each start before sampling."""
    reported = int(result.posterior.attrs["n_gradients"])
    if not reported <= calls <= reported + chains:
        raise RuntimeError(f"the package reports {reported} gradients, but the callback had {calls} calls")
