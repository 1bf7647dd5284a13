"""`nutpie.diagnose` and the warning at the end of `sample`."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import arviz as az
import numpy as np
import pytest
import xarray as xr
from simple_model import NormalModel, two_modes_logp
from synthetic import CONTAINER, SCHOOLS, adaptation_group, autoregressive, clean_arrays, result_of

import nutpie
from nutpie._convergence import COLUMNS, summarise
from nutpie._run_data import RunData
from nutpie.diagnose import QUICK_PARAMETERS, _worth_a_look, short_warning

CONTAINERS = sorted({CONTAINER, "DataTree"})


def diagnose(posterior, stats, **kwargs):
    return nutpie.diagnose(result_of(posterior, stats, container="DataTree", **kwargs))


def only_problem(diagnosis, *, beside=()):
    """Return the one problem of a run, apart from kinds that come with it."""
    (problem,) = [p for p in diagnosis.problems if p.kind not in beside]
    return problem


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("chains", "draws"), [(4, 1000), (2, 101), (6, 50), (4, 9), (4, 7), (3, 5), (2, 4)])
def test_numbers_are_those_of_arviz(chains, draws):
    rng = np.random.default_rng(chains * draws)
    x = autoregressive(rng, (60, chains, draws), rng.uniform(-0.9, 0.99, size=(60, 1)))
    x[:20] += 0.3 * rng.normal(size=(20, chains, 1))
    x[20:30] = np.round(x[20:30])
    x[30:35] = x[30:35] > 1
    ours = summarise(x)
    dataset = xr.Dataset({"x": (("chain", "draw", "i"), np.moveaxis(x, 0, -1))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "mean": dataset.mean(("chain", "draw")),
            "sd": dataset.std(("chain", "draw"), ddof=1),
            "r_hat": az.rhat(dataset),
            "ess_bulk": az.ess(dataset, method="bulk"),
            "ess_tail": az.ess(dataset, method="tail", prob=(0.05, 0.95)),
            "mcse": az.mcse(dataset),
        }
    varying = ours[:, 1] > 0
    assert varying.sum() > 50
    for column, name in enumerate(COLUMNS):
        expected = np.asarray(theirs[name]["x"])
        np.testing.assert_allclose(ours[varying, column], expected[varying], rtol=1e-9, atol=1e-12, err_msg=name)


def test_constants_and_non_finite_draws_have_no_convergence():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 4, 100))
    x[0] = 3.0
    x[1] = 0.1 * (1 + 1e-15 * rng.integers(-1, 2, size=(4, 100)))
    x[2, 1, 7] = np.nan
    x[3] = 1e8 + 1e-4 * x[3]
    values = summarise(x)
    np.testing.assert_allclose(values[:2, :2], [[3, 0], [0.1, 0]])
    assert np.isnan(values[:2, 2:]).all()
    assert np.isnan(values[2]).all()
    assert np.isfinite(values[3:]).all()


def test_bfmi_is_that_of_arviz():
    posterior, stats = clean_arrays()
    result = result_of(posterior, stats)
    theirs = az.bfmi(result)
    # ArviZ 1 returns a dataset.
    theirs = theirs["energy"].values if hasattr(theirs, "data_vars") else theirs
    np.testing.assert_allclose(nutpie.diagnose(result).run.bfmi, theirs, rtol=1e-12)


def test_table_and_totals():
    result = result_of(*clean_arrays())
    diagnosis = nutpie.diagnose(result)
    table = diagnosis.table
    names = [f"theta[school={s}]" for s in SCHOOLS]
    assert list(table.index) == ["mu", "tau", *names]
    assert list(table.columns) == list(COLUMNS)
    np.testing.assert_allclose(table["mean"].iloc[2:], result.posterior["theta"].mean(("chain", "draw")))
    smallest = table[["ess_bulk", "ess_tail"]].min().min()
    assert diagnosis.run.min_ess == smallest
    assert diagnosis.run.ess_per_1000_gradients == pytest.approx(smallest / 20)
    assert diagnosis.run.ess_per_second == pytest.approx(smallest / 2)
    assert diagnosis.slowest(1)[0][0] == table[["ess_bulk", "ess_tail"]].min(axis=1).idxmin()


def test_threads_and_pieces_do_not_change_the_numbers(monkeypatch):
    import nutpie._run_data

    posterior, stats = clean_arrays(draws=200)
    posterior["x"] = np.random.default_rng(0).normal(size=(4, 200, 5, 7))
    one = diagnose(posterior, stats).table
    monkeypatch.setattr(nutpie._run_data, "CHUNK_BYTES", 30_000)
    many = diagnose(posterior, stats).table
    assert list(one.index)[-1] == "x[4, 6]"
    np.testing.assert_allclose(one, many, rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ problems


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_clean_run_has_no_problems(container):
    result = result_of(*clean_arrays(), container=container)
    diagnosis = nutpie.diagnose(result)
    assert diagnosis.problems == []
    assert diagnosis.ok
    assert "No problems found" in str(diagnosis)
    assert "4 chains of 1000 draws after 400 of warm-up, 20,000 gradients, 2 s" in str(diagnosis)
    assert short_warning(result) is None


def test_clean_runs_give_no_false_alarms():
    for seed in range(40):
        result = result_of(*clean_arrays(seed=seed), container="DataTree")
        assert nutpie.diagnose(result).problems == []
        assert short_warning(result) is None


def test_slow_mixing():
    posterior, stats = clean_arrays()
    rng = np.random.default_rng(5)
    posterior["theta"][:, :, 1] = autoregressive(rng, (4, 1000), 0.995)
    diagnosis = diagnose(posterior, stats)
    kinds = [p.kind for p in diagnosis.problems]
    assert kinds == ["r_hat", "ess"]
    for problem in diagnosis.problems:
        assert problem.where == ("theta[school=Deerfield]",)
        assert "1 of 5 parameters" in problem.message
        assert "theta[school=Deerfield]" in problem.message
    assert diagnosis.problems[0].severity == "error"
    assert "tune=800 and draws=2000" in diagnosis.problems[0].advice
    assert not diagnosis.ok


def test_high_r_hat_by_chance_is_a_note():
    # A slow chain, in a run long enough for its errors to be known.
    posterior, stats = clean_arrays(draws=400)
    notes = 0
    for seed in range(20):
        posterior["mu"] = autoregressive(np.random.default_rng(seed), (4, 400), 0.8)
        problems = [p for p in diagnose(posterior, stats).problems if p.kind == "r_hat"]
        assert all(p.severity == "note" for p in problems)
        notes += len(problems)
    assert notes > 5
    # The same R-hat with draws that would tell the mean much better is no chance.
    posterior["mu"] = autoregressive(np.random.default_rng(1), (4, 400), -0.5)
    posterior["mu"][0] += 0.4
    diagnosis = diagnose(posterior, stats)
    assert 1.01 < diagnosis.run.max_r_hat < 1.1
    assert [p.severity for p in diagnosis.problems if p.kind == "r_hat"] == ["warning"]


def test_few_effective_draws_in_the_tails_only():
    posterior, stats = clean_arrays()
    rng = np.random.default_rng(5)
    # The scale changes slowly, so that excursions come in clusters.
    posterior["mu"] = rng.normal(size=(4, 1000)) * np.exp(autoregressive(rng, (4, 1000), 0.995))
    problem = only_problem(diagnose(posterior, stats), beside=("r_hat",))
    assert problem.kind == "ess"
    assert problem.where == ("mu",)
    values = diagnose(posterior, stats).table.loc["mu"]
    assert values["ess_tail"] < 400 < values["ess_bulk"]


def test_thresholds_are_keywords():
    result = result_of(*clean_arrays(), container="DataTree")
    assert only_problem(nutpie.diagnose(result, min_ess_per_chain=700)).kind == "ess"
    assert only_problem(nutpie.diagnose(result, max_r_hat=1.0)).kind == "r_hat"
    assert only_problem(nutpie.diagnose(result, min_bfmi=3.0)).kind == "energy"


def test_chains_in_two_modes():
    posterior, stats = clean_arrays()
    posterior["mu"][[1, 3]] += 8
    problem = diagnose(posterior, stats).problems[0]
    assert problem.kind == "disagreement"
    assert problem.severity == "error"
    assert problem.where == ("mu",)
    assert "chains 0 and 2 near" in problem.message
    assert "chains 1 and 3 near" in problem.message
    assert "log density is about the same" in problem.message
    assert "several modes" in problem.advice


def test_a_chain_far_below_the_others():
    posterior, stats = clean_arrays()
    posterior["theta"][2] -= 5
    stats["logp"][2] -= 30
    stats["energy"][2] += 30
    problem = diagnose(posterior, stats).problems[0]
    assert problem.kind == "disagreement"
    assert "2 more parameters" in problem.message
    assert set(problem.where) == {f"theta[school={s}]" for s in SCHOOLS}
    assert "lower in chain 2" in problem.message
    assert problem.advice.startswith("Chain 2 found no way")


def test_a_slow_chain_is_no_disagreement():
    posterior, stats = clean_arrays()
    # Its own error is large, so that its mean says little.
    for seed in range(20):
        posterior["mu"][1] = autoregressive(np.random.default_rng(seed), (1000,), 0.98)
        assert "disagreement" not in [p.kind for p in diagnose(posterior, stats).problems]


def test_a_chain_that_never_moves():
    posterior, stats = clean_arrays()
    for values in posterior.values():
        values[1] = values[1, :1]
    stats["index_in_trajectory"][1] = 0
    problem = diagnose(posterior, stats).problems[0]
    assert (problem.kind, problem.severity, problem.where) == ("stuck", "error", ("chain 1",))
    assert problem.message == "Chain 1 never moved."
    assert "init=" in problem.advice


def test_a_chain_that_stands_still_for_a_while():
    posterior, stats = clean_arrays()
    posterior["mu"][2, 300:520] = posterior["mu"][2, 300]
    # Without positions in the trajectory the log density tells it.
    del stats["index_in_trajectory"]
    stats["logp"][2, 300:520] = stats["logp"][2, 300]
    problem = only_problem(diagnose(posterior, stats), beside=("r_hat", "ess", "disagreement"))
    assert problem.message == "Chain 2 stood still for 219 draws from draw 301 on."
    assert "target_accept=0.95" in problem.advice


def test_a_chain_that_rejects_nearly_everything():
    posterior, stats = clean_arrays()
    stats["mean_tree_accept"][3] = 0.01
    problem = only_problem(diagnose(posterior, stats))
    assert problem.kind == "stuck"
    assert "mean acceptance is 0.01" in problem.message


def test_a_chain_that_crawls():
    posterior, stats = clean_arrays()
    for values in posterior.values():
        values[0] = values[0, :1] + 1e-4 * (values[0] - values[0, :1])
    problem = diagnose(posterior, stats).problems[0]
    assert problem.kind == "stuck"
    assert "chain 0" in problem.where
    assert "of the scale of the others" in problem.message


def test_divergences_and_where_they_are():
    posterior, stats = clean_arrays()
    rng = np.random.default_rng(0)
    stats["diverging"] = (posterior["tau"] < np.quantile(posterior["tau"], 0.06)) & (rng.uniform(size=(4, 1000)) < 0.5)
    number = int(stats["diverging"].sum())
    diagnosis = diagnose(posterior, stats)
    problem = only_problem(diagnosis)
    assert diagnosis.run.divergences == number
    assert (problem.kind, problem.severity, problem.where) == ("divergences", "warning", ("tau",))
    assert f"{number} divergences in 4000 draws ({number / 4000:.2%})" in problem.message
    assert "half of them where tau is below its " in problem.message
    assert "target_accept=0.95" in problem.advice
    assert "reparametrise tau" in problem.advice
    careful = only_problem(diagnose(posterior, stats, settings={"target_accept": 0.97}))
    assert "target_accept=0.99" in careful.advice
    most_careful = only_problem(diagnose(posterior, stats, settings={"target_accept": 0.995}))
    assert "target_accept" not in most_careful.advice


def test_divergences_where_the_log_density_is_not_finite():
    posterior, stats = clean_arrays()
    stats["diverging"][:, ::20] = True
    errors = np.full(230, np.inf)
    errors[:30] = 2000.0
    tuning = np.arange(230) < 30
    for error, clause in ((errors, True), (np.where(tuning, np.inf, 2000.0), False)):
        result = result_of(posterior, stats, container="DataTree")
        table = {"energy_error": ("divergence", error), "tuning": ("divergence", tuning)}
        result["divergences"] = xr.DataTree(xr.Dataset(table))
        problem = only_problem(nutpie.diagnose(result))
        assert ("most because the log density or its gradient was not finite" in problem.message) == clause
        assert ("target_accept" in problem.advice) != clause


def test_thinned_runs():
    posterior, stats = clean_arrays(draws=400)
    posterior["mu"] = autoregressive(np.random.default_rng(0), (4, 400), 0.8)
    result = result_of(posterior, stats, settings={"num_draws": 1999, "thin": 5}, container="DataTree")
    problem = only_problem(nutpie.diagnose(result), beside=("r_hat",))
    assert problem.kind == "ess"
    factor = 400 / nutpie.diagnose(result).run.min_ess
    wanted = int(problem.advice.split("draws=")[1].split(",")[0])
    assert 1.2 * factor * 2000 <= wanted <= 1.35 * factor * 2000
    # Divergences of draws that were not kept count too.
    table = {"energy_error": ("divergence", np.full(7, 2000.0)), "tuning": ("divergence", np.arange(7) < 3)}
    result["divergences"] = xr.DataTree(xr.Dataset(table))
    messages = [p.message for p in nutpie.diagnose(result).problems]
    assert "4 divergences in 8000 draws (0.05%)." in messages
    assert nutpie.diagnose(result).run.divergences == 4
    cut = result_of(posterior, stats, settings={"num_draws": 2001, "thin": 5}, container="DataTree")
    assert "incomplete" in [p.kind for p in nutpie.diagnose(cut).problems]


def test_divergences_anywhere_and_in_one_chain():
    posterior, stats = clean_arrays()
    stats["diverging"][2, ::20] = True
    problem = only_problem(diagnose(posterior, stats))
    assert "100% of them in chain 2" in problem.message
    assert "half of them" not in problem.message
    stats["diverging"][:] = False
    stats["diverging"][0, 0] = True
    assert "1 divergence in 4000 draws" in only_problem(diagnose(posterior, stats)).message


def test_depth_limit():
    posterior, stats = clean_arrays()
    stats["maxdepth_reached"][:, ::10] = True
    problem = only_problem(diagnose(posterior, stats))
    assert (problem.kind, problem.severity) == ("depth", "warning")
    assert "10.00% of the draws reached the depth limit (1023 gradients)" in problem.message
    assert "maxdepth=12" in problem.advice
    assert "maxdepth=10" in only_problem(diagnose(posterior, stats, settings={"maxdepth": 8})).advice
    stats["maxdepth_reached"][:] = False
    stats["maxdepth_reached"][0, 0] = True
    assert only_problem(diagnose(posterior, stats)).severity == "note"


def test_energy_and_what_it_goes_with():
    posterior, stats = clean_arrays()
    slow = autoregressive(np.random.default_rng(2), (2, 1000), 0.97)
    stats["energy"][:2] = 10 * slow
    posterior["tau"][:2] = np.exp(slow)
    problem = only_problem(diagnose(posterior, stats), beside=("r_hat", "ess"))
    assert (problem.kind, problem.severity) == ("energy", "warning")
    assert "below 0.3 in chains 0 and 1" in problem.message
    assert "the energy goes with tau" in problem.message
    assert "reparametrise tau" in problem.advice


def with_warmup(*, change=None, settings=None, **kwargs):
    """Diagnose a run without problems but those of the warm-up that are given."""
    posterior, stats = clean_arrays()
    if change is not None:
        change(posterior, stats)
    return diagnose(posterior, stats, adaptation=adaptation_group(**kwargs), settings=settings)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_good_warmup(container):
    result = result_of(*clean_arrays(), container=container, adaptation=adaptation_group([1.5, 2.0, 8.9, np.nan]))
    diagnosis = nutpie.diagnose(result)
    assert diagnosis.problems == []
    assert diagnosis.run.warmup_gradients == 4 * 1234
    assert diagnosis.run.warmup == "how it <went>"
    assert "\nWarm-up: how it <went>\n" in str(diagnosis)
    assert "Warm-up: how it &lt;went&gt;" in diagnosis._repr_html_()
    assert diagnosis.to_dict()["run"]["warmup_gradients"] == 4936


def test_a_bad_metric_is_a_note_where_the_draws_are_good():
    diagnosis = with_warmup(left=[14.2] * 4)
    problem = only_problem(diagnosis)
    assert (problem.kind, problem.severity) == ("metric", "note")
    assert problem.message.startswith(
        "The metric does not fit: at the end of the warm-up draws varied 14 times as much"
    )
    assert "tune=800" in problem.advice
    assert diagnosis.ok


def test_a_bad_metric_is_a_warning_where_they_are_not():
    def slow(posterior, _stats):
        posterior["tau"] = autoregressive(np.random.default_rng(1), (4, 1000), 0.99)

    problem = only_problem(
        with_warmup(left=[2.0, 30, np.nan, 9.5], extended=True, change=slow), beside=("r_hat", "ess")
    )
    assert (problem.kind, problem.severity) == ("metric", "warning")
    assert problem.message.startswith("The metric of chains 1 and 3 does not fit: ")
    assert "30 times" in problem.message
    assert problem.advice.startswith("More warm-up did not help")
    assert problem.where == ("chain 1", "chain 3")


def test_a_chain_that_is_still_far_below_the_others():
    def lower(_posterior, stats):
        stats["logp"][2] -= 100

    problem = only_problem(with_warmup(left=[2.0] * 4, lagging=(2,), change=lower), beside=("ess", "r_hat", "energy"))
    assert (problem.kind, problem.severity) == ("lagging", "warning")
    assert "Chain 2 was far below the others at the end of the warm-up, and still is: by 100" in problem.message
    assert problem.where == ("chain 2",)


def test_chains_that_caught_up():
    problem = only_problem(with_warmup(left=[2.0] * 4, lagging=(0, 3)))
    assert (problem.kind, problem.severity) == ("lagging", "note")
    assert problem.message == "Chains 0 and 3 were far below the others at the end of the warm-up, but not after it."


def test_fits_that_were_rejected():
    problem = only_problem(with_warmup(left=[2.0] * 4, rejected_fits=2))
    assert (problem.kind, problem.severity) == ("rejected_fits", "note")
    assert problem.message.startswith("2 of 40 fits of the metric gave numbers that cannot be used")


@pytest.mark.parametrize(
    ("settings", "attrs", "advised"),
    [
        ({"num_tune": 150}, {}, 300),
        ({"num_tune": None}, {"tuning_steps": 1000}, 2000),
        ({"num_tune": None}, {}, 1000),
        ({"num_tune": 0}, {"tuning_steps": 0}, 100),
        ({"num_tune": 0, "thin": 5}, {}, 100),
        ({"num_tune": None, "thin": 5}, {}, 5000),
    ],
)
def test_the_advised_warmup_is_twice_that_of_the_run(settings, attrs, advised):
    posterior, stats = clean_arrays()
    posterior["mu"][1] += 30
    result = result_of(posterior, stats, container="DataTree", settings=settings)
    del result["posterior"].attrs["tuning_steps"]
    result["posterior"].attrs |= attrs
    problem = next(p for p in nutpie.diagnose(result).problems if p.kind == "disagreement")
    assert problem.advice.endswith(f"tune={advised}.")


def test_what_a_real_run_tells_of_its_warmup():
    start = np.zeros((4, 3))
    start[2] = 100
    result = nutpie.sample(NormalModel(3, two_modes_logp), init=start, seed=1, progress_bar=False, check=False)
    diagnosis = nutpie.diagnose(result)
    assert [p.where for p in diagnosis.problems if p.kind == "lagging"] == [("chain 2",)]
    assert diagnosis.run.warmup == result.adaptation.attrs["verdict"]
    assert diagnosis.run.warmup_gradients == int(result.adaptation["warmup_gradients"].sum())


def test_draws_that_are_not_finite():
    posterior, stats = clean_arrays()
    posterior["theta"][1, 5:8, 2] = np.inf
    diagnosis = diagnose(posterior, stats)
    problem = only_problem(diagnosis)
    assert (problem.kind, problem.severity) == ("not_finite", "warning")
    assert problem.where == ("theta[school=Phillips Andover]",)
    assert "3 draws of 4000" in problem.message
    # The others are judged all the same.
    assert np.isfinite(diagnosis.table.drop(index=problem.where[0])).all(axis=None)
    posterior["theta"][:, :, 2] = np.nan
    padding = diagnose(posterior, stats)
    assert only_problem(padding).severity == "note"
    assert padding.ok


def test_constants_and_whole_numbers_are_no_problems():
    posterior, stats = clean_arrays()
    rng = np.random.default_rng(8)
    cholesky = np.zeros((4, 1000, 2, 2))
    cholesky[..., 0, 0] = 1
    posterior |= {
        "cholesky": cholesky,
        "count": rng.poisson(3, size=(4, 1000)),
        "flag": rng.uniform(size=(4, 1000)) < 0.3,
        "never": np.zeros((4, 1000), dtype=bool),
    }
    diagnosis = diagnose(posterior, stats)
    assert diagnosis.problems == []
    assert diagnosis.table.loc["count", "ess_bulk"] > 1000
    assert np.isnan(diagnosis.table.loc["never", "r_hat"])
    assert diagnosis.table.loc["cholesky[0, 0]", "mean"] == 1


def test_interrupted_runs():
    posterior, stats = clean_arrays(chains=2, draws=900)
    result = result_of(posterior, stats, settings={"num_draws": 1000, "num_chains": 4}, container="DataTree")
    problem = only_problem(nutpie.diagnose(result))
    assert (problem.kind, problem.severity) == ("incomplete", "note")
    assert "900 of 1000 draws by 2 of 4 chains" in problem.message
    stats["diverging"][0, 0] = True
    result = result_of(posterior, stats, settings={"num_draws": 1000, "num_chains": 4}, container="DataTree")
    assert short_warning(result) is None


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("draws", [0, 1, 2, 3, 4, 5, 20])
def test_few_draws(chains, draws):
    diagnosis = diagnose(*clean_arrays(chains, draws))
    assert diagnosis.ok
    assert {p.kind for p in diagnosis.problems} == {"few_draws"} | ({"one_chain"} if chains == 1 else set())
    assert "too little to judge by" in str(diagnosis)
    assert len(diagnosis.table) == 5
    json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert diagnosis._repr_html_()


def test_one_chain():
    posterior, stats = clean_arrays(chains=1)
    diagnosis = diagnose(posterior, stats)
    assert only_problem(diagnosis).kind == "one_chain"
    assert (diagnosis.table["r_hat"] < 1.01).all()
    # Its halves are compared.
    posterior["mu"][:, 500:] += 1
    assert "r_hat" in [p.kind for p in diagnose(posterior, stats).problems]


def test_without_statistics():
    posterior, _ = clean_arrays()
    assert diagnose(posterior, None).ok
    assert diagnose(posterior, {}).ok


# ---------------------------------------------------------------------------------------------------- use of the report


def troubled():
    posterior, stats = clean_arrays()
    posterior["mu"][0] += 8
    stats["diverging"][:, ::50] = True
    stats["maxdepth_reached"][:] = True
    return result_of(posterior, stats, container="DataTree")


def test_text_has_the_worst_first():
    diagnosis = nutpie.diagnose(troubled())
    text = str(diagnosis)
    severities = [p.severity for p in diagnosis.problems]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    positions = [text.index(p.message[:30]) for p in diagnosis.problems]
    assert positions == sorted(positions)
    assert max(map(len, text.splitlines())) <= 100
    assert repr(diagnosis) == "<Diagnosis: 2 errors, 3 warnings, 0 notes>"


def test_dictionary_is_json():
    back = json.loads(json.dumps(nutpie.diagnose(troubled()).to_dict(), allow_nan=False))
    assert back["ok"] is False
    assert back["run"]["divergences"] == 80
    assert back["problems"][0]["kind"] == "disagreement"
    assert back["problems"][0]["where"] == ["mu"]
    assert back["slowest"][0]["name"] == "mu"


def test_html_is_escaped():
    posterior, stats = clean_arrays()
    posterior["a<b>"] = posterior["mu"] + 8 * np.arange(4)[:, None]
    shown = diagnose(posterior, stats)._repr_html_()
    assert "a&lt;b&gt;" in shown
    assert "a<b>" not in shown


def test_variables_are_chosen_by_name():
    result = troubled()
    assert list(nutpie.diagnose(result, var_names="tau").table.index) == ["tau"]
    assert list(nutpie.diagnose(result, var_names=["tau", "mu"]).table.index) == ["tau", "mu"]
    assert "r_hat" not in [p.kind for p in nutpie.diagnose(result, var_names=["tau"]).problems]
    with pytest.raises(ValueError, match="no variable 'thta'; did you mean 'theta'"):
        nutpie.diagnose(result, var_names=["thta"])


def test_what_is_no_result_is_refused():
    with pytest.raises(TypeError, match="wanted a result of nutpie"):
        nutpie.diagnose([1, 2])
    with pytest.raises(ValueError, match="no group 'posterior'"):
        nutpie.diagnose(xr.DataTree())


def test_function_and_module_of_one_name():
    # The module of that name, imported by whoever, must not hide the function.
    code = "import nutpie.diagnose, nutpie, nutpie.plots; assert callable(nutpie.diagnose)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, nutpie; assert not {'arviz', 'pandas', 'scipy', 'xarray', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------- at the end of `sample`


def test_short_warning_is_one_paragraph():
    text = short_warning(troubled())
    assert text.startswith("Chains disagree in mu: chains 1, 2 and 3 near ")
    assert "There are 3 more." in text
    assert text.endswith("See nutpie.diagnose(result).")
    assert "\n" not in text
    assert len(text) < 700


def test_short_warning_finds_one_bad_parameter_among_many():
    rng = np.random.default_rng(0)
    posterior, stats = clean_arrays()
    posterior["x"] = rng.normal(size=(4, 1000, 10_000))
    assert short_warning(result_of(posterior, stats, container="DataTree")) is None
    posterior["x"][:, :, 6543] = autoregressive(rng, (4, 1000), 0.995)
    result = result_of(posterior, stats, container="DataTree")
    assert "x[6543]" in short_warning(result)
    rows = _worth_a_look(RunData.read(result).parameters)
    assert len(rows) <= QUICK_PARAMETERS
    assert {0, 1, 5 + 6543} <= set(rows)
    posterior["x"][3, 30, 77] = np.nan
    posterior["x"][:, :, 6543] = 0.0
    posterior["x"][0, :, 78] = np.nan
    assert "x[78]" in short_warning(result_of(posterior, stats, container="DataTree"))


#: Steps so small that a short run cannot get anywhere.
BAD = {"draws": 200, "tune": 50, "max_step_size": 0.02, "maxdepth": 3, "seed": 1, "progress_bar": False}


def test_sample_warns_of_a_bad_run_unless_told_not_to(model):
    with pytest.warns(nutpie.SamplingWarning, match=r"R-hat is above .* See nutpie\.diagnose") as caught:
        result = nutpie.sample(model, **BAD)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    kinds = {p.kind for p in nutpie.diagnose(result).problems}
    assert {"r_hat", "depth"} <= kinds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nutpie.sample(model, check=False, **BAD)


def test_sample_does_not_warn_of_good_or_short_runs(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nutpie.diagnose(nutpie.sample(model, seed=1, progress_bar=False)).ok
        for draws in (0, 1, 3, 20, 50):
            nutpie.sample(model, draws=draws, tune=50, seed=1, progress_bar=False)
        nutpie.sample(NormalModel(0), seed=1, progress_bar=False)


def test_a_failing_check_does_not_lose_the_draws(model, monkeypatch):
    def fail(result):
        raise RuntimeError("oops")

    monkeypatch.setattr(sys.modules["nutpie.diagnose"], "short_warning", fail)
    with pytest.warns(nutpie.SamplingWarning, match=r"check of the run failed \(RuntimeError: oops\)"):
        assert nutpie.sample(model, draws=20, tune=20, progress_bar=False).posterior.sizes["draw"] == 20
