"""One measurement, in an environment with either this package or BlackJAX; prints a line of JSON.

python benches/laplace/worker.py ours ess nuts SEED FILE.npy
python benches/laplace/worker.py blackjax seconds banded 1000
"""

from __future__ import annotations

import json
import resource
import sys
import time

import jax

jax.config.update("jax_enable_x64", True)

import models  # noqa: E402
import numpy as np  # noqa: E402

#: Seconds that evaluations of one kind are repeated for, and most repetitions.
BUDGET, MOST = 5.0, 200

#: Hyper-parameters at which gradients are timed: nobody gets the same point twice.
SPREAD = 0.3


def points(center: np.ndarray) -> np.ndarray:
    """Points around where the chains begin."""
    return center + SPREAD * np.random.default_rng(0).normal(size=(MOST, *np.shape(center)))


def timed(evaluate, center) -> dict:
    """Milliseconds of a gradient: minimum and median."""
    seconds = []
    start = time.perf_counter()
    for point in points(center):
        begin = time.perf_counter()
        evaluate(point)
        seconds.append(time.perf_counter() - begin)
        if time.perf_counter() - start > BUDGET and len(seconds) > 2:
            break
    return {"least_ms": 1e3 * min(seconds), "median_ms": 1e3 * float(np.median(seconds)), "times": len(seconds)}


def ours_seconds(structure: str, n: int) -> dict:
    import nutpie

    log_joint, theta, phi = models.make(structure, n)
    start = time.perf_counter()
    model = nutpie.laplace(log_joint, theta_init=theta, phi_init=phi)
    built = time.perf_counter() - start
    found = {"structure": model.structure, "build_s": built}
    for chains in (1, 4):

        def evaluate(point, chains=chains):
            logp, gradient = model.marginal(np.broadcast_to(point, (chains, len(point))).copy())
            assert np.isfinite(logp).all()
            assert np.isfinite(gradient).all()

        evaluate(phi)
        model.marginal.reset_counts()
        found |= {f"{key}_{chains}": value for key, value in timed(evaluate, phi).items()}
        found["newton"] = model.marginal.evaluations / model.marginal.points
    return found


def blackjax_seconds(structure: str, n: int) -> dict:
    import jax.numpy as jnp
    from blackjax.mcmc.laplace_marginal import laplace_marginal_factory

    log_joint, theta, phi = models.make(structure, n)
    laplace = laplace_marginal_factory(log_joint, jnp.asarray(theta), maxiter=100)
    # As in its HMC: the search begins at the mode of the current state, here that of the start.
    warm = jax.jit(laplace.solve_theta)(jnp.asarray(phi))
    function = jax.jit(jax.value_and_grad(lambda p: laplace.log_marginal(p, warm), has_aux=True))
    start = time.perf_counter()
    jax.block_until_ready(function(jnp.asarray(phi)))
    found = {"build_s": time.perf_counter() - start}
    return found | timed(lambda p: jax.block_until_ready(function(jnp.asarray(p))), phi)


def ours_ess(sampler: str, seed: int, file: str) -> dict:
    import nutpie

    log_joint, theta, phi = models.conjugate()
    model = nutpie.laplace(log_joint, theta_init=theta, phi_init=phi)
    name, trajectory, length = (*sampler.split(":"), "", "")[:3]
    options = {"trajectory": trajectory} if trajectory else {}
    if length:
        options["hmc_length"] = float(length)
    start = time.perf_counter()
    idata = nutpie.sample(
        model, sampler=name, seed=seed, chains=1, draws=1000, progress_bar=False, check=False, **options
    )
    seconds = time.perf_counter() - start
    np.save(file, idata.posterior["phi"].values.ravel())
    steps = int(np.asarray(idata.sample_stats["n_steps"]).sum())
    found = idata["laplace"]
    each = float(found["evaluations"]) / float(found["points"])
    return {
        "gradients": steps,
        "inner": each * steps,
        "divergences": int(idata.sample_stats["diverging"].sum()),
        "seconds": seconds,
    }


def blackjax_ess(sampler: str, seed: int, file: str) -> dict:
    import blackjax
    import jax.numpy as jnp
    from blackjax.util import run_inference_algorithm

    log_joint, theta, phi = models.conjugate()
    algorithm = getattr(blackjax, sampler)(
        log_joint,
        theta_init=jnp.asarray(theta),
        step_size=0.3,
        inverse_mass_matrix=jnp.ones(1),
        num_integration_steps=10,
        maxiter=100,
    )
    start = time.perf_counter()
    _, (state, info) = run_inference_algorithm(
        jax.random.key(seed),
        algorithm,
        num_steps=1000,
        initial_position=jnp.asarray(phi),
        transform=lambda s, i: (s, i),
    )
    np.save(file, np.asarray(state.position))
    # Its own estimate: as many L-BFGS iterations at each leapfrog step as in the last search, and once more after it.
    inner = int(np.sum((np.asarray(info.num_integration_steps) + 1) * np.asarray(info.lbfgs_iter_num)))
    steps = int(np.sum(info.num_integration_steps))
    return {
        "gradients": steps,
        "inner": inner,
        "divergences": int(info.is_divergent.sum()),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    package, what, name, number, *rest = sys.argv[1:]
    function = {
        ("ours", "ess"): ours_ess,
        ("ours", "seconds"): ours_seconds,
        ("blackjax", "ess"): blackjax_ess,
        ("blackjax", "seconds"): blackjax_seconds,
    }[package, what]
    found = function(name, int(number), *rest)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
