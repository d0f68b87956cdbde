"""GRAPE: the most probable of rival answers."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.grape import Grape
from tests.pipelines.selectors.tables import EXAMPLES, any_candidates, candidates, kept_rows

ANSWERS = candidates(  # A: 2 tokens of p = .5; B: 4 tokens of p = .6
    [-math.log(0.5), -math.log(0.6)], group=["x", "x"], response_tokens=[2, 4]
)


def test_worked_example_the_mean_prefers_b_and_the_sum_prefers_a() -> None:
    by_mean, by_sum = Grape().decide(ANSWERS, 0), Grape(norm="sum").decide(ANSWERS, 0)
    assert kept_rows(by_mean) == [1]
    assert kept_rows(by_sum) == [0]
    assert by_mean.columns["grape_margin"].to_pylist() == pytest.approx([-math.log(1.2), math.log(1.2)])
    assert by_sum.columns["grape_margin"][0].as_py() == pytest.approx(2.043302 - 1.386294, abs=1e-6)
    assert by_mean.columns["grape_rank"].to_pylist() == [2, 1]
    assert by_mean.reason.tolist() == [
        "grape: less probable than its rivals",
        "grape: among the most probable of its group",
    ]


def test_an_only_answer_is_kept_and_not_ranked() -> None:
    decisions = Grape().decide(candidates([9.0, None, 1.0], group=["a", "b", "b"]), 0)
    assert kept_rows(decisions) == [0, 2]
    assert decisions.reason.tolist() == [
        "grape: only answer",
        "grape: no loss (status overflow)",
        "grape: only answer that could be ranked",
    ]
    assert decisions.columns["grape_rank"].to_pylist() == [None, None, None]
    assert decisions.columns["grape_margin"].to_pylist() == [None, None, None]
    assert decisions.columns["group_size"].to_pylist() == [1, 2, 2]


def test_a_truncated_answer_ranks_only_among_truncated_ones() -> None:
    table = candidates([1.0, 2.0, 1.0, 2.0], group=["a", "a", "b", "b"], truncated=[True, False, True, True])
    decisions = Grape().decide(table, 0)
    assert kept_rows(decisions) == [1, 2]
    assert decisions.reason[0] == "grape: truncated, and a rival is whole"


def test_a_truncated_answer_ranks_when_its_whole_rival_has_no_loss() -> None:
    table = candidates([1.0, None], group=["a", "a"], truncated=[True, False])
    assert kept_rows(Grape().decide(table, 0)) == [0]


def test_short_answers_do_not_win_by_their_length() -> None:
    table = candidates([0.1, 1.0], group=["a", "a"], response_tokens=[7, 8])
    decisions = Grape(min_response_tokens=8).decide(table, 0)
    assert kept_rows(decisions) == [1]
    assert decisions.reason[0] == "grape: response too short"
    assert kept_rows(Grape().decide(table, 0)) == [0]


def test_equal_answers_are_taken_by_id() -> None:
    table = candidates([1.0, 1.0, 1.0], group=["a"] * 3, ids=["r3", "r1", "r2"])
    decisions = Grape(keep=2).decide(table, 0)
    assert kept_rows(decisions) == [1, 2]
    assert decisions.columns["grape_margin"].to_pylist() == [0.0, 0.0, 0.0]


@EXAMPLES
@given(any_candidates(), st.integers(1, 4))
def test_each_group_keeps_as_many_as_asked_or_all_that_can_be_ranked(table: pa.Table, keep: int) -> None:
    decisions = Grape(keep=keep).decide(table, 0)
    rows = list(zip(table["group"].to_pylist(), decisions.keep, decisions.reason, strict=True))
    for group in {name for name, _, _ in rows}:
        kept = sum(bool(k) for name, k, _ in rows if name == group)
        lost = sum("less probable" in reason for name, _, reason in rows if name == group)
        assert kept == min(keep, kept + lost)


@EXAMPLES
@given(any_candidates())
def test_the_mean_keeps_the_lowest_loss_of_the_ranked(table: pa.Table) -> None:
    decisions = Grape().decide(table, 0)
    rows = list(zip(table["group"].to_pylist(), table["loss"].to_pylist(), decisions.reason, strict=True))
    for group, loss, reason in rows:
        if reason == "grape: among the most probable of its group":
            rivals = [other for name, other, why in rows if name == group and "less probable" in why]
            assert loss <= min(rivals)


@EXAMPLES
@given(any_candidates())
def test_with_equal_lengths_mean_and_sum_agree(table: pa.Table) -> None:
    index = table.column_names.index("response_tokens")
    table = table.set_column(index, "response_tokens", pa.array([8] * table.num_rows, pa.int32()))
    assert Grape().decide(table, 0).keep.tolist() == Grape(norm="sum").decide(table, 0).keep.tolist()
