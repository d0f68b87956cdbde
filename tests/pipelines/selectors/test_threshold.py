"""Thresholds: bounds of a column."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipelines.selectors.threshold import Threshold
from tests.pipelines.selectors.tables import candidates, kept_rows

TABLE = candidates([0.5, 1.0, 1.5, 2.0, None])


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"max": 1}, [0, 1]),
        ({"max": 1, "include_max": False}, [0]),
        ({"min": 1}, [1, 2, 3]),
        ({"min": 1, "include_min": False}, [2, 3]),
        ({"min": 1, "max": 2, "include_max": False}, [1, 2]),
        ({"min": 1, "max": 1}, [1]),
        ({"min": 1, "max": 1, "include_max": False}, []),
        ({"min": -9, "max": 9}, [0, 1, 2, 3]),
    ],
)
def test_bounds_are_inclusive_unless_said_otherwise(bounds: dict[str, Any], kept: list[int]) -> None:
    assert kept_rows(Threshold(column="loss", **bounds).decide(TABLE, 0)) == kept


def test_ifd_of_one_and_more_is_dropped() -> None:
    # (conditional, direct) losses (1, 2), (1.5, 1.2), (1, 1): ratios of perplexity e^-1, e^.3, 1
    table = candidates([1.0, 1.5, 1.0]).drop_columns(["ifd_ppl"])
    table = table.append_column("ifd_ppl", pa.array([0.367879, 1.349859, 1.0]))
    decisions = Threshold(column="ifd_ppl", max=1, include_max=False).decide(table, 0)
    assert kept_rows(decisions) == [0]
    assert decisions.reason.tolist() == [
        "threshold: ifd_ppl < 1",
        "threshold: ifd_ppl >= 1",
        "threshold: ifd_ppl >= 1",
    ]


def test_a_reason_names_the_bound_that_was_crossed() -> None:
    decisions = Threshold(column="loss", min=1, max=2, include_max=False).decide(TABLE, 0)
    assert decisions.reason.tolist() == [
        "threshold: loss < 1",
        "threshold: 1 <= loss < 2",
        "threshold: 1 <= loss < 2",
        "threshold: loss >= 2",
        "threshold: no loss (status overflow)",
    ]
