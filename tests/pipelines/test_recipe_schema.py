"""The JSON schema accepts the recipes that winnow accepts, and finds what is wrong with the others."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from pipelines.published import RECIPES
from pipelines.recipe import Recipe, RecipeError, parse_recipe
from pipelines.recipe_schema import recipe_schema, schema_json
from pipelines.selectors.catalog import SELECTORS
from tests.draws import draws

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Draft202012Validator(recipe_schema())
FILES = sorted(
    [*RECIPES.glob("*.yaml"), ROOT / "quickstart" / "recipe.yaml", ROOT / "benchmarks" / "alpaca.yaml"]
)
EVERY_SECTION: dict[str, Any] = {
    "name": "all",
    "seed": 3,
    "inputs": [
        {"path": "a.jsonl", "source": "a", "format": "alpaca", "fields": {"prompt": "ask"}, "pairs": "both"},
        {"dataset": "openai/gsm8k", "subset": "main", "split": "train", "revision": "main"},
    ],
    "max_bad_fraction": 0.02,
    "max_failed_fraction": 0.02,
    "decontaminate": {
        "against": ["gsm8k", {"name": "own", "path": "b.jsonl", "fields": {"response": "x"}}],
        "ngram": 8,
        "scope": "prompt",
        "exact_prompt": False,
        "embedding": {"model": {"path": "m", "scope": "prompt"}, "threshold": 0.95},
    },
    "dedupe": {
        "exact": True,
        "minhash": {"threshold": 0.8, "ngram": 5, "unit": "char", "scope": "prompt", "permutations": 64},
        "semantic": {"model": {"path": "m"}, "d4": {"keep": 0.5, "clusters": 3}, "which_to_keep": "easy"},
        "keep": [{"source": ["a"]}, {"highest": "rating"}, "first"],
        "against": ["out/old"],
    },
    "model": {"path": "m", "dtype": "float32", "device": "cpu", "max_tokens": 64, "batch_tokens": 512},
    "models": {"reference": {"path": "r", "on_overflow": "keep"}},
    "check": {"gold": "answer", "kind": "choice"},
    "embed": {"path": "e", "scope": "response", "max_tokens": 64, "batch_tokens": 100},
    "score": ["loss", "entropy", "ifd", "rho1"],
    "store": ["entropy", "hidden_mean"],
    "select": [
        {"threshold": {"column": "ifd_ppl", "max": 1, "include_max": False}},
        {"stratified": {"by": "extra.topic", "split": "sqrt", "keep_examples": 10}},
        {"kshot": {"target": "k.jsonl", "keep": 0.5}},
        {"dart": {"k": 3}},
        {"verdict": None},
    ],
    "emit": {"tokens": "always"},
    "output": "out",
}
VALID = [EVERY_SECTION, *(yaml.safe_load(path.read_text("utf-8")) for path in FILES)]

# No setting of another type reads these as its own, as pydantic does with "0.5" for 0.5 and 1 for true.
ODD: tuple[Any, ...] = (None, "zz", -1, 2, 0.37, 10**7, [], {}, ["zz"], {"zz": 1})


def faults(recipe: Any) -> list[str]:  # noqa: ANN401 - any YAML
    return [f"{error.json_path}: {error.message}" for error in SCHEMA.iter_errors(recipe)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    assert faults(yaml.safe_load(path.read_text("utf-8"))) == []


def test_a_recipe_with_every_section_is_valid() -> None:
    assert faults(EVERY_SECTION) == []
    parse_recipe(copy.deepcopy(EVERY_SECTION))
    assert set(EVERY_SECTION) == set(Recipe.model_fields)


@pytest.mark.parametrize(
    "change",
    [
        {"dedup": {}},
        {"seed": "zero"},
        {"inputs": []},
        {"inputs": [{"path": "a", "dataset": "b"}]},
        {"inputs": [{"source": "a"}]},
        {"inputs": [{"path": "a", "format": "alpacca"}]},
        {"inputs": [{"path": "a", "fields": {"promt": "q"}}]},
        {"dedupe": {"minhash": {"treshold": 0.8}}},
        {"dedupe": {"minhash": {"threshold": 1.5}}},
        {"dedupe": {"semantic": {"model": {"path": "m"}, "threshold": 0.9, "keep": 0.5}}},
        {"decontaminate": {"against": ["gsm9k"]}},
        {"decontaminate": {"against": [{"name": "own"}]}},
        {"select": [{"grap": {}}]},
        {"select": [{"random": {"keep": 0.5, "keep_examples": 3}}]},
        {"select": [{"random": {}}]},
        {"select": [{"random": {"keep": 0.5}, "grape": {}}]},
        {"select": ["grape"]},
        {"select": [{"verdict": {"keep": None}}]},
        {"score": ["los"]},
        {"score": ["loss"], "model": None},
        {"models": {"referense": {"path": "m"}}},
    ],
    ids=str,
)
def test_what_winnow_refuses_is_wrong_in_an_editor_too(change: dict[str, Any]) -> None:
    recipe = {"name": "x", "inputs": [{"path": "a.jsonl"}], **change}
    assert faults(recipe)
    with pytest.raises(RecipeError):
        parse_recipe(recipe)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - any YAML
    """The path of each value inside a recipe."""
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


@st.composite
def changed_recipes(draw: st.DrawFn) -> dict[str, Any]:
    """A valid recipe of which one value is another, one key is misspelt, or one is missing."""
    recipe: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(VALID)))
    *parents, last = draw(st.sampled_from([*places(recipe)]))
    target: Any = recipe
    for key in parents:
        target = target[key]
    value = target.pop(last)
    match draw(st.sampled_from(["value", "value", "value", "missing", "misspelt"])):
        case "value" if isinstance(target, list):
            target.insert(last, draw(st.sampled_from(ODD)))
        case "value":
            target[last] = draw(st.sampled_from(ODD))
        case "misspelt" if isinstance(target, dict):
            target[f"{last}s"] = value
    return recipe


def shape_is_wrong(model: type[BaseModel], value: Any) -> bool:  # noqa: ANN401 - any YAML
    """Whether pydantic itself, not a function of the settings, finds something wrong with options."""
    try:
        model.model_validate(value or {})
    except ValidationError as error:
        return any(fault["type"] != "value_error" for fault in error.errors())
    return False


@draws(600)
@given(changed_recipes())
def test_the_schema_and_winnow_agree_on_changed_recipes(recipe: dict[str, Any]) -> None:
    try:
        parse_recipe(copy.deepcopy(recipe))
        refused = False
    except RecipeError:
        refused = True
    found = faults(recipe)
    assert refused or not found, found
    plain = {**recipe, "select": []}
    steps = recipe.get("select") if isinstance(recipe.get("select"), list) else []
    wrong = shape_is_wrong(Recipe, plain) or any(
        shape_is_wrong(SELECTORS[name], options)
        for step in steps or ()
        if isinstance(step, dict)
        for name, options in step.items()
        if name in SELECTORS
    )
    assert found or not wrong, f"{recipe} is wrong and the schema does not say so"


def test_every_key_has_a_description() -> None:
    schema = recipe_schema()
    owners = {"recipe": schema, **schema["$defs"]}
    short = [
        f"{owner}.{key}"
        for owner, definition in owners.items()
        for key, field in definition.get("properties", {}).items()
        if len(field.get("description", "")) < 15
    ]
    assert short == []


def test_the_committed_schema_is_the_one_that_the_settings_give() -> None:
    committed = (ROOT / "docs" / "recipe.schema.json").read_text("utf-8")
    assert committed == schema_json(), "run: winnow schema > docs/recipe.schema.json"
    Draft202012Validator.check_schema(json.loads(committed))
