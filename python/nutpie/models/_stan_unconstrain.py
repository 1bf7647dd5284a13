"""Unconstrained points of Stan programs from values of their parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nutpie import _lib
from nutpie.models._names import unknown_name
from nutpie.models._stan_variables import BLOCKS, StanVariable
from nutpie.models._values import value_of_shape

__all__ = ["Unconstrain"]

#: Rounds in which values settle that depend on each other through bounds. Each settles at least one parameter.
ROUNDS = 60

#: How often the way is halved in a round.
MAX_HALVINGS = 12

#: How near the parameters have to come to their values, relative to their size and to 1.
TOLERANCE = 1e-6


class Unconstrain:
    """Replaces a part of an unconstrained point by values of parameters.

    Stan can only bring all parameters at once to the unconstrained scale. So the present values of the others are given
    along with the new ones, and afterwards the others get their old unconstrained coordinates back. Where the bounds of
    one parameter are another, that may shift one of those given, and needs another round; and the present value of one
    that is not given may be out of its new bounds, in which case the given ones go a part of the way first.

    Parameters
    ----------
    model
        The model.
    variables
        All variables of the program.
    unconstrained_names
        Names of the unconstrained parameters.
    """

    def __init__(
        self, model: _lib.StanModel, variables: Sequence[StanVariable], unconstrained_names: Sequence[str]
    ) -> None:
        self._model = model
        self._variables = variables
        self._parameters = {v.name: v for v in variables if v.block == 0}
        self._coordinates = np.array([re.split(r"[.:]", name)[0] for name in unconstrained_names], dtype=object)

    def __call__(self, values: Mapping[str, Any], base: np.ndarray) -> np.ndarray:
        """Return a new point."""
        given = {name: value for name, value in self._checked(values).items() if value.size}
        point, refusal = self._reach(given, base)
        if refusal:
            raise ValueError(self._explained(given, base, refusal))
        return point

    def _reach(self, given: Mapping[str, np.ndarray], base: np.ndarray) -> tuple[np.ndarray, str]:
        """Return the point, and what Stan says against the values if it does not take them."""
        roots = {self._parameters[name].root for name in given}
        moved = np.array([name in roots for name in self._coordinates], dtype=bool)
        point, refusal = base.copy(), ""
        for _ in range(ROUNDS if given else 0):
            current = self._constrain(point)
            target = current.copy()
            for name, value in given.items():
                self._parameters[name].put(value, target)
            found, step, refusal = self._towards(target, current)
            if found is None:
                break
            found = np.where(moved, found, base)
            if step == 1.0:
                if np.allclose(self._constrain(found), target, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                    return found, ""
                point = found
            else:
                point = self._further(point, found, step, given)
        return point, refusal or ("Stan gives other values back" if given else "")

    def _towards(self, target: np.ndarray, current: np.ndarray) -> tuple[np.ndarray | None, float, str]:
        """Return a point whose values are as near to ``target`` as Stan takes, the part of the way, and why not all."""
        refusal = ""
        for step in 0.5 ** np.arange(MAX_HALVINGS):
            try:
                found = self._model.unconstrain(current + step * (target - current))
            except (ValueError, RuntimeError) as error:
                refusal = refusal or str(error)
                continue
            finite = np.isfinite(found)
            if finite.all():
                return found, float(step), refusal
            refusal = refusal or f"it lies on the boundary, where {self._coordinates[~finite][0]!r} is infinite"
        return None, 0.0, refusal

    def _further(
        self, point: np.ndarray, found: np.ndarray, step: float, given: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Go on from a short step in the same direction of the unconstrained scale, as long as it comes nearer.

        There every point is allowed, and the values of other parameters move along with their bounds.
        """
        best, distance = found, self._distance(found, given)
        for factor in 2.0 ** np.arange(1, 1 - np.log2(step)):
            longer = point + factor * (found - point)
            if not self._distance(longer, given) < distance:
                break
            best, distance = longer, self._distance(longer, given)
        return best

    def _distance(self, point: np.ndarray, given: Mapping[str, np.ndarray]) -> float:
        values = self._constrain(point)[None]
        return float(sum(np.abs(self._parameters[name].take(values)[0] - value).sum() for name, value in given.items()))

    def _explained(self, given: Mapping[str, np.ndarray], base: np.ndarray, refusal: str) -> str:
        """Name a parameter whose value Stan does not take alone either; all of them if there is none."""
        names = list(given)
        for name in names if len(names) > 1 else ():
            _, alone = self._reach({name: given[name]}, base)
            if alone:
                names, refusal = [name], alone
                break
        return f"the value of {', '.join(map(repr, names))} is outside its support: {refusal}"

    def _checked(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        checked = {}
        for key, value in values.items():
            name = str(key)
            if name not in self._parameters:
                raise ValueError(self._unknown(name))
            variable = self._parameters[name]
            if variable.is_complex:
                value = np.asarray(value)
                if value.dtype.kind not in "buifc":
                    raise ValueError(f"the value of {name!r} must be complex numbers of shape {variable.shape}")
                parts = [value_of_shape(name, part, variable.shape) for part in (value.real, value.imag)]
                checked[name] = parts[0] + 1j * parts[1]
            else:
                checked[name] = value_of_shape(name, value, variable.shape)
        return checked

    def _unknown(self, name: str) -> str:
        for variable in self._variables:
            if variable.block and name in (variable.name, variable.root):
                return f"{name!r} is one of the {BLOCKS[variable.block]}, which follow from the parameters"
        places = [place for place, variable in self._parameters.items() if variable.root == name]
        if places:
            return f"{name!r} is a tuple: give values of its places {', '.join(map(repr, places))}"
        return unknown_name(name, self._parameters, "parameter")

    def _constrain(self, point: np.ndarray) -> np.ndarray:
        values, messages = self._model.constrain(point[None], False, None, 1)
        if messages:
            raise ValueError(f"Stan cannot compute the parameters at the point given for the rest: {messages[0][0]}")
        found: np.ndarray = values[0]
        return found
