"""The study of selections: what is planted, what each selector is asked for, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.planted import Answer, exchange_answers
from benchmarks.selection import (
    SELECTORS,
    Study,
    overview,
    planted_among_longest,
    planted_share,
    recipe,
    table,
    trained_tokens,
    write_rows,
)
from tests.pipelines.corpus import MODEL

ANSWERS = [Answer(f"question {at}?", f"answer {at}", at) for at in range(40)]


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_is_a_valid_recipe_for_any_share(name: str, tmp_path: Path) -> None:
    for keep in (0.01, 1 / 3, 0.99):
        made = recipe(tmp_path / "pool.jsonl", MODEL, name, SELECTORS[name](keep))
        assert made.name == name
        assert made.stores_tokens  # masks and the sets they are held against come from one scoring


def test_the_share_that_is_said_is_exchanged_the_same_each_time(tmp_path: Path) -> None:
    for share, count in ((0.1, 4), (0.2, 8), (0.4, 16)):
        planted = exchange_answers(ANSWERS, share, 0)
        assert sum(answer.wrong for answer in planted) == count
        assert planted == exchange_answers(ANSWERS, share, 0)
        changed = [new.response != old.response for new, old in zip(planted, ANSWERS, strict=True)]
        assert changed == [answer.wrong for answer in planted]
    write_rows(tmp_path / "pool.jsonl", planted)
    rows = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text("utf-8").splitlines()]
    assert sum(row["planted"] for row in rows) == 16


def write_run(folder: Path, rows: list[tuple[int, list[int], int]]) -> Path:
    """A training set of (exchanged, labels, response tokens)."""
    (folder / "train").mkdir(parents=True)
    extra = [json.dumps({"planted": planted}) for planted, _, _ in rows]
    columns = {
        "extra": extra,
        "labels": [own for _, own, _ in rows],
        "response_tokens": [own for *_, own in rows],
    }
    pq.write_table(pa.table(columns), folder / "train" / "train-00000.parquet")
    return folder


def test_tokens_and_exchanged_rows_are_counted(tmp_path: Path) -> None:
    out = write_run(tmp_path, [(1, [-100, 5, 6], 2), (0, [-100, 7, -100], 2), (0, [-100, 8, 9], 2)])
    assert trained_tokens(out) == 5
    assert planted_share(out) == pytest.approx(1 / 3)


def test_exchanged_rows_among_the_longest(tmp_path: Path) -> None:
    out = write_run(tmp_path, [(1, [1], 50), (0, [1], 10), (0, [1], 40), (1, [1], 5)])
    assert planted_among_longest(out, 50) == 1.0
    assert planted_among_longest(out, 90) == 0.5


def test_the_table_is_sorted_by_loss_and_says_what_it_cannot_tell() -> None:
    def arm(label: str, loss: float) -> dict[str, Any]:
        return {"label": label, "rows": 10, "loss": loss}

    def against(name: str, low: float, high: float, verdict: str) -> dict[str, Any]:
        loss = {"difference": (low + high) / 2, "low": low, "high": high, "verdict": verdict}
        return {"run": "IFD", "against": name, "loss": loss}

    results = {
        "arms": [arm("random", 2.0), arm("IFD", 1.9)],
        "comparisons": [
            against("random", -0.2, 0.0, "helps"),
            against("longest", -0.1, 0.1, "cannot tell"),
            against("everything", 0.1, 0.3, "does not help"),
        ],
    }
    lines = table(Study(0.2, results, {"IFD": 0.05, "random": 0.2})).splitlines()
    assert lines[0] == "### 20 % exchanged"
    assert lines[4] == (
        "| IFD | 10 | 5 % | 1.9000 | **-0.100** (-0.200 to +0.000) helps "
        "| +0.000 (-0.100 to +0.100) cannot tell | **+0.200** (+0.100 to +0.300) does not help |"
    )
    assert lines[5] == "| random | 10 | 20 % | 2.0000 |  |  |  |"
    results["arms"].append(arm("everything", 2.25))
    together = overview([Study(0.2, results, {"IFD": 0.05, "random": 0.2})] * 2).splitlines()
    assert together[3].count("5 % | **-0.100** (-0.200 to +0.000) |") == 2
    assert "| random | 20 % |  | 20 % |  |" in together
    assert "| everything |  | +0.250 |  | +0.250 |" in together
