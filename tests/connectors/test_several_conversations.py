"""Rows that hold several conversations: preference pairs, message trees, nested instances, MT-bench turns."""

from __future__ import annotations

import pytest

from connectors.chat_formats import parse_row
from connectors.examples import BadRow, Conversation, example_row
from tests.connectors.rows import CHAT, PAIR, SHAREGPT, Row, one, reason, said

# Preference pairs


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "b"}},
        {"chosen_messages": CHAT, "rejected_messages": [CHAT[0], {"role": "assistant", "content": "b"}]},
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "b"}]},
        {"input": "q", "output_1": "b", "output_2": "a", "label": 2},
    ],
)
def test_a_preference_pair_gives_the_chosen_answer_or_both(row: Row) -> None:
    label = {"label": 2} if "label" in row else {}
    read = one(row)
    assert (said(read), read.extra) == (PAIR, {**label, "rejected": "b"})
    chosen, rejected = parse_row(row, pairs="both")
    assert isinstance(chosen, Conversation)
    assert isinstance(rejected, Conversation)
    assert (said(chosen), chosen.part, chosen.extra) == (PAIR, "chosen", {**label, "preference": "chosen"})
    assert said(rejected) == [("user", "q"), ("assistant", "b")]
    assert (rejected.part, rejected.extra) == ("rejected", {**label, "preference": "rejected"})


def test_a_pair_of_whole_conversations_keeps_the_prompt_field() -> None:
    read = one({"prompt": "q", "chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "b"}]})
    assert (said(read), read.extra) == (PAIR, {"prompt": "q", "rejected": "b"})


def test_a_rejected_answer_that_is_no_example_is_kept_as_it_was() -> None:
    assert one({"prompt": "q", "chosen": "a", "rejected": ""}).extra == {"rejected": ""}
    good, bad = parse_row({"prompt": "q", "chosen": "a", "rejected": ""}, pairs="both")
    assert isinstance(good, Conversation)
    assert isinstance(bad, BadRow)
    assert bad.reason == "empty response"


def test_a_pair_keeps_history_and_system() -> None:
    row = {"system": "s", "history": [["q0", "a0"]], "question": "q", "chosen": "a", "rejected": "b"}
    assert said(one(row)) == [("system", "s"), ("user", "q0"), ("assistant", "a0"), *PAIR]


# Rows of several conversations


def tree(text: str, role: str, *replies: Row, **more: int) -> Row:
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **more}


def test_every_answer_of_a_tree_is_a_response_to_its_path() -> None:
    late = tree("q2", "prompter", tree("a2", "assistant", tree("q3", "prompter")))
    row = {
        "message_tree_id": "t",
        "prompt": tree("q", "prompter", tree("a", "assistant", late, rank=0), tree("b", "assistant", rank=1)),
    }
    read = [item for item in parse_row(row) if isinstance(item, Conversation)]
    assert [(item.part, said(item)) for item in read] == [
        ("a", PAIR),
        ("a2", [*PAIR, ("user", "q2"), ("assistant", "a2")]),
        ("b", [("user", "q"), ("assistant", "b")]),
    ]
    assert read[0].extra == {"message_tree_id": "t", "message_id": "a", "rank": 0}
    assert [turn["text"] for turn in read[1].extra["trailing_messages"]] == ["q3"]
    groups = {example_row(item, "s", "i")["group"] for item in (read[0], read[2])}
    assert len(groups) == 1


def test_a_deleted_message_is_left_out_with_its_replies() -> None:
    gone = tree("x", "assistant", tree("y", "prompter", tree("z", "assistant")), deleted=True)
    row = {"message_tree_id": "t", "prompt": tree("q", "prompter", gone, tree("a", "assistant"))}
    assert [item.part for item in parse_row(row) if isinstance(item, Conversation)] == ["a"]


def test_a_tree_without_an_answer_is_bad() -> None:
    assert reason({"message_tree_id": "t", "prompt": tree("q", "prompter")}) == "no response"


def test_each_instance_is_a_conversation_of_its_own() -> None:
    good, bad = {"input": "", "output": "a"}, {"input": "x", "output": " "}
    read = one({"instruction": "q", "instances": [good], "name": "n"})
    assert (said(read), read.extra, read.part) == (PAIR, {"name": "n"}, "")
    first, second = parse_row({"instruction": "q", "instances": [good, bad]})
    assert isinstance(first, Conversation)
    assert first.part == "0"
    assert isinstance(second, BadRow)
    assert second.reason == "empty response"


def test_mt_bench_turns_need_reference_answers() -> None:
    assert reason({"turns": ["q", "q2"]}) == "no response"
    read = one({"turns": ["q", "q2"], "reference": ["a", ""], "category": "math"})
    assert said(read) == PAIR
    assert read.extra == {"category": "math", "trailing_messages": [{"role": "user", "content": "q2"}]}
