"""OpenAI's fine-tuning JSONL, also taken by Azure, Together, Fireworks and others that copy it.

Format: https://platform.openai.com/docs/guides/supervised-fine-tuning (chat format; `weight` of 0 or 1 on
assistant messages; tools and tool_calls as in the API). A line has no place for an id: line n of ids.jsonl
names the row of line n.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from connectors.examples import Message, ToolCall
from pipelines.export.folder import write_json_lines
from pipelines.export.rows import Carry, Losses, RunOutput, Unfit, Written, convert_rows, tool_list

CARRIES: frozenset[Carry] = frozenset(("row weights of 0 and 1",))
FILE, IDS = "train.jsonl", "ids.jsonl"
FEWEST = 10  # rows that a fine-tuning job takes
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def write(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train.jsonl and ids.jsonl, line for line."""
    written = Written()

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "line": line(row, run.loss_on)}

    with (folder / IDS).open("wb") as ids:

        def lines() -> Iterator[dict[str, Any]]:
            tables = run.tables(("messages", "tools"))
            for rows in convert_rows(tables, convert, CARRIES, losses, written):
                ids.write(_json_lines([row["id"] for row in rows]))
                yield from (row["line"] for row in rows)

        write_json_lines(folder / FILE, lines())
    if written.rows < FEWEST:
        written.notes.append(f"OpenAI takes no file of fewer than {FEWEST} rows.")
    return written


def _json_lines(values: list[str]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def line(row: dict[str, Any], loss_on: str) -> dict[str, Any]:
    """One line of the file.

    A row weight of 0 becomes the weight 0 of its answers, any other the weight 1.

    Args:
        row: With messages, tools and weight.
        loss_on: "last" or "all" answers are trained on.

    Raises:
        Unfit: If a tool answer belongs to no call, a name is not one for OpenAI, or tools are not JSON.
    """
    messages = list(_messages(row["messages"], loss_on, int(row["weight"] != 0)))
    tools = [
        tool if isinstance(tool, dict) and "function" in tool else {"type": "function", "function": tool}
        for tool in tool_list(row["tools"])
    ]
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _messages(turns: list[Message], loss_on: str, weight: int) -> Iterator[dict[str, Any]]:
    open_calls: list[str] = []
    calls = 0
    for at, turn in enumerate(turns):
        message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
        if turn["role"] == "tool":
            if not open_calls:
                raise Unfit("a tool's answer without a call before it")
            message["tool_call_id"] = open_calls.pop(0)
        elif turn["name"] is not None:
            message["name"] = _name(turn["name"])
        if turn["tool_calls"]:
            made = [_call(call, calls + place) for place, call in enumerate(turn["tool_calls"])]
            calls += len(made)
            open_calls = [call["id"] for call in made]
            message["tool_calls"] = made
            if not turn["content"]:
                del message["content"]
        if turn["role"] == "assistant":
            message["weight"] = weight if loss_on == "all" or at == len(turns) - 1 else 0
        yield message


def _call(call: ToolCall, number: int) -> dict[str, Any]:
    function = {"name": _name(call["function"]["name"]), "arguments": call["function"]["arguments"]}
    return {"id": call["id"] or f"call_{number}", "type": "function", "function": function}


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Unfit("a name with characters other than letters, digits, _ and -")
    return name


def usage(run: RunOutput, target: Path) -> str:
    """Python that starts a job."""
    path = str(target / FILE)
    return (
        "from openai import OpenAI\n"
        "client = OpenAI()\n"
        f'file = client.files.create(file=open({path!r}, "rb"), purpose="fine-tune")\n'
        "client.fine_tuning.jobs.create(training_file=file.id, model=...)"
    )
