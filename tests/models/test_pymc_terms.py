"""Terms of the log density of PyMC models against PyMC's own ``compute_log_likelihood`` and ``compute_log_prior``.

No model is compiled to numba here: the terms do not need it.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pm = pytest.importorskip("pymc")
pytest.importorskip("numba")

import pymc.dims as pmd  # noqa: E402
import pytensor.tensor as pt  # noqa: E402
import xarray as xr  # noqa: E402
from pytensor.compile.mode import Mode  # noqa: E402

from nutpie.models._pymc_graph import ExpandFunction  # noqa: E402
from nutpie.models._pymc_indices import IndexChecks  # noqa: E402
from nutpie.models.pymc import compile_pymc_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

GROUPS = {"log_likelihood": pm.stats.compute_log_likelihood, "log_prior": pm.stats.compute_log_prior}
RNG = np.random.default_rng(5)


# ------------------------------------------------------------------------------------------------------- models


def several_observed():
    coords = {"site": ["a", "b", "c"], "when": [2001, 2002, 2003, 2004]}
    with pm.Model(coords=coords) as model:
        mu = pm.Normal("mu", 0.0, 2.0, dims="site")
        sigma = pm.HalfNormal("sigma")
        pm.Normal("y", mu, sigma, observed=RNG.normal(size=(4, 3)), dims=("when", "site"))
        pm.Poisson("counts", pt.exp(0.3 * mu), observed=[1, 0, 3], dims="site")
        pm.Bernoulli("single", logit_p=5 * mu[0], observed=1)
        pm.Exponential("unnamed_dims", sigma, observed=RNG.exponential(size=(2, 2)))
    return model


def missing_values():
    y = np.array([0.3, np.nan, -1.0, np.nan, 2.0])
    with pm.Model(coords={"obs": range(5)}) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mu = pm.Normal("mu", 0.0, 1.0)
        sigma = pm.Exponential("sigma", 1.0)
        pm.Gamma("y", 2.0, pt.exp(mu), observed=np.exp(y), dims="obs")
        pm.Normal("z", mu, sigma, observed=np.ma.masked_invalid(np.stack([y, y[::-1]])))
    return model


def missing_in_vectors():
    y = RNG.normal(size=(4, 2))
    y[1, 0] = np.nan
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mu = pm.Normal("mu", shape=2)
        pm.MvNormal("y", mu, np.array([[1.0, 0.4], [0.4, 2.0]]), observed=y)
    return model


def potential():
    with pm.Model() as model:
        x = pm.Normal("x", shape=3)
        pm.Potential("soft", -((x - 1.0) ** 2).sum())
        total = pm.Deterministic("total", x.sum())
        pm.StudentT("y", 4.0, mu=total, sigma=1.0, observed=[0.2, 0.4])
    return model


def mixtures():
    with pm.Model(coords={"obs": range(6), "component": ["low", "high"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="component")
        mu = pm.Normal("mu", [-1.0, 1.0], 1.0, dims="component")
        pm.NormalMixture("y", w, mu, 0.5, observed=RNG.normal(size=6), dims="obs")
        pm.Mixture(
            "m",
            w,
            [pm.Normal.dist(mu[0], 1.0), pm.StudentT.dist(3.0, mu=mu[1], sigma=1.0)],
            observed=RNG.normal(size=4),
        )
        pm.ZeroInflatedPoisson("zip", w[0], pt.exp(mu[0]), observed=[0, 0, 2, 1])
        pm.Censored("cens", pm.Normal.dist(mu[1], 1.0), lower=-1.0, upper=1.0, observed=[-1.0, 0.3, 1.0])
        pm.Truncated("trunc", pm.Normal.dist(mu[0], 1.0), lower=-2.0, observed=[-1.0, 0.3, 1.0])
        pm.HurdlePoisson("hurdle", w[1], pt.exp(mu[1]), observed=[0, 1, 2])
    return model


def event_dimensions():
    coords = {"obs": ["p", "q", "r"], "kind": ["k1", "k2"], "category": ["x", "y", "z"]}
    with pm.Model(coords=coords) as model:
        p = pm.Dirichlet("p", np.array([1.0, 2.0, 3.0]), dims="category")
        rows = pm.Dirichlet("rows", np.ones((2, 3)), dims=("kind", "category"))
        mu = pm.Normal("mu", 0.0, 1.0, dims="kind")
        chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0, shape=2))
        pm.MvNormal("vectors", mu, chol=chol, observed=RNG.normal(size=(3, 2)), dims=("obs", "kind"))
        pm.Multinomial("split", 7, p, observed=[[1, 2, 4], [7, 0, 0], [0, 3, 4]], dims=("obs", "category"))
        pm.Multinomial("one", 5, rows[0], observed=[1, 2, 2])
        pm.Categorical("choice", rows, observed=[0, 2])
        pm.DirichletMultinomial("dm", 4, 5 * p, observed=[[1, 2, 1], [4, 0, 0]])
    return model


def transformed_priors():
    transforms = pm.distributions.transforms
    with pm.Model(coords={"cut": [1, 2, 3]}) as model:
        low = pm.Normal("low")
        pm.Uniform("interval", low, low + 3.0, shape=2)
        pm.HalfCauchy("positive", 2.0)
        pm.Beta("unit", 2.0, 3.0)
        pm.VonMises("angle", 0.0, 2.0)
        pm.ZeroSumNormal("zero_sum", 1.5, shape=4)
        pm.GaussianRandomWalk("walk", mu=low, sigma=0.5, init_dist=pm.Normal.dist(), steps=4)
        cuts = pm.Normal("cuts", 0, 2, dims="cut", transform=transforms.ordered)
        pm.OrderedLogistic("y", eta=low, cutpoints=cuts, observed=[0, 1, 3, 2])
    return model


def correlations():
    with pm.Model() as model:
        corr = pm.LKJCorr("corr", n=3, eta=2.0)
        pm.Normal("y", corr.sum(), observed=[0.3, 0.1])
    return model


def with_data():
    with pm.Model(coords={"group": ["a", "b"]}) as model:
        model.add_coord("obs", range(6))
        x = pm.Data("x", RNG.normal(size=(6, 2)), dims=("obs", "group"))
        index = pm.Data("index", np.array([0, 1, 1, 0, 1, 0], dtype="int64"), dims="obs")
        y = pm.Data("y_data", RNG.normal(size=6), dims="obs")
        beta = pm.Normal("beta", 0.0, 1.0, dims="group")
        mean = pm.Deterministic("mean", pt.dot(x, beta) + beta[index], dims="obs")
        pm.Normal("y", mean, 1.0, observed=y, dims="obs")
        pm.StudentT("robust", 3.0, mu=mean, sigma=1.0, observed=2 * y, dims="obs")
    return model


def custom():
    with pm.Model() as model:
        scale = pm.HalfNormal("scale")

        def logp(value, scale):
            return pm.math.switch(scale > 0, -value / scale - pt.log(scale), -np.inf)

        pm.CustomDist("prior", scale, logp=logp, shape=2)
        pm.CustomDist("y", scale, logp=logp, observed=[0.4, 1.0, 2.0])
        # A check of parameters that fails for some draws only.
        pm.Binomial("checked", 5, p=scale / 2, observed=[2, 3])
    return model


def gaussian_process():
    with pm.Model() as model:
        length = pm.Gamma("length", 2.0, 1.0)
        gp = pm.gp.Marginal(cov_func=pm.gp.cov.ExpQuad(1, length))
        x = np.linspace(0, 1, 5)[:, None]
        gp.marginal_likelihood("y", X=x, y=np.sin(3 * x[:, 0]), sigma=pm.HalfNormal("noise"))
    return model


def scanned():
    with pm.Model() as model:
        rho = pm.Normal("rho", [0.2, 0.1], 0.3)
        sigma = pm.HalfNormal("sigma")
        pm.AR("ar", rho, sigma, init_dist=pm.Normal.dist(), observed=RNG.normal(size=8))
        pm.GARCH11("garch", 0.5, 0.2, 0.3, 1.0, observed=RNG.normal(size=5))
    return model


def labelled():
    as_xtensor = pmd.as_xtensor
    with pm.Model(coords={"row": [1, 2, 3], "column": ["u", "v"]}) as model:
        mu = pmd.Normal("mu", 0, 1, dims="column")
        sigma = pmd.HalfNormal("sigma", 1.0)
        y = as_xtensor(RNG.normal(size=(3, 2)), dims=("row", "column"))
        pmd.Normal("y", mu, sigma, observed=y, dims=("row", "column"))
    return model


MODELS = {
    function.__name__: function
    for function in (
        *(several_observed, missing_values, missing_in_vectors, potential, mixtures, event_dimensions),
        *(transformed_priors, correlations, with_data, custom, gaussian_process, scanned, labelled),
    )
}


# ------------------------------------------------------------------------------------------------------ helpers


@pytest.fixture
def no_numba(monkeypatch):
    """Leave out the log density with its gradient, which takes seconds to compile and is not used."""
    from nutpie.models._numba_bridge import Callback

    no_indices = IndexChecks(pt.constant(0.0), pt.vector(), [])
    monkeypatch.setattr("nutpie.models._pymc_numba.logp_and_gradient", lambda *_, **__: (None, [], [], no_indices))
    monkeypatch.setattr("nutpie.models._pymc_numba.build_callback", lambda *_: Callback(0, None))


def random_draws(compiled, n=12, seed=1):
    rng = np.random.default_rng(seed)
    start = compiled.initial_point([0])
    start[~np.isfinite(start)] = 0.0  # the support point of ordered variables
    return start + rng.normal(size=(n, compiled.n_dim)) * rng.choice([0.1, 1.0, 3.0], size=(n, 1))


def from_pymc(model, compiled, draws, group):
    """Dataset of PyMC for draws of which the first half is one chain and the second half another."""
    constrained = compiled.expand(draws)
    posterior = xr.Dataset(
        {
            name: (("chain", "draw", *(f"{name}_{i}" for i in range(v.ndim - 1))), v.reshape(2, -1, *v.shape[1:]))
            for name, v in constrained.items()
        }
    )
    function = GROUPS[group]
    return function(
        {"posterior": posterior},  # all that PyMC looks at
        model=model,
        extend_inferencedata=False,
        progressbar=False,
        # As PyMC does it by default, but interpreted. Fused operations would lose digits there.
        compile_kwargs={"mode": Mode("py", "fast_run").excluding("fusion")},
    )


# -------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", MODELS)
def test_terms_are_those_of_pymc(name, group, no_numba):
    if name == "correlations" and int(pm.__version__.partition(".")[0]) > 5:
        pytest.skip("PyMC 6.4 raises an error for LKJCorr")
    model = MODELS[name]()
    compiled = compile_pymc_model(model)
    terms = compiled.pointwise(group)
    draws = random_draws(compiled)
    found = terms.compute(draws)
    expected = from_pymc(model, compiled, draws, group)
    assert [v.name for v in terms.variables] == list(found)
    assert set(found) == set(expected)
    for variable in terms.variables:
        values, wanted = found[variable.name], expected[variable.name]
        assert values.shape == (len(draws), *variable.shape)
        assert values.dtype == variable.dtype == wanted.dtype
        assert (variable.dims or wanted.dims[2:]) == wanted.dims[2:]
        np.testing.assert_allclose(
            values.reshape(wanted.shape), wanted, rtol=1e-10, atol=1e-10, err_msg=f"{variable.name} of {name}"
        )


def test_dimensions_are_those_of_the_observed_variable_without_its_events(no_numba):
    compiled = compile_pymc_model(event_dimensions())
    dims = {v.name: v.dims for v in compiled.pointwise("log_likelihood").variables}
    assert dims == {"vectors": ("obs",), "split": ("obs",), "one": (), "choice": (), "dm": ()}
    dims = {v.name: v.dims for v in compiled.pointwise("log_prior").variables}
    assert dims == {"p": (), "rows": ("kind",), "mu": ("kind",), "chol": ()}


def test_new_data_are_used(no_numba):
    model = with_data()
    compiled = compile_pymc_model(model)
    rng = np.random.default_rng(8)
    new = {
        "x": rng.normal(size=(9, 2)),
        "index": rng.integers(0, 2, size=9),
        "y_data": rng.normal(size=9),
    }
    other = compiled.with_data(coords={"obs": 10 + np.arange(9)}, **new)
    draws = random_draws(compiled)
    before = compiled.pointwise("log_likelihood").compute(draws)
    terms = other.pointwise("log_likelihood")
    found = terms.compute(draws)
    assert [v.shape for v in terms.variables] == [(9,), (9,)]
    with model:
        pm.set_data(new, coords={"obs": 10 + np.arange(9)})
    expected = from_pymc(model, other, draws, "log_likelihood")
    for name, values in found.items():
        np.testing.assert_allclose(values.reshape(expected[name].shape), expected[name], rtol=1e-10, atol=1e-10)
    # The first model still has its data, whatever happens to PyMC's.
    again = compiled.pointwise("log_likelihood").compute(draws)
    for name, values in before.items():
        assert values.shape == (12, 6)
        np.testing.assert_array_equal(again[name], values)


def test_the_variables_of_the_result_do_not_matter(no_numba):
    model = several_observed()
    some, every = compile_pymc_model(model, var_names=["sigma"]), compile_pymc_model(model)
    draws = random_draws(every)
    for group in GROUPS:
        found, expected = (compiled.pointwise(group).compute(draws) for compiled in (some, every))
        assert list(found) == list(expected)
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])


def test_invalid_parameters_concern_one_draw(no_numba):
    compiled = compile_pymc_model(custom())
    scale = np.array([0.5, 3.0, 1.0, 2.5])  # above 2 the probability `scale / 2` is larger than 1
    draws = np.zeros((4, compiled.n_dim))
    draws[:, 0] = np.log(scale)
    found = compiled.pointwise("log_likelihood").compute(draws)["checked"]
    assert (found[scale > 2] == -np.inf).all()
    assert np.isfinite(found[scale < 2]).all()


def test_small_probabilities_keep_their_logarithm(no_numba):
    with pm.Model() as model:
        eta = pm.Normal("eta", 0.0, 10.0)
        pm.Bernoulli("y", p=pm.math.invlogit(eta), observed=[0, 1])
    with np.errstate(all="raise"):
        found = compile_pymc_model(model).pointwise("log_likelihood").compute(np.array([[50.0], [-800.0]]))["y"]
    np.testing.assert_allclose(found, [[-50.0, 0.0], [0.0, -800.0]], atol=1e-12)


def test_chunks_do_not_matter_and_follow_the_data(no_numba, monkeypatch):
    compiled = compile_pymc_model(with_data())
    draws = random_draws(compiled, 40)
    whole = compiled.pointwise("log_likelihood").compute(draws)
    long = compiled.with_data(
        coords={"obs": np.arange(5000)}, x=np.zeros((5000, 2)), index=np.zeros(5000, dtype=int), y_data=np.zeros(5000)
    ).pointwise("log_likelihood")
    monkeypatch.setattr("nutpie.models._pymc_graph.EXPAND_MEMORY", 2**20)
    rows = []
    chunk = ExpandFunction._chunk

    def counted(self, draws, data):
        rows.append(len(draws))
        return chunk(self, draws, data)

    monkeypatch.setattr(ExpandFunction, "_chunk", counted)
    assert long.compute(draws)["y"].shape == (40, 5000)
    # At least the two results of 40 kB a draw fit, and all of it does not.
    assert max(rows) <= 2**20 // (2 * 8 * 5000)
    assert sum(rows) == 40
    monkeypatch.setattr("nutpie.models._pymc_graph.EXPAND_MEMORY", 1)
    for name, values in compiled.pointwise("log_likelihood").compute(draws).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-14)


def test_a_frozen_model_has_terms(no_numba):
    model = with_data()
    frozen, compiled = compile_pymc_model(model, freeze_model=True), compile_pymc_model(model)
    draws = random_draws(compiled)
    found, expected = (c.pointwise("log_likelihood").compute(draws) for c in (frozen, compiled))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)


def test_no_observed_variables_is_an_error(no_numba):
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("p", -(x**4))
    compiled = compile_pymc_model(model)
    with pytest.raises(ValueError, match="log_likelihood=True needs observed variables"):
        compiled.pointwise("log_likelihood")
    np.testing.assert_allclose(
        compiled.pointwise("log_prior").compute(np.array([[1.0]]))["x"], [-0.5 - 0.5 * np.log(2 * np.pi)], rtol=1e-12
    )
