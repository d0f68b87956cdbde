"""Which tokens of a row Q-Tuning prunes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.number_lists import offsets_of
from pipelines.selectors.lowest import keep_lowest
from pipelines.selectors.q_tuning import QTuning
from pipelines.selectors.q_tuning_tokens import drop_highest, token_scores, tokens_to_drop
from tests.pipelines.selectors.tables import EXAMPLES, candidates
from tests.pipelines.selectors.token_rows import by_row, lists_of, stored

PERPLEXITY = np.arange(1.0, 9.0)
LOSS = np.log(PERPLEXITY)
ENTROPY = np.array([0.8, 0.7, 0.1, 0.6, 0.5, 0.4, 0.3, 0.2])
TABLE = candidates(LOSS.tolist(), ENTROPY.tolist())

TOKEN_PERPLEXITY = np.array([1.0, 9.0, 1.0, 4.0, 5.0, 6.0])
TOKEN_NLL = np.log(TOKEN_PERPLEXITY)
SIX = np.array([0, 6])


def test_worked_example_token_scores() -> None:
    values = token_scores(TOKEN_NLL, SIX, 0.5, "zero")
    assert values == pytest.approx([5, 5.5, 7, 5, 7.5, 5.5])
    assert np.flatnonzero(keep_lowest(np.round(values, 9), SIX, 0.5)).tolist() == [0, 3, 5]
    spike_first = keep_lowest(token_scores(TOKEN_NLL, SIX, 0.0, "zero"), SIX, 0.5)
    assert np.flatnonzero(~spike_first).tolist() == [1, 4, 5]


BATCH = candidates(  # rows 0: Q4, 1 and 2: dropped, 3: Q2; ten attended positions each
    [1.0, 2.0, 3.0, 4.0], [4.0, 2.0, 3.0, 1.0], prompt_tokens=[4] * 4, response_tokens=[6] * 4
)
BATCH_GLOBAL: Literal["batch_global"] = "batch_global"
token_losses = st.lists(st.floats(0, 60, width=32), min_size=1, max_size=30).map(
    lambda values: np.array(values, dtype=np.float32)
)


def test_the_missing_neighbour_is_zero_one_or_the_token_itself() -> None:
    nll, two = np.log([2.0, 3.0]), np.array([0, 2])
    assert token_scores(nll, two, 0.5, "zero") == pytest.approx([1 + 1.5, 1.5 + 1])
    assert token_scores(nll, two, 0.5, "one") == pytest.approx([1 + 0.5 + 1.5, 1.5 + 1 + 0.5])
    assert token_scores(nll, two, 0.5, "self") == pytest.approx([1 + 1 + 1.5, 1.5 + 1 + 1.5])


def test_the_only_token_is_never_pruned() -> None:
    for pad in ("zero", "one", "self"):
        one = np.array([0, 1])
        values = token_scores(np.array([700.0], dtype=np.float32), one, 0.5, pad)
        assert np.isfinite(values).all()
        assert keep_lowest(values, one, 0.1).tolist() == [True]


def test_perplexities_beyond_exp_50_are_ties_broken_by_position() -> None:
    four = np.array([0, 4])
    values = token_scores(np.array([60.0, 1.0, 70.0, 65.0]), four, 0.0, "zero")
    assert keep_lowest(values, four, 0.5).tolist() == [False, True, False, True]


def _masks(selector: QTuning, table: pa.Table, nll: dict[int, list[float]]) -> dict[int, list[bool]]:
    decisions = selector.decide(table, 0)
    assert decisions.prune_tokens is not None
    assert np.flatnonzero(decisions.prune_tokens).tolist() == sorted(nll)

    losses = [nll.get(row, []) for row in range(table.num_rows)]
    masks = by_row(selector.token_masks(table, decisions, stored(token_nll=losses)))
    return {row: mask.tolist() for row, mask in masks.items()}


def test_worked_example_token_budget_per_sample() -> None:
    nll = np.log([1.0, 9.0, 1.1, 4.0, 5.0, 6.0]).tolist()
    masks = _masks(QTuning(keep=0.5, token_keep=0.5), BATCH, {3: nll})
    # scores 5, 5.55, 7.05, 5.05, 7.5, 5.5: the three highest are 4, 2, 1
    assert masks == {3: [True, False, False, True, False, True]}


def test_worked_example_token_budget_of_the_batch_takes_every_token() -> None:
    assert tokens_to_drop(attended=40, lost=20, keep=0.5, token_keep=0.5) == 10
    selector = QTuning(keep=0.5, token_keep=0.5, token_budget=BATCH_GLOBAL)
    assert _masks(selector, BATCH, {3: TOKEN_NLL.tolist()}) == {3: [False] * 6}


def test_the_batch_budget_prunes_the_highest_scores_of_all_rows_together() -> None:
    # 4 rows of 10: keep .5 * .9 of 40 = 18, so 22 go, 20 of them with the dropped rows: 2 tokens of Q2.
    selector = QTuning(keep=0.5, token_keep=0.9, token_budget=BATCH_GLOBAL, smoothing=0)
    nll = {3: [0.5, 9.0, 1.0, 8.0, 2.0, 3.0]}
    assert _masks(selector, BATCH, nll) == {3: [True, False, True, False, True, True]}


def test_the_batch_budget_ignores_rows_without_scores() -> None:
    table = pa.concat_tables([BATCH, candidates([None], ids=["z"], prompt_tokens=[9999])])
    selector = QTuning(keep=0.5, token_keep=0.9, token_budget=BATCH_GLOBAL, smoothing=0)  # 0.5 * 5: 2 rows
    nll = {3: [0.5, 9.0, 1.0, 8.0, 2.0, 3.0]}
    assert _masks(selector, table, nll) == _masks(selector, BATCH, nll)


@EXAMPLES
@given(token_losses)
def test_without_smoothing_tokens_are_ordered_by_their_loss(nll: npt.NDArray[np.float32]) -> None:
    values = token_scores(nll, np.array([0, len(nll)]), 0.0, "zero")
    assert (np.diff(values[np.argsort(nll, kind="stable")]) >= 0).all()


@EXAMPLES
@given(token_losses, st.floats(0.01, 1))
def test_a_mask_keeps_the_stated_number_and_no_higher_score_than_it_drops(
    nll: npt.NDArray[np.float32], fraction: float
) -> None:
    offsets = np.array([0, len(nll)])
    values = token_scores(nll, offsets, 0.5, "zero")
    mask = keep_lowest(values, offsets, fraction)
    assert mask.sum() == max(1, int(np.floor(fraction * len(nll) + 1e-9)))
    assert values[mask].max() <= values[~mask].min(initial=np.inf)
    assert keep_lowest(values, offsets, 1.0).all()


@EXAMPLES
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.25, 60.0]), max_size=6), max_size=5),
    st.floats(0.01, 1),
    st.sampled_from(["zero", "one", "self"]),
)
def test_rows_side_by_side_are_pruned_as_each_alone(
    rows: list[list[float]], fraction: float, pad: Literal["zero", "one", "self"]
) -> None:
    def pruned(some: list[list[float]]) -> list[bool]:
        offsets = offsets_of(np.array([len(row) for row in some], np.int64))
        values = token_scores(np.array(sum(some, []), np.float32), offsets, 0.5, pad)
        kept: list[bool] = keep_lowest(values, offsets, fraction).tolist()
        return kept

    assert pruned(rows) == [kept for row in rows for kept in pruned([row])]


@EXAMPLES
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.25]), min_size=1, max_size=9), st.floats(0.01, 1))
def test_the_mask_is_that_of_a_stable_sort(values: list[float], fraction: float) -> None:
    scores = np.array(values)
    expected = np.zeros(len(values), np.bool_)
    kept = max(1, int(np.floor(fraction * len(values) + 1e-9)))
    expected[np.argsort(-scores, kind="stable")[len(values) - kept :]] = True
    assert keep_lowest(scores, np.array([0, len(values)]), fraction).tolist() == expected.tolist()


@EXAMPLES
@given(
    st.lists(
        st.lists(
            st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e-300, -1e-300, 3.25, -3.25, 5e21, -5e21]), max_size=12
        ),
        max_size=8,
    ),
    st.data(),
)
def test_pooled_pruning_equals_one_stable_sort_of_all_tokens(
    rows: list[list[float]], data: st.DataObject
) -> None:
    pool = np.array([value for row in rows for value in row])
    drop = data.draw(st.integers(0, len(pool) + 3))
    expected = np.ones(len(pool), dtype=np.bool_)
    expected[np.argsort(-pool, kind="stable")[:drop]] = False
    halves = [dict(enumerate(rows[:4])), {4 + at: row for at, row in enumerate(rows[4:])}]
    masks = by_row(drop_highest(lambda: [lists_of(half, np.float64) for half in halves], drop))
    assert list(masks) == list(range(len(rows)))
    assert [kept for mask in masks.values() for kept in mask] == expected.tolist()
