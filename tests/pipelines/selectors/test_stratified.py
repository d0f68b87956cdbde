"""Quotas by stratum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.random_sample import RandomSample
from pipelines.selectors.stratified import Stratified, largest_remainder, split_budget, strata, weights
from pipelines.selectors.top_k import TopK
from tests.pipelines.selectors.tables import EXAMPLES, any_candidates, candidates, kept_rows

ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 5)), max_size=30)
SPLITS = st.sampled_from([{"split": "equal"}, {"split": "proportional"}, {"split": "sqrt"},
                          {"split": "shares", "shares": {"a": 0.5, "b": 0.3, "c": 0.2}}])  # fmt: skip


def with_topics(topics: list[Any], loss: list[float] | None = None, **columns: Any) -> pa.Table:  # noqa: ANN401
    table = candidates(loss or [float(i) for i in range(len(topics))], **columns)
    return table.append_column(
        "extra.topic", pa.array(topics) if any(topics) else pa.nulls(len(topics), pa.string())
    )


TABLE = with_topics(list("aaaaaaaaabbbb") + ["c"])  # 9, 4 and 1 rows; the loss rises with the row


def kept_by_topic(**options: Any) -> str:  # noqa: ANN401 - options of the selector
    selector = Stratified.model_validate({"by": "extra.topic", **options})
    return "".join(TABLE["extra.topic"].to_pylist()[row] for row in kept_rows(selector.decide(TABLE, 0)))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep_examples": 7}, "aaabbbc"),  # 2 1/3 each; c has only 1, and 6 are left for two
        ({"keep_examples": 8}, "aaaabbbc"),
        ({"keep_examples": 12}, "aaaaaaabbbbc"),
        ({"split": "proportional", "keep_examples": 7}, "aaaaabb"),  # 4.5, 2, 0.5: the first of equals
        ({"split": "sqrt", "keep_examples": 6}, "aaabbc"),  # 3 : 2 : 1
        ({"split": "shares", "shares": {"a": 1, "b": 3}, "keep_examples": 4}, "abbb"),
        ({"split": "shares", "shares": {"a": 1, "b": 3, "d": 9}, "keep_examples": 8}, "aaaabbbb"),
        ({"keep": 0.5}, "aaabbbc"),
        ({"keep_examples": 0}, ""),
        ({"keep_examples": 99}, "aaaaaaaaabbbbc"),
    ],
)  # fmt: skip
def test_the_budget_is_split_by_the_rule_and_what_is_left_goes_on(options: dict[str, Any], kept: str) -> None:
    assert kept_by_topic(**options) == kept


def test_within_a_stratum_the_best_of_a_column_are_kept() -> None:
    selector = Stratified(by="extra.topic", column="loss", order="highest", keep_examples=3)
    decisions = selector.decide(TABLE, 0)
    assert kept_rows(decisions) == [8, 12, 13]
    assert decisions.columns["stratum"].to_pylist() == TABLE["extra.topic"].to_pylist()
    assert decisions.columns["stratum_quota"].to_pylist() == [1] * 14
    assert decisions.columns["stratum_rank"].to_pylist() == [*range(9, 0, -1), 4, 3, 2, 1, 1]
    assert decisions.reason[8] == "stratified: among the best loss of its stratum"
    assert decisions.reason[0] == "stratified: not within the quota of its stratum"


def test_without_a_column_rows_are_drawn_by_the_seed() -> None:
    selector = Stratified(by="extra.topic", keep_examples=5)
    assert kept_rows(selector.decide(TABLE, 0)) == kept_rows(selector.decide(TABLE, 0))
    assert len({tuple(kept_rows(selector.decide(TABLE, seed))) for seed in range(5)}) > 1
    assert "stratified: drawn from its stratum" in selector.decide(TABLE, 0).reason


def test_rows_without_a_stratum_a_share_or_a_score_say_so() -> None:
    table = with_topics(["a", None, "b", "a"], status=["ok", "overflow", "ok", "ok"])
    table = table.set_column(table.column_names.index("loss"), "loss", pa.array([1.0, 1.0, 1.0, None]))
    shares = {"split": "shares", "shares": {"a": 1}, "by": "extra.topic"}
    selector = Stratified.model_validate({**shares, "column": "loss", "order": "lowest", "keep": 1})
    decisions = selector.decide(table, 0)
    assert kept_rows(decisions) == [0]
    assert decisions.reason.tolist() == [
        "stratified: among the best loss of its stratum",
        "stratified: no extra.topic (status overflow)",
        "stratified: no quota for its stratum",
        "stratified: no loss",
    ]
    assert decisions.columns["stratum"].to_pylist() == ["a", None, "b", "a"]
    assert decisions.columns["stratum_rank"].to_pylist() == [1, None, 1, None]


def test_a_budget_of_tokens_is_split_into_tokens() -> None:
    table = with_topics(list("aabb"), prompt_tokens=[0] * 4, response_tokens=[60, 30, 25, 20])
    selector = Stratified(by="extra.topic", column="loss", order="lowest", keep_tokens=100)
    decisions = selector.decide(table, 0)
    assert decisions.columns["stratum_quota"].to_pylist() == [55, 55, 45, 45]  # b has 45, and 55 are left
    assert kept_rows(decisions) == [2, 3]  # the first row of a does not fit
    table = table.set_column(
        table.column_names.index("prompt_tokens"), "prompt_tokens", pa.array([0, 0, None, 0])
    )
    decisions = selector.decide(table, 0)
    assert decisions.reason[2] == "stratified: no token count"
    assert kept_rows(decisions) == [0, 3]  # b has 20, and 80 are left


def test_whole_numbers_name_strata_and_others_are_refused() -> None:
    names, code = strata(with_topics([2.0, 1.0, None, 2.0]), "extra.topic", "test")
    assert (names, code.tolist()) == (["1", "2"], [1, 0, -1, 1])
    with pytest.raises(ValueError, match=r"test: the column 'extra.topic' holds 0.5"):
        strata(with_topics([1.0, 0.5]), "extra.topic", "test")
    with pytest.raises(ValueError, match=r"stratified: there is no column 'extra.topic'"):
        Stratified(by="extra.topic", keep=1).decide(candidates([1.0]), 0)


@EXAMPLES
@given(table=any_candidates(), budget=st.integers(0, 30))
def test_one_stratum_is_top_k_or_a_random_sample(table: pa.Table, budget: int) -> None:
    table = table.set_column(1, "source", pa.array(["toy"] * table.num_rows, pa.string()))
    ranked = {"column": "loss", "order": "lowest", "keep_examples": budget}
    pairs = [(Stratified.model_validate(ranked), TopK.model_validate(ranked)),
             (Stratified(keep_examples=budget), RandomSample(keep_examples=budget))]  # fmt: skip
    for stratified, plain in pairs:
        assert stratified.decide(table, 0).keep.tolist() == plain.decide(table, 0).keep.tolist()


@EXAMPLES
@given(rows=ROWS, options=SPLITS, budget=st.integers(0, 35), data=st.data())
def test_the_budget_is_spent_as_far_as_there_are_rows_in_any_order(
    rows: list[tuple[str | None, int]], options: dict[str, Any], budget: int, data: st.DataObject
) -> None:
    table = with_topics([topic for topic, _ in rows], [float(loss) for _, loss in rows])
    selector = Stratified.model_validate(
        {"by": "extra.topic", "column": "loss", "order": "lowest", "keep_examples": budget, **options}
    )
    decisions = selector.decide(table, 0)
    assert decisions.keep.sum() == min(budget, sum(topic is not None for topic, _ in rows))
    order = data.draw(st.permutations(range(len(rows))))
    again = selector.decide(table.take(pa.array(order, pa.int64())), 0)
    assert again.reason.tolist() == decisions.reason[order].tolist()
    for name, column in decisions.columns.items():
        assert again.columns[name].to_pylist() == [column[row].as_py() for row in order]


@EXAMPLES
@given(rows=ROWS, budget=st.integers(0, 300), options=SPLITS)
def test_a_budget_of_tokens_is_never_exceeded(
    rows: list[tuple[str | None, int]], budget: int, options: dict[str, Any]
) -> None:
    tokens = [7 * (1 + loss) for _, loss in rows]
    table = with_topics([topic for topic, _ in rows], response_tokens=tokens, prompt_tokens=[0] * len(rows))
    keep = (
        Stratified.model_validate({"by": "extra.topic", "keep_tokens": budget, **options})
        .decide(table, 0)
        .keep
    )
    assert np.array(tokens, np.int64)[keep].sum() <= budget


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 10**5)), min_size=1, max_size=8),
)
def test_a_split_spends_the_budget_within_sizes_and_favours_no_stratum(
    budget: int, strata: list[tuple[int, int]]
) -> None:
    weight, size = ([pair[i] for pair in strata] for i in (0, 1))
    quota = split_budget(budget, weight, size)
    assert all(0 <= part <= most for part, most in zip(quota, size, strict=True))
    assert sum(quota) == min(budget, sum(most for most, one in zip(size, weight, strict=True) if one))
    free = [i for i in range(len(strata)) if weight[i] and quota[i] < size[i]]
    for i in free:  # no stratum that could take more is below the share of another by more than a row
        for j in range(len(strata)):
            if weight[j]:
                assert (quota[i] + 1) * weight[j] > (quota[j] - 1) * weight[i]


@given(st.integers(0, 1000), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_largest_remainders_are_within_one_of_the_exact_share(total: int, weight: list[int]) -> None:
    parts = largest_remainder(total, weight)
    assert sum(parts) == total
    assert all(
        abs(part * sum(weight) - total * one) < sum(weight) for part, one in zip(parts, weight, strict=True)
    )


def test_shares_are_decimal_and_roots_are_those_of_integers() -> None:
    assert weights("shares", ["a", "b", "c"], [1, 1, 1], {"a": 0.1, "b": 0.3}) == [1, 3, 0]
    assert weights("sqrt", ["a", "b"], [9, 10**18], {}) == [3 << 20, 10**9 << 20]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "shares"}, "go together"),
        ({"shares": {"a": 1}}, "go together"),
        ({"split": "shares", "shares": {"a": -1}}, "a is -1"),
        ({"split": "shares", "shares": {"a": 0}}, "all are 0"),
        ({"column": "extra.x"}, "declares no better direction"),
        ({"order": "highest"}, "give a column"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stratified.model_validate({"keep": 0.5, **options})
