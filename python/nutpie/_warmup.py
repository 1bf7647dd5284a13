"""Groups of the result that tell of the warm-up: the metric at its end, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie._draws import ChainDraws
from nutpie._tables import PARAMETER
from nutpie.metric import GROUP, Metric

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel
    from nutpie.plan import Plan

__all__ = ["warmup_groups"]

#: Above this, the largest variance of late warm-up draws in the coordinates of the metric means that the metric is bad.
BAD_EIGENVALUE = 9.0

#: Dimension of the eigenvectors of the inverse mass matrix.
EIGENVALUE = "eigenvalue"


def warmup_groups(
    model: CompiledModel, chains: Sequence[ChainDraws], plan: Plan, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the groups ``mass_matrix`` and ``adaptation``; none of them before the end of the run."""
    reports = [chain.report for chain in chains]
    if any(report is None or not report["metric"]["stds"].size for report in reports) or not reports:
        return {}
    found: list[Mapping[str, Any]] = [report for report in reports if report is not None]
    metrics = [Metric(*(r["metric"][name] for name in ("stds", "values", "vectors", "center"))) for r in found]
    names = [chain.chain for chain in chains]
    return {
        GROUP: _metric_group(model, names, metrics),
        "adaptation": _adaptation_group(model, names, metrics, found, plan, shared),
    }


def _described(dims: Sequence[str], values: Any, description: str) -> tuple[Sequence[str], np.ndarray, dict[str, str]]:
    return dims, np.asarray(values), {"description": description}


def _metric_group(model: CompiledModel, chains: Sequence[int], metrics: Sequence[Metric]) -> Any:
    import xarray as xr

    rank, n_dim = max(len(m.values) for m in metrics), len(metrics[0].stds)
    values, vectors = np.ones((len(metrics), rank)), np.zeros((len(metrics), rank, n_dim))
    for row, metric in enumerate(metrics):
        values[row, : len(metric.values)] = metric.values
        vectors[row, : len(metric.values)] = metric.vectors
    by_parameter = ("chain", PARAMETER)
    variables = {
        "stds": _described(by_parameter, [m.stds for m in metrics], "Diagonal of S in M^-1 = S (I + U^T (L - I) U) S."),
        "eigvals": _described(("chain", EIGENVALUE), values, "Diagonal of L; 1 beyond the chain's rank."),
        "eigvecs": _described(
            ("chain", EIGENVALUE, PARAMETER), vectors, "Rows of U, the eigenvectors; 0 beyond the chain's rank."
        ),
        "rank": _described(("chain",), [len(m.values) for m in metrics], "Number of eigenvalues that are not 1."),
        "center": _described(by_parameter, [m.center for m in metrics], "Estimated centre of the distribution."),
    }
    coords = {"chain": list(chains), PARAMETER: np.asarray(model.unconstrained_names), EIGENVALUE: np.arange(rank)}
    return xr.Dataset(variables, coords=coords)


def _adaptation_group(
    model: CompiledModel,
    chains: Sequence[int],
    metrics: Sequence[Metric],
    reports: Sequence[Mapping[str, Any]],
    plan: Plan,
    shared: Mapping[str, Any],
) -> Any:
    import xarray as xr

    lagging = [bool(report["lagging"]) for report in reports]
    extremes = [metric.extreme_eigenvalues() for metric in metrics]
    variables = {
        "warmup_draws": _described(("chain",), [r["tune"] for r in reports], "Draws of the warm-up."),
        "warmup_gradients": _described(("chain",), [r["gradients"] for r in reports], "Gradients of the warm-up."),
        "lagging": _described(("chain",), lagging, "Whether the chain was far below the others at the end."),
        "shares_metric": _described(
            ("chain",), [bool(r["shares"]) for r in reports], "Whether the chain shares metric and step size with others."
        ),
        "condition_number": _described(
            ("chain",),
            [high / low for low, high in extremes],
            "Largest eigenvalue of the inverse mass matrix over the smallest: the condition number that the unconstrained "
            "posterior would have without a metric, as far as this one fits.",
        ),
    }
    checks = [(-1, *check) for check in shared.get("checks", ())]
    checks += [(chain, *check) for chain, report in zip(chains, reports, strict=True) for check in report["checks"]]
    variables |= _check_variables(checks)
    variables |= _change_variables(chains, reports, keep_stds=bool(plan.keep.get("metric")))
    coords: dict[str, Any] = {"chain": list(chains)}
    if plan.keep.get("metric"):
        coords[PARAMETER] = np.asarray(model.unconstrained_names)
    fits = np.sum([report["fits"] for report in reports] + [shared.get("fits", (0, 0, 0))], axis=0)
    attrs = {"fits": int(fits[0]), "rejected_fits": int(fits[1]), "skipped_fits": int(fits[2])}
    attrs["verdict"] = _verdict(chains, metrics, reports, checks)
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _check_variables(checks: Sequence[tuple[int, int, float, bool]]) -> dict[str, Any]:
    columns = list(zip(*checks, strict=True)) if checks else [(), (), (), ()]
    dims, dtypes = ("check",), (np.int64, np.int64, np.float64, np.bool_)
    chain, draws, top, extended = (np.array(c, dtype=t) for c, t in zip(columns, dtypes, strict=True))
    return {
        "check_chain": _described(dims, chain, "Chain whose metric was checked; -1 for that which chains share."),
        "check_draws": _described(dims, draws, "Warm-up draws so far."),
        "check_top_eigenvalue": _described(
            dims,
            top,
            "Largest variance of late warm-up draws in the coordinates of the metric, the condition number that is left. "
            f"1 is ideal, more than {BAD_EIGENVALUE:g} bad.",
        ),
        "check_extended": _described(dims, extended, "Whether the warm-up was extended."),
    }


def _change_variables(
    chains: Sequence[int], reports: Sequence[Mapping[str, Any]], *, keep_stds: bool
) -> dict[str, Any]:
    rows = [(chain, *change) for chain, report in zip(chains, reports, strict=True) for change in report["changes"]]
    rank = max((len(row[5]) for row in rows), default=0)
    values = np.full((len(rows), rank), np.nan)
    for at, row in enumerate(rows):
        values[at, : len(row[5])] = row[5]
    dims = ("change",)
    variables = {
        "change_chain": _described(dims, np.array([row[0] for row in rows], dtype=np.int64), "Index of the chain."),
        "change_draw": _described(dims, np.array([row[1] for row in rows], dtype=np.int64), "Warm-up draw after which."),
        "change_reason": _described(dims, np.array([row[2] for row in rows], dtype=np.str_), "Why the metric changed."),
        "change_points": _described(
            dims, np.array([row[3] for row in rows], dtype=np.int64), "Points that it was fitted to."
        ),
        "change_eigvals": _described((*dims, EIGENVALUE), values, "Its eigenvalues that are not 1, then NaN."),
    }
    if keep_stds and rows:
        stds = np.stack([row[4] for row in rows])
        variables["change_stds"] = _described((*dims, PARAMETER), stds, "Its scales.")
    return variables


def _verdict(
    chains: Sequence[int],
    metrics: Sequence[Metric],
    reports: Sequence[Mapping[str, Any]],
    checks: Sequence[tuple[int, int, float, bool]],
) -> str:
    """Say in a line how the warm-up went."""
    ranks = sorted({len(metric.values) for metric in metrics})
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    gradients = sum(report["gradients"] for report in reports)
    tune = max(report["tune"] for report in reports)
    n_dim = len(metrics[0].stds)
    text = f"{tune} draws and {gradients} gradients; inverse mass matrix of {n_dim} parameters with {rank} eigenvectors"
    latest = {chain: top for chain, _, top, _ in checks}
    if latest:
        worst = max(latest.values())
        judged = "bad" if worst > BAD_EIGENVALUE else "good"
        text += f"; the metric is {judged}, the condition number that is left is {worst:.3g}"
    stuck = [str(chain) for chain, report in zip(chains, reports, strict=True) if report["lagging"]]
    if stuck:
        text += f"; chain{'s' if len(stuck) > 1 else ''} {', '.join(stuck)} far below the others"
    return text
