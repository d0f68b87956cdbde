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

from pipelines.dedupe.compiled import compiled

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
UInt64s = npt.NDArray[np.uint64]

_FREE = -1
_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SPREAD = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2^64 over the golden ratio: Knuth's multiplicative hash


class Positions(NamedTuple):
    """Where each token of a text stands; a hash table with open addressing.

    Attributes:
        tokens: Token of each slot, _FREE where it is free; a power of two of slots.
        number: Row of `masks` of each slot that is not free.
        masks: Bit i of row r is set where the text's token i is that of row r, (tokens, words); rows beyond
            the kinds of tokens are not used.
    """

    tokens: Ints
    number: Ints
    masks: UInt64s


@compiled
def _slot(tokens: Ints, token: int) -> int:
    """The slot of a token, or the free one where it belongs."""
    last = len(tokens) - 1
    slot = int((np.uint64(token) * _SPREAD) >> np.uint64(32)) & last
    while tokens[slot] != token and tokens[slot] != _FREE:
        slot = (slot + 1) & last
    return slot


@compiled
def positions_of(text: Ints) -> Positions:
    """The positions of a text's tokens; ids from 0."""
    slots = 2
    while slots < 2 * len(text):
        slots *= 2
    tokens, number = np.full(slots, _FREE, np.int64), np.empty(slots, np.int64)
    masks = np.zeros((len(text), (len(text) + 63) >> 6), np.uint64)
    kinds = 0
    for at in range(len(text)):
        slot = _slot(tokens, text[at])
        if tokens[slot] == _FREE:
            tokens[slot], number[slot] = text[at], kinds
            kinds += 1
        masks[number[slot], at >> 6] |= np.uint64(1) << np.uint64(at & 63)
    return Positions(tokens, number, masks)


@compiled
def _read(state: UInt64s, text: Positions, token: int) -> bool:
    """Moves the state on by one token of the other text; whether the text has the token."""
    slot = _slot(text.tokens, token)
    if text.tokens[slot] == _FREE:
        return False
    masks, carry = text.masks[text.number[slot]], np.uint64(0)
    for word in range(len(state)):
        matched = state[word] & masks[word]
        total = state[word] + matched
        carried = total + carry
        carry = np.uint64(total < matched or carried < total)
        state[word] = carried | (state[word] & ~matched)
    return True


@compiled
def common_tokens(text: Positions, other: Ints, least: int) -> int:
    """Length of a longest common subsequence of the text and another; -1 once it cannot be `least`."""
    state = np.full(text.masks.shape[1], _ONES, np.uint64)
    spare = len(other) - least
    for token in other:
        if not _read(state, text, token):
            spare -= 1
            if spare < 0:
                return -1
    length = 0
    for word in state:
        rest = ~word
        while rest:
            rest &= rest - np.uint64(1)
            length += 1
    return length


@compiled
def _is_needed(states: UInt64s, at: int, there: int) -> bool:
    """Whether one[at - 1] is needed for the longest common subsequence of one[:at] and other[:there]."""
    return bool(states[there - 1, (at - 1) >> 6] >> np.uint64((at - 1) & 63) & np.uint64(1) == 0)


@compiled
def align(one: Ints, other: Ints) -> Ints:
    """Positions (in one, in other) of a longest common subsequence, ascending, shape (length, 2)."""
    text = positions_of(one)
    words = text.masks.shape[1]
    states = np.empty((len(other), words), np.uint64)
    state = np.full(words, _ONES, np.uint64)
    for there in range(len(other)):
        _read(state, text, other[there])
        states[there] = state
    pairs = np.empty((min(len(one), len(other)), 2), np.int64)
    left = len(pairs)
    at, there = len(one), len(other)
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
def sensitive_tokens(right: Ints, wrong: Ints) -> tuple[Bools, Bools]:
    """Which tokens of a right answer a wrong one lacks, and which of the wrong one are not in the right one.

    Where the wrong answer has tokens more and the right one none in their place, the right answer's next
    token counts, or its last.

    Returns:
        bool, shape (len(right),), and bool, shape (len(wrong),).
    """
    own, theirs = np.ones(len(right), np.bool_), np.ones(len(wrong), np.bool_)
    pairs = align(right, wrong)
    for pair in pairs:
        own[pair[0]] = theirs[pair[1]] = False
    at, there = -1, -1
    for pair in range(len(pairs) + 1):
        is_end = pair == len(pairs)
        following = len(right) if is_end else pairs[pair, 0]
        beyond = len(wrong) if is_end else pairs[pair, 1]
        if following - at == 1 and beyond - there > 1 and len(right) > 0:
            own[min(following, len(right) - 1)] = True
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
        rights: Answers to weigh, shape (k,).
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
    for row in range(len(rights)):
        here = slice(bounds[rights[row]], bounds[rights[row] + 1])
        nearest = _most_like(ids[here], ids, bounds, rivals[starts[row] : stops[row]], least)
        if nearest < 0:
            continue
        there = slice(bounds[nearest], bounds[nearest + 1])
        sensitive, theirs = sensitive_tokens(ids[here], ids[there])
        if not sensitive.any():
            continue
        found[row] = True
        own = weights[done : done + lengths[row]]
        done += lengths[row]
        gap = _mean(nll[here], sensitive) - _mean(nll[there], theirs) if theirs.any() else 0.0
        # tanh is the sigmoid that cannot overflow: sigmoid(x) = (1 + tanh(x / 2)) / 2
        more = strength * (1.0 + math.tanh(gap / temperature / 2.0)) / 2.0
        mean = 1.0 + more * sensitive.sum() / len(own)
        for at in range(len(own)):
            own[at] = (1.0 + more * sensitive[at]) / mean
    return weights[:done], found


@compiled
def _most_like(right: Ints, ids: Ints, bounds: Ints, rivals: Ints, least: float) -> int:
    """The first of the rivals most like a right answer; -1 where none is `least` like it."""
    nearest, likeness = -1, -1.0
    text, is_read = positions_of(right[:0]), False  # read once a rival's length does not rule it out
    for rival in rivals:
        other = ids[bounds[rival] : bounds[rival + 1]]
        total = max(1, len(right) + len(other))  # two empty answers have nothing to weigh
        most = 2.0 * min(len(right), len(other)) / total
        if most < least or most <= likeness:
            continue
        if not is_read:
            text, is_read = positions_of(right), True
        needed = int(max(least, likeness) * total / 2.0)  # rounded down: never more than is needed
        alike = 2.0 * common_tokens(text, other, needed) / total
        if alike > likeness and alike >= least:
            nearest, likeness = rival, alike
    return nearest
