"""The sets that models are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.arms import Arm, budgets, longest_rows, make_arms, random_rows
from pipelines.training.token_rows import TOKEN_ROWS, TokenRows
from tests.draws import draws

sizes = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def rows(lengths: Sequence[int]) -> TokenRows:
    """Rows of so many trained tokens each, after one token of prompt."""
    made = [
        {"id": f"r{at:03d}", "input_ids": [1, *[2] * length], "labels": [-100, *[2] * length], "weight": 1.0}
        for at, length in enumerate(lengths)
    ]
    return TokenRows(pa.Table.from_pylist(made, TOKEN_ROWS))


def ids(own: TokenRows) -> list[str]:
    found: list[str] = own.table["id"].to_pylist()
    return found


@draws(60)
@given(sizes, st.integers(1, 2000), st.integers(0, 5))
def test_sets_have_the_tokens_asked_for_within_half_a_row(lengths: list[int], tokens: int, seed: int) -> None:
    everything = rows(lengths)
    for own in (random_rows(everything, tokens, seed), longest_rows(everything, tokens)):
        total, most = int(own.trained.sum()), max(lengths)
        assert len(set(ids(own))) == len(ids(own)) >= 1
        assert abs(total - tokens) <= most / 2 or len(ids(own)) in (1, len(lengths))
        assert ids(own) == sorted(ids(own))


def test_the_longest_are_the_longest_and_ties_go_to_the_first() -> None:
    assert ids(longest_rows(rows([3, 9, 5, 9, 1]), 18)) == ["r001", "r003"]
    assert ids(longest_rows(rows([3, 9, 5, 9, 1]), 9)) == ["r001"]


def test_every_seed_draws_other_random_rows_and_always_the_same() -> None:
    everything = rows([5] * 40)
    assert ids(random_rows(everything, 100, 0)) == ids(random_rows(everything, 100, 0))
    assert ids(random_rows(everything, 100, 0)) != ids(random_rows(everything, 100, 1))


def test_random_rows_take_every_row_as_often() -> None:
    everything = rows([5] * 40)
    drawn = [ids(random_rows(everything, 100, seed)) for seed in range(400)]
    counts = np.unique(np.concatenate(drawn), return_counts=True)[1]
    assert len(counts) == 40
    assert counts.min() > 150
    assert counts.max() < 250


def test_runs_of_as_many_tokens_share_what_they_are_held_against() -> None:
    everything, small = rows([10] * 100), rows([10] * 10)
    arms = make_arms({"a": rows([10] * 50), "b": rows([10] * 50), "c": small}, everything, seeds=2)
    labels = [(arm.name, arm.run) for arm in arms if arm.seed == 0]
    assert labels == [
        ("selected", "a"),
        ("selected", "b"),
        ("selected", "c"),
        ("random", "a"),
        ("longest", "a"),
        ("random", "c"),
        ("longest", "c"),
        ("everything", ""),
    ]
    assert len(arms) == 16
    tokens = {(arm.name, arm.run): int(arm.rows.trained.sum()) for arm in arms}
    assert tokens["random", "a"] == tokens["selected", "b"] == 500
    assert tokens["longest", "c"] == tokens["selected", "c"] == 100
    assert budgets({"a": 100, "b": 103}) == {"a": "a", "b": "b"}


def test_an_arm_is_called_by_its_run_or_by_what_it_is() -> None:
    own = rows([1])
    assert [Arm("selected", "mine", 0, own).label, Arm("random", "mine", 0, own).label] == ["mine", "random"]
