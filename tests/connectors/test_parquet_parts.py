"""A large Parquet file in parts gives the rows, with the ids, of the whole file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import readers
from connectors.inputs import InputFile, InputSpec, find_files
from connectors.readers import Item, read_examples, split_file
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice
from tests.draws import draws
from tests.pipelines.corpus import rows_of


def write(path: Path, rows: int, group: int, start: int = 0) -> InputFile:
    """A file of rows of which every seventh is bad."""
    numbers = range(start, start + rows)
    table = pa.table(
        {
            "prompt": [f"What is {n} plus one?" for n in numbers],
            "completion": ["" if n % 7 == 0 else f"It is {n + 1}." for n in numbers],
        }
    )
    pq.write_table(table, path, row_group_size=group)
    [file] = find_files(InputSpec(path=str(path), source="s"), Path())
    return file


def split(file: InputFile, size: int) -> list[InputFile]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "PART_BYTES", size)
        return split_file(file)


def without_position(items: list[Item]) -> list[tuple[str, dict[str, object]]]:
    return [(item.kind, item.row) for item in items]


@draws(30)
@given(st.integers(1, 80), st.integers(1, 30), st.integers(1, 4000))
def test_parts_give_the_rows_of_the_whole_file(rows: int, group: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder, "a.parquet"), rows, group)
        parts = split(file, size)
        assert len(parts) <= -(-rows // group)
        read = [item for part in parts for item in read_examples(part)]
        assert without_position(read) == without_position(list(read_examples(file)))
        for part in parts:
            positions = [item.position for item in read_examples(part)]
            assert positions == sorted(positions)


def test_row_groups_are_packed_up_to_the_size(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", 100, 10)
    sizes = pq.read_metadata(file.path)
    one = max(sizes.row_group(number).total_byte_size for number in range(10))
    assert [part.groups for part in split(file, 1)] == [(n, n + 1) for n in range(10)]
    assert [part.groups for part in split(file, 4 * one)] == [(0, 4), (4, 8), (8, 10)]
    assert split(file, 100 * one) == [file]


def test_what_has_no_row_groups_is_one_part(tmp_path: Path) -> None:
    damaged = write(tmp_path / "a.parquet", 100, 10)
    Path(damaged.path).write_bytes(Path(damaged.path).read_bytes()[:-20] + b"0" * 16 + b"PAR1")
    assert split(damaged, 1) == [damaged]
    assert [item.kind for item in read_examples(damaged)] == ["bad"]


@pytest.mark.parametrize("size", [500, 10**9])
def test_a_run_over_parts_publishes_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    write(tmp_path / "b.parquet", 60, 10, start=100)
    write(tmp_path / "a.parquet", 60, 10)
    monkeypatch.setattr(readers, "PART_BYTES", size)
    recipe = {
        "name": "parts",
        "inputs": [{"path": str(tmp_path / "*.parquet"), "source": "s"}],
        "max_bad_fraction": 0.5,
    }
    run(parse_recipe(recipe), tmp_path / "out", RunnerChoice(), Progress())
    numbers = [n for start in (0, 100) for n in range(start, start + 60)]
    good = [n for n in numbers if n % 7]
    ids = [f"s/{'b' if n >= 100 else 'a'}.parquet:{n % 100 + 1:08d}" for n in good]
    assert [row["id"] for row in rows_of(tmp_path / "out", "train")] == ids
    assert len(rows_of(tmp_path / "out", "bad_rows")) == len(numbers) - len(good)
    parts = list((tmp_path / "out" / ".winnow").glob("ingest-*/part-*.parquet"))
    assert len(parts) == (12 if size == 500 else 2)
