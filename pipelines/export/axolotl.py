"""axolotl: conversations whose turns say what is trained on, and token ids with labels.

Formats: https://docs.axolotl.ai/docs/dataset-formats/conversation.html (chat_template; `train` of a turn and
`train_detail`, spans of its characters with both ends included) and .../tokenized.html (input_ids,
attention_mask, labels). axolotl has no weights.

A turn without `train_detail` is trained on as a whole, its end-of-turn token included (`train_on_eos: turn`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.examples import EXAMPLE_SCHEMA
from connectors.number_lists import flat_lists
from connectors.shards import ShardWriter
from pipelines.export.rows import (
    COUNTED,
    IGNORED,
    Carry,
    Losses,
    RunOutput,
    Unfit,
    Written,
    convert_rows,
    count_losses,
    tool_list,
)

CARRIES: frozenset[Carry] = frozenset(("token masks",))
_SPAN = pa.struct([("begin_offset", pa.int32()), ("end_offset", pa.int32()), ("train", pa.bool_())])
_TURN = pa.struct(
    [
        *EXAMPLE_SCHEMA.field("messages").type.value_type,  # arguments of calls are text; axolotl parses them
        ("train", pa.bool_()),
        ("train_detail", pa.list_(_SPAN)),
    ]
)
SCHEMA = pa.schema([("id", pa.string()), ("messages", pa.list_(_TURN)), ("tools", pa.string())])
TOKEN_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("attention_mask", pa.list_(pa.int8())),
        ("labels", pa.list_(pa.int32())),
    ]
)


class Turns:
    """Makes the rows of one export; loads the tokenizer of the run's model at the first mask."""

    def __init__(self, run: RunOutput, losses: Losses) -> None:
        self.run = run
        self.losses = losses

    @cached_property
    def _renderer(self) -> Any:  # noqa: ANN401 - a Renderer, whose module imports transformers
        from pipelines.export.spans import run_renderer

        return run_renderer(self.run)

    def convert(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row of SCHEMA; a mask that spans cannot tell is counted as lost, its whole turn trained."""
        tool_list(row["tools"])
        spans = self._spans(row)
        last = len(row["messages"]) - 1
        messages = []
        for at, turn in enumerate(row["messages"]):
            trained = turn["role"] == "assistant" and (at == last or self.run.loss_on == "all")
            detail = spans.get(at, [])  # None: no token of the turn is trained on
            messages.append({**turn, "train": trained and detail is not None, "train_detail": detail or None})
        return {"id": row["id"], "messages": messages, "tools": row["tools"]}

    def _spans(self, row: dict[str, Any]) -> dict[int, Any]:
        labels = row.get("labels")
        if labels is None or sum(label != IGNORED for label in labels) == row["response_tokens"]:
            return {}
        from pipelines.export.spans import turn_spans

        try:
            return dict(turn_spans(self._renderer, row))
        except Unfit as unfit:
            self.losses.add(str(unfit), [row["id"]])
            return {}


def write(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train/*.parquet of id, messages with what is trained on, and tools.

    Raises:
        ValueError: If there are token masks and the tokenizer of the run's model is not at hand.
    """
    written = Written()
    turns = Turns(run, losses)
    (folder / "train").mkdir()
    for path in run.files:
        tables = run.tables(("messages", "tools", "input_ids"), path)
        with ShardWriter(folder / "train" / path.name, SCHEMA) as writer:
            for made in convert_rows(tables, turns.convert, CARRIES, losses, written, tokens=True):
                writer.write(pa.Table.from_pylist(made, schema=SCHEMA))
    return written


def write_tokens(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train/*.parquet of input_ids, attention_mask and labels, and ids/*.parquet row for row.

    axolotl takes a set for tokenised by these three columns; an id beside them would reach its collator.

    Raises:
        ValueError: If the run has no tokens.
    """
    run.need_tokens()
    written = Written()
    for name in ("train", "ids"):
        (folder / name).mkdir()
    for path in run.files:
        ids = ShardWriter(folder / "ids" / path.name, pa.schema([("id", pa.string())]))
        with ids, ShardWriter(folder / "train" / path.name, TOKEN_SCHEMA) as writer:
            for rows in run.tables(("input_ids", *COUNTED), path):
                count_losses(rows, CARRIES, losses)
                written.count(rows, masks=True)
                columns = [rows["input_ids"], _ones_like(rows["input_ids"]), rows["labels"]]
                writer.write(pa.Table.from_arrays(columns, schema=TOKEN_SCHEMA))
                ids.write(rows.select(["id"]))
    return written


def _ones_like(lists: pa.ChunkedArray) -> pa.Array:
    """A list of ones for each list."""
    offsets, values = flat_lists(lists)
    return pa.ListArray.from_arrays(offsets.astype(np.int32), np.ones(len(values), np.int8))


def usage(run: RunOutput, target: Path) -> str:
    """Lines of a training configuration."""
    return (
        f"base_model: {run.model}\n"
        "chat_template: tokenizer_default\n"
        "datasets:\n"
        f"  - path: {target / 'train'}\n"
        "    ds_type: parquet\n"
        "    type: chat_template\n"
        "    message_field_training: train\n"
        "    message_field_training_detail: train_detail\n"
        "    train_on_eos: turn"
    )


def tokens_usage(run: RunOutput, target: Path) -> str:
    """Lines of a training configuration."""
    return (
        f"base_model: {run.model}\ndatasets:\n  - path: {target / 'train'}\n    ds_type: parquet\n    type:"
    )
