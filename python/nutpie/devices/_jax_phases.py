"""The phases of the device trait of the core, as functions of JAX without side effects.

Each takes whole arrays of shape (rows, dim), a table of whole numbers (operations, columns) and one of floats, and
returns new rows; where these go is up to the caller. What comes out is what ``device/mod.rs`` documents. Positions
and momenta are in the precision of the arrays, energies and inner products in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from nutpie.devices._jax_metrics import Under
from nutpie.devices._jax_random import normals

__all__ = ["Points"]

#: Smallest and largest entry that an inverse mass matrix may have.
INV_MASS_BOUNDS = (1e-20, 1e20)

Density = Callable[[Any], tuple[Any, Any]]


class Points(NamedTuple):
    """Arrays of points, or rows of them: positions, momenta, gradients."""

    x: Any
    p: Any
    g: Any

    def at(self, rows: Any) -> Points:
        """Return some rows."""
        return Points(*(array[rows] for array in self))


def dot(a: Any, b: Any) -> Any:
    """Return inner products of rows, in double precision."""
    return (a.astype(jnp.float64) * b.astype(jnp.float64)).sum(1)


def columns(floats: Any, like: Any) -> list[Any]:
    """Return the columns of a table, each to be multiplied with rows of an array."""
    return [floats[:, i, None].astype(like.dtype) for i in range(floats.shape[1])]


def _span_dots(points: Points, ends: Points, under: Under, kick: Any, spans: Any, chunks: Any) -> Any:
    """Inner products of spans, as many at a time as there are ends; ``chunks`` times."""
    width = len(kick)

    def some(chunk: Any, dots: Any) -> Any:
        table = lax.dynamic_slice_in_dim(spans, chunk * width, width)
        start, end, adjacent = points.at(table[:, 0]), ends.at(table[:, 1]), table[:, 2, None] > 0
        k, sums = kick[table[:, 1]], start.p + end.p
        velocity = under.of(table[:, 1]).velocity(sums + jnp.where(adjacent, 0.0, k * (end.g - start.g)))
        way = jnp.where(adjacent, velocity, (end.x - start.x + k * velocity) / (2 * k))
        both = jnp.stack([dot(way, start.p), dot(way, end.p)], axis=1)
        return lax.dynamic_update_slice_in_dim(dots, both, chunk * width, 0)

    return lax.fori_loop(0, chunks, some, jnp.zeros((len(spans), 2)))


def finish(
    points: Points, new: Points, under: Under, passing: Any, floats: Any, spans: Any, chunks: Any
) -> tuple[Any, ...]:
    """Second half of a leapfrog step at ``new``, and the first half of the next one, if there are spans.

    The floats are the kick and the drift onward. Momenta that are ``passing`` stay what they were. Returns the
    momentum, then position and momentum of the next point, if there are spans; kinetic energies and inner products.
    """
    kick, onward = columns(floats, new.x)
    p = new.p + kick * new.g
    kinetic = 0.5 * dot(p, under.velocity(p))
    if spans is None:
        return (p,), (kinetic,)
    half = p + kick * new.g
    beyond = new.x + onward * under.velocity(half)
    dots = _span_dots(points, Points(new.x, p, new.g), under, kick, spans, chunks)
    return (jnp.where(passing[:, None] > 0, new.p, p), beyond, half), (kinetic, dots)


def leapfrog(
    points: Points, under: Under, ints: Any, floats: Any, spans: Any, chunks: Any, density: Density
) -> tuple[Any, ...]:
    """Return new rows (x, p, g, and x and p onward if there are spans), and log densities, energies and inner products.

    Columns: chain, start, new point, whether the first half was done before, point onward, whether the new momentum
    stays what it was; kick, drift, drift onward.
    """
    kick, drift, _ = columns(floats, points.x)
    start, begun = points.at(ints[:, 1]), ints[:, 3, None] > 0
    p = jnp.where(begun, start.p, start.p + kick * start.g)
    x = jnp.where(begun, start.x, start.x + drift * under.velocity(p))
    logp, g = density(x)
    g = g.astype(x.dtype)
    (p, *onward), found = finish(points, Points(x, p, g), under, ints[:, 5], floats[:, 0:3:2], spans, chunks)
    return (x, p, g, *onward), (logp.astype(jnp.float64), *found)


def glide(points: Points, under: Under, ints: Any, floats: Any) -> tuple[Any, Any]:
    """Return positions and momenta. Columns: chain, start, new point; scale, kick, drift."""
    scale, kick, drift = columns(floats, points.x)
    x, p, g = points.at(ints[:, 1])
    p = scale * p + kick * g
    return x + drift * under.velocity(p), p


def products(p: Any, g: Any, under: Under) -> tuple[Any, Any]:
    """Return kinetic energies; p M^-1 g and g M^-1 g."""
    velocity = under.velocity(p)
    return 0.5 * dot(velocity, p), jnp.stack([dot(velocity, g), dot(under.velocity(g), g)], axis=1)


def isokinetic(points: Points, under: Under, ints: Any, floats: Any, density: Density) -> tuple[Any, Any]:
    """Return new rows (x, p, g), and log densities, energies and products. Columns as of `glide`."""
    x, p = glide(points, under, ints, floats)
    logp, g = density(x)
    g = g.astype(x.dtype)
    return (x, p, g), (logp.astype(jnp.float64), *products(p, g, under))


def refresh(under: Under, words: Any, like: Any) -> tuple[Any, Any]:
    """Return momenta and their energies."""
    z = normals(words, like.shape[1])
    return under.momentum(z.astype(like.dtype)), 0.5 * (z * z).sum(1)


def renew(p: Any, under: Under, words: Any, keep: Any) -> tuple[Any, Any]:
    """Return momenta that are renewed in part, and their energies."""
    fresh, _ = refresh(under, words, p)
    share = jnp.sqrt(jnp.maximum(1.0 - keep * keep, 0.0)).astype(p.dtype)
    p = keep.astype(p.dtype) * p + share * fresh
    return p, 0.5 * dot(p, under.velocity(p))


def turn(points: Points, m: Any, under: Under, floats: Any) -> tuple[Any, Any, Any]:
    """Return positions, momenta and pulls after half an exact-normal step. Columns: kick, angle."""
    (kick,) = columns(floats[:, :1], points.x)
    sin, cos = jnp.sin(floats[:, 1:]), jnp.cos(floats[:, 1:])
    # 1 - cos without cancellation.
    sin, cos, fall = (v.astype(points.x.dtype) for v in (sin, cos, sin * sin / (1.0 + cos)))
    x, p, g = points
    kicked = p + kick * (g + m)
    moved = x + (sin * under.velocity(kicked) - fall * (x - under.center))
    return moved, cos * kicked - sin * m, cos * m + sin * kicked


def finish_turn(p: Any, g: Any, m: Any, under: Under, floats: Any) -> tuple[Any, Any]:
    """Return momenta and their energies."""
    (kick,) = columns(floats[:, :1], p)
    p = p + kick * (g + m)
    return p, 0.5 * dot(p, under.velocity(p))


def reach(points: Points, under: Under, ints: Any, floats: Any, spans: Any) -> Any:
    """Return inner products of spans that end in points. Columns: chain, point; half."""
    (half,) = columns(floats, points.x)
    start, owner = points.at(spans[:, 0]), spans[:, 1]
    end, half = points.at(ints[owner, 1]), half[owner]
    way = (end.x - start.x + half * under.of(owner).velocity(start.p + end.p)) / (2 * half)
    return jnp.stack([dot(way, start.p), dot(way, end.p)], axis=1)


def fisher_distance(x: Any, g: Any, under: Under) -> Any:
    """Return |x - centre + M^-1 g|^2 in the norm of M."""
    y = under.whiten(x - under.center + under.velocity(g))
    return dot(y, y)


def welford(mean: Any, ss: Any, value: Any, count: Any) -> tuple[Any, Any]:
    """Return means and sums of squared deviations with one more value; ``count`` counts it already."""
    first = count <= 1
    before = value - mean
    more = mean + before / count
    return jnp.where(first, value, more), jnp.where(first, 0.0, ss + before * (value - more))


def diagonal_of_gradient(x: Any, g: Any) -> tuple[Any, Any, Any]:
    """Return 1 / |g|, that to the power -1/2, and the centre."""
    usable = jnp.isfinite(g) & (g != 0.0)
    inv_mass = jnp.where(usable, 1.0 / jnp.clip(jnp.abs(g), *INV_MASS_BOUNDS), 1.0)
    center = x + inv_mass * g
    return inv_mass, jnp.sqrt(1.0 / inv_mass), jnp.where(jnp.isfinite(center), center, x)


def fit_fisher_diag(one: Any, two: Any, counts: Any, old: Any) -> tuple[Any, Any, Any]:
    """Return diagonals, roots and centres for unions of two samples (Chan, Golub and LeVeque 1983).

    ``one`` and ``two`` have means and sums of squared deviations of positions, then of gradients.
    """
    total = jnp.maximum(counts[0] + counts[1], 1.0)
    between, share = counts[0] * counts[1] / total, counts[1] / total
    weight = jnp.where(counts[1] > 0, 1.0, 0.0)
    (mean_x, ss_x, mean_g, ss_g), (mean_x2, ss_x2, mean_g2, ss_g2) = one, two
    dx, dg = mean_x - mean_x2, mean_g - mean_g2
    ratio = (ss_x + weight * ss_x2 + between * dx**2) / (ss_g + weight * ss_g2 + between * dg**2)
    usable = (ratio > 0.0) & jnp.isfinite(ratio)
    new = jnp.clip(jnp.sqrt(ratio), *INV_MASS_BOUNDS)
    inv_mass, root = jnp.where(usable, new, old[0]), jnp.where(usable, jnp.sqrt(1.0 / new), old[1])
    center = mean_x - share * dx + inv_mass * (mean_g - share * dg)
    return inv_mass, root, jnp.where(jnp.isfinite(center), center, old[2])
