"""What every selector that reads vectors promises, whatever its method."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.base import Decisions, Vectors, VectorSelector
from pipelines.selectors.catalog import SELECTORS, parse_selector
from tests.pipelines.selectors.tables import FEW_EXAMPLES, any_candidates, candidates

STEPS: list[tuple[str, dict[str, Any]]] = [
    ("got_d", {"target": "target.jsonl", "allow_unconverged": True}),
    ("got_d", {"target": "target.jsonl", "direction": "contrast", "allow_unconverged": True}),
    ("kshot", {"target": "target.jsonl"}),
    ("kshot", {"target": "target.jsonl", "probe": "nearest", "refill": True}),
    ("deita", {"column": "loss", "order": "highest", "max_similarity": 0.5}),
    ("k_center", {}),
    ("facility_location", {}),
    ("facility_location", {"partition_rows": 8}),
    ("semdedup", {"clusters": 1}),
    ("d4", {"clusters": 1, "clusters_again": 1}),
]
DIMENSIONS = 4


def vector(row_id: str) -> list[float]:
    """A vector that only depends on the id."""
    draw = np.random.default_rng(int.from_bytes(hashlib.blake2b(row_id.encode(), digest_size=4).digest()))
    return [float(number) for number in draw.normal(size=DIMENSIONS)]


def decide(name: str, options: dict[str, Any], table: pa.Table, seed: int = 0) -> Decisions:
    """Decides with vectors made of the ids; every seventh row has none."""
    selector = parse_selector({name: options})
    assert isinstance(selector, VectorSelector)
    ids = table["id"].to_pylist()
    rows = np.array([vector(row_id) for row_id in ids], np.float32).reshape(-1, DIMENSIONS)
    known = np.array([not row_id.endswith("6") for row_id in ids], np.bool_)
    rows[~known] = 0
    target = np.array([vector(f"target{at}") for at in range(3)], np.float32)
    return selector.decide_with(table, Vectors(rows, known, target), seed)


def test_every_vector_selector_of_the_catalog_is_tested_here() -> None:
    named = {name for name, selector in SELECTORS.items() if issubclass(selector, VectorSelector)}
    assert {name for name, _ in STEPS} == named


@pytest.mark.parametrize(("name", "options"), STEPS, ids=str)
@FEW_EXAMPLES
@given(table=any_candidates(), seed=st.integers(0, 3), keep=st.floats(0, 0.75))
def test_there_is_one_decision_with_a_reason_per_candidate(
    name: str, options: dict[str, Any], table: pa.Table, seed: int, keep: float
) -> None:
    decisions = decide(name, options | {"keep": keep}, table, seed)
    assert decisions.keep.shape == decisions.reason.shape == (table.num_rows,)
    assert all(reason.startswith(f"{name}: ") for reason in decisions.reason)
    assert all(len(column) == table.num_rows for column in decisions.columns.values())
    assert decisions.keep.sum() <= int(keep * table.num_rows + 1e-9)
    unknown = [at for at, row_id in enumerate(table["id"].to_pylist()) if row_id.endswith("6")]
    assert not decisions.keep[unknown].any()


@pytest.mark.parametrize(("name", "options"), STEPS, ids=str)
@FEW_EXAMPLES
@given(table=any_candidates(), data=st.data())
def test_the_order_of_rows_changes_no_decision(
    name: str, options: dict[str, Any], table: pa.Table, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(table.num_rows))), dtype=np.int64)
    before = decide(name, options | {"keep": 0.5}, table)
    after = decide(name, options | {"keep": 0.5}, table.take(pa.array(order)))
    assert after.keep.tolist() == before.keep[order].tolist()
    assert after.reason.tolist() == before.reason[order].tolist()


@pytest.mark.parametrize(("name", "options"), STEPS, ids=str)
@FEW_EXAMPLES
@given(table=any_candidates(), budget=st.integers(0, 300))
def test_a_budget_of_tokens_is_never_exceeded(
    name: str, options: dict[str, Any], table: pa.Table, budget: int
) -> None:
    keep = decide(name, options | {"keep_tokens": budget}, table).keep
    tokens = [table[column].to_pylist() for column in ("prompt_tokens", "response_tokens")]
    kept = [pair for pair, chosen in zip(zip(*tokens, strict=True), keep, strict=True) if chosen]
    assert all(prompt is not None for prompt, _ in kept)
    assert sum(prompt + response for prompt, response in kept) <= budget


@pytest.mark.parametrize(("name", "options"), STEPS, ids=str)
@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row_are_decided(name: str, options: dict[str, Any], rows: int) -> None:
    table = candidates([1.0] * rows, ids=["only"][:rows])
    for budget in ({"keep_examples": 0}, {"keep_examples": 5}):
        decisions = decide(name, options | budget, table)
        assert decisions.keep.sum() == min(rows, budget["keep_examples"])
        assert len(decisions.reason) == rows


def test_a_vector_selector_asked_without_vectors_says_so() -> None:
    with pytest.raises(TypeError, match="k_center decides with vectors"):
        parse_selector({"k_center": {"keep": 1}}).decide(candidates([1.0]), 0)
