"""The densities and the measures of benches/peers, against independent ones; what the harness does when runs fail."""

import argparse
import json
import math
import stat
import sys
from pathlib import Path

import numpy as np
import posteriors
import pytest

pytest.importorskip("numba")
az = pytest.importorskip("arviz")

sys.path.append(str(Path(__file__).resolve().parents[2] / "benches" / "peers"))

import adaptation  # noqa: E402
import adaptation_report  # noqa: E402
import measures  # noqa: E402
import workloads  # noqa: E402
from densities.base import UnavailableError  # noqa: E402


def make(name):
    try:
        return workloads.WORKLOADS[name]()
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", list(workloads.WORKLOADS))
def test_gradients_are_those_of_the_density(name):
    workload = make(name)
    logp = workload.numba_logp()

    def evaluate(x):
        grad = np.full(workload.dim, np.nan)
        return logp(x, grad), grad

    for x in np.random.default_rng(5).uniform(-1, 1, (3, workload.dim)):
        assert workloads.difference_error(evaluate, x) < 1e-6


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("eight_schools_centered", posteriors.eight_schools_centered),
        ("eight_schools_noncentered", posteriors.eight_schools_noncentered),
        ("kidscore_interaction", posteriors.kidscore_interaction),
        ("sblrc-blr", posteriors.blr),
        ("arK", posteriors.ark),
        ("logmesquite_logvash", posteriors.logmesquite),
        ("radon_hierarchical_intercept_centered", lambda: posteriors.radon(centred=True)),
    ],
)
def test_densities_are_those_of_pymc(name, model):
    workload = make(name)
    logp, model = workload.numba_logp(), model()
    pymc_logp = model.compile_logp()
    shapes = {variable.name: variable.type.shape for variable in model.value_vars}

    def values(x):
        point, offset = {}, 0
        for variable, size, transform in workload.blocks:
            key = f"{variable}_log__" if transform == "log" else variable
            point[key] = x[offset : offset + size].reshape(shapes[key])
            offset += size
        return logp(x, np.empty(workload.dim)), float(pymc_logp(point))

    found = np.array([values(x) for x in np.random.default_rng(1).uniform(-1, 1, (5, workload.dim))])
    ours, theirs = (found - found[0]).T
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(workloads.SETS["posteriordb"]))
def test_references_name_quantities(name):
    workload = make(name)
    draws = np.random.default_rng(2).uniform(-1, 1, (2, 3, workload.dim))
    quantities = workload.quantities(draws)
    assert set(workload.reference()) <= set(quantities)
    assert all(values.shape == (2, 3) for values in quantities.values())


def autoregressive(draws):
    """Chains of every kind: of low and high correlation, alternating, with ties, apart from each other."""
    rng = np.random.default_rng(3)
    rho = np.concatenate([np.linspace(-0.9, 0.99, 20), [0.999]])
    x = rng.normal(size=(4, draws, len(rho)))
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
    x[0, :, 3] += 3
    x[..., 5] = np.round(x[..., 5], 1)
    x[1, :, 7] *= 5
    return x


@pytest.mark.parametrize("draws", [1000, 501, 40])
def test_measures_are_those_of_arviz(draws):
    x = autoregressive(draws)
    each = [x[:, :, k] for k in range(x.shape[2])]
    np.testing.assert_allclose(measures.bulk_ess(x), [az.ess(y, method="bulk") for y in each], rtol=1e-9)
    np.testing.assert_allclose(measures.rank_rhat(x), [az.rhat(y, method="rank") for y in each], rtol=1e-9)
    errors = [float(np.squeeze(az.mcse(y, method="mean"))) for y in each]
    np.testing.assert_allclose(measures.mean_error(x), errors, rtol=1e-9)
    found = measures.score(x)
    assert found["ess_min"] == measures.bulk_ess(x).min()
    assert found["worst"] == measures.bulk_ess(x).argmin()
    squares = (x - x.mean(axis=(0, 1))) ** 2
    assert math.isclose(
        found["ess_square_min"], min(az.ess(squares[:, :, k], method="bulk") for k in range(x.shape[2]))
    )
    assert found["rhat_max"] == measures.rank_rhat(x).max()


def test_a_parameter_that_never_moves_has_no_effective_draws():
    x = autoregressive(100)
    x[..., 4] = 1.5
    found = measures.score(x)
    assert found["ess_min"] == 0
    assert found["worst"] == 4
    assert found["rhat_max"] == math.inf


def test_samplers_are_parsed():
    assert adaptation.parse_sampler("ours:diag") == ("ours", None, {"adaptation": "diag"})
    options = {"adaptation": "auto", "pool": 0, "metric": "x"}
    assert adaptation.parse_sampler("ours:auto?tune=200&pool=0&metric=x") == ("ours", 200, options)
    assert adaptation.parse_sampler("peer:diag") == ("nutpie_peer", 400, {})
    low_rank = {"low_rank_modified_mass_matrix": True}
    assert adaptation.parse_sampler("peer:low_rank?tune=300") == ("nutpie_peer", 300, low_rank)
    for wrong in ("ours", "ours:", "peer:dense", "theirs:diag"):
        with pytest.raises(argparse.ArgumentTypeError):
            adaptation.parse_sampler(wrong)


def stand_in(path, body):
    """A program in place of a worker's Python."""
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


ANSWERS = """
for line in sys.stdin:
    request = json.loads(line)
    seed = request.get("seed")
    if seed == 1:
        print("a reason", file=sys.stderr, flush=True)
        os._exit(3)
    if seed == 2:
        time.sleep(60)
    if seed == 3:
        print(json.dumps({"error": "ValueError: no"}), flush=True)
    else:
        print(json.dumps({} if "prepare" in request else {"ess_min": float(seed)}), flush=True)
"""


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    worker = adaptation.Worker(stand_in(tmp_path / "worker", ANSWERS))
    try:
        records = [
            adaptation.execute(worker, {"workload": "W1", "seed": seed}, {"seed": seed}, timeout=2)
            for seed in (0, 1, 2, 3, 4)
        ]
    finally:
        worker.close()
    assert [record["status"] for record in records] == ["ok", "failed", "failed", "failed", "ok"]
    assert "a reason" in records[1]["message"]
    assert records[2]["message"] == "stopped after 2 s"
    assert records[3]["message"] == "ValueError: no"
    assert records[4]["ess_min"] == 4


def arguments_for(results, **changes):
    plain = {"samplers": ["ours:diag"], "sets": ["peerbench"], "workloads": ["W1"], "seeds": 3, "first_seed": 0}
    plain |= {"chains": 4, "draws": 1000, "timeout": 10, "processes": 1, "retry": False, "results": results}
    return argparse.Namespace(**(plain | changes))


def test_runs_that_are_done_are_not_done_again(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    reply = """print("{}" if "prepare" in line else '{"error": "no"}', flush=True)"""
    answers = f"for line in sys.stdin:\n    {reply}\n"
    pythons = {"ours": stand_in(tmp_path / "worker", answers)}
    for seeds, lines in ((2, 2), (3, 3), (3, 3)):
        adaptation.run_all(arguments_for(results, seeds=seeds), pythons)
        assert [record["seed"] for record in adaptation.read([results])] == list(range(lines))
    adaptation.run_all(arguments_for(results, retry=True), pythons)
    assert len(adaptation.read([results])) == 6
    assert "FAILED: no" in capsys.readouterr().out


def record(sampler, workload, ess, *, seed=0, rhat=1.0, warmup=1000, mean=0.0):
    return {
        "set": "heldout",
        "workload": workload,
        "sampler": sampler,
        "seed": seed,
        "chains": 4,
        "draws": 1000,
        "status": "ok",
        "dim": 2,
        "ess_min": ess,
        "ess_mean": 2 * ess,
        "ess_square_min": ess / 2,
        "rhat_max": rhat,
        "warmup_gradients": warmup,
        "sampling_gradients": 1000,
        "divergences": 0,
        "tune": 100,
        "cpu_seconds": 1.0,
        "estimates": {"x[1]": [mean, 0.1]},
    }


def test_ratios_are_over_the_better_mode_of_the_peer():
    records = []
    for workload, (diag, low_rank, ours) in {"a": (10, 40, 80), "b": (50, 20, 200)}.items():
        for seed, factor in ((0, 0.5), (1, 2.0)):
            records.append(record("peer:diag", workload, diag, seed=seed))
            records.append(record("peer:low_rank", workload, low_rank, seed=seed))
            records.append(record("ours:new", workload, factor * ours, seed=seed))
    cells = adaptation_report.by_cell(records)["heldout"]
    summaries = {
        workload: {name: adaptation_report.summary(list(seeds.values())) for name, seeds in samplers.items()}
        for workload, samplers in cells.items()
    }
    assert adaptation_report.ratios("ours:new", summaries, "min") == pytest.approx({"a": 2.0, "b": 4.0})
    assert summaries["a"]["ours:new"]["min"] == pytest.approx(1000 * 80 / 2000)
    assert summaries["a"]["ours:new"]["min late"] == pytest.approx(1000 * 80 / 1000)
    assert summaries["a"]["ours:new"]["min x,x^2"] == pytest.approx(1000 * 40 / 2000)


def test_reports_tell_of_failures_and_of_means_that_differ(capsys):
    records = [record("peer:diag", "a", 10.0, seed=seed) for seed in (0, 1)]
    records += [record("ours:new", "a", 10.0, seed=seed, mean=1.0, rhat=1.2) for seed in (0, 1)]
    records.append({**records[-1], "seed": 2, "status": "failed", "message": "stopped after 1 s"})
    adaptation_report.print_report(records, full=True)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["a", "5*!", "5", "1.00"] for line in lines)
    row = next(line.split() for line in lines if line.startswith("ours:new"))
    # Runs, failed, R-hat, runs above 1.05; a difference of 1 with errors of 0.1 / sqrt(2) on both sides.
    assert row[1:3] == ["2", "1"]
    assert row[8:10] == ["1.200", "2"]
    assert row[-1] == "10.0"
    assert "a ours:new seeds 2: stopped after 1 s" in lines
    # Not converged, so there is no ratio over converged workloads.
    assert not any("converged" in line and line.startswith("ours:new") for line in lines)


def test_records_of_a_run_are_json(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record("ours:new", "a", 1.0)) + "\n\n")
    assert adaptation.read([path, tmp_path / "none.jsonl"]) == [record("ours:new", "a", 1.0)]
