"""The checks of a finished run, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from nutpie._approximation_checks import find_approximation_problems
from nutpie._case import (
    Case,
    Problem,
    count,
    joined,
    longer,
    of_all,
    parameters_first,
    round_up,
    some_of,
)
from nutpie._warmup_checks import find_warmup_problems

__all__ = ["FEW_DRAWS", "bfmi", "find_problems"]

#: Names in `Problem.where`, and parameters that a closer look is taken at, at most.
CLOSER_LOOK = 20

#: Draws of a chain below which R-hat, effective sample size and E-BFMI say little.
FEW_DRAWS = 100

#: Rejections in a row that are too many, of a kernel that accepts more than nine of ten transitions; of one whose
#: rejections come in a row, many times as many.
MANY_REJECTIONS = {"ghmc": 200}
DEFAULT_REJECTIONS = 20

#: R-hat above this is an error.
BAD_R_HAT = 1.1

#: How many standard errors the means of chains lie apart that are said to disagree.
DISAGREEMENT = 5.0


def find_problems(case: Case) -> list[Problem]:
    """Return all problems, the worst first."""
    problems = [*_incomplete(case), *_few_draws(case)]
    if case.draws:
        motionless, still = _stuck(case)
        problems += [
            *find_approximation_problems(case),
            *_not_finite(case),
            *motionless,
            *_divergences(case),
            *_rejections(case),
            *_depth(case),
        ]
        if case.draws >= 4:
            problems += [*_disagreement(case, still), *_r_hat(case), *_ess(case), *_energy(case)]
        trouble = any(p.kind in ("stuck", "disagreement", "r_hat", "ess") and p.severity != "note" for p in problems)
        problems += find_warmup_problems(case, trouble=trouble)
    order = ("error", "warning", "note")
    # Where the approximation is wrong, chains that agree about it say nothing: it has to be seen first.
    return sorted(problems, key=lambda p: (p.kind != "laplace", order.index(p.severity)))


def bfmi(energy: np.ndarray) -> np.ndarray:
    """Estimated Bayesian fraction of missing information of each chain (Betancourt 2016).

    It is the mean squared change of the energy over its variance: small where momenta of one draw change the energy
    little in comparison with how much it varies.

    Parameters
    ----------
    energy
        Of shape (chains, draws).
    """
    if energy.shape[1] < 3:
        return np.full(len(energy), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.square(np.diff(energy, axis=1)).mean(axis=1) / energy.var(axis=1, ddof=1)


# ---------------------------------------------------------------------------------------------------- size of the run


def _incomplete(case: Case) -> list[Problem]:
    chains = int(case.setting("num_chains", case.chains))
    draws = math.ceil(case.setting("num_draws", case.draws * case.thin) / case.thin)
    if case.draws >= draws and case.chains >= chains:
        return []
    made = f"{case.draws} of {draws} draws by {case.chains} of {chains} chains"
    return [Problem("incomplete", "note", f"The run was cut short: {made}.", "Run it to its end if this is too few.")]


def _few_draws(case: Case) -> list[Problem]:
    problems = []
    if case.draws < FEW_DRAWS:
        made = f"{case.draws} draws" if case.draws != 1 else "1 draw"
        message = f"With {made} of each chain, convergence cannot be judged."
        problems.append(Problem("few_draws", "note", message, "Take more, such as draws=1000."))
    if case.chains == 1:
        message = "A single chain cannot show what it has missed."
        problems.append(Problem("one_chain", "note", message, "Run several, such as chains=4."))
    return problems


# --------------------------------------------------------------------------------------------- draws and their chains


def _not_finite(case: Case) -> list[Problem]:
    bad = case.parameters(np.flatnonzero(np.isnan(case.values[:, 0])))
    if not len(bad):
        return []
    missing = ~np.isfinite(case.take(bad[:CLOSER_LOOK]))
    # Elements that are never finite are often meant so, as the padding of an array is.
    always = bool(missing.all())
    worst = case.label(bad[0])
    amount = "all draws" if missing[0].all() else f"{count(int(missing[0].sum()), 'draw')} of {missing[0].size}"
    where = tuple(case.label(i) for i in bad[:CLOSER_LOOK])
    message = f"{some_of(where, len(bad))} {'has' if len(bad) == 1 else 'have'} draws that are not finite"
    # What the model could not compute, it has warned of when it tried.
    said = case.run.messages.get("variables")
    why = (
        f"Computing it failed: {said}" if said else f"See where the expression of {worst} overflows or divides by zero"
    )
    return [
        Problem(
            "not_finite",
            "note" if always or said else "warning",
            f"{message} ({worst}: {amount}).",
            f"{why}; R-hat and ESS leave it out.",
            where,
        )
    ]


def _stuck(case: Case) -> tuple[list[Problem], list[int]]:
    """Chains that do not move; also returns their positions."""
    problems: dict[int, Problem] = {}

    def found(chain: int, what: str, *, began_well: bool = False) -> None:
        name = f"Chain {case.run.chains[chain]}"
        advice = (
            "It cannot leave a narrow region: take smaller steps, "
            f"{case.target[0]}={max(0.95 if case.target[1] < 0.94 else 0.98, case.target[1])}, or reparametrise."
            if began_well
            else f"Do not use it; give it another start (seed= or init=) and a longer warm-up, tune={longer(case)}."
        )
        problems.setdefault(chain, Problem("stuck", "error", f"{name} {what}.", advice, (name.lower(),)))

    for chain, moved in enumerate(_moves(case)):
        first, length = _longest_run(~moved)
        if length == case.draws >= 20:
            found(chain, "never moved")
        elif length >= max(20, case.draws / 10):
            found(chain, f"stood still for {length} draws from draw {first} on", began_well=True)
    acceptance = case.run.stats.get("acceptance")
    if acceptance is not None and case.draws >= FEW_DRAWS:
        least = min(0.2, case.target[1] / 2)
        for chain, mean in enumerate(acceptance.mean(axis=1)):
            if mean < least:
                found(chain, f"hardly moves: its mean acceptance is {mean:.2g}")
    for chain, ratio in enumerate(_relative_scale(case)):
        if ratio < 0.02:
            found(chain, f"hardly moves: it covers {ratio:.1%} of the scale of the others")
    return [problems[chain] for chain in sorted(problems)], sorted(problems)


def _moves(case: Case) -> np.ndarray:
    """Whether a draw differs from the one before it, of shape (chains, draws) or empty if that is not known."""
    stats = case.run.stats
    if "index" in stats:
        return stats["index"] != 0
    if "logp" in stats:
        return np.diff(stats["logp"], axis=1, prepend=np.nan) != 0
    return np.empty((0, case.draws), dtype=bool)


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Begin and length of the longest run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    if not len(edges):
        return 0, 0
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(begins[longest]), int(lengths[longest])


def _relative_scale(case: Case) -> np.ndarray:
    """Return how wide each chain is relative to the median chain: the median over parameters."""
    varying = case.parameters(np.flatnonzero(case.values[:, 1] > 0))
    if case.chains < 2 or case.draws < FEW_DRAWS or not len(varying):
        return np.empty(0)
    some = varying[np.linspace(0, len(varying) - 1, min(len(varying), CLOSER_LOOK)).astype(int)]
    scale = case.take(some).std(axis=2)
    middle = np.median(scale, axis=1)
    usable = middle > 0
    if not usable.any():
        return np.empty(0)
    return np.median(scale[usable] / middle[usable, None], axis=0)


def _disagreement(case: Case, still: list[int]) -> list[Problem]:
    """Find groups of chains whose means lie further apart than their errors, where R-hat is large."""
    chains = np.array([c for c in range(case.chains) if c not in still], dtype=int)
    if len(chains) < 2 or case.draws < 8:
        return []
    suspects = case.parameters(_largest(case.r_hat, case.max_r_hat))
    candidates = suspects[:CLOSER_LOOK]
    if not len(candidates):
        return []
    means, errors = _chain_means(case.take(candidates)[:, chains])
    grouped = [_groups(m, e) for m, e in zip(means, errors, strict=True)]
    split = [i for i, groups in enumerate(grouped) if len(groups) > 1]
    if not split:
        return []
    first = split[0]
    groups = [chains[g] for g in grouped[first]]
    centres = [means[first][g].mean() for g in grouped[first]]
    where = tuple(case.label(candidates[i]) for i in split)
    listed = "; ".join(f"{_chains(case, g)} near {c:.3g}" for g, c in zip(groups, centres, strict=True))
    least = "at least " if len(suspects) > len(candidates) else ""
    also = f" (and in {least}{count(len(split) - 1, 'more parameter')})" if len(split) > 1 else ""
    densities, judgement = _compare_modes(case, groups)
    advice = (
        f"{judgement} Order or constrain {where[0]} if the modes are relabellings, try other starts (init=) and a "
        f"longer warm-up, tune={longer(case)}."
    )
    message = f"Chains disagree in {where[0]}{also}: {listed}{densities}."
    return [Problem("disagreement", "error", message, advice, where)]


def _chain_means(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each chain and its Monte Carlo error, both of shape (parameters, chains)."""
    from nutpie._convergence import ess, split

    size = ess(split(draws.reshape(-1, 1, draws.shape[2]))).reshape(draws.shape[:2])
    return draws.mean(axis=2), draws.std(axis=2, ddof=1) / np.sqrt(size)


def _groups(means: np.ndarray, errors: np.ndarray) -> list[np.ndarray]:
    """Positions of chains whose means are neighbours, each group further than chance from the next."""
    order = np.argsort(means)
    gaps = np.diff(means[order]) > DISAGREEMENT * np.hypot(errors[order][1:], errors[order][:-1])
    return [np.sort(g) for g in np.split(order, np.flatnonzero(gaps) + 1)]


def _compare_modes(case: Case, groups: list[np.ndarray]) -> tuple[str, str]:
    """Return what the log density says of groups of chains: a clause for the message, a sentence for the advice."""
    logp = case.run.stats.get("logp")
    if logp is None:
        return "", "The posterior may have several modes."
    levels = np.array([logp[g].mean() for g in groups])
    spread = np.sqrt(np.mean([logp[g].var() for g in groups]))
    best, worst = groups[int(levels.argmax())], groups[int(levels.argmin())]
    gap = float(np.ptp(levels))
    clause = f"; the mean log density is {gap:.3g} lower in {_chains(case, worst)}"
    if gap > 3 * spread and gap > 5:
        return clause, f"{_chains(case, worst).capitalize()} found no way to where {_chains(case, best)} went."
    similar = "The posterior probably has several modes, and the draws do not say how probable each one is."
    return clause if gap > 1 else "; the log density is about the same", similar


def _chains(case: Case, chains: np.ndarray) -> str:
    labels = [str(case.run.chains[int(c)]) for c in chains]
    return f"chain{'s' if len(labels) > 1 else ''} {joined(labels)}"


# --------------------------------------------------------------------------------------------------------- convergence


def _r_hat(case: Case) -> list[Problem]:
    high = _largest(case.r_hat, case.max_r_hat)
    if not len(high) or case.draws < FEW_DRAWS:
        return []
    real = high[_beyond_chance(case, high)]
    shown = parameters_first(case, real if len(real) else high)
    where = tuple(case.label(i) for i in shown[:CLOSER_LOOK])
    listed = joined([f"{w} {case.r_hat[i]:.3g}" for w, i in zip(where[:3], shown[:3], strict=False)])
    message = f"R-hat is above {case.max_r_hat:g} in {of_all(case, shown)}{listed}"
    draws = round_up(2 * case.draws * case.thin)
    if not len(real):
        advice = f"No reason for concern; draws={draws} would make it smaller."
        return [Problem("r_hat", "note", f"{message}, as chance does in a run of this length.", advice, where)]
    severity: Literal["error", "warning"] = "error" if case.r_hat[shown[0]] > BAD_R_HAT else "warning"
    advice = f"Run longer, tune={longer(case)} and draws={draws}; if it stays, reparametrise what governs {where[0]}."
    return [Problem("r_hat", severity, f"{message}.", advice, where)]


def _beyond_chance(case: Case, indices: np.ndarray) -> np.ndarray:
    """Whether a high R-hat says that half chains differ, and not only that they are short."""
    beyond = np.ones(len(indices), dtype=bool)
    doubtful = np.flatnonzero(case.r_hat[indices] <= BAD_R_HAT)
    if len(doubtful):
        from nutpie._convergence import chance_of_difference

        # Chance alone makes some R-hat high among many parameters.
        least = 0.001 / len(case.rows)
        for some in np.array_split(doubtful, math.ceil(len(doubtful) / CLOSER_LOOK)):
            beyond[some] = chance_of_difference(case.take(indices[some])) < least
    return beyond


def _ess(case: Case) -> list[Problem]:
    low = np.flatnonzero(case.least_ess < case.min_ess)
    if not len(low) or case.draws < FEW_DRAWS:
        return []
    low = parameters_first(case, low[np.argsort(case.least_ess[low], kind="stable")])
    where = tuple(case.label(i) for i in low[:CLOSER_LOOK])
    values = [f"(bulk {int(case.values[i, 3])}, tail {int(case.values[i, 4])})" for i in low[:3]]
    listed = joined([f"{w} {v}" for w, v in zip(where[:3], values, strict=True)])
    factor = case.min_ess / case.least_ess[low[0]]
    if factor <= 10:
        advice = (
            f"Take more draws, draws={round_up(1.2 * factor * case.draws * case.thin)}, or reparametrise {where[0]}."
        )
    else:
        advice = f"More draws alone will not do: reparametrise or tighten the prior of {where[0]}."
    # The log density often mixes more slowly than all parameters, and is rarely of interest.
    severity: Literal["warning", "note"] = "warning" if len(case.parameters(low)) else "note"
    message = f"ESS is below {case.min_ess:g} in {of_all(case, low)}{listed}."
    return [Problem("ess", severity, message, advice, where)]


def _energy(case: Case) -> list[Problem]:
    energy = case.run.stats.get("energy")
    if energy is None or case.draws < FEW_DRAWS:
        return []
    values = bfmi(energy)
    low = np.flatnonzero(values < case.min_bfmi)
    if not len(low):
        return []
    related = _strongest(case, lambda draws: _correlation(draws[:, low], energy[low]), at_least=0.5)
    goes_with = f"; the energy goes with {related}" if related else ""
    return [
        Problem(
            "energy",
            "warning",
            f"E-BFMI is below {case.min_bfmi:g} in {_chains(case, low)} (lowest {values[low].min():.2f}){goes_with}.",
            f"Tails are explored slowly: reparametrise {related or 'scales of hierarchies (non-centred)'}, or give "
            "heavy-tailed priors lighter tails.",
            (related,) if related else tuple(f"chain {case.run.chains[c]}" for c in low),
        )
    ]


# -------------------------------------------------------------------------------------------------------- trajectories


def _smaller_steps(case: Case) -> str:
    """Say how to get smaller steps; nothing if they are as small as can be."""
    if case.kernel == "walnuts":
        # Its divergences are steps that were halved as often as they may be.
        halvings = int(case.setting("walnuts_max_halvings", 10))
        return f"Let steps be halved more often, walnuts_max_halvings={halvings + 4}" if halvings < 15 else ""
    name, target = case.target
    # More than a little closer to 1, so that it makes a difference.
    values = [t for t in (0.95, 0.99) if t > target + 0.01]
    return f"Take smaller steps, {name}={values[0]}" if values else ""


def _divergences(case: Case) -> list[Problem]:
    diverging = case.run.stats.get("diverging")
    number = case.divergences
    if diverging is None or not number:
        return []
    diverging = diverging.astype(bool)
    total = diverging.size * case.thin
    message = f"{count(number, 'divergence')} in {total} draws ({number / total:.2%})"
    errors = case.run.energy_errors
    if errors is not None and len(errors) and not np.isfinite(errors).mean() > 0.5:
        message += ", most because the log density or its gradient was not finite"
        said = case.run.messages.get("log density")
        if said:
            message += f" or the model rejected the point ({said})"
        advice = (
            "See where the model overflows, divides by zero or leaves the domain of a function; bound parameters or "
            "tighten priors."
        )
        return [Problem("divergences", "warning", f"{message}.", advice)]
    by_chain = diverging.sum(axis=1)
    kept = int(by_chain.sum())
    if len(by_chain) > 2 and kept >= 10 and by_chain.max() >= 0.8 * kept:
        message += f", {by_chain.max() / kept:.0%} of them in chain {case.run.chains[int(by_chain.argmax())]}"
    place, name = _where_divergences_are(case, diverging) if kept >= 5 else ("", "")
    smaller = _smaller_steps(case) if number / total < 0.2 else ""
    if smaller:
        advice = f"{smaller}; if some remain, reparametrise"
        advice += f" {name}." if name else " (non-centred hierarchies), or tighten priors."
    else:
        advice = f"Smaller steps will hardly help: reparametrise {name or 'the model'}, or tighten its priors."
    where = (name,) if name else ()
    return [Problem("divergences", "warning", f"{message}{place}.", advice, where)]


def _where_divergences_are(case: Case, diverging: np.ndarray) -> tuple[str, str]:
    """Find the parameter whose values are most unusual at divergent draws: a clause for the message, and its name."""

    def shift(draws: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (draws[:, diverging].mean(axis=1) - draws.mean(axis=(1, 2))) / draws.std(axis=(1, 2))

    score = np.abs(_over_parameters(case, shift))
    best, best_position = "", 0.5
    for index in np.argsort(-np.nan_to_num(score))[:CLOSER_LOOK]:
        if not case.values[index, 1] > 0 or not score[index] > 0:
            continue
        draws = case.take(np.array([index]))[0]
        ordered = np.sort(draws.ravel())
        left, right = (np.searchsorted(ordered, draws[diverging], side=s) for s in ("left", "right"))
        position = float(np.median((left + right) / 2 / ordered.size))
        if abs(position - 0.5) > abs(best_position - 0.5):
            best, best_position = case.label(index), position
    if best and best_position < 0.2:
        return f", half of them where {best} is below its {max(best_position, 0.001):.1%} quantile", best
    if best and best_position > 0.8:
        return f", half of them where {best} is above its {min(best_position, 0.999):.1%} quantile", best
    return "", ""


def _rejections(case: Case) -> list[Problem]:
    """Chains that rejected many transitions in a row: they were in a place that is too narrow for their steps."""
    rejections = case.run.stats.get("rejections")
    if rejections is None:
        return []
    longest = rejections.max(axis=1)
    many = MANY_REJECTIONS.get(case.kernel, DEFAULT_REJECTIONS)
    bad = np.flatnonzero(longest > many)
    if not len(bad):
        return []
    worst = int(longest[bad].max())
    message = f"{_chains(case, bad).capitalize()} rejected up to {worst} transitions in a row (more than {many})."
    advice = (
        "The posterior is much narrower in some places than in others, and the draws may lack the narrow ones: "
        "reparametrise (non-centred hierarchies), and compare with sampler='nuts'."
    )
    return [Problem("rejections", "warning", message, advice, tuple(f"chain {case.run.chains[int(c)]}" for c in bad))]


def _depth(case: Case) -> list[Problem]:
    reached = case.run.stats.get("depth_limit")
    if reached is None or not reached.any():
        return []
    share = float(reached.mean())
    limit = int(case.setting("maxdepth", 10))
    return [
        Problem(
            "depth",
            "warning" if share >= 0.01 else "note",
            f"{share:.2%} of the draws reached the depth limit ({2**limit - 1} gradients).",
            f"Let trajectories be longer, maxdepth={min(limit + 2, 20)}, or make the posterior easier: standardise "
            "predictors, remove strong correlations.",
        )
    ]


# ------------------------------------------------------------------------------------------------------------- helpers


def _over_parameters(case: Case, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a function of draws to all rows that are parameters; NaN at the others."""
    out = np.full(len(case.rows), np.nan)
    indices = case.parameters(np.arange(len(case.rows)))
    if len(indices) == len(case.run.parameters):
        out[indices] = case.run.parameters.map(function)[case.rows[indices]]
    elif len(indices):
        out[indices] = function(case.take(indices))
    return out


def _strongest(case: Case, function: Callable[[np.ndarray], np.ndarray], at_least: float) -> str:
    """Name of the parameter for which a function of draws is largest in absolute value; empty if that is small."""
    score = np.nan_to_num(np.abs(_over_parameters(case, function)))
    if not len(score) or score.max() < at_least:
        return ""
    return case.label(int(score.argmax()))


def _correlation(draws: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation within chains of draws, or their distance from the mean, with a statistic: the larger one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        centred = draws - draws.mean(axis=2, keepdims=True)
        distance = np.abs(centred)
        distance -= distance.mean(axis=2, keepdims=True)
        target = other - other.mean(axis=1, keepdims=True)
        target /= target.std()
        both = [np.abs((x * target).mean(axis=(1, 2))) / x.std(axis=(1, 2)) for x in (centred, distance)]
    return np.fmax(*both)


def _largest(values: np.ndarray, threshold: float) -> np.ndarray:
    """Return indices of the values above a threshold, the largest first."""
    above = np.flatnonzero(values > threshold)
    return above[np.argsort(-values[above], kind="stable")]
