"""Reading keys out of signature files: in order, and each file once for a range of hashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.shards import Unit
from pipelines.dedupe import clusters, signatures, stages
from pipelines.dedupe.find_duplicates import find_duplicates
from pipelines.dedupe.hashing import spread_hashes
from pipelines.dedupe.settings import DedupeSettings
from pipelines.dedupe.signatures import FIRST_BAND, SignatureFiles
from tests.pipelines.dedupe.test_duplicates import search_in
from tests.pipelines.dedupe.test_find_duplicates import NEAR, planted

HASHES = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**63, 2**64 - 1]), max_size=60)


@given(HASHES, st.integers(0, 6), st.data())
def test_hashes_are_spread_over_ranges_in_the_order_they_had(
    numbers: list[int], bits: int, data: st.DataObject
) -> None:
    shared = data.draw(st.integers(0, 8))
    prefix = data.draw(st.integers(0, 2**shared - 1)) << (64 - shared) if shared else 0
    wanted = [prefix | (number >> shared) for number in numbers]
    hashes, rows, bounds = spread_hashes(np.array(wanted, np.uint64), np.arange(len(wanted)), shared, bits)
    ranges = [(number << shared) % 2**64 >> (64 - bits) if bits else 0 for number in wanted]
    assert rows.tolist() == sorted(range(len(wanted)), key=lambda row: ranges[row])
    assert [wanted[row] for row in rows.tolist()] == hashes.tolist()
    assert np.diff(bounds).tolist() == [ranges.count(number) for number in range(2**bits)]


@pytest.mark.parametrize("more", [0, 3])
def test_the_runs_of_a_key_are_all_its_hashes_in_order(tmp_path: Path, more: int) -> None:
    files = SignatureFiles(search_in(tmp_path, planted(), NEAR, cuts=[100, 250]).files)
    found: list[tuple[int, int]] = []
    for part in range(4):
        for hashes, rows in files.key_runs(FIRST_BAND, part, 2, more):
            found += zip(hashes.tolist(), rows.tolist(), strict=True)
    assert len(found) == files.end == 400
    assert found == sorted(found)


def test_a_task_opens_every_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SignatureFiles(search_in(tmp_path, planted(), NEAR, cuts=[100, 250]).files)
    opened: list[str] = []
    read = signatures._key_columns

    def key_columns(path: str, number: int) -> object:
        opened.append(path)
        return read(path, number)

    monkeypatch.setattr(signatures, "_key_columns", key_columns)
    runs = list(files.key_runs(FIRST_BAND, 0, 1, 5))
    assert len(runs) == 32
    assert opened == [file.path for file in files.files]


@pytest.mark.parametrize(
    ("rows", "longest", "files"),
    [(2048 * 100, 16_384, 13), (2048 * 10_000, 40_960, 500), (2048 * 60_000, 131_072, 938)],
)
def test_signature_files_are_longer_where_there_would_be_too_many(
    monkeypatch: pytest.MonkeyPatch, rows: int, longest: int, files: int
) -> None:
    tasks: list[stages.SignatureTask] = []
    monkeypatch.setattr(stages, "run_stage", lambda *args, **_: tasks.extend(args[4]))
    units = [Unit(f"{at:06d}", at * 2048, 2048, (), 2_000_000) for at in range(rows // 2048)]
    stages.sign(None, "signatures", DedupeSettings(), units, [])  # type: ignore[arg-type] # no stage is run
    assert max(sum(unit.rows for unit in task.units) for task in tasks) == longest
    assert len(tasks) == files
    assert max(sum(unit.size for unit in task.units) for task in tasks) <= stages.BYTES_IN_FILE


def test_a_search_maps_every_file_once_however_finely_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped: list[str] = []
    memory_map = pa.memory_map

    def count(path: str) -> pa.MemoryMappedFile:
        mapped.append(path)
        return memory_map(path)

    search = search_in(tmp_path, planted(), NEAR, cuts=[*range(20, 400, 20)])
    for cache in (signatures._mapped, signatures._key_columns):
        cache.cache_clear()
    monkeypatch.setattr(pa, "memory_map", count)
    monkeypatch.setattr(clusters, "KEYS_SORTED", 10)
    find_duplicates(search)
    assert sorted(mapped) == [file.path for file in search.files]
    assert len(mapped) == 20
