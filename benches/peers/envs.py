"""The environments of the samplers: one each, because nutpie 0.16 has our import name."""

import argparse
import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = HERE / ".envs"

#: Each has a file of pinned requirements; `ours` also gets this repository.
NAMES = ("ours", "nutpie_peer", "blackjax", "numpyro", "pymc")

#: CPU time is compared, so nobody may use more threads than another.
SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "PYTHONWARNINGS": "ignore",
}


def add_option(parser):
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        type=_name_and_python,
        metavar="NAME=PYTHON",
        help=f"use this interpreter for an environment ({', '.join(NAMES)}) in place of that of setup_envs.py",
    )


def _name_and_python(text):
    name, separator, python = text.partition("=")
    if not separator or name not in NAMES or not os.access(python, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PYTHON with a name of {', '.join(NAMES)}")
    return name, python


def interpreters(names, chosen):
    """Interpreter of each environment, from the option `--env` or else from setup_envs.py."""
    found = {name: str(FOLDER / name / "bin" / "python") for name in names}
    found.update((name, python) for name, python in chosen if name in found)
    missing = [name for name, python in found.items() if not os.access(python, os.X_OK)]
    if missing:
        raise SystemExit(
            f"no environment for {', '.join(missing)}: run `python {HERE / 'setup_envs.py'} {' '.join(missing)}`, "
            "or name an interpreter with --env NAME=PYTHON"
        )
    return found


def child_environment(**more):
    return {**os.environ, **SINGLE_THREAD, **more}
