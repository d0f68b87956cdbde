"""The compiled loops behind pipelines/dedupe/shingles.py: from UTF-8 bytes to hashes of n-grams.

The hash of a word is a multiplication and a shift for each eight of its bytes and each character that is not
ASCII, of an n-gram a polynomial over the hashes of its words modulo 2**64; both end in MurmurHash3's
finalizer. Two words of up to eight ASCII characters never collide; texts can be made to collide.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba.cpython.unsafe.numbers import trailing_zeros

from scorers.compiled import compiled

UInt8s = npt.NDArray[np.uint8]
UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

# Classes of characters.
BREAK, WORD, LONE, HYPHEN, SPACE = range(5)

_START = np.uint64(0xCBF29CE484222325)
_LOW_BITS = np.uint64(0x0101010101010101)  # of each byte
_HIGH_BITS = np.uint64(0x8080808080808080)
_BYTE = np.uint64(0xFF)
_GRAM_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)


@compiled
def mix64(value: np.uint64) -> np.uint64:
    """MurmurHash3's 64-bit finalizer."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled
def fold64(hashed: np.uint64, value: np.uint64) -> np.uint64:
    """One more number into a hash; of one hash, different numbers make different hashes."""
    hashed = (hashed ^ value) * _GRAM_FACTOR
    return hashed ^ (hashed >> np.uint64(32))


@compiled
def _decode(data: UInt8s, at: np.uint64) -> tuple[np.int64, np.uint64]:
    """Code point of the UTF-8 sequence at a byte of 128 or more, and its length in bytes."""
    lead = np.int64(data[at])
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | np.int64(data[at + _ONE]) & 0x3F, np.uint64(2)
    second = np.int64(data[at + _ONE]) & 0x3F
    third = np.int64(data[at + np.uint64(2)]) & 0x3F
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | second << 6 | third, np.uint64(3)
    fourth = np.int64(data[at + np.uint64(3)]) & 0x3F
    return (lead & 0x07) << 18 | second << 12 | third << 6 | fourth, np.uint64(4)


@compiled
def _before_digit(data: UInt8s, at: np.uint64, stop: np.uint64, classes: UInt8s) -> bool:
    """Whether a digit follows, after at most one white space; of ASCII both."""
    if at < stop and data[at] < 128 and classes[data[at]] == SPACE:
        at += _ONE
    return bool(at < stop and 48 <= data[at] <= 57)


@compiled
def _lower(data: UInt8s, start: np.uint64, stop: np.uint64, text: UInt8s) -> None:
    """Copies data[start:stop] to `text`: ASCII letters in lower case, digits and _; 0 for all other bytes.

    Eight zeros follow. The loop has no branch, so the compiler makes it one of vector instructions.
    """
    part = data[start:stop]
    for index in range(len(part)):
        byte = part[index]
        lowered = np.uint8(byte | np.uint8(32))
        letter = np.uint8(lowered - np.uint8(97)) < np.uint8(26)
        digit = np.uint8(byte - np.uint8(48)) < np.uint8(10)
        text[index] = lowered if letter else (byte if digit or byte == np.uint8(95) else np.uint8(0))
    text[len(part) : len(part) + 8] = 0


@compiled
def _eight_bytes(text: UInt8s, at: np.uint64) -> np.uint64:
    """The next eight bytes, the first lowest; the compiler makes it one load."""
    result = np.uint64(text[at])
    for index in range(1, 8):
        result |= np.uint64(text[at + np.uint64(index)]) << np.uint64(8 * index)
    return result


@compiled
def _hash_words(
    data: UInt8s,
    start: np.uint64,
    stop: np.uint64,
    classes: UInt8s,
    text: UInt8s,
    words: UInt64s,
    count: np.uint64,
) -> np.uint64:
    """Appends the hash of each word of data[start:stop] to the `count` there are; returns how many.

    Reads eight bytes at a time: a zero byte is where the word may end. `text` is scratch memory, eight bytes
    longer than the text.
    """
    _lower(data, start, stop, text)
    size = stop - start
    at = np.uint64(0)
    hashed = _START
    inside = False  # of a word
    while at < size:
        eight = _eight_bytes(text, at)
        zeros = (eight - _LOW_BITS) & ~eight & _HIGH_BITS  # the lowest bit set is in the first zero byte
        if zeros == 0:
            hashed = fold64(hashed, eight)
            inside = True
            at += np.uint64(8)
            continue
        if eight & _BYTE != 0:
            hashed = fold64(hashed, eight & ((zeros & (~zeros + _ONE)) - _ONE))
            inside = True
        at += np.uint64(trailing_zeros(zeros)) >> np.uint64(3)
        if at >= size:
            break
        code, length = np.int64(data[start + at]), _ONE
        if code >= 128:
            code, length = _decode(data, start + at)
        kind = classes[code] if code < len(classes) else BREAK
        if kind == WORD:  # not ASCII
            hashed = fold64(hashed, np.uint64(code) | _HIGH_BITS)
            inside = True
        elif inside:
            words[count] = mix64(hashed)
            count += _ONE
            hashed = _START
            inside = False
        if kind == LONE or (kind == HYPHEN and _before_digit(data, start + at + _ONE, stop, classes)):
            words[count] = mix64(np.uint64(code))
            count += _ONE
        at += length
    if inside:
        words[count] = mix64(hashed)
        count += _ONE
    return count


@compiled
def _hash_characters(
    data: UInt8s,
    at: np.uint64,
    stop: np.uint64,
    classes: UInt8s,
    blanks: bool,
    words: UInt64s,
    count: np.uint64,
) -> np.uint64:
    """As `_hash_words` with each character a word; with `blanks` a run of white space is one too."""
    while at < stop:
        code, length = np.int64(data[at]), _ONE
        if code >= 128:
            code, length = _decode(data, at)
        elif 65 <= code <= 90:
            code += 32
        if code < len(classes) and classes[code] == SPACE:
            if blanks and count > 0 and words[count - _ONE] != mix64(np.uint64(32)):
                words[count] = mix64(np.uint64(32))
                count += _ONE
        else:
            words[count] = mix64(np.uint64(code))
            count += _ONE
        at += length
    return count


@compiled
def _hash_grams(words: UInt64s, count: np.int64, ngram: int, grams: UInt64s) -> np.int64:
    """Hashes of the n-grams of `count` words, in order, none of them 0; returns how many."""
    if count <= ngram:
        hashed = np.uint64(0)
        for index in range(count):
            hashed = hashed * _GRAM_FACTOR + words[index]
        grams[0] = max(mix64(hashed), _ONE)
        return np.int64(1)
    leaving = _ONE  # factor of the word that leaves
    for _ in range(ngram):
        leaving *= _GRAM_FACTOR
    hashed = np.uint64(0)
    for index in range(ngram):
        hashed = hashed * _GRAM_FACTOR + words[index]
    grams[0] = max(mix64(hashed), _ONE)
    for index in range(ngram, count):
        hashed = hashed * _GRAM_FACTOR + words[index] - words[index - ngram] * leaving
        grams[index - ngram + 1] = max(mix64(hashed), _ONE)
    return count - ngram + 1


@compiled
def _distinct(hashes: UInt64s, result: UInt64s, table: UInt64s) -> np.int64:
    """Distinct hashes, ascending, at the beginning of `result`; returns how many.

    Hashes are spread evenly, so each goes near the place in a half-empty table that its top bits say; those
    that are in its way move up, in order.

    Args:
        hashes: Shape (n,); none is 0, which marks an empty place.
        result: Shape (n + 1,) at least.
        table: Scratch memory, shape (5 * n + 4,) at least.
    """
    bits = 1
    while (1 << bits) < 2 * len(hashes):
        bits += 1
    shift = np.uint64(64 - bits)
    places = table[: (1 << bits) + len(hashes) + 1]
    places[:] = 0
    for value in hashes:
        place = value >> shift
        held = places[place]
        while held < value and held != 0:
            place += _ONE
            held = places[place]
        if held == value:
            continue
        while held != 0:
            places[place] = value
            value = held
            place += _ONE
            held = places[place]
        places[place] = value
    count = np.uint64(0)
    for held in places:
        result[count] = held
        count += np.uint64(held != 0)
    return np.int64(count)


@compiled
def sort_hashes(hashes: UInt64s, shared_bits: int = 0) -> tuple[UInt64s, Int64s]:
    """Hashes ascending, and where each was; of equal ones the first stays first.

    Hashes are spread evenly, so one pass over their top bits almost does it.

    Args:
        hashes: Numbers, uint64, shape (n,).
        shared_bits: How many top bits are the same in all of them.
    """
    count = len(hashes)
    bits = 1
    while (1 << bits) < count:
        bits += 1
    left, shift = np.uint64(shared_bits), np.uint64(64 - bits)
    starts = np.zeros((1 << bits) + 1, np.int64)
    for value in hashes:
        starts[((value << left) >> shift) + _ONE] += 1
    for index in range(1 << bits):
        starts[index + 1] += starts[index]
    result = np.empty(count, np.uint64)
    positions = np.empty(count, np.int64)
    for position in range(count):
        slot = (hashes[position] << left) >> shift
        result[starts[slot]] = hashes[position]
        positions[starts[slot]] = position
        starts[slot] += 1
    for index in range(1, count):
        value, position = result[index], positions[index]
        before = index - 1
        while before >= 0 and result[before] > value:
            result[before + 1] = result[before]
            positions[before + 1] = positions[before]
            before -= 1
        result[before + 1] = value
        positions[before + 1] = position
    return result, positions


@compiled
def spread_hashes(
    hashes: UInt64s, rows: Int64s, shared_bits: int, bits: int
) -> tuple[UInt64s, Int64s, Int64s]:
    """Hashes in 2**bits ranges, ascending, in each of them as they were.

    Args:
        hashes: Numbers, uint64, shape (n,).
        rows: What goes with each.
        shared_bits: How many top bits are the same in all of them.
        bits: How many of the next bits say the range.

    Returns:
        Hashes; rows; where each range begins, and the end of the last.
    """
    bounds = np.zeros((1 << bits) + 1, np.int64)
    if bits == 0:
        bounds[1] = len(hashes)
        return hashes, rows, bounds
    left, shift = np.uint64(shared_bits), np.uint64(64 - bits)
    for value in hashes:
        bounds[((value << left) >> shift) + _ONE] += 1
    for index in range(1 << bits):
        bounds[index + 1] += bounds[index]
    ends = bounds.copy()
    result, carried = np.empty_like(hashes), np.empty_like(rows)
    for index in range(len(hashes)):
        place = (hashes[index] << left) >> shift
        result[ends[place]] = hashes[index]
        carried[ends[place]] = rows[index]
        ends[place] += 1
    return result, carried, bounds


@compiled
def _text(
    data: UInt8s, more: UInt8s, start: np.uint64, stop: np.uint64
) -> tuple[UInt8s, np.uint64, np.uint64]:
    """The bytes that hold a text, its start and stop in them; numbers beyond `data` count on into `more`."""
    if start < np.uint64(len(data)):
        return data, start, stop
    return more, start - np.uint64(len(data)), stop - np.uint64(len(data))


@compiled
def _hash_row(
    data: UInt8s, more: UInt8s, starts: UInt64s, stops: UInt64s, first: np.int64, end: np.int64, ngram: int,
    characters: bool, classes: UInt8s, scratch: UInt8s, words: UInt64s, grams: UInt64s,
) -> np.int64:  # fmt: skip
    """Hashes of the n-grams of one row of texts, in order; returns how many."""
    count = np.uint64(0)
    blank = mix64(np.uint64(32))
    for text in range(first, end):
        held, start, stop = _text(data, more, starts[text], stops[text])
        if characters:
            if count > 0 and words[count - _ONE] != blank:  # a break between turns
                words[count] = blank
                count += _ONE
            count = _hash_characters(held, start, stop, classes, True, words, count)
        else:
            count = _hash_words(held, start, stop, classes, scratch, words, count)
    if characters and count > 0 and words[count - _ONE] == blank:
        count -= _ONE
    if count == 0:  # no word: the characters are its words, and all of them one n-gram
        for text in range(first, end):
            held, start, stop = _text(data, more, starts[text], stops[text])
            count = _hash_characters(held, start, stop, classes, False, words, count)
        return _hash_grams(words, np.int64(count), int(count), grams)
    return _hash_grams(words, np.int64(count), ngram, grams)


@compiled
def hash_rows(
    data: UInt8s, more: UInt8s, starts: UInt64s, stops: UInt64s, spans: Int64s, ngram: int,
    characters: bool, distinct: bool, classes: UInt8s, result: UInt64s,
) -> tuple[UInt64s, Int64s]:  # fmt: skip
    """See `hash_texts`; `result` is memory for the hashes, replaced when it is too small."""
    longest = np.int64(0)
    for row in range(len(spans)):
        size = np.int64(1)  # n-grams of a row are no more than its bytes and breaks
        for text in range(spans[row, 0], spans[row, 1]):
            size += np.int64(stops[text] - starts[text]) + 1
        longest = max(longest, size)
    scratch = np.empty(longest + 8, np.uint8)
    words = np.empty(longest, np.uint64)
    grams = np.empty(longest, np.uint64)
    table = np.empty(5 * longest + 4, np.uint64)
    bounds = np.zeros(len(spans) + 1, np.int64)
    filled = np.int64(0)
    for row in range(len(spans)):
        found = _hash_row(
            data, more, starts, stops, spans[row, 0], spans[row, 1], ngram, characters, classes, scratch,
            words, grams,
        )  # fmt: skip
        if filled + found >= len(result):
            grown = np.empty(2 * len(result) + found + 1, np.uint64)
            grown[:filled] = result[:filled]
            result = grown
        if distinct:
            filled += _distinct(grams[:found], result[filled:], table)
        else:
            result[filled : filled + found] = grams[:found]
            filled += found
        bounds[row + 1] = filled
    return result[:filled], bounds  # what is left over was never touched, so it takes no memory
