from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.ifd import ifd

LOSS = st.floats(1e-6, 100)


def test_the_worked_examples_of_both_definitions() -> None:
    loss_ratio, ppl_ratio = ifd(np.array([1, 1.5, 0.9, 3.0]), np.array([2, 1.2, 1.0, 3.2]))
    assert loss_ratio == pytest.approx([1 / 2, 1.5 / 1.2, 0.9, 3.0 / 3.2])
    assert ppl_ratio == pytest.approx([math.exp(-1), math.exp(0.3), math.exp(-0.1), math.exp(-0.2)])
    # the last two rows: the ratio of losses prefers the second, that of perplexities the first
    assert loss_ratio[3] > loss_ratio[2]
    assert ppl_ratio[3] < ppl_ratio[2]


@given(loss=LOSS, direct=LOSS)
def test_both_definitions_agree_on_whether_the_prompt_helps(loss: float, direct: float) -> None:
    loss_ratio, ppl_ratio = ifd(np.array([loss]), np.array([direct]))
    if abs(loss - direct) > 1e-9:
        assert (loss_ratio[0] < 1) == (ppl_ratio[0] < 1) == (loss < direct)


def test_a_response_that_is_certain_without_the_prompt_has_no_ifd() -> None:
    loss_ratio, ppl_ratio = ifd(np.array([0.5]), np.array([0.0]))
    assert np.isnan([loss_ratio[0], ppl_ratio[0]]).all()


def test_a_row_without_direct_view_has_no_ifd() -> None:
    loss_ratio, ppl_ratio = ifd(np.array([0.5]), np.array([np.nan]))
    assert np.isnan([loss_ratio[0], ppl_ratio[0]]).all()
