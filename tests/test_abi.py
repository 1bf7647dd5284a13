"""The C header and the extension module."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simple_model import NormalModel

import nutpie
from nutpie import _lib
from nutpie.models import base

SOURCE = r"""
#include <math.h>
#include "nutpie.h"

/* A normal with mean *user_data, defined on the right of -3 only. */
int64_t logp(uint64_t dim, const double *x, double *grad, double *value, void *user_data) {
    const double mean = *(const double *) user_data;
    *value = 0.0;
    for (uint64_t i = 0; i < dim; i++) {
        if (x[i] < -3.0) return NUTPIE_RECOVERABLE;
        grad[i] = mean - x[i];
        *value -= 0.5 * grad[i] * grad[i];
    }
    return NUTPIE_OK;
}
nutpie_logp_fn check_type = logp;
"""


def test_header_and_python_agree():
    header = (Path(nutpie.include_dir()) / "nutpie.h").read_text()
    defined = {name: int(value) for name, value in re.findall(r"#define NUTPIE_(\w+) \(?(-?\d+)\)?", header)}
    assert defined.pop("ABI_VERSION") == _lib.ABI_VERSION
    assert defined == {
        name: getattr(base, name) for name in ("OK", "RECOVERABLE", "FATAL", "BAD_DIMENSION", "PYTHON_EXCEPTION")
    }


@pytest.mark.parametrize(("compiler", "suffix"), [("cc", ".c"), ("c++", ".cpp")])
def test_a_density_in_c(tmp_path, compiler, suffix):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    source = tmp_path / f"density{suffix}"
    source.write_text(SOURCE.replace("int64_t logp", 'extern "C" int64_t logp' if suffix == ".cpp" else "int64_t logp"))
    library = tmp_path / "density.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-I", nutpie.include_dir()]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    handle = ctypes.CDLL(str(library))
    mean = ctypes.c_double(2.0)

    class Model(NormalModel):
        def density(self):
            address = ctypes.cast(handle.logp, ctypes.c_void_p).value
            return base.Density(address, ctypes.addressof(mean), keep_alive=(handle, mean))

    idata = nutpie.sample(Model(3), draws=1000, tune=300, chains=4, seed=1, progress_bar=False)
    assert abs(float(idata.posterior["x"].mean()) - 2.0) < 0.1
    logp, grad = _lib.evaluate(Model(3).density().address, ctypes.addressof(mean), np.zeros(3))
    assert logp == -6.0
    np.testing.assert_array_equal(grad, 2.0)


def test_benchmark_gives_a_time_for_each_evaluation(model):
    times = _lib.benchmark_logp(model.density().address, 0, np.zeros(5), 7, 2)
    assert [len(t) for t in times] == [7, 7]
    assert all(t >= 0 for core in times for t in core)


def test_null_address_is_refused():
    with pytest.raises(ValueError, match="null"):
        _lib.evaluate(0, 0, np.zeros(1))


def test_import_is_light():
    code = "import sys, nutpie; print([m for m in ('arviz', 'pymc', 'numba', 'xarray', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_version_starts_at_one():
    assert [int(part) for part in nutpie.__version__.split(".")[:3]] >= [1, 0, 0]


def test_public_names_exist():
    for name in nutpie.__all__:
        assert getattr(nutpie, name) is not None
        assert name in dir(nutpie)
    with pytest.raises(AttributeError, match="no_such_name"):
        nutpie.no_such_name  # noqa: B018
