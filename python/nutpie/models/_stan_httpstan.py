"""Stan programs through the package httpstan, which ships `stanc`, headers and libraries: no downloads, no make."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nutpie.models._stan_cache import digest, kept
from nutpie.models._stan_source import Source
from nutpie.models._stan_toolchain import Compiler, Unavailable, run_stanc, run_tool, stan_version

__all__ = ["Httpstan", "find_httpstan"]

#: Names the folder or a wheel of httpstan, in place of the one that is installed.
VARIABLE = "NUTPIE_HTTPSTAN"

FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-w",
    "-pthread",
    "-D_REENTRANT",
    "-DBOOST_DISABLE_ASSERTS",
    "-DSTAN_THREADS",
)

#: Static libraries of the differential equation solvers, and TBB.
LIBRARIES = ("-lsundials_cvodes", "-lsundials_idas", "-lsundials_kinsol", "-lsundials_nvecserial", "-ltbb")

#: Optimisations of ``stanc`` that its authors recommend.
OPTIMISATION = "--O1"

_INSTALL = 'run pip install "nutpie[stan]"'


def find_httpstan(compile_args: Sequence[str], path: Path | None = None) -> Httpstan:
    """Find the package: a folder or wheel that is named, or the one that is installed.

    Raises
    ------
    Unavailable
        If it is not there, or there is no compiler.
    ValueError
        For arguments that are not for a compiler.
    """
    named = path or (Path(os.environ[VARIABLE]).expanduser() if os.environ.get(VARIABLE) else None)
    if sys.platform == "win32":
        raise Unavailable("the package httpstan is for Linux and macOS only")
    if named is not None:
        root = _unpacked(named) if named.is_file() else named
        root = root / "httpstan" if (root / "httpstan").is_dir() else root
    else:
        spec = importlib.util.find_spec("httpstan")
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable(f"the package httpstan is not installed: {_INSTALL}")
        root = Path(next(iter(spec.submodule_search_locations)))
    root = root.absolute()
    for part in ("stanc", "include/stan/math.hpp", "lib"):
        if not (root / part).exists():
            raise Unavailable(f"{root} is not the package httpstan, for it has no {part}")
    odd = [argument for argument in compile_args if not argument.startswith("-")]
    if odd:
        raise ValueError(
            f"extra_compile_args has {odd[0]!r}, which looks like a variable of make: the toolchain 'httpstan' takes "
            "arguments of the C++ compiler, such as '-O3'"
        )
    return Httpstan(root, Compiler.find(), tuple(compile_args))


def _unpacked(wheel: Path) -> Path:
    """Unpack what is needed of a wheel, which may be one for another version of Python."""
    status = wheel.stat()

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if re.match(r"httpstan/(stanc$|include/|lib/)", n)]
            archive.extractall(folder, names)
        stanc = folder / "httpstan/stanc"
        if stanc.exists():
            stanc.chmod(0o755)

    if not zipfile.is_zipfile(wheel):
        raise Unavailable(f"{wheel} is neither a folder nor a wheel")
    key = digest([wheel.name, str(status.st_size), str(status.st_mtime_ns)])
    return kept("httpstan", f"{wheel.name.split('-cp')[0]}-{key[:8]}", unpack)


class Httpstan:
    """The toolchain: `stanc`, the headers, and a shim of our own with the interface of BridgeStan."""

    name = "httpstan"

    def __init__(self, root: Path, compiler: Compiler, compile_args: tuple[str, ...]) -> None:
        self.root = root
        self.compiler = compiler
        self.compile_args = compile_args
        self.stanc = root / "stanc"
        self.version = stan_version(self.stanc, self.stanc.stat().st_mtime)

    def describe(self) -> str:
        """Return name, version of Stan and compiler."""
        return f"{self.name}, Stan {self.version}, {Path(self.compiler.command[0]).name}"

    def identity(self, source: Source, precompiled_header: bool) -> list[str]:
        """Return all that the library depends on, besides the program."""
        del precompiled_header  # it makes no difference to the result
        return [*self._own_identity(), *self._stanc_arguments(source)]

    def _own_identity(self) -> list[str]:
        status = self.stanc.stat()
        own = [str(self.root), self.version, str(status.st_size), str(status.st_mtime_ns)]
        compiler = [*self.compiler.command, self.compiler.version, *FLAGS, *self.compile_args]
        return [*own, *compiler, *(_shim(name) for name in ("assertions.hpp", "prelude.hpp", "shim.cpp"))]

    def _stanc_arguments(self, source: Source) -> list[str]:
        own = any(re.fullmatch(r"--O\w*", argument) for argument in source.stanc_args)
        return [] if own else [OPTIMISATION]

    def info(self, source: Source, folder: Path) -> dict[str, Any] | None:
        """Return what ``stanc --info`` says of the program."""
        found: dict[str, Any] = json.loads(run_stanc(self.stanc, source, source.write(folder), "--info"))
        return found

    def build(self, source: Source, folder: Path, precompiled_header: bool) -> Path:
        """Compile the program, and the shim beside it if that is not in the cache."""
        file = source.write(folder)
        prelude = self._precompiled() if precompiled_header else ["-include", str(_shim_path("prelude.hpp"))]
        with ThreadPoolExecutor(1) as pool:
            shim = pool.submit(self._shim_object)
            model = self._compiled(source, file, folder, prelude)
            objects = [model, shim.result()]
        library = folder / f"{source.name}_model.so"
        search = [f"-L{self.root / 'lib'}", f"-Wl,-rpath,{self.root / 'lib'}"]
        made = ["-shared", "-o", str(library), *map(str, objects)]
        command = [*self.compiler.command, *made, *self.compile_args, *search, *LIBRARIES]
        run_tool(command, f"linking the Stan program {source.name!r}")
        model.unlink()
        return library

    def _compiled(self, source: Source, file: Path, folder: Path, prelude: Sequence[str]) -> Path:
        translated, made = folder / "model.cpp", folder / "model.o"
        name = [f"--name={source.name}_model", f"--o={translated}"]
        optimised = self._stanc_arguments(source)
        for arguments in ([*optimised, *name], name) if optimised else (name,):
            run_stanc(self.stanc, source, file, *arguments)
            try:
                self._compile(translated, made, [*prelude, "-c"], f"compiling the Stan program {source.name!r}")
                break
            except RuntimeError:
                # A program that is fine may be translated to C++ that is not, if it is optimised.
                if arguments is name:
                    raise
        translated.unlink()
        return made

    def _compile(self, file: Path, made: Path, arguments: Sequence[str], what: str, language: str = "c++") -> None:
        flags = [*FLAGS, *self.compile_args, "-isystem", str(self.root / "include"), *arguments]
        run_tool([*self.compiler.command, *flags, "-x", language, str(file), "-o", str(made)], what)

    def _shim_object(self) -> Path:
        key = digest(["shim", *self._own_identity()])

        def make(folder: Path) -> None:
            source = folder / "shim.cpp"
            source.write_text(_shim("shim.cpp"))
            first = ["-include", str(_shim_path("assertions.hpp")), "-c"]
            self._compile(source, folder / "shim.o", first, "compiling nutpie's shim for Stan")

        return kept("shims", key, make) / "shim.o"

    def _precompiled(self) -> list[str]:
        """Compile the headers, which halves the time for a program but takes much space; return how to use them."""
        key = digest(["headers", *self._own_identity()])

        def make(folder: Path) -> None:
            for name in ("prelude.hpp", "assertions.hpp"):
                shutil.copy(_shim_path(name), folder / name)
            # A clang keeps the names of the headers, and the folder has not got its own name yet.
            header = _shim_path("prelude.hpp") if self.compiler.is_clang else folder / "prelude.hpp"
            self._compile(header, folder / "prelude.hpp.gch", [], "compiling Stan's headers", "c++-header")

        folder = kept("headers", key, make)
        if self.compiler.is_clang:
            return ["-include-pch", str(folder / "prelude.hpp.gch")]
        return ["-include", str(folder / "prelude.hpp")]


def _shim_path(name: str) -> Path:
    # The package is installed as files: the extension module is one.
    return Path(str(importlib.resources.files("nutpie") / "stan_shim" / name))


def _shim(name: str) -> str:
    return _shim_path(name).read_text(encoding="utf-8")
