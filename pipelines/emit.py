"""Stage emit: decisions and texts joined into the files that are published.

Every example ends in exactly one of two outputs: train (kept) or dropped (with the stage and the reason).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import EXAMPLE_SCHEMA, EXCERPT_CHARS, prompt_text, response_text
from connectors.number_lists import flat_lists, unpack
from connectors.shards import (
    ShardWriter,
    Unit,
    group_units,
    read_rows_between,
    read_schema,
    read_stats,
    read_unit,
)
from connectors.storage import join
from pipelines.books import UnbalancedBooks
from pipelines.decide import DECISION_FIELDS
from pipelines.drops import DROP_SCHEMA, drop_files, drops_between
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.recipe import Recipe
from pipelines.scored import Files, files_by_unit, read_scored, scored_schema
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.base import TOKEN_COLUMNS, Output, output_column

ROWS_PER_FILE = 65_536
OUTPUTS = ("train", "dropped", "scores")
IGNORED = -100  # label of a token that is not trained on, as torch's cross-entropy and every trainer have it

_DROP_FACTS = [field.name for field in DROP_SCHEMA if field.name not in ("row", "id", "stage", "reason")]
DROPPED_FIELDS = [
    ("id", pa.string()),
    ("source", pa.string()),
    ("stage", pa.string()),
    ("reason", pa.string()),
    *((name, DROP_SCHEMA.field(name).type) for name in _DROP_FACTS),
    ("prompt_excerpt", pa.string()),
    ("response_excerpt", pa.string()),
]


@dataclass(frozen=True)
class EmitTask:
    """Consecutive units that become one file of each output."""

    file: str
    units: tuple[Unit, ...]
    scored: tuple[Files, ...]  # for each unit; empty when the recipe scores nothing
    drops: tuple[str, ...]
    decisions: str
    tokens: bool
    weights: bool  # whether some selector weighs tokens
    store: tuple[Output, ...]  # outputs of the model that the recipe publishes


@dataclass(frozen=True)
class Layout:
    """Columns of the outputs, read from the schemas of the stages before."""

    scores: tuple[pa.Field, ...]
    arrays: tuple[pa.Field, ...]
    decisions: tuple[pa.Field, ...]
    tokens: bool
    weights: bool

    @property
    def train(self) -> pa.Schema:
        """Canonical columns, scores, weight, decision columns, and token ids when asked for."""
        fields = [
            *EXAMPLE_SCHEMA,
            *self.scores,
            pa.field("weight", pa.float32()),
            pa.field("reason", pa.string()),
        ]
        fields += self.decisions
        if self.tokens:
            fields += [pa.field("input_ids", pa.list_(pa.int32())), pa.field("labels", pa.list_(pa.int32()))]
        if self.tokens and self.weights:
            fields += [pa.field("token_weights", pa.list_(pa.float32()))]
        return pa.schema(fields)

    @property
    def dropped(self) -> pa.Schema:
        """Where and why a row went, with the scores it had."""
        return pa.schema([*pa.schema(DROPPED_FIELDS), *self.scores, *self.decisions])

    @property
    def scored(self) -> pa.Schema:
        """Id, scores, and what the recipe stores of the model's outputs."""
        return pa.schema([pa.field("id", pa.string()), *self.scores, *self.arrays])


def layout_of(task: EmitTask) -> Layout:
    """The columns that this run's outputs have."""
    scores = scored_schema(task.scored[0]) if task.scored else pa.schema([])
    decisions = read_schema(task.decisions)
    known = {name for name, _ in DECISION_FIELDS} | {"token_keep", "token_weight"}
    published = {"input_ids", "response_at", "token_nll", *map(output_column, task.store)}
    return Layout(
        scores=tuple(f for f in scores if f.name != "id" and f.name not in TOKEN_COLUMNS),
        arrays=tuple(f for f in scores if f.name in published) if task.store else (),
        decisions=tuple(f for f in decisions if f.name not in known),
        tokens=task.tokens,
        weights=task.weights,
    )


class WriteOutputs(beam.DoFn):
    """Writes one file of each output; the train file, which marks the task as done, last."""

    def __init__(self, folder: str, counts: str) -> None:
        self.folder = folder
        self.progress = ProgressCounter(counts)
        self.metrics = StageMetrics("emit")

    def process(self, task: EmitTask) -> Iterator[str]:
        """Yields the name of the finished train file."""
        layout = layout_of(task)
        schemas = {"train": layout.train, "dropped": layout.dropped, "scores": layout.scored}
        counts = _new_counts()
        with self.metrics.task(), ExitStack() as stack:
            # Closed, and so named, in the reverse order: train last.
            writers = {
                name: stack.enter_context(
                    ShardWriter(join(self.folder, output_file(task.file, name)), schema)
                )
                for name, schema in schemas.items()
            }
            start, stop = task.units[0].row_start, task.units[-1].row_start + task.units[-1].rows
            decisions = read_rows_between(task.decisions, start, stop)
            drops = drops_between(task.drops, start, stop)
            for index, unit in enumerate(task.units):
                files = task.scored[index] if task.scored else ()
                own = rows_between(drops, unit), rows_between(decisions, unit)
                outputs = join_unit(unit, *own, files, layout)
                for name, table in outputs.items():
                    writers[name].write(table)
                _count(counts, outputs, layout)
                self.progress(rows=unit.rows)
            writers["train"].stats = {
                key: dict(value) if isinstance(value, Counter) else value for key, value in counts.items()
            }
        counted = {"rows_kept": "kept", "rows_dropped": "dropped", "tokens_kept": "tokens_kept"}
        written = sum(writer.bytes for writer in writers.values())
        self.metrics(bytes_written=written, **{name: counts[key] for name, key in counted.items()})
        yield task.file


def output_file(train_file: str, output: str) -> str:
    """Name of the file of another output beside a train file."""
    return train_file.replace("train-", f"{output}-", 1)


def rows_between(table: pa.Table, unit: Unit) -> pa.Table:
    """The rows of a unit in a table sorted by its column `row`; copies nothing."""
    first, end = np.searchsorted(table["row"].to_numpy(), [unit.row_start, unit.row_start + unit.rows])
    return table.slice(int(first), int(end - first))


def join_unit(
    unit: Unit, drops: pa.Table, decisions: pa.Table, files: Files, layout: Layout
) -> dict[str, pa.Table]:
    """The rows of a unit, each in exactly one of `train` and `dropped`; `scores` holds the scored ones."""
    examples = read_unit(unit)
    scored = read_scored(files) if files else None
    decisions = unpack(decisions)

    if drops.num_rows + decisions.num_rows != unit.rows:
        raise UnbalancedBooks(
            f"unit {unit.name}: {unit.rows} rows, but {drops.num_rows} dropped before and "
            f"{decisions.num_rows} decisions. This is a fault of winnow; please report it."
        )
    is_dropped = np.zeros(unit.rows, np.bool_)
    is_dropped[drops["row"].to_numpy() - unit.row_start] = True
    kept = np.zeros(unit.rows, np.bool_)
    kept[decisions["row"].to_numpy() - unit.row_start] = decisions["keep"].to_numpy(zero_copy_only=False)
    # Position of each row among the candidates, and among those dropped before; null where it is not one.
    candidate = _positions(~is_dropped)
    early = _positions(is_dropped)

    train = _train(examples, decisions, scored, kept, candidate, layout)
    dropped = _dropped(examples, drops, decisions, scored, ~kept, candidate, early, layout)
    columns = layout.scored.names
    return {
        "train": train,
        "dropped": dropped,
        "scores": scored.select(columns) if scored is not None else layout.scored.empty_table(),
    }


def _positions(mask: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(np.cumsum(mask) - 1, pa.int64(), mask=~mask)


def _train(
    examples: pa.Table,
    decisions: pa.Table,
    scored: pa.Table | None,
    kept: npt.NDArray[np.bool_],
    candidate: pa.Array,
    layout: Layout,
) -> pa.Table:
    at = candidate.filter(pa.array(kept))
    table = examples.filter(pa.array(kept))
    decided = decisions.take(at)
    own = scored.take(at) if scored is not None else None
    columns = list(table.columns)
    if own is not None:
        columns += [own[field.name] for field in layout.scores]
    columns += [decided["weight"], decided["reason"]]
    columns += [decided[field.name] for field in layout.decisions]
    if layout.tokens and own is not None:
        columns += list(_labelled(own, decided["token_keep"]))
        if layout.weights:
            columns.append(_weighed(own, decided["token_keep"], decided["token_weight"]))
    return pa.Table.from_arrays(columns, schema=layout.train)


def _labelled(scored: pa.Table, token_keep: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """`input_ids` of the conversation and `labels` (IGNORED outside responses and on pruned tokens)."""
    offsets, ids = flat_lists(scored["input_ids"])
    places = _response_places(scored, offsets)[_kept_tokens(scored, token_keep)]
    labels = np.full(len(ids), IGNORED, np.int32)
    labels[places] = ids[places]
    return scored["input_ids"], _as_lists(offsets, labels)


def _weighed(scored: pa.Table, token_keep: pa.ChunkedArray, token_weight: pa.ChunkedArray) -> pa.Array:
    """The weight of each token of the conversation: 0 outside responses and on pruned tokens."""
    offsets, ids = flat_lists(scored["input_ids"])
    given = _of_response(scored, token_weight, np.ones(1, np.float32))
    weights = np.zeros(len(ids), np.float32)
    weights[_response_places(scored, offsets)] = np.where(_kept_tokens(scored, token_keep), given, 0)
    return _as_lists(offsets, weights)


def _response_places(scored: pa.Table, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the response tokens of all rows lie among all tokens."""
    of_row, at = flat_lists(scored["response_at"])
    places: npt.NDArray[np.int64] = at + np.repeat(offsets[:-1], np.diff(of_row))
    return places


def _kept_tokens(scored: pa.Table, token_keep: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which of the response tokens of all rows are trained on."""
    return _of_response(scored, token_keep, np.ones(1, np.bool_))


def _of_response(scored: pa.Table, lists: pa.ChunkedArray, otherwise: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What the lists give for the response tokens of all rows, and one value for those of rows without."""
    lengths = pc.list_value_length(scored["response_at"]).to_numpy()
    values = np.repeat(otherwise, int(lengths.sum()))
    values[np.repeat(lists.is_valid().to_numpy(), lengths)] = flat_lists(lists)[1]
    return values


def _as_lists(offsets: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _dropped(
    examples: pa.Table,
    drops: pa.Table,
    decisions: pa.Table,
    scored: pa.Table | None,
    lost: npt.NDArray[np.bool_],
    candidate: pa.Array,
    early: pa.Array,
    layout: Layout,
) -> pa.Table:
    chosen = pa.array(lost)
    table = examples.filter(chosen)
    at = candidate.filter(chosen)
    decided, before = decisions.take(at), drops.take(early.filter(chosen))
    messages = table["messages"].to_pylist()
    columns: list[Any] = [
        table["id"],
        table["source"],
        pc.coalesce(before["stage"], decided["stage"]),
        pc.coalesce(before["reason"], decided["reason"]),
        *(before[name] for name in _DROP_FACTS),
        pa.array([prompt_text(turns)[:EXCERPT_CHARS] for turns in messages], pa.string()),
        pa.array([response_text(turns)[:EXCERPT_CHARS] for turns in messages], pa.string()),
    ]
    if scored is not None:
        own = scored.take(at)
        columns += [own[field.name] for field in layout.scores]
    columns += [
        _verdict(table.num_rows, decided, before) if field.name == "verdict" else decided[field.name]
        for field in layout.decisions
    ]
    return pa.Table.from_arrays(columns, schema=layout.dropped)


def _verdict(rows: int, decided: pa.Table, before: pa.Table) -> pa.ChunkedArray:
    """The verdict column of dropped rows, with those that were dropped before any selector saw them."""
    stage = pc.coalesce(before["stage"], decided["stage"])
    early = {"decontaminate": "contaminated", "score": "not_scored", "select": None}
    names = [early.get(name, "duplicate") for name in stage.to_pylist()]
    return pc.coalesce(decided["verdict"], pa.array(names, pa.string())) if rows else decided["verdict"]


def _new_counts() -> dict[str, Any]:
    numbers = dict.fromkeys(("kept", "dropped", "tokens_kept", "tokens_trained"), 0)
    return {**numbers, "dropped_reasons": Counter[str](), "stages": Counter[str]()}


def _count(counts: dict[str, Any], outputs: dict[str, pa.Table], layout: Layout) -> None:
    train, dropped = outputs["train"], outputs["dropped"]
    counts["kept"] += train.num_rows
    counts["dropped"] += dropped.num_rows
    counts["dropped_reasons"].update(dropped["reason"].to_pylist())
    counts["stages"].update(dropped["stage"].to_pylist())
    if "response_tokens" in train.column_names:
        response = pc.sum(train["response_tokens"]).as_py() or 0
        counts["tokens_kept"] += (pc.sum(train["prompt_tokens"]).as_py() or 0) + response
        labels = pc.list_flatten(train["labels"]) if layout.tokens else None
        counts["tokens_trained"] += (
            response if labels is None else pc.sum(pc.not_equal(labels, IGNORED)).as_py() or 0
        )


def emit(
    space: Workspace,
    recipe: Recipe,
    units: Sequence[Unit],
    dropping: Sequence[StageResult],
    scored: Sequence[StageResult],
    selected: StageResult,
) -> StageResult:
    """Writes the output files of a run into the stage's folder; `publish` puts them in place."""
    reads = any(selector.token_reads for selector in recipe.select)
    tokens = bool(recipe.score) and (
        recipe.emit.tokens == "always" or (recipe.emit.tokens == "auto" and reads)
    )
    weights = any(selector.weighs_tokens for selector in recipe.select)
    groups = group_units(units, ROWS_PER_FILE)
    files = dict(zip((unit.name for unit in units), files_by_unit(scored, len(units)), strict=True))
    tasks = [
        EmitTask(
            f"train-{index:05d}-of-{len(groups):05d}.parquet",
            group,
            tuple(files[unit.name] for unit in group) if scored else (),
            drop_files(dropping),
            selected.paths[0],
            tokens,
            weights,
            tuple(recipe.store),
        )
        for index, group in enumerate(groups)
    ]

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "write outputs" >> beam.ParDo(WriteOutputs(folder, space.counts("emit")))

    total = sum(unit.rows for unit in units)
    return run_stage(
        space,
        "emit",
        {"tokens": tokens, "weights": weights, "store": list(recipe.store)},
        [*dropping, *scored, selected],
        tasks,
        build,
        total=total,
        summarise=_summarise,
    )


def _summarise(paths: list[str]) -> dict[str, Any]:
    totals = _new_counts()
    for path in paths:
        stats = read_stats(path)
        for key, value in totals.items():
            if isinstance(value, Counter):
                value.update(stats[key])
            else:
                totals[key] += stats[key]
    reasons = sorted(totals["dropped_reasons"].items(), key=lambda item: (-item[1], item[0]))
    return {
        **totals,
        "dropped_reasons": dict(reasons),
        "stages": dict(sorted(totals["stages"].items())),
        "rows": totals["kept"] + totals["dropped"],
    }
