"""Perplexity bands: quantiles of loss."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.perplexity_band import PerplexityBand
from tests.pipelines.selectors.tables import EXAMPLES, any_candidates, candidates, kept_rows

TABLE = candidates([2.0, 0.5, 3.0, 1.0])  # C, A, D, B


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [
        (0.0, 0.5, [1, 3]),  # low half {A, B}
        (0.25, 0.75, [0, 3]),  # middle half {B, C}
        (0.5, 1.0, [0, 2]),  # high half {C, D}
        (0.0, 0.25, [1]),  # POINTS with q = .25 {A}
        (0.0, 1.0, [0, 1, 2, 3]),
        (0.5, 0.5, []),
        (0.0, 0.0, []),
    ],
)
def test_worked_example(low: float, high: float, kept: list[int]) -> None:
    assert kept_rows(PerplexityBand(low=low, high=high).decide(TABLE, 0)) == kept


def test_rank_and_reason_say_on_which_side_a_row_lies() -> None:
    decisions = PerplexityBand(low=0.25, high=0.75).decide(TABLE, 0)
    assert decisions.columns["perplexity_rank"].to_pylist() == [3, 1, 4, 2]
    assert decisions.reason.tolist() == [
        "perplexity_band: inside the band",
        "perplexity_band: below the band (lower loss)",
        "perplexity_band: above the band (higher loss)",
        "perplexity_band: inside the band",
    ]


def test_short_responses_are_dropped_and_enter_no_quantile() -> None:
    table = candidates([0.1, 1.0, 2.0], response_tokens=[2, 9, 9])
    decisions = PerplexityBand(high=0.5, min_response_tokens=5).decide(table, 0)
    assert kept_rows(decisions) == [1]
    assert decisions.reason[0] == "perplexity_band: response too short"
    assert decisions.columns["perplexity_rank"].to_pylist() == [None, 1, 2]


@EXAMPLES
@given(any_candidates(), st.lists(st.floats(0, 1), max_size=4))
def test_bands_that_share_edges_partition_the_scored_rows(table: pa.Table, inner: list[float]) -> None:
    edges = [0.0, *sorted(inner), 1.0]
    times_kept = np.zeros(table.num_rows, dtype=np.int64)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        times_kept += PerplexityBand(low=low, high=high).decide(table, 0).keep
    everything = PerplexityBand().decide(table, 0).keep
    assert times_kept.tolist() == everything.astype(np.int64).tolist()


@EXAMPLES
@given(any_candidates(), st.floats(0, 1), st.floats(0, 1))
def test_a_reason_agrees_with_its_decision(table: pa.Table, one: float, other: float) -> None:
    low, high = sorted((one, other))
    decisions = PerplexityBand(low=low, high=high).decide(table, 0)
    assert [
        reason == "perplexity_band: inside the band" for reason in decisions.reason
    ] == decisions.keep.tolist()
