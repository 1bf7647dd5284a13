"""Peak memory and seconds of a whole `nutpie.sample` call on W10: 10,000 parameters, 4 chains of 1400 draws, 448 MB.

This package and nutpie 0.16 run in processes of their own. "peak" is the largest resident set of the process, "added"
that less what the process held before the call, "times" that over the size of the draws.
"""

import argparse
import json
import resource
import subprocess
import time
import warnings

import envs

CHAINS, DRAWS, TUNE = 4, 1000, 400


def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def measure(options):
    """Memory and time of a run; runs in the environment of a sampler."""
    warnings.simplefilter("ignore")
    from callback import CountedCallback, make_model
    from workloads import WORKLOADS

    import nutpie

    workload = WORKLOADS["W10"]()
    dim = sum(size for _, size, _ in workload.blocks)
    model = make_model(CountedCallback(workload.numba_logp(), dim))
    # Imports and other first-time work stay out.
    nutpie.sample(model, draws=2, tune=2, chains=1, seed=1, progress_bar=False)
    before = resident_megabytes()
    begin = time.perf_counter()
    result = nutpie.sample(model, draws=DRAWS, tune=TUNE, chains=CHAINS, seed=1, progress_bar=False, **options)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    groups = ("posterior", "warmup_posterior")
    size = sum(result[group]["x"].nbytes for group in groups if group in result.groups()) / 1e6
    return {"peak": peak, "added": peak - before, "draws": size, "times": (peak - before) / size, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=["ours", "nutpie_peer"], default=["ours", "nutpie_peer"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    envs.add_option(parser)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(json.loads(arguments.child))))
        return
    pythons = envs.interpreters(arguments.samplers, arguments.env)
    print(f"{'':40s} {'peak MB':>9s} {'added MB':>9s} {'draws MB':>9s} {'times':>6s} {'seconds':>8s}")
    for name in arguments.samplers:
        for options in ({}, {"save_warmup": False}):
            command = [pythons[name], __file__, "--child", json.dumps(options)]
            done = subprocess.run(command, env=envs.child_environment(), capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            label = f"{name} {options or ''}"
            print(
                f"{label:40s} {found['peak']:9.0f} {found['added']:9.0f} {found['draws']:9.0f} {found['times']:6.2f} "
                f"{found['seconds']:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
