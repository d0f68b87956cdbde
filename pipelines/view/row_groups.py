"""Rows of Parquet files by their number: only the row groups that hold a wanted row are read.

The footers are read once and kept; no file stays open, and no more is held than what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.storage import fetched

Int64s = npt.NDArray[np.int64]

READERS = 4  # row groups or files that are read at a time


class RowGroups:
    """Files in order, their rows numbered from 0 over all of them.

    Args:
        paths: Parquet files, on this machine or in a store.

    Attributes:
        paths: As given.
        starts: Number of the first row of each row group, and of all rows, int64, shape (groups + 1,).
        file_starts: The same for each file, shape (files + 1,).
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = list(paths)
        with ThreadPoolExecutor(READERS) as pool:
            self._footers = list(pool.map(lambda path: pq.read_metadata(fetched(path)), self.paths))
        self._places = [
            (file, group)
            for file, footer in enumerate(self._footers)
            for group in range(footer.num_row_groups)
        ]
        sizes = [self._footers[file].row_group(group).num_rows for file, group in self._places]
        self.starts: Int64s = np.cumsum([0, *sizes], dtype=np.int64)
        self.file_starts: Int64s = np.cumsum(
            [0, *(footer.num_rows for footer in self._footers)], dtype=np.int64
        )

    def __len__(self) -> int:
        return len(self._places)

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return int(self.starts[-1])

    def schema(self, file: int) -> pa.Schema:
        """The schema of a file."""
        return self._footers[file].schema.to_arrow_schema()

    def group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """A row group, those of the columns that its file has."""
        file, group = self._places[number]
        with self._open(file) as opened:
            return opened.read_row_group(group, columns=self._present(file, columns), use_threads=False)

    def file(self, number: int, columns: Sequence[str]) -> pa.Table:
        """A whole file, those of the columns that it has."""
        with self._open(number) as opened:
            return opened.read(columns=self._present(number, columns), use_threads=False)

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Rows by their numbers, in the order given, with those of the columns that their files have."""
        wanted = np.asarray(rows, np.int64)
        numbers = np.searchsorted(self.starts, wanted, "right") - 1

        def read(number: int) -> list[dict[str, Any]]:
            inside = wanted[numbers == number] - self.starts[number]
            table = self.group(number, columns)
            if not table.num_columns:  # of which Arrow makes no row at all
                return [{} for _ in inside]
            taken: list[dict[str, Any]] = table.take(inside).to_pylist()
            return taken

        found: list[dict[str, Any]] = [{} for _ in rows]
        groups = np.unique(numbers).tolist()
        with ThreadPoolExecutor(READERS) as pool:
            for number, taken in zip(groups, pool.map(read, groups), strict=True):
                for place, row in zip(np.flatnonzero(numbers == number).tolist(), taken, strict=True):
                    found[place] = row
        return found

    def _open(self, file: int) -> pq.ParquetFile:
        return pq.ParquetFile(fetched(self.paths[file]), metadata=self._footers[file])

    def _present(self, file: int, columns: Sequence[str]) -> list[str]:
        names = set(self.schema(file).names)
        return [name for name in columns if name in names]
