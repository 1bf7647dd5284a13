"""`sampler=`: what makes the draws after the warm-up."""

from __future__ import annotations

import inspect
import json

import arviz as az
import numpy as np
import pymc as pm
import pytest
from results import groups
from simple_model import NormalModel
from synthetic import clean_arrays, result_of

import nutpie
from nutpie import _lib
from nutpie.diagnose import diagnose
from nutpie.settings import ONLY_WITH_SAMPLER

#: Statistics of draws by the microcanonical kernel, beside those that every chain has.
OWN = {
    "logp": "float64",
    "energy_error": "float64",
    "acceptance_rate": "float64",
    "n_steps": "uint64",
    "n_accepted": "uint64",
    "rejection_run": "uint64",
    "diverging": "bool",
}
COMMON = {
    "step_size": "float64",
    "step_size_bar": "float64",
    "tuning": "bool",
    "fisher_distance": "float64",
    "transformation_index": "int64",
    "num_eigenvalues": "uint64",
    "process_time_diff": "float64",
}


def sample(model, sampler, **keywords):
    options = {"draws": 200, "chains": 4, "seed": 3, "progress_bar": False, "check": False} | keywords
    return nutpie.sample(model, sampler=sampler, **options)


@pytest.fixture(scope="module")
def model():
    return NormalModel(5)


@pytest.fixture(scope="module")
def mams(model):
    return sample(model, "mams", draws=1000)


def test_statistics_have_a_schema_by_kernel(mams):
    found = {name: str(v.dtype) for name, v in mams.sample_stats.data_vars.items()}
    assert found == OWN | COMMON | {"lp": "float64"}
    before = {name for name, _, _, _ in _lib.statistics("nuts")}
    assert before <= set(mams.warmup_sample_stats.data_vars)
    assert "depth" not in mams.sample_stats
    assert "rejection_run" not in mams.warmup_sample_stats
    for name, _, doc, _ in _lib.statistics("mams"):
        assert mams.sample_stats[name].attrs["description"] == doc
    with pytest.raises(ValueError, match="no kernel"):
        _lib.statistics("hmm")


def test_statistics_are_those_of_the_draws(mams):
    stats, x = mams.sample_stats, mams.posterior["x"].values
    sd = np.arange(1, 6)
    np.testing.assert_allclose(stats["logp"], -0.5 * np.square(x / sd).sum(axis=-1), rtol=1e-10)
    np.testing.assert_array_equal(stats["lp"], stats["logp"])
    transitions = mams.adaptation["kernel_transitions"].values
    assert (stats["n_accepted"].values <= transitions[:, None]).all()
    assert (stats["n_steps"].values >= transitions[:, None]).all()
    stood = np.diff(stats["logp"].values, axis=1) == 0
    np.testing.assert_array_equal(stood, stats["n_accepted"].values[:, 1:] == 0)
    # A run that goes on over draws is counted on.
    run, none = stats["rejection_run"].values.astype(int), stats["n_accepted"].values == 0
    assert (run[none] >= transitions[0]).all()
    assert 0.85 < float(stats["acceptance_rate"].mean()) < 0.99
    assert not stats["diverging"].any()
    assert (stats["step_size"] == mams.adaptation["kernel_step_size"][0]).all()


def test_draws_are_right(mams):
    x, sd = mams.posterior["x"], np.arange(1, 6)
    error = sd / np.sqrt(az.ess(mams.posterior)["x"])
    assert (np.abs(x.mean(("chain", "draw"))) < 4.5 * error).all()
    squares = (mams.posterior["x"] / sd) ** 2
    error = np.sqrt(2 / az.ess(squares.to_dataset(name="s"))["s"])
    assert (np.abs(squares.mean(("chain", "draw")) - 1) < 4.5 * error).all()


def test_the_result_says_what_was_chosen(model, mams):
    adaptation, settings = mams.adaptation, json.loads(mams.posterior.attrs["inference_library_settings"])
    assert settings["sampler"] == settings["kernel"] == "mams"
    assert adaptation.attrs["kernel"] == "mams"
    assert adaptation.attrs["kernel_reason"] == "it was asked for"
    assert (adaptation["kernel_length"] >= 1.4).all()
    assert (adaptation["kernel_rounds"] >= 10).all()
    assert (adaptation["kernel_gradients"] < adaptation["warmup_gradients"]).all()
    total = int(mams.sample_stats["n_steps"].sum()) + int(adaptation["warmup_gradients"].sum())
    assert total == mams.posterior.attrs["n_gradients"]
    plain = sample(model, "nuts")
    assert "kernel" not in plain.adaptation.attrs
    assert "kernel_length" not in plain.adaptation
    assert "kernel" not in json.loads(plain.posterior.attrs["inference_library_settings"])


@pytest.mark.parametrize(
    ("n_dim", "keywords", "kernel", "reason"),
    [
        (5, {}, "mams", "the metric is good and no chain lags"),
        (2, {}, "nuts", "the model has too few parameters for another sampler"),
        (5, {"pool": False}, "nuts", "chains warmed up by themselves"),
        (5, {"chains": 1}, "nuts", "chains warmed up by themselves"),
        (5, {"adaptation": "diag"}, "nuts", "there was no warm-up that could prepare another sampler"),
        (5, {"tune": 0}, "nuts", "there was no warm-up that could prepare another sampler"),
    ],
)
def test_the_automatic_choice(n_dim, keywords, kernel, reason):
    result = sample(NormalModel(n_dim), "auto", draws=20, **keywords)
    assert result.adaptation.attrs["sampler"] == "auto"
    assert (result.adaptation.attrs["kernel"], result.adaptation.attrs["kernel_reason"]) == (kernel, reason)
    assert json.loads(result.posterior.attrs["inference_library_settings"])["kernel"] == kernel
    assert ("depth" in result.sample_stats) == (kernel == "nuts")
    assert ("kernel_length" in result.adaptation) == (kernel == "mams")


def test_auto_is_one_of_the_two(model, mams):
    auto = sample(model, "auto", draws=1000)
    np.testing.assert_array_equal(auto.posterior["x"], mams.posterior["x"])
    single = {"draws": 100, "chains": 1}
    np.testing.assert_array_equal(
        sample(model, "auto", **single).posterior["x"], sample(model, "nuts", **single).posterior["x"]
    )


def test_the_warm_up_is_the_same(model, mams):
    nuts = sample(model, "nuts", draws=10)
    np.testing.assert_array_equal(nuts.warmup_posterior["x"], mams.warmup_posterior["x"])


def test_draws_do_not_depend_on_cores(model, mams):
    for cores in (1, 3, 16):
        again = sample(model, "mams", draws=1000, cores=cores)
        np.testing.assert_array_equal(again.posterior["x"], mams.posterior["x"])
    thinned = sample(model, "mams", draws=1000, thin=7)
    np.testing.assert_array_equal(thinned.posterior["x"], mams.posterior["x"][:, ::7])


#: Samplers other than 'nuts' and 'mams', each with values of its settings that differ from the defaults.
OTHERS = {
    "hmc": {
        "trajectory": "static",
        "integrator": "exact_normal",
        "hmc_target_accept": 0.8,
        "hmc_length": 2.5,
        "hmc_transitions": 4,
    },
    "walnuts": {"walnuts_energy_range": 0.1, "walnuts_max_halvings": 0, "walnuts_target": 0.9},
}


@pytest.fixture(scope="module")
def others(model):
    return {sampler: sample(model, sampler, draws=1000) for sampler in OTHERS}


@pytest.mark.parametrize("name", ONLY_WITH_SAMPLER)
def test_every_setting_has_an_effect_or_is_refused(model, mams, others, name):
    mine = {"mams_target_accept": 0.8, "mams_length": 2.5, "mams_transitions": 4}
    sampler, values = next((s, v) for s, v in {"mams": mine, **OTHERS}.items() if name in v)
    value, plain = values[name], {"mams": mams, **others}[sampler]
    if name == "walnuts_max_halvings":
        plain = sample(model, sampler, draws=1000, walnuts_energy_range=0.01)
        value = {name: value, "walnuts_energy_range": 0.01}
    else:
        value = {name: value}
    assert not np.array_equal(sample(model, sampler, draws=1000, **value).posterior["x"], plain.posterior["x"])
    wrong = "nuts" if name != "integrator" else "mams"
    with pytest.raises(ValueError, match=f"has no effect with sampler='{wrong}'; it is for"):
        sample(model, wrong, **value)
    with pytest.raises(ValueError, match="has no effect with adaptation='diag'; it is for 'auto' or"):
        sample(model, sampler, adaptation="diag", **value)


@pytest.mark.parametrize("sampler", OTHERS)
def test_draws_of_other_samplers_are_right(others, sampler):
    test_draws_are_right(others[sampler])
    adaptation = others[sampler].adaptation
    assert adaptation.attrs["kernel"] == sampler
    assert (adaptation["kernel_length"] >= 1.4).all() == (sampler == "hmc")


def test_statistics_of_other_samplers(others):
    found = {name: str(v.dtype) for name, v in others["hmc"].sample_stats.data_vars.items()}
    assert found == OWN | COMMON | {"lp": "float64"}
    stats = others["walnuts"].sample_stats
    assert {name for name, _, _, _ in _lib.statistics("walnuts")} <= set(stats.data_vars)
    assert (stats["n_steps"] >= stats["n_points"]).all()
    assert (stats["index_in_trajectory"].astype(int) <= stats["n_points"].astype(int)).all()
    assert (stats["max_halvings"].astype(int) <= 10).all()


def test_adaptive_steps_cost_nothing_where_one_scale_fits(model, others):
    stats = others["walnuts"].sample_stats
    assert abs(float(stats["mean_first_accept"].mean()) - 0.8) < 0.05
    assert int(stats["n_steps"].sum()) < 1.05 * int(stats["n_points"].sum())
    plain = sample(model, "nuts", draws=1000).sample_stats
    assert float(stats["step_size"].mean()) > 0.7 * float(plain["step_size"].mean())
    careful = sample(model, "walnuts", walnuts_target=0.95)
    assert float(careful.sample_stats["mean_first_accept"].mean()) > 0.9


def test_the_exact_normal_integrator(model):
    plain = sample(model, "nuts", draws=500)
    for sampler in ("nuts", "hmc"):
        exact = sample(model, sampler, draws=500, integrator="exact_normal")
        # The posterior is normal: steps are as long as they may be.
        assert float(exact.adaptation["kernel_step_size"].max()) < 1.4 + 1e-9
        assert float(exact.adaptation["kernel_step_size"].min()) > 1.2
        assert float(np.abs(exact.sample_stats["energy_error"]).max()) < 0.5
        test_draws_are_right(exact)
        np.testing.assert_array_equal(exact.warmup_posterior["x"], plain.warmup_posterior["x"])
    with pytest.raises(ValueError, match="integrator='exact_normal' is not possible here: it needs a warm-up"):
        sample(model, "nuts", integrator="exact_normal", tune=0)
    with pytest.raises(ValueError, match=r"integrator='exact_norm' is not available.*did you mean 'exact_normal'"):
        sample(model, "nuts", integrator="exact_norm")


def test_settings_of_the_kernel(model):
    result = sample(model, "mams", mams_transitions=3, mams_length=2.0, mams_target_accept=0.8)
    assert (result.adaptation["kernel_transitions"] == 3).all()
    assert (result.adaptation["kernel_length"] == 2).all()
    careful = sample(model, "mams", mams_target_accept=0.99)
    assert careful.adaptation["kernel_step_size"][0] < result.adaptation["kernel_step_size"][0]


def test_what_does_not_go_together_is_refused(model):
    with pytest.raises(ValueError, match=r"sampler='mamms' is not available; choose from .*did you mean 'mams'"):
        sample(model, "mamms")
    with pytest.raises(ValueError, match="mams_length has no effect with sampler='nuts'; it is for 'mams' or 'auto'"):
        sample(model, "nuts", mams_length=2.0)
    with pytest.raises(TypeError, match="did you mean 'mams_transitions'"):
        sample(model, "mams", mams_transition=2)
    with pytest.raises(ValueError, match="adaptation='diag' does not prepare it; it is for 'auto'"):
        sample(model, "mams", adaptation="diag")
    with pytest.raises(ValueError, match="it needs a warm-up, and tune is 0"):
        sample(model, "mams", tune=0)
    with pytest.raises(ValueError, match="it needs two parameters or more, and this model has 1"):
        sample(NormalModel(1), "mams")


def test_a_run_under_way_can_be_looked_at(model):
    run = sample(model, "mams", draws=100_000, blocking=False)
    while min(chain.finished_draws for chain in run.progress()) < 500:
        pass
    part = run.inspect()
    assert "rejection_run" in part.sample_stats
    assert "depth" in part.warmup_sample_stats
    run.cancel()


def test_results_can_be_written(mams, tmp_path):
    mams.to_netcdf(str(tmp_path / "run.nc"))
    back = groups(az.from_netcdf(str(tmp_path / "run.nc")))
    for name, group in groups(mams).items():
        assert set(back[name].data_vars) == set(group.data_vars)


def test_many_rejections_are_reported():
    posterior, stats = clean_arrays()
    for name in ("depth", "maxdepth_reached", "index_in_trajectory", "energy"):
        del stats[name]
    shape = stats["logp"].shape
    stats["acceptance_rate"] = stats.pop("mean_tree_accept")
    stats["rejection_run"] = np.zeros(shape, dtype=np.uint64)
    stats["rejection_run"][2, 40] = 20
    assert not [p for p in diagnose(result_of(posterior, stats)).problems if p.kind == "rejections"]
    stats["rejection_run"][2, 40] = 57
    (problem,) = [p for p in diagnose(result_of(posterior, stats)).problems if p.kind == "rejections"]
    assert problem.severity == "warning"
    assert problem.where == ("chain 2",)
    assert problem.message == "Chain 2 rejected up to 57 transitions in a row (more than 20)."
    assert "sampler='nuts'" in problem.advice


def test_advice_names_the_setting_of_the_kernel():
    posterior, stats = clean_arrays()
    stats["diverging"][0, :3] = True
    names = {"mams": "mams_target_accept=0.99", "nuts": "target_accept=0.95", "walnuts": "walnuts_max_halvings=14"}
    for kernel, name in names.items():
        result = result_of(posterior, stats, settings={"kernel": kernel})
        (problem,) = [p for p in diagnose(result).problems if p.kind == "divergences"]
        assert f" {name};" in problem.advice


@pytest.mark.parametrize(
    ("options", "kernel", "statistic"),
    [
        ({"sampler": "nuts"}, None, "depth"),
        ({"sampler": "auto"}, "mams", "rejection_run"),
        ({"sampler": "mams", "mams_target_accept": 0.95}, "mams", "rejection_run"),
        ({"sampler": "hmc", "trajectory": "multinomial", "integrator": "exact_normal"}, "hmc", "n_accepted"),
        ({"sampler": "walnuts"}, "walnuts", "max_halvings"),
    ],
)
def test_through_pymc(options, kernel, statistic):
    with pm.Model():
        pm.Normal("x", 0, [1.0, 2.0, 3.0])
        keywords = {"draws": 200, "tune": 150, "chains": 2, "random_seed": 1, "progressbar": False}
        if inspect.signature(pm.sample).parameters["nuts_sampler"].default is None:
            result = pm.sample(**keywords, nuts=options)
        else:
            result = pm.sample(**keywords, nuts_sampler="nutpie", nuts_sampler_kwargs=options)
    assert result.adaptation.attrs.get("kernel") == kernel
    assert statistic in result.sample_stats
