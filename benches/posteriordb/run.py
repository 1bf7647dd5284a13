"""All posteriors of a checkout of posteriordb: compile, sample, compare with the reference draws, and print one table.

    python benches/posteriordb/run.py ~/posteriordb
    python benches/posteriordb/run.py ~/posteriordb --only eight_schools kidiq --peer nutpie_peer=PYTHON
    python benches/posteriordb/run.py ~/posteriordb --samplers nuts mams auto

It runs unattended. Programs are compiled side by side first. Each posterior then is sampled in a process of its own
with a limit of time; what fails is listed below the table with the reason, and the rest goes on. Results are written to
a file as they come, and those in it are not made again, so that a run which was broken off goes on where it was; what
failed is tried again.

A posterior agrees with its reference if no average and no average of squares is further than 5 standard errors away,
which by chance about one average in a million is. Where R-hat exceeds 1.05 there is nothing to compare.
`--peer NAME=PYTHON` runs a peer in its own environment on the same data: nutpie_peer, the older package of our name
with the packages bridgestan and arviz, which gets the library that was compiled here; or pystan.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from database import Posterior, posteriors
from score import score

WORKER = Path(__file__).with_name("worker.py")

#: Standard errors above which an average does not agree.
LIMIT = 5.0

#: R-hat above which chains do not agree with each other, so that there is nothing to compare.
MAX_RHAT = 1.05

#: Characters of the reason of a failure.
REASON = 300


def main() -> int:
    arguments = parsed()
    chosen = [p for p in posteriors(arguments.checkout) if selected(p, arguments)]
    if not chosen:
        raise SystemExit("no posterior is left; see --only and --all")
    results = Results(arguments.results)
    samplers = {ours(kernel): sys.executable for kernel in arguments.samplers} | dict(
        peer.split("=", 1) for peer in arguments.peer
    )
    print(f"{len(chosen)} posteriors; results go to {arguments.results}", flush=True)
    compile_all(chosen, arguments, results)
    for number, posterior in enumerate(chosen, 1):
        for sampler, python in samplers.items():
            if "error" in (results.get(posterior.name, sampler) or {"error": "not run"}):
                record = sampled(posterior, sampler, python, arguments, results)
                results.add(posterior.name, sampler, record)
            record = results.get(posterior.name, sampler) or {}
            print(f"{number}/{len(chosen)} {posterior.name} {sampler}: {line_of(record)}", flush=True)
    print_table(chosen, list(samplers), results)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the checkout")
    parser.add_argument("--only", nargs="+", default=[], help="posteriors whose names contain one of these")
    parser.add_argument("--all", action="store_true", help="also posteriors without reference draws")
    parser.add_argument("--toolchain", default="auto", help="as of nutpie.compile_stan_model; a path must be absolute")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--tune", type=int, default=None, help="default: that of each sampler")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="programs that are compiled at once")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each program, and for each run")
    parser.add_argument("--samplers", nargs="+", default=["nuts"], help="samplers of this package")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--results", type=Path, default=Path("posteriordb-results.jsonl"))
    return parser.parse_args()


def ours(kernel: str) -> str:
    """Name in the table of a sampler of this package."""
    return "ours" if kernel == "nuts" else f"ours:{kernel}"


def selected(posterior: Posterior, arguments: argparse.Namespace) -> bool:
    if not arguments.all and posterior.reference is None:
        return False
    return not arguments.only or any(part in posterior.name for part in arguments.only)


class Results:
    """A record for each posterior and sampler, in a file of lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.is_file() else ():
            record = json.loads(line)
            self._records[record["posterior"], record["sampler"]] = record

    def get(self, posterior: str, sampler: str) -> dict[str, Any] | None:
        return self._records.get((posterior, sampler))

    def add(self, posterior: str, sampler: str, record: dict[str, Any]) -> None:
        record = {"posterior": posterior, "sampler": sampler, **record}
        self._records[posterior, sampler] = record
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def compile_all(chosen: list[Posterior], arguments: argparse.Namespace, results: Results) -> None:
    """Compile the programs of which no result is known, each once, some at once."""
    programs: dict[Path, list[Posterior]] = {}
    for posterior in chosen:
        known = results.get(posterior.name, "compile")
        # A library may have gone from the cache since.
        if known is None or not Path(known.get("library", "")).is_file():
            programs.setdefault(posterior.program, []).append(posterior)

    def one(program: Path) -> dict[str, Any]:
        request = {"program": str(program), "toolchain": arguments.toolchain}
        return facts_of(worker("compile", sys.executable, request, arguments.timeout))

    with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        for (program, users), record in zip(programs.items(), pool.map(one, programs), strict=True):
            print(f"compiled {program.stem}: {compiled_line(record)}", flush=True)
            for posterior in users:
                results.add(posterior.name, "compile", record)


def compiled_line(record: dict[str, Any]) -> str:
    return f"failed: {record['error']}" if "error" in record else f"{record['compile_s']:.1f} s"


def sampled(
    posterior: Posterior, sampler: str, python: str, arguments: argparse.Namespace, results: Results
) -> dict[str, Any]:
    """Sample, and compare with the reference; an error of any kind is a record, too."""
    compiled = results.get(posterior.name, "compile") or {}
    if "error" in compiled and sampler != "pystan":
        return {"error": compiled["error"]}
    try:
        reference = posterior.read_reference() if posterior.reference else None
        data = posterior.read_data()
    except (OSError, ValueError, KeyError, IndexError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    request = {
        "program": str(posterior.program),
        "toolchain": arguments.toolchain,
        "library": compiled.get("library"),
        "data": data,
        "names": None if reference is None else list(reference),
        **{name: getattr(arguments, name) for name in ("draws", "tune", "chains", "seed")},
    }
    found = worker(sampler, python, request, arguments.timeout)
    record = facts_of(found)
    if "error" not in record:
        draws = {name: values for name, values in found.items() if name != "facts"}
        record |= dataclasses.asdict(score(draws, reference))
    return record


def worker(sampler: str, python: str, request: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run `worker.py`; its arrays and facts, or an error."""
    with tempfile.TemporaryDirectory(prefix="nutpie-posteriordb-") as folder:
        request_path, result_path = Path(folder) / "request.json", Path(folder) / "result.npz"
        request_path.write_text(json.dumps(request))
        command = [python, str(WORKER), sampler, str(request_path), str(result_path)]
        started = time.perf_counter()
        # A peer of our name must not find this package.
        environment = {k: v for k, v in os.environ.items() if python == sys.executable or k != "PYTHONPATH"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, cwd=folder, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {limit:.0f} s"}
        if done.returncode or not result_path.is_file():
            ended = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
            seconds = time.perf_counter() - started
            return {"error": f"{reason_of(done.stderr)} ({ended}, after {seconds:.0f} s)"}
        with np.load(result_path) as arrays:
            return dict(arrays)


def reason_of(errors: str) -> str:
    """The exception at the end of a traceback, on one line."""
    lines = errors.strip().splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith("  File ")), default=-2)
    text = " ".join(" ".join(lines[last + 2 :]).split()).lstrip("^~ ")
    return text[:REASON] or "no message"


def facts_of(found: dict[str, Any]) -> dict[str, Any]:
    return found if "error" in found else json.loads(str(found["facts"]))


def verdict(record: dict[str, Any]) -> str:
    if "error" in record:
        return "failed"
    if not record["rhat_max"] <= MAX_RHAT:
        return "NOT CONVERGED"
    if record.get("z_mean") is None:
        return "no reference"
    return "agrees" if max(record["z_mean"], record["z_square"]) <= LIMIT else "DIFFERS"


def line_of(record: dict[str, Any]) -> str:
    if "error" in record:
        return f"failed: {record['error']}"
    z = "" if record.get("z_mean") is None else f", |z| {record['z_mean']:.2f} and {record['z_square']:.2f}"
    return f"{verdict(record)}, {record['sample_s']:.1f} s, R-hat {record['rhat_max']:.3f}{z}"


PROBLEMS = ("failed", "DIFFERS", "NOT CONVERGED")

#: Least or mean effective sample sizes, for 1000 gradients.
SIZES = {
    "ess_min": "ESS/1000 grads",
    "ess_mean": "mean",
    "ess_tail_min": "tail",
    "ess_square_min": "squares",
}

HEAD = ("posterior", "sampler", "dim", "compile s", "sample s", "gradients", "diverging", "R-hat", "ESS min",
        *SIZES.values(), "ESS/s", "max |z| mean", "max |z| square", "verdict")  # fmt: skip


def row(posterior: Posterior, sampler: str, results: Results) -> list[str]:
    record = results.get(posterior.name, sampler) or {"error": "not run"}
    compiled = results.get(posterior.name, "compile") or {}
    seconds = f"{compiled['compile_s']:.1f}" if sampler.startswith("ours") and "compile_s" in compiled else ""
    if "error" in record:
        return [posterior.name, sampler, "", seconds, *[""] * (len(HEAD) - 5), "failed"]
    z = ["" if record.get(key) is None else f"{record[key]:.2f}" for key in ("z_mean", "z_square")]
    return [
        posterior.name,
        sampler,
        str(record["dim"] or ""),
        seconds,
        f"{record['sample_s']:.2f}",
        str(record["gradients"]),
        str(record["divergences"]),
        f"{record['rhat_max']:.3f}",
        f"{record['ess_min']:.0f}",
        *(f"{1000 * record[key] / max(record['gradients'], 1):.1f}" if key in record else "" for key in SIZES),
        f"{record['ess_min'] / record['sample_s']:.0f}",
        *z,
        verdict(record),
    ]


def print_table(chosen: list[Posterior], samplers: list[str], results: Results) -> None:
    rows = [row(posterior, sampler, results) for posterior in chosen for sampler in samplers]
    print("\n| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
    for cells in rows:
        print("| " + " | ".join(cells) + " |")
    records = [(p.name, s, results.get(p.name, s) or {"error": "not run"}) for p in chosen for s in samplers]
    for sampler in samplers:
        verdicts = [verdict(record) for _, name, record in records if name == sampler]
        print(f"\n{sampler}: " + ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)))
    for other in samplers[1:]:
        ratios = [ratio for p in chosen if (ratio := ess_ratio(p, samplers[0], other, results)) is not None]
        if ratios:
            median = f"median {statistics.median(ratios):.2f} of {len(ratios)}"
            print(f"ESS for each gradient, {samplers[0]} over {other}: {median}")
    problems = [(*which, line_of(record)) for *which, record in records if verdict(record) in PROBLEMS]
    notes = [
        (name, s, f"not among our variables: {', '.join(r['missing'][:5])}")
        for name, s, r in records
        if r.get("missing")
    ]
    for name, sampler, text in [*problems, *notes]:
        print(f"- {name}, {sampler}: {text}")


def ess_ratio(posterior: Posterior, first: str, other: str, results: Results) -> float | None:
    both = [results.get(posterior.name, sampler) for sampler in (first, other)]
    if any(record is None or "error" in record for record in both):
        return None
    one, two = (record["ess_min"] / record["gradients"] for record in both if record)
    return one / two


if __name__ == "__main__":
    sys.exit(main())
