"""Functions of one point, applied to many in a compiled call.

On the CPU, each call of JAX 0.10 to LAPACK for several matrices waits for the threads that it shares its matrices with.
As many such calls at once as there are threads wait for each other for ever: two on a machine with two cores. So where
a function has calls that may be made at the same time, because none needs the result of the other, and there is more
than one thread, points are computed one after the other. Each call then has the matrices of one point, and does not
wait.

Also on the CPU, the results in between of many points do not fit into its caches, and memory for them is had from the
system anew in each call. So points are computed in blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from nutpie.models._jax_cost import largest_result, most_lapack_calls

__all__ = ["one_by_one", "over_rows"]

#: Bytes of the largest result in between, of all points of a block, for each thread. There are several such results,
#: and they should stay in a cache of 2 MB.
BLOCK_MEMORY = 2**18

#: Fewest and most points of a block: with few, data are read often, and matrices are not multiplied at the full rate.
SMALLEST_BLOCK = 16
LARGEST_BLOCK = 256


def over_rows(function: Callable[..., Any], *, single: bool = False) -> Callable[..., Any]:
    """Return the function of arrays with a row for each point, to be used inside of a compiled function.

    Parameters
    ----------
    function
        A function of arrays.
    single
        Whether JAX has a single thread there, so that no call of it waits for others.
    """
    import jax

    def of_rows(*arguments: Any) -> Any:
        if jax.default_backend() == "cpu":
            one = [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in arguments]
            program = jax.make_jaxpr(function)(*one).jaxpr
            if not single and one_by_one(program):
                return jax.lax.map(lambda row: function(*row), arguments)
            block = _block(largest_result(program), 1 if single else _threads())
            if len(arguments[0]) >= 2 * block:
                return jax.lax.map(lambda row: function(*row), arguments, batch_size=block)
        return jax.vmap(function)(*arguments)

    return of_rows


def one_by_one(program: Any) -> bool:
    """Whether points have to be computed one after the other, for the program of one point."""
    return most_lapack_calls(program) >= _threads()


def _threads() -> int:
    """Threads of JAX, as far as is known; two at least, because a call made by the caller's thread leaves one free."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:  # Not on all systems.
        found = os.cpu_count() or 1
    return max(2, found)


def _block(size: int, threads: int) -> int:
    """Return how many points a block has whose largest result in between has so many bytes: a power of two."""
    fits = max(1, BLOCK_MEMORY * threads // max(size, 1))
    return min(max(2 ** (fits.bit_length() - 1), SMALLEST_BLOCK), LARGEST_BLOCK)
