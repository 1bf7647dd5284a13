"""Fixed overhead of a leapfrog step: CPU time of the process on a standard normal, less the density itself.

This package and nutpie 0.16 run in turn, each in processes of its own, and the best of the repetitions counts.
"sampling" leaves out the conversion to an ArviZ object, "call" is all of `nutpie.sample`. The last column is the time
that numpy takes to copy 33 bytes for each dimension, that is to read 33 and write 33, about what a step has to move.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings

import envs

#: Draws and warm-up by dimension.
LENGTHS = {10: (20000, 400), 100: (10000, 400), 1000: (3000, 400), 10_000: (300, 300), 100_000: (60, 60)}

BYTES_COPIED_PER_DIM = 33


def standard_normal(dim):
    import numba

    @numba.njit(error_model="numpy", fastmath=True)
    def logp(x, grad):
        total = 0.0
        for i in range(dim):
            total -= 0.5 * x[i] * x[i]
            grad[i] = -x[i]
        return total

    return logp


def best_seconds(action, at_least=0.02, repetitions=7):
    """Least mean time of `action(n)`, which repeats something n times."""
    action(1)
    n = 1
    while True:
        begin = time.perf_counter()
        action(n)
        if time.perf_counter() - begin >= at_least:
            break
        n *= 2
    best = float("inf")
    for _ in range(repetitions):
        begin = time.perf_counter()
        action(n)
        best = min(best, (time.perf_counter() - begin) / n)
    return best


def density_seconds(callback):
    """Time of the callback alone, called through its address as the sampler does."""
    import numba
    import numpy as np

    function = callback.cfunc.ctypes
    x, grad, value = np.full(callback.dim, 0.1), np.zeros(callback.dim), np.zeros(1)
    dim = callback.dim

    @numba.njit
    def repeat(n, x, grad, value):
        for _ in range(n):
            function(dim, x.ctypes, grad.ctypes, value.ctypes, 0)

    return best_seconds(lambda n: repeat(n, x, grad, value))


def copy_seconds(dim):
    import numpy as np

    source = np.ones(BYTES_COPIED_PER_DIM * dim, np.uint8)
    target = np.empty_like(source)

    def repeat(n):
        for _ in range(n):
            np.copyto(target, source)

    return best_seconds(repeat)


class ConversionClock:
    """CPU time that a nutpie spends making an ArviZ object, by wrapping its function for that."""

    def __init__(self, ours):
        self.seconds = 0.0
        module_name, name = ("nutpie.trace", "build_result") if ours else ("nutpie.sample", "_arrow_to_arviz")
        # Not by attribute: in both packages the function `sample` hides the module of that name.
        module = sys.modules[module_name]
        original = getattr(module, name)

        def timed(*args, **kwargs):
            begin = time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - begin

        setattr(module, name, timed)


def measure(dim, draws, tune, seed):
    """Microseconds for each gradient; runs in the environment of a sampler."""
    warnings.simplefilter("ignore")
    from callback import CountedCallback, is_this_package, make_model, plain_options

    import nutpie

    ours = is_this_package()
    if ours:
        import nutpie.trace
    callback = CountedCallback(standard_normal(dim), dim)
    model = make_model(callback)
    density = density_seconds(callback)
    options = {"chains": 1, "cores": 1, "progress_bar": False, **plain_options()}
    # Imports and other first-time work stay out.
    nutpie.sample(model, draws=5, tune=5, seed=seed, **options)
    conversion = ConversionClock(ours)
    callback.take_calls()
    begin = time.process_time()
    nutpie.sample(model, draws=draws, tune=tune, seed=seed, **options)
    call = time.process_time() - begin
    gradients = callback.take_calls()
    return {
        "gradients": gradients,
        "density": 1e6 * density,
        "sampling": 1e6 * ((call - conversion.seconds) / gradients - density),
        "call": 1e6 * (call / gradients - density),
        "copy": 1e6 * copy_seconds(dim),
    }


def measure_in(python, dim, seed):
    command = [python, __file__, "--child", str(dim), *map(str, LENGTHS[dim]), str(seed)]
    done = subprocess.run(command, env=envs.child_environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} failed at dimension {dim}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def least(results):
    return {key: min(result[key] for result in results) for key in results[0]}


def print_dimension(dim, found):
    ours = found.get("ours")
    line = [f"{dim:7d}"]
    for kind in ("sampling", "call"):
        line += [f"{result[kind]:9.3f}" for result in found.values()]
        if len(found) == 2:
            line.append(f"{ours[kind] / found['nutpie_peer'][kind]:6.2f}")
    line.append(f"{least(list(found.values()))['density']:8.3f}")
    if ours:
        line += [f"{ours['copy']:8.3f}", f"{ours['sampling'] / ours['copy']:6.2f}"]
    print("  ".join(line), flush=True)


def print_header(samplers):
    line = ["    dim"]
    for kind in ("sampling", "call"):
        line += [f"{name[:4] + ' ' + kind[:4]:>9s}" for name in samplers]
        if len(samplers) == 2:
            line.append(" ratio")
    line.append(" density")
    if "ours" in samplers:
        line += ["    copy", "s/copy"]
    print("microseconds of CPU for each gradient, density taken off; ratio is ours over the peer")
    print("  ".join(line))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", choices=["ours", "nutpie_peer"], default=["ours", "nutpie_peer"])
    parser.add_argument("--dims", nargs="+", type=int, choices=list(LENGTHS), default=list(LENGTHS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--child", nargs=4, type=int, help=argparse.SUPPRESS)
    envs.add_option(parser)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child)))
        return
    pythons = envs.interpreters(arguments.samplers, arguments.env)
    print_header(arguments.samplers)
    for dim in arguments.dims:
        results = {name: [] for name in arguments.samplers}
        for seed in range(arguments.repetitions):
            for name, found in results.items():
                found.append(measure_in(pythons[name], dim, seed))
        print_dimension(dim, {name: least(found) for name, found in results.items()})


if __name__ == "__main__":
    main()
