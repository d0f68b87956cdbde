"""Answers that are compared: every one once, each prompt whole in one block, and few tokens in memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.rivals import Answers, Bools, Ints, chunks, first_of_groups, whole_prompts
from pipelines.selectors.tokens import TokenBlock
from tests.pipelines.selectors.tables import EXAMPLES
from tests.pipelines.selectors.token_rows import stored

seeds = st.integers(0, 2**32 - 1)


@EXAMPLES
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 20)), max_size=30), st.integers(1, 60)
)
def test_parts_hold_every_row_once_and_about_as_many_tokens_as_asked_for(
    cells: list[tuple[int, bool, int]], limit: int
) -> None:
    group, right, tokens = (np.array([cell[at] for cell in cells], np.int64) for at in range(3))
    rows, rivals = np.flatnonzero(right), np.flatnonzero(right == 0)
    rivals = first_of_groups(rivals, group, np.arange(len(cells)), 2)
    if not len(rows):
        return
    parts = list(chunks(rows, rivals, group, tokens, limit))
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    for part in parts:
        held = tokens[part].sum() + tokens[rivals[np.isin(group[rivals], group[part])]].sum()
        assert held <= limit + 20 + 2 * 20


@EXAMPLES
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(1, 60),
)
def test_each_prompt_is_whole_in_one_block_with_all_its_answers(
    cells: list[tuple[int, bool, int]], tokens: int
) -> None:
    group, right, length = (np.array([cell[at] for cell in cells], np.int64) for at in range(3))
    wrong = first_of_groups(np.flatnonzero(right == 0), group, np.arange(len(cells)), 2)
    answers = Answers(group, length, np.flatnonzero(right), wrong)
    texts = [[row] * count for row, count in enumerate(length.tolist())]
    seen: list[int] = []
    for block, whole in whole_prompts(stored(token_ids=texts)(answers.read), answers, tokens):
        assert block.arrays["token_ids"].tolist() == sum((texts[row] for row in block.rows.tolist()), [])
        assert np.diff(block.offsets).tolist() == length[block.rows].tolist()
        of_whole = np.unique(group[block.rows[whole]])
        expected = answers.read[np.isin(group[answers.read], of_whole)]
        assert block.rows[whole].tolist() == expected.tolist()
        seen += block.rows[whole].tolist()
    assert sorted(seen) == answers.read.tolist()


def test_blocks_end_where_prompts_end_and_hold_few_tokens_where_answers_stand_together() -> None:
    blocks = blocks_of(np.repeat(np.arange(500), 4), 40)
    assert {(len(block.rows), bool(whole.all())) for block, whole in blocks} == {(8, True)}


def test_answers_that_stand_far_apart_are_held_and_seldom_copied() -> None:
    blocks = blocks_of(np.tile(np.arange(500), 4), 40)
    assert sum(len(block.rows) for block, _ in blocks) <= 2 * 2000
    assert len(blocks) <= 12


def blocks_of(group: Ints, tokens: int) -> list[tuple[TokenBlock, Bools]]:
    """What is given of right answers of five tokens each."""
    answers = Answers(group, np.full(len(group), 5), np.arange(len(group)), np.zeros(0, np.int64))
    return list(whole_prompts(stored(token_ids=[[0] * 5] * len(group))(answers.read), answers, tokens))


@EXAMPLES
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5), seeds)
def test_the_first_rows_of_a_group_are_those_with_the_first_ids(
    group: list[int], count: int, seed: int
) -> None:
    ids = np.random.default_rng(seed).permutation(len(group))
    found = first_of_groups(np.arange(len(group)), np.array(group, np.int64), ids, count)
    expected = []
    for name in sorted(set(group)):
        members = [at for at, own in enumerate(group) if own == name]
        expected += sorted(members, key=lambda at: int(ids[at]))[:count]
    assert found.tolist() == expected
