"""K-shot selection (Rocket): rows nearest to a few examples of the task, less near copies among them.

Formula: all vectors e of length one, mu the mean of the K target examples, not scaled again; kshot_rel_i =
e_i . mu, **the highest are picked**, which is the order of the distance to mu. Of the picked, best first, a
row is dropped when its cosine distance to a row already kept is below 0.1 (cosine above `max_similarity`).

Source: "Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models",
https://arxiv.org/abs/2408.15915, and its code (https://github.com/Yaphabates/Rocket): bge-m3 vectors of
instruction, input and output; K is 5 to 50, the budget 5,000 less K. The K examples are for the user to add.

As published the budget is what is picked, so that what is left after near copies may be less;
`refill: true` (ours) goes on down the ranking until the budget is full. Other differences: the code drops in
arbitrary order, and also for likeness to a row that was itself dropped; here the order is that of the rank,
and only kept rows count. `probe: nearest` (ours) is for a task of several kinds, whose mean is like none of
them: kshot_rel is then the cosine to the nearest target example. Ties break by id. Copies of the target among
the candidates come first: decontaminate, if the target is not for training.

Cost: n K d operations for `nearest`, and at most picked x kept x d for the copies, in blocks; exact.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import (
    Budget,
    Decisions,
    Vectors,
    VectorSelector,
    choose,
    id_ranks,
    total_tokens,
)
from pipelines.selectors.vectors import fastest_device, one_thread_each

if TYPE_CHECKING:
    import torch

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]

KEPT, UNDECIDED = -1, -2  # instead of the row that drops a row
ROWS_AT_ONCE = 1024  # compared with as many kept rows as TILE at a time: 16 MB
TILE = 4096
ROUNDING = 1e-4  # more than a float32 product of two vectors of length one is off by
CANCELLED = 1e-6  # a mean of vectors of length one that is shorter has no direction

_REASONS = (
    "kshot: not among the nearest to the task",
    "kshot: among the nearest to the task",
    "kshot: near copy of a row nearer to the task",
)


class Kshot(VectorSelector, Budget):
    """The rows nearest to examples of the task, without near copies."""

    name: ClassVar[str] = "kshot"
    source: ClassVar[str] = "Rocket, arXiv 2408.15915, near copies of kept rows only"

    target: str = Field(min_length=1, description="file of K examples of the task")
    max_similarity: float = Field(
        default=0.9, ge=-1, le=1, description="a row of higher cosine to a kept one is dropped; 1: none is"
    )
    probe: Literal["mean", "nearest"] = Field(
        default="mean", description="mean: near to the mean of the examples; nearest: near to any of them"
    )
    refill: bool = Field(
        default=False, description="fill the place of near copies with the next in rank, up to the budget"
    )

    @property
    def target_file(self) -> str:
        """The examples of the task."""
        return self.target

    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Keeps the nearest rows; writes `kshot_rel`, `kshot_rank`, `dropped_by`.

        - `kshot_rel`: likeness to the task, from -1 to 1, higher is nearer; null where a row was not in play.
        - `kshot_rank`: 1 for the nearest.
        - `dropped_by`: id of the kept row, the first in rank, that a row is a near copy of; else null.

        Raises:
            ValueError: If the target has no vector, or its vectors cancel out.
        """
        if not len(vectors.target):
            raise ValueError(f"kshot: no example of {self.target} has a vector; name a file with text in it")
        has_vector = vectors.known & vectors.rows.any(axis=1)
        in_play = has_vector & self.can_count(candidates)
        ranks = id_ranks(candidates)
        rows = np.flatnonzero(in_play)
        rows = rows[np.argsort(ranks[rows])]  # in id order, whatever the order of the table
        relevance = np.zeros(candidates.num_rows)
        relevance[rows] = self._relevance(vectors, rows)
        order = rows[np.argsort(-relevance[rows], kind="stable")]
        dropper = self._near_copies(candidates, vectors.rows, order)

        code = np.zeros(candidates.num_rows, np.int64)
        code[order] = np.where(dropper == KEPT, 1, np.where(dropper >= 0, 2, 0))
        reason = choose(_REASONS, code)
        reason[~in_play] = "kshot: no token count"
        reason[~has_vector] = "kshot: no vector"
        place = np.zeros(candidates.num_rows, np.int64)
        place[order] = np.arange(1, len(order) + 1)
        by = np.full(candidates.num_rows, -1, np.int64)
        by[order[dropper >= 0]] = order[dropper[dropper >= 0]]
        columns = {
            "kshot_rel": pa.array(relevance, mask=~in_play),
            "kshot_rank": pa.array(place, mask=~in_play),
            "dropped_by": candidates["id"].combine_chunks().take(pa.array(by, mask=by < 0)),
        }
        return Decisions(code == 1, reason, columns)

    def _relevance(self, vectors: Vectors, rows: Int64s) -> Floats:
        """Likeness of each of the rows to the task."""
        if self.probe == "nearest":
            return nearest_cosine(vectors.rows, rows, vectors.target, fastest_device())
        return cosine_to_mean(vectors.rows, rows, vectors.target)

    def _near_copies(self, candidates: pa.Table, vectors: Rows, order: Int64s) -> Int64s:
        """For each place in the ranking KEPT, UNDECIDED beyond the budget, or the place that drops it."""
        total = candidates.num_rows
        tokens = total_tokens(candidates) if self.keep_tokens is not None else np.zeros(total, np.int64)

        def fit(places: Int64s) -> int:
            return self.take(order[places], tokens, total)

        every = np.arange(len(order))
        picked = order if self.refill else order[: fit(every)]
        found = drop_near_copies(
            vectors, picked, self.max_similarity, lambda kept: fit(kept) < len(kept), fastest_device()
        )
        dropper = np.full(len(order), UNDECIDED)
        dropper[: len(picked)] = found
        kept = np.flatnonzero(dropper == KEPT)
        within = fit(kept)
        if within < len(kept):
            dropper[kept[within] :] = UNDECIDED
        return dropper


def cosine_to_mean(vectors: Rows, rows: Int64s, target: Rows) -> Floats:
    """Product of each row, scaled to length one, with the mean of the target, of which the same holds.

    Args:
        vectors: Of the candidates, of any length but 0, shape (n, d).
        rows: Which of them, shape (r,).
        target: Vectors of the K examples, shape (K, d).

    Returns:
        From -1 to 1, shape (r,): the mean of the cosines to the examples. Not rounded to the precision of
        the embedding, so that copies are equal wherever they stand.

    Raises:
        ValueError: If the examples' vectors cancel out.

    Example:
        >>> target = np.array([[2, 0], [0, 1]], np.float32)
        >>> cosine_to_mean(np.array([[3, 0], [1, 1]], np.float32), np.arange(2), target).round(6).tolist()
        [0.5, 0.707107]
    """
    mean = _unit(target).mean(axis=0)
    if np.linalg.norm(mean) < CANCELLED:
        raise ValueError(
            f"kshot: the vectors of the {len(target)} target examples cancel out, so nothing is nearest to "
            "their mean; use probe: nearest"
        )
    parts = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
    # Summed row by row, as no matrix product is, whose sums may depend on where a row stands.
    return np.concatenate([np.zeros(0), *((_unit(vectors[part]) * mean).sum(axis=1) for part in parts)])


def nearest_cosine(vectors: Rows, rows: Int64s, target: Rows, device: str = "cpu") -> Floats:
    """Cosine of each row to the nearest of the target examples.

    Args:
        vectors: Of the candidates, of any length but 0, shape (n, d).
        rows: Which of them, shape (r,).
        target: Vectors of the K examples, shape (K, d).
        device: "cpu" or "cuda".

    Returns:
        From -1 to 1, shape (r,).
    """
    import torch

    examples = _unit(target)
    table = torch.from_numpy(examples.astype(np.float32).T.copy()).to(device)

    def score(start: int) -> Floats:
        units = _unit(vectors[rows[start : start + ROWS_AT_ONCE]])
        nearest = (torch.from_numpy(units.astype(np.float32)).to(device) @ table).argmax(dim=1).cpu().numpy()
        cosine: Floats = (units * examples[nearest]).sum(axis=1).clip(-1, 1)
        return cosine

    with one_thread_each(device) as pool:
        return np.concatenate([np.zeros(0), *pool.map(score, range(0, len(rows), ROWS_AT_ONCE))])


def drop_near_copies(
    vectors: Rows,
    order: Int64s,
    max_similarity: float,
    enough: Callable[[Int64s], bool] = lambda _: False,
    device: str = "cpu",
) -> Int64s:
    """Goes through rows in order and drops each that is too like one already kept.

    Args:
        vectors: Of any length but 0, shape (n, d).
        order: Rows, first the one that stays in any case, shape (r,).
        max_similarity: Cosine, from -1 to 1, above which a row is dropped; at 1 none is.
        enough: Told the places of all kept rows now and then, says whether to stop.
        device: "cpu" or "cuda".

    Returns:
        For each place in the order KEPT, or the first kept place that the row is too like, or UNDECIDED after
        the stop; int64, shape (r,).
    """
    import torch

    if max_similarity >= 1:  # no cosine is; saves comparing all copies exactly
        return np.full(len(order), KEPT)
    dropper = np.full(len(order), UNDECIDED)
    kept = np.zeros(0, np.int64)
    # Room for all; on CPU memory is taken only for what is filled.
    table = torch.empty((len(order), vectors.shape[1]), dtype=torch.float32, device=device)

    def like_kept(rows: Int64s, units: torch.Tensor, start: int) -> Int64s:
        stop = min(start + TILE, len(kept))
        tile = order[kept[start:stop]]
        at, where = _too_like(vectors, (rows, tile), (units, table[start:stop]), max_similarity)
        return np.stack([at, kept[start + where]])

    with one_thread_each(device) as pool:
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            units = torch.from_numpy(_unit(vectors[rows]).astype(np.float32)).to(device)
            found = pool.map(like_kept, repeat(rows), repeat(units), range(0, len(kept), TILE))
            at, by = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
            dropped, first = np.unique(at, return_index=True)
            dropper[start + dropped] = by[first]
            left = np.setdiff1d(np.arange(len(rows)), dropped)
            units = units[torch.from_numpy(left).to(device)]
            pairs = _too_like(vectors, (rows[left], rows[left]), (units, units), max_similarity)
            dropper[start + left] = _keep_first(start + left, *pairs)
            new = dropper[start + left] == KEPT
            table[len(kept) : len(kept) + int(new.sum())] = units[torch.from_numpy(new).to(device)]
            kept = np.concatenate([kept, start + left[new]])
            if enough(kept):
                break
    return dropper


def _keep_first(places: Int64s, later: Int64s, earlier: Int64s) -> Int64s:
    """For each of some places KEPT, or the first kept place among them that it is too like.

    Args:
        places: Ascending, shape (r,).
        later: Position among the places of one row of each pair that is too like, ascending.
        earlier: Of the other row; ascending for equal `later`. Pairs with earlier >= later do not count.
    """
    dropper = np.full(len(places), KEPT)
    before = earlier < later
    for one, other in zip(later[before].tolist(), earlier[before].tolist(), strict=True):
        if dropper[one] == KEPT and dropper[other] == KEPT:  # the other is decided: its pairs came before
            dropper[one] = places[other]
    return dropper


def _too_like(
    vectors: Rows, rows: tuple[Int64s, Int64s], units: tuple[torch.Tensor, torch.Tensor], limit: float
) -> tuple[Int64s, Int64s]:
    """Pairs (i, j), by ascending i and then j, of rows whose cosine is above the limit.

    Float32 decides where it can; closer to the limit, float64, so that where a row stands decides nothing.

    Args:
        vectors: Shape (n, d).
        rows: Which of them are compared, left and right.
        units: The same, scaled to length one, shape (r, d), float32.
        limit: Cosine.
    """
    similarity = units[0] @ units[1].T
    pairs = (similarity > limit - ROUNDING).nonzero(as_tuple=True)
    like: Bools = (similarity[pairs] > limit + ROUNDING).cpu().numpy()
    left, right = (index.cpu().numpy() for index in pairs)
    doubtful = np.flatnonzero(~like)
    for start in range(0, len(doubtful), TILE):
        part = doubtful[start : start + TILE]
        a, b = (
            vectors[own[at[part]]].astype(np.float64) for own, at in zip(rows, (left, right), strict=True)
        )
        lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        like[part] = (a * b).sum(axis=1) > limit * lengths
    return left[like], right[like]


def _unit(vectors: Rows) -> Floats:
    """Vectors scaled to length one, float64; the same for a vector wherever it stands."""
    values = vectors.astype(np.float64)
    scaled: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return scaled
