"""PyMC models end to end against posteriordb's reference draws."""

import numpy as np
import pytest

pm = pytest.importorskip("pymc")
pytest.importorskip("numba")

import posteriors  # noqa: E402
from seeds import (  # noqa: E402
    MAX_ERROR,
    MAX_Z,
    SEEDS,
    assert_reference,
    assert_small,
    averages,
    expectations,
    seed_draws,
    variable_names,
)

import nutpie  # noqa: E402


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        (posteriors.eight_schools_noncentered, "eight_schools-eight_schools_noncentered"),
        (posteriors.kidscore_interaction, "kidiq-kidscore_interaction"),
        (posteriors.blr, "sblrc-blr"),
        (posteriors.ark, "arK-arK"),
        (posteriors.logmesquite, "mesquite-logmesquite_logvash"),
    ],
)
def test_reference_is_reproduced(model, reference):
    summaries = posteriors.reference(reference)
    draws = seed_draws(nutpie.compile_pymc_model(model()), variable_names(summaries))
    assert_reference(draws, summaries)


def test_centred_eight_schools_is_near_the_reference():
    # A funnel: its neck is out of reach of any sampler of this kind, so the answer is near but not exact.
    summaries = posteriors.reference("eight_schools-eight_schools_noncentered")
    model = posteriors.eight_schools_centered()
    draws = seed_draws(nutpie.compile_pymc_model(model), variable_names(summaries), target_accept=0.95)
    failures = []
    for name, summary in summaries.items():
        mean = np.mean([seed[name].mean() for seed in draws])
        sd = np.sqrt(np.mean([((seed[name] - mean) ** 2).mean() for seed in draws]))
        line = f"{name}: mean {mean:.3f}, sd {sd:.3f}; reference {summary['mean']:.3f}, {summary['sd']:.3f}"
        print(line)
        if not (abs(mean - summary["mean"]) < 0.15 * summary["sd"] and 0.85 < sd / summary["sd"] < 1.15):
            failures.append(line)
    assert_small(failures)


RADON = ["sigma_alpha", "sigma_y", "mu_alpha", "beta", "alpha"]


@pytest.fixture(scope="module")
def careful_radon():
    # There are no reference draws: short steps after a long warm-up are the reference, in the form without a funnel.
    return seed_draws(nutpie.compile_pymc_model(posteriors.radon(centred=False)), RADON, tune=1000, target_accept=0.95)


def test_radon_does_not_depend_on_the_settings(careful_radon):
    draws = seed_draws(nutpie.compile_pymc_model(posteriors.radon(centred=False)), RADON)
    careful = careful_radon
    failures = []
    for name in draws[0]:
        pooled = np.concatenate([seed[name] for seed in careful])
        summary = {"mean": pooled.mean(), "sd": pooled.std()}
        summary |= {key: np.quantile(pooled, p) for key, p in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95))}
        for label, function, _ in expectations(summary):
            (mine, sd), (others, _) = (averages(d, name, function) for d in (draws, careful))
            error = np.sqrt((mine.var(ddof=1) + others.var(ddof=1)) / SEEDS)
            z = (mine.mean() - others.mean()) / error
            line = f"{name} {label}: {mine.mean():.5g} and {others.mean():.5g}, z {z:.2f}, error {error / sd:.4f} sd"
            print(line)
            if not (abs(z) < MAX_Z and error < MAX_ERROR * sd):
                failures.append(line)
    assert_small(failures)


def test_radon_does_not_depend_on_the_parametrisation(careful_radon):
    # Centred it is a funnel, since sigma_alpha may be near zero: near, not exact, as for eight schools.
    draws = seed_draws(nutpie.compile_pymc_model(posteriors.radon(centred=True)), RADON)
    failures = []
    for name in draws[0]:
        mine, careful = (np.concatenate([seed[name] for seed in d]) for d in (draws, careful_radon))
        line = f"{name}: mean {mine.mean():.4f}, sd {mine.std():.4f}; careful {careful.mean():.4f}, {careful.std():.4f}"
        print(line)
        if not (abs(mine.mean() - careful.mean()) < 0.2 * careful.std() and 0.8 < mine.std() / careful.std() < 1.2):
            failures.append(line)
    assert_small(failures)
