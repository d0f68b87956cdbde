"""Facility location: the rows that are together most like all rows.

A set S is worth f(S) = sum over all rows j of max over i in S of s(i, j), the similarity of each row to the
member of S that it is most like. f is monotone and submodular, so taking the row of the highest gain again
and again reaches at least 1 - 1/e of the best f of as many rows (Nemhauser, Wolsey and Fisher 1978); *lazy*
greedy (Minoux 1978) takes the same rows with few gains computed, as a gain only falls while S grows.

Source: the diversity step of Superfiltering, Li et al. 2024, https://arxiv.org/abs/2402.00530, which keeps
2 % this way out of the best 20 % by IFD (a `top_k` step before this one). Its similarity, that of the
library submodlib, is exp(-D / d), with D the Euclidean distance of vectors of length one and d their
number of dimensions; ours too.

Ours: 1 - s is what is summed up, in float32 and float64 for the sums, because s is near 1 for all pairs; a
cosine within 5e-7 of 1 counts as 1; gains that differ by less than a millionth are equal, and then it
goes by id; rows without a vector are dropped and nothing has to be like them.

Beyond `partition_rows` rows it is GreeDi (Mirzasoleiman et al. 2013, https://arxiv.org/abs/1411.0541) with
parts drawn at random (Barbosa et al. 2015, https://arxiv.org/abs/1502.02606): greedy in each part, then
greedy among what the parts proposed. Ours in that: the second time a proposal counts as often as it has rows
of its part that are most like it, where the papers use all rows or a sample; and where the proposals that fit
into `partition_rows` are less than twice the budget, each part gives its share of the budget and nothing is
merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import Budget, Decisions, Vectors, VectorSelector, choose, id_ranks
from pipelines.selectors.id_order import id_order
from pipelines.selectors.k_center import highest
from pipelines.selectors.vectors import directed, fastest_device, ids_at, one_thread_each, unit_rows

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

POOL = 128  # rows whose distances to all others are held at a time
ROWS = 512  # rows whose first gains are computed at a time
TILE = 4096  # from distances to as many others
SAME = 1e-6  # gains that differ by a smaller part are equal
NO_DISTANCE = 1e-6  # squared distance of vectors of length one that float32 cannot tell from 0


class FacilityLocation(VectorSelector, Budget):
    """The rows that all rows are most like."""

    name: ClassVar[str] = "facility_location"
    source: ClassVar[str] = (
        "facility location as in Superfiltering, arXiv 2402.00530; beyond one part GreeDi, arXiv 1411.0541"
    )

    partition_rows: int = Field(
        default=20_000, ge=2, description="more rows than this are split into parts, which are merged"
    )

    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Picks until the budget is used up; writes three columns.

        - `facility_location_rank`: 1 for the first pick; null for rows that are not kept.
        - `facility_location_gain`: what a pick added to the sum of similarities, 0 or more; null if not kept.
        - `facility_location_nearest`: of a row that is not kept, the id of the kept row that it is most like
          (with parts: within its own, or by way of what its part proposed); null for kept rows, and where
          nothing was kept.
        """
        has_vector = directed(vectors)
        in_play = has_vector & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        rows = rows[np.argsort(id_ranks(candidates)[rows])]
        cost, budget = self.spending(candidates)
        points = unit_rows(vectors.rows, rows)
        if len(rows) <= self.partition_rows:
            found = lazy_greedy(points, cost[rows], budget)
        else:
            ids = candidates.column("id").take(pa.array(rows)).to_pylist()
            parts = random_parts(id_order(ids, seed), self.partition_rows)
            found = greedi(points, cost[rows], budget, parts, self.partition_rows)

        picked = rows[found.picked]
        ranks, gains = np.zeros(candidates.num_rows, np.int64), np.zeros(candidates.num_rows)
        ranks[picked] = np.arange(1, len(picked) + 1)
        gains[picked] = found.gain
        keep = ranks > 0
        nearest = np.full(candidates.num_rows, -1)
        nearest[rows] = np.append(rows, -1)[found.nearest]
        nearest[keep] = -1
        texts = ["facility_location: added less than others", "facility_location: stands for rows like it"]
        reason = choose(texts, keep)
        reason[~in_play] = "facility_location: no token count"
        reason[~has_vector] = "facility_location: no vector"
        columns = {
            "facility_location_rank": pa.array(ranks, mask=~keep),
            "facility_location_gain": pa.array(gains, mask=~keep),
            "facility_location_nearest": ids_at(candidates, nearest),
        }
        return Decisions(keep, reason, columns)


@dataclass(frozen=True)
class Picked:
    """What greedy picked.

    Attributes:
        picked: Rows in the order in which they were picked, int64, shape (k,).
        gain: What each added to the sum of similarities, float64, shape (k,).
        nearest: Of every row the pick that it is most like, int64, shape (n,); -1 without picks.
    """

    picked: Int64s
    gain: Doubles
    nearest: Int64s


def lazy_greedy(
    points: Floats,
    cost: Int64s,
    budget: int,
    *,
    weight: Floats | None = None,
    most: int | None = None,
    pool_rows: int = POOL,
) -> Picked:
    """Picks the row of the highest gain again and again.

    A gain is an upper bound of every later gain of the row. The rows of the highest bounds are a pool, with
    their distances to all rows at hand; picks are made in it as long as its best gain is no lower than every
    bound outside.

    Args:
        points: In the order that breaks ties, each of length one, float32, shape (n, d).
        cost: What picking each row costs, shape (n,), >= 0.
        budget: How much may be spent; the end is at the first pick that would exceed it.
        weight: How often each row counts as one to be covered, shape (n,); once if None.
        most: Most picks, whatever the budget.
        pool_rows: Rows in the pool; the picks are the same for any, but for gains that are equal.

    Example:
        >>> points = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], np.float32)
        >>> lazy_greedy(points, np.ones(4, np.int64), 2).picked.tolist()
        [2, 0]
    """
    import torch

    count = len(points)
    weight = np.ones(count, np.float32) if weight is None else weight
    state = _Greedy(
        cost, budget, count if most is None else most, np.ones(count, np.float32), np.full(count, -1)
    )
    table, counts = (torch.from_numpy(one).to(fastest_device()) for one in (points, weight))
    with one_thread_each() as pool:
        bound = _first_gains(table, counts, pool)
        while not state.ended and bound.max(initial=-np.inf) >= 0:
            inside = highest(bound, pool_rows)
            unlike, gains = _measure(table, inside, counts, state, pool)
            gains[np.isneginf(bound[inside])] = -np.inf  # picked before
            bound[inside] = -np.inf
            bound[inside] = _pick_in_pool(state, inside, unlike, gains, weight, float(bound.max()))
    return Picked(np.array(state.picked, np.int64), np.array(state.gain), state.nearest)


@dataclass
class _Greedy:
    """Picks so far, and how unlike each row is to its nearest pick: 1 - similarity, 1 without a pick."""

    cost: Int64s
    left: int
    most: int
    unlike: Floats
    nearest: Int64s
    picked: list[int] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    ended: bool = False


def _first_gains(table: torch.Tensor, counts: torch.Tensor, pool: ThreadPoolExecutor) -> Doubles:
    """What each row would add as the first pick, shape (n,)."""

    def missing(start: int) -> Doubles:
        rows = table[start : start + ROWS]
        total = np.zeros(len(rows))
        for other in range(0, len(table), TILE):
            part = slice(other, other + TILE)
            total += (_unlike(rows, table[part]) @ counts[part]).cpu().numpy()
        return total

    parts = pool.map(missing, range(0, len(table), ROWS))
    return np.asarray(counts.double().sum().item() - np.concatenate([np.zeros(0), *parts]))


def _measure(
    table: torch.Tensor, inside: Int64s, counts: torch.Tensor, state: _Greedy, pool: ThreadPoolExecutor
) -> tuple[Floats, Doubles]:
    """How unlike the rows of a pool are to all rows, shape (p, n), and what each would add now, (p,)."""
    import torch

    rows = table[inside]
    result = torch.empty((len(inside), len(table)))

    def compare(start: int) -> Floats:
        part = slice(start, start + TILE)
        unlike = _unlike(rows, table[part])
        result[:, part] = unlike.cpu()
        nearest = torch.from_numpy(state.unlike[part]).to(table.device)
        return np.asarray(((nearest - unlike).clamp_(min=0) @ counts[part]).cpu().numpy())

    gains = np.zeros(len(inside))
    for part in pool.map(compare, range(0, len(table), TILE)):
        gains += part
    return result.numpy(), gains


def _unlike(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """1 - exp(-D / d) for every pair of vectors of length one; accurate where it is small."""
    import torch

    squared = (rows @ others.T).mul_(-2).add_(2)
    distance = torch.nn.functional.threshold(squared, NO_DISTANCE, 0.0, inplace=True).sqrt_()
    return distance.div_(-rows.shape[1]).expm1_().neg_()


def _pick_in_pool(
    state: _Greedy, inside: Int64s, unlike: Floats, gains: Doubles, weight: Floats, outside: float
) -> Doubles:
    """Picks rows of the pool while none outside can add more.

    Returns:
        What each row of the pool would add after that, -inf for picks.
    """
    while True:
        best = gains.max()
        if best < 0 or best * (1 + SAME) < outside:
            return gains
        at = int(np.argmax(gains >= best * (1 - SAME)))
        row = int(inside[at])
        if state.cost[row] > state.left or len(state.picked) == state.most:
            state.ended = True
            return gains
        state.left -= int(state.cost[row])
        state.picked.append(row)
        state.gain.append(float(gains[at]))
        nearer = np.flatnonzero(unlike[at] < state.unlike)
        before, now, others = state.unlike[nearer], unlike[at, nearer], unlike[:, nearer]
        fall = np.maximum(before - others, 0) - np.maximum(now - others, 0)
        gains = np.maximum(
            gains - (fall * weight[nearer]).sum(axis=1, dtype=np.float64), np.where(gains < 0, -np.inf, 0)
        )
        gains[at] = -np.inf
        state.unlike[nearer], state.nearest[nearer] = now, row


def random_parts(numbers: npt.NDArray[np.uint64], rows: int) -> list[Int64s]:
    """Parts of nearly equal size, of no more than `rows` rows, each ascending.

    Args:
        numbers: A pseudo-random number for each row; it says which part.
        rows: Most rows in a part.
    """
    parts = np.array_split(np.argsort(numbers, kind="stable"), -(-len(numbers) // rows))
    return [np.sort(part) for part in parts]


def greedi(points: Floats, cost: Int64s, budget: int, parts: Sequence[Int64s], most: int) -> Picked:
    """Greedy in each part, then greedy among what the parts proposed.

    Args:
        points: In the order that breaks ties, each of length one, float32, shape (n, d).
        cost: What picking each row costs, shape (n,), >= 0.
        budget: How much may be spent.
        parts: Rows of each part, ascending; every row is in one.
        most: Most proposals of all parts together.
    """
    share = most // len(parts)
    found = [lazy_greedy(points[part], cost[part], budget, most=share) for part in parts]
    proposed = [part[one.picked] for part, one in zip(parts, found, strict=True)]
    union = np.sort(np.concatenate(proposed))
    whole = all(len(one) < share for one in proposed)  # of their own accord
    if not whole and int(cost[union].sum()) < 2 * budget:
        return _side_by_side(points, cost, budget, parts)
    stands_for = _global_nearest(len(points), parts, found)
    known = stands_for >= 0
    weight = np.bincount(stands_for[known], minlength=len(points))[union].astype(np.float32)
    merged = lazy_greedy(points[union], cost[union], budget, weight=weight)
    final = np.full(len(points) + 1, -1)  # the last place is where a row without a proposal looks
    final[union] = np.append(union, -1)[merged.nearest]
    return Picked(union[merged.picked], merged.gain, final[stands_for])


def _side_by_side(points: Floats, cost: Int64s, budget: int, parts: Sequence[Int64s]) -> Picked:
    """Greedy in each part with its share of the budget; the picks of the highest gains come first."""
    spent = np.cumsum([0, *(int(cost[part].sum()) for part in parts)])
    total = max(int(spent[-1]), 1)
    budgets = np.diff([min(budget, total) * int(upto) // total for upto in spent])
    found = [
        lazy_greedy(points[part], cost[part], int(own)) for part, own in zip(parts, budgets, strict=True)
    ]
    picked = np.concatenate([part[one.picked] for part, one in zip(parts, found, strict=True)])
    gain = np.concatenate([one.gain for one in found])
    order = np.lexsort((picked, -gain))
    return Picked(picked[order], gain[order], _global_nearest(len(points), parts, found))


def _global_nearest(count: int, parts: Sequence[Int64s], found: Sequence[Picked]) -> Int64s:
    """The nearest pick of its own part for every row, -1 where the part has none."""
    nearest = np.full(count, -1)
    for part, one in zip(parts, found, strict=True):
        nearest[part] = np.append(part, -1)[one.nearest]
    return nearest
