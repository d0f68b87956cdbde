"""Conversations far longer than a model reads, cut before they are rendered and tokenised.

A tokenizer takes about 400 bytes of memory for each character, so a row of 50 megabytes would take 20 GB to
find out that it does not fit. What is left after the cut still does not fit: nothing that the model reads is
missing.
"""

from __future__ import annotations

from connectors.examples import Message, response_text

CHARS_PER_TOKEN = 32  # no text has as many on average, but one of long runs of blanks
MOST_CHARS_PER_TOKEN = 128  # a text with as many is not tokenised to find out whether it fits


def conversation_chars(messages: list[Message], tools: str | None = None) -> int:
    """Characters of all turns, tool calls and tool definitions."""
    return sum(len(response_text([turn])) for turn in messages) + len(tools or "")


def shortened(messages: list[Message], chars: int) -> list[Message]:
    """The beginning of a conversation, of about `chars` characters, and its response, cut to as many.

    Roles follow each other as they did. Tool calls stay whole. A conversation of no more characters is given
    back as it is.

    Args:
        messages: Ends with the response.
        chars: How many characters to leave, at least 1.

    Example:
        >>> from connectors.examples import message
        >>> turns = [message("user", "abc"), message("assistant", "defg")]
        >>> [turn["content"] for turn in shortened(turns, 3)]
        ['abc', 'def']
    """
    if conversation_chars(messages) <= chars:
        return messages
    kept: list[Message] = []
    held = 0
    for turn in messages[:-1]:
        if held >= chars and kept[-1]["role"] != "assistant":
            break
        kept.append(_cut(turn, chars))
        held += len(turn["content"])
    return [*kept, _cut(messages[-1], chars)]


def _cut(turn: Message, chars: int) -> Message:
    return {**turn, "content": turn["content"][:chars]}
