"""Selectors that keep every row and change how its tokens, or the row, count: RHO-1, DFT and GLOW."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.dft import Dft
from pipelines.selectors.glow import Glow
from pipelines.selectors.rho1 import REFERENCE_NLL, Rho1
from tests.pipelines.selectors.tables import EXAMPLES, candidates, kept_rows
from tests.pipelines.selectors.token_rows import by_row, stored

Losses = Sequence[Sequence[float]]
LOSSES = st.lists(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=9), min_size=1, max_size=6)


def masks(selector: Rho1, target: Losses, reference: Losses) -> list[list[bool]]:
    table = candidates([1.0] * len(target), response_tokens=[len(row) for row in target])
    decisions = selector.decide(table, 0)
    tokens = stored(**{"token_nll": target, REFERENCE_NLL: reference})
    found = by_row(selector.token_masks(table, decisions, tokens))
    return [found[row].tolist() for row in range(len(target))]


def test_the_worked_example_of_rho1() -> None:
    losses, reference = [3, 1, 2, 0.5, 4], [2.5, 0.9, 0.5, 0.6, 4.2]
    for scope in ("row", "all"):  # excess .5, .1, 1.5, -.1, -.2: the token of highest loss goes
        kept = masks(Rho1(token_keep=0.6, scope=scope), [losses], [reference])[0]
        assert kept == [True, True, True, False, False]
    assert np.mean(np.array(losses)[kept]) == 2.0


@EXAMPLES
@given(LOSSES, st.floats(0.05, 1))
def test_each_row_keeps_its_share_of_tokens_and_at_least_one(target: list[list[float]], share: float) -> None:
    reference = [[0.0] * len(row) for row in target]
    for kept, row in zip(masks(Rho1(token_keep=share), target, reference), target, strict=True):
        assert sum(kept) == max(1, math.floor(share * len(row) + 1e-9))
        assert min(np.array(row)[kept]) >= max(
            [x for x, keep in zip(row, kept, strict=True) if not keep] or [0]
        )


@EXAMPLES
@given(LOSSES, st.floats(0.05, 1))
def test_tokens_of_all_rows_compete_for_one_share(target: list[list[float]], share: float) -> None:
    reference = [[0.0] * len(row) for row in target]
    found = masks(Rho1(token_keep=share, scope="all"), target, reference)
    pool = np.array([value for row in target for value in row])
    kept = np.array([keep for row in found for keep in row])
    assert kept.sum() == round(len(pool) * share)
    if kept.any() and not kept.all():
        assert pool[kept].min() >= pool[~kept].max()


def test_a_row_that_a_model_did_not_score_is_dropped() -> None:
    table = candidates([1.0, None], status=["ok", "overflow"])
    for selector in (Rho1(), Dft(), Glow()):
        decisions = selector.decide(table, 0)
        assert kept_rows(decisions) == [0]
        assert decisions.reason[1].endswith("(status overflow)")


@EXAMPLES
@given(LOSSES)
def test_dfts_weights_are_probabilities_and_bound_the_loss_of_a_token(losses: list[list[float]]) -> None:
    table = candidates([1.0] * len(losses))
    selector = Dft()
    tokens = stored(token_nll=losses)
    found = by_row(selector.token_weights(table, selector.decide(table, 0), tokens))
    for row, own in enumerate(losses):
        assert found[row] == pytest.approx(np.exp(-np.array(own)), rel=1e-6)
        assert (found[row] * np.array(own) <= 1 / math.e + 1e-6).all()


def test_the_weights_of_glow() -> None:
    # gains 0, ln 3 / 10, -1, 9 with alpha 2, beta 10: sigmoid 1/2, 3/4, 0, 1
    table = candidates([0.0, math.log(3) / 10, -1.0, 9.0])
    decisions = Glow(alpha=2, beta=10).decide(table, 0)
    assert decisions.weights == pytest.approx([1.0, 0.5, 2.0, 0.5], abs=1e-4)
    assert kept_rows(decisions) == [0, 1, 2, 3]
    assert decisions.reason[2] == "glow: kept, its loss rose"
    assert Glow(alpha=20, beta=10).decide(table, 0).weights == pytest.approx([5, 5, 5, 0.5], abs=1e-3)


@EXAMPLES
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.1, 6), st.floats(0.1, 30))
def test_less_gain_never_means_less_weight(gains: list[float], alpha: float, beta: float) -> None:
    weights = Glow(alpha=alpha, beta=beta).decide(candidates(gains), 0).weights
    assert weights is not None
    assert ((weights >= 0.5) & (weights <= 5)).all()
    ordered = weights[np.argsort(gains)]
    assert (np.diff(ordered) <= 1e-12).all()
