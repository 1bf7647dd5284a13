"""Where chains start."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nutpie._arguments import whole_number

if TYPE_CHECKING:
    from nutpie.models.base import BatchDensity, CompiledModel, Density

__all__ = ["starting_points"]

#: Random starts that are tried for each chain before giving up.
START_TRIES = 100

#: What a single chain may be given.
_KINDS = "None, a radius, an array of unconstrained values, or a dict of values by variable name"

#: The start of one chain at each attempt. The same point twice means that nothing about it is random.
Proposal = Callable[[int], np.ndarray]


def starting_points(
    model: CompiledModel, density: Density | BatchDensity, init: Any, seed: int, chains: int, candidates: int = 1
) -> np.ndarray:
    """Choose a start for each chain.

    Parameters
    ----------
    model
        The model.
    density
        Its log density.
    init
        As described in `nutpie.sample`.
    seed
        Random starts depend on it, on the chain and on nothing else.
    chains
        Number of chains.
    candidates
        Random starts that are drawn for each chain, to take the one with the highest log density.

    Returns
    -------
    array of shape (chains, n_dim)
        Unconstrained points with a finite log density and gradient.

    Raises
    ------
    TypeError
        If ``init`` is of no known kind, or holds names but the model takes arrays only.
    ValueError
        For names, shapes and values that do not fit the model, and when a chain cannot start where it should; also
        when candidates are wanted of starts that are not random.
    """
    candidates = whole_number("init_candidates", candidates, least=1)
    proposals = _proposals(model, init, seed, chains)
    starts = np.empty((chains, model.n_dim))
    any_choice = False
    for chain, propose in enumerate(proposals):
        starts[chain], tried = _choose(model, density, propose, chain, candidates)
        any_choice |= tried > 1
    if candidates > 1 and model.n_dim and not any_choice:
        raise ValueError(
            f"init_candidates={candidates} has no effect, because the starts are not random: leave it out, or give a "
            "start for some of the variables only"
        )
    return starts


def _choose(
    model: CompiledModel, density: Density | BatchDensity, propose: Proposal, chain: int, candidates: int
) -> tuple[np.ndarray, int]:
    """Take the best of the candidates, or the first usable start after them, and count the starts that were looked at.

    One candidate is the default, because the best of many starts is not the better start of a chain: where the density
    is highest there may be hardly any probability (the neck of a funnel), and chains that all begin at the same mode
    agree with each other without having seen another. More candidates are for models whose density is finite but
    useless at most starts.
    """
    best, best_logp = None, -np.inf
    point: np.ndarray | None = None
    tried = 0
    while tried < candidates or (best is None and tried < START_TRIES):
        previous, point = point, np.ascontiguousarray(propose(tried), dtype=np.float64)
        if previous is not None and np.array_equal(previous, point, equal_nan=True):
            break
        tried += 1
        logp, gradient = density.evaluate(point)
        usable = np.isfinite(logp) and np.isfinite(gradient).all()
        if usable and (best is None or logp > best_logp):
            best, best_logp = point, logp
    if best is not None:
        return best, tried
    assert point is not None
    what = f"chain {chain} cannot start at the given point"
    if tried > 1:
        what = f"no start found for chain {chain} in {tried} tries"
    explanation = model.explain_point(point) or "the log density or its gradient is not finite there"
    raise ValueError(f"{what}: {explanation}")


def _proposals(model: CompiledModel, init: Any, seed: int, chains: int) -> list[Proposal]:
    """Bring all forms of ``init`` to one proposal for each chain."""
    posterior = _posterior_of(init)
    if posterior is not None:
        each = _draws_of_result(model, posterior, chains)
    elif callable(init):
        each = [init(chain) for chain in range(chains)]
    elif _is_list_of_starts(init):
        each = list(init)
        if len(each) != chains:
            raise ValueError(f"init lists {len(each)} starts, but there are {chains} chains")
    else:
        if not (init is None or isinstance(init, Mapping) or _is_number(init)):
            init = _array(init, model.n_dim, chains)
        each = list(init) if np.ndim(init) == 2 else [init] * chains
        return [_proposal(model, given, seed, chain, "init") for chain, given in enumerate(each)]
    return [_proposal(model, given, seed, chain, f"init of chain {chain}") for chain, given in enumerate(each)]


def _is_list_of_starts(init: Any) -> bool:
    if not isinstance(init, list | tuple):
        return False
    return any(item is None or isinstance(item, Mapping | Sequence | np.ndarray) for item in init)


def _is_number(given: Any) -> bool:
    return isinstance(given, numbers.Real) or (getattr(given, "shape", None) == () and given.dtype.kind in "iuf")


def _proposal(model: CompiledModel, given: Any, seed: int, chain: int, what: str) -> Proposal:
    """Turn what one chain was given into a proposal; errors say ``what`` is wrong."""

    def own(attempt: int) -> np.ndarray:
        return model.initial_point((seed, chain, attempt))

    if given is None:
        return own
    if isinstance(given, Mapping):

        def replaced(attempt: int) -> np.ndarray:
            try:
                return model.unconstrain(given, own(attempt))
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from error

        return replaced
    if _is_number(given):
        return _uniform(model.n_dim, given, seed, chain, what)
    point = _array(given, model.n_dim, None, what)
    return lambda _attempt: point


def _uniform(n_dim: int, radius: Any, seed: int, chain: int, what: str) -> Proposal:
    if isinstance(radius, bool):
        raise TypeError(f"{what} must be {_KINDS}, not {radius!r}")
    radius = float(radius)
    if not 0 <= radius < np.inf:
        raise ValueError(f"{what} is a radius, which must be finite and not negative, but it is {radius}")
    return lambda attempt: np.random.default_rng((seed, chain, attempt)).uniform(-radius, radius, n_dim)


def _array(values: Any, n_dim: int, chains: int | None, what: str = "init") -> np.ndarray:
    """Check an array of unconstrained values: (n_dim,), or (chains, n_dim) where all chains are given at once."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} must be {_KINDS}, not {values!r}") from error
    shapes = [(n_dim,)] if chains is None else [(n_dim,), (chains, n_dim)]
    if array.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(
            f"{what} must have shape {wanted}, not {array.shape}: one number for each unconstrained parameter"
        )
    return array


def _posterior_of(init: Any) -> Any:
    """Find the draws of an earlier result: its group ``posterior``, or that group itself."""
    group = getattr(init, "posterior", None)
    if group is None and isinstance(init, Mapping):
        group = init.get("posterior")
    for draws in (group, init):
        # Not by type: the types differ with the version of ArviZ, and importing them takes seconds.
        if hasattr(draws, "data_vars") and {"chain", "draw"} <= set(getattr(draws, "dims", ())):
            return draws
    if hasattr(init, "groups"):
        raise ValueError("the earlier result given as init has no group 'posterior' with dimensions chain and draw")
    return None


def _draws_of_result(model: CompiledModel, posterior: Any, chains: int) -> list[dict[str, np.ndarray]]:
    """Pick a draw for each chain, the same ones each time.

    A start is the last draw of a chain. With more new chains than old ones, the further starts are earlier draws: as
    far from the last, and from each other, as the length of the chain allows, so that they are not nearly the same.
    """
    missing = [name for name in model.free_variables if name not in posterior.data_vars]
    if missing:
        raise ValueError(
            f"the earlier result given as init lacks {', '.join(map(repr, missing))}: to start these at random, pass "
            "a list with a dict of values of the other variables for each chain"
        )
    n_chains, n_draws = posterior.sizes["chain"], posterior.sizes["draw"]
    if not n_chains or not n_draws:
        raise ValueError("the earlier result given as init has no draws after warm-up")
    rounds = -(-chains // n_chains)
    stride = max(1, n_draws // rounds)
    starts = []
    for chain in range(chains):
        at = {"chain": chain % n_chains, "draw": (n_draws - 1 - stride * (chain // n_chains)) % n_draws}
        starts.append({name: np.asarray(posterior[name].isel(at)) for name in model.free_variables})
    return starts
