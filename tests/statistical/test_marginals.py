"""Laplace approximations against sampling all variables, and against quadrature with every sampler."""

import arviz as az
import numpy as np
import pytest

import nutpie

pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")

#: Standard errors of a difference that are too many, for about a hundred numbers in each test.
TOO_MANY = 5.0


def mcse(values):
    """Monte Carlo standard error of the mean of values of shape (chain, draw)."""
    return np.asarray(az.mcse(values)).item()


def poisson_regression(y, x):
    """Counts of groups with an intercept and a slope each."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    scales = numpyro.sample("scales", dist.HalfNormal(1.0).expand([2]).to_event(1))
    means = numpyro.sample("means", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("group", len(y)):
        level = numpyro.sample("level", dist.Normal(means[0], scales[0]))
        slope = numpyro.sample("slope", dist.Normal(means[1], scales[1]))
    numpyro.sample("y", dist.Poisson(jnp.exp(level[:, None] + slope[:, None] * x)).to_event(2), obs=y)


def cox_process(y):
    """Counts in intervals of time, whose log rate is an autoregressive process."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    level = numpyro.sample("level", dist.Normal(1.0, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    memory = numpyro.sample("memory", dist.Beta(5.0, 1.5))
    with numpyro.handlers.mask(mask=False):  # its density follows
        field = numpyro.sample("field", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    innovation = jnp.append(field[0], (field[1:] - memory * field[:-1]) / jnp.sqrt(1 - memory**2))
    numpyro.factor(
        "prior", dist.Normal(0, scale).log_prob(innovation).sum() - 0.5 * (len(y) - 1) * jnp.log1p(-(memory**2))
    )
    numpyro.sample("y", dist.Poisson(jnp.exp(level + field)).to_event(1), obs=y)


def counts_of_groups():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 10))
    rate = 1.0 + 0.5 * rng.normal(size=(40, 1)) + (0.6 + 0.3 * rng.normal(size=(40, 1))) * x
    return poisson_regression, (rng.poisson(np.exp(rate)), x), ["level", "slope"], "blocks"


def counts_in_time():
    rng = np.random.default_rng(2)
    field = np.zeros(80)
    for i in range(1, 80):
        field[i] = 0.9 * field[i - 1] + 0.3 * rng.normal()
    return cox_process, (rng.poisson(np.exp(2.0 + field)),), ["field"], "banded"


@pytest.mark.parametrize(("case", "draws"), [(counts_of_groups, 4000), (counts_in_time, 1500)])
def test_corrected_draws_are_those_of_sampling_all(case, draws):
    model, data, latent, kind = case()
    options = {"draws": draws, "progress_bar": False}
    compiled = nutpie.laplace(model, *data, latent=latent, correct=True)
    assert compiled.structure.startswith(kind)
    ours = nutpie.sample(compiled, seed=1, **options)
    assert ours["laplace"].attrs["corrected"] == 1
    assert ours["laplace"]["failed"] < 0.01 * ours["laplace"]["points"]
    full = nutpie.sample(nutpie.from_numpyro(model, *data), seed=2, target_accept=0.95, **options)
    # Weighted draws are worth fewer than their number.
    worth = ours["laplace"]["importance_ess"].item() / (4 * draws)
    for name in ours.posterior.data_vars:
        a, b = (np.asarray(r.posterior[name].values) for r in (ours, full))
        for transform in (lambda v: v, np.square):
            means, errors = [], []
            for values in (transform(a), transform(b)):
                flat = values.reshape(*values.shape[:2], -1)
                means.append(flat.mean(axis=(0, 1)))
                errors.append([mcse(np.ascontiguousarray(flat[:, :, i])) for i in range(flat.shape[2])])
            error = np.hypot(np.array(errors[0]) / np.sqrt(worth), errors[1])
            assert (np.abs(means[0] - means[1]) < TOO_MANY * error).all(), name


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("nuts", {}),
        ("hmc", {}),
        ("hmc", {"trajectory": "static", "hmc_length": 2.0}),
        ("hmc", {"trajectory": "multinomial"}),
        ("walnuts", {}),
        ("mams", {}),
        ("auto", {}),
    ],
)
def test_every_sampler_finds_the_posterior_of_a_conjugate_model(sampler, options):
    import jax.numpy as jnp
    from jax.scipy.stats import norm

    n = 20
    y = np.random.default_rng(3).normal(0, 2, n) + np.random.default_rng(4).normal(size=n)

    def log_joint(theta, phi):
        prior = norm.logpdf(phi, 0, 1).sum() + norm.logpdf(theta, phi[1], jnp.exp(phi[0])).sum()
        return prior + norm.logpdf(y, theta, 1).sum()

    model = nutpie.laplace(log_joint, theta_init=np.zeros(n), phi_init=np.zeros(2), latent_draws=False)
    idata = nutpie.sample(model, sampler=sampler, seed=5, draws=10_000, progress_bar=False, **options)
    grid = np.linspace(-5, 5, 801)
    scale, mean = np.meshgrid(grid, grid, indexing="ij")
    variance = np.exp(2 * scale) + 1
    squares = np.sum(y**2) - 2 * mean * y.sum() + n * mean**2
    logp = -0.5 * (scale**2 + mean**2 + squares / variance + n * np.log(variance))
    density = np.exp(logp - logp.max())
    density /= density.sum()
    draws = idata.posterior["phi"].values
    for function in (lambda s, m: s, lambda s, m: m, lambda s, m: s**2, lambda s, m: m**2, lambda s, m: s * m):
        values = function(draws[..., 0], draws[..., 1])
        error = mcse(values)
        assert abs(values.mean() - np.sum(function(scale, mean) * density)) < TOO_MANY * error
