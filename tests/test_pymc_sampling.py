"""PyMC models from end to end."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from pytensor.graph import Apply, Op
from results import group_names

import nutpie

EFFECT = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
STANDARD_ERROR = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
SCHOOLS = list("ABCDEFGH")


@pytest.fixture(scope="module")
def eight_schools():
    with pm.Model(coords={"school": SCHOOLS}) as model:
        sigma = pm.Data("sigma", STANDARD_ERROR, dims="school")
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        z = pm.Normal("z", dims="school")
        theta = pm.Deterministic("theta", mu + tau * z, dims="school")
        pm.Normal("y", theta, sigma, observed=EFFECT, dims="school")
    return model


@pytest.fixture(scope="module")
def compiled(eight_schools):
    return nutpie.compile_pymc_model(eight_schools)


def test_eight_schools(compiled):
    idata = nutpie.sample(compiled, draws=2000, tune=500, chains=4, seed=1, target_accept=0.9, progress_bar=False)
    # Reference values of posteriordb, eight_schools-eight_schools_noncentered.
    assert abs(float(idata.posterior["mu"].mean()) - 4.4) < 0.25
    assert abs(float(idata.posterior["tau"].mean()) - 3.6) < 0.3
    assert abs(float(idata.posterior["theta"].sel(school="A").mean()) - 6.2) < 0.35
    assert list(idata.posterior["theta"].coords["school"].values) == SCHOOLS
    theta = idata.posterior["mu"] + idata.posterior["tau"] * idata.posterior["z"]
    np.testing.assert_allclose(idata.posterior["theta"], theta.transpose(*idata.posterior["theta"].dims), rtol=1e-12)
    np.testing.assert_array_equal(idata.observed_data["y"], EFFECT)
    np.testing.assert_array_equal(idata.constant_data["sigma"], STANDARD_ERROR)


def test_new_data_without_recompiling(compiled):
    precise = compiled.with_data(sigma=np.full(8, 0.5))
    idata = nutpie.sample(precise, draws=500, tune=300, chains=2, seed=1, progress_bar=False)
    np.testing.assert_allclose(idata.posterior["theta"].mean(("chain", "draw")), EFFECT, atol=0.3)
    np.testing.assert_array_equal(idata.constant_data["sigma"], 0.5)


def test_pm_sample_uses_it(eight_schools):
    with eight_schools:
        idata = pm.sample(
            draws=300, tune=300, chains=2, random_seed=1, nuts_sampler="nutpie", progressbar=False, target_accept=0.9
        )
        again = pm.sample(
            draws=300,
            tune=300,
            chains=2,
            random_seed=1,
            nuts_sampler="nutpie",
            progressbar=False,
            nuts_sampler_kwargs={"maxdepth": 3, "backend": "numba"},
        )
    assert idata.posterior["theta"].shape == (2, 300, 8)
    assert {"observed_data", "constant_data", "sample_stats"} <= group_names(idata)
    assert idata.posterior.attrs["tuning_steps"] == 300
    assert again.sample_stats["depth"].max() <= 3


def test_discrete_variables_are_named():
    with pm.Model() as model:
        pm.Poisson("count", 3)
        pm.Normal("x")
    with pytest.raises(ValueError, match="'count'"):
        nutpie.compile_pymc_model(model)


def test_a_start_that_is_not_finite_names_the_variable():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("wall", pt.switch(x > 1000, 0.0, -np.inf))
    with pytest.raises(ValueError, match="wall"):
        nutpie.sample(nutpie.compile_pymc_model(model), chains=1, progress_bar=False)


def test_dimension_zero():
    with pm.Model() as model:
        pm.Deterministic("two", pt.as_tensor(2.0))
    idata = nutpie.sample(nutpie.compile_pymc_model(model), draws=10, tune=5, chains=2, progress_bar=False)
    np.testing.assert_array_equal(idata.posterior["two"], np.full((2, 10), 2.0))


class OutOfPaperError(Exception):
    """Something that only this test raises."""


class Printer(Op):
    """Identity that fails after a number of evaluations, as a broken simulator would."""

    def __init__(self, calls: int, error: Exception) -> None:
        self.calls = calls
        self.error = error

    def make_node(self, x):
        x = pt.as_tensor(x)
        return Apply(self, [x], [x.type()])

    def perform(self, _node, inputs, outputs):
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        outputs[0][0] = np.asarray(inputs[0].copy())

    def grad(self, _inputs, output_grads):
        return output_grads


def printing_model(calls: int, error: Exception):
    with pm.Model() as model:
        x = pm.Normal("x", shape=2)
        pm.Potential("printed", Printer(calls, error)(x.sum()))
    return nutpie.compile_pymc_model(model, var_names=["x"])


def test_an_exception_of_the_model_arrives_as_itself_and_keeps_the_draws():
    error = OutOfPaperError("no paper in tray 2")
    with pytest.raises(OutOfPaperError, match="tray 2") as caught:
        nutpie.sample(printing_model(3000, error), draws=5000, tune=100, chains=2, cores=1, seed=1, progress_bar=False)
    partial = caught.value.partial_trace
    assert 100 < partial.posterior.sizes["draw"] < 5000
    assert np.isfinite(partial.posterior["x"]).all()
    assert any("partial_trace" in note for note in caught.value.__notes__)


def test_a_failure_of_arithmetic_is_a_divergence():
    error = np.linalg.LinAlgError("not positive definite")
    idata = nutpie.sample(printing_model(1500, error), draws=1000, tune=100, chains=1, seed=1, progress_bar=False)
    assert idata.posterior.sizes["draw"] == 1000
    assert not idata.sample_stats["diverging"][0, :100].any()
    assert idata.sample_stats["diverging"][0, -100:].all()
