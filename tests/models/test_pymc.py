"""The PyMC front end against PyMC's own evaluation of the same models.

Each compilation to numba costs seconds, so the models are compiled once for the module.
"""

import ctypes
import gc
import os
import threading

import numpy as np
import pytest

pm = pytest.importorskip("pymc")
pytest.importorskip("numba")

import pytensor  # noqa: E402
import pytensor.tensor as pt  # noqa: E402
from pytensor.graph.basic import Apply  # noqa: E402
from pytensor.graph.op import Op  # noqa: E402
from pytensor.raise_op import Assert  # noqa: E402

from nutpie.models.base import BAD_DIMENSION, OK, LogpPrototype  # noqa: E402
from nutpie.models.pymc import compile_pymc_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Numba will use object mode:UserWarning")

SLOW = "FAST_COMPILE"  # PyTensor's interpreter: an evaluation that shares no compiled code with ours


# ------------------------------------------------------------------------------------------------------- models


def regression_data(n_obs, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=n_obs),
        "group": rng.integers(0, 3, n_obs).astype("int32"),
        "y_data": rng.normal(size=n_obs),
    }


def regression_model(n_obs=20, seed=0, data=None):
    data = data or regression_data(n_obs, seed)
    coords = {"group_name": ["a", "b", "c"], "obs": np.arange(len(data["x"]))}
    with pm.Model(coords=coords) as model:
        x = pm.Data("x", data["x"], dims="obs")
        group = pm.Data("group", data["group"], dims="obs")
        y = pm.Data("y_data", data["y_data"], dims="obs")
        scale = pm.HalfNormal("scale", 1.0)
        intercept = pm.Normal("intercept", 0.0, scale, dims="group_name")
        slope = pm.Normal("slope")
        mu = pm.Deterministic("mu", intercept[group] + slope * x, dims="obs")
        pm.Deterministic("mean_x", x.mean())
        pm.Deterministic("positive", intercept > 0, dims="group_name")
        pm.Normal("y", mu, 1.0, observed=y, dims="obs")
    return model


def transforms_model():
    rng = np.random.default_rng(3)
    with pm.Model() as model:
        positive = pm.HalfNormal("positive", 2.0, shape=2)
        inside = pm.Uniform("inside", -1.0, 3.0)
        simplex = pm.Dirichlet("simplex", np.array([1.0, 2.0, 3.0]))
        ordered = pm.Normal(
            "ordered", 0.0, 2.0, shape=3, transform=pm.distributions.transforms.ordered, initval=[-1.0, 0.0, 1.0]
        )
        chol, _, _ = pm.LKJCholeskyCov("chol", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0, shape=2))
        matrix = pm.Normal("matrix", shape=(2, 3))
        pm.Deterministic("product", pt.dot(chol, matrix))
        rows = pm.Dirichlet("rows", np.ones((2, 3)))
        eta = inside + pt.dot(ordered, simplex) + positive.sum() + (matrix * rows).sum()
        pm.Poisson("counts", pt.exp(0.1 * eta), observed=rng.poisson(2.0, size=40))
        pm.Potential("soft", -0.5 * (matrix**2).sum())
    return model


@pytest.fixture(scope="module")
def regression():
    model = regression_model()
    return model, compile_pymc_model(model)


@pytest.fixture(scope="module")
def transforms():
    model = transforms_model()
    return model, compile_pymc_model(model)


@pytest.fixture(scope="module")
def careful():
    """A model whose compiled code raises an exception, depending on data."""
    with pm.Model() as model:
        limit = pm.Data("limit", 1.0)
        x = pm.Normal("x")
        pm.Potential("checked", Assert("limit exceeded")(0.0 * x, limit > 0))
    return compile_pymc_model(model)


# ------------------------------------------------------------------------------------------------------ helpers


def evaluate(compiled, x, prototype=LogpPrototype, dim=None):
    """Code, log density and gradient from the C callback."""
    x = np.ascontiguousarray(x, dtype=float)
    gradient, logp = np.full(compiled.n_dim, np.nan), np.full(1, np.nan)
    density = compiled.density()
    function = prototype(density.address)
    size = compiled.n_dim if dim is None else dim
    code = function(size, x.ctypes.data, gradient.ctypes.data, logp.ctypes.data, density.user_data or None)
    return code, logp[0], gradient


def as_point(model, x):
    """PyMC's dictionary of value variables, in the order of the model."""
    point, at = {}, 0
    for name, value in model.initial_point(0).items():
        point[name] = x[at : at + value.size].reshape(value.shape)
        at += value.size
    assert at == len(x)
    return point


def assert_density_agrees(model, compiled, rtol=1e-10):
    logp, dlogp = model.compile_logp(mode=SLOW), model.compile_dlogp(mode=SLOW)
    rng = np.random.default_rng(11)
    for scale in (0.1, 1.0, 2.0):
        x = scale * rng.normal(size=compiled.n_dim)
        code, value, gradient = evaluate(compiled, x)
        assert code == OK
        expected = dlogp(as_point(model, x))
        np.testing.assert_allclose(value, logp(as_point(model, x)), rtol=rtol)
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def assert_expand_agrees(model, compiled, n=5):
    draws = np.random.default_rng(12).normal(size=(n, compiled.n_dim))
    names = [v.name for v in compiled.variables]
    inputs = model.value_vars
    function = pytensor.function(
        inputs, model.replace_rvs_by_values([model[name] for name in names]), mode=SLOW, on_unused_input="ignore"
    )
    found = compiled.expand(draws)
    assert list(found) == names
    for i, draw in enumerate(draws):
        point = as_point(model, draw)
        expected = function(*(point[v.name] for v in inputs))
        for variable, value in zip(compiled.variables, expected, strict=True):
            assert found[variable.name].dtype == variable.dtype == value.dtype
            assert found[variable.name].shape == (n, *variable.shape)
            np.testing.assert_allclose(found[variable.name][i], value, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------------------------------- log density and expand


def test_density_of_regression(regression):
    assert_density_agrees(*regression)


def test_density_with_transforms(transforms):
    assert_density_agrees(*transforms)


def test_expand_of_regression(regression):
    assert_expand_agrees(*regression)


def test_expand_with_transforms(transforms):
    assert_expand_agrees(*transforms)


def test_expand_in_chunks_and_without_draws(regression, monkeypatch):
    _, compiled = regression
    draws = np.random.default_rng(0).normal(size=(17, compiled.n_dim))
    whole = compiled.expand(draws)
    monkeypatch.setattr("nutpie.models._pymc_graph.EXPAND_MEMORY", 1)
    chunked = compiled.expand(draws)
    for name in whole:
        np.testing.assert_array_equal(whole[name], chunked[name])
    empty = compiled.expand(draws[:0])
    for variable in compiled.variables:
        assert empty[variable.name].shape == (0, *variable.shape)
        assert empty[variable.name].dtype == variable.dtype


def test_expand_refuses_other_shapes(regression):
    _, compiled = regression
    with pytest.raises(ValueError, match=r"\(n, 5\) is needed"):
        compiled.expand(np.zeros((3, 4)))


def test_wrong_dimension(regression):
    _, compiled = regression
    code, _, _ = evaluate(compiled, np.zeros(compiled.n_dim), dim=compiled.n_dim + 1)
    assert code == BAD_DIMENSION


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 800.0])
def test_extreme_points_do_not_fail(regression, transforms, value):
    for _, compiled in (regression, transforms):
        code, _, _ = evaluate(compiled, np.full(compiled.n_dim, value))
        assert code == OK


def test_fallback_without_numba_internals(regression):
    from nutpie.models._numba_bridge import Callback, build_callback_cfunc

    _, compiled = regression
    logp, table = compiled.density().keep_alive
    jit_fn = logp.callback.keep_alive[-1]
    kinds = [(a.dtype, a.ndim) for a in table.arrays]
    callback = build_callback_cfunc(jit_fn, compiled.n_dim, kinds)
    assert isinstance(callback, Callback)
    x = np.random.default_rng(5).normal(size=compiled.n_dim)
    gradient, logp = np.zeros(compiled.n_dim), np.zeros(1)

    def call(table):
        function = LogpPrototype(callback.address)
        return function(compiled.n_dim, x.ctypes.data, gradient.ctypes.data, logp.ctypes.data, table.address)

    assert call(table) == OK
    _, value, expected = evaluate(compiled, x)
    assert logp[0] == value
    np.testing.assert_array_equal(gradient, expected)


def test_exception_without_numba_internals(careful):
    from nutpie.models._numba_bridge import build_callback_cfunc

    logp, table = careful.density().keep_alive
    kinds = [(a.dtype, a.ndim) for a in table.arrays]
    callback = build_callback_cfunc(logp.callback.keep_alive[-1], careful.n_dim, kinds)
    x, gradient, logp = np.zeros(1), np.zeros(1), np.zeros(1)

    def call(table):
        function = LogpPrototype(callback.address)
        return function(1, x.ctypes.data, gradient.ctypes.data, logp.ctypes.data, table.address)

    assert call(table) == OK
    with pytest.raises(AssertionError, match="limit exceeded"):
        call(careful.with_data(limit=-1.0).density().keep_alive[1])


# ------------------------------------------------------------------------------------------------- memory, threads


def resident_bytes():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_nothing_leaks(regression):
    _, compiled = regression
    density = compiled.density()
    function = LogpPrototype(density.address)
    x, gradient, logp = np.zeros(compiled.n_dim), np.zeros(compiled.n_dim), np.zeros(1)
    arguments = (compiled.n_dim, x.ctypes.data, gradient.ctypes.data, logp.ctypes.data, density.user_data)
    for _ in range(1000):
        function(*arguments)
    gc.collect()
    before = resident_bytes()
    for _ in range(100_000):
        function(*arguments)
    # Two arrays a call: a leak would be more than 10 MB.
    assert resident_bytes() - before < 2e6


def test_threads_agree_with_one_thread(transforms):
    _, compiled = transforms
    # Unlike LogpPrototype this one releases the GIL, so that the calls do overlap.
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)
    points = np.random.default_rng(7).normal(size=(200, compiled.n_dim))
    expected = [evaluate(compiled, x) for x in points]
    found = {}

    def work(key):
        found[key] = [evaluate(compiled, x, prototype) for x in points]

    threads = [threading.Thread(target=work, args=(key,)) for key in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in found.values():
        for one, other in zip(results, expected, strict=True):
            assert one[:2] == other[:2]
            np.testing.assert_array_equal(one[2], other[2])


# --------------------------------------------------------------------------------------------------------- indices


def test_indices_in_data_are_checked(regression):
    _, compiled = regression
    backwards = compiled.with_data(group=np.full(20, -3, dtype="int32"))
    assert evaluate(backwards, np.zeros(compiled.n_dim))[0] == OK
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"index {index} is out of bounds for an axis of length 3: .* 'group'"):
            compiled.with_data(group=np.full(20, index, dtype="int32"))
    with pytest.raises(IndexError, match=r"index 7 .* 'group'"):
        compile_pymc_model(regression_model(data=regression_data(20) | {"group": np.full(20, 7, dtype="int32")}))


def test_constant_indices_are_checked():
    with pm.Model() as model:
        x = pm.Normal("x", shape=3)
        pm.Normal("y", x[np.array([0, 3])], observed=[0.0, 1.0])
    with pytest.raises(IndexError, match="constant indices"):
        compile_pymc_model(model)


def test_indices_that_depend_on_parameters_are_checked():
    table = np.arange(12.0).reshape(3, 4)
    with pm.Model() as model:
        x = pm.Normal("x")
        rows = pt.floor(pt.stack([x, -x])).astype("int64")
        pm.Potential("looked_up", pt.as_tensor(table)[rows, np.array([0, 3])].sum() + x**2)
    compiled = compile_pymc_model(model)
    code, value, _ = evaluate(compiled, np.array([1.5]))
    assert code == OK
    # Row 1 of column 0, and row -2 of column 3.
    np.testing.assert_allclose(value, -0.5 * 1.5**2 - 0.5 * np.log(2 * np.pi) + 4 + 7 + 1.5**2)
    with pytest.raises(IndexError):
        evaluate(compiled, np.array([3.5]))


# ------------------------------------------------------------------------------------------------------ exceptions


def test_exception_of_compiled_code(careful):
    broken = careful.with_data(limit=-1.0)
    for _ in range(3):
        with pytest.raises(AssertionError, match="limit exceeded"):
            evaluate(broken, np.zeros(1))
    assert evaluate(careful, np.zeros(1))[0] == OK


def test_exception_is_left_with_a_thread_that_gave_up_the_gil(careful):
    broken = careful.with_data(limit=-1.0)
    # This prototype does not look for exceptions, so that the interpreter complains about one that it finds.
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)
    with pytest.raises(SystemError) as info:
        evaluate(broken, np.zeros(1), prototype)
    assert isinstance(info.value.__cause__, AssertionError)


class RecoverableError(Exception):
    is_recoverable = True


class Fussy(Op):
    """An operation that numba does not know, written in Python."""

    itypes = (pt.dscalar,)
    otypes = (pt.dscalar,)
    __props__ = ()

    def make_node(self, x):
        return Apply(self, [pt.as_tensor(x)], [pt.dscalar()])

    def perform(self, node, inputs, outputs):
        if inputs[0] > 3:
            raise RecoverableError("too large")
        outputs[0][0] = np.asarray(inputs[0] ** 2)

    def grad(self, inputs, gradients):
        return [2 * inputs[0] * gradients[0]]


def test_exception_of_python_code():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("fussy", -Fussy()(x))
    compiled = compile_pymc_model(model)
    code, value, gradient = evaluate(compiled, np.array([1.5]))
    assert code == OK
    np.testing.assert_allclose(value, -0.5 * 1.5**2 - 0.5 * np.log(2 * np.pi) - 1.5**2)
    np.testing.assert_allclose(gradient, [-3 * 1.5])
    with pytest.raises(RecoverableError, match="too large") as info:
        evaluate(compiled, np.array([4.0]))
    assert info.value.is_recoverable
    assert "RecoverableError: too large" in compiled.explain_point(np.array([4.0]))


# ------------------------------------------------------------------------------------------------- describing


def test_names_shapes_dims_and_coords(regression, transforms):
    _, compiled = regression
    assert compiled.n_dim == 5
    assert list(compiled.unconstrained_names) == ["scale_log__", "intercept_0", "intercept_1", "intercept_2", "slope"]
    assert compiled.shapes == {
        "scale": (), "intercept": (3,), "slope": (), "mu": (20,), "mean_x": (), "positive": (3,)
    }  # fmt: skip
    assert compiled.dims == {"intercept": ("group_name",), "mu": ("obs",), "positive": ("group_name",)}
    assert compiled.variables[-1].dtype == np.bool_
    assert list(compiled.coords["group_name"]) == ["a", "b", "c"]
    _, other = transforms
    assert "matrix_1_2" in other.unconstrained_names
    assert len(other.unconstrained_names) == other.n_dim
    assert repr(other).startswith("<CompiledPyMCModel: 21 unconstrained")


def test_data_groups(regression):
    _, compiled = regression
    data = regression_data(20)
    groups = compiled.data_groups()
    np.testing.assert_array_equal(groups["observed_data"]["y"], data["y_data"])
    assert set(groups["constant_data"]) == {"x", "group"}
    np.testing.assert_array_equal(groups["constant_data"]["x"], data["x"])
    assert compiled.data_dims() == {"y": ("obs",), "x": ("obs",), "group": ("obs",)}


def test_var_names():
    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Deterministic("b", 2 * a)
    compiled = compile_pymc_model(model, var_names=["b"])
    assert [v.name for v in compiled.variables] == ["b"]
    np.testing.assert_allclose(compiled.expand(np.array([[3.0]]))["b"], [6.0])
    assert list(compiled.unconstrained_names) == ["a"]
    assert compiled.data_groups() == {}


def test_errors_of_arguments():
    with pm.Model() as model:
        pm.Normal("alpha")
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        compile_pymc_model(model, var_names=["alpa"])
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        compile_pymc_model(model, jitter_rvs={"alhpa"})
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        compile_pymc_model(model, initial_points={"alpah": 1.0})
    with pytest.raises(ValueError, match="choose from 'numba', 'jax'"):
        compile_pymc_model(model, backend="tensorflow")
    with pytest.raises(ValueError, match="gradient_backend='jax' needs backend='jax'"):
        compile_pymc_model(model, gradient_backend="jax")
    with pytest.raises(ValueError, match="'support_point', 'prior'"):
        compile_pymc_model(model, default_initialization_strategy="moment")


def test_discrete_variables_are_refused():
    with pm.Model() as model:
        pm.Normal("x")
        pm.Poisson("n_events", 3.0)
    with pytest.raises(ValueError, match=r"'n_events' are discrete.*pm\.sample"):
        compile_pymc_model(model)


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "nutpie\[pymc\]"'):
        compile_pymc_model(None)


def test_model_without_free_variables():
    with pm.Model() as model:
        pm.Normal("y", 0.0, 1.0, observed=[1.0, 2.0])
    compiled = compile_pymc_model(model)
    assert compiled.n_dim == 0
    assert list(compiled.variables) == []
    code, value, gradient = evaluate(compiled, np.zeros(0))
    assert code == OK
    np.testing.assert_allclose(value, -2.5 - np.log(2 * np.pi))
    assert gradient.shape == compiled.initial_point([0]).shape == (0,)
    assert compiled.expand(np.zeros((3, 0))) == {}


# -------------------------------------------------------------------------------------------------- other data


def test_with_data_equals_a_new_model(regression):
    model, compiled = regression
    data = regression_data(31, seed=5)
    swapped = compiled.with_data(**data, coords={"obs": np.arange(31)})
    fresh = regression_model(data=data)
    assert_density_agrees(fresh, swapped)
    assert_expand_agrees(fresh, swapped)
    assert swapped.shapes["mu"] == (31,)
    assert len(swapped.coords["obs"]) == 31
    np.testing.assert_array_equal(swapped.data_groups()["observed_data"]["y"], data["y_data"])
    # The original is as before.
    assert compiled.shapes["mu"] == (20,)
    assert_density_agrees(model, compiled)


def test_changing_the_model_later_has_no_effect():
    model = regression_model()
    compiled = compile_pymc_model(model)
    before = evaluate(compiled, np.zeros(5))
    with model:
        pm.set_data({"x": np.zeros(20)})
    assert evaluate(compiled, np.zeros(5))[1] == before[1]
    assert compiled.data_groups()["constant_data"]["x"].any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"xx": np.zeros(20)}, "did you mean 'x'"),
        ({"x": np.zeros((20, 2))}, "'x' have 2 dimensions, 1 are needed"),
        ({"group": np.zeros(20)}, "'group' have dtype float64, int32 is needed"),
        ({"group": np.full(20, 2**40)}, "'group' do not fit"),
        ({"x": np.array(["a"] * 20)}, "'x' have dtype"),
        ({"x": np.zeros(3)}, "dimension 'obs' has length"),
        (regression_data(30), "pass new ones as coords"),
        ({"coords": {"obss": [1]}}, "did you mean 'obs'"),
        ({"coords": {"group_name": ["a"]}}, "is fixed"),
    ],
)
def test_with_data_refuses(regression, data, message):
    _, compiled = regression
    with pytest.raises(ValueError, match=message):
        compiled.with_data(**data)


def test_data_that_change_the_parameters():
    with pm.Model() as model:
        x = pm.Data("x", np.zeros(3), dims="obs")
        effect = pm.Normal("effect", dims="obs")
        pm.Normal("y", x + effect, observed=np.zeros(3))
    compiled = compile_pymc_model(model)
    with pytest.raises(ValueError, match="unconstrained shape of 'effect'"):
        compiled.with_data(x=np.zeros(4))


def test_frozen_models_have_no_data():
    model = regression_model()
    compiled = compile_pymc_model(model, freeze_model=True)
    assert compiled.unconstrained_names[0] == "scale_log__"
    assert_density_agrees(model, compiled)
    assert set(compiled.data_groups()["constant_data"]) >= {"x", "group"}
    with pytest.raises(ValueError, match="freeze_model=True"):
        compiled.with_data(x=np.zeros(20))


# --------------------------------------------------------------------------------------------------- starts


def test_starts_are_jittered_support_points(transforms):
    model, compiled = transforms
    start = np.concatenate([np.ravel(v) for v in model.initial_point(0).values()])
    points = np.stack([compiled.initial_point([3, chain]) for chain in range(50)])
    np.testing.assert_array_equal(points[0], compiled.initial_point([3, 0]))
    assert (points.std(axis=0) > 0.3).all()
    assert (np.abs(points - start) <= 1).all()
    assert np.isfinite(points).all()


@pytest.fixture(scope="module")
def two_scales():
    with pm.Model() as model:
        pm.HalfNormal("sigma", 1.0)
        pm.Normal("mu", 5.0, 1.0, shape=2)
    return model


def test_given_starts_get_no_jitter(two_scales):
    compiled = compile_pymc_model(two_scales, initial_points={"sigma": 2.0})
    points = np.stack([compiled.initial_point([chain]) for chain in range(5)])
    np.testing.assert_allclose(points[:, 0], np.log(2.0))
    assert points[:, 1:].std() > 0.1
    compiled = compile_pymc_model(two_scales, initial_points={"sigma_log__": 0.5}, jitter_rvs={"sigma"})
    points = np.stack([compiled.initial_point([chain]) for chain in range(5)])
    assert points[:, 0].std() > 0.1
    assert (np.abs(points[:, 0] - 0.5) <= 1).all()
    np.testing.assert_array_equal(points[:, 1:], 5.0)


def test_starts_from_the_prior(two_scales):
    compiled = compile_pymc_model(two_scales, default_initialization_strategy="prior")
    points = np.stack([compiled.initial_point([chain]) for chain in range(200)])
    np.testing.assert_array_equal(points[7], compiled.initial_point([7]))
    assert len(np.unique(points[:, 1])) == 200
    assert abs(points[:, 1].mean() - 5) < 0.4
    assert 0.8 < points[:, 1].std() < 1.2


# --------------------------------------------------------------------------------------------------- explaining


def test_explain_point(regression):
    _, compiled = regression
    assert compiled.explain_point(np.zeros(compiled.n_dim)) == ""
    x = np.zeros(compiled.n_dim)
    x[0] = -1e4  # scale underflows to zero
    text = compiled.explain_point(x)
    assert "'intercept' (free variable)" in text
    assert "'scale' = 0.0" in text
    x = np.zeros(compiled.n_dim)
    x[-1] = np.nan
    text = compiled.explain_point(x)
    assert "not finite in slope" in text
    assert "log density of 'y' (observed) is nan in 20 of 20 terms" in text
    assert "the gradient is not finite for" in text


def test_benchmark(regression):
    pytest.importorskip("nutpie._lib")
    _, compiled = regression
    table = compiled.benchmark_logp(num_evals=5)
    assert len(table["time_us"]) >= 5
    assert (np.asarray(table["time_us"]) > 0).all()
    with pytest.raises(ValueError, match="is needed"):
        compiled.benchmark_logp(np.zeros(3))


def test_imputed_observations():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        with pytest.warns(Warning, match="imputed|impute|missing"):
            pm.Normal("y", mu, 1.0, observed=np.array([1.0, np.nan, 2.0]))
    compiled = compile_pymc_model(model)
    assert compiled.shapes == {"mu": (), "y_unobserved": (1,), "y": (3,)}
    np.testing.assert_array_equal(compiled.expand(np.array([[0.0, 9.0]]))["y"], [[1.0, 9.0, 2.0]])
    np.testing.assert_array_equal(compiled.data_groups()["observed_data"]["y_observed"], [1.0, 2.0])
    assert_density_agrees(model, compiled)
