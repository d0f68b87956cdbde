"""Scorers that compare the target with another model: worked examples and what must hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers import dft, glow, mistake_log, muscle, novelty, rho1
from scorers.base import Need, Outputs, RowValues, Scorer, TokenValues

Rows = Sequence[Sequence[float]]
LOSSES = st.lists(st.floats(0, 30, width=32), min_size=1, max_size=8)


def tokens(rows: Rows) -> TokenValues:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return TokenValues(np.array([value for row in rows for value in row], np.float32), offsets)


def score(scorer: Scorer, given_outputs: Mapping[Need, Rows]) -> dict[str, RowValues]:
    return scorer.score(Outputs({need: tokens(rows) for need, rows in given_outputs.items()}, {}))


def contrast(target: Sequence[float], base: Sequence[float]) -> dict[str, RowValues]:
    """Novelty of one row, from losses; every token is the target's most likely one."""
    logprobs = [[-loss for loss in target]]
    return score(
        novelty.SCORER,
        {
            novelty.TARGET: logprobs,
            novelty.TARGET_TOP: logprobs,
            novelty.BASE: [[-loss for loss in base]],
        },
    )


def test_the_excess_of_the_worked_example() -> None:
    losses, reference = [3, 1, 2, 0.5, 4], [2.5, 0.9, 0.5, 0.6, 4.2]
    found = score(
        rho1.SCORER, {rho1.TARGET: [[-x for x in losses]], rho1.REFERENCE: [[-x for x in reference]]}
    )
    assert found["rho1_excess"] == pytest.approx([(0.5 + 0.1 + 1.5 - 0.1 - 0.2) / 5], abs=1e-6)


@given(LOSSES)
def test_a_model_compared_with_itself_gives_nothing(losses: list[float]) -> None:
    row = [[-loss for loss in losses]]
    right = [[float(loss < 1) for loss in losses]]
    assert score(rho1.SCORER, {rho1.TARGET: row, rho1.REFERENCE: row})["rho1_excess"].tolist() == [0]
    assert score(glow.SCORER, {glow.TARGET: row, glow.PREVIOUS: row})["glow_gain"].tolist() == [0]
    flips = score(muscle.SCORER, {muscle.TARGET: right, muscle.PREVIOUS: right})
    assert [values.tolist() for values in flips.values()] == [[0], [0]]
    same = contrast(losses, losses)
    assert [values.tolist() for values in same.values()] == [[0], [0], [0], [0]]


@given(st.lists(st.tuples(st.floats(0, 30, width=32), st.floats(0, 30, width=32)), min_size=1, max_size=8))
def test_exchanging_the_models_changes_the_sign(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    forth, back = contrast(one, other), contrast(other, one)
    for name in ("novelty", "novelty_sum"):
        assert forth[name] == pytest.approx(-back[name])
    assert -10 <= forth["novelty"][0] <= forth["novelty_window"][0] + 1e-6 <= 10 + 1e-6


def test_novelty_is_cut_and_its_sum_is_not() -> None:
    found = contrast([1, 2], [21, 3])
    assert found["novelty"].tolist() == [(10 + 1) / 2]
    assert found["novelty_sum"].tolist() == [20 + 1]


def test_a_token_below_a_tenth_of_the_likeliest_is_implausible() -> None:
    row = [[math.log(0.5), math.log(0.04), math.log(0.06)]]
    top = [[math.log(0.5)] * 3]
    given_outputs = {novelty.TARGET: row, novelty.TARGET_TOP: top, novelty.BASE: row}
    assert score(novelty.SCORER, given_outputs)["novelty_implausible"] == pytest.approx([1 / 3])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_flips_account_for_the_change_in_the_share_that_is_right(pairs: list[tuple[bool, bool]]) -> None:
    before, now = (np.array(column, float) for column in zip(*pairs, strict=True))
    flips = score(muscle.SCORER, {muscle.TARGET: [now.tolist()], muscle.PREVIOUS: [before.tolist()]})
    lost, won = flips["negative_flips"][0], flips["positive_flips"][0]
    assert won - lost == pytest.approx(now.mean() - before.mean())
    assert lost <= before.mean() + 1e-9
    assert lost + won <= 1


def test_the_mistake_log_of_two_checkpoints() -> None:
    found = score(
        mistake_log.SCORER,
        {
            mistake_log.LOGPROB: [[math.log(0.5), 0.0], [math.log(0.25)], []],
            mistake_log.TARGET: [[1, 1], [0], []],
            mistake_log.PREVIOUS: [[0, 1], [0], []],
        },
    )
    assert found["mistake"] == pytest.approx([0.25, 0.75, np.nan], nan_ok=True)
    assert found["mistake_persist"] == pytest.approx([0.25, 1.0, np.nan], nan_ok=True)


def test_dynamic_fine_tunings_weights_are_probabilities() -> None:
    found = score(dft.SCORER, {dft.RESPONSE_LOGPROBS: [[math.log(0.5), math.log(0.05)], []]})
    assert found["dft_weight"] == pytest.approx([0.275, np.nan], nan_ok=True)
    assert found["dft_low"] == pytest.approx([0.5, np.nan], nan_ok=True)
