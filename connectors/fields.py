"""Which field of a row plays which part: names that data sets use, and the format they add up to.

A format is detected from the field names alone, so the answer is the same for every row with the same
fields and is cached. Names are compared without case, and with spaces and hyphens read as underscores.
Where a row has several candidates the first name in the lists below wins; a recipe's `fields:` wins over all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from connectors.examples import BadRow

FORMATS = {
    "alpaca": "instruction, optional input, history and system; output",
    "prompt_completion": "prompt and completion, or any other pair of names",
    "question_answer": "question and answer, or any other pair of names",
    "messages": "messages: role and content (OpenAI), tool calls, tools, content parts",
    "sharegpt": "conversations: from and value, function_call and observation, tools",
    "history": "history: a list of {user, bot} or [question, answer]",
    "human_assistant": "text: 'Human: … Assistant: …'",
    "preference": "chosen and rejected, as text, one turn or messages; output_1, output_2 and label",
    "openassistant": "message trees: prompt with replies",
    "self_instruct": "instruction and instances: a list of input and output",
    "mt_bench": "turns: a list of questions; reference: the answers",
}
"""Format names a recipe may state, with the fields each one reads."""

FORMAT_SYNONYMS = {
    "dpo": "preference",
    "openai": "messages",
    "kto": "messages",
    "qa": "question_answer",
    "oasst": "openassistant",
}

PROMPT_NAMES = (
    "instruction",
    "prompt",
    "question",
    "problem",
    "user_query",
    "query",
    "user",
    "human",
    "input",
    "text",
)
# A worked solution is preferred to a bare final answer (MATH has both), and program code to its numeric
# result (gsm_hard has `code` and `target`): it is the longer text that shows how to answer.
RESPONSE_NAMES = (
    "output",
    "response",
    "completion",
    "solution",
    "answer",
    "canonical_solution",
    "chatgpt_response",
    "best_answer",
    "code",
    "ground_truth",
    "target",
    "reply",
    "assistant",
    "bot",
)
ALIASES = {
    "messages": ("messages", "conversations", "conversation"),
    "chosen": ("chosen", "chosen_messages", "chosen_response"),
    "rejected": ("rejected", "rejected_messages", "rejected_response"),
    "prompt": PROMPT_NAMES,
    "response": RESPONSE_NAMES,
    "system": ("system", "system_prompt"),
    "tools": ("tools",),
    "history": ("history",),
    "input": ("input", "context"),
}
CANONICAL_FIELDS = tuple(ALIASES)

_SHARED = ("system", "history")  # read beside a prompt and a response when they hold what they should


@dataclass(frozen=True)
class Layout:
    """How to read rows with one set of field names.

    Attributes:
        format: One of FORMATS.
        names: Canonical name → the row's own name of that field; only fields that the row has.
        consumed: The row's own names that the format reads; every other field is kept as extra.
    """

    format: str
    names: dict[str, str]
    consumed: frozenset[str]


def plain_name(name: str) -> str:
    """A field name as names are compared.

    Example:
        >>> plain_name("Best Answer")
        'best_answer'
    """
    return name.strip().lower().replace(" ", "_").replace("-", "_")


_CACHED_CHARS = (
    4096  # of all names of a row together: a cache that kept longer ones would be a hostile file's
)


def layout_of(
    keys: tuple[str, ...], stated: str = "auto", mapped: tuple[tuple[str, str], ...] = ()
) -> Layout:
    """Decides how rows with these fields are read.

    Args:
        keys: Field names of a row.
        stated: The recipe's `format:`, or "auto".
        mapped: The recipe's `fields:` as (canonical name, field name) pairs.

    Raises:
        BadRow: If no format fits, or the stated one lacks a field.
    """
    if len(keys) + sum(map(len, keys)) > _CACHED_CHARS:
        return _layout(keys, stated, mapped)
    return _cached_layout(keys, stated, mapped)


def _layout(keys: tuple[str, ...], stated: str, mapped: tuple[tuple[str, str], ...]) -> Layout:
    names = _resolve(keys, dict(mapped))
    if stated == "kto":  # both forms of KTO data
        stated = "messages" if "messages" in names else "prompt_completion"
    name = FORMAT_SYNONYMS.get(stated, stated)
    if name == "auto":
        name = _detect(frozenset(keys), names, {canonical for canonical, _ in mapped})
    if not name:
        raise _nothing_fits(keys, names, dict(mapped))
    if name == "human_assistant" and "text" in keys and "prompt" not in dict(mapped):
        names["prompt"] = "text"
    _require(name, keys, names, dict(mapped))
    if name in ("prompt_completion", "question_answer") and plain_name(names["prompt"]) == "instruction":
        name = "alpaca"
    return Layout(name, names, _consumed(name, keys, names))


_cached_layout = lru_cache(maxsize=4096)(_layout)


def _resolve(keys: tuple[str, ...], mapped: dict[str, str]) -> dict[str, str]:
    """Canonical name → field name, for the fields that these rows have."""
    by_plain: dict[str, str] = {}
    for key in keys:
        by_plain.setdefault(plain_name(key), key)
    names = {canonical: field for canonical, field in mapped.items() if field in keys}
    for canonical, aliases in ALIASES.items():
        if canonical in mapped:
            continue
        taken = set(names.values())
        found = (
            by_plain[alias] for alias in aliases if by_plain.get(alias, "") and by_plain[alias] not in taken
        )
        if field := next(found, None):
            names[canonical] = field
    if "input" in names and "input" not in mapped and plain_name(names.get("prompt", "")) != "instruction":
        del names["input"]  # an `input` belongs to an `instruction`; elsewhere it is just another field
    return names


def _detect(keys: frozenset[str], names: dict[str, str], mapped: set[str]) -> str:
    """The format of rows with these fields, "" when none fits."""
    pair = "prompt" in names and "response" in names
    preference = ("chosen" in names and "rejected" in names) or keys >= {"output_1", "output_2", "label"}
    if pair and "response" in mapped and not {"messages", "chosen"} & mapped:
        return "prompt_completion"
    if "messages" in mapped and "messages" in names:
        return "messages"
    rules = (
        ("openassistant", keys >= {"message_tree_id", "prompt"}),
        ("self_instruct", keys >= {"instruction", "instances"}),
        ("preference", preference),
        ("messages", "messages" in names and plain_name(names["messages"]) == "messages"),
        ("sharegpt", "messages" in names),
        ("mt_bench", "turns" in keys and not pair),
        ("question_answer", pair and plain_name(names["prompt"]) == "question"),
        ("prompt_completion", pair),
        ("history", "history" in names and "prompt" not in names),
        ("human_assistant", plain_name(names.get("prompt", "")) == "text"),
    )
    return next((name for name, fits in rules if fits), "")


def _consumed(name: str, keys: tuple[str, ...], names: dict[str, str]) -> frozenset[str]:
    read = {
        "openassistant": ("prompt",),
        "self_instruct": ("prompt", "system"),
        "messages": ("messages", "tools", "system"),
        "sharegpt": ("messages", "tools", "system"),
        "history": ("history", "system"),
        "human_assistant": ("prompt",),
        "mt_bench": (),
        "preference": ("chosen", "rejected"),
    }.get(name, ("prompt", "response", "input", *_SHARED))
    own = {"self_instruct": ("instances",), "mt_bench": ("turns", "reference")}.get(name, ())
    return frozenset({names[part] for part in read if part in names} | {key for key in keys if key in own})


_REQUIRED: dict[str, tuple[str, ...]] = {
    "alpaca": ("prompt", "response"),
    "prompt_completion": ("prompt", "response"),
    "question_answer": ("prompt", "response"),
    "messages": ("messages",),
    "sharegpt": ("messages",),
    "history": ("history",),
    "human_assistant": ("prompt",),
    "openassistant": ("prompt",),
    "self_instruct": ("prompt",),
}


def _require(name: str, keys: tuple[str, ...], names: dict[str, str], mapped: dict[str, str]) -> None:
    """Raises BadRow when the format's fields are not there."""
    for part in _REQUIRED.get(name, ()):
        if part not in names:
            raise _missing(part, keys, mapped)
    own = {"self_instruct": "instances", "mt_bench": "turns"}.get(name)
    if own and own not in keys:
        raise BadRow("missing field", f"wanted '{own}' for format {name}, {found(keys)}")
    if name == "preference" and "output_1" not in keys:
        for part in ("chosen", "rejected"):
            if part not in names:
                raise _missing(part, keys, mapped)


def _nothing_fits(keys: tuple[str, ...], names: dict[str, str], mapped: dict[str, str]) -> BadRow:
    if "response" in mapped or ("prompt" in names and "response" not in names):
        return _missing("response" if "response" not in names else "prompt", keys, mapped)
    return BadRow(
        "unknown format",
        f"{found(keys)}; known formats are {', '.join(FORMATS)}; name the fields in the recipe, "
        "e.g. fields: {prompt: my_question, response: my_answer}",
    )


def _missing(part: str, keys: Iterable[str], mapped: dict[str, str]) -> BadRow:
    """The BadRow for a row that lacks the field that plays `part`."""
    if part in mapped:
        wanted = f"field '{mapped[part]}' (fields: {part}: {mapped[part]})"
    else:
        wanted = "one of the fields " + ", ".join(ALIASES[part])
    hint = "" if part in mapped else f"; or name it in the recipe, e.g. fields: {{{part}: my_field}}"
    return BadRow(f"missing {part}", f"wanted {wanted}; {found(keys)}{hint}")


def found(keys: Iterable[str]) -> str:
    """The fields of a row in words, for the detail of a bad row."""
    names = list(keys)
    shown = ", ".join(f"'{name[:60]}'" for name in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"found the fields {shown}{more}" if names else "found no fields"
