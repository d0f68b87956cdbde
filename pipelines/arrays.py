"""What is stored of candidates beside their columns: arrays of tokens and vectors, read when asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.selectors.base import TokenArrays, Vectors
from scorers.models.settings import EmbeddingSettings

ListOfRow = Callable[[int], npt.NDArray[Any]]
"""Gives the list of a row of a file."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class TokenReader:
    """Reads what is stored of each token of candidates, one file at a time.

    Attributes:
        paths: The score files of each model by its role ("" is the target), in row order.
        starts: Candidate index of the first row of each, shape (files + 1,).
    """

    paths: Mapping[str, tuple[str, ...]]
    starts: npt.NDArray[np.int64]

    def read(
        self, rows: npt.NDArray[np.int64], names: npt.NDArray[np.int64], reads: Sequence[str]
    ) -> Iterator[tuple[int, TokenArrays]]:
        """Yields (name, arrays) for candidates `rows` (ascending), each under its own of `names`.

        Args:
            rows: Candidate indices; rows that have scores.
            names: Under which the candidates are given.
            reads: As `Selector.token_reads` says.
        """
        bounds = np.searchsorted(rows, self.starts)
        files = np.flatnonzero(np.diff(bounds)).tolist()
        for file, columns in zip(files, _one_ahead(partial(self._columns, reads=reads), files), strict=True):
            chosen = slice(bounds[file], bounds[file + 1])
            within = (rows[chosen] - self.starts[file]).tolist()
            for row, name in zip(within, names[chosen].tolist(), strict=True):
                yield name, {read: column(row) for read, column in columns.items()}

    def _columns(self, file: int, reads: Sequence[str]) -> dict[str, ListOfRow]:
        return {read: self._column(file, read) for read in reads}

    def _column(self, file: int, read: str) -> ListOfRow:
        role, _, name = read.rpartition(".")
        path = self.paths[role][file]
        if name == "token_ids":
            ids, at = _lists(path, "input_ids"), _lists(path, "response_at")
            return lambda row: ids(row)[at(row)]
        return _lists(path, name)


def _lists(path: str, column: str) -> ListOfRow:
    with pq.ParquetFile(path) as file:
        lists = file.read(columns=[column])[column].combine_chunks()
    values = lists.values.to_numpy()
    offsets = lists.offsets.to_pylist()
    return lambda row: values[offsets[row] : offsets[row + 1]]  # a view: a million of them cost little


def _one_ahead(read: Callable[[int], Read], files: Sequence[int]) -> Iterator[Read]:
    """`read` of each file, in order; the next one is read while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(read, file) for file in files[:1])
        for file in files[1:]:
            coming.append(pool.submit(read, file))
            yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def list_array(lists: Sequence[npt.NDArray[Any] | None], kind: pa.DataType) -> pa.Array:
    """Lists of numbers as one array, null where there is none; in a tenth of the time of `pa.array`.

    Example:
        >>> list_array([np.array([1.0, 2.0]), None], pa.float32()).to_pylist()
        [[1.0, 2.0], None]
    """
    known = [own for own in lists if own is not None]
    if not known:
        return pa.nulls(len(lists), pa.list_(kind))
    offsets = np.cumsum([0, *(0 if own is None else len(own) for own in lists)], dtype=np.int32)
    is_null = pa.array([own is None for own in lists])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(known), kind), mask=is_null)


@dataclass(frozen=True)
class VectorReader:
    """Reads the embeddings of candidates, and embeds the files that selectors aim at.

    Attributes:
        paths: Files of the embed stage, in row order.
        rows: Global row number of each candidate.
        settings: The embedding model.
    """

    paths: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    settings: EmbeddingSettings

    def read(self, candidates: npt.NDArray[np.int64], target: str | None) -> Vectors:
        """The vectors of some candidates, and of the examples of a file.

        Raises:
            ValueError: If the file cannot be read, or holds no example that can be embedded.
        """
        from pipelines.embed import EmbeddedRows, embed_file  # loads torch, which other selectors do not need

        embedded = EmbeddedRows(self.paths)
        wanted = self.rows[candidates]
        at = np.searchsorted(embedded.rows, wanted)
        known = np.zeros(len(wanted), np.bool_)
        inside = at < len(embedded)
        known[inside] = embedded.rows[at[inside]] == wanted[inside]
        found = embedded.vectors(at[known])
        rows = np.zeros((len(wanted), found.shape[1]), np.float32)
        rows[known] = found
        aims = np.zeros((0, rows.shape[1]), np.float32)
        if target is not None:
            aims = embed_file(target, self.settings)
        return Vectors(rows, known, aims)
