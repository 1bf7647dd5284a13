"""One module per sampler, each with `prepare(workload, settings)`, which returns a function from a seed to a `Run`.

A module imports its sampler inside `prepare`: only the environment of that sampler has it.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Settings:
    """`tune` is what the sampler does by itself where it is None; `options` are further keywords of its own."""

    chains: int
    draws: int
    tune: int | None
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """`draws` are unconstrained, of shape (chains, draws, dim); gradients are those of all chains.

    `cpu_seconds` has warm-up and sampling of all chains, without compilation. `tune` is the number of warm-up draws of
    a chain, where the runner knows it.
    """

    draws: np.ndarray
    warmup_gradients: int
    sampling_gradients: int
    divergences: int
    cpu_seconds: float
    tune: int | None = None
