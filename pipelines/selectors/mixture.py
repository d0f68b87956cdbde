"""Mixture: the best rows by one column, with a least and a largest share of the budget for each source.

Rows are ranked by `column` as in top_k. First each source with a floor takes its best rows until its share of
the budget is reached; then the rest of the budget is filled from the common ranking, where a source that
has reached its ceiling takes no more. A source with fewer rows than its floor gives what it has.

Ours: no published method; the floors and ceilings that data mixtures are written with. Equal values are taken
by id. Null never ranks. With `keep_tokens` shares are shares of tokens, no budget or ceiling is ever
exceeded, and each is filled up to the first row that would.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import (
    Budget,
    Decisions,
    Selector,
    choose,
    id_ranks,
    scores,
    without_score,
)
from pipelines.selectors.top_k import Order, declared_order

Int64s = npt.NDArray[np.int64]


class Mixture(Selector, Budget):
    """The best rows within a share of the budget for each source."""

    name: ClassVar[str] = "mixture"
    source: ClassVar[str] = "ours: the best rows by one score, with shares of the budget by source"

    column: str = Field(description="a score column, or any column of numbers")
    order: Order | None = Field(default=None, description="which values to keep; by default the better ones")
    floors: dict[str, float] = Field(
        default_factory=dict, description="least share of the budget by source, from 0 to 1"
    )
    ceilings: dict[str, float] = Field(
        default_factory=dict, description="largest share of the budget by source, from 0 to 1"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.order is None and declared_order(self.column) is None:
            raise ValueError(
                f"column {self.column!r} declares no better direction; say order: highest or lowest"
            )
        for kind, shares in (("floors", self.floors), ("ceilings", self.ceilings)):
            wrong = [source for source, share in shares.items() if not 0 <= share <= 1]
            if wrong:
                raise ValueError(f"{kind}: {wrong[0]} is {shares[wrong[0]]:g}; a share is from 0 to 1")
        if sum(self.floors.values()) > 1 + 1e-9:
            raise ValueError(f"floors: together {sum(self.floors.values()):g} of the budget; at most 1 fits")
        for source, share in self.floors.items():
            if share > self.ceilings.get(source, 1.0):
                raise ValueError(f"floors: {source} has {share:g}, above its ceiling")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column that decides."""
        return (self.column,)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps floors first, then the best of all; writes `mixture_rank`, 1 for the best."""
        values = scores(candidates, self.column, self.name)
        has_score = np.isfinite(values)
        in_play = has_score & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        best_first = (
            -values[rows] if (self.order or declared_order(self.column)) == "highest" else values[rows]
        )
        order = rows[np.lexsort((id_ranks(candidates)[rows], best_first))]
        cost, budget = self.spending(candidates)
        by_floor, by_rank = self._fill(order, candidates["source"], cost, budget)

        keep = np.zeros(candidates.num_rows, np.bool_)
        keep[by_floor] = keep[by_rank] = True
        ranks = np.zeros(candidates.num_rows, np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        reason = choose(["mixture: not within the budget", "mixture: among the best"], keep)
        reason[by_floor] = "mixture: among the best of its source, by its floor"
        reason[~in_play] = "mixture: no token count"
        reason[~has_score] = without_score(f"mixture: no {self.column}", candidates, ~has_score)
        return Decisions(keep, reason, {"mixture_rank": pa.array(ranks, mask=~in_play)})

    def _fill(
        self, order: Int64s, sources: pa.ChunkedArray, cost: Int64s, budget: int
    ) -> tuple[Int64s, Int64s]:
        """The rows kept by a floor, and those kept by rank."""
        encoded = sources.combine_chunks().dictionary_encode()
        names, source = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        # Nothing fits below 0: a source without a floor takes not even rows of no tokens first.
        floors = np.array([self.floors[name] * budget if name in self.floors else -1.0 for name in names])
        ceilings = np.array([self.ceilings.get(name, 1.0) * budget for name in names])
        spent = np.zeros(len(names), np.int64)
        by_floor = _within(order, source, cost, spent, floors)
        np.add.at(spent, source[by_floor], cost[by_floor])
        rest = order[~np.isin(order, by_floor)]
        fits = _within(rest, source, cost, spent, ceilings)
        left = budget - int(spent.sum())
        return by_floor, fits[: np.searchsorted(np.cumsum(cost[fits]), left, side="right")]


def _within(
    order: Int64s, source: npt.NDArray[np.integer], cost: Int64s, spent: Int64s, most: npt.NDArray[np.float64]
) -> Int64s:
    """Of each source the first rows of `order`, up to the first that would cost it more than `most`.

    Args:
        order: Rows, best first.
        source: Index of the source of every row.
        cost: Cost of every row.
        spent: What each source has spent before.
        most: What each source may spend.
    """
    own = order[np.argsort(source[order], kind="stable")]
    of, total = source[own], np.cumsum(cost[own])
    first = np.searchsorted(of, of)
    total = spent[of] + total - (total - cost[own])[first]
    fits = np.zeros(len(source), np.bool_)
    fits[own[total <= most[of] + 1e-9]] = True
    return order[fits[order]]
