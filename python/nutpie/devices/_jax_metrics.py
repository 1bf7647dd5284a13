"""Metrics of chains on a device of JAX: the products that the phases need, and the arrays that these are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Couplings", "Under", "couplings_of", "power_of_two"]

#: How near to each other the columns of a triangular root may be, as in ``coupling.rs``.
LEAST_PIVOT = 1e-4


class Couplings(NamedTuple):
    """Metrics S (I + U^T (L - I) U) S of chains.

    Parameters
    ----------
    slot
        For each chain which metric is its own; -1 where that is diagonal. Of shape (chains,).
    stds
        Diagonals of S, of shape (metrics, dim).
    vectors
        U, of shape (metrics, rank, dim). Rows of zeros do nothing.
    values
        Diagonals of L, of shape (metrics, rank).
    roots
        Upper triangular R with R^T R = I + U^T (L - I) U where momenta are drawn with that; None if they never are.
    triangular
        For each metric whether they are.
    """

    slot: Any
    stds: Any
    vectors: Any
    values: Any
    roots: Any
    triangular: Any


class Under:
    """The metrics of some operations.

    Parameters
    ----------
    arrays
        Diagonals of inverse mass matrices, those to the power -1/2, and centres.
    couplings
        Those that are not diagonal, None if there are none.
    chains
        The chain of each operation.
    """

    def __init__(self, arrays: tuple[Any, Any, Any], couplings: Couplings | None, chains: Any) -> None:
        self._arrays, self._couplings, self._chains = arrays, couplings, chains

    def of(self, operations: Any) -> Under:
        """Return the metrics of some of the operations."""
        return Under(self._arrays, self._couplings, self._chains[operations])

    @property
    def center(self) -> Any:
        """Centres."""
        return self._arrays[2][self._chains]

    def _scales(self) -> tuple[Any, Any, Any]:
        """Return S where there are couplings, and which one each operation has."""
        assert self._couplings is not None
        slot = self._couplings.slot[self._chains]
        own = self._couplings.stds[jnp.maximum(slot, 0)]
        coupled = (slot >= 0)[:, None]
        return jnp.where(coupled, own, jnp.sqrt(self._arrays[0][self._chains])), coupled, jnp.maximum(slot, 0)

    def _stretch(self, v: Any, of: Callable[[Any], Any], coupled: Any, slot: Any) -> Any:
        """Return (I + U^T (F - I) U) v, F the function of the eigenvalues."""
        assert self._couplings is not None
        vectors, factors = self._couplings.vectors, of(self._couplings.values) - 1.0
        if len(vectors) == 1:
            along = jnp.matmul(v, vectors[0].T, precision="highest") * factors[0]
            more = jnp.matmul(along, vectors[0], precision="highest")
        else:
            along = jnp.einsum("nd,nrd->nr", v, vectors[slot], precision="highest") * factors[slot]
            more = jnp.einsum("nr,nrd->nd", along, vectors[slot], precision="highest")
        return v + jnp.where(coupled, more, 0.0)

    def velocity(self, p: Any) -> Any:
        """Return M^-1 p."""
        if self._couplings is None:
            return self._arrays[0][self._chains] * p
        s, *which = self._scales()
        return s * self._stretch(s * p, lambda v: v, *which)

    def whiten(self, x: Any) -> Any:
        """Return W x with W^T W = M."""
        if self._couplings is None:
            return self._arrays[1][self._chains] * x
        s, *which = self._scales()
        return self._stretch(x / s, lambda v: 1.0 / jnp.sqrt(v), *which)

    def pull(self, x: Any) -> Any:
        """Return M x."""
        if self._couplings is None:
            return self._arrays[1][self._chains] ** 2 * x
        s, *which = self._scales()
        return self._stretch(x / s, lambda v: 1.0 / v, *which) / s

    def momentum(self, z: Any) -> Any:
        """Make standard normal numbers momenta with the covariance M, as the core does."""
        if self._couplings is None:
            return self._arrays[1][self._chains] * z
        s, coupled, slot = self._scales()
        p = self._stretch(z, lambda v: 1.0 / jnp.sqrt(v), coupled, slot)
        if self._couplings.roots is not None:
            solve = jax.scipy.linalg.solve_triangular
            if len(self._couplings.roots) == 1:
                solved = solve(self._couplings.roots[0], z.T).T
            else:
                solved = jax.vmap(solve)(self._couplings.roots[slot], z)
            p = jnp.where(coupled & self._couplings.triangular[slot][:, None], solved, p)
        return p / s


def couplings_of(
    owners: dict[int, int], matrices: dict[int, tuple[np.ndarray, ...]], chains: int, dtype: np.dtype
) -> Couplings:
    """Bring metrics to a common rank, and their number to a power of two.

    Parameters
    ----------
    owners
        The key of the metric of each chain that has one which is not diagonal.
    matrices
        For each key diagonal of S, diagonal of L and U.
    chains
        Number of chains.
    dtype
        Precision of the arrays.
    """
    keys = list(matrices)
    number, rank = power_of_two(len(keys)), power_of_two(max(len(matrices[key][1]) for key in keys))
    dim = len(matrices[keys[0]][0])
    slot = np.full(chains, -1, np.int32)
    for row, key in owners.items():
        slot[row] = keys.index(key)
    stds, values = np.ones((number, dim), dtype), np.ones((number, rank), dtype)
    vectors, triangular = np.zeros((number, rank, dim), dtype), np.zeros(number, bool)
    roots: dict[int, np.ndarray] = {}
    for i, key in enumerate(keys):
        own_stds, own_values, own_vectors = matrices[key]
        stds[i], values[i, : len(own_values)], vectors[i, : len(own_values)] = own_stds, own_values, own_vectors
        root = _triangular(own_values, own_vectors)
        if root is not None:
            roots[i], triangular[i] = root, True
    together = None
    if roots:
        together = np.broadcast_to(np.eye(dim, dtype=dtype), (number, dim, dim)).copy()
        for i, root in roots.items():
            together[i] = root
    return Couplings(slot, stds, vectors, values, together, triangular)


def _triangular(values: np.ndarray, vectors: np.ndarray) -> np.ndarray | None:
    """Return R with R^T R = I + U^T (L - I) U where the core uses that: many eigenvectors, and not nearly singular."""
    rank, dim = vectors.shape
    if 2 * rank <= dim:
        return None
    matrix = np.eye(dim) + vectors.T @ ((values - 1.0)[:, None] * vectors)
    try:
        root = np.linalg.cholesky(matrix).T
    except np.linalg.LinAlgError:
        return None
    return root if (np.diag(root) > LEAST_PIVOT * np.sqrt(np.diag(matrix))).all() else None


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()
