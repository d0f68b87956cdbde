"""The stage that checks responses."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam import Create, ParDo
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from pydantic import ValidationError

from connectors.shards import plan_units, write_parquet
from connectors.storage import make_folder
from pipelines.check import CHECK_SCHEMA, CheckTask, CheckUnit, NoGoldAnswer, check
from pipelines.check_settings import CheckSettings
from pipelines.drops import DROP_SCHEMA
from pipelines.progress import Progress
from pipelines.runner import RunnerChoice
from pipelines.stages import StageResult, Workspace
from tests.pipelines.dedupe.test_duplicates import examples

EXACT = CheckSettings(gold="gold", kind="exact")
Row = tuple[str, dict[str, Any]]
ROWS: list[Row] = [
    ("The answer is Paris.", {"gold": "paris"}),
    ("The answer is Rome.", {"gold": "Paris", "more": 1}),
    ("one line\nand another", {"gold": "Paris"}),
    ("The answer is 42.", {"gold": 42}),
    ("The answer is Paris.", {}),
    ("The answer is Paris.", {"gold": ["Paris"]}),
]


def write_rows(folder: Path, rows: list[Row], shards: int = 1) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    table = examples([("q", response) for response, _ in rows], extra=[extra for _, extra in rows])
    size = -(-table.num_rows // shards)
    paths = [str(folder / f"part-{number}.parquet") for number in range(shards)]
    for number, path in enumerate(paths):
        write_parquet(path, table.slice(number * size, size), table.schema)
    return paths


def run_check(
    folder: Path,
    rows: list[Row],
    settings: CheckSettings = EXACT,
    workers: int = 1,
    dropped: tuple[int, ...] = (),
) -> StageResult:
    paths = write_rows(folder, rows, shards=2)
    units = plan_units(paths, rows=-(-len(rows) // 2))
    drops = pa.Table.from_pylist([{"row": row} for row in dropped], DROP_SCHEMA)
    write_parquet(folder / "drops.parquet", drops, DROP_SCHEMA)
    ingested = StageResult("ingest", "k", str(folder), ("part-0.parquet",), 0, {})
    clusters = StageResult("clusters", "c", str(folder), ("drops.parquet",), 0, {})
    space = Workspace(folder / "out", RunnerChoice(workers=workers), Progress())
    make_folder(space.work)
    return check(space, settings, units, ingested, [clusters])


def test_the_step_writes_answers_and_verdicts_of_a_unit(tmp_path: Path) -> None:
    [unit] = plan_units(write_rows(tmp_path, ROWS))
    task = CheckTask("check-000000.parquet", unit, ())
    with test_pipeline.TestPipeline("FnApiRunner") as pipeline:
        names = pipeline | Create([task]) | ParDo(CheckUnit(str(tmp_path), EXACT, str(tmp_path / "counts")))
        assert_that(names, equal_to([task.file]))
    table = pq.read_table(tmp_path / task.file)
    assert table.schema.equals(CHECK_SCHEMA)
    assert table["correct"].to_pylist() == [1.0, 0.0, None, 1.0, None, None]
    assert table["answer"].to_pylist() == ["Paris", "Rome", None, "42", "Paris", "Paris"]


def test_every_row_left_is_counted_once(tmp_path: Path) -> None:
    stage = run_check(tmp_path, ROWS)
    counts = {"right": 2, "wrong": 1, "unread": 1, "no_gold": 2}
    assert stage.stats == {"rows": 6, **counts, "wrong_calculation": 0}
    assert stage.files == ("check-000000.parquet", "check-000001.parquet")
    assert run_check(tmp_path, ROWS).reused


def test_dropped_rows_are_not_checked(tmp_path: Path) -> None:
    stage = run_check(tmp_path, ROWS, dropped=(0, 3))
    ids = [row_id for path in stage.paths for row_id in pq.read_table(path)["id"].to_pylist()]
    assert ids == [f"s/f:{n:08d}" for n in (2, 3, 5, 6)]
    assert stage.stats["rows"] == 4


def test_other_settings_check_again(tmp_path: Path) -> None:
    first = run_check(tmp_path, ROWS)
    other = run_check(tmp_path, ROWS, CheckSettings(gold="more", kind="exact"))
    assert (other.key != first.key, other.stats["no_gold"]) == (True, 5)


def test_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    one, two = (run_check(tmp_path / str(workers), ROWS, workers=workers) for workers in (1, 2))
    assert [Path(path).read_bytes() for path in one.paths] == [Path(path).read_bytes() for path in two.paths]


def test_a_field_that_no_row_has_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(NoGoldAnswer, match=r"field 'golden'; .*: gold, more\."):
        run_check(tmp_path, ROWS[:2] * 2, CheckSettings(gold="golden", kind="exact"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"gold": "", "kind": "exact"},
        {"gold": "g", "kind": "code"},
        {"gold": "g", "kind": "exact", "gould": 1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CheckSettings.model_validate(wrong)


def test_mathematical_answers_are_compared_inside_a_worker(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    rows: list[Row] = [("It is $\\sqrt{8}$, so \\boxed{\\sqrt{8}}", {"gold": "2\\sqrt{2}"}),
                       ("The answer is 7.", {"gold": "#### 8"})]  # fmt: skip
    stage = run_check(tmp_path, rows, CheckSettings(gold="gold", kind="math"))
    counts = {"right": 1, "wrong": 1, "unread": 0, "no_gold": 0}
    assert stage.stats == {"rows": 2, **counts, "wrong_calculation": 0}


@pytest.mark.realdata
def test_the_stage_agrees_with_published_labels(realdata: Path, tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    with gzip.open(realdata / "gsm8k_answers" / "abel_gsm8k_13b.jsonl.gz", "rt") as file:
        labelled = [json.loads(line) for line in file][:300]
    stage = run_check(
        tmp_path, [(row["response"], row) for row in labelled], CheckSettings(gold="gold", kind="math")
    )
    found = [value for path in stage.paths for value in pq.read_table(path)["correct"].to_pylist()]
    pairs = Counter(zip((row["result"] for row in labelled), found, strict=True))
    assert pairs == {
        (True, 1.0): pairs[True, 1.0],
        (False, 0.0): pairs[False, 0.0],
        (False, None): 1,
    }  # "infinite"
