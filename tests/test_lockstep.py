"""Chains that advance together, with one call of a Python function for the points of all of them."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from results import groups
from simple_model import NormalModel

import nutpie
from nutpie.models.base import BatchDensity

SCALES = np.array([1.0, 2.0, 0.5, 3.0, 1.0])


def normal(points):
    """Independent normals with some skew in the first one; each row by itself to the last bit."""
    z = points / SCALES
    logp = -np.exp(0.3 * points[:, 0])
    for column in z.T:
        logp = logp - 0.5 * column * column
    grad = -z / SCALES
    grad[:, 0] -= 0.3 * np.exp(0.3 * points[:, 0])
    return logp, grad


class Batched(NormalModel):
    """Notes the shapes of all calls."""

    def __init__(self, function=normal, **options):
        super().__init__(5)
        self.calls: list[tuple[int, ...]] = []
        self._batch, self._options = function, options

    def density(self):
        def function(points):
            self.calls.append(points.shape)
            return self._batch(points)

        return BatchDensity(function, **self._options)


def sample(model, **options):
    defaults = {"draws": 60, "chains": 5, "seed": 2, "progress_bar": False, "check": False}
    return nutpie.sample(model, **{**defaults, **options})


def assert_same(first, second):
    for name in ("posterior", "warmup_posterior", "sample_stats", "warmup_sample_stats"):
        a, b = groups(first)[name], groups(second)[name]
        for variable in a.data_vars:
            if variable != "process_time_diff":
                np.testing.assert_array_equal(a[variable], b[variable], err_msg=f"{name} {variable}")


@pytest.mark.parametrize(
    "settings",
    [{}, {"pool": False}, {"adaptation": "diag", "tune": 100}, {"sampler": "mams"}],
    ids=str,
)
def test_draws_are_those_of_one_chain_at_a_time(settings):
    alone = sample(Batched(lockstep=False), **settings)
    for options in ({}, {"width": 2}, {"releases_gil": True}):
        assert_same(alone, sample(Batched(**options), cores=2, **settings))


def test_one_call_serves_all_chains_that_run():
    model = Batched()
    idata = sample(model, adaptation="diag", tune=100)
    points = sum(rows for rows, _ in model.calls)
    # The starts are tried one by one before the run.
    assert points == groups(idata)["posterior"].attrs["n_gradients"] + 5
    heights = [rows for rows, _ in model.calls[5:]]
    assert heights[0] == 5
    assert heights == sorted(heights, reverse=True), "chains wait for each other's trajectories"
    alone = Batched(lockstep=False)
    sample(alone, adaptation="diag", tune=100)
    assert {rows for rows, _ in alone.calls} == {1}
    assert len(alone.calls) == points


def test_with_a_width_the_function_always_sees_the_same_shape():
    for width in (1, 2, 7):
        model = Batched(width=width)
        sample(model, chains=3)
        assert set(model.calls) == {(width, 5)}


@pytest.mark.parametrize(("releases_gil", "threads", "rows"), [(False, 1, 6), (True, 3, 2)])
def test_threads_share_the_chains_only_where_the_function_releases_the_lock(releases_gil, threads, rows):
    # Nobody goes on from the first call before all are in it: a thread that is
    # done early could otherwise take the chains of one that starts late.
    all_called = threading.Barrier(threads, timeout=60)
    seen = {}

    def function(points):
        ident = threading.get_ident()
        if ident not in seen and ident != threading.main_thread().ident:
            seen[ident] = len(points)
            all_called.wait()
        return normal(points)

    sample(Batched(function, releases_gil=releases_gil), chains=6, cores=3, adaptation="diag", tune=50)
    assert list(seen.values()) == [rows] * threads


def test_rows_that_fail_are_divergences_of_their_chain_alone():
    def walls(points):
        logp, grad = normal(points)
        logp[points[:, 0] > 1.0] = np.nan
        grad[points[:, 1] > 2.0] = np.inf
        return logp, grad

    idata = sample(Batched(walls), draws=200)
    assert int(idata.sample_stats["diverging"].sum()) > 20
    assert float(idata.posterior["x"][..., 0].max()) <= 1.0
    assert float(idata.posterior["x"][..., 1].max()) <= 2.0
    assert np.isfinite(idata.posterior["x"].values).all()
    assert_same(idata, sample(Batched(walls, lockstep=False), draws=200))


class TooFarError(Exception):
    """A point is out of the domain."""

    is_recoverable = True


@pytest.mark.parametrize("error", [np.linalg.LinAlgError, TooFarError])
def test_an_exception_that_says_so_rejects_the_rows_that_raise_it(error):
    def raises(points):
        if (points[:, 0] > 1.0).any():
            raise error("too far")
        return normal(points)

    def is_nan(points):
        logp, grad = normal(points)
        logp[points[:, 0] > 1.0] = np.nan
        return logp, grad

    assert_same(sample(Batched(raises, width=3), draws=100), sample(Batched(is_nan), draws=100))


@pytest.mark.parametrize("options", [{}, {"lockstep": False}], ids=str)
def test_an_exception_ends_the_run_with_its_traceback_and_the_draws(options):
    calls = []

    def breaks_in_the_middle(points):
        calls.append(None)
        if len(calls) > 600:
            raise KeyError("the model is broken")
        return normal(points)

    with pytest.raises(KeyError, match="the model is broken") as caught:
        sample(Batched(breaks_in_the_middle, **options), cores=2, draws=5000, adaptation="diag", tune=30)
    assert any(entry.name == "breaks_in_the_middle" for entry in caught.traceback)
    partial = caught.value.partial_trace
    assert sum(groups(partial)["warmup_posterior"].sizes.values()) > 30


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda x: None, TypeError, r"must return a pair \(logp, grad\), not NoneType"),
        (lambda x: (1.0, x, x), TypeError, "pair"),
        (lambda x: (x.sum(), -x), ValueError, r"logp of shape \(\), \(1,\) is needed"),
        (lambda x: (x.sum(1), -x[:, 1:]), ValueError, r"grad of shape \(1, 4\), \(1, 5\) is needed"),
        (lambda x: (["a"], -x), ValueError, "could not convert string"),
    ],
)
def test_results_that_are_something_else_are_errors(result, error, message):
    with pytest.raises(error, match=message):
        sample(Batched(result))


def test_results_of_other_types_are_converted():
    def lists(points):
        logp, grad = normal(points)
        return [logp.tolist(), np.asfortranarray(grad)]

    assert_same(sample(Batched(lists)), sample(Batched()))


def test_the_function_may_keep_and_change_its_argument():
    kept = []

    def greedy(points):
        result = normal(points)
        kept.append(points)
        points[:] = np.nan
        return result

    assert_same(sample(Batched(greedy)), sample(Batched()))
    assert all(np.isnan(points).all() for points in kept)


def test_a_run_can_be_watched_paused_and_stopped():
    whole = sample(Batched(), draws=3000)
    run = sample(Batched(), draws=3000, blocking=False)
    while sum(chain.finished_draws for chain in run.progress()) < 100:
        time.sleep(0.001)
    run.pause()
    part = run.inspect()
    run.resume()
    assert_same(whole, run.wait(timeout=60))
    made = part.posterior.sizes["draw"]
    np.testing.assert_array_equal(part.posterior["x"], whole.posterior["x"][:, :made])
    assert all(chain.finished_draws == chain.total_draws for chain in run.progress())

    endless = sample(Batched(), draws=1_000_000, blocking=False)
    while min(chain.finished_draws for chain in endless.progress()) < 200:
        time.sleep(0.001)
    with pytest.warns(UserWarning, match="aborted"):
        rest = endless.abort()
    assert 1 < rest.posterior.sizes["draw"] < 1_000_000


def test_an_interrupt_returns_the_draws_so_far():
    calls = []

    def interrupted(points):
        calls.append(None)
        if len(calls) == 800:
            os.kill(os.getpid(), signal.SIGINT)
        return normal(points)

    with pytest.warns(UserWarning, match="interrupted"):
        idata = sample(Batched(interrupted), draws=500_000, adaptation="diag", tune=20)
    assert 1 < idata.posterior.sizes["draw"] < 500_000


def test_evaluations_are_timed():
    model = Batched(width=4)
    table = model.benchmark_logp(num_evals=3, chains=2, cores=2)
    assert list(table["core"]) == [0, 0, 0, 1, 1, 1]
    assert (np.asarray(table["time_us"]) > 0).all()
    assert model.calls == [(4, 5)] * 6
    with pytest.raises(ValueError, match="chains=2 has no meaning"):
        NormalModel(3).benchmark_logp(chains=2)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        sample(Batched(width=0))
