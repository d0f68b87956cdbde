"""Duplicate clusters: which examples say the same thing, which of them stays, and how alike they are.

Steps, each a plain function over arrays; pipelines/find_duplicates.py spreads them over workers:

1. `signature_table`: for each example its content hash, word shingles and band hashes.
2. `exact_edges`: examples with one content hash join the one of smallest row, which alone goes on to banding,
   so a hundred thousand copies cost no more than one.
3. `near_edges`: examples that share a band hash are candidates; a candidate pair counts when the true Jaccard
   similarity of its shingle sets reaches the threshold.
4. `duplicate_table`: connected components are the clusters; the keeper stays, the others name it.

Two members of a cluster may be less alike than the threshold: a chain A-B-C of near pairs is one cluster, and
C may lie below the threshold from A. The similarity given is always the true one to the keeper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from connectors.examples import prompt_text, response_text
from pipelines.minhash import (
    ROWS_IN_MEMORY,
    Int64s,
    MinHashSettings,
    UInt64s,
    band_shape,
    hash_bands,
    hash_shingles,
    jaccard,
    near_edges,
    signatures,
)

CACHE_BYTES = 256 * 2**20  # of shingles kept from one lookup to the next


class DedupeSettings(BaseModel):
    """The `dedupe` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(default=True, description="drop examples of equal normalised content")
    minhash: MinHashSettings | None = Field(
        default=None, description="also drop near-duplicates, exact ones included"
    )
    keep: Literal["longest_response", "first"] = Field(
        default="longest_response",
        description="which of a cluster stays; ties and `first` mean the smallest id",
    )


_SIGNATURE_FIELDS = [
    ("row", pa.int64()),
    ("id", pa.string()),
    ("content_hash", pa.string()),
    ("response_chars", pa.int32()),
]
_MINHASH_FIELDS = [("shingles", pa.list_(pa.uint64())), ("bands", pa.list_(pa.uint64()))]

DUPLICATE_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("duplicate_of", pa.string()),  # id of the keeper; null for the keeper itself
        ("kind", pa.string()),  # "exact" or "near"; null for the keeper
        ("similarity", pa.float64()),  # true Jaccard similarity to the keeper; null for the keeper
        ("cluster_size", pa.int32()),
    ]
)


def signature_schema(settings: DedupeSettings) -> pa.Schema:
    """Schema of a signature file: shingles and bands are there only when MinHash is asked for."""
    return pa.schema(_SIGNATURE_FIELDS + (_MINHASH_FIELDS if settings.minhash else []))


def signature_table(table: pa.Table, settings: DedupeSettings, row_start: int) -> pa.Table:
    """What duplicates are found by, one row for each example.

    Args:
        table: Examples in id order with the columns id, content_hash and messages.
        settings: The recipe's `dedupe` section.
        row_start: Global number of the first example.

    Returns:
        Columns of `signature_schema(settings)`. `response_chars` counts Unicode code points.
    """
    conversations = table["messages"].to_pylist()
    columns = {
        "row": np.arange(row_start, row_start + table.num_rows),
        "id": table["id"],
        "content_hash": table["content_hash"],
        "response_chars": np.fromiter((len(response_text(c)) for c in conversations), dtype=np.int32),
    }
    if settings.minhash:
        texts = (f"{prompt_text(c)}\n{response_text(c)}" for c in conversations)
        sets = [hash_shingles(text, settings.minhash.ngram) for text in texts]
        shape = band_shape(settings.minhash.threshold, settings.minhash.permutations)
        columns["shingles"] = _lists(sets)
        columns["bands"] = _lists(list(hash_bands(signatures(sets, settings.minhash.permutations), *shape)))
    return pa.table(columns, schema=signature_schema(settings))


def _lists(arrays: Sequence[UInt64s]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.uint64)
    return pa.ListArray.from_arrays(offsets, values)


@dataclass(frozen=True, order=True)
class Block:
    """A row group of a signature file: the unit in which signatures are read back.

    Attributes:
        first: Row number of its first example; the others follow without a gap.
        rows: Number of examples.
        path: The file.
        group: Row group in the file.
    """

    first: int
    rows: int
    path: str
    group: int


def index_blocks(path: str) -> list[Block]:
    """The row groups of a signature file.

    Raises:
        ValueError: If the row numbers of a row group are not consecutive.
    """
    blocks = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["row"])["row"].to_numpy()
            if not len(rows):
                continue
            if np.any(np.diff(rows) != 1):
                raise ValueError(
                    f"{path}, row group {group}: row numbers are not consecutive, but a signature file holds "
                    "the examples of one unit in order. Remove the file and run again."
                )
            blocks.append(Block(int(rows[0]), len(rows), path, group))
    return blocks


class SignatureBlocks:
    """Random access to the rows of signature files, by row number, one row group at a time.

    Args:
        blocks: The row groups of all files, in any order.

    Raises:
        ValueError: If two blocks claim the same row.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = sorted(blocks)
        for before, after in zip(self._blocks, self._blocks[1:], strict=False):
            if before.first + before.rows > after.first:
                raise ValueError(
                    f"row {after.first} is in two signature files, {before.path} and {after.path}; "
                    "give each file once, with row numbers that are unique in the whole run"
                )
        self._firsts = np.array([block.first for block in self._blocks], dtype=np.int64)
        self._shingles: OrderedDict[int, tuple[Int64s, UInt64s]] = OrderedDict()  # least recently used first
        self._cached_bytes = 0

    def rows(self, rows: Int64s, columns: Sequence[str]) -> pa.Table:
        """The named columns of some rows.

        Args:
            rows: Row numbers, ascending, at least one.
            columns: Column names.
        """
        tables = []
        for index, positions in self._by_block(rows):
            block = self._blocks[index]
            with pq.ParquetFile(block.path) as file:
                tables.append(file.read_row_group(block.group, columns=list(columns)).take(positions))
        return pa.concat_tables(tables)

    def shingles(self, rows: Int64s) -> dict[int, UInt64s]:
        """The shingle hashes of some rows by row number; `rows` ascending."""
        found: dict[int, UInt64s] = {}
        for index, positions in self._by_block(rows):
            offsets, values = self._shingle_block(index)
            first = self._blocks[index].first
            for position in positions.tolist():
                # a copy: a view would keep the whole block in memory after it left the cache
                found[first + position] = values[offsets[position] : offsets[position + 1]].copy()
        return found

    def _by_block(self, rows: Int64s) -> Iterator[tuple[int, Int64s]]:
        """Yields (block, positions in the block) for ascending row numbers."""
        of_row = np.searchsorted(self._firsts, rows, side="right") - 1
        for index in np.unique(of_row).tolist():
            wanted = rows[of_row == index]
            block = self._blocks[index] if index >= 0 else None
            if block is None or wanted[-1] >= block.first + block.rows:
                raise ValueError(f"row {wanted[-1]} is in no signature file; make the signatures again")
            yield index, wanted - block.first

    def _shingle_block(self, index: int) -> tuple[Int64s, UInt64s]:
        """Offsets and values of a block's shingles, from the cache when they are there."""
        if index in self._shingles:
            self._shingles.move_to_end(index)
            return self._shingles[index]
        block = self._blocks[index]
        with pq.ParquetFile(block.path) as file:
            lists = file.read_row_group(block.group, columns=["shingles"])["shingles"].combine_chunks()
        offsets, values = lists.offsets.to_numpy().astype(np.int64), lists.values.to_numpy()
        self._shingles[index] = offsets, values
        self._cached_bytes += offsets.nbytes + values.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._shingles) > 1:
            _, (old_offsets, old_values) = self._shingles.popitem(last=False)
            self._cached_bytes -= old_offsets.nbytes + old_values.nbytes
        return offsets, values


def hash_keys(path: str) -> UInt64s:
    """Content hashes of a signature file: upper half, lower half, row number; uint64, shape (3, n)."""
    table = pq.read_table(path, columns=["row", "content_hash"])
    halves = np.frombuffer(bytes.fromhex("".join(table["content_hash"].to_pylist())), dtype=">u8")
    return np.vstack([halves.reshape(-1, 2).T.astype(np.uint64), _row_numbers(table)])


def band_keys(path: str, copies: Int64s) -> UInt64s:
    """Band hashes of a signature file: band hash, row number; uint64, shape (2, n * bands).

    Args:
        path: The file.
        copies: Row numbers that are exact copies of another row and stay out.
    """
    table = pq.read_table(path, columns=["row", "bands"])
    table = table.filter(~np.isin(table["row"].to_numpy(), copies))
    rows = np.repeat(_row_numbers(table), pc.list_value_length(table["bands"]).to_numpy())
    return np.vstack([pc.list_flatten(table["bands"]).to_numpy(), rows])


def _row_numbers(table: pa.Table) -> UInt64s:
    return np.asarray(table["row"].to_numpy(), dtype=np.uint64)


def exact_edges(keys: UInt64s) -> Int64s:
    """Joins every row to the smallest row of the same content hash.

    Args:
        keys: Columns of `hash_keys` in any order, shape (3, n); equal hashes must all be there.

    Returns:
        (row, smallest row) pairs, shape (2, m), ascending in row; rows with a hash of their own are absent.
    """
    upper, lower, rows = keys[:, np.lexsort(keys[::-1])]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (upper[1:] != upper[:-1]) | (lower[1:] != lower[:-1])
    smallest = rows[first][np.cumsum(first) - 1]
    edges = np.vstack([rows[~first], smallest[~first]]).astype(np.int64)
    return edges[:, np.argsort(edges[0])]


def label_clusters(edges: Int64s) -> tuple[Int64s, Int64s]:
    """Connected components of the pairs.

    Args:
        edges: Pairs of row numbers, shape (2, m).

    Returns:
        (rows that are in a pair, ascending; label of each, the smallest row of its cluster).
    """
    from scipy.sparse import coo_array  # half a second to import, not needed to read a recipe
    from scipy.sparse.csgraph import connected_components

    rows, ends = np.unique(edges, return_inverse=True)
    if not len(rows):
        return rows, rows
    a, b = ends.reshape(edges.shape)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(rows), len(rows)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)  # rows ascend, so the first of each is its smallest
    return rows, rows[first[component]]


def duplicate_table(edges: Int64s, signatures: SignatureBlocks, settings: DedupeSettings) -> pa.Table:
    """The clusters, with the keeper of each and how alike the others are to it.

    The keeper is the example of the longest response, then of the smallest id (`keep: first`: the smallest
    id). A member is an "exact" duplicate when its content hash is the keeper's, otherwise "near".

    Args:
        edges: Pairs of row numbers, shape (2, m), in any order.
        signatures: The signature files.
        settings: The recipe's `dedupe` section.

    Returns:
        DUPLICATE_SCHEMA, one row for each member of a cluster of two or more, keepers included, ascending
        in row. Examples that are not in the table have no duplicate.
    """
    rows, labels = label_clusters(edges)
    if not len(rows):
        return DUPLICATE_SCHEMA.empty_table()
    members = signatures.rows(rows, ["row", "id", "content_hash", "response_chars"])
    keeper, size = _keepers(members.append_column("label", pa.array(labels)), settings)
    kept = keeper == np.arange(len(rows))
    same = pc.equal(members["content_hash"], members["content_hash"].take(keeper)).to_numpy()
    similarity = np.ones(len(rows))
    near = np.flatnonzero(~same)
    similarity[near] = _similarities(rows[near], rows[keeper[near]], signatures)
    columns = {
        "row": rows,
        "id": members["id"],
        "duplicate_of": pc.if_else(kept, pa.scalar(None, pa.string()), members["id"].take(keeper)),
        "kind": pa.array(np.where(same, "exact", "near"), pa.string(), mask=kept),
        "similarity": pa.array(similarity, mask=kept),
        "cluster_size": size,
    }
    return pa.table(columns, schema=DUPLICATE_SCHEMA)


def _keepers(members: pa.Table, settings: DedupeSettings) -> tuple[Int64s, npt.NDArray[np.int32]]:
    """For each member the position of its cluster's keeper, and the size of its cluster."""
    longest = [("response_chars", "descending")] if settings.keep == "longest_response" else []
    order = pc.sort_indices(members, [("label", "ascending"), *longest, ("id", "ascending")]).to_numpy()
    labels = members["label"].to_numpy()[order]
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    keeper = np.empty(len(order), dtype=np.int64)
    size = np.empty(len(order), dtype=np.int32)
    keeper[order] = np.repeat(order[first], counts)
    size[order] = np.repeat(counts, counts)
    return keeper, size


def _similarities(rows: Int64s, keepers: Int64s, signatures: SignatureBlocks) -> npt.NDArray[np.float64]:
    """True Jaccard similarity of each row to its keeper."""
    result = np.empty(len(rows))
    for start in range(0, len(rows), ROWS_IN_MEMORY):
        part = slice(start, start + ROWS_IN_MEMORY)
        shingles = signatures.shingles(np.unique(np.concatenate((rows[part], keepers[part]))))
        pairs = zip(rows[part].tolist(), keepers[part].tolist(), strict=True)
        result[part] = [jaccard(shingles[row], shingles[keeper]) for row, keeper in pairs]
    return result


def find_duplicates(paths: Sequence[str], settings: DedupeSettings) -> pa.Table:
    """Finds duplicates in one process, without Beam; the same table as pipelines/find_duplicates.py gives.

    Args:
        paths: Signature files in any order.
        settings: The recipe's `dedupe` section, as it was for the signatures.

    Returns:
        See `duplicate_table`.
    """
    signatures = SignatureBlocks([block for path in paths for block in index_blocks(path)])
    edges = [np.empty((2, 0), dtype=np.int64)]
    if paths and (settings.exact or settings.minhash):
        edges.append(exact_edges(np.hstack([hash_keys(path) for path in paths])))
    if paths and settings.minhash:
        keys = np.hstack([band_keys(path, edges[-1][0]) for path in paths])
        edges.append(near_edges(keys, settings.minhash.threshold, signatures.shingles))
    return duplicate_table(np.hstack(edges), signatures, settings)
