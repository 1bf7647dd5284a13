"""The item-response and the radon model of references/001 on the unconstrained scale, compiled by numba."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
from numba import types
from simple_model import NormalModel

import nutpie
from nutpie._convergence import ess, split

_DOUBLE = types.CPointer(types.float64)
_SIGNATURE = types.int64(types.uint64, _DOUBLE, _DOUBLE, _DOUBLE, types.voidptr)


def _item_responses(people: int, items: int) -> np.ndarray:
    rng = np.random.default_rng(1003)
    ability, difficulty = rng.standard_normal(people), rng.standard_normal(items)
    discrimination = np.abs(rng.standard_normal(items)) + 0.1
    logits = discrimination * (ability[:, None] - difficulty)
    return (rng.random((people, items)) < 1 / (1 + np.exp(-logits))).astype(float)


@functools.cache
def item_response(people: int = 100, items: int = 30) -> NormalModel:
    """Two parameters of each item: abilities (people), difficulties (items), logarithms of discriminations (items)."""
    y = _item_responses(people, items)

    @numba.cfunc(_SIGNATURE, error_model="numpy")
    def logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
        x, grad = numba.carray(x_ptr, (dim,)), numba.carray(grad_ptr, (dim,))
        total = 0.0
        for k in range(people + items):
            total -= 0.5 * x[k] * x[k]
            grad[k] = -x[k]
        for j in range(items):
            a, b = math.exp(x[people + items + j]), x[people + j]
            total += x[people + items + j] - 0.5 * a * a
            grad_a, grad_b = 1.0 - a * a, 0.0
            for i in range(people):
                logit = a * (x[i] - b)
                e = math.exp(-abs(logit))
                total += y[i, j] * logit - max(logit, 0.0) - math.log1p(e)
                residual = y[i, j] - (1.0 if logit > 0 else e) / (1.0 + e)
                grad[i] += residual * a
                grad_b -= residual * a
                grad_a += residual * logit
            grad[people + j] += grad_b
            grad[people + items + j] = grad_a
        numba.carray(logp_ptr, (1,))[0] = total
        return 0

    return NormalModel(people + 2 * items, logp)


@functools.cache
def radon() -> NormalModel:
    """Hyper-mean, log of the hyper-scale, 85 intercepts, slope, log of the noise."""
    # The legacy generator, with which references/001 makes its data.
    rng = np.random.RandomState(0)
    county = np.repeat(np.arange(85), np.maximum(1, rng.poisson(10, 85))).astype(int)
    floor = rng.binomial(1, 0.3, len(county)).astype(float)
    y = rng.normal(1.3, 0.4, 85)[county] - 0.7 * floor + rng.normal(0, 0.5, len(county))
    n = len(y)

    @numba.cfunc(_SIGNATURE, error_model="numpy")
    def logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
        x, grad = numba.carray(x_ptr, (dim,)), numba.carray(grad_ptr, (dim,))
        mu, log_tau, beta, log_sigma = x[0], x[1], x[87], x[88]
        tau2, sigma2 = math.exp(2 * log_tau), math.exp(2 * log_sigma)
        total = -0.5 * (mu * mu + beta * beta) - math.log1p(tau2) - math.log1p(sigma2)
        total += (1 - 85) * log_tau + (1 - n) * log_sigma
        grad[0], grad[87] = -mu, -beta
        squares, rest = 0.0, 0.0
        for k in range(85):
            d = x[2 + k] - mu
            squares += d * d
            grad[2 + k] = -d / tau2
            grad[0] += d / tau2
        for i in range(n):
            r = y[i] - x[2 + county[i]] - beta * floor[i]
            rest += r * r
            grad[2 + county[i]] += r / sigma2
            grad[87] += r * floor[i] / sigma2
        total -= 0.5 * squares / tau2 + 0.5 * rest / sigma2
        grad[1] = (1 - 85) - 2 * tau2 / (1 + tau2) + squares / tau2
        grad[88] = (1 - n) - 2 * sigma2 / (1 + sigma2) + rest / sigma2
        numba.carray(logp_ptr, (1,))[0] = total
        return 0

    return NormalModel(89, logp)


#: Kinds of starts: arrays for 64 chains, by number of parameters and seed.
STARTS = {
    "the model's own": lambda n, seed: np.random.default_rng(seed).uniform(-2, 2, (64, n)),
    "one point": lambda n, seed: np.full((64, n), 0.5),
    "far away": lambda n, seed: np.random.default_rng(seed).normal(0, 1, (64, n)) + 6,
}


def check_against(result: Any, reference: np.ndarray) -> None:
    """Check that an ensemble has the means and the spread of long chains, and that it is well tuned.

    Means are compared by their errors, of which the largest of some hundred is allowed 5; spreads by quartiles, since
    some parameters have long tails.
    """
    x = result.posterior["x"].values
    sds = reference.std(axis=(0, 1))
    rows = [np.ascontiguousarray(np.moveaxis(draws, 2, 0)) for draws in (x, reference)]
    errors = sds * np.sqrt(sum(1 / ess(split(row)) for row in rows))
    z = (x.mean(axis=(0, 1)) - reference.mean(axis=(0, 1))) / errors
    assert np.abs(z).max() < 5
    assert z.std() < 1.5
    low, high = (np.quantile(draws, (0.25, 0.75), axis=(0, 1)) for draws in (x, reference))
    ratio = (low[1] - low[0]) / (high[1] - high[0])
    assert 0.8 < ratio.min() < ratio.max() < 1.25
    assert float(nutpie.nested_r_hat(result)["x"].max()) < 1.03
    assert float(result.adaptation["kernel_step_size"][0]) > 0.1
    assert not result.sample_stats["diverging"].any()
