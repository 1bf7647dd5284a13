"""Models whose latent variables are integrated out by Laplace's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from nutpie._arguments import choice, flag, whole_number
from nutpie.models._laplace_blocks import hyper_shifts, judge_blocks
from nutpie.models._laplace_check import LOG_RATIO, PARTS, add_laplace_group
from nutpie.models._laplace_marginal import LaplaceMarginal
from nutpie.models._laplace_pattern import Kind
from nutpie.models._names import unknown_name
from nutpie.models._require import require
from nutpie.models.base import BatchDensity, CompiledModel, DrawContext, Variable

__all__ = ["CompiledLaplaceModel", "laplace"]

#: Names of the two arguments of a log joint density in the result.
LATENT, HYPER = "theta", "phi"

#: Structures that a user may ask for.
STRUCTURES = ("auto", "diagonal", "blocks", "banded", "sparse", "dense")

#: Bytes of unconstrained draws that are turned into variables at a time.
EXPAND_BYTES = 64 * 2**20

#: Tells random numbers of latent variables from others of the same draw.
NOISE = 0x4C61706C


def laplace(
    model: Any,
    *args: Any,
    latent: str | Sequence[str] | None = None,
    theta_init: Any = None,
    phi_init: Any = None,
    structure: Literal["auto", "diagonal", "blocks", "banded", "sparse", "dense"] = "auto",
    max_iterations: int = 100,
    latent_draws: bool = True,
    correct: bool = False,
    **kwargs: Any,
) -> CompiledLaplaceModel:
    """Integrate latent variables out by Laplace's method, and sample the hyper-parameters alone.

    For given hyper-parameters phi, the latent variables theta are taken to be normal around the mode of their density,
    with the inverse of its negative Hessian H there as covariance. Then the log marginal density is

        log p(theta*, phi) - 1/2 log det H + n/2 log 2 pi,

    which is exact if theta is normal given phi and the data. The result is a model of the hyper-parameters with the
    exact gradient of this density, for all samplers; draws of the latent variables from the normal distribution given
    each draw of the hyper-parameters are added to the result.

    Modes are found by Newton's method with damping, to the precision of floating point, from a start that depends on
    the hyper-parameters alone: the mode at a reference point, moved along its tangent. So the density is a function,
    whatever was evaluated before, also where the latent variables have several modes. If there is no mode, or Newton's
    method does not get there, the leapfrog step counts as a divergence; the group ``messages`` of the result counts
    them by reason.

    The structure of the Hessian is found from products with vectors, and checked at each point that is evaluated. Cost
    and memory grow as the number n of latent variables if they are independent given the rest, form small blocks, or
    a band; for other sparse Hessians as the entries of the sparse Cholesky factor; for dense ones as n^3 and n^2.

    Parameters
    ----------
    model : callable, pymc.Model or CompiledModel
        A log joint density, as a function of JAX ``log_joint(theta, phi)`` of two pytrees, with ``theta_init`` and
        ``phi_init``; or with ``latent`` a PyMC model, a NumPyro model, or what `from_jax`, `from_numpyro` or
        `compile_pymc_model` with ``backend="jax"`` return.
    *args, **kwargs
        What the front end takes beside the model: the data of a NumPyro model and keywords of `from_numpyro`,
        keywords of `compile_pymc_model`, or keywords of `from_jax`, such as ``dims``, ``coords``, and ``transforms`` by
        name, of which names begin with ``phi`` or ``theta``.
    latent : str or sequence of str, optional
        Names of the latent variables of a model. They are normal on the unconstrained scale.
    theta_init, phi_init : pytree, optional
        Shapes of the arguments of ``log_joint``, and where the search for the first mode and the chains begin; chains
        up to 1 away from ``phi_init`` in each unconstrained parameter. They are variables ``theta`` and ``phi`` of the
        result, and with leaf names after a dot for pytrees, as in `from_jax`.
    structure : {"auto", "diagonal", "blocks", "banded", "sparse", "dense"}, default "auto"
        Structure of the Hessian, which is found by default.
    max_iterations : int, default 100
        Evaluations after which a search for a mode is given up.
    latent_draws : bool, default True
        Whether the result holds the latent variables, and what is computed from them. Otherwise it has the
        hyper-parameters alone.
    correct : bool, default False
        Whether to resample the draws, hyper-parameters together with latent variables, in proportion to true over
        approximate density, if these importance weights can be relied on (Pareto k of at most 0.7). Then the result is
        that of the true posterior, up to the error of so many weighted draws.

    Returns
    -------
    CompiledLaplaceModel
        The result of sampling it has a further statistic ``laplace_log_ratio`` and a group ``laplace``. Its
        ``pareto_k`` says whether the approximation can be trusted: it is the shape of the tail of the importance
        weights (Vehtari and others 2024). Above 0.7 `nutpie.sample` warns. It judges all variables together, so it is
        severe if there are many latent ones. If they are independent given the rest, or in small blocks, and at most
        10,000, ``latent_pareto_k`` has that of each alone, for the 20 with the fewest effective draws; and
        ``hyper_shift`` how far means of hyper-parameters are off, approximate minus true in standard deviations, to
        first order, with ``hyper_shift_mcse``.

    Raises
    ------
    ImportError
        If JAX, or the package of the model, is not installed.
    TypeError
        For a model of another kind, and for arguments that do not belong to it.
    ValueError
        For unknown names; if the latent variables have no mode at the initial point; if their Hessian does not have the
        structure asked for, or none and they are too many.

    References
    ----------
    Kristensen, Nielsen, Berg, Skaug and Bell (2016). TMB: Automatic differentiation and Laplace approximation. Journal
    of Statistical Software 70(5). Margossian, Vehtari, Simpson and Agrawal (2020). Hamiltonian Monte Carlo using an
    adjoint-differentiated Laplace approximation. NeurIPS.

    Examples
    --------
    >>> def log_joint(theta, phi):
    ...     prior = norm.logpdf(phi, 0, 3) + norm.logpdf(theta, 0, jnp.exp(phi)).sum()
    ...     return prior + poisson.logpmf(y, jnp.exp(theta)).sum()
    >>> model = nutpie.laplace(log_joint, theta_init=jnp.zeros(len(y)), phi_init=0.0)
    >>> idata = nutpie.sample(model)

    >>> idata = nutpie.sample(nutpie.laplace(pymc_model, latent=["intercept"]))
    """
    require("laplace() needs", "jax", "jax")
    choice("structure", structure, STRUCTURES)
    kind: Kind | None = None if structure == "auto" else structure
    most = whole_number("max_iterations", max_iterations, least=1)
    if (theta_init is None) != (phi_init is None) or (theta_init is None) == (latent is None):
        raise TypeError(
            "laplace() takes a function log_joint(theta, phi) with theta_init and phi_init, or a model with latent, "
            "the names of its latent variables"
        )
    options: dict[str, Any] = {
        "kind": kind,
        "max_iterations": most,
        "latent_draws": flag("latent_draws", latent_draws),
        "correct": flag("correct", correct),
    }
    if latent is None:
        joint, names, start = _from_log_joint(model, theta_init, phi_init, args, kwargs)
        return CompiledLaplaceModel(joint, names, start=start, **options)
    joint = _compiled(model, args, kwargs)
    return CompiledLaplaceModel(joint, [latent] if isinstance(latent, str) else list(latent), **options)


def _from_log_joint(
    log_joint: Any, theta_init: Any, phi_init: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[CompiledModel, list[str], np.ndarray]:
    """Return a model of both arguments, the names of the latent variables, and the point that was given."""
    from nutpie.models._jax_tree import named_leaves
    from nutpie.models.jax import from_jax

    if args or not callable(log_joint):
        raise TypeError(
            "with theta_init and phi_init, the only positional argument is a function log_joint(theta, phi)"
        )
    example = {HYPER: phi_init, LATENT: theta_init}
    joint = from_jax(lambda p: log_joint(p[LATENT], p[HYPER]), example, **kwargs)
    leaves = named_leaves(example)
    start = joint.unconstrain({name: np.asarray(leaf) for name, leaf in leaves.items()}, np.zeros(joint.n_dim))
    return joint, [name for name in leaves if name.partition(".")[0] == LATENT], start


def _compiled(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CompiledModel:
    if isinstance(model, CompiledModel):
        if args or kwargs:
            raise TypeError("a compiled model takes no further arguments: give them to the function that compiles it")
        return model
    module = type(model).__module__
    if module.startswith("pymc"):
        from nutpie.models.pymc import compile_pymc_model

        return compile_pymc_model(model, *args, **{"backend": "jax", "gradient_backend": "jax", **kwargs})
    if callable(model):
        from nutpie.models.numpyro import from_numpyro

        return from_numpyro(model, *args, **kwargs)
    raise TypeError(
        f"laplace() takes a PyMC model, a NumPyro model, a compiled model or a function, not a {type(model).__name__}"
    )


class CompiledLaplaceModel(CompiledModel):
    """A model of hyper-parameters alone; made by `laplace`.

    Attributes
    ----------
    marginal
        The density.
    """

    def __init__(
        self,
        joint: CompiledModel,
        latent: Sequence[str],
        *,
        start: np.ndarray | None = None,
        kind: Kind | None = None,
        max_iterations: int = 100,
        latent_draws: bool = True,
        correct: bool = False,
    ) -> None:
        if not hasattr(joint, "jax_logp"):
            raise TypeError(f"the density of a {type(joint).__name__} is not a function of JAX, which laplace() needs")
        self._joint = joint
        self._latent_names = _checked_latent(latent, joint.free_variables)
        self._latent, self._hyper = _columns(joint, self._latent_names)
        self._start = start
        self._latent_draws = latent_draws
        self._correct = correct
        self.marginal = self._make_marginal(kind, max_iterations)

    def _make_marginal(self, kind: Kind | None, max_iterations: int) -> LaplaceMarginal:
        logp: Callable[[Any], Any] = self._joint.jax_logp()
        latent, hyper = self._latent, self._hyper

        def log_joint(theta: Any, phi: Any) -> Any:
            return logp(self._parts(theta, phi))

        def points(attempt: int) -> tuple[np.ndarray, np.ndarray]:
            point = self._start if attempt == 0 and self._start is not None else self._full_start((0, attempt))
            return point[latent], point[hyper]

        return LaplaceMarginal(log_joint, points, kind=kind, max_iterations=max_iterations)

    def _parts(self, theta: Any, phi: Any) -> tuple[Any, ...]:
        """Return a flat array for each free variable of the joint model."""
        used, parts = {True: 0, False: 0}, []
        both = zip(self._joint.free_variables, self._joint.unconstrained_variables, strict=True)
        for is_latent, size in ((name in self._latent_names, int(np.prod(v.shape))) for name, v in both):
            first = used[is_latent]
            parts.append((theta if is_latent else phi)[first : first + size])
            used[is_latent] = first + size
        return tuple(parts)

    @property
    def n_dim(self) -> int:
        """Number of unconstrained hyper-parameters."""
        return len(self._hyper)

    @property
    def n_latent(self) -> int:
        """Number of unconstrained latent variables."""
        return len(self._latent)

    @property
    def structure(self) -> str:
        """Structure of the Hessian of the latent variables."""
        return self.marginal.pattern.describe()

    @cached_property
    def _hyper_variables(self) -> list[Variable]:
        names = [name for name in self._joint.free_variables if name not in self._latent_names]
        return [v for v in self._joint.variables if v.name in names]

    @cached_property
    def variables(self) -> Sequence[Variable]:
        """The variables that a result holds, in order."""
        kept = list(self._joint.variables) if self._latent_draws else self._hyper_variables
        kept = [*kept, Variable(LOG_RATIO, (), np.dtype(np.float64))]
        if self._latent_draws and self.marginal.separates:
            kept.append(Variable(PARTS, (self.n_latent,), np.dtype(np.float32)))
        return kept

    @property
    def warmup_variables(self) -> Sequence[Variable]:
        """The hyper-parameters: latent variables are not drawn in the warm-up."""
        return self._hyper_variables

    @property
    def coords(self) -> Mapping[str, Any]:
        """Coordinate values by dimension name."""
        return self._joint.coords

    @property
    def unconstrained_names(self) -> Sequence[str]:
        """One name for each unconstrained hyper-parameter."""
        names = list(self._joint.unconstrained_names)
        return [names[i] for i in self._hyper]

    @property
    def unconstrained_variables(self) -> Sequence[Variable]:
        """The unconstrained values of the hyper-parameters."""
        both = zip(self._joint.free_variables, self._joint.unconstrained_variables, strict=True)
        return [variable for name, variable in both if name not in self._latent_names]

    @property
    def free_variables(self) -> Sequence[str]:
        """Names of the hyper-parameters, in the order of the unconstrained parameters."""
        return [name for name in self._joint.free_variables if name not in self._latent_names]

    def density(self) -> BatchDensity:
        """Return the marginal log density and its gradient, at many points at once."""
        self.marginal.reset_counts()
        return BatchDensity(self.marginal, messages=self.marginal.messages)

    def expand(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the variables of the result from unconstrained draws of shape (n, n_dim)."""
        return self.expand_draws(draws, DrawContext.of_no_run(len(draws)))

    def expand_draws(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        """Draw the latent variables and compute the variables of the result; random numbers depend on the draw."""
        draws = self._checked_draws(draws)
        wanted = self.warmup_variables if context.warmup else self.variables
        found = {v.name: np.empty((len(draws), *v.shape), v.dtype) for v in wanted}
        rows = max(1, EXPAND_BYTES // (8 * (self.n_dim + self.n_latent)))
        for first in range(0, len(draws), rows):
            part = slice(first, first + rows)
            for name, values in self._expand_part(draws[part], _part_of(context, part)).items():
                if name in found:
                    found[name][part] = values
        return found

    def _expand_part(self, draws: np.ndarray, context: DrawContext) -> dict[str, np.ndarray]:
        full = np.empty((len(draws), self.n_dim + self.n_latent))
        full[:, self._hyper] = draws
        extra = {}
        if context.warmup:
            full[:, self._latent] = self.marginal.reference_mode
        else:
            seeds = context.seeds32()
            full[:, self._latent], extra[LOG_RATIO], parts = self.marginal.draw(
                draws, lambda row: np.random.default_rng((int(seeds[row]), NOISE)).normal(size=self.n_latent)
            )
            # A pattern that was found to be wrong may not separate any more, which has no parts then.
            extra[PARTS] = parts if self.marginal.separates else np.full((len(draws), self.n_latent), np.nan)
        return self._joint.expand_draws(full, context) | extra

    def _full_start(self, seed: Sequence[int]) -> np.ndarray:
        if self._start is None:
            return self._joint.initial_point(seed)
        return self._start + np.random.default_rng(list(seed)).uniform(-1, 1, len(self._start))

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a random start on the unconstrained scale, of shape (n_dim,)."""
        return self._full_start(seed)[self._hyper]

    def _unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        full = np.empty(self.n_dim + self.n_latent)
        full[self._hyper], full[self._latent] = base, self.marginal.reference_mode
        changed = self._joint.unconstrain(values, full)
        if not np.array_equal(changed[self._latent], full[self._latent]):
            raise ValueError(
                f"{', '.join(map(repr, self._latent_names))} cannot be given a start: the latent variables are "
                "integrated out"
            )
        return changed[self._hyper]

    def data_groups(self) -> dict[str, dict[str, np.ndarray]]:
        """Return groups of data, as of the joint model."""
        return self._joint.data_groups()

    def data_dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names of the arrays of `data_groups`, where they have some."""
        return self._joint.data_dims()

    def attributes(self) -> dict[str, str]:
        """Say how latent variables were integrated out."""
        return {**self._joint.attributes(), "laplace": f"{self.n_latent} latent variables, {self.structure} Hessian"}

    def complete(self, groups: dict[str, Any]) -> dict[str, Any]:
        """Judge the approximation, and correct the draws if that was asked for."""
        counts = {"failed": sum(self.marginal.failures.values())}
        counts |= {"points": self.marginal.points, "evaluations": self.marginal.evaluations}
        judge = self._judge if self.marginal.separates else None
        return add_laplace_group(groups, counts, self.n_latent, self.structure, correct=self._correct, judge=judge)

    def _judge(self, parts: np.ndarray, posterior: Any) -> dict[str, Any]:
        names, blocks = list(self._joint.unconstrained_names), self.marginal.blocks
        hyper = {v.name: np.asarray(posterior[v.name].values) for v in self._hyper_variables}
        found = judge_blocks(parts, blocks, [names[i] for i in self._latent])
        return found | hyper_shifts(parts, blocks, hyper)

    def explain_point(self, point: np.ndarray) -> str:
        """Say in words where the log density or its gradient is not finite at ``point``."""
        described = super().explain_point(point)
        if described:
            return described
        status = self.marginal.reason(np.asarray(point, dtype=np.float64))
        return status or "the gradient of the marginal log density is not finite"

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {self.n_dim} unconstrained parameters, {self.n_latent} latent variables "
            f"integrated out, {self.structure} Hessian>"
        )


def _checked_latent(latent: Sequence[str], free: Sequence[str]) -> list[str]:
    for name in latent:
        if name not in free:
            raise ValueError("latent: " + unknown_name(str(name), free, "free variable"))
    if not latent:
        raise ValueError(f"latent is empty: name some of the free variables {', '.join(map(repr, free))}")
    if len(set(latent)) == len(free):
        raise ValueError("all free variables are latent, and nothing is left to sample: leave some out")
    return list(dict.fromkeys(latent))


def _columns(joint: CompiledModel, latent: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Where latent variables, and where the others, lie in an unconstrained point."""
    both = zip(joint.free_variables, joint.unconstrained_variables, strict=True)
    is_latent = np.concatenate([np.full(int(np.prod(v.shape)), name in latent) for name, v in both])
    return np.flatnonzero(is_latent), np.flatnonzero(~is_latent)


def _part_of(context: DrawContext, part: slice) -> DrawContext:
    return DrawContext(context.seed, context.chain, np.asarray(context.numbers)[part], context.warmup, context.report)
