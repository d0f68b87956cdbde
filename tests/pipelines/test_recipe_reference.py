"""docs/recipes.md says what the settings say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipe import parse_recipe
from pipelines.recipe_examples import SECTIONS, STEPS
from pipelines.recipe_reference import reference
from pipelines.recipe_schema import recipe_schema
from pipelines.selectors.catalog import SELECTORS, parse_selector
from scorers.catalog import SCORERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
START: dict[str, Any] = {"name": "x", "inputs": [{"path": "rows.jsonl"}]}


def test_the_committed_page_is_the_one_that_the_settings_give() -> None:
    assert PAGE.read_text("utf-8") == reference(), "run: winnow schema --format markdown > docs/recipes.md"


@pytest.mark.parametrize("place", SECTIONS)
def test_the_example_of_a_section_is_a_recipe(place: str) -> None:
    parse_recipe(START | yaml.safe_load(SECTIONS[place]))


def test_every_selector_has_examples_that_it_takes() -> None:
    assert STEPS.keys() == SELECTORS.keys()
    for name, steps in STEPS.items():
        assert [parse_selector(yaml.safe_load(step)).name for step in steps] == [name] * len(steps)


def test_every_key_of_a_section_stands_in_an_example() -> None:
    """Keys of selectors are too many; their tables say the default."""
    schema = recipe_schema()
    owners = [schema, *(part for name, part in schema["$defs"].items() if not name.startswith("select."))]
    keys = {key for owner in owners for key in owner["properties"]}
    assert {
        key for key in keys if not any(re.search(rf"\b{key}:", text) for text in SECTIONS.values())
    } == set()


def test_every_key_scorer_and_selector_is_on_the_page() -> None:
    page, schema = reference(), recipe_schema()
    for owner in (schema, *schema["$defs"].values()):
        assert all(f"`{key}`" in page for key in owner["properties"])
    assert all(f"| `{name}` |" in page for name in SCORERS)
    assert all(f"\n### {name}\n" in page for name in SELECTORS)
