"""Densities with several matrices to factorise, at many points at once."""

import os

import numpy as np
import pytest

from nutpie.models import _jax_rows
from nutpie.models._jax_batch import (
    SINGLE_WORK,
    SMALL_CONSTANT,
    BatchedDensity,
    precision,
    prompt_device,
    sequential_options,
    trace,
)
from nutpie.models._jax_cost import largest_result, most_lapack_calls, work
from nutpie.models._jax_rows import _block, over_rows

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
        assert least <= most_lapack_calls(jax.make_jaxpr(function)(np.ones(2)).jaxpr) <= most


def test_points_with_such_calls_are_computed_one_after_the_other(monkeypatch):
    monkeypatch.setattr("nutpie.models._jax_rows._threads", lambda: 2)

    def loops(density, single):
        program = jax.make_jaxpr(over_rows(jax.value_and_grad(density), single=single))(np.ones((4, 2)))
        return any(equation.primitive.name == "scan" for equation in program.jaxpr.eqns)

    on_cpu = jax.default_backend() == "cpu"
    assert [loops(d, single=False) for d in (plain, process, two_processes)] == [False, False, on_cpu]
    # A single thread does not wait.
    assert not loops(two_processes, single=True)


@pytest.mark.parametrize("prompt", [True, False])
def test_batches_of_matrices_come_to_an_end(monkeypatch, prompt):
    if not prompt:
        monkeypatch.setattr("nutpie.models._jax_batch.prompt_device", lambda *, single: None)
    density = BatchedDensity(jax.value_and_grad(lambda p: two_processes(p) + two_processes(2 * p)), 2, "float64")
    evaluate = density.for_run(chains=64)
    points = np.random.default_rng(1).normal(size=(64, 2))
    for _ in range(20):
        logp, gradient = evaluate(points)
    for row in range(0, 64, 9):
        alone, slope = evaluate(points[row : row + 1])
        np.testing.assert_allclose(logp[row], alone[0], rtol=1e-12)
        np.testing.assert_allclose(gradient[row], slope[0], rtol=1e-9, atol=1e-12)


def regression(slopes):
    import jax.numpy as jnp

    return -0.5 * jnp.sum((jnp.sin(X) - X[:, None] ** jnp.arange(3) @ slopes) ** 2)


@pytest.mark.parametrize("rows", [31, 32, 64, 77])
def test_blocks_of_points_are_the_points(monkeypatch, rows):
    monkeypatch.setattr("nutpie.models._jax_rows.LARGEST_BLOCK", 16)
    function = jax.value_and_grad(regression)
    points = np.random.default_rng(rows).normal(size=(rows, 3))
    program = jax.make_jaxpr(over_rows(function))(points)
    in_blocks = any(equation.primitive.name == "scan" for equation in program.jaxpr.eqns)
    assert in_blocks == (rows >= 32 and jax.default_backend() == "cpu")
    logp, gradient = jax.jit(over_rows(function))(points)
    for row, point in enumerate(points):
        value, slope = function(point)
        np.testing.assert_allclose(logp[row], value, rtol=1e-12)
        np.testing.assert_allclose(gradient[row], slope, rtol=1e-10, atol=1e-12)


def test_sizes_of_blocks():
    largest = largest_result(
        jax.make_jaxpr(jax.value_and_grad(lambda x: regression(x) + in_a_loop(x[:2])))(np.ones(3)).jaxpr
    )
    assert largest == 8 * len(X) ** 2
    fits = _jax_rows.BLOCK_MEMORY // 100
    assert [_block(fits, 1), _block(fits, 2), _block(fits - 1, 4)] == [64, 128, 256]
    assert [_block(0, 1), _block(10**9, 1)] == [_jax_rows.LARGEST_BLOCK, _jax_rows.SMALLEST_BLOCK]


def test_small_arrays_are_constants_of_the_program():
    import jax.numpy as jnp

    small, large = np.ones(SMALL_CONSTANT), jnp.full(SMALL_CONSTANT + 1, 2.0)
    key = jax.random.key(0)

    def function(x):
        return x * (jnp.asarray(small).sum() + large[3]) + jax.random.uniform(key)

    calls, arguments = trace(function, "float64", np.ones(1))
    assert [a.shape for a in arguments] == [large.shape, key.shape]
    expected = SMALL_CONSTANT + 2 + jax.random.uniform(key)
    np.testing.assert_allclose(jax.jit(calls)(arguments, np.ones(1)), [expected])
    # They are copies.
    small[:] = 0.0
    np.testing.assert_allclose(jax.jit(calls)(arguments, np.ones(1)), [expected])


def test_work_is_counted():
    def count(function, *arguments):
        return work(jax.make_jaxpr(function)(*arguments).jaxpr)

    a = np.ones((5, 7))
    assert count(lambda x: x + 1.0, a) == 35
    assert count(lambda x: x.sum(), a) == 35
    assert count(lambda x: x @ x.T, a) == 35 + 5 * 5 * 7
    assert count(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + 1.0, x), a) >= 3 * 35
    assert count(lambda x: jax.numpy.linalg.cholesky(x @ x.T), a) >= 35 + 5 * 5 * 7 + 5 * 5 * 5


def test_small_calls_are_made_by_one_thread():
    if jax.default_backend() != "cpu":
        pytest.skip("JAX is not on the CPU")
    density = BatchedDensity(jax.value_and_grad(regression), 3, "float64")
    one = work(jax.make_jaxpr(jax.value_and_grad(regression))(np.ones(3)).jaxpr)
    few, many = (SINGLE_WORK // one + more for more in (0, 1))
    points = np.random.default_rng(2).normal(size=(40, 3))
    found = [density.for_run(chains=chains)(points)[1] for chains in (few, many)]
    np.testing.assert_allclose(*found, rtol=1e-12)
    assert [*density._placed] == [prompt_device(single=True), prompt_device(single=False)]
    assert prompt_device(single=False) is not prompt_device(single=True)
    assert "PJRT_NPROC" not in os.environ


def test_an_unknown_option_of_the_compiler_is_left_out(monkeypatch):
    def refuses(*_arguments, **options):
        raise ValueError(f"no such options: {options}")

    sequential_options.cache_clear()
    monkeypatch.setattr(jax, "jit", refuses)
    try:
        assert sequential_options() == {}
    finally:
        sequential_options.cache_clear()


@pytest.mark.parametrize(("function", "single"), [(process, False), (two_processes, True)])
def test_one_thread_computes_what_several_would_wait_for(monkeypatch, function, single):
    if jax.default_backend() != "cpu":
        pytest.skip("JAX is not on the CPU")
    monkeypatch.setattr("nutpie.models._jax_rows._threads", lambda: 2)
    monkeypatch.setattr("nutpie.models._jax_batch.SINGLE_WORK", 0)
    density = BatchedDensity(jax.value_and_grad(function), 2, "float64")
    logp, gradient = density.for_run(chains=3)(np.full((3, 2), 0.1))
    assert [*density._placed] == [prompt_device(single=single)]
    expected, slope = jax.value_and_grad(function)(np.full(2, 0.1))
    np.testing.assert_allclose(logp, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, [slope] * 3, rtol=1e-9)
