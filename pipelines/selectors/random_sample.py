"""Random sample: the baseline that every published selection is compared with.

Rows are taken in the order of a hash of (seed, id), so the sample depends on neither the order of rows
nor the number of workers, and a smaller sample with the same seed is part of a larger one. No score is
read: rows that could not be scored take part. The hash and the nesting are ours.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import Budget, Decisions, Selector, choose, id_ranks, without_score
from pipelines.selectors.id_order import id_order


class RandomSample(Selector, Budget):
    """A uniform random sample without replacement."""

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "ours: a random sample, by a hash of seed and id"

    seed: int | None = Field(default=None, description="seed of this sample; by default the seed of the run")

    @property
    def reads(self) -> tuple[str, ...]:
        """Nothing but the id."""
        return ()

    def decide(self, candidates: pa.Table, seed: int) -> Decisions:
        """Keeps the first rows in the order of the hash."""
        countable = self.can_count(candidates)
        rows = np.flatnonzero(countable)
        drawn = id_order(candidates.column("id"), seed if self.seed is None else self.seed)
        order = rows[np.lexsort((id_ranks(candidates)[rows], drawn[rows]))]
        keep = self.keep_first(order, candidates)
        reason = choose(["random: not drawn", "random: drawn"], keep)
        reason[~countable] = without_score("random: no token count", candidates, ~countable)
        return Decisions(keep, reason)
