"""Beam transform that finds duplicates among examples from their signature files.

Elements are tasks, one for each key and range of hashes; a task reads its slice of every signature file and
writes the pairs it found. What one step hands to the next are the names of those files: no text, no signature
and no pair crosses a shuffle. A file of pairs that is there is not made again.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np

from connectors.shards import write_parquet
from pipelines.dedupe.clusters import NO_EDGES, copies_of, duplicate_table, join_copies, join_near
from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.settings import DedupeSettings
from pipelines.dedupe.signatures import FIRST_BAND, SET_KEY, SignatureFile, SignatureFiles, key_count
from pipelines.drops import DROP_SCHEMA

ROWS_IN_TASK = 4 * 2**20  # keys that a task sorts at once: 16 bytes each, three times over


@dataclass(frozen=True)
class Search:
    """One search for duplicates.

    Attributes:
        files: Signature files in row order, those of earlier outputs last.
        older: For each earlier output its first row number and its name, ascending.
        excluded: File of row numbers to leave out (np.save, int64, ascending).
        settings: The recipe's `dedupe` section, as it was for the signatures.
        folder: Where the files of pairs go.
        file: Name of the drop file in that folder.
    """

    files: tuple[SignatureFile, ...]
    older: tuple[tuple[int, str], ...]
    excluded: str
    settings: DedupeSettings
    folder: str
    file: str

    @property
    def part_bits(self) -> int:
        """In how many ranges each key is compared, as a power of two."""
        return (sum(file.rows for file in self.files) // ROWS_IN_TASK).bit_length()

    @property
    def copy_keys(self) -> range:
        """Keys under which equal rows meet."""
        minhash = self.settings.minhash is not None
        return range(0 if self.settings.exact or minhash else 1, SET_KEY + 1 if minhash else SET_KEY)

    @property
    def near_keys(self) -> range:
        """Keys under which rows that are alike meet."""
        return range(FIRST_BAND, max(FIRST_BAND, key_count(self.settings)))


@dataclass(frozen=True)
class Compare:
    """One key and range of hashes."""

    key: int
    part: int

    @property
    def file(self) -> str:
        """Name of its file of pairs."""
        return f"pairs-{self.key:04d}-{self.part:05d}.npy"


class FindDuplicates(beam.PTransform):
    """PBegin → the name of the drop file, written when the element appears.

    The file is the same for any runner and any number of workers.
    """

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Adds the steps to the pipeline."""
        search = self.search
        copies = (
            pipeline
            | "copy keys" >> beam.Create(_tasks(search, search.copy_keys))
            | "join copies" >> beam.Map(_write_copies, search)
        )
        near = (
            pipeline
            | "bands" >> beam.Create(_tasks(search, search.near_keys))
            | "join near" >> beam.Map(_write_near, search, beam.pvalue.AsList(copies))
        )
        return (
            pipeline
            | "once" >> beam.Create([None])
            | "merge" >> beam.Map(_merge, search, beam.pvalue.AsList(copies), beam.pvalue.AsList(near))
        )


def find_duplicates(search: Search) -> str:
    """Finds duplicates in one process, without Beam; the same file as the transform gives."""
    copies = [_write_copies(task, search) for task in _tasks(search, search.copy_keys)]
    near = [_write_near(task, search, copies) for task in _tasks(search, search.near_keys)]
    return _merge(None, search, copies, near)


def _tasks(search: Search, keys: range) -> list[Compare]:
    return [Compare(key, part) for key in keys for part in range(1 << search.part_bits)]


def _write_copies(task: Compare, search: Search) -> str:
    excluded = np.load(search.excluded, allow_pickle=False)
    path = Path(search.folder) / task.file
    if not path.exists():
        files = SignatureFiles(search.files)
        _save(path, join_copies(files, task.key, task.part, search.part_bits, excluded))
    return str(path)


def _write_near(task: Compare, search: Search, copies: Sequence[str]) -> str:
    path = Path(search.folder) / task.file
    if not path.exists() and search.settings.minhash is not None:
        excluded = np.load(search.excluded, allow_pickle=False)
        excluded = np.union1d(excluded, copies_of(_load(copies)))
        threshold = search.settings.minhash.threshold
        files = SignatureFiles(search.files)
        _save(path, join_near(files, task.key, task.part, search.part_bits, excluded, threshold))
    return str(path)


def _merge(_: None, search: Search, copies: Sequence[str], near: Sequence[str]) -> str:
    table, stats = duplicate_table(
        _load([*copies, *near]), SignatureFiles(search.files), search.settings, search.older
    )
    write_parquet(Path(search.folder) / search.file, table, DROP_SCHEMA, stats)
    return search.file


def _load(paths: Sequence[str]) -> Int64s:
    return np.hstack([NO_EDGES, *(np.load(path, allow_pickle=False) for path in sorted(paths))])


def _save(path: Path, edges: Int64s) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        np.save(file, edges, allow_pickle=False)
    temporary.replace(path)
