"""Greedy k-center: again and again the row farthest from all rows picked so far.

Source: Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
https://arxiv.org/abs/1708.00489, algorithm 1; the greedy method is Gonzalez 1985's farthest-first traversal,
whose largest distance from a row to its nearest pick is at most twice the least possible for as many picks.
Distance is Euclidean between the vectors as the model gives them; on vectors of length one it orders pairs as
cosine distance does. Known trait: it seeks outliers, so drop broken rows before.

The paper starts from the rows that are labelled already. Ours: there are none, and the first pick is the row
nearest to the mean; equal distances by id; rows without a vector are dropped and count for nothing.

The result is that of one pick at a time, by fewer readings of the vectors: distances only fall, so a pick
among the farthest rows is right as long as it is farther than every other row was when last measured. Picks
are made among POOL rows until that fails, and then all rows are compared with the new picks by one matrix
product. Which pick is the nearest is found in float32, the distance to it is computed in float64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.selectors.base import Budget, Decisions, Vectors, VectorSelector, choose, id_ranks
from pipelines.selectors.vectors import fastest_device, lengths, one_thread_each

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

POOL = 512  # rows that picks are made among between two comparisons with all rows
BLOCK = 4096  # rows compared with new picks at a time
ROUNDING = 1e-5  # of squared lengths: more than their float32 products are off by


class KCenter(VectorSelector, Budget):
    """The rows that leave no row far from a kept one."""

    name: ClassVar[str] = "k_center"
    source: ClassVar[str] = "greedy k-center, arXiv 1708.00489"

    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Picks until the budget is used up; writes `k_center_rank` and `k_center_distance`.

        - `k_center_rank`: 1 for the first pick; null for rows that are not kept.
        - `k_center_distance`: to the nearest row picked before, or, of a row that is not kept, to the nearest
          kept one; in units of the vectors, from 0 to 2 for vectors of length one; null for the first pick.
        """
        has_vector = vectors.known & np.isfinite(lengths(vectors.rows))
        in_play = has_vector & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        rows = rows[np.argsort(id_ranks(candidates)[rows])]
        cost, budget = self.spending(candidates)
        picked, distance = farthest_first(vectors.rows[rows], cost[rows], budget)

        ranks, distances = np.zeros(candidates.num_rows, np.int64), np.full(candidates.num_rows, np.nan)
        ranks[rows[picked]] = np.arange(1, len(picked) + 1)
        distances[rows] = distance
        keep = ranks > 0
        reason = choose(["k_center: near a kept row", "k_center: far from the rows picked before"], keep)
        reason[rows[picked[:1]]] = "k_center: nearest to the mean"
        reason[~in_play] = "k_center: no token count"
        reason[~has_vector] = "k_center: no vector"
        columns = {
            "k_center_rank": pa.array(ranks, mask=~keep),
            "k_center_distance": pa.array(distances, mask=np.isnan(distances)),
        }
        return Decisions(keep, reason, columns)


@dataclass
class _Picks:
    """Picks so far and what is left to spend.

    `squared` is the squared distance of each row to its nearest pick, infinite before there is one and
    -1 for picks; `at_pick` that of each pick when it was picked.
    """

    squared: Doubles
    cost: Int64s
    left: int
    rows: list[int] = field(default_factory=list)
    at_pick: list[float] = field(default_factory=list)

    def affordable(self, row: int) -> bool:
        """Picks a row, if the budget allows it."""
        if self.cost[row] > self.left:
            return False
        self.left -= int(self.cost[row])
        self.rows.append(row)
        self.at_pick.append(float(self.squared[row]))
        return True


def farthest_first(
    points: Floats, cost: Int64s, budget: int, *, pool_rows: int = POOL
) -> tuple[Int64s, Doubles]:
    """Picks the row nearest to the mean, and then again and again the row farthest from all picks.

    Args:
        points: In the order that breaks ties, float32, shape (n, d).
        cost: What picking each row costs, shape (n,), >= 0.
        budget: How much may be spent; the end is at the first pick that would exceed it.
        pool_rows: Rows that picks are made among between two comparisons with all rows; the result is the
            same for any.

    Returns:
        (picks in order, int64, shape (k,); Euclidean distance of each row, shape (n,): of a pick to the
        nearest pick before, NaN for the first; of another row to the nearest pick, NaN if there is none).

    Example:
        >>> points = np.array([[0], [1], [2], [10]], np.float32)
        >>> picks, distance = farthest_first(points, np.ones(4, np.int64), 3)
        >>> picks.tolist(), distance.tolist()
        ([2, 3, 0], [2.0, 1.0, nan, 8.0])
    """
    import torch

    picks = _Picks(np.full(len(points), np.inf), cost, budget)
    table = torch.from_numpy(np.ascontiguousarray(points)).to(fastest_device())
    with one_thread_each() as pool:
        if len(points) and picks.affordable(_nearest_to_mean(points)):
            new = picks.rows
            while new:
                _come_nearer(picks, table, new, pool)
                new = _pick_among_farthest(picks, points, pool_rows)
    rows = np.array(picks.rows, np.int64)
    squared = np.where(np.isinf(picks.squared), np.nan, picks.squared)
    squared[rows] = [np.nan, *picks.at_pick[1:]][: len(rows)]
    return rows, np.sqrt(squared)


def _nearest_to_mean(points: Floats) -> int:
    mean = points.mean(axis=0, dtype=np.float64)
    starts = range(0, len(points), BLOCK)
    return int(np.concatenate([_squared(points[start : start + BLOCK], mean) for start in starts]).argmin())


def _squared(points: Floats, others: npt.NDArray[np.floating]) -> Doubles:
    """Squared distance of each point to the other, or to the one of the same row, in float64."""
    difference = points.astype(np.float64) - others
    result: Doubles = (difference * difference).sum(axis=1)
    return result


def _come_nearer(picks: _Picks, table: torch.Tensor, new: list[int], pool: ThreadPoolExecutor) -> None:
    """Lowers the squared distances of all rows to what they are with the new picks."""
    centers = table[new]
    half = (centers * centers).sum(dim=1) / 2

    def compare(start: int) -> None:
        rows = table[start : start + BLOCK]
        nearest, least = _least(half - rows @ centers.T)
        length = (rows * rows).sum(dim=1).cpu().numpy()
        squared = picks.squared[start : start + BLOCK]
        slack = ROUNDING * (length + 2 * float(half.max()))
        lower = np.flatnonzero(length + 2 * least <= squared + slack)
        exact = _squared(rows[lower].cpu().numpy(), centers[nearest[lower]].cpu().numpy())
        squared[lower] = np.minimum(squared[lower], exact)

    list(pool.map(compare, range(0, len(table), BLOCK)))
    picks.squared[new] = -1


def _least(product: torch.Tensor) -> tuple[Int64s, Floats]:
    """Where each row is least, and the value there."""
    if product.is_cuda:
        value, where = product.min(dim=1)
        return where.cpu().numpy(), value.cpu().numpy()
    table = product.numpy()
    found = table.argmin(axis=1)  # several times as fast as torch's on CPU
    return found, np.take_along_axis(table, found[:, None], axis=1)[:, 0]


def _pick_among_farthest(picks: _Picks, points: Floats, pool_rows: int) -> list[int]:
    """The next picks, as far as the farthest rows decide them; none once rows or budget end."""
    inside = highest(picks.squared, pool_rows)
    others = picks.squared.copy()
    others[inside] = -np.inf
    rival = int(others.argmax())  # the first of the farthest outside
    squared, vectors = picks.squared[inside], points[inside]
    new: list[int] = []
    while True:
        at = int(squared.argmax())
        row = int(inside[at])
        beaten = squared[at] < others[rival] or (squared[at] == others[rival] and row > rival)
        if squared[at] < 0 or beaten:
            return new
        picks.squared[row] = squared[at]
        if not picks.affordable(row):
            return new
        new.append(row)
        squared = np.where(squared < 0, squared, np.minimum(squared, _squared(vectors, vectors[at])))
        squared[at] = -1


def highest(values: Doubles, count: int) -> Int64s:
    """Indices of the `count` highest values, of equal ones the first, in ascending order of index.

    Example:
        >>> highest(np.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist()
        [1, 2, 3]
    """
    if count >= len(values):
        return np.arange(len(values))
    least = -np.partition(-values, count - 1)[count - 1]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))
