"""SemDeDup and D4: the arithmetic, by hand and by its invariants."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import spherical_kmeans
from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.semantic_settings import SemanticSettings, WhichToKeep
from pipelines.dedupe.semdedup import (
    cluster_order,
    drop_above,
    drop_to_fraction,
    max_similarity,
    representatives,
)
from pipelines.dedupe.spherical_kmeans import assign, cluster_count, train_centroids
from tests.draws import draws

Floats = npt.NDArray[np.float32]


class FaissPackage:
    def __init__(self, name: str) -> None:
        self.name = name


def at_angles(*degrees: float) -> Floats:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def random_vectors(seed: int, count: int, dimensions: int = 8) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_the_worked_example_drops_the_second_and_third() -> None:
    best, where = max_similarity(at_angles(0, 15, 30))
    assert np.isnan(best[0])
    assert best[1:] == pytest.approx([0.965926, 0.965926], abs=1e-6)
    assert where.tolist() == [-1, 0, 1]
    drop = drop_above(best, 1 - 0.05)
    assert drop.tolist() == [False, True, True]  # though 1 and 3 are only 0.866 alike
    assert representatives(drop, where).tolist() == [0, 0, 0]


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 9))
def test_tiles_give_what_the_whole_matrix_gives(seed: int, count: int, tile: int) -> None:
    vectors = random_vectors(seed, count)
    best, where = max_similarity(vectors, tile)
    product = np.tril(vectors @ vectors.T, -1) + np.triu(np.full((count, count), -np.inf))
    assert best[1:] == pytest.approx(product.max(axis=1)[1:], abs=1e-6)
    assert all(
        vectors[row] @ vectors[at] == pytest.approx(best[row], abs=1e-6)
        for row, at in enumerate(where)
        if row
    )
    assert all(at < row for row, at in enumerate(where))


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(-1, 1), st.floats(-1, 1))
def test_a_lower_threshold_drops_more_and_never_the_first(seed: int, count: int, a: float, b: float) -> None:
    best, where = max_similarity(random_vectors(seed, count, 3))
    low, high = drop_above(best, min(a, b)), drop_above(best, max(a, b))
    assert not low[0]
    assert np.all(low | ~high)
    stays = representatives(low, where)
    assert not low[stays].any()
    assert np.all(stays[~low] == np.flatnonzero(~low))


@given(st.integers(0, 1000), st.integers(1, 20))
def test_copies_in_a_cluster_leave_exactly_one(seed: int, count: int) -> None:
    vectors = np.repeat(random_vectors(seed, 1), count, axis=0)
    assert (~drop_above(max_similarity(vectors)[0], 0.99)).sum() == 1


@given(st.integers(0, 1000), st.integers(1, 9))
def test_copies_have_a_similarity_of_one_wherever_they_stand(seed: int, tile: int) -> None:
    vectors = random_vectors(seed, 12)
    best, _ = max_similarity(np.concatenate([vectors, vectors]), tile)
    assert best[12:] == pytest.approx(np.ones(12), abs=2e-7)
    assert best[1:].max() <= 1
    assert not drop_above(best, 1).any()
    assert np.array_equal(best[12:], max_similarity(np.concatenate([vectors, vectors[::-1]]))[0][:11:-1])


@given(st.integers(0, 1000), st.sampled_from(["hard", "easy", "random"]))
def test_the_order_in_which_rows_come_changes_nothing(seed: int, which: WhichToKeep) -> None:
    vectors, ranks = random_vectors(seed, 40), np.random.default_rng(seed).permutation(40)
    vectors[20:25] = vectors[:5]
    centroid = train_centroids(vectors, 1, seed)

    def by_rank(order: Int64s) -> list[tuple[int, float, int]]:
        _, cosine = assign(vectors[order], centroid)
        order = order[cluster_order(cosine, ranks[order], which)]
        best, where = max_similarity(vectors[order])
        facts = zip(ranks[order], best.tolist(), ranks[order[where]], strict=True)
        return sorted((int(a), b, int(c)) for a, b, c in facts if not np.isnan(b))

    assert by_rank(np.arange(40)) == by_rank(np.random.default_rng(seed + 1).permutation(40))


@given(st.integers(0, 1000))
def test_a_rotation_changes_nothing(seed: int) -> None:
    vectors = random_vectors(seed, 30)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0].astype(np.float32)
    best, where = max_similarity(vectors)
    turned, _ = max_similarity(np.asarray(vectors @ turn, np.float32))
    assert turned[1:] == pytest.approx(best[1:], abs=1e-5)
    assert len(where) == 30


def test_the_order_is_by_distance_to_the_centroid_and_ties_by_rank() -> None:
    cosine = np.array([0.9, 0.1, 0.5, 0.5], np.float32)
    ranks = np.array([0, 1, 3, 2])
    assert cluster_order(cosine, ranks, "hard").tolist() == [1, 3, 2, 0]
    assert cluster_order(cosine, ranks, "easy").tolist() == [0, 3, 2, 1]
    assert cluster_order(cosine, ranks, "random").tolist() == [0, 1, 3, 2]


@given(st.integers(0, 1000), st.integers(2, 60), st.floats(0.05, 1))
def test_a_fraction_keeps_that_many_unless_first_rows_would_go(seed: int, count: int, keep: float) -> None:
    best, _ = max_similarity(random_vectors(seed, count))
    drop = drop_to_fraction(best, np.arange(count), keep)
    assert (~drop).sum() == max(1, round(keep * count))
    if drop.any():
        assert np.nanmin(best[drop]) >= np.nanmax(np.where(drop, -np.inf, np.nan_to_num(best, nan=-np.inf)))


def test_only_one_rule_is_given() -> None:
    model = {"model": {"path": "x"}}
    with pytest.raises(ValueError, match="give only one of threshold, keep"):
        SemanticSettings.model_validate({**model, "threshold": 0.9, "keep": 0.5})
    implied, said = (SemanticSettings.model_validate({**model, **more}) for more in ({}, {"threshold": 0.95}))
    assert implied.rule == said.rule == {"threshold": 0.95}


@draws(10)
@given(st.integers(0, 100))
def test_centroids_have_length_one_and_find_separate_groups(seed: int) -> None:
    centres = np.eye(4, dtype=np.float32)
    around = np.repeat(centres, 50, axis=0) + 0.05 * np.random.default_rng(seed).normal(size=(200, 4))
    vectors: Floats = np.asarray(around / np.linalg.norm(around, axis=1, keepdims=True), np.float32)
    centroids = train_centroids(vectors, 12, seed)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(np.ones(12), abs=1e-5)
    cluster, cosine = assign(vectors, centroids)
    groups = [set(cluster[start : start + 50].tolist()) for start in range(0, 200, 50)]
    assert len(set.union(*groups)) == sum(map(len, groups))  # no cluster holds rows of two groups
    assert cosine.min() > 0.9
    assert np.array_equal(train_centroids(vectors, 12, seed), centroids)


def test_centroids_do_not_depend_on_the_number_of_threads() -> None:
    faiss = spherical_kmeans.load_faiss()
    vectors, before, found = random_vectors(0, 5000, 64), faiss.omp_get_max_threads(), []
    try:
        for threads in (1, 4):
            faiss.omp_set_num_threads(threads)
            found.append(train_centroids(vectors, 20, 3))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], train_centroids(vectors, 20, 4))


def test_one_cluster_needs_no_faiss_and_more_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert train_centroids(at_angles(0, 90), 1, 0)[0] == pytest.approx([np.sqrt(0.5)] * 2)
    assert train_centroids(at_angles(0, 180), 1, 0)[0] == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(ValueError, match=r"pip install 'winnow\[cpu\]'"):
        train_centroids(at_angles(0, 90, 180), 2, 0)


def test_two_packages_of_faiss_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.metadata,
        "distributions",
        lambda: [FaissPackage("faiss-cpu"), FaissPackage("faiss-gpu-cu12")],
    )
    with pytest.raises(ValueError, match="overwrite each other's files"):
        train_centroids(at_angles(0, 90, 180), 2, 0)


def test_small_sets_are_compared_whole() -> None:
    assert cluster_count(spherical_kmeans.FLAT_ROWS) == 1
    assert cluster_count(spherical_kmeans.FLAT_ROWS + 1) > 1
