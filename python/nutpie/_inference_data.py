"""The result type with ArviZ 0.x."""

from __future__ import annotations

from typing import Any

import arviz


class InferenceData(arviz.InferenceData):
    """ArviZ's container, in which data groups may be added twice.

    The result already holds the observed and the constant data. PyMC 5 adds these groups itself to what an external
    sampler returns, which ArviZ would refuse.
    """

    def add_groups(self, group_dict: dict[str, Any] | None = None, *args: Any, **kwargs: Any) -> None:
        """Add groups; ``observed_data`` and ``constant_data`` replace those that are there."""
        for group in ("observed_data", "constant_data"):
            if group in self._groups and group in {**(group_dict or {}), **kwargs}:
                delattr(self, group)
        super().add_groups(group_dict, *args, **kwargs)
