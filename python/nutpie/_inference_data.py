"""The result type with ArviZ 0.x."""

from __future__ import annotations

from typing import Any

import arviz


class InferenceData(arviz.InferenceData):
    """ArviZ's container, in which data groups may be added twice, and which is written by any version of zarr.

    The result already holds the observed and the constant data. PyMC 5 adds these groups itself to what an external
    sampler returns, which ArviZ would refuse. ArviZ 0.x refuses zarr 3 as well.
    """

    def add_groups(self, group_dict: dict[str, Any] | None = None, *args: Any, **kwargs: Any) -> None:
        """Add groups; ``observed_data`` and ``constant_data`` replace those that are there."""
        for group in ("observed_data", "constant_data"):
            if group in self._groups and group in {**(group_dict or {}), **kwargs}:
                delattr(self, group)
        super().add_groups(group_dict, *args, **kwargs)

    def to_zarr(self, store: Any = None) -> Any:
        """Write all groups to a zarr store, which is a path or what zarr takes as one, and return it.

        The default is a new store in memory. `xarray.open_datatree(store, engine="zarr")` reads it, whatever the
        version of ArviZ.
        """
        if store is None:
            import zarr

            store = zarr.storage.MemoryStore()
        mode = "w"
        for group in self._groups_all:
            getattr(self, group).to_zarr(store, group=group, mode=mode, consolidated=False)
            mode = "a"
        return store
