"""The random numbers of the core as functions of JAX: ``rng.rs``, word for word.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011), and normals from the Box-Muller transform with the core's own
logarithm, sine and cosine. The words are the same on every machine; normals may differ in the last digit, where a
compiler joins a product and a sum.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["normals", "philox"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

#: Coordinates come in groups of this many cosines, then as many sines.
HALF_GROUP = 8

LN_2 = 0.6931471805599453


def philox(key: tuple[Any, Any], counter: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Return the four words of each counter under each key; all are uint32 and of one shape."""
    a, b, c, d = counter
    low, high = key
    for _ in range(ROUNDS):
        first = a.astype(jnp.uint64) * jnp.uint64(MULTIPLIERS[0])
        second = c.astype(jnp.uint64) * jnp.uint64(MULTIPLIERS[1])
        a, b, c, d = (
            (second >> 32).astype(jnp.uint32) ^ b ^ low,
            second.astype(jnp.uint32),
            (first >> 32).astype(jnp.uint32) ^ d ^ high,
            first.astype(jnp.uint32),
        )
        low, high = low + jnp.uint32(WEYL[0]), high + jnp.uint32(WEYL[1])
    return a, b, c, d


def _one_to_two(high: Any, low: Any) -> Any:
    """Return numbers in [1, 2) with the upper 52 of 64 random bits."""
    bits = (high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)) >> 12
    return lax.bitcast_convert_type(bits | jnp.uint64(0x3FF0000000000000), jnp.float64)


def _ln(u: Any) -> Any:
    """Return the logarithm of ``u`` in [2**-52, 1]: k ln 2 + 2 atanh(s)."""
    bits = lax.bitcast_convert_type(u, jnp.uint64)
    mantissa = lax.bitcast_convert_type(
        bits & jnp.uint64(0x000FFFFFFFFFFFFF) | jnp.uint64(0x3FF0000000000000), jnp.float64
    )
    big = mantissa > 2.0**0.5
    m = jnp.where(big, 0.5 * mantissa, mantissa)
    k = (bits >> 52).astype(jnp.float64) - 1023.0 + jnp.where(big, 1.0, 0.0)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series: Any = 2.0 / 19.0
    for odd in (17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        series = series * z + 2.0 / odd
    return k * LN_2 + (2.0 * s + s * z * series)


def _turn(u: Any) -> tuple[Any, Any]:
    """Return cosine and sine of 2 pi u for ``u`` in [0, 1): quarter turns, and Taylor series for the rest."""
    t = 4.0 * u
    quarter = jnp.round(t)
    a = (t - quarter) * (0.5 * jnp.pi)
    quarter = quarter.astype(jnp.int32)
    z = a * a
    s: Any = 1.0
    for k in (272.0, 210.0, 156.0, 110.0, 72.0, 42.0, 20.0, 6.0):
        s = 1.0 - z * (1.0 / k) * s
    c: Any = 1.0
    for k in (306.0, 240.0, 182.0, 132.0, 90.0, 56.0, 30.0, 12.0, 2.0):
        c = 1.0 - z * (1.0 / k) * c
    s = s * a
    swap = (quarter & 1) != 0
    cos, sin = jnp.where(swap, s, c), jnp.where(swap, c, s)
    return jnp.where(((quarter + 1) & 2) != 0, -cos, cos), jnp.where((quarter & 2) != 0, -sin, sin)


def normals(words: Any, dim: int) -> jax.Array:
    """Return independent standard normals, a row for each address.

    Coordinate j takes its number from block 8 (j // 16) + j % 8: the cosine for the first eight of a group of
    sixteen, the sine for the others.

    Parameters
    ----------
    words : uint32 array of shape (n, 5)
        Addresses: lower and upper half of the seed, draw, chain and purpose.
    dim : int
        Numbers in a row.

    Returns
    -------
    float64 array of shape (n, dim)
    """
    rows = len(words)
    groups = -(-dim // (2 * HALF_GROUP))
    shape = (rows, groups * HALF_GROUP)
    low, high, draw, chain, code = (jnp.broadcast_to(words[:, i, None], shape) for i in range(5))
    block = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.uint32), shape)
    a, b, c, d = philox((low, high), (block, draw, chain, code))
    radius = jnp.sqrt(-2.0 * _ln(2.0 - _one_to_two(a, b)))
    cos, sin = _turn(_one_to_two(c, d) - 1.0)
    halves = [(radius * part).reshape(rows, groups, HALF_GROUP) for part in (cos, sin)]
    return jnp.concatenate(halves, axis=2).reshape(rows, -1)[:, :dim]
