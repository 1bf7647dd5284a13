"""Turn a numba-compiled log density into a C callback with the ABI of ``nutpie.h``.

The callback jumps to the machine code of the compiled function by its address. Nothing of the function's LLVM IR is
linked or optimised a second time, which is what makes loading a model from the on-disk cache fast: an ordinary
``numba.cfunc`` around it costs seconds in each process, this costs milliseconds.
"""

from __future__ import annotations

import ctypes
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.np.arrayobj import make_array, populate_array

from nutpie.models.base import BAD_DIMENSION, OK, PYTHON_EXCEPTION

__all__ = ["ArrayTable", "Callback", "build_callback", "build_callback_cfunc"]

_log = logging.getLogger("nutpie")

_I64 = ir.IntType(64)
_F64_PTR = ir.DoubleType().as_pointer()
_BYTE_PTR = ir.IntType(8).as_pointer()


@dataclass(frozen=True)
class Callback:
    """Address of a C callback, and the objects that own its machine code."""

    address: int
    keep_alive: Any = field(repr=False)


class ArrayTable:
    """The ``user_data`` of a callback: for each array its address, then its shape, as 64-bit words.

    A table is never changed after it was built, so that a callback may read it from any thread. New data means a new
    table.

    Parameters
    ----------
    arrays
        In the order of the inputs of the compiled function, after the vector of unconstrained parameters.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = tuple(np.require(a, requirements=["C_CONTIGUOUS", "ALIGNED"]).reshape(a.shape) for a in arrays)
        words: list[int] = []
        for array in self.arrays:
            words += [array.ctypes.data, *array.shape]
        self._words = np.array(words, dtype=np.uintp)

    @property
    def address(self) -> int:
        """Address of the table, 0 when it is empty."""
        return self._words.ctypes.data if self._words.size else 0


def _array_types(inputs: Sequence[tuple[np.dtype, int]]) -> list[types.Array]:
    vector = types.Array(types.float64, 1, "C")
    return [vector, *(types.Array(numba.from_dtype(dtype), ndim, "C") for dtype, ndim in inputs)]


def build_callback(jit_fn: Any, n_dim: int, inputs: Sequence[tuple[np.dtype, int]]) -> Callback:
    """Compile ``jit_fn`` (or load it from numba's cache) and wrap it as a C callback.

    Parameters
    ----------
    jit_fn
        A numba dispatcher: ``(x, *arrays) -> (logp, gradient)`` with arrays of zero and one dimension as results.
    n_dim
        Length of ``x``; the callback returns ``BAD_DIMENSION`` for any other.
    inputs
        Dtype and number of dimensions of each of ``arrays``, which the callback takes from an `ArrayTable`.
    """
    array_types = _array_types(inputs)
    _, folded = jit_fn._compiler.fold_argument_types(tuple(array_types), {})
    # Errors of the model itself surface here, not as a reason to fall back.
    jit_fn.compile(tuple(folded))
    try:
        result = jit_fn.overloads[tuple(folded)]
        return _wrap_by_address(jit_fn, result, array_types, n_dim)
    except Exception as err:  # any change of numba's internals ends up here
        _log.warning("cannot call the compiled density by its address (%r): compiling a numba.cfunc instead", err)
        return build_callback_cfunc(jit_fn, n_dim, inputs)


def _wrap_by_address(jit_fn: Any, result: Any, array_types: Sequence[types.Array], n_dim: int) -> Callback:
    # A result from the cache comes with the plain context, in which reference counting is off.
    context = result.target_context.subtarget(enable_nrt=True)
    name = f"nutpie_logp_{uuid.uuid4().hex}"
    with global_compiler_lock:
        target = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
        if not target:
            raise RuntimeError(f"no machine code for {result.fndesc.llvm_func_name}")
        library = context.codegen().create_library(name)
        module = library.create_ir_module(name)
        _Emitter(context, module, name, result.signature, target).emit(array_types, n_dim)
        context.post_lowering(module, library)
        library.add_ir_module(module)
        library.finalize()
        address = library.get_pointer_to_function(name)
    if not address:
        raise RuntimeError("no machine code for the callback")
    return Callback(address, (library, result, jit_fn))


class _Emitter:
    """Writes the LLVM IR of one callback."""

    def __init__(self, context: Any, module: ir.Module, name: str, signature: Any, target: int) -> None:
        self.context = context
        self.module = module
        self.signature = signature
        self.target = target
        self.raise_fn = self._emit_raise(f"{name}_raise")
        signature_type = ir.FunctionType(_I64, [_I64, _F64_PTR, _F64_PTR, _F64_PTR, _BYTE_PTR])
        self.fn = ir.Function(module, signature_type, name)
        self.builder = ir.IRBuilder(self.fn.append_basic_block("entry"))

    def emit(self, array_types: Sequence[types.Array], n_dim: int) -> None:
        builder = self.builder
        dim, x, grad, logp, user_data = self.fn.args
        with builder.if_then(builder.icmp_unsigned("!=", dim, _I64(n_dim)), likely=False):
            builder.ret(_I64(BAD_DIMENSION))

        arrays = [self._array(array_types[0], x, [_I64(n_dim)])]
        arrays += self._arrays_of_table(array_types[1:], user_data)
        status, out = self._call(array_types, arrays)
        with builder.if_then(status.is_error, likely=False):
            builder.call(self.raise_fn, [status.code, builder.bitcast(status.excinfoptr, _BYTE_PTR)])
            builder.ret(_I64(PYTHON_EXCEPTION))

        code = self._store_results(out, n_dim, grad, logp)
        self.context.nrt.decref(builder, self.signature.return_type, out)
        builder.ret(code)

    def _array(self, array_type: types.Array, data: ir.Value, shape: list[ir.Value]) -> ir.Value:
        """Make a borrowed, C-contiguous array: without meminfo, so that reference counting leaves it alone."""
        builder = self.builder
        itemsize = self.context.get_abi_sizeof(self.context.get_data_type(array_type.dtype))
        strides: list[ir.Value] = []
        step: ir.Value = _I64(itemsize)
        for length in reversed(shape):
            strides.insert(0, step)
            step = builder.mul(step, length)
        array = make_array(array_type)(self.context, builder)
        pointer = builder.bitcast(data, array.data.type)
        populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
        return array._getvalue()

    def _arrays_of_table(self, array_types: Sequence[types.Array], user_data: ir.Value) -> list[ir.Value]:
        builder = self.builder
        table = builder.bitcast(user_data, _I64.as_pointer())
        arrays, at = [], 0
        for array_type in array_types:
            words = [builder.load(builder.gep(table, [_I64(at + k)])) for k in range(1 + array_type.ndim)]
            arrays.append(self._array(array_type, builder.inttoptr(words[0], _BYTE_PTR), words[1:]))
            at += len(words)
        return arrays

    def _call(self, array_types: Sequence[types.Array], arrays: list[ir.Value]) -> tuple[Any, ir.Value]:
        builder, call_conv, signature = self.builder, self.context.call_conv, self.signature
        if len(signature.args) == 1 and isinstance(signature.args[0], types.BaseTuple):
            # PyTensor's function has the signature ``(*args)``; for numba that is a single tuple.
            args = [self.context.make_tuple(builder, signature.args[0], arrays)]
        else:
            if tuple(signature.args) != tuple(array_types):
                raise TypeError(f"unexpected signature {signature}")
            args = arrays
        function_type = call_conv.get_function_type(signature.return_type, signature.args)
        callee = builder.inttoptr(_I64(self.target), function_type.as_pointer())
        return call_conv.call_function(builder, callee, signature.return_type, signature.args, args)

    def _store_results(self, out: ir.Value, n_dim: int, grad: ir.Value, logp: ir.Value) -> ir.Value:
        """Copy the results to where the caller wants them; the value is the return code."""
        builder = self.builder
        expected = [(0, types.float64), (1, types.float64)]
        if [(t.ndim, t.dtype) for t in self.signature.return_type] != expected:
            raise TypeError(f"unexpected result {self.signature.return_type}")
        value_type, grad_type = self.signature.return_type
        value = make_array(value_type)(self.context, builder, value=builder.extract_value(out, 0))
        builder.store(builder.load(value.data), logp)

        gradient = make_array(grad_type)(self.context, builder, value=builder.extract_value(out, 1))
        (length,) = cgutils.unpack_tuple(builder, gradient.shape, 1)
        (stride,) = cgutils.unpack_tuple(builder, gradient.strides, 1)
        fits = builder.icmp_signed("==", length, _I64(n_dim))
        with builder.if_then(fits, likely=True):
            source = builder.ptrtoint(gradient.data, _I64)
            with cgutils.for_range(builder, _I64(n_dim)) as loop:
                element = builder.inttoptr(builder.add(source, builder.mul(stride, loop.index)), _F64_PTR)
                builder.store(builder.load(element), builder.gep(grad, [loop.index]))
        return builder.select(fits, _I64(OK), _I64(BAD_DIMENSION))

    def _emit_raise(self, name: str) -> ir.Function:
        """Emit a function which sets the Python error indicator from numba's error status.

        It is a function of its own because numba's code for it may return early, with the GIL held by the caller.
        """
        call_conv = self.context.call_conv
        inner_type = ir.FunctionType(ir.VoidType(), [ir.IntType(32), _BYTE_PTR])
        inner = ir.Function(self.module, inner_type, f"{name}_inner")
        inner.attributes.add("noinline")
        builder = ir.IRBuilder(inner.append_basic_block("entry"))
        from numba.core.callconv import excinfo_ptr_t

        excinfo = builder.bitcast(inner.args[1], excinfo_ptr_t)
        status = call_conv._get_return_status(builder, inner.args[0], excinfo)
        call_conv.raise_error(builder, self.context.get_python_api(builder), status)
        builder.ret_void()

        outer = ir.Function(self.module, inner_type, name)
        outer.attributes.add("noinline")
        builder = ir.IRBuilder(outer.append_basic_block("entry"))
        pyapi = self.context.get_python_api(builder)
        gil_state = pyapi.gil_ensure()
        builder.call(inner, outer.args)
        pyapi.gil_release(gil_state)
        builder.ret_void()
        return outer


def build_callback_cfunc(jit_fn: Any, n_dim: int, inputs: Sequence[tuple[np.dtype, int]]) -> Callback:
    """Build the callback of `build_callback` with numba's public API only, at the price of compiling it again."""
    array_types = _array_types(inputs)[1:]
    report = _exception_reporter(jit_fn)
    source = _cfunc_source(array_types)
    # numba cannot unpack a run-time number of arrays of different types, hence source code for this signature.
    namespace: dict[str, Any] = {
        "jit_fn": jit_fn,
        "carray": numba.carray,
        "load": _make_loader(),
        "report": report,
        **{f"dtype{i}": t.dtype for i, t in enumerate(array_types)},
    }
    namespace |= {"N_DIM": n_dim, "OK": OK, "BAD_DIMENSION": BAD_DIMENSION, "PYTHON_EXCEPTION": PYTHON_EXCEPTION}
    exec(compile(source, "<nutpie callback>", "exec"), namespace)
    pointer = types.CPointer(types.float64)
    signature = types.int64(types.uint64, pointer, pointer, pointer, types.CPointer(types.uint64))
    callback = numba.cfunc(signature, nopython=True)(namespace["callback"])
    return Callback(callback.address, (callback, jit_fn, report))


def _cfunc_source(array_types: Sequence[types.Array]) -> str:
    lines, names, at = [], ["x"], 0
    for i, array_type in enumerate(array_types):
        shape = "".join(f"user_data[{at + 1 + k}], " for k in range(array_type.ndim))
        lines.append(f"    a{i} = load(user_data[{at}], ({shape}), dtype{i})")
        names.append(f"a{i}")
        at += 1 + array_type.ndim
    args = ", ".join(names)
    return "\n".join(
        [
            "def callback(dim, x_, grad_, logp_, user_data):",
            "    if dim != N_DIM: return BAD_DIMENSION",
            "    x = carray(x_, (N_DIM,))",
            "    grad = carray(grad_, (N_DIM,))",
            "    logp = carray(logp_, (1,))",
            *lines,
            "    failed = False",
            "    try:",
            f"        value, gradient = jit_fn({args})",
            "        logp[0] = value[()]",
            "        grad[:] = gradient",
            "    except Exception:",
            "        failed = True",
            "    if failed:",
            f"        report({args})",
            "        return PYTHON_EXCEPTION",
            "    return OK",
        ]
    )


def _make_loader() -> Any:
    """Make a function which views an address in the table as an array of given shape and dtype."""
    from numba.core.extending import intrinsic

    @intrinsic
    def as_pointer(typingctx: Any, word: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], cgutils.voidptr_t)

        return types.voidptr(types.uint64), codegen

    @numba.njit(inline="never")
    def load(word, shape, dtype):
        return numba.carray(as_pointer(word), shape, dtype)

    return load


def _exception_reporter(jit_fn: Any) -> Any:
    """Compile a function which evaluates again, from Python, and leaves the exception set for the caller.

    Needed because numba's ``except`` does not hand over the exception object.
    """
    api = ctypes.pythonapi

    def function(name: str, restype: Any, *argtypes: Any) -> Any:
        address = ctypes.cast(getattr(api, name), ctypes.c_void_p).value
        return ctypes.CFUNCTYPE(restype, *argtypes)(address or 0)

    ensure = function("PyGILState_Ensure", ctypes.c_int)
    release = function("PyGILState_Release", None, ctypes.c_int)
    set_object = function("PyErr_SetObject", None, ctypes.c_size_t, ctypes.c_size_t)
    decref = function("Py_DecRef", None, ctypes.c_size_t)

    def catch(args: tuple[np.ndarray, ...]) -> tuple[int, int]:
        try:
            jit_fn(*args)
        except BaseException as err:
            error: BaseException = err
        else:
            error = RuntimeError("the log density failed, but not when it was evaluated again")
        for obj in (type(error), error):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(obj))
        return id(type(error)), id(error)

    pair = types.UniTuple(types.uintp, 2)

    # A function of its own, for numba pickles what it refers to and ctypes functions cannot be pickled.
    @numba.njit
    def caught(args):
        with numba.objmode(found=pair):
            found = catch(args)
        return found  # noqa: RET504 (numba wants no return inside of the block)

    @numba.njit
    def report(*args):
        found = caught(args)
        state = ensure()
        set_object(found[0], found[1])
        decref(found[0])
        decref(found[1])
        release(state)

    return report
