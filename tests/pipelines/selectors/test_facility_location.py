"""Facility location by lazy greedy, and in parts."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import Vectors
from pipelines.selectors.facility_location import (
    FacilityLocation,
    Picked,
    greedi,
    lazy_greedy,
    random_parts,
)
from pipelines.selectors.id_order import id_order
from pipelines.selectors.vectors import unit_rows
from tests.pipelines.selectors.points import Floats, at_angles, some_points, vectors
from tests.pipelines.selectors.tables import EXAMPLES, FEW_EXAMPLES, any_candidates, candidates, kept_rows

Doubles = npt.NDArray[np.float64]


def unit_points(count: int, seed: int, dimensions: int = 4) -> Floats:
    """Vectors of length one, of which some are copies."""
    return unit_rows(some_points(count, seed, dimensions), np.arange(count))


def similarities(points: Floats) -> Doubles:
    table = points.astype(np.float64)
    distance = np.sqrt(((table[:, None] - table) ** 2).sum(axis=2))
    return np.asarray(np.exp(-distance / points.shape[1]))


def value(similarity: Doubles, picked: npt.ArrayLike) -> float:
    chosen = similarity[:, np.asarray(picked, np.int64)]
    return float(chosen.max(axis=1).sum()) if chosen.size else 0.0


def picks(points: Floats, budget: int, pool: int = 3, weight: Floats | None = None) -> Picked:
    return lazy_greedy(points, np.ones(len(points), np.int64), budget, weight=weight, pool_rows=pool)


def test_the_worked_example_takes_the_middle_and_then_what_is_far_from_it() -> None:
    # Of 0, 10, 20, 90 and 100 degrees, 10 is the most like all together; 90 is the most like what it is not.
    decisions = FacilityLocation(keep_examples=2).decide_with(
        candidates([1.0] * 5), vectors(at_angles(0, 10, 20, 90, 100) * 3), 0
    )
    assert decisions.columns["facility_location_rank"].to_pylist() == [None, 1, None, 2, None]
    _, first, _, second, _ = decisions.columns["facility_location_gain"].to_pylist()
    assert first == pytest.approx(sum(math.exp(-d / 2) for d in chords(10, 0, 10, 80, 90)), abs=1e-6)
    alone = sum(math.exp(-d / 2) for d in chords(80, 90))
    assert second == pytest.approx(sum(math.exp(-d / 2) for d in chords(0, 10)) - alone, abs=1e-6)
    nearest = decisions.columns["facility_location_nearest"].to_pylist()
    assert nearest == ["row001", None, "row001", None, "row003"]
    assert decisions.reason[1] == "facility_location: stands for rows like it"
    assert decisions.reason[0] == "facility_location: added less than others"


def chords(*degrees: float) -> list[float]:
    return [2 * math.sin(math.radians(angle) / 2) for angle in degrees]


@EXAMPLES
@given(st.integers(1, 30), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12), st.booleans())
def test_lazy_greedy_takes_a_row_of_the_highest_gain_each_time(
    count: int, seed: int, budget: int, pool: int, weighted: bool
) -> None:
    points = unit_points(count, seed)
    weight = np.random.default_rng(seed).integers(0, 5, count).astype(np.float32) if weighted else None
    found = picks(points, budget, pool, weight)
    similarity, weights = similarities(points), np.ones(count) if weight is None else weight
    assert len(set(found.picked.tolist())) == len(found.picked) == min(budget, count)
    reached = np.zeros(count)
    for row, gain in zip(found.picked.tolist(), found.gain.tolist(), strict=True):
        gains = weights @ np.maximum(similarity - reached[:, None], 0)
        assert gain == pytest.approx(gains[row], rel=1e-4, abs=1e-3)
        assert gains[row] == pytest.approx(gains.max(), rel=1e-4, abs=1e-3)
        reached = np.maximum(reached, similarity[row])


def plain(points: Floats, budget: int) -> list[int]:
    """Greedy with every gain computed each time, in float64."""
    similarity, reached = similarities(points), np.zeros(len(points))
    picked: list[int] = []
    for _ in range(budget):
        gains = np.maximum(similarity - reached[:, None], 0).sum(axis=0)
        gains[picked] = -1
        picked.append(int(gains.argmax()))
        reached = np.maximum(reached, similarity[picked[-1]])
    return picked


@pytest.mark.parametrize("pool", [1, 7, 64, 500])
def test_lazy_greedy_takes_the_rows_that_plain_greedy_takes(pool: int) -> None:
    points = unit_rows(np.random.default_rng(3).normal(size=(300, 16)).astype(np.float32), np.arange(300))
    assert picks(points, 60, pool).picked.tolist() == plain(points, 60)


@EXAMPLES
@given(st.integers(1, 9), st.integers(0, 10**6), st.integers(1, 9))
def test_the_value_is_at_least_a_part_of_the_best_that_is_known(count: int, seed: int, k: int) -> None:
    points = unit_points(count, seed, 2)
    similarity, k = similarities(points), min(k, count)
    best = max(value(similarity, chosen) for chosen in combinations(range(count), k))
    assert value(similarity, picks(points, k).picked) >= (1 - 1 / math.e) * best


@FEW_EXAMPLES
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 10))
def test_every_row_is_given_the_pick_that_it_is_most_like(count: int, seed: int, budget: int) -> None:
    points = unit_points(count, seed)
    found = picks(points, budget)
    similarity = similarities(points)
    assert similarity[np.arange(count), found.nearest] == pytest.approx(
        similarity[:, found.picked].max(axis=1), abs=1e-3
    )
    assert found.gain.sum() == pytest.approx(value(similarity, found.picked), abs=1e-2)
    assert np.all(np.diff(found.gain) <= 1e-4)


def test_a_weight_counts_a_row_more_often() -> None:
    points = at_angles(0, 10, 180, 190, 200)
    assert picks(points, 1).picked.tolist() == [3]
    assert picks(points, 1, weight=np.array([9, 0, 1, 1, 1], np.float32)).picked.tolist() == [0]


def test_the_number_of_threads_changes_nothing() -> None:
    points = unit_points(5000, 0, 8)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(picks(points, 5, 500))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0].picked, found[1].picked)
    assert np.array_equal(found[0].gain, found[1].gain)
    assert np.array_equal(found[0].nearest, found[1].nearest)


def in_parts(points: Floats, budget: int, rows: int) -> Picked:
    parts = random_parts(id_order(map(str, range(len(points))), 0), rows)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(points)))
    assert max(map(len, parts)) <= rows
    return greedi(points, np.ones(len(points), np.int64), budget, parts, rows)


@FEW_EXAMPLES
@given(st.integers(3, 60), st.integers(0, 10**6), st.integers(0, 70), st.integers(2, 40))
def test_parts_keep_the_budget_exactly(count: int, seed: int, budget: int, rows: int) -> None:
    found = in_parts(unit_points(count, seed), budget, rows)
    assert len(set(found.picked.tolist())) == len(found.picked) == min(budget, count)
    assert set(found.nearest.tolist()) <= {*found.picked.tolist(), -1}
    parts = -(-count // rows)
    if budget >= 1 and rows // parts * parts >= 2 * budget:  # then every part proposes
        assert (found.nearest >= 0).all()


def test_parts_come_near_to_the_whole_and_stay_far_from_chance() -> None:
    random = np.random.default_rng(0)
    around = random.normal(size=(40, 16))[random.zipf(1.3, 600) % 40] + 0.3 * random.normal(size=(600, 16))
    points = unit_rows(around.astype(np.float32), np.arange(600))
    similarity = similarities(points)
    for budget in (30, 140):  # proposals are merged; each part gives its share
        whole = value(similarity, picks(points, budget, 64).picked)
        parted = value(similarity, in_parts(points, budget, 150).picked)
        chance = np.mean([value(similarity, random.permutation(600)[:budget]) for _ in range(5)])
        assert parted <= whole + 1e-3
        assert whole - parted < 0.4 * (whole - chance)


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.sampled_from([7, 1000]), st.data())
def test_the_order_of_rows_changes_no_decision(
    table: pa.Table, seed: int, partition_rows: int, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(table.num_rows))), dtype=np.int64)
    rows = unit_points(table.num_rows, seed)
    known = vectors(rows, *np.flatnonzero(np.random.default_rng(seed).random(len(rows)) < 0.1))
    turned = Vectors(rows[order], known.known[order], rows[:0])
    for budget in ({"keep": 0.4}, {"keep_tokens": 100}, {"keep_examples": 50}):
        selector = FacilityLocation.model_validate({"partition_rows": partition_rows, **budget})
        before = selector.decide_with(table, known, 0)
        after = selector.decide_with(table.take(pa.array(order)), turned, 0)
        assert after.keep.tolist() == before.keep[order].tolist()
        assert after.reason.tolist() == before.reason[order].tolist()
        assert all(reason.startswith("facility_location: ") for reason in before.reason)
        for name, column in before.columns.items():
            assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.integers(0, 300), st.sampled_from([7, 1000]))
def test_budgets_are_kept(table: pa.Table, seed: int, budget: int, partition_rows: int) -> None:
    points = vectors(unit_points(table.num_rows, seed))

    def keep(**given: float) -> npt.NDArray[np.bool_]:
        selector = FacilityLocation.model_validate({"partition_rows": partition_rows, **given})
        return selector.decide_with(table, points, 0).keep

    assert keep(keep=1).all()
    assert keep(keep_examples=budget % 30).sum() == min(budget % 30, table.num_rows)
    kept = table.filter(pa.array(keep(keep_tokens=budget)))
    assert kept["prompt_tokens"].null_count == 0
    assert sum(kept["prompt_tokens"].to_pylist() + kept["response_tokens"].to_pylist()) <= budget


def test_rows_that_cannot_be_placed_say_why_and_need_not_be_covered() -> None:
    table = candidates([1.0] * 6, prompt_tokens=[10, 10, 10, 10, 10, None])
    rows = at_angles(0, 10, 20, 200, 200, 200)
    rows[4] = 0
    decisions = FacilityLocation(keep_tokens=20).decide_with(table, vectors(rows, 3), 0)
    assert kept_rows(decisions) == [1]
    assert decisions.reason.tolist()[3:] == [
        "facility_location: no vector",
        "facility_location: no vector",
        "facility_location: no token count",
    ]
    assert decisions.columns["facility_location_nearest"].to_pylist() == [
        "row001",
        None,
        "row001",
        *[None] * 3,
    ]


def test_a_budget_of_nothing_keeps_nothing() -> None:
    points = vectors(at_angles(0, 90))
    for partition_rows, count in ((2, 2), (2, 0), (9, 0)):
        for budget in ({"keep": 0}, {"keep_examples": 0}, {"keep_tokens": 0}):
            selector = FacilityLocation.model_validate({"partition_rows": partition_rows, **budget})
            some = Vectors(points.rows[:count], points.known[:count], points.target)
            decisions = selector.decide_with(candidates([1.0] * count), some, 0)
            assert len(decisions.keep) == count
            assert not decisions.keep.any()
