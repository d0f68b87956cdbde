"""SemDeDup: of rows that mean the same, judged by the cosine of their embeddings, all but one are dropped.

Source: Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication",
arXiv:2303.09540, and the authors' code. Rows are clustered (pipelines/dedupe/spherical_kmeans.py); inside a
cluster they are ordered by their distance to the centroid, the farthest first ("hard"); M_j is the highest
similarity of row j to a row before it; j is dropped when M_j > threshold (= 1 - epsilon). Not greedy: a row
counts as "before" even if it is dropped itself. The first of a cluster has no M and always stays.

Differences: the code's M of the first row, and of rows with negative similarities only, is 0; here the first
has none, and negative ones are kept as they are, which only matters for thresholds below 0. Ties in the order
are broken by a hash of (seed, id). [ours] M is computed twice: in float32 to find the nearest row before, and
in float64 for that pair, so that rows alike have the same M wherever they stand.

No (n, n) matrix is made: a cluster's vectors and one tile of similarities are in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipelines.dedupe.hashing import Int64s, UInt64s
from pipelines.dedupe.semantic_settings import WhichToKeep
from pipelines.dedupe.spherical_kmeans import cosines

Floats = npt.NDArray[np.float32]

TILE = 2048  # rows compared with as many at a time: 16 MB of similarities


def cluster_order(cosine: Floats, ranks: Int64s | UInt64s, which: WhichToKeep) -> Int64s:
    """The order in which the rows of one cluster are compared; the first stay.

    Args:
        cosine: Cosine of each row to the centroid.
        ranks: A pseudo-random number for each row, for ties: lower first.
        which: hard: farthest from the centroid first; easy: nearest first; random: by rank alone.
    """
    if which == "random":
        return np.argsort(ranks)
    return np.lexsort((ranks, cosine if which == "hard" else -cosine))


def max_similarity(vectors: Floats, tile: int = TILE, device: str = "cpu") -> tuple[Floats, Int64s]:
    """For each row the highest cosine to a row before it, and which row that is.

    Args:
        vectors: Rows of one cluster in order, each of length one, float32, shape (n, d).
        tile: Rows compared with as many at a time.
        device: Where the products are computed.

    Returns:
        (highest similarity, NaN for the first; position of that row, the first of equal ones, -1 for the
        first), each of shape (n,).
    """
    count = len(vectors)
    best = torch.full((count,), -torch.inf)
    where = torch.full((count,), -1, dtype=torch.int64)
    table = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)
    for start in range(0, count, tile):
        rows = table[start : start + tile]
        for other in range(0, start + 1, tile):
            product = rows @ table[other : other + tile].T
            if other == start:  # only what stands before
                product = product.masked_fill(torch.ones_like(product).triu().bool(), -torch.inf)
            value, index = (part.cpu() for part in product.max(dim=1))
            part = slice(start, start + len(rows))
            better = value > best[part]
            best[part] = torch.where(better, value, best[part])
            where[part] = torch.where(better, index + other, where[part])
    nearest = where.numpy()
    result = np.full(count, np.nan, np.float32)
    for start in range(1, count, tile):
        part = slice(start, start + tile)
        result[part] = cosines(vectors[part], vectors[nearest[part]])
    return result, nearest


def drop_above(similarity: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Rows to drop: those whose highest similarity to a row before is above the threshold."""
    return np.asarray(np.nan_to_num(similarity, nan=-np.inf) > threshold)


def drop_to_fraction(
    similarity: Floats, ranks: npt.NDArray[np.integer], keep: float
) -> npt.NDArray[np.bool_]:
    """Rows to drop so that a fraction stays: those of the highest similarity over all clusters.

    The first row of a cluster stays whatever the fraction, so fewer may be dropped.

    Args:
        similarity: Highest similarity to a row before, NaN for the first of a cluster.
        ranks: A pseudo-random number for each row, for ties: higher goes.
        keep: Fraction to keep.
    """
    drop = np.zeros(len(similarity), np.bool_)
    count = len(similarity) - round(keep * len(similarity))
    order = np.lexsort((ranks, np.nan_to_num(similarity, nan=-np.inf)))[::-1]
    chosen = order[:count]
    drop[chosen[np.isfinite(similarity[chosen])]] = True
    return drop


def representatives(drop: npt.NDArray[np.bool_], nearest: Int64s) -> Int64s:
    """The row that stays for each row: itself, or the end of the chain of nearest rows before it.

    Args:
        drop: Which rows are dropped.
        nearest: Position of the nearest row before, -1 for the first of a cluster, which must not be dropped.
    """
    standing = np.where(drop, nearest, np.arange(len(drop)))
    while np.any(drop[standing]):
        standing = standing[standing]
    return standing
