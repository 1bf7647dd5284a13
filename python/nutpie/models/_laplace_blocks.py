"""How well Laplace's approximation does for single latent variables, where they are independent given the rest.

Then the true density of latent variables given hyper-parameters is a product over blocks, as the approximate one is,
and so is their ratio. The ratio of a block judges it alone, whatever the number of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nutpie.models._laplace_check import pareto_weights

__all__ = ["MOST_JUDGED", "hyper_shifts", "judge_blocks"]

#: Latent variables above which they are not judged one by one: their ratios are as many numbers as their draws.
MOST_JUDGED = 10_000

#: How many blocks are reported, those of the smallest effective number of draws.
REPORTED = 20

#: Numbers that are held at a time.
CHUNK = 1 << 22

DESCRIPTIONS = {
    "latent_pareto_k": "Shape of the tail of the importance weights of a latent variable, or of coupled ones together.",
    "latent_importance_ess": "Effective number of draws after weighting by these, if the draws were independent.",
    "hyper_shift": "Approximate minus true mean of a hyper-parameter, in standard deviations, to first order.",
    "hyper_shift_mcse": "Standard error of that, if the draws were independent.",
}


def judge_blocks(ratios: np.ndarray, blocks: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Find the blocks that are approximated worst.

    Parameters
    ----------
    ratios
        Of shape (chain, draw, n): logarithms of true over approximate density, of which the sum over a block is that of
        the block.
    blocks
        Latent variables of each block, of shape (blocks, largest), filled up with n.
    names
        Of the latent variables.

    Returns
    -------
    dict
        Variables and a coordinate of a dataset, by name, with the largest k first.
    """
    flat = _flat(ratios)
    worth = np.concatenate([_worth(_sums(flat, part)) for part in _chunks(flat, blocks)])
    worst = np.argsort(worth, kind="stable")[:REPORTED]
    shapes = np.array([pareto_weights(values)[1] for values in _sums(flat, blocks[worst]).T])
    order = np.argsort(-shapes, kind="stable")
    worst, shapes = worst[order], shapes[order]
    labels = [", ".join(names[i] for i in block if i < len(names)) for block in blocks[worst]]
    found = {"latent_pareto_k": shapes, "latent_importance_ess": worth[worst]}
    variables: dict[str, Any] = {
        name: (("latent",), value, {"description": DESCRIPTIONS[name]}) for name, value in found.items()
    }
    return variables | {"latent": (("latent",), np.array(labels))}


def hyper_shifts(ratios: np.ndarray, blocks: np.ndarray, hyper: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Estimate how far means of hyper-parameters are off.

    With r_b the ratio of true over approximate density of block b, the true marginal density of hyper-parameters is the
    approximate one times the product of the means of r_b given them. To first order in their distance from 1, the mean
    of a hyper-parameter then is off by minus its covariance with the sum of all r_b.

    Parameters
    ----------
    ratios, blocks
        As of `judge_blocks`.
    hyper
        Draws of the hyper-parameters, of shape (chain, draw, ...).

    Returns
    -------
    dict
        Variables and a coordinate of a dataset, by name, with the largest first.
    """
    flat = _flat(ratios)
    total = np.sum([np.expm1(_sums(flat, part)).sum(axis=1) for part in _chunks(flat, blocks)], axis=0)
    total -= total.mean()
    names, columns = [], []
    for name, values in hyper.items():
        shape = values.shape[2:]
        names += [f"{name}[{', '.join(map(str, at))}]" if shape else name for at in np.ndindex(shape)]
        columns.append(values.reshape(len(flat), -1).astype(np.float64))
    standard = np.concatenate(columns, axis=1)
    standard -= standard.mean(axis=0)
    scale = standard.std(axis=0)
    products = standard / np.where(scale > 0, scale, 1.0) * total[:, None]
    shift, error = -products.mean(axis=0), products.std(axis=0) / np.sqrt(len(flat))
    order = np.argsort(-np.abs(shift), kind="stable")
    found = {"hyper_shift": shift[order], "hyper_shift_mcse": error[order]}
    variables: dict[str, Any] = {
        name: (("hyper",), value, {"description": DESCRIPTIONS[name]}) for name, value in found.items()
    }
    return variables | {"hyper": (("hyper",), np.array(names)[order])}


def _flat(ratios: np.ndarray) -> np.ndarray:
    """Ratios of shape (draws, n + 1), 0 for what fills up blocks."""
    draws = ratios.shape[0] * ratios.shape[1]
    return np.concatenate([ratios.reshape(draws, -1), np.zeros((draws, 1), ratios.dtype)], axis=1)


def _chunks(flat: np.ndarray, blocks: np.ndarray) -> list[np.ndarray]:
    step = max(1, CHUNK // (len(flat) * blocks.shape[1]))
    return [blocks[i : i + step] for i in range(0, len(blocks), step)]


def _sums(flat: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Log ratios of shape (draws, blocks)."""
    found: np.ndarray = flat[:, blocks].sum(axis=2, dtype=np.float64)
    return found


def _worth(log_ratios: np.ndarray) -> np.ndarray:
    """Effective numbers of weighted draws of each column."""
    weights = np.exp(log_ratios - log_ratios.max(axis=0))
    found: np.ndarray = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    return found
