"""Bootstrap intervals: known numbers, coverage, and what the verdict says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipelines.evaluate.intervals import Difference, difference, expansion
from tests.draws import draws

ROWS = 60
UNITS = np.arange(ROWS)
ONES = np.ones(ROWS)


def arms(
    gap: float, rows_sd: float, seeds_sd: float, seed: int = 0, seeds: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Losses, (seeds, rows): an arm that differs by `gap`, with noise of both kinds, and a baseline."""
    random = np.random.default_rng(seed)
    baseline = np.repeat(random.normal(2, 1, ROWS)[None], seeds, axis=0)
    noise = random.normal(0, rows_sd, ROWS)[None] + random.normal(0, seeds_sd, (seeds, 1))
    return baseline + gap + noise, baseline


def test_the_difference_is_per_token_and_the_mean_of_the_seeds() -> None:
    first = np.array([[3.0, 5.0], [4.0, 6.0]])
    second = np.array([[1.0, 1.0], [1.0, 1.0]])
    found = difference(first, second, np.array([1.0, 3.0]), np.array([0, 1]), draws=200)
    assert found.value == pytest.approx(((2 + 4) / 4 + (3 + 5) / 4) / 2)


def test_equal_arms_differ_by_nothing_and_cannot_be_told_apart() -> None:
    first, _ = arms(0, 1, 0.1)
    found = difference(first, first, ONES, UNITS, draws=500)
    assert found == Difference(0.0, 0.0, 0.0)
    assert found.verdict("lower") == found.verdict("higher") == "cannot tell"


def test_a_big_effect_is_found_and_has_the_right_sign() -> None:
    better, baseline = arms(-0.5, 0.3, 0.02)
    found = difference(better, baseline, ONES, UNITS)
    assert -0.7 < found.low < found.value < found.high < -0.3
    assert found.verdict("lower") == "helps"
    assert found.verdict("higher") == "does not help"
    swapped = difference(baseline, better, ONES, UNITS)
    assert swapped.value == -found.value
    assert swapped.verdict("lower") == "does not help"


def test_seeds_that_disagree_leave_it_open_however_many_rows_there_are() -> None:
    sure = np.full((3, ROWS), 2.0)
    shaky = sure + np.array([[-0.4], [0.1], [-0.3]])
    found = difference(shaky, sure, ONES, UNITS)
    assert found.value == pytest.approx(-0.2)
    assert found.verdict("lower") == "cannot tell"
    # One seed knows nothing of that, and covers the rows only: here they all agree.
    assert difference(shaky[:1], sure[:1], ONES, UNITS).high == pytest.approx(-0.4)


def test_rows_alone_give_the_textbook_interval() -> None:
    random = np.random.default_rng(1)
    values = random.normal(0.3, 1, 400)
    found = difference(values[None], np.zeros((1, 400)), np.ones(400), np.arange(400))
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.012)
    assert found.high == pytest.approx(values.mean() + half, abs=0.012)


def test_the_draws_of_seeds_are_as_wide_as_student() -> None:
    per_seed = np.array([0.10, 0.25, 0.31, 0.18, 0.22])
    found = difference(np.repeat(per_seed[:, None], ROWS, axis=1), np.zeros((5, ROWS)), ONES, UNITS)
    half = stats.t.ppf(0.975, 4) * per_seed.std(ddof=1) / np.sqrt(5)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert expansion(2) > expansion(3) > expansion(10) > 1
    assert expansion(1) == 0


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_true_difference_about_as_often_as_they_say(seeds: int) -> None:
    hits = 0
    for trial in range(200):
        first, second = arms(0.1, 0.3, 0.05, seed=trial, seeds=seeds)
        found = difference(first, second, ONES, UNITS, draws=400)
        hits += found.low <= 0.1 <= found.high
    assert 0.91 <= hits / 200 <= 0.995


def test_rivals_of_one_prompt_are_drawn_together() -> None:
    random = np.random.default_rng(2)
    by_prompt = random.normal(0, 1, 50)
    alone = difference(by_prompt[None], np.zeros((1, 50)), np.ones(50), np.arange(50))
    copied = np.repeat(by_prompt, 4)
    together = difference(copied[None], np.zeros((1, 200)), np.ones(200), np.repeat(np.arange(50), 4))
    as_if_independent = difference(copied[None], np.zeros((1, 200)), np.ones(200), np.arange(200))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert as_if_independent.high - as_if_independent.low < 0.7 * (alone.high - alone.low)


@draws(30)
@given(st.integers(0, 99), st.integers(1, 4), st.floats(0.01, 5))
def test_the_interval_holds_the_difference_and_scales_with_the_losses(
    seed: int, seeds: int, scale: float
) -> None:
    first, second = arms(0.2, 1, 0.3, seed, seeds)
    found = difference(first, second, ONES, UNITS, draws=300)
    assert found.low <= found.value <= found.high
    scaled = difference(scale * first, scale * second, ONES, UNITS, draws=300)
    assert scaled.low == pytest.approx(scale * found.low, rel=1e-6, abs=1e-9)


def test_arms_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same rows"):
        difference(np.zeros((1, 3)), np.zeros((1, 4)), np.ones(3), np.arange(3))
