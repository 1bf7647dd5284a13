"""Pieces of log densities for numba, each with its derivatives."""

import math

from numba import njit


@njit(error_model="numpy")
def scale_prior(log_scale, df, width):
    """Half-Student prior on a scale, on the log scale with its Jacobian: value and derivative.

    `df` is infinite for a half-normal and zero for a flat prior.
    """
    if df == 0.0:
        return log_scale, 1.0
    square = math.exp(2.0 * log_scale) / (width * width)
    if math.isinf(df):
        return log_scale - 0.5 * square, 1.0 - square
    return log_scale - 0.5 * (df + 1.0) * math.log1p(square / df), 1.0 - (df + 1.0) * square / (df + square)


@njit(error_model="numpy")
def log_sigmoid(x):
    """log(1 / (1 + exp(-x))) and 1 / (1 + exp(-x)), without overflow."""
    tail = math.exp(-abs(x))
    return min(x, 0.0) - math.log1p(tail), (1.0 if x > 0 else tail) / (1.0 + tail)


@njit(error_model="numpy")
def sigmoid_and_factor(x):
    """1 / (1 + exp(-x)) and 1 + exp(-|x|): log(1 + exp(x)) is max(x, 0) plus the logarithm of the latter.

    A sum of many such logarithms is faster as that of a product, of up to a thousand factors.
    """
    tail = math.exp(-abs(x))
    return (1.0 if x > 0 else tail) / (1.0 + tail), 1.0 + tail
