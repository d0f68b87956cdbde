"""The benchmark of deciding again, on a small run of its own making."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import reselect
from pipelines.selectors.base import VectorSelector
from pipelines.selectors.catalog import SELECTORS

ROWS = 200


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    reselect.make_run(folder, ROWS, tokens=5)
    return folder


def test_every_selector_without_vectors_is_measured() -> None:
    measured = {name for step in reselect.SELECTIONS.values() for name in step}
    with_vectors = {name for name, selector in SELECTORS.items() if issubclass(selector, VectorSelector)}
    assert measured == set(SELECTORS) - with_vectors


def test_the_run_has_the_rows_asked_for_beside_its_duplicates(run: Path) -> None:
    def rows(name: str) -> int:
        return sum(pq.read_metadata(path).num_rows for path in (run / ".winnow" / name).glob("*.parquet"))

    assert rows("score-made") == rows("compare-made") == rows("check-made") == ROWS
    assert rows("ingest-made") == ROWS + rows("clusters-made")


@pytest.mark.parametrize("name", reselect.SELECTIONS)
def test_parts_and_stage_of_a_selection_are_timed(run: Path, name: str) -> None:
    for what, names in (("parts", {"gather", "decide", "write"}), ("stage", {"stage", "cpu"})):
        found = reselect._measure(run, name, what)
        assert set(found) == {*names, "peak_mb"}
        assert min(found.values()) > 0
    assert not list((run / ".winnow").glob("select-*"))
