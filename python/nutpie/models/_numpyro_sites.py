"""What a NumPyro model consists of, from a trace of it, and whether it can be sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Observed", "Site", "Sites", "find_sites"]

#: Wrappers of distributions, whose names tell a user nothing.
_WRAPPERS = ("ExpandedDistribution", "Independent", "MaskedDistribution")


@dataclass(frozen=True)
class Site:
    """A latent variable.

    Parameters
    ----------
    name
        Its name.
    shape
        Shape of its value.
    unconstrained_shape
        Shape of its unconstrained value.
    is_real
        Whether the two are the same.
    distribution
        Name of its distribution.
    """

    name: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    is_real: bool
    distribution: str


@dataclass(frozen=True)
class Observed:
    """An observed variable and its value."""

    name: str
    value: np.ndarray


@dataclass(frozen=True)
class Sites:
    """The sites of a model.

    Parameters
    ----------
    latent
        The latent variables, in the order of the model.
    deterministic
        Names of the deterministic variables.
    observed
        The observed variables.
    dims
        Names of dimensions by name of a site, from the plates that it is in.
    """

    latent: list[Site]
    deterministic: list[str]
    observed: list[Observed]
    dims: dict[str, tuple[str, ...]]


def find_sites(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sites:
    """Trace a model.

    Raises
    ------
    ValueError
        For sites that cannot be sampled with gradients: discrete or constant latent variables, parameters without a
        prior, random numbers in the model.
    """
    import jax
    from numpyro import handlers

    found: list[Sites] = []

    def look() -> dict[str, Any]:
        trace = handlers.trace(handlers.seed(_without_keys(model), 0)).get_trace(*args, **kwargs)
        for site in trace.values():
            _check(site)
        found.append(_sites_of(trace))
        return {name: site["value"] for name, site in trace.items() if _is_observed(site)}

    # Nothing is computed but what the observations come from, if they are computed in the model at all.
    values = jax.jit(look)()
    sites = found[0]
    observed = [Observed(name, np.asarray(value)) for name, value in values.items()]
    order = {site.name: i for i, site in enumerate(sites.observed)}
    observed.sort(key=lambda site: order[site.name])
    return Sites(sites.latent, sites.deterministic, observed, sites.dims)


def _without_keys(model: Any) -> Any:
    """Wrap the model in a handler that refuses to draw random keys, of which a trace says nothing."""
    from numpyro.primitives import Messenger

    class Refuse(Messenger):  # type: ignore[misc, unused-ignore]
        def process_message(self, msg: Any) -> None:
            # A handler inside of this one may have given it a key already.
            if msg["type"] == "prng_key" and msg["value"] is None and msg["kwargs"].get("rng_key") is None:
                raise ValueError(
                    "the model draws a random key (numpyro.prng_key), and NUTS needs a density that is the same at "
                    "each call: wrap the model in numpyro.handlers.seed(model, 0) to hold its random numbers fixed"
                )

    return Refuse(model)


def _sites_of(trace: Mapping[str, Any]) -> Sites:
    from numpyro.distributions import biject_to, constraints

    latent, deterministic, observed, dims = [], [], [], {}
    for name, site in trace.items():
        shape = tuple(np.shape(site["value"]))
        if site["type"] == "deterministic":
            deterministic.append(name)
        elif _is_observed(site):
            observed.append(Observed(name, np.empty(0)))
        elif site["type"] == "sample" and not site["is_observed"]:
            transform = biject_to(site["fn"].support)
            real = transform.domain is transform.codomain or site["fn"].support is constraints.real
            latent.append(Site(name, shape, tuple(transform.inverse_shape(shape)), real, _distribution(site["fn"])))
        else:
            continue
        dims[name] = _dims(site, shape)
    return Sites(latent, deterministic, observed, {name: named for name, named in dims.items() if named})


def _is_observed(site: Mapping[str, Any]) -> bool:
    """Whether it is data: a factor is a site with an observation, too, of no elements."""
    from numpyro.distributions import Unit

    return site["type"] == "sample" and site["is_observed"] and not isinstance(_innermost(site["fn"]), Unit)


def _innermost(distribution: Any) -> Any:
    while type(distribution).__name__ in _WRAPPERS and hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def _distribution(distribution: Any) -> str:
    return type(_innermost(distribution)).__name__


def _dims(site: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the dimensions of a site after the plates that it is in, and those of an event as its ``infer`` says."""
    frames = site.get("cond_indep_stack") or []
    if site["type"] == "deterministic":
        events: tuple[str, ...] = ()
        # How many dimensions of the value belong to a single element of the plates is not known.
        if len(shape) > max((-frame.dim for frame in frames), default=0):
            return ()
        n_event = 0
    else:
        n_event = len(site["fn"].event_shape)
        events = tuple(site["infer"].get("event_dims", ()))
    names: list[str | None] = [None] * len(shape)
    for frame in frames:
        axis = len(shape) - n_event + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            names[axis] = str(frame.name)
    if len(events) == n_event:
        names[len(shape) - n_event :] = events
    if not any(names):
        return ()
    return tuple(f"{site['name']}_dim_{axis}" if name is None else name for axis, name in enumerate(names))


def _check(site: Mapping[str, Any]) -> None:
    """Raise a ValueError if the site cannot be sampled, or makes the density random."""
    name, kind = site["name"], site["type"]
    if kind == "plate":
        size, subsample = site["args"]
        if subsample is not None and subsample != size:
            raise ValueError(
                f"the plate {name!r} takes a random part of the data, {subsample} of {size}, and NUTS needs a density "
                "that is the same at each call: use all data, or numpyro's HMCECS, which is made for subsamples"
            )
    elif kind in ("param", "mutable"):
        raise ValueError(
            f"the model has {name!r}, a site of numpyro.{kind}, which has no prior: make it a numpyro.sample, or "
            "hold it fixed with numpyro.handlers.substitute"
        )
    elif kind == "sample" and not site["is_observed"]:
        distribution = _distribution(site["fn"])
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"the latent variable {name!r} is discrete ({distribution}), and NUTS needs a density that is "
                "differentiable: sum it out of the model (for example with numpyro.distributions.MixtureSameFamily), "
                "or use numpyro's DiscreteHMCGibbs"
            )
        if distribution == "Delta":
            raise ValueError(
                f"the latent variable {name!r} has a Delta distribution and is no variable: use numpyro.deterministic"
            )
