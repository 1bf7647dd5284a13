"""PyMC's own NUTS, on the PyMC model of the workload."""

import time

import pymc as pm

from runners import Run


def prepare(workload, settings):
    model = workload.pymc_model()

    def run(seed):
        starts = [workload.constrain(start) for start in workload.starts(seed, settings.chains)]
        first_draw = []

        def note_first_draw(**_):
            # PyMC compiles inside `sample`; its first draw is the end of that.
            if not first_draw:
                first_draw.append(time.process_time())

        with model:
            result = pm.sample(
                draws=settings.draws,
                tune=settings.tune,
                chains=settings.chains,
                cores=1,
                random_seed=seed,
                init="adapt_diag",
                initvals=starts,
                callback=note_first_draw,
                progressbar=False,
                discard_tuned_samples=False,
                compute_convergence_checks=False,
            )
        end = time.process_time()
        # Each draw evaluates its start anew, beside the steps of its trajectory.
        extra = settings.chains
        return Run(
            draws=workload.unconstrain(result.posterior),
            warmup_gradients=int(result.warmup_sample_stats["n_steps"].sum()) + extra * settings.tune,
            sampling_gradients=int(result.sample_stats["n_steps"].sum()) + extra * settings.draws,
            divergences=int(result.sample_stats["diverging"].sum()),
            cpu_seconds=end - first_draw[0],
        )

    return run
