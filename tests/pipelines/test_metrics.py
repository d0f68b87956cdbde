"""Beam metrics of the stages, as the manifest has them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipelines.metrics import COUNTERS, DISTRIBUTIONS, StageMetrics, counters_of
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import Finished, run
from pipelines.runner import RunnerChoice, choose_runner
from tests.pipelines.corpus import _NOUNS as NOUNS
from tests.pipelines.corpus import MODEL, recipe, write_corpus

DOCS = Path(__file__).resolve().parents[2] / "docs" / "observability.md"
UNITS = ("rows", "bytes", "tokens", "pairs", "calls", "milliseconds")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, rows=48)
    items = [{"prompt": f"Question 3 about the {noun}?", "completion": "none"} for noun in NOUNS]
    (folder / "eval.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def _recipe(corpus: Path) -> dict[str, Any]:
    semantic = {"model": {"path": str(MODEL), "max_tokens": 64}, "threshold": 0.999}
    plain = recipe(corpus, score=["loss", "entropy", "ifd"], select=[{"verdict": {}}])
    plain["dedupe"]["semantic"] = semantic
    plain["decontaminate"] = {"against": [{"name": "own", "path": str(corpus / "eval.jsonl")}], "ngram": 5}
    return plain


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("run") / "out"
    return run(parse_recipe(_recipe(corpus)), out, RunnerChoice(), Progress())


def metrics(finished: Finished) -> dict[str, dict[str, Any]]:
    return {name: stage["metrics"] for name, stage in finished.manifest["stages"].items()}


def counted(finished: Finished) -> dict[str, dict[str, Any]]:
    """The metrics that do not depend on how fast the machine is."""
    return {
        stage: {name: value for name, value in own.items() if not name.startswith("milliseconds")}
        for stage, own in metrics(finished).items()
    }


def test_every_stage_counts_what_it_says_and_its_tasks(finished: Finished) -> None:
    for stage, own in metrics(finished).items():
        assert set(own) == set(counters_of(stage)) | set(DISTRIBUTIONS), stage
        assert own["bytes_written"] > 0
        assert own["milliseconds_task"]["count"] > 0


def test_the_metrics_agree_with_the_books(finished: Finished) -> None:
    own, counts = metrics(finished), finished.manifest["counts"]
    assert (own["ingest"]["rows_read"], own["ingest"]["rows_bad"]) == (counts["read"], counts["bad"])
    assert own["ingest"]["bytes_read"] == sum(known["bytes"] for known in finished.manifest["inputs"])
    assert own["decontaminate"]["rows_dropped"] == counts["contaminated"] > 0
    duplicates = counts["duplicates"]
    assert own["clusters"]["rows_dropped"] == duplicates["exact"] + duplicates["near"] > 0
    assert own["semantic"]["rows_dropped"] == duplicates["semantic"]
    assert (own["emit"]["rows_kept"], own["emit"]["rows_dropped"]) == (counts["kept"], counts["dropped"])
    assert own["score"]["rows_scored"] + own["score"]["rows_not_scored"] == own["check"]["rows_checked"]
    tokens = finished.manifest["tokens"]
    assert (own["score"]["tokens_scored"], own["emit"]["tokens_kept"]) == (tokens["scored"], tokens["kept"])


def test_worker_processes_count_the_same(finished: Finished, corpus: Path, tmp_path: Path) -> None:
    again = run(parse_recipe(_recipe(corpus)), tmp_path / "out", choose_runner(2, []), Progress())
    assert counted(again) == counted(finished)


def test_a_stage_done_before_keeps_the_metrics_of_the_run_that_did_it(
    finished: Finished, corpus: Path
) -> None:
    before = metrics(finished)
    again = run(parse_recipe(_recipe(corpus)), finished.out, RunnerChoice(), Progress())
    assert again.manifest["stages"]["score"]["reused"]
    assert metrics(again) == before
    assert again.manifest["run_id"] != finished.manifest["run_id"]


def test_metrics_pickle_and_do_nothing_outside_of_a_pipeline() -> None:
    own = pickle.loads(pickle.dumps(StageMetrics("ingest")))  # noqa: S301 - our own object
    own(rows_read=3)
    with pytest.raises(KeyError, match="rows_raed"):
        own(rows_raed=3)


def test_names_begin_with_their_unit_and_stand_in_the_documentation() -> None:
    text = DOCS.read_text("utf-8")
    for stage, known in COUNTERS.items():
        for name, meaning in known.items():
            assert name.partition("_")[0] in UNITS
            assert f"| `{stage}` | `{name}` | {meaning} |" in text
    for name, meaning in {**DISTRIBUTIONS, "bytes_written": counters_of("emit")["bytes_written"]}.items():
        assert f"| every stage | `{name}` | {meaning} |" in text
