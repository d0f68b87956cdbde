"""Stages signatures and clusters: which examples are copies of which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.shards import Unit, read_rows_between, read_unit, write_parquet
from pipelines.duplicates import DUPLICATE_SCHEMA, DedupeSettings, signature_schema, signature_table
from pipelines.find_duplicates import FindDuplicates
from pipelines.progress import ProgressCounter
from pipelines.stages import StageResult, Workspace, run_stage

SIGNED_COLUMNS = ["id", "messages", "content_hash"]


@dataclass(frozen=True)
class SignatureTask:
    """One unit to hash."""

    file: str
    unit: Unit


@dataclass(frozen=True)
class ClusterTask:
    """All signatures, joined in one pipeline."""

    file: str


class WriteSignatures(beam.DoFn):
    """Writes the hashes of a unit that duplicates are found by."""

    def __init__(self, folder: str, settings: DedupeSettings, counts: str) -> None:
        self.folder = folder
        self.settings = settings
        self.progress = ProgressCounter(counts)

    def process(self, task: SignatureTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        table = signature_table(read_unit(task.unit, SIGNED_COLUMNS), self.settings, task.unit.row_start)
        write_parquet(Path(self.folder) / task.file, table, signature_schema(self.settings))
        self.progress(rows=task.unit.rows)
        yield task.file


class WriteClusters(beam.DoFn):
    """Writes the table of duplicates."""

    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, table: pa.Table) -> Iterator[str]:
        """Yields the path of the finished file."""
        write_parquet(self.path, table, DUPLICATE_SCHEMA)
        yield self.path


def dedupe(
    space: Workspace, settings: DedupeSettings, units: Sequence[Unit], ingested: StageResult
) -> tuple[StageResult, StageResult]:
    """Finds the duplicates among all examples.

    Returns:
        The stages signatures and clusters; the one file of clusters lists every row to drop.
    """
    total = sum(unit.rows for unit in units)

    def sign(collection: beam.PCollection, folder: str) -> None:
        counts = space.counts("signatures")
        _ = collection | "sign rows" >> beam.ParDo(WriteSignatures(folder, settings, counts))

    signatures = run_stage(
        space,
        "signatures",
        {"minhash": settings.minhash.model_dump() if settings.minhash else None},
        [ingested],
        [SignatureTask(f"signatures-{unit.name}.parquet", unit) for unit in units],
        sign,
        total=total,
        summarise=lambda _: {"rows": total},
    )
    task = ClusterTask("duplicates.parquet")

    def cluster(collection: beam.PCollection, folder: str) -> None:
        _ = (
            collection.pipeline
            | "signature files" >> beam.Create(signatures.paths)
            | "find duplicates" >> FindDuplicates(settings)
            | "write clusters" >> beam.ParDo(WriteClusters(str(Path(folder) / task.file)))
        )

    clusters = run_stage(
        space,
        "clusters",
        settings.model_dump(),
        [signatures],
        [task],
        cluster,
        total=total,
        summarise=lambda paths: _summarise(paths[0], total),
    )
    return signatures, clusters


def _summarise(path: str, rows: int) -> dict[str, Any]:
    kinds = Counter(pq.read_table(path, columns=["kind"])["kind"].to_pylist())
    # The keeper of a cluster is in the table too, without a kind.
    exact, near = kinds["exact"], kinds["near"]
    return {"rows": rows, "duplicates": exact + near, "exact": exact, "near": near, "clusters": kinds[None]}


def copies_in(path: str, unit: Unit) -> pa.Table:
    """The rows of a unit that are dropped as duplicates, in row order, without the keepers of clusters."""
    table = read_rows_between(path, unit.row_start, unit.row_start + unit.rows)
    return table.filter(pc.is_valid(table["duplicate_of"]))


def originals_mask(path: str, unit: Unit) -> npt.NDArray[np.bool_]:
    """Which rows of a unit are not dropped as duplicates, in row order."""
    mask = np.ones(unit.rows, np.bool_)
    mask[copies_in(path, unit)["row"].to_numpy() - unit.row_start] = False
    return mask
