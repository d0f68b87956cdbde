"""Scores of sets in memory: what is asked for, what comes out, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from connectors import read
from scorers import Scores, score
from scorers.catalog import columns_of
from tests.pipelines.corpus import MODEL

ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"{n} + {n} = {2 * n}."} for n in range(5)]
LONG = [{"question": "Say it often.", "answer": "word " * 2000}]


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score(ROWS + LONG, model={"path": MODEL, "max_tokens": 64}, score=["ifd", "loss"])


def test_there_is_a_row_of_scores_for_each_example_in_order(scores: Scores) -> None:
    assert scores["id"].to_pylist() == scores.examples["id"].to_pylist()
    assert [name for name in scores.column_names[6:]] == [c.name for c in columns_of(["loss", "ifd"])]


def test_a_score_that_cannot_be_computed_is_null_and_said(scores: Scores) -> None:
    assert scores["status"].to_pylist() == ["ok"] * 5 + ["overflow"]
    assert scores["loss"].null_count == scores["ifd_ppl"].null_count == 1
    assert "6 rows: 5 scored, 1 overflow" in repr(scores)


def test_a_path_alone_is_a_model(scores: Scores) -> None:
    plain = score(ROWS, model=MODEL, score=["loss"])
    assert plain["loss"].to_pylist() == pytest.approx(scores["loss"].to_pylist()[:5], rel=1e-5)


def test_tokens_and_stored_outputs_are_kept_when_asked_for() -> None:
    kept = score(ROWS, model=MODEL, score=["loss"], store=["entropy", "hidden_mean"])
    assert kept.column_names[-4:] == ["response_at", "token_nll", "token_entropy", "hidden_mean"]
    for row in kept:
        assert len(row["token_entropy"]) == len(row["response_at"]) == row["response_tokens"]
    assert "token_nll" not in score(ROWS, model=MODEL, score=["loss"], tokens=False).stored[""].column_names


def test_a_model_can_be_compared_with_another() -> None:
    both = score(ROWS, model=MODEL, models={"reference": {"path": MODEL}}, score=["rho1", "loss"])
    assert both["rho1_excess"].to_pylist() == [0.0] * 5  # with itself
    assert both.column_names[-1] == "rho1_excess"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"score": ["los"]}, "no scorer 'los'; did you mean 'loss'"),
        ({"score": "loss"}, r"write \['loss'\]"),
        ({"score": []}, "at least one scorer"),
        ({"score": ["rho1"]}, r"name it: `models: \{reference: "),
        ({"models": {"reference": MODEL}}, "no scorer in `score:` reads it"),
        ({"model": {"path": MODEL, "max_token": 3}}, "`max_token` .nearest: 'max_tokens'"),
        ({"model": {"path": MODEL, "max_tokens": 1}}, "model: max_tokens: .*greater than or equal to 2"),
        ({"store": ["entrpy"]}, "did you mean 'entropy'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(ROWS, **{"model": MODEL, "score": ["loss"], **given})


def test_no_rows_have_no_scores() -> None:
    nothing = score(read([]), model=MODEL, score=["loss"])
    assert len(nothing) == 0
    assert "loss" in nothing.column_names


def test_progress_counts_every_row_of_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    score(ROWS, model=MODEL, models={"reference": MODEL}, score=["rho1"], progress=True)
    shown = capsys.readouterr()
    assert "100%" in shown.err
    assert shown.out == ""


def test_what_is_stored_of_tokens_is_no_score(scores: Scores) -> None:
    assert {"input_ids", "token_nll"} <= {*scores.stored[""].column_names}
    assert not {"input_ids", "token_nll"} & {*scores.column_names}
