"""Where chains start: all forms of ``init``, for models without names and with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import pytest
import xarray as xr
from simple_model import _SIGNATURE, NormalModel, impossible_logp

import nutpie
from nutpie.initial import START_TRIES, starting_points
from nutpie.models._values import value_of_shape


class NamedModel(NormalModel):
    """The same, with parameters in two variables: ``first`` of shape (2,), and the rest."""

    @property
    def free_variables(self) -> list[str]:
        return ["first", "rest"]

    def unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        point = base.copy()
        slices = {"first": slice(0, 2), "rest": slice(2, self.n_dim)}
        for name, value in values.items():
            if name not in slices:
                raise ValueError(f"there is no {name!r}")
            point[slices[name]] = value_of_shape(name, value, point[slices[name]].shape)
        return point


@numba.cfunc(_SIGNATURE)
def box_logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    """Flat between -1 and 1 in each coordinate, normal tails outside; infinite energy where x[0] < 0."""
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    logp = 0.0
    for i in range(dim):
        excess = max(abs(x[i]) - 1.0, 0.0)
        logp -= 0.5 * excess * excess
        grad[i] = -excess * np.sign(x[i])
    numba.carray(logp_ptr, (1,))[0] = logp if x[0] >= 0.0 else -np.inf
    return 0


@numba.cfunc(_SIGNATURE)
def nan_gradient_logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    """A standard normal whose gradient is not a number where x[0] < 0."""
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    for i in range(dim):
        grad[i] = -x[i]
    if x[0] < 0.0:
        grad[0] = np.nan
    numba.carray(logp_ptr, (1,))[0] = -0.5 * np.sum(x * x)
    return 0


def starts(model, init=None, *, seed=1, chains=3, candidates=1):
    return starting_points(model, model.density(), init, seed, chains, candidates)


def logp(points):
    """Log density of `NormalModel`."""
    return -0.5 * ((points / np.arange(1, points.shape[1] + 1)) ** 2).sum(axis=1)


@pytest.fixture
def named() -> NamedModel:
    return NamedModel(5)


# -------------------------------------------------------------------------------------------------------- forms


def test_default_is_the_own_start_of_the_model(model):
    expected = [model.initial_point((1, chain, 0)) for chain in range(3)]
    found = starts(model)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous
    assert found.dtype == np.float64


@pytest.mark.parametrize("radius", [3.0, 3, np.float32(3), np.array(3.0)])
def test_radius(model, radius):
    points = starts(model, radius, chains=400)
    assert (np.abs(points) <= 3).all()
    assert points.min() < -2.9
    assert points.max() > 2.9
    assert abs(points.mean()) < 0.15
    assert len(np.unique(points)) == points.size
    np.testing.assert_array_equal(points, starts(model, radius, chains=400))
    assert not np.array_equal(points, starts(model, radius, chains=400, seed=2))


def test_radius_zero(model):
    np.testing.assert_array_equal(starts(model, 0), np.zeros((3, 5)))


def test_arrays(model):
    flat = np.arange(5.0)
    np.testing.assert_array_equal(starts(model, flat), [flat] * 3)
    np.testing.assert_array_equal(starts(model, [0, 1, 2, 3, 4]), [flat] * 3)
    each = np.arange(15.0).reshape(3, 5)
    np.testing.assert_array_equal(starts(model, each), each)
    np.testing.assert_array_equal(starts(model, list(each)), each)
    np.testing.assert_array_equal(starts(model, each.tolist()), each)
    np.testing.assert_array_equal(starts(model, tuple(map(tuple, each))), each)
    square = np.arange(25.0).reshape(5, 5)
    np.testing.assert_array_equal(starts(model, square, chains=5), square)
    np.testing.assert_array_equal(starts(model, xr.DataArray(flat)), [flat] * 3)


def test_one_parameter():
    model = NormalModel(1)
    np.testing.assert_array_equal(starts(model, [0.5]), np.full((3, 1), 0.5))
    assert (np.abs(starts(model, 0.5)) <= 0.5).all()
    assert len(np.unique(starts(model, 0.5))) == 3
    with pytest.raises(ValueError, match=r"shape \(1,\) or \(3, 1\), not \(3,\)"):
        starts(model, [0.1, 0.2, 0.3])


def test_starts_do_not_share_memory_with_what_was_given(model):
    flat = np.arange(5.0)
    found = starts(model, flat)
    found[:] = -1
    np.testing.assert_array_equal(flat, np.arange(5.0))


def test_dict(named):
    full = starts(named, {"first": [1, 2], "rest": np.array([3.0, 4, 5])})
    np.testing.assert_array_equal(full, [[1, 2, 3, 4, 5]] * 3)
    partial = starts(named, {"rest": [3, 4, 5]})
    np.testing.assert_array_equal(partial[:, 2:], [[3, 4, 5]] * 3)
    np.testing.assert_array_equal(partial[:, :2], starts(named)[:, :2])
    np.testing.assert_array_equal(starts(named, {}), starts(named))


def test_list_for_each_chain(named):
    found = starts(named, [{"first": [7, 8]}, np.arange(5.0), None])
    own = starts(named)
    np.testing.assert_array_equal(found[0], [7, 8, *own[0, 2:]])
    np.testing.assert_array_equal(found[1], np.arange(5.0))
    np.testing.assert_array_equal(found[2], own[2])


def test_function_of_the_chain(named):
    forms = [{"first": [7, 8]}, list(range(5)), None, 0.0]
    asked = []

    def init(chain):
        asked.append(chain)
        return forms[chain]

    found = starts(named, init, chains=4)
    assert asked == [0, 1, 2, 3]
    own = starts(named, chains=4)
    np.testing.assert_array_equal(found, [[7, 8, *own[0, 2:]], range(5), own[2], np.zeros(5)])


def test_models_that_take_arrays_only(model):
    with pytest.raises(TypeError, match=r"NormalModel takes starts only as arrays of 5 unconstrained numbers"):
        starts(model, {"x": np.zeros(5)})


# ---------------------------------------------------------------------------------------------- earlier results


def earlier(chains, draws, names=("first", "rest")):
    """A posterior in which each value tells variable, chain, draw and element."""
    widths = {"first": 2, "rest": 3, "extra": 4}
    grid = 1000 * np.arange(chains)[:, None, None] + 10 * np.arange(draws)[:, None]
    arrays = {n: (("chain", "draw", f"{n}_dim"), 0.1 * (grid + np.arange(widths[n]))) for n in names}
    return xr.Dataset(arrays, coords={"chain": np.arange(chains), "draw": np.arange(draws)})


def picked(chain, draw):
    base = 1000 * chain + 10 * draw
    return 0.1 * np.array([base, base + 1, base, base + 1, base + 2])


def forms_of(posterior):
    yield posterior
    yield {"posterior": posterior}
    yield xr.DataTree.from_dict({"posterior": posterior, "other": xr.Dataset()})
    import arviz

    if not issubclass(arviz.InferenceData, xr.DataTree):  # ArviZ 0.x
        yield arviz.InferenceData(posterior=posterior)


def test_earlier_result(named):
    posterior = earlier(2, 10, ("extra", "rest", "first"))
    for init in forms_of(posterior):
        np.testing.assert_allclose(starts(named, init, chains=1), [picked(0, 9)])
        np.testing.assert_allclose(starts(named, init, chains=2), [picked(0, 9), picked(1, 9)])
        five = [picked(0, 9), picked(1, 9), picked(0, 6), picked(1, 6), picked(0, 3)]
        np.testing.assert_allclose(starts(named, init, chains=5), five)


def test_more_chains_than_earlier_draws(named):
    found = starts(named, earlier(1, 2), chains=3)
    np.testing.assert_allclose(found, [picked(0, 1), picked(0, 0), picked(0, 1)])


def test_earlier_result_that_does_not_fit(named, model):
    with pytest.raises(ValueError, match=r"lacks 'rest'.*list with a dict"):
        starts(named, earlier(2, 3, ("first",)))
    with pytest.raises(ValueError, match="no draws"):
        starts(named, earlier(2, 0))
    with pytest.raises(ValueError, match="no group 'posterior'"):
        starts(named, xr.DataTree.from_dict({"prior": earlier(2, 3)}))
    with pytest.raises(TypeError, match="only as arrays"):
        starts(model, earlier(2, 3))
    wide = earlier(2, 3).rename(first="rest", rest="first")
    with pytest.raises(ValueError, match=r"init of chain 0: the value of 'first' has shape \(3,\), \(2,\) is needed"):
        starts(named, wide)


# ----------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        (np.zeros(4), ValueError, r"init must have shape \(5,\) or \(3, 5\), not \(4,\)"),
        (np.zeros((2, 5)), ValueError, r"not \(2, 5\)"),
        (np.zeros((3, 5, 1)), ValueError, r"not \(3, 5, 1\)"),
        ([{}, {}], ValueError, "init lists 2 starts, but there are 3 chains"),
        ([{}, np.zeros(4), {}], ValueError, r"init of chain 1 must have shape \(5,\), not \(4,\)"),
        ([{}, [1, 2, [3]], {}], TypeError, r"init of chain 1 must be None, a radius.*not \[1, 2, \[3\]\]"),
        ([{}, {"last": 1}, {}], ValueError, "init of chain 1: there is no 'last'"),
        ({"last": 1}, ValueError, "init: there is no 'last'"),
        (lambda chain: "abc" if chain else None, TypeError, "init of chain 1 must be None, a radius.*not 'abc'"),
        (lambda chain: np.zeros((3, 5)), ValueError, r"init of chain 0 must have shape \(5,\)"),
        ("jitter", TypeError, "init must be None, a radius.*not 'jitter'"),
        (True, TypeError, "not True"),
        (1j, TypeError, "init must be"),
        (object(), TypeError, "init must be"),
        (-1.0, ValueError, "radius.*not negative"),
        (np.inf, ValueError, "radius.*finite"),
        (np.array(["a"] * 5), TypeError, "init must be None, a radius"),
        ({"first": [1, np.nan]}, ValueError, r"the value of 'first' is nan at \[1\]"),
        ({"first": ["a", "b"]}, ValueError, "the value of 'first' must be real numbers"),
        ({"first": 1.0}, ValueError, r"the value of 'first' has shape \(\), \(2,\) is needed"),
    ],
)
def test_mistakes_are_explained(named, init, error, message):
    with pytest.raises(error, match=message):
        starts(named, init)


def test_an_error_of_the_function_arrives_as_itself(named):
    with pytest.raises(ZeroDivisionError):
        starts(named, lambda chain: 1 / chain)


# ------------------------------------------------------------------------------------------------- bad densities


def test_given_start_outside_the_support_is_an_error_at_once():
    model = NamedModel(5, box_logp)
    with pytest.raises(ValueError, match="chain 1 cannot start at the given point"):
        starts(model, np.array([np.ones(5), -np.ones(5), np.ones(5)]))
    with pytest.raises(ValueError, match="chain 0 cannot start at the given point"):
        starts(model, {"first": [-1, 0], "rest": [0, 0, 0]})


@pytest.mark.parametrize("function", [box_logp, nan_gradient_logp])
@pytest.mark.parametrize("init", [None, 0.5, {"rest": [1, 2, 3]}])
def test_random_parts_are_drawn_again(function, init):
    model = NamedModel(5, function)
    points = starts(model, init, chains=20)
    assert (points[:, 0] >= 0).all()
    assert len(np.unique(points[:, 0])) == 20
    if isinstance(init, dict):
        np.testing.assert_array_equal(points[:, 2:], [[1, 2, 3]] * 20)


@numba.cfunc(_SIGNATURE)
def scales_logp(dim, x_ptr, grad_ptr, logp_ptr, _user_data):
    """Independent normals with standard deviations 1e-6, 1e-5, ..."""
    x = numba.carray(x_ptr, (dim,))
    grad = numba.carray(grad_ptr, (dim,))
    logp = 0.0
    for i in range(dim):
        scale = 10.0 ** (i - 6)
        logp -= 0.5 * (x[i] / scale) ** 2
        grad[i] = -x[i] / scale / scale
    numba.carray(logp_ptr, (1,))[0] = logp
    return 0


def test_it_gives_up_after_a_while():
    with pytest.raises(ValueError, match=f"no start found for chain 0 in {START_TRIES} tries"):
        starts(NamedModel(5, impossible_logp), {"first": [0, 0]})
    with pytest.raises(ValueError, match="no start found for chain 0 in 250 tries"):
        starts(NamedModel(5, impossible_logp), candidates=250)
    with pytest.raises(ValueError, match="cannot start at the given point"):
        starts(NamedModel(5, impossible_logp), 0.0)


@pytest.mark.parametrize("init", [np.zeros(5), np.array([0, 0.5, 0.1, 0, 0]), np.array([0.5, 5, 0, 0, -3])])
@pytest.mark.parametrize("tune", [0, 100])
def test_zero_gradients_are_fine(init, tune):
    """All gradient components are zero for the first two, some for the last."""
    model = NormalModel(5, box_logp)
    idata = nutpie.sample(model, init=init, draws=300, tune=tune, chains=2, seed=1, progress_bar=False)
    x = idata.posterior["x"]
    assert np.isfinite(x).all()
    assert (x.std(("chain", "draw")) > 0.3).all()


def test_zero_gradient_of_a_normal(model):
    idata = nutpie.sample(model, init=0, draws=1000, tune=300, chains=4, seed=1, progress_bar=False)
    np.testing.assert_allclose(idata.posterior["x"].std(("chain", "draw")), np.arange(1, 6), rtol=0.1)


def test_tiny_and_huge_gradients():
    """Scales from a millionth to a million, of which a start near zero knows nothing."""
    idata = nutpie.sample(NormalModel(13, scales_logp), draws=500, tune=600, chains=2, seed=1, progress_bar=False)
    found = idata.posterior["x"].std(("chain", "draw")) / 10.0 ** np.arange(-6, 7)
    np.testing.assert_allclose(found, 1.0, rtol=0.2)
    assert not idata.sample_stats["diverging"].any()


# --------------------------------------------------------------------------------------------------- candidates


@pytest.mark.parametrize("init", [None, 4.0, {"first": [1, 2]}])
def test_the_best_candidate_is_taken(named, init):
    def nth(tries):
        """Candidates are what single starts with these attempts would be."""
        points = []
        for attempt in range(tries):
            own = named.initial_point((1, 2, attempt))
            if init == 4.0:
                own = np.random.default_rng((1, 2, attempt)).uniform(-4, 4, 5)
            points.append(own if not isinstance(init, dict) else named.unconstrain(init, own))
        return np.stack(points)

    found = starts(named, init, candidates=10)[2]
    every = nth(10)
    np.testing.assert_array_equal(found, every[np.argmax(logp(every))])
    np.testing.assert_array_equal(starts(named, init)[2], every[0])


def test_more_candidates_are_never_worse(model):
    values = [logp(starts(model, 5.0, chains=20, candidates=k)) for k in (1, 2, 5, 50)]
    assert (np.diff(values, axis=0) >= 0).all()
    assert (values[-1] > values[0]).sum() > 15


def test_candidates_that_are_not_finite_do_not_count():
    model = NormalModel(5, nan_gradient_logp)
    points = starts(model, candidates=20, chains=10)
    assert (points[:, 0] >= 0).all()


def test_candidates_through_sample(model):
    def sample(**kwargs):
        idata = nutpie.sample(model, draws=20, tune=20, chains=3, progress_bar=False, **kwargs)
        return idata.posterior["x"].values

    one = sample(seed=5, init_candidates=8, cores=1)
    np.testing.assert_array_equal(one, sample(seed=5, init_candidates=8, cores=2))
    np.testing.assert_array_equal(one, sample(seed=5, init=starts(model, seed=5, candidates=8)))
    assert not np.array_equal(one, sample(seed=5))
    with pytest.raises(TypeError, match="did you mean 'init_candidates'"):
        sample(init_candidate=3)


def test_candidates_of_starts_that_are_not_random(named):
    for init in (np.zeros(5), 0.0, {"first": [1, 2], "rest": [1, 2, 3]}):
        with pytest.raises(ValueError, match="init_candidates=4 has no effect"):
            starts(named, init, candidates=4)
    found = starts(named, [np.zeros(5), None, np.zeros(5)], candidates=4)
    assert logp(found)[1] >= logp(starts(named))[1]


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_number_of_candidates_is_checked(model, value, error):
    with pytest.raises(error, match="init_candidates must be"):
        starts(model, candidates=value)


def test_no_parameters():
    for init in (None, 1.0, np.zeros(0), np.zeros((3, 0))):
        assert starts(NormalModel(0), init).shape == (3, 0)
    assert starts(NormalModel(0), candidates=3).shape == (3, 0)


# ------------------------------------------------------------------------------------------------------- a run


def test_all_forms_are_the_same_over_cores_and_runs(named):
    posterior = earlier(2, 10)
    forms = [None, 2.0, np.ones(5), {"first": [1, 2]}, [{"first": [1, 2]}, None, np.ones(5)], lambda c: 0.1 * c]
    for init in [*forms, posterior * 0.001]:
        runs = [
            nutpie.sample(named, init=init, draws=20, tune=20, chains=3, cores=cores, seed=3, progress_bar=False)
            for cores in (1, 3)
        ]
        np.testing.assert_array_equal(runs[0].posterior["x"], runs[1].posterior["x"])
