"""Many rows' tokens in one array: joined, merged and cut as a list for each row would be."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.number_lists import pack
from pipelines.selectors.tokens import TokenLists, check_weights, join, merge
from tests.pipelines.selectors.tables import EXAMPLES
from tests.pipelines.selectors.token_rows import by_row, lists_of

ROWS = 8
LENGTHS = [0, 3, 1, 0, 2, 5, 1, 4]  # of each row

chosen_rows = st.lists(st.integers(0, ROWS - 1), unique=True).map(sorted)


def masks_of(rows: list[int], seed: int) -> dict[int, list[bool]]:
    random = np.random.default_rng(seed)
    return {row: (random.random(LENGTHS[row]) < 0.5).tolist() for row in rows}


@EXAMPLES
@given(chosen_rows, chosen_rows)
def test_merged_rows_are_those_of_either_and_common_ones_combined(one: list[int], other: list[int]) -> None:
    first, second = masks_of(one, 0), masks_of(other, 1)
    merged = merge(lists_of(first, np.bool_), lists_of(second, np.bool_), np.logical_and)
    expected = {**second, **first}
    for row in first.keys() & second.keys():
        expected[row] = [a and b for a, b in zip(first[row], second[row], strict=True)]
    assert merged.rows.tolist() == sorted(expected)
    assert {row: mask.tolist() for row, mask in by_row([merged]).items()} == expected


def test_selectors_that_see_another_number_of_tokens_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="another number of tokens"):
        merge(lists_of({1: [True]}, np.bool_), lists_of({1: [True, False]}, np.bool_), np.logical_and)


@EXAMPLES
@given(st.permutations(range(ROWS)), st.integers(0, ROWS))
def test_parts_are_joined_in_the_order_of_rows(order: list[int], cut: int) -> None:
    weights = {row: [row + at / 10 for at in range(LENGTHS[row])] for row in order}
    parts = [lists_of({row: weights[row] for row in part}, np.float32) for part in (order[:cut], order[cut:])]
    joined = join(parts, np.float32)
    assert joined.rows.tolist() == list(range(ROWS))
    assert {row: own.tolist() for row, own in by_row([joined]).items()} == {
        row: np.array(own, np.float32).tolist() for row, own in weights.items()
    }


def test_nothing_joined_is_nothing() -> None:
    assert join([], np.float32).values.dtype == np.float32
    assert join([], np.float32).packed(0, 2, pa.float32()).to_pylist() == [None, None]


@EXAMPLES
@given(chosen_rows, st.integers(0, ROWS), st.integers(0, ROWS))
def test_packed_rows_are_what_arrow_makes_of_lists(rows: list[int], start: int, stop: int) -> None:
    start, stop = sorted((start, stop))
    masks = masks_of(rows, 2)
    made = lists_of(masks, np.bool_).packed(start, stop, pa.bool_())
    made.validate(full=True)
    lists = pa.array([masks.get(row) for row in range(start, stop)], pa.list_(pa.bool_()))
    assert made.equals(pack(pa.table({"masks": lists}))["masks"].combine_chunks())


@pytest.mark.parametrize("wrong", [-0.5, math.nan, math.inf])
def test_weights_that_no_trainer_can_use_are_refused(wrong: float) -> None:
    check_weights(lists_of({3: [0.0, 2.0], 5: []}, np.float32), "mine")
    weights = lists_of({3: [1.0, 1.0], 5: [], 7: [1.0, wrong]}, np.float32)
    with pytest.raises(ValueError, match=f"mine: 1 weights .* the first, {wrong}, of candidate 7"):
        check_weights(weights, "mine")


def test_packed_values_have_the_type_that_the_column_declares() -> None:
    weights = join([TokenLists(np.array([1]), np.array([0, 2]), np.array([0.5, 1.5]))], np.float32)
    assert weights.values.dtype == np.float64  # as a selector that is no part of winnow may give them
    made = weights.packed(0, 2, pa.float32())
    lists = pa.table({"weights": pa.array([None, [0.5, 1.5]], pa.list_(pa.float32()))})
    assert made.equals(pack(lists)["weights"].combine_chunks())


@EXAMPLES
@given(chosen_rows, st.sets(st.integers(0, ROWS - 1)))
def test_rows_are_left_out_with_their_values(rows: list[int], kept: set[int]) -> None:
    masks = masks_of(rows, 3)
    some = lists_of(masks, np.bool_).within(np.array([row in kept for row in rows], np.bool_))
    assert {row: mask.tolist() for row, mask in by_row([some]).items()} == {
        row: mask for row, mask in masks.items() if row in kept
    }


def test_values_have_offsets_that_fit() -> None:
    with pytest.raises(ValueError, match="3 values and 2 offsets for 1 rows"):
        TokenLists(np.array([0]), np.array([0, 2]), np.zeros(3))
