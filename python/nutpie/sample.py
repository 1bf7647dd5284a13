"""`sample`: from a compiled model to a result."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie.diagnose import warn_if_needed
from nutpie.initial import starting_points
from nutpie.run import Run
from nutpie.settings import document, resolve

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel

__all__ = ["sample"]

_KEYWORDS = ("draws", "tune", "chains", "cores", "seed", "init", "save_warmup", "progress_bar", "check")


@document
def sample(
    compiled_model: CompiledModel,
    *,
    draws: int = 1000,
    tune: int | None = None,
    chains: int = 4,
    cores: int | None = None,
    seed: int | None = None,
    init: Any = None,
    save_warmup: bool = True,
    progress_bar: bool = True,
    check: bool = True,
    **settings: Any,
) -> Any:
    """Sample from the posterior distribution of a compiled model with the no-U-turn sampler.

    During warm-up a diagonal metric is estimated from draws and gradients by the Fisher divergence (Seyboldt, Carlson
    and Carpenter 2025), and the step size by dual averaging (Hoffman and Gelman 2014). Draws depend on the seed, the
    model and the settings, not on the number of cores.

    Parameters
    ----------
    compiled_model : CompiledModel
        What `nutpie.compile_pymc_model` returns.
    draws : int, default 1000
        Draws of each chain after warm-up. May be 0.
    tune : int, optional
        Warm-up draws of each chain; 400 by default. With 0 the metric comes from the first gradient and the step size
        from a short search.
    chains : int, default 4
        Number of chains.
    cores : int, optional
        Number of threads that run chains; by default as many as the process may use. There may be more chains than
        cores.
    seed : int, optional
        Seed of all random numbers, from 0 to 2**64 - 1. Random by default, and kept in the result.
    init : array_like, optional
        Start on the unconstrained scale: of shape (n_dim,) for all chains or (chains, n_dim). The default is the
        model's own random start.
    save_warmup : bool, default True
        Whether the result has the warm-up draws, in groups of their own.
    progress_bar : bool, default True
        Whether to show the progress.
    check : bool, default True
        Whether to look at the draws at the end and give a `SamplingWarning` if something is wrong with them. The check
        is quick and looks at some parameters only; `nutpie.diagnose` looks at all. A run that was interrupted is not
        checked.
    **settings
        Settings of the sampler, listed by `nutpie.settings`.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        Groups ``posterior`` and ``sample_stats``, both also with prefix ``warmup_``, and the model's data; the type is
        that of the installed ArviZ. After an interrupt (Ctrl-C) it holds the draws so far.

    Raises
    ------
    TypeError
        For a keyword that does not exist, naming the nearest, or a value of the wrong type.
    ValueError
        For a value out of bounds, or when no start with a finite log density and gradient is found, naming the
        variables.
    Exception
        Any exception of the model's code arrives as it is; the draws so far are in its attribute ``partial_trace``.

    Examples
    --------
    >>> idata = nutpie.sample(compiled, draws=500, seed=1)
    >>> idata.posterior["mu"].mean()
    """
    options = resolve(settings, other_keywords=_KEYWORDS)
    counts = _counts(draws=draws, tune=400 if tune is None else tune, chains=chains, cores=cores)
    seed = _seed(seed)
    density = compiled_model.density()
    starts = starting_points(compiled_model, density, init, seed, counts["chains"])
    run = Run(density, starts, options, seed, counts, save_warmup=bool(save_warmup))
    run.execute(progress_bar=bool(progress_bar))
    result = run.result(compiled_model)
    if check:
        warn_if_needed(result)
    return result


def _counts(*, draws: int, tune: int, chains: int, cores: int | None) -> dict[str, int]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = {"draws": draws, "tune": tune, "chains": chains, "cores": available if cores is None else cores}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        least = 1 if name in ("chains", "cores") else 0
        if not least <= value < 2**32:
            raise ValueError(f"{name} must be at least {least} and below 2**32, not {value}")
    return {name: int(value) for name, value in counts.items()}


def _seed(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(64)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be a whole number or None, not {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, not {seed}")
    return int(seed)
