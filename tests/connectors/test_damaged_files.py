"""Every way a file or a line can be damaged: one bad row with a reason, and the rest goes on."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from connectors import json_rows, lines
from connectors.json_list import ListElements
from connectors.readers import InputFile, read_examples, read_rows
from connectors.sniff import Kind
from tests.connectors.files import (
    BOM,
    GOOD,
    ROWS,
    answers,
    as_feather,
    as_parquet,
    as_stream,
    bad,
    counts,
    only,
    written,
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'question': 1}", "not JSON"),
        (b'{"question": "q", "answer": "a"', "not JSON"),
        (b'{"question": "\xff", "answer": "a"}', "invalid UTF-8"),
        (b'{"question": "\\ud800", "answer": "a"}', "invalid Unicode"),
        (b'["question"]', "not an object"),
        (b"7", "not an object"),
        (b'{"question": "q"}', "missing response"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_a_bad_line_is_one_bad_row_and_the_rest_goes_on(line: bytes, reason: str, tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    assert counts(file) == {"example": 2, reason: 1}
    row = bad(file)
    assert row["row"] == 2
    assert row["path"] == file.path
    assert row["excerpt"]
    assert len(row["excerpt"]) <= 300


def test_deep_nesting_that_json_allows_is_a_bad_row_or_an_example(tmp_path: Path) -> None:
    for depth in (900, 1000, 1020):
        nested = "[" * depth + "]" * depth
        file = written(tmp_path, "x.jsonl", f'{{"question": "q", "answer": "a", "x": {nested}}}\n{GOOD}\n')
        assert sum(counts(file).values()) == 2


def test_nan_and_infinity_are_read_as_null(tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", '{"question": "q", "answer": "a", "s": NaN, "t": 1e999}')
    [item] = read_examples(file)
    assert json.loads(item.row["extra"]) == {"s": None, "t": None}


def test_nul_characters_are_kept(tmp_path: Path) -> None:
    assert answers(written(tmp_path, "x.jsonl", '{"question": "q", "answer": "a\\u0000b"}')) == ["a\0b"]


def test_a_byte_order_mark_in_the_middle_is_no_fault(tmp_path: Path) -> None:
    assert counts(written(tmp_path, "x.jsonl", f"{GOOD}\n".encode() + BOM + GOOD.encode())) == {"example": 2}


def test_a_row_that_lacks_what_the_rows_before_had_says_so(tmp_path: Path) -> None:
    row = bad(written(tmp_path, "x.jsonl", '{"instruction": "q", "output": "a"}\n{"instruction": "q"}\n'))
    assert row["reason"] == "missing response"
    assert "wanted field 'output', as in the rows before" in row["detail"]


def test_a_line_that_is_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 100)
    long = json.dumps({"question": "q" * 3_000_000, "answer": "a"})
    assert counts(written(tmp_path, "x.jsonl", f"{GOOD}\n{long}\n{GOOD}\n")) == {
        "example": 2,
        "row too large": 1,
    }
    rows = f"question,answer\n{'q' * 200},a\nq,a\n"
    assert counts(written(tmp_path, "x.csv", rows)) == {"example": 1, "row too large": 1}


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.jsonl", b""), ("x.json", b"[]"), ("x.json", b" \n"), ("x.csv", b""), ("x.csv", b"question,answer\n"),
     ("x.parquet", b""), ("x.arrow", b""), ("x.jsonl", BOM), ("x.jsonl.gz", gzip.compress(b"", mtime=0))],
)  # fmt: skip
def test_an_empty_file_is_one_bad_row(name: str, content: bytes, tmp_path: Path) -> None:
    row = bad(written(tmp_path, name, content))
    assert (row["reason"], row["row"]) == ("empty file", None)


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "x.parquet")
    assert counts(only(tmp_path / "x.parquet")) == {"empty file": 1}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_truncated_list_keeps_the_rows_before_the_cut(indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=indent)
    for cut in range(1, len(text) - 1):
        read = counts(written(tmp_path, "x.json", text[:cut]))
        whole = text[:cut].count("}")
        assert read == Counter({"example": whole, "truncated JSON list": 1}), text[:cut]


def test_a_damaged_element_of_an_indented_list_is_one_bad_row(tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=2).replace('"answer": "a2', '"answer": a2')
    file = written(tmp_path, "x.json", text)
    assert counts(file) == {"example": 4, "not JSON": 1}
    assert bad(file)["row"] == 3


def test_a_damaged_element_without_lines_says_how_much_is_not_read(tmp_path: Path) -> None:
    file = written(tmp_path, "x.json", json.dumps(ROWS).replace('"q1"', "q1"))
    assert counts(file) == {"example": 1, "malformed JSON list": 1}
    assert "characters, is not read" in bad(file)["detail"]


def test_a_list_with_nan_bad_bytes_and_other_values_keeps_its_good_rows(tmp_path: Path) -> None:
    content = f'[{GOOD}, {{"question": "q", "answer": "a", "x": NaN}}, 5, '.encode()
    content += b'{"question": "\xff", "answer": "a"}, {"question": "\\udc80", "answer": "a"}]'
    read = counts(written(tmp_path, "x.json", content))
    assert read == {"example": 2, "not an object": 1, "invalid UTF-8": 1, "invalid Unicode": 1}


def test_text_after_a_list_is_reported(tmp_path: Path) -> None:
    assert counts(written(tmp_path, "x.json", f"[{GOOD}]\n[{GOOD}]")) == {
        "example": 1,
        "text after the JSON list": 1,
    }


@pytest.mark.parametrize("text", ['{"a": {"b": 1}, "c": 2}', "{\n oops", "hello"])
def test_a_json_file_that_holds_no_rows_is_one_bad_row(text: str, tmp_path: Path) -> None:
    row = bad(written(tmp_path, "x.json", text))
    assert row["row"] is None
    assert row["reason"] in ("not a table of rows", "not a JSON file")


def test_a_list_too_big_to_read_at_once_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "MAX_JSON_BYTES", 50)
    monkeypatch.setattr(json_rows, "_CHUNK_BYTES", 7)
    for content in (json.dumps(ROWS, ensure_ascii=False).encode(), gzip.compress(json.dumps(ROWS).encode())):
        assert [row for _, row, _ in read_rows(written(tmp_path, "x.json", content))] == ROWS
    assert counts(written(tmp_path, "x.json", json.dumps({"data": ROWS}))) == {"file too large": 1}


def test_csv_records_of_the_wrong_shape_are_bad_rows(tmp_path: Path) -> None:
    text = b'question,answer\nq,a\nq,a,x\n"q" x,a\nq\n\n"two\nlines",a\n\xff,a\nq,a\n'
    file = written(tmp_path, "x.csv", text)
    assert counts(file) == {"example": 3, "wrong number of columns": 2, "not CSV": 1, "invalid UTF-8": 1}
    assert [item.row["row"] for item in read_examples(file) if item.kind == "bad"] == [2, 3, 4, 6]


def test_a_quote_that_is_never_closed_is_reported(tmp_path: Path) -> None:
    row = bad(written(tmp_path, "x.csv", 'question,answer\nq,a\n"q,a\nq,a\n'))
    assert row["reason"] == "not CSV"
    assert "never closed" in row["detail"]


def test_doubled_column_names_are_refused(tmp_path: Path) -> None:
    assert counts(written(tmp_path, "x.csv", "question,answer,answer\nq,a,b\n")) == {"unusable CSV header": 1}


def test_csv_cells_may_be_long(tmp_path: Path) -> None:
    assert counts(written(tmp_path, "x.csv", f"question,answer\n{'q' * 500_000},a\n")) == {"example": 1}


@pytest.mark.parametrize(
    ("name", "content"), [("x.parquet", as_parquet()), ("x.arrow", as_stream()), ("y.arrow", as_feather())]
)
def test_a_corrupt_table_is_a_bad_row(name: str, content: bytes, tmp_path: Path) -> None:
    for damaged in (content[: len(content) // 2], content[:20], content[:-30]):
        read = counts(written(tmp_path, name, damaged))
        corrupt = read["corrupt Parquet file"] + read["corrupt Arrow file"]
        assert corrupt == 1 or read == {"example": len(ROWS)}
        assert read.total() >= 1


def test_arrow_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    answer = _unsafe_strings()
    batch = pa.record_batch({"question": pa.array(["q"] * 3), "answer": answer})
    with pa.ipc.new_stream(tmp_path / "x.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    assert counts(only(tmp_path / "x.arrow")) == {"example": 2, "invalid UTF-8": 1}


def _unsafe_strings() -> pa.Array:
    """The texts a, (a byte that is not UTF-8), c."""
    raw = pa.array([b"a", b"\xff", b"c"])
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_arrow_offsets_that_point_anywhere_are_not_followed(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 1, 2**30, 3], np.int32))
    answer = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc")])
    batch = pa.record_batch({"question": pa.array(["q"] * 3), "answer": answer})
    with pa.ipc.new_stream(tmp_path / "x.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    read = counts(only(tmp_path / "x.arrow"))
    assert read.total() == 3
    assert read["unreadable value"] >= 1


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_damaged_packed_file_keeps_the_rows_before_the_damage(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    many = "".join(
        f'{{"question": "q{i}", "answer": "{i * 7919 % 100_003}"}}\n' for i in range(20_000)
    ).encode()
    file = written(tmp_path, "x.jsonl.zz", pack(many)[:-2000])
    read = counts(file)
    assert read["corrupt compressed file"] == 1
    assert 10_000 < read["example"] < 20_000
    listed = b"[" + many.replace(b"\n", b",\n").removesuffix(b",\n") + b"]"
    read = counts(written(tmp_path, "x.json", pack(listed)[:-2000]))
    assert read["example"] > 10_000
    assert read.total() == read["example"] + read["corrupt compressed file"] == read["example"] + 1
    assert counts(written(tmp_path, "x.parquet", pack(as_parquet())[:-20]))["corrupt compressed file"] == 1


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_examples(InputFile("s", str(tmp_path / "no.jsonl"), "no.jsonl", "jsonl")))


@given(content=st.binary(max_size=200), kind=st.sampled_from(get_args(Kind)))
def test_no_content_makes_reading_raise(
    content: bytes, kind: Kind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    assert list(read_examples(InputFile("s", str(path), "any", kind)))


scalars = st.none() | st.integers(-999, 999) | st.text(max_size=4) | st.lists(st.floats(-2, 2), max_size=2)
json_elements = st.lists(scalars | st.dictionaries(st.text(max_size=3), scalars, max_size=3), max_size=5)


@given(elements=json_elements, size=st.integers(1, 9), indent=st.none() | st.integers(0, 2))
def test_a_list_read_in_pieces_is_the_list(elements: list[object], size: int, indent: int | None) -> None:
    text = json.dumps(elements, indent=indent, ensure_ascii=False)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert list(ListElements(pieces)) == elements
