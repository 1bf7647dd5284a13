"""Checks of how a warm-up went."""

from __future__ import annotations

import numpy as np

from nutpie._case import Case, Problem, count, joined, longer

__all__ = ["BAD_EIGENVALUE", "find_warmup_problems"]

#: Above this, the largest variance of late warm-up draws in the coordinates of the metric means that the metric is bad.
#: The core extends warm-ups by the same number.
BAD_EIGENVALUE = 9.0


def find_warmup_problems(case: Case, *, trouble: bool) -> list[Problem]:
    """Return what was wrong with the warm-up.

    Parameters
    ----------
    case
        The run.
    trouble
        Whether the draws after it are doubtful. If not, a bad metric has cost time only.
    """
    if case.run.warmup is None:
        return []
    return [*_lagging(case), *_metric(case, trouble), *_rejected(case)]


def _lagging(case: Case) -> list[Problem]:
    """Chains that were far below the others at the end of the warm-up, and whether they are still."""
    warmup = case.run.warmup
    assert warmup is not None
    labels = [label for label, lags in zip(warmup.chains, warmup.lagging, strict=True) if lags]
    if not labels:
        return []
    behind = {label: gap for label, gap in _gaps(case).items() if label in labels}
    ahead = [label for label in labels if label not in behind]
    problems = []
    if behind:
        still = "still is" if len(behind) == 1 else "still are"
        message = (
            f"{_named(behind)} far below the others at the end of the warm-up, and {still}: by "
            f"{joined([f'{gap:.3g}' for gap in behind.values()])} in the mean log density."
        )
        advice = "Leave out its draws, and start elsewhere (init=, seed=), unless the posterior has several modes."
        problems.append(Problem("lagging", "warning", message, advice, tuple(f"chain {label}" for label in behind)))
    if ahead:
        message = f"{_named(ahead)} far below the others at the end of the warm-up, but not after it."
        advice = (
            f"Take a longer warm-up, tune={longer(case)}, if {'it mixes' if len(ahead) == 1 else 'they mix'} worse."
        )
        problems.append(Problem("lagging", "note", message, advice, tuple(f"chain {label}" for label in ahead)))
    return problems


def _named(labels: object) -> str:
    names = [str(label) for label in labels]  # type: ignore[attr-defined]
    return f"Chain{'s' if len(names) > 1 else ''} {joined(names)} {'were' if len(names) > 1 else 'was'}"


def _gaps(case: Case) -> dict[int, float]:
    """How far the mean log density of chains is below the best, where that is more than how much it varies."""
    logp = case.run.stats.get("logp")
    if logp is None or not logp.shape[1]:
        return {}
    means, spread = logp.mean(axis=1), float(np.sqrt(logp.var(axis=1).mean()))
    gaps = means.max() - means
    return {label: float(gap) for label, gap in zip(case.run.chains, gaps, strict=True) if gap > 3 * spread and gap > 5}


def _metric(case: Case, trouble: bool) -> list[Problem]:
    """Find metrics in whose coordinates the posterior is still far wider in one direction than in another."""
    warmup = case.run.warmup
    assert warmup is not None
    bad = [label for label, left in zip(warmup.chains, warmup.left, strict=True) if left > BAD_EIGENVALUE]
    if not bad:
        return []
    worst = float(np.nanmax(warmup.left))
    of = f" of chain{'s' if len(bad) > 1 else ''} {joined(map(str, bad))}" if len(bad) < len(warmup.chains) else ""
    message = (
        f"The metric{of} does not fit: at the end of the warm-up draws varied {worst:.2g} times as much as it says "
        f"(more than {BAD_EIGENVALUE:g})."
    )
    if warmup.extended:
        advice = (
            "More warm-up did not help: the posterior is curved, or wider in some places than in others. Reparametrise."
        )
    else:
        advice = f"Leave tune= to the default, which takes more where that helps, or take more, tune={longer(case)}."
    return [Problem("metric", "warning" if trouble else "note", message, advice, tuple(f"chain {c}" for c in bad))]


def _rejected(case: Case) -> list[Problem]:
    """Fits of the metric whose numbers could not be used."""
    warmup = case.run.warmup
    assert warmup is not None
    if not warmup.rejected_fits:
        return []
    message = (
        f"{warmup.rejected_fits} of {count(warmup.fits + warmup.rejected_fits, 'fit')} of the metric gave numbers that "
        "cannot be used; the one before was kept."
    )
    advice = "See where gradients are huge or not finite, and start elsewhere (init=) or bound what makes them so."
    return [Problem("rejected_fits", "note", message, advice)]
