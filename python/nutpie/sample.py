"""`sample`: from a compiled model to a result."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nutpie import _lib
from nutpie._arguments import available_cores, choice, flag, whole_number
from nutpie.devices import Devices
from nutpie.initial import starting_points
from nutpie.metric import metrics_for_chains
from nutpie.models.base import CompiledModel
from nutpie.plan import Plan
from nutpie.progress import Callback, Watcher, make_display
from nutpie.progress.marimo import create_replace as _mo_create_replace  # noqa: F401 (PyMC looks for it here)
from nutpie.run import SamplingRun
from nutpie.settings import POOLED, document, resolve

if TYPE_CHECKING:
    from nutpie.models.base import PointwiseDensity

__all__ = ["sample"]

#: Samplers, and ways to adapt them.
SAMPLERS = tuple(name for name, _, _ in _lib.samplers())
ADAPTATIONS = {name: tune for name, tune, _ in _lib.adaptations()}

#: Chains of a run, and of an ensemble, and the warm-up draws of that.
CHAINS, ENSEMBLE_CHAINS, ENSEMBLE_TUNE = 4, 64, 300


@document
def sample(
    compiled_model: CompiledModel,
    *,
    draws: int = 1000,
    tune: int | None = None,
    chains: int | None = None,
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
    adaptation: str = "auto",
    metric: Any = None,
    device: str | Sequence[str] = "cpu",
    device_dtype: str | None = None,
    blocking: bool = True,
    progress_bar: bool | str = True,
    progress_callback: Callback | None = None,
    progress_rate: float = 100,
    check: bool = True,
    **settings: Any,
) -> Any:
    """Sample from the posterior distribution of a compiled model, by default with the no-U-turn sampler.

    During warm-up the metric is estimated from draws and gradients by the Fisher divergence (Seyboldt, Carlson and
    Carpenter 2025), pooled over chains and with as many eigenvectors as they call for, and the step size by dual
    averaging (Hoffman and Gelman 2014). Draws depend on the seed, the model and the settings, not on the number of
    cores.

    Parameters
    ----------
    compiled_model : CompiledModel
        What `nutpie.compile_pymc_model`, `nutpie.compile_stan_model`, `nutpie.from_logp`, `nutpie.from_cfunc` and their
        like return.
    draws : int, default 1000
        Draws of each chain after warm-up. May be 0.
    tune : int, optional
        Warm-up draws of each chain. By default the adaptation's own number, which is 150 for ``"auto"``; then a
        pooled warm-up (``"auto"``, ``"low_rank"``, ``"dense"``) also goes on, 100 draws at a time, while the metric
        is bad at its end and gets better. A number is never exceeded. With ``sampler="meads"`` the default is 300.
        With 0 the metric comes from the first gradient and the step size from a short search.
    chains : int, optional
        Number of chains: by default 4, and 64 with ``sampler="meads"``.
    cores : int, optional
        Number of threads that run chains; by default as many as the process may use. There may be more chains than
        cores. Chains of a density that is a Python function share one thread and its calls, unless the function
        releases the lock of the interpreter.
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
        Whether the result has the warm-up draws, in groups of their own. Without them they take no memory either. Of
        chains whose warm-ups differ in length, which happens with ``pool=False``, it has as many as the shortest made.
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
    sampler : {"nuts", "mams", "auto", "hmc", "walnuts", "meads"}, default "nuts"
        What makes the draws after the warm-up, which is done with the no-U-turn sampler, but for ``"meads"``:

        - ``"nuts"``: the no-U-turn sampler.
        - ``"mams"``: the Metropolis-adjusted microcanonical sampler (Robnik, Cohn-Gordon and Seljak 2025), which for
          the same gradients tells more of variances and tails. It takes several transitions for each draw, so that a
          draw costs about what it costs with ``"nuts"``. For models with two parameters or more.
        - ``"auto"``: ``"mams"`` where the warm-up ended well, with a metric that fits and no chain far below the
          others, and there are three parameters or more; otherwise ``"nuts"``. The result says which one, and why, in
          the attributes ``kernel`` and ``kernel_reason`` of its group ``adaptation``.
        - ``"hmc"``: Hamiltonian Monte Carlo with trajectories whose length does not depend on where they go, of several
          kinds (``trajectory``), with as many for each draw as ``"mams"`` takes.
        - ``"walnuts"``: the no-U-turn sampler with steps that adapt within a trajectory (Bou-Rabee, Carpenter, Kleppe
          and Liu 2025), for scales that vary so much that steps for the whole are too large for some part. Draws from
          such parts cost more, the others what they cost with ``"nuts"``.

        - ``"meads"``: generalised Hamiltonian Monte Carlo with many chains, each transition of which takes one gradient
          (Hoffman and Sountsov 2022). A short run of the no-U-turn sampler, with the warm-up that `adaptation` names,
          finds the posterior from any start; the chains begin at its draws and warm up as an ensemble. For many short
          chains at once, as of densities that evaluate many points in one call.

        All but ``"nuts"`` and ``"auto"`` need a warm-up, and one of the adaptations ``"auto"``, ``"low_rank"`` and
        ``"dense"``.
    adaptation : str, default "auto"
        How the inverse mass matrix is estimated:

        - ``"auto"``: chains pool their draws and gradients once they are near each other, and the matrix has as many
          eigenvectors as these call for, from none (diagonal) to all (dense).
        - ``"low_rank"``, ``"dense"``: the same with a matrix of this form.
        - ``"diag"``, ``"low_rank_windows"``: each chain by itself, in windows that grow (Seyboldt, Carlson and
          Carpenter 2025); ``"draw_diag"`` uses the variances of the draws alone.
        - ``"stan"``, ``"stan_dense"``: the warm-up of Stan.
        - ``"fixed"``: the matrix that `metric` gives; only the step size is adapted.
    metric : result, array_like, dict, Metric or list, optional
        Inverse mass matrix to begin with, on the unconstrained scale. Its ideal is the posterior covariance. With
        ``adaptation="fixed"`` it stays. By default it comes from the first gradient.

        - An earlier result, or its group ``mass_matrix``: that of each of its chains, from the first again for more
          chains; not that of a chain that lagged. The models must have the same parameters.
        - An array of shape (n_dim,): the diagonal.
        - An array of shape (n_dim, n_dim): the whole matrix.
        - A dict with ``stds`` of shape (n_dim,) and perhaps ``eigvals`` (rank,) and orthonormal ``eigvecs``
          (rank, n_dim), or a `nutpie.metric.Metric`.
        - A list with one of these for each chain; None there is the default.
    device : {"cpu", "jax", "cuda", "opencl"} or list of str, default "cpu"
        Where positions, momenta, gradients and estimates live, and who does the arithmetic on them:

        - ``"cpu"``: the process, with `cores` threads.
        - ``"jax"``: JAX, for densities that are functions of JAX. Step, log density, gradient and energies are one
          compiled call for all chains, and positions do not come to the host but for draws. ``"jax:1"`` is the second
          device of JAX, ``"jax:gpu"`` or ``"jax:gpu:1"`` one of a platform.
        - ``"cuda"``, ``"opencl"``: a GPU, by kernels of this package; ``"cuda:1"`` is the second one.

        All chains are one block on another device than ``"cpu"``, whose chains do not wait for each other's
        trajectories. With a list of devices of a kind chains are dealt over them. Draws from the same seed agree on all
        devices until rounding parts them.
    device_dtype : {"float64", "float32"}, optional
        Precision of these arrays on another device than ``"cpu"``; energies are sums in double precision in any case.
        The default is double precision, and with ``"jax"`` that of the model.
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
        some, ``mass_matrix`` and ``adaptation``, which tell of the warm-up, ``initial_points``, ``log_likelihood`` and
        ``log_prior`` if asked for, and the model's data; the type is that of the installed ArviZ. After an interrupt
        (Ctrl-C) it holds the draws so far.
    nutpie.run.SamplingRun
        The handle, with ``blocking=False``.

    Raises
    ------
    TypeError
        For a keyword that does not exist, naming the nearest, or a value of the wrong type.
    NotImplementedError
        For ``log_likelihood`` or ``log_prior`` with a model whose log density has no known terms.
    ValueError
        For a device that does not exist or does not suit the model; for a value out of bounds; for a setting that has
        no effect with this ``adaptation`` or ``sampler``; for a ``sampler`` that this model or warm-up does not allow;
        for ``log_likelihood`` with a model without observed variables; for a start or metric whose names, shapes or
        values do not fit the model; or when no start with a finite log density and gradient is found, naming the
        variables.
    Exception
        Any exception of the model's code or of ``progress_callback`` ends the run and arrives as it is. Its attribute
        ``partial_trace`` is a result with all draws so far and their statistics; draws whose variables could not be
        computed are on the unconstrained scale, in ``unconstrained_posterior``.

    Examples
    --------
    >>> idata = nutpie.sample(compiled, draws=500, seed=1)
    >>> idata.posterior["mu"].mean()
    """
    choice("sampler", sampler, SAMPLERS)
    choice("adaptation", adaptation, tuple(ADAPTATIONS))
    resolved = resolve(
        settings, adaptation=adaptation, sampler=sampler, other_keywords=inspect.signature(sample).parameters
    )
    ensemble = sampler == "meads"
    if chains is None:
        chains = ENSEMBLE_CHAINS if ensemble else CHAINS
    planned = (ENSEMBLE_TUNE if ensemble else ADAPTATIONS[adaptation]) if tune is None else tune
    counts = _counts(draws=draws, tune=planned, chains=chains, cores=cores, thin=thin)
    keep = {
        "warmup": flag("save_warmup", save_warmup),
        "gradient": flag("store_gradient", store_gradient),
        "metric": flag("store_mass_matrix", store_mass_matrix),
        "divergences": flag("store_divergences", store_divergences),
        "thin": counts.pop("thin"),
    }
    if not isinstance(compiled_model, CompiledModel):
        kind = type(compiled_model).__name__
        raise TypeError(
            "sample() takes what nutpie.compile_pymc_model(model), nutpie.compile_stan_model(...) or one of the "
            f"functions nutpie.from_... returns, not an object of type {kind}"
        )
    counts["cores"] = compiled_model.usable_cores(counts["cores"], counts["chains"])
    density = compiled_model.density_for(counts["chains"])
    plan = Plan(
        seed=secrets.randbits(64) if seed is None else whole_number("seed", seed, bits=64),
        sampler=sampler,
        adaptation=adaptation,
        extend=tune is None and not ensemble,
        settings=resolved,
        keep=keep,
        store_unconstrained=flag("store_unconstrained", store_unconstrained),
        devices=Devices.of(device, device_dtype, density),
        **counts,
    )
    wanted: dict[Literal["log_likelihood", "log_prior"], bool] = {
        "log_likelihood": flag("log_likelihood", log_likelihood),
        "log_prior": flag("log_prior", log_prior),
    }
    check, blocking = flag("check", check), flag("blocking", blocking)
    pointwise: dict[str, PointwiseDensity] = {
        group: compiled_model.pointwise(group) for group, asked in wanted.items() if asked
    }
    _check_sampler(plan, compiled_model.n_dim)
    starts = starting_points(compiled_model, density, init, plan.seed, plan.chains, init_candidates)
    if plan.has_pilot:
        starts = starts[plan.first_of_superchain]
    metrics = metrics_for_chains(metric, compiled_model.unconstrained_names, plan.chains)
    display = make_display(progress_bar, background=not blocking)
    run = SamplingRun(
        compiled_model,
        density,
        starts,
        plan,
        metrics,
        pointwise,
        lambda read: Watcher(read, display, progress_callback, progress_rate),
        check=check,
    )
    return run._wait_here() if blocking else run._in_background()


def _check_sampler(plan: Plan, n_dim: int) -> None:
    """Raise a ValueError if a sampler was asked for that this run cannot have."""
    if not plan.hands_over or plan.sampler == "auto":
        return
    why = ""
    if plan.adaptation not in POOLED:
        why = f"adaptation={plan.adaptation!r} does not prepare it; it is for {' or '.join(map(repr, POOLED))}"
    elif plan.sampler == "meads":
        folds = int(plan.settings.get("meads_folds", 4))
        if plan.chains < 2 * folds:
            why = f"{folds} folds of two chains or more need chains={2 * folds} at least, and there are {plan.chains}"
    elif plan.tune == 0:
        why = "it needs a warm-up, and tune is 0"
    elif plan.sampler == "mams" and n_dim < 2:
        why = "it needs two parameters or more, and this model has " + str(n_dim)
    if why:
        asked = "integrator='exact_normal'" if plan.sampler == "nuts" else f"sampler={plan.sampler!r}"
        instead = "integrator='leapfrog'" if plan.sampler == "nuts" else "sampler='nuts'"
        raise ValueError(f"{asked} is not possible here: {why}. Use {instead}")


def _counts(*, draws: int, tune: int, chains: int, cores: int | None, thin: int) -> dict[str, int]:
    cores = available_cores() if cores is None else cores
    least = {"draws": 0, "tune": 0, "chains": 1, "cores": 1, "thin": 1}
    given = {"draws": draws, "tune": tune, "chains": chains, "cores": cores, "thin": thin}
    return {name: whole_number(name, value, least=least[name]) for name, value in given.items()}
