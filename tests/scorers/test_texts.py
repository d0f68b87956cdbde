"""What the text of a response says of it: calculations that do not hold, words of the prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.calculations import holds, wrong_calculations
from scorers.prompt_overlap import prompt_overlap


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.", []),
        ("Natalia sold 48/2 = <<48/2=23>>23 clips.", ["48/2=23"]),
        ("12 * 5 = $60, and 60 - 5 = 45", ["60 - 5 = 45"]),
        ("1,200 + 300 = 1,500", []),
        ("1,200 + 300 = 1,600", ["1,200 + 300 = 1,600"]),
        ("2 / 3 = 0.67 and 2/3 = 0.66666", []),
        ("x + 3 = 5; 3x + 2 = 7; a2+3=9", []),
        ("2 + 3 = 4 + 1", []),  # goes on
        ("2 - 1/2 = 1 1/2 and 1 1/2 + 2 = 3 1/2, 1 and 1/4 + 2 = 3.25", []),  # mixed numbers
        ("(2 + 3) * 4 = 20", []),
        ("20% * 50 = 10", []),
        ("Version 1.2-3 = 4 of the form", ["1.2-3 = 4"]),
        ("", []),
    ],
)
def test_calculations_that_do_not_hold(text: str, wrong: list[str]) -> None:
    assert wrong_calculations(text) == wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("12 * 5 = $60, and 12 x 5 = 61", 1),
        ("$5,000 * (1 + 2.5%) = $5,125", 0),
        ("$5 * 60% = 5 * 0.6 = $3", 0),  # the first equation goes on, the last is read
        ("(3 + 4) * 5 = 35", 0),
        ("(2 + 1) * (3 + 4) * 5 = 35", 1),
        ("3 eggs * 4 + 8 = 20", 0),  # begins in the middle: not judged
        ("2 / 3 = 0.67, 2 / 3 = 0.66, 2 / 3 = 0.6", 0),  # rounded, or cut
        ("2 / 3 = 0.68", 1),
        ("1 / 4 = 25%", 0),
        ("20 apples - 3 = 9", 0),  # what is subtracted from is unknown
        ("x = 4 and 2 + 2", 0),
        ("2 + 48 + 3150 + 1300 = 4490", 1),
        ("7 / 0 = 1", 0),
        ("1000 - 1 = 1,999", 1),
    ],
)
def test_calculations_are_read_as_they_are_written(text: str, wrong: int) -> None:
    assert len(wrong_calculations(text)) == wrong


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from("+-*"), st.integers(-3, 3))
def test_a_whole_result_holds_only_when_it_is_right(one: int, other: int, sign: str, off: int) -> None:
    right = {"+": one + other, "-": one - other, "*": one * other}[sign]
    assert holds(f"{one} {sign} {other}", str(right + off)) == (off == 0)


@pytest.mark.parametrize("text", ["9" * 400 + " * 3 = 4", "(" * 300 + "1+1=3", "1 = " * 5000, "1+" * 50_000])
def test_hostile_texts_take_no_time(text: str) -> None:
    assert len(wrong_calculations(text)) <= 1


@given(st.text(max_size=60), st.text(max_size=60))
def test_overlap_is_a_share_and_a_copy_has_all_of_it(prompt: str, response: str) -> None:
    share = prompt_overlap(prompt, response)
    assert share is None or 0 <= share <= 1
    assert prompt_overlap(response, response) in (None, 1.0)


def test_overlap_counts_distinct_words_and_numbers() -> None:
    assert prompt_overlap("Janet has 16 eggs", "16 eggs, 16 Eggs and nine more: 25") == pytest.approx(2 / 5)
