"""Functions of JAX that a Laplace approximation is made of: of one point, and compiled for many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nutpie.models._laplace_algebra import algebra_for
from nutpie.models._laplace_blocks import MOST_JUDGED
from nutpie.models._laplace_newton import DONE, State, find_modes
from nutpie.models._laplace_pattern import Pattern

__all__ = ["MOST_NUMBERS", "Compiled", "Functions"]

#: Numbers in an array of products above which they are computed some at a time.
MOST_NUMBERS = 1 << 22

#: Most points in a call, and fewest where they are cheap: with all chains of a run in the call that is compiled first,
#: no other has to be. And how many times as many points as needed may be computed instead of compiling again.
MOST_ROWS, LEAST_ROWS, MOST_PADDING = 64, 4, 4

#: Numbers in the products of so many points that they are cheap.
CHEAP_NUMBERS = 1 << 16


#: Nodes of the Gauss-Legendre rule for the rise of a log density between two points.
NODES = 12


class Functions:
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

    def rises(self, theta: Any, step: Any, phi: Any) -> Any:
        """Rise of the log density from theta to theta + step, by latent variable: integrals of its slopes."""
        import jax
        import jax.numpy as jnp

        slope = jax.grad(self.logp)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        slopes = jax.lax.map(lambda part: slope(theta + part * step, phi), jnp.asarray(0.5 * (nodes + 1)))
        return step * (0.5 * weights @ slopes)

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


class Compiled:
    """All functions of a pattern, of many points at once.

    Where the algebra is one of JAX, these are compiled as a whole. Otherwise compiled functions and the algebra take
    turns, with NumPy arrays in between.
    """

    def __init__(self, functions: Functions, pattern: Pattern, probe: np.ndarray, max_iterations: int) -> None:
        self._functions = functions
        self._pattern = pattern
        self._algebra = algebra_for(pattern)
        self._probe = probe
        self._max_iterations = max_iterations
        numbers = pattern.size * pattern.n_colors + 1
        self.most_rows = max(1, min(MOST_ROWS, MOST_NUMBERS // numbers))
        self._least_rows = max(1, min(LEAST_ROWS, CHEAP_NUMBERS // numbers))
        #: Whether blocks of latent variables are independent, and few enough to be judged one by one.
        self.separates = pattern.kind in ("diagonal", "blocks") and pattern.size <= MOST_JUDGED
        self._widths: set[int] = set()
        self._pieces: dict[str, Callable[..., Any]] = {}
        self.search = self._whole(self._search)
        self.marginal = self._whole(self._marginal)
        self.draw = self._whole(self._draw)

    def _whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        return jax.jit(function) if self._algebra.compiled else function

    @property
    def _in_turn(self) -> bool:
        """Whether points are computed one after the other.

        LAPACK calls of JAX 0.10 for several matrices wait for the threads that they run on: two of them at once never
        come to an end on a machine with two cores. Densities with dense Hessians are full of such calls.
        """
        return self._pattern.kind == "dense"

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

            function = getattr(self._functions, name)
            function = _one_by_one(function, in_axes) if self._in_turn else jax.vmap(function, in_axes=in_axes)
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

    def _draw(self, state: State, phi: Any, noise: Any) -> tuple[Any, Any, Any]:
        """Latent variables, the logarithm of true over approximate density, and its parts if they are told apart."""
        xp = self._xp
        theta = state.theta + self._algebra.color(self._factor(state), noise)
        ratio = self._piece("logp")(theta, phi) - state.logp + 0.5 * xp.sum(noise**2, axis=1)
        done = state.status == DONE
        parts = xp.zeros((len(noise), 0))
        if self.separates:
            parts = self._piece("rises")(state.theta, theta - state.theta, phi) + 0.5 * noise**2
        return xp.where(done[:, None], theta, np.nan), xp.where(done, ratio, np.nan), parts

    def tangent(self, state: State, phi: Any) -> np.ndarray:
        """Return derivatives (d, n) of the mode by phi, at the first point of a state."""
        import jax

        theta, d = np.asarray(state.theta)[0], phi.shape[1]

        def mixed(theta: Any, phi: Any, direction: Any) -> Any:
            gradient = jax.grad(self._functions.logp)
            return jax.jvp(lambda p: gradient(theta, p), (phi,), (direction,))[1]

        def solved(entries: Any, slopes: Any) -> Any:
            factor = self._algebra.factor(entries)
            if self._algebra.compiled:
                return jax.lax.map(lambda slope: self._algebra.solve(factor, slope[None])[0], slopes)
            return np.concatenate([self._algebra.solve(factor, slope[None]) for slope in slopes])

        by_phi = np.asarray(jax.jit(jax.vmap(mixed, in_axes=(None, None, 0)))(theta, phi[0], np.eye(d)))
        return np.asarray(self._whole(solved)(np.asarray(state.entries)[:1], by_phi))


def _one_by_one(function: Callable[..., Any], in_axes: Any) -> Callable[..., Any]:
    """Return what ``jax.vmap`` returns, without arrays of several points."""
    import jax

    def mapped(*arguments: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
        rows = tuple(a for a, axis in zip(arguments, axes, strict=True) if axis == 0)

        def of_row(row: tuple[Any, ...]) -> Any:
            each = iter(row)
            return function(*(next(each) if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)))

        return jax.lax.map(of_row, rows)

    return mapped


def _of_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and let it return NumPy arrays."""
    import jax

    compiled = jax.jit(function)
    return lambda *arguments: jax.tree_util.tree_map(np.asarray, compiled(*arguments))
