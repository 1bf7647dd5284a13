"""`pm.sample` with this package: PyMC 6 picks it by itself, PyMC 5 when it is asked to."""

from __future__ import annotations

import inspect
import json
import warnings

import arviz as az
import numpy as np
import pymc as pm
import pytest
from results import elpd, group_names

import nutpie
import nutpie.sample

PICKED = inspect.signature(pm.sample).parameters["nuts_sampler"].default is None
SCHOOLS = list("ABCDEFGH")
EFFECT = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
STANDARD_ERROR = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

by_itself = pytest.mark.skipif(not PICKED, reason="PyMC 5 does not hand this over")


def pm_sample(model, *, settings=None, **keywords):
    """Call `pm.sample` as users of the installed PyMC do; ``settings`` are those of the sampler."""
    options = {"draws": 100, "tune": 100, "chains": 2, "random_seed": 1, "progressbar": False} | keywords
    if not PICKED:
        options["nuts_sampler"] = "nutpie"
    if settings is not None:
        options["nuts" if PICKED else "nuts_sampler_kwargs"] = settings
    with model:
        return pm.sample(**options)


def schools_model():
    with pm.Model(coords={"school": SCHOOLS}) as model:
        sigma = pm.Data("sigma", STANDARD_ERROR, dims="school")
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfNormal("tau", 5)
        z = pm.Normal("z", dims="school")
        theta = pm.Deterministic("theta", mu + tau * z, dims="school")
        pm.Normal("y", theta, sigma, observed=EFFECT, dims="school")
    return model


@pytest.fixture(scope="module")
def schools():
    return schools_model()


@pytest.fixture(scope="module")
def result(schools):
    with warnings.catch_warnings():
        # Nothing that PyMC hands over is ignored or out of date.
        warnings.simplefilter("error")
        return pm_sample(schools, draws=500, tune=300, cores=2, target_accept=0.9, compute_convergence_checks=True)


def test_the_result_has_all_that_pymc_promises(result):
    assert result.posterior["theta"].dims == ("chain", "draw", "school")
    assert result.posterior["theta"].shape == (2, 500, 8)
    assert list(result.posterior["school"].values) == SCHOOLS
    assert {"sample_stats", "observed_data", "constant_data"} <= group_names(result)
    np.testing.assert_array_equal(result.observed_data["y"], EFFECT)
    np.testing.assert_array_equal(result.constant_data["sigma"], STANDARD_ERROR)
    attrs = result.posterior.attrs
    assert (attrs["inference_library"], attrs["inference_library_version"]) == ("nutpie", nutpie.__version__)
    assert attrs["tuning_steps"] == 300
    assert attrs["sampling_time"] > 0
    assert json.loads(result.sample_stats.attrs["inference_library_settings"])["settings"]["target_accept"] == 0.9
    assert abs(float(result.posterior["mu"].mean()) - 4.4) < 1


def test_the_warmup_is_the_default_one_or_that_asked_for(schools, result):
    described = json.loads(result.posterior.attrs["inference_library_settings"])
    assert described["adaptation"] == "auto"
    assert result.adaptation["shares_metric"].all()
    # The number of warm-up draws that PyMC hands over is kept to.
    assert result.adaptation["warmup_draws"].values.tolist() == [300, 300]
    assert result.adaptation.attrs["verdict"].startswith("Good: 300 draws, ")
    assert nutpie.diagnose(result).run.warmup == result.adaptation.attrs["verdict"]
    other = pm_sample(schools, settings={"adaptation": "diag", "window_growth": 2.0})
    assert not other.adaptation["shares_metric"].any()
    again = pm_sample(schools, draws=10, tune=20, settings={"adaptation": "fixed", "metric": result})
    np.testing.assert_allclose(again.mass_matrix["stds"], result.mass_matrix["stds"])
    with pytest.raises(ValueError, match="mass_matrix_gamma has no effect with adaptation='auto'"):
        pm_sample(schools, settings={"mass_matrix_gamma": 1.0})


def test_the_seed_of_pymc_decides_the_draws(schools, result):
    again = pm_sample(schools, draws=500, tune=300, cores=1, target_accept=0.9)
    np.testing.assert_array_equal(again.posterior["theta"], result.posterior["theta"])
    other = pm_sample(schools, draws=500, tune=300, target_accept=0.9, random_seed=2)
    assert not np.array_equal(other.posterior["theta"], result.posterior["theta"])


def test_later_steps_of_pymc_take_the_result(result, tmp_path):
    # With a model of its own: after predictions PyMC 5.28 cannot sample the same one again, with no sampler.
    with schools_model():
        pm.compute_log_likelihood(result, progressbar=False)
        predictive = pm.sample_posterior_predictive(result, random_seed=1, progressbar=False)
    assert result.log_likelihood["y"].shape == (2, 500, 8)
    assert predictive.posterior_predictive["y"].shape == (2, 500, 8)
    assert np.isfinite(elpd(az.loo(result)))
    result.to_netcdf(str(tmp_path / "run.nc"))
    back = az.from_netcdf(str(tmp_path / "run.nc"))
    assert group_names(back) == group_names(result)
    np.testing.assert_array_equal(back.posterior["theta"], result.posterior["theta"])


def test_only_the_named_variables(schools):
    assert set(pm_sample(schools, draws=10, var_names=["mu", "theta"]).posterior) == {"mu", "theta"}


def test_settings_of_the_sampler(schools):
    depth = "max_treedepth" if PICKED else "maxdepth"
    assert pm_sample(schools, settings={depth: 2}).sample_stats["depth"].max() == 2
    with pytest.raises(TypeError, match="did you mean 'maxdepth'"):
        pm_sample(schools, settings={"maxdept": 2})


def test_progress_is_shown(schools, capsys):
    pm_sample(schools, progressbar=True)
    shown = capsys.readouterr()
    # PyMC 6 shows its own bars, fed by `progress_callback`: 100 draws after warm-up in each chain.
    assert "100" in shown.out if PICKED else "400/400" in shown.err


@by_itself
def test_progress_of_all_chains_in_one(schools, capsys):
    pm_sample(schools, progressbar="combined")
    assert "Progress" in capsys.readouterr().out


@by_itself
def test_number_of_warmup_draws_left_open(schools):
    assert pm_sample(schools, tune=None).posterior.attrs["tuning_steps"] in range(150, 651, 100)
    # PyMC asks for one draw instead of none.
    assert pm_sample(schools, tune=0).posterior.attrs["tuning_steps"] in (0, 1)


@by_itself
def test_warmup_is_kept_on_demand(schools):
    assert "warmup_posterior" not in group_names(pm_sample(schools, draws=10))
    kept = pm_sample(schools, draws=10, discard_tuned_samples=False)
    assert kept.warmup_posterior["theta"].shape == (2, 100, 8)


@by_itself
@pytest.mark.parametrize("mode", [-100.0, 100.0])
def test_start_of_the_user(mode):
    with pm.Model() as model:
        pm.NormalMixture("x", w=[0.5, 0.5], mu=[-100.0, 100.0], sigma=1.0)
    draws = pm_sample(model, initvals={"x": mode}).posterior["x"]
    assert abs(draws - mode).max() < 20


@by_itself
def test_unconstrained_draws(schools):
    stored = pm_sample(schools, draws=10, idata_kwargs={"include_transformed": True})
    assert stored.unconstrained_posterior.sizes["draw"] == 10


@by_itself
def test_log_likelihood_by_keyword(schools):
    with pytest.warns(FutureWarning, match="log_likelihood"):
        stored = pm_sample(schools, draws=10, idata_kwargs={"log_likelihood": True})
    assert stored.log_likelihood["y"].shape == (2, 10, 8)


@by_itself
def test_options_of_the_compilation(schools):
    assert pm_sample(schools, draws=10, backend="numba", compile_kwargs={"freeze_model": True}).posterior["mu"].size
    # PyMC itself refuses backends that it does not know.
    with pytest.raises(ValueError, match="gradient_backend='torch' is not available"):
        pm_sample(schools, backend="numba", compile_kwargs={"gradient_backend": "torch"})


@by_itself
def test_the_backend_jax(schools):
    pytest.importorskip("jax")
    stored = pm_sample(schools, draws=10, backend="jax", compile_kwargs={"gradient_backend": "jax"})
    assert stored.posterior["mu"].size


def test_the_hook_that_pymc_looks_for_in_marimo_notebooks():
    # Outside of one, PyMC expects None. The module `nutpie.sample` exists beside the function of that name.
    from nutpie.sample import _mo_create_replace

    assert callable(nutpie.sample)
    assert _mo_create_replace() is None


def test_the_device_reaches_the_sampler(schools):
    with pytest.raises(ValueError, match=r"device=.cud. is not available.*did you mean .cuda."):
        pm_sample(schools, settings={"device": "cud"})
