"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from connectors.fields import FORMATS
from pipelines.recipe import parse_recipe
from pipelines.selectors.catalog import SELECTORS
from scorers.catalog import SCORERS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_every_method_column_and_format_is_in_the_readme() -> None:
    for name, scorer in SCORERS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{column.name}`" in row for column in scorer.columns)
    for name in SELECTORS:
        assert f"| `{name}` |" in README
    for name in FORMATS:
        assert name in README


def test_the_recipe_in_the_readme_is_valid() -> None:
    text = README.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert parse_recipe(yaml.safe_load(text)).stores_tokens


def test_the_sections_on_duplicates_are_valid() -> None:
    text = README.split("```yaml\n")[2].split("```", 1)[0]
    sections = {"name": "x", "inputs": [{"path": "rows.jsonl"}], **yaml.safe_load(text)}
    recipe = parse_recipe(sections)
    assert recipe.decontaminate is not None
    assert recipe.dedupe.semantic is not None


def test_the_readme_names_the_two_commands() -> None:
    lines = [line.strip() for line in README.splitlines()]
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)


def test_the_ten_lines_of_python_print_what_the_readme_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.split("## Ten lines of Python\n", 1)[1]
    code, printed = (section.split(f"```{kind}\n", 1)[1].split("```", 1)[0] for kind in ("python", "text"))
    monkeypatch.chdir(ROOT)
    assert len([line for line in code.splitlines() if line]) == 10
    exec(code, {})  # noqa: S102 - our own text
    assert capsys.readouterr().out == printed
