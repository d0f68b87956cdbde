"""Benchmark corpora: words that every tool splits alike, and synthetic rows that are as described."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import corpus
from benchmarks.corpus import (
    FEWEST_WORDS,
    MIN_WORDS,
    VOCABULARY,
    normal_text,
    synthetic_texts,
    write_real,
    write_synthetic,
)
from benchmarks.exact_pairs import exact_pairs
from pipelines.dedupe.shingles import hash_texts, split_words

ROWS = 4000


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(synthetic_texts(0, 0, ROWS).to_pylist())


def origins() -> np.ndarray:
    return corpus.origins(0, np.arange(ROWS))


def jaccard(one: str, two: str) -> float:
    sets = [{tuple(text.split()[at : at + 5]) for at in range(len(text.split()) - 4)} for text in (one, two)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@given(st.text())
def test_words_of_a_normalised_text_are_what_stands_between_blanks(text: str) -> None:
    normal = normal_text(text)
    assert split_words(normal) == normal.split() == (normal.split(" ") if normal else [])
    assert normal_text(normal) == normal == normal.lower()
    assert all(character.isalnum() or character == " " for character in normal)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("It's  2+2\n= 4_5!", "it s 2 2 4 5"),
        ("Straße, CAFE\u0301", "straße café"),
        ("你好world ไทย", "你 好 world ไ ท ย"),
    ],
)
def test_normalising(text: str, normal: str) -> None:
    assert normal_text(text) == normal


def test_a_row_depends_on_seed_and_number_alone(texts: list[str]) -> None:
    assert synthetic_texts(0, 1500, 1600).to_pylist() == texts[1500:1600]
    assert synthetic_texts(0, 3999, 4000).to_pylist() == texts[3999:]
    assert synthetic_texts(1, 1500, 1600).to_pylist() != texts[1500:1600]


def test_a_corpus_is_the_beginning_of_a_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_synthetic(tmp_path / "long", 300, seed=3)
    monkeypatch.setattr(corpus, "ROWS_AT_ONCE", 64)
    write_synthetic(tmp_path / "short", 200, seed=3)
    assert pq.read_table(tmp_path / "short") == pq.read_table(tmp_path / "long").slice(0, 200)
    assert pq.read_metadata(tmp_path / "short").num_row_groups == 4


def test_every_tool_can_split_synthetic_rows(texts: list[str]) -> None:
    assert all(normal_text(text) == text for text in texts)
    assert min(len(text.split()) for text in texts) == FEWEST_WORDS


def test_a_copy_is_as_alike_as_was_drawn(texts: list[str]) -> None:
    origin = origins()
    copies = np.flatnonzero(origin != np.arange(ROWS))
    keys = corpus.row_keys(0, copies)
    exact = corpus.uniform(keys, corpus._EXACT) < 0.3
    drawn = np.where(exact, 1, 1 - 0.3 * corpus.uniform(keys, corpus._SIMILARITY))
    found = np.array([jaccard(texts[row], texts[origin[row]]) for row in copies])
    words = np.array([len(texts[row].split()) for row in copies])
    assert (np.abs(found - drawn) < 1 / (words - 4)).all()  # the number of n-grams changed is a whole one
    assert (found[exact] == 1).all()
    assert np.mean(exact) == pytest.approx(0.3, abs=0.05)
    shares = np.histogram(drawn[~exact], bins=[0.7, 0.8, 0.9, 1])[0]
    assert shares.max() < 1.3 * shares.min()


def test_a_row_in_four_repeats_an_earlier_one_that_repeats_none(texts: list[str]) -> None:
    origin = origins()
    assert (origin <= np.arange(ROWS)).all()
    assert (origin[origin] == origin).all()
    assert np.mean(origin != np.arange(ROWS)) == pytest.approx(0.25, abs=0.02)


def test_about_a_fifth_of_the_rows_can_be_removed_and_originals_are_no_copies(texts: list[str]) -> None:
    truth = exact_pairs(pa.array(texts))
    assert truth.removable / ROWS == pytest.approx(0.195, abs=0.02)
    origin = origins()
    assert (origin[truth.pairs[0]] == origin[truth.pairs[1]]).all()  # nothing is alike by chance
    sizes = np.unique(truth.component, return_counts=True)[1]
    assert 20 < sizes.max() < 200


def test_lengths_are_those_of_alpaca_and_gsm8k(texts: list[str]) -> None:
    logs = np.log([len(text.split()) for text in texts])
    assert logs.mean() == pytest.approx(3.91, abs=0.05)  # measured on both together
    assert logs.std() == pytest.approx(0.767, abs=0.05)


def test_words_are_as_frequent_as_said(texts: list[str]) -> None:
    words = np.array(" ".join(texts).split())
    _, counts = np.unique(words, return_counts=True)
    shares = np.sort(counts)[::-1] / len(words)
    assert len(set(corpus.vocabulary().to_pylist())) == VOCABULARY
    assert shares[[0, 9, 99]] == pytest.approx([0.052, 0.013, 0.0011], rel=0.25)
    assert np.mean([len(word) for word in words]) == pytest.approx(4.85, abs=0.15)  # Alpaca


def test_ngrams_are_as_rare_as_in_real_text() -> None:
    values, _ = hash_texts(synthetic_texts(0, 0, 20_000), ngram=5)
    _, counts = np.unique(values, return_counts=True)
    shared = [counts[counts > rows].sum() / counts.sum() for rows in (1, 10)]
    assert 0.1 < shared[0] < 0.5  # copies make most of it
    assert 0.01 < shared[1] < 0.15


def test_real_rows_are_prompt_and_response_without_the_short_ones(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Name the capital of France.", "input": "", "output": "It is Paris!"},
        {"instruction": "Add.", "input": "", "output": "Four"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), "utf-8")
    assert write_real(tmp_path / "corpus.parquet", [str(tmp_path / "rows.json")]) == (1, 1)
    table = pq.read_table(tmp_path / "corpus.parquet").to_pylist()
    assert [row["text"] for row in table] == ["name the capital of france it is paris"]
    assert len(table[0]["text"].split()) >= MIN_WORDS
    assert table[0]["id"].startswith("rows/rows.json:")
