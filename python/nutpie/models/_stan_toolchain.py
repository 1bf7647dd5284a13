"""What compiles Stan programs: which ways there are, and which of them works here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from nutpie.models._stan_source import Source

__all__ = ["Compiler", "Toolchain", "Unavailable", "choose_toolchain", "run_stanc", "run_tool", "stan_version"]

#: Lines of a compiler's output that a message cites.
CITED_LINES = 40

NAMES = ("auto", "bridgestan", "httpstan")


class Unavailable(Exception):  # noqa: N818 (it says what is missing, and is part of one message at most)
    """A toolchain cannot be used; the message says what is missing and how to get it."""


class Toolchain(Protocol):
    """A way to make a library of a Stan program."""

    name: str

    @property
    def version(self) -> str:
        """Version of Stan."""

    def describe(self) -> str:
        """Return name, version of Stan and compiler."""

    def identity(self, source: Source, precompiled_header: bool) -> list[str]:
        """Return all that the library depends on, besides the program."""

    def info(self, source: Source, folder: Path) -> dict[str, Any] | None:
        """Return what ``stanc --info`` says of the program; None where there is no ``stanc``."""

    def build(self, source: Source, folder: Path, precompiled_header: bool) -> Path:
        """Compile the program in a folder, and return the path of the library."""


def choose_toolchain(which: str | os.PathLike[str], compile_args: Sequence[str]) -> Toolchain:
    """Find a toolchain.

    Parameters
    ----------
    which
        One of `NAMES`, or the path of the folder or of a wheel of the package httpstan.
    compile_args
        Further arguments for the C++ compiler.

    Raises
    ------
    ValueError
        For another name.
    ImportError
        If what is asked for, or with ``"auto"`` everything, cannot be used here; the message says what to install.
    """
    from nutpie.models._stan_bridgestan import find_bridgestan
    from nutpie.models._stan_httpstan import find_httpstan

    ways: dict[str, Callable[[Sequence[str]], Toolchain]] = {"bridgestan": find_bridgestan, "httpstan": find_httpstan}
    path = Path(which).expanduser()
    if which not in NAMES:
        if not path.exists():
            raise ValueError(
                f"toolchain={str(which)!r} is not available; choose from {', '.join(map(repr, NAMES))}, or give the "
                "path of a wheel of the package httpstan"
            )
        ways = {"httpstan": lambda args: find_httpstan(args, path)}
    elif which != "auto":
        ways = {str(which): ways[str(which)]}
    missing = []
    for name, find in ways.items():
        try:
            return find(compile_args)
        except Unavailable as reason:
            missing.append(f"- {name}: {reason}")
    raise ImportError("Stan programs cannot be compiled here:\n" + "\n".join(missing))


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Parameters
    ----------
    command
        What to run.
    version
        What it says of itself.
    """

    command: tuple[str, ...]
    version: str

    @classmethod
    def find(cls) -> Compiler:
        """Return the one that ``$CXX`` names, or else g++ or clang++ of the path."""
        given = os.environ.get("CXX")
        for command in [shlex.split(given)] if given else [["g++"], ["clang++"]]:
            path = shutil.which(command[0])
            if path is not None:
                return _compiler((path, *command[1:]))
        if given:
            raise Unavailable(f"the C++ compiler {given!r} that the environment variable CXX names is not there")
        raise Unavailable(
            "there is no C++ compiler: install g++ or clang++ (on Debian and Ubuntu `apt-get install g++`, elsewhere "
            "the package gcc-c++ or clang; with conda `conda install -c conda-forge cxx-compiler`)"
        )

    @property
    def is_clang(self) -> bool:
        """Whether it is a clang."""
        return "clang" in self.version


@cache
def _compiler(command: tuple[str, ...]) -> Compiler:
    try:
        text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"the C++ compiler {shlex.join(command)} does not run: {error}") from error
    return Compiler(command, text.partition("\n")[0].strip())


def run_tool(command: Sequence[str | os.PathLike[str]], what: str, **options: Any) -> str:
    """Run a program and return what it writes; a RuntimeError has the end of it if it fails."""
    words = [os.fspath(word) for word in command]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace",
        check=False, **options,
    )  # fmt: skip
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()]
        cited = "\n".join([*errors[:5], "...", *lines[-CITED_LINES:]] if len(lines) > CITED_LINES else lines)
        raise RuntimeError(
            f"{what} failed with code {done.returncode}:\n{cited}\n\nThe command was {shlex.join(words)}"
        )
    return done.stdout


def run_stanc(stanc: Path, source: Source, file: Path, *arguments: str) -> str:
    """Run ``stanc`` on a program.

    Raises
    ------
    ValueError
        If it finds a mistake in the program.
    """
    words = [str(stanc), *source.arguments(), f"--filename-in-msg={source.file_name}", *arguments, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise ValueError(f"the Stan program {source.name!r} cannot be translated:\n{done.stderr.strip()}")
    return done.stdout


@cache
def stan_version(stanc: Path, _changed: float) -> str:
    """Return the version of Stan that a ``stanc`` translates, such as ``2.39.0``."""
    try:
        text = subprocess.run([stanc, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"{stanc} does not run here: {error}") from error
    words = [word.lstrip("v") for word in text.split() if word.lstrip("v")[:1].isdigit()]
    return words[0] if words else text.strip()
