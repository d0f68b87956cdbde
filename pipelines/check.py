"""Stage check: what the text of a response says of it without a model, one file for each unit.

The final answer is read (scorers/correctness.py) and, where a field of the input holds the right one,
compared with it; calculations are worked out again (scorers/calculations.py), and words counted that the
prompt has (scorers/prompt_overlap.py). Rows that were dropped before are not checked.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from connectors.examples import prompt_text, response_text
from connectors.shards import Unit, read_stats, read_unit, write_parquet
from connectors.storage import join
from pipelines.check_settings import CheckSettings
from pipelines.drops import drop_files, left_mask, rows_left
from pipelines.metrics import StageMetrics
from pipelines.progress import ProgressCounter
from pipelines.stages import StageResult, Workspace, run_stage
from scorers.calculations import wrong_calculations
from scorers.correctness import Kind, answer_of, same_answer
from scorers.math_equality import require_math_verify
from scorers.prompt_overlap import prompt_overlap

CHECKED_COLUMNS = ["id", "messages", "extra"]
CHECK_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("answer", pa.string()),  # as read from the response; null when none could be read
        ("correct", pa.float64()),  # 1 right, 0 wrong, null when nothing can be said
        ("wrong_calculations", pa.float64()),  # how many calculations written out do not hold
        ("wrong_calculation", pa.string()),  # the first of them
        ("prompt_overlap", pa.float64()),  # null for a response without words
    ]
)
VERDICTS = {True: "right", False: "wrong", None: "unread"}


class NoGoldAnswer(ValueError):  # noqa: N818 - reads as what happened
    """No row has a gold answer."""


@dataclass(frozen=True)
class CheckTask:
    """One unit to check."""

    file: str
    unit: Unit
    drops: tuple[str, ...]


class CheckUnit(beam.DoFn):
    """Checks the rows of a unit that were not dropped before, and writes what it found."""

    def __init__(self, folder: str, settings: CheckSettings, counts: str) -> None:
        self.folder = folder
        self.settings = settings
        self.on_rows = ProgressCounter(counts)
        self.metrics = StageMetrics("check")

    def process(self, task: CheckTask) -> Iterator[str]:
        """Yields the name of the finished file."""
        with self.metrics.task():
            self._check(task)
        yield task.file

    def _check(self, task: CheckTask) -> None:
        left = left_mask(task.drops, task.unit)
        table = read_unit(task.unit, CHECKED_COLUMNS).filter(pa.array(left))
        rows, stats = [], Counter[str]()
        for row in table.to_pylist():
            response = response_text(row["messages"])
            gold = gold_text(row["extra"], self.settings.gold) if self.settings.gold else None
            answer, correct = check_response(response, gold, self.settings.kind)
            wrong = wrong_calculations(response)
            stats["no_gold" if gold is None else VERDICTS[correct]] += 1
            stats["wrong_calculation"] += bool(wrong)
            rows.append(
                {
                    "id": row["id"],
                    "answer": answer,
                    "correct": None if correct is None else float(correct),
                    "wrong_calculations": float(len(wrong)),
                    "wrong_calculation": wrong[0] if wrong else None,
                    "prompt_overlap": prompt_overlap(prompt_text(row["messages"]), response),
                }
            )
            self.on_rows(rows=1)
        checked = pa.Table.from_pylist(rows, CHECK_SCHEMA)
        size = write_parquet(join(self.folder, task.file), checked, CHECK_SCHEMA, dict(stats))
        self.metrics(rows_checked=len(rows), bytes_written=size)


def check_response(response: str, gold: str | None, kind: Kind) -> tuple[str | None, bool | None]:
    """The answer in a response and whether it is right; None for what cannot be said.

    Example:
        >>> check_response("So the answer is 42.", "42", "math")
        ('42', True)
        >>> check_response("So the answer is 42.", None, "math")
        ('42', None)
    """
    answer = answer_of(response, kind)
    if answer is None or gold is None:
        return answer, None
    return answer, same_answer(answer, gold, kind)


def gold_text(extra: str | None, field: str) -> str | None:
    """The gold answer in the JSON of a row's `extra`; None for a field that is absent, empty or a list.

    Example:
        >>> gold_text('{"gold": 42}', "gold"), gold_text('{"gold": ["a", "b"]}', "gold")
        ('42', None)
    """
    value = json.loads(extra).get(field) if extra else None
    if isinstance(value, str):
        return value if value.strip() else None
    is_value = isinstance(value, bool | int | float) and math.isfinite(value)
    return json.dumps(value) if is_value else None


def check(
    space: Workspace,
    settings: CheckSettings,
    units: Sequence[Unit],
    ingested: StageResult,
    dropping: Sequence[StageResult],
) -> StageResult:
    """Checks the response of every example that no stage before dropped.

    The stage's numbers are `rows` = `right` + `wrong` + `unread` + `no_gold`; `wrong_calculation` of them.

    Args:
        space: The run's workspace.
        settings: Where the gold answer is and how to compare.
        units: The pieces of work.
        ingested: The stage that made the units.
        dropping: The stages that dropped rows; see pipelines/drops.py.

    Raises:
        NoGoldAnswer: If the settings name a field, and no row has an answer there.
        ModuleNotFoundError: If kind is math and math-verify is not installed.
    """
    if settings.kind == "math" and settings.gold:
        require_math_verify()
    drops = drop_files(dropping)
    tasks = [CheckTask(f"check-{unit.name}.parquet", unit, drops) for unit in units]

    def build(collection: beam.PCollection, folder: str) -> None:
        _ = collection | "check answers" >> beam.ParDo(CheckUnit(folder, settings, space.counts("check")))

    stage = run_stage(
        space,
        "check",
        settings.model_dump(mode="json"),
        [ingested, *dropping],
        tasks,
        build,
        total=rows_left(units, dropping),
        summarise=_summarise,
    )
    if settings.gold and stage.stats["rows"] and stage.stats["no_gold"] == stage.stats["rows"]:
        raise NoGoldAnswer(
            f"check.gold: no row has an answer in the field {settings.gold!r}; "
            f"fields that the input has besides the conversation: {_fields(units[0]) or 'none'}. "
            "A field that was read as part of the conversation is not there: name the right one, or add one."
        )
    return stage


def _fields(unit: Unit) -> str:
    extras = read_unit(unit, ["extra"])["extra"].drop_null().to_pylist()
    return ", ".join(sorted({name for extra in extras for name in json.loads(extra)}))


def _summarise(paths: list[str]) -> dict[str, Any]:
    totals = Counter(dict.fromkeys(("rows", "right", "wrong", "unread", "no_gold", "wrong_calculation"), 0))
    for path in paths:
        totals.update(read_stats(path))
    return dict(totals)
