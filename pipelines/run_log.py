"""What a run says, as one JSON object a line: for `--log-format json`.

A line has the fields of FIELDS, those that have a value. The command sends everything through Python's
logging, so that what libraries and local worker processes say comes in the same form; Beam hands on what its
worker processes log. Workers on other machines log where their engine puts it, under the job's name, which
ends in the run's id.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from connectors.secrets import without_secrets

LogFormat = Literal["text", "json"]

FIELDS: dict[str, str] = {
    "time": "when it was said, UTC, ISO 8601 with milliseconds",
    "level": "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    "run_id": "which run; also in manifest.json",
    "stage": "which stage was running",
    "step": "which step of the stage's Beam pipeline, where a worker process says it",
    "shard": "which file of the stage was being made",
    "logger": "which module or library says it; `worker` for a worker process",
    "message": "the line as people read it",
    "numbers": "an object of what the line counts: rows, tokens, bytes, seconds, rates",
    "error": "the traceback of an error that is no user's fault",
}
_SHARD = re.compile(r"([\w.-]+\.(?:parquet|arrow|npy)): ")
_OURS = ("pipelines", "scorers", "connectors", "winnow")
_WORKERS = "apache_beam.runners.portability.local_job_service"  # logs what worker processes log
_ROOMS = tuple(str(Path(__file__).parents[1] / room) + os.sep for room in _OURS)


@dataclass
class Context:
    """What this process is doing, for the lines it logs.

    Attributes:
        run_id: Id of the run; "" between runs.
        stage: Its stage; "" between stages.
        as_json: Whether lines are JSON.
    """

    run_id: str = ""
    stage: str = ""
    as_json: bool = False


CONTEXT = Context()


def new_run_id() -> str:
    """An id of a run: sorts by time, unique.

    Example:
        >>> re.fullmatch(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{8}", new_run_id()) is not None
        True
    """
    return f"{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


@contextmanager
def identified_run() -> Iterator[str]:
    """Gives a run its id: the one of the command, or a new one for a run that a program starts."""
    before = CONTEXT.run_id
    CONTEXT.run_id = before or new_run_id()
    try:
        yield CONTEXT.run_id
    finally:
        CONTEXT.run_id = before


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Notes that lines are of this stage."""
    before, CONTEXT.stage = CONTEXT.stage, name
    try:
        yield
    finally:
        CONTEXT.stage = before


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = _from_worker(record)
        message = record.getMessage() if entry is None else entry.message
        shard = getattr(record, "shard", None) or (found[1] if (found := _SHARD.match(message)) else None)
        error = self.formatException(record.exc_info) if record.exc_info else getattr(record, "error", None)
        fields = {
            "time": _utc(record.created),
            "level": record.levelname,
            "run_id": CONTEXT.run_id,
            "stage": getattr(record, "stage", None) or CONTEXT.stage,
            "step": entry and entry.transform_id,
            "shard": shard,
            "logger": record.name if entry is None else "worker",
            "message": without_secrets(message),
            "numbers": getattr(record, "numbers", None),
            "error": without_secrets(error) if error else None,
        }
        return json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False)


def _utc(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


def _from_worker(record: logging.LogRecord) -> Any:  # noqa: ANN401 - Beam ships no types
    """What a worker process logged (a LogEntry), which Beam logs here as text; None for anything else."""
    if record.name != _WORKERS or record.msg != "Worker: %s":
        return None
    from apache_beam.portability.api import beam_fn_api_pb2
    from google.protobuf import text_format

    try:
        return text_format.Parse(record.getMessage().removeprefix("Worker: "), beam_fn_api_pb2.LogEntry())
    except text_format.ParseError:  # it is none: shown as it is
        return None


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is no chatter of Beam in a worker process, whose errors come back by themselves."""
    entry = _from_worker(record)
    return entry is None or entry.log_location.startswith(_ROOMS)


def log_json(verbose: bool) -> None:
    """Sends all that this process logs to standard error as JSON; for a command.

    Args:
        verbose: Also what libraries say at level INFO.
    """
    # A copy of standard error: the real one goes to a file while worker processes run.
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", encoding="utf-8"))
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger(_WORKERS).setLevel(logging.WARNING)
    if not verbose:
        handler.addFilter(is_ours)
    logging.captureWarnings(True)
    CONTEXT.as_json = True


def say(level: int, message: str, stage: str = "", **fields: Any) -> None:  # noqa: ANN401 - any JSON
    """Logs a line of the command's own.

    Args:
        level: As of `logging`.
        message: As people read it.
        stage: Of which it speaks; the running one when empty.
        fields: `numbers` and `error`, see FIELDS.
    """
    logging.getLogger("winnow").log(level, message, extra={"stage": stage, **fields})
