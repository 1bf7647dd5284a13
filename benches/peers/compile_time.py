"""Import and compile time of PyMC models, this package beside nutpie 0.16.

Cold is the first process with an empty PyTensor cache, warm a new process with the cache of the first. "first run" is
`compile_pymc_model` and then ten draws, so that nothing is left for later. CPU time has child processes, such as a C
compiler, in it. Imports count beyond numpy; what `import nutpie` leaves for later shows in a later stage, so "whole
process" is the fair sum. The least of the repetitions counts.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import tempfile
import time
import warnings

import envs

SAMPLERS = ("ours", "nutpie_peer")


def clock():
    """Wall and CPU seconds, the CPU time of finished children included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(part.ru_utime + part.ru_stime for part in used)


def measure(workload_name):
    """Wall and CPU seconds of each stage; runs in the environment of a sampler."""
    warnings.simplefilter("ignore")
    import numpy  # noqa: F401

    marks = [("", clock())]
    import nutpie

    marks.append(("import nutpie", clock()))
    import pymc  # noqa: F401

    marks.append(("import pymc after it", clock()))
    from workloads import WORKLOADS

    model = WORKLOADS[workload_name]().pymc_model()
    marks.append(("build model", clock()))
    compiled = nutpie.compile_pymc_model(model)
    marks.append(("compile", clock()))
    nutpie.sample(compiled, draws=5, tune=5, chains=1, cores=1, seed=1, progress_bar=False)
    marks.append(("ten draws", clock()))
    stages = {}
    for (_, before), (name, after) in itertools.pairwise(marks):
        stages[name] = [a - b for a, b in zip(after, before, strict=True)]
    stages["first run"] = [a + b for a, b in zip(stages["compile"], stages["ten draws"], strict=True)]
    stages["whole process"] = [a - b for a, b in zip(marks[-1][1], marks[0][1], strict=True)]
    return stages


def measure_in(python, workload, cache):
    environment = envs.child_environment(
        PYTENSOR_FLAGS=f"base_compiledir={cache}/pytensor", NUMBA_CACHE_DIR=f"{cache}/numba"
    )
    done = subprocess.run(
        [python, __file__, "--child", workload], env=environment, capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        raise SystemExit(f"{python} failed on {workload}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def least(results):
    """The least of each stage, wall and CPU apart."""
    return {stage: [min(r[stage][i] for r in results) for i in (0, 1)] for stage in results[0]}


def repeat(pythons, workload, repetitions):
    """Results by sampler and "cold" or "warm"; the samplers take turns."""
    results = {name: {"cold": [], "warm": []} for name in pythons}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="nutpie-compile-") as folder:
            for state in ("cold", "warm"):
                for name, python in pythons.items():
                    results[name][state].append(measure_in(python, workload, os.path.join(folder, name)))
    return {name: {state: least(found) for state, found in states.items()} for name, states in results.items()}


def print_results(workload, results):
    names = list(results)
    print(f"\n{workload}: seconds, CPU (wall)")
    print(" ".join([" " * 27, *(f"{name:>15s}" for name in names), "   ratio CPU (wall)" if len(names) == 2 else ""]))
    for state in ("cold", "warm"):
        for stage in results[names[0]][state]:
            found = [results[name][state][stage] for name in names]
            line = [f"{state} {stage:22s}", *(f"{cpu:7.2f} ({wall:5.2f})" for wall, cpu in found)]
            # A ratio of a few milliseconds says nothing, unless one side is far above them.
            if len(found) == 2 and max(cpu for _, cpu in found) >= 0.1:
                (our_wall, our_cpu), (peer_wall, peer_cpu) = found
                line.append(f"    {our_cpu / peer_cpu:5.2f} ({our_wall / peer_wall:4.2f})")
            print(" ".join(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--workloads", nargs="+", default=["W2", "W4"])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    envs.add_option(parser)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child)))
        return
    pythons = envs.interpreters(arguments.samplers, arguments.env)
    for workload in arguments.workloads:
        print_results(workload, repeat(pythons, workload, arguments.repetitions))


if __name__ == "__main__":
    main()
