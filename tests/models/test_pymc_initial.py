"""Starts of PyMC models by values of their variables."""

from __future__ import annotations

import numpy as np
import pytest

pm = pytest.importorskip("pymc")
pytest.importorskip("numba")

import pytensor.tensor as pt  # noqa: E402
import xarray as xr  # noqa: E402

import nutpie  # noqa: E402
from nutpie.initial import starting_points  # noqa: E402
from nutpie.models._pymc_data import ModelData  # noqa: E402
from nutpie.models._pymc_graph import layout  # noqa: E402
from nutpie.models._pymc_initial import InitialPoints  # noqa: E402
from nutpie.models._pymc_unconstrain import Unconstrain  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Numba will use object mode:UserWarning")

transforms = pm.distributions.transforms


# ----------------------------------------------------------------------------------- points, without a density


class Points:
    """What a compiled model does with starts, without its density, whose compilation takes long."""

    def __init__(self, model):
        self.free = [variable.name for variable in model.free_RVs]
        self._initial = InitialPoints(model, self.free, {}, set(self.free), "support_point")
        self.data = ModelData.of_model(model, self._initial.shared)
        self._values = self._initial.values(self.data.arrays(self._initial.shared), (0,))
        self.blocks = {b.name: b for b in layout(model, self.free, [v.shape for v in self._values])}
        self._unconstrain = Unconstrain(model, list(self.blocks.values()))
        self._constrain = model.compile_fn(
            model.replace_rvs_by_values([model[name] for name in self.free]),
            inputs=[model.rvs_to_values[v] for v in model.free_RVs],
            mode="FAST_COMPILE",
            point_fn=False,
            on_unused_input="ignore",
        )

    def base(self, seed=0):
        return self._initial.jittered(self._values, (seed,))

    def unconstrain(self, values, base):
        return self._unconstrain(values, base, self.data)

    def part(self, point, name):
        block = self.blocks[name]
        return point[block.start : block.stop].reshape(block.shape)

    def constrain(self, point):
        """PyMC's own values of the variables at an unconstrained point."""
        return dict(zip(self.free, self._constrain(*[self.part(point, name) for name in self.free]), strict=True))


@pytest.fixture(scope="module")
def many():
    """A variable for each kind of transform, some with bounds that are variables."""
    with pm.Model() as model:
        free = pm.Normal("free", shape=(2, 3))
        pm.HalfNormal("positive", shape=2)
        pm.Uniform("inside", -1.0, 3.0)
        pm.Beta("fraction", 1, 1)
        pm.Pareto("above", 2.0, 3.0)
        pm.VonMises("angle", 0.0, 1.0)
        pm.Dirichlet("simplex", np.ones((2, 4)))
        pm.Normal("ordered", shape=3, transform=transforms.ordered, initval=[-1.0, 0.0, 1.0])
        pm.LKJCholeskyCov("chol", n=3, eta=2.0, sd_dist=pm.Exponential.dist(1.0, shape=3))
        pm.LKJCorr("corr", n=3, eta=2.0)
        pm.ZeroSumNormal("zero_sum", shape=4)
        pm.Uniform("chained", 0.0, 5.0, shape=2, transform=transforms.ordered, initval=[1.0, 2.0])
        pm.Uniform("by_row", [-1.0, -2.0], 3.0)
        lower = pm.Normal("lower")
        width = pm.HalfNormal("width")
        pm.Uniform("between", lower, lower + width)
        pm.Deterministic("twice", 2 * free)
    return model, Points(model)


def test_what_comes_back_is_what_was_given(many):
    _, points = many
    target = points.base(7)
    values = points.constrain(target)
    found = points.unconstrain(values, points.base(8))
    np.testing.assert_allclose(found, target, atol=1e-9)


def test_each_variable_alone_leaves_the_others(many):
    _, points = many
    base, values = points.base(1), points.constrain(points.base(2))
    for name in set(points.free) - {"between"}:
        found = points.unconstrain({name: values[name]}, base)
        np.testing.assert_allclose(points.constrain(found)[name], values[name], atol=1e-9)
        others = np.ones(len(base), dtype=bool)
        others[points.blocks[name].start : points.blocks[name].stop] = False
        np.testing.assert_array_equal(found[others], base[others])


def test_known_transforms(many):
    _, points = many
    base = points.base()
    found = points.unconstrain(
        {"positive": [2, 3], "inside": 1.0, "fraction": 0.25, "above": 4.0, "ordered": [1.0, 3.0, 4.0]}, base
    )
    np.testing.assert_allclose(points.part(found, "positive"), np.log([2, 3]))
    np.testing.assert_allclose(points.part(found, "inside"), 0.0, atol=1e-12)
    np.testing.assert_allclose(points.part(found, "fraction"), -np.log(3))
    np.testing.assert_allclose(points.part(found, "above"), 0.0, atol=1e-12)
    np.testing.assert_allclose(points.part(found, "ordered"), [1, np.log(2), 0.0], atol=1e-12)
    cov = np.linalg.cholesky(np.array([[4.0, 1, 0], [1, 2, 0.5], [0, 0.5, 1]]))
    chol = points.unconstrain({"chol": cov[np.tril_indices(3)]}, base)
    np.testing.assert_allclose(points.constrain(chol)["chol"], cov[np.tril_indices(3)])
    np.testing.assert_allclose(points.part(chol, "chol")[[0, 2, 5]], np.log(np.diag(cov)))


def test_bounds_that_are_variables(many):
    _, points = many
    base = points.base()
    # Bounds given as well, in either order.
    for names in (("between", "width", "lower"), ("lower", "width", "between")):
        values = {"lower": 5.0, "width": 2.0, "between": 6.5}
        found = points.constrain(points.unconstrain({name: values[name] for name in names}, base))
        assert {name: pytest.approx(values[name]) for name in names} == {name: found[name] for name in names}
    # Bounds given by unconstrained values.
    found = points.constrain(points.unconstrain({"width_log__": np.log(4.0), "between": 8.0, "lower": 5.0}, base))
    np.testing.assert_allclose(found["between"], 8.0)
    np.testing.assert_allclose(found["width"], 4.0)
    # Bounds of the base point.
    own = points.constrain(base)
    middle = own["lower"] + 0.5 * own["width"]
    found = points.unconstrain({"between": middle}, base)
    np.testing.assert_allclose(points.part(found, "between"), 0.0, atol=1e-9)
    # One bound of each.
    value = 5.0 + 0.25 * own["width"]
    found = points.unconstrain({"lower": 5.0, "between": value}, base)
    np.testing.assert_allclose(points.part(found, "between"), -np.log(3), atol=1e-9)
    with pytest.raises(ValueError, match=r"'between' is outside its support: it must be between 5 and 7, but is 3"):
        points.unconstrain({"between": 3.0, "lower": 5.0, "width": 2.0}, base)


def test_unconstrained_names_and_variables_as_keys(many):
    model, points = many
    base = points.base()
    found = points.unconstrain({"positive_log__": [0.5, -0.5], model["inside"]: 2.0}, base)
    np.testing.assert_array_equal(points.part(found, "positive"), [0.5, -0.5])
    np.testing.assert_allclose(points.constrain(found)["inside"], 2.0)
    found = points.unconstrain({model.rvs_to_values[model["inside"]]: 2.0}, base)
    np.testing.assert_array_equal(points.part(found, "inside"), 2.0)
    with pytest.raises(ValueError, match="both 'inside' and 'inside_interval__' are given"):
        points.unconstrain({"inside": 1.0, "inside_interval__": 1.0}, base)


def test_base_and_values_are_left_alone(many):
    _, points = many
    base, values = points.base(), {"positive": np.array([1, 2])}
    before = base.copy()
    points.unconstrain(values, base)
    np.testing.assert_array_equal(base, before)
    assert points.unconstrain({}, base) is not base


def test_single_precision_is_enough(many):
    _, points = many
    values = {name: value.astype("float32") for name, value in points.constrain(points.base(3)).items()}
    found = points.constrain(points.unconstrain(values, points.base(4)))
    for name, value in values.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"positive": [1.0, -1.0]}, r"'positive' is outside its support: it must be positive, but is \[ 1. -1.\]"),
        ({"positive": [1.0, 0.0]}, "'positive' is outside its support"),
        ({"inside": 3.5}, "'inside' is outside its support: it must be between -1 and 3, but is 3.5"),
        ({"inside": -1.0}, "'inside' is outside its support"),
        ({"fraction": 1.5}, "'fraction' is outside its support: it must be between 0 and 1"),
        ({"above": 2.0}, "'above' is outside its support: it must be between 3 and inf"),
        ({"angle": 4.0}, "'angle' is outside its support: it must be between -pi and pi"),
        ({"simplex": np.full((2, 4), 0.3)}, "'simplex' is outside its support: it must be positive and sum to 1"),
        ({"simplex": [[0.25] * 4, [0.5, 0.5, 0, 0]]}, "'simplex' is outside its support"),
        ({"ordered": [1.0, 3.0, 2.0]}, "'ordered' is outside its support: it must be in increasing order"),
        ({"chol": [1.0, 0, -1, 0, 0, 1]}, "'chol' is outside its support: .* lower triangle"),
        ({"zero_sum": np.ones(4)}, "'zero_sum' is outside its support: .* sum .* zero"),
        ({"chained": [2.0, 1.0]}, "'chained' is outside.* between 0 and 5 and in increasing order"),
        ({"by_row": [-1.5, -1.5]}, r"'by_row' is outside its support: it must be between \[-1. -2.\] and 3, but"),
        ({"chained": [1.0, 6.0]}, "'chained' is outside its support"),
        ({"free": np.zeros(3)}, r"'free' has shape \(3,\), \(2, 3\) is needed$"),
        ({"free": 0.0}, r"'free' has shape \(\), \(2, 3\) is needed"),
        ({"chol": np.eye(3)}, r"'chol' has shape \(3, 3\), \(6,\) is needed; 'chol' must be the rows of a lower"),
        ({"positive_log__": 0.0}, r"'positive_log__' has shape \(\), \(2,\) is needed"),
        ({"free": np.full((2, 3), np.nan)}, r"'free' is nan at \[0, 0\]"),
        ({"inside": "support_point"}, "'inside' must be real numbers"),
        ({"inside": 1j}, "'inside' must be real numbers"),
        ({"insite": 1.0}, "there is no free variable 'insite'; did you mean 'inside'"),
        ({"inside_interval_": 1.0}, "did you mean 'inside_interval__'"),
        ({"twice": np.zeros((2, 3))}, "'twice' is a deterministic, which follows from the free variables"),
        ({"chol_corr": np.eye(3)}, "'chol_corr' is a deterministic"),
    ],
)
def test_mistakes_are_explained(many, values, message):
    _, points = many
    with pytest.raises(ValueError, match=message):
        points.unconstrain(values, points.base())


def test_labelled_tensors():
    dims = pytest.importorskip("pymc.dims")
    from pytensor.xtensor import as_xtensor

    with pm.Model(coords={"city": ["a", "b"], "kind": ["x", "y", "z"]}) as model:
        mu = dims.Normal("mu", dims="city")
        dims.HalfNormal("sigma", dims="city")
        dims.Uniform("inside", -1.0, 3.0, dims="city")
        dims.Normal("effect", mu, 1.0, dims=("city", "kind"))
        dims.Dirichlet("share", as_xtensor([1.0, 2.0, 3.0], dims=("kind",)), core_dims="kind")
    points = Points(model)
    target = points.base(7)
    values = points.constrain(target)
    np.testing.assert_allclose(points.unconstrain(values, points.base(8)), target, atol=1e-9)
    with pytest.raises(ValueError, match="'sigma' is outside its support: it must be positive"):
        points.unconstrain({"sigma": [1.0, -1.0]}, target)
    with pytest.raises(ValueError, match="'inside' is outside its support: it must be between -1 and 3"):
        points.unconstrain({"inside": [1.0, -1.5]}, target)


def test_matrices_outside_the_support(many):
    # PyMC 5 has the correlations above the diagonal, PyMC 6 a Cholesky factor.
    _, points = many
    values = points.constrain(points.base())["corr"]
    with pytest.raises(ValueError, match="'corr' is outside its support"):
        points.unconstrain({"corr": np.full(values.shape, 1.5)}, points.base())


# -------------------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def compiled():
    """Bounds come from data and from a variable; a potential that leaves out half of the starts."""
    with pm.Model(coords={"group": ["a", "b", "c"]}) as model:
        top = pm.Data("top", 10.0)
        y = pm.Data("y", np.array([4.0, 5.0, 6.0]), dims="group")
        low = pm.Uniform("low", 0.0, top)
        high = pm.Uniform("high", low, top)
        mu = pm.Normal("mu", 0.5 * (low + high), 2.0, dims="group")
        sigma = pm.HalfNormal("sigma")
        pm.Deterministic("mean", mu.mean())
        pm.Potential("wall", pt.switch(mu[0] > 6.0, 0.0, -np.inf))
        pm.Normal("obs", mu, sigma, observed=y, dims="group")
    return nutpie.compile_pymc_model(model, var_names=["low", "high", "mu", "sigma", "mean"])


FULL = {"low": 2.0, "high": 8.0, "mu": [7.0, 6.0, 5.0], "sigma": 1.5}


def starts(compiled, init, *, chains=2, seed=1, candidates=1):
    return starting_points(compiled, compiled.density(), init, seed, chains, candidates)


def expanded(compiled, points):
    return compiled.expand(np.asarray(points))


def test_full_dict(compiled):
    assert list(compiled.free_variables) == ["low", "high", "mu", "sigma"]
    found = expanded(compiled, starts(compiled, FULL))
    for name, value in FULL.items():
        np.testing.assert_allclose(found[name], [value] * 2)


def test_partial_dict_is_completed_at_random_until_it_is_usable(compiled):
    points = starts(compiled, {"sigma": 1.5, "high": 9.0}, chains=20)
    found = expanded(compiled, points)
    np.testing.assert_allclose(found["sigma"], 1.5)
    np.testing.assert_allclose(found["high"], 9.0)
    assert (found["mu"][:, 0] > 6.0).all()
    assert len(np.unique(found["mu"][:, 0])) == 20
    own = np.stack([compiled.initial_point((1, chain, 0)) for chain in range(20)])
    assert (expanded(compiled, own)["mu"][:, 0] <= 6.0).any()  # there was something to draw again


def test_each_chain(compiled):
    each = [FULL, FULL | {"sigma": 3.0}]
    for init in (each, lambda chain: each[chain]):
        np.testing.assert_allclose(expanded(compiled, starts(compiled, init))["sigma"], [1.5, 3.0])
    mixed = starts(compiled, [FULL, starts(compiled, FULL)[0]])
    np.testing.assert_array_equal(mixed[0], mixed[1])
    with pytest.raises(ValueError, match=r"init of chain 1: the value of 'sigma' is outside its support"):
        starts(compiled, [FULL, FULL | {"sigma": -1.0}])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("mean", "is a deterministic"),
        ("obs", "is observed"),
        ("wall", "is a potential"),
        ("top", "is data"),
        ("sigm", "did you mean 'sigma'"),
    ],
)
def test_only_free_variables_have_a_start(compiled, name, what):
    with pytest.raises(ValueError, match=f"init: .*{name}.* {what}"):
        starts(compiled, {name: 1.0})


def test_a_start_that_is_not_finite_names_what_is_wrong(compiled):
    with pytest.raises(ValueError, match=r"chain 0 cannot start at the given point: .*'wall' \(potential\) is -inf"):
        starts(compiled, FULL | {"mu": [3.0, 6.0, 7.0]})
    with pytest.raises(ValueError, match=r"no start found for chain 0 in 100 tries: .*'wall'"):
        starts(compiled, {"mu": [3.0, 6.0, 7.0]})


def test_other_data_give_other_bounds(compiled):
    with pytest.raises(ValueError, match="'high' is outside its support: it must be between 2 and 10, but is 11"):
        starts(compiled, FULL | {"high": 11.0})
    higher = compiled.with_data(top=20.0)
    found = expanded(higher, starts(higher, FULL | {"high": 11.0}))
    np.testing.assert_allclose(found["high"], 11.0)
    np.testing.assert_allclose(found["low"], 2.0)
    assert not np.allclose(starts(higher, FULL), starts(compiled, FULL))


def test_unconstrain_is_public_and_checks_its_base(compiled):
    base = compiled.initial_point([0])
    found = compiled.unconstrain({"sigma": np.e}, base)
    changed = np.flatnonzero(found != base)
    assert [compiled.unconstrained_names[i] for i in changed] == ["sigma_log__"]
    np.testing.assert_allclose(found[changed], 1.0)
    with pytest.raises(ValueError, match=r"base has shape \(2,\)"):
        compiled.unconstrain({}, np.zeros(2))


def test_sampling_begins_there_and_goes_on_from_a_result(compiled):
    kwargs = {"draws": 50, "tune": 50, "progress_bar": False, "seed": 3}
    one = nutpie.sample(compiled, init=FULL, chains=3, cores=1, **kwargs)
    two = nutpie.sample(compiled, init=starts(compiled, FULL, chains=3), chains=3, cores=3, **kwargs)
    np.testing.assert_array_equal(one.posterior["mu"], two.posterior["mu"])

    found = expanded(compiled, starts(compiled, one, chains=5))
    expected = [(0, 49), (1, 49), (2, 49), (0, 24), (1, 24)]
    for name in FULL:
        values = [one.posterior[name].values[at] for at in expected]
        np.testing.assert_allclose(found[name], values, rtol=1e-9)
    further = nutpie.sample(compiled, init=one, chains=5, cores=2, **kwargs)
    again = nutpie.sample(compiled, init=one.posterior, chains=5, cores=1, **kwargs)
    np.testing.assert_array_equal(further.posterior["mu"], again.posterior["mu"])
    with pytest.raises(ValueError, match="lacks 'high', 'sigma'"):
        starts(compiled, xr.Dataset({name: one.posterior[name] for name in ("low", "mu", "mean")}))


def test_candidates(compiled):
    density = compiled.density()

    def logp(points):
        return np.array([nutpie._lib.evaluate(density.address, density.user_data, p)[0] for p in points])

    one, ten = (starts(compiled, {"low": 3.0}, chains=8, candidates=k) for k in (1, 10))
    assert (logp(ten) >= logp(one)).all()
    assert logp(ten).mean() > logp(one).mean()
    np.testing.assert_allclose(expanded(compiled, ten)["low"], 3.0)


def test_frozen_models():
    with pm.Model(coords={"i": range(2)}) as model:
        top = pm.Data("top", 4.0)
        low = pm.Normal("low")
        pm.Uniform("x", low, top, dims="i")
    compiled = nutpie.compile_pymc_model(model, freeze_model=True)
    found = expanded(compiled, starts(compiled, {"x": [2.0, 3.0], "low": 1.0}, chains=1))
    np.testing.assert_allclose(found["x"], [[2.0, 3.0]])
    np.testing.assert_allclose(starts(compiled, {"x": [2.0, 3.0], "low": 1.0})[0], [1, -np.log(2), np.log(2)])
