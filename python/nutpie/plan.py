"""What a run is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nutpie.devices import Devices

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What a run is asked for: all that its result says of how the draws were made.

    Parameters
    ----------
    seed
        Seed of all random numbers.
    tune
        Draws of the warm-up, as planned.
    extend
        Whether the warm-up may go on where its metric is not good at its end.
    draws
        Draws after it.
    chains
        Number of chains.
    cores
        Number of threads that run them.
    sampler
        Name of the sampler.
    adaptation
        Name of the way to adapt.
    settings
        Settings of the sampler that differ from the defaults, by name.
    keep
        What the core is to keep of the draws, as the argument ``keep`` of `nutpie._lib.sample`.
    store_unconstrained
        Whether the result holds the unconstrained draws, too.
    devices
        Where the arrays live.
    """

    seed: int
    tune: int
    extend: bool
    draws: int
    chains: int
    cores: int
    sampler: str
    adaptation: str
    settings: Mapping[str, int | float | str]
    keep: Mapping[str, int | bool]
    store_unconstrained: bool = False
    devices: Devices = field(default_factory=Devices)

    @property
    def superchains(self) -> np.ndarray:
        """The superchain of each chain: chains whose starts come from the same chain of the run before an ensemble."""
        number = min(int(self.settings.get("meads_superchains", 4)), self.chains)
        ends = (1 + np.arange(number)) * self.chains // number
        return np.searchsorted(ends, np.arange(self.chains), side="right")

    @property
    def has_pilot(self) -> bool:
        """Whether a short run of another sampler comes before that of an ensemble."""
        return self.sampler == "meads" and int(self.settings.get("meads_pilot", 150)) > 0

    @property
    def first_of_superchain(self) -> np.ndarray:
        """For each chain the first one of its superchain."""
        return np.searchsorted(self.superchains, self.superchains)

    @property
    def warmup_kernel(self) -> str:
        """Name of the kernel of the warm-up."""
        return "ghmc" if self.sampler == "meads" else "nuts"

    @property
    def hands_over(self) -> bool:
        """Whether something else than in the warm-up makes the draws, or may."""
        return self.sampler != "nuts" or self.settings.get("integrator") == "exact_normal"

    def describe(self, tune: int, kernel: str) -> dict[str, Any]:
        """Return the attribute ``inference_library_settings`` of a result, before JSON.

        It tells of `tune` warm-up draws and of the `kernel` that made the draws after them.
        """
        counts = {"num_tune": tune, "num_draws": self.draws, "num_chains": self.chains, "seed": self.seed}
        settings = {**counts, "thin": self.keep.get("thin", 1), **self.settings}
        where = {} if self.devices.on_host else {"device": list(self.devices.names), "device_dtype": self.devices.dtype}
        # What the name of the sampler says already is not said twice.
        chosen = {} if self.sampler == "nuts" else {"kernel": kernel}
        return {"sampler": self.sampler, **chosen, "adaptation": self.adaptation, **where, "settings": settings}
