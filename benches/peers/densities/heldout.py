"""Posteriors with simulated data, in the spirit of posteriordb, that no setting of the sampler was chosen by.

Keep it so: what is tuned on them is no longer held out.
"""

import math

import numpy as np

from densities.base import Workload
from densities.gaussian_process import ProcessRegression
from densities.heldout_hierarchical import (
    HierarchicalItemResponse,
    PoissonWalk,
    RadonSlopesNoncentred,
    Seeds,
    ShrunkLogistic,
)
from densities.heldout_time import Arma, PoissonYears, StochasticVolatility
from densities.regression import Logistic, Regression
from densities.synthetic import CorrelatedGaussian


class DenseGaussian(CorrelatedGaussian):
    """A rotated Gaussian whose eigenvalues cover four decades."""

    name, title = "dense_gaussian", "dense Gaussian, 100"
    blocks = (("x", 100, "identity"),)

    def __init__(self):
        rng = np.random.default_rng(20_001)
        directions, _ = np.linalg.qr(rng.standard_normal((100, 100)))
        eigenvalues = np.logspace(-2, 2, 100)
        self._set((directions * eigenvalues) @ directions.T, (directions / eigenvalues) @ directions.T)


class StudentT(Workload):
    """Independent Student variables with four degrees of freedom, scales over three decades."""

    name, title = "student_t", "Student t, 50"
    blocks = (("x", 50, "identity"),)

    def __init__(self):
        self.scale = np.random.default_rng(20_002).permutation(np.logspace(-1, 2, 50))

    def reference(self):
        return {f"x[{i + 1}]": (0.0, math.sqrt(2.0) * scale, 0.0) for i, scale in enumerate(self.scale)}

    def numba_logp(self):
        import numba

        scale = self.scale

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total = 0.0
            for i in range(50):
                z = x[i] / scale[i]
                total -= 2.5 * math.log1p(0.25 * z * z)
                grad[i] = -5.0 * z / ((4.0 + z * z) * scale[i])
            return total

        return logp


class TwoModes(Workload):
    """Two unit normals whose means are four standard deviations apart along a diagonal, so that chains do cross."""

    name, title = "two_modes", "two modes, 10"
    blocks = (("x", 10, "identity"),)
    half_distance = 2.0

    def reference(self):
        sd = math.sqrt(1.0 + self.half_distance**2 / 10)
        return {f"x[{i + 1}]": (0.0, sd, 0.0) for i in range(10)}

    def numba_logp(self):
        import numba

        shift = self.half_distance / math.sqrt(10.0)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            along = squares = 0.0
            for i in range(10):
                along += x[i] * shift
                squares += x[i] * x[i]
            pull = math.tanh(along)
            for i in range(10):
                grad[i] = pull * shift - x[i]
            return abs(along) + math.log1p(math.exp(-2.0 * abs(along))) - 0.5 * squares

        return logp


def earnings():
    """Earnings in dollars by height in inches, neither scaled: the intercept is about -6e4."""
    rng = np.random.default_rng(20_003)
    height = np.round(rng.normal(66.6, 3.8, 1200))
    X = np.stack([np.ones(1200), height], axis=1)
    earnings = X @ [-61_000.0, 1_260.0] + 18_900.0 * rng.standard_normal(1200)
    return Regression("earn_height", [("beta", 2)], X, earnings, prior_sd=math.inf)


def summer_temperatures():
    """A trend by the year of the calendar, so that intercept and slope are all but one direction."""
    rng = np.random.default_rng(20_004)
    year = np.arange(1952.0, 2014.0)
    X = np.stack([np.ones(len(year)), year], axis=1)
    y = 9.3 + 0.02 * (year - year.mean()) + 1.1 * rng.standard_normal(len(year))
    settings = {"prior_mean": [9.3, 0.0], "prior_sd": [100.0, 0.0333]}
    return Regression("kilpisjarvi", [("alpha", 1), ("beta", 1)], X, y, **settings)


def diamonds():
    """Twenty-four centred covariates, many of them functions of a few others, an intercept and a noise."""
    rng = np.random.default_rng(20_005)
    n = 5000
    size = rng.standard_normal(n)
    dimensions = size[:, None] + 0.03 * rng.standard_normal((n, 4))
    grades = rng.standard_normal((n, 3)) - 0.3 * size[:, None]
    powers = np.concatenate([grades**k for k in (1, 2, 3, 4, 5)], axis=1)
    covariates = np.concatenate([dimensions, powers, size[:, None] * grades, size[:, None] ** [[2, 3]]], axis=1)
    covariates = (covariates - covariates.mean(axis=0)) / [[10.0] * 4 + list(powers.std(axis=0)) + [1.0] * 5]
    y = 8.0 + covariates @ rng.normal(0, 0.3, 24) + 0.13 * rng.standard_normal(n)
    X = np.concatenate([covariates, np.ones((n, 1))], axis=1)
    prior_sd = np.array([1.0] * 24 + [10.0])
    settings = {"prior_mean": [0.0] * 24 + [8.0], "prior_sd": prior_sd, "sigma": (3.0, 10.0)}
    return Regression("diamonds", [("b", 24), ("intercept", 1)], X, y, **settings)


def wells():
    """Changing the well by distance in metres, arsenic and years of school, none of them scaled."""
    rng = np.random.default_rng(20_006)
    n = 1000
    distance, arsenic = rng.gamma(1.6, 30.0, n), 0.5 + rng.gamma(1.2, 1.0, n)
    school = np.minimum(rng.poisson(5.0, n), 17).astype(float)
    X = np.stack([np.ones(n), distance, arsenic, school], axis=1)
    y = rng.random(n) < 1.0 / (1.0 + np.exp(-X @ [-0.2, -0.009, 0.46, 0.04]))
    return Logistic("wells", X, y, prior_sd=math.inf)


def process_regression():
    rng = np.random.default_rng(20_007)
    x = np.sort(rng.uniform(-10, 10, 25))
    kernel = 4.0 * np.exp(-0.5 * (x[:, None] - x[None]) ** 2 / 25.0)
    y = rng.multivariate_normal(np.zeros(25), kernel + 0.5 * np.eye(25))
    return ProcessRegression("gp_regression", x, y)


WORKLOADS = {
    "arma11": Arma,
    "glmm_poisson": PoissonYears,
    "earn_height": earnings,
    "kilpisjarvi": summer_temperatures,
    "wells": wells,
    "irt_2pl": HierarchicalItemResponse,
    "seeds": Seeds,
    "stochastic_volatility": StochasticVolatility,
    "gp_regression": process_regression,
    "dense_gaussian": DenseGaussian,
    "student_t": StudentT,
    "two_modes": TwoModes,
    "diamonds": diamonds,
    "shrunk_logistic": ShrunkLogistic,
    "radon_slopes": RadonSlopesNoncentred,
    "poisson_walk": PoissonWalk,
}
