"""Lists of numbers as bytes, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.number_lists import flat, pack, packed_schema, unpack, unpacked_schema
from connectors.shards import read_schema, write_parquet

VALUES = {
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float16(): st.floats(width=16, allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
}
TABLE = pa.table(
    {
        "id": ["a", "b", "c"],
        "loss": pa.array([[0.5, 2.0], None, []], pa.list_(pa.float32())),
        "at": pa.array([[1], None, []], pa.list_(pa.int32())),
        "tags": pa.array([["x"], [], None], pa.list_(pa.string())),
    }
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    kind, values = draw(st.sampled_from(sorted(VALUES.items(), key=str)))
    row = st.none() | st.lists(values, max_size=4)
    chunks = [pa.array(own, pa.list_(kind)) for own in draw(st.lists(st.lists(row, max_size=5), max_size=3))]
    column = pa.chunked_array(chunks, pa.list_(kind))
    return pa.table({"number": range(len(column)), "values": column})


@given(tables(), st.data())
def test_any_part_of_a_packed_table_is_that_part_of_the_lists(table: pa.Table, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.integers(0, table.num_rows)) for _ in range(2))
    packed = pack(table)
    packed.validate(full=True)
    part = unpack(packed.slice(start, stop - start))
    part.validate(full=True)
    assert part.equals(table.slice(start, stop - start))
    assert unpack(pack(table.slice(start, stop - start))).equals(part)
    offsets, values = flat(packed.slice(start, stop - start), "values")
    rows = table["values"].slice(start, stop - start).to_pylist()
    assert [values[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == [
        row or [] for row in rows
    ]


def test_a_file_gives_back_what_was_packed(tmp_path: Path) -> None:
    path = tmp_path / "packed.parquet"
    write_parquet(path, pack(TABLE), packed_schema(TABLE.schema))
    assert unpack(pq.read_table(path)).equals(TABLE)
    assert unpacked_schema(read_schema(path)).equals(TABLE.schema)


def test_only_lists_of_numbers_are_packed_and_only_a_packed_table_is_unpacked() -> None:
    names = [field.name for field in packed_schema(TABLE.schema) if pa.types.is_large_binary(field.type)]
    assert names == ["loss", "at"]
    assert unpack(TABLE) is TABLE


def test_packed_columns_are_compressed_lightly_and_have_no_statistics(tmp_path: Path) -> None:
    def columns(table: pa.Table) -> dict[str, tuple[str, bool]]:
        write_parquet(tmp_path / "part.parquet", table, table.schema)
        group = pq.read_metadata(tmp_path / "part.parquet").row_group(0)
        own = [group.column(at) for at in range(group.num_columns)]
        return {
            column.path_in_schema.split(".")[0]: (column.compression, column.is_stats_set) for column in own
        }

    packed = columns(pack(TABLE.select(["id", "loss", "at"])))
    assert packed == {"id": ("ZSTD", True), "loss": ("LZ4", False), "at": ("LZ4", False)}
    assert set(columns(TABLE).values()) == {("ZSTD", True)}


def test_bytes_that_are_no_whole_number_of_values_are_refused() -> None:
    field = packed_schema(TABLE.schema).field("loss")
    table = pa.table([pa.array([b"1234", b"123"], pa.large_binary())], pa.schema([field]))
    with pytest.raises(ValueError, match="loss: the bytes of some row are no whole number of float values"):
        unpack(table)
    assert flat(table.slice(0, 1), "loss")[1].tobytes() == b"1234"


def test_null_among_values_is_nan_or_refused() -> None:
    floats = pack(pa.table({"loss": pa.array([[1.5, None]], pa.list_(pa.float16()))}))
    assert np.isnan(flat(floats, "loss")[1]).tolist() == [False, True]
    for values, kind in ([1, None], pa.int32()), ([True, None], pa.bool_()):
        with pytest.raises(ValueError, match="holds null"):
            pack(pa.table({"at": pa.array([values], pa.list_(kind))}))


def test_values_are_not_copied_when_they_are_read_flat() -> None:
    packed = pack(TABLE)
    _, values = flat(packed, "loss")
    held = np.frombuffer(packed["loss"].chunk(0).buffers()[2], np.float32)
    assert np.shares_memory(values, held)
