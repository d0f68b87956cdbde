"""Q-Tuning: the worked examples of its specification, and what must hold for any data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import Decisions
from pipelines.selectors.id_order import id_order
from pipelines.selectors.q_tuning import QTuning
from pipelines.selectors.q_tuning_plane import (
    MAX_ALPHA,
    bisection_levels,
    entry_levels,
    error_minus_uncertainty,
    threshold_masks,
)
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows

SIGNED = [sign * value for sign in (1, -1) for value in (0.0, 0.5, 1.0, 1e-300, 3.25, 5e21)]
PERPLEXITY = np.arange(1.0, 9.0)
LOSS = np.log(PERPLEXITY)
ENTROPY = np.array([0.8, 0.7, 0.1, 0.6, 0.5, 0.4, 0.3, 0.2])
TABLE = candidates(LOSS.tolist(), ENTROPY.tolist())

Column = npt.NDArray[np.float64]
Method = Literal["closed_form", "bisection"]


def columns(*, distinct: bool) -> st.SearchStrategy[tuple[Column, Column]]:
    """Loss and entropy of 1 to 40 rows, all values distinct or with many ties."""

    def pair(rows: int) -> st.SearchStrategy[tuple[Column, Column]]:
        ranks: st.SearchStrategy[Sequence[int]]
        ranks = (
            st.permutations(range(rows))
            if distinct
            else st.lists(st.integers(0, 5), min_size=rows, max_size=rows)
        )
        values = ranks.map(lambda chosen: np.array(chosen, dtype=np.float64) / 4)
        return st.tuples(values, values)

    return st.integers(1, 40).flatmap(pair)


def decide(loss: Iterable[float], entropy: Iterable[float], **options: object) -> Decisions:
    return QTuning.model_validate(options).decide(candidates(list(loss), list(entropy)), 0)


# --- examples ---------------------------------------------------------------------------------------------


def test_worked_example_entry_levels() -> None:
    sevenths = np.array([0, 1, 5, 3, 4, 3, 2, 1]) / 7
    assert entry_levels(PERPLEXITY, ENTROPY).tolist() == sevenths.tolist()


def test_worked_example_bisection_of_one_half() -> None:
    assert bisection_levels(PERPLEXITY, ENTROPY, 0.5, 8) == [0.245, 0.3675]
    for alpha, rho in ((0.245, 0.375), (0.3675, 0.5)):
        in_q2, in_q4 = threshold_masks(PERPLEXITY, ENTROPY, alpha)
        assert (in_q2 | in_q4).mean() == rho
    assert np.flatnonzero(in_q2).tolist() == [6, 7]
    assert np.flatnonzero(in_q4).tolist() == [0, 1]


def test_worked_example_bisection_of_one_quarter_keeps_too_many() -> None:
    levels = bisection_levels(PERPLEXITY, ENTROPY, 0.25, 8)
    assert len(levels) == 10
    assert levels[-1] == pytest.approx(0.143076, abs=1e-6)
    kept = QTuning(keep=0.25, method="bisection").decide(TABLE, 0)
    assert kept_rows(kept) == [0, 1, 7]  # 37.5 %
    assert kept_rows(QTuning(keep=0.25).decide(TABLE, 0)) == [0, 1]  # the closed form gives what was asked


def test_worked_example_of_a_single_cut() -> None:
    # at alpha .245 the cuts are the quantiles .755: 6.285 of the perplexities, .6285 of the entropies
    assert bisection_levels(PERPLEXITY, ENTROPY, 0.5, 8, "single_cut") == [0.245]
    in_q2, in_q4 = threshold_masks(PERPLEXITY, ENTROPY, 0.245, "single_cut")
    assert (np.flatnonzero(in_q2).tolist(), np.flatnonzero(in_q4).tolist()) == ([6, 7], [0, 1])
    in_q2, in_q4 = threshold_masks(PERPLEXITY, ENTROPY, 0.4, "single_cut")  # 5.2 and .52
    assert (np.flatnonzero(in_q2).tolist(), np.flatnonzero(in_q4).tolist()) == ([5, 6, 7], [0, 1, 3])
    kept = QTuning(keep=0.5, method="bisection", partition="single_cut").decide(TABLE, 0)
    assert kept_rows(kept) == [0, 1, 6, 7]


@EXAMPLES
@given(columns(distinct=False), st.sampled_from([1, 2, 4, 8]), st.booleans(), st.integers(0, 3))
def test_a_batch_decides_as_if_it_were_alone(
    pair: tuple[Column, Column], batch: int, cut: bool, seed: int
) -> None:
    table = candidates(*(column.tolist() for column in pair))
    partition: Literal["single_cut", "dead_zone"] = "single_cut" if cut else "dead_zone"
    together = QTuning(keep=0.5, method="bisection", partition=partition, batch=batch)
    found = together.decide(table, seed)
    order = np.argsort(id_order(table["id"].to_pylist(), seed))
    for start in range(0, len(order), batch):
        rows = np.sort(order[start : start + batch])
        alone = QTuning(keep=0.5, method="bisection", partition=partition).decide(
            table.take(pa.array(rows)), 0
        )
        least = max(1, round(0.5 * len(rows)))  # alone: the floor of it
        assert found.keep[rows].sum() == max(least, int(alone.keep.sum()))
        assert not (alone.keep & ~found.keep[rows]).any()
        levels = alone.columns["q_tuning_level"].to_pylist()
        assert found.columns["q_tuning_level"].take(pa.array(rows)).to_pylist() == levels


@pytest.mark.parametrize("method", ["closed_form", "bisection"])
def test_worked_example_kept_rows_and_columns(method: Method) -> None:
    decisions = QTuning(keep=0.5, token_keep=0.5, method=method).decide(TABLE, 0)
    assert kept_rows(decisions) == [0, 1, 6, 7]
    quadrant = decisions.columns["quadrant"].to_pylist()
    # medians 4.5 and .45: rows 3 (PPL 3, entropy .1) is Q3, row 5 (PPL 5, entropy .5) is Q1
    assert quadrant == ["Q4", "Q4", "Q3", "Q4", "Q1", "Q2", "Q2", "Q2"]
    assert decisions.columns["q_tuning_level"].to_pylist() == entry_levels(LOSS, ENTROPY).tolist()
    assert decisions.prune_tokens is not None
    assert np.flatnonzero(decisions.prune_tokens).tolist() == [6, 7]
    assert decisions.reason.tolist() == [
        "q_tuning: Q4 low loss, high entropy (kept whole)",
        "q_tuning: Q4 low loss, high entropy (kept whole)",
        "q_tuning: Q3 low loss, low entropy",
        "q_tuning: Q4 low loss, high entropy, beyond the budget",
        "q_tuning: Q1 high loss, high entropy",
        "q_tuning: Q2 high loss, low entropy, beyond the budget",
        "q_tuning: Q2 high loss, low entropy (kept, tokens pruned)",
        "q_tuning: Q2 high loss, low entropy (kept, tokens pruned)",
    ]


@pytest.mark.parametrize("method", ["closed_form", "bisection"])
def test_a_shortfall_is_filled_with_the_rows_farthest_from_the_diagonal(method: Method) -> None:
    decisions = QTuning(keep=0.875, token_keep=0.5, method=method).decide(TABLE, 0)
    # Six rows have a level of at most .49. Of the other two, |P - E| is |2/7 - 0| and |4/7 - 4/7|.
    assert error_minus_uncertainty(LOSS, ENTROPY)[[2, 4]] == pytest.approx([2 / 7, 0])
    assert kept_rows(decisions) == [0, 1, 2, 3, 5, 6, 7]
    assert decisions.columns["quadrant"][2].as_py() == "Q2 fill"
    assert decisions.reason[2].endswith("more loss than entropy (kept to fill the budget, tokens pruned)")
    assert decisions.prune_tokens is not None
    assert decisions.prune_tokens[2]


def test_a_row_with_more_entropy_than_loss_fills_like_q4() -> None:
    # Loss and entropy rise together: no row is in Q2 or Q4. Perplexities 1, 3, 9 scale to 0, 1/4, 1.
    decisions = decide(np.log([1.0, 3.0, 9.0]), [0.0, 1.0, 2.0], keep=1, token_keep=0.5)
    assert decisions.columns["quadrant"].to_pylist() == ["Q2 fill", "Q4 fill", "Q2 fill"]
    assert decisions.prune_tokens is not None
    assert decisions.prune_tokens.tolist() == [True, False, True]
    assert kept_rows(decide(np.log([1.0, 3.0, 9.0]), [0.0, 1.0, 2.0], keep=0.34)) == [1]


def test_equal_levels_are_taken_by_id() -> None:
    table = candidates([1.0] * 4, [1.0] * 4, ids=["d", "b", "c", "a"])
    assert kept_rows(QTuning(keep=0.5).decide(table, 0)) == [1, 3]


def test_a_huge_loss_overflows_nothing() -> None:
    gap = error_minus_uncertainty(np.array([1.0, 800.0, 5000.0]), np.array([1.0, 2.0, 3.0]))
    assert gap.tolist() == [0.0, -0.5, 0.0]


def test_a_token_budget_is_filled_in_order_of_entry_level() -> None:
    # 20 tokens a row: 70 tokens pay for three, levels 0, 1/7 and 1/7
    assert kept_rows(QTuning(keep_tokens=70).decide(TABLE, 0)) == [0, 1, 7]


def test_nothing_is_kept_when_the_fraction_is_less_than_a_row() -> None:
    for method in ("closed_form", "bisection"):
        assert kept_rows(decide(LOSS, ENTROPY, keep=0.1, method=method)) == []


# --- tokens -----------------------------------------------------------------------------------------------


# --- invariants -------------------------------------------------------------------------------------------


@EXAMPLES
@given(columns(distinct=True), st.floats(0.001, 0.489))
def test_closed_form_and_thresholds_agree_on_distinct_values(
    pair: tuple[Column, Column], alpha: float
) -> None:
    _closed_form_equals_thresholds(*pair, alpha)


@EXAMPLES
@given(columns(distinct=False), st.floats(0.001, 0.489))
def test_closed_form_and_thresholds_agree_on_ties(pair: tuple[Column, Column], alpha: float) -> None:
    _closed_form_equals_thresholds(*pair, alpha)


def _closed_form_equals_thresholds(loss: Column, entropy: Column, alpha: float) -> None:
    levels = entry_levels(loss, entropy)
    in_q2, in_q4 = threshold_masks(loss, entropy, alpha)
    decided = np.abs(levels - alpha) > 1e-9  # at equality strictness and rounding decide
    assert ((in_q2 | in_q4) == (levels < alpha))[decided].all()
    assert (in_q2 <= (loss > np.median(loss))).all()


@EXAMPLES
@given(columns(distinct=False), st.floats(0, MAX_ALPHA), st.floats(0, MAX_ALPHA))
def test_q2_and_q4_are_disjoint_and_grow_with_the_level(
    pair: tuple[Column, Column], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    narrow, wide = threshold_masks(*pair, low), threshold_masks(*pair, high)
    assert not (wide[0] & wide[1]).any()
    assert not (narrow[0] & ~wide[0]).any()
    assert not (narrow[1] & ~wide[1]).any()


@EXAMPLES
@given(columns(distinct=False))
def test_levels_depend_on_order_alone(pair: tuple[Column, Column]) -> None:
    loss, entropy = pair
    assert entry_levels(np.exp(loss), entropy**3).tolist() == entry_levels(loss, entropy).tolist()


@EXAMPLES
@given(columns(distinct=False), st.floats(0, 1))
def test_swapping_loss_and_entropy_swaps_q2_and_q4(pair: tuple[Column, Column], keep: float) -> None:
    loss, entropy = pair
    before = decide(loss, entropy, keep=keep)
    after = decide(entropy, loss, keep=keep)
    core = entry_levels(loss, entropy) <= MAX_ALPHA
    swap = {"Q2": "Q4", "Q4": "Q2"}
    assert (before.keep == after.keep)[core].all()
    for row in np.flatnonzero(core & before.keep):
        assert swap[before.columns["quadrant"][row].as_py()] == after.columns["quadrant"][row].as_py()


@EXAMPLES
@given(columns(distinct=False), st.floats(0, 1))
def test_the_closed_form_keeps_exactly_and_the_bisection_at_least_the_target(
    pair: tuple[Column, Column], keep: float
) -> None:
    target = int(np.floor(keep * len(pair[0]) + 1e-9))
    assert decide(*pair, keep=keep).keep.sum() == target
    assert decide(*pair, keep=keep, method="bisection").keep.sum() >= target


@EXAMPLES
@given(columns(distinct=False), st.floats(0, 1), st.sampled_from(["closed_form", "bisection"]))
def test_quadrant_and_reason_tell_the_same_story(
    pair: tuple[Column, Column], keep: float, method: str
) -> None:
    decisions = decide(*pair, keep=keep, method=method, token_keep=0.5)
    assert decisions.prune_tokens is not None
    for row, quadrant in enumerate(decisions.columns["quadrant"].to_pylist()):
        assert decisions.reason[row].startswith(f"q_tuning: {quadrant} ") or "," in decisions.reason[row]
        assert ("(kept" in decisions.reason[row]) == decisions.keep[row]
        assert decisions.prune_tokens[row] == (decisions.keep[row] and quadrant.startswith("Q2"))
        assert not (decisions.keep[row] and quadrant in ("Q1", "Q3"))
