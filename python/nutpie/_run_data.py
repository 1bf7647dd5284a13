"""What diagnosing and plotting read from a result, whichever ArviZ made it."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ADAPTATION", "Parameters", "RunData", "WarmupData", "group", "statistics", "superchains"]

#: Group of a result that tells how the metric came about.
ADAPTATION = "adaptation"

#: Names of a statistic, first this package's, then those of other samplers.
STATISTICS = {
    "acceptance": ("mean_tree_accept", "acceptance_rate"),
    "depth": ("depth", "tree_depth"),
    "depth_limit": ("maxdepth_reached", "reached_max_treedepth"),
    "diverging": ("diverging",),
    "energy": ("energy",),
    "index": ("index_in_trajectory",),
    "logp": ("logp", "lp"),
    "n_steps": ("n_steps",),
    "rejections": ("rejection_run",),
    "step_size": ("step_size",),
    "mean_step_size": ("step_size_bar",),
}

#: Bytes of draws that are worked on at a time: few enough to stay in a core's cache.
CHUNK_BYTES = 1 << 20


def group(result: Any, name: str) -> Any:
    """Return a group of a result as an `xarray.Dataset`, or None if there is no such group.

    Parameters
    ----------
    result
        An `arviz.InferenceData` or `xarray.DataTree`.
    name
        Name of the group.

    Raises
    ------
    TypeError
        If it is neither.
    """
    children = getattr(result, "children", None)
    if isinstance(children, Mapping):
        return children[name].to_dataset() if name in children else None
    groups = getattr(result, "groups", None)
    if not callable(groups):
        raise TypeError(f"wanted a result of nutpie.sample (InferenceData or DataTree), not {type(result).__name__}")
    return result[name] if name in groups() else None


def statistics(dataset: Any) -> dict[str, np.ndarray]:
    """Return the statistics of a group ``sample_stats`` by the names of `STATISTICS`, each (chains, draws)."""
    found = {}
    for name, candidates in STATISTICS.items():
        present = [c for c in candidates if dataset is not None and c in dataset]
        if present and set(dataset[present[0]].dims) == {"chain", "draw"}:
            found[name] = np.asarray(dataset[present[0]].transpose("chain", "draw").values)
    return found


def superchains(result: Any) -> np.ndarray | None:
    """Return the superchain of each chain of a result, from 0; None if it does not tell of two or more."""
    dataset, posterior = group(result, ADAPTATION), group(result, "posterior")
    if dataset is None or "superchain" not in dataset:
        return None
    numbers = dict(zip(dataset["chain"].values.tolist(), dataset["superchain"].values.tolist(), strict=True))
    labels = posterior["chain"].values.tolist()
    if not set(labels) <= set(numbers):
        return None
    found, indices = np.unique([numbers[label] for label in labels], return_inverse=True)
    return indices if len(found) > 1 else None


class Parameters:
    """All numbers of a group of draws, in one row.

    Parameters
    ----------
    dataset
        Variables with dimensions ``chain`` and ``draw``. Others, and those that are not numbers, are left out.
    var_names
        The variables to take; all by default.

    Raises
    ------
    ValueError
        For a name that does not exist, with the nearest one.
    """

    def __init__(self, dataset: Any, var_names: str | Sequence[str] | None = None) -> None:
        self._variables = [
            dataset[name].transpose("chain", "draw", ...)
            for name in _chosen(dataset, var_names)
            if {"chain", "draw"} <= set(dataset[name].dims) and dataset[name].dtype.kind in "fiub"
        ]
        self._sizes = [int(np.prod(v.shape[2:])) for v in self._variables]
        self._offsets = np.concatenate([[0], np.cumsum(self._sizes)]).astype(int)
        self.chains = int(dataset.sizes.get("chain", 0))
        self.draws = int(dataset.sizes.get("draw", 0))

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def variables(self) -> Iterator[tuple[int, int, Any]]:
        """Yield for each variable its first row, its number of rows and its draws, an `xarray.DataArray`."""
        yield from zip(self._offsets[:-1].tolist(), self._sizes, self._variables, strict=True)

    def label(self, row: int) -> str:
        """Name of a parameter with its coordinates, such as ``theta[school=Choate]``."""
        which = int(np.searchsorted(self._offsets, row, side="right")) - 1
        variable = self._variables[which]
        dims = variable.dims[2:]
        if not dims:
            return str(variable.name)
        index = np.unravel_index(row - self._offsets[which], variable.shape[2:])
        parts = [_coordinate(variable, str(dim), int(i)) for dim, i in zip(dims, index, strict=True)]
        return f"{variable.name}[{', '.join(parts)}]"

    def take(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Draws of some parameters, in the order given: float64 of shape (rows, chains, draws)."""
        rows = np.asarray(rows, dtype=int)
        out = np.empty((len(rows), self.chains, self.draws))
        for first, size, variable in self.variables():
            mine = np.flatnonzero((rows >= first) & (rows < first + size))
            if len(mine):
                flat = _flat(variable)
                out[mine] = np.moveaxis(flat[:, :, rows[mine] - first], 2, 0)
        return out

    def map(self, function: Callable[[np.ndarray], np.ndarray], threads: int = 1) -> np.ndarray:
        """Apply a function to the draws of all parameters, some of them at a time.

        Parameters
        ----------
        function
            From draws of shape (rows, chains, draws) to an array whose first axis is the rows.
        threads
            How many pieces are worked on at once.

        Returns
        -------
        numpy.ndarray
            The answers, joined along the first axis.
        """
        step = max(1, CHUNK_BYTES // max(1, 8 * self.chains * self.draws))
        pieces = [
            (flat, slice(start, min(start + step, flat.shape[2])))
            for flat in map(_flat, self._variables)
            for start in range(0, flat.shape[2], step)
        ]

        def work(piece: tuple[np.ndarray, slice]) -> np.ndarray:
            flat, rows = piece
            return function(np.ascontiguousarray(np.moveaxis(flat[:, :, rows], 2, 0), dtype=np.float64))

        if not pieces:
            return function(np.empty((0, self.chains, self.draws)))
        if threads == 1 or len(pieces) == 1:
            return np.concatenate([work(piece) for piece in pieces])
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(work, pieces)))


def _chosen(dataset: Any, var_names: str | Sequence[str] | None) -> list[str]:
    known = [str(name) for name in dataset.data_vars]
    if var_names is None:
        return known
    chosen = [var_names] if isinstance(var_names, str) else list(var_names)
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the posterior has no variable {name!r}{hint}")
    return chosen


def _flat(variable: Any) -> np.ndarray:
    values = np.asarray(variable.values)
    return values.reshape(*values.shape[:2], int(np.prod(values.shape[2:])))


def _coordinate(variable: Any, dim: str, index: int) -> str:
    value = variable.coords[dim].values[index] if dim in variable.coords else index
    # The name of a dimension without a name of its own says nothing.
    generic = dim.startswith(f"{variable.name}_dim_")
    return f"{value}" if generic else f"{dim}={value}"


@dataclass(frozen=True)
class WarmupData:
    """What a result tells of its warm-up.

    Parameters
    ----------
    chains
        Labels of the chains.
    lagging
        Whether a chain was far below the others at the end.
    left
        Condition number that was left with the metric of each chain at the end; NaN if unknown.
    draws
        Draws of the longest warm-up.
    gradients
        Gradients of all chains.
    extended
        Whether it was extended.
    fits, rejected_fits
        How many times a metric was fitted and used, or fitted and not used.
    verdict
        All that in a line.
    """

    chains: list[int]
    lagging: np.ndarray
    left: np.ndarray
    draws: int
    gradients: int
    extended: bool
    fits: int
    rejected_fits: int
    verdict: str

    @classmethod
    def read(cls, dataset: Any) -> WarmupData | None:
        """Take the group apart; None if there is none, or that of another package."""
        wanted = {"lagging", "condition_number_left", "warmup_draws", "warmup_gradients", "check_extended"}
        if dataset is None or not wanted <= set(dataset.data_vars):
            return None
        values = {name: np.asarray(dataset[name].values) for name in wanted}
        return cls(
            chains=dataset["chain"].values.tolist(),
            lagging=values["lagging"].astype(bool),
            left=values["condition_number_left"].astype(np.float64),
            draws=int(values["warmup_draws"].max(initial=0)),
            gradients=int(values["warmup_gradients"].sum()),
            extended=bool(values["check_extended"].any()),
            fits=int(dataset.attrs.get("fits", 0)),
            rejected_fits=int(dataset.attrs.get("rejected_fits", 0)),
            verdict=str(dataset.attrs.get("verdict", "")),
        )


@dataclass(frozen=True)
class RunData:
    """A result, taken apart.

    Parameters
    ----------
    parameters
        Draws after warm-up.
    stats
        Statistics after warm-up, by the names of `STATISTICS`, each of shape (chains, draws).
    chains
        Labels of the chains.
    attrs
        Attributes of the result.
    settings
        Settings of the sampler: those given, defaults for others.
    energy_errors
        Of all divergences after warm-up, also of draws that were not kept; None if the result does not have them.
    warmup
        What it tells of the warm-up; None if it does not.
    pareto_k
        Of the importance weights of a Laplace approximation; None if there was none.
    worst_latent
        Name and Pareto k of the latent variable, or block of them, that it does worst; None if that is not known.
    worst_hyper
        Name of the hyper-parameter whose mean it shifts most, and by how many standard deviations; None likewise.
    messages
        What the model said most often, by what was computed: the ``log density``, or the ``variables`` of the result.
    superchains
        Superchain of each chain, from 0; None if there are no superchains.
    """

    parameters: Parameters
    stats: dict[str, np.ndarray]
    chains: list[int]
    attrs: dict[str, Any]
    settings: dict[str, Any]
    energy_errors: np.ndarray | None = None
    warmup: WarmupData | None = None
    messages: Mapping[str, str] = field(default_factory=dict)
    superchains: np.ndarray | None = None
    pareto_k: float | None = None
    worst_latent: tuple[str, float] | None = None
    worst_hyper: tuple[str, float] | None = None

    @classmethod
    def read(cls, result: Any, var_names: str | Sequence[str] | None = None) -> RunData:
        """Take a result apart.

        Raises
        ------
        TypeError
            If it is not a result.
        ValueError
            If it has no posterior, or not the variables asked for.
        """
        posterior = group(result, "posterior")
        if posterior is None:
            raise ValueError("the result has no group 'posterior'")
        labels = posterior["chain"].values.tolist() if "chain" in posterior.coords else range(posterior.sizes["chain"])
        attrs = dict(posterior.attrs)
        return cls(
            parameters=Parameters(posterior, var_names),
            stats=statistics(group(result, "sample_stats")),
            chains=list(labels),
            attrs=attrs,
            settings=_settings(attrs),
            energy_errors=_energy_errors(group(result, "divergences")),
            warmup=WarmupData.read(group(result, ADAPTATION)),
            messages=_messages(group(result, "messages")),
            superchains=superchains(result),
            pareto_k=_pareto_k(group(result, "laplace")),
            worst_latent=_first(group(result, "laplace"), "latent", "latent_pareto_k"),
            worst_hyper=_first(group(result, "laplace"), "hyper", "hyper_shift"),
        )


def _messages(dataset: Any) -> dict[str, str]:
    if dataset is None or not {"source", "text", "count"} <= set(dataset.data_vars):
        return {}
    columns = (np.asarray(dataset[name].values).tolist() for name in ("source", "text", "count"))
    return {str(source): str(text) for source, text, _ in sorted(zip(*columns, strict=True), key=lambda row: row[2])}


def _pareto_k(dataset: Any) -> float | None:
    return None if dataset is None or "pareto_k" not in dataset else float(dataset["pareto_k"])


def _first(dataset: Any, coordinate: str, variable: str) -> tuple[str, float] | None:
    if dataset is None or variable not in dataset:
        return None
    return str(dataset[coordinate].values[0]), float(dataset[variable].values[0])


def _energy_errors(divergences: Any) -> np.ndarray | None:
    if divergences is None or not {"tuning", "energy_error"} <= set(divergences.data_vars):
        return None
    return np.asarray(divergences["energy_error"].values)[~np.asarray(divergences["tuning"].values, dtype=bool)]


def _settings(attrs: Mapping[str, Any]) -> dict[str, Any]:
    from nutpie.settings import declared

    settings: dict[str, Any] = {name: setting.default for name, setting in declared().items()}
    # Results of other samplers have none.
    with contextlib.suppress(KeyError, TypeError, ValueError):
        described = json.loads(attrs["inference_library_settings"])
        settings |= {"kernel": described.get("kernel", "nuts")} | described["settings"]
    return settings
