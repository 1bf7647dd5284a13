"""The extension module, `rust/python/src`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ABI_VERSION: int
__version__: str

class Control:
    def __init__(self, chains: int) -> None: ...
    def stop(self) -> None: ...
    def progress(self) -> list[dict[str, Any]]: ...

def sample(
    control: Control,
    address: int,
    user_data: int,
    starts: NDArray[np.float64],
    options: dict[str, int | float],
    *,
    seed: int,
    tune: int,
    draws: int,
    save_warmup: bool,
    cores: int,
) -> tuple[list[tuple[int, NDArray[np.float64], NDArray[np.float64], int]], BaseException | None]: ...
def evaluate(address: int, user_data: int, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]: ...
def benchmark_logp(
    address: int, user_data: int, x: NDArray[np.float64], num_evals: int, cores: int
) -> list[tuple[float, ...]]: ...
def settings() -> list[tuple[str, int | float, float, float, str]]: ...
def statistics() -> list[tuple[str, str, str]]: ...
