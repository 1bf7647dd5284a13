"""Densities in source, compiled and evaluated by a GPU, or by OpenCL on the CPU where there is one."""

from __future__ import annotations

import os

import numpy as np
import pytest

import nutpie
from nutpie import _lib

# pocl with several threads hangs now and then in a condition variable of glibc 2.36.
os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")

NORMAL = """
FUNCTION double logp_grad(i64 dim, GLOBAL const real *x, GLOBAL real *grad, GLOBAL const double *data,
                          LOCAL double *room) {
    double logp = 0;
    for (i64 i = ITEM; i < dim; i += GROUP) {
        double z = x[i] - data[dim + i];
        grad[i] = -z / data[i];
        logp -= 0.5 * z * z / data[i];
    }
    return logp;
}
"""

VARIANCES = np.array([1.0, 4.0, 0.25])
MEANS = np.array([2.0, -1.0, 0.0])
DATA = np.concatenate([VARIANCES, MEANS])


def _missing(name):
    try:
        _lib.check_device(name, False)
    except ValueError as error:
        return str(error)
    return None


MISSING = _missing("opencl")
needs_opencl = pytest.mark.skipif(
    MISSING is not None and "opencl" not in os.environ.get("NUTPIE_TEST_DEVICES", ""), reason=str(MISSING)
)

OPTIONS = {"seed": 2, "chains": 4, "tune": 300, "draws": 500, "progress_bar": False, "check": False}


@pytest.fixture(scope="module")
def model():
    return nutpie.from_source(NORMAL, 3, data=DATA, variables={"low": (), "rest": (2,)})


@needs_opencl
def test_the_device_evaluates_the_source(model):
    found = nutpie.sample(model, device="opencl", **OPTIONS)
    draws = np.concatenate([found.posterior["low"].values[..., None], found.posterior["rest"].values], axis=-1)
    np.testing.assert_allclose(draws.mean((0, 1)), MEANS, atol=5 * np.sqrt(VARIANCES.max() / 800))
    np.testing.assert_allclose(draws.var((0, 1)), VARIANCES, rtol=0.25)
    # Chains of the CPU get the same numbers from it, point by point.
    on_cpu = nutpie.sample(model, **OPTIONS)
    first = [result.posterior["rest"].values[:, 0] for result in (found, on_cpu)]
    assert np.isfinite(first).all()
    begin = [nutpie.sample(model, device=d, **OPTIONS | {"tune": 5, "draws": 3}) for d in ("cpu", "opencl")]
    np.testing.assert_allclose(begin[0].posterior["rest"], begin[1].posterior["rest"], atol=1e-9)


@needs_opencl
def test_single_precision(model):
    found = nutpie.sample(model, device="opencl", device_dtype="float32", **OPTIONS)
    np.testing.assert_allclose(found.posterior["rest"].mean(("chain", "draw")), MEANS[1:], atol=0.35)
    assert found.posterior["rest"].dtype == np.float64


@needs_opencl
def test_a_wrong_gradient_and_a_wrong_source_are_told():
    with pytest.raises(ValueError, match="gradient"):
        nutpie.from_source(NORMAL.replace("-z / data[i]", "-z"), 3, data=DATA)
    with pytest.raises(RuntimeError, match="compiling failed"):
        nutpie.from_source(NORMAL.replace("double z", "double"), 3, data=DATA)


def test_what_is_no_source_is_refused():
    with pytest.raises(ValueError, match="logp_grad"):
        nutpie.from_source("int main() {}", 3)
    with pytest.raises(ValueError, match="compiled by 'opencl' or 'cuda'"):
        nutpie.from_source(NORMAL, 3, device="jax")
    with pytest.raises(ValueError, match=r"device='opencl:99'|OpenCL"):
        nutpie.from_source(NORMAL, 3, device="opencl:99")
