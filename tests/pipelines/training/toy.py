"""Batches of random logits, and a small model with a Trainer, for the tests of losses."""

# ruff: noqa: ANN401 - transformers is untyped

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from pipelines.training.token_losses import IGNORED
from tests.draws import draws

# No deadline: a busy machine is no fault of a loss.
EXAMPLES = draws(40)
VOCABULARY = 11

lengths = st.lists(st.integers(0, 7), min_size=1, max_size=12)  # label tokens of each row
seeds = st.integers(0, 2**32 - 1)


def outputs(logits: torch.Tensor, **further: Any) -> Any:
    """What a model gives: only its logits matter here."""
    return SimpleNamespace(logits=logits, **further)


def random_batch(
    label_tokens: Sequence[int], seed: int, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that want a gradient, (rows, time, VOCABULARY), and labels, (rows, time).

    Each row has two prompt tokens, its label tokens with a gap here and there, and padding.
    """
    random = np.random.default_rng(seed)
    time = 2 + 2 * max(label_tokens) + 1
    labels = np.full((len(label_tokens), time), IGNORED)
    for row, count in enumerate(label_tokens):
        at = 2 + np.sort(random.permutation(2 * count)[:count])
        labels[row, at] = random.integers(0, VOCABULARY, count)
    logits = torch.from_numpy(random.normal(0, 2, (*labels.shape, VOCABULARY))).to(dtype)
    return logits.requires_grad_(), torch.from_numpy(labels)


def nll_and_entropy(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Losses and entropies of each row's label tokens in float64, written down plainly."""
    rows = []
    for row_logits, row_labels in zip(logits.detach().double(), labels, strict=True):
        at = (row_labels[1:] != IGNORED).nonzero().squeeze(-1)
        log_p = row_logits[at].log_softmax(-1)
        nll = -log_p[torch.arange(len(at)), row_labels[at + 1]]
        rows.append((nll, -(log_p.exp() * log_p).sum(-1)))
    return rows


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Of a loss by the logits."""
    return torch.autograd.grad(loss, logits)[0]


def tokens_with_gradient(change: torch.Tensor) -> list[tuple[int, int]]:
    """(row, position of the token) of every token whose logits have a gradient."""
    return [(row, at + 1) for row, at in change.abs().sum(-1).nonzero().tolist()]


def model(seed: int = 0) -> Any:
    """A Llama of two layers with random weights, far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def rows(count: int = 32, seed: int = 0) -> list[dict[str, list[int]]]:
    """Training rows: three prompt tokens and two to nine tokens with a label."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = random.integers(3, 64, 3 + random.integers(2, 10)).tolist()
        made.append({"input_ids": ids, "labels": [IGNORED] * 3 + ids[3:]})
    return made


def collate(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Pads on the right."""

    def padded(name: str, fill: int) -> torch.Tensor:
        tensors = [torch.tensor(feature[name]) for feature in features]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=fill)

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": padded("labels", IGNORED)}


class Recorded:
    """A collator that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[dict[str, torch.Tensor]] = []

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(features)
        self.batches.append({name: tensor.clone() for name, tensor in batch.items()})
        return batch


RATE = 0.05


def arguments(folder: Path, **options: Any) -> dict[str, Any]:
    """Plain gradient descent without clipping, so that its steps can be done by hand."""
    return {
        "output_dir": str(folder / "trained"),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    } | options


def trainer(net: Any, folder: Path, *, kind: Any = Trainer, collator: Any = collate, **options: Any) -> Any:
    """A Trainer on 32 rows; `args` are options of TrainingArguments."""
    args = TrainingArguments(**arguments(folder, **options.pop("args", {})))
    return kind(model=net, args=args, train_dataset=rows(), data_collator=collator, **options)


def descend(net: Any, losses: Sequence[torch.Tensor]) -> None:
    """One step of gradient descent on the sum of the losses."""
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(torch.stack(list(losses)).sum(), parameters)
    with torch.no_grad():
        for parameter, change in zip(parameters, gradients, strict=True):
            parameter -= RATE * change


def same_weights(one: Any, other: Any) -> bool:
    """Whether two models have the same weights, up to rounding."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(left, right, atol=1e-6) for left, right in pairs)
