"""Stage select: one decision with a reason for every example that no stage before dropped.

All selectors see narrow columns only (id, source, group, counts, scores), so deciding is one task in one
process. Texts and token ids stay in the shards.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.shards import ShardWriter, Unit, read_unit
from pipelines.drops import drop_files, left_mask, rows_left
from pipelines.recipe import Recipe
from pipelines.selectors.base import Selector
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.base import TOKEN_COLUMNS

KEPT_BY_ALL = "kept: no selector in the recipe"
CHUNK = 65_536

DECISION_FIELDS = [
    ("row", pa.int64()),  # global row number; the file is sorted by it
    ("id", pa.string()),
    ("keep", pa.bool_()),
    ("stage", pa.string()),  # where a dropped row was dropped: "score" or "select"
    ("selector", pa.string()),  # the last selector that saw the row
    ("reason", pa.string()),
]


@dataclass
class Decided:
    """Decisions on all candidates, in row order.

    Attributes:
        keep: bool, (n,).
        stage: "score" or "select" for dropped rows, else None; object, (n,).
        selector: Name of the selector that decided; object, (n,).
        reason: Countable reason; object, (n,).
        columns: Decision columns of the selectors, null where a selector did not see the row.
        masks: Candidate index → which response tokens to train on, for rows that lose tokens.
    """

    keep: npt.NDArray[np.bool_]
    stage: npt.NDArray[np.object_]
    selector: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    columns: dict[str, pa.Array]
    masks: dict[int, npt.NDArray[np.bool_]]


def decide(
    candidates: pa.Table, selectors: Sequence[Selector], seed: int, tokens: TokenReader | None = None
) -> Decided:
    """Applies selectors one after the other; each sees what the one before kept.

    A row without scores (status other than "ok") is dropped before the first selector.

    Args:
        candidates: The table described in pipelines/selectors/base.py, in id order.
        selectors: What the recipe lists under `select:`.
        seed: The recipe's seed.
        tokens: Reads per-token losses of given candidates; needed when a selector prunes tokens.
    """
    count = candidates.num_rows
    decided = Decided(
        keep=np.ones(count, np.bool_),
        stage=np.full(count, None, object),
        selector=np.full(count, None, object),
        reason=np.full(count, KEPT_BY_ALL, object),
        columns={},
        masks={},
    )
    alive = np.arange(count)
    if "status" in candidates.column_names:
        alive = _drop_unscored(candidates, decided)
    for selector in selectors:
        alive = _apply(selector, candidates, alive, seed, decided, tokens)
    decided.masks = {row: mask for row, mask in decided.masks.items() if decided.keep[row]}
    return decided


def _drop_unscored(candidates: pa.Table, decided: Decided) -> npt.NDArray[np.int64]:
    status = candidates["status"].to_numpy(zero_copy_only=False)
    lost = status != "ok"
    decided.keep[lost] = False
    decided.stage[lost] = "score"
    decided.reason[lost] = [f"not scored: {value}" for value in status[lost]]
    return np.flatnonzero(~lost)


def _apply(
    selector: Selector,
    candidates: pa.Table,
    alive: npt.NDArray[np.int64],
    seed: int,
    decided: Decided,
    tokens: TokenReader | None,
) -> npt.NDArray[np.int64]:
    table = candidates.take(pa.array(alive))
    decisions = selector.decide(table, seed)
    if len(decisions.keep) != len(alive) or len(decisions.reason) != len(alive):
        raise ValueError(f"{selector.name}: {len(decisions.keep)} decisions for {len(alive)} candidates")
    lost = alive[~decisions.keep]
    decided.keep[lost] = False
    decided.stage[lost] = "select"
    decided.selector[alive] = selector.name
    decided.reason[alive] = decisions.reason
    for name, values in decisions.columns.items():
        decided.columns[name] = _spread(values, alive, candidates.num_rows)
    if decisions.prune_tokens is not None and decisions.prune_tokens.any():
        if tokens is None:
            raise ValueError(f"{selector.name} prunes tokens, but no per-token losses were stored")
        pruned = np.flatnonzero(decisions.prune_tokens)
        read = functools.partial(tokens.read, alive[pruned], pruned)
        for index, mask in selector.token_masks(table, decisions, read):
            row = int(alive[index])
            decided.masks[row] = mask & decided.masks[row] if row in decided.masks else mask
    return alive[decisions.keep]


def _spread(values: pa.Array, at: npt.NDArray[np.int64], count: int) -> pa.Array:
    """A full-length column with `values` at the given rows and null elsewhere."""
    positions = np.full(count, -1, np.int64)
    positions[at] = np.arange(len(at))
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.take(pa.array(positions, mask=positions < 0))


@dataclass(frozen=True)
class TokenReader:
    """Reads per-token losses of candidates from the score files, one file at a time.

    Attributes:
        paths: The score files, in row order.
        starts: Candidate index of the first row of each, shape (files + 1,).
    """

    paths: tuple[str, ...]
    starts: npt.NDArray[np.int64]

    def read(
        self, rows: npt.NDArray[np.int64], names: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yields (name, losses in nats) for candidates `rows` (ascending), each under its own of `names`."""
        file_of = np.searchsorted(self.starts, rows, side="right") - 1
        for file in np.unique(file_of):
            chosen = file_of == file
            column = pq.read_table(self.paths[file], columns=["token_nll"])["token_nll"].combine_chunks()
            for row, name in zip(rows[chosen] - self.starts[file], names[chosen], strict=True):
                yield int(name), column[int(row)].values.to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class SelectTask:
    """The whole decision, as one task."""

    file: str
    units: tuple[Unit, ...]
    drops: tuple[str, ...]
    scores: tuple[str, ...]  # one file for each unit; empty when the recipe scores nothing
    selectors: tuple[Selector, ...]
    seed: int


class Decide(beam.DoFn):
    """Gathers the candidates, decides, writes the decisions sorted by row."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def process(self, task: SelectTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        candidates, rows, starts = gather(task.units, task.drops, task.scores)
        tokens = TokenReader(task.scores, starts) if task.scores else None
        decided = decide(candidates, task.selectors, task.seed, tokens)
        schema = pa.schema(
            [*DECISION_FIELDS, *((name, column.type) for name, column in sorted(decided.columns.items()))]
            + [("token_keep", pa.list_(pa.bool_()))]
        )
        with ShardWriter(Path(self.folder) / task.file, schema) as writer:
            for table in _decision_tables(decided, candidates["id"], rows, schema):
                writer.write(table)
            writer.stats = {"kept": int(decided.keep.sum()), "dropped": int((~decided.keep).sum())}
        yield task.file


def _decision_tables(
    decided: Decided, ids: pa.ChunkedArray, rows: npt.NDArray[np.int64], schema: pa.Schema
) -> Iterator[pa.Table]:
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        masks = [decided.masks.get(row) for row in range(start, min(start + CHUNK, len(rows)))]
        arrays = [
            pa.array(rows[part]),
            ids[part].combine_chunks(),
            pa.array(decided.keep[part]),
            pa.array(decided.stage[part], pa.string()),
            pa.array(decided.selector[part], pa.string()),
            pa.array(decided.reason[part], pa.string()),
            *(column.slice(start, CHUNK) for _, column in sorted(decided.columns.items())),
            pa.array(masks, pa.list_(pa.bool_())),
        ]
        yield pa.Table.from_arrays(arrays, schema=schema)


def gather(
    units: Iterable[Unit], drops: Sequence[str], scores: Sequence[str]
) -> tuple[pa.Table, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The candidates: every example that no stage before dropped, with its scores.

    Returns:
        The table, the global row number of each candidate, and the candidate index at which each unit starts
        (one more entry than units).

    Raises:
        ValueError: If a score file does not hold exactly the unit's rows.
    """
    tables, rows, starts = [], [], [0]
    for index, unit in enumerate(units):
        left = left_mask(drops, unit)
        table = read_unit(unit, ["id", "source", "group"]).filter(pa.array(left))
        rows.append(unit.row_start + np.flatnonzero(left))
        starts.append(starts[-1] + table.num_rows)
        if scores:
            names = [n for n in pq.read_schema(scores[index]).names if n not in TOKEN_COLUMNS]
            scored = pq.read_table(scores[index], columns=names)
            if not scored["id"].equals(table["id"]):
                raise ValueError(
                    f"{scores[index]}: its ids are not those of unit {unit.name}; delete it and run again"
                )
            for name in names[1:]:
                table = table.append_column(name, scored[name])
        tables.append(table)
    if not tables:
        empty = pa.table({name: pa.array([], pa.string()) for name in ("id", "source", "group")})
        return empty, np.zeros(0, np.int64), np.zeros(1, np.int64)
    return pa.concat_tables(tables).combine_chunks(), np.concatenate(rows), np.array(starts, np.int64)


def select(
    space: Workspace,
    recipe: Recipe,
    units: Sequence[Unit],
    dropping: Sequence[StageResult],
    scores: StageResult | None,
) -> StageResult:
    """Decides on every candidate with the recipe's selectors."""
    task = SelectTask(
        "decisions.parquet",
        tuple(units),
        drop_files(dropping),
        tuple(scores.paths) if scores else (),
        tuple(recipe.select),
        recipe.seed,
    )

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "decide" >> beam.ParDo(Decide(folder))

    settings: dict[str, Any] = {"select": recipe.resolved()["select"], "seed": recipe.seed}
    total = rows_left(units, dropping)
    inputs = [*dropping, scores] if scores else list(dropping)
    return run_stage(
        space,
        "select",
        settings,
        inputs,
        [task],
        build,
        total=total,
        summarise=lambda paths: {"rows": pq.read_metadata(paths[0]).num_rows},
    )
