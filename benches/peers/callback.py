"""Numba log densities as C callbacks that count their evaluations, and models of nutpie made of them.

nutpie 0.16 and this package call the same kind of C function, so that both get the very same machine code.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

DOUBLES = types.CPointer(types.float64)


@intrinsic
def _atomic_increment(typingctx, address):
    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(address), codegen


class CountedCallback:
    """`int64 logp(uint64 dim, double *x, double *grad, double *logp, void *)`, with an exact count of its calls."""

    def __init__(self, logp, dim):
        self.dim = dim
        self._calls = np.zeros(1, np.int64)
        counter = np.int64(self._calls.ctypes.data)

        @numba.cfunc(types.int64(types.uint64, DOUBLES, DOUBLES, DOUBLES, types.voidptr), error_model="numpy")
        def callback(n, x, grad, value, user_data):
            _atomic_increment(counter)
            total = logp(numba.carray(x, (dim,)), numba.carray(grad, (dim,)))
            numba.carray(value, (1,))[0] = total
            # Positive codes are recoverable errors: the trajectory diverges there.
            return 0 if np.isfinite(total) else 4

        self.cfunc = callback

    def take_calls(self):
        """Calls since the last time."""
        calls = int(self._calls[0])
        self._calls[0] = 0
        return calls


def is_this_package():
    """Whether the `nutpie` of this environment is ours; the peer has the same import name."""
    import nutpie

    return not nutpie.__version__.startswith("0.")


def plain_options():
    """Keywords without which `nutpie.sample` does more than that of the peer: here, diagnose the draws at the end."""
    return {"check": False} if is_this_package() else {}


def make_model(callback, next_start=None):
    """Model of the installed nutpie whose only variable `x` is the unconstrained vector.

    `next_start` gives the start of the next chain; the peer takes starts in no other way.
    """
    return _our_model(callback) if is_this_package() else _peer_model(callback, next_start)


def _our_model(callback):
    from nutpie.models.base import CompiledModel, Density, Variable

    class RawModel(CompiledModel):
        n_dim = callback.dim
        variables = (Variable("x", (callback.dim,), np.dtype("float64")),)
        coords: dict = {}  # noqa: RUF012
        unconstrained_names = tuple(f"x_{i}" for i in range(callback.dim))

        def density(self):
            return Density(address=callback.cfunc.address, keep_alive=callback)

        def expand(self, draws):
            return {"x": draws}

        def initial_point(self, seed):
            return np.random.default_rng(seed).uniform(-2, 2, callback.dim)

    return RawModel()


def _peer_model(callback, next_start):
    """Model of nutpie 0.16: what its PyMC front end would make, without PyMC."""
    import nutpie.compile_pymc

    dim = callback.dim

    @numba.cfunc(types.int64(types.uint64, types.uint64, DOUBLES, DOUBLES, types.voidptr))
    def expand(n, n_expanded, x, expanded, user_data):
        source, target = numba.carray(x, (dim,)), numba.carray(expanded, (dim,))
        for i in range(dim):
            target[i] = source[i]
        return 0

    def random_start(seed):
        return np.random.default_rng(int(seed) % 2**31).uniform(-2, 2, dim)

    start = random_start if next_start is None else lambda seed: next_start()
    return nutpie.compile_pymc.CompiledPyMCModel(
        dims={},
        compiled_logp_func=callback.cfunc,
        compiled_expand_func=expand,
        initial_point_func=start,
        shared_data={},
        user_data=np.zeros((1,)),
        n_expanded=dim,
        shape_info=(["x"], [slice(0, dim)], [(dim,)]),
        logp_func=None,
        expand_func=None,
        _n_dim=dim,
        _shapes={"x": (dim,)},
        _coords={},
    )
