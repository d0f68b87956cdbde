"""Words and shingles in plain Python, as pipelines/dedupe/shingles.py describes them."""

from __future__ import annotations

import unicodedata

from pipelines.dedupe.shingles import _LONE_RANGES, _OPERATORS


def words_of(text: str) -> list[str]:
    """The words of a text."""
    text = unicodedata.normalize("NFC", text).lower()
    words: list[str] = []
    run = ""
    for index, character in enumerate(text):
        letter = unicodedata.category(character)[0] in "LNM" or character == "_"
        letter &= ord(character) < 0x20000  # of what lies beyond only ideographs are words
        lone = any(low <= ord(character) <= high for low, high in _LONE_RANGES) and (
            letter or ord(character) >= 0x20000
        )
        if letter and not lone:
            run += character
            continue
        if run:
            words.append(run)
            run = ""
        if lone or character in _OPERATORS or (character == "-" and _digit_after(text, index + 1)):
            words.append(character)
    return [*words, run] if run else words


def _digit_after(text: str, at: int) -> bool:
    rest = text[at : at + 2]
    if rest[:1].isascii() and rest[:1].isspace():
        rest = rest[1:]
    return rest[:1].isascii() and rest[:1].isdigit()


def grams_of(text: str, ngram: int) -> list[tuple[str, ...]]:
    """The n-grams of words in order."""
    words = words_of(text)
    if not words:
        return [tuple(c for c in unicodedata.normalize("NFC", text).lower() if not c.isspace())]
    if len(words) <= ngram:
        return [tuple(words)]
    return [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]


def jaccard_of(a: str, b: str, ngram: int) -> float:
    """True Jaccard similarity of two texts."""
    one, other = set(grams_of(a, ngram)), set(grams_of(b, ngram))
    return len(one & other) / len(one | other)
