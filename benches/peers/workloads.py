"""Densities that every sampler gets alike.

Each has its data from a fixed numpy seed or from `../shared`, and a hand-written log density with gradient for numba
on a flat unconstrained space. Those of the set `peerbench` also have the same log density for JAX, and a PyMC model,
all equal up to a constant.

`python workloads.py --check` compares values and gradients of those that the environment can import, and the gradients
of all with differences of the values.
"""

import argparse
import importlib.util

import numpy as np
from densities import heldout, hierarchical, posteriordb, synthetic
from densities.base import UnavailableError

PEERBENCH = (
    synthetic.CorrelatedGaussian,
    hierarchical.ItemResponse,
    hierarchical.LargerItemResponse,
    hierarchical.Radon,
    hierarchical.Tree,
    hierarchical.RadonSlopes,
    synthetic.IllConditionedGaussian,
    synthetic.Funnel,
    synthetic.LargeHierarchical,
)

#: By set: what the peers were first compared on, posteriors of posteriordb, and what no setting was chosen by.
SETS = {
    "peerbench": {cls.name: cls for cls in PEERBENCH},
    "posteriordb": posteriordb.WORKLOADS,
    "heldout": heldout.WORKLOADS,
}

WORKLOADS = {name: make for workloads in SETS.values() for name, make in workloads.items()}


def _numba_evaluator(workload):
    logp = workload.numba_logp()

    def evaluate(x):
        grad = np.zeros(workload.dim)
        return logp(x, grad), grad

    return evaluate


def _jax_evaluator(workload):
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax.jit(jax.value_and_grad(workload.jax_logp()))


def _pymc_evaluator(workload):
    model = workload.pymc_model()
    names = [variable.name for variable in model.value_vars]
    sizes = [size for _, size, _ in workload.blocks]
    value = model.compile_logp()
    gradient = model.compile_dlogp()

    def evaluate(x):
        parts = np.split(x, np.cumsum(sizes)[:-1])
        # A block of size one is a scalar in the PyMC models.
        point = {name: part[0] if len(part) == 1 else part for name, part in zip(names, parts, strict=True)}
        return float(value(point)), gradient(point)

    return evaluate


#: With the method of a workload that each of them needs.
EVALUATORS = {
    "numba": ("numba_logp", _numba_evaluator),
    "jax": ("jax_logp", _jax_evaluator),
    "pymc": ("pymc_model", _pymc_evaluator),
}


def difference_error(evaluate, x, most=60, step=1e-3):
    """Largest error of the gradient by coordinate, against differences of fourth order, beyond rounding of the values.

    In a large model a random choice of the coordinates is looked at.
    """
    value, grad = evaluate(x)
    coordinates = np.random.default_rng(6).permutation(len(x))[:most]
    rounding = 1e-14 * (abs(value) + 1) / step
    worst = 0.0
    for i in coordinates:
        shift = np.zeros(len(x))
        shift[i] = step
        near, far = (evaluate(x + k * shift)[0] - evaluate(x - k * shift)[0] for k in (1, 2))
        error = max(abs((8 * near - far) / (12 * step) - grad[i]) - rounding, 0.0)
        worst = max(worst, error / (1 + abs(grad[i])))
    return worst


def check_workload(workload):
    """Print errors of one workload; return whether all are small."""
    available = [
        kind for kind, (method, _) in EVALUATORS.items() if importlib.util.find_spec(kind) and hasattr(workload, method)
    ]
    points = np.random.default_rng(5).uniform(-1, 1, (2, workload.dim))
    reference, good = None, True
    for kind in available:
        evaluate = EVALUATORS[kind][1](workload)
        if kind == "numba":
            error = max(difference_error(evaluate, x) for x in points)
            print(f"{workload.name:24s} {kind} against differences: largest relative error {error:.1e}", flush=True)
            good &= error < 1e-6
        (first, grad_first), (second, grad_second) = (evaluate(x) for x in points)
        found = np.concatenate([[first - second], grad_first, grad_second])
        if reference is None:
            reference = found
            continue
        error = np.max(np.abs(found - reference) / (1 + np.abs(reference)))
        print(f"{workload.name:24s} {kind} against {available[0]}: largest relative error {error:.1e}", flush=True)
        good &= error < 1e-9
    return good


def check(names):
    """Compare gradients, and differences of the log density, at two points."""
    if not importlib.util.find_spec("numba"):
        raise SystemExit("numba cannot be imported here")
    wrong = []
    for name in names:
        try:
            workload = WORKLOADS[name]()
        except UnavailableError as reason:
            print(f"{name:24s} skipped: {reason}")
            continue
        if not check_workload(workload):
            wrong.append(name)
    if wrong:
        raise SystemExit(f"these densities or their gradients differ: {', '.join(wrong)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="*", required=True, metavar="WORKLOAD", help="all by default")
    check(parser.parse_args().check or list(WORKLOADS))
