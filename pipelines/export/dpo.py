"""Preference pairs for TRL's DPOTrainer: a kept answer beside a worse one to the same prompt.

Format: https://huggingface.co/docs/trl/dataset_formats#preference (conversational, with the prompt apart).

A kept row becomes a pair in one of two ways, the first that applies:

- its input was a preference pair, whose rejected answer is in `extra["rejected"]`;
- its group (rows with one normalised prompt) has rows that selection dropped as wrong: verdict `suspect`, or
  an answer that was checked and is not right (`correct` 0). Of several, the kept rows of a group take theirs
  in turn, in the order of ids.

A kept row that is itself suspect, wrong, or the rejected side of a pair is never the better answer. Rows
without a rival are in no pair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import Message, message
from connectors.shards import ShardWriter, parquet_files
from pipelines.export.rows import (
    Carry,
    Losses,
    RunOutput,
    Unfit,
    Written,
    any_value,
    convert_rows,
    trainer_message,
)
from pipelines.export.trl import JSON_MESSAGES, load_line, messages_array, messages_type

CARRIES: frozenset[Carry] = frozenset()
WORK = ".winnow"
_FACTS = ("verdict", "correct")
_COLUMNS = ("messages", "tools", "group", "extra", *_FACTS)


@dataclass(frozen=True)
class Place:
    """Where the whole text of a dropped row is: a file of the first stage, a row group, a row of it."""

    path: str
    group: int
    row: int


@dataclass
class Rivals:
    """The wrong answers of a run, by group; their texts are read when they are asked for.

    Attributes:
        places: Where they are, in the order of ids.
        taken: How many kept rows of a group have taken one.
    """

    places: dict[str, list[Place]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)

    def next(self, group: str) -> tuple[str, list[Message]] | None:
        """Id and conversation of the next rival of a group, None when it has none."""
        places = self.places.get(group)
        if not places:
            return None
        turn = self.taken.get(group, 0)
        self.taken[group] = turn + 1
        place = places[turn % len(places)]
        row = _row_group(place.path, place.group).slice(place.row, 1).to_pylist()[0]
        return row["id"], row["messages"]


@lru_cache(maxsize=8)
def _row_group(path: str, group: int) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=["id", "messages"])


def is_wrong(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows are suspect or were checked and found wrong."""
    wrong = pa.chunked_array([pa.array([False] * rows.num_rows, pa.bool_())])
    if "verdict" in rows.column_names:
        wrong = pc.or_(wrong, pc.fill_null(pc.equal(rows["verdict"], "suspect"), False))
    if "correct" in rows.column_names:
        wrong = pc.or_(wrong, pc.fill_null(pc.equal(rows["correct"], 0.0), False))
    return wrong


def find_rivals(run: RunOutput) -> Rivals:
    """Where the wrong answers are that selection dropped.

    Raises:
        ValueError: If there are some and their texts are gone.
    """
    ids = set(_wrong_ids(run.out / "dropped"))
    rivals = Rivals()
    if not ids:
        return rivals
    for path in _texts(run):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["id", "group"])
                pairs = zip(rows["id"].to_pylist(), rows["group"].to_pylist(), strict=True)
                for row, (row_id, name) in enumerate(pairs):
                    if row_id in ids:
                        rivals.places.setdefault(name, []).append(Place(str(path), group, row))
    return rivals


def _wrong_ids(folder: Path) -> Iterator[str]:
    for path in parquet_files(folder):
        known = pq.read_schema(path).names
        columns = ["id", *(name for name in _FACTS if name in known)]
        for batch in pq.ParquetFile(path).iter_batches(columns=columns):
            rows = pa.Table.from_batches([batch])
            yield from rows["id"].filter(is_wrong(rows)).to_pylist()


def _texts(run: RunOutput) -> list[Path]:
    """The files of the first stage, which hold every row that was read."""
    key = run.manifest["stages"]["ingest"].get("key")
    found = sorted((run.out / WORK / f"ingest-{key}").glob("part-*.parquet"))
    if not found:
        raise ValueError(
            f"{run.out}/{WORK} holds no texts of dropped rows any more, and pairs need them; "
            "run the recipe again"
        )
    return found


def write(run: RunOutput, folder: Path, losses: Losses) -> Written:
    """Writes train/*.parquet of id, rejected_id, prompt, chosen, rejected and tools.

    Raises:
        ValueError: If no kept row has a rival, or the texts of dropped rows are gone.
    """
    written = Written()
    rivals = find_rivals(run)
    kind = _type(run, rivals)
    lists = ("prompt", "chosen", "rejected")
    texts = ("id", "rejected_id", "tools")
    schema = pa.schema([*((name, kind) for name in lists), *((name, pa.string()) for name in texts)])
    (folder / "train").mkdir()
    seen = 0
    for path in run.files:
        with ShardWriter(folder / "train" / path.name, schema) as writer:
            for rows in run.tables(_COLUMNS, path):
                seen += rows.num_rows
                found = _pairs(rows, rivals)
                chosen = rows.filter(pa.array([row_id in found for row_id in rows["id"].to_pylist()]))
                convert = _converter(found)
                for made in convert_rows([chosen], convert, CARRIES, losses, written):
                    arrays = [messages_array([row[name] for row in made], kind) for name in lists]
                    arrays += [pa.array([row[name] for row in made], pa.string()) for name in texts]
                    writer.write(pa.Table.from_arrays(arrays, schema=schema))
    if not written.rows:
        raise ValueError(
            f"{run.out} has no pairs: no kept row has a rejected answer in `extra`, or a rival in its group "
            "that was dropped as wrong (verdict suspect, or `check` with correct 0)"
        )
    written.notes.append(f"{written.rows:,} of {seen:,} kept rows have a rival; the others are in no pair.")
    return written


def _type(run: RunOutput, rivals: Rivals) -> pa.DataType:
    paths = sorted({place.path for places in rivals.places.values() for place in places})
    has_more = any(any_value(Path(path), ("tool_calls", "name")) for path in paths)
    return JSON_MESSAGES if has_more else messages_type(run)


def _pairs(rows: pa.Table, rivals: Rivals) -> dict[str, tuple[str | None, Any]]:
    """For the ids of kept rows that have one: the rival's id (None: of the row itself) and what it says."""
    found: dict[str, tuple[str | None, Any]] = {}
    facts = rows.select(["id", "group", "extra"]).to_pylist()
    for row, wrong in zip(facts, is_wrong(rows).to_pylist(), strict=True):
        extra = json.loads(row["extra"]) if row["extra"] else {}
        if wrong or extra.get("preference") == "rejected":
            continue
        if extra.get("rejected"):
            found[row["id"]] = None, extra["rejected"]
        elif (rival := rivals.next(row["group"])) is not None:
            found[row["id"]] = rival
    return found


def _converter(found: dict[str, tuple[str | None, Any]]) -> Any:  # noqa: ANN401 - a Convert
    def convert(row: dict[str, Any]) -> dict[str, Any]:
        rejected_id, said = found[row["id"]]
        turns: list[Message] = row["messages"]
        answer = said[-1] if rejected_id is not None else rejected_turn(said, turns)
        chosen, rejected = trainer_message(turns[-1]), trainer_message(answer)
        if chosen == rejected:
            raise Unfit("pairs whose two answers are the same")
        prompt = [trainer_message(turn) for turn in turns[:-1]]
        return {
            "id": row["id"], "rejected_id": rejected_id, "tools": row["tools"],
            "prompt": prompt, "chosen": [chosen], "rejected": [rejected],
        }  # fmt: skip

    return convert


def rejected_turn(said: object, turns: Sequence[Message]) -> Message:
    """The rejected answer of a preference pair as a turn.

    Args:
        said: What `extra["rejected"]` holds: text, one turn, or turns that end with the answer.
        turns: The chosen conversation.

    Raises:
        Unfit: If it is none of these, or answers another prompt.
    """
    if isinstance(said, str):
        return message("assistant", said)
    given = said if isinstance(said, list) else [said]
    contents = [_content(turn) for turn in given]
    if not given or None in contents:
        raise Unfit("rejected answers of an unknown form")
    if contents[:-1] and contents[:-1] != [turn["content"] for turn in turns[:-1]]:
        raise Unfit("rejected answers to another prompt")
    return message("assistant", contents[-1] or "")


def _content(turn: object) -> str | None:
    """The text of a turn as inputs write it."""
    if not isinstance(turn, dict) or turn.get("tool_calls"):
        return None
    content = turn.get("content", turn.get("value"))
    return content if isinstance(content, str) else None


def usage(run: RunOutput, target: Path) -> str:
    """Python that trains on the export."""
    return (
        "from datasets import load_dataset\n"
        "from trl import DPOConfig, DPOTrainer\n"
        f"{load_line(target)}\n"
        f"DPOTrainer(model={run.model!r}, args=DPOConfig(output_dir='tuned'), train_dataset=train).train()"
    )
