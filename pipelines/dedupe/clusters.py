"""Duplicate clusters: which examples say the same thing, which of them stays, and how alike they are.

1. `join_copies`: rows with one content hash, or one set of shingles, join the one of smallest number, which
   alone goes on, so a hundred thousand copies cost no more than one.
2. `join_near`: rows that share a band of their MinHash signature are candidates; a candidate pair counts when
   the true Jaccard similarity of its shingle sets reaches the threshold.
3. `duplicate_table`: connected components are the clusters; the keeper stays, the others name it.

Steps 1 and 2 run once for each key and range of hashes, each on its own; what they find depends on nothing
but the rows, so not on how the work is spread. Step 3 is one union-find over the pairs found: 16 bytes a
pair, at most one pair a row and key, and 8 bytes a row that is in a pair.

Two members of a cluster may be less alike than the threshold: a chain A-B-C of near pairs is one cluster, and
C may lie below the threshold from A. The similarity given is always the true one to the keeper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedupe.hashing import Int64s, UInt64s
from pipelines.dedupe.pairs import MAX_PAIRWISE_BUCKET, join_buckets, label_components, similarities
from pipelines.dedupe.settings import DedupeSettings, KeepBy
from pipelines.dedupe.signatures import CONTENT_KEY, SignatureFiles
from pipelines.drops import DROP_SCHEMA

SHINGLES_IN_MEMORY = (
    8 * 2**20
)  # hashes that a task holds at once, except for one bucket or row larger than that
KEYS_SORTED = 131_072  # at a time
NO_EDGES = np.zeros((2, 0), np.int64)

Sets = Callable[[Int64s], tuple[UInt64s, Int64s]]
"""Gives the sets of some rows, by ascending row number: members, and where each set begins and ends."""


def join_copies(files: SignatureFiles, key: int, part: int, part_bits: int, excluded: Int64s) -> Int64s:
    """Joins rows of equal content, or of equal shingle sets, to one row each.

    Args:
        files: The signature files.
        key: CONTENT_KEY or SET_KEY.
        part: Which range of hashes.
        part_bits: Into how many ranges, as a power of two.
        excluded: Rows to leave out, ascending.

    Returns:
        Pairs of row numbers, shape (2, m).
    """
    sets, count = (files.content, None) if key == CONTENT_KEY else (files.shingles, files.shingle_counts)
    found = (
        _join(buckets, sets, count, threshold=1.0, pairwise=0)
        for buckets in _bucket_runs(files, key, part, part_bits, excluded)
    )
    return np.hstack([NO_EDGES, *found])


def join_near(
    files: SignatureFiles, key: int, part: int, part_bits: int, excluded: Int64s, threshold: float
) -> Int64s:
    """Joins rows that share a band and are at least as alike as the threshold; arguments as `join_copies`.

    `excluded` holds the copies too: all but the smallest row of those that are equal.
    """
    found = (
        _join(buckets, files.shingles, files.shingle_counts, threshold, MAX_PAIRWISE_BUCKET)
        for buckets in _bucket_runs(files, key, part, part_bits, excluded)
    )
    return np.hstack([NO_EDGES, *found])


def copies_of(edges: Int64s) -> Int64s:
    """The rows that are not the smallest of their copies, ascending, from the pairs of `join_copies`."""
    nodes, ends = np.unique(edges, return_inverse=True)
    labels = label_components(ends.reshape(edges.shape), len(nodes))
    return np.asarray(nodes[labels != np.arange(len(nodes))], np.int64)


def _bucket_runs(
    files: SignatureFiles, key: int, part: int, part_bits: int, excluded: Int64s
) -> Iterator[tuple[Int64s, Int64s]]:
    """The buckets of a range of hashes, a small range at a time, so that sorting stays in the cache."""
    more = max(0, (files.end >> part_bits) // KEYS_SORTED).bit_length()
    for small in range(part << more, (part + 1) << more):
        yield _buckets(*_without(files.keys(key, small, part_bits + more), excluded))


def _without(keys: tuple[UInt64s, Int64s], excluded: Int64s) -> tuple[UInt64s, Int64s]:
    """The keys of the rows that are not excluded; one byte for each row of the run is held meanwhile."""
    hashes, rows = keys
    if not len(excluded) or not len(rows):
        return keys
    stays = np.ones(max(int(excluded[-1]), int(rows.max())) + 1, np.bool_)
    stays[excluded] = False
    left = stays[rows]
    return hashes[left], rows[left]


def _buckets(hashes: UInt64s, rows: Int64s) -> tuple[Int64s, Int64s]:
    """Rows of each hash that two rows or more have: members, ascending in a bucket, and the bucket bounds."""
    if not len(hashes):
        return rows, np.zeros(1, np.int64)
    starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    sizes = np.diff(np.r_[starts, len(hashes)])
    shared = sizes > 1
    return rows[np.repeat(shared, sizes)], np.r_[0, np.cumsum(sizes[shared])]


def _join(
    buckets: tuple[Int64s, Int64s], sets: Sets, count: Callable[[Int64s], Int64s] | None, threshold: float,
    pairwise: int,
) -> Int64s:  # fmt: skip
    """Joins the rows of buckets, as many buckets at once as memory allows."""
    members, bounds = buckets
    found = [NO_EDGES]
    for first, end in _blocks(members, bounds, count):
        chosen = members[bounds[first] : bounds[end]]
        rows, positions = np.unique(chosen, return_inverse=True)
        starts = bounds[first : end + 1] - bounds[first]
        edges = join_buckets(positions, starts, *sets(rows), threshold, pairwise)
        found.append(rows[edges])
    return np.hstack(found)


def _blocks(
    members: Int64s, bounds: Int64s, count: Callable[[Int64s], Int64s] | None
) -> Iterator[tuple[int, int]]:
    """Runs of buckets whose sets fit in memory together, as (first, end)."""
    if len(bounds) < 2:
        return
    if count is None:
        yield 0, len(bounds) - 1
        return
    rows, positions = np.unique(members, return_inverse=True)
    sizes = np.concatenate([[0], np.cumsum(count(rows)[positions])])[bounds]
    first = 0
    while first < len(bounds) - 1:
        end = int(np.searchsorted(sizes, sizes[first] + SHINGLES_IN_MEMORY, "right")) - 1
        end = min(max(end, first + 1), len(bounds) - 1)
        yield first, end
        first = end


def duplicate_table(
    edges: Int64s, files: SignatureFiles, settings: DedupeSettings, older: Sequence[tuple[int, str]] = ()
) -> tuple[pa.Table, dict[str, int]]:
    """The rows that are dropped, with the keeper of each and how alike they are to it.

    The keeper is the row of an earlier output if there is one, then as the keep rules say, then the smallest
    id. A row is an "exact" duplicate when its content hash is the keeper's, otherwise "near". Rows of earlier
    outputs are never dropped.

    Args:
        edges: Pairs of row numbers, shape (2, m), in any order.
        files: The signature files.
        settings: The recipe's `dedupe` section.
        older: For each earlier output its first row number and its name, ascending.

    Returns:
        DROP_SCHEMA, ascending in row; and counts of exact and near duplicates and of clusters.
    """
    nodes, ends = np.unique(edges, return_inverse=True)
    if not len(nodes):
        return DROP_SCHEMA.empty_table(), {"exact": 0, "near": 0, "clusters": 0}
    labels = label_components(ends.reshape(edges.shape), len(nodes))
    members = files.rows(nodes, ["id", "source", "content_hash", "response_chars", *_field_columns(settings)])
    ours = older[0][0] if older else files.end
    keeper, size = _keepers(members, labels, nodes >= ours, settings)
    dropped = np.flatnonzero((keeper != np.arange(len(nodes))) & (nodes < ours))
    stays = keeper[dropped]
    same = np.asarray(pc.equal(members["content_hash"].take(dropped), members["content_hash"].take(stays)))
    similarity = np.ones(len(dropped))
    near = np.flatnonzero(~same)
    similarity[near] = _similarities(nodes[dropped[near]], nodes[stays[near]], files)
    kind = np.where(same, "exact", "near")
    count = len(dropped)
    columns: dict[str, Any] = {
        "row": nodes[dropped],
        "id": members["id"].take(dropped),
        "stage": ["dedupe"] * count,
        "kind": kind,
        "reason": [f"{name} duplicate" for name in kind],
        "duplicate_of": members["id"].take(stays),
        "duplicate_in": _output_names(nodes[stays], older),
        "similarity": similarity,
        "cluster_size": size[dropped],
    }
    empty = pa.nulls(count, pa.string())
    table = pa.table([columns.get(field.name, empty) for field in DROP_SCHEMA], schema=DROP_SCHEMA)
    clusters = len(np.unique(keeper[dropped]))
    return table, {"exact": int(same.sum()), "near": len(near), "clusters": clusters}


def _output_names(rows: Int64s, older: Sequence[tuple[int, str]]) -> pa.Array:
    if not older:
        return pa.nulls(len(rows), pa.string())
    names = np.array([None, *(name for _, name in older)], object)
    return pa.array(names[np.searchsorted([first for first, _ in older], rows, "right")], pa.string())


def _field_columns(settings: DedupeSettings) -> list[str]:
    return [f"field:{name}" for name in settings.fields]


def _keepers(
    members: pa.Table, labels: Int64s, is_older: npt.NDArray[np.bool_], settings: DedupeSettings
) -> tuple[Int64s, npt.NDArray[np.int32]]:
    """For each member the position of its cluster's keeper, and the size of its cluster."""
    by_id = np.empty(len(labels), np.int64)
    by_id[pc.sort_indices(members["id"]).to_numpy()] = np.arange(len(labels))
    ranks: list[npt.NDArray[Any]] = [labels, ~is_older]
    ranks += [_rank(members, rule) for rule in settings.keep if rule != "first"]
    order = np.lexsort([by_id, *reversed(ranks)])  # the last key weighs most
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    keeper = np.empty(len(order), np.int64)
    size = np.empty(len(order), np.int32)
    keeper[order] = np.repeat(order[first], counts)
    size[order] = np.repeat(counts, counts)
    return keeper, size


def _rank(members: pa.Table, rule: str | KeepBy) -> npt.NDArray[Any]:
    """The smaller, the rather it stays; last are sources that are not listed and rows without a number."""
    if isinstance(rule, KeepBy) and rule.source:
        place = pc.index_in(members["source"], pa.array(rule.source))
        return np.asarray(place.fill_null(len(rule.source)).to_numpy())
    if isinstance(rule, KeepBy):
        return -np.asarray(members[f"field:{rule.highest}"].fill_null(-np.inf).to_numpy())
    return -np.asarray(members["response_chars"].to_numpy())


def _similarities(rows: Int64s, keepers: Int64s, files: SignatureFiles) -> npt.NDArray[np.float64]:
    """True Jaccard similarity of each row to its keeper."""
    result = np.empty(len(rows))
    for part in np.array_split(np.arange(len(rows)), len(rows) // 16_384 + 1):
        if not len(part):
            continue
        needed, ends = np.unique(np.stack([rows[part], keepers[part]]), return_inverse=True)
        left, right = ends.reshape(2, -1)
        result[part] = similarities(*files.shingles(needed), left, right)
    return result
