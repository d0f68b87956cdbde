"""Preference pairs: a better and a worse answer to one prompt.

Reads what DPO sets look like: `chosen` and `rejected` as text beside a prompt, as whole
"Human: … Assistant: …" texts (hh-rlhf), as one turn each beside `conversations` (LLaMA-Factory), as
message lists with or without the prompt (TRL, UltraFeedback), and LLMBar's `output_1`, `output_2` with
`label` naming the better one. The chosen answer is the example; the rejected one goes to `extra["rejected"]`
or, with `pairs: both`, becomes an example of its own.
"""

from __future__ import annotations

from typing import Any, Literal

from connectors.examples import BadRow, Conversation, Message
from connectors.fields import Layout, found, plain_name
from connectors.turns import (
    conversation,
    history_turns,
    is_turn,
    is_turns,
    kind_of,
    role_of,
    split_dialogue,
    tools_text,
    turn_list,
    with_added,
)

Pairs = Literal["chosen", "both"]


def parse_preference(row: dict[str, Any], layout: Layout, pairs: Pairs) -> list[Conversation | BadRow]:
    """The chosen conversation of a pair, or both.

    Raises:
        BadRow: If the chosen answer cannot be read and the rejected one was not asked for.
    """
    chosen, rejected, sides = _sides(row, layout)
    prompt, read = _prompt(row, layout)
    if _whole(chosen) or (isinstance(chosen, str) and not prompt):
        prompt, read = [], set()  # the answers carry their own prompt; the prompt field stays as it is
    tools = tools_text(row.get(layout.names["tools"])) if "tools" in layout.names else None
    read |= sides | ({layout.names["tools"]} if tools else set())
    extra = {key: value for key, value in row.items() if key not in read}
    if pairs == "both":
        return [
            _labelled(prompt, chosen, tools, extra, "chosen"),
            _labelled(prompt, rejected, tools, extra, "rejected"),
        ]
    better = conversation(_turns(prompt, chosen, "chosen"), "chosen", extra, tools)
    kept = _rejected_text(prompt, rejected, better.messages)
    return [Conversation(better.messages, tools, with_added(better.extra, {"rejected": kept}))]


def _labelled(
    prompt: list[Any], answer: object, tools: str | None, extra: dict[str, Any], part: str
) -> Conversation | BadRow:
    try:
        read = conversation(
            _turns(prompt, answer, part), part, with_added(extra, {"preference": part}), tools
        )
    except BadRow as bad:
        return bad
    return Conversation(read.messages, tools, read.extra, part)


def _sides(row: dict[str, Any], layout: Layout) -> tuple[Any, Any, set[str]]:
    """The chosen answer, the rejected one, and the fields they were read from."""
    names = layout.names
    if "chosen" in names and "rejected" in names:
        return row[names["chosen"]], row[names["rejected"]], {names["chosen"], names["rejected"]}
    if row.get("label") not in (1, 2, "1", "2") or isinstance(row.get("label"), bool):
        raise BadRow("no preference", f"'label' is {row.get('label')!r}; wanted 1 or 2, the better output")
    best = int(row["label"])
    if not {"output_1", "output_2"} <= row.keys():
        raise BadRow("missing field", f"wanted 'output_1' and 'output_2' beside 'label'; {found(row)}")
    return row[f"output_{best}"], row[f"output_{3 - best}"], {"output_1", "output_2"}


def _prompt(row: dict[str, Any], layout: Layout) -> tuple[list[Any], set[str]]:
    """The turns before the answers, and the fields they were read from."""
    names = layout.names
    turns: list[Any] = []
    read: set[str] = set()
    if "messages" in names and is_turns(row[names["messages"]]):
        turns, read = list(row[names["messages"]]), {names["messages"]}
    elif "prompt" in names and row[names["prompt"]] is not None:
        turns, read = _prompt_turns(row, names)
    if turns and "history" in names and row[names["history"]]:
        read.add(names["history"])
        turns = [*history_turns(row[names["history"]], names["history"]), *turns]
    system = row[names["system"]] if "system" in names else None
    if isinstance(system, str) and turns and not (is_turn(turns[0]) and _is_system(turns[0])):
        read.add(names["system"])
        turns = ([{"role": "system", "content": system}] if system.strip() else []) + turns
    return turns, read


def _prompt_turns(row: dict[str, Any], names: dict[str, str]) -> tuple[list[Any], set[str]]:
    prompt = row[names["prompt"]]
    if is_turns(prompt):
        return list(prompt), {names["prompt"]}
    if not isinstance(prompt, str):
        raise BadRow(
            "wrong type", f"'{names['prompt']}' is {kind_of(prompt)}; wanted text or a list of turns"
        )
    read = {names["prompt"]}
    more = row[names["input"]] if "input" in names else None
    if isinstance(more, str):
        read.add(names["input"])
        prompt = f"{prompt}\n\n{more}" if more.strip() else prompt
    dialogue = split_dialogue(prompt) if plain_name(names["prompt"]) == "prompt" else []
    if dialogue and dialogue[-1] == {"role": "assistant", "content": ""}:
        return dialogue[:-1], read  # "…\n\nAssistant:" asks for the answer
    return [{"role": "user", "content": prompt}], read


def _turns(prompt: list[Any], answer: object, name: str) -> list[Any]:
    """Prompt and answer as one list of turns."""
    if answer is None:
        raise BadRow("missing response", f"the {name} answer is null")
    if is_turn(answer):
        return [*prompt, answer]
    if isinstance(answer, str) and not answer.lstrip().startswith("[{"):
        if prompt:
            return [*prompt, {"role": "assistant", "content": answer}]
        dialogue = split_dialogue(answer)
        if not dialogue:
            raise BadRow("missing prompt", f"the {name} answer is text without a prompt")
        return dialogue
    answer = turn_list(answer, name)
    return answer if _whole(answer) else [*prompt, *answer]


def _whole(answer: object) -> bool:
    """Whether an answer is a message list that holds the prompt too."""
    return is_turns(answer) and role_of(answer[0], "the first turn") in ("system", "user")


def _is_system(turn: object) -> bool:
    return role_of(turn, "the first turn") == "system"


def _rejected_text(prompt: list[Any], rejected: object, chosen: list[Message]) -> object:
    """The rejected answer as text where it answers the same prompt; otherwise as it was given."""
    try:
        messages = conversation(_turns(prompt, rejected, "rejected"), "rejected", {}).messages
    except BadRow:  # it is not an example; what it said is still worth keeping
        return rejected
    return (
        messages[-1]["content"]
        if messages[:-1] == chosen[:-1] and not messages[-1]["tool_calls"]
        else rejected
    )
