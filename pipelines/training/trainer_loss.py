"""A loss of this package in place of the one that a Trainer's class computes itself.

`Trainer(..., compute_loss_func=loss)` needs nothing of this. TRL's SFTTrainer takes a `compute_loss_func`
too, but runs a second forward pass beside it for metrics of its own, and will drop it in TRL 2; its advice is
to override `compute_loss`, which is what this does, for any Trainer:

    class QTuningTrainer(WithLoss, SFTTrainer):
        training_loss = QTuningLoss(keep=0.25, token_keep=0.5)

SFTTrainer then logs no entropy, token accuracy or number of tokens.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch

from pipelines.training.token_losses import HasLogits


class TrainingLoss(Protocol):
    """What `DFTLoss`, `ASFTLoss` and `QTuningLoss` are."""

    def __call__(
        self,
        outputs: HasLogits,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of a batch, scaled by its share of the step."""


class WithLoss:
    """Put before a Trainer class: it trains with `training_loss`, one forward pass per batch."""

    training_loss: ClassVar[TrainingLoss]
    not_for_the_model: ClassVar[frozenset[str]] = frozenset({"labels"})

    # What the Trainer class behind this has.
    args: Any
    accelerator: Any
    get_tp_size: Any
    loss_is_scaled_for_ga: bool | None

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of a batch, with the outputs of the model if they are asked for."""
        features = {name: value for name, value in inputs.items() if name not in self.not_for_the_model}
        outputs = model(**features)
        loss = self.batch_loss(outputs, inputs, num_items_in_batch)
        self.loss_is_scaled_for_ga = num_items_in_batch is not None
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The items were counted on all devices, and gradients are averaged over these.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return (loss, outputs) if return_outputs else loss

    def batch_loss(
        self,
        outputs: HasLogits,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The loss of a batch, scaled by its share of the step; reads `labels` only."""
        return self.training_loss(outputs, inputs.get("labels"), num_items_in_batch)
