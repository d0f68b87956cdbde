"""The table of answers of `winnow view`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.view import measure
from tests.pipelines.view.run import make_view_run


def test_every_question_is_asked_and_timed(tmp_path: Path) -> None:
    seconds = dict(measure(str(make_view_run(tmp_path / "out", 60))))
    assert len(seconds) == 13
    assert all(value > 0 for value in seconds.values())
