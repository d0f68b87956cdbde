"""Text corpora for the near-duplicate benchmark, as Parquet with the columns `id` and `text`.

    python -m benchmarks.corpus real CORPUS.parquet PATH...           rows of any files that can be read
    python -m benchmarks.corpus synthetic CORPUS.parquet --rows 250000 --seed 0

Texts are written already normalised: Unicode NFC, lower case, words of letters and digits only, separated by
single blanks, each character of a script without blanks a word of its own. So every tool's way of splitting
words gives the same words, and all compare the same shingles. Texts of fewer words than MIN_WORDS are left
out: some tools have no shingle for them and take all of them for copies of one another.

**Synthetic rows** look like instruction data to a program that compares word 5-grams. A row depends on the
seed and its number alone, so a corpus is the beginning of every longer one of the same seed, and any part can
be made on its own. What the numbers below were fitted to:

- words of a row: log-normal, with the mean and standard deviation of the logarithm of the number of words
  of Alpaca (52,002 rows) and of GSM8K (8,792 rows), mixed as these are in number;
- words: Zipf-Mandelbrot, over about as many words as Alpaca has (44,928); the shares of the words of rank 1,
  10, 100, 1,000 and 10,000 and the sum of squared shares are near Alpaca's;
- stock phrases: without them hardly two rows would share a 5-gram. With them, and without copies and
  templates, of all 5-grams in 52,002 rows 9.5 % stand in more than one row (Alpaca 10.0 %), 1.0 % in more
  than ten (1.35 %), 0.12 % in more than a hundred (0.12 %), the commonest in 449 (436);
- prompt templates: three rows in ten begin with one of 50, which is at most half of the row.

One row in four repeats an earlier one: three in ten word for word, the others with as many words replaced as
give a Jaccard similarity between 0.7 and 1, spread evenly, over word 5-grams (a word replaced inside changes
five of them, one of the last words in a row one). That makes a fifth of the rows removable at 0.8: 19.8 % of
25,000, 19.3 % of 250,000. The earlier row is number floor(n * u**1.5) for row n and u uniform, followed back
to one that repeats none, so cluster sizes have a heavy tail; the biggest has 187 rows of 25,000 and 554 of
250,000.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.examples import prompt_text, response_text
from connectors.inputs import InputSpec, find_files
from connectors.readers import read_examples
from pipelines.dedupe.hashing import LONE
from pipelines.dedupe.shingles import character_classes

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
MIN_WORDS = 5
ROWS_AT_ONCE = 16_384

NGRAM = 5  # what the similarity of copies is counted in
LOG_WORDS = ((3.80, 0.757), (4.60, 0.375))  # mean and standard deviation of ln(words): Alpaca, GSM8K
GSM8K_SHARE = 0.145
FEWEST_WORDS, MOST_WORDS = 9, 2000

VOCABULARY = 50_000
ZIPF_SHIFT, ZIPF_EXPONENT = 2.7, 1.15
SHORT_WORDS = 30  # the most frequent words have three letters, the others six

PHRASES, PHRASE_SKEW = 100_000, 2.1  # phrase of rank floor(PHRASES * u ** PHRASE_SKEW)
PHRASE_WORDS, PHRASE_EVERY = 8, 32  # at most one phrase in each stretch of a row
TEMPLATES, TEMPLATE_SKEW, TEMPLATE_SHARE = 50, 2.0, 0.3
TEMPLATE_WORDS = (12, 36)

COPY_SHARE, EXACT_SHARE, LOWEST_SIMILARITY = 0.25, 0.3, 0.7
COPY_SKEW = 1.5

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
(_COPY, _FROM, _EXACT, _SIMILARITY, _SOURCE, _LENGTH, _ANGLE, _TEMPLATE, _WHICH, _WORDS, _PHRASE, _EDIT) = (
    range(1, 13)
)  # streams of random numbers of a row


# --- real texts ---


def real_texts(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields (id, normalised prompt, line break and response) of every example in some files or folders."""
    for path in paths:
        for file in find_files(InputSpec(path=path), Path()):
            for item in read_examples(file):
                if item.kind == "example":
                    messages = item.row["messages"]
                    text = f"{prompt_text(messages)}\n{response_text(messages)}"
                    yield item.row["id"], normal_text(text)


def normal_text(text: str) -> str:
    """A text as words separated by single blanks, which any word splitter splits alike.

    Example:
        >>> normal_text("What's 2+2? 你好!")
        'what s 2 2 你 好'
    """
    return " ".join(_word_pattern().findall(unicodedata.normalize("NFC", text).lower()))


@lru_cache
def _word_pattern() -> re.Pattern[str]:
    lone = np.flatnonzero(character_classes(operators=False) == LONE)
    runs = np.split(lone, np.flatnonzero(np.diff(lone) > 1) + 1)
    ranges = "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)
    return re.compile(rf"(?![\W_])(?:[{ranges}]|[^\W_{ranges}]+)")


# --- synthetic texts ---


def synthetic_texts(seed: int, first: int, end: int) -> pa.Array:
    """The texts of rows `first` to `end` of the synthetic corpus of a seed, strings."""
    rows = np.arange(first, end)
    words, bounds = _row_words(seed, rows)
    return pc.binary_join(pa.ListArray.from_arrays(bounds.astype(np.int32), vocabulary().take(words)), " ")


def _row_words(seed: int, rows: Int64s) -> tuple[Int64s, Int64s]:
    """Word ranks of all rows, and where each row's begin and end."""
    repeated = origins(seed, rows)
    keys = row_keys(seed, repeated)
    words, bounds = words_of(keys, _word_counts(keys))
    edit(words, bounds, row_keys(seed, rows), np.flatnonzero(repeated != rows))
    return words, bounds


def words_of(keys: UInt64s, counts: Int64s) -> tuple[Int64s, Int64s]:
    """The words of texts that depend on their keys alone.

    Args:
        keys: Of the texts, from `row_keys`.
        counts: Words of each text.

    Returns:
        Word ranks of all texts, and where each text's begin, with the end of the last.
    """
    bounds = np.r_[0, np.cumsum(counts)]
    row = np.repeat(np.arange(len(keys)), counts)
    place = np.arange(bounds[-1]) - bounds[row]
    random = draw(keys, _WORDS)[row]
    _add_phrases(random, row, place, keys)
    _add_templates(random, row, place, keys, counts)
    return _zipf_table()[_mix(random) >> np.uint64(44)], bounds


def origins(seed: int, rows: Int64s) -> Int64s:
    """For each row the one it repeats, itself where it repeats none."""
    origins = rows.copy()
    active = np.arange(len(rows))
    while len(active):
        keys = row_keys(seed, origins[active])
        copies = (uniform(keys, _COPY) < COPY_SHARE) & (origins[active] > 0)
        active, keys = active[copies], keys[copies]
        origins[active] = (origins[active] * uniform(keys, _FROM) ** COPY_SKEW).astype(np.int64)
    return origins


def _word_counts(keys: UInt64s) -> Int64s:
    source = (uniform(keys, _SOURCE) < GSM8K_SHARE).astype(np.int64)
    mean, deviation = np.array(LOG_WORDS)[source].T
    radius = np.sqrt(-2 * np.log1p(-uniform(keys, _LENGTH)))  # Box and Muller
    normal = radius * np.cos(2 * np.pi * uniform(keys, _ANGLE))
    words = np.exp(mean + deviation * normal)
    return np.asarray(np.clip(words, FEWEST_WORDS, MOST_WORDS), np.int64)


def _add_phrases(random: UInt64s, row: Int64s, place: Int64s, keys: UInt64s) -> None:
    """Lets words that stand in a stock phrase be drawn by the phrase, the others by row and place."""
    stretch, offset = np.divmod(place, PHRASE_EVERY)
    drawn = _mix(draw(keys, _PHRASE)[row] + stretch.astype(np.uint64) * _GOLDEN)
    begin = (drawn & np.uint64(31)).astype(np.int64) % (PHRASE_EVERY - PHRASE_WORDS + 1)
    inside = (offset >= begin) & (offset < begin + PHRASE_WORDS)
    phrase = (PHRASES * _unit(drawn[inside]) ** PHRASE_SKEW).astype(np.uint64)
    random += place.astype(np.uint64) * _GOLDEN
    random[inside] = draw(phrase, _PHRASE) + (offset - begin)[inside].astype(np.uint64) * _GOLDEN


def _add_templates(random: UInt64s, row: Int64s, place: Int64s, keys: UInt64s, counts: Int64s) -> None:
    """Lets the first words of some rows be drawn by a prompt template."""
    which = (TEMPLATES * uniform(keys, _WHICH) ** TEMPLATE_SKEW).astype(np.uint64)
    low, high = TEMPLATE_WORDS
    length = low + (uniform(which, _TEMPLATE) * (high - low)).astype(np.int64)
    length[(uniform(keys, _TEMPLATE) >= TEMPLATE_SHARE) | (2 * length > counts)] = 0
    inside = place < length[row]
    random[inside] = draw(which, _WHICH)[row[inside]] + place[inside].astype(np.uint64) * _GOLDEN


def edit(words: Int64s, bounds: Int64s, keys: UInt64s, copies: Int64s) -> None:
    """Replaces words of the near copies, so that each keeps the similarity drawn for it.

    A word replaced inside changes NGRAM n-grams, one of the last words in a row one each.
    """
    near = copies[uniform(keys[copies], _EXACT) >= EXACT_SHARE]
    count = np.diff(bounds)[near]
    similarity = 1 - (1 - LOWEST_SIMILARITY) * uniform(keys[near], _SIMILARITY)
    changed = np.round((count - NGRAM + 1) * (1 - similarity) / (1 + similarity)).astype(np.int64)
    inside, tail = np.divmod(changed, NGRAM)
    at_end = np.repeat(bounds[near + 1] - tail, tail) + steps(tail)
    # one place in each of `inside` equal stretches, at least NGRAM words from the next and from the ends
    room = (count - tail - 2 * NGRAM) // np.maximum(inside, 1)
    step = steps(inside)
    drawn = uniform(np.repeat(keys[near], inside) + step.astype(np.uint64), _EDIT)
    jitter = (drawn * np.repeat(room - NGRAM + 1, inside)).astype(np.int64)
    within = np.repeat(bounds[near] + NGRAM, inside) + step * np.repeat(room, inside) + jitter
    places = np.concatenate([at_end, within])
    owners = np.concatenate([np.repeat(near, tail), np.repeat(near, inside)])
    drawn = uniform(keys[owners] + places.astype(np.uint64) - bounds[owners].astype(np.uint64), _EDIT)
    words[places] = VOCABULARY // 2 + (VOCABULARY // 2 * drawn).astype(np.int64)  # words that are rare


def steps(counts: Int64s) -> Int64s:
    """0 to count - 1 for each count, one run after the other."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


@lru_cache
def _zipf_table() -> Int64s:
    """Word ranks in proportion to their frequency, 2**20 of them, to be looked up by 20 random bits."""
    share = (np.arange(VOCABULARY) + 1 + ZIPF_SHIFT) ** -ZIPF_EXPONENT
    middle = (np.arange(2**20) + 0.5) / 2**20
    return np.asarray(np.searchsorted(np.cumsum(share) / share.sum(), middle), np.int64)


@lru_cache
def vocabulary() -> pa.Array:
    """The words by rank: consonant, vowel, consonant; once for the most frequent, otherwise twice."""
    consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiou"
    parts = [a + b + c for a in consonants for b in vowels for c in consonants]
    return pa.array(
        [
            parts[rank] if rank < SHORT_WORDS else parts[rank // len(parts)] + parts[rank % len(parts)]
            for rank in range(VOCABULARY)
        ]
    )


# --- random numbers that depend on nothing but what they are for ---


def _mix(value: UInt64s) -> UInt64s:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def row_keys(seed: int, rows: Int64s) -> UInt64s:
    """The number that everything about a row is drawn from."""
    start = _mix(np.array([seed], np.uint64) + _GOLDEN)
    return _mix(start + rows.astype(np.uint64) * _GOLDEN)


def draw(keys: UInt64s, stream: int) -> UInt64s:
    """The random number of each key in a stream, 64 bits; streams below 32 are those of this file."""
    return _mix(keys + np.array([stream], np.uint64) * _GOLDEN)


def _unit(random: UInt64s) -> Floats:
    """From 0 to less than 1."""
    return (random >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform(keys: UInt64s, stream: int) -> Floats:
    """As `draw`, from 0 to less than 1."""
    return _unit(draw(keys, stream))


# --- files ---


def write_real(path: Path, inputs: Iterable[str]) -> tuple[int, int]:
    """Writes the corpus of some files; returns how many rows it has and how many were too short."""
    rows = short = 0
    texts = real_texts(inputs)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        while part := list(islice(texts, ROWS_AT_ONCE)):
            long = [(row_id, text) for row_id, text in part if text.count(" ") >= MIN_WORDS - 1]
            ids, kept = zip(*long, strict=True) if long else ((), ())
            writer.write_table(
                pa.table([pa.array(ids, pa.string()), pa.array(kept, pa.string())], schema=SCHEMA)
            )
            rows += len(long)
            short += len(part) - len(long)
    return rows, short


def write_synthetic(path: Path, rows: int, seed: int) -> None:
    """Writes the first rows of the synthetic corpus of a seed, in constant memory."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for first in range(0, rows, ROWS_AT_ONCE):
            end = min(first + ROWS_AT_ONCE, rows)
            ids = pa.array([f"synthetic:{row:010d}" for row in range(first, end)])
            writer.write_table(pa.table([ids, synthetic_texts(seed, first, end)], schema=SCHEMA))


def main() -> None:
    """Writes one corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    real = kinds.add_parser("real", help="rows of files that can be read")
    real.add_argument("corpus", type=Path)
    real.add_argument("inputs", nargs="+")
    synthetic = kinds.add_parser("synthetic", help="made rows")
    synthetic.add_argument("corpus", type=Path)
    synthetic.add_argument("--rows", type=int, required=True)
    synthetic.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kind == "real":
        rows, short = write_real(options.corpus, options.inputs)
        print(f"{rows:,} rows; {short:,} of fewer than {MIN_WORDS} words left out")
    else:
        write_synthetic(options.corpus, options.rows, options.seed)


if __name__ == "__main__":
    main()
