"""Laplace marginals by this package beside BlackJAX: ESS of 1000 draws, and seconds of a gradient.

    python benches/laplace/run.py --ours PYTHON --blackjax PYTHON [--seeds 4] [--most 100000] [--results FILE]

Each measurement is a process of its own; the two packages take turns. BlackJAX is at the version of
``benches/peers/requirements/blackjax.txt``, its environment that of ``benches/peers/setup_envs.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import models
import numpy as np

HERE = Path(__file__).resolve().parent

#: Seconds after which a measurement is given up.
PATIENCE = 500

#: Latent variables above which BlackJAX, whose Hessian is dense, is not tried.
MOST_DENSE = 1000


def measure(python: str, *arguments: object) -> dict:
    """Run one measurement; what went wrong is in ``error``."""
    command = [python, str(HERE / "worker.py"), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {PATIENCE} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def ess(python: str, draws: np.ndarray) -> dict:
    """Bulk and tail ESS by ArviZ in the environment of this package."""
    code = (
        "import sys, json, numpy as np, arviz as az; x = np.load(sys.argv[1])[None];"
        "print(json.dumps([float(az.ess(x, method=m)) for m in ('bulk', 'tail')]))"
    )
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, draws)
        out = subprocess.run([python, "-c", code, file.name], capture_output=True, text=True, check=True).stdout
    bulk, tail = json.loads(out)
    return {"bulk": bulk, "tail": tail}


def run_ess(options: argparse.Namespace, write) -> None:
    pairs = [("blackjax", "laplace_hmc"), ("blackjax", "laplace_mhmc"), *(("ours", name) for name in options.samplers)]
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for package, sampler in (pair for pair in pairs if pair[0] in options.packages):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "draws.npy"
                found = measure(getattr(options, package), package, "ess", sampler, seed, file)
                if "error" not in found:
                    draws = np.load(file)
                    found |= ess(options.ours, draws) | {"mean": float(draws.mean()), "sd": float(draws.std())}
            write({"what": "ess", "package": package, "sampler": sampler, "seed": seed} | found)


def run_seconds(options: argparse.Namespace, write) -> None:
    for structure, sizes in models.SIZES.items():
        for n in (n for n in sizes if n <= options.most):
            for package in options.packages:
                if package == "blackjax" and n > MOST_DENSE:
                    continue
                found = measure(getattr(options, package), package, "seconds", structure, n)
                write({"what": "seconds", "package": package, "structure": structure, "n": n} | found)


def report(rows: list[dict]) -> str:
    """Tables in Markdown."""
    mean, sd = models.exact_moments()
    lines = [f"phi by quadrature: mean {mean:.3f}, sd {sd:.3f}", ""]
    lines += ["| sampler | ESS bulk | ESS tail | gradients | inner evaluations | ESS / 1000 inner | mean | sd |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    drawn = [row for row in rows if row["what"] == "ess"]
    for key in dict.fromkeys((row["package"], row["sampler"]) for row in drawn):
        mine = [row for row in drawn if (row["package"], row["sampler"]) == key]
        lines.append(_ess_line(" ".join(key), mine))
    titles = ["structure", "n", "ours ms, 1 point", "ours ms, 4 points", "Newton", "ours build s, MiB"]
    lines += ["", f"| {' | '.join([*titles, 'BlackJAX ms', 'BlackJAX MiB'])} |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    by = {(row["package"], row["structure"], row["n"]): row for row in rows if row["what"] == "seconds"}
    for package, structure, n in by:
        if package == "ours":
            lines.append(_seconds_line(structure, n, by[package, structure, n], by.get(("blackjax", structure, n))))
    return "\n".join(lines)


def _ess_line(name: str, rows: list[dict]) -> str:
    if any("error" in row for row in rows):
        return f"| {name} | {next(row['error'] for row in rows if 'error' in row)} |"

    def spread(key: str) -> str:
        values = [row[key] for row in rows]
        return f"{min(values):.0f} to {max(values):.0f}"

    each = np.mean([1000 * row["bulk"] / row["inner"] for row in rows])
    counts = f"{spread('gradients')} | {spread('inner')}"
    moments = f"{np.mean([row['mean'] for row in rows]):.3f} | {np.mean([row['sd'] for row in rows]):.3f}"
    return f"| {name} | {spread('bulk')} | {spread('tail')} | {counts} | {each:.0f} | {moments} |"


def _seconds_line(structure: str, n: int, ours: dict, peer: dict | None) -> str:
    if "error" in ours:
        return f"| {structure} | {n} | {ours['error']} |"
    theirs = "not tried |" if peer is None else peer.get("error", "") + " |"
    if peer is not None and "error" not in peer:
        theirs = f"{peer['least_ms']:.3g} | {peer['peak_mib']:.0f}"
    mine = f"{ours['least_ms_1']:.3g} | {ours['least_ms_4']:.3g} | {ours['newton']:.1f}"
    return f"| {ours['structure']} | {n} | {mine} | {ours['build_s']:.1f}, {ours['peak_mib']:.0f} | {theirs} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default=sys.executable)
    parser.add_argument("--blackjax", default=str(HERE.parent / "peers/.envs/blackjax/bin/python"))
    parser.add_argument("--packages", nargs="*", default=["ours", "blackjax"], choices=("ours", "blackjax"))
    parser.add_argument(
        "--samplers",
        nargs="*",
        default=["nuts", "hmc", "hmc:static:2"],
        help="of this package; with trajectory and length after colons",
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--only", choices=("ess", "seconds"))
    parser.add_argument("--results", type=Path, help="lines of JSON; those that are there are reported as well")
    options = parser.parse_args()
    rows = []
    if options.results and options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]

    def write(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")

    for what, run in (("ess", run_ess), ("seconds", run_seconds)):
        if options.only in (None, what):
            run(options, write)
    print(report(rows))


if __name__ == "__main__":
    main()
