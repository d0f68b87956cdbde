"""The failure budget: how many rows the model may fail on before the run fails.

A call of the model that fails is tried again in halves, down to single rows. A row that fails alone, or for
which the model gives NaN or infinity, has no scores (no vector) but a status, and is counted here. What was
scored stays in the stage's files, so that the same command with a larger budget goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.stages import StageResult
from scorers.base import FAILURES

_LOG = logging.getLogger(__name__)

MOST_REASONS = 10  # lines of the table


class TooManyFailedRows(RuntimeError):  # noqa: N818 - reads as what happened
    """The model failed on more rows than the recipe allows."""


def sum_stats(stats: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Adds up the stats of several files.

    "kind/name" becomes [kind][name]; of examples the first one stays, and a count of 0 is left out.

    Example:
        >>> sum_stats([{"rows": 2, "status/ok": 1, "example/error: x": "a"}, {"rows": 1, "status/ok": 1}])
        {'status': {'ok': 2}, 'message': {}, 'example': {'error: x': 'a'}, 'rows': 3}
    """
    parts: dict[str, dict[str, Any]] = {"status": {}, "message": {}, "example": {}}
    numbers: dict[str, Any] = {}
    for own in stats:
        for key, value in own.items():
            kind, slash, name = key.partition("/")
            if not slash:
                numbers[key] = numbers.get(key, 0) + value
            elif kind == "example":
                parts[kind].setdefault(name, value)
            elif value:
                parts[kind][name] = parts[kind].get(name, 0) + value
    return {kind: dict(sorted(own.items())) for kind, own in parts.items()} | dict(sorted(numbers.items()))


def warn_of_rows(shard: str, stats: Mapping[str, Any]) -> None:
    """Logs why rows of a shard have no scores."""
    for key, count in stats.items():
        if key.startswith("message/"):
            why = key.removeprefix("message/")
            _LOG.warning("%s: %d rows without scores: %s", shard, count, why, extra={"shard": shard})


def failed_rows(stage: StageResult) -> int:
    """How many rows the model failed on in a stage of scores or of vectors."""
    status = stage.stats.get("status", {})
    return int(stage.stats.get("failed", 0)) + int(sum(status.get(name, 0) for name in FAILURES))


def check_failed_rows(stage: StageResult, allowed: float) -> None:
    """Fails the run when the model failed on too many rows.

    Args:
        stage: A finished stage of scores or of vectors.
        allowed: The recipe's `max_failed_fraction`.

    Raises:
        TooManyFailedRows: With the reasons, a row of each, and what to do.
    """
    failed, rows = failed_rows(stage), stage.stats["rows"]
    if failed <= allowed * rows:
        return
    raise TooManyFailedRows(
        f"stage {stage.name}: the model failed on {failed:,} of {rows:,} rows ({100 * failed / rows:.2f} %), "
        f"more than max_failed_fraction: {allowed:g} allows. Each was tried alone.\n{_reasons(stage)}\n"
        "Out of memory: lower batch_tokens or max_tokens of the model. NaN or infinity: take dtype: float32, "
        "or look whether the model's weights are whole. Anything else is told by its text and its row.\n"
        "What was scored is kept. To go on without these rows, run again with "
        f"--set max_failed_fraction={min(1.0, failed / rows * 1.1):.2g}"
    )


def _reasons(stage: StageResult) -> str:
    """One line for each reason: rows, what was said, and the id of one of them."""
    examples = stage.stats.get("example", {})
    known = {
        text: count
        for text, count in stage.stats.get("message", {}).items()
        if text.partition(":")[0] in FAILURES
    }
    most = sorted(known.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"  {count:>8,}  {text}" + (f"  (for example {examples[text]})" if text in examples else "")
        for text, count in most[:MOST_REASONS]
    ]
    left = failed_rows(stage) - sum(count for _, count in most[:MOST_REASONS])
    return "\n".join([*lines, *([f"  {left:>8,}  for other reasons"] if left > 0 else [])])
