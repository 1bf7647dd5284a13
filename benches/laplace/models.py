"""Log joint densities, for this package and for BlackJAX. They need JAX and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import jax.scipy.stats as st
import numpy as np

#: How many latent variables, by structure. Dense ones cost n^3.
SIZES = {
    "diagonal": [10, 100, 1000, 10_000, 100_000],
    "blocks": [10, 100, 1000, 10_000, 100_000],
    "banded": [10, 100, 1000, 10_000, 100_000],
    "sparse": [10, 100, 1000, 10_000, 100_000],
    "dense": [10, 100, 500, 1000],
}


def conjugate() -> tuple[Callable, np.ndarray, np.ndarray]:
    """The model of BlackJAX's guide, with data of a fixed seed; the log joint density, theta and phi to begin with."""
    rng = np.random.default_rng(1006)
    y = jnp.asarray(rng.standard_normal(20) * 2.0 + rng.standard_normal(20))

    def log_joint(theta, phi):
        scale = jnp.exp(phi)
        prior = st.norm.logpdf(phi, 0.0, 3.0) + st.norm.logpdf(theta, 0.0, scale).sum()
        return prior + st.norm.logpdf(y, theta, 1.0).sum()

    return log_joint, np.zeros(20), np.array(0.0)


def exact_moments() -> tuple[float, float]:
    """Mean and standard deviation of phi in that model, by quadrature."""
    rng = np.random.default_rng(1006)
    y = rng.standard_normal(20) * 2.0 + rng.standard_normal(20)
    grid = np.linspace(-16, 6, 40_001)
    variance = np.exp(2 * grid) + 1
    logp = -0.5 * (grid / 3) ** 2 - 0.5 * (20 * np.log(variance) + np.sum(y**2) / variance)
    density = np.exp(logp - logp.max())
    density /= density.sum()
    mean = float(np.sum(density * grid))
    return mean, float(np.sqrt(np.sum(density * (grid - mean) ** 2)))


def make(structure: str, n: int) -> tuple[Callable, np.ndarray, np.ndarray]:
    """Poisson counts with latent log rates of a structure; theta and phi to begin with."""
    rng = np.random.default_rng(n)
    log_joint = {"diagonal": _diagonal, "blocks": _blocks, "banded": _banded, "sparse": _grid, "dense": _process}[
        structure
    ]
    if structure == "sparse":
        n = round(n**0.5) ** 2
    return log_joint(n, rng), np.zeros(n), np.array([0.1, -0.2])


def _diagonal(n, rng):
    y = jnp.asarray(rng.poisson(2, n).astype(float))

    def log_joint(theta, phi):
        prior = -0.5 * jnp.sum((theta - phi[0]) ** 2) * jnp.exp(-2 * phi[1]) - n * phi[1]
        return jnp.sum(y * theta - jnp.exp(theta)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


def _blocks(n, rng):
    half = n // 2
    y, x = jnp.asarray(rng.poisson(2, (half, 3)).astype(float)), jnp.asarray(rng.normal(size=(half, 3)))

    def log_joint(theta, phi):
        a, b = theta[:half], theta[half:]
        rate = a[:, None] + b[:, None] * x
        prior = -0.5 * jnp.sum(a**2) * jnp.exp(-2 * phi[0]) - 0.5 * jnp.sum(b**2) * jnp.exp(-2 * phi[1])
        return jnp.sum(y * rate - jnp.exp(rate)) + prior - half * jnp.sum(phi) - 0.5 * jnp.sum(phi**2)

    return log_joint


def _banded(n, rng):
    y = jnp.asarray(rng.poisson(2, n).astype(float))

    def log_joint(theta, phi):
        change = theta[1:] - jnp.tanh(phi[0]) * theta[:-1]
        prior = -0.5 * jnp.exp(2 * phi[1]) * jnp.sum(change**2) + (n - 1) * phi[1] - 0.5 * theta[0] ** 2
        return jnp.sum(y * theta - jnp.exp(theta)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


def _grid(n, rng):
    """A Markov random field on a square."""
    side = round(n**0.5)
    y = jnp.asarray(rng.poisson(2, (side, side)).astype(float))

    def log_joint(theta, phi):
        t = theta.reshape(side, side)
        differences = jnp.sum((t[1:] - t[:-1]) ** 2) + jnp.sum((t[:, 1:] - t[:, :-1]) ** 2)
        prior = -0.5 * jnp.exp(phi[0]) * differences + 0.5 * n * phi[0] - 0.5 * jnp.exp(phi[1]) * jnp.sum(t**2)
        return jnp.sum(y * t - jnp.exp(t)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


def _process(n, rng):
    y, x = jnp.asarray(rng.poisson(2, n).astype(float)), jnp.linspace(0, 3, n)
    distance = jnp.abs(x[:, None] - x[None])

    def log_joint(theta, phi):
        kernel = jnp.exp(2 * phi[0]) * jnp.exp(-distance * jnp.exp(-phi[1])) + 0.01 * jnp.eye(n)
        factor = jnp.linalg.cholesky(kernel)
        half = jnp.linalg.solve(kernel, theta)
        prior = -0.5 * theta @ half - jnp.sum(jnp.log(jnp.diag(factor)))
        return jnp.sum(y * theta - jnp.exp(theta)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint
