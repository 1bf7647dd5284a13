"""The result: statistics, attributes, files."""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import pytest
import xarray as xr
from results import group_names, groups, make_result

import nutpie

DTYPES = {
    "depth": "u8",
    "maxdepth_reached": "?",
    "index_in_trajectory": "i8",
    "logp": "f8",
    "energy": "f8",
    "energy_error": "f8",
    "max_energy_error": "f8",
    "step_size": "f8",
    "step_size_bar": "f8",
    "mean_tree_accept": "f8",
    "mean_tree_accept_sym": "f8",
    "n_steps": "u8",
    "tuning": "?",
    "diverging": "?",
    "fisher_distance": "f8",
    "transformation_index": "i8",
    "num_eigenvalues": "u8",
    "process_time_diff": "f8",
    "acceptance_rate": "f8",
    "tree_depth": "u8",
    "reached_max_treedepth": "?",
    "lp": "f8",
}


#: Dimensions and dtypes of the variables of groups about the warm-up.
WARMUP = {
    "mass_matrix": {
        "stds": (("chain", "unconstrained_parameter"), "f8"),
        "eigvals": (("chain", "eigenvalue"), "f8"),
        "eigvecs": (("chain", "eigenvalue", "unconstrained_parameter"), "f8"),
        "rank": (("chain",), "i8"),
        "center": (("chain", "unconstrained_parameter"), "f8"),
    },
    "adaptation": {
        "warmup_draws": (("chain",), "i8"),
        "warmup_gradients": (("chain",), "i8"),
        "lagging": (("chain",), "?"),
        "shares_metric": (("chain",), "?"),
        "condition_number": (("chain",), "f8"),
        "condition_number_left": (("chain",), "f8"),
        "check_chain": (("check",), "i8"),
        "check_draws": (("check",), "i8"),
        "check_top_eigenvalue": (("check",), "f8"),
        "check_extended": (("check",), "?"),
        "change_chain": (("change",), "i8"),
        "change_draw": (("change",), "i8"),
        "change_reason": (("change",), "U"),
        "change_points": (("change",), "i8"),
        "change_eigvals": (("change", "eigenvalue"), "f8"),
        "change_stds": (("change", "unconstrained_parameter"), "f8"),
    },
}


@pytest.fixture
def idata(model):
    return nutpie.sample(model, draws=60, tune=40, chains=2, seed=1, target_accept=0.85, progress_bar=False)


def test_statistics_have_the_names_and_types_that_users_rely_on(idata):
    for group, tuning in ((idata.sample_stats, False), (idata.warmup_sample_stats, True)):
        assert {name: np.dtype(values.dtype) for name, values in group.items()} == {
            name: np.dtype(dtype) for name, dtype in DTYPES.items()
        }
        assert (group["tuning"] == tuning).all()
        for values in group.values():
            assert values.dims == ("chain", "draw")
            assert values.attrs["description"]


@pytest.mark.parametrize("group", WARMUP)
def test_the_warmup_has_the_names_and_types_that_users_rely_on(idata, group):
    found = groups(idata)[group]
    assert {n: v.dims for n, v in found.items()} == {n: dims for n, (dims, _) in WARMUP[group].items()}
    for name, (_, dtype) in WARMUP[group].items():
        assert found[name].dtype.kind == np.dtype(dtype).kind, name
        assert dtype == "U" or found[name].dtype == np.dtype(dtype), name
    assert {"mass_matrix": {"description"}, "adaptation": {"fits", "rejected_fits", "skipped_fits", "verdict"}}[
        group
    ] <= set(found.attrs)


def test_statistics_are_what_their_names_say(idata):
    stats, x = idata.sample_stats, idata.posterior["x"]
    logp = -0.5 * ((x / np.arange(1, 6)) ** 2).sum("name")
    np.testing.assert_allclose(stats["logp"], logp, rtol=1e-12)
    np.testing.assert_array_equal(stats["lp"], stats["logp"])
    # Kinetic energy is positive; an index is at most as far as there are steps; a full tree has 2^depth - 1 steps.
    assert (stats["energy"] > -stats["logp"]).all()
    assert (abs(stats["index_in_trajectory"]) <= stats["n_steps"].astype(int)).all()
    assert (stats["n_steps"] >= 2 ** stats["depth"] - 1).all()
    assert (abs(stats["max_energy_error"]) >= abs(stats["energy_error"]) - 1e-12).all()
    assert ((stats["mean_tree_accept"] > 0) & (stats["mean_tree_accept"] <= 1)).all()
    # 2 min(1, r) / (1 + r) is at least min(1, r) for r <= 1 and below 1 for r > 1.
    assert ((stats["mean_tree_accept_sym"] > 0) & (stats["mean_tree_accept_sym"] <= 1)).all()
    jitter = stats["step_size"] / stats["step_size_bar"]
    assert ((jitter > 0.9 - 1e-9) & (jitter < 1.1 + 1e-9)).all()


def test_durations_add_up_to_no_more_than_the_run_took(idata):
    durations = [group["process_time_diff"] for group in (idata.warmup_sample_stats, idata.sample_stats)]
    assert all((seconds >= 0).all() for seconds in durations)
    total = sum(seconds.sum("draw") for seconds in durations)
    assert ((total > 0) & (total <= idata.posterior.attrs["sampling_time"])).all()


def test_gradient_count_covers_all_steps(idata):
    steps = int(idata.sample_stats["n_steps"].sum() + idata.warmup_sample_stats["n_steps"].sum())
    # A chain also takes one gradient at its start and a few in two searches for a step size.
    assert 2 * 3 <= idata.posterior.attrs["n_gradients"] - steps <= 2 * 60


def test_attributes(idata):
    attrs = idata.posterior.attrs
    assert attrs["inference_library"] == "nutpie"
    assert attrs["inference_library_version"] == nutpie.__version__
    assert attrs["tuning_steps"] == 40
    settings = json.loads(idata.sample_stats.attrs["inference_library_settings"])["settings"]
    assert settings == {
        "num_tune": 40,
        "num_draws": 60,
        "num_chains": 2,
        "seed": 1,
        "thin": 1,
        "target_accept": 0.85,
    }


@pytest.mark.parametrize("draws", [0, 60])
@pytest.mark.parametrize("save_warmup", [True, False])
def test_netcdf_round_trip(model, tmp_path, draws, save_warmup):
    idata = nutpie.sample(model, draws=draws, tune=20, chains=2, seed=1, save_warmup=save_warmup, progress_bar=False)
    path = str(tmp_path / "run.nc")
    idata.to_netcdf(path)
    back = az.from_netcdf(path)
    assert group_names(back) == group_names(idata)
    for group in group_names(idata):
        for name, values in idata[group].items():
            np.testing.assert_array_equal(back[group][name], values)
            assert back[group][name].dtype == values.dtype
        assert back[group].attrs == idata[group].attrs
    assert json.loads(back.posterior.attrs["inference_library_settings"])["sampler"] == "nuts"


def test_arviz_can_summarise(idata):
    summary = az.summary(idata)
    assert np.isfinite(summary.to_numpy()).all()
    assert {"x[n0]", "total"} <= set(summary.index)


def test_data_groups_may_be_added_again(idata):
    # PyMC does that to what an external sampler returns: PyMC 5 by the method, PyMC 6 by assignment.
    data = xr.Dataset({"z": ("i", [1.0])})
    if hasattr(idata, "add_groups"):
        idata.add_groups({"observed_data": data})
        with pytest.raises(ValueError, match="already exists"):
            idata.add_groups({"posterior": idata.posterior})
    else:
        idata["observed_data"] = xr.DataTree(data)
    assert list(idata.observed_data) == ["z"]


def test_the_type_is_that_of_the_installed_arviz(idata):
    assert isinstance(idata, type(make_result({})))
