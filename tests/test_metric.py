"""`nutpie.sample(metric=...)`: the inverse mass matrix to begin with."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import xarray as xr
from results import groups, make_result
from simple_model import GaussianModel, NormalModel, rotated_covariance

import nutpie
from nutpie.metric import Metric, metrics_for_chains

NAMES = ["a", "b", "c"]
ADAPTATIONS = [name for name, *_ in nutpie._lib.adaptations()]


def sample(model, **kwargs):
    defaults = {"draws": 30, "tune": 30, "chains": 2, "seed": 1, "progress_bar": False, "check": False}
    return nutpie.sample(model, **defaults | kwargs)


def in_force(result) -> list[np.ndarray]:
    """Inverse mass matrices of the chains of a result."""
    return [Metric.from_result(result, chain).matrix() for chain in range(result.posterior.sizes["chain"])]


@pytest.fixture(scope="module")
def covariance() -> np.ndarray:
    return rotated_covariance(5, 1e4)


@pytest.fixture(scope="module")
def earlier(covariance):
    return sample(GaussianModel(covariance), draws=300, tune=None)


# ----------------------------------------------------------------------------------------------- forms that it can have


def test_the_matrix_is_in_force(covariance):
    for matrix in in_force(sample(GaussianModel(covariance), metric=covariance, adaptation="fixed")):
        np.testing.assert_allclose(matrix, covariance, rtol=1e-9, atol=1e-9)


def test_the_diagonal_is_in_force(model):
    diagonal = np.array([0.5, 1, 2, 4, 8])
    for given in (diagonal, diagonal.tolist(), np.diag(diagonal), xr.DataArray(diagonal)):
        result = sample(model, metric=given, adaptation="fixed")
        np.testing.assert_allclose(result.mass_matrix["stds"] ** 2, np.stack([diagonal] * 2), rtol=1e-12)
        assert (result.mass_matrix["rank"] == 0).all(), "so that its leapfrog steps are those of a diagonal metric"


def test_a_dict_is_in_force(model):
    stds, values = np.array([1.0, 2, 3, 4, 5]), np.array([9.0, 0.25])
    vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 2)))[0].T
    result = sample(model, metric={"stds": stds, "eigvals": values, "eigvecs": vectors}, adaptation="fixed")
    expected = np.diag(stds) @ (np.eye(5) + vectors.T @ np.diag(values - 1) @ vectors) @ np.diag(stds)
    for matrix in in_force(result):
        np.testing.assert_allclose(matrix, expected, rtol=1e-12)
    again = sample(model, metric=Metric(stds, values, vectors, np.zeros(5)), adaptation="fixed")
    np.testing.assert_array_equal(again.posterior["x"], result.posterior["x"])
    scales = sample(model, metric={"stds": stds}, adaptation="fixed")
    np.testing.assert_array_equal(in_force(scales)[0], np.diag(stds**2))


def test_one_for_each_chain(model):
    given = [np.ones(5), {"stds": np.full(5, 2.0)}, None]
    result = sample(model, metric=given, adaptation="fixed", chains=3)
    stds = result.mass_matrix["stds"].values
    np.testing.assert_array_equal(stds[:2], [np.ones(5), np.full(5, 2.0)])
    np.testing.assert_array_equal(stds[2], sample(model, adaptation="fixed", chains=3).mass_matrix["stds"].values[2])


def test_an_earlier_result_is_in_force(covariance, earlier):
    model = GaussianModel(covariance)
    before = in_force(earlier)
    for given in (earlier, groups(earlier)["mass_matrix"]):
        after = in_force(sample(model, metric=given, adaptation="fixed", chains=3))
        for matrix, expected in zip(after, [*before, before[0]], strict=True):
            np.testing.assert_allclose(matrix, expected, rtol=1e-12)
    as_list = sample(model, metric=[earlier, earlier], adaptation="fixed")
    as_one = sample(model, metric=earlier, adaptation="fixed")
    np.testing.assert_array_equal(as_list.posterior["x"], as_one.posterior["x"])


@pytest.mark.parametrize("form", ["file", "tree"])
def test_an_earlier_result_of_another_form(covariance, earlier, form, tmp_path):
    given = earlier
    if form == "file":
        earlier.to_netcdf(str(tmp_path / "run.nc"))
        given = az.from_netcdf(str(tmp_path / "run.nc"))
    else:
        given = xr.DataTree.from_dict(groups(earlier))
    model = GaussianModel(covariance)
    draws = [sample(model, metric=g, adaptation="fixed").posterior["x"] for g in (earlier, given)]
    np.testing.assert_array_equal(*draws)


def test_parameters_in_another_order_are_put_in_order(earlier):
    dataset = groups(earlier)["mass_matrix"]
    names = dataset["unconstrained_parameter"].values.tolist()
    turned = names[::-1]
    (metric,) = metrics_for_chains(earlier, turned, 1)
    np.testing.assert_allclose(metric.matrix(), Metric.from_result(earlier).matrix()[::-1, ::-1], rtol=1e-12)


def test_the_metric_of_a_chain_that_lagged_is_not_used(earlier):
    parts = {name: group.copy(deep=True) for name, group in groups(earlier).items()}
    parts["mass_matrix"]["stds"] = parts["mass_matrix"]["stds"] * xr.DataArray([1.0, 100.0], dims="chain")
    parts["adaptation"]["lagging"] = ("chain", np.array([False, True]))
    first, second, third = metrics_for_chains(make_result(parts), [f"x_{i}" for i in range(5)], 3)
    for metric in (second, third):
        np.testing.assert_array_equal(metric.stds, first.stds)


# ------------------------------------------------------------------------------------------------------- what it is for


def test_a_perfect_metric_is_worth_it(covariance):
    model = GaussianModel(covariance)
    options = {"tune": 100, "draws": 500, "adaptation": "fixed", "chains": 4}
    perfect, none = sample(model, metric=covariance, **options), sample(model, **options)
    ess = [float(az.ess(run, var_names=["x"])["x"].min()) for run in (perfect, none)]
    steps = [int(run.sample_stats["n_steps"].sum()) for run in (perfect, none)]
    assert ess[0] > 1000, "of 2000 draws"
    assert ess[0] / steps[0] > 10 * ess[1] / steps[1]


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_the_first_draw_has_it_whatever_the_adaptation(covariance, adaptation):
    # Diagonal adaptations, too, begin with a matrix.
    result = sample(GaussianModel(covariance), metric=covariance, adaptation=adaptation, tune=1, store_mass_matrix=True)
    first = result.warmup_sample_stats["mass_matrix_inv"].values[:, 0]
    if adaptation in ("diag", "draw_diag"):
        # Which change after each draw, and the metric is that after the draw.
        assert np.isfinite(first).all()
    else:
        np.testing.assert_allclose(first, np.stack([np.diag(covariance)] * 2), rtol=1e-9)


def test_without_warmup_it_is_in_force(covariance):
    for adaptation in ADAPTATIONS:
        result = sample(GaussianModel(covariance), metric=covariance, adaptation=adaptation, tune=0)
        np.testing.assert_allclose(in_force(result)[1], covariance, rtol=1e-9, atol=1e-9)


def test_a_diagonal_adaptation_drops_the_eigenvectors(covariance):
    result = sample(GaussianModel(covariance), metric=covariance, adaptation="diag", tune=200, draws=300, chains=4)
    assert (result.mass_matrix["rank"] == 0).all()
    np.testing.assert_allclose(result.posterior["x"].var(("chain", "draw")), np.diag(covariance), rtol=0.5)


def test_a_warm_start_needs_fewer_gradients(covariance, earlier):
    model = GaussianModel(covariance)
    options = {"tune": 50, "draws": 0, "init": earlier.posterior["x"][:, -1].values}
    warm = sample(model, metric=earlier, **options).posterior.attrs["n_gradients"]
    assert warm < 0.7 * sample(model, **options).posterior.attrs["n_gradients"]


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (np.ones(2), ValueError, r"metric must have shape \(3,\) or \(3, 3\), not \(2,\)"),
        (np.ones((3, 4)), ValueError, r"not \(3, 4\)"),
        (2.0, ValueError, r"not \(\)"),
        ([1.0, 2.0], ValueError, r"not \(2,\)"),
        ([1.0, -2.0, 3.0], ValueError, r"metric must be positive and finite; at \[1\] it is -2.0"),
        ([1.0, 2.0, np.nan], ValueError, r"at \[2\] it is nan"),
        (np.full((3, 3), np.inf), ValueError, r"metric must be finite; at \[0, 0\] it is inf"),
        (np.diag([1.0, 0.0, 1.0]), ValueError, r"the diagonal of metric must be positive and finite; at \[1\]"),
        (np.eye(3) + np.triu(np.full((3, 3), 0.1), 1), ValueError, "metric must be symmetric"),
        (np.ones((3, 3)) + np.eye(3) * -0.5, ValueError, "metric must be positive definite"),
        ({"eigvals": [2.0]}, ValueError, "metric must have 'stds' and may have"),
        ({"stds": np.ones(3), "values": [2.0]}, ValueError, "not \\['stds', 'values'\\]"),
        ({"stds": np.ones(4)}, ValueError, r"metric\['stds'\] must have shape \(3,\), not \(4,\)"),
        ({"stds": np.ones(3), "eigvals": [2.0]}, ValueError, r"the rows of metric\['eigvecs'\] must be orthonormal"),
        (
            {"stds": np.ones(3), "eigvals": [2.0], "eigvecs": np.eye(3)},
            ValueError,
            r"metric\['eigvecs'\] must have shape \(1, 3\)",
        ),
        (
            {"stds": np.ones(3), "eigvals": [0.0], "eigvecs": np.eye(3)[:1]},
            ValueError,
            r"metric\['eigvals'\] must be positive",
        ),
        (
            {"stds": np.ones(3), "eigvals": [1e30, 1e-30], "eigvecs": np.array([[1, 1, 0], [1, -1, 0]]) / np.sqrt(2)},
            None,
            "",
        ),
        ("diag", TypeError, "metric must be an earlier result, the diagonal"),
        ({1.0, 2.0, 3.0}, TypeError, "not set"),
        (lambda: 1, TypeError, "not function"),
        ([np.ones(3)], ValueError, "metric has 1 elements, but there are 2 chains"),
        ([np.ones(3), np.ones(2)], ValueError, r"metric\[1\] must have shape \(3,\)"),
        ([np.ones(3), "diag"], TypeError, r"metric\[1\] must be an earlier result"),
    ],
)
def test_mistakes_are_named(given, error, message):
    if error is None:
        assert metrics_for_chains(given, NAMES, 2)[0].rank == 2
        return
    with pytest.raises(error, match=message):
        metrics_for_chains(given, NAMES, 2)


def test_eigenvalues_that_rounding_makes_useless_are_refused():
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    given = {"stds": np.ones(3), "eigvals": [1e-20] * 3, "eigvecs": vectors}
    with pytest.raises(ValueError, match="metric has eigenvalues too far apart"):
        metrics_for_chains(given, NAMES, 1)


def test_results_that_do_not_fit_are_refused(earlier):
    with pytest.raises(ValueError, match=r"the earlier result has 5 parameters and the model 3.*it lacks 'a'"):
        metrics_for_chains(earlier, NAMES, 1)
    with pytest.raises(ValueError, match="has 5 parameters and the model 4, not the same"):
        metrics_for_chains(earlier, ["x_0", "x_1", "x_2", "x_3"], 1)
    parts = groups(earlier)
    del parts["mass_matrix"]
    for given in (make_result(parts), xr.DataTree.from_dict(parts)):
        with pytest.raises(ValueError, match="this result has no group 'mass_matrix'"):
            metrics_for_chains(given, NAMES, 1)
    with pytest.raises(ValueError, match="no group 'mass_matrix'"):
        metrics_for_chains(parts["posterior"], NAMES, 1)


def test_mistakes_are_found_before_anything_is_sampled():
    with pytest.raises(ValueError, match=r"metric must have shape \(3,\)"):
        nutpie.sample(NormalModel(3), metric=np.ones(4), progress_bar=False)


# ---------------------------------------------------------------------------------------------------------- the matrix


@pytest.mark.parametrize("n_dim", [6, 250])
def test_eigenvalues(n_dim):
    rng = np.random.default_rng(n_dim)
    stds = np.exp(rng.normal(size=n_dim))
    vectors = np.linalg.qr(rng.normal(size=(n_dim, 4)))[0].T
    metric = Metric(stds, np.array([1000.0, 30, 0.1, 0.01]), np.ascontiguousarray(vectors), np.zeros(n_dim))
    values = np.linalg.eigvalsh(metric.matrix())
    np.testing.assert_allclose(metric.spectrum(), values[::-1], rtol=1e-9)
    assert metric.condition_number() == pytest.approx(values[-1] / values[0], rel=0.05)


def test_the_smallest_eigenvalues_are_not_lost_to_rounding():
    stds = np.array([1e8, 1.0, 1e-8])
    metric = Metric(stds, np.array([4.0]), np.array([[0.6, 0.0, 0.8]]), np.zeros(3))
    assert metric.spectrum()[-1] > 0
    assert metric.condition_number() == pytest.approx(np.linalg.cond(np.diag(stds)) ** 2, rel=10)
