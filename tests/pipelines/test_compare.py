"""Runs with more models than the target, and the arithmetic between their stored scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from pipelines.plan import plan_text
from pipelines.progress import Progress
from pipelines.recipe import RecipeError, parse_recipe
from pipelines.run import Finished, run
from pipelines.runner import choose_runner
from scorers.catalog import SCORERS
from scorers.models.comparison import DifferentTokens, compare
from tests.pipelines.corpus import MODEL, hashes, recipe, rows_of, write_corpus
from tests.scorers.toy_models import write_model

SELECT = [{"rho1": {"token_keep": 0.5}}, {"glow": {}}, {"dft": {}}]


def stored(nll: list[list[float] | None], **columns: Any) -> pa.Table:  # noqa: ANN401 - lists of any numbers
    """A score file as a model leaves it: null and "overflow" where it has no scores."""
    ids = [None if row is None else [7, *range(len(row))] for row in nll]
    return pa.table(
        {
            "status": pa.array(["overflow" if row is None else "ok" for row in nll]),
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "response_at": pa.array(
                [None if row is None else list(range(1, len(row) + 1)) for row in nll], pa.list_(pa.int32())
            ),
            "token_nll": pa.array(nll, pa.list_(pa.float32())),
            **{name: pa.array(values, pa.list_(pa.float16())) for name, values in columns.items()},
        }
    )


def test_a_row_is_compared_where_both_models_scored_the_same_tokens() -> None:
    target = stored([[3, 1], [2, 2], None, [4]])
    other = stored([[2.5, 0.5], None, [1], [4]])
    other = other.set_column(
        1, "input_ids", pa.array([[7, 0, 1], None, [7, 0], [8, 0]], pa.list_(pa.int32()))
    )
    columns, counts = compare({"": target, "reference": other}, [SCORERS["rho1"]])
    assert columns["rho1_excess"].to_pylist() == [0.5, None, None, None]
    assert counts == {"rows": 4, "compared": 1, "different_tokens": 1}


def test_a_scorer_needs_only_the_models_that_it_names() -> None:
    target, nothing = stored([[3.0]], token_top1=[[1.0]]), stored([None], token_top1=[None])
    files = {"": target, "reference": stored([[1.0]]), "previous": nothing}
    columns, _ = compare(files, [SCORERS["rho1"], SCORERS["muscle"]])
    assert columns["rho1_excess"].to_pylist() == [2.0]
    assert columns["negative_flips"].to_pylist() == [None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, rows=48)
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with one matrix a little changed, as after an epoch."""
    folder = tmp_path_factory.mktemp("model") / "other"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    weights[name] = weights[name] * 1.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def plain(corpus: Path, other: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any part of a recipe
    models = {role: {"path": str(other)} for role in ("reference", "base", "previous")}
    score = ["loss", "dft", "rho1", "novelty", "glow", "muscle", "mistake_log"]
    return recipe(corpus, models=models, score=score, select=SELECT) | changes


@pytest.fixture(scope="module")
def finished(corpus: Path, other_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("run") / "out"
    return run(parse_recipe(plain(corpus, other_model)), out, choose_runner(1, []), Progress())


def test_each_models_losses_are_those_it_has_as_the_target(
    finished: Finished, corpus: Path, other_model: Path, tmp_path: Path
) -> None:
    alone = recipe(corpus, score=["loss"], select=[]) | {"model": {"path": str(other_model)}}
    run(parse_recipe(alone), tmp_path / "out", choose_runner(1, []), Progress())
    losses = {row["id"]: row["loss"] for row in rows_of(tmp_path / "out", "scores")}
    rows = rows_of(finished.out, "scores")
    scored = [row for row in rows if row["status"] == "ok"]
    assert len(scored) > 40
    for row in scored:
        assert row["rho1_excess"] == pytest.approx(row["loss"] - losses[row["id"]], abs=1e-5)
        assert row["glow_gain"] == pytest.approx(-row["rho1_excess"], abs=1e-9)
        assert row["novelty_sum"] == pytest.approx(-row["rho1_excess"] * row["response_tokens"], abs=1e-4)
    assert all(row["rho1_excess"] is None for row in rows if row["status"] != "ok")
    assert max(abs(row["rho1_excess"]) for row in scored) > 0.01


def test_masks_and_weights_reach_the_training_set(finished: Finished) -> None:
    rows = rows_of(finished.out, "train")
    assert {0.5} < {row["weight"] for row in rows}
    for row in rows:
        labels, weights = np.array(row["labels"]), np.array(row["token_weights"])
        assert ((weights > 0) == (labels >= 0)).all()
        assert (weights <= 1).all()
        assert (labels >= 0).sum() == max(1, row["response_tokens"] // 2)


def test_another_reference_leaves_the_targets_scores_as_they_are(
    corpus: Path, other_model: Path, tmp_path: Path
) -> None:
    first = plain(
        corpus, other_model, models={"reference": {"path": str(other_model)}}, score=["rho1"], select=[]
    )
    run(parse_recipe(first), tmp_path / "out", choose_runner(1, []), Progress())
    second = first | {"models": {"reference": {"path": str(MODEL)}}}
    again = run(parse_recipe(second), tmp_path / "out", choose_runner(1, []), Progress())
    stages = again.manifest["stages"]
    assert (stages["score"]["reused"], stages["score-reference"]["reused"]) == (True, False)
    assert {row["rho1_excess"] for row in rows_of(again.out, "scores")} <= {0.0, None}


@pytest.mark.parametrize("workers", [2])
def test_any_number_of_workers_compares_alike(
    finished: Finished, corpus: Path, other_model: Path, tmp_path: Path, workers: int
) -> None:
    other = run(
        parse_recipe(plain(corpus, other_model)), tmp_path / "out", choose_runner(workers, []), Progress()
    )
    assert hashes(other.out) == hashes(finished.out)


def test_a_model_with_another_tokenizer_is_refused(corpus: Path, tmp_path: Path) -> None:
    stranger = write_model(tmp_path / "stranger")
    changed = plain(
        corpus, stranger, models={"reference": {"path": str(stranger)}}, score=["rho1"], select=[]
    )
    with pytest.raises(DifferentTokens, match="need the target's tokenizer"):
        run(parse_recipe(changed), tmp_path / "out", choose_runner(1, []), Progress())


def test_the_plan_names_the_passes_of_every_model(corpus: Path, other_model: Path) -> None:
    changes = {"models": {"reference": {"path": str(other_model)}}, "score": ["loss", "rho1"], "select": []}
    said = plan_text(parse_recipe(plain(corpus, other_model, **changes)))
    assert f"4 score, with {MODEL}" in said
    assert f"score-reference, with {other_model}" in said
    assert said.count("once for tokens and their losses (outputs: logprob)") == 1
    assert said.count("tokens/s, measured here on") == 2
    assert "compare\n    rho1, from what the models stored" in said


def test_a_model_that_is_missing_or_not_needed_is_named(corpus: Path, other_model: Path) -> None:
    with pytest.raises(RecipeError, match="rho1 compares the target with its reference .* name it"):
        parse_recipe(plain(corpus, other_model, models={}, score=["rho1"], select=[]))
    with pytest.raises(RecipeError, match=r"models\.base: no scorer in `score:` reads it"):
        parse_recipe(plain(corpus, other_model, models={"base": {"path": "x"}}, score=["loss"], select=[]))
    with pytest.raises(RecipeError, match=r"unknown key `models\.base\.pth` \(nearest: 'path'\)"):
        parse_recipe(plain(corpus, other_model, models={"base": {"pth": "x"}}))
