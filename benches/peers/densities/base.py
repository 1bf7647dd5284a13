"""What all densities share: layout, starts, constrained quantities, and where data of others are."""

import json
import os
import pathlib

import numpy as np

#: The folder that holds `posteriordb` and `peerbench`: given, or beside the repository.
SHARED = pathlib.Path(os.environ.get("NUTPIE_SHARED", pathlib.Path(__file__).resolve().parents[4] / "shared"))


class UnavailableError(Exception):
    """The data of a density are not on this machine."""


def shared_file(path):
    path = SHARED / path
    if not path.exists():
        raise UnavailableError(f"{path} is not there; set NUTPIE_SHARED to the folder that holds it")
    return path


def shared_json(path):
    return json.loads(shared_file(path).read_text())


class Workload:
    """A density and its data.

    `blocks` gives the layout of the unconstrained space: name of the PyMC variable, size, and "identity" or "log".
    """

    name = ""
    title = ""
    blocks: tuple[tuple[str, int, str], ...] = ()

    @property
    def dim(self):
        return sum(size for _, size, _ in self.blocks)

    @property
    def scored(self):
        """Parameters whose ESS is computed: all, or in a large model the first two and a fixed random choice."""
        if self.dim <= 1000:
            return np.arange(self.dim)
        rest = np.random.default_rng(0).choice(np.arange(2, self.dim), 498, replace=False)
        return np.concatenate([[0, 1], rest])

    def starts(self, seed, chains):
        """Never the mode itself: a start with a zero gradient is fatal to nutpie 0.16."""
        return np.random.default_rng(9000 + seed).uniform(-2, 2, (chains, self.dim))

    def constrain(self, point):
        """Values of the PyMC variables at an unconstrained point."""
        values, offset = {}, 0
        for name, size, transform in self.blocks:
            part = point[offset : offset + size]
            offset += size
            part = np.exp(part) if transform == "log" else part
            values[name] = part[0] if size == 1 else part
        return values

    def unconstrain(self, draws):
        """Flat unconstrained draws, of shape (chains, draws, dim), from arrays by name of PyMC variable."""
        parts = []
        for name, size, transform in self.blocks:
            values = np.asarray(draws[name], float)
            values = values.reshape(*values.shape[:2], size)
            parts.append(np.log(values) if transform == "log" else values)
        return np.concatenate(parts, axis=-1)

    def expand(self, draws):
        """Constrained arrays by name, of shape (..., size), from unconstrained draws of shape (..., dim)."""
        values, offset = {}, 0
        for name, size, transform in self.blocks:
            part = draws[..., offset : offset + size]
            offset += size
            values[name] = np.exp(part) if transform == "log" else part
        return values

    def quantities(self, draws):
        """Constrained scalars by name, such as `beta[1]`, as in the references; a variable of size one has no index."""
        elements = {}
        for name, values in self.expand(draws).items():
            if values.shape[-1] == 1:
                elements[name] = values[..., 0]
            else:
                elements.update((f"{name}[{i + 1}]", values[..., i]) for i in range(values.shape[-1]))
        return elements

    def reference(self):
        """Mean, sd and error of the mean by name of `quantities`; nothing where they are not known."""
        return {}


def posteriordb_reference(name):
    """Mean, sd and error of the mean of posteriordb's reference draws, which are nearly independent."""
    summaries = shared_json(f"posteriordb/reference/{name}.json")
    return {key: (s["mean"], s["sd"], s["sd"] / s["draws"] ** 0.5) for key, s in summaries.items()}
