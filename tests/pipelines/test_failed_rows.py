"""The failure budget: rows that the model fails on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.failed_rows import TooManyFailedRows, check_failed_rows, failed_rows, sum_stats
from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice
from pipelines.stages import StageResult
from scorers.base import FAILURES, STATUSES
from scorers.models import embedding, forward
from scorers.models.tokenising import TokenSequence
from tests.pipelines.corpus import MODEL, hashes, recipe, rows_of, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, rows=48)
    return folder


def stage(**stats: Any) -> StageResult:  # noqa: ANN401 - any JSON
    return StageResult("score", "key", "folder", (), 1.0, stats)


def test_failures_are_known_statuses_and_rows_that_are_too_long_are_none() -> None:
    assert set(FAILURES) < set(STATUSES)
    facts = {name: 9 for name in STATUSES if name not in FAILURES}
    assert failed_rows(stage(rows=90, status=facts)) == 0
    check_failed_rows(stage(rows=90, status=facts), allowed=0.0)


def test_the_table_has_every_reason_with_a_row_and_what_to_do() -> None:
    message = {"error: RuntimeError: too much": 3, "nonfinite: NaN": 2, "template_error: no system role": 5}
    example = {"error: RuntimeError: too much": "a/b:00000003"}
    stats = {"status": {"ok": 89, "error": 4, "nonfinite": 2, "template_error": 5}, "message": message}
    with pytest.raises(TooManyFailedRows) as raised:
        check_failed_rows(stage(rows=100, **stats, example=example), allowed=0.05)
    text = str(raised.value)
    for words in (
        "stage score: the model failed on 6 of 100 rows (6.00 %)",
        "max_failed_fraction: 0.05",
        "3  error: RuntimeError: too much  (for example a/b:00000003)",
        "2  nonfinite: NaN",
        "1  for other reasons",
        "--set max_failed_fraction=0.066",
    ):
        assert words in text
    assert "system role" not in text


@given(st.lists(st.dictionaries(st.sampled_from(["rows", "status/ok", "message/x"]), st.integers(0, 9))))
def test_sums_do_not_depend_on_how_rows_were_cut_into_files(files: list[dict[str, int]]) -> None:
    middle = len(files) // 2
    parts = [sum_stats(files[:middle]), sum_stats(files[middle:])]
    whole = sum_stats(files)
    for kind, name in (("status", "ok"), ("message", "x")):
        assert whole[kind].get(name, 0) == sum(part[kind].get(name, 0) for part in parts)
    assert whole.get("rows", 0) == sum(part.get("rows", 0) for part in parts)


def poisoned(rows: Sequence[TokenSequence]) -> bool:
    return any(int(row.ids.sum()) % 12 == 0 for row in rows)


def test_rows_the_model_fails_on_end_the_run_above_the_budget_and_what_was_scored_is_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = forward.forward

    def broken(model: Any, rows: Sequence[TokenSequence], wanted: Any) -> Any:  # noqa: ANN401 - as the real one
        if poisoned(rows):
            raise RuntimeError("poisoned row")
        return real(model, rows, wanted)

    monkeypatch.setattr(forward, "forward", broken)
    plain = recipe(corpus, score=["loss"], select=[{"random": {"keep": 0.5}}])
    with pytest.raises(TooManyFailedRows, match=r"error: RuntimeError: poisoned row  \(for example \w+/"):
        run(parse_recipe(plain), tmp_path / "out", RunnerChoice(), Progress())
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.undo()
    allowed = parse_recipe({**plain, "max_failed_fraction": 0.5})
    done = run(allowed, tmp_path / "out", RunnerChoice(), Progress())
    assert done.manifest["stages"]["score"]["reused"]
    lost = [row for row in rows_of(done.out, "dropped") if row["reason"] == "not scored: error"]
    assert len(lost) == done.manifest["score_status"]["error"] == done.manifest["counts"]["not_scored"] > 0
    assert {row["loss"] for row in lost} == {None}
    assert all(row["loss"] is not None for row in rows_of(done.out, "train"))
    assert done.manifest["stages"]["score"]["metrics"]["rows_failed"] == len(lost)


def test_texts_that_cannot_be_embedded_count_against_the_same_budget(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = embedding._Transformer._forward

    def broken(self: Any, rows: Sequence[Any]) -> Any:  # noqa: ANN401 - as the real one
        if any(int(ids.sum()) % 12 == 0 for ids in rows):
            raise IndexError("index out of range in self")
        return real(self, rows)

    monkeypatch.setattr(embedding._Transformer, "_forward", broken)
    select = [{"k_center": {"keep": 0.5}}]
    plain = recipe(corpus, model=None, score=[], select=select, embed={"path": str(MODEL)})
    with pytest.raises(TooManyFailedRows, match="stage vectors: .*\n.*IndexError: index out of range"):
        run(parse_recipe(plain), tmp_path / "out", RunnerChoice(), Progress())
    allowed = parse_recipe({**plain, "max_failed_fraction": 0.5})
    done = run(allowed, tmp_path / "out", RunnerChoice(), Progress())
    metrics = done.manifest["stages"]["vectors"]["metrics"]
    assert 0 < metrics["rows_failed"] == metrics["rows_not_embedded"]
    again = run(allowed, tmp_path / "again", RunnerChoice(), Progress())
    assert hashes(again.out) == hashes(done.out)


def test_a_text_that_fails_alone_leaves_the_vectors_of_the_others_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from scorers.models.settings import EmbeddingSettings

    embedder = embedding.load_embedder(EmbeddingSettings(path=str(MODEL), batch_tokens=1))
    texts = [f"text number {number} of many" for number in range(9)]
    before = embedder.embed(texts)
    real = embedding._Transformer._forward
    bad = embedder.model.tokens(texts)[0][4]

    def broken(self: Any, rows: Sequence[Any]) -> Any:  # noqa: ANN401 - as the real one
        if any(ids.tolist() == bad.tolist() for ids in rows):
            raise MemoryError("too long")
        return real(self, rows)

    monkeypatch.setattr(embedding._Transformer, "_forward", broken)
    found = embedder.embed(texts)
    assert found.failures == {4: "error: MemoryError: too long"}
    assert found.embedded.tolist() == [number != 4 for number in range(9)]
    assert (found.vectors[found.embedded] == before.vectors[found.embedded]).all()
