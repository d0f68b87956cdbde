"""Stages embed, similarity and semantic: which examples mean what another one means.

Embeddings and similarities are stored, and neither depends on the threshold: a new threshold, a new fraction
to keep, or D4 instead of either, is decided from what is there. Tasks read the files of embeddings, mapped
into memory, and hand on file names; no vector crosses a shuffle. A text that could not be embedded is never a
semantic duplicate; it stays, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import RunInference

from connectors.shards import Unit, read_stats, read_unit, write_arrow, write_parquet
from pipelines.dedupe.d4 import drop_prototypes
from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.semantic_settings import DEFAULT_THRESHOLD, SemanticSettings
from pipelines.dedupe.semdedup import (
    cluster_order,
    drop_above,
    drop_to_fraction,
    max_similarity,
    representatives,
)
from pipelines.dedupe.spherical_kmeans import ROWS_PER_CENTROID, assign, cluster_count, train_centroids
from pipelines.drops import DROP_SCHEMA, drop_files, left_mask, rows_left
from pipelines.progress import ProgressCounter
from pipelines.selectors.base import id_order
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.models.embedding import embedding_fingerprint
from scorers.models.embedding_handler import EmbeddingHandler
from scorers.models.handler import ScoredBatch, ScoringBatch
from scorers.models.scoring import one_torch_thread

Floats = npt.NDArray[np.float32]

PARTS = 64  # tasks that the clusters are spread over
SIMILARITY_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("cluster_id", pa.int32()),
        ("cos_to_centroid", pa.float32()),
        ("rank_in_cluster", pa.int32()),
        ("max_sim_before", pa.float32()),  # null for the first of a cluster
        ("nearest_before", pa.int64()),  # row number; null for the first of a cluster
    ]
)


@dataclass(frozen=True)
class EmbedTask:
    """One unit to embed."""

    file: str
    unit: Unit
    drops: tuple[str, ...]


@dataclass(frozen=True)
class OneFile:
    """The one file of a stage."""

    file: str


class ReadForEmbedding(beam.DoFn):
    """Reads what the model needs of a unit: its rows that were not dropped before."""

    def process(self, task: EmbedTask) -> Iterator[ScoringBatch]:
        """Yields the unit's rows as one batch."""
        left = pa.array(left_mask(task.drops, task.unit))
        table = read_unit(task.unit, ["id", "messages"]).filter(left).combine_chunks()
        empty = pa.RecordBatch.from_pylist([], schema=table.schema)
        yield ScoringBatch(task.file, table.to_batches()[0] if table.num_rows else empty)


class WriteEmbeddings(beam.DoFn):
    """Writes a unit's embeddings with the global numbers of its rows."""

    def __init__(self, folder: str, tasks: Sequence[EmbedTask]) -> None:
        self.folder = folder
        self.tasks = {task.file: task for task in tasks}

    def process(self, batch: ScoredBatch) -> Iterator[str]:
        """Yields the name of the finished file."""
        task = self.tasks[batch.unit]
        rows = task.unit.row_start + np.flatnonzero(left_mask(task.drops, task.unit))
        table = pa.Table.from_batches([batch.scores]).add_column(0, "row", pa.array(rows, pa.int64()))
        write_arrow(Path(self.folder) / batch.unit, table)
        yield batch.unit


def semantic_duplicates(
    space: Workspace,
    settings: SemanticSettings,
    seed: int,
    units: Sequence[Unit],
    inputs: Sequence[StageResult],
    dropping: Sequence[StageResult],
) -> tuple[StageResult, StageResult, StageResult]:
    """Finds the rows that mean what another one means, among those that were not dropped before.

    Args:
        space: The run's workspace.
        settings: The `semantic` part of the recipe's `dedupe` section.
        seed: The recipe's seed; it breaks ties.
        units: All examples.
        inputs: The stages that made them.
        dropping: The stages that dropped rows.

    Returns:
        The stages embed, similarity and semantic; the one file of the last lists the rows to drop.

    Raises:
        ValueError: If the model cannot be loaded, or FAISS is needed and missing.
    """
    embedded = _embed(space, settings, units, inputs, dropping)
    total = embedded.stats["rows"]
    count = settings.clusters or cluster_count(total)

    def compare(collection: beam.PCollection, folder: str) -> None:
        paths = embedded.paths
        pipeline = collection.pipeline
        centroids = (
            pipeline | "sample" >> beam.Create([paths]) | "train" >> beam.Map(_train, folder, count, seed)
        )
        assigned = (
            pipeline
            | "embeddings" >> beam.Create(paths)
            | "assign" >> beam.Map(_assign, folder, beam.pvalue.AsSingleton(centroids))
        )
        parts = (
            pipeline
            | "parts" >> beam.Create(range(min(count, PARTS)))
            | "compare" >> beam.Map(_compare, folder, paths, settings, seed, beam.pvalue.AsList(assigned))
        )
        _ = collection | "merge" >> beam.Map(_merge, folder, beam.pvalue.AsList(parts))

    similarity = run_stage(
        space,
        "similarity",
        {"clusters": count, "which_to_keep": settings.which_to_keep, "seed": seed},
        [embedded],
        [OneFile("similarity.parquet")],
        compare,
        total=total,
        spread=count > 1,
        summarise=lambda paths: {"rows": read_stats(paths[0])["rows"], "clusters": count},
    )
    for leftover in Path(similarity.folder).glob("part-*"):
        leftover.unlink()
    return embedded, similarity, _choose(space, settings, seed, embedded, similarity)


def _embed(
    space: Workspace,
    settings: SemanticSettings,
    units: Sequence[Unit],
    inputs: Sequence[StageResult],
    dropping: Sequence[StageResult],
) -> StageResult:
    model = embedding_fingerprint(settings.model)
    drops = drop_files(dropping)
    tasks = [EmbedTask(f"embeddings-{unit.name}.arrow", unit, drops) for unit in units]
    handler = EmbeddingHandler(
        settings.model, threads=space.runner.threads, on_rows=ProgressCounter(space.counts("embed"))
    )

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = (
            collection
            | "read rows" >> beam.ParDo(ReadForEmbedding())
            | "run the model" >> RunInference(handler)
            | "write embeddings" >> beam.ParDo(WriteEmbeddings(folder, tasks))
        )

    return run_stage(
        space,
        "embed",
        {k: v for k, v in model.items() if k != "name" or model["revision"]},
        [*inputs, *dropping],
        tasks,
        build,
        total=rows_left(units, dropping),
        summarise=_count_embedded,
        parallel=model["device"] == "cpu",
    )


def _count_embedded(paths: list[str]) -> dict[str, Any]:
    tables = [_mapped(path) for path in paths]
    return {
        "rows": sum(table.num_rows for table in tables),
        "not_embedded": sum(table["embedding"].null_count for table in tables),
        "truncated": sum(int(np.count_nonzero(table["truncated"])) for table in tables),
    }


@lru_cache(maxsize=512)
def _mapped(path: str) -> pa.Table:
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).read_all()


class Embeddings:
    """The rows of embedding files that have a vector, in row order, mapped into memory.

    Args:
        paths: The files, in row order.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        found = [np.flatnonzero(np.asarray(_mapped(path)["embedding"].is_valid())) for path in paths]
        self._position = np.concatenate([np.zeros(0, np.int64), *found])
        self._file = np.repeat(np.arange(len(paths)), [len(positions) for positions in found])
        rows = [_mapped(path)["row"].to_numpy()[at] for path, at in zip(paths, found, strict=True)]
        self.rows = np.concatenate([np.zeros(0, np.int64), *rows])  # global row numbers, ascending

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, indices: Int64s) -> Floats:
        """The vectors of some rows, by their place among those that have one, in the order asked for."""
        parts: dict[int, Floats] = {}
        result: Floats | None = None
        for file in np.unique(self._file[indices]).tolist():
            lists = _mapped(self._paths[file])["embedding"].chunk(0)
            parts[file] = lists.values.to_numpy().reshape(len(lists), -1)
            if result is None:
                result = np.empty((len(indices), parts[file].shape[1]), np.float32)
            here = self._file[indices] == file
            result[here] = parts[file][self._position[indices[here]]]
        return result if result is not None else np.zeros((0, 1), np.float32)

    def ids(self, indices: Int64s) -> list[str]:
        """The ids of some rows, in the order asked for."""
        names = np.empty(len(indices), object)
        for file in np.unique(self._file[indices]).tolist():
            here = self._file[indices] == file
            column = _mapped(self._paths[file])["id"]
            names[here] = column.take(pa.array(self._position[indices[here]])).to_pylist()
        return names.tolist()


def _train(paths: Sequence[str], folder: str, count: int, seed: int) -> str:
    embeddings = Embeddings(paths)
    path = Path(folder) / "part-centroids.npy"
    np.save(path, train_centroids(_sample(embeddings, np.arange(len(embeddings)), count, seed), count))
    return str(path)


def _sample(embeddings: Embeddings, indices: Int64s, count: int, seed: int) -> Floats:
    """The vectors that centroids are trained on: drawn by a hash of (seed, id), in row order."""
    wanted = count * ROWS_PER_CENTROID if count > 1 else len(indices)
    if wanted < len(indices):
        drawn = np.argpartition(id_order(embeddings.ids(indices), seed), wanted)[:wanted]
        indices = indices[np.sort(drawn)]
    return embeddings.vectors(indices)


def _assign(path: str, folder: str, centroids: str) -> str:
    embeddings = Embeddings([path])
    vectors = embeddings.vectors(np.arange(len(embeddings)))
    cluster, cosine = _on_one_thread(assign, vectors, np.load(centroids, allow_pickle=False))
    target = Path(folder) / f"part-assigned-{Path(path).stem}.npy"
    np.save(target, np.stack([cluster.astype(np.float64), cosine.astype(np.float64)]))  # both are exact in it
    return str(target)


def _on_one_thread(function: Any, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes and gives
    """Runs a function with one torch thread: with several, the last bits of its products may differ."""
    with ThreadPoolExecutor(1, initializer=one_torch_thread) as pool:
        return pool.submit(function, *arguments).result()


def _compare(
    part: int,
    folder: str,
    paths: Sequence[str],
    settings: SemanticSettings,
    seed: int,
    assigned: Sequence[str],
) -> str:
    """Compares the rows of every PARTS-th cluster."""
    embeddings = Embeddings(paths)
    cluster, cosine = np.hstack([np.load(path, allow_pickle=False) for path in sorted(assigned)])
    tables = []
    for number in np.unique(cluster[cluster % PARTS == part]).astype(np.int64).tolist():
        members = np.flatnonzero(cluster == number)
        ranks = id_order(embeddings.ids(members), seed)
        members = members[cluster_order(cosine[members].astype(np.float32), ranks, settings.which_to_keep)]
        best, where = _on_one_thread(max_similarity, embeddings.vectors(members))
        first = where < 0
        columns = {
            "row": embeddings.rows[members],
            "id": embeddings.ids(members),
            "cluster_id": np.full(len(members), number, np.int32),
            "cos_to_centroid": cosine[members].astype(np.float32),
            "rank_in_cluster": np.arange(len(members), dtype=np.int32),
            "max_sim_before": pa.array(best, mask=first),
            "nearest_before": pa.array(embeddings.rows[members[where]], mask=first),
        }
        tables.append(pa.table(columns, schema=SIMILARITY_SCHEMA))
    path = Path(folder) / f"part-{part:04d}.parquet"
    write_parquet(path, pa.concat_tables([SIMILARITY_SCHEMA.empty_table(), *tables]), SIMILARITY_SCHEMA)
    return str(path)


def _merge(task: OneFile, folder: str, parts: Sequence[str]) -> str:
    table = pa.concat_tables([SIMILARITY_SCHEMA.empty_table(), *(pq.read_table(path) for path in parts)])
    write_parquet(Path(folder) / task.file, table.sort_by("row"), SIMILARITY_SCHEMA)
    return task.file


def _choose(
    space: Workspace, settings: SemanticSettings, seed: int, embedded: StageResult, similarity: StageResult
) -> StageResult:
    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "choose" >> beam.Map(
            _write_drops, folder, similarity.paths[0], embedded.paths, settings, seed
        )

    stats = embedded.stats
    return run_stage(
        space,
        "semantic",
        settings.model_dump(mode="json", include={"threshold", "keep", "d4"}),
        [similarity],
        [OneFile("semantic.parquet")],
        build,
        total=stats["rows"],
        parallel=False,
        summarise=lambda paths: {
            "rows": stats["rows"],
            "semantic": read_stats(paths[0])["rows"],
            "not_embedded": stats["not_embedded"],
            "truncated": stats["truncated"],
        },
    )


def _write_drops(
    task: OneFile, folder: str, similarity: str, paths: Sequence[str], settings: SemanticSettings, seed: int
) -> str:
    table = pq.read_table(similarity)
    embeddings = Embeddings(paths)
    write_parquet(Path(folder) / task.file, drop_table(table, embeddings, settings, seed), DROP_SCHEMA)
    return task.file


def drop_table(table: pa.Table, embeddings: Embeddings, settings: SemanticSettings, seed: int) -> pa.Table:
    """The rows that are dropped.

    Args:
        table: SIMILARITY_SCHEMA, ascending in row.
        embeddings: The same rows.
        settings: Threshold, fraction or D4.
        seed: The recipe's seed; it breaks ties.

    Returns:
        DROP_SCHEMA, ascending in row. A semantic duplicate names the row that stays for it; a row that D4
        drops as prototypical repeats no other, and names none.
    """
    best = np.asarray(table["max_sim_before"].to_numpy(), np.float32)
    rows = table["row"].to_numpy()
    nearest = np.searchsorted(rows, table["nearest_before"].fill_null(-1).to_numpy())
    ranks = np.argsort(np.argsort(id_order(table["id"].to_pylist(), seed)))
    if settings.d4 is not None:
        drop = drop_to_fraction(best, ranks, settings.d4.dedupe_keep)
    elif settings.keep is not None:
        drop = drop_to_fraction(best, ranks, settings.keep)
    else:
        drop = drop_above(best, DEFAULT_THRESHOLD if settings.threshold is None else settings.threshold)
    stays = representatives(drop, nearest)
    prototypical = np.zeros(len(drop), np.bool_)
    if settings.d4 is not None:
        prototypical[~drop] = _prototypes(embeddings, np.flatnonzero(~drop), settings, ranks, len(drop), seed)
    dropped = np.flatnonzero(drop | prototypical)
    copy = drop[dropped]
    size = np.bincount(stays, minlength=len(drop))
    ids = table["id"].take(pa.array(dropped))
    none = pa.nulls(len(dropped), pa.string())
    columns: dict[str, Any] = {
        "row": rows[dropped],
        "id": ids,
        "stage": ["dedupe"] * len(dropped),
        "kind": ["semantic"] * len(dropped),
        "reason": np.where(copy, "semantic duplicate", "D4: prototypical, like many others").tolist(),
        "duplicate_of": pa.array(table["id"].take(pa.array(stays[dropped])).to_pylist(), mask=~copy),
        "similarity": pa.array(_cosines(embeddings, dropped, stays[dropped]), mask=~copy),
        "cluster_size": pa.array(size[stays[dropped]].astype(np.int32), mask=~copy),
    }
    return pa.table([columns.get(field.name, none) for field in DROP_SCHEMA], schema=DROP_SCHEMA)


def _prototypes(
    embeddings: Embeddings, left: Int64s, settings: SemanticSettings, ranks: Int64s, total: int, seed: int
) -> npt.NDArray[np.bool_]:
    """D4's second step: which of the rows that are left are nearest to the centroids of a new clustering."""
    if settings.d4 is None:
        raise ValueError("semantic: D4 is not asked for")
    count = settings.d4.clusters or cluster_count(len(left))
    centroids = train_centroids(_sample(embeddings, left, count, seed), count)
    parts = [left[start : start + 65_536] for start in range(0, len(left), 65_536)]
    found = [_on_one_thread(assign, embeddings.vectors(part), centroids)[1] for part in parts]
    cosine = np.concatenate([np.zeros(0, np.float32), *found])
    return drop_prototypes(cosine, ranks[left], round(settings.d4.keep * total))


def _cosines(embeddings: Embeddings, left: Int64s, right: Int64s) -> npt.NDArray[np.float64]:
    """True cosine of pairs of rows."""
    result = np.empty(len(left))
    for start in range(0, len(left), 16_384):
        part = slice(start, start + 16_384)
        one, other = embeddings.vectors(left[part]), embeddings.vectors(right[part])
        result[part] = (one.astype(np.float64) * other).sum(axis=1)
    return result
