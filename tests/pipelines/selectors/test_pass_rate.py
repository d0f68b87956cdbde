"""Bands of pass rates, and what counts as a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.pass_rate import PassRate, labels
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows

LABEL = st.sampled_from([1.0, 0.0, None])


def answers(group: str, correct: Sequence[float | None], **columns: Sequence[str]) -> pa.Table:
    """Rows of groups named by letters, with labels."""
    return candidates([1.0] * len(group), group=list(group), correct=correct, **columns)  # type: ignore[arg-type]


TABLE = answers("aaaabbbbccccdde", [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, None, 0, 1, None, 1])


def test_groups_within_the_band_are_kept_whole() -> None:
    decisions = PassRate(low=0.25, high=0.75).decide(TABLE, 0)
    assert kept_rows(decisions) == [4, 5, 6, 7]
    assert [decisions.reason[row] for row in (0, 4, 8, 12, 14)] == [
        "pass_rate: share of right answers above 0.75",
        "pass_rate: within 0.25 to 0.75",
        "pass_rate: share of right answers below 0.25",
        "pass_rate: fewer than 2 labelled answers",
        "pass_rate: fewer than 2 labelled answers",
    ]
    assert [decisions.columns["pass_rate"][row].as_py() for row in (0, 4, 8, 12)] == [1, 0.25, 0, 1]
    assert [decisions.columns["labelled_answers"][row].as_py() for row in (0, 8, 12)] == [4, 3, 1]


def test_the_right_answers_alone_may_stay() -> None:
    decisions = PassRate(low=0, high=0.75, keep="correct").decide(answers("aaa", [1, 0, None]), 0)
    assert kept_rows(decisions) == [0]
    assert decisions.reason.tolist() == [
        "pass_rate: within 0 to 0.75",
        "pass_rate: wrong answer of a kept group",
        "pass_rate: no correct",
    ]


def test_a_group_without_a_label_has_its_own_reason_and_no_share() -> None:
    table = answers("aab", [None, None, 1], status=["overflow", "ok", "ok"])
    decisions = PassRate(low=0, high=1, min_answers=1).decide(table, 0)
    assert kept_rows(decisions) == [2]
    assert decisions.reason[0] == "pass_rate: no correct in the group (status overflow)"
    assert decisions.reason[1] == "pass_rate: no correct in the group"
    assert decisions.columns["pass_rate"].to_pylist() == [None, None, 1]


@pytest.mark.parametrize("right", range(1, 10))
def test_both_ends_of_the_band_are_included_however_they_round(right: int) -> None:
    table = answers("a" * 10, [1] * right + [0] * (10 - right))
    for bound in (float(f"0.{right}"), right / 10):
        assert PassRate(low=bound, high=bound).decide(table, 0).keep.all()


@EXAMPLES
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), LABEL), max_size=20),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    data=st.data(),
)
def test_a_group_is_kept_or_dropped_as_a_whole_in_any_order(
    rows: list[tuple[str, float | None]], low: float, high: float, data: st.DataObject
) -> None:
    table = answers("".join(group for group, _ in rows), [label for _, label in rows])
    selector = PassRate(low=min(low, high), high=max(low, high))
    decisions = selector.decide(table, 0)
    for name in "abc":
        known = [label for group, label in rows if group == name and label is not None]
        kept = {bool(keep) for keep, (group, _) in zip(decisions.keep, rows, strict=True) if group == name}
        inside = len(known) >= 2 and selector.low <= sum(known) / len(known) <= selector.high
        assert kept <= {inside}
    order = data.draw(st.permutations(range(len(rows))))
    again = selector.decide(table.take(pa.array(order, pa.int64())), 0)
    assert again.reason.tolist() == decisions.reason[order].tolist()


@pytest.mark.parametrize(
    ("values", "meaning"),
    [
        (pa.array([1.0, 0.0, None, float("nan")]), [1, 0, None, None]),
        (pa.array([True, False, None]), [1, 0, None]),
        (pa.array(["true", "False ", None, " ", "1", "0.0"]), [1, 0, None, None, 1, 0]),
        (pa.array([None, None], pa.null()), [None, None]),
    ],
)
def test_labels_may_be_numbers_booleans_or_words(values: pa.Array, meaning: list[float | None]) -> None:
    found = labels(pa.table({"label": values}), "label", "test")
    assert [None if np.isnan(value) else value for value in found] == meaning


@pytest.mark.parametrize(
    ("values", "shown"), [(pa.array([1.0, 0.5]), "0.5"), (pa.array(["true", "Correct"]), "'correct'")]
)
def test_anything_else_is_no_label_and_is_shown(values: pa.Array, shown: str) -> None:
    with pytest.raises(ValueError, match=f"test: the column 'label' holds {shown}, and a label is 1 or 0"):
        labels(pa.table({"label": values}), "label", "test")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="pass_rate: there is no column 'extra.result'"):
        PassRate(correct="extra.result", low=0, high=1).decide(TABLE, 0)


def test_no_rows_give_no_decisions() -> None:
    assert len(PassRate(low=0, high=1).decide(answers("", []), 0).reason) == 0


def test_a_band_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low 0.8 is above high 0.2"):
        PassRate(low=0.8, high=0.2)
