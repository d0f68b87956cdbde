"""Small input files in every kind, and what was read of one."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from connectors.readers import InputFile, InputSpec, find_files, read_examples

ROWS = [{"question": f"q{i}", "answer": f"a{i} é"} for i in range(5)]
GOOD = '{"question": "q", "answer": "a"}'


def only(path: Path, **spec: Any) -> InputFile:  # noqa: ANN401 - the fields of an InputSpec
    [file] = find_files(InputSpec(path=str(path), **spec), path.parent)
    return file


def written(folder: Path, name: str, content: str | bytes) -> InputFile:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return only(path)


def counts(file: InputFile) -> Counter[str]:
    """How many examples, and how many bad rows of each reason."""
    return Counter(
        "example" if item.kind == "example" else item.row["reason"] for item in read_examples(file)
    )


def bad(file: InputFile) -> dict[str, Any]:
    [row] = [item.row for item in read_examples(file) if item.kind == "bad"]
    return row


def answers(file: InputFile) -> list[str]:
    return [item.row["messages"][-1]["content"] for item in read_examples(file) if item.kind == "example"]


def as_jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def as_csv(delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=2)
    return sink.getvalue()


def as_feather() -> bytes:
    sink = io.BytesIO()
    feather.write_feather(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def as_stream() -> bytes:
    table = pa.Table.from_pylist(ROWS)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


BOM = b"\xef\xbb\xbf"
