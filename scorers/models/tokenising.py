"""From rendered conversations to token ids: which tokens are the model's answer is known, never searched.

The text of a conversation is a row of pieces, in turn context and response (see rendering.py). Each beginning
of the text that ends with a piece is tokenised; where the ids of one are the first ids of the next, as they
are for nearly every row, the rest are the ids of the piece. Where they are not (an answer that begins with a
line break behind a header that ends with one), a token would lie on both sides of the border, and the piece
is tokenised for itself: the model reads the prompt as it would when it answers. Tokenizers that put a blank
before every text are kept from it by a line break in front, whose ids are taken off again.

The direct view is the responses without what was asked: [BOS], and for each response the header that opens it
and its ids; BOS only where the conversation's ids begin with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from connectors.examples import Message, response_text
from scorers.models.rendering import RenderedText, Renderer, TemplateError, render

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One row in one view.

    Attributes:
        ids: Token ids, int64, shape (tokens,).
        targets: Positions in `ids` of the response tokens, ascending, at least 1: int64, shape (targets,).
        counted: Whether each of them counts for the scores of the row, bool, shape (targets,).
    """

    ids: Int64s
    targets: Int64s
    counted: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowTokens:
    """One conversation as token ids.

    Attributes:
        status: A key of `scorers.base.STATUSES`; only "ok" rows reach the model.
        conditional: The response after its prompt; None when the template failed.
        direct: The response alone; None where nothing comes before it, and where it is not needed.
        truncated: The response was cut to fit.
        message: Why the status is not "ok", "" where the status says it all.
    """

    status: str
    conditional: TokenSequence | None = None
    direct: TokenSequence | None = None
    truncated: bool = False
    message: str = ""

    @property
    def whole(self) -> TokenSequence | None:
        """The conversation with every token but the first as a target; None when the template failed."""
        if self.conditional is None:
            return None
        targets = np.arange(1, len(self.conditional.ids))
        return TokenSequence(self.conditional.ids, targets, np.ones(len(targets), np.bool_))

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are not the response's."""
        return 0 if self.conditional is None else len(self.conditional.ids) - self.response_tokens

    @property
    def response_tokens(self) -> int:
        """Tokens of the response, 0 when the status says that there are none."""
        return 0 if self.conditional is None else len(self.conditional.targets)


def tokenise_rows(
    renderer: Renderer,
    conversations: Sequence[list[Message]],
    tools: Sequence[str | None],
    with_direct: bool,
) -> list[RowTokens]:
    """Renders and tokenises conversations, and cuts or drops what does not fit the model.

    Args:
        renderer: Of the model that will read the ids.
        conversations: Each ends with the response.
        tools: JSON text of each conversation's tool definitions, or None.
        with_direct: Whether the direct view is needed.

    Returns:
        One result for each conversation, in order. What cannot be rendered has a status and a message.
    """
    texts: list[RenderedText | TemplateError] = []
    for messages, definitions in zip(conversations, tools, strict=True):
        try:
            texts.append(render(renderer, messages, definitions, with_direct))
        except TemplateError as error:
            texts.append(error)
    good = [text for text in texts if isinstance(text, RenderedText)]
    pieces = _piece_ids(renderer.tokenizer, good)
    # A corpus has one header, or a few: the template's text, not the row's.
    unique = sorted({header for text in good for header in text.headers}) if with_direct else []
    first = dict(zip(unique, _tokenise(renderer.tokenizer, unique), strict=True))  # they open a text
    later = {header: _continuation(renderer.tokenizer, header) for header in unique}
    rows = []
    for text, messages in zip(texts, conversations, strict=True):
        if isinstance(text, TemplateError):
            rows.append(RowTokens("template_error", message=str(text)))
            continue
        own = (
            [(later if at else first)[header] for at, header in enumerate(text.headers)]
            if with_direct
            else None
        )
        row = _assemble(renderer, next(pieces), own)
        rows.append(_checked(renderer, row, is_empty=not response_text(messages).strip()))
    return rows


def _piece_ids(tokenizer: Any, texts: Sequence[RenderedText]) -> Iterator[list[list[int]]]:  # noqa: ANN401 - transformers is untyped
    """The ids of each piece of each text."""
    beginnings = iter(_tokenise(tokenizer, [b for text in texts for b in accumulate(text.pieces)]))
    for text in texts:
        found: list[list[int]] = []
        before: list[int] = []
        for number, piece in enumerate(text.pieces):
            ids = next(beginnings)
            is_prefix = ids[: len(before)] == before
            if number and not is_prefix:
                found.append(_continuation(tokenizer, piece))
                before = before + found[-1]
            else:
                found.append(ids[len(before) :])
                before = ids
        yield found


def _continuation(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401 - transformers is untyped
    """The ids of a text that follows another."""
    line_break, both, alone = _tokenise(tokenizer, ["\n", f"\n{text}", text])
    return both[len(line_break) :] if both[: len(line_break)] == line_break else alone


def _assemble(renderer: Renderer, pieces: list[list[int]], headers: list[list[int]] | None) -> RowTokens:
    """Puts the pieces together, with BOS and EOS where the layout asks for them."""
    bos, eos = renderer.tokenizer.bos_token_id, renderer.tokenizer.eos_token_id
    if renderer.template == "plain":
        pieces[0] = pieces[0] if bos is None else [bos, *pieces[0]]
        pieces[1::2] = [response if eos is None else [*response, eos] for response in pieces[1::2]]
    if not pieces[0]:
        return RowTokens("template_error", message="the template renders nothing before the response")
    row = RowTokens("ok", _sequence(renderer, pieces))
    if headers is None:
        return row
    opening = [bos] if pieces[0][0] == bos != next(iter(headers[0]), None) else []
    contexts = [[*opening, *headers[0]], *headers[1:]]
    if not contexts[0]:
        return row
    alone = [ids for both in zip(contexts, pieces[1::2], strict=True) for ids in both]
    return replace(row, direct=_sequence(renderer, alone))


def _sequence(renderer: Renderer, pieces: Sequence[list[int]]) -> TokenSequence:
    """Context and response pieces, in turn, as one sequence."""
    ids = np.array([token for piece in pieces for token in piece], np.int64)
    ends = np.cumsum([len(piece) for piece in pieces])
    spans = [np.arange(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=True)]
    counted = [_counted(renderer, piece) for piece in pieces[1::2]]
    return TokenSequence(ids, np.concatenate(spans), np.concatenate(counted))


def _counted(renderer: Renderer, response: list[int]) -> npt.NDArray[np.bool_]:
    """All tokens of a response, or, when its end is not scored, those before its closing special tokens."""
    counted = np.ones(len(response), np.bool_)
    if not renderer.score_end:
        special = np.isin(response, renderer.special_ids)
        start = len(response)
        while start and (special[start - 1] or not renderer.tokenizer.decode(response[start - 1]).strip()):
            start -= 1
        closing = np.flatnonzero(special[start:])  # blanks before them are the answer's own
        if len(closing):
            counted[start + closing[0] :] = False
    return counted


def _checked(renderer: Renderer, row: RowTokens, is_empty: bool) -> RowTokens:
    """The row with its status, cut where the recipe keeps rows that are too long."""
    sequence = row.conditional
    if sequence is None:
        return row
    if is_empty or not sequence.counted.any():
        return replace(row, status="empty_response", conditional=_cut(sequence, 0), direct=None)
    highest = max(int(view.ids.max()) for view in (sequence, row.direct) if view is not None)
    if highest >= renderer.vocabulary:
        message = f"token id {highest} is outside the model's {renderer.vocabulary} embeddings"
        return replace(row, status="error", message=message)
    if len(sequence.ids) <= renderer.max_tokens:
        return row
    if renderer.on_overflow == "drop":
        return replace(row, status="overflow")
    left = int(np.searchsorted(sequence.targets, renderer.max_tokens))
    direct = None if row.direct is None or not left else _cut(row.direct, left)
    cut = _cut(sequence, left)
    status = "ok" if cut.counted.any() else "all_truncated"
    return RowTokens(status, cut, direct, truncated=True)


def _cut(sequence: TokenSequence, targets: int) -> TokenSequence:
    """The sequence up to some number of targets; without any, what comes before the first."""
    end = int(sequence.targets[targets - 1]) + 1 if targets else int(sequence.targets[0])
    return TokenSequence(sequence.ids[:end], sequence.targets[:targets], sequence.counted[:targets])


def _tokenise(tokenizer: Any, texts: list[str]) -> list[list[int]]:  # noqa: ANN401 - transformers is untyped
    """Ids of each text, without added special tokens; one call, which fast tokenizers spread over threads."""
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # it warns about texts longer than the model; they get a status here
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def token_id(tokenizer: Any, text: str) -> int:  # noqa: ANN401 - transformers is untyped
    """The id of a text that is one token.

    Raises:
        ValueError: If it is none, or several.
    """
    (ids,) = _tokenise(tokenizer, [text])
    if len(ids) != 1:
        raise ValueError(
            f"{text!r} is {len(ids)} tokens for this model's tokenizer, and its probability as the next "
            "token needs exactly one; give another text, or another model"
        )
    return ids[0]
