"""From the flat names and numbers of a Stan program to variables of Stan's shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nutpie.models.base import Variable

__all__ = ["BLOCKS", "StanVariable", "declared_variables", "stan_variables"]

#: The blocks whose variables are output, in this order.
BLOCKS = ("parameters", "transformed parameters", "generated quantities")

#: After the name of a variable: indices ``.1``, places in a tuple ``:1``, and parts of complex numbers.
_STEP = re.compile(r"([.:])(\d+|real|imag)")


@dataclass(frozen=True)
class StanVariable:
    """A variable, or one place of the tuples of a variable, such as ``pair:1``.

    Parameters
    ----------
    name
        Its name in the result.
    block
        Index in `BLOCKS`.
    shape
        Shape of one draw.
    columns
        Which number of a flat draw each element is; of ``shape``, and for complex numbers with a further axis of length
        2 for the real and the imaginary part.
    is_complex
        Whether the elements are complex numbers.
    """

    name: str
    block: int
    shape: tuple[int, ...]
    columns: np.ndarray
    is_complex: bool = False

    @property
    def root(self) -> str:
        """Name of the variable in the program."""
        return self.name.partition(":")[0]

    def described(self, dims: Sequence[str] = ()) -> Variable:
        """Describe it for a result."""
        return Variable(self.name, self.shape, np.dtype(np.complex128 if self.is_complex else np.float64), tuple(dims))

    def take(self, values: np.ndarray) -> np.ndarray:
        """Cut it out of flat draws of shape (n, numbers); of shape n followed by its own."""
        flat = self.columns.reshape(-1)
        in_order = flat.size and flat[-1] - flat[0] == flat.size - 1 and (np.diff(flat) == 1).all()
        # A slice is copied faster than single columns.
        taken = values[:, flat[0] : flat[-1] + 1] if in_order else values[:, flat]
        taken = np.ascontiguousarray(taken).reshape(len(values), *self.columns.shape)
        return taken.view(np.complex128)[..., 0] if self.is_complex else taken

    def put(self, value: np.ndarray, flat: np.ndarray) -> None:
        """Write its value into a flat draw."""
        if self.is_complex:
            value = np.stack([value.real, value.imag], axis=-1)
        flat[self.columns] = value


def stan_variables(
    names: Sequence[Sequence[str]], shapes: str | None, declared: Mapping[str, tuple[int, str, int]]
) -> list[StanVariable]:
    """Find the variables of a program.

    Parameters
    ----------
    names
        For each of `BLOCKS` the names of the elements, as BridgeStan gives them: ``x.2.1`` is row 2, column 1.
    shapes
        A line for each variable with block, name and sizes, where the library tells them.
    declared
        What `declared_variables` gives, if anything.

    Returns
    -------
    list of StanVariable
        In the order of the program. Those without elements have no names; they are there if ``shapes`` or ``declared``
        knows them, and with ``declared`` alone all their sizes are taken to be 0.
    """
    found: dict[str, StanVariable] = {}
    column = 0
    for block, elements in enumerate(names):
        for name, (indices, numbers, is_complex) in _grouped(elements, column).items():
            found[name] = _assembled(name, block, indices, numbers, is_complex)
        column += len(elements)
    for name, block, shape, is_complex in [*_told(shapes or "", declared), *_guessed(declared)]:
        if name not in found and 0 in shape:
            columns = np.empty((*shape, 2) if is_complex else shape, dtype=np.intp)
            found[name] = StanVariable(name, block, shape, columns, is_complex)
    order = {name: place for place, (name, *_) in enumerate(_told(shapes or "", declared) or _guessed(declared))}
    # Elements of tuples alternate, so that the order of their names is not that of the places.
    return sorted(found.values(), key=lambda v: (v.block, order.get(v.name, len(order))))


def _grouped(elements: Sequence[str], first: int) -> dict[str, tuple[list[tuple[int, ...]], list[int], bool]]:
    """Sort elements by variable: for each the indices from 0, the columns, and whether it is complex."""
    groups: dict[str, tuple[list[tuple[int, ...]], list[int], bool]] = {}
    for column, element in enumerate(elements, first):
        name, index, is_complex = _parsed(element)
        indices, columns, _ = groups.setdefault(name, ([], [], is_complex))
        indices.append(index)
        columns.append(column)
    return groups


def _parsed(element: str) -> tuple[str, tuple[int, ...], bool]:
    """Split ``at.2:1.3.imag`` into the name ``at:1``, the index (1, 2, 1) and that it is complex."""
    name = re.split(r"[.:]", element, maxsplit=1)[0]
    index: list[int] = []
    is_complex = False
    for kind, what in _STEP.findall(element[len(name) :]):
        if what in ("real", "imag"):
            is_complex = True
            index.append(int(what == "imag"))
        elif kind == ":":
            name += f":{what}"
        else:
            index.append(int(what) - 1)
    return name, tuple(index), is_complex


def _assembled(
    name: str, block: int, indices: Sequence[tuple[int, ...]], columns: Sequence[int], is_complex: bool
) -> StanVariable:
    places = np.array(indices, dtype=np.intp).reshape(len(indices), -1)
    shape = tuple(int(n) for n in places.max(axis=0) + 1) if places.shape[1] else ()
    assert math.prod(shape) == len(columns), name
    table = np.empty(shape, dtype=np.intp)
    table[tuple(places.T)] = columns if shape else columns[0]
    return StanVariable(name, block, shape[:-1] if is_complex else shape, table, is_complex)


def _told(shapes: str, declared: Mapping[str, tuple[int, str, int]]) -> list[tuple[str, int, tuple[int, ...], bool]]:
    """Name, block, shape and whether complex, from the lines of a library."""
    told = []
    for block, dotted, *sizes in (line.split() for line in shapes.splitlines()):
        name = dotted.replace(".", ":")
        shape = tuple(map(int, sizes))
        _, kind, ndim = declared.get(name, (0, "", -1))
        # The library has complex numbers as pairs of real ones.
        is_complex = kind == "complex" and len(shape) == ndim + 1
        told.append((name, int(block), shape[:-1] if is_complex else shape, is_complex))
    return told


def _guessed(declared: Mapping[str, tuple[int, str, int]]) -> list[tuple[str, int, tuple[int, ...], bool]]:
    return [(name, block, (0,) * ndim, kind == "complex") for name, (block, kind, ndim) in declared.items()]


def declared_variables(info: Mapping[str, Any] | None) -> dict[str, tuple[int, str, int]]:
    """Block, type and number of dimensions by name, from what ``stanc --info`` says of a program."""
    found = {}
    for block, title in enumerate(BLOCKS):
        for name, declaration in (info or {}).get(title, {}).items():
            for place, kind, ndim in _places(name, declaration, 0):
                found[place] = (block, kind, ndim)
    return found


def _places(name: str, declaration: Mapping[str, Any], outer: int) -> Iterator[tuple[str, str, int]]:
    kind, ndim = declaration["type"], outer + declaration["dimensions"]
    if isinstance(kind, str):
        yield name, kind, ndim
        return
    for place, inner in enumerate(kind, 1):
        yield from _places(f"{name}:{place}", inner, ndim)
