"""Front end for NumPyro models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nutpie._arguments import choice
from nutpie.models._jax_batch import DTYPES, Dtype, traced_in
from nutpie.models._jax_model import Group, JaxFunctions, JaxModel
from nutpie.models._layout import Block, layout_of, split_point
from nutpie.models._names import chosen_names
from nutpie.models._numpyro_sites import Sites, find_sites
from nutpie.models._numpyro_unconstrain import Unconstrain
from nutpie.models._require import require

__all__ = ["CompiledNumPyroModel", "from_numpyro"]

#: Where random starts come from.
STRATEGIES = ("uniform", "prior", "median")


def from_numpyro(
    model: Callable[..., Any],
    *args: Any,
    dims: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    var_names: Sequence[str] | None = None,
    init_strategy: Any = "uniform",
    dtype: Dtype = "float64",
    **kwargs: Any,
) -> CompiledNumPyroModel:
    """Make a model of a NumPyro model and its data.

    Latent variables are brought to the unconstrained scale as in NumPyro, `numpyro.factor` and handlers such as
    `numpyro.handlers.reparam`, ``condition``, ``scale`` and ``mask`` have their effect, and the result has the
    deterministic variables and the observations. Plates give dimensions their names.

    The density is computed in double precision, without `numpyro.enable_x64` and without an effect on other uses of
    JAX; see `from_jax`.

    Parameters
    ----------
    model : callable
        The model.
    *args, **kwargs
        Arguments of the model, such as data. An argument with the name of a keyword below goes in by
        `functools.partial`.
    dims : dict, optional
        By name of a variable the names of its dimensions, instead of those of plates; a single one may be a plain
        string. The dimensions of an event may also be named in the model, by
        ``numpyro.sample(..., infer={"event_dims": ["name"]})``.
    coords : dict, optional
        Coordinate values by dimension, such as a plate.
    var_names : sequence of str, optional
        Latent and deterministic variables that the result holds. The default is all of them.
    init_strategy : {"uniform", "prior", "median"} or callable, default "uniform"
        Random starts: uniform from -2 to 2 on the unconstrained scale, draws from the prior, or the median of some
        draws from the prior, variable by variable; or a function of `numpyro.infer.initialization`, such as
        ``init_to_value(values=...)``. Chains that start near each other, as with medians, say less in R-hat.
        ``nutpie.sample(init=...)`` has starts of all other kinds.
    dtype : {"float64", "float32"}, default "float64"
        What the density is computed in.

    Returns
    -------
    CompiledNumPyroModel

    Raises
    ------
    ImportError
        If NumPyro is not installed.
    ValueError
        For models with discrete latent variables, with random subsamples or keys, with parameters that have no prior;
        for unknown names, and dimensions that do not fit.

    Examples
    --------
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 10))
    ...     sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    ...     with numpyro.plate("school", len(y)):
    ...         numpyro.sample("y", dist.Normal(mu, sigma), obs=y)
    >>> compiled = nutpie.from_numpyro(model, y, coords={"school": names})
    >>> idata = nutpie.sample(compiled, log_likelihood=True)
    """
    require("from_numpyro() needs", "numpyro", "numpyro")
    choice("dtype", dtype, DTYPES)
    if isinstance(init_strategy, str):
        choice("init_strategy", init_strategy, STRATEGIES)
    elif not callable(init_strategy):
        raise TypeError(
            f"init_strategy must be one of {', '.join(map(repr, STRATEGIES))} or a function of "
            f"numpyro.infer.initialization, not {init_strategy!r}"
        )
    args, kwargs = _copied((args, kwargs))
    sites = traced_in(dtype, lambda: find_sites(model, args, kwargs))
    blocks = _layout(sites)
    functions = _Program(model, args, kwargs, sites, blocks, var_names).functions(dtype)
    return CompiledNumPyroModel(functions, blocks, (model, args, kwargs), sites, dims, coords, init_strategy)


def _copied(arguments: Any) -> Any:
    """Copy arrays, so that JAX does not take them for what it made of the user's in another precision."""
    import jax

    return jax.tree_util.tree_map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, arguments)


class _Program:
    """The functions of a NumPyro model of one unconstrained point."""

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sites: Sites,
        blocks: Sequence[Block],
        var_names: Sequence[str] | None,
    ) -> None:
        self._call = (model, args, dict(kwargs))
        self._sites = sites
        self._blocks = blocks
        names = [*(site.name for site in sites.latent), *sites.deterministic]
        self._stored = chosen_names(var_names, names, "latent or deterministic variable")

    def functions(self, dtype: Dtype) -> JaxFunctions:
        import jax

        terms: dict[Group, Callable[[Any], dict[str, Any]]] = {
            "log_likelihood": lambda point: self._terms(point, [site.name for site in self._sites.observed]),
            "log_prior": lambda point: self._terms(point, [site.name for site in self._sites.latent]),
        }
        return JaxFunctions(jax.value_and_grad(self._logp), self._expand, terms, dtype)

    def _parameters(self, point: Any) -> dict[str, Any]:
        values = split_point(point, self._blocks)
        return {block.name: value for block, value in zip(self._blocks, values, strict=True)}

    def _logp(self, point: Any) -> Any:
        from numpyro.infer.util import potential_energy

        return -potential_energy(*self._call, self._parameters(point))

    def _constrained(self, point: Any, *, deterministic: bool) -> dict[str, Any]:
        from numpyro.infer.util import constrain_fn

        found: dict[str, Any] = constrain_fn(*self._call, self._parameters(point), return_deterministic=deterministic)
        return found

    def _expand(self, point: Any) -> dict[str, Any]:
        import jax.numpy as jnp

        found = self._constrained(point, deterministic=bool(set(self._stored) & set(self._sites.deterministic)))
        return {name: jnp.asarray(found[name]) for name in self._stored}

    def _terms(self, point: Any, names: Sequence[str]) -> dict[str, Any]:
        from numpyro import handlers

        model, args, kwargs = self._call
        values = self._constrained(point, deterministic=False)
        trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)
        return {name: trace[name]["fn"].log_prob(trace[name]["value"]) for name in names}


def _layout(sites: Sites) -> list[Block]:
    names = [site.name for site in sites.latent]
    value_names = [site.name if site.is_real else f"{site.name}_unconstrained__" for site in sites.latent]
    return layout_of(names, value_names, [site.unconstrained_shape for site in sites.latent])


class CompiledNumPyroModel(JaxModel):
    """A NumPyro model that is ready to be sampled; made by `from_numpyro`."""

    def __init__(
        self,
        functions: JaxFunctions,
        blocks: Sequence[Block],
        call: tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]],
        sites: Sites,
        dims: Mapping[str, Any] | None,
        coords: Mapping[str, Any] | None,
        init_strategy: Any,
    ) -> None:
        self._sites = sites
        self._unconstrainer = Unconstrain(call, blocks, sites, functions.dtype)
        self._strategy = init_strategy
        super().__init__(functions, blocks, {**sites.dims, **(dims or {})}, coords)

    def _named_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        latent = {site.name: site.shape for site in self._sites.latent}
        return latent | shapes | {site.name: site.value.shape for site in self._sites.observed}

    def initial_point(self, seed: Sequence[int]) -> np.ndarray:
        """Draw a random start on the unconstrained scale, of shape (n_dim,), as ``init_strategy`` says."""
        if self._strategy == "uniform":
            return super().initial_point(seed)
        return self._unconstrainer.random_point(self._strategy, seed)

    def _unconstrain(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        return self._unconstrainer(values, base)

    def data_groups(self) -> dict[str, dict[str, np.ndarray]]:
        """``observed_data``: the observations by name."""
        found = {site.name: np.array(site.value) for site in self._sites.observed}
        return {"observed_data": found} if found else {}

    def data_dims(self) -> dict[str, tuple[str, ...]]:
        """Dimension names of the observations that have some."""
        return {site.name: self._dims[site.name] for site in self._sites.observed if site.name in self._dims}
