"""The compiled sums: against float64, and where the logits are no numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.base import TOKEN_OUTPUTS, Output
from scorers.models.fused_cpu import _PART, CompiledLogits, _exp
from scorers.models.outputs import Logits, reduce_logits


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    size=st.one_of(st.integers(1, 40), st.sampled_from([_PART - 1, _PART, _PART + 1, 3 * _PART + 7])),
    spread=st.sampled_from([0.0, 1.0, 10.0, 200.0]),
    offset=st.sampled_from([0.0, -300.0, 1e4]),
    kind=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
def test_every_output_agrees_with_float64(
    rows: int, size: int, spread: float, offset: float, kind: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = (torch.randn(rows, size) * spread + offset).to(kind)
    labels = torch.randint(0, size, (rows,))
    before = logits.clone()
    found = reduce_logits(CompiledLogits(logits, labels), TOKEN_OUTPUTS)
    assert torch.equal(logits, before)

    exact = logits.double()
    at_label = exact.gather(-1, labels[:, None])
    log_p = exact.log_softmax(-1)
    p = log_p.exp()
    preferred = (exact > at_label) | ((exact == at_label) & (torch.arange(size) < labels[:, None]))
    error = p.scatter(-1, labels[:, None], 0.0)
    expected: dict[Output, torch.Tensor] = {
        "logprob": log_p.gather(-1, labels[:, None])[:, 0],
        "entropy": -(p * log_p.clamp_min(-1e30)).sum(-1),
        "top1": (preferred.sum(-1) == 0).double(),
        "top1_logprob": log_p.amax(-1),
        "rank": preferred.sum(-1).double(),
        "el2n": torch.hypot(error.sum(-1), error.norm(dim=-1)),
        "logit_gap": (p * (exact - at_label)).sum(-1),
        "log_partition": exact.logsumexp(-1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=3e-6, atol=3e-6, err_msg=name)


def test_the_exponential_is_exact_to_two_units_in_the_last_place() -> None:
    x = np.linspace(-86.9, 0, 50_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    found = np.array([_exp(value) for value in x])
    assert (abs(found - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()
    assert _exp(np.float32(0)) == 1
    assert 0 <= _exp(np.float32(-1e30)) < 1e-37


def test_logits_of_minus_infinity_are_tokens_that_cannot_come() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 10)
    masked = torch.cat([logits, torch.full((1, 7), -math.inf)], dim=-1)
    found = reduce_logits(CompiledLogits(masked, torch.tensor([3])), TOKEN_OUTPUTS)
    expected = reduce_logits(CompiledLogits(logits, torch.tensor([3])), TOKEN_OUTPUTS)
    for name in TOKEN_OUTPUTS:
        assert found[name].item() == pytest.approx(expected[name].item(), abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.copysign(math.nan, -1), math.inf])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_what_is_no_number_gives_none_and_leaves_other_positions_alone(bad: float, at: int) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 10), torch.tensor([3, 3, 3])
    alone = reduce_logits(CompiledLogits(logits, labels), TOKEN_OUTPUTS)
    logits[1, at] = bad
    found = reduce_logits(CompiledLogits(logits, labels), TOKEN_OUTPUTS)
    for name in TOKEN_OUTPUTS:
        assert math.isnan(found[name][1]) or name == "top1"
        assert found[name][[0, 2]].tolist() == alone[name][[0, 2]].tolist()


def test_the_plain_way_finds_the_same() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(6, 5000) * 4, torch.randint(0, 5000, (6,))
    compiled = reduce_logits(CompiledLogits(logits, labels), TOKEN_OUTPUTS)
    plain = reduce_logits(Logits(logits, labels, torch.empty(2, 6, 5000)), TOKEN_OUTPUTS)
    for name in TOKEN_OUTPUTS:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_of_the_vocabulary_is_refused(label: int) -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        CompiledLogits(torch.zeros(1, 5), torch.tensor([label]))
