"""What the JAX samplers share: double precision, and compilation apart from the run."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from runners import Run

jax.config.update("jax_enable_x64", True)


def make_run(one_chain, workload, settings):
    """Compile `one_chain(key, start)` for all chains at once.

    `one_chain` returns draws, warm-up gradients, sampling gradients and divergences. Chains advance in lockstep, as
    both JAX samplers do it themselves, so each step of a tree costs as much as that of the slowest chain.
    """
    keys = jax.random.split(jax.random.key(0), settings.chains)
    starts = jnp.asarray(workload.starts(0, settings.chains))
    compiled = jax.jit(jax.vmap(one_chain)).lower(keys, starts).compile()

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), settings.chains)
        starts = jnp.asarray(workload.starts(seed, settings.chains))
        begin = time.process_time()
        draws, warmup, sampling, divergences = jax.block_until_ready(compiled(keys, starts))
        cpu_seconds = time.process_time() - begin
        return Run(np.asarray(draws), int(warmup.sum()), int(sampling.sum()), int(divergences.sum()), cpu_seconds)

    return run
