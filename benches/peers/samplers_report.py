"""Tables of a comparison of samplers, in Markdown: what results of `adaptation.py` say of each posterior.

    python benches/peers/adaptation.py run --results ours.jsonl \\
        --samplers ours:auto "ours:auto?sampler=mams" "ours:auto?sampler=auto"
    python benches/peers/adaptation.py run --results peer.jsonl --samplers peer:diag peer:low_rank
    python benches/peers/samplers_report.py ours.jsonl peer.jsonl > benches/peers/samplers.md

Effective sample sizes are for 1,000 gradients, those of the warm-up included, and geometric means over seeds. The last
column is the ratio of `auto` to the better of the peer's modes.
"""

import argparse
import collections
import json
import math
import pathlib

SAMPLERS = {
    "ours:auto": "nuts",
    "ours:auto?sampler=mams": "mams",
    "ours:auto?sampler=auto": "auto",
    "peer:diag": "peer, diag",
    "peer:low_rank": "peer, low rank",
}
OURS, PEER = "auto", ("peer, diag", "peer, low rank")
SETS = ("peerbench", "posteriordb", "heldout")
MEASURES = {
    "Least bulk ESS": lambda run: run["ess_min"],
    "Mean bulk ESS": lambda run: run["ess_mean"],
    "Least tail ESS": lambda run: run["ess_tail_min"],
    "Least ESS of squares": lambda run: run["ess_square_min"],
    "Least ESS of values and squares": lambda run: min(run["ess_min"], run["ess_square_min"]),
}
#: R-hat above which a run has failed.
CONVERGED = 1.05


def geometric_mean(values):
    """Of a list; None of an empty one."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def per_gradient(runs, measure):
    """Effective draws for 1,000 gradients; None where no run has the measure."""
    found = []
    for run in runs:
        try:
            draws = max(measure(run), 1.0)
        except KeyError:
            continue
        found.append(1000 * draws / (run["warmup_gradients"] + run["sampling_gradients"]))
    return geometric_mean(found)


def text(number):
    """Three digits."""
    if number is None:
        return "-"
    return f"{number:.0f}" if number >= 99.5 else f"{number:.1f}" if number >= 0.95 else f"{number:.2f}"


def row(*cells):
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def header(*cells):
    """The first two lines of a table."""
    return [row(*cells), "|" + " --- |" * len(cells)]


def ratio(values):
    """Of `auto` to the better mode of the peer, from the values of all samplers by name."""
    peer = [values[name] for name in PEER if values[name] is not None]
    return values[OURS] / max(peer) if peer and values[OURS] is not None else None


def effective_draws(runs, sets, title, measure):
    """The table of one measure."""
    lines = [f"## {title} for 1,000 gradients", "", *header("posterior", *SAMPLERS.values(), "auto / peer")]
    table = {}
    for name in sorted(runs, key=lambda name: (SETS.index(sets[name]), name)):
        values = {sampler: per_gradient(runs[name][sampler], measure) for sampler in SAMPLERS.values()}
        table[name] = values
        lines.append(row(name, *map(text, values.values()), text(ratio(values))))
    for group in (*SETS, "all"):
        # Of posteriors where all samplers were measured, so that columns are comparable.
        chosen = [v for name, v in table.items() if group in (sets[name], "all") and None not in v.values()]
        means = [geometric_mean([v[sampler] for v in chosen]) for sampler in SAMPLERS.values()]
        ratios = geometric_mean([ratio(v) for v in chosen])
        lines.append(row(f"*{group}: geometric mean of {len(chosen)}*", *map(text, means), text(ratios)))
    return lines


def failures(runs):
    """The table of failed runs."""
    lines = [f"## Failed runs (an error, or R-hat above {CONVERGED})", "", *header("posterior", *SAMPLERS.values())]
    failed, total = collections.Counter(), collections.Counter()
    for name, found in sorted(runs.items()):
        cells = []
        for sampler in SAMPLERS.values():
            bad = sum(not run.get("rhat_max", math.inf) <= CONVERGED for run in found[sampler])
            failed[sampler] += bad
            total[sampler] += len(found[sampler])
            cells.append((bad, len(found[sampler])))
        if any(bad for bad, _ in cells):
            lines.append(row(name, *(f"{bad}/{n}" for bad, n in cells)))
    return [*lines, row("*all*", *(f"{failed[sampler]}/{total[sampler]}" for sampler in SAMPLERS.values()))]


def errors(runs):
    """The table of deviations from references."""
    lines = [
        "## Deviations of means from the references of posteriordb",
        "",
        "In standard errors: root mean square over parameters and seeds, and the largest. In the tails of",
        "one_comp_mm_elim_abs Monte-Carlo errors are too small, those of the references too. Some starts of",
        "lotka_volterra are in another mode.",
        "",
        *header("posterior", *SAMPLERS.values()),
    ]
    for name, found in sorted(runs.items()):
        cells = []
        for sampler in SAMPLERS.values():
            estimates = [e for run in found[sampler] for e in (run.get("estimates") or {}).values() if len(e) >= 4]
            z = [(mean - reference) / math.hypot(error, other) for mean, error, reference, other, *_ in estimates]
            rms = math.sqrt(sum(x * x for x in z) / len(z)) if z else None
            cells.append(f"{rms:.2f}, {max(map(abs, z)):.1f}" if z else "-")
        if any(cell != "-" for cell in cells):
            lines.append(row(name, *cells))
    return lines


def main():
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", type=pathlib.Path, nargs="+", help="results; of a run that is in two, the first counts"
    )
    seen = {}
    for file in parser.parse_args().files:
        for line in file.read_text().splitlines():
            run = json.loads(line)
            if run["sampler"] in SAMPLERS:
                seen.setdefault((run["workload"], run["sampler"], run["seed"]), run)
    runs = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in seen.values():
        runs[run["workload"]][SAMPLERS[run["sampler"]]].append(run)
    sets = {run["workload"]: run["set"] for run in seen.values()}
    ended = {
        name: {sampler: [run for run in found[sampler] if run["status"] == "ok"] for sampler in SAMPLERS.values()}
        for name, found in runs.items()
    }
    parts = [effective_draws(ended, sets, title, measure) for title, measure in MEASURES.items()]
    parts += [failures(runs), errors(ended)]
    print("# Samplers on each posterior\n\nMade by `samplers_report.py`, which says what the numbers are.\n")
    print("\n\n".join("\n".join(part) for part in parts))


if __name__ == "__main__":
    main()
