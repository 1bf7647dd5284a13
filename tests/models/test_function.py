"""Models from Python functions."""

from __future__ import annotations

import numpy as np
import pytest
from results import group_names

import nutpie
from nutpie.compiled_pyfunc import from_pyfunc


def logp(x):
    return -0.5 * x @ x, -x


def rows(x):
    return -0.5 * (x * x).sum(-1), -x


def sample(model, **options):
    return nutpie.sample(model, **{"draws": 100, "seed": 1, "progress_bar": False, "check": False} | options)


# -------------------------------------------------------------------------------------------------------- from_logp


def test_a_function_of_a_point_and_one_of_many_give_the_same_draws():
    calls = []

    def counted(x):
        calls.append(len(x))
        return rows(x)

    one = sample(nutpie.from_logp(logp, 3), draws=300)
    many = sample(nutpie.from_logp(counted, 3, batched=True, check=False), draws=300)
    np.testing.assert_allclose(one.posterior["x"], many.posterior["x"], atol=1e-8)
    assert one.posterior["x"].shape == (4, 300, 3)
    assert abs(float(one.posterior["x"].mean())) < 0.15
    assert abs(float(one.posterior["x"].std()) - 1) < 0.15
    assert max(calls) == 4


def test_variables_are_parts_of_the_point():
    model = nutpie.from_logp(
        logp,
        6,
        variables={"mu": (), "theta": 2, "beta": (3, 1)},
        dims={"theta": "school", "beta": ["row", "column"]},
        coords={"school": ["a", "b"]},
    )
    assert model.shapes == {"mu": (), "theta": (2,), "beta": (3, 1)}
    assert model.unconstrained_names == ["mu", "theta_0", "theta_1", "beta_0_0", "beta_1_0", "beta_2_0"]
    idata = sample(model, store_unconstrained=True, init={"theta": [5.0, 6.0]}, tune=0, store_gradient=True)
    assert idata.posterior["theta"].dims == ("chain", "draw", "school")
    assert list(idata.posterior["school"].values) == ["a", "b"]
    assert idata.posterior["beta"].dims == ("chain", "draw", "row", "column")
    np.testing.assert_array_equal(idata.initial_points["theta"], [[5.0, 6.0]] * 4)
    assert len(np.unique(idata.initial_points["mu"])) == 4
    flat = np.concatenate([idata.posterior[n].values.reshape(4, 100, -1) for n in ("mu", "theta", "beta")], axis=-1)
    np.testing.assert_allclose(idata.sample_stats["gradient"], -flat)
    again = sample(model, init=idata)
    np.testing.assert_array_equal(again.initial_points["beta"], idata.posterior["beta"][:, -1])


def test_expand_computes_the_variables():
    def expand(x):
        return {"sd": np.exp(x[0]), "positive": x[1:] > 0, "n": np.int64(3)}

    model = nutpie.from_logp(logp, 3, expand=expand, dims={"positive": ["k"]}, coords={"k": [7, 8]})
    idata = sample(model, store_unconstrained=True)
    unconstrained = idata.unconstrained_posterior["unconstrained"].values
    np.testing.assert_allclose(idata.posterior["sd"], np.exp(unconstrained[..., 0]))
    np.testing.assert_array_equal(idata.posterior["positive"], unconstrained[..., 1:] > 0)
    assert (idata.posterior["positive"].dtype, idata.posterior["n"].dtype) == (np.bool_, np.int64)
    assert model.unconstrained_names == ["x_0", "x_1", "x_2"]

    def batched(x):
        assert x.ndim == 2
        return {"sd": np.exp(x[:, 0]), "positive": x[:, 1:] > 0, "n": np.full(len(x), 3)}

    same = sample(nutpie.from_logp(rows, 3, batched=True, expand=batched))
    np.testing.assert_allclose(same.posterior["sd"], idata.posterior["sd"], rtol=1e-8)
    with pytest.raises(TypeError, match="arrays of 3 unconstrained numbers"):
        sample(model, init={"sd": 1.0})
    with pytest.raises(TypeError, match="arrays of 3 unconstrained numbers"):
        sample(model, init=idata)


@pytest.mark.parametrize(
    ("expand", "error", "message"),
    [
        (lambda x: {"a": x[:2]}, ValueError, r"'a' of shape \(2,\), \(3,\) is needed"),
        (lambda x: {"b": x}, ValueError, r"did not return 'a'; it returned \['b'\]"),
        (lambda x: x, TypeError, "must return a dict"),
        (lambda x: {"a": x + 1j}, TypeError, "'a' of dtype complex128, float64 is needed"),
    ],
)
def test_what_expand_returns_is_checked(expand, error, message):
    model = nutpie.from_logp(logp, 3, expand=expand, variables={"a": 3})
    with pytest.raises(error, match=message) as caught:
        sample(model)
    assert "unconstrained_posterior" in group_names(caught.value.partial_trace)


def test_where_chains_start():
    assert np.abs(nutpie.from_logp(logp, 500).initial_point((1,))).max() <= 2.0
    fixed = nutpie.from_logp(logp, 2, initial_point=[3.0, 4.0])
    np.testing.assert_array_equal(fixed.initial_point((5,)), [3.0, 4.0])
    drawn = nutpie.from_logp(logp, 2, initial_point=lambda rng: rng.normal(50.0, 1.0, 2))
    assert (drawn.initial_point((1,)) > 40).all()
    assert (drawn.initial_point((1,)) != drawn.initial_point((2,))).all()
    with pytest.raises(ValueError, match=r"initial_point has shape \(3,\), \(2,\) is needed"):
        nutpie.from_logp(logp, 2, initial_point=np.zeros(3))
    with pytest.raises(ValueError, match=r"the initial point has shape \(1,\), \(2,\) is needed"):
        nutpie.from_logp(logp, 2, initial_point=lambda rng: rng.normal(size=1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"dim": 2.0}, TypeError, "dim must be a whole number"),
        ({"function": 3}, TypeError, "function must be a function, not int"),
        ({"variables": {"mu": ()}}, ValueError, r"\(mu \(\)\) have 1 elements, but the density has 3 parameters"),
        ({"variables": {"mu": 3.0}}, TypeError, "shape of 'mu' must be a whole number"),
        ({"variables": {"chain": 3}}, ValueError, "cannot be named 'chain'"),
        ({"variables": {3: 3}}, TypeError, "names of variables must be strings"),
        ({"dims": {"y": ["a"]}}, ValueError, "dims: there is no variable 'y'"),
        ({"dims": {"x": ["a", "b"]}}, ValueError, r"dims of 'x' are \('a', 'b'\), but its shape is \(3,\)"),
        ({"dims": {"x": ["draw"]}}, ValueError, "'draw' cannot be the name of a dimension"),
        ({"dims": {"x": "a"}, "coords": {"a": [1, 2]}}, ValueError, "coords of 'a' have 2 values, but 'x' has 3"),
        ({"coords": {"a": [1, 2]}}, ValueError, "coords: there is no dimension 'a'"),
        ({"width": 3}, ValueError, "no effect without batched=True"),
        ({"lockstep": "no"}, TypeError, "lockstep must be True or False"),
        ({"expand": 3}, TypeError, "expand must be a function"),
        ({"expand": lambda x: {}}, ValueError, "expand returned no variables"),
        ({"expand": lambda x: {"a": "b"}}, TypeError, "'a' of dtype <U1, numbers are needed"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(options, error, message):
    with pytest.raises(error, match=message):
        nutpie.from_logp(**{"function": logp, "dim": 3} | options)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: -0.5 * x @ x, TypeError, r"must return a pair \(logp, grad\), not float64"),
        (lambda x: (-0.5 * x * x, -x), ValueError, r"logp of shape \(3,\), \(\) is needed"),
        (lambda x: (-0.5 * x @ x, -x[0]), ValueError, r"grad of shape \(\), \(3,\) is needed"),
        (lambda x: (-0.5 * x @ x + 0j, -x), TypeError, "logp of dtype complex128"),
        (lambda x: (None, -x), TypeError, "logp of dtype object"),
        (lambda x: (-0.5 * x @ x, -2 * x), ValueError, "gradient is wrong.*2 times what it should be.*check=False"),
        (lambda x: (-0.5 * x @ x + np.random.default_rng().normal(), -x), ValueError, "for the same point"),
        (lambda x: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_a_function_is_checked(function, error, message):
    with pytest.raises(error, match=message):
        nutpie.from_logp(function, 3)
    nutpie.from_logp(function, 3, check=False)


def test_rows_that_depend_on_each_other_are_noticed():
    def mixed(x):
        return np.full(len(x), -0.5 * (x * x).sum()), -x

    with pytest.raises(ValueError, match=r"two points in one call.*last axis"):
        nutpie.from_logp(mixed, 3, batched=True)


def test_single_precision_is_warned_of():
    def single(x):
        return np.float32(-0.5 * x @ x), -x

    with pytest.warns(UserWarning, match="logp in single precision"):
        nutpie.from_logp(single, 3)


def test_a_start_without_a_density_is_explained():
    with np.errstate(invalid="ignore"):
        model = nutpie.from_logp(lambda x: (np.log(-(x[0] ** 2)), x * np.nan), 2, variables={"a": (), "b": ()})
        with pytest.raises(
            ValueError, match=r"no start found for chain 0.*log density is nan; the gradient is not finite for a, b"
        ):
            sample(model)


def test_exceptions_say_whether_they_end_the_run():
    def breaks(x):
        if x[0] > 1.5:
            raise RuntimeError("out of range")
        return logp(x)

    def rejects(x):
        if x[0] > 1.5:
            raise ZeroDivisionError
        return logp(x)

    start = {"initial_point": np.zeros(2)}
    with pytest.raises(RuntimeError, match="out of range") as caught:
        sample(nutpie.from_logp(breaks, 2, **start), draws=2000)
    assert caught.traceback[-1].name == "breaks"
    assert "posterior" in group_names(caught.value.partial_trace) or "warmup_posterior" in group_names(
        caught.value.partial_trace
    )
    idata = sample(nutpie.from_logp(rejects, 2, **start), draws=500)
    assert float(idata.posterior["x"][..., 0].max()) <= 1.5
    assert int(idata.sample_stats["diverging"].sum()) > 0


# ------------------------------------------------------------------------------------------------------ from_pyfunc


def make_logp():
    def function(x, scale):
        return -0.5 * float(x @ x) / scale**2, -x / scale**2

    return function


def make_expand(seed1, seed2, chain):
    rng = np.random.default_rng((seed1, seed2))

    def function(x, scale):
        return {"x": x, "prediction": np.float32(rng.normal()), "number": np.int64(chain)}

    return function


def pyfunc(**options):
    names = {"expanded_dtypes": [np.float64, np.float32, np.int64], "expanded_shapes": [(2,), (), ()]}
    arguments = {"shared_data": {"scale": 3.0}, "expanded_names": ["x", "prediction", "number"]} | names | options
    return from_pyfunc(2, make_logp, make_expand, **arguments)


def test_the_signature_of_the_older_package():
    model = pyfunc(dims={"x": ["k"]}, coords={"k": ["a", "b"]})
    idata = sample(model, draws=400)
    assert abs(float(idata.posterior["x"].std()) - 3.0) < 0.4
    assert idata.posterior["x"].dims == ("chain", "draw", "k")
    dtypes = [idata.posterior[name].dtype for name in ("x", "prediction", "number")]
    assert dtypes == [np.float64, np.float32, np.int64]
    np.testing.assert_array_equal(idata.posterior["number"], np.arange(4)[:, None] + np.zeros(400))
    predictions = idata.posterior["prediction"].values
    assert len(np.unique(predictions)) == predictions.size
    assert not np.isin(idata.warmup_posterior["prediction"].values, predictions).any()
    np.testing.assert_array_equal(sample(model, draws=400).posterior["prediction"], predictions)


def test_data_can_be_replaced():
    model = pyfunc()
    wide = sample(model.with_data(scale=10.0), draws=300)
    assert abs(float(wide.posterior["x"].std()) - 10.0) < 2
    assert model.shared_data == {"scale": 3.0}
    with pytest.raises(ValueError, match="no shared data 'scales'; did you mean 'scale'"):
        model.with_data(scales=1.0)


def test_starts_of_pyfunc():
    assert np.abs(pyfunc().initial_point((1,))).max() <= 2
    assert np.abs(pyfunc(initial_mean=[9.0, -9.0]).initial_point((1,)) - [9.0, -9.0]).max() <= 1
    seeded = pyfunc(make_initial_point_fn=lambda seed: np.random.default_rng(seed).normal(size=2))
    assert (seeded.initial_point((1,)) != seeded.initial_point((2,))).all()
    with pytest.raises(ValueError, match="not both"):
        pyfunc(initial_mean=[0.0, 0.0], make_initial_point_fn=np.zeros)
    with pytest.raises(ValueError, match=r"initial_mean has shape \(1,\)"):
        pyfunc(initial_mean=[0.0])


def test_arguments_of_pyfunc_are_checked():
    with pytest.raises(ValueError, match="same length, not 1, 3 and 3"):
        pyfunc(expanded_names=["x"])
    with pytest.raises(ValueError, match="a name twice"):
        pyfunc(expanded_names=["x", "x", "y"])
    with pytest.raises(TypeError, match="make_logp_fn must be a function"):
        nutpie.from_pyfunc(2, None, make_expand, [], [], [])


def test_errors_of_pyfunc_can_be_divergences():
    def make_raising():
        def function(x):
            if x[0] > 1.0:
                raise RuntimeError("too far")
            return -0.5 * float(x @ x), -x

        return function

    def make_identity(_seed1, _seed2, _chain):
        return lambda x: {"x": x}

    arguments = (2, make_raising, make_identity, [np.float64], [(2,)], ["x"])
    idata = sample(nutpie.from_pyfunc(*arguments, raise_logp_error=False), draws=300)
    assert float(idata.posterior["x"][..., 0].max()) <= 1.0
    with pytest.raises(RuntimeError, match="too far"):
        sample(nutpie.from_pyfunc(*arguments, initial_mean=[-5.0, 0.0]), draws=300)
