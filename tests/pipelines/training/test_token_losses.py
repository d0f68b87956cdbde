"""The losses of label tokens are those of a plain cross-entropy, in chunks and without a copy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from pipelines.training import token_losses as module
from pipelines.training.token_losses import (
    IGNORED,
    LabelTokens,
    label_tokens,
    mean_loss,
    share_of_step,
    token_losses,
)
from scorers.models.outputs import Logits
from tests.pipelines.training.toy import (
    EXAMPLES,
    VOCABULARY,
    gradient,
    lengths,
    nll_and_entropy,
    outputs,
    random_batch,
    seeds,
)


def _plain(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss at every position but the last, 0 where there is no label."""
    shifted = logits[:, :-1].transpose(1, 2)
    return torch.nn.functional.cross_entropy(shifted, labels[:, 1:], reduction="none")


def test_worked_example_of_two_tokens() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    losses, entropies = token_losses(label_tokens(outputs(logits), torch.tensor([[IGNORED, 0, 1]])))
    assert losses.tolist() == pytest.approx([0.407606, 1.098612], abs=1e-6)
    assert entropies.tolist() == pytest.approx([0.832396, 1.098612], abs=1e-6)


@EXAMPLES
@given(lengths, seeds)
def test_losses_and_entropies_are_those_written_down_plainly(counts: list[int], seed: int) -> None:
    logits, labels = random_batch(counts, seed)
    tokens = label_tokens(outputs(logits), labels)
    losses, entropies = token_losses(tokens)
    expected = nll_and_entropy(logits, labels)
    assert tokens.lengths.tolist() == counts
    torch.testing.assert_close(losses.double(), torch.cat([nll for nll, _ in expected]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        entropies.double(), torch.cat([entropy for _, entropy in expected]), rtol=1e-5, atol=1e-5
    )


@EXAMPLES
@given(lengths, seeds)
def test_the_gradient_is_that_of_cross_entropy(counts: list[int], seed: int) -> None:
    logits, labels = random_batch(counts, seed)
    twin = logits.detach().clone().requires_grad_()
    losses, _ = token_losses(label_tokens(outputs(logits), labels))
    factors = torch.linspace(-1, 2, len(losses))
    plain = _plain(twin, labels)[labels[:, 1:] != IGNORED]
    expected = gradient((plain * factors).sum(), twin)
    torch.testing.assert_close(gradient((losses * factors).sum(), logits), expected)


def test_chunks_change_nothing_and_bound_what_is_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_batch([7, 0, 5, 6], 0)
    whole, _ = token_losses(label_tokens(outputs(logits), labels))
    whole_gradient = gradient(whole.sum(), logits)
    sizes: list[int] = []

    class Counted(Logits):
        def __init__(self, part: torch.Tensor, tokens: torch.Tensor, scratch: torch.Tensor) -> None:
            sizes.append(len(part))
            super().__init__(part, tokens, scratch)

    monkeypatch.setattr(module, "CHUNK_VALUES", 4 * VOCABULARY)
    monkeypatch.setattr(module, "Logits", Counted)
    parts, _ = token_losses(label_tokens(outputs(logits), labels))
    assert torch.equal(gradient(parts.sum(), logits), whole_gradient)
    assert torch.equal(whole, parts)
    assert sizes == [4, 4, 4, 4, 2]


def test_the_models_logits_are_left_as_they_are_and_their_gradient_has_their_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        logits, labels = random_batch([3, 4], 0, dtype=dtype)
        before = logits.detach().clone()
        losses, entropies = token_losses(label_tokens(outputs(logits), labels))
        change = gradient(losses.sum(), logits)
        assert torch.equal(logits.detach(), before)
        assert (losses.dtype, entropies.dtype, change.dtype) == (torch.float32, torch.float32, dtype)


def test_a_batch_without_labels_is_a_zero_that_can_be_differentiated() -> None:
    logits, labels = random_batch([0, 0], 0)
    losses, _ = token_losses(label_tokens(outputs(logits), labels))
    loss = mean_loss(losses, len(losses))
    assert loss.item() == 0
    assert not gradient(loss, logits).any()


def test_the_first_token_of_a_row_is_never_scored() -> None:
    logits, _ = random_batch([3], 0)
    labels = torch.zeros(logits.shape[:2], dtype=torch.int64)
    assert label_tokens(outputs(logits), labels).lengths.tolist() == [logits.shape[1] - 1]


def test_labels_that_do_not_fit_are_refused_with_both_shapes() -> None:
    logits, labels = random_batch([3, 2], 0)
    with pytest.raises(ValueError, match=r"\(2, 8\).*\(2, 9, 11\)"):
        label_tokens(outputs(logits), labels[:, 1:])
    with pytest.raises(ValueError, match="no `labels`"):
        label_tokens(outputs(logits), None)


def _tokens(count: int) -> LabelTokens:
    logits, labels = random_batch([count], 0)
    return label_tokens(outputs(logits), labels)


def test_the_shares_of_a_step_add_up_to_one() -> None:
    counts = (3, 0, 5)
    assert sum(float(share_of_step(_tokens(count), torch.tensor(8))) for count in counts) == 1
    assert float(share_of_step(_tokens(2), 8)) == 0.25
    assert share_of_step(_tokens(2), None) == 1
    assert float(share_of_step(_tokens(0), 0)) == 0


def test_several_gpus_in_one_process_are_refused() -> None:
    with pytest.raises(ValueError, match="torchrun"):
        share_of_step(_tokens(2), torch.tensor([[8], [8]]))
