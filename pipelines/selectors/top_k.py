"""Top-k: the best rows by one column.

The plain selection step of many methods: IFD takes its highest values (after a `threshold` drops those
of 1 and more), the perplexity baselines their lowest or highest loss.
Sources: IFD https://arxiv.org/abs/2308.12032 (drop above 1, take the largest rest) and
https://arxiv.org/abs/2402.00530 (keep below 1); Ankner et al. https://arxiv.org/abs/2405.20541 (perplexity).

Order: `highest` or `lowest`; by default the direction that the column's scorer declares, and a column
with no declared direction must say. Equal values are taken by id (ours). Null never ranks: it is dropped,
though a fraction counts it (ours).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.selectors.base import Budget, Decisions, Selector, choose, id_ranks, scores, without_score
from scorers.catalog import SCORERS, columns_of

Order = Literal["highest", "lowest"]


class TopK(Selector, Budget):
    """The rows with the highest or lowest values of a column."""

    name: ClassVar[str] = "top_k"
    source: ClassVar[str] = "ours: the best rows by one score"

    column: str = Field(description="a score column, or any column of numbers")
    order: Order | None = Field(default=None, description="which values to keep; by default the better ones")

    @model_validator(mode="after")
    def _has_an_order(self) -> Self:
        if self.order is None and declared_order(self.column) is None:
            raise ValueError(
                f"column {self.column!r} declares no better direction; say order: highest or order: lowest"
            )
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column that decides."""
        return (self.column,)

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the first rows of the order; writes `top_k_rank`, 1 for the best, null without a value."""
        values = scores(candidates, self.column, self.name)
        has_score = np.isfinite(values)
        in_play = has_score & self.can_count(candidates)
        rows = np.flatnonzero(in_play)
        order_name = self.order or declared_order(self.column)
        best_first = -values[rows] if order_name == "highest" else values[rows]
        order = rows[np.lexsort((id_ranks(candidates)[rows], best_first))]
        keep = self.keep_first(order, candidates)

        ranks = np.zeros(candidates.num_rows, dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        among = f"among the {order_name} {self.column}"
        reason = choose([f"top_k: not {among}", f"top_k: {among}"], keep)
        reason[~in_play] = "top_k: no token count"
        reason[~has_score] = without_score(f"top_k: no {self.column}", candidates, ~has_score)
        return Decisions(keep, reason, {"top_k_rank": pa.array(ranks, mask=~in_play)})


def declared_order(column: str) -> Order | None:
    """The values that are better, as the column's scorer declares; None where none are.

    Example:
        >>> declared_order("a_column_of_the_user") is None
        True
    """
    better = {declared.name: declared.better for declared in columns_of(SCORERS)}.get(column, "neither")
    orders: dict[str, Order] = {"higher": "highest", "lower": "lowest"}
    return orders.get(better)
