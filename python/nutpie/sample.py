"""`sample`: from a compiled model to a result."""

from __future__ import annotations

import inspect
import os
import secrets
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nutpie.initial import starting_points
from nutpie.progress import Callback, Watcher, make_display
from nutpie.progress.marimo import create_replace as _mo_create_replace  # noqa: F401 (PyMC looks for it here)
from nutpie.run import Plan, SamplingRun
from nutpie.settings import document, resolve

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel, PointwiseDensity

__all__ = ["sample"]

#: Samplers, and ways to adapt them.
SAMPLERS = ("nuts",)
ADAPTATIONS = ("diag",)


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
    init_candidates: int = 1,
    save_warmup: bool = True,
    thin: int = 1,
    store_unconstrained: bool = False,
    store_gradient: bool = False,
    store_mass_matrix: bool = False,
    store_divergences: bool = False,
    log_likelihood: bool = False,
    log_prior: bool = False,
    sampler: str = "nuts",
    adaptation: str = "diag",
    blocking: bool = True,
    progress_bar: bool | str = True,
    progress_callback: Callback | None = None,
    progress_rate: float = 100,
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
        What `nutpie.compile_pymc_model` and `nutpie.compile_stan_model` return.
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
    init : float, array_like, dict, list, callable or earlier result, optional
        Where the chains start:

        - None, the default: the model's own random start.
        - A number r: independent uniforms between -r and r on the unconstrained scale.
        - An array on the unconstrained scale, of shape (n_dim,) for all chains or (chains, n_dim).
        - A dict of values by name of a free variable, on the scale of the variable and of its shape. Names of
          unconstrained variables, such as ``sigma_log__``, take unconstrained values. Variables that are not in it
          have the model's own random start.
        - A list with one of these dicts or arrays of shape (n_dim,) for each chain; None there is the model's own
          random start.
        - A function of the index of a chain that returns any of the above for this chain.
        - An earlier result, or its group ``posterior``: chains start at the last draws of its chains, and at draws
          evenly spread before them if there are more new chains than old ones. All free variables have to be in it;
          others are ignored.

        Random starts with a log density or gradient that is not finite are drawn again, up to 100 times. Starts from
        the same seed are the same.
    init_candidates : int, default 1
        Number of random starts to draw for each chain; it starts at the one with the highest log density. Each costs
        a gradient. With more than a few, chains begin nearer to each other, and R-hat says less about modes that all
        of them miss.
    save_warmup : bool, default True
        Whether the result has the warm-up draws, in groups of their own. Without them they take no memory either.
    thin : int, default 1
        Keep one of every so many draws: the first, and so on.
    store_unconstrained : bool, default False
        Whether the result has the draws on the unconstrained scale, in groups ``unconstrained_posterior``.
    store_gradient : bool, default False
        Whether ``sample_stats`` has the gradient of the unconstrained log density at each draw, as ``gradient``.
    store_mass_matrix : bool, default False
        Whether ``sample_stats`` has the diagonal of the inverse mass matrix of each draw, as ``mass_matrix_inv``.
    store_divergences : bool, default False
        Whether the group ``divergences`` has, besides draw, energy and message, the unconstrained points: position
        (``start``), momentum and gradient where the step that diverged started, and the position where it ended
        (``end``).
    log_likelihood : bool, default False
        Whether the result has a group ``log_likelihood``: for each observed variable the log density of each
        observation at each draw after warm-up, as `arviz.loo` and `arviz.compare` need it. It takes as much memory as
        there are observations times draws.
    log_prior : bool, default False
        Whether the result has a group ``log_prior``: for each free variable its log density at each draw after
        warm-up, on the scale of the variable (without the Jacobian of a transform), as `arviz.psens` needs it.
    sampler : {"nuts"}, default "nuts"
        The sampler.
    adaptation : {"diag"}, default "diag"
        The form of the inverse mass matrix.
    blocking : bool, default True
        Whether to wait for the result. Otherwise the run goes on in the background, and the return value is a handle.
    progress_bar : bool or {"terminal", "notebook", "marimo", "plain"}, default True
        Whether to show the progress, on the standard error stream or in the notebook's cell. True chooses what fits: a
        table that is updated in place, and plain lines where there is no terminal.
    progress_callback : callable, optional
        Function that is called while the run goes on, and once more at its end, with a list of `ChainProgress`, one for
        each chain. If it returns `nutpie.STOP`, the run ends and the result has the draws so far; other values mean
        nothing. It is called by the thread that waits for the run, so a slow one delays the display, not the chains.
    progress_rate : float, default 100
        Milliseconds between calls of `progress_callback`.
    check : bool, default True
        Whether to look at the draws at the end and give a `SamplingWarning` if something is wrong with them. The check
        is quick and looks at some parameters only; `nutpie.diagnose` looks at all. A run that was stopped early is not
        checked.
    **settings
        Settings of the sampler, listed by `nutpie.settings`.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        Groups ``posterior`` and ``sample_stats``, both also with prefix ``warmup_``, ``divergences`` if there were
        some, ``initial_points``, ``log_likelihood`` and ``log_prior`` if asked for, and the model's data; the type is
        that of the installed ArviZ. After an interrupt (Ctrl-C) it holds the draws so far.
    nutpie.run.SamplingRun
        The handle, with ``blocking=False``.

    Raises
    ------
    TypeError
        For a keyword that does not exist, naming the nearest, or a value of the wrong type.
    NotImplementedError
        For ``log_likelihood`` or ``log_prior`` with a model whose log density has no known terms.
    ValueError
        For a value out of bounds; for ``log_likelihood`` with a model without observed variables; for a start whose
        names, shapes or values do not fit the model; or when no start with a finite log density and gradient is found,
        naming the variables.
    Exception
        Any exception of the model's code or of ``progress_callback`` ends the run and arrives as it is; the draws so
        far are in its attribute ``partial_trace``.

    Examples
    --------
    >>> idata = nutpie.sample(compiled, draws=500, seed=1)
    >>> idata.posterior["mu"].mean()
    """
    resolved = resolve(settings, other_keywords=inspect.signature(sample).parameters)
    _choice("sampler", sampler, SAMPLERS)
    _choice("adaptation", adaptation, ADAPTATIONS)
    counts = _counts(draws=draws, tune=400 if tune is None else tune, chains=chains, cores=cores, thin=thin)
    counts["cores"] = compiled_model.usable_cores(counts["cores"], counts["chains"])
    keep = {
        "warmup": bool(save_warmup),
        "unconstrained": bool(store_unconstrained),
        "gradient": bool(store_gradient),
        "metric": bool(store_mass_matrix),
        "divergences": bool(store_divergences),
        "thin": counts.pop("thin"),
    }
    plan = Plan(seed=_seed(seed), settings=resolved, keep=keep, **counts)
    wanted: dict[Literal["log_likelihood", "log_prior"], bool] = {
        "log_likelihood": log_likelihood,
        "log_prior": log_prior,
    }
    pointwise: dict[str, PointwiseDensity] = {
        group: compiled_model.pointwise(group) for group, asked in wanted.items() if asked
    }
    density = compiled_model.density()
    starts = starting_points(compiled_model, density, init, plan.seed, plan.chains, init_candidates)
    display = make_display(progress_bar, tune=plan.tune, background=not blocking)
    run = SamplingRun(
        compiled_model,
        starts,
        plan,
        pointwise,
        lambda read: Watcher(read, display, progress_callback, progress_rate),
        check=check,
    )
    return run._wait_here() if blocking else run._in_background()


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not available; choose from {', '.join(map(repr, allowed))}")


def _counts(*, draws: int, tune: int, chains: int, cores: int | None, thin: int) -> dict[str, int]:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = {"draws": draws, "tune": tune, "chains": chains, "cores": available if cores is None else cores}
    counts["thin"] = thin
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        least = 1 if name in ("chains", "cores", "thin") else 0
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
