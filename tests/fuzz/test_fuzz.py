"""Some seconds of what `python -m tests.fuzz` does for hours, with cases that hypothesis draws."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.draws import draws
from tests.fuzz.cases import file_case, recipe_case
from tests.fuzz.check import check_case, check_file, check_recipe

# The deadline is for readers that never end; a busy machine is slower than one would think.
few = settings(draws(150), deadline=60_000, suppress_health_check=list(HealthCheck))


@few
@given(st.randoms(use_true_random=False))
def test_whatever_a_file_holds_every_row_is_an_example_or_has_a_reason(random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_file(file_case(random), Path(folder))


@few
@given(st.randoms(use_true_random=False))
def test_whatever_a_recipe_says_it_is_a_recipe_or_a_recipe_error(random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_recipe(recipe_case(random), Path(folder))


# Found by the long run: each crashed a reader once, one of them the process.
FOUND = (188, 289, 376, 861, 1775, 2489, 104965, 110186, 130249, 203095, 224646, 315145, 1021323, 1151972)


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_before_stays_mended(seed: int, tmp_path: Path) -> None:
    check_case(seed, tmp_path)
