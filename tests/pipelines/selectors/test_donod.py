"""DONOD's ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.selectors.donod import Donod, topsis
from scorers.donod import norm_changes
from tests.pipelines.selectors.tables import candidates, kept_rows

NUMBERS = st.lists(st.tuples(st.floats(-10, 10), st.floats(0, 10)), min_size=1, max_size=12)


def test_the_worked_example_of_three_gradients() -> None:
    # W = diag(3, 4), step 0.1; G = W, G = -W, and G = [[0, 2], [0, 0]]
    inner, norm = np.array([25.0, -25.0, 0.0]), np.array([5.0, 5.0, 2.0])
    don, nod = norm_changes(inner, norm, 5.0, 0.1)
    assert don == pytest.approx([0.5, -0.5, -0.003998], abs=1e-6)
    assert nod == pytest.approx([0.5, 0.5, 0.2])
    assert topsis(don, nod) == pytest.approx([0.775988, 0, 0.532422], abs=1e-6)


def test_the_closed_form_is_that_of_the_step_itself() -> None:
    random = np.random.default_rng(0)
    weights, gradient = random.normal(size=(7, 5)), random.normal(size=(7, 5))
    for step in (1e-3, 0.5):
        don, nod = norm_changes(
            np.array([(weights * gradient).sum()]), np.array([np.linalg.norm(gradient)]),
            float(np.linalg.norm(weights)), step,
        )  # fmt: skip
        after = weights - step * gradient
        assert don[0] == pytest.approx(np.linalg.norm(weights) - np.linalg.norm(after), rel=1e-9)
        assert nod[0] == pytest.approx(np.linalg.norm(weights - after), rel=1e-9)
        assert abs(don[0]) <= nod[0]


@given(NUMBERS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_closeness_is_a_share_that_dominance_and_scale_respect(
    rows: list[tuple[float, float]], one: float, other: float
) -> None:
    high, low = np.array(rows).T
    found = topsis(high, low)
    assert ((found >= 0) & (found <= 1)).all()
    assert topsis(one * high, other * low) == pytest.approx(found, abs=1e-6)
    for a in range(len(rows)):
        for b in range(len(rows)):
            if high[a] >= high[b] and low[a] <= low[b]:
                assert found[a] >= found[b] - 1e-9


def test_small_steps_rank_as_their_limit_does() -> None:
    random = np.random.default_rng(1)
    inner, norm = random.normal(size=200), random.gamma(2, size=200)
    limit = np.argsort(topsis(inner, norm))
    for step in (1e-6, 1e-5):
        assert np.array_equal(np.argsort(topsis(*norm_changes(inner, norm, 50.0, step))), limit)


def test_the_closest_rows_are_kept_with_their_closeness() -> None:
    table = candidates([25.0, -25.0, 0.0, None], [5.0, 5.0, 2.0, None])
    decisions = Donod(keep_examples=2).decide(table, 0)
    assert kept_rows(decisions) == [0, 2]
    assert decisions.columns["topsis"].to_pylist()[3] is None
    assert decisions.reason[1] == "donod: closeness below the budget"
    assert decisions.reason[3].startswith("donod: no gradient")
    assert Donod(keep=0.5).reads == ("wg_inner", "g_norm")
