"""Nested R-hat, for many short chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nutpie._run_data import Parameters, group, superchains

__all__ = ["nested_r_hat"]


def nested_r_hat(
    result: Any,
    superchains_of: Sequence[int] | None = None,
    *,
    var_names: str | Sequence[str] | None = None,
    rank_normalized: bool = True,
) -> Any:
    """Compute nested R-hat, which tells of convergence where chains are many and too short for R-hat.

    Chains that began at the same place form a superchain. If the means of superchains differ by little compared
    with how much draws vary, where the chains began is forgotten (Margossian and others 2024, "Nested R-hat:
    assessing the convergence of Markov chain Monte Carlo when running many short chains", Bayesian Analysis). R-hat
    of chains with an effective sample size of n each is about 1 + 1 / (2 n) however good they are; that of
    superchains of M chains is about 1 + 1 / (2 M n).

    Parameters
    ----------
    result : arviz.InferenceData or xarray.DataTree
        A result.
    superchains_of : sequence of int, optional
        A label of the superchain of each chain, in order. By default those of a run with ``sampler="meads"``, which the
        group ``adaptation`` tells.
    var_names : str or sequence of str, optional
        The variables to look at; all by default.
    rank_normalized : bool, default True
        Whether to compare ranks, of the draws and of their distances from the median, and return the larger number, as
        R-hat of ArviZ does. Otherwise the draws themselves are compared, as the paper does.

    Returns
    -------
    xarray.Dataset
        Nested R-hat of each variable, of its shape.

    Raises
    ------
    TypeError
        If `result` is not a result.
    ValueError
        If it has no posterior or not the variables asked for; if there are no superchains, or not one for each chain,
        or only one.

    Examples
    --------
    >>> nutpie.nested_r_hat(nutpie.sample(compiled, sampler="meads"))
    """
    import xarray as xr

    from nutpie._convergence import nested, rank_nested

    posterior = group(result, "posterior")
    if posterior is None:
        raise ValueError("the result has no group 'posterior'")
    labels = superchains(result) if superchains_of is None else np.asarray(superchains_of)
    if labels is None:
        raise ValueError("the result has no superchains; say which chains began together with superchains_of=...")
    if labels.shape != (posterior.sizes["chain"],):
        raise ValueError(f"superchains_of must have a label for each of the {posterior.sizes['chain']} chains")
    found, indices = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise ValueError("there must be two superchains at least")
    compute = rank_nested if rank_normalized else nested
    parameters = Parameters(posterior, var_names)
    values = parameters.map(lambda draws: compute(draws, indices))
    variables = {}
    for first, size, variable in parameters.variables():
        dims = variable.dims[2:]
        coords = {dim: variable.coords[dim] for dim in dims if dim in variable.coords}
        shaped = values[first : first + size].reshape(variable.shape[2:])
        variables[str(variable.name)] = xr.DataArray(shaped, dims=dims, coords=coords)
    return xr.Dataset(variables)
