"""What a generator of the sample corpus yields: one conversation, before it is written in some format."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connectors.examples import Message, message


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation.

    Attributes:
        messages: The turns; the last one is from the assistant.
        kind: Which generator wrote it ("maths", "email").
        wrong_response: The same response with one slip of arithmetic; None where there is none.
        input: The end of the only user turn that Alpaca's format keeps apart from the instruction.
        tools: Tool definitions in OpenAI's format.
    """

    messages: list[Message]
    kind: str
    wrong_response: str | None = None
    input: str = ""
    tools: list[dict[str, Any]] | None = None

    @property
    def response(self) -> str:
        """Content of the last turn."""
        return self.messages[-1]["content"]


def single_turn(kind: str, prompt: str, response: str, wrong_response: str | None = None) -> Row:
    """A row of one question and one answer."""
    return Row([message("user", prompt), message("assistant", response)], kind, wrong_response)


def with_input(kind: str, instruction: str, text: str, response: str) -> Row:
    """A row whose instruction is about a text."""
    turns = [message("user", f"{instruction}\n\n{text}"), message("assistant", response)]
    return Row(turns, kind, input=text)


def dialogue(kind: str, *turns: str) -> Row:
    """A row of user and assistant turns, the user first and the assistant last."""
    roles = ("user", "assistant")
    return Row([message(roles[i % 2], text) for i, text in enumerate(turns)], kind)


def pick(rng: random.Random, choices: Sequence[str]) -> str:
    """One of the choices."""
    return rng.choice(choices)


def words(text: str) -> tuple[str, ...]:
    """Words or phrases that are written with bars between them."""
    return tuple(text.split("|"))
