"""Source fit: whole sources by the mean of a score."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.source_fit import SourceFit
from tests.pipelines.selectors.tables import EXAMPLES, any_candidates, candidates, kept_rows


def of_sources(sources: str, loss: list[float | None]) -> pa.Table:
    table = candidates(loss)
    return table.set_column(table.schema.get_field_index("source"), "source", pa.array(list(sources)))


def test_the_source_of_lowest_mean_is_kept_whole() -> None:
    # means: a 2, b 1.5 (of its two scored rows), c has none
    decisions = SourceFit(keep_sources=1).decide(of_sources("aabbbc", [1.0, 3.0, 1.0, 2.0, None, None]), 0)
    assert kept_rows(decisions) == [2, 3]
    assert decisions.columns["source_mean"].to_pylist() == [2, 2, 1.5, 1.5, 1.5, None]
    assert decisions.columns["source_rank"].to_pylist() == [2, 2, 1, 1, 1, None]
    assert decisions.reason[0] == "source_fit: a, mean loss 2, not among those kept"
    assert decisions.reason[2] == "source_fit: b, mean loss 1.5, kept whole"
    assert decisions.reason[5] == "source_fit: no loss (status overflow)"


def test_the_order_turns_round_and_ties_go_by_name() -> None:
    table = of_sources("cab", [1.0, 1.0, 0.0])
    assert kept_rows(SourceFit(keep_sources=1, order="highest").decide(table, 0)) == [1]
    assert kept_rows(SourceFit(keep_sources=2, order="highest").decide(table, 0)) == [0, 1]


@EXAMPLES
@given(table=any_candidates(), keep=st.integers(0, 3))
def test_no_source_is_split(table: pa.Table, keep: int) -> None:
    decisions = SourceFit(keep_sources=keep).decide(table, 0)
    scored = [value is not None for value in table["loss"].to_pylist()]
    kept = {source for source, one in zip(table["source"].to_pylist(), decisions.keep, strict=True) if one}
    assert len(kept) <= keep
    for source, has_score, one in zip(table["source"].to_pylist(), scored, decisions.keep, strict=True):
        assert one == (source in kept and has_score)
