"""Cholesky factors of Hessians with a known pattern, several at a time.

Each class does the same for another kind of `Pattern`. Entries are those of the pattern, in an array of shape
(k, entries) for k matrices. Those with ``compiled`` are functions of JAX, to be used inside of compiled functions;
`Sparse` works on NumPy arrays, because JAX has no sparse factorisation. Where a matrix is not positive definite, ``ok``
is false and all else is of no meaning.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from nutpie import _lib
from nutpie.models._laplace_pattern import Pattern

__all__ = ["Algebra", "algebra_for"]


class Algebra(Protocol):
    """Factorises matrices of a pattern."""

    #: Whether this is for use inside of compiled functions.
    compiled: bool

    def factor(self, entries: Any) -> Any:
        """Factorise, for the other functions."""

    def ok(self, factor: Any) -> Any:
        """Whether each matrix is positive definite, of shape (k,)."""

    def log_det(self, factor: Any) -> Any:
        """Logarithms of the determinants, of shape (k,)."""

    def solve(self, factor: Any, rhs: Any) -> Any:
        """Solve for right-hand sides of shape (k, n)."""

    def inverse(self, factor: Any) -> Any:
        """Entries of the inverse matrices on the pattern, of shape (k, entries)."""

    def color(self, factor: Any, noise: Any) -> Any:
        """Turn standard normal numbers (k, n) into normal ones whose covariances are the inverse matrices."""

    def diagonal(self, entries: Any) -> Any:
        """Diagonals, of shape (k, n)."""

    def add_diagonal(self, entries: Any, more: Any) -> Any:
        """Entries with ``more``, of shape (k, n), added to the diagonal."""

    def multiply(self, entries: Any, vector: Any) -> Any:
        """Products with one vector of shape (n,), of shape (k, n)."""


def algebra_for(pattern: Pattern) -> Algebra:
    """Return the algebra of a pattern."""
    if pattern.kind == "diagonal":
        return Diagonal()
    if pattern.kind == "blocks":
        return Blocks(pattern)
    return Dense(pattern) if pattern.kind == "dense" else Sparse(pattern)


def _diagonal_entries(pattern: Pattern) -> np.ndarray:
    """Where the diagonal lies among the entries, in the order of the rows."""
    where = np.flatnonzero(pattern.rows == pattern.cols)
    return where[np.argsort(pattern.rows[where])]


class Diagonal:
    """Variables that do not depend on each other."""

    compiled = True

    def factor(self, entries: Any) -> Any:
        return entries

    def ok(self, factor: Any) -> Any:
        import jax.numpy as jnp

        return jnp.all((factor > 0) & jnp.isfinite(factor), axis=1)

    def log_det(self, factor: Any) -> Any:
        import jax.numpy as jnp

        return jnp.sum(jnp.log(factor), axis=1)

    def solve(self, factor: Any, rhs: Any) -> Any:
        return rhs / factor

    def inverse(self, factor: Any) -> Any:
        return 1.0 / factor

    def color(self, factor: Any, noise: Any) -> Any:
        import jax.numpy as jnp

        return noise / jnp.sqrt(factor)

    def diagonal(self, entries: Any) -> Any:
        return entries

    def add_diagonal(self, entries: Any, more: Any) -> Any:
        return entries + more

    def multiply(self, entries: Any, vector: Any) -> Any:
        return entries * vector


class Blocks:
    """Small blocks: each step of the factorisation is one vector operation over all of them."""

    compiled = True

    def __init__(self, pattern: Pattern) -> None:
        assert pattern.blocks is not None
        self._blocks = pattern.blocks
        count, self._width = pattern.blocks.shape
        self._rows, self._cols = pattern.rows, pattern.cols
        self._diagonal = _diagonal_entries(pattern)
        i, j = np.tril_indices(self._width)
        at = {pair: e for e, pair in enumerate(zip(pattern.rows.tolist(), pattern.cols.tolist(), strict=True))}
        n_entries = len(pattern.rows)
        # Two constants follow the entries: 0, and 1 for the diagonal of rows that only fill up a block.
        self._take = np.array(
            [
                [at.get((int(b[r]), int(b[c])), n_entries + (r == c)) for b in pattern.blocks]
                for r, c in zip(i, j, strict=True)
            ]
        ).reshape(len(i), count)
        self._give = np.empty(n_entries, np.int64)
        flat = self._take.ravel()
        self._give[flat[flat < n_entries]] = np.flatnonzero(flat < n_entries)
        self._scatter = np.argsort(pattern.blocks.ravel(), kind="stable")[: pattern.size]
        self._triangle = {(int(r), int(c)): e for e, (r, c) in enumerate(zip(i, j, strict=True))}

    def factor(self, entries: Any) -> Any:
        import jax.numpy as jnp

        constants = jnp.broadcast_to(jnp.array([0.0, 1.0]), (entries.shape[0], 2))
        parts = jnp.concatenate([entries, constants], axis=1)[:, self._take]
        lower: dict[tuple[int, int], Any] = {}
        for j in range(self._width):
            for i in range(j, self._width):
                value = parts[:, self._triangle[i, j]] - sum(lower[i, k] * lower[j, k] for k in range(j))
                lower[i, j] = jnp.sqrt(value) if i == j else value / lower[j, j]
        return jnp.stack([lower[pair] for pair in self._triangle], axis=1)

    def _lower(self, factor: Any) -> dict[tuple[int, int], Any]:
        return {pair: factor[:, e] for pair, e in self._triangle.items()}

    def _pivots(self, factor: Any) -> Any:
        return factor[:, np.array([self._triangle[i, i] for i in range(self._width)])]

    def ok(self, factor: Any) -> Any:
        import jax.numpy as jnp

        # The square root of what is not positive is NaN or 0.
        pivots = self._pivots(factor)
        return jnp.all((pivots > 0) & jnp.isfinite(pivots), axis=(1, 2))

    def log_det(self, factor: Any) -> Any:
        import jax.numpy as jnp

        return 2.0 * jnp.sum(jnp.log(self._pivots(factor)), axis=(1, 2))

    def _split(self, vectors: Any) -> list[Any]:
        import jax.numpy as jnp

        padded = jnp.concatenate([vectors, jnp.zeros((vectors.shape[0], 1))], axis=1)
        return [padded[:, self._blocks[:, place]] for place in range(self._width)]

    def _join(self, parts: list[Any]) -> Any:
        import jax.numpy as jnp

        return jnp.stack(parts, axis=2).reshape(parts[0].shape[0], -1)[:, self._scatter]

    def _forward(self, lower: dict[tuple[int, int], Any], x: list[Any]) -> list[Any]:
        for i in range(self._width):
            x[i] = (x[i] - sum(lower[i, k] * x[k] for k in range(i))) / lower[i, i]
        return x

    def _backward(self, lower: dict[tuple[int, int], Any], x: list[Any]) -> list[Any]:
        for i in reversed(range(self._width)):
            x[i] = (x[i] - sum(lower[k, i] * x[k] for k in range(i + 1, self._width))) / lower[i, i]
        return x

    def solve(self, factor: Any, rhs: Any) -> Any:
        lower = self._lower(factor)
        return self._join(self._backward(lower, self._forward(lower, self._split(rhs))))

    def inverse(self, factor: Any) -> Any:
        import jax.numpy as jnp

        lower = self._lower(factor)
        one, zero = jnp.ones_like(lower[0, 0]), jnp.zeros_like(lower[0, 0])
        columns = [
            self._backward(lower, self._forward(lower, [one if i == j else zero for i in range(self._width)]))
            for j in range(self._width)
        ]
        found = jnp.stack([columns[j][i] for i, j in self._triangle], axis=1)
        return found.reshape(found.shape[0], -1)[:, self._give]

    def color(self, factor: Any, noise: Any) -> Any:
        return self._join(self._backward(self._lower(factor), self._split(noise)))

    def diagonal(self, entries: Any) -> Any:
        return entries[:, self._diagonal]

    def add_diagonal(self, entries: Any, more: Any) -> Any:
        return entries.at[:, self._diagonal].add(more)

    def multiply(self, entries: Any, vector: Any) -> Any:
        import jax.numpy as jnp

        off = self._rows != self._cols
        found = jnp.zeros((entries.shape[0], len(vector))).at[:, self._rows].add(entries * vector[self._cols])
        return found.at[:, self._cols[off]].add(entries[:, off] * vector[self._rows[off]])


class Dense:
    """A full matrix; several are factorised one after the other, see `Compiled` of `_laplace_functions`."""

    compiled = True

    def __init__(self, pattern: Pattern) -> None:
        self._size = pattern.size
        self._diagonal = _diagonal_entries(pattern)
        self._full = np.empty((pattern.size, pattern.size), np.int64)
        every = np.arange(len(pattern.rows))
        self._full[pattern.rows, pattern.cols] = every
        self._full[pattern.cols, pattern.rows] = every
        self._rows, self._cols = pattern.rows, pattern.cols

    def factor(self, entries: Any) -> Any:
        import jax

        def one(entries: Any) -> Any:
            return jax.numpy.linalg.cholesky(entries[self._full], symmetrize_input=False)

        return jax.lax.map(one, entries)

    def _pivots(self, factor: Any) -> Any:
        import jax.numpy as jnp

        return jnp.diagonal(factor, axis1=1, axis2=2)

    def ok(self, factor: Any) -> Any:
        import jax.numpy as jnp

        pivots = self._pivots(factor)
        return jnp.all((pivots > 0) & jnp.isfinite(pivots), axis=1)

    def log_det(self, factor: Any) -> Any:
        import jax.numpy as jnp

        return 2.0 * jnp.sum(jnp.log(self._pivots(factor)), axis=1)

    def _triangular(self, factor: Any, rhs: Any, *, transposed: bool) -> Any:
        import jax
        from jax.lax.linalg import triangular_solve

        def one(both: tuple[Any, Any]) -> Any:
            return triangular_solve(*both, left_side=True, lower=True, transpose_a=transposed)

        return jax.lax.map(one, (factor, rhs))

    def solve(self, factor: Any, rhs: Any) -> Any:
        half = self._triangular(factor, rhs[:, :, None], transposed=False)
        return self._triangular(factor, half, transposed=True)[:, :, 0]

    def inverse(self, factor: Any) -> Any:
        import jax.numpy as jnp

        eye = jnp.broadcast_to(jnp.eye(self._size), factor.shape)
        half = self._triangular(factor, eye, transposed=False)
        return self._triangular(factor, half, transposed=True)[:, self._rows, self._cols]

    def color(self, factor: Any, noise: Any) -> Any:
        return self._triangular(factor, noise[:, :, None], transposed=True)[:, :, 0]

    def diagonal(self, entries: Any) -> Any:
        return entries[:, self._diagonal]

    def add_diagonal(self, entries: Any, more: Any) -> Any:
        return entries.at[:, self._diagonal].add(more)

    def multiply(self, entries: Any, vector: Any) -> Any:
        return entries[:, self._full] @ vector


class Sparse:
    """Sparse matrices, banded ones among them, in the compiled core."""

    compiled = False

    def __init__(self, pattern: Pattern) -> None:
        self._rows, self._cols = pattern.rows, pattern.cols
        self._diagonal = _diagonal_entries(pattern)
        self._analysed = _lib.SparseCholesky(pattern.size, pattern.rows, pattern.cols, pattern.kind != "banded")

    def factor(self, entries: Any) -> _lib.SparseFactors:
        return self._analysed.factor(np.ascontiguousarray(entries))

    def ok(self, factor: _lib.SparseFactors) -> np.ndarray:
        return factor.ok()

    def log_det(self, factor: _lib.SparseFactors) -> np.ndarray:
        return factor.log_det()

    def solve(self, factor: _lib.SparseFactors, rhs: Any) -> np.ndarray:
        return factor.solve(np.ascontiguousarray(rhs))

    def inverse(self, factor: _lib.SparseFactors) -> np.ndarray:
        return factor.inverse()

    def color(self, factor: _lib.SparseFactors, noise: Any) -> np.ndarray:
        return factor.color(np.ascontiguousarray(noise))

    def diagonal(self, entries: Any) -> np.ndarray:
        found: np.ndarray = entries[:, self._diagonal]
        return found

    def add_diagonal(self, entries: Any, more: Any) -> np.ndarray:
        if not more.any():
            return np.asarray(entries)
        found = np.array(entries)
        found[:, self._diagonal] += more
        return found

    def multiply(self, entries: Any, vector: Any) -> np.ndarray:
        size, off = len(vector), self._rows != self._cols
        return np.stack(
            [
                np.bincount(self._rows, row * vector[self._cols], size)
                + np.bincount(self._cols[off], row[off] * vector[self._rows[off]], size)
                for row in np.asarray(entries)
            ]
        )
