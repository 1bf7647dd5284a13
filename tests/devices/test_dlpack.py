"""Densities on arrays of a device: what other libraries get through DLPack, and what comes back.

The device here is the CPU, whose memory NumPy, JAX and PyTorch share in the same way as they do that of CUDA.
"""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest

import nutpie
from nutpie import _lib

SCALES = np.array([1.0, 2.0, 0.5, 4.0, 1.5])
DIM = len(SCALES)
OPTIONS = {"seed": 4, "chains": 6, "tune": 100, "draws": 60, "progress_bar": False, "check": False}


def normal(x):
    """Return log densities and gradients, with NumPy."""
    z = x / SCALES
    return -0.5 * (z * z).sum(-1), -z / SCALES


def by_numpy(x):
    return normal(np.from_dlpack(x))


def model_of(function, **options):
    return nutpie.from_logp(function, DIM, batched=True, device="cpu", **options)


def draws_of(model, **options):
    return nutpie.sample(model, **(OPTIONS | options)).posterior["x"].values


@pytest.fixture(scope="module")
def expected():
    return draws_of(nutpie.from_logp(normal, DIM, batched=True))


def points_of(count=3, dim=DIM):
    """Return an array that a function got."""
    found = []

    def function(x):
        found.append(x)
        return np.zeros(count), np.zeros((count, dim))

    _lib.DeviceFunction(function, dim, None, "cpu")(np.arange(1.0 * count * dim).reshape(count, dim))
    return found[0]


def test_draws_are_those_of_the_function_on_the_host(expected):
    np.testing.assert_array_equal(draws_of(model_of(by_numpy)), expected)


def test_jax_reads_the_memory_itself(expected):
    jax = pytest.importorskip("jax")
    addresses = []

    @jax.jit
    def with_jax(x):
        z = x / SCALES
        return -0.5 * (z * z).sum(-1), -z / SCALES

    def function(x):
        with jax.enable_x64(True):
            there = jax.dlpack.from_dlpack(x)
            addresses.append((np.from_dlpack(x).ctypes.data, there.unsafe_buffer_pointer()))
            return with_jax(there)

    found = draws_of(model_of(function))
    assert len(addresses) > 100
    assert all(own == there for own, there in addresses)
    # XLA may fuse what NumPy rounds twice.
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=1e-6)


def test_models_of_jax_are_evaluated_there():
    jax = pytest.importorskip("jax")
    model = nutpie.from_jax(lambda x: -0.5 * ((x / SCALES) ** 2).sum(), np.zeros(DIM))
    density = model.density_for(6)
    places = set()

    def function(x):
        places.add(jax.dlpack.from_dlpack(x).dtype.name)
        return on_arrays(x)

    on_arrays = density.program.on_arrays()
    x = np.random.default_rng(1).normal(size=(6, DIM))
    for found, wanted in zip(_lib.DeviceFunction(function, DIM, 6, "cpu")(x), density.evaluate_rows(x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-14)
    # Also where JAX computes in single precision everywhere else.
    assert places == {"float64" if jax.config.jax_enable_x64 else "float32"}
    name = next(iter(model.shapes))
    there = nutpie.sample(model_of(on_arrays), **OPTIONS).posterior["x"].values
    here = nutpie.sample(model, **OPTIONS).posterior[name].values
    np.testing.assert_allclose(there[:, :3], here[:, :3], rtol=1e-6)


def test_torch_reads_the_memory_itself(expected):
    torch = pytest.importorskip("torch")
    scales, addresses = torch.tensor(SCALES), []

    def function(x):
        there = torch.from_dlpack(x)
        addresses.append((np.from_dlpack(x).ctypes.data, there.data_ptr()))
        z = there / scales
        return -0.5 * (z * z).sum(-1), -z / scales

    found = draws_of(model_of(function))
    assert all(own == there for own, there in addresses)
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=1e-6)


def test_points_are_not_written_while_somebody_has_them(expected):
    held, arrays = [], []

    def function(x):
        array = np.from_dlpack(x)
        # Some keep the object, some what was made of it, some a capsule that nobody has opened.
        keep = (x, array, x.__dlpack__(max_version=(1, 0)), None)[len(held) % 4]
        held.append(keep)
        arrays.append((array if len(held) % 4 in (1, 2) else None, array.copy()))
        if len(held) > 400:
            held[-400] = None
        return normal(array)

    np.testing.assert_array_equal(draws_of(model_of(function)), expected)
    checked = [(array, copy) for array, copy in arrays if array is not None]
    assert len(checked) > 200
    for array, copy in checked:
        np.testing.assert_array_equal(array, copy)


def test_two_arrays_take_turns_where_nobody_keeps_them():
    addresses = []

    def function(x):
        array = np.from_dlpack(x)
        addresses.append(array.ctypes.data)
        return normal(array)

    draws_of(model_of(function, check=False), sampler="meads", chains=8)
    last = addresses[-50:]
    assert len(set(last)) == 2
    assert all(a != b for a, b in itertools.pairwise(last))
    assert all(address % 64 == 0 for address in addresses)


@pytest.mark.parametrize("versioned", [False, True])
def test_an_array_outlives_all_else(versioned):
    class Old:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, **options):
            return self.array.__dlpack__(max_version=(1, 0) if versioned else None)

    points = points_of()
    assert repr(points.__dlpack__(max_version=(1, 2) if versioned else (0, 8))).startswith(
        '<capsule object "dltensor_versioned"' if versioned else '<capsule object "dltensor"'
    )
    array = np.from_dlpack(Old(points))
    del points
    gc.collect()
    np.testing.assert_array_equal(array, np.arange(15.0).reshape(3, 5))
    # Given back by another thread.
    owner = [array]
    del array
    thread = threading.Thread(target=owner.clear)
    thread.start()
    thread.join()


def test_arrays_are_not_to_be_written():
    array = np.from_dlpack(points_of())
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array += 1.0


def test_what_the_protocol_offers():
    points = points_of(count=2)
    assert points.shape == (2, DIM)
    assert points.dtype == "float64"
    assert points.__dlpack_device__() == (1, 0)
    assert "(2, 5)" in repr(points)
    assert not hasattr(points, "__cuda_array_interface__")
    points.__dlpack__(stream=-1, dl_device=(1, 0), copy=False)
    with pytest.raises(ValueError, match="no streams"):
        points.__dlpack__(stream=7)
    with pytest.raises(BufferError, match="another device"):
        points.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="not copied"):
        points.__dlpack__(copy=True)


class Foreign:
    """An array of a library that knows DLPack as it was before there were versions, and nothing else."""

    def __init__(self, array):
        self.array = array
        self.asked = 0

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, stream=None):
        self.asked += 1
        return self.array.__dlpack__()


@pytest.mark.parametrize("layout", ["C", "F", "rows", "reversed", "float32", "int64"])
def test_results_of_all_layouts(layout):
    x = np.random.default_rng(2).normal(size=(4, DIM))
    logp, grad = normal(x)
    scale = 1.0
    if layout == "int64":
        scale = 1000.0
    wide = np.full((8, 2 * DIM), np.nan)
    wide[::2, :DIM] = scale * grad
    given = {
        "C": lambda: grad,
        "F": lambda: np.asfortranarray(grad),
        "rows": lambda: wide[::2, :DIM],
        "reversed": lambda: grad[::-1].copy()[::-1],
        "float32": lambda: grad.astype(np.float32),
        "int64": lambda: (scale * grad).astype(np.int64),
    }[layout]()
    strided = np.repeat(logp, 3)[::3]

    class WithArray(Foreign):
        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.array, dtype=dtype)

    result = (Foreign(strided), WithArray(given))
    found_logp, found_grad = _lib.DeviceFunction(lambda _: result, DIM, None, "cpu")(x)
    np.testing.assert_array_equal(found_logp, logp)
    np.testing.assert_allclose(found_grad, given, rtol=0 if layout != "float32" else 1e-15)
    assert result[1].asked


def test_lists_and_tuples_will_do():
    x = np.random.default_rng(2).normal(size=(2, DIM))
    logp, grad = normal(x)
    found = _lib.DeviceFunction(lambda _: [logp.tolist(), grad.tolist()], DIM, None, "cpu")(x)
    np.testing.assert_array_equal(found[1], grad)


def test_width_repeats_points_and_splits_calls(expected):
    heights = set()

    def function(x):
        heights.add(x.shape[0])
        return by_numpy(x)

    np.testing.assert_array_equal(draws_of(model_of(function, width=4)), expected)
    assert heights == {4}


def test_threads_share_a_function(expected):
    found = draws_of(model_of(by_numpy, releases_gil=True), cores=2)
    np.testing.assert_array_equal(found, expected)


def test_exceptions_arrive_with_the_draws_so_far():
    calls = []

    def function(x):
        calls.append(1)
        if len(calls) > 300:
            raise RuntimeError("no more")
        return by_numpy(x)

    with pytest.raises(RuntimeError, match="no more") as caught:
        nutpie.sample(model_of(function), **OPTIONS)
    assert caught.traceback[-1].name == "function"
    assert caught.value.partial_trace is not None


def test_recoverable_errors_are_divergences_of_their_chain():
    def function(x):
        array = np.from_dlpack(x)
        if (array[:, 0] > 1.5).any():
            raise ArithmeticError("out of bounds")
        return normal(array)

    def on_host(x):
        if (x[:, 0] > 1.5).any():
            raise ArithmeticError("out of bounds")
        return normal(x)

    start = np.zeros(DIM)
    found = draws_of(model_of(function, initial_point=start, check=False))
    wanted = draws_of(nutpie.from_logp(on_host, DIM, batched=True, initial_point=start, check=False))
    np.testing.assert_array_equal(found, wanted)
    assert found[..., 0].max() <= 1.5


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: 1.0, TypeError, r"must return a pair \(logp, grad\), not float"),
        (lambda x: (np.zeros(3), np.zeros((2, DIM))), ValueError, r"logp of shape \(3,\), \(2,\) is needed"),
        (lambda x: (np.zeros(2), Foreign(np.zeros((2, 4)))), ValueError, r"grad of shape \(2, 4\), \(2, 5\) is needed"),
        (lambda x: (Foreign(np.zeros((2, 1, 1))), x), ValueError, r"logp of shape \(2, 1, 1\)"),
        (lambda x: (np.zeros(x.shape[0]), x), ValueError, "gradient"),
        (lambda x: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_what_a_function_does_wrong(function, error, message):
    with pytest.raises(error, match=message):
        model_of(function)


def test_single_precision_is_warned_of():
    def function(x):
        logp, grad = by_numpy(x)
        return logp.astype(np.float32), grad.astype(np.float32)

    with pytest.warns(UserWarning, match="single precision"):
        model_of(function)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "batched": False}, "batched=True"),
        ({"device": "opencl"}, "'cpu' or 'cuda'"),
        ({"device": "jax"}, "'cpu' or 'cuda'"),
        ({"device": 3}, "'cpu' or 'cuda'"),
        ({"device": "cpu:1"}, "one 'cpu'"),
        ({"device": "cuda:99"}, "device='cuda"),
    ],
)
def test_devices_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        nutpie.from_logp(by_numpy, DIM, **({"batched": True} | options))


def test_chains_elsewhere_bring_their_points(expected):
    try:
        _lib.check_device("opencl", False)
    except ValueError as error:
        pytest.skip(str(error))
    found = draws_of(model_of(by_numpy), device="opencl")
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=1e-6)


def test_on_a_gpu(expected):
    """Nothing but log densities comes to the host; draws agree with those of the CPU until rounding parts them."""
    torch = pytest.importorskip("torch")
    try:
        _lib.check_device("cuda", False)
    except ValueError as error:
        pytest.skip(str(error))
    scales, addresses = torch.tensor(SCALES, device="cuda"), []

    def function(x):
        there = torch.from_dlpack(x)
        addresses.append((x.__cuda_array_interface__["data"][0], there.data_ptr()))
        z = there / scales
        return -0.5 * (z * z).sum(-1), -z / scales

    model = nutpie.from_logp(function, DIM, batched=True, device="cuda")
    found = draws_of(model, device="cuda")
    assert all(own == there for own, there in addresses)
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=1e-6)
    np.testing.assert_allclose(draws_of(model)[:, :3], expected[:, :3], rtol=1e-6)
