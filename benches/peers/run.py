"""This package and its peers on the same densities in one run.

    python benches/peers/setup_envs.py
    python benches/peers/run.py --samplers ours nutpie_peer --workloads W1 W2 --seeds 10

Prints a table for each workload, medians over the seeds, and under it this package over each peer as geometric means
over the seeds. Gradients are of all chains, warm-up included unless a column says otherwise. The samplers start each
seed from the same points.
"""

import argparse
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass

import envs

#: Exit status of run_one.py where the data of a workload are not on this machine.
UNAVAILABLE = 3


@dataclass(frozen=True)
class Sampler:
    environment: str
    runner: str
    tune: int


#: The first set of workloads.py, with their dimension. Not imported, so that any Python can run this file. W5 and W7
#: have data in ../shared, and are skipped without it.
WORKLOADS = {
    "W1": "correlated Gaussian, 50",
    "W2": "item response 100 x 20, 140",
    "W3": "item response 100 x 30, 160",
    "W4": "radon, synthetic, 89",
    "W5": "tree, 33",
    "W7": "radon, varying slopes, 175",
    "W8": "ill-conditioned Gaussian, 1000",
    "W9": "Neal's funnel, 10",
    "W10": "hierarchical normal, 10000",
}

SAMPLERS = {
    "ours": Sampler("ours", "nutpie_raw", tune=400),
    "nutpie_peer": Sampler("nutpie_peer", "nutpie_raw", tune=400),
    "blackjax": Sampler("blackjax", "blackjax_nuts", tune=500),
    "numpyro": Sampler("numpyro", "numpyro_nuts", tune=1000),
    "pymc": Sampler("pymc", "pymc_nuts", tune=1000),
}


@dataclass(frozen=True)
class Column:
    title: str
    key: str
    form: str


COLUMNS = (
    Column("warm-up grads", "warmup_gradients", "{:.0f}"),
    Column("sampling grads", "sampling_gradients", "{:.0f}"),
    Column("ESS mean", "ess_mean", "{:.0f}"),
    Column("ESS min", "ess_min", "{:.0f}"),
    Column("mean/1000 grads", "mean_per_1000", "{:.2f}"),
    Column("min/1000 grads", "min_per_1000", "{:.2f}"),
    Column("max R-hat", "rhat_max", "{:.3f}"),
    Column("divergences", "divergences", "{:.0f}"),
    Column("CPU s", "cpu_seconds", "{:.2f}"),
    Column("CPU us/grad", "cpu_us_per_gradient", "{:.2f}"),
)

#: What is compared as ours over the peer's.
RATIOS = (
    Column("gradients", "gradients", "{:.2f}"),
    Column("ESS mean/grad", "mean_per_1000", "{:.2f}"),
    Column("ESS min/grad", "min_per_1000", "{:.2f}"),
    Column("sampling-only mean/grad", "mean_per_1000_sampling", "{:.2f}"),
    Column("sampling-only min/grad", "min_per_1000_sampling", "{:.2f}"),
    Column("CPU s", "cpu_seconds", "{:.2f}"),
    Column("CPU us/grad", "cpu_us_per_gradient", "{:.2f}"),
)


def collect(sampler_name, workload, python, scorer, arguments, failures):
    """Run all seeds in one process of the sampler and return scored records; note in `failures` what failed."""
    sampler = SAMPLERS[sampler_name]
    tune = sampler.tune if arguments.tune is None else arguments.tune
    folder = pathlib.Path(tempfile.mkdtemp(prefix="nutpie-peers-", dir=arguments.scratch))
    try:
        command = [python, str(envs.HERE / "run_one.py"), sampler.runner, workload, str(folder)]
        command += ["--chains", str(arguments.chains), "--draws", str(arguments.draws), "--tune", str(tune)]
        command += ["--seeds", *map(str, range(arguments.first_seed, arguments.first_seed + arguments.seeds))]
        status, failure = _execute(command, arguments.timeout)
        if status == UNAVAILABLE:
            print(f"{sampler_name} on {workload} skipped: {failure}", flush=True)
        elif failure:
            failures.append(f"{sampler_name} on {workload}")
            print(f"{failures[-1]}: {failure}", flush=True)
        scored = subprocess.run(
            [scorer, str(envs.HERE / "score.py"), str(folder)],
            env=envs.child_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        records = json.loads(scored.stdout)
    finally:
        shutil.rmtree(folder)
    return [{"sampler": sampler_name, "workload": workload, **derived(record)} for record in records]


def _execute(command, timeout):
    """Return the exit status and what went wrong, or nothing. Seeds that were done before still count."""
    try:
        done = subprocess.run(command, env=envs.child_environment(), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None, f"stopped after {timeout:.0f} s"
    if done.returncode == UNAVAILABLE:
        return done.returncode, done.stderr.strip()
    return done.returncode, f"failed:\n{done.stderr[-2000:]}" if done.returncode else ""


def derived(record):
    gradients = record["warmup_gradients"] + record["sampling_gradients"]
    sampling = max(record["sampling_gradients"], 1)
    return {
        **record,
        "gradients": gradients,
        "mean_per_1000": 1000 * record["ess_mean"] / gradients,
        "min_per_1000": 1000 * record["ess_min"] / gradients,
        "mean_per_1000_sampling": 1000 * record["ess_mean"] / sampling,
        "min_per_1000_sampling": 1000 * record["ess_min"] / sampling,
        "cpu_us_per_gradient": 1e6 * record["cpu_seconds"] / gradients,
    }


def log_ratio(numerators, denominators):
    """Mean and standard error of the log ratio over seeds (the error is NaN for a single seed)."""
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    return statistics.fmean(logs), error


def print_table(title, header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))


def print_workload(name, records):
    by_sampler = {}
    for record in records:
        if record["workload"] == name:
            by_sampler.setdefault(record["sampler"], {})[record["seed"]] = record
    rows = []
    for sampler, seeds in by_sampler.items():
        cells = [c.form.format(statistics.median(r[c.key] for r in seeds.values())) for c in COLUMNS]
        rows.append([sampler, str(len(seeds)), *cells])
    if not rows:
        return
    print_table(
        f"{name}: {WORKLOADS[name]} (median over seeds)",
        ["sampler", "seeds", *(c.title for c in COLUMNS)],
        rows,
    )
    print_ratios(name, by_sampler)


def print_ratios(name, by_sampler):
    ours = by_sampler.get("ours", {})
    rows = []
    for sampler, theirs in by_sampler.items():
        common = sorted(ours.keys() & theirs.keys())
        if sampler == "ours" or not common:
            continue
        cells = []
        for column in RATIOS:
            mean, error = log_ratio(
                [ours[seed][column.key] for seed in common], [theirs[seed][column.key] for seed in common]
            )
            cells.append(f"{math.exp(mean):.3f} ({error:.3f})")
        rows.append([f"ours / {sampler}", str(len(common)), *cells])
    if rows:
        header = ["ours / peer", "seeds", *(c.title for c in RATIOS)]
        print_table(f"{name}: geometric means (standard error of the log)", header, rows)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1", "W2", "W4"])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, help="for all samplers; by default what is usual for each")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for all seeds of a sampler on a workload")
    parser.add_argument("--scratch", type=pathlib.Path, help="folder for draws, which are deleted after use")
    parser.add_argument(
        "--save", type=pathlib.Path, help="also write the records, one for each seed, to this JSON file"
    )
    envs.add_option(parser)
    return parser.parse_args()


def main():
    arguments = parse()
    needed = {"ours", *(SAMPLERS[name].environment for name in arguments.samplers)}
    pythons = envs.interpreters(sorted(needed), arguments.env)
    records, failures = [], []
    for workload in arguments.workloads:
        for name in arguments.samplers:
            python = pythons[SAMPLERS[name].environment]
            records += collect(name, workload, python, pythons["ours"], arguments, failures)
        print_workload(workload, records)
    if arguments.save:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        arguments.save.write_text(json.dumps(records, indent=1))
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
