"""Q-Tuning's choice of tokens: which of a row's response tokens are pruned. The formulas: q_tuning.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NeighborPad = Literal["zero", "one", "self"]

_MISSING: dict[NeighborPad, tuple[float, float]] = {"zero": (0.0, 0.0), "one": (1.0, 1.0)}
MAX_TOKEN_NLL = 50.0  # exp(50) is 5e21: nothing sensible is above it, and sums of three stay finite


def token_scores(nll: npt.NDArray[np.floating], smoothing: float, neighbor_pad: NeighborPad) -> Floats:
    """Score of each response token: high means surprising together with its neighbours; pruned first.

    s_i = (1 - smoothing) PPL_i + smoothing (PPL_{i-1} + PPL_{i+1})

    Args:
        nll: Negative log-likelihood of each token, nats, shape (t,).
        smoothing: Weight of the neighbours (the paper's lambda), 0 to 1.
        neighbor_pad: Perplexity of a neighbour that does not exist: 0, 1, or that of the token itself.

    Returns:
        Shape (t,), >= 0.

    Example:
        >>> token_scores(np.log([1.0, 9.0, 1.0]), 0.5, "zero").round(6).tolist()
        [5.0, 5.5, 5.0]
    """
    padded = np.empty(len(nll) + 2)
    perplexity = np.exp(np.minimum(nll, MAX_TOKEN_NLL, dtype=np.float64), out=padded[1:-1])
    padded[0], padded[-1] = (padded[1], padded[-2]) if neighbor_pad == "self" else _MISSING[neighbor_pad]
    values: Floats = (1 - smoothing) * perplexity + smoothing * (padded[:-2] + padded[2:])
    return values


def keep_lowest(values: Floats, fraction: float) -> Bools:
    """Mask that keeps the lowest max(1, floor(fraction * t)) of t scores, of equal ones the later."""
    kept = max(1, math.floor(fraction * len(values) + 1e-9))  # 1e-9: 0.29 * 100 means 29
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[(-values).argsort(kind="stable")[max(len(values) - kept, 0) :]] = True
    return mask


def tokens_to_drop(attended: int, lost: int, keep: float, token_keep: float) -> int:
    """Tokens left to prune in a batch after whole rows were dropped, as the code counts them.

    Args:
        attended: Tokens of all rows of the batch, prompts included.
        lost: Tokens of the rows that were dropped.
        keep: Fraction of rows to keep.
        token_keep: Fraction of tokens to keep in them.

    Example:
        >>> tokens_to_drop(attended=40, lost=20, keep=0.5, token_keep=0.5)
        10
    """
    return max(0, attended - round(attended * keep * token_keep) - lost)


def drop_highest(rows: Callable[[], Iterable[tuple[int, Floats]]], drop: int) -> Iterator[tuple[int, Bools]]:
    """Masks that drop the `drop` highest scores of all rows together; all of them if there are fewer.

    Args:
        rows: Gives, each time it is called, (row, finite scores of its tokens). Of equal scores the
            earlier row and position are dropped first.
        drop: Number of tokens to drop.
    """
    cut, at_cut = _nth_highest(rows, drop) if drop else (np.inf, 0)
    for row, values in rows():
        equal = np.flatnonzero(values == cut)[:at_cut]
        at_cut -= len(equal)
        mask = values <= cut
        mask[equal] = False
        yield row, mask


def _nth_highest(rows: Callable[[], Iterable[tuple[int, Floats]]], n: int) -> tuple[float, int]:
    """The n-th highest score (-inf if there are fewer), and how many scores equal to it are among the n.

    A radix selection over the bits, sixteen at a time, in a form that orders as the numbers do. Memory is one
    histogram, whatever the number of tokens.
    """
    prefix, left = 0, n
    for shift in (48, 32, 16, 0):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for _, values in rows():
            bits = _ordered_bits(values) >> np.uint64(shift)
            digits = bits[bits >> np.uint64(16) == prefix] & np.uint64(0xFFFF)
            np.add.at(histogram, digits.astype(np.intp), 1)
        at_or_above = np.cumsum(histogram[::-1])
        if at_or_above[-1] < left:
            return -np.inf, 0
        place = int(np.searchsorted(at_or_above, left))
        digit = len(histogram) - 1 - place
        left -= int(at_or_above[place] - histogram[digit])
        prefix = prefix << 16 | digit
    highest = prefix ^ _SIGN if prefix & _SIGN else prefix ^ _ALL
    return float(np.array([highest], dtype=np.uint64).view(np.float64)[0]), left


_SIGN, _ALL = 1 << 63, (1 << 64) - 1


def _ordered_bits(values: Floats) -> npt.NDArray[np.uint64]:
    """Unsigned integers in the order of the numbers: a negative float's bits all turned, others' sign."""
    bits = (values + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
    return np.where(bits & np.uint64(_SIGN), bits ^ np.uint64(_ALL), bits ^ np.uint64(_SIGN))
