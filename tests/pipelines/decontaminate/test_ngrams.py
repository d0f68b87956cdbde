"""Contamination by shared runs of words and by equal prompts."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.decontaminate import ngrams
from pipelines.decontaminate.eval_sets import EvalItem
from pipelines.decontaminate.ngrams import EvalIndex, Hit
from pipelines.decontaminate.settings import DecontaminateSettings
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
    monkeypatch.setattr(index, "_texts", ["something else", ""])
    assert index.find(examples(rows)["messages"]) == []


@settings(max_examples=60, deadline=None)
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
