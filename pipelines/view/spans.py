"""Texts in pieces, so that a page can mark parts of them: words that an evaluation set has too."""

from __future__ import annotations

import re
from typing import TypedDict


class Piece(TypedDict, total=False):
    """A part of a text.

    `shared` is True in words shared with an evaluation item; `trained` is False in tokens that are not
    trained on; `weight` is that of a token in training. A key is absent where nothing is to be said.
    """

    text: str
    shared: bool
    trained: bool
    weight: float


def shared_pieces(text: str, span: str) -> list[Piece]:
    """A text in pieces, those marked in which the words of `span` stand in sequence.

    Case, punctuation and white space between words do not count, as in the search for shared words.

    Example:
        >>> shared_pieces("How many, in all?", "how many")
        [{'text': 'How many', 'shared': True}, {'text': ', in all?'}]
    """
    words = re.findall(r"\w", span)
    if not words:
        return [{"text": text}] if text else []
    # Words are sought letter by letter: splitting them as the search for duplicates does would load it.
    found = re.compile(r"[\W_]*".join(map(re.escape, words)), re.IGNORECASE)
    pieces: list[Piece] = []
    end = 0
    for match in found.finditer(text):
        pieces.append({"text": text[end : match.start()]})
        pieces.append({"text": match.group(), "shared": True})
        end = match.end()
    pieces.append({"text": text[end:]})
    return [piece for piece in pieces if piece["text"]]
