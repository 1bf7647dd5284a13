"""The log density of a PyMC model by its terms: of each observation, and of each free variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytensor.tensor as pt
from pymc.logprob import transformed_conditional_logp
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.utils import rewrite_graph

from nutpie.models._pymc_graph import REWRITES, as_type_of, frozen_other_inputs, stored_variables, without_views

__all__ = ["TermGroup", "density_terms", "term_names"]

TermGroup = Literal["log_likelihood", "log_prior"]


def term_names(model: Any, group: TermGroup) -> list[str]:
    """Names of the variables that have a term: the observed ones, or the free ones."""
    return [variable.name for variable in (model.observed_RVs if group == "log_likelihood" else model.free_RVs)]


def density_terms(model: Any, names: Sequence[str]) -> list[Any]:
    """Log density of each variable given its parents, one number for each independent element.

    The densities are those of the variables themselves, without the Jacobians of the transforms to the unconstrained
    scale, as functions of the value variables.
    """
    free = [variable.name for variable in model.free_RVs]
    # Not `model.logp(jacobian=False)`, which adds up what a transform such as the ordered one ties together.
    constrained = {model[name]: model[name].type(name=name) for name in free}
    terms = transformed_conditional_logp(
        [model[name] for name in names],
        rvs_to_values={**model.rvs_to_values, **constrained},
        rvs_to_transforms={},
    )
    values: dict[Any, Any] = {
        stand_in: as_type_of(stand_in, value)
        for stand_in, value in zip(constrained.values(), stored_variables(model, free), strict=True)
    }
    dense = [pt.as_tensor(term, allow_xtensor_conversion=True) for term in terms]
    outputs = without_views(frozen_other_inputs(clone_replace(dense, values, rebuild_strict=False)))
    # The checks of parameters become densities of zero, as in PyMC, before the graph is vectorised: afterwards a check
    # would concern all draws at once. Stable forms replace, for example, the logarithm of a sigmoid; some of them are
    # found by the rewrites called "specialize" only.
    checks = "local_check_parameter_to_ninf_switch" if model.check_bounds else "local_remove_check_parameter"
    rewritten: Any = rewrite_graph(outputs, include=(*REWRITES, "specialize", checks))
    return list(rewritten)
