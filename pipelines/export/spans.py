"""Token masks as spans of characters: which parts of an answer's text are trained on.

A trainer that takes spans tokenises the conversation itself: it finds the answer's text in it, tokenises that
text alone, and marks the tokens that lie within a span. So a mask can be told in spans only where

- the answer's tokens in the conversation begin with those of its text alone,
- no border of a span lies between the bytes of one character, and
- of what the template puts after the text, the first token (the end of the turn) is trained on; what follows
  that one (a line break) no such trainer trains on, and losing it is no loss.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from connectors.examples import Message
from pipelines.export.rows import IGNORED, RunOutput, Unfit
from scorers.models.rendering import Renderer
from scorers.models.tokenising import tokenise_rows


class Span(TypedDict):
    """Characters of a text, both ends included, and whether they are trained on."""

    begin_offset: int
    end_offset: int
    train: bool


UNTELLABLE = "token masks that spans of characters cannot tell"
OTHER_TOKENS = "token masks for tokens that the tokenizer at hand does not make of the conversation"


def run_renderer(run: RunOutput) -> Renderer:
    """From conversations to ids as the run did it; reads the tokenizer of the run's model, not its weights.

    Raises:
        ValueError: If the tokenizer is not at hand.
    """
    from transformers import AutoTokenizer

    from scorers.models.loading import model_folder
    from scorers.models.rendering import choose_template
    from scorers.models.settings import ModelSettings

    recorded = run.manifest["models"][0]
    model = ModelSettings(**{**run.manifest["recipe"]["model"], "revision": recorded.get("revision")})
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_folder(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"token masks become spans of characters by the tokenizer of the run's model, and {model.path!r} "
            f"cannot be read ({error}). Put it there again, or export axolotl-tokenised, which needs none"
        ) from error
    limit = int(recorded.get("max_tokens") or sys.maxsize)
    return Renderer(
        tokenizer=tokenizer,
        template=choose_template(tokenizer, model.chat_template),
        max_tokens=limit,
        on_overflow=model.on_overflow,
        vocabulary=len(tokenizer),
        loss_on=model.loss_on,
        score_end=model.score_end,
        on_control_tokens=model.on_control_tokens,
    )


@dataclass(frozen=True)
class Answer:
    """The tokens of one response in a conversation.

    Attributes:
        ids: Its tokens, the end of the turn included.
        trained: Which of them are trained on.
    """

    ids: list[int]
    trained: list[bool]


def answers(renderer: Renderer, row: dict[str, Any]) -> list[Answer]:
    """The responses of a row with their masks, in order; a row has messages, tools, input_ids and labels.

    Raises:
        Unfit: If the conversation does not have the tokens that were scored.
    """
    (made,) = tokenise_rows(renderer, [row["messages"]], [row["tools"]], with_direct=False)
    ids = np.asarray(row["input_ids"])
    sequence = made.conditional
    if sequence is None or len(sequence.ids) != len(ids) or (sequence.ids != ids).any():
        raise Unfit(OTHER_TOKENS)
    trained = np.asarray(row["labels"]) != IGNORED
    return [
        Answer(ids[run].tolist(), trained[run].tolist())
        for run in np.split(sequence.targets, _breaks(sequence.targets))
    ]


def _breaks(targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where in ascending positions a new run of consecutive ones begins."""
    return np.flatnonzero(np.diff(targets) != 1) + 1


def text_spans(tokenizer: Any, text: str, answer: Answer) -> list[Span]:  # noqa: ANN401 - transformers is untyped
    """Spans of a response's text for its mask; [] when all of it is trained on.

    Raises:
        Unfit: If spans cannot tell the mask.
    """
    if all(answer.trained):
        return []
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    own, offsets = encoded["input_ids"], encoded["offset_mapping"]
    after = answer.trained[len(own) :]
    if not own or answer.ids[: len(own)] != own or not all(after[:1]):
        raise Unfit(UNTELLABLE)
    starts = [start for start, _ in offsets]
    ends = [*starts[1:], len(text)]  # a token is taken to reach to the next one
    starts[0] = 0
    spans = _joined(starts, ends, answer.trained[: len(own)])
    if _read_back(starts, ends, spans) != answer.trained[: len(own)]:
        raise Unfit(UNTELLABLE)  # the mask parts the bytes of one character
    return spans


def _read_back(starts: Sequence[int], ends: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """The mask that a trainer reads from spans: tokens that lie in a trained one.

    A token that ends where it begins, one of the first bytes of a character, lies in the span before it too.
    """
    trained = [span for span in spans if span["train"]]
    return [
        any(span["begin_offset"] <= start and end - 1 <= span["end_offset"] for span in trained)
        for start, end in zip(starts, ends, strict=True)
    ]


def _joined(starts: Sequence[int], ends: Sequence[int], trained: Sequence[bool]) -> list[Span]:
    """Runs of tokens that are, or are not, trained on as spans."""
    spans: list[Span] = []
    for train, tokens in groupby(range(len(starts)), key=lambda at: trained[at]):
        places = list(tokens)
        spans.append(
            {"begin_offset": starts[places[0]], "end_offset": ends[places[-1]] - 1, "train": bool(train)}
        )
    return spans


def turn_spans(renderer: Renderer, row: dict[str, Any]) -> dict[int, list[Span] | None]:
    """Spans for each response of a row by the place of its turn; None for one without a trained token.

    Raises:
        Unfit: If spans cannot tell some mask.
    """
    places = response_places(row["messages"], renderer.loss_on)
    found = answers(renderer, row)
    if len(found) != len(places):
        raise Unfit(UNTELLABLE)
    texts = [row["messages"][at]["content"] for at in places]
    return {
        at: text_spans(renderer.tokenizer, text, answer) if any(answer.trained) else None
        for at, text, answer in zip(places, texts, found, strict=True)
    }


def response_places(messages: Sequence[Message], loss_on: str) -> list[int]:
    """Which turns of a conversation are responses: the last, or every one of the assistant."""
    last = len(messages) - 1
    if loss_on == "last":
        return [last]
    return [at for at, turn in enumerate(messages) if turn["role"] == "assistant" or at == last]
