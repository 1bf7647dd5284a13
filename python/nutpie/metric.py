"""The inverse mass matrix that a user passes in, and the one that a result holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nutpie._run_data import group
from nutpie._tables import PARAMETER

__all__ = ["GROUP", "Metric", "metrics_for_chains"]

#: Group of a result that holds the metric of each chain at the end of the warm-up.
GROUP = "mass_matrix"

#: Most parameters for which eigenvalues are computed from the whole matrix.
SMALL = 200

#: Eigenvalues nearer to 1 than this are 1.
NEAR_ONE = 1e-9

_KINDS = (
    "an earlier result, the diagonal of an inverse mass matrix, the whole matrix, a dict with 'stds' and perhaps "
    "'eigvals' and 'eigvecs', or a list with one of these for each chain"
)


@dataclass(frozen=True, eq=False)
class Metric:
    """An inverse mass matrix M^-1 = S (I + U^T (L - I) U) S on the unconstrained scale.

    Its ideal is the covariance of the posterior.

    Parameters
    ----------
    stds : ndarray of shape (n_dim,)
        Diagonal of S.
    eigvals : ndarray of shape (rank,)
        Diagonal of L: the eigenvalues of S^-1 M^-1 S^-1 that are not 1.
    eigvecs : ndarray of shape (rank, n_dim)
        Rows of U: the eigenvectors that belong to them.
    center : ndarray of shape (n_dim,)
        Estimated centre of the distribution. It has no influence on the draws.

    Examples
    --------
    >>> covariance = Metric.from_result(idata).matrix()
    """

    stds: np.ndarray
    eigvals: np.ndarray
    eigvecs: np.ndarray
    center: np.ndarray

    @classmethod
    def from_result(cls, result: Any, chain: int = 0) -> Metric:
        """Return the metric of a chain at the end of the warm-up.

        Parameters
        ----------
        result : arviz.InferenceData or xarray.DataTree
            What `nutpie.sample` returned.
        chain : int, default 0
            Position of the chain.

        Raises
        ------
        ValueError
            If the result has no metric.
        """
        return _of_dataset(_dataset_of(result), chain)

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are not 1."""
        return len(self.eigvals)

    @property
    def core(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the Rust core takes."""
        return self.stds, self.eigvals, self.eigvecs, self.center

    def matrix(self) -> np.ndarray:
        """Return M^-1, of shape (n_dim, n_dim)."""
        inner = np.eye(len(self.stds)) + (self.eigvecs.T * (self.eigvals - 1)) @ self.eigvecs
        return self.stds[:, None] * inner * self.stds

    def spectrum(self) -> np.ndarray:
        """Return all eigenvalues of M^-1, the largest first. The time it takes grows with the cube of n_dim."""
        root = np.eye(len(self.stds)) + (self.eigvecs.T * (np.sqrt(self.eigvals) - 1)) @ self.eigvecs
        # Singular values of a root, because the smallest eigenvalues of the matrix are lost to rounding.
        return np.square(np.linalg.svd(self.stds[:, None] * root, compute_uv=False))

    def condition_number(self) -> float:
        """Return the largest eigenvalue of M^-1 over the smallest, from 200 parameters on to two digits or so."""
        if len(self.stds) <= SMALL:
            values = self.spectrum()
            return float(values[0] / values[-1])
        return self._largest(self.stds, self.eigvals) * self._largest(1 / self.stds, 1 / self.eigvals)

    def _largest(self, scales: np.ndarray, values: np.ndarray, iterations: int = 100) -> float:
        """Return the largest eigenvalue of the matrix with these numbers by power iteration."""
        x = np.random.default_rng(0).standard_normal(len(scales))
        largest = 1.0
        for _ in range(iterations):
            x /= np.linalg.norm(x)
            x = scales * x
            x += self.eigvecs.T @ ((values - 1) * (self.eigvecs @ x))
            x *= scales
            largest = float(np.linalg.norm(x))
        return largest


def metrics_for_chains(given: Any, names: Sequence[str], chains: int) -> list[Metric | None]:
    """Turn the argument ``metric`` of `nutpie.sample` into a metric for each chain; None where there is none.

    Parameters
    ----------
    given
        What the user passed.
    names
        Names of the unconstrained parameters.
    chains
        Number of chains.

    Raises
    ------
    ValueError
        If names, shapes or numbers do not fit, saying which and what they should be.
    TypeError
        If it is none of the kinds that can be passed.
    """
    if given is None:
        return [None] * chains
    if isinstance(given, list | tuple) and not _is_numeric(given):
        if len(given) != chains:
            raise ValueError(f"metric has {len(given)} elements, but there are {chains} chains")
        return [None if one is None else _one(one, names, f"metric[{c}]", c) for c, one in enumerate(given)]
    return [_one(given, names, "metric", chain) for chain in range(chains)]


def _is_numeric(given: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float | np.number) for v in given)


def _one(given: Any, names: Sequence[str], name: str, chain: int) -> Metric:
    """Return the metric of a chain."""
    n_dim = len(names)
    if isinstance(given, Metric):
        given = {"stds": given.stds, "eigvals": given.eigvals, "eigvecs": given.eigvecs, "center": given.center}
    if _is_of_xarray(given):
        return _from_result(given, names, name, chain)
    if isinstance(given, Mapping):
        return _from_mapping(given, n_dim, name)
    try:
        array = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        array = None
    if array is None or isinstance(given, str | bytes):
        raise TypeError(f"{name} must be {_KINDS}, not {type(given).__name__}")
    if array.shape == (n_dim,):
        _check(name, array, positive=True)
        return Metric(np.sqrt(array), np.zeros(0), np.zeros((0, n_dim)), np.zeros(n_dim))
    if array.shape == (n_dim, n_dim):
        return _from_matrix(array, name)
    raise ValueError(f"{name} must have shape ({n_dim},) or ({n_dim}, {n_dim}), not {array.shape}")


def _from_matrix(matrix: np.ndarray, name: str) -> Metric:
    _check(name, matrix)
    diagonal = np.diag(matrix)
    _check(f"the diagonal of {name}", diagonal, positive=True)
    stds = np.sqrt(diagonal)
    scaled = matrix / np.outer(stds, stds)
    if not np.allclose(scaled, scaled.T, rtol=0, atol=1e-6):
        raise ValueError(
            f"{name} must be symmetric: it is the inverse mass matrix, whose ideal is the posterior covariance"
        )
    values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
    if values[0] <= 0:
        raise ValueError(f"{name} must be positive definite; its smallest scaled eigenvalue is {values[0]:.3g}")
    # Without them, a leapfrog step is cheaper.
    some = np.abs(values - 1) > NEAR_ONE
    return _usable(Metric(stds, values[some], np.ascontiguousarray(vectors.T[some]), np.zeros(len(stds))), name)


def _from_mapping(given: Mapping[str, Any], n_dim: int, name: str) -> Metric:
    unknown = set(given) - {"stds", "eigvals", "eigvecs", "center"}
    if unknown or "stds" not in given:
        raise ValueError(f"{name} must have 'stds' and may have 'eigvals', 'eigvecs' and 'center', not {sorted(given)}")
    rank = np.shape(given.get("eigvals", ()))[:1]
    shapes = {"stds": (n_dim,), "eigvals": rank, "eigvecs": (*rank, n_dim), "center": (n_dim,)}
    arrays = {}
    for key, shape in shapes.items():
        array = np.ascontiguousarray(given[key] if key in given else np.zeros(shape), dtype=float)
        if array.shape != shape:
            raise ValueError(f"{name}[{key!r}] must have shape {shape}, not {array.shape}")
        _check(f"{name}[{key!r}]", array, positive=key in ("stds", "eigvals"))
        arrays[key] = array
    vectors = arrays["eigvecs"]
    if not np.allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-6):
        raise ValueError(f"the rows of {name}['eigvecs'] must be orthonormal")
    return _usable(Metric(**arrays), name)


def _usable(metric: Metric, name: str) -> Metric:
    """Refuse what the core cannot use: eigenvalues so far apart that rounding makes the diagonal negative."""
    diagonal = 1 + (metric.eigvals - 1) @ np.square(metric.eigvecs)
    if not np.all(diagonal > 0):
        raise ValueError(f"{name} has eigenvalues too far apart: by rounding errors its diagonal is not positive")
    return metric


def _check(name: str, array: np.ndarray, *, positive: bool = False) -> None:
    bad = ~np.isfinite(array) | ((array <= 0) if positive else False)
    if np.any(bad):
        where = [int(i) for i in np.argwhere(bad)[0]]
        raise ValueError(
            f"{name} must be {'positive and ' if positive else ''}finite; at {where} it is {array[tuple(where)]}"
        )


# ------------------------------------------------------------------------------------------------- earlier results


def _is_of_xarray(given: Any) -> bool:
    """Whether it is a result, or a group of one. Not by type, because importing the types takes seconds."""
    return any(hasattr(given, name) for name in ("posterior", "data_vars", GROUP))


def _is_group(given: Any) -> bool:
    """Whether it is the group itself."""
    return {"stds", "eigvals", "eigvecs", "rank"} <= set(getattr(given, "data_vars", ()))


def _dataset_of(given: Any) -> Any:
    """Return the group with the metrics, an `xarray.Dataset`."""
    if _is_group(given):
        return given.to_dataset() if hasattr(given, "to_dataset") else given
    is_dataset = hasattr(given, "data_vars") and not hasattr(given, "children")
    found = None if is_dataset else group(given, GROUP)
    if found is None:
        raise ValueError(f"metric: this result has no group {GROUP!r}; another sampler or an older version made it")
    return found


def _from_result(given: Any, names: Sequence[str], name: str, chain: int) -> Metric:
    """Return the metric of the chain of an earlier result, from the first again where there are not as many."""
    dataset = _dataset_of(given)
    dataset = dataset.isel({PARAMETER: _order(dataset[PARAMETER].values.tolist(), names, name)})
    # Where a chain was not near the others, its metric tells little of where they are.
    lagged = _lagged(given)
    usable = [c for c in range(dataset.sizes["chain"]) if c not in lagged] or list(range(dataset.sizes["chain"]))
    own = chain % dataset.sizes["chain"]
    metric = _of_dataset(dataset, own if own in usable else usable[chain % len(usable)])
    return _from_mapping(vars(metric), len(names), name)


def _order(there: list[str], names: Sequence[str], name: str) -> np.ndarray:
    """Return where the parameters of the model are in the result."""
    at = {parameter: i for i, parameter in enumerate(there)}
    missing = [parameter for parameter in names if parameter not in at]
    if missing or len(there) != len(names):
        lacks = f"; it lacks {missing[0]!r}" if missing else ""
        raise ValueError(
            f"{name}: the earlier result has {len(there)} parameters and the model {len(names)}, not the same{lacks}"
        )
    return np.array([at[parameter] for parameter in names], dtype=int)


def _lagged(given: Any) -> set[int]:
    adaptation = None if _is_group(given) else group(given, "adaptation")
    return set() if adaptation is None else set(np.flatnonzero(adaptation["lagging"].values).tolist())


def _of_dataset(dataset: Any, chain: int) -> Metric:
    one = dataset.isel(chain=chain)
    rank = int(one["rank"])
    stds, center = (np.asarray(one[key].values, dtype=float) for key in ("stds", "center"))
    values, vectors = (np.asarray(one[key].values[:rank], dtype=float) for key in ("eigvals", "eigvecs"))
    return Metric(stds, values, vectors, center)
