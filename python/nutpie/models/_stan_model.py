"""Compiled Stan programs as models for the sampler."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nutpie import _lib
from nutpie._caller import levels_inside
from nutpie.models._names import unknown_name
from nutpie.models._stan_data import as_arrays, checked_data, explain_refusal, read_json, to_json
from nutpie.models._stan_program import Program
from nutpie.models._stan_unconstrain import Unconstrain
from nutpie.models._stan_variables import BLOCKS, StanVariable, declared_variables, stan_variables
from nutpie.models._values import not_finite, uniform_start
from nutpie.models.base import CompiledModel, Density, DrawContext, PointwiseDensity, Variable

__all__ = ["CompiledStanModel"]

_GENERATED = BLOCKS.index("generated quantities")


@dataclass(frozen=True)
class _Data:
    """Data of a model, as given and as Stan takes them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


class CompiledStanModel(CompiledModel):
    """A Stan program that has been compiled; made by `compile_stan_model`.

    A program with a data block needs `with_data` before it can be sampled. `with_data`, `with_dims` and `with_coords`
    return new models and can be called in any order.
    """

    def __init__(
        self,
        program: Program,
        *,
        var_names: Sequence[str] | None = None,
        data: _Data | None = None,
        dims: Mapping[str, tuple[str, ...]] | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> None:
        self._program = program
        self._var_names = [var_names] if isinstance(var_names, str) else var_names
        self._dims = dict(dims or {})
        self._coords = dict(coords or {})
        self._data = data
        self._constructed: _lib.StanModel | None = None
        if data is None and program.inputs is not None and not program.inputs:
            self._data = _Data()

    def _replaced(self, **changes: Any) -> CompiledStanModel:
        fields = {"var_names": self._var_names, "data": self._data, "dims": self._dims, "coords": self._coords}
        new = CompiledStanModel(self._program, **(fields | changes))
        if "data" not in changes:
            new._constructed = self._constructed
        return new

    # ----------------------------------------------------------------------------------------- data, dims and coords

    def with_data(
        self,
        data: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        /,
        *,
        seed: int | None = None,
        **values: Any,
    ) -> CompiledStanModel:
        """Return the program with data, in place of those that it had.

        Parameters
        ----------
        data : dict or path, optional
            The data by name, or a JSON file with them. Values may be numbers, lists, arrays, and series and tables of
            pandas; whole numbers may be booleans; tuples are Python's.
        seed : int, optional
            Seed of the random numbers in the block ``transformed data``, from 0 to 2**32 - 1; 0 by default. A variable
            that is named seed as well goes into ``data``.
        **values
            Further data by name, instead of those of the same name in ``data``.

        Returns
        -------
        CompiledStanModel
            A new object; this one keeps its data.

        Raises
        ------
        TypeError
            If ``data`` is neither a dict nor a path.
        ValueError
            For names that the data block does not have, values that are missing or NaN, and values of another type,
            shape or range than it wants; the message names the variable.

        Examples
        --------
        >>> compiled.with_data(N=3, y=[1.0, 2.0, 3.0])
        >>> compiled.with_data("data.json", seed=1)
        """
        if not (data is None or isinstance(data, Mapping | str | os.PathLike)):
            raise TypeError(
                "with_data() takes the data by name, a dict of them, or the path of a JSON file, "
                f"not {type(data).__name__}"
            )
        given = read_json(data) if isinstance(data, str | os.PathLike) else dict(data or {})
        number = 0 if seed is None else seed
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"seed must be a whole number or None, not {seed!r}")
        if not 0 <= number < 2**32:
            raise ValueError(f"seed must be from 0 to 2**32 - 1, not {seed}")
        new = self._replaced(data=_Data(checked_data(given | values, self._program.inputs), int(number)))
        new._construct()
        return new

    def with_dims(self, **dims: Sequence[str]) -> CompiledStanModel:
        """Return the program with names of the dimensions of variables and of data.

        Parameters
        ----------
        **dims
            By name of a variable the names of all its dimensions; a single one may be a plain string.

        Returns
        -------
        CompiledStanModel
            A new object, which also has the dimensions that this one has.

        Raises
        ------
        ValueError
            For a variable that does not exist. Numbers of dimensions are checked when the data are known.

        Examples
        --------
        >>> compiled.with_dims(theta="school", y="school")
        """
        named = {name: (given,) if isinstance(given, str) else tuple(given) for name, given in dims.items()}
        known = self._known_names()
        for name in named:
            if known is not None and name not in known:
                raise ValueError("dims: " + unknown_name(name, known, "variable"))
        return self._replaced(dims=self._dims | named)

    def with_coords(self, **coords: Any) -> CompiledStanModel:
        """Return the program with coordinate values by dimension.

        Parameters
        ----------
        **coords
            As many values as the dimension is long. Other dimensions are numbered from 0.

        Returns
        -------
        CompiledStanModel
            A new object, which also has the coordinates that this one has.

        Examples
        --------
        >>> compiled.with_coords(school=["A", "B", "C"])
        """
        values = {dim: np.asarray(given) for dim, given in coords.items()}
        for dim, given in values.items():
            if given.ndim != 1:
                raise ValueError(f"coords: the values of {dim!r} must be in one dimension, not of shape {given.shape}")
        return self._replaced(coords=self._coords | values)

    def _known_names(self) -> set[str] | None:
        if self._program.info is not None:
            return {*declared_variables(self._program.info), *(self._program.inputs or {})}
        if self._constructed is not None:
            return {*(v.name for v in self._all_variables), *(self._data.values if self._data else {})}
        return None

    # ------------------------------------------------------------------------------------------------------ the model

    def _construct(self) -> _lib.StanModel:
        """Give the data to Stan."""
        if self._constructed is None:
            wanted = self._program.inputs
            data = self._data
            if data is None and wanted:
                raise ValueError(
                    f"the Stan program {self._program.name!r} has no data yet: call with_data(...) with values of "
                    f"{', '.join(map(repr, wanted))}"
                )
            values = {} if data is None else data.values
            try:
                self._constructed = self._program.library.model(to_json(values), 0 if data is None else data.seed)
            except RuntimeError as error:
                raise ValueError(explain_refusal(str(error), values)) from error
        return self._constructed

    @cached_property
    def _model(self) -> _lib.StanModel:
        """The model, once all that was said of its variables has been checked."""
        model = self._construct()
        self._check_var_names()
        self._check_dims()
        return model

    def _check_var_names(self) -> None:
        known = {root for v in self._all_variables for root in (v.name, v.root)}
        for name in self._var_names or ():
            if name not in known:
                raise ValueError("var_names: " + unknown_name(name, known, "variable"))

    def _check_dims(self) -> None:
        shapes = {v.name: v.shape for v in self._all_variables}
        shapes |= {name: array.shape for name, array in self._data_arrays().items()}
        for name, dims in self._dims.items():
            if name not in shapes:
                raise ValueError("dims: " + unknown_name(name, shapes, "variable"))
            shape = shapes[name]
            if len(dims) != len(shape):
                raise ValueError(f"dims: {name!r} has shape {shape}, and the names of its dimensions are {dims}")
            for dim, length in zip(dims, shape, strict=True):
                if dim in self._coords and len(self._coords[dim]) != length:
                    raise ValueError(
                        f"coords: {dim!r} has {len(self._coords[dim])} values, but is {length} long in {name!r}"
                    )

    def _data_arrays(self) -> dict[str, np.ndarray]:
        return {} if self._data is None else as_arrays(self._data.values)

    @property
    def data_names(self) -> list[str] | None:
        """Names of the variables in the data block; None if they are not known, as for a library that was given."""
        return None if self._program.inputs is None else list(self._program.inputs)

    @property
    def toolchain(self) -> str:
        """What the program was compiled with: bridgestan, httpstan, or a library that was given."""
        return self._program.toolchain

    @property
    def stan_version(self) -> str:
        """Version of Stan; for a library that was given it is known when the data are."""
        if self._program.stan_version or self._constructed is None:
            return self._program.stan_version
        lines = (line.strip() for line in self._constructed.info.splitlines())
        found = next((line for line in lines if line.lower().startswith("stan version")), "")
        return found.rpartition(":")[2].strip()

    @property
    def library(self) -> Path:
        """The file of the library, which `bridgestan.StanModel` and other clients of BridgeStan can load, too."""
        return self._program.path

    def attributes(self) -> dict[str, str]:
        """Name of the program, toolchain and version of Stan, for the attributes of a result."""
        return {
            "stan_program": self._program.name,
            "stan_toolchain": self.toolchain,
            "stan_version": self.stan_version,
        }

    def __repr__(self) -> str:
        version = f", Stan {self.stan_version}" if self.stan_version else ""
        state = "no data yet" if self._constructed is None else f"{self._constructed.dim} unconstrained parameters"
        return f"<Stan program {self._program.name!r}, {self.toolchain}{version}: {state}>"

    # ------------------------------------------------------------------------------------------------------ variables

    @cached_property
    def _all_variables(self) -> list[StanVariable]:
        model = self._construct()
        blocks = [model.names(False, False), model.names(True, False), model.names(True, True)]
        counts = [0, *(len(_split(names)) for names in blocks)]
        every = _split(blocks[-1])
        names = [every[low:high] for low, high in itertools.pairwise(counts)]
        return stan_variables(names, model.shapes(), declared_variables(self._program.info))

    def _wanted(self, *, generated: bool) -> list[StanVariable]:
        names = self._var_names
        every = [v for v in self._all_variables if generated or v.block < _GENERATED]
        return every if names is None else [v for v in every if v.name in names or v.root in names]

    @property
    def n_dim(self) -> int:
        """Number of unconstrained parameters."""
        return self._construct().dim

    @property
    def variables(self) -> Sequence[Variable]:
        """Parameters, transformed parameters and generated quantities, unless ``var_names`` says otherwise.

        They have Stan's shapes. The places of a tuple ``t`` are variables ``t:1``, ``t:2`` of their own.
        """
        return [v.described(self._dims.get(v.name, ())) for v in self._wanted(generated=True)]

    @property
    def warmup_variables(self) -> Sequence[Variable]:
        """The same without generated quantities, which are not computed for draws of the warm-up."""
        return [v.described(self._dims.get(v.name, ())) for v in self._wanted(generated=False)]

    @property
    def coords(self) -> Mapping[str, Any]:
        """Coordinate values by dimension name, of the dimensions that have some."""
        return self._coords

    @cached_property
    def unconstrained_names(self) -> Sequence[str]:
        """Stan's name of each unconstrained parameter, such as ``theta.1``."""
        return _split(self._construct().unconstrained_names())

    def density(self) -> Density:
        """Return the log density, without constants, and its gradient as a C callback."""
        found = self._model.density()
        return Density(found.address, found.user_data, keep_alive=found, messages=found.messages)

    def usable_cores(self, cores: int, chains: int) -> int:
        """All of them where the library was compiled for several threads, otherwise one, with a warning."""
        if self._model.threads or min(cores, chains) == 1:
            return cores
        warnings.warn(
            f"the library of the Stan program {self._program.name!r} was compiled without STAN_THREADS=true, so that "
            "its chains run one after the other",
            stacklevel=levels_inside() + 1,
        )
        return 1

    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the variables of the result from unconstrained draws of shape (n, n_dim)."""
        return self.expand_draws(draws, DrawContext.of_no_run(len(draws)))

    def expand_draws(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Compute the variables of the result; generated quantities have random numbers of their own for each draw.

        What Stan cannot compute at a draw is NaN.
        """
        draws = self._checked_draws(draws)
        wanted = self._wanted(generated=not context.warmup)
        blocks = {v.block for v in wanted}
        seeds = context.seeds32() if _GENERATED in blocks else None
        transformed = bool(blocks - {0})
        values, messages = self._model.constrain(draws, transformed, seeds, _threads(len(draws)))
        for text, count in messages:
            context.report(text, count)
        return {v.name: v.take(values) for v in wanted}

    def pointwise(self, group: Literal["log_likelihood", "log_prior"]) -> PointwiseDensity:
        """``log_likelihood`` is the generated quantities whose names begin with ``log_lik``."""
        if group != "log_likelihood":
            return super().pointwise(group)
        terms = [v for v in self._all_variables if v.block == _GENERATED and v.name.startswith("log_lik")]
        if not terms:
            raise ValueError(
                "log_likelihood=True needs generated quantities whose names begin with log_lik, and the Stan program "
                f"{self._program.name!r} has none: add them, or leave it out"
            )

        def compute(draws: np.ndarray) -> dict[str, np.ndarray]:
            seeds = np.zeros(len(draws), dtype=np.uint32)
            values, _ = self._model.constrain(np.ascontiguousarray(draws), True, seeds, _threads(len(draws)))
            return {v.name: v.take(values) for v in terms}

        return PointwiseDensity([v.described(self._dims.get(v.name, ())) for v in terms], compute)

    # --------------------------------------------------------------------------------------------------------- starts

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a random start on the unconstrained scale, of shape (n_dim,): uniform from -2 to 2, as Stan does."""
        return uniform_start(seed, self.n_dim)

    @property
    def free_variables(self) -> Sequence[str]:
        """Names of the parameters; for a tuple those of its places."""
        return [v.name for v in self._all_variables if v.block == 0 and v.columns.size]

    def _unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        return Unconstrain(self._model, self._all_variables, self.unconstrained_names)(values, base)

    def explain_point(self, point: np.ndarray) -> str:
        """Say in words why the log density or its gradient is not finite at ``point``."""
        described = super().explain_point(point)
        if described:
            return described
        density = self.density()
        try:
            logp, gradient = _lib.evaluate(density.address, density.user_data, np.ascontiguousarray(point))
        except RuntimeError as error:
            return f"Stan says: {error}"
        if density.messages is not None and density.messages():
            return f"Stan says: {density.messages()[0][0]}"
        return not_finite(logp, gradient, self.unconstrained_names)

    # ----------------------------------------------------------------------------------------------------------- data

    def data_groups(self) -> dict[str, dict[str, np.ndarray]]:
        """``constant_data``: Stan does not say which of its data are observations."""
        arrays = self._data_arrays()
        return {"constant_data": {name: np.array(array) for name, array in arrays.items()}} if arrays else {}

    def data_dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names of the data that have some."""
        return {name: self._dims[name] for name in self._data_arrays() if name in self._dims}


def _split(names: str) -> list[str]:
    return names.split(",") if names else []


def _threads(draws: int) -> int:
    """Return how many threads expand draws: not more than are worth the while."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, draws // 64))
