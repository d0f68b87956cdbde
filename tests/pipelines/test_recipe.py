from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipe import RecipeError, parse_recipe
from pipelines.recipe_file import load_recipe

SMALL: dict[str, Any] = {"name": "x", "inputs": [{"path": "a.jsonl"}]}
SCORED = {**SMALL, "model": {"path": "m"}, "score": ["loss", "entropy"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedd": 1}, r"unknown key `sedd` \(nearest: 'seed'\)"),
        ({"inputs": [{"path": "a", "sorce": "b"}]}, r"unknown key `inputs.0.sorce` \(nearest: 'source'\)"),
        (
            {"dedupe": {"minhash": {"treshold": 0.8}}},
            r"unknown key `dedupe.minhash.treshold` \(nearest: 'threshold'\)",
        ),
        ({"inputs": []}, "inputs"),
        ({"score": ["loss"]}, "needs a `model:`"),
        ({"model": {"path": "m"}, "score": ["lost"]}, r"unknown scorer 'lost' \(nearest: 'loss'\)"),
        ({"select": [{"q_tunning": {"keep": 0.5}}]}, "q_tuning"),
        ({"select": [{"random": {"keep": 0.5, "keep_tokens": 3}}]}, "exactly one"),
        ({"select": {"random": {"keep": 0.5}}}, "list of selectors"),
        ({"emit": {"tokens": "always"}}, "needs a `model:`"),
        ({"max_bad_fraction": 2}, "max_bad_fraction"),
    ],
)
def test_a_wrong_recipe_says_where_and_what_to_do(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**SMALL, **change})


def test_a_selector_that_reads_an_uncomputed_score_names_the_scorer_to_add() -> None:
    with pytest.raises(
        RecipeError, match=r"q_tuning reads entropy, which nothing computes; add entropy to `score:`"
    ):
        parse_recipe({**SCORED, "score": ["loss"], "select": [{"q_tuning": {"keep": 0.5}}]})


def test_a_token_budget_without_a_model_is_refused() -> None:
    with pytest.raises(RecipeError, match="keep_tokens"):
        parse_recipe({**SMALL, "select": [{"random": {"keep_tokens": 100}}]})


def test_the_resolved_recipe_reads_back_as_itself() -> None:
    recipe = parse_recipe(
        {**SCORED, "select": [{"q_tuning": {"keep": 0.5, "token_keep": 0.7}}, {"random": {"keep": 1.0}}]}
    )
    assert parse_recipe(recipe.resolved()) == recipe


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("seed=7", lambda r: r.seed == 7),
        ("dedupe.minhash.threshold=0.9", lambda r: r.dedupe.minhash.threshold == 0.9),
        ("inputs.0.source=mine", lambda r: r.inputs[0].source == "mine"),
        ("select.0.random.keep=0.25", lambda r: r.select[0].keep == 0.25),
    ],
)
def test_set_changes_one_value(tmp_path: Path, override: str, check: Any) -> None:  # noqa: ANN401 - a predicate
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "select": [{"random": {"keep": 0.5}}]}))
    assert check(load_recipe(path, [override]))


@pytest.mark.parametrize("override", ["seed", "inputs.4.source=x", "name.x=1", "seed=[1"])
def test_a_wrong_set_is_an_error_that_quotes_it(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(path, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [(": :", "not YAML"), ("- a", "mapping"), ("!!python/object/apply:os.system [ls]", "not YAML")],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_the_starter_recipe_is_valid() -> None:
    assert load_recipe(Path("pipelines/recipes/starter.yaml").resolve()).stores_tokens
