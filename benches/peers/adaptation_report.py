"""Tables of the results of `adaptation.py`; only the standard library."""

import math
import statistics

#: A run whose R-hat is above this has not converged.
BAD_RHAT = 1.05

SETS = ("peerbench", "posteriordb", "heldout")


def one_line(record):
    head = f"{record['workload']:36s} {record['sampler']:24s} seed {record['seed']:<3d}"
    if record["status"] != "ok":
        return f"{head} FAILED: {record['message']}"
    return (
        f"{head} {record['wall_seconds']:6.2f} s  gradients {record['warmup_gradients']} + "
        f"{record['sampling_gradients']}  ESS {record['ess_min']:.0f}  R-hat {record['rhat_max']:.3f}"
    )


def per_1000(key, *, warmup=True):
    """ESS per 1,000 gradients, with those of the warm-up or without."""

    def measure(record):
        gradients = record["sampling_gradients"] + (record["warmup_gradients"] if warmup else 0)
        return 1000.0 * max(min(record[k] for k in key), 1.0) / max(gradients, 1)

    return measure


#: Measures of a run, of which the geometric mean over seeds counts. All but the last are the better the greater.
MEASURES = {
    "min": per_1000(["ess_min"]),
    "mean": per_1000(["ess_mean"]),
    "min x,x^2": per_1000(["ess_min", "ess_square_min"]),
    "min late": per_1000(["ess_min"], warmup=False),
    "mean late": per_1000(["ess_mean"], warmup=False),
    "warm-up": lambda record: max(record["warmup_gradients"], 1),
}


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def by_cell(records):
    """Records by set, workload, sampler and seed; the last of a run counts."""
    cells = {}
    for record in records:
        place = cells.setdefault(record["set"], {}).setdefault(record["workload"], {})
        seeds = place.setdefault(record["sampler"], {})
        seeds[record["seed"], record["chains"], record["draws"]] = record
    return cells


def summary(records):
    """What a cell of the tables shows of the runs of one sampler on one workload; without the failed runs."""
    good = [record for record in records if record["status"] == "ok"]
    found = {"runs": len(good), "failed": len(records) - len(good)}
    if good:
        found |= {name: geometric_mean([measure(r) for r in good]) for name, measure in MEASURES.items()}
        found |= {
            "sampling": geometric_mean([max(r["sampling_gradients"], 1) for r in good]),
            "rhat": max(r["rhat_max"] for r in good),
            "bad": sum(not r["rhat_max"] <= BAD_RHAT for r in good),
            "divergences": statistics.fmean(r["divergences"] for r in good),
            "tune": statistics.median(r["tune"] for r in good),
            "cpu": statistics.median(r["cpu_seconds"] for r in good),
            "z": max((r["z_max"] for r in good if "z_max" in r), default=None),
        }
        found["estimates"] = pooled(good)
    return found


def pooled(records):
    """Mean over the runs, and its error, by quantity, with (mean, error) of the reference where there is one."""
    out = {}
    for name in records[0]["estimates"]:
        found = [record["estimates"][name] for record in records]
        error = math.sqrt(sum(e[1] ** 2 for e in found)) / len(found)
        out[name] = (statistics.fmean(e[0] for e in found), error, *found[0][2:4])
    return out


def worst_z(estimates, reference):
    """Largest deviation, in errors of both, of estimates by name from others; nothing without any in common."""
    worst = None
    for name, (mean, error, *_) in estimates.items():
        if name in reference:
            other_mean, other_error = reference[name]
            total = math.hypot(error, other_error)
            z = abs(mean - other_mean) / total if total > 0 else math.inf
            worst = z if worst is None or not z <= worst else worst
    return worst


def truth(summaries):
    """Reference means with errors: of the workload, or else of the better mode of the peer where it converged."""
    for found in summaries.values():
        given = {name: e[2:4] for name, e in found.get("estimates", {}).items() if len(e) == 4}
        if given:
            return given
    best = best_peer(summaries, "min")
    if best is None or summaries[best]["bad"]:
        return {}
    return {name: e[:2] for name, e in summaries[best]["estimates"].items()}


def best_peer(summaries, measure):
    peers = [name for name, found in summaries.items() if name.startswith("peer:") and found["runs"]]
    return max(peers, key=lambda name: summaries[name][measure], default=None)


HEADER = (
    "sampler", "runs", "failed", "min", "mean", "min x,x^2", "min late", "mean late", "max R-hat", "R-hat>1.05",
    "tune", "warm-up", "sampling", "diverg.", "CPU s", "worst z", "pooled z",
)  # fmt: skip


def row(name, found, reference, is_reference):
    head = [name, str(found["runs"]), str(found["failed"])]
    if not found["runs"]:
        return [*head, *[""] * (len(HEADER) - 3)]
    z = None if is_reference else worst_z(found["estimates"], reference)
    return [
        *head,
        *(f"{found[name]:.3g}" for name in list(MEASURES)[:5]),
        f"{found['rhat']:.3f}",
        str(found["bad"]),
        f"{found['tune']:.0f}",
        f"{found['warm-up']:.0f}",
        f"{found['sampling']:.0f}",
        f"{found['divergences']:.0f}",
        f"{found['cpu']:.2f}",
        "" if found["z"] is None else f"{found['z']:.1f}",
        "" if z is None else f"{z:.1f}",
    ]


def print_table(title, header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for cells in [header, *rows]:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        print("  ".join(padded).rstrip())


def print_workload(title, summaries):
    reference = truth(summaries)
    exact = any(len(e) == 4 for found in summaries.values() for e in found.get("estimates", {}).values())
    standard = None if exact else best_peer(summaries, "min")
    rows = [row(name, found, reference, name == standard) for name, found in summaries.items()]
    print_table(title, list(HEADER), rows)


def comparable(name, workloads):
    """The workloads on which both the sampler and a mode of the peer have a result."""
    return {
        workload: summaries
        for workload, summaries in workloads.items()
        if name in summaries and summaries[name]["runs"] and best_peer(summaries, "min")
    }


def ratios(name, workloads, measure):
    """Ratios by workload of a sampler to the better mode of the peer, on comparable workloads.

    Warm-up gradients are compared with those of the mode that has the better minimum ESS.
    """
    by = "min" if measure == "warm-up" else measure
    return {
        workload: summaries[name][measure] / summaries[best_peer(summaries, by)][measure]
        for workload, summaries in workloads.items()
    }


def is_sound(name, summaries):
    """Whether all runs of the sampler and of the peer's better mode have converged."""
    best = best_peer(summaries, "min")
    return all(not summaries[s]["bad"] and not summaries[s]["failed"] for s in (name, best))


def print_ratios(title, workloads):
    samplers = sorted({name for summaries in workloads.values() for name in summaries if name.startswith("ours:")})
    rows, notes = [], []
    for name in samplers:
        known = comparable(name, workloads)
        sound = {workload: summaries for workload, summaries in known.items() if is_sound(name, summaries)}
        for label, kept in (("all", known), ("converged", sound)):
            if kept:
                found = {measure: ratios(name, kept, measure) for measure in MEASURES}
                means = [f"{geometric_mean(values.values()):.3f}" for values in found.values()]
                worst = min(kept, key=found["min"].get)
                rows.append([name, label, str(len(kept)), *means, f"{found['min'][worst]:.2f} {worst}"])
        missing = [workload for workload in workloads if name in workloads[workload] and workload not in known]
        if known and missing:
            notes.append(f"{name} has no ratio on {', '.join(missing)}")
    if rows:
        print_table(title, ["sampler", "workloads", "number", *MEASURES, "least of min"], rows)
    for note in notes:
        print(note)


def print_failures(records):
    failed = {}
    for record in records:
        if record["status"] != "ok":
            failed.setdefault((record["workload"], record["sampler"], record["message"]), []).append(record["seed"])
    if failed:
        print("\nfailed runs")
    for (workload, sampler, message), seeds in failed.items():
        print(f"{workload} {sampler} seeds {', '.join(map(str, seeds))}: {message}")


def print_overview(title, workloads):
    """One line for each workload: minimum ESS per 1,000 gradients, and ratios to the better mode of the peer."""
    samplers = sorted({name for summaries in workloads.values() for name in summaries})
    ours = [name for name in samplers if name.startswith("ours:")]
    rows = []
    for workload, summaries in workloads.items():
        cells = [workload]
        for name in samplers:
            found = summaries.get(name, {"runs": 0, "failed": 0})
            marks = ("*" if found.get("bad") else "") + ("!" if found["failed"] else "")
            cells.append((f"{found['min']:.3g}" if found["runs"] else "") + marks)
        for name in ours:
            found = ratios(name, comparable(name, {workload: summaries}), "min")
            cells.append(f"{found[workload]:.2f}" if found else "")
        rows.append(cells)
    print_table(title, ["workload", *samplers, *(f"{name} / peer" for name in ours)], rows)


def print_report(records, *, full):
    cells = by_cell(records)
    all_summaries = {}
    for workload_set in SETS:
        for workload, samplers in cells.get(workload_set, {}).items():
            summaries = {name: summary(list(seeds.values())) for name, seeds in sorted(samplers.items())}
            all_summaries.setdefault(workload_set, {})[workload] = summaries
            dim = next((r["dim"] for seeds in samplers.values() for r in seeds.values() if "dim" in r), "?")
            if full:
                print_workload(f"{workload} ({workload_set}, {dim} parameters)", summaries)
    print("\nESS per 1,000 gradients, geometric mean over seeds; late: without the warm-up and its gradients.")
    if full:
        print("z: deviation of means in errors, of the worst run and of all runs pooled; from the reference, or else")
        print("(pooled) from the better mode of the peer. CPU s: median, all chains.")
    for workload_set, workloads in all_summaries.items():
        title = f"{workload_set}: minimum ESS per 1,000 gradients; *: a run has R-hat above {BAD_RHAT}, !: a run failed"
        print_overview(title, workloads)
        print_ratios(f"{workload_set}: over the better mode of the peer, geometric mean over workloads", workloads)
    print_failures([r for sets in cells.values() for w in sets.values() for s in w.values() for r in s.values()])
