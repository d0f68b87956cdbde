"""ASFT: DFT held near a reference model by the divergence of their predictions.

Source: "Anchored Supervised Fine-Tuning", https://arxiv.org/abs/2509.23753, and the authors' code,
github.com/zhuchichi56/ASFT.

    loss = (1 / n) Σ_t [ - p_t log p_t + λ KL(p_ref(. | t) || p(. | t)) ]

over the n response tokens, p_t a constant as in DFT (dft.py). Higher λ holds the model nearer to the
reference: the model before training, or its base with the LoRA adapters switched off. λ is 0.1 in the code
and 0.05 in its README. The authors train with a learning rate of 2e-5, batches of 64, for 3 epochs.

Known differences: none in the formula. The code leaves the divergence out silently when the reference's
logits have another length; here that is an error.

Ours: a `compute_loss_func` sees the outputs of the model but not the inputs, so `add_reference` hangs the
reference on the model itself: whenever the model runs in training, its reference runs on the same inputs,
without gradients, and its logits are added to the outputs. That works in any Trainer, and under
DistributedDataParallel; it costs one forward pass and one more tensor of logits.

    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    add_reference(model, reference)              # or add_reference(peft_model): its base, adapters off
    Trainer(model, ..., compute_loss_func=ASFTLoss())

In evaluation the loss is the plain one (token_losses.py) and the reference does not run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from pipelines.training.dft import dft_losses
from pipelines.training.token_losses import (
    HasLogits,
    LabelTokens,
    chunks,
    label_tokens,
    mean_loss,
    share_of_step,
    token_losses,
)

REFERENCE_LOGITS = "reference_logits"  # where add_reference puts them in the outputs


class ASFTLoss:
    """The loss of anchored fine-tuning, for a Trainer's `compute_loss_func`.

    Args:
        kl_weight: λ, >= 0; 0 is DFT, and needs no reference.

    Raises:
        ValueError: If λ is negative or not finite.
    """

    def __init__(self, kl_weight: float = 0.1) -> None:
        if not 0 <= kl_weight < float("inf"):
            raise ValueError(f"kl_weight: {kl_weight} found, a finite number >= 0 is needed")
        self.kl_weight = kl_weight

    def __call__(
        self,
        outputs: HasLogits,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Mean loss of the batch's label tokens, times its share of the step, nats, shape ().

        Raises:
            ValueError: If the outputs hold no logits of a reference, or of another shape.
        """
        tokens = label_tokens(outputs, labels)
        losses, _ = token_losses(tokens)
        if tokens.in_training:
            losses = dft_losses(losses)
            if self.kl_weight > 0:
                losses = losses + self.kl_weight * reference_kl(tokens, _reference_logits(outputs))
        return mean_loss(losses, len(losses)) * share_of_step(tokens, num_items_in_batch)


def _reference_logits(outputs: HasLogits) -> torch.Tensor:
    reference = getattr(outputs, REFERENCE_LOGITS, None)
    if reference is None:
        raise ValueError(
            "the outputs of the model hold no logits of a reference: call "
            "pipelines.training.asft.add_reference(model, reference) before training"
        )
    if reference.shape != outputs.logits.shape:
        raise ValueError(
            f"the reference gives logits of shape {tuple(reference.shape)} and the model of shape "
            f"{tuple(outputs.logits.shape)}: it must have the same vocabulary"
        )
    kept: torch.Tensor = reference
    return kept


def reference_kl(tokens: LabelTokens, reference: torch.Tensor) -> torch.Tensor:
    """KL(p_ref || p) at each label token: how far the prediction has moved from the reference's.

    Args:
        tokens: The label tokens of the batch.
        reference: Logits of the reference for the same batch, (rows, time, vocabulary).

    Returns:
        Nats, float32, (tokens,), >= 0 up to rounding, 0 where the predictions are the same; differentiable
        once, by the model's logits.
    """
    flat = reference.reshape(-1, reference.shape[-1])
    divergences: torch.Tensor = _ReferenceKL.apply(tokens.logits, flat, tokens.positions)
    return divergences


class _ReferenceKL(torch.autograd.Function):
    """KL(p_ref || p) at some positions; its gradient by the model's logits is p - p_ref."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no type for it
        logits: torch.Tensor,
        reference: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, reference, positions)
        divergences = torch.empty(len(positions), dtype=torch.float32, device=logits.device)
        for chunk in chunks(logits, torch.arange(len(positions), device=logits.device)):
            at = positions[chunk]
            ours = logits[at].log_softmax(dim=-1, dtype=torch.float32)
            theirs = reference[at].log_softmax(dim=-1, dtype=torch.float32)
            ratio = (theirs - ours).masked_fill_(theirs.isneginf(), 0.0)  # what the reference rules out
            divergences[chunk] = theirs.exp_().mul_(ratio).sum(dim=-1)
        return divergences

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401
        logits, reference, positions = ctx.saved_tensors
        result = torch.zeros_like(logits)
        for chunk in chunks(logits, gradient.nonzero().squeeze(-1)):
            at = positions[chunk]
            part = logits[at].softmax(dim=-1, dtype=torch.float32)
            part -= reference[at].softmax(dim=-1, dtype=torch.float32)
            result[at] = part.mul_(gradient[chunk].unsqueeze(-1)).to(result.dtype)
        return result, None, None


def add_reference(model: torch.nn.Module, reference: torch.nn.Module | None = None) -> RemovableHandle:
    """Adds the logits of a reference to the outputs of each forward pass that wants a gradient.

    Args:
        model: The model that is trained, before or after it is given to a Trainer.
        reference: A model with the same vocabulary; it is frozen and set to evaluation mode here, and moves
            to the device of the model's logits. None: the model with its adapters switched off, for a
            `peft.PeftModel`. Dropout in such a base, if it has any, acts on the reference too.

    Returns:
        A handle; its `remove()` takes the reference off again.

    Raises:
        ValueError: If there is no reference and the model has no adapters to switch off.
    """
    if reference is None and not hasattr(model, "disable_adapter"):
        raise ValueError(
            f"{type(model).__name__} has no adapters to switch off: give the reference model, "
            "or train with LoRA adapters (peft.get_peft_model)"
        )
    if reference is not None:
        reference.requires_grad_(False).eval()

    def hook(
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: Any,  # noqa: ANN401 - a ModelOutput, which is untyped
    ) -> None:
        if not torch.is_grad_enabled() or "logits" not in outputs:
            return  # evaluation, the base run by this very hook, or a pass that TRL makes for its metrics
        with torch.no_grad():
            logits = _run(module, reference, outputs.logits.device, args, kwargs)
        outputs[REFERENCE_LOGITS] = logits

    return model.register_forward_hook(hook, with_kwargs=True)


def _run(
    module: Any,  # noqa: ANN401 - a PeftModel where there is no reference
    reference: Any,  # noqa: ANN401
    device: torch.device,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> torch.Tensor:
    if reference is None:
        with module.disable_adapter():
            outputs = module(*args, **kwargs)
    else:
        if next(reference.parameters()).device != device:  # a quantised model refuses to be moved anywhere
            reference.to(device)
        outputs = reference(*args, **kwargs)
    logits: torch.Tensor = outputs.logits
    return logits
