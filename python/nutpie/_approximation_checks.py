"""Checks of what a model replaced by an approximation."""

from __future__ import annotations

import math

from nutpie._case import Case, Problem

__all__ = ["LARGEST_PARETO_K", "find_approximation_problems"]

#: Pareto k above which importance weights, and the approximation that needs them, are not to be relied on (Vehtari,
#: Simpson, Gelman, Yao and Gabry 2024).
LARGEST_PARETO_K = 0.7


def find_approximation_problems(case: Case) -> list[Problem]:
    """Return what is wrong with the Laplace approximation of latent variables, if there is one."""
    k = case.run.pareto_k
    if k is None or k <= LARGEST_PARETO_K or (math.isnan(k) and case.draws * case.chains < 100):
        return []
    if math.isnan(k):
        what = "The error of the Laplace approximation is unknown: the log density is not finite at some draws of it."
    else:
        what = (
            "The Laplace approximation of the latent variables is not to be trusted: Pareto k of its importance "
            f"weights is {k:.2g} (more than {LARGEST_PARETO_K})."
        )
    advice = "Leave fewer variables latent, those that are nearly normal given the others, or sample them all."
    if case.run.worst_latent is not None:
        name, worst = case.run.worst_latent
        what += f" The largest of a single one is {worst:.2g}, that of {name!r}."
        if worst <= LARGEST_PARETO_K:
            what += " So each is nearly normal by itself, and small errors of many add up."
            if case.run.worst_hyper is not None:
                name, shift = case.run.worst_hyper
                what += f" To first order they shift the mean of {name!r} by {shift:.2g} standard deviations."
            advice = "If that is too much, sample all variables."
    return [Problem("laplace", "warning", what, advice)]
