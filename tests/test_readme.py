"""The README says what the code does; that its blocks run is tested with those of all pages."""

from __future__ import annotations

from pathlib import Path

from pipelines.selectors.catalog import SELECTORS
from scorers.catalog import SCORERS
from tests.doc_blocks import blocks_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_every_method_and_column_is_in_the_readme() -> None:
    for name, scorer in SCORERS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{column.name}`" in row for column in scorer.columns)
    for name in SELECTORS:
        assert f"| `{name}` |" in README


def test_the_readme_names_the_two_commands() -> None:
    lines = [line.strip() for line in README.splitlines()]
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)


def test_the_ten_lines_of_python_are_ten() -> None:
    [block] = (block for block in blocks_of(ROOT / "README.md") if block.language == "python")
    assert len([line for line in block.text.splitlines() if line]) == 10


def test_the_readme_is_a_front_page() -> None:
    assert len(README.splitlines()) <= 330, "move detail to a page of docs/"
