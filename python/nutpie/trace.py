"""From the numbers of a run to an ArviZ object."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie import _lib
from nutpie._draws import Block, ChainDraws
from nutpie._messages import Failures
from nutpie._tables import PARAMETER, WARMUP, Source, draw_groups, own_dims, used_coords
from nutpie._warmup import warmup_groups
from nutpie.models.base import DrawContext, Variable

if TYPE_CHECKING:
    from nutpie.models.base import CompiledModel, PointwiseDensity
    from nutpie.plan import Plan

__all__ = ["Block", "ChainDraws", "attach", "build_result"]

#: Names under which ArviZ looks for statistics, beside the sampler's own.
ALIASES = {
    "acceptance_rate": "mean_tree_accept",
    "tree_depth": "depth",
    "reached_max_treedepth": "maxdepth_reached",
    "lp": "logp",
}

#: Statistics that are vectors, by what the core is told to keep: name, attribute of `Block`, and what it is.
VECTOR_STATISTICS = {
    "gradient": ("gradient", "gradients", "Gradient of the unconstrained log density at the draw."),
    "metric": ("mass_matrix_inv", "metrics", "Diagonal of the inverse mass matrix after the draw."),
}

#: Vectors of the group `divergences`, in the order in which the core gives them.
DIVERGENCE_POINTS = {
    "start": "Position where the step that diverged started.",
    "momentum": "Momentum where the step that diverged started.",
    "gradient": "Gradient of the log density where the step that diverged started.",
    "end": "Position where the step that diverged ended.",
}


def build_result(
    model: CompiledModel,
    chains: Sequence[ChainDraws],
    plan: Plan,
    seconds: float,
    pointwise: Mapping[str, PointwiseDensity] | None = None,
    shared: Mapping[str, Any] | None = None,
    messages: Sequence[tuple[str, int]] = (),
) -> Any:
    """Build the result of a run.

    Parameters
    ----------
    model
        Gives the variables, their coordinates and the data.
    chains
        The draws, which this function takes out of the lists: afterwards they are empty.
    plan
        What the run was asked for.
    seconds
        Time that the run took.
    pointwise
        Terms of the log density by group, as from `CompiledModel.pointwise`; computed for the draws after warm-up.
    shared
        What the core says of the warm-up that chains had in common.
    messages
        Messages of the log density and how often each came, as from `Density.messages`.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The first with ArviZ 0.x, the second with later ones.

    Raises
    ------
    Exception
        What the model raises when variables are computed from draws. Its attribute ``partial_trace`` has the rest of
        the result. Each draw is in it: in the groups of the model's variables if these could be computed, otherwise on
        the unconstrained scale. Values that are missing are NaN.
    """
    save_warmup = bool(plan.keep.get("warmup", True))
    failures = Failures()
    sources = _sources(model, chains, plan, pointwise or {}, failures)
    groups, error = draw_groups(model, chains, sources, save_warmup=save_warmup)
    try:
        groups["initial_points"] = _initial_points(model, plan, np.stack([c.start for c in chains]), failures)
    except Exception as found:
        error = error or found
    divergences = _divergences(model, chains, plan)
    if divergences is not None:
        groups["divergences"] = divergences
    groups |= warmup_groups(model, chains, plan, shared or {})
    if messages or failures:
        groups["messages"] = failures.table(messages)
        failures.warn()
    for name, arrays in model.data_groups().items():
        if arrays:
            groups[name] = _data_group(model, arrays)
    if "posterior" in groups:
        groups = model.complete(groups)
    attrs = _attributes(chains, plan, seconds) | model.attributes()
    result = _assemble({name: group.assign_attrs(attrs) for name, group in groups.items()})
    if error is not None:
        attach(
            error,
            result,
            "not all variables could be computed from the draws; the rest of the result is in the attribute "
            "`partial_trace` of this exception, with these draws on the unconstrained scale",
        )
        raise error
    return result


def attach(error: BaseException, result: Any, note: str) -> None:
    """Send what there is of a result along with an exception."""
    with contextlib.suppress(AttributeError, TypeError):
        error.partial_trace = result  # type: ignore[attr-defined]
        error.add_note(f"nutpie: {note}")


def _sources(
    model: CompiledModel,
    chains: Sequence[ChainDraws],
    plan: Plan,
    pointwise: Mapping[str, PointwiseDensity],
    failures: Failures,
) -> list[Source]:
    """List the groups that are computed from draws. A further column of the store is a variable of one of them."""
    statistics = [_statistics_source(model, plan, plan.warmup_kernel)]
    if (kernel := _kernel(chains, plan)) != plan.warmup_kernel:
        statistics = [
            dataclasses.replace(_statistics_source(model, plan, kernel), prefixes=("",)),
            dataclasses.replace(statistics[0], prefixes=(WARMUP,)),
        ]
    return [
        _expanded_source(model, plan, failures, ""),
        _expanded_source(model, plan, failures, WARMUP),
        *statistics,
        *(_pointwise_source(group, density) for group, density in pointwise.items()),
        *([_unconstrained_source(model)] if plan.store_unconstrained else []),
    ]


def _expanded_source(model: CompiledModel, plan: Plan, failures: Failures, prefix: str) -> Source:
    """Return the variables of the model; messages of what could not be computed go to ``failures``."""
    thin = int(plan.keep.get("thin", 1))

    def expand(block: Block, chain: int, first: int) -> Mapping[str, np.ndarray]:
        numbers = thin * np.arange(first, first + len(block))
        context = DrawContext(plan.seed, chain, numbers, prefix == WARMUP, failures.report)
        return model.expand_draws(block.positions, context)

    variables = model.warmup_variables if prefix == WARMUP else model.variables
    instead = None if plan.store_unconstrained else _unconstrained_source(model)
    return Source("posterior", variables, expand, prefixes=(prefix,), instead=instead)


def _unconstrained_source(model: CompiledModel) -> Source:
    variables = model.unconstrained_variables
    return Source("unconstrained_posterior", variables, lambda b, *_: _split(b.positions, variables), copied=True)


def _kernel(chains: Sequence[ChainDraws], plan: Plan) -> str:
    """Name the kernel of the draws after the warm-up, which is the same in all chains that have some."""
    # Chains without draws have the default.
    return next((c.kernel for c in chains if c.kernel != "nuts"), plan.warmup_kernel)


def _statistics_source(model: CompiledModel, plan: Plan, kernel: str) -> Source:
    statistics = _lib.statistics(kernel)
    variables = [Variable(name, (), np.dtype(dtype)) for name, dtype, _, _ in statistics]
    descriptions = {name: doc for name, _, doc, _ in statistics}
    for kept, (name, _, doc) in VECTOR_STATISTICS.items():
        if plan.keep.get(kept):
            variables.append(Variable(name, (model.n_dim,), np.dtype(np.float64), (PARAMETER,)))
            descriptions[name] = doc

    def values(block: Block, *_: int) -> dict[str, np.ndarray]:
        found = {name: block.stats[:, column] for name, _, _, column in statistics}
        return found | {name: getattr(block, field) for name, field, _ in VECTOR_STATISTICS.values()}

    aliases = {alias: name for alias, name in ALIASES.items() if name in descriptions}
    return Source("sample_stats", variables, values, descriptions=descriptions, aliases=aliases, copied=True)


def _split(positions: np.ndarray, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
    """Cut unconstrained points into the variables whose values lie one after the other in them."""
    found, start = {}, 0
    for v in variables:
        stop = start + math.prod(v.shape)
        found[v.name] = positions[:, start:stop].reshape(len(positions), *v.shape)
        start = stop
    return found


def _pointwise_source(group: str, density: PointwiseDensity) -> Source:
    return Source(group, density.variables, lambda b, *_: density.compute(b.positions), prefixes=("",))


def _divergences(model: CompiledModel, chains: Sequence[ChainDraws], plan: Plan) -> Any | None:
    """Return a table of all divergences, of draws that are not kept too; None if there were none."""
    import xarray as xr

    rows = [(c.chain, c.tune, *row) for c in chains for row in c.divergences]
    if not rows:
        return None
    chain, tune, draw, tuning, energy, error, points = zip(*rows, strict=True)
    tuned = np.array(tuning)
    columns = {
        "chain": (np.array(chain, dtype=np.int64), "Index of the chain."),
        "draw": (np.array(draw) - np.where(tuned, 0, tune), "Index of the draw within the warm-up or after it."),
        "tuning": (tuned, "Whether the draw belongs to the warm-up."),
        "energy": (np.array(energy), "Energy where the step that diverged ended."),
        "energy_error": (np.array(error), "That less the energy at the start of the trajectory."),
        "message": (np.array([_divergence_message(e) for e in error]), "What made the step a divergence."),
    }
    variables: dict[str, Any] = {n: (("divergence",), v, {"description": doc}) for n, (v, doc) in columns.items()}
    if plan.keep.get("divergences"):
        for index, (name, doc) in enumerate(DIVERGENCE_POINTS.items()):
            if name == "momentum" and _kernel(chains, plan) != "nuts":
                # Further transitions of the same draw have overwritten it.
                continue
            vectors = np.stack([p[index] for p in points])
            variables[name] = (("divergence", PARAMETER), vectors, {"description": doc})
    coords = {"divergence": np.arange(len(rows))}
    if plan.keep.get("divergences"):
        coords[PARAMETER] = np.asarray(model.unconstrained_names)
    return xr.Dataset(variables, coords=coords)


def _divergence_message(energy_error: float) -> str:
    if np.isfinite(energy_error):
        return f"the energy rose by {energy_error:.4g}, more than max_energy_error"
    return "the log density, its gradient or the position was not finite, or the model reported a recoverable error"


def _initial_points(model: CompiledModel, plan: Plan, starts: np.ndarray, failures: Failures) -> Any:
    """Return where the chains started: the variables of the posterior, and the unconstrained point."""
    import xarray as xr

    context = DrawContext(plan.seed, 0, np.arange(len(starts)), warmup=True, report=failures.report)
    values = model.expand_draws(starts, context)
    variables: dict[str, Any] = {
        v.name: (("chain", *own_dims(v.name, v.shape, v.dims)), values[v.name]) for v in model.warmup_variables
    }
    # Not under its bare name if the model has a variable of that name.
    name = "unconstrained" if "unconstrained" not in values else "unconstrained__"
    variables[name] = (("chain", PARAMETER), starts)
    return xr.Dataset(variables, coords={"chain": np.arange(len(starts))} | used_coords(model, variables))


def _data_group(model: CompiledModel, arrays: Mapping[str, np.ndarray]) -> Any:
    import xarray as xr

    known = model.data_dims()
    variables = {
        name: (own_dims(name, np.shape(values), known.get(name, ())), np.asarray(values))
        for name, values in arrays.items()
    }
    return xr.Dataset(variables, coords=used_coords(model, variables))


def _attributes(chains: Sequence[ChainDraws], plan: Plan, seconds: float) -> dict[str, Any]:
    # Of all chains, unless they warmed up by themselves and some needed longer.
    tune = max((c.tune for c in chains), default=plan.tune)
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "arviz_version": importlib.metadata.version("arviz"),
        "inference_library": "nutpie",
        "inference_library_version": _lib.__version__,
        "inference_library_settings": json.dumps(plan.describe(tune, _kernel(chains, plan))),
        "sampling_time": seconds,
        "tuning_steps": tune,
        "n_gradients": sum(c.n_gradients for c in chains),
    }


def _assemble(groups: dict[str, Any]) -> Any:
    import arviz

    # Not `hasattr`: ArviZ 1 has no class of this name, but answers to it with xarray's DataTree and a warning.
    if "InferenceData" in vars(arviz):
        from nutpie._inference_data import InferenceData

        return InferenceData(**groups)
    import xarray as xr

    return xr.DataTree.from_dict(groups)
