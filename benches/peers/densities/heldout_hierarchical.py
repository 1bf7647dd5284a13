"""Held-out hierarchical models."""

import math

import numpy as np

from densities.base import Workload


def _uniform_below(rng, logits):
    return (rng.random(np.shape(logits)) < 1.0 / (1.0 + np.exp(-logits))).astype(float)


class HierarchicalItemResponse(Workload):
    """Two-parameter item response model with scales of its own for each kind of parameter: 100 people, 20 items."""

    name, title = "irt_2pl", "item response, 144"
    blocks = (
        ("sigma_theta", 1, "log"),
        ("sigma_a", 1, "log"),
        ("mu_b", 1, "identity"),
        ("sigma_b", 1, "log"),
        ("theta", 100, "identity"),
        ("a", 20, "log"),
        ("b", 20, "identity"),
    )

    def __init__(self):
        rng = np.random.default_rng(20_021)
        ability, difficulty = 1.3 * rng.standard_normal(100), 0.5 + 1.2 * rng.standard_normal(20)
        discrimination = np.exp(0.4 * rng.standard_normal(20))
        self.data = {"y": _uniform_below(rng, discrimination * (ability[:, None] - difficulty))}

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior, sigmoid_and_factor

        y = self.data["y"]

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total = -0.02 * x[2] * x[2]
            grad[2] = -0.04 * x[2]
            for k in (0, 1, 3):
                prior, grad[k] = scale_prior(x[k], 1.0, 2.0)
                total += prior
            # theta, log a and b are normal; log a is a parameter itself, so its lognormal prior has no Jacobian.
            for first, size, scale in ((4, 100, 0), (104, 20, 1), (124, 20, 3)):
                precision = math.exp(-2.0 * x[scale])
                mean = x[2] if scale == 3 else 0.0
                squares = 0.0
                for k in range(first, first + size):
                    deviation = x[k] - mean
                    squares += deviation * deviation * precision
                    grad[k] = -deviation * precision
                    if scale == 3:
                        grad[2] += deviation * precision
                total -= size * x[scale] + 0.5 * squares
                grad[scale] += squares - size
            for j in range(20):
                a, b = math.exp(x[104 + j]), x[124 + j]
                grad_a, grad_b, product = 0.0, 0.0, 1.0
                for i in range(100):
                    logit = a * (x[4 + i] - b)
                    probability, factor = sigmoid_and_factor(logit)
                    total += y[i, j] * logit - max(logit, 0.0)
                    product *= factor
                    residual = y[i, j] - probability
                    grad[4 + i] += residual * a
                    grad_b -= residual * a
                    grad_a += residual * logit
                total -= math.log(product)
                grad[104 + j] += grad_a
                grad[124 + j] += grad_b
            return total

        return logp


class Seeds(Workload):
    """Germinated seeds on 21 plates: two factors, their interaction, and centred effects of the plates."""

    name, title = "seeds", "binomial, plates, 26"
    blocks = (("alpha", 4, "identity"), ("sigma", 1, "log"), ("c", 21, "identity"))

    def __init__(self):
        rng = np.random.default_rng(20_022)
        first, second = np.repeat([0.0, 0.0, 1.0, 1.0], [5, 6, 5, 5]), np.repeat([0.0, 1.0, 0.0, 1.0], [5, 6, 5, 5])
        X = np.stack([np.ones(21), first, second, first * second], axis=1)
        total = rng.integers(4, 82, 21)
        effects = 0.3 * rng.standard_normal(21)
        probability = 1.0 / (1.0 + np.exp(-(X @ [-0.55, 0.1, 1.3, -0.8] + effects)))
        self.data = {"X": X, "total": total.astype(float), "y": rng.binomial(total, probability).astype(float)}

    def numba_logp(self):
        import numba

        from densities.parts import log_sigmoid, scale_prior

        X, trials, y = self.data["X"], self.data["total"], self.data["y"]

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total, grad_sigma = scale_prior(x[4], 1.0, 1.0)
            for k in range(4):
                total -= 0.5 * x[k] * x[k]
                grad[k] = -x[k]
            precision = math.exp(-2.0 * x[4])
            mean = 0.0
            for i in range(21):
                mean += x[5 + i] / 21.0
            squares = pulls = 0.0
            for i in range(21):
                squares += x[5 + i] * x[5 + i] * precision
                # The effects enter less their mean.
                logit = x[5 + i] - mean
                for k in range(4):
                    logit += X[i, k] * x[k]
                value, probability = log_sigmoid(logit)
                total += trials[i] * value - (trials[i] - y[i]) * logit
                residual = y[i] - trials[i] * probability
                pulls += residual
                grad[5 + i] = residual - x[5 + i] * precision
                for k in range(4):
                    grad[k] += residual * X[i, k]
            for i in range(21):
                grad[5 + i] -= pulls / 21.0
            grad[4] = grad_sigma - 21.0 + squares
            return total - 21.0 * x[4] - 0.5 * squares

        return logp


class ShrunkLogistic(Workload):
    """Logistic regression with 100 correlated covariates and one scale for all coefficients, not centred."""

    name, title = "shrunk_logistic", "shrunk logistic, 102"
    blocks = (("tau", 1, "log"), ("intercept", 1, "identity"), ("raw", 100, "identity"))

    def __init__(self):
        rng = np.random.default_rng(20_023)
        X = rng.standard_normal((300, 100))
        for j in range(1, 100):
            X[:, j] = 0.9 * X[:, j - 1] + math.sqrt(1 - 0.81) * X[:, j]
        beta = np.where(rng.random(100) < 0.2, rng.normal(0, 0.7, 100), 0.0)
        self.data = {"X": X, "y": _uniform_below(rng, -0.3 + X @ beta)}

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior, sigmoid_and_factor

        X, y = self.data["X"], self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy", fastmath={"reassoc", "contract"})
        def logp(x, grad):
            tau = math.exp(x[0])
            total, grad_tau = scale_prior(x[0], math.inf, 1.0)
            total -= 0.02 * x[1] * x[1]
            grad_intercept, product = -0.04 * x[1], 1.0
            for k in range(100):
                total -= 0.5 * x[2 + k] * x[2 + k]
                grad[2 + k] = -x[2 + k]
            for i in range(n):
                linear = 0.0
                for k in range(100):
                    linear += X[i, k] * x[2 + k]
                logit = x[1] + tau * linear
                probability, factor = sigmoid_and_factor(logit)
                total += y[i] * logit - max(logit, 0.0)
                product *= factor
                residual = y[i] - probability
                grad_intercept += residual
                grad_tau += residual * tau * linear
                for k in range(100):
                    grad[2 + k] += residual * tau * X[i, k]
            grad[0], grad[1] = grad_tau, grad_intercept
            return total - math.log(product)

        return logp


class RadonSlopesNoncentred(Workload):
    """Varying intercepts and slopes of 85 counties with simulated data, neither centred."""

    name, title = "radon_slopes", "radon, not centred, 175"
    blocks = (
        ("sigma_y", 1, "log"),
        ("sigma_alpha", 1, "log"),
        ("sigma_beta", 1, "log"),
        ("mu", 2, "identity"),
        ("raw_alpha", 85, "identity"),
        ("raw_beta", 85, "identity"),
    )

    def __init__(self):
        rng = np.random.default_rng(20_024)
        county = np.repeat(np.arange(85), 1 + rng.negative_binomial(1, 0.1, 85))
        floor = (rng.random(len(county)) < 0.17).astype(float)
        intercept, slope = rng.normal(1.45, 0.33, 85), rng.normal(-0.7, 0.25, 85)
        y = intercept[county] + slope[county] * floor + 0.75 * rng.standard_normal(len(county))
        self.data = {"county": county, "floor": floor, "y": y}

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        county, floor, y = self.data["county"], self.data["floor"], self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total = -0.005 * (x[3] * x[3] + x[4] * x[4])
            for k in range(3):
                prior, grad[k] = scale_prior(x[k], math.inf, 1.0)
                total += prior
            grad[3], grad[4] = -0.01 * x[3], -0.01 * x[4]
            for k in range(5, 175):
                total -= 0.5 * x[k] * x[k]
                grad[k] = -x[k]
            precision, sigma_alpha, sigma_beta = math.exp(-2.0 * x[0]), math.exp(x[1]), math.exp(x[2])
            squares = 0.0
            for i in range(n):
                at_alpha, at_beta = 5 + county[i], 90 + county[i]
                residual = y[i] - x[3] - sigma_alpha * x[at_alpha] - (x[4] + sigma_beta * x[at_beta]) * floor[i]
                squares += residual * residual * precision
                pull = residual * precision
                grad[1] += pull * sigma_alpha * x[at_alpha]
                grad[2] += pull * sigma_beta * x[at_beta] * floor[i]
                grad[3] += pull
                grad[4] += pull * floor[i]
                grad[at_alpha] += pull * sigma_alpha
                grad[at_beta] += pull * sigma_beta * floor[i]
            grad[0] += squares - n
            return total - n * x[0] - 0.5 * squares

        return logp


class PoissonWalk(Workload):
    """Counts whose log rate is a random walk with an unknown step, not centred: a long chain of correlated states."""

    name, title = "poisson_walk", "Poisson, random walk, 302"
    blocks = (("sigma", 1, "log"), ("first", 1, "identity"), ("steps", 300, "identity"))

    def __init__(self):
        rng = np.random.default_rng(20_025)
        log_rate = 1.0 + np.cumsum(0.15 * rng.standard_normal(300))
        self.data = {"counts": rng.poisson(np.exp(log_rate)).astype(float)}

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        counts = self.data["counts"]
        n = len(counts)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            sigma = math.exp(x[0])
            total, grad_sigma = scale_prior(x[0], math.inf, 1.0)
            total -= 0.125 * x[1] * x[1]
            residuals = np.empty(n)
            log_rate = x[1]
            for t in range(n):
                total -= 0.5 * x[2 + t] * x[2 + t]
                log_rate += sigma * x[2 + t]
                rate = math.exp(log_rate)
                total += counts[t] * log_rate - rate
                residuals[t] = counts[t] - rate
            later = 0.0
            for t in range(n - 1, -1, -1):
                later += residuals[t]
                grad[2 + t] = sigma * later - x[2 + t]
                grad_sigma += sigma * later * x[2 + t]
            grad[0], grad[1] = grad_sigma, later - 0.25 * x[1]
            return total

        return logp
