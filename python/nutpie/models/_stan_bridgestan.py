"""Stan programs through the package bridgestan: its `make`, in a folder of its sources that it may download."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nutpie.models._stan_source import Source
from nutpie.models._stan_toolchain import Compiler, Unavailable, run_stanc, stan_version

__all__ = ["BridgeStan", "find_bridgestan"]

#: Seconds to wait for an answer where the sources of BridgeStan are downloaded from.
PATIENCE = 5.0

RELEASES = "https://github.com/roualdes/bridgestan/releases/download"


def find_bridgestan(compile_args: Sequence[str]) -> BridgeStan:
    """Find the package and its sources: those that ``$BRIDGESTAN`` names, those it has downloaded, or those it can.

    Raises
    ------
    Unavailable
        If the package or its sources cannot be had, or there is no compiler or make.
    """
    if importlib.util.find_spec("bridgestan") is None:
        raise Unavailable("the package bridgestan is not installed: run pip install bridgestan")
    Compiler.find()
    make = os.environ.get("MAKE", "make")
    if shutil.which(make) is None:
        raise Unavailable(f"bridgestan needs {make}, which is not there: install the package make")
    version = importlib.metadata.version("bridgestan")
    given = os.environ.get("BRIDGESTAN")
    root = Path(given or Path.home() / ".bridgestan" / f"bridgestan-{version}").expanduser()
    if given and not (root / "Makefile").is_file():
        raise Unavailable(f"BRIDGESTAN={given} in the environment is not the folder of BridgeStan's sources")
    if not (root / "Makefile").is_file() and not _can_download(version):
        raise Unavailable(
            f"its sources are not in {root} and cannot be downloaded: set BRIDGESTAN in the environment to a folder "
            f"with those of version {version}, or see to the connection to github.com"
        )
    return BridgeStan(root, version, tuple(compile_args))


@cache
def _can_download(version: str) -> bool:
    request = urllib.request.Request(f"{RELEASES}/v{version}/bridgestan-{version}.tar.gz", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return True
    except OSError:
        return False


class BridgeStan:
    """The toolchain: the Makefile of BridgeStan, through its Python package."""

    name = "bridgestan"

    def __init__(self, root: Path, package: str, compile_args: tuple[str, ...]) -> None:
        self.root = root
        self.package = package
        self.compile_args = compile_args

    @property
    def _stanc(self) -> Path | None:
        path = self.root / "bin" / "stanc"
        return path if path.is_file() else None

    @property
    def version(self) -> str:
        """Version of Stan; empty as long as it is not known."""
        stanc = self._stanc
        return stan_version(stanc, stanc.stat().st_mtime) if stanc else ""

    def describe(self) -> str:
        """Return name and version of Stan."""
        return f"{self.name} {self.package}" + (f", Stan {self.version}" if self.version else "")

    def identity(self, source: Source, precompiled_header: bool) -> list[str]:
        """Return all that the library depends on, besides the program."""
        del source
        if precompiled_header:
            raise ValueError(
                "precompiled_header=True is for toolchain='httpstan'; with bridgestan it is set in the file make/local"
            )
        own = [str(self.root.resolve()), self.package, Compiler.find().version, *self.compile_args]
        settings = self.root / "make" / "local"
        return [*own, settings.read_text() if settings.is_file() else ""]

    def info(self, source: Source, folder: Path) -> dict[str, Any] | None:
        """Return what ``stanc --info`` says of the program."""
        stanc = self._stanc
        if stanc is None:
            return None
        found: dict[str, Any] = json.loads(run_stanc(stanc, source, source.write(folder), "--info"))
        return found

    def build(self, source: Source, folder: Path, precompiled_header: bool) -> Path:
        """Compile the program."""
        import bridgestan

        del precompiled_header
        variables = [argument for argument in self.compile_args if not argument.startswith("-")]
        flags = [argument for argument in self.compile_args if argument.startswith("-")]
        if flags:
            variables.append("CXXFLAGS_PROGRAM=" + " ".join(flags))
        if not any(argument.startswith("STAN_THREADS=") for argument in variables):
            variables.append("STAN_THREADS=true")
        file = source.write(folder)
        return Path(bridgestan.compile_model(file, stanc_args=source.arguments(), make_args=variables))
