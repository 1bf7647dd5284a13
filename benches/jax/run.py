"""NumPyro models sampled by this package, NumPyro and BlackJAX, in one process, one after the other for each seed.

    pip install "nutpie[numpyro]" blackjax hyperiax
    python benches/jax/run.py --problems logistic hierarchy tree --chains 4 64 --seeds 3

Prints medians over the seeds. Gradients and times have the warm-up in them, of which NumPyro and BlackJAX get
`--tune` draws and this package chooses its own; compilation is left out. All compute in double precision. ESS is the
smallest bulk ESS of the unconstrained parameters.
"""

import argparse
import json
import pathlib
import statistics
import sys

import jax

jax.config.update("jax_enable_x64", True)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))

import measures  # noqa: E402
from problems import PROBLEMS  # noqa: E402
from samplers import SAMPLERS  # noqa: E402

COLUMNS = {
    "gradients": "{:.0f}",
    "ess": "{:.0f}",
    "ess_per_1000": "{:.2f}",
    "ess_per_second": "{:.1f}",
    "ess_per_cpu_second": "{:.1f}",
    "us_per_gradient": "{:.1f}",
    "rhat": "{:.3f}",
    "divergences": "{:.0f}",
}


def record(run):
    scores = measures.score(run.draws)
    return {
        "gradients": run.gradients,
        "ess": scores["ess_min"],
        "ess_per_1000": 1000 * scores["ess_min"] / run.gradients,
        "ess_per_second": scores["ess_min"] / run.seconds,
        "ess_per_cpu_second": scores["ess_min"] / run.cpu_seconds,
        "us_per_gradient": 1e6 * run.cpu_seconds / run.gradients,
        "rhat": scores["rhat_max"],
        "divergences": run.divergences,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--chains", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, default=1000, help="warm-up draws of NumPyro and BlackJAX")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=pathlib.Path, help="append each run as a line of JSON to this file")
    arguments = parser.parse_args()
    for problem in arguments.problems:
        model = PROBLEMS[problem]()
        for chains in arguments.chains:
            runs = {name: SAMPLERS[name](model, chains, arguments.draws, arguments.tune) for name in arguments.samplers}
            found = {name: [] for name in runs}
            for seed in range(1, arguments.seeds + 1):
                for name, run in runs.items():
                    found[name].append(record(run(seed)))
                    if arguments.save:
                        line = {"problem": problem, "chains": chains, "sampler": name, "seed": seed, **found[name][-1]}
                        with arguments.save.open("a") as file:
                            file.write(json.dumps(line) + "\n")
            print_table(f"{problem}, {chains} chains of {arguments.draws} draws", found)


def print_table(title, found):
    print(f"\n{title} (median of {len(next(iter(found.values())))} seeds)")
    print(f"{'':10}" + "".join(f"{name:>20}" for name in COLUMNS))
    for name, records in found.items():
        cells = [form.format(statistics.median(r[key] for r in records)) for key, form in COLUMNS.items()]
        print(f"{name:10}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
