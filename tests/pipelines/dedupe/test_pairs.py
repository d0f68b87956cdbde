"""The verified comparison of rows that share a bucket."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import clusters
from pipelines.dedupe.clusters import stars
from pipelines.dedupe.hashing import Int64s, UInt64s
from pipelines.dedupe.pairs import MAX_LEADERS, jaccard, join_buckets, join_piece

SETS = st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


def as_array(numbers: set[int] | range) -> UInt64s:
    return np.array(sorted(numbers), dtype=np.uint64)


def join(sets: list[set[int]] | list[range], threshold: float, pairwise: int = 128) -> list[tuple[int, int]]:
    """Joins one bucket of all sets."""
    bounds = np.r_[0, np.cumsum([len(members) for members in sets])].astype(np.int64)
    values = np.concatenate([as_array(members) for members in sets])
    rows, starts = np.arange(len(sets)), np.array([0, len(sets)])
    edges: Int64s = join_buckets(rows, starts, values, bounds, threshold, pairwise)
    return [(int(a), int(b)) for a, b in edges.T]


def components(edges: list[tuple[int, int]], rows: int) -> list[int]:
    labels = list(range(rows))
    for _ in range(rows):
        for a, b in edges:
            labels[a] = labels[b] = min(labels[a], labels[b])
    return labels


@given(SETS, SETS)
def test_jaccard_is_shared_over_all(a: set[int], b: set[int]) -> None:
    assert jaccard(as_array(a), as_array(b), 0.0) == len(a & b) / len(a | b)


@given(st.sets(st.integers(0, 20), min_size=1), st.sets(st.integers(0, 20), min_size=1), st.integers(1, 20))
def test_ending_a_comparison_early_never_changes_the_verdict(
    a: set[int], b: set[int], twentieths: int
) -> None:
    threshold = twentieths / 20
    true = len(a & b) / len(a | b)
    assert (jaccard(as_array(a), as_array(b), threshold) >= threshold) == (true >= threshold)


def test_candidates_below_the_threshold_are_not_joined() -> None:
    sets = [range(10), range(1, 11), range(5, 15)]  # 0-1: 9 of 11, 1-2: 6 of 14, 0-2: 5 of 15
    assert join(sets, 0.8) == [(0, 1)]
    assert join(sets, 0.82) == []


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=2, max_size=12))
def test_the_pairs_span_the_components_of_the_true_pairs(sets: list[set[int]]) -> None:
    edges = join(sets, 0.5)
    true = [
        (a, b)
        for a, b in itertools.combinations(range(len(sets)), 2)
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.5
    ]
    assert set(edges) <= set(true)
    assert components(edges, len(sets)) == components(true, len(sets))


def test_a_large_bucket_is_joined_through_leaders() -> None:
    # even rows are alike, odd rows are alike, the two kinds share nothing
    sets = [range(1000 * (row % 2), 1000 * (row % 2) + 100 + row) for row in range(10)]
    assert components(join(sets, 0.8, pairwise=4), 10) == [0, 1] * 5


def test_the_leader_unmatched_for_longest_leaves() -> None:
    strangers = [range(1000 * n, 1000 * n + 10) for n in range(MAX_LEADERS + 1)]
    assert join([range(10), *strangers[1:], range(10)], 0.8, pairwise=4) == []  # its leader has left
    # a leader that is matched on the way stays
    assert (0, 40) in join(
        [range(10), *strangers[1:40], range(10), *strangers[40:], range(10)], 0.8, pairwise=4
    )
    assert (
        len(join([range(10), *strangers[1:40], range(10), *strangers[40:], range(10)], 0.8, pairwise=4)) == 2
    )


def test_a_hundred_thousand_strangers_in_a_bucket_are_not_all_compared() -> None:
    began = time.monotonic()
    assert join([{n} for n in range(100_000)], 0.8) == []
    assert time.monotonic() - began < 60  # all pairs would be five thousand million comparisons


@given(st.lists(st.sets(st.integers(0, 8), min_size=1), min_size=1, max_size=20), st.data())
def test_a_bucket_in_pieces_gives_the_pairs_of_the_whole_bucket(
    sets: list[set[int]], data: st.DataObject
) -> None:
    counts = [len(members) for members in sets]
    bounds = np.r_[0, np.cumsum(counts)].astype(np.int64)
    values = np.concatenate([as_array(members) for members in sets])
    leaders, found = np.zeros(0, np.int64), []
    rest = list(range(len(sets)))
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        edges, leaders = join_piece(np.array(rest[:size]), leaders, values, bounds, 0.5)
        found += [(int(a), int(b)) for a, b in edges.T]
        rest = rest[size:]
    assert found == join(sets, 0.5, pairwise=0)


def test_a_bucket_larger_than_memory_is_joined_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # 600 rows alike, of 50 members each; 200 others among them
    sets = [range(1000 * (row % 4 == 3), 1000 * (row % 4 == 3) + 50) for row in range(800)]
    held: list[int] = []

    def members(rows: Int64s) -> tuple[UInt64s, Int64s]:
        held.append(50 * len(rows))
        values = np.concatenate([as_array(sets[row]) for row in rows.tolist()])
        return values, 50 * np.arange(len(rows) + 1)

    def join_all() -> list[list[int]]:
        bucket = np.arange(800), np.array([0, 800])
        edges: Int64s = clusters._join(bucket, members, lambda rows: np.full(len(rows), 50), 0.8, 128)
        found: list[list[int]] = stars([edges], 800).tolist()
        return found

    whole = join_all()
    held.clear()
    monkeypatch.setattr(clusters, "SHINGLES_IN_MEMORY", 5000)
    assert join_all() == whole
    assert len(held) == 9
    assert max(held) <= 5000 + 50 * MAX_LEADERS
    assert set(whole[0]) == {0, 3}


EDGES = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30)


@given(st.lists(EDGES, max_size=4))
def test_stars_join_each_row_to_the_smallest_of_its_component(parts: list[list[tuple[int, int]]]) -> None:
    arrays = [np.array(part, np.int64).reshape(-1, 2).T for part in parts]
    smallest = components([edge for part in parts for edge in part], 20)
    expected = [[of, row] for row, of in enumerate(smallest) if of != row]
    assert stars(arrays, 20).T.tolist() == expected
    assert stars((stars([array], 20) for array in reversed(arrays)), 20).T.tolist() == expected  # a tree


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_chain_is_one_component(order: int) -> None:
    nodes = np.arange(10_000)
    edges = np.stack([nodes[:-1], nodes[1:]])[:, ::order]
    assert stars([edges], 10_000).tolist() == [[0] * 9_999, list(range(1, 10_000))]
