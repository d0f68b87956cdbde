"""What is gathered for a decision, from the files that stages leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.examples import EXAMPLE_SCHEMA
from connectors.number_lists import pack
from connectors.shards import Unit, plan_units, write_parquet
from pipelines.arrays import TokenReader
from pipelines.candidates import add_fields, gather
from pipelines.drops import DROP_SCHEMA
from pipelines.scored import files_by_unit
from pipelines.selectors.base import group_codes
from pipelines.selectors.tokens import TokenBlock, TokenLists
from pipelines.stages import StageResult
from tests.pipelines.selectors.token_rows import by_row

ROWS = 11
DROPPED = (0, 3, 4)
LEFT = [row for row in range(ROWS) if row not in DROPPED]


def nulls(schema: pa.Schema, rows: int, known: dict[str, Any]) -> pa.Table:
    columns = [pa.array(known.get(field.name, [None] * rows), field.type) for field in schema]
    return pa.table(columns, schema)


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    paths = []
    for part, rows in enumerate((range(7), range(7, ROWS))):
        known = {
            "id": [f"row{row:02d}" for row in rows],
            "source": ["toy"] * len(rows),
            "group": [f"group{row // 2}" for row in rows],
            "extra": [f'{{"topic": "{row % 3}", "level": {row}}}' if row % 4 else None for row in rows],
        }
        paths.append(str(tmp_path / f"part-{part}.parquet"))
        tables = nulls(EXAMPLE_SCHEMA, len(rows), known)
        write_parquet(paths[-1], [tables.slice(0, 3), tables.slice(3)], EXAMPLE_SCHEMA)
    return plan_units(paths, rows=4)


def drops(folder: Path) -> str:
    path = folder / "duplicates.parquet"
    write_parquet(path, nulls(DROP_SCHEMA, len(DROPPED), {"row": DROPPED}), DROP_SCHEMA)
    return str(path)


def scores(folder: Path, units: list[Unit], **columns: list[Any]) -> list[str]:
    """A file for each unit, of columns that are given for the rows that are left."""
    table = pa.table({"id": [f"row{row:02d}" for row in LEFT], **columns})
    paths = []
    for unit in units:
        own = [at for at, row in enumerate(LEFT) if unit.row_start <= row < unit.row_start + unit.rows]
        paths.append(str(folder / f"{next(iter(columns))}-{unit.name}.parquet"))
        packed = pack(table.take(pa.array(own, pa.int64())))
        write_parquet(paths[-1], packed, packed.schema)
    return paths


def test_candidates_are_the_rows_that_no_file_drops_with_the_columns_asked_for(
    units: list[Unit], tmp_path: Path
) -> None:
    numbers = [float(row) for row in LEFT]
    one = scores(tmp_path, units, status=["ok"] * len(LEFT), loss=numbers, entropy=numbers)
    two = scores(tmp_path, units, correct=[1.0] * len(LEFT), answer=["4"] * len(LEFT))
    found = gather(units, [drops(tmp_path)], list(zip(one, two, strict=True)), ["loss", "answer"])
    assert found.table.column_names == ["id", "source", "group", "status", "loss", "answer"]
    assert found.table["id"].to_pylist() == [f"row{row:02d}" for row in LEFT]
    assert found.table["loss"].to_pylist() == numbers
    assert found.rows.tolist() == LEFT
    assert found.starts.tolist() == [0, 2, 4, 8]  # units of 3, 4 and 4 rows


def test_a_group_is_stored_once_even_if_it_goes_on_in_the_next_file(
    units: list[Unit], tmp_path: Path
) -> None:
    table = gather(units, [drops(tmp_path)], []).table
    assert table["group"].to_pylist() == [f"group{row // 2}" for row in LEFT]
    (column,) = table["group"].chunks
    assert column.dictionary.to_pylist() == [f"group{at}" for at in range(6)]
    assert group_codes(table).tolist() == [row // 2 for row in LEFT]


def test_a_file_without_a_wanted_column_is_not_read(units: list[Unit], tmp_path: Path) -> None:
    one = scores(tmp_path, units, loss=[0.0] * len(LEFT))
    two = scores(tmp_path, units, answer=["4"] * len(LEFT))
    for path in two[1:]:  # the first one is asked for its columns
        Path(path).unlink()
    found = gather(units, [drops(tmp_path)], list(zip(one, two, strict=True)), ["loss"])
    assert "answer" not in found.table.column_names
    with pytest.raises(FileNotFoundError):
        gather(units, [drops(tmp_path)], list(zip(one, two, strict=True)), ["answer"])


def test_fields_of_the_input_become_columns(units: list[Unit], tmp_path: Path) -> None:
    table = gather(units, [drops(tmp_path)], (), ["extra.topic", "extra.level", "extra.absent"]).table
    assert table["extra.level"].to_pylist() == [float(row) if row % 4 else None for row in LEFT]
    assert table["extra.topic"].to_pylist() == [str(row % 3) if row % 4 else None for row in LEFT]
    assert table["extra.absent"].null_count == len(LEFT)


def test_a_field_that_is_not_a_number_is_no_end_of_the_row() -> None:
    found: dict[str, list[Any]] = {"extra.gold": [], "extra.share": []}
    add_fields(found, pa.chunked_array([['{"gold": "4", "share": NaN}', '{"gold": 7}'], [None]]))
    assert found["extra.gold"] == ["4", 7, None]
    assert np.isnan(found["extra.share"][0])


def test_scores_of_other_rows_are_refused_whichever_file_holds_them(
    units: list[Unit], tmp_path: Path
) -> None:
    one = scores(tmp_path, units, loss=[0.0] * len(LEFT))
    two = scores(tmp_path, units, answer=["4"] * len(LEFT))
    files = list(zip(one, two, strict=True))
    with pytest.raises(ValueError, match="loss-000000.parquet: its ids are not those of the examples"):
        gather(units, [], files, ["loss"])  # without the drops there are other rows
    write_parquet(two[1], pa.table({"id": ["x", "y"], "answer": ["1", "2"]}), pa.schema(
        [("id", pa.string()), ("answer", pa.string())]
    ))  # fmt: skip
    with pytest.raises(ValueError, match="answer-000001.parquet: its ids are not those of"):
        gather(units, [drops(tmp_path)], files, ["loss", "answer"])


def test_without_examples_there_are_no_candidates() -> None:
    found = gather([], [], [], ["loss"])
    assert (found.table.num_rows, found.rows.tolist(), found.starts.tolist()) == (0, [], [0])
    assert {"id", "source", "group"} <= set(found.table.column_names)


def test_files_stand_beside_each_other_by_unit() -> None:
    stages = [StageResult(name, "", "/", (f"{name}0", f"{name}1"), 0.0, {}) for name in "ab"]
    assert files_by_unit(stages, 2) == [("/a0", "/b0"), ("/a1", "/b1")]
    assert files_by_unit([], 2) == [(), ()]


def test_tokens_are_those_of_the_row_in_whatever_file_it_is(units: list[Unit], tmp_path: Path) -> None:
    losses = [[float(row)] * (row % 3) if row != 7 else None for row in LEFT]
    ids = [list(range(row, row + 5)) for row in LEFT]
    at = [list(range(1, 1 + row % 3)) for row in LEFT]
    nll = pa.array(losses, pa.list_(pa.float32()))
    paths = scores(tmp_path, units, token_nll=nll, input_ids=ids, response_at=at)
    (tmp_path / "base").mkdir()
    base = scores(tmp_path / "base", units, token_nll=[[0.5] * (row % 3) for row in LEFT])
    reader = TokenReader({"": tuple(paths), "base": tuple(base)}, np.array([0, 2, 4, 8]))
    rows = np.array([0, 3, 6, 7])  # global rows 1, 6, 9 and 10
    reads = ("token_nll", "token_ids", "base.token_nll")
    parts = [by_row(of_read(reader.read(rows, rows * 10, reads), read)) for read in reads]
    assert {row: [part[row].tolist() for part in parts] for row in parts[0]} == {
        0: [[1.0], [2], [0.5]],
        30: [[], [], []],
        60: [[], [], []],
        70: [[10.0], [11], [0.5]],
    }
    assert list(reader.read(rows[:0], rows[:0], reads)) == []


def of_read(blocks: Iterable[TokenBlock], read: str) -> Iterator[TokenLists]:
    return (TokenLists(block.rows, block.offsets, block.arrays[read]) for block in blocks)


def test_models_that_see_another_number_of_tokens_are_an_error(units: list[Unit], tmp_path: Path) -> None:
    paths = scores(tmp_path, units, token_nll=[[1.0, 2.0]] * len(LEFT))
    (tmp_path / "base").mkdir()
    base = scores(tmp_path / "base", units, token_nll=[[0.5]] * len(LEFT))
    reader = TokenReader({"": tuple(paths), "base": tuple(base)}, np.array([0, 2, 4, 8]))
    rows = np.arange(8)
    with pytest.raises(ValueError, match=r"base.token_nll has another number of tokens"):
        list(reader.read(rows, rows, ("token_nll", "base.token_nll")))
