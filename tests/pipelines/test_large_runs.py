"""Runs over many rows: all the real data, and a hundred thousand made ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice, choose_runner
from tests.pipelines.corpus import rows_of

LOCAL = RunnerChoice()
QUIET = Progress()


@pytest.mark.realdata
def test_all_real_data_goes_through_one_run_with_balanced_books(realdata: Path, tmp_path: Path) -> None:
    folders: tuple[str, ...] = (
        "alpaca_eval",
        "eval_sets",
        "formats",
        "gsm8k",
        "gsm8k_answers",
        "halueval",
        "llmbar",
    )
    folders += ("malformed", "near_duplicates", "openassistant")
    plain = {
        "name": "everything",
        "inputs": [{"path": str(realdata / folder)} for folder in folders],
        "max_bad_fraction": 0.02,
        "dedupe": {"minhash": {"threshold": 0.8}},
        "select": [{"random": {"keep": 0.5}}],
    }
    done = run(parse_recipe(plain), tmp_path / "out", LOCAL, QUIET)
    counts = done.manifest["counts"]
    assert counts["read"] == counts["bad"] + counts["dropped"] + counts["kept"]
    assert counts["read"] > 50_000
    kept, dropped = rows_of(done.out, "train"), rows_of(done.out, "dropped")
    ids = [row["id"] for row in kept + dropped]
    assert len(ids) == len(set(ids)) == counts["kept"] + counts["dropped"]
    assert [row["id"] for row in kept] == sorted(row["id"] for row in kept)
    originals = {row["id"] for row in kept} | {row["id"] for row in dropped if row["stage"] != "dedupe"}
    assert {row["duplicate_of"] for row in dropped if row["stage"] == "dedupe"} <= originals


def test_a_hundred_thousand_rows_are_all_accounted_for(tmp_path: Path) -> None:
    """Beam's threaded mode loses about 2 % of such a corpus; this is where it would show."""
    rows = 100_000
    with (tmp_path / "big.jsonl").open("w") as file:
        for number in range(rows):
            # every tenth row repeats the one before it
            name = number - 1 if number % 10 == 9 else number
            file.write(
                f'{{"prompt": "What is the name of number {name}?", "completion": "It is number {name}."}}\n'
            )
    plain = {
        "name": "big",
        "inputs": [{"path": str(tmp_path / "big.jsonl")}],
        "select": [{"random": {"keep_examples": 12_345}}],
    }
    counts = run(parse_recipe(plain), tmp_path / "out", choose_runner(2, []), QUIET).manifest["counts"]
    assert (counts["read"], counts["kept"], counts["duplicates"]["exact"]) == (rows, 12_345, rows // 10)
    assert counts["dropped"] == rows - 12_345
