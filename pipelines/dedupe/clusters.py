"""Duplicate clusters: which examples say the same thing, which of them stays, and how alike they are.

1. `join_copies`: rows with one content hash, or one set of shingles, join the one of smallest number, which
   alone goes on, so a hundred thousand copies cost no more than one.
2. `join_near`: rows that share a band of their MinHash signature are candidates; a candidate pair counts when
   the true Jaccard similarity of its shingle sets reaches the threshold.
3. `stars`: connected components are the clusters, written as one pair for each row but the smallest of its
   component. The pairs of many files become the stars of one, and many of those again the stars of one: a
   tree of merges. Stars of stars are the same whatever the tree.
4. `write_duplicates`: the keeper stays, the others name it.

Steps 1 and 2 run once for each key and range of hashes, each on its own; what they find depends on nothing
but the rows, so not on how the work is spread. A merge is a union-find in one worker that reads one file of
pairs after the other: 8 bytes for each row of the run and 16 for each pair of one file. Step 4 holds about 60
bytes for each row that is alike another. A billion rows with 200 million duplicates so take 12 GB of one
worker, and ten million with two million 120 MB.

Two members of a cluster may be less alike than the threshold: a chain A-B-C of near pairs is one cluster, and
C may lie below the threshold from A. The similarity given is always the true one to the keeper.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.shards import NARROW_ROWS, ShardWriter
from pipelines.dedupe.hashing import Int64s, UInt64s
from pipelines.dedupe.pairs import (
    MAX_PAIRWISE_BUCKET,
    join_buckets,
    join_piece,
    shared_buckets,
    similarities,
    star_edges,
    unite,
)
from pipelines.dedupe.settings import DedupeSettings, KeepBy
from pipelines.dedupe.signatures import CONTENT_KEY, SignatureFiles
from pipelines.drops import DROP_SCHEMA

SHINGLES_IN_MEMORY = 8 * 2**20  # hashes that a task holds at once, except for one row larger than that
KEYS_SORTED = 131_072  # at a time
ROWS_AT_ONCE = 2**18  # whose columns are read
NO_EDGES = np.zeros((2, 0), np.int64)
_NOTHING = (np.zeros(0, np.int64),) * 3

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


def stars(pairs: Iterable[Int64s], rows: int) -> Int64s:
    """Connected components, as pairs of the smallest row of a component and each other row of it.

    Args:
        pairs: Arrays of pairs of row numbers, each of shape (2, m), in any order.
        rows: One more than the largest row number.

    Returns:
        Pairs, shape (2, m): first the smallest row, then the other, ascending in the other. They depend on
        the components only.
    """
    parents = np.arange(rows)
    for edges in pairs:
        unite(parents, edges)
    return star_edges(parents)


def _bucket_runs(
    files: SignatureFiles, key: int, part: int, part_bits: int, excluded: Int64s
) -> Iterator[tuple[Int64s, Int64s]]:
    """The buckets of a range of hashes, a small range at a time, so that sorting stays in the cache.

    One byte for each row of the run is held meanwhile.
    """
    left_out = np.zeros(files.end, np.bool_)
    left_out[excluded] = True
    more = max(0, (files.end >> part_bits) // KEYS_SORTED).bit_length()
    for hashes, rows in files.key_runs(key, part, part_bits, more):
        yield shared_buckets(hashes, rows, left_out)


def _join(
    buckets: tuple[Int64s, Int64s], sets: Sets, count: Callable[[Int64s], Int64s] | None, threshold: float,
    pairwise: int,
) -> Int64s:  # fmt: skip
    """Joins the rows of buckets, as many buckets at once as memory allows."""
    members, bounds = buckets
    rows, positions = np.unique(members, return_inverse=True)
    found = [NO_EDGES]
    for first, end in _blocks(rows, positions, bounds, count):
        bucket = members[bounds[first] : bounds[end]]
        if count is not None and end - first == 1 and len(bucket) > pairwise:
            found += _join_pieces(bucket, sets, count, threshold)
            continue
        some, inside = rows, positions
        if end - first < len(bounds) - 1:
            some, inside = np.unique(bucket, return_inverse=True)
        edges = join_buckets(
            inside, bounds[first : end + 1] - bounds[first], *sets(some), threshold, pairwise
        )
        found.append(some[edges])
    return np.hstack(found)


def _join_pieces(
    bucket: Int64s, sets: Sets, count: Callable[[Int64s], Int64s], threshold: float
) -> Iterator[Int64s]:
    """Joins the rows of one bucket through leaders, as many at once as memory allows.

    Args:
        bucket: Rows, ascending.
        sets: Gives their sets.
        count: Gives the sizes of these.
        threshold: Lowest Jaccard similarity.
    """
    filled = np.cumsum(count(bucket)) // SHINGLES_IN_MEMORY
    leaders = bucket[:0]
    for piece in np.split(bucket, np.flatnonzero(np.diff(filled)) + 1):
        some, inside = np.unique(np.concatenate([leaders, piece]), return_inverse=True)
        held = len(leaders)
        edges, left = join_piece(inside[held:], inside[:held], *sets(some), threshold)
        leaders = some[left]
        yield some[edges]


def _blocks(
    rows: Int64s, positions: Int64s, bounds: Int64s, count: Callable[[Int64s], Int64s] | None
) -> Iterator[tuple[int, int]]:
    """Runs of buckets whose sets fit in memory together, as (first, end)."""
    if len(bounds) < 2:
        return
    if count is None:
        yield 0, len(bounds) - 1
        return
    sizes = np.concatenate([[0], np.cumsum(count(rows)[positions])])[bounds]
    first = 0
    while first < len(bounds) - 1:
        end = int(np.searchsorted(sizes, sizes[first] + SHINGLES_IN_MEMORY, "right")) - 1
        end = min(max(end, first + 1), len(bounds) - 1)
        yield first, end
        first = end


def write_duplicates(
    path: str | Path,
    edges: Int64s,
    files: SignatureFiles,
    settings: DedupeSettings,
    older: Sequence[tuple[int, str]] = (),
) -> None:
    """Writes the rows that are dropped, with the keeper of each and how alike they are to it.

    The keeper is the row of an earlier output if there is one, then as the keep rules say, then the smallest
    id. A row is an "exact" duplicate when its content hash is the keeper's, otherwise "near". Rows of earlier
    outputs are never dropped.

    Args:
        path: The drop file: DROP_SCHEMA, ascending in row; its stats count exact and near duplicates and
            clusters.
        edges: What `stars` gave for all pairs.
        files: The signature files.
        settings: The recipe's `dedupe` section.
        older: For each earlier output its first row number and its name, ascending.
    """
    ours = older[0][0] if older else files.end
    blocks = [_choose(block, files, settings, ours) for block in _whole_clusters(edges)]
    rows, keepers, sizes = (np.concatenate(parts) for parts in zip(_NOTHING, *blocks, strict=True))
    counts = {"exact": 0, "near": 0, "clusters": len(np.unique(keepers))}
    order = np.argsort(rows)
    with ShardWriter(path, DROP_SCHEMA, NARROW_ROWS) as writer:
        for start in range(0, len(order), ROWS_AT_ONCE):
            part = order[start : start + ROWS_AT_ONCE]
            table = _duplicates(rows[part], keepers[part], sizes[part], files, older)
            writer.write(table)
            for kind in pc.value_counts(table["kind"]).to_pylist():
                counts[kind["values"]] += kind["counts"]
        writer.stats = counts


def _whole_clusters(edges: Int64s) -> Iterator[Int64s]:
    """The pairs of `stars` in blocks of about ROWS_AT_ONCE, all of a component in one block."""
    edges = edges[:, np.argsort(edges[0], kind="stable")]
    starts = np.searchsorted(edges[0], edges[0, ::ROWS_AT_ONCE])
    for start, stop in itertools.pairwise([*np.unique(starts), edges.shape[1]]):
        yield edges[:, start:stop]


def _choose(
    edges: Int64s, files: SignatureFiles, settings: DedupeSettings, ours: int
) -> tuple[Int64s, Int64s, Int64s]:
    """The rows below `ours` that leave their component, the one that stays for each, and the size of it."""
    nodes = np.union1d(edges[0], edges[1])
    labels = np.arange(len(nodes))
    labels[np.searchsorted(nodes, edges[1])] = np.searchsorted(nodes, edges[0])
    by_id = np.empty(len(nodes), np.int64)
    by_id[pc.sort_indices(files.rows(nodes, ["id"])["id"]).to_numpy()] = np.arange(len(nodes))
    ranks: list[npt.NDArray[Any]] = [labels, nodes < ours]
    ranks += [_rank(nodes, rule, files) for rule in settings.keep if rule != "first"]
    order = np.lexsort([by_id, *reversed(ranks)])  # the last key weighs most
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    keepers = np.repeat(order[first], sizes)
    leaves = (order != keepers) & (nodes[order] < ours)
    return nodes[order[leaves]], nodes[keepers[leaves]], np.repeat(sizes, sizes)[leaves]


def _duplicates(
    rows: Int64s,
    keepers: Int64s,
    sizes: Int64s,
    files: SignatureFiles,
    older: Sequence[tuple[int, str]],
) -> pa.Table:
    """Rows that are dropped, ascending, as DROP_SCHEMA."""
    nodes, ends = np.unique(np.stack([rows, keepers]), return_inverse=True)
    members = files.rows(nodes, ["id", "content_hash"])
    row, keeper = ends.reshape(2, -1)
    same = np.asarray(pc.equal(members["content_hash"].take(row), members["content_hash"].take(keeper)))
    similarity = np.ones(len(rows))
    similarity[~same] = _similarities(rows[~same], keepers[~same], files)
    kind = np.where(same, "exact", "near")
    columns: dict[str, Any] = {
        "row": rows,
        "id": members["id"].take(row),
        "stage": ["dedupe"] * len(rows),
        "kind": kind,
        "reason": [f"{name} duplicate" for name in kind],
        "duplicate_of": members["id"].take(keeper),
        "duplicate_in": _output_names(keepers, older),
        "similarity": similarity,
        "cluster_size": sizes,
    }
    empty = pa.nulls(len(rows), pa.string())
    return pa.table([columns.get(field.name, empty) for field in DROP_SCHEMA], schema=DROP_SCHEMA)


def _output_names(rows: Int64s, older: Sequence[tuple[int, str]]) -> pa.Array:
    if not older:
        return pa.nulls(len(rows), pa.string())
    names = np.array([None, *(name for _, name in older)], object)
    return pa.array(names[np.searchsorted([first for first, _ in older], rows, "right")], pa.string())


def _rank(nodes: Int64s, rule: str | KeepBy, files: SignatureFiles) -> npt.NDArray[Any]:
    """The smaller, the rather it stays; last are sources that are not listed and rows without a number."""
    if isinstance(rule, KeepBy) and rule.source:
        place = pc.index_in(files.rows(nodes, ["source"])["source"], pa.array(rule.source))
        return np.asarray(place.fill_null(len(rule.source)).to_numpy())
    name = f"field:{rule.highest}" if isinstance(rule, KeepBy) else "response_chars"
    return -np.asarray(files.rows(nodes, [name])[name].cast(pa.float64()).fill_null(-np.inf).to_numpy())


def _similarities(rows: Int64s, keepers: Int64s, files: SignatureFiles) -> npt.NDArray[np.float64]:
    """True Jaccard similarity of each row, ascending, to its keeper."""
    result = np.empty(len(rows))
    filled = np.cumsum(2 * files.shingle_counts(rows)) // SHINGLES_IN_MEMORY  # keepers are about as long
    for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(filled)) + 1):
        if not len(part):
            continue
        needed, ends = np.unique(np.stack([rows[part], keepers[part]]), return_inverse=True)
        left, right = ends.reshape(2, -1)
        result[part] = similarities(*files.shingles(needed), left, right)
    return result
