"""How a result is put together from blocks of draws, also where variables cannot be computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from results import groups
from simple_model import ModelWithTerms, NormalModel

import nutpie
from nutpie.models.base import PointwiseDensity, Variable
from nutpie.plan import Plan
from nutpie.trace import Block, ChainDraws, build_result


def draws_in_blocks(n_dim, draws, cuts, seed=1):
    rng = np.random.default_rng(seed)
    n_stats = nutpie._lib.N_STATISTICS
    positions, stats = rng.normal(size=(draws, n_dim)), rng.normal(size=(draws, n_stats))
    return [Block(p.copy(), s.copy()) for p, s in zip(np.split(positions, cuts), np.split(stats, cuts), strict=True)]


def plan_of(chains, tune, draws, *, store_unconstrained=False):
    return Plan(
        seed=1,
        tune=tune,
        extend=False,
        draws=draws,
        chains=chains,
        cores=1,
        sampler="nuts",
        adaptation="diag",
        settings={},
        keep={"warmup": True},
        store_unconstrained=store_unconstrained,
    )


@pytest.mark.parametrize("chunk", [1, 10**7])
def test_blocks_do_not_matter(monkeypatch, chunk):
    monkeypatch.setattr("nutpie._tables.CHUNK_BYTES", chunk)
    model = ModelWithTerms(4)
    terms = {"log_likelihood": model.pointwise("log_likelihood")}
    results = []
    # One block, blocks across the end of the warm-up, empty ones, one for each draw.
    for cuts in ([], [10, 25, 40, 99], [0, 30, 30], list(range(1, 100))):
        chains = [ChainDraws(i, np.zeros(4), 30, draws_in_blocks(4, 100, cuts, seed=i), 5) for i in range(3)]
        results.append(build_result(model, chains, plan_of(3, 30, 70, store_unconstrained=True), 1.0, terms))
        assert all(not c.blocks for c in chains)
    whole = np.concatenate([b.positions for b in draws_in_blocks(4, 100, [], seed=2)])
    np.testing.assert_array_equal(results[0].posterior["x"][2], whole[30:])
    np.testing.assert_array_equal(results[0].warmup_posterior["x"][2], whole[:30])
    for result in results[1:]:
        expected = groups(results[0])
        assert list(groups(result)) == list(expected)
        for group, found in groups(result).items():
            xr.testing.assert_equal(found, expected[group])


def test_blocks_of_chains_of_different_lengths():
    model = NormalModel(2)
    cuts = {0: (100, [50]), 1: (80, [20, 60]), 2: (31, [])}
    chains = [ChainDraws(i, np.zeros(2), 30, draws_in_blocks(2, n, at, seed=i), 5) for i, (n, at) in cuts.items()]
    result = build_result(model, chains, plan_of(3, 30, 70), 1.0)
    # 2 chains of 50 draws are more than 3 of 1.
    assert list(result.posterior["chain"].values) == [0, 1]
    assert result.posterior.sizes["draw"] == 50
    np.testing.assert_array_equal(
        result.posterior["x"][1], np.concatenate([b.positions for b in draws_in_blocks(2, 80, [], seed=1)])[30:]
    )
    assert dict(result.warmup_posterior.sizes)["chain"] == 3


# ----------------------------------------------------------------------------- draws whose variables cannot be computed


class Unlucky(ModelWithTerms):
    """A model of which something cannot be computed at certain draws, given by the value of their first parameter."""

    def __init__(self, n_dim, at, *, terms=False, error=ZeroDivisionError):
        super().__init__(n_dim)
        self.at, self.terms, self.error = at, terms, error
        self.n_calls = 0

    @property
    def variables(self):
        return [*super().variables, Variable("sign", (self.n_dim,), np.dtype(np.int64), ("name",))]

    def _fail(self, draws):
        self.n_calls += 1
        if np.isin(draws[:, 0], self.at).any():
            raise self.error("too far out")

    def expand(self, draws):
        if not self.terms:
            self._fail(draws)
        return super().expand(draws) | {"sign": np.sign(draws).astype(np.int64)}

    def pointwise(self, group):
        found = super().pointwise(group)

        def compute(draws):
            if self.terms:
                self._fail(draws)
            return found.compute(draws)

        return PointwiseDensity(found.variables, compute)


def unlucky(at, *, n_chains=3, terms=False, error=ZeroDivisionError, store_unconstrained=False):
    """Build a result, in blocks of ten draws, of chains that fail at draws given as (chain, draw after warm-up)."""
    cuts = list(range(10, 100, 10))
    blocks = [draws_in_blocks(4, 100, cuts, seed=i) for i in range(n_chains)]
    where = [np.concatenate([b.positions for b in blocks[chain]])[30 + draw, 0] for chain, draw in at]
    model = Unlucky(4, where, terms=terms, error=error)
    plan = plan_of(n_chains, 30, 70, store_unconstrained=store_unconstrained)
    chains = [ChainDraws(i, np.zeros(4), 30, b, 5) for i, b in enumerate(blocks)]
    return model, build_result(model, chains, plan, 1.0, {"log_likelihood": model.pointwise("log_likelihood")})


def rescued(at, **kwargs):
    with pytest.raises(kwargs.get("error", ZeroDivisionError), match="too far out") as caught:
        unlucky(at, **kwargs)
    assert "partial_trace" in caught.value.__notes__[0]
    whole = unlucky([], **{**kwargs, "store_unconstrained": True})[1]
    return caught.value.partial_trace, whole


@pytest.mark.parametrize("n_chains", [1, 2, 3])
def test_every_draw_survives(n_chains):
    chain, draw = n_chains // 2, 47  # in the block of the draws from 40 to 49
    partial, whole = rescued([(chain, draw)], n_chains=n_chains)
    xr.testing.assert_equal(partial.sample_stats, whole.sample_stats)
    for group in ("warmup_sample_stats", "warmup_posterior", "log_likelihood", "initial_points"):
        xr.testing.assert_equal(groups(partial)[group], groups(whole)[group])
    sizes = {"chain": n_chains, "draw": 70}
    variables = partial.posterior["x"].reindex(chain=range(n_chains), draw=range(70))
    plain = partial.unconstrained_posterior["unconstrained"].reindex(chain=range(n_chains), draw=range(70))
    assert {d: variables.sizes[d] for d in sizes} == {d: plain.sizes[d] for d in sizes} == sizes
    computed = np.zeros((n_chains, 70), bool)
    computed[:chain] = True
    computed[chain, :40] = True
    for found, expected, there in (
        (variables, whole.posterior["x"], computed),
        (plain, whole.unconstrained_posterior["unconstrained"], ~computed),
    ):
        assert (np.isfinite(found.values) == there[..., None]).all()
        np.testing.assert_array_equal(found.values[there], expected.values[there])


def test_whole_numbers_that_are_missing_are_nan_and_not_noise():
    partial, whole = rescued([(1, 47)])
    sign = partial.posterior["sign"]
    assert sign.dtype == np.float64
    assert np.isnan(sign.values[1, 40:]).all()
    np.testing.assert_array_equal(sign.values[1, :40], whole.posterior["sign"].values[1, :40])


def test_a_warmup_draw_that_fails_costs_no_draw_after_it():
    partial, whole = rescued([(0, -5)])
    xr.testing.assert_equal(groups(partial)["posterior"], groups(whole)["posterior"])
    assert "unconstrained_posterior" not in groups(partial)
    # The block before the one that failed.
    assert list(partial.warmup_posterior["draw"].values) == list(range(20))
    assert partial.warmup_unconstrained_posterior.sizes["chain"] == 3


def test_terms_that_fail_cost_no_variables():
    partial, whole = rescued([(2, 3)], terms=True)
    for group in ("posterior", "sample_stats", "warmup_posterior"):
        xr.testing.assert_equal(groups(partial)[group], groups(whole)[group])
    assert list(partial.log_likelihood["chain"].values) == [0, 1]
    assert "unconstrained_posterior" not in groups(partial)


def test_a_group_that_fails_at_once_is_left_out():
    partial, whole = rescued([(0, -30), (0, 0)], n_chains=1)
    assert not {"posterior", "warmup_posterior"} & set(groups(partial))
    for group in ("unconstrained_posterior", "warmup_unconstrained_posterior", "sample_stats"):
        xr.testing.assert_equal(groups(partial)[group], groups(whole)[group])


def test_unconstrained_draws_that_were_asked_for_are_complete():
    partial, whole = rescued([(1, 47)], store_unconstrained=True)
    for group in ("unconstrained_posterior", "warmup_unconstrained_posterior"):
        xr.testing.assert_equal(groups(partial)[group], groups(whole)[group])


def test_an_interrupt_ends_all_computations_and_keeps_all_draws():
    partial, whole = rescued([(1, 47)], error=KeyboardInterrupt)
    xr.testing.assert_equal(partial.sample_stats, whole.sample_stats)
    assert list(partial.posterior["chain"].values) == list(partial.log_likelihood["chain"].values) == [0, 1]
    assert list(partial.unconstrained_posterior["chain"].values) == [1, 2]


def test_a_start_that_fails_costs_no_draws():
    model = Unlucky(4, [0.5])
    chains = [ChainDraws(0, np.full(4, 0.5), 30, draws_in_blocks(4, 100, []), 5)]
    with pytest.raises(ZeroDivisionError) as caught:
        build_result(model, chains, plan_of(1, 30, 70), 1.0)
    partial = caught.value.partial_trace
    assert partial.posterior.sizes["draw"] == 70
    assert "initial_points" not in groups(partial)


class LateFailure(NormalModel):
    """A model whose variables cannot be computed from the third block on."""

    n_calls = 0

    def expand(self, draws):
        self.n_calls += 1
        if self.n_calls > 2:
            raise ZeroDivisionError("too late")
        return super().expand(draws)


def test_draws_of_a_run_survive():
    # Blocks of the core have 8 MiB, here 523 draws.
    options = {"draws": 1200, "tune": 20, "chains": 2, "seed": 1, "progress_bar": False, "check": False}
    with pytest.raises(ZeroDivisionError, match="too late") as caught:
        nutpie.sample(LateFailure(2000), **options)
    partial, whole = caught.value.partial_trace, nutpie.sample(NormalModel(2000), **options)
    variables, plain = partial.posterior["x"], partial.unconstrained_posterior["unconstrained"]
    assert 400 < variables.sizes["draw"] < 600
    assert plain.sizes == {"chain": 2, "draw": 1200, "unconstrained_parameter": 2000}
    np.testing.assert_array_equal(np.where(np.isnan(plain), 0, plain)[1], whole.posterior["x"][1])
    found = np.concatenate([variables.values[0], plain.values[0, variables.sizes["draw"] :]])
    np.testing.assert_array_equal(found, whole.posterior["x"][0])
    np.testing.assert_array_equal(partial.sample_stats["logp"], whole.sample_stats["logp"])


# ------------------------------------------------------------------------------------------------------- memory

MEMORY = """
import sys
import numpy as np, xarray, arviz
from simple_model import NormalModel
import test_tables as t

n_blocks, chains, two_variables, fails_after = (int(x) for x in sys.argv[1:])
n_dim, draws = 3000, 4000 // chains

class Model(NormalModel):
    calls = 0

    @property
    def variables(self):
        x, total = super().variables
        return [x, t.Variable("exp", x.shape, x.dtype, x.dims)] if two_variables else [x]

    def expand(self, draws):
        self.calls += len(draws) > 1
        if fails_after and self.calls > fails_after:
            raise ValueError("late")
        return {"x": draws, "exp": np.exp(draws)} if two_variables else {"x": draws}

def build(n_dim, draws):
    cuts = [draws * i // n_blocks for i in range(1, n_blocks)]
    blocks = lambda: [t.Block(np.ones((n, n_dim)), np.ones((n, t.N_STATS))) for n in np.diff([0, *cuts, draws])]
    made = [t.ChainDraws(i, np.zeros(n_dim), draws // 5, blocks(), 1) for i in range(chains)]
    try:
        return t.build_result(Model(n_dim), made, t.plan_of(chains, draws // 5, draws), 1.0)
    except ValueError as error:
        return error.partial_trace

def peak():
    # Not `getrusage`, whose peak is at least that of the parent at the time of the fork.
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))

build(3, 10)
before = peak()
result = build(n_dim, draws)
assert "posterior" in t.groups(result)
assert ("unconstrained_posterior" in t.groups(result)) == (fails_after > 0)
print((peak() - before) / (8 * n_dim * draws * chains * (1 + two_variables)))
"""

N_STATS = nutpie._lib.N_STATISTICS


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("blocks", "chains", "two_variables", "fails_after", "times"),
    [
        (1, 4, 0, 0, 1.35),
        (12, 1, 0, 0, 1.2),
        (4, 4, 0, 0, 1.2),
        (1, 4, 1, 0, 1.25),
        # The variables of a few blocks and the other draws on the unconstrained scale, with a part of a chain missing.
        (12, 1, 0, 8, 1.35),
        (6, 4, 0, 15, 1.35),
    ],
)
def test_peak_memory(blocks, chains, two_variables, fails_after, times):
    """The draws and the result together take hardly more than the result and the largest block."""
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", MEMORY, *map(str, (blocks, chains, two_variables, fails_after))]
    found = subprocess.run(arguments, cwd=here, capture_output=True, text=True, check=True)
    assert 1.0 <= float(found.stdout) < times
