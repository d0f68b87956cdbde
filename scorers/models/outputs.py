"""The numbers per token that the output layer's logits are reduced to; a new one is a function and a line.

Logits are shifted by their maximum before anything else, which keeps the digits of small losses and
entropies, and all reductions are in float32. Tensors of the logits' shape live in memory that is used again;
fresh memory for each block would cost as much as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property

import torch

from scorers.base import Output


class Logits:
    """Logits of some positions, and what several outputs share of them, computed when first asked for.

    Args:
        logits: (N, V), any floating type; float32 logits are overwritten.
        labels: (N,), the token at each position.
        scratch: Memory to work in, float32, (2, at least N, V).
    """

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor, scratch: torch.Tensor) -> None:
        self._scratch = scratch[:, : len(logits)]
        values = logits.float()
        self.top = values.amax(dim=-1)  # (N,)
        self.shifted = values.sub_(self.top.unsqueeze(-1))  # (N, V), <= 0
        self.labels = labels.unsqueeze(-1)  # (N, 1)

    @cached_property
    def at_label(self) -> torch.Tensor:
        """Shifted logit of the label, (N,)."""
        return self.shifted.gather(-1, self.labels).squeeze(-1)

    @cached_property
    def weights(self) -> torch.Tensor:
        """Exponentials of the shifted logits: probabilities times `total`, (N, V)."""
        return torch.exp(self.shifted, out=self._scratch[0])

    @cached_property
    def total(self) -> torch.Tensor:
        """Sum of the weights, (N,), at least 1."""
        return self.weights.sum(dim=-1)

    @cached_property
    def log_total(self) -> torch.Tensor:
        """Its logarithm, (N,)."""
        return self.total.log()

    @cached_property
    def mean(self) -> torch.Tensor:
        """Expected shifted logit under the model's own prediction, (N,)."""
        return torch.mul(self.weights, self.shifted, out=self._scratch[1]).sum(dim=-1) / self.total

    @cached_property
    def rank(self) -> torch.Tensor:
        """How many tokens the model prefers to the label, (N,); of equal logits the lower id is preferred."""
        at_label = self.at_label.unsqueeze(-1)
        marks = self._scratch[1]  # summing floats is ten times as fast as summing booleans
        rank = torch.gt(self.shifted, at_label, out=marks).sum(dim=-1)
        equal = torch.eq(self.shifted, at_label, out=marks).sum(dim=-1)
        for row in (equal > 1).nonzero().flatten().tolist():
            rank[row] += marks[row, : self.labels[row, 0]].sum()
        return rank

    @cached_property
    def rest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum, and root of the sum of squares, of all weights but the label's, each (N,)."""
        at_label = self.at_label.exp().unsqueeze(-1)
        self.weights.scatter_(-1, self.labels, 0.0)
        rest = self.weights.sum(dim=-1), torch.linalg.vector_norm(self.weights, dim=-1)
        self.weights.scatter_(-1, self.labels, at_label)
        return rest


def logprob(logits: Logits) -> torch.Tensor:
    """Log-probability of the label, nats, <= 0."""
    return logits.at_label - logits.log_total


def entropy(logits: Logits) -> torch.Tensor:
    """Entropy of the prediction, nats, from 0 to log V."""
    return (logits.log_total - logits.mean).clamp_min_(0.0)


def top1(logits: Logits) -> torch.Tensor:
    """1 where the label is the most probable token, else 0; ties go to the lowest id."""
    return (logits.rank == 0).float()


def top1_logprob(logits: Logits) -> torch.Tensor:
    """Log-probability of the most probable token, nats, <= 0; less that of the label it is the margin."""
    return 0.0 - logits.log_total


def rank(logits: Logits) -> torch.Tensor:
    """Number of tokens the model prefers to the label, from 0 to V - 1."""
    return logits.rank


def el2n(logits: Logits) -> torch.Tensor:
    """Euclidean norm of (probabilities - one-hot label), from 0 to sqrt(2).

    The label is left out of the sums, so that nothing cancels where the model is nearly certain.
    """
    return torch.hypot(*logits.rest) / logits.total


def logit_gap(logits: Logits) -> torch.Tensor:
    """Expected logit less the label's: the inner product of the output weights with their gradient."""
    return logits.mean - logits.at_label


def log_partition(logits: Logits) -> torch.Tensor:
    """Logarithm of the sum of the exponentials of all logits."""
    return logits.log_total + logits.top


REDUCTIONS: dict[Output, Callable[[Logits], torch.Tensor]] = {
    "logprob": logprob,
    "entropy": entropy,
    "top1": top1,
    "top1_logprob": top1_logprob,
    "rank": rank,
    "el2n": el2n,
    "logit_gap": logit_gap,
    "log_partition": log_partition,
}


def reduce_logits(logits: Logits, outputs: Collection[Output]) -> dict[Output, torch.Tensor]:
    """Reduces the logits of some positions to one number each.

    Returns:
        float32 tensors of shape (N,), for the outputs wanted that are numbers per token.
    """
    return {name: reduce(logits).float() for name, reduce in REDUCTIONS.items() if name in outputs}
