"""Loss and entropy of every label token of a batch, and what the losses of this package share.

A label of -100 is ignored, and the logits at position t - 1 score the token at t. The logits of a language
model are its largest tensor by far; here they are read in chunks of positions, and no float32 copy of them is
ever made. The backward pass writes the one gradient of the logits' own shape and precision that training
needs, at the positions that a loss uses.

The losses are called as `transformers.Trainer(compute_loss_func=...)` calls them: with the outputs of the
model, the labels, and the number of label tokens of all batches whose gradients are accumulated into one
step, over all devices. Each returns its mean over the tokens it uses, times the batch's share of those label
tokens (`share_of_step`): the shares of a step add up to one, so a step is a mean however it is split, which
is what a Trainer expects of a `compute_loss_func`. When nothing is accumulated, the share is one.

Outside training, where logits carry no gradient, every loss is the plain mean over the label tokens, so that
evaluation losses can be compared from method to method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from scorers.models.outputs import Logits, entropy, logprob

IGNORED = -100  # the label of a token that is not trained on
CHUNK_VALUES = 2**24  # of a float32 tensor of logits: 64 MiB


class HasLogits(Protocol):
    """Outputs of a causal language model: logits of shape (rows, time, vocabulary)."""

    @property
    def logits(self) -> torch.Tensor:
        """The logits."""


@dataclass(frozen=True, slots=True)
class LabelTokens:
    """The tokens of a batch that have a label, row after row.

    Attributes:
        logits: All logits, (rows * time, vocabulary), in the model's precision.
        positions: Which of them score each token, int64, (tokens,).
        labels: The tokens, int64, (tokens,).
        lengths: Tokens of each row, int64, (rows,); 0 for a row without labels.
    """

    logits: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    lengths: torch.Tensor

    @property
    def in_training(self) -> bool:
        """Whether a gradient is wanted; it is not in evaluation."""
        return self.logits.requires_grad


def label_tokens(outputs: HasLogits, labels: torch.Tensor | None) -> LabelTokens:
    """Finds the label tokens of a batch and the logits that score them.

    Args:
        outputs: What the model gave for the batch.
        labels: int64, (rows, time), -100 where there is none. The first of a row has no logits before it.

    Raises:
        ValueError: If there are no labels, or their shape is not that of the logits.
    """
    if labels is None:
        raise ValueError("the batch has no `labels`: use a data collator that returns them")
    logits = outputs.logits
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}: there "
            "must be one for each position (no virtual tokens, and `logits_to_keep` left alone)"
        )
    labels = labels.to(logits.device)
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    has_label = targets != IGNORED
    positions = has_label.flatten().nonzero().squeeze(-1)
    return LabelTokens(
        logits.reshape(-1, logits.shape[-1]),
        positions,
        targets.flatten()[positions],
        has_label.sum(dim=-1),
    )


def token_losses(tokens: LabelTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and entropy of each label token.

    Returns:
        (negative log-likelihood, differentiable once; entropy of the prediction, without gradient), nats,
        float32, each (tokens,).
    """
    losses, entropies = _TokenLosses.apply(tokens.logits, tokens.positions, tokens.labels)
    return losses, entropies


class _TokenLosses(torch.autograd.Function):
    """Cross-entropy and entropy at some positions; the gradient of the former is p - onehot(label)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no type for it
        logits: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(logits, positions, labels)
        losses = torch.empty(len(positions), dtype=torch.float32, device=logits.device)
        entropies = torch.empty_like(losses)
        size = min(chunk_size(logits), len(positions))
        scratch = torch.empty(2, size, logits.shape[-1], dtype=torch.float32, device=logits.device)
        for chunk in chunks(logits, torch.arange(len(positions), device=logits.device)):
            part = Logits(logits[positions[chunk]], labels[chunk], scratch)
            losses[chunk] = -logprob(part)
            entropies[chunk] = entropy(part)
        ctx.mark_non_differentiable(entropies)
        return losses, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401
        logits, positions, labels = ctx.saved_tensors
        result = torch.zeros_like(logits)
        for chunk in chunks(logits, gradient.nonzero().squeeze(-1)):
            at = positions[chunk]
            part = logits[at].softmax(dim=-1, dtype=torch.float32)
            part[torch.arange(len(chunk), device=part.device), labels[chunk]] -= 1
            result[at] = part.mul_(gradient[chunk].unsqueeze(-1)).to(result.dtype)
        return result, None, None


def chunk_size(logits: torch.Tensor) -> int:
    """Positions whose logits (…, vocabulary) are worked on at a time."""
    return max(1, CHUNK_VALUES // logits.shape[-1])


def chunks(logits: torch.Tensor, index: torch.Tensor) -> Iterator[torch.Tensor]:
    """The parts of an index (n,), as long as `chunk_size` allows; none of an empty one."""
    return (chunk for chunk in torch.split(index, chunk_size(logits)) if len(chunk))


def mean_loss(losses: torch.Tensor, count: int) -> torch.Tensor:
    """Sum of `losses` over `count`; 0, still part of the graph, where there is nothing to count."""
    return losses.sum() / max(count, 1)


def share_of_step(tokens: LabelTokens, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """The batch's share of the label tokens of its optimiser step, from 0 to 1.

    Args:
        tokens: The label tokens of the batch.
        num_items_in_batch: Label tokens of all batches of the step, as a Trainer counts them; None: this one
            batch is the step.

    Raises:
        ValueError: If several GPUs share one process, where a Trainer's count is not of what the loss sees.
    """
    if num_items_in_batch is None:
        return 1.0
    total = torch.as_tensor(num_items_in_batch, device=tokens.logits.device)
    if total.numel() != 1:
        raise ValueError(
            "several GPUs share this process (torch.nn.DataParallel): start one process for each with "
            "torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES to one"
        )
    return len(tokens.labels) / total.reshape(()).clamp(min=1)
