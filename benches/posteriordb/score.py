"""How far draws are from reference draws, in standard errors; and how many independent draws they are worth."""

from __future__ import annotations

from dataclasses import dataclass

import arviz
import numpy as np


@dataclass(frozen=True)
class Score:
    """Over all elements of the variables: least ESS, greatest R-hat, and greatest z-scores of means and of squares."""

    ess_min: float
    rhat_max: float
    z_mean: float | None
    z_square: float | None
    worst: str
    missing: tuple[str, ...]


def score(draws: dict[str, np.ndarray], reference: dict[str, np.ndarray] | None) -> Score:
    """Score draws of shape (chains, draws) by name; those without variation are left out."""
    moving = {name: x for name, x in draws.items() if np.isfinite(x).all() and np.ptp(x) > 0}
    ess = [ess_of(x) for x in moving.values()]
    rhat = [float(arviz.rhat(x, method="rank")) for x in moving.values()]
    low, high = min(ess, default=np.nan), max(rhat, default=np.nan)
    if reference is None:
        return Score(low, high, None, None, "", ())
    common = [name for name in reference if name in moving and np.ptp(reference[name]) > 0]
    means = {name: z_score(moving[name], reference[name]) for name in common}
    # Around the mean of the reference, so that the squares are of the spread and not of the place.
    centres = {name: reference[name].mean() for name in common}
    squares = {name: z_score((moving[name] - c) ** 2, (reference[name] - c) ** 2) for name, c in centres.items()}
    missing = tuple(name for name in reference if name not in draws)
    if not common:
        return Score(low, high, None, None, "", missing)
    worst = max(common, key=lambda name: max(abs(means[name]), abs(squares[name])))
    return Score(low, high, max(map(abs, means.values())), max(map(abs, squares.values())), worst, missing)


def z_score(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Difference of the averages over its standard error, which has a part of either side."""
    errors = [x.std() / np.sqrt(ess_of(x)) for x in (ours, theirs)]
    return float((ours.mean() - theirs.mean()) / np.hypot(*errors))


def ess_of(x: np.ndarray) -> float:
    """Effective sample size of an average."""
    return float(arviz.ess(x, method="mean"))
