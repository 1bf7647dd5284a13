"""What programs of JAX cost, as far as can be read from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

__all__ = ["largest_result", "most_lapack_calls", "work"]

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


def most_lapack_calls(program: Any) -> int:
    """Return an upper bound of how many LAPACK calls may be made at once."""
    # For each variable, a bit for each call that it comes from.
    ancestors: dict[Any, int] = {}
    calls: list[tuple[int, int]] = []
    for equation in program.eqns:
        before = 0
        for variable in equation.invars:
            if not hasattr(variable, "val"):  # Literals come from no call.
                before |= ancestors.get(variable, 0)
        size = 1 if equation.primitive.name in LAPACK else sum(map(most_lapack_calls, _programs(equation)))
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


def largest_result(program: Any) -> int:
    """Return the number of bytes of the largest array that is computed."""
    sizes = [0]
    for equation in program.eqns:
        sizes += [_size(v) * v.aval.dtype.itemsize for v in equation.outvars if _size(v)]
        sizes += map(largest_result, _programs(equation))
    return max(sizes)


def work(program: Any) -> int:
    """Return about how many numbers are computed; iterations of loops of unknown length count once."""
    return sum(_work_of(equation) for equation in program.eqns)


def _work_of(equation: Any) -> int:
    inner = [work(program) for program in _programs(equation)]
    if inner:
        return sum(inner) * int(equation.params.get("length", 1))
    given, found = max(map(_size, equation.invars), default=0), sum(map(_size, equation.outvars))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return found * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if equation.primitive.name in LAPACK:
        return found * int(max((v.aval.shape[-1] for v in equation.outvars if _size(v)), default=1))
    return max(given, found)


def _size(variable: Any) -> int:
    """Return how many numbers a variable has; 0 if it is no array of numbers."""
    size = getattr(variable.aval, "size", 0)
    return size if hasattr(getattr(variable.aval, "dtype", None), "itemsize") else 0


def _programs(equation: Any) -> Iterator[Any]:
    """Programs inside of an operation, such as the body of a loop."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner
