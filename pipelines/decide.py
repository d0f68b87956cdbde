"""Stage select: one decision with a reason for every example that no stage before dropped.

All selectors see narrow columns only (id, source, group, counts, scores, and the fields of the input that a
selector names), so deciding is one task in one process. Texts stay in the shards; token ids, losses and
vectors are read for the rows that a selector asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import storage
from connectors.manifest import Fingerprint, check_unchanged, fingerprint
from connectors.number_lists import packed_schema
from connectors.shards import NARROW_ROWS, ShardWriter, Unit, read_footer, read_stats
from pipelines.ahead import ahead
from pipelines.arrays import TokenReader, VectorReader
from pipelines.candidates import Candidates, gather
from pipelines.drops import drop_files, rows_left
from pipelines.metrics import StageMetrics
from pipelines.recipe import Recipe
from pipelines.scored import Files, files_by_unit
from pipelines.selectors.base import Decisions, Selector, VectorSelector
from pipelines.selectors.tokens import TokenBlock, TokenLists, check_weights, join, merge
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.models.settings import EmbeddingSettings

KEPT_BY_ALL = "kept: no selector in the recipe"
CHUNK = 65_536

DECISION_FIELDS = [
    ("row", pa.int64()),  # global row number; the file is sorted by it
    ("id", pa.string()),
    ("keep", pa.bool_()),
    ("stage", pa.string()),  # where a dropped row was dropped: "score" or "select"
    ("selector", pa.string()),  # the last selector that saw the row
    ("reason", pa.string()),
    ("weight", pa.float32()),
]
TOKEN_FIELDS = {"token_keep": pa.bool_(), "token_weight": pa.float32()}  # a list of each row


@dataclass
class Decided:
    """Decisions on all candidates, in row order.

    Attributes:
        keep: bool, (n,).
        stage: "score" or "select" for dropped rows, else None; object, (n,).
        selector: Name of the selector that decided; object, (n,).
        reason: Countable reason; object, (n,).
        columns: Decision columns of the selectors, null where a selector did not see the row.
        masks: Which response tokens to train on, bool, for rows that lose tokens; None if none does.
        weights: Weight of each row in training, float64, (n,): the product over the selectors.
        token_weights: Weight of each response token, float32, for rows that have such; None if none has.
        facts: Of each selector, in order, the numbers of its whole decision.
    """

    keep: npt.NDArray[np.bool_]
    stage: npt.NDArray[np.object_]
    selector: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]
    columns: dict[str, pa.Array]
    weights: npt.NDArray[np.float64]
    masks: TokenLists | None = None
    token_weights: TokenLists | None = None
    facts: list[dict[str, float]] = field(default_factory=list)


def decide(
    candidates: pa.Table,
    selectors: Sequence[Selector],
    seed: int,
    tokens: TokenReader | None = None,
    vectors: VectorReader | None = None,
) -> Decided:
    """Applies selectors one after the other; each sees what the one before kept.

    A row without scores (status other than "ok") is dropped before the first selector.

    Args:
        candidates: The table described in pipelines/selectors/base.py, in id order.
        selectors: What the recipe lists under `select:`.
        seed: The recipe's seed.
        tokens: Reads what is stored of each token; needed when a selector reads tokens.
        vectors: Reads embeddings; needed when a selector reads vectors.
    """
    count = candidates.num_rows
    decided = Decided(
        keep=np.ones(count, np.bool_),
        stage=np.full(count, None, object),
        selector=np.full(count, None, object),
        reason=np.full(count, KEPT_BY_ALL, object),
        columns={},
        weights=np.ones(count),
    )
    alive = np.arange(count)
    if "status" in candidates.column_names:
        alive = _drop_unscored(candidates, decided)
    for selector in selectors:
        table = candidates.take(pa.array(alive))
        decisions = _decisions(selector, table, alive, seed, vectors)
        _record(selector, decisions, alive, decided)
        if selector.token_reads:
            if tokens is None:
                raise ValueError(f"{selector.name} reads tokens, but none were stored")
            _record_tokens(selector, table, decisions, alive, tokens, decided)
        alive = alive[decisions.keep]
    decided.masks = _of_kept(decided.masks, decided.keep)
    decided.token_weights = _of_kept(decided.token_weights, decided.keep)
    return decided


def _of_kept(tokens: TokenLists | None, keep: npt.NDArray[np.bool_]) -> TokenLists | None:
    if tokens is None or keep[tokens.rows].all():
        return tokens
    return tokens.within(keep[tokens.rows])


def _drop_unscored(candidates: pa.Table, decided: Decided) -> npt.NDArray[np.int64]:
    status = candidates["status"]
    scored = pc.equal(status, "ok").fill_null(False)
    lost = ~scored.to_numpy()
    decided.keep[lost] = False
    decided.stage[lost] = "score"
    decided.reason[lost] = [f"not scored: {value}" for value in status.filter(pa.array(lost)).to_pylist()]
    return np.flatnonzero(~lost)


def _decisions(
    selector: Selector,
    table: pa.Table,
    alive: npt.NDArray[np.int64],
    seed: int,
    vectors: VectorReader | None,
) -> Decisions:
    if isinstance(selector, VectorSelector):
        if vectors is None:
            raise ValueError(f"{selector.name} reads vectors, but none were stored")
        decisions = selector.decide_with(table, vectors.read(alive, selector.target_file), seed)
    else:
        decisions = selector.decide(table, seed)
    if len(decisions.keep) != len(alive) or len(decisions.reason) != len(alive):
        raise ValueError(f"{selector.name}: {len(decisions.keep)} decisions for {len(alive)} candidates")
    return decisions


def _record(selector: Selector, decisions: Decisions, alive: npt.NDArray[np.int64], decided: Decided) -> None:
    lost = alive[~decisions.keep]
    decided.keep[lost] = False
    decided.stage[lost] = "select"
    decided.selector[alive] = selector.name
    decided.reason[alive] = decisions.reason
    decided.facts.append(decisions.facts)
    for name, values in decisions.columns.items():
        decided.columns[name] = _spread(values, alive, len(decided.keep))
    if decisions.weights is not None:
        if not (np.isfinite(decisions.weights) & (decisions.weights >= 0)).all():
            raise ValueError(f"{selector.name}: a weight is negative or not finite")
        decided.weights[alive] *= decisions.weights


def _record_tokens(
    selector: Selector,
    table: pa.Table,
    decisions: Decisions,
    alive: npt.NDArray[np.int64],
    tokens: TokenReader,
    decided: Decided,
) -> None:
    def read(rows: npt.NDArray[np.int64]) -> Iterator[TokenBlock]:
        return tokens.read(alive[rows], rows, selector.token_reads)

    def of_candidates(parts: Iterator[TokenLists], kind: type[np.generic]) -> TokenLists:
        own = join(list(parts), kind)
        return replace(own, rows=alive[own.rows])

    if decisions.prune_tokens is not None and decisions.prune_tokens.any():
        masks = of_candidates(selector.token_masks(table, decisions, read), np.bool_)
        decided.masks = masks if decided.masks is None else merge(decided.masks, masks, np.logical_and)
    if decisions.weigh_tokens is not None and decisions.weigh_tokens.any():
        weights = of_candidates(selector.token_weights(table, decisions, read), np.float32)
        check_weights(weights, selector.name)
        before = decided.token_weights
        decided.token_weights = weights if before is None else merge(before, weights, np.multiply)


def _spread(values: pa.Array, at: npt.NDArray[np.int64], count: int) -> pa.Array:
    """A full-length column with `values` at the given rows and null elsewhere."""
    positions = np.full(count, -1, np.int64)
    positions[at] = np.arange(len(at))
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.take(pa.array(positions, mask=positions < 0))


@dataclass(frozen=True)
class SelectTask:
    """The whole decision, as one task."""

    file: str
    units: tuple[Unit, ...]
    drops: tuple[str, ...]
    scored: tuple[Files, ...]  # for each unit; empty when the recipe scores nothing
    tokens: dict[str, tuple[str, ...]]  # score files by the role of the model
    embeddings: tuple[str, ...]
    embed: EmbeddingSettings | None
    selectors: tuple[Selector, ...]
    seed: int
    targets: Mapping[str, Fingerprint]  # files that selectors aim at, as the run found them

    @property
    def reads(self) -> set[str]:
        """The columns that the selectors read."""
        return {name for selector in self.selectors for name in selector.reads}


class Decide(beam.DoFn):
    """Gathers the candidates, decides, writes the decisions sorted by row."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.metrics = StageMetrics("select")

    def process(self, task: SelectTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        with self.metrics.task():
            if task.tokens:
                Thread(target=load_compiled).start()
            candidates = gather(task.units, task.drops, task.scored, task.reads)
            decided = decide(candidates.table, task.selectors, task.seed, *readers(task, candidates))
            for path, known in task.targets.items():
                check_unchanged(path, known)
            size = write_decisions(storage.join(self.folder, task.file), decided, candidates)
        kept = int(decided.keep.sum())
        self.metrics(rows_kept=kept, rows_dropped=len(decided.keep) - kept, bytes_written=size)
        yield task.file


def load_compiled() -> None:
    """Loads Numba while columns are read: choosing tokens needs it, and it takes most of a second."""
    from pipelines.selectors.lowest import keep_lowest

    keep_lowest(np.zeros(0), np.zeros(1, np.int64), 1.0)


def readers(task: SelectTask, candidates: Candidates) -> tuple[TokenReader | None, VectorReader | None]:
    """What reads tokens and vectors for the task's selectors; None where nothing is stored for them."""
    tokens = TokenReader(task.tokens, candidates.starts) if task.tokens else None
    if task.embed is None or not task.embeddings:
        return tokens, None
    return tokens, VectorReader(task.embeddings, candidates.rows, task.embed)


def write_decisions(path: str | Path, decided: Decided, candidates: Candidates) -> int:
    """Writes the decisions, sorted by row, with their counts and facts in the footer; gives its bytes."""
    own = [(name, _stored(column.type)) for name, column in sorted(decided.columns.items())]
    of_tokens = [(name, pa.list_(kind)) for name, kind in TOKEN_FIELDS.items()]
    schema = packed_schema(pa.schema([*DECISION_FIELDS, *own, *of_tokens]))
    with ShardWriter(path, schema, NARROW_ROWS) as writer:
        table_at = partial(_decision_table, decided, candidates.table["id"], candidates.rows, schema)
        for table in ahead(table_at, range(0, len(candidates.rows), CHUNK), 1):
            writer.write(table)
        # JSON has no infinity: what has no limit is null.
        facts = [
            {name: value if math.isfinite(value) else None for name, value in own.items()}
            for own in decided.facts
        ]
        kept = int(decided.keep.sum())
        writer.stats = {"kept": kept, "dropped": len(decided.keep) - kept, "facts": facts}
    return writer.bytes


def _decision_table(
    decided: Decided, ids: pa.ChunkedArray, rows: npt.NDArray[np.int64], schema: pa.Schema, start: int
) -> pa.Table:
    """The decisions on CHUNK candidates from `start` on."""
    stop = min(start + CHUNK, len(rows))
    part = slice(start, stop)
    arrays = [
        pa.array(rows[part]),
        ids[part].combine_chunks().cast(pa.string()),
        pa.array(decided.keep[part]),
        pa.array(decided.stage[part], pa.string()),
        pa.array(decided.selector[part], pa.string()),
        pa.array(decided.reason[part], pa.string()),
        pa.array(decided.weights[part], pa.float32()),
        *(
            column.slice(start, CHUNK).cast(_stored(column.type))
            for _, column in sorted(decided.columns.items())
        ),
        _token_column(decided.masks, start, stop, TOKEN_FIELDS["token_keep"]),
        _token_column(decided.token_weights, start, stop, TOKEN_FIELDS["token_weight"]),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type of a decision column in a file; texts of all candidates together are larger than in one."""
    return pa.string() if pa.types.is_large_string(kind) else kind


def _token_column(tokens: TokenLists | None, start: int, stop: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(stop - start, pa.large_binary()) if tokens is None else tokens.packed(start, stop, kind)


@dataclass(frozen=True)
class Known:
    """What the stages before know of the candidates.

    Attributes:
        scored: Stages of columns for each candidate: score, compare, check.
        tokens: Score stages by the role of their model, "" for the target's.
        embedded: The stage of embeddings.
    """

    scored: tuple[StageResult, ...] = ()
    tokens: Mapping[str, StageResult] = field(default_factory=dict)
    embedded: StageResult | None = None

    @property
    def stages(self) -> list[StageResult]:
        """All of them, each once."""
        every = [*self.scored, *self.tokens.values(), *([self.embedded] if self.embedded else [])]
        return list({stage.key: stage for stage in every}.values())


def select_task(
    recipe: Recipe, units: Sequence[Unit], dropping: Sequence[StageResult], known: Known
) -> SelectTask:
    """What there is to decide on, and by what."""
    reads_tokens = any(selector.token_reads for selector in recipe.select)
    embedded = known.embedded if recipe.reads_vectors else None
    targets = [selector.target_file for selector in recipe.select if isinstance(selector, VectorSelector)]
    return SelectTask(
        "decisions.parquet",
        tuple(units),
        drop_files(dropping),
        tuple(files_by_unit(known.scored, len(units))) if known.scored else (),
        {role: tuple(stage.paths) for role, stage in known.tokens.items()} if reads_tokens else {},
        tuple(embedded.paths) if embedded else (),
        recipe.embed if embedded else None,
        tuple(recipe.select),
        recipe.seed,
        {path: fingerprint(path) for path in targets if path},
    )


def select(
    space: Workspace,
    recipe: Recipe,
    units: Sequence[Unit],
    dropping: Sequence[StageResult],
    known: Known,
) -> StageResult:
    """Decides on every candidate with the recipe's selectors.

    Raises:
        InputChanged: If a file that a selector aims at changed while it was read.
    """
    task = select_task(recipe, units, dropping, known)

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "decide" >> beam.ParDo(Decide(folder))

    settings: dict[str, Any] = {
        "select": recipe.resolved()["select"],
        "seed": recipe.seed,
        "targets": [known.hash for known in task.targets.values()],
    }
    try:
        return run_stage(
            space,
            "select",
            settings,
            [*dropping, *known.stages],
            [task],
            build,
            total=rows_left(units, dropping),
            summarise=lambda paths: {
                "rows": read_footer(paths[0]).num_rows,
                "facts": read_stats(paths[0])["facts"],
            },
        )
    except (RuntimeError, ValueError, OSError):
        for path, then in task.targets.items():  # a worker says it in the text of a traceback
            check_unchanged(path, then)
        raise
