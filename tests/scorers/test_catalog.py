from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.base import TOKEN_OUTPUTS, Outputs, Scorer, TokenValues
from scorers.catalog import SCORERS, columns_of, plan

ROWS = st.lists(st.lists(st.floats(0, 20, width=32), max_size=6), max_size=8)


def outputs_of(scorer: Scorer, rows: list[list[float]]) -> Outputs:
    """The same numbers for every need, with the sign and range that its output has."""
    values = np.array([value for row in rows for value in row], dtype=np.float32)
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    by_output: dict[str, npt.NDArray[np.float32]] = {
        "logprob": -values,
        "entropy": values,
        "top1": (values > 10).astype(np.float32),
        "top1_logprob": -values / np.float32(2),
    }
    by_output |= {"el2n": values / np.float32(15), "logit_gap": values - np.float32(10)}
    lengths = np.array([[len(row) or np.nan] for row in rows], np.float32).reshape(-1, 1)
    tokens = {
        need: TokenValues(by_output[need.output], offsets)
        for need in scorer.needs
        if need.output in TOKEN_OUTPUTS
    }
    rows_of_numbers = {need: lengths for need in scorer.needs if need not in tokens}
    return Outputs(tokens, {need: -own if need.tokens else own for need, own in rows_of_numbers.items()})


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@given(rows=ROWS)
def test_every_scorer_returns_its_columns_within_their_range_or_null(
    scorer: Scorer, rows: list[list[float]]
) -> None:
    columns = scorer.score(outputs_of(scorer, rows))
    assert list(columns) == [column.name for column in scorer.columns]
    for column in scorer.columns:
        values = columns[column.name]
        assert values.dtype == np.float64
        assert len(values) == len(rows)
        assert np.isnan(values[[not row for row in rows]]).all()
        known = values[~np.isnan(values)]
        assert ((known >= column.low) & (known <= column.high) & np.isfinite(known)).all()


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@given(rows=ROWS, at=st.integers(0, 7))
def test_a_score_is_the_same_bits_whatever_the_other_rows_are(
    scorer: Scorer, rows: list[list[float]], at: int
) -> None:
    if at >= len(rows):
        return
    together = scorer.score(outputs_of(scorer, rows))
    alone = scorer.score(outputs_of(scorer, [rows[at]]))
    for name, values in together.items():
        assert values[at : at + 1].tobytes() == alone[name].tobytes()


def test_the_worked_example_of_three_words() -> None:
    # p = softmax(2, 1, 0) with label 0, then a uniform guess among three
    z = math.exp(2) + math.exp(1) + 1
    losses = [math.log(z) - 2, math.log(3)]
    entropies = [math.log(z) - (2 * math.exp(2) + math.exp(1)) / z, math.log(3)]
    logprobs = TokenValues(-np.array(losses, dtype=np.float32), np.array([0, 2]))
    entropy = TokenValues(np.array(entropies, dtype=np.float32), np.array([0, 2]))
    loss = SCORERS["loss"].score(Outputs({SCORERS["loss"].needs[0]: logprobs}, {}))
    mean_entropy = SCORERS["entropy"].score(Outputs({SCORERS["entropy"].needs[0]: entropy}, {}))
    assert loss["loss"] == pytest.approx([0.753109], abs=1e-6)
    assert loss["perplexity"] == pytest.approx([2.123592], abs=1e-6)
    assert mean_entropy["entropy"] == pytest.approx([0.965504], abs=1e-6)


def test_perplexity_is_null_and_not_infinite_where_float64_overflows() -> None:
    columns = SCORERS["loss"].score(outputs_of(SCORERS["loss"], [[800.0], [1.0]]))
    assert columns["loss"].tolist() == [800.0, 1.0]
    assert math.isnan(columns["perplexity"][0])
    assert columns["perplexity"][1] == pytest.approx(math.e)


def test_a_certain_response_has_loss_zero_and_not_minus_zero() -> None:
    loss = SCORERS["loss"].score(outputs_of(SCORERS["loss"], [[0.0]]))["loss"]
    assert math.copysign(1, loss[0]) == 1


def test_columns_come_in_the_catalogs_order_whatever_the_recipe_says() -> None:
    assert [column.name for column in columns_of(reversed(list(SCORERS)))] == [
        "loss", "perplexity", "entropy", "top1_agreement", "direct_loss", "ifd_loss", "ifd_ppl",
        "whole_loss", "whole_entropy", "el2n", "wg_inner", "g_norm", "dft_weight", "dft_low",
        "difficulty", "think_flag", "rho1_excess",
        "novelty", "novelty_sum", "novelty_window", "novelty_implausible",
        "glow_gain", "negative_flips", "positive_flips", "mistake", "mistake_persist",
    ]  # fmt: skip


def test_the_direct_view_is_planned_only_for_a_scorer_that_needs_it() -> None:
    assert {need.view for need in plan(["loss", "entropy", "top1_agreement"])} == {"conditional"}
    assert {need.view for need in plan(["ifd"])} == {"conditional", "direct"}


def test_storing_token_losses_adds_the_log_probabilities_to_the_plan() -> None:
    assert [(need.view, need.output) for need in plan(["entropy"], store_tokens=True)] == [
        ("conditional", "entropy"),
        ("conditional", "logprob"),
    ]


def test_an_unknown_scorer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="no scorer 'entropi'; did you mean 'entropy'"):
        columns_of(["loss", "entropi"])


def test_scorers_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(SCORERS)) == SCORERS  # noqa: S301 - our own objects


def test_the_catalog_and_the_settings_load_neither_torch_nor_beam() -> None:
    code = (
        "import sys, scorers.catalog, scorers.models.settings;"
        "print([m for m in ('torch', 'transformers', 'apache_beam') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
