"""From buckets of rows that may be alike to pairs of rows that are: the verified part of duplicate search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.dedupe.hashing import Int64s, UInt64s
from scorers.compiled import compiled

Bools = npt.NDArray[np.bool_]

# A bucket of at most this many rows is compared pair by pair, a larger one through leaders.
MAX_PAIRWISE_BUCKET = 128
MAX_LEADERS = 64

_SLACK = 1e-6  # rounding must not end a comparison early


@compiled
def jaccard(a: UInt64s, b: UInt64s, threshold: float) -> float:
    """Jaccard similarity of two sets, given as ascending distinct numbers.

    Returns:
        From 0 (nothing shared) to 1 (equal); -1 as soon as it is certain to be below the threshold.
    """
    total = len(a) + len(b)
    needed = threshold * total / (1.0 + threshold) - _SLACK  # shared members, from the definition
    shared = i = j = 0
    while i < len(a) and j < len(b):
        if shared + min(len(a) - i, len(b) - j) < needed:
            return -1.0
        if a[i] == b[j]:
            shared += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return shared / (total - shared)


@compiled
def similarities(values: UInt64s, bounds: Int64s, left: Int64s, right: Int64s) -> np.ndarray:
    """True Jaccard similarity of each pair of rows of one block of sets, float64, shape (len(left),)."""
    result = np.empty(len(left), np.float64)
    for index in range(len(left)):
        a, b = left[index], right[index]
        first, second = values[bounds[a] : bounds[a + 1]], values[bounds[b] : bounds[b + 1]]
        result[index] = jaccard(first, second, 0.0)
    return result


@compiled
def find_root(parents: Int64s, row: int) -> int:
    """The root of a row's tree, halving the path to it."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@compiled
def _alike(values: UInt64s, bounds: Int64s, a: int, b: int, threshold: float) -> bool:
    first, second = values[bounds[a] : bounds[a + 1]], values[bounds[b] : bounds[b + 1]]
    return jaccard(first, second, threshold) >= threshold


@compiled
def _join_pairwise(
    bucket: Int64s,
    values: UInt64s,
    bounds: Int64s,
    threshold: float,
    parents: Int64s,
    edges: Int64s,
    found: int,
) -> int:
    """Compares all pairs of a bucket that no tree joins yet; returns how many edges there are now."""
    for index in range(len(bucket)):
        for other in range(index + 1, len(bucket)):
            a, b = find_root(parents, bucket[index]), find_root(parents, bucket[other])
            if a != b and _alike(values, bounds, bucket[index], bucket[other], threshold):
                parents[max(a, b)] = min(a, b)
                edges[0, found], edges[1, found] = bucket[index], bucket[other]
                found += 1
    return found


@compiled
def _join_leaders(
    bucket: Int64s,
    values: UInt64s,
    bounds: Int64s,
    threshold: float,
    parents: Int64s,
    edges: Int64s,
    found: int,
    leaders: Int64s,
    held: int,
) -> tuple[int, int]:
    """Compares each row of a bucket with at most MAX_LEADERS others.

    `leaders` holds `held` rows, the one matched last is last. Returns how many edges and leaders there are.
    """
    for row in bucket:
        match = held - 1
        while match >= 0 and not _alike(values, bounds, leaders[match], row, threshold):
            match -= 1
        if match >= 0:
            leader = leaders[match]
            a, b = find_root(parents, leader), find_root(parents, row)
            if a != b:
                parents[max(a, b)] = min(a, b)
                edges[0, found], edges[1, found] = leader, row
                found += 1
        else:
            leader = row
            match = 0
            if held < MAX_LEADERS:
                match = held
                held += 1
        for index in range(match, held - 1):  # the one unmatched for longest leaves
            leaders[index] = leaders[index + 1]
        leaders[held - 1] = leader
    return found, held


@compiled
def join_piece(
    piece: Int64s, before: Int64s, values: UInt64s, bounds: Int64s, threshold: float
) -> tuple[Int64s, Int64s]:
    """Joins the rows of a piece of a bucket as `join_buckets` does with leaders.

    Args:
        piece: Rows of the bucket that follow on the pieces before, as positions in the block of sets.
        before: What the piece before left, as positions too; empty for the first.
        values: As for `join_buckets`.
        bounds: As for `join_buckets`.
        threshold: As for `join_buckets`.

    Returns:
        Pairs of positions, shape (2, m), and the leaders for the next piece.
    """
    leaders = np.empty(MAX_LEADERS, np.int64)
    leaders[: len(before)] = before
    parents = np.arange(len(bounds) - 1)
    edges = np.empty((2, len(bounds)), np.int64)
    found, held = _join_leaders(piece, values, bounds, threshold, parents, edges, 0, leaders, len(before))
    return edges[:, :found].copy(), leaders[:held].copy()


@compiled
def shared_buckets(hashes: UInt64s, rows: Int64s, left_out: Bools) -> tuple[Int64s, Int64s]:
    """The rows of each hash that two rows or more have.

    Args:
        hashes: Ascending.
        rows: The row of each hash.
        left_out: For each row of the run whether it does not count.

    Returns:
        The rows of all buckets in the order given; where each bucket begins, and the end of the last.
    """
    members = np.empty(len(rows), np.int64)
    starts = np.zeros(len(rows) // 2 + 2, np.int64)
    buckets = filled = index = 0
    while index < len(rows):
        value = hashes[index]
        while index < len(rows) and hashes[index] == value:
            if not left_out[rows[index]]:
                members[filled] = rows[index]
                filled += 1
            index += 1
        if filled - starts[buckets] > 1:
            buckets += 1
            starts[buckets] = filled
        else:
            filled = starts[buckets]
    return members[:filled].copy(), starts[: buckets + 1].copy()


@compiled
def join_buckets(
    rows: Int64s, starts: Int64s, values: UInt64s, bounds: Int64s, threshold: float, pairwise: int
) -> Int64s:
    """Joins rows that share a bucket and are at least as alike as the threshold.

    In a bucket of at most `pairwise` rows all pairs are compared, except those already joined. In a larger
    one each row, in the order given, is compared with the leaders of the bucket, the one matched last first;
    it joins the first that is alike enough, otherwise it becomes a leader itself. At most MAX_LEADERS are
    held; the one unmatched for longest leaves. That is linear in the size of the bucket. It can miss a pair
    in a bucket of many dissimilar rows.

    Args:
        rows: Members of all buckets, as positions in the block of sets, int64.
        starts: Where each bucket begins in `rows`, and the end of the last.
        values: Members of the sets, ascending within a set, uint64.
        bounds: Where each set begins and ends in `values`.
        threshold: Lowest Jaccard similarity.
        pairwise: Largest bucket that is compared pair by pair; 0 for leaders only.

    Returns:
        Pairs of positions, shape (2, m), without a cycle: m is less than the number of sets.
    """
    parents = np.arange(len(bounds) - 1)
    edges = np.empty((2, len(bounds)), np.int64)
    leaders = np.empty(MAX_LEADERS, np.int64)
    found = 0
    for index in range(len(starts) - 1):
        bucket = rows[starts[index] : starts[index + 1]]
        if len(bucket) <= pairwise:
            found = _join_pairwise(bucket, values, bounds, threshold, parents, edges, found)
        else:
            found, _ = _join_leaders(bucket, values, bounds, threshold, parents, edges, found, leaders, 0)
    return edges[:, :found].copy()


@compiled
def unite(parents: Int64s, edges: Int64s) -> None:
    """Joins the trees of each pair; the smaller root stays a root.

    Args:
        parents: Parent of each node, itself for a root; changed in place.
        edges: Pairs of nodes, shape (2, m).
    """
    for index in range(edges.shape[1]):
        a, b = find_root(parents, edges[0, index]), find_root(parents, edges[1, index])
        parents[max(a, b)] = min(a, b)


@compiled
def star_edges(parents: Int64s) -> Int64s:
    """Pairs of a root and each other node of its tree, shape (2, m), ascending in the other node.

    Args:
        parents: What `unite` left; afterwards each node's root.
    """
    found = 0
    for node in range(len(parents)):
        parents[node] = parents[parents[node]]  # a parent is smaller than its child, so it is done already
        found += parents[node] != node
    edges = np.empty((2, found), np.int64)
    found = 0
    for node in range(len(parents)):
        if parents[node] != node:
            edges[0, found], edges[1, found] = parents[node], node
            found += 1
    return edges


@compiled
def gather_sets(values: UInt64s, bounds: Int64s, positions: Int64s, result: UInt64s, filled: int) -> None:
    """Copies the sets at some positions one after the other into `result` from `filled` on."""
    for position in positions:
        size = bounds[position + 1] - bounds[position]
        result[filled : filled + size] = values[bounds[position] : bounds[position + 1]]
        filled += size
