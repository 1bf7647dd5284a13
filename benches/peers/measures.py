"""Effective sample sizes and R-hat of many parameters at once, after Vehtari and others (2021).

Arrays are of shape (chains, draws, parameters). ArviZ has the same measures one parameter at a time, which is too slow
here; a test compares the two.
"""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import rankdata


def split(draws):
    """Halves of the chains as chains; the draw in the middle of an odd number goes."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]], axis=0)


def normal_ranks(draws):
    """Normal scores of the ranks over all chains."""
    flat = draws.reshape(-1, draws.shape[-1])
    ranks = rankdata(flat, axis=0)
    return ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)


def ess(draws):
    """Effective sample size of the mean, by Geyer's initial monotone sequence; `draws` as they are, not split."""
    chains, n, parameters = draws.shape
    centred = draws - draws.mean(axis=1, keepdims=True)
    size = next_fast_len(2 * n)
    autocovariance = np.zeros((n, parameters))
    for chain in centred:
        spectrum = rfft(chain, size, axis=0)
        autocovariance += irfft(spectrum.real**2 + spectrum.imag**2, size, axis=0)[:n] / (n * chains)
    within = autocovariance[0] * n / (n - 1)
    total = within * (n - 1) / n
    if chains > 1:
        total = total + draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1.0 - (within - autocovariance) / total
    rho[0] = 1.0
    # Sums of neighbours are positive and fall; where they do not, it is noise.
    last = (n - 3) // 2 * 2 + 2
    pairs = rho[0:last:2] + rho[1 : last + 1 : 2]
    negative = ~(pairs > 0)
    stop = np.where(negative.any(axis=0), negative.argmax(axis=0), len(pairs) - 1)
    used = np.arange(len(pairs))[:, None] < stop
    falling = np.minimum.accumulate(pairs, axis=0)
    rest = np.maximum(np.take_along_axis(rho[0:last:2], stop[None], axis=0)[0], 0.0)
    tau = -1.0 + 2.0 * np.where(used, falling, 0.0).sum(axis=0) + rest
    samples = chains * n
    found = samples / np.maximum(tau, 1.0 / np.log10(samples))
    # A parameter that never moves has told nothing.
    return np.where(np.isfinite(tau) & (total > 0), found, 0.0)


def bulk_ess(draws):
    return ess(normal_ranks(split(draws)))


def mean_error(draws):
    """Monte-Carlo standard error of the mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return draws.std(axis=(0, 1), ddof=1) / np.sqrt(ess(split(draws)))


def _rhat(draws):
    n = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean(axis=0)
    between = draws.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within * n + n - 1) / n)


def rank_rhat(draws):
    """The larger of the R-hats of ranks and of ranks of distances from the median."""
    halves = split(draws)
    return _rank_rhat(halves, normal_ranks(halves))


def _rank_rhat(halves, ranks):
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    found = np.maximum(_rhat(ranks), _rhat(normal_ranks(folded)))
    return np.where(np.isfinite(found), found, np.inf)


def score(draws):
    """What a run is judged by: bulk ESS of the parameters and of their squares about the mean, and R-hat."""
    halves = split(draws)
    ranks = normal_ranks(halves)
    found = ess(ranks)
    squares = (draws - draws.mean(axis=(0, 1))) ** 2
    return {
        "ess_min": float(found.min()),
        "ess_mean": float(found.mean()),
        "ess_square_min": float(bulk_ess(squares).min()),
        "rhat_max": float(_rank_rhat(halves, ranks).max()),
        "worst": int(found.argmin()),
    }


def estimates(quantities):
    """Mean and its Monte-Carlo error by name, of arrays of shape (chains, draws)."""
    draws = np.stack(list(quantities.values()), axis=-1)
    pairs = zip(draws.mean(axis=(0, 1)), mean_error(draws), strict=True)
    return {name: [float(mean), float(error)] for name, (mean, error) in zip(quantities, pairs, strict=True)}
