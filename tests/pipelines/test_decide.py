from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.arrays import TokenReader
from pipelines.decide import KEPT_BY_ALL, decide
from pipelines.selectors.catalog import parse_selector
from pipelines.selectors.tokens import TokenBlock
from tests.pipelines.selectors.token_rows import block, by_row

CHAINS: tuple[list[dict[str, dict[str, Any]]], ...] = (
    [],
    [{"random": {"keep": 0.5}}],
    [{"threshold": {"column": "loss", "max": 2.0}}, {"random": {"keep_examples": 3}}],
    [{"grape": {}}, {"q_tuning": {"keep": 0.6}}, {"perplexity_band": {"low": 0.1, "high": 0.9}}],
    [{"top_k": {"column": "entropy", "order": "highest", "keep_tokens": 50}}, {"grape": {}}],
)

rows = st.lists(
    st.tuples(
        st.floats(0, 5, width=32),
        st.floats(0, 5, width=32),
        st.sampled_from("abc"),
        st.booleans(),
        st.integers(1, 30),
    ),
    max_size=25,
)


def _table(values: list[tuple[float, float, str, bool, int]]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([f"{i:04d}" for i in range(len(values))], pa.string()),
            "source": pa.array(["s"] * len(values), pa.string()),
            "group": pa.array([group for *_, group, _, _ in values], pa.string()),
            "status": pa.array(["ok" if ok else "overflow" for *_, ok, _ in values], pa.string()),
            "prompt_tokens": pa.array([4] * len(values), pa.int32()),
            "response_tokens": pa.array([n for *_, n in values], pa.int32()),
            "truncated": pa.array([False] * len(values), pa.bool_()),
            "loss": pa.array([v[0] if v[3] else None for v in values], pa.float64()),
            "entropy": pa.array([v[1] if v[3] else None for v in values], pa.float64()),
        }
    )


@given(rows, st.sampled_from(CHAINS), st.integers(0, 3))
def test_every_candidate_gets_one_decision_with_a_reason(
    values: list[tuple[float, float, str, bool, int]], chain: list[dict[str, dict[str, Any]]], seed: int
) -> None:
    decided = decide(_table(values), [parse_selector(step) for step in chain], seed)
    assert len(decided.keep) == len(decided.reason) == len(decided.stage) == len(values)
    assert all(isinstance(reason, str) and reason for reason in decided.reason)
    for keep, stage, value in zip(decided.keep, decided.stage, values, strict=True):
        assert stage == (None if keep else "select" if value[3] else "score")
    assert all(len(column) == len(values) for column in decided.columns.values())


@given(rows, st.sampled_from(CHAINS))
def test_decisions_do_not_depend_on_how_rows_are_stored(
    values: list[tuple[float, float, str, bool, int]], chain: list[dict[str, dict[str, Any]]]
) -> None:
    selectors = [parse_selector(step) for step in chain]
    table = _table(values)
    chunked = pa.concat_tables([table.slice(i, 3) for i in range(0, max(len(values), 1), 3)])
    first, second = decide(table, selectors, 0), decide(chunked, selectors, 0)
    assert first.keep.tolist() == second.keep.tolist()
    assert first.reason.tolist() == second.reason.tolist()


def test_without_selectors_every_scored_row_is_kept() -> None:
    decided = decide(_table([(1.0, 1.0, "a", True, 3), (1.0, 1.0, "a", False, 3)]), [], 0)
    assert decided.keep.tolist() == [True, False]
    assert decided.reason.tolist() == [KEPT_BY_ALL, "not scored: overflow"]


class _Tokens(TokenReader):
    def read(
        self, rows: npt.NDArray[np.int64], names: npt.NDArray[np.int64], reads: Sequence[str]
    ) -> Iterator[TokenBlock]:
        losses = [[float(row + at) for at in range(4)] for row in rows.tolist()]
        yield block(names, dict.fromkeys(reads, losses))


class _DamagedTokens(TokenReader):
    def read(
        self, rows: npt.NDArray[np.int64], names: npt.NDArray[np.int64], reads: Sequence[str]
    ) -> Iterator[TokenBlock]:
        yield block(names, {"token_nll": [[0.5, math.nan if row == 3 else 1.0] for row in rows.tolist()]})


def test_masks_belong_to_the_row_they_were_made_for_and_go_with_dropped_rows() -> None:
    values = [(float(i), float(7 - i), "a", i != 2, 4) for i in range(8)]  # row 2 has no scores
    tokens = _Tokens({}, np.zeros(1, np.int64))
    prune = parse_selector({"q_tuning": {"keep": 1.0, "token_keep": 0.5}})
    decided = decide(_table(values), [prune], 0, tokens)
    assert decided.masks is not None
    masks = by_row([decided.masks])
    assert masks
    assert set(masks) <= {i for i in range(8) if i != 2}
    assert all(mask.sum() == 2 for mask in masks.values())
    later = decide(_table(values), [prune, parse_selector({"random": {"keep_examples": 1}})], 0, tokens)
    assert later.masks is not None
    assert set(later.masks.rows.tolist()) <= set(np.flatnonzero(later.keep).tolist())


def test_a_token_is_trained_on_if_every_selector_that_prunes_its_row_keeps_it() -> None:
    values = [(float(i), float(7 - i), "a", True, 4) for i in range(8)]
    tokens = _Tokens({}, np.zeros(1, np.int64))
    half = parse_selector({"q_tuning": {"keep": 1.0, "token_keep": 0.5}})
    three = parse_selector({"q_tuning": {"keep": 1.0, "token_keep": 0.75, "smoothing": 0}})
    alone, then = (decide(_table(values), [*steps], 0, tokens) for steps in ([three], [half, three]))
    first = decide(_table(values), [half], 0, tokens)
    assert alone.masks is not None
    assert first.masks is not None
    assert then.masks is not None
    pairs = zip(by_row([first.masks]).values(), by_row([alone.masks]).values(), strict=True)
    assert [mask.tolist() for mask in by_row([then.masks]).values()] == [(a & b).tolist() for a, b in pairs]


def test_pruning_without_stored_tokens_is_an_error() -> None:
    prune = parse_selector({"q_tuning": {"keep": 1.0, "token_keep": 0.5}})
    with pytest.raises(ValueError, match="reads tokens, but none were stored"):
        decide(_table([(float(i), float(9 - i), "a", True, 4) for i in range(9)]), [prune], 0)


def test_damaged_losses_do_not_become_weights() -> None:
    table = _table([(float(i), float(9 - i), "a", True, 2) for i in range(9)])
    table = table.append_column("dft_weight", pa.array(np.ones(9)))
    with pytest.raises(ValueError, match="dft: 1 weights .* nan, of candidate 3"):
        decide(table, [parse_selector({"dft": {}})], 0, _DamagedTokens({}, np.zeros(1, np.int64)))
