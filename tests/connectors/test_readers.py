"""Finding files, every kind of file, every way a file can be damaged, and the real data sets."""

from __future__ import annotations

import builtins
import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors import json_rows, lines
from connectors.examples import BAD_ROW_SCHEMA, EXAMPLE_SCHEMA
from connectors.json_list import ListElements
from connectors.readers import InputFile, InputSpec, find_files, read_examples, read_rows
from connectors.sniff import Kind

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


# Kinds of files


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
KINDS: dict[str, tuple[str, bytes]] = {
    "json lines": ("jsonl", as_jsonl()),
    "json lines with a BOM": ("jsonl", BOM + as_jsonl()),
    "json lines with Windows line ends": ("jsonl", as_jsonl().replace(b"\n", b"\r\n")),
    "json lines with blank lines": ("jsonl", b"\n" + as_jsonl().replace(b"\n", b"\n\n")),
    "json lines under .json": ("json", as_jsonl()),
    "a list": ("json", json.dumps(ROWS).encode()),
    "a list with a BOM": ("json", BOM + json.dumps(ROWS).encode()),
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


# Bad input


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
     ("x.parquet", b""), ("x.arrow", b""), ("x.jsonl", BOM), ("x.jsonl.gz", gzip.compress(b""))],
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
    assert read["corrupt compressed file"] == 1
    assert counts(written(tmp_path, "x.parquet", pack(as_parquet())[:-20]))["corrupt compressed file"] == 1


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_examples(InputFile("s", str(tmp_path / "no.jsonl"), "no.jsonl", "jsonl")))


@settings(deadline=None)
@given(content=st.binary(max_size=200), kind=st.sampled_from(get_args(Kind)))
def test_no_content_makes_reading_raise(
    content: bytes, kind: Kind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    assert list(read_examples(InputFile("s", str(path), "any", kind)))


json_rows_strategy = st.lists(
    st.dictionaries(
        st.text(max_size=3),
        st.none() | st.integers(-9, 9) | st.text(max_size=4) | st.lists(st.floats(-2, 2), max_size=2),
        max_size=3,
    ),
    max_size=5,
)


@settings(deadline=None)
@given(rows=json_rows_strategy, size=st.integers(1, 9), indent=st.none() | st.integers(0, 2))
def test_a_list_read_in_pieces_is_the_list(rows: list[dict[str, Any]], size: int, indent: int | None) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert list(ListElements(pieces)) == rows


# Finding files


def test_a_folder_is_searched_for_data_files_only(tmp_path: Path) -> None:
    passed_over = [
        "README.json",
        "LICENSE",
        "notes.txt",
        ".hidden.jsonl",
        "_tmp/x.jsonl",
        "dataset_info.json",
    ]
    for name in ["b.jsonl", "sub/a.json", "c.JSONL.gz", ".git/x.json", *passed_over]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    found = find_files(InputSpec(path="."), tmp_path)
    assert [file.name for file in found] == ["b.jsonl", "c.JSONL.gz", "sub/a.json"]


def test_a_glob_takes_what_it_matches_and_names_files_from_its_folder(tmp_path: Path) -> None:
    for name in ("d/x/1.txt", "d/y/2.txt", "d/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    found = find_files(InputSpec(path="d/*/*.txt"), tmp_path)
    assert [(file.source, file.name, file.kind) for file in found] == [
        ("d", "x/1.txt", "jsonl"),
        ("d", "y/2.txt", "jsonl"),
    ]
    assert [file.name for file in find_files(InputSpec(path="d/**/*.txt"), tmp_path)] == [
        "3.txt",
        "x/1.txt",
        "y/2.txt",
    ]
    assert find_files(InputSpec(path=str(tmp_path / "d/*/*.txt")), Path("/"))[0].name == "x/1.txt"


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"path": "data/train.jsonl.gz"}, "train"),
        ({"path": "data/gsm8k/*.jsonl"}, "gsm8k"),
        ({"path": "data/gsm8k/"}, "gsm8k"),
        ({"path": "*.jsonl"}, "input"),
        ({"path": "my data.v2.json"}, "my-data.v2"),
        ({"dataset": "openai/gsm8k"}, "gsm8k"),
        ({"path": "x.jsonl", "source": "given"}, "given"),
    ],
)
def test_the_source_is_named_after_the_path(spec: dict[str, Any], source: str) -> None:
    assert InputSpec(**spec).source_name == source


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.jsonl", "there is no file or folder"),
        ("*.nope", "no file matches"),
        ("empty", "nothing to read in the folder"),
    ],
)
def test_nothing_to_read_is_an_error_that_says_where(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        find_files(InputSpec(path=path), tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "ZIP archive"),
        (b"\x80\x04\x95", "pickle"),
        ("hé".encode("utf-16"), "UTF-16"),
        (b"BZh9", "bzip2"),
    ],
)
def test_a_kind_of_file_that_is_not_read_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, "x.jsonl", content)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "exactly one of path"),
        ({"path": "x", "dataset": "y"}, "exactly one of path"),
        ({"path": "x", "format": "alpacca"}, "did you mean 'alpaca'"),
        ({"path": "x", "fields": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"path": "x", "revision": "main"}, "on the hub"),
        ({"dataset": "x", "split": "train[:10]"}, "slices are not read"),
        ({"path": "x", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_input_entry_says_what_is_wrong(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InputSpec(**spec)


def test_stated_format_and_fields_reach_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"frage": "q", "antwort": "a", "output": "x"}\n')
    assert answers(only(path, fields={"prompt": "frage", "response": "antwort"})) == ["a"]
    path.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    assert answers(only(path, pairs="both")) == ["a", "b"]
    assert [item.row["id"][-8:] for item in read_examples(only(path, pairs="both"))] == [
        "1/chosen",
        "rejected",
    ]


# Hugging Face data sets


def save(path: Path, *splits: str) -> None:
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    if splits:
        datasets.DatasetDict({split: table for split in splits}).save_to_disk(str(path))
    else:
        table.save_to_disk(str(path), num_shards=2)


def test_a_saved_dataset_is_read_shard_by_shard(tmp_path: Path) -> None:
    save(tmp_path / "d")
    found = find_files(InputSpec(path="d"), tmp_path)
    assert [file.name for file in found] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert [row for file in found for _, row, _ in read_rows(file)] == ROWS
    with pytest.raises(ValueError, match="without splits"):
        find_files(InputSpec(path="d", split="train"), tmp_path)


def test_splits_of_a_saved_dataset_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path / "d", "train", "test")
    assert [file.name for file in find_files(InputSpec(path="d", split="train"), tmp_path)] == [
        "train/data-00000-of-00001.arrow"
    ]
    assert len(find_files(InputSpec(path="d"), tmp_path)) == 2
    with pytest.raises(ValueError, match=r"no split 'dev'; it has .*train"):
        find_files(InputSpec(path="d", split="dev"), tmp_path)


def test_a_dataset_of_the_hub_is_read_from_its_arrow_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_bytes(as_jsonl())
    [file] = find_files(InputSpec(dataset=str(tmp_path / "d")), tmp_path)
    assert file.name.startswith("train/")
    assert counts(file) == {"example": len(ROWS)}


def test_a_missing_datasets_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_datasets(name: str, *args: Any) -> Any:  # noqa: ANN401 - the signature of __import__
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ValueError, match=r"pip install 'winnow\[hub\]'"):
        find_files(InputSpec(dataset="openai/gsm8k"), Path())


# Real data: how many rows each file has was counted with the json and csv modules alone

REAL: dict[str, dict[str, int]] = {
    "alpaca/alpaca_data.json.gz": {"example": 51_974, "empty response": 28},
    "alpaca_eval/gemma-2b-it.json.gz": {"example": 783, "empty response": 22},
    "alpaca_eval/NullModel.json.gz": {"example": 805},
    "alpaca_eval/text_davinci_001.json.gz": {"example": 803},
    "eval_sets/HumanEval.jsonl.gz": {"example": 164},
    "eval_sets/TruthfulQA.csv": {"example": 817},
    "eval_sets/gsm_hard_test.jsonl": {"example": 1_319},
    "eval_sets/math500_test.jsonl": {"example": 500},
    "eval_sets/mbpp.jsonl": {"example": 974},
    "eval_sets/mt_bench_question.jsonl": {"example": 38, "no response": 42},
    "formats/alpaca_en_demo.json": {"example": 999},
    "formats/alpaca_zh_demo.json": {"example": 1_000},
    "formats/dataset_info.json": {"not a table of rows": 1},
    "formats/dpo_en_demo.json": {"example": 300},
    "formats/dummy_chat.jsonl": {"example": 20},
    "formats/glaive_toolcall_en_demo.json": {"example": 300},
    "formats/hh_rlhf_harmless_test.jsonl.gz": {
        "example": 2_300,
        "empty response": 4,
        "roles out of order": 8,
    },
    "formats/identity.json": {"example": 91},
    "formats/kto_en_demo.json": {"example": 300},
    "formats/mtbench101.jsonl": {"example": 1_388},
    "formats/oasst_20230412_fr_top1.jsonl": {"example": 256},
    "formats/reason_tool_use_demo_50.jsonl": {"example": 50},
    "formats/seed_tasks_vigogne.jsonl": {"example": 175},
    "formats/sharegpt_dummy_conversation.json": {"example": 500},
    "formats/v1_dpo_demo.jsonl": {"example": 10},
    "formats/v1_sft_demo.jsonl": {"example": 500},
    "gsm8k/train.jsonl": {"example": 7_473},
    "gsm8k/test.jsonl": {"example": 1_319},
    "gsm8k_answers/abel_gsm8k_7b.jsonl.gz": {"example": 1_319},
    "gsm8k_answers/example_model_solutions.jsonl.gz": {"example": 1_319},
    "halueval/general_data.json.gz": {"example": 4_507},
    "malformed/alpaca_libre_tasks_v1.jsonl": {"example": 2_138, "empty response": 237},
    "malformed/alpaca_libre_tasks_v2.jsonl": {"example": 2_229, "empty response": 51, "not JSON": 14},
    "malformed/alpaca_libre_tasks_v3.jsonl": {"example": 1_199, "empty response": 6},
    "near_duplicates/toolformer-dedupe-only-dataset.json.gz": {"example": 7_673},
    "near_duplicates/toolformer-similarity-0.8-dataset.json.gz": {"example": 4_709},
    "openassistant/en_100_tree.jsonl": {"example": 687},
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_real_files_read_whole(name: str, realdata: Path) -> None:
    assert counts(only(realdata / name)) == REAL[name]


@pytest.mark.realdata
def test_llmbar_is_found_in_its_folders(realdata: Path) -> None:
    found = find_files(InputSpec(path="llmbar"), realdata)
    assert [file.name for file in found][-1] == "LLMBar/Natural/dataset.json"
    assert sum((counts(file) for file in found), Counter()) == {"example": 419}


@pytest.mark.realdata
def test_real_rows_are_read_into_the_right_places(realdata: Path) -> None:
    [alpaca] = [
        item.row
        for item in read_examples(only(realdata / "alpaca/alpaca_data.json.gz"))
        if item.row.get("id", "").endswith(":00000006")
    ]
    published = json.loads(gzip.decompress((realdata / "alpaca/alpaca_data.json.gz").read_bytes()))[5]
    assert alpaca["messages"][0]["content"] == f"{published['instruction']}\n\n{published['input']}"
    assert alpaca["messages"][1]["content"] == published["output"]
    first = next(read_examples(only(realdata / "eval_sets/TruthfulQA.csv"))).row
    assert [turn["content"] for turn in first["messages"]] == [
        "What happens to you if you eat watermelon seeds?",
        "The watermelon seeds pass through your digestive system",
    ]
    assert json.loads(first["extra"])["Type"] == "Adversarial"
    pairs = read_examples(only(realdata / "formats/hh_rlhf_harmless_test.jsonl.gz"))
    assert isinstance(json.loads(next(pairs).row["extra"])["rejected"], str)
