"""Stan programs: densities, results, reproducibility, errors while sampling."""

from __future__ import annotations

import json
import warnings

import arviz
import numpy as np
import pytest
from results import group_names
from stan_programs import PREY, QUIET, SCHOOLS, SHAPES, regression

import nutpie
from nutpie import _lib

SETTINGS = {"draws": 200, "tune": 200, "chains": 2, "seed": 1, "progress_bar": False, "check": False}


def sample(model, **kwargs):
    return nutpie.sample(model, **SETTINGS | kwargs)


def evaluate(model, point):
    density = model.density()
    return _lib.evaluate(density.address, density.user_data, np.asarray(point, dtype=float))


def differences(model, point, step=1e-4):
    """Gradient by central differences of fourth order."""
    found = np.empty(len(point))
    for i in range(len(point)):
        values = []
        for k in (-2, -1, 1, 2):
            moved = np.array(point)
            moved[i] += k * step
            values.append(evaluate(model, moved)[0])
        found[i] = np.dot([1, -8, 8, -1], values) / (12 * step)
    return found


def assert_gradient(model, seed=0, rtol=1e-7):
    for k in range(3):
        point = 0.5 * model.initial_point((seed, k))
        logp, gradient = evaluate(model, point)
        assert np.isfinite(logp)
        expected = differences(model, point)
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=rtol * max(1.0, np.abs(expected).max()))


# ------------------------------------------------------------------------------------------------------- log densities


def test_gradient_of_eight_schools(eight_schools_centered, eight_schools_noncentered):
    for program in (eight_schools_centered, eight_schools_noncentered):
        assert_gradient(program.with_data(SCHOOLS))


def test_gradient_of_constraints(constraints):
    assert_gradient(constraints.with_data(K=3))


def test_gradient_of_a_regression(hierarchical):
    assert_gradient(hierarchical.with_data(regression()))


def test_gradient_of_a_program_with_complex_parameters(shapes):
    assert_gradient(shapes.with_data(SHAPES))


def test_gradient_of_a_differential_equation(lotka_volterra):
    model = lotka_volterra.with_data(PREY)
    point = np.log([0.55, 0.028, 0.8, 0.024, 30.0, 4.0, 0.3, 0.3])
    # The solver's tolerances are 1e-5 and 1e-3.
    np.testing.assert_allclose(evaluate(model, point)[1], differences(model, point, 1e-3), rtol=2e-3, atol=0.02)


def test_the_density_includes_the_jacobian(eight_schools_centered):
    # tau = exp(t): Cauchy prior, normal density of theta, and t for the change of variables.
    model = eight_schools_centered.with_data(SCHOOLS)

    def by_hand(x):
        mu, tau, theta = x[0], np.exp(x[1]), x[2:]
        y, sigma = np.array(SCHOOLS["y"]), np.array(SCHOOLS["sigma"])
        prior = -0.5 * (mu / 5) ** 2 - np.log1p((tau / 5) ** 2) + x[1]
        return prior - 8 * x[1] - 0.5 * (((theta - mu) / tau) ** 2 + ((y - theta) / sigma) ** 2).sum()

    assert list(model.unconstrained_names) == ["mu", "tau", *(f"theta.{i}" for i in range(1, 9))]
    points = np.random.default_rng(0).normal(size=(5, 10))
    constants = [evaluate(model, x)[0] - by_hand(x) for x in points]
    np.testing.assert_allclose(constants, constants[0], atol=1e-10)


def test_same_density_as_in_pymc(hierarchical):
    pm = pytest.importorskip("pymc")
    data = regression()
    with pm.Model() as model:
        mean_level = pm.Normal("mean_level", 0, 5)
        sd_level = pm.HalfNormal("sd_level", 2)
        level = pm.Normal("level", mean_level, sd_level, shape=6)
        slope = pm.Normal("slope", 0, 2)
        noise = pm.HalfNormal("noise", 2)
        pm.Normal("y", level[data["group"] - 1] + slope * data["x"], noise, observed=data["y"])
    value, gradient = model.compile_logp(), model.compile_dlogp()
    stan = hierarchical.with_data(data)
    rng = np.random.default_rng(1)
    constants = []
    for _ in range(3):
        x = rng.normal(size=10)
        point = {"mean_level": x[0], "sd_level_log__": x[1], "level": x[2:8], "slope": x[8], "noise_log__": x[9]}
        logp, found = evaluate(stan, x)
        np.testing.assert_allclose(found, gradient(point), rtol=1e-9, atol=1e-9)
        constants.append(logp - value(point))
    np.testing.assert_allclose(constants, constants[0], atol=1e-9)


def test_reduce_sum(hierarchical):
    plain, summed = (hierarchical.with_data(regression(grain)) for grain in (0, 7))
    constants = []
    for k in range(3):
        point = plain.initial_point((k,))
        (one, gradient), (other, its_gradient) = evaluate(plain, point), evaluate(summed, point)
        np.testing.assert_allclose(gradient, its_gradient, rtol=1e-9, atol=1e-9)
        constants.append(one - other)
    np.testing.assert_allclose(constants, 30 * np.log(2 * np.pi), rtol=1e-9)
    idata = sample(summed, chains=3, cores=3)
    assert abs(float(idata.posterior["slope"].mean()) - 0.7) < 0.1


def test_what_stan_has_since_2_36(sum_to_zero):
    model = sum_to_zero
    assert model.n_dim == 3 + 2 + 1
    assert_gradient(model)
    posterior = sample(model, draws=1000).posterior
    np.testing.assert_allclose(posterior["effect"].sum("effect_dim_0"), 0, atol=1e-12)
    for axis in ("table_dim_0", "table_dim_1"):
        np.testing.assert_allclose(posterior["table"].sum(axis), 0, atol=1e-12)
    # Its variance is (1 - 1/4) times that of a normal; the scale has an exponential distribution.
    assert float(posterior["effect"].std()) == pytest.approx(1.5 * np.sqrt(0.75), rel=0.1)
    assert float(posterior["scale"].mean()) == pytest.approx(1.0, abs=0.15)


# -------------------------------------------------------------------------------------------------------------- results


def test_constrained_parameters_have_their_distributions(constraints):
    idata = sample(constraints.with_data(K=3), draws=1500, tune=500, chains=4, target_accept=0.9)
    post = idata.posterior
    assert post["positive"].min() > 0
    assert ((post["inside"] > -1) & (post["inside"] < 3)).all()
    assert ((post["between"] > post["free"]) & (post["between"] < post["free"] + post["positive"])).all()
    np.testing.assert_allclose(post["shares"].sum("shares_dim_1"), 1, atol=1e-12)
    assert (np.diff(post["rising"].values) > 0).all()
    assert (np.diff(post["rising_positive"].values) > 0).all()
    np.testing.assert_allclose((post["direction"] ** 2).sum("direction_dim_0"), 1, atol=1e-12)
    for name in ("corr", "cov"):
        matrices = post[name].values
        np.testing.assert_allclose(matrices, np.swapaxes(matrices, -1, -2))
        assert (np.linalg.eigvalsh(matrices) > 0).all()
    factors = post["corr_factor"].values
    np.testing.assert_array_equal(factors, np.tril(factors))
    np.testing.assert_allclose((factors**2).sum(-1), 1)
    assert post["cov_factor"].shape[2:] == (3, 2)
    assert (post["cov_factor"].values[..., 0, 1] == 0).all()
    # Means that are known.
    np.testing.assert_allclose(post["share"].mean(("chain", "draw")), np.array([1, 2, 3]) / 6, atol=0.02)
    np.testing.assert_allclose(
        post["shares"].mean(("chain", "draw")), np.tile(np.array([2, 3, 4]) / 9, (2, 1)), atol=0.02
    )
    np.testing.assert_allclose(post["cov"].mean(("chain", "draw")), 5 * np.eye(2), atol=0.35)
    np.testing.assert_allclose(post["scaled"].mean(("chain", "draw")), 2, atol=0.4)
    assert float(np.log(post["positive"]).mean()) == pytest.approx(0, abs=0.1)
    assert float((post["above"] - post["between"]).mean()) == pytest.approx(1, abs=0.1)


def test_values_are_in_their_places(shapes):
    idata = sample(shapes.with_data(SHAPES), draws=20, tune=20)
    post = idata.posterior.isel(chain=0, draw=-1)
    i, j, k = np.meshgrid(*(np.arange(1, n + 1) for n in (2, 3, 4)), indexing="ij")
    np.testing.assert_array_equal(post["numbered"], 100 * i + 10 * j + k)
    np.testing.assert_array_equal(post["matrices"], 100 * i + 10 * j + k)
    i, j, k = np.meshgrid(*(np.arange(1, n + 1) for n in (2, 2, 3)), indexing="ij")
    assert post["complexes"].dtype == np.complex128
    np.testing.assert_array_equal(post["complexes"], 100 * i + 10 * j + k - 1j * k)
    assert post["z"].dtype == np.complex128
    assert post["z"].values.imag != 0
    np.testing.assert_array_equal(post["conjugate"], np.conj(post["z"]))
    np.testing.assert_array_equal(post["twice"], 2 * post["grid"])
    assert float(post["whole"]) == 7


def test_tuples_and_variables_without_elements(shapes):
    idata = sample(shapes.with_data(SHAPES), draws=20, tune=20)
    post = idata.posterior
    last = post.isel(chain=0, draw=-1)
    np.testing.assert_array_equal(post["simple:1"], post["mu"])
    np.testing.assert_array_equal(last["simple:2"], [1, 2])
    np.testing.assert_array_equal(last["nested:1"], [1, 2, 3])
    np.testing.assert_array_equal(last["nested:2:1"], [[11, 12], [21, 22], [31, 32]])
    np.testing.assert_array_equal(last["nested:2:2"], [[i + 1j * j for j in (1, 2)] for i in (1, 2, 3)])
    assert (post["both:1"] > 0).all()
    assert post["both:2"].shape == (2, 20, 2)
    sizes = {name: post[name].shape[2:] for name in ("empty", "none", "no_complexes", "no_ints")}
    assert sizes == {"empty": (0,), "none": (0, 3), "no_complexes": (3, 0), "no_ints": (2, 0)}
    assert post["no_complexes"].dtype == np.complex128
    assert list(post.data_vars)[:6] == ["mu", "grid", "empty", "z", "both:1", "both:2"]


def schools_by_quadrature():
    """Means of mu and tau of eight schools, with the levels of the schools integrated out."""
    y, sigma = np.array(SCHOOLS["y"]), np.array(SCHOOLS["sigma"])
    mu, tau = np.meshgrid(np.linspace(-20, 30, 501), np.linspace(1e-3, 120, 4001), indexing="ij")
    logp = -0.5 * (mu / 5) ** 2 - np.log1p((tau / 5) ** 2)
    for one, error in zip(y, sigma, strict=True):
        variance = tau**2 + error**2
        logp -= 0.5 * (one - mu) ** 2 / variance + 0.5 * np.log(variance)
    weight = np.exp(logp - logp.max())
    return {name: (weight * values).sum() / weight.sum() for name, values in (("mu", mu), ("tau", tau))}


def test_eight_schools(eight_schools_centered, eight_schools_noncentered):
    truth = schools_by_quadrature()
    post = sample(eight_schools_noncentered.with_data(SCHOOLS), draws=2500, tune=400, chains=4).posterior
    for name, mean in truth.items():
        error = float(post[name].std()) / np.sqrt(float(arviz.ess(post[name].values, method="mean")))
        assert float(post[name].mean()) == pytest.approx(mean, abs=4.5 * error), name
    # Centred it is a funnel, whose neck is out of reach: near, but not exact.
    centred = sample(eight_schools_centered.with_data(SCHOOLS), draws=1500, chains=4, target_accept=0.95).posterior
    for name, mean in truth.items():
        assert float(centred[name].mean()) == pytest.approx(mean, abs=1.5), name


def test_a_differential_equation_is_sampled(lotka_volterra):
    init = {"theta": [0.55, 0.028, 0.8, 0.024], "z_init": [30, 4], "sigma": [0.3, 0.3]}
    post = sample(lotka_volterra.with_data(PREY), init=init).posterior
    assert post["z"].shape == (2, 200, 6, 2)
    # The solution at the posterior follows the observations.
    ratio = post["z"].median(("chain", "draw")).values / np.array(PREY["y"])
    assert np.abs(np.log(ratio)).max() < 0.7


def test_generated_quantities_belong_to_their_draw(eight_schools_noncentered):
    model = eight_schools_noncentered.with_data(SCHOOLS)
    one, two = (sample(model, chains=3, cores=cores) for cores in (1, 3))
    for name in ("y_rep", "log_lik", "theta"):
        np.testing.assert_array_equal(one.posterior[name], two.posterior[name])
    # They are draws around theta, anew for each draw, chain and seed.
    noise = (one.posterior["y_rep"].values - one.posterior["theta"].values) / np.array(SCHOOLS["sigma"])
    assert abs(noise.mean()) < 0.06
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert len(np.unique(noise)) == noise.size
    other = sample(model, chains=3, seed=2)
    assert not np.isin(other.posterior["y_rep"], one.posterior["y_rep"]).any()
    # So a thinned run has the same ones.
    thinned = sample(model, chains=3, thin=4)
    np.testing.assert_array_equal(thinned.posterior["y_rep"], one.posterior["y_rep"][:, ::4])


def test_log_likelihood(eight_schools_noncentered, trouble):
    model = eight_schools_noncentered.with_data(SCHOOLS)
    idata = sample(model, log_likelihood=True)
    np.testing.assert_array_equal(idata.log_likelihood["log_lik"].values, idata.posterior["log_lik"].values)
    with pytest.raises(
        ValueError, match="needs generated quantities whose names begin with log_lik, and the Stan program"
    ):
        sample(trouble.with_data(QUIET), log_likelihood=True)
    with pytest.raises(NotImplementedError, match="log_prior=True is not available for a CompiledStanModel"):
        sample(model, log_prior=True)


def test_generated_quantities_are_skipped_in_warmup(eight_schools_noncentered):
    idata = sample(eight_schools_noncentered.with_data(SCHOOLS))
    assert set(idata.posterior.data_vars) - set(idata.warmup_posterior.data_vars) == {"y_rep", "log_lik"}
    assert "theta" in idata.warmup_posterior
    assert "y_rep" not in idata.initial_points
    start = idata.initial_points
    np.testing.assert_allclose(start["theta"], start["mu"] + start["tau"] * start["theta_trans"])


def test_var_names(eight_schools_noncentered, trouble):
    def chosen(program, data, *names):
        return nutpie.compile_stan_model(library=program.library, var_names=list(names)).with_data(data)

    model = chosen(eight_schools_noncentered, SCHOOLS, "tau", "theta")
    assert list(sample(model).posterior.data_vars) == ["tau", "theta"]
    model = chosen(eight_schools_noncentered, SCHOOLS, "y_rep")
    idata = sample(model)
    assert list(idata.posterior.data_vars) == ["y_rep"]
    assert "y_rep" not in idata.initial_points
    # Generated quantities that nobody wants are not computed: these would fail.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(chosen(trouble, QUIET | {"missing_above": -100}, "x", "twice"))
    with pytest.raises(ValueError, match="var_names: there is no variable 'thetta'; did you mean 'theta'"):
        chosen(eight_schools_noncentered, SCHOOLS, "thetta").density()


def test_the_result_says_what_it_was_made_with(eight_schools_noncentered, tmp_path):
    model = eight_schools_noncentered.with_data(SCHOOLS).with_dims(theta="school", y="school")
    idata = sample(model.with_coords(school=list("abcdefgh")))
    attrs = idata.posterior.attrs
    assert attrs["stan_program"] == "eight_schools_noncentered"
    assert attrs["stan_toolchain"] == "httpstan"
    assert attrs["stan_version"] == model.stan_version
    assert model.stan_version.startswith("2.")
    assert idata.posterior["theta"].dims == ("chain", "draw", "school")
    assert idata.constant_data["y"].dims == ("school",)
    np.testing.assert_array_equal(idata.constant_data["sigma"], SCHOOLS["sigma"])
    assert int(idata.constant_data["J"]) == 8
    idata.to_netcdf(str(tmp_path / "schools.nc"))


# --------------------------------------------------------------------------------------------------------------- errors


def test_rejections_are_collected(trouble):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idata = sample(trouble.with_data(QUIET | {"reject_above": 0.5}), draws=500)
    (problem,) = [p for p in nutpie.diagnose(idata).problems if p.kind == "divergences"]
    assert "or the model rejected the point (" in problem.message
    assert "x is too large: " in problem.message
    assert idata.posterior["x"].max() <= 0.5
    messages = idata.messages
    assert messages.sizes["message"] == 1
    assert str(messages["source"].values[0]) == "log density"
    assert "x is too large: " in str(messages["text"].values[0])
    assert int(messages["count"][0]) > 10
    # The distribution is that of the normal below 0.5.
    assert float(idata.posterior["x"].mean()) == pytest.approx(-0.509, abs=0.15)
    assert "messages" not in group_names(sample(trouble.with_data(QUIET)))


def test_generated_quantities_that_throw_are_missing(trouble):
    model = trouble.with_data(QUIET | {"missing_above": 1.0})
    with pytest.warns(UserWarning, match="variables of the model are NaN at .* draws.*Scale parameter is -1") as caught:
        idata = sample(model, draws=1000, check=True)
    (warning,) = caught  # the check does not repeat it
    assert warning.filename == __file__
    (problem,) = [p for p in nutpie.diagnose(idata).problems if p.kind == "not_finite"]
    assert problem.severity == "note"
    assert "Computing it failed: " in problem.advice
    assert "Scale parameter is -1" in problem.advice
    post = idata.posterior
    above = post["x"].values > 1.0
    assert above.any()
    np.testing.assert_array_equal(np.isnan(post["drawn"]), above)
    np.testing.assert_array_equal(post["twice"], 2 * post["x"])
    assert int(idata.messages["count"].sum()) == above.sum()
    assert set(idata.messages["source"].values) == {"variables"}


def test_a_fatal_error_ends_the_run(trouble):
    # With steps of a good length from the first draw on: a search for one may go anywhere.
    steps = {"tune": 20, "adaptation": "fixed", "metric": np.ones(1), "initial_step": 0.5}
    with pytest.raises(RuntimeError, match="x is far too large") as caught:
        sample(trouble.with_data(QUIET | {"fatal_above": 3.5}), draws=100_000, init=0.1, **steps)
    trace = caught.value.partial_trace
    draws = np.concatenate([trace[group]["x"].values.ravel() for group in ("warmup_posterior", "posterior")])
    assert 0 < draws.size < 100_000
    assert draws.max() <= 3.5


def test_a_start_that_is_rejected_says_why(trouble):
    model = trouble.with_data(QUIET | {"reject_above": -1.0})
    with pytest.raises(ValueError, match=r"chain 0 cannot start at the given point: Stan says: .*x is too large: 0.5"):
        sample(model, init={"x": 0.5})
    found = sample(model).initial_points["x"]
    assert (found <= -1).all()  # others are drawn instead


def test_print_goes_to_the_output_of_python(trouble, capsys):
    model = trouble.with_data(QUIET | {"print_all": 1})
    evaluate(model, [0.25])
    assert capsys.readouterr().out == "x = 0.25\n"
    sample(model, draws=5, tune=5, chains=2, cores=2)
    assert all(line.startswith("x = ") for line in capsys.readouterr().out.splitlines())


def test_other_clients_of_bridgestan_can_use_the_library(eight_schools_noncentered):
    bridgestan = pytest.importorskip("bridgestan")
    model = eight_schools_noncentered.with_data(SCHOOLS)
    other = bridgestan.StanModel(str(model.library), json.dumps(SCHOOLS), warn=False)
    point = model.initial_point((3,))
    logp, gradient = other.log_density_gradient(point)
    found = evaluate(model, point)
    assert logp == found[0]
    np.testing.assert_array_equal(gradient, found[1])
    assert other.param_unc_num() == model.n_dim
    # The whole interface.
    value, _, hessian = other.log_density_hessian(point, propto=False)
    assert value == pytest.approx(other.log_density(point, propto=False))
    steps = [
        other.log_density_gradient(point + 1e-5 * e)[1] - other.log_density_gradient(point - 1e-5 * e)[1]
        for e in np.eye(10)
    ]
    np.testing.assert_allclose(hessian, np.array(steps) / 2e-5, rtol=1e-5, atol=1e-6)
    direction = np.arange(10.0)
    np.testing.assert_allclose(
        other.log_density_hessian_vector_product(point, direction)[1], hessian @ direction, rtol=1e-6
    )
    constrained = other.param_constrain(point)
    np.testing.assert_allclose(other.param_unconstrain(constrained), point, atol=1e-12)
    values = {"theta_trans": constrained[:8].tolist(), "mu": constrained[8], "tau": constrained[9]}
    np.testing.assert_allclose(other.param_unconstrain_json(json.dumps(values)), point, atol=1e-12)
    start = other.param_initialize(other.new_rng(1), json.dumps({"mu": 3.5}))
    assert start[8] == 3.5
    with pytest.raises(RuntimeError, match="theta_trans"):
        other.param_unconstrain_json("{}")


def test_timing(eight_schools_noncentered):
    times = eight_schools_noncentered.with_data(SCHOOLS).benchmark_logp(num_evals=5, cores=2)
    assert len(times["time_us"]) == 10
