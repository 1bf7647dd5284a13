"""Functions of one point, applied to many in a compiled call.

On the CPU, each call of JAX 0.10 to LAPACK for several matrices waits for the threads that it shares its matrices with.
As many such calls at once as there are threads wait for each other for ever: two on a machine with two cores. So where
a function has calls that may be made at the same time, because none needs the result of the other, points are computed
one after the other. Each call then has the matrices of one point, and does not wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["over_rows"]

#: Operations that JAX leaves to LAPACK.
LAPACK = frozenset(
    {
        "cholesky",
        "triangular_solve",
        "lu",
        "eigh",
        "eig",
        "svd",
        "geqrf",
        "geqp3",
        "householder_product",
        "ormqr",
        "hessenberg",
        "schur",
        "tridiagonal",
        "tridiagonal_solve",
    }
)


def over_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of arrays with a row for each point, to be used inside of a compiled function."""
    import jax

    def of_rows(*arguments: Any) -> Any:
        if jax.default_backend() == "cpu":
            one = [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in arguments]
            if _most_at_once(jax.make_jaxpr(function)(*one).jaxpr) >= _threads():
                return jax.lax.map(lambda row: function(*row), arguments)
        return jax.vmap(function)(*arguments)

    return of_rows


def _threads() -> int:
    """Threads of JAX, as far as is known; two at least, because a call made by the caller's thread leaves one free."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # Not on all systems.
        found = os.cpu_count() or 1
    return max(2, found)


def _most_at_once(program: Any) -> int:
    """Return an upper bound of how many LAPACK calls may be made at once."""
    # For each variable, a bit for each call that it comes from.
    ancestors: dict[Any, int] = {}
    calls: list[tuple[int, int]] = []
    for equation in program.eqns:
        before = 0
        for variable in equation.invars:
            if not hasattr(variable, "val"):  # Literals come from no call.
                before |= ancestors.get(variable, 0)
        size = 1 if equation.primitive.name in LAPACK else sum(_most_at_once(inner) for inner in _programs(equation))
        after = before
        if size:
            after |= 1 << len(calls)
            calls.append((before, size))
        for variable in equation.outvars:
            ancestors[variable] = after
    most = max((size for _, size in calls), default=0)
    apart = {
        k
        for later, (before, _) in enumerate(calls)
        for earlier in range(later)
        if not before >> earlier & 1
        for k in (later, earlier)
    }
    return max(most, sum(calls[k][1] for k in apart))


def _programs(equation: Any) -> Iterator[Any]:
    """Programs inside of an operation, such as the body of a loop."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner
