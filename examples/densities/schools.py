"""Compile the log density of eight schools in C, C++ or Rust, and sample it.

python examples/densities/schools.py c
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import nutpie
from nutpie.models.base import CompiledModel

HERE = Path(__file__).resolve().parent

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

#: The source and the command before the source, by language.
LANGUAGES = {
    "c": ("schools.c", ["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-I", nutpie.include_dir()]),
    "c++": ("schools.cpp", ["c++", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-I", nutpie.include_dir()]),
    "rust": ("schools.rs", ["rustc", "--edition", "2021", "-O", "--crate-type", "cdylib"]),
}


def compiled(language: str, folder: str | Path) -> Path:
    """Compile the library into a folder."""
    source, command = LANGUAGES[language]
    library = Path(folder) / f"schools_{Path(source).suffix[1:]}.so"
    subprocess.run([*command, str(HERE / source), "-o", str(library)], check=True)
    return library


def model(library: Path) -> CompiledModel:
    """Describe the model in a library."""
    return nutpie.from_library(
        library,
        "schools_logp",
        2 + len(EFFECTS),
        user_data=np.concatenate([EFFECTS, ERRORS]),
        expand="schools_expand",
        variables={"mu": (), "tau": (), "theta": (8,)},
        dims={"theta": ["school"]},
        coords={"school": list("ABCDEFGH")},
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        idata = nutpie.sample(model(compiled(sys.argv[1] if len(sys.argv) > 1 else "c", folder)), seed=1)
    for name in ("mu", "tau"):
        print(name, float(idata.posterior[name].mean()))
