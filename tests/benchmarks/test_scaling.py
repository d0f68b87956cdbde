"""The measures of a run, and the laws fitted to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.instructions import write_instructions
from benchmarks.scaling import growth, laws, measure, recipe, table

STAGES = ["ingest", "signatures", "clusters", "select", "emit"]


def test_every_stage_is_measured(tmp_path: Path) -> None:
    write_instructions(tmp_path / "data", 600)
    found = measure(recipe(tmp_path / "data"), tmp_path, workers=1)
    assert [own["stage"] for own in found["stages"]] == STAGES
    for own in found["stages"]:
        assert own["cpu"] > 0
        assert own["written"] > 0
        assert own["driver"] > 50_000_000  # Python and Arrow alone
        assert own["shuffled"] < 100_000  # names of files; the rows are half a megabyte
    assert found["stages"][0]["shuffled"] > 0
    assert found["counts"]["read"] == 600
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    printed = table(found)
    assert all(f"| {stage} |" in printed for stage in STAGES)


def run_of(scale: float, exponent: float) -> dict[str, list[dict[str, float | str]]]:
    cost = scale**exponent
    sizes = {"driver": 1000 * scale, "written": 10 * scale, "shuffled": 0.0}
    return {"stages": [{"stage": "ingest", "cpu": 0.75 * cost, "after": 0.25 * cost, **sizes}]}


def test_a_law_gives_back_the_exponent_and_the_slopes_that_made_the_measures() -> None:
    assert growth(10, 1.0, 1000, 100.0) == pytest.approx(1)
    line = laws([(1000, run_of(1000, 1.5)), (100_000, run_of(100_000, 1.5))]).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["ingest", "1.50", f"{100_000**1.5 / 0.1:.1f}", "1,000.0", "10.0", "0.0"]
