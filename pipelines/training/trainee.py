"""A model that can be trained, and its losses on rows of token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipelines.training.token_losses import label_tokens, token_losses
from pipelines.training.token_rows import TokenRows
from pipelines.training.weighted import WeightedCollator
from scorers.models.loading import read_model, renderer_of
from scorers.models.rendering import Renderer
from scorers.models.settings import ModelSettings

PASS_TOKENS = {"cpu": 2048, "cuda": 16384}  # most tokens, with padding, that pass a model at once


@dataclass(frozen=True)
class Trainee:
    """A model that can be trained, its tokenizer, and how it reads conversations.

    Attributes:
        model: A transformers model in float32, on its device.
        tokenizer: Its tokenizer.
        renderer: How conversations become its token ids.
        device: "cpu" or "cuda".
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    device: str

    @property
    def pad_token_id(self) -> int:
        """What fills short rows; it is neither attended to nor trained on."""
        own = self.tokenizer.pad_token_id
        return int(own if own is not None else self.tokenizer.eos_token_id or 0)


def load_trainee(settings: ModelSettings) -> Trainee:
    """Loads a model in float32, to be trained.

    Raises:
        ValueError: As scorers/models/loading.py has it: no such model, weights in pickles, code of its own.
    """
    tokenizer, model = read_model(settings.model_copy(update={"device": "auto"}), torch.float32)
    device = "cuda" if torch.cuda.is_available() and settings.device != "cpu" else "cpu"
    model.to(device)
    return Trainee(model, tokenizer, renderer_of(settings, tokenizer, model), device)


@torch.no_grad()
def row_losses(trainee: Trainee, rows: TokenRows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Sum of the losses of each row's trained tokens, nats, and their number, both (rows,); no weights.

    Rows are padded among rows of similar length, at most `PASS_TOKENS` together.
    """
    features = rows.table.select(["input_ids", "labels"]).to_pylist()
    order = np.argsort(-rows.lengths, kind="stable")
    sums, collate = np.zeros(len(features)), WeightedCollator(trainee.pad_token_id)
    trainee.model.eval()
    at = 0
    while at < len(order):
        size = max(1, PASS_TOKENS[trainee.device] // int(rows.lengths[order[at]]))
        part = order[at : at + size]
        batch = {
            name: tensor.to(trainee.model.device)
            for name, tensor in collate([features[i] for i in part]).items()
        }
        outputs = trainee.model(input_ids=batch["input_ids"])  # padding is on the right: no token sees it
        tokens = label_tokens(outputs, batch["labels"])
        losses, _ = token_losses(tokens)
        ends = np.concatenate(([0], np.cumsum(tokens.lengths.cpu().numpy())))
        so_far = np.concatenate(([0.0], np.cumsum(losses.double().cpu().numpy())))
        sums[part] = np.diff(so_far[ends])
        at += size
    return sums, rows.trained


def mean_loss_of(trainee: Trainee, rows: TokenRows) -> float:
    """Nats per trained token over all rows."""
    sums, tokens = row_losses(trainee, rows)
    return float(sums.sum() / tokens.sum())
