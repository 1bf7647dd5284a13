"""Where variables lie in the vector of unconstrained parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Block", "layout_of", "split_point"]


@dataclass(frozen=True)
class Block:
    """Where a free variable lies in the vector of unconstrained parameters."""

    name: str
    value_name: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def parameter_names(self) -> list[str]:
        """``x`` for a scalar, ``x_0_1`` for an element of an array."""
        return ["_".join([self.value_name, *map(str, index)]) for index in np.ndindex(self.shape)]


def layout_of(names: Sequence[str], value_names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Block]:
    """Place variables one after the other, given the shapes of their unconstrained values."""
    blocks: list[Block] = []
    for name, value_name, shape in zip(names, value_names, shapes, strict=True):
        blocks.append(Block(name, value_name, tuple(shape), blocks[-1].stop if blocks else 0))
    return blocks


def split_point(point: Any, blocks: Sequence[Block]) -> list[Any]:
    """Cut out the unconstrained value of each variable at a point of shape (n_dim,), or at a tuple of its parts."""
    parts = point if isinstance(point, tuple) else [point[block.start : block.stop] for block in blocks]
    return [part.reshape(block.shape) for part, block in zip(parts, blocks, strict=True)]
