"""Synthetic instruction data of any size as JSON lines or Parquet, in as many files as asked for.

    python -m benchmarks.instructions FOLDER --rows 10000000 --rows-per-file 500000
    python -m benchmarks.instructions --compare DATA          lengths beside those of real sets

Rows have an instruction and an output, made of the words, stock phrases, templates and copies of
benchmarks/corpus.py, and lie in one folder for each of three sources. A row depends on the seed and its
number alone, so a smaller corpus is the beginning of a larger one, and memory is constant. What is added:

- lengths of instruction and output in words: the quantiles of Alpaca, of GSM8K and of OpenAssistant's English
  trees, one source for each, interpolated in the logarithm;
- rivals: three rows in twenty answer the prompt of an earlier row; which one is drawn as for copies, so the
  number of answers to a prompt has a heavy tail;
- copies as there: one row in four repeats an earlier row, three in ten of them word for word.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.corpus import (
    ROWS_AT_ONCE,
    Floats,
    Int64s,
    UInt64s,
    draw,
    edit,
    origins,
    row_keys,
    uniform,
    vocabulary,
    words_of,
)
from connectors.examples import prompt_text, response_text
from connectors.inputs import InputSpec, find_files
from connectors.readers import read_examples

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Lengths:
    """Quantiles, at SHARES, of the words of instructions and outputs, and the real set that has them."""

    share: float  # of the rows
    instruction: tuple[int, ...]
    output: tuple[int, ...]
    real: str


SOURCES: Mapping[str, Lengths] = MappingProxyType(
    {
        "general": Lengths(
            0.6,
            (6, 6, 9, 11, 16, 29, 56, 300),
            (1, 1, 9, 30, 69, 122, 202, 800),
            "alpaca/alpaca_data.json.gz",
        ),
        "maths": Lengths(
            0.25, (12, 23, 33, 42, 54, 79, 100, 180), (5, 18, 32, 47, 66, 102, 136, 300), "gsm8k/train.jsonl"
        ),
        "chat": Lengths(
            0.15, (6, 6, 17, 56, 162, 430, 665, 1500), (2, 11, 41, 91, 193, 357, 562, 1500), "openassistant"
        ),
    }
)
NAMES = tuple(SOURCES)

RIVAL_SHARE, RIVAL_SKEW = 0.15, 1.5
_RIVAL, _OF, _SET, _ASKED, _ANSWERED, _RESPONSE = range(32, 38)  # streams of random numbers of a row

SCHEMA = pa.schema([("instruction", pa.string()), ("output", pa.string())])


def instructions(seed: int, first: int, end: int) -> tuple[Int64s, pa.Table]:
    """Rows `first` to `end` of a seed: the number of each one's source in NAMES, and the table of SCHEMA."""
    rows = np.arange(first, end)
    repeated = origins(seed, rows)
    asked = prompts_of(seed, repeated)
    prompts, answers = row_keys(seed, asked), draw(row_keys(seed, repeated), _RESPONSE)
    source = _sources(prompts)
    counts = np.stack([_words(prompts, source, _ASKED), _words(answers, source, _ANSWERED)], axis=1)
    words, bounds = words_of(np.stack([prompts, answers], axis=1).ravel(), counts.ravel())
    edit(words, bounds[::2], row_keys(seed, rows), np.flatnonzero(repeated != rows))
    lists = pa.ListArray.from_arrays(bounds.astype(np.int32), vocabulary().take(words))
    texts = pc.binary_join(lists, " ")
    both = [texts.take(np.arange(at, len(texts), 2)) for at in (0, 1)]
    return source, pa.Table.from_arrays(both, schema=SCHEMA)


def prompts_of(seed: int, rows: Int64s) -> Int64s:
    """For each row that repeats none the row whose prompt it answers, itself where it is no rival."""
    asked = rows.copy()
    active = np.arange(len(rows))
    while len(active):
        keys = row_keys(seed, asked[active])
        rivals = (uniform(keys, _RIVAL) < RIVAL_SHARE) & (asked[active] > 0)
        active, keys = active[rivals], keys[rivals]
        earlier = (asked[active] * uniform(keys, _OF) ** RIVAL_SKEW).astype(np.int64)
        asked[active] = origins(seed, earlier)
    return asked


def _sources(keys: UInt64s) -> Int64s:
    ends = np.cumsum([own.share for own in SOURCES.values()])
    return np.asarray(np.searchsorted(ends[:-1], uniform(keys, _SET), side="right"), np.int64)


def _words(keys: UInt64s, source: Int64s, stream: int) -> Int64s:
    """Words of each instruction or output."""
    share: Floats = uniform(keys, stream)
    counts = np.zeros(len(keys), np.int64)
    for number, own in enumerate(SOURCES.values()):
        quantiles = own.instruction if stream == _ASKED else own.output
        here = source == number
        counts[here] = np.round(np.exp(np.interp(share[here], SHARES, np.log(quantiles))))
    return counts


# --- files ---


class _Files:
    """The files of one source, of at most `rows_per_file` rows each."""

    def __init__(self, folder: Path, rows_per_file: int, kind: Literal["jsonl", "parquet"]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rows_per_file = rows_per_file
        self._kind = kind
        self._number = self._held = 0
        self._open: BinaryIO | pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Appends rows, to a new file where one is full."""
        while table.num_rows:
            part = table.slice(0, self._rows_per_file - self._held)
            table = table.slice(part.num_rows)
            self._write(part)
            self._held += part.num_rows
            if self._held == self._rows_per_file:
                self.close()

    def _write(self, table: pa.Table) -> None:
        if self._open is None:
            path = self._folder / f"{self._number:05d}.{self._kind}"
            self._open = pq.ParquetWriter(path, SCHEMA) if self._kind == "parquet" else path.open("wb")
        if isinstance(self._open, pq.ParquetWriter):
            self._open.write_table(table)
        else:
            self._open.write(json_lines(table))

    def close(self) -> None:
        """Ends the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None
            self._number += 1
            self._held = 0


def json_lines(table: pa.Table) -> bytes:
    """The rows as JSON lines; their words have no character that JSON escapes."""
    lines = pc.binary_join_element_wise(
        '{"instruction": "', table["instruction"], '", "output": "', table["output"], '"}\n', ""
    )
    return "".join(lines.to_pylist()).encode()


def write_instructions(
    folder: Path,
    rows: int,
    seed: int = 0,
    rows_per_file: int = 500_000,
    kind: Literal["jsonl", "parquet"] = "jsonl",
) -> None:
    """Writes the first rows of a seed under FOLDER/SOURCE/, in constant memory."""
    with ExitStack() as stack:
        files = [_Files(folder / name, rows_per_file, kind) for name in NAMES]
        for own in files:
            stack.callback(own.close)
        for first in range(0, rows, ROWS_AT_ONCE):
            source, table = instructions(seed, first, min(first + ROWS_AT_ONCE, rows))
            for number, own in enumerate(files):
                own.add(table.filter(pa.array(source == number)))


# --- beside real sets ---


def compare(data: Path, rows: int = 100_000) -> Iterator[str]:
    """Yields a Markdown table of lengths in words: each real set and, below it, the source made after it."""
    source, table = instructions(0, 0, rows)
    made = [np.array([len(text.split()) for text in table[name].to_pylist()]) for name in SCHEMA.names]
    percents = (5, 25, 50, 75, 95, 99)
    yield "| rows | words of | mean | " + " | ".join(f"{p} %" for p in percents) + " |"
    yield "|---|---|" + "--:|" * (len(percents) + 1)
    for number, (name, own) in enumerate(SOURCES.items()):
        for at, column in enumerate(SCHEMA.names):
            here = made[at][source == number]
            for label, words in ((own.real, _real_words(data / own.real)[at]), (f"made: {name}", here)):
                numbers = " | ".join(f"{value:.0f}" for value in np.percentile(words, percents))
                yield f"| {label} | {column} | {words.mean():.1f} | {numbers} |"


def _real_words(path: Path) -> tuple[Int64s, Int64s]:
    lengths = []
    for file in find_files(InputSpec(path=str(path)), Path()):
        for item in read_examples(file):
            if item.kind == "example":
                turns = item.row["messages"]
                lengths.append((len(prompt_text(turns).split()), len(response_text(turns).split())))
    prompts, responses = np.array(lengths).T
    return prompts, responses


def main() -> None:
    """Writes a corpus, or compares it with real sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows-per-file", type=int, default=500_000)
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--compare", type=Path, metavar="DATA", help="folder of the real sets")
    options = parser.parse_args()
    if options.compare:
        print("\n".join(compare(options.compare)))
    if options.folder:
        began = time.process_time()
        write_instructions(options.folder, options.rows, options.seed, options.rows_per_file, options.format)
        seconds = time.process_time() - began
        print(f"{options.rows:,} rows in {seconds:.1f} CPU seconds, {options.rows / seconds:,.0f} rows/s")


if __name__ == "__main__":
    main()
