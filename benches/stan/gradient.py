"""Microseconds of a gradient as the sampler calls it, beside a tight loop in C over the function of the library.

    python benches/stan/gradient.py [--shared ../shared/posteriordb]

The two take turns, in loops short enough not to be interrupted, and the least time of each counts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import nutpie

HERE = Path(__file__).resolve().parent

#: Program, data of the shared folder, and calls in a loop.
CASES = (
    ("eight_schools_noncentered", "eight_schools", 1000),
    ("blr", "sblrc", 1000),
    ("radon_hierarchical_intercept_centered", "radon_mn", 30),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "posteriordb")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--toolchain", default="auto")
    arguments = parser.parse_args()
    loops = build_loops()
    head = ("program", "parameters", "loop in C, us", "as the sampler calls it, us", "ratio")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for program, data, calls in CASES:
        path = HERE.parent / f"posteriordb/programs/{program}.stan"
        compiled = nutpie.compile_stan_model(filename=path, toolchain=arguments.toolchain)
        values = json.loads((arguments.shared / f"data/{data}.json").read_text())
        values = {name: values[name] for name in compiled.data_names or values}
        model = compiled.with_data(values)
        library, sampler = times(loops, model, json.dumps(values), calls, arguments.rounds)
        cells = (program, str(model.n_dim), f"{library:.3f}", f"{sampler:.3f}", f"{sampler / library:.3f}")
        print("| " + " | ".join(cells) + " |", flush=True)


def build_loops() -> ctypes.CDLL:
    folder = tempfile.mkdtemp(prefix="nutpie-bench-")
    path = Path(folder) / "loops.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", str(HERE / "gradient.c"), "-o", str(path)], check=True)
    loops = ctypes.CDLL(str(path))
    loops.loop_library.restype = loops.loop_sampler.restype = ctypes.c_double
    return loops


def times(loops: ctypes.CDLL, model: nutpie.models.stan.CompiledStanModel, data: str, calls: int, rounds: int):
    library = ctypes.CDLL(str(model.library))
    library.bs_model_construct.restype = ctypes.c_void_p
    raw = ctypes.c_void_p(library.bs_model_construct(data.encode(), 0, None))
    gradient = ctypes.cast(library.bs_log_density_gradient, ctypes.c_void_p)
    density = model.density()
    x, grad, total = 0.3 * model.initial_point((0,)), np.empty(model.n_dim), ctypes.c_double()
    pointers = (x.ctypes.data_as(ctypes.c_void_p), grad.ctypes.data_as(ctypes.c_void_p), ctypes.byref(total))
    own, ours = [], []
    for _ in range(rounds):
        own.append(loops.loop_library(gradient, raw, calls, *pointers))
        address, user_data = ctypes.c_void_p(density.address), ctypes.c_void_p(density.user_data)
        ours.append(loops.loop_sampler(address, user_data, model.n_dim, calls, *pointers))
    return 1e6 * min(own) / calls, 1e6 * min(ours) / calls


if __name__ == "__main__":
    main()
