"""K-shot selection: likeness to the task, near copies against a plain loop, and the decisions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import runner
from pipelines.selectors import kshot
from pipelines.selectors.base import Decisions, Vectors
from pipelines.selectors.kshot import (
    KEPT,
    UNDECIDED,
    Kshot,
    cosine_to_mean,
    drop_near_copies,
    nearest_cosine,
)
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows

Rows = npt.NDArray[np.float32]

NEAREST, COPY, FAR = (
    f"kshot: {text}"
    for text in (
        "among the nearest to the task",
        "near copy of a row nearer to the task",
        "not among the nearest to the task",
    )
)


def at_angles(*degrees: float) -> Rows:
    """Vectors at some angles, of lengths from 1 up: lengths must not count."""
    radians = np.radians(degrees)
    lengths = np.arange(1, len(degrees) + 1)[:, None]
    return np.asarray(lengths * np.stack([np.cos(radians), np.sin(radians)], axis=1), np.float32)


def some_vectors(seed: int, count: int, dimensions: int = 3) -> Rows:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def in_play(vectors: Rows, target: Rows, known: list[bool] | None = None) -> Vectors:
    return Vectors(vectors, np.ones(len(vectors), np.bool_) if known is None else np.array(known), target)


def select(vectors: Vectors, table: pa.Table | None = None, **options: Any) -> Decisions:  # noqa: ANN401 - of several types
    table = candidates([1.0] * len(vectors.rows)) if table is None else table
    return Kshot(**{"target": "t.jsonl"} | options).decide_with(table, vectors, 0)


def cosine(a: Rows, b: Rows) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_plain_loop(vectors: Rows, limit: float) -> list[int]:
    dropper: list[int] = []
    for row in range(len(vectors)):
        like = (at for at in range(row) if dropper[at] == KEPT and cosine(vectors[row], vectors[at]) > limit)
        dropper.append(next(like, KEPT))
    return dropper


def test_the_nearest_are_picked_and_near_copies_of_nearer_rows_dropped() -> None:
    # The task points to 0 degrees. 20 is within arccos 0.9 = 25.8 of 0; 40 of 20, which is dropped; 60 of 40.
    vectors = in_play(at_angles(60, 40, 20, 0, 170), at_angles(0))
    found = select(vectors, keep_examples=4)
    assert kept_rows(found) == [1, 3]
    assert found.reason.tolist() == [COPY, NEAREST, COPY, NEAREST, FAR]
    assert found.columns["dropped_by"].to_pylist() == ["row001", None, "row003", None, None]
    assert found.columns["kshot_rank"].to_pylist() == [4, 3, 2, 1, 5]
    angles = np.cos(np.radians([60, 40, 20, 0, 170]))
    assert found.columns["kshot_rel"].to_pylist() == pytest.approx(angles, abs=1e-6)


def test_likeness_is_the_mean_of_the_cosines_to_the_examples() -> None:
    vectors, target = some_vectors(0, 9), some_vectors(1, 4)
    found = cosine_to_mean(vectors, np.arange(9), target)
    for row in range(9):
        assert found[row] == pytest.approx(np.mean([cosine(vectors[row], one) for one in target]))


def test_the_order_is_that_of_the_distance_to_the_mean() -> None:
    vectors, target = some_vectors(0, 50), some_vectors(1, 4) + 1
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = (target / np.linalg.norm(target, axis=1, keepdims=True)).mean(axis=0)
    distance = np.linalg.norm(units - mean, axis=1)
    found = cosine_to_mean(vectors, np.arange(50), target)
    assert np.argsort(-found).tolist() == np.argsort(distance).tolist()


def test_a_task_of_two_kinds_needs_the_nearest_example() -> None:
    vectors = in_play(at_angles(0, 45, 90), at_angles(0, 90))
    assert kept_rows(select(vectors, keep_examples=1)) == [1]  # like the mean, and like no example
    assert kept_rows(select(vectors, keep_examples=2, probe="nearest")) == [0, 2]
    opposite = in_play(at_angles(0, 45), at_angles(0, 180))
    with pytest.raises(ValueError, match="2 target examples cancel out.*use probe: nearest"):
        select(opposite, keep=1)
    assert kept_rows(select(opposite, keep_examples=1, probe="nearest")) == [0]


@EXAMPLES
@given(st.integers(0, 999), st.integers(0, 20), st.integers(1, 6))
def test_the_nearest_cosine_is_the_highest(seed: int, count: int, targets: int) -> None:
    vectors, target = some_vectors(seed, count), some_vectors(seed + 1, targets)
    found = nearest_cosine(vectors, np.arange(count), target)
    assert found == pytest.approx([max(cosine(row, one) for one in target) for row in vectors])


@EXAMPLES
@given(st.integers(0, 999), st.integers(0, 40), st.sampled_from([-1.0, 0.0, 0.5, 0.9, 0.99]))
def test_blocks_drop_what_a_plain_loop_drops(seed: int, count: int, limit: float) -> None:
    vectors = some_vectors(seed, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kshot, "ROWS_AT_ONCE", 7)
        patch.setattr(kshot, "TILE", 3)
        assert drop_near_copies(vectors, np.arange(count), limit).tolist() == by_plain_loop(vectors, limit)
    assert drop_near_copies(vectors, np.arange(count), limit).tolist() == by_plain_loop(vectors, limit)


@EXAMPLES
@given(st.integers(0, 999), st.integers(1, 30), st.floats(0, 0.99))
def test_no_kept_pair_is_nearer_than_allowed_and_every_copy_is_near_a_kept_row(
    seed: int, count: int, limit: float
) -> None:
    vectors = in_play(some_vectors(seed, count), some_vectors(seed + 1, 2))
    found = select(vectors, keep=1, max_similarity=limit, probe="nearest")
    kept = kept_rows(found)
    for one in kept:
        assert all(cosine(vectors.rows[one], vectors.rows[other]) <= limit for other in kept if other != one)
    ranks = found.columns["kshot_rank"].to_pylist()
    for row, by in enumerate(found.columns["dropped_by"].to_pylist()):
        assert (by is None) == (row in kept)
        if by is not None:
            assert int(by[3:]) in kept
            assert ranks[int(by[3:])] < ranks[row]
            assert cosine(vectors.rows[row], vectors.rows[int(by[3:])]) > limit


def test_the_limits_of_similarity() -> None:
    vectors = in_play(at_angles(0, 0, 10, 120), at_angles(0))
    assert kept_rows(select(vectors, keep=1, max_similarity=1)) == [0, 1, 2, 3]  # copies too
    assert kept_rows(select(vectors, keep=1, max_similarity=0.999999)) == [0, 2, 3]
    assert kept_rows(select(vectors, keep=1, max_similarity=-1)) == [0]


def test_a_cosine_of_exactly_the_limit_is_allowed() -> None:
    # 3-4-5 triangles: the cosine of (1, 0) and (3, 4) is 0.6, of (1, 0) and (4, 3) is 0.8
    for limit, vector in ((0.6, [3, 4]), (0.8, [4, 3])):
        for scale in (1, 3, 7, 1000):
            rows = np.array([[scale, 0], vector], np.float32)
            assert drop_near_copies(rows, np.arange(2), limit).tolist() == [KEPT, KEPT]
            assert drop_near_copies(rows, np.arange(2), limit - 1e-9).tolist() == [KEPT, 0]


def test_what_float32_cannot_tell_is_decided_in_float64() -> None:
    for seed in range(50):
        rows = some_vectors(seed, 2, 50)
        exact = cosine(*rows)
        assert drop_near_copies(rows, np.arange(2), exact + 1e-9).tolist() == [KEPT, KEPT]
        assert drop_near_copies(rows, np.arange(2), exact - 1e-9).tolist() == [KEPT, 0]


def test_nothing_is_more_alike_than_1_whatever_its_length() -> None:
    rows = np.concatenate([some_vectors(0, 1, 50) * np.float32(scale) for scale in np.linspace(0.1, 9, 300)])
    assert (drop_near_copies(rows, np.arange(300), 1.0) == KEPT).all()


def test_refill_takes_the_next_in_rank_until_the_budget_is_full() -> None:
    vectors = in_play(at_angles(0, 1, 2, 30, 60, 90, 91), at_angles(0))
    assert kept_rows(select(vectors, keep_examples=3)) == [0]
    assert kept_rows(select(vectors, keep_examples=3, refill=True)) == [0, 3, 4]
    found = select(vectors, keep_examples=2, refill=True)
    assert found.reason.tolist() == [NEAREST, COPY, COPY, NEAREST, FAR, FAR, FAR]
    assert kept_rows(select(vectors, keep_examples=9, refill=True)) == [0, 3, 4, 5]
    table = candidates([1.0] * 7, prompt_tokens=[1, 9, 9, 4, 6, 1, 1], response_tokens=[0] * 7)
    assert kept_rows(select(vectors, table, keep_tokens=6)) == [0]
    assert kept_rows(select(vectors, table, keep_tokens=6, refill=True)) == [0, 3]
    assert kept_rows(select(vectors, table, keep_tokens=11, refill=True)) == [0, 3, 4]


@EXAMPLES
@given(st.integers(0, 999), st.integers(0, 40), st.integers(0, 12))
def test_refill_is_the_start_of_what_no_budget_keeps(seed: int, count: int, keep: int) -> None:
    vectors = in_play(some_vectors(seed, count), some_vectors(seed + 1, 2))
    everything = select(vectors, keep=1, probe="nearest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kshot, "ROWS_AT_ONCE", 5)
        found = select(vectors, keep_examples=keep, refill=True, probe="nearest")
    ranks = np.array(everything.columns["kshot_rank"].to_pylist())
    first = sorted(kept_rows(everything), key=lambda row: int(ranks[row]))[:keep]
    assert sorted(kept_rows(found)) == sorted(first)
    dropped = found.columns["dropped_by"].to_pylist()
    whole = everything.columns["dropped_by"].to_pylist()
    assert all(by is None or by == other for by, other in zip(dropped, whole, strict=True))
    plain = select(vectors, keep_examples=keep, probe="nearest")
    assert not (plain.keep & ~found.keep).any()


def test_it_stops_looking_when_there_is_enough() -> None:
    vectors = some_vectors(0, 5000, 16)
    found = drop_near_copies(vectors, np.arange(5000), 0.9, lambda kept: len(kept) > 10)
    assert found[0] == KEPT
    assert found[-1] == UNDECIDED


def test_copies_of_the_task_come_first() -> None:
    vectors = np.concatenate([some_vectors(0, 30, 8), some_vectors(1, 3, 8)])
    found = select(in_play(vectors, 5 * some_vectors(1, 3, 8)), keep_examples=3, probe="nearest")
    assert kept_rows(found) == [30, 31, 32]
    assert found.columns["kshot_rel"].to_pylist()[30:] == pytest.approx([1, 1, 1])


def test_copies_have_the_same_likeness_wherever_they_stand_and_the_first_id_stays() -> None:
    vectors = np.concatenate([some_vectors(0, 100, 50), *[some_vectors(3, 1, 50)] * 21])
    table = candidates([1.0] * 121, ids=[f"{(i * 50) % 121:03d}" for i in range(121)])
    found = select(in_play(vectors, some_vectors(2, 5, 50)), table, keep=1)
    copies = [table["id"][row].as_py() for row in range(100, 121)]
    assert len(set(found.columns["kshot_rel"].to_pylist()[100:])) == 1
    assert set(found.columns["dropped_by"].to_pylist()[100:]) == {None, min(copies)}


def test_rows_without_a_vector_or_a_token_count_are_dropped() -> None:
    table = candidates([1.0] * 5, prompt_tokens=[10, None, 10, 10, 10])
    rows = at_angles(0, 30, 60, 90, 120)
    rows[3] = 0
    vectors = in_play(rows, at_angles(0), [True, True, False, True, True])
    found = select(vectors, table, keep_tokens=1000)
    assert kept_rows(found) == [0, 4]
    assert found.reason[1:4].tolist() == ["kshot: no token count", "kshot: no vector", "kshot: no vector"]
    assert found.columns["kshot_rel"].is_valid().to_pylist() == [True, False, False, False, True]
    assert found.columns["kshot_rank"].to_pylist() == [1, None, None, None, 2]
    assert len(kept_rows(select(vectors, table, keep=0.5))) == 2  # of all five


def test_no_row_and_one_row_and_budgets_of_nothing_and_more_than_all() -> None:
    none = select(in_play(np.zeros((0, 2), np.float32), at_angles(0)), keep=1)
    assert (len(none.keep), len(none.reason), len(none.columns["dropped_by"])) == (0, 0, 0)
    assert kept_rows(select(in_play(at_angles(0), at_angles(0), [False]), keep=1)) == []
    assert kept_rows(select(in_play(at_angles(0), at_angles(90)), keep=1)) == [0]
    vectors = in_play(at_angles(0, 30, 60), at_angles(0))
    for refill in (False, True):
        for budget, kept in (({"keep_examples": 0}, 0), ({"keep_tokens": 0}, 0), ({"keep_examples": 9}, 3)):
            assert len(kept_rows(select(vectors, refill=refill, **budget))) == kept


def test_a_target_without_a_vector_is_an_error() -> None:
    with pytest.raises(ValueError, match="no example of t.jsonl has a vector"):
        select(in_play(at_angles(0), at_angles()), keep=1)
    assert Kshot(target="t.jsonl", keep=1).target_file == "t.jsonl"


def test_the_number_of_threads_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = in_play(some_vectors(0, 3000, 4), some_vectors(1, 30, 4))
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(runner.RunnerChoice, "threads", threads)
        one = select(vectors, keep=1, probe="nearest", max_similarity=0.95)
        found.append([one.keep.tolist(), *(column.to_pylist() for column in one.columns.values())])
    assert found[0] == found[1]


@EXAMPLES
@given(
    st.integers(0, 999), st.integers(1, 25), st.sampled_from(["mean", "nearest"]), st.booleans(), st.data()
)
def test_the_order_of_rows_changes_no_decision(
    seed: int, count: int, probe: str, refill: bool, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.integers(-1, 3, (count, 2)).astype(np.float32)  # with copies and zeros
    known = random.random(count) < 0.8
    table = candidates([1.0] * count)
    order = np.array(data.draw(st.permutations(range(count))))
    target, options = at_angles(10, 50), {"probe": probe, "refill": refill, "keep": 0.5}
    before = select(in_play(vectors, target, known.tolist()), table, **options)
    shuffled = in_play(vectors[order], target, known[order].tolist())
    after = select(shuffled, table.take(pa.array(order)), **options)
    assert after.keep.tolist() == before.keep[order].tolist()
    assert after.reason.tolist() == before.reason[order].tolist()
    for name, column in before.columns.items():
        assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@pytest.mark.realdata
def test_word_problems_of_real_data_are_found_without_near_copies(realdata: Path) -> None:
    from scorers.models.embedding import load_embedder
    from scorers.models.settings import EmbeddingSettings

    embedder = load_embedder(EmbeddingSettings(path=str(realdata / "models" / "potion-base-4m-int8")))
    with gzip.open(realdata / "alpaca" / "alpaca_data.json.gz", "rt", encoding="utf-8") as file:
        pool = [" ".join((row["instruction"], row["input"], row["output"])) for row in json.load(file)[:4000]]
    lines = (realdata / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()[:50]
    target = embedder.embed([" ".join(map(json.loads(line).get, ("question", "answer"))) for line in lines])
    embedded = embedder.embed(pool)
    found = select(Vectors(embedded.vectors, embedded.embedded, target.vectors), keep_examples=200)
    with_digits = np.array([any(letter.isdigit() for letter in text) for text in pool])
    assert with_digits[found.keep].mean() > 0.7
    assert with_digits.mean() < 0.4
    kept = embedded.vectors[found.keep]
    assert 100 < len(kept) <= 200
    assert np.triu(kept @ kept.T, 1).max() <= 0.9 + 1e-6
