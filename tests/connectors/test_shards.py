from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import shards
from connectors.shards import (
    group_units,
    plan_units,
    read_rows_between,
    read_stats,
    read_unit,
    write_parquet,
)
from tests.draws import draws

SCHEMA = pa.schema([("row", pa.int64())])


def _write(path: Path, start: int, rows: int) -> str:
    write_parquet(path, pa.table({"row": range(start, start + rows)}, SCHEMA), SCHEMA)
    return str(path)


def test_units_cover_every_row_once_and_in_order(tmp_path: Path) -> None:
    sizes = [5000, 1, 0, 300, 1800, 4096]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    files = [
        _write(tmp_path / f"{i}.parquet", start, size)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    units = plan_units(files)
    read = [value for unit in units for value in read_unit(unit, ["row"])["row"].to_pylist()]
    assert read == list(range(sum(sizes)))
    assert [unit.row_start for unit in units] == [sum(u.rows for u in units[:i]) for i in range(len(units))]
    assert max(unit.rows for unit in units) <= 2048


def test_small_files_share_a_unit(tmp_path: Path) -> None:
    files = [_write(tmp_path / f"{i}.parquet", i * 10, 10) for i in range(30)]
    assert [unit.rows for unit in plan_units(files)] == [300]


def test_a_unit_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [_write(tmp_path / f"{i}.parquet", i * 1000, 1000) for i in range(8)]
    [whole] = plan_units(files, rows=8000)
    monkeypatch.setattr(shards, "UNIT_BYTES", whole.size // 2)
    units = plan_units(files, rows=8000)
    assert [unit.rows for unit in units] == [4000, 4000]
    assert [unit.row_start for unit in units] == [0, 4000]
    assert [len(group) for group in group_units(units, 8000)] == [2]
    assert [len(group) for group in group_units(units, 8000, whole.size // 2)] == [1, 1]


def test_a_shard_that_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    def half_way() -> Iterator[pa.Table]:
        yield pa.table({"row": [1]}, SCHEMA)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_parquet(tmp_path / "x.parquet", half_way(), SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_stats_travel_in_the_footer_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_parquet(tmp_path / name, pa.table({"row": range(10)}, SCHEMA), SCHEMA, {"tokens": 7})
    assert read_stats(tmp_path / "a.parquet") == {"tokens": 7, "rows": 10}
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_rows_between_reads_a_range_of_a_sorted_file(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", 0, 10_000)
    assert read_rows_between(tmp_path / "a.parquet", 2040, 2050)["row"].to_pylist() == list(range(2040, 2050))


@draws(40)
@given(
    st.sets(st.integers(0, 300), max_size=80), st.integers(1, 50), st.integers(0, 300), st.integers(0, 100)
)
def test_rows_between_are_those_of_the_range(rows: set[int], group: int, start: int, size: int) -> None:
    schema = pa.schema([("id", pa.string()), ("row", pa.int64())])
    table = pa.table({"id": [str(row) for row in sorted(rows)], "row": sorted(rows)}, schema)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        with shards.ShardWriter(path, schema, rows=group) as writer:
            writer.write(table)
        wanted = [str(row) for row in sorted(rows) if start <= row < start + size]
        assert read_rows_between(path, start, start + size)["id"].to_pylist() == wanted
        assert read_rows_between(path, start, start + size, ["id"]).to_pydict() == {"id": wanted}


def test_the_footer_of_a_file_is_parsed_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def parse(path: str) -> pq.FileMetaData:
        parsed.append(path)
        return pq.ParquetFile(path).metadata

    monkeypatch.setattr(pq, "read_metadata", parse)
    path = _write(tmp_path / "a.parquet", 0, 9000)
    for start in range(0, 9000, 100):
        assert read_rows_between(path, start, start + 1)["row"].to_pylist() == [start]
    assert len(parsed) == 1
    _write(tmp_path / "a.parquet", 100_000, 5000)
    assert read_rows_between(path, 0, 9000).num_rows == 0
    assert read_rows_between(path, 100_000, 100_002)["row"].to_pylist() == [100_000, 100_001]


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_groups_keep_units_in_order_and_lose_none(sizes: list[int]) -> None:
    from connectors.shards import Unit

    units = [Unit(str(i), 0, size, ()) for i, size in enumerate(sizes)]
    groups = group_units(units, 4096)
    assert [unit for group in groups for unit in group] == units
    assert len(groups) >= 1
