"""Tiny rows, and what was read of one."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.chat_formats import parse_row
from connectors.examples import BadRow, Conversation

Row = dict[str, Any]
Mapped = tuple[tuple[str, str], ...]


def one(row: Row, stated: str = "auto", mapped: Mapped = ()) -> Conversation:
    """The only conversation of a row."""
    [read] = parse_row(row, stated, mapped)
    assert isinstance(read, Conversation)
    return read


def said(read: Conversation) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in read.messages]


def calls(read: Conversation, turn: int) -> list[tuple[str, str]]:
    made = read.messages[turn]["tool_calls"] or []
    return [(call["function"]["name"], call["function"]["arguments"]) for call in made]


def reason(row: Row) -> str:
    with pytest.raises(BadRow) as caught:
        parse_row(row)
    return caught.value.reason


PAIR = [("user", "q"), ("assistant", "a")]
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
