"""Q-Tuning in training: each batch is pruned with the weights of the moment, as the paper has it.

Source: "Winning the Pruning Gamble: A Unified Approach to Joint Sample and Token Pruning for Efficient
SFT", https://arxiv.org/abs/2509.23873. The method, and where paper and code differ, are described in
pipelines/selectors/q_tuning.py, which prunes a whole set before training; this file decides with the same
functions, so that a batch is pruned here as it would be there.

A batch is what one forward pass of one device sees: its rows are compared with each other, so it takes at
least 1 / keep of them, and more is better (the authors use 8, and find 16 and 32 better). Rows must be rows:
packing and `padding_free` make one of the whole batch. Loss and entropy come from the forward pass that
training makes anyway, over the tokens with a label; the loss is the cross-entropy of the kept ones.

    loss = QTuningLoss(keep=0.25, token_keep=0.5)
    Trainer(..., compute_loss_func=loss)

The loss is the mean over the batch's kept tokens, times the batch's share of the label tokens of its step
(before pruning; token_losses.py): without gradient accumulation plainly the mean over kept tokens. The
authors train with 4 accumulated batches, LoRA of rank 8, a learning rate of 1e-4, for 3 epochs; keep of
0.0625 to 0.5, token_keep of 0.5 to 1.

Where the code differs from this: it counts prompt positions, whose loss is 0, in the mean; it takes the
entropy over the prompt too; and its `batch_global` counts prompts as tokens to be kept.

Ours: the share of the step. A loss function sees neither prompt lengths nor ids, so `batch_global` counts
tokens with a label only, and of rows equally far out the one of lower loss is first. A batch of fewer than
1 / keep rows keeps one. A batch with a loss or an entropy that is not finite is not pruned, so that training
shows it as it would without pruning. In evaluation nothing is pruned and the loss is the plain one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from connectors.number_lists import offsets_of
from pipelines.selectors.base import Decisions
from pipelines.selectors.q_tuning import QTuning
from pipelines.selectors.q_tuning_tokens import (
    NeighborPad,
    drop_highest,
    token_scores,
    tokens_to_drop,
)
from pipelines.selectors.tokens import TokenLists, positions
from pipelines.training.token_losses import HasLogits, label_tokens, mean_loss, share_of_step, token_losses
from scorers.base import TokenValues, row_means


@dataclass(slots=True)
class PruningCounts:
    """What a loss has seen and kept in training so far, in this process."""

    rows_seen: int = 0
    rows_kept: int = 0
    tokens_seen: int = 0
    tokens_kept: int = 0


class QTuningLoss:
    """Cross-entropy over what Q-Tuning keeps of each batch, for a Trainer's `compute_loss_func`.

    Args:
        keep: Fraction of the rows of a batch to keep, above 0, at most 1.
        token_keep: Fraction of the label tokens to keep in confident mistakes (Q2), above 0, at most 1.
        smoothing: Weight of a token's neighbours in its score, 0 to 1.
        method: The paper's bisection, which may keep more rows, or the exact number.
        token_budget: Tokens to prune in each Q2 row, or over the batch at the cost of the Q2 rows, which can
            lose all of theirs.
        neighbor_pad: Perplexity of a neighbour that does not exist.

    Attributes:
        counts: Rows and tokens seen and kept; a fresh `PruningCounts()` may be put in its place.

    Raises:
        pydantic.ValidationError: If an option is out of its range.
    """

    def __init__(
        self,
        keep: float,
        token_keep: float = 1.0,
        *,
        smoothing: float = 0.5,
        method: Literal["bisection", "closed_form"] = "bisection",
        token_budget: Literal["per_sample", "batch_global"] = "per_sample",  # noqa: S107 - not a password
        neighbor_pad: NeighborPad = "zero",
    ) -> None:
        self.selector = QTuning(
            keep=keep,
            token_keep=token_keep,
            smoothing=smoothing,
            method=method,
            token_budget=token_budget,
            neighbor_pad=neighbor_pad,
        )
        if keep == 0:
            raise ValueError("q_tuning: keep is 0, a fraction above 0 is needed to train on anything")
        self.counts = PruningCounts()
        self._warned = False

    def __call__(
        self,
        outputs: HasLogits,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean loss of the batch's kept tokens, times the batch's share of its step, nats, shape ().

        Raises:
            ValueError: If there are no labels, or they do not fit the logits.
        """
        tokens = label_tokens(outputs, labels)
        losses, entropies = token_losses(tokens)
        if tokens.in_training:
            offsets = np.concatenate(([0], np.cumsum(tokens.lengths.cpu().numpy())))
            rows, kept = self._prune(
                TokenValues(losses.detach().cpu().numpy(), offsets),
                TokenValues(entropies.cpu().numpy(), offsets),
            )
            self._count(rows, kept)
            losses = losses[torch.from_numpy(kept).to(losses.device)]
        return mean_loss(losses, len(losses)) * share_of_step(tokens, num_items_in_batch)

    def _prune(
        self, nll: TokenValues, entropy: TokenValues
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        if not (np.isfinite(nll.values).all() and np.isfinite(entropy.values).all()):
            return np.diff(nll.offsets) > 0, np.ones(len(nll.values), dtype=np.bool_)
        if len(nll.offsets) == 2 and not self._warned:
            self._warned = True
            warnings.warn(
                "q_tuning: a batch of one row has no others to compare it with. Unless it is the last of an "
                "epoch, raise per_device_train_batch_size, and use neither packing nor padding_free",
                stacklevel=3,
            )
        return prune_batch(self.selector, nll, entropy)

    def _count(self, rows: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_]) -> None:
        self.counts.rows_seen += len(rows)
        self.counts.rows_kept += int(rows.sum())
        self.counts.tokens_seen += len(kept)
        self.counts.tokens_kept += int(kept.sum())


def prune_batch(
    selector: QTuning, nll: TokenValues, entropy: TokenValues
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Decides which rows and tokens of a batch to train on.

    Args:
        selector: Q-Tuning with its options, `keep` among them.
        nll: Loss of each label token, nats, finite; a row without label tokens is never kept.
        entropy: Entropy at each label token, nats, finite, with the same offsets.

    Returns:
        (which rows are kept, bool, (rows,); which tokens are kept, bool, (tokens,)). They do not depend on
        the order of rows, unless some have the same loss and the same entropy.
    """
    lengths = np.diff(nll.offsets)
    if not len(nll.values):
        return np.zeros(len(lengths), dtype=np.bool_), np.zeros(0, dtype=np.bool_)
    keep = max(selector.keep or 0.0, 1 / len(lengths))  # at least one row
    loss, uncertainty = row_means(nll), row_means(entropy)
    table = pa.table({"id": _tie_breakers(loss, uncertainty), "loss": loss, "entropy": uncertainty})
    decisions = selector.model_copy(update={"keep": keep}).decide(table, seed=0)
    kept = np.repeat(decisions.keep, lengths)
    for masks in _token_masks(selector, decisions, nll, keep):
        kept[positions(nll.offsets, masks.rows)] = masks.values
    return decisions.keep, kept


def _tie_breakers(loss: npt.NDArray[np.float64], entropy: npt.NDArray[np.float64]) -> list[str]:
    """Stand-ins for ids, by loss and then entropy, so that the order of rows does not matter."""
    ranks = np.empty(len(loss), dtype=np.int64)
    ranks[np.lexsort((entropy, loss))] = np.arange(len(loss))
    return [f"{rank:08d}" for rank in ranks.tolist()]


def _token_masks(selector: QTuning, decisions: Decisions, nll: TokenValues, keep: float) -> list[TokenLists]:
    """Masks over the label tokens of the rows that lose tokens."""
    from pipelines.selectors.lowest import keep_lowest  # loads Numba, which `batch_global` does not need

    if decisions.prune_tokens is None:
        return []
    lengths = np.diff(nll.offsets)
    rows = np.flatnonzero(decisions.prune_tokens)
    offsets = offsets_of(lengths[rows])
    losses = nll.values[positions(nll.offsets, rows)]
    scored = TokenLists(
        rows, offsets, token_scores(losses, offsets, selector.smoothing, selector.neighbor_pad)
    )
    if selector.token_budget == "per_sample":  # noqa: S105 - tokens of text, not a password
        return [TokenLists(rows, offsets, keep_lowest(scored.values, offsets, selector.token_keep))]
    drop = tokens_to_drop(len(nll.values), int(lengths[~decisions.keep].sum()), keep, selector.token_keep)
    return list(drop_highest(lambda: [scored], drop))
