"""DONOD: rows whose gradient shrinks the output layer most while changing it least, ranked by TOPSIS.

Formula: over all rows the criteria DON (to be high) and NOD (to be low) are each divided by the root of
their sum of squares and weighted equally; with A+ the best of each and A- the worst, and D+ and D- a row's
Euclidean distances to them, its closeness is D- / (D+ + D-), from 0 to 1. The highest are kept.

Source: DONOD, arXiv 2504.14810, with TOPSIS of Hwang and Yoon 1981. Defaults: the paper keeps 20 to 30 %.

Ours: the limit of small steps, in which DON is <W,G> and NOD ||G|| up to factors that the normalisation takes
out, so neither the step size nor ||W|| matters (the paper gives no step). A criterion that is 0 everywhere
counts as equal; a row at both ideals at once has closeness 0.5; ties break by id. Known trait: one huge
gradient flattens all others, because vector normalisation and the ideals follow outliers.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.selectors.base import Budget, Decisions, Selector, choose, id_ranks, scores, without_score

Floats = npt.NDArray[np.float64]


class Donod(Selector, Budget):
    """The rows of highest closeness."""

    name: ClassVar[str] = "donod"
    source: ClassVar[str] = "DONOD, arXiv 2504.14810, in the limit of small steps"

    @property
    def reads(self) -> tuple[str, ...]:
        """The two columns of the scorer donod."""
        return ("wg_inner", "g_norm")

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the closest; writes `topsis`, null where a row has no gradient."""
        gain, change = (scores(candidates, column, self.name) for column in self.reads)
        has_score = np.isfinite(gain) & np.isfinite(change)
        in_play = has_score & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        closeness = np.zeros(candidates.num_rows)
        closeness[rows] = topsis(gain[rows], change[rows])
        order = rows[np.lexsort((id_ranks(candidates)[rows], -closeness[rows]))]
        keep = self.keep_first(order, candidates)
        texts = ["donod: closeness below the budget", "donod: among the highest closeness"]
        reason = choose(texts, keep)
        reason[~in_play] = "donod: no token count"
        reason[~has_score] = without_score("donod: no gradient", candidates, ~has_score)
        return Decisions(keep, reason, {"topsis": pa.array(closeness, mask=~in_play)})


def topsis(high: Floats, low: Floats) -> Floats:
    """Closeness of each row to the ideal of one criterion that should be high and one that should be low.

    Args:
        high: Shape (rows,).
        low: Shape (rows,).

    Returns:
        From 0 (the worst of both) to 1 (the best of both), shape (rows,).

    Example:
        >>> don, nod = np.array([0.5, -0.5, -0.003998]), np.array([0.5, 0.5, 0.2])
        >>> topsis(don, nod).round(6).tolist()
        [0.775988, 0.0, 0.532422]
    """
    if not len(high):
        return np.zeros(0)
    # fsum: the same for any order of the rows
    first, second = (0.5 * values / (math.sqrt(math.fsum(values**2)) or 1.0) for values in (high, low))
    to_best = np.hypot(first - first.max(), second - second.min())
    to_worst = np.hypot(first - first.min(), second - second.max())
    total = to_best + to_worst
    return np.where(total > 0, to_worst / np.where(total > 0, total, 1.0), 0.5)
