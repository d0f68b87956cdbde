"""Which rows are dropped once the similarities are known: by a threshold, to a fraction, or by D4."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dedupe.centroid_sample import sample
from pipelines.dedupe.d4 import drop_prototypes
from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.semantic_settings import SemanticSettings
from pipelines.dedupe.semdedup import drop_above, drop_to_fraction, representatives
from pipelines.dedupe.spherical_kmeans import assign, cluster_count, cosines, train_centroids
from pipelines.drops import DROP_SCHEMA
from pipelines.embed import EmbeddedRows
from pipelines.selectors.base import choose
from pipelines.selectors.id_order import id_order
from scorers.models.scoring import one_torch_thread

Bools = npt.NDArray[np.bool_]

DUPLICATE = "semantic duplicate"
PROTOTYPICAL = "D4: prototypical, like many others"
COPY_OF_PROTOTYPICAL = "D4: duplicate of a prototypical row"

_ROWS_AT_ONCE = 16_384


def drop_table(
    table: pa.Table, embedded: EmbeddedRows, settings: SemanticSettings, seed: int
) -> tuple[pa.Table, dict[str, Any]]:
    """The rows to drop.

    Args:
        table: Rows of `pipelines.dedupe.semantic.SIMILARITY_SCHEMA`, ascending in row.
        embedded: The same rows.
        settings: Threshold, fraction or D4.
        seed: The recipe's seed; it breaks ties.

    Returns:
        (DROP_SCHEMA, ascending in row; numbers for the manifest). A semantic duplicate names the row that
        stays for it. A row that D4 drops as prototypical names none, and neither do its duplicates, as
        nothing that they repeat stays. `lowest_similarity` is the lowest M of a duplicate that is dropped.
    """
    rows = table["row"].to_numpy()
    best = np.asarray(table["max_sim_before"].to_numpy(), np.float32)
    nearest = np.searchsorted(rows, table["nearest_before"].fill_null(-1).to_numpy())
    copies, prototypical = _choose(best, table["id"], embedded, settings, seed)
    stays = representatives(copies, nearest)
    named = copies & ~prototypical[stays]
    dropped = np.flatnonzero(copies | prototypical)
    facts = _facts(table["id"], embedded, dropped, stays, named)
    facts["reason"] = choose(
        [PROTOTYPICAL, COPY_OF_PROTOTYPICAL, DUPLICATE], copies[dropped].astype(np.int64) + named[dropped]
    )
    none = pa.nulls(len(dropped), pa.string())
    stats = {
        "semantic": len(dropped),
        "prototypical": int(prototypical.sum()),
        "lowest_similarity": float(best[copies].min()) if copies.any() else None,
    }
    return pa.table([facts.get(field.name, none) for field in DROP_SCHEMA], schema=DROP_SCHEMA), stats


def _choose(
    best: npt.NDArray[np.float32],
    ids: pa.ChunkedArray,
    embedded: EmbeddedRows,
    settings: SemanticSettings,
    seed: int,
) -> tuple[Bools, Bools]:
    """(semantic duplicates, rows that D4 drops besides them)."""
    [(rule, value)] = settings.rule.items()
    nothing = np.zeros(len(best), np.bool_)
    if rule == "threshold":
        return drop_above(best, value), nothing
    ranks = id_order(ids, seed)
    if settings.d4 is None:
        return drop_to_fraction(best, ranks, value), nothing
    copies = drop_to_fraction(best, ranks, settings.d4.dedupe_keep)
    left = np.flatnonzero(~copies)
    cosine = _cluster_again(embedded, left, settings.d4.clusters or cluster_count(len(left)), seed)
    nothing[left] = drop_prototypes(cosine, ranks[left], round(settings.d4.keep * len(best)))
    return copies, nothing


def _cluster_again(embedded: EmbeddedRows, left: Int64s, count: int, seed: int) -> npt.NDArray[np.float32]:
    """D4's second clustering: the cosine of each row that is left to its new centroid."""
    centroids = train_centroids(sample(embedded, left, count, seed), count, seed)
    parts = [left[start : start + _ROWS_AT_ONCE] for start in range(0, len(left), _ROWS_AT_ONCE)]
    with ThreadPoolExecutor(1, initializer=one_torch_thread) as pool:
        found = [pool.submit(assign, embedded.vectors(part), centroids).result()[1] for part in parts]
    return np.concatenate([np.zeros(0, np.float32), *found])


def _facts(
    ids: pa.ChunkedArray, embedded: EmbeddedRows, dropped: Int64s, stays: Int64s, named: Bools
) -> dict[str, Any]:
    """Columns of the dropped rows."""
    size = np.bincount(stays, minlength=len(stays)).astype(np.int32)
    kept = stays[dropped]
    without = ~named[dropped]
    similarity = np.empty(len(dropped))
    for start in range(0, len(dropped), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        similarity[part] = cosines(embedded.vectors(dropped[part]), embedded.vectors(kept[part]))
    return {
        "row": embedded.rows[dropped],
        "id": ids.take(pa.array(dropped)),
        "stage": ["dedupe"] * len(dropped),
        "kind": ["semantic"] * len(dropped),
        "duplicate_of": ids.take(pa.array(kept, mask=without)),
        "similarity": pa.array(similarity, mask=without),
        "cluster_size": pa.array(size[kept], mask=without),
    }
