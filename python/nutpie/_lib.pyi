"""The extension module, `rust/python/src`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ABI_VERSION: int
N_STATISTICS: int
__version__: str

class Control:
    def __init__(self, chains: int) -> None: ...
    def stop(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    @property
    def paused(self) -> bool: ...
    def traces(self) -> list[dict[str, Any]]: ...
    def progress(self) -> list[dict[str, Any]]: ...

def sample(
    control: Control,
    address: int,
    user_data: int,
    starts: NDArray[np.float64],
    options: dict[str, bool | int | float],
    *,
    adaptation: str,
    seed: int,
    tune: int,
    extend: bool,
    draws: int,
    keep: dict[str, int | bool],
    cores: int,
    metrics: list[tuple[NDArray[np.float64], ...] | None],
) -> tuple[list[dict[str, Any]], dict[str, Any], BaseException | None]: ...
def evaluate(address: int, user_data: int, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]: ...
def benchmark_logp(
    address: int, user_data: int, x: NDArray[np.float64], num_evals: int, cores: int
) -> list[tuple[float, ...]]: ...
def adaptations() -> list[tuple[str, int, str]]: ...
def settings() -> list[tuple[str, bool | int | float, float, float, str]]: ...
def statistics(kernel: str = "nuts") -> list[tuple[str, str, str, int]]: ...
