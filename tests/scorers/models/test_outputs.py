"""The reductions of logits, by hand and where digits are easily lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from scorers.base import TOKEN_OUTPUTS, Output
from scorers.models.fused_cpu import CompiledLogits
from scorers.models.gradient_norm import gradient_norms
from scorers.models.outputs import REDUCTIONS, Logits, reduce_logits

Reduce = Callable[[list[list[float]], list[int]], dict[Output, list[float]]]


def plain(logits: torch.Tensor, labels: torch.Tensor) -> Logits:
    return Logits(logits, labels, torch.full((2, *logits.shape), torch.nan))


@pytest.fixture(params=[plain, CompiledLogits])
def reduce(request: pytest.FixtureRequest) -> Reduce:
    """Every output per token of some logits and labels, in either way of the processor."""

    def reduced(logits: list[list[float]], labels: list[int]) -> dict[Output, list[float]]:
        outputs = reduce_logits(request.param(torch.tensor(logits), torch.tensor(labels)), TOKEN_OUTPUTS)
        assert {values.dtype for values in outputs.values()} == {torch.float32}
        return {name: values.tolist() for name, values in outputs.items()}

    return reduced


def test_every_output_per_token_has_its_reduction() -> None:
    assert REDUCTIONS.keys() == TOKEN_OUTPUTS.keys()


def test_the_worked_example_of_three_words(reduce: Reduce) -> None:
    reduced = reduce([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [0, 1])
    assert reduced["logprob"] == pytest.approx([-0.407606, -1.098612], abs=1e-6)
    assert reduced["entropy"] == pytest.approx([0.832396, 1.098612], abs=1e-6)
    assert reduced["top1_logprob"] == pytest.approx([-0.407606, -1.098612], abs=1e-6)
    # p = .665241, .244728, .090031: sqrt(.334759² + .244728² + .090031²); thirds: sqrt(4/9 + 2/9)
    assert reduced["el2n"] == pytest.approx([0.424336, 0.816497], abs=1e-6)
    assert reduced["logit_gap"] == pytest.approx([1.575210 - 2, 0.0], abs=1e-6)
    assert reduced["log_partition"] == pytest.approx([2.407606, 1.098612], abs=1e-6)


def test_of_equal_logits_the_lower_id_is_preferred(reduce: Reduce) -> None:
    reduced = reduce([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]], [1, 0, 2])
    assert reduced["rank"] == [1, 0, 2]
    assert reduced["top1"] == [0, 1, 0]


def test_large_logits_lose_no_digits(reduce: Reduce) -> None:
    # shifted by 1e4 in float32, a naive logsumexp keeps three digits of a loss of this size
    reduced = reduce([[1e4, 1e4 - 8, 1e4 - 9]], [0])
    p = np.exp([0.0, -8.0, -9.0]) / np.exp([0.0, -8.0, -9.0]).sum()
    assert reduced["logprob"] == pytest.approx([np.log(p[0])], rel=1e-3)
    assert reduced["entropy"] == pytest.approx([-(p * np.log(p)).sum()], rel=1e-3)


def test_the_error_norm_keeps_its_digits_where_the_model_is_nearly_certain(reduce: Reduce) -> None:
    logits = np.array([20.0, 0.0, 1.0, -3.0])
    p = np.exp(logits) / np.exp(logits).sum()
    expected = np.sqrt((p[1:].sum()) ** 2 + (p[1:] ** 2).sum())  # about 1e-8
    assert reduce([logits.tolist()], [0])["el2n"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("block", [1, 3, 7, 50])
def test_the_gradient_norm_is_that_of_the_gradient(block: int) -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(7, 5), torch.randn(4, 5)
    labels, sizes = torch.tensor([0, 6, 2, 2]), [1, 3]
    logits = hidden @ weight.T
    found = gradient_norms(weight, hidden, labels, logits.logsumexp(-1), sizes, block)
    for rows, norm in zip(torch.arange(4).split(sizes), found, strict=True):  # type: ignore[no-untyped-call]
        parameter = weight.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(hidden[rows] @ parameter.T, labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        assert parameter.grad is not None
        assert norm.item() == pytest.approx(parameter.grad.norm().item(), rel=1e-5)
