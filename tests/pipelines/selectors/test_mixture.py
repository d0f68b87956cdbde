"""Shares of a budget by source."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.mixture import Mixture
from pipelines.selectors.top_k import TopK
from tests.pipelines.selectors.tables import EXAMPLES, any_candidates, candidates, kept_rows


def of_sources(sources: str, loss: list[float], **columns: list[int]) -> pa.Table:
    table = candidates(loss, **columns)  # type: ignore[arg-type]
    return table.set_column(1, "source", pa.array(list(sources)))


TABLE = of_sources("aaaabbcc", [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0])


def test_floors_are_filled_first_and_the_rest_by_rank() -> None:
    selector = Mixture(column="loss", order="highest", keep_examples=4, floors={"c": 0.25, "b": 0.25})
    decisions = selector.decide(TABLE, 0)
    assert kept_rows(decisions) == [0, 1, 4, 6]
    assert decisions.reason[6] == "mixture: among the best of its source, by its floor"
    assert decisions.reason[0] == "mixture: among the best"
    assert decisions.reason[2] == "mixture: not within the budget"
    assert decisions.columns["mixture_rank"].to_pylist() == list(range(1, 9))


def test_a_source_at_its_ceiling_leaves_its_place_to_the_others() -> None:
    selector = Mixture(column="loss", order="highest", keep_examples=4, ceilings={"a": 0.25})
    assert kept_rows(selector.decide(TABLE, 0)) == [0, 4, 5, 6]


def test_a_source_with_too_few_rows_gives_what_it_has() -> None:
    selector = Mixture(column="loss", order="highest", keep_examples=4, floors={"c": 0.75, "none": 0.25})
    assert kept_rows(selector.decide(TABLE, 0)) == [0, 1, 6, 7]


def test_shares_of_tokens_are_never_exceeded() -> None:
    table = of_sources("aabb", [4.0, 3.0, 2.0, 1.0], prompt_tokens=[0] * 4, response_tokens=[60, 30, 25, 20])
    selector = Mixture(
        column="loss", order="highest", keep_tokens=100, floors={"b": 0.3}, ceilings={"a": 0.6}
    )
    assert kept_rows(selector.decide(table, 0)) == [0, 2]  # b has 25 of 30; 20 more do not fit beside 60


@EXAMPLES
@given(table=any_candidates(), keep=st.floats(0, 1))
def test_without_shares_it_is_top_k(table: pa.Table, keep: float) -> None:
    mixture = Mixture(column="loss", order="lowest", keep=keep).decide(table, 0)
    assert (
        mixture.keep.tolist() == TopK(column="loss", order="lowest", keep=keep).decide(table, 0).keep.tolist()
    )


@EXAMPLES
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=25),
    budget=st.integers(0, 25),
    floor=st.floats(0, 0.5),
    ceiling=st.floats(0.5, 1),
)
def test_floors_and_ceilings_hold(
    rows: list[tuple[str, int]], budget: int, floor: float, ceiling: float
) -> None:
    table = of_sources("".join(source for source, _ in rows), [float(loss) for _, loss in rows])
    selector = Mixture(
        column="loss", order="lowest", keep_examples=budget, floors={"a": floor}, ceilings={"b": ceiling}
    )
    kept = np.array([source for source, _ in rows])[selector.decide(table, 0).keep]
    assert len(kept) <= budget
    has_a = sum(source == "a" for source, _ in rows)
    assert (kept == "a").sum() >= min(has_a, int(floor * budget + 1e-9))
    assert (kept == "b").sum() <= ceiling * budget + 1e-9


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"floors": {"a": 0.7, "b": 0.6}}, "together 1.3"),
        ({"floors": {"a": 0.5}, "ceilings": {"a": 0.4}}, "a has 0.5, above its ceiling"),
        ({"ceilings": {"a": 1.5}}, "ceilings: a is 1.5"),
    ],
)
def test_shares_that_cannot_hold_are_refused(shares: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture.model_validate({"column": "loss", "order": "highest", "keep": 0.5, **shares})


def fill_row_by_row(selector: Mixture, table: pa.Table) -> tuple[list[int], list[int]]:
    """The rule of the docstring, one row after the other: rows kept by a floor, rows kept by rank."""
    losses, sources = table["loss"].to_pylist(), table["source"].to_pylist()
    cost, budget = selector.spending(table)
    order = sorted(np.flatnonzero(selector.can_count(table)), key=lambda row: (losses[row], row))
    spent = dict.fromkeys(sources, 0)
    by_floor: list[int] = []
    by_rank: list[int] = []
    for source, share in selector.floors.items():
        for row in (row for row in order if sources[row] == source):
            if spent[source] + cost[row] > share * budget + 1e-9:
                break
            by_floor.append(int(row))
            spent[source] += int(cost[row])
    full = set()
    for row in (row for row in order if row not in by_floor):
        source = sources[row]
        if spent[source] + cost[row] > selector.ceilings.get(source, 1.0) * budget + 1e-9:
            full.add(source)
        if source in full:
            continue
        if cost[row] + sum(spent.values()) > budget:
            break
        by_rank.append(int(row))
        spent[source] += int(cost[row])
    return sorted(by_floor), sorted(by_rank)


@EXAMPLES
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 3)), max_size=20),
    budget=st.sampled_from(({"keep": 0.6}, {"keep_examples": 7}, {"keep_tokens": 0}, {"keep_tokens": 12})),
    floors=st.dictionaries(st.sampled_from("ab"), st.sampled_from((0.0, 0.2, 0.4))),
    ceilings=st.dictionaries(st.sampled_from("abc"), st.sampled_from((0.4, 0.5, 0.8))),
)
def test_all_rows_at_once_are_filled_as_one_after_the_other(
    rows: list[tuple[str, int, int]],
    budget: dict[str, float],
    floors: dict[str, float],
    ceilings: dict[str, float],
) -> None:
    tokens = [count for *_, count in rows]
    table = of_sources(
        "".join(source for source, *_ in rows),
        [float(loss) for _, loss, _ in rows],
        prompt_tokens=[0] * len(rows),
        response_tokens=tokens,
    )
    selector = Mixture.model_validate(
        {"column": "loss", "order": "lowest", "floors": floors, "ceilings": ceilings, **budget}
    )
    decisions = selector.decide(table, 0)
    by_floor, by_rank = fill_row_by_row(selector, table)
    assert kept_rows(decisions) == sorted(by_floor + by_rank)
    assert [row for row, reason in enumerate(decisions.reason) if "by its floor" in reason] == by_floor
