"""Stage embed: a vector for every example that no stage before dropped, and reading the vectors back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.ml.inference.base import RunInference

from connectors.readers import read_target
from connectors.shards import STATS_KEY, Unit, read_unit, write_arrow
from connectors.storage import fetched, join
from pipelines.drops import drop_files, left_mask, rows_left
from pipelines.failed_rows import sum_stats, warn_of_rows
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.models.embedding import embedding_fingerprint, load_embedder
from scorers.models.embedding_handler import EmbeddingHandler, embed_examples
from scorers.models.fingerprint import as_known
from scorers.models.handler import ScoredBatch, ScoringBatch
from scorers.models.settings import EmbeddingSettings

Floats = npt.NDArray[np.float32]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbedTask:
    """One unit to embed."""

    file: str
    unit: Unit
    drops: tuple[str, ...]


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

    def __init__(self, folder: str, stage: str, tasks: Sequence[EmbedTask]) -> None:
        self.folder = folder
        self.metrics = StageMetrics(stage)
        self.tasks = {task.file: task for task in tasks}

    def process(self, batch: ScoredBatch) -> Iterator[str]:
        """Yields the name of the finished file."""
        task = self.tasks[batch.unit]
        rows = task.unit.row_start + np.flatnonzero(left_mask(task.drops, task.unit))
        table = pa.Table.from_batches([batch.scores]).add_column(0, "row", pa.array(rows, pa.int64()))
        stats = {
            key: value for key, value in batch.stats.items() if key != "seconds"
        }  # differs from run to run
        table = table.replace_schema_metadata({STATS_KEY: json.dumps(stats, sort_keys=True)})
        size = write_arrow(join(self.folder, batch.unit), table)
        warn_of_rows(batch.unit, stats)
        self.metrics.took(batch.stats["seconds"])
        counted = {
            f"rows_{name}": batch.stats[name] for name in ("embedded", "not_embedded", "truncated", "failed")
        }
        self.metrics(bytes_written=size, milliseconds_model=1000 * batch.stats["seconds"], **counted)
        yield batch.unit


def embed_rows(
    space: Workspace,
    settings: EmbeddingSettings,
    units: Sequence[Unit],
    inputs: Sequence[StageResult],
    dropping: Sequence[StageResult],
    name: str = "embed",
) -> StageResult:
    """Stage embed: one Arrow file of row, id, embedding and truncated for each unit.

    Args:
        space: The run's workspace.
        settings: The model.
        units: All examples.
        inputs: The stages that made them.
        dropping: The stages that dropped rows.
        name: Of the stage.

    Raises:
        ValueError: If the model cannot be loaded.
    """
    model = embedding_fingerprint(settings)
    drops = drop_files(dropping)
    tasks = [EmbedTask(f"embeddings-{unit.name}.arrow", unit, drops) for unit in units]
    handler = EmbeddingHandler(
        as_known(settings, model), threads=space.runner.threads, on_rows=ProgressCounter(space.counts(name))
    )

    hints = space.runner.model_hints(model["device"])

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = (
            collection
            | "read rows" >> beam.ParDo(ReadForEmbedding())
            | "run the model" >> RunInference(handler).with_resource_hints(**hints)
            | "write embeddings" >> beam.ParDo(WriteEmbeddings(folder, name, tasks))
        )

    return run_stage(
        space,
        name,
        {k: v for k, v in model.items() if k != "name" or model["revision"]},
        [*inputs, *dropping],
        tasks,
        build,
        total=rows_left(units, dropping),
        summarise=_count_embedded,
        parallel=model["device"] == "cpu",
    )


def embed_file(path: str, settings: EmbeddingSettings) -> Floats:
    """The vectors of the examples of a file, float32, shape (examples, dimensions), in order.

    Raises:
        ValueError: If there is no such file, a row is unreadable, or no example can be embedded.
    """
    examples = read_target(path)
    vectors = embed_examples(load_embedder(settings), examples)[0].column("embedding").drop_null()
    if not len(vectors):
        raise ValueError(f"{path}: none of its {examples.num_rows:,} examples can be embedded")
    values: Floats = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    return values


def _count_embedded(paths: list[str]) -> dict[str, Any]:
    tables = [mapped(path) for path in paths]
    found = sum_stats(json.loads((table.schema.metadata or {}).get(STATS_KEY, b"{}")) for table in tables)
    return {
        "rows": sum(table.num_rows for table in tables),
        "not_embedded": sum(table["embedding"].null_count for table in tables),
        "truncated": sum(int(np.count_nonzero(table["truncated"])) for table in tables),
        "failed": found.get("failed", 0),
        "message": found["message"],
        "example": found["example"],
    }


@lru_cache(maxsize=4096)
def mapped(path: str) -> pa.Table:
    """An uncompressed Arrow file; its columns take memory only where they are read."""
    with pa.memory_map(fetched(path)) as source:
        return pa.ipc.open_file(source).read_all()  # of one batch, as connectors.shards.write_arrow makes it


class EmbeddedRows:
    """The rows that have a vector, numbered 0, 1, 2 and so on in row order; 16 bytes of memory for each.

    Args:
        paths: Files with columns row, id and embedding (null where there is none), in row order.

    Attributes:
        rows: Global row numbers, ascending.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        found = [np.flatnonzero(mapped(path)["embedding"].is_valid().to_numpy()) for path in paths]
        self._position = np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int32)
        self._file = np.repeat(np.arange(len(paths), dtype=np.int32), [len(at) for at in found])
        rows = [mapped(path)["row"].to_numpy()[at] for path, at in zip(paths, found, strict=True)]
        self.rows: Int64s = np.concatenate([np.zeros(0, np.int64), *rows])

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, numbers: Int64s) -> Floats:
        """The vectors of some rows, in the order asked for, float32, shape (n, dimensions)."""
        result = np.zeros((0, 1), np.float32)
        for path, places, positions in self._by_file(numbers):
            lists = mapped(path)["embedding"].chunk(0)
            values = lists.values.to_numpy().reshape(len(lists), -1)
            if not len(result):
                result = np.empty((len(numbers), values.shape[1]), np.float32)
            result[places] = values[positions]
        return result

    def ids(self, numbers: Int64s) -> list[str]:
        """The ids of some rows, in the order asked for."""
        names = np.empty(len(numbers), object)
        for path, places, positions in self._by_file(numbers):
            names[places] = mapped(path)["id"].take(pa.array(positions)).to_pylist()
        return names.tolist()

    def _by_file(self, numbers: Int64s) -> Iterator[tuple[str, Int64s, Int32s]]:
        """For each file with any of the rows: its path, places among `numbers`, positions in the file."""
        files = self._file[numbers]
        order = np.argsort(files, kind="stable")
        found, starts = np.unique(files[order], return_index=True)
        for file, places in zip(found.tolist(), np.split(order, starts[1:]), strict=False):
            yield self._paths[file], places, self._position[numbers[places]]
