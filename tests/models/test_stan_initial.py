"""Starts of Stan programs."""

from __future__ import annotations

import numpy as np
import pytest
from stan_programs import SCHOOLS, SHAPES

import nutpie
from nutpie.initial import starting_points


def starts(model, init, *, chains=2, seed=1, candidates=1):
    return starting_points(model, model.density(), init, seed, chains, candidates)


@pytest.fixture(scope="module")
def many(constraints):
    return constraints.with_data(K=3)


@pytest.fixture(scope="module")
def schools(eight_schools_noncentered):
    return eight_schools_noncentered.with_data(SCHOOLS)


def values_at(model, point):
    return {name: values[0] for name, values in model.expand(np.asarray(point)[None]).items()}


def test_default_is_that_of_stan(schools):
    points = np.stack([schools.initial_point((seed,)) for seed in range(300)])
    assert -2 <= points.min() < -1.95
    assert 1.95 < points.max() <= 2
    assert points.std() == pytest.approx(4 / np.sqrt(12), rel=0.05)
    np.testing.assert_array_equal(starts(schools, None), starts(schools, None))


def test_radius_and_arrays(schools):
    assert np.abs(starts(schools, 0.1)).max() <= 0.1
    assert (starts(schools, 0) == 0).all()
    given = np.arange(20.0).reshape(2, 10) / 10
    np.testing.assert_array_equal(starts(schools, given), given)


def test_what_comes_back_is_what_was_given(many):
    assert list(many.free_variables) == [v.name for v in many.variables]
    for seed in range(5):
        target = many.initial_point((seed,))
        found = many.unconstrain(values_at(many, target), many.initial_point((seed + 100,)))
        np.testing.assert_allclose(values_at(many, found)["cov"], values_at(many, target)["cov"], rtol=1e-6)
        for name, value in values_at(many, target).items():
            np.testing.assert_allclose(values_at(many, found)[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_each_variable_alone_leaves_the_coordinates_of_others(many):
    base = many.initial_point((1,))
    values = values_at(many, many.initial_point((2,)))
    values["between"] = values_at(many, base)["free"] + 0.3 * values_at(many, base)["positive"]
    values["above"] = values_at(many, base)["between"] + 0.5
    names = np.array([name.split(".")[0] for name in many.unconstrained_names])
    for name in many.free_variables:
        found = many.unconstrain({name: values[name]}, base)
        np.testing.assert_allclose(values_at(many, found)[name], values[name], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found[names != name], base[names != name])


def test_bounds_that_are_parameters(many):
    base = many.initial_point((3,))
    # Far from where they are at the base, whatever the order in which they are given.
    given = {"between": 105.5, "above": 200.0, "free": 100.0, "positive": 10.0}
    for names in (list(given), list(given)[::-1]):
        found = values_at(many, many.unconstrain({name: given[name] for name in names}, base))
        for name, value in given.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5)
    # Bounds alone move what is between them, which keeps its unconstrained coordinate.
    found = many.unconstrain({"free": 100.0}, base)
    np.testing.assert_allclose(values_at(many, found)["free"], 100.0)
    assert 100 < values_at(many, found)["between"] < values_at(many, found)["above"]
    assert (found != base).sum() == 1


def test_the_base_is_left_alone(many):
    base = many.initial_point((1,))
    before = base.copy()
    many.unconstrain({"free": 5.0}, base)
    np.testing.assert_array_equal(base, before)
    assert many.unconstrain({}, base) is not base


def test_tuples_complex_numbers_and_sizes(shapes):
    model = shapes.with_data(SHAPES)
    assert list(model.free_variables) == ["mu", "grid", "z", "both:1", "both:2"]
    grid = np.arange(12.0).reshape(2, 2, 3)
    given = {"grid": grid, "z": 1 - 2j, "both:1": 3.0, "both:2": [1.0, 2.0], "empty": []}
    found = values_at(model, model.unconstrain(given, model.initial_point((1,))))
    np.testing.assert_allclose(found["grid"], grid)
    np.testing.assert_allclose(found["z"], 1 - 2j)
    assert found["both:1"] == pytest.approx(3.0)
    np.testing.assert_allclose(found["both:2"], [1, 2])
    assert values_at(model, model.unconstrain({"z": 2}, np.zeros(18)))["z"] == 2 + 0j


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"positive": -1.0}, "'positive' is outside its support: .*is -1, but must be"),
        ({"positive": 0.0}, "'positive' is outside its support"),
        ({"inside": 5.0}, "'inside' is outside its support: .*is 5, but must be in the interval"),
        ({"free": 1.0, "share": [0.5, 0.4, 0.3]}, "'share' is outside its support: .*simplex"),
        ({"rising": [1.0, 3.0, 2.0]}, "'rising' is outside its support: .*ordered"),
        ({"corr": np.ones((3, 3))}, "'corr' is outside its support"),
        ({"direction": [1.0, 1.0, 1.0]}, "'direction' is outside its support"),
        ({"free": [1.0]}, r"'free' has shape \(1,\), \(\) is needed"),
        ({"shares": np.ones(3) / 3}, r"'shares' has shape \(3,\), \(2, 3\) is needed"),
        ({"free": np.nan}, "'free' is nan, finite numbers are needed"),
        ({"free": "high"}, "'free' must be real numbers"),
        ({"freee": 1.0}, "there is no parameter 'freee'; did you mean 'free'"),
    ],
)
def test_mistakes_are_explained(many, values, message):
    with pytest.raises(ValueError, match=message):
        many.unconstrain(values, many.initial_point((0,)))


def test_only_parameters_have_a_start(schools, shapes):
    base = np.zeros(10)
    with pytest.raises(ValueError, match="'theta' is one of the transformed parameters, which follow from"):
        schools.unconstrain({"theta": np.zeros(8)}, base)
    with pytest.raises(ValueError, match="'y_rep' is one of the generated quantities"):
        schools.unconstrain({"y_rep": np.zeros(8)}, base)
    with pytest.raises(ValueError, match="'both' is a tuple: give values of its places 'both:1', 'both:2'"):
        shapes.with_data(SHAPES).unconstrain({"both": (1.0, [1.0, 2.0])}, np.zeros(18))
    with pytest.raises(ValueError, match="init: there is no parameter 'taus'; did you mean 'tau'"):
        starts(schools, {"taus": 1.0})


def test_partial_dicts_for_each_chain(schools):
    found = schools.expand(starts(schools, [{"tau": 2.0}, {"tau": 3.0, "mu": -1.0}]))
    np.testing.assert_allclose(found["tau"], [2, 3])
    assert found["mu"][1] == pytest.approx(-1)
    assert -2 <= found["mu"][0] <= 2
    found = schools.expand(starts(schools, lambda chain: {"tau": 1.0 + chain}, chains=3))
    np.testing.assert_allclose(found["tau"], [1, 2, 3])
    np.testing.assert_allclose(schools.expand(starts(schools, {"tau": 4.0}, chains=3))["tau"], 4)


def test_earlier_results(schools):
    settings = {"draws": 20, "tune": 20, "chains": 2, "progress_bar": False, "check": False}
    first = nutpie.sample(schools, seed=1, **settings)
    second = nutpie.sample(schools, seed=2, init=first, **settings)
    last = first.posterior.isel(draw=-1)
    for name in ("mu", "tau", "theta_trans", "theta"):
        np.testing.assert_allclose(second.initial_points[name], last[name], rtol=1e-6)
