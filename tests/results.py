"""What differs between ArviZ's result types, for the tests."""

from __future__ import annotations

from typing import Any


def group_names(result: Any) -> set[str]:
    """Names of the groups of an ``arviz.InferenceData`` or an ``xarray.DataTree``."""
    return set(result.children) if hasattr(result, "children") else set(result.groups())
