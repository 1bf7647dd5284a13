"""Densities without data worth the name: Gaussians, a funnel, a large hierarchy."""

import math

import numpy as np

from densities.base import Workload


class CorrelatedGaussian(Workload):
    """Three stiff directions on top of a unit Gaussian, which no diagonal metric can follow."""

    name = "W1"
    title = "correlated Gaussian, 50"
    blocks = (("x", 50, "identity"),)

    def __init__(self):
        rng = np.random.default_rng(1001)
        directions, _ = np.linalg.qr(rng.standard_normal((50, 3)))
        covariance = directions @ np.diag([100.0, 50.0, 20.0]) @ directions.T + np.eye(50)
        self._set(covariance, np.linalg.inv(covariance))

    def _set(self, covariance, precision):
        self.data = {"precision": precision}
        self.sd = np.sqrt(np.diag(covariance))

    def reference(self):
        return {f"x[{i + 1}]": (0.0, sd, 0.0) for i, sd in enumerate(self.sd)}

    def numba_logp(self):
        import numba

        precision, dim = self.data["precision"], self.dim

        @numba.njit(error_model="numpy", fastmath=True)
        def logp(x, grad):
            total = 0.0
            for i in range(dim):
                row = 0.0
                for j in range(dim):
                    row += precision[i, j] * x[j]
                grad[i] = -row
                total -= 0.5 * row * x[i]
            return total

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        precision = jnp.asarray(self.data["precision"])
        return lambda x: -0.5 * x @ (precision @ x)

    def pymc_model(self):
        import pymc as pm
        import pytensor.tensor as pt

        with pm.Model() as model:
            x = pm.Flat("x", shape=self.dim, initval=np.zeros(self.dim))
            pm.Potential("logp", -0.5 * pt.dot(x, pt.dot(pt.as_tensor(self.data["precision"]), x)))
        return model


class Funnel(Workload):
    """Neal's funnel: hard for every sampler here, so look at R-hat and divergences before ESS."""

    name = "W9"
    title = "Neal's funnel, 10"
    blocks = (("v", 1, "identity"), ("x", 9, "identity"))

    def __init__(self):
        self.data = {}

    def reference(self):
        # Only of what is light-tailed: a mean over x has a huge variance.
        return {"v": (0.0, 3.0, 0.0)}

    def numba_logp(self):
        import numba

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            v = x[0]
            precision = math.exp(-v)
            squares = 0.0
            for i in range(1, 10):
                squares += x[i] * x[i]
                grad[i] = -x[i] * precision
            grad[0] = -v / 9.0 - 4.5 + 0.5 * precision * squares
            return -v * v / 18.0 - 4.5 * v - 0.5 * precision * squares

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        return lambda x: -(x[0] ** 2) / 18 - 4.5 * x[0] - 0.5 * jnp.exp(-x[0]) * (x[1:] @ x[1:])

    def pymc_model(self):
        import pymc as pm

        with pm.Model() as model:
            v = pm.Normal("v", 0, 3)
            pm.Normal("x", 0, pm.math.exp(v / 2), shape=9)
        return model


class LargeHierarchical(Workload):
    """Hierarchical normal with 10 000 parameters, for cost per gradient and memory."""

    name = "W10"
    title = "hierarchical normal, 10000"
    blocks = (("mu", 1, "identity"), ("log_tau", 1, "identity"), ("x", 9998, "identity"))

    def __init__(self):
        rng = np.random.default_rng(1010)
        x = 0.5 + 1.0 * rng.standard_normal(9998)
        self.data = {"y": x + rng.standard_normal(9998)}

    def numba_logp(self):
        import numba

        y = self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy", fastmath=True)
        def logp(x, grad):
            mu, log_tau = x[0], x[1]
            inverse_tau = math.exp(-log_tau)
            deviations = squares = residuals = 0.0
            for i in range(n):
                deviation = (x[2 + i] - mu) * inverse_tau
                residual = y[i] - x[2 + i]
                deviations += deviation
                squares += deviation * deviation
                residuals += residual * residual
                grad[2 + i] = residual - deviation * inverse_tau
            grad[0] = -mu + deviations * inverse_tau
            grad[1] = -log_tau - n + squares
            return -0.5 * (mu * mu + log_tau * log_tau + squares + residuals) - n * log_tau

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        y = jnp.asarray(self.data["y"])

        def logp(x):
            deviation = (x[2:] - x[0]) * jnp.exp(-x[1])
            residual = y - x[2:]
            squares = x[0] ** 2 + x[1] ** 2 + deviation @ deviation + residual @ residual
            return -0.5 * squares - y.shape[0] * x[1]

        return logp

    def pymc_model(self):
        import pymc as pm

        with pm.Model() as model:
            mu, log_tau = pm.Normal("mu", 0, 1), pm.Normal("log_tau", 0, 1)
            x = pm.Normal("x", mu, pm.math.exp(log_tau), shape=9998)
            pm.Normal("observed", x, 1, observed=self.data["y"])
        return model


class IllConditionedGaussian(Workload):
    """Scales over two decades, and twenty directions that are 3 to 30 times wider than those."""

    name = "W8"
    title = "ill-conditioned Gaussian, 1000"
    blocks = (("x", 1000, "identity"),)

    def __init__(self):
        rng = np.random.default_rng(1008)
        scale = np.sqrt(rng.permutation(np.logspace(0, 4, 1000)))
        directions, _ = np.linalg.qr(rng.standard_normal((1000, 20)))
        extra = np.logspace(1, 3, 20)
        self.data = {
            "inverse_scale": 1 / scale,
            "directions": np.ascontiguousarray(directions.T),
            "lowered": extra / (1 + extra),
        }
        self.sd = scale * np.sqrt(1 + directions**2 @ extra)

    def reference(self):
        return {f"x[{i + 1}]": (0.0, sd, 0.0) for i, sd in enumerate(self.sd)}

    def numba_logp(self):
        import numba

        directions, lowered = self.data["directions"], self.data["lowered"]
        inverse_scale = self.data["inverse_scale"]

        @numba.njit(error_model="numpy", fastmath=True)
        def logp(x, grad):
            z = x * inverse_scale
            total = 0.0
            for i in range(1000):
                total -= 0.5 * z[i] * z[i]
                grad[i] = -z[i]
            for k in range(20):
                along = 0.0
                for i in range(1000):
                    along += directions[k, i] * z[i]
                total += 0.5 * lowered[k] * along * along
                for i in range(1000):
                    grad[i] += lowered[k] * along * directions[k, i]
            for i in range(1000):
                grad[i] *= inverse_scale[i]
            return total

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        directions, lowered, inverse_scale = (
            jnp.asarray(self.data[key]) for key in ("directions", "lowered", "inverse_scale")
        )

        def logp(x):
            z = x * inverse_scale
            return -0.5 * z @ z + 0.5 * jnp.sum(lowered * (directions @ z) ** 2)

        return logp

    def pymc_model(self):
        import pymc as pm
        import pytensor.tensor as pt

        with pm.Model() as model:
            x = pm.Flat("x", shape=1000, initval=np.zeros(1000))
            z = x * self.data["inverse_scale"]
            along = pt.dot(pt.as_tensor(self.data["directions"]), z)
            pm.Potential("logp", -0.5 * (z**2).sum() + 0.5 * (self.data["lowered"] * along**2).sum())
        return model
