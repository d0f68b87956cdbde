"""Finished runs made by hand: conversations with token masks, weights and rivals, tokenised as runs do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from connectors.examples import EXAMPLE_SCHEMA, Conversation, Message, ToolCall, example_row, message
from scorers.models.rendering import Renderer
from scorers.models.tokenising import tokenise_rows
from tests.pipelines.corpus import MODEL

IGNORED = -100
TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}])


@dataclass(frozen=True)
class Kept:
    """A kept row.

    Attributes:
        turns: Its conversation.
        weight: Of the row.
        pruned: Which tokens of the response are not trained on, by place; counted from the end if below 0.
        token_weight: Of the tokens that are; None for a run that weighs no tokens.
        tools: JSON of its tools.
        extra: Fields that were not read.
        verdict: Of the selector `verdict`.
    """

    turns: Sequence[Message]
    weight: float = 1.0
    pruned: Sequence[int] = ()
    token_weight: float | None = None
    tools: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    verdict: str = "keep"


def chat(question: str, answer: str) -> list[Message]:
    """One question and its answer."""
    return [message("user", question), message("assistant", answer)]


def call(arguments: str = '{"a": 1}', name: str = "add") -> ToolCall:
    """A tool call without an id."""
    return {"id": None, "type": "function", "function": {"name": name, "arguments": arguments}}


def with_tool(answer: str = "It is 3.") -> list[Message]:
    """A question, a tool call, what the tool said, the answer."""
    return [
        message("system", "Use tools."),
        message("user", "What is 1 + 2?"),
        message("assistant", "", [call('{"a": 1, "b": 2}')]),
        message("tool", "3", name="add"),
        message("assistant", answer),
    ]


@cache
def tokenizer() -> Any:  # noqa: ANN401 - transformers is untyped
    """That of the quickstart's model."""
    return AutoTokenizer.from_pretrained(MODEL)


def make_run(
    out: Path,
    kept: Sequence[Kept],
    *,
    wrong: Sequence[Sequence[Message]] = (),
    tokens: bool = True,
    loss_on: str = "last",
    shard: int = 2,
) -> Path:
    """Writes a finished run of `kept` rows, in shards of a few rows, with `wrong` ones dropped as suspect.

    Ids are rows/kept:N and rows/wrong:N.
    """
    rows = list(_rows(kept, loss_on))
    fields = [*EXAMPLE_SCHEMA, ("prompt_tokens", pa.int32()), ("response_tokens", pa.int32())]
    fields += [("weight", pa.float32()), ("verdict", pa.string())]
    if tokens:
        fields += [("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))]
        if any(row.token_weight is not None for row in kept):
            fields += [("token_weights", pa.list_(pa.float32()))]
    shards = [rows[start : start + shard] for start in range(0, len(rows), shard)] or [[]]
    _write(out / "train", shards, pa.schema(fields))
    lost = [
        example_row(Conversation(list(turns)), "rows", f"rows/wrong:{at}") for at, turns in enumerate(wrong)
    ]
    suspects = [{"id": row["id"], "source": "rows", "stage": "select", "verdict": "suspect"} for row in lost]
    names = ("id", "source", "stage", "reason", "verdict")
    _write(out / "dropped", [suspects], pa.schema([(name, pa.string()) for name in names]))
    texts = sorted([*rows, *lost], key=lambda row: str(row["id"]))
    _write(out / ".winnow" / "ingest-k", [texts], EXAMPLE_SCHEMA, "part")
    counts = {"read": len(texts), "bad": 0, "kept": len(rows), "dropped": len(lost), "contaminated": 0}
    model = {"path": str(MODEL), "loss_on": loss_on}
    manifest = {
        "winnow_version": "0.1.0", "name": "toy", "recipe": {"model": model}, "recipe_hash": "ab",
        "models": [{"name": str(MODEL), "revision": None, "max_tokens": 512}], "counts": counts,
        "stages": {"ingest": {"key": "k"}},
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return out


def _rows(kept: Sequence[Kept], loss_on: str) -> Iterator[dict[str, Any]]:
    renderer = Renderer(tokenizer(), "tokenizer", 512, "drop", len(tokenizer()), loss_on)  # type: ignore[arg-type] # a test's text
    for at, row in enumerate(kept):
        (made,) = tokenise_rows(renderer, [list(row.turns)], [row.tools], with_direct=False)
        assert made.conditional is not None, made.message
        ids, targets = made.conditional.ids, made.conditional.targets
        trained = np.ones(len(targets), np.bool_)
        trained[[place for place in row.pruned if -len(targets) <= place < len(targets)]] = False
        labels = np.full(len(ids), IGNORED)
        labels[targets[trained]] = ids[targets[trained]]
        weights = np.zeros(len(ids))
        weights[targets[trained]] = 1.0 if row.token_weight is None else row.token_weight
        yield {
            **example_row(Conversation(list(row.turns), row.tools, row.extra), "rows", f"rows/kept:{at:04d}"),
            "prompt_tokens": made.prompt_tokens, "response_tokens": made.response_tokens,
            "weight": row.weight, "verdict": row.verdict, "input_ids": ids.tolist(),
            "labels": labels.tolist(), "token_weights": weights.tolist(),
        }  # fmt: skip


def _write(folder: Path, shards: list[list[dict[str, Any]]], schema: pa.Schema, stem: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for at, rows in enumerate(shards):
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / f"{stem}-{at:05d}-of-{len(shards):05d}.parquet")


def parquet_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder of Parquet files, in order."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def json_lines(path: Path) -> list[Any]:
    """The values of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
