"""A checkout of posteriordb: which posteriors there are, and their programs, data and reference draws."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Posterior:
    """A posterior: paths of its program and of its data, and of its reference draws if there are some."""

    name: str
    program: Path
    data: Path
    reference: Path | None

    def read_data(self) -> dict[str, Any]:
        return read_json(self.data)

    def read_reference(self) -> dict[str, np.ndarray]:
        """Reference draws by name of an element, such as ``theta[1]``, each of shape (chains, draws)."""
        assert self.reference is not None
        chains = read_json(self.reference)
        return {name: np.array([chain[name] for chain in chains], dtype=float) for name in chains[0]}


def posteriors(checkout: Path) -> list[Posterior]:
    """List the posteriors of a checkout, by name."""
    checkout = checkout.expanduser().resolve()
    root = checkout / "posterior_database" if (checkout / "posterior_database").is_dir() else checkout
    if not (root / "posteriors").is_dir():
        raise SystemExit(f"{checkout} is not a checkout of posteriordb: it has no folder posterior_database/posteriors")
    return [_posterior(root, path) for path in sorted((root / "posteriors").glob("*.json"))]


def _posterior(root: Path, path: Path) -> Posterior:
    described = json.loads(path.read_text())
    draws = described.get("reference_posterior_name")
    return Posterior(
        described.get("name") or path.stem,
        root / _told(root, "models", described["model_name"], "stan", f"models/stan/{described['model_name']}.stan"),
        root / _told(root, "data", described["data_name"], "data_file", f"data/data/{described['data_name']}.json"),
        root / f"reference_posteriors/draws/draws/{draws}.json" if draws else None,
    )


def _told(root: Path, kind: str, name: str, key: str, usual: str) -> str:
    """Path of a program or of data, as the file of information says if it does."""
    path = root / kind / "info" / f"{name}.info.json"
    if not path.is_file():
        return usual
    info = json.loads(path.read_text())
    programs = info.get("model_implementations", {}).get("stan", {})
    if isinstance(programs, dict) and "model_code" in programs:
        return str(programs["model_code"])
    return str(info.get("model_code", {}).get(key, usual) if kind == "models" else info.get(key, usual))


def read_json(path: Path) -> Any:
    """Read a JSON file, or the one that is zipped beside it."""
    if path.is_file():
        return json.loads(path.read_text())
    zipped = path.with_name(path.name + ".zip")
    if not zipped.is_file():
        raise FileNotFoundError(f"there is neither {path} nor {zipped.name} beside it")
    with zipfile.ZipFile(zipped) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json") and not name.startswith("__MACOSX")]
        return json.loads(archive.read(names[0]))
