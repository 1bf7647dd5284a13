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
    return [Problem("laplace", "warning", what, advice)]
