from __future__ import annotations

import io
import pickle
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.progress import Progress, ProgressCounter, describe, read_counts


def test_a_line_says_how_far_how_fast_and_how_long_still() -> None:
    line = describe("score", {"rows": 500, "tokens": 60_000, "bytes": 0}, 2000, "rows", elapsed=10.0)
    for words in ("score", "500 of 2,000 rows", "50 rows/s", "25 %", "6,000 tokens/s", "0:30 left"):
        assert words in line


def test_reading_is_measured_in_bytes_because_rows_are_not_known_yet() -> None:
    line = describe(
        "ingest", {"rows": 100, "tokens": 0, "bytes": 5_000_000}, 20_000_000, "bytes", elapsed=5.0
    )
    for words in ("5.0 of 20.0 MB", "20 rows/s", "25 %", "0:15 left"):
        assert words in line


def test_a_stage_that_has_not_begun_promises_nothing() -> None:
    assert "left" not in describe("score", {"rows": 0, "tokens": 0, "bytes": 0}, 10, "rows", elapsed=0.0)


def test_counters_of_several_workers_add_up_and_travel_without_their_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.WRITE_SECONDS", 0.0)
    first = ProgressCounter(str(tmp_path))
    first(rows=2, tokens=10)
    second = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own object
    second(rows=3)
    first(rows=1)
    assert read_counts(tmp_path) == {"rows": 6, "tokens": 10, "bytes": 0}


def test_progress_is_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.PLAIN_LINE_SECONDS", 0.01)
    text = io.StringIO()
    with Progress(Console(file=text)).stage("score", tmp_path / "counts", total=10):
        ProgressCounter(str(tmp_path / "counts"))(rows=5)
        time.sleep(0.2)
    assert "5 of 10 rows" in text.getvalue()
    assert "\x1b" not in text.getvalue()
    assert list((tmp_path / "counts").iterdir()) == []


def test_a_worker_that_cannot_see_the_folder_counts_nothing_and_makes_none(tmp_path: Path) -> None:
    ProgressCounter(str(tmp_path / "elsewhere"))(rows=5)
    assert list(tmp_path.iterdir()) == []


def test_where_workers_cannot_count_the_files_that_are_done_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.PLAIN_LINE_SECONDS", 0.01)
    monkeypatch.setattr("pipelines.progress.SHARE_SECONDS", 0.0)
    text = io.StringIO()
    with Progress(Console(file=text)).stage("score", tmp_path / "counts", 1000, share_done=lambda: 0.25):
        time.sleep(0.2)
    assert "250 of 1,000 rows" in text.getvalue()
