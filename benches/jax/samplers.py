"""The samplers of the comparison. Each returns a function from a seed to a `Run`, with all that can be compiled before.

All take the same unconstrained density in double precision, and the same starts: uniform from -2 to 2.
"""

import time
from dataclasses import dataclass

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import initialize_model

import nutpie


@dataclass(frozen=True)
class Run:
    """Unconstrained draws of shape (chains, draws, dim), and gradients and seconds of warm-up and draws together."""

    draws: np.ndarray
    gradients: int
    seconds: float
    cpu_seconds: float
    divergences: int


def starts(dim, chains, seed):
    return np.random.default_rng([77, seed]).uniform(-2, 2, (chains, dim))


def flat_logp(model):
    """Log density of NumPyro of a flat vector, whose order is that of the sorted names of the sites."""
    info = initialize_model(jax.random.key(0), model)
    example, unravel = jax.flatten_util.ravel_pytree(info.param_info.z)
    return lambda x: -info.potential_fn(unravel(x)), len(example)


def with_nutpie(model, chains, draws, _tune):
    compiled = nutpie.from_numpyro(model)
    arguments = {"chains": chains, "progress_bar": False, "check": False, "store_unconstrained": True}
    nutpie.sample(compiled, draws=2, tune=2, seed=0, init=starts(compiled.n_dim, chains, 0), **arguments)

    def run(seed):
        init = starts(compiled.n_dim, chains, seed)
        begin, cpu = time.perf_counter(), time.process_time()
        result = nutpie.sample(compiled, draws=draws, seed=seed, init=init, **arguments)
        cpu = time.process_time() - cpu
        group = result.unconstrained_posterior
        parts = [group[v.name].values.reshape(chains, draws, -1) for v in compiled.unconstrained_variables]
        return Run(
            np.concatenate(parts, axis=-1),
            int(result.posterior.attrs["n_gradients"]),
            time.perf_counter() - begin,
            cpu,
            int(result.sample_stats["diverging"].sum()),
        )

    return run


def with_numpyro(model, chains, draws, tune):
    from numpyro.infer import NUTS

    logp, dim = flat_logp(model)

    def one_chain(key, start):
        kernel = NUTS(potential_fn=lambda x: -logp(x))
        state = kernel.init(key, tune, start, (), {})

        def step(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        state, (_, warmup, _) = jax.lax.scan(step, state, None, length=tune)
        _, (found, steps, divergent) = jax.lax.scan(step, state, None, length=draws)
        return found, jnp.sum(warmup) + jnp.sum(steps), jnp.sum(divergent)

    return _vectorised(one_chain, dim, chains)


def with_blackjax(model, chains, draws, tune):
    import blackjax
    from blackjax.adaptation.base import get_filter_adapt_info_fn

    logp, dim = flat_logp(model)
    only_steps = get_filter_adapt_info_fn(info_keys={"num_integration_steps"})
    warmup = blackjax.window_adaptation(blackjax.nuts, logp, adaptation_info_fn=only_steps)

    def one_chain(key, start):
        for_warmup, for_draws = jax.random.split(key)
        (state, parameters), adaptation = warmup.run(for_warmup, start, tune)
        kernel = blackjax.nuts(logp, **parameters)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent)

        _, (found, steps, divergent) = jax.lax.scan(step, state, jax.random.split(for_draws, draws))
        return found, jnp.sum(adaptation.info.num_integration_steps) + jnp.sum(steps), jnp.sum(divergent)

    return _vectorised(one_chain, dim, chains)


def _vectorised(one_chain, dim, chains):
    keys = jax.random.split(jax.random.key(0), chains)
    compiled = jax.jit(jax.vmap(one_chain)).lower(keys, starts(dim, chains, 0)).compile()

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), chains)
        init = jnp.asarray(starts(dim, chains, seed))
        begin, cpu = time.perf_counter(), time.process_time()
        draws, steps, divergent = jax.block_until_ready(compiled(keys, init))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        return Run(np.asarray(draws), int(steps.sum()), seconds, cpu, int(divergent.sum()))

    return run


SAMPLERS = {"nutpie": with_nutpie, "numpyro": with_numpyro, "blackjax": with_blackjax}
