"""Evaluation end to end on a tiny corpus: what no arm may see, what resumes, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.examples import message
from pipelines.evaluate import run_arms
from pipelines.evaluate.answers import AnswerSettings, right_answers
from pipelines.evaluate.evaluate import Evaluated, evaluate
from pipelines.evaluate.held_out import from_file, split, without_groups
from pipelines.evaluate.measure import measure_arm
from pipelines.evaluate.pool import open_runs, read_pool, shared_pool
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.evaluate.text import curves_csv, evaluated_text, markdown
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import reselect, run
from pipelines.runner import RunnerChoice
from pipelines.training.token_rows import token_rows
from pipelines.training.trainee import Trainee, load_trainee
from scorers.models.settings import ModelSettings
from tests.conftest import REPOSITORY
from tests.pipelines.corpus import MODEL, recipe, rows_of, write_corpus

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and accelerate say of a machine without a GPU

QUICK = EvaluateSettings(seeds=2, steps=2, step_tokens=64, held_out_share=0.2, curve_points=1, threads=1)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with token masks."""
    folder = tmp_path_factory.mktemp("run")
    write_corpus(folder / "data", rows=96)
    return run(parse_recipe(recipe(folder / "data")), folder / "out", RunnerChoice(), Progress()).out


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    return load_trainee(ModelSettings(path=str(MODEL), max_tokens=256))


@pytest.fixture(scope="module")
def done(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return evaluate([out], tmp_path_factory.mktemp("evaluation"), QUICK)


def copied(out: Path, to: Path, name: str, select: list[dict[str, Any]]) -> Path:
    """The run with another selection, in a folder of its own."""
    shutil.copytree(out, to)
    plain = json.loads((out / "manifest.json").read_text("utf-8"))["recipe"]
    reselect(to, parse_recipe({**plain, "name": name, "select": select}), RunnerChoice(), Progress())
    return to


def set_ids(folder: Path) -> list[set[str]]:
    return [set(pq.read_table(path)["id"].to_pylist()) for path in (folder / "arms").glob("rows-*.parquet")]


def test_the_pool_is_every_row_that_selection_saw(out: Path) -> None:
    (own,) = open_runs([out])
    dropped = [row["id"] for row in rows_of(out, "dropped") if row["stage"] == "select"]
    kept = [row["id"] for row in rows_of(out, "train")]
    assert sorted(read_pool(own)["id"].to_pylist()) == sorted(kept + dropped)
    assert {row["stage"] for row in rows_of(out, "dropped")} > {"select"}  # duplicates are no part of it


def test_no_set_holds_a_prompt_that_is_held_out(out: Path, trainee: Trainee, done: Evaluated) -> None:
    pool = shared_pool(open_runs([out]))
    held_out = split(pool, trainee.renderer, 0.2, 500, None)
    group = dict(zip(pool["id"].to_pylist(), pool["group"].to_pylist(), strict=True))
    sets = set_ids(done.folder)
    measured = [own for own in sets if {group[row] for row in own} <= held_out.groups]
    assert len(measured) == 1  # the held-out rows themselves
    assert measured[0] == {row for row, own in group.items() if own in held_out.groups}
    for own in sets:
        assert own in measured or not {group[row] for row in own} & held_out.groups
    assert len(sets) == 1 + 1 + 2 + 1 + 1  # held out; selected; random of two seeds; longest; everything


def test_the_held_out_prompts_do_not_depend_on_the_selection(
    out: Path, trainee: Trainee, tmp_path: Path
) -> None:
    other = copied(out, tmp_path / "other", "other", [{"random": {"keep": 0.3}}])
    ids = [
        split(shared_pool(open_runs([one])), trainee.renderer, 0.2, 500, None).rows.table["id"].to_pylist()
        for one in (out, other)
    ]
    assert ids[0] == ids[1]


def test_the_sets_have_the_same_tokens_and_the_same_steps(out: Path, done: Evaluated) -> None:
    arms = {arm["set"]: arm for arm in done.results["arms"]}
    selected = arms["selected"]["trained_tokens"]
    row = max(row["response_tokens"] or 0 for row in rows_of(out, "train") + rows_of(out, "dropped"))
    for name in ("random", "longest"):
        assert abs(arms[name]["trained_tokens"] - selected) < row
    stored = [json.loads(path.read_text("utf-8")) for path in (done.folder / "arms").glob("*.json")]
    trained = [own for own in stored if own["steps"]]
    assert {own["steps"] for own in trained} == {2}
    assert max(own["seen_tokens"] for own in trained) - min(own["seen_tokens"] for own in trained) < row
    assert len(trained) == 8
    assert all(own["seen_tokens"] == 0 for own in stored if not own["steps"])


def test_results_say_losses_differences_and_what_follows(done: Evaluated) -> None:
    results = json.loads((done.folder / "results.json").read_text("utf-8"))
    assert [arm["label"] for arm in results["arms"]] == [
        "not trained",
        "test",
        "random",
        "longest",
        "everything",
    ]
    assert all(len(arm["loss_by_seed"]) == 2 for arm in results["arms"][1:])
    assert [one["against"] for one in results["comparisons"]] == ["random", "longest", "everything"]
    by_label = {arm["label"]: arm["loss"] for arm in results["arms"]}
    for one in results["comparisons"]:
        loss = one["loss"]
        assert loss["difference"] == pytest.approx(by_label["test"] - by_label[one["against"]])
        assert loss["low"] <= loss["difference"] <= loss["high"]
        assert loss["verdict"] in ("helps", "does not help", "cannot tell")
        assert f"test {'against ' if loss['verdict'] == 'cannot tell' else ''}" in one["sentence"]
    assert any("nobody checked them" in note for note in results["notes"])
    for text in (markdown(results), evaluated_text(results, done.folder)):
        assert all(one["sentence"] in text for one in results["comparisons"])
    lines = curves_csv(results).splitlines()
    assert lines[0] == "set,step,loss"
    assert len(lines) == 1 + 4 * 2  # each set before and after


def test_what_was_done_is_not_done_again(
    out: Path,
    done: Evaluated,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> Any:  # noqa: ANN401
        raise AssertionError("an arm was trained again")

    monkeypatch.setattr(run_arms, "measure_arm", refuse)
    assert evaluate([out], done.folder, QUICK).results == done.results


def test_a_stopped_evaluation_goes_on_where_it_was(out: Path, done: Evaluated, tmp_path: Path) -> None:
    shutil.copytree(done.folder, tmp_path / "half")
    stored = sorted((tmp_path / "half" / "arms").glob("*.json"))
    for path in stored[:2]:
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in stored[2:]}
    again = evaluate([out], tmp_path / "half", QUICK).results
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [arm["loss_by_seed"] for arm in again["arms"]] == [
        arm["loss_by_seed"] for arm in done.results["arms"]
    ]


def test_another_learning_rate_or_more_seeds_are_other_arms(
    out: Path,
    done: Evaluated,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(done.folder, tmp_path / "more")
    trained: list[str] = []

    def counted(task: Any, progress: Any) -> Any:  # noqa: ANN401
        trained.append(task.label)
        return measure_arm(task, progress)

    monkeypatch.setattr(run_arms, "measure_arm", counted)
    evaluate([out], tmp_path / "more", EvaluateSettings(**{**vars(QUICK), "seeds": 3}))
    assert trained == [f"{name}, seed 2" for name in ("test", "random", "longest", "everything")]


def test_processes_side_by_side_give_the_same_numbers(out: Path, done: Evaluated, tmp_path: Path) -> None:
    two = EvaluateSettings(**{**vars(QUICK), "workers": 2, "seeds": 1})
    again = evaluate([out], tmp_path / "two", two).results
    for one, other in zip(again["arms"], done.results["arms"], strict=True):
        assert one["loss_by_seed"][0] == other["loss_by_seed"][0]
    assert "for one seed" in again["comparisons"][0]["sentence"]


def test_selections_are_compared_side_by_side_and_share_what_they_are_held_against(
    out: Path, tmp_path: Path
) -> None:
    other = copied(out, tmp_path / "other", "other", [{"q_tuning": {"keep": 0.5, "token_keep": 0.7}}])
    once = EvaluateSettings(**{**vars(QUICK), "seeds": 1})
    results = evaluate([out, other], tmp_path / "both", once).results
    labels = [arm["label"] for arm in results["arms"]]
    assert labels == ["not trained", "test", "other", "random", "longest", "everything"]
    pair = next(one for one in results["comparisons"] if one["against"] == "other")
    assert pair["loss"]["difference"] == 0  # the same selection under another name
    assert pair["loss"]["verdict"] == "cannot tell"


def test_a_file_of_held_out_rows_loses_what_the_data_holds(
    out: Path, trainee: Trainee, tmp_path: Path
) -> None:
    pool = shared_pool(open_runs([out]))
    turns = pool["messages"].to_pylist()[0]
    known = {"prompt": turns[0]["content"], "completion": "Another answer."}
    fresh = [{"prompt": f"How is number {i}?", "completion": f"It is fine, number {i}."} for i in range(12)]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [known, *fresh]), "utf-8")
    held_out = from_file(str(path), pool, trainee.renderer, 500, None)
    assert held_out.facts["left_out"] == {"in the data": 1}
    assert held_out.rows.table.num_rows == 12
    assert held_out.groups == frozenset()
    assert any("Only 12 prompts" in note for note in held_out.notes)
    path.write_text(json.dumps(known) + "\n", "utf-8")
    with pytest.raises(ValueError, match="all 1 rows are in the data"):
        from_file(str(path), pool, trainee.renderer, 500, None)
    path.write_text("".join(json.dumps(row) + "\n" for row in fresh[:3]), "utf-8")
    with pytest.raises(ValueError, match="3 prompts are left to measure on"):
        from_file(str(path), pool, trainee.renderer, 500, None)


def test_rows_that_do_not_fit_are_counted(out: Path, trainee: Trainee, tmp_path: Path) -> None:
    rows = [{"prompt": f"Count {i}.", "completion": f"{i} " * (300 if i == 3 else 3)} for i in range(12)]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    held_out = from_file(str(path), shared_pool(open_runs([out])), trainee.renderer, 500, None)
    assert held_out.facts["left_out"] == {"in the data": 0, "overflow": 1}


def test_all_answers_to_a_held_out_prompt_leave_the_sets(out: Path, trainee: Trainee) -> None:
    pool = shared_pool(open_runs([out]))
    held_out = split(pool, trainee.renderer, 0.3, 500, None)
    left = without_groups(pool, held_out.groups)
    assert not set(left["group"].to_pylist()) & held_out.groups
    assert (
        left.num_rows + sum(group in held_out.groups for group in pool["group"].to_pylist()) == pool.num_rows
    )


def test_right_answers_are_read_from_what_the_model_says(
    trainee: Trainee, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [[message("user", f"{i} + 1?"), message("assistant", f"It is #### {i + 1}")] for i in range(4)]
    table = pa.Table.from_pylist(
        [{"id": str(i), "messages": own, "tools": None} for i, own in enumerate(turns)]
    )
    rows = token_rows(table, trainee.renderer)
    seen: list[str] = []

    def said(_: Trainee, prompts: list[list[int]], most: int) -> list[str]:
        assert most == 9
        texts = [trainee.tokenizer.decode(own) for own in prompts]
        seen.extend(texts)
        return ["#### 1" if "0 + 1" in text else "I do not know" for text in texts]

    monkeypatch.setattr("pipelines.evaluate.answers._answers", said)
    right = right_answers(trainee, rows, ["1", "2", None, "4"], AnswerSettings("math", 2, 9))
    assert right[:2].tolist() == [1.0, 0.0]
    assert all(value != value for value in right[2:])  # no gold answer; above the limit
    assert all(text.endswith("<|im_start|>assistant\n") for text in seen)


def test_the_model_answers_greedily_and_the_same_alone_and_among_others(trainee: Trainee) -> None:
    from pipelines.evaluate.answers import _answers

    prompts = [
        trainee.tokenizer(f"<|endoftext|><|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")[
            "input_ids"
        ]
        for text in ("What is 2 + 2?", "Name the capital of France, please, and say why.")
    ]
    together = _answers(trainee, prompts, 12)
    assert together == [_answers(trainee, [own], 12)[0] for own in prompts]
    assert all(together)


def test_answers_are_checked_where_asked_for(out: Path, tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} plus {i}?", "answer": f"It is #### {2 * i}"} for i in range(12)]
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    change = {
        "seeds": 1,
        "steps": 1,
        "held_out": str(path),
        "answers": "math",
        "answer_rows": 4,
        "answer_tokens": 4,
    }
    results = evaluate([out], tmp_path / "to", EvaluateSettings(**{**vars(QUICK), **change})).results
    assert all(arm["accuracy"] in (0, 0.25, 0.5, 0.75, 1) for arm in results["arms"])
    assert all("Accuracy: " in one["sentence"] for one in results["comparisons"])
    assert "right answers |" in markdown(results)
    assert "% of answers right" in evaluated_text(results, tmp_path)


def test_the_command_says_what_came_out_and_where(out: Path, tmp_path: Path) -> None:
    options = ["--seeds", "1", "--steps", "1", "--step-tokens", "32", "--to", str(tmp_path / "to")]
    command = [sys.executable, "-m", "pipelines.cli", "evaluate", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "model 5 of 5" in ran.stderr
    assert "against random" in ran.stdout
    assert str(tmp_path / "to" / "results.md") in ran.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"held_out_share": 0.0}, "a number above 0 and below 1"),
        ({"held_out_share": 0.01}, "prompts are left to measure on"),
        ({"held_out": "nothing-here.jsonl"}, "nothing-here.jsonl"),
        ({"model": str(MODEL.parent)}, "found: no weights"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    out: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate([out], tmp_path / "to", EvaluateSettings(**{**vars(QUICK), **change}))


def test_runs_that_cannot_be_compared_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run is here"):
        evaluate([tmp_path], tmp_path / "to", QUICK)
    with pytest.raises(ValueError, match="named twice"):
        evaluate([out, out], tmp_path / "to", QUICK)
    shutil.copytree(out, tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone" / ".winnow")
    with pytest.raises(ValueError, match="run the whole recipe again"):
        evaluate([tmp_path / "gone"], tmp_path / "to", QUICK)
    write_corpus(tmp_path / "data", rows=40)
    small = run(parse_recipe(recipe(tmp_path / "data")), tmp_path / "small", RunnerChoice(), Progress()).out
    with pytest.raises(ValueError, match="only selections from the same rows can be compared"):
        evaluate([out, small], tmp_path / "to", QUICK)
    nothing = copied(out, tmp_path / "nothing", "nothing", [{"random": {"keep": 0.0}}])
    with pytest.raises(ValueError, match="kept no row"):
        evaluate([nothing], tmp_path / "to", QUICK)
    with pytest.raises(ValueError, match="at least 1 is needed"):
        EvaluateSettings(seeds=0)
