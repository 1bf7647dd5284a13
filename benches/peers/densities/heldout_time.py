"""Held-out models of time series."""

import math

import numpy as np

from densities.base import Workload


class Arma(Workload):
    """ARMA(1, 1). For |theta| > 1 the errors grow without bound, so about half of the starts are very bad."""

    name, title = "arma11", "ARMA, 4"
    blocks = (("mu", 1, "identity"), ("phi", 1, "identity"), ("theta", 1, "identity"), ("sigma", 1, "log"))

    def __init__(self):
        rng = np.random.default_rng(20_011)
        y, noise = np.zeros(200), 0.15 * rng.standard_normal(200)
        for t in range(1, 200):
            y[t] = 0.01 + 0.95 * y[t - 1] - 0.4 * noise[t - 1] + noise[t]
        self.data = {"y": y}

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        y = self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            mu, phi, theta = x[0], x[1], x[2]
            total, grad_sigma = scale_prior(x[3], 1.0, 2.5)
            total -= 0.005 * mu * mu + 0.125 * (phi * phi + theta * theta)
            grad[0], grad[1], grad[2] = -0.01 * mu, -0.25 * phi, -0.25 * theta
            precision = math.exp(-2.0 * x[3])
            error = y[0] - mu - phi * mu
            by_mu, by_phi, by_theta = -1.0 - phi, -mu, 0.0
            squares = 0.0
            for t in range(n):
                if t > 0:
                    by_mu, by_phi = -1.0 - theta * by_mu, -y[t - 1] - theta * by_phi
                    by_theta = -error - theta * by_theta
                    error = y[t] - mu - phi * y[t - 1] - theta * error
                squares += error * error * precision
                grad[0] -= error * precision * by_mu
                grad[1] -= error * precision * by_phi
                grad[2] -= error * precision * by_theta
            grad[3] = grad_sigma - n + squares
            return total - n * x[3] - 0.5 * squares

        return logp


class PoissonYears(Workload):
    """Counts of forty years: a cubic trend between bounds, and an effect for each year.

    The bounds are wide on the log scale of the counts, so most starts are very bad.
    """

    name, title = "glmm_poisson", "Poisson, years, 45"
    blocks = (("trend", 4, "bounded"), ("sigma", 1, "bounded"), ("eps", 40, "identity"))
    lower = np.array([-20.0, -10.0, -10.0, -10.0, 0.0])
    upper = np.array([20.0, 10.0, 20.0, 10.0, 5.0])

    def __init__(self):
        rng = np.random.default_rng(20_012)
        year = np.arange(1.0, 41.0)
        year = (year - year.mean()) / year.std(ddof=1)
        powers = year[:, None] ** np.arange(4)
        rate = np.exp(powers @ [4.27, 1.27, 0.06, -0.23] + 0.1 * rng.standard_normal(40))
        self.data = {"powers": powers, "counts": rng.poisson(rate).astype(float)}

    def expand(self, draws):
        bounded = self.lower + (self.upper - self.lower) / (1.0 + np.exp(-draws[..., :5]))
        return {"trend": bounded[..., :4], "sigma": bounded[..., 4:], "eps": draws[..., 5:]}

    def numba_logp(self):
        import numba

        from densities.parts import log_sigmoid

        powers, counts = self.data["powers"], self.data["counts"]
        lower, width = self.lower, self.upper - self.lower

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total = 0.0
            values, slopes = np.empty(5), np.empty(5)
            for k in range(5):
                log_share, share = log_sigmoid(x[k])
                total += log_share + log_sigmoid(-x[k])[0]
                grad[k] = 1.0 - 2.0 * share
                values[k] = lower[k] + width[k] * share
                slopes[k] = width[k] * share * (1.0 - share)
            sigma = values[4]
            squares = 0.0
            for i in range(40):
                scaled = x[5 + i] / sigma
                squares += scaled * scaled
                log_rate = x[5 + i]
                for k in range(4):
                    log_rate += values[k] * powers[i, k]
                rate = math.exp(log_rate)
                total += counts[i] * log_rate - rate
                residual = counts[i] - rate
                grad[5 + i] = residual - scaled / sigma
                for k in range(4):
                    grad[k] += residual * powers[i, k] * slopes[k]
            grad[4] += (squares - 40.0) / sigma * slopes[4]
            return total - 0.5 * squares - 40.0 * math.log(sigma)

        return logp


class StochasticVolatility(Workload):
    """Log variances that follow an autoregression, centred; phi is between -1 and 1."""

    name, title = "stochastic_volatility", "stochastic volatility, 203"
    blocks = (("mu", 1, "identity"), ("phi", 1, "bounded"), ("sigma", 1, "log"), ("h", 200, "identity"))

    def __init__(self):
        rng = np.random.default_rng(20_013)
        h = np.empty(200)
        h[0] = -1.0 + 0.25 / math.sqrt(1.0 - 0.95**2) * rng.standard_normal()
        for t in range(1, 200):
            h[t] = -1.0 + 0.95 * (h[t - 1] + 1.0) + 0.25 * rng.standard_normal()
        self.data = {"y": np.exp(0.5 * h) * rng.standard_normal(200)}

    def expand(self, draws):
        phi = np.tanh(0.5 * draws[..., 1:2])
        return {"mu": draws[..., :1], "phi": phi, "sigma": np.exp(draws[..., 2:3]), "h": draws[..., 3:]}

    def numba_logp(self):
        import numba

        from densities.parts import log_sigmoid, scale_prior

        y = self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            mu, phi = x[0], math.tanh(0.5 * x[1])
            log_share = log_sigmoid(x[1])[0]
            log_rest = log_sigmoid(-x[1])[0]
            precision = math.exp(-2.0 * x[2])
            # 1 - phi^2 is 4 share (1 - share), which is exact near the bounds.
            log_left = math.log(4.0) + log_share + log_rest
            left = math.exp(log_left)
            total, grad_sigma = scale_prior(x[2], 1.0, 5.0)
            total += log_share + log_rest - math.log1p(0.01 * mu * mu)
            grad_mu, grad_phi = -0.02 * mu / (1.0 + 0.01 * mu * mu), 0.0
            deviation = x[3] - mu
            total += 0.5 * log_left - n * x[2]
            squares = left * deviation * deviation * precision
            grad_mu += left * deviation * precision
            grad_phi += phi * deviation * deviation * precision
            grad[3] = -left * deviation * precision
            for t in range(n):
                if t > 0:
                    before, deviation = deviation, x[3 + t] - mu
                    shock = (deviation - phi * before) * precision
                    squares += shock * (deviation - phi * before)
                    grad[3 + t] = -shock
                    grad[2 + t] += phi * shock
                    grad_mu += (1.0 - phi) * shock
                    grad_phi += before * shock
                likelihood = y[t] * y[t] * math.exp(-x[3 + t])
                total -= 0.5 * (x[3 + t] + likelihood)
                grad[3 + t] += 0.5 * (likelihood - 1.0)
            grad[0] = grad_mu
            # dphi/dx is (1 - phi^2) / 2; the logarithms of share, its rest and 1 - phi^2 have a derivative -phi each.
            grad[1] = -phi - 0.5 * phi + grad_phi * 0.5 * left
            grad[2] = grad_sigma - n + squares
            return total - 0.5 * squares

        return logp
