"""Averages over independent seeds, compared with references.

The Monte-Carlo error of an average is its spread between independent seeds, so no formula for effective sample sizes
is needed. A quantile q of order p is tested as P(x <= q) = p, and the standard deviation around the reference's mean.
"""

import re

import numpy as np

import nutpie

SEEDS = 20

#: With 20 seeds and a reference of comparable error, a correct sampler exceeds this once in about 10,000 looks; there
#: are about 200. The seeds are fixed, so the tests pass or fail for good.
MAX_Z = 5.0

#: Largest standard error in standard deviations of the quantity: a tenth of a standard deviation is well visible.
MAX_ERROR = 0.025


def seed_draws(compiled, names, **settings):
    """Draws of each seed: a list of dictionaries from element name, such as ``beta[1]``, to numbers."""
    out = []
    for seed in range(SEEDS):
        result = nutpie.sample(compiled, chains=2, seed=seed, save_warmup=False, progress_bar=False, **settings)
        elements = {}
        for name in names:
            values = result.posterior[name].values
            flat = values.reshape(values.shape[0] * values.shape[1], -1)
            is_scalar = values.ndim == 2
            for i, column in enumerate(flat.T):
                elements[name if is_scalar else f"{name}[{i + 1}]"] = column
        out.append(elements)
    return out


def expectations(summary):
    """The expectations that a reference fixes: label, function of the draws, value, and sd of the function if known."""
    mean, sd = summary["mean"], summary["sd"]
    yield "mean", lambda x: x, mean
    yield "variance", lambda x: (x - mean) ** 2, sd**2
    for key, p in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        yield key, lambda x, q=summary[key]: x <= q, p


def averages(draws, name, function):
    """Average of each seed, and standard deviation of the function over all draws."""
    values = [function(seed[name]) for seed in draws]
    return np.array([v.mean() for v in values]), np.concatenate(values).std()


def assert_small(failures):
    assert not failures, "\n".join(failures)


def variable_names(summary):
    return sorted({re.sub(r"\[.*", "", name) for name in summary})


def assert_reference(draws, summaries, heavy_tailed=()):
    """Compare draws of each seed with means, variances and quantiles of a reference; of some only the quantiles."""
    failures = []
    for name, summary in summaries.items():
        for label, function, truth in expectations(summary):
            if name in heavy_tailed and label in ("mean", "variance"):
                continue
            per_seed, sd = averages(draws, name, function)
            # The reference's draws are nearly independent.
            error = np.hypot(per_seed.std(ddof=1) / np.sqrt(SEEDS), sd / np.sqrt(summary["draws"]))
            z = (per_seed.mean() - truth) / error
            line = f"{name} {label}: {per_seed.mean():.5g}, reference {truth:.5g}, z {z:.2f}, error {error / sd:.4f} sd"
            print(line)
            if not (abs(z) < MAX_Z and error < MAX_ERROR * sd):
                failures.append(line)
    assert_small(failures)
