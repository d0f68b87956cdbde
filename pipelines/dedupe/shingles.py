"""Shingles: from the bytes of an Arrow column to the hashes of each text's n-grams, without Python objects.

Normalisation, in this order: Unicode NFC, lower case (both by Arrow, on texts that are not ASCII), and every
run of white space is one blank. A *word* is

- a run of letters, digits, underscores and combining marks;
- a single character of a script that is written without blanks between words: Chinese, Japanese, Korean,
  Thai, Lao, Khmer and Burmese;
- an operator, one of + * / = < > ^ % & | ~ × ÷ −, and a hyphen before a digit: "3 + 4" and "3 - 4", or
  "a < b" and "a > b", are different texts.

Other punctuation only separates words, as do the tags and variation selectors of the last planes. A text
of fewer words than n has one n-gram, all its words; a text without any word has one, its characters. So
every text has at least one, the empty one included.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import response_text
from connectors.number_lists import one_chunk
from pipelines.dedupe.hashing import BREAK, HYPHEN, LONE, SPACE, WORD, Int64s, UInt8s, UInt64s, hash_rows
from pipelines.dedupe.settings import GramUnit, Scope

_LONE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1100, 0x11FF),  # Hangul
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # Han
    (0x3021, 0x3029),
    (0x3041, 0x3096),  # kana
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x3131, 0x318E),  # Hangul
    (0x31F0, 0x31FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA960, 0xA97C),  # Hangul
    (0xAC00, 0xD7FB),
    (0xF900, 0xFAFF),  # Han
    (0xFF66, 0xFF9F),  # kana
    (0xFFA0, 0xFFDC),  # Hangul
    (0x20000, 0x323AF),  # Han
)
_OPERATORS = "+*/=<>^%&|~\u00d7\u00f7\u2212"
_TABLE_SIZE = 0x323B0  # characters beyond are private use, tags and selectors: breaks


def hash_shingles(
    messages: pa.ChunkedArray, scope: Scope = "both", ngram: int = 5, unit: GramUnit = "word"
) -> tuple[UInt64s, Int64s]:
    """The set of n-grams of each conversation.

    Args:
        messages: The column `messages` of canonical examples.
        scope: The prompt (all before the last turn), the response (the last turn), or both, read as one text
            with a break between turns.
        ngram: Words or characters in a shingle, at least 1.
        unit: Whether n counts words or characters (of which a run of white space is one).

    Returns:
        Hashes of all rows, uint64, shape (m,), those of one row distinct and ascending; and where each row's
        begin and end, int64, shape (rows + 1,).
    """
    return hash_texts(*scope_texts(messages, scope), ngram, unit, distinct=True)


def hash_ngrams(
    messages: pa.ChunkedArray, scope: Scope = "both", ngram: int = 5, *, operators: bool = True
) -> tuple[UInt64s, Int64s]:
    """The word n-grams of each conversation in the order of the text, repeats included.

    The k-th hash of a row is that of its words k to k + ngram (all of them when it has fewer than ngram).
    Without `operators` they only separate words; all else is as in `hash_shingles`.
    """
    return hash_texts(*scope_texts(messages, scope), ngram, distinct=False, operators=operators)


def hash_texts(
    texts: pa.Array,
    spans: Int64s | None = None,
    ngram: int = 5,
    unit: GramUnit = "word",
    *,
    distinct: bool = True,
    operators: bool = True,
) -> tuple[UInt64s, Int64s]:
    """The n-grams of texts, or of runs of consecutive texts.

    Args:
        texts: Strings; null counts as empty.
        spans: First text and end of each row, shape (rows, 2); None: each text is a row.
        ngram: Words or characters in an n-gram.
        unit: What n counts.
        distinct: Each row's hashes once and ascending; False: in text order, repeats included.
        operators: Whether operators are words.

    Returns:
        As `hash_shingles`.
    """
    data, more, starts, stops = _normal_bytes(one_chunk(texts))
    if spans is None:
        bounds = np.arange(len(texts) + 1)
        spans = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return hash_rows(
        data, more, starts, stops, np.ascontiguousarray(spans, np.int64), ngram, unit == "char", distinct,
        character_classes(operators), np.empty(len(data) // 4 + 1, np.uint64),
    )  # fmt: skip


def split_words(text: str, *, operators: bool = True) -> list[str]:
    """The words of a text as Python strings, for the few texts that are shown or compared word by word.

    Without `operators` they only separate words.

    Example:
        >>> split_words("What is 2-3? 你好 well-known")
        ['what', 'is', '2', '-', '3', '你', '好', 'well', 'known']
    """
    classes = character_classes(operators)
    text = unicodedata.normalize("NFC", text).lower()
    words: list[str] = []
    run = ""
    for index, character in enumerate(text):
        kind = classes[ord(character)] if ord(character) < len(classes) else None
        if kind == WORD:
            run += character
            continue
        if run:
            words.append(run)
            run = ""
        if kind == LONE or (kind == HYPHEN and _digit_after(text, index + 1)):
            words.append(character)
    return [*words, run] if run else words


def _digit_after(text: str, at: int) -> bool:
    """Whether a digit follows, after at most one white space; of ASCII both."""
    rest = text[at : at + 2]
    rest = rest[1:] if rest[:1].isascii() and rest[:1].isspace() else rest[:1]
    return rest.isascii() and rest.isdigit()


def _normal_bytes(texts: pa.Array) -> tuple[UInt8s, UInt8s, UInt64s, UInt64s]:
    """UTF-8 bytes of ASCII texts, which are lowered while hashed, and of the others, in NFC and lower case.

    Returns:
        The bytes of the texts as they are; of those that are not ASCII, normal; where each text begins and
        ends, counted on from the first into the second.
    """
    other = pc.invert(pc.string_is_ascii(texts)).fill_null(False)
    data, bounds = _bytes_of(texts)
    starts, stops = bounds[:-1].copy(), bounds[1:].copy()
    lowered = [unicodedata.normalize("NFC", text).lower() for text in texts.filter(other).to_pylist()]
    more, bounds = _bytes_of(pa.array(lowered, pa.large_string()))
    where = np.asarray(other)
    starts[where] = bounds[:-1] + np.uint64(len(data))
    stops[where] = bounds[1:] + np.uint64(len(data))
    return data, more, starts, stops


def _bytes_of(texts: pa.Array) -> tuple[UInt8s, UInt64s]:
    """The UTF-8 bytes of a string array and where each string begins and ends in them; null is empty."""
    _, offsets, data = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    bounds = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1] if offsets else [0]
    first, last = int(bounds[0]), int(bounds[-1])  # of a slice, only its own bytes
    used = np.frombuffer(data or b"\0", np.uint8)[first:last]
    used.flags.writeable = False  # some buffers are, some are not: one type, compiled once
    return used, np.asarray(bounds).astype(np.uint64) - np.uint64(first)


def scope_texts(messages: pa.ChunkedArray, scope: Scope) -> tuple[pa.Array, Int64s]:
    """The turns of all conversations and the span of turns of each that the scope covers."""
    column = one_chunk(messages)
    turns = column.flatten()
    texts = turns.field("content")
    calls = turns.field("tool_calls")
    if calls.null_count < len(calls):  # rare: a turn with tool calls says more than its content
        has_calls = pc.is_valid(calls)
        said = [response_text([turn]) for turn in turns.filter(has_calls).to_pylist()]
        texts = pc.replace_with_mask(texts, has_calls, pa.array(said, pa.string()))
    offsets = (
        np.asarray(column.offsets, np.int64) - column.offsets[0].as_py()
        if len(column)
        else np.zeros(1, np.int64)
    )
    first, end = offsets[:-1], offsets[1:]
    last = np.maximum(end - 1, first)  # a conversation has a turn; if not, nothing is read
    return texts, np.stack(
        {"prompt": (first, last), "response": (last, end), "both": (first, end)}[scope], axis=1
    )


@lru_cache
def character_classes(operators: bool = True) -> UInt8s:
    """Class of each code point below _TABLE_SIZE: break, word, lone word (operators too), hyphen or space."""
    if not operators:
        plain = character_classes().copy()
        plain[[ord(operator) for operator in _OPERATORS + "-"]] = BREAK
        return plain
    classes = np.zeros(_TABLE_SIZE, np.uint8)
    for code in range(0x20000):  # the supplementary ideographs beyond are all in _LONE_RANGES
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "LNM" or character == "_":
            classes[code] = WORD
        elif character.isspace():
            classes[code] = SPACE
    for first, last in _LONE_RANGES:
        chosen = classes[first : last + 1]
        chosen[(chosen == WORD) | (first >= 0x20000)] = LONE
    classes[[ord(operator) for operator in _OPERATORS]] = LONE
    classes[ord("-")] = HYPHEN
    return classes
