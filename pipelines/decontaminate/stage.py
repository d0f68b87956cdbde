"""Stage decontaminate: which rows hold items of evaluation sets. It runs first, on every example.

Rows that share no words with an item may still be compared by their embeddings (`embedding:`): a row is
contaminated when the cosine of its text and an item's, rounded to six decimals, is at least the threshold.
The model's `scope` says which text that is, of row and item alike; an item or a row without it, or that the
model has no vector for, is not compared, and counted. A hit is the nearest item, the first of equal ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import prompt_text, response_text
from connectors.manifest import check_unchanged, fingerprint
from connectors.shards import Unit, group_units, read_stats, read_unit, write_parquet
from connectors.storage import exists, fetched, folder_of, join, remove_files
from pipelines.decontaminate.eval_sets import EvalItem, chosen_fields, read_items, set_files
from pipelines.decontaminate.ngrams import EvalIndex, Hit
from pipelines.decontaminate.settings import DecontaminateSettings, EmbeddingMatch
from pipelines.drops import DROP_SCHEMA
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.stages import StageResult, Workspace, run_stage

ROWS_IN_TASK = 16_384
ITEMS = "eval-items.parquet"
NO_VECTOR = "not_embedded"
_ITEM_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in EvalItem._fields),
        ("embedding", pa.list_(pa.float32())),  # null: not compared by embedding
    ]
)
_ROUGH = 1e-3  # a product of float32 is nearer than this to the exact cosine
_TILE = 4096  # items in a block of products

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SearchTask:
    """Consecutive units to search; `file` holds their hits."""

    file: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class MergeTask:
    """The one file of all hits."""

    file: str


class FindItems(beam.DoFn):
    """Writes the contaminated rows of consecutive units."""

    def __init__(self, folder: str, settings: DecontaminateSettings, counts: str, threads: int) -> None:
        self.folder = folder
        self.settings = settings
        self.progress = ProgressCounter(counts)
        self.threads = threads
        self.metrics = StageMetrics("decontaminate")
        self._index: EvalIndex | None = None
        self._meanings: ItemMeanings | None = None

    def process(self, task: SearchTask) -> Iterator[str]:
        """Yields the path of the finished file."""
        if self._index is None:
            items = pq.read_table(fetched(join(self.folder, ITEMS)))
            rows = items.select(EvalItem._fields).to_pylist()
            self._index = EvalIndex([EvalItem(**row) for row in rows], self.settings)
            if self.settings.embedding is not None:
                self._meanings = ItemMeanings(items["embedding"], self.settings.embedding, self.threads)
        path = join(self.folder, task.file)
        if not exists(path):
            with self.metrics.task():
                found = [self._search(self._index, unit) for unit in task.units]
                hits = pa.concat_tables([DROP_SCHEMA.empty_table(), *(table for table, _ in found)])
                stats = {NO_VECTOR: sum(missing for _, missing in found)} if self._meanings else {}
                size = write_parquet(path, hits, DROP_SCHEMA, stats)
            rows = sum(unit.rows for unit in task.units)
            self.metrics(rows_searched=rows, rows_dropped=hits.num_rows, bytes_written=size)
        yield path

    def _search(self, index: EvalIndex, unit: Unit) -> tuple[pa.Table, int]:
        """The hits of a unit, and how many of the other rows have no vector."""
        table = read_unit(unit, ["id", "messages"])
        hits, missing = index.find(table["messages"]), 0
        if self._meanings is not None:
            more, missing = self._meanings.find(table["messages"], {hit.row for hit in hits})
            hits = sorted([*hits, *more], key=lambda hit: hit.row)
        ids = table["id"]
        rows = [_drop(hit, index, unit.row_start, ids[hit.row].as_py()) for hit in hits]
        self.progress(rows=unit.rows)
        return pa.Table.from_pylist(rows, schema=DROP_SCHEMA), missing


class ItemMeanings:
    """The embeddings of all items, ready to be compared with rows.

    Args:
        embeddings: Column `embedding` of the items; null for an item that is not compared.
        match: The model and the threshold.
        threads: Forward calls of a transformer that run side by side on CPU.
    """

    def __init__(self, embeddings: pa.ChunkedArray, match: EmbeddingMatch, threads: int) -> None:
        from scorers.models.embedding import load_embedder  # loads torch

        self._embedder = load_embedder(match.model)
        self._match = match
        self._threads = threads
        column = embeddings.combine_chunks()
        self._items = np.flatnonzero(np.asarray(column.is_valid()))
        values = np.asarray(column.drop_null().flatten(), np.float32)
        self._vectors = values.reshape(-1, self._embedder.dimensions)

    def find(self, messages: pa.ChunkedArray, known: set[int]) -> tuple[list[Hit], int]:
        """The rows that are near an item.

        Args:
            messages: Conversations.
            known: Positions of rows that need not be looked at.

        Returns:
            The hits in row order, and the number of rows that have no vector.
        """
        rows = [row for row in range(len(messages)) if row not in known]
        turns = messages.take(pa.array(rows, pa.int64())).to_pylist()
        texts = [_compared(self._match, prompt_text(t), response_text(t)) for t in turns]
        found = self._embedder.embed(texts, self._threads)
        near = nearest_items(found.vectors, self._vectors, self._match.threshold)
        hits = [Hit(rows[row], int(self._items[item]), "embedding", "", cosine) for row, item, cosine in near]
        return hits, int(np.count_nonzero(~found.embedded))


def nearest_items(rows: Floats, items: Floats, threshold: float) -> list[tuple[int, int, float]]:
    """For each row that is near enough to an item: the row, its nearest item and their cosine.

    Args:
        rows: Vectors of length one, or zeros for a row without one, shape (n, d).
        items: Vectors of length one, shape (m, d).
        threshold: Lowest cosine, in (0, 1].

    Returns:
        (row, item, cosine to six decimals) in row order; of equally near items the first.
    """
    best = np.full(len(rows), -np.inf, np.float32)
    for first in range(0, len(items), _TILE):
        np.maximum(best, (rows @ items[first : first + _TILE].T).max(axis=1), out=best)
    near = []
    for row in np.flatnonzero(best >= threshold - _ROUGH).tolist():
        # float32 products differ with the size of a block; these do not
        exact = np.round(np.einsum("md,d->m", items, rows[row], dtype=np.float64), 6)
        item = int(exact.argmax())
        if exact[item] >= threshold:
            near.append((row, item, min(1.0, float(exact[item]))))
    return near


def _compared(match: EmbeddingMatch, prompt: str, response: str) -> str:
    """The text that is embedded of a row or an item."""
    chosen = {"prompt": [prompt], "response": [response], "both": [prompt, response]}[match.model.scope]
    return "\n".join(text for text in chosen if text)


def _embed_items(match: EmbeddingMatch, items: Sequence[EvalItem]) -> list[Floats | None]:
    from scorers.models.embedding import load_embedder  # loads torch

    texts = [_compared(match, item.prompt, item.response) for item in items]
    found = load_embedder(match.model).embed(texts)
    # nothing is no text to be near to, though a tokenizer may mark its beginning and end
    usable = [bool(text.strip()) and known for text, known in zip(texts, found.embedded, strict=True)]
    return [vector if known else None for vector, known in zip(found.vectors, usable, strict=True)]


def _drop(hit: Hit, index: EvalIndex, row_start: int, row_id: str) -> dict[str, Any]:
    item = index.items[hit.item]
    return {
        "row": row_start + hit.row,
        "id": row_id,
        "stage": "decontaminate",
        "kind": "contaminated",
        "reason": f"contaminated: {item.eval_set}",
        "similarity": hit.share,
        "eval_set": item.eval_set,
        "eval_item": item.item,
        "eval_match": hit.match,
        "eval_span": hit.span,
    }


def decontaminate(
    space: Workspace, settings: DecontaminateSettings, units: Sequence[Unit], ingested: StageResult
) -> StageResult:
    """Finds the rows that hold items of the evaluation sets.

    Returns:
        The stage; its one file lists the rows to drop (pipelines/drops.py). Its stats count the contaminated
        rows, and under `sets` for each set its items, the items found, and the rows by kind of match; where
        embeddings are compared also the rows, and of each set the items, that have none.

    Raises:
        InputChanged: If an evaluation set changed while it was read.
        ValueError: If an evaluation set or the embedding model cannot be read.
    """
    sets = [(eval_set, set_files(eval_set, Path.cwd())) for eval_set in settings.against]
    known = {file.path: fingerprint(file.path) for _, found in sets for file in found}
    identity = [[asdict(file) | {"path": known[file.path].hash} for file in found] for _, found in sets]
    total = sum(unit.rows for unit in units)
    merged = MergeTask("contaminated.parquet")
    groups = [group for group in group_units(units, ROWS_IN_TASK) if group]

    model = _model_identity(settings)

    def build(collection: beam.PCollection, folder: str) -> None:
        for eval_set, files in sets:
            space.progress.say(f"evaluation set {eval_set.set_name}: {chosen_fields(eval_set, files)}")
        items = [item for eval_set, files in sets for item in read_items(eval_set, files)]
        for path, then in known.items():
            check_unchanged(path, then)
        _write_items(items, settings, folder)
        tasks = [SearchTask(f"hits-{group[0].name}.parquet", group) for group in groups]
        find = FindItems(folder, settings, space.counts("decontaminate"), space.runner.threads)
        hits = collection.pipeline | "units" >> beam.Create(tasks) | "find items" >> beam.ParDo(find)
        _ = collection | "merge" >> beam.Map(_merge, folder, beam.pvalue.AsList(hits))

    stage = run_stage(
        space,
        "decontaminate",
        {"settings": _shaping(settings), "files": identity, "model": model},
        [ingested],
        [merged],
        build,
        total=total,
        spread=len(groups) > 1,
        parallel=not model or model["device"] == "cpu",  # one process owns a GPU
        summarise=lambda paths: _summarise(paths[0], total, embedded=bool(model)),
    )
    remove_files(stage.folder, "hits-")
    return stage


def _shaping(settings: DecontaminateSettings) -> dict[str, Any]:
    """The settings that shape the result; the model is known by its contents."""
    return settings.model_dump(mode="json", exclude={"embedding": {"model": {"path", "device"}}})


def _model_identity(settings: DecontaminateSettings) -> dict[str, Any]:
    """What identifies the embedding model, nothing where there is none."""
    if settings.embedding is None:
        return {}
    from scorers.models.embedding import embedding_fingerprint  # loads torch

    model = embedding_fingerprint(settings.embedding.model)
    return {key: value for key, value in model.items() if key != "name" or model["revision"]}


def _write_items(items: Sequence[EvalItem], settings: DecontaminateSettings, folder: str) -> None:
    vectors = _embed_items(settings.embedding, items) if settings.embedding else [None] * len(items)
    rows = [item._asdict() | {"embedding": v} for item, v in zip(items, vectors, strict=True)]
    write_parquet(join(folder, ITEMS), pa.Table.from_pylist(rows, schema=_ITEM_SCHEMA), _ITEM_SCHEMA)


def _merge(task: MergeTask, folder: str, hits: Sequence[str]) -> str:
    paths = sorted(hits)
    tables = [DROP_SCHEMA.empty_table(), *(pq.read_table(fetched(path)) for path in paths)]
    missing = [stats[NO_VECTOR] for stats in map(read_stats, paths) if NO_VECTOR in stats]
    stats = {NO_VECTOR: sum(missing)} if missing else {}
    write_parquet(join(folder, task.file), pa.concat_tables(tables), DROP_SCHEMA, stats)
    return task.file


def _summarise(path: str, rows: int, *, embedded: bool) -> dict[str, Any]:
    table = pq.read_table(fetched(path), columns=["eval_set", "eval_item", "eval_match"])
    searched = pq.read_table(fetched(join(folder_of(path), ITEMS)), columns=["eval_set", "embedding"])
    items = Counter(searched["eval_set"].to_pylist())
    without = Counter(searched.filter(pc.is_null(searched["embedding"]))["eval_set"].to_pylist())
    hits = table.to_pylist()
    sets: dict[str, dict[str, Any]] = {
        name: {
            "items": count,
            "items_found": len({hit["eval_item"] for hit in hits if hit["eval_set"] == name}),
            "rows": dict(sorted(Counter(h["eval_match"] for h in hits if h["eval_set"] == name).items())),
        }
        for name, count in items.items()
    }
    stats = read_stats(path)
    summary = {"rows": rows, "contaminated": stats["rows"], "sets": sets}
    if not embedded:
        return summary
    for name, found in sets.items():
        found[f"items_{NO_VECTOR}"] = without[name]
    return summary | {NO_VECTOR: stats.get(NO_VECTOR, 0)}
