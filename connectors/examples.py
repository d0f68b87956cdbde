"""The canonical example: one row for every kind of instruction data, its schema and its hashes.

An example is a conversation that ends with the response to train on. *Response* is the last
assistant message, *prompt* is everything before it. Rival answers to one prompt share `group`;
rows that say the same thing share `content_hash`.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import orjson
import pyarrow as pa

ROLES = ("system", "user", "assistant", "tool")
ROWS_PER_BATCH = 2048  # rows per Arrow batch and per Parquet row group
BATCH_CHARS = 16_000_000  # a batch is closed at this size too, so that one of long rows stays bounded
EXCERPT_CHARS = 300


class BadRow(ValueError):  # noqa: N818 - it names a row, not an error of ours
    """A row (or a whole file) that cannot be read; it becomes a row of `bad_rows`.

    Args:
        reason: Short and countable, the same words for the same fault ("not JSON").
        detail: What was found and what was wanted, for the one who mends the file.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class ToolFunction(TypedDict):
    """What a tool call calls. `arguments` is JSON text, as in OpenAI's format."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call in an assistant message."""

    id: str | None
    type: str
    function: ToolFunction


class Message(TypedDict):
    """One turn. `role` is one of ROLES; `tool_calls` is None, never an empty list."""

    role: str
    content: str
    tool_calls: list[ToolCall] | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat format yields: one conversation out of one input row.

    Attributes:
        messages: The turns; the last one is from the assistant.
        tools: JSON text of the tool definitions, or None.
        extra: Every input field that was not consumed.
        part: Tells apart several conversations of one input row ("" when there is only one).
    """

    messages: list[Message]
    tools: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    part: str = ""


_MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        (
            "tool_calls",
            pa.list_(
                pa.struct(
                    [
                        ("id", pa.string()),
                        ("type", pa.string()),
                        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
                    ]
                )
            ),
        ),
        ("name", pa.string()),
    ]
)

EXAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("tools", pa.string()),
        ("group", pa.string()),
        ("content_hash", pa.string()),
        ("extra", pa.string()),
    ]
)

BAD_ROW_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("path", pa.string()),
        ("row", pa.int64()),  # 1-based line or record; null when the whole file could not be read
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("excerpt", pa.string()),
    ]
)


def message(
    role: str, content: str, tool_calls: list[ToolCall] | None = None, name: str | None = None
) -> Message:
    """A message with every key present, as the Arrow schema wants it."""
    return {"role": role, "content": content, "tool_calls": tool_calls or None, "name": name}


def normalise(text: str) -> str:
    r"""Text as the duplicate keys see it: Unicode NFC, lower case, white space folded to one space.

    Example:
        >>> normalise("  What is\n2+2 ? ")
        'what is 2+2 ?'
    """
    if not text.isascii():  # NFC leaves ASCII as it is
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.lower().split())


def conversation_hash(messages: Sequence[Message], tools: str | None = None) -> str:
    """Hash of a normalised conversation, 32 hex digits (BLAKE2b, 128 bits).

    Roles, normalised contents, tool calls and tool definitions count; names do not.
    """
    return _digest(_normal_parts(messages, tools))


def _normal_parts(messages: Sequence[Message], tools: str | None) -> list[Any]:
    """What of a conversation counts for its hash: tool definitions, then one list per turn."""
    parts: list[Any] = [normalise(tools) if tools else None]
    for turn in messages:
        calls = [
            [call["function"]["name"], call["function"]["arguments"]] for call in turn["tool_calls"] or ()
        ]
        parts.append([turn["role"], normalise(turn["content"]), calls])
    return parts


def _digest(parts: list[Any]) -> str:
    try:
        payload = orjson.dumps(parts)  # the same bytes as the fallback's, several times faster
    except orjson.JSONEncodeError:  # half a surrogate pair: it must hash, not raise
        payload = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def prompt_text(messages: Sequence[Message]) -> str:
    """All turns before the response, one per line."""
    return "\n".join(_turn_text(turn) for turn in messages[:-1])


def response_text(messages: Sequence[Message]) -> str:
    """The response, tool calls included."""
    return _turn_text(messages[-1])


def _turn_text(turn: Message) -> str:
    calls = (f"{c['function']['name']} {c['function']['arguments']}" for c in turn["tool_calls"] or [])
    return "\n".join(part for part in (turn["content"], *calls) if part)


def example_id(source: str, file_name: str, row: int, part: str = "") -> str:
    """Identity of an example, stable across runs, runners and the order of input files.

    Args:
        source: Name of the input in the recipe.
        file_name: File name relative to the input's folder or glob.
        row: 1-based line (JSON lines) or record number.
        part: Which conversation of the row, "" when there is only one.

    Example:
        >>> example_id("gsm8k", "train.jsonl", 17)
        'gsm8k/train.jsonl:00000017'
    """
    return f"{source}/{file_name}:{row:08d}" + (f"/{part}" if part else "")


def example_row(conversation: Conversation, source: str, row_id: str) -> dict[str, Any]:
    """The canonical row of a conversation, keys in the order of EXAMPLE_SCHEMA."""
    parts = _normal_parts(conversation.messages, conversation.tools)
    extra = json.dumps(conversation.extra, ensure_ascii=False, default=str) if conversation.extra else None
    return {
        "id": row_id,
        "source": source,
        "messages": conversation.messages,
        "tools": conversation.tools,
        "group": _digest(parts[:-1]),
        "content_hash": _digest(parts),
        "extra": extra,
    }


def to_batches(rows: Iterator[dict[str, Any]], size: int = ROWS_PER_BATCH) -> Iterator[pa.RecordBatch]:
    """Rows in order, as Arrow batches of `size` rows (the last one shorter)."""
    buffer: list[dict[str, Any]] = []
    for row in rows:
        buffer.append(row)
        if len(buffer) == size:
            yield pa.RecordBatch.from_pylist(buffer, schema=EXAMPLE_SCHEMA)
            buffer = []
    if buffer:
        yield pa.RecordBatch.from_pylist(buffer, schema=EXAMPLE_SCHEMA)


class Batcher:
    """Collects rows and hands them on in batches that are bounded in rows and in characters.

    Args:
        schema: Of the rows.
        take: Gets each batch.
    """

    def __init__(self, schema: pa.Schema, take: Callable[[pa.RecordBatch], Any]) -> None:
        self._schema = schema
        self._take = take
        self._rows: list[dict[str, Any]] = []
        self._chars = 0

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row; hands a batch on when one is full."""
        self._rows.append(row)
        self._chars += sum(len(turn["content"]) for turn in row.get("messages") or ())
        if len(self._rows) >= ROWS_PER_BATCH or self._chars >= BATCH_CHARS:
            self.flush()

    def flush(self) -> None:
        """Hands on what is left."""
        if self._rows:
            self._take(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows, self._chars = [], 0
