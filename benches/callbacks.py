"""Microseconds per gradient of each way to bring a density along, beside a tight loop over the function itself.

    python benches/callbacks.py [--dim 10] [--rounds 30]

The density is a normal distribution, cheap enough to show what surrounds it. For functions of one point the loop calls
it with the same point again and again, in C or in Python; for functions of many points with an array of as many points
as there are chains. "one call" is a call as the sampler makes it, with a look at the clock, "whole run" the processor
time of a run, warm-up and the sampler's own work included. All are for each gradient; they take turns, and the least of
each counts."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

import nutpie
from nutpie.models.base import CompiledModel, Density

HERE = Path(__file__).resolve().parent

SOURCE = """
#include "nutpie.h"
int64_t normal(uint64_t dim, const double *x, double *grad, double *logp, void *user_data) {
    (void) user_data;
    double total = 0.0;
    for (uint64_t i = 0; i < dim; i++) { total -= 0.5 * x[i] * x[i]; grad[i] = -x[i]; }
    *logp = total;
    return NUTPIE_OK;
}
"""


@numba.cfunc("int64(uint64, CPointer(double), CPointer(double), CPointer(double), voidptr)")
def normal_numba(dim, x, grad, logp, _user_data):
    total = 0.0
    for i in range(dim):
        total -= 0.5 * x[i] * x[i]
        grad[i] = -x[i]
    logp[0] = total
    return 0


def normal(x: np.ndarray) -> tuple[float, np.ndarray]:
    return -0.5 * x @ x, -x


def normal_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return -0.5 * np.einsum("ij,ij->i", x, x), -x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nutpie-bench-"))
    loops = build(folder / "loops.so", HERE / "stan/gradient.c")
    loops.loop_sampler.restype = ctypes.c_double
    (folder / "normal.c").write_text(SOURCE)
    build(folder / "normal.so", folder / "normal.c")
    head = ("front end", "chains", "loop, us", "one call, us", "whole run, us", "whole run / loop")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for name, chains, model, loop in cases(arguments.dim, folder, loops):
        found = measure(model, chains, loop, arguments.rounds, arguments.draws)
        cells = (name, str(chains), *(f"{1e6 * seconds:.3f}" for seconds in found), f"{found[2] / found[0]:.2f}")
        print("| " + " | ".join(cells) + " |", flush=True)


def build(library: Path, source: Path) -> ctypes.CDLL:
    flags = ["-O2", "-shared", "-fPIC", "-I", nutpie.include_dir()]
    subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def cases(dim: int, folder: Path, loops: ctypes.CDLL) -> list[tuple[str, int, CompiledModel, Callable[[], float]]]:
    """List name, chains, model and a function that returns the seconds for each gradient of a loop."""
    point = np.linspace(-1, 1, dim)

    def in_c(model: CompiledModel, calls: int = 10_000) -> Callable[[], float]:
        density, grad, total = model.density(), np.empty(dim), ctypes.c_double()
        assert isinstance(density, Density)
        address = ctypes.c_void_p(density.address)
        pointers = (point.ctypes.data_as(ctypes.c_void_p), grad.ctypes.data_as(ctypes.c_void_p), ctypes.byref(total))
        return lambda: loops.loop_sampler(address, ctypes.c_void_p(None), dim, calls, *pointers) / calls

    def in_python(function: Callable[[np.ndarray], Any], points: np.ndarray, calls: int = 300) -> Callable[[], float]:
        def loop() -> float:
            begin = time.perf_counter()
            for _ in range(calls):
                function(points)
            return (time.perf_counter() - begin) / (calls * points.size / dim)

        return loop

    library = nutpie.from_library(folder / "normal.so", "normal", dim)
    cfunc = nutpie.from_cfunc(normal_numba, dim)
    arguments = (dim, lambda: normal, lambda *_: lambda x: {"x": x}, [np.float64], [(dim,)], ["x"])
    found = [
        ("from_library (C)", 4, library, in_c(library)),
        ("from_cfunc (numba)", 4, cfunc, in_c(cfunc)),
        ("from_pyfunc", 4, nutpie.from_pyfunc(*arguments), in_python(normal, point)),
    ]
    one = nutpie.from_logp(normal, dim)
    found += [("from_logp", chains, one, in_python(normal, point)) for chains in (1, 4, 64)]
    for chains in (1, 4, 64):
        for lockstep in (True, False):
            name = "from_logp(batched=True" + (")" if lockstep else ", lockstep=False)")
            points = np.tile(point, (chains if lockstep else 1, 1))
            model = nutpie.from_logp(normal_rows, dim, batched=True, lockstep=lockstep)
            found.append((name, chains, model, in_python(normal_rows, points)))
    if importlib.util.find_spec("numpyro"):
        found += [(*case[:3], in_python(*case[3:])) for case in cases_of_jax(dim, point)]
    return found


def cases_of_jax(dim: int, point: np.ndarray) -> list[tuple[str, int, CompiledModel, Callable[..., Any], np.ndarray]]:
    """List name, chains, model, and what the loop calls with which points: the compiled function, with NumPy arrays."""
    import jax
    import numpyro

    jax.config.update("jax_enable_x64", True)

    def logp(x: Any) -> Any:
        return -0.5 * (x @ x)

    def model() -> None:
        numpyro.sample("x", numpyro.distributions.Normal(0, 1).expand([dim]).to_event(1))

    compiled = jax.jit(jax.vmap(jax.value_and_grad(logp)))

    def function(points: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(part) for part in compiled(points)]

    models = {"from_jax": nutpie.from_jax(logp, np.zeros(dim)), "from_numpyro": nutpie.from_numpyro(model)}
    return [(name, n, m, function, np.tile(point, (n, 1))) for name, m in models.items() for n in (1, 4, 64)]


def measure(
    model: CompiledModel, chains: int, loop: Callable[[], float], rounds: int, draws: int
) -> tuple[float, float, float]:
    density = model.density_for(chains)
    together = 1 if isinstance(density, Density) or not density.lockstep else chains
    points = np.tile(np.linspace(-1, 1, model.n_dim), (together, 1))
    loops, calls, runs = [], [], []
    draws = 20 * draws if isinstance(density, Density) else draws
    for i in range(rounds):
        loops.append(loop())
        calls.append(min(density.seconds(points, 300, 1)[0]) / together)
        if i % 10 == 0:
            runs.append(per_gradient(model, chains, draws))
    return min(loops), min(calls), min(runs)


def per_gradient(model: CompiledModel, chains: int, draws: int) -> float:
    """Processor time of a run, without its result, for each gradient."""
    options = {"seed": 1, "progress_bar": False, "save_warmup": False, "thin": draws, "cores": 1, "blocking": False}
    begin = time.process_time()
    run = nutpie.sample(model, draws=draws, chains=chains, **options)
    while not run.is_finished:
        time.sleep(0.002)
    spent = time.process_time() - begin
    gradients = sum(chain.total_num_steps for chain in run.progress())
    run.cancel()
    return spent / gradients


if __name__ == "__main__":
    main()
