"""Contamination by shared runs of words and by equal prompts."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.decontaminate import ngrams
from pipelines.decontaminate.eval_sets import EvalItem
from pipelines.decontaminate.ngrams import EvalIndex, Hit
from pipelines.decontaminate.settings import DecontaminateSettings
from tests.draws import draws
from tests.pipelines.dedupe.test_duplicates import examples


def find(rows: list[tuple[str, str]], items: list[EvalItem], **changes: object) -> list[Hit]:
    plain = {"against": [{"name": "s", "path": "p"}], "ngram": 5, **changes}
    index = EvalIndex(items, DecontaminateSettings.model_validate(plain))
    return index.find(examples(rows)["messages"])


def item(prompt: str, response: str = "", eval_set: str = "s") -> EvalItem:
    return EvalItem(eval_set, "f:1", prompt, response)


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def test_n_shared_words_are_a_hit_and_one_fewer_are_none() -> None:
    rows = [("x", words(90, 1, 2, 3, 4, 5, 91)), ("x", words(90, 1, 2, 3, 4, 92))]
    [hit] = find(rows, [item(words(0, 1, 2, 3, 4, 5, 6))])
    # the item has 3 n-grams, the row one of them
    assert hit == Hit(0, 0, "ngram", "w1 w2 w3 w4 w5", 1 / 3)


def test_the_span_is_the_longest_run_and_case_and_punctuation_do_not_count() -> None:
    row = "W1, w2; w3 w4 w5 ... and later: w11 w12 W13 w14 w15 w16!"
    # of the item's prompt the row has 1 n-gram of 3, of its response 2 of 5
    [hit] = find([("x", row)], [item(words(*range(1, 8)), words(*range(11, 20)))])
    assert (hit.span, hit.share) == ("w11 w12 w13 w14 w15 w16", 2 / 5)
    [hit] = find([("x", row)], [item(words(*range(1, 6)), words(*range(11, 20)))])
    assert (hit.span, hit.share) == ("w1 w2 w3 w4 w5", 1.0)


def test_the_scope_is_what_is_searched() -> None:
    rows = [(words(*range(5)), "y"), ("x", words(*range(5)))]
    items = [item("", words(*range(5)))]
    assert [hit.row for hit in find(rows, items)] == [0, 1]
    assert [hit.row for hit in find(rows, items, scope="prompt")] == [0]
    assert [hit.row for hit in find(rows, items, scope="response")] == [1]


def test_an_equal_prompt_is_a_hit_with_or_without_a_system_message() -> None:
    prompt = "Is this a prompt?"
    assert find([(prompt, "y")], [item(prompt)]) == []  # four words may be anyone's
    prompt = "Is THIS a longer prompt?"
    [hit] = find([(prompt, "y")], [item("is this a longer prompt")], ngram=13)
    assert (hit.match, hit.span, hit.share) == ("prompt", "is this a longer prompt", 1.0)
    assert find([(prompt, "y")], [item(prompt)], ngram=13, exact_prompt=False) == []
    assert find([(prompt + " more", "y")], [item(prompt)], ngram=13) == []
    table = examples([("x", "y")])
    turns = [
        {"role": "system", "content": "Be kind.", "tool_calls": None, "name": None},
        {"role": "user", "content": prompt, "tool_calls": None, "name": None},
        {"role": "assistant", "content": "Yes.", "tool_calls": None, "name": None},
    ]
    index = EvalIndex([item(prompt)], DecontaminateSettings.model_validate({"against": ["gsm8k"]}))
    [hit] = index.find(pa.chunked_array([pa.array([turns], table.schema.field("messages").type)]))
    assert hit.match == "prompt"


def test_a_short_text_of_an_item_is_in_no_row() -> None:
    assert find([("x", "42"), ("x", "the answer is 42")], [item("", "42"), item("", "")]) == []


def test_the_strongest_hit_is_the_one_given() -> None:
    half, whole = item(words(*range(10))), item(words(*range(5)))
    [hit] = find([("x", words(*range(5)))], [half, whole, whole])
    assert (hit.item, hit.share) == (1, 1.0)
    [hit] = find([(words(*range(5)), words(*range(10)))], [half, whole])
    assert (hit.item, hit.match) == (1, "prompt")


def test_a_template_of_a_set_is_no_item_of_it() -> None:
    template = words(*range(5))
    items = [item(f"{template} q{n} r{n} s{n}") for n in range(ngrams.MAX_ITEMS + 1)]
    assert [hit.item for hit in find([("x", template)], items[:-1])] == [0]
    assert find([("x", template)], items) == []
    assert [hit.item for hit in find([("x", f"{template} q3 r3 s3")], items)] == [3]
    # the same words in several sets are a template of neither
    spread = [item(template, eval_set=f"set{n // 6}") for n in range(12)]
    assert [hit.item for hit in find([("x", template)], spread)] == [0]


def test_a_run_in_the_row_that_stands_apart_in_the_item_is_still_a_hit() -> None:
    # the row's two n-grams follow each other; in the item they stand in two places
    eval_item = item(f"{words(1, 2, 3, 4, 5)} x {words(2, 3, 4, 5, 6)}")
    [hit] = find([("x", words(1, 2, 3, 4, 5, 6))], [eval_item])
    assert hit.span == "w1 w2 w3 w4 w5"


def test_a_collision_of_hashes_is_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, items = [("x", words(1, 2, 3, 4, 5))], [item(words(1, 2, 3, 4, 5))]
    assert len(find(rows, items)) == 1
    index = EvalIndex(items, DecontaminateSettings.model_validate({"against": ["gsm8k"], "ngram": 5}))
    for text in ("something else", words(1, 2, 3, 4)):
        monkeypatch.setattr(index, "_texts", [text, ""])
        assert index.find(examples(rows)["messages"]) == []


def test_the_span_is_the_longest_run_of_the_item_even_where_the_row_repeats_its_words() -> None:
    # all n-grams of the row follow each other and are the item's; its first 11 words are not one run of it
    repeated = item(f"{words(1, 2, 3, 4, 5, 6)} x {words(2, 3, 4, 5, 6, 7, 8)}")
    [hit] = find([("x", words(1, 2, 3, 4, 5, 6, 7, 8))], [repeated])
    assert hit.span == words(2, 3, 4, 5, 6, 7, 8)
    # of three runs the longest stands last
    runs = [words(*range(1, 7)), words(*range(11, 16)), words(*range(21, 28))]
    [hit] = find([("x", " and ".join(runs))], [item(" or ".join(runs))])
    assert hit.span == runs[2]


@pytest.mark.parametrize(("shared", "ngram"), [(13, 13), (8, 8)])
def test_the_offered_lengths_hit_at_n_words_and_not_at_one_fewer(shared: int, ngram: int) -> None:
    eval_item = item(words(*range(40)))
    rows = [("x", f"before {words(*range(count))} after") for count in (shared, shared - 1)]
    assert [hit.row for hit in find(rows, [eval_item], ngram=ngram)] == [0]


def test_a_prompt_of_fewer_than_n_words_is_found_only_as_the_whole_prompt() -> None:
    short = "What colour is the sky?"
    rows = [(short, "Blue."), (f"{short} Think first.", "Blue."), ("x", short)]
    assert [hit.row for hit in find(rows, [item(short, "Blue it is")], ngram=13)] == [0]


def test_words_are_compared_in_any_script() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    items = [item(f"Caf{composed} NOIR \u00e0 la carte"), item("今天天气怎么样")]
    rows = [
        ("x", f"un CAF{decomposed} noir, \u00e0 la CARTE!"),
        ("请问:今天天气,怎么样?", "y"),
        ("今天", "y"),
    ]
    hits = find(rows, items)
    assert [(hit.row, hit.item) for hit in hits] == [(0, 0), (1, 1)]
    assert hits[0].span == f"caf{composed} noir \u00e0 la carte"
    assert hits[1].span == "今 天 天 气 怎 么 样"


def test_items_that_are_all_short_or_empty_match_nothing() -> None:
    assert find([("x", words(*range(30))), ("", "")], [item("", ""), item("a b", "c")]) == []


def test_the_order_of_sets_and_items_changes_no_row() -> None:
    items = [item(words(*range(n, n + 9)), words(*range(n + 20, n + 26)), f"s{n % 3}") for n in range(12)]
    items.sort(key=lambda one: one.eval_set)
    rows = [("x", words(*range(n, n + 7))) for n in range(0, 40, 3)]
    forward, backward = find(rows, items), find(rows, items[::-1])
    assert forward
    # of equal shares the first item is given, so that the item and its span may differ
    assert [(h.row, h.match, h.share) for h in forward] == [(h.row, h.match, h.share) for h in backward]


_WORDS = st.lists(st.sampled_from("abcdef"), max_size=14)


@draws(150)
@given(
    st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=4),
    st.lists(_WORDS, min_size=1, max_size=6),
)
def test_rows_shares_and_spans_are_those_of_comparing_word_by_word(
    items: list[tuple[list[str], list[str]]], rows: list[list[str]]
) -> None:
    hits = {
        hit.row: hit
        for hit in find([("q", " ".join(row) or "?") for row in rows],
                        [item(" ".join(prompt), " ".join(response)) for prompt, response in items],
                        scope="response")
    }  # fmt: skip
    parts = [part for pair in items for part in pair]
    for number, row in enumerate(rows):
        shares = [_share(row, part, 5) for part in parts]
        assert (number in hits) == any(shares)
        if number in hits:
            best = parts[shares.index(max(shares))]
            assert hits[number].share == max(shares)
            assert hits[number].item == shares.index(max(shares)) // 2
            assert len(hits[number].span.split()) == _longest_common(row, best)


def _share(row: list[str], part: list[str], n: int) -> float:
    """Share of the distinct n-grams of a part that a row has, by plain Python."""

    def grams(words_: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words_[at : at + n]) for at in range(len(words_) - n + 1)}

    return len(grams(row) & grams(part)) / max(1, len(grams(part)))


def _longest_common(row: list[str], part: list[str]) -> int:
    runs = {tuple(part[a:b]) for a in range(len(part)) for b in range(a + 1, len(part) + 1)}
    return max(b - a for a in range(len(row)) for b in range(a + 1, len(row) + 1) if tuple(row[a:b]) in runs)


@draws(60)
@given(st.integers(5, 9), st.integers(0, 30), st.integers(0, 30), st.randoms(use_true_random=False))
def test_a_planted_run_is_always_found_and_nothing_else(
    length: int, before: int, after: int, draw: random.Random
) -> None:
    fresh = iter(range(1000, 9999))
    planted = [next(fresh) for _ in range(length)]
    row = [next(fresh) for _ in range(before)] + planted + [next(fresh) for _ in range(after)]
    other = [next(fresh) for _ in range(draw.randrange(4))] + planted
    strangers = [("x", words(*(next(fresh) for _ in range(20)))) for _ in range(3)]
    [hit] = find([*strangers, ("x", words(*row))], [item("", words(*other))])
    assert hit.row == 3
    assert hit.span == words(*planted)
    assert 0 < hit.share <= 1
