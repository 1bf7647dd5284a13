"""NumPyro models."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.stats as st
from results import groups

import nutpie

numpyro = pytest.importorskip("numpyro")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro import handlers, infer  # noqa: E402

pytestmark = pytest.mark.usefixtures("single_precision")

RNG = np.random.default_rng(8)
GROUP = np.repeat(np.arange(4), 5)
Y = RNG.normal(1.0 + RNG.normal(size=4)[GROUP], 0.7)
HITS = np.array([3, 5, 1])


def hierarchy(y, hits, *, scale=1.0):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(scale))
    with numpyro.plate("group", 4):
        effect = numpyro.sample("effect", dist.Normal(mu, tau))
        numpyro.deterministic("doubled", 2 * effect)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)), infer={"event_dims": ["kind"]})
    with numpyro.plate("obs", len(y)):
        numpyro.sample("y", dist.Normal(effect[GROUP], 0.7), obs=y)
    numpyro.sample("hits", dist.Multinomial(9, weights), obs=hits)
    numpyro.factor("tilt", 0.5 * mu)


reparametrised = handlers.reparam(hierarchy, config={"effect": infer.reparam.LocScaleReparam(0)})


@pytest.fixture(scope="module")
def model():
    return nutpie.from_numpyro(reparametrised, Y, hits=HITS, coords={"group": list("abcd"), "kind": ["x", "y", "z"]})


@pytest.fixture(scope="module")
def result(model):
    return nutpie.sample(
        model, draws=500, seed=1, init={"tau": 0.5}, log_likelihood=True, log_prior=True, progress_bar=False
    )


# ---------------------------------------------------------------------------------------------------------- results


def test_variables_and_dims_are_those_of_the_model(model):
    assert model.shapes == {
        "mu": (),
        "tau": (),
        "effect_decentered": (4,),
        "weights": (3,),
        "effect": (4,),
        "doubled": (4,),
    }
    named = {"effect_decentered": ("group",), "effect": ("group",), "doubled": ("group",), "weights": ("kind",)}
    assert model.dims == named
    assert model.n_dim == 2 + 4 + 2
    assert model.unconstrained_names[:3] == ["mu", "tau_unconstrained__", "effect_decentered_0"]
    assert "weights_unconstrained___1" in model.unconstrained_names


def test_density_is_that_of_numpyro_in_double_precision(model):
    x = np.random.default_rng(1).normal(size=8)
    value, gradient = model.density().evaluate(x)
    mu, tau = x[0], np.exp(x[1])
    effect = mu + tau * x[2:6]
    weights = model.expand(x[None])["weights"][0]
    expected = (
        st.norm.logpdf(mu, 0, 3)
        + st.halfnorm.logpdf(tau)
        + x[1]
        + st.norm.logpdf(x[2:6]).sum()
        + st.norm.logpdf(Y, effect[GROUP], 0.7).sum()
        + st.multinomial.logpmf(HITS, 9, weights / weights.sum())
        + 0.5 * mu
    )
    # What is left is the Dirichlet density with the Jacobian of its transform, which depends on two parameters only.
    with jax.enable_x64(True):
        transform = dist.biject_to(dist.constraints.simplex)
        y = transform(x[6:])
        rest = float(dist.Dirichlet(jnp.ones(3)).log_prob(y) + transform.log_abs_det_jacobian(x[6:], y))
    assert value == pytest.approx(expected + rest, rel=1e-12)
    steps = 1e-6 * np.eye(8)
    slopes = [(model.density().evaluate(x + s)[0] - model.density().evaluate(x - s)[0]) / 2e-6 for s in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-5)
    assert jnp.zeros(1).dtype == np.float32


def test_posterior_is_that_of_numpyros_own_sampler(result):
    sampler = infer.MCMC(infer.NUTS(reparametrised), num_warmup=300, num_samples=2000, progress_bar=False)
    sampler.run(jax.random.key(0), Y, hits=HITS)
    posterior = groups(result)["posterior"]
    for name, theirs in sampler.get_samples().items():
        theirs = np.asarray(theirs)
        ours = posterior[name].values.reshape(-1, *theirs.shape[1:])
        # Errors of means and spreads of some hundred independent draws each.
        assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 0.25 * theirs.std(0).max()
        assert np.abs(np.log(ours.std(0) / theirs.std(0))).max() < 0.25


def test_arrays_that_numpyro_has_seen_in_single_precision():
    index, kept = np.array([0, 1, 1]), []

    def model():
        with numpyro.plate("group", 2):
            effect = numpyro.sample("effect", dist.Normal(0, 1))
        numpyro.factor("f", jax.lax.add(index, index.astype(np.int64))[0] + effect[index].sum())

    # JAX 0.10 takes an array to be of the precision of a trace that refers to it, as long as there is one.
    kept.append(jax.jit(lambda: jnp.zeros(3, jnp.int32) + index))
    assert kept[0]().dtype == np.int32
    assert nutpie.from_numpyro(model).density().evaluate(np.zeros(2))[0] == pytest.approx(2 * st.norm.logpdf(0))


def test_deterministic_variables_and_observations(result):
    found = groups(result)
    posterior = found["posterior"]
    effect = posterior["mu"] + posterior["tau"] * posterior["effect_decentered"]
    np.testing.assert_allclose(posterior["effect"], effect.transpose("chain", "draw", "group"), rtol=1e-10)
    np.testing.assert_allclose(posterior["doubled"], 2 * posterior["effect"], rtol=1e-12)
    np.testing.assert_allclose(posterior["weights"].sum("kind"), 1, rtol=1e-12)
    assert posterior["group"].values.tolist() == list("abcd")
    assert set(found["observed_data"].data_vars) == {"y", "hits"}
    np.testing.assert_array_equal(found["observed_data"]["y"], Y)
    assert found["observed_data"]["y"].dims == ("obs",)


def test_terms_of_the_density(result):
    found = groups(result)
    posterior, likelihood, prior = found["posterior"], found["log_likelihood"], found["log_prior"]
    assert set(likelihood.data_vars) == {"y", "hits"}
    assert likelihood["y"].dims == ("chain", "draw", "obs")
    assert likelihood["hits"].dims == ("chain", "draw")
    expected = st.norm.logpdf(Y, posterior["effect"].values[..., GROUP], 0.7)
    np.testing.assert_allclose(likelihood["y"], expected, rtol=1e-9)
    assert set(prior.data_vars) == {"mu", "tau", "effect_decentered", "weights"}
    np.testing.assert_allclose(prior["tau"], st.halfnorm.logpdf(posterior["tau"]), rtol=1e-9)
    assert prior["effect_decentered"].dims == ("chain", "draw", "group")
    assert prior["weights"].dims == ("chain", "draw")


def test_dims_of_several_plates():
    def model():
        with numpyro.plate("row", 3, dim=-2), numpyro.plate("column", 2, dim=-1):
            numpyro.sample("table", dist.Normal(0, 1))
            numpyro.sample("vectors", dist.Dirichlet(jnp.ones(4)))
        with numpyro.plate("row", 3, dim=-2):
            numpyro.sample("rows", dist.Normal(0, 1))

    found = nutpie.from_numpyro(model, dims={"vectors": ["row", "column", "part"]})
    assert found.dims == {
        "table": ("row", "column"),
        "vectors": ("row", "column", "part"),
        "rows": ("row", "rows_dim_1"),
    }
    assert nutpie.from_numpyro(model).dims["vectors"] == ("row", "column", "vectors_dim_2")


def test_handlers_have_their_effect():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(mu, sigma).mask(np.array([True, False])), obs=y)

    y = np.array([0.3, 100.0])
    conditioned = handlers.condition(handlers.scale(model, scale=2.0), data={"sigma": 0.5})
    found = nutpie.from_numpyro(conditioned, y=y, var_names=["mu"])
    assert found.free_variables == ["mu"]
    expected = 2 * (st.norm.logpdf(0.7) + st.halfnorm.logpdf(0.5) + st.norm.logpdf(0.3, 0.7, 0.5))
    assert found.density().evaluate(np.array([0.7]))[0] == pytest.approx(expected, rel=1e-12)
    assert set(found.data_groups()["observed_data"]) == {"sigma", "y"}


def test_observations_that_the_model_computes():
    def model(raw):
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1), obs=jnp.log(raw))

    raw = np.array([1.0, 2.0])
    np.testing.assert_allclose(nutpie.from_numpyro(model, raw).data_groups()["observed_data"]["y"], np.log(raw))


# ------------------------------------------------------------------------------------------------------------ starts


def nested_supports():
    low = numpyro.sample("low", dist.Normal(0, 1))
    width = numpyro.sample("width", dist.LogNormal(0, 1))
    numpyro.sample("inside", dist.Uniform(low, low + width))


def test_starts_by_name(result):
    np.testing.assert_allclose(groups(result)["initial_points"]["tau"], 0.5, rtol=1e-12)
    assert len(np.unique(groups(result)["initial_points"]["mu"])) == 4


def test_supports_that_depend_on_other_variables():
    model = nutpie.from_numpyro(nested_supports)
    base = np.array([0.2, -0.3, 0.8])
    point = model.unconstrain({"inside": 104.0, "low": 100.0, "width": 5.0}, base)
    values = {name: float(value[0]) for name, value in model.expand(point[None]).items()}
    assert values == pytest.approx({"low": 100.0, "width": 5.0, "inside": 104.0}, rel=1e-9)
    # Those that are not given keep their unconstrained values.
    moved = model.unconstrain({"low": 7.0}, base)
    np.testing.assert_array_equal(moved, [7.0, -0.3, 0.8])
    point = model.unconstrain({"width_unconstrained__": 2.0, "inside": 1.0}, base)
    assert float(model.expand(point[None])["inside"][0]) == pytest.approx(1.0, rel=1e-9)
    assert point[1] == 2.0
    with pytest.raises(ValueError, match="'inside' is outside the support of its distribution, Uniform"):
        model.unconstrain({"inside": -1.0}, base)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"doubled": np.zeros(4)}, "'doubled' is deterministic"),
        ({"y": Y}, "'y' is observed"),
        ({"tua": 1.0}, "did you mean 'tau'"),
        ({"mu": [1.0]}, r"'mu' has shape \(1,\)"),
        ({"tau": -1.0}, "'tau' is outside the support of its distribution, HalfNormal"),
        ({"tau": 1.0, "tau_unconstrained__": 0.0}, "the same variable"),
    ],
)
def test_values_that_cannot_be_starts(model, values, message):
    with pytest.raises(ValueError, match=message):
        model.unconstrain(values, np.zeros(8))


def narrow_prior():
    numpyro.sample("far", dist.Normal(1000, 0.1))
    numpyro.sample("share", dist.Beta(50, 50))


def test_starts_from_the_prior():
    uniform, prior, median = (
        nutpie.from_numpyro(narrow_prior, init_strategy=s) for s in ("uniform", "prior", "median")
    )
    assert np.abs(uniform.initial_point([1])).max() <= 2
    starts = np.stack([prior.initial_point([1, i]) for i in range(100)])
    values = prior.expand(starts)
    assert values["far"].mean() == pytest.approx(1000, abs=0.05)
    assert values["far"].std() == pytest.approx(0.1, rel=0.4)
    assert values["share"].std() == pytest.approx(0.05, rel=0.4)
    np.testing.assert_array_equal(prior.initial_point([1, 0]), starts[0])
    medians = median.expand(np.stack([median.initial_point([i]) for i in range(20)]))
    assert medians["far"].std() < values["far"].std() / 2


def test_strategies_of_numpyro():
    chosen = nutpie.from_numpyro(narrow_prior, init_strategy=infer.init_to_value(values={"far": 998.0}))
    assert chosen.initial_point([0])[0] == 998.0
    mean = nutpie.from_numpyro(narrow_prior, init_strategy=infer.init_to_mean)
    np.testing.assert_allclose(mean.initial_point([0]), [1000.0, 0.0], atol=1e-9)
    with pytest.raises(ValueError, match=r"init_strategy='priro'.*did you mean 'prior'"):
        nutpie.from_numpyro(narrow_prior, init_strategy="priro")
    with pytest.raises(TypeError, match="init_strategy must be one of"):
        nutpie.from_numpyro(narrow_prior, init_strategy=3)


# ---------------------------------------------------------------------------------------------------------- refusals


def discrete():
    numpyro.sample("k", dist.Poisson(3.0))


def subsampling():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("N", 100, subsample_size=10):
        numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.zeros(10))


def random_key():
    numpyro.sample("mu", dist.Normal(jax.random.normal(numpyro.prng_key()), 1))


def free_parameter():
    numpyro.sample("mu", dist.Normal(numpyro.param("theta", 1.0), 1))


def constant():
    numpyro.sample("c", dist.Delta(1.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (discrete, r"the latent variable 'k' is discrete \(Poisson\)"),
        (subsampling, "the plate 'N' takes a random part of the data, 10 of 100"),
        (random_key, "draws a random key"),
        (free_parameter, "'theta', a site of numpyro.param, which has no prior"),
        (constant, "'c' has a Delta distribution"),
    ],
)
def test_models_that_cannot_be_sampled(model, message):
    with pytest.raises(ValueError, match=message):
        nutpie.from_numpyro(model)


def test_a_seeded_model_keeps_its_random_numbers():
    fixed = nutpie.from_numpyro(handlers.seed(random_key, 0))
    x = np.array([0.5])
    assert fixed.density().evaluate(x)[0] == fixed.density().evaluate(x)[0]


def test_errors_of_arguments():
    with pytest.raises(ValueError, match="did you mean 'effect'"):
        nutpie.from_numpyro(hierarchy, Y, HITS, var_names=["efect"])
    with pytest.raises(ValueError, match="coords: 'group' has values of shape"):
        nutpie.from_numpyro(hierarchy, Y, HITS, coords={"group": [1]})
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        nutpie.from_numpyro(hierarchy, Y)
    assert nutpie.from_numpyro(functools.partial(hierarchy, Y), HITS, scale=2.0).n_dim == 8


def test_a_start_that_is_not_finite_is_explained_by_site():
    def model():
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(jnp.log(a), 1), obs=0.0)

    with pytest.raises(ValueError, match="the log density of 'y' is nan"):
        nutpie.sample(nutpie.from_numpyro(model), init={"a": -1.0}, progress_bar=False)
