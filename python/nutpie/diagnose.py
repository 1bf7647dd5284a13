"""`diagnose`: what a finished run is worth, and what to do about it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nutpie._arguments import available_cores
from nutpie._caller import levels_inside
from nutpie._case import LOG_DENSITY, Case, Problem
from nutpie._checks import FEW_DRAWS, bfmi, find_problems
from nutpie._run_data import Parameters, RunData

__all__ = ["Diagnosis", "Problem", "RunTotals", "SamplingWarning", "diagnose", "short_warning", "warn_if_needed"]

#: Parameters that the check at the end of `sample` looks at, at most.
QUICK_PARAMETERS = 150

#: Numbers that are read to find the parameters worth that look, at most, and draws of half a chain, from least to most.
SCREENED_NUMBERS, SCREENED_DRAWS = 1 << 23, (8, 20)


#: Thresholds of R-hat, of ESS for each chain and of E-BFMI.
MAX_R_HAT, MIN_ESS_PER_CHAIN, MIN_BFMI = 1.01, 100.0, 0.3


class SamplingWarning(UserWarning):
    """Something is wrong with the draws of a run; `nutpie.diagnose` says what."""


@dataclass(frozen=True)
class RunTotals:
    """What a run made and what it took.

    Parameters
    ----------
    chains, draws, tune
        Number of chains, draws of each, and warm-up draws of each (None if unknown).
    n_gradients
        Gradients, warm-up included; None if unknown.
    seconds
        Wall time of sampling, warm-up included; None if unknown.
    divergences
        Divergences after warm-up.
    bfmi
        E-BFMI of each chain.
    max_r_hat, min_ess
        The worst R-hat, and the smallest bulk or tail ESS, over parameters; NaN if there is none.
    warmup_gradients
        Gradients of the warm-up; None if unknown.
    warmup
        How the warm-up went, in a line; None if unknown.
    """

    chains: int
    draws: int
    tune: int | None
    n_gradients: int | None
    seconds: float | None
    divergences: int
    bfmi: tuple[float, ...]
    max_r_hat: float
    min_ess: float
    warmup_gradients: int | None = None
    warmup: str | None = None

    @property
    def ess_per_1000_gradients(self) -> float:
        """The smallest ESS per 1000 gradients; NaN if unknown."""
        return 1000 * self.min_ess / self.n_gradients if self.n_gradients else math.nan

    @property
    def ess_per_second(self) -> float:
        """The smallest ESS per second; NaN if unknown."""
        return self.min_ess / self.seconds if self.seconds else math.nan


class Diagnosis:
    """What `diagnose` found. Print it, or show it in a notebook.

    Attributes
    ----------
    problems : list of Problem
        The worst first.
    run : RunTotals
        What the run made and what it took.
    """

    def __init__(self, case: Case, run: RunTotals) -> None:
        self._case = case
        self.run = run
        self.problems: list[Problem] = find_problems(case)

    @property
    def ok(self) -> bool:
        """Whether there are no errors and no warnings; notes may be there."""
        return all(p.severity == "note" for p in self.problems)

    @cached_property
    def table(self) -> Any:
        """One row for each parameter, a `pandas.DataFrame`.

        The index has names such as ``theta[school=Choate]``, the columns are ``mean``, ``sd``, ``r_hat``,
        ``ess_bulk``, ``ess_tail`` and ``mcse``, the Monte Carlo error of the mean. Constants and parameters with draws
        that are not finite have NaN where there is no number.
        """
        import pandas as pd

        from nutpie._convergence import COLUMNS

        indices = self._case.parameters(np.arange(len(self._case.rows)))
        names = pd.Index([self._case.label(i) for i in indices], name="parameter", dtype=object)
        return pd.DataFrame(self._case.values[indices], index=names, columns=list(COLUMNS))

    def slowest(self, number: int = 5) -> list[tuple[str, float, float, float]]:
        """Return name, bulk ESS, tail ESS and R-hat of the parameters with the smallest ESS.

        Parameters
        ----------
        number
            How many of them.
        """
        chosen = [(int(i), self._case.values[i]) for i in self._slowest(number)]
        return [(self._case.label(i), float(v[3]), float(v[4]), float(v[2])) for i, v in chosen]

    def slowest_draws(self, number: int = 5) -> np.ndarray:
        """Return the draws of the parameters that `slowest` names, of shape (parameters, chains, draws)."""
        return self._case.take(self._slowest(number))

    def _slowest(self, number: int) -> np.ndarray:
        indices = self._case.parameters(np.flatnonzero(np.isfinite(self._case.least_ess)))
        return indices[np.argsort(self._case.least_ess[indices], kind="stable")[:number]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the table, of types that JSON knows; None where there is no number."""
        from nutpie._report import to_dict

        return to_dict(self)

    def __str__(self) -> str:
        from nutpie._report import to_text

        return to_text(self)

    def __repr__(self) -> str:
        counts = {s: sum(p.severity == s for p in self.problems) for s in ("error", "warning", "note")}
        listed = [f"{number} {severity}{'s' * (number != 1)}" for severity, number in counts.items()]
        return f"<Diagnosis: {', '.join(listed)}>"

    def _repr_html_(self) -> str:
        from nutpie._report import to_html

        return to_html(self)


def diagnose(
    result: Any,
    *,
    var_names: str | Sequence[str] | None = None,
    max_r_hat: float = MAX_R_HAT,
    min_ess_per_chain: float = MIN_ESS_PER_CHAIN,
    min_bfmi: float = MIN_BFMI,
) -> Diagnosis:
    """Check a finished run and say what is wrong with it and what to do.

    Looked for are draws that are not finite, chains that are stuck, chains that disagree, high R-hat, small effective
    sample sizes (ESS), divergences and where they are, low E-BFMI, trajectories at the depth limit, a warm-up that left
    chains behind or found no good metric, and too few draws. Parameters whose draws are all equal are left out. In runs
    with ``thin=`` E-BFMI is too high, since neighbouring draws are missing.

    R-hat and ESS are rank-normalised (Vehtari and others 2021), E-BFMI is that of Betancourt (2016). Of a run with
    ``sampler="meads"``, whose chains are many and short, R-hat is the nested one (Margossian and others 2024). They are
    not judged with fewer than 100 draws of each chain. An R-hat from the threshold to 1.1 is only a note if the half
    chains differ no more than their Monte Carlo errors explain, which happens in short runs and with many parameters.

    Parameters
    ----------
    result : arviz.InferenceData or xarray.DataTree
        What `nutpie.sample` returned; that of other samplers works as far as it has the statistics.
    var_names : str or sequence of str, optional
        The variables to look at; all by default.
    max_r_hat : float, default 1.01
        R-hat above this is a problem.
    min_ess_per_chain : float, default 100
        A bulk or tail ESS below this, times the number of chains (of superchains, where there are some), is a problem.
    min_bfmi : float, default 0.3
        E-BFMI of a chain below this is a problem.

    Returns
    -------
    Diagnosis
        ``print`` it; its attributes are ``ok``, ``problems``, ``table`` and ``run``.

    Raises
    ------
    TypeError
        If `result` is not a result.
    ValueError
        If it has no posterior or not the variables asked for, naming the nearest.

    Examples
    --------
    >>> print(nutpie.diagnose(idata))
    >>> nutpie.diagnose(idata).table.sort_values("ess_bulk").head()
    """
    run = RunData.read(result, var_names)
    case = _examine(run, np.arange(len(run.parameters)), max_r_hat, min_ess_per_chain, min_bfmi)
    return Diagnosis(case, _totals(case))


def short_warning(result: Any) -> str | None:
    """Say in one paragraph what is most wrong with a run, or return None if it is fine.

    This is the check at the end of `nutpie.sample` and meant to cost nothing beside it. Of many parameters it computes
    R-hat and ESS for 150 only: scalars, those whose half chains differ most in some of their draws, and others spread
    over the rest; and for the log density. It finds nothing in a run that was cut short, and with fewer than 100 draws
    of each chain it does not judge convergence.

    Parameters
    ----------
    result : arviz.InferenceData or xarray.DataTree
        What `nutpie.sample` returned.
    """
    run = RunData.read(result)
    case = _examine(run, _worth_a_look(run.parameters), MAX_R_HAT, MIN_ESS_PER_CHAIN, MIN_BFMI)
    found = find_problems(case)
    problems = [p for p in found if p.severity != "note"]
    if not problems or any(p.kind == "incomplete" for p in found):
        return None
    worst, *others = problems
    parts = [worst.message, worst.advice, *(p.message for p in others[:1])]
    if len(others) > 1:
        parts.append(f"There {'are' if len(others) > 2 else 'is'} {len(others) - 1} more.")
    return " ".join([*parts, "See nutpie.diagnose(result)."])


def warn_if_needed(result: Any) -> None:
    """Give what `short_warning` says as a `SamplingWarning`, in the name of the code that called this package.

    Parameters
    ----------
    result : arviz.InferenceData or xarray.DataTree
        What `nutpie.sample` is about to return.
    """
    try:
        message = short_warning(result)
    except Exception as error:
        # Hours of sampling must not be lost because of a check.
        message = f"The check of the run failed ({type(error).__name__}: {error}); the draws are not affected."
    if message is not None:
        warnings.warn(message, SamplingWarning, stacklevel=levels_inside() + 1)


def _examine(run: RunData, rows: np.ndarray, max_r_hat: float, min_ess_per_chain: float, min_bfmi: float) -> Case:
    from functools import partial

    from nutpie._convergence import summarise

    parameters = run.parameters
    judge = partial(summarise, superchains=run.superchains)
    if len(rows) == len(parameters):
        values = parameters.map(judge, threads=min(available_cores(), 8))
    else:
        values = np.concatenate([judge(parameters.take(some)) for some in np.array_split(rows, 5)])
    if "logp" in run.stats:
        rows = np.append(rows, LOG_DENSITY)
        values = np.concatenate([values, judge(run.stats["logp"][None].astype(np.float64))])
    # Chains of a superchain are short, and as good together as one long chain.
    counted = parameters.chains if run.superchains is None else int(run.superchains.max()) + 1
    return Case(run, rows, values, max_r_hat, min_ess_per_chain * counted, min_bfmi)


def _totals(case: Case) -> RunTotals:
    attrs, stats, warmup = case.run.attrs, case.run.stats, case.run.warmup
    indices = case.parameters(np.arange(len(case.rows)))
    tune, gradients, seconds = (attrs.get(name) for name in ("tuning_steps", "n_gradients", "sampling_time"))
    return RunTotals(
        chains=case.chains,
        draws=case.draws,
        tune=None if tune is None else int(tune),
        n_gradients=None if gradients is None else int(gradients),
        seconds=None if seconds is None else float(seconds),
        divergences=case.divergences,
        bfmi=tuple(float(v) for v in bfmi(stats["energy"])) if "energy" in stats else (),
        max_r_hat=float(np.fmax.reduce(case.r_hat[indices], initial=np.nan)),
        min_ess=float(np.fmin.reduce(case.least_ess[indices], initial=np.nan)),
        warmup_gradients=None if warmup is None else warmup.gradients,
        warmup=None if warmup is None else warmup.verdict,
    )


def _worth_a_look(parameters: Parameters) -> np.ndarray:
    """Rows of the parameters that are examined at the end of a run, at most `QUICK_PARAMETERS`."""
    total = len(parameters)
    if total <= QUICK_PARAMETERS or parameters.draws < FEW_DRAWS:
        return np.arange(min(total, QUICK_PARAMETERS))
    third = QUICK_PARAMETERS // 3
    scalars = [first for first, size, _ in parameters.variables() if size == 1][:third]
    rows, scores = _screen(parameters)
    suspects = rows[np.argsort(-scores, kind="stable")[:third]]
    spread = np.linspace(0, total - 1, QUICK_PARAMETERS - len(scalars) - len(suspects)).astype(int)
    return np.unique(np.concatenate([scalars, suspects, spread]).astype(int))


def _screen(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Rows and a score of each: variance of the means of half chains over the variance within, from some draws."""
    halves, length = 2 * parameters.chains, parameters.draws // 2
    count = int(np.clip(SCREENED_NUMBERS // (halves * len(parameters)), *SCREENED_DRAWS))
    step = math.ceil(halves * count * len(parameters) / SCREENED_NUMBERS)
    within = np.linspace(0, length - 1, count).astype(int)
    draws = np.concatenate([within, parameters.draws - length + within])
    rows, scores = [], []
    for first, size, variable in parameters.variables():
        values = np.asarray(variable.isel(draw=draws).values).reshape(halves, count, size)[:, :, ::step]
        with np.errstate(all="ignore"):
            # Squares of numbers around zero lose no digits.
            values = values.astype(np.float64, copy=False)
            values -= values[0, 0].copy()
            means = values.mean(axis=1)
            within_variance = np.einsum("hck,hck->k", values, values) / (halves * count) - np.square(means).mean(axis=0)
            score = means.var(axis=0) / within_variance
        # Constants have no score, and parameters that are not finite are suspects.
        finite = np.isfinite(means).all(axis=0)
        rows.append(first + step * np.arange(len(score)))
        scores.append(np.where(finite, np.nan_to_num(score), np.inf))
    return np.concatenate(rows), np.concatenate(scores)
