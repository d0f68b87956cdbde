"""MinHash: words, shingles, signatures, bands and the comparison of candidates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines import minhash
from pipelines.minhash import (
    Int64s,
    MinHashSettings,
    ShingleLookup,
    UInt64s,
    band_shape,
    hash_bands,
    hash_shingles,
    jaccard,
    near_edges,
    signatures,
    split_words,
)

SETS = st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


def as_array(numbers: set[int] | range) -> UInt64s:
    return np.array(sorted(numbers), dtype=np.uint64)


def lookup_in(sets: Mapping[int, UInt64s]) -> ShingleLookup:
    return lambda rows: {row: sets[row] for row in rows.tolist()}


def one_bucket(rows: int) -> UInt64s:
    return np.array([[7] * rows, list(range(rows))], dtype=np.uint64)


def pairs(edges: Int64s) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in edges.T]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop_now 3.14", ["don", "t", "stop_now", "3", "14"]),
        ("你好，世界 abc中x", ["你", "好", "世", "界", "abc", "中", "x"]),
        ("カタカナー・ひらがな", [*"カタカナーひらがな"]),
        ("한국어 text", ["한", "국", "어", "text"]),
        ("привет мир", ["привет", "мир"]),
        ("?! ...", []),
        ("", []),
    ],
)
def test_words_are_runs_of_word_characters_and_single_cjk_characters(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_shingles_are_the_distinct_word_ngrams() -> None:
    # a b c d a b c: abc, bcd, cda, dab, abc again
    assert len(hash_shingles("a b c d a b c", 3)) == 4


def test_operators_tell_texts_apart_and_hyphens_do_not() -> None:
    def same(a: str, b: str) -> bool:
        return bool(np.array_equal(hash_shingles(a, 3), hash_shingles(b, 3)))

    assert not same("what is 3 + 4", "what is 3 - 4")
    assert not same("if a < b return a", "if a > b return a")
    assert same("a well-known example", "a well known example")


def test_shingles_do_not_see_case_white_space_or_punctuation() -> None:
    assert np.array_equal(hash_shingles("One, two\n three FOUR!", 3), hash_shingles("one two three four", 3))


def test_a_text_shorter_than_a_shingle_has_one_shingle_of_all_its_words() -> None:
    assert len(hash_shingles("two words", 5)) == 1
    assert np.array_equal(hash_shingles("two words", 5), hash_shingles("two words", 2))
    assert not np.array_equal(hash_shingles("two words", 5), hash_shingles("two other", 5))


def test_a_text_without_words_has_one_shingle_of_itself() -> None:
    assert [len(hash_shingles(text, 5)) for text in ("", "?!", "\ud800")] == [1, 1, 1]
    assert not np.array_equal(hash_shingles("?!", 5), hash_shingles("...", 5))


def test_one_chinese_character_changes_only_the_shingles_around_it() -> None:
    before, after = "今天天气很好我们去公园散步吧", "今天天气很好我们去公园跑步吧"
    # 14 characters have 10 shingles of 5; the changed one is the 12th, in the last 3 of them
    assert jaccard(hash_shingles(before, 5), hash_shingles(after, 5)) == 7 / 13


@given(st.text(max_size=60), st.integers(1, 6))
def test_every_text_has_distinct_ascending_shingles(text: str, ngram: int) -> None:
    shingles = hash_shingles(text, ngram)
    assert len(shingles) >= 1
    assert np.all(shingles[1:] > shingles[:-1])


@given(SETS, SETS)
def test_jaccard_is_shared_over_all(a: set[int], b: set[int]) -> None:
    assert jaccard(as_array(a), as_array(b)) == len(a & b) / len(a | b)


@pytest.mark.parametrize("permutations", [16, 128])
def test_signatures_are_those_of_datasketch(permutations: int) -> None:
    sets = [hash_shingles(" ".join(map(str, range(start, start + 60))), 3) for start in (0, 5, 40)]
    reference = [MinHash(num_perm=permutations, hashfunc=int, scheme="affine32") for _ in sets]
    for sketch, shingles in zip(reference, sets, strict=True):
        sketch.update_batch([int(shingle) & 0xFFFFFFFF for shingle in shingles])
    ours = signatures(sets, permutations)
    for (a, one), (b, other) in itertools.combinations(zip(ours, reference, strict=True), 2):
        assert np.mean(a == b) == one.jaccard(other)
    assert np.array_equal(ours, [sketch.hashvalues for sketch in reference])


def test_a_signature_estimates_the_jaccard_similarity() -> None:
    a, b = as_array(range(0, 9000)), as_array(range(1000, 10_000))  # 8000 of 10000 shared
    one, other = signatures([a, b], 1024)
    assert np.mean(one == other) == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 1024))


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("permutations", [16, 128])
def test_bands_are_datasketchs_choice(threshold: float, permutations: int) -> None:
    lsh = MinHashLSH(threshold, permutations, weights=minhash.BAND_WEIGHTS)
    assert band_shape(threshold, permutations) == (lsh.b, lsh.r)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_nine_in_ten_pairs_at_the_threshold_become_candidates(threshold: float) -> None:
    bands, rows = band_shape(threshold, 128)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.9


def test_bands_are_equal_where_their_part_of_the_signature_is() -> None:
    signature = np.arange(12, dtype=np.uint32).reshape(1, 12).repeat(2, axis=0)
    signature[1, 5] = 99  # in the second of four bands of three
    a, b = hash_bands(signature, 4, 3)
    assert (a == b).tolist() == [True, False, True, True]


def test_the_same_numbers_in_another_band_hash_differently() -> None:
    bands = hash_bands(np.ones((1, 12), dtype=np.uint32), 4, 3)
    assert len(set(bands[0].tolist())) == 4


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"threshold": 1.1}, {"ngram": 0}, {"permutations": 8}, {"shingle": 5}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MinHashSettings.model_validate(wrong)


def test_candidates_below_the_threshold_are_not_joined() -> None:
    sets = {0: as_array(range(0, 10)), 1: as_array(range(1, 11)), 2: as_array(range(5, 15))}
    # 0-1: 9 of 11, 1-2: 6 of 14, 0-2: 5 of 15
    assert pairs(near_edges(one_bucket(3), 0.8, lookup_in(sets))) == [(0, 1)]
    assert pairs(near_edges(one_bucket(3), 0.82, lookup_in(sets))) == []


def test_rows_without_a_common_band_are_not_compared() -> None:
    keys = np.array([[1, 2, 3], [0, 1, 2]], dtype=np.uint64)
    assert near_edges(keys, 0.5, lookup_in({})).shape == (2, 0)
    assert near_edges(keys[:, :0], 0.5, lookup_in({})).shape == (2, 0)


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=2, max_size=12))
def test_near_edges_span_the_components_of_the_true_pairs(sets: list[set[int]]) -> None:
    arrays = {row: as_array(numbers) for row, numbers in enumerate(sets)}
    edges = pairs(near_edges(one_bucket(len(sets)), 0.5, lookup_in(arrays)))
    true = [
        (a, b) for a, b in itertools.combinations(range(len(sets)), 2) if jaccard(arrays[a], arrays[b]) >= 0.5
    ]
    assert set(edges) <= set(true)
    assert components(edges, len(sets)) == components(true, len(sets))


def components(edges: list[tuple[int, int]], rows: int) -> list[int]:
    labels = list(range(rows))
    for _ in range(rows):
        for a, b in edges:
            labels[a] = labels[b] = min(labels[a], labels[b])
    return labels


def test_a_large_bucket_is_joined_through_leaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash, "MAX_PAIRWISE_BUCKET", 4)
    # even rows are alike, odd rows are alike, the two kinds share nothing
    sets = {row: as_array(range(1000 * (row % 2), 1000 * (row % 2) + 100 + row)) for row in range(10)}
    edges = pairs(near_edges(one_bucket(10), 0.8, lookup_in(sets)))
    assert components(edges, 10) == [0, 1] * 5


def test_a_large_bucket_costs_no_more_than_its_size_times_the_leaders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0

    def count(_a: UInt64s, _b: UInt64s, _threshold: float) -> bool:
        nonlocal compared
        compared += 1
        return False

    monkeypatch.setattr(minhash, "_alike", count)
    sets = {row: as_array({row}) for row in range(1000)}
    near_edges(one_bucket(1000), 0.8, lookup_in(sets))
    assert compared <= 1000 * minhash.MAX_LEADERS  # all pairs would be 499,500


def test_shingles_are_looked_up_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash, "ROWS_IN_MEMORY", 10)
    monkeypatch.setattr(minhash, "MAX_PAIRWISE_BUCKET", 4)
    most = 0

    def lookup(rows: Int64s) -> dict[int, UInt64s]:
        nonlocal most
        most = max(most, len(rows))
        assert np.all(np.diff(rows) > 0)
        return {row: as_array({1, 2}) for row in rows.tolist()}

    bands = [1] * 35 + [number for number in range(2, 40) for _ in range(3)]
    keys = np.array([bands, range(len(bands))], dtype=np.uint64)
    edges = pairs(near_edges(keys, 0.8, lookup))
    assert most <= 10 + 4
    assert len(edges) == 34 + 38 * 2
