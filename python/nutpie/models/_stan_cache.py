"""The folder that keeps compiled Stan programs."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["cache_folder", "digest", "kept", "prune_stan_cache"]

#: What is written into a folder before it gets its name.
_UNFINISHED = ".unfinished-"

#: Seconds after which an unfinished folder was left behind by a process that died.
_ABANDONED = 24 * 3600.0

_locks: dict[Path, threading.Lock] = {}
_guard = threading.Lock()


def cache_folder() -> Path:
    """Return ``$NUTPIE_STAN_CACHE``, or ``nutpie/stan`` in the user's folder for caches."""
    given = os.environ.get("NUTPIE_STAN_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nutpie" / "stan"


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a name for contents; parts that are split differently have another."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        found.update(f"{len(data)}:".encode() + data)
    return found.hexdigest()[:32]


def kept(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder that ``make`` fills, from the cache if it is there.

    It gets its name when it is complete, so that no process ever sees half of one. Threads that want the same wait for
    each other. Processes that make the same at the same time do not disturb each other; the first to finish is kept.

    Parameters
    ----------
    kind
        Sub-folder of the cache, such as ``"models"``.
    key
        Name of the folder: a `digest` of all that it depends on.
    make
        Fills a folder that exists and is empty.
    """
    folder = cache_folder() / kind / key
    with _guard:
        lock = _locks.setdefault(folder, threading.Lock())
    with lock:
        _made(folder, make)
    with contextlib.suppress(OSError):
        os.utime(folder)  # when it was last of use
    return folder


def _made(folder: Path, make: Callable[[Path], None]) -> None:
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
        try:
            make(unfinished)
            unfinished.chmod(0o755)
            with contextlib.suppress(OSError):
                unfinished.rename(folder)
            if not folder.is_dir():
                raise OSError(f"the folder {folder} of the cache cannot be made")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def prune_stan_cache(
    max_entries: int = 16, min_age: datetime.timedelta | float = datetime.timedelta(weeks=2)
) -> list[Path]:
    """Remove compiled Stan programs that have not been used for long.

    `compile_stan_model` calls this by itself, with these defaults.

    Parameters
    ----------
    max_entries : int, default 16
        The programs used last that are kept in any case.
    min_age : datetime.timedelta or float, default two weeks
        Time, in seconds if a number, for which a program has not been used before it is removed. What the programs are
        compiled with (the objects of the shim, precompiled headers, unpacked wheels) is removed after that time, too.

    Returns
    -------
    list of pathlib.Path
        The folders that were removed.

    Examples
    --------
    >>> nutpie.prune_stan_cache(max_entries=0, min_age=0)  # all of them
    """
    age = min_age.total_seconds() if isinstance(min_age, datetime.timedelta) else float(min_age)
    if max_entries < 0 or not age >= 0:
        raise ValueError("max_entries and min_age must not be negative")
    root, now, removed = cache_folder(), time.time(), []
    for kind in root.iterdir() if root.is_dir() else ():
        folders = sorted((_last_use(f), f) for f in kind.iterdir()) if kind.is_dir() else []
        finished = [(used, f) for used, f in folders if not f.name.startswith(_UNFINISHED)]
        old = finished[: max(len(finished) - max_entries, 0)] if kind.name == "models" else finished
        removed += [f for used, f in old if now - used >= age]
        removed += [f for used, f in folders if f.name.startswith(_UNFINISHED) and now - used >= _ABANDONED]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process has just removed it
        return time.time()
