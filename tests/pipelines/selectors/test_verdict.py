"""The joint verdict: each rule by hand, and what must hold for any data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import Decisions
from pipelines.selectors.catalog import parse_selector
from pipelines.selectors.suspicion import quantiles, rivals_that_differ, suspicion
from pipelines.selectors.verdict import VERDICTS, Verdict
from tests.pipelines.selectors.tables import EXAMPLES, any_candidates, candidates, kept_rows

NONE = {"suspect": 0, "off_distribution": 0, "out_of_reach": 0, "too_easy": 0}


def decide(table: pa.Table, **options: Any) -> Decisions:  # noqa: ANN401 - any option
    return parse_selector({"verdict": options}).decide(table, 0)


def verdicts(table: pa.Table, **options: Any) -> list[str | None]:  # noqa: ANN401 - any option
    return list(decide(table, **options).columns["verdict"].to_pylist())


def with_columns(table: pa.Table, **columns: Any) -> pa.Table:  # noqa: ANN401 - lists of any type
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, table[name].type))
    return table


LOSS = [1.0, 1.1, 1.2, 1.3, 1.4, 2.6, 2.7, 2.8, 2.9, 3.0]
ENTROPY = [1.0, 1.1, 1.2, 3.0, 3.1, 1.3, 2.6, 2.7, 2.8, 2.9]
PLANE = candidates(LOSS, ENTROPY)


def test_the_corners_of_the_plane() -> None:
    # the 20 % quantiles are 1.18 and 1.18, the 80 % quantiles 2.82 and 2.92; medians 2 and 2.65
    found = verdicts(PLANE, suspect=0, off_distribution=0)
    assert found[:2] == ["too_easy", "too_easy"]
    assert found[2:5] == ["keep", "keep", "keep"]
    assert found[5:7] == ["keep_prune", "keep_prune"]  # loss above its median, entropy not
    assert found[8:] == ["keep", "keep"]  # 2.8 and 2.9 are not above 2.92
    reach = verdicts(PLANE, suspect=0, off_distribution=0, out_of_reach=0.3)  # above 2.73 and 2.83
    assert reach[8:] == ["keep", "out_of_reach"]
    # loss - entropy is 1.3 in row 5 and at most 0.1 elsewhere
    assert verdicts(PLANE, **NONE | {"off_distribution": 0.1})[5] == "off_distribution"
    decisions = decide(PLANE, suspect=0, off_distribution=0)
    assert kept_rows(decisions) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert decisions.prune_tokens is not None
    assert np.flatnonzero(decisions.prune_tokens).tolist() == [5, 6]
    assert decisions.facts["low_loss"] == pytest.approx(1.18)


def test_a_calculation_that_does_not_hold_is_suspect_whatever_the_model_says() -> None:
    table = with_columns(PLANE, wrong_calculations=[0.0] * 4 + [2.0] + [0.0] * 5)
    assert verdicts(table, **NONE) == ["keep"] * 4 + ["suspect"] + ["keep_prune"] * 2 + ["keep"] * 3
    assert 4 not in kept_rows(decide(table, **NONE))
    assert 4 in kept_rows(decide(table, **NONE, keep_suspects=True))


def test_an_answer_that_most_rivals_contradict_is_suspect() -> None:
    answers = ["18", "18.0", "$18", "17", "17", None, None, None, None, None]
    table = with_columns(PLANE, answer=answers, group=["g"] * 5 + list("abcde"))
    assert rivals_that_differ(table, np.ones(10, np.bool_))[:6] == pytest.approx(
        [0.5, 0.5, 0.5, 0.75, 0.75, np.nan], nan_ok=True
    )
    assert verdicts(table, **NONE)[:5] == ["keep", "keep", "keep", "suspect", "suspect"]


def test_suspicion_is_the_sum_of_its_evidence() -> None:
    known = np.ones(4, np.bool_)
    misfit, overlap = np.array([-3.0, -2.0, -1.0, 0.0]), np.array([0.4, 0.3, 0.2, 0.1])
    wrong, rivals = np.array([0.0, 3.0, 0.0, 0.0]), np.array([np.nan, np.nan, 0.5, 1.0])
    assert suspicion(misfit, overlap, wrong, rivals, known) == pytest.approx([0.125, 1.375, 1.125, 1.875])
    nothing = np.full(4, np.nan)
    assert suspicion(nothing, nothing, wrong * 0, nothing, known).tolist() == [0, 0, 0, 0]
    assert np.isnan(suspicion(misfit, overlap, wrong, rivals, ~known)).all()


def test_one_share_of_highest_suspicion_is_suspect() -> None:
    overlap = [1.0 - 0.1 * at for at in range(10)]
    table = with_columns(PLANE, prompt_overlap=overlap, direct_loss=LOSS)  # misfit 0 everywhere
    assert verdicts(table, **NONE | {"suspect": 0.2})[8:] == ["suspect"] * 2
    assert verdicts(table, **NONE | {"suspect": 0.2}).count("suspect") == 2


def test_a_budget_takes_the_rows_of_highest_priority() -> None:
    table = with_columns(PLANE, ifd_ppl=[0.1 * at for at in range(10)])
    decisions = decide(table, **NONE, keep_examples=2)
    # quantiles of ifd .35, .45, .95 and of entropy - loss .85, .95, .25 in rows 3, 4, 9
    priority = decisions.columns["priority"].take(pa.array([3, 4, 9])).to_pylist()
    assert priority == pytest.approx([0.6, 0.7, 0.6])
    assert kept_rows(decisions) == [3, 4]
    assert decisions.reason[0] == "verdict: keep, beyond the budget"


@EXAMPLES
@given(table=any_candidates(), share=st.sampled_from([0.0, 0.05, 0.3]))
def test_every_scored_row_has_one_verdict_and_shares_are_not_exceeded(table: pa.Table, share: float) -> None:
    table = with_columns(table, wrong_calculations=[0.0] * table.num_rows, answer=[None] * table.num_rows)
    options = {"suspect": share, "off_distribution": share, "out_of_reach": share, "too_easy": share}
    decisions = decide(table, **options)
    found = decisions.columns["verdict"].to_pylist()
    known = [
        loss is not None and entropy is not None
        for loss, entropy in zip(table["loss"].to_pylist(), table["entropy"].to_pylist(), strict=True)
    ]
    assert [verdict in VERDICTS for verdict in found] == known
    for name in ("suspect", "off_distribution", "out_of_reach", "too_easy"):
        assert found.count(name) <= share * sum(known) + 1
    assert all(found[row] in ("keep", "keep_prune") for row in kept_rows(decisions))
    assert kept_rows(decisions) == [
        at for at, verdict in enumerate(found) if verdict in ("keep", "keep_prune")
    ]


@EXAMPLES
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_quantiles_are_shares_that_ignore_scale(values: list[int]) -> None:
    numbers = np.array(values, float)
    found = quantiles(numbers)
    assert ((found > 0) & (found < 1)).all() or len(set(values)) == 1
    assert found.mean() == pytest.approx(0.5)
    assert quantiles(3 * numbers - 7).tolist() == found.tolist()


def test_each_verdict_has_a_sentence_with_its_numbers() -> None:
    table = with_columns(PLANE, wrong_calculations=[0.0] * 4 + [2.0] + [0.0] * 5)
    decisions = decide(table, suspect=0, off_distribution=0, out_of_reach=0.3)
    said = {}
    for at, verdict in enumerate(decisions.columns["verdict"].to_pylist()):
        row = {name: column[at].as_py() for name, column in decisions.columns.items()}
        row |= {"loss": LOSS[at], "entropy": ENTROPY[at], "wrong_calculations": float(2 * (at == 4))}
        row |= {"wrong_calculation": "1 + 1 = 3", "prompt_overlap": 0.25}
        said[verdict] = Verdict.explain(row, decisions.facts)
    assert said["suspect"].startswith("suspect answer: 1 + 1 = 3 does not hold (one of 2), suspicion 1.")
    assert "25% of its words are in the prompt" in said["suspect"]
    assert said["too_easy"] == "too easy: loss 1.1 and entropy 1.1 are both low, below 1.18 and 1.18"
    assert said["out_of_reach"].startswith("out of reach: loss 3 and entropy 2.9 are both high, above 2.73")
    assert said["keep_prune"].startswith(
        "keep and prune tokens: loss 2.7 and entropy 2.6, medians 2 and 2.65"
    )
    assert said["keep"].startswith("keep: loss 2.")
    assert Verdict.explain({"verdict": None}, decisions.facts) == ""
