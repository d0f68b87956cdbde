"""Weights of rows and tokens in training: the column `weight` and the lists `token_weights` of a run.

No trainer at hand reads them (TRL drops the columns), so there are three small parts here: a collator that
keeps them beside the labels, a loss that uses them, and a mixin that brings both together in a Trainer:

    class WeightedTrainer(WithWeights, SFTTrainer): ...

    WeightedTrainer(
        model=model, train_dataset=rows, data_collator=WeightedCollator(tokenizer.pad_token_id),
        args=SFTConfig(..., max_length=None, remove_unused_columns=False),
    )

The loss is the sum of weight times loss over the label tokens, divided by their number
(`divide_by="tokens"`): a row of weight 0.5 pulls half as hard as one of weight 1, whatever else is in its
batch. `divide_by="weights"` divides by the sum of the batch's weights instead, the weighted mean proper; then
only ratios within a batch count, and in a batch of one row its weight does nothing. With weights of 1 both
are the plain loss. As with the other losses here, a batch counts by its share of the label tokens of its step
(token_losses.py), and evaluation is not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from pipelines.training.token_losses import (
    IGNORED,
    HasLogits,
    label_tokens,
    share_of_step,
    token_losses,
)
from pipelines.training.trainer_loss import WithLoss

WEIGHTS = "token_weights"  # in a batch: the weight of each token, that of its row included
DivideBy = Literal["tokens", "weights"]


@dataclass(frozen=True)
class WeightedCollator:
    """Pads rows of token ids on the right, and makes one weight for each token.

    A row has `input_ids`; `labels` (else all tokens are trained on); `weight`, a number (else 1); and
    `token_weights`, one for each token (else 1). The weight of a token is the product of the two.

    Args:
        pad_token_id: Fills `input_ids`; padding is neither attended to nor trained on.
        pad_to_multiple_of: Rounds the length of a batch up.
    """

    pad_token_id: int
    pad_to_multiple_of: int = 1

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of input_ids, attention_mask, labels (int64) and token_weights (float32), (rows, time).

        Raises:
            ValueError: If a row has not as many labels or weights as tokens.
        """
        ids = [list(feature["input_ids"]) for feature in features]
        labels = [_list(feature, "labels", own) for feature, own in zip(features, ids, strict=True)]
        weights = [_weights(feature, len(own)) for feature, own in zip(features, ids, strict=True)]
        step = self.pad_to_multiple_of
        time = -(-max(map(len, ids)) // step) * step
        return {
            "input_ids": _padded(ids, time, self.pad_token_id, torch.int64),
            "attention_mask": _padded([[1] * len(own) for own in ids], time, 0, torch.int64),
            "labels": _padded(labels, time, IGNORED, torch.int64),
            WEIGHTS: _padded(weights, time, 0.0, torch.float32),
        }


def _list(feature: Mapping[str, Any], name: str, otherwise: list[Any]) -> list[Any]:
    values = feature.get(name)
    if values is None:
        return otherwise
    if len(values) != len(otherwise):
        raise ValueError(
            f"{name}: {len(values)} values for a row of {len(otherwise)} tokens; something cut one and not "
            "the other. Give the trainer's configuration max_length=None, and let no preparation shorten rows"
        )
    return list(values)


def _weights(feature: Mapping[str, Any], tokens: int) -> list[float]:
    row = feature.get("weight")
    row = 1.0 if row is None else float(row)
    return [row * weight for weight in _list(feature, WEIGHTS, [1.0] * tokens)]


def _padded(rows: list[list[Any]], time: int, fill: float, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([row + [fill] * (time - len(row)) for row in rows], dtype=dtype)


def weighted_loss(
    outputs: HasLogits,
    labels: torch.Tensor | None,
    weights: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None = None,
    divide_by: DivideBy = "tokens",
) -> torch.Tensor:
    """Weighted cross-entropy of the batch's label tokens, times its share of the step, nats, shape ().

    Args:
        outputs: What the model gave for the batch.
        labels: int64, (rows, time), -100 where there is none.
        weights: Of each token, (rows, time), at least 0; None: 1 for all.
        num_items_in_batch: Label tokens of all batches of the step; None: this one is the step.
        divide_by: The number of label tokens, or the sum of their weights.

    Raises:
        ValueError: If labels or weights do not fit the logits.
    """
    tokens = label_tokens(outputs, labels)
    losses, _ = token_losses(tokens)
    own = torch.ones_like(losses)
    if weights is not None and tokens.in_training:
        if labels is None or weights.shape != labels.shape:
            raise ValueError(f"{WEIGHTS} of shape {tuple(weights.shape)}: there must be one for each label")
        # Position t - 1 scores token t, and its weight is that of the token.
        after = torch.nn.functional.pad(weights[:, 1:], (0, 1)).to(losses.device, losses.dtype)
        own = after.flatten()[tokens.positions]
    total = own.sum() if divide_by == "weights" else torch.tensor(float(len(own)), device=own.device)
    mean = (own * losses).sum() / torch.where(total > 0, total, 1)
    return mean * share_of_step(tokens, num_items_in_batch)


class WithWeights(WithLoss):
    """Put before a Trainer class: it trains with the weights that WeightedCollator puts into a batch.

    Works for transformers' Trainer and TRL's SFTTrainer, with one forward pass per batch; SFTTrainer then
    logs no entropy, token accuracy or number of tokens. Rows must be rows: no packing, no `padding_free`.
    """

    divide_by: ClassVar[DivideBy] = "tokens"
    not_for_the_model: ClassVar[frozenset[str]] = frozenset({"labels", WEIGHTS})

    def batch_loss(
        self,
        outputs: HasLogits,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The weighted loss of a batch, scaled by its share of the step."""
        labels, weights = inputs.get("labels"), inputs.get(WEIGHTS)
        return weighted_loss(outputs, labels, weights, num_items_in_batch, self.divide_by)
