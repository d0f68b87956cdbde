"""From a row as published to canonical conversations: one short parser for each chat format.

`parse_row` is the door. It finds the format from the field names (see fields.py) or takes the one stated,
and gives one conversation, several (trees, nested instances, preference pairs), or says what is wrong.
What a format does not read is kept in `extra` under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connectors.examples import BadRow, Conversation, message
from connectors.fields import Layout, found, layout_of
from connectors.openassistant import parse_tree
from connectors.preferences import Pairs, parse_preference
from connectors.turns import (
    conversation,
    history_turns,
    is_turns,
    kind_of,
    role_of,
    split_dialogue,
    tools_text,
    turn_list,
    with_added,
)

Row = dict[str, Any]
Turns = list[dict[str, Any]]


def parse_row(
    row: Row, stated: str = "auto", mapped: tuple[tuple[str, str], ...] = (), pairs: Pairs = "chosen"
) -> list[Conversation | BadRow]:
    """Reads one row.

    Args:
        row: Field name → value, as JSON gives it.
        stated: The format, or "auto" to find it from the field names.
        mapped: (canonical name, field name) pairs; see fields.CANONICAL_FIELDS.
        pairs: Whether a preference pair gives its chosen answer only, or both.

    Returns:
        At least one item. Where a row gives several, the bad ones are returned beside the good ones.

    Raises:
        BadRow: If nothing of the row can be read.

    Example:
        >>> [conversation] = parse_row({"question": "2+2?", "answer": "4", "id": 7})
        >>> [turn["content"] for turn in conversation.messages], conversation.extra
        (['2+2?', '4'], {'id': 7})
    """
    layout = layout_of(tuple(row), stated, mapped)
    if layout.format == "preference":
        return parse_preference(row, layout, pairs)
    return _PARSERS[layout.format](row, layout)


def _parse_pair(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    """Alpaca, prompt and completion, question and answer: one text that asks, one that answers."""
    names = layout.names
    prompt, response = row[names["prompt"]], row[names["response"]]
    extra = {key: value for key, value in row.items() if key not in layout.consumed}
    before, answers_turns = _turns_before(row, names, extra), is_turns(response)
    if not answers_turns:
        response = _response_text(response, names["response"])
    if is_turns(prompt):
        turns = [*before, *prompt]
    else:
        asked = _prompt_text(prompt, row.get(names["input"]) if "input" in names else None, names)
        if not before and not answers_turns:  # the common case by far; nothing is left to check
            return [Conversation([message("user", asked), message("assistant", response)], None, extra)]
        turns = [*before, {"role": "user", "content": asked}]
    turns += response if answers_turns else [{"role": "assistant", "content": response}]
    return [conversation(turns, names["response"], extra)]


def _prompt_text(prompt: object, more: object, names: dict[str, str]) -> str:
    """The prompt, with Alpaca's `input` after a blank line."""
    if prompt is None:
        prompt = ""
    if not isinstance(prompt, str):
        raise BadRow("wrong type", f"'{names['prompt']}' is {kind_of(prompt)}; wanted text")
    if more is not None and more != "":
        more = _number_as_text(more)
        if not isinstance(more, str):
            raise BadRow("wrong type", f"'{names['input']}' is {kind_of(more)}; wanted text")
        if more.strip():
            prompt = f"{prompt}\n\n{more}" if prompt.strip() else more
    if not prompt.strip():
        raise BadRow("empty prompt", f"'{names['prompt']}' is empty")
    return prompt


def _response_text(response: object, name: str) -> str:
    response = _number_as_text(response)
    if response is None:
        raise BadRow("missing response", f"'{name}' is null")
    if not isinstance(response, str):
        raise BadRow("wrong type", f"'{name}' is {kind_of(response)}; wanted text or a number")
    if not response.strip():
        raise BadRow("empty response", f"'{name}' is empty")
    return response


def _number_as_text(value: object) -> object:
    """Numeric answers (gsm_hard) are answers: -5.0 reads "-5.0". True and false are not numbers."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _turns_before(row: Row, names: dict[str, str], extra: Row) -> Turns:
    """System and history turns of a prompt/response row; a field that holds no such thing goes to `extra`."""
    turns: Turns = []
    if "system" in names:
        turns += _system_turn(row, names, extra)
    if "history" in names:
        history = row[names["history"]]
        if _is_history(history):
            turns += history_turns(history, names["history"])
        elif history:
            extra[names["history"]] = history
    return turns


def _system_turn(row: Row, names: dict[str, str], extra: Row) -> Turns:
    if "system" not in names:
        return []
    system = row[names["system"]]
    if isinstance(system, str) and system.strip():
        return [{"role": "system", "content": system}]
    if system and not isinstance(system, str):
        extra[names["system"]] = system
    return []


def _is_history(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list | dict)


def _parse_messages(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    """OpenAI messages and ShareGPT conversations."""
    names = layout.names
    field = names["messages"]
    extra = {key: value for key, value in row.items() if key not in layout.consumed}
    turns = turn_list(row[field], field)
    if system := _system_turn(row, names, extra):
        if turns and role_of(turns[0], f"turn 1 of '{field}'") == "system":
            extra[names["system"]] = row[names["system"]]  # the conversation has its own
        else:
            turns = [*system, *turns] if turns else turns
    tools = tools_text(row[names["tools"]], names["tools"]) if "tools" in names else None
    return [conversation(turns, field, extra, tools)]


def _parse_history(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    """MT-Bench-101 and others: the whole conversation is a list of {user, bot}."""
    field = layout.names["history"]
    extra = {key: value for key, value in row.items() if key not in layout.consumed}
    turns = history_turns(row[field], field)
    if turns:
        turns = [*_system_turn(row, layout.names, extra), *turns]
    return [conversation(turns, field, extra)]


def _parse_dialogue(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    """One text with "Human:" and "Assistant:" in it."""
    field = layout.names["prompt"]
    text = row[field]
    if not isinstance(text, str):
        raise BadRow("wrong type", f"'{field}' is {kind_of(text)}; wanted text")
    turns = split_dialogue(text)
    if not turns:
        raise BadRow(
            "unknown format",
            f"'{field}' is text without 'Human:' and 'Assistant:' turns, and no field holds a response; "
            + found(row),
        )
    extra = {key: value for key, value in row.items() if key not in layout.consumed}
    return [conversation(turns, field, extra)]


def _parse_tree(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    extra = {key: value for key, value in row.items() if key not in layout.consumed}
    return parse_tree(row[layout.names["prompt"]], extra)


def _parse_instances(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    """Self-instruct seed tasks: an instruction with several pairs of input and output."""
    instances = row["instances"]
    if not isinstance(instances, list):
        raise BadRow("wrong type", f"'instances' is {kind_of(instances)}; wanted a list of input and output")
    if not instances:
        raise BadRow("no response", "'instances' is empty")
    shared = {key: value for key, value in row.items() if key not in layout.consumed}
    prompt = {
        layout.names[part]: row[layout.names[part]] for part in ("prompt", "system") if part in layout.names
    }
    parsed: list[Conversation | BadRow] = []
    for number, instance in enumerate(instances):
        part = str(number) if len(instances) > 1 else ""
        parsed.append(_parse_instance(prompt, instance, shared, part))
    return parsed


def _parse_instance(prompt: Row, instance: object, shared: Row, part: str) -> Conversation | BadRow:
    if not isinstance(instance, dict):
        return BadRow(
            "wrong type", f"an instance is {kind_of(instance)}; wanted an object with input and output"
        )
    own = {key: value for key, value in instance.items() if key not in prompt}
    hidden = {key: value for key, value in instance.items() if key in prompt}
    try:
        [read] = parse_row({**prompt, **own}, "alpaca")
    except BadRow as bad:
        return bad
    if isinstance(read, BadRow):
        return read
    extra = with_added(with_added(shared, read.extra), hidden)
    return Conversation(read.messages, None, extra, part)


def _parse_question_turns(row: Row, layout: Layout) -> list[Conversation | BadRow]:
    """MT-bench: questions in `turns`, reference answers (where there are any) in `reference`."""
    questions, answers = row["turns"], row.get("reference")
    if not isinstance(questions, list):
        raise BadRow("wrong type", f"'turns' is {kind_of(questions)}; wanted a list of questions")
    if is_turns(questions):
        extra = {key: value for key, value in row.items() if key != "turns"}
        return [conversation(questions, "turns", extra)]
    if answers is None or answers == []:
        raise BadRow("no response", "'turns' holds questions and there is no 'reference' with answers")
    if not isinstance(answers, list):
        raise BadRow("wrong type", f"'reference' is {kind_of(answers)}; wanted a list of answers")
    answered = next((i for i, answer in enumerate(answers) if answer is None or answer == ""), len(answers))
    turns: Turns = []
    for number, question in enumerate(
        questions
    ):  # the first question without an answer ends the conversation
        turns.append({"role": "user", "content": question})
        if number < answered:
            turns.append({"role": "assistant", "content": answers[number]})
    extra = {key: value for key, value in row.items() if key not in layout.consumed}
    unread = answers[min(answered, len(questions)) :]
    return [conversation(turns, "turns", with_added(extra, {"reference": unread} if any(unread) else {}))]


def is_one_row(value: Row) -> bool:
    """Whether a JSON object is itself a row of a known format, not a container of rows."""
    try:
        layout = layout_of(tuple(value))
    except BadRow:
        return False
    read = [value[layout.names[part]] for part in layout.names if layout.names[part] in layout.consumed]
    return any(
        is_turns(field) or isinstance(field, str | int | float) for field in read
    ) or layout.format in (
        "openassistant",
        "mt_bench",
    )


_PARSERS: dict[str, Callable[[Row, Layout], list[Conversation | BadRow]]] = {
    "alpaca": _parse_pair,
    "prompt_completion": _parse_pair,
    "question_answer": _parse_pair,
    "messages": _parse_messages,
    "sharegpt": _parse_messages,
    "history": _parse_history,
    "human_assistant": _parse_dialogue,
    "openassistant": _parse_tree,
    "self_instruct": _parse_instances,
    "mt_bench": _parse_question_turns,
}
