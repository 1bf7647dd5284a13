"""The benchmark on posteriordb goes through a checkout by itself, whatever is in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from stan_programs import BENCH, SCHOOLS

import nutpie

RUN = BENCH.parent / "run.py"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def add(root, name, model, *, data=None, draws=None):
    """Add a posterior to a checkout."""
    described = {"name": name, "model_name": model, "data_name": name, "reference_posterior_name": draws and name}
    write(root / f"posteriors/{name}.json", described)
    if data is not None:
        write(root / f"data/data/{name}.json", data)
    if draws is not None:
        write(root / f"reference_posteriors/draws/draws/{name}.json", draws)


@pytest.fixture(scope="module")
def report(eight_schools_noncentered, tmp_path_factory):
    """What the benchmark prints for a checkout, and its results by posterior and sampler."""
    folder = tmp_path_factory.mktemp("posteriordb")
    model = eight_schools_noncentered.with_data(SCHOOLS)
    long_run = nutpie.sample(model, draws=4000, chains=4, seed=5, progress_bar=False, check=False).posterior
    good = [{name: long_run[name].values[chain].tolist() for name in ("mu", "tau")} for chain in range(4)]
    shifted = [{**chain, "mu": (np.array(chain["mu"]) + 2.0).tolist()} for chain in good]
    root = folder / "checkout/posterior_database"
    # Of the name that it has elsewhere, so that it is in the cache.
    schools = "eight_schools_noncentered"
    write(root / f"models/stan/{schools}.stan", (BENCH / f"{schools}.stan").read_text())
    write(root / "models/stan/mistake.stan", "parameters { real x }")
    add(root, "agrees", schools, data=SCHOOLS | {"of another program": 1}, draws=good)
    add(root, "differs", schools, data=SCHOOLS, draws=shifted)
    add(root, "no_data", schools, draws=good)
    add(root, "no_program", "mistake", data={}, draws=[{"x": [0.0]}])
    add(root, "no_reference", schools, data=SCHOOLS)
    command = [
        sys.executable,
        str(RUN),
        str(folder / "checkout"),
        "--all",
        "--toolchain",
        "httpstan",
        "--draws",
        "1000",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (folder / "posteriordb-results.jsonl").read_text().splitlines()
    records = {(record["posterior"], record["sampler"]): record for record in map(json.loads, lines)}
    return done.stdout, records


def test_each_posterior_has_a_verdict(report):
    printed, _ = report
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    assert {row[0]: row[-1] for row in rows[2:]} == {
        "agrees": "agrees",
        "differs": "DIFFERS",
        "no_data": "failed",
        "no_program": "failed",
        "no_reference": "no reference",
    }
    assert "1 agrees, 1 DIFFERS, 2 failed, 1 no reference" in printed


def test_reasons_of_failures_are_listed(report):
    printed, _ = report
    assert re.search(r"^- no_data, ours: failed: FileNotFoundError: there is neither .*no_data.json nor", printed, re.M)
    assert re.search(r"^- no_program, ours: failed: ValueError: .*cannot be translated", printed, re.M)


def test_averages_are_compared_in_standard_errors(report):
    _, records = report
    z = {name: records[name, "ours"]["z_mean"] for name in ("agrees", "differs")}
    assert z["agrees"] < 4.5
    # The means differ by 2, and mu has a standard deviation of about 3.3 and some thousand effective draws.
    assert z["differs"] > 10
    assert records["differs", "ours"]["worst"] == "mu"
    assert records["agrees", "ours"]["missing"] == []
    assert records["no_reference", "ours"]["z_mean"] is None
