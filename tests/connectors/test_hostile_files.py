"""Files made to break a reader: bounded time and memory, a reason for what is not read, the rest goes on."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from connectors import decompress, json_rows
from connectors.fields import _cached_layout, layout_of
from connectors.inputs import InputSpec, find_files, id_name
from connectors.readers import read_examples
from tests.connectors.files import GOOD, ROWS, answers, as_jsonl, as_parquet, bad, counts, only, written


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Far above what it takes, far below what it took before the bound."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


def packed(packing: str, *pieces: tuple[bytes, int]) -> bytes:
    """Pieces, each repeated some times, packed without ever being in memory whole."""
    sink = io.BytesIO()
    writer: Any
    if packing == "zst":
        writer = zstandard.ZstdCompressor(level=3).stream_writer(sink, closefd=False)
    else:
        writer = gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9, mtime=0)
    with writer:
        for piece, times in pieces:
            for _ in range(times):
                writer.write(piece)
    return sink.getvalue()


MIB = 2**20


@pytest.mark.parametrize("packing", ["gz", "zst"])
@pytest.mark.parametrize(
    ("ending", "opening"),
    [("jsonl", b""), ("jsonl", GOOD.encode() + b"\n"), ("json", b"["), ("json", b"{"), ("csv",
    b"question,answer\n"),
     ("parquet", b"PAR1"), ("arrow", b"ARROW1\0\0")],
)  # fmt: skip
@pytest.mark.parametrize("filling", [b"\0", b"\n", b" "])
def test_a_zip_bomb_is_read_up_to_a_bound(
    packing: str, ending: str, opening: bytes, filling: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompress, "MAX_UNPACKED_BYTES", 2 * MIB)
    content = packed(packing, (opening, 1), (filling * MIB, 5))
    with within(20):
        read = counts(written(tmp_path, f"x.{ending}.{packing}", content))
    assert read["unpacks to too much"] == 1
    assert sum(read.values()) <= 2


def test_the_rows_before_a_bomb_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "MAX_UNPACKED_BYTES", 2 * MIB)
    content = packed("gz", (GOOD.encode() + b"\n", 50_000), (b"\n" * MIB, 5))
    read = counts(written(tmp_path, "x.jsonl.gz", content))
    assert read["unpacks to too much"] == 1
    assert read["example"] > 49_000
    assert "unpack it" in bad(only(tmp_path / "x.jsonl.gz"))["detail"]


def test_data_that_packs_well_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "MAX_UNPACKED_BYTES", MIB // 10)
    rows = "".join(
        json.dumps({"question": f"q {i} of many", "answer": f"a {i * i}"}) + "\n" for i in range(5000)
    )
    assert counts(written(tmp_path, "x.jsonl.gz", gzip.compress(rows.encode(), mtime=0))) == {"example": 5000}


def test_a_line_of_100_mb_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(GOOD.encode() + b"\n")
        file.seek(100_000_000, os.SEEK_CUR)  # zeros that take no place
        file.write(b"\n" + GOOD.encode())
    with within(20):
        assert counts(only(path)) == {"example": 2, "row too large": 1}


def test_a_row_of_tiny_values_is_too_large_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "MAX_VALUES", 1000)
    monkeypatch.setattr(json_rows, "_LONG_BYTES", 1000)
    bomb = '{"question": "q", "answer": "a", "x": [' + "[]," * 2000 + "1]}"
    assert counts(written(tmp_path, "x.jsonl", f"{GOOD}\n{bomb}\n{GOOD}")) == {
        "example": 2,
        "row too large": 1,
    }
    assert counts(written(tmp_path, "x.json", "{" + '"a": 1,' * 2000 + '"b": 1}')) == {"file too large": 1}
    rows = json.dumps([{"question": "q", "answer": "a"}] * 3000)
    assert counts(written(tmp_path, "y.json", rows)) == {"example": 3000}  # a list is read piece by piece


def test_a_list_of_damaged_elements_takes_time_in_proportion(tmp_path: Path) -> None:
    text = "[\n" + "nul,\n" * 100_000 + GOOD + "]"
    with within(20):
        read = counts(written(tmp_path, "x.json", text))
    assert read == {"example": 1, "not JSON": 100_000}


@pytest.mark.parametrize("deep", [1000, 1020, 100_000])
def test_deep_nesting_in_a_list_is_a_bad_row(deep: int, tmp_path: Path) -> None:
    text = f"[\n{GOOD},\n{'[' * deep}{']' * deep},\n{GOOD}\n]"
    read = counts(written(tmp_path, "x.json", text))
    assert read["example"] == 2
    assert sum(read.values()) == 3
    assert sum(counts(written(tmp_path, "y.jsonl", f"{GOOD}\n{'[' * deep}{']' * deep}")).values()) == 2


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 400, "1e999", "NaN", "-Infinity"])
def test_a_number_beyond_all_numbers_is_null(number: str, tmp_path: Path) -> None:
    for name, text in (("x.jsonl", '{"question": "q", "answer": "a", "x": %s}'),
                       ("x.json", '[{"question": "q", "answer": "a", "x": %s}]')):  # fmt: skip
        [item] = read_examples(written(tmp_path, name, text % number))
        assert json.loads(item.row["extra"]) == {"x": None}


def test_numbers_in_json_inside_a_row_are_bounded_too(tmp_path: Path) -> None:
    turns = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "x": %s}]' % ("9" * 400)
    [item] = read_examples(written(tmp_path, "x.jsonl", json.dumps({"messages": turns})))
    assert "9" * 400 not in (item.row["extra"] or "")


def test_a_csv_field_of_50_mb_is_read_and_the_next_row_too(tmp_path: Path) -> None:
    file = written(tmp_path, "x.csv", b"question,answer\nq,a\nq," + b"x" * 50_000_000 + b"\nq,b\n")
    assert [len(answer) for answer in answers(file)] == [1, 50_000_000, 1]


def test_a_csv_header_of_a_million_columns_takes_no_square_of_time(tmp_path: Path) -> None:
    with within(20):
        assert counts(written(tmp_path, "x.csv", b"question,answer" + b"," * 1_000_000 + b"\nq,a\n")) == {
            "unusable CSV header": 1
        }
        names = ",".join(f"c{i}" for i in range(300_000))
        assert counts(written(tmp_path, "y.csv", f"question,answer,{names}\nq,a\n")) == {
            "wrong number of columns": 1
        }
    assert len(bad(only(tmp_path / "x.csv"))["detail"]) < 2000


def test_blank_lines_before_a_csv_header_lose_no_row(tmp_path: Path) -> None:
    assert counts(written(tmp_path, "x.csv", "\n\r\n \nquestion,answer\nq,a\n")) == {"example": 1}


def test_a_column_without_a_name_is_a_field_like_any_other(tmp_path: Path) -> None:
    file = written(tmp_path, "x.csv", ",chosen,rejected,prompt\n0,a,b,q\n")  # as pandas writes its index
    assert counts(file) == {"example": 1}


def test_a_preference_label_without_its_outputs_is_a_bad_row(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "q", "output_1": "a", "label": 1})
    file = only_stated(written(tmp_path, "x.jsonl", f"{row}\n"), "preference")
    assert counts(file) == {"missing field": 1}


def only_stated(file: Any, stated: str) -> Any:  # noqa: ANN401 - an InputFile
    return only(Path(file.path), format=stated)


def test_names_of_a_hostile_row_are_not_kept_in_memory(tmp_path: Path) -> None:
    before = _cached_layout.cache_info().currsize
    for number in range(20):
        layout_of(("question", "answer", f"{number}" * 5000))
    assert _cached_layout.cache_info().currsize == before
    row = json.dumps({"q" * 100_000: 1})
    assert len(bad(written(tmp_path, "x.jsonl", row))["detail"]) <= 1000


# Parquet and Arrow


def test_wrong_statistics_change_nothing(tmp_path: Path) -> None:
    content = as_parquet()
    footer = content.index(b"q0", content.rindex(b"answer") - 400) if b"q0" in content else 0
    wrong = content[:footer] + content[footer:].replace(b"q0", b"zz").replace(b"q4", b"\0\0")
    assert wrong != content
    assert len(answers(written(tmp_path, "x.parquet", wrong))) == len(ROWS)


def test_a_newer_writer_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    content = as_parquet()
    newer = content.replace(
        b"parquet-cpp-arrow version " + pa.__version__[:2].encode(), b"parquet-cpp-arrow version 99"
    )
    assert newer != content
    assert counts(written(tmp_path, "x.parquet", newer)) == {"example": len(ROWS)}


def test_an_encrypted_footer_is_one_bad_row(tmp_path: Path) -> None:
    content = as_parquet()
    row = bad(written(tmp_path, "x.parquet", b"PARE" + content[4:-4] + b"PARE"))
    assert row["reason"] == "corrupt Parquet file"
    assert "encrypt" in row["detail"].lower()


@pytest.mark.parametrize("cut", [1, 4, 8, 12, 100])
def test_a_cut_footer_is_one_bad_row_and_the_other_file_is_read(cut: int, tmp_path: Path) -> None:
    written(tmp_path, "a.parquet", as_parquet()[:-cut])
    written(tmp_path, "b.jsonl", as_jsonl())
    files = find_files(InputSpec(path=str(tmp_path)), tmp_path)
    reasons = [item.row["reason"] for file in files for item in read_examples(file) if item.kind == "bad"]
    assert reasons == ["corrupt Parquet file"]
    assert sum(item.kind == "example" for file in files for item in read_examples(file)) == len(ROWS)


def test_a_small_file_of_absurdly_many_rows_is_refused(tmp_path: Path) -> None:
    nothing = pa.table({"question": pa.nulls(20_000_000, pa.string())})
    pq.write_table(nothing, tmp_path / "x.parquet", row_group_size=20_000_000)
    assert (tmp_path / "x.parquet").stat().st_size < 200_000
    with within(20):
        assert "says that it holds 20,000,000 rows" in bad(only(tmp_path / "x.parquet"))["detail"]


def test_an_empty_list_without_offsets_does_not_end_the_process(tmp_path: Path) -> None:
    inner = pa.Array.from_buffers(
        pa.list_(pa.string()), 0, [None, pa.py_buffer(b"")], children=[pa.array([], "string")]
    )
    empty = pa.StructArray.from_arrays([inner], ["x"])
    outer = pa.ListArray.from_arrays(pa.array([0, 0], "int32"), empty)
    batch = pa.record_batch({"question": ["q"], "answer": ["a"], "more": outer})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert counts(only(tmp_path / "x.arrow")) == {"example": 1}


def test_a_column_name_that_is_not_utf8_is_a_corrupt_file(tmp_path: Path) -> None:
    sink = io.BytesIO()
    table = pa.table({"question": ["q"], "answer": ["a"], "nametobreak": ["x"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().replace(b"nametobreak", b"name\xff\xfebreak")
    read = counts(written(tmp_path, "x.arrow", content))
    assert sum(read.values()) == 1
    assert set(read) <= {"corrupt Arrow file"}


# Names of files


@pytest.mark.parametrize(
    "name",
    ["a\nb.jsonl", "..jsonl", "x" * 240 + ".jsonl", "a:00000001.jsonl", "'; rm -rf.jsonl", "\u202egpj.jsonl"],
)
def test_odd_file_names_give_plain_ids_on_one_line(name: str, tmp_path: Path) -> None:
    [item] = read_examples(written(tmp_path, name, GOOD))
    assert item.row["id"].isprintable()
    assert item.row["id"].count(":") == 1
    assert item.row["source"].isprintable()


def test_a_file_name_that_is_not_utf8_is_read_and_its_bad_rows_can_be_stored(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.jsonl")
    try:
        (tmp_path / name).write_text(f"{GOOD}\nx\n")
    except OSError:
        pytest.skip("this file system takes no such names")
    [file] = find_files(InputSpec(path=str(tmp_path)), tmp_path)
    items = list(read_examples(file))
    assert [item.kind for item in items] == ["example", "bad"]
    for text in (items[0].row["id"], items[1].row["path"]):
        assert "\\udcff" in text
        text.encode()


def test_two_names_never_give_one_id() -> None:
    names = ["a\nb", "a\\nb", "a:b", "a\\x3ab", "a", "a\\\\nb", "a\\\nb"]
    assert len({id_name(name) for name in names}) == len(names)
