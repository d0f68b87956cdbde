"""The rows of two runs side by side: matched by the hash of their id, and held as a few numbers each.

Scores are read one column at a time, and texts only of rows that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.storage import join
from pipelines.charts import Floats
from pipelines.report_examples import iter_rows_at
from pipelines.report_numbers import TOKEN_COLUMNS, finite, number_columns, parts, tokens_of
from pipelines.selectors.id_order import id_order

CELLS = ("kept in both", "kept by A only", "kept by B only", "kept by neither")
BOTH, ONLY_A, ONLY_B, NEITHER = range(4)

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Names:
    """Texts that repeat, each with a code in the order of its first row."""

    codes: dict[str, int] = field(default_factory=dict)

    def of(self, column: pa.ChunkedArray) -> Codes:
        """The codes of a column; null is ""."""
        encoded = column.fill_null("").combine_chunks().dictionary_encode()
        own = [self.codes.setdefault(name, len(self.codes)) for name in encoded.dictionary.to_pylist()]
        codes: Codes = np.array(own, np.int32)[encoded.indices.to_numpy()]
        return codes


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows of a run, in the order of the hashes of their ids; every array has shape (rows,).

    Attributes:
        out: Folder of the run.
        keys: uint64, ascending: the hash of (0, id), as the sample of a report is drawn by.
        place: Place of each row among those of OUT/train and then OUT/dropped.
        kept: Whether it was kept.
        source: Code in the `Names` of sources; `reason` in those of reasons.
        tokens: Prompt and response tokens, 0 where not counted.
        train_rows: Rows of OUT/train.
    """

    out: str
    keys: npt.NDArray[np.uint64]
    place: Ints
    kept: Bools
    source: Codes
    reason: Codes
    tokens: Ints
    train_rows: int

    def score(self, name: str) -> Floats:
        """A score of every row, NaN where it has none."""
        schema = pa.schema([(name, pa.float64())])
        values = [np.zeros(0), *(finite(part.table, name) for part in parts(self.out, schema))]
        return np.concatenate(values)[self.place]


@dataclass(frozen=True, slots=True)
class Matched:
    """Two runs row by row: where the rows that both have stand in each, and the cell of each, shape (n,)."""

    a: RunRows
    b: RunRows
    in_a: Ints
    in_b: Ints
    cell: npt.NDArray[np.int8]

    def score(self, name: str) -> tuple[Floats, Floats]:
        """A score of every matched row in A and in B, NaN where a row has none."""
        return self.a.score(name)[self.in_a], self.b.score(name)[self.in_b]


def read_rows(out: str, sources: Names, reasons: Names) -> RunRows:
    """The rows of a run; texts are read for their hashes and codes, a part of the files at a time."""
    texts = dict.fromkeys(("id", "source", "reason"), pa.string())
    schema = pa.schema({**texts, **dict.fromkeys(TOKEN_COLUMNS, pa.float64())})
    columns: list[list[npt.NDArray[Any]]] = [[np.zeros(0, kind)] for kind in ("u8", "?", "i4", "i4", "i8")]
    for part in parts(out, schema):
        table = part.table
        own: tuple[npt.NDArray[Any], ...] = (
            id_order(table["id"], seed=0),
            np.full(table.num_rows, part.kept),
            sources.of(table["source"]),
            reasons.of(table["reason"]),
            tokens_of(table)[0],
        )
        for column, values in zip(columns, own, strict=True):
            column.append(values)
    keys, kept, source, reason, tokens = (np.concatenate(column) for column in columns)
    place = np.argsort(keys, kind="stable")
    return RunRows(
        out, keys[place], place, kept[place], source[place], reason[place], tokens[place], int(kept.sum())
    )


def match(a: RunRows, b: RunRows) -> Matched:
    """The rows that both runs have.

    Raises:
        ValueError: If there are none.
    """
    # 64 bits: among a million rows, two share a hash by chance once in forty million comparisons
    _, in_a, in_b = np.intersect1d(a.keys, b.keys, return_indices=True)
    if not len(in_a):
        raise ValueError(
            f"{a.out} ({_first_id(a)}) and {b.out} ({_first_id(b)}) share no row. "
            "An id is made of the source, the file's name and the row: compare runs over the same files "
            "under the same names of sources"
        )
    cell = np.where(
        a.kept[in_a], np.where(b.kept[in_b], BOTH, ONLY_A), np.where(b.kept[in_b], ONLY_B, NEITHER)
    )
    return Matched(a, b, in_a, in_b, cell.astype(np.int8))


def _first_id(rows: RunRows) -> str:
    first = next(
        (part.table["id"][0].as_py() for part in parts(rows.out, pa.schema([("id", pa.string())]))), None
    )
    return f"its first id: {first}" if first is not None else "no rows"


def shared_scores(out: str, other: str) -> list[str]:
    """Names of the scores that both runs have, in the order of the first."""
    there = number_columns(other).scores
    return [name for name in number_columns(out).scores if name in there]


def rows_stored(rows: RunRows, at: Ints, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (which of `at`, row) for the rows at some places of a run, in the order of its files."""
    places = rows.place[at]
    for folder, start, stop in (("train", 0, rows.train_rows), ("dropped", rows.train_rows, len(rows.keys))):
        own = np.flatnonzero((places >= start) & (places < stop))
        own = own[np.argsort(places[own])]
        found = iter_rows_at(join(rows.out, folder), (places[own] - start).tolist(), columns)
        yield from ((int(which), row) for which, (_, row) in zip(own, found, strict=True))
