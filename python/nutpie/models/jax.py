"""Front end for log densities that are functions of JAX."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nutpie._arguments import choice, flag
from nutpie.models._function_checks import check_entry
from nutpie.models._jax_batch import DTYPES, Dtype, shape_of
from nutpie.models._jax_model import Group, JaxFunctions, JaxModel
from nutpie.models._jax_tree import ParameterTree, named_leaves
from nutpie.models._names import chosen_names
from nutpie.models._require import require

__all__ = ["CompiledJaxModel", "from_jax"]

#: Argument of ``expand`` that gets a key for random numbers.
KEY = "key"


def from_jax(
    logdensity_fn: Callable[[Any], Any],
    example: Any,
    *,
    transforms: Mapping[str, Any] | None = None,
    gradient: Callable[[Any], tuple[Any, Any]] | None = None,
    expand: Callable[..., Any] | None = None,
    log_likelihood: Callable[[Any], Any] | None = None,
    dims: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    var_names: Sequence[str] | None = None,
    dtype: Dtype = "float64",
    check: bool = True,
) -> CompiledJaxModel:
    """Make a model of a log density that is a function of JAX.

    The function is differentiated, vectorised over chains and compiled by JAX. It is computed in double precision: JAX
    is told so while it traces and runs this function, and keeps its settings elsewhere. In single precision the energy
    of a trajectory is off by more than its steps are where the log density is large, so that good steps are rejected.
    Arrays of data that JAX holds in single precision keep their values, and what is computed from them and the
    parameters is in double precision.

    Parameters
    ----------
    logdensity_fn : callable
        From a pytree of parameters to the log density, a number, up to a constant. With ``transforms`` it is the
        density of the parameters themselves: the Jacobian is added here.
    example : pytree
        Parameters of the right structure and shapes: arrays of floats, or ``jax.ShapeDtypeStruct``. Values do not
        matter.
    transforms : dict, optional
        By name of a variable, how its support is reached from unconstrained numbers: ``"positive"``,
        ``"unit_interval"``, ``"simplex"`` or ``"ordered"`` (along the last axis), a pair of bounds such as ``(0, 10)``
        or ``(None, 0)``, or functions ``(forward, log_det)`` or ``(forward, log_det, inverse)``, where ``log_det``
        takes the unconstrained value and returns the logarithm of the Jacobian determinant of ``forward``, or an array
        whose sum that is. The inverse is for starts by name, and for transforms that change the shape.
    gradient : callable, optional
        From a pytree of parameters to the log density and its gradient, a pytree of the same structure, in place of
        JAX's derivative of ``logdensity_fn``. With ``transforms`` it is the gradient by the parameters themselves.
    expand : callable, optional
        From a pytree of parameters to a pytree of further variables of the result. If it has an argument ``key``, it
        also gets a key of `jax.random` for each draw, for predictions.
    log_likelihood : callable, optional
        From a pytree of parameters to a pytree with the log density of each observation, for
        ``nutpie.sample(log_likelihood=True)``; an array gets the name ``y``.
    dims : dict, optional
        By name of a variable the names of its dimensions; a single one may be a plain string.
    coords : dict, optional
        Coordinate values by dimension.
    var_names : sequence of str, optional
        Variables that the result holds. The default is all: the parameters, and those of ``expand``.
    dtype : {"float64", "float32"}, default "float64"
        What is computed in. Single precision is for accelerators that are slow in double precision, and for densities
        that are small numbers.
    check : bool, default True
        Whether to compare ``gradient`` with differences at a random start (`nutpie.check_gradient`).

    Returns
    -------
    CompiledJaxModel
        Variables have the names of their paths in the pytree, such as ``group.sd`` for ``{"group": {"sd": ...}}`` and
        ``weights.0`` for a list; a pytree that is an array is named ``x``. Random starts are uniform from -2 to 2 on
        the unconstrained scale.

    Raises
    ------
    ImportError
        If JAX is not installed.
    TypeError
        For a transform of an unknown form.
    ValueError
        If the function does not return a real number, if the gradient does not fit the example, for discrete
        parameters, unknown names, and dimensions that do not fit.

    Examples
    --------
    >>> def logp(p):
    ...     return norm.logpdf(p["mu"]) + norm.logpdf(y, p["mu"], p["sigma"]).sum() - p["sigma"]
    >>> model = nutpie.from_jax(logp, {"mu": 0.0, "sigma": 1.0}, transforms={"sigma": "positive"})
    >>> idata = nutpie.sample(model, chains=4)
    """
    require("from_jax() needs", "jax", "jax")
    choice("dtype", dtype, DTYPES)
    tree = ParameterTree(example, transforms or {}, dtype)
    logp_and_gradient = _logp_and_gradient(logdensity_fn, gradient, tree, dtype)
    with_seeds = expand is not None and KEY in inspect.signature(expand).parameters
    functions = JaxFunctions(
        logp_and_gradient,
        _expand_function(tree, expand, with_seeds, var_names, dtype),
        _terms(tree, log_likelihood),
        dtype,
        with_seeds,
    )
    model = CompiledJaxModel(functions, tree, dims, coords)
    if gradient is not None and flag("check", check):
        check_entry(model, "the gradient")
    return model


def _logp_and_gradient(
    logdensity_fn: Callable[[Any], Any],
    gradient: Callable[[Any], tuple[Any, Any]] | None,
    tree: ParameterTree,
    dtype: Dtype,
) -> Callable[[Any], tuple[Any, Any]]:
    """Return a function of an unconstrained point, once it is known to be one that can be sampled."""
    import jax

    density = logdensity_fn if gradient is None else _with_gradient(logdensity_fn, gradient)

    def logp(point: Any) -> Any:
        parameters, log_det = tree.constrain(point)
        return density(parameters) + log_det

    point = jax.ShapeDtypeStruct((tree.n_dim,), dtype)
    parameters = shape_of(lambda p: tree.constrain(p)[0], dtype, point)
    if gradient is None:
        _check_scalar(shape_of(logdensity_fn, dtype, parameters))
    else:
        _check_gradient(shape_of(gradient, dtype, parameters), parameters)
    return jax.value_and_grad(logp)


def _with_gradient(
    logdensity_fn: Callable[[Any], Any], gradient: Callable[[Any], tuple[Any, Any]]
) -> Callable[[Any], Any]:
    """Give a function a derivative of its own, so that JAX does the rest of the chain rule."""
    import jax

    density = jax.custom_vjp(logdensity_fn)
    density.defvjp(
        gradient,
        lambda slopes, factor: (jax.tree_util.tree_map(lambda slope: factor * slope, slopes),),
    )
    return density


def _check_scalar(result: Any) -> None:
    shape, kind = getattr(result, "shape", None), getattr(result, "dtype", None)
    if shape != () or kind is None:
        what = f"an array of shape {tuple(shape)}" if shape is not None else f"a {type(result).__name__}"
        raise ValueError(f"the log density must be a single number, but the function returns {what}: sum its terms")
    if np.dtype(kind).kind != "f":
        raise ValueError(f"the log density must be a real number, but the function returns one of type {kind}")


def _check_gradient(result: Any, parameters: Any) -> None:
    import jax

    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError("gradient must return two things: the log density, and its gradient as a pytree")
    _check_scalar(result[0])
    structures: list[Any] = [jax.tree_util.tree_structure(tree) for tree in (result[1], parameters)]
    found = {name: tuple(leaf.shape) for name, leaf in named_leaves(result[1]).items()}
    wanted = {name: tuple(leaf.shape) for name, leaf in named_leaves(parameters).items()}
    if structures[0] != structures[1] or found != wanted:
        raise ValueError(f"gradient returns a gradient of shapes {found}; those of the parameters are {wanted}")


def _expand_function(
    tree: ParameterTree,
    expand: Callable[..., Any] | None,
    with_seeds: bool,
    var_names: Sequence[str] | None,
    dtype: Dtype,
) -> Callable[..., dict[str, Any]]:
    """Return a function from a point to all variables of the result."""
    import jax

    def every(point: Any, *seed: Any) -> dict[str, Any]:
        parameters, _ = tree.constrain(point)
        variables = named_leaves(parameters)
        if expand is None:
            return variables
        more = named_leaves(expand(parameters, **({KEY: jax.random.key(seed[0])} if with_seeds else {})))
        for name in more:
            if name in variables:
                raise ValueError(f"expand returns a variable {name!r}, which is the name of a parameter: rename it")
        return variables | more

    if var_names is None:
        return every
    arguments = [jax.ShapeDtypeStruct((tree.n_dim,), dtype)]
    arguments += [jax.ShapeDtypeStruct((), np.uint32)] if with_seeds else []
    wanted = chosen_names(var_names, list(shape_of(every, dtype, *arguments)), "variable")

    def chosen(point: Any, *seed: Any) -> dict[str, Any]:
        found = every(point, *seed)
        return {name: found[name] for name in found if name in wanted}

    return chosen


def _terms(
    tree: ParameterTree, log_likelihood: Callable[[Any], Any] | None
) -> dict[Group, Callable[[Any], dict[str, Any]]]:
    if log_likelihood is None:
        return {}

    def terms(point: Any) -> dict[str, Any]:
        found = named_leaves(log_likelihood(tree.constrain(point)[0]))
        return {"y" if name == "x" and len(found) == 1 else name: value for name, value in found.items()}

    return {"log_likelihood": terms}


class CompiledJaxModel(JaxModel):
    """A log density of JAX that is ready to be sampled; made by `from_jax`."""

    def __init__(
        self,
        functions: JaxFunctions,
        tree: ParameterTree,
        dims: Mapping[str, Any] | None,
        coords: Mapping[str, Any] | None,
    ) -> None:
        self._tree = tree
        super().__init__(functions, tree.blocks, dims, coords)

    def _named_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        terms = {name: shape for function in self._terms.values() for name, (shape, _) in function.results.items()}
        return terms | shapes

    def _unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        return self._tree.unconstrain(values, base)
