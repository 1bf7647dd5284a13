"""Log joint densities of latent variables and hyper-parameters, one for each structure of the Hessian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RNG = np.random.default_rng(8)


def diagonal(n: int) -> Callable:
    """Counts with a normal effect each."""
    import jax.numpy as jnp

    y = RNG.poisson(2, n).astype(float)

    def log_joint(theta, phi):
        prior = -0.5 * jnp.sum((theta - phi[0]) ** 2) * jnp.exp(-2 * phi[1]) - n * phi[1]
        return jnp.sum(y * theta - jnp.exp(theta)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


def blocks(n: int) -> Callable:
    """Counts of groups with an intercept and a slope each; first all intercepts, then all slopes."""
    import jax.numpy as jnp

    half = n // 2
    y, x = RNG.poisson(2, (half, 3)).astype(float), RNG.normal(size=(half, 3))

    def log_joint(theta, phi):
        a, b = theta[:half], theta[half:]
        rate = a[:, None] + b[:, None] * x
        prior = -0.5 * jnp.sum(a**2) * jnp.exp(-2 * phi[0]) - 0.5 * jnp.sum(b**2) * jnp.exp(-2 * phi[1])
        return jnp.sum(y * rate - jnp.exp(rate)) + prior - half * jnp.sum(phi) - 0.5 * jnp.sum(phi**2)

    return log_joint


def banded(n: int) -> Callable:
    """Counts along an autoregressive process."""
    import jax.numpy as jnp

    y = RNG.poisson(2, n).astype(float)

    def log_joint(theta, phi):
        change = theta[1:] - jnp.tanh(phi[0]) * theta[:-1]
        prior = -0.5 * jnp.exp(2 * phi[1]) * jnp.sum(change**2) + (n - 1) * phi[1] - 0.5 * theta[0] ** 2
        return jnp.sum(y * theta - jnp.exp(theta)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


def sparse(n: int) -> Callable:
    """Counts along a process, with two coefficients that all of them share."""
    import jax.numpy as jnp

    y, x = RNG.poisson(2, n - 2).astype(float), RNG.normal(size=n - 2)

    def log_joint(theta, phi):
        shared, level = theta[:2], theta[2:]
        rate = level + shared[0] + shared[1] * x
        prior = -0.5 * jnp.exp(2 * phi[0]) * jnp.sum((level[1:] - level[:-1]) ** 2) + (n - 3) * phi[0]
        prior -= 0.5 * level[0] ** 2 + 0.5 * jnp.exp(phi[1]) * jnp.sum(shared**2) - phi[1]
        return jnp.sum(y * rate - jnp.exp(rate)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


def dense(n: int) -> Callable:
    """Counts along a Gaussian process of known length scale."""
    import jax.numpy as jnp

    y, x = RNG.poisson(2, n).astype(float), np.linspace(0, 3, n)
    precision = np.linalg.inv(np.exp(-0.5 * (x[:, None] - x[None]) ** 2) + 0.1 * np.eye(n))

    def log_joint(theta, phi):
        rate = phi[1] + theta
        prior = -0.5 * jnp.exp(2 * phi[0]) * theta @ (precision @ theta) + n * phi[0]
        return jnp.sum(y * rate - jnp.exp(rate)) + prior - 0.5 * jnp.sum(phi**2)

    return log_joint


#: By structure: what makes a density, and how many latent variables it gets in the tests.
JOINTS = {"diagonal": (diagonal, 30), "blocks": (blocks, 40), "banded": (banded, 40), "sparse": (sparse, 120)}
JOINTS["dense"] = (dense, 12)
