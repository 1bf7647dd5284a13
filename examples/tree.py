"""A Gaussian tree with guided simulation of its nodes in a NumPyro model, after van der Meulen and Sommer (2025).

A trait starts at 0 at the root of a binary tree of depth 4 and gets normal increments with variance sigma^2 along each
edge. The 16 leaves are observed with normal errors of variance tau^2. Backward filtering, forward guiding turns white
noise z into the traits of all nodes given the observations: a sweep to the root fits a Gaussian to what the leaves
below each node say, and a sweep to the leaves draws each node from its transition times this Gaussian. Parameters and
noise are sampled together by NUTS, with derivatives through both sweeps, and the marginals of sigma^2 and tau^2 are
compared with a grid.

    pip install "nutpie[numpyro]" hyperiax
    python examples/tree.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import nutpie

#: What the parameters were when the observations were simulated.
SIGMA_SQ, TAU_SQ = 0.5, 0.1

#: Standard deviation of the normal priors of the logarithms of both.
PRIOR_STD = 2.0

N_NODES, N_LEAVES = 31, 16


def edge_mean(parent: Any, params: Any) -> Any:
    """Mean of a node given its parent."""
    return parent


def edge_covariance(parent: Any, params: Any) -> Any:
    """Covariance of a node given its parent."""
    return params["sigma_sq"] * jnp.eye(1)


def auxiliary_scale(anchor: Any, params: Any) -> Any:
    """Slope of the linear transition that the backward filter works with; here it is the transition itself."""
    return jnp.eye(1)


def auxiliary_shift(anchor: Any, params: Any) -> Any:
    """Shift of that transition."""
    return jnp.zeros(1)


@cache
def sweeps() -> tuple[Any, ...]:
    """Topology of the tree, and the sweeps of hyperiax over it."""
    import hyperiax as hx
    from hyperiax.prebuilt import bffg

    topology = hx.symmetric_topology(depth=4, degree=2)
    backward = bffg.discrete_bf_sweep(auxiliary_scale, auxiliary_shift, edge_covariance)
    forward = bffg.discrete_fg_sweep(edge_mean, edge_covariance, auxiliary_scale, auxiliary_shift, edge_covariance)
    return topology, backward, forward


def empty_tree() -> Any:
    """Make a tree without values, in the precision that is computed in here."""
    import hyperiax as hx
    from hyperiax.prebuilt import bffg

    return hx.Tree.empty(sweeps()[0], bffg.discrete_schema(d=1))


def simulate() -> Any:
    """Observations of the leaves, those of the documentation of hyperiax."""
    from hyperiax.prebuilt import bffg

    topology, _, _ = sweeps()
    for_path, for_errors = jax.random.split(jax.random.PRNGKey(202605), 2)
    truth = empty_tree().at[topology.is_root].set(val=jnp.zeros(1))
    truth = truth.set(z=jax.random.normal(for_path, (N_NODES, 1), jnp.float32))
    truth = bffg.discrete_forward_sweep(edge_mean, edge_covariance)(truth, params={"sigma_sq": SIGMA_SQ})
    errors = jnp.sqrt(TAU_SQ) * jax.random.normal(for_errors, (N_LEAVES, 1), jnp.float32)
    return np.asarray(truth.val[topology.is_leaf] + errors)


def shared_depths() -> np.ndarray:
    """For each pair of leaves the depth of their last common ancestor: the covariance of the leaves if sigma is 1."""
    leaves = np.arange(N_LEAVES)
    different = leaves[:, None] ^ leaves
    return 4.0 - np.ceil(np.log2(different + 1))


def marginal_loglik(log_theta: Any, leaves: Any) -> Any:
    """Log density of the leaves with the nodes integrated out."""
    covariance = jnp.exp(log_theta[0]) * shared_depths() + jnp.exp(log_theta[1]) * jnp.eye(N_LEAVES)
    return jax.scipy.stats.multivariate_normal.logpdf(leaves[:, 0], jnp.zeros(N_LEAVES), covariance)


def guided_nodes(z: Any, log_theta: Any, leaves: Any) -> tuple[Any, Any]:
    """Traits of all nodes given the leaves, from white noise, and the sum of their log weights."""
    from hyperiax.prebuilt import bffg

    _, backward, forward = sweeps()
    params = {"sigma_sq": jnp.exp(log_theta[0])}
    tree = bffg.init_discrete_tree(empty_tree(), leaves, obs_var=jnp.exp(log_theta[1]), d=1, root_val=jnp.zeros(1))
    tree = forward(backward(tree, params=params).set(z=z[:, None]), params=params)
    return tree.val[:, 0], tree.log_corr.sum()


def model(leaves: Any) -> None:
    """Joint density of parameters and noise, as in the documentation of hyperiax."""
    log_theta = numpyro.sample("log_theta", dist.Normal(jnp.zeros(2), PRIOR_STD).to_event(1))
    z = numpyro.sample("z", dist.Normal(jnp.zeros(N_NODES), 1.0).to_event(1))
    nodes, log_weights = guided_nodes(z, log_theta, leaves)
    numpyro.deterministic("nodes", nodes)
    numpyro.factor("bffg", marginal_loglik(log_theta, leaves) + log_weights)


#: Limits of log sigma^2 and log tau^2 of the grid in the documentation of hyperiax, and ones that cut nothing off. The
#: tail beyond the former moves the mean of tau^2 from 0.372 to 0.377.
NARROW = ((-3.0, 2.0), (-5.0, 1.0))
WIDE = ((-8.0, 4.0), (-16.0, 4.0))


def grid_means(leaves: Any, limits: tuple[tuple[float, float], ...] = WIDE, n: int = 400) -> np.ndarray:
    """Posterior means of sigma^2 and tau^2 within limits of their logarithms, by quadrature."""
    with jax.enable_x64(True):
        log_sigma_sq, log_tau_sq = (jnp.linspace(*ends, n) for ends in limits)
        grid = jnp.stack(jnp.meshgrid(log_sigma_sq, log_tau_sq, indexing="ij"), axis=-1).reshape(-1, 2)
        density = jax.jit(jax.vmap(lambda t: marginal_loglik(t, leaves) - 0.5 * jnp.sum((t / PRIOR_STD) ** 2)))(grid)
        weights = jnp.exp(density - density.max())
        return np.asarray((weights[:, None] * jnp.exp(grid)).sum(0) / weights.sum())


def ess_per_1000(effective: np.ndarray, gradients: int) -> str:
    """Both effective sample sizes for 1000 gradients."""
    return " and ".join(f"{1000 * e / gradients:.1f}" for e in effective)


def with_nutpie(leaves: Any, draws: int, chains: int) -> tuple[np.ndarray, int]:
    """Draws of log theta, and the number of gradients, warm-up included."""
    compiled = nutpie.from_numpyro(model, leaves)
    result = nutpie.sample(compiled, draws=draws, chains=chains, seed=1, progress_bar=False)
    return result.posterior["log_theta"].values, int(result.posterior.attrs["n_gradients"])


def with_numpyro(leaves: Any, draws: int, chains: int) -> tuple[np.ndarray, int]:
    """Draws of log theta, and the number of gradients, warm-up included, by NumPyro's own sampler."""
    from numpyro.infer import MCMC, NUTS

    sampler = MCMC(
        NUTS(model),
        num_warmup=1000,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    keys = jax.random.split(jax.random.PRNGKey(7), chains)
    sampler.warmup(keys, leaves, extra_fields=("num_steps",), collect_warmup=True)
    steps = int(np.asarray(sampler.get_extra_fields()["num_steps"]).sum())
    sampler.run(keys, leaves, extra_fields=("num_steps",))
    steps += int(np.asarray(sampler.get_extra_fields()["num_steps"]).sum())
    return np.asarray(sampler.get_samples(group_by_chain=True)["log_theta"]), steps


def main() -> None:
    """Sample, compare with the grid, and print effective sample sizes beside those of NumPyro."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--chains", type=int, default=4)
    arguments = parser.parse_args()
    import arviz as az

    leaves = simulate()
    for name, limits in {"grid": WIDE, "narrow": NARROW}.items():
        exact = grid_means(leaves, limits)
        print(f"{name:8} sigma^2 {exact[0]:.4f}           tau^2 {exact[1]:.4f}")
    samplers: dict[str, Callable[..., tuple[np.ndarray, int]]] = {"nutpie": with_nutpie, "numpyro": with_numpyro}
    for name, sample in samplers.items():
        draws, gradients = sample(leaves, arguments.draws, arguments.chains)
        effective = np.array([float(np.squeeze(az.ess(draws[..., i]))) for i in range(2)])
        theta = np.exp(draws).reshape(-1, 2)
        errors = np.array([float(np.squeeze(az.mcse(np.exp(draws[..., i])))) for i in range(2)])
        print(
            f"{name:8} sigma^2 {theta[:, 0].mean():.4f} ({errors[0]:.4f})  tau^2 {theta[:, 1].mean():.4f} "
            f"({errors[1]:.4f}); {gradients} gradients, ESS of log sigma^2 and log tau^2 per 1000: "
            + ess_per_1000(effective, gradients)
        )


if __name__ == "__main__":
    main()
