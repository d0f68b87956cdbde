"""Stages embed, similarity and semantic: which examples mean what another one means.

Embeddings and similarities are stored, and neither depends on the threshold: a new threshold, a new fraction
to keep, or D4 instead of either, is decided from what is there. Tasks read the files of embeddings, mapped
into memory, and hand on file names; no vector crosses a shuffle. A text that could not be embedded is never a
semantic duplicate; it stays, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.shards import Unit, read_array, read_stats, write_array, write_parquet
from connectors.storage import fetched, file_name, join, remove_files
from pipelines.dedupe.centroid_sample import sample
from pipelines.dedupe.semantic_drops import drop_table
from pipelines.dedupe.semantic_settings import SemanticSettings, WhichToKeep
from pipelines.dedupe.semdedup import TILE, cluster_order, max_similarity
from pipelines.dedupe.spherical_kmeans import assign, cluster_count, load_faiss, train_centroids
from pipelines.drops import DROP_SCHEMA, rows_left
from pipelines.embed import EmbeddedRows, embed_rows
from pipelines.failed_rows import check_failed_rows
from pipelines.metrics import StageMetrics
from pipelines.selectors.id_order import id_order
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.models.loading import resolve_device
from scorers.models.scoring import one_torch_thread

_SIMILARITY, _SEMANTIC = StageMetrics("similarity"), StageMetrics("semantic")
SPREAD_ROWS = 100_000  # fewer are compared sooner than worker processes start
PARTS = 64  # tasks that the clusters are spread over
ASSIGNED = np.dtype([("cluster", np.int32), ("cosine", np.float32)])
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
class OneFile:
    """The one file of a stage."""

    file: str


@dataclass(frozen=True)
class Comparison:
    """How the rows of a cluster are compared."""

    which_to_keep: WhichToKeep
    seed: int
    device: str


def semantic_duplicates(
    space: Workspace,
    settings: SemanticSettings,
    seed: int,
    units: Sequence[Unit],
    inputs: Sequence[StageResult],
    dropping: Sequence[StageResult],
    max_failed_fraction: float = 1.0,
) -> tuple[StageResult, StageResult, StageResult]:
    """Finds the rows that mean what another one means, among those that were not dropped before.

    Args:
        space: The run's workspace.
        settings: The `semantic` part of the recipe's `dedupe` section.
        seed: The recipe's seed; it breaks ties.
        units: All examples.
        inputs: The stages that made them.
        dropping: The stages that dropped rows.
        max_failed_fraction: Share of rows that the model may fail on.

    Returns:
        The stages embed, similarity and semantic; the one file of the last lists the rows to drop.

    Raises:
        ValueError: If the model cannot be loaded, or FAISS is needed and missing.
        TooManyFailedRows: If the model failed on too many rows.
    """
    _check_faiss(settings, rows_left(units, dropping))
    embedded = embed_rows(space, settings.model, units, inputs, dropping)
    check_failed_rows(embedded, max_failed_fraction)
    similarity = compare_rows(space, settings, seed, embedded)
    return embedded, similarity, drop_rows(space, settings, seed, embedded, similarity)


def _check_faiss(settings: SemanticSettings, rows: int) -> None:
    """Fails before hours of embedding, and not after."""
    second = settings.d4.clusters if settings.d4 is not None else None
    if max(settings.clusters or cluster_count(rows), second or 1) > 1:
        load_faiss()


def compare_rows(
    space: Workspace, settings: SemanticSettings, seed: int, embedded: StageResult
) -> StageResult:
    """Stage similarity: one file of SIMILARITY_SCHEMA, ascending in row, of the rows that have a vector.

    Its key has nothing of the rule that drops rows. A cluster is compared by one worker, which holds the
    cluster's vectors.
    """
    total = embedded.stats["rows"] - embedded.stats["not_embedded"]
    count = settings.clusters or cluster_count(total)
    how = Comparison(settings.which_to_keep, seed, resolve_device(settings.model.model))

    def build(collection: beam.PCollection, folder: str) -> None:
        paths = embedded.paths
        start = collection.pipeline
        centroids = (
            start | "sample" >> beam.Create([paths]) | "train" >> beam.Map(_train, folder, count, seed)
        )
        assigned = (
            start
            | "embeddings" >> beam.Create(paths)
            | "assign" >> beam.Map(_assign, folder, beam.pvalue.AsSingleton(centroids))
        )
        parts = (
            start
            | "parts" >> beam.Create(range(min(count, PARTS)))
            | "compare" >> beam.Map(_compare, folder, paths, how, beam.pvalue.AsList(assigned))
        )
        _ = collection | "merge" >> beam.Map(_merge, folder, beam.pvalue.AsList(parts))

    similarity = run_stage(
        space,
        "similarity",
        {"clusters": count, "which_to_keep": settings.which_to_keep, "seed": seed},
        [embedded],
        [OneFile("similarity.parquet")],
        build,
        total=total,
        parallel=how.device == "cpu",  # one process owns a GPU
        spread=count > 1 and total > SPREAD_ROWS,
        summarise=lambda paths: {"rows": read_stats(paths[0])["rows"], "clusters": count},
    )
    remove_files(similarity.folder, "part-")
    return similarity


def _train(paths: Sequence[str], folder: str, count: int, seed: int) -> str:
    embedded = EmbeddedRows(paths)
    vectors = sample(embedded, np.arange(len(embedded)), count, seed)
    path = join(folder, "part-centroids.npy")
    write_array(path, train_centroids(vectors, count, seed))
    return path


def _assign(path: str, folder: str, centroids: str) -> str:
    embedded = EmbeddedRows([path])
    vectors = embedded.vectors(np.arange(len(embedded)))
    cluster, cosine = _on_one_thread(assign, vectors, read_array(centroids))
    written = _assigned(folder, path)
    write_array(written, np.rec.fromarrays([cluster, cosine], dtype=ASSIGNED))
    return written


def _assigned(folder: str, path: str) -> str:
    """Where the clusters of the rows of one embedding file are."""
    return join(folder, f"part-assigned-{file_name(path).removesuffix('.arrow')}.npy")


def _on_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - as the function has it
    """Runs a function with one torch thread: with several, the last bits of its products may differ."""
    with ThreadPoolExecutor(1, initializer=one_torch_thread) as pool:
        return pool.submit(function, *arguments).result()


def _compare(part: int, folder: str, paths: Sequence[str], how: Comparison, assigned: Sequence[str]) -> str:
    """Compares the rows of every PARTS-th cluster."""
    del assigned  # the names of files that are there by now
    embedded = EmbeddedRows(paths)
    parts = [read_array(_assigned(folder, path)) for path in paths]
    table = np.concatenate([np.empty(0, ASSIGNED), *parts])
    clusters = np.flatnonzero(np.bincount(table["cluster"], minlength=1))
    tables = (
        _compare_cluster(embedded, table, cluster, how)
        for cluster in clusters[clusters % PARTS == part].tolist()
    )
    path = join(folder, f"part-{part:04d}.parquet")
    with _SIMILARITY.task():
        size = write_parquet(path, tables, SIMILARITY_SCHEMA)
    _SIMILARITY(bytes_written=size)
    return path


def _compare_cluster(
    embedded: EmbeddedRows, assigned: npt.NDArray[np.void], cluster: int, how: Comparison
) -> pa.Table:
    """Rows of SIMILARITY_SCHEMA for one cluster, in the order in which they were compared."""
    members = np.flatnonzero(assigned["cluster"] == cluster)
    _SIMILARITY(rows_compared=len(members), pairs_compared=len(members) * (len(members) - 1) // 2)
    ranks = id_order(embedded.ids(members), how.seed)
    members = members[cluster_order(assigned["cosine"][members], ranks, how.which_to_keep)]
    best, where = _on_one_thread(max_similarity, embedded.vectors(members), TILE, how.device)
    first = where < 0
    columns = {
        "row": embedded.rows[members],
        "id": embedded.ids(members),
        "cluster_id": np.full(len(members), cluster, np.int32),
        "cos_to_centroid": assigned["cosine"][members],
        "rank_in_cluster": np.arange(len(members), dtype=np.int32),
        "max_sim_before": pa.array(best, mask=first),
        "nearest_before": pa.array(embedded.rows[members[where]], mask=first),
    }
    return pa.table(columns, schema=SIMILARITY_SCHEMA)


def _merge(task: OneFile, folder: str, parts: Sequence[str]) -> str:
    table = pa.concat_tables(
        [SIMILARITY_SCHEMA.empty_table(), *(pq.read_table(fetched(path)) for path in parts)]
    )
    write_parquet(join(folder, task.file), table.sort_by("row"), SIMILARITY_SCHEMA)
    return task.file


def drop_rows(
    space: Workspace, settings: SemanticSettings, seed: int, embedded: StageResult, similarity: StageResult
) -> StageResult:
    """Stage semantic: one file of DROP_SCHEMA; its stats are those of `drop_table` and counts of the rows."""

    def build(collection: beam.PCollection, folder: str) -> None:
        arguments = (folder, similarity.paths[0], embedded.paths, settings, seed)
        _ = collection | "choose" >> beam.Map(_write_drops, *arguments)

    stats = embedded.stats
    return run_stage(
        space,
        "semantic",
        settings.rule,
        [similarity],
        [OneFile("semantic.parquet")],
        build,
        total=stats["rows"],
        parallel=False,
        summarise=lambda paths: {
            **read_stats(paths[0]),
            **{name: stats[name] for name in ("rows", "not_embedded", "truncated")},
        },
    )


def _write_drops(
    task: OneFile, folder: str, similarity: str, paths: Sequence[str], settings: SemanticSettings, seed: int
) -> str:
    with _SEMANTIC.task():
        table, stats = drop_table(pq.read_table(fetched(similarity)), EmbeddedRows(paths), settings, seed)
        size = write_parquet(join(folder, task.file), table, DROP_SCHEMA, stats)
    _SEMANTIC(rows_dropped=table.num_rows, bytes_written=size)
    return task.file
