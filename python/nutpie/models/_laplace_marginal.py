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
from nutpie.models._laplace_functions import MOST_NUMBERS, Compiled, Functions
from nutpie.models._laplace_newton import DONE, INDEFINITE, NOT_FINITE, STUCK, State
from nutpie.models._laplace_pattern import WHOLE, Kind, find_entries, fits, make_pattern, union, wider

__all__ = ["InnerProblemError", "LaplaceMarginal"]

#: Relative difference of a product with the Hessian from that with its pattern, above which the pattern is wrong.
MISMATCH = 1e-7

#: How many times a pattern may turn out to be wrong.
MOST_REPAIRS = 5

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
        functions = Functions(self._logp, self.pattern, self._probe)
        self._compiled = Compiled(functions, self.pattern, self._probe, self._max_iterations)

    def _repair(self, theta: np.ndarray, phi: np.ndarray) -> None:
        """Add the entries that the Hessian has at a point where the pattern lacks some."""
        self._repairs += 1
        self._kind = None
        entries = find_entries(partial(self._multiply, theta, phi), self.size, self._rng)
        if entries is None or self._entries is None or self._repairs > MOST_REPAIRS:
            self._entries = None
        else:
            more = [wider(self.pattern)] if self.pattern.kind == "banded" else []
            self._entries = union([self._entries, entries, *more])
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

    def draw(self, phi: np.ndarray, noise: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        parts
            Of shape (k, n): summed over a block of latent variables that are independent of the others, the logarithm
            of true over approximate density of the block. Of no meaning unless `separates`.
        """
        theta, ratio = np.empty((len(phi), self.size)), np.empty(len(phi))
        first = 0
        with self._lock, precision("float64"):
            parts = np.empty((len(phi), self.size if self.separates else 0))
            while first < len(phi):
                part = phi[first : first + self._compiled.rows_for(len(phi) - first)]
                rows = slice(first, first + len(part))
                padded = _padded(part, self._compiled.width(len(part)))
                normal = np.zeros((len(padded), self.size))
                for row in range(len(part)):
                    normal[row] = noise(first + row)
                state = self._compiled.search(padded, self._reference)
                values, ratios, rises = self._compiled.draw(state, padded, normal)
                theta[rows], ratio[rows] = np.asarray(values)[: len(part)], np.asarray(ratios)[: len(part)]
                parts[rows] = np.asarray(rises)[: len(part)]
                first += len(part)
        return theta, ratio, parts

    @property
    def separates(self) -> bool:
        """Whether latent variables are judged one by one, or by blocks: those that are independent given the rest."""
        return self._compiled.separates

    @property
    def blocks(self) -> np.ndarray:
        """Latent variables that are coupled with each other alone, of shape (blocks, largest), filled up with n."""
        blocks = self.pattern.blocks
        return np.arange(self.size)[:, None] if blocks is None else blocks

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
