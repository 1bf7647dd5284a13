"""Groups of the result that tell of the warm-up: the metric at its end, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nutpie._draws import ChainDraws
from nutpie._run_data import ADAPTATION
from nutpie._tables import PARAMETER
from nutpie._warmup_checks import BAD_EIGENVALUE
from nutpie.metric import GROUP, Metric

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel
    from nutpie.plan import Plan

__all__ = ["EIGENVALUE", "SHARED", "warmup_groups"]

#: Dimension of the eigenvectors of the inverse mass matrix.
EIGENVALUE = "eigenvalue"

#: Stands in the place of the index of a chain for what chains share.
SHARED = -1


#: What makes the draws, and why, where the core had nothing to choose from.
NO_CHOICE = ("nuts", "there was no warm-up that could prepare another sampler")


class _Check(NamedTuple):
    """A look at the metric at the end of a warm-up."""

    chain: int
    draws: int
    top_eigenvalue: float
    extended: bool


class _Change(NamedTuple):
    """A change of the metric."""

    chain: int
    draw: int
    reason: str
    points: int
    stds: np.ndarray
    eigvals: np.ndarray


class _Warmup:
    """All that the core says of a warm-up."""

    def __init__(self, chains: Sequence[ChainDraws], shared: Mapping[str, Any]) -> None:
        reports = [chain.report for chain in chains if chain.report is not None]
        self.chains = [chain.chain for chain in chains]
        self.metrics = [
            Metric(*(r["metric"][name] for name in ("stds", "values", "vectors", "center"))) for r in reports
        ]
        self.planned = [int(r["tune"]) for r in reports]
        self.draws = [min(chain.made, tune) for chain, tune in zip(chains, self.planned, strict=True)]
        self.gradients = [int(r["gradients"]) for r in reports]
        self.lagging = [bool(r["lagging"]) for r in reports]
        self.shares = [bool(r["shares"]) for r in reports]
        self.fits = np.sum([r["fits"] for r in reports] + [shared.get("fits", (0, 0, 0))], axis=0)
        self.checks = [_Check(SHARED, *check) for check in shared.get("checks", ())]
        self.kernel = next((r["kernel"] for r in reports if r["kernel"] is not None), NO_CHOICE)
        self.tuned = [r["tuned"] for r in reports]
        self.tuning = [r["tuning"] for r in reports]
        self.changes: list[_Change] = []
        for chain, report in zip(self.chains, reports, strict=True):
            self.checks += [_Check(chain, *check) for check in report["checks"]]
            self._add_changes(chain, report)
        self.changes.sort(key=lambda change: change.draw)
        self.condition_numbers = self._condition_numbers()

    def _add_changes(self, chain: int, report: Mapping[str, Any]) -> None:
        """Add the changes of a chain; those that it has in common with others once."""
        known = any(change.chain == SHARED for change in self.changes)
        common = False
        for change in report["changes"]:
            common = common or (report["shares"] and change[1] == "merge")
            if not (common and known):
                self.changes.append(_Change(SHARED if common else chain, *change))

    def _condition_numbers(self) -> list[float]:
        shared: float | None = None
        found = []
        for metric, shares in zip(self.metrics, self.shares, strict=True):
            if not shares or shared is None:
                number = metric.condition_number()
                shared = number if shares else shared
            found.append(shared if shares and shared is not None else number)
        return found

    def left(self) -> list[float]:
        """Return the condition number that is left for each chain by the last check of its metric; NaN without one."""
        latest = {check.chain: check.top_eigenvalue for check in self.checks}
        # Where none share a metric, the common check is that of one for all.
        shared = latest.get(SHARED, np.nan)
        common = [shares or not any(self.shares) for shares in self.shares]
        return [
            latest.get(chain, shared if of_all else np.nan) for chain, of_all in zip(self.chains, common, strict=True)
        ]


def warmup_groups(
    model: CompiledModel, chains: Sequence[ChainDraws], plan: Plan, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the groups ``mass_matrix`` and ``adaptation``; none of them before the end of the run.

    Parameters
    ----------
    model
        Gives the names of the parameters.
    chains
        With what the core says of their warm-ups.
    plan
        What the run was asked for.
    shared
        What the core says of the warm-up that chains had in common.
    """
    reports = [chain.report for chain in chains]
    if not reports or any(report is None or not report["metric"]["stds"].size for report in reports):
        return {}
    warmup = _Warmup(chains, shared)
    names = np.asarray(model.unconstrained_names)
    return {GROUP: _metric_group(names, warmup), ADAPTATION: _adaptation_group(names, warmup, plan)}


def _described(dims: Sequence[str], values: Any, description: str) -> tuple[Sequence[str], np.ndarray, dict[str, str]]:
    return dims, np.asarray(values), {"description": description}


def _metric_group(names: np.ndarray, warmup: _Warmup) -> Any:
    import xarray as xr

    metrics, n_dim = warmup.metrics, len(names)
    rank = max(metric.rank for metric in metrics)
    # What all share is in memory once.
    different = metrics[:1] if all(warmup.shares) else metrics
    values, vectors = np.ones((len(different), rank)), np.zeros((len(different), rank, n_dim))
    for row, metric in enumerate(different):
        values[row, : metric.rank] = metric.eigvals
        vectors[row, : metric.rank] = metric.eigvecs
    values, vectors = (np.broadcast_to(a, (len(metrics), *a.shape[1:])) for a in (values, vectors))
    by_parameter = ("chain", PARAMETER)
    variables = {
        "stds": _described(by_parameter, [m.stds for m in metrics], "Diagonal of S."),
        "eigvals": _described(
            ("chain", EIGENVALUE), values, "Diagonal of L, the eigenvalues that are not 1; 1 beyond the chain's rank."
        ),
        "eigvecs": _described(
            ("chain", EIGENVALUE, PARAMETER), vectors, "Rows of U, their eigenvectors; 0 beyond the chain's rank."
        ),
        "rank": _described(("chain",), [m.rank for m in metrics], "Number of eigenvalues that are not 1."),
        "center": _described(by_parameter, [m.center for m in metrics], "Estimated centre of the distribution."),
    }
    coords = {"chain": warmup.chains, PARAMETER: names, EIGENVALUE: np.arange(rank)}
    description = (
        "Inverse mass matrix M^-1 = S (I + U^T (L - I) U) S of each chain at the end of the warm-up, on the "
        "unconstrained scale"
    )
    return xr.Dataset(variables, coords=coords, attrs={"description": description})


def _adaptation_group(names: np.ndarray, warmup: _Warmup, plan: Plan) -> Any:
    import xarray as xr

    variables = _chain_variables(warmup) | _check_variables(warmup.checks) | _change_variables(warmup.changes)
    done, rejected, skipped = (int(n) for n in warmup.fits)
    attrs = {"fits": done, "rejected_fits": rejected, "skipped_fits": skipped, "verdict": _verdict(warmup, plan)}
    if plan.hands_over:
        variables |= _kernel_variables(warmup)
        attrs |= {"sampler": plan.sampler, "kernel": warmup.kernel[0], "kernel_reason": warmup.kernel[1]}
    coords = {"chain": warmup.chains} | ({PARAMETER: names} if warmup.changes else {})
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _chain_variables(warmup: _Warmup) -> dict[str, Any]:
    by_chain = {
        "warmup_draws": (warmup.draws, "Draws of the warm-up."),
        "warmup_gradients": (warmup.gradients, "Gradients of the warm-up."),
        "lagging": (
            warmup.lagging,
            "Whether the chain's log density was far below the best at the end of the warm-up.",
        ),
        "shares_metric": (warmup.shares, "Whether the chain shares metric and points with others."),
        "condition_number": (
            warmup.condition_numbers,
            "Largest eigenvalue of the inverse mass matrix over the smallest: the condition number of the posterior "
            "without a metric, as far as this one fits.",
        ),
        "condition_number_left": (
            warmup.left(),
            "That with this metric, by the last check: the largest variance in its coordinates, from late draws. "
            f"1 is ideal, more than {BAD_EIGENVALUE:g} bad; NaN where it was not checked.",
        ),
    }
    return {name: _described(("chain",), values, text) for name, (values, text) in by_chain.items()}


def _kernel_variables(warmup: _Warmup) -> dict[str, Any]:
    if any(tuned is None for tuned in warmup.tuned):
        return {}
    length, step, transitions = zip(*warmup.tuned, strict=True)
    rounds, gradients = zip(*warmup.tuning, strict=True)
    by_chain = {
        "kernel_step_size": (step, "Largest step size of the kernel that made the draws."),
        "kernel_length": (length, "Mean length of its trajectories; 0 where they end by themselves."),
        "kernel_transitions": (transitions, "Its transitions for each draw."),
        "kernel_rounds": (rounds, "Transitions after the warm-up that tuned its step size."),
        "kernel_gradients": (gradients, "Gradients of these, which ``warmup_gradients`` counts, too."),
    }
    return {name: _described(("chain",), values, text) for name, (values, text) in by_chain.items()}


def _check_variables(checks: Sequence[_Check]) -> dict[str, Any]:
    columns = {
        "chain": (np.int64, f"Chain whose metric was checked; {SHARED} for that which chains share."),
        "draws": (np.int64, "Warm-up draws so far."),
        "top_eigenvalue": (
            np.float64,
            "Largest variance in the coordinates of the metric, as late draws and their gradients show it.",
        ),
        "extended": (np.bool_, "Whether the warm-up was extended."),
    }
    return {
        f"check_{name}": _described(("check",), np.array([getattr(c, name) for c in checks], dtype=dtype), text)
        for name, (dtype, text) in columns.items()
    }


def _change_variables(changes: Sequence[_Change]) -> dict[str, Any]:
    if not changes:
        return {}
    rank = max(len(change.eigvals) for change in changes)
    values = np.full((len(changes), rank), np.nan)
    for row, change in enumerate(changes):
        values[row, : len(change.eigvals)] = change.eigvals
    columns = {
        "chain": (np.int64, f"Chain whose metric changed; {SHARED} for that which chains share."),
        "draw": (np.int64, "Index of the warm-up draw after which it changed."),
        "reason": (
            np.str_,
            "Why: 'start' is the first one, 'window' that old draws were forgotten, 'merge' that chains joined, 'fit' "
            "that there were more draws.",
        ),
        "points": (np.int64, "Number of points that it was fitted to."),
    }
    variables = {
        f"change_{name}": _described(("change",), np.array([getattr(c, name) for c in changes], dtype=dtype), text)
        for name, (dtype, text) in columns.items()
    }
    variables["change_eigvals"] = _described(
        ("change", EIGENVALUE), values, "Eigenvalues of S^-1 M^-1 S^-1 that are not 1, then NaN."
    )
    variables["change_stds"] = _described(("change", PARAMETER), np.stack([c.stds for c in changes]), "Diagonal of S.")
    return variables


def _verdict(warmup: _Warmup, plan: Plan) -> str:
    """Say in a line how the warm-up went."""
    draws, planned = max(warmup.draws), max(warmup.planned)
    if min(made - tune for made, tune in zip(warmup.draws, warmup.planned, strict=True)) < 0:
        return f"Cut short: {min(warmup.draws)} of {planned} draws, {sum(warmup.gradients):,} gradients"
    extended = f", extended from {plan.tune}" if draws > plan.tune else ""
    known = [number for number in warmup.left() if np.isfinite(number)]
    left = max(known, default=np.nan)
    text = (
        f"{draws} draws{extended}, {sum(warmup.gradients):,} gradients; {_shape(warmup.metrics)}; condition number "
        f"{_number(max(warmup.condition_numbers))} without it"
    )
    if known:
        text += f", {_number(left)} with it"
    late = [str(chain) for chain, lags in zip(warmup.chains, warmup.lagging, strict=True) if lags]
    if late:
        text += f"; chain{'s' if len(late) > 1 else ''} {', '.join(late)} far below the best"
    judged = "Bad metric" if left > BAD_EIGENVALUE else "Doubtful" if late else "Good" if known else "Not checked"
    return f"{judged}: {text}"


def _number(value: float) -> str:
    """Write a number with two digits."""
    return f"{value:.2g}" if not 99.5 <= value < 1e6 else f"{float(f'{value:.2g}'):,.0f}"


def _shape(metrics: Sequence[Metric]) -> str:
    """Name the form of the metrics."""
    n_dim = len(metrics[0].stds)
    ranks = sorted({metric.rank for metric in metrics})
    if ranks == [0]:
        return f"diagonal metric of {n_dim} parameters"
    if ranks == [n_dim]:
        return f"dense metric of {n_dim} parameters"
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    return f"metric of {n_dim} parameters with {rank} eigenvector{'s' * (ranks != [1])}"
