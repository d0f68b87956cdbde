"""Which tokens of a kept row are trained on, and how much each weighs, as pieces of its text.

The tokenizer of the run's model makes the conversation's tokens again. Where they are those that were scored,
each lies on some characters of a response; where a response alone has other tokens than in its conversation,
the tokens are turned back into text one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.export.rows import IGNORED, RunOutput
from pipelines.export.spans import response_places, run_renderer
from pipelines.view.spans import Piece
from scorers.models.rendering import Renderer
from scorers.models.tokenising import tokenise_rows

COLUMNS = ("messages", "tools", "input_ids", "labels", "token_weights")
_BROKEN = "\ufffd"  # what a decoder gives for some of the bytes of a character


@dataclass(frozen=True)
class Tokens:
    """The tokens of one response.

    Attributes:
        ids: As scored, the end of the turn included.
        trained: Which of them are trained on.
        weights: What each weighs in training; 1 where the run gave no weights.
    """

    ids: list[int]
    trained: list[bool]
    weights: list[float]


def renderer_of(out: str, manifest: dict[str, Any]) -> Renderer:
    """From conversations to tokens as the run did it.

    Raises:
        ValueError: If the tokenizer of the run's model is not at hand.
    """
    try:
        return run_renderer(RunOutput(Path(out), manifest))
    except ValueError as error:
        name = manifest["models"][0]["name"]
        raise ValueError(
            f"the tokenizer of the run's model {name!r} cannot be read ({error.__cause__ or error}); put it "
            "there again, or start `winnow view` from the folder in which the run was started"
        ) from error


def marked_turns(renderer: Renderer, row: dict[str, Any]) -> dict[int, list[Piece]]:
    """The text of each response in pieces, by the number of its turn.

    Args:
        renderer: See `renderer_of`.
        row: A kept row with the columns COLUMNS.

    Raises:
        ValueError: If the conversation no longer has the tokens that were scored.
    """
    found = response_tokens(renderer, row)
    places = response_places(row["messages"], renderer.loss_on)
    if len(found) != len(places):
        raise ValueError("the responses of this row cannot be told apart in its tokens")
    texts = [row["messages"][at]["content"] for at in places]
    return {
        at: pieces_of(renderer.tokenizer, text, tokens)
        for at, text, tokens in zip(places, texts, found, strict=True)
    }


def response_tokens(renderer: Renderer, row: dict[str, Any]) -> list[Tokens]:
    """The tokens of each response of a row, in order.

    Raises:
        ValueError: If the conversation no longer has the tokens that were scored.
    """
    (made,) = tokenise_rows(renderer, [row["messages"]], [row["tools"]], with_direct=False)
    ids = np.asarray(row["input_ids"])
    sequence = made.conditional
    if sequence is None or not np.array_equal(sequence.ids, ids):
        raise ValueError(
            "the tokenizer at hand does not make the tokens that were scored of this conversation"
        )
    trained = np.asarray(row["labels"]) != IGNORED
    weights = np.asarray(row.get("token_weights") or np.ones(len(ids)), np.float64)
    runs = np.split(sequence.targets, np.flatnonzero(np.diff(sequence.targets) != 1) + 1)
    return [Tokens(ids[run].tolist(), trained[run].tolist(), weights[run].tolist()) for run in runs]


def pieces_of(tokenizer: Any, text: str, tokens: Tokens) -> list[Piece]:  # noqa: ANN401 - transformers is untyped
    """The text of a response in pieces of one mask and weight each."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    own = encoded["input_ids"]
    if own and tokens.ids[: len(own)] == own:
        starts = [0, *(start for start, _ in encoded["offset_mapping"][1:]), len(text)]
        parts = [text[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]
    else:
        parts = decoded(tokenizer, tokens.ids)
    return _joined(parts, tokens)


def decoded(tokenizer: Any, ids: Sequence[int]) -> list[str]:  # noqa: ANN401 - transformers is untyped
    """The text of each token; that of several that share a character stands at the last of them."""
    parts, held = [], list[int]()
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = not text.endswith(_BROKEN)
        parts.append(text if whole else "")
        held = [] if whole else held
    return parts


def _joined(parts: Sequence[str], tokens: Tokens) -> list[Piece]:
    """Neighbours of the same mask and weight as one piece; tokens without text are left out."""
    pieces: list[Piece] = []
    marks = zip(parts, tokens.trained, tokens.weights, strict=False)  # the end of the turn is no text
    for part, trained, weight in marks:
        if not part:
            continue
        last = pieces[-1] if pieces else None
        if last is not None and (last["trained"], last["weight"]) == (trained, weight):
            last["text"] += part
        else:
            pieces.append({"text": part, "trained": trained, "weight": weight})
    return pieces
