"""Parquet shards: what stages hand to each other, written so that a file is complete or absent.

A shard is written under a temporary name in its own folder and renamed when it is whole, so a reader, or a
run that resumes, never sees half a file. Contents depend on the rows alone (no times, no host names): the
same rows give the same bytes.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.examples import ROWS_PER_BATCH

STATS_KEY = b"winnow.stats"


@dataclass(frozen=True)
class Unit:
    """A run of consecutive examples, the unit of work, resume and scoring batches.

    Attributes:
        name: File stem for everything made from these rows, sorts in row order.
        row_start: Global number of the first row (0-based position of its id among all examples).
        rows: Number of rows.
        parts: (Parquet file, row group) pairs that hold them, in order.
    """

    name: str
    row_start: int
    rows: int
    parts: tuple[tuple[str, int], ...]


def read_unit(unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a unit in id order, only the named columns."""
    tables = []
    for path, group in unit.parts:
        with pq.ParquetFile(path) as file:
            tables.append(file.read_row_group(group, columns=list(columns) if columns else None))
    return pa.concat_tables(tables)


def plan_units(files: Iterable[str], rows: int = ROWS_PER_BATCH) -> list[Unit]:
    """Packs the row groups of `files`, in order, into units of at most `rows` rows.

    Small files share a unit, so that a folder of a thousand short files is not a thousand tiny batches.
    A row group is never split.
    """
    units: list[Unit] = []
    parts: list[tuple[str, int]] = []
    start = size = 0

    def close() -> None:
        nonlocal parts, start, size
        if parts:
            units.append(Unit(f"{len(units):06d}", start, size, tuple(parts)))
        parts, start, size = [], start + size, 0

    for path in files:
        meta = pq.read_metadata(path)
        for group in range(meta.num_row_groups):
            count = meta.row_group(group).num_rows
            if size + count > rows:
                close()
            parts.append((path, group))
            size += count
    close()
    return units


def group_units(units: Sequence[Unit], rows: int) -> list[tuple[Unit, ...]]:
    """Consecutive units in groups of about `rows` rows; at least one group, possibly empty."""
    groups: list[tuple[Unit, ...]] = []
    current: list[Unit] = []
    size = 0
    for unit in units:
        if current and size + unit.rows > rows:
            groups.append(tuple(current))
            current, size = [], 0
        current.append(unit)
        size += unit.rows
    groups.append(tuple(current))
    return groups


class ShardWriter:
    """Writes one Parquet file whole or not at all; use as a context manager.

    Rows are zstd-compressed in row groups of at most 2,048, without dictionaries: ids, texts and scores
    hardly repeat, and zstd finds what does, in less time and space. The file appears under its name when
    the block ends without an error, and not at all otherwise.

    Args:
        path: Final name; its folder must exist.
        schema: Schema of the file; a file without rows still has it.
    """

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        self.path = Path(path)
        self.schema = schema
        self.stats: dict[str, Any] = {}
        self._temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.tmp")

    def __enter__(self) -> ShardWriter:
        self._writer = pq.ParquetWriter(
            self._temporary, self.schema, compression="zstd", use_dictionary=False
        )
        return self

    def write(self, table: pa.Table | pa.RecordBatch) -> None:
        """Appends rows; raises pa.ArrowInvalid when they do not fit the schema."""
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        self._writer.write_table(table.cast(self.schema), row_group_size=ROWS_PER_BATCH)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None and self.stats:
                self._writer.add_key_value_metadata(
                    {STATS_KEY: json.dumps(self.stats, sort_keys=True).encode()}
                )
            self._writer.close()
            if error is None:
                with self._temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def write_parquet(
    path: str | Path,
    tables: pa.Table | Iterable[pa.Table],
    schema: pa.Schema,
    stats: dict[str, Any] | None = None,
) -> None:
    """Writes one Parquet file whole or not at all.

    Args:
        path: Final name; its folder must exist.
        tables: The rows, in order; may be a generator, so that a file larger than memory can be written.
        schema: Schema of the file.
        stats: Numbers about the shard to keep in the footer; read back by `read_stats`. Everything that
            differs between two runs over the same rows (times) must stay out.
    """
    with ShardWriter(path, schema) as writer:
        for table in [tables] if isinstance(tables, pa.Table) else tables:
            writer.write(table)
        writer.stats = stats or {}


def read_stats(path: str | Path) -> dict[str, Any]:
    """The numbers `write_parquet` kept in a footer, with `rows` added; reads no data."""
    meta = pq.read_metadata(path)
    kept = (meta.metadata or {}).get(STATS_KEY)
    return {**(json.loads(kept) if kept else {}), "rows": meta.num_rows}


def write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Writes a small JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a small text file, as UTF-8, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def parquet_files(folder: str | Path) -> list[Path]:
    """The Parquet files of a folder in name order, none when it is absent."""
    return sorted(Path(folder).glob("*.parquet"))


def read_rows_between(
    path: str | Path, start: int, stop: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of a file sorted by its int64 column `row` with start <= row < stop; skips other row groups."""
    return pq.read_table(
        path, columns=list(columns) if columns else None, filters=[("row", ">=", start), ("row", "<", stop)]
    )


def write_arrow(path: str | Path, table: pa.Table) -> None:
    """Writes one uncompressed Arrow IPC file of one batch, to be memory-mapped, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for batch in table.combine_chunks().to_batches(max_chunksize=max(1, table.num_rows)):
                writer.write_batch(batch)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
