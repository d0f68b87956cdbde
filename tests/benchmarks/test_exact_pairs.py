"""The truth that near-duplicate search is measured against is itself true."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.exact_pairs import Truth, exact_pairs, number_ngrams


def sets_of(texts: list[str], ngram: int) -> list[set[tuple[str, ...]]]:
    split = [text.split(" ") for text in texts]
    return [
        {tuple(words[at : at + ngram]) for at in range(max(1, len(words) - ngram + 1))} for words in split
    ]


def brute_force(texts: list[str], ngram: int, threshold: float) -> dict[tuple[int, int], float]:
    sets = sets_of(texts, ngram)
    found = {}
    for one, two in combinations(range(len(texts)), 2):
        similarity = len(sets[one] & sets[two]) / len(sets[one] | sets[two])
        if similarity >= threshold:
            found[one, two] = similarity
    return found


def as_dict(truth: Truth) -> dict[tuple[int, int], float]:
    return {(int(a), int(b)): float(s) for a, b, s in zip(*truth.pairs, truth.similarity, strict=True)}


texts_of_few_words = st.lists(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=25
)


@given(
    texts_of_few_words, st.sampled_from([1, 2, 3, 5, 6]), st.sampled_from([0.1, 0.5, 2 / 3, 0.7, 0.8, 0.9, 1])
)
def test_pairs_are_those_of_brute_force(texts: list[str], ngram: int, threshold: float) -> None:
    assert as_dict(exact_pairs(pa.array(texts), ngram, threshold)) == brute_force(texts, ngram, threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_pairs_of_planted_near_copies_are_those_of_brute_force(threshold: float) -> None:
    random = np.random.default_rng(0)
    base = [[f"w{word}" for word in random.integers(0, 300, 40)] for _ in range(20)]
    texts = []
    for row in range(200):
        words = list(base[row % 20])
        for at in random.integers(0, 40, row % 4):
            words[at] = "x"
        texts.append(" ".join(words))
    expected = brute_force(texts, 5, threshold)
    assert len(expected) > 200
    assert as_dict(exact_pairs(pa.chunked_array([texts[:90], texts[90:]]), 5, threshold)) == expected


@given(texts_of_few_words, st.integers(1, 7))
def test_ngrams_have_one_number_if_and_only_if_they_are_the_same_words(texts: list[str], ngram: int) -> None:
    values, bounds = number_ngrams(pa.array(texts), ngram)
    numbered = [values[bounds[row] : bounds[row + 1]] for row in range(len(texts))]
    sets = sets_of(texts, ngram)
    assert all((np.diff(numbers) > 0).all() for numbers in numbered)
    for one, two in combinations(range(len(texts)), 2):
        assert len(np.intersect1d(numbered[one], numbered[two])) == len(sets[one] & sets[two])
    assert [len(numbers) for numbers in numbered] == [len(ngrams) for ngrams in sets]


def test_a_chain_of_pairs_is_one_component_named_by_its_smallest_row() -> None:
    words = [f"w{number}" for number in range(30)]
    chain = [" ".join(words[start : start + 20]) for start in (4, 2, 0)]
    truth = exact_pairs(pa.array(["something else altogether", *chain]), ngram=1, threshold=0.8)
    assert truth.pairs.T.tolist() == [[1, 2], [2, 3]]
    assert truth.component.tolist() == [0, 1, 1, 1]
    assert truth.removable == 2


def test_no_pair_is_found_where_there_is_none() -> None:
    truth = exact_pairs(pa.array(["a b c", "d e f"]), ngram=2)
    assert truth.pairs.shape == (2, 0)
    assert truth.removable == 0


def test_a_stored_truth_is_read_back(tmp_path: Path) -> None:
    truth = exact_pairs(pa.array(["a b c", "a b c", "d"]), ngram=2)
    truth.save(tmp_path / "truth.npz")
    assert as_dict(Truth.load(tmp_path / "truth.npz")) == as_dict(truth) == {(0, 1): 1.0}


# rows 0, 1, 2 are one component, 3 and 4 another, 5 and 6 have no pair
TRUTH = Truth(np.array([[0, 1, 3], [1, 2, 4]]), np.ones(3), np.array([0, 0, 0, 3, 3, 5, 6]))


@pytest.mark.parametrize(
    ("kept", "removed", "recall", "precision", "lost"),
    [
        ([0, 3, 5, 6], 3, 1.0, 1.0, 0),
        ([1, 4, 5, 6], 3, 1.0, 1.0, 0),  # any row of a component will do
        ([0, 2, 3, 5, 6], 2, 2 / 3, 1.0, 0),
        ([3, 5, 6], 4, 1.0, 1.0, 1),  # a whole component gone
        ([0, 3, 4, 5], 3, 2 / 3, 2 / 3, 1),  # row 6 was nobody's copy
        ([0, 1, 2, 3, 4, 5, 6], 0, 0.0, None, 0),
    ],
)
def test_a_verdict_counts_rows_and_texts(
    kept: list[int], removed: int, recall: float, precision: float | None, lost: int
) -> None:
    verdict = TRUTH.judge(np.array(kept))
    assert (verdict.removed, verdict.lost) == (removed, lost)
    assert verdict.recall == pytest.approx(recall)
    assert verdict.precision == (None if precision is None else pytest.approx(precision))
