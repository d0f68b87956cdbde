"""The stage, and real evaluation sets."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from connectors.inputs import InputFile
from connectors.manifest import InputChanged
from connectors.shards import plan_units, write_parquet
from connectors.storage import make_folder
from pipelines.decontaminate import stage as module
from pipelines.decontaminate.eval_sets import KNOWN_SETS, EvalItem, read_items, set_files
from pipelines.decontaminate.settings import KNOWN_NAMES, DecontaminateSettings, EvalSet
from pipelines.decontaminate.stage import decontaminate
from pipelines.drops import DROP_SCHEMA
from pipelines.progress import Progress
from pipelines.runner import RunnerChoice
from pipelines.stages import StageResult, Workspace
from tests.pipelines.dedupe.test_duplicates import examples

QUESTION = "How many apples are left when Ann eats three of the seven she has?"


def search(
    folder: Path, rows: list[tuple[str, str]], settings: dict[str, object], workers: int = 1, shards: int = 1
) -> StageResult:
    """Runs the stage over (prompt, response) pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    table = examples(rows)
    size = -(-table.num_rows // shards)
    paths = []
    for number in range(shards):
        paths.append(str(folder / f"part-{number}.parquet"))
        write_parquet(paths[-1], table.slice(number * size, size), table.schema)
    space = Workspace(folder / "out", RunnerChoice(workers=workers), Progress())
    make_folder(space.work)
    units = plan_units(paths, rows=size)
    ingested = StageResult("ingest", "k", str(folder), ("part-0.parquet",), 0, {})
    return decontaminate(space, DecontaminateSettings.model_validate(settings), units, ingested)


def write_set(path: Path, items: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in items), "utf-8")
    return str(path)


def test_hits_are_dropped_rows_with_set_item_match_and_span(tmp_path: Path) -> None:
    path = write_set(
        tmp_path / "mine.jsonl",
        [{"question": "unrelated words that nobody has written before", "answer": "none"},
         {"question": QUESTION, "answer": "4"}],
    )  # fmt: skip
    rows = [("hi", "there"), (QUESTION, "4"), ("Tell me this:\n" + QUESTION, "four")]
    stage = search(tmp_path / "run", rows, {"against": [{"path": path}]})
    table = pq.read_table(stage.paths[0])
    assert table.schema == DROP_SCHEMA
    assert table["row"].to_pylist() == [1, 2]
    assert set(table["reason"].to_pylist()) == {"contaminated: mine"}
    assert table["eval_item"].to_pylist() == ["mine.jsonl:2"] * 2
    assert table["eval_match"].to_pylist() == ["prompt", "ngram"]
    assert table["eval_span"][1].as_py() == QUESTION.lower().rstrip("?")
    assert table["similarity"].to_pylist() == [1.0, 1.0]
    assert stage.stats["contaminated"] == 2
    assert stage.stats["sets"] == {"mine": {"items": 2, "items_found": 1, "rows": {"ngram": 1, "prompt": 1}}}
    assert not list(Path(stage.folder).glob("hits-*"))


def test_the_file_is_the_same_for_any_number_of_shards_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_set(
        tmp_path / "s.jsonl", [{"prompt": f"{QUESTION} number {n}", "completion": "x"} for n in range(5)]
    )
    rows = [(f"{QUESTION} {n}" if n % 3 else f"nothing {n}", "y") for n in range(30)]
    whole = Path(search(tmp_path / "a", rows, {"against": [{"path": path}]}).paths[0]).read_bytes()
    monkeypatch.setattr(module, "ROWS_IN_TASK", 7)
    for name, workers in (("b", 1), ("c", 2)):
        stage = search(tmp_path / name, rows, {"against": [{"path": path}]}, workers=workers, shards=5)
        assert Path(stage.paths[0]).read_bytes() == whole


def test_a_set_that_changes_while_it_is_read_fails_the_stage_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_set(tmp_path / "mine.jsonl", [{"question": QUESTION, "answer": "4"}])

    def reading(eval_set: EvalSet, files: list[InputFile]) -> list[EvalItem]:
        found = list(read_items(eval_set, files))
        write_set(tmp_path / "mine.jsonl", [{"question": "Another?", "answer": "5"}])
        return found

    monkeypatch.setattr(module, "read_items", reading)
    with pytest.raises(InputChanged, match=r"mine\.jsonl changed while this run read it"):
        search(tmp_path / "run", [(QUESTION, "4")], {"against": [{"path": path}]})
    assert not list((tmp_path / "run" / "out").rglob("*.parquet"))


def test_the_fields_of_a_set_may_be_stated(tmp_path: Path) -> None:
    path = write_set(tmp_path / "s.jsonl", [{"frage": QUESTION, "id": 1}])
    settings: dict[str, object] = {"against": [{"path": path, "name": "mine", "fields": {"prompt": "frage"}}]}
    assert search(tmp_path / "run", [(QUESTION, "4")], settings).stats["contaminated"] == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"against": ["nothing"]}, "needs a `path`"),
        ({"against": []}, "against"),
        ({"against": [{"path": "a.jsonl"}, {"path": "b/a.jsonl"}]}, "two evaluation sets are called 'a'"),
        ({"against": [{"path": "a", "fields": {"answer": "x"}}]}, "wanted prompt or response"),
        ({"against": ["gsm8k"], "ngram": 2}, "ngram"),
        ({"against": ["gsm8k"], "embedding": {"threshold": 0.9}}, "model"),
        ({"against": ["gsm8k"], "embedding": {"model": {"path": "m"}, "threshold": 0}}, "threshold"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DecontaminateSettings.model_validate(wrong)


def test_every_known_name_is_described() -> None:
    assert tuple(KNOWN_SETS) == KNOWN_NAMES


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "file", "items"),
    [
        ("humaneval", "eval_sets/HumanEval.jsonl.gz", 164),
        ("mbpp", "eval_sets/mbpp.jsonl", 974),
        ("truthfulqa", "eval_sets/TruthfulQA.csv", 817),
        ("mt_bench", "eval_sets/mt_bench_question.jsonl", 80),
        ("math500", "eval_sets/math500_test.jsonl", 500),
        ("gsm_hard", "eval_sets/gsm_hard_test.jsonl", 1319),
        ("gsm8k", "gsm8k/test.jsonl", 1319),
    ],
)
def test_the_real_sets_are_read_with_prompt_and_response(
    name: str, file: str, items: int, realdata: Path
) -> None:
    eval_set = EvalSet(name=name, path=str(realdata / file))
    found = list(read_items(eval_set, set_files(eval_set, realdata)))
    assert len(found) == items
    assert all(item.prompt for item in found)
    assert name == "mt_bench" or all(item.response for item in found)


@pytest.mark.realdata
def test_known_overlaps_of_real_sets_are_found(realdata: Path, tmp_path: Path) -> None:
    def rows(file: str, prompt: str, response: str) -> list[tuple[str, str]]:
        lines = (realdata / file).read_text("utf-8").splitlines()
        return [(row[prompt], str(row[response])) for row in map(json.loads, lines)]

    train = rows("gsm8k/train.jsonl", "question", "answer")
    gsm8k = {"name": "gsm8k", "path": str(realdata / "gsm8k/test.jsonl"), "fields": {"prompt": "question"}}
    found = search(tmp_path / "a", train, {"against": [gsm8k], "scope": "prompt"}).stats
    assert found["sets"]["gsm8k"]["items_found"] == 3
    hard = rows("eval_sets/gsm_hard_test.jsonl", "input", "target")
    found = search(tmp_path / "b", hard, {"against": [gsm8k], "ngram": 8, "scope": "prompt"}).stats
    assert found["contaminated"] == 1317
