"""The models of the comparison, as NumPyro models with their data."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

TREE = Path(__file__).resolve().parents[2] / "examples/tree.py"


def logistic():
    """Logistic regression with 24 predictors of different scales and 500 observations."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 24)) @ (np.eye(24) + 0.3 * rng.normal(size=(24, 24))) * np.geomspace(0.3, 3, 24)
    y = (rng.uniform(size=500) < 1 / (1 + np.exp(-x @ rng.normal(size=24) / 4))).astype(float)

    def model():
        intercept = numpyro.sample("intercept", dist.Normal(0, 5))
        slopes = numpyro.sample("slopes", dist.Normal(0, 2.5).expand([24]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=intercept + jnp.asarray(x) @ slopes), obs=y)

    return model


def hierarchy():
    """Linear regression in 40 groups of 3 to 20 observations; intercepts centred, slopes not."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(40), rng.integers(3, 21, 40))
    t = rng.normal(size=len(group))
    y = rng.normal(1 + 0.7 * rng.normal(size=40)[group] + (0.5 + 0.3 * rng.normal(size=40)[group]) * t, 0.8)

    def model():
        mean = numpyro.sample("mean", dist.Normal(0, 2).expand([2]).to_event(1))
        spread = numpyro.sample("spread", dist.HalfNormal(1).expand([2]).to_event(1))
        noise = numpyro.sample("noise", dist.HalfNormal(2))
        with numpyro.plate("group", 40):
            intercept = numpyro.sample("intercept", dist.Normal(mean[0], spread[0]))
            z = numpyro.sample("z", dist.Normal(0, 1))
        slope = mean[1] + spread[1] * z
        numpyro.sample("y", dist.Normal(intercept[group] + slope[group] * t, noise), obs=y)

    return model


def tree():
    """The Gaussian tree of `examples/tree.py`, with the sweeps of hyperiax."""
    spec = importlib.util.spec_from_file_location("tree", TREE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    leaves = module.simulate()
    return lambda: module.model(leaves)


PROBLEMS = {"logistic": logistic, "hierarchy": hierarchy, "tree": tree}
