"""Differences between two arms with bootstrap intervals, over the held-out prompts and over the seeds.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993): percentile intervals of paired
differences. Rows and seeds are crossed: every model is measured on every row. Each of 10,000 draws takes
prompts with replacement, rival rows of one prompt together, and, apart from that, seeds with replacement;
both arms get the same draw.

    difference = Σ_rows (loss_a - loss_b) / Σ_rows tokens,   mean over the seeds

Percentiles of the few means that three seeds allow are far too narrow. The deviation of a draw's seeds is
therefore widened by sqrt(k / (k - 1)) t(k - 1) / z, which makes the 95 % interval of a mean of k normal
numbers about as wide as Student's: the expanded percentile interval of Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 69 (2015), https://arxiv.org/abs/1411.5279. With
a single seed nothing is known of how much seeds matter, and the interval says so by covering rows only.

Ours: the expansion on the seeds alone, because there are hundreds of prompts. Intervals of several baselines
are not widened for their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

DRAWS = 10_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 500

Floats = npt.NDArray[np.float64]
Verdict = Literal["helps", "does not help", "cannot tell"]


@dataclass(frozen=True)
class Difference:
    """A difference between two arms, the first less the second.

    Attributes:
        value: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def verdict(self, better: Literal["lower", "higher"]) -> Verdict:
        """What the interval says of the first arm: it does not help where the second is surely better."""
        gain = (-self.high, -self.low) if better == "lower" else (self.low, self.high)
        if gain[0] > 0:
            return "helps"
        return "does not help" if gain[1] < 0 else "cannot tell"


def difference(
    first: Floats, second: Floats, counts: Floats, units: npt.NDArray[np.int64], draws: int = DRAWS
) -> Difference:
    """The paired difference of two arms.

    Args:
        first: Sum of each row's losses (or right answers) for each seed, shape (seeds, rows).
        second: The same of the other arm; seed i of the two arms is one pair.
        counts: Tokens (or answers) of each row, above 0 for at least one, shape (rows,).
        units: Number of each row's prompt; rows of one prompt are drawn together, shape (rows,).
        draws: Of the bootstrap.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if first.shape != second.shape or first.shape[1:] != counts.shape or counts.shape != units.shape:
        raise ValueError(
            f"arms of shapes {first.shape} and {second.shape}, {counts.shape} counts: not the same rows"
        )
    by_unit = np.array([np.bincount(units, row) for row in first - second], np.float64)  # (seeds, units)
    total = np.asarray(np.bincount(units, counts), np.float64)
    per_seed = by_unit.sum(axis=1) / total.sum()
    drawn = _draws(by_unit, total, draws)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Difference(float(per_seed.mean()), float(low), float(high))


def _draws(by_unit: Floats, total: Floats, draws: int) -> Floats:
    """The difference in each draw of units and seeds, shape (draws,)."""
    random = np.random.default_rng(0)
    seeds, units = by_unit.shape
    parts = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        times = random.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)
        values = (times @ by_unit.T) / np.maximum(times @ total, 1e-12)[:, None]  # (draws, seeds)
        mean = values.mean(axis=1)
        chosen = random.integers(0, seeds, size=(size, seeds))
        deviation = np.take_along_axis(values, chosen, axis=1).mean(axis=1) - mean
        parts.append(mean + expansion(seeds) * deviation)
    return np.concatenate(parts)


def expansion(seeds: int) -> float:
    """By how much the deviation of a draw of seeds is widened; 0 for a single seed, which has none."""
    if seeds < 2:
        return 0.0
    upper = 1 - (1 - LEVEL) / 2
    student = stats.t.ppf(upper, seeds - 1) / stats.norm.ppf(upper)
    return float(np.sqrt(seeds / (seeds - 1)) * student)
