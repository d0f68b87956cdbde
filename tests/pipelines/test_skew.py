"""One prompt, one cluster or one row out of all proportion: the run ends, and its books balance."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.skew import FIRST_ROW, case_recipe, write_case
from connectors import examples, shards
from pipelines.explain import explain_text
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice
from pipelines.selectors.dart import Dart
from pipelines.selectors.grape import Grape
from pipelines.selectors.pass_rate import PassRate
from tests.pipelines.corpus import MODEL, rows_of

ROWS, ORDINARY = 3000, 50


def run_case(
    folder: Path,
    case: str,
    megabytes: int = 2,
    **changes: Any,  # noqa: ANN401 - any part of a recipe
) -> dict[str, Any]:
    """Runs a case from reading to the report; the manifest's counts."""
    write_case(folder / "data", case, ROWS, megabytes, ordinary=ORDINARY)
    plain = case_recipe(folder / "data", case, str(MODEL)) | {"select": []} | changes
    done = run(parse_recipe(plain), folder / "out", RunnerChoice(), Progress())
    counts: dict[str, Any] = done.manifest["counts"]
    assert (folder / "out" / "report.html").stat().st_size < 1_000_000
    return counts


def of_case(folder: Path, output: str) -> list[dict[str, Any]]:
    return [row for row in rows_of(folder / "out", output) if row["source"] == "lopsided"]


def test_rival_answers_by_the_thousand_are_one_group_of_rows_of_their_own(tmp_path: Path) -> None:
    counts = run_case(tmp_path, "rivals")
    kept = of_case(tmp_path, "train")
    assert counts["read"] == ROWS + ORDINARY
    assert len(kept) == ROWS
    assert len({row["group"] for row in kept}) == 1
    assert f"{ROWS - 1} other kept answers" in explain_text(tmp_path / "out", FIRST_ROW)


@pytest.mark.parametrize(("case", "kind"), [("exact", "exact"), ("near", "near")])
def test_of_a_cluster_of_thousands_one_row_stays(tmp_path: Path, case: str, kind: str) -> None:
    run_case(tmp_path, case)
    dropped = of_case(tmp_path, "dropped")
    [kept] = [row["id"] for row in of_case(tmp_path, "train")]
    assert len(dropped) == ROWS - 1
    assert {(row["kind"], row["duplicate_of"], row["cluster_size"]) for row in dropped} == {
        (kind, kept, ROWS)
    }
    assert f"{ROWS - 1} dropped" in explain_text(tmp_path / "out", kept)


@pytest.mark.parametrize("kept", [True, False])
def test_a_row_of_megabytes_goes_all_the_way(tmp_path: Path, kept: bool) -> None:
    model = {"path": str(MODEL), "max_tokens": 64, "on_overflow": "keep" if kept else "drop"}
    counts = run_case(tmp_path, "large", model=model, emit={"tokens": "always"})
    [row] = of_case(tmp_path, "train" if kept else "dropped")
    assert counts["read"] == 1 + ORDINARY
    assert row["truncated"] == kept
    if kept:
        assert len(row["messages"][-1]["content"]) == 2_000_000
        assert len(row["input_ids"]) == row["prompt_tokens"] + row["response_tokens"] == 64
    else:
        assert row["stage"] == "score"
        assert (row["prompt_tokens"], row["response_tokens"], row["loss"]) == (None, None, None)
    text = explain_text(tmp_path / "out", FIRST_ROW)
    assert len(text) < 10_000


def test_long_rows_are_worked_on_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "UNIT_BYTES", 4_000_000)
    monkeypatch.setattr(examples, "BATCH_CHARS", 1_000_000)
    run_case(tmp_path, "long", megabytes=1)
    units = shards.plan_units(
        map(str, sorted((tmp_path / "out" / ".winnow").glob("ingest-*/part-*.parquet")))
    )
    assert len(of_case(tmp_path, "train")) == 200  # 20 MB
    assert len(units) > 4
    assert max(unit.size for unit in units) <= 4_000_000


@pytest.mark.parametrize(
    "selector",
    [Grape(), Dart(k=4, correct="extra.correct"), PassRate(low=0.2, high=0.8, correct="extra.correct")],
    ids=lambda selector: str(selector.name),
)
def test_one_group_of_a_hundred_thousand_is_decided_on_in_seconds(selector: Any) -> None:  # noqa: ANN401 - any selector
    rows = 100_000
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "id": [f"s/f:{row:08d}" for row in range(rows)],
            "source": pa.repeat("s", rows),
            "group": pa.repeat("g", rows),
            "prompt_tokens": pa.array(np.full(rows, 20), pa.int32()),
            "response_tokens": pa.array(random.integers(1, 200, rows), pa.int32()),
            "truncated": pa.repeat(False, rows),
            "status": pa.repeat("ok", rows),
            "loss": random.random(rows),
            "extra.correct": (random.random(rows) < 0.5).astype(np.float64),
        }
    )
    began = time.monotonic()
    decisions = selector.decide(table, 0)
    assert len(decisions.keep) == rows
    assert time.monotonic() - began < 20  # 10**10 comparisons would take minutes
