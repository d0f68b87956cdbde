"""SemDeDup as a selector with a budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe.semantic_settings import WhichToKeep
from pipelines.dedupe.semdedup import cluster_order, drop_to_fraction, max_similarity
from pipelines.dedupe.spherical_kmeans import assign, train_centroids
from pipelines.selectors.base import Vectors
from pipelines.selectors.id_order import id_order
from pipelines.selectors.semdedup import SemDeDup, compare
from pipelines.selectors.vectors import unit_rows
from tests.pipelines.selectors.points import at_angles, some_points, vectors
from tests.pipelines.selectors.tables import FEW_EXAMPLES, any_candidates, candidates, kept_rows


def test_the_worked_example_drops_the_row_in_the_middle_first() -> None:
    # Mean direction 16.5 degrees; from the farthest: 0, 34, 15. M: none, cos 34, max(cos 15, cos 19).
    table, points = candidates([1.0] * 3), vectors(at_angles(0, 15, 34) * 2)
    two = SemDeDup(keep_examples=2).decide_with(table, points, 0)
    assert kept_rows(two) == [0, 2]
    assert two.columns["rank_in_cluster"].to_pylist() == [1, 2, 0]
    assert two.columns["max_sim_before"].to_pylist() == [
        pytest.approx(np.cos(np.radians(34)), abs=1e-6),
        pytest.approx(np.cos(np.radians(15)), abs=1e-6),
        None,
    ]
    assert two.columns["nearest_before"].to_pylist() == ["row002", "row000", None]
    assert two.columns["semantic_duplicate_of"].to_pylist() == [None, "row000", None]
    assert two.reason.tolist() == [
        "semdedup: unlike the rows before it",
        "semdedup: like a row before it",
        "semdedup: first of its cluster",
    ]
    one = SemDeDup(keep_examples=1).decide_with(table, points, 0)
    assert kept_rows(one) == [2]
    assert one.columns["semantic_duplicate_of"].to_pylist() == ["row002", "row002", None]


@FEW_EXAMPLES
@given(
    st.integers(1, 40), st.integers(0, 10**6), st.floats(0.05, 1), st.sampled_from(["hard", "easy", "random"])
)
def test_a_fraction_keeps_what_the_dedupe_stage_keeps(
    count: int, seed: int, keep: float, which: WhichToKeep
) -> None:
    table, points = candidates([1.0] * count), some_points(count, seed)
    unit = unit_rows(points, np.arange(count))
    ranks = id_order(table["id"].to_pylist(), 7)
    centroid = train_centroids(unit[np.argsort(ranks)], 1, 7)
    order = cluster_order(assign(unit, centroid)[1], ranks, which)
    similarity = np.empty(count, np.float32)
    similarity[order] = max_similarity(unit[order])[0]
    dropped = drop_to_fraction(similarity, ranks, round(keep * count) / count)

    selector = SemDeDup(keep_examples=max(1, round(keep * count)), which_to_keep=which)
    assert selector.decide_with(table, vectors(points), 7).keep.tolist() == (~dropped).tolist()


def test_rows_are_compared_within_their_cluster_only_and_its_first_row_goes_last() -> None:
    around = np.repeat(np.eye(3), 20, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(60, 3))
    points = vectors(around.astype(np.float32))
    three = SemDeDup(keep_examples=3, clusters=3).decide_with(candidates([1.0] * 60), points, 0)
    assert [row // 20 for row in kept_rows(three)] == [0, 1, 2]
    assert all(reason.endswith("first of its cluster") for reason in three.reason[kept_rows(three)])
    clusters = np.array(three.columns["cluster_id"].to_pylist()).reshape(3, 20)
    assert (clusters == clusters[:, :1]).all()
    unit, ranks = unit_rows(points.rows, np.arange(60)), id_order((f"row{row:03d}" for row in range(60)), 0)
    centroids = train_centroids(unit[np.argsort(ranks)], 3, 0)  # as the dedupe stage trains them
    assert clusters.ravel().tolist() == assign(unit, centroids)[0].tolist()
    kept = {row // 20: f"row{row:03d}" for row in kept_rows(three)}
    named = three.columns["semantic_duplicate_of"].to_pylist()
    assert all(name in (None, kept[row // 20]) for row, name in enumerate(named))
    assert named.count(None) == 3

    two = SemDeDup(keep_examples=2, clusters=3).decide_with(candidates([1.0] * 60), points, 0)
    assert len(kept_rows(two)) == 2
    assert list(two.reason).count("semdedup: first of its cluster, beyond the budget") == 1
    assert two.columns["semantic_duplicate_of"].null_count == 22  # nothing stands for a cluster that is gone


@FEW_EXAMPLES
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 40))
def test_a_copy_goes_before_a_row_that_is_none(count: int, seed: int, keep: int) -> None:
    points = some_points(count, seed)
    decisions = SemDeDup(keep_examples=min(keep, count)).decide_with(
        candidates([1.0] * count), vectors(points), 0
    )
    kinds = np.unique(points, axis=0, return_inverse=True)[1].ravel()
    kept = kinds[decisions.keep]
    assert len(set(kept.tolist())) == min(keep, kinds.max() + 1, count)
    highest = decisions.columns["max_sim_before"].to_numpy(zero_copy_only=False)
    if decisions.keep.any() and not decisions.keep.all():
        assert np.nanmin(highest[~decisions.keep]) >= np.nan_to_num(highest[decisions.keep], nan=-1).max()


def test_the_number_of_threads_changes_nothing() -> None:
    random = np.random.default_rng(0)
    unit = unit_rows(random.normal(size=(3000, 16)).astype(np.float32), np.arange(3000))
    ranks = random.permutation(3000).astype(np.uint64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(compare(unit, ranks, 5, "hard", 0))
    finally:
        torch.set_num_threads(before)
    for name in ("cluster", "cosine", "place", "similarity", "nearest"):
        assert np.array_equal(getattr(found[0], name), getattr(found[1], name), equal_nan=True)


@pytest.mark.parametrize("clusters", [None, 3])
@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.data())
def test_the_order_of_rows_changes_no_decision(
    clusters: int | None, table: pa.Table, seed: int, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(table.num_rows))), dtype=np.int64)
    rows = some_points(table.num_rows, seed)
    known = vectors(rows, *np.flatnonzero(np.random.default_rng(seed).random(len(rows)) < 0.1))
    turned = Vectors(rows[order], known.known[order], rows[:0])
    for budget in ({"keep": 0.4}, {"keep_tokens": 100})[: 1 if clusters else 2]:  # FAISS takes its time
        selector = SemDeDup.model_validate({"clusters": clusters, **budget})
        before = selector.decide_with(table, known, 0)
        after = selector.decide_with(table.take(pa.array(order)), turned, 0)
        assert after.keep.tolist() == before.keep[order].tolist()
        assert after.reason.tolist() == before.reason[order].tolist()
        assert all(reason.startswith("semdedup: ") for reason in before.reason)
        for name, column in before.columns.items():
            assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.integers(0, 300))
def test_budgets_are_exact_and_nested(table: pa.Table, seed: int, budget: int) -> None:
    points = vectors(some_points(table.num_rows, seed))

    def keep(**given: int) -> npt.NDArray[np.bool_]:
        return SemDeDup.model_validate(given).decide_with(table, points, 0).keep

    assert keep(keep=1).all()
    few, more = keep(keep_examples=budget % 30), keep(keep_examples=budget % 30 + 1)
    assert few.sum() == min(budget % 30, table.num_rows)
    assert not (few & ~more).any()
    kept = table.filter(pa.array(keep(keep_tokens=budget)))
    assert kept["prompt_tokens"].null_count == 0
    assert sum(kept["prompt_tokens"].to_pylist() + kept["response_tokens"].to_pylist()) <= budget


def test_rows_that_cannot_be_compared_say_why() -> None:
    table = candidates([1.0] * 4, prompt_tokens=[10, 10, 10, None])
    rows = at_angles(0, 0, 90, 90)
    rows[1] = 0
    decisions = SemDeDup(keep_tokens=1000).decide_with(table, vectors(rows, 2), 0)
    assert kept_rows(decisions) == [0]
    assert decisions.reason.tolist()[1:] == [
        "semdedup: no vector",
        "semdedup: no vector",
        "semdedup: no token count",
    ]
    assert all(column.null_count >= 3 for column in decisions.columns.values())


def test_a_budget_of_nothing_keeps_nothing() -> None:
    for selector in (SemDeDup(keep=0), SemDeDup(keep_examples=0), SemDeDup(keep_tokens=0)):
        for count in (2, 0):
            some = vectors(at_angles(0, 90)[:count])
            decisions = selector.decide_with(candidates([1.0] * count), some, 0)
            assert len(decisions.keep) == count
            assert not decisions.keep.any()
            assert decisions.columns["semantic_duplicate_of"].null_count == count
