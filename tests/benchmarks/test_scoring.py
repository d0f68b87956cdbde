"""The scoring benchmark, on a small model through its own command."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import scoring
from tests.scorers.toy_models import write_model


def run(seconds: float, **more: float) -> dict[str, object]:
    found = {
        "tokens": 100,
        "response_tokens": 60,
        "seconds": seconds,
        "peak_mb": 5.0,
        "ready_s": 7.0,
        "flop": 10.0,
    }
    return {**found, "mean_loss": 1.5, "matmul_flop_s": None, **more}


def test_the_report_takes_medians_and_ratios_turn_by_turn() -> None:
    runs = {"ours": [run(1.0), run(2.0), run(4.0)], "loop": [run(3.0), run(4.0), run(16.0)]}
    options = Namespace(model="m", shape="s", dtype="float32", device="cpu", threads=1, rows=3)
    text = scoring.report(runs, options)
    assert "| ours | 50 | 25 to 100 | 5 | 7 |  |" in text
    assert "ours / loop: 3.00" in text  # the ratios of the turns are 3, 2 and 4
    assert "differ by at most 0.0e+00 nats" in text


def test_every_way_reads_the_same_tokens_and_finds_the_same_loss(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Name {n} colours", "response": "red and blue " * (1 + n % 3)} for n in range(12)]
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    options = Namespace(data=[data], rows=10)
    scoring._write_rows(tmp_path / "rows.arrow", options)
    model = write_model(tmp_path / "model")
    found = {
        way: scoring._run_one(
            Namespace(
                one=way,
                model=str(model),
                device="cpu",
                dtype="float32",
                max_tokens=128,
                threads=1,
                rows_file=str(tmp_path / "rows.arrow"),
            )  # fmt: skip
        )
        for way in scoring.WAYS
        if way != "ours, compiled"  # needs a C++ compiler; tests/scorers/models/test_compiling.py
    }
    assert len({one["tokens"] for one in found.values()}) == 1
    losses = [one["mean_loss"] for one in found.values() if one["mean_loss"] is not None]
    assert len(losses) == 5
    assert losses == pytest.approx([losses[0]] * 5, abs=1e-5)
