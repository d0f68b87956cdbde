"""Parquet shards: what stages hand to each other, written so that a file is complete or absent.

A reader, or a run that resumes, never sees half a file (connectors/storage.py says how). Contents depend on
the rows alone (no times, no host names): the same rows give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.examples import ROWS_PER_BATCH
from connectors.number_lists import writing
from connectors.storage import fetched, file_names, is_remote, join, open_binary, whole_file, write_text

Int64s = npt.NDArray[np.int64]

STATS_KEY = b"winnow.stats"
UNIT_BYTES = 64 * 2**20  # of the rows of a unit, except for one row group larger than that
NARROW_ROWS = 65_536  # in a row group of a file that is read by row numbers, without texts
FOOTERS = 64  # of such files that a process keeps


@dataclass(frozen=True)
class Unit:
    """A run of consecutive examples, the unit of work, resume and scoring batches.

    Attributes:
        name: File stem for everything made from these rows, sorts in row order.
        row_start: Global number of the first row (0-based position of its id among all examples).
        rows: Number of rows.
        parts: (Parquet file, row group) pairs that hold them, in order.
        size: Bytes of the rows before compression, about.
    """

    name: str
    row_start: int
    rows: int
    parts: tuple[tuple[str, int], ...]
    size: int = 0


def read_unit(unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a unit in id order, only the named columns."""
    tables = []
    for path, group in unit.parts:
        with pq.ParquetFile(fetched(path)) as file:
            tables.append(file.read_row_group(group, columns=list(columns) if columns else None))
    return pa.concat_tables(tables)


def plan_units(files: Iterable[str], rows: int = ROWS_PER_BATCH) -> list[Unit]:
    """Packs the row groups of `files`, in order, into units of at most `rows` rows and UNIT_BYTES.

    Small files share a unit, so that a folder of a thousand short files is not a thousand tiny batches.
    A row group is never split.
    """
    groups: list[tuple[str, int]] = []
    sizes: list[tuple[int, int]] = []
    for path in files:
        meta = read_footer(path)
        for number in range(meta.num_row_groups):
            group = meta.row_group(number)
            groups.append((path, number))
            sizes.append((group.num_rows, group.total_byte_size))
    units: list[Unit] = []
    start = 0
    for first, end in pack_groups(sizes, rows):
        held = sum(own for own, _ in sizes[first:end])
        size = sum(own for _, own in sizes[first:end])
        units.append(Unit(f"{len(units):06d}", start, held, tuple(groups[first:end]), size))
        start += held
    return units


def pack_groups(sizes: Sequence[tuple[int, int]], rows: int = ROWS_PER_BATCH) -> list[tuple[int, int]]:
    """Consecutive row groups packed into units of at most `rows` rows and UNIT_BYTES.

    Args:
        sizes: Rows, and bytes before compression, of each row group.
        rows: Most rows of a unit.

    Returns:
        The (first, end) row groups of each unit.

    Example:
        >>> pack_groups([(1000, 10), (1000, 10), (500, 10), (2048, 2**27), (1, 10)])
        [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    bounds: list[tuple[int, int]] = []
    first = held = filled = 0
    for number, (own_rows, own_size) in enumerate(sizes):
        if number > first and (held + own_rows > rows or filled + own_size > UNIT_BYTES):
            bounds.append((first, number))
            first, held, filled = number, 0, 0
        held += own_rows
        filled += own_size
    return [*bounds, (first, len(sizes))] if len(sizes) > first else bounds


def group_units(units: Sequence[Unit], rows: int, size: int | None = None) -> list[tuple[Unit, ...]]:
    """Consecutive units in groups of about `rows` rows and `size` bytes; never none."""
    groups: list[tuple[Unit, ...]] = []
    current: list[Unit] = []
    held = filled = 0
    for unit in units:
        if current and (held + unit.rows > rows or (size is not None and filled + unit.size > size)):
            groups.append(tuple(current))
            current, held, filled = [], 0, 0
        current.append(unit)
        held += unit.rows
        filled += unit.size
    groups.append(tuple(current))
    return groups


class ShardWriter:
    """Writes one Parquet file whole or not at all; use as a context manager.

    Rows are compressed in row groups (see number_lists.py), without dictionaries: ids, texts and scores
    hardly repeat, and zstd finds what does, in less time and space. The file appears under its name when
    the block ends without an error, and not at all otherwise.

    Args:
        path: Final name; its folder must exist.
        schema: Schema of the file; a file without rows still has it.
        rows: Most rows of a row group.

    Attributes:
        stats: Numbers to keep in the footer, see `write_parquet`.
        bytes: Size of the file, once the block has ended.
    """

    def __init__(self, path: str | Path, schema: pa.Schema, rows: int = ROWS_PER_BATCH) -> None:
        self.path = str(path)
        self.schema = schema
        self.rows = rows
        self.stats: dict[str, Any] = {}
        self.bytes = 0

    def __enter__(self) -> ShardWriter:
        with ExitStack() as opened:
            self._temporary = opened.enter_context(whole_file(self.path))
            self._writer = _writer(self._temporary, self.schema)
            opened.callback(self._writer.close)
            self._opened = opened.pop_all()
        return self

    def write(self, table: pa.Table | pa.RecordBatch) -> None:
        """Appends rows; raises pa.ArrowInvalid when they do not fit the schema."""
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        table = table.cast(self.schema)
        if table.num_rows:  # `datasets` refuses a file whose first row group is empty
            self._writer.write_table(table, row_group_size=self.rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._opened.__exit__(kind, error, trace)
            return
        with self._opened:  # what goes wrong from here on leaves no file either
            if self.stats:
                self._writer.add_key_value_metadata(
                    {STATS_KEY: json.dumps(self.stats, sort_keys=True).encode()}
                )
            self._writer.close()
            with open(self._temporary, "rb") as file:
                os.fsync(file.fileno())
            self.bytes = os.path.getsize(self._temporary)


def _writer(sink: str | pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(sink, schema, use_dictionary=False, **writing(schema))


def group_bytes(batch: pa.RecordBatch) -> int:
    """Bytes before compression of a row group of these rows, as `ShardWriter` would write it."""
    sink = pa.BufferOutputStream()
    with _writer(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return int(pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0).total_byte_size)


def write_parquet(
    path: str | Path,
    tables: pa.Table | Iterable[pa.Table],
    schema: pa.Schema,
    stats: dict[str, Any] | None = None,
) -> int:
    """Writes one Parquet file whole or not at all.

    Args:
        path: Final name; its folder must exist.
        tables: The rows, in order; may be a generator, so that a file larger than memory can be written.
        schema: Schema of the file.
        stats: Numbers about the shard to keep in the footer; read back by `read_stats`. Everything that
            differs between two runs over the same rows (times) must stay out.

    Returns:
        Bytes of the file.
    """
    with ShardWriter(path, schema) as writer:
        for table in [tables] if isinstance(tables, pa.Table) else tables:
            writer.write(table)
        writer.stats = stats or {}
    return writer.bytes


def read_stats(path: str | Path) -> dict[str, Any]:
    """The numbers `write_parquet` kept in a footer, with `rows` added; reads no data."""
    meta = read_footer(path)
    kept = (meta.metadata or {}).get(STATS_KEY)
    return {**(json.loads(kept) if kept else {}), "rows": meta.num_rows}


def write_json(path: str | Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Writes a small JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_footer(path: str | Path) -> pq.FileMetaData:
    """The metadata of a Parquet file; of one in a store only its end is read."""
    if not is_remote(path):
        return pq.read_metadata(path)
    with open_binary(path) as file:
        return pq.read_metadata(pa.PythonFile(file, "r"))


def read_schema(path: str | Path) -> pa.Schema:
    """The schema of a Parquet file, read from its footer."""
    return read_footer(path).schema.to_arrow_schema()


def parquet_files(folder: str | Path) -> list[str]:
    """The Parquet files of a folder in name order, none when it is absent."""
    return [join(str(folder), name) for name in file_names(folder, ".parquet")]


def read_rows_between(
    path: str | Path, start: int, stop: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of a file sorted by its int64 column `row` with start <= row < stop; skips other row groups.

    A process parses the file's footer once: it grows with the file, and so does the number of readings.
    """
    path = fetched(path)
    stat = os.stat(path)
    footer, first, last = _row_ranges(path, stat.st_mtime_ns, stat.st_size)
    groups = np.flatnonzero((first < stop) & (last >= start)).tolist()
    wanted = list(columns) if columns else footer.schema.to_arrow_schema().names
    with pq.ParquetFile(path, metadata=footer) as file:
        table = file.read_row_groups(groups, columns=list({"row": None} | dict.fromkeys(wanted)))
    low, high = np.searchsorted(table["row"].to_numpy(), [start, stop])
    return table.slice(int(low), int(high - low)).select(wanted)


@lru_cache(maxsize=FOOTERS)
def _row_ranges(path: str, *_changed: int) -> tuple[pq.FileMetaData, Int64s, Int64s]:
    """The footer of a file, and the first and last number in the column `row` of each row group."""
    footer = pq.read_metadata(path)
    at = footer.schema.names.index("row")
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    ranges = [group.column(at).statistics if group.num_rows else None for group in groups]
    first = np.array([own.min if own else 0 for own in ranges], np.int64)
    last = np.array([own.max if own else -1 for own in ranges], np.int64)  # no row lies in an empty one
    return footer, first, last


def write_arrow(path: str | Path, table: pa.Table) -> int:
    """Writes one uncompressed Arrow IPC file of one batch, to be memory-mapped, whole or not at all.

    Returns:
        Bytes of the file.
    """
    with whole_file(path) as temporary:
        with pa.OSFile(temporary, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for batch in table.combine_chunks().to_batches(max_chunksize=max(1, table.num_rows)):
                writer.write_batch(batch)
        return os.path.getsize(temporary)


def write_array(path: str | Path, array: npt.NDArray[Any]) -> int:
    """Writes an array (np.save) whole or not at all, as two workers may be given the same work.

    Returns:
        Bytes of the file.
    """
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
        return os.path.getsize(temporary)


def read_array(path: str | Path) -> npt.NDArray[Any]:
    """An array that `write_array` wrote."""
    array: npt.NDArray[Any] = np.load(fetched(path), allow_pickle=False)
    return array
