"""The device of the core whose arrays are those of JAX: what ``rust/python/src/pydevice.rs`` calls.

An array has a row more than the core knows of, where lines go that only fill up a table: tables have few lengths, so
that little is compiled. A phase is one call that computes new rows and one that puts them into the arrays, which are
given away and come back in the same memory. (One call that does both makes XLA copy whole arrays.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nutpie.devices import _jax_phases as phases
from nutpie.devices._jax_metrics import Couplings, Under, couplings_of, power_of_two
from nutpie.devices._jax_phases import Points
from nutpie.models._jax_batch import JaxProgram, precision, width_for

__all__ = ["JaxDevice"]

#: Lines of a table of spans, in lines of the table of leaves.
SPANS = 8


def double(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method compute in double precision where it says so, whatever JAX does elsewhere."""

    @functools.wraps(method)
    def inside(*arguments: Any) -> Any:
        with precision("float64"):
            return method(*arguments)

    return inside


@functools.partial(jax.jit, donate_argnums=0)
def _put(arrays: Sequence[Any], rows: Sequence[Any], values: Sequence[Sequence[Any]]) -> list[Any]:
    """Put rows into arrays: for each array a list of values, for each of these the rows where they go."""
    new = []
    for array, parts in zip(arrays, values, strict=True):
        for where, part in zip(rows, parts, strict=False):
            array = array.at[where].set(part.astype(array.dtype), mode="promise_in_bounds")
        new.append(array)
    return new


def _flat(*found: Any) -> Any:
    return jnp.concatenate([part.astype(jnp.float64).ravel() for part in found])


def _under(arrays: Sequence[Any], couplings: Couplings | None, ints: Any) -> Under:
    return Under((arrays[4], arrays[5], arrays[6]), couplings, ints[:, 0])


@jax.jit
def _refresh(arrays: Any, couplings: Any, ints: Any, words: Any) -> Any:
    return phases.refresh(_under(arrays, couplings, ints), words, arrays[1])


@jax.jit
def _renew(arrays: Any, couplings: Any, ints: Any, words: Any, floats: Any) -> Any:
    return phases.renew(arrays[1][ints[:, 1]], _under(arrays, couplings, ints), words, floats)


@jax.jit
def _glide(arrays: Any, couplings: Any, ints: Any, floats: Any) -> Any:
    return phases.glide(Points(*arrays[:3]), _under(arrays, couplings, ints), ints, floats)


@jax.jit
def _finish_leaf(arrays: Any, couplings: Any, ints: Any, floats: Any, spans: Any, chunks: Any) -> Any:
    points = Points(*arrays[:3])
    under = _under(arrays, couplings, ints)
    new, found = phases.finish(points, points.at(ints[:, 1]), under, ints[:, 3], floats, spans, chunks)
    return new, _flat(*found)


@jax.jit
def _products(arrays: Any, couplings: Any, ints: Any) -> Any:
    rows = ints[:, 1]
    return _flat(*phases.products(arrays[1][rows], arrays[2][rows], _under(arrays, couplings, ints)))


@jax.jit
def _pull(arrays: Any, couplings: Any, ints: Any) -> Any:
    under = _under(arrays, couplings, ints)
    return under.pull(arrays[0][ints[:, 1]] - under.center)


@jax.jit
def _turn(arrays: Any, couplings: Any, ints: Any, floats: Any) -> Any:
    rows = ints[:, 1]
    return phases.turn(Points(*arrays[:3]).at(rows), arrays[3][rows], _under(arrays, couplings, ints), floats)


@jax.jit
def _finish_turn(arrays: Any, couplings: Any, ints: Any, floats: Any) -> Any:
    p, g, m = (arrays[i][ints[:, 2]] for i in (1, 2, 3))
    return phases.finish_turn(p, g, m, _under(arrays, couplings, ints), floats)


@jax.jit
def _reach(arrays: Any, couplings: Any, ints: Any, floats: Any, spans: Any) -> Any:
    return _flat(phases.reach(Points(*arrays[:3]), _under(arrays, couplings, ints), ints, floats, spans))


@jax.jit
def _fisher_distance(arrays: Any, couplings: Any, ints: Any) -> Any:
    rows = ints[:, 1]
    return phases.fisher_distance(arrays[0][rows], arrays[2][rows], _under(arrays, couplings, ints))


@jax.jit
def _accumulate(arrays: Any, ints: Any, floats: Any) -> Any:
    (rows, points), counts = ints.T, floats.astype(arrays[0].dtype)
    own = [array[rows] for array in arrays[:4]]
    of_x = phases.welford(own[0], own[1], arrays[4][points], counts)
    return *of_x, *phases.welford(own[2], own[3], arrays[5][points], counts)


@jax.jit
def _diagonal_of_gradient(arrays: Any, ints: Any) -> Any:
    rows = ints[:, 1]
    return phases.diagonal_of_gradient(arrays[0][rows], arrays[2][rows])


@jax.jit
def _fit_fisher_diag(arrays: Any, ints: Any, floats: Any) -> Any:
    row, one, two = ints.T
    first, second = ([array[rows] for array in arrays[:4]] for rows in (one, two))
    counts = phases.columns(floats, arrays[0])
    return phases.fit_fisher_diag(first, second, counts, [array[row] for array in arrays[4:7]])


def _steps(program: JaxProgram) -> dict[str, Any]:
    """Return the phases in which the density is evaluated, compiled once for each density."""

    def evaluate(arrays: Any, ints: Any, constants: Any, data: Any) -> Any:
        logp, g = program.function(arrays[0][ints[:, 0]].astype(program.dtype), constants, data)
        return logp.astype(jnp.float64), g

    def bound(constants: Any, data: Any) -> Any:
        return lambda x: program.function(x.astype(program.dtype), constants, data)

    def leapfrog(
        arrays: Any,
        couplings: Any,
        ints: Any,
        floats: Any,
        spans: Any,
        chunks: Any,
        constants: Any,
        data: Any,
    ) -> Any:
        under, density = _under(arrays, couplings, ints), bound(constants, data)
        new, found = phases.leapfrog(Points(*arrays[:3]), under, ints, floats, spans, chunks, density)
        return new, _flat(*found)

    def isokinetic(arrays: Any, couplings: Any, ints: Any, floats: Any, constants: Any, data: Any) -> Any:
        under, density = _under(arrays, couplings, ints), bound(constants, data)
        new, found = phases.isokinetic(Points(*arrays[:3]), under, ints, floats, density)
        return new, _flat(*found)

    return {function.__name__: jax.jit(function) for function in (evaluate, leapfrog, isokinetic)}


class JaxDevice:
    """Arrays of one block of chains.

    Parameters
    ----------
    place
        The JAX device.
    program
        The log density.
    dtype
        Precision of the arrays.
    chains
        Chains of the block.
    """

    def __init__(self, place: Any, program: JaxProgram, dtype: str, chains: int) -> None:
        self._place, self._dtype, self._most = place, np.dtype(dtype), chains
        self._arrays: list[Any] = []
        # Of each set of metrics which one a chain has, and those that there are.
        self._owners: list[dict[int, int]] = []
        self._matrices: list[dict[int, tuple[np.ndarray, ...]]] = []
        self._couplings: list[Couplings | None] = []
        self._chains: list[int] = []
        with precision("float64"):
            self._constants, self._data = program.on(place)
        if "device" not in program.compiled:
            program.compiled["device"] = _steps(program)
        self._steps = program.compiled["device"]
        # Whether trajectories have spans. Steps of those that have none are another program, which may be never needed.
        self._has_spans = False

    # ------------------------------------------------------------------------------------------------------- arrays

    @double
    def alloc(self, rows: int, dim: int) -> int:
        """Make an array of zeros."""
        try:
            array = jnp.zeros((rows + 1, dim), self._dtype, device=self._place)
            array.block_until_ready()
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
                raise
            size = (rows + 1) * dim * self._dtype.itemsize / 2**30
            raise MemoryError(
                f"out of memory on {self._place}: an array of {rows} rows of {dim} numbers takes {size:.1f} GiB. Use "
                "fewer chains, or device_dtype='float32'"
            ) from None
        self._arrays.append(array)
        return len(self._arrays) - 1

    @double
    def upload(self, buf: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows."""
        width = power_of_two(len(rows))
        ints = self._table(rows[:, None], width, [buf], {0: 0})
        padded = np.zeros((width, values.shape[1]), self._dtype)
        padded[: len(rows)] = values
        self._store([buf], [ints[:, 0]], [[padded]])

    @double
    def download(self, buf: int) -> np.ndarray:
        """Read an array, row after row."""
        return np.asarray(_rows(self._arrays[buf])).astype(np.float64).ravel()

    @double
    def download_rows(self, buf: int, rows: np.ndarray) -> np.ndarray:
        """Read some rows of an array, one after the other."""
        table = self._table(rows[:, None], power_of_two(len(rows)), [buf], {})
        found = np.asarray(_row(self._arrays[buf], table[:, 0]))[: len(rows)]
        return found.astype(np.float64).ravel()

    @double
    def download_row(self, buf: int, row: int) -> np.ndarray:
        """Read a row."""
        return np.asarray(_row(self._arrays[buf], row)).astype(np.float64)

    @double
    def copy(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> None:
        """Copy rows of an array to those of another."""
        table = self._table(ints, power_of_two(len(ints)), bufs, {1: 1})
        self._store([bufs[1]], [table[:, 1]], [[_row(self._arrays[bufs[0]], table[:, 0])]])

    @double
    def alloc_metrics(self, bufs: Sequence[int]) -> None:
        """Let all metrics be the identity."""
        inv_mass, mass_sqrt, _ = bufs
        for buf in (inv_mass, mass_sqrt):
            self._arrays[buf] = jnp.ones_like(self._arrays[buf], device=self._place)
        self._owners.append({})
        self._matrices.append({})
        self._couplings.append(None)
        self._chains.append(len(self._arrays[inv_mass]))

    @double
    def set_coupling(self, which: int, row: int, key: int | None, matrix: Any = None) -> None:
        """Give a chain a metric that is not diagonal, or take it away."""
        owners, matrices = self._owners[which], self._matrices[which]
        owners.pop(row, None)
        if key is not None:
            owners[row] = key
            if matrix is not None:
                matrices[key] = matrix
        for unused in matrices.keys() - set(owners.values()):
            del matrices[unused]
        self._couplings[which] = None

    def _coupled(self, which: int) -> Couplings | None:
        if self._owners[which] and self._couplings[which] is None:
            found = couplings_of(self._owners[which], self._matrices[which], self._chains[which], self._dtype)
            self._couplings[which] = jax.device_put(found, self._place)
        return self._couplings[which]

    # ------------------------------------------------------------------------------------------------------- tables

    def _table(self, given: np.ndarray, width: int, bufs: Sequence[int], targets: dict[int, int]) -> np.ndarray:
        """Fill up a table. The first line is repeated, but for its targets: by column, which array they are rows of."""
        table = np.empty((width, given.shape[1]), np.int32)
        table[: len(given)] = given
        if len(given) < width:
            table[len(given) :] = given[0] if len(given) else 0
        for column, which in targets.items():
            spare = len(self._arrays[bufs[which]]) - 1
            table[len(given) :, column] = spare
            table[table[:, column] < 0, column] = spare
        return table

    def _floats(self, given: np.ndarray, width: int) -> np.ndarray:
        table = np.ones((width, given.shape[1]))
        table[: len(given)] = given
        return table

    def _width(self, lines: int) -> int:
        """Choose how many lines a table of steps has."""
        self._most = max(self._most, lines)
        return width_for(lines, self._most)

    def _spans(self, spans: np.ndarray, width: int) -> tuple[np.ndarray, int]:
        chunks = -(-len(spans) // width)
        table = np.zeros((width * max(SPANS, power_of_two(chunks)), 3), np.int32)
        if len(spans):
            table[: len(spans)] = spans
        return table, chunks

    def _of(self, bufs: Sequence[int]) -> tuple[list[Any], Couplings | None]:
        """Return the arrays of points and metrics, and couplings."""
        return [self._arrays[buf] for buf in bufs[:7]], self._coupled(bufs[7])

    def _store(self, bufs: Sequence[int], rows: Sequence[Any], values: Sequence[Sequence[Any]]) -> None:
        arrays = [self._arrays[buf] for buf in bufs]
        for buf, array in zip(bufs, _put(arrays, [np.asarray(r, np.int32) for r in rows], values), strict=True):
            self._arrays[buf] = array

    # ------------------------------------------------------------------------------------------- steps with gradients

    @double
    def evaluate(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> np.ndarray:
        """Compute gradients; return log densities."""
        table = self._table(ints, self._width(len(ints)), bufs, {})
        arrays = [self._arrays[buf] for buf in bufs]
        logp, g = self._steps["evaluate"](arrays, table, self._constants, self._data)
        targets = self._table(ints, len(table), bufs, {0: 1})[:, 0]
        self._store([bufs[1]], [targets], [[g]])
        return np.asarray(logp)[: len(ints)]

    @double
    def leapfrog(
        self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray, spans: np.ndarray, _none: np.ndarray
    ) -> np.ndarray:
        """Make leapfrog steps; return log densities, kinetic energies and inner products of spans."""
        n, width = len(ints), self._width(len(ints))
        self._has_spans = self._has_spans or len(spans) > 0 or bool((ints[:, 4] >= 0).any())
        table, numbers = self._table(ints, width, bufs, {2: 0, 4: 0}), self._floats(floats, width)
        of_spans = self._spans(spans, width) if self._has_spans else (None, 0)
        arrays, couplings = self._of(bufs)
        step = self._steps["leapfrog"]
        new, found = step(arrays, couplings, table, numbers, *of_spans, self._constants, self._data)
        self._keep_points(bufs, table, new)
        return _parts(np.asarray(found), width, n, 2, len(spans))

    def _keep_points(self, bufs: Sequence[int], table: np.ndarray, new: Sequence[Any]) -> None:
        """Put new points into the arrays, and the points onward, if there are some."""
        x, p, g, *onward = new
        rows = [table[:, 2], table[:, 4]][: 1 + bool(onward)]
        self._store(bufs[:3], rows, [[x, *onward[:1]], [p, *onward[1:]], [g]])

    @double
    def isokinetic(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> np.ndarray:
        """Make isokinetic steps; return log densities, kinetic energies and products."""
        n, width = len(ints), self._width(len(ints))
        table, numbers = self._table(ints, width, bufs, {2: 0}), self._floats(floats, width)
        arrays, couplings = self._of(bufs)
        step = self._steps["isokinetic"]
        (x, p, g), found = step(arrays, couplings, table, numbers, self._constants, self._data)
        self._store(bufs[:3], [table[:, 2]], [[x], [p], [g]])
        return _parts(np.asarray(found), width, n, 2, n)

    # ------------------------------------------------------------------------------------------------- other phases

    @double
    def refresh(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> np.ndarray:
        """Draw momenta; return kinetic energies."""
        table, words = self._addresses(bufs, ints)
        p, kinetic = _refresh(*self._of(bufs), table, words)
        self._store([bufs[1]], [table[:, 1]], [[p]])
        return np.asarray(kinetic)[: len(ints)]

    @double
    def renew(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> np.ndarray:
        """Draw momenta anew in part; return kinetic energies."""
        table, words = self._addresses(bufs, ints)
        p, kinetic = _renew(*self._of(bufs), table, words, self._floats(floats, len(table)))
        self._store([bufs[1]], [table[:, 1]], [[p]])
        return np.asarray(kinetic)[: len(ints)]

    def _addresses(self, bufs: Sequence[int], ints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return chains and rows, and the addresses of random numbers."""
        width = power_of_two(len(ints))
        words = np.zeros((width, 5), np.uint32)
        words[: len(ints)] = ints[:, 2:]
        return self._table(ints[:, :2], width, bufs, {1: 1}), words

    @double
    def glide(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> None:
        """Kick and drift."""
        width = power_of_two(len(ints))
        table = self._table(ints, width, bufs, {2: 0})
        x, p = _glide(*self._of(bufs), table, self._floats(floats, width))
        self._store(bufs[:2], [table[:, 2]], [[x], [p]])

    @double
    def finish_leaf(
        self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray, spans: np.ndarray, _none: np.ndarray
    ) -> np.ndarray:
        """Make the second half of leapfrog steps, and the first of the next; return energies and inner products."""
        width = power_of_two(len(ints))
        table, numbers = self._table(ints, width, bufs, {1: 0, 2: 0}), self._floats(floats, width)
        (p, x_on, p_on), found = _finish_leaf(*self._of(bufs), table, numbers, *self._spans(spans, width))
        self._store(bufs[:1], [table[:, 2]], [[x_on]])
        self._store(bufs[1:2], [table[:, 1], table[:, 2]], [[p, p_on]])
        return _parts(np.asarray(found), width, len(ints), 1, len(spans))

    @double
    def products(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> np.ndarray:
        """Return kinetic energies; p M^-1 g and g M^-1 g."""
        width = power_of_two(len(ints))
        found = _products(*self._of(bufs), self._table(ints, width, bufs, {}))
        return _parts(np.asarray(found), width, len(ints), 1, len(ints))

    @double
    def pull(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> None:
        """Compute M (x - centre)."""
        table = self._table(ints, power_of_two(len(ints)), bufs, {1: 3})
        self._store([bufs[3]], [table[:, 1]], [[_pull(*self._of(bufs), table)]])

    @double
    def turn(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> None:
        """Make the first half of exact-normal steps."""
        width = power_of_two(len(ints))
        table = self._table(ints, width, bufs, {2: 0})
        x, p, m = _turn(*self._of(bufs), table, self._floats(floats, width))
        self._store([bufs[0], bufs[1], bufs[3]], [table[:, 2]], [[x], [p], [m]])

    @double
    def finish_turn(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> np.ndarray:
        """Make the second half; return kinetic energies."""
        width = power_of_two(len(ints))
        table = self._table(ints, width, bufs, {2: 1})
        p, kinetic = _finish_turn(*self._of(bufs), table, self._floats(floats, width))
        self._store([bufs[1]], [table[:, 2]], [[p]])
        return np.asarray(kinetic)[: len(ints)]

    @double
    def reach(
        self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray, spans: np.ndarray, _none: np.ndarray
    ) -> np.ndarray:
        """Return inner products of spans of any integrator."""
        width, number = power_of_two(len(ints)), power_of_two(len(spans))
        table = self._table(ints, width, bufs, {})
        of_spans = self._table(spans, number, bufs, {})
        found = _reach(*self._of(bufs), table, self._floats(floats, width), of_spans)
        return np.asarray(found)[: 2 * len(spans)]

    @double
    def fisher_distance(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> np.ndarray:
        """Return distances from the centres."""
        table = self._table(ints, power_of_two(len(ints)), bufs, {})
        return np.asarray(_fisher_distance(*self._of(bufs), table))[: len(ints)]

    @double
    def accumulate(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> None:
        """Take points into estimators; ``bufs`` are four arrays of moments, positions and gradients."""
        width = power_of_two(len(ints))
        table = self._table(ints, width, bufs, {0: 0})
        new = _accumulate([self._arrays[buf] for buf in bufs], table, self._floats(floats, width))
        self._store(bufs[:4], [table[:, 0]], [[part] for part in new])

    @double
    def metric_from_gradient(self, bufs: Sequence[int], ints: np.ndarray, _floats: np.ndarray) -> None:
        """Make diagonal metrics of gradients."""
        table = self._table(ints, power_of_two(len(ints)), bufs, {0: 4})
        new = _diagonal_of_gradient(self._of(bufs)[0], table)
        self._store(bufs[4:7], [table[:, 0]], [[part] for part in new])

    @double
    def fit_fisher_diag(self, bufs: Sequence[int], ints: np.ndarray, floats: np.ndarray) -> None:
        """Make diagonal metrics of moments; ``bufs`` are four arrays of them and three of the metrics."""
        width = power_of_two(len(ints))
        table = self._table(ints, width, bufs, {0: 4})
        new = _fit_fisher_diag([self._arrays[buf] for buf in bufs], table, self._floats(floats, width))
        self._store(bufs[4:7], [table[:, 0]], [[part] for part in new])


@jax.jit
def _rows(array: Any) -> Any:
    return array[:-1]


@jax.jit
def _row(array: Any, row: Any) -> Any:
    return array[row]


def _parts(found: np.ndarray, width: int, lines: int, scalars: int, pairs: int) -> np.ndarray:
    """Leave out what belongs to lines that fill up: after some lists of ``width`` numbers there are pairs."""
    own = [found[i * width : i * width + lines] for i in range(scalars)]
    return np.concatenate([*own, found[scalars * width : scalars * width + 2 * pairs]])
