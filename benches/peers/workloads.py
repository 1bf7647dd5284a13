"""Densities that every sampler gets alike.

Each workload has its data from a fixed numpy seed, a hand-written log density with gradient for numba, the same log
density for JAX, and a PyMC model, all on one flat unconstrained space and equal up to a constant.

`python workloads.py --check` compares values and gradients of those that the environment can import.
"""

import argparse
import importlib.util
import math

import numpy as np


class Workload:
    """A density and its data.

    `blocks` gives the layout of the unconstrained space: name of the PyMC variable, size, and "identity" or "log".
    """

    name = ""
    blocks: tuple[tuple[str, int, str], ...] = ()

    @property
    def dim(self):
        return sum(size for _, size, _ in self.blocks)

    @property
    def scored(self):
        """Parameters whose ESS is computed: all, or in a large model the first two and a fixed random choice."""
        if self.dim <= 1000:
            return np.arange(self.dim)
        rest = np.random.default_rng(0).choice(np.arange(2, self.dim), 498, replace=False)
        return np.concatenate([[0, 1], rest])

    def starts(self, seed, chains):
        """Never the mode itself: a start with a zero gradient is fatal to nutpie 0.16."""
        return np.random.default_rng(9000 + seed).uniform(-2, 2, (chains, self.dim))

    def constrain(self, point):
        """Values of the PyMC variables at an unconstrained point."""
        values, offset = {}, 0
        for name, size, transform in self.blocks:
            part = point[offset : offset + size]
            offset += size
            part = np.exp(part) if transform == "log" else part
            values[name] = part[0] if size == 1 else part
        return values

    def unconstrain(self, draws):
        """Flat unconstrained draws, of shape (chains, draws, dim), from arrays by name of PyMC variable."""
        parts = []
        for name, size, transform in self.blocks:
            values = np.asarray(draws[name], float)
            values = values.reshape(*values.shape[:2], size)
            parts.append(np.log(values) if transform == "log" else values)
        return np.concatenate(parts, axis=-1)


class CorrelatedGaussian(Workload):
    """Three stiff directions on top of a unit Gaussian, which no diagonal metric can follow."""

    name = "W1"
    blocks = (("x", 50, "identity"),)

    def __init__(self):
        rng = np.random.default_rng(1001)
        directions, _ = np.linalg.qr(rng.standard_normal((50, 3)))
        covariance = directions @ np.diag([100.0, 50.0, 20.0]) @ directions.T + np.eye(50)
        self.data = {"precision": np.linalg.inv(covariance)}

    def numba_logp(self):
        import numba

        precision = self.data["precision"]

        @numba.njit(error_model="numpy", fastmath=True)
        def logp(x, grad):
            total = 0.0
            for i in range(50):
                row = 0.0
                for j in range(50):
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
            x = pm.Flat("x", shape=50, initval=np.zeros(50))
            pm.Potential("logp", -0.5 * pt.dot(x, pt.dot(pt.as_tensor(self.data["precision"]), x)))
        return model


class ItemResponse(Workload):
    """Two-parameter item response model: 100 people, 20 items."""

    name = "W2"
    blocks = (("theta", 100, "identity"), ("b", 20, "identity"), ("a", 20, "log"))

    def __init__(self):
        rng = np.random.default_rng(1002)
        ability, difficulty = rng.standard_normal(100), rng.standard_normal(20)
        discrimination = np.abs(rng.standard_normal(20)) + 0.5
        logits = discrimination[None] * (ability[:, None] - difficulty[None])
        self.data = {"y": (rng.random((100, 20)) < 1.0 / (1.0 + np.exp(-logits))).astype(float)}

    def numba_logp(self):
        import numba

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
                grad_a, grad_b = 1.0 - a * a, 0.0
                for i in range(people):
                    logit = a * (x[i] - b)
                    tail = math.exp(-abs(logit))
                    probability = 1.0 / (1.0 + tail) if logit > 0 else tail / (1.0 + tail)
                    residual = y[i, j] - probability
                    total += y[i, j] * logit - (max(logit, 0.0) + math.log1p(tail))
                    grad[i] += residual * a
                    grad_b -= residual * a
                    grad_a += residual * logit
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
            b = pm.Normal("b", 0, 1, shape=20)
            a = pm.HalfNormal("a", 1, shape=20)
            logits = a[None, :] * (theta[:, None] - b[None, :])
            pm.Bernoulli("observed", logit_p=logits, observed=self.data["y"].astype(int))
        return model


class Radon(Workload):
    """Varying intercepts of 85 counties."""

    name = "W4"
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


class Funnel(Workload):
    """Neal's funnel: hard for every sampler here, so look at R-hat and divergences before ESS."""

    name = "W9"
    blocks = (("v", 1, "identity"), ("x", 9, "identity"))

    def __init__(self):
        self.data = {}

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


WORKLOADS = {cls.name: cls for cls in (CorrelatedGaussian, ItemResponse, Radon, Funnel, LargeHierarchical)}


def _numba_evaluator(workload):
    logp = workload.numba_logp()

    def evaluate(x):
        grad = np.zeros(workload.dim)
        return logp(x, grad), grad

    return evaluate


def _jax_evaluator(workload):
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax.jit(jax.value_and_grad(workload.jax_logp()))


def _pymc_evaluator(workload):
    model = workload.pymc_model()
    names = [variable.name for variable in model.value_vars]
    sizes = [size for _, size, _ in workload.blocks]
    value = model.compile_logp()
    gradient = model.compile_dlogp()

    def evaluate(x):
        parts = np.split(x, np.cumsum(sizes)[:-1])
        # A block of size one is a scalar in the PyMC models.
        point = {name: part[0] if len(part) == 1 else part for name, part in zip(names, parts, strict=True)}
        return float(value(point)), gradient(point)

    return evaluate


EVALUATORS = {"numba": _numba_evaluator, "jax": _jax_evaluator, "pymc": _pymc_evaluator}


def check(names):
    """Compare gradients, and differences of the log density, at two points; the largest relative error counts."""
    available = [kind for kind in EVALUATORS if importlib.util.find_spec(kind)]
    if len(available) < 2:
        raise SystemExit(f"nothing to compare: only {available} can be imported here")
    worst = 0.0
    for name in names:
        workload = WORKLOADS[name]()
        points = np.random.default_rng(5).uniform(-1, 1, (2, workload.dim))
        reference = None
        for kind in available:
            evaluate = EVALUATORS[kind](workload)
            (first, grad_first), (second, grad_second) = (evaluate(x) for x in points)
            found = np.concatenate([[first - second], grad_first, grad_second])
            if reference is None:
                reference = found
                continue
            error = np.max(np.abs(found - reference) / (1 + np.abs(reference)))
            worst = max(worst, error)
            print(f"{name:4s} {kind} against {available[0]}: largest relative error {error:.1e}")
    if not worst < 1e-9:
        raise SystemExit("the densities differ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", nargs="*", required=True, metavar="WORKLOAD", help="all by default")
    check(parser.parse_args().check or list(WORKLOADS))
