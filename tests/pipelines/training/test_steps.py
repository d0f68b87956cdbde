"""Steps of the same number of tokens, and their parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.steps import split_into_passes, steps_for, steps_of
from tests.pipelines.training.toy import EXAMPLES

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=30).map(lambda own: np.array(own, np.int64))


@EXAMPLES
@given(sizes, sizes, st.integers(1, 12), st.integers(60, 100), st.integers(0, 9))
def test_two_sets_have_had_the_same_tokens_within_one_row_after_any_step(
    one: np.ndarray, other: np.ndarray, steps: int, step_tokens: int, seed: int
) -> None:
    for trained in (one, other):
        so_far = np.cumsum([trained[rows].sum() for rows in steps_of(trained, steps, step_tokens, seed)])
        wanted = step_tokens * np.arange(1, steps + 1)
        assert (so_far >= wanted).all()
        assert (so_far - wanted < trained.max()).all()


@EXAMPLES
@given(sizes, st.integers(1, 12), st.integers(1, 100), st.integers(0, 9))
def test_no_row_comes_again_before_all_others_have(
    trained: np.ndarray, steps: int, step_tokens: int, seed: int
) -> None:
    order = [row for rows in steps_of(trained, steps, step_tokens, seed) for row in rows]
    seen = np.bincount(order, minlength=len(trained))
    assert seen.max() - seen.min() <= 1
    assert all(steps_of(trained, steps, step_tokens, seed))


def test_the_seed_decides_the_order() -> None:
    trained = np.full(50, 10)
    assert steps_of(trained, 5, 100, 0) == steps_of(trained, 5, 100, 0) != steps_of(trained, 5, 100, 1)


def test_epochs_are_counted_in_trained_tokens() -> None:
    assert steps_for(np.array([100, 50]), epochs=2, step_tokens=100) == 3
    assert steps_for(np.array([1]), epochs=0.1, step_tokens=2048) == 1


@EXAMPLES
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_passes_hold_every_token_once_and_no_more_than_they_may(lengths: list[int], most: int) -> None:
    mask = torch.tensor([[1] * own + [0] * (9 - own) for own in lengths])
    ids = mask * torch.arange(1, mask.numel() + 1).reshape(mask.shape)
    parts = split_into_passes({"input_ids": ids, "attention_mask": mask}, most)
    found = torch.cat([part["input_ids"].flatten() for part in parts])
    assert sorted(found[found > 0].tolist()) == sorted(ids[ids > 0].tolist())
    for part in parts:
        rows, time = part["input_ids"].shape
        assert rows == 1 or rows * time <= most
        assert bool((part["input_ids"] > 0).any(dim=0).all())


def test_a_pass_has_the_padding_of_its_own_rows_only() -> None:
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    short = split_into_passes({"attention_mask": mask, "input_ids": 5 * mask}, 3)[1]
    assert short["input_ids"].tolist() == [[5]]


@pytest.mark.parametrize("seed", range(3))
def test_a_row_longer_than_a_step_still_gives_a_row_to_every_step(seed: int) -> None:
    steps = steps_of(np.array([500, 1, 1]), 6, 10, seed)
    assert len(steps) == 6
    assert all(steps)
