"""Q-Tuning's plane of error and uncertainty: which rows lie in which corner. The formulas: q_tuning.py.

Functions of batches take arrays of shape (..., n), the rows of a batch along the last axis.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Partition = Literal["dead_zone", "single_cut"]

MAX_ALPHA = 0.49  # below one half Q2 and Q4 cannot meet
MAX_ITERATIONS = 10
STOP_WITHIN = 0.01  # of the fraction asked for


def entry_levels(loss: Floats, entropy: Floats) -> Floats:
    """The alpha at which each row enters Q2 or Q4: small = far out in a kept corner, taken first.

    With u, v the ranks of loss and entropy in [0, 1], it is min(max(1 - u, v), max(u, 1 - v)); the
    first term is that of Q2, the second that of Q4. Equal values share their lowest rank.

    Args:
        loss: Mean negative log-likelihood of the response, nats per token, shape (..., n), finite.
        entropy: Mean entropy at the response tokens, nats, shape (..., n), finite.

    Returns:
        Levels in [0, 1], shape (..., n). A row is in Q2 or Q4 at alpha < 0.5 when its level is below alpha.

    Example:
        >>> entry_levels(np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.2, 0.1])).tolist()
        [0.0, 0.5, 0.0]
    """
    top = max(loss.shape[-1] - 1, 1)
    u, v = _min_ranks(loss), _min_ranks(entropy)  # integers, so that equal levels are equal
    levels: Floats = np.minimum(np.maximum(top - u, v), np.maximum(u, top - v)) / top
    return levels


def _min_ranks(values: Floats) -> Ints:
    """0-based rank of each value in its batch; equal values share the lowest of their ranks."""
    order = np.argsort(values, axis=-1)  # need not be stable: equal values get the same rank
    ordered = np.take_along_axis(values, order, -1)
    is_first = np.ones(values.shape, np.bool_)
    is_first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ranks = np.empty(values.shape, np.int64)
    places = np.where(is_first, np.arange(values.shape[-1]), 0)
    np.put_along_axis(ranks, order, np.maximum.accumulate(places, axis=-1), -1)
    return ranks


def error_minus_uncertainty(loss: Floats, entropy: Floats) -> Floats:
    """Perplexity minus entropy, each scaled to [0, 1] over its batch, shape (..., n), range [-1, 1].

    Its size says how far out a row of the dead zone lies (the paper's supp), its sign on which side:
    positive is like Q2, negative like Q4. A column with one value only counts as 0.
    """
    highest = loss.max(axis=-1, initial=0.0, keepdims=True)
    gap: Floats = _min_max(np.exp(loss - highest)) - _min_max(entropy)  # a common factor; no overflow
    return gap


def _min_max(values: Floats) -> Floats:
    low = values.min(axis=-1, initial=np.inf, keepdims=True)
    width = values.max(axis=-1, initial=-np.inf, keepdims=True) - low
    scaled: Floats = np.where(width > 0, (values - low) / np.where(width > 0, width, 1.0), 0.0)
    return scaled


def threshold_masks(
    loss: Floats, entropy: Floats, alpha: float | Floats, partition: Partition = "dead_zone"
) -> tuple[Bools, Bools]:
    """Rows in Q2 and rows in Q4 at a level, exactly as the paper writes it, each bool, shape (..., n).

    Args:
        loss: Shape (..., n); only its order counts.
        entropy: Shape (..., n); only its order counts.
        alpha: Level in [0, 0.5), one for each batch: shape (...).
        partition: With "single_cut" each axis has one threshold, at the quantile 1 - alpha, and no dead zone.
    """
    ordered = np.sort(loss, axis=-1), np.sort(entropy, axis=-1)
    return _masks(loss, entropy, ordered, np.asarray(alpha, np.float64), partition)


def _masks(
    loss: Floats, entropy: Floats, ordered: tuple[Floats, Floats], alpha: Floats, partition: Partition
) -> tuple[Bools, Bools]:
    high_loss, high_entropy = (_quantiles(values, 1 - alpha) for values in ordered)
    low_loss, low_entropy = high_loss, high_entropy
    if partition == "dead_zone":
        low_loss, low_entropy = (_quantiles(values, alpha) for values in ordered)
    in_q2 = (loss > high_loss) & (entropy <= low_entropy)
    in_q4 = (loss <= low_loss) & (entropy > high_entropy)
    return in_q2, in_q4


def _quantiles(ordered: Floats, q: Floats) -> Floats:
    """Quantiles of sorted rows by linear interpolation, shape (..., 1); of no values, 0."""
    last = ordered.shape[-1] - 1
    if last < 0:
        return np.zeros((*ordered.shape[:-1], 1))
    place = np.asarray(q * last)[..., np.newaxis]
    below = np.floor(place).astype(np.intp)
    low, high = (np.take_along_axis(ordered, np.minimum(at, last), -1) for at in (below, below + 1))
    values: Floats = low + (high - low) * (place - below)
    return values


def bisection_levels(
    loss: Floats, entropy: Floats, keep: float, total: int, partition: Partition = "dead_zone"
) -> list[Floats]:
    """The levels that the paper's bisection tries, each of shape (...); the last one is its answer.

    Args:
        loss: Shape (..., n).
        entropy: Shape (..., n).
        keep: Fraction to keep, of `total`.
        total: Number of rows that the fraction refers to, at least n.
        partition: As in `threshold_masks`.
    """
    ordered = np.sort(loss, axis=-1), np.sort(entropy, axis=-1)
    low, high = np.zeros(loss.shape[:-1]), np.full(loss.shape[:-1], MAX_ALPHA)
    found = np.zeros(loss.shape[:-1], np.bool_)
    tried: list[Floats] = []
    for _ in range(MAX_ITERATIONS):
        alpha = np.where(found, tried[-1], (low + high) / 2) if tried else (low + high) / 2
        tried.append(alpha)
        in_q2, in_q4 = _masks(loss, entropy, ordered, alpha, partition)
        fraction = (in_q2 | in_q4).sum(axis=-1) / max(total, 1)
        found |= np.abs(fraction - keep) < STOP_WITHIN
        if found.all():
            break
        low = np.where(fraction < keep, alpha, low)
        high = np.where(fraction < keep, high, alpha)
    return tried


def is_above_median(values: Floats) -> Bools:
    """Rows ranked above the middle of their batch; equal values share the lowest of their ranks."""
    middle = (values.shape[-1] - 1) // 2
    if middle < 0:
        return np.zeros(values.shape, np.bool_)
    above: Bools = values > np.partition(values, middle, axis=-1)[..., middle : middle + 1]
    return above
