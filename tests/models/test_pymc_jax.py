"""PyMC models whose densities are compiled with JAX."""

from __future__ import annotations

import json

import numpy as np
import pytest

pm = pytest.importorskip("pymc")
pytest.importorskip("jax")

import pytensor.tensor as pt  # noqa: E402

import nutpie  # noqa: E402
from nutpie.models.base import BatchDensity  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

Y = np.random.default_rng(0).normal(1.0, 2.0, 30)
GROUP = np.repeat(np.arange(5), 6)
GRADIENTS = ("pytensor", "jax")


@pytest.fixture(scope="module")
def pymc_model():
    with pm.Model(coords={"group": list("abcde")}) as model:
        group = pm.Data("group_of", GROUP)
        observed = pm.Data("y_data", Y)
        mu = pm.Normal("mu", 0, 10)
        tau = pm.HalfNormal("tau", 1)
        effect = pm.Normal("effect", mu, tau, dims="group")
        weights = pm.Dirichlet("weights", np.ones(3))
        pm.Deterministic("largest", weights.max())
        pm.Potential("tilt", pt.log(weights[0]))
        pm.Normal("y", effect[group], 1.5, observed=observed)
    return model


@pytest.fixture(scope="module")
def numba(pymc_model):
    pytest.importorskip("numba")
    return nutpie.compile_pymc_model(pymc_model)


@pytest.fixture(scope="module", params=GRADIENTS)
def compiled(request, pymc_model):
    return nutpie.compile_pymc_model(pymc_model, backend="jax", gradient_backend=request.param)


def points(model, n=5):
    return np.random.default_rng(1).normal(size=(n, model.n_dim))


def test_density_is_that_of_numba(compiled, numba):
    density = compiled.density()
    assert isinstance(density, BatchDensity)
    logp, gradient = density.function(points(numba))
    for i, point in enumerate(points(numba)):
        value, slope = numba.density().evaluate(point)
        assert logp[i] == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(gradient[i], slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gradient_backend", GRADIENTS)
def test_other_data_where_the_model_is_not_frozen(pymc_model, numba, gradient_backend):
    free = nutpie.compile_pymc_model(pymc_model, backend="jax", gradient_backend=gradient_backend, freeze_model=False)
    (point,) = points(numba, 1)
    for data in ({"y_data": Y + 1}, {"y_data": Y[:12], "group_of": GROUP[:12]}, {}):
        expected = numba.with_data(**data).density().evaluate(point)[0]
        assert free.with_data(**data).density().evaluate(point)[0] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(IndexError, match="index 5 is out of bounds"):
        free.with_data(group_of=GROUP + 3)


def test_frozen_by_default(compiled):
    with pytest.raises(ValueError, match="freeze_model=True"):
        compiled.with_data(y_data=Y)


def test_sampling(pymc_model):
    model = nutpie.compile_pymc_model(pymc_model, backend="jax", gradient_backend="jax")
    result = nutpie.sample(
        model, draws=500, seed=1, init={"tau": 0.7}, log_likelihood=True, check=False, progress_bar=False
    )
    # The tilt makes it a Dirichlet(2, 1, 1) distribution.
    assert float(result.posterior["weights"][..., 0].mean()) == pytest.approx(0.5, abs=0.03)
    assert float(result.posterior["mu"].mean()) == pytest.approx(Y.mean(), abs=0.15)
    np.testing.assert_allclose(result.posterior["largest"], result.posterior["weights"].max("weights_dim_0"))
    assert result.log_likelihood["y"].shape == (4, 500, 30)
    np.testing.assert_array_equal(result.observed_data["y"], Y)
    assert json.loads(result.posterior.attrs["inference_library_settings"])["adaptation"] == "auto"


def test_parameters_out_of_their_range_are_divergences():
    with pm.Model() as model:
        scale = pm.Normal("scale", 1.0)
        pm.Normal("y", 0, scale, observed=[0.5])
    compiled = nutpie.compile_pymc_model(model, backend="jax")
    assert compiled.density().evaluate(np.array([-1.0]))[0] == -np.inf
    assert "log density of 'y' (observed) is -inf" in compiled.explain_point(np.array([-1.0]))


def test_backends_that_do_not_fit(pymc_model):
    with pytest.raises(ValueError, match="gradient_backend='jax' needs backend='jax'"):
        nutpie.compile_pymc_model(pymc_model, gradient_backend="jax")
