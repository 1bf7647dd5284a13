"""Warm-ups of this package and of nutpie 0.16, on three sets of densities in one unattended run.

    python benches/peers/adaptation.py run --results peer.jsonl --samplers peer:diag peer:low_rank
    python benches/peers/adaptation.py run --results ours.jsonl --samplers ours:diag --also peer.jsonl
    python benches/peers/adaptation.py report ours.jsonl peer.jsonl

A sampler is `ours:ADAPTATION`, with further settings as in `ours:diag?tune=200&target_accept=0.9`, `peer:diag` (400
warm-up draws) or `peer:low_rank` (800). Each run is a line of the file of results; runs that are there already are not
done again, so a run that was cut off can be started anew. Failures and time-outs are lines too.
"""

import argparse
import concurrent.futures
import json
import pathlib
import queue
import select
import subprocess
import sys
import tempfile
import threading
import urllib.parse

import adaptation_report
import envs

PEER = {
    "diag": (400, {}),
    "low_rank": (800, {"low_rank_modified_mass_matrix": True}),
}

#: Seconds for the compilation of a density.
PREPARE_TIMEOUT = 600


def parse_sampler(name):
    """Environment, warm-up draws and keywords of a sampler such as `ours:diag?tune=200`."""
    kind, _, rest = name.partition(":")
    mode, _, query = rest.partition("?")
    options = {}
    for key, text in urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        try:
            options[key] = json.loads(text)
        except json.JSONDecodeError:
            options[key] = text
    if kind == "ours" and mode:
        return "ours", options.pop("tune", None), {"adaptation": mode, **options}
    if kind == "peer" and mode in PEER:
        tune, mode_options = PEER[mode]
        return "nutpie_peer", options.pop("tune", tune), {**mode_options, **options}
    raise argparse.ArgumentTypeError(f"{name!r} is not ours:ADAPTATION, peer:diag or peer:low_rank")


class WorkerError(Exception):
    """A worker died or took too long."""


class Worker:
    """A process of `adaptation_worker.py`; started when first asked, and again after it was lost."""

    def __init__(self, python):
        self._python = python
        self._process = None
        self._prepared = None

    def ask(self, request, timeout):
        if self._process is None:
            self._start()
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")[-500:]
        self.close()
        raise WorkerError(f"the process died: {errors}" if ready else f"stopped after {timeout:.0f} s")

    def run(self, workload, request, timeout):
        """Reply to one run, of which the compilation does not count."""
        if self._prepared != workload:
            reply = self.ask({"prepare": workload}, PREPARE_TIMEOUT)
            if reply:
                return reply
            self._prepared = workload
        return self.ask(request, timeout)

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._errors.close()
        self._process = self._prepared = None

    def _start(self):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(
            [self._python, str(envs.HERE / "adaptation_worker.py")],
            env=envs.child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )


def read(paths):
    records = []
    for path in paths:
        if path.exists():
            records += [json.loads(line) for line in path.read_text().splitlines() if line]
    return records


def key_of(record):
    return tuple(record[name] for name in ("workload", "sampler", "seed", "chains", "draws"))


def planned(arguments, done):
    """Runs that are still to be done, in groups that share a compiled density."""
    groups = {}
    for workload_set, workload in chosen_workloads(arguments):
        for sampler in arguments.samplers:
            environment, tune, options = parse_sampler(sampler)
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                run = {"set": workload_set, "workload": workload, "sampler": sampler, "seed": seed}
                run |= {"chains": arguments.chains, "draws": arguments.draws}
                if key_of(run) not in done:
                    request = {key: run[key] for key in ("seed", "chains", "draws")} | {
                        "tune": tune,
                        "options": options,
                    }
                    groups.setdefault((environment, workload), []).append((run, request))
    return groups


def chosen_workloads(arguments):
    from workloads import SETS, WORKLOADS

    unknown = set(arguments.workloads or ()) - set(WORKLOADS)
    if unknown:
        raise SystemExit(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    return [
        (workload_set, name)
        for workload_set in arguments.sets
        for name in SETS[workload_set]
        if arguments.workloads is None or name in arguments.workloads
    ]


def execute(worker, run, request, timeout):
    """The record of a run, whatever comes of it; nothing where the data are missing."""
    try:
        reply = worker.run(run["workload"], request, timeout)
    except WorkerError as reason:
        return {**run, "status": "failed", "message": str(reason)}
    if "unavailable" in reply:
        return None
    if "error" in reply:
        return {**run, "status": "failed", "message": reply["error"]}
    # What was asked for is known; how long the warm-up was, the run knows better.
    return {**run, "status": "ok", **reply}


def run_all(arguments, pythons):
    done = {key_of(record) for record in read([arguments.results]) if not (arguments.retry and is_failed(record))}
    groups = queue.SimpleQueue()
    for (environment, workload), runs in planned(arguments, done).items():
        groups.put((environment, workload, runs))
    writing = threading.Lock()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)

    def work():
        workers = {name: Worker(python) for name, python in pythons.items()}
        try:
            while True:
                try:
                    environment, workload, runs = groups.get_nowait()
                except queue.Empty:
                    return
                for run, request in runs:
                    record = execute(workers[environment], run, request, arguments.timeout)
                    if record is None:
                        print(f"{workload}: skipped, its data are not on this machine (see NUTPIE_SHARED)", flush=True)
                        break
                    with writing:
                        with arguments.results.open("a") as file:
                            file.write(json.dumps(record) + "\n")
                        print(adaptation_report.one_line(record), flush=True)
        finally:
            for worker in workers.values():
                worker.close()

    with concurrent.futures.ThreadPoolExecutor(arguments.processes) as pool:
        for future in [pool.submit(work) for _ in range(arguments.processes)]:
            future.result()


def is_failed(record):
    return record["status"] != "ok"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="sample what is not in the file of results yet, then report")
    run.add_argument("--results", type=pathlib.Path, required=True, help="file of JSON lines to add to")
    run.add_argument("--also", type=pathlib.Path, nargs="+", default=[], help="more results for the report")
    run.add_argument("--samplers", nargs="+", required=True)
    run.add_argument("--sets", nargs="+", default=["peerbench", "posteriordb", "heldout"])
    run.add_argument("--workloads", nargs="+", help="only these")
    run.add_argument("--seeds", type=int, default=5, help="how many seeds (default %(default)s)")
    run.add_argument("--first-seed", type=int, default=0)
    run.add_argument("--chains", type=int, default=4)
    run.add_argument("--draws", type=int, default=1000)
    run.add_argument("--timeout", type=float, default=300, help="seconds for a run (default %(default)s)")
    run.add_argument("--processes", type=int, default=2, help="at the same time (default %(default)s)")
    run.add_argument("--retry", action="store_true", help="do runs again that failed before")
    envs.add_option(run)
    report = commands.add_parser("report", help="print the tables of files of results")
    report.add_argument("files", type=pathlib.Path, nargs="+")
    for command in (run, report):
        command.add_argument("--full", action="store_true", help="also print a table for each workload")
    return parser.parse_args()


def main():
    arguments = parse()
    if arguments.command == "report":
        adaptation_report.print_report(read(arguments.files), full=arguments.full)
        return
    try:
        needed = {parse_sampler(name)[0] for name in arguments.samplers}
    except argparse.ArgumentTypeError as error:
        raise SystemExit(str(error)) from None
    run_all(arguments, envs.interpreters(sorted(needed), arguments.env))
    adaptation_report.print_report(read([arguments.results, *arguments.also]), full=arguments.full)


if __name__ == "__main__":
    sys.exit(main())
