"""`nutpie.plot_run`."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr
from results import groups
from simple_model import GaussianModel, NormalModel, rotated_covariance, two_modes_logp
from synthetic import CONTAINER, autoregressive, clean_arrays, result_of

import nutpie
from nutpie.metric import Metric

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _no_window():
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    yield
    plt.close("all")


def titles(figure):
    figure.canvas.draw()
    return [axes.get_title(loc="left").strip() for axes in figure.axes]


def panel(figure, start):
    (axes,) = [a for a in figure.axes if a.get_title(loc="left").startswith(start)]
    return axes


@pytest.mark.parametrize("container", sorted({CONTAINER, "DataTree"}))
def test_panels(container):
    posterior, stats = clean_arrays()
    posterior["tau"] = autoregressive(np.random.default_rng(1), (4, 1000), 0.99)
    figure = nutpie.plot_run(result_of(posterior, stats, container=container))
    shown = titles(figure)
    assert [t.split(":")[0] for t in shown[:4]] == ["Step size", "Depth of trajectories", "Energy", "Log density"]
    assert shown[4] == "tau"
    assert len(shown) == 8
    assert "20,000 gradients" in figure.get_suptitle()
    assert "2 problems" in figure.get_suptitle()


def test_what_is_drawn_is_in_the_result(tmp_path):
    result = nutpie.sample(NormalModel(6), draws=300, tune=200, seed=1, progress_bar=False)
    figure = nutpie.plot_run(result)
    figure.savefig(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 30_000

    lines = panel(figure, "Log density").lines
    assert len(lines) == 4
    drawn = lines[2].get_xydata()
    np.testing.assert_array_equal(drawn[:, 0], np.arange(-200, 300))
    np.testing.assert_array_equal(drawn[200:, 1], result.sample_stats["logp"][2])
    np.testing.assert_array_equal(drawn[:200, 1], result.warmup_sample_stats["logp"][2])

    heights = [bar.get_height() for bar in panel(figure, "Depth").patches]
    assert sum(heights) == pytest.approx(4)
    steps = float(result.sample_stats["n_steps"].mean())
    assert f"{steps:.1f} steps per draw" in panel(figure, "Depth").get_title(loc="left")
    # Each chain has the same number of draws, so that heights of the ranks have a mean of one.
    for patch in figure.axes[-1].patches:
        if hasattr(patch, "get_data"):
            assert patch.get_data().values.mean() == pytest.approx(1)


def test_metric_is_the_last_one_that_is_known():
    posterior, stats = clean_arrays(draws=200)
    metric = np.full((4, 100, 3), np.nan)
    metric[:, 40] = 7.0
    metric[:, 90] = [[3.0, 1.0, 2.0]]
    warmup = {name: values[:, :100] for name, values in stats.items()} | {"mass_matrix_inv": metric}
    figure = nutpie.plot_run(result_of(posterior, stats, warmup=warmup))
    points = panel(figure, "Metric").collections
    assert len(points) == 4
    np.testing.assert_array_equal(points[0].get_offsets(), [[0, 1], [1, 2], [2, 3]])
    # Draws after warm-up that have it come first.
    stats["mass_matrix_inv"] = np.full((4, 200, 3), 5.0)
    figure = nutpie.plot_run(result_of(posterior, stats, warmup=warmup))
    np.testing.assert_array_equal(panel(figure, "Metric").collections[0].get_offsets()[:, 1], [5, 5, 5])


def correlated(n_dim=6, **kwargs):
    options = {"draws": 20, "seed": 1, "progress_bar": False, "check": False}
    return nutpie.sample(GaussianModel(rotated_covariance(n_dim, 1e4)), **options | kwargs)


def test_the_metric_of_a_run_is_drawn_by_its_eigenvalues():
    result = correlated()
    metric = Metric.from_result(result)
    eigenvalues, variances = panel(nutpie.plot_run(result), "Metric").lines
    np.testing.assert_allclose(eigenvalues.get_ydata(), np.linalg.eigvalsh(metric.matrix())[::-1], rtol=1e-6)
    np.testing.assert_allclose(variances.get_ydata(), np.sort(np.diag(metric.matrix()))[::-1])
    result = nutpie.sample(NormalModel(3), draws=20, seed=1, pool=False, progress_bar=False, check=False)
    lines = panel(nutpie.plot_run(result), "Metric").lines
    assert len(lines) == 4, "one for each chain, as they are diagonal"


def test_where_the_matrix_is_large_its_variances_stand_for_it(monkeypatch):
    monkeypatch.setattr("nutpie.metric_plots.MOST_OPERATIONS", 10)
    result = correlated()
    (line,) = panel(nutpie.plot_run(result), "Metric: variances").lines
    np.testing.assert_allclose(line.get_ydata(), np.sort(np.diag(Metric.from_result(result).matrix()))[::-1])


@pytest.mark.parametrize("container", sorted({CONTAINER, "DataTree"}))
def test_panels_of_the_metric(container, tmp_path):
    result = correlated(20, init=1e5)
    group = result.adaptation
    if container == "DataTree":
        result = xr.DataTree.from_dict(groups(result))
    figure = nutpie.plot_metric(result)
    figure.savefig(tmp_path / "metric.png")
    assert (tmp_path / "metric.png").stat().st_size > 30_000
    # The colour bar has no title.
    shown = [t.split(":")[0] for t in titles(figure) if t]
    assert shown == ["Metric", "Directions", "Warm-up", "Warm-up"]
    assert figure.get_suptitle().replace("\n", "; ") == group.attrs["verdict"]
    points = [line for line in panel(figure, "Warm-up: eigenvalues").lines if line.get_marker() == "o"]
    drawn = np.concatenate([line.get_ydata() for line in points])
    known = group["change_eigvals"].values
    np.testing.assert_array_equal(np.sort(drawn[np.isfinite(drawn)]), np.sort(known[np.isfinite(known)]))
    for start in ("Warm-up: eigenvalues", "Warm-up: scales"):
        texts = [text.get_text().strip() for text in panel(figure, start).texts]
        assert texts.count("extended") == int(group["check_extended"].sum()) > 0


def test_scales_end_at_the_last_ones():
    figure = nutpie.plot_metric(correlated())
    lines = [line for line in panel(figure, "Warm-up: scales").lines if len(line.get_xdata()) > 2]
    assert len(lines) == 5, "those of four chains and what they share"
    assert lines[-1].get_ydata()[-1] == 1
    assert lines[-1].get_xdata()[-1] == 150
    assert all(line.get_ydata().max() > 1.1 for line in lines[:4])


def test_directions_are_those_with_the_most_extreme_eigenvalues():
    vectors = np.eye(5)[[0, 2, 4]]
    given = {"stds": np.ones(5), "eigvals": [2.0, 0.01, 30.0], "eigvecs": vectors}
    result = nutpie.sample(NormalModel(5), draws=5, metric=given, adaptation="fixed", progress_bar=False, check=False)
    axes = panel(nutpie.plot_metric(result), "Directions")
    np.testing.assert_array_equal(axes.images[0].get_array(), vectors[[1, 2, 0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.01", "30", "2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"x_{i}" for i in range(5)]


@pytest.mark.parametrize(
    "options",
    [
        {"adaptation": "diag", "tune": 40},
        {"adaptation": "stan_dense", "tune": 100},
        {"chains": 1},
        {"chains": 12, "pool": False},
        {"tune": 0},
        {"tune": 3, "chains": 2},
        {"max_rank": 1},
        {"max_rank": 0, "save_warmup": False},
    ],
)
def test_metrics_of_all_kinds(options):
    for model in (NormalModel(1), NormalModel(30), GaussianModel(rotated_covariance(6, 1e4))):
        result = nutpie.sample(model, draws=5, seed=1, progress_bar=False, check=False, **options)
        assert len(titles(nutpie.plot_metric(result))) >= 2


def test_a_chain_with_a_metric_of_its_own():
    start = np.zeros((4, 3))
    start[2] = 100
    result = nutpie.sample(
        NormalModel(3, two_modes_logp), draws=5, init=start, max_rank=1, seed=1, progress_bar=False, check=False
    )
    lines = panel(nutpie.plot_metric(result), "Metric").lines
    assert [line.get_label() for line in lines if not line.get_label().startswith("_")] == [
        "chains 0, 1 and 3",
        "chain 2",
    ]


def test_no_metric_to_draw():
    with pytest.raises(ValueError, match="the result has no group 'mass_matrix'"):
        nutpie.plot_metric(result_of(*clean_arrays(draws=100)))
    with pytest.raises(TypeError, match="wanted a result"):
        nutpie.plot_metric([1, 2])


def test_divergent_draws_are_marked():
    posterior, stats = clean_arrays()
    stats["diverging"][1, [10, 500]] = True
    axes = panel(nutpie.plot_run(result_of(posterior, stats)), "Log density")
    np.testing.assert_array_equal(axes.collections[-1].get_offsets()[:, 0], [10, 500])
    assert "2 divergent draws" in axes.texts[0].get_text()


@pytest.mark.parametrize(
    "settings",
    [
        {"draws": 0},
        {"draws": 0, "save_warmup": False},
        {"draws": 1},
        {"draws": 3, "chains": 1},
        {"draws": 20, "tune": 0},
        {"draws": 100, "chains": 12},
        {"draws": 100, "save_warmup": False},
    ],
)
def test_small_and_large_runs(settings):
    result = nutpie.sample(NormalModel(3), **{"tune": 30, "seed": 1, "progress_bar": False, "check": False} | settings)
    assert len(titles(nutpie.plot_run(result))) >= 5


def test_without_parameters_and_without_statistics():
    assert "Ranks" in titles(nutpie.plot_run(nutpie.sample(NormalModel(0), draws=50, tune=10, progress_bar=False)))
    figure = nutpie.plot_run(result_of(clean_arrays()[0], None))
    assert [t.get_text() for t in figure.axes[0].texts] == ["not in the result"]
    assert "mu" in titles(figure)


def test_variables_are_chosen_by_name():
    result = result_of(*clean_arrays())
    assert titles(nutpie.plot_run(result, var_names="tau"))[4:] == ["tau"]
    with pytest.raises(ValueError, match="did you mean 'theta'"):
        nutpie.plot_run(result, var_names="teta")


def test_settings_of_the_user_stay_as_they_are():
    before = dict(matplotlib.rcParams)
    nutpie.plot_run(result_of(*clean_arrays(draws=100)))
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (nutpie.plot_run, nutpie.plot_metric):
        with pytest.raises(ImportError, match=rf'{draw.__name__} needs matplotlib: pip install "nutpie\[plots\]"'):
            draw(result_of(*clean_arrays(draws=100)))
