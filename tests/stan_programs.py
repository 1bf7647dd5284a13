"""The Stan programs of the tests, and data for them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

BENCH = HERE.parent / "benches/posteriordb/programs"

#: By the name of the fixture that has the compiled program.
PROGRAMS = {
    **{path.stem: path for path in sorted((HERE / "models/stan").glob("*.stan"))},
    **{name: BENCH / f"{name}.stan" for name in ("eight_schools_centered", "eight_schools_noncentered")},
    "lotka_volterra": BENCH / "lotka_volterra.stan",
}

#: Least version of Stan, where that matters.
NEEDS = {"sum_to_zero": (2, 36)}

SCHOOLS = {
    "J": 8,
    "y": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
    "sigma": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
}

QUIET = {"reject_above": 1e9, "fatal_above": 1e9, "missing_above": 1e9, "print_all": 0}

SHAPES = {
    "N": 3,
    "y": [1.5, 2.5, 3.5],
    "c": 1 + 2j,
    "cs": np.arange(6).reshape(2, 3) * (1 + 1j),
    "pair": (4, [0.5, 1.5]),
    "table": [[1, 2, 3], [4, 5, 6]],
    "nothing": np.zeros((2, 0)),
}

#: Hares and lynxes in thousands, the first ten years of a longer series.
PREY = {
    "N": 6,
    "ts": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "y_init": [30.0, 4.0],
    "y": [[47.2, 6.1], [70.2, 9.8], [77.4, 35.2], [36.3, 59.4], [20.6, 41.7], [18.1, 19.0]],
}


def can_compile() -> bool:
    """Whether Stan programs can be compiled through httpstan."""
    package = importlib.util.find_spec("httpstan") is not None or "NUTPIE_HTTPSTAN" in os.environ
    return package and any(shutil.which(compiler) for compiler in ("g++", "clang++"))


def regression(grain: int = 0) -> dict[str, Any]:
    """Data of the program ``hierarchical``."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), 10)
    x = rng.normal(size=60)
    y = np.array([1.0, 2.0, 0.5, -1.0, 1.5, 0.0])[group] + 0.7 * x + rng.normal(0, 0.5, 60)
    return {"N": 60, "J": 6, "y": y, "x": x, "group": group + 1, "grain": grain}
