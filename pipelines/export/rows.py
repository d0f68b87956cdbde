"""The kept rows of a finished run, as exports read them: shard by shard, with what a format may lose counted.

Three things of a row go beyond its conversation: the weight of the row, the mask of its tokens (which of the
response are trained on), and the weights of its tokens. A format that has no place for one of them would
train on something else than what was selected, so every such row is counted, and the export refuses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import ROWS_PER_BATCH, Message, ToolCall
from connectors.manifest import read_manifest
from connectors.number_lists import flat_lists, offsets_of
from connectors.shards import parquet_files

IGNORED = -100  # label of a token that is not trained on
Carry = Literal["row weights", "row weights of 0 and 1", "token masks", "token weights"]
TOKENS = ("input_ids", "labels")
# Read of every row, beside an export's own columns, to count what is written and what is lost.
COUNTED = ("id", "weight", "prompt_tokens", "response_tokens", "labels", "token_weights")


class Unfit(ValueError):  # noqa: N818 - it names a row that a format cannot hold, not an error of ours
    """A row that a format has no way to write; the text is short and countable."""


@dataclass
class Losses:
    """What a format would lose, counted while it is written.

    Attributes:
        counts: Rows by what is lost of them; `left_out` of these are not written at all.
        first: The id of the first of each.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, ids: Sequence[str]) -> None:
        """Counts rows that lose `what`."""
        if ids:
            self.counts[what] = self.counts.get(what, 0) + len(ids)
            self.first.setdefault(what, ids[0])

    def leave_out(self, reason: str, row_id: str) -> None:
        """Counts a row that cannot be written."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        self.first.setdefault(reason, row_id)

    def __bool__(self) -> bool:
        return bool(self.counts or self.left_out)


@dataclass
class Written:
    """What an export wrote.

    Attributes:
        rows: Rows of the training file.
        tokens: Of these rows, by the tokenizer of the run's model; 0 when the run scored nothing.
        trained: Those of them that the loss falls on, as far as the format carries it.
        notes: Sentences for the one who asked.
    """

    rows: int = 0
    tokens: int = 0
    trained: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, rows: pa.Table, *, masks: bool) -> None:
        """Adds rows of the run; `masks`: whether their token masks are carried."""
        self.rows += rows.num_rows
        if "response_tokens" not in rows.column_names:
            return
        response = pc.sum(rows["response_tokens"]).as_py() or 0
        self.tokens += (pc.sum(rows["prompt_tokens"]).as_py() or 0) + response
        self.trained += (
            int(trained_tokens(rows["labels"]).sum()) if masks and "labels" in rows.column_names else response
        )


@dataclass(frozen=True)
class RunOutput:
    """The published files of a finished run."""

    out: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, out: str | Path) -> RunOutput:
        """Opens the output folder of a run.

        Raises:
            ValueError: If it holds no finished run, or is not on this machine.
        """
        if "://" in str(out):
            raise ValueError(
                f"{out}: an export reads from a folder of this machine; copy the run's manifest.json and "
                "train/ here first"
            )
        return cls(Path(out), read_manifest(out))

    @cached_property
    def files(self) -> list[Path]:
        """The shards of the training set, in order."""
        return [Path(path) for path in parquet_files(self.out / "train")]

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns of the training set."""
        return list(pq.read_schema(self.files[0]).names) if self.files else []

    @cached_property
    def rows(self) -> int:
        """Rows of the training set."""
        return sum(pq.read_metadata(path).num_rows for path in self.files)

    @property
    def loss_on(self) -> str:
        """Which assistant turns are trained on, "last" or "all"."""
        model = self.manifest.get("recipe", {}).get("model") or {}
        return str(model.get("loss_on", "last"))

    @property
    def model(self) -> str:
        """The name or folder of the target model, or a placeholder."""
        models = self.manifest.get("models") or []
        return str(models[0]["name"]) if models else "path/of/your/model"

    @cached_property
    def plain_turns(self) -> bool:
        """Whether every message is a role and a content; read from the footers alone."""
        return not any(any_value(path, ("tool_calls", "name")) for path in self.files)

    def tables(self, columns: Sequence[str], path: Path | None = None) -> Iterator[pa.Table]:
        """The rows in order, 2,048 at a time, of all shards or of one; those of the columns that it has."""
        wanted = [name for name in dict.fromkeys((*COUNTED, *columns)) if name in self.columns]
        for shard in self.files if path is None else [path]:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(ROWS_PER_BATCH, columns=wanted):
                    yield pa.Table.from_batches([batch])

    def need_tokens(self) -> None:
        """Refuses a run that did not write its tokens.

        Raises:
            ValueError: Saying how to get them.
        """
        if self.files and not set(TOKENS) <= set(self.columns):
            raise ValueError(
                f"{self.out}/train has no tokens (columns input_ids and labels), because its selectors prune "
                "none. Put `emit: {tokens: always}` into the recipe and run it again, or choose a format of "
                "messages"
            )


def any_value(path: Path, fields: Sequence[str]) -> bool:
    """Whether one of some fields of a message has a value anywhere in a file, by its statistics."""
    meta = pq.read_metadata(path)
    for group in range(meta.num_row_groups):
        for index in range(meta.num_columns):
            column = meta.row_group(group).column(index)
            parts = column.path_in_schema.split(".")
            if parts[0] == "messages" and set(fields) & set(parts[1:]):
                nulls = column.statistics.null_count if column.statistics else None
                if nulls is None or nulls < column.num_values:
                    return True
    return False


def trained_tokens(labels: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """How many tokens of each row have a label, shape (rows,)."""
    return _counted(labels, lambda values: values != IGNORED)


def _counted(lists: pa.ChunkedArray, test: Any) -> npt.NDArray[np.int64]:  # noqa: ANN401 - array to bools
    """How many values of each list pass a test; a null list has none."""
    offsets, values = flat_lists(lists)
    return np.diff(offsets_of(test(values))[offsets])


def weights_of(rows: pa.Table) -> npt.NDArray[np.float32]:
    """The weight of each row; 1 where the run gave none."""
    if "weight" not in rows.column_names:
        return np.ones(rows.num_rows, np.float32)
    return np.asarray(pc.fill_null(rows["weight"], 1.0).to_numpy(), dtype=np.float32)


def is_masked(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows have response tokens that are not trained on."""
    if not {"labels", "response_tokens"} <= set(rows.column_names):
        return np.zeros(rows.num_rows, np.bool_)
    response = np.asarray(pc.fill_null(rows["response_tokens"], 0).to_numpy())
    masked: npt.NDArray[np.bool_] = trained_tokens(rows["labels"]) < response
    return masked


def _weighs_tokens(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows have a token that is trained on with a weight other than 1."""
    if "token_weights" not in rows.column_names:
        return np.zeros(rows.num_rows, np.bool_)
    labels = pc.list_flatten(rows["labels"]).to_numpy()
    return _counted(rows["token_weights"], lambda weights: (weights != 1) & (labels != IGNORED)) > 0


def count_losses(rows: pa.Table, carries: frozenset[Carry], losses: Losses) -> None:
    """Counts the rows of which a format that carries `carries` loses something."""
    weights = weights_of(rows)
    if "row weights" not in carries:
        allowed = [0, 1] if "row weights of 0 and 1" in carries else [1]
        losses.add("row weights", _ids(rows, ~np.isin(weights, allowed)))
    if "token masks" not in carries:
        losses.add("token masks", _ids(rows, is_masked(rows)))
    if "token weights" not in carries:
        losses.add("token weights", _ids(rows, _weighs_tokens(rows)))


def _ids(rows: pa.Table, chosen: npt.NDArray[np.bool_]) -> list[str]:
    return list(rows["id"].filter(pa.array(chosen)).to_pylist()) if chosen.any() else []


def trainer_message(turn: Message) -> dict[str, Any]:
    """A message as chat templates read it: no empty keys, arguments of tool calls as objects.

    Arguments that are not JSON stay text, as the model that was recorded wrote them.
    """
    message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
    if turn["name"] is not None:
        message["name"] = turn["name"]
    if turn["tool_calls"]:
        message["tool_calls"] = [
            ({} if call["id"] is None else {"id": call["id"]})
            | {"type": call["type"] or "function", "function": called(call)}
            for call in turn["tool_calls"]
        ]
    return message


def called(call: ToolCall) -> dict[str, Any]:
    """Name and arguments of a call, the latter as an object where they are JSON."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (TypeError, ValueError):
        arguments = function["arguments"]
    return {"name": function["name"], "arguments": arguments}


Convert = Callable[[dict[str, Any]], dict[str, Any]]


def convert_rows(
    tables: Iterable[pa.Table],
    convert: Convert,
    carries: frozenset[Carry],
    losses: Losses,
    written: Written,
    *,
    tokens: bool = False,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each table in a format's own shape, with losses and rows counted.

    Args:
        tables: Rows with the columns COUNTED, as far as the run has them, and those that `convert` reads.
        convert: Makes one row; raises Unfit for one that the format cannot hold, which is left out.
        carries: What the format carries beyond conversations.
        losses: Counts what is lost.
        written: Counts what is written.
        tokens: Whether `convert` reads the lists of tokens too.
    """
    lists = ("token_weights",) if tokens else ("labels", "token_weights")
    for rows in tables:
        plain = rows.drop_columns([name for name in lists if name in rows.column_names])
        made, fit = [], []
        for row, weight in zip(plain.to_pylist(), weights_of(rows).tolist(), strict=True):
            try:
                made.append(convert({**row, "weight": weight}))
                fit.append(True)
            except Unfit as unfit:
                losses.leave_out(str(unfit), row["id"])
                fit.append(False)
        good = rows.filter(pa.array(fit, pa.bool_()))
        count_losses(good, carries, losses)
        written.count(good, masks="token masks" in carries)
        yield made


def tool_list(tools: str | None) -> list[Any]:
    """Tool definitions of a row, [] when it has none.

    Raises:
        Unfit: If they are not JSON.
    """
    if not tools:
        return []
    try:
        definitions = json.loads(tools)
    except ValueError:
        raise Unfit("tool definitions that are not JSON") from None
    return definitions if isinstance(definitions, list) else [definitions]
