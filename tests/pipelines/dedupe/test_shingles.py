"""Shingles: what a word is, and that the compiled loops agree with plain Python."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.dedupe.hashing import UInt64s, sort_hashes
from pipelines.dedupe.shingles import hash_ngrams, hash_shingles, hash_texts, split_words
from tests.draws import draws
from tests.pipelines.dedupe.reference import grams_of, words_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TURN = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        (
            "tool_calls",
            pa.list_(
                pa.struct([("function", pa.struct([("name", pa.string()), ("arguments", pa.string())]))])
            ),
        ),
    ]
)


def ordered(text: str, ngram: int = 1, unit: str = "word") -> list[int]:
    values, _ = hash_texts(pa.array([text]), None, ngram, unit, distinct=False)  # type: ignore[arg-type]
    return [int(value) for value in values]


def shingles(text: str, ngram: int, unit: str = "word") -> UInt64s:
    return hash_texts(pa.array([text]), None, ngram, unit)[0]  # type: ignore[arg-type]


def turns(*contents: str, calls: list[tuple[str, str]] | None = None) -> pa.ChunkedArray:
    messages = [{"role": "user", "content": content, "tool_calls": None} for content in contents]
    if calls:
        messages[-1]["tool_calls"] = [{"function": {"name": n, "arguments": a}} for n, a in calls]  # type: ignore[assignment]
    return pa.chunked_array([pa.array([messages], pa.list_(TURN))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop_now 3.14", ["don", "t", "stop_now", "3", "14"]),
        ("你好，世界 abc中x", ["你", "好", "世", "界", "abc", "中", "x"]),
        ("カタカナー・ひらがな", [*"カタカナーひらがな"]),
        ("한국어 text", ["한", "국", "어", "text"]),
        ("привет МИР", ["привет", "мир"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("ภาษา", [*"ภาษา"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("what is 2+2 - 3?", ["what", "is", "2", "+", "2", "-", "3"]),
        ("well-known -x", ["well", "known", "x"]),
        ("a\u00d7b \U00020000\U00020001", ["a", "\u00d7", "b", "\U00020000", "\U00020001"]),
        ("?! ...", []),
        ("", []),
    ],
)
def test_words_are_what_the_docstring_says(text: str, words: list[str]) -> None:
    assert words_of(text) == words == split_words(text)
    one_by_one = [ordered(word)[0] for word in words]
    assert ordered(text) == (one_by_one or ordered(text))
    assert len(set(one_by_one)) == len(set(words))


@draws(300)
@given(TEXTS, st.integers(1, 6))
@example("a b c d a b c", 3)
@example("é\u0301\u0301 -1 - 2 --3", 2)
@example("/\U000e0100", 1)
def test_the_compiled_ngrams_are_those_of_plain_python(text: str, ngram: int) -> None:
    expected = grams_of(text, ngram)
    found = ordered(text, ngram)
    assert len(found) == len(expected)
    # equal n-grams have equal hashes, different ones different hashes
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


@draws(100)
@given(st.lists(TEXTS, max_size=8), st.integers(1, 5), st.sampled_from(["word", "char"]))
def test_sets_are_the_distinct_hashes_ascending_whatever_the_batch(
    texts: list[str], ngram: int, unit: str
) -> None:
    values, bounds = hash_texts(pa.array(texts, pa.string()), None, ngram, unit)  # type: ignore[arg-type]
    assert len(bounds) == len(texts) + 1
    for row, text in enumerate(texts):
        own = values[bounds[row] : bounds[row + 1]]
        assert own.tolist() == sorted(set(ordered(text, ngram, unit)))


def test_a_slice_of_a_column_hashes_as_itself() -> None:
    column = pa.array(["one two", "drei vier fünf", None, "six"])
    values, bounds = hash_texts(column.slice(1, 2), None, 1)
    assert values[: bounds[1]].tolist() == shingles("drei vier fünf", 1).tolist()
    assert values[bounds[1] :].tolist() == shingles("", 1).tolist()


def test_shingles_do_not_see_case_white_space_or_punctuation() -> None:
    assert np.array_equal(shingles("One, two\n three FOUR!", 3), shingles("one two three four", 3))
    assert np.array_equal(shingles("ÄRGER Straße", 1), shingles("ärger straße", 1))


def test_operators_tell_texts_apart() -> None:
    assert not np.array_equal(shingles("what is 3 + 4", 3), shingles("what is 3 - 4", 3))
    assert not np.array_equal(shingles("if a < b return a", 3), shingles("if a > b return a", 3))
    assert np.array_equal(shingles("a well-known example", 3), shingles("a well known example", 3))


def test_a_text_shorter_than_a_shingle_has_one_shingle_of_all_its_words() -> None:
    assert len(shingles("two words", 5)) == 1
    assert np.array_equal(shingles("two words", 5), shingles("two words", 2))
    assert not np.array_equal(shingles("two words", 5), shingles("two other", 5))


def test_a_text_without_words_has_one_shingle_of_its_characters() -> None:
    assert [len(shingles(text, 5)) for text in ("", " ", "?!", "?!?!?!?!?!")] == [1, 1, 1, 1]
    assert not np.array_equal(shingles("?!", 5), shingles("...", 5))
    assert np.array_equal(shingles("? !", 5), shingles("?!", 5))


def test_character_shingles_fold_white_space_and_case() -> None:
    assert len(shingles("abcdef", 3, "char")) == 4
    assert np.array_equal(shingles("  Ab \n\t cD ", 3, "char"), shingles("ab cd", 3, "char"))
    assert not np.array_equal(shingles("ab cd", 3, "char"), shingles("abcd", 3, "char"))


def test_one_chinese_character_changes_only_the_shingles_around_it() -> None:
    before = set(shingles("今天天气很好我们去公园散步吧", 5).tolist())
    after = set(shingles("今天天气很好我们去公园跑步吧", 5).tolist())
    # 14 characters have 10 shingles of 5; the changed one is the 12th, in the last 3 of them
    assert len(before & after) / len(before | after) == 7 / 13


def test_the_scope_chooses_turns_and_a_turn_ends_a_word() -> None:
    column = turns("one two", "three", "four five")
    assert hash_shingles(column, "both", 1)[0].tolist() == shingles("one two three four five", 1).tolist()
    assert hash_shingles(column, "prompt", 2)[0].tolist() == shingles("one two three", 2).tolist()
    assert hash_shingles(column, "response", 2)[0].tolist() == shingles("four five", 2).tolist()
    assert hash_shingles(turns("ab", "cd"), "both", 9, "char")[0].tolist() == ordered("ab cd", 9, "char")


def test_ngrams_come_in_the_order_of_the_text_and_may_pass_over_operators() -> None:
    column = turns("b a + b", "a b a")
    assert hash_ngrams(column, "both", 2)[0].tolist() == ordered("b a + b a b a", 2)
    assert hash_ngrams(column, "both", 2, operators=False)[0].tolist() == ordered("b a b a b a", 2)
    assert split_words("3 - 4 < x-1", operators=False) == ["3", "4", "x", "1"]


def test_tool_calls_are_part_of_their_turn() -> None:
    column = turns("weather?", "", calls=[("get_weather", '{"city": "Oslo"}')])
    assert hash_shingles(column, "response", 9)[0].tolist() == shingles("get_weather city oslo", 9).tolist()


def test_a_text_of_a_megabyte_is_one_row_like_any_other() -> None:
    draw = random.Random(0)
    words = [f"w{draw.randrange(10**6)}" for _ in range(150_000)]
    text = " ".join(words)
    assert len(text) > 10**6
    assert len(shingles(text, 5)) == len(set(zip(*(words[start:] for start in range(5)), strict=False)))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=60))
def test_hashes_sort_stably(numbers: list[int]) -> None:
    hashes = np.array(numbers, np.uint64)
    ordered_hashes, positions = sort_hashes(hashes)
    assert positions.tolist() == np.argsort(hashes, kind="stable").tolist()
    assert ordered_hashes.tolist() == sorted(numbers)


def test_hashes_that_share_their_top_bits_sort_too() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**60, 5000, dtype=np.uint64) | np.uint64(5 << 60)
    assert np.array_equal(sort_hashes(hashes, shared_bits=4)[0], np.sort(hashes))
