"""The inverse mass matrix that a user passes in, and the one that a result holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Metric", "metrics_for_chains"]

#: Group of a result that holds the metric of each chain at the end of the warm-up.
GROUP = "mass_matrix"


@dataclass(frozen=True)
class Metric:
    """An inverse mass matrix M^-1 = S (I + U^T (diag(values) - I) U) S on the unconstrained scale.

    Parameters
    ----------
    stds : ndarray of shape (n_dim,)
        Diagonal of S.
    values : ndarray of shape (rank,)
        Eigenvalues of S^-1 M^-1 S^-1 that are not 1.
    vectors : ndarray of shape (rank, n_dim)
        Rows of U, the eigenvectors that belong to them.
    center : ndarray of shape (n_dim,)
        Estimated centre of the distribution; for the statistic ``fisher_distance`` only.
    """

    stds: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    center: np.ndarray

    @property
    def core(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the Rust core takes."""
        return self.stds, self.values, self.vectors, self.center

    def matrix(self) -> np.ndarray:
        """Return M^-1, of shape (n_dim, n_dim)."""
        inner = np.eye(len(self.stds)) + (self.vectors.T * (self.values - 1)) @ self.vectors
        return self.stds[:, None] * inner * self.stds

    def extreme_eigenvalues(self, iterations: int = 100) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue of M^-1, by power iteration of it and of its inverse."""
        return 1 / self._largest(1 / self.stds, 1 / self.values, iterations), self._largest(
            self.stds, self.values, iterations
        )

    def _largest(self, scales: np.ndarray, values: np.ndarray, iterations: int) -> float:
        x = np.random.default_rng(0).standard_normal(len(scales))
        largest = 1.0
        for _ in range(iterations):
            x /= np.linalg.norm(x)
            x = scales * x
            x += self.vectors.T @ ((values - 1) * (self.vectors @ x))
            x *= scales
            largest = float(np.linalg.norm(x))
        return largest


def metrics_for_chains(given: Any, n_dim: int, chains: int) -> list[Metric | None]:
    """Turn the argument ``metric`` of `nutpie.sample` into a metric for each chain; None where there is none.

    Raises
    ------
    ValueError
        If shapes or numbers do not fit, saying which and what they should be.
    TypeError
        If it is none of the kinds that can be passed.
    """
    if given is None:
        return [None] * chains
    group = _group(given)
    if group is not None:
        found = [_from_group(group, chain, n_dim) for chain in range(group.sizes["chain"])]
        # As many as there are, then from the first again.
        return [found[chain % len(found)] for chain in range(chains)]
    if isinstance(given, Sequence) and not _is_numeric(given):
        if len(given) != chains:
            raise ValueError(f"metric has {len(given)} elements, but there are {chains} chains")
        return [_one(element, n_dim, f"metric[{chain}]") for chain, element in enumerate(given)]
    return [_one(given, n_dim, "metric")] * chains


def _is_numeric(given: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float | np.number) for v in given)


def _one(given: Any, n_dim: int, name: str) -> Metric:
    if isinstance(given, Metric):
        given = {"stds": given.stds, "eigvals": given.values, "eigvecs": given.vectors, "center": given.center}
    if isinstance(given, Mapping):
        return _from_mapping(given, n_dim, name)
    try:
        array = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be an earlier result, the diagonal of an inverse mass matrix, the whole matrix, or a dict with "
            f"'stds', 'eigvals' and 'eigvecs', not {type(given).__name__}"
        ) from None
    if array.shape == (n_dim,):
        _check(name, array, positive=True)
        return Metric(np.sqrt(array), np.zeros(0), np.zeros((0, n_dim)), np.zeros(n_dim))
    if array.shape == (n_dim, n_dim):
        return _from_matrix(array, name)
    raise ValueError(f"{name} must have shape ({n_dim},) or ({n_dim}, {n_dim}), not {array.shape}")


def _from_matrix(matrix: np.ndarray, name: str) -> Metric:
    _check(name, matrix)
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=0):
        raise ValueError(f"{name} must be symmetric: it is the inverse mass matrix, of which the covariance is the ideal")
    diagonal = np.diag(matrix)
    _check(f"the diagonal of {name}", diagonal, positive=True)
    stds = np.sqrt(diagonal)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / (2 * np.outer(stds, stds)))
    if values[0] <= 0:
        raise ValueError(f"{name} must be positive definite; its smallest scaled eigenvalue is {values[0]:.3g}")
    return Metric(stds, values, np.ascontiguousarray(vectors.T), np.zeros(len(stds)))


def _from_mapping(given: Mapping[str, Any], n_dim: int, name: str) -> Metric:
    unknown = set(given) - {"stds", "eigvals", "eigvecs", "center"}
    if unknown or "stds" not in given:
        raise ValueError(f"{name} must have 'stds' and may have 'eigvals', 'eigvecs' and 'center', not {sorted(given)}")
    values = np.asarray(given.get("eigvals", ()), dtype=float)
    shapes = {"stds": (n_dim,), "eigvals": values.shape[:1], "eigvecs": (*values.shape[:1], n_dim), "center": (n_dim,)}
    arrays = {}
    for key, shape in shapes.items():
        array = np.asarray(given.get(key, np.zeros(shape)), dtype=float)
        if array.shape != shape:
            raise ValueError(f"{name}[{key!r}] must have shape {shape}, not {array.shape}")
        _check(f"{name}[{key!r}]", array, positive=key in ("stds", "eigvals"))
        arrays[key] = array
    vectors = arrays["eigvecs"]
    if not np.allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-6):
        raise ValueError(f"the rows of {name}['eigvecs'] must be orthonormal")
    return Metric(arrays["stds"], arrays["eigvals"], vectors, arrays["center"])


def _check(name: str, array: np.ndarray, *, positive: bool = False) -> None:
    bad = ~np.isfinite(array) | ((array <= 0) if positive else False)
    if np.any(bad):
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must be {'positive and ' if positive else ''}finite; at {list(where)} it is {array[where]}"
        )


def _group(given: Any) -> Any | None:
    """Return the group of an earlier result that holds its metrics, or None if it is not a result."""
    if isinstance(given, Metric | Mapping | np.ndarray | Sequence) and not hasattr(given, "posterior"):
        return None
    group = getattr(given, GROUP, None)
    if group is None and hasattr(given, "posterior"):
        raise ValueError(f"metric: this result has no group {GROUP!r}; it was made by another sampler, or by an older version")
    return group


def _from_group(group: Any, chain: int, n_dim: int) -> Metric:
    one = group.isel(chain=chain)
    rank = int(one["rank"])
    return _from_mapping(
        {
            "stds": one["stds"].values,
            "eigvals": one["eigvals"].values[:rank],
            "eigvecs": one["eigvecs"].values[:rank],
            "center": one["center"].values,
        },
        n_dim,
        "metric",
    )
