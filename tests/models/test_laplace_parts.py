"""Patterns of Hessians, their algebra and the search for modes, each against dense matrices."""

from types import SimpleNamespace

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")
jax = pytest.importorskip("jax")

from nutpie import _lib  # noqa: E402
from nutpie._approximation_checks import find_approximation_problems  # noqa: E402
from nutpie.models import _laplace_newton as newton  # noqa: E402
from nutpie.models._jax_batch import precision  # noqa: E402
from nutpie.models._laplace_algebra import Sparse, algebra_for  # noqa: E402
from nutpie.models._laplace_blocks import hyper_shifts, judge_blocks  # noqa: E402
from nutpie.models._laplace_check import add_laplace_group, pareto_smoothed  # noqa: E402
from nutpie.models._laplace_pattern import find_entries, make_pattern, wider  # noqa: E402


def banded(n, width, rng):
    matrix = np.zeros((n, n))
    for offset in range(width + 1):
        values = rng.normal(size=n - offset)
        matrix += np.diag(values, -offset) + (np.diag(values, offset) if offset else 0)
    return matrix


def grid(side, rng):
    n = side * side
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in ([i + 1] if (i + 1) % side else []) + ([i + side] if i + side < n else []):
            matrix[i, j] = matrix[j, i] = rng.normal()
    return matrix


def arrow(n, rng):
    matrix = np.diag(rng.normal(size=n))
    matrix[:, [0, 7]] = rng.normal(size=(n, 2))
    return matrix


def blocks(n, rng):
    """Blocks of three whose rows lie far apart."""
    matrix = np.zeros((n, n))
    third = n // 3
    for i in range(third):
        rows = [i, i + third, i + 2 * third]
        matrix[np.ix_(rows, rows)] = rng.normal(size=(3, 3))
    return matrix + matrix.T


def scattered(n, rng):
    matrix = np.zeros((n, n))
    rows, cols = rng.integers(n, size=(2, 2 * n))
    matrix[rows, cols] = matrix[cols, rows] = rng.normal(size=2 * n) * 10.0 ** rng.integers(-4, 4, 2 * n)
    return matrix


MATRICES = {
    "diagonal": lambda rng: np.diag(rng.normal(size=300)),
    "blocks": lambda rng: blocks(300, rng),
    "banded": lambda rng: banded(400, 3, rng),
    "wide": lambda rng: banded(500, 20, rng),
    "grid": lambda rng: grid(20, rng),
    "arrow": lambda rng: arrow(300, rng),
    "scattered": lambda rng: scattered(300, rng),
    "small": lambda rng: banded(40, 2, rng),
}
KINDS = {"diagonal": "diagonal", "blocks": "blocks", "banded": "banded", "wide": "banded", "grid": "sparse"}
KINDS |= {"arrow": "sparse", "scattered": "sparse", "small": "banded"}


def symmetric(name, seed=0):
    matrix = MATRICES[name](np.random.default_rng(seed))
    matrix = np.tril(matrix) + np.tril(matrix, -1).T
    # A diagonal that is there in each row.
    return matrix + np.diag(np.sign(np.diag(matrix) + 0.5) * 0.5)


@pytest.mark.parametrize("name", list(MATRICES))
def test_entries_are_found_by_products_and_read_off_few_of_them(name):
    matrix = symmetric(name)
    n = len(matrix)
    count = [0]

    def product(vectors):
        count[0] += len(vectors)
        return vectors @ matrix

    found = find_entries(product, n, np.random.default_rng(1))
    np.testing.assert_allclose(found.toarray(), matrix, rtol=1e-6, atol=1e-7)
    pattern = make_pattern(found, n)
    assert pattern.kind == KINDS[name]
    # What the products with the vectors of the colours say is what there is.
    products = pattern.vectors() @ matrix
    read = products[pattern.read_colors, pattern.read_rows]
    np.testing.assert_allclose(read, matrix[pattern.rows, pattern.cols], rtol=1e-12, atol=1e-12)
    lower = np.zeros((n, n))
    lower[pattern.rows, pattern.cols] = 1
    assert not (np.tril(matrix != 0) & (lower == 0)).any()
    if name in ("diagonal", "banded", "grid", "arrow", "blocks"):
        assert pattern.n_colors <= 12
        assert count[0] <= 0.8 * n


def test_a_band_that_was_too_narrow_gets_twice_as_wide():
    pattern = make_pattern(scipy_sparse.csr_matrix(banded(100, 3, np.random.default_rng(0))), 100)
    assert pattern.kind == "banded"
    distance = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    np.testing.assert_array_equal(wider(pattern).toarray() != 0, distance <= 6)
    assert make_pattern(wider(pattern), 100).kind == "banded"


def test_a_full_matrix_has_no_pattern():
    matrix = np.random.default_rng(0).normal(size=(300, 300))
    assert find_entries(lambda v: v @ (matrix + matrix.T), 300, np.random.default_rng(1)) is None
    assert make_pattern(None, 300).kind == "dense"
    with pytest.raises(ValueError, match=r"50000 latent variables has no structure .* 18\.6 GiB"):
        make_pattern(None, 50_000)


def test_structures_that_do_not_fit_are_refused():
    entries = scipy_sparse.csr_matrix(symmetric("grid"))
    for kind in ("diagonal", "blocks"):
        with pytest.raises(ValueError, match="the Hessian of the latent variables"):
            make_pattern(entries, 400, kind)
    assert make_pattern(entries, 400, "dense").kind == "dense"
    assert make_pattern(entries, 400, "sparse").kind == "sparse"


@pytest.mark.parametrize("name", ["diagonal", "blocks", "banded", "grid", "arrow", "dense"])
def test_algebra_is_that_of_dense_matrices(name):
    matrix = symmetric("small" if name == "dense" else name, seed=3)
    n = len(matrix)
    rng = np.random.default_rng(2)
    dominant = np.diag(np.abs(matrix).sum(axis=1) + 0.5)
    matrices = np.stack([dominant + scale * matrix for scale in (0.5, -0.7, 0.9)])
    pattern = make_pattern(scipy_sparse.csr_matrix(matrices[0]), n, "dense" if name == "dense" else None)
    vectors = rng.normal(size=(3, n))
    bad = matrices[:, pattern.rows, pattern.cols]
    bad[1] *= -1
    bad[2, 0] = np.nan
    algebra, one = algebra_for(pattern), vectors[0]

    def everything(entries, bad, vectors):
        factor = algebra.factor(entries)
        return {
            "ok": algebra.ok(factor),
            "log_det": algebra.log_det(factor),
            "solved": algebra.solve(factor, vectors),
            "inverse": algebra.inverse(factor),
            "coloured": algebra.color(factor, vectors),
            "product": algebra.multiply(entries, one),
            "diagonal": algebra.diagonal(entries),
            "more": algebra.add_diagonal(entries, abs(vectors)),
            "bad": algebra.ok(algebra.factor(bad)),
        }

    with precision("float64"):
        compute = jax.jit(everything) if algebra.compiled else everything
        found = compute(matrices[:, pattern.rows, pattern.cols], bad, vectors)
        found = {name: np.asarray(value) for name, value in found.items()}
    inverses = np.linalg.inv(matrices)
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert found["ok"].all()
    np.testing.assert_allclose(found["log_det"], np.linalg.slogdet(matrices)[1], **close)
    solved = np.stack([inverse @ v for inverse, v in zip(inverses, vectors, strict=True)])
    np.testing.assert_allclose(found["solved"], solved, **close)
    np.testing.assert_allclose(found["inverse"], inverses[:, pattern.rows, pattern.cols], **close)
    np.testing.assert_allclose(found["product"], matrices @ vectors[0], **close)
    np.testing.assert_allclose(found["diagonal"], np.diagonal(matrices, axis1=1, axis2=2))
    raised = matrices + np.abs(vectors)[:, :, None] * np.eye(n)
    np.testing.assert_allclose(found["more"], raised[:, pattern.rows, pattern.cols])
    # The quadratic form of coloured noise is the sum of squares of the noise.
    forms = np.einsum("ki,kij,kj->k", found["coloured"], matrices, found["coloured"])
    np.testing.assert_allclose(forms, (vectors**2).sum(axis=1), rtol=1e-10)
    assert found["bad"].tolist() == [True, False, False]


def independent(function, n=6):
    """A search over variables that are alike, in NumPy: function gives value, slope and curvature of each."""
    every = np.arange(n)
    algebra = Sparse(make_pattern(scipy_sparse.eye(n).tocsr(), n))

    def evaluate(theta, _phi):
        with np.errstate(all="ignore"):
            value, slope, curvature = function(theta)
        return value.sum(axis=1), slope, -curvature

    def search(start, most=100):
        theta = np.full((1, n), float(start)) + 0.01 * every
        state = newton.find_modes(np, evaluate, algebra, theta, np.zeros((1, 1)), n, most)
        return state.theta[0], int(state.status[0]), int(state.iterations[0])

    return search


def test_searches_end_at_the_mode():
    def quartic(t):
        return -((t - 2) ** 4) - (t - 2) ** 2, -4 * (t - 2) ** 3 - 2 * (t - 2), -12 * (t - 2) ** 2 - 2

    def counts(t):  # Newton's first step from far below the mode overflows
        return 50 * t - np.exp(t) - 0.01 * t**2, 50 - np.exp(t) - 0.02 * t, -np.exp(t) - 0.02 + 0 * t

    def heavy(t):  # not concave far out, where an undamped step would go the wrong way
        return (
            -np.log1p((t - 1) ** 2),
            -2 * (t - 1) / (1 + (t - 1) ** 2),
            -2 * (1 - (t - 1) ** 2) / (1 + (t - 1) ** 2) ** 2,
        )

    for function, mode, start in [(quartic, 2, -30), (counts, None, -5), (heavy, 1, 8)]:
        theta, status, iterations = independent(function)(start)
        assert status == newton.DONE
        assert np.abs(function(theta)[1]).max() < 1e-10
        assert iterations < 60
        if mode is not None:
            np.testing.assert_allclose(theta, mode, atol=1e-10)
    theta, status, iterations = independent(lambda t: (-0.5 * t**2, -t, -1 + 0 * t))(7)
    assert (status, iterations) == (newton.DONE, 2)


def test_searches_that_fail_say_why():
    saddle = independent(lambda t: (0.5 * (t - 0.01 * np.arange(6)) ** 2, t - 0.01 * np.arange(6), 1 + 0 * t))
    assert saddle(0)[1] == newton.INDEFINITE
    assert independent(lambda t: (np.sqrt(t), 0.5 / np.sqrt(t), -0.25 * t**-1.5))(-3)[1] == newton.NOT_FINITE
    # Without a maximum, and with one that is too far away for three evaluations.
    assert independent(lambda t: (t, 1 + 0 * t, -1e-8 + 0 * t))(0)[1] == newton.STUCK
    assert independent(lambda t: (-(t**4), -4 * t**3, -12 * t**2), 2)(50, most=3)[1] == newton.STUCK


def test_the_core_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="all of the diagonal"):
        _lib.SparseCholesky(3, np.array([0, 1]), np.array([0, 1]), True)
    one = _lib.SparseCholesky(2, np.array([0, 1, 1]), np.array([0, 0, 1]), True)
    with pytest.raises(ValueError, match="rows have 2 numbers, 3 are needed"):
        one.factor(np.ones((1, 2)))
    with pytest.raises(ValueError, match="as many rows"):
        one.factor(np.array([[2.0, 0.5, 2.0]])).solve(np.ones((2, 2)))
    with pytest.raises(ValueError, match="negative"):
        _lib.SparseCholesky(2, np.array([0, -1]), np.array([0, 1]), True)
    with pytest.raises(ValueError, match="square"):
        _lib.star_coloring(np.array([0, 1]), np.array([5]))


def groups_of(ratio, values):
    import xarray as xr

    dims = ("chain", "draw")
    coords = {"chain": [0, 1], "draw": np.arange(ratio.shape[1])}
    posterior = xr.Dataset({"x": (dims, values), "laplace_log_ratio": (dims, ratio)}, coords=coords)
    stats = xr.Dataset({"lp": (dims, -values)}, coords=coords)
    return {"posterior": posterior, "sample_stats": stats, "warmup_posterior": posterior.drop_vars("laplace_log_ratio")}


def test_draws_are_corrected_by_their_weights():
    # Draws of N(0, 1), and N(0.5, 0.8) as the truth.
    x = np.random.default_rng(0).normal(size=(2, 5000))
    ratio = 0.5 * x**2 - 0.5 * ((x - 0.5) / 0.8) ** 2 + 17
    counts = {"failed": 0, "points": 1, "evaluations": 1}
    plain = add_laplace_group(groups_of(ratio, x), counts, 3, "diagonal", correct=False)
    assert "laplace_log_ratio" not in plain["posterior"]
    np.testing.assert_array_equal(plain["posterior"]["x"], x)
    np.testing.assert_array_equal(plain["sample_stats"]["laplace_log_ratio"], ratio)
    assert plain["laplace"]["pareto_k"] < 0.5
    assert 3000 < plain["laplace"]["importance_ess"] < 9900
    fixed = add_laplace_group(groups_of(ratio, x), counts, 3, "diagonal", correct=True)
    draws = fixed["posterior"]["x"].values
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(draws.std() - 0.8) < 0.03
    assert fixed["laplace"].attrs["corrected"] == 1
    # All groups alike, chains and draws in order.
    np.testing.assert_array_equal(fixed["sample_stats"]["lp"], -draws)
    assert (fixed["sample_stats"].coords["draw"] == np.arange(5000)).all()
    np.testing.assert_array_equal(fixed["warmup_posterior"]["x"], x)


def test_blocks_are_judged_one_by_one():
    rng = np.random.default_rng(0)
    parts = 0.1 * rng.normal(size=(4, 5000, 6))
    # Weights x^-0.8 have a tail of the shape 0.8, and halves of their logarithms add up to them.
    parts[:, :, [1, 4]] = 0.5 * np.log(rng.pareto(1 / 0.8, (4, 5000, 1)) + 1)
    blocks = np.array([[0, 6], [1, 4], [2, 3], [5, 6]])
    found = judge_blocks(parts.astype(np.float32), blocks, list("abcdef"))
    (_, shapes, _), (_, worth, _) = found["latent_pareto_k"], found["latent_importance_ess"]
    assert found["latent"][1][0] == "b, e"
    assert sorted(found["latent"][1]) == ["a", "b, e", "c, d", "f"]
    assert abs(shapes[0] - 0.8) < 0.1
    assert (shapes[1:] < 0.3).all()
    # Log-normal weights of variance v are worth exp(-v) of the draws.
    alone = found["latent"][1].tolist().index("a")
    np.testing.assert_allclose(worth[alone], 20_000 * np.exp(-0.01), rtol=0.002)
    assert worth[0] < 5000
    # Only the worst of very many are reported.
    many = judge_blocks(np.tile(parts[:, :250], (1, 1, 10)), np.arange(60)[:, None], [str(i) for i in range(60)])
    assert len(many["latent"][1]) == 20
    assert {int(i) % 6 for i in many["latent"][1]} == {1, 4}


@pytest.mark.parametrize(("level", "sign"), [(-1, 1), (1, -1)])
def test_shifts_of_hyper_parameters_are_those_of_quadrature(level, sign):
    # Counts y ~ Poisson(exp(level + theta)), theta ~ N(0, exp(phi)), phi ~ N(0, 1), on a grid of phi.
    n, draws, rng = 60, 20_000, np.random.default_rng(3)
    y = rng.poisson(np.exp(level + 0.7 * rng.normal(size=n)))
    grid = np.linspace(-2.5, 2, 91)[:, None]

    def logp(theta, phi):
        return y * theta - np.exp(level + theta) - 0.5 * theta**2 * np.exp(-2 * phi) - phi

    mode = np.zeros((len(grid), n))
    for _ in range(50):
        curvature = np.exp(level + mode) + np.exp(-2 * grid)
        mode += np.clip((y - np.exp(level + mode) - mode * np.exp(-2 * grid)) / curvature, -1, 1)
    approximate = np.exp(-0.5 * grid[:, 0] ** 2 + (logp(mode, grid) - 0.5 * np.log(curvature)).sum(axis=1))
    masses = np.exp(logp(np.linspace(-12, 8, 401)[:, None, None], grid)).sum(axis=0)
    true = np.exp(-0.5 * grid[:, 0] ** 2 + np.log(masses).sum(axis=1))
    p, q = approximate / approximate.sum(), true / true.sum()
    scale = np.sqrt(p @ grid[:, 0] ** 2 - (p @ grid[:, 0]) ** 2)
    exact = (p @ grid[:, 0] - q @ grid[:, 0]) / scale

    at = rng.choice(len(grid), draws, p=p)
    noise = rng.normal(size=(draws, n))
    theta = mode[at] + noise / np.sqrt(curvature[at])
    parts = logp(theta, grid[at]) - logp(mode[at], grid[at]) + 0.5 * noise**2
    # A parameter that has nothing to do with it comes after it.
    hyper = {"other": rng.normal(size=(4, 5000, 1)), "phi": grid[at].reshape(4, 5000)}
    found = hyper_shifts(parts.reshape(4, 5000, n), np.arange(n)[:, None], hyper)
    assert found["hyper"][1].tolist() == ["phi", "other[0]"]
    shift, error = found["hyper_shift"][1], found["hyper_shift_mcse"][1]
    assert (np.abs(shift - [exact, 0]) < 4 * error).all()
    assert sign * shift[0] > 3 * error[0]


@pytest.mark.parametrize(("k", "words"), [(0.2, "small errors of many"), (1.2, "largest of a single one is 1.2")])
def test_warnings_name_the_worst_latent_variable(k, words):
    run = SimpleNamespace(pareto_k=1.5, worst_latent=("theta_3", k), worst_hyper=("scale", -0.31))
    (problem,) = find_approximation_problems(SimpleNamespace(run=run, draws=1000, chains=4))
    assert "'theta_3'" in problem.message
    assert words in problem.message
    assert ("Leave fewer" in problem.advice) == (k > 0.7)
    assert ("'scale' by -0.31" in problem.message) == (k < 0.7)


def test_weights_with_a_heavy_tail_correct_nothing():
    x = np.random.default_rng(0).normal(size=(2, 1000))
    ratio = 0.5 * x**2 - 0.5 * (x / 8) ** 2
    found = add_laplace_group(groups_of(ratio, x), {}, 3, "diagonal", correct=True)
    assert found["laplace"]["pareto_k"] > 0.7
    assert found["laplace"].attrs["corrected"] == 0
    np.testing.assert_array_equal(found["posterior"]["x"], x)
    # The tail of weights x^-k has the shape k.
    weights = np.random.default_rng(1).pareto(1 / 0.6, 40_000) + 1
    assert abs(pareto_smoothed(np.log(weights))[1] - 0.6) < 0.1
