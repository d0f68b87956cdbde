"""Scorers that do not come with winnow: registered by a program, and offered by an installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorers import Column, Need, Outputs, Scorer, register, score
from scorers.base import RowValues
from scorers.catalog import BUILT_IN, SCORERS, resolve, versions_of
from tests.pipelines.corpus import MODEL

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"question": f"What is {n} plus {n}?", "answer": f"{n} + {n} = {2 * n}."} for n in range(4)]
LOGPROBS = Need("conditional", "logprob")
COLUMN = Column("peak_loss", "nats", 0.0, float("inf"), "lower", "greatest loss of a response token")
PACKAGE = f"""
from scorers import Column, Need, Scorer, row_means

LOGPROBS = {LOGPROBS!r}
SCORER = Scorer(
    "mean_logprob",
    (Column("mean_logprob", "nats/token", float("-inf"), 0.0, "neither", "mean log-probability"),),
    (LOGPROBS,),
    lambda outputs: {{"mean_logprob": row_means(outputs.tokens[LOGPROBS])}},
    "ours",
)
"""


def peaks(outputs: Outputs) -> dict[str, RowValues]:
    tokens = outputs.tokens[LOGPROBS]
    lengths = np.diff(tokens.offsets)
    found = np.full(len(lengths), np.nan)
    found[lengths > 0] = -np.minimum.reduceat(tokens.values, tokens.offsets[:-1][lengths > 0])
    return {"peak_loss": found}


SCORER = Scorer("peak_loss", (COLUMN,), (LOGPROBS,), peaks, "ours")


@pytest.fixture(autouse=True)
def _catalog_as_it_was() -> Iterator[None]:
    before = dict(SCORERS)
    yield
    SCORERS.clear()
    SCORERS.update(before)


def test_a_registered_scorer_shares_the_pass_with_the_others() -> None:
    register(SCORER)
    scores = score(ROWS, model=MODEL, score=["peak_loss", "loss"])
    for row, stored in zip(scores, scores.stored[""].to_pylist(), strict=True):
        assert row["peak_loss"] == pytest.approx(max(stored["token_nll"]))
        assert row["peak_loss"] >= row["loss"]


def test_what_is_registered_again_replaces_itself_and_never_a_scorer_of_winnow() -> None:
    register(SCORER)
    register(replace(SCORER, version="2"))
    assert versions_of(["peak_loss", "loss"]) == {"peak_loss": "2"}
    with pytest.raises(ValueError, match="the name 'loss' is taken"):
        register(replace(SCORER, name="loss"))
    assert [scorer.version for scorer in resolve(BUILT_IN)] == [""] * len(BUILT_IN)


def test_the_version_of_a_scorer_is_that_of_its_code() -> None:
    first = register(SCORER).version
    assert first == register(SCORER).version
    names: dict[str, Any] = {}
    exec("def peaks(outputs):\n    return {}", {"__name__": "typed"}, names)  # noqa: S102 - our own text
    typed = replace(SCORER, score=names["peaks"])
    assert len({first, register(typed).version, register(typed).version}) == 3  # nobody knows what was typed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Peak loss"}, "small letters"),
        ({"columns": (replace(COLUMN, name="perplexity"),)}, "'perplexity' is written by loss"),
        ({"columns": (replace(COLUMN, name="status"),)}, "'status' is taken"),
        ({"columns": ()}, "declares no columns"),
        ({"needs": ()}, "declares no needs"),
        ({"needs": (Need("conditional", "attention"),)}, "no model gives 'attention'"),  # type: ignore[arg-type] # what is refused
        ({"needs": (Need("sideways", "logprob"),)}, "no view 'sideways'"),  # type: ignore[arg-type] # likewise
        ({"needs": (Need("direct", "logprob", model="teacher"),)}, "no role 'teacher'"),  # type: ignore[arg-type] # likewise
    ],
)
def test_a_scorer_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register(replace(SCORER, **change))
    assert SCORERS.get("peak_loss") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"declares the columns \['peak_loss'\] and gave \[\]"),
        ({"peak_loss": np.zeros(3)}, r"has the shape \(3,\), wanted \(4,\)"),
        ({"peak_loss": np.full(4, np.inf)}, "finite numbers, and NaN where there is no value"),
    ],
)
def test_a_scorer_that_gives_other_than_it_declares_is_named(given: dict[str, Any], message: str) -> None:
    register(replace(SCORER, score=lambda _: given))
    with pytest.raises(ValueError, match=f"scorer 'peak_loss'.*{message}"):
        score(ROWS, model=MODEL, score=["peak_loss"])


def offered(folder: Path, code: str = PACKAGE) -> dict[str, str]:
    """The environment of a process in which a package offers a scorer."""
    about = folder / "my_scorers-1.2.dist-info"
    about.mkdir(parents=True)
    (folder / "my_scorers.py").write_text(code, "utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-scorers\nVersion: 1.2\n", "utf-8")
    (about / "entry_points.txt").write_text("[winnow.scorers]\nmean_logprob = my_scorers:SCORER\n", "utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_an_installed_package_offers_scorers_to_recipes(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\n2 + 2?,4\n3 + 3?,6\n", "utf-8")
    code = f"""
from pipelines import run_recipe
from scorers.catalog import versions_of
done = run_recipe({{
    "name": "own",
    "inputs": [{{"path": {str(tmp_path / "rows.csv")!r}}}],
    "model": {{"path": {str(MODEL)!r}}},
    "score": ["loss", "mean_logprob"],
    "select": [{{"top_k": {{"column": "mean_logprob", "order": "highest", "keep_examples": 1}}}}],
}}, {str(tmp_path / "out")!r})
assert versions_of(["mean_logprob"]) == {{"mean_logprob": "my-scorers 1.2"}}
best, = done.train
assert best["mean_logprob"] == -best["loss"] == max(done.scores["mean_logprob"].to_pylist())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=offered(tmp_path / "site"))


def test_a_package_whose_scorer_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    env = offered(tmp_path, "raise RuntimeError('half installed')")
    command = [sys.executable, "-m", "pipelines.cli", "methods"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert said.returncode == 2
    assert "the package my-scorers 1.2 offers winnow the scorer 'mean_logprob'" in said.stderr
    assert "half installed" in said.stderr
