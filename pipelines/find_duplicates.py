"""Beam transform that finds duplicates among examples from their signature files.

What crosses a shuffle is packed numbers only, never text: (hash, row) arrays by `hash % PARTITIONS`, first of
content hashes, then of bands. Shingles are read from the files where they are compared, a row group at a
time. Values of a key come in any order; every step sorts what it gets, so the result does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.duplicates import (
    Block,
    DedupeSettings,
    SignatureBlocks,
    band_keys,
    duplicate_table,
    exact_edges,
    hash_keys,
    index_blocks,
)
from pipelines.minhash import Int64s, UInt64s, near_edges

PARTITIONS = 64


class FindDuplicates(beam.PTransform):
    """Paths of signature files → one table of duplicate clusters (see `duplicates.duplicate_table`).

    There is exactly one output element, also for no file at all, and it is the same for any order of the
    paths, any runner and any number of workers.

    Args:
        settings: The recipe's `dedupe` section, as it was for the signatures.
    """

    def __init__(self, settings: DedupeSettings) -> None:
        super().__init__()
        self.settings = settings

    def expand(self, paths: beam.PCollection) -> beam.PCollection:
        """Adds the steps to the pipeline."""
        blocks = beam.pvalue.AsList(paths | "index blocks" >> beam.FlatMap(index_blocks))
        edges = []
        if self.settings.exact or self.settings.minhash:
            exact = (
                paths
                | "hash keys" >> beam.FlatMap(_hash_partitions)
                | "group by hash" >> beam.GroupByKey()
                | "exact edges" >> beam.FlatMap(_join_exact)
            )
            edges.append(exact)
        if self.settings.minhash:
            near = (
                paths
                | "band keys" >> beam.FlatMap(_band_partitions, beam.pvalue.AsList(exact))
                | "group by band" >> beam.GroupByKey()
                | "near edges" >> beam.ParDo(_JoinNear(self.settings.minhash.threshold), blocks)
            )
            edges.append(near)
        merged = edges | "all edges" >> beam.Flatten(pipeline=paths.pipeline)
        return (
            paths.pipeline
            | "once" >> beam.Create([None])
            | "merge" >> beam.Map(_merge, beam.pvalue.AsList(merged), blocks, self.settings)
        )


def _partition(keys: UInt64s) -> Iterator[tuple[int, bytes]]:
    """Splits the columns of `keys` by their first number modulo PARTITIONS; uint64, packed row by row."""
    partition = (keys[0] % PARTITIONS).astype(np.int64)
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(PARTITIONS + 1))
    for number in range(PARTITIONS):
        chosen = order[bounds[number] : bounds[number + 1]]
        if len(chosen):
            yield number, _pack(keys[:, chosen])


def _pack(array: UInt64s | Int64s) -> bytes:
    return array.astype("<i8" if array.dtype == np.int64 else "<u8").tobytes()


def _unpack_keys(packed: Iterable[bytes], height: int) -> UInt64s:
    parts = [np.frombuffer(part, dtype="<u8").reshape(height, -1) for part in packed]
    return np.hstack(parts).astype(np.uint64, copy=False)


def _unpack_edges(packed: Iterable[bytes]) -> Int64s:
    parts = [np.frombuffer(part, dtype="<i8").reshape(2, -1) for part in packed]
    return np.hstack([np.empty((2, 0), dtype=np.int64), *parts]).astype(np.int64, copy=False)


def _hash_partitions(path: str) -> Iterator[tuple[int, bytes]]:
    return _partition(hash_keys(path))


def _join_exact(group: tuple[int, Iterable[bytes]]) -> Iterator[bytes]:
    edges = exact_edges(_unpack_keys(group[1], height=3))
    if edges.size:
        yield _pack(edges)


def _band_partitions(path: str, exact: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    return _partition(band_keys(path, _unpack_edges(exact)[0]))


class _JoinNear(beam.DoFn):
    """(partition, packed band keys) → packed edges; keeps the shingles it read from key to key."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._signatures: SignatureBlocks | None = None

    def process(self, group: tuple[int, Iterable[bytes]], blocks: Sequence[Block]) -> Iterator[bytes]:
        """Compares the rows of each bucket of one partition."""
        if self._signatures is None:
            self._signatures = SignatureBlocks(blocks)
        edges = near_edges(_unpack_keys(group[1], height=2), self.threshold, self._signatures.shingles)
        if edges.size:
            yield _pack(edges)


def _merge(_: None, edges: Sequence[bytes], blocks: Sequence[Block], settings: DedupeSettings) -> pa.Table:
    return duplicate_table(_unpack_edges(edges), SignatureBlocks(blocks), settings)
