"""What can be asked to be in the result, and that files keep it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import xarray as xr
from results import groups
from simple_model import ModelWithTerms, funnel_logp, normal_logp

import nutpie

OPTIONS = {
    "nothing": {},
    "unconstrained": {"store_unconstrained": True},
    "gradient": {"store_gradient": True},
    "mass matrix": {"store_mass_matrix": True},
    "divergences": {"store_divergences": True},
    "no warm-up": {"save_warmup": False},
    "thin": {"thin": 4},
    "terms": {"log_likelihood": True, "log_prior": True},
    "all": {
        "store_unconstrained": True,
        "store_gradient": True,
        "store_mass_matrix": True,
        "store_divergences": True,
        "log_likelihood": True,
        "log_prior": True,
        "thin": 3,
    },
}


def sample(n_dim: int = 5, function=normal_logp, **kwargs):
    model = ModelWithTerms(n_dim, function)
    return nutpie.sample(model, **{"draws": 60, "tune": 50, "chains": 2, "seed": 1, "progress_bar": False, **kwargs})


@pytest.fixture(scope="module")
def funnel():
    # A diagonal metric, because it has the more divergences.
    options = {"adaptation": "diag", "store_divergences": True, "store_gradient": True}
    return sample(10, funnel_logp, draws=400, tune=300, seed=2, **options)


def same(a, b) -> None:
    xr.testing.assert_equal(a, b)
    assert {n: v.dtype.kind for n, v in a.variables.items()} == {n: v.dtype.kind for n, v in b.variables.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_files_keep_everything(tmp_path, name):
    before = sample(10, funnel_logp, **OPTIONS[name])
    path = tmp_path / "run.nc"
    before.to_netcdf(str(path))
    for group, dataset in groups(before).items():
        with xr.open_dataset(path, group=group) as after:
            # netCDF has no booleans; xarray brings them back.
            same(dataset, after.load())
            assert {k: str(v) for k, v in after.attrs.items()} == {k: str(v) for k, v in dataset.attrs.items()}


@pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="zarr is not installed")
@pytest.mark.parametrize("name", OPTIONS)
def test_zarr_keeps_everything(tmp_path, name):
    before = sample(10, funnel_logp, **OPTIONS[name])
    path = tmp_path / "run.zarr"
    before.to_zarr(str(path))
    for group, dataset in groups(before).items():
        with xr.open_zarr(path, group=group, consolidated=False) as after:
            same(dataset, after.load())


@pytest.mark.parametrize("name", OPTIONS)
def test_options_do_not_change_the_draws(name):
    thin = OPTIONS[name].get("thin", 1)
    np.testing.assert_array_equal(sample(**OPTIONS[name]).posterior["x"], sample().posterior["x"][:, ::thin])


def test_statistics_are_numbers_of_a_fixed_type():
    result = sample(10, funnel_logp, **OPTIONS["all"])
    for group in (result.sample_stats, result.warmup_sample_stats):
        assert all(values.dtype.kind in "fiub" for values in group.values())
        group.mean()


def test_gradients_are_those_at_the_draws():
    result = sample(store_gradient=True, store_unconstrained=True)
    gradient = result.sample_stats["gradient"]
    assert gradient.dims == ("chain", "draw", "unconstrained_parameter")
    assert list(gradient["unconstrained_parameter"].values) == [f"x_{i}" for i in range(5)]
    np.testing.assert_allclose(gradient, -result.posterior["x"] / np.arange(1, 6) ** 2, rtol=1e-12)
    np.testing.assert_array_equal(result.unconstrained_posterior["unconstrained"], result.posterior["x"])
    np.testing.assert_array_equal(result.warmup_unconstrained_posterior["unconstrained"], result.warmup_posterior["x"])


def test_the_metric_approaches_the_variances():
    result = sample(draws=20, tune=1000, store_mass_matrix=True)
    metric = result.sample_stats["mass_matrix_inv"]
    assert (metric == metric[:, :1]).all(), "it is fixed after warm-up"
    np.testing.assert_allclose(metric[:, -1], np.broadcast_to(np.arange(1, 6) ** 2, (2, 5)), rtol=0.3)
    early = result.warmup_sample_stats["mass_matrix_inv"]
    assert (early[:, 0] != early[:, -1]).all()


def test_no_vectors_unless_asked():
    stats = sample().sample_stats
    assert not {"gradient", "mass_matrix_inv"} & set(stats)
    assert "unconstrained_parameter" not in stats.dims


def test_divergences_are_a_group_of_their_own(funnel):
    table, stats = funnel.divergences, funnel.sample_stats
    late = table.sel(divergence=~table["tuning"])
    where = np.argwhere(stats["diverging"].values)
    np.testing.assert_array_equal(np.stack([late["chain"], late["draw"]], axis=1), where)
    assert len(where) > 0, "a funnel diverges"
    assert (table["energy_error"].values > 1000).sum() + (~np.isfinite(table["energy_error"].values)).sum() == len(
        table["divergence"]
    )
    for message, error in zip(table["message"].values, table["energy_error"].values, strict=True):
        assert ("max_energy_error" in message) == np.isfinite(error)


def test_divergences_start_at_good_points(funnel):
    table = funnel.divergences
    x, momentum, gradient = (table[name].values for name in ("start", "momentum", "gradient"))
    precision = np.exp(-x[:, :1])
    np.testing.assert_allclose(gradient[:, 1:], -precision * x[:, 1:], rtol=1e-9)
    assert np.isfinite(momentum).all()
    assert not np.allclose(x, table["end"].values)


def test_divergences_without_points():
    table = sample(10, funnel_logp, draws=300, tune=300, seed=2, adaptation="diag").divergences
    assert "start" not in table
    assert {"chain", "draw", "tuning", "energy", "energy_error", "message"} == set(table)


def test_divergences_count_from_the_first_draw_when_thinned():
    all_draws = sample(10, funnel_logp, draws=300, tune=300, seed=2, adaptation="diag").divergences
    thinned = sample(
        10, funnel_logp, draws=300, tune=300, seed=2, adaptation="diag", thin=7, save_warmup=False
    ).divergences
    same(all_draws, thinned)


def test_initial_points_are_kept():
    starts = np.arange(10.0).reshape(2, 5)
    group = sample(init=starts).initial_points
    np.testing.assert_array_equal(group["unconstrained"], starts)
    np.testing.assert_array_equal(group["x"], starts)
    assert group["x"].dims == ("chain", "name")


# ------------------------------------------------------------------------------------------------------- schema

DRAW = ("chain", "draw")
PARAMETER = "unconstrained_parameter"
STATISTICS = {
    **dict.fromkeys(("depth", "n_steps", "tree_depth"), (DRAW, "uint64")),
    "index_in_trajectory": (DRAW, "int64"),
    **dict.fromkeys(("diverging", "maxdepth_reached", "reached_max_treedepth", "tuning"), (DRAW, "bool")),
    **dict.fromkeys(("acceptance_rate", "mean_tree_accept", "mean_tree_accept_sym"), (DRAW, "float64")),
    **dict.fromkeys(("energy", "energy_error", "max_energy_error", "logp", "lp"), (DRAW, "float64")),
    **dict.fromkeys(("step_size", "step_size_bar", "fisher_distance", "process_time_diff"), (DRAW, "float64")),
    "transformation_index": (DRAW, "int64"),
    "num_eigenvalues": (DRAW, "uint64"),
}
VECTORS = dict.fromkeys(("gradient", "mass_matrix_inv"), ((*DRAW, PARAMETER), "float64"))
VARIABLES = {"x": ((*DRAW, "name"), "float64"), "total": (DRAW, "float64")}
DIVERGENCES = {
    **dict.fromkeys(("chain", "draw"), (("divergence",), "int64")),
    "tuning": (("divergence",), "bool"),
    **dict.fromkeys(("energy", "energy_error"), (("divergence",), "float64")),
    "message": (("divergence",), "U"),
}
UNCONSTRAINED = {"unconstrained": ((*DRAW, PARAMETER), "float64")}
TERMS = {"y": ((*DRAW, "name"), "float64")}
#: Groups of a result: variables with dimensions and dtype.
SCHEMA = {
    "posterior": VARIABLES,
    "warmup_posterior": VARIABLES,
    "sample_stats": STATISTICS,
    "warmup_sample_stats": STATISTICS,
    "divergences": DIVERGENCES,
    "initial_points": {
        "x": (("chain", "name"), "float64"),
        "total": (("chain",), "float64"),
        "unconstrained": (("chain", PARAMETER), "float64"),
    },
    "observed_data": {"y": (("y_dim_0",), "float64")},
}
CHANGE, CHECK, CHAIN = ("change",), ("check",), ("chain",)
ADAPTATION = {
    "warmup_draws": (CHAIN, "int64"),
    "warmup_gradients": (CHAIN, "int64"),
    "lagging": (CHAIN, "bool"),
    "shares_metric": (CHAIN, "bool"),
    "condition_number": (CHAIN, "float64"),
    "condition_number_left": (CHAIN, "float64"),
    "check_chain": (CHECK, "int64"),
    "check_draws": (CHECK, "int64"),
    "check_top_eigenvalue": (CHECK, "float64"),
    "check_extended": (CHECK, "bool"),
    "change_chain": (CHANGE, "int64"),
    "change_draw": (CHANGE, "int64"),
    "change_reason": (CHANGE, "U"),
    "change_points": (CHANGE, "int64"),
    "change_eigvals": (("change", "eigenvalue"), "float64"),
    "change_stds": (("change", PARAMETER), "float64"),
}
SCHEMA |= {
    "mass_matrix": {
        "stds": (("chain", PARAMETER), "float64"),
        "eigvals": (("chain", "eigenvalue"), "float64"),
        "eigvecs": (("chain", "eigenvalue", PARAMETER), "float64"),
        "rank": (CHAIN, "int64"),
        "center": (("chain", PARAMETER), "float64"),
    },
    "adaptation": ADAPTATION,
}
#: And what there is more with all options.
MORE = {
    "sample_stats": VECTORS,
    "warmup_sample_stats": VECTORS,
    "unconstrained_posterior": UNCONSTRAINED,
    "warmup_unconstrained_posterior": UNCONSTRAINED,
    "divergences": dict.fromkeys(("start", "momentum", "gradient", "end"), (("divergence", PARAMETER), "float64")),
    "log_likelihood": TERMS,
    "log_prior": TERMS,
}


@pytest.mark.parametrize("name", ["nothing", "all"])
def test_groups_and_what_they_hold(name):
    """What programs read; a change of this breaks them."""
    more = MORE if name == "all" else {}
    expected = {group: SCHEMA.get(group, {}) | more.get(group, {}) for group in SCHEMA | more}
    result = sample(10, funnel_logp, draws=300, tune=300, seed=2, **OPTIONS[name])
    found = {
        group: {
            name: (values.dims, values.dtype.kind if values.dtype.kind == "U" else values.dtype.name)
            for name, values in dataset.data_vars.items()
        }
        for group, dataset in groups(result).items()
    }
    assert found == expected
    coords = {"chain": range(2), "draw": range(100 if name == "all" else 300)}
    coords |= {"name": [f"n{i}" for i in range(10)], PARAMETER: [f"x_{i}" for i in range(10)]}
    for dataset in groups(result).values():
        for dim in set(dataset.dims) & set(coords):
            assert list(dataset[dim].values) == list(coords[dim])
