"""Ensembles of many chains beside those of BlackJAX, on the two models of references/001, in one process.

    python ensemble.py                        # both models, three seeds
    python ensemble.py W4 --seeds 4 --json out.json

It wants an environment with JAX, BlackJAX 1.7.1 and this package. BlackJAX is run as references/001 does it: a chain
of NUTS (500 warm-up draws), 64 points around its last draws, 1000 steps of MEADS, then 1000 draws (item response) or
500 (radon) of each chain. This package makes as many draws with its defaults, on the function that BlackJAX gets
(``nutpie.from_jax``: one call for all chains) and on the same density compiled by numba. NUTS is there for comparison,
with 4 chains.

Seconds are those of the processor, of all threads, without compilation. ESS is that of the parameters and of their
squared distances from the mean, over the gradients of sampling and over those of the whole run.
"""

import argparse
import json
import statistics
import time

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from callback import CountedCallback, make_model
from workloads import WORKLOADS

import nutpie
from nutpie._convergence import ess, nested, split, summarise

jax.config.update("jax_enable_x64", True)

CHAINS = 64
#: Draws of each chain, draws of the NUTS chain and how many of them are starts, as in references/001.
REFERENCE = {"W3": (1000, 300, 20), "W4": (500, 200, 10)}


def scores(draws, sampling, total, seconds):
    """ESS of draws (chains, draws, parameters) and what it costs."""
    rows = np.ascontiguousarray(np.moveaxis(draws, 2, 0))
    squares = np.square(rows - rows.mean(axis=(1, 2), keepdims=True))
    of_x, of_squares = ess(split(rows)), ess(split(squares))
    least = min(of_x.min(), of_squares.min())
    chains = len(draws)
    superchains = np.arange(chains) * 4 // chains
    return {
        "gradients": total,
        "seconds": seconds,
        "r_hat": summarise(rows)[:, 2].max(),
        "nested": nested(rows, superchains).max() if chains > 4 else np.nan,
        "x min /1000": 1000 * of_x.min() / sampling,
        "x mean /1000": 1000 * of_x.mean() / sampling,
        "x2 min /1000": 1000 * of_squares.min() / sampling,
        "x2 mean /1000": 1000 * of_squares.mean() / sampling,
        "min /1000, all": 1000 * least / total,
        "x mean /1000, all": 1000 * of_x.mean() / total,
        "min /s": least / seconds,
        "x mean /s": of_x.mean() / seconds,
    }


def blackjax_meads(workload):
    """The pipeline of references/001."""
    draws, trajectory, seeds_of = REFERENCE[workload.name]
    logp = workload.jax_logp()
    warm = blackjax.meads_adaptation(logp, num_chains=CHAINS, num_folds=4)

    def everything(key, start):
        k_warm, k_nuts, k_pick, k_noise, k_meads, k_sample = jax.random.split(key, 6)
        (state, parameters), found = blackjax.window_adaptation(blackjax.nuts, logp).run(k_warm, start, 500)
        nuts = blackjax.nuts(logp, **parameters).step

        def step_nuts(state, key):
            state, info = nuts(key, state)
            return state, (state.position, info.num_integration_steps)

        _, (path, steps) = jax.lax.scan(step_nuts, state, jax.random.split(k_nuts, trajectory))
        some = path[-seeds_of:]
        chosen = some[jax.random.randint(k_pick, (CHAINS,), 0, seeds_of)]
        noise = jax.random.uniform(k_noise, chosen.shape, minval=-1.0, maxval=1.0)
        starts = chosen + noise * jnp.maximum(some.std(0), 0.05)
        (states, parameters), _ = warm.run(k_meads, starts, 1000)
        kernel = blackjax.ghmc(logp, **parameters).step

        def chain(key, state):
            def step(state, key):
                state, info = kernel(key, state)
                return state, (state.position, info.is_divergent)

            return jax.lax.scan(step, state, jax.random.split(key, draws))[1]

        out, divergent = jax.vmap(chain)(jax.random.split(k_sample, CHAINS), states)
        return out, found.info.num_integration_steps.sum() + steps.sum(), divergent.sum(), parameters["step_size"]

    compiled = jax.jit(everything).lower(jax.random.key(0), jnp.zeros(workload.dim)).compile()

    def run(seed):
        start = jnp.asarray(workload.starts(seed, 1)[0])
        begin = time.process_time()
        out, nuts, divergent, step = jax.block_until_ready(compiled(jax.random.key(seed), start))
        seconds = time.process_time() - begin
        sampling = CHAINS * draws
        found = scores(np.asarray(out), sampling, int(nuts) + CHAINS * 1000 + sampling, seconds)
        return found | {"step": float(step), "divergences": int(divergent)}

    return run


def this_package(workload, *, on_jax=False, **options):
    """Any sampler of this package."""
    if on_jax:
        model = nutpie.from_jax(workload.jax_logp(), jnp.zeros(workload.dim))
    else:
        model = make_model(CountedCallback(workload.numba_logp(), workload.dim))
    options = {"sampler": "meads", "chains": CHAINS, "draws": REFERENCE[workload.name][0]} | options

    def run(seed, **fewer):
        starts = workload.starts(seed, options["chains"])
        begin = time.process_time()
        arguments = options | fewer
        result = nutpie.sample(
            model, seed=seed, init=starts, cores=1, save_warmup=False, check=False, progress_bar=False, **arguments
        )
        seconds = time.process_time() - begin
        stats = result.sample_stats
        sampling, total = int(stats["n_steps"].sum()), int(result.posterior.attrs["n_gradients"])
        found = scores(result.posterior["x"].values, sampling, total, seconds)
        return found | {"step": float(stats["step_size"][0, -1]), "divergences": int(stats["diverging"].sum())}

    # Imports, compilation and other first-time work stay out of the time of the first seed.
    run(0, draws=5, tune=5)
    return run


def competitors(workload):
    """Return all by name."""
    return {
        "BlackJAX 1.7.1 MEADS": blackjax_meads(workload),
        "nutpie meads, JAX": this_package(workload, on_jax=True),
        "nutpie meads, low_rank, JAX": this_package(workload, on_jax=True, meads_metric="low_rank"),
        "nutpie meads, numba": this_package(workload),
        "nutpie meads, low_rank, numba": this_package(workload, meads_metric="low_rank"),
        "nutpie nuts, 4 chains, numba": this_package(workload, sampler="nuts", chains=4, draws=1000),
    }


def main():
    """Run all and print medians over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=["W3", "W4"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.workloads:
        workload = WORKLOADS[name]()
        runs = competitors(workload)
        # Seeds in the outer loop: what else the machine does hits all alike.
        results = {who: [] for who in runs}
        for seed in range(arguments.seeds):
            for who, run in runs.items():
                results[who].append(run(seed))
        found[name] = results
        print(f"\n{workload.title} ({name}), {arguments.seeds} seeds: medians; R-hat and divergences of the worst seed")
        for who, of_seeds in results.items():
            line = []
            for key in of_seeds[0]:
                values = [scores[key] for scores in of_seeds]
                worst = max(values) if key in ("r_hat", "nested", "divergences") else statistics.median(values)
                line.append(f"{key} {worst:.4g}")
            print(f"{who:<29} {'; '.join(line)}", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
