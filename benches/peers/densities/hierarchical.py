"""Hierarchical models: item response, varying intercepts and slopes, a tree."""

import math

import numpy as np

from densities.base import Workload, shared_file, shared_json


class ItemResponse(Workload):
    """Two-parameter item response model: 100 people, 20 items."""

    name = "W2"
    title = "item response 100 x 20, 140"
    items = 20
    data_seed = 1002
    least_discrimination = 0.5

    def __init__(self):
        items = self.items
        self.blocks = (("theta", 100, "identity"), ("b", items, "identity"), ("a", items, "log"))
        rng = np.random.default_rng(self.data_seed)
        ability, difficulty = rng.standard_normal(100), rng.standard_normal(items)
        discrimination = np.abs(rng.standard_normal(items)) + self.least_discrimination
        logits = discrimination[None] * (ability[:, None] - difficulty[None])
        self.data = {"y": (rng.random((100, items)) < 1.0 / (1.0 + np.exp(-logits))).astype(float)}

    def numba_logp(self):
        import numba

        from densities.parts import sigmoid_and_factor

        y = self.data["y"]
        people, items = y.shape

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            total = 0.0
            for k in range(people + items):
                total -= 0.5 * x[k] * x[k]
                grad[k] = -x[k]
            for j in range(items):
                at_a = people + items + j
                a, b = math.exp(x[at_a]), x[people + j]
                total += x[at_a] - 0.5 * a * a
                grad_a, grad_b, product = 1.0 - a * a, 0.0, 1.0
                for i in range(people):
                    logit = a * (x[i] - b)
                    probability, factor = sigmoid_and_factor(logit)
                    residual = y[i, j] - probability
                    total += y[i, j] * logit - max(logit, 0.0)
                    product *= factor
                    grad[i] += residual * a
                    grad_b -= residual * a
                    grad_a += residual * logit
                total -= math.log(product)
                grad[people + j] += grad_b
                grad[at_a] = grad_a
            return total

        return logp

    def jax_logp(self):
        import jax
        import jax.numpy as jnp

        y = jnp.asarray(self.data["y"])
        people, items = y.shape

        def logp(x):
            theta, b, log_a = x[:people], x[people : people + items], x[people + items :]
            a = jnp.exp(log_a)
            logits = a[None] * (theta[:, None] - b[None])
            prior = -0.5 * (theta @ theta + b @ b + a @ a) + log_a.sum()
            return prior + jnp.sum(y * logits - jax.nn.softplus(logits))

        return logp

    def pymc_model(self):
        import pymc as pm

        with pm.Model() as model:
            theta = pm.Normal("theta", 0, 1, shape=100)
            b = pm.Normal("b", 0, 1, shape=self.items)
            a = pm.HalfNormal("a", 1, shape=self.items)
            logits = a[None, :] * (theta[:, None] - b[None, :])
            pm.Bernoulli("observed", logit_p=logits, observed=self.data["y"].astype(int))
        return model


class LargerItemResponse(ItemResponse):
    """Thirty items, some of which say next to nothing about a person."""

    name = "W3"
    title = "item response 100 x 30, 160"
    items = 30
    data_seed = 1003
    least_discrimination = 0.1


class Radon(Workload):
    """Varying intercepts of 85 counties."""

    name = "W4"
    title = "radon, synthetic, 89"
    blocks = (
        ("mu_alpha", 1, "identity"),
        ("sigma_alpha", 1, "log"),
        ("alpha", 85, "identity"),
        ("beta", 1, "identity"),
        ("sigma_y", 1, "log"),
    )

    def __init__(self):
        # The legacy generator, because the numbers recorded for this workload come from it.
        rng = np.random.RandomState(0)
        county = np.repeat(np.arange(85), np.maximum(1, rng.poisson(10, 85))).astype(int)
        floor = rng.binomial(1, 0.3, len(county)).astype(float)
        intercept = rng.normal(1.3, 0.4, 85)
        y = intercept[county] - 0.7 * floor + rng.normal(0, 0.5, len(county))
        self.data = {"county": county, "floor": floor, "y": y}

    def numba_logp(self):
        import numba

        county, floor, y = self.data["county"], self.data["floor"], self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            mu, log_sigma_alpha, beta, log_sigma_y = x[0], x[1], x[87], x[88]
            var_alpha, var_y = math.exp(2 * log_sigma_alpha), math.exp(2 * log_sigma_y)
            total = -0.5 * (mu * mu + beta * beta) - math.log1p(var_alpha) - math.log1p(var_y)
            total += (1 - 85) * log_sigma_alpha + (1 - n) * log_sigma_y
            grad_mu, grad_beta, squares_alpha, squares_y = -mu, -beta, 0.0, 0.0
            for k in range(85):
                deviation = x[2 + k] - mu
                grad[2 + k] = -deviation / var_alpha
                grad_mu += deviation / var_alpha
                squares_alpha += deviation * deviation / var_alpha
            for i in range(n):
                residual = y[i] - x[2 + county[i]] - beta * floor[i]
                squares_y += residual * residual / var_y
                grad[2 + county[i]] += residual / var_y
                grad_beta += residual / var_y * floor[i]
            grad[0], grad[87] = grad_mu, grad_beta
            grad[1] = 1.0 - 85 - 2 * var_alpha / (1 + var_alpha) + squares_alpha
            grad[88] = 1.0 - n - 2 * var_y / (1 + var_y) + squares_y
            return total - 0.5 * (squares_alpha + squares_y)

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        county, floor, y = (jnp.asarray(self.data[key]) for key in ("county", "floor", "y"))

        def logp(x):
            mu, log_sigma_alpha, alpha, beta, log_sigma_y = x[0], x[1], x[2:87], x[87], x[88]
            residual = (y - alpha[county] - beta * floor) * jnp.exp(-log_sigma_y)
            deviation = (alpha - mu) * jnp.exp(-log_sigma_alpha)
            prior = -0.5 * (mu**2 + beta**2)
            for log_sigma, n in ((log_sigma_alpha, 85), (log_sigma_y, y.shape[0])):
                prior += (1 - n) * log_sigma - jnp.log1p(jnp.exp(2 * log_sigma))
            return prior - 0.5 * (deviation @ deviation + residual @ residual)

        return logp

    def pymc_model(self):
        import pymc as pm

        with pm.Model() as model:
            mu = pm.Normal("mu_alpha", 0, 1)
            sigma_alpha = pm.HalfCauchy("sigma_alpha", 1)
            alpha = pm.Normal("alpha", mu, sigma_alpha, shape=85)
            beta = pm.Normal("beta", 0, 1)
            sigma_y = pm.HalfCauchy("sigma_y", 1)
            mean = alpha[self.data["county"]] + beta * self.data["floor"]
            pm.Normal("observed", mean, sigma_y, observed=self.data["y"])
        return model


class Tree(Workload):
    """Variances of a diffusion on a binary tree of depth 4; observed are its 16 leaves.

    The 31 other parameters are standard normal and apart. The data were made with JAX, so they are read.
    """

    name = "W5"
    title = "tree, 33"
    blocks = (("log_theta", 2, "identity"), ("z", 31, "identity"))

    def __init__(self):
        data = np.load(shared_file("peerbench/data/W5.npz"))
        eigenvalues, vectors = np.linalg.eigh(data["K"])
        self.data = {"eigenvalues": np.maximum(eigenvalues, 0), "y": vectors.T @ data["y"]}

    def numba_logp(self):
        import numba

        eigenvalues, y = self.data["eigenvalues"], self.data["y"]

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            diffusion, noise = math.exp(x[0]), math.exp(x[1])
            total = -0.125 * (x[0] * x[0] + x[1] * x[1])
            grad[0], grad[1] = -0.25 * x[0], -0.25 * x[1]
            for i in range(16):
                variance = diffusion * eigenvalues[i] + noise
                square = y[i] * y[i] / variance
                total -= 0.5 * (math.log(variance) + square)
                grad[0] += 0.5 * (square - 1.0) * diffusion * eigenvalues[i] / variance
                grad[1] += 0.5 * (square - 1.0) * noise / variance
            for i in range(2, 33):
                total -= 0.5 * x[i] * x[i]
                grad[i] = -x[i]
            return total

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        eigenvalues, y = jnp.asarray(self.data["eigenvalues"]), jnp.asarray(self.data["y"])

        def logp(x):
            variance = jnp.exp(x[0]) * eigenvalues + jnp.exp(x[1])
            likelihood = -0.5 * jnp.sum(jnp.log(variance) + y**2 / variance)
            return likelihood - 0.125 * x[:2] @ x[:2] - 0.5 * x[2:] @ x[2:]

        return logp

    def pymc_model(self):
        import pymc as pm

        with pm.Model() as model:
            log_theta = pm.Normal("log_theta", 0, 2, shape=2)
            pm.Normal("z", 0, 1, shape=31)
            variance = pm.math.exp(log_theta[0]) * self.data["eigenvalues"] + pm.math.exp(log_theta[1])
            pm.Normal("observed", 0, pm.math.sqrt(variance), observed=self.data["y"])
        return model


class RadonSlopes(Workload):
    """Varying intercepts and slopes of the 85 counties of Minnesota, both centred, so a funnel where data are few."""

    name = "W7"
    title = "radon, varying slopes, 175"
    blocks = (
        ("sigma_y", 1, "log"),
        ("sigma_alpha", 1, "log"),
        ("sigma_beta", 1, "log"),
        ("mu_alpha", 1, "identity"),
        ("mu_beta", 1, "identity"),
        ("alpha", 85, "identity"),
        ("beta", 85, "identity"),
    )

    def __init__(self):
        data = shared_json("posteriordb/data/radon_mn.json")
        self.data = {
            "county": np.array(data["county_idx"]) - 1,
            "floor": np.array(data["floor_measure"], float),
            "y": np.array(data["log_radon"], float),
        }

    def numba_logp(self):
        import numba

        county, floor, y = self.data["county"], self.data["floor"], self.data["y"]
        n = len(y)

        @numba.njit(error_model="numpy")
        def logp(x, grad):
            var_y, var_alpha, var_beta = math.exp(2 * x[0]), math.exp(2 * x[1]), math.exp(2 * x[2])
            mu_alpha, mu_beta = x[3], x[4]
            total = -0.5 * (var_y + var_alpha + var_beta) - 0.005 * (mu_alpha * mu_alpha + mu_beta * mu_beta)
            total += (1 - n) * x[0] + (1 - 85) * (x[1] + x[2])
            grad_mu_alpha, grad_mu_beta = -0.01 * mu_alpha, -0.01 * mu_beta
            squares_y = squares_alpha = squares_beta = 0.0
            for k in range(85):
                deviation_alpha, deviation_beta = x[5 + k] - mu_alpha, x[90 + k] - mu_beta
                grad[5 + k], grad[90 + k] = -deviation_alpha / var_alpha, -deviation_beta / var_beta
                grad_mu_alpha += deviation_alpha / var_alpha
                grad_mu_beta += deviation_beta / var_beta
                squares_alpha += deviation_alpha * deviation_alpha / var_alpha
                squares_beta += deviation_beta * deviation_beta / var_beta
            for i in range(n):
                k = county[i]
                residual = y[i] - x[5 + k] - floor[i] * x[90 + k]
                squares_y += residual * residual / var_y
                grad[5 + k] += residual / var_y
                grad[90 + k] += residual / var_y * floor[i]
            grad[0] = 1 - n - var_y + squares_y
            grad[1] = 1 - 85 - var_alpha + squares_alpha
            grad[2] = 1 - 85 - var_beta + squares_beta
            grad[3], grad[4] = grad_mu_alpha, grad_mu_beta
            return total - 0.5 * (squares_y + squares_alpha + squares_beta)

        return logp

    def jax_logp(self):
        import jax.numpy as jnp

        county, floor, y = (jnp.asarray(self.data[key]) for key in ("county", "floor", "y"))

        def logp(x):
            sigma, mu, alpha, beta = jnp.exp(x[:3]), x[3:5], x[5:90], x[90:]
            residual = (y - alpha[county] - beta[county] * floor) / sigma[0]
            deviations = (alpha - mu[0]) / sigma[1], (beta - mu[1]) / sigma[2]
            squares = residual @ residual + sum(d @ d for d in deviations) + sigma @ sigma + 0.01 * mu @ mu
            return -0.5 * squares + (1 - y.shape[0]) * x[0] + (1 - 85) * (x[1] + x[2])

        return logp

    def pymc_model(self):
        import pymc as pm

        with pm.Model() as model:
            sigma_y, sigma_alpha, sigma_beta = (pm.HalfNormal(f"sigma_{k}", 1) for k in ("y", "alpha", "beta"))
            mu_alpha, mu_beta = pm.Normal("mu_alpha", 0, 10), pm.Normal("mu_beta", 0, 10)
            alpha = pm.Normal("alpha", mu_alpha, sigma_alpha, shape=85)
            beta = pm.Normal("beta", mu_beta, sigma_beta, shape=85)
            county = self.data["county"]
            pm.Normal("observed", alpha[county] + beta[county] * self.data["floor"], sigma_y, observed=self.data["y"])
        return model
