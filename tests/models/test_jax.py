"""Densities that are functions of JAX."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats as st
from results import groups

import nutpie

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.scipy.stats import norm  # noqa: E402

from nutpie.models import _jax_batch  # noqa: E402
from nutpie.models._jax_batch import BatchedDensity, BatchedFunction, precision  # noqa: E402
from nutpie.models._jax_transforms import make_transform  # noqa: E402

pytestmark = pytest.mark.usefixtures("single_precision")

Y = np.random.default_rng(3).normal(1.0, 2.0, 40)


def logp(p):
    return (
        norm.logpdf(p["mu"], 0, 10)
        - p["noise"]["sigma"] / 5
        + norm.logpdf(Y, p["mu"], p["noise"]["sigma"]).sum()
        + norm.logpdf(p["rest"][0]).sum()
    )


EXAMPLE = {"mu": 0.0, "noise": {"sigma": 1.0}, "rest": [jnp.zeros(3)]}


def predict(p, key):
    return {"total": p["rest"][0].sum(), "again": p["mu"] + p["noise"]["sigma"] * jax.random.normal(key)}


@pytest.fixture(scope="module")
def model():
    return nutpie.from_jax(
        logp,
        EXAMPLE,
        transforms={"noise.sigma": "positive"},
        expand=predict,
        log_likelihood=lambda p: norm.logpdf(Y, p["mu"], p["noise"]["sigma"]),
        dims={"rest.0": "letter", "y": ["obs"]},
        coords={"letter": ["a", "b", "c"]},
    )


@pytest.fixture(scope="module")
def result(model):
    return nutpie.sample(
        model, draws=500, seed=1, init={"noise": {"sigma": 2.0}}, log_likelihood=True, progress_bar=False
    )


# ---------------------------------------------------------------------------------------------------------- results


def test_names_shapes_and_dims(model):
    assert model.shapes == {"mu": (), "noise.sigma": (), "rest.0": (3,), "total": (), "again": ()}
    assert model.unconstrained_names == ["mu", "noise.sigma_positive__", "rest.0_0", "rest.0_1", "rest.0_2"]
    assert model.dims == {"rest.0": ("letter",)}
    assert nutpie.from_jax(lambda x: -(x @ x), jnp.zeros(2)).shapes == {"x": (2,)}
    assert repr(model) == "<CompiledJaxModel: 5 unconstrained parameters, 5 variables>"


def test_density_is_that_of_the_unconstrained_parameters(model):
    x = np.array([0.5, 0.7, 0.1, -0.2, 0.3])
    sigma = np.exp(0.7)
    expected = (
        st.norm.logpdf(0.5, 0, 10) - sigma / 5 + st.norm.logpdf(Y, 0.5, sigma).sum() + st.norm.logpdf(x[2:]).sum() + 0.7
    )
    value, gradient = model.density().evaluate(x)
    assert value == pytest.approx(expected, rel=1e-13)
    by_mu = (Y - 0.5).sum() / sigma**2 - 0.5 / 100
    by_log_sigma = -sigma / 5 + (((Y - 0.5) / sigma) ** 2 - 1).sum() + 1
    np.testing.assert_allclose(gradient, [by_mu, by_log_sigma, *-x[2:]], rtol=1e-12)


def test_posterior_moments(result):
    posterior = groups(result)["posterior"]
    mu, sigma = np.meshgrid(np.linspace(-2, 4, 400), np.linspace(0.8, 4, 400), indexing="ij")
    log_grid = st.norm.logpdf(mu, 0, 10) - sigma / 5
    log_grid += st.norm.logpdf(Y[:, None, None], mu, sigma).sum(0)
    weights = np.exp(log_grid - log_grid.max())
    weights /= weights.sum()
    # Errors of means of about 1500 independent draws.
    assert posterior["mu"].mean() == pytest.approx((weights * mu).sum(), abs=0.05)
    assert posterior["noise.sigma"].mean() == pytest.approx((weights * sigma).sum(), abs=0.04)
    assert posterior["rest.0"].std() == pytest.approx(1.0, abs=0.06)
    np.testing.assert_allclose(posterior["total"], posterior["rest.0"].sum("letter"), rtol=1e-12)
    assert posterior["letter"].values.tolist() == ["a", "b", "c"]


def test_random_numbers_of_expand_belong_to_the_draw(model, result):
    posterior = groups(result)["posterior"]
    errors = ((posterior["again"] - posterior["mu"]) / posterior["noise.sigma"]).values
    assert len(np.unique(errors)) == errors.size
    assert st.kstest(errors.ravel(), "norm").pvalue > 1e-4
    again = nutpie.sample(model, draws=500, seed=1, init={"noise": {"sigma": 2.0}}, progress_bar=False)
    np.testing.assert_array_equal(posterior["again"], again.posterior["again"])


def test_log_likelihood(result):
    found = groups(result)["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "obs")
    posterior = groups(result)["posterior"]
    expected = st.norm.logpdf(Y, posterior["mu"].values[..., None], posterior["noise.sigma"].values[..., None])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_initial_points(model, result):
    starts = groups(result)["initial_points"]
    np.testing.assert_allclose(starts["noise.sigma"], 2.0, rtol=1e-12)
    assert len(np.unique(starts["mu"])) == 4
    base = model.initial_point([0])
    assert np.abs(base).max() <= 2
    point = model.unconstrain({"mu": 3.0, "noise.sigma_positive__": -1.0}, base)
    np.testing.assert_array_equal(point, [3.0, -1.0, *base[2:]])


def test_var_names():
    model = nutpie.from_jax(logp, EXAMPLE, transforms={"noise.sigma": "positive"}, expand=predict, var_names="total")
    assert list(model.shapes) == ["total"]


# -------------------------------------------------------------------------------------------------------- precision


def test_double_precision_without_an_effect_on_others(model):
    before = jnp.zeros(1).dtype
    x = np.full(5, 0.1)
    value, gradient = model.density().evaluate(x)
    assert jnp.zeros(1).dtype == before == np.float32
    step = 1e-6
    moved = x + step * np.eye(5)[1]
    slope = (model.density().evaluate(moved)[0] - value) / step
    # In single precision the difference would be noise.
    assert slope == pytest.approx(gradient[1], rel=1e-4)
    assert model.expand(x[None])["mu"].dtype == np.float64


def test_arrays_of_the_user_are_what_they_were(model):
    # JAX 0.10 would take them to be of the precision of a trace that refers to them.
    assert jnp.asarray(Y).dtype == np.float32
    assert jax.jit(lambda: jnp.zeros(1, "float32") + Y)().dtype == np.float32


def test_functions_that_were_compiled_in_single_precision():
    data = jnp.asarray(Y)
    assert data.dtype == np.float32
    inner = jax.jit(lambda mu: norm.logpdf(data, mu, 2.0).sum())
    inner(0.0)
    value, _ = nutpie.from_jax(lambda p: inner(p["mu"]), {"mu": 0.0}).density().evaluate(np.array([0.3]))
    rounded = np.asarray(data, dtype=np.float64)
    assert value == pytest.approx(st.norm.logpdf(rounded, 0.3, 2.0).sum(), rel=1e-13)


def test_single_precision_where_asked():
    seen = []

    def density(x):
        seen.append(x.dtype)
        return -(x @ x)

    model = nutpie.from_jax(density, jnp.zeros(2), dtype="float32")
    value, gradient = model.density().evaluate(np.array([0.1, 0.2]))
    assert set(seen) == {np.dtype(np.float32)}
    assert value == pytest.approx(-0.05, rel=1e-6)
    assert gradient.dtype == np.float64
    with pytest.raises(ValueError, match="choose from 'float64', 'float32'"):
        nutpie.from_jax(density, jnp.zeros(2), dtype="float16")


# -------------------------------------------------------------------------------------------------- many points at once


def test_rows_and_widths_that_are_compiled():
    widths = []

    def density(x, data):
        return -(x @ x) * data, -2 * x * data

    batch = BatchedDensity(density, 2, "float64", [np.zeros(())])
    compiled_on = batch._on

    def counted_on(*arguments):
        compiled, constants = compiled_on(*arguments)
        return lambda points, *rest: widths.append(len(points)) or compiled(points, *rest), constants

    batch._on = counted_on
    evaluate = batch.for_run([np.float64(3.0)], chains=64)
    for rows in (1, 64, 63, 16, 15, 4, 3, 1):
        points = np.random.default_rng(rows).normal(size=(rows, 2))
        logp, gradient = evaluate(points)
        np.testing.assert_allclose(logp, -3 * (points**2).sum(1), rtol=1e-14)
        np.testing.assert_allclose(gradient, -6 * points, rtol=1e-14)
    assert widths == [4, 64, 64, 16, 16, 4, 4, 4]
    # Another run does not depend on what came before.
    small = batch.for_run([np.float64(1.0)], chains=3)
    for rows in (1, 3, 2):
        small(np.zeros((rows, 2)))
    assert widths[-3:] == [3, 3, 3]
    batch.for_run([np.float64(1.0)])(np.zeros((1, 2)))
    assert widths[-1] == 1


def test_an_ensemble_is_one_call_for_all_chains(monkeypatch):
    scales = np.arange(1.0, 6.0)
    model = nutpie.from_jax(lambda x: norm.logpdf(x, 2.0, scales).sum(), jnp.zeros(5))
    rows, for_run = [], BatchedDensity.for_run

    def counted(self, *arguments, **options):
        evaluate = for_run(self, *arguments, **options)
        return lambda points: rows.append(len(points)) or evaluate(points)

    monkeypatch.setattr(BatchedDensity, "for_run", counted)
    options = {"sampler": "meads", "chains": 32, "tune": 100, "draws": 200, "seed": 3, "progress_bar": False}
    x = nutpie.sample(model, **options, check=False).posterior["x"].values
    # In the warm-up one fold of four rests until the scales are known; the run before has 4 chains.
    assert (rows.count(32), rows.count(24)) == (40 + 200 + 1, 80)
    assert max(rows[: rows.index(32)]) <= 4
    assert sum(rows[rows.index(32) :]) == 32 * (1 + 100 + 200)
    z = (x - 2.0) / scales
    assert np.abs(z.mean(axis=(0, 1))).max() < 0.1
    assert np.abs(z.var(axis=(0, 1)) - 1).max() < 0.1


def test_variables_of_many_draws_in_parts():
    function = BatchedFunction(lambda x: {"b": x.sum(), "a": jnp.outer(x, x)}, 3, "float64")
    function._most_rows = 10
    draws = np.random.default_rng(0).normal(size=(37, 3))
    for n in (1, 9, 10, 37):
        found = function(draws[:n])
        assert list(found) == ["b", "a"]
        np.testing.assert_allclose(found["b"], draws[:n].sum(1), rtol=1e-13)
        np.testing.assert_allclose(found["a"], draws[:n, :, None] * draws[:n, None, :], rtol=1e-13)
    assert function(draws[:0])["a"].shape == (0, 3, 3)


# ------------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize(
    ("given", "free"),
    [
        ("positive", 3),
        ("unit_interval", 3),
        ("ordered", 3),
        ("simplex", 4),
        ((-1, 2.5), 3),
        ((1, None), 3),
        ((None, -1), 3),
    ],
)
def test_transforms(given, free):
    transform = make_transform("v", given)

    def everything(x):
        y = transform.forward(x)
        # The first three coordinates say it all, of a simplex too.
        matrix = jax.jacfwd(lambda x: transform.forward(x)[:3])(x)
        return y, transform.inverse(y), jnp.sum(transform.log_det(x)), matrix

    points = np.random.default_rng(1).normal(size=(5, 3)) * 2
    points[0] = 0
    with precision("float64"):
        y, back, log_det, jacobian = map(np.asarray, jax.jit(jax.vmap(everything))(points))
    assert y.shape == (5, free)
    np.testing.assert_allclose(back, points, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-14)
    if given == "simplex":
        np.testing.assert_allclose(y[0], 0.25)
    if isinstance(given, tuple):
        assert (y > (-np.inf if given[0] is None else given[0])).all()
        assert (y < (np.inf if given[1] is None else given[1])).all()


def test_transforms_in_a_model():
    example = {"w": jnp.zeros((2, 4)), "rho": 0.0, "c": jnp.zeros(3), "q": 1.0}
    transforms = {
        "w": "simplex",
        "rho": (-1, 1),
        "c": "ordered",
        "q": (lambda x: x**3, lambda x: jnp.log(3 * x**2)),
    }
    model = nutpie.from_jax(lambda p: sum(jnp.sum(v) for v in p.values()), example, transforms=transforms)
    assert model.n_dim == 2 * 3 + 1 + 3 + 1
    x = np.random.default_rng(2).normal(size=model.n_dim)
    values = {name: value[0] for name, value in model.expand(x[None]).items()}
    np.testing.assert_allclose(values["w"].sum(-1), 1.0, rtol=1e-14)
    rest = {name: value for name, value in values.items() if name != "q"}
    np.testing.assert_allclose(model.unconstrain(rest, np.where(np.arange(11) == 4, x, 0.0))[[4]], x[[4]])
    q = model.unconstrained_names.index("q_transformed__")
    back = model.unconstrain(rest | {"q_transformed__": x[q]}, np.zeros(model.n_dim))
    np.testing.assert_allclose(back, x, rtol=1e-10)
    with pytest.raises(ValueError, match="the transform of 'q' has no inverse"):
        model.unconstrain({"q": 1.0}, x)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mu": np.zeros(2)}, r"'mu' has shape \(2,\)"),
        ({"noise.sigma": -1.0}, "'noise.sigma' is outside its support: it must be positive"),
        ({"noise": {"sgima": 1.0}}, "did you mean 'noise.sigma'"),
        ({"noise.sigma": 1.0, "noise.sigma_positive__": 0.0}, "given twice"),
        ({"mu": np.inf}, "finite numbers are needed"),
    ],
)
def test_values_that_cannot_be_starts(model, values, message):
    with pytest.raises(ValueError, match=message):
        model.unconstrain(values, np.zeros(5))


# --------------------------------------------------------------------------------------------------- own gradients


def test_own_gradient_with_a_transform():
    calls = []

    def value_and_gradient(p):
        calls.append(1)
        return -(p["s"] ** 2) + jnp.sum(p["v"]), {"s": -2 * p["s"], "v": jnp.ones(2)}

    def never(p):
        raise AssertionError("the function itself is not needed")

    example = {"s": 1.0, "v": jnp.zeros(2)}
    model = nutpie.from_jax(never, example, gradient=value_and_gradient, transforms={"s": "positive"})
    value, gradient = model.density().evaluate(np.array([0.4, 1.0, 2.0]))
    assert calls
    assert value == pytest.approx(-np.exp(0.8) + 3.0 + 0.4, rel=1e-14)
    np.testing.assert_allclose(gradient, [-2 * np.exp(0.8) + 1, 1.0, 1.0], rtol=1e-14)


def test_a_wrong_gradient_is_refused():
    def wrong(p):
        return -(p["s"] ** 2), {"s": -p["s"]}

    with pytest.raises(ValueError, match="gradient"):
        nutpie.from_jax(lambda p: -(p["s"] ** 2), {"s": 1.0}, gradient=wrong)
    nutpie.from_jax(lambda p: -(p["s"] ** 2), {"s": 1.0}, gradient=wrong, check=False)


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "returns an array of shape \\(40,\\): sum its terms", {"logdensity_fn": lambda p: Y * p["mu"]}),
        (ValueError, "returns one of type int", {"logdensity_fn": lambda p: jnp.int64(1)}),
        (ValueError, "returns a tuple", {"logdensity_fn": lambda p: (p["mu"], p["mu"])}),
        (ValueError, "'n' is of type int.* write it as a float", {"example": {"n": 3}}),
        (ValueError, "'z' is of type complex", {"example": {"z": 1j}}),
        (ValueError, "has no arrays", {"example": {}}),
        (ValueError, "would both be named 'a.b'", {"example": {"a": {"b": 0.0}, "a.b": 0.0}}),
        (ValueError, "did you mean 'positive'", {"transforms": {"mu": "positve"}}),
        (ValueError, "there is no variable 'nu'", {"transforms": {"nu": "positive"}}),
        (ValueError, "for arrays, not for a number", {"transforms": {"mu": "simplex"}}),
        (ValueError, "finite and in order", {"transforms": {"mu": (2, 1)}}),
        (TypeError, "the transform of 'mu' must be one of", {"transforms": {"mu": 3}}),
        (ValueError, r"makes an array of shape \(1,\)", {"transforms": {"mu": (lambda x: x[None], lambda x: x)}}),
        (ValueError, "gradient must return two things", {"gradient": lambda p: p["mu"]}),
        (ValueError, "gradient returns a gradient of shapes", {"gradient": lambda p: (p["mu"], {"m": p["mu"]})}),
        (ValueError, "which is the name of a parameter", {"expand": lambda p: {"mu": p["mu"]}}),
        (ValueError, "there is no variable 'tau'", {"var_names": ["tau"]}),
        (ValueError, "dims: there is no variable 'tau'", {"dims": {"tau": "k"}}),
        (ValueError, "the names of its dimensions are", {"dims": {"mu": "k"}}),
        (ValueError, "coords: there is no dimension 'k'", {"coords": {"k": [1]}}),
        (ZeroDivisionError, "division by zero", {"logdensity_fn": lambda p: p["mu"] * (1 / 0)}),
    ],
)
def test_refusals(error, message, arguments):
    call = {"logdensity_fn": lambda p: -(p["mu"] ** 2), "example": {"mu": 0.0}} | arguments
    with pytest.raises(error, match=message):
        nutpie.from_jax(call.pop("logdensity_fn"), call.pop("example"), **call)


def test_a_start_with_a_density_that_is_not_finite_is_explained():
    model = nutpie.from_jax(lambda p: jnp.log(p["a"]) + p["b"], {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"the log density is nan|the log density is -inf"):
        nutpie.sample(model, init={"a": -1.0, "b": 0.0}, progress_bar=False)


def test_divergences_where_the_density_ends():
    # Half of a normal distribution, without a transform.
    model = nutpie.from_jax(lambda x: jnp.where(x[0] > 0, -0.5 * (x @ x), jnp.nan), jnp.zeros(2))
    found = nutpie.sample(model, draws=200, seed=2, init=np.ones(2), check=False, progress_bar=False)
    assert (found.posterior["x"].values[..., 0] > 0).all()
    assert found.sample_stats["diverging"].sum() > 0


def test_importing_the_package_does_not_import_jax():
    code = "import nutpie, sys; nutpie.from_jax; nutpie.from_numpyro; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_private_part_of_jax_is_needed(monkeypatch):
    def density():
        return BatchedDensity(lambda x: (-0.5 * (x**2).sum() + x[0] * C.sum(), -x + C.sum()), 3, "float64").for_run()

    C = jnp.asarray([0.25, 0.5])
    points = np.random.default_rng(0).normal(size=(4, 3))
    prompt = density()(points)
    _jax_batch.prompt_device.cache_clear()
    monkeypatch.setattr(_jax_batch.importlib, "import_module", lambda name: 1 / 0)
    try:
        assert _jax_batch.prompt_device(single=False) is None
        for ours, plain in zip(prompt, density()(points), strict=True):
            np.testing.assert_array_equal(ours, plain)
    finally:
        _jax_batch.prompt_device.cache_clear()
