"""Models that the tests share, with densities compiled by numba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numba import types

from nutpie.models.base import CompiledModel, Density, PointwiseDensity, Variable

_DOUBLE = types.CPointer(types.float64)
_SIGNATURE = types.int64(types.uint64, _DOUBLE, _DOUBLE, _DOUBLE, types.voidptr)


@numba.cfunc(_SIGNATURE)
def normal_logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    logp = 0.0
    for i in range(dim):
        scale = 1.0 / (i + 1.0)
        z = x[i] * scale
        logp -= 0.5 * z * z
        grad[i] = -z * scale
    numba.carray(logp_ptr, (1,))[0] = logp
    return 0


@numba.cfunc(_SIGNATURE)
def impossible_logp(_dim, _x_ptr, _grad_ptr, _logp_ptr, _user_data):
    return 1


@numba.cfunc(_SIGNATURE)
def fatal_logp(_dim, _x_ptr, _grad_ptr, _logp_ptr, _user_data):
    return -1


@numba.cfunc(_SIGNATURE)
def fatal_far_out(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    logp = 0.0
    for i in range(dim):
        logp -= 0.5 * x[i] * x[i]
        grad[i] = -x[i]
    numba.carray(logp_ptr, (1,))[0] = logp
    return -1 if x[0] > 3.0 else 0


@numba.cfunc(_SIGNATURE)
def funnel_logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    """Neal's funnel: the first parameter is normal, the others have its exponential as variance."""
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    precision = np.exp(-x[0])
    logp = -x[0] * x[0] / 18.0 - 0.5 * (dim - 1) * x[0]
    grad[0] = -x[0] / 9.0 - 0.5 * (dim - 1)
    for i in range(1, dim):
        logp -= 0.5 * precision * x[i] * x[i]
        grad[0] += 0.5 * precision * x[i] * x[i]
        grad[i] = -precision * x[i]
    numba.carray(logp_ptr, (1,))[0] = logp
    return 0


@numba.cfunc(_SIGNATURE)
def gaussian_logp(dim, x_ptr, grad_ptr, logp_ptr, user_data):
    """A normal distribution around 0; the data are its precision matrix."""
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    precision = numba.carray(user_data, (dim, dim), np.float64)
    logp = 0.0
    for i in range(dim):
        grad[i] = 0.0
        for j in range(dim):
            grad[i] -= precision[i, j] * x[j]
        logp += 0.5 * grad[i] * x[i]
    numba.carray(logp_ptr, (1,))[0] = logp
    return 0


@numba.cfunc(_SIGNATURE)
def two_modes_logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    """A standard normal distribution, and one that is 100 lower and 100 away in each direction."""
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    near, far = 0.0, -100.0
    for i in range(dim):
        near -= 0.5 * x[i] * x[i]
        far -= 0.5 * (x[i] - 100.0) ** 2
    center = 0.0 if near > far else 100.0
    for i in range(dim):
        grad[i] = center - x[i]
    numba.carray(logp_ptr, (1,))[0] = max(near, far)
    return 0


class NormalModel(CompiledModel):
    """Independent normals with standard deviations 1, 2, 3, ..."""

    def __init__(self, n_dim: int, function: Any = normal_logp) -> None:
        self._n_dim = n_dim
        self._function = function

    @property
    def n_dim(self) -> int:
        return self._n_dim

    @property
    def variables(self) -> Sequence[Variable]:
        double = np.dtype(np.float64)
        return [Variable("x", (self._n_dim,), double, ("name",)), Variable("total", (), double)]

    @property
    def coords(self) -> dict[str, Any]:
        return {"name": [f"n{i}" for i in range(self._n_dim)]}

    @property
    def unconstrained_names(self) -> Sequence[str]:
        return [f"x_{i}" for i in range(self._n_dim)]

    def density(self) -> Density:
        return Density(self._function.address, keep_alive=self._function)

    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": draws, "total": draws.sum(axis=1)}

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        return np.random.default_rng(list(seed)).uniform(-1, 1, self._n_dim)

    def data_groups(self) -> dict[str, dict[str, np.ndarray]]:
        return {"observed_data": {"y": np.arange(3.0)}, "constant_data": {}}


class GaussianModel(NormalModel):
    """A normal distribution around 0 with any covariance."""

    def __init__(self, covariance: np.ndarray) -> None:
        super().__init__(len(covariance), gaussian_logp)
        self._precision = np.ascontiguousarray(np.linalg.inv(covariance))

    def density(self) -> Density:
        return Density(gaussian_logp.address, self._precision.ctypes.data, keep_alive=self._precision)


def rotated_covariance(n_dim: int, condition_number: float, seed: int = 0) -> np.ndarray:
    """A covariance matrix with eigenvalues from 1 up, evenly on a logarithmic scale, and random eigenvectors."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n_dim, n_dim)))
    return (basis * np.geomspace(1, condition_number, n_dim)) @ basis.T


class ModelWithTerms(NormalModel):
    """A front end that knows the terms of its density."""

    def pointwise(self, group):
        """One term for each coordinate."""

        def compute(draws):
            return {"y": -0.5 * (draws / np.arange(1, self.n_dim + 1)) ** 2}

        return PointwiseDensity([Variable("y", (self.n_dim,), np.dtype(float), ("name",))], compute)
