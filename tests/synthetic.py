"""Results made up for tests of diagnosis and plots, without a sampler."""

from __future__ import annotations

import json
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

#: What the installed ArviZ uses.
CONTAINER = "InferenceData" if int(az.__version__.split(".")[0]) < 1 else "DataTree"

SCHOOLS = ["Choate", "Deerfield", "Phillips Andover"]


def autoregressive(rng: np.random.Generator, shape: tuple[int, ...], rho: float | np.ndarray = 0.3) -> np.ndarray:
    """Stationary draws with unit variance whose last axis has the autocorrelation `rho`."""
    noise = rng.normal(size=shape)
    draws = noise.copy()
    for t in range(1, shape[-1]):
        draws[..., t] = rho * draws[..., t - 1] + np.sqrt(1 - rho**2) * noise[..., t]
    return draws


def clean_arrays(chains: int = 4, draws: int = 1000, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Posterior and statistics of a run without problems; tests change them."""
    rng = np.random.default_rng(seed)
    shape = (chains, draws)
    posterior = {
        "mu": autoregressive(rng, shape),
        "tau": np.exp(autoregressive(rng, shape)),
        "theta": np.moveaxis(autoregressive(rng, (len(SCHOOLS), *shape)), 0, -1),
    }
    logp = -0.5 * rng.chisquare(5, size=shape)
    stats = {
        "depth": rng.integers(2, 5, size=shape).astype(np.uint64),
        "maxdepth_reached": np.zeros(shape, dtype=bool),
        "index_in_trajectory": rng.integers(1, 8, size=shape),
        "logp": logp,
        "energy": -logp + 0.5 * rng.chisquare(5, size=shape),
        "mean_tree_accept": rng.uniform(0.6, 1.0, size=shape),
        "n_steps": rng.integers(3, 16, size=shape).astype(np.uint64),
        "step_size": rng.uniform(0.4, 0.5, size=shape),
        "step_size_bar": np.full(shape, 0.45),
        "diverging": np.zeros(shape, dtype=bool),
    }
    return posterior, stats


def adaptation_group(
    left: list[float], *, lagging: tuple[int, ...] = (), extended: bool = False, rejected_fits: int = 0
) -> xr.Dataset:
    """What tells of a warm-up with these condition numbers left, by chain."""
    chains = np.arange(len(left))
    variables: dict[str, Any] = {
        "lagging": ("chain", np.isin(chains, lagging)),
        "condition_number_left": ("chain", np.asarray(left, dtype=float)),
        "warmup_draws": ("chain", np.full(len(left), 400)),
        "warmup_gradients": ("chain", np.full(len(left), 1234)),
        "check_extended": ("check", np.array([True, False] if extended else [False])),
    }
    attrs = {"fits": 38, "rejected_fits": rejected_fits, "skipped_fits": 0, "verdict": "how it <went>"}
    return xr.Dataset(variables, coords={"chain": chains}, attrs=attrs)


def result_of(
    posterior: dict[str, np.ndarray],
    stats: dict[str, np.ndarray] | None,
    *,
    container: str = CONTAINER,
    settings: dict[str, Any] | None = None,
    warmup: dict[str, np.ndarray] | None = None,
    adaptation: xr.Dataset | None = None,
) -> Any:
    """Put arrays into a container of ArviZ; variables with three dimensions have schools."""
    chains, draws = next(iter(posterior.values())).shape[:2]
    numbers = {"num_tune": 400, "num_draws": draws, "num_chains": chains}
    attrs = {
        "inference_library_settings": json.dumps({"settings": numbers | (settings or {})}),
        "n_gradients": 20_000,
        "sampling_time": 2.0,
        "tuning_steps": 400,
    }
    coords: dict[str, Any] = {"chain": np.arange(chains), "draw": np.arange(draws)}
    variables: dict[str, Any] = {}
    for name, values in posterior.items():
        if values.ndim == 3 and values.shape[2] == len(SCHOOLS):
            dims: tuple[str, ...] = ("school",)
            coords["school"] = SCHOOLS
        else:
            dims = tuple(f"{name}_dim_{i}" for i in range(values.ndim - 2))
        variables[name] = (("chain", "draw", *dims), values)
    groups = {"posterior": xr.Dataset(variables, coords=coords, attrs=attrs)}
    for group, arrays in (("sample_stats", stats), ("warmup_sample_stats", warmup)):
        if arrays is not None:
            extra = ("unconstrained_parameter",)
            data = {name: (("chain", "draw", *extra[: v.ndim - 2]), v) for name, v in arrays.items()}
            groups[group] = xr.Dataset(data)
    if adaptation is not None:
        groups["adaptation"] = adaptation
    if container == "DataTree":
        return xr.DataTree.from_dict(groups)
    return az.InferenceData(**groups)
