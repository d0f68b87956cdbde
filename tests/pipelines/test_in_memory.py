"""Deduplicating, scoring and selecting in memory is what `winnow run` does."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from connectors import Examples, read
from pipelines import Run, Selection, deduplicate, open_run, run_recipe, select
from pipelines.cli import app
from pipelines.selectors.random_sample import RandomSample
from scorers import Column, Need, Outputs, Scorer, Scores, register, score
from scorers.base import RowValues
from scorers.catalog import SCORERS
from tests.pipelines.corpus import MODEL

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60  # rows of each input of the quickstart: all its formats, defects and rival answers
RECIPE: dict[str, Any] = yaml.safe_load((ROOT / "quickstart" / "recipe.yaml").read_text("utf-8"))
ROWS = [
    {"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}.", "level": n % 3} for n in range(12)
]


@pytest.fixture(scope="module")
def in_quickstart() -> Any:  # noqa: ANN401 - a generator fixture
    before = Path.cwd()
    os.chdir(ROOT)
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, in_quickstart: None) -> Run:
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ["run", "quickstart/recipe.yaml", "--output", str(out), "--limit", str(LIMIT)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return open_run(out)


@pytest.fixture(scope="module")
def unique(in_quickstart: None) -> Examples:
    return deduplicate(read(inputs=RECIPE["inputs"], limit=LIMIT), **RECIPE["dedupe"])


@pytest.fixture(scope="module")
def scores(unique: Examples) -> Scores:
    return score(unique, model=RECIPE["model"], score=RECIPE["score"])


@pytest.fixture(scope="module")
def chosen(scores: Scores) -> Selection:
    return select(scores, RECIPE["select"], seed=RECIPE["seed"])


@pytest.mark.parametrize("output", ["kept", "dropped", "scores", "suspects", "bad"])
def test_every_table_is_that_of_the_same_recipe_by_the_command(
    finished: Run, chosen: Selection, output: str
) -> None:
    own: pa.Table = getattr(chosen, output).table
    name = {"kept": "train", "bad": "bad_rows"}.get(output, output)
    published: pa.Table = getattr(finished, name).table
    assert own.num_rows
    assert own.schema.equals(published.schema)
    assert own.equals(published)


def test_scores_are_those_of_the_command_before_any_selection(finished: Run, scores: Scores) -> None:
    assert scores.table.equals(finished.scores.table.select(scores.column_names))


def test_a_finished_run_is_decided_on_again_without_a_change_to_its_folder(
    finished: Run, chosen: Selection, scores: Scores
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(finished.out).rglob("*")}
    assert select(finished, RECIPE["select"]).kept.table.equals(chosen.kept.table)
    steps = [{"q_tuning": {"keep": 0.25, "token_keep": 0.5}}]
    other, same = select(finished, steps), select(scores, steps)
    columns = same.kept.column_names  # the run checked texts too, for its verdict
    assert other.kept.table.select(columns).equals(same.kept.table)
    assert other.dropped.table.select(same.dropped.column_names).equals(same.dropped.table)
    assert {path: path.stat().st_mtime_ns for path in Path(finished.out).rglob("*")} == before


def test_every_row_is_kept_dropped_or_bad(chosen: Selection, finished: Run) -> None:
    counts = finished.manifest["counts"]
    outcomes = {name: 0 for name in ("kept", "dropped", "bad")}
    for row in chosen.summary():
        outcomes[row["outcome"]] += row["rows"]
    assert outcomes == {name: counts[name] for name in outcomes}
    assert sum(outcomes.values()) == counts["read"]


def test_a_row_is_explained_from_an_opened_run(finished: Run) -> None:
    dropped = finished.dropped[0]
    text = finished.explain(dropped["id"])
    assert dropped["reason"] in text
    assert "rows kept" in repr(finished)


def test_a_recipe_runs_from_plain_data(tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("question,answer\n2 + 2?,4\n3 + 3?,6\n3 + 3?,6\n", "utf-8")
    recipe = {"name": "few", "inputs": [{"path": str(data)}]}
    done = run_recipe(recipe, tmp_path / "out")
    assert (len(done.train), len(done.dropped), len(done.suspects)) == (2, 1, 0)
    with pytest.raises(ValueError, match="give output="):
        run_recipe(recipe)
    with pytest.raises(ValueError, match="unknown key `inptus`"):
        run_recipe({"name": "few", "inptus": []}, tmp_path / "out")


def test_rows_are_selected_without_scores() -> None:
    half = select(ROWS, [{"top_k": {"column": "extra.level", "order": "highest", "keep_examples": 4}}])
    assert {row["extra"] for row in half.kept} == {'{"level": 2}'}
    assert select(ROWS, [RandomSample(keep=0.5)]).kept.table.equals(
        select(ROWS, [{"random": {"keep": 0.5}}]).kept.table
    )
    assert len(select(ROWS).kept) == len(ROWS)


def test_rows_with_bad_and_duplicate_ones_balance() -> None:
    unique = deduplicate([*ROWS, ROWS[3], {"question": "?"}])
    assert len(unique.dropped) == len(unique.bad) == 1
    assert unique.dropped[0]["duplicate_of"] == unique[3]["id"]
    again = deduplicate(unique, exact=False)
    assert len(again) == len(ROWS) + 1  # it looks at all rows again
    assert select(unique).headline() == "12 of 14 rows kept (85.7 %), 1 dropped, 1 bad"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"topk": {}}, "no selector 'topk'; did you mean 'top_k'"),
        ({"q_tuning": {"keep": 0.5}}, "add entropy, loss to `score:`"),
        ({"k_center": {"keep": 0.5}}, "name the model: `embed:"),
        ({"top_k": {"column": "extra.question", "order": "highest", "keep": 0.5}}, r"^top_k: [^\[]*$"),
    ],
)
def test_what_does_not_fit_is_said_plainly(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select([{"prompt": "a", "completion": "b", "question": "x"}], [step])


def test_tokens_that_were_not_kept_are_missed() -> None:
    lean = score(ROWS, model=MODEL, score=["loss", "entropy"], tokens=False)
    with pytest.raises(ValueError, match=r"score\(\.\.\., tokens=True\)"):
        select(lean, [{"q_tuning": {"keep": 0.5, "token_keep": 0.5}}])
    assert len(select(lean, [{"q_tuning": {"keep": 0.5}}]).kept) == 6


def test_nothing_to_decide_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no example to decide on: 0 examples"):
        select([])


def test_the_doors_load_nothing_until_they_are_used() -> None:
    heavy = "pyarrow", "torch", "transformers", "apache_beam", "pandas"
    code = (
        "import sys, connectors, scorers, pipelines\n"
        f"assert not {{*{heavy}}} & {{*sys.modules}}, {{*{heavy}}} & {{*sys.modules}}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("room", ["connectors", "scorers", "pipelines"])
def test_a_door_has_what_it_promises_and_nothing_else(room: str) -> None:
    module = __import__(room)
    for name in module.__all__:
        assert callable(getattr(module, name))
    with pytest.raises(AttributeError, match="no attribute 'sellect'"):
        module.sellect  # noqa: B018


def test_another_version_of_an_own_scorer_is_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("question,answer\n2 + 2?,4\n3 + 3?,6\n", "utf-8")
    recipe = {"name": "own", "inputs": [{"path": str(data)}], "model": {"path": str(MODEL)}, "score": ["own"]}
    need, column = Need("conditional", "logprob"), Column("own", "", 0.0, 9.0, "neither", "a constant")
    monkeypatch.setitem(SCORERS, "own", SCORERS["loss"])  # taken away again at the end

    def constant(value: float, outputs: Outputs) -> dict[str, RowValues]:
        return {"own": np.full(len(outputs.tokens[need].offsets) - 1, value)}

    for version in ("1", "2"):
        register(Scorer("own", (column,), (need,), partial(constant, float(version)), "ours", version))
        assert run_recipe(recipe, tmp_path / "out").scores["own"].to_pylist() == [float(version)] * 2
