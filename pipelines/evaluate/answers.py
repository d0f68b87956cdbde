"""How often a model's own answers are right: greedy generation, final answers compared by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.training.token_losses import IGNORED
from pipelines.training.token_rows import TokenRows
from pipelines.training.trainee import Trainee
from scorers.correctness import Kind, is_correct

ANSWERS_AT_ONCE = 32


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are checked.

    Attributes:
        kind: How final answers are read and compared, see scorers/correctness.py.
        rows: Most held-out rows that are answered.
        tokens: Most tokens of an answer; one that is cut off counts as it is.
    """

    kind: Kind
    rows: int
    tokens: int


def right_answers(
    trainee: Trainee, rows: TokenRows, gold: Sequence[str | None], settings: AnswerSettings
) -> npt.NDArray[np.float64]:
    """1 for each right answer, 0 for a wrong one or none that could be read, NaN for rows not answered.

    Args:
        trainee: The model.
        rows: Held-out rows; the prompt of each is what comes before its last response.
        gold: The right answer of each row; None: the row is not answered.
        settings: How.
    """
    asked = [at for at, answer in enumerate(gold) if answer is not None][: settings.rows]
    right = np.full(len(gold), np.nan)
    asked.sort(key=lambda at: -int(rows.lengths[at]))
    for start in range(0, len(asked), ANSWERS_AT_ONCE):
        part = asked[start : start + ANSWERS_AT_ONCE]
        texts = _answers(trainee, [_prompt(rows, at) for at in part], settings.tokens)
        for at, text in zip(part, texts, strict=True):
            right[at] = float(is_correct(text, str(gold[at]), settings.kind) is True)
    return right


def _prompt(rows: TokenRows, at: int) -> list[int]:
    """The ids before the last run of labels."""
    labels = np.array(rows.table["labels"][at].as_py())
    ids: list[int] = rows.table["input_ids"][at].as_py()
    before = np.flatnonzero(labels[: np.flatnonzero(labels != IGNORED)[-1]] == IGNORED)
    return ids[: int(before[-1]) + 1]


@torch.no_grad()
def _answers(trainee: Trainee, prompts: Sequence[list[int]], most: int) -> list[str]:
    """What the model says, its most probable token each time."""
    time = max(map(len, prompts))
    pad = trainee.pad_token_id
    ids = torch.tensor([[pad] * (time - len(own)) + own for own in prompts])
    mask = torch.tensor([[0] * (time - len(own)) + [1] * len(own) for own in prompts])
    device = trainee.model.device
    room = max(1, min(most, trainee.renderer.max_tokens - time))
    made = trainee.model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=room, do_sample=False,
        num_beams=1, pad_token_id=pad, eos_token_id=_ends(trainee),
    )  # fmt: skip
    texts: list[str] = trainee.tokenizer.batch_decode(made[:, time:], skip_special_tokens=True)
    return texts


def _ends(trainee: Trainee) -> list[int]:
    """Tokens that end an answer: what the model's own files say, and the tokenizer."""
    own = trainee.model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [own]
    return sorted({end for end in [*ends, trainee.tokenizer.eos_token_id] if end is not None})
