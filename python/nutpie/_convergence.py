"""R-hat, effective sample sizes and Monte Carlo errors of many parameters at once.

Definitions are those of Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2). Arrays have the shape
(parameters, chains, draws); work goes over all parameters at once, since a loop over parameters takes minutes for some
ten thousands.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import chdtrc, ndtri

__all__ = [
    "COLUMNS",
    "MIN_DRAWS",
    "chance_of_difference",
    "ess",
    "is_constant",
    "nested",
    "normal_scores",
    "rank_nested",
    "split",
    "summarise",
]

#: Columns of `summarise`, in its order.
COLUMNS = ("mean", "sd", "r_hat", "ess_bulk", "ess_tail", "mcse")

#: Fewer draws of a chain have no R-hat and no effective sample size.
MIN_DRAWS = 4

#: Values closer together than this, relative to their size, differ by rounding only.
ROUNDING = 64 * np.finfo(np.float64).eps


def summarise(draws: np.ndarray, superchains: np.ndarray | None = None) -> np.ndarray:
    """Mean, sd, R-hat, bulk and tail ESS and the Monte Carlo error of the mean.

    Parameters
    ----------
    draws
        Of shape (parameters, chains, draws), float64.
    superchains
        Superchain of each chain, if R-hat is to be the nested one.

    Returns
    -------
    numpy.ndarray
        Of shape (parameters, 6), columns as in `COLUMNS`. Parameters with draws that are not finite have NaN
        everywhere; of constants, and with fewer than 4 draws, only mean and sd are numbers. R-hat is the larger one of
        the rank-normalised split R-hat of the draws and of their distances from the median; it is computed for a
        single chain too, from its halves.
    """
    n, chains, length = draws.shape
    out = np.full((n, len(COLUMNS)), np.nan)
    usable = np.isfinite(draws).all(axis=(1, 2))
    if not chains * length or not usable.any():
        return out
    kept = draws if usable.all() else draws[usable]
    mean = kept.mean(axis=(1, 2))
    # A lone draw has no standard deviation.
    sd = kept.std(axis=(1, 2), ddof=1) if chains * length > 1 else np.full(len(kept), np.nan)
    constant = is_constant(kept)
    sd[constant & (chains * length > 1)] = 0.0
    out[usable, :2] = np.column_stack([mean, sd])
    rows = np.flatnonzero(usable)[~constant]
    if length >= MIN_DRAWS and len(rows):
        varying = kept[~constant] if constant.any() else kept
        out[rows, 2:] = _convergence(varying, sd[~constant])
        if superchains is not None:
            out[rows, 2] = rank_nested(varying, superchains)
    return out


def _convergence(draws: np.ndarray, sd: np.ndarray) -> np.ndarray:
    halves = split(draws)
    scores = normal_scores(halves)
    ordered = np.sort(draws.reshape(len(draws), -1), axis=1)
    if draws.shape[-1] % 2:
        # The halves leave out the middle draw.
        median = np.median(halves, axis=(1, 2))
    else:
        middle = ordered.shape[1] // 2
        median = (ordered[:, middle - 1] + ordered[:, middle]) / 2
    folded = normal_scores(np.abs(halves - median[:, None, None]))
    r_hat = np.fmax(_r_hat(scores), _r_hat(folded))
    low, high = _quantile(ordered, 0.05), _quantile(ordered, 0.95)
    tail = np.minimum(ess((halves <= low).astype(float)), ess((halves <= high).astype(float)))
    return np.column_stack([r_hat, ess(scores), tail, sd / np.sqrt(ess(halves))])


def nested(draws: np.ndarray, superchains: np.ndarray) -> np.ndarray:
    """Nested R-hat of Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), of shape (parameters,).

    With K superchains of M chains of N draws it is (1 + B / W)^(1/2). B is the variance of the means of
    superchains, and W the mean over superchains of the variance of the means of their chains (0 if M = 1) plus the
    mean variance within these (0 if N = 1). Variances have the divisors K - 1, M - 1 and N - 1.

    Parameters
    ----------
    draws
        Of shape (parameters, chains, draws).
    superchains
        Superchain of each chain, from 0; with one only, all are NaN. They may differ in size.
    """
    number = int(superchains.max(initial=-1)) + 1
    if number < 2:
        return np.full(len(draws), np.nan)
    means = draws.mean(axis=-1)
    variances = draws.var(axis=-1, ddof=1) if draws.shape[-1] > 1 else np.zeros_like(means)
    centres, within = np.empty((2, number, len(draws)))
    for k in range(number):
        mine = superchains == k
        centres[k] = means[:, mine].mean(axis=1)
        within[k] = variances[:, mine].mean(axis=1)
        if mine.sum() > 1:
            within[k] += means[:, mine].var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(1 + centres.var(axis=0, ddof=1) / within.mean(axis=0))


def rank_nested(draws: np.ndarray, superchains: np.ndarray) -> np.ndarray:
    """Nested R-hat of the normal scores of draws or of their distances from the median, whichever is larger.

    Parameters
    ----------
    draws, superchains
        As of `nested`.
    """
    distances = np.abs(draws - np.median(draws, axis=(1, 2), keepdims=True))
    return np.fmax(*(nested(normal_scores(values), superchains) for values in (draws, distances)))


def chance_of_difference(draws: np.ndarray) -> np.ndarray:
    """Probability that half chains of one distribution differ as much as these in location or in scale.

    The means of rank scores, plain and folded, are compared with their Monte Carlo errors by a chi-squared test. R-hat
    alone does not tell a difference from chance: with short chains or slow but sound mixing it exceeds any threshold.

    Parameters
    ----------
    draws
        Of shape (parameters, chains, draws), with at least 4 draws.
    """
    halves = split(draws)
    distances = np.abs(halves - np.median(halves, axis=(1, 2), keepdims=True))
    n, m, length = halves.shape
    chances = []
    for scores in (normal_scores(halves), normal_scores(distances)):
        size = ess(scores.reshape(n * m, 1, length)).reshape(n, m)
        errors = (scores.var(axis=-1, ddof=1) / size).mean(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            chances.append(chdtrc(m - 1, (m - 1) * scores.mean(axis=-1).var(axis=-1, ddof=1) / errors))
    # Two tests were made.
    return np.minimum(1.0, 2 * np.fmin(*chances))


def _quantile(ordered: np.ndarray, probability: float) -> np.ndarray:
    """Quantile of ordered rows, linear between neighbours, of shape (parameters, 1, 1)."""
    position = probability * (ordered.shape[1] - 1)
    below = int(position)
    left, right = ordered[:, below], ordered[:, min(below + 1, ordered.shape[1] - 1)]
    return (left + (right - left) * (position - below))[:, None, None]


def is_constant(draws: np.ndarray) -> np.ndarray:
    """Whether the draws of a parameter are equal up to rounding, of shape (parameters,)."""
    high, low = draws.max(axis=(1, 2)), draws.min(axis=(1, 2))
    # Halves, since the difference of two large numbers may overflow.
    return high / 2 - low / 2 <= ROUNDING / 2 * np.maximum(np.abs(high), np.abs(low))


def split(draws: np.ndarray) -> np.ndarray:
    """Make two chains of the first and the last half of each; a middle draw is dropped."""
    half = draws.shape[-1] // 2
    return np.concatenate([draws[..., :half], draws[..., draws.shape[-1] - half :]], axis=-2)


def normal_scores(draws: np.ndarray) -> np.ndarray:
    """Replace draws by normal quantiles of their ranks over all chains, ties by those of their mean rank.

    The quantile is that at (rank - 3/8) / (size + 1/4) (Blom 1958).
    """
    flat = draws.reshape(len(draws), -1)
    size = flat.shape[1]
    # Twice the mean rank is a whole number, so that a table serves all parameters.
    table = ndtri((np.arange(2, 2 * size + 1) / 2 - 0.375) / (size + 0.25))
    return table[_twice_ranks(flat) - 2].reshape(draws.shape)


def _twice_ranks(flat: np.ndarray) -> np.ndarray:
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    positions = np.broadcast_to(np.arange(flat.shape[1]), flat.shape)
    starts = np.ones(flat.shape, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    if starts.all():
        twice = 2 * positions + 2
    else:
        ends = np.ones(flat.shape, dtype=bool)
        ends[:, :-1] = starts[:, 1:]
        first = np.maximum.accumulate(np.where(starts, positions, 0), axis=1)
        last = np.minimum.accumulate(np.where(ends, positions, flat.shape[1])[:, ::-1], axis=1)[:, ::-1]
        twice = first + last + 2
    ranks = np.empty(flat.shape, dtype=np.intp)
    np.put_along_axis(ranks, order, twice, axis=1)
    return ranks


def _r_hat(chains: np.ndarray) -> np.ndarray:
    """R-hat of chains that are split already: sqrt((B / W + n - 1) / n)."""
    n = chains.shape[-1]
    within = chains.var(axis=-1, ddof=1).mean(axis=-1)
    between = n * chains.mean(axis=-1).var(axis=-1, ddof=1)
    # Chains that do not move but differ have an infinite R-hat; folded constants have none.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + n - 1) / n)


def ess(chains: np.ndarray) -> np.ndarray:
    """Effective sample size of the mean, of shape (parameters,).

    Autocorrelations are combined over chains and summed by the initial monotone sequence of Geyer (1992): in pairs, as
    long as their sum is positive, none larger than the one before. Chains that are all the same constant have the ESS
    of independent draws.

    Parameters
    ----------
    chains
        Of shape (parameters, chains, draws), with at least 2 draws. Split chains before, with `split`.
    """
    m, n = chains.shape[1:]
    total = m * n
    means = chains.mean(axis=-1)
    size = next_fast_len(2 * n, real=True)
    spectrum = rfft(chains - means[..., None], n=size, axis=-1)
    # The mean over chains is taken of the spectra, which saves all but one of the inverse transforms.
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=1)
    autocovariance = irfft(power, n=size, axis=-1)[:, :n] / n
    within = autocovariance[:, 0] * n / (n - 1)
    variance = autocovariance[:, 0] + (means.var(axis=-1, ddof=1) if m > 1 else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within[:, None] - autocovariance) / variance[:, None]
        rho[:, 0] = 1.0
        # As Stan and ArviZ do, no pair with the last two lags is used, of which hardly any draw tells something.
        last_pair = max((n - 3) // 2, 0)
        pairs = rho[:, : 2 * (last_pair + 1)].reshape(-1, last_pair + 1, 2).sum(axis=-1)
        ended = pairs <= 0
        end = np.where(ended.any(axis=1), ended.argmax(axis=1), last_pair)
        sums = np.cumsum(np.minimum.accumulate(pairs, axis=1), axis=1)
        rows = np.arange(len(chains))
        complete = np.where(end > 0, sums[rows, end - 1], 0.0)
        # Of the pair where the sum ends only the first autocorrelation counts, and only once, which lowers the variance
        # for antithetic chains.
        first = rho[rows, 2 * end]
        time = -1 + 2 * complete + np.where(pairs[rows, end] < 0, np.maximum(first, 0), first)
        result = total / np.maximum(time, 1 / np.log10(total))
    same = np.ptp(chains.reshape(len(chains), -1), axis=1) < np.finfo(np.float64).resolution
    return np.where(same, float(total), result)
