# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scorers.base import Output
from scorers.models.forward import (
    CausalModel,
    RowFailure,
    TokenSequence,
    forward,
    forward_or_fail,
    reduce_logits,
)
from scorers.models.loading import LoadedModel

OUTPUTS: tuple[Output, ...] = ("logprob", "entropy", "top1")


def sequences(lengths: list[tuple[int, int]]) -> list[TokenSequence]:
    """Rows of (context, response) tokens."""
    rng = np.random.default_rng(0)
    return [TokenSequence(rng.integers(2, 250, size=c + r), c) for c, r in lengths]


def test_the_worked_example_of_three_words() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    reduced = reduce_logits(logits, torch.tensor([0, 1]), OUTPUTS)
    assert reduced["logprob"].tolist() == pytest.approx([-0.407606, -1.098612], abs=1e-6)
    assert reduced["entropy"].tolist() == pytest.approx([0.832396, 1.098612], abs=1e-6)
    assert reduced["top1"].tolist() == [1.0, 0.0]  # a tie goes to the lowest id


def test_large_logits_lose_no_digits() -> None:
    # shifted by 1e4 in float32, a naive logsumexp keeps three digits of a loss of this size
    logits = torch.tensor([[1e4, 1e4 - 8, 1e4 - 9]])
    reduced = reduce_logits(logits, torch.tensor([0]), OUTPUTS)
    exact = np.array([0.0, -8.0, -9.0])
    p = np.exp(exact) / np.exp(exact).sum()
    assert reduced["logprob"].item() == pytest.approx(np.log(p[0]), rel=1e-3)
    assert reduced["entropy"].item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-3)


def test_only_the_outputs_that_are_needed_are_computed() -> None:
    assert list(reduce_logits(torch.zeros(1, 3), torch.tensor([0]), ["top1"])) == ["top1"]
    assert list(reduce_logits(torch.zeros(1, 3), torch.tensor([0]), ["logprob"])) == ["logprob"]


def test_padding_and_chunks_do_not_change_a_row(toy: LoadedModel) -> None:
    rows = sequences([(3, 40), (1, 1), (20, 5), (7, 13)])
    together = forward(replace(toy.network, chunk_tokens=7), rows, OUTPUTS)
    for row, got in zip(rows, together, strict=True):
        (alone,) = forward(toy.network, [row], OUTPUTS)
        for output in OUTPUTS:
            assert got[output].shape == (row.response_tokens,)
            np.testing.assert_allclose(got[output], alone[output], rtol=1e-4, atol=1e-6)


class FailingBody:
    """A body that refuses what `refuses` says of the ids."""

    def __init__(self, body: Any, refuses: Any, error: Exception) -> None:
        self.body, self.refuses, self.error, self.calls = body, refuses, error, []  # type: ignore[var-annotated]

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        self.calls.append(len(input_ids))
        if self.refuses(input_ids):
            raise self.error
        return self.body(input_ids=input_ids, use_cache=use_cache)


def failing(toy: LoadedModel, refuses: Any, error: Exception) -> tuple[CausalModel, FailingBody]:
    body = FailingBody(toy.network.body, refuses, error)
    return replace(toy.network, body=body), body


def test_one_bad_row_does_not_take_the_rest_of_its_batch_along(toy: LoadedModel) -> None:
    rows = sequences([(3, 9), (4, 8), (5, 7)])
    marked = int(rows[1].ids[0])
    model, _ = failing(toy, lambda ids: (ids[:, 0] == marked).any(), RuntimeError("this row"))
    results = forward_or_fail(model, rows, ["logprob"])
    assert [isinstance(result, RowFailure) for result in results] == [False, True, False]


def test_out_of_memory_halves_the_batch_until_it_fits(toy: LoadedModel) -> None:
    rows = sequences([(3, 9)] * 8)
    model, body = failing(toy, lambda ids: len(ids) > 2, torch.OutOfMemoryError("full"))
    results = forward_or_fail(model, rows, ["logprob"])
    assert not any(isinstance(result, RowFailure) for result in results)
    assert body.calls == [8, 4, 2, 2, 4, 2, 2]


def test_errors_that_no_row_causes_are_raised(toy: LoadedModel) -> None:
    rows = sequences([(3, 9)] * 2)
    for error in (TypeError("a bug"), RuntimeError("CUDA error: device-side assert")):
        model, _ = failing(toy, lambda ids: True, error)
        with pytest.raises(type(error)):
            forward_or_fail(model, rows, ["logprob"])
