"""What a run says, as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import score
from pipelines.progress import Progress, ProgressCounter, numbers
from pipelines.run_log import CONTEXT, FIELDS, JsonFormatter, identified_run, in_stage, is_ours, new_run_id
from pipelines.runner import choose_runner, run_pipeline

WORKERS = "apache_beam.runners.portability.local_job_service"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "observability.md"


def record(message: str, name: str = "pipelines.score", **more: Any) -> logging.LogRecord:  # noqa: ANN401
    made = logging.LogRecord(name, logging.WARNING, "file.py", 1, message, (), None)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    assert set(found) <= set(FIELDS)
    return found


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    monkeypatch.setattr(CONTEXT, "as_json", True)
    with caplog.at_level(logging.INFO, logger="winnow"):
        yield caplog


def test_a_line_names_run_stage_and_shard() -> None:
    with identified_run() as run_id, in_stage("score"):
        found = line(record("scores-000001.parquet: 3 rows without scores: error: x\ny"))
    assert (found["run_id"], found["stage"], found["shard"]) == (run_id, "score", "scores-000001.parquet")
    assert (found["level"], found["logger"]) == ("WARNING", "pipelines.score")
    assert "stage" not in line(record("between stages"))


def test_a_line_holds_no_credentials() -> None:
    try:
        raise RuntimeError("s3://key:hunter2@bucket")
    except RuntimeError:
        made = record("reading https://me:hunter2@host/x")
        made.exc_info = sys.exc_info()
    assert "hunter2" not in json.dumps(line(made))


def test_what_a_worker_process_logged_is_taken_out_of_beams_wrapping() -> None:
    from apache_beam.portability.api import beam_fn_api_pb2

    def made(place: str) -> logging.LogRecord:
        entry = beam_fn_api_pb2.LogEntry(message="rough\nsea", transform_id="score: run the model")
        entry.log_location = place
        return record("Worker: %s", WORKERS, args=(str(entry).replace("\n", " "),))

    found = line(made(f"{score.__file__}:7"))
    assert (found["message"], found["step"], found["logger"]) == (
        "rough\nsea",
        "score: run the model",
        "worker",
    )
    assert is_ours(made(f"{score.__file__}:7"))
    assert not is_ours(made("/lib/apache_beam/runners/worker/sdk_worker_main.py:421"))
    strange = record("Worker: %s", WORKERS, args=("no { entry",))
    assert (line(strange)["message"], is_ours(strange)) == ("Worker: no { entry", True)


def test_each_run_of_a_program_has_an_id_of_its_own_and_one_of_the_command_has_the_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with identified_run() as first, identified_run() as nested:
        assert first == nested
    with identified_run() as second:
        assert second != first
    monkeypatch.setattr(CONTEXT, "run_id", "given")
    with identified_run() as given:
        assert given == "given"
    assert new_run_id() != new_run_id()


def test_progress_is_logged_with_its_numbers_and_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipelines.progress.PLAIN_LINE_SECONDS", 0.01)
    monkeypatch.setattr("pipelines.progress.WRITE_SECONDS", 0.0)
    folder = tmp_path / "counts"
    with Progress().stage("score", folder, total=10):
        ProgressCounter(str(folder))(rows=5, tokens=50)
        deadline = time.monotonic() + 30
        while not as_json.records or not as_json.records[-1].__dict__["numbers"]["rows"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    found = line(as_json.records[-1])
    assert found["stage"] == "score"
    assert found["numbers"]["rows"] == 5
    assert found["numbers"]["rows_total"] == 10
    assert {"rows_per_second", "tokens_per_second", "seconds_left"} <= set(found["numbers"])


def test_a_stage_that_has_not_begun_promises_no_time() -> None:
    assert numbers({"rows": 0, "tokens": 0, "bytes": 0}, 9, "rows", 0.0) == {
        "rows": 0, "seconds": 0.0, "rows_total": 9,
    }  # fmt: skip


def test_the_documentation_has_every_field() -> None:
    text = DOCS.read_text("utf-8")
    for name, meaning in FIELDS.items():
        assert f"| `{name}` | {meaning} |" in text


def test_what_a_worker_process_warns_of_reaches_the_commands_log_with_its_step(tmp_path: Path) -> None:
    import apache_beam as beam

    def warn(number: int) -> int:
        logging.getLogger("pipelines.x").warning("part-%05d.parquet: rough sea", number)
        return number

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create(range(4)) | "look out" >> beam.Map(warn)

    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(line(record))

    handler = Kept()
    logging.getLogger().addHandler(handler)
    try:
        run_pipeline(choose_runner(2, []), build, parallel=True, log=tmp_path / "workers.log")
    finally:
        logging.getLogger().removeHandler(handler)
    said = [found for found in lines if "rough sea" in found["message"]]
    assert {found["shard"] for found in said} == {f"part-{number:05d}.parquet" for number in range(4)}
    assert {found["level"] for found in said} == {"WARNING"}
    assert all("look out" in found["step"].replace("_", " ") for found in said), said
