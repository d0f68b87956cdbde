"""DART: targets by fail rate, and the answers taken for them."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import Decisions
from pipelines.selectors.dart import Dart, prop2diff
from pipelines.selectors.id_order import id_order
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows
from tests.pipelines.selectors.test_pass_rate import answers

COUNTS = st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(any)  # (wrong, right) of a prompt
POOLS = st.lists(COUNTS, max_size=6)


def pool(prompts: Sequence[tuple[int, int]]) -> pa.Table:
    """Answers of prompts a, b, c, ... given as (wrong, right)."""
    letters = "abcdefghij"
    group = "".join(
        letter * (wrong + right) for letter, (wrong, right) in zip(letters, prompts, strict=False)
    )
    return answers(group, [label for wrong, right in prompts for label in [0.0] * wrong + [1.0] * right])


def by_group(table: pa.Table, decisions: Decisions, column: str) -> list[Any]:
    """A group-level column, one value for each group in order of its name."""
    values = dict(zip(table["group"].to_pylist(), decisions.columns[column].to_pylist(), strict=True))
    return [values[name] for name in sorted(values)]


FOUR = pool([(0, 4), (1, 3), (3, 1), (4, 0)])  # the worked example: 4 trials each, fail rates 0, 1/4, 3/4, 1


def test_worked_example_targets_are_proportional_rounded_up_and_at_least_one() -> None:
    decisions = Dart(k=4).decide(FOUR, 0)
    assert by_group(FOUR, decisions, "target_k") == [1, 1, 3, 4]
    assert by_group(FOUR, decisions, "selected_k") == [1, 1, 1, 0]
    assert by_group(FOUR, decisions, "fail_rate") == [0, 0.25, 0.75, 1]
    assert Counter(decisions.reason) == {
        "dart: within the target of its prompt": 3,
        "dart: beyond the target of its prompt": 5,
        "dart: wrong answer": 8,
    }


def test_uniform_ignores_the_fail_rate_and_vanilla_keeps_every_right_answer() -> None:
    uniform, vanilla = Dart(mode="uniform", k=3).decide(FOUR, 0), Dart(mode="vanilla").decide(FOUR, 0)
    assert by_group(FOUR, uniform, "target_k") == [3, 3, 3, 3]
    assert by_group(FOUR, uniform, "selected_k") == [3, 3, 1, 0]
    assert by_group(FOUR, vanilla, "selected_k") == by_group(FOUR, vanilla, "target_k") == [4, 3, 1, 0]


def test_the_hardest_prompt_has_k_unless_fail_rates_are_taken_as_they_are() -> None:
    table = pool([(1, 3), (2, 2)])
    assert by_group(table, Dart(k=4).decide(table, 0), "target_k") == [2, 4]
    assert by_group(table, Dart(k=4, normalise="one").decide(table, 0), "target_k") == [1, 2]


def test_a_prompt_that_never_fails_is_covered_or_left_out() -> None:
    table = pool([(0, 3), (1, 1)])
    assert by_group(table, Dart(k=5, cover=False).decide(table, 0), "target_k") == [0, 5]
    easy = pool([(0, 3), (0, 2)])
    assert by_group(easy, Dart(k=5).decide(easy, 0), "selected_k") == [1, 1]
    assert not Dart(k=5, cover=False).decide(easy, 0).keep.any()


def test_targets_are_computed_in_integers() -> None:
    assert math.ceil(10 * (1 - 0.7)) == 4  # what floats would give
    assert prop2diff(10, 3, 10, Fraction(1)) == 3
    assert prop2diff(7, 1, 3, Fraction(1, 3)) == 7
    assert prop2diff(3, 10**9 + 1, 3 * 10**9, Fraction(1)) == 2


def test_trials_that_are_not_in_the_pool_count_as_failures() -> None:
    table = pool([(0, 2), (0, 2)]).append_column("n", pa.array([4.0, 4.0, 40.0, None]))
    decisions = Dart(k=10, trials="n").decide(table, 0)
    assert by_group(table, decisions, "fail_rate") == [0.5, 0.95]
    assert by_group(table, decisions, "target_k") == [6, 10]  # ceil(10 * .5 / .95)
    assert Dart(k=1, trials="n").reads == ("correct", "n")


def test_a_prompt_of_unknown_trials_is_dropped_and_says_so() -> None:
    table = pool([(0, 1), (1, 1)]).append_column("n", pa.array([None, 5.0, 5.0]))
    decisions = Dart(k=10, trials="n").decide(table, 0)
    assert kept_rows(decisions) == [2]
    assert decisions.reason[0] == "dart: no trials of its prompt"
    assert by_group(table, decisions, "fail_rate") == [None, 0.8]


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([1.0, 1.0], "the prompt of row000 has 2 labelled answers, but the column 'n', .* says 1"),
        ([3.0, 4.0], "the column 'n' says 3 for row000 and 4 for another answer"),
        ([2.5, 2.5], "holds 2.5, and trials are counted"),
        ([-1.0, 2.0], "holds -1, and trials are counted"),
    ],
)
def test_trials_that_cannot_be_are_refused(trials: list[float], message: str) -> None:
    table = answers("aa", [1, 0]).append_column("n", pa.array(trials))
    with pytest.raises(ValueError, match=message):
        Dart(k=1, trials="n").decide(table, 0)


def test_rows_without_a_label_are_no_trials() -> None:
    table = answers("aaabb", [1, 0, None, None, None], status=["ok"] * 4 + ["overflow"])
    decisions = Dart(k=1).decide(table, 0)
    assert decisions.columns["fail_rate"].to_pylist() == [0.5, 0.5, 0.5, None, None]
    assert decisions.reason[2] == "dart: no correct"
    assert decisions.reason[4] == "dart: no correct (status overflow)"
    assert decisions.columns["dart_rank"].to_pylist() == [1, None, None, None, None]


@EXAMPLES
@given(POOLS, st.integers(1, 12), st.booleans(), st.sampled_from(["max", "one"]))
def test_harder_prompts_have_higher_targets_and_none_selects_more_than_it_has(
    prompts: list[tuple[int, int]], k: int, cover: bool, normalise: str
) -> None:
    table = pool(prompts)

    def decide(k: int) -> Decisions:
        return Dart.model_validate({"k": k, "cover": cover, "normalise": normalise}).decide(table, 0)

    one, two = decide(k), decide(2 * k)
    targets = by_group(table, one, "target_k")
    for target, selected, (wrong, right) in zip(
        targets, by_group(table, one, "selected_k"), prompts, strict=True
    ):
        assert selected == min(target, right)
        for other, (other_wrong, other_right) in zip(targets, prompts, strict=True):
            if Fraction(wrong, wrong + right) >= Fraction(other_wrong, other_wrong + other_right):
                assert target >= other
    for target, double in zip(targets, by_group(table, two, "target_k"), strict=True):
        assert target <= double <= 2 * target
    assert not (one.keep & ~two.keep).any()  # nested in k


@EXAMPLES
@given(
    POOLS, st.sampled_from(["prop2diff", "uniform", "vanilla"]), st.integers(0, 30), st.booleans(), st.data()
)
def test_a_number_of_examples_is_exact_nested_and_the_same_in_any_order(
    prompts: list[tuple[int, int]], mode: str, examples: int, cover: bool, data: st.DataObject
) -> None:
    table = pool(prompts)
    easy = sum(right for wrong, right in prompts if not wrong)
    most = sum(right for _, right in prompts)
    if mode == "prop2diff" and any(wrong for wrong, _ in prompts):
        most += sum(cover for wrong, right in prompts if not wrong) - easy
    elif mode == "prop2diff":
        most = len(prompts) * cover

    def decide(examples: int, table: pa.Table) -> Decisions:
        return Dart.model_validate({"mode": mode, "examples": examples, "cover": cover}).decide(table, 0)

    decisions = decide(examples, table)
    assert decisions.keep.sum() == min(examples, most)
    assert not (decisions.keep & ~decide(examples + 1, table).keep).any()
    order = data.draw(st.permutations(range(table.num_rows)))
    again = decide(examples, table.take(pa.array(order, pa.int64())))
    assert again.reason.tolist() == decisions.reason[order].tolist()
    assert again.keep.tolist() == decisions.keep[order].tolist()


def test_an_exact_size_lies_between_two_values_of_k() -> None:
    table = pool([(6, 6), (3, 6), (0, 6)])
    sizes = [int(Dart(k=k).decide(table, 0).keep.sum()) for k in range(1, 7)]
    assert sizes == [3, 5, 6, 8, 10, 11]  # targets ceil(k * (1, 2/3, 0)), at least 1
    four, five = Dart(examples=4).decide(table, 0), Dart(k=2).decide(table, 0)
    assert by_group(table, four, "target_k") == [2, 2, 1]
    assert (four.keep & ~five.keep).sum() == 0
    assert (four.reason == "dart: beyond the number of examples").sum() == 1


def test_the_last_step_is_cut_by_the_hash() -> None:
    table = pool([(1, 1)] * 10)
    drawn = id_order(table["id"].to_pylist(), 7)
    right = [row for row, label in enumerate(table["correct"].to_pylist()) if label]
    kept = kept_rows(Dart(mode="uniform", examples=4).decide(table, 7))
    assert kept == sorted(sorted(right, key=lambda row: int(drawn[row]))[:4])


def test_another_seed_takes_other_answers_of_the_same_prompts() -> None:
    table = pool([(8, 30)])
    first, second = (kept_rows(Dart(k=10).decide(table, seed)) for seed in (0, 1))
    assert first != second
    assert len(first) == len(second) == 10


def test_no_rows_give_no_decisions() -> None:
    for options in ({"k": 3}, {"examples": 3}, {"mode": "vanilla"}):
        assert len(Dart.model_validate(options).decide(pool([]), 0).keep) == 0
    assert len(Dart(k=1, trials="loss").decide(candidates([]), 0).keep) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "prop2diff needs exactly one of k and examples"),
        ({"mode": "uniform", "k": 1, "examples": 2}, "uniform needs exactly one"),
        ({"mode": "vanilla", "k": 1}, "has no k"),
        ({"k": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dart.model_validate(options)


@pytest.mark.realdata
def test_real_answers_of_three_models_keep_more_of_harder_prompts(realdata: Path) -> None:
    rows = []
    for model in ("7b", "13b", "70b"):
        with gzip.open(realdata / "gsm8k_answers" / f"abel_gsm8k_{model}.jsonl.gz", "rt") as file:
            rows += [(f"{n:04d}", json.loads(line)["result"]) for n, line in enumerate(file)]
    table = candidates(
        [1.0] * len(rows), group=[group for group, _ in rows], ids=[f"{n:05d}" for n in range(len(rows))]
    )
    table = table.append_column("extra.result", pa.array([result for _, result in rows]))
    decisions = Dart(correct="extra.result", k=6).decide(table, 0)
    right = Counter(group for group, result in rows if result)
    # Of prompts with 3, 2, 1 right answers the targets are 1, 2, 4.
    assert decisions.keep.sum() == sum({3: 1, 2: 2, 1: 1}[count] for count in right.values())
