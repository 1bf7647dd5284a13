"""Growth of thirty young rats: a hierarchical model of real data, from data to figures.

Thirty rats were weighed at the ages of 8, 15, 22, 29 and 36 days (Gelfand, Hills, Racine-Poon and Smith 1990,
"Illustration of Bayesian inference in normal data models using Gibbs sampling"). Each rat has a weight and a speed of
growth of its own; both vary around the population's. The run prints a summary and saves the result and two figures.

    python examples/rats.py [--output demo-output] [--draws 1000] [--seed 20260101]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import nutpie

matplotlib.use("Agg")

HERE = Path(__file__).resolve().parent
DAYS = np.array([8.0, 15.0, 22.0, 29.0, 36.0])


def read_weights() -> np.ndarray:
    """Weights in grams, of shape (rats, days)."""
    return np.loadtxt(HERE / "rats.csv", delimiter=",", skiprows=1)[:, 1:]


def build_model(weights: np.ndarray) -> pm.Model:
    """Straight lines with a level (at 22 days) and a slope for each rat."""
    coords = {"rat": np.arange(1, len(weights) + 1), "day": DAYS.astype(int)}
    with pm.Model(coords=coords) as model:
        age = pm.Data("age", DAYS - DAYS.mean(), dims="day")
        level = pm.Normal("level", 240, 100)
        growth = pm.Normal("growth", 6, 10)
        level_sd = pm.HalfNormal("level_sd", 50)
        growth_sd = pm.HalfNormal("growth_sd", 5)
        noise = pm.HalfNormal("noise", 50)
        rat_level = pm.Normal("rat_level", level, level_sd, dims="rat")
        rat_growth = pm.Normal("rat_growth", growth, growth_sd, dims="rat")
        mean = rat_level[:, None] + rat_growth[:, None] * age[None, :]
        pm.Deterministic("weight_at_birth", level - growth * DAYS.mean())
        pm.Normal("weight", mean, noise, observed=weights, dims=("rat", "day"))
    return model


def plot_growth(idata: Any, weights: np.ndarray, path: Path) -> None:
    """Plot data and fitted lines, and how the rats' speeds of growth shrink towards the population's."""
    post = idata.posterior
    level, growth = (post[name].mean(("chain", "draw")).values for name in ("rat_level", "rat_growth"))
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for rat in range(len(weights)):
        (line,) = left.plot(DAYS, level[rat] + growth[rat] * (DAYS - DAYS.mean()), lw=0.8, alpha=0.7)
        left.plot(DAYS, weights[rat], ".", ms=4, color=line.get_color())
    left.set(xlabel="age (days)", ylabel="weight (g)", title="Weights and posterior mean lines")
    alone = np.polyfit(DAYS, weights.T, 1)[0]
    spread = post["rat_growth"].quantile([0.05, 0.95], ("chain", "draw")).values
    order = np.argsort(growth)
    right.vlines(np.arange(len(order)), *spread[:, order], color="tab:blue", alpha=0.4, label="90 % interval")
    right.plot(growth[order], "o", ms=4, color="tab:blue", label="posterior mean")
    right.plot(alone[order], "x", ms=4, color="tab:orange", label="least squares, each rat alone")
    right.axhline(float(post["growth"].mean()), color="gray", lw=0.8)
    right.set(xlabel="rats, by growth", ylabel="growth (g per day)", title="Partial pooling")
    right.legend(frameon=False)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20260101)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    weights = read_weights()
    start = time.perf_counter()
    compiled = nutpie.compile_pymc_model(build_model(weights))
    print(f"compiled {compiled.n_dim} parameters in {time.perf_counter() - start:.1f} s")
    idata = nutpie.sample(compiled, draws=args.draws, seed=args.seed)
    attrs = idata.posterior.attrs
    print(f"sampled in {attrs['sampling_time']:.2f} s with {attrs['n_gradients']} gradients")

    names = ["level", "growth", "level_sd", "growth_sd", "noise", "weight_at_birth"]
    print(az.summary(idata, var_names=names, round_to=2).to_string())
    print(f"divergences: {int(idata.sample_stats['diverging'].sum())}")
    idata.to_netcdf(str(args.output / "rats.nc"))
    plot_growth(idata, weights, args.output / "growth.png")
    az.plot_trace(idata, var_names=names)
    plt.tight_layout()
    plt.savefig(args.output / "trace.png", dpi=80)
    print(f"saved rats.nc, growth.png and trace.png in {args.output}/")


if __name__ == "__main__":
    main()
