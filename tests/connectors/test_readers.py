"""Every kind of file gives its rows, under stable ids and in the canonical columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA, conversation_hash
from connectors.readers import read_examples, read_rows
from tests.connectors.files import (
    BOM,
    GOOD,
    ROWS,
    as_csv,
    as_feather,
    as_jsonl,
    as_parquet,
    as_stream,
    counts,
    only,
    written,
)

KINDS: dict[str, tuple[str, bytes]] = {
    "json lines": ("jsonl", as_jsonl()),
    "json lines with a BOM": ("jsonl", BOM + as_jsonl()),
    "json lines with Windows line ends": ("jsonl", as_jsonl().replace(b"\n", b"\r\n")),
    "json lines with blank lines": ("jsonl", b"\n" + as_jsonl().replace(b"\n", b"\n\n")),
    "json lines under .json": ("json", as_jsonl()),
    "json lines with a BOM under .json": ("json", BOM + as_jsonl()),
    "a list": ("json", json.dumps(ROWS).encode()),
    "a list with a BOM": ("json", BOM + json.dumps(ROWS).encode()),
    "a list with a BOM and no ending": ("data", BOM + json.dumps(ROWS).encode()),
    "an indented list": ("json", json.dumps(ROWS, indent=2).encode()),
    "a list under .jsonl": ("jsonl", json.dumps(ROWS, indent=1).encode()),
    "an object of lists": ("json", json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}).encode()),
    "an object with one list": ("json", json.dumps({"data": ROWS}, indent=1).encode()),
    "csv": ("csv", as_csv()),
    "csv with a BOM": ("csv", BOM + as_csv()),
    "csv with semicolons": ("csv", as_csv(";")),
    "tsv": ("tsv", as_csv("\t")),
    "csv without an ending": ("data", as_csv()),
    "parquet": ("parquet", as_parquet()),
    "parquet under .json": ("json", as_parquet()),
    "an arrow file": ("feather", as_feather()),
    "an arrow stream": ("arrow", as_stream()),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_its_rows(name: str, packing: str, tmp_path: Path) -> None:
    ending, content = KINDS[name]
    if packing == ".gz":
        content = gzip.compress(content)
    if packing == ".zst":
        content = zstandard.compress(content)
    file = written(tmp_path, f"x.{ending}{packing}", content)
    assert [row for _, row, _ in read_rows(file)] == ROWS
    assert counts(file) == {"example": len(ROWS)}


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packing_is_told_by_content_and_may_have_several_parts(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = written(tmp_path, "x.jsonl", pack(as_jsonl()) + pack(as_jsonl()))
    assert counts(file) == {"example": 2 * len(ROWS)}


def test_ids_name_source_file_and_line(tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", f"\n{GOOD}\n\n{GOOD}\n")
    assert [item.row["id"] for item in read_examples(file)] == ["x/x.jsonl:00000002", "x/x.jsonl:00000004"]


def test_rows_fit_the_schemas(tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", f"{GOOD}\nnope\n")
    good, wrong = list(read_examples(file))
    assert list(good.row) == EXAMPLE_SCHEMA.names
    assert list(wrong.row) == BAD_ROW_SCHEMA.names
    pa.RecordBatch.from_pylist([good.row], schema=EXAMPLE_SCHEMA)
    pa.RecordBatch.from_pylist([wrong.row], schema=BAD_ROW_SCHEMA)


def test_group_is_the_hash_of_the_prompt_and_content_hash_of_everything(tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", '{"system": "s", "question": "q é", "answer": "a"}\n')
    [item] = read_examples(file)
    assert item.row["group"] == conversation_hash(item.row["messages"][:-1])
    assert item.row["content_hash"] == conversation_hash(item.row["messages"])


def test_a_single_object_that_is_a_row_is_one_row(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert counts(written(tmp_path, "a.json", json.dumps(chat, indent=1))) == {"example": 1}
    assert counts(written(tmp_path, "b.json", GOOD)) == {"example": 1}


def test_positions_grow_to_the_size_of_the_file(tmp_path: Path) -> None:
    for content in (json.dumps(ROWS * 200).encode(), as_jsonl() * 200, as_parquet()):
        file = written(tmp_path, "x", content)
        positions = [position for _, _, position in read_rows(file)]
        assert positions == sorted(positions)
        assert 0 < positions[0] <= positions[-1] <= len(content)
    file = written(tmp_path, "x.json", json.dumps(ROWS * 200))
    half = [position for _, _, position in read_rows(file)][500]
    assert half == pytest.approx(Path(file.path).stat().st_size / 2, rel=0.01)


def test_parquet_values_that_json_lacks_become_ones_it_has(tmp_path: Path) -> None:
    table = pa.table(
        {
            "question": [b"q"],
            "answer": ["a"],
            "score": [float("nan")],
            "blob": [b"\xff"],
            "parts": [[1.5, float("inf")]],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    [item] = read_examples(only(tmp_path / "x.parquet"))
    assert item.row["messages"][0]["content"] == "q"
    assert json.loads(item.row["extra"]) == {"score": None, "blob": "/w==", "parts": [1.5, None]}


def test_parquet_messages_with_empty_columns_are_clean(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "q", "tool_calls": None, "weight": None},
        {"role": "assistant", "content": "a"},
    ]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "x.parquet")
    [item] = read_examples(only(tmp_path / "x.parquet"))
    assert item.row["extra"] is None
