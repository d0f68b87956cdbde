"""GLOW: the worked example, and what must hold for any two losses."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.glow import HIGHEST, LOWEST, glow_weights
from tests.pipelines.training.toy import EXAMPLES

Column = npt.NDArray[np.float64]

settings_of_glow = st.tuples(st.floats(0.1, 20), st.floats(0.1, 50))


@st.composite
def two_losses(draw: st.DrawFn, unknown: bool = False) -> tuple[Column, Column]:
    count = draw(st.integers(0, 15))
    loss = st.floats(0, 20)
    column = st.lists(st.one_of(loss, st.just(math.nan)) if unknown else loss, min_size=count, max_size=count)
    return np.array(draw(column)), np.array(draw(column))


def test_worked_example() -> None:
    gains = np.array([1.0, 0.1, 0.0, -0.1, -1.0])
    weights = glow_weights(2.0 + gains, np.full(5, 2.0), alpha=2.0, beta=10.0)
    # 2 / (1 + e^10) is cut to 1/2, 2 / (1 + e), 1, 2 / (1 + 1/e), 2 / (1 + e^-10)
    assert weights.tolist() == pytest.approx(
        [0.5, 2 / (1 + math.e), 1.0, 2 / (1 + 1 / math.e), 2 / (1 + math.exp(-10))]
    )
    assert glow_weights(2.0 + gains, np.full(5, 2.0)).max() <= 1


def test_a_row_with_no_previous_loss_takes_the_mean_of_the_current_ones() -> None:
    weights = glow_weights(np.array([math.nan, 1.0]), np.array([3.0, 1.0]), alpha=2.0, beta=1.0)
    assert weights.tolist() == pytest.approx([2 / (1 + math.exp(2.0 - 3.0)), 1.0])


def test_a_row_with_no_current_loss_has_no_weight() -> None:
    assert np.isnan(glow_weights(np.array([1.0, 1.0]), np.array([math.nan, 1.0]))).tolist() == [True, False]
    assert np.isnan(glow_weights(None, np.array([math.inf]))).all()


@EXAMPLES
@given(two_losses(), settings_of_glow)
def test_no_gain_is_half_of_alpha_and_the_first_epoch_is_all_ones(
    pair: tuple[Column, Column], chosen: tuple[float, float]
) -> None:
    loss, (alpha, beta) = pair[0], chosen
    assert glow_weights(None, loss, alpha, beta).tolist() == [1.0] * len(loss)
    half = min(max(alpha / 2, LOWEST), HIGHEST)
    assert glow_weights(loss, loss, alpha, beta).tolist() == [half] * len(loss)


@EXAMPLES
@given(two_losses(), settings_of_glow)
def test_weights_lie_in_their_range_and_fall_with_the_gain(
    pair: tuple[Column, Column], chosen: tuple[float, float]
) -> None:
    previous, current = pair
    weights = glow_weights(previous, current, *chosen)
    assert ((weights >= LOWEST) & (weights <= HIGHEST)).all()
    assert (np.diff(weights[np.argsort(previous - current, kind="stable")]) <= 0).all()


@EXAMPLES
@given(two_losses(), settings_of_glow)
def test_a_weight_does_not_depend_on_the_other_rows_once_the_history_is_complete(
    pair: tuple[Column, Column], chosen: tuple[float, float]
) -> None:
    alone = [glow_weights(pair[0][i : i + 1], pair[1][i : i + 1], *chosen)[0] for i in range(len(pair[0]))]
    assert glow_weights(*pair, *chosen).tolist() == alone


@EXAMPLES
@given(two_losses(unknown=True))
def test_weights_move_with_their_rows(pair: tuple[Column, Column]) -> None:
    previous, current = pair
    turned = glow_weights(previous[::-1], current[::-1])[::-1]
    np.testing.assert_allclose(turned, glow_weights(previous, current), rtol=1e-9)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"beta": -1.0}, {"alpha": math.inf}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        glow_weights(None, np.zeros(2), **wrong)


def test_losses_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        glow_weights(np.zeros(1), np.zeros(2))
