"""Whether draws of a Laplace approximation can be trusted: importance weights, their tail, and resampling by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nutpie._approximation_checks import LARGEST_PARETO_K

__all__ = ["LOG_RATIO", "PARTS", "add_laplace_group", "pareto_smoothed", "pareto_weights"]

#: Statistic of a draw: logarithm of true over approximate joint density, up to a constant.
LOG_RATIO = "laplace_log_ratio"

#: The parts of it that latent variables have, for as long as a result is put together.
PARTS = "laplace_log_ratio_parts"

#: Draws below which nothing can be said of the tail of the weights.
FEWEST = 25

DESCRIPTIONS = {
    "pareto_k": "Shape of the tail of the importance weights of draws; above 0.7 the draws are not to be trusted.",
    "importance_ess": "Effective number of draws after weighting, if the draws were independent.",
    "failed": "Points at which the search for a mode of the latent variables failed, warm-up included.",
    "points": "Points at which the marginal density was evaluated, warm-up included.",
    "evaluations": "Evaluations of the joint density with gradient and Hessian by the latent variables for them.",
}


def pareto_smoothed(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Logarithms of normalised weights, smoothed by a Pareto tail, and its shape k."""
    try:
        from arviz_stats.base import array_stats

        smoothed, k = array_stats.psislw(-log_ratio)
    except ImportError:
        import arviz

        smoothed, k = arviz.psislw(log_ratio)
    return np.asarray(smoothed), float(k)


def add_laplace_group(
    groups: dict[str, Any],
    counts: Mapping[str, int],
    n_latent: int,
    structure: str,
    *,
    correct: bool,
    judge: Callable[[np.ndarray, Any], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Move the log ratios to the statistics, and add the group ``laplace``.

    Parameters
    ----------
    groups
        Groups of the result by name, as datasets.
    counts
        Of the searches for modes.
    n_latent, structure
        Number of latent variables, and structure of their Hessian.
    correct
        Whether to resample the draws.
    judge
        Makes variables of the group of the parts of the log ratios and the posterior, if these parts are told apart.

    Returns
    -------
    dict
        The groups, in the order of a result.
    """
    import xarray as xr

    groups = dict(groups)
    k, ess, weights = np.nan, np.nan, None
    singly: dict[str, Any] = {}
    posterior = groups.get("posterior")
    if posterior is not None and LOG_RATIO in posterior:
        description = "Logarithm of true over approximate density of the draw, up to a constant."
        ratio = posterior[LOG_RATIO].assign_attrs(description=description)
        groups["posterior"] = posterior.drop_vars([LOG_RATIO, PARTS], errors="ignore")
        if "sample_stats" in groups:
            groups["sample_stats"] = groups["sample_stats"].assign({LOG_RATIO: ratio})
        values = np.asarray(ratio.values, dtype=np.float64)
        if values.size >= FEWEST and np.isfinite(values).all():
            weights, k = pareto_weights(values)
            ess = float(1.0 / np.sum(weights**2))
            if judge is not None and PARTS in posterior:
                singly = judge(np.asarray(posterior[PARTS].values), posterior)
    resampled = correct and weights is not None and k <= LARGEST_PARETO_K
    if resampled:
        assert weights is not None
        groups = _resampled(groups, weights)
    found = {"pareto_k": k, "importance_ess": ess, **counts}
    variables = {name: ((), value, {"description": DESCRIPTIONS[name]}) for name, value in found.items()}
    attrs = {"structure": structure, "n_latent": n_latent, "corrected": int(resampled)}
    groups["laplace"] = xr.Dataset(variables | singly, attrs=attrs)
    return groups


def pareto_weights(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised weights of the shape of the ratios, and the shape of their tail."""
    flat = log_ratio.ravel() - log_ratio.max()
    # Of a normal distribution there is nothing but rounding, which has no tail.
    if np.ptp(flat) < 1e-6:
        return np.full(log_ratio.shape, 1.0 / flat.size), -np.inf
    smoothed, k = pareto_smoothed(flat)
    weights = np.exp(smoothed - smoothed.max())
    return (weights / weights.sum()).reshape(log_ratio.shape), k


def _resampled(groups: dict[str, Any], weights: np.ndarray) -> dict[str, Any]:
    """Repeat and leave out draws in proportion to weights, in the order that they have (systematic resampling)."""
    count = weights.size
    ends = np.cumsum(weights.ravel()) * count
    chosen = np.searchsorted(ends, np.arange(count) + 0.5).clip(0, count - 1)
    chain, draw = np.divmod(chosen, weights.shape[1])
    shape = weights.shape

    def take(dataset: Any) -> Any:
        import xarray as xr

        at = {
            "chain": xr.DataArray(chain.reshape(shape), dims=("chain", "draw")),
            "draw": xr.DataArray(draw.reshape(shape), dims=("chain", "draw")),
        }
        taken = dataset.drop_vars(["chain", "draw"], errors="ignore").isel(at)
        coords = {name: dataset[name] for name in ("chain", "draw") if name in dataset.coords}
        return taken.assign_coords(coords)

    return {name: take(dataset) if _has_draws(name, dataset, shape) else dataset for name, dataset in groups.items()}


def _has_draws(name: str, dataset: Any, shape: tuple[int, ...]) -> bool:
    sizes = dataset.sizes
    return not name.startswith("warmup_") and (sizes.get("chain"), sizes.get("draw")) == shape
