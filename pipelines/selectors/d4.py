"""D4 under a budget: semantic duplicates go first, then the rows most like many others.

Source: Tirumala et al. 2023, "D4: Improving LLM Pretraining via Document De-Duplication and Diversification",
https://arxiv.org/abs/2308.12284. (1) SemDeDup leaves `dedupe_keep` of the rows (0.75, the paper's); (2) what
is left is clustered again, because clusters that duplicates made are gone; (3) the rows nearest to their new
centroids go until the budget is met ("SSL prototypes"), the distance compared over all clusters together. The
steps are those of pipelines/dedupe/semdedup.py and d4.py. With `dedupe_keep: 1` it is SSL prototypes alone,
with `keep` equal to `dedupe_keep` SemDeDup alone.

Ours: budgets of examples and tokens, in which more than step 1 leaves is all that it leaves; `keep` is a
fraction of all candidates, `dedupe_keep` of those that have a vector; ties by a hash of (seed, id); rows
without a vector are dropped.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipelines.dedupe.semantic_settings import WhichToKeep
from pipelines.selectors.base import Budget, Decisions, Vectors, VectorSelector, choose
from pipelines.selectors.semdedup import cluster_vectors, compare, in_id_order, similarity_columns
from pipelines.selectors.vectors import directed, unit_rows


class D4(VectorSelector, Budget):
    """What semantic dedupe leaves, the least typical first."""

    name: ClassVar[str] = "d4"
    source: ClassVar[str] = "D4, arXiv 2308.12284"

    dedupe_keep: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="share of the rows with a vector that the first step, semantic dedupe, leaves",
    )
    clusters: int | None = Field(
        default=None, ge=1, description="clusters of the first step; null: by the number of rows"
    )
    clusters_again: int | None = Field(
        default=None, ge=1, description="clusters of the second step; null: by the number of rows left"
    )
    which_to_keep: WhichToKeep = Field(
        default="hard",
        description="which of rows alike stays: hard, the farthest from its centroid; easy, the nearest; "
        "random",
    )

    @model_validator(mode="after")
    def _second_step_keeps_less(self) -> Self:
        if self.keep is not None and self.keep > self.dedupe_keep:
            raise ValueError(
                f"keep {self.keep:g} is above dedupe_keep {self.dedupe_keep:g}; the second step drops rows"
            )
        return self

    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Keeps the farthest from their centroids of what dedupe leaves.

        Writes the columns of SemDeDup, `d4_cluster_id` and `d4_cos_to_centroid`, of the second clustering,
        null for duplicates. A row that was dropped as a duplicate names the row kept for it, if that is kept.
        """
        from pipelines.dedupe.semdedup import drop_to_fraction

        has_vector = directed(vectors)
        in_play = has_vector & self.can_count(candidates)
        rows, ranks = in_id_order(candidates, in_play, seed)
        points = unit_rows(vectors.rows, rows)
        found = compare(points, ranks, self.clusters, self.which_to_keep, seed)
        copies = drop_to_fraction(found.similarity, ranks, self.dedupe_keep)
        left = np.flatnonzero(~copies)
        cluster, cosine = cluster_vectors(points[left], ranks[left], self.clusters_again, seed)
        keep = self.keep_first(rows[left[np.lexsort((ranks[left], cosine))]], candidates)

        verdict = keep.astype(np.int64)
        verdict[rows[copies]] = 2
        texts = ("d4: prototypical, like many others", "d4: unlike most others", "d4: semantic duplicate")
        reason = choose(texts, verdict)
        reason[~in_play] = "d4: no token count"
        reason[~has_vector] = "d4: no vector"
        columns = similarity_columns(candidates, rows, found, copies, keep[rows])
        again = np.ones(len(keep), np.bool_)
        again[rows[left]] = False
        for name, values in (("d4_cluster_id", cluster), ("d4_cos_to_centroid", cosine)):
            column = np.zeros(len(keep), values.dtype)
            column[rows[left]] = values
            columns[name] = pa.array(column, mask=again)
        return Decisions(keep, reason, columns)
