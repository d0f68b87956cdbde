"""The benchmark of suspect answers: what is planted, what the texts say, and the measures."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import planted, suspects
from benchmarks.planted import Answer
from pipelines.selectors.suspicion import quantiles
from scorers.calculations import holds, wrong_calculations
from scorers.models.loading import load_model
from scorers.models.settings import ModelSettings

GSM8K = (
    "He sold 1200 - 200 = <<1200-200=1000>>1000 on 1 day.\nThat is 2400 - 1200 = $<<2400-1200=1200>>1,200.00"
    " and 12001, 1200.5 or 3.1200 is not 1200.\n#### 1,200"
)
SHORT = "3 * 2 = <<3*2=6>>6 pages\n#### 6"


def answers(*responses: str) -> list[Answer]:
    return [Answer(f"question {at}", response, at) for at, response in enumerate(responses)]


@given(
    st.lists(st.integers(0, 30).map(str), min_size=2, max_size=40, unique=True),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_exchanged_answers_are_a_derangement_of_the_chosen_rows(
    responses: list[str], share: float, seed: int
) -> None:
    rows = answers(*responses)
    if round(share * len(rows)) < 2:
        with pytest.raises(ValueError, match="give more rows"):
            planted.exchange_answers(rows, share, seed)
        return
    changed = planted.exchange_answers(rows, share, seed)
    assert changed == planted.exchange_answers(rows, share, seed)
    assert sum(row.wrong for row in changed) == round(share * len(rows))
    assert all((new.response != old.response) == new.wrong for new, old in zip(changed, rows, strict=True))
    assert Counter(row.response for row in changed) == Counter(responses)
    assert [(row.prompt, row.group) for row in changed] == [(row.prompt, row.group) for row in rows]


def test_answers_that_another_row_gives_too_stay_where_they_are() -> None:
    changed = planted.exchange_answers(answers("Yes.", "a", "yes. ", "b", "c"), 1.0, 0)
    assert [row.wrong for row in changed] == [False, True, False, True, True]


@given(st.integers(0, 10_000))
def test_a_wrong_result_differs_in_one_digit_and_nothing_before_it_changes(seed: int) -> None:
    changed = planted.with_wrong_result(GSM8K, np.random.default_rng(seed))
    assert changed is not None
    kept = GSM8K.index("=1200>>")
    assert changed[:kept] == GSM8K[:kept]
    assert len(changed) == len(GSM8K)
    numbers = re.fullmatch(
        r"=(\d+)>>([\d,]+)\.00 and 12001, 1200\.5 or 3\.1200 is not (\d+)\.\n#### ([\d,]+)", changed[kept:]
    )
    assert numbers is not None
    wrong = {number.replace(",", "") for number in numbers.groups()}
    assert len(wrong) == 1
    digits = wrong.pop()
    assert digits[0] != "0"
    assert sum(a != b for a, b in zip(digits, "1200", strict=True)) == 1
    assert not holds("2400-1200", digits)


@pytest.mark.parametrize(
    "response",
    [
        "no calculation\n#### 6",
        "3 * 2 = <<3*2=6>>6",  # no final answer
        "3 * 2 = <<3*2=6>>6, plus one\n#### 7",  # which the last calculation does not give
        "3 * 2 = <<3*2=7>>7\n#### 7",  # wrong already
        "1 / 2 = <<1/2=0.5>>0.5\n#### 0.5",  # no whole number
    ],
)
def test_an_answer_that_cannot_be_made_wrong_with_care_is_left_alone(response: str) -> None:
    assert planted.with_wrong_result(response, np.random.default_rng(0)) is None


def test_as_many_rows_are_miscalculated_as_asked_for_and_the_others_stay() -> None:
    rows = answers(*[SHORT] * 6, *["none"] * 4)
    changed = planted.miscalculate(rows, 0.3, seed=1)
    assert changed == planted.miscalculate(rows, 0.3, seed=1) != planted.miscalculate(rows, 0.3, seed=2)
    assert sum(row.wrong for row in changed) == 3
    assert all((new.response == SHORT) != new.wrong for new in changed[:6])
    assert changed[6:] == rows[6:]
    assert all(bool(wrong_calculations(row.response)) == row.wrong for row in changed)
    with pytest.raises(ValueError, match="1 rows short: too few of 10"):
        planted.miscalculate(rows, 0.7, seed=1)


def test_auc_counts_the_pairs_that_are_in_order_and_half_of_the_ties() -> None:
    values = np.array([5.0, 2.0, 2.0, 2.0, 1.0, np.nan])
    wrong = np.array([True, True, False, False, True, True])
    # 5 > 2, 5 > 2; 2 = 2, 2 = 2; 1 < 2, 1 < 2: (2 + 2/2) / 6
    assert suspects.auc(values, wrong) == 0.5
    assert suspects.auc(values[:4], wrong[:4]) == 0.75
    assert np.isnan(suspects.auc(values, np.ones(6, dtype=bool)))
    assert np.isnan(suspects.auc(np.full(2, np.nan), np.array([True, False])))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_and_turns_round_with_the_sign(rows: list[tuple[int, bool]]) -> None:
    values = np.array([value for value, _ in rows], dtype=np.float64)
    wrong = np.array([label for _, label in rows])
    pairs = [(x > y) + 0.5 * (x == y) for x in values[wrong] for y in values[~wrong]]
    if not pairs:
        assert np.isnan(suspects.auc(values, wrong))
        return
    assert suspects.auc(values, wrong) == pytest.approx(np.mean(pairs))
    assert suspects.auc(-values, wrong) == pytest.approx(1 - np.mean(pairs))
    assert suspects.auc(quantiles(values), wrong) == pytest.approx(np.mean(pairs))


def test_pair_accuracy_counts_pairs_of_one_wrong_and_one_right_answer() -> None:
    labels = [True, False, False, True, True, False, True, True, True, True, False]
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    rows = [Answer("q", "", group, wrong) for group, wrong in zip(groups, labels, strict=True)]
    values = np.array([2.0, 1.0, 3.0, 3.0, 0.0, np.nan, 1.0, 2.0, 1.0, 1.0, 2.0])
    assert suspects.pair_accuracy(values, rows) == 0.75  # a win, a tie; no value, no right answer, three


def test_every_signal_has_a_value_and_what_does_not_fit_the_model_is_left_out() -> None:
    things = ["apples", "pears", "plums", "grapes", "melons", "onions", "carrots", "beans", "peas", "leeks"]
    rows = [
        Answer(f"Ben has {at} {one} and buys 2 {one}. How many?", f"{at} + 2 = {at + 2} {one}", at)
        for at, one in enumerate(things)
    ]
    rows = planted.exchange_answers(rows, 0.3, seed=0)
    rows += [Answer(row.prompt, row.response, row.group) for row in rows[:4]]
    rows += [Answer("long " * 600, "answer", len(things))]  # longer than the context: left out
    model = load_model(ModelSettings(path=str(suspects.QUICKSTART_MODEL), device="cpu"))
    scored = suspects.score(model, rows, threads=1)
    assert len(scored.answers) == len(rows) - 1
    for name, signal in suspects.SIGNALS.items():
        values = signal(scored)
        assert values.shape == (len(rows) - 1,), name
        assert np.isfinite(values).sum() == (8 if name == "text: rivals end otherwise" else len(values)), name
    np.testing.assert_allclose(scored["wg_inner"], scored["loss"] - scored["entropy"], atol=1e-5)
    table = suspects.report({"exchanged": scored, "worse": scored})
    assert "| suspicion, as the verdict has it | " in table
    assert len(table.splitlines()) == len(suspects.SIGNALS) + 3


@pytest.mark.realdata
def test_the_real_sets_are_read_and_labelled(realdata: Path) -> None:
    sets = planted.read_sets(realdata, rows=90, seed=0)
    wrong = {name: sum(row.wrong for row in rows) for name, rows in sets.items()}
    assert {name: len(rows) for name, rows in sets.items()} == dict.fromkeys(sets, 90)
    assert [wrong[name] for name in list(sets)[:3]] == [9, 9, 9]
    assert wrong["worse of two, LLMBar"] == 45
    assert all(0 < count < 90 for count in wrong.values())
    assert sets == planted.read_sets(realdata, rows=90, seed=0)
    assert sets != planted.read_sets(realdata, rows=90, seed=1)
