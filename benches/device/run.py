"""Devices side by side, and beside NumPyro and BlackJAX, in one process, one after the other in each round.

    pip install "nutpie[numpyro]" blackjax
    python benches/device/run.py --cases large rows ensemble --rounds 3

- ``large``: a hierarchical model with --size parameters, one chain of NUTS.
- ``rows``: logistic regression with --size observations of 10 predictors, four chains of NUTS.
- ``ensemble``: MEADS with --chains chains on the hierarchical regression of `benches/jax/problems.py`, 85 parameters.

Prints the least milliseconds of all processors, and on the clock, for a gradient of NUTS or a step of the ensemble,
compilation and building the result left out. All compute in double precision and get a diagonal metric, and trees up
to the same depth.
"""

import argparse
import json
import pathlib
import sys
import time

import jax

jax.config.update("jax_enable_x64", True)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "jax"))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import nutpie  # noqa: E402

DEPTH = 5


def large(size):
    """Means of groups around a common mean, one observation each."""
    y = jnp.asarray(2.0 + np.random.default_rng(1).normal(size=size) * np.sqrt(1.25))

    def logp(x):
        mean, log_sd, theta = x[0], x[1], x[2:]
        prior = -0.5 * (mean / 10) ** 2 - 0.5 * log_sd**2
        return prior - 0.5 * jnp.sum(((theta - mean) * jnp.exp(-log_sd)) ** 2 + (y - theta) ** 2) - size * log_sd

    return logp, size + 2


def rows(size):
    """Logistic regression."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(size, 10))
    y = jnp.asarray(rng.uniform(size=size) < 1 / (1 + np.exp(-x @ rng.normal(size=10))))
    x = jnp.asarray(x)

    def logp(beta):
        eta = x @ beta
        return jnp.sum(y * eta - jax.nn.softplus(eta)) - 0.5 * jnp.sum(beta**2)

    return logp, 10


def clocked(run):
    """Return what a function returns, with milliseconds of all processors and on the clock."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return found, 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)


def ours(logp, dim, device, chains, draws, **settings):
    model = nutpie.from_jax(logp, jnp.zeros(dim), check=False, expand=None)
    options = {
        "chains": chains, "cores": 1, "save_warmup": False, "progress_bar": False, "check": False, "device": device,
        "init": 0.1, "thin": 1000,
    } | settings  # fmt: skip

    def run(seed):
        result, cpu, wall = clocked(lambda: nutpie.sample(model, seed=seed, draws=draws, **options))
        return result.posterior.attrs["n_gradients"], cpu, wall

    return run


def numpyro_nuts(logp, dim, chains, draws):
    from numpyro.infer import MCMC, NUTS

    kernel = NUTS(potential_fn=lambda x: -logp(x), max_tree_depth=DEPTH)
    mcmc = MCMC(
        kernel, num_warmup=draws, num_samples=1, num_chains=chains, chain_method="vectorized", progress_bar=False
    )

    def run(seed):
        start = np.random.default_rng(seed).uniform(-0.1, 0.1, (chains, dim))
        start = jnp.asarray(start if chains > 1 else start[0])

        def warm_up():
            mcmc.warmup(jax.random.key(seed), init_params=start, collect_warmup=True, extra_fields=("num_steps",))
            return int(np.asarray(mcmc.get_extra_fields()["num_steps"]).sum())

        return clocked(warm_up)

    return run


def blackjax_meads(logp, dim, chains, steps):
    import blackjax

    adaptation = blackjax.meads_adaptation(logp, num_chains=chains)

    @jax.jit
    def adapt(key, start):
        (states, parameters), _ = adaptation.run(key, start, num_steps=steps)
        return states, parameters

    @jax.jit
    def sample(key, states, parameters):
        kernel = jax.vmap(blackjax.ghmc(logp, **parameters).step)

        def step(states, key):
            states, _ = kernel(jax.random.split(key, chains), states)
            return states, states.position

        return jax.lax.scan(step, states, jax.random.split(key, steps))

    def run(seed):
        start = jnp.asarray(np.random.default_rng(seed).uniform(-0.5, 0.5, (chains, dim)))

        def both():
            states, parameters = adapt(jax.random.key(seed), start)
            jax.block_until_ready(sample(jax.random.key(seed + 1), states, parameters))
            return 2 * steps

        return clocked(both)

    return run


def nuts_case(logp, dim, chains, draws):
    settings = {"adaptation": "diag", "tune": draws, "maxdepth": DEPTH}
    return {
        "device='cpu'": ours(logp, dim, "cpu", chains, 1, **settings),
        "device='jax'": ours(logp, dim, "jax", chains, 1, **settings),
        "NumPyro": numpyro_nuts(logp, dim, chains, draws),
    }


def ensemble_case(chains, steps):
    from problems import hierarchy
    from samplers import flat_logp

    logp, dim = flat_logp(hierarchy())
    settings = {"sampler": "meads", "tune": steps, "meads_pilot": 0, "init": 0.5}

    def per_step(run):
        def steps_of(seed):
            gradients, *times = run(seed)
            return gradients / chains, *times

        return steps_of

    return {
        "device='cpu'": per_step(ours(logp, dim, "cpu", chains, steps, **settings)),
        "device='jax'": per_step(ours(logp, dim, "jax", chains, steps, **settings)),
        "BlackJAX": blackjax_meads(logp, dim, chains, steps),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", choices=["large", "rows", "ensemble"], default=["large", "rows", "ensemble"]
    )
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--chains", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=20, help="of NUTS")
    parser.add_argument("--steps", type=int, default=100, help="of the ensemble, in the warm-up and after it")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    made = {
        "large": lambda: nuts_case(*large(options.size), 1, options.draws),
        "rows": lambda: nuts_case(*rows(options.size), 4, options.draws),
        "ensemble": lambda: ensemble_case(options.chains, options.steps),
    }
    print("JAX on", jax.devices()[0].device_kind, flush=True)
    for case in options.cases:
        runs = made[case]()
        least = {}
        # The first round compiles.
        for round_ in range(options.rounds + 1):
            for name, run in runs.items():
                units, cpu, wall = run(round_)
                if round_:
                    times = least.setdefault(name, ([], []))
                    times[0].append(cpu / units)
                    times[1].append(wall / units)
        for name, (cpu, wall) in least.items():
            row = {"case": case, "sampler": name, "cpu_ms": round(min(cpu), 3), "ms": round(min(wall), 3)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
