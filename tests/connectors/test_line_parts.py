"""A large file of JSON lines in parts gives the rows, with the ids and the reasons, of the whole file."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors import lines, read, readers
from connectors.inputs import InputFile
from connectors.line_ranges import LineCutter, LineRange, line_ranges
from connectors.manifest import InputChanged
from connectors.readers import Item, in_reading_order, read_examples, split_file
from pipelines.progress import Progress
from pipelines.recipe import Recipe, parse_recipe
from pipelines.run import Finished, run
from pipelines.runner import RunnerChoice
from tests.connectors.files import BOM, GOOD, as_jsonl, only, written
from tests.draws import draws
from tests.pipelines.corpus import rows_of

LONGEST = 90  # of a line, in these tests

line = st.one_of(
    st.sampled_from(
        [
            GOOD.encode(),
            b'{"prompt": "a", "completion": "b"}',
            b'{"question": "no answer"}',  # is told of the answer of the rows before
            b'{"prompt": "no completion", "n": 1}',
            b'{"prompt": "a", "completion": NaN}',
            b'{"messages": [{"role": "user", "content": "u"}]}',
            b'{"question": "q", "answer": ""}',
            b"{broken",
            b"[1, 2]",
            b"7",
            b"",
            b" \t",
            b"\r",
            b"\r\r",
            b"\v\f",
            BOM,
            BOM + BOM,
            BOM[:2],
            BOM + GOOD.encode(),
            b"\0",
            GOOD.encode() + b"\0",
            b"\xff\xfe{\0",
            b"x" * LONGEST,
            b'{"question": "' + b"x" * 3 * LONGEST + b'", "answer": "a"}',
        ]
    ),
    st.binary(max_size=12),
)
content = st.tuples(st.lists(line | line.map(lambda own: own + b"\r"), max_size=25), st.booleans()).map(
    lambda own: b"\n".join(own[0]) + b"\n" * own[1]
)


def lines_file(path: Path, written: bytes) -> InputFile:
    path.write_bytes(written)
    return InputFile("s", str(path), path.name, "jsonl")


def split(file: InputFile, size: int) -> list[InputFile]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "PART_BYTES", size)
        return split_file(file)


def items(file: InputFile) -> list[tuple[str, dict[str, Any]]]:
    return [(item.kind, item.row) for item in read_examples(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_RECORD_BYTES", LONGEST)
        yield tmp_path_factory.mktemp("lines")


@draws(300)
@given(content, st.integers(1, 400))
@example(b"\n" * 50, 10)
@example((BOM + b"\n") * 9, 2)
@example(b"\n\n\n{broken\n\n\n", 2)
@example(b'{"question": "q", "answer": "a"}\n' + b'{"question": "q"}\n' * 9, 20)
@example(
    b'{"question": "q", "answer": "a"}\n{"prompt": "p", "completion": "c"}\n{"prompt": "p", "n": 1}\n', 80
)
def test_parts_give_the_items_of_the_whole_file(folder: Path, written: bytes, size: int) -> None:
    file = lines_file(folder / "a.jsonl", written)
    parts = split(file, size)
    assert len(parts) <= max(1, -(-len(written) // size))
    assert [item for part in parts for item in items(part)] == items(file)
    for part in parts:
        positions = [item.position for item in read_examples(part)]
        assert positions == sorted(positions)
        if part.lines:
            assert all(0 < position <= part.lines.end - part.lines.begin for position in positions)


@given(content, st.integers(1, 400), st.lists(st.integers(0, 500), max_size=6))
def test_ranges_are_whole_lines_with_their_numbers_in_whatever_blocks_the_bytes_come(
    written: bytes, size: int, cuts: list[int]
) -> None:
    whole = LineCutter(size)
    whole.add(written)
    found = whole.ranges()
    assert [own.begin for own in found] == [0, *(own.end for own in found[:-1])]
    assert found[-1].end == len(written)
    for own in found[1:]:
        assert written[own.begin - 1 : own.begin] == b"\n"
        assert own.number == 1 + written[: own.begin].count(b"\n")
        assert own.begin < own.end
    blocks = LineCutter(size)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(written)], strict=True):
        blocks.add(written[begin:end])
    assert blocks.ranges() == found


@pytest.mark.parametrize("size", [1000, 1001, 1500, 3999])
def test_parts_are_of_one_size(size: int) -> None:
    cutter = LineCutter(1000)
    cutter.add(b"123456789\n" * (size // 10))
    sizes = [own.end - own.begin for own in cutter.ranges()]
    assert len(sizes) == -(-(size // 10 * 10) // 1000)
    assert max(sizes) - min(sizes) <= 2 * (1000 // 64 + 10)


def test_ranges_by_hand() -> None:
    cutter = LineCutter(80)
    cutter.add(b"123456789\n" * 10)
    assert cutter.ranges() == [LineRange(0, 50, 1), LineRange(50, 100, 6)]


def test_a_line_longer_than_a_part_is_in_one(tmp_path: Path) -> None:
    long = b'{"question": "' + b"q" * 5000 + b'", "answer": "a"}\n'
    short = GOOD.encode() + b"\n"
    path = tmp_path / "a.jsonl"
    path.write_bytes(short + long + short * 3)
    assert line_ranges(str(path), 1000) == [
        LineRange(0, len(short + long), 1),
        LineRange(len(short + long), len(short + long + short * 3), 3),
    ]


def test_a_file_that_is_no_larger_than_a_part_is_not_read_for_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "a.jsonl", as_jsonl())
    monkeypatch.setattr("connectors.line_ranges.open_binary", lambda _: pytest.fail("it was read"))
    assert split(file, len(as_jsonl())) == [file]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", b"question,answer\n" + b"q,a\n" * 50),
        ("a.json", b"[" + b",\n".join([GOOD.encode()] * 50) + b"]"),
        ("blank.jsonl", b" \r\n\n" * 50),
        ("marks.jsonl", (BOM + b"\n") * 50),
        ("one.jsonl", b'{"question": "' + b"q" * 200 + b'", "answer": "a"}\r' * 3),
    ],
)
def test_what_has_no_lines_to_part_is_one_part(name: str, text: bytes, tmp_path: Path) -> None:
    file = written(tmp_path, name, text)
    assert split(file, 60) == [file]


def test_utf16_and_packed_files_are_one_part(tmp_path: Path) -> None:
    packed = written(tmp_path, "a.jsonl.gz", gzip.compress(as_jsonl() * 9))
    assert split(packed, 20) == [packed]
    (tmp_path / "b.jsonl").write_bytes(as_jsonl())
    (tmp_path / "c.jsonl").write_bytes((GOOD + "\n").encode("utf-16") * 9)
    [*_, strange] = readers.find_files(readers.InputSpec(path=str(tmp_path)), tmp_path)
    assert strange.fault
    assert split(strange, 20) == [strange]
    assert [row["reason"] for _, row in items(strange)] == ["unsupported file"]


def test_a_row_is_told_of_the_rows_before_its_part_as_far_as_these_are_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, lacks = GOOD + "\n", '{"question": "alone"}\n'
    file = written(tmp_path, "a.jsonl", good * 5 + lacks * 5)
    [_, last] = split(file, len(good) * 5)
    assert [row["detail"] for _, row in items(last)][-1].startswith("wanted field 'answer', as in the rows")
    assert last.lines is not None
    monkeypatch.setattr(readers, "_BEFORE_BYTES", 2 * len(lacks))
    far = replace(last, lines=last.lines._replace(begin=last.lines.end - len(lacks)))
    assert all("as in the rows before" not in row["detail"] for _, row in items(far))


def test_the_end_of_a_line_is_not_a_row_before_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = GOOD + "\n"
    file = written(tmp_path, "a.jsonl", f"{row}broken {row}" + '{"question": "alone"}\n')
    begin = len(row) * 2 + len("broken ")
    monkeypatch.setattr(readers, "_BEFORE_BYTES", len(row))
    part = replace(file, lines=LineRange(begin, begin + 22, 3))
    assert [row["detail"].startswith("wanted field 'answer'") for _, row in items(part)] == [False]


def test_parts_are_read_in_the_order_of_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PART_BYTES", 40)
    files = tuple(written(tmp_path, f"{name}.jsonl", as_jsonl() * 3) for name in "ba")
    found = [(group[0].name, group[0].lines) for group in in_reading_order([files])]
    assert found == sorted(found)
    assert len(found) > 10
    assert in_reading_order([files], limit=3) == [files]


# Through the front door


def corpus(path: Path, rows: int = 300) -> bytes:
    """Rows with exact copies, broken and blank lines and missing answers between them."""
    texts = []
    for number in range(rows):
        row = {"question": f"What is {number % 250} plus {number % 250}?", "answer": f"It is {number % 250}."}
        if number % 11 == 0:
            del row["answer"]
        texts.append(json.dumps(row) if number % 13 else "{broken")
        texts += ["", "\r"] * (number % 17 == 0)
    path.write_bytes("\n".join(texts).encode())
    return path.read_bytes()


def recipe(path: Path) -> Recipe:
    return parse_recipe(
        {
            "name": "lines",
            "inputs": [{"path": str(path), "source": "s"}],
            "dedupe": {"exact": True},
            "select": [{"random": {"keep": 0.5}}],
            "max_bad_fraction": 0.5,
        }
    )


def ingested(out: Path) -> list[str]:
    return sorted(path.name for path in (out / ".winnow").glob("ingest-*/part-*.parquet"))


def ingest_stats(out: Path) -> object:
    [done] = (out / ".winnow").glob("ingest-*/done.json")
    return json.loads(done.read_text())["stats"]


def run_to(out: Path, path: Path, workers: int = 1) -> Finished:
    return run(recipe(path), out, RunnerChoice(workers=workers), Progress())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place = tmp_path_factory.mktemp("whole")
    corpus(place / "a.jsonl")
    return run_to(place / "out", place / "a.jsonl")


def test_two_workers_over_parts_give_the_rows_and_books_of_one_over_the_file(
    whole: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = whole.out.parent / "a.jsonl"
    monkeypatch.setattr(readers, "PART_BYTES", path.stat().st_size // 4)
    parts = run_to(tmp_path / "out", path, workers=2)
    assert len(ingested(whole.out)) == 1
    assert len(ingested(parts.out)) >= 4
    for name in ("train", "dropped", "bad_rows"):
        assert rows_of(parts.out, name) == rows_of(whole.out, name)
        assert len(rows_of(parts.out, name)) > 10
    for name in ("counts", "dropped_reasons", "inputs"):
        assert parts.manifest[name] == whole.manifest[name]
    assert ingest_stats(parts.out) == ingest_stats(whole.out)


def test_files_of_other_parts_are_not_taken_for_those_of_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    corpus(path)
    before = run_to(tmp_path / "out", path).manifest["counts"]
    [stage] = (tmp_path / "out" / ".winnow").glob("ingest-*")
    (stage / "done.json").unlink()  # as if it had been stopped
    monkeypatch.setattr(readers, "PART_BYTES", path.stat().st_size // 2)
    assert run_to(tmp_path / "out", path).manifest["counts"] == before


def test_an_input_that_changes_while_its_parts_are_read_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    content = corpus(path)
    monkeypatch.setattr(readers, "PART_BYTES", len(content) // 4)

    def reading(file: InputFile) -> Iterator[Item]:
        yield from read_examples(file)
        if file.lines and file.lines.begin:
            path.write_bytes(content.replace(b"250", b"251", 1) + b"\n")
            os.utime(path, (1, 1))

    monkeypatch.setattr("pipelines.ingest.read_examples", reading)
    with pytest.raises(InputChanged, match=r"a\.jsonl changed while this run read it"):
        run_to(tmp_path / "out", path)
    assert not (tmp_path / "out" / "train").exists()


def test_rows_read_in_memory_are_the_same_in_parts(
    whole: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = whole.out.parent / "a.jsonl"
    before = read(path, source="s")
    monkeypatch.setattr(readers, "PART_BYTES", path.stat().st_size // 4)
    after = read(path, source="s")
    assert after.table.equals(before.table)
    assert after.bad.table.equals(before.bad.table)
    assert only(path).lines is None
