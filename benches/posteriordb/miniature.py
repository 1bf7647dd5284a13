"""Makes a small checkout in the layout of posteriordb from the programs here, to try `run.py` without the real one.

    python benches/posteriordb/miniature.py FOLDER [--shared ../shared/posteriordb]

Data are those in the shared folder. It holds summaries in place of reference draws, so normal draws with these means
and standard deviations stand in for them, as many as posteriordb has. Skewed posteriors have heavier tails, so
that z-scores of their squares are too large here. Posteriors without summaries have no reference.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np

PROGRAMS = Path(__file__).with_name("programs")

CHAINS, DRAWS = 10, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "posteriordb")
    arguments = parser.parse_args()
    names = {path.stem for path in (arguments.shared / "reference").glob("*.json")}
    names |= {"eight_schools-eight_schools_centered", "radon_mn-radon_hierarchical_intercept_centered"}
    for name in sorted(names):
        add(arguments.folder / "posterior_database", arguments.shared, name)


def add(root: Path, shared: Path, name: str) -> None:
    """Add one posterior."""
    data, model = name.split("-", 1)
    reference = shared / "reference" / f"{name}.json"
    described = {"name": name, "model_name": model, "data_name": data}
    described["reference_posterior_name"] = name if reference.is_file() else None
    write(root / "posteriors" / f"{name}.json", described)
    write(root / "models/info" / f"{model}.info.json", {"model_code": {"stan": f"models/stan/{model}.stan"}})
    (root / "models/stan").mkdir(parents=True, exist_ok=True)
    shutil.copy(PROGRAMS / f"{model}.stan", root / "models/stan")
    write(root / "data/info" / f"{data}.info.json", {"data_file": f"data/data/{data}.json"})
    write_zip(root / "data/data" / f"{data}.json.zip", json.loads((shared / "data" / f"{data}.json").read_text()))
    if reference.is_file():
        write_zip(
            root / f"reference_posteriors/draws/draws/{name}.json.zip", stand_in(json.loads(reference.read_text()))
        )


def stand_in(summaries: dict[str, dict[str, float]]) -> list[dict[str, list[float]]]:
    """Draws with exactly the given mean and standard deviation."""
    rng = np.random.default_rng(0)
    chains: list[dict[str, list[float]]] = [{} for _ in range(CHAINS)]
    for name, summary in summaries.items():
        normal = rng.standard_normal(CHAINS * DRAWS)
        normal = (normal - normal.mean()) / normal.std()
        values = (summary["mean"] + summary["sd"] * normal).reshape(CHAINS, DRAWS)
        for chain, row in zip(chains, values, strict=True):
            chain[name] = row.tolist()
    return chains


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_zip(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name.removesuffix(".zip"), json.dumps(content))


if __name__ == "__main__":
    main()
