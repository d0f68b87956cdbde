"""DEITA's diversity filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe.spherical_kmeans import cosines
from pipelines.selectors.base import Vectors
from pipelines.selectors.deita_diversity import DeitaDiversity, Filtered, filter_diverse
from pipelines.selectors.vectors import unit_rows
from tests.pipelines.selectors.points import Floats, at_angles
from tests.pipelines.selectors.tables import EXAMPLES, FEW_EXAMPLES, any_candidates, candidates, kept_rows

LIMITS = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 0.5**0.5, 0.8, 0.9, 0.99999, 1.0])


def known(rows: Floats, *unknown: int) -> Vectors:
    mask = np.ones(len(rows), np.bool_)
    mask[list(unknown)] = False
    return Vectors(np.where(mask[:, None], rows, 0).astype(np.float32), mask, rows[:0])


def some_vectors(rows: int, seed: int, dimensions: int = 3) -> Vectors:
    """Vectors of any length, many of them alike or at the same angles, and some unknown."""
    random = np.random.default_rng(seed)
    lattice = random.integers(-1, 2, (rows, dimensions)) * random.choice([0.5, 1, 3], (rows, 1))
    points = np.where(random.random((rows, 1)) < 0.6, lattice, random.normal(size=(rows, dimensions)))
    return known(points.astype(np.float32), *np.flatnonzero(random.random(rows) < 0.1))


def unit_vectors(count: int, seed: int) -> Floats:
    points = some_vectors(count, seed).rows
    points = points[np.abs(points).sum(axis=1) > 0]
    return unit_rows(points, np.arange(len(points)))


def one_at_a_time(vectors: Floats, limit: float, budget: int) -> tuple[list[int], list[float]]:
    """The filter as published, in float64."""
    kept: list[int] = []
    highest: list[float] = []
    for row, vector in enumerate(vectors):
        value = max((float(cosines(vector[None], vectors[k : k + 1])[0]) for k in kept), default=-np.inf)
        if not value > limit:
            if len(kept) == budget:
                break
            kept.append(row)
        highest.append(value)
    return kept, highest


def filtered(vectors: Floats, limit: float, budget: int, **sizes: int) -> Filtered:
    return filter_diverse(vectors.copy(), limit, np.ones(len(vectors), np.int64), budget, **sizes)


def test_the_worked_example_keeps_the_first_and_third() -> None:
    selector = DeitaDiversity(column="loss", max_similarity=0.95, keep=1)
    decisions = selector.decide_with(candidates([3.0, 2.0, 1.0]), known(at_angles(0, 15, 30)), 0)
    assert kept_rows(decisions) == [0, 2]
    assert decisions.columns["deita_rank"].to_pylist() == [1, None, 2]
    first, *others = decisions.columns["max_sim_selected"].to_pylist()
    assert first is None
    assert others == pytest.approx([0.965926, 0.866025], abs=1e-6)
    assert decisions.columns["deita_neighbour"].to_pylist() == [None, "row000", "row000"]
    assert decisions.reason.tolist() == [
        "deita: unlike every better row kept",
        "deita: more than 0.95 like a better row",
        "deita: unlike every better row kept",
    ]


def test_the_column_and_the_order_say_which_of_two_rows_alike_is_kept() -> None:
    table, vectors = candidates([1.0, 2.0]), known(at_angles(0, 1))
    assert kept_rows(DeitaDiversity(column="loss", keep=1).decide_with(table, vectors, 0)) == [1]
    lowest = DeitaDiversity(column="loss", order="lowest", keep=1)
    assert kept_rows(lowest.decide_with(table, vectors, 0)) == [0]
    equal = candidates([1.0, 1.0], ids=["b", "a"])
    assert kept_rows(DeitaDiversity(column="loss", keep=1).decide_with(equal, vectors, 0)) == [1]


@EXAMPLES
@given(st.integers(0, 30), st.integers(0, 10**6), LIMITS, st.integers(0, 30), st.integers(1, 9))
def test_blocks_give_what_one_row_at_a_time_gives(
    count: int, seed: int, limit: float, budget: int, block: int
) -> None:
    vectors = unit_vectors(count, seed)
    kept, highest = one_at_a_time(vectors, limit, budget)
    found = filtered(vectors, limit, budget, block=block, tile=block + 1)
    assert found.kept.tolist() == kept
    assert len(found.similarity) == len(highest)
    assert np.nan_to_num(found.similarity, nan=-np.inf) == pytest.approx(highest, abs=2e-7)


@EXAMPLES
@given(st.integers(0, 40), st.integers(0, 10**6), st.floats(-1, 0.999))
def test_kept_rows_are_unlike_each_other_and_dropped_ones_like_a_better_one(
    count: int, seed: int, limit: float
) -> None:
    vectors = unit_vectors(count, seed)
    found = filtered(vectors, limit, count, block=7)
    kept = set(found.kept.tolist())
    for row in range(len(vectors)):
        before = [other for other in kept if other < row]
        highest = max((cosines(vectors[[row]], vectors[[other]])[0] for other in before), default=-np.inf)
        assert (highest <= limit) == (row in kept)
        if row not in kept:
            assert found.neighbour[row] in kept
            assert found.neighbour[row] < row
            assert found.similarity[row] > limit


def test_the_neighbour_is_the_nearest_kept_row_and_of_equally_near_ones_the_better() -> None:
    table = candidates([6.0, 5.0, 4.0, 3.0, 2.0], ids=list("edcba"))
    points = at_angles(30, -30, 0, -29, 31) * np.float32(2)
    decisions = DeitaDiversity(column="loss", max_similarity=0.86, keep=1).decide_with(
        table, known(points), 0
    )
    assert decisions.columns["deita_neighbour"].to_pylist() == [None, "e", "e", "d", "e"]
    assert kept_rows(decisions) == [0, 1]
    assert filtered(at_angles(30, -30, 0), 0.86, 3, block=1, tile=1).neighbour.tolist() == [-1, 0, 0]


def test_a_limit_of_one_keeps_copies_and_a_limit_of_minus_one_keeps_one_row() -> None:
    vectors = np.repeat(
        unit_rows(np.random.default_rng(0).normal(size=(20, 40)).astype("f4"), np.arange(20)), 3, 0
    )
    assert filtered(vectors, 1, 25).kept.tolist() == list(range(25))
    assert filtered(vectors, 0.99999, 60).kept.tolist() == list(range(0, 60, 3))
    assert filtered(vectors, -1, 60).kept.tolist() == [0]


def test_the_number_of_threads_changes_nothing() -> None:
    vectors = unit_rows(np.random.default_rng(1).normal(size=(700, 24)).astype(np.float32), np.arange(700))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(filtered(vectors, 0.6, 700, block=64, tile=100))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert 100 < len(found[0].kept) < 700
    for name in ("kept", "similarity", "neighbour"):
        assert np.array_equal(getattr(found[0], name), getattr(found[1], name), equal_nan=True)


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), LIMITS, st.data())
def test_the_order_of_rows_changes_no_decision(
    table: pa.Table, seed: int, limit: float, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(table.num_rows))), dtype=np.int64)
    vectors = some_vectors(table.num_rows, seed)
    turned = Vectors(vectors.rows[order], vectors.known[order], vectors.target)
    before_rows = vectors.rows.copy()
    for budget in ({"keep": 1}, {"keep": 0.3}, {"keep_tokens": 100}):
        selector = DeitaDiversity.model_validate({"column": "loss", "max_similarity": limit, **budget})
        before = selector.decide_with(table, vectors, 0)
        after = selector.decide_with(table.take(pa.array(order)), turned, 0)
        assert after.keep.tolist() == before.keep[order].tolist()
        assert after.reason.tolist() == before.reason[order].tolist()
        assert all(reason.startswith("deita: ") for reason in before.reason)
        for name, column in before.columns.items():
            assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()
    assert np.array_equal(vectors.rows, before_rows)


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), LIMITS, st.integers(0, 300))
def test_a_budget_keeps_the_first_rows_that_an_unlimited_one_keeps(
    table: pa.Table, seed: int, limit: float, budget: int
) -> None:
    vectors = some_vectors(table.num_rows, seed)

    def ranks(**given: int) -> dict[str, int]:
        selector = DeitaDiversity.model_validate({"column": "loss", "max_similarity": limit, **given})
        found = selector.decide_with(table, vectors, 0).columns["deita_rank"].to_pylist()
        return {name: rank for name, rank in zip(table["id"].to_pylist(), found, strict=True) if rank}

    everything, few = ranks(keep=1), ranks(keep_examples=budget)
    assert few == {name: rank for name, rank in everything.items() if rank <= budget}
    tokens = dict(zip(table["id"].to_pylist(), total_tokens(table), strict=True))
    by_tokens = ranks(keep_tokens=budget)
    assert sum(tokens[name] or 0 for name in by_tokens) <= budget
    assert sorted(by_tokens.values()) == list(range(1, len(by_tokens) + 1))


def total_tokens(table: pa.Table) -> list[int | None]:
    parts = zip(table["prompt_tokens"].to_pylist(), table["response_tokens"].to_pylist(), strict=True)
    return [None if prompt is None else prompt + response for prompt, response in parts]


def test_rows_that_cannot_be_judged_say_why_and_rows_beyond_the_budget_were_not_compared() -> None:
    table = candidates([5.0, 4.0, None, 3.0, 2.0, 1.0], prompt_tokens=[10, 10, 10, None, 10, 10])
    vectors = known(at_angles(0, 0, 40, 80, 120, 160), 0)
    decisions = DeitaDiversity(column="loss", keep_tokens=30).decide_with(table, vectors, 0)
    assert decisions.reason.tolist() == [
        "deita: no vector",
        "deita: unlike every better row kept",
        "deita: no loss (status overflow)",
        "deita: no token count",
        "deita: beyond the budget",
        "deita: beyond the budget",
    ]
    assert decisions.columns["max_sim_selected"].null_count == 6


def test_vectors_that_are_zero_or_not_finite_are_none() -> None:
    rows = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [1, 1]], np.float32)
    decisions = DeitaDiversity(column="loss", keep=1).decide_with(candidates([1.0] * 4), known(rows), 0)
    assert kept_rows(decisions) == [3]


@pytest.mark.parametrize("budget", [{"keep": 0}, {"keep_examples": 0}, {"keep_tokens": 0}])
def test_a_budget_of_nothing_keeps_nothing(budget: dict[str, Any]) -> None:
    selector = DeitaDiversity.model_validate({"column": "loss", **budget})
    assert kept_rows(selector.decide_with(candidates([1.0, 2.0]), known(at_angles(0, 90)), 0)) == []
    assert len(selector.decide_with(candidates([]), known(at_angles()), 0).keep) == 0
