"""Data for a Stan program: checks against its data block, and the JSON that Stan reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nutpie.models._names import unknown_name

__all__ = ["as_arrays", "checked_data", "explain_refusal", "read_json", "to_json"]

_KINDS = {"int": "whole numbers", "real": "real numbers", "complex": "complex numbers"}
_ONE = {"int": "a whole number", "real": "a real number", "complex": "a complex number"}


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read data from a JSON file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it holds something else than names and values.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of data {file}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"the file {file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"the file {file} holds {type(found).__name__}, names with values are needed")
    return found


def checked_data(given: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    """Bring data to arrays of whole, real or complex numbers, and tuples of these.

    Parameters
    ----------
    given
        By name: numbers, lists, arrays, series and tables of pandas, tuples.
    wanted
        Types and numbers of dimensions by name, as ``stanc --info`` gives them; None if they are not known.

    Raises
    ------
    ValueError
        For names that the data block does not have, values that are missing or NaN, and values of another type or
        rank than it wants; the message names the variable.
    """
    found = {}
    for name, value in given.items():
        if wanted is not None and name not in wanted:
            raise ValueError(unknown_name(name, wanted, "variable in the data block named"))
        found[name] = _checked(name, value, None if wanted is None else wanted[name])
    missing = [f"{name!r} ({_described(what)})" for name, what in (wanted or {}).items() if name not in given]
    if missing:
        raise ValueError(f"the data block wants {', '.join(missing)}, which the data lack")
    return found


def _described(wanted: Mapping[str, Any]) -> str:
    """Say in words what the data block wants."""
    kind, ndim = wanted["type"], wanted["dimensions"]
    if not isinstance(kind, str):
        one = f"a tuple of {', '.join(_described(place) for place in kind)}"
        return one if not ndim else f"an array with {_dimensions(ndim)} of {one}"
    return _ONE[kind] if not ndim else f"{_KINDS[kind]} with {_dimensions(ndim)}"


def _dimensions(ndim: int) -> str:
    return f"{ndim} dimension{'s' if ndim > 1 else ''}"


def _checked(name: str, value: Any, wanted: Mapping[str, Any] | None) -> Any:
    if wanted is None:
        if isinstance(value, tuple | dict):
            places = value.values() if isinstance(value, dict) else value
            return tuple(_checked(f"{name}:{i}", place, None) for i, place in enumerate(places, 1))
        return _Wanted(name, "numbers").checked(value)
    kind, what = wanted["type"], _described(wanted)
    if not isinstance(kind, str):
        return _checked_tuples(name, value, kind, wanted["dimensions"], what)
    return _Wanted(name, what, kind, wanted["dimensions"]).checked(value)


def _checked_tuples(name: str, value: Any, places: list[Mapping[str, Any]], ndim: int, what: str) -> Any:
    refusal = ValueError(f"the data block wants for {name!r} {what}, not {_short(value)}")
    if ndim:
        if not isinstance(value, list | tuple | np.ndarray):
            raise refusal
        return [_checked_tuples(name, item, places, ndim - 1, what) for item in value]
    items = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple) or len(items) != len(places):
        raise refusal
    pairs = enumerate(zip(items, places, strict=True), 1)
    return tuple(_checked(f"{name}:{i}", item, place) for i, (item, place) in pairs)


@dataclass(frozen=True)
class _Wanted:
    """What the data block wants for a variable that is not a tuple; type and rank are None where they are not known."""

    name: str
    what: str
    kind: str | None = None
    ndim: int | None = None

    def checked(self, value: Any) -> np.ndarray:
        array = self._array(value)
        if self.kind == "complex" and self._is_pairs(array):
            array = array[..., 0] + 1j * array[..., 1]
        if array.size == 0 and self.ndim is not None and array.ndim < self.ndim:
            array = array.reshape((0,) * self.ndim)  # an empty list says nothing of further dimensions
        if self.ndim is not None and array.ndim != self.ndim:
            raise self._refusal(f"not a value of shape {array.shape}")
        if array.dtype.kind not in "iufc" or (array.dtype.kind == "c" and self.kind not in (None, "complex")):
            raise self._refusal(f"not {_short(value)}")
        self._refuse(array, np.isnan(array), "the value is NaN{place}: Stan has no missing values")
        if self.kind == "int":
            return self._whole(array)
        return array.astype(np.complex128) if self.kind == "complex" else array

    def _is_pairs(self, array: np.ndarray) -> bool:
        """Whether complex numbers are given as in JSON, as real and imaginary part."""
        assert self.ndim is not None
        return array.dtype.kind in "iuf" and array.ndim == self.ndim + 1 and array.shape[-1] == 2

    def _array(self, value: Any) -> np.ndarray:
        try:
            array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)  # pandas, polars and others
            if array.dtype.kind == "O":
                # Such as integers with missing values, or numbers of the module decimal.
                array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            ragged = "inhomogeneous" in str(error) or "sequence" in str(error)
            raise self._refusal("not rows of different lengths" if ragged else f"not {_short(value)}") from error
        return array.astype(np.int64) if array.dtype.kind == "b" else array

    def _whole(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            self._refuse(array, array != np.floor(array), "the value is {value:g}{place}")
        limit = 2**31
        self._refuse(array, (array < -limit) | (array >= limit), "the value is {value:g}{place}, more than 32 bits")
        return array.astype(np.int64)

    def _refuse(self, array: np.ndarray, bad: np.ndarray, why: str) -> None:
        where = np.argwhere(bad)
        if len(where):
            place = f" at {where[0].tolist()}" if array.ndim else ""
            raise self._refusal(why.format(value=array[tuple(where[0])], place=place))

    def _refusal(self, why: str) -> ValueError:
        return ValueError(f"the data block wants for {self.name!r} {self.what}, {why}")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) < 80 else text[:77] + '...'}"


def to_json(data: Mapping[str, Any]) -> str:
    """Write data that were checked as the JSON that Stan reads."""
    return json.dumps({name: _plain(value) for name, value in data.items()}, allow_nan=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return {str(place): _plain(item) for place, item in enumerate(value, 1)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value.dtype.kind == "c":
        return np.stack([value.real, value.imag], axis=-1).tolist()
    return value.tolist()


def as_arrays(data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the data that are arrays, by name."""
    return {name: value for name, value in data.items() if isinstance(value, np.ndarray)}


def explain_refusal(message: str, data: Mapping[str, Any]) -> str:
    """Say in other words what Stan says when it does not take data, where its words are known."""
    message = re.sub(r"^Exception: |\w+_namespace::\w+: ", "", message)
    name = _find(r"variable name=(\w[\w.:]*)", message)
    if name and "in context" not in message and "does not exist" not in message:
        kind = _find(r"base type=(\w+)", message)
        return f"the data block wants for {name!r} {_KINDS.get(str(kind), 'numbers')}"
    if name and name.partition(".")[0] not in data:
        return f"the data block wants {name!r}, which the data lack"
    declared, found = (_find(rf"dims {which}=\(([\d,]*)\)", message) for which in ("declared", "found"))
    if name and declared is not None and found is not None:
        is_complex = np.iscomplexobj(data[name.partition(".")[0]])
        shapes = [_shape(sizes, without_last=is_complex) for sizes in (declared, found)]
        return f"the data block wants for {name!r} a value of shape {shapes[0]}, not {shapes[1]}"
    return f"Stan does not take the data: {message}"


def _find(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.S)
    return match[1] if match else None


def _shape(sizes: str, *, without_last: bool) -> str:
    numbers = [n for n in sizes.split(",") if n]
    # Stan has a complex number as two real ones.
    numbers = numbers[:-1] if without_last else numbers
    return f"({', '.join(numbers)}{',' if len(numbers) == 1 else ''})"
