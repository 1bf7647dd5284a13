"""One module per sampler, each with `prepare(workload, settings)`, which returns a function from a seed to a `Run`.

A module imports its sampler inside `prepare`: only the environment of that sampler has it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Settings:
    chains: int
    draws: int
    tune: int


@dataclass(frozen=True)
class Run:
    """`draws` are unconstrained, of shape (chains, draws, dim); gradients are those of all chains.

    `cpu_seconds` has warm-up and sampling of all chains, without compilation.
    """

    draws: np.ndarray
    warmup_gradients: int
    sampling_gradients: int
    divergences: int
    cpu_seconds: float
