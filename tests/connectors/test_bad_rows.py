"""Every way a row can be wrong has a countable reason, and says what was wanted."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.chat_formats import parse_row
from connectors.examples import BadRow
from tests.connectors.rows import CHAT, SHAREGPT, Row, reason


def chat(*turns: tuple[str, Any]) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"foo": 1}, "unknown format"),
        ({}, "unknown format"),
        ({"text": "no dialogue"}, "unknown format"),
        ({"instruction": "q"}, "missing response"),
        ({"instruction": "q", "output": None}, "missing response"),
        ({"instruction": "q", "output": " \n"}, "empty response"),
        ({"instruction": " ", "output": "a"}, "empty prompt"),
        ({"instruction": "q", "output": ["a"]}, "wrong type"),
        ({"instruction": "q", "output": True}, "wrong type"),
        ({"instruction": "q", "input": {"x": 1}, "output": "a"}, "wrong type"),
        ({"prompt": 5, "completion": "a"}, "wrong type"),
        ({"messages": []}, "empty conversation"),
        ({"messages": None}, "empty conversation"),
        ({"messages": "hello"}, "wrong type"),
        ({"messages": ["hello"]}, "wrong type"),
        (chat(("user", "q")), "no response"),
        (chat(("user", "q"), ("assistant", " ")), "empty response"),
        (chat(("user", 5), ("assistant", "a")), "wrong type"),
        (chat(("user", None), ("assistant", "a")), "missing content"),
        (chat(("wizard", "q"), ("assistant", "a")), "unknown role"),
        ({"messages": [{"content": "q"}]}, "unknown role"),
        (chat(("assistant", "a")), "roles out of order"),
        (chat(("system", "s"), ("assistant", "a")), "roles out of order"),
        (chat(("user", "q"), ("user", "q"), ("assistant", "a")), "roles out of order"),
        (chat(("user", "q"), ("assistant", "a"), ("assistant", "a")), "roles out of order"),
        (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "roles out of order"),
        (chat(("user", "q"), ("tool", "r"), ("assistant", "a")), "roles out of order"),
        ({"conversations": [SHAREGPT[1], *SHAREGPT]}, "roles out of order"),
        (
            chat(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "a")),
            "unsupported content part",
        ),
        (
            {"conversations": [SHAREGPT[0], {"from": "function_call", "value": "f(x)"}]},
            "tool call is not JSON",
        ),
        (
            {"conversations": [SHAREGPT[0], {"from": "function_call", "value": "{}"}]},
            "tool call without a name",
        ),
        ({"messages": CHAT, "tools": "hammer"}, "tools are not JSON"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "missing response"),
        ({"chosen": "a", "rejected": "b"}, "missing prompt"),
        ({"input": "q", "output_1": "a", "output_2": "b", "label": 3}, "no preference"),
        ({"instruction": "q", "instances": []}, "no response"),
        ({"history": "none"}, "wrong type"),
    ],
)
def test_a_bad_row_has_a_countable_reason(row: Row, wanted: str) -> None:
    assert reason(row) == wanted


def test_an_unknown_format_says_what_was_found_and_how_to_map_it() -> None:
    with pytest.raises(BadRow, match=r"found the fields 'frage', 'antwort'.*fields: \{prompt: my_question"):
        parse_row({"frage": "q", "antwort": "a"})


def test_a_missing_mapped_field_is_named() -> None:
    with pytest.raises(BadRow, match="wanted field 'antwort'"):
        parse_row({"question": "q", "answer": "a"}, mapped=(("response", "antwort"),))


def test_roles_out_of_order_says_which_turn() -> None:
    with pytest.raises(
        BadRow, match=r"message 2 of 'messages' \(user\) follows a turn of the user; wanted assistant"
    ):
        parse_row(chat(("user", "q"), ("user", "q"), ("assistant", "a")))
