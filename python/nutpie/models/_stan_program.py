"""Compiled Stan programs: made by a toolchain, taken from the cache, or given as a library."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutpie import _lib
from nutpie.models._stan_cache import digest, kept
from nutpie.models._stan_progress import progress_line
from nutpie.models._stan_source import Source
from nutpie.models._stan_toolchain import Toolchain, choose_toolchain
from nutpie.models._stan_variables import BLOCKS

__all__ = ["Options", "Program", "cached_program", "compiled_for_once", "program_of_library"]


@dataclass(frozen=True)
class Options:
    """How to compile; see `compile_stan_model`."""

    toolchain: str | os.PathLike[str]
    compile_args: tuple[str, ...]
    precompiled_header: bool
    progress_bar: bool
    cleanup: bool


@dataclass(frozen=True)
class Program:
    """A program that has been compiled.

    Parameters
    ----------
    library
        The loaded library.
    path
        Its file.
    name
        Name of the program.
    toolchain
        What it was compiled with.
    stan_version
        Version of Stan; empty if it is not known before there are data.
    info
        What ``stanc --info`` says, if there was a ``stanc``.
    """

    library: Any
    path: Path
    name: str
    toolchain: str
    stan_version: str
    info: Mapping[str, Any] | None

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """What the data block wants, by name."""
        return None if self.info is None else self.info["inputs"]


#: Files that were loaded, by path: what they were, and how often another one had the path before.
_loaded: dict[Path, tuple[tuple[int, ...], int]] = {}
_loading = threading.Lock()


def _load(path: Path) -> Any:
    """Load a library.

    The loader of the system takes a path that it has seen before for the same file. One that was made anew since is
    loaded under a path that is spelt in another way.
    """
    status = path.stat()
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    with _loading:
        known, times = _loaded.get(path, (file, 0))
        times += known != file
        _loaded[path] = (file, times)
    try:
        return _lib.StanLibrary(os.path.join(path.parent, *["."] * times, path.name))
    except OSError as error:
        raise OSError(f"the library {path} cannot be used: {error}") from error


def program_of_library(path: Path, name: str | None) -> Program:
    """Load a library that is there."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no library {path}")
    return Program(_load(path), path, name or path.stem.removesuffix("_model"), "library", "", None)


def _build(source: Source, options: Options, toolchain: Toolchain, folder: Path) -> None:
    """Fill a folder with the library of a program and a description of it."""
    with progress_line(
        f"compiling the Stan program {source.name!r} ({toolchain.describe()})", show=options.progress_bar
    ):
        info = toolchain.info(source, folder)
        library = toolchain.build(source, folder, options.precompiled_header)
    if info is None:  # the sources of the toolchain have only come with this program
        info = toolchain.info(source, folder)
    kept_info = None if info is None else {key: info.get(key, {}) for key in ("inputs", *BLOCKS)}
    description = {
        "library": library.relative_to(folder).as_posix(),
        "name": source.name,
        "toolchain": toolchain.name,
        "stan_version": toolchain.version,
        "info": kept_info,
    }
    (folder / "program.json").write_text(json.dumps(description))


def _program_in(folder: Path) -> Program:
    described = json.loads((folder / "program.json").read_text())
    path = folder / described.pop("library")
    return Program(_load(path), path, **described)


def cached_program(source: Source, options: Options) -> Program:
    """Take a program from the cache, or compile it for the cache."""
    toolchain = choose_toolchain(options.toolchain, options.compile_args)
    identity = toolchain.identity(source, options.precompiled_header)
    own = [source.code, source.name, *source.arguments(), *source.included()]
    parts = [*own, "--", toolchain.name, *identity, sys.platform, platform.machine()]

    def make(folder: Path) -> None:
        _build(source, options, toolchain, folder)

    folder = kept("models", digest(parts), make)
    try:
        return _program_in(folder)
    except (OSError, ValueError):
        # What it is linked with has gone, or the folder is damaged.
        shutil.rmtree(folder, ignore_errors=True)
        return _program_in(kept("models", digest(parts), make))


def compiled_for_once(source: Source, options: Options) -> Program:
    """Compile a program without the cache."""
    toolchain = choose_toolchain(options.toolchain, options.compile_args)
    toolchain.identity(source, options.precompiled_header)
    folder = Path(tempfile.mkdtemp(prefix="nutpie-stan-"))
    try:
        _build(source, options, toolchain, folder)
        return _program_in(folder)
    finally:
        if options.cleanup:
            shutil.rmtree(folder, ignore_errors=True)
