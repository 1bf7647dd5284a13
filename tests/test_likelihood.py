"""Groups ``log_likelihood`` and ``log_prior`` of a result, and how results are put together from blocks of draws."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import arviz as az
import numpy as np
import pytest
import xarray as xr
from simple_model import NormalModel

import nutpie
from nutpie.models.base import PointwiseDensity, Variable
from nutpie.trace import Block, ChainDraws, RunInfo, build_result


class ModelWithTerms(NormalModel):
    """A front end that knows the terms of its density."""

    def pointwise(self, group):
        """One term for each coordinate."""

        def compute(draws):
            return {"y": -0.5 * (draws / np.arange(1, self.n_dim + 1)) ** 2}

        return PointwiseDensity([Variable("y", (self.n_dim,), np.dtype(float), ("name",))], compute)


def sample(model, **kwargs):
    return nutpie.sample(model, **{"draws": 50, "tune": 60, "chains": 2, "seed": 3, "progress_bar": False, **kwargs})


def datasets(result):
    """Groups of a result of any ArviZ."""
    if hasattr(result, "children"):
        return {name: node.to_dataset() for name, node in result.children.items()}
    return {name: result[name] for name in result.groups()}


def test_groups_of_any_front_end(tmp_path):
    result = sample(ModelWithTerms(4), log_likelihood=True, log_prior=True)
    for group in ("log_likelihood", "log_prior"):
        terms = result[group]["y"]
        assert terms.dims == ("chain", "draw", "name")
        assert list(terms["name"].values) == ["n0", "n1", "n2", "n3"]
        np.testing.assert_allclose(terms.sum("name"), result.sample_stats["logp"], rtol=1e-12)
    assert not {"warmup_log_likelihood", "warmup_log_prior"} & set(datasets(result))
    assert not {"log_likelihood", "log_prior"} & set(datasets(sample(ModelWithTerms(4))))
    path = str(tmp_path / "run.nc")
    result.to_netcdf(path)
    for group in ("log_likelihood", "log_prior"):
        with xr.open_dataset(path, group=group) as back:
            xr.testing.assert_identical(back.load(), datasets(result)[group])


def test_a_front_end_without_terms_says_so_before_sampling(monkeypatch):
    monkeypatch.setattr(sys.modules["nutpie.sample"], "SamplingRun", None)
    for keyword in ("log_likelihood", "log_prior"):
        with pytest.raises(NotImplementedError, match=f"{keyword}=True is not available for a NormalModel"):
            sample(NormalModel(3), **{keyword: True})


# ---------------------------------------------------------------------------------------------------------- PyMC


@pytest.fixture(scope="module")
def schools():
    pm = pytest.importorskip("pymc")
    y = np.array([28.0, 8.0, -3.0, np.nan, -1.0, 1.0, 18.0, 12.0])
    with pm.Model(coords={"school": list("ABCDEFGH"), "trial": [1, 2, 3]}) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyMC, about imputed values
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfNormal("tau", 5.0)
        theta = pm.Normal("theta", 0.0, 1.0, dims="school")
        pm.Normal("y", mu + tau * theta, 12.0, observed=y, dims="school")
        pm.Poisson("count", pm.math.exp(0.1 * mu), observed=[1, 0, 2], dims="trial")
    return model, sample(nutpie.compile_pymc_model(model), draws=100, log_likelihood=True, log_prior=True)


def test_groups_are_those_of_pymc(schools):
    pm = pytest.importorskip("pymc")
    model, result = schools
    quick = {"progressbar": False, "extend_inferencedata": False, "model": model}
    for group, function in (
        ("log_likelihood", pm.stats.compute_log_likelihood),
        ("log_prior", pm.stats.compute_log_prior),
    ):
        expected, found = function(result, **quick), datasets(result)[group]
        assert set(found.data_vars) == set(expected.data_vars)
        for name, values in expected.data_vars.items():
            assert found[name].dims == values.dims
            xr.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-10)
            assert found[name].dtype == values.dtype
    assert found["theta"].dims == ("chain", "draw", "school")
    assert list(found["school"].values) == list("ABCDEFGH")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_model_comparison(schools, tmp_path):
    _, result = schools
    path = str(tmp_path / "run.nc")
    result.to_netcdf(path)
    back = az.from_netcdf(path)
    before, after = (az.loo(r, var_name="count") for r in (result, back))
    assert before.n_data_points == 3
    name = "elpd_loo" if hasattr(before, "elpd_loo") else "elpd"  # with ArviZ 0 and 1
    assert np.isfinite(getattr(before, name))
    assert getattr(after, name) == getattr(before, name)
    assert np.isfinite(az.compare({"one": result, "same": back}, var_name="count")[name]).all()
    assert "mu" in (az.psens(result, component="prior") if hasattr(az, "psens") else az.psense(result))
    if hasattr(az, "waic"):
        assert np.isfinite(az.waic(result, var_name="y_observed").elpd_waic)


# -------------------------------------------------------------------------------------------------- from blocks


def draws_in_blocks(n_dim, draws, cuts, seed=1):
    rng = np.random.default_rng(seed)
    n_stats = len(nutpie._lib.statistics())
    positions, stats = rng.normal(size=(draws, n_dim)), rng.normal(size=(draws, n_stats))
    return [Block(p.copy(), s.copy()) for p, s in zip(np.split(positions, cuts), np.split(stats, cuts), strict=True)]


def run_info(chains, n_dim):
    keep = {"warmup": True, "unconstrained": True}
    return RunInfo(seed=1, tune=30, draws=70, settings={}, keep=keep, seconds=1.0, starts=np.zeros((chains, n_dim)))


@pytest.mark.parametrize("chunk", [1, 10**7])
def test_blocks_do_not_matter(monkeypatch, chunk):
    monkeypatch.setattr("nutpie.trace.CHUNK_BYTES", chunk)
    model = ModelWithTerms(4)
    terms = {"log_likelihood": model.pointwise("log_likelihood")}
    results = []
    # One block, blocks across the end of the warm-up, empty ones, one for each draw.
    for cuts in ([], [10, 25, 40, 99], [0, 30, 30], list(range(1, 100))):
        chains = [ChainDraws(i, 30, draws_in_blocks(4, 100, cuts, seed=i), 5) for i in range(3)]
        results.append(build_result(model, chains, run_info(3, 4), terms))
        assert all(not c.blocks for c in chains)
    whole = np.concatenate([b.positions for b in draws_in_blocks(4, 100, [], seed=2)])
    np.testing.assert_array_equal(results[0].posterior["x"][2], whole[30:])
    np.testing.assert_array_equal(results[0].warmup_posterior["x"][2], whole[:30])
    for result in results[1:]:
        expected = datasets(results[0])
        assert list(datasets(result)) == list(expected)
        for group, found in datasets(result).items():
            xr.testing.assert_equal(found, expected[group])


def test_blocks_of_chains_of_different_lengths():
    model = NormalModel(2)
    cuts = {0: (100, [50]), 1: (80, [20, 60]), 2: (31, [])}
    chains = [ChainDraws(i, 30, draws_in_blocks(2, n, at, seed=i), 5) for i, (n, at) in cuts.items()]
    result = build_result(model, chains, run_info(3, 2))
    # 2 chains of 50 draws are more than 3 of 1.
    assert list(result.posterior["chain"].values) == [0, 1]
    assert result.posterior.sizes["draw"] == 50
    np.testing.assert_array_equal(
        result.posterior["x"][1], np.concatenate([b.positions for b in draws_in_blocks(2, 80, [], seed=1)])[30:]
    )
    assert dict(result.warmup_posterior.sizes)["chain"] == 3


# ------------------------------------------------------------------------------------------------------- memory

MEMORY = """
import sys
import numpy as np, xarray, arviz
from simple_model import NormalModel
import test_likelihood as t

n_blocks, chains, two_variables = (int(x) for x in sys.argv[1:])
n_dim, draws = 3000, 4000 // chains

class Model(NormalModel):
    @property
    def variables(self):
        x, total = super().variables
        return [x, t.Variable("exp", x.shape, x.dtype, x.dims)] if two_variables else [x]

    def expand(self, draws):
        return {"x": draws, "exp": np.exp(draws)} if two_variables else {"x": draws}

def build(n_dim, draws):
    cuts = [draws * i // n_blocks for i in range(1, n_blocks)]
    blocks = lambda: [t.Block(np.ones((n, n_dim)), np.ones((n, t.N_STATS))) for n in np.diff([0, *cuts, draws])]
    made = [t.ChainDraws(i, draws // 5, blocks(), 1) for i in range(chains)]
    info = t.RunInfo(1, draws // 5, draws, {}, {"warmup": True}, 1.0, np.zeros((chains, n_dim)))
    return t.build_result(Model(n_dim), made, info)

def peak():
    # Not `getrusage`, whose peak is at least that of the parent at the time of the fork.
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))

build(3, 10)
before = peak()
result = build(n_dim, draws)
size = sum(v.nbytes for group in ("posterior", "warmup_posterior") for v in result[group].values())
print((peak() - before) / size)
"""

N_STATS = len(nutpie._lib.statistics())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("blocks", "chains", "two_variables", "times"), [(1, 4, 0, 1.35), (12, 1, 0, 1.2), (4, 4, 0, 1.2), (1, 4, 1, 1.25)]
)
def test_peak_memory(blocks, chains, two_variables, times):
    """The draws and the result together take hardly more than the result and the largest block."""
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", MEMORY, *map(str, (blocks, chains, two_variables))]
    found = subprocess.run(arguments, cwd=here, capture_output=True, text=True, check=True)
    assert 1.0 <= float(found.stdout) < times
