"""Front end for Stan programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nutpie.models._stan_cache import prune_stan_cache
from nutpie.models._stan_model import CompiledStanModel
from nutpie.models._stan_program import Options, cached_program, compiled_for_once, program_of_library
from nutpie.models._stan_source import read_source

__all__ = ["CompiledStanModel", "compile_stan_model", "prune_stan_cache"]


def compile_stan_model(
    *,
    code: str | None = None,
    filename: str | os.PathLike[str] | None = None,
    library: str | os.PathLike[str] | None = None,
    toolchain: str | os.PathLike[str] = "auto",
    extra_compile_args: Sequence[str] | None = None,
    extra_stanc_args: Sequence[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    var_names: Sequence[str] | None = None,
    model_name: str | None = None,
    cleanup: bool = True,
    cache: bool = True,
    prune_cache: bool = True,
    precompiled_header: bool = False,
    progress_bar: bool = True,
) -> CompiledStanModel:
    """Compile a Stan program for sampling.

    Give one of ``code``, ``filename`` and ``library``. The compiled program is kept in a folder of the user's caches,
    so that the next process loads it at once.

    Parameters
    ----------
    code : str, optional
        The program.
    filename : path, optional
        A file with the program. Files that it includes are looked for beside it.
    library : path, optional
        A library that BridgeStan (version 2) or this package has made of a program. Nothing is compiled then.
    toolchain : {"auto", "bridgestan", "httpstan"} or path, default "auto"
        What to compile with: the package bridgestan, which needs make and the sources of BridgeStan (those that
        ``BRIDGESTAN`` in the environment names, or else it downloads them at first use); or the package httpstan, which
        needs no download. Both need g++ or clang++. ``"auto"`` takes the first of them that can be used. A path is that
        of a wheel of httpstan, which may be one for another version of Python, or of the package's folder; so is
        ``NUTPIE_HTTPSTAN`` in the environment.
    extra_compile_args : sequence of str, optional
        Arguments for the C++ compiler after the own ones, such as ``"-O3"``. With bridgestan they may also be variables
        of its Makefile, such as ``"STAN_OPENCL=true"``.
    extra_stanc_args : sequence of str, optional
        Arguments for ``stanc``. Folders of included files are given as ``"--include-paths=FOLDER"``. Without a level of
        optimisation among them, httpstan takes ``--O1``.
    dims : dict, optional
        Names of the dimensions by variable, see `CompiledStanModel.with_dims`.
    coords : dict, optional
        Coordinate values by dimension, see `CompiledStanModel.with_coords`.
    var_names : sequence of str, optional
        Variables that the result holds; by default all. Generated quantities are computed if one of them is wanted.
    model_name : str, optional
        Name of the program, in messages; by default that of its file.
    cleanup : bool, default True
        Without a cache: whether to remove what was made once it is loaded.
    cache : bool, default True
        Whether to keep the library, and to take the one that was kept. It depends on the program and all it includes,
        the arguments, and the compilers with their versions and places.
    prune_cache : bool, default True
        Whether to remove libraries from the cache that have not been used for long, see `prune_stan_cache`.
    precompiled_header : bool, default False
        Whether to compile the headers of Stan first, once for all programs. It halves the time for each of them, but
        takes about a gigabyte in the cache. For httpstan only.
    progress_bar : bool, default True
        Whether to show a line while the program is compiled.

    Returns
    -------
    CompiledStanModel

    Raises
    ------
    ImportError
        If nothing to compile with is there; the message says what to install.
    FileNotFoundError
        If there is no such file.
    OSError
        If a library cannot be used.
    ValueError
        For mistakes in the program, and for arguments that do not fit together.
    RuntimeError
        If the C++ compiler fails.

    Examples
    --------
    >>> compiled = nutpie.compile_stan_model(filename="schools.stan")
    >>> idata = nutpie.sample(compiled.with_data(J=8, y=y, sigma=sigma), seed=1)
    """
    if library is not None:
        if code is not None or filename is not None:
            raise ValueError("give one of code=..., filename=... and library=...")
        program = program_of_library(Path(library).expanduser().absolute(), model_name)
    else:
        source = read_source(code, filename, model_name, tuple(extra_stanc_args or ()))
        options = Options(
            toolchain, tuple(extra_compile_args or ()), bool(precompiled_header), bool(progress_bar), bool(cleanup)
        )
        program = cached_program(source, options) if cache else compiled_for_once(source, options)
        if cache and prune_cache:
            prune_stan_cache()
    model = CompiledStanModel(program, var_names=var_names)
    return model.with_dims(**dict(dims or {})).with_coords(**dict(coords or {}))
