"""The source of a Stan program, and what it includes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Source", "read_source"]

_INCLUDE = re.compile(r"""^\s*#include\s+[<"']?([^>"'\s]+)""", re.M)


@dataclass(frozen=True)
class Source:
    """A Stan program.

    Parameters
    ----------
    code
        Its text.
    name
        Its name, in messages and in C++.
    include_dirs
        Folders in which included files are looked for, in this order.
    stanc_args
        Further arguments for ``stanc``.
    """

    code: str
    name: str
    include_dirs: tuple[Path, ...]
    stanc_args: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of its file, which messages cite."""
        return f"{self.name}.stan"

    def included(self) -> list[str]:
        """Read the files that it includes, directly or not. Those that are not found are left to ``stanc``."""
        texts: dict[Path, str] = {}
        pending = [self.code]
        while pending:
            for name in _INCLUDE.findall(pending.pop()):
                path = next((p for p in (folder / name for folder in self.include_dirs) if p.is_file()), None)
                if path is not None and path not in texts:
                    texts[path] = path.read_text(encoding="utf-8")
                    pending.append(texts[path])
        return [text for _, text in sorted(texts.items())]

    def write(self, folder: Path) -> Path:
        """Write the program into a folder, and return the path of its file."""
        path = folder / self.file_name
        path.write_text(self.code, encoding="utf-8")
        return path

    def arguments(self) -> list[str]:
        """Return the arguments for ``stanc``."""
        # Where nothing is included, the place of the program makes no difference.
        folders = ",".join(map(str, self.include_dirs)) if _INCLUDE.search(self.code) else ""
        return [*self.stanc_args, *([f"--include-paths={folders}"] if folders else [])]


def read_source(
    code: str | None, filename: str | os.PathLike[str] | None, name: str | None, stanc_args: Sequence[str]
) -> Source:
    """Take a program from its text or its file.

    Raises
    ------
    ValueError
        If not just one of them is given, or the name is not of use in C++.
    FileNotFoundError
        If there is no such file.
    """
    if (code is None) == (filename is None):
        raise ValueError("give the Stan program either as code=... or as filename=...")
    folders: list[Path] = []
    if filename is not None:
        path = Path(filename).expanduser().absolute()
        if not path.is_file():
            raise FileNotFoundError(f"there is no Stan program {path}")
        code = path.read_text(encoding="utf-8")
        name = name or path.stem
        folders.append(path.parent)
    name = re.sub(r"\W", "_", name or "model", flags=re.ASCII)
    if not re.match(r"[A-Za-z]", name):
        raise ValueError(f"the name of a Stan program must begin with a letter, {name!r} does not: give model_name=...")
    more, rest = _include_paths(stanc_args)
    assert code is not None
    return Source(code, name, (*(folder.expanduser().absolute() for folder in more), *folders), rest)


def _include_paths(stanc_args: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """Take the folders of included files out of arguments for ``stanc``."""
    folders: list[Path] = []
    rest: list[str] = []
    given = iter(stanc_args)
    for argument in given:
        option, _, value = argument.partition("=")
        if option in ("--include-paths", "--include_paths"):
            folders += map(Path, (value or next(given, "")).split(","))
        elif argument.startswith("-I"):
            folders += map(Path, (argument[2:] or next(given, "")).split(","))
        else:
            rest.append(argument)
    return folders, tuple(rest)
