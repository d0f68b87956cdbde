"""LLaMA-Factory: alpaca and sharegpt files with dataset_info.json, and the messages of its newer core.

Formats: data/README.md of github.com/hiyouga/LLaMA-Factory, its src/llamafactory/data/converter.py, and
src/llamafactory/v1/utils/types.py for the newer core, whose messages have a `loss_weight`.

The older core skips, with a line in the log, conversations whose turns do not alternate; it has no place for
text beside a tool call, and takes `<image>`, `<video>` and `<audio>` in a text for a file. Such rows do not
fit and are named before training instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connectors.examples import Message
from connectors.shards import write_json
from pipelines.export.folder import write_json_lines
from pipelines.export.rows import (
    Carry,
    Convert,
    Losses,
    RunOutput,
    Unfit,
    Written,
    called,
    convert_rows,
    tool_list,
)

NAME = "winnow"  # of the data set in dataset_info
FILE = "train.jsonl"
CARRIES: frozenset[Carry] = frozenset()
V1_CARRIES: frozenset[Carry] = frozenset(("row weights", "row weights of 0 and 1"))
_MEDIA = ("<image>", "<video>", "<audio>")
_ASKS, _ANSWERS = ("human", "observation"), ("gpt", "function_call")


def write_sharegpt(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train.jsonl of id, conversations, system and tools, and dataset_info.json."""
    columns = {"messages": "conversations", "system": "system", "tools": "tools"}
    info = {"file_name": FILE, "formatting": "sharegpt", "columns": columns}
    return _write(run, folder, losses, sharegpt_row, info)


def write_alpaca(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train.jsonl of id, instruction, input, output, system and history, and dataset_info.json."""
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    columns |= {"system": "system", "history": "history"}
    return _write(run, folder, losses, alpaca_row, {"file_name": FILE, "columns": columns})


def _write(run: RunOutput, folder: Path, losses: Losses, convert: Convert, info: dict[str, Any]) -> Written:
    written = Written()
    tables = run.tables(("messages", "tools"))
    made = convert_rows(tables, convert, CARRIES, losses, written)
    write_json_lines(folder / FILE, (row for rows in made for row in rows))
    write_json(folder / "dataset_info.json", {NAME: info})
    return written


def sharegpt_row(row: dict[str, Any]) -> dict[str, Any]:
    """One row in the older core's sharegpt format.

    Raises:
        Unfit: If the older core would skip or change it.
    """
    system, turns = _system(row["messages"])
    conversation = [_sharegpt_turn(turn) for turn in turns]
    for at, turn in enumerate(conversation):
        if turn["from"] not in (_ASKS, _ANSWERS)[at % 2]:
            raise Unfit("turns that do not alternate between question and answer")
    tools = json.dumps(tool_list(row["tools"]), ensure_ascii=False) if row["tools"] else ""
    return {"id": row["id"], "conversations": conversation, "system": system, "tools": tools}


def _system(messages: list[Message]) -> tuple[str, list[Message]]:
    """The text of a leading system turn, and the turns after it."""
    if messages[0]["role"] == "system":
        return _text(messages[0]), messages[1:]
    return "", messages


def _text(turn: Message) -> str:
    if any(mark in turn["content"] for mark in _MEDIA):
        raise Unfit("text with <image>, <video> or <audio>, which would be taken for a file")
    return turn["content"]


def _sharegpt_turn(turn: Message) -> dict[str, str]:
    text = _text(turn)
    if turn["tool_calls"]:
        if text.strip():
            raise Unfit("text beside a tool call")
        calls = [called(call) for call in turn["tool_calls"]]
        return {"from": "function_call", "value": json.dumps(calls, ensure_ascii=False)}
    roles = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
    return {"from": roles[turn["role"]], "value": text}


def alpaca_row(row: dict[str, Any]) -> dict[str, Any]:
    """One row in the older core's alpaca format: the last question and its answer, the others as history.

    Raises:
        Unfit: If the row has tools, or the older core would skip or change it.
    """
    plain = sharegpt_row(row)
    turns = plain["conversations"]
    if plain["tools"] or any(turn["from"] not in ("human", "gpt") for turn in turns):
        raise Unfit("tools or tool calls")
    texts = [turn["value"] for turn in turns]
    return {
        "id": row["id"],
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        "system": plain["system"],
        "history": [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)],
    }


def write_v1(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train.jsonl of id, messages with a loss_weight each, and tools."""
    written = Written()

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        messages = list(_v1_messages(row, run.loss_on))
        tools = json.dumps(tool_list(row["tools"]), ensure_ascii=False) if row["tools"] else ""
        return {"id": row["id"], "messages": messages, "tools": tools}

    made = convert_rows(run.tables(("messages", "tools")), convert, V1_CARRIES, losses, written)
    write_json_lines(folder / FILE, (row for rows in made for row in rows))
    return written


def _v1_messages(row: dict[str, Any], loss_on: str) -> Iterator[dict[str, Any]]:
    last = len(row["messages"]) - 1
    for at, turn in enumerate(row["messages"]):
        content = [{"type": "text", "value": turn["content"]}] if turn["content"] else []
        content += [
            {"type": "tool_call", "value": json.dumps(called(call), ensure_ascii=False)}
            for call in turn["tool_calls"] or ()
        ]
        trained = turn["role"] == "assistant" and (at == last or loss_on == "all")
        yield {
            "role": turn["role"],
            "content": content or [{"type": "text", "value": ""}],
            "loss_weight": row["weight"] if trained else 0.0,
        }


def usage(run: RunOutput, target: Path) -> str:
    """Lines of a training configuration."""
    last = "\nmask_history: true   # the loss falls on the last answer" if run.loss_on == "last" else ""
    return f"dataset_dir: {target}\ndataset: {NAME}\ncutoff_len: {_longest(run)}{last}"


def v1_usage(run: RunOutput, target: Path) -> str:
    """Lines of a training configuration of the newer core."""
    return f"train_dataset: {target / FILE}\ncutoff_len: {_longest(run)}"


def _longest(run: RunOutput) -> int:
    models = run.manifest.get("models") or [{}]
    return int(models[0].get("max_tokens") or 2048)
