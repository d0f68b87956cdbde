"""From rendered conversations to token ids: which tokens are the model's answer is known, never searched.

The text of a conversation is a row of pieces, in turn context and response (see rendering.py). Each beginning
of the text that ends with a piece is tokenised; where the ids of one are the first ids of the next, as they
are for nearly every row, the rest are the ids of the piece. Where they are not (an answer that begins with a
line break behind a header that ends with one), a token would lie on both sides of the border, and the piece
is tokenised for itself: the model reads the prompt as it would when it answers. Tokenizers that put a blank
before every text are kept from it by a line break in front, whose ids are taken off again.

Text of control tokens in the data is read as plain text (see control_tokens.py); nothing else differs for the
rows that hold some.

The direct view is the responses without what was asked: [BOS], and for each response the header that opens it
and its ids; BOS only where the conversation's ids begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from connectors.examples import Message, response_text
from scorers.models.control_tokens import ControlTextError
from scorers.models.long_rows import (
    CHARS_PER_TOKEN,
    MOST_CHARS_PER_TOKEN,
    conversation_chars,
    shortened,
)
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
        control_text: Whether the data holds text that the tokenizer takes for a control token.
    """

    status: str
    conditional: TokenSequence | None = None
    direct: TokenSequence | None = None
    truncated: bool = False
    message: str = ""
    control_text: bool = False

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

    A conversation far longer than the model reads is cut before (long_rows.py).

    Args:
        renderer: Of the model that will read the ids.
        conversations: Each ends with the response.
        tools: JSON text of each conversation's tool definitions, or None.
        with_direct: Whether the direct view is needed.

    Returns:
        One result for each conversation, in order. What cannot be rendered has a status and a message; the
        tokens of a row that was cut and does not fit are not counted, unless it is kept.
    """
    most = CHARS_PER_TOKEN * renderer.max_tokens
    texts = [shortened(messages, most) for messages in conversations]
    rows = _tokenise_rows(renderer, texts, tools, with_direct)
    for at, (text, whole) in enumerate(zip(texts, conversations, strict=True)):
        row = rows[at]
        if text is whole:
            continue
        if row.status in ("overflow", "all_truncated"):
            rows[at] = replace(row, conditional=None, direct=None, message=_UNCOUNTED.message)
        elif row.status in ("ok", "empty_response") and not row.truncated:  # what was cut may be all blanks
            rows[at] = _tokenise_rows(renderer, [whole], [tools[at]], with_direct)[0]
    return rows


_UNCOUNTED = RowTokens("overflow", message="of so many characters that its tokens were not counted")


def _tokenise_rows(
    renderer: Renderer,
    conversations: Sequence[list[Message]],
    tools: Sequence[str | None],
    with_direct: bool,
) -> list[RowTokens]:
    """As `tokenise_rows`, with every conversation whole."""
    texts = [
        _rendered(renderer, messages, definitions, with_direct)
        for messages, definitions in zip(conversations, tools, strict=True)
    ]
    good = [text for text in texts if isinstance(text, RenderedText)]
    pieces = _piece_ids(renderer, good)
    # A corpus has one header, or a few: the template's text, not the row's.
    unique = sorted({header for text in good for header in text.headers}) if with_direct else []
    plain: _Encode = partial(_tokenise, renderer.tokenizer)
    first = dict(zip(unique, plain(unique), strict=True))  # they open a text
    later = {header: _continuation(plain, header) for header in unique}
    rows = []
    for text, messages in zip(texts, conversations, strict=True):
        if isinstance(text, RowTokens):
            rows.append(text)
            continue
        own_pieces = next(pieces)
        if own_pieces is None:
            message = "the tokenizer makes control tokens of text in the data even when it is plain"
            rows.append(RowTokens("control_text", message=message, control_text=True))
            continue
        own = (
            [(later if at else first)[header] for at, header in enumerate(text.headers)]
            if with_direct
            else None
        )
        row = replace(_assemble(renderer, own_pieces, own), control_text=text.control_text)
        rows.append(_checked(renderer, row, is_empty=not response_text(messages).strip()))
    return rows


def _rendered(
    renderer: Renderer, messages: list[Message], tools: str | None, with_direct: bool
) -> RenderedText | RowTokens:
    """The text of a conversation, or the row as it is without one."""
    if conversation_chars(messages, tools) > MOST_CHARS_PER_TOKEN * renderer.max_tokens:
        return _UNCOUNTED
    try:
        return render(renderer, messages, tools, with_direct)
    except TemplateError as error:
        return RowTokens("template_error", message=str(error))
    except ControlTextError as error:
        return RowTokens("control_text", message=str(error), control_text=True)


_Encode = Callable[[list[str]], list[list[int]]]


def _piece_ids(renderer: Renderer, texts: Sequence[RenderedText]) -> Iterator[list[list[int]] | None]:
    """The ids of each piece of each text; None where text of the data would become a control token."""
    plain: _Encode = partial(_tokenise, renderer.tokenizer)
    # In one call, which fast tokenizers spread over threads.
    together = iter(plain([b for text in texts if text.masked is None for b in accumulate(text.pieces)]))
    for text in texts:
        if text.masked is None:
            yield _split(text.pieces, [next(together) for _ in text.pieces], plain)
            continue
        escaped: _Encode = partial(renderer.control.encode, masked=text.masked)
        try:
            yield _split(text.pieces, escaped(list(accumulate(text.pieces))), escaped)
        except ControlTextError:
            yield None


def _split(pieces: Sequence[str], beginnings: list[list[int]], encode: _Encode) -> list[list[int]]:
    """The ids of each piece, from those of each beginning of the text that ends with a piece."""
    found: list[list[int]] = []
    before: list[int] = []
    for number, (piece, ids) in enumerate(zip(pieces, beginnings, strict=True)):
        if number and ids[: len(before)] != before:
            found.append(_continuation(encode, piece))
            before = before + found[-1]
        else:
            found.append(ids[len(before) :])
            before = ids
    return found


def _continuation(encode: _Encode, text: str) -> list[int]:
    """The ids of a text that follows another."""
    line_break, both, alone = encode(["\n", f"\n{text}", text])
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
    return replace(row, status=status, conditional=cut, direct=direct, truncated=True)


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
