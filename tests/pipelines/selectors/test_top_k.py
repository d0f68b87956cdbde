"""Top-k of a column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.selectors.top_k import TopK
from scorers.base import Column
from tests.pipelines.selectors.tables import candidates, kept_rows

TABLE = candidates([3.0, 1.0, None, 2.0])


def test_the_highest_or_lowest_values_are_kept_and_ranked() -> None:
    highest = TopK(column="loss", order="highest", keep_examples=2).decide(TABLE, 0)
    lowest = TopK(column="loss", order="lowest", keep_examples=2).decide(TABLE, 0)
    assert (kept_rows(highest), kept_rows(lowest)) == ([0, 3], [1, 3])
    assert highest.columns["top_k_rank"].to_pylist() == [1, 3, None, 2]
    assert highest.reason.tolist() == [
        "top_k: among the highest loss",
        "top_k: not among the highest loss",
        "top_k: no loss (status overflow)",
        "top_k: among the highest loss",
    ]


def test_equal_values_are_taken_by_id_in_both_orders() -> None:
    table = candidates([1.0, 1.0, 1.0], ids=["c", "a", "b"])
    for order in ("highest", "lowest"):
        selector = TopK.model_validate({"column": "loss", "order": order, "keep_examples": 2})
        assert kept_rows(selector.decide(table, 0)) == [1, 2]


def test_integers_and_booleans_are_numbers() -> None:
    table = candidates([1.0, 2.0], response_tokens=[5, 9], truncated=[True, False])
    assert kept_rows(TopK(column="response_tokens", order="highest", keep=0.5).decide(table, 0)) == [1]
    assert kept_rows(TopK(column="truncated", order="highest", keep=0.5).decide(table, 0)) == [0]


def test_the_default_order_is_the_direction_that_the_scorer_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = (Column("quality", "", 0, 1, "higher", "toy"), Column("risk", "", 0, 1, "lower", "toy"))
    monkeypatch.setattr("pipelines.selectors.top_k.columns_of", lambda names: declared)
    table = candidates([0.0, 0.0]).append_column("quality", pa.array([0.2, 0.4]))
    table = table.append_column("risk", pa.array([0.2, 0.4]))
    assert kept_rows(TopK(column="quality", keep_examples=1).decide(table, 0)) == [1]
    assert kept_rows(TopK(column="risk", keep_examples=1).decide(table, 0)) == [0]
    assert kept_rows(TopK(column="risk", order="highest", keep_examples=1).decide(table, 0)) == [1]


def test_a_column_without_a_direction_must_say_its_order() -> None:
    with pytest.raises(ValueError, match="'loss' declares no better direction; say order"):
        TopK(column="loss", keep_examples=1)
