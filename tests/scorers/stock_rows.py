"""Conversations as the rows of well-known families: as marked text, and as ids with an independent border."""

# ruff: noqa: ANN401 - fields of Renderer have any type

from __future__ import annotations

import re
from typing import Any

from connectors.examples import Message, message
from scorers.models.rendering import render
from scorers.models.tokenising import RowTokens, tokenise_rows
from tests.scorers.stock_templates import family_renderer, family_tokenizer
from tests.scorers.toy_models import pair

FIRST = pair("Where is Paris?", "In France.")
SECOND = pair("And Rome?", "In Italy.")
SYSTEM = [message("system", "Be brief.")]


def tokenise(name: str, turns: list[Message], tools: str | None = None, **changes: Any) -> RowTokens:
    """One conversation as a family's ids; `changes` are fields of Renderer."""
    (row,) = tokenise_rows(family_renderer(name, **changes), [turns], [tools], with_direct=True)
    return row


def marked(name: str, turns: list[Message], tools: str | None = None, **changes: Any) -> str:
    """The rendered text with ⟦ and ⟧ around each response."""
    text = render(family_renderer(name, **changes), turns, tools, with_headers=True)
    pieces = map(text.masked.restore, text.pieces) if text.masked else text.pieces
    return "".join(f"⟦{piece}⟧" if at % 2 else piece for at, piece in enumerate(pieces))


def ids_of(name: str, text: str) -> list[int]:
    """As a trainer tokenises rendered text."""
    ids: list[int] = family_tokenizer(name)(re.sub("[⟦⟧]", "", text), add_special_tokens=False)["input_ids"]
    return ids


def response_positions(name: str, text: str) -> list[int]:
    """Which tokens of the text begin inside ⟦ and ⟧."""
    opens = [at - 2 * number for number, at in enumerate(m.start() for m in re.finditer("⟦", text))]
    closes = [at - 2 * number - 1 for number, at in enumerate(m.start() for m in re.finditer("⟧", text))]
    encoded = family_tokenizer(name)(
        re.sub("[⟦⟧]", "", text), add_special_tokens=False, return_offsets_mapping=True
    )
    spans = list(zip(opens, closes, strict=True))
    starts = [start for start, _ in encoded["offset_mapping"]]
    return [at for at, start in enumerate(starts) if any(low <= start < high for low, high in spans)]


def decode(name: str, ids: Any) -> str:
    """Ids of a family as text, special tokens included."""
    return str(family_tokenizer(name).decode(list(ids)))
