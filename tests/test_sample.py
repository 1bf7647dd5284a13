"""`nutpie.sample`: arguments, edge cases, interrupts, errors."""

from __future__ import annotations

import inspect
import os
import signal
import threading

import numpy as np
import pytest
from results import group_names
from simple_model import NormalModel, fatal_logp, impossible_logp

import nutpie


def sample(model, **kwargs):
    return nutpie.sample(model, **{"draws": 50, "tune": 50, "chains": 2, "seed": 1, "progress_bar": False} | kwargs)


def test_shapes_dims_and_coords(model):
    idata = sample(model, draws=30, tune=20, chains=3)
    assert idata.posterior["x"].dims == ("chain", "draw", "name")
    assert idata.posterior["x"].shape == (3, 30, 5)
    assert list(idata.posterior.coords["name"].values) == ["n0", "n1", "n2", "n3", "n4"]
    assert idata.posterior["total"].shape == (3, 30)
    np.testing.assert_allclose(idata.posterior["total"], idata.posterior["x"].sum("name"))
    assert idata.warmup_posterior["x"].shape == (3, 20, 5)
    np.testing.assert_array_equal(idata.observed_data["y"], [0, 1, 2])


def test_same_seed_same_draws_whatever_the_cores(model):
    one = sample(model, chains=5, cores=1, seed=3)
    two = sample(model, chains=5, cores=2, seed=3)
    other = sample(model, chains=5, cores=2, seed=4)
    np.testing.assert_array_equal(one.posterior["x"], two.posterior["x"])
    assert not np.array_equal(one.posterior["x"], other.posterior["x"])
    chains = one.posterior["x"].values
    assert not np.array_equal(chains[0], chains[1])


def test_without_seed_runs_differ_and_the_seed_is_kept(model):
    import json

    one, two = sample(model, seed=None), sample(model, seed=None)
    assert not np.array_equal(one.posterior["x"], two.posterior["x"])
    seed = json.loads(one.posterior.attrs["inference_library_settings"])["settings"]["seed"]
    np.testing.assert_array_equal(one.posterior["x"], sample(model, seed=seed).posterior["x"])


def test_draws_have_the_right_scale(model):
    idata = sample(model, draws=1000, tune=300, chains=4)
    sd = idata.posterior["x"].std(("chain", "draw")).values
    np.testing.assert_allclose(sd, np.arange(1, 6), rtol=0.08)


@pytest.mark.parametrize("tune", [0, 1, 2, 5, 20])
def test_little_or_no_warmup(model, tune):
    idata = sample(model, tune=tune)
    assert idata.warmup_posterior.sizes["draw"] == tune
    assert np.isfinite(idata.posterior["x"]).all()
    assert (idata.sample_stats["step_size"] > 0).all()


def test_no_draws(model):
    idata = sample(model, draws=0)
    assert idata.posterior["x"].shape == (2, 0, 5)
    assert idata.warmup_posterior.sizes["draw"] == 50


def test_one_chain_and_one_draw(model):
    assert sample(model, chains=1, draws=1).posterior["x"].shape == (1, 1, 5)


@pytest.mark.parametrize("n_dim", [0, 1])
def test_tiny_dimensions(n_dim):
    idata = sample(NormalModel(n_dim), draws=200)
    assert idata.posterior["x"].shape == (2, 200, n_dim)


def test_warmup_is_not_kept_unless_asked(model):
    idata = sample(model, save_warmup=False)
    assert not any(group.startswith("warmup") for group in group_names(idata))
    np.testing.assert_array_equal(idata.posterior["x"], sample(model).posterior["x"])


def test_given_starts(model):
    zero = np.zeros(5)
    starts = np.stack([zero, zero + 1])
    np.testing.assert_array_equal(
        sample(model, init=np.stack([zero, zero])).posterior["x"], sample(model, init=zero).posterior["x"]
    )
    assert not np.array_equal(sample(model, init=starts).posterior["x"], sample(model, init=zero).posterior["x"])
    with pytest.raises(ValueError, match=r"init must have shape \(5,\) or \(2, 5\)"):
        sample(model, init=np.zeros(4))
    with pytest.raises(ValueError, match=r"not finite in x_2"):
        sample(model, init=[0, 0, np.nan, 0, 0])


def test_unknown_keyword_names_the_nearest(model):
    with pytest.raises(TypeError, match="did you mean 'target_accept'"):
        sample(model, target_acept=0.9)
    with pytest.raises(TypeError, match="did you mean 'chains'"):
        sample(model, chain=2)


@pytest.mark.parametrize("name", ["num_tune", "init_mean", "random_seed", "zarr_store", "use_grad_based_mass_matrix"])
def test_keywords_of_other_packages_are_refused_with_advice(model, name):
    with pytest.raises(TypeError, match=f"no keyword '{name}': "):
        sample(model, **{name: 1})


@pytest.mark.parametrize("name", ["sampler", "adaptation"])
def test_only_what_there_is_can_be_chosen(model, name):
    with pytest.raises(ValueError, match=f"{name}='other' is not available; choose from '"):
        sample(model, **{name: "other"})


def test_thinning_keeps_one_of_some_draws(model):
    all_draws, some = sample(model, draws=100), sample(model, draws=100, thin=3)
    np.testing.assert_array_equal(some.posterior["x"], all_draws.posterior["x"][:, ::3])
    np.testing.assert_array_equal(some.warmup_posterior["x"], all_draws.warmup_posterior["x"][:, ::3])


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("thin", 0, ValueError),
        ("target_accept", 1.5, ValueError),
        ("target_accept", "high", TypeError),
        ("target_accept", float("nan"), ValueError),
        ("maxdepth", 0, ValueError),
        ("maxdepth", 3.5, TypeError),
        ("draws", -1, ValueError),
        ("draws", 10.0, TypeError),
        ("draws", True, TypeError),
        ("tune", -5, ValueError),
        ("chains", 0, ValueError),
        ("cores", 0, ValueError),
        ("seed", -1, ValueError),
        ("seed", 2**64, ValueError),
        ("seed", "x", TypeError),
        ("save_warmup", "no", TypeError),
        ("store_gradient", 1, TypeError),
        ("log_prior", None, TypeError),
        ("blocking", "False", TypeError),
    ],
)
def test_bad_values_are_refused_by_name(model, keyword, value, error):
    with pytest.raises(error, match=keyword):
        sample(model, **{keyword: value})


def test_what_is_not_compiled_is_refused():
    with pytest.raises(TypeError, match=r"compile_pymc_model\(model\), .* returns, not an object of type dict"):
        sample({})


def test_settings_are_in_signature_and_docstring():
    from nutpie.settings import declared

    parameters = inspect.signature(nutpie.sample).parameters
    for setting in declared().values():
        assert parameters[setting.name].default == setting.default
        assert f"\n{setting.name} : " in nutpie.sample.__doc__
    assert "**settings" not in nutpie.sample.__doc__


def test_settings_take_effect(model):
    deep = sample(model, maxdepth=2)
    assert deep.sample_stats["depth"].max() <= 2
    assert deep.sample_stats["n_steps"].max() <= 3
    small = sample(model, target_accept=0.99, draws=300, tune=300)
    assert small.sample_stats["step_size"].mean() < sample(model, draws=300, tune=300).sample_stats["step_size"].mean()
    shared = sample(model, step_size_jitter=0.0)
    assert len(np.unique(shared.sample_stats["step_size"])) == 1
    own = sample(model, step_size_jitter=0.0, pool=False)
    assert len(np.unique(own.sample_stats["step_size"])) == 2


def test_no_start_is_an_error_and_not_a_crash():
    with pytest.raises(ValueError, match="no start found for chain 0 in 100 tries"):
        sample(NormalModel(3, impossible_logp))


def test_fatal_code_is_an_error():
    with pytest.raises(RuntimeError, match="fatal code -1"):
        sample(NormalModel(3, fatal_logp))


def interrupt_soon(seconds: float) -> None:
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_interrupt_returns_the_draws_so_far():
    interrupt_soon(0.5)
    with pytest.warns(UserWarning, match="interrupted"):
        idata = sample(NormalModel(20), draws=2_000_000, tune=100, chains=2, cores=2)
    assert 0 < idata.posterior.sizes["draw"] < 2_000_000
    assert np.isfinite(idata.posterior["x"]).all()
    assert idata.sample_stats.sizes["draw"] == idata.posterior.sizes["draw"]


def test_interrupt_with_chains_that_have_not_begun():
    interrupt_soon(0.5)
    with pytest.warns(UserWarning, match="interrupted"):
        idata = sample(NormalModel(20), draws=2_000_000, tune=100, chains=3, cores=1)
    assert idata.posterior.sizes["chain"] == 1
    assert idata.posterior.sizes["draw"] > 0


def test_progress_bar(model, capsys):
    sample(model, progress_bar=True)
    shown = capsys.readouterr().err
    assert "200/200 draws of 2 chains" in shown
    assert "gradients per draw" in shown
    sample(model)
    assert capsys.readouterr().err == ""


def test_many_runs_at_once(model):
    results: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        results[seed] = sample(model, seed=seed).posterior["x"].values

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, draws in results.items():
        np.testing.assert_array_equal(draws, sample(model, seed=seed).posterior["x"])
