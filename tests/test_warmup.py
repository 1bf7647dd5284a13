"""The warm-up: ways to adapt, its length, and what the result tells of it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
import threading
import time

import arviz as az
import numpy as np
import pytest
import xarray as xr
from results import group_names, groups
from simple_model import (
    GaussianModel,
    NormalModel,
    fatal_far_out,
    funnel_logp,
    rotated_covariance,
    two_modes_logp,
)

import nutpie
from nutpie.metric import Metric
from nutpie.settings import ONLY_WITH, ONLY_WITH_SAMPLER, declared

ADAPTATIONS = [name for name, *_ in nutpie._lib.adaptations()]
POOLED = ["auto", "low_rank", "dense"]
#: Those whose metric can fit any normal distribution.
COUPLED = [*POOLED, "low_rank_windows", "stan_dense"]

LONG = 2_000_000


def sample(model, **kwargs):
    defaults = {"draws": 30, "chains": 2, "seed": 1, "progress_bar": False, "check": False}
    return nutpie.sample(model, **defaults | kwargs)


def funnel(**kwargs):
    """A run whose metric is never good, so that the warm-up is extended."""
    return sample(NormalModel(10, funnel_logp), **{"chains": 4, "seed": 0, "draws": 100} | kwargs)


@pytest.fixture(scope="module")
def covariance() -> np.ndarray:
    return rotated_covariance(8, 1e3)


@pytest.fixture(scope="module")
def run(covariance):
    return sample(GaussianModel(covariance), chains=4)


def misfit(result, covariance: np.ndarray, chain: int = 0) -> np.ndarray:
    """Variances, in the coordinates of the metric of a chain, of a distribution with this covariance."""
    matrix = Metric.from_result(result, chain).matrix()
    return np.linalg.eigvals(np.linalg.solve(matrix, covariance)).real


# ---------------------------------------------------------------------------------------------------------- the metric


@pytest.mark.parametrize("adaptation", COUPLED)
def test_the_metric_approaches_the_covariance(covariance, adaptation):
    result = sample(GaussianModel(covariance), adaptation=adaptation)
    for chain in range(2):
        found = misfit(result, covariance, chain)
        assert 0.3 < found.min() < found.max() < 3
    assert "Good" in result.adaptation.attrs["verdict"] or adaptation not in POOLED


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_statistics_tell_of_the_metric_of_each_draw(adaptation):
    result = sample(GaussianModel(rotated_covariance(5, 100)), adaptation=adaptation, draws=50)
    warm, after = result.warmup_sample_stats, result.sample_stats
    changes = np.concatenate([warm["transformation_index"], after["transformation_index"]], axis=1)
    assert (changes[:, 0] == 0).all()
    assert (np.diff(changes) >= 0).all()
    assert (changes[:, -50:] == changes[:, -1:]).all()
    assert (changes[:, -1] > 0).all() == (adaptation != "fixed")
    assert (after["num_eigenvalues"] == result.mass_matrix["rank"]).all()
    distance = np.concatenate([warm["fisher_distance"], after["fisher_distance"]], axis=1)
    assert np.isfinite(distance).all()
    assert (distance >= 0).all()


def test_the_fisher_distance_is_that_of_its_definition(covariance):
    metric = {"stds": np.sqrt(np.diag(covariance)), "center": np.ones(8)}
    result = sample(GaussianModel(covariance), adaptation="fixed", metric=metric, store_unconstrained=True)
    x = next(iter(result.unconstrained_posterior.data_vars.values())).values
    y = (x - 1) / metric["stds"] - x @ np.linalg.inv(covariance) * metric["stds"]
    np.testing.assert_allclose(result.sample_stats["fisher_distance"], (y**2).sum(-1), rtol=1e-8)


@pytest.mark.parametrize("adaptation", [a for a in ADAPTATIONS if a not in (*COUPLED, "fixed")])
def test_diagonal_metrics_approach_the_variances(model, adaptation):
    result = sample(model, adaptation=adaptation)
    assert (result.mass_matrix["rank"] == 0).all()
    np.testing.assert_allclose(result.mass_matrix["stds"], np.stack([np.arange(1, 6)] * 2), rtol=0.3)


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
@pytest.mark.parametrize("chains", [1, 2, 5])
def test_every_adaptation_with_any_number_of_chains(adaptation, chains):
    result = sample(NormalModel(3), adaptation=adaptation, chains=chains, draws=400)
    planned = {name: tune for name, tune, _ in nutpie._lib.adaptations()}[adaptation]
    assert result.warmup_posterior["x"].shape == (chains, planned, 3)
    assert result.adaptation["warmup_draws"].values.tolist() == [planned] * chains
    np.testing.assert_allclose(result.posterior["x"].std(("chain", "draw")), [1, 2, 3], rtol=0.3)
    assert (result.adaptation["shares_metric"] == (adaptation in POOLED and chains > 1)).all()


def test_an_uncorrelated_target_has_a_diagonal_metric(model):
    result = sample(model, chains=4)
    assert (result.mass_matrix["rank"] == 0).all()
    assert result.mass_matrix["eigvals"].shape == (4, 0)
    np.testing.assert_allclose(result.mass_matrix["stds"], np.stack([np.arange(1, 6)] * 4), rtol=0.4)
    assert "diagonal metric of 5 parameters" in result.adaptation.attrs["verdict"]


def test_the_center_is_estimated(run, covariance):
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(run.mass_matrix["center"]) < 0.5 * sd).all()


def test_more_warmup_gives_a_better_metric(covariance):
    def worst(tune: int) -> float:
        found = [misfit(sample(GaussianModel(covariance), tune=tune, seed=seed), covariance) for seed in range(3)]
        return float(np.mean([np.abs(np.log(f)).max() for f in found]))

    assert worst(8) > 2 * worst(150)


@pytest.mark.parametrize("adaptation", POOLED)
@pytest.mark.parametrize("tune", [0, 1, 2, 5, 20])
def test_short_warmups(adaptation, tune, covariance):
    for chains in (1, 3):
        result = sample(GaussianModel(covariance), adaptation=adaptation, tune=tune, chains=chains)
        assert result.warmup_posterior.sizes["draw"] == tune
        assert (result.adaptation["warmup_draws"] == tune).all()
        assert np.isfinite(result.posterior["x"]).all()
        assert np.isfinite(result.mass_matrix["stds"]).all()


# ----------------------------------------------------------------------------------------------- what the result holds


def test_the_metric_of_each_chain(run):
    group = run.mass_matrix
    rank = group.sizes["eigenvalue"]
    assert 1 <= rank <= 8
    assert group["stds"].dims == group["center"].dims == ("chain", "unconstrained_parameter")
    assert group["eigvecs"].dims == ("chain", "eigenvalue", "unconstrained_parameter")
    assert group["eigvals"].dims == ("chain", "eigenvalue")
    assert group["chain"].values.tolist() == [0, 1, 2, 3]
    assert group["unconstrained_parameter"].values.tolist() == [f"x_{i}" for i in range(8)]
    assert (group["rank"] == rank).all()
    vectors = group["eigvecs"].values[2]
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(rank), atol=1e-10)
    assert all(values.attrs["description"] for values in group.values())
    assert "M^-1 = S (I + U^T (L - I) U) S" in group.attrs["description"]


def test_chains_with_different_ranks(covariance):
    result = sample(GaussianModel(covariance), metric=[np.ones(8), covariance], adaptation="fixed")
    group = result.mass_matrix
    assert group["rank"].values.tolist() == [0, 8]
    assert (group["eigvals"][0] == 1).all()
    assert (group["eigvecs"][0] == 0).all()
    np.testing.assert_allclose(misfit(result, covariance, 1), 1, rtol=1e-9)
    assert "with 0 to 8 eigenvectors" in result.adaptation.attrs["verdict"]


def test_how_the_metric_came_about(run):
    group = run.adaptation
    chain, draw, reason = (group[f"change_{name}"].values for name in ("chain", "draw", "reason"))
    for one in range(4):
        mine = chain == one
        assert (reason[mine][0], draw[mine][0]) == ("start", 0)
        assert (np.diff(draw[mine]) > 0).all()
    common = chain == -1
    assert reason[common][0] == "merge"
    assert (np.diff(draw[common]) > 0).all()
    assert draw[common].min() > draw[~common].max()
    assert draw.max() < 150
    assert (np.diff(draw) >= 0).all()
    assert (group["change_points"][common] > 30).all()
    np.testing.assert_array_equal(group["change_stds"][-1], run.mass_matrix["stds"][0])
    last = group["change_eigvals"][-1].values
    np.testing.assert_array_equal(last[np.isfinite(last)], run.mass_matrix["eigvals"][0])
    assert group.attrs["fits"] >= common.sum()
    assert group.attrs["rejected_fits"] == group.attrs["skipped_fits"] == 0
    assert all(values.attrs["description"] for values in group.values())


def test_what_the_warmup_took(run):
    steps = run.warmup_sample_stats["n_steps"].sum("draw")
    found = run.adaptation["warmup_gradients"]
    # A gradient at the start, and those of two searches for a step size.
    assert ((found - steps >= 3) & (found - steps <= 60)).all()
    after = run.sample_stats["n_steps"].sum()
    assert int(found.sum() + after) == run.posterior.attrs["n_gradients"]


def test_condition_numbers(run, covariance):
    group = run.adaptation
    matrix = Metric.from_result(run).matrix()
    np.testing.assert_allclose(group["condition_number"], np.linalg.cond(matrix), rtol=1e-6)
    assert 300 < group["condition_number"][0] < 3000
    assert (group["condition_number_left"] < 3).all()
    assert group["check_chain"].values.tolist() == [-1]
    assert group["check_draws"].values.tolist() == [150]
    assert group["check_top_eigenvalue"][-1] == group["condition_number_left"][0]
    assert not group["check_extended"].any()
    assert re.fullmatch(
        r"Good: 150 draws, [\d,]+ gradients; metric of 8 parameters with [5-8] eigenvectors; "
        r"condition number [\d,]+ without it, [\d.]+ with it",
        group.attrs["verdict"].replace("dense metric of 8 parameters", "metric of 8 parameters with 8 eigenvectors"),
    )


@pytest.mark.parametrize("adaptation", ["diag", "draw_diag", "low_rank_windows", "stan", "fixed"])
def test_adaptations_of_single_chains_tell_what_they_can(model, adaptation):
    result = sample(model, adaptation=adaptation, tune=60, store_mass_matrix=True)
    group = result.adaptation
    if adaptation == "fixed":
        assert not any(name.startswith("change_") for name in group)
    else:
        for chain in range(group.sizes["chain"]):
            own = group.sel(change=group["change_chain"].values == chain)
            assert own["change_reason"].values[0] == "start"
            assert own["change_reason"].values[-1] in ("window", "fit")
            assert (np.diff(own["change_draw"]) > 0).all()
            assert own["change_points"].values[-1] >= 10
    if adaptation == "stan":
        # One window of 45 draws.
        assert group["change_draw"].values.tolist() == sorted([0, 53] * group.sizes["chain"])
        np.testing.assert_array_equal(own["change_stds"].values[-1], result.mass_matrix["stds"].values[-1])
    assert group["check_chain"].size == 0
    assert np.isnan(group["condition_number_left"]).all()
    assert (group["condition_number"] >= 1).all()
    assert (group["warmup_gradients"] > 60).all()
    assert group.attrs["verdict"].startswith("Not checked: 60 draws, ")


@pytest.mark.parametrize("position", [0, 2])
def test_a_chain_far_below_the_others_is_named(position):
    start = np.zeros((4, 3))
    start[position] = 100
    result = sample(NormalModel(3, two_modes_logp), chains=4, init=start)
    expected = np.arange(4) == position
    assert result.adaptation["lagging"].values.tolist() == expected.tolist()
    assert result.adaptation["shares_metric"].values.tolist() == (~expected).tolist()
    assert result.adaptation.attrs["verdict"].startswith("Doubtful: ")
    assert result.adaptation.attrs["verdict"].endswith(f"; chain {position} far below the best")
    own = result.adaptation["change_chain"].values == position
    assert "merge" not in result.adaptation["change_reason"].values[own]
    assert result.adaptation["change_draw"].values[own].max() > 100, "it goes on by itself"
    assert np.isnan(result.adaptation["condition_number_left"].values[position])


def test_no_groups_before_the_end():
    handle = sample(NormalModel(5), draws=LONG, tune=50, blocking=False)
    try:
        assert not {"mass_matrix", "adaptation"} & group_names(handle.inspect())
    finally:
        handle.cancel()


@pytest.mark.parametrize(
    "options",
    [
        {"store_mass_matrix": True},
        {"adaptation": "diag", "tune": 40},
        {"tune": 0},
        {"pool": False},
        {"save_warmup": False},
    ],
    ids=str,
)
def test_files_keep_it(covariance, options, tmp_path):
    before = sample(GaussianModel(covariance), **options)
    before.to_netcdf(str(tmp_path / "run.nc"))
    after = groups(az.from_netcdf(str(tmp_path / "run.nc")))
    stores = [after]
    if importlib.util.find_spec("zarr") is not None:
        before.to_zarr(str(tmp_path / "run.zarr"))
        names = ("mass_matrix", "adaptation")
        stores.append(
            {name: xr.open_zarr(tmp_path / "run.zarr", group=name, consolidated=False).load() for name in names}
        )
    for store in stores:
        for name in ("mass_matrix", "adaptation"):
            xr.testing.assert_equal(store[name], groups(before)[name])
            assert {k: str(v) for k, v in store[name].attrs.items()} == {
                k: str(v) for k, v in groups(before)[name].attrs.items()
            }


def test_the_diagonal_of_each_draw(covariance):
    result = sample(GaussianModel(covariance), store_mass_matrix=True)
    assert result.mass_matrix["rank"][0] > 2
    for chain in range(2):
        diagonal = np.diag(Metric.from_result(result, chain).matrix())
        for stored in (result.sample_stats, result.warmup_sample_stats.isel(draw=slice(-5, None))):
            values = stored["mass_matrix_inv"][chain].values
            np.testing.assert_allclose(values, np.broadcast_to(diagonal, values.shape), rtol=1e-9)


# ------------------------------------------------------------------------------------------------------ its length


def lengths_agree(result, tune: int) -> None:
    assert result.warmup_posterior.sizes["draw"] == result.warmup_sample_stats.sizes["draw"] == tune
    assert result.posterior.attrs["tuning_steps"] == tune
    settings = json.loads(result.posterior.attrs["inference_library_settings"])["settings"]
    assert settings["num_tune"] == tune
    assert (result.adaptation["warmup_draws"] == tune).all()
    assert result.warmup_sample_stats["tuning"].all()
    assert not result.sample_stats["tuning"].any()


def test_a_bad_metric_extends_the_warmup():
    calls: list[list[nutpie.ChainProgress]] = []
    result = funnel(progress_callback=calls.append)
    check = result.adaptation
    tune = int(check["check_draws"][-1])
    assert check["check_draws"].values.tolist() == list(range(150, tune + 1, 100))
    assert tune > 150
    lengths_agree(result, tune)
    assert check["check_extended"].values.tolist() == [True] * (len(check["check_draws"]) - 1) + [False]
    assert all(c.finished_draws == c.total_draws == tune + 100 for c in calls[-1])
    assert all(c.total_draws - c.total_tune == 100 and 150 <= c.total_tune <= tune for call in calls for c in call)
    assert all(c.total_tune == tune for c in calls[-1])
    assert f"{tune} draws, extended from 150, " in check.attrs["verdict"]
    # Draws of the extension are not those after it.
    assert check["change_draw"].max() > 150


def test_the_extension_stops_when_it_does_not_help():
    top = funnel().adaptation["check_top_eigenvalue"].values
    for before, after in itertools.pairwise(top[:-1]):
        assert after < 0.65 * before
    assert len(top) == 6 or top[-1] < 9 or top[-1] > 0.65 * top[-2]


def test_divergences_of_an_extended_warmup_are_counted_from_its_end():
    result = funnel(draws=1000, target_accept=0.6)
    tune = result.posterior.attrs["tuning_steps"]
    assert tune > 150
    for name, tuning in (("warmup_sample_stats", True), ("sample_stats", False)):
        table = result.divergences.sel(divergence=result.divergences["tuning"].values == tuning)
        where = np.argwhere(groups(result)[name]["diverging"].values)
        assert len(where) > 0
        np.testing.assert_array_equal(np.stack([table["chain"], table["draw"]], axis=1), where)


def test_an_explicit_length_is_kept():
    lengths_agree(funnel(tune=150), 150)
    given, own = funnel(tune=150).adaptation, funnel().adaptation
    assert given["check_top_eigenvalue"].values.tolist() == [own["check_top_eigenvalue"].values[0]]
    # What made the other one longer is there all the same.
    assert own["check_extended"].values[0]
    assert not given["check_extended"].any()


@pytest.mark.parametrize("chains", [1, 3])
def test_an_extension_repairs_the_metric(chains):
    # The way to the posterior is so long that its points are still in the sample when the planned warm-up ends.
    covariance = rotated_covariance(20, 1e4)
    result = sample(GaussianModel(covariance), chains=chains, init=1e5)
    top, extended = (result.adaptation[f"check_{name}"].values for name in ("top_eigenvalue", "extended"))
    assert extended.tolist() == [True] * (len(top) - 1) + [False]
    assert top[0] > 100
    assert top[-1] < 9
    assert (result.adaptation["condition_number_left"] == top[-1]).all()
    assert misfit(result, covariance).max() < 9
    lengths_agree(result, 150 + 100 * (len(top) - 1))


def test_an_extension_does_not_change_the_draws_before_it():
    short, long = funnel(tune=150), funnel()
    np.testing.assert_array_equal(short.warmup_posterior["x"], long.warmup_posterior["x"][:, :150])


@pytest.mark.parametrize("thin", [1, 3])
def test_chains_that_need_different_warmups(thin):
    result = funnel(pool=False, seed=1, thin=thin)
    made = result.adaptation["warmup_draws"].values
    assert len(set(made.tolist())) > 1
    assert result.warmup_posterior.sizes == {"chain": 4, "draw": -(-made.min() // thin), "name": 10}
    assert result.posterior.sizes == {"chain": 4, "draw": -(-100 // thin), "name": 10}
    assert result.posterior.attrs["tuning_steps"] == made.max()
    assert result.adaptation["check_chain"].values.tolist() == sorted(result.adaptation["check_chain"].values)
    left = result.adaptation["condition_number_left"].values
    chain, top = (result.adaptation[f"check_{name}"].values for name in ("chain", "top_eigenvalue"))
    last = dict(zip(chain.tolist(), top.tolist(), strict=True))
    assert [last[c] for c in range(4)] == left.tolist()


# --------------------------------------------------------------------------------------------- chains among each other


@pytest.mark.parametrize("adaptation", [*POOLED, "diag", "stan_dense"])
def test_the_cores_do_not_matter(covariance, adaptation):
    runs = [sample(GaussianModel(covariance), adaptation=adaptation, chains=5, cores=cores) for cores in (1, 2, 5)]
    for other in runs[1:]:
        np.testing.assert_array_equal(other.posterior["x"], runs[0].posterior["x"])
        np.testing.assert_array_equal(other.warmup_posterior["x"], runs[0].warmup_posterior["x"])
        xr.testing.assert_equal(groups(other)["adaptation"], groups(runs[0])["adaptation"])


def test_chains_that_pool_share_metric_and_step_size(run):
    assert (run.mass_matrix["stds"] == run.mass_matrix["stds"][0]).all()
    assert (run.sample_stats["step_size_bar"] == run.sample_stats["step_size_bar"][0]).all()
    own = run.warmup_sample_stats["step_size_bar"].values[:, 0]
    assert len(np.unique(own)) > 1


def test_chains_that_do_not_pool_know_nothing_of_each_other(covariance):
    model = GaussianModel(covariance)
    four, two = (sample(model, pool=False, chains=chains) for chains in (4, 2))
    np.testing.assert_array_equal(four.posterior["x"][:2], two.posterior["x"])
    assert not four.adaptation["shares_metric"].any()
    assert four.adaptation["check_chain"].values.tolist() == [0, 1, 2, 3]
    assert len(np.unique(four.mass_matrix["stds"].values[:, 0])) == 4
    for chain in range(4):
        found = misfit(four, covariance, chain)
        assert 0.1 < found.min() < found.max() < 10


def test_one_chain_is_a_pool_of_one(covariance):
    one, alone = (sample(GaussianModel(covariance), chains=1, pool=pool) for pool in (True, False))
    np.testing.assert_array_equal(one.posterior["x"], alone.posterior["x"])


# ------------------------------------------------------------------------------------------------------------- settings


def test_eigenvectors_are_as_many_as_allowed(covariance):
    model = GaussianModel(covariance)
    for rank in (0, 1, 3):
        for adaptation in ("auto", "low_rank", "low_rank_windows"):
            found = sample(model, max_rank=rank, adaptation=adaptation, tune=100).mass_matrix["rank"]
            assert (found == rank).all()
    few, many = (sample(model, mass_matrix_eigval_cutoff=cutoff).mass_matrix["rank"].max() for cutoff in (30, 1.01))
    assert few < many
    values = sample(model, mass_matrix_eigval_cutoff=5.0).mass_matrix["eigvals"].values
    assert (np.abs(np.log(values)) >= np.log(5.0)).all()


#: Values of settings that change the draws of every adaptation that has a use for them.
OTHER_VALUES = {
    "target_accept": 0.9,
    "initial_step": 0.3,
    "max_step_size": 0.05,
    "step_size_jitter": 0.3,
    "pool": False,
    "early_window_switch_freq": 7,
    "window_switch_freq": 33,
    "window_growth": 2.0,
    "early_fraction": 0.1,
    "final_fraction": 0.3,
    "early_maxdepth": 3,
    "mass_matrix_eigval_cutoff": 4.0,
    "max_rank": 1,
    "mass_matrix_gamma": 1e3,
    "maxdepth": 2,
    "max_energy_error": 0.5,
}


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_every_setting_has_an_effect_or_is_refused(covariance, adaptation):
    # Those of other samplers have tests of their own.
    assert set(OTHER_VALUES) == set(declared()) - set(ONLY_WITH_SAMPLER)
    options = {"adaptation": adaptation, "tune": 250, "draws": 10}
    model = GaussianModel(covariance)
    default = sample(model, **options).posterior["x"].values
    for name, value in OTHER_VALUES.items():
        if adaptation in ONLY_WITH.get(name, ADAPTATIONS):
            assert not np.array_equal(sample(model, **options, **{name: value}).posterior["x"], default), name
        else:
            with pytest.raises(ValueError, match=f"{name} has no effect with adaptation='{adaptation}'; it is for '"):
                sample(model, **options, **{name: value})


@pytest.mark.parametrize("value", [0, 1.0, "no", None])
def test_pool_is_true_or_false(model, value):
    with pytest.raises(TypeError, match="pool must be True or False"):
        sample(model, pool=value)
    assert sample(model, pool=np.bool_(False), tune=10).posterior.sizes["chain"] == 2


# -------------------------------------------------------------------------------------------- runs that end in between


def start(**kwargs):
    return sample(NormalModel(20), **{"tune": LONG, "draws": 10, "chains": 3, "blocking": False} | kwargs)


def wait_for_draws(handle, least: int) -> None:
    deadline = time.monotonic() + 60
    while sum(chain.finished_draws for chain in handle.progress()) < least:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)


@pytest.mark.parametrize("cores", [1, 3])
def test_a_look_at_the_warmup(cores):
    handle = start(cores=cores)
    wait_for_draws(handle, 600)
    early = handle.inspect()
    assert early.posterior.sizes["draw"] == 0
    n = early.warmup_posterior.sizes["draw"]
    # Chains wait for each other.
    assert early.warmup_posterior.sizes["chain"] == 3
    assert n > 100
    with pytest.warns(UserWarning, match="aborted"):
        late = handle.abort()
    np.testing.assert_array_equal(early.warmup_posterior["x"], late.warmup_posterior["x"][:, :n])
    assert late.posterior.sizes["draw"] == 0
    made = late.adaptation["warmup_draws"]
    assert made.min() == late.warmup_posterior.sizes["draw"]
    assert made.max() - made.min() <= 1
    assert re.match(
        rf"Cut short: {int(made.min())} of 2000000 draws, [\d,]+ gradients$", late.adaptation.attrs["verdict"]
    )


def test_a_pause_in_the_warmup_does_not_change_the_draws():
    handle = start(tune=3000, chains=5)
    handle.pause()
    time.sleep(0.1)
    before = sum(chain.finished_draws for chain in handle.progress())
    time.sleep(0.1)
    assert sum(chain.finished_draws for chain in handle.progress()) == before
    handle.resume()
    same = sample(NormalModel(20), tune=3000, draws=10, chains=5)
    np.testing.assert_array_equal(handle.wait(timeout=60).posterior["x"], same.posterior["x"])


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_an_error_of_one_chain_ends_the_warmup_of_all(cores):
    starts = np.zeros((4, 3))
    starts[2, 0] = 2.9
    handle = sample(
        NormalModel(3, fatal_far_out), init=starts, chains=4, cores=cores, tune=LONG, draws=10, blocking=False
    )
    with pytest.raises(RuntimeError, match="fatal code -1") as caught:
        handle.wait(timeout=60)
    assert caught.value.partial_trace.posterior.sizes["draw"] == 0


@pytest.mark.parametrize("cores", [1, 3])
def test_an_interrupt_ends_the_warmup(cores):
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.warns(UserWarning, match="interrupted"):
        result = sample(NormalModel(20), tune=LONG, chains=3, cores=cores)
    assert result.posterior.sizes["draw"] == 0
    assert 0 < result.warmup_posterior.sizes["draw"] < LONG
    assert result.adaptation.attrs["verdict"].startswith("Cut short: ")


def test_a_callback_may_end_the_warmup():
    result = sample(
        NormalModel(20),
        tune=LONG,
        progress_callback=lambda chains: nutpie.STOP if chains[0].finished_draws > 300 else None,
        progress_rate=5,
    )
    assert 300 < result.warmup_posterior.sizes["draw"] < LONG
    assert result.adaptation.attrs["verdict"].startswith("Cut short: ")
