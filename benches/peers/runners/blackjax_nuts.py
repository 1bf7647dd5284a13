"""BlackJAX: NUTS with a diagonal metric from window adaptation."""

import blackjax
import jax
import jax.numpy as jnp
from blackjax.adaptation.base import get_filter_adapt_info_fn

from runners.jax_setup import make_run


def prepare(workload, settings):
    logp = workload.jax_logp()
    # Without the filter all states of the warm-up are kept.
    only_steps = get_filter_adapt_info_fn(info_keys={"num_integration_steps"})
    warmup = blackjax.window_adaptation(blackjax.nuts, logp, adaptation_info_fn=only_steps)

    def one_chain(key, start):
        key_warmup, key_sampling = jax.random.split(key)
        (state, parameters), adaptation = warmup.run(key_warmup, start, settings.tune)
        kernel = blackjax.nuts(logp, **parameters)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        keys = jax.random.split(key_sampling, settings.draws)
        _, (draws, steps, divergent) = jax.lax.scan(step, state, keys)
        return draws, jnp.sum(adaptation.info.num_integration_steps), jnp.sum(steps), jnp.sum(divergent)

    return make_run(one_chain, workload, settings)
