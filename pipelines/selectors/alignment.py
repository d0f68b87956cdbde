"""Longest common subsequences of token ids, of many pairs of answers in compiled loops.

The bit-parallel algorithm of Hyyrö (2004): 64 cells of the textbook's table at a time. Bit i of a state is 0
where the longest common subsequence with the text's first i + 1 tokens is longer than that with its first i.
difflib is no way to do it: its matches are not always longest and depend on the order of the two.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scorers.compiled import compiled

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
UInt64s = npt.NDArray[np.uint64]

_FREE = -1
_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SPREAD = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 over the golden ratio: Knuth's multiplicative hash


class Numbers(NamedTuple):
    """Numbers from 0 for the kinds of tokens in some texts; a hash table with open addressing.

    Attributes:
        tokens: Token of each slot, _FREE where it is free; a power of two of slots.
        numbers: Number of the token in each slot that is not free.
        kinds: How many kinds there are.
    """

    tokens: Ints
    numbers: Ints
    kinds: int


class Text(NamedTuple):
    """Where each kind of token stands in a text.

    Attributes:
        masks: Bit i of row r is set where the text's token i has the number r, (kinds, words).
        has: Whether the text has each kind at all, (kinds,).
        length: Tokens of the text.
    """

    masks: UInt64s
    has: Bools
    length: int


@compiled
def _slot(tokens: Ints, token: int) -> int:
    """The slot of a token, or the free one where it belongs."""
    last = len(tokens) - 1
    slot = int((np.uint64(token) * _SPREAD) >> np.uint64(32)) & last
    while tokens[slot] != token and tokens[slot] != _FREE:
        slot = (slot + 1) & last
    return slot


@compiled
def number_tokens(texts: Ints) -> tuple[Numbers, Ints]:
    """Numbers for the tokens of texts, one text after the other, and the texts in these numbers.

    A group's tokens are numbered once, and then compared many times without a hash.

    Args:
        texts: Token ids from 0.
    """
    slots = 2
    while slots < 2 * len(texts):
        slots *= 2
    tokens, numbers = np.full(slots, _FREE, np.int32), np.empty(slots, np.int32)
    numbered = np.empty(len(texts), np.int32)
    kinds = 0
    for at in range(len(texts)):
        slot = _slot(tokens, texts[at])
        if tokens[slot] == _FREE:
            tokens[slot], numbers[slot] = texts[at], kinds
            kinds += 1
        numbered[at] = numbers[slot]
    return Numbers(tokens, numbers, kinds), numbered


@compiled
def read_text(numbers: Numbers, text: Ints) -> Text:
    """A text, ids from 0, to compare those with that were numbered."""
    masks = np.zeros((numbers.kinds, max(1, (len(text) + 63) >> 6)), np.uint64)
    has = np.zeros(numbers.kinds, np.bool_)
    for at in range(len(text)):
        slot = _slot(numbers.tokens, text[at])
        if numbers.tokens[slot] != _FREE:
            number = numbers.numbers[slot]
            has[number] = True
            masks[number, at >> 6] |= np.uint64(1) << np.uint64(at & 63)
    return Text(masks, has, len(text))


@compiled
def read_states(text: Text, other: Ints) -> UInt64s:
    """The states after each token of the other text, (words, len(other)).

    A word is taken through all tokens before the next one, so that its state stays in a register.
    """
    words = text.masks.shape[1]
    states, carry = np.empty((words, len(other)), np.uint64), np.zeros(len(other), np.uint64)
    for word in range(words):
        state = _ONES
        for there in range(len(other)):
            matched = state & text.masks[other[there], word]
            total = state + matched
            carried = total + carry[there]
            carry[there] = np.uint64(total < matched or carried < total)
            state = carried | (state & ~matched)
            states[word, there] = state
    return states


@compiled
def could_share(text: Text, other: Ints, least: int) -> bool:
    """Whether the text has `least` of the other's tokens in any order, so that it may have them in order."""
    known = 0
    for token in other:
        known += text.has[token]
    return known >= least


@compiled
def common_tokens(states: UInt64s) -> int:
    """Length of a longest common subsequence, by the states that the two texts lead to."""
    length = 0
    if states.shape[1] > 0:
        for state in states[:, -1]:
            rest = ~state
            while rest:
                rest &= rest - np.uint64(1)
                length += 1
    return length


@compiled
def _is_needed(states: UInt64s, at: int, there: int) -> bool:
    """Whether one[at - 1] is needed for the longest common subsequence of one[:at] and other[:there]."""
    return bool(states[(at - 1) >> 6, there - 1] >> np.uint64((at - 1) & 63) & np.uint64(1) == 0)


@compiled
def align(states: UInt64s, count: int) -> Ints:
    """Positions (in the text, in the other) of a longest common subsequence, ascending, shape (length, 2).

    Args:
        states: That the two texts lead to.
        count: Tokens of the text.
    """
    at, there = count, states.shape[1]
    pairs = np.empty((min(at, there), 2), np.int64)
    left = len(pairs)
    while at > 0 and there > 0:
        if not _is_needed(states, at, there):
            at -= 1
        elif there > 1 and _is_needed(states, at, there - 1):
            there -= 1
        else:
            at, there, left = at - 1, there - 1, left - 1
            pairs[left, 0], pairs[left, 1] = at, there
    return pairs[left:]


@compiled
def sensitive_tokens(states: UInt64s, count: int) -> tuple[Bools, Bools]:
    """Which tokens of a right answer a wrong one lacks, and which of the wrong one are not in the right one.

    Where the wrong answer has tokens more and the right one none in their place, the right answer's next
    token counts, or its last.

    Args:
        states: That the right answer, as text, and the wrong one lead to.
        count: Tokens of the right answer.

    Returns:
        bool, one for each token of the right answer, and bool, one for each of the wrong one.
    """
    others = states.shape[1]
    own, theirs = np.ones(count, np.bool_), np.ones(others, np.bool_)
    pairs = align(states, count)
    for pair in pairs:
        own[pair[0]] = theirs[pair[1]] = False
    at, there = -1, -1
    for pair in range(len(pairs) + 1):
        is_end = pair == len(pairs)
        following = count if is_end else pairs[pair, 0]
        beyond = others if is_end else pairs[pair, 1]
        if following - at == 1 and beyond - there > 1 and count > 0:
            own[min(following, count - 1)] = True
        at, there = following, beyond
    return own, theirs


@compiled
def _mean(values: Floats, chosen: Bools) -> float:
    total, count = 0.0, 0
    for at in range(len(values)):
        if chosen[at]:
            total += values[at]
            count += 1
    return total / count


@compiled
def weigh_sensitive(
    rights: Ints,
    starts: Ints,
    stops: Ints,
    ids: Ints,
    nll: Floats,
    bounds: Ints,
    rivals: Ints,
    least: float,
    strength: float,
    temperature: float,
) -> tuple[npt.NDArray[np.float32], Bools]:
    """Weights of the tokens of right answers beside the wrong answer most like each, as fait.py defines them.

    Args:
        rights: Answers to weigh, shape (k,), those of one prompt side by side.
        starts: Where the rivals of each right answer begin in `rivals`, shape (k,).
        stops: Where they end, shape (k,).
        ids: Token ids of all answers, one answer after the other, shape (tokens,).
        nll: Their losses in nats, shape (tokens,).
        bounds: Where the tokens of each answer begin, and where the last ones end, shape (answers + 1,).
        rivals: Wrong answers, those of one prompt side by side.
        least: Similarity below which a wrong answer is no rival.
        strength: λ, at least 0.
        temperature: τ in nats, above 0.

    Returns:
        float32, weights of the tokens of those answers to which a rival gave any, one answer after the other,
        mean 1 each; and bool, shape (k,), which answers these are.
    """
    found = np.zeros(len(rights), np.bool_)
    lengths = bounds[rights + 1] - bounds[rights]
    weights = np.empty(lengths.sum(), np.float32)  # what is not used is never touched
    done = 0
    numbers, others, ends = _numbered(ids, bounds, rivals[:0])
    for row in range(len(rights)):
        if row == 0 or starts[row] != starts[row - 1] or stops[row] != stops[row - 1]:
            numbers, others, ends = _numbered(ids, bounds, rivals[starts[row] : stops[row]])
        here = slice(bounds[rights[row]], bounds[rights[row] + 1])
        text = read_text(numbers, ids[here])
        nearest, states = _most_like(text, others, ends, least)
        if nearest >= 0:
            sensitive, theirs = sensitive_tokens(states, text.length)
            if sensitive.any():
                found[row] = True
                rival = rivals[starts[row] + nearest]
                there = slice(bounds[rival], bounds[rival + 1])
                gap = _mean(nll[here], sensitive) - _mean(nll[there], theirs) if theirs.any() else 0.0
                # tanh is the sigmoid that cannot overflow: sigmoid(x) = (1 + tanh(x / 2)) / 2
                more = strength * (1.0 + math.tanh(gap / temperature / 2.0)) / 2.0
                _spread(weights[done : done + lengths[row]], sensitive, more)
                done += lengths[row]
    return weights[:done], found


@compiled
def _spread(weights: Floats, sensitive: Bools, more: float) -> None:
    """Writes 1 for each token, and `more` on top for a sensitive one, scaled so that the mean is 1."""
    mean = 1.0 + more * sensitive.sum() / len(weights)
    for at in range(len(weights)):
        weights[at] = (1.0 + more * sensitive[at]) / mean


@compiled
def _numbered(ids: Ints, bounds: Ints, rivals: Ints) -> tuple[Numbers, Ints, Ints]:
    """Numbers for the tokens of rivals; the rivals in these; where each begins and the last one ends."""
    ends = np.zeros(len(rivals) + 1, np.int64)
    for at in range(len(rivals)):
        ends[at + 1] = ends[at] + bounds[rivals[at] + 1] - bounds[rivals[at]]
    texts = np.empty(ends[-1], ids.dtype)
    for at in range(len(rivals)):
        texts[ends[at] : ends[at + 1]] = ids[bounds[rivals[at]] : bounds[rivals[at] + 1]]
    numbers, numbered = number_tokens(texts)
    return numbers, numbered, ends


@compiled
def _most_like(right: Text, others: Ints, ends: Ints, least: float) -> tuple[int, UInt64s]:
    """Which of the others, the first of equals, is most like a right answer, and the states they lead to.

    -1 where none is `least` like it.
    """
    nearest, likeness, best = -1, -1.0, np.empty((0, 0), np.uint64)
    for at in range(len(ends) - 1):
        other = others[ends[at] : ends[at + 1]]
        total = max(1, right.length + len(other))  # two empty answers have nothing to weigh
        most = 2.0 * min(right.length, len(other)) / total
        needed = int(max(least, likeness) * total / 2.0)  # rounded down: never more than is needed
        if most < least or most <= likeness or not could_share(right, other, needed):
            continue
        states = read_states(right, other)
        alike = 2.0 * common_tokens(states) / total
        if alike > likeness and alike >= least:
            nearest, likeness, best = at, alike, states
    return nearest, best
