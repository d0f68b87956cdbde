"""The Beam transform of duplicates gives what the plain function gives, on every runner."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from connectors.examples import EXAMPLE_SCHEMA, Conversation, example_id, example_row, message
from pipelines.dedupe import find_duplicates as module
from pipelines.dedupe.find_duplicates import FindDuplicates, Search, find_duplicates, steps
from pipelines.dedupe.settings import DedupeSettings, MinHashSettings
from tests.pipelines.dedupe.test_duplicates import search_in

LOCAL = ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]
PORTABLE = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
NEAR = DedupeSettings(minhash=MinHashSettings(threshold=0.6, ngram=2))


def planted(rows: int = 400) -> pa.Table:
    """Examples of which every row has copies and near-copies."""
    random = np.random.default_rng(0)
    texts = [[f"w{word}" for word in random.integers(0, 500, 30)] for _ in range(rows // 8)]
    lines = []
    for number in range(rows):
        words = list(texts[number % len(texts)])
        if number % 3:
            words[int(random.integers(30))] = "x"
        row = Conversation([message("user", "say"), message("assistant", " ".join(words))])
        lines.append(example_row(row, "s", example_id("s", "f", number + 1)))
    return pa.Table.from_pylist(lines, schema=EXAMPLE_SCHEMA)


def elsewhere(search: Search, folder: Path) -> Search:
    folder.mkdir()
    return dataclasses.replace(search, folder=str(folder))


def run(search: Search, flags: list[str]) -> bytes:
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = pipeline | FindDuplicates(search)
    return (Path(search.folder) / search.file).read_bytes()


@pytest.mark.parametrize(
    "options", [NEAR, DedupeSettings(), DedupeSettings(exact=False)], ids=["near", "exact", "neither"]
)
def test_beam_finds_what_the_plain_function_finds(options: DedupeSettings, tmp_path: Path) -> None:
    search = search_in(tmp_path, planted(), options, cuts=[100, 250])
    find_duplicates(search)
    table = pq.read_table(tmp_path / search.file)
    assert run(elsewhere(search, tmp_path / "beam"), LOCAL) == (tmp_path / search.file).read_bytes()
    assert (table.num_rows > 0) == options.exact


def test_the_planted_duplicates_are_found(tmp_path: Path) -> None:
    search = search_in(tmp_path, planted(), NEAR, cuts=[100, 250])
    run(search, LOCAL)
    table = pq.read_table(tmp_path / search.file)
    assert table.num_rows == 350  # 400 rows of 50 texts
    assert set(table["cluster_size"].to_pylist()) == {8}
    assert set(table["kind"].to_pylist()) == {"exact", "near"}


def test_bytes_are_the_same_on_a_portable_runner_and_with_more_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = search_in(tmp_path, planted(), NEAR, cuts=[200])
    local = run(elsewhere(search, tmp_path / "local"), LOCAL)
    assert run(elsewhere(search, tmp_path / "portable"), PORTABLE) == local
    monkeypatch.setattr(module, "ROWS_IN_TASK", 50)
    assert search.part_bits == 4
    assert sum(step.name.startswith("merge") for step in steps(search)) == 1  # 288 files of pairs, then 9
    assert run(elsewhere(search, tmp_path / "many"), LOCAL) == local


def test_pairs_of_an_unfinished_search_are_not_looked_for_again(tmp_path: Path) -> None:
    search = search_in(tmp_path, planted(), NEAR, cuts=[200])
    whole = run(search, LOCAL)
    (tmp_path / search.file).unlink()
    for path in sorted(tmp_path.glob("pairs-*.npy"))[::2]:
        path.unlink()
    left = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pairs-*.npy")}
    assert run(search, LOCAL) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in left.items())
    shutil.rmtree(tmp_path)
