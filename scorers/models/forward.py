"""One forward call: token ids in, a few numbers per response token out.

Rows are padded on the right and need no attention mask: a causal model never looks at what comes later.
Only the hidden states that predict response tokens go through the output layer, in chunks, so no tensor
of shape (batch, time, vocabulary) ever exists. Reductions are in float32 from logits shifted by their
maximum, which keeps the digits of small losses and entropies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scorers.base import Output


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One row in one view: `ids` holds the context and then the response.

    Attributes:
        ids: int64, shape (context + response,); the context has at least one token, the response too.
        context: Number of context tokens.
    """

    ids: npt.NDArray[np.int64]
    context: int

    @property
    def input_tokens(self) -> int:
        """Tokens the model reads: all but the last, which is only predicted."""
        return len(self.ids) - 1

    @property
    def response_tokens(self) -> int:
        """Tokens that are scored."""
        return len(self.ids) - self.context


@dataclass(frozen=True, slots=True)
class RowFailure:
    """A row on which the model failed even alone."""

    error: RuntimeError


RowOutputs = dict[Output, npt.NDArray[np.float32]]
"""Each output of one row, shape (response tokens,)."""


@dataclass(frozen=True)
class CausalModel:
    """A causal language model taken apart, so that the output layer runs only where it is needed.

    Attributes:
        body: From ids to hidden states.
        head: The output layer, from hidden states to logits.
        device: Where both are.
        chunk_tokens: Positions that go through the head at a time.
        softcap: `final_logit_softcapping` of Gemma: logits become cap * tanh(logits / cap).
        logit_scale: Cohere's factor, or one over Granite's divisor.
    """

    body: Any
    head: Any
    device: torch.device
    chunk_tokens: int
    softcap: float | None = None
    logit_scale: float | None = None

    def hidden_states(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states, (B, T, D), of ids (B, T)."""
        hidden: torch.Tensor = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, (N, V), in the head's own precision, of hidden states (N, D)."""
        logits: torch.Tensor = self.head(hidden)
        if self.logit_scale is not None:
            logits = logits * self.logit_scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


@torch.inference_mode()
def forward(
    model: CausalModel, rows: Sequence[TokenSequence], outputs: Collection[Output]
) -> list[RowOutputs]:
    """Runs the model once over rows padded to the longest.

    Args:
        model: The model.
        rows: At least one.
        outputs: The outputs wanted; no other is computed.

    Returns:
        The outputs of each row, in order.
    """
    ids, positions, labels = _pad(rows)
    hidden = model.hidden_states(torch.from_numpy(ids).to(model.device))  # (B, T, D)
    hidden = hidden.reshape(-1, hidden.shape[-1])  # (B*T, D)
    hidden = hidden.index_select(0, torch.from_numpy(positions).to(hidden.device))  # (N, D)
    targets = torch.from_numpy(labels).to(hidden.device)  # (N,)
    chunks = [
        reduce_logits(
            model.logits(hidden[at : at + model.chunk_tokens]), targets[at : at + model.chunk_tokens], outputs
        )
        for at in range(0, len(labels), model.chunk_tokens)
    ]
    ends = np.cumsum([row.response_tokens for row in rows])[:-1]
    split = {
        output: np.split(torch.cat([chunk[output] for chunk in chunks]).cpu().numpy(), ends)
        for output in outputs
    }
    return [{output: split[output][row] for output in outputs} for row in range(len(rows))]


def forward_or_fail(
    model: CausalModel, rows: Sequence[TokenSequence], outputs: Collection[Output]
) -> list[RowOutputs | RowFailure]:
    """As `forward`, but a batch that fails is tried again in parts before any row is called failed.

    Out of memory halves the batch; any other RuntimeError sends the rows one by one. Errors that no
    single row can cause, other exceptions among them, are raised.
    """
    try:
        return list(forward(model, rows, outputs))
    except RuntimeError as error:
        if "CUDA error" in str(error):  # the device is lost: every later call would fail too
            raise
        if len(rows) == 1:
            return [RowFailure(error)]
        is_memory = isinstance(error, torch.OutOfMemoryError)
    # Outside the except block, so that the traceback no longer holds the tensors of the failed call.
    if is_memory:
        torch.cuda.empty_cache()
    size = (len(rows) + 1) // 2 if is_memory else 1
    parts = (rows[at : at + size] for at in range(0, len(rows), size))
    return [result for part in parts for result in forward_or_fail(model, part, outputs)]


def reduce_logits(
    logits: torch.Tensor, labels: torch.Tensor, outputs: Collection[Output]
) -> dict[Output, torch.Tensor]:
    """Reduces the logits of some positions to one number each.

    Args:
        logits: (N, V), any floating type; float32 logits are overwritten.
        labels: (N,), the token at each position.
        outputs: The outputs wanted.

    Returns:
        float32 tensors of shape (N,): `logprob` in nats, <= 0; `entropy` in nats, from 0 to log V;
        `top1`, 0 or 1.
    """
    shifted = logits.float()
    reduced: dict[Output, torch.Tensor] = {}
    if "top1" in outputs:
        top, choice = shifted.max(dim=-1)  # ties: the first, which is the lowest id
        reduced["top1"] = (choice == labels).float()
    else:
        top = shifted.amax(dim=-1)
    if "logprob" not in outputs and "entropy" not in outputs:
        return reduced
    shifted = shifted.sub_(top.unsqueeze(-1))  # (N, V)
    at_label = shifted.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    weights = shifted.exp()
    total = weights.sum(dim=-1)
    log_total = total.log()
    if "logprob" in outputs:
        reduced["logprob"] = at_label - log_total
    if "entropy" in outputs:
        mean_logit = weights.mul_(shifted).sum(dim=-1) / total
        reduced["entropy"] = (log_total - mean_logit).clamp_min_(0.0)
    return reduced


def _pad(
    rows: Sequence[TokenSequence],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Padded ids (B, T), flat positions that predict response tokens (N,), and those tokens (N,)."""
    width = max(row.input_tokens for row in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)  # any id pads: nothing looks at it
    positions, labels = [], []
    for number, row in enumerate(rows):
        ids[number, : row.input_tokens] = row.ids[:-1]
        positions.append(np.arange(row.context - 1, row.input_tokens) + number * width)
        labels.append(row.ids[row.context :])
    return ids, np.concatenate(positions), np.concatenate(labels)
