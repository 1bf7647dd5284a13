"""The mode of the latent variables given the hyper-parameters, by Newton's method with damping.

With H the negative Hessian of the log density by the latent variables, g its gradient and D the magnitude of the
diagonal of H, a step solves (H + damping D) step = g. It is taken if the log density rises by a part of what the
quadratic model says; otherwise, and where H + damping D is not positive definite, the damping is raised, and it falls
to 0 again where steps succeed. g' H^-1 g is the squared distance from the mode in posterior standard deviations. Once
it is below `BASIN`, one more step makes the distance as small as rounding allows (convergence is quadratic), so that
the result does not depend on where the search began.

The same code runs on arrays of JAX inside of a compiled function and on NumPy arrays. All arrays have a row for each
point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nutpie.models._laplace_algebra import Algebra

__all__ = ["DONE", "INDEFINITE", "NOT_FINITE", "RUNNING", "STUCK", "State", "find_modes"]

#: What became of a search.
RUNNING, DONE, STUCK, INDEFINITE, NOT_FINITE = range(5)

#: Squared distances from the mode: where a last step follows, and where none is needed.
BASIN = 1e-12
EXACT = 1e-22

#: Part of the predicted gain that a step has to make, relative rounding error of the log density, and damping.
LEAST_GAIN = 1e-4
ROUNDING = 1e-12
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 0.1, 1e-3, 1e12

#: From rows of latent variables and of hyper-parameters to log densities (k,), their gradients (k, n) and the entries
#: of the negative Hessians (k, entries).
Evaluate = Callable[[Any, Any], tuple[Any, Any, Any]]


class State(NamedTuple):
    """A search under way, with a row for each point."""

    theta: Any
    logp: Any
    gradient: Any
    entries: Any
    damping: Any
    #: Whether the damped Hessian is positive definite, and the step, g' step and damping * step' D step that follow.
    definite: Any
    step: Any
    slope: Any
    penalty: Any
    #: Evaluations so far.
    iterations: Any
    status: Any
    #: Of the damped Hessian, without damping in the end; None in compiled functions, where it is quicker to compute it
    #: once more than to compile a loop that carries it.
    factor: Any = None


def find_modes(
    xp: Any, evaluate: Evaluate, algebra: Algebra, theta: Any, phi: Any, n_entries: int, max_iterations: int
) -> State:
    """Search for the modes.

    Parameters
    ----------
    xp
        ``jax.numpy``, inside of a compiled function, or ``numpy``.
    evaluate
        The log density.
    algebra
        For its Hessian.
    theta
        Starts, of shape (k, n).
    phi
        Hyper-parameters, of shape (k, d).
    n_entries
        Number of entries of a Hessian.
    max_iterations
        Evaluations until a search is given up.
    """

    def running(state: State) -> Any:
        return xp.any(state.status == RUNNING)

    def advance(state: State) -> State:
        return _advance(xp, evaluate, algebra, state, phi, max_iterations)

    rows = theta.shape[0]
    zeros, none = xp.zeros(rows), xp.zeros(rows, dtype=np.int64)
    state = State(
        theta=theta,
        logp=zeros,
        gradient=xp.zeros(theta.shape),
        entries=xp.zeros((rows, n_entries)),
        damping=zeros,
        definite=xp.ones(rows, dtype=bool),
        step=xp.zeros(theta.shape),
        slope=zeros,
        penalty=zeros,
        iterations=none,
        status=none,
    )
    if xp is not np:
        import jax

        return jax.lax.while_loop(running, advance, state)
    while running(state):
        state = advance(state)
    return state


def _direct(xp: Any, algebra: Algebra, gradient: Any, entries: Any, damping: Any) -> dict[str, Any]:
    """Return the step and what depends on it."""
    scale = _scale(xp, algebra, entries)
    factor = algebra.factor(algebra.add_diagonal(entries, damping[:, None] * scale))
    definite = algebra.ok(factor)
    step = xp.where(definite[:, None], algebra.solve(factor, gradient), 0.0)
    slope, penalty = xp.sum(gradient * step, axis=1), damping * xp.sum(scale * step**2, axis=1)
    kept = None if algebra.compiled else factor
    return {"definite": definite, "step": step, "slope": slope, "penalty": penalty, "factor": kept}


def _scale(xp: Any, algebra: Algebra, entries: Any) -> Any:
    size = xp.abs(algebra.diagonal(entries))
    floor = 1e-8 * xp.max(size, axis=1, keepdims=True) + np.finfo(np.float64).tiny
    return xp.maximum(size, floor)


def _advance(xp: Any, evaluate: Evaluate, algebra: Algebra, old: State, phi: Any, max_iterations: int) -> State:
    """Evaluate where the step leads, take it or not, and find the next one."""
    active, first = old.status == RUNNING, old.iterations == 0
    logp, gradient, entries = evaluate(old.theta + old.step, phi)
    finite = xp.isfinite(logp) & xp.all(xp.isfinite(gradient), axis=1) & xp.all(xp.isfinite(entries), axis=1)
    gain = logp - old.logp
    predicted = 0.5 * (old.slope + old.penalty)
    last = ~first & old.definite & (old.damping == 0) & (old.slope <= BASIN)
    enough = first | last | (gain >= LEAST_GAIN * predicted - ROUNDING * (1.0 + xp.abs(old.logp)))
    take = active & finite & old.definite & enough

    chosen = take[:, None]
    theta = xp.where(chosen, old.theta + old.step, old.theta)
    gradient, entries = xp.where(chosen, gradient, old.gradient), xp.where(chosen, entries, old.entries)
    level = xp.sum(gradient**2 / _scale(xp, algebra, entries), axis=1) <= BASIN
    lower = xp.where(old.damping > LEAST_DAMPING, 0.1 * old.damping, 0.0)
    eased = xp.where(gain >= 0.25 * predicted, lower, old.damping)
    raised = xp.maximum(10.0 * old.damping, FIRST_DAMPING)
    damping = xp.where(active, xp.where(take, xp.where(first | level, 0.0, eased), raised), old.damping)

    directed = _direct(xp, algebra, gradient, entries, damping)
    iterations = old.iterations + active
    done = directed["definite"] & (damping == 0) & ((take & last) | (directed["slope"] <= EXACT))
    # A stationary point that is no maximum.
    saddle = ~directed["definite"] & (damping == 0) & level
    given_up = (iterations >= max_iterations) | (damping > MOST_DAMPING)
    status = xp.where(done, DONE, xp.where(saddle, INDEFINITE, xp.where(given_up, STUCK, RUNNING)))
    status = xp.where(first & ~finite, NOT_FINITE, status)
    return State(
        theta=theta,
        logp=xp.where(take, logp, old.logp),
        gradient=gradient,
        entries=entries,
        damping=damping,
        iterations=iterations,
        status=xp.where(active, status, old.status),
        **directed,
    )
