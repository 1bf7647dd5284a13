"""Seconds to compile a first, a second and a cached Stan program, and the same by the older package of our name.

    python benches/stan/compile_time.py
    BRIDGESTAN=~/.bridgestan/bridgestan-2.9.0 python benches/stan/compile_time.py --peer PYTHON

Each is a process of its own; all share a cache that is new. Seconds are those on the clock, and those of the processors
in all processes together. The peer's path is `make` in the sources of BridgeStan; its first program includes what
BridgeStan compiles once, if that is not there yet.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[1] / "posteriordb/programs"

#: What is compiled, in this order.
STEPS = (
    ("first", "eight_schools_noncentered"),
    ("second", "radon_hierarchical_intercept_centered"),
    ("second again", "radon_hierarchical_intercept_centered"),
)

CODE = """
import time, nutpie
start = time.perf_counter()
nutpie.compile_stan_model(filename={path!r}{arguments})
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toolchain", default="httpstan")
    parser.add_argument("--peer", help="Python of an environment with the older package and bridgestan")
    arguments = parser.parse_args()
    ways = {
        "ours": (sys.executable, f", toolchain={arguments.toolchain!r}, progress_bar=False"),
        "ours, precompiled header": (
            sys.executable,
            f", toolchain={arguments.toolchain!r}, progress_bar=False, precompiled_header=True",
        ),
    }
    if arguments.peer:
        ways["nutpie 0.16"] = (arguments.peer, "")
    print("| | program | seconds | CPU seconds |\n| --- | --- | --- | --- |")
    for way, (python, keywords) in ways.items():
        with tempfile.TemporaryDirectory(prefix="nutpie-bench-") as cache:
            for step, program in STEPS:
                clock, cpu = timed(
                    python, CODE.format(path=str(PROGRAMS / f"{program}.stan"), arguments=keywords), cache
                )
                print(f"| {way} | {step} | {clock:.1f} | {cpu:.1f} |", flush=True)


def timed(python: str, code: str, cache: str) -> tuple[float, float]:
    environment = os.environ | {"NUTPIE_STAN_CACHE": cache}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(done.stdout.split()[-1]), cpu


if __name__ == "__main__":
    main()
