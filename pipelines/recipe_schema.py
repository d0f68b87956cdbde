"""The JSON schema of recipes (Draft 2020-12), for editors that complete and check YAML as it is typed.

It is made from the settings themselves, in the shape in which recipes are written: a step of `select` is a
mapping of one selector's name to its options. It states keys, types, bounds and choices, and which keys
exclude each other; what joins several sections, such as a selector and the scorer it reads, is left to
`winnow validate`. Values of another type that winnow would read all the same ("0.5" for 0.5) are wrong here.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from connectors.fields import CANONICAL_FIELDS, FORMAT_SYNONYMS, FORMATS
from pipelines.decontaminate.settings import KNOWN_NAMES
from pipelines.recipe import Recipe
from pipelines.selectors.base import Budget, Selector
from pipelines.selectors.catalog import SELECTORS
from pipelines.selectors.verdict import Verdict
from scorers.catalog import SCORERS

Schema = dict[str, Any]

BUDGET = ("keep", "keep_examples", "keep_tokens")
FILE_NAME = "recipe.schema.json"
EDITOR_LINE = f"# yaml-language-server: $schema={FILE_NAME}"
"""First line of a recipe with the schema in the same folder; editors with a YAML language server read it."""


def schema_json() -> str:
    """The schema as a file holds it."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def recipe_schema() -> Schema:
    """The schema of a recipe; its definitions are the settings and, as `select.NAME`, the selectors."""
    schema: Schema = Recipe.model_json_schema()
    definitions = schema.pop("$defs")
    steps = {}
    for name, selector in SELECTORS.items():
        own = selector.model_json_schema()
        definitions |= own.pop("$defs", {})
        definitions[f"select.{name}"] = own | _rule_of(selector)
        steps[name] = _options(name, selector)
    _narrow(definitions, schema["properties"])
    schema["properties"]["select"]["items"] = _mapping_of_one(steps)
    schema |= {"if": _has_items("score"), "then": _given("model")}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}
    _without_titles(schema)
    return schema | {"title": "winnow recipe"}


def _narrow(definitions: dict[str, Schema], properties: dict[str, Schema]) -> None:
    """States what the settings check with functions."""
    definitions["InputSpec"]["properties"]["format"]["enum"] = ["auto", *FORMATS, *FORMAT_SYNONYMS]
    definitions["InputSpec"]["properties"]["fields"]["propertyNames"] = {"enum": [*CANONICAL_FIELDS]}
    definitions["EvalSet"]["properties"]["fields"]["propertyNames"] = {"enum": ["prompt", "response"]}
    definitions["InputSpec"] |= _exactly_one("path", "dataset")
    definitions["KeepBy"] |= _exactly_one("source", "highest")
    definitions["SemanticSettings"] |= _at_most_one("threshold", "keep", "d4")
    definitions["EvalSet"] |= {"anyOf": [_given("path"), _given("name", {"enum": [*KNOWN_NAMES]})]}
    properties["score"]["items"] = {"enum": [*SCORERS]}


def _rule_of(selector: type[Selector]) -> Schema:
    """What a selector wants of several options together."""
    if selector is Verdict:  # without a budget it keeps all
        return {"anyOf": [{"not": {"anyOf": [{"required": [key]} for key in BUDGET]}}, _exactly_one(*BUDGET)]}
    return _exactly_one(*BUDGET) if issubclass(selector, Budget) else {}


def _options(name: str, selector: type[Selector]) -> Schema:
    options = {"$ref": f"#/$defs/select.{name}"}
    try:
        selector.model_validate({})
    except ValidationError:
        return options
    return {"anyOf": [options, {"type": "null"}]}  # `- dft:` alone


def _mapping_of_one(properties: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _given(key: str, value: Schema | None = None) -> Schema:
    """The key is there and not null."""
    return {"required": [key], "properties": {key: value or {"not": {"type": "null"}}}}


def _has_items(key: str) -> Schema:
    return {"required": [key], "properties": {key: {"type": "array", "minItems": 1}}}


def _exactly_one(*keys: str) -> Schema:
    return {"oneOf": [_given(key) for key in keys]}


def _at_most_one(*keys: str) -> Schema:
    return {
        "not": {"anyOf": [{"allOf": [_given(one), _given(other)]} for one, other in combinations(keys, 2)]}
    }


def _without_titles(part: Any) -> None:  # noqa: ANN401 - any JSON
    """Takes out the titles that pydantic makes of names; they tell an editor's reader nothing."""
    if isinstance(part, dict):
        if isinstance(part.get("title"), str):
            del part["title"]
        for inner in part.values():
            _without_titles(inner)
    elif isinstance(part, list):
        for inner in part:
            _without_titles(inner)
