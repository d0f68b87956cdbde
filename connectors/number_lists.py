"""Columns of lists of numbers: as arrays, and as bytes in the files that stages hand to each other.

Parquet decodes each value of a list with the levels that say where lists begin. A row's values in one piece,
as bytes, are read several times as fast, and one million rows have sixty million tokens. What a run publishes
holds lists; only its own work folder holds these.

The type of the values stands in the metadata of the field. They are little-endian, booleans one byte each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

VALUES = b"winnow.values"  # in the metadata of a packed field: the type of its values
MOST_VALUES = 2**31 - 1  # in a column of lists
_NUMPY: dict[pa.DataType, type[np.generic]] = {
    pa.bool_(): np.bool_,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.float16(): np.float16,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}
_TYPES = {str(kind): kind for kind in _NUMPY}


def numpy_type(kind: pa.DataType) -> np.dtype[Any]:
    """The type of numbers in numpy; `to_pandas_dtype` of Arrow needs pandas, which winnow does not."""
    return np.dtype(_NUMPY[kind])


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array, without a copy where it is one already."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def offsets_of(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Where rows of these lengths begin, one after the other, and where the last one ends.

    Example:
        >>> offsets_of(np.array([2, 0, 3])).tolist()
        [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flat_lists(lists: pa.ChunkedArray | pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Lists of numbers as offsets, shape (n + 1,), and values, row after row; null is an empty row.

    Example:
        >>> offsets, values = flat_lists(pa.chunked_array([[[1, 2], None], [[3]]]))
        >>> offsets.tolist(), values.tolist()
        ([0, 2, 2, 3], [1, 2, 3])
    """
    whole = one_chunk(lists)
    lengths = pc.fill_null(pc.list_value_length(whole), 0).to_numpy(zero_copy_only=False)
    return offsets_of(lengths), whole.flatten().to_numpy(zero_copy_only=False)


def packed_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with each field of lists of numbers as bytes."""
    return pa.schema(map(_packed_field, schema), schema.metadata)


def unpacked_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with each packed field as lists again."""
    return pa.schema(map(_unpacked_field, schema), schema.metadata)


def writing(schema: pa.Schema) -> dict[str, Any]:
    """How `ParquetWriter` is to write a file: packed columns by LZ4 and without statistics, all else by zstd.

    zstd makes losses 8 % and token ids 28 % smaller still, and takes two to three times as long to read them.
    The least and the greatest row of bytes say nothing, and make a score file's footer 1.4 times as long.
    """
    packed = {field.name for field in schema if _values_of(field) is not None}
    if not packed:
        return {"compression": "zstd"}
    return {
        "compression": {name: "lz4" if name in packed else "zstd" for name in schema.names},
        "write_statistics": [name for name in schema.names if name not in packed],
    }


def pack(table: pa.Table) -> pa.Table:
    r"""The table with each column of lists of numbers as bytes; a row that is null stays null.

    Raises:
        ValueError: If null stands among integers or booleans; among floats it becomes NaN.

    Example:
        >>> table = pa.table({"loss": pa.array([[0.5], [], None], pa.list_(pa.float32()))})
        >>> pack(table)["loss"].to_pylist(), unpack(pack(table))["loss"].to_pylist()
        ([b'\x00\x00\x00?', b'', None], [[0.5], [], None])
    """
    schema = packed_schema(table.schema)
    columns = [
        column if field.type == column.type else _bytes(one_chunk(column))
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def unpack(table: pa.Table) -> pa.Table:
    """The table with its packed columns as lists again; other columns stay as they are.

    Raises:
        ValueError: If the bytes of some row are no whole number of values.
    """
    if not any(map(_values_of, table.schema)):
        return table
    schema = unpacked_schema(table.schema)
    columns = [
        column if field.type == column.type else _lists(table, field.name, field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _packed_field(field: pa.Field) -> pa.Field:
    if not (pa.types.is_list(field.type) and str(field.type.value_type) in _TYPES):
        return field
    return pa.field(field.name, pa.large_binary(), metadata={VALUES: str(field.type.value_type)})


def _unpacked_field(field: pa.Field) -> pa.Field:
    kind = _values_of(field)
    return field if kind is None else pa.field(field.name, pa.list_(kind))


def _values_of(field: pa.Field) -> pa.DataType | None:
    return _TYPES.get((field.metadata or {}).get(VALUES, b"").decode())


def _bytes(lists: pa.Array) -> pa.Array:
    offsets, values = flat_lists(lists)
    kind = lists.type.value_type
    if values.dtype != numpy_type(kind):  # numpy has no null among integers
        raise ValueError(f"a list of {kind} holds null, and bytes cannot say that")
    return packed_values(offsets, values, lists.is_valid().to_numpy(zero_copy_only=False), kind)


def packed_values(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    kind: pa.DataType,
) -> pa.Array:
    """A packed column.

    Args:
        offsets: Where the values of each row begin, and where the last ones end, shape (n + 1,); from 0.
        values: Row after row, shape (offsets[-1],).
        valid: Which rows are not null, shape (n,); those that are have no values.
        kind: The type that the column's field declares; values of another are cast.
    """
    own = np.ascontiguousarray(values, numpy_type(kind))
    buffers = [pa.array(valid).buffers()[1], pa.py_buffer(offsets * own.itemsize), pa.py_buffer(own)]
    return pa.Array.from_buffers(pa.large_binary(), len(valid), buffers)


def flat(table: pa.Table, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """A packed column as offsets, shape (n + 1,), and values, row after row; null is an empty row.

    The values are those of the table, not a copy, where it is in one piece.

    Raises:
        ValueError: If the bytes of some row are no whole number of values.

    Example:
        >>> offsets, values = flat(pack(pa.table({"at": [[1, 2], None, [3]]})), "at")
        >>> offsets.tolist(), values.tolist()
        ([0, 2, 2, 3], [1, 2, 3])
    """
    column, kind = one_chunk(table[name]), _values_of(table.field(name))
    if kind is None:
        raise ValueError(f"{name} is no packed column: this is a fault of winnow; please report it")
    own = numpy_type(kind)
    if not len(column):
        return np.zeros(1, np.int64), np.zeros(0, own)
    _, held, data = column.buffers()
    ends = np.frombuffer(held, np.int64)[column.offset : column.offset + len(column) + 1]
    offsets, broken = np.divmod(ends - ends[0], own.itemsize)
    if broken.any():
        raise ValueError(f"{name}: the bytes of some row are no whole number of {kind} values")
    if not offsets[-1]:
        return offsets, np.zeros(0, own)
    return offsets, np.frombuffer(data, own, int(offsets[-1]), int(ends[0]))


def _lists(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    offsets, values = flat(table, name)
    if offsets[-1] > MOST_VALUES:
        raise ValueError(f"{name}: {offsets[-1]:,} values at a time, at most {MOST_VALUES:,} can be read")
    is_null = one_chunk(table[name]).is_null()
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), kind, mask=is_null)
