"""The Beam transform of duplicates gives what the plain function gives, on every runner."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from connectors.examples import EXAMPLE_SCHEMA, Conversation, example_id, example_row, message
from connectors.shards import write_parquet
from pipelines.duplicates import (
    DUPLICATE_SCHEMA,
    DedupeSettings,
    find_duplicates,
    signature_schema,
    signature_table,
)
from pipelines.find_duplicates import (
    PARTITIONS,
    FindDuplicates,
    _band_partitions,
    _pack,
    _partition,
    _unpack_keys,
)
from pipelines.minhash import MinHashSettings

LOCAL = ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]
PORTABLE = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
NEAR = DedupeSettings(minhash=MinHashSettings(threshold=0.6, ngram=2))


def signature_files(folder: Path, options: DedupeSettings, rows: int = 400, files: int = 5) -> list[str]:
    """Examples of which every row has copies and near-copies in other files."""
    random = np.random.default_rng(0)
    texts = [[f"w{word}" for word in random.integers(0, 500, 30)] for _ in range(rows // 8)]
    lines = []
    for number in range(rows):
        words = list(texts[number % len(texts)])
        if number % 3:
            words[int(random.integers(30))] = "x"
        row = Conversation([message("user", "say"), message("assistant", " ".join(words))])
        lines.append(example_row(row, "s", example_id("s", "f", number + 1)))
    table = pa.Table.from_pylist(lines, schema=EXAMPLE_SCHEMA)
    size = rows // files
    paths = [str(folder / f"signatures-{number}.parquet") for number in range(files)]
    for start, path in zip(range(0, rows, size), paths, strict=True):
        write_parquet(
            path, signature_table(table.slice(start, size), options, start), signature_schema(options)
        )
    return paths


def run(paths: list[str], options: DedupeSettings, target: Path, flags: list[str]) -> bytes:
    """The bytes of the result's file; writing a second table would fail."""
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = pipeline | beam.Create(paths) | FindDuplicates(options) | beam.Map(_write_once, str(target))
    return target.read_bytes()


def _write_once(table: pa.Table, path: str) -> None:
    if Path(path).exists():
        raise FileExistsError(path)
    write_parquet(path, table, DUPLICATE_SCHEMA)


@pytest.mark.parametrize(
    "options", [NEAR, DedupeSettings(), DedupeSettings(exact=False)], ids=["near", "exact", "neither"]
)
def test_beam_finds_what_the_plain_function_finds(options: DedupeSettings, tmp_path: Path) -> None:
    paths = signature_files(tmp_path, options)
    run(paths, options, tmp_path / "result.parquet", LOCAL)
    table = pq.read_table(tmp_path / "result.parquet")
    assert table.equals(find_duplicates(paths, options))
    assert (table.num_rows > 0) == options.exact


def test_the_planted_duplicates_are_found(tmp_path: Path) -> None:
    paths = signature_files(tmp_path, NEAR)
    run(paths, NEAR, tmp_path / "result.parquet", LOCAL)
    table = pq.read_table(tmp_path / "result.parquet")
    assert table.num_rows == 400
    assert table["duplicate_of"].null_count == 50  # 400 rows of 50 texts
    assert set(table["cluster_size"].to_pylist()) == {8}
    assert set(table["kind"].to_pylist()) == {None, "exact", "near"}


def test_bytes_are_the_same_for_any_order_of_files_and_on_a_portable_runner(tmp_path: Path) -> None:
    paths = signature_files(tmp_path, NEAR)
    local = run(paths, NEAR, tmp_path / "local.parquet", LOCAL)
    assert run(paths[::-1], NEAR, tmp_path / "reversed.parquet", LOCAL) == local
    assert run(paths, NEAR, tmp_path / "portable.parquet", PORTABLE) == local


def test_no_file_gives_one_table_without_rows(tmp_path: Path) -> None:
    run([], NEAR, tmp_path / "result.parquet", LOCAL)
    assert pq.read_table(tmp_path / "result.parquet").equals(DUPLICATE_SCHEMA.empty_table())


def test_partitions_hold_every_column_once_and_equal_keys_together() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, (2, 1000), dtype=np.uint64)
    parts = dict(_partition(keys))
    assert len(parts) <= PARTITIONS
    for number, packed in parts.items():
        assert set((_unpack_keys([packed], 2)[0] % PARTITIONS).tolist()) == {number}
    together = _unpack_keys(parts.values(), 2)
    assert np.array_equal(together[:, np.lexsort(together)], keys[:, np.lexsort(keys)])


def test_copies_stay_out_of_the_shuffle_of_bands(tmp_path: Path) -> None:
    [path] = signature_files(tmp_path, NEAR, rows=8, files=1)
    exact = _pack(np.array([[3, 5], [0, 0]]))  # rows 3 and 5 are copies of row 0
    keys = _unpack_keys((packed for _, packed in _band_partitions(path, [exact])), 2)
    assert set(keys[1].tolist()) == {0, 1, 2, 4, 6, 7}
