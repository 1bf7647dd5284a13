"""Densities with several matrices to factorise, at many points at once."""

import numpy as np
import pytest

from nutpie.models._jax_batch import BatchedDensity, precision
from nutpie.models._jax_rows import _most_at_once, over_rows

jax = pytest.importorskip("jax")

X = np.linspace(0, 3, 40)


@pytest.fixture(autouse=True)
def double():
    with precision("float64"):
        yield


def process(p):
    """Normal density with the covariance matrix of a process: each call to LAPACK needs the one before."""
    import jax.numpy as jnp

    kernel = jnp.exp(p[0]) * jnp.exp(-jnp.abs(X[:, None] - X) * jnp.exp(p[1])) + jnp.eye(len(X))
    factor = jnp.linalg.cholesky(kernel)
    white = jax.scipy.linalg.solve_triangular(factor, jnp.sin(X), lower=True)
    return -0.5 * white @ white - jnp.log(jnp.diag(factor)).sum()


def two_processes(p):
    return process(p) + process(-p)


def in_a_loop(p):
    return jax.lax.fori_loop(0, 3, lambda _, total: total + two_processes(p), 0.0)


def plain(p):
    return -0.5 * (p**2).sum()


@pytest.mark.parametrize(
    ("density", "least", "most"), [(plain, 0, 0), (process, 1, 1), (two_processes, 2, 10), (in_a_loop, 2, 10)]
)
def test_calls_that_may_be_made_at_once_are_counted(density, least, most):
    for function in (density, jax.grad(density) if density is not in_a_loop else density):
        assert least <= _most_at_once(jax.make_jaxpr(function)(np.ones(2)).jaxpr) <= most


def test_points_with_such_calls_are_computed_one_after_the_other(monkeypatch):
    monkeypatch.setattr("nutpie.models._jax_rows._threads", lambda: 2)

    def loops(density):
        program = jax.make_jaxpr(over_rows(jax.value_and_grad(density)))(np.ones((4, 2)))
        return any(equation.primitive.name == "scan" for equation in program.jaxpr.eqns)

    on_cpu = jax.default_backend() == "cpu"
    assert [loops(d) for d in (plain, process, two_processes)] == [False, False, on_cpu]


def test_batches_of_matrices_come_to_an_end():
    evaluate = BatchedDensity(jax.value_and_grad(two_processes), 2, "float64").for_run(chains=5)
    points = np.random.default_rng(1).normal(size=(5, 2))
    for _ in range(20):
        logp, gradient = evaluate(points)
    for row in range(5):
        alone, slope = evaluate(points[row : row + 1])
        np.testing.assert_allclose(logp[row], alone[0], rtol=1e-12)
        np.testing.assert_allclose(gradient[row], slope[0], rtol=1e-9, atol=1e-12)
