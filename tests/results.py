"""What differs between ArviZ's result types, for the tests."""

from __future__ import annotations

from typing import Any

import arviz as az
import xarray as xr


def make_result(groups: dict[str, xr.Dataset]) -> Any:
    """Put together an object of ArviZ's type, without this package."""
    # ArviZ 1 answers to the name of the old class, but does not have it.
    return az.InferenceData(**groups) if "InferenceData" in vars(az) else xr.DataTree.from_dict(groups)


def elpd(table: Any) -> Any:
    """Take the expected log predictive density of what ``az.loo`` or ``az.compare`` returns."""
    return table.elpd if hasattr(table, "elpd") else table.elpd_loo


def group_names(result: Any) -> set[str]:
    """Names of the groups of an ``arviz.InferenceData`` or an ``xarray.DataTree``."""
    return set(groups(result))


def groups(result: Any) -> dict[str, xr.Dataset]:
    """Groups by name, as datasets, of an ``arviz.InferenceData`` or an ``xarray.DataTree``."""
    if hasattr(result, "children"):
        return {name: node.to_dataset() for name, node in result.children.items()}
    return {name: result[name] for name in result.groups()}
