"""D4 as a selector with a budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe.d4 import drop_prototypes
from pipelines.dedupe.spherical_kmeans import assign, train_centroids
from pipelines.selectors.base import Vectors
from pipelines.selectors.d4 import D4
from pipelines.selectors.id_order import id_order
from pipelines.selectors.semdedup import SemDeDup
from pipelines.selectors.vectors import unit_rows
from tests.pipelines.selectors.points import at_angles, some_points, vectors
from tests.pipelines.selectors.tables import FEW_EXAMPLES, any_candidates, candidates, kept_rows


def test_the_worked_example_keeps_the_two_farthest_from_the_centroid() -> None:
    # The example's points 0, .1, .2, 1 as angles 0, 6, 12, 60: the centroid is at about 19 degrees.
    decisions = D4(keep=0.5, dedupe_keep=1).decide_with(
        candidates([1.0] * 4), vectors(at_angles(0, 6, 12, 60) * 5), 0
    )
    assert kept_rows(decisions) == [0, 3]
    assert np.argsort(decisions.columns["d4_cos_to_centroid"].to_pylist()).tolist() == [3, 0, 1, 2]
    assert decisions.reason.tolist() == [
        "d4: unlike most others",
        "d4: prototypical, like many others",
        "d4: prototypical, like many others",
        "d4: unlike most others",
    ]


def test_duplicates_go_before_the_second_clustering_and_name_only_a_row_that_is_kept() -> None:
    # Without its copies at 1 degree, row 0 is the nearest to the mean direction of 0, 60 and -50 degrees.
    points = vectors(at_angles(0, 1, 60, -50))
    two = D4(keep=0.5, dedupe_keep=0.75).decide_with(candidates([1.0] * 4), points, 0)
    assert kept_rows(two) == [2, 3]
    assert sorted(two.reason[:2]) == ["d4: prototypical, like many others", "d4: semantic duplicate"]
    assert two.columns["semantic_duplicate_of"].null_count == 4
    assert two.columns["d4_cos_to_centroid"].null_count == 1
    three = D4(keep=0.75, dedupe_keep=0.75).decide_with(candidates([1.0] * 4), points, 0)
    named = three.columns["semantic_duplicate_of"].drop_null().to_pylist()
    assert named == [f"row{row:03d}" for row in kept_rows(three) if row < 2]


@FEW_EXAMPLES
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 40))
def test_each_step_alone_is_what_it_is_called(count: int, seed: int, keep: int) -> None:
    table, points = candidates([1.0] * count), some_points(count, seed)
    unit, ranks = unit_rows(points, np.arange(count)), id_order(table["id"].to_pylist(), 0)
    cosine = assign(unit, train_centroids(unit[np.argsort(ranks)], 1, 0))[1]
    prototypes = D4(keep_examples=keep, dedupe_keep=1).decide_with(table, vectors(points), 0)
    assert prototypes.keep.tolist() == (~drop_prototypes(cosine, ranks, keep)).tolist()

    fraction = max(1, min(keep, count)) / count
    deduped = D4(keep=fraction, dedupe_keep=fraction).decide_with(table, vectors(points), 0)
    only = SemDeDup(keep=fraction).decide_with(table, vectors(points), 0)
    assert deduped.keep.tolist() == only.keep.tolist()


@FEW_EXAMPLES
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 40), st.floats(0.1, 1))
def test_kept_rows_are_farther_from_their_centroids_than_prototypical_ones(
    count: int, seed: int, keep: int, dedupe_keep: float
) -> None:
    selector = D4(keep_examples=keep, dedupe_keep=dedupe_keep)
    decisions = selector.decide_with(candidates([1.0] * count), vectors(some_points(count, seed)), 0)
    left = max(1, round(dedupe_keep * count))
    assert decisions.keep.sum() == min(keep, left)
    cosine = decisions.columns["d4_cos_to_centroid"].to_numpy(zero_copy_only=False)
    prototypical = decisions.reason == "d4: prototypical, like many others"
    assert np.isfinite(cosine).sum() == decisions.keep.sum() + prototypical.sum() == left
    if prototypical.any() and decisions.keep.any():
        assert cosine[prototypical].min() >= cosine[decisions.keep].max()


def test_a_fraction_above_what_dedupe_leaves_is_refused_and_a_number_is_all_that_is_left() -> None:
    with pytest.raises(ValueError, match=r"keep 0\.9 is above dedupe_keep 0\.75"):
        D4(keep=0.9)
    decisions = D4(keep_examples=100, dedupe_keep=0.5).decide_with(
        candidates([1.0] * 8), vectors(some_points(8, 0)), 0
    )
    assert decisions.keep.sum() == 4


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
        selector = D4.model_validate({"clusters": clusters, "clusters_again": clusters, **budget})
        before = selector.decide_with(table, known, 0)
        after = selector.decide_with(table.take(pa.array(order)), turned, 0)
        assert after.keep.tolist() == before.keep[order].tolist()
        assert after.reason.tolist() == before.reason[order].tolist()
        assert all(reason.startswith("d4: ") for reason in before.reason)
        for name, column in before.columns.items():
            assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@FEW_EXAMPLES
@given(any_candidates(), st.integers(0, 99), st.integers(0, 300))
def test_budgets_of_tokens_are_never_exceeded_and_nested(table: pa.Table, seed: int, budget: int) -> None:
    points = vectors(some_points(table.num_rows, seed))

    def keep(**given: int) -> npt.NDArray[np.bool_]:
        return D4.model_validate({"dedupe_keep": 1, **given}).decide_with(table, points, 0).keep

    assert keep(keep=1).all()
    few = keep(keep_tokens=budget)
    assert not (few & ~keep(keep_tokens=budget + 40)).any()
    kept = table.filter(pa.array(few))
    assert kept["prompt_tokens"].null_count == 0
    assert sum(kept["prompt_tokens"].to_pylist() + kept["response_tokens"].to_pylist()) <= budget


def test_rows_that_cannot_be_compared_say_why() -> None:
    table = candidates([1.0] * 4, prompt_tokens=[10, 10, 10, None])
    rows = at_angles(0, 0, 90, 90)
    rows[1] = 0
    decisions = D4(keep_tokens=1000).decide_with(table, vectors(rows, 2), 0)
    assert kept_rows(decisions) == [0]
    assert decisions.reason.tolist()[1:] == ["d4: no vector", "d4: no vector", "d4: no token count"]
    assert all(column.null_count >= 3 for column in decisions.columns.values())


def test_a_budget_of_nothing_keeps_nothing() -> None:
    for selector in (D4(keep=0), D4(keep_examples=0), D4(keep_tokens=0)):
        for count in (2, 0):
            some = vectors(at_angles(0, 90)[:count])
            decisions = selector.decide_with(candidates([1.0] * count), some, 0)
            assert len(decisions.keep) == count
            assert not decisions.keep.any()
