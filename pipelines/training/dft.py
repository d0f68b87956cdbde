"""DFT: each token's loss weighted by the model's own probability of the token.

Source: "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification",
https://arxiv.org/abs/2508.05629, and the authors' code, github.com/yongliang-wu/DFT.

    loss = - (1 / n) Σ_t p_t log p_t,    p_t = p(y_t | y_<t, x) as a weight: no gradient flows through it

over the n response tokens: their number divides, not the sum of the weights. The weight takes away the 1 / p
in the gradient of -log p, so improbable tokens no longer dominate a step. A token's loss is at most 1 / e,
and one of probability near 0 teaches nothing: DFT suits answers with many good paths (reasoning, code), not
facts the model lacks.

Known differences: none for one device. The authors' branch for sequence parallelism never applies the
weights. TRL's SFTTrainer has the same loss built in as `loss_type="dft"`; this one is for any Trainer.
The authors train with a learning rate of 5e-5, batches of 256, for one epoch.

Ours: in evaluation the loss is the plain one (token_losses.py).

    Trainer(..., compute_loss_func=DFTLoss())
"""

from __future__ import annotations

import torch

from pipelines.training.token_losses import HasLogits, label_tokens, mean_loss, share_of_step, token_losses


def dft_losses(losses: torch.Tensor) -> torch.Tensor:
    """Token losses times the token's probability, which counts as a constant.

    Args:
        losses: Negative log-likelihood of each token, nats, (tokens,).

    Returns:
        Nats, (tokens,), from 0 to 1 / e; its gradient is p times that of `losses`.

    Example:
        >>> dft_losses(-torch.tensor([0.5, 0.1]).log())  # 0.5 log 2, 0.1 log 10
        tensor([0.3466, 0.2303])
    """
    return losses * (-losses.detach()).exp()


class DFTLoss:
    """The loss of dynamic fine-tuning, for a Trainer's `compute_loss_func`."""

    def __call__(
        self,
        outputs: HasLogits,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean weighted loss of the batch's label tokens, times its share of the step, nats, shape ()."""
        tokens = label_tokens(outputs, labels)
        losses, _ = token_losses(tokens)
        if tokens.in_training:
            losses = dft_losses(losses)
        return mean_loss(losses, len(losses)) * share_of_step(tokens, num_items_in_batch)
