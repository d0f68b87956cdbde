"""Rows of Parquet files and of Arrow files and streams, read batch by batch with pyarrow.

Values that JSON does not have are made into ones it has: NaN and infinities into null, bytes into text (or
base64 where they are not UTF-8), times and decimals into text.
"""

from __future__ import annotations

import base64
import math
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.decompress import BLOCK_BYTES, ByteSource, Compression
from connectors.examples import BadRow
from connectors.lines import MAX_RECORD_BYTES, Row, packing_damage
from connectors.storage import file_bytes, is_remote, open_binary

_BATCH_ROWS = 1024
_BATCH_BYTES = 64 * 1024 * 1024
_MANY_ROWS, _MAX_ROWS_PER_BYTE = 10_000_000, 100
_CORRUPT = {"parquet": "corrupt Parquet file", "arrow": "corrupt Arrow file"}


def table_rows(
    path: str,
    kind: Literal["parquet", "arrow"],
    compression: Compression | None,
    groups: tuple[int, int] | None = None,
) -> Iterator[tuple[int | None, Row, int]]:
    """Rows with their record numbers and the bytes of the stored file read so far (estimated).

    Args:
        path: The file.
        kind: What it holds.
        compression: What it is packed in.
        groups: Row groups of a Parquet file to read, as (first, end); None for all. Record numbers are those
            in the whole file.

    Raises:
        OSError: If the file cannot be opened.
    """
    size = file_bytes(path)
    if size == 0:
        return
    opened = _seekable(path, compression)
    if isinstance(opened, BadRow):
        yield None, opened, size
        return
    done = 0
    try:
        with opened as file:
            if kind == "parquet":
                parquet = pq.ParquetFile(file)
                done = _rows_before(parquet, groups[0] if groups else 0)
                batches = _parquet_batches(parquet, size, groups)
            else:
                batches = _arrow_batches(file)
            for batch, share in batches:
                for number, row in enumerate(record_rows(batch), start=done + 1):
                    yield number, row, int(min(share, 1.0) * size)  # a footer may lie about its rows
                done += batch.num_rows
    # What a damaged file makes pyarrow raise has no common type: names that are not UTF-8, lengths that no
    # memory holds, counts that do not fit an integer.
    except (
        pa.ArrowException,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        OverflowError,
        MemoryError,
    ) as error:
        what = str(error)[:300] or type(error).__name__
        yield None, BadRow(_CORRUPT[kind], f"after row {done:,}: {what}"), size


def _seekable(path: str, compression: Compression | None) -> pa.NativeFile | BadRow:
    """The file as Arrow reads it: from any place. A packed file is unpacked to disk first."""
    if not compression:
        return pa.PythonFile(open_binary(path), "r") if is_remote(path) else pa.OSFile(path)
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the PythonFile
    with ByteSource(path, compression) as source:
        try:
            shutil.copyfileobj(source.stream, unpacked, BLOCK_BYTES)
        except OSError as error:
            unpacked.close()
            return packing_damage(source, error)
    unpacked.seek(0)
    return pa.PythonFile(unpacked, "r")


def row_group_runs(path: str, size: int) -> list[tuple[int, int]]:
    """Runs of row groups of a Parquet file of about `size` bytes before compression, as (first, end).

    No run at all for a file that cannot be read: reading it says why.
    """
    try:
        with pa.PythonFile(open_binary(path), "r") as file:
            footer = pq.ParquetFile(file).metadata
            sizes = [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, OverflowError, MemoryError):
        return []
    runs: list[tuple[int, int]] = []
    first = filled = 0
    for number, own in enumerate(sizes):
        if number > first and filled + own > size:
            runs.append((first, number))
            first, filled = number, 0
        filled += own
    return [*runs, (first, len(sizes))]


def _rows_before(parquet: pq.ParquetFile, group: int) -> int:
    return sum(parquet.metadata.row_group(number).num_rows for number in range(group))


def _parquet_batches(
    parquet: pq.ParquetFile, size: int, chosen: tuple[int, int] | None
) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Record batches of the chosen row groups, and the share of the file's rows read up to the end of each.

    Raises:
        ValueError: If so small a file cannot hold as many rows as it says, but one row a million times.
    """
    rows = parquet.metadata.num_rows
    if rows > _MANY_ROWS and rows > _MAX_ROWS_PER_BYTE * size:
        raise ValueError(f"the file of {size:,} bytes says that it holds {rows:,} rows")
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
    batch_rows = int(max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1))))
    done = 0
    own = None if chosen is None else list(range(*chosen))
    for batch in parquet.iter_batches(batch_size=batch_rows, row_groups=own):
        done += batch.num_rows
        yield batch, done / max(rows, 1)


def _arrow_batches(file: pa.NativeFile) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Record batches, and the share of the file read up to the end of each."""
    size = file.size()
    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number), (number + 1) / reader.num_record_batches
    else:
        for batch in pa.ipc.open_stream(file):
            yield batch, file.tell() / max(size, 1)


def record_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    """The rows of a batch as JSON has them; one that cannot be read is a bad row in its place."""
    try:
        batch.validate(full=True)  # offsets from an untrusted file may point anywhere
        rows = batch.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # UnicodeDecodeError is a ValueError
        if batch.num_rows == 1:
            yield _unreadable(batch)
            return
        for number in range(batch.num_rows):
            yield from record_rows(batch.slice(number, 1))
        return
    # Not `nbytes`: it reads beyond the end of an empty list that has no offsets, which a file may hold.
    may_be_large = batch.get_total_buffer_size() > MAX_RECORD_BYTES
    plain = [
        name for name, kind in zip(batch.schema.names, batch.schema.types, strict=True) if not _is_json(kind)
    ]
    for row in rows:
        if may_be_large and _chars(row) > MAX_RECORD_BYTES:
            yield BadRow("row too large", f"the row is larger than {MAX_RECORD_BYTES:,} bytes")
            continue
        for name in plain:
            row[name] = json_value(row[name])
        yield row


def _chars(value: object) -> int:
    """How long a value is, roughly: its texts, and one for everything else."""
    if isinstance(value, dict):
        return sum(map(_chars, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_chars, value))
    return len(value) if isinstance(value, str | bytes) else 1


def _unreadable(batch: pa.RecordBatch) -> BadRow:
    """Which column of a one-row batch cannot be read, and why."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
            column.to_pylist()
        except UnicodeDecodeError:
            return BadRow("invalid UTF-8", f"column '{name}' holds bytes that are not UTF-8")
        except (pa.ArrowException, ValueError, OverflowError) as error:
            reason = "invalid UTF-8" if "UTF8" in str(error) else "unreadable value"
            return BadRow(reason, f"column '{name}': {str(error)[:200]}")
    return BadRow("unreadable value", "the row cannot be read")


def _is_json(kind: pa.DataType) -> bool:
    """Whether every value of an Arrow type is one that JSON has."""
    types = pa.types
    if types.is_struct(kind):
        return all(_is_json(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    simple = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null)
    return any(is_kind(kind) for is_kind in simple)


def json_value(value: Any) -> Any:  # noqa: ANN401 - anything that a row may hold
    """A value as JSON has it: NaN and infinities null, bytes text or base64, times and decimals text."""
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy and torch
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, str | int) else str(value)
