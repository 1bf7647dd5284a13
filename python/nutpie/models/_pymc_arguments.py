"""What a user says of a PyMC model when it is compiled, checked and completed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nutpie.models._names import chosen_names, unknown_name

__all__ = ["check_continuous", "jittered_names", "stored_names"]


def check_continuous(model: Any) -> None:
    discrete = [v.name for v in model.free_RVs if np.dtype(model.rvs_to_values[v].type.dtype).kind != "f"]
    if discrete:
        raise ValueError(
            f"the free variables {', '.join(map(repr, discrete))} are discrete, and NUTS needs a density that is "
            "differentiable: sum them out of the model (for example with pm.Mixture or pymc_extras.marginalize), or "
            "use pm.sample, which combines NUTS with steps for discrete variables"
        )


def stored_names(model: Any, var_names: Sequence[str] | None) -> list[str]:
    names = [v.name for v in (*model.free_RVs, *model.deterministics)]
    return chosen_names(var_names, names, "free or deterministic variable")


def jittered_names(
    free: Sequence[str], model: Any, overrides: Mapping[Any, Any], jitter_rvs: Iterable[Any] | None, default: str
) -> set[str]:
    if jitter_rvs is not None:
        wanted = {getattr(v, "name", v) for v in ([jitter_rvs] if isinstance(jitter_rvs, str) else jitter_rvs)}
        for name in wanted - set(free):
            raise ValueError("jitter_rvs: " + unknown_name(name, free, "free variable"))
        return wanted
    given = {getattr(key, "name", key): value for key, value in overrides.items()}
    jittered = set()
    for name in free:
        variable = model[name]
        keys = {name, model.rvs_to_values[variable].name} & set(given)
        start = given[keys.pop()] if keys else None
        if start is None:
            start = "support_point" if model.rvs_to_initial_values.get(variable) is not None else default
        if isinstance(start, str) and start == "support_point":
            jittered.add(name)
    return jittered
