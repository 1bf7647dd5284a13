"""Gaussian processes with a squared exponential kernel, by Cholesky factors in plain loops: they are small."""

import math

import numpy as np

from densities.base import Workload, posteriordb_reference


def _functions():
    """Numba functions: a Cholesky factor (False where there is none) and the inverse of a lower triangle."""
    import numba

    @numba.njit(error_model="numpy")
    def cholesky(K, L):
        for i in range(len(K)):
            for j in range(i + 1):
                value = K[i, j]
                for k in range(j):
                    value -= L[i, k] * L[j, k]
                if i == j:
                    if not value > 0.0:
                        return False
                    L[i, i] = math.sqrt(value)
                else:
                    L[i, j] = value / L[j, j]
        return True

    @numba.njit(error_model="numpy")
    def invert_lower(L, inverse):
        n = len(L)
        for j in range(n):
            inverse[j, j] = 1.0 / L[j, j]
            for i in range(j + 1, n):
                value = 0.0
                for k in range(j, i):
                    value -= L[i, k] * inverse[k, j]
                inverse[i, j] = value / L[i, i]

    return cholesky, invert_lower


class PoissonProcess(Workload):
    """Counts with a Gaussian process, of which the parameters are the independent normals under its factor."""

    name, title = "gp_pois_regr", "Poisson process, 13"
    blocks = (("rho", 1, "log"), ("alpha", 1, "log"), ("f_tilde", 11, "identity"))

    def __init__(self, data):
        self.data = data

    def expand(self, draws):
        values = super().expand(draws)
        x = self.data["x"].astype(float)
        squares = (x[:, None] - x[None]) ** 2
        rho, alpha = values["rho"][..., None], values["alpha"][..., None]
        factor = np.linalg.cholesky(alpha**2 * np.exp(-0.5 * squares / rho**2) + 1e-10 * np.eye(len(x)))
        f = (factor @ values.pop("f_tilde")[..., None])[..., 0]
        return {**values, "f": f}

    def reference(self):
        return posteriordb_reference("gp_pois_regr-gp_pois_regr")

    def numba_logp(self):
        import numba

        x_data, counts = self.data["x"].astype(float), self.data["k"].astype(float)
        n = len(counts)
        cholesky, invert_lower = _functions()

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            rho, alpha = math.exp(x[0]), math.exp(x[1])
            total = 25.0 * x[0] - 4.0 * rho + x[1] - 0.125 * alpha * alpha
            grad[0], grad[1] = 25.0 - 4.0 * rho, 1.0 - 0.25 * alpha * alpha
            K, L, inverse = np.empty((n, n)), np.zeros((n, n)), np.zeros((n, n))
            for i in range(n):
                for j in range(n):
                    K[i, j] = alpha * alpha * math.exp(-0.5 * ((x_data[i] - x_data[j]) / rho) ** 2)
                K[i, i] += 1e-10
            if not cholesky(K, L):
                return math.nan
            invert_lower(L, inverse)
            pull = np.empty(n)
            for i in range(n):
                f = 0.0
                for j in range(i + 1):
                    f += L[i, j] * x[2 + j]
                rate = math.exp(f)
                total += counts[i] * f - rate
                pull[i] = counts[i] - rate
            for j in range(n):
                total -= 0.5 * x[2 + j] * x[2 + j]
                grad[2 + j] = -x[2 + j]
                for i in range(j, n):
                    grad[2 + j] += L[i, j] * pull[i]
            # With G the derivative by L, that by K is L^-T P L^-1, P the lower triangle of L'G with half its diagonal.
            P = np.zeros((n, n))
            for i in range(n):
                along = 0.0
                for k in range(i, n):
                    along += L[k, i] * pull[k]
                for j in range(i + 1):
                    P[i, j] = along * x[2 + j]
                P[i, i] *= 0.5
            # In loops and not by BLAS, which numba calls with Python's lock; both triangles are lower.
            for i in range(n):
                for j in range(n):
                    by_K = 0.0
                    for k in range(i, n):
                        for m in range(j, k + 1):
                            by_K += inverse[k, i] * P[k, m] * inverse[m, j]
                    kernel = K[i, j] - (1e-10 if i == j else 0.0)
                    grad[0] += by_K * kernel * ((x_data[i] - x_data[j]) / rho) ** 2
                    grad[1] += by_K * kernel * 2.0
            return total

        return logp


class ProcessRegression(Workload):
    """Gaussian process regression with the latent function integrated out; the parameters are its three scales."""

    blocks = (("rho", 1, "log"), ("alpha", 1, "log"), ("sigma", 1, "log"))

    def __init__(self, name, x, y):
        self.name, self.title = name, "Gaussian process, 3"
        self.data = {"x": x, "y": y}

    def numba_logp(self):
        import numba

        x_data, y = self.data["x"], self.data["y"]
        n = len(y)
        cholesky, invert_lower = _functions()

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            rho, alpha, sigma = math.exp(x[0]), math.exp(x[1]), math.exp(x[2])
            total = 25.0 * x[0] - 4.0 * rho + x[1] - 0.125 * alpha * alpha + x[2] - 0.5 * sigma * sigma
            grad[0], grad[1] = 25.0 - 4.0 * rho, 1.0 - 0.25 * alpha * alpha
            grad[2] = 1.0 - sigma * sigma
            K, L, inverse = np.empty((n, n)), np.zeros((n, n)), np.zeros((n, n))
            for i in range(n):
                for j in range(n):
                    K[i, j] = alpha * alpha * math.exp(-0.5 * ((x_data[i] - x_data[j]) / rho) ** 2)
                K[i, i] += sigma * sigma
            if not cholesky(K, L):
                return math.nan
            invert_lower(L, inverse)
            whitened = np.zeros(n)
            for i in range(n):
                for j in range(i + 1):
                    whitened[i] += inverse[i, j] * y[j]
                total -= math.log(L[i, i]) + 0.5 * whitened[i] * whitened[i]
            solved, precision = np.zeros(n), np.zeros((n, n))
            for k in range(n):
                for i in range(k + 1):
                    for j in range(k + 1):
                        precision[i, j] += inverse[k, i] * inverse[k, j]
            for j in range(n):
                for i in range(j, n):
                    solved[j] += inverse[i, j] * whitened[i]
            for i in range(n):
                for j in range(n):
                    by_K = 0.5 * (solved[i] * solved[j] - precision[i, j])
                    noise = sigma * sigma if i == j else 0.0
                    grad[0] += by_K * (K[i, j] - noise) * ((x_data[i] - x_data[j]) / rho) ** 2
                    grad[1] += by_K * (K[i, j] - noise) * 2.0
                    grad[2] += by_K * noise * 2.0
            return total

        return logp
