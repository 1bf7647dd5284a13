"""The density of hyper-parameters with the latent variables integrated out by Laplace's method, and its gradient.

With L(theta, phi) the log joint density, theta* its mode in theta for given phi, H = -d^2 L / dtheta^2 there and n
latent variables, the log marginal density is L(theta*, phi) - 1/2 log det H + n/2 log 2 pi. Its gradient needs no
derivative of the search (implicit function theorem; Kristensen and others 2016, Margossian and others 2020). With
W = H^-1 held fixed, S = sum of W_ij H_ij, u = dS / dtheta and v = H^-1 u, it is

    d/dphi (L - S / 2 - v' dL/dtheta / 2)

at theta*, where v is held fixed, too. Only those entries of W count where H has some.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from nutpie.models._jax_batch import precision
from nutpie.models._laplace_algebra import algebra_for
from nutpie.models._laplace_newton import DONE, INDEFINITE, NOT_FINITE, STUCK, State, find_modes
from nutpie.models._laplace_pattern import WHOLE, Kind, Pattern, find_entries, fits, make_pattern, union

__all__ = ["InnerProblemError", "LaplaceMarginal"]

#: Relative difference of a product with the Hessian from that with its pattern, above which the pattern is wrong.
MISMATCH = 1e-7

#: How many times a pattern may turn out to be wrong.
MOST_REPAIRS = 8

#: Numbers in an array of products above which they are computed some at a time.
MOST_NUMBERS = 1 << 22

#: Most points in a call, and fewest where they are cheap: with all chains of a run in the call that is compiled first,
#: no other has to be. And how many times as many points as needed may be computed instead of compiling again.
MOST_ROWS, LEAST_ROWS, MOST_PADDING = 64, 4, 4

#: Numbers in the products of so many points that they are cheap.
CHEAP_NUMBERS = 1 << 16

#: Points at which the pattern is looked for, and how far every other of them is from a given one.
LOOKS, SPREAD = 3, 0.5

#: Points that are tried.
TRIES = 20

REASONS = {
    STUCK: "Laplace: the search for the mode of the latent variables did not converge",
    INDEFINITE: "Laplace: the latent variables have no maximum there, the Hessian is not negative definite",
    NOT_FINITE: "Laplace: the log density, its gradient or its Hessian is not finite where the search begins",
}


class InnerProblemError(ValueError):
    """The latent variables have no mode at the given point."""


class _Functions:
    """Functions of latent variables and hyper-parameters, by JAX, of one point each.

    Parameters
    ----------
    logp
        The log joint density of flat arrays theta and phi.
    pattern
        Of its Hessian by theta.
    probe
        Vector that products with the Hessian are checked with.
    """

    def __init__(self, logp: Callable[[Any, Any], Any], pattern: Pattern, probe: np.ndarray) -> None:
        self.logp = logp
        self._pattern = pattern
        self._probe = probe
        # A dense Hessian has as many vectors as rows: not worth keeping.
        self._vectors = None if pattern.kind == "dense" else pattern.vectors()

    def _linear(self, theta: Any, phi: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
        import jax

        (value, gradient), push = jax.linearize(lambda t: jax.value_and_grad(self.logp)(t, phi), theta)
        return value, gradient, lambda vector: -push(vector)[1]

    def _products(self, multiply: Callable[[Any], Any]) -> Any:
        import jax
        import jax.numpy as jnp

        vectors = jnp.eye(self._pattern.size) if self._vectors is None else jnp.asarray(self._vectors)
        if vectors.size <= MOST_NUMBERS:
            return jax.vmap(multiply)(vectors)
        return jax.lax.map(multiply, vectors, batch_size=max(1, MOST_NUMBERS // self._pattern.size))

    def evaluate(self, theta: Any, phi: Any) -> tuple[Any, Any, Any]:
        """Log density, gradient by theta, entries of the negative Hessian."""
        value, gradient, multiply = self._linear(theta, phi)
        products = self._products(multiply)
        if self._pattern.kind == "diagonal":
            return value, gradient, products[0]
        return value, gradient, products[self._pattern.read_colors, self._pattern.read_rows]

    def spread(self, inverse: Any) -> Any:
        """Weights of products whose sum is S, from entries of the inverse."""
        import jax.numpy as jnp

        pattern = self._pattern
        if pattern.kind == "diagonal":
            return inverse[None]
        weights = jnp.zeros((pattern.n_colors, pattern.size))
        twice = np.where(pattern.rows == pattern.cols, 1.0, 2.0)
        return weights.at[pattern.read_colors, pattern.read_rows].set(twice * inverse, unique_indices=True)

    def pull(self, theta: Any, phi: Any, inverse: Any) -> tuple[Any, Any]:
        """Gradients of S by theta and phi."""
        import jax
        import jax.numpy as jnp

        weights = self.spread(inverse)

        def total(theta: Any, phi: Any) -> Any:
            return jnp.sum(weights * self._products(self._linear(theta, phi)[2]))

        return jax.grad(total, argnums=(0, 1))(theta, phi)

    def outer(self, theta: Any, phi: Any, by_phi: Any, v: Any) -> Any:
        """Gradient of the marginal density, from that of S by phi and from v."""
        import jax
        import jax.numpy as jnp

        def total(phi: Any) -> Any:
            value, gradient = jax.value_and_grad(self.logp)(theta, phi)
            return value - 0.5 * jnp.vdot(v, gradient)

        return jax.grad(total)(phi) - 0.5 * by_phi

    def probed(self, theta: Any, phi: Any) -> Any:
        """Product of the negative Hessian with the probe."""
        return self._linear(theta, phi)[2](self._probe)

    def start(self, phi: Any, reference: Any) -> Any:
        """Where the search begins: a function of phi alone.

        The mode at a reference point, moved along its tangent if the density is higher there.
        """
        import jax.numpy as jnp

        at, mode, slopes = reference
        moved = mode + (phi - at) @ slopes
        there, here = self.logp(moved, phi), self.logp(mode, phi)
        return jnp.where((there > here) | ~jnp.isfinite(here), moved, mode)


class _Compiled:
    """All functions of a pattern, of many points at once.

    Where the algebra is one of JAX, these are compiled as a whole. Otherwise compiled functions and the algebra take
    turns, with NumPy arrays in between.
    """

    def __init__(self, functions: _Functions, pattern: Pattern, probe: np.ndarray, max_iterations: int) -> None:
        self._functions = functions
        self._pattern = pattern
        self._algebra = algebra_for(pattern)
        self._probe = probe
        self._max_iterations = max_iterations
        numbers = pattern.size * pattern.n_colors + 1
        self.most_rows = max(1, min(MOST_ROWS, MOST_NUMBERS // numbers))
        self._least_rows = max(1, min(LEAST_ROWS, CHEAP_NUMBERS // numbers))
        self._widths: set[int] = set()
        self._pieces: dict[str, Callable[..., Any]] = {}
        self.search = self._whole(self._search)
        self.marginal = self._whole(self._marginal)
        self.draw = self._whole(self._draw)

    def _whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        return jax.jit(function) if self._algebra.compiled else function

    @property
    def _xp(self) -> Any:
        if not self._algebra.compiled:
            return np
        import jax.numpy as jnp

        return jnp

    def width(self, rows: int) -> int:
        """Return how many rows to compute for so many: as many as before, if that is not far off."""
        for width in sorted(self._widths):
            if rows <= width <= MOST_PADDING * rows:
                return width
        width = max(self._least_rows, 1 << (rows - 1).bit_length())
        self._widths.add(width)
        return width

    def rows_for(self, points: int) -> int:
        """Return how many points to compute in a call if there are many: a number that was compiled before."""
        return min(points, max(self._widths, default=self.most_rows), self.most_rows)

    def _piece(self, name: str, in_axes: Any = 0) -> Callable[..., Any]:
        """Return one of the functions, of many points."""
        if name not in self._pieces:
            import jax

            function = jax.vmap(getattr(self._functions, name), in_axes=in_axes)
            self._pieces[name] = function if self._algebra.compiled else _of_numpy(function)
        return self._pieces[name]

    def _search(self, phi: Any, reference: Any) -> State:
        theta = self._piece("start", (0, None))(phi, reference)
        evaluate, n_entries = self._piece("evaluate"), len(self._pattern.rows)
        return find_modes(self._xp, evaluate, self._algebra, theta, phi, n_entries, self._max_iterations)

    def _factor(self, state: State) -> Any:
        return self._algebra.factor(state.entries) if self._algebra.compiled else state.factor

    def _marginal(self, state: State, phi: Any) -> tuple[Any, Any, Any]:
        """Log densities and gradients; and how far the pattern is from the truth."""
        xp, algebra = self._xp, self._algebra
        factor = self._factor(state)
        u, by_phi = self._piece("pull")(state.theta, phi, algebra.inverse(factor))
        gradient = self._piece("outer")(state.theta, phi, by_phi, algebra.solve(factor, u))
        logp = state.logp - 0.5 * algebra.log_det(factor) + 0.5 * self._pattern.size * np.log(2 * np.pi)
        done = state.status == DONE
        truth = self._piece("probed")(state.theta, phi)
        error = xp.abs(truth - algebra.multiply(state.entries, self._probe))
        mismatch = xp.max(error, axis=1) / xp.max(xp.abs(truth), axis=1)
        return xp.where(done, logp, np.nan), xp.where(done[:, None], gradient, np.nan), mismatch

    def _draw(self, state: State, phi: Any, noise: Any) -> tuple[Any, Any]:
        """Latent variables; and the logarithm of the true over the approximate density, up to a function of phi."""
        xp = self._xp
        theta = state.theta + self._algebra.color(self._factor(state), noise)
        ratio = self._piece("logp")(theta, phi) - state.logp + 0.5 * xp.sum(noise**2, axis=1)
        done = state.status == DONE
        return xp.where(done[:, None], theta, np.nan), xp.where(done, ratio, np.nan)

    def tangent(self, state: State, phi: Any) -> np.ndarray:
        """Return derivatives (d, n) of the mode by phi, at the first point of a state."""
        import jax

        theta, d = np.asarray(state.theta)[0], phi.shape[1]

        def mixed(theta: Any, phi: Any, direction: Any) -> Any:
            gradient = jax.grad(self._functions.logp)
            return jax.jvp(lambda p: gradient(theta, p), (phi,), (direction,))[1]

        mixed = jax.jit(mixed)
        slopes = np.stack([np.asarray(mixed(theta, phi[0], np.eye(d)[i])) for i in range(d)])
        factor = self._algebra.factor(np.asarray(state.entries)[:1])
        return np.concatenate([np.asarray(self._algebra.solve(factor, slope[None])) for slope in slopes])


def _of_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and let it return NumPy arrays."""
    import jax

    compiled = jax.jit(function)
    return lambda *arguments: jax.tree_util.tree_map(np.asarray, compiled(*arguments))


class LaplaceMarginal:
    """The marginal density of hyper-parameters.

    Parameters
    ----------
    logp
        The log joint density, a function of JAX of flat arrays theta and phi.
    points
        Where a mode of theta is searched, and for which phi: a function of the number of the attempt, that gives both.
        The first point with a mode is the reference point.
    kind
        Structure of the Hessian; found by default.
    max_iterations
        Evaluations of a search for a mode.

    Raises
    ------
    InnerProblemError
        If there is no mode.
    ValueError
        If the Hessian has no structure and is too large, or not that of ``kind``.
    """

    def __init__(
        self,
        logp: Callable[[Any, Any], Any],
        points: Callable[[int], tuple[np.ndarray, np.ndarray]],
        *,
        kind: Kind | None = None,
        max_iterations: int = 100,
    ) -> None:
        self.size, self.n_dim = map(len, points(0))
        self._logp = logp
        self._kind = kind
        self._max_iterations = max_iterations
        self._lock = threading.RLock()
        self._rng = np.random.default_rng(20201)
        self._probe = self._rng.normal(size=self.size)
        self._repairs = 0
        self.failures: Counter[int] = Counter()
        self.points = self.evaluations = 0
        with precision("float64"):
            self._multiply = self._compile_product()
            self._entries = self._look_around(points)
            self._build()
            self._reference = self._find_reference(points)

    # ------------------------------------------------------------------------------------------------- the pattern

    def _compile_product(self) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        import jax

        gradient = jax.grad(self._logp)

        def product(theta: Any, phi: Any, vectors: Any) -> Any:
            return jax.vmap(jax.linearize(lambda t: gradient(t, phi), theta)[1])(vectors)

        compiled = jax.jit(product)
        rows = max(1, min(32, (MOST_NUMBERS >> 3) // max(self.size, 1)))

        def multiply(theta: np.ndarray, phi: np.ndarray, vectors: np.ndarray) -> np.ndarray:
            found = np.empty((len(vectors), self.size))
            for first in range(0, len(vectors), rows):
                part = vectors[first : first + rows]
                padded = np.zeros((rows, self.size))
                padded[: len(part)] = part
                found[first : first + len(part)] = np.asarray(compiled(theta, phi, padded))[: len(part)]
            return found

        return multiply

    def _look_around(self, points: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> Any | None:
        """Find the entries of the Hessian at and near the first points; None if there are too many."""
        if self._kind == "dense":
            return None
        found, looks = None, 0
        for look in range(TRIES):
            if looks == LOOKS:
                break
            theta, phi = points(look // 2)
            away = SPREAD * (look % 2)
            at = theta + away * self._rng.normal(size=self.size), phi + away * self._rng.normal(size=self.n_dim)
            if not np.isfinite(self._multiply(*at, self._probe[None])).all():
                continue
            looks += 1
            product = partial(self._multiply, *at)
            if found is not None and self.size > WHOLE and fits(product, make_pattern(found, self.size), self._rng):
                continue
            entries = find_entries(product, self.size, self._rng)
            if entries is None:
                return None
            found = entries if found is None else union([found, entries])
        if found is None:
            raise InnerProblemError(
                "the Hessian of the log density by the latent variables is not finite at any of the points that were "
                "tried: give another initial point"
            )
        return found

    def _build(self) -> None:
        self.pattern = make_pattern(self._entries, self.size, self._kind)
        functions = _Functions(self._logp, self.pattern, self._probe)
        self._compiled = _Compiled(functions, self.pattern, self._probe, self._max_iterations)

    def _repair(self, theta: np.ndarray, phi: np.ndarray) -> None:
        """Add the entries that the Hessian has at a point where the pattern lacks some."""
        self._repairs += 1
        self._kind = None
        entries = find_entries(partial(self._multiply, theta, phi), self.size, self._rng)
        if entries is None or self._entries is None or self._repairs > MOST_REPAIRS:
            self._entries = None
        else:
            self._entries = union([self._entries, entries])
        self._build()

    def _repaired(self, mismatch: Any, state: State, phi: np.ndarray) -> bool:
        """Whether the pattern was found to be wrong, and was mended."""
        wrong = np.flatnonzero(np.asarray(mismatch) > MISMATCH)
        if not len(wrong) or self.pattern.kind == "dense":
            return False
        self._repair(np.asarray(state.theta)[wrong[0]], phi[wrong[0]])
        return True

    # -------------------------------------------------------------------------------------------------- evaluation

    def _find_reference(
        self, points: Callable[[int], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reasons = []
        for attempt in range(TRIES):
            theta, phi = points(attempt)
            self._reference = phi, theta, np.zeros((self.n_dim, self.size))
            state, _, _ = self._evaluate(_padded(phi[None], self._compiled.width(1)))
            status = int(np.asarray(state.status)[0])
            if status == DONE:
                return phi, np.asarray(state.theta)[0], self._compiled.tangent(state, phi[None])
            reasons.append(REASONS[status].removeprefix("Laplace: "))
        raise InnerProblemError(f"no Laplace approximation at the initial point: {reasons[0]}")

    def _evaluate(self, phi: np.ndarray) -> tuple[State, Any, Any]:
        """States of the searches, log densities and gradients, with a pattern that is right at the modes."""
        while True:
            state = self._compiled.search(phi, self._reference)
            logp, gradient, mismatch = self._compiled.marginal(state, phi)
            if not self._repaired(mismatch, state, phi):
                return state, logp, gradient

    def __call__(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities (k,) and gradients (k, d) at points (k, d); NaN where the search failed."""
        logp, gradient = np.empty(len(phi)), np.empty(phi.shape)
        first = 0
        with self._lock, precision("float64"):
            while first < len(phi):
                part = phi[first : first + self._compiled.most_rows]
                rows = slice(first, first + len(part))
                state, values, gradients = self._evaluate(_padded(part, self._compiled.width(len(part))))
                logp[rows], gradient[rows] = np.asarray(values)[: len(part)], np.asarray(gradients)[: len(part)]
                self._count(state, len(part))
                first += len(part)
        return logp, gradient

    def _count(self, state: State, rows: int) -> None:
        self.points += rows
        self.evaluations += int(np.asarray(state.iterations)[:rows].sum())
        status = np.asarray(state.status)[:rows]
        if (status != DONE).any():
            self.failures.update(status[status != DONE].tolist())

    def draw(self, phi: np.ndarray, noise: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Draw latent variables for each row of hyper-parameters.

        Parameters
        ----------
        phi
            Of shape (k, d).
        noise
            Standard normal numbers of shape (n,) for a row.

        Returns
        -------
        theta
            Of shape (k, n); NaN where the search failed.
        log_ratio
            Of shape (k,): L(theta, phi) - L(theta*, phi) + (theta - theta*)' H (theta - theta*) / 2, the logarithm of
            true over approximate joint density up to a constant.
        """
        theta, ratio = np.empty((len(phi), self.size)), np.empty(len(phi))
        first = 0
        with self._lock, precision("float64"):
            while first < len(phi):
                part = phi[first : first + self._compiled.rows_for(len(phi) - first)]
                rows = slice(first, first + len(part))
                padded = _padded(part, self._compiled.width(len(part)))
                normal = np.zeros((len(padded), self.size))
                for row in range(len(part)):
                    normal[row] = noise(first + row)
                state = self._compiled.search(padded, self._reference)
                values, ratios = self._compiled.draw(state, padded, normal)
                theta[rows], ratio[rows] = np.asarray(values)[: len(part)], np.asarray(ratios)[: len(part)]
                first += len(part)
        return theta, ratio

    @property
    def reference_mode(self) -> np.ndarray:
        """Mode of the latent variables at the reference point, of shape (n,)."""
        return self._reference[1]

    def reset_counts(self) -> None:
        """Begin to count points, evaluations and failures anew."""
        with self._lock:
            self.failures.clear()
            self.points = self.evaluations = 0

    def reason(self, phi: np.ndarray) -> str:
        """Say why the search for a mode fails at a point of shape (d,); empty if it does not."""
        with self._lock, precision("float64"):
            state = self._compiled.search(_padded(phi[None], self._compiled.width(1)), self._reference)
        return REASONS.get(int(np.asarray(state.status)[0]), "")

    def messages(self) -> Sequence[tuple[str, int]]:
        """Why searches failed, and how many times each."""
        with self._lock:
            return [(REASONS[status], count) for status, count in sorted(self.failures.items())]


def _padded(phi: np.ndarray, width: int) -> np.ndarray:
    """Repeat the first row, up to a number of rows."""
    missing = width - len(phi)
    return np.concatenate([phi, np.repeat(phi[:1], missing, axis=0)]) if missing else phi
