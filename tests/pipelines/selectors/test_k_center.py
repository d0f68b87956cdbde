"""Greedy k-center."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import Vectors
from pipelines.selectors.k_center import KCenter, farthest_first
from tests.pipelines.selectors.points import Floats, vectors
from tests.pipelines.selectors.tables import EXAMPLES, FEW_EXAMPLES, any_candidates, candidates, kept_rows

Doubles = npt.NDArray[np.float64]


def some_points(count: int, seed: int) -> Floats:
    """Points of which many are equal or equally far from each other."""
    random = np.random.default_rng(seed)
    lattice = random.integers(-2, 3, (count, 3))
    points = np.where(random.random((count, 1)) < 0.5, lattice, random.normal(size=(count, 3)))
    return np.asarray(points, np.float32)


def one_at_a_time(points: Floats, count: int) -> tuple[list[int], Doubles]:
    """The traversal as published, in float64."""
    table = points.astype(np.float64)
    distance = np.full(len(table), np.nan)
    if not len(table) or not count:
        return [], distance
    picked = [int(((table - table.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = np.full(len(table), np.inf)
    while True:
        nearest = np.minimum(nearest, ((table - table[picked[-1]]) ** 2).sum(axis=1))
        nearest[picked] = -1
        if len(picked) == min(count, len(table)):
            break
        picked.append(int(nearest.argmax()))
        distance[picked[-1]] = nearest.max()
    return picked, np.sqrt(np.where(nearest < 0, distance, nearest))


def test_the_first_pick_is_nearest_to_the_mean_and_the_next_are_the_farthest() -> None:
    # mean 3.25: 2 is nearest; then 10 (8 away), then 0 (2 away); 1 is 1 away from 0 and 2
    decisions = KCenter(keep_examples=3).decide_with(candidates([1.0] * 4), vectors([[0], [1], [2], [10]]), 0)
    assert kept_rows(decisions) == [0, 2, 3]
    assert decisions.columns["k_center_rank"].to_pylist() == [3, None, 1, 2]
    assert decisions.columns["k_center_distance"].to_pylist() == [2, 1, None, 8]
    assert decisions.reason.tolist() == [
        "k_center: far from the rows picked before",
        "k_center: near a kept row",
        "k_center: nearest to the mean",
        "k_center: far from the rows picked before",
    ]


@EXAMPLES
@given(st.integers(0, 30), st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 12))
def test_a_pool_gives_what_one_pick_at_a_time_gives(count: int, seed: int, k: int, pool: int) -> None:
    points = some_points(count, seed)
    picked, distance = one_at_a_time(points, k)
    found, found_distance = farthest_first(points, np.ones(count, np.int64), k, pool_rows=pool)
    assert found.tolist() == picked
    assert found_distance == pytest.approx(distance, abs=1e-9, nan_ok=True)


@EXAMPLES
@given(st.integers(1, 9), st.integers(0, 10**6), st.integers(1, 9))
def test_no_row_is_more_than_twice_as_far_as_need_be(count: int, seed: int, k: int) -> None:
    points = some_points(count, seed)
    k = min(k, count)
    between = np.sqrt(((points[:, None].astype(np.float64) - points) ** 2).sum(axis=2))
    least = min(between[:, list(picks)].min(axis=1).max() for picks in combinations(range(count), k))
    picked, _ = farthest_first(points, np.ones(count, np.int64), k)
    assert between[:, picked].min(axis=1).max() <= 2 * least + 1e-9


@FEW_EXAMPLES
@given(st.integers(0, 10**6))
def test_picks_come_nearer_and_nearer_and_no_other_row_is_farther(seed: int) -> None:
    picked, distance = farthest_first(some_points(40, seed), np.ones(40, np.int64), 20, pool_rows=4)
    at_pick = distance[picked][1:]
    assert np.all(np.diff(at_pick) <= 0)
    assert np.delete(distance, picked).max() <= at_pick[-1]


def test_the_number_of_threads_and_blocks_changes_nothing() -> None:
    points = np.random.default_rng(0).normal(size=(9000, 8)).astype(np.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads, pool in ((1, 64), (3, 64), (3, 1000)):
            torch.set_num_threads(threads)
            found.append(farthest_first(points, np.ones(len(points), np.int64), 80, pool_rows=pool))
    finally:
        torch.set_num_threads(before)
    picked, distance = one_at_a_time(points, 80)
    for rows, distances in found:
        assert rows.tolist() == picked
        assert np.array_equal(distances, found[0][1], equal_nan=True)
    assert found[0][1] == pytest.approx(distance, abs=1e-9, nan_ok=True)


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.data())
def test_the_order_of_rows_changes_no_decision(table: pa.Table, seed: int, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(table.num_rows))), dtype=np.int64)
    rows = some_points(table.num_rows, seed)
    unknown = np.flatnonzero(np.random.default_rng(seed).random(len(rows)) < 0.1)
    given_vectors = vectors(rows, *unknown)
    turned = Vectors(rows[order], given_vectors.known[order], rows[:0])
    for selector in (KCenter(keep=0.4), KCenter(keep_tokens=100), KCenter(keep_examples=50)):
        before = selector.decide_with(table, given_vectors, 0)
        after = selector.decide_with(table.take(pa.array(order)), turned, 0)
        assert after.keep.tolist() == before.keep[order].tolist()
        assert after.reason.tolist() == before.reason[order].tolist()
        assert all(reason.startswith("k_center: ") for reason in before.reason)
        for name, column in before.columns.items():
            assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.integers(0, 300))
def test_budgets_are_exact_and_nested(table: pa.Table, seed: int, budget: int) -> None:
    given_vectors = vectors(some_points(table.num_rows, seed))
    in_play = table.num_rows
    everything = KCenter(keep=1).decide_with(table, given_vectors, 0)
    few = KCenter(keep_examples=budget % 30).decide_with(table, given_vectors, 0)
    more = KCenter(keep_examples=budget % 30 + 1).decide_with(table, given_vectors, 0)
    assert everything.keep.sum() == in_play
    assert few.keep.sum() == min(budget % 30, in_play)
    assert not (few.keep & ~more.keep).any()
    by_tokens = KCenter(keep_tokens=budget).decide_with(table, given_vectors, 0)
    kept = table.filter(pa.array(by_tokens.keep))
    assert kept["prompt_tokens"].null_count == 0
    assert sum(kept["prompt_tokens"].to_pylist() + kept["response_tokens"].to_pylist()) <= budget


def test_rows_that_cannot_be_placed_say_why_and_move_nothing() -> None:
    table = candidates([1.0] * 4, prompt_tokens=[10, 10, 10, None])
    given_vectors = vectors([[1, 0], [1, 1], [500, 500], [900, 900]], 2)
    decisions = KCenter(keep_tokens=1000).decide_with(table, given_vectors, 0)
    assert kept_rows(decisions) == [0, 1]
    assert decisions.reason.tolist()[2:] == ["k_center: no vector", "k_center: no token count"]
    assert decisions.columns["k_center_distance"].to_pylist() == [None, 1, None, None]


def test_copies_are_picked_last_and_by_id() -> None:
    points = vectors([[5, 5], [5, 5], [0, 1], [0, 1], [9, 0]])
    ranks = KCenter(keep=1).decide_with(candidates([1.0] * 5), points, 0).columns["k_center_rank"]
    assert sorted(ranks.to_pylist()) == [1, 2, 3, 4, 5]
    first, second, third, fourth, fifth = ranks.to_pylist()
    assert max(first, third, fifth) == 3
    assert (second, fourth) == (4, 5)


def test_a_budget_of_nothing_keeps_nothing() -> None:
    for selector in (KCenter(keep=0), KCenter(keep_examples=0), KCenter(keep_tokens=0)):
        decisions = selector.decide_with(candidates([1.0, 2.0]), vectors([[0, 1], [1, 0]]), 0)
        assert kept_rows(decisions) == []
        assert decisions.columns["k_center_distance"].null_count == 2
        assert len(selector.decide_with(candidates([]), vectors(np.zeros((0, 2))), 0).keep) == 0
