"""Whether a gradient is that of its log density."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie.models._names import unknown_name
from nutpie.models._values import not_finite

if TYPE_CHECKING:
    from nutpie.models.base import BatchDensity, CompiledModel, Density

__all__ = ["GradientCheck", "GradientMismatch", "check_gradient"]

#: Steps of the differences, relative to the size of a coordinate. Others are tried only where the first one disagrees:
#: smaller ones for densities that bend strongly, larger ones for densities in single precision.
STEPS = (1e-5, 1.3e-6, 1.1e-4, 0.9e-3, 0.7e-2)

#: Differences by two steps agree if they are this much nearer to each other than to the gradient.
AGREEMENT = 0.1

#: Up to so many parameters are looked at one by one; with more, random directions are, until one is wrong.
SINGLY = 64
DIRECTIONS = 8

#: Parameters that a search in directions finds, and that a message lists, at most.
MOST_FOUND = 5


@dataclass(frozen=True)
class GradientMismatch:
    """A parameter in which the gradient is not that of the log density.

    Parameters
    ----------
    name
        The parameter.
    gradient
        What the density says.
    difference
        What differences of the log density say.
    """

    name: str
    gradient: float
    difference: float


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradient` found.

    Parameters
    ----------
    point
        Where it looked.
    wrong
        The parameters in which the gradient is wrong, the worst first; with many parameters not all of them.
    n_checked
        Number of parameters that were looked at, one by one or in directions.
    """

    point: np.ndarray
    wrong: Sequence[GradientMismatch]
    n_checked: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def __str__(self) -> str:
        if self.ok:
            return f"the gradient agrees with finite differences in {self.n_checked} parameters"
        listed = [
            f"{m.name!r} is {m.gradient:.6g}, but differences of the log density give {m.difference:.6g}"
            for m in self.wrong[:MOST_FOUND]
        ]
        more = len(self.wrong) - len(listed)
        text = "the gradient is wrong: that for " + "; for ".join(listed) + (f"; and {more} more" if more else "")
        return text + self._likely_cause()

    def _likely_cause(self) -> str:
        ratios = np.array([m.gradient / m.difference if m.difference else np.nan for m in self.wrong])
        if not np.isfinite(ratios).all() or np.ptp(ratios) > 1e-2 * abs(ratios.mean()):
            return ""
        if np.isclose(ratios.mean(), -1, rtol=1e-2):
            return " (it has the wrong sign)"
        return f" (it is {ratios.mean():.4g} times what it should be)" if len(ratios) > 1 else ""


def check_gradient(
    model: CompiledModel,
    point: Any = None,
    *,
    parameters: Iterable[str] | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> GradientCheck:
    """Compare the gradient of a model with central differences of its log density.

    Up to 64 parameters are looked at one by one. With more, sums over all parameters with random signs are compared,
    and if one disagrees, the parameters at fault are searched for by halving. A parameter is wrong if the gradient
    disagrees with differences by steps of all sizes, and differences by two steps agree with each other; so a log
    density in single precision, or with rounding errors that are large beside its changes, is not taken for wrong.

    Parameters
    ----------
    model : CompiledModel
        The model.
    point : array of shape (n_dim,), optional
        Where to look, on the unconstrained scale; by default at a random start of the model with a finite density.
    parameters : iterable of str, optional
        Names of unconstrained parameters to look at one by one; the default is as above.
    tolerance : float, default 1e-4
        Relative difference that is allowed. Densities with an iterative solver inside may need more.
    seed : int, default 0
        Seed of the start and of the signs.

    Returns
    -------
    GradientCheck
        Its ``ok`` says whether the gradient is right, and its text what is wrong.

    Raises
    ------
    ValueError
        If log density or gradient are not finite at the point, or for a parameter that does not exist.

    Examples
    --------
    >>> print(nutpie.check_gradient(model))
    the gradient agrees with finite differences in 3 parameters
    """
    density, names = model.density(), list(model.unconstrained_names)
    if point is None:
        at = usable_start(model, density, seed)
        if at is None:
            raise ValueError("no start with a finite log density and gradient was found: give a point")
    else:
        at = np.array(point, dtype=np.float64)
        if at.shape != (model.n_dim,):
            raise ValueError(f"point has shape {at.shape}, ({model.n_dim},) is needed")
    groups = None
    if parameters is not None:
        wanted = list(parameters)
        for name in wanted:
            if name not in names:
                raise ValueError(unknown_name(name, names, "unconstrained parameter"))
        groups = [np.array([names.index(name)]) for name in wanted]
    logp, gradient = density.evaluate(at)
    if trouble := not_finite(logp, gradient, names):
        raise ValueError(f"the gradient cannot be checked there: {trouble}")
    return _Differences(density.evaluate, at, gradient, names, tolerance, seed).check(groups)


def usable_start(
    model: CompiledModel, density: Density | BatchDensity, seed: int, tries: int = 20
) -> np.ndarray | None:
    """Return a random start of a model at which the log density and its gradient are finite, if one is found."""
    for attempt in range(tries):
        point = model.initial_point((seed, 0, attempt))
        logp, gradient = density.evaluate(point)
        if np.isfinite(logp) and np.isfinite(gradient).all():
            return point
    return None


class _Differences:
    """Differences of a log density around a point, beside its gradient there."""

    def __init__(
        self,
        evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
        point: np.ndarray,
        gradient: np.ndarray,
        names: Sequence[str],
        tolerance: float,
        seed: int,
    ) -> None:
        self._evaluate = evaluate
        self._point = point
        self._gradient = gradient
        self._names = names
        self._tolerance = tolerance
        self._rng = np.random.default_rng((seed, 1))
        # A gradient of zero cannot be wrong by a part of itself.
        self._least = 1e-8 * float(np.abs(gradient).max(initial=0.0))

    def check(self, groups: Sequence[np.ndarray] | None) -> GradientCheck:
        """Look at groups of parameters; None for each by itself, or all in directions where there are many."""
        n_dim, wrong = len(self._point), list[GradientMismatch]()
        if groups is None:
            everything = np.arange(n_dim)
            groups = list(everything[:, None]) if n_dim <= SINGLY else [everything] * DIRECTIONS
        for group in groups:
            wrong += self._search(group)
            if len(group) > 1 and wrong:
                break
        wrong.sort(key=lambda m: -abs(m.gradient - m.difference) / (abs(m.gradient) + abs(m.difference)))
        return GradientCheck(self._point, wrong, len({int(i) for group in groups for i in group}))

    def _search(self, group: np.ndarray) -> list[GradientMismatch]:
        """Find parameters of a group that are wrong, by halving it; not more than a few."""
        sizes = np.maximum(1.0, np.abs(self._point[group]))
        signs = self._rng.choice((-1.0, 1.0), size=len(group)) if len(group) > 1 else 1.0
        difference = self._wrong_difference(group, signs * sizes)
        if difference is None:
            return []
        if len(group) == 1:
            at = group[0]
            return [GradientMismatch(self._names[at], float(self._gradient[at]), difference / float(sizes[0]))]
        halves = np.array_split(group, 2)
        found = self._search(halves[0])
        return found + (self._search(halves[1]) if len(found) < MOST_FOUND else [])

    def _wrong_difference(self, group: np.ndarray, direction: np.ndarray) -> float | None:
        """Return the derivative in a direction, by differences, if it is certain that the gradient has another."""
        parts = direction * self._gradient[group]
        expected, size = float(parts.sum()), float(np.linalg.norm(parts))
        seen: list[float] = []
        for step in STEPS:
            ahead, behind = self._both_sides(group, step * direction)
            found = (ahead - behind) / (2 * step)
            if not np.isfinite(found):
                continue
            if abs(found - expected) <= self._tolerance * max(size, abs(found)) + self._least:
                return None
            if abs(found - expected) > _resolution(ahead, behind) / step:
                seen.append(found)
        for first, second in itertools.combinations(seen, 2):
            if abs(first - second) <= AGREEMENT * min(abs(first - expected), abs(second - expected)):
                return first
        return None

    def _both_sides(self, group: np.ndarray, shift: np.ndarray) -> tuple[float, float]:
        """Return the log density on both sides of the point."""
        values = []
        for side in (shift, -shift):
            point = self._point.copy()
            point[group] += side
            values.append(self._evaluate(point)[0])
        return values[0], values[1]


def _resolution(first: float, second: float) -> float:
    """Return a difference of two log densities that tells nothing, because rounding may have made it."""
    single = all(value == float(np.float32(value)) for value in (first, second))
    return 10 * float(np.finfo(np.float32 if single else np.float64).eps) * max(1.0, abs(first), abs(second))
