"""SemDeDup under a budget: rows that mean what an earlier row of their cluster means go first.

Source: Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication",
https://arxiv.org/abs/2303.09540. Clusters, the order inside a cluster and M, the highest cosine similarity of
a row to a row before it, are those of pipelines/dedupe/semdedup.py, which names the differences to the code.
The paper drops rows with M > 1 - epsilon and chooses epsilon for the fraction to keep; here the budget says
how many rows stay, and those of the lowest M do. To drop by a threshold, use `dedupe: {semantic: ...}`.

Ours: budgets of examples and tokens; M of the first row of a cluster counts as lower than any, and such rows
go only when nothing else is left to drop; equal M by a hash of (seed, id); rows without a vector are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.dedupe.semantic_settings import WhichToKeep
from pipelines.selectors.base import Budget, Decisions, Vectors, VectorSelector, choose, id_ranks
from pipelines.selectors.id_order import id_order
from pipelines.selectors.vectors import directed, fastest_device, ids_at, one_thread_each, unit_rows

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

ROWS_AT_ONCE = 16_384  # given a cluster in one call


class SemDeDup(VectorSelector, Budget):
    """The rows that are least like a row before them in their cluster."""

    name: ClassVar[str] = "semdedup"
    source: ClassVar[str] = "SemDeDup, arXiv 2303.09540, under a budget"

    clusters: int | None = Field(
        default=None,
        ge=1,
        description="clusters of k-means, within which rows are compared; null: by the number of rows",
    )
    which_to_keep: WhichToKeep = Field(
        default="hard",
        description="which of rows alike stays: hard, the farthest from its centroid; easy, the nearest; "
        "random",
    )

    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Keeps the lowest M; writes the columns of `similarity_columns`."""
        has_vector = directed(vectors)
        in_play = has_vector & self.can_count(candidates)
        rows, ranks = in_id_order(candidates, in_play, seed)
        found = compare(unit_rows(vectors.rows, rows), ranks, self.clusters, self.which_to_keep, seed)
        keep = self.keep_first(rows[np.lexsort((ranks, found.sort_key))], candidates)

        verdict = keep.astype(np.int64)
        verdict[rows[found.first]] += 2
        texts = (
            "semdedup: like a row before it",
            "semdedup: unlike the rows before it",
            "semdedup: first of its cluster, beyond the budget",
            "semdedup: first of its cluster",
        )
        reason = choose(texts, verdict)
        reason[~in_play] = "semdedup: no token count"
        reason[~has_vector] = "semdedup: no vector"
        return Decisions(keep, reason, similarity_columns(candidates, rows, found, ~keep[rows], keep[rows]))


@dataclass(frozen=True)
class Compared:
    """What the comparison found about n vectors.

    Attributes:
        cluster: Number of its cluster, int32.
        cosine: Cosine to the centroid, float32.
        place: Place in the order of its cluster, from 0, int64.
        similarity: Highest cosine to a row before it (M), float32, NaN for the first of a cluster.
        nearest: That row, int64, -1 for the first of a cluster.
    """

    cluster: npt.NDArray[np.int32]
    cosine: Floats
    place: Int64s
    similarity: Floats
    nearest: Int64s

    @property
    def first(self) -> Bools:
        """Rows that are the first of their cluster."""
        return self.nearest < 0

    @property
    def sort_key(self) -> Floats:
        """M, lower than any cosine where there is none."""
        return np.where(self.first, np.float32(-np.inf), self.similarity)


def in_id_order(candidates: pa.Table, rows: Bools, seed: int) -> tuple[Int64s, UInt64s]:
    """Some candidates in the order of their ids, and a pseudo-random number for each."""
    index = np.flatnonzero(rows)
    index = index[np.argsort(id_ranks(candidates)[index])]
    return index, id_order(candidates.column("id").take(pa.array(index)), seed)


def compare(vectors: Floats, ranks: UInt64s, clusters: int | None, which: WhichToKeep, seed: int) -> Compared:
    """Clusters vectors, and compares each with those before it in its cluster.

    Args:
        vectors: Each of length one, float32, shape (n, d).
        ranks: A pseudo-random number for each; it breaks ties and chooses what centroids are trained on.
        clusters: How many; None: by the number of vectors.
        which: The order inside a cluster, as for `cluster_order`.
        seed: Which vectors are the first centroids.
    """
    from pipelines.dedupe.semdedup import TILE, cluster_order, max_similarity

    cluster, cosine = cluster_vectors(vectors, ranks, clusters, seed)
    count, device = len(vectors), fastest_device()
    found = Compared(
        cluster, cosine, np.zeros(count, np.int64), np.full(count, np.nan, np.float32), np.full(count, -1)
    )

    def compare_cluster(members: Int64s) -> None:
        order = members[cluster_order(cosine[members], ranks[members], which)]
        similarity, nearest = max_similarity(vectors[order], TILE, device)
        found.place[order] = np.arange(len(order))
        found.similarity[order] = similarity
        found.nearest[order] = np.where(nearest < 0, -1, order[nearest])

    groups = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster, minlength=1))[:-1])
    with one_thread_each() as pool:
        list(pool.map(compare_cluster, (group for group in groups if len(group))))
    return found


def cluster_vectors(
    vectors: Floats, ranks: UInt64s, clusters: int | None, seed: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The cluster of each vector of length one, int32, shape (n,), and the cosine to its centroid, float32.

    The centroids are trained on the vectors of the lowest ranks, by pipelines/dedupe/spherical_kmeans.py.
    """
    from pipelines.dedupe.centroid_sample import ROWS_OF_MEAN
    from pipelines.dedupe.spherical_kmeans import (
        ROWS_PER_CENTROID,
        assign,
        cluster_count,
        train_centroids,
    )

    count = clusters or cluster_count(len(vectors))
    wanted = count * ROWS_PER_CENTROID if count > 1 else ROWS_OF_MEAN
    centroids = train_centroids(vectors[np.argsort(ranks)[:wanted]], count, seed)
    cluster, cosine = np.zeros(len(vectors), np.int32), np.zeros(len(vectors), np.float32)
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(vectors), ROWS_AT_ONCE)]
    with one_thread_each() as pool:
        for part, found in zip(
            parts, pool.map(lambda part: assign(vectors[part], centroids), parts), strict=True
        ):
            cluster[part], cosine[part] = found
    return cluster, cosine


def similarity_columns(
    candidates: pa.Table, rows: Int64s, found: Compared, copies: Bools, kept: Bools
) -> dict[str, pa.Array]:
    """Decision columns about `rows`, the candidates that were compared; null for others.

    - `cluster_id`, `cos_to_centroid`, `rank_in_cluster` (0 for the first).
    - `max_sim_before`: highest cosine similarity to a row before it in its cluster; null for the first.
    - `nearest_before`: id of that row; null for the first.
    - `semantic_duplicate_of`: of a row dropped as a duplicate, the id of the row that is kept for it, the end
      of the chain of nearest rows before; null for other rows, and where the end is dropped itself.

    Args:
        candidates: All candidates.
        rows: Indices of those compared.
        found: What was found about them.
        copies: Which of them are dropped as duplicates.
        kept: Which of them are kept.
    """
    from pipelines.dedupe.semdedup import representatives

    stays = representatives(copies & ~found.first, found.nearest)
    stays = np.where(copies & kept[stays], stays, -1)

    def spread(values: npt.NDArray[np.generic], null: Bools) -> pa.Array:
        column, missing = np.zeros(candidates.num_rows, values.dtype), np.ones(candidates.num_rows, np.bool_)
        column[rows], missing[rows] = values, null
        return pa.array(column, mask=missing)

    def ids(positions: Int64s) -> pa.Array:
        index = np.full(candidates.num_rows, -1)
        index[rows] = np.append(rows, -1)[positions]
        return ids_at(candidates, index)

    every = np.zeros(len(rows), np.bool_)
    return {
        "cluster_id": spread(found.cluster, every),
        "cos_to_centroid": spread(found.cosine, every),
        "rank_in_cluster": spread(found.place, every),
        "max_sim_before": spread(found.similarity, found.first),
        "nearest_before": ids(found.nearest),
        "semantic_duplicate_of": ids(stays),
    }
