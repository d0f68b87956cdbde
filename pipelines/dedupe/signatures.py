"""Signature files: what duplicates are found by, one file for a run of consecutive examples.

A file is an uncompressed Arrow IPC file of one record batch, so that it can be mapped into memory and read at
any row without a copy. Beside the columns of the rows it holds *keys*: under each key rows that may be
duplicates have the same hash. A key is stored as two columns, its hashes ascending and the positions (in the
file) they belong to, so that a task that compares one range of hashes reads one slice of every file: the
shuffle is through the files, of numbers only.

Key 0 is the content hash, key 1 the set of shingles as a whole, the others are the bands of MinHash.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from connectors.examples import response_text
from connectors.number_lists import offsets_of, one_chunk
from connectors.storage import fetched
from pipelines.dedupe.hashing import Int64s, UInt64s, sort_hashes, spread_hashes
from pipelines.dedupe.minhash import band_shape, hash_bands, hash_sets, signatures
from pipelines.dedupe.pairs import gather_sets
from pipelines.dedupe.settings import DedupeSettings
from pipelines.dedupe.shingles import hash_shingles

CONTENT_KEY, SET_KEY, FIRST_BAND = 0, 1, 2
SIGNED_COLUMNS = ["id", "source", "messages", "content_hash", "extra"]
MAPPED_FILES = 8192  # signature files a process keeps mapped; each takes 85 kB of memory


def key_count(settings: DedupeSettings) -> int:
    """How many keys a signature file has."""
    if settings.minhash is None:
        return 1
    bands, _ = band_shape(settings.minhash.threshold, settings.minhash.permutations)
    return FIRST_BAND + bands


def signature_table(table: pa.Table, settings: DedupeSettings, row_start: int) -> pa.Table:
    """What duplicates are found by, one row for each example.

    Args:
        table: Examples in id order, with the columns SIGNED_COLUMNS.
        settings: The recipe's `dedupe` section.
        row_start: Global number of the first example.

    Returns:
        row; id; source; content_hash, 16 bytes; what the keep rules read: response_chars, in code points,
        and `field:NAME` for each field; with MinHash `shingles`, ascending hashes; `hashes_K` and
        `positions_K` for each key K.
    """
    content = np.frombuffer(bytes.fromhex("".join(table["content_hash"].to_pylist())), np.uint8)
    columns: dict[str, object] = {
        "row": np.arange(row_start, row_start + table.num_rows),
        "id": table["id"].combine_chunks(),
        "source": table["source"].combine_chunks(),
        "content_hash": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), table.num_rows, [None, pa.py_buffer(content)]
        ),
    }
    if "longest_response" in settings.keep:
        columns["response_chars"] = _response_chars(table["messages"])
    for name in settings.fields:
        columns[f"field:{name}"] = _field_values(table["extra"], name)
    keys = [np.frombuffer(content, ">u8")[1::2].astype(np.uint64)]
    if settings.minhash:
        minhash = settings.minhash
        values, bounds = hash_shingles(table["messages"], minhash.scope, minhash.ngram, minhash.unit)
        columns["shingles"] = pa.LargeListArray.from_arrays(bounds, values)
        bands = hash_bands(
            signatures(values, bounds, minhash.permutations),
            *band_shape(minhash.threshold, minhash.permutations),
        )
        keys += [hash_sets(values, bounds), *bands]
    for number, hashes in enumerate(keys):
        columns[f"hashes_{number}"], positions = sort_hashes(hashes)
        columns[f"positions_{number}"] = positions.astype(np.int32)
    return pa.table(columns)


def _response_chars(messages: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Code points of each response, tool calls included."""
    column = one_chunk(messages)
    turns = column.flatten()
    last = (
        np.asarray(column.offsets)[1:] - column.offsets[0].as_py() - 1
        if len(column)
        else np.zeros(0, np.int64)
    )
    lengths = pc.utf8_length(turns.field("content")).fill_null(0).to_numpy()
    calls = np.asarray(turns.field("tool_calls").is_valid())
    chars = lengths[last].astype(np.int64)
    for at in np.flatnonzero(calls[last]).tolist():
        chars[at] = len(response_text([turns[int(last[at])].as_py()]))
    return np.asarray(chars, np.int64)


def _field_values(extra: pa.ChunkedArray, name: str) -> pa.Array:
    """A number in the fields that the input had beside the conversation; null where it is no number."""
    numbers = []
    for text in extra.to_pylist():
        value = orjson.loads(text).get(name) if text else None
        numbers.append(float(value) if isinstance(value, int | float) else None)
    return pa.array(numbers, pa.float64())


@dataclass(frozen=True)
class SignatureFile:
    """A signature file and where its rows are in the run's numbering.

    Attributes:
        path: The file.
        first: Global number of its first row; the others follow without a gap.
        rows: Number of rows.
    """

    path: str
    first: int
    rows: int


@lru_cache(maxsize=MAPPED_FILES)
def _mapped(path: str) -> pa.Table:
    with pa.memory_map(fetched(path)) as source:
        return pa.ipc.open_file(source).read_all()


@lru_cache(maxsize=MAPPED_FILES)
def _key_columns(path: str, number: int) -> tuple[UInt64s, npt.NDArray[np.int32]]:
    """The hashes of a key, ascending, and the positions they belong to; views of the mapped file."""
    table = _mapped(path)
    return table[f"hashes_{number}"].to_numpy(), table[f"positions_{number}"].to_numpy()


def row_count(path: str) -> int:
    """Number of rows of a signature file."""
    return int(_mapped(path).num_rows)


class SignatureFiles:
    """The rows of all signature files, by global row number, mapped into memory and read where needed.

    Args:
        files: The files, in row order and without a gap.
    """

    def __init__(self, files: Sequence[SignatureFile]) -> None:
        self.files = tuple(files)
        self._firsts = np.array([file.first for file in files], np.int64)

    @property
    def end(self) -> int:
        """One more than the last row number."""
        return self.files[-1].first + self.files[-1].rows if self.files else 0

    def key_runs(
        self, number: int, part: int, part_bits: int, more_bits: int
    ) -> Iterator[tuple[UInt64s, Int64s]]:
        """One key of all rows whose hash begins with the `part_bits` bits of `part`, in 2**more_bits runs.

        Every file is opened once.

        Yields:
            Hashes ascending, those of a run above those of the runs before, and the row of each, ascending
            within one hash.
        """
        hashes, rows, bounds = spread_hashes(*self._slices(number, part, part_bits), part_bits, more_bits)
        for start, stop in itertools.pairwise(bounds.tolist()):
            ordered, order = sort_hashes(hashes[start:stop], part_bits + more_bits)
            yield ordered, rows[start:stop][order]

    def _slices(self, number: int, part: int, part_bits: int) -> tuple[UInt64s, Int64s]:
        """The hashes of a range, and their rows, file after file."""
        hashes, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        low, high = part << (64 - part_bits), ((part + 1) << (64 - part_bits)) - 1
        for file in self.files:
            column, positions = _key_columns(file.path, number)
            start = column.searchsorted(np.uint64(low), "left")
            stop = column.searchsorted(np.uint64(high), "right")
            hashes.append(column[start:stop])
            rows.append(positions[start:stop].astype(np.int64) + file.first)
        return np.concatenate(hashes), np.concatenate(rows)

    def rows(self, rows: Int64s, columns: Sequence[str]) -> pa.Table:
        """The named columns of some rows, ascending, at least one."""
        tables = [
            _mapped(file.path).select(list(columns)).take(pa.array(positions))
            for file, positions in self._by_file(rows)
        ]
        return pa.concat_tables(tables).combine_chunks()

    def shingles(self, rows: Int64s) -> tuple[UInt64s, Int64s]:
        """The shingle sets of some rows, ascending: hashes, and where each set begins and ends."""
        sizes = [np.zeros(0, np.int64)]
        found = []
        for file, positions in self._by_file(rows):
            lists = _mapped(file.path)["shingles"].chunk(0)
            bounds, values = np.asarray(lists.offsets), lists.values.to_numpy()
            sizes.append(bounds[positions + 1] - bounds[positions])
            found.append((values, bounds, positions))
        result_bounds = offsets_of(np.concatenate(sizes))
        result = np.empty(result_bounds[-1], np.uint64)
        done = 0
        for values, bounds, positions in found:
            gather_sets(values, bounds, positions, result, int(result_bounds[done]))
            done += len(positions)
        return result, result_bounds

    def shingle_counts(self, rows: Int64s) -> Int64s:
        """The sizes of the shingle sets of some rows, ascending."""
        sizes = [np.zeros(0, np.int64)]
        for file, positions in self._by_file(rows):
            bounds = np.asarray(_mapped(file.path)["shingles"].chunk(0).offsets)
            sizes.append(bounds[positions + 1] - bounds[positions])
        return np.concatenate(sizes)

    def content(self, rows: Int64s) -> tuple[UInt64s, Int64s]:
        """Content hashes of some rows, ascending, as sets of two numbers each; compared as a whole only."""
        pairs = [np.zeros((0, 2), np.uint64)]
        for file, positions in self._by_file(rows):
            column = _mapped(file.path)["content_hash"].chunk(0)
            pairs.append(np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)[positions])
        return np.concatenate(pairs).ravel(), 2 * np.arange(len(rows) + 1)

    def _by_file(self, rows: Int64s) -> Iterator[tuple[SignatureFile, Int64s]]:
        """Yields (file, positions in it) for ascending row numbers."""
        bounds = np.append(np.searchsorted(rows, self._firsts), len(rows))
        for index in np.flatnonzero(np.diff(bounds)).tolist():
            yield self.files[index], rows[bounds[index] : bounds[index + 1]] - self.files[index].first
