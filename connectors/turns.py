"""Chat turns as data sets write them, made into canonical messages.

Reads the turns of OpenAI messages (role, content) and of ShareGPT (from, value), with tool calls and
content parts, and checks what a chat template needs: known roles, in order, ending with a response.
The order: an optional system turn, then user and assistant in turn; tool turns follow an assistant turn.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, TypeGuard

from connectors.examples import BadRow, Conversation, Message, ToolCall, message

_CALL = "function_call"  # ShareGPT: a turn that is nothing but tool calls
_ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), _CALL),
}
_MAY_FOLLOW = {
    "start": {"system", "user"},
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
_READ_KEYS = frozenset({"role", "from", "content", "value", "name", "tool_calls", "function_call"})
_DIALOGUE = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")  # hh-rlhf
_DIALOGUE_MARKED = re.compile(
    r"#{2,3}\s*(Human|Assistant|System):"
)  # guanaco: "### Human: …### Assistant: …"


_MAX_DIGITS = 308  # of a whole number that a double can hold


def finite(number: str) -> float | None:
    """The number, or None where it is too large to be one: JSON (and so `extra`) has no infinity."""
    value = float(number)
    return value if math.isfinite(value) else None


def finite_whole(number: str) -> int | None:
    """The whole number, or None where no reader of JSON would take it back: above what a double holds."""
    return int(number) if len(number) <= _MAX_DIGITS else None


LENIENT = json.JSONDecoder(parse_float=finite, parse_int=finite_whole, parse_constant=lambda _: None)
"""Reads what orjson refuses: NaN, infinities and numbers beyond a double, as null."""


def conversation(turns: object, field: str, extra: dict[str, Any], tools: str | None = None) -> Conversation:
    """Reads a list of turns; what a turn holds beyond a message goes to `extra["message_fields"]`.

    Turns after the last assistant turn cannot be trained on; they go to `extra["trailing_messages"]`
    as they were.

    Args:
        turns: List of turns, JSON text of one, or an object of lists (a column-oriented list).
        field: Name of the field they come from, for messages.
        extra: Fields of the row that were not consumed; a copy is extended.
        tools: JSON text of the tool definitions.

    Raises:
        BadRow: If the turns are not a conversation that ends with a response.
    """
    listed = turn_list(turns, field)
    if not listed:
        raise BadRow("empty conversation", f"'{field}' holds no turns")
    messages, leftovers = _messages(listed, field)
    last = max((i for i, turn in enumerate(messages) if turn["role"] == "assistant"), default=None)
    if last is None:
        raise BadRow("no response", f"none of the {len(listed)} turns of '{field}' is from the assistant")
    trailing = listed[len(listed) - (len(messages) - 1 - last) :]
    messages = messages[: last + 1]
    _check_order(messages, field)
    if not messages[-1]["tool_calls"] and not messages[-1]["content"].strip():
        raise BadRow("empty response", f"the last assistant turn of '{field}' is empty")
    added: dict[str, Any] = {}
    if message_fields := {str(i): left for i, left in leftovers.items() if i <= last}:
        added["message_fields"] = message_fields
    if trailing:
        added["trailing_messages"] = trailing
    return Conversation(messages, tools, with_added(extra, added))


def with_added(extra: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """A copy of `extra` with more fields, renamed where they would hide a field of the row."""
    result = dict(extra)
    for name, value in added.items():
        while name in result:
            name += "_"
        result[name] = value
    return result


def history_turns(history: object, field: str) -> list[dict[str, Any]]:
    """Turns of a list of [question, answer] or {user, bot}; an answer that is null gives no turn.

    Raises:
        BadRow: If an item is neither.
    """
    if not isinstance(history, list):
        raise BadRow("wrong type", f"'{field}' is {kind_of(history)}; wanted a list of questions and answers")
    if is_turns(history):
        return list(history)
    turns: list[dict[str, Any]] = []
    for number, pair in enumerate(history, start=1):
        if isinstance(pair, list) and len(pair) == 2:
            question, answer, rest = pair[0], pair[1], {}
        elif isinstance(pair, dict) and "user" in pair:
            rest = dict(pair)
            question = rest.pop("user")
            answer = rest.pop("bot", None) if "bot" in rest else rest.pop("assistant", None)
        else:
            raise BadRow("wrong type", f"item {number} of '{field}' is not a question and its answer")
        turns.append({**rest, "role": "user", "content": question})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
    return turns


def turn_list(value: object, field: str) -> list[Any]:
    """The turns as a list, whichever way they are written.

    Raises:
        BadRow: If the value is not a list of turns.
    """
    if (
        isinstance(value, str) and value.lstrip()[:1] == "["
    ):  # messages kept as JSON text, in CSV for instance
        value = _json(value, "wrong type", f"'{field}' looks like JSON text but is not")
    if isinstance(value, dict) and same_length_lists(value.values()):
        # Hugging Face writes a sequence of objects as an object of sequences
        value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    if value is None:
        raise BadRow("empty conversation", f"'{field}' is null")
    if not isinstance(value, list):
        raise BadRow("wrong type", f"'{field}' is {kind_of(value)}; wanted a list of turns")
    return value


def same_length_lists(values: Collection[object]) -> bool:
    """Whether these are the columns of a table: at least one, all lists, all of one length."""
    lengths = {len(column) if isinstance(column, list) else None for column in values}
    return len(lengths) == 1 and None not in lengths


def is_turn(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value looks like one turn: an object with a role."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def is_turns(value: object) -> TypeGuard[list[Any]]:
    """Whether a value looks like a list of turns."""
    return isinstance(value, list) and bool(value) and is_turn(value[0])


def role_of(turn: object, place: str) -> str:
    """The canonical role of a turn ("function_call" for a ShareGPT turn of tool calls).

    Raises:
        BadRow: If the turn is not an object or has no known role.
    """
    if not isinstance(turn, dict):
        raise BadRow("wrong type", f"{place} is {kind_of(turn)}; wanted an object with a role and a content")
    raw = turn.get("role") if turn.get("role") is not None else turn.get("from")
    role = _ROLE_NAMES.get(raw.strip().lower()) if isinstance(raw, str) else None
    if role is None:
        named = f"has the role {str(raw)[:60]!r}" if raw is not None else "has no role"
        raise BadRow("unknown role", f"{place} {named}; known roles are {', '.join(_ROLE_NAMES)}")
    return role


def tools_text(value: object, field: str = "tools") -> str | None:
    """Tool definitions as JSON text; None where there are none.

    Raises:
        BadRow: If the value is text but not JSON, or neither text nor a list or object.
    """
    if value is None or value in ([], {}) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        parsed = _json(value, "tools are not JSON", f"'{field}' is not JSON text")
        if parsed in (None, [], {}):
            return None
        if isinstance(parsed, list | dict):
            return value
    elif isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    raise BadRow("wrong type", f"'{field}' is {kind_of(value)}; wanted a list of tool definitions")


def split_dialogue(text: str) -> list[dict[str, Any]]:
    r"""Turns of a text like "\n\nHuman: …\n\nAssistant: …", contents stripped; [] if it is not one.

    Example:
        >>> split_dialogue("\n\nHuman: Hi\n\nAssistant: Hello!")
        [{'role': 'human', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello!'}]
    """
    for pattern in (_DIALOGUE, _DIALOGUE_MARKED):
        before, *pieces = pattern.split(text)
        if pieces and not before.strip():
            pairs = zip(pieces[::2], pieces[1::2], strict=True)
            return [{"role": role.lower(), "content": content.strip()} for role, content in pairs]
    return []


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    words = {str: "text", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return words.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _messages(turns: list[Any], field: str) -> tuple[list[Message], dict[int, dict[str, Any]]]:
    """Canonical messages, and by message index what was left over of their turns."""
    messages: list[Message] = []
    leftovers: dict[int, dict[str, Any]] = {}
    for number, turn in enumerate(turns, start=1):
        place = f"turn {number} of '{field}'"
        role = role_of(turn, place)
        if role == _CALL:
            calls = _parsed_calls(_text(turn, role, place), place)
            if messages and messages[-1]["role"] == "assistant":  # the words before the call: one message
                messages[-1]["tool_calls"] = [*(messages[-1]["tool_calls"] or []), *calls]
            else:
                messages.append(message("assistant", "", calls))
        else:
            messages.append(_message(turn, role, place))
        left = _leftover(turn, role)
        if left:
            leftovers.setdefault(len(messages) - 1, {}).update(left)
    return messages, leftovers


def _message(turn: dict[str, Any], role: str, place: str) -> Message:
    calls: list[ToolCall] = []
    if role == "assistant":
        if turn.get("tool_calls"):
            calls = _parsed_calls(turn["tool_calls"], place)
        if turn.get("function_call"):  # OpenAI's form before tool calls
            calls += _parsed_calls(turn["function_call"], place)
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, list):
        content, part_calls = _joined_parts(content, role, place)
        calls += part_calls
    elif content is None and calls:
        content = ""
    elif not isinstance(content, str):
        content = _text(turn, role, place)
    name = turn.get("name")
    return message(role, content, calls, name if isinstance(name, str) else None)


def _text(turn: dict[str, Any], role: str, place: str) -> str:
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if isinstance(content, str):
        return content
    if content is None:
        raise BadRow("missing content", f"{place} ({role}) has no content")
    raise BadRow("wrong type", f"the content of {place} ({role}) is {kind_of(content)}; wanted text")


def _leftover(turn: dict[str, Any], role: str) -> dict[str, Any]:
    if len(turn) == 2:  # the common case: a role and a content
        return {}
    left = {key: value for key, value in turn.items() if key not in _READ_KEYS and value is not None}
    if role != "assistant":
        unread = {key: turn[key] for key in ("tool_calls", "function_call") if turn.get(key)}
        left.update(unread)
    if not isinstance(turn.get("name"), str | None):
        left["name"] = turn["name"]
    return left


def _joined_parts(parts: list[Any], role: str, place: str) -> tuple[str, list[ToolCall]]:
    """Text and tool calls of a content that is a list of parts, in their order."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else "text"
        value = _part_value(part)
        if value is None or kind not in _PART_TYPES or (kind in _CALLS and role != "assistant"):
            raise BadRow(
                "unsupported content part",
                f"{place} has a part of type {str(kind)[:60]!r}; read are text, reasoning and tool_call",
            )
        if kind in _CALLS:
            calls += _parsed_calls(value, place)
        elif kind in _REASONING:
            texts.append(f"<think>\n{value}\n</think>\n\n")
        else:
            texts.append(value)
    return "".join(texts), calls


_REASONING = ("reasoning", "thinking")
_CALLS = ("tool_call",)
_PART_TYPES = ("text", "input_text", "output_text", *_REASONING, *_CALLS)


def _part_value(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    return next((part[key] for key in ("text", "value", "thinking") if isinstance(part.get(key), str)), None)


def _parsed_calls(value: object, place: str) -> list[ToolCall]:
    if isinstance(value, str):
        value = _json(value, "tool call is not JSON", f"{place} calls a tool with {value[:80]!r}")
    return [_tool_call(call, place) for call in (value if isinstance(value, list) else [value])]


def _tool_call(call: object, place: str) -> ToolCall:
    """One call, from OpenAI's nested form or from the flat form of ShareGPT."""
    if isinstance(call, str):
        call = _json(call, "tool call is not JSON", f"{place} calls a tool with {call[:80]!r}")
    outer = call if isinstance(call, dict) else {}
    function = outer["function"] if isinstance(outer.get("function"), dict) else outer
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise BadRow("tool call without a name", f"{place} calls a tool without saying which")
    arguments = function.get("arguments", function.get("parameters"))
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    identity, kind = outer.get("id"), outer.get("type")
    return {
        "id": identity if isinstance(identity, str) else None,
        "type": kind if isinstance(kind, str) else "function",
        "function": {"name": name, "arguments": arguments},
    }


def _check_order(messages: list[Message], field: str) -> None:
    before = "start"
    for number, turn in enumerate(messages, start=1):
        if turn["role"] not in _MAY_FOLLOW[before]:
            after = "comes first" if before == "start" else f"follows a turn of the {before}"
            wanted = " or ".join(sorted(_MAY_FOLLOW[before]))
            raise BadRow(
                "roles out of order",
                f"message {number} of '{field}' ({turn['role']}) {after}; wanted {wanted}",
            )
        before = turn["role"]


def _json(text: str, reason: str, detail: str) -> object:
    """The value of JSON text inside a row; BadRow(reason) if it is not JSON."""
    try:
        value = LENIENT.decode(text)
    except ValueError as error:
        raise BadRow(reason, f"{detail}: {error}") from error
    if "\\u" in text:
        check_unicode(value)
    return value


def check_unicode(value: object) -> None:
    """Raises BadRow if a text in a JSON value holds half of a surrogate pair, which UTF-8 cannot store."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            "invalid Unicode", f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}"
        ) from error
