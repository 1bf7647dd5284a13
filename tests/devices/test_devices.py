"""Runs on devices: the same draws as on the CPU, and clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import nutpie
from nutpie.devices import Devices
from nutpie.models.base import Density

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.scipy.stats import norm  # noqa: E402

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 5))
Y = A @ RNG.normal(size=5) + RNG.normal(size=30)


def logp(p):
    return norm.logpdf(p["b"]).sum() + norm.logpdf(Y, A @ p["b"], jnp.exp(p["s"])).sum() - p["s"] ** 2 / 2


@pytest.fixture(scope="module")
def model():
    return nutpie.from_jax(logp, {"b": np.zeros(5), "s": 0.0})


def draws(model, device, **settings):
    options = {"seed": 3, "chains": 3, "tune": 30, "draws": 10, "progress_bar": False, "check": False} | settings
    result = nutpie.sample(model, device=device, **options)
    return result, np.concatenate([result.warmup_posterior["b"].values, result.posterior["b"].values], axis=1)


def pair(model, **settings):
    return [draws(model, device, **settings) for device in ("cpu", "jax")]


def test_nuts_makes_the_same_draws(model):
    (on_cpu, expected), (result, found) = pair(model, adaptation="diag", store_gradient=True, store_mass_matrix=True)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert result.posterior.attrs["n_gradients"] == on_cpu.posterior.attrs["n_gradients"]
    assert list(result.sample_stats.data_vars) == list(on_cpu.sample_stats.data_vars)
    for name in ("gradient", "mass_matrix_inv", "fisher_distance", "energy", "n_steps"):
        got, wanted = (r.sample_stats[name].values for r in (result, on_cpu))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=name)
    settings = [json.loads(r.posterior.attrs["inference_library_settings"]) for r in (on_cpu, result)]
    assert "device" not in settings[0]
    assert settings[1]["device"] == ["jax"]
    assert settings[1]["device_dtype"] == "float64"


@pytest.mark.parametrize("rank", [pytest.param(1, marks=pytest.mark.statistical), 4])
def test_nuts_makes_the_same_draws_under_a_coupled_metric(model, rank):
    vectors = np.linalg.qr(np.random.default_rng(rank).normal(size=(6, rank)))[0].T
    metric = {"stds": np.linspace(0.1, 0.3, 6), "eigvals": np.linspace(0.5, 3.0, rank), "eigvecs": vectors}
    (_, expected), (_, found) = pair(model, adaptation="fixed", metric=metric, tune=10)
    # The CPU device rounds directions to six digits.
    np.testing.assert_allclose(found[:, :8], expected[:, :8], atol=1e-4)


@pytest.mark.statistical
def test_pooled_warmup_begins_with_the_same_draws(model):
    (_, expected), (_, found) = pair(model, tune=60)
    np.testing.assert_allclose(found[:, :5], expected[:, :5], atol=1e-9)


def test_an_ensemble_begins_with_the_same_draws(model):
    settings = {"sampler": "meads", "chains": 16, "tune": 20, "meads_pilot": 0, "init": 0.3}
    (on_cpu, expected), (result, found) = pair(model, **settings)
    np.testing.assert_allclose(found[:, :15], expected[:, :15], atol=1e-6)
    for name in ("lp", "fisher_distance", "step_size"):
        got, wanted = (r.warmup_sample_stats[name].values[:, :15] for r in (result, on_cpu))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.statistical
@pytest.mark.parametrize("settings", [{"sampler": "mams"}, {"integrator": "exact_normal"}], ids=str)
def test_other_kernels_find_the_posterior(model, settings):
    (_, expected), (_, found) = pair(model, tune=100, draws=200, chains=4, **settings)
    expected, found = expected[:, 100:], found[:, 100:]
    spread = expected.std((0, 1))
    # Errors of means of some 400 independent draws each.
    np.testing.assert_allclose(found.mean((0, 1)) / spread, expected.mean((0, 1)) / spread, atol=0.35)
    np.testing.assert_allclose(found.std((0, 1)), spread, rtol=0.3)


def test_single_precision(model):
    _, expected = draws(model, "cpu", adaptation="diag")
    result, found = draws(model, "jax", adaptation="diag", device_dtype="float32")
    np.testing.assert_allclose(found[:, :10], expected[:, :10], atol=2e-3)
    assert not np.array_equal(found, expected)
    assert np.array_equal(found, found.astype(np.float32))
    assert json.loads(result.posterior.attrs["inference_library_settings"])["device_dtype"] == "float32"
    single = nutpie.from_jax(logp, {"b": np.zeros(5), "s": 0.0}, dtype="float32", check=False)
    assert Devices.of("jax", None, single.density()).dtype == "float32"


def test_exceptions_of_the_density_arrive():
    def fails(x):
        if (np.abs(x) > 3).any():
            raise RuntimeError("too far away")
        return np.float64(0.0)

    def slope(x):
        zero = jax.pure_callback(fails, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")
        return x.sum() + zero, jnp.ones_like(x)

    model = nutpie.from_jax(lambda x: x.sum(), jnp.zeros(2), gradient=lambda x: slope(x), check=False)
    with pytest.raises(Exception, match="too far away") as caught:
        draws(model, "jax")
    assert caught.value.partial_trace is not None


@pytest.mark.statistical
def test_devices_take_blocks_of_chains(model):
    """Of two devices of JAX each has half of the chains."""
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
import numpy as np, jax
from test_devices import logp, draws
import nutpie
model = nutpie.from_jax(logp, {{"b": np.zeros(5), "s": 0.0}})
assert len(jax.devices()) == 2
one, two = (draws(model, d, adaptation="diag", tune=15, draws=5)[1] for d in ("jax", ["jax:0", "jax:1"]))
np.testing.assert_allclose(one, two, atol=1e-8)
"""
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("device", "dtype", "error", "match"),
    [
        ("cud", None, ValueError, "did you mean 'cuda'"),
        ("gpu", None, ValueError, "choose from 'cpu', 'jax', 'cuda', 'opencl'"),
        (3, None, TypeError, "a name such as 'cpu'"),
        ([], None, TypeError, "a list of names"),
        (["cuda:0", "opencl:0"], None, ValueError, "of one kind"),
        (["cuda:0", "cuda:0"], None, ValueError, "twice"),
        ("cuda:x", None, ValueError, "'cuda:0'"),
        ("cpu:1", None, ValueError, "one 'cpu'"),
        ("cpu", "float32", ValueError, "double precision"),
        ("jax", "float16", ValueError, "device_dtype='float16'"),
        ("jax:99", None, ValueError, "numbered from 0"),
        ("jax:quantum", None, ValueError, "no platform 'quantum'"),
        ("jax:cpu:0:0", None, ValueError, "'jax:gpu:1'"),
    ],
)
def test_what_is_no_device_is_refused(model, device, dtype, error, match):
    with pytest.raises(error, match=match):
        nutpie.sample(model, device=device, device_dtype=dtype, progress_bar=False)


def test_jax_needs_a_function_of_jax():
    model = nutpie.from_logp(lambda x: (-0.5 * x @ x, -x), 2)
    with pytest.raises(ValueError, match="from_jax"):
        nutpie.sample(model, device="jax", progress_bar=False)
    with pytest.raises(ValueError, match="from_jax"):
        Devices.of("jax", None, Density(1))
