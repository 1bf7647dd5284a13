"""`sampler="meads"`: ensembles of many chains, and nested R-hat."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from ensemble_models import STARTS, check_against, item_response, radon
from results import groups
from simple_model import NormalModel, fatal_far_out, funnel_logp
from synthetic import clean_arrays, result_of

import nutpie
from nutpie import _lib
from nutpie._convergence import ess, split
from nutpie.diagnose import diagnose
from nutpie.models.base import BatchDensity


def sample(model, **keywords):
    options = {"draws": 100, "tune": 100, "chains": 16, "seed": 3, "progress_bar": False, "check": False}
    return nutpie.sample(model, sampler="meads", **options | keywords)


@pytest.fixture(scope="module")
def model():
    return NormalModel(5)


@pytest.fixture(scope="module")
def run(model):
    return sample(model, draws=500, chains=32)


def z_scores(draws, means, sds):
    """How far means and variances of draws (chains, draws, n) are from the truth, in standard errors."""
    moved = np.ascontiguousarray(np.moveaxis((draws - means) / sds, 2, 0))
    squares = np.square(moved)
    of_means = moved.mean(axis=(1, 2)) * np.sqrt(ess(split(moved)))
    of_squares = (squares.mean(axis=(1, 2)) - 1) * np.sqrt(ess(split(squares))) / squares.std(axis=(1, 2))
    return of_means, of_squares


def test_draws_are_right(run):
    of_means, of_squares = z_scores(run.posterior["x"].values, 0, np.arange(1, 6))
    assert np.abs(of_means).max() < 4.5
    assert np.abs(of_squares).max() < 4.5


def test_the_result_tells_of_the_ensemble(run):
    adaptation = run.adaptation
    assert dict(run.posterior.sizes) == {"chain": 32, "draw": 500, "name": 5}
    assert adaptation.attrs["kernel"] == "ghmc"
    assert json.loads(run.posterior.attrs["inference_library_settings"])["sampler"] == "meads"
    np.testing.assert_array_equal(adaptation["superchain"], np.repeat([0, 1, 2, 3], 8))
    for name in ("kernel_step_size", "kernel_length", "kernel_transitions"):
        assert np.ptp(adaptation[name].values) == 0, "all chains do the same"
    assert 0.3 < float(adaptation["kernel_step_size"][0]) <= 1
    assert adaptation.attrs["verdict"].startswith("Good: 100 draws")
    # Warm-up and draws are of one kernel, and each draw is one gradient.
    names = {name for name, _, _, _ in _lib.statistics("ghmc")}
    for group in (run.sample_stats, run.warmup_sample_stats):
        assert names <= set(group.data_vars)
        assert (group["n_steps"] == 1).all()
    total = int(run.sample_stats["n_steps"].sum()) + int(adaptation["warmup_gradients"].sum())
    assert total == run.posterior.attrs["n_gradients"]
    assert set(np.unique(run.initial_points["chain"])) == set(range(32))
    starts = run.initial_points["unconstrained"].values
    assert len(np.unique(starts[:, 0])) == 4, "a superchain has one start"
    assert (
        "superchain" not in nutpie.sample(NormalModel(2), draws=5, tune=20, progress_bar=False, check=False).adaptation
    )


def test_steps_stand_where_they_were_rejected(run):
    stats, x = run.sample_stats, run.posterior["x"].values
    stood = (np.diff(x, axis=1) == 0).all(axis=2)
    np.testing.assert_array_equal(stood, stats["n_accepted"].values[:, 1:] == 0)
    logp = -0.5 * np.square(x / np.arange(1, 6)).sum(axis=2)
    np.testing.assert_allclose(stats["logp"], logp, rtol=1e-10)
    assert 0.7 < float(stats["acceptance_rate"].mean()) < 1
    error = stats["energy_error"].values
    np.testing.assert_allclose(stats["acceptance_rate"], np.minimum(1, np.exp(-error)), rtol=1e-12)


def test_draws_do_not_depend_on_cores_and_thinning(model):
    whole = sample(model)
    for cores in (1, 3, 16):
        np.testing.assert_array_equal(sample(model, cores=cores).posterior["x"], whole.posterior["x"])
    np.testing.assert_array_equal(sample(model, thin=7).posterior["x"], whole.posterior["x"][:, ::7])
    assert not np.array_equal(sample(model, seed=4).posterior["x"], whole.posterior["x"])


class Rows(NormalModel):
    """The same model with a function of many points."""

    calls = 0

    def density(self):
        def function(x):
            type(self).calls += 1
            scale = 1 / np.arange(1.0, x.shape[1] + 1)
            z = x * scale
            return -0.5 * np.square(z).sum(axis=1), -z * scale

        return BatchDensity(function)


def test_an_ensemble_takes_one_call_for_all_chains(model):
    Rows.calls = 0
    result = sample(Rows(5), meads_pilot=20)
    steps = 100 + 100
    # A fold rests in turn early in the warm-up; the run before takes most of the rest.
    assert steps < Rows.calls < 1500
    assert int(result.posterior.attrs["n_gradients"]) > 16 * steps
    np.testing.assert_allclose(result.posterior["x"], sample(model, meads_pilot=20).posterior["x"], rtol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"meads_folds": 2},
        {"meads_step_scale": 0.2},
        {"meads_target_accept": 0.99},
        {"meads_slowdown": 50.0},
        {"meads_metric": "low_rank"},
        {"meads_transitions": 3},
        {"meads_pilot": 40},
        {"meads_superchains": 8},
        {"adaptation": "dense"},
        {"max_energy_error": 0.01},
    ],
)
def test_every_setting_has_an_effect(model, changed):
    plain, other = sample(model, draws=20), sample(model, draws=20, **changed)
    if "max_energy_error" in changed:
        assert other.sample_stats["diverging"].values.sum() > plain.sample_stats["diverging"].values.sum()
    else:
        assert not np.array_equal(plain.posterior["x"], other.posterior["x"])
    if "meads_transitions" in changed:
        assert (other.sample_stats["n_steps"] == 3).all()
    if "meads_superchains" in changed:
        assert int(other.adaptation["superchain"].max()) == 7


def test_what_does_not_go_together_is_refused(model):
    with pytest.raises(ValueError, match="4 folds of two chains or more need chains=8 at least, and there are 7"):
        sample(model, chains=7)
    with pytest.raises(ValueError, match="meads_folds has no effect with sampler='nuts'; it is for 'meads'"):
        nutpie.sample(model, meads_folds=4)
    with pytest.raises(ValueError, match="adaptation='diag' does not prepare it"):
        sample(model, adaptation="diag")
    with pytest.raises(ValueError, match="hmc_length has no effect with sampler='meads'"):
        sample(model, hmc_length=2.0)


def test_defaults(model):
    result = nutpie.sample(model, sampler="meads", draws=5, progress_bar=False, check=False, save_warmup=False)
    assert result.posterior.sizes["chain"] == 64
    assert result.posterior.attrs["tuning_steps"] == 300
    assert nutpie.sample(model, draws=5, progress_bar=False, check=False).posterior.sizes["chain"] == 4


def test_without_a_run_before(model):
    starts = np.random.default_rng(0).normal(0, np.arange(1, 6), (16, 5))
    result = sample(model, meads_pilot=0, init=starts, tune=200, draws=400)
    np.testing.assert_allclose(result.initial_points["unconstrained"], starts)
    assert "superchain" not in result.adaptation
    of_means, of_squares = z_scores(result.posterior["x"].values, 0, np.arange(1, 6))
    assert max(np.abs(of_means).max(), np.abs(of_squares).max()) < 4.5
    # As far as the metric of the starts goes.
    assert sample(model, meads_pilot=0, init=starts, tune=0, draws=10).posterior.sizes["draw"] == 10


def test_a_run_under_way_can_be_watched_looked_at_and_stopped(model):
    run = sample(model, draws=1_000_000, thin=1000, blocking=False)
    while min(chain.finished_draws for chain in run.progress()) < 3000:
        time.sleep(0.001)
    part = run.inspect()
    assert part.posterior.sizes["chain"] >= 8, "chains go on together, up to a turn"
    run.pause()
    before = [chain.finished_draws for chain in run.progress()]
    time.sleep(0.05)
    assert np.ptp(np.array(before)) < 1_000_000
    run.resume()
    with pytest.warns(UserWarning, match="sampling was aborted"):
        result = run.abort()
    assert result.posterior.sizes["draw"] >= 1


def test_an_error_of_the_model_ends_the_run():
    with pytest.raises(RuntimeError, match="fatal code -1") as caught:
        sample(NormalModel(3, fatal_far_out), draws=5000, init=0.5)
    assert hasattr(caught.value, "partial_trace")


def test_results_can_be_written(run, tmp_path):
    import arviz as az

    run.to_netcdf(str(tmp_path / "run.nc"))
    assert "superchain" in groups(az.from_netcdf(str(tmp_path / "run.nc")))["adaptation"]


def test_a_funnel_is_complained_about():
    result = sample(NormalModel(6, funnel_logp), draws=500, chains=32)
    assert not diagnose(result).ok


# ------------------------------------------------------------------------------------------- models of references/001


@pytest.fixture(scope="module")
def references():
    """The models, one of them smaller, with draws of the no-U-turn sampler."""
    options = {"draws": 600, "seed": 8, "progress_bar": False, "check": False, "save_warmup": False}
    models = (item_response(40, 15), radon())
    return [(model, nutpie.sample(model, **options).posterior["x"].values) for model in models]


@pytest.mark.parametrize("kind", STARTS)
def test_the_models_of_the_reference_from_any_start(references, kind):
    for model, reference in references:
        starts = STARTS[kind](model.n_dim, 5)
        result = sample(model, chains=64, tune=150, draws=150, init=starts, save_warmup=False)
        check_against(result, reference)


# --------------------------------------------------------------------------------------------------------- nested R-hat


def plain_nested(draws, labels):
    """Nested R-hat of one parameter, term by term."""
    means, within = [], []
    for label in sorted(set(labels)):
        chains = [draws[i] for i in range(len(labels)) if labels[i] == label]
        of_chains = [sum(chain) / len(chain) for chain in chains]
        mean = sum(of_chains) / len(chains)
        between = sum((m - mean) ** 2 for m in of_chains) / (len(chains) - 1) if len(chains) > 1 else 0.0
        inside = 0.0
        if len(chains[0]) > 1:
            for chain, m in zip(chains, of_chains, strict=True):
                inside += sum((v - m) ** 2 for v in chain) / (len(chain) - 1) / len(chains)
        means.append(mean)
        within.append(between + inside)
    centre = sum(means) / len(means)
    b = sum((m - centre) ** 2 for m in means) / (len(means) - 1)
    return (1 + b / (sum(within) / len(within))) ** 0.5


# One draw of each chain and one chain of each superchain would leave nothing that varies within.
@pytest.mark.parametrize(
    ("draws", "labels"),
    [(d, of) for d in (1, 7) for of in ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])] + [(7, [0, 1, 2, 3])],
)
def test_nested_r_hat_is_its_formula(draws, labels):
    chains = len(labels)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(chains, draws, 3)) + rng.normal(size=(chains, 1, 1))
    result = result_of({"x": x, "y": x[..., 0] ** 2}, {})
    found = nutpie.nested_r_hat(result, labels, rank_normalized=False)
    for i in range(3):
        assert float(found["x"][i]) == pytest.approx(plain_nested(x[..., i].tolist(), labels), rel=1e-12)
    assert float(found["y"]) == pytest.approx(plain_nested((x[..., 0] ** 2).tolist(), labels), rel=1e-12)
    assert list(nutpie.nested_r_hat(result, labels, var_names="y").data_vars) == ["y"]


def test_nested_r_hat_knows_short_chains_from_bad_ones():
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(64, 20)), np.repeat(np.arange(4), 16)
    result = result_of({"x": x, "wide": np.exp(3 * x)}, {})
    assert float(nutpie.nested_r_hat(result, labels)["x"]) < 1.01
    bad = result_of({"x": x + 0.3 * labels[:, None], "scale": x * (1 + 0.3 * labels[:, None])}, {})
    found = nutpie.nested_r_hat(bad, labels)
    assert float(found["x"]) > 1.02
    assert float(found["scale"]) > 1.02, "of distances from the median"
    assert float(nutpie.nested_r_hat(bad, labels, rank_normalized=False)["scale"]) < 1.01


def test_nested_r_hat_says_what_it_needs(run):
    posterior, stats = clean_arrays()
    with pytest.raises(ValueError, match="has no superchains; say which chains began together"):
        nutpie.nested_r_hat(result_of(posterior, stats))
    with pytest.raises(ValueError, match="a label for each of the 32 chains"):
        nutpie.nested_r_hat(run, [0, 1])
    with pytest.raises(ValueError, match="two superchains at least"):
        nutpie.nested_r_hat(run, np.zeros(32, int))
    with pytest.raises(ValueError, match="no variable 'xx'; did you mean 'x'"):
        nutpie.nested_r_hat(run, var_names="xx")
    with pytest.raises(TypeError, match="wanted a result"):
        nutpie.nested_r_hat(3)


def test_diagnose_judges_superchains(run):
    found = diagnose(run)
    nested = nutpie.nested_r_hat(run)
    table = found.table["r_hat"]
    np.testing.assert_allclose([table[f"x[name=n{i}]"] for i in range(5)], nested["x"].values, rtol=1e-12)
    assert not [p for p in found.problems if p.kind in ("r_hat", "ess", "rejections")]
