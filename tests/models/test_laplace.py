"""Models whose latent variables are integrated out."""

import warnings

import numpy as np
import pytest
from laplace_joints import JOINTS, diagonal
from results import groups

pytest.importorskip("jax")
pytest.importorskip("scipy")

import nutpie
from nutpie.models._jax_batch import precision
from nutpie.models._laplace_marginal import InnerProblemError, LaplaceMarginal
from nutpie.models.base import DrawContext

N = 20
Y = np.random.default_rng(3).normal(0, 2, N) + np.random.default_rng(4).normal(size=N)


def conjugate(theta, phi):
    """theta ~ N(0, exp(2 phi)), y ~ N(theta, 1), phi ~ N(0, 3^2); normalised."""
    import jax.numpy as jnp
    from jax.scipy.stats import norm

    prior = norm.logpdf(phi, 0, 3) + norm.logpdf(theta, 0, jnp.exp(phi)).sum()
    return prior + norm.logpdf(Y, theta, 1).sum()


def exact_marginal(phi):
    """Log density of phi and y, and its derivative."""
    variance = np.exp(2 * phi) + 1
    logp = -0.5 * (phi / 3) ** 2 - np.log(3 * np.sqrt(2 * np.pi))
    logp += -0.5 * np.sum(Y**2) / variance - 0.5 * N * np.log(2 * np.pi * variance)
    return logp, -phi / 9 + (np.sum(Y**2) / variance**2 - N / variance) * np.exp(2 * phi)


@pytest.fixture(scope="module")
def exact():
    return nutpie.laplace(conjugate, theta_init=np.zeros(N), phi_init=0.0, dims={"theta": ["school"]})


def test_a_conjugate_model_is_exact(exact):
    phi = np.linspace(-4, 3, 9)
    logp, gradient = exact.marginal(phi[:, None])
    expected = exact_marginal(phi)
    np.testing.assert_allclose(logp, expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[:, 0], expected[1], rtol=1e-9, atol=1e-10)
    assert exact.structure == "diagonal"
    # A quadratic needs the start and one step.
    assert exact.marginal.evaluations == 2 * exact.marginal.points


def test_the_posterior_of_a_conjugate_model_is_that_of_quadrature(exact):
    idata = nutpie.sample(exact, seed=1, draws=1500, chains=2, progress_bar=False)
    grid = np.linspace(-16, 5, 20_001)
    density = np.exp(exact_marginal(grid)[0] - exact_marginal(0.5)[0])
    density /= density.sum()
    draws = idata.posterior["phi"].values
    for function in (np.tanh, lambda x: np.exp(-((x - 0.5) ** 2)), lambda x: x > 0.5):
        values = function(draws).astype(float)
        found, expected = values.mean(), np.sum(function(grid) * density)
        error = values.std() / np.sqrt(values.size / 4)
        assert abs(found - expected) < 4 * error
    # Latent variables given each draw of phi: y / (1 + exp(-2 phi)) with variance 1 / (1 + exp(-2 phi)).
    shrink = 1 / (1 + np.exp(-2 * draws))
    z = (idata.posterior["theta"].values - shrink[..., None] * Y) / np.sqrt(shrink)[..., None]
    assert idata.posterior["theta"].dims == ("chain", "draw", "school")
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs((z**2).mean() - 1) < 4 * np.sqrt(2 / z.size)
    assert np.abs(np.corrcoef(z.reshape(-1, N).T) - np.eye(N)).max() < 6 / np.sqrt(draws.size)
    found = groups(idata)["laplace"]
    assert found["pareto_k"] < 0
    np.testing.assert_allclose(found["importance_ess"], draws.size)
    assert found["failed"] == 0
    assert (found["latent_pareto_k"] < 0).all()
    assert found["points"] >= idata.posterior.attrs["n_gradients"]
    assert found.attrs["structure"] == "diagonal"
    assert np.ptp(idata.sample_stats["laplace_log_ratio"].values) < 1e-9
    assert "messages" not in groups(idata)


def finite_difference(function, phi, step=1e-3):
    """Central differences of sixth order."""
    weights = {1: 45.0, 2: -9.0, 3: 1.0}
    gradient = np.zeros(len(phi))
    for i in range(len(phi)):
        points = np.stack([phi + sign * k * step * (np.arange(len(phi)) == i) for k in weights for sign in (1, -1)])
        # Four at a time, which is what has been compiled.
        values = np.concatenate([function(part)[0] for part in np.array_split(points, 2)])
        gradient[i] = sum(w * (values[2 * j] - values[2 * j + 1]) for j, w in enumerate(weights.values())) / (60 * step)
    return gradient


def marginal_of(logp, theta, phi, **options):
    return LaplaceMarginal(logp, lambda _attempt: (np.asarray(theta, float), np.asarray(phi, float)), **options)


def dense_marginal(logp, theta, phi):
    """Log marginal density and mode, from the whole Hessian at a mode near theta."""
    import jax

    evaluate = jax.jit(lambda t: (logp(t, phi), jax.grad(logp)(t, phi), -jax.hessian(logp)(t, phi)))
    with precision("float64"):
        for _ in range(3):
            _, gradient, hessian = map(np.asarray, evaluate(theta))
            theta = theta + np.linalg.solve(hessian, gradient)
        value, _, hessian = map(np.asarray, evaluate(theta))
    return float(value) - 0.5 * np.linalg.slogdet(hessian)[1] + 0.5 * len(theta) * np.log(2 * np.pi)


def check_parts(marginal, logp, phi, mode):
    """What a block adds to the logarithm of true over approximate density is what it is if that block alone moves."""
    import jax

    noise = np.random.default_rng(4).normal(size=len(mode))
    (theta,), (ratio,), (parts,) = marginal.draw(phi[None], lambda _row: noise)
    np.testing.assert_allclose(parts.sum(), ratio, rtol=1e-9)
    compiled = jax.jit(logp)
    with precision("float64"):
        for block in marginal.blocks[[0, -1]]:
            moved = mode.copy()
            moved[block] = theta[block]
            rise = float(compiled(moved, phi)) - float(compiled(mode, phi))
            np.testing.assert_allclose(parts[block].sum(), rise + 0.5 * np.sum(noise[block] ** 2), rtol=1e-6, atol=1e-9)


def factorised_shapes(jaxpr):
    """Shapes of all matrices that are factorised or solved with, loops included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("cholesky", "triangular_solve"):
            found.append(equation.invars[0].aval.shape)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple) else (value,):
                inner = getattr(part, "jaxpr", part)
                found += factorised_shapes(inner) if hasattr(inner, "eqns") else []
    return found


def check_one_matrix_at_a_time(marginal, points):
    """With several, LAPACK calls of JAX 0.10 wait for each other for ever on a machine with two cores."""
    import jax

    with precision("float64"):
        state = marginal._compiled.search(points, marginal._reference)
        for function, arguments in [
            (marginal._compiled._search, (points, marginal._reference)),
            (marginal._compiled._marginal, (state, points)),
            (marginal._compiled._draw, (state, points, np.zeros((len(points), marginal.size)))),
        ]:
            shapes = factorised_shapes(jax.make_jaxpr(function)(*arguments).jaxpr)
            assert set(shapes) == {(marginal.size, marginal.size)}


@pytest.mark.parametrize("kind", [kind for kind in JOINTS if kind != "diagonal"])
def test_every_structure(kind):
    make, n = JOINTS[kind]
    logp = make(n)
    marginal = marginal_of(logp, np.zeros(n), [0.1, 0.2])
    assert marginal.pattern.kind == kind
    points = np.array([[0.3, -0.2], [-0.8, 0.9], [0.5, 0.5]])
    values, gradients = marginal(points)
    for phi, gradient in zip(points[:2], gradients, strict=False):
        np.testing.assert_allclose(gradient, finite_difference(marginal, phi), rtol=2e-7, atol=2e-7)
    if kind == "dense":
        check_one_matrix_at_a_time(marginal, points[[0, 1, 2, 0]])
    if kind in ("dense", "sparse"):
        # What follows has nothing to do with these, and takes a while to compile.
        return
    with precision("float64"):
        mode = np.asarray(marginal._compiled.search(points[[0, 0, 0, 0]], marginal._reference).theta)[0]
    if kind == "blocks":
        check_parts(marginal, logp, points[0], mode)
    np.testing.assert_allclose(values[0], dense_marginal(logp, mode, points[0]), rtol=1e-10)
    # The same points after others, one at a time.
    for i in (2, 0):
        again = marginal(points[i : i + 1])
        np.testing.assert_allclose(again[0][0], values[i], rtol=1e-13)
        np.testing.assert_allclose(again[1][0], gradients[i], rtol=1e-11, atol=1e-11)
    # And where searches begin elsewhere.
    with precision("float64"):
        marginal._reference = marginal._find_reference(lambda _attempt: (np.full(n, 0.5), np.array([0.7, -0.9])))
    for found, expected in zip(marginal(points), (values, gradients), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_a_pattern_that_changes_is_found_out():
    import jax.numpy as jnp

    def joint(theta, phi):
        pair = jnp.where(phi[0] > 4, 0.3 * theta[0] * theta[1], 0.0)
        return -0.5 * jnp.sum(theta**2) - pair + theta[0] - 0.5 * phi[0] ** 2

    marginal = marginal_of(joint, np.zeros(3), np.zeros(1))
    assert marginal.pattern.kind == "diagonal"
    marginal(np.zeros((1, 1)))
    logp = marginal(np.array([[5.0]]))[0][0]
    assert marginal.pattern.kind != "diagonal"
    hessian = np.eye(3) + 0.3 * np.eye(3)[[1, 0, 2]] * np.array([1, 1, 0])
    mode = np.linalg.solve(hessian, [1, 0, 0])
    expected = 0.5 * mode[0] - 0.5 * np.linalg.slogdet(hessian)[1] + 1.5 * np.log(2 * np.pi) - 12.5
    np.testing.assert_allclose(logp, expected, rtol=1e-12)


def test_a_hundred_thousand_latent_variables():
    import jax.numpy as jnp

    n = 100_000
    y = np.random.default_rng(0).normal(size=n)

    def joint(theta, phi):
        return -0.5 * jnp.sum((theta - y) ** 2) - 0.5 * jnp.exp(-2 * phi[0]) * jnp.sum(theta**2) - n * phi[0]

    marginal = marginal_of(joint, np.zeros(n), np.zeros(1))
    assert marginal.pattern.kind == "diagonal"
    phi = np.array([[0.4]])
    logp, gradient = marginal(phi)
    variance = np.exp(0.8) + 1
    expected = -0.5 * np.sum(y**2) / variance - 0.5 * n * np.log(variance) + 0.5 * n * np.log(2 * np.pi)
    np.testing.assert_allclose(logp[0], expected, rtol=1e-11)
    slope = (np.sum(y**2) / variance**2 - n / variance) * np.exp(0.8)
    np.testing.assert_allclose(gradient[0, 0], slope, rtol=1e-8)


@pytest.fixture(scope="module")
def counts():
    """A model whose latent variables are not normal."""
    joint = diagonal(12)
    return nutpie.laplace(
        lambda theta, phi: joint(theta["z"], phi["p"]),
        theta_init={"z": np.zeros(12)},
        phi_init={"p": np.zeros(2)},
        expand=lambda p: {"total": p["theta"]["z"].sum()},
        coords={"unit": list("abcdefghijkl")},
        dims={"theta.z": "unit"},
    )


def test_draws_depend_on_seed_chain_and_number_alone(counts):
    draws = np.random.default_rng(0).normal(size=(7, 2)) * 0.3

    def expand(numbers, seed=5, chain=1):
        context = DrawContext(seed=seed, chain=chain, numbers=np.asarray(numbers), warmup=False)
        return counts.expand_draws(draws[np.asarray(numbers)], context)["theta.z"]

    whole = expand(range(7))
    np.testing.assert_allclose(np.concatenate([expand([0, 1, 2]), expand([3, 4, 5, 6])]), whole, rtol=1e-12)
    assert not np.allclose(expand(range(7), seed=6), whole)
    assert not np.allclose(expand(range(7), chain=0), whole)
    options = {"seed": 3, "draws": 60, "tune": 60, "chains": 2, "progress_bar": False, "check": False}
    one, two = (nutpie.sample(counts, cores=cores, **options) for cores in (1, 2))
    for name in ("phi.p", "theta.z", "total"):
        np.testing.assert_array_equal(one.posterior[name], two.posterior[name])
    np.testing.assert_allclose(one.posterior["theta.z"].sum("unit"), one.posterior["total"])
    assert list(groups(one)["warmup_posterior"].data_vars) == ["phi.p"]
    assert one.posterior["theta.z"].coords["unit"].values.tolist() == list("abcdefghijkl")
    assert {"phi.p", "total"} <= set(groups(one)["posterior"].data_vars)
    assert "laplace_log_ratio" not in groups(one)["posterior"]


def test_the_model_describes_itself(counts):
    assert counts.n_dim == 2
    assert counts.n_latent == 12
    assert list(counts.unconstrained_names) == ["phi.p_0", "phi.p_1"]
    assert list(counts.free_variables) == ["phi.p"]
    np.testing.assert_array_equal(counts.unconstrain({"phi.p": [1.0, 2.0]}, np.zeros(2)), [1, 2])
    with pytest.raises(ValueError, match="cannot be given a start"):
        counts.unconstrain({"theta.z": np.ones(12)}, np.zeros(2))
    assert "12 latent variables integrated out, diagonal Hessian" in repr(counts)
    starts = np.stack([counts.initial_point((0, chain)) for chain in range(20)])
    assert (np.abs(starts) < 1).all()
    assert np.ptp(starts) > 1
    with pytest.raises(NotImplementedError):
        nutpie.sample(counts, log_likelihood=True)


def test_what_is_not_normal_is_told_and_failures_are_counted():
    import jax.numpy as jnp

    def joint(theta, phi):
        # Two modes; and no maximum at all beyond phi = 1.
        modes = jnp.log(jnp.exp(-2 * (theta - 2) ** 2) + jnp.exp(-2 * (theta + 2) ** 2))
        return jnp.sum(jnp.where(phi > 1, 0.5 * theta**2, modes)) - 0.5 * phi**2

    model = nutpie.laplace(joint, theta_init=np.full(2, 0.5), phi_init=0.0)
    with pytest.warns(nutpie.SamplingWarning, match="Laplace approximation .* Pareto k"):
        idata = nutpie.sample(model, seed=2, draws=300, chains=2, progress_bar=False)
    found = groups(idata)["laplace"]
    assert found["pareto_k"] > 0.7
    assert found["failed"] > 0
    assert set(found["latent"].values.tolist()) == {"theta_0", "theta_1"}
    assert found["latent_pareto_k"][0] > 0.7
    assert "laplace_log_ratio_parts" not in groups(idata)["posterior"]
    messages = groups(idata)["messages"]
    assert messages["count"].sum() == found["failed"]
    assert "Laplace: " in str(messages["text"].values[0])
    assert idata.sample_stats["diverging"].sum() > 0
    assert "Laplace" in model.explain_point(np.array([1.5]))
    assert (idata.posterior["phi"] <= 1).all()
    kinds = {problem.kind for problem in nutpie.diagnose(idata).problems}
    assert "laplace" in kinds


def test_arguments_that_make_no_sense_are_refused():
    start = {"theta_init": np.zeros(N), "phi_init": 0.0}
    with pytest.raises(TypeError, match="or a model with latent"):
        nutpie.laplace(conjugate)
    with pytest.raises(TypeError, match="or a model with latent"):
        nutpie.laplace(conjugate, theta_init=np.zeros(N))
    with pytest.raises(TypeError, match="or a model with latent"):
        nutpie.laplace(conjugate, latent="theta", **start)
    with pytest.raises(ValueError, match="structure"):
        nutpie.laplace(conjugate, structure="band", **start)
    with pytest.raises(TypeError, match="transform"):
        nutpie.laplace(conjugate, transform={}, **start)
    with pytest.raises(InnerProblemError, match="no Laplace approximation at the initial point"):
        nutpie.laplace(lambda theta, phi: theta[0] - phi**2, theta_init=np.zeros(1), phi_init=0.0)
    compiled = nutpie.from_jax(lambda p: -(p["a"] ** 2) - p["b"] ** 2, {"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"latent: .*'c'"):
        nutpie.laplace(compiled, latent="c")
    with pytest.raises(ValueError, match="nothing is left"):
        nutpie.laplace(compiled, latent=["a", "b"])
    with pytest.raises(ValueError, match="latent is empty"):
        nutpie.laplace(compiled, latent=[])
    with pytest.raises(TypeError, match="no further arguments"):
        nutpie.laplace(compiled, 3, latent="a")
    with pytest.raises(TypeError, match="not a int"):
        nutpie.laplace(3, latent="a")


def poisson_posterior(y):
    """Posterior means and standard deviations of the model below, by quadrature."""
    mean, log_scale = np.linspace(0.4, 2.6, 61), np.linspace(-2.5, 0.8, 67)
    level = np.linspace(-2, 5, 281)
    m, t = (part.reshape(-1, 1) for part in np.meshgrid(mean, log_scale, indexing="ij"))
    prior = np.exp(-0.5 * ((level - m) * np.exp(-t)) ** 2 - t)
    likelihood = np.exp(level[:, None] * y.sum(axis=1) - y.shape[1] * np.exp(level)[:, None] - y.sum(axis=1))
    likelihood /= likelihood.max(axis=0)
    each = prior @ likelihood
    # The density of the logarithm of the scale.
    logp = np.log(each).sum(axis=1) + (-0.5 * (m / 3) ** 2 - 0.5 * np.exp(2 * t) + t)[:, 0]
    weights = np.exp(logp - logp.max())
    weights /= weights.sum()

    def moments(function):
        return [weights @ (prior @ (function(level)[:, None] ** k * likelihood) / each) for k in (1, 2)]

    first = {"mean": weights @ m[:, 0], "scale": weights @ np.exp(t[:, 0])}
    second = {"mean": weights @ m[:, 0] ** 2, "scale": weights @ np.exp(2 * t[:, 0])}
    for name, function in (("level", lambda x: x), ("rate", np.exp)):
        first[name], second[name] = moments(function)
    return {name: (first[name], np.sqrt(second[name] - first[name] ** 2)) for name in first}


def test_a_poisson_regression_of_pymc_has_the_posterior_of_quadrature():
    pm = pytest.importorskip("pymc")
    rng = np.random.default_rng(1)
    y = rng.poisson(np.exp(1.5 + 0.5 * rng.normal(size=(25, 1))), size=(25, 6))
    with pm.Model(coords={"group": np.arange(25)}) as model:
        mean = pm.Normal("mean", 0, 3)
        scale = pm.HalfNormal("scale", 1)
        level = pm.Normal("level", mean, scale, dims="group")
        pm.Deterministic("rate", pm.math.exp(level), dims="group")
        pm.Poisson("y", pm.math.exp(level)[:, None], observed=y)
    compiled = nutpie.laplace(model, latent="level", correct=True)
    assert compiled.structure == "diagonal"
    with warnings.catch_warnings():
        warnings.simplefilter("error", nutpie.SamplingWarning)
        idata = nutpie.sample(compiled, seed=1, chains=2, draws=1000, progress_bar=False)
    assert idata.posterior["level"].dims == ("chain", "draw", "group")
    assert groups(idata)["laplace"].attrs["corrected"] == 1
    assert groups(idata)["observed_data"]["y"].shape == (25, 6)
    for name, (center, spread) in poisson_posterior(y).items():
        draws = np.asarray(idata.posterior[name].values).reshape(2000, -1)
        # Effective numbers of draws of several hundred each.
        assert (np.abs(draws.mean(axis=0) - center) < 4 * spread / np.sqrt(400)).all(), name
        np.testing.assert_allclose(draws.std(axis=0), np.atleast_1d(spread), rtol=0.2)
