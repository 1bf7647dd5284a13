"""NumPyro: NUTS with a diagonal metric.

The kernel is driven here and not by `numpyro.infer.MCMC`, so that compilation can be kept out of the time.
"""

import jax
import jax.numpy as jnp
from numpyro.infer import NUTS

from runners.jax_setup import make_run


def prepare(workload, settings):
    logp = workload.jax_logp()

    def one_chain(key, start):
        kernel = NUTS(potential_fn=lambda x: -logp(x))
        state = kernel.init(key, settings.tune, start, (), {})

        def step(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        # The kernel stops adapting by itself after as many steps as `init` was told.
        state, (_, warmup_steps, _) = jax.lax.scan(step, state, None, length=settings.tune)
        _, (draws, steps, divergent) = jax.lax.scan(step, state, None, length=settings.draws)
        return draws, jnp.sum(warmup_steps), jnp.sum(steps), jnp.sum(divergent)

    return make_run(one_chain, workload, settings)
