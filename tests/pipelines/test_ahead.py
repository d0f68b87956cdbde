"""Work ahead of the caller: order, how much is in memory, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ahead import ahead


@given(st.lists(st.integers(), max_size=20), st.integers(1, 4))
def test_results_come_in_the_order_of_their_items(items: list[int], threads: int) -> None:
    assert list(ahead(lambda item: item + 1, items, threads)) == [item + 1 for item in items]


def test_the_next_items_are_worked_on_while_the_caller_has_a_result() -> None:
    second = Event()

    def work(item: int) -> int:
        if item == 1:
            second.set()
        return item

    results = ahead(work, range(9), 1)
    assert next(results) == 0
    assert second.wait(10)


def test_no_more_items_are_taken_than_are_worked_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(9):
            taken.append(item)
            yield item

    results = ahead(str, items(), 2)
    assert not taken
    assert next(results) == "0"
    assert taken == [0, 1, 2]
    results.close()  # type: ignore[attr-defined] # a generator
    assert taken == [0, 1, 2]


def test_an_error_comes_where_its_result_would() -> None:
    results = ahead(lambda item: 1 / item, [1, 2, 0, 4], 2)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
