"""TRL: conversations for SFTTrainer, and token ids with the labels and weights that the run chose.

Formats: https://huggingface.co/docs/trl/dataset_formats (conversational prompt and completion; messages) and
the docstring of SFTTrainer on pre-tokenised sets: `input_ids`, and `labels` taken as they are. TRL has no
weights; pipelines/training/weighted.py reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from connectors.shards import ShardWriter
from pipelines.export.rows import (
    COUNTED,
    Carry,
    Losses,
    RunOutput,
    Written,
    convert_rows,
    count_losses,
    trainer_message,
    weights_of,
)

TEXT_CARRIES: frozenset[Carry] = frozenset()
TOKEN_CARRIES: frozenset[Carry] = frozenset(
    ("row weights", "row weights of 0 and 1", "token masks", "token weights")
)
_PLAIN_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# Each message as JSON, which `datasets` reads back as an object: arguments of tool calls differ from call to
# call, and a struct with the keys of all of them would show every call the arguments of all others as null.
JSON_MESSAGES = pa.list_(pa.json_())


def messages_type(run: RunOutput) -> pa.DataType:
    """How the conversations of a run are stored for TRL: plain where no message has more than a text."""
    return _PLAIN_MESSAGES if run.plain_turns else JSON_MESSAGES


def messages_array(conversations: list[list[dict[str, Any]]], kind: pa.DataType) -> pa.Array:
    """Conversations as a column of `messages_type`."""
    if kind == _PLAIN_MESSAGES:
        return pa.array(conversations, kind)
    texts = [[orjson.dumps(message).decode() for message in turns] for turns in conversations]
    return pa.array(texts, pa.list_(pa.string())).cast(kind)


def write_messages(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train/*.parquet of id, tools, and prompt and completion, or messages where all turns count."""
    written = Written()
    names = ("prompt", "completion") if run.loss_on == "last" else ("messages",)
    kind = messages_type(run)
    schema = pa.schema([("id", pa.string()), *((name, kind) for name in names), ("tools", pa.string())])
    (folder / "train").mkdir()

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        messages = [trainer_message(turn) for turn in row["messages"]]
        turns = {"prompt": messages[:-1], "completion": messages[-1:], "messages": messages}
        return {"id": row["id"], "tools": row["tools"], **{name: turns[name] for name in names}}

    for path in run.files:
        tables = run.tables(("messages", "tools"), path)
        with ShardWriter(folder / "train" / path.name, schema) as writer:
            for made in convert_rows(tables, convert, TEXT_CARRIES, losses, written):
                columns = [[row[name] for row in made] for name in schema.names]
                arrays = [
                    messages_array(column, kind) if field.type == kind else pa.array(column, field.type)
                    for column, field in zip(columns, schema, strict=True)
                ]
                writer.write(pa.Table.from_arrays(arrays, schema=schema))
    return written


def write_tokens(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train/*.parquet of id, input_ids, labels, weight, and token_weights where the run has them.

    Raises:
        ValueError: If the run has no tokens.
    """
    run.need_tokens()
    written = Written()
    lists = ["input_ids", "labels", *(name for name in ("token_weights",) if name in run.columns)]
    (folder / "train").mkdir()
    for path in run.files:
        with ShardWriter(folder / "train" / path.name, _token_schema(lists)) as writer:
            for rows in run.tables(("input_ids", *COUNTED), path):
                count_losses(rows, TOKEN_CARRIES, losses)
                written.count(rows, masks=True)
                columns = [rows["id"], *(rows[name] for name in lists[:2]), pa.array(weights_of(rows))]
                columns += [rows[name] for name in lists[2:]]
                writer.write(pa.Table.from_arrays(columns, schema=writer.schema))
    return written


def _token_schema(lists: list[str]) -> pa.Schema:
    fields = [("id", pa.string()), *((name, pa.list_(pa.int32())) for name in lists[:2])]
    fields += [("weight", pa.float32()), *((name, pa.list_(pa.float32())) for name in lists[2:])]
    return pa.schema(fields)


def messages_usage(run: RunOutput, target: Path) -> str:
    """Python that trains on the export."""
    options = "" if run.loss_on == "last" else ", assistant_only_loss=True"
    return _sft(run, target, f'SFTConfig(output_dir="tuned", max_length=None{options})')


def tokens_usage(run: RunOutput, target: Path) -> str:
    """Python that trains on the export with its masks and weights."""
    return (
        "from pipelines.training.weighted import WeightedCollator, WithWeights\n"
        + _sft(
            run,
            target,
            'SFTConfig(output_dir="tuned", max_length=None, remove_unused_columns=False)',
            "class WeightedTrainer(WithWeights, SFTTrainer): ...\n",
            "WeightedTrainer",
            ", data_collator=WeightedCollator(pad_token_id=0)",
        )
        + "\nWithout weights, SFTTrainer itself takes the same files: input_ids and labels."
    )


def load_line(target: Path) -> str:
    """Python that loads the Parquet files of an export."""
    return f"train = load_dataset('parquet', data_files={str(target / 'train/*.parquet')!r}, split='train')"


def _sft(
    run: RunOutput, target: Path, args: str, before: str = "", trainer: str = "SFTTrainer", more: str = ""
) -> str:
    return (
        "from datasets import load_dataset\n"
        "from trl import SFTConfig, SFTTrainer\n"
        f"{load_line(target)}\n"
        f"{before}"
        f"{trainer}(model={run.model!r}, args={args}, train_dataset=train{more}).train()"
    )
