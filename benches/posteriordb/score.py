"""How far draws are from reference draws, in standard errors; and how many independent draws they are worth.

The measures are those of the other benchmarks, in `../peers/measures.py`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))

from measures import bulk_ess, mean_error, rank_rhat, tail_ess

#: Elements that are measured at a time: memory is a few times that of their draws.
AT_ONCE = 500


@dataclass(frozen=True)
class Score:
    """Over all elements of the variables: ESS, greatest R-hat, and greatest z-scores of means and of squares.

    ESS are the least and the mean in the bulk, the least in the tails, and the least of squares about the mean.
    """

    ess_min: float
    ess_mean: float
    ess_tail_min: float
    ess_square_min: float
    rhat_max: float
    z_mean: float | None
    z_square: float | None
    worst: str
    missing: tuple[str, ...]


def score(draws: dict[str, np.ndarray], reference: dict[str, np.ndarray] | None) -> Score:
    """Score draws of shape (chains, draws) by name; those without variation are left out."""
    moving = {name: x for name, x in draws.items() if np.isfinite(x).all() and np.ptp(x) > 0}
    quality = qualities(list(in_parts(moving)))
    if reference is None:
        return Score(*quality, None, None, "", ())
    common = [name for name in reference if name in moving and np.ptp(reference[name]) > 0]
    missing = tuple(name for name in reference if name not in draws)
    if not common:
        return Score(*quality, None, None, "", missing)
    ours, theirs = ({name: draws[name] for name in common} for draws in (moving, reference))
    means = z_scores(ours, theirs)
    # Around the mean of the reference, so that the squares are of the spread and not of the place.
    squares = z_scores(*({n: (x - theirs[n].mean()) ** 2 for n, x in both.items()} for both in (ours, theirs)))
    worst = common[int(np.argmax(np.maximum(means, squares)))]
    return Score(*quality, float(means.max()), float(squares.max()), worst, missing)


def qualities(parts: list[np.ndarray]) -> tuple[float, float, float, float, float]:
    """Effective sample sizes and R-hat of arrays of shape (chains, draws, elements)."""
    if not parts:
        return (np.nan,) * 5
    bulk = np.concatenate([bulk_ess(x) for x in parts])
    tail = min(float(tail_ess(x).min()) for x in parts)
    squares = min(float(bulk_ess((x - x.mean(axis=(0, 1))) ** 2).min()) for x in parts)
    rhat = max(float(rank_rhat(x).max()) for x in parts)
    return float(bulk.min()), float(bulk.mean()), tail, squares, rhat


def in_parts(draws: dict[str, np.ndarray]):
    """Arrays of shape (chains, draws, elements), of some elements each."""
    names = list(draws)
    for first in range(0, len(names), AT_ONCE):
        yield np.stack([draws[name] for name in names[first : first + AT_ONCE]], axis=-1)


def z_scores(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> np.ndarray:
    """Difference of the averages over its standard error, which has a part of either side, without its sign."""
    (means, errors), (other_means, other_errors) = (averages(draws) for draws in (ours, theirs))
    return np.abs(means - other_means) / np.hypot(errors, other_errors)


def averages(draws: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    parts = list(in_parts(draws))
    return (
        np.concatenate([x.mean(axis=(0, 1)) for x in parts]),
        np.concatenate([mean_error(x) for x in parts]),
    )
