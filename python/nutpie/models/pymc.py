"""Front end for PyMC models."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from nutpie._arguments import choice
from nutpie.models._pymc_arguments import check_continuous, jittered_names, stored_names
from nutpie.models._require import require
from nutpie.models._values import gradient_not_finite
from nutpie.models.base import BatchDensity, CompiledModel, Density, LogpPrototype, PointwiseDensity, Variable

if TYPE_CHECKING:
    from nutpie.models._layout import Block
    from nutpie.models._pymc_data import ModelData
    from nutpie.models._pymc_graph import ExpandFunction
    from nutpie.models._pymc_initial import InitialPoints
    from nutpie.models._pymc_jax import JaxLogp
    from nutpie.models._pymc_numba import NumbaLogp
    from nutpie.models._pymc_terms import TermGroup
    from nutpie.models._pymc_unconstrain import Unconstrain

__all__ = ["CompiledPyMCModel", "compile_pymc_model"]

T = TypeVar("T")

# Any seed will do where a point is only needed for its shapes.
_SHAPE_SEED = (0,)


def compile_pymc_model(
    model: Any,
    *,
    backend: Literal["numba", "jax"] = "numba",
    gradient_backend: Literal["pytensor", "jax"] | None = None,
    initial_points: Mapping[Any, Any] | None = None,
    jitter_rvs: Iterable[Any] | None = None,
    default_initialization_strategy: Literal["support_point", "prior"] = "support_point",
    var_names: Sequence[str] | None = None,
    freeze_model: bool | None = None,
) -> CompiledPyMCModel:
    """Compile a PyMC model for sampling.

    The log density and its gradient are compiled to machine code. With numba, PyTensor keeps that code in its cache
    directory, so the same model is loaded in much less time by the next process, also with other observations of the
    same rank and dtype; chains run in parallel. With JAX, all chains share a call, on the device that JAX uses.

    The values of the data variables (``pm.Data``) are those at the time of this call; `CompiledPyMCModel.with_data`
    replaces them.

    Parameters
    ----------
    model : pymc.Model
        The model. Its free variables have to be continuous.
    backend : {"numba", "jax"}, default "numba"
        What the log density is compiled with. PyTensor switches JAX to double precision for the whole process when it
        is used with it. An index that depends on parameters and is out of bounds is an error with numba; JAX takes the
        nearest element.
    gradient_backend : {"pytensor", "jax"}, optional
        What differentiates the log density: PyTensor, which is the default, or JAX, with ``backend="jax"`` only.
    initial_points : dict, optional
        Starts by name of a free variable: a value on the scale of the variable and of its shape, or one of the
        strategies ``"support_point"`` and ``"prior"``. The name of an unconstrained variable, such as
        ``"sigma_log__"``, takes an unconstrained value. They take precedence over ``initval`` in the model. A start
        given as a value gets no jitter unless the variable is in ``jitter_rvs``.
    jitter_rvs : iterable of str or variables, optional
        Free variables that get independent U(-1, 1) jitter, added on the unconstrained scale. The default is all that
        start at their support point or at the ``initval`` of the model.
    default_initialization_strategy : {"support_point", "prior"}, default "support_point"
        Start of the variables for which neither ``initial_points`` nor the model has one: a central value of the
        distribution, or a random draw from it.
    var_names : sequence of str, optional
        Free and deterministic variables that the result holds. The default is all of them.
    freeze_model : bool, optional
        Treat data and lengths of dimensions as constants. The log density can then be a little faster, but `with_data`
        has nothing left to replace. The default is False for numba and True for JAX, which cannot compile some models
        whose shapes depend on data.

    Returns
    -------
    CompiledPyMCModel

    Raises
    ------
    ImportError
        If PyMC, or what the model is to be compiled with, is not installed.
    ValueError
        For an unknown backend or name of a variable, and for models with discrete free variables.
    IndexError
        If an index in the data is out of bounds.

    Examples
    --------
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu")
    ...     pm.Normal("y", mu, 1, observed=[0.1, 0.3])
    >>> compiled = nutpie.compile_pymc_model(model)
    >>> compiled.n_dim
    1
    """
    choice("backend", backend, ("numba", "jax"))
    choice("gradient_backend", gradient_backend, (None, "pytensor", "jax"))
    if gradient_backend == "jax" and backend != "jax":
        raise ValueError("gradient_backend='jax' needs backend='jax': numba cannot call what JAX compiles")
    require("PyMC models need", "pymc,jax" if backend == "jax" else "pymc", "pymc", backend)
    from nutpie.models._pymc_initial import InitialPoints

    choice("default_initialization_strategy", default_initialization_strategy, ("support_point", "prior"))
    check_continuous(model)
    stored = stored_names(model, var_names)
    free = [variable.name for variable in model.free_RVs]
    overrides = dict(initial_points or {})
    jitter = jittered_names(free, model, overrides, jitter_rvs, default_initialization_strategy)
    if backend == "jax" if freeze_model is None else freeze_model:
        from pymc.model.transform.optimization import freeze_dims_and_data

        model = freeze_dims_and_data(model)
    initial = InitialPoints(model, free, overrides, jitter, default_initialization_strategy)
    programs, data = _build(model, free, stored, initial, backend, gradient_backend or "pytensor")
    compiled = CompiledPyMCModel(programs, data)
    compiled._check_indices()
    return compiled


def _build(
    model: Any, free: Sequence[str], stored: Sequence[str], initial: InitialPoints, backend: str, gradient_backend: Any
) -> tuple[_Programs, ModelData]:
    """Compile the log density, and find the layout of its argument by evaluating a start."""
    from nutpie.models._pymc_data import ModelData
    from nutpie.models._pymc_graph import data_inputs, layout, stored_variables

    observed = [model.rvs_to_values[variable] for variable in model.observed_RVs]
    every_shared = data_inputs([model.logp(), *stored_variables(model, stored), *observed])
    data = ModelData.of_model(model, [*initial.shared, *every_shared])
    start = initial.values(data.arrays(initial.shared), _SHAPE_SEED)
    blocks = layout(model, free, [value.shape for value in start])
    logp: NumbaLogp | JaxLogp
    if backend == "jax":
        from nutpie.models._pymc_jax import JaxLogp

        logp = JaxLogp(model, blocks, gradient_backend)
    else:
        from nutpie.models._pymc_numba import NumbaLogp

        logp = NumbaLogp(model, blocks, data.arrays)
    return _Programs(model, blocks, list(stored), every_shared, logp, initial), data


@dataclass
class _Programs:
    """What a model is compiled to; independent of the data, and shared by the models of `with_data`."""

    model: Any
    blocks: Sequence[Block]
    stored: Sequence[str]
    shared: Sequence[Any]
    logp: NumbaLogp | JaxLogp
    initial: InitialPoints

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}

    def _once(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            made: T = self._made[key]
            return made

    @property
    def expand(self) -> ExpandFunction:
        from nutpie.models._pymc_graph import ExpandFunction, stored_variables

        def make() -> ExpandFunction:
            variables = zip(self.stored, stored_variables(self.model, self.stored), strict=True)
            return ExpandFunction(self.model, self.blocks, dict(variables))

        return self._once("expand", make)

    def terms(self, group: TermGroup) -> ExpandFunction:
        """Compile the terms of the log density that belong to the variables of a group."""
        from nutpie.models._pymc_graph import ExpandFunction
        from nutpie.models._pymc_terms import density_terms, term_names

        def make() -> ExpandFunction:
            names = term_names(self.model, group)
            return ExpandFunction(
                self.model, self.blocks, dict(zip(names, density_terms(self.model, names), strict=True))
            )

        return self._once(group, make)

    @property
    def observed(self) -> Callable[..., list[np.ndarray]]:
        """Function ``(*shared) -> values of the observed variables``."""
        from nutpie.models._pymc_graph import compile_python

        values = [self.model.rvs_to_values[variable] for variable in self.model.observed_RVs]
        return self._once("observed", lambda: compile_python([], values, self.shared))

    @property
    def factors(self) -> Any:
        from nutpie.models._pymc_explain import FactorReport

        return self._once("factors", lambda: FactorReport(self.model, self.blocks, self.shared))

    @property
    def unconstrain(self) -> Unconstrain:
        from nutpie.models._pymc_unconstrain import Unconstrain

        return self._once("unconstrain", lambda: Unconstrain(self.model, self.blocks))


class CompiledPyMCModel(CompiledModel):
    """A PyMC model whose log density has been compiled; made by `compile_pymc_model`."""

    def __init__(self, programs: _Programs, data: ModelData) -> None:
        self._programs = programs
        self._data = data
        self._make_density = programs.logp.with_values(data.arrays(programs.logp.shared))
        self._lock = threading.Lock()
        self._start: list[np.ndarray] | None = None

    @property
    def n_dim(self) -> int:
        """Number of unconstrained parameters."""
        blocks = self._programs.blocks
        return blocks[-1].stop if blocks else 0

    @cached_property
    def variables(self) -> Sequence[Variable]:
        """The variables that a result holds, free ones first."""
        values = self.expand(self._unjittered(_SHAPE_SEED)[None])
        return [
            Variable(name, values[name].shape[1:], values[name].dtype, self._dims_of(name, values[name].ndim - 1))
            for name in self._programs.stored
        ]

    @property
    def coords(self) -> Mapping[str, Any]:
        """Coordinate values by dimension name, of the dimensions that have some."""
        return self._data.coords

    @cached_property
    def unconstrained_names(self) -> Sequence[str]:
        """One name for each unconstrained parameter, such as ``sigma_log__`` or ``beta_0``."""
        return [name for block in self._programs.blocks for name in block.parameter_names()]

    @property
    def unconstrained_variables(self) -> Sequence[Variable]:
        """The value variables of the model, such as ``sigma_log__``."""
        double = np.dtype(np.float64)
        return [
            Variable(block.value_name, block.shape, double, self._value_dims(block)) for block in self._programs.blocks
        ]

    def _value_dims(self, block: Block) -> tuple[str, ...]:
        # A transform may change the shape, as that of a simplex does.
        by_name = {v.name: v for v in self.variables}
        same = block.name in by_name and by_name[block.name].shape == block.shape
        return by_name[block.name].dims if same else ()

    def density(self) -> Density | BatchDensity:
        """Return the log density and its gradient: a C callback, or with JAX a function of many points at once."""
        return self._make_density(1)

    def density_for(self, chains: int) -> Density | BatchDensity:
        """Return the same for a run of so many chains."""
        return self._make_density(chains)

    def jax_logp(self) -> Callable[[Any], Any]:
        """Return the log density as a function of JAX of a point of shape (n_dim,).

        Or of a tuple of its parts, a flat array for each free variable: derivatives by some of them then cost nothing
        where the others alone matter, which JAX cannot know of slices of one array.

        Raises
        ------
        TypeError
            If the model was not compiled with JAX.
        """
        logp = self._programs.logp
        if not hasattr(logp, "logp"):
            raise TypeError("the model is compiled with numba: compile it with backend='jax'")
        return logp.logp(self._data.arrays(logp.shared))

    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the variables of the result from unconstrained draws of shape (n, n_dim)."""
        draws = self._checked_draws(draws)
        if not len(draws):
            return {v.name: np.empty((0, *v.shape), v.dtype) for v in self.variables}
        expand = self._programs.expand
        return expand(draws, self._data.arrays(expand.shared))

    def pointwise(self, group: TermGroup) -> PointwiseDensity:
        """Terms of the log density: of each observation (``log_likelihood``), or of the free variables (``log_prior``).

        Values, dimensions and coordinates are those of ``pm.compute_log_likelihood`` and ``pm.compute_log_prior``.
        """
        from nutpie.models._pymc_terms import term_names

        names = term_names(self._programs.model, group)
        if not names:
            kind = "observed" if group == "log_likelihood" else "free"
            raise ValueError(f"{group}=True needs {kind} variables, and the model has none: leave it out")
        terms = self._programs.terms(group)
        data = self._data.arrays(terms.shared)

        def compute(draws: np.ndarray) -> dict[str, np.ndarray]:
            return terms(np.ascontiguousarray(draws, dtype=np.float64), data)

        example = compute(self._unjittered(_SHAPE_SEED)[None])
        variables = [
            Variable(name, value.shape[1:], value.dtype, self._term_dims(name, value.shape[1:]))
            for name, value in example.items()
        ]
        return PointwiseDensity(variables, compute)

    def _term_dims(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        # A term has the leading dimensions of its variable: all but those of an event.
        dims = self._dims_of(name, len(self._programs.model.named_vars_to_dims.get(name) or ()))[: len(shape)]
        # A density that does not depend on all parents may be of length 1 where the variable is longer.
        fits = all(dim not in self.coords or len(self.coords[dim]) == n for dim, n in zip(dims, shape, strict=False))
        return dims if fits and len(dims) == len(shape) else ()

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a random start on the unconstrained scale, of shape (n_dim,)."""
        initial = self._programs.initial
        return initial.jittered(self._start_values(seed), seed)

    @property
    def free_variables(self) -> Sequence[str]:
        """Names of the free variables, in the order of the unconstrained parameters."""
        return [block.name for block in self._programs.blocks]

    def _unconstrain(self, values: Mapping[Any, Any], base: np.ndarray) -> np.ndarray:
        return self._programs.unconstrain(values, base, self._data)

    def _start_values(self, seed: Sequence[int]) -> list[np.ndarray]:
        initial = self._programs.initial
        data = self._data.arrays(initial.shared)
        if initial.is_random:
            return initial.values(data, seed)
        with self._lock:
            if self._start is None:
                self._start = initial.values(data, seed)
            return self._start

    def _unjittered(self, seed: Sequence[int]) -> np.ndarray:
        values = self._start_values(seed)
        return np.concatenate([value.ravel() for value in values]) if values else np.zeros(0)

    def with_data(self, *, coords: Mapping[str, Any] | None = None, **data: Any) -> CompiledPyMCModel:
        """Return the same model with other data, without compiling it again.

        Parameters
        ----------
        coords : dict, optional
            New coordinate values by dimension. Needed for each dimension with coordinate values whose length changes.
        **data
            New values by name of a data variable (``pm.Data``). Rank and dtype are fixed, lengths may change as long
            as the number of parameters does not.

        Returns
        -------
        CompiledPyMCModel
            A new object; this one keeps its data.

        Raises
        ------
        ValueError
            For unknown names, values of the wrong rank or dtype, lengths that do not agree, and data that change the
            shape of a free variable.
        IndexError
            For data that are used as indices and out of bounds.
        """
        if data and not self._data.containers:
            raise ValueError(
                "the model has no data that can be replaced: it has no pm.Data, or was compiled with freeze_model=True"
            )
        new = CompiledPyMCModel(self._programs, self._data.replaced(data, coords))
        for block, value in zip(self._programs.blocks, new._start_values(_SHAPE_SEED), strict=True):
            if value.shape != block.shape:
                raise ValueError(
                    f"the new data change the unconstrained shape of {block.name!r} from {block.shape} to "
                    f"{value.shape}: compile a model with the new data instead"
                )
        new._check_indices()
        return new

    def _check_indices(self) -> None:
        programs = self._programs
        programs.logp.indices.check(self._unjittered(_SHAPE_SEED), self._data.arrays(programs.logp.shared))

    def _dims_of(self, name: str, ndim: int) -> tuple[str, ...]:
        dims = tuple(self._programs.model.named_vars_to_dims.get(name) or ())
        if len(dims) != ndim or all(dim is None for dim in dims):
            return ()
        return tuple(f"{name}_dim_{axis}" if dim is None else str(dim) for axis, dim in enumerate(dims))

    def data_groups(self) -> dict[str, dict[str, np.ndarray]]:
        """``observed_data`` and ``constant_data``: for each the arrays by name."""
        model = self._programs.model
        observed = self._programs.observed(*self._data.arrays(self._programs.shared))
        names = [variable.name for variable in model.observed_RVs]
        groups = {"observed_data": {n: np.array(v) for n, v in zip(names, observed, strict=True)}}
        groups["constant_data"] = {
            variable.name: np.array(self._value_of(variable)) for variable in self._constant_data_vars()
        }
        return {group: arrays for group, arrays in groups.items() if arrays}

    def _value_of(self, data_var: Any) -> np.ndarray:
        # A frozen model has constants in place of shared variables.
        known = self._data.values.get(getattr(data_var, "container", None))
        return np.asarray(data_var.data if known is None else known)

    def _constant_data_vars(self) -> list[Any]:
        """Find the data variables that are more than the observations of a variable."""
        from pytensor.graph.traversal import ancestors

        model = self._programs.model
        used = set(ancestors([*model.basic_RVs, *model.deterministics, *model.potentials]))
        observations = set(ancestors([model.rvs_to_values[v] for v in model.observed_RVs]))
        return [v for v in model.data_vars if v in used or v not in observations]

    def data_dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names of the arrays of `data_groups`, where they have some."""
        arrays = {name: array for group in self.data_groups().values() for name, array in group.items()}
        dims = {name: self._dims_of(name, array.ndim) for name, array in arrays.items()}
        return {name: named for name, named in dims.items() if named}

    def explain_point(self, point: np.ndarray) -> str:
        """Say in words where the log density or its gradient is not finite at ``point``, naming variables."""
        point = np.ascontiguousarray(point, dtype=np.float64)
        described = super().explain_point(point)
        lines = [described] if described else []
        try:
            lines += self._programs.factors.lines(point, self._data.arrays(self._programs.shared))
            gradient = self._gradient(point)
        except Exception as err:
            # PyTensor appends a description of the graph to the message, of which the first line is enough here.
            message = str(err).partition("\n")[0]
            lines.append(f"evaluating the log density raises {type(err).__name__}: {message}")
        else:
            lines += gradient_not_finite(gradient, self.unconstrained_names)
        return "; ".join(lines) if len(lines) < 2 else "\n".join(f"- {line}" for line in lines)

    def _gradient(self, point: np.ndarray) -> np.ndarray:
        density = self.density()
        if isinstance(density, BatchDensity):
            return density.evaluate(point)[1]
        gradient, logp = np.zeros(self.n_dim), ctypes.c_double()
        function = LogpPrototype(density.address)
        code = function(
            self.n_dim, point.ctypes.data, gradient.ctypes.data, ctypes.addressof(logp), density.user_data or None
        )
        if code != 0:
            raise RuntimeError(f"the log density returned code {code}")
        return gradient

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.n_dim} unconstrained parameters, {len(self._programs.stored)} variables>"
