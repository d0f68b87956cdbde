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
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.decompress import ByteSource, Compression, file_bytes, is_remote, open_binary
from connectors.examples import BadRow
from connectors.lines import MAX_RECORD_BYTES, Row, packing_damage

_BATCH_ROWS = 1024
_BATCH_BYTES = 64 * 1024 * 1024
_CORRUPT = {"parquet": "corrupt Parquet file", "arrow": "corrupt Arrow file"}


def table_rows(
    path: str, kind: Literal["parquet", "arrow"], compression: Compression | None
) -> Iterator[tuple[int | None, Row, int]]:
    """Rows with their record numbers and the bytes of the stored file read so far (estimated).

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
            batches = _parquet_batches(file) if kind == "parquet" else _arrow_batches(file)
            for batch, share in batches:
                for number, row in enumerate(_rows(batch), start=done + 1):
                    yield number, row, int(share * size)
                done += batch.num_rows
    except (pa.ArrowException, OSError, EOFError) as error:
        yield None, BadRow(_CORRUPT[kind], f"after row {done:,}: {str(error)[:300]}"), size


def _seekable(path: str, compression: Compression | None) -> pa.NativeFile | BadRow:
    """The file as Arrow reads it: from any place. A packed file is unpacked to disk first."""
    if not compression:
        return pa.PythonFile(open_binary(path), "r") if is_remote(path) else pa.OSFile(path)
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the PythonFile
    with ByteSource(path, compression) as source:
        try:
            shutil.copyfileobj(source.stream, unpacked)
        except OSError as error:
            unpacked.close()
            return packing_damage(source, error)
    unpacked.seek(0)
    return pa.PythonFile(unpacked, "r")


def _parquet_batches(file: pa.NativeFile) -> Iterator[tuple[pa.RecordBatch, float]]:
    """Record batches, and the share of the file's rows up to the end of each."""
    parquet = pq.ParquetFile(file)
    rows = parquet.metadata.num_rows
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
    size = int(max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1))))
    done = 0
    for batch in parquet.iter_batches(batch_size=size):
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


def _rows(batch: pa.RecordBatch) -> Iterator[Row]:
    try:
        batch.validate(full=True)  # offsets from an untrusted file may point anywhere
        rows = batch.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):  # UnicodeDecodeError is a ValueError
        if batch.num_rows == 1:
            yield _unreadable(batch)
            return
        for number in range(batch.num_rows):
            yield from _rows(batch.slice(number, 1))
        return
    too_large = batch.nbytes > MAX_RECORD_BYTES
    plain = [
        name for name, kind in zip(batch.schema.names, batch.schema.types, strict=True) if not _is_json(kind)
    ]
    for number, row in enumerate(rows):
        if too_large and batch.slice(number, 1).nbytes > MAX_RECORD_BYTES:
            yield BadRow("row too large", f"the row is larger than {MAX_RECORD_BYTES:,} bytes")
            continue
        for name in plain:
            row[name] = _json_value(row[name])
        yield row


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


def _json_value(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, str | int) else str(value)
