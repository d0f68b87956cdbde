"""Beam transform that finds duplicates among examples from their signature files.

Elements are tasks, one for each key and range of hashes; a task reads its slice of every signature file and
writes the pairs it found. What one step hands to the next are the names of those files: no text, no signature
and no pair crosses a shuffle. A file of pairs that is there is not made again. The pairs of all tasks are
merged in a tree, FAN_IN files at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from connectors.shards import read_array, read_stats, write_array
from connectors.storage import exists, join
from pipelines.dedupe.clusters import join_copies, join_near, stars, write_duplicates
from pipelines.dedupe.hashing import Int64s
from pipelines.dedupe.settings import DedupeSettings
from pipelines.dedupe.signatures import FIRST_BAND, SET_KEY, SignatureFile, SignatureFiles, key_count
from pipelines.metrics import StageMetrics

ROWS_IN_TASK = 4 * 2**20  # keys that a task sorts at once: 16 bytes each, three times over
LEFT_OUT = "left-out.npy"
FAN_IN = 32  # files of pairs that are merged into one
_METRICS = StageMetrics("clusters")


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


@dataclass(frozen=True)
class Merge:
    """Files of pairs that become one."""

    sources: tuple[str, ...]
    file: str


class FindDuplicates(beam.PTransform):
    """PBegin → the name of the drop file, written when the element appears.

    The file is the same for any runner and any number of workers.
    """

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Adds the steps to the pipeline."""
        done: beam.PCollection | None = None
        for step in steps(self.search):
            after = [] if done is None else [beam.pvalue.AsIter(done)]
            done = (
                pipeline
                | f"to {step.name}" >> beam.Create(step.tasks)
                | step.name >> beam.Map(step.write, self.search, *after)
            )
        return done


def find_duplicates(search: Search) -> str:
    """Finds duplicates in one process, without Beam; the same file as the transform gives."""
    for step in steps(search):
        for task in step.tasks:
            step.write(task, search)
    return search.file


@dataclass(frozen=True)
class Step:
    """Tasks that can run in any order, after those of the step before.

    Attributes:
        name: What it does.
        tasks: Its tasks.
        write: Writes the file of a task; what the step before wrote has to be there.
    """

    name: str
    tasks: Sequence[Compare | Merge]
    write: Callable[..., str]


def steps(search: Search) -> list[Step]:
    """The steps of a search, in order; the last writes the drop file."""
    copies, near = _tasks(search, search.copy_keys), _tasks(search, search.near_keys)
    *levels, last = _merges([task.file for task in (*copies, *near)], search.file)
    return [
        Step("join copies", copies, _write_copies),
        Step("leave out copies", [Merge(tuple(task.file for task in copies), LEFT_OUT)], _write_left_out),
        Step("join near", near, _write_near),
        *(Step(f"merge {number}", level, _write_stars) for number, level in enumerate(levels, 1)),
        Step("write duplicates", last, _write_duplicates),
    ]


def _tasks(search: Search, keys: range) -> list[Compare]:
    return [Compare(key, part) for key in keys for part in range(1 << search.part_bits)]


def _merges(files: Sequence[str], last: str) -> list[list[Merge]]:
    """The levels of the tree that merges files of pairs; the last level has one merge, into `last`."""
    levels: list[list[Merge]] = []
    while len(files) > FAN_IN:
        groups = [tuple(files[start : start + FAN_IN]) for start in range(0, len(files), FAN_IN)]
        levels.append([Merge(group, f"stars-{len(levels)}-{at:05d}.npy") for at, group in enumerate(groups)])
        files = [merge.file for merge in levels[-1]]
    return [*levels, [Merge(tuple(files), last)]]


def _write_copies(task: Compare, search: Search, _: object = None) -> str:
    path = join(search.folder, task.file)
    if not exists(path):
        files, excluded = SignatureFiles(search.files), read_array(search.excluded)
        with _METRICS.task():
            pairs = join_copies(files, task.key, task.part, search.part_bits, excluded)
        _METRICS(pairs_found=pairs.shape[1], bytes_written=write_array(path, pairs))
    return task.file


def _write_left_out(merge: Merge, search: Search, _: object = None) -> str:
    """The rows that no band is read for: those excluded, and of equal rows all but the smallest."""
    path = join(search.folder, merge.file)
    if not exists(path):
        copies = _stars(merge, search)[1]
        write_array(path, np.union1d(read_array(search.excluded), copies))
    return merge.file


def _write_near(task: Compare, search: Search, _: object = None) -> str:
    path = join(search.folder, task.file)
    if not exists(path) and search.settings.minhash is not None:
        files, left_out = SignatureFiles(search.files), read_array(join(search.folder, LEFT_OUT))
        threshold = search.settings.minhash.threshold
        with _METRICS.task():
            pairs = join_near(files, task.key, task.part, search.part_bits, left_out, threshold)
        _METRICS(pairs_found=pairs.shape[1], bytes_written=write_array(path, pairs))
    return task.file


def _write_stars(merge: Merge, search: Search, _: object = None) -> str:
    path = join(search.folder, merge.file)
    if not exists(path):
        write_array(path, _stars(merge, search))
    return merge.file


def _write_duplicates(merge: Merge, search: Search, _: object = None) -> str:
    path = join(search.folder, merge.file)
    with _METRICS.task():
        write_duplicates(
            path, _stars(merge, search), SignatureFiles(search.files), search.settings, search.older
        )
    _METRICS(rows_dropped=read_stats(path)["rows"])
    return merge.file


def _stars(merge: Merge, search: Search) -> Int64s:
    pairs = (read_array(join(search.folder, name)) for name in merge.sources)
    return stars(pairs, SignatureFiles(search.files).end)
