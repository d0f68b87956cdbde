from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.models.batching import pack


@given(lengths=st.lists(st.integers(1, 300), max_size=200), budget=st.integers(1, 2000))
def test_every_row_is_packed_once_and_no_group_exceeds_the_budget_unless_it_is_one_row(
    lengths: list[int], budget: int
) -> None:
    groups = pack(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget


def test_rows_of_one_length_keep_their_order() -> None:
    assert pack([5, 5, 5, 5], budget=10) == [[0, 1], [2, 3]]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_tokens: 0"):
        pack([1], budget=0)
