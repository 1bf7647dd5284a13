"""Linear and logistic regressions with normal or flat priors on the coefficients."""

import math

import numpy as np

from densities.base import Workload, posteriordb_reference

#: Degrees of freedom and width of a half-Student prior of sigma.
FLAT = (0.0, 1.0)


def half_cauchy(width):
    return (1.0, width)


def half_normal(width):
    return (math.inf, width)


class Regression(Workload):
    """y ~ N(X beta, sigma); `prior_sd` is infinite where a coefficient has a flat prior.

    `variables` names the coefficients in the order of the columns, with how many each has; sigma comes last.
    """

    def __init__(self, name, variables, X, y, *, prior_sd, prior_mean=0.0, sigma=FLAT, reference=None):
        self.name, self.title = name, f"linear regression, {X.shape[1] + 1}"
        self.blocks = (*((variable, size, "identity") for variable, size in variables), ("sigma", 1, "log"))
        self.data = {"X": X, "y": y}
        self.prior = np.broadcast_to(prior_mean, X.shape[1]).astype(float), np.broadcast_to(prior_sd, X.shape[1])
        self.sigma_prior = sigma
        self.reference_name = reference

    def reference(self):
        return posteriordb_reference(self.reference_name) if self.reference_name else {}

    def numba_logp(self):
        import numba

        from densities.parts import scale_prior

        X, y = self.data["X"], self.data["y"]
        # |y - X beta|^2 = |Q'y - R beta|^2 + what no beta can explain.
        Q, R = np.linalg.qr(X)
        target = Q.T @ y
        unexplained = float(np.sum((y - Q @ target) ** 2))
        n, k = X.shape
        mean, precision = self.prior[0], 1.0 / self.prior[1] ** 2
        df, width = self.sigma_prior

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total, grad_sigma = scale_prior(x[k], df, width)
            for j in range(k):
                total -= 0.5 * precision[j] * (x[j] - mean[j]) ** 2
                grad[j] = -precision[j] * (x[j] - mean[j])
            inverse_variance = math.exp(-2.0 * x[k])
            squares = unexplained
            for i in range(k):
                residual = target[i]
                for j in range(i, k):
                    residual -= R[i, j] * x[j]
                squares += residual * residual
                for j in range(i, k):
                    grad[j] += inverse_variance * residual * R[i, j]
            grad[k] = grad_sigma - n + inverse_variance * squares
            return total - n * x[k] - 0.5 * inverse_variance * squares

        return logp


class Logistic(Workload):
    """y ~ Bernoulli(logit X beta) with up to 1,000 rows; `prior_sd` is infinite for flat priors."""

    def __init__(self, name, X, y, *, prior_sd):
        self.name, self.title = name, f"logistic regression, {X.shape[1]}"
        self.blocks = (("beta", X.shape[1], "identity"),)
        self.data = {"X": np.ascontiguousarray(X, float), "y": y.astype(float)}
        self.prior_sd = prior_sd

    def numba_logp(self):
        import numba

        from densities.parts import sigmoid_and_factor

        X, y = self.data["X"], self.data["y"]
        n, k = X.shape
        precision = 1.0 / self.prior_sd**2

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total, product = 0.0, 1.0
            for j in range(k):
                total -= 0.5 * precision * x[j] * x[j]
                grad[j] = -precision * x[j]
            for i in range(n):
                logit = 0.0
                for j in range(k):
                    logit += X[i, j] * x[j]
                probability, factor = sigmoid_and_factor(logit)
                total += y[i] * logit - max(logit, 0.0)
                product *= factor
                residual = y[i] - probability
                for j in range(k):
                    grad[j] += residual * X[i, j]
            return total - math.log(product)

        return logp
