"""Prompt overlap: how much of what a response says its prompt has said.

    overlap = |words of the response that the prompt has| / |words of the response|

over distinct words of four letters and more, and numbers, in lower case. Range 0 to 1. Direction: a low value
marks an answer that takes up nothing of its question, as one to another question does; a high one a copy. For
open questions it is low by nature.

Ours; no published method (the lexical overlap of retrieval, without weights).
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\d+|[^\W\d_]{4,}")


def prompt_overlap(prompt: str, response: str) -> float | None:
    """Share of the response's words that the prompt has; None for a response without such words.

    Example:
        >>> prompt_overlap("How many eggs are left?", "There are 12 eggs.")
        0.3333333333333333
        >>> prompt_overlap("Are you there?", "No.") is None
        True
    """
    asked, said = (set(_WORD.findall(text.lower())) for text in (prompt, response))
    return len(asked & said) / len(said) if said else None
