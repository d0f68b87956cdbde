"""Every chat format, and what holds for any row at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.chat_formats import parse_row
from connectors.examples import EXAMPLE_SCHEMA, ROLES, BadRow, Conversation, example_row, to_batches
from connectors.fields import FORMATS, RESPONSE_NAMES, layout_of
from connectors.preferences import Pairs
from tests.connectors.rows import CHAT, PAIR, SHAREGPT, Row, calls, one, said

# Prompt and response


@pytest.mark.parametrize("response", ["output", "response"])
def test_alpaca_joins_instruction_and_input_with_a_blank_line(response: str) -> None:
    read = one({"instruction": "Add.", "input": "2 and 2", response: "4", "id": 7})
    assert said(read) == [("user", "Add.\n\n2 and 2"), ("assistant", "4")]
    assert read.extra == {"id": 7}


def test_an_empty_alpaca_input_adds_nothing() -> None:
    assert said(one({"instruction": "q", "input": "", "output": "a"})) == PAIR
    assert said(one({"instruction": "q", "input": None, "output": "a"})) == PAIR
    assert said(one({"instruction": "", "input": "q", "output": "a"})) == PAIR


def test_alpaca_history_and_system_come_before_the_instruction() -> None:
    row = {"system": "s", "history": [["q0", "a0"]], "instruction": "q", "input": "", "output": "a"}
    read = one(row)
    assert said(read) == [("system", "s"), ("user", "q0"), ("assistant", "a0"), *PAIR]
    assert read.extra == {}


def test_dolly_context_is_an_input() -> None:
    read = one({"instruction": "q", "context": "c", "response": "a", "category": "x"})
    assert said(read) == [("user", "q\n\nc"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("prompt", "completion"),
        ("question", "answer"),
        ("Question", "Best Answer"),
        ("problem", "solution"),
        ("text", "code"),
        ("user_query", "chatgpt_response"),
        ("question", "ground_truth"),
        ("prompt", "canonical_solution"),
        ("input", "output"),
    ],
)
def test_a_pair_is_read_under_any_known_names(prompt: str, response: str) -> None:
    read = one({"label": True, prompt: "q", response: "a", "score": 0.5, "split": "train"})
    assert said(read) == PAIR
    assert read.extra == {"label": True, "score": 0.5, "split": "train"}


def test_a_worked_solution_is_preferred_to_a_bare_answer() -> None:
    read = one({"problem": "q", "solution": "a", "answer": "4"})
    assert said(read) == PAIR
    assert read.extra == {"answer": "4"}
    assert said(one({"input": "q", "code": "a", "target": -5.0})) == PAIR


@pytest.mark.parametrize(("number", "text"), [(4, "4"), (-9867630.0, "-9867630.0")])
def test_a_number_is_an_answer(number: float, text: str) -> None:
    assert said(one({"input": "q", "target": number}))[-1] == ("assistant", text)


def test_prompt_and_completion_may_be_messages() -> None:
    assert said(one({"prompt": CHAT[:1], "completion": CHAT[1:]})) == PAIR
    assert said(one({"prompt": CHAT[:1], "completion": "a"})) == PAIR
    assert said(one({"prompt": "q", "completion": CHAT[1:]})) == PAIR


def test_mapped_names_win_over_known_ones() -> None:
    row = {"prompt": "no", "frage": "q", "antwort": "a", "output": "no", "hinweis": "h"}
    mapped = (("input", "hinweis"), ("prompt", "frage"), ("response", "antwort"))
    read = one(row, mapped=mapped)
    assert said(read) == [("user", "q\n\nh"), ("assistant", "a")]
    assert read.extra == {"prompt": "no", "output": "no"}


def test_a_mapped_messages_field_is_a_conversation() -> None:
    assert said(one({"chat": SHAREGPT, "output": "x"}, mapped=(("messages", "chat"),))) == PAIR


def test_the_stated_format_wins_over_the_detected_one() -> None:
    row = {"messages": CHAT, "question": "q2", "answer": "a2"}
    assert said(one(row)) == PAIR
    read = one(row, stated="question_answer")
    assert said(read) == [("user", "q2"), ("assistant", "a2")]
    assert read.extra == {"messages": CHAT}


# Conversations


def test_sharegpt_names_roles_in_its_own_way() -> None:
    turns = [
        {"from": "system", "value": "s"},
        *SHAREGPT,
        {"from": "user", "value": "q2"},
        {"from": "bing", "value": "a2"},
    ]
    read = one({"id": "x", "conversations": turns})
    assert said(read) == [("system", "s"), *PAIR, ("user", "q2"), ("assistant", "a2")]
    assert read.extra == {"id": "x"}


def test_a_function_call_after_words_joins_their_message() -> None:
    call = '{"name": "f", "arguments": {"x": 1}}'
    turns = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "Let me see."},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": "r"},
        {"from": "gpt", "value": "a"},
    ]
    read = one({"conversations": turns, "tools": '[{"name": "f"}]'})
    assert said(read) == [("user", "q"), ("assistant", "Let me see."), ("tool", "r"), ("assistant", "a")]
    assert calls(read, 1) == [("f", '{"x": 1}')]
    assert read.tools == '[{"name": "f"}]'


def test_a_function_call_may_be_a_list_and_may_be_the_response() -> None:
    value = '[{"name": "f", "arguments": "{}"}, {"name": "g"}]'
    read = one(
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]}
    )
    assert calls(read, 1) == [("f", "{}"), ("g", "{}")]


def test_openai_messages_keep_tool_calls_tools_and_names() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    turns = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": "q", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
        {"role": "assistant", "content": "a", "loss_weight": 0.5},
    ]
    read = one({"messages": turns, "tools": [{"type": "function"}]})
    assert [role for role, _ in said(read)] == ["system", "user", "assistant", "tool", "assistant"]
    assert read.messages[2]["tool_calls"] == [call]
    assert read.messages[1]["name"] == "ann"
    assert read.tools == '[{"type": "function"}]'
    assert read.extra == {"message_fields": {"3": {"tool_call_id": "c1"}, "4": {"loss_weight": 0.5}}}


def test_content_parts_are_joined_in_order() -> None:
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "text": "a"},
        {"type": "text", "value": "b"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {}}'},
    ]
    read = one(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": parts},
            ]
        }
    )
    assert said(read) == [("user", "q"), ("assistant", "<think>\nhm\n</think>\n\nab")]
    assert calls(read, 1) == [("f", "{}")]


def test_turns_after_the_last_answer_are_kept_apart() -> None:
    read = one({"messages": [*CHAT, {"role": "user", "content": "bye", "x": 1}]})
    assert said(read) == PAIR
    assert read.extra == {"trailing_messages": [{"role": "user", "content": "bye", "x": 1}]}


def test_a_system_field_begins_the_conversation() -> None:
    assert said(one({"conversations": SHAREGPT, "system": "s"})) == [("system", "s"), *PAIR]
    own = [{"from": "system", "value": "own"}, *SHAREGPT]
    assert one({"conversations": own, "system": "s"}).extra == {"system": "s"}


def test_messages_may_be_json_text_or_an_object_of_lists() -> None:
    assert said(one({"messages": json.dumps(CHAT)})) == PAIR
    assert said(one({"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}})) == PAIR


def test_a_history_of_user_and_bot_is_a_conversation() -> None:
    read = one({"task": "GR", "history": [{"user": "q", "bot": "a"}, {"user": "q2", "bot": None}]})
    assert said(read) == PAIR
    assert read.extra == {"task": "GR", "trailing_messages": [{"role": "user", "content": "q2"}]}


@pytest.mark.parametrize("text", ["\n\nHuman: q\n\nAssistant: a", "### Human: q\n### Assistant: a"])
def test_a_dialogue_in_one_text_is_split(text: str) -> None:
    assert said(one({"text": text})) == PAIR


def test_kto_labels_stay_in_extra() -> None:
    assert one({"messages": CHAT, "label": False}).extra == {"label": False}
    assert one({"prompt": "q", "completion": "a", "label": True}, stated="kto").extra == {"label": True}


# What holds for any row

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    [
        "instruction",
        "prompt",
        "question",
        "input",
        "output",
        "response",
        "history",
        "system",
        "messages",
        "conversations",
        "tools",
        "chosen",
        "rejected",
        "text",
        "turns",
        "reference",
        "instances",
        "label",
        "output_1",
        "output_2",
        "message_tree_id",
        "replies",
        "extra",
    ]
)
turn_like = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool"]) | json_values,
        "from": st.sampled_from(["human", "gpt", "function_call"]),
        "content": st.text(max_size=5) | json_values,
        "value": st.text(max_size=5),
        "tool_calls": json_values,
        "replies": st.lists(json_values, max_size=2),
        "text": st.text(max_size=3),
    },
)
rows = st.dictionaries(field_names, json_values | st.lists(turn_like, max_size=5) | turn_like, max_size=6)


@given(row=rows, stated=st.sampled_from(["auto", *FORMATS]), pairs=st.sampled_from(["chosen", "both"]))
def test_any_row_gives_examples_or_a_bad_row_and_nothing_else(row: Row, stated: str, pairs: Pairs) -> None:
    try:
        items = parse_row(row, stated, (), pairs)
    except BadRow:
        return
    assert items
    for item in items:
        if isinstance(item, Conversation):
            assert item.messages[-1]["role"] == "assistant"
            assert item.messages[-1]["content"].strip() or item.messages[-1]["tool_calls"]
            assert {turn["role"] for turn in item.messages} <= set(ROLES)
            [batch] = to_batches(iter([example_row(item, "s", "i")]))
            assert batch.schema == EXAMPLE_SCHEMA


@given(extra=st.dictionaries(st.sampled_from(["id", "a", "b", "rejected", "trailing_messages"]), json_values))
def test_every_field_that_is_not_read_is_in_extra(extra: Row) -> None:
    assert one({**extra, "question": "q", "answer": "a"}).extra == extra
    assert one({**extra, "messages": CHAT}).extra == extra


@given(data=st.data())
def test_a_conversation_reads_back_as_itself(data: st.DataObject) -> None:
    text = st.text(min_size=1, max_size=8).filter(str.strip)
    pairs = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=4))
    turns = [turn for pair in pairs for turn in zip(("user", "assistant"), pair, strict=True)]
    openai = one({"messages": [{"role": role, "content": content} for role, content in turns]})
    sharegpt = one({"conversations": [{"from": role, "value": content} for role, content in turns]})
    history = one({"history": [{"user": question, "bot": answer} for question, answer in pairs]})
    assert openai.messages == sharegpt.messages == history.messages
    assert said(openai) == turns


@pytest.mark.parametrize("name", RESPONSE_NAMES)
def test_detection_does_not_depend_on_the_order_of_fields(name: str) -> None:
    forward, backward = layout_of(("question", name, "id")), layout_of(("id", name, "question"))
    assert forward.names == backward.names
