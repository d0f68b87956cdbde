"""Q-Tuning's choice of tokens: which of a row's response tokens are pruned. The formulas: q_tuning.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipelines.selectors.tokens import TokenLists

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
NeighborPad = Literal["zero", "one", "self"]

_MISSING: dict[NeighborPad, float] = {"zero": 0.0, "one": 1.0}
MAX_TOKEN_NLL = 50.0  # exp(50) is 5e21: nothing sensible is above it, and sums of three stay finite


def token_scores(
    nll: npt.NDArray[np.floating], offsets: Ints, smoothing: float, neighbor_pad: NeighborPad
) -> Floats:
    """Score of each response token: high means surprising together with its neighbours; pruned first.

    s_i = (1 - smoothing) PPL_i + smoothing (PPL_{i-1} + PPL_{i+1})

    Args:
        nll: Negative log-likelihood of each token, nats, row after row, shape (t,).
        offsets: Where the tokens of each row begin, and where the last ones end, shape (rows + 1,).
        smoothing: Weight of the neighbours (the paper's lambda), 0 to 1.
        neighbor_pad: Perplexity of a neighbour that does not exist: 0, 1, or that of the token itself.

    Returns:
        Shape (t,), >= 0.

    Example:
        >>> token_scores(np.log([1.0, 9.0, 1.0]), np.array([0, 3]), 0.5, "zero").round(6).tolist()
        [5.0, 5.5, 5.0]
    """
    perplexity: Floats = np.exp(np.minimum(nll, MAX_TOKEN_NLL, dtype=np.float64))
    if not len(perplexity):
        return perplexity
    before, after = np.roll(perplexity, 1), np.roll(perplexity, -1)
    starts, stops = offsets[:-1], offsets[1:]
    filled = stops > starts
    first, last = starts[filled], stops[filled] - 1
    missing = _MISSING.get(neighbor_pad)
    before[first] = perplexity[first] if missing is None else missing
    after[last] = perplexity[last] if missing is None else missing
    values: Floats = (1 - smoothing) * perplexity + smoothing * (before + after)
    return values


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


def drop_highest(blocks: Callable[[], Iterable[TokenLists]], drop: int) -> Iterator[TokenLists]:
    """Masks that drop the `drop` highest scores of all rows together; all of them if there are fewer.

    Args:
        blocks: Gives, each time it is called, the finite scores of tokens. Of equal scores the earlier row
            and position are dropped first.
        drop: Number of tokens to drop.
    """
    cut, at_cut = _nth_highest(blocks, drop) if drop else (np.inf, 0)
    for block in blocks():
        equal = np.flatnonzero(block.values == cut)[:at_cut]
        at_cut -= len(equal)
        mask = block.values <= cut
        mask[equal] = False
        yield TokenLists(block.rows, block.offsets, mask)


def _nth_highest(blocks: Callable[[], Iterable[TokenLists]], n: int) -> tuple[float, int]:
    """The n-th highest score (-inf if there are fewer), and how many scores equal to it are among the n.

    A radix selection over the bits, sixteen at a time, in a form that orders as the numbers do. Memory is one
    histogram, whatever the number of tokens.
    """
    prefix, left = 0, n
    for shift in (48, 32, 16, 0):
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for block in blocks():
            bits = _ordered_bits(block.values) >> np.uint64(shift)
            digits = bits[bits >> np.uint64(16) == prefix] & np.uint64(0xFFFF)
            histogram += np.bincount(digits.astype(np.intp), minlength=len(histogram))
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
