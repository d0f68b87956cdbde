"""What every selector of the catalog promises, whatever its method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import VectorSelector, scores
from pipelines.selectors.catalog import SELECTORS, parse_selector
from tests.pipelines.selectors.tables import FEW_EXAMPLES, any_candidates, candidates, kept_rows

STEPS: list[dict[str, dict[str, Any]]] = [
    {"verdict": {}},
    {"verdict": {"keep_tokens": 90, "suspect": 0.3, "too_easy": 0.4, "keep_suspects": True}},
    {"q_tuning": {"keep": 0.5, "token_keep": 0.5}},
    {"q_tuning": {"keep": 0.3, "method": "bisection"}},
    {"q_tuning": {"keep": 0.5, "token_keep": 0.5, "token_budget": "batch_global"}},
    {"q_tuning": {"keep_tokens": 100}},
    {"q_tuning": {"keep": 0.3, "method": "bisection", "partition": "single_cut"}},
    {"q_tuning": {"keep": 0.5, "batch": 4}},
    {"rho1": {}},
    {"rho1": {"scope": "all", "token_keep": 0.3}},
    {"dft": {}},
    {"fait": {}},
    {"fait": {"rivals": 1}},
    {"glow": {}},
    {"source_fit": {"keep_sources": 1}},
    {"dart": {"k": 2}},
    {"dart": {"examples": 5}},
    {"dart": {"mode": "vanilla"}},
    {"pass_rate": {"low": 0.2, "high": 0.8}},
    {"stratified": {"column": "loss", "order": "highest", "keep": 0.5}},
    {"grape": {}},
    {"grape": {"keep": 2, "norm": "sum", "min_response_tokens": 8}},
    {"donod": {"keep": 0.3}},
    {"perplexity_band": {"low": 0.25, "high": 0.75}},
    {"perplexity_band": {"high": 0.5, "scope": "all"}},
    {"q_tuning": {"keep": 0.5, "entropy_scope": "all"}},
    {"perplexity_band": {"high": 0.2, "min_response_tokens": 8}},
    {"top_k": {"column": "loss", "order": "highest", "keep": 0.4}},
    {"top_k": {"column": "entropy", "order": "lowest", "keep_tokens": 90}},
    {"mixture": {"column": "loss", "order": "lowest", "keep": 0.5, "floors": {"toy": 0.2}}},
    {"mixture": {"column": "loss", "order": "highest", "keep_tokens": 90, "ceilings": {"toy": 0.5}}},
    {"threshold": {"column": "loss", "min": 1, "max": 4, "include_max": False}},
    {"random": {"keep": 0.5}},
    {"random": {"keep_tokens": 90}},
]
BUDGETED: list[tuple[str, dict[str, Any]]] = [
    ("q_tuning", {}),
    ("top_k", {"column": "loss", "order": "highest"}),
    ("random", {}),
    ("donod", {}),
    ("mixture", {"column": "loss", "order": "highest"}),
]


def test_every_selector_of_the_catalog_is_tested_here() -> None:
    with_vectors = {name for name, selector in SELECTORS.items() if issubclass(selector, VectorSelector)}
    assert {name for step in STEPS for name in step} == set(SELECTORS) - with_vectors
    assert all(selector.name == name for name, selector in SELECTORS.items())


@pytest.mark.parametrize("step", STEPS, ids=str)
@FEW_EXAMPLES
@given(table=any_candidates(), seed=st.integers(0, 3))
def test_there_is_one_decision_with_a_reason_per_candidate(
    step: dict[str, Any], table: pa.Table, seed: int
) -> None:
    selector = parse_selector(step)
    decisions = selector.decide(table, seed)
    assert decisions.keep.shape == decisions.reason.shape == (table.num_rows,)
    assert decisions.keep.dtype == np.bool_
    assert all(reason.startswith(f"{selector.name}: ") for reason in decisions.reason)
    assert all(len(column) == table.num_rows for column in decisions.columns.values())
    changes = [decisions.prune_tokens, decisions.weigh_tokens]
    assert any(change is not None for change in changes) == bool(selector.token_reads)
    for change in changes:
        assert change is None or not (change & ~decisions.keep).any()


@pytest.mark.parametrize("step", STEPS, ids=str)
@FEW_EXAMPLES
@given(table=any_candidates(), data=st.data())
def test_the_order_of_rows_changes_no_decision(
    step: dict[str, Any], table: pa.Table, data: st.DataObject
) -> None:
    selector = parse_selector(step)
    order = np.array(data.draw(st.permutations(range(table.num_rows))), dtype=np.int64)
    before, after = selector.decide(table, 0), selector.decide(table.take(pa.array(order)), 0)
    assert after.keep.tolist() == before.keep[order].tolist()
    assert after.reason.tolist() == before.reason[order].tolist()
    for name, column in before.columns.items():
        assert after.columns[name].to_pylist() == column.take(pa.array(order)).to_pylist()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_no_candidates_give_no_decisions(step: dict[str, Any]) -> None:
    selector = parse_selector(step)
    decisions = selector.decide(candidates([]), 0)
    assert (len(decisions.keep), len(decisions.reason)) == (0, 0)
    if decisions.prune_tokens is not None:
        assert list(selector.token_masks(candidates([]), decisions, lambda _: [])) == []
    if decisions.weigh_tokens is not None:
        assert list(selector.token_weights(candidates([]), decisions, lambda _: [])) == []


@pytest.mark.parametrize("step", [step for step in STEPS if "random" not in step], ids=str)
def test_rows_without_a_score_are_dropped_and_their_status_says_why(step: dict[str, Any]) -> None:
    table = candidates([None, None, None], status=["overflow", "ok", None])
    decisions = parse_selector(step).decide(table, 0)
    assert kept_rows(decisions) == []
    overflow, *others = decisions.reason
    assert ": no " in overflow
    assert overflow.endswith("(status overflow)")
    assert all(": no " in reason and "status" not in reason for reason in others)


@pytest.mark.parametrize("step", [step for step in STEPS if "random" not in step], ids=str)
def test_a_missing_column_is_named_together_with_those_there_are(step: dict[str, Any]) -> None:
    selector = parse_selector(step)
    with pytest.raises(
        ValueError, match=f"{selector.name}: there is no column '{selector.reads[0]}' .there are id"
    ):
        selector.decide(candidates([1.0]).drop_columns([selector.reads[0]]), 0)


@pytest.mark.parametrize(("name", "options"), BUDGETED)
@FEW_EXAMPLES
@given(table=any_candidates(), keep=st.integers(0, 30))
def test_a_budget_of_examples_is_exact_and_nested(
    name: str, options: dict[str, Any], table: pa.Table, keep: int
) -> None:
    everything = parse_selector({name: options | {"keep": 1}}).decide(table, 0).keep
    smaller = parse_selector({name: options | {"keep_examples": keep}}).decide(table, 0).keep
    larger = parse_selector({name: options | {"keep_examples": keep + 1}}).decide(table, 0).keep
    assert smaller.sum() == min(keep, everything.sum())
    assert not (smaller & ~larger).any()
    assert not (larger & ~everything).any()


@pytest.mark.parametrize(("name", "options"), BUDGETED)
@FEW_EXAMPLES
@given(table=any_candidates(), budget=st.integers(0, 300))
def test_a_budget_of_tokens_is_never_exceeded_nor_left_unused(
    name: str, options: dict[str, Any], table: pa.Table, budget: int
) -> None:
    keep = parse_selector({name: options | {"keep_tokens": budget}}).decide(table, 0).keep
    rows = [
        None if prompt is None else prompt + response
        for prompt, response in zip(
            *(table[c].to_pylist() for c in ("prompt_tokens", "response_tokens")), strict=True
        )
    ]
    assert all(tokens is not None for tokens, kept in zip(rows, keep, strict=True) if kept)
    spent = sum(tokens for tokens, kept in zip(rows, keep, strict=True) if kept and tokens is not None)
    assert spent <= budget
    more = parse_selector({name: options | {"keep_tokens": spent}}).decide(table, 0).keep
    assert more.tolist() == keep.tolist()


@pytest.mark.parametrize(("name", "options"), BUDGETED)
def test_a_row_of_unknown_length_is_dropped_by_a_token_budget_only(
    name: str, options: dict[str, Any]
) -> None:
    table = candidates([1.0, 2.0], prompt_tokens=[10, None])
    decisions = parse_selector({name: options | {"keep_tokens": 1000}}).decide(table, 0)
    assert kept_rows(decisions) == [0]
    assert decisions.reason[1] == f"{name}: no token count"
    assert kept_rows(parse_selector({name: options | {"keep": 1}}).decide(table, 0)) == [0, 1]


@pytest.mark.parametrize(("name", "options"), BUDGETED)
def test_a_fraction_counts_rows_without_a_score(name: str, options: dict[str, Any]) -> None:
    table = candidates([1.0, 2.0, 3.0, 4.0, None, None, None, None])
    assert len(kept_rows(parse_selector({name: options | {"keep": 0.5}}).decide(table, 0))) == 4
    assert kept_rows(parse_selector({name: options | {"keep": 0}}).decide(table, 0)) == []


def test_a_fraction_means_what_it_says_in_decimal() -> None:
    table = candidates([float(i) for i in range(100)])
    assert len(kept_rows(parse_selector({"random": {"keep": 0.29}}).decide(table, 0))) == 29  # .29 * 100 < 29


def test_a_column_of_text_is_refused() -> None:
    step = {"threshold": {"column": "source", "max": 1}}
    with pytest.raises(ValueError, match="threshold: the column 'source' holds large_string"):
        parse_selector(step).decide(candidates([1.0]), 0)


def test_a_value_that_is_not_finite_is_no_score() -> None:
    nothing = [float("nan"), float("inf"), 1.0]
    table = candidates(nothing, correct=[float("nan"), float("nan"), 1.0])
    assert np.isnan(scores(table, "loss", "test")).tolist() == [True, True, False]
    for step in STEPS:
        if "random" not in step:
            assert {0, 1}.isdisjoint(kept_rows(parse_selector(step).decide(table, 0)))
