"""docs/methods.md says what the catalogs and the files of the methods say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.methods_reference import methods_page, opening_of
from pipelines.selectors.catalog import SELECTORS
from scorers.catalog import SCORERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def test_the_committed_page_is_the_one_that_the_catalogs_give() -> None:
    assert PAGE.read_text("utf-8") == methods_page(), (
        "run: winnow methods --format markdown > docs/methods.md"
    )


@pytest.mark.parametrize("name", SCORERS)
def test_the_file_of_a_scorer_opens_with_its_direction_and_source(name: str) -> None:
    module = SCORERS[name].score.__module__
    opening = "\n".join(opening_of(module))
    assert module == f"scorers.{name}"
    assert "Direction" in opening
    assert "Source" in opening or "TRL" in opening


@pytest.mark.parametrize("name", SELECTORS)
def test_the_file_of_a_selector_says_what_is_ours_or_published(name: str) -> None:
    opening = "\n".join(opening_of(SELECTORS[name].__module__))
    assert any(word in opening for word in ("Source", "Ours", "ours"))
    assert len(opening.splitlines()) >= 4
