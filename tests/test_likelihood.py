"""Groups ``log_likelihood`` and ``log_prior`` of a result."""

from __future__ import annotations

import sys
import warnings

import arviz as az
import numpy as np
import pytest
import xarray as xr
from results import groups
from simple_model import ModelWithTerms, NormalModel

import nutpie


def sample(model, **kwargs):
    return nutpie.sample(model, **{"draws": 50, "tune": 60, "chains": 2, "seed": 3, "progress_bar": False, **kwargs})


def test_groups_of_any_front_end(tmp_path):
    result = sample(ModelWithTerms(4), log_likelihood=True, log_prior=True)
    for group in ("log_likelihood", "log_prior"):
        terms = result[group]["y"]
        assert terms.dims == ("chain", "draw", "name")
        assert list(terms["name"].values) == ["n0", "n1", "n2", "n3"]
        np.testing.assert_allclose(terms.sum("name"), result.sample_stats["logp"], rtol=1e-12)
    assert not {"warmup_log_likelihood", "warmup_log_prior"} & set(groups(result))
    assert not {"log_likelihood", "log_prior"} & set(groups(sample(ModelWithTerms(4))))
    path = str(tmp_path / "run.nc")
    result.to_netcdf(path)
    for group in ("log_likelihood", "log_prior"):
        with xr.open_dataset(path, group=group) as back:
            xr.testing.assert_identical(back.load(), groups(result)[group])


def test_a_front_end_without_terms_says_so_before_sampling(monkeypatch):
    monkeypatch.setattr(sys.modules["nutpie.sample"], "SamplingRun", None)
    for keyword in ("log_likelihood", "log_prior"):
        with pytest.raises(NotImplementedError, match=f"{keyword}=True is not available for a NormalModel"):
            sample(NormalModel(3), **{keyword: True})


# ---------------------------------------------------------------------------------------------------------- PyMC


@pytest.fixture(scope="module")
def schools():
    pm = pytest.importorskip("pymc")
    y = np.array([28.0, 8.0, -3.0, np.nan, -1.0, 1.0, 18.0, 12.0])
    with pm.Model(coords={"school": list("ABCDEFGH"), "trial": [1, 2, 3]}) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyMC, about imputed values
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfNormal("tau", 5.0)
        theta = pm.Normal("theta", 0.0, 1.0, dims="school")
        pm.Normal("y", mu + tau * theta, 12.0, observed=y, dims="school")
        pm.Poisson("count", pm.math.exp(0.1 * mu), observed=[1, 0, 2], dims="trial")
    return model, sample(nutpie.compile_pymc_model(model), draws=100, log_likelihood=True, log_prior=True)


def test_groups_are_those_of_pymc(schools):
    pm = pytest.importorskip("pymc")
    model, result = schools
    quick = {"progressbar": False, "extend_inferencedata": False, "model": model}
    for group, function in (
        ("log_likelihood", pm.stats.compute_log_likelihood),
        ("log_prior", pm.stats.compute_log_prior),
    ):
        expected, found = function(result, **quick), groups(result)[group]
        assert set(found.data_vars) == set(expected.data_vars)
        for name, values in expected.data_vars.items():
            assert found[name].dims == values.dims
            xr.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-10)
            assert found[name].dtype == values.dtype
    assert found["theta"].dims == ("chain", "draw", "school")
    assert list(found["school"].values) == list("ABCDEFGH")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_model_comparison(schools, tmp_path):
    _, result = schools
    path = str(tmp_path / "run.nc")
    result.to_netcdf(path)
    back = az.from_netcdf(path)
    before, after = (az.loo(r, var_name="count") for r in (result, back))
    assert before.n_data_points == 3
    name = "elpd_loo" if hasattr(before, "elpd_loo") else "elpd"  # with ArviZ 0 and 1
    assert np.isfinite(getattr(before, name))
    assert getattr(after, name) == getattr(before, name)
    assert np.isfinite(az.compare({"one": result, "same": back}, var_name="count")[name]).all()
    assert "mu" in (az.psens(result, component="prior") if hasattr(az, "psens") else az.psense(result))
    if hasattr(az, "waic"):
        assert np.isfinite(az.waic(result, var_name="y_observed").elpd_waic)
