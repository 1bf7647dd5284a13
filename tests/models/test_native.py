"""Models from C functions: addresses, ctypes, numba, and libraries compiled from C, C++ and Rust."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from results import groups
from simple_model import fatal_logp, gaussian_logp, normal_logp, rotated_covariance

import nutpie

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/densities"

COMPILERS = {"c": "cc", "c++": "c++", "rust": "rustc"}


@pytest.fixture(scope="module")
def schools():
    spec = importlib.util.spec_from_file_location("schools", EXAMPLES / "schools.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library(schools, tmp_path_factory):
    """Function from a language to the compiled example."""
    made = {}

    def compiled(language):
        if shutil.which(COMPILERS[language]) is None:
            pytest.skip(f"no {COMPILERS[language]} on this machine")
        if language not in made:
            made[language] = schools.compiled(language, tmp_path_factory.mktemp("schools"))
        return made[language]

    return compiled


def sample(model, **options):
    return nutpie.sample(model, **{"draws": 200, "seed": 1, "progress_bar": False, "check": False} | options)


@pytest.mark.parametrize("language", COMPILERS)
def test_the_examples(schools, library, language):
    model = schools.model(library(language))
    idata = sample(model, draws=2000)
    # Long runs by an independent sampler of the same model: 4.4 and 3.6, with standard errors well below these.
    assert abs(float(idata.posterior["mu"].mean()) - 4.4) < 0.35
    assert abs(float(idata.posterior["tau"].mean()) - 3.6) < 0.35
    assert idata.posterior["theta"].dims == ("chain", "draw", "school")
    assert (idata.posterior["tau"].values > 0).all()
    point = np.linspace(-1.0, 2.0, 10)
    values = model.expand(point[None])
    np.testing.assert_allclose(values["theta"][0], point[0] + np.exp(point[1]) * point[2:], rtol=1e-14)
    logp, _ = model.density().evaluate(point)
    residuals = (schools.EFFECTS - values["theta"][0]) / schools.ERRORS
    prior = -(point[0] ** 2) / 50 + point[1] - np.log1p(np.exp(2 * point[1]) / 25)
    np.testing.assert_allclose(logp, prior - 0.5 * (residuals @ residuals + point[2:] @ point[2:]), rtol=1e-13)
    # Where tau overflows the step is rejected.
    assert np.isnan(model.density().evaluate(np.full(10, 1000.0))[0])


def test_a_library_says_what_it_lacks(library, tmp_path):
    path = library("c")
    with pytest.raises(ValueError, match="has no function 'scholls_logp'"):
        nutpie.from_library(path, "scholls_logp", 10)
    with pytest.raises(ValueError, match="has no function 'expand'"):
        nutpie.from_library(path, "schools_logp", 10, expand="expand", variables={"x": 10})
    with pytest.raises(FileNotFoundError, match=r"missing\.so"):
        nutpie.from_library(tmp_path / "missing.so", "f", 1)
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(OSError, match=r"text\.so"):
        nutpie.from_library(tmp_path / "text.so", "f", 1)
    with pytest.raises(RuntimeError, match="another number of parameters"):
        nutpie.from_library(path, "schools_logp", 1)
    with pytest.raises(ValueError, match="give variables"):
        nutpie.from_library(path, "schools_logp", 10, user_data=np.ones(16), expand="schools_expand")


@pytest.mark.parametrize("form", [lambda f: f, lambda f: f.ctypes, lambda f: f.address], ids=["numba", "ctypes", "int"])
def test_forms_of_a_function(form):
    model = nutpie.from_cfunc(form(normal_logp), 3, variables={"a": (), "b": 2})
    idata = sample(model, draws=1000)
    assert abs(float(idata.posterior["a"].std()) - 1.0) < 0.15
    assert abs(float(idata.posterior["b"][..., 1].std()) - 3.0) < 0.4


def test_forms_of_data():
    covariance = rotated_covariance(3, 10.0)
    precision = np.ascontiguousarray(np.linalg.inv(covariance))
    doubles = (ctypes.c_double * 9)(*precision.ravel())
    forms = [precision, doubles, ctypes.pointer(doubles), precision.ctypes.data, ctypes.addressof(doubles)]
    point = np.array([0.3, -1.0, 2.0])
    for data in forms:
        model = nutpie.from_cfunc(gaussian_logp, 3, user_data=data)
        np.testing.assert_allclose(model.density().evaluate(point)[1], -precision @ point)
    with pytest.raises(ValueError, match="not C-contiguous"):
        nutpie.from_cfunc(gaussian_logp, 3, user_data=precision[:, ::-1])
    with pytest.raises(TypeError, match="must be None, an address, an array or an object of ctypes, not list"):
        nutpie.from_cfunc(gaussian_logp, 3, user_data=[1.0])


def test_data_are_kept_alive():
    model = nutpie.from_cfunc(gaussian_logp, 50, user_data=np.eye(50), check=False)
    np.full((200, 50, 50), np.nan)
    assert nutpie.check_gradient(model).ok


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x, TypeError, "for a Python function use nutpie.from_logp"),
        ("logp", TypeError, "not str"),
        (True, TypeError, "not bool"),
        (0, ValueError, "null"),
        (ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(abs), TypeError, r"type c_int \(c_int\), but nutpie.h wants"),
    ],
)
def test_other_things_are_refused(function, error, message):
    with pytest.raises(error, match=message):
        nutpie.from_cfunc(function, 3)


@numba.cfunc("int64(uint64, uint64, CPointer(double), CPointer(double), voidptr)")
def expand_positive(dim, n_out, x, out, user_data):
    """Logarithm of the first parameter, which does not exist for negative ones, and then squares of all."""
    if n_out != dim + 1:
        return -2
    if x[0] < 0:
        return 1
    out[0] = np.log(x[0])
    for i in range(dim):
        out[i + 1] = x[i] ** 2
    return 0


def test_an_expand_function_in_c():
    model = nutpie.from_cfunc(normal_logp, 2, expand=expand_positive, variables={"log": (), "square": 2})
    with pytest.warns(UserWarning, match="the expand function returned the code 1"):
        idata = sample(model, store_unconstrained=True)
    x = idata.unconstrained_posterior["unconstrained"].values
    negative = x[..., 0] < 0
    np.testing.assert_array_equal(np.isnan(idata.posterior["log"]), negative)
    np.testing.assert_allclose(idata.posterior["log"].values[~negative], np.log(x[..., 0][~negative]))
    np.testing.assert_allclose(idata.posterior["square"].values[~negative], x[~negative] ** 2)
    wrong = nutpie.from_cfunc(normal_logp, 2, expand=expand_positive, variables={"log": ()})
    with pytest.raises(RuntimeError, match="fatal code -2"):
        sample(wrong)


def test_an_expand_function_in_python():
    idata = sample(nutpie.from_cfunc(normal_logp, 2, expand=lambda x: {"total": x.sum()}))
    assert idata.posterior["total"].shape == (4, 200)


def test_a_function_that_is_not_thread_safe_runs_on_one_thread():
    assert nutpie.from_cfunc(normal_logp, 2).usable_cores(4, 8) == 4
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int64, ctypes.c_uint64, *[ctypes.POINTER(ctypes.c_double)] * 3, ctypes.c_void_p
    )
    threads, several = set(), threading.Event()

    @prototype
    def callback(dim, x, grad, logp, _data):
        if threading.current_thread() is not threading.main_thread():
            threads.add(threading.get_ident())
            several.wait()
        logp[0] = -0.5 * sum(x[i] ** 2 for i in range(dim))
        for i in range(dim):
            grad[i] = -x[i]
        return 0

    def begun(**options):
        """Number of threads that have called the function once each has had time to."""
        threads.clear()
        several.clear()
        model = nutpie.from_cfunc(callback, 2, check=False, **options)
        run = sample(model, cores=4, draws=30, adaptation="diag", tune=50, blocking=False)
        deadline = time.monotonic() + (0.3 if options else 30)
        while len(threads) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        several.set()
        run.wait()
        return len(threads)

    assert begun(thread_safe=False) == 1
    assert begun() == 4


def test_a_c_function_is_checked():
    @numba.cfunc("int64(uint64, CPointer(double), CPointer(double), CPointer(double), voidptr)")
    def wrong(dim, x, grad, logp, user_data):
        logp[0] = 0.0
        for i in range(dim):
            logp[0] -= x[i] ** 2
            grad[i] = -x[i]
        return 0

    with pytest.raises(ValueError, match=r"gradient is wrong.*'x_0'.*0.5 times.*check=False"):
        nutpie.from_cfunc(wrong, 3)
    assert groups(sample(nutpie.from_cfunc(wrong, 3, check=False)))["posterior"]["x"].shape == (4, 200, 3)
    with pytest.raises(RuntimeError, match="fatal code -1"):
        nutpie.from_cfunc(fatal_logp, 3)
