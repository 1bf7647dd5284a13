"""The handle of a run in the background."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from results import group_names
from simple_model import NormalModel, fatal_far_out

import nutpie

LONG = {"draws": 2_000_000, "tune": 100, "chains": 2, "cores": 2, "seed": 3, "progress_bar": False}


def start(n_dim: int = 20, **kwargs):
    return nutpie.sample(NormalModel(n_dim), blocking=False, **{**LONG, **kwargs})


def made(run) -> int:
    return sum(chain.finished_draws for chain in run.progress())


def wait_for_draws(run, least: int = 50) -> None:
    deadline = time.monotonic() + 60
    while made(run) < least:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)


def test_the_result_is_that_of_a_run_that_one_waits_for():
    run = start(draws=200)
    result = run.wait(timeout=60)
    same = nutpie.sample(NormalModel(20), **{**LONG, "draws": 200})
    np.testing.assert_array_equal(result.posterior["x"], same.posterior["x"])
    assert run.is_finished
    assert run.wait() is result
    assert run.inspect() is result
    assert run.abort() is result
    assert "finished" in repr(run)


def test_waiting_has_a_limit():
    run = start()
    with pytest.raises(TimeoutError, match=r"0\.01 s; it goes on"):
        run.wait(timeout=0.01)
    assert not run.is_finished
    run.cancel()


def test_pause_and_resume_do_not_change_the_draws():
    run = start(draws=5000, chains=3)
    run.pause()
    time.sleep(0.05)
    before = made(run)
    time.sleep(0.1)
    assert run.is_finished or (run.is_paused and made(run) == before and "paused" in repr(run))
    run.resume()
    assert not run.is_paused
    same = nutpie.sample(NormalModel(20), **{**LONG, "draws": 5000, "chains": 3})
    np.testing.assert_array_equal(run.wait(timeout=60).posterior["x"], same.posterior["x"])


def test_inspect_shows_the_draws_so_far():
    # One chain, because of several that differ in speed only those are shown that are far enough.
    run = start(chains=1, cores=1)
    wait_for_draws(run, 500)
    early = run.inspect()
    assert 0 < early.posterior.sizes["draw"] < 2_000_000
    assert np.isfinite(early.posterior["x"]).all()
    with pytest.warns(UserWarning, match="aborted"):
        late = run.abort()
    n = early.posterior.sizes["draw"]
    np.testing.assert_array_equal(early.posterior["x"], late.posterior["x"][:, :n])


def test_inspect_before_the_first_draw():
    run = start()
    run.pause()
    assert group_names(run.inspect()) >= {"posterior", "sample_stats"}
    run.cancel()


def test_abort_of_a_paused_run():
    run = start()
    wait_for_draws(run, 300)
    run.pause()
    with pytest.warns(UserWarning, match="aborted"):
        assert run.abort().posterior.sizes["draw"] > 0


def test_cancel_drops_the_draws():
    run = start()
    wait_for_draws(run)
    run.cancel()
    assert run.is_finished
    with pytest.raises(RuntimeError, match="cancelled"):
        run.wait()
    run.cancel()


def test_an_error_arrives_at_every_wait():
    run = nutpie.sample(NormalModel(3, fatal_far_out), init=np.zeros(3), blocking=False, **LONG)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="fatal code -1") as caught:
            run.wait(timeout=60)
        assert np.isfinite(caught.value.partial_trace.posterior["x"]).all()
    assert "failed" in repr(run)


class FatalAndUnlucky(NormalModel):
    """A model whose density fails far out, and whose variables cannot be computed at all."""

    def __init__(self, n_dim: int) -> None:
        super().__init__(n_dim, fatal_far_out)

    def expand(self, draws):
        raise ZeroDivisionError("no variables")


def test_the_first_error_arrives_and_brings_the_draws_even_if_there_is_a_second_one():
    with pytest.raises(RuntimeError, match="fatal code -1") as caught:
        nutpie.sample(FatalAndUnlucky(3), init=np.zeros(3), **{**LONG, "tune": 0})
    draws = caught.value.partial_trace.unconstrained_posterior["unconstrained"]
    assert draws.size > 0
    assert np.isfinite(draws).all()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_an_interrupt_ends_the_waiting_and_not_the_run():
    run = start()
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    before = made(run)
    wait_for_draws(run, before + 100)
    assert not run.is_finished
    run.cancel()


def test_several_threads_get_the_same_result():
    run = start(draws=300)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(run.wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result is results[0] for result in results)


def test_a_dropped_handle_ends_its_run():
    run = start()
    wait_for_draws(run)
    job = run._job
    del run
    gc.collect()
    assert job.done.wait(60)


def test_runs_at_the_same_time_leave_the_threads_of_the_blas_as_they_were():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"] or [1]

    before = threads()
    runs = [start(cores=max(before)), start(cores=max(before))]
    for run in runs:
        wait_for_draws(run)
    during = threads()
    for run in runs:
        run.cancel()
    assert max(during) <= max(1, max(before) // 2)
    assert threads() == before


def test_a_callback_may_steer_the_run_that_it_watches():
    runs: list[object] = []

    def look(chains) -> object:
        # Chains that warm up together are done with it together.
        if runs and all(chain.finished_draws > chain.total_tune for chain in chains):
            runs[0].pause()
            return nutpie.STOP
        return None

    run = start(progress_callback=look, progress_rate=5)
    runs.append(run)
    assert 0 < run.wait(timeout=60).posterior.sizes["draw"] < 2_000_000


def test_a_callback_may_look_at_the_draws():
    looks: list[int] = []

    def look(chains) -> object:
        if len(chains) and min(chain.finished_draws for chain in chains) > 200:
            looks.append(run.inspect().posterior.sizes["draw"])
        return nutpie.STOP if len(looks) == 3 else None

    run = start(chains=1, cores=1, progress_callback=look, progress_rate=20)
    result = run.wait(timeout=60)
    assert 0 < looks[0] < looks[1] < looks[2] <= result.posterior.sizes["draw"]


def test_a_callback_may_abort_its_run():
    results: list[object] = []

    def look(chains) -> None:
        if not results and sum(chain.finished_draws for chain in chains) > 1000:
            results.append("underway")
            results.append(run.abort())

    run = start(progress_callback=look, progress_rate=50)
    with pytest.warns(UserWarning, match="aborted"):
        result = run.wait(timeout=60)
    assert results[1] is result


def test_representations():
    run = start()
    # Also before the chains begin.
    assert " of 4000200 draws" in repr(run)
    wait_for_draws(run)
    assert repr(run).startswith("<nutpie run, running: 2 chains, ")
    assert " of 4000200 draws" in repr(run)
    table = run._repr_html_()
    assert table.startswith("<table><caption>nutpie run, running</caption>")
    assert table.count("<tr>") == 4  # the heading, two chains, and all together
    run.cancel()
    assert "cancelled" in repr(run)
    table = run._repr_html_()
    assert "nutpie run, cancelled" in table
    assert table == run._repr_html_(), "its time does not go on after the end"


def _in_child(run, queue) -> None:
    try:
        run.wait()
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_that_it_has_no_run():
    run = start()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(run, queue))
    child.start()
    assert "forked" in queue.get(timeout=30)
    child.join(30)
    assert child.exitcode == 0
    run.cancel()


def test_the_interpreter_ends_while_a_run_goes_on():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import nutpie; from simple_model import NormalModel\n"
        "run = nutpie.sample(NormalModel(20), draws=50_000_000, blocking=False, progress_bar=False)\n"
        "print('started')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "started\n"
