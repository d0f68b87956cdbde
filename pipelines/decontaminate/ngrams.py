"""Which rows share a run of words, or the whole prompt, with an item of an evaluation set.

A row is contaminated by n-gram overlap when n words in sequence (13 unless the recipe says otherwise, as in
Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C) stand in it as they stand in an item's
prompt or in its response. Words are those of pipelines/dedupe/shingles.py without operators: case,
punctuation and white space do not count. Ours:

- an n-gram that more than MAX_ITEMS items of a set have is that set's template and not an item of it;
- a prompt or response of fewer than n words has no n-gram; such a prompt is found by equality only;
- a prompt equals an item's when all its words do, operators too, and it has at least MIN_PROMPT_WORDS; the
  turn before the response counts as well as the whole prompt, so that a system message hides nothing;
- of several hits of a row the one given is the equal prompt, then the largest share of the distinct n-grams
  of the item's prompt or response, then the first set and item. Every hit is checked word by word, so that
  no hash decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.examples import prompt_text, response_text
from pipelines.decontaminate.eval_sets import EvalItem
from pipelines.decontaminate.settings import DecontaminateSettings
from pipelines.dedupe.hashing import Int64s, UInt64s
from pipelines.dedupe.shingles import hash_ngrams, hash_texts, scope_texts, split_words
from scorers.compiled import compiled

MAX_ITEMS = 10
MIN_PROMPT_WORDS = 5
_WHOLE = 2**31  # words in an n-gram that is a whole text
_FILTER_BITS_PER_GRAM = 16


@dataclass(frozen=True)
class Hit:
    """What of a row is in an evaluation set.

    Attributes:
        row: Position of the row.
        item: Position of the item.
        match: "prompt" (the whole prompt), "ngram" or "embedding".
        span: The longest run of shared words, lower case, one blank between words; empty for an embedding.
        share: Share of the distinct n-grams of the item's part that the row has; 1 for a whole prompt; the
            cosine for an embedding.
    """

    row: int
    item: int
    match: str
    span: str
    share: float


class EvalIndex:
    """The n-grams and prompts of all items, ready to be looked up.

    Args:
        items: The items, in the order of the recipe.
        settings: The recipe's `decontaminate` section.
    """

    def __init__(self, items: Sequence[EvalItem], settings: DecontaminateSettings) -> None:
        self.items = items
        self._settings = settings
        # part 2i is the prompt of item i, part 2i + 1 its response
        self._texts = [text for item in items for text in (item.prompt, item.response)]
        grams, parts = self._grams()
        self._grams_sorted, starts = np.unique(grams, return_index=True)
        self._starts = np.append(starts, len(grams))
        self._parts = parts
        self._sizes = np.bincount(parts, minlength=len(self._texts))
        self._filter = _make_filter(self._grams_sorted)
        self._prompts = self._whole_prompts() if settings.exact_prompt else {}

    def _grams(self) -> tuple[UInt64s, Int64s]:
        """(n-gram, part that has it) pairs, ascending; without templates."""
        values, bounds = hash_texts(
            pa.array(self._texts, pa.string()), None, self._settings.ngram, operators=False
        )
        counts = np.diff(bounds)
        parts = np.repeat(np.arange(len(counts)), counts)
        # A part with a single n-gram may be shorter than n words.
        words = {int(part): len(_plain_words(self._texts[part])) for part in np.flatnonzero(counts == 1)}
        short = np.array([part for part, count in words.items() if count < self._settings.ngram], np.int64)
        long_enough = ~np.isin(parts, short)
        values, parts = values[long_enough], parts[long_enough]
        order = np.lexsort((parts, values))
        values, parts = values[order], parts[order]
        own = self._items_with(values, parts) <= MAX_ITEMS
        return values[own], parts[own]

    def _items_with(self, values: UInt64s, parts: Int64s) -> Int64s:
        """For each (n-gram, part) pair, ascending: how many items of the part's set have the n-gram."""
        names = {name: number for number, name in enumerate(dict.fromkeys(i.eval_set for i in self.items))}
        sets = np.array([names[item.eval_set] for item in self.items], np.int64)[parts // 2]
        new_value = np.diff(values, prepend=values[:1]) != 0
        # The items of a set follow each other, so the pairs of one n-gram and set do.
        new_group = new_value | (np.diff(sets, prepend=sets[:1]) != 0)
        new_item = new_group | (np.diff(parts // 2, prepend=-1) != 0)
        group = np.cumsum(new_group)
        return np.asarray(np.bincount(group, weights=new_item)[group], np.int64)

    def _whole_prompts(self) -> dict[int, list[int]]:
        """Hash of each prompt of enough words → the items that have it."""
        values, _ = hash_texts(pa.array([item.prompt for item in self.items], pa.string()), None, _WHOLE)
        found: dict[int, list[int]] = {}
        for item, value in enumerate(values.tolist()):
            if len(split_words(self.items[item].prompt)) >= MIN_PROMPT_WORDS:
                found.setdefault(value, []).append(item)
        return found

    def find(self, messages: pa.ChunkedArray) -> list[Hit]:
        """The contaminated rows among some conversations, ascending, each with its strongest hit."""
        hits = {hit.row: hit for hit in self._prompt_hits(messages)}
        values, bounds = hash_ngrams(messages, self._settings.scope, self._settings.ngram, operators=False)
        positions, grams = _probe(values, self._grams_sorted, self._filter)
        rows = np.searchsorted(bounds, positions, "right") - 1  # ascending
        edges = [*np.flatnonzero(np.diff(rows, prepend=-1)).tolist(), len(rows)]
        for first, end in itertools.pairwise(edges):
            row = int(rows[first])
            if row in hits:
                continue
            hit = self._ngram_hit(row, messages, positions[first:end] - bounds[row], grams[first:end])
            if hit is not None:
                hits[row] = hit
        return [hits[row] for row in sorted(hits)]

    def _prompt_hits(self, messages: pa.ChunkedArray) -> Iterator[Hit]:
        if not self._prompts or self._settings.scope == "response":
            return
        texts, spans = scope_texts(messages, "prompt")
        known = np.array(list(self._prompts), np.uint64)
        last_turn = np.stack([np.maximum(spans[:, 1] - 1, spans[:, 0]), spans[:, 1]], axis=1)
        candidates: dict[int, None] = {}
        # with one turn before each response, both are the same
        for parts in [spans] if np.array_equal(spans, last_turn) else [spans, last_turn]:
            values, _ = hash_texts(texts, parts, _WHOLE)
            candidates |= dict.fromkeys(np.flatnonzero(np.isin(values, known)).tolist())
        for row in candidates:
            turns = _messages_of(messages, row)
            for text in (prompt_text(turns), prompt_text(turns[-2:])):
                item = self._equal_prompt(text)
                if item is not None:
                    yield Hit(row, item, "prompt", " ".join(split_words(text)), 1.0)
                    break

    def _equal_prompt(self, text: str) -> int | None:
        value = int(hash_texts(pa.array([text]), None, _WHOLE)[0][0])
        words = split_words(text)
        same = (i for i in self._prompts.get(value, ()) if split_words(self.items[i].prompt) == words)
        return next(same, None)

    def _ngram_hit(self, row: int, messages: pa.ChunkedArray, at: Int64s, grams: Int64s) -> Hit | None:
        """The strongest n-gram hit of a row.

        Args:
            row: Position of the row.
            messages: All conversations.
            at: First word of each n-gram that is in the index.
            grams: Which n-gram of the index it is.
        """
        distinct = np.unique(grams)
        counts = self._starts[distinct + 1] - self._starts[distinct]
        skipped = np.repeat(self._starts[distinct] - np.cumsum(counts) + counts, counts)
        parts = self._parts[np.arange(len(skipped)) + skipped]  # of each distinct n-gram, one after the other
        owned = np.repeat(distinct, counts)
        found, sizes = np.unique(parts, return_counts=True)
        shares = sizes / self._sizes[found]
        turns = _messages_of(messages, row)
        scope = {"prompt": prompt_text, "response": response_text}.get(self._settings.scope)
        words = _plain_words(scope(turns) if scope else f"{prompt_text(turns)}\n{response_text(turns)}")
        for best in np.lexsort((found, -shares)).tolist():
            part = int(found[best])
            starts = at[np.isin(grams, owned[parts == part])]
            item_words = _plain_words(self._texts[part])
            span = _longest_shared(starts, words, item_words, self._settings.ngram)
            if span:
                return Hit(row, part // 2, "ngram", " ".join(span), float(shares[best]))
        return None


def _plain_words(text: str) -> list[str]:
    return split_words(text, operators=False)


def _messages_of(messages: pa.ChunkedArray, row: int) -> list[Any]:
    turns: list[Any] = messages[row].as_py()
    return turns


def _longest_shared(starts: Int64s, words: list[str], item_words: list[str], ngram: int) -> list[str]:
    """The longest run of words that stands in the item too, the first of equal ones.

    Args:
        starts: First word of each n-gram of the row that seems to be the item's, ascending.
        words: Words of the row.
        item_words: Words of the item.
        ngram: Words in an n-gram.

    Returns:
        The run; empty when not even n words are shared, so that only hashes were equal.
    """
    text = f" {' '.join(item_words)} "
    runs = np.split(starts, np.flatnonzero(np.diff(starts) != 1) + 1)
    best: list[str] = []
    for run in sorted(runs, key=len, reverse=True):
        first, end = int(run[0]), int(run[-1]) + ngram
        if end - first <= len(best):
            break
        best = max(best, _longest_within(words[first:end], text), key=len)
    return best if len(best) >= ngram else []


def _longest_within(run: list[str], text: str) -> list[str]:
    """The longest part of a run that a text has: n-grams that follow each other may stand apart in it."""

    def stands(first: int, end: int) -> bool:
        return f" {' '.join(run[first:end])} " in text

    if stands(0, len(run)):
        return run
    best = (0, 0)
    first = 0
    for end in range(1, len(run) + 1):
        while first < end and not stands(first, end):
            first += 1
        if end - first > best[1] - best[0]:
            best = (first, end)
    return run[best[0] : best[1]]


def _make_filter(grams: UInt64s) -> npt.NDArray[np.uint8]:
    """A bit for each n-gram, by its low bits: nearly all n-grams that are not in the index are told by it."""
    size = 1 << max(10, int(len(grams) * _FILTER_BITS_PER_GRAM).bit_length())
    bits = np.zeros(size, np.bool_)
    bits[(grams & np.uint64(size - 1)).astype(np.int64)] = True
    return np.packbits(bits, bitorder="little")


@compiled
def _probe(values: UInt64s, grams: UInt64s, table: npt.NDArray[np.uint8]) -> tuple[Int64s, Int64s]:
    """Positions of the values that are in `grams` (ascending), and where they are there."""
    mask = np.uint64(len(table) * 8 - 1)
    found = 0
    positions = np.empty(16, np.int64)
    where = np.empty(16, np.int64)
    for index in range(len(values)):
        slot = values[index] & mask
        if not table[slot >> np.uint64(3)] & (1 << (slot & np.uint64(7))):
            continue
        at = np.searchsorted(grams, values[index])
        if at == len(grams) or grams[at] != values[index]:
            continue
        if found == len(positions):
            positions = np.concatenate((positions, np.empty(found, np.int64)))
            where = np.concatenate((where, np.empty(found, np.int64)))
        positions[found] = index
        where[found] = at
        found += 1
    return positions[:found], where[:found]
